//! What a node is told: a TOML file, environment variables and flags.
//!
//! Precedence: flag > environment > file > default. Unknown keys are refused everywhere, and every error names
//! where it stands (file and line, variable or flag), the key and what was expected there. A setting never holds
//! a secret: keys are named by path.

pub mod channels;
mod load;
mod parse;

pub use channels::{ChannelsSection, ConnectorSection};
pub use load::{ENV_PREFIX, Override, Place, SettingsError, load};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

/// Where settings stand on an installed machine.
pub const SETTINGS_PATH: &str = "/etc/okno/okno.toml";

/// All settings of a node. Every field has a default except those `load` demands: `cluster.name`, `cluster.id`,
/// `node.id` and the certificate paths.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub cluster: ClusterSection,
    pub node: NodeSection,
    pub clients: ClientsSection,
    pub peers: PeersSection,
    pub ops: OpsSection,
    pub raft: RaftSection,
    pub actors: ActorsSection,
    pub storage: StorageSection,
    pub log: LogSection,
    pub tracing: TracingSection,
    pub security: SecuritySection,
    pub disk: DiskSection,
    pub scrub: ScrubSection,
    pub backup: BackupSection,
    pub power: PowerSection,
    pub channels: ChannelsSection,
    /// Connectors that this node starts and looks after, by name.
    pub connectors: BTreeMap<String, ConnectorSection>,
}

/// Which cluster this node belongs to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSection {
    /// The name in certificates: `okno://<name>/<kind>/<id>`. It outlives a restore, which gives the cluster a
    /// new id, so that the certificates of a region need not be issued again.
    pub name: String,
    /// The cluster id given to `okno init`; the data directory must carry the same.
    pub id: Option<uuid::Uuid>,
    /// Node id → host:port clients reach that node at, for lists of members. Nodes left out are told by id only.
    pub client_addresses: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSection {
    /// This node's id, from 1; it dies with its data directory.
    pub id: u64,
    pub data_dir: PathBuf,
    /// Threads that serve the network. Raft, apply and the shards have threads of their own.
    pub worker_threads: usize,
    /// How long SIGTERM waits for calls in flight after leadership was handed over.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self {
            id: 0,
            data_dir: PathBuf::from("/var/lib/okno"),
            worker_threads: 2,
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Paths of one side's certificates, PEM. Watched: a change is taken over without a restart.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSection {
    /// Authorities whose certificates are accepted here. Clients and peers have separate ones.
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Revocation lists. Once any is named, a certificate whose status no list tells is refused, and so is
    /// everything when a list has passed its next update.
    pub revocation_lists: Vec<PathBuf>,
}

/// The listener for clients (port 7400).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientsSection {
    #[serde(deserialize_with = "parse::socket_address")]
    pub listen: SocketAddr,
    /// host:port clients reach this node at; `listen` if empty.
    pub advertise: String,
    pub tls: TlsSection,
    /// Connections beyond this are closed at once.
    pub connections_max: usize,
    /// Handshakes at a time: they are the expensive part of a connection and come before authentication.
    pub handshakes_max: usize,
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// A connection is asked to end after this, so that new certificates reach every client.
    #[serde(with = "humantime_serde")]
    pub connection_age_max: Duration,
    /// HTTP/2 streams of one connection at a time.
    pub streams_per_connection_max: u32,
    /// A request larger than this is refused.
    pub message_size_max: ByteSize,
    /// For calls that carry no deadline.
    #[serde(with = "humantime_serde")]
    pub deadline_default: Duration,
    /// Watch streams at a time, over all clients.
    pub watches_max: usize,
    /// Attached workstations at a time.
    pub workstations_max: usize,
    /// A workstation is lost when nothing was heard of it for this long; 25 s at most, so that its window is marked
    /// within 30 s.
    #[serde(with = "humantime_serde")]
    pub workstation_lease: Duration,
}

impl Default for ClientsSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7400)),
            advertise: String::new(),
            tls: TlsSection::default(),
            connections_max: 4_096,
            handshakes_max: 64,
            handshake_timeout: Duration::from_secs(5),
            connection_age_max: Duration::from_secs(3_600),
            streams_per_connection_max: 256,
            message_size_max: ByteSize::mib(1),
            deadline_default: Duration::from_secs(15),
            watches_max: 2_048,
            workstations_max: 8_192,
            workstation_lease: Duration::from_secs(15),
        }
    }
}

/// The listener for the other nodes (port 7401).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeersSection {
    #[serde(deserialize_with = "parse::socket_address")]
    pub listen: SocketAddr,
    pub tls: TlsSection,
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// As for clients; a node's streams are opened again at once.
    #[serde(with = "humantime_serde")]
    pub connection_age_max: Duration,
}

impl Default for PeersSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7401)),
            tls: TlsSection::default(),
            handshake_timeout: Duration::from_secs(5),
            connection_age_max: Duration::from_secs(24 * 3_600),
        }
    }
}

/// Metrics and health (port 7402): plain HTTP without personal data; loopback unless told otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpsSection {
    #[serde(deserialize_with = "parse::socket_address")]
    pub listen: SocketAddr,
}

impl Default for OpsSection {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 7402)) }
    }
}

/// Timings of consensus (design §5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftSection {
    #[serde(with = "humantime_serde")]
    pub tick: Duration,
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    #[serde(with = "humantime_serde")]
    pub election_min: Duration,
    #[serde(with = "humantime_serde")]
    pub election_max: Duration,
    /// The log is kept for a member that was heard within this; who is away longer is sent a copy of the database.
    #[serde(with = "humantime_serde")]
    pub keep_log_for: Duration,
    /// Bytes of log kept for members that lag, about.
    pub keep_log_bytes: u64,
    /// Entries of the log kept in any case.
    pub keep_log_entries: u64,
    /// Bytes of a copy sent to another member in a second; 0: as fast as the network takes them.
    pub snapshot_bytes_per_second: u64,
}

impl Default for RaftSection {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(50),
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(1_000),
            keep_log_for: Duration::from_secs(600),
            keep_log_bytes: 4 << 30,
            keep_log_entries: 10_000,
            snapshot_bytes_per_second: 64 << 20,
        }
    }
}

/// Actors and their bounds (design §6).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActorsSection {
    /// Shards; each is one actor that owns the entities whose hash falls to it. 0: one per thread.
    pub shards: u16,
    /// Threads the shards run on. 0: by the number of cores.
    pub threads: usize,
    /// An entity nobody asked for this long leaves memory.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Entities in memory at a time, over all shards; the longest unused leave first.
    pub resident_max: usize,
    /// How often all members digest and compare all their rows, in the cluster's own time (rule 15).
    #[serde(with = "humantime_serde")]
    pub marker_every: Duration,
}

impl Default for ActorsSection {
    fn default() -> Self {
        Self {
            shards: 0,
            threads: 0,
            idle_timeout: Duration::from_secs(600),
            resident_max: 200_000,
            marker_every: Duration::from_secs(24 * 3_600),
        }
    }
}

/// RocksDB's memory and threads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    pub block_cache: ByteSize,
    pub write_buffers: ByteSize,
    pub background_jobs: u16,
}

impl Default for StorageSection {
    fn default() -> Self {
        Self { block_cache: ByteSize::mib(128), write_buffers: ByteSize::mib(128), background_jobs: 2 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    pub format: LogFormat,
    /// Directives of `tracing`, for example `info,okno_cluster=debug`. Requests are logged one by one from
    /// `okno::request=debug` on.
    pub filter: String,
}

impl Default for LogSection {
    fn default() -> Self {
        // The raft library (under `slog`) tells every vote; the cluster part tells what follows from them.
        Self { format: LogFormat::Json, filter: "info,slog=warn".into() }
    }
}

/// Spans of calls for a collector of traces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracingSection {
    /// Where a collector takes OTLP over gRPC, as `http://host:port`. Without TLS: the collector's agent is on this machine
    /// or on the servers' own network. Empty: no spans are made.
    pub otlp_endpoint: String,
    /// The part of calls that get a span when their caller does not say, from 0 to 1.
    pub sample_ratio: f64,
}

impl Default for TracingSection {
    fn default() -> Self {
        Self { otlp_endpoint: String::new(), sample_ratio: 0.01 }
    }
}

/// The log of security events (design §8).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecuritySection {
    /// Record reads of personal data too, and refuse them when they cannot be recorded.
    pub record_reads: bool,
    /// Records written are synced together at least this often.
    #[serde(with = "humantime_serde")]
    pub sync_interval: Duration,
}

impl Default for SecuritySection {
    fn default() -> Self {
        Self { record_reads: true, sync_interval: Duration::from_millis(200) }
    }
}

/// Free space below which a level begins: the smaller of the two.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdSection {
    /// Per cent of the file system.
    pub percent: f64,
    pub bytes: ByteSize,
}

/// How full the disk of the data directory may become.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskSection {
    /// Below this an alarm is raised.
    pub warn: ThresholdSection,
    /// Below this no case is opened, no ticket given out, no catalogue loaded; what was begun can be finished.
    pub stop_new: ThresholdSection,
    /// Below this nothing is written; reading goes on.
    pub stop: ThresholdSection,
    /// Size of a file that is held in reserve and given back at `stop`, so that compaction and the cutting of the log
    /// have room; at most 1 % of the file system. 0: none.
    pub reserve: ByteSize,
}

impl Default for DiskSection {
    fn default() -> Self {
        let at = |percent, bytes| ThresholdSection { percent, bytes };
        Self {
            warn: at(10.0, ByteSize::gib(20)),
            stop_new: at(5.0, ByteSize::gib(5)),
            stop: at(2.0, ByteSize::gib(1)),
            reserve: ByteSize::mib(64),
        }
    }
}

/// Reading the whole store through, to find damage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubSection {
    /// From the beginning of one pass to the next.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// From the start of the node to its first pass.
    #[serde(with = "humantime_serde")]
    pub first_after: Duration,
    /// Bytes read a second.
    pub rate: ByteSize,
}

impl Default for ScrubSection {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(7 * 24 * 3_600),
            first_after: Duration::from_secs(600),
            rate: ByteSize::mib(8),
        }
    }
}

/// Backups of data and software, and the log archive between them (R-R6).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupSection {
    /// Directory on another medium, prepared by `oknoctl backup init`; empty: this node makes no backups. Several nodes
    /// may share one.
    pub target: PathBuf,
    /// Age of the newest backup at which the next one is due.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// Public keys (age1…) that can read the backups; the secret ones never come near a node. Empty: not encrypted.
    pub recipients: Vec<String>,
    /// Bytes a second read and written at most; 0: unbounded.
    pub rate: ByteSize,
    /// Archive the log between backups, so that any moment can be restored.
    pub archive: bool,
    /// How often the log is archived.
    #[serde(with = "humantime_serde")]
    pub archive_every: Duration,
    /// How often everything on the target is read again and compared with its sums; 0s: never.
    #[serde(with = "humantime_serde")]
    pub scrub_every: Duration,
    /// Allow a target on the medium that holds the data (a lost disk then takes both); an alarm says so for as long.
    pub same_medium: bool,
    /// Newest backups kept, and of how many days, weeks and months (UTC) the newest each.
    pub keep_last: usize,
    pub keep_daily: usize,
    pub keep_weekly: usize,
    pub keep_monthly: usize,
    /// Files kept with the data beside the programs and the settings. No keys: whoever reads a backup has them.
    pub more_files: Vec<PathBuf>,
}

impl Default for BackupSection {
    fn default() -> Self {
        Self {
            target: PathBuf::new(),
            every: Duration::from_secs(12 * 3_600),
            recipients: Vec::new(),
            rate: ByteSize::mib(32),
            archive: true,
            archive_every: Duration::from_secs(2),
            scrub_every: Duration::from_secs(7 * 24 * 3_600),
            same_medium: false,
            keep_last: 2,
            keep_daily: 7,
            keep_weekly: 5,
            keep_monthly: 12,
            more_files: Vec::new(),
        }
    }
}

/// Uninterruptible supplies, and what is done when mains is lost (R-R4, `docs/power.md`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PowerSection {
    /// Power units this machine cannot do without, of those that its supplies give together.
    pub needs: u32,
    /// How often each `upsd` is asked.
    #[serde(with = "humantime_serde")]
    pub poll_every: Duration,
    /// Longest time on battery; the node leaves after it.
    #[serde(with = "humantime_serde")]
    pub battery_max: Duration,
    /// The node leaves when a battery says that it lasts for less.
    #[serde(with = "humantime_serde")]
    pub runtime_min: Duration,
    /// The node leaves at this charge, in percent.
    pub charge_min: u8,
    /// A battery must be low for this long before it is believed: figures jump when a supply changes over.
    #[serde(with = "humantime_serde")]
    pub confirm: Duration,
    /// A supply that was not heard for this long is lost; on battery the node then leaves.
    #[serde(with = "humantime_serde")]
    pub lost_after: Duration,
    /// Mains must stand for this long before it counts as back.
    #[serde(with = "humantime_serde")]
    pub steady: Duration,
    /// Between the end of intake and the way down: time to end what was begun.
    #[serde(with = "humantime_serde")]
    pub finish_within: Duration,
    /// Run when everything is on the disk and the node leaves for want of power; empty: nothing. The program and its
    /// arguments, run as the node's user.
    pub shutdown_command: Vec<String>,
    /// The supplies of this machine; none: power is not watched.
    pub ups: Vec<UpsSection>,
}

impl Default for PowerSection {
    fn default() -> Self {
        Self {
            needs: 1,
            poll_every: Duration::from_secs(1),
            battery_max: Duration::from_secs(15 * 60),
            runtime_min: Duration::from_secs(120),
            charge_min: 10,
            confirm: Duration::from_secs(3),
            lost_after: Duration::from_secs(10),
            steady: Duration::from_secs(30),
            finish_within: Duration::from_secs(5),
            shutdown_command: Vec::new(),
            ups: Vec::new(),
        }
    }
}

/// One supply, asked through Network UPS Tools.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpsSection {
    /// As NUT names it: `name@host` or `name@host:port`.
    pub name: String,
    /// Power units of this machine that hang on it.
    pub supplies: u32,
    /// A user of `upsd` (`upsmon secondary`), so that the primary waits for this node before it cuts the power.
    pub user: String,
    /// File that holds the user's password, alone on its line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

impl Default for UpsSection {
    fn default() -> Self {
        Self { name: String::new(), supplies: 1, user: String::new(), password_file: None }
    }
}

impl Settings {
    /// Address clients are told to reach this node at.
    pub fn clients_advertised(&self) -> String {
        if self.clients.advertise.is_empty() {
            self.clients.listen.to_string()
        } else {
            self.clients.advertise.clone()
        }
    }

    /// The effective settings as a file that would give them.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("settings are tables of plain values, which TOML can hold")
    }
}
