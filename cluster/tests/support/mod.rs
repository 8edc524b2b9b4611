//! Three whole nodes in one process: real threads, real streams over loopback TCP, stores in memory.
#![allow(clippy::disallowed_methods, reason = "whole nodes run in real time")]
#![allow(dead_code, reason = "each test binary uses its part")]

use bytes::Bytes;
use futures::future::BoxFuture;
use okno_cluster::{
    Cluster, ClusterHandle, ClusterParts, ClusterSettings, ConnectError, Fatal, ForwardHandler, NodeId,
    PeerConnector, PeerIdentity, Quarantine,
    api::{Lane, Proposal, Proposer, Role, Settled, ShardNotice, ShardPort},
};
use okno_storage::{
    commit::{Body, Commit, CommitId, EntityKey, Record, RecordTag, SystemOp, Value},
    engine::Engine,
    identity::{Identity, IdentityRecord, Later, Member},
    memory::{MemoryEngine, MemoryIdentity},
    snapshot::{Home, MemoryDisk, MemoryHome},
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tonic::transport::{Channel, Endpoint, Server};
use uuid::Uuid;

/// Longest wait for anything; what a loaded machine needs, not what is expected.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const TAG: RecordTag = RecordTag { kind: 9_000, version: 1 };

/// Says who calls in the user agent, where production has a certificate.
pub struct PlainConnector(pub NodeId);

impl PeerConnector for PlainConnector {
    fn connect<'a>(
        &'a self,
        _node: NodeId,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Channel, ConnectError>> {
        Box::pin(async move {
            let fail = |e: &dyn std::error::Error| ConnectError(e.to_string());
            Endpoint::from_shared(format!("http://{address}"))
                .and_then(|e| e.user_agent(format!("node-{}", self.0)))
                .map_err(|e| fail(&e))?
                .tcp_nodelay(true)
                .connect_timeout(Duration::from_secs(2))
                .connect()
                .await
                .map_err(|e| fail(&e))
        })
    }
}

#[derive(Default)]
pub struct RecordingFatal(pub Mutex<Vec<String>>);

impl Fatal for RecordingFatal {
    fn exit(&self, code: i32, reason: &str) {
        self.0.lock().push(format!("{code}: {reason}"));
    }
}

/// What a node's disk holds between lives.
#[derive(Clone)]
pub struct Disk<E> {
    pub engine: E,
    pub medium: MemoryIdentity,
    pub address: String,
}

/// As [`Disk`], of a node that takes and installs copies.
#[derive(Clone)]
pub struct HomeDisk {
    pub store: MemoryDisk,
    pub medium: MemoryIdentity,
    pub address: String,
}

/// Makes a node of a cluster of one, or one that joins it.
pub async fn init_home(id: NodeId, founders: &[Member]) -> HomeDisk {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound").to_string();
    let joins = !founders.is_empty();
    let members =
        if joins { founders.to_vec() } else { vec![Member { node_id: id, peer_address: address.clone() }] };
    let medium = MemoryIdentity::new();
    let record = IdentityRecord {
        cluster: Uuid::from_u128(1),
        node_id: id,
        incarnation: Uuid::from_u128(100 + u128::from(id)),
        members,
        pins: Vec::new(),
        term: 0,
        vote: 0,
        synced_term: 0,
        synced_index: 0,
        live_directory: "db".into(),
        sequence: 0,
        later: Later { joined: joins, ..Later::default() },
    };
    Identity::create(Box::new(medium.clone()), record).expect("memory");
    HomeDisk { store: MemoryDisk::new("db", MemoryEngine::new()), medium, address }
}

pub struct TestNode {
    pub handle: Arc<ClusterHandle>,
    pub fatal: Arc<RecordingFatal>,
    pub notices: mpsc::UnboundedReceiver<ShardNotice>,
    server: JoinHandle<()>,
}

struct Port(mpsc::UnboundedSender<ShardNotice>);

impl ShardPort for Port {
    fn deliver(&self, notice: ShardNotice) {
        let _ = self.0.send(notice);
    }
}

/// Answers with the node's number and what it got.
struct Echo(NodeId);

impl ForwardHandler for Echo {
    fn handle(&self, from: NodeId, payload: Bytes) -> BoxFuture<'static, Bytes> {
        let own = self.0;
        Box::pin(async move {
            if payload.is_empty() {
                // A call that never comes to an end.
                std::future::pending::<()>().await;
            }
            format!("{own} for {from}: {}", String::from_utf8_lossy(&payload)).into_bytes().into()
        })
    }
}

/// Makes the identities of a cluster of three, on ports of the system's choice.
pub async fn init<E: Default>(count: u64) -> Vec<Disk<E>> {
    let mut members = Vec::new();
    for id in 1..=count {
        // The port is free again when the listener is dropped; the node takes it.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound").to_string();
        members.push(Member { node_id: id, peer_address: address });
    }
    members.iter().map(|m| init_one(m.node_id, &members, 100)).collect()
}

pub fn init_one<E: Default>(id: NodeId, members: &[Member], incarnation: u128) -> Disk<E> {
    let medium = MemoryIdentity::new();
    let record = IdentityRecord {
        cluster: Uuid::from_u128(1),
        node_id: id,
        incarnation: Uuid::from_u128(incarnation + u128::from(id)),
        members: members.to_vec(),
        pins: Vec::new(),
        term: 0,
        vote: 0,
        synced_term: 0,
        synced_index: 0,
        live_directory: "db".into(),
        sequence: 0,
        later: Default::default(),
    };
    Identity::create(Box::new(medium.clone()), record).expect("memory");
    let address = members.iter().find(|m| m.node_id == id).expect("listed").peer_address.clone();
    Disk { engine: E::default(), medium, address }
}

pub fn settings() -> ClusterSettings {
    ClusterSettings {
        certificate_cluster: Some("test".into()),
        disk_hung: Duration::from_secs(3),
        // Tests end leaderships; a machine that is busy for half a second does not.
        election_min: Duration::from_secs(2),
        election_max: Duration::from_secs(4),
        ..ClusterSettings::default()
    }
}

impl TestNode {
    pub async fn start<E: Engine + Clone>(disk: &Disk<E>) -> Self {
        Self::start_with(disk, None).await
    }

    /// As a node whose data cannot be used.
    pub async fn start_quarantined<E: Engine + Clone>(disk: &Disk<E>, why: Quarantine) -> Self {
        let (medium, address) = (disk.medium.clone(), disk.address.clone());
        Self::start_with(&Disk { engine: MemoryEngine::new(), medium, address }, Some(why)).await
    }

    async fn start_with<E: Engine + Clone>(disk: &Disk<E>, why: Option<Quarantine>) -> Self {
        let engine = Arc::new(disk.engine.clone());
        Self::start_on(engine, None, &disk.medium, &disk.address, settings(), why).await
    }

    /// On databases that copies can replace.
    pub async fn start_home(disk: &HomeDisk, settings: ClusterSettings) -> Self {
        Self::start_home_as(disk, settings, |home| home).await
    }

    /// As [`TestNode::start_home`], with something of the test's own before the home.
    pub async fn start_home_as(
        disk: &HomeDisk,
        settings: ClusterSettings,
        wrap: impl FnOnce(Arc<dyn Home>) -> Arc<dyn Home>,
    ) -> Self {
        let identity = Identity::open(Box::new(disk.medium.clone())).expect("memory");
        let live = identity.record().live_directory.clone();
        let home = Arc::new(MemoryHome::new(&disk.store, &live).expect("the database is there"));
        let engine = home.engine();
        Self::start_on(engine, Some(wrap(home)), &disk.medium, &disk.address, settings, None).await
    }

    async fn start_on(
        engine: Arc<dyn Engine>,
        home: Option<Arc<dyn Home>>,
        medium: &MemoryIdentity,
        address: &str,
        settings: ClusterSettings,
        why: Option<Quarantine>,
    ) -> Self {
        let identity = Identity::open(Box::new(medium.clone())).expect("memory");
        let id = identity.record().node_id;
        let fatal = Arc::new(RecordingFatal::default());
        let parts = ClusterParts {
            engine,
            identity,
            home,
            connector: Arc::new(PlainConnector(id)),
            fatal: fatal.clone(),
        };
        let started = match why {
            None => Cluster::start(settings, parts).await,
            Some(why) => Cluster::start_quarantined(settings, parts, why).await,
        };
        let (handle, service) = started.expect("starts");
        handle.set_forward_handler(Arc::new(Echo(id)));
        let (tell, notices) = mpsc::unbounded_channel();
        handle.register(0, Arc::new(Port(tell)));
        let listener = bind(address).await;
        let identify = |mut request: tonic::Request<()>| {
            let agent = request.metadata().get("user-agent").and_then(|a| a.to_str().ok()).unwrap_or("");
            let node =
                agent.split(' ').next().and_then(|a| a.strip_prefix("node-")).and_then(|n| n.parse().ok());
            if let Some(node_id) = node {
                request.extensions_mut().insert(PeerIdentity { cluster: "test".into(), node_id });
            }
            Ok(request)
        };
        let service = tonic::service::interceptor::InterceptedService::new(service, identify);
        let server = tokio::spawn(async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let _ =
                Server::builder().tcp_nodelay(true).add_service(service).serve_with_incoming(incoming).await;
        });
        Self { handle, fatal, notices, server }
    }

    pub fn leads(&self) -> bool {
        matches!(self.handle.role().role, Role::Leader { ready: true })
    }

    pub async fn next(&mut self) -> ShardNotice {
        tokio::time::timeout(PATIENCE, self.notices.recv()).await.expect("in time").expect("port open")
    }

    /// Waits until `count` proposals are settled.
    pub async fn settled(&mut self, count: usize) -> Vec<Settled> {
        let mut all = Vec::new();
        while all.len() < count {
            if let ShardNotice::Settled(settled) = self.next().await {
                all.extend(settled);
            }
        }
        all
    }

    /// Ends without a word, as a killed process does.
    pub fn kill(self) {
        self.server.abort();
        drop(self.handle);
    }

    pub async fn stop(self) {
        self.handle.shutdown().await;
        self.server.abort();
    }
}

async fn bind(address: &str) -> TcpListener {
    // The port of a node just killed may still be held by its server's last connection.
    let until = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < until, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until one of the nodes leads, ready; returns its place.
pub async fn leader(nodes: &[&TestNode]) -> usize {
    let mut leads = None;
    eventually("a leader", || {
        leads = nodes.iter().position(|n| n.leads());
        leads.is_some()
    })
    .await;
    leads.expect("just seen")
}

static COUNTER: AtomicU64 = AtomicU64::new(1);

/// The n-th commit of a new entity.
pub fn commit(entity: &str, term: u64, base: CommitId, bytes: usize) -> (CommitId, Bytes) {
    let id = CommitId { term, counter: COUNTER.fetch_add(1, Relaxed) };
    let body = Bytes::from(vec![b'x'; bytes]);
    let entity = EntityKey::parse(entity).expect("valid");
    let commit = Commit {
        events: vec![Record { tag: TAG, body }],
        root: Some(Value { tag: TAG, body: Body::Inline(Bytes::from_static(b"root")) }),
        ..Commit::bare(entity, id, base, 1_790_000_000_000)
    };
    (id, commit.encode().expect("valid"))
}

pub fn marker(term: u64) -> Bytes {
    system(term, "sys/marker", SystemOp::Marker)
}

pub fn system(term: u64, entity: &str, op: SystemOp) -> Bytes {
    let entity = EntityKey::parse(entity).expect("valid");
    let id = CommitId { term, counter: COUNTER.fetch_add(1, Relaxed) };
    let commit = Commit { system: Some(op), ..Commit::bare(entity, id, CommitId::NONE, 1_790_000_000_000) };
    commit.encode().expect("valid")
}

pub fn lane(activation: u64) -> Lane {
    Lane { shard: 0, activation }
}

pub fn proposal(activation: u64, seq: u64, term: u64, data: Bytes) -> Proposal {
    Proposal { lane: lane(activation), seq, term, data }
}
