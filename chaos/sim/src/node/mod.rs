//! A simulated machine and the node that runs on it. The machine — disk, clocks — outlives the process; a process is a
//! [`Live`], made of the production code's stores and cores, with virtual threads around them.
//!
//! | module | the production shell it stands for |
//! |---|---|
//! | [`raft`] | raft thread, transport's inlet |
//! | [`copies`] | copies of the database, sent and received |
//! | [`apply`] | apply thread, digests |
//! | [`shards`] | shard and entity actors |
//! | [`tasks`] | courier, timer scanner |
//! | [`gateway`] | gateway, reads, forwarded calls |
//! | [`streams`] | streams of connectors |
//! | [`keepers`] | keepers of deliveries and of workstations |

mod apply;
mod copies;
mod gateway;
mod keepers;
mod machine;
mod raft;
mod shards;
mod streams;
mod tasks;

pub use gateway::From;
pub use machine::{Disk, Machine};
pub use shards::Handle;

use crate::{
    clock::Clock,
    config::Kind,
    core::{Core, End, Exit},
    queue::{Wakeup, What},
};
use copies::Copies;
use gateway::Gateway;
use keepers::Keepers;
use okno_cluster::{
    ClusterSettings,
    api::{Role, RoleState},
    core::{
        change::Known,
        clock::Verdict,
        driver::{Driver, SYNCED_EVERY_MS, Timing},
        event::{Event, Persist},
        log_view::Unreadable,
        open::{OpenError, open},
        pins::Members,
        retention::EntryBytes,
        steps,
        table::Table,
    },
    shell::peers::Peers,
};
use okno_runtime::{
    cell::{CellEnv, CommitCounter},
    courier::{self, Courier},
    depth::Depths,
    timers::{self, Scanner},
    world::Worlds,
};
use okno_storage::{
    engine::Engine,
    error::StorageError,
    identity::Identity,
    log::{LogEntry, LogStore},
    members::{MemberChange, Members as MemberTable},
    snapshot::{Home, MemoryHome},
    state::{StateReader, StateStore},
};
use shards::Host;
use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use uuid::Uuid;

/// Production's times.
pub const TICK_MS: u64 = 50;
/// Entries a learner may lack when it is promoted: runs are short, so what counts as caught up must be, too.
pub const CAUGHT_UP: u64 = 20;
pub const GOSSIP_MS: u64 = 250;
pub const READ_TIMEOUT_MS: u64 = 2_000;
pub const DISK_SLOW_US: u64 = 1_000_000;
pub const DISK_HUNG_US: u64 = 10_000_000;
pub const HAND_OVER_EVERY_MS: u64 = 30_000;
const _: () = assert!(SYNCED_EVERY_MS > TICK_MS, "the synced mark is noted at ticks");

/// The raft thread's mailbox and what it is doing.
#[derive(Default)]
struct RaftThread {
    events: Vec<Event>,
    messages: usize,
    applied: Option<(u64, bool)>,
    pins: bool,
    /// Who came after the founders is to be pinned.
    later_pins: bool,
    tick_due: bool,
    ticks: u64,
    /// Wakes when apply has moved: waiting to become ready.
    wanted: bool,
    wake: Wakeup,
    append: Option<Append>,
    appends: u64,
    /// Of a founding asked for in the turn whose append is under way.
    found: Option<u64>,
    handed_over_ms: Option<u64>,
    /// Changes of members that were asked for here and not answered: a disk that hangs keeps them waiting.
    changes_asked: usize,
}

/// An append under way.
struct Append {
    number: u64,
    persist: Persist,
    began_us: u64,
    fails: bool,
}

#[derive(Default)]
struct ApplyThread {
    watermark: u64,
    wake: Wakeup,
    stopped: bool,
}

/// A task with an inbox: courier or scanner.
struct Task<C, E> {
    core: C,
    inbox: VecDeque<E>,
    wake: Wakeup,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Pinning,
    Serving,
    Quarantined,
}

/// A running process.
pub struct Live {
    pub ix: usize,
    pub boot: u32,
    began_us: u64,
    pub clock: Clock,
    pub phase: Phase,
    /// Its data were damaged: what it does about it is no breach.
    pub damaged: bool,
    identity: Identity,
    log: LogStore,
    state: StateStore,
    pub reader: StateReader,
    driver: Option<Driver>,
    unreadable: Unreadable,
    founded: bool,
    /// The founding commit was applied while this process ran.
    founded_here: bool,
    table: Table,
    members: Members,
    /// Whose hello was taken, and which incarnation it named.
    greeted: BTreeMap<usize, Uuid>,
    peers: Peers,
    pub role: RoleState,
    intake_stopped: bool,
    /// Slots of open proposals and reads.
    proposals: usize,
    reads_open: usize,
    raft: RaftThread,
    apply: ApplyThread,
    shards: Vec<Host>,
    env: Arc<CellEnv>,
    /// The cluster's, as cells are told of it; a copy may bring a later one.
    generation: Arc<AtomicU64>,
    worlds: Arc<Worlds>,
    panics: Arc<shards::Panics>,
    courier: Task<Courier, courier::Event>,
    scanner: Task<Scanner, timers::Event>,
    /// Last told to courier and scanner.
    told_term: Option<Option<u64>>,
    gateway: Gateway,
    keepers: Keepers,
    streams: streams::Streams,
    home: Arc<MemoryHome>,
    copies: Copies,
    /// Copies that this process has installed.
    installs: u64,
    /// A change of members that apply has reached and the raft thread has not answered.
    reached: Option<(LogEntry, steps::Reached)>,
    known: Known,
    entry_bytes: EntryBytes,
}

/// Why a process did not come up.
#[derive(Debug)]
pub enum StartError {
    /// The disk does not answer as a disk: start again.
    Io(String),
    /// What is on the disk is wrong.
    Wrong(String),
}

impl core::convert::From<StorageError> for StartError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Io { .. } | StorageError::Engine(_) => Self::Io(error.to_string()),
            _ => Self::Wrong(error.to_string()),
        }
    }
}

fn set_members(peers: &mut Peers, table: &MemberTable) {
    let all = table.current.iter().map(|m| m.node_id).collect();
    peers.set_members(&table.voters().collect(), &all);
}

pub fn timing(seed: u64) -> Timing {
    let timing = Timing::from(&ClusterSettings { seed, ..ClusterSettings::default() });
    Timing { caught_up: CAUGHT_UP, ..timing }
}

impl Live {
    /// Starts a process from what the machine's disk holds.
    pub fn start(machine: &Machine, boot: u32, seed: u64, w: &mut Core) -> Result<Self, StartError> {
        let identity = Identity::open(Box::new(machine.medium.clone()))?;
        let record = identity.record().clone();
        let home = MemoryHome::new(&machine.store, &record.live_directory)
            .ok_or_else(|| StartError::Wrong("the database that `identity` names is not there".into()))?;
        let engine: Arc<dyn Engine> = home.engine();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let opened =
            open(&engine, &record, timing(seed), u64::from(boot), &logger).map_err(|error| match error {
                OpenError::Storage(error) => StartError::from(error),
                other => StartError::Wrong(other.to_string()),
            })?;
        let driver = opened.driver.map_err(|wrong| StartError::Wrong(wrong.reason))?;
        let ix = usize::try_from(record.node_id - 1).unwrap_or(usize::MAX);
        if !machine.damaged {
            w.watch.begins_with(ix, driver.term(), driver.vote());
        }
        let reader = opened.state.reader();
        let (applied, _) = reader.applied();
        let worlds = Arc::new(Worlds::open(reader.clone())?);
        let depths = Arc::new(Depths::default());
        let node = okno_domain::entity::Principal { kind: "node".into(), id: record.node_id.to_string() };
        let generation = Arc::new(AtomicU64::new(record.later.generation));
        let decided_in = Arc::clone(&generation);
        let members = Members::new(&record, opened.table.clone());
        let mut peers = Peers::new(record.node_id, opened.table.voters().count());
        set_members(&mut peers, &opened.table);
        let phase = if members.pinned() { Phase::Serving } else { Phase::Pinning };
        let mut live = Self {
            ix,
            boot,
            began_us: machine.clock.mono_us(w.now),
            clock: machine.clock,
            phase,
            damaged: machine.damaged,
            identity,
            log: opened.log,
            state: opened.state,
            reader: reader.clone(),
            driver: Some(driver),
            unreadable: opened.unreadable,
            founded: opened.founded,
            founded_here: false,
            table: Table::new(applied),
            members,
            greeted: BTreeMap::new(),
            peers,
            role: RoleState { term: record.term, role: Role::Follower { leader: None } },
            intake_stopped: false,
            proposals: 0,
            reads_open: 0,
            raft: RaftThread::default(),
            apply: ApplyThread { watermark: applied, ..ApplyThread::default() },
            shards: (0..w.tune.shards).map(|id| Host::new(id, w.tune.shard.clone(), w.tune.shards)).collect(),
            env: Arc::new(CellEnv {
                worlds: Arc::clone(&worlds),
                depths: Arc::clone(&depths),
                counter: CommitCounter::default(),
                node,
                generation: Arc::new(move || decided_in.load(Ordering::Relaxed)),
            }),
            generation,
            worlds,
            panics: Arc::clone(&machine.panics),
            courier: Task { core: Courier::new(depths), inbox: VecDeque::new(), wake: Wakeup::default() },
            scanner: Task {
                core: Scanner::new(w.tune.marker_every_ms),
                inbox: VecDeque::new(),
                wake: Wakeup::default(),
            },
            told_term: None,
            gateway: Gateway::default(),
            keepers: Keepers::default(),
            streams: streams::Streams::default(),
            home: Arc::new(home),
            copies: Copies::new(machine.disk.armed == Some(Kind::CutCopy)),
            installs: 0,
            reached: None,
            known: Known::default(),
            entry_bytes: EntryBytes::default(),
        };
        w.of[ix] = record.cluster;
        w.members(ix, live.members.table());
        live.tell_role(w);
        live.look_at_pins(w);
        let first = live.clock.span_us(TICK_MS * 1_000);
        live.at(w, first, What::Tick);
        let gossip = 1 + w.wake_us(ix) * 50;
        live.at(w, gossip, What::Gossip);
        Ok(live)
    }

    // Time as this machine sees it.

    /// Monotonic, milliseconds since the process began, from 1.
    pub fn now_ms(&self, w: &Core) -> u64 {
        self.clock.mono_us(w.now).saturating_sub(self.began_us) / 1_000 + 1
    }

    pub fn wall_ms(&self, w: &Core) -> i64 {
        self.clock.wall_ms(w.now, w.together_ms)
    }

    fn at(&self, w: &mut Core, after_us: u64, what: What) {
        w.at_node(self.ix, self.boot, after_us, what);
    }

    /// Schedules something at a moment of this machine's monotonic clock.
    fn at_mono(&self, w: &mut Core, at_ms: u64, what: What) {
        let after = self.after_us(w, at_ms);
        self.at(w, after, what);
    }

    /// True time until a moment of this machine's monotonic clock.
    fn after_us(&self, w: &Core, at_ms: u64) -> u64 {
        let left = at_ms.saturating_sub(self.now_ms(w)) * 1_000;
        self.clock.span_us(left).max(1)
    }

    /// What the clocks say now.
    fn verdict(&self, w: &Core) -> Verdict {
        self.peers.verdict(self.wall_ms(w), self.now_ms(w))
    }

    pub fn is_open(&self) -> bool {
        self.phase != Phase::Quarantined
    }

    pub fn leads(&self) -> bool {
        matches!(self.role.role, Role::Leader { .. })
    }

    pub fn ready(&self) -> bool {
        self.role.leading_term().is_some()
    }

    /// The leader this node knows, itself included.
    pub fn leader(&self) -> Option<u64> {
        match self.role.role {
            Role::Leader { .. } => Some(self.ix as u64 + 1),
            Role::Follower { leader } => leader,
            Role::Candidate => None,
        }
    }

    /// Who belongs to the cluster, as applied here.
    pub fn member_table(&self) -> &MemberTable {
        self.members.table()
    }

    /// The hello of this incarnation of a node was taken by this process.
    pub fn has_greeted(&self, node: usize, incarnation: Uuid) -> bool {
        self.greeted.get(&node) == Some(&incarnation)
    }

    /// Its connections to a node are gone.
    pub fn disconnected(&mut self, node: usize) {
        self.greeted.remove(&node);
    }

    pub fn first_index(&self) -> u64 {
        self.log.first_index()
    }

    pub fn last_index(&self) -> u64 {
        self.log.last_index()
    }

    /// A change of members was asked for and not answered, or stands in the log and is not applied.
    pub fn is_changing(&self) -> bool {
        let asked = self.raft.changes_asked > 0 && self.phase != Phase::Quarantined;
        asked || self.driver.as_ref().is_some_and(Driver::is_changing)
    }

    /// Have all of these been taken out, as far as this node has applied?
    pub fn has_removed(&self, nodes: &[u64]) -> bool {
        let table = self.driver.as_ref().map(Driver::table);
        table.is_some_and(|table| nodes.iter().all(|node| table.is_removed(*node)))
    }

    /// Asks for a change of members; what becomes of it is seen in the table.
    pub fn change(&mut self, w: &mut Core, change: MemberChange) {
        self.raft.changes_asked += 1;
        self.push(w, Event::Change { ticket: 0, change, dry_run: false });
    }

    pub fn applied(&self) -> u64 {
        self.state.mark().index
    }

    pub fn watermark(&self) -> u64 {
        self.apply.watermark
    }

    /// The process ends after this event.
    fn exit(&self, w: &mut Core, how: End, reason: String, expected: bool) {
        let expected = expected || self.damaged;
        w.exits.push(Exit { node: self.ix, how, reason, expected });
    }

    /// What an error of the stores comes to (rule 12).
    fn failed(&mut self, w: &mut Core, what: &str, error: &StorageError) {
        match error {
            StorageError::Io { .. } | StorageError::Engine(_) => {
                self.exit(w, End::Killed, format!("{what}: {error}"), false);
            }
            _ => self.quarantine(w, &format!("{what}: {error}")),
        }
    }

    /// Closes the node to raft and clients.
    pub fn quarantine(&mut self, w: &mut Core, reason: &str) {
        if self.phase == Phase::Quarantined {
            return;
        }
        self.phase = Phase::Quarantined;
        w.watch_quarantine(self.ix, self.damaged, reason);
        self.push(w, Event::Close);
        self.apply.stopped = true;
        let mut answers = okno_cluster::core::table::Answers::default();
        self.table.close(okno_cluster::api::Unknown::Closed, &mut answers);
        self.deliver(w, answers);
    }

    /// One event of this process. False: it came to nothing.
    pub fn on(&mut self, what: What, due: u64, w: &mut Core) -> bool {
        match what {
            What::Tick => self.tick(w),
            What::Raft => {
                if !self.raft.wake.take(due) {
                    return false;
                }
                self.raft_turn(w);
            }
            What::Disk => self.disk_done(w),
            What::Apply => {
                if !self.apply.wake.take(due) {
                    return false;
                }
                self.apply_turn(w);
            }
            What::Shard(shard) => {
                let shard = usize::from(shard);
                if !self.shards[shard].wake.take(due) {
                    return false;
                }
                self.shard_turn(w, shard);
            }
            What::Decide { shard, activation } => self.decide(w, usize::from(shard), activation),
            What::Courier => {
                if !self.courier.wake.take(due) {
                    return false;
                }
                self.courier_turn(w);
            }
            What::Scanner => {
                if !self.scanner.wake.take(due) {
                    return false;
                }
                self.scanner_turn(w);
            }
            What::Gossip => self.gossip(w),
            What::Call { call, round } => return self.call_again(w, call, round),
            What::Deadline(call) => return self.call_expired(w, call),
            What::Received(id) => return self.received_expired(w, id),
            What::Watchdog { append } => {
                if self.raft.append.as_ref().is_none_or(|a| a.number != append) {
                    return false;
                }
                self.exit(w, End::Killed, "the disk does not answer".into(), true);
            }
            What::Copy => self.take_copy(w),
            What::CopyPatience(transfer) => self.transfer_patience(w, transfer),
            What::Cut(how) => self.exit(w, how, "the end came during an append".into(), true),
            What::Halt => self.exit(w, End::Killed, "stopped".into(), true),
            What::Unreachable(node) => self.unreachable(w, node),
            What::Arrive(_) | What::Client { .. } | What::Start { .. } | What::Fault(_) => return false,
        }
        true
    }

    /// What waits where, for the invariant on bounds.
    pub fn sample(&self, w: &mut Core) {
        use okno_cluster::settings::INBOX_MESSAGES_MAX;
        let (proposals_max, reads_max, calls_max) =
            (w.tune.in_flight_max.max(crate::tune::TURN_MAX), w.tune.reads_max, w.tune.shard.calls_max);
        w.watch.peak("raft messages waiting", self.raft.messages, INBOX_MESSAGES_MAX);
        w.watch.peak("proposals in flight", self.proposals, proposals_max);
        w.watch.peak("proposals in the table", self.table.waiting(), proposals_max);
        w.watch.peak("reads open", self.reads_open, reads_max);
        for host in &self.shards {
            w.watch.peak("callers of a shard", host.callers, calls_max);
            w.watch.peak("mailbox of an entity", host.deepest(), 256);
        }
    }

    /// Attempts of clients that this process answers for.
    pub fn attempts(&self) -> Vec<(usize, u64)> {
        self.gateway.attempts()
    }
}

/// Remembers the stamp a turn was given, so that it can be judged.
#[derive(Default)]
struct Stamped(Cell<Option<i64>>);

pub(crate) type Map<K, V> = BTreeMap<K, V>;
