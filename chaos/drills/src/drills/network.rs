//! Cuts between nodes: one node alone, one direction, one pair, and cuts that wander.
//!
//! Clients reach every node all the time: what they are told by a node that is cut off is part of what is checked.

use crate::bench::{Bench, Fault as Marked};
use crate::drill::{Drill, Need};
use crate::harness::eventually;
use crate::harness::plan::{Launch, Plan};
use crate::net::fault::{self, Fault, Rule};
use crate::net::lab::{self, Lab};
use okno_checks::invariants::Invariant;
use okno_client::v1 as proto;
use rand::Rng;
use rand::seq::SliceRandom;
use std::time::{Duration, Instant};

/// Until the next write once a leader is cut off or a cut has ended. The product's aim is 3 s; a machine that runs three
/// nodes and their load on two cores is allowed more, and the report says what it was. After a cut TCP itself may wait
/// seconds before it tries again.
pub(super) const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(15);
pub(super) const REDUNDANT_WITHIN: Duration = Duration::from_secs(30);
/// Several of the longest election timeouts (1 s): what a cut does to leadership it has done by then.
const CUT_FOR: Duration = Duration::from_secs(5);
/// A leader that hears no quorum notices within two election timeouts.
const STEPS_DOWN_WITHIN: Duration = Duration::from_secs(10);
/// Writes that show that the service goes on rather than twitches.
const GOES_ON_WRITES: u64 = 100;

pub(super) const NEEDS: &[Need] = &[Need::Root, Need::NetworkNamespaces];

pub const LEADER_ISOLATED: Drill = Drill {
    name: "leader-isolated",
    faults: &[20],
    needs: NEEDS,
    scenario: "Everything between the leader and the other nodes is dropped, in both directions; its clients still \
               reach it. Healed after the service has gone on elsewhere.",
    expected: "The others elect a leader within seconds; the old one steps down and acknowledges nothing meanwhile; \
               healed, it follows.",
    run: |bench| Box::pin(leader_isolated(bench)),
};

pub const FOLLOWER_ISOLATED: Drill = Drill {
    name: "follower-isolated",
    faults: &[20],
    needs: NEEDS,
    scenario: "Everything between a follower and the other nodes is dropped, in both directions, for 5 s.",
    expected: "The service goes on without a new term, also when the follower comes back.",
    run: |bench| Box::pin(follower_isolated(bench)),
};

pub const ONE_WAY_CUT: Drill = Drill {
    name: "one-way-cut",
    faults: &[21],
    needs: NEEDS,
    scenario: "A follower does not hear the leader but can speak to it; then the other way round. 5 s each.",
    expected: "The service goes on and the term stays as it was.",
    run: |bench| Box::pin(one_way_cut(bench)),
};

pub const PARTIAL_CUT: Drill = Drill {
    name: "partial-cut",
    faults: &[22],
    needs: NEEDS,
    scenario: "The leader and one follower do not hear each other; both hear the third node. 5 s.",
    expected: "The service goes on, at most one leader a term; the follower catches up when the cut has ended.",
    run: |bench| Box::pin(partial_cut(bench)),
};

pub const SWIZZLE: Drill = Drill {
    name: "swizzle",
    faults: &[26],
    needs: NEEDS,
    scenario: "Nodes are cut off one after the other in random order at random distances until nobody hears anybody, \
               and healed in another order; three times.",
    expected: "Nothing acknowledged is lost whatever the order, and the service goes on once the last cut has ended.",
    run: |bench| Box::pin(swizzle(bench)),
};

/// Three nodes in namespaces of their own, under load.
pub(super) async fn start(bench: &mut Bench) -> Vec<u64> {
    let mut plan = Plan::default();
    let nodes: Vec<u64> = plan.ids().collect();
    bench.keep(Lab::new(&nodes));
    for node in &nodes {
        plan = plan.host(*node, lab::address(*node).into()).launch(*node, Launch::by(Lab::prefix(*node)));
    }
    bench.start(plan).await;
    nodes
}

/// Leader and term, as the leader itself says.
pub(super) async fn led(bench: &mut Bench) -> (u64, u64) {
    let cluster = bench.cluster();
    eventually("a leader that says so", NEXT_WRITE_WITHIN, async || {
        let leader = cluster.leader().await;
        let status = cluster.status(leader).await.map_err(|error| error.to_string())?;
        if status.role() == proto::MemberRole::Leader {
            Ok((leader, status.term))
        } else {
            Err(format!("node {leader} is {:?}", status.role()))
        }
    })
    .await
}

/// Ends the rules of a fault: what they caught is counted, and must not be nothing.
pub(super) fn heal(bench: &mut Bench, fault: Marked, kind: &str, rules: Vec<Rule>) -> Instant {
    let caught = fault::heal(rules);
    bench.injected(kind, caught);
    bench.over(fault);
    Instant::now()
}

async fn leader_isolated(bench: &mut Bench) {
    let nodes = start(bench).await;
    let (leader, term) = led(bench).await;
    let fault = bench.fault(format!("node {leader}, the leader, is cut off from the others"));
    let rules = fault::around(leader, &nodes, Fault::Drop);
    let cut = Instant::now();
    let next = bench.served_since(cut, NEXT_WRITE_WITHIN).await;
    bench.figure("next_write_ms", next.as_secs_f64() * 1000.0);
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    let (successor, later) = led(bench).await;
    assert!(
        successor != leader && later > term,
        "node {successor} leads term {later}, after {leader} in {term}"
    );
    let cluster = bench.cluster();
    let stepped_down = eventually("the isolated leader steps down", STEPS_DOWN_WITHIN, async || {
        let status = cluster.status(leader).await.map_err(|error| error.to_string())?;
        if status.role() == proto::MemberRole::Leader {
            Err("it still leads".to_owned())
        } else {
            Ok(cut.elapsed())
        }
    })
    .await;
    bench.figure("stepped_down_within_ms", stepped_down.as_secs_f64() * 1000.0);
    heal(bench, fault, "packets-dropped", rules);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}

/// Holds a cut under load, which must go on in the same term.
async fn term_is_stable(bench: &mut Bench, what: String, rules: impl FnOnce() -> Vec<Rule>) {
    let (leader, term) = led(bench).await;
    let fault = bench.fault(what);
    let rules = rules();
    let cut = Instant::now();
    bench.served_since(cut, NEXT_WRITE_WITHIN).await;
    tokio::time::sleep(CUT_FOR.saturating_sub(cut.elapsed())).await;
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    let healed = heal(bench, fault, "packets-dropped", rules);
    bench.served_since(healed, NEXT_WRITE_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    let (now_leader, now_term) = led(bench).await;
    bench.check(
        Invariant::OneLeader,
        (now_leader, now_term) == (leader, term),
        format!("node {leader} led term {term} before the cut, node {now_leader} term {now_term} after it"),
    );
}

async fn a_follower(bench: &mut Bench, nodes: &[u64]) -> (u64, u64) {
    let (leader, _) = led(bench).await;
    let followers: Vec<u64> = nodes.iter().copied().filter(|node| *node != leader).collect();
    let chosen = *followers.choose(&mut bench.rng).expect("three nodes run");
    (leader, chosen)
}

async fn follower_isolated(bench: &mut Bench) {
    let nodes = start(bench).await;
    let (_, follower) = a_follower(bench, &nodes).await;
    let what = format!("node {follower}, a follower, is cut off from the others");
    term_is_stable(bench, what, || fault::around(follower, &nodes, Fault::Drop)).await;
}

async fn one_way_cut(bench: &mut Bench) {
    let nodes = start(bench).await;
    let (leader, follower) = a_follower(bench, &nodes).await;
    let what = format!("node {follower} does not hear node {leader}, the leader");
    term_is_stable(bench, what, || vec![fault::one_way(leader, follower, Fault::Drop)]).await;
    let (leader, follower) = a_follower(bench, &nodes).await;
    let what = format!("node {leader}, the leader, does not hear node {follower}");
    term_is_stable(bench, what, || vec![fault::one_way(follower, leader, Fault::Drop)]).await;
}

async fn partial_cut(bench: &mut Bench) {
    let nodes = start(bench).await;
    let (leader, follower) = a_follower(bench, &nodes).await;
    let what = format!("nodes {leader}, the leader, and {follower} do not hear each other");
    term_is_stable(bench, what, || fault::between(leader, follower, Fault::Drop)).await;
}

const SWIZZLES: usize = 3;
/// Between one cut or heal and the next.
const SWIZZLE_STEP_MS: std::ops::Range<u64> = 50..700;

async fn swizzle(bench: &mut Bench) {
    let mut order = start(bench).await;
    let nodes = order.clone();
    let mut last = None;
    for round in 1..=SWIZZLES {
        order.shuffle(&mut bench.rng);
        let fault = bench.fault(format!("swizzle {round}: cut off in the order {order:?}"));
        let mut cuts = Vec::new();
        for node in &order {
            cuts.push((*node, fault::around(*node, &nodes, Fault::Drop)));
            pause(bench).await;
        }
        cuts.shuffle(&mut bench.rng);
        let healed: Vec<u64> = cuts.iter().map(|(node, _)| *node).collect();
        bench.note(format!("healed in the order {healed:?}"));
        for (_, rules) in cuts {
            pause(bench).await;
            bench.injected("packets-dropped", fault::heal(rules));
        }
        bench.injected("swizzles", 1);
        bench.over(fault);
        let end = Instant::now();
        let next = bench.served_since(end, NEXT_WRITE_WITHIN).await;
        bench.figure(&format!("next_write_after_{round}_ms"), next.as_secs_f64() * 1000.0);
        bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
        last = Some(fault);
    }
    bench.redundant(last.expect("more than one round"), REDUNDANT_WITHIN).await;
}

async fn pause(bench: &mut Bench) {
    let time = Duration::from_millis(bench.rng.gen_range(SWIZZLE_STEP_MS));
    tokio::time::sleep(time).await;
}
