//! System calls to the disk that fail, are slow, or are a process's last.

use crate::bench::Bench;
use crate::drill::{Drill, Need};
use crate::fate::{Fate, Look};
use crate::harness::plan::Plan;
use crate::trace::{RAFT_THREAD, SYNCS, Tamper, Threads, Tracer};
use okno_checks::invariants::Invariant;
use okno_client::v1 as proto;
use rand::Rng;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(15);
const REDUNDANT_WITHIN: Duration = Duration::from_secs(45);
const GOES_ON_WRITES: u64 = 100;
/// Under load the raft thread syncs many times a second.
const HAPPENS_WITHIN: Duration = Duration::from_secs(20);

/// Attaching to a process that is not one's own child takes root on most machines.
const NEEDS: &[Need] = &[Need::Root, Need::Strace];

pub const KILL_AT_FSYNC: Drill = Drill {
    name: "kill-at-fsync",
    faults: &[2],
    needs: NEEDS,
    scenario: "The process is killed in the moment in which its raft thread syncs for the Nth time: leader, follower, \
               leader, with random N.",
    expected: "Nothing acknowledged is lost; each time the service goes on and the node comes back.",
    run: |bench| Box::pin(kill_at_fsync(bench)),
};

pub const FSYNC_EIO: Drill = Drill {
    name: "fsync-eio",
    faults: &[14],
    needs: NEEDS,
    scenario: "One sync of the leader's raft thread fails with EIO, later ones would not.",
    expected: "The process ends at once and says why: what the disk forgot cannot be known. The others serve; started \
               again, it catches up.",
    run: |bench| Box::pin(fsync_eio(bench)),
};

pub const READ_EIO: Drill = Drill {
    name: "read-eio",
    faults: &[15],
    needs: NEEDS,
    scenario: "Reads of a follower's files fail with EIO while it digests all its rows.",
    expected: "It stops and says why, and serves nothing wrong; the others serve; started again, it catches up.",
    run: |bench| Box::pin(read_eio(bench)),
};

pub const SLOW_DISK: Drill = Drill {
    name: "slow-disk",
    faults: &[16],
    needs: NEEDS,
    scenario: "Each sync of the leader's takes 50 ms longer for 4 s, then 1.5 s longer.",
    expected: "At first the service is slower; then leadership goes to a node with a better disk and the service goes on.",
    run: |bench| Box::pin(slow_disk(bench)),
};

fn record(bench: &Bench, name: &str) -> PathBuf {
    bench.scratch().join(format!("strace-{name}"))
}

fn process(bench: &mut Bench, node: u64) -> u32 {
    bench.cluster().pid(node).expect("the node runs")
}

async fn kill_at_fsync(bench: &mut Bench) {
    bench.start(Plan::default()).await;
    for (round, leads) in [(1, true), (2, false), (3, true)] {
        let node = if leads { bench.cluster().leader().await } else { bench.cluster().follower().await };
        let at = bench.rng.gen_range(2..150);
        let fault = bench.fault(format!("node {node} is killed at its sync number {at}"));
        let (process, record) = (process(bench, node), record(bench, &round.to_string()));
        let tracer =
            Tracer::attach(process, Threads::Named(RAFT_THREAD), SYNCS, Tamper::Kill { at }, &record).await;
        let status = bench.cluster().ended(node, HAPPENS_WITHIN).await;
        let killed = tracer.killed();
        tracer.detach();
        assert!(status.is_some(), "node {node} was not killed within {HAPPENS_WITHIN:?}");
        bench.injected("kills-at-a-sync", u64::from(killed));
        let gone = Instant::now();
        let next = bench.served_since(gone, NEXT_WRITE_WITHIN).await;
        bench.figure(&format!("next_write_{round}_ms"), next.as_secs_f64() * 1000.0);
        bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
        bench.cluster().start_node(node);
        bench.over(fault);
        bench.redundant(fault, REDUNDANT_WITHIN).await;
    }
}

async fn fsync_eio(bench: &mut Bench) {
    bench.start(Plan::default()).await;
    let node = bench.cluster().leader().await;
    let first = bench.rng.gen_range(2..50);
    let look = Look::begin(bench, node).await;
    let fault = bench.fault(format!("sync number {first} of node {node}, the leader, fails with EIO"));
    let (process, record) = (process(bench, node), record(bench, "eio"));
    let tamper = Tamper::Eio { first, times: 1 };
    let tracer = Tracer::attach(process, Threads::Named(RAFT_THREAD), SYNCS, tamper, &record).await;
    let fate = look.fate_of_serving(bench, HAPPENS_WITHIN).await;
    bench.injected("syncs-failed", tracer.detach());
    bench.note(format!("node {node} {fate}"));
    let ended = matches!(fate, Fate::Ended { .. }) && fate.stopped();
    bench.check(Invariant::StopsWhenWrong, ended, format!("after the failed sync node {node} {fate}"));
    assert!(ended, "node {node} {fate}");
    let gone = Instant::now();
    let next = bench.served_since(gone, NEXT_WRITE_WITHIN).await;
    bench.figure("next_write_ms", next.as_secs_f64() * 1000.0);
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    bench.over(fault);
    bench.cluster().start_node(node);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}

/// More than any reader would try again.
const READS_FAIL: u32 = 1_000;

async fn read_eio(bench: &mut Bench) {
    bench.start(Plan::default()).await;
    bench.progress(GOES_ON_WRITES * 5, NEXT_WRITE_WITHIN).await;
    let node = bench.cluster().follower().await;
    // An orderly end writes tables; a start reads from them what it needs, and leaves the rest on the disk.
    bench.cluster().terminate(node).await;
    bench.cluster().start_node(node);
    let restarted = bench.fault(format!("node {node} is started with its rows on the disk"));
    bench.redundant(restarted, REDUNDANT_WITHIN).await;
    bench.over(restarted);
    let look = Look::begin(bench, node).await;
    let fault = bench.fault(format!("reads of node {node}, a follower, fail with EIO"));
    let (process, record) = (process(bench, node), record(bench, "read"));
    let tamper = Tamper::Eio { first: 1, times: READS_FAIL };
    let tracer = Tracer::attach(process, Threads::All, "pread64", tamper, &record).await;
    let marker = bench.cluster().admin().call(proto::PlaceMarkerRequest { meta: None }).await;
    marker.expect("two nodes are enough for a marker");
    let fate = look.fate_of_serving(bench, HAPPENS_WITHIN).await;
    bench.injected("reads-failed", tracer.detach());
    bench.note(format!("node {node} {fate}"));
    bench.check(Invariant::StopsWhenWrong, fate.stopped(), format!("with failing reads node {node} {fate}"));
    let gone = Instant::now();
    bench.served_since(gone, NEXT_WRITE_WITHIN).await;
    bench.over(fault);
    if let Fate::Ended { .. } = fate {
        bench.cluster().start_node(node);
        bench.redundant(fault, REDUNDANT_WITHIN).await;
    } else {
        // A quarantine is left by way of a new member only.
        bench.absent(node, fate.to_string());
    }
}

const SLOW_FOR: Duration = Duration::from_secs(4);

async fn slow_disk(bench: &mut Bench) {
    bench.start(Plan::default()).await;
    let node = bench.cluster().leader().await;
    let slow = bench.fault(format!("syncs of node {node}, the leader, take 50 ms longer"));
    let (process, first, second) = (process(bench, node), record(bench, "slow"), record(bench, "slower"));
    let threads = Threads::Named(RAFT_THREAD);
    let tamper = Tamper::Delay(Duration::from_millis(50));
    let tracer = Tracer::attach(process, threads, SYNCS, tamper, &first).await;
    let (before, began) = (bench.acknowledged(), Instant::now());
    bench.served_since(began, NEXT_WRITE_WITHIN).await;
    tokio::time::sleep(SLOW_FOR).await;
    let rate = (bench.acknowledged() - before) as f64 / began.elapsed().as_secs_f64();
    bench.figure("writes_per_second_slow", rate);
    bench.injected("syncs-delayed-50-ms", tracer.detach());
    bench.over(slow);

    let node = bench.cluster().leader().await;
    let process = self::process(bench, node);
    let slower = bench.fault(format!("syncs of node {node}, the leader, take 1.5 s longer"));
    let tamper = Tamper::Delay(Duration::from_millis(1_500));
    let tracer = Tracer::attach(process, threads, SYNCS, tamper, &second).await;
    let began = Instant::now();
    let cluster = bench.cluster();
    let successor = crate::harness::eventually("another leader", NEXT_WRITE_WITHIN, async || {
        let leader = cluster.leader().await;
        if leader == node { Err("the slow one still leads") } else { Ok(leader) }
    })
    .await;
    bench.note(format!("node {successor} leads"));
    bench.figure("handed_over_after_ms", began.elapsed().as_secs_f64() * 1000.0);
    let elsewhere = Instant::now();
    bench.served_since(elsewhere, NEXT_WRITE_WITHIN).await;
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    // A call stands in the record once it has returned, which may be after another node leads and serves.
    crate::harness::eventually("a delayed sync has returned", NEXT_WRITE_WITHIN, async || {
        if tracer.injected() > 0 { Ok(()) } else { Err("none yet") }
    })
    .await;
    bench.injected("syncs-delayed-1500-ms", tracer.detach());
    bench.over(slower);
    bench.redundant(slower, REDUNDANT_WITHIN).await;
}
