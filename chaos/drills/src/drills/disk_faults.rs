//! Disks that are full, or do not answer any more.

use super::power;
use crate::bench::Bench;
use crate::disk::volume::Journal;
use crate::drill::Drill;
use crate::fate::{Fate, Look};
use okno_checks::invariants::Invariant;
use std::time::{Duration, Instant};

const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(15);
const REDUNDANT_WITHIN: Duration = Duration::from_secs(45);
const GOES_ON_WRITES: u64 = 200;

pub const DISK_FULL: Drill = Drill {
    name: "disk-full",
    faults: &[13],
    needs: power::NEEDS,
    scenario: "The leader's disk is filled up under load; later there is room again and the node is started.",
    expected: "The node ends with the reason and leaves what it had promised intact; the others serve; with room again it \
               catches up.",
    run: |bench| Box::pin(disk_full(bench)),
};

pub const HUNG_DISK: Drill = Drill {
    name: "hung-disk",
    faults: &[17],
    needs: power::NEEDS,
    scenario: "The leader's file system is frozen under load (fsfreeze): every write of its stands still. Thawed after its \
               watchdog had its time (10 s), and started again.",
    expected: "The others elect a leader within seconds; the watchdog ends the process and says why; thawed, the node \
               catches up.",
    run: |bench| Box::pin(hung_disk(bench)),
};

/// The database reserves room ahead; small buffers make it need new room soon.
const SMALL_BUFFERS: &str = "8MiB";
const FULL_MEBIBYTES: u64 = 256;
/// Until the room that was reserved before is used up, at a few hundred writes a second.
const NOTICES_WITHIN: Duration = Duration::from_secs(25);

async fn disk_full(bench: &mut Bench) {
    let (plan, disks) = power::plan(bench, FULL_MEBIBYTES, Journal::Ordered);
    bench.start(plan.setting("storage", "write_buffers", SMALL_BUFFERS)).await;
    let node = bench.cluster().leader().await;
    let disk = disks.of(node);
    let fault = bench.fault(format!("the disk of node {node}, the leader, is full"));
    let look = Look::begin(bench, node).await;
    let bytes = disk.fill();
    bench.figure("filled_mib", bytes as f64 / f64::from(1 << 20));
    assert!(disk.available() < 1 << 20, "{} bytes are still free", disk.available());
    bench.injected("disks-filled", 1);
    let fate = look.fate_of_serving(bench, NOTICES_WITHIN).await;
    bench.note(format!("node {node} {fate}"));
    bench.check(Invariant::StopsWhenWrong, fate.stopped(), format!("with a full disk node {node} {fate}"));
    bench.figure("noticed_after_ms", fault.began.elapsed().as_secs_f64() * 1000.0);
    let gone = Instant::now();
    let next = bench.served_since(gone, NEXT_WRITE_WITHIN).await;
    bench.figure("next_write_ms", next.as_secs_f64() * 1000.0);
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    if !matches!(fate, Fate::Ended { .. }) {
        bench.cluster().kill(node);
    }
    disk.free();
    bench.over(fault);
    bench.cluster().start_node(node);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}

/// The watchdog's 10 s, and what a busy machine adds.
const WATCHDOG_WITHIN: Duration = Duration::from_secs(20);
/// The kernel takes the process away once its disk answers.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// What the watchdog logs.
const WATCHDOG_SAYS: &str = "the disk does not answer";

async fn hung_disk(bench: &mut Bench) {
    let (plan, disks) = power::plan(bench, FULL_MEBIBYTES, Journal::Ordered);
    bench.start(plan).await;
    let node = bench.cluster().leader().await;
    let look = Look::begin(bench, node).await;
    let fault = bench.fault(format!("the disk of node {node}, the leader, does not answer"));
    let frozen = disks.of(node).freeze();
    let began = Instant::now();
    let next = bench.served_since(began, NEXT_WRITE_WITHIN).await;
    bench.figure("next_write_ms", next.as_secs_f64() * 1000.0);
    let until = began + WATCHDOG_WITHIN;
    while !look.log(bench).contains(WATCHDOG_SAYS) && Instant::now() < until {
        tokio::time::sleep(crate::harness::POLL).await;
    }
    let said = look.log(bench).contains(WATCHDOG_SAYS);
    // It stood still for as long as the watchdog waits: the disk did hang.
    bench.injected("disks-frozen-until-the-watchdog", u64::from(said));
    bench.figure("watchdog_after_ms", began.elapsed().as_secs_f64() * 1000.0);
    drop(frozen);
    let status = bench.cluster().ended(node, ENDS_WITHIN).await;
    let detail = format!("the watchdog of node {node} spoke: {said}; the process ended with {status:?}");
    bench.check(Invariant::StopsWhenWrong, said && status.is_some_and(|status| !status.success()), detail);
    assert!(status.is_some(), "node {node} did not end");
    bench.over(fault);
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    bench.cluster().start_node(node);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}
