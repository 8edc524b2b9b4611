//! A node's life: start in order, serve, stop in order.
//!
//! Start: settings → lock of the data directory → identity → certificates → listeners bound → database → cluster →
//! peers' listener → runtime → clients' listener → ready. What can be refused cheaply is refused before anything
//! is opened; data that are wrong are no reason to end: the same node comes up closed (see [`crate::stores`]). Stop, on SIGTERM or SIGINT: not ready → leadership handed over → no new calls, those in flight end →
//! runtime → cluster → database. SIGHUP reads certificates again.

use crate::{
    access::Listener,
    front::{FrontLayer, FrontState},
    identity::{Caller, Kind},
    keepers,
    observability::{
        alarms::Alarms,
        http::{Checks, Ops, router},
        logs,
        metrics::{MethodFigures, Metrics},
        panics,
        security::SecurityLog,
    },
    quarantine,
    services::{self, SERVICE_NAMES, desk::Desk, notices, workstations},
    settings::Settings,
    stores::{Claim, Started},
    tls::{self, ListenerBounds, ListenerFigures, PeerDialer, Side},
    token::Tokens,
    wiring,
};
use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use http::HeaderValue;
use okno_cluster::{
    ClusterHandle, NodePhase, PeerService,
    api::{Proposer, Role},
};
use okno_runtime::{Runtime, RuntimeHandle, intake::Intake};
use okno_storage::engine::Engine;
use parking_lot::Mutex;
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Notify, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Server;
use tonic_health::ServingStatus;

/// Grace for a connection that was asked to end for its age.
const AGE_GRACE: Duration = Duration::from_secs(120);
/// How often connections that are too old are looked for.
const AGE_LOOK_EVERY: Duration = Duration::from_secs(20);
/// Entries committed and not yet applied beyond which a node is not ready for reads.
const APPLY_LAG_MAX: u64 = 20_000;
/// How long handing leadership over may take on the way down.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);
/// HTTP/2 windows of clients: a message and the next, so that small calls never wait for a window.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Metadata of a call: a few names and a trace.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// Runs a node until it is told to stop.
pub fn run(settings: Settings) -> Result<()> {
    logs::install(&settings.log).map_err(|detail| anyhow!(detail))?;
    panics::install();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.node.worker_threads)
        .thread_name("net")
        .enable_all()
        .build()
        .context("starting the network threads")?;
    let outcome = runtime.block_on(serve(settings));
    // Nothing that still waits may hold the process: everything durable is closed by now.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// The sockets, bound before anything is opened.
struct Sockets {
    clients: TcpListener,
    peers: TcpListener,
    ops: TcpListener,
}

impl Sockets {
    async fn bind(settings: &Settings) -> Result<Self> {
        let bind = |key: &'static str, address| async move {
            TcpListener::bind(address).await.with_context(|| format!("{key}: cannot listen at {address}"))
        };
        Ok(Self {
            clients: bind("clients.listen", settings.clients.listen).await?,
            peers: bind("peers.listen", settings.peers.listen).await?,
            ops: bind("ops.listen", settings.ops.listen).await?,
        })
    }
}

/// Both sides' certificates.
struct Sides {
    clients: Arc<Side>,
    peers: Arc<Side>,
}

impl Sides {
    fn load(settings: &Settings, alarms: &Arc<Alarms>) -> Result<Self> {
        let name = &settings.cluster.name;
        let clients = Side::load("clients", name, settings.clients.tls.clone(), alarms.clone())?;
        let peers = Side::load("peers", name, settings.peers.tls.clone(), alarms.clone())?;
        let (cluster, node) = (peers.cluster.clone(), settings.node.id);
        // Other nodes know us by this certificate: a wrong one would only show as refused handshakes there.
        peers
            .require_own(Box::new(move |material| {
                let own =
                    Caller::of_certificate(material.leaf(), &cluster).map_err(|error| error.to_string())?;
                if own.kind == Kind::Peer && own.node_id() == Some(node) {
                    Ok(())
                } else {
                    Err(format!("expected okno://{cluster}/peer/{node}, found {own}"))
                }
            }))
            .map_err(|detail| anyhow!("peers.tls.certificate: {detail}"))?;
        Ok(Self { clients, peers })
    }

    fn both(&self) -> [Arc<Side>; 2] {
        [self.clients.clone(), self.peers.clone()]
    }
}

/// Everything that outlives the start.
struct Node {
    settings: Settings,
    cluster: Arc<ClusterHandle>,
    runtime: Arc<Mutex<Option<RuntimeHandle>>>,
    /// `None`: the node is quarantined and its data are left alone.
    engine: Option<Arc<okno_storage::rocks::RocksEngine>>,
    alarms: Arc<Alarms>,
    /// What the keepers of disk and power let in.
    intake: Arc<Intake>,
    security: SecurityLog,
    sides: Sides,
    /// Ends streams and background tasks.
    stop: CancellationToken,
    /// Ends the clients' listener; connections go on until their calls are done.
    stop_clients: CancellationToken,
    stop_peers: CancellationToken,
    tasks: TaskTracker,
    started_at: SystemTime,
}

async fn serve(settings: Settings) -> Result<()> {
    // Before anything that takes time: a signal during the start must not be lost.
    let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;
    let mut hang_up = signal(SignalKind::hangup()).context("watching SIGHUP")?;

    let claim = Claim::take(&settings)?;
    let alarms = Arc::new(Alarms::default());
    let sides = Sides::load(&settings, &alarms)?;
    let sockets = Sockets::bind(&settings).await?;
    keepers::disk::make_room(&settings.node.data_dir, &settings.disk);
    let security = SecurityLog::open(&settings.node.data_dir, settings.security.sync_interval)?;
    let connector = Arc::new(wiring::Connector(PeerDialer::new(sides.peers.clone())));
    let Started { cluster, peer_service, engine, lock: _lock } = claim.start(&settings, connector).await?;
    let intake = Arc::new(Intake::default());
    let runtime = Runtime::start(
        wiring::runtime_settings(&settings, &cluster, intake.clone()),
        cluster.clone(),
        cluster.state(),
        Arc::new(wiring::Forwarding(cluster.clone())),
    )?;
    cluster.add_listener(runtime.listener());
    cluster.set_forward_handler(runtime.forward_handler());

    let node = Node {
        settings,
        cluster,
        runtime: Arc::new(Mutex::new(Some(runtime))),
        engine,
        alarms,
        intake,
        security,
        sides,
        stop: CancellationToken::new(),
        stop_clients: CancellationToken::new(),
        stop_peers: CancellationToken::new(),
        tasks: TaskTracker::new(),
        started_at: SystemTime::now(),
    };
    let reload = Arc::new(Notify::new());
    node.start(sockets, peer_service, &reload).await?;
    // Ready means started: a quarantined node is up, to say why it is closed.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => reload.notify_one(),
        }
    }
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    node.stop().await
}

impl Node {
    async fn start(&self, sockets: Sockets, peer_service: PeerService, reload: &Arc<Notify>) -> Result<()> {
        let mut metrics = Metrics::new()?;
        let figures = MethodFigures::register(&metrics.registry)?;
        let served_by = HeaderValue::from(self.settings.node.id);
        let front = |listener| {
            Arc::new(FrontState {
                listener,
                deadline_default: self.settings.clients.deadline_default,
                message_bytes_max: self.settings.clients.message_size_max.as_u64(),
                phase: self.cluster.phases(),
                security: self.security.clone(),
                figures: figures.clone(),
                served_by: served_by.clone(),
                leader: ArcSwap::from_pointee(None),
            })
        };
        let (clients_front, peers_front) = (front(Listener::Clients), front(Listener::Peers));
        let (clients_figures, peers_figures) = (Arc::default(), Arc::default());

        self.serve_peers(sockets.peers, peer_service, peers_front, &peers_figures);
        let desk = self.desk();
        self.serve_clients(sockets.clients, &desk, clients_front.clone(), &clients_figures).await?;
        self.tasks.spawn(follow_leader(self.cluster.clone(), clients_front, self.stop.clone()));
        self.tasks.spawn(notices::follow(
            self.cluster.clone(),
            desk.notices.clone(),
            self.alarms.clone(),
            self.stop.clone(),
        ));
        self.tasks.spawn(workstations::sweep(desk.clone()));
        self.tasks.spawn(quarantine::keep(
            self.cluster.clone(),
            self.settings.node.data_dir.clone(),
            self.stop.clone(),
        ));
        self.look_after_data(&mut metrics);
        self.tasks.spawn(tls::watch(self.sides.both().to_vec(), reload.clone(), self.stop.clone()));
        self.tasks.spawn(end_old_connections(
            [
                (self.sides.clients.clone(), self.settings.clients.connection_age_max),
                (self.sides.peers.clone(), self.settings.peers.connection_age_max),
            ],
            self.stop.clone(),
        ));
        self.add_sources(&mut metrics, &desk, [("clients", clients_figures), ("peers", peers_figures)]);
        let ops = Arc::new(Ops {
            metrics,
            live: Checks::default(),
            ready: self.ready(),
            alarms: self.alarms.clone(),
        });
        // To the end: on the way down it says so.
        let stop = self.stop_peers.clone();
        self.tasks.spawn(async move {
            let served =
                axum::serve(sockets.ops, router(ops)).with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "metrics and health are not served any more");
            }
        });
        self.tasks.spawn(keep_watchdog(self.stop.clone()));
        Ok(())
    }

    /// The keepers of disk and data; a quarantined node leaves its data alone.
    fn look_after_data(&self, metrics: &mut Metrics) {
        let Some(engine) = self.engine.clone() else { return };
        let (disk, scrub): (Arc<keepers::disk::Figures>, Arc<keepers::scrub::Figures>) = Default::default();
        let shown = disk.clone();
        metrics.add("disk", Box::new(move || shown.list()));
        let shown = scrub.clone();
        metrics.add("scrub", Box::new(move || shown.list()));
        self.tasks.spawn(keepers::disk::keep(keepers::disk::Parts {
            cluster: self.cluster.clone(),
            alarms: self.alarms.clone(),
            intake: self.intake.clone(),
            directory: self.settings.node.data_dir.clone(),
            settings: self.settings.disk.clone(),
            figures: disk,
            stop: self.stop.clone(),
        }));
        self.tasks.spawn(keepers::scrub::keep(keepers::scrub::Parts {
            cluster: self.cluster.clone(),
            alarms: self.alarms.clone(),
            engine,
            settings: self.settings.scrub.clone(),
            figures: scrub,
            stop: self.stop.clone(),
        }));
    }

    fn desk(&self) -> Arc<Desk> {
        let runtime = self.runtime.lock();
        let runtime = runtime.as_ref().expect("taken only when the node stops");
        let clients = &self.settings.clients;
        let cluster_id = self.cluster.status().cluster;
        Arc::new(Desk {
            node_id: self.settings.node.id,
            started_at: self.started_at,
            tokens: Tokens::new(cluster_id),
            cluster: self.cluster.clone(),
            gateway: runtime.gateway.clone(),
            query: runtime.query.clone(),
            security: self.security.clone(),
            record_reads: self.settings.security.record_reads,
            notices: Arc::default(),
            leases: workstations::Leases::new(clients.workstation_lease, clients.workstations_max),
            watches: Arc::new(Semaphore::new(clients.watches_max)),
            stop: self.stop.clone(),
        })
    }

    fn serve_peers(
        &self,
        socket: TcpListener,
        service: PeerService,
        front: Arc<FrontState>,
        figures: &Arc<ListenerFigures>,
    ) {
        let bounds = ListenerBounds {
            // Every other member, twice: an old connection may still be dying when the new one comes.
            connections_max: 64,
            handshakes_max: 16,
            handshake_timeout: self.settings.peers.handshake_timeout,
        };
        let incoming =
            tls::accept(socket, self.sides.peers.clone(), bounds, figures.clone(), self.stop_peers.clone());
        // Frames of log entries: windows large enough not to wait for a round trip.
        let window = 8 * 1024 * 1024;
        let server = Server::builder()
            .layer(FrontLayer(front))
            .initial_stream_window_size(window)
            .initial_connection_window_size(window)
            .max_connection_age(self.settings.peers.connection_age_max)
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, self.stop_peers.clone().cancelled_owned());
        self.tasks.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the peers' listener ended");
            }
        });
    }

    async fn serve_clients(
        &self,
        socket: TcpListener,
        desk: &Arc<Desk>,
        front: Arc<FrontState>,
        figures: &Arc<ListenerFigures>,
    ) -> Result<()> {
        let clients = &self.settings.clients;
        let bounds = ListenerBounds {
            connections_max: clients.connections_max,
            handshakes_max: clients.handshakes_max,
            handshake_timeout: clients.handshake_timeout,
        };
        let incoming = tls::accept(
            socket,
            self.sides.clients.clone(),
            bounds,
            figures.clone(),
            self.stop_clients.clone(),
        );
        let (reporter, health) = tonic_health::server::health_reporter();
        self.tasks.spawn(report_health(self.cluster.clone(), reporter, self.stop.clone()));
        let reflection = || {
            let mut builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(okno_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
            // The peers' service is not served here.
            for name in SERVICE_NAMES.iter().chain(&["grpc.health.v1.Health"]) {
                builder = builder.with_service_name(*name);
            }
            builder
        };
        let message_bytes_max = usize::try_from(clients.message_size_max.as_u64()).unwrap_or(usize::MAX);
        let (reflection_v1, reflection_v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
        let services = services::services(desk, message_bytes_max, |routes| {
            routes.add_service(health).add_service(reflection_v1).add_service(reflection_v1alpha)
        });
        let server = Server::builder()
            .layer(FrontLayer(front))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(clients.streams_per_connection_max)
            .http2_max_header_list_size(HEADERS_BYTES_MAX)
            .max_connection_age(clients.connection_age_max)
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .serve_with_incoming_shutdown(services, incoming, self.stop_clients.clone().cancelled_owned());
        self.tasks.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the clients' listener ended");
            }
        });
        Ok(())
    }

    fn ready(&self) -> Checks {
        let mut checks = Checks::default();
        let phases = self.cluster.phases();
        checks.add(
            "phase",
            Box::new(move || match &*phases.borrow() {
                NodePhase::Serving => Ok(()),
                NodePhase::Quarantined { reason, remedy } => Err(format!("quarantined: {reason}. {remedy}")),
                NodePhase::Pinning { missing } => Err(format!("waiting for nodes {missing:?}")),
                other => Err(other.name().to_owned()),
            }),
        );
        let stop = self.stop.clone();
        checks.add(
            "stopping",
            Box::new(move || if stop.is_cancelled() { Err("the node is going down".into()) } else { Ok(()) }),
        );
        let cluster = self.cluster.clone();
        checks.add(
            "leader",
            Box::new(move || match cluster.role().role {
                Role::Leader { ready: true } | Role::Follower { leader: Some(_) } => Ok(()),
                Role::Leader { ready: false } => Err("elected, not ready yet".into()),
                Role::Follower { leader: None } | Role::Candidate => Err("none is known".into()),
            }),
        );
        let cluster = self.cluster.clone();
        checks.add(
            "apply",
            Box::new(move || {
                let status = cluster.status();
                let lag = status.commit.saturating_sub(status.applied);
                if lag > APPLY_LAG_MAX { Err(format!("{lag} entries behind")) } else { Ok(()) }
            }),
        );
        let security = self.security.clone();
        checks.add(
            "security-log",
            Box::new(move || if security.is_failed() { Err("cannot be written".into()) } else { Ok(()) }),
        );
        checks
    }

    fn add_sources(
        &self,
        metrics: &mut Metrics,
        desk: &Arc<Desk>,
        listeners: [(&'static str, Arc<ListenerFigures>); 2],
    ) {
        let cluster = self.cluster.clone();
        metrics.add("cluster", Box::new(move || cluster.figures()));
        if let Some(engine) = self.engine.clone() {
            metrics.add(
                "storage",
                Box::new(move || {
                    engine.stats().into_iter().map(|(name, value)| (name, value as f64)).collect()
                }),
            );
        }
        let runtime = self.runtime.clone();
        metrics.add(
            "runtime",
            Box::new(move || {
                let runtime = runtime.lock();
                runtime
                    .as_ref()
                    .map(|runtime| wiring::runtime_figures(&runtime.figures()))
                    .unwrap_or_default()
            }),
        );
        let security = self.security.clone();
        metrics.add(
            "security",
            Box::new(move || {
                let (written, dropped) = security.figures();
                vec![("events_total", written as f64), ("events_dropped_total", dropped as f64)]
            }),
        );
        let leases = desk.clone();
        metrics.add("workstations", Box::new(move || vec![("attached", leases.leases.count() as f64)]));
        let sides = self.sides.both();
        for ((name, figures), side) in listeners.into_iter().zip(sides) {
            metrics.add(
                name,
                Box::new(move || {
                    let count =
                        |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
                    vec![
                        ("connections", side.connections.count() as f64),
                        ("connections_total", count(&figures.accepted)),
                        ("handshakes_failed_total", count(&figures.handshakes_failed)),
                        ("connections_turned_away_total", count(&figures.turned_away)),
                        ("certificate_ends_seconds", side.in_force().material.not_after() as f64),
                    ]
                }),
            );
        }
    }

    /// In order; see the module.
    async fn stop(self) -> Result<()> {
        tracing::info!("stopping");
        // Not ready, and streams are told to resume elsewhere, while calls go on.
        self.stop.cancel();
        if matches!(self.cluster.role().role, Role::Leader { .. }) {
            match tokio::time::timeout(HAND_OVER_MAX, self.cluster.transfer_leader(None)).await {
                Ok(Ok(leader)) => tracing::info!(leader, "leadership handed over"),
                Ok(Err(error)) => tracing::warn!(%error, "leadership was not handed over"),
                Err(_) => tracing::warn!("leadership was not handed over in time"),
            }
        }
        self.stop_clients.cancel();
        let runtime = self.runtime.lock().take();
        let drained = async {
            // The listener's task ends when the last connection has; idle ones end at once.
            while self.sides.clients.connections.count() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(self.settings.node.drain_timeout, drained).await.is_err() {
            tracing::warn!(
                connections = self.sides.clients.connections.count(),
                "connections did not end in time"
            );
        }
        if let Some(runtime) = runtime {
            runtime.shutdown().await;
        }
        self.cluster.shutdown().await;
        self.stop_peers.cancel();
        if let Some(engine) = self.engine.clone() {
            tokio::task::spawn_blocking(move || engine.flush()).await.context("flushing the database")??;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Keeps the header that names the leader.
async fn follow_leader(cluster: Arc<ClusterHandle>, front: Arc<FrontState>, stop: CancellationToken) {
    let mut roles = cluster.roles();
    loop {
        let leader = match roles.borrow_and_update().role {
            Role::Leader { .. } => Some(cluster.node_id()),
            Role::Follower { leader } => leader,
            Role::Candidate => None,
        };
        front.leader.store(Arc::new(leader.map(HeaderValue::from)));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = roles.changed() => if changed.is_err() { return },
        }
    }
}

/// Health per service: the cluster's own service answers always, the others while the node serves.
async fn report_health(
    cluster: Arc<ClusterHandle>,
    reporter: tonic_health::server::HealthReporter,
    stop: CancellationToken,
) {
    let mut phases = cluster.phases();
    loop {
        let serving = phases.borrow_and_update().is_serving() && !stop.is_cancelled();
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in SERVICE_NAMES {
            let always = name == "okno.v1.ClusterService";
            reporter.set_service_status(name, if always { ServingStatus::Serving } else { status }).await;
        }
        reporter.set_service_status("", status).await;
        if stop.is_cancelled() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            changed = phases.changed() => if changed.is_err() { return },
        }
    }
}

/// Ends connections that did not go when they were asked to for their age.
async fn end_old_connections(sides: [(Arc<Side>, Duration); 2], stop: CancellationToken) {
    let mut look = tokio::time::interval(AGE_LOOK_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        for (side, age) in &sides {
            let closed = side.connections.close_older(*age + AGE_GRACE);
            if closed > 0 {
                tracing::info!(side = side.name, closed, "connections ended for their age");
            }
        }
    }
}

/// Tells systemd that the network threads turn; raft, apply and the shards have watchdogs of their own.
async fn keep_watchdog(stop: CancellationToken) {
    let mut interval_us = 0;
    if !sd_notify::watchdog_enabled(false, &mut interval_us) {
        return;
    }
    let mut beat =
        tokio::time::interval(Duration::from_micros(interval_us / 2).max(Duration::from_millis(100)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = beat.tick() => drop(sd_notify::notify(false, &[sd_notify::NotifyState::Watchdog])),
        }
    }
}
