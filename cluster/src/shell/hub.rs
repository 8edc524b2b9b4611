//! What the raft thread, the apply thread, the transport and the handle share.
//!
//! Lock order: none of the locks here is held while another is taken, nor while a port, a listener or the
//! transport is called.

use super::{
    copies::Copies,
    fatal::Fatal,
    inbox::Inbox,
    peers::{Disagreement, Peers},
};
use crate::{
    api::{
        ApplyListener, Lane, NodeId, NotApplied, ProposalOutcome, ReadError, Role, RoleState, Settled,
        ShardNotice, ShardPort, StampError, Unknown,
    },
    core::{
        agreement::Finding,
        change::{Configured, Known},
        clock::{self, HEARD_WITHIN_MS, Verdict},
        event::{Event, ReadId, ReadRequest},
        pins::Members,
        table::{Answers, Table},
    },
    settings::{ClusterSettings, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX, READS_MAX, level},
    status::{ChangeError, Changed, MemberAlarm, NodePhase, TransferError},
    transport::{ForwardHandler, Gossip, Transport},
};
use okno_storage::{log::LogStore, members::Members as MemberTable, state::StateReader};
use parking_lot::{Condvar, Mutex, RwLock};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Instant,
};
use tokio::sync::{oneshot, watch};

#[derive(Default)]
struct ApplyState {
    watermark: u64,
    stopped: bool,
    /// What the configuration entry that apply waits at led to.
    configured: Option<Configured>,
    /// Copies installed: what apply had in hand before one counts no more.
    installs: u64,
}

/// How far apply may go.
#[derive(Default)]
pub struct ApplySignal {
    state: Mutex<ApplyState>,
    wake: Condvar,
}

impl ApplySignal {
    fn change(&self, change: impl FnOnce(&mut ApplyState)) {
        change(&mut self.state.lock());
        self.wake.notify_one();
    }
    pub fn raise(&self, watermark: u64) {
        self.change(|s| s.watermark = s.watermark.max(watermark));
    }
    pub fn stop(&self) {
        self.change(|s| s.stopped = true);
    }
    pub fn configured(&self, configured: Configured) {
        self.change(|s| s.configured = Some(configured));
    }
    pub fn installed(&self) {
        self.change(|s| s.installs += 1);
    }
    /// Waits until there is something beyond `applied`; `None` when stopped.
    pub fn wait(&self, applied: u64) -> Option<u64> {
        let mut state = self.state.lock();
        while state.watermark <= applied && !state.stopped {
            self.wake.wait(&mut state);
        }
        (!state.stopped).then_some(state.watermark)
    }
    pub fn installs(&self) -> u64 {
        self.state.lock().installs
    }
    /// Waits for what the entry at `index` led to (rule 11); `None` when stopped, or when a copy was installed since
    /// `installs` were counted.
    pub fn wait_configured(&self, index: u64, installs: u64) -> Option<Configured> {
        let mut state = self.state.lock();
        loop {
            if state.stopped || state.installs != installs {
                return None;
            }
            if let Some(configured) = state.configured.take_if(|c| c.index == index) {
                return Some(configured);
            }
            self.wake.wait(&mut state);
        }
    }
}

/// What the raft thread last said of itself, for the status.
#[derive(Debug, Clone, Default)]
pub struct RaftFacts {
    pub leader: Option<NodeId>,
    pub commit: u64,
    pub last_index: u64,
    pub first_index: u64,
    pub matches: Vec<(NodeId, u64)>,
}

/// Upper bounds of the classes in which appends are counted, microseconds; the last class is open.
pub const APPEND_BOUNDS_US: [u64; 12] =
    [250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// Counters; they only grow.
#[derive(Default)]
pub struct Counters {
    pub turns: AtomicU64,
    pub fsyncs: AtomicU64,
    pub entries: AtomicU64,
    pub proposals: AtomicU64,
    pub persist_us: AtomicU64,
    pub apply_us: AtomicU64,
    pub apply_slices: AtomicU64,
    pub applied: AtomicU64,
    pub reads: AtomicU64,
    pub refused_messages: AtomicU64,
    pub dropped_messages: AtomicU64,
    pub forwards_received: AtomicU64,
    pub elections: AtomicU64,
    /// Appends that took longer than `disk_slow`.
    pub slow_appends: AtomicU64,
    /// Appends by how long they took; see [`APPEND_BOUNDS_US`].
    pub appends: [AtomicU64; APPEND_BOUNDS_US.len() + 1],
    /// Messages with entries that were not taken in because the disk is full.
    pub disk_full_messages: AtomicU64,
    /// Markers at which this node digested nothing, because a newer one came before the last was done.
    pub markers_passed_over: AtomicU64,
}

fn ids(table: &MemberTable) -> BTreeSet<NodeId> {
    table.current.iter().map(|m| m.node_id).collect()
}

/// Slots of open proposals and reads (rule 11).
#[derive(Default)]
pub struct Slots {
    pub proposals: AtomicUsize,
    pub bytes: AtomicUsize,
    pub reads: AtomicUsize,
}

pub struct Hub {
    pub own: NodeId,
    pub settings: ClusterSettings,
    pub inbox: Inbox,
    pub apply: ApplySignal,
    pub table: Mutex<Table>,
    pub slots: Slots,
    pub members: Mutex<Members>,
    pub peers: Mutex<Peers>,
    pub verdict: Mutex<Verdict>,
    pub role: watch::Sender<RoleState>,
    pub phase: watch::Sender<NodePhase>,
    pub reader: StateReader,
    pub facts: Mutex<RaftFacts>,
    pub count: Counters,
    pub fatal: Arc<dyn Fatal>,
    pub transport: OnceLock<Arc<dyn Transport>>,
    /// For readers of the archive; the raft thread alone writes it.
    pub log: OnceLock<LogStore>,
    pub handler: OnceLock<Arc<dyn ForwardHandler>>,
    pub listeners: RwLock<Vec<Arc<dyn ApplyListener>>>,
    ports: RwLock<BTreeMap<u16, Arc<dyn ShardPort>>>,
    /// Answers awaited by calls of the handle. Never iterated.
    calls: Mutex<HashMap<u64, oneshot::Sender<Result<u64, ReadError>>>>,
    transfers: Mutex<HashMap<u64, oneshot::Sender<Result<NodeId, TransferError>>>>,
    changes: Mutex<HashMap<u64, oneshot::Sender<Result<Changed, ChangeError>>>>,
    pub copies: Copies,
    /// Where transfers of copies run.
    pub runtime: tokio::runtime::Handle,
    next_id: AtomicU64,
    pub alarms: Mutex<BTreeSet<String>>,
    /// What the node says stands wrong with it; told to the other members.
    pub own_alarms: Mutex<Arc<[MemberAlarm]>>,
    pub stopped: AtomicBool,
    pub intake_stopped: AtomicBool,
    /// The founding commit was applied while this process ran: the cluster is new.
    pub founded_here: AtomicBool,
    /// The own disk is full: entries from a leader are not taken in, because they would have to be written.
    pub disk_stopped: AtomicBool,
    /// Who archives the log has it up to here; `u64::MAX`: nobody does.
    pub archived: AtomicU64,
    /// The raft thread waits to hear how far apply is.
    pub applied_wanted: AtomicBool,
    /// Since when this leader can stamp nothing; `u64::MAX`: it can, or does not lead. The raft thread alone uses it.
    unstamped_since_ms: AtomicU64,
    /// When the append under way began; 0: none.
    pub disk_busy_since_ms: AtomicU64,
    began: Instant,
}

/// What [`Hub::new`] cannot make itself.
pub struct HubParts {
    pub own: NodeId,
    pub settings: ClusterSettings,
    pub members: Members,
    pub reader: StateReader,
    pub fatal: Arc<dyn Fatal>,
    pub role: RoleState,
    pub phase: NodePhase,
    pub copies: Copies,
    pub runtime: tokio::runtime::Handle,
}

impl Hub {
    pub fn new(parts: HubParts) -> Arc<Self> {
        let table = parts.members.table().clone();
        let voters = table.voters().count();
        let mut peers = Peers::new(parts.own, voters);
        peers.set_members(&table.voters().collect(), &ids(&table));
        let (applied, _) = parts.reader.applied();
        Arc::new(Self {
            own: parts.own,
            settings: parts.settings,
            inbox: Inbox::default(),
            apply: ApplySignal::default(),
            table: Mutex::new(Table::new(applied)),
            slots: Slots::default(),
            members: Mutex::new(parts.members),
            peers: Mutex::new(peers),
            verdict: Mutex::new(Verdict::alone(voters)),
            role: watch::Sender::new(parts.role),
            phase: watch::Sender::new(parts.phase),
            reader: parts.reader,
            facts: Mutex::new(RaftFacts::default()),
            count: Counters::default(),
            fatal: parts.fatal,
            transport: OnceLock::new(),
            log: OnceLock::new(),
            handler: OnceLock::new(),
            listeners: RwLock::new(Vec::new()),
            ports: RwLock::new(BTreeMap::new()),
            calls: Mutex::new(HashMap::new()),
            transfers: Mutex::new(HashMap::new()),
            changes: Mutex::new(HashMap::new()),
            copies: parts.copies,
            runtime: parts.runtime,
            next_id: AtomicU64::new(1),
            alarms: Mutex::new(BTreeSet::new()),
            own_alarms: Mutex::default(),
            stopped: AtomicBool::new(false),
            intake_stopped: AtomicBool::new(false),
            founded_here: AtomicBool::new(false),
            disk_stopped: AtomicBool::new(false),
            archived: AtomicU64::new(u64::MAX),
            applied_wanted: AtomicBool::new(false),
            unstamped_since_ms: AtomicU64::new(u64::MAX),
            disk_busy_since_ms: AtomicU64::new(0),
            began: super::system::monotonic(),
        })
    }

    /// Monotonic, milliseconds since the start, from 1.
    pub fn now_ms(&self) -> u64 {
        self.ms_of(super::system::monotonic())
    }
    pub fn ms_of(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }
    pub fn wall_ms(&self) -> i64 {
        super::system::wall_ms()
    }
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed)
    }

    pub fn is_open(&self) -> bool {
        !matches!(*self.phase.borrow(), NodePhase::Quarantined { .. } | NodePhase::Stopping)
    }

    // Slots.

    /// Reserves the slots of outcomes: all or none.
    pub fn reserve(&self, count: usize, bytes: usize) -> bool {
        let taken = self.slots.proposals.fetch_add(count, AcqRel) + count;
        let size = self.slots.bytes.fetch_add(bytes, AcqRel) + bytes;
        let fits = taken <= IN_FLIGHT_MAX && size <= IN_FLIGHT_BYTES_MAX;
        if !fits {
            self.release(count, bytes);
        }
        fits
    }
    pub fn release(&self, count: usize, bytes: usize) {
        self.slots.proposals.fetch_sub(count, AcqRel);
        self.slots.bytes.fetch_sub(bytes, AcqRel);
    }
    pub fn reserve_read(&self) -> bool {
        if self.slots.reads.fetch_add(1, AcqRel) < READS_MAX {
            return true;
        }
        self.slots.reads.fetch_sub(1, AcqRel);
        false
    }
    pub fn release_read(&self) {
        self.slots.reads.fetch_sub(1, AcqRel);
    }

    // Answers.

    pub fn register(&self, shard: u16, port: Arc<dyn ShardPort>) {
        self.ports.write().insert(shard, port);
    }

    pub fn tell(&self, shard: u16, notice: ShardNotice) {
        let port = self.ports.read().get(&shard).cloned();
        match port {
            Some(port) => port.deliver(notice),
            None => tracing::error!(shard, "an answer for a shard that never registered"),
        }
    }

    /// Delivers answers, one notice per shard, and gives their slots back.
    pub fn deliver(&self, answers: Answers) {
        if !answers.settled.is_empty() {
            let mut by_shard: BTreeMap<u16, Vec<Settled>> = BTreeMap::new();
            let (mut count, mut bytes) = (0, 0);
            for answer in answers.settled {
                count += 1;
                bytes += answer.bytes;
                by_shard.entry(answer.settled.lane.shard).or_default().push(answer.settled);
            }
            self.release(count, bytes);
            for (shard, settled) in by_shard {
                self.tell(shard, ShardNotice::Settled(settled));
            }
        }
        for (request, result) in answers.reads {
            self.answer_read(request, result);
        }
    }

    pub fn answer_read(&self, request: ReadRequest, result: Result<u64, ReadError>) {
        self.release_read();
        match request.id {
            ReadId::Shard { shard, ticket } => self.tell(shard, ShardNotice::ReadDone { ticket, result }),
            ReadId::Call(id) => {
                if let Some(waiting) = self.calls.lock().remove(&id) {
                    // The caller may have given up.
                    let _ = waiting.send(result);
                }
            }
        }
    }

    pub fn lane_closed(&self, lane: Lane, last_index: u64) {
        self.tell(lane.shard, ShardNotice::LaneClosed { lane, last_index });
    }

    /// Answers what the raft thread will never see any more.
    pub fn answer_unseen(&self, event: Event) {
        match event {
            Event::Propose(proposals) => {
                let mut answers = Answers::default();
                answers.settled.extend(proposals.into_iter().map(|p| {
                    let outcome = ProposalOutcome::NotApplied(NotApplied::Closed);
                    crate::core::event::Answer::new(p.lane, p.seq, p.data.len(), outcome)
                }));
                self.deliver(answers);
            }
            Event::CloseLane(lane) => self.lane_closed(lane, 0),
            Event::Read(request) => self.answer_read(request, Err(ReadError::Closed)),
            Event::Transfer { ticket, .. } => self.answer_transfer(ticket, Err(TransferError::Closed)),
            Event::Change { ticket, .. } => self.answer_change(ticket, Err(ChangeError::Closed)),
            Event::Received { copy, .. } => self.copies.discard(copy),
            _ => {}
        }
    }

    pub fn push(&self, event: Event) {
        if let Err(event) = self.inbox.push(event) {
            self.answer_unseen(event);
        }
    }

    /// Everything that waits is answered, and whatever comes later.
    pub fn close_table(&self, why: Unknown) {
        let mut answers = Answers::default();
        self.table.lock().close(why, &mut answers);
        self.deliver(answers);
    }

    /// A place for the answer to a call; `forget_call` gives it up.
    pub fn await_call(&self) -> (u64, oneshot::Receiver<Result<u64, ReadError>>) {
        let id = self.next_id();
        let (tell, hear) = oneshot::channel();
        self.calls.lock().insert(id, tell);
        (id, hear)
    }
    pub fn forget_call(&self, id: u64) {
        self.calls.lock().remove(&id);
    }

    pub fn await_transfer(&self) -> (u64, oneshot::Receiver<Result<NodeId, TransferError>>) {
        let id = self.next_id();
        let (tell, hear) = oneshot::channel();
        self.transfers.lock().insert(id, tell);
        (id, hear)
    }
    pub fn answer_transfer(&self, ticket: u64, result: Result<NodeId, TransferError>) {
        match self.transfers.lock().remove(&ticket) {
            Some(waiting) => {
                let _ = waiting.send(result);
            }
            // Asked for by the node itself.
            None => tracing::info!(?result, "leadership transfer ended"),
        }
    }

    pub fn await_change(&self) -> (u64, oneshot::Receiver<Result<Changed, ChangeError>>) {
        let id = self.next_id();
        let (tell, hear) = oneshot::channel();
        self.changes.lock().insert(id, tell);
        (id, hear)
    }
    pub fn answer_change(&self, ticket: u64, result: Result<Changed, ChangeError>) {
        if let Some(waiting) = self.changes.lock().remove(&ticket) {
            let _ = waiting.send(result);
        }
    }
    pub fn forget_change(&self, ticket: u64) {
        self.changes.lock().remove(&ticket);
    }

    // Members, clocks, hashes.

    /// The table of members is another one: whom to connect to, whose words count.
    pub fn set_table(&self, table: Arc<MemberTable>) {
        self.peers.lock().set_members(&table.voters().collect(), &ids(&table));
        self.members.lock().set_table(table);
        self.dial();
    }

    /// Connects to those that are there now, and to no others.
    pub fn dial(&self) {
        let peers = self.members.lock().dial();
        if let Some(transport) = self.transport.get().filter(|_| self.is_open()) {
            transport.set_peers(peers);
        }
    }

    /// What the driver must know of others.
    pub fn known(&self) -> Known {
        let now_ms = self.now_ms();
        let heard = self.peers.lock().heard(now_ms, HEARD_WITHIN_MS);
        let level = self.reader.view().level().map_or(1, |level| level.max(1));
        let members = self.members.lock();
        Known {
            level,
            levels: members.levels().clone(),
            heard,
            admitted: members.admitted(),
            barred: members.barred().clone(),
            incarnations: members.incarnations().clone(),
        }
    }

    /// How far those are that the log is kept for: members, and the archive.
    pub fn positions(&self) -> Vec<u64> {
        let within = u64::try_from(self.settings.keep_log_for.as_millis()).unwrap_or(u64::MAX);
        let mut all = self.peers.lock().positions(self.now_ms(), within);
        all.extend(Some(self.archived.load(Acquire)).filter(|archived| *archived != u64::MAX));
        all
    }

    pub fn gossip(&self) -> Gossip {
        let (chains, digest) = self.peers.lock().own_points();
        Gossip {
            clock_ms: 0,
            applied: self.reader.applied().0,
            chains,
            digest,
            quarantined: matches!(*self.phase.borrow(), NodePhase::Quarantined { .. }),
            pinned: self.members.lock().pinned(),
            alarms: self.own_alarms.lock().clone(),
        }
    }

    /// The time that may be stamped now; the clocks are looked at for each stamp, because ours may have jumped since the
    /// last one.
    pub fn stamp(&self, replicated_ms: i64) -> Result<i64, StampError> {
        let (wall_ms, now_ms) = (self.wall_ms(), self.now_ms());
        let verdict = self.peers.lock().verdict(wall_ms, now_ms);
        clock::stamp(&verdict, wall_ms, replicated_ms)
    }

    /// Looks at the clocks for alarms and outliers; called with every tick.
    pub fn look_at_clocks(&self) -> Verdict {
        let verdict = self.peers.lock().verdict(self.wall_ms(), self.now_ms());
        let before = std::mem::replace(&mut *self.verdict.lock(), verdict);
        if verdict.alarm() != before.alarm() {
            self.alarm(
                "CLOCK_DEVIATES: this node's clock is off the other members' by more than 500 ms",
                verdict.alarm(),
            );
        }
        // After an outage the others' clocks have yet to be heard: that is no alarm.
        let (now_ms, since) = (self.now_ms(), &self.unstamped_since_ms);
        let refuses = self.leads() && self.stamp(self.reader.applied().1).is_err();
        let since_ms = match (refuses, since.load(Relaxed)) {
            (false, _) => u64::MAX,
            (true, u64::MAX) => now_ms,
            (true, before_ms) => before_ms,
        };
        since.store(since_ms, Relaxed);
        self.alarm(
            "CLOCK_STEP: clocks went more than 10 minutes ahead and no majority of them agrees: changes are refused",
            now_ms.saturating_sub(since_ms) > HEARD_WITHIN_MS,
        );
        verdict
    }

    pub fn alarm(&self, text: &str, on: bool) {
        let changed = {
            let mut alarms = self.alarms.lock();
            if on { alarms.insert(text.to_owned()) } else { alarms.remove(text) }
        };
        if changed {
            tracing::warn!(alarm = text, on, "alarm");
        }
    }

    pub fn judge(&self, found: Vec<Disagreement>) {
        for Disagreement { what, finding } in found {
            match finding {
                Finding::OwnMinority { index } => self.quarantine(
                    &format!("{what} at index {index} differs from that of a majority of members"),
                    "this node's data are wrong: remove them and add the node as a new member",
                ),
                Finding::Differs { index, node } => {
                    self.alarm(&format!("HASH_DIFFERS: node {node}, {what} at index {index}"), true);
                }
                Finding::Tie { index } => {
                    self.alarm(
                        &format!("HASH_TIE: {what} at index {index}: intake is stopped everywhere"),
                        true,
                    );
                    if !self.intake_stopped.swap(true, AcqRel) {
                        self.push(Event::StopIntake);
                    }
                }
            }
        }
    }

    /// Closes the node to raft and clients (rule 12). The first reason stays.
    pub fn quarantine(&self, reason: &str, remedy: &str) {
        let entered = self.phase.send_if_modified(|phase| {
            let open = !matches!(phase, NodePhase::Quarantined { .. } | NodePhase::Stopping);
            if open {
                *phase = NodePhase::Quarantined { reason: reason.to_owned(), remedy: remedy.to_owned() };
            }
            open
        });
        if entered {
            tracing::error!(reason, remedy, "the node quarantines itself");
            self.push(Event::Close);
            self.apply.stop();
            self.close_table(Unknown::Closed);
        }
    }

    /// What the members know of each other may have changed: pins to be written, or who is missing.
    pub fn look_at_pins(&self) {
        let (pins, missing, refused_by) = {
            let members = self.members.lock();
            if members.pinned() {
                return;
            }
            (members.pins(), members.missing(), members.refused_by())
        };
        match pins {
            Some(pins) => self.inbox.pins(pins),
            None => {
                self.phase.send_if_modified(|phase| {
                    let pinning = matches!(phase, NodePhase::Starting | NodePhase::Pinning { .. });
                    let next = NodePhase::Pinning { missing, refused_by };
                    let changed = pinning && *phase != next;
                    if changed {
                        *phase = next;
                    }
                    changed
                });
            }
        }
    }

    pub fn serving(&self) {
        self.phase.send_if_modified(|phase| {
            let change = matches!(phase, NodePhase::Starting | NodePhase::Pinning { .. });
            if change {
                *phase = NodePhase::Serving;
            }
            change
        });
    }

    pub fn set_role(&self, role: RoleState) {
        let waits = matches!(role.role, Role::Leader { ready: false });
        self.applied_wanted.store(waits, Release);
        if matches!(role.role, Role::Candidate) {
            self.count.elections.fetch_add(1, Relaxed);
        }
        tracing::info!(term = role.term, role = ?role.role, "role");
        self.role.send_replace(role);
    }

    /// The level a new cluster is to be raised to by its leader now; `None`: not by itself, or not yet.
    pub fn own_level(&self) -> Option<u32> {
        let known = level::known();
        let wanted = self.founded_here.load(Acquire) && self.reader.level() < known;
        (wanted && self.members.lock().below(known).is_empty()).then_some(known)
    }

    pub fn leads(&self) -> bool {
        matches!(self.role.borrow().role, Role::Leader { .. })
    }

    pub fn is_stopping(&self) -> bool {
        self.stopped.load(Acquire)
    }
}
