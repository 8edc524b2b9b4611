//! The virtual gateway: calls of clients, forwarded calls, reads. Mirrors `actors/runtime/src/gateway.rs` around the same
//! [`Course`], and `ClusterHandle::read_index`.

use super::{Live, Map, Phase, keepers::Kept, shards::Handle};
use crate::{
    core::Core,
    port::{self, CommandRequest, Query, ReadFailed},
    queue::What,
};
use bytes::Bytes;
use okno_cluster::{
    api::{ReadError, Role},
    core::event::{Event, ReadId, ReadRequest},
};
use okno_domain::{
    entity::{EntityRef, Origin},
    registry::{AnyCommand, Kind},
};
use okno_runtime::{
    call::{Answer, CallResult, Cause},
    codec,
    course::{self, Course, Step, WireIn},
    shard::Input,
    work::Work,
};
use okno_storage::commit::EntityKey;
use std::sync::Arc;
use uuid::Uuid;

/// Who asked a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    Client {
        client: usize,
        attempt: port::AttemptId,
    },
    /// The world itself, which looks at the counts only.
    World,
    /// A keeper of this node.
    Keeper(Kept),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Shard,
    Forwarded { to: usize, id: u64 },
    Pausing,
}

struct Call {
    work: Arc<Work>,
    kind: Kind,
    course: Course,
    deadline_ms: u64,
    from: From,
    /// Grows with every attempt and pause: what belongs to an earlier one is late.
    round: u32,
    at: At,
}

struct Read {
    client: usize,
    attempt: port::AttemptId,
    query: Box<dyn Query>,
}

#[derive(Default)]
pub(super) struct Gateway {
    calls: Map<u64, Call>,
    reads: Map<u64, Read>,
    /// Forward → call.
    forwards: Map<u64, u64>,
    /// Calls taken for other nodes: own number → (node, its number).
    received: Map<u64, (usize, u64)>,
    /// The entity called last here.
    last: Option<EntityKey>,
    /// What the world asked for and how it ended.
    pub world_done: Vec<CallResult>,
}

impl Gateway {
    pub fn attempts(&self) -> Vec<(usize, port::AttemptId)> {
        let calls = self.calls.values().filter_map(|call| match call.from {
            From::Client { client, attempt } => Some((client, attempt)),
            From::World | From::Keeper(_) => None,
        });
        calls.chain(self.reads.values().map(|read| (read.client, read.attempt))).collect()
    }
}

impl Live {
    /// A client's command.
    pub fn command(
        &mut self,
        w: &mut Core,
        client: usize,
        attempt: port::AttemptId,
        request: CommandRequest,
    ) {
        let from = From::Client { client, attempt };
        if self.phase != Phase::Serving {
            let reason = if self.phase == Phase::Quarantined { "NODE_QUARANTINED" } else { "NODE_STARTING" };
            let result = CallResult::NotApplied { reason: reason.into(), retry_after_ms: 500 };
            return self.told(w, from, result);
        }
        let origin = Origin { principal: request.principal, workstation: request.workstation };
        let deadline_ms = self.now_ms(w) + request.timeout_ms;
        let named = (request.request_id, request.hash);
        self.call(
            w,
            from,
            origin,
            named,
            &request.target,
            request.command,
            request.attempt_number,
            deadline_ms,
        );
    }

    /// A call of the world itself.
    pub fn ask(&mut self, w: &mut Core, origin: Origin, id: Uuid, target: &EntityRef, command: AnyCommand) {
        let deadline_ms = self.now_ms(w) + 10_000;
        self.call(w, From::World, origin, (id, [7; 32]), target, command, 1, deadline_ms);
    }

    pub fn world_done(&mut self) -> Vec<CallResult> {
        std::mem::take(&mut self.gateway.world_done)
    }

    #[allow(clippy::too_many_arguments, reason = "what a call is")]
    pub(super) fn call(
        &mut self,
        w: &mut Core,
        from: From,
        origin: Origin,
        named: (Uuid, [u8; 32]),
        target: &EntityRef,
        command: AnyCommand,
        attempt: u32,
        deadline_ms: u64,
    ) {
        let kind = target.kind;
        let work = match course::call_work(origin, named, target, command, deadline_ms) {
            Ok(work) => Arc::new(work),
            Err(refusal) => return self.told(w, from, CallResult::Refused(*refusal)),
        };
        let id = w.next_id();
        let course = Course::new(attempt);
        self.gateway
            .calls
            .insert(id, Call { work, kind, course, deadline_ms, from, round: 0, at: At::Pausing });
        self.at_mono(w, deadline_ms, What::Deadline(id));
        self.attempt(w, id);
    }

    /// The entity most calls of this node's clients wait for; if none waits, the last one they called.
    pub fn busiest(&self) -> Option<EntityKey> {
        let mut waiting: Map<&EntityKey, usize> = Map::new();
        for call in self.gateway.calls.values().filter(|call| call.at == At::Shard) {
            *waiting.entry(call.work.entity()).or_default() += 1;
        }
        let most = waiting.into_iter().max_by_key(|(_, count)| *count).map(|(entity, _)| entity.clone());
        most.or_else(|| self.gateway.last.clone())
    }

    /// One attempt of a call.
    fn attempt(&mut self, w: &mut Core, id: u64) {
        let now = self.now_ms(w);
        let Some(call) = self.gateway.calls.get_mut(&id) else { return };
        if now >= call.deadline_ms {
            let answer = call.course.expired();
            return self.ended(w, id, answer);
        }
        call.round += 1;
        let (round, attempt, work, left) =
            (call.round, call.course.attempt, Arc::clone(&call.work), call.deadline_ms - now);
        match self.role.role {
            Role::Leader { ready: true } => {
                call.at = At::Shard;
                self.gateway.last = Some(work.entity().clone());
                let shard = self.shard_for(work.entity());
                if self.shards[shard].callers >= w.tune.shard.calls_max {
                    return self.call_answered(w, id, round, Answer::NotApplied(Cause::Overloaded));
                }
                self.shards[shard].callers += 1;
                let handle = Handle::Call { call: id, round };
                self.input(w, shard, Input::Call { work, attempt, handle });
            }
            Role::Follower { leader: Some(leader) } => {
                let Some(payload) = course::encode(&work, attempt, left) else {
                    return self.call_answered(w, id, round, course::too_large());
                };
                let to = usize::try_from(leader - 1).unwrap_or(0);
                let forward = w.next_id();
                if w.send_forward(self.ix, to, forward, payload) {
                    if let Some(call) = self.gateway.calls.get_mut(&id) {
                        call.at = At::Forwarded { to, id: forward };
                    }
                    self.gateway.forwards.insert(forward, id);
                } else {
                    self.call_answered(w, id, round, Answer::NotApplied(Cause::NoLeader));
                }
            }
            Role::Follower { leader: None } | Role::Candidate | Role::Leader { ready: false } => {
                self.call_answered(w, id, round, Answer::NotApplied(Cause::NoLeader));
            }
        }
    }

    /// An attempt ended.
    pub(super) fn call_answered(&mut self, w: &mut Core, id: u64, round: u32, answer: Answer) {
        let now = self.now_ms(w);
        let Some(call) = self.gateway.calls.get_mut(&id).filter(|call| call.round == round) else { return };
        match call.course.took(answer, now) {
            Step::End(answer) => self.ended(w, id, answer),
            Step::Again { pause_ms } => {
                call.at = At::Pausing;
                call.round += 1;
                let round = call.round;
                let until = (now + pause_ms).min(call.deadline_ms);
                self.at_mono(w, until, What::Call { call: id, round });
            }
        }
    }

    /// A pause is over.
    pub(super) fn call_again(&mut self, w: &mut Core, id: u64, round: u32) -> bool {
        let waits =
            self.gateway.calls.get(&id).is_some_and(|call| call.round == round && call.at == At::Pausing);
        if waits {
            self.attempt(w, id);
        }
        waits
    }

    /// The role has changed: who pauses for that looks again, and who waits for a former leader does not any longer, though
    /// what was sent there is still on its way (`Gateway::another_leads`).
    pub(super) fn calls_look_again(&mut self, w: &mut Core) {
        let leads = match self.role.role {
            Role::Follower { leader: Some(leader) } => usize::try_from(leader - 1).ok(),
            Role::Leader { ready: true } => Some(self.ix),
            Role::Follower { leader: None } | Role::Candidate | Role::Leader { ready: false } => None,
        };
        if let Some(leads) = leads {
            self.forwards_end(w, |to| to != leads);
        }
        let pausing: Vec<(u64, u32)> = self
            .gateway
            .calls
            .iter()
            .filter(|(_, call)| call.at == At::Pausing)
            .map(|(id, call)| (*id, call.round))
            .collect();
        for (call, round) in pausing {
            let after = w.wake_us(self.ix);
            self.at(w, after, What::Call { call, round });
        }
    }

    /// The caller waits no longer.
    pub(super) fn call_expired(&mut self, w: &mut Core, id: u64) -> bool {
        let Some(call) = self.gateway.calls.get_mut(&id) else { return false };
        let answer = match call.at {
            At::Pausing => call.course.expired(),
            At::Shard => Answer::Unknown("DEADLINE".into()),
            At::Forwarded { id: forward, .. } => {
                self.gateway.forwards.remove(&forward);
                Answer::Unknown("FORWARD_LOST".into())
            }
        };
        let answer = match answer {
            // As in production: one more look at the deadline, which has passed.
            Answer::Unknown(reason) => match call.course.took(Answer::Unknown(reason), u64::MAX) {
                Step::End(answer) => answer,
                Step::Again { .. } => call.course.expired(),
            },
            other => other,
        };
        self.ended(w, id, answer);
        true
    }

    fn ended(&mut self, w: &mut Core, id: u64, answer: Answer) {
        let Some(call) = self.gateway.calls.remove(&id) else { return };
        let result = course::result(call.kind, answer);
        self.told(w, call.from, result);
    }

    fn told(&mut self, w: &mut Core, from: From, result: CallResult) {
        w.outcome(&result);
        if let CallResult::Done { index, .. } = &result {
            w.watch.acknowledged(*index);
        }
        match from {
            From::Client { client, attempt } => {
                self.stream_answered(client, &result);
                let event = port::Event::Answer { attempt, result, leader_hint: self.leader() };
                w.send_to_client(self.ix, client, attempt, event);
            }
            From::World => self.gateway.world_done.push(result),
            From::Keeper(kept) => self.keeper_told(kept, &result),
        }
    }

    // Forwarded calls.

    /// A call another gateway sent here because it took this node for the leader.
    pub fn forwarded(&mut self, w: &mut Core, from: usize, id: u64, payload: &Bytes) {
        if !self.is_open() {
            return w.send_forwarded(self.ix, from, id, None);
        }
        let own = w.next_id();
        self.gateway.received.insert(own, (from, id));
        let Ok(wire) = WireIn::decode(payload) else {
            return self.received_answered(w, own, &Answer::NotApplied(Cause::Closed));
        };
        if !self.ready() {
            return self.received_answered(w, own, &Answer::NotApplied(Cause::NoLeader));
        }
        let deadline_ms = self.now_ms(w) + wire.left_ms();
        let attempt = wire.attempt;
        let work = match wire.into_work(deadline_ms) {
            Ok(work) => Arc::new(work),
            Err(refusal) => return self.received_answered(w, own, &Answer::Refused(*refusal)),
        };
        let shard = self.shard_for(work.entity());
        if self.shards[shard].callers >= w.tune.shard.calls_max {
            return self.received_answered(w, own, &Answer::NotApplied(Cause::Overloaded));
        }
        self.shards[shard].callers += 1;
        self.input(w, shard, Input::Call { work, attempt, handle: Handle::Received(own) });
        self.at_mono(w, deadline_ms, What::Received(own));
    }

    pub(super) fn received_answered(&mut self, w: &mut Core, own: u64, answer: &Answer) {
        if let Some((from, id)) = self.gateway.received.remove(&own) {
            w.send_forwarded(self.ix, from, id, Some(codec::encode_wire(answer).unwrap_or_default()));
        }
    }

    pub(super) fn received_expired(&mut self, w: &mut Core, own: u64) -> bool {
        let waits = self.gateway.received.contains_key(&own);
        self.received_answered(w, own, &Answer::Unknown("DEADLINE".into()));
        waits
    }

    /// The answer to a forward came back.
    pub fn forward_answered(&mut self, w: &mut Core, id: u64, result: Option<&Bytes>) {
        let answer = match result {
            Some(bytes) => codec::decode_wire::<Answer>(bytes)
                .unwrap_or_else(|error| Answer::Unknown(format!("FORWARD_UNREADABLE: {error}"))),
            None => Answer::NotApplied(Cause::NoLeader),
        };
        self.forward_ended(w, id, answer);
    }

    fn forward_ended(&mut self, w: &mut Core, id: u64, answer: Answer) {
        let Some(call) = self.gateway.forwards.remove(&id) else { return };
        if let Some(round) = self.gateway.calls.get(&call).map(|call| call.round) {
            self.call_answered(w, call, round, answer);
        }
    }

    /// The connection to this node is gone: what was sent on it is unknown.
    pub(super) fn forwards_lost(&mut self, w: &mut Core, node: usize) {
        self.forwards_end(w, |to| to == node);
    }

    fn forwards_end(&mut self, w: &mut Core, ended: impl Fn(usize) -> bool) {
        let lost: Vec<u64> = self
            .gateway
            .calls
            .values()
            .filter_map(|call| match call.at {
                At::Forwarded { to, id } if ended(to) => Some(id),
                _ => None,
            })
            .collect();
        for id in lost {
            self.forward_ended(w, id, Answer::Unknown("FORWARD_LOST".into()));
        }
    }

    // Reads.

    /// A client's linearizable read.
    pub fn read(&mut self, w: &mut Core, client: usize, attempt: port::AttemptId, query: Box<dyn Query>) {
        if self.phase != Phase::Serving || self.reads_open >= w.tune.reads_max {
            return self.seen(w, client, attempt, Err(ReadFailed));
        }
        self.reads_open += 1;
        let id = w.next_id();
        self.gateway.reads.insert(id, Read { client, attempt, query });
        let deadline_ms = self.now_ms(w) + super::READ_TIMEOUT_MS;
        self.push(w, Event::Read(ReadRequest { id: ReadId::Call(id), deadline_ms }));
    }

    pub(super) fn read_answered(&mut self, w: &mut Core, id: u64, result: Result<u64, ReadError>) {
        let Some(read) = self.gateway.reads.remove(&id) else { return };
        let seen = match result {
            Err(_) => Err(ReadFailed),
            Ok(_) => match read.query.run(&self.reader.view()) {
                Ok(seen) => Ok(seen),
                Err(error) => {
                    if !self.damaged {
                        w.watch_unreadable(self.ix, &error.to_string());
                    }
                    Err(ReadFailed)
                }
            },
        };
        self.seen(w, read.client, read.attempt, seen);
    }

    fn seen(
        &mut self,
        w: &mut Core,
        client: usize,
        attempt: port::AttemptId,
        result: Result<port::Observed, ReadFailed>,
    ) {
        w.read_outcome(result.is_ok());
        w.send_to_client(self.ix, client, attempt, port::Event::Seen { attempt, result });
    }
}
