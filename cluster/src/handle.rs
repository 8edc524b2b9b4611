//! Starting the cluster part of a node, and the handle everybody else holds.

use crate::{
    api::{
        ApplyListener, Lane, NodeId, Proposal, ProposeError, Proposer, ReadError, RoleState, ShardPort,
        StampError,
    },
    settings::ClusterSettings,
    shell::fatal::Fatal,
    status::{ClusterStatus, MemberDigests, NodePhase, TransferError},
    transport::{ForwardError, ForwardHandler, PeerConnector, grpc::PeerService},
};
use bytes::Bytes;
use okno_storage::{engine::Engine, error::StorageError, identity::Identity, state::StateReader};
use std::{sync::Arc, time::Instant};
use tokio::sync::watch;

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
    #[error("cannot start a thread: {0}")]
    Thread(String),
}

/// What a node brings along.
pub struct ClusterParts {
    pub engine: Arc<dyn Engine>,
    pub identity: Identity,
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
        let _ = (settings, parts);
        todo!()
    }
}

/// The one thing others hold.
pub struct ClusterHandle {}

impl ClusterHandle {
    /// A linearizable read point: the index returned was committed after this call began, and is applied here.
    pub async fn read_index(&self, deadline: Instant) -> Result<u64, ReadError> {
        let _ = deadline;
        todo!()
    }
    /// Waits until apply has passed `index`.
    pub async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<u64, ReadError> {
        let _ = (index, deadline);
        todo!()
    }
    pub fn status(&self) -> ClusterStatus {
        todo!()
    }
    /// What every member last said its hashes are (rule 15).
    pub fn digest_report(&self) -> Vec<MemberDigests> {
        todo!()
    }
    /// Hands leadership over, to the member named or to the one nearest. Returns who leads now, verified.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        let _ = to;
        todo!()
    }
    /// Carries a call to another node on the batched stream.
    pub async fn forward(
        &self,
        to: NodeId,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, ForwardError> {
        let _ = (to, payload, deadline);
        todo!()
    }
    /// Registers who carries out calls forwarded to this node; until then they are refused unsent.
    pub fn set_forward_handler(&self, handler: Arc<dyn ForwardHandler>) {
        let _ = handler;
        todo!()
    }
    /// Adds a listener; it hears of what is applied from now on, so read the state after adding.
    pub fn add_listener(&self, listener: Arc<dyn ApplyListener>) {
        let _ = listener;
        todo!()
    }
    pub fn state(&self) -> StateReader {
        todo!()
    }
    pub fn phases(&self) -> watch::Receiver<NodePhase> {
        todo!()
    }
    /// Replicated feature level (rule 9).
    pub fn level(&self) -> u32 {
        todo!()
    }
    pub fn node_id(&self) -> NodeId {
        todo!()
    }
    /// Closes the node to raft and clients (rule 12); for faults found outside this crate, such as a scrub's.
    pub fn quarantine(&self, reason: &str, remedy: &str) {
        let _ = (reason, remedy);
        todo!()
    }
    /// Figures for metrics: (name, value). Names ending in `_total` only grow.
    pub fn figures(&self) -> Vec<(&'static str, f64)> {
        todo!()
    }
    /// Hands leadership over, ends links and threads, syncs the identity. Returns when both threads have ended.
    pub async fn shutdown(&self) {
        todo!()
    }
}

impl Proposer for ClusterHandle {
    fn register(&self, shard: u16, port: Arc<dyn ShardPort>) {
        let _ = (shard, port);
        todo!()
    }
    fn propose(&self, proposals: Vec<Proposal>) -> Result<(), ProposeError> {
        let _ = proposals;
        todo!()
    }
    fn close_lane(&self, lane: Lane) {
        let _ = lane;
        todo!()
    }
    fn confirm_leadership(&self, shard: u16, ticket: u64) {
        let _ = (shard, ticket);
        todo!()
    }
    fn role(&self) -> RoleState {
        todo!()
    }
    fn roles(&self) -> watch::Receiver<RoleState> {
        todo!()
    }
    fn applied_index(&self) -> u64 {
        todo!()
    }
    fn stamp(&self) -> Result<i64, StampError> {
        todo!()
    }
}
