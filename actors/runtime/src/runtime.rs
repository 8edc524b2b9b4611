//! Puts the pieces together: shards on their arbiters, courier, scanner, watchdog, gateway, queries.

use crate::{
    call::Answer,
    cell::{CellEnv, CommitCounter, Generation},
    channels::{
        Keeper,
        keeper::{Forwards, KeeperParts},
    },
    courier::{self, CourierFigures},
    depth::Depths,
    end::End,
    gateway::{Forwarder, Gateway, GatewayFigures},
    load::{CellFactory, StorageCells},
    query::Query,
    shard::{Input, ShardFigures, ShardSettings},
    shell::{
        Clock, Inbox, Inboxes, ShardSinks, Shards, ShardsStart, courier::CourierTask, supervise::supervise,
        timers::ScannerTask,
    },
    sys,
    timers::{self, TimerFigures},
    work::{SystemWork, Work},
    world::{self, Worlds},
};
use okno_cluster::{
    ForwardHandler,
    api::{ApplyListener, Proposer},
};
use okno_domain::entity::{Origin, Principal};
use okno_storage::{
    commit::{Message, MessageKey, Outcome, SystemOp, TimerKey},
    error::StorageError,
    state::{AppliedSlice, StateReader},
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Called when this node cannot go on (rule 12): on rot the node is closed, otherwise the process ends and this does not
/// return.
pub type Fatal = Arc<dyn Fn(End) + Send + Sync>;

/// Messages and timers that applied and were not taken by courier or scanner yet; beyond, they read storage again.
const FEED_MAX: usize = 16_384;
/// Slices a slow watcher may be behind before it has to read the journal.
const WATCH_SLICES: usize = 1_024;
/// A shard that made no turn in so many seconds is stuck: the process ends.
const STUCK_AFTER: u32 = 10;
/// How long the cluster's own operations may wait for their turn.
const OWN_MS: u64 = 30_000;

#[derive(Clone)]
pub struct RuntimeSettings {
    pub node_id: u64,
    /// Of the cluster: higher after a restore or a recovery.
    pub generation: Generation,
    /// Threads that actors run on.
    pub arbiters: usize,
    /// Shards; one per arbiter unless there is a reason.
    pub shards: u16,
    /// `resident_max` is of the node; the shards share it.
    pub shard: ShardSettings,
    /// How often members compare all their rows, in replicated time (rule 15).
    pub marker_every_ms: i64,
    pub fatal: Fatal,
}

impl RuntimeSettings {
    pub fn new(node_id: u64, fatal: Fatal) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        // Deciding takes a small part of a commit's time; the rest of the cores is for raft, apply and TLS.
        let arbiters = (cores / 4).clamp(1, 8);
        Self {
            node_id,
            generation: Arc::new(|| 1),
            arbiters,
            shards: u16::try_from(arbiters).unwrap_or(1),
            shard: ShardSettings { resident_max: 100_000, ..ShardSettings::default() },
            marker_every_ms: timers::MARKER_EVERY_MS,
            fatal,
        }
    }
}

/// Why the runtime did not start.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot start the actor threads: {0}")]
    Threads(#[from] std::io::Error),
}

/// Asks for operations of the cluster itself, as `node/<id>`.
#[derive(Clone)]
pub struct Own {
    inboxes: Inboxes,
    principal: Principal,
    clock: Clock,
}

impl Own {
    pub fn ask(&self, op: SystemOp) -> oneshot::Receiver<Answer> {
        let work = SystemWork {
            entity: sys::key_of(&op),
            op,
            origin: Origin { principal: self.principal.clone(), workstation: String::new() },
            request: None,
            expires_ms: self.clock.now_ms() + OWN_MS,
        };
        self.inboxes.internal(Arc::new(Work::System(work)))
    }
}

/// Figures of all parts, for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeFigures {
    pub gateway: GatewayFigures,
    pub shards: Vec<ShardFigures>,
    pub courier: CourierFigures,
    pub timers: TimerFigures,
    /// Entities with messages waiting, and the deepest.
    pub message_depths: (usize, u32),
}

/// What a node holds of its running runtime.
pub struct RuntimeHandle {
    pub gateway: Gateway,
    pub query: Query,
    /// Leases of deliveries, and whom they are asked of.
    pub channels: Keeper,
    listener: Arc<Listener>,
    shards: Mutex<Shards>,
    own: Own,
    courier: Arc<CourierTask>,
    scanner: Arc<ScannerTask>,
    depths: Arc<Depths>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

pub struct Runtime;

impl Runtime {
    /// Starts everything. Must be called within a multi-thread tokio runtime; the actor threads are its own.
    /// Register [`RuntimeHandle::listener`] and [`RuntimeHandle::forward_handler`] with the cluster right after.
    pub fn start(
        settings: RuntimeSettings,
        proposer: Arc<dyn Proposer>,
        reader: StateReader,
        forwarder: Arc<dyn Forwarder>,
    ) -> Result<RuntimeHandle, RuntimeError> {
        let cells = Arc::new(StorageCells::new(reader.clone()));
        Self::start_with(settings, proposer, reader, forwarder, cells)
    }

    /// With cells of another make.
    pub fn start_with(
        settings: RuntimeSettings,
        proposer: Arc<dyn Proposer>,
        reader: StateReader,
        forwarder: Arc<dyn Forwarder>,
        cells: Arc<dyn CellFactory>,
    ) -> Result<RuntimeHandle, RuntimeError> {
        let clock = Clock::start();
        let worlds = Arc::new(Worlds::open(reader.clone())?);
        let depths = Arc::new(Depths::default());
        let node = Principal { kind: "node".into(), id: settings.node_id.to_string() };
        let shards = settings.shards.max(1);
        let mut shard_settings = settings.shard;
        shard_settings.resident_max = (shard_settings.resident_max / usize::from(shards)).max(1);
        let inboxes = Inboxes::new((0..shards).map(|_| Inbox::new(shard_settings.calls_max)).collect());
        let own = Own { inboxes: inboxes.clone(), principal: node.clone(), clock };
        let (courier_events, courier_queue) = mpsc::unbounded_channel();
        let (scanner_events, scanner_queue) = mpsc::unbounded_channel();
        let (watchers, _) = broadcast::channel(WATCH_SLICES);

        let shards = Shards::start(ShardsStart {
            settings: shard_settings,
            arbiters: settings.arbiters,
            inboxes: inboxes.clone(),
            proposer: Arc::clone(&proposer),
            reader: reader.clone(),
            cells,
            env: Arc::new(CellEnv {
                worlds: Arc::clone(&worlds),
                depths: Arc::clone(&depths),
                counter: CommitCounter::default(),
                node: node.clone(),
                generation: Arc::clone(&settings.generation),
            }),
            sinks: Arc::new(Sinks {
                courier: courier_events.clone(),
                scanner: scanner_events.clone(),
                own: own.clone(),
            }),
            clock,
            fatal: Arc::clone(&settings.fatal),
        })?;
        let courier = Arc::new(CourierTask {
            reader: reader.clone(),
            inboxes: inboxes.clone(),
            depths: Arc::clone(&depths),
            own: own.clone(),
            clock,
            proposer: Arc::clone(&proposer),
            feed: Feed::new(courier_events.clone()),
            queue: tokio::sync::Mutex::new(courier_queue),
            figures: Mutex::default(),
        });
        let scanner = Arc::new(ScannerTask {
            reader: reader.clone(),
            proposer: Arc::clone(&proposer),
            inboxes: inboxes.clone(),
            own: own.clone(),
            clock,
            marker_every_ms: settings.marker_every_ms,
            feed: Feed::new(scanner_events.clone()),
            queue: tokio::sync::Mutex::new(scanner_queue),
            figures: Mutex::default(),
        });
        let listener = Arc::new(Listener {
            proposer: Arc::clone(&proposer),
            worlds: Arc::clone(&worlds),
            watchers: watchers.clone(),
            courier: courier.feed.clone(),
            scanner: scanner.feed.clone(),
        });

        let gateway = Gateway::new(
            inboxes.clone(),
            Arc::clone(&proposer),
            Arc::clone(&forwarder),
            reader.clone(),
            clock,
        );
        let query = Query::new(reader.clone(), worlds, watchers);
        let channels = Keeper::new(KeeperParts {
            proposer: Arc::clone(&proposer),
            forwarder,
            gateway: gateway.clone(),
            query: query.clone(),
            reader,
            clock,
            principal: node,
        });

        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let made = channels.clone();
        let run = move || made.clone().run();
        tasks.spawn(supervise("channel keeper", stop.clone(), Arc::clone(&settings.fatal), run));
        let made = Arc::clone(&courier);
        let run = move || Arc::clone(&made).run();
        tasks.spawn(supervise("courier", stop.clone(), Arc::clone(&settings.fatal), run));
        let made = Arc::clone(&scanner);
        let run = move || Arc::clone(&made).run();
        tasks.spawn(supervise("timer scanner", stop.clone(), Arc::clone(&settings.fatal), run));
        tasks.spawn(follow_roles(
            Arc::clone(&proposer),
            inboxes.clone(),
            courier_events,
            scanner_events,
            stop.clone(),
        ));
        tasks.spawn(watch_shards(inboxes.clone(), stop.clone(), settings.fatal));
        tasks.close();

        Ok(RuntimeHandle {
            gateway,
            query,
            channels,
            listener,
            shards: Mutex::new(shards),
            own,
            courier,
            scanner,
            depths,
            stop,
            tasks,
        })
    }
}

impl RuntimeHandle {
    /// To be told of everything that is applied.
    pub fn listener(&self) -> Arc<dyn ApplyListener> {
        Arc::clone(&self.listener) as _
    }

    /// For what the node itself asks of the cluster.
    pub fn own(&self) -> Own {
        self.own.clone()
    }

    /// To be given calls that other nodes forward.
    pub fn forward_handler(&self) -> Arc<dyn ForwardHandler> {
        Arc::new(Forwards { keeper: self.channels.clone(), gateway: self.gateway.clone() })
    }

    pub fn figures(&self) -> RuntimeFigures {
        RuntimeFigures {
            gateway: self.gateway.figures(),
            shards: self.shards.lock().figures(),
            courier: *self.courier.figures.lock(),
            timers: *self.scanner.figures.lock(),
            message_depths: self.depths.figures(),
        }
    }

    /// Ends everything. Leadership should have been handed over before: callers still waiting learn that nobody
    /// knows.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.wait().await;
        let shards = self.shards;
        let stopped = tokio::task::spawn_blocking(move || shards.into_inner().stop()).await;
        if stopped.is_err() {
            tracing::error!("stopping the actors panicked");
        }
    }
}

struct Sinks {
    courier: mpsc::UnboundedSender<courier::Event>,
    scanner: mpsc::UnboundedSender<timers::Event>,
    own: Own,
}

impl ShardSinks for Sinks {
    // Courier and scanner end before the shards only at shutdown, when nobody needs to know any more.
    fn delivered(&self, key: MessageKey, answer: Answer) {
        let _closed = self.courier.send(courier::Event::Delivered(key, answer));
    }

    fn fired(&self, key: TimerKey, answer: Answer) {
        let _closed = self.scanner.send(timers::Event::Fired(key, answer));
    }

    fn system(&self, op: SystemOp) {
        // The next failure asks again.
        drop(self.own.ask(op));
    }
}

/// The bounded way from the apply thread to a task: beyond [`FEED_MAX`] it says once that something was missed.
pub struct Feed<E> {
    pub events: mpsc::UnboundedSender<E>,
    state: Arc<FeedState>,
}

struct FeedState {
    waiting: AtomicUsize,
    missed: AtomicBool,
}

impl<E> Clone for Feed<E> {
    fn clone(&self) -> Self {
        Self { events: self.events.clone(), state: Arc::clone(&self.state) }
    }
}

impl<E> Feed<E> {
    fn new(events: mpsc::UnboundedSender<E>) -> Self {
        Self {
            events,
            state: Arc::new(FeedState { waiting: AtomicUsize::new(0), missed: AtomicBool::new(false) }),
        }
    }

    /// Called on the apply thread.
    fn push(&self, count: usize, event: impl FnOnce() -> E, missed: E) {
        let before = self.state.waiting.fetch_add(count, Ordering::AcqRel);
        // A closed queue: the node is going down.
        if before <= FEED_MAX {
            let _closed = self.events.send(event());
            return;
        }
        self.state.waiting.fetch_sub(count, Ordering::AcqRel);
        if !self.state.missed.swap(true, Ordering::AcqRel) {
            let _closed = self.events.send(missed);
        }
    }

    /// Called by the task for each event it takes from the feed.
    pub fn taken(&self, count: usize) {
        self.state.waiting.fetch_sub(count, Ordering::AcqRel);
    }

    /// Called by the task before it reads storage again.
    pub fn caught_up(&self) {
        self.state.missed.store(false, Ordering::Release);
    }
}

/// What of an applied slice a leader's courier and scanner must hear.
#[derive(Debug, Default)]
pub struct Moved {
    pub sent: Vec<Message>,
    pub timers: Vec<TimerKey>,
    /// A quarantine began or ended.
    pub quarantine: bool,
}

/// Takes in a slice before anybody is answered: nobody is given an older world from now on.
pub fn moved(slice: &AppliedSlice, leading: bool, worlds: &Worlds) -> Moved {
    let mut out = Moved::default();
    for entry in &slice.entries {
        let Some(entity) = entry.entity.as_ref().filter(|_| entry.outcome == Outcome::Applied) else {
            continue;
        };
        if entry.moved && world::is_world(entity.kind()) {
            worlds.require(entry.index);
        }
        if leading {
            out.sent.extend(entry.sent.iter().cloned());
            out.timers.extend(entry.timers.iter().cloned());
            out.quarantine |= entity.as_str() == sys::QUARANTINE_ENTITY;
        }
    }
    out
}

/// What the apply thread tells the runtime.
struct Listener {
    proposer: Arc<dyn Proposer>,
    worlds: Arc<Worlds>,
    watchers: broadcast::Sender<Arc<AppliedSlice>>,
    courier: Feed<courier::Event>,
    scanner: Feed<timers::Event>,
}

impl ApplyListener for Listener {
    fn applied(&self, slice: &Arc<AppliedSlice>) {
        let leading = self.proposer.role().leading_term().is_some();
        let Moved { sent, timers, quarantine } = moved(slice, leading, &self.worlds);
        if !sent.is_empty() {
            self.courier.push(sent.len(), || courier::Event::Sent(sent), courier::Event::Missed);
        }
        if !timers.is_empty() {
            self.scanner.push(timers.len(), || timers::Event::Set(timers), timers::Event::Missed);
        }
        if quarantine {
            // Nobody is left to care once the queues are closed.
            let _closed = self.courier.events.send(courier::Event::QuarantineMoved);
            let _closed = self.scanner.events.send(timers::Event::QuarantineMoved);
        }
        // No watcher is no error.
        let _nobody = self.watchers.send(Arc::clone(slice));
    }

    fn installed(&self, index: u64) {
        // Courier and scanner run on a leader alone, which installs nothing, and read storage when they begin.
        self.worlds.require(index);
        let slice = AppliedSlice { first: index, last: index, ..AppliedSlice::default() };
        let _nobody = self.watchers.send(Arc::new(slice));
    }
}

/// Wakes everybody when leadership changes; shards look at the role themselves.
async fn follow_roles(
    proposer: Arc<dyn Proposer>,
    inboxes: Inboxes,
    courier: mpsc::UnboundedSender<courier::Event>,
    scanner: mpsc::UnboundedSender<timers::Event>,
    stop: CancellationToken,
) {
    let mut roles = proposer.roles();
    let mut last = None;
    loop {
        let term = roles.borrow_and_update().leading_term();
        if last != Some(term) {
            last = Some(term);
            for inbox in inboxes.iter() {
                inbox.push(Input::Tick);
            }
            let _closed = courier.send(courier::Event::Role(term));
            let _closed = scanner.send(timers::Event::Role(term));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = roles.changed() => if changed.is_err() { return },
        }
    }
}

/// Ends the process when a shard makes no turn any more: an entity that never returns holds its arbiter (rule 12).
/// Counted in checks, so that a process that was stopped and goes on is not taken for a stuck one.
async fn watch_shards(inboxes: Inboxes, stop: CancellationToken, fatal: Fatal) {
    let mut seen: Vec<(u64, u32)> = inboxes.iter().map(|_| (0, 0)).collect();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        for (place, (inbox, seen)) in inboxes.iter().zip(&mut seen).enumerate() {
            let turns = inbox.turns.load(Ordering::Relaxed);
            if turns == seen.0 {
                seen.1 += 1;
            } else {
                *seen = (turns, 0);
            }
            if seen.1 == STUCK_AFTER {
                fatal(End::Failed(format!("shard {place} made no turn in {STUCK_AFTER} s")));
            }
            inbox.push(Input::Tick);
        }
    }
}
