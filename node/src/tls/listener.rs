//! The accept loop: TCP → TLS handshake (bounded in time and number) → identity → the stream tonic serves.

use super::{
    connection::{ConnectionInfo, TlsIo},
    side::Side,
};
use crate::identity::Caller;
use futures::Stream;
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Handshaken connections waiting to be taken by the server, which takes them at once: a small number.
const READY_MAX: usize = 32;
/// Pause after an accept error such as too few descriptors, so that the loop does not spin until some are freed.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy)]
pub struct ListenerBounds {
    pub connections_max: usize,
    pub handshakes_max: usize,
    pub handshake_timeout: Duration,
}

/// Counters for metrics.
#[derive(Debug, Default)]
pub struct ListenerFigures {
    pub accepted: AtomicU64,
    pub handshakes_failed: AtomicU64,
    pub turned_away: AtomicU64,
}

/// Accepts until `stop`.
pub fn accept(
    listener: TcpListener,
    side: Arc<Side>,
    bounds: ListenerBounds,
    figures: Arc<ListenerFigures>,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<TlsIo>> {
    let (ready, stream) = mpsc::channel(READY_MAX);
    tokio::spawn(async move {
        let connections = Arc::new(Semaphore::new(bounds.connections_max));
        let mut handshakes = Handshakes::default();
        loop {
            let (tcp, remote) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(side = side.name, %error, "accept failed");
                        tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                        continue;
                    }
                },
            };
            figures.accepted.fetch_add(1, Ordering::Relaxed);
            let (side, figures, ready, connections) =
                (side.clone(), figures.clone(), ready.clone(), connections.clone());
            let handshake = handshakes.begin(bounds.handshakes_max);
            tokio::spawn(async move {
                let judged_by = side.in_force();
                let shaking = tokio::time::timeout(
                    bounds.handshake_timeout,
                    handshake_of(judged_by.server.clone(), tcp),
                );
                let shaken = tokio::select! {
                    shaken = shaking => Some(shaken),
                    () = handshake.cancelled() => None,
                };
                drop(handshake);
                let error = match shaken {
                    Some(Ok(Ok(stream))) => {
                        let caller = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
                            Some(leaf) => Caller::of_certificate(leaf, &side.cluster),
                            None => return,
                        };
                        // Taken by those who have shown who they are: silence holds no place.
                        let Ok(permit) = connections.try_acquire_owned() else {
                            figures.turned_away.fetch_add(1, Ordering::Relaxed);
                            return;
                        };
                        let info = ConnectionInfo { remote, caller };
                        let io = TlsIo::new(stream, info, side.connections.clone(), permit);
                        // Registered now, so a later reload looks at it; one that came during the handshake did not,
                        // and may have revoked this certificate: the client dials again and is judged by the new files.
                        if !Arc::ptr_eq(&judged_by, &side.in_force()) {
                            return;
                        }
                        // The server is gone only when the node stops.
                        let _ = ready.send(Ok(io)).await;
                        return;
                    }
                    Some(Ok(Err(error))) => error.to_string(),
                    Some(Err(_)) => "timed out".to_owned(),
                    None => "gave way to newer ones".to_owned(),
                };
                figures.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(target: "okno::tls", side = side.name, %remote, error, "handshake failed");
            });
        }
    });
    ReceiverStream::new(stream)
}

/// Handshakes under way, oldest first. When there are as many as may be, the oldest gives way: an honest one takes
/// milliseconds, so that connections which say nothing keep nobody out (row 27 of the fault list).
#[derive(Default)]
struct Handshakes(VecDeque<Weak<CancellationToken>>);

impl Handshakes {
    /// A handshake lasts as long as what is given out.
    fn begin(&mut self, max: usize) -> Arc<CancellationToken> {
        self.0.retain(|handshake| handshake.strong_count() > 0);
        while self.0.len() >= max.max(1) {
            if let Some(oldest) = self.0.pop_front().and_then(|handshake| handshake.upgrade()) {
                oldest.cancel();
            }
        }
        let begun = Arc::new(CancellationToken::new());
        self.0.push_back(Arc::downgrade(&begun));
        begun
    }
}

async fn handshake_of(
    config: Arc<rustls::ServerConfig>,
    tcp: TcpStream,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    // Small answers must not wait for more (Nagle): commits are answered one by one.
    tcp.set_nodelay(true)?;
    TlsAcceptor::from(config).accept(tcp).await
}
