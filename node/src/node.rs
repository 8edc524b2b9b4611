//! A node's life: start in order, serve, stop in order.
//!
//! Start: settings → lock of the data directory → identity → certificates → listeners bound → database → cluster →
//! peers' listener → runtime → clients' listener → ready. What can be refused cheaply is refused before anything
//! is opened; data that are wrong are no reason to end: the same node comes up closed (see [`crate::stores`]). Stop, on SIGTERM or SIGINT: not ready → leadership handed over → no new calls, those in flight end →
//! runtime → cluster → database. SIGHUP reads certificates again.

mod shown;

use crate::{
    access::Listener,
    front::{FrontLayer, FrontState},
    identity::Caller,
    keepers::{self, attendance::Attendance, power, pulse},
    observability::{
        alarms::Alarms,
        figures,
        http::{Checks, Ops, router},
        logs::{self, Logs},
        metrics::{MethodFigures, Metrics},
        panics,
        population::{self, Population},
        security::SecurityLog,
        traces::Traces,
    },
    quarantine,
    services::{self, SERVICE_NAMES, board::Boards, desk::Desk, hand_out, notices, workstations},
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
use okno_storage::snapshot::Home;
use parking_lot::Mutex;
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
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
/// Behind a neighbour by so many entries a node is catching up: what it serves from its own rows is old.
const CATCHING_UP_MIN: u64 = 1_000;
/// How long handing leadership over may take on the way down.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);
/// HTTP/2 windows of clients: a message and the next, so that small calls never wait for a window.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Metadata of a call: a few names and a trace.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// Runs a node until it is told to stop.
pub fn run(settings: Settings) -> Result<()> {
    let logs = logs::install(&settings.log).map_err(|detail| anyhow!(detail))?;
    panics::install();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.node.worker_threads)
        .thread_name("net")
        .enable_all()
        .build()
        .context("starting the network threads")?;
    let outcome = runtime.block_on(serve(settings, logs));
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
        // Members and clients know us by these certificates: a wrong one would only show as refused handshakes there.
        for side in [&clients, &peers] {
            let (cluster, node) = (side.cluster.clone(), settings.node.id);
            side.require_own(Box::new(move |material| Caller::check_own(material.leaf(), &cluster, node)))
                .map_err(|detail| anyhow!("{}.tls.certificate: {detail}", side.name))?;
        }
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
    home: Option<Arc<okno_storage::snapshot::RocksHome>>,
    alarms: Arc<Alarms>,
    /// What the keepers of disk and power let in.
    intake: Arc<Intake>,
    logs: Arc<Logs>,
    traces: Arc<Traces>,
    security: SecurityLog,
    sides: Sides,
    /// `None`: no target is set.
    backups: Option<Arc<keepers::backups::Backups>>,
    /// Who attends the windows, while this node leads.
    attendance: Arc<Attendance>,
    /// How the connectors beside this node get on.
    connectors: Arc<keepers::connectors::Connectors>,
    life: Arc<pulse::Life>,
    /// Taken by their keeper; `None`: the settings name none.
    supplies: Mutex<Option<power::Power>>,
    /// Cancelled when the node must leave for want of power.
    leave: CancellationToken,
    /// Ends streams and background tasks.
    stop: CancellationToken,
    /// Ends the clients' listener; connections go on until their calls are done.
    stop_clients: CancellationToken,
    stop_peers: CancellationToken,
    tasks: TaskTracker,
    started_at: SystemTime,
}

async fn serve(settings: Settings, logs: Arc<Logs>) -> Result<()> {
    // Before anything that takes time: a signal during the start must not be lost.
    let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;
    let mut hang_up = signal(SignalKind::hangup()).context("watching SIGHUP")?;

    let claim = Claim::take(&settings)?;
    let starting = pulse::Starting::begin();
    let mut supplies = power::Power::start(&settings)?;
    if let Some(supplies) = &mut supplies {
        tokio::select! {
            waited = supplies.wait(&settings.node.data_dir) => waited?,
            // Nothing is open yet.
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
    let alarms = Arc::new(Alarms::default());
    let sides = Sides::load(&settings, &alarms)?;
    let sockets = Sockets::bind(&settings).await?;
    keepers::disk::make_room(&settings.node.data_dir, &settings.disk);
    let security = SecurityLog::open(&settings.node.data_dir, settings.security.sync_interval)?;
    let connector = Arc::new(wiring::Connector(PeerDialer::new(sides.peers.clone())));
    let Started { cluster, peer_service, home, record, lock: _lock } =
        claim.start(&settings, connector).await?;
    let intake = Arc::new(Intake::default());
    let runtime = Runtime::start(
        wiring::runtime_settings(&settings, &cluster, intake.clone()),
        cluster.clone(),
        cluster.state(),
        Arc::new(wiring::Forwarding(cluster.clone())),
    )?;
    cluster.add_listener(runtime.listener());
    let traces = Arc::new(Traces::start(&settings.tracing, &settings.cluster.name, settings.node.id)?);
    let attendance = Arc::new(Attendance::default());
    let forwarded = wiring::Forwarded {
        cluster: cluster.clone(),
        handler: runtime.forward_handler(),
        attendance: attendance.clone(),
        traces: traces.clone(),
    };
    cluster.set_forward_handler(Arc::new(forwarded));

    let backups = keepers::backups::new(&settings, &cluster, home.as_ref(), record.as_ref(), &alarms)?;
    let connectors = Arc::new(keepers::connectors::Connectors::new(alarms.clone()));
    let node = Node {
        settings,
        cluster,
        runtime: Arc::new(Mutex::new(Some(runtime))),
        home,
        alarms,
        intake,
        logs,
        traces,
        security,
        sides,
        backups,
        attendance,
        connectors,
        life: Arc::default(),
        supplies: Mutex::new(supplies),
        leave: CancellationToken::new(),
        stop: CancellationToken::new(),
        stop_clients: CancellationToken::new(),
        stop_peers: CancellationToken::new(),
        tasks: TaskTracker::new(),
        started_at: SystemTime::now(),
    };
    let reload = Arc::new(Notify::new());
    node.start(sockets, peer_service, &reload).await?;
    drop(starting);
    // Ready means started: a quarantined node is up, to say why it is closed.
    pulse::tell(&[sd_notify::NotifyState::Ready]);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => reload.notify_one(),
            () = node.leave.cancelled() => break,
        }
    }
    pulse::tell(&[sd_notify::NotifyState::Stopping]);
    let switch_off =
        if node.leave.is_cancelled() { node.settings.power.shutdown_command.clone() } else { Vec::new() };
    node.stop().await?;
    power::switch_off(&switch_off).await;
    Ok(())
}

impl Node {
    async fn start(&self, sockets: Sockets, peer_service: PeerService, reload: &Arc<Notify>) -> Result<()> {
        let mut metrics = Metrics::new()?;
        let calls = MethodFigures::register(&metrics.registry)?;
        let served_by = HeaderValue::from(self.settings.node.id);
        let front = |listener| {
            Arc::new(FrontState {
                listener,
                deadline_default: self.settings.clients.deadline_default,
                message_bytes_max: self.settings.clients.message_size_max.as_u64(),
                phase: self.cluster.phases(),
                security: self.security.clone(),
                figures: calls.clone(),
                served_by: served_by.clone(),
                leader: ArcSwap::from_pointee(None),
                intake: self.intake.clone(),
                traces: self.traces.clone(),
            })
        };
        let (clients_front, peers_front) = (front(Listener::Clients), front(Listener::Peers));
        let (clients_figures, peers_figures) = (Arc::default(), Arc::default());

        self.serve_peers(sockets.peers, peer_service, peers_front, &peers_figures);
        let desk = self.desk();
        let listeners = [("clients", Arc::clone(&clients_figures)), ("peers", peers_figures)];
        self.look_after_data(&mut metrics);
        let ops = self.ops(metrics, &desk, listeners);
        self.serve_clients(sockets.clients, &desk, &ops, clients_front.clone(), &clients_figures).await?;
        self.tasks.spawn(follow_leader(self.cluster.clone(), clients_front, self.stop.clone()));
        self.tasks.spawn(notices::follow(
            self.cluster.clone(),
            desk.notices.clone(),
            self.alarms.clone(),
            self.security.clone(),
            self.stop.clone(),
        ));
        self.tasks.spawn(workstations::sweep(desk.clone()));
        self.tasks.spawn(hand_out::follow(desk.clone()));
        self.tasks.spawn(keepers::attendance::tell(desk.clone(), self.attendance.clone()));
        self.tasks.spawn(keepers::attendance::keep(desk.clone(), self.attendance.clone()));
        self.tasks.spawn(quarantine::keep(
            self.cluster.clone(),
            self.settings.node.data_dir.clone(),
            self.stop.clone(),
        ));
        self.tasks.spawn(tls::watch(self.sides.both().to_vec(), reload.clone(), self.stop.clone()));
        self.tasks.spawn(end_old_connections(
            [
                (self.sides.clients.clone(), self.settings.clients.connection_age_max),
                (self.sides.peers.clone(), self.settings.peers.connection_age_max),
            ],
            self.stop.clone(),
        ));
        // To the end: on the way down it says so.
        let stop = self.stop_peers.clone();
        self.tasks.spawn(async move {
            let served =
                axum::serve(sockets.ops, router(ops)).with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "metrics and health are not served any more");
            }
        });
        if let Some(backups) = &self.backups {
            keepers::backups::start(backups).context("starting the threads of backups")?;
        }
        if let Some(supplies) = self.supplies.lock().take() {
            self.tasks.spawn(supplies.keep(self.power_parts()));
        }
        self.tasks.spawn(keepers::power_notes::keep(keepers::power_notes::Parts {
            cluster: self.cluster.clone(),
            query: desk.query.clone(),
            own: self.runtime.lock().as_ref().expect("taken only when the node stops").own(),
            stop: self.stop.clone(),
        }));
        self.tasks.spawn(pulse::keep(
            self.cluster.clone(),
            desk.gateway.clone(),
            self.life.clone(),
            self.stop.clone(),
        ));
        // A quarantined node serves no connector.
        if self.home.is_some() {
            for (name, connector) in self.settings.connectors.clone() {
                let connectors = self.connectors.clone();
                self.tasks.spawn(keepers::connectors::keep(name, connector, connectors, self.stop.clone()));
            }
        }
        Ok(())
    }

    /// The keepers of disk and data; a quarantined node leaves its data alone.
    fn look_after_data(&self, metrics: &mut Metrics) {
        let Some(home) = self.home.clone() else { return };
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
            home,
            settings: self.settings.scrub.clone(),
            figures: scrub,
            stop: self.stop.clone(),
        }));
    }

    fn power_parts(&self) -> power::Parts {
        power::Parts {
            cluster: self.cluster.clone(),
            alarms: self.alarms.clone(),
            intake: self.intake.clone(),
            security: self.security.clone(),
            data_dir: self.settings.node.data_dir.clone(),
            leave: self.leave.clone(),
            stop: self.stop.clone(),
        }
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
            traffic: Arc::new(hand_out::Traffic::new(
                runtime.channels.clone(),
                self.settings.channels.heartbeat,
                self.settings.channels.streams_max,
            )),
            boards: Boards::default(),
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
        ops: &Arc<Ops>,
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
        let backups = self.backups.clone();
        let services =
            services::services(desk, ops, self.home.as_ref(), backups, message_bytes_max, |routes| {
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

    /// In order; see the module.
    async fn stop(self) -> Result<()> {
        tracing::info!("stopping");
        // Not ready, and streams are told to resume elsewhere, while calls go on.
        self.stop.cancel();
        if let Some(backups) = &self.backups {
            backups.stop();
        }
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
        self.traces.finish().await;
        self.stop_peers.cancel();
        if let Some(home) = self.home.clone() {
            tokio::task::spawn_blocking(move || home.live().flush())
                .await
                .context("flushing the database")??;
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
            let always = ["okno.v1.ClusterService", "okno.v1.OperationsService"].contains(&name);
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
