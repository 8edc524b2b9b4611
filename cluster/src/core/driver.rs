//! raft-rs behind `on(events, now) → effects`: what to persist, send, apply and answer, and in which order. The
//! raft thread and the simulator do what it says; nothing else calls raft-rs.
//!
//! Invariants
//! - Between `ready` and `advance_append` raft is not touched: input waits in `queue` until `Persisted`.
//! - A leader's messages leave before its own append is synced (thesis 10.2.1); everybody else's, and every message
//!   of a turn in which term or vote changed, leave after (trap 2).
//! - The watermark is the last of raft's `committed_entries`, never the hard state's commit.
//! - At most one append is under way.
//! - The election timeout is a function of (seed, node, term), set after every call of raft.

use super::{
    check::{self, Facts, Verdict},
    event::{Effects, Event, Persist, Quarantine},
    log_view::{self, LogView, Unreadable},
    proposals::Proposals,
    reads::Reads,
    transfer::Transfer,
};
use crate::{
    api::{NodeId, Role, RoleState},
    settings::{APPEND_BYTES_MAX, APPENDS_IN_FLIGHT_MAX, BACKLOG_MAX, ClusterSettings},
    status::TransferError,
};
use okno_storage::{
    error::StorageError,
    log::{HardState, LogStore},
    planted::{self, Mutant},
};
use raft::{
    Config, RawNode, ReadOnlyOption, Ready, StateRole,
    eraftpb::{ConfState, Entry, Message, MessageType},
};
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;

/// Committed entries handed out in one turn; the rest follows in the next one. They come without their data.
const COMMITTED_BYTES_PER_TURN: u64 = 4 << 20;

/// What a driver starts from.
pub struct Start {
    pub id: NodeId,
    /// Voting members, ascending.
    pub members: Vec<NodeId>,
    pub log: LogStore,
    /// The larger of what `identity` and the database say; see [`recover`].
    pub hard_state: HardState,
    pub conf_state: ConfState,
    pub applied: u64,
    /// The founding commit is applied.
    pub founded: bool,
    /// All incarnations are pinned in `identity`.
    pub pinned: bool,
    /// The synced mark in `identity`.
    pub synced: (u64, u64),
    /// Never the same twice for one node: part of every read's context.
    pub boot: u64,
    /// Set when raft could not read the log, just before it panics.
    pub unreadable: Unreadable,
}

/// The settings a driver needs, in ticks and milliseconds.
#[derive(Debug, Clone)]
pub struct Timing {
    pub heartbeat_ticks: usize,
    pub election_ticks: (usize, usize),
    pub transfer_park_ms: u64,
    pub read_round_ms: u64,
    pub seed: u64,
}

impl From<&ClusterSettings> for Timing {
    fn from(s: &ClusterSettings) -> Self {
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let min = s.ticks(s.election_min);
        Self {
            heartbeat_ticks: s.ticks(s.heartbeat),
            election_ticks: (min, s.ticks(s.election_max).max(min + 1)),
            transfer_park_ms: ms(s.transfer_park),
            read_round_ms: ms(s.read_round),
            seed: s.seed,
        }
    }
}

/// An append under way.
struct Waiting {
    ready: Ready,
    sequence: u64,
    /// Messages that may leave only once it is synced.
    after: Vec<Message>,
    /// (term, index) of its last entry.
    last: Option<(u64, u64)>,
}

pub struct Driver {
    pub(super) node: RawNode<LogView>,
    pub(super) id: NodeId,
    members: Vec<NodeId>,
    log: LogStore,
    timing: Timing,
    pub(super) now_ms: u64,
    pinned: bool,
    founded: bool,
    closed: bool,
    pub(super) intake_stopped: bool,
    /// The election timeout of a term, so that it is not drawn anew after every call of raft.
    election: (u64, usize),
    waiting: Option<Waiting>,
    queue: VecDeque<Event>,
    sequence: u64,
    /// Term and vote that are on disk.
    saved: (u64, u64),
    /// (term, index) of the last entry synced, and what `identity` says of it.
    synced: (u64, u64),
    synced_noted: (u64, u64),
    synced_noted_at_ms: u64,
    applied: u64,
    watermark: u64,
    /// The term this node leads in, and the index of that term's first entry.
    pub(super) leading: Option<(u64, u64)>,
    /// Term in which the founding commit was asked for.
    found_asked: u64,
    /// What was given then did not get into the log.
    found_dropped: bool,
    role: RoleState,
    pub(super) proposals: Proposals,
    pub(super) reads: Reads,
    pub(super) transfer: Option<Transfer>,
}

/// The synced mark in `identity` is at most this late (design §4).
pub const SYNCED_EVERY_MS: u64 = 100;

/// Joins what `identity` and the database say about term and vote, and checks the log against the synced mark.
pub fn recover(
    identity: (u64, u64),
    database: HardState,
    applied_commit: u64,
    log: &LogStore,
    synced: (u64, u64),
) -> Result<HardState, RecoverError> {
    let (term, vote) = identity;
    if term == database.term && vote != database.vote && vote != 0 && database.vote != 0 {
        return Err(RecoverError::TwoVotes { term, identity: vote, database: database.vote });
    }
    let (term, vote) = match term.cmp(&database.term) {
        std::cmp::Ordering::Greater => (term, vote),
        std::cmp::Ordering::Less => (database.term, database.vote),
        std::cmp::Ordering::Equal => (term, vote.max(database.vote)),
    };
    let last_index = log.last_index();
    let last_term = log.term(last_index)?.unwrap_or(0);
    if (last_term, last_index) < synced {
        return Err(RecoverError::Storage(StorageError::LogLost {
            found_term: last_term,
            found_index: last_index,
            expected_term: synced.0,
            expected_index: synced.1,
        }));
    }
    let commit = database.commit.max(applied_commit);
    if commit > last_index {
        return Err(RecoverError::CommitBeyondLog { commit, last_index });
    }
    Ok(HardState { term: term.max(last_term), vote: if last_term > term { 0 } else { vote }, commit })
}

#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("term {term} has two votes: identity says node {identity}, the database node {database}")]
    TwoVotes { term: u64, identity: u64, database: u64 },
    #[error("entry {commit} was committed, but the log ends at {last_index}")]
    CommitBeyondLog { commit: u64, last_index: u64 },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Driver {
    pub fn new(start: Start, timing: Timing, logger: &slog::Logger) -> Result<Self, raft::Error> {
        let (min, max) = timing.election_ticks;
        let config = Config {
            id: start.id,
            election_tick: min,
            min_election_tick: min,
            max_election_tick: max,
            heartbeat_tick: timing.heartbeat_ticks,
            applied: start.applied,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: APPENDS_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            // What is uncommitted is bounded where it comes in, by the slots of its outcomes (rule 11); raft's
            // own count would need the data of committed entries.
            max_uncommitted_size: raft::NO_LIMIT,
            max_committed_size_per_ready: COMMITTED_BYTES_PER_TURN,
            // Merging would grow one message without bound for a follower that lags.
            batch_append: false,
            ..Config::default()
        };
        let view = LogView::new(start.log.clone(), start.hard_state, start.conf_state, start.unreadable);
        let node = RawNode::new(&config, view, logger)?;
        let last_index = start.log.last_index();
        let last_term = node.raft.raft_log.last_term();
        let mut driver = Self {
            role: RoleState { term: node.raft.term, role: Role::Follower { leader: None } },
            node,
            id: start.id,
            members: start.members,
            log: start.log,
            timing,
            now_ms: 0,
            pinned: start.pinned,
            founded: start.founded,
            closed: false,
            intake_stopped: false,
            election: (0, 0),
            waiting: None,
            queue: VecDeque::new(),
            sequence: 0,
            saved: (start.hard_state.term, start.hard_state.vote),
            synced: (last_term, last_index),
            synced_noted: start.synced,
            synced_noted_at_ms: 0,
            applied: start.applied,
            watermark: start.applied,
            leading: None,
            found_asked: 0,
            found_dropped: false,
            proposals: Proposals::default(),
            reads: Reads::new(start.id, start.boot),
            transfer: None,
        };
        driver.set_election_timeout();
        Ok(driver)
    }

    /// One turn: takes in everything that happened and says what must be done. `now_ms` is monotonic.
    pub fn on(&mut self, events: impl IntoIterator<Item = Event>, now_ms: u64) -> Effects {
        self.now_ms = self.now_ms.max(now_ms);
        let mut fx = Effects::default();
        for event in events {
            match event {
                Event::Persisted(sequence) => self.persisted(sequence, &mut fx),
                Event::Close => self.close(&mut fx),
                event if self.waiting.is_some() && !self.closed => self.queue.push_back(event),
                event => self.take(event, &mut fx),
            }
        }
        while self.waiting.is_none() && !self.closed {
            while let Some(event) = self.queue.pop_front() {
                self.take(event, &mut fx);
            }
            self.flush(&mut fx);
            self.close_lanes(&mut fx);
            self.ask_reads(&mut fx);
            self.observe(&mut fx);
            if !self.node.has_ready() {
                break;
            }
            self.handle_ready(&mut fx);
        }
        if !fx.messages.is_empty() {
            drop_superseded(&mut fx.messages);
        }
        fx
    }

    fn take(&mut self, event: Event, fx: &mut Effects) {
        if self.closed {
            return self.take_closed(event, fx);
        }
        match event {
            Event::Tick => self.tick(fx),
            Event::Messages { from, messages } => {
                if self.pinned {
                    for message in messages {
                        self.step(from, message, fx);
                    }
                }
            }
            Event::Propose(proposals) => self.propose(proposals, fx),
            Event::CloseLane(lane) => self.proposals.closing.push(lane),
            Event::Read(request) => self.read(request, fx),
            Event::Applied { index, founded } => {
                self.founded |= founded;
                if index > self.applied {
                    self.applied = index;
                    self.node.advance_apply_to(index);
                }
            }
            Event::Transfer { ticket, to } => self.begin_transfer(ticket, to, fx),
            Event::Found { term, data } => {
                let wanted = self.leading.is_some_and(|(t, _)| t == term) && !self.founded;
                if wanted && self.append(vec![Entry { data: data.into(), ..Entry::default() }]).is_err() {
                    // Dropped by raft, as during a transfer: ask again, but not in this turn.
                    self.found_dropped = true;
                }
            }
            Event::Unreachable(node) => self.node.report_unreachable(node),
            Event::Pinned => self.pinned = true,
            Event::StopIntake => self.intake_stopped = true,
            Event::Persisted(_) | Event::Close => {}
        }
        self.after_raft(fx);
    }

    fn tick(&mut self, fx: &mut Effects) {
        if std::mem::take(&mut self.found_dropped) {
            self.found_asked = 0;
        }
        if self.pinned {
            self.node.tick();
            self.after_raft(fx);
        }
        self.expire_transfer(fx);
        self.expire_reads(fx);
        if self.synced != self.synced_noted && self.now_ms >= self.synced_noted_at_ms + SYNCED_EVERY_MS {
            self.note_synced(fx);
        }
    }

    fn note_synced(&mut self, fx: &mut Effects) {
        self.synced_noted = self.synced;
        self.synced_noted_at_ms = self.now_ms;
        fx.synced = Some(self.synced);
    }

    fn step(&mut self, from: NodeId, message: Message, fx: &mut Effects) {
        if self.closed {
            return;
        }
        let facts = Facts {
            own: self.id,
            term: self.node.raft.term,
            last_index: self.node.raft.raft_log.last_index(),
            leads: self.leading.is_some(),
            members: &self.members,
            backlog: self.backlogged(),
        };
        match check::check(from, &message, facts) {
            Verdict::Step => {
                // Errors of `step` are dropped proposals and strangers' answers: nothing to do about either.
                let _ = self.node.step(message);
                self.after_raft(fx);
            }
            Verdict::Drop(_) => fx.refused += 1,
            Verdict::Quarantine(why) => self.quarantine(why, fx),
        }
    }

    fn quarantine(&mut self, why: Quarantine, fx: &mut Effects) {
        fx.quarantine = Some(why);
        fx.messages.clear();
        self.close(fx);
    }

    /// Apply is so far behind that a leader admits nothing and a follower takes no entries (rule 11).
    pub(super) fn backlogged(&self) -> bool {
        self.watermark - self.applied > BACKLOG_MAX
    }

    /// Appends entries of a leader in one proposal; returns the index of the first.
    pub(super) fn append(&mut self, entries: Vec<Entry>) -> Result<u64, raft::Error> {
        let mut m = Message { from: self.id, entries, ..Message::default() };
        m.set_msg_type(MessageType::MsgPropose);
        let first = self.node.raft.raft_log.last_index() + 1;
        self.node.raft.step(m)?;
        Ok(first)
    }

    fn handle_ready(&mut self, fx: &mut Effects) {
        let mut ready = self.node.ready();
        debug_assert!(ready.snapshot().is_empty(), "snapshots are refused by check");
        for state in ready.take_read_states() {
            self.read_confirmed(&state.request_ctx, state.index, fx);
        }
        self.commit_handed_out(ready.take_committed_entries().last(), fx);
        let hard_state = ready.hs().map(|h| (h.term, h.vote, h.commit));
        let vote = hard_state
            .filter(|(term, vote, _)| (*term, *vote) != self.saved)
            .map(|(term, vote, commit)| HardState { term, vote, commit });
        let entries: Vec<_> = ready.take_entries().into_iter().map(log_view::to_log).collect();
        let mut messages = ready.take_messages();
        let mut after = ready.take_persisted_messages();
        if entries.is_empty() && vote.is_none() {
            // Only the commit index moved, or nothing at all: apply's batch carries the commit index (trap 5).
            fx.messages.append(&mut messages);
            fx.messages.append(&mut after);
            self.advance(ready, fx);
            return;
        }
        if planted::is(Mutant::SendBeforePersist) {
            fx.messages.append(&mut messages);
            fx.messages.append(&mut after);
        } else if vote.is_some() {
            messages.append(&mut after);
            after = messages;
        } else {
            fx.messages.append(&mut messages);
        }
        let last = entries.last().map(|e| (e.term, e.index));
        let lower = entries.first().and_then(|e| self.lowered(e.index));
        if let Some(mark) = lower {
            self.synced_noted = mark;
            self.synced = self.synced.min(mark);
        }
        self.sequence += 1;
        let sequence = self.sequence;
        self.waiting = Some(Waiting { ready, sequence, after, last });
        if let Some(vote) = vote {
            self.saved = (vote.term, vote.vote);
        }
        fx.persist = Some(Persist { sequence, lower, vote, entries });
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

    fn persisted(&mut self, sequence: u64, fx: &mut Effects) {
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
        self.advance(waiting.ready, fx);
        self.after_raft(fx);
    }

    fn advance(&mut self, ready: Ready, fx: &mut Effects) {
        let mut light = self.node.advance_append(ready);
        fx.messages.append(&mut light.take_messages());
        self.commit_handed_out(light.take_committed_entries().last(), fx);
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
    pub(super) fn after_raft(&mut self, fx: &mut Effects) {
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
            self.proposals.begin_term();
        }
    }

    fn lose_leadership(&mut self, fx: &mut Effects) {
        self.drop_queued(fx);
        self.fail_shard_reads(fx);
        self.reads.restart();
    }

    fn observe(&mut self, fx: &mut Effects) {
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

    fn set_election_timeout(&mut self) {
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

    /// Quarantine or stop: everything that waits is answered, nothing is taken in any more.
    fn close(&mut self, fx: &mut Effects) {
        if self.closed {
            return;
        }
        self.closed = true;
        self.leading = None;
        self.close_proposals(fx);
        self.close_lanes(fx);
        self.close_reads(fx);
        if let Some(t) = self.transfer.take() {
            fx.transfers.push((t.ticket, Err(TransferError::Closed)));
        }
        self.note_synced(fx);
        self.role = RoleState { term: self.node.raft.term, role: Role::Follower { leader: None } };
        fx.role = Some(self.role);
        for event in std::mem::take(&mut self.queue) {
            self.take_closed(event, fx);
        }
    }

    fn take_closed(&mut self, event: Event, fx: &mut Effects) {
        match event {
            Event::Propose(proposals) => self.refuse_closed(proposals, fx),
            Event::CloseLane(lane) => fx.closed_lanes.push((lane, 0)),
            Event::Read(request) => fx.reads_failed.push((request, crate::api::ReadError::Closed)),
            Event::Transfer { ticket, .. } => fx.transfers.push((ticket, Err(TransferError::Closed))),
            _ => {}
        }
    }

    // What the status and the tests look at.

    pub fn role(&self) -> RoleState {
        self.role
    }
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }
    pub fn vote(&self) -> u64 {
        self.node.raft.vote
    }
    pub fn watermark(&self) -> u64 {
        self.watermark
    }
    pub fn applied(&self) -> u64 {
        self.applied
    }
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }
    /// An append is under way: input waits.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }
    pub(super) fn transfer_park_ms(&self) -> u64 {
        self.timing.transfer_park_ms
    }
    pub(super) fn read_round_ms(&self) -> u64 {
        self.timing.read_round_ms
    }
    pub(super) fn members(&self) -> &[NodeId] {
        &self.members
    }
    /// Index every member is known to hold; empty unless this node leads.
    pub fn matches(&self) -> Vec<(NodeId, u64)> {
        if self.leading.is_none() {
            return Vec::new();
        }
        let progress = self.node.raft.prs();
        self.members.iter().filter_map(|id| progress.get(*id).map(|p| (*id, p.matched))).collect()
    }
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
fn drop_superseded(messages: &mut Vec<Message>) {
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
