//! Processes that die, stand still, or are ended: the leader, a follower, all nodes.

use crate::bench::Bench;
use crate::drill::Drill;
use crate::harness::plan::Plan;
use rand::Rng;
use std::time::Duration;

/// Until the next write after a leader is lost: the product's aim is 3 s at worst (R-R3); a drill on a machine that
/// runs three nodes and their load on two cores allows more, and reports what it was.
const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(10);
/// A node that comes back after seconds has little to catch up with.
const REDUNDANT_WITHIN: Duration = Duration::from_secs(30);

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
    bench.start(Plan::default()).await;
    let moment = Duration::from_millis(bench.rng.gen_range(0..1_000));
    tokio::time::sleep(moment).await;
    let leader = bench.cluster().leader().await;
    let fault = bench.fault(format!("node {leader}, the leader, is killed"));
    bench.cluster().kill(leader);
    bench.injected("kill-leader", 1);
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    bench.progress(200, NEXT_WRITE_WITHIN).await;
    bench.over(fault);
    bench.cluster().start_node(leader);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}
