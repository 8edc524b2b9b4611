//! What goes into the driver and what comes out: the whole interface between decision and I/O.

use super::{
    change::{Configured, Known, Reaching},
    snapshots::CopyFacts,
};
use crate::{
    api::{Lane, NodeId, Proposal, ProposalOutcome, ReadError, RoleState, Settled},
    status::{ChangeError, Changed, TransferError},
};
use bytes::Bytes;
use okno_storage::{
    log::{HardState, LogEntry},
    members::{MemberChange, Members as MemberTable},
};
use raft::eraftpb::Message;
use std::sync::Arc;

/// Something that happened. All that waits is handed in together: one call of the driver is one turn, and a turn
/// makes at most one append.
#[derive(Debug)]
pub enum Event {
    /// One tick of raft's clock has passed.
    Tick,
    /// Raft messages from one peer, in order.
    Messages {
        from: NodeId,
        messages: Vec<Message>,
    },
    Propose(Vec<Proposal>),
    /// Ends a lane; stands behind the lane's proposals.
    CloseLane(Lane),
    Read(ReadRequest),
    /// The append with this sequence number is on stable storage.
    Persisted(u64),
    /// Apply has reached `index`; `founded` once the founding commit is among what it applied.
    Applied {
        index: u64,
        founded: bool,
    },
    /// Hand leadership over; answered in [`Effects::transfers`].
    Transfer {
        ticket: u64,
        to: Option<NodeId>,
    },
    /// Change the members, or only say what it would lead to; answered in [`Effects::changes`].
    Change {
        ticket: u64,
        change: MemberChange,
        dry_run: bool,
    },
    /// Apply has reached a configuration entry and waits (rule 11); answered in [`Effects::configured`].
    Configuration(Box<Reaching>),
    /// What is known of other nodes.
    Known(Box<Known>),
    /// The copy asked for by [`Effects::take_copy`] is ready to be sent, or could not be taken.
    Copied(Option<CopyFacts>),
    /// A copy was sent and installed by `to`, or not.
    Sent {
        to: NodeId,
        installed: bool,
    },
    /// A whole copy was received, checked, and waits to be installed under this number.
    Received {
        from: NodeId,
        message: Box<Message>,
        copy: u64,
    },
    /// A copy was offered that holds nothing this node has not applied, and was refused for that; raft's message says which.
    NotNeeded {
        from: NodeId,
        message: Box<Message>,
    },
    /// An installed copy says who the members are; comes before its `Persisted`.
    Installed {
        table: Arc<MemberTable>,
    },
    /// The encoded founding commit asked for by [`Effects::found`].
    Found {
        term: u64,
        data: Bytes,
    },
    /// A commit of the leader's own that nobody waits for; dropped unless this node leads in its term and takes
    /// proposals: it is asked for again.
    Own {
        term: u64,
        data: Bytes,
    },
    /// Messages to this peer were lost.
    Unreachable(NodeId),
    /// All incarnations are pinned on disk: the node may vote and campaign (rule 14).
    Pinned,
    /// Members' hashes tie: nothing more is admitted (rule 15).
    StopIntake,
    /// The node is closed, for good.
    Close,
}

/// Names an open read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadId {
    /// A shard asks whether this node still leads; only a leader answers it with success.
    Shard { shard: u16, ticket: u64 },
    /// A linearizable read on any node.
    Call(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRequest {
    pub id: ReadId,
    /// Driver time after which it is answered `TimedOut`.
    pub deadline_ms: u64,
}

/// A proposal that stands in the log and waits to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    pub index: u64,
    pub term: u64,
    pub lane: Lane,
    pub seq: u64,
    /// Encoded size: what its slot gives back.
    pub bytes: usize,
}

/// The one answer to a proposal, with the size its slot gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub settled: Settled,
    pub bytes: usize,
}

impl Answer {
    pub fn new(lane: Lane, seq: u64, bytes: usize, outcome: ProposalOutcome) -> Self {
        Self { settled: Settled { lane, seq, outcome }, bytes }
    }
}

/// An append to carry out: lower `identity`, write term and vote to it, append to the log synced — in this order
/// — then hand in [`Event::Persisted`]. Any failure ends the process (rule 12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persist {
    pub sequence: u64,
    /// A received copy to be installed before the entries are appended; it takes term and vote along.
    pub install: Option<Install>,
    /// The synced mark of `identity`, lowered because a conflicting tail is cut (design §4).
    pub lower: Option<(u64, u64)>,
    /// What the log keeps beside the entries: term, vote and commit index, if one of them moved. The commit index goes
    /// along with every append, so that who holds an entry also remembers which changes of members its leader had
    /// applied when it made it: no campaign by a configuration that the cluster has left behind for good.
    pub hard_state: Option<HardState>,
    /// Term or vote changed: they are synced in `identity`, too, before a message leaves.
    pub voted: bool,
    pub entries: Vec<LogEntry>,
}

impl Persist {
    /// Term and vote, if they changed.
    pub fn vote(&self) -> Option<HardState> {
        self.hard_state.filter(|_| self.voted)
    }
}

/// A copy to be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Install {
    pub copy: u64,
    pub index: u64,
    /// Term and vote as raft has them now.
    pub vote: (u64, u64),
}

/// The node must close itself to raft and clients (rule 12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    pub reason: String,
    pub remedy: String,
}

/// What must be done after a turn, in the order of the fields.
#[derive(Debug, Default)]
pub struct Effects {
    /// Proposals that now stand in the log; register before anything can apply.
    pub proposed: Vec<Waiter>,
    /// Leadership ended: what waits beyond this index is unknown.
    pub lost: Option<u64>,
    /// Proposals that never reached the log.
    pub answers: Vec<Answer>,
    pub closed_lanes: Vec<(Lane, u64)>,
    /// Reads confirmed at an index; to be answered once it is applied.
    pub reads: Vec<(u64, Vec<ReadRequest>)>,
    pub reads_failed: Vec<(ReadRequest, ReadError)>,
    pub transfers: Vec<(u64, Result<NodeId, TransferError>)>,
    pub changes: Vec<(u64, Result<Changed, ChangeError>)>,
    /// Apply waits for this.
    pub configured: Option<Configured>,
    /// Somebody lacks entries that were cut away: take a copy, and hand in [`Event::Copied`].
    pub take_copy: bool,
    /// Copies to be sent, each to its message's `to`; the message goes along. Answered by [`Event::Sent`].
    pub send_copies: Vec<Message>,
    /// The copy that was taken is not needed any more.
    pub drop_copy: bool,
    /// Received copies that are not needed.
    pub discard: Vec<u64>,
    pub role: Option<RoleState>,
    /// To be sent at once.
    pub messages: Vec<Message>,
    /// Everything up to here may be applied (rule 11).
    pub watermark: Option<u64>,
    /// This node leads a cluster without a first commit: encode it and hand in [`Event::Found`].
    pub found: Option<u64>,
    /// (term, index) of the last synced entry, to be noted in `identity`.
    pub synced: Option<(u64, u64)>,
    pub quarantine: Option<Quarantine>,
    /// Inbound messages refused by `check`.
    pub refused: u64,
    /// Last, because it takes longest; the next turn begins with its `Persisted`.
    pub persist: Option<Persist>,
}

impl Effects {
    /// True if somebody who waits for an index is concerned.
    pub fn concerns_waiters(&self) -> bool {
        !self.proposed.is_empty()
            || self.lost.is_some()
            || !self.answers.is_empty()
            || !self.reads.is_empty()
            || !self.reads_failed.is_empty()
    }
}
