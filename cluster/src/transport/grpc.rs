//! The transport over gRPC: `okno.peer.v1.PeerService`, one stream per ordered pair of members.

use super::{
    ForwardError, Gossip, Inlet, PeerConnector, PeerIdentity, Refusal, Transport,
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
    LinkRequest, LinkResponse,
    peer_service_server::{PeerService as Rpc, PeerServiceServer},
};
use okno_storage::identity::Member;
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

/// The service that the node's peer listener serves. The TLS layer must insert [`PeerIdentity`] into the
/// extensions of every request.
pub type PeerService = PeerServiceServer<PeerEndpoint>;

/// Time for the first frame of an inbound link.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// An outbound link speaks at least with every gossip; longer silence ends it.
const SILENCE: Duration = Duration::from_secs(10);
/// An inbound link answers at least this often, so that the other side notices a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

pub struct GrpcTransport {
    peers: BTreeMap<NodeId, Arc<PeerQueue>>,
    inlet: Arc<dyn Inlet>,
    stop: CancellationToken,
}

impl GrpcTransport {
    /// Starts a link to every member but `own`, on the present tokio runtime.
    pub fn start(
        own: NodeId,
        members: &[Member],
        connector: &Arc<dyn PeerConnector>,
        inlet: Arc<dyn Inlet>,
    ) -> (Arc<Self>, PeerService) {
        let stop = CancellationToken::new();
        let mut peers = BTreeMap::new();
        for member in members.iter().filter(|m| m.node_id != own) {
            let queue = Arc::new(PeerQueue::default());
            peers.insert(member.node_id, queue.clone());
            let link = Link {
                node: member.node_id,
                address: member.peer_address.clone(),
                connector: connector.clone(),
                inlet: inlet.clone(),
                queue,
                stop: stop.clone(),
            };
            tokio::spawn(link.run());
        }
        let endpoint =
            PeerEndpoint { inlet: inlet.clone(), stop: stop.clone(), in_hand: Arc::new(AtomicUsize::new(0)) };
        let service = PeerServiceServer::new(endpoint)
            .max_decoding_message_size(FRAME_RECEIVE_MAX)
            .max_encoding_message_size(FRAME_RECEIVE_MAX);
        (Arc::new(Self { peers, inlet, stop }), service)
    }
}

impl Transport for GrpcTransport {
    fn send(&self, messages: Vec<Message>) {
        // A turn's messages go to few nodes: one pass each keeps their order.
        let mut messages: Vec<Option<Message>> = messages.into_iter().map(Some).collect();
        for (node, queue) in &self.peers {
            let theirs = |m: &Option<Message>| m.as_ref().is_some_and(|m| m.to == *node);
            if messages.iter().any(theirs)
                && !queue.push(messages.iter_mut().filter(|m| theirs(m)).filter_map(Option::take))
            {
                self.inlet.unreachable(*node);
            }
        }
    }

    fn gossip(&self, gossip: &Gossip) {
        for queue in self.peers.values() {
            queue.gossip(gossip.clone());
        }
    }

    fn forward(
        &self,
        to: NodeId,
        payload: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, ForwardError>> {
        let Some(queue) = self.peers.get(&to).filter(|_| payload.len() <= FORWARD_BYTES_MAX).cloned() else {
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

    fn connected(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|q| q.is_up())
    }

    fn close(&self) {
        self.stop.cancel();
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        let sum = |of: fn(&PeerQueue) -> u64| self.peers.values().map(|q| of(q)).sum::<u64>() as f64;
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
        self.inlet.greet(&hello, Some(&certificate)).map_err(refuse)?;
        let replies = Arc::new(ReplyQueue::default());
        let reader = Reader {
            from: hello.node,
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
        loop {
            let frame = timeout(SILENCE, frames.message())
                .await
                .map_err(|_| Status::deadline_exceeded("the peer is silent"))??;
            let Some(frame) = frame else { return Ok(()) };
            if !frame.raft.is_empty() {
                let messages = wire::messages_in(&frame.raft).map_err(|r| refused(&r))?;
                self.inlet.messages(self.from, messages);
            }
            for forward in frame.forwards {
                self.take_forward(forward.id, forward.payload);
            }
            if let Some(gossip) = &frame.gossip {
                self.inlet.gossip(self.from, wire::gossip_in(gossip));
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
