//! Bad input: bytes that are no protobuf, protobuf that is no command, messages too large, streams reset at once.

use crate::bench::Bench;
use crate::drill::Drill;
use crate::drills::process::{NEXT_WRITE_WITHIN, SOME_WRITES};
use crate::harness::cluster::Cluster;
use crate::harness::plan::Plan;
use crate::harness::{desk, people};
use bytes::{Buf, BufMut, Bytes};
use futures::StreamExt;
use okno_checks::invariants::Invariant;
use okno_client::{Connector, PATHS};
use rand::{Rng, RngCore};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Malformed calls under way at a time.
const AT_ONCE: usize = 16;
/// A node answers what it cannot read without asking anybody.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

pub const MALFORMED: Drill = Drill {
    name: "malformed",
    faults: &[37],
    needs: &[],
    scenario: "Every method is called with arbitrary bytes, with valid messages cut and bent, by officers and administrators; \
               both ports get bytes that are no TLS and no HTTP.",
    expected: "Each is refused before anything is committed; no node ends, no node panics, the work goes on.",
    run: |bench| Box::pin(malformed(bench)),
};

/// Payloads for each method and caller.
const PAYLOADS: usize = 10;

async fn malformed(bench: &mut Bench) {
    bench.injected("malformed-call", 0);
    bench.injected("garbage-connection", 0);
    bench.start(Plan::default()).await;
    let fault = bench.fault("arbitrary bytes to every method");
    let node = bench.cluster().ids()[bench.rng.gen_range(0..3)];
    let mut calls = Vec::new();
    for (kind, id) in [("operator", people::OFFICER), ("admin", "dev"), ("kiosk", people::BUSY_KIOSK)] {
        let entry = bench.cluster().entry(node).clone();
        let cluster = bench.cluster();
        let channel = desk::channel(&cluster.file, cluster.identity(kind, id), &entry);
        for (path, _) in PATHS {
            for n in 0..PAYLOADS {
                calls.push((channel.clone(), *path, payload(&mut bench.rng, n)));
            }
        }
    }
    let count = calls.len() as u64;
    let codes: Vec<(&str, Code)> = futures::stream::iter(calls)
        .map(|(channel, path, bytes)| async move { (path, raw_call(channel, path, bytes).await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    bench.injected("malformed-call", count);
    let mut by_code: BTreeMap<String, u64> = BTreeMap::new();
    for (_, code) in &codes {
        *by_code.entry(format!("{code:?}").to_lowercase()).or_default() += 1;
    }
    for (code, times) in &by_code {
        bench.figure(&format!("answered_{code}"), *times as f64);
    }
    let inner: Vec<_> = codes.iter().filter(|(_, code)| *code == Code::Internal).collect();
    let detail = format!("{count} malformed calls: {by_code:?}; {inner:?} ended as internal errors");
    // A message whose bytes cannot be decoded is tonic's to answer, as an internal error; none may be a panic's.
    let unharmed = !panicked(bench.cluster());
    bench.check(Invariant::StopsWhenWrong, unharmed, detail);
    garbage(bench).await;
    bench.over(fault);
    bench.cluster().assert_running();
    bench.served_since(Instant::now(), NEXT_WRITE_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

/// Whether a node's log tells of a panic.
fn panicked(cluster: &Cluster) -> bool {
    // As the node's panic hook writes it: the message, and where.
    let tells = |line: &str| line.contains("panicked") && line.contains("location");
    cluster.ids().into_iter().any(|node| cluster.log(node).lines().any(tells))
}

fn payload(rng: &mut impl Rng, n: usize) -> Bytes {
    let valid = || {
        use prost::Message;
        let mut open = desk::open(people::QUIET_OFFICE, 7);
        open.meta = desk::meta(uuid::Uuid::now_v7(), 1);
        open.encode_to_vec()
    };
    let bytes = match n % 4 {
        // Arbitrary.
        0 => {
            let mut bytes = vec![0; rng.gen_range(1..2_000)];
            rng.fill_bytes(&mut bytes);
            bytes
        }
        // Cut.
        1 => {
            let mut bytes = valid();
            bytes.truncate(rng.gen_range(1..bytes.len()));
            bytes
        }
        // Bent.
        2 => {
            let mut bytes = valid();
            for _ in 0..8 {
                let place = rng.gen_range(0..bytes.len());
                bytes[place] = rng.r#gen();
            }
            bytes
        }
        // A field that says it is longer than any message, and one that nests without end.
        _ if rng.r#gen() => vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        _ => [0x0a, 0x7f].repeat(rng.gen_range(1..400)),
    };
    Bytes::from(bytes)
}

async fn raw_call(channel: Channel, path: &'static str, bytes: Bytes) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel);
    let call = async {
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        grpc.unary(tonic::Request::new(bytes), http::uri::PathAndQuery::from_static(path), Raw).await
    };
    match tokio::time::timeout(ANSWERED_WITHIN, call).await {
        Ok(Ok(_)) => Code::Ok,
        Ok(Err(status)) => status.code(),
        Err(_) => panic!("{path} did not answer a malformed call within {ANSWERED_WITHIN:?}"),
    }
}

/// Bytes as they are.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

/// Connections that bring what is no TLS, and TLS that carries what is no HTTP/2.
async fn garbage(bench: &mut Bench) {
    for node in bench.cluster().ids() {
        let entry = bench.cluster().entry(node).clone();
        for address in [entry.clients, entry.peers, entry.health] {
            let mut bytes = vec![0; 4_096];
            bench.rng.fill_bytes(&mut bytes);
            let mut stream = tokio::net::TcpStream::connect(address).await.expect("a node listens");
            // It may hang up in the middle.
            let _ = stream.write_all(&bytes).await;
            bench.injected("garbage-connection", 1);
        }
        let cluster = bench.cluster();
        let files = desk::tls(&cluster.file, cluster.identity("operator", people::OFFICER));
        let connector = Connector::new(&entry.clients.to_string(), Arc::new(files), &cluster.file.cluster)
            .expect("certificates of a development cluster are readable");
        let mut stream = connector.connect().await.expect("a handshake");
        let mut bytes = vec![0; 16_384];
        bench.rng.fill_bytes(&mut bytes);
        // As above.
        let _ = stream.write_all(&bytes).await;
        bench.injected("garbage-connection", 1);
    }
}

pub const HUGE_MESSAGES: Drill = Drill {
    name: "huge-messages",
    faults: &[36],
    needs: &[],
    scenario: "Hundreds of messages far beyond the bound of one (1 MiB) arrive at one node, many at a time; some claim a \
               length of 4 GiB.",
    expected: "Each is turned away unread; the node's memory stays within its bound; the work goes on.",
    run: |bench| Box::pin(huge_messages(bench)),
};

const HUGE: usize = 8 << 20;
const HUGE_MESSAGES_SENT: usize = 200;

async fn huge_messages(bench: &mut Bench) {
    bench.injected("huge-message", 0);
    bench.injected("false-length", 0);
    bench.start(Plan::default()).await;
    let node = bench.cluster().leader().await;
    let fault = bench.fault(format!("huge messages to node {node}"));
    let entry = bench.cluster().entry(node).clone();
    let cluster = bench.cluster();
    let channel = desk::channel(&cluster.file, cluster.identity("operator", people::OFFICER), &entry);
    let body = Bytes::from(vec![0x7a; HUGE]);
    let path = "/okno.v1.CaseService/AddDocument";
    let codes: Vec<Code> = futures::stream::iter(0..HUGE_MESSAGES_SENT)
        .map(|_| raw_call(channel.clone(), path, body.clone()))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    bench.injected("huge-message", codes.len() as u64);
    let taken = codes.iter().filter(|code| **code == Code::Ok).count();
    bench.check(
        Invariant::MemoryBounded,
        taken == 0,
        format!("{taken} of {} huge messages were taken", codes.len()),
    );
    for _ in 0..8 {
        let connection = h2_connection(bench, node).await;
        false_length(connection).await;
        bench.injected("false-length", 1);
    }
    bench.over(fault);
    bench.cluster().assert_running();
    bench.served_since(Instant::now(), NEXT_WRITE_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

type Sender = h2::client::SendRequest<Bytes>;

/// A bare HTTP/2 connection to a node; it is driven until it ends.
async fn h2_connection(bench: &mut Bench, node: u64) -> Sender {
    handshake(&connector(bench, node)).await.expect("a node takes a connection")
}

fn connector(bench: &mut Bench, node: u64) -> Connector {
    let address = bench.cluster().entry(node).clients;
    let cluster = bench.cluster();
    let files = desk::tls(&cluster.file, cluster.identity("operator", people::OFFICER));
    Connector::new(&address.to_string(), Arc::new(files), &cluster.file.cluster)
        .expect("certificates of a development cluster are readable")
}

async fn handshake(connector: &Connector) -> std::io::Result<Sender> {
    let stream = connector.connect().await?;
    let (sender, connection) = h2::client::handshake(stream).await.map_err(std::io::Error::other)?;
    // It ends when the node closes it, as it may.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn grpc_request() -> http::Request<()> {
    http::Request::builder()
        .method("POST")
        .uri("https://localhost/okno.v1.CaseService/GetCase")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request")
}

/// A frame that claims 4 GiB, a little of it, and then silence.
async fn false_length(sender: Sender) {
    let Ok(mut sender) = sender.ready().await else { return };
    let Ok((answer, mut body)) = sender.send_request(grpc_request(), false) else { return };
    let mut frame = vec![0, 0xff, 0xff, 0xff, 0xff];
    frame.extend([0; 100]);
    // The node may have reset the stream already; that is its good right.
    let _ = body.send_data(Bytes::from(frame), false);
    let _ = tokio::time::timeout(Duration::from_secs(2), answer).await;
}

pub const RAPID_RESET: Drill = Drill {
    name: "rapid-reset",
    faults: &[36],
    needs: &[],
    scenario: "On many connections streams are opened and reset at once, tens of thousands of them (as in CVE-2023-44487).",
    expected: "The node closes such connections or bears them; its memory stays within its bound; everybody else is served.",
    run: |bench| Box::pin(rapid_reset(bench)),
};

const ATTACKERS: usize = 8;
/// Connections of each, one after the other: a node ends one after some hundred resets.
const CONNECTIONS_EACH: usize = 20;
const RESETS_OF_A_CONNECTION: u64 = 2_000;

async fn rapid_reset(bench: &mut Bench) {
    bench.injected("stream-reset", 0);
    bench.start(Plan::default()).await;
    let node = bench.cluster().leader().await;
    let fault = bench.fault(format!("streams to node {node} are opened and reset"));
    let mut attackers = Vec::new();
    for _ in 0..ATTACKERS {
        let connector = connector(bench, node);
        attackers.push(tokio::spawn(async move {
            let (mut resets, mut closed) = (0, 0_u32);
            for _ in 0..CONNECTIONS_EACH {
                // One that is turned away is the node's good right.
                let Ok(sender) = handshake(&connector).await else { continue };
                let (done, ended) = reset_streams(sender).await;
                resets += done;
                closed += u32::from(ended);
            }
            (resets, closed)
        }));
    }
    let (mut resets, mut closed) = (0, 0_u32);
    for attacker in attackers {
        let (done, ended) = attacker.await.expect("a task of ours does not panic");
        resets += done;
        closed += ended;
    }
    bench.injected("stream-reset", resets);
    bench.figure("connections_closed_by_the_node", f64::from(closed));
    bench.over(fault);
    bench.cluster().assert_running();
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    bench.served_since(Instant::now(), NEXT_WRITE_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

/// How many streams were reset, and whether the node ended the connection for it.
async fn reset_streams(mut sender: Sender) -> (u64, bool) {
    for done in 0..RESETS_OF_A_CONNECTION {
        sender = match sender.ready().await {
            Ok(sender) => sender,
            Err(_) => return (done, true),
        };
        let Ok((_, mut body)) = sender.send_request(grpc_request(), false) else { return (done, true) };
        body.send_reset(h2::Reason::CANCEL);
        if done % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    (RESETS_OF_A_CONNECTION, false)
}
