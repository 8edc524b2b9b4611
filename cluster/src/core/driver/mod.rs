//! raft-rs behind `on(events, now) → effects`: what to persist, send, apply and answer, and in which order. The
//! raft thread and the simulator do what it says; nothing else calls raft-rs.
//!
//! Invariants
//! - Between `ready` and `advance_append` raft is not touched: input waits in `queue` until `Persisted`.
//! - A leader's messages leave before its own append is synced (thesis 10.2.1); everybody else's, and every message
//!   of a turn in which term or vote changed (trap 2) or a change of members was committed, leave after.
//! - The watermark is the last of raft's `committed_entries`, never the hard state's commit.
//! - At most one append is under way.
//! - The election timeout is a function of (seed, node, term), set after every call of raft.

mod ready;
mod recover;

pub use ready::election_timeout;
pub use recover::{RecoverError, recover};

use super::{
    change::{Changing, Known, Reaching},
    check::{self, Facts, Verdict},
    event::{Effects, Event, Quarantine},
    log_view::{LogView, Unreadable},
    proposals::Proposals,
    reads::Reads,
    snapshots::{Copies, Copying},
    transfer::Transfer,
};
use crate::{
    api::{NodeId, Role, RoleState},
    settings::{APPEND_BYTES_MAX, APPENDS_IN_FLIGHT_MAX, BACKLOG_MAX, CAUGHT_UP, ClusterSettings},
    status::{ChangeError, TransferError},
};
use okno_storage::{
    log::{HardState, LogStore},
    members::Members as MemberTable,
};
use raft::{
    Config, RawNode, ReadOnlyOption, Ready,
    eraftpb::{ConfState, Entry, Message, MessageType},
};
use std::{collections::VecDeque, sync::Arc};

/// Committed entries handed out in one turn; the rest follows in the next one. They come without their data.
const COMMITTED_BYTES_PER_TURN: u64 = 4 << 20;

/// What a driver starts from.
pub struct Start {
    pub id: NodeId,
    /// Who belongs to the cluster, as far as applied; before the founding commit as `okno init` was told.
    pub table: MemberTable,
    pub log: LogStore,
    /// The larger of what `identity` and the database say; see [`recover()`].
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
    /// Entries a voter may lack and still count for a quorum that is to be; a learner that lacks no more is promoted.
    pub caught_up: u64,
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
            caught_up: CAUGHT_UP,
            seed: s.seed,
        }
    }
}

/// An append under way.
struct Waiting {
    /// `None`: only the commit index is written, raft waits for nothing.
    ready: Option<Ready>,
    sequence: u64,
    /// Messages that may leave only once it is synced.
    after: Vec<Message>,
    /// (term, index) of its last entry.
    last: Option<(u64, u64)>,
    /// Index of the copy that is installed before.
    installs: Option<u64>,
}

pub struct Driver {
    pub(super) node: RawNode<LogView>,
    pub(super) id: NodeId,
    /// As raft's configuration says, with addresses and the removed.
    pub(super) table: Arc<MemberTable>,
    pub(super) known: Known,
    pub(super) changing: Option<Changing>,
    /// (index, term) of the last configuration entry that took effect here.
    pub(super) configured: (u64, u64),
    /// This node's own removal, that nobody else is known to know of.
    pub(super) leaving: Option<Reaching>,
    /// The highest commit index that a leader has told of since this process began.
    pub(super) told_commit: u64,
    pub(super) copying: Copying,
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
    /// Raft's hard state as it is on disk, or about to be.
    saved: HardState,
    /// (term, index) of the last entry synced, and what `identity` says of it.
    synced: (u64, u64),
    synced_noted: (u64, u64),
    synced_noted_at_ms: u64,
    applied: u64,
    watermark: u64,
    /// The term this node leads in, and the index of that term's first entry.
    pub(super) leading: Option<(u64, u64)>,
    /// When it began to lead last.
    pub(super) led_since_ms: u64,
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
        let copies = Copies::default();
        let view = LogView::new(
            start.log.clone(),
            start.hard_state,
            start.conf_state,
            copies.clone(),
            start.unreadable,
        );
        let node = RawNode::new(&config, view, logger)?;
        let last_index = start.log.last_index();
        let last_term = node.raft.raft_log.last_term();
        let mut driver = Self {
            role: RoleState { term: node.raft.term, role: Role::Follower { leader: None } },
            node,
            id: start.id,
            table: Arc::new(start.table),
            known: Known::default(),
            changing: None,
            configured: (0, 0),
            leaving: None,
            told_commit: 0,
            copying: Copying::new(copies),
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
            // The commit index may have come from apply's batch, which is not synced.
            saved: HardState { commit: 0, ..start.hard_state },
            synced: (last_term, last_index),
            synced_noted: start.synced,
            synced_noted_at_ms: 0,
            applied: start.applied,
            watermark: start.applied,
            leading: None,
            led_since_ms: 0,
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
            self.leave_if_known(&mut fx);
            self.flush(&mut fx);
            self.close_lanes(&mut fx);
            self.ask_reads(&mut fx);
            self.observe(&mut fx);
            if !self.node.has_ready() {
                break;
            }
            self.handle_ready(&mut fx);
        }
        if !self.closed {
            self.look_at_copies(&mut fx);
        }
        if !fx.messages.is_empty() {
            ready::drop_superseded(&mut fx.messages);
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
                self.settle_change(fx);
            }
            Event::Change { ticket, change, dry_run } => self.change(ticket, &change, dry_run, fx),
            Event::Configuration(entry) => self.configure(*entry, fx),
            Event::Known(known) => self.known = *known,
            Event::Copied(copy) => self.copied(copy),
            Event::Sent { to, installed } => self.sent(to, installed, fx),
            Event::Received { from, message, copy } => self.received(from, *message, copy, fx),
            Event::NotNeeded { from, message } => self.not_needed(from, *message, fx),
            Event::Installed { table } => self.table = table,
            Event::Transfer { ticket, to } => self.begin_transfer(ticket, to, fx),
            Event::Found { term, data } => {
                let wanted = self.leading.is_some_and(|(t, _)| t == term) && !self.founded;
                if wanted && self.append(vec![Entry { data: data.into(), ..Entry::default() }]).is_err() {
                    // Dropped by raft, as during a transfer: ask again, but not in this turn.
                    self.found_dropped = true;
                }
            }
            Event::Own { term, data } => {
                let leads = self.leading.is_some_and(|(t, _)| t == term) && self.founded;
                if leads && !self.intake_stopped && !self.backlogged() {
                    // Dropped by raft, as during a transfer: whoever wants it asks again.
                    let _ = self.append(vec![Entry { data: data.into(), ..Entry::default() }]);
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
        self.promote(fx);
        self.expire_change(fx);
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
            admitted: self.admits(from),
            backlog: self.backlogged(),
        };
        match check::check(from, &message, facts) {
            Verdict::Step => {
                let (term, told) = (message.term, says_commit(&message).then_some(message.commit));
                // Errors of `step` are dropped proposals and strangers' answers: nothing to do about either.
                let _ = self.node.step(message);
                if term == self.node.raft.term {
                    self.told_commit = self.told_commit.max(told.unwrap_or(0));
                }
                self.after_raft(fx);
            }
            Verdict::Drop(_) => fx.refused += 1,
            Verdict::Quarantine(why) => self.quarantine(why, fx),
        }
    }

    pub(super) fn quarantine(&mut self, why: Quarantine, fx: &mut Effects) {
        fx.quarantine = Some(why);
        fx.messages.clear();
        self.close(fx);
    }

    /// May this node speak? Members may, and who shook hands: this node may not have heard yet of those added last.
    /// The removed may not.
    pub(super) fn admits(&self, from: NodeId) -> bool {
        let known = self.table.get(from).is_some() || self.known.admitted.contains(&from);
        known && !self.table.is_removed(from) && !self.known.barred.contains(&from)
    }

    pub(super) fn is_founded(&self) -> bool {
        self.founded
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
        self.close_change(fx);
        self.close_copies(fx);
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
            Event::Change { ticket, .. } => fx.changes.push((ticket, Err(ChangeError::Closed))),
            Event::Received { copy, .. } => fx.discard.push(copy),
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
    /// A change of members stands in the log and is not applied.
    pub fn is_changing(&self) -> bool {
        self.changing.is_some() || self.node.raft.has_pending_conf()
    }
    pub(super) fn caught_up(&self) -> u64 {
        self.timing.caught_up
    }
    pub(super) fn transfer_park_ms(&self) -> u64 {
        self.timing.transfer_park_ms
    }
    pub(super) fn read_round_ms(&self) -> u64 {
        self.timing.read_round_ms
    }
    /// Index every member is known to hold; empty unless this node leads.
    pub fn matches(&self) -> Vec<(NodeId, u64)> {
        if self.leading.is_none() {
            return Vec::new();
        }
        let progress = self.node.raft.prs();
        let members = self.table.current.iter().map(|m| m.node_id);
        members.filter_map(|id| progress.get(id).map(|p| (id, p.matched))).collect()
    }
}

/// Only who leads in its term sends these, and it has written down what changes of members are committed before.
fn says_commit(message: &Message) -> bool {
    matches!(message.get_msg_type(), MessageType::MsgAppend | MessageType::MsgHeartbeat)
}
