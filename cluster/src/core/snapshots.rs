//! Copies for those who lack what was cut from the log (design §4): when one is taken, who gets it, and what becomes of
//! one that was received. Files are the shell's business; a copy is known here by its index, or by a number.
//!
//! Invariants
//! - Raft is given a copy only if the receiver stands in its configuration, so that it is not before the index that
//!   added the receiver, and only if the log behind it is still there.
//! - One copy at a time is sent. While it is kept, the log is not cut beyond it ([`Driver::pinned_from`]).
//! - Raft hears of a transfer's end always, and of success only after the receiver has installed the copy (trap 7).
//! - A received copy ends as installed, by the `Persist` of the Ready that carries it, or in `Effects::discard`.

use super::{driver::Driver, event::Effects};
use crate::{
    api::NodeId,
    settings::{COPY_FAILURES_MAX, COPY_KEPT_MS},
};
use parking_lot::Mutex;
use raft::{
    Error, SnapshotStatus, StorageError,
    eraftpb::{ConfState, Message, MessageType, Snapshot, SnapshotMetadata},
};
use std::{collections::BTreeSet, sync::Arc};

/// What raft must know of a copy.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyFacts {
    pub index: u64,
    pub term: u64,
    pub conf_state: ConfState,
}

#[derive(Debug, Default)]
struct Inner {
    ready: Option<CopyFacts>,
    /// Who was refused one since the last look.
    wanted: BTreeSet<NodeId>,
    sending: Option<NodeId>,
}

/// What raft's view of the log answers when a follower needs a snapshot; shared by the view and the driver, which are
/// called by one thread.
#[derive(Debug, Clone, Default)]
pub struct Copies(Arc<Mutex<Inner>>);

impl Copies {
    pub(super) fn snapshot(&self, first_index: u64, at_least: u64, to: NodeId) -> raft::Result<Snapshot> {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        let fits = |copy: &&CopyFacts| {
            let known = &copy.conf_state;
            copy.index >= at_least
                && copy.index + 1 >= first_index
                && (known.voters.contains(&to) || known.learners.contains(&to))
        };
        if let Some(copy) = inner.ready.as_ref().filter(fits) {
            if inner.sending.is_none() {
                inner.sending = Some(to);
                let mut metadata = SnapshotMetadata::default();
                (metadata.index, metadata.term) = (copy.index, copy.term);
                metadata.conf_state = Some(copy.conf_state.clone());
                return Ok(Snapshot { metadata: Some(metadata), ..Snapshot::default() });
            }
        } else {
            inner.wanted.insert(to);
        }
        // Raft asks again with the next answer to a heartbeat.
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

/// The driver's part.
#[derive(Debug, Default)]
pub struct Copying {
    pub(super) copies: Copies,
    /// A copy is being taken.
    taking: bool,
    /// The last one could not be taken, or was last used: not again, or no longer, before then.
    since_ms: u64,
    /// Transfers of it in a row that did not come to be installed.
    failures: u32,
    /// The received copy that raft took and the next Ready carries.
    pub(super) incoming: Option<u64>,
    /// Everything up to here came by a copy.
    installed: u64,
}

impl Copying {
    pub(super) fn new(copies: Copies) -> Self {
        Self { copies, ..Self::default() }
    }
}

impl Driver {
    /// At the end of a turn: what raft wants to be sent, and what it asked for in vain.
    pub(super) fn look_at_copies(&mut self, fx: &mut Effects) {
        if fx.messages.iter().any(|m| m.get_msg_type() == MessageType::MsgSnapshot) {
            let (copies, others) = std::mem::take(&mut fx.messages)
                .into_iter()
                .partition(|m| m.get_msg_type() == MessageType::MsgSnapshot);
            (fx.send_copies, fx.messages) = (copies, others);
        }
        let mut inner = self.copying.copies.0.lock();
        let wanted = !std::mem::take(&mut inner.wanted).is_empty();
        // One that does not serve who asks now gives its place to the next, once nobody is being sent it.
        let free = !self.copying.taking && inner.sending.is_none();
        if wanted && free && self.leading.is_some() && self.now_ms >= self.copying.since_ms {
            inner.ready = None;
            self.copying.taking = true;
            fx.take_copy = true;
        } else if free && inner.ready.is_some() && self.now_ms >= self.copying.since_ms + COPY_KEPT_MS {
            inner.ready = None;
            fx.drop_copy = true;
        }
    }

    /// A copy could be taken, or not.
    pub(super) fn copied(&mut self, copy: Option<CopyFacts>) {
        self.copying.taking = false;
        self.copying.failures = 0;
        // One that failed is not tried again in the same breath.
        self.copying.since_ms = self.now_ms + if copy.is_none() { COPY_KEPT_MS } else { 0 };
        self.copying.copies.0.lock().ready = copy;
    }

    /// A transfer has ended.
    pub(super) fn sent(&mut self, to: NodeId, installed: bool, fx: &mut Effects) {
        {
            let mut inner = self.copying.copies.0.lock();
            if inner.sending == Some(to) {
                inner.sending = None;
            }
        }
        self.copying.since_ms = self.now_ms;
        self.copying.failures = if installed { 0 } else { self.copying.failures + 1 };
        if self.copying.failures >= COPY_FAILURES_MAX {
            // It may be the copy that is bad, and nobody would ever get past it: the next one who asks gets another.
            self.copying.failures = 0;
            fx.drop_copy |= self.copying.copies.0.lock().ready.take().is_some();
        }
        let status = if installed { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(to, status);
        self.after_raft(fx);
    }

    /// A whole copy is here. Raft says whether it needs it.
    pub(super) fn received(&mut self, from: NodeId, message: Message, copy: u64, fx: &mut Effects) {
        if !self.is_honest(from, &message) || self.copying.incoming.is_some() {
            fx.refused += 1;
            fx.discard.push(copy);
            return;
        }
        // An error is a dropped message: nothing to do about it.
        let _ = self.node.step(message);
        if self.node.raft.raft_log.unstable_snapshot().is_some() {
            self.copying.incoming = Some(copy);
        } else {
            fx.discard.push(copy);
        }
        self.after_raft(fx);
    }

    /// A copy was offered that is not beyond what is applied here: raft answers how far this node is, and its sender goes
    /// on behind that. Without the answer it would offer the same copy for ever to a member whose word that it had
    /// installed it was lost, as in a crash right after.
    pub(super) fn not_needed(&mut self, from: NodeId, message: Message, fx: &mut Effects) {
        let index = message.get_snapshot().get_metadata().index;
        if !self.is_honest(from, &message) || index > self.applied() {
            fx.refused += 1;
            return;
        }
        let _ = self.node.step(message);
        debug_assert!(
            self.copying.incoming.is_some() || self.node.raft.raft_log.unstable_snapshot().is_none(),
            "raft takes no copy of what it has committed"
        );
        self.after_raft(fx);
    }

    fn is_honest(&self, from: NodeId, message: &Message) -> bool {
        message.from == from
            && message.to == self.id
            && self.admits(from)
            && message.get_msg_type() == MessageType::MsgSnapshot
            && message.term > 0
            && message.term <= u64::MAX / 2
            && message.get_snapshot().get_metadata().index <= u64::MAX / 2
    }

    /// The copy at `index` is this node's database now.
    pub(super) fn installed(&mut self, index: u64) {
        self.copying.installed = index;
    }

    /// What stood at this index was not seen here: it came by a copy.
    pub(super) fn applied_by_snapshot(&self, index: u64) -> bool {
        index <= self.copying.installed
    }

    /// The log from here on is needed by a copy that is kept or being taken; `None`: by none.
    pub fn pinned_from(&self) -> Option<u64> {
        let ready = self.copying.copies.0.lock().ready.as_ref().map(|copy| copy.index);
        // One being taken is at an index not before this one.
        ready.or(self.copying.taking.then_some(self.applied()))
    }

    pub(super) fn close_copies(&mut self, fx: &mut Effects) {
        fx.discard.extend(self.copying.incoming.take());
        fx.drop_copy |= self.copying.copies.0.lock().ready.take().is_some();
    }
}
