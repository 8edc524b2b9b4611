//! The half of the driver behind raft: what a `Ready` asks for, in which order, and what has changed by it.

use super::{Driver, Waiting};
use crate::{
    api::{NodeId, Role, RoleState},
    core::{
        event::{Effects, Install, Persist},
        log_view,
    },
};
use okno_storage::{
    log::HardState,
    planted::{self, Mutant},
};
use raft::{
    Ready, StateRole,
    eraftpb::{Entry, EntryType, Message, MessageType},
};
use rand::{Rng, SeedableRng};

impl Driver {
    pub(super) fn handle_ready(&mut self, fx: &mut Effects) {
        let mut ready = self.node.ready();
        let snapshot = (!ready.snapshot().is_empty()).then(|| {
            let metadata = ready.snapshot().get_metadata();
            (metadata.term, metadata.index)
        });
        for state in ready.take_read_states() {
            self.read_confirmed(&state.request_ctx, state.index, fx);
        }
        let committed = ready.take_committed_entries();
        self.commit_handed_out(committed.last(), fx);
        let members_change = committed.iter().any(changes_members);
        let voted = (self.node.raft.term, self.node.raft.vote) != (self.saved.term, self.saved.vote);
        let entries: Vec<_> = ready.take_entries().into_iter().map(log_view::to_log).collect();
        let mut messages = ready.take_messages();
        let mut after = ready.take_persisted_messages();
        let install = match (snapshot, self.copying.incoming.take()) {
            (Some((_, index)), Some(copy)) => {
                let raft = &self.node.raft;
                Some(Install { copy, index, vote: (raft.term, raft.vote) })
            }
            (None, None) => None,
            // Raft took a snapshot that was not handed in, or lost one that was.
            (None, Some(copy)) => {
                fx.discard.push(copy);
                None
            }
            (Some(_), None) => unreachable!("a snapshot is stepped with its copy, and by nobody else"),
        };
        if entries.is_empty() && !voted && install.is_none() && !members_change {
            // Only the commit index moved, or nothing at all: apply's batch carries the commit index (trap 5).
            fx.messages.append(&mut messages);
            fx.messages.append(&mut after);
            self.advance(ready, fx);
            return;
        }
        if planted::is(Mutant::SendBeforePersist) {
            fx.messages.append(&mut messages);
            fx.messages.append(&mut after);
        } else if voted || members_change {
            messages.append(&mut after);
            after = messages;
        } else {
            fx.messages.append(&mut messages);
        }
        let last = entries.last().map(|e| (e.term, e.index)).or(snapshot);
        // Installing writes its own mark, and leaves no tail to be cut.
        let lower = entries.first().filter(|_| install.is_none()).and_then(|e| self.lowered(e.index));
        if let Some(mark) = lower {
            self.synced_noted = mark;
            self.synced = self.synced.min(mark);
        }
        self.sequence += 1;
        let sequence = self.sequence;
        let installs = install.map(|i| i.index);
        self.waiting = Some(Waiting { ready: Some(ready), sequence, after, last, installs });
        let hard_state = self.unsaved();
        fx.persist = Some(Persist { sequence, install, lower, hard_state, voted, entries });
    }

    /// Raft's hard state, if the log does not have it so; from here on it counts as saved.
    fn unsaved(&mut self) -> Option<HardState> {
        let raft = self.node.raft.hard_state();
        let now = HardState { term: raft.term, vote: raft.vote, commit: raft.commit };
        (std::mem::replace(&mut self.saved, now) != now).then_some(now)
    }

    /// The mark `identity` must carry before a tail beginning at `first` is cut; `None` if it need not change.
    fn lowered(&self, first: u64) -> Option<(u64, u64)> {
        if first > self.log.last_index() {
            return None;
        }
        let before = first.saturating_sub(1);
        // What cannot be read counts as nothing synced: that refuses nothing, and the append will meet the error.
        let term = self.log.term(before).ok().flatten().unwrap_or(0);
        let mark = (term, before);
        (mark < self.synced_noted).then_some(mark)
    }

    pub(super) fn persisted(&mut self, sequence: u64, fx: &mut Effects) {
        let Some(mut waiting) = self.waiting.take_if(|w| w.sequence == sequence) else {
            debug_assert!(self.closed, "an append is confirmed once");
            return;
        };
        if let Some(last) = waiting.last {
            self.synced = last;
        }
        if self.closed {
            return;
        }
        fx.messages.append(&mut waiting.after);
        let Some(index) = waiting.installs else {
            if let Some(ready) = waiting.ready {
                self.advance(ready, fx);
            }
            return self.after_raft(fx);
        };
        // Log and state are the copy's now: applied is its index, and what was committed before it is passed over.
        self.synced_noted = self.synced;
        self.watermark = self.watermark.max(index);
        fx.watermark = Some(self.watermark);
        self.founded = true;
        self.installed(index);
        if let Some(ready) = waiting.ready {
            self.advance(ready, fx);
        }
        self.applied = self.applied.max(index);
        self.node.advance_apply_to(self.applied);
        self.settle_change(fx);
        self.after_raft(fx);
    }

    fn advance(&mut self, ready: Ready, fx: &mut Effects) {
        let mut light = self.node.advance_append(ready);
        let mut messages = light.take_messages();
        let committed = light.take_committed_entries();
        self.commit_handed_out(committed.last(), fx);
        if !committed.iter().any(changes_members) {
            return fx.messages.append(&mut messages);
        }
        self.sequence += 1;
        let sequence = self.sequence;
        self.waiting = Some(Waiting { ready: None, sequence, after: messages, last: None, installs: None });
        let hard_state = self.unsaved();
        fx.persist = Some(Persist {
            sequence,
            install: None,
            lower: None,
            hard_state,
            voted: false,
            entries: Vec::new(),
        });
    }

    fn commit_handed_out(&mut self, last: Option<&Entry>, fx: &mut Effects) {
        if let Some(entry) = last {
            debug_assert!(entry.index > self.watermark, "the watermark only rises");
            self.watermark = entry.index;
            fx.watermark = Some(entry.index);
        }
    }

    /// After every call that may move raft: the timeout it draws for itself is replaced, and the end of a
    /// leadership is noticed before anything else happens.
    pub(in crate::core) fn after_raft(&mut self, fx: &mut Effects) {
        if self.closed {
            return;
        }
        self.set_election_timeout();
        let raft = &self.node.raft;
        let leads = raft.state == StateRole::Leader;
        if let Some((term, _)) = self.leading
            && (!leads || raft.term != term)
        {
            self.leading = None;
            fx.lost = Some(raft.raft_log.committed);
            self.lose_leadership(fx);
        }
        if leads && self.leading.is_none() {
            let raft = &self.node.raft;
            self.leading = Some((raft.term, raft.raft_log.last_index()));
            self.led_since_ms = self.now_ms;
            self.proposals.begin_term();
        }
    }

    fn lose_leadership(&mut self, fx: &mut Effects) {
        self.drop_queued(fx);
        self.fail_shard_reads(fx);
        self.reads.restart();
    }

    pub(super) fn observe(&mut self, fx: &mut Effects) {
        let role = self.current_role();
        if role != self.role {
            self.role = role;
            fx.role = Some(role);
        }
        self.observe_transfer(fx);
        // Only once everything of earlier terms has applied: the founding commit may be among it.
        if let Some((term, first)) = self.leading
            && !self.founded
            && self.applied >= first
            && self.found_asked < term
        {
            self.found_asked = term;
            fx.found = Some(term);
        }
    }

    fn current_role(&self) -> RoleState {
        let raft = &self.node.raft;
        let role = match raft.state {
            StateRole::Leader => Role::Leader {
                ready: self.founded
                    && (self.leading.is_some_and(|(_, first)| self.applied >= first)
                        || planted::is(Mutant::ActivateEarly)),
            },
            StateRole::Follower => Role::Follower { leader: self.leader() },
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        };
        RoleState { term: raft.term, role }
    }

    /// The leader this node knows, itself included.
    pub fn leader(&self) -> Option<NodeId> {
        Some(self.node.raft.leader_id).filter(|id| *id != 0)
    }

    pub(super) fn set_election_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let (term, ticks) = self.election;
        let ticks = if term == raft.term && ticks > 0 {
            ticks
        } else {
            election_timeout(self.timing.seed, self.id, raft.term, self.timing.election_ticks)
        };
        self.election = (raft.term, ticks);
        if raft.randomized_election_timeout() != ticks {
            raft.set_randomized_election_timeout(ticks);
        }
    }
}

/// A change of members that is committed must be known to be after a crash, too, before anybody is told: who is taken out
/// closes itself at that word, and its vote may be what this node would need to find out again.
fn changes_members(committed: &Entry) -> bool {
    committed.get_entry_type() != EntryType::EntryNormal
}

/// Ticks until an election, from `[min, max)`: the same for the same (seed, node, term), different between nodes
/// with high probability, drawn anew with every term.
pub fn election_timeout(seed: u64, node: NodeId, term: u64, (min, max): (usize, usize)) -> usize {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&node.to_le_bytes());
    key[16..24].copy_from_slice(&term.to_le_bytes());
    rand_chacha::ChaCha8Rng::from_seed(key).gen_range(min..max)
}

/// Takes out messages that a later one to the same node makes needless: empty appends (only the commit index) and
/// confirmations. Raft is made for messages that get lost; two thirds of a busy leader's are of these kinds.
pub(super) fn drop_superseded(messages: &mut Vec<Message>) {
    if messages.len() < 2 {
        return;
    }
    let superseded = |m: &Message, later: &[Message]| match m.get_msg_type() {
        MessageType::MsgAppend if m.entries.is_empty() => later.iter().any(|l| {
            l.to == m.to
                && l.term == m.term
                && l.get_msg_type() == MessageType::MsgAppend
                && l.commit >= m.commit
                && l.index >= m.index
        }),
        MessageType::MsgAppendResponse if !m.reject => later.iter().any(|l| {
            l.to == m.to
                && l.term == m.term
                && l.get_msg_type() == MessageType::MsgAppendResponse
                && !l.reject
                && l.index >= m.index
                && l.commit >= m.commit
        }),
        _ => false,
    };
    // From the end, so that "later" is what was kept.
    let mut kept: Vec<Message> = Vec::with_capacity(messages.len());
    while let Some(m) = messages.pop() {
        // A short look: what makes a message needless stands within the next few.
        if !superseded(&m, &kept[kept.len().saturating_sub(8)..]) {
            kept.push(m);
        }
    }
    kept.reverse();
    *messages = kept;
}
