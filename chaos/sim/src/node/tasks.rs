//! The virtual courier and timer scanner. Mirrors `actors/runtime/src/shell/courier.rs` and `timers.rs`.

use super::{Live, shards::Handle};
use crate::{core::Core, queue::What};
use okno_cluster::core::clock;
use okno_domain::entity::Origin;
use okno_runtime::{
    courier::{self, OutboxReads},
    shard::Input,
    sys,
    timers::{self, TimerReads},
    work::{SystemWork, Work},
};
use okno_storage::{
    commit::{Message, MessageKey, SystemOp, TimerKey},
    error::StorageError,
    state::StateReader,
};
use std::sync::Arc;

/// How long the cluster's own operations may wait for their turn.
const OWN_MS: u64 = 30_000;

struct Outbox<'a>(&'a StateReader);

impl OutboxReads for Outbox<'_> {
    fn outbox(&self, after: Option<&MessageKey>, limit: usize) -> Result<Vec<Message>, StorageError> {
        self.0.view().outbox(after, limit)
    }
}

struct Timers<'a> {
    reader: &'a StateReader,
    stamp_ms: Option<i64>,
}

impl TimerReads for Timers<'_> {
    fn timers(
        &self,
        after: Option<&TimerKey>,
        until_ms: i64,
        limit: usize,
    ) -> Result<Vec<TimerKey>, StorageError> {
        self.reader.view().timers(after, until_ms, limit)
    }

    fn replicated_ms(&self) -> i64 {
        self.reader.applied().1
    }

    fn stamp_ms(&self) -> Option<i64> {
        self.stamp_ms
    }

    fn marked_ms(&self) -> Result<Option<i64>, StorageError> {
        sys::marked_ms(&self.reader.view())
    }
}

impl Live {
    /// Courier and scanner hear of leadership through a channel of their own, so later than others may.
    pub(super) fn tell_role(&mut self, w: &mut Core) {
        let term = self.role.leading_term();
        if self.told_term != Some(term) {
            self.told_term = Some(term);
            self.tell_courier(w, courier::Event::Role(term));
            self.tell_scanner(w, timers::Event::Role(term));
        }
    }

    pub(super) fn tell_courier(&mut self, w: &mut Core, event: courier::Event) {
        self.courier.inbox.push_back(event);
        let after = w.wake_us(self.ix);
        if self.courier.wake.want(w.now + after) {
            self.at(w, after, What::Courier);
        }
    }

    pub(super) fn tell_scanner(&mut self, w: &mut Core, event: timers::Event) {
        self.scanner.inbox.push_back(event);
        let after = w.wake_us(self.ix);
        if self.scanner.wake.want(w.now + after) {
            self.at(w, after, What::Scanner);
        }
    }

    pub(super) fn courier_turn(&mut self, w: &mut Core) {
        let now = self.now_ms(w);
        let reads = Outbox(&self.reader);
        let mut fx = Vec::new();
        let mut failed = None;
        if self.courier.inbox.is_empty() {
            self.courier.inbox.push_back(courier::Event::Tick);
        }
        while let Some(event) = self.courier.inbox.pop_front() {
            if let Err(error) = self.courier.core.on(event, now, &reads, &mut fx) {
                failed = Some(error);
                break;
            }
        }
        if let Some(error) = failed {
            return self.exit(w, crate::core::End::Killed, format!("courier: {error}"), false);
        }
        for effect in fx {
            match effect {
                courier::Effect::Deliver(message) => {
                    let shard = self.shard_for(&message.key.target);
                    self.input(w, shard, Input::Message(message));
                }
                courier::Effect::Bury { key, reason } => {
                    let op = SystemOp::BuryMessage { message: key.clone(), reason };
                    self.own(w, op, Handle::Bury(key));
                }
            }
        }
        if let Some(at) = self.courier.core.next_wake(now) {
            let after = self.after_us(w, at);
            if self.courier.wake.want(w.now + after) {
                self.at(w, after, What::Courier);
            }
        }
    }

    pub(super) fn scanner_turn(&mut self, w: &mut Core) {
        let now = self.now_ms(w);
        let wall_ms = self.wall_ms(w);
        let stamp_ms = clock::stamp(&self.verdict(w), wall_ms, self.reader.applied().1).ok();
        let reads = Timers { reader: &self.reader, stamp_ms };
        let mut fx = Vec::new();
        let mut failed = None;
        if self.scanner.inbox.is_empty() {
            self.scanner.inbox.push_back(timers::Event::Tick);
        }
        while let Some(event) = self.scanner.inbox.pop_front() {
            if let Err(error) = self.scanner.core.on(event, now, &reads, &mut fx) {
                failed = Some(error);
                break;
            }
        }
        if let Some(error) = failed {
            return self.exit(w, crate::core::End::Killed, format!("timer scanner: {error}"), false);
        }
        for effect in fx {
            match effect {
                timers::Effect::Fire(key) => {
                    let shard = self.shard_for(&key.entity);
                    self.input(w, shard, Input::Timer(key));
                }
                timers::Effect::Time => self.own(w, SystemOp::Time, Handle::Time),
                timers::Effect::Purge { before_ms } => {
                    self.own(w, SystemOp::PurgeRequests { before_ms }, Handle::Purge);
                }
                timers::Effect::Marker => self.own(w, SystemOp::Marker, Handle::Marker),
            }
        }
        if let Some(at) = self.scanner.core.next_wake(now) {
            let after = self.after_us(w, at);
            if self.scanner.wake.want(w.now + after) {
                self.at(w, after, What::Scanner);
            }
        }
    }

    /// Asks for an operation of the cluster itself, as the node.
    pub fn own(&mut self, w: &mut Core, op: SystemOp, handle: Handle) {
        let work = SystemWork {
            entity: sys::key_of(&op),
            op,
            origin: Origin { principal: self.env.node.clone(), workstation: String::new() },
            request: None,
            expires_ms: self.now_ms(w) + OWN_MS,
        };
        let shard = self.shard_for(&work.entity);
        self.input(w, shard, Input::Call { work: Arc::new(Work::System(work)), attempt: 1, handle });
    }
}
