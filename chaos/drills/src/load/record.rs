//! What was asked and what was learned.
//!
//! Invariants: a call is entered once, when it has ended for its caller; a call whose outcome is unknown stays open, and
//! is entered when a repetition under the same request id has settled it; times are microseconds of one monotonic clock.

use futures::StreamExt;
use futures::future::BoxFuture;
use okno_checks::history::{self, Entity, Operation, Outcome, Reply, RequestId};
use okno_client::{Call, CallError, CallOptions, Class, Client};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Open calls that are repeated at a time.
const SETTLED_AT_ONCE: usize = 16;
/// Settling goes on for so long after each try; a cluster that serves answers at once.
const SETTLE_TRY: Duration = Duration::from_secs(10);

/// What an answer says: the entity, where only the answer names it, and the reply in the checkers' words.
pub type Answered = (Option<Entity>, Reply);

/// A repetition of an open call: what it answered, the index of the change, attempts made.
type Repeat = Box<dyn Fn(u32) -> BoxFuture<'static, Result<(Answered, u64, u32), CallError>> + Send + Sync>;

/// One acknowledged write.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    pub begun: Instant,
    pub ended: Instant,
}

/// A call whose outcome is open.
struct Open {
    client: u32,
    entity: Option<Entity>,
    request: RequestId,
    call: history::Call,
    begun: u64,
    gave_up: u64,
    reason: String,
    attempts: u32,
    repeat: Repeat,
}

#[derive(Default)]
struct Inner {
    operations: Vec<Operation>,
    acknowledged: Vec<Acknowledged>,
    open: Vec<Open>,
    errors: BTreeMap<String, u64>,
    retries: u64,
    index_highest: u64,
    local_cases: Vec<(u64, String, history::CaseSeen)>,
    settled: u64,
}

pub struct Recorder {
    began: Instant,
    inner: Mutex<Inner>,
}

/// Everything, at the end.
pub struct Record {
    pub operations: Vec<Operation>,
    pub acknowledged: Vec<Acknowledged>,
    pub errors: BTreeMap<String, u64>,
    pub retries: u64,
    pub index_highest: u64,
    /// Node, case, and what the node's own store said of it, at any time during the load.
    pub locals: Vec<(u64, String, history::CaseSeen)>,
    /// Calls that ended unknown and were settled afterwards.
    pub settled: u64,
}

impl Recorder {
    pub fn new() -> Self {
        Self { began: Instant::now(), inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub fn acknowledged(&self) -> u64 {
        self.inner().acknowledged.len() as u64
    }

    pub fn first_write_after(&self, moment: Instant) -> Option<Duration> {
        let inner = self.inner();
        let since = inner.acknowledged.iter().rev().take_while(|write| write.ended > moment);
        since.filter(|write| write.begun > moment).map(|write| write.ended - moment).min()
    }

    /// Makes a call that changes something, and enters it.
    pub async fn write<C: Call + Sync>(
        &self,
        client: u32,
        caller: &Client,
        entity: Option<Entity>,
        call: history::Call,
        mut request: C,
        read: fn(&C::Response) -> Answered,
    ) -> Result<C::Response, CallError> {
        let id = okno_client::new_request_id();
        request.request_meta().expect("a call that changes something has an identity").request_id =
            id.to_string();
        let (began, begun) = (Instant::now(), self.now());
        let answered = caller.call(request.clone()).await;
        let (ended, now) = (Instant::now(), self.now());
        let mut inner = self.inner();
        let operation = |entity, attempts, outcome| Operation {
            client,
            entity,
            request: Some(RequestId(id.as_u128())),
            call: call.clone(),
            begun,
            ended: Some(now),
            first_attempt: 1,
            attempts,
            outcome,
            late: Vec::new(),
        };
        match answered {
            Ok(answer) => {
                let (named, reply) = read(&answer.response);
                let index = C::hints(&answer.response).applied_index;
                inner.acknowledged.push(Acknowledged { begun: began, ended });
                inner.index_highest = inner.index_highest.max(index);
                inner.retries += u64::from(answer.attempts - 1);
                let entity = named.or(entity).expect("an entity is named by the request or the answer");
                inner.operations.push(operation(entity, answer.attempts, Outcome::Done { reply, index }));
                Ok(answer.response)
            }
            Err(error) => {
                let attempts = error.problem().attempts.max(1);
                inner.retries += u64::from(attempts - 1);
                let reason = error.reason().to_owned();
                match error.class() {
                    Class::Refused => {
                        if let Some(entity) = entity {
                            inner.operations.push(operation(entity, attempts, Outcome::Refused(reason)));
                        }
                    }
                    Class::NotApplied => {
                        *inner.errors.entry(reason.clone()).or_default() += 1;
                        if let Some(entity) = entity {
                            inner.operations.push(operation(entity, attempts, Outcome::NotApplied(reason)));
                        }
                    }
                    Class::Unknown => {
                        *inner.errors.entry(reason.clone()).or_default() += 1;
                        let caller = caller.clone();
                        let repeat = Box::new(move |attempt: u32| {
                            let (caller, mut request) = (caller.clone(), request.clone());
                            let future = async move {
                                request.request_meta().expect("as above").attempt = attempt;
                                let options =
                                    CallOptions { deadline: Some(SETTLE_TRY), ..CallOptions::default() };
                                let answer = caller.call_with(request, options).await?;
                                let index = C::hints(&answer.response).applied_index;
                                Ok((read(&answer.response), index, answer.attempts))
                            };
                            Box::pin(future) as BoxFuture<'static, _>
                        });
                        inner.open.push(Open {
                            client,
                            entity,
                            request: RequestId(id.as_u128()),
                            call,
                            begun,
                            gave_up: now,
                            reason,
                            attempts,
                            repeat,
                        });
                    }
                }
                Err(error)
            }
        }
    }

    /// Makes a linearizable read, and enters it when it is answered: one that is not has seen nothing.
    pub async fn read<C: Call>(
        &self,
        client: u32,
        caller: &Client,
        entity: Entity,
        call: history::Call,
        request: C,
        read: fn(&C::Response) -> Option<history::Seen>,
    ) -> Result<C::Response, CallError> {
        let begun = self.now();
        let answered = caller.call(request).await;
        let now = self.now();
        let mut inner = self.inner();
        let (seen, answer) = match answered {
            Ok(answer) => (read(&answer.response), Ok(answer)),
            Err(error) if error.problem().code == tonic::Code::NotFound => {
                (Some(history::Seen::Absent), Err(error))
            }
            Err(error) => {
                *inner.errors.entry(error.reason().to_owned()).or_default() += 1;
                (None, Err(error))
            }
        };
        if let Some(seen) = seen {
            // An entity's own index is not told; that of the store it was read from orders reads as well.
            let index = answer.as_ref().map_or(0, |answer| C::hints(&answer.response).applied_index);
            inner.operations.push(Operation {
                client,
                entity,
                request: None,
                call,
                begun,
                ended: Some(now),
                first_attempt: 1,
                attempts: answer.as_ref().map_or(1, |answer| answer.attempts),
                outcome: Outcome::Done { reply: Reply::Read(seen), index },
                late: Vec::new(),
            });
        }
        answer.map(|answer| answer.response)
    }

    /// What a node's own store said of a case.
    pub fn local(&self, node: u64, case: String, seen: history::CaseSeen) {
        self.inner().local_cases.push((node, case, seen));
    }

    /// By the recorder's own clock.
    pub fn began(&self) -> Instant {
        self.began
    }

    pub fn error(&self, reason: &str) {
        *self.inner().errors.entry(reason.to_owned()).or_default() += 1;
    }

    /// Repeats every open call until it is settled; returns those that are not, in words.
    pub async fn settle(&self, within: Duration) -> Vec<String> {
        let open = std::mem::take(&mut self.inner().open);
        let until = Instant::now() + within;
        futures::stream::iter(open)
            .map(|open| self.settle_one(open, until))
            .buffer_unordered(SETTLED_AT_ONCE)
            .filter_map(async |problem| problem)
            .collect()
            .await
    }

    async fn settle_one(&self, mut open: Open, until: Instant) -> Option<String> {
        let begun = self.now();
        let first_attempt = open.attempts + 1;
        let mut attempts = 0;
        let (entity, outcome, problem) = loop {
            match (open.repeat)(first_attempt + attempts).await {
                Ok(((named, reply), index, more)) => {
                    attempts += more;
                    break (named.or(open.entity.take()), Outcome::Done { reply, index }, None);
                }
                Err(error) => {
                    attempts += error.problem().attempts.max(1);
                    let reason = error.reason().to_owned();
                    if error.class() == Class::Refused {
                        break (open.entity.take(), Outcome::Refused(reason), None);
                    }
                    if Instant::now() > until {
                        let text = format!("{:?} of {:?} stays open: {error}", open.call, open.entity);
                        break (open.entity.take(), Outcome::Unknown(reason), Some(text));
                    }
                }
            }
        };
        let now = self.now();
        let mut inner = self.inner();
        if let Outcome::Done { index, .. } = &outcome {
            inner.index_highest = inner.index_highest.max(*index);
        }
        inner.settled += u64::from(problem.is_none());
        // An opening that never came to be names no entity: there is nothing to hold it against.
        if let Some(entity) = entity {
            let first = Operation {
                client: open.client,
                entity,
                request: Some(open.request),
                call: open.call,
                begun: open.begun,
                ended: Some(open.gave_up),
                first_attempt: 1,
                attempts: open.attempts,
                outcome: Outcome::Unknown(open.reason),
                late: Vec::new(),
            };
            let second =
                Operation { begun, ended: Some(now), first_attempt, attempts, outcome, ..first.clone() };
            inner.operations.extend([first, second]);
        }
        problem
    }

    /// Everything that was recorded, in the order in which it began.
    pub fn take(&self) -> Record {
        let inner = std::mem::take(&mut *self.inner());
        let mut operations = inner.operations;
        operations.sort_by_key(|operation| operation.begun);
        Record {
            operations,
            acknowledged: inner.acknowledged,
            errors: inner.errors,
            retries: inner.retries,
            index_highest: inner.index_highest,
            locals: inner.local_cases,
            settled: inner.settled,
        }
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}
