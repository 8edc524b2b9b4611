//! What a node says about itself and about the cluster, for health checks, the admin service and `oknoctl`.

use crate::api::{NodeId, Role};
use okno_storage::members::MemberRefusal;
use uuid::Uuid;

/// What cures a quarantine that is no damage: the data are for a newer program than this.
pub const REMEDY_NEWER_PROGRAM: &str = "start the newer program";
/// What cures damaged data.
pub const REMEDY_REBUILD: &str = "this node's data are damaged: remove them and add the node as a new member";

/// Why a node closes that was taken out of the cluster.
pub const REASON_REMOVED: &str = "removed: this node is not a member of the cluster any more";
/// What brings such a machine back.
pub const REMEDY_NEW_ID: &str = "remove this node's data, run `okno init --join` under an id that was never used, and add it as a new member";

/// What a node whose data are gone, while others have pinned it as it was, must be told.
pub const REMEDY_DISOWNED: &str = "keep this directory closed; bring the old data directory back, or add this machine as a new member \
                                   under a node id that was never used";

/// Where a node is in its life. Followed through [`crate::ClusterHandle::phases`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePhase {
    /// Opening stores.
    Starting,
    /// Waiting until all founders have taken this node's hello, by which all incarnations are known (rule 14): neither
    /// votes nor serves. `refused_by`: those that never will, because they have pinned another incarnation of it.
    Pinning { missing: Vec<NodeId>, refused_by: Vec<NodeId> },
    /// In the cluster. Whether it leads, and whether there is a leader, is the role's business.
    Serving,
    /// Closed to raft and clients; health and admin stay open (rule 12).
    Quarantined { reason: String, remedy: String },
    /// Going down.
    Stopping,
}

impl NodePhase {
    pub fn is_serving(&self) -> bool {
        matches!(self, Self::Serving)
    }
    /// What it waits for and what is to be done about it, if it is pinning.
    pub fn waits(&self) -> Option<(String, &'static str)> {
        let Self::Pinning { missing, refused_by } = self else { return None };
        if refused_by.is_empty() {
            return Some((format!("waiting for nodes {missing:?} before the first commit"), ""));
        }
        let why = format!(
            "waiting for nodes {missing:?}; nodes {refused_by:?} have pinned another incarnation of this node: its id died \
             with its old data"
        );
        Some((why, REMEDY_DISOWNED))
    }

    /// One line: what it is, why, and what is to be done.
    pub fn line(&self) -> String {
        if let Self::Quarantined { reason, remedy } = self {
            return format!("quarantined: {reason}. {remedy}");
        }
        match self.waits() {
            Some((why, "")) => why,
            Some((why, remedy)) => format!("{why}. {remedy}"),
            None => self.name().to_owned(),
        }
    }

    /// One word, for metrics and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Pinning { .. } => "pinning",
            Self::Serving => "serving",
            Self::Quarantined { .. } => "quarantined",
            Self::Stopping => "stopping",
        }
    }
}

/// One member as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    pub id: NodeId,
    /// host:port other nodes reach it at.
    pub address: String,
    /// This node's stream to it is up (always true for itself).
    pub connected: bool,
    /// Highest log index known to be on its disk; only a leader knows.
    pub match_index: Option<u64>,
    /// What it last said it had applied.
    pub applied: Option<u64>,
    /// Its clock minus ours, if heard within 2 s; 0 for this node.
    pub clock_offset_ms: Option<i64>,
    /// Highest feature level its binary knows, once it has said hello.
    pub feature_level: Option<u32>,
    /// It told us that it quarantined itself.
    pub quarantined: bool,
    /// It receives the log and does not vote.
    pub learner: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    pub node_id: NodeId,
    pub cluster: Uuid,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub role: Role,
    /// Highest index known to be committed and handed to apply.
    pub commit: u64,
    pub applied: u64,
    pub last_index: u64,
    pub members: Vec<MemberStatus>,
    /// Replicated time (rule 7).
    pub time_ms: i64,
    /// Hash chain at `applied` (rule 15).
    pub chain: [u8; 32],
    pub phase: NodePhase,
    /// Replicated feature level (rule 9).
    pub level: u32,
    /// What must be looked at; empty when all is well.
    pub alarms: Vec<String>,
}

/// A condition of one node that an operator must see until it is gone. Members tell each other theirs, so that any of
/// them can answer for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAlarm {
    /// Stable name, such as `DISK_LOW`.
    pub kind: String,
    /// 1: to be looked at; 2: something does not work; 3: service is at risk.
    pub severity: u8,
    /// Since when, on that node's clock.
    pub since_ms: i64,
    pub text_ru: String,
    pub text_en: String,
}

/// What a member last said stands wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAlarms {
    pub node: NodeId,
    /// How long ago it said so, milliseconds; 0 for this node.
    pub heard_ms_ago: u64,
    pub alarms: Vec<MemberAlarm>,
}

/// Who votes, before or after a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QuorumPlan {
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    /// Votes it takes.
    pub quorum: usize,
    /// Voters heard within 2 s that have caught up.
    pub able: usize,
}

/// What a change of members leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberPlan {
    pub before: QuorumPlan,
    pub after: QuorumPlan,
}

/// A change of members that is in force, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Where it stands in the log; `None`: it was only tried.
    pub index: Option<u64>,
    pub plan: MemberPlan,
}

/// Why the members were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("this node does not lead")]
    NotLeader { leader: Option<NodeId> },
    #[error("this node has only begun to lead, and does not know yet how far all members are")]
    NotReady,
    #[error("leadership is being handed over")]
    Transferring,
    #[error("another change of members is under way")]
    InFlight,
    #[error(transparent)]
    Refused(#[from] MemberRefusal),
    #[error(
        "{} of {} voters would be able to carry a quorum of {}",
        .0.after.able, .0.after.voters.len(), .0.after.quorum
    )]
    QuorumWouldBeLost(Box<MemberPlan>),
    #[error("node {node} lacks {behind} entries, or was not heard within 2 s")]
    LearnerBehind { node: NodeId, behind: u64 },
    /// Of the cluster.
    #[error("feature level {level}, needed is {needs}")]
    LevelLow { level: u32, needs: u32 },
    /// The node's program does not know the cluster's level, or has not said what it knows.
    #[error("node {node} is not known to understand feature level {needs}")]
    LevelUnsupported { node: NodeId, level: Option<u32>, needs: u32 },
    /// It is the leader that is to go: hand leadership over first.
    #[error("the member to be removed leads")]
    Leads,
    /// Another leader replaced it: nothing happened.
    #[error("another leader replaced the change before it was committed")]
    NotApplied,
    #[error("the change may or may not take effect: look at the members")]
    OutcomeUnknown,
    #[error("the node is closed")]
    Closed,
}

/// A hash that must be the same on every member at this index (rule 15).
pub type Point = (u64, [u8; 32]);

/// What a member says its hashes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDigests {
    pub node: NodeId,
    /// Hash chain at multiples of 1,024 and at markers, oldest first; the last 16.
    pub chains: Vec<Point>,
    /// Digest of all rows at the newest marker it has digested.
    pub digest: Option<Point>,
}

/// Why leadership was not handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("this node does not lead")]
    NotLeader { leader: Option<NodeId> },
    #[error("no other member is near enough to take over")]
    NoTarget,
    #[error("the target is not a voting member other than the leader")]
    BadTarget,
    #[error("another transfer is under way")]
    Busy,
    #[error("the target did not take over in time")]
    TimedOut,
    /// Leadership went to another node than the one asked for.
    #[error("another member took over")]
    Elsewhere { leader: NodeId },
    #[error("the node is closed")]
    Closed,
}
