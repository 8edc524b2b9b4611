//! Measurements of whole clusters that are too long for a test; each prints one JSON object on standard output.
//!
//! - `measure failover [N]`: SIGKILL of the leader under 16 writers, N times (20): time to the next acknowledged write.
//! - `measure transfer [N]`: leadership handed over N times (20) under 16 writers: what they feel of it.
//! - `measure rolling [N]`: every node stopped, started and ready again in turn, N rounds (2).
//! - `measure mains [N]`: mains lost at one machine N times (10): time to the notice at a workstation of another.
//! - `measure replace [N]`: a member's machine replaced by a new one N times (5): added, sent a copy of the database,
//!   promoted, the old one taken out.
//! - `measure residency [CASES]`: memory that resident idle case actors take (100,000).
//! - `measure restart [CASES]`: time until a node with so many cases on disk is ready (1,000,000).
//! - `measure boards [WATCHERS]`: 500 commits a second in one office without boards and with so many on one node (1,000).
//! - `measure timers [TIMERS]`: commands and restarts without pending timers and with so many (1,000,000).
//!
//! `residency`, `restart` and `timers` write through the public interface and take as long as that takes: see `docs/performance.md`.

mod boards;
mod figures;
mod mains;
mod service;
mod timers;

use okno_client::{Call, Client};
use okno_tests::cluster::Cluster;
use okno_tests::load::Load;
use okno_tests::{desk, people};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WRITERS: usize = 16;
const TRIES: usize = 20;
const ROUNDS: usize = 2;
const LOSSES: usize = 10;
const REPLACEMENTS: usize = 5;
/// A try without an acknowledged write within this has failed.
const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(30);
/// Writes between two tries: everybody is back and at work.
const WRITES_BETWEEN: usize = 300;
/// Openers at a time: enough to fill the leader's batches.
const OPENERS: usize = 128;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let number = arguments.next().map(|text| text.parse::<u64>());
    let number = match number.transpose() {
        Ok(number) => number,
        Err(error) => return usage(&error.to_string()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let measured = match what.as_str() {
        "failover" => runtime.block_on(tries(small(number, TRIES))),
        "transfer" => runtime.block_on(service::transfers(small(number, TRIES))),
        "rolling" => runtime.block_on(service::rolling(small(number, ROUNDS))),
        "mains" => runtime.block_on(mains::losses(small(number, LOSSES))),
        "replace" => runtime.block_on(service::replacements(small(number, REPLACEMENTS))),
        "residency" => runtime.block_on(residency(number.unwrap_or(100_000))),
        "restart" => runtime.block_on(restart(number.unwrap_or(1_000_000))),
        "boards" => runtime.block_on(boards::boards(small(number, 1_000))),
        "timers" => runtime.block_on(timers::timers(number.unwrap_or(1_000_000))),
        _ => return usage(&format!("{what:?} is no measurement")),
    };
    println!("{measured:#}");
    ExitCode::SUCCESS
}

fn small(number: Option<u64>, default: usize) -> usize {
    number.map_or(default, |n| usize::try_from(n).unwrap_or(default))
}

fn usage(problem: &str) -> ExitCode {
    eprintln!(
        "measure: {problem}\nusage: measure failover [N] | transfer [N] | rolling [N] | replace [N] | mains [N] | \
         residency [CASES] | restart [CASES] | boards [WATCHERS] | timers [TIMERS]"
    );
    ExitCode::from(2)
}

/// Kills whoever leads, again and again, and brings it back each time.
async fn tries(count: usize) -> serde_json::Value {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, WRITERS);
    let mut gaps = Vec::new();
    for number in 1..=count {
        cluster.wait_ready().await;
        load.progress(WRITES_BETWEEN).await;
        let leader = cluster.leader().await;
        let killed = Instant::now();
        cluster.kill(leader);
        let gap = load.first_write_after(killed, NEXT_WRITE_WITHIN).await;
        eprintln!("try {number}: node {leader} killed, next write after {} ms", gap.as_millis());
        gaps.push(gap);
        cluster.start_node(leader);
    }
    cluster.wait_ready().await;
    let ledger = load.finish().await;
    ledger.assert_on(&cluster, &cluster.ids()).await;
    cluster.assert_alike().await;
    gaps.sort();
    let ms = |gap: &Duration| u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
    serde_json::json!({
        "measurement": "failover",
        "tries": count,
        "writers": WRITERS,
        "median_ms": gaps.get(count / 2).map(ms),
        "worst_ms": gaps.last().map(ms),
        "all_ms": gaps.iter().map(ms).collect::<Vec<_>>(),
        "writes_acknowledged": ledger.writes.len(),
        "lost_or_doubled": 0,
    })
}

/// Opens so many cases and compares how the leader's memory grows with how the followers' does: stores, caches and
/// queues grow alike on all, actors live on the leader alone. What grows with work only (write buffers, queues) is
/// filled beforehand by writes to few entities.
async fn residency(cases: u64) -> serde_json::Value {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await.0;
    let clients = clients(&cluster);
    let few = open_cases(&clients, 1_000, 0).await;
    let warm = add_documents(&clients, few, cases.min(50_000)).await;
    let before = memory(&cluster);
    let begun = Instant::now();
    open_cases(&clients, cases, 1_000).await;
    let seconds = begun.elapsed().as_secs_f64();
    // Followers apply the last of it.
    let index = cluster.status(leader).await.expect("the leader answers").applied_index;
    for node in cluster.ids() {
        cluster.wait_applied(node, index).await;
    }
    assert_eq!(cluster.leader().await, leader, "leadership moved: measure again");
    let after = memory(&cluster);
    let growth = |node: &u64| after[node].saturating_sub(before[node]);
    let followers: Vec<u64> = cluster.ids().into_iter().filter(|node| *node != leader).collect();
    let beside = followers.iter().map(growth).sum::<u64>() / followers.len() as u64;
    serde_json::json!({
        "measurement": "residency",
        "cases": cases,
        "seconds_to_open": seconds,
        "warm_up_writes": warm,
        "leader_mib": { "before": before[&leader] / 1024, "after": after[&leader] / 1024 },
        "leader_growth_mib": growth(&leader) / 1024,
        "followers_growth_mib": beside / 1024,
        "actors_mib": growth(&leader).saturating_sub(beside) / 1024,
        "resident_actors": resident_actors(&cluster, leader).await,
    })
}

/// Resident memory of every node, KiB.
fn memory(cluster: &Cluster) -> BTreeMap<u64, u64> {
    cluster.ids().into_iter().map(|node| (node, resident_kib(cluster.pid(node).expect("it runs")))).collect()
}

/// Opens so many cases, stops a follower, and measures how long it takes until it is ready again.
async fn restart(cases: u64) -> serde_json::Value {
    let mut cluster = Cluster::start(3).await;
    let clients = clients(&cluster);
    let begun = Instant::now();
    open_cases(&clients, cases, 0).await;
    let seconds = begun.elapsed().as_secs_f64();
    let mut ready = Vec::new();
    // Once after a clean stop, once after SIGKILL: the log's tail is then applied anew.
    for clean in [true, false] {
        let follower = cluster.follower().await;
        if clean {
            cluster.terminate(follower).await;
        } else {
            cluster.kill(follower);
        }
        let started = Instant::now();
        cluster.start_node(follower);
        cluster.wait_ready().await;
        ready.push(started.elapsed().as_millis());
    }
    serde_json::json!({
        "measurement": "restart",
        "cases": cases,
        "seconds_to_open": seconds,
        "ready_after_clean_stop_ms": ready.first(),
        "ready_after_kill_ms": ready.get(1),
    })
}

fn clients(cluster: &Cluster) -> Vec<Client> {
    (0..people::WRITERS_MAX).map(|n| cluster.desk("operator", &people::writer(n)).client).collect()
}

/// Opens cases with many calls under way; returns their ids.
async fn open_cases(clients: &[Client], count: u64, from: u32) -> Vec<String> {
    open_cases_of(clients, count, from, |_| people::SERVICE.to_owned()).await
}

/// As [`open_cases`], of a service that goes by the visitor's number.
async fn open_cases_of(clients: &[Client], count: u64, from: u32, service: fn(u32) -> String) -> Vec<String> {
    let next = Arc::new(AtomicU64::new(0));
    let openers = (0..OPENERS).map(|n| {
        let (client, next) = (clients[n % clients.len()].clone(), Arc::clone(&next));
        tokio::spawn(async move {
            let mut opened = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return opened;
                }
                let visitor = from.wrapping_add(u32::try_from(number).unwrap_or(0));
                let mut request = desk::open(people::BUSY_OFFICE, visitor);
                request.service = service(visitor);
                opened.push(write(&client, request).await.case_id);
                if number % 100_000 == 99_999 {
                    eprintln!("{} cases", number + 1);
                }
            }
        })
    });
    let opened = futures::future::join_all(openers).await;
    opened.into_iter().flat_map(|ids| ids.expect("an opener never panics")).collect()
}

async fn add_documents(clients: &[Client], cases: Vec<String>, count: u64) -> u64 {
    let cases = Arc::new(cases);
    let next = Arc::new(AtomicU64::new(0));
    let adders = (0..OPENERS).map(|n| {
        let (client, cases, next) =
            (clients[n % clients.len()].clone(), Arc::clone(&cases), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                let case = &cases[usize::try_from(number).unwrap_or(0) % cases.len()];
                write(&client, desk::document(case, &format!("w-{number}"))).await;
            }
        })
    });
    for adder in futures::future::join_all(adders).await {
        adder.expect("an adder never panics");
    }
    count
}

async fn write<C: Call>(client: &Client, request: C) -> C::Response {
    client.call(request).await.expect("a healthy cluster takes it").response
}

/// Resident memory of a process.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux tells the resident size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
}

/// What the node itself says about its actors, line by line, so that the figure above can be read beside it.
async fn resident_actors(cluster: &Cluster, node: u64) -> Vec<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream =
        tokio::net::TcpStream::connect(cluster.entry(node).health).await.expect("the metrics port");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .expect("a request is sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer is read");
    text.lines()
        .filter(|line| !line.starts_with('#') && line.contains("resident"))
        .map(str::to_owned)
        .collect()
}
