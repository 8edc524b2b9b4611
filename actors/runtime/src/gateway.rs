//! Where calls enter: to the shard if this node leads, else to the leader, over again while that is safe.
//!
//! A call belongs to its shard from the moment it is handed in, so a client whose future is dropped cancels
//! nothing. Rule 1 at this place: what is known not to have been applied may be tried again with the same attempt
//! number; after an unknown outcome the next attempt has a larger one, and a later "not applied" stays unknown.

use crate::{
    call::{self, Answer, Call, CallResult, Cause, SystemCall, SystemResult},
    codec::{self, What},
    shard::{REQUEST_ID_EXPIRED, check_request_id},
    shell::{Clock, Inboxes},
    sys,
    work::{CallWork, SystemWork, Work, entity_key, entity_ref},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use okno_cluster::{
    ForwardError, ForwardHandler, NodeId,
    api::{Proposer, Role},
};
use okno_domain::{
    entity::{Entity, EntityRef, Origin, Principal, Refusal, RefusalClass},
    registry::{AnyCommand, AnyReply, Kind, Registered},
    with_kind,
};
use okno_storage::commit::{EntityKey, PRINCIPAL_BYTES_MAX, RequestKey, RequestRef, SystemOp};
use serde::{Deserialize, Serialize};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::timeout_at;
use uuid::Uuid;

/// Carries opaque calls to another node over the batched streams between peers.
pub trait Forwarder: Send + Sync {
    /// `deadline` bounds the wait here; what the far side needs to know of it is in the payload.
    fn forward(
        &self,
        to: NodeId,
        payload: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, ForwardError>>;
}

/// How long a call waits for a leader before it is answered `NO_LEADER`: longer than an election at the default
/// timings with a lost round, shorter than people's patience.
pub const LEADER_WAIT: Duration = Duration::from_secs(4);
/// Pause before the same leader is asked again.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Counters for metrics.
#[derive(Debug, Default)]
struct Counters {
    local: AtomicU64,
    forwarded: AtomicU64,
    received: AtomicU64,
    done: AtomicU64,
    refused: AtomicU64,
    not_applied: AtomicU64,
    unknown: AtomicU64,
    retries: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GatewayFigures {
    /// Calls handed to shards of this node.
    pub local: u64,
    /// Calls sent to the leader.
    pub forwarded: u64,
    /// Calls taken for other nodes.
    pub received: u64,
    pub done: u64,
    pub refused: u64,
    pub not_applied: u64,
    pub unknown: u64,
    pub retries: u64,
}

struct Inner {
    inboxes: Inboxes,
    proposer: Arc<dyn Proposer>,
    forwarder: Arc<dyn Forwarder>,
    clock: Clock,
    counters: Counters,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

/// A call between two gateways, as sent.
#[derive(Serialize)]
struct WireOut<'a> {
    principal: &'a Principal,
    workstation: &'a str,
    request_id: Uuid,
    hash: &'a [u8; 32],
    attempt: u32,
    left_ms: u64,
    target: WireTarget<'a>,
}

#[derive(Serialize)]
enum WireTarget<'a> {
    Entity { key: &'a EntityKey, command: &'a AnyCommand },
    System { op: &'a SystemOp },
}

/// A call between two gateways, as received. Field for field what [`WireOut`] is.
#[derive(Deserialize)]
struct WireIn {
    principal: Principal,
    workstation: String,
    request_id: Uuid,
    hash: [u8; 32],
    attempt: u32,
    left_ms: u64,
    target: WireInTarget,
}

#[derive(Deserialize)]
enum WireInTarget {
    Entity { key: EntityKey, command: AnyCommand },
    System { op: SystemOp },
}

impl Gateway {
    pub(crate) fn new(
        inboxes: Inboxes,
        proposer: Arc<dyn Proposer>,
        forwarder: Arc<dyn Forwarder>,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Inner { inboxes, proposer, forwarder, clock, counters: Counters::default() }))
    }

    /// Carries a command to its entity and tells how it ended, by `call.deadline`.
    pub async fn call(&self, call: Call) -> CallResult {
        let kind = call.target.kind;
        let deadline = call.deadline;
        let attempt = call.attempt.max(1);
        let work = match self.call_work(call) {
            Ok(work) => Arc::new(work),
            Err(refusal) => return self.count(CallResult::Refused(*refusal)),
        };
        let answer = self.run(&work, attempt, deadline).await;
        self.count(result(kind, answer))
    }

    /// Carries a system operation; see [`Gateway::call`].
    pub async fn system(&self, call: SystemCall) -> SystemResult {
        let entity = sys::key_of(&call.op);
        let origin = Origin { principal: call.principal, workstation: call.workstation };
        let request = match request(&origin, call.request_id, call.hash) {
            Ok(request) => request,
            Err(refusal) => return SystemResult::Refused(*refusal),
        };
        let expires_ms = self.0.clock.at_ms(call.deadline);
        let work = Arc::new(Work::System(SystemWork {
            entity,
            op: call.op,
            origin,
            request: Some(request),
            expires_ms,
        }));
        match self.run(&work, call.attempt.max(1), call.deadline).await {
            Answer::Done { reply: Some(record), index } => match refusal_in(&record) {
                None => SystemResult::Done { index },
                Some(Ok(refusal)) => SystemResult::Refused(refusal),
                Some(Err(reason)) => SystemResult::Unknown { reason },
            },
            Answer::Done { reply: None, index } => SystemResult::Done { index },
            Answer::Refused(refusal) => SystemResult::Refused(refusal),
            Answer::Quarantined(reason) => SystemResult::Refused(call::quarantined(&reason)),
            Answer::NotApplied(cause) => SystemResult::NotApplied {
                reason: cause.code().into(),
                retry_after_ms: cause.retry_after_ms(),
            },
            Answer::Unknown(reason) => SystemResult::Unknown { reason },
            Answer::Gone => SystemResult::Unknown { reason: "OUTCOME_LOST".into() },
        }
    }

    pub fn figures(&self) -> GatewayFigures {
        let counters = &self.0.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GatewayFigures {
            local: get(&counters.local),
            forwarded: get(&counters.forwarded),
            received: get(&counters.received),
            done: get(&counters.done),
            refused: get(&counters.refused),
            not_applied: get(&counters.not_applied),
            unknown: get(&counters.unknown),
            retries: get(&counters.retries),
        }
    }

    fn call_work(&self, call: Call) -> Result<Work, Box<Refusal>> {
        let entity = entity_key(&call.target).map_err(|_| {
            Box::new(call::with_detail(
                call::refusal(
                    RefusalClass::InvalidArgument,
                    "ENTITY_ID_MALFORMED",
                    "Идентификатор объекта указан неверно",
                    "The id of the entity is malformed",
                ),
                "id",
                call.target.id.chars().take(128).collect::<String>(),
            ))
        })?;
        let origin = Origin { principal: call.principal, workstation: call.workstation };
        let request = request(&origin, call.request_id, call.hash)?;
        let expires_ms = self.0.clock.at_ms(call.deadline);
        if !call.trace.is_empty() {
            tracing::debug!(entity = %entity, request = %call.request_id, trace = call.trace, "call");
        }
        Ok(Work::Call(CallWork { entity, origin, request, command: call.command, expires_ms }))
    }

    /// One call over as many attempts as are safe within its deadline.
    async fn run(&self, work: &Arc<Work>, first_attempt: u32, deadline: Instant) -> Answer {
        let inner = &*self.0;
        let mut attempt = first_attempt;
        let mut unknown: Option<String> = None;
        let mut leaderless_since: Option<Instant> = None;
        let mut pause = PAUSE;
        let answer = loop {
            if Instant::now() >= deadline {
                break Answer::NotApplied(Cause::DeadlinePassed);
            }
            let answer = match inner.proposer.role().role {
                Role::Leader { ready: true } => self.local(work, attempt, deadline).await,
                Role::Follower { leader: Some(leader) } => {
                    self.forward(leader, work, attempt, deadline).await
                }
                Role::Follower { leader: None } | Role::Candidate | Role::Leader { ready: false } => {
                    Answer::NotApplied(Cause::NoLeader)
                }
            };
            match answer {
                Answer::NotApplied(Cause::NoLeader) => {
                    let since = *leaderless_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= LEADER_WAIT {
                        break Answer::NotApplied(Cause::NoLeader);
                    }
                }
                Answer::NotApplied(Cause::EntityRebuilding | Cause::TimeBehind) => leaderless_since = None,
                // No later attempt can learn more.
                Answer::Unknown(reason) if reason == REQUEST_ID_EXPIRED => break Answer::Unknown(reason),
                Answer::Unknown(reason) => {
                    leaderless_since = None;
                    // The next attempt may meet this one on its way (rule 2).
                    attempt = attempt.saturating_add(1);
                    unknown = Some(reason);
                }
                other => break other,
            }
            inner.counters.retries.fetch_add(1, Ordering::Relaxed);
            self.wait_for_change(pause, deadline).await;
            pause = (pause * 2).min(PAUSE_MAX);
        };
        match (unknown, answer) {
            (Some(reason), Answer::NotApplied(_)) => Answer::Unknown(reason),
            (_, answer) => answer,
        }
    }

    /// Until the role changes, at most `pause`.
    async fn wait_for_change(&self, pause: Duration, deadline: Instant) {
        let mut roles = self.0.proposer.roles();
        // Only what changes from now on counts; a change just missed costs one pause.
        roles.mark_unchanged();
        let until = (Instant::now() + pause).min(deadline);
        // Either end will do: the loop looks at the role itself.
        let _changed_or_not = timeout_at(until.into(), roles.changed()).await;
    }

    async fn local(&self, work: &Arc<Work>, attempt: u32, deadline: Instant) -> Answer {
        self.0.counters.local.fetch_add(1, Ordering::Relaxed);
        let Ok(receiver) = self.0.inboxes.call(Arc::clone(work), attempt) else {
            return Answer::NotApplied(Cause::Overloaded);
        };
        match timeout_at(deadline.into(), receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Answer::Unknown("NODE_CLOSED".into()),
            Err(_) => Answer::Unknown("DEADLINE".into()),
        }
    }

    async fn forward(&self, to: NodeId, work: &Work, attempt: u32, deadline: Instant) -> Answer {
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(payload) = encode(work, attempt, left) else {
            return Answer::Refused(call::with_detail(
                call::refusal(
                    RefusalClass::InvalidArgument,
                    "COMMIT_TOO_LARGE",
                    "Изменение слишком велико для одной записи",
                    "The change is larger than one commit may be",
                ),
                "limit_bytes",
                okno_storage::commit::COMMIT_BYTES_MAX.to_string(),
            ));
        };
        self.0.counters.forwarded.fetch_add(1, Ordering::Relaxed);
        match self.0.forwarder.forward(to, payload, deadline).await {
            Ok(bytes) => codec::decode_wire::<Answer>(&bytes)
                .unwrap_or_else(|error| Answer::Unknown(format!("FORWARD_UNREADABLE: {error}"))),
            Err(ForwardError::NotSent) => Answer::NotApplied(Cause::NoLeader),
            Err(ForwardError::Unknown) => Answer::Unknown("FORWARD_LOST".into()),
        }
    }

    /// A call another gateway sent here because it took this node for the leader. Never sent on.
    async fn handle_forward(self, from: NodeId, payload: Bytes) -> Bytes {
        self.0.counters.received.fetch_add(1, Ordering::Relaxed);
        let answer = match codec::decode_wire::<WireIn>(&payload) {
            Ok(wire) => self.received(wire).await,
            Err(error) => {
                tracing::warn!(from, %error, "a forwarded call cannot be read");
                // A newer node speaks a newer form: nothing happened here.
                Answer::NotApplied(Cause::Closed)
            }
        };
        // An answer is far smaller than the bound; a peer that cannot read this says unknown.
        codec::encode_wire(&answer).unwrap_or_default()
    }

    async fn received(&self, wire: WireIn) -> Answer {
        if self.0.proposer.role().leading_term().is_none() {
            return Answer::NotApplied(Cause::NoLeader);
        }
        let deadline = Instant::now() + Duration::from_millis(wire.left_ms.min(600_000));
        let origin = Origin { principal: wire.principal, workstation: wire.workstation };
        let request = match request(&origin, wire.request_id, wire.hash) {
            Ok(request) => request,
            Err(refusal) => return Answer::Refused(*refusal),
        };
        let expires_ms = self.0.clock.at_ms(deadline);
        let work = match wire.target {
            WireInTarget::Entity { key, command } => {
                Work::Call(CallWork { entity: key, origin, request, command, expires_ms })
            }
            WireInTarget::System { op } => {
                let entity = sys::key_of(&op);
                Work::System(SystemWork { entity, op, origin, request: Some(request), expires_ms })
            }
        };
        self.local(&Arc::new(work), wire.attempt, deadline).await
    }

    fn count(&self, result: CallResult) -> CallResult {
        let counters = &self.0.counters;
        let counter = match &result {
            CallResult::Done { .. } => &counters.done,
            CallResult::Refused(_) => &counters.refused,
            CallResult::NotApplied { .. } => &counters.not_applied,
            CallResult::Unknown { .. } => &counters.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }
}

impl ForwardHandler for Gateway {
    fn handle(&self, from: NodeId, payload: Bytes) -> BoxFuture<'static, Bytes> {
        Box::pin(self.clone().handle_forward(from, payload))
    }
}

fn encode(work: &Work, attempt: u32, left: Duration) -> Option<Bytes> {
    let (origin, target) = match work {
        Work::Call(call) => (&call.origin, WireTarget::Entity { key: &call.entity, command: &call.command }),
        Work::System(system) => (&system.origin, WireTarget::System { op: &system.op }),
        Work::Message(_) | Work::Timer(_) => return None,
    };
    let request = work.request()?;
    codec::encode_wire(&WireOut {
        principal: &origin.principal,
        workstation: &origin.workstation,
        request_id: request.key.id,
        hash: &request.hash,
        attempt,
        left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        target,
    })
}

/// The request's name; checks what needs no state.
fn request(origin: &Origin, id: Uuid, hash: [u8; 32]) -> Result<RequestRef, Box<Refusal>> {
    check_request_id(id).map_err(Box::new)?;
    let principal = crate::cell::principal_text(origin);
    if principal.len() > PRINCIPAL_BYTES_MAX || origin.workstation.len() > PRINCIPAL_BYTES_MAX {
        return Err(Box::new(call::refusal(
            RefusalClass::InvalidArgument,
            "CALLER_NAME_TOO_LONG",
            "Имя вызывающего или рабочего места слишком длинное",
            "The name of the caller or of the workstation is too long",
        )));
    }
    Ok(RequestRef { key: RequestKey { id, principal }, hash })
}

/// `Some` if the remembered reply is a refusal.
fn refusal_in(record: &okno_storage::commit::Record) -> Option<Result<Refusal, String>> {
    (record.tag.kind == What::Refusal.number())
        .then(|| codec::decode(What::Refusal, record).map_err(|error| format!("REPLY_UNREADABLE: {error}")))
}

/// What the caller is told.
fn result(kind: Kind, answer: Answer) -> CallResult {
    match answer {
        Answer::Done { reply: Some(record), index } => match refusal_in(&record) {
            Some(Ok(refusal)) => CallResult::Refused(refusal),
            Some(Err(reason)) => CallResult::Unknown { reason },
            None => match reply(kind, &record) {
                Ok(reply) => CallResult::Done { reply, index },
                Err(error) => CallResult::Unknown { reason: format!("REPLY_UNREADABLE: {error}") },
            },
        },
        Answer::Refused(refusal) => CallResult::Refused(refusal),
        Answer::Quarantined(reason) => CallResult::Refused(call::quarantined(&reason)),
        Answer::NotApplied(cause) => {
            CallResult::NotApplied { reason: cause.code().into(), retry_after_ms: cause.retry_after_ms() }
        }
        Answer::Unknown(reason) => CallResult::Unknown { reason },
        // A call has a reply and consumes nothing.
        Answer::Done { reply: None, .. } | Answer::Gone => {
            CallResult::Unknown { reason: "OUTCOME_LOST".into() }
        }
    }
}

fn reply(kind: Kind, record: &okno_storage::commit::Record) -> Result<AnyReply, codec::CodecError> {
    with_kind!(kind, E => {
        codec::decode::<<E as Entity>::Reply>(What::Reply(kind), record).map(<E as Registered>::reply_into)
    })
}

/// The entity of a key, for callers that have only the key.
pub fn parse_entity(text: &str) -> Option<EntityRef> {
    entity_ref(&EntityKey::parse(text).ok()?)
}
