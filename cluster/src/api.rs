//! What the rest of the node may ask of the cluster, and what it is told. The runtime depends on these traits
//! only; production implements them over the raft thread, the simulator over virtual nodes.
//!
//! Vocabulary: a *lane* is the FIFO way of one activation of one entity to the raft thread (rule 3). A proposal
//! is answered exactly once by a [`Settled`] notice to the shard that made it.

use bytes::Bytes;
use okno_storage::commit::{FenceReason, Record};
use okno_storage::state::AppliedSlice;
use std::sync::Arc;

pub type NodeId = u64;

/// One activation of one entity; `activation` is never reused within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    pub shard: u16,
    pub activation: u64,
}

/// An encoded commit on its way into the log.
#[derive(Debug, Clone)]
pub struct Proposal {
    pub lane: Lane,
    /// Counts the lane's proposals, from 1.
    pub seq: u64,
    /// The term the commit was decided in; the raft thread drops a proposal of another term.
    pub term: u64,
    pub data: Bytes,
}

/// Nothing happened and nothing will: safe to retry (rule 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotApplied {
    /// This node does not lead, or leads in another term.
    NotLeader { leader: Option<NodeId> },
    /// The lane was closed before.
    LaneClosed,
    /// Another entry stands at the index.
    Replaced,
    /// A bound is reached (rule 10, 11).
    Overloaded,
    /// Leadership is being handed over for longer than proposals are parked.
    Transferring,
    /// The node is going down, or closed by a quarantine.
    Closed,
}

/// The proposal may or may not take effect: retry with the same request id (rule 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unknown {
    LeadershipLost,
    /// The disk does not answer; the watchdog gave up (rule 11).
    DiskHung,
    Closed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposalOutcome {
    Applied { index: u64 },
    Duplicate { index: u64, reply: Record },
    Fenced { index: u64, reason: FenceReason },
    NotApplied(NotApplied),
    Unknown(Unknown),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub lane: Lane,
    pub seq: u64,
    pub outcome: ProposalOutcome,
}

/// What a shard is told. Outcomes of one apply batch come as one notice per shard (design §9).
#[derive(Debug, Clone)]
pub enum ShardNotice {
    Settled(Vec<Settled>),
    /// Every proposal of the lane that will ever be proposed has an index of at most `last_index` (0: none).
    /// The entity may be activated again once apply has passed it (rule 3).
    LaneClosed {
        lane: Lane,
        last_index: u64,
    },
    /// Leadership was confirmed after the ticket was handed in, and apply has passed the index that was then
    /// committed; or it could not be.
    ReadDone {
        ticket: u64,
        result: Result<u64, ReadError>,
    },
}

/// Where a shard is told. `deliver` is called on the raft and apply threads and must neither block nor fail:
/// its depth is bounded because proposals and tickets are (rule 11).
pub trait ShardPort: Send + Sync {
    fn deliver(&self, notice: ShardNotice);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ReadError {
    #[error("no leader confirmed the read in time")]
    TimedOut,
    #[error("this node does not lead")]
    NotLeader,
    #[error("too many reads wait")]
    Overloaded,
    #[error("the node is closed")]
    Closed,
}

/// This node's part in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Follower {
        leader: Option<NodeId>,
    },
    Candidate,
    /// `ready` once an entry of `term` has been applied here: actors may activate (rule 3).
    Leader {
        ready: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleState {
    pub term: u64,
    pub role: Role,
}

impl RoleState {
    /// The term in which entity actors may run here now.
    pub fn leading_term(self) -> Option<u64> {
        matches!(self.role, Role::Leader { ready: true }).then_some(self.term)
    }
}

/// Why a proposal was not taken in; nothing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposeError {
    Full,
    Closed,
}

/// The proposing trait: how actors reach the log. No call blocks.
pub trait Proposer: Send + Sync {
    /// Registers the port that `lane.shard` is answered through; once per shard, before its first proposal.
    fn register(&self, shard: u16, port: Arc<dyn ShardPort>);
    /// Hands in proposals in lane order. All or none are taken in. A lane's numbers have no gaps: what was not taken
    /// in is handed in again under the same numbers, or the lane is closed; after a gap or a refusal, all that
    /// follows in the lane is refused as [`NotApplied::LaneClosed`]. Data are never empty.
    fn propose(&self, proposals: Vec<Proposal>) -> Result<(), ProposeError>;
    /// Ends a lane, in order with its proposals; answered by [`ShardNotice::LaneClosed`].
    fn close_lane(&self, lane: Lane);
    /// Asks for a ReadIndex begun after this call; answered by [`ShardNotice::ReadDone`].
    fn confirm_leadership(&self, shard: u16, ticket: u64);
    /// The current role; follow its changes through [`Proposer::roles`].
    fn role(&self) -> RoleState;
    fn roles(&self) -> tokio::sync::watch::Receiver<RoleState>;
    /// Neither quarantined nor going down: a leader may yet be heard of here. The role changes when this ends.
    fn is_open(&self) -> bool;
    /// The index apply has reached.
    fn applied_index(&self) -> u64;
    /// Time a leader may stamp now, or why not (rule 7).
    fn stamp(&self) -> Result<i64, StampError>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// A step of more than 10 minutes without a majority of agreeing clocks.
    #[error("the clock stepped and no majority of members agrees")]
    ClockStep,
}

/// Told by the apply thread about everything it applied; must neither block nor fail.
pub trait ApplyListener: Send + Sync {
    fn applied(&self, slice: &Arc<AppliedSlice>);
    /// The state is a copy of another member's, as of `index`: whatever was built from slices is to be built anew.
    fn installed(&self, _index: u64) {}
}
