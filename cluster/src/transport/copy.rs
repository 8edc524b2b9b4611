//! Copies of a database between two members: `SendSnapshot`, chunked, resumable, at a bounded rate, over a connection of
//! its own, so that it never stands before raft's messages.

use super::{
    CopyLimits, Inlet, PeerConnector, PeerIdentity, Refusal, SnapshotSink,
    link::{NOT_HEARD, refused, within},
    wire,
};
use crate::api::NodeId;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use okno_proto::okno::peer::v1::{
    SendSnapshotRequest, SendSnapshotResponse, SnapshotBegin, SnapshotChunk, SnapshotDone, SnapshotWanted,
    peer_service_client::PeerServiceClient,
};
use okno_storage::snapshot::{CHUNK_BYTES_MAX, Source, Wanted};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Time for connecting and for the first answer.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);
/// The receiver shows that it lives at least this often, also while it opens what it got.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Longer silence ends a transfer, on both sides.
const SILENCE: Duration = Duration::from_secs(15);
/// Chunks on their way between reading and network, and between network and disk: a megabyte.
const CHUNKS_WAITING: usize = 4;
/// A receiver that refuses so many chunks in a row has a fault that sending again does not cure.
const REFUSED_MAX: u32 = 16;
/// Raft takes or refuses a complete copy within this, or the disk is worse than slow.
const VERDICT_WITHIN: Duration = Duration::from_secs(60);

/// What the sender needs.
pub struct Sending {
    pub to: NodeId,
    pub address: String,
    pub connector: Arc<dyn PeerConnector>,
    pub inlet: Arc<dyn Inlet>,
    pub source: Arc<dyn Source>,
    pub message: Bytes,
    pub limits: CopyLimits,
}

impl Sending {
    pub async fn run(self) -> Result<(), String> {
        self.carry().await.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?
    }

    async fn carry(self) -> Result<Result<(), String>, Status> {
        let manifest = self.source.manifest().encode().map_err(|e| Status::internal(e.to_string()))?;
        let connecting = self.connector.connect(self.to, &self.address);
        let channel =
            within(BEGIN_WITHIN, connecting).await?.map_err(|e| Status::unavailable(e.to_string()))?;
        let begin = SnapshotBegin {
            hello: Some(wire::hello_out(&self.inlet.hello(self.to))),
            manifest: manifest.into(),
            raft: self.message.clone(),
        };
        let (requests, outgoing) = mpsc::channel(CHUNKS_WAITING);
        let first = SendSnapshotRequest { begin: Some(begin), chunk: None };
        requests.send(first).await.map_err(|_| Status::internal("closed"))?;
        let mut client = PeerServiceClient::new(channel);
        let mut answers =
            within(BEGIN_WITHIN, client.send_snapshot(ReceiverStream::new(outgoing))).await??.into_inner();
        let mut at: Option<Wanted> = None;
        // How far the receiver has got, and how often it asked again without getting further.
        let (mut furthest, mut refused) = (None, 0);
        loop {
            // Between two chunks the receiver may say that it wants another one.
            let answer = match at {
                None => Some(within(SILENCE, answers.message()).await??),
                Some(_) => futures::FutureExt::now_or_never(answers.message()).transpose()?,
            };
            match answer {
                Some(None) => return Err(Status::unavailable("the receiver ended the stream")),
                Some(Some(SendSnapshotResponse { done: Some(done), .. })) => {
                    return Ok(if done.installed { Ok(()) } else { Err(done.reason) });
                }
                Some(Some(SendSnapshotResponse { wanted: Some(wanted), .. })) => {
                    let file = usize::try_from(wanted.file).unwrap_or(usize::MAX);
                    let place = Some((file, wanted.offset));
                    // Passing over what it has from an earlier transfer is getting further.
                    refused = if place > furthest { 0 } else { refused + 1 };
                    furthest = furthest.max(place);
                    if refused > REFUSED_MAX {
                        return Err(Status::data_loss("the receiver refuses the same chunk again and again"));
                    }
                    at = Some(Wanted { file, offset: wanted.offset });
                }
                Some(Some(_)) | None => {}
            }
            let Some(from) = at else { continue };
            at = self.send_chunk(from, &requests).await?;
        }
    }

    /// Sends one chunk; returns where the next one begins, `None`: that was the last.
    async fn send_chunk(
        &self,
        at: Wanted,
        requests: &mpsc::Sender<SendSnapshotRequest>,
    ) -> Result<Option<Wanted>, Status> {
        let files = &self.source.manifest().files;
        let Some(file) = files.get(at.file).filter(|f| at.offset <= f.bytes) else {
            return Err(Status::invalid_argument("the receiver wants what is not there"));
        };
        let (bytes, source) = (file.bytes, self.source.clone());
        let read = move || source.read(at.file, at.offset, CHUNK_BYTES_MAX);
        let data = tokio::task::spawn_blocking(read)
            .await
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| Status::internal(e.to_string()))?;
        let size = data.len() as u64;
        if size == 0 && at.offset < bytes {
            return Err(Status::data_loss("a file of the copy ends before its size"));
        }
        let chunk = SnapshotChunk {
            file: u32::try_from(at.file).unwrap_or(u32::MAX),
            offset: at.offset,
            crc: crc32c::crc32c(&data),
            data,
        };
        let sending = requests.send(SendSnapshotRequest { begin: None, chunk: Some(chunk) });
        within(SILENCE, sending).await?.map_err(|_| Status::unavailable("the receiver ended the stream"))?;
        if let Some(micros) = (size * 1_000_000).checked_div(self.limits.bytes_per_second) {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
        let offset = at.offset + size;
        if offset < bytes {
            return Ok(Some(Wanted { file: at.file, offset }));
        }
        // Empty files are made without a chunk.
        let next = files.iter().enumerate().skip(at.file + 1).find(|(_, file)| file.bytes > 0);
        Ok(next.map(|(file, _)| Wanted { file, offset: 0 }))
    }
}

type Answers = BoxStream<'static, Result<SendSnapshotResponse, Status>>;

/// Receives one copy.
pub async fn receive(
    inlet: Arc<dyn Inlet>,
    certificate: PeerIdentity,
    mut requests: Streaming<SendSnapshotRequest>,
) -> Result<Answers, Status> {
    let begin = within(BEGIN_WITHIN, requests.message())
        .await??
        .and_then(|request| request.begin)
        .ok_or_else(|| refused(&Refusal::Malformed("no begin")))?;
    let hello = begin.hello.as_ref().ok_or_else(|| refused(&Refusal::Malformed("no hello")))?;
    let hello = wire::hello_in(hello).map_err(|r| refused(&r))?;
    inlet.greet(&hello, &certificate).map_err(|r| refused(&r))?;
    let from = hello.node;
    let (chunks, incoming) = mpsc::channel::<SnapshotChunk>(CHUNKS_WAITING);
    let (tell, answers) = mpsc::channel(CHUNKS_WAITING);
    // Files are read and written on a thread of their own.
    tokio::task::spawn_blocking(move || {
        let done = match inlet.receive_copy(from, &begin.manifest, &begin.raft) {
            Ok(mut sink) => take_in(&mut *sink, incoming, &tell),
            Err(why) => Err(why),
        };
        let done = match done {
            Ok(()) => SnapshotDone { installed: true, reason: String::new() },
            Err(reason) => {
                tracing::warn!(from, %reason, "a copy was not installed");
                SnapshotDone { installed: false, reason }
            }
        };
        let _ = tell.blocking_send(SendSnapshotResponse { wanted: None, done: Some(done) });
    });
    tokio::spawn(async move {
        while let Ok(Ok(Some(request))) = timeout(SILENCE, requests.message()).await {
            let Some(chunk) = request.chunk else { break };
            if chunks.send(chunk).await.is_err() {
                break;
            }
        }
    });
    let stream = futures::stream::unfold((answers, false), |(mut answers, ended)| async move {
        if ended {
            return None;
        }
        match timeout(KEEP_ALIVE, answers.recv()).await {
            Ok(Some(answer)) => {
                let ended = answer.done.is_some();
                Some((Ok(answer), (answers, ended)))
            }
            Ok(None) => None,
            Err(_) => Some((Ok(SendSnapshotResponse::default()), (answers, false))),
        }
    });
    Ok(stream.boxed())
}

/// Takes chunks until everything is here, then waits for raft's verdict.
fn take_in(
    sink: &mut dyn SnapshotSink,
    mut chunks: mpsc::Receiver<SnapshotChunk>,
    tell: &mpsc::Sender<SendSnapshotResponse>,
) -> Result<(), String> {
    let ask = |wanted: Wanted| {
        let file = u32::try_from(wanted.file).unwrap_or(u32::MAX);
        let wanted = SnapshotWanted { file, offset: wanted.offset };
        tell.blocking_send(SendSnapshotResponse { wanted: Some(wanted), done: None })
            .map_err(|_| "the sender is gone".to_owned())
    };
    let mut asked = sink.wanted();
    if let Some(wanted) = asked {
        ask(wanted)?;
    }
    while let Some(wanted) = sink.wanted() {
        let chunk = chunks.blocking_recv().ok_or("the sender is gone")?;
        let at = Wanted { file: usize::try_from(chunk.file).unwrap_or(usize::MAX), offset: chunk.offset };
        match sink.put(at, &chunk.data, chunk.crc)? {
            None => asked = None,
            // What was on its way when the other chunk was asked for is passed over in silence.
            Some(_) if asked == Some(wanted) && at != wanted => {}
            Some(why) => {
                tracing::warn!(%why, "a chunk of a copy was not taken");
                asked = sink.wanted();
                if let Some(wanted) = asked {
                    ask(wanted)?;
                }
            }
        }
    }
    let verdict = sink.finish()?;
    // The receiver of files must not wait for ever for a thread that ended.
    let waiting = tokio::runtime::Handle::current().block_on(timeout(VERDICT_WITHIN, verdict));
    match waiting {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(_)) => Err("the node closed before it was installed".into()),
        Err(_) => Err(NOT_HEARD.into()),
    }
}
