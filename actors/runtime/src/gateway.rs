//! Where calls enter: to the shard if this node leads, else to the leader, over again while that is safe.
//!
//! A call belongs to its shard from the moment it is handed in, so a client whose future is dropped cancels
//! nothing. Rule 1 at this place: what is known not to have been applied may be tried again with the same attempt
//! number; after an unknown outcome the next attempt has a larger one, and a later "not applied" stays unknown.

use crate::{
    call::{self, Answer, Call, CallResult, Cause, SystemCall, SystemResult},
    codec,
    course::{self, Course, Step, WireIn},
    shell::{Clock, Inboxes},
    sys,
    work::{SystemWork, Work, entity_ref},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use okno_cluster::{
    ForwardError, ForwardHandler, NodeId,
    api::{Proposer, Role},
};
use okno_domain::entity::{EntityRef, Origin, Refusal};
use okno_storage::{commit::EntityKey, level, state::StateReader};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::timeout_at;

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
    /// For the replicated feature level.
    reader: StateReader,
    clock: Clock,
    counters: Counters,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

impl Gateway {
    pub(crate) fn new(
        inboxes: Inboxes,
        proposer: Arc<dyn Proposer>,
        forwarder: Arc<dyn Forwarder>,
        reader: StateReader,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Inner { inboxes, proposer, forwarder, reader, clock, counters: Counters::default() }))
    }

    /// Carries a command to its entity and tells how it ended, by `call.deadline`.
    pub async fn call(&self, call: Call) -> CallResult {
        let kind = call.target.kind;
        let deadline = call.deadline;
        let attempt = call.attempt.max(1);
        let trace = call.trace.clone();
        let work = match self.call_work(call) {
            Ok(work) => Arc::new(work),
            Err(refusal) => return self.count(CallResult::Refused(*refusal)),
        };
        let answer = self.run(&work, attempt, deadline, &trace).await;
        self.count(course::result(kind, answer))
    }

    /// Carries a system operation; see [`Gateway::call`].
    pub async fn system(&self, call: SystemCall) -> SystemResult {
        let entity = sys::key_of(&call.op);
        let origin = Origin { principal: call.principal, workstation: call.workstation };
        let request = match course::request(&origin, call.request_id, call.hash) {
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
        match self.run(&work, call.attempt.max(1), call.deadline, &call.trace).await {
            Answer::Done { reply: Some(record), index } => match course::refusal_in(&record) {
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

    /// Turns of each shard so far; all are woken every second, so one that stays the same is stuck.
    pub fn shard_turns(&self) -> Vec<u64> {
        self.0.inboxes.iter().map(|inbox| inbox.turns.load(Ordering::Relaxed)).collect()
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
        let origin = Origin { principal: call.principal, workstation: call.workstation };
        let expires_ms = self.0.clock.at_ms(call.deadline);
        let named = (call.request_id, call.hash);
        let work = course::call_work(origin, named, &call.target, call.command, expires_ms)?;
        if !call.trace.is_empty() {
            tracing::debug!(entity = %work.entity(), request = %call.request_id, trace = call.trace, "call");
        }
        Ok(work)
    }

    /// One call over as many attempts as are safe within its deadline.
    async fn run(&self, work: &Arc<Work>, first_attempt: u32, deadline: Instant, trace: &str) -> Answer {
        let inner = &*self.0;
        let mut course = Course::new(first_attempt);
        loop {
            if Instant::now() >= deadline {
                return course.expired();
            }
            let answer = match inner.proposer.role().role {
                Role::Leader { ready: true } => self.local(work, course.attempt, deadline).await,
                Role::Follower { leader: Some(leader) } => {
                    self.forward(leader, work, (course.attempt, trace), deadline).await
                }
                // No leader will ever be heard of here: whoever calls asks another node, and does not wait for that.
                _ if !inner.proposer.is_open() => Answer::NotApplied(Cause::Closed),
                Role::Follower { leader: None } | Role::Candidate | Role::Leader { ready: false } => {
                    Answer::NotApplied(Cause::NoLeader)
                }
            };
            match course.took(answer, inner.clock.now_ms()) {
                Step::End(answer) => return answer,
                Step::Again { pause_ms } => {
                    inner.counters.retries.fetch_add(1, Ordering::Relaxed);
                    self.wait_for_change(Duration::from_millis(pause_ms), deadline).await;
                }
            }
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

    async fn forward(
        &self,
        to: NodeId,
        work: &Work,
        (attempt, trace): (u32, &str),
        deadline: Instant,
    ) -> Answer {
        let left = deadline.saturating_duration_since(Instant::now());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let Some(mut payload) = course::encode(work, attempt, left_ms) else { return course::too_large() };
        if !trace.is_empty() && self.0.reader.level() >= level::TRACES {
            payload = codec::with_trace(payload, trace);
        }
        self.0.counters.forwarded.fetch_add(1, Ordering::Relaxed);
        let answer = tokio::select! {
            answer = self.0.forwarder.forward(to, payload, deadline) => answer,
            // A leader that hangs holds its connections open: who leads now may be asked under the same id.
            () = self.another_leads(to) => Err(ForwardError::Unknown),
        };
        match answer {
            Ok(bytes) => codec::decode_wire::<Answer>(&bytes)
                .unwrap_or_else(|error| Answer::Unknown(format!("FORWARD_UNREADABLE: {error}"))),
            Err(ForwardError::NotSent) => Answer::NotApplied(Cause::NoLeader),
            Err(ForwardError::Unknown) => Answer::Unknown("FORWARD_LOST".into()),
        }
    }

    /// Until somebody else than `former` is known to lead.
    async fn another_leads(&self, former: NodeId) {
        let mut roles = self.0.proposer.roles();
        loop {
            let another = match roles.borrow_and_update().role {
                Role::Follower { leader: Some(leader) } => leader != former,
                Role::Leader { ready } => ready,
                Role::Follower { leader: None } | Role::Candidate => false,
            };
            if another {
                return;
            }
            if roles.changed().await.is_err() {
                // The node goes down, and the call with it: what was sent may still be answered.
                std::future::pending::<()>().await;
            }
        }
    }

    /// A call another gateway sent here because it took this node for the leader. Never sent on.
    async fn handle_forward(self, from: NodeId, payload: Bytes) -> Bytes {
        self.0.counters.received.fetch_add(1, Ordering::Relaxed);
        let answer = match WireIn::decode(&payload) {
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
        let deadline = Instant::now() + Duration::from_millis(wire.left_ms());
        let attempt = wire.attempt;
        match wire.into_work(self.0.clock.at_ms(deadline)) {
            Ok(work) => self.local(&Arc::new(work), attempt, deadline).await,
            Err(refusal) => Answer::Refused(*refusal),
        }
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

/// The entity of a key, for callers that have only the key.
pub fn parse_entity(text: &str) -> Option<EntityRef> {
    entity_ref(&EntityKey::parse(text).ok()?)
}
