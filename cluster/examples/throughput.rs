//! How many commits a second three nodes in one process order, write and apply, without clients and actors: what
//! the cluster part alone costs (design §9).
//!
//! `cargo run --release -p okno-cluster --features rocksdb --example throughput -- [SECONDS] [IN_FLIGHT] [BYTES] [DIR]`
//!
//! With a directory the stores are RocksDB's, else in memory.

#![allow(clippy::disallowed_methods, reason = "it measures")]

#[path = "../tests/support/mod.rs"]
mod support;

use bytes::Bytes;
use okno_cluster::api::{ProposalOutcome, Proposer, ShardNotice};
use okno_storage::{
    commit::CommitId,
    engine::{Batch, Cf, Engine, Read, Sync, Visit},
    error::StorageError,
    memory::MemoryEngine,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use support::{Disk, TestNode, commit, init, leader, proposal};

#[derive(Clone)]
struct Any(Arc<dyn Engine>);

impl Default for Any {
    fn default() -> Self {
        Self(Arc::new(MemoryEngine::new()))
    }
}

impl Read for Any {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.0.get(cf, key)
    }
    fn scan(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        self.0.scan(cf, from, to, visit)
    }
    fn scan_back(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        self.0.scan_back(cf, from, to, visit)
    }
}

impl Engine for Any {
    fn write(&self, batch: Batch, sync: Sync) -> Result<(), StorageError> {
        self.0.write(batch, sync)
    }
    fn view(&self) -> Arc<dyn Read> {
        self.0.view()
    }
    fn stats(&self) -> Vec<(&'static str, u64)> {
        self.0.stats()
    }
}

#[cfg(feature = "rocksdb")]
fn rocks(dir: &str, id: usize) -> Any {
    let path = std::path::Path::new(dir).join(format!("n{id}"));
    Any(Arc::new(okno_storage::rocks::RocksEngine::open(path, &Default::default()).expect("opens")))
}

#[cfg(not(feature = "rocksdb"))]
fn rocks(_dir: &str, _id: usize) -> Any {
    eprintln!("built without the feature rocksdb: in memory");
    Any::default()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut args = std::env::args().skip(1);
    let mut number = |default: usize| args.next().and_then(|a| a.parse().ok()).unwrap_or(default);
    let (seconds, in_flight, bytes) = (number(5), number(256), number(1_100));
    let dir = args.next();
    let mut disks: Vec<Disk<Any>> = init(3).await;
    if let Some(dir) = &dir {
        for (id, disk) in disks.iter_mut().enumerate() {
            disk.engine = rocks(dir, id);
        }
    }
    let mut nodes = Vec::new();
    for disk in &disks {
        nodes.push(TestNode::start(disk).await);
    }
    let l = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let term = nodes[l].handle.role().term;
    let mut next = 0u64;
    let mut propose = |node: &TestNode, count: usize| {
        let batch = (0..count)
            .map(|_| {
                next += 1;
                let (_, data) = commit(&format!("case/{next}"), term, CommitId::NONE, bytes);
                proposal(next, 1, term, data)
            })
            .collect();
        node.handle.propose(batch).expect("room");
    };
    let before = nodes[l].handle.figures();
    let began = Instant::now();
    let mut done = 0usize;
    propose(&nodes[l], in_flight);
    while began.elapsed() < Duration::from_secs(seconds as u64) {
        let ShardNotice::Settled(settled) = nodes[l].next().await else { continue };
        assert!(settled.iter().all(|s| matches!(s.outcome, ProposalOutcome::Applied { .. })));
        done += settled.len();
        for s in &settled {
            nodes[l].handle.close_lane(s.lane);
        }
        propose(&nodes[l], settled.len());
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "{done} commits in {took:.2} s: {:.0}/s, {in_flight} in flight, {bytes} bytes",
        done as f64 / took
    );
    for ((name, after), (_, before)) in nodes[l].handle.figures().into_iter().zip(before) {
        println!("  {name} {:.3}", if name.ends_with("_total") { (after - before) / took } else { after });
    }
}
