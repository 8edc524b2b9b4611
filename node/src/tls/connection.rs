//! An accepted connection: TLS bytes for tonic, and a handle through which a reload can end it.

use crate::identity::{Caller, IdentityError};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use rustls::{
    pki_types::{CertificateDer, UnixTime},
    server::danger::ClientCertVerifier,
};
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// What every call on a connection knows about it. The identity may be an error: the authority vouches for the
/// certificate, but it names nobody of this cluster; each call is then refused with that reason.
#[derive(Debug)]
pub struct ConnectionInfo {
    pub remote: SocketAddr,
    pub caller: Result<Caller, IdentityError>,
}

/// The part of a connection that others reach.
struct Shared {
    chain: Vec<CertificateDer<'static>>,
    opened: Instant,
    closed: AtomicBool,
    waker: AtomicWaker,
}

impl Shared {
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// All open connections of one side.
#[derive(Default)]
pub struct Connections {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Shared>>>,
}

impl Connections {
    pub fn count(&self) -> usize {
        self.open.lock().len()
    }

    /// Closes every connection whose certificate no longer passes; returns how many.
    pub fn recheck(&self, verifier: &dyn ClientCertVerifier, now: UnixTime) -> usize {
        // Verification takes a signature check each: not under the lock.
        let open: Vec<Arc<Shared>> = self.open.lock().values().cloned().collect();
        let failing = open.iter().filter(|shared| {
            let (leaf, intermediates) = shared.chain.split_first().expect("a client certificate is required");
            verifier.verify_client_cert(leaf, intermediates, now).is_err()
        });
        failing.map(|shared| shared.close()).count()
    }

    /// Closes connections older than `age`; the graceful end was asked for long before.
    pub fn close_older(&self, age: Duration) -> usize {
        let open = self.open.lock();
        open.values().filter(|shared| shared.opened.elapsed() > age).map(|shared| shared.close()).count()
    }
}

/// The stream tonic serves.
pub struct TlsIo {
    stream: TlsStream<TcpStream>,
    info: Arc<ConnectionInfo>,
    shared: Arc<Shared>,
    id: u64,
    connections: Arc<Connections>,
    /// Held while the connection is open: bounds how many are.
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl TlsIo {
    pub fn new(
        stream: TlsStream<TcpStream>,
        info: ConnectionInfo,
        connections: Arc<Connections>,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) -> Self {
        let chain = stream
            .get_ref()
            .1
            .peer_certificates()
            .map(|chain| chain.iter().map(|certificate| certificate.clone().into_owned()).collect())
            .expect("the verifier requires a client certificate");
        let shared = Arc::new(Shared {
            chain,
            opened: Instant::now(),
            closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let id = connections.next.fetch_add(1, Ordering::Relaxed);
        connections.open.lock().insert(id, shared.clone());
        Self { stream, info: Arc::new(info), shared, id, connections, _permit: permit }
    }

    fn check_open(&self) -> io::Result<()> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "closed: the certificate is no longer accepted",
            ));
        }
        Ok(())
    }
}

impl Drop for TlsIo {
    fn drop(&mut self) {
        self.connections.open.lock().remove(&self.id);
    }
}

impl Connected for TlsIo {
    type ConnectInfo = Arc<ConnectionInfo>;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Registered before the flag is read, so that a close in between is not missed.
        this.shared.waker.register(context.waker());
        this.check_open()?;
        Pin::new(&mut this.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_open()?;
        Pin::new(&mut this.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_open()?;
        Pin::new(&mut this.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
