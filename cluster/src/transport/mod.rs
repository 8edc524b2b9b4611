//! How nodes reach each other. The trait is what the raft thread and the handle need; production implements it
//! over gRPC streams ([`grpc`]), the simulator over virtual links.
//!
//! Nothing here may block: queues are bounded, raft messages that do not fit are dropped (raft sends again), a
//! forwarded call that does not fit was not sent.

pub mod copy;
pub mod grpc;
pub mod link;
pub mod queue;
pub mod wire;

use crate::{api::NodeId, status::MemberAlarm};
use bytes::Bytes;
use futures::future::BoxFuture;
use okno_storage::snapshot::{Source, Wanted};
use raft::eraftpb::Message;

use std::{collections::BTreeMap, sync::Arc, time::Instant};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Who the certificate of an inbound connection names. The node's TLS layer puts it into the request's
/// extensions; a request without it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    pub cluster: String,
    pub node_id: NodeId,
}

/// A connection could not be made; the text goes to the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(pub String);

/// Makes outbound connections: TLS, and the check that the other side's certificate names `node`, are the node
/// layer's. The channel should use keep-alive and a connect timeout.
pub trait PeerConnector: Send + Sync {
    fn connect<'a>(
        &'a self,
        node: NodeId,
        address: &'a str,
    ) -> BoxFuture<'a, Result<tonic::transport::Channel, ConnectError>>;
}

/// A forwarded call that came to nothing, or may have (rule 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The other node never began with it: safe to try again.
    #[error("not sent")]
    NotSent,
    /// It left, and no answer came.
    #[error("sent, and not answered")]
    Unknown,
}

/// Carries out calls that another node forwards to this one. Registered once by the runtime.
pub trait ForwardHandler: Send + Sync {
    /// The future is driven to its end even if the other node is gone.
    fn handle(&self, from: NodeId, payload: Bytes) -> BoxFuture<'static, Bytes>;
}

/// Who speaks (rule 14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub cluster: Uuid,
    pub node: NodeId,
    pub incarnation: Uuid,
    /// h₀ of the hash chain: covers the cluster id and the initial member list.
    pub members_hash: [u8; 32],
    pub feature_level: u32,
    pub protocol: u32,
    /// The node the speaker believes it talks to.
    pub to: NodeId,
    /// host:port the speaker is reached at; empty if it does not know.
    pub address: String,
}

/// Why a handshake was refused; the text names what differs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("wrong cluster: {0}")]
    Cluster(String),
    #[error("unknown node {0}")]
    UnknownNode(NodeId),
    #[error("wrong incarnation of node {0}: its id died with its old data")]
    Incarnation(NodeId),
    #[error("node {0} was removed: its id is used up")]
    Removed(NodeId),
    #[error("the member lists differ")]
    Members,
    #[error("protocol {theirs}, expected {ours}")]
    Protocol { theirs: u32, ours: u32 },
    #[error(
        "its program knows feature level {theirs}, the cluster is at {needed}: install a version that knows level \
         {needed}"
    )]
    Level { theirs: u32, needed: u32 },
    #[error("meant for node {0}")]
    NotMe(NodeId),
    #[error("certificate: {0}")]
    Certificate(String),
    #[error("the node is closed")]
    Closed,
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

/// What members tell each other all the time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gossip {
    /// The speaker's wall clock; the transport sets it when the frame leaves.
    pub clock_ms: i64,
    pub applied: u64,
    pub chains: Vec<crate::status::Point>,
    pub digest: Option<crate::status::Point>,
    pub quarantined: bool,
    pub pinned: bool,
    /// What stands wrong with the speaker.
    pub alarms: Arc<[MemberAlarm]>,
}

/// Why a receiver did not take a forwarded call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardRefusal {
    Full,
    Closed,
}

/// How a copy may be sent.
#[derive(Debug, Clone, Copy)]
pub struct CopyLimits {
    /// 0: as fast as the network takes it.
    pub bytes_per_second: u64,
}

/// Where the files of a copy go that a member sends. It blocks: call it on a thread of its own.
pub trait SnapshotSink: Send {
    /// The next byte wanted; `None`: everything is here.
    fn wanted(&self) -> Option<Wanted>;
    /// Takes a chunk; `Ok(Some)` says why it was not taken: [`SnapshotSink::wanted`] says what to send next. `Err` ends it.
    fn put(&mut self, at: Wanted, data: &Bytes, crc: u32) -> Result<Option<String>, String>;
    /// Everything is here: checks it and hands it to raft, whose verdict comes.
    fn finish(&mut self) -> Result<oneshot::Receiver<Result<(), String>>, String>;
}

/// How a node sends. Made by the transport, used by the raft thread and the handle.
pub trait Transport: Send + Sync {
    /// Sends raft messages, each to its `to`; may drop any of them.
    fn send(&self, messages: Vec<Message>);
    /// Tells every other member.
    fn gossip(&self, gossip: &Gossip);
    fn forward(
        &self,
        to: NodeId,
        payload: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, ForwardError>>;
    /// Connects to these nodes and to no others: (node, host:port).
    fn set_peers(&self, peers: BTreeMap<NodeId, String>);
    /// Sends a copy of the database, with raft's encoded message for it; `Ok` once the receiver has installed it.
    fn send_copy(
        &self,
        to: NodeId,
        source: Arc<dyn Source>,
        message: Bytes,
        limits: CopyLimits,
    ) -> BoxFuture<'static, Result<(), String>>;
    /// The stream to this node is up.
    fn connected(&self, node: NodeId) -> bool;
    /// Ends all streams, for good.
    fn close(&self);
    /// Counters: (name, value).
    fn figures(&self) -> Vec<(&'static str, f64)>;
}

/// What a transport delivers to the node it belongs to.
pub trait Inlet: Send + Sync {
    /// The hello this node says to `to`.
    fn hello(&self, to: NodeId) -> Hello;
    /// Checks the hello of one that connects to us.
    fn greet(&self, hello: &Hello, certificate: &PeerIdentity) -> Result<(), Refusal>;
    /// Checks the answer to our own hello, which its speaker has taken. The connector has checked the certificate.
    fn answered(&self, hello: &Hello) -> Result<(), Refusal>;
    /// This one, which connected to us, goes on speaking after our answer: it has taken our hello.
    fn taken(&self, by: NodeId, incarnation: Uuid);
    fn messages(&self, from: NodeId, messages: Vec<Message>);
    /// `Err`: the other side was removed meanwhile, and is to be told so.
    fn gossip(&self, from: NodeId, gossip: Gossip) -> Result<(), Refusal>;
    fn forward(&self, from: NodeId, payload: Bytes) -> Result<BoxFuture<'static, Bytes>, ForwardRefusal>;
    /// Messages to this node were dropped or its stream ended.
    fn unreachable(&self, node: NodeId);
    /// This member refuses us: it has pinned another incarnation of this node.
    fn disowned(&self, by: NodeId);
    /// This member refuses us: we were removed.
    fn removed(&self, by: NodeId);
    /// A member begins to send a copy of the database: its encoded manifest, and raft's message for it.
    fn receive_copy(
        self: Arc<Self>,
        from: NodeId,
        manifest: &[u8],
        message: &[u8],
    ) -> Result<Box<dyn SnapshotSink>, String>;
    /// The wall clock that goes into gossip.
    fn clock_ms(&self) -> i64;
}
