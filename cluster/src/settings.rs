//! Timings and bounds of the cluster part. Every bound is named here with its reason (rule 10).

use crate::core::retention::Retention;
use std::time::Duration;

/// Highest replicated feature level this release knows (rule 9); what this process knows is [`level::known`].
pub use okno_storage::level::{self, FEATURE_LEVEL};
/// From this level on members can be changed: configuration entries carry a change of ours.
pub const MEMBERS_LEVEL: u32 = 2;
/// Entries a member may lack and still count as one that has caught up: a moment's work (design §5).
pub const CAUGHT_UP: u64 = 1_000;
/// Version of the protocol between nodes; peers of another version are refused at the handshake.
pub const PROTOCOL: u32 = 1;

/// Proposals whose outcome is open. 16,384 commits are about a second of work at the aimed rate; their outcome
/// slots are what lets raft and apply deliver without ever blocking (rule 11).
pub const IN_FLIGHT_MAX: usize = 16_384;
/// Bytes of those proposals: they stand in memory until applied.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// Reads and waits for an index that are open; one slot is some 100 bytes.
pub const READS_MAX: usize = 65_536;
/// ReadIndex rounds under way: one travels, one is about to; more would only add heartbeats.
pub const READ_ROUNDS_MAX: usize = 2;
/// Committed entries not yet applied beyond which the leader admits nothing and a follower drops MsgAppend
/// (rule 11): twice what may be in flight, so that a healthy leader never meets it.
pub const BACKLOG_MAX: u64 = 2 * IN_FLIGHT_MAX as u64;
/// Bytes of entries in one MsgAppend; with framing it stays far below [`FRAME_BYTES_MAX`] (trap 9).
pub const APPEND_BYTES_MAX: u64 = 1 << 20;
/// MsgAppends under way to one follower. Of the largest size they are 24 MiB, which fits the peer's queue: for a
/// follower that lags raft reads and sends them all in one turn. Under load more is not needed, because what waits
/// for a slot leaves in one larger message.
pub const APPENDS_IN_FLIGHT_MAX: usize = 24;
/// Bytes of entries that one MsgPropose may hold: a batch is one append and one fsync on every node.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// A copy for members that lack what was cut is kept this long after its last use, for the next who needs it; one that
/// could not be taken is not tried again before.
pub const COPY_KEPT_MS: u64 = 30_000;
/// Transfers of one copy in a row that may fail, for a line or a receiver that breaks off, before another copy is taken.
pub const COPY_FAILURES_MAX: u32 = 3;
/// Messages waiting for the raft thread; raft sends again what is dropped.
pub const INBOX_MESSAGES_MAX: usize = 16_384;
/// Entries in one apply batch: bounds the batch's memory and how long outcomes wait for it.
pub const SLICE_ENTRIES_MAX: u64 = 1_024;
/// Bytes of entries in one apply batch.
pub const SLICE_BYTES_MAX: usize = 2 << 20;
/// Distance of the indexes at which members compare their hash chains (rule 15).
pub const CHAIN_EVERY: u64 = 1_024;
/// Messages waiting for one peer; raft sends again what is dropped.
pub const PEER_QUEUE_MESSAGES_MAX: usize = 4_096;
/// Bytes of entries waiting for one peer.
pub const PEER_QUEUE_BYTES_MAX: usize = 32 << 20;
/// Nodes admitted by their certificate that are no founders: as many as members there can be, and as many again that were
/// made and not yet added.
pub const ADMITTED_MAX: usize = 62;
/// Alarms one member tells the others: kinds are few and fixed, so more are a fault of the speaker's.
pub const ALARMS_MAX: usize = 64;
/// Bytes of each text of an alarm that is told to other members: a sentence or two.
pub const ALARM_TEXT_BYTES_MAX: usize = 1_024;
/// Forwarded calls waiting for their answer, per peer and direction.
pub const FORWARDS_MAX: usize = 16_384;
/// A forwarded call's body: twice the largest client message.
pub const FORWARD_BYTES_MAX: usize = 2 << 20;
/// Bytes put into one frame; one message more may follow.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// What a receiver takes: a full frame plus the largest single message.
pub const FRAME_RECEIVE_MAX: usize = 16 << 20;

/// What a node's settings file may change.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// One tick of raft's logical clock.
    pub tick: Duration,
    /// A leader's heartbeat, rounded up to ticks.
    pub heartbeat: Duration,
    /// Election timeouts are drawn from this range, rounded to ticks.
    pub election_min: Duration,
    pub election_max: Duration,
    /// Proposals are parked at most this long while leadership is handed over.
    pub transfer_park: Duration,
    /// A ReadIndex round that is not confirmed by then is asked again, under a new context (trap 6).
    pub read_round: Duration,
    /// A shard's question whether this node still leads is answered "timed out" after this.
    pub read_timeout: Duration,
    /// The watchdog gives up on a disk that does not return (rule 11).
    pub disk_hung: Duration,
    /// A disk slower than this for one append hands leadership over.
    pub disk_slow: Duration,
    /// The log is kept for a member that was heard within this; who is away longer is sent a copy.
    pub keep_log_for: Duration,
    /// Bytes of log kept for members that lag, about.
    pub keep_log_bytes: u64,
    /// Entries of the log kept in any case.
    pub keep_log_entries: u64,
    /// Bytes of a copy sent to another member in a second; 0: as fast as the network takes them.
    pub snapshot_bytes_per_second: u64,
    /// Makes the election timeouts differ between clusters; the same seed gives the same timeouts.
    pub seed: u64,
    /// Cluster name a peer's certificate must carry; `None` checks the node id alone.
    pub certificate_cluster: Option<String>,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(50),
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(1_000),
            transfer_park: Duration::from_secs(2),
            read_round: Duration::from_millis(250),
            read_timeout: Duration::from_secs(2),
            disk_hung: Duration::from_secs(10),
            disk_slow: Duration::from_secs(1),
            keep_log_for: Duration::from_secs(600),
            keep_log_bytes: 4 << 30,
            keep_log_entries: 10_000,
            snapshot_bytes_per_second: 64 << 20,
            seed: 0,
            certificate_cluster: None,
        }
    }
}

impl ClusterSettings {
    /// Says what is wrong with the timings, naming the setting.
    pub fn check(&self) -> Result<(), String> {
        if self.tick.is_zero() || self.tick > Duration::from_secs(1) {
            return Err("cluster.tick: expected more than 0 and at most 1s".into());
        }
        if self.heartbeat < self.tick {
            return Err("cluster.heartbeat: expected at least cluster.tick".into());
        }
        if self.election_min < self.heartbeat * 3 {
            return Err("cluster.election_min: expected at least three heartbeats".into());
        }
        if self.election_max < self.election_min + self.tick * 2 {
            return Err(
                "cluster.election_max: expected at least two ticks more than cluster.election_min".into()
            );
        }
        if self.keep_log_entries == 0 {
            return Err("cluster.keep_log_entries: expected at least 1".into());
        }
        if self.snapshot_bytes_per_second != 0 && self.snapshot_bytes_per_second < 1 << 16 {
            return Err("cluster.snapshot_bytes_per_second: expected 0 or at least 64 KiB".into());
        }
        if self.disk_hung < self.disk_slow {
            return Err("cluster.disk_hung: expected at least cluster.disk_slow".into());
        }
        Ok(())
    }

    /// How much of the log is kept.
    pub fn retention(&self) -> Retention {
        Retention { tail: self.keep_log_entries, bytes_max: self.keep_log_bytes }
    }

    /// A duration in ticks, rounded up, at least one.
    pub fn ticks(&self, span: Duration) -> usize {
        let tick = self.tick.as_micros().max(1);
        usize::try_from(span.as_micros().div_ceil(tick)).unwrap_or(usize::MAX).max(1)
    }
}
