//! Starting the cluster part of a node: opens its stores, checks them, and starts the threads and the links.
//!
//! Invariant: data that cannot be used do not end the process; the node starts quarantined, with health and admin open
//! (rule 12).

use crate::{
    api::{Role, RoleState},
    core::{
        change::Known,
        driver::{Driver, Timing},
        event::Quarantine,
        log_view::Unreadable,
        open::{self, OpenError, Opened as Stores},
        pins::Members,
        retention::EntryBytes,
    },
    handle::ClusterHandle,
    settings::ClusterSettings,
    shell::{
        apply_thread::{ApplyThread, digest_thread},
        copies::{Copies, Owner},
        digests::digests,
        fatal::{EXIT_PANIC, Fatal},
        hub::{Hub, HubParts},
        raft_thread::RaftThread,
        system, watchdog,
    },
    status::NodePhase,
    transport::{
        PeerConnector, Transport,
        grpc::{GrpcTransport, PeerService},
    },
};
use okno_storage::{
    engine::Engine, error::StorageError, identity::Identity, log::LogStore, snapshot::Home, state::StateStore,
};
use parking_lot::Mutex;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};
use uuid::Uuid;

/// How often members tell each other their clocks and hashes.
const GOSSIP_EVERY: Duration = Duration::from_millis(250);

/// Why the cluster part did not start. Data that are damaged do not end here: the node starts quarantined, with
/// health and admin open (rule 12).
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("settings: {0}")]
    Settings(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("identity: {0}")]
    Identity(String),
    #[error("raft: {0}")]
    Raft(String),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl From<OpenError> for ClusterError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Storage(error) => Self::Storage(error),
            OpenError::Identity(detail) => Self::Identity(detail),
            OpenError::Raft(detail) => Self::Raft(detail),
        }
    }
}

/// What a node brings along.
pub struct ClusterParts {
    pub engine: Arc<dyn Engine>,
    pub identity: Identity,
    /// Where databases live whose live one is `engine`. `None`: this node neither takes nor installs copies.
    pub home: Option<Arc<dyn Home>>,
    pub connector: Arc<dyn PeerConnector>,
    /// [`crate::ProcessExit`] in production.
    pub fatal: Arc<dyn Fatal>,
}

/// Starts the cluster part of a node.
pub struct Cluster;

impl Cluster {
    /// Opens log and state, starts the raft and apply threads and the links to the other members. Must be called
    /// within a tokio runtime. The service is to be served by the node's peer listener, whose TLS layer inserts
    /// [`crate::PeerIdentity`] into each request's extensions.
    pub async fn start(
        settings: ClusterSettings,
        parts: ClusterParts,
    ) -> Result<(Arc<ClusterHandle>, PeerService), ClusterError> {
        Self::open_and_run(settings, parts, None).await
    }

    /// Starts a node whose data cannot be used (rule 12): raft and links stay closed; phase, status and health say
    /// why. `parts.engine` stands in for those data, empty, so that nobody touches them.
    pub async fn start_quarantined(
        settings: ClusterSettings,
        parts: ClusterParts,
        why: Quarantine,
    ) -> Result<(Arc<ClusterHandle>, PeerService), ClusterError> {
        Self::open_and_run(settings, parts, Some(why)).await
    }

    async fn open_and_run(
        settings: ClusterSettings,
        parts: ClusterParts,
        why: Option<Quarantine>,
    ) -> Result<(Arc<ClusterHandle>, PeerService), ClusterError> {
        settings.check().map_err(ClusterError::Settings)?;
        let connector = parts.connector.clone();
        let opened = tokio::task::spawn_blocking(move || open(settings, parts, why))
            .await
            .map_err(|e| ClusterError::Raft(e.to_string()))??;
        let hub = opened.hub.clone();
        let (transport, service) = GrpcTransport::start(hub.own, &connector, hub.clone());
        let handle = opened.run(transport)?;
        Ok((handle, service))
    }
}

/// Stores opened and checked, nothing running yet.
struct Opened {
    hub: Arc<Hub>,
    cluster: Uuid,
    identity: Identity,
    log: LogStore,
    state: StateStore,
    founded: bool,
    unreadable: Unreadable,
    /// `None`: the node is quarantined and raft does not run.
    driver: Option<Driver>,
}

fn open(
    settings: ClusterSettings,
    parts: ClusterParts,
    why: Option<Quarantine>,
) -> Result<Opened, ClusterError> {
    let record = parts.identity.record().clone();
    let logger = slog::Logger::root(tracing_slog::TracingSlogDrain {}, slog::o!());
    let stores = open::open(&parts.engine, &record, Timing::from(&settings), system::boot_id(), &logger)?;
    let Stores { log, state, founded, table, unreadable, driver } = stores;
    let owner = Owner::of(&record, state.mark().index);
    let hub = Hub::new(HubParts {
        own: record.node_id,
        settings,
        members: Members::new(&record, table),
        reader: state.reader(),
        fatal: parts.fatal,
        role: RoleState { term: record.term, role: Role::Follower { leader: None } },
        phase: NodePhase::Starting,
        copies: Copies::new(parts.home, owner),
        runtime: tokio::runtime::Handle::current(),
    });
    let closed = match (why, &driver) {
        (Some(why), _) => Some(why),
        (None, Err(wrong)) => {
            Some(Quarantine { reason: wrong.reason.clone(), remedy: wrong.remedy.to_owned() })
        }
        (None, Ok(_)) => None,
    };
    if let Some(Quarantine { reason, remedy }) = &closed {
        hub.quarantine(reason, remedy);
    }
    let driver = driver.ok().filter(|_| closed.is_none());
    Ok(Opened {
        hub,
        cluster: record.cluster,
        identity: parts.identity,
        log,
        state,
        founded,
        unreadable,
        driver,
    })
}

impl Opened {
    /// Starts the threads.
    fn run(self, transport: Arc<dyn Transport>) -> Result<Arc<ClusterHandle>, ClusterError> {
        let hub = self.hub;
        if hub.transport.set(transport.clone()).is_err() {
            return Err(ClusterError::Raft("started twice".into()));
        }
        let mut threads = Vec::new();
        let Some(driver) = self.driver else {
            // Quarantined at the start: no thread, no link; health and status answer.
            transport.close();
            for event in hub.inbox.close() {
                hub.answer_unseen(event);
            }
            return Ok(Arc::new(ClusterHandle::new(hub, self.cluster, threads)));
        };
        if hub.members.lock().pinned() {
            hub.serving();
        }
        hub.look_at_pins();
        hub.dial();
        let joined = self.identity.record().later.joined && self.identity.record().pins.is_empty();
        let state = Arc::new(Mutex::new(self.state));
        let (digests, views) = digests();
        // Set once: a node opens its log once.
        let _ = hub.log.set(self.log.clone());
        let apply = ApplyThread {
            hub: hub.clone(),
            state: state.clone(),
            log: self.log.clone(),
            founded: self.founded,
            cluster: self.cluster,
            joined,
            digests,
        };
        let raft = RaftThread {
            hub: hub.clone(),
            driver,
            log: self.log,
            identity: self.identity,
            state,
            transport: transport.clone(),
            unreadable: self.unreadable,
            entry_bytes: EntryBytes::default(),
            known: Known::default(),
        };
        threads.push(thread(&hub, "okno-raft", move || raft.run())?);
        threads.push(thread(&hub, "okno-apply", move || apply.run())?);
        let digest_hub = hub.clone();
        threads.push(thread(&hub, "okno-digest", move || digest_thread(&digest_hub, &views))?);
        let dog_hub = hub.clone();
        threads.push(thread(&hub, "okno-watchdog", move || watchdog::run(&dog_hub))?);
        tokio::spawn(gossip(hub.clone(), transport));
        Ok(Arc::new(ClusterHandle::new(hub, self.cluster, threads)))
    }
}

/// A thread whose panic ends the process (rule 12).
fn thread(
    hub: &Arc<Hub>,
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let (hub, own_name) = (hub.clone(), name.to_owned());
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            hub.fatal.exit(EXIT_PANIC, &format!("thread {own_name} panicked"));
        }
    })
}

async fn gossip(hub: Arc<Hub>, transport: Arc<dyn Transport>) {
    let mut every = tokio::time::interval(GOSSIP_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut phase = hub.phase.subscribe();
    while !hub.is_stopping() {
        tokio::select! {
            _ = every.tick() => {}
            _ = phase.changed() => {}
        }
        if matches!(*phase.borrow_and_update(), NodePhase::Quarantined { .. }) {
            // Say why we go, then go: raft is closed.
            transport.gossip(&hub.gossip());
            tokio::time::sleep(GOSSIP_EVERY).await;
            transport.close();
            return;
        }
        transport.gossip(&hub.gossip());
    }
}
