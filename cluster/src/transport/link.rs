//! The outbound stream to one peer: connect, shake hands, carry frames, begin again.

use super::{Inlet, PeerConnector, Refusal, queue::PeerQueue, wire};
use crate::{
    api::NodeId,
    settings::{FRAME_BYTES_MAX, FRAME_RECEIVE_MAX},
    shell::system,
};
use futures::{
    Stream,
    stream::{BoxStream, StreamExt},
};
use okno_proto::okno::peer::v1::{LinkRequest, peer_service_client::PeerServiceClient};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, metadata::MetadataValue};

/// First and longest wait between attempts; half of it is random, so that nodes do not meet in step.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(1);
/// Time for each step of connecting.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The other side speaks at least every second; longer silence ends the link.
const SILENCE: Duration = Duration::from_secs(5);

pub struct Link {
    pub node: NodeId,
    pub address: String,
    pub connector: Arc<dyn PeerConnector>,
    pub inlet: Arc<dyn Inlet>,
    pub queue: Arc<PeerQueue>,
    pub stop: CancellationToken,
}

impl Link {
    /// Keeps the link up until it is stopped.
    pub async fn run(self) {
        // `None`: stopped.
        let _ = self.stop.run_until_cancelled(self.keep()).await;
        self.queue.close();
    }

    async fn keep(&self) {
        let mut retry = RETRY_FIRST;
        let mut said = String::new();
        for number in 1.. {
            let began = Instant::now();
            let why = match self.carry(number).await {
                Ok(()) => "the other side ended the stream".to_owned(),
                Err(status) => format!("{:?}: {}", status.code(), status.message()),
            };
            let was_up = self.queue.is_up();
            self.queue.down();
            self.inlet.unreachable(self.node);
            if was_up {
                tracing::warn!(node = self.node, %why, "link to peer lost");
                said.clear();
            } else if said != why {
                tracing::warn!(node = self.node, address = %self.address, %why, "no link to peer");
                said = why;
            }
            if began.elapsed() > SILENCE {
                retry = RETRY_FIRST;
            }
            let jitter = retry.mul_f64(system::jitter() / 2.0);
            tokio::time::sleep(retry / 2 + jitter).await;
            retry = (retry * 2).min(RETRY_LAST);
        }
    }

    /// One link, from connecting to its end.
    async fn carry(&self, number: u64) -> Result<(), Status> {
        let connecting = self.connector.connect(self.node, &self.address);
        let channel = match timeout(HANDSHAKE, connecting).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(e)) => return Err(Status::unavailable(e.to_string())),
            Err(_) => return Err(Status::deadline_exceeded("cannot connect in time")),
        };
        let mut client = PeerServiceClient::new(channel)
            .max_decoding_message_size(FRAME_RECEIVE_MAX)
            .max_encoding_message_size(FRAME_RECEIVE_MAX.max(FRAME_BYTES_MAX));
        let hello = LinkRequest {
            hello: Some(wire::hello_out(&self.inlet.hello(self.node))),
            ..LinkRequest::default()
        };
        let frames = frames(self.queue.clone(), self.inlet.clone(), number, hello);
        let answered = within(HANDSHAKE, client.link(Frames(frames))).await?;
        if let Err(status) = &answered
            && let Some(refusal) = status.metadata().get(REFUSAL)
        {
            if refusal == REFUSAL_INCARNATION {
                self.inlet.disowned(self.node);
            } else if refusal == REFUSAL_REMOVED {
                self.inlet.removed(self.node);
            }
        }
        let mut answers = answered?.into_inner();
        let first = within(HANDSHAKE, answers.message()).await??;
        let theirs = first.and_then(|f| f.hello).ok_or_else(|| refused(&Refusal::Malformed("no hello")))?;
        let theirs = wire::hello_in(&theirs).map_err(|r| refused(&r))?;
        if theirs.node != self.node {
            return Err(refused(&Refusal::UnknownNode(theirs.node)));
        }
        self.inlet.answered(&theirs).map_err(|r| refused(&r))?;
        self.queue.up(number);
        tracing::info!(node = self.node, "link to peer is up");
        while let Some(frame) = within(SILENCE, answers.message()).await?? {
            for reply in frame.replies {
                self.queue.answer(reply);
            }
        }
        Ok(())
    }
}

/// A named type: with the bare trait object the compiler cannot see that the future may change threads.
struct Frames(BoxStream<'static, LinkRequest>);

impl Stream for Frames {
    type Item = LinkRequest;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LinkRequest>> {
        self.0.poll_next_unpin(cx)
    }
}

/// The hello, then frames for as long as the link lasts.
fn frames(
    queue: Arc<PeerQueue>,
    inlet: Arc<dyn Inlet>,
    number: u64,
    hello: LinkRequest,
) -> BoxStream<'static, LinkRequest> {
    futures::stream::unfold((Some(hello), queue, inlet), move |(first, queue, inlet)| async move {
        let frame = match first {
            Some(hello) => hello,
            None => queue.next_frame(number, &*inlet).await?,
        };
        Some((frame, (None, queue, inlet)))
    })
    .boxed()
}

/// What is said of a peer that is silent.
pub const NOT_HEARD: &str = "the peer is silent";

pub async fn within<T>(limit: Duration, what: impl Future<Output = T>) -> Result<T, Status> {
    timeout(limit, what).await.map_err(|_| Status::deadline_exceeded(NOT_HEARD))
}

/// Metadata of a refused handshake that the other side must act upon, and its value for a dead incarnation.
const REFUSAL: &str = "okno-refusal";
const REFUSAL_INCARNATION: &str = "incarnation";
/// As above, for a node that was removed.
const REFUSAL_REMOVED: &str = "removed";

/// How a refused handshake looks on the wire.
pub fn refused(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::Certificate(_) => Code::PermissionDenied,
        Refusal::Closed => Code::Unavailable,
        Refusal::Malformed(_) => Code::InvalidArgument,
        _ => Code::FailedPrecondition,
    };
    let mut status = Status::new(code, refusal.to_string());
    let told = match refusal {
        Refusal::Incarnation(_) => Some(REFUSAL_INCARNATION),
        Refusal::Removed(_) => Some(REFUSAL_REMOVED),
        _ => None,
    };
    if let Some(told) = told {
        status.metadata_mut().insert(REFUSAL, MetadataValue::from_static(told));
    }
    status
}
