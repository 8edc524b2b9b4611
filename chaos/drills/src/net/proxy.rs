//! A link through this process: everything sent over it is held back by a delay, a jitter and a rate, as a long and
//! narrow line would. No root needed.
//!
//! Invariants: order within a connection is kept (a stream has no other); at most [`BUFFERED_MAX`] chunks wait in one
//! direction of one connection, so that a sender feels the line's width; every task ends with the proxy.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

const CHUNK_BYTES: usize = 16 * 1024;
/// Half a mebibyte on its way in one direction: more than the delay times the rates that drills ask for.
const BUFFERED_MAX: usize = 32;

/// What the line does from now on; all zero: nothing.
#[derive(Debug, Default)]
pub struct Line {
    delay_ms: AtomicU64,
    jitter_ms: AtomicU64,
    bytes_per_second: AtomicU64,
    /// Chunks that were held back.
    pub held: AtomicU64,
    pub bytes: AtomicU64,
    pub connections: AtomicU64,
}

impl Line {
    pub fn set(&self, delay: Duration, jitter: Duration, bytes_per_second: u64) {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.delay_ms.store(ms(delay), Ordering::Relaxed);
        self.jitter_ms.store(ms(jitter), Ordering::Relaxed);
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }
}

/// Takes connections at an address of its own and passes them on.
pub struct Proxy {
    pub address: SocketAddr,
    pub line: Arc<Line>,
    seed: u64,
    /// Until it is known where to.
    listener: Option<TcpListener>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Has an address; connections wait until [`Proxy::forward`] says where to. The seed draws the jitter.
    pub async fn bind(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on the loopback address");
        let address = listener.local_addr().expect("a bound listener has an address");
        Self { address, line: Arc::default(), seed, listener: Some(listener), accepting: None }
    }

    pub fn forward(&mut self, to: SocketAddr) {
        let listener = self.listener.take().expect("a proxy is told once where to");
        self.accepting = Some(tokio::spawn(accept(listener, to, Arc::clone(&self.line), self.seed)));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, line: Arc<Line>, seed: u64) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        number += 1;
        line.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(pass(near, to, Arc::clone(&line), seed.wrapping_add(number)));
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(near: TcpStream, to: SocketAddr, line: Arc<Line>, seed: u64) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    // Small messages leave at once: the line alone delays.
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    // Either direction's end is the connection's.
    tokio::select! {
        () = carry(near_read, far_write, &line, seed) => {}
        () = carry(far_read, near_write, &line, !seed) => {}
    }
}

/// One direction: read as it comes, written when its time has come.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: &Line, seed: u64) {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(BUFFERED_MAX);
    let reading = async move {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut free_at = Instant::now();
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let Ok(read) = from.read(&mut chunk).await else { return };
            if read == 0 {
                return;
            }
            chunk.truncate(read);
            let now = Instant::now();
            let jitter = line.jitter_ms.load(Ordering::Relaxed);
            let delay = line.delay_ms.load(Ordering::Relaxed) + random.gen_range(0..=jitter);
            let rate = line.bytes_per_second.load(Ordering::Relaxed);
            if rate > 0 {
                free_at = free_at.max(now) + Duration::from_secs_f64(read as f64 / rate as f64);
            } else {
                free_at = now;
            }
            line.bytes.fetch_add(read as u64, Ordering::Relaxed);
            line.held.fetch_add(u64::from(delay > 0 || rate > 0), Ordering::Relaxed);
            if queue.send((free_at + Duration::from_millis(delay), chunk)).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, chunk)) = queued.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        // The end of the stream travels too.
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn passes_everything_on_in_order_and_counts_what_it_held_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut proxy = Proxy::bind(7).await;
        proxy.forward(listener.local_addr().expect("an address"));
        proxy.line.set(Duration::from_millis(20), Duration::from_millis(10), 1 << 20);
        let sent: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let copy = sent.clone();
        let sender = tokio::spawn(async move {
            let mut stream = TcpStream::connect(proxy.address).await.expect("a connection");
            stream.write_all(&copy).await.expect("written");
            stream.shutdown().await.expect("ended");
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.expect("read");
            (proxy, rest)
        });
        let began = Instant::now();
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let mut got = vec![0; sent.len()];
        stream.read_exact(&mut got).await.expect("read");
        assert_eq!(got, sent);
        // 100 kB at 1 MiB/s take 95 ms; a line that held nothing back would take none.
        assert!(began.elapsed() >= Duration::from_millis(80));
        drop(stream);
        let (proxy, rest) = sender.await.expect("no panic");
        assert!(rest.is_empty());
        assert!(proxy.line.held.load(Ordering::Relaxed) > 0);
        assert_eq!(proxy.line.bytes.load(Ordering::Relaxed), 100_000);
    }
}
