//! Processes that die, stand still, starve, or are ended: the leader, a follower, all nodes.

use crate::bench::Bench;
use crate::drill::Drill;
use crate::harness::plan::Plan;
use okno_checks::invariants::Invariant;
use okno_client::v1 as proto;
use rand::Rng;
use std::time::{Duration, Instant};

/// Until the next write after a leader is lost: the product's aim is 3 s at worst (R-R3); a drill on a machine that
/// runs three nodes and their load on two cores allows more, and reports what it was.
pub const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(10);
/// A node that comes back after seconds has little to catch up with.
pub const REDUNDANT_WITHIN: Duration = Duration::from_secs(30);
/// All nodes start again: they read their logs and elect.
const RESTART_WITHIN: Duration = Duration::from_secs(30);
/// Writes by which a drill sees that the service goes on.
pub const SOME_WRITES: u64 = 150;

pub const LEADER_LOST: Drill = Drill {
    name: "leader-lost",
    faults: &[1, 28],
    needs: &[],
    scenario: "The leader's process is killed (SIGKILL) under load at a random moment, and started again later.",
    expected: "Another node leads and serves within seconds; nothing acknowledged is lost or doubled; the old leader \
               comes back as a follower and catches up.",
    run: |bench| Box::pin(leader_lost(bench)),
};

async fn leader_lost(bench: &mut Bench) {
    bench.injected("kill-leader", 0);
    bench.start(Plan::default()).await;
    let moment = Duration::from_millis(bench.rng.gen_range(0..1_000));
    tokio::time::sleep(moment).await;
    let leader = bench.cluster().leader().await;
    let fault = bench.fault(format!("node {leader}, the leader, is killed"));
    bench.cluster().kill(leader);
    bench.injected("kill-leader", 1);
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
    bench.over(fault);
    bench.cluster().start_node(leader);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}

pub const KILL_FOLLOWER: Drill = Drill {
    name: "kill-follower",
    faults: &[1],
    needs: &[],
    scenario: "A follower's process is killed (SIGKILL) under load, and started again later.",
    expected: "Nobody waits: the leader goes on in its term with the other follower; the node comes back, catches up and \
               disturbs nobody.",
    run: |bench| Box::pin(kill_follower(bench)),
};

async fn kill_follower(bench: &mut Bench) {
    bench.injected("kill-follower", 0);
    bench.start(Plan::default()).await;
    let (leader, term) = bench.cluster().wait_ready().await;
    let follower = bench.cluster().follower().await;
    let fault = bench.fault(format!("node {follower}, a follower, is killed"));
    bench.cluster().kill(follower);
    bench.injected("kill-follower", 1);
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    bench.progress(2 * SOME_WRITES, NEXT_WRITE_WITHIN).await;
    bench.over(fault);
    bench.cluster().start_node(follower);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    let now = bench.cluster().wait_ready().await;
    let detail =
        format!("led by node {leader} in term {term} before, by node {} in term {} after", now.0, now.1);
    bench.check(Invariant::Progress, now == (leader, term), detail);
}

pub const KILL_ALL: Drill = Drill {
    name: "kill-all",
    faults: &[1],
    needs: &[],
    scenario: "All nodes are killed (SIGKILL) at once under load, and started again a moment later.",
    expected: "The service resumes by itself; everything acknowledged is there once, on every node.",
    run: |bench| Box::pin(kill_all(bench)),
};

async fn kill_all(bench: &mut Bench) {
    bench.injected("kill", 0);
    bench.start(Plan::default()).await;
    let moment = Duration::from_millis(bench.rng.gen_range(0..500));
    tokio::time::sleep(moment).await;
    let nodes = bench.cluster().ids();
    let fault = bench.fault("all nodes are killed");
    bench.cluster().kill_all();
    bench.injected("kill", nodes.len() as u64);
    // In an order of its own: who starts first is nobody's privilege.
    let first = bench.rng.gen_range(0..nodes.len());
    for place in 0..nodes.len() {
        bench.cluster().start_node(nodes[(first + place) % nodes.len()]);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bench.over(fault);
    bench.recovered(fault, RESTART_WITHIN).await;
    bench.redundant(fault, RESTART_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

pub const LEADER_PAUSED: Drill = Drill {
    name: "leader-paused",
    faults: &[28],
    needs: &[],
    scenario: "The leader stands still (SIGSTOP) with all its connections open, and runs again when another leads.",
    expected: "Another node leads within seconds. The old leader may believe for a moment that it still leads: a \
               linearizable read there sees what was written without it.",
    run: |bench| Box::pin(leader_paused(bench)),
};

async fn leader_paused(bench: &mut Bench) {
    bench.injected("pause-leader", 0);
    bench.start(Plan::default()).await;
    let officer = bench.cluster().officer();
    let case = officer.open(1).await.expect("a case is opened");
    officer.add(&case, "before").await.expect("a document is taken");
    for round in 1..=2 {
        let leader = bench.cluster().leader().await;
        let fault = bench.fault(format!("node {leader}, the leader, stands still"));
        bench.cluster().pause(leader);
        bench.injected("pause-leader", 1);
        bench.recovered(fault, NEXT_WRITE_WITHIN).await;
        let reference = format!("without it {round}");
        officer.add(&case, &reference).await.expect("a document is taken by the next leader");
        bench.cluster().resume(leader);
        bench.over(fault);
        let own = bench.cluster().desk_at(leader, "operator", crate::harness::people::OFFICER);
        let seen = own.case(&case).await.expect("the node answers again");
        let there = seen.documents.iter().any(|document| document.reference == reference);
        let detail =
            format!("node {leader} showed {} documents the moment it ran again", seen.documents.len());
        bench.check(Invariant::Linearizable, there, detail);
        bench.redundant(fault, REDUNDANT_WITHIN).await;
        bench.cluster().wait_ready().await;
    }
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

pub const LEADER_FLAPPING: Drill = Drill {
    name: "leader-flapping",
    faults: &[29],
    needs: &[],
    scenario: "Leadership is handed over again and again, as fast as transfers succeed, for several seconds.",
    expected: "The service goes on between transfers; nothing is lost, nothing happens twice.",
    run: |bench| Box::pin(leader_flapping(bench)),
};

/// As long as leadership is handed around.
const FLAPPING: Duration = Duration::from_secs(6);

async fn leader_flapping(bench: &mut Bench) {
    bench.injected("leader-transfer", 0);
    bench.start(Plan::default()).await;
    let admin = bench.cluster().admin();
    let nodes = bench.cluster().ids();
    let before = bench.acknowledged();
    let fault = bench.fault("leadership is handed around");
    let (mut tried, mut done) = (0_u64, 0_u64);
    while fault.began.elapsed() < FLAPPING {
        let to = nodes[bench.rng.gen_range(0..nodes.len())];
        tried += 1;
        // One that is refused — the target leads already, or is behind — changes nothing.
        done += u64::from(admin.once(proto::TransferLeaderRequest { meta: None, to }).await.is_ok());
    }
    bench.over(fault);
    bench.injected("leader-transfer", done);
    bench.figure("transfers_tried", tried as f64);
    let written = bench.acknowledged() - before;
    bench.figure("writes_while_flapping", written as f64);
    bench.check(Invariant::Progress, written > 0, format!("{written} writes during {done} transfers"));
    bench.served_since(Instant::now(), NEXT_WRITE_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

pub const ROLLING_RESTART: Drill = Drill {
    name: "rolling-restart",
    faults: &[29],
    needs: &[],
    scenario: "One node after the other is asked to stop (SIGTERM) and started again, as in an update of the machines.",
    expected: "Each ends cleanly and hands leadership over first; the service goes on; each catches up before the next.",
    run: |bench| Box::pin(rolling_restart(bench)),
};

async fn rolling_restart(bench: &mut Bench) {
    bench.injected("sigterm", 0);
    bench.start(Plan::default()).await;
    for node in bench.cluster().ids() {
        let fault = bench.fault(format!("node {node} is asked to stop"));
        let status = bench.cluster().terminate(node).await;
        assert!(status.success(), "SIGTERM is a clean end: node {node} ended with {status}");
        bench.injected("sigterm", 1);
        bench.recovered(fault, NEXT_WRITE_WITHIN).await;
        bench.cluster().start_node(node);
        bench.over(fault);
        bench.redundant(fault, REDUNDANT_WITHIN).await;
        bench.cluster().wait_ready().await;
    }
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

pub const CPU_STARVED: Drill = Drill {
    name: "cpu-starved",
    faults: &[28],
    needs: &[],
    scenario: "The leader's process gets the processor one tenth of the time (stopped and continued in turns), and then a \
               follower's.",
    expected: "Slower, or led by another; nothing acknowledged is lost and nothing stale is read; full speed when the \
               processor is back.",
    run: |bench| Box::pin(cpu_starved(bench)),
};

const STARVED: Duration = Duration::from_secs(3);
const STANDS: Duration = Duration::from_millis(90);
const RUNS: Duration = Duration::from_millis(10);

async fn cpu_starved(bench: &mut Bench) {
    bench.injected("starved-slices", 0);
    bench.start(Plan::default()).await;
    let leader = bench.cluster().leader().await;
    let follower = bench.cluster().follower().await;
    for (node, role) in [(leader, "the leader"), (follower, "a follower")] {
        let before = bench.acknowledged();
        let fault = bench.fault(format!("node {node}, {role}, starves"));
        let mut slices = 0;
        while fault.began.elapsed() < STARVED {
            bench.cluster().pause(node);
            tokio::time::sleep(STANDS).await;
            bench.cluster().resume(node);
            tokio::time::sleep(RUNS).await;
            slices += 1;
        }
        bench.over(fault);
        bench.injected("starved-slices", slices);
        let written = bench.acknowledged() - before;
        bench.figure(&format!("writes_while_node_{node}_starved"), written as f64);
        bench.served_since(Instant::now(), NEXT_WRITE_WITHIN).await;
        bench.redundant(fault, REDUNDANT_WITHIN).await;
    }
    bench.cluster().wait_ready().await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}
