//! How nodes reach each other. The trait is what the raft thread and the handle need; production implements it
//! over gRPC streams ([`grpc`]), the simulator over virtual links.
//!
//! Nothing here may block: queues are bounded, raft messages that do not fit are dropped (raft sends again), a
//! forwarded call that does not fit was not sent.

pub mod grpc;
pub mod link;
pub mod queue;
pub mod wire;

use crate::{api::NodeId, status::MemberAlarm};
use bytes::Bytes;
use futures::future::BoxFuture;
use raft::eraftpb::Message;
use std::{sync::Arc, time::Instant};
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
    /// Checks the other side's hello. `certificate` is `None` on outbound connections, where the connector has
    /// checked it.
    fn greet(&self, hello: &Hello, certificate: Option<&PeerIdentity>) -> Result<(), Refusal>;
    fn messages(&self, from: NodeId, messages: Vec<Message>);
    fn gossip(&self, from: NodeId, gossip: Gossip);
    fn forward(&self, from: NodeId, payload: Bytes) -> Result<BoxFuture<'static, Bytes>, ForwardRefusal>;
    /// Messages to this node were dropped or its stream ended.
    fn unreachable(&self, node: NodeId);
    /// This member refuses us: it has pinned another incarnation of this node.
    fn disowned(&self, by: NodeId);
    /// The wall clock that goes into gossip.
    fn clock_ms(&self) -> i64;
}
