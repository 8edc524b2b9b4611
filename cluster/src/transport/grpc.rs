//! The transport over gRPC: `okno.peer.v1.PeerService`, one stream per ordered pair of members.

use super::{
    CopyLimits, ForwardError, Gossip, Inlet, PeerConnector, PeerIdentity, Refusal, Transport,
    copy::{self, Sending},
    link::{Link, refused},
    queue::{PeerQueue, ReplyQueue},
    wire,
};
use crate::{
    api::NodeId,
    settings::{FORWARD_BYTES_MAX, FORWARDS_MAX, FRAME_RECEIVE_MAX},
};
use bytes::Bytes;
use futures::{
    FutureExt,
    future::BoxFuture,
    stream::{BoxStream, StreamExt},
};
use okno_proto::okno::peer::v1::{
    LinkRequest, LinkResponse, SendSnapshotRequest, SendSnapshotResponse,
    peer_service_server::{PeerService as Rpc, PeerServiceServer},
};
use okno_storage::snapshot::Source;
use parking_lot::RwLock;
use raft::eraftpb::Message;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

/// The service that the node's peer listener serves. The TLS layer must insert [`PeerIdentity`] into the
/// extensions of every request.
pub type PeerService = PeerServiceServer<PeerEndpoint>;

/// Time for the first frame of an inbound link.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// An outbound link speaks at least with every gossip; longer silence ends it.
const SILENCE: Duration = Duration::from_secs(10);
/// An inbound link answers at least this often, so that the other side notices a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// A node this one connects to.
struct Peer {
    address: String,
    queue: Arc<PeerQueue>,
    stop: CancellationToken,
}

pub struct GrpcTransport {
    own: NodeId,
    peers: RwLock<BTreeMap<NodeId, Peer>>,
    connector: Arc<dyn PeerConnector>,
    inlet: Arc<dyn Inlet>,
    stop: CancellationToken,
    /// Links run here, whoever asks for them.
    runtime: tokio::runtime::Handle,
}

impl GrpcTransport {
    /// Ready to connect, on the present tokio runtime: see [`Transport::set_peers`].
    pub fn start(
        own: NodeId,
        connector: &Arc<dyn PeerConnector>,
        inlet: Arc<dyn Inlet>,
    ) -> (Arc<Self>, PeerService) {
        let stop = CancellationToken::new();
        let endpoint =
            PeerEndpoint { inlet: inlet.clone(), stop: stop.clone(), in_hand: Arc::new(AtomicUsize::new(0)) };
        let service = PeerServiceServer::new(endpoint)
            .max_decoding_message_size(FRAME_RECEIVE_MAX)
            .max_encoding_message_size(FRAME_RECEIVE_MAX);
        let transport = Self {
            own,
            peers: RwLock::default(),
            connector: connector.clone(),
            inlet,
            stop,
            runtime: tokio::runtime::Handle::current(),
        };
        (Arc::new(transport), service)
    }

    fn queue(&self, node: NodeId) -> Option<Arc<PeerQueue>> {
        self.peers.read().get(&node).map(|p| p.queue.clone())
    }
}

impl Transport for GrpcTransport {
    fn send(&self, messages: Vec<Message>) {
        // A turn's messages go to few nodes: one pass each keeps their order.
        let mut messages: Vec<Option<Message>> = messages.into_iter().map(Some).collect();
        for (node, peer) in &*self.peers.read() {
            let theirs = |m: &Option<Message>| m.as_ref().is_some_and(|m| m.to == *node);
            if messages.iter().any(theirs)
                && !peer.queue.push(messages.iter_mut().filter(|m| theirs(m)).filter_map(Option::take))
            {
                self.inlet.unreachable(*node);
            }
        }
    }

    fn gossip(&self, gossip: &Gossip) {
        for peer in self.peers.read().values() {
            peer.queue.gossip(gossip.clone());
        }
    }

    fn forward(
        &self,
        to: NodeId,
        payload: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, ForwardError>> {
        let Some(queue) = self.queue(to).filter(|_| payload.len() <= FORWARD_BYTES_MAX) else {
            return futures::future::ready(Err(ForwardError::NotSent)).boxed();
        };
        async move {
            let (id, answer) = queue.forward(payload)?;
            match tokio::time::timeout_at(deadline.into(), answer).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(ForwardError::Unknown),
                Err(_) => Err(queue.give_up(id)),
            }
        }
        .boxed()
    }

    fn set_peers(&self, wanted: BTreeMap<NodeId, String>) {
        let mut peers = self.peers.write();
        if self.stop.is_cancelled() {
            return;
        }
        peers.retain(|node, peer| {
            let stays = wanted.get(node) == Some(&peer.address);
            if !stays {
                peer.stop.cancel();
            }
            stays
        });
        for (node, address) in wanted {
            if node == self.own || peers.contains_key(&node) {
                continue;
            }
            let (queue, stop) = (Arc::new(PeerQueue::default()), self.stop.child_token());
            let link = Link {
                node,
                address: address.clone(),
                connector: self.connector.clone(),
                inlet: self.inlet.clone(),
                queue: queue.clone(),
                stop: stop.clone(),
            };
            self.runtime.spawn(link.run());
            peers.insert(node, Peer { address, queue, stop });
        }
    }

    fn send_copy(
        &self,
        to: NodeId,
        source: Arc<dyn Source>,
        message: Bytes,
        limits: CopyLimits,
    ) -> BoxFuture<'static, Result<(), String>> {
        let Some(address) = self.peers.read().get(&to).map(|p| p.address.clone()) else {
            return futures::future::ready(Err("no such peer".to_owned())).boxed();
        };
        let (connector, inlet) = (self.connector.clone(), self.inlet.clone());
        let sending = Sending { to, address, connector, inlet, source, message, limits };
        let stop = self.stop.clone();
        async move {
            stop.run_until_cancelled(sending.run()).await.unwrap_or_else(|| Err("the node is closing".into()))
        }
        .boxed()
    }

    fn connected(&self, node: NodeId) -> bool {
        self.queue(node).is_some_and(|q| q.is_up())
    }

    fn close(&self) {
        self.stop.cancel();
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        let sum =
            |of: fn(&PeerQueue) -> u64| self.peers.read().values().map(|p| of(&p.queue)).sum::<u64>() as f64;
        vec![
            ("peer_frames_total", sum(|q| q.frames.load(Relaxed))),
            ("peer_messages_total", sum(|q| q.messages.load(Relaxed))),
            ("peer_messages_dropped_total", sum(|q| q.dropped.load(Relaxed))),
            ("forwards_sent_total", sum(|q| q.forwards.load(Relaxed))),
        ]
    }
}

/// Serves the inbound links.
pub struct PeerEndpoint {
    inlet: Arc<dyn Inlet>,
    stop: CancellationToken,
    /// Forwarded calls in hand, over all links.
    in_hand: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Rpc for PeerEndpoint {
    type LinkStream = BoxStream<'static, Result<LinkResponse, Status>>;
    type SendSnapshotStream = BoxStream<'static, Result<SendSnapshotResponse, Status>>;

    async fn send_snapshot(
        &self,
        request: Request<Streaming<SendSnapshotRequest>>,
    ) -> Result<Response<Self::SendSnapshotStream>, Status> {
        let Some(certificate) = request.extensions().get::<PeerIdentity>().cloned() else {
            return Err(refused(&Refusal::Certificate("none".into())));
        };
        let answers = copy::receive(self.inlet.clone(), certificate, request.into_inner()).await?;
        Ok(Response::new(answers))
    }

    async fn link(
        &self,
        request: Request<Streaming<LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let refuse = |refusal: Refusal| {
            tracing::warn!(reason = %refusal, "refused a peer");
            refused(&refusal)
        };
        let Some(certificate) = request.extensions().get::<PeerIdentity>().cloned() else {
            return Err(refuse(Refusal::Certificate("none".into())));
        };
        let mut frames = request.into_inner();
        let first = timeout(HANDSHAKE, frames.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello"))??
            .and_then(|frame| frame.hello)
            .ok_or_else(|| refuse(Refusal::Malformed("no hello")))?;
        let hello = wire::hello_in(&first).map_err(refuse)?;
        self.inlet.greet(&hello, &certificate).map_err(refuse)?;
        let replies = Arc::new(ReplyQueue::default());
        let reader = Reader {
            from: hello.node,
            incarnation: hello.incarnation,
            inlet: self.inlet.clone(),
            replies: replies.clone(),
            in_hand: self.in_hand.clone(),
        };
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                end = reader.run(frames) => tracing::debug!(node = reader.from, ?end, "inbound link ended"),
            }
            reader.replies.end();
        });
        let ours = LinkResponse {
            hello: Some(wire::hello_out(&self.inlet.hello(hello.node))),
            ..LinkResponse::default()
        };
        let answers = futures::stream::unfold((Some(ours), replies), |(first, replies)| async move {
            if let Some(hello) = first {
                return Some((Ok(hello), (None, replies)));
            }
            // Nothing within the time: an empty frame shows that we live.
            let _ = timeout(KEEP_ALIVE, replies.changed()).await;
            let waiting = replies.take()?;
            Some((Ok(LinkResponse { hello: None, replies: waiting }), (None, replies)))
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// Reads one inbound link.
struct Reader {
    from: NodeId,
    incarnation: Uuid,
    inlet: Arc<dyn Inlet>,
    replies: Arc<ReplyQueue>,
    in_hand: Arc<AtomicUsize>,
}

/// Gives a forwarded call's slot back, also when its handler panics.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Reader {
    async fn run(&self, mut frames: Streaming<LinkRequest>) -> Result<(), Status> {
        let mut first = true;
        loop {
            let frame = timeout(SILENCE, frames.message())
                .await
                .map_err(|_| Status::deadline_exceeded("the peer is silent"))??;
            let Some(frame) = frame else { return Ok(()) };
            if std::mem::take(&mut first) {
                self.inlet.taken(self.from, self.incarnation);
            }
            if !frame.raft.is_empty() {
                let messages = wire::messages_in(&frame.raft).map_err(|r| refused(&r))?;
                self.inlet.messages(self.from, messages);
            }
            for forward in frame.forwards {
                self.take_forward(forward.id, forward.payload);
            }
            if let Some(gossip) = &frame.gossip {
                self.inlet.gossip(self.from, wire::gossip_in(gossip)).map_err(|r| refused(&r))?;
            }
        }
    }

    fn take_forward(&self, id: u64, payload: Bytes) {
        let slot = Slot(self.in_hand.clone());
        if self.in_hand.fetch_add(1, Relaxed) >= FORWARDS_MAX {
            return self.replies.push(id, Err(super::ForwardRefusal::Full));
        }
        match self.inlet.forward(self.from, payload) {
            Ok(work) => {
                let replies = self.replies.clone();
                // Not tied to the link: what was begun is finished even if the asker is gone.
                tokio::spawn(async move {
                    let _slot = slot;
                    replies.push(id, Ok(work.await));
                });
            }
            Err(refusal) => self.replies.push(id, Err(refusal)),
        }
    }
}
