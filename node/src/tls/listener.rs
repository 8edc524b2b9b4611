//! The accept loop: TCP → TLS handshake (bounded in time and number) → identity → the stream tonic serves.

use super::{
    connection::{ConnectionInfo, TlsIo},
    side::Side,
};
use crate::identity::Caller;
use futures::Stream;
use std::{
    io,
    sync::{
        Arc,
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
        let handshakes = Arc::new(Semaphore::new(bounds.handshakes_max));
        loop {
            // Waiting here leaves further connections in the kernel's backlog, which is bounded too.
            let handshake = tokio::select! {
                () = stop.cancelled() => break,
                permit = handshakes.clone().acquire_owned() => permit.expect("never closed"),
            };
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
            let Ok(permit) = connections.clone().try_acquire_owned() else {
                figures.turned_away.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (side, figures, ready) = (side.clone(), figures.clone(), ready.clone());
            tokio::spawn(async move {
                let judged_by = side.in_force();
                let shaken = tokio::time::timeout(
                    bounds.handshake_timeout,
                    handshake_of(judged_by.server.clone(), tcp),
                )
                .await;
                drop(handshake);
                let error = match shaken {
                    Ok(Ok(stream)) => {
                        let caller = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
                            Some(leaf) => Caller::of_certificate(leaf, &side.cluster),
                            None => return,
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
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "timed out".to_owned(),
                };
                figures.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(target: "okno::tls", side = side.name, %remote, error, "handshake failed");
            });
        }
    });
    ReceiverStream::new(stream)
}

async fn handshake_of(
    config: Arc<rustls::ServerConfig>,
    tcp: TcpStream,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    // Small answers must not wait for more (Nagle): commits are answered one by one.
    tcp.set_nodelay(true)?;
    TlsAcceptor::from(config).accept(tcp).await
}
