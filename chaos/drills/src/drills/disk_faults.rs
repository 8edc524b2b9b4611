//! Disks that are full, or do not answer any more.

use super::power;
use crate::bench::Bench;
use crate::disk::volume::Journal;
use crate::drill::Drill;
use crate::fate::Look;
use crate::harness::http::get;
use crate::harness::{desk, in_time, people};
use okno_checks::invariants::Invariant;
use std::time::{Duration, Instant};

const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(15);
const REDUNDANT_WITHIN: Duration = Duration::from_secs(45);
const GOES_ON_WRITES: u64 = 200;

pub const DISK_NEARLY_FULL: Drill = Drill {
    name: "disk-nearly-full",
    faults: &[13],
    needs: power::NEEDS,
    scenario: "The leader's disk fills up step by step under load, then a second one half of the way, and there is room again at last.",
    expected: "A warning; then leadership goes to a node with more room, and work is begun there; then the full one takes \
               nothing. With two of three disks short of room nothing new is begun while what was begun goes on. It all clears \
               by itself, and no process ends.",
    run: |bench| Box::pin(disk_nearly_full(bench)),
};

/// Per cent of a volume: large steps, so that the node's own files do not blur them.
const LEVELS: [(&str, f64); 3] = [("warn", 45.0), ("stop_new", 35.0), ("stop", 12.0)];
/// What is left when a level is to be reached, per cent.
const LEFT: [(u64, u64); 3] = [(1, 40), (2, 25), (3, 5)];
const LEVEL_WITHIN: Duration = Duration::from_secs(10);

/// The level a node tells in its figures.
async fn level(bench: &mut Bench, node: u64) -> Option<u64> {
    let health = bench.cluster().entry(node).health;
    let text = get(health, "/metrics").await.ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("okno_disk_level "))?;
    line.trim().parse().ok()
}

async fn reaches(bench: &mut Bench, node: u64, aim: u64) -> bool {
    let reached = in_time("the level", LEVEL_WITHIN, async || match level(bench, node).await {
        Some(found) if found == aim => Ok(()),
        found => Err(found),
    });
    reached.await.is_ok()
}

/// The node that leads in place of this one, once one does.
async fn leads_elsewhere(bench: &mut Bench, node: u64) -> Option<u64> {
    let elsewhere = in_time("another leader", LEVEL_WITHIN, async || match bench.cluster().leader().await {
        leader if leader != node => Ok(leader),
        leader => Err(leader),
    });
    elsewhere.await.ok()
}

/// Opens cases until one is refused for want of room: the leader hears of the others' disks a moment after they are full.
async fn refused_for_room(officer: &desk::Desk) -> Result<(), String> {
    let mut numbers = 100..;
    in_time("a refusal for want of room", LEVEL_WITHIN, async || {
        let number = numbers.next().expect("there are numbers enough");
        let answer = officer.once(desk::open(people::QUIET_OFFICE, number)).await;
        match &answer {
            Err(error) if error.reason() == "DISK_FULL" => Ok(()),
            _ => Err(format!("{answer:?}")),
        }
    })
    .await
}

async fn disk_nearly_full(bench: &mut Bench) {
    let (mut plan, disks) = power::plan(bench, FULL_MEBIBYTES, Journal::Ordered);
    for (key, percent) in LEVELS {
        let threshold = toml::Table::from_iter([
            ("percent".to_owned(), toml::Value::from(percent)),
            ("bytes".to_owned(), toml::Value::from("1TiB")),
        ]);
        plan = plan.setting("disk", key, threshold);
    }
    bench.start(plan.setting("storage", "write_buffers", SMALL_BUFFERS)).await;
    let node = bench.cluster().leader().await;
    let officer = bench.cluster().officer();
    let case = officer.open(1).await.expect("there is room");
    let fault = bench.fault(format!("the disk of node {node}, the leader, fills up"));
    let size = FULL_MEBIBYTES << 20;
    for (aim, left) in LEFT {
        bench.injected("levels", 0);
        disks.of(node).fill_to(size * left / 100);
        let reached = reaches(bench, node, aim).await;
        bench.injected("levels", u64::from(reached));
        bench.note(format!("node {node} has {left} % left: level {aim} reached: {reached}"));
        assert!(reached, "node {node} does not say level {aim} with {left} % left");
        if aim == 2 {
            let moment = Instant::now();
            let to = leads_elsewhere(bench, node).await;
            bench.figure("handed_over_ms", moment.elapsed().as_secs_f64() * 1000.0);
            bench.check(
                Invariant::Progress,
                to.is_some(),
                format!("led by node {node} before, by {to:?} after"),
            );
            let opened = officer.open(2).await;
            bench.check(Invariant::Progress, opened.is_ok(), format!("a new case at level 2: {opened:?}"));
        }
    }
    let moment = Instant::now();
    let next = bench.served_since(moment, NEXT_WRITE_WITHIN).await;
    bench.figure("next_write_ms", next.as_secs_f64() * 1000.0);
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    let lives = !bench.cluster().has_ended(node);
    bench.check(Invariant::StopsWhenWrong, lives, format!("node {node} lives on with a full disk: {lives}"));

    let leader = bench.cluster().leader().await;
    let second = (1..=3).find(|n| ![node, leader].contains(n)).expect("three nodes");
    let (aim, left) = LEFT[1];
    disks.of(second).fill_to(size * left / 100);
    let reached = reaches(bench, second, aim).await;
    bench.injected("levels", u64::from(reached));
    assert!(reached, "node {second} does not say level {aim} with {left} % left");
    let refused = refused_for_room(&officer).await;
    bench.check(
        Invariant::Refused,
        refused.is_ok(),
        format!("a new case with two disks short of room: {refused:?}"),
    );
    let completed = officer.add(&case, "второй уровень").await;
    bench.check(Invariant::Progress, completed.is_ok(), format!("a document then: {completed:?}"));
    disks.of(second).free();
    disks.of(node).free();
    bench.over(fault);
    let cleared = reaches(bench, node, 0).await;
    bench.check(Invariant::Progress, cleared, "with room again the level clears by itself");
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    let opened = officer.open(3).await;
    bench.check(Invariant::Progress, opened.is_ok(), format!("a new case with room again: {opened:?}"));
}

pub const DISK_FULL: Drill = Drill {
    name: "disk-full",
    faults: &[13],
    needs: power::NEEDS,
    scenario: "The leader's disk is filled up under load at once; later there is room again, and the node is started if it \
               has ended.",
    expected: "The node takes nothing more: it hands leadership over and stands by, or ends with the reason; what it had \
               promised is intact; the others serve; with room again it catches up.",
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
    // Either it noticed before it had to write, or a write failed.
    let until = Instant::now() + NOTICES_WITHIN;
    let mut stands_by;
    let fate = loop {
        let fate = look.fate_of_serving(bench, Duration::ZERO).await;
        let full = level(bench, node).await == Some(3);
        stands_by = full && bench.cluster().leader().await != node;
        if fate.stopped() || stands_by || Instant::now() > until {
            break fate;
        }
        tokio::time::sleep(crate::harness::POLL).await;
    };
    let detail = format!("with a full disk node {node} stands by: {stands_by}; {fate}");
    bench.note(detail.clone());
    bench.check(Invariant::StopsWhenWrong, fate.stopped() || stands_by, detail);
    bench.figure("noticed_after_ms", fault.began.elapsed().as_secs_f64() * 1000.0);
    let gone = Instant::now();
    let next = bench.served_since(gone, NEXT_WRITE_WITHIN).await;
    bench.figure("next_write_ms", next.as_secs_f64() * 1000.0);
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    disk.free();
    bench.over(fault);
    if bench.cluster().has_ended(node) || !bench.cluster().running().contains(&node) {
        if bench.cluster().running().contains(&node) {
            bench.cluster().kill(node);
        }
        bench.cluster().start_node(node);
    }
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
