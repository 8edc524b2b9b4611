//! Mains is lost while the uninterruptible supplies hold: what they say, and what the nodes make of it (R-R4).

use crate::bench::Bench;
use crate::drill::{Drill, Need};
use crate::harness::{eventually, http, plan::Plan, ups::Supplies};
use okno_checks::invariants::Invariant;
use std::time::{Duration, Instant};

/// R-R4 asks that staff are alerted; a node that sees its supply knows within this.
const KNOWN_WITHIN: Duration = Duration::from_secs(20);
/// A decision to leave, the time to end what was begun, hand-over and drain.
const LEAVES_WITHIN: Duration = Duration::from_secs(60);
const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(15);
const REDUNDANT_WITHIN: Duration = Duration::from_secs(90);
const GOES_ON_WRITES: u64 = 100;
/// Drivers look every second: each change is seen.
const FLAP: Duration = Duration::from_millis(1_500);

pub const UPS_ON_BATTERY: Drill = Drill {
    name: "ups-on-battery",
    faults: &[48],
    needs: &[Need::Nut],
    scenario: "The leader's supply loses mains and has it back later.",
    expected: "An alarm while it lasts; leadership goes to a node on mains; service goes on; all clear after.",
    run: |bench| Box::pin(on_battery(bench)),
};

pub const UPS_FLAPPING: Drill = Drill {
    name: "ups-flapping",
    faults: &[48],
    needs: &[Need::Nut],
    scenario: "Mains of a node comes and goes every second or two, and its supply says both at once in between.",
    expected: "One alarm for all of it, one that the supply cannot be believed, and no node leaves.",
    run: |bench| Box::pin(flapping(bench)),
};

pub const UPS_LOW: Drill = Drill {
    name: "ups-low",
    faults: &[48],
    needs: &[Need::Nut],
    scenario: "Every supply runs on battery; one becomes low, another announces a forced shutdown. Later mains is back.",
    expected: "These nodes leave with code 0 and their data whole, wait with closed data while mains is away, and come back by themselves.",
    run: |bench| Box::pin(low(bench)),
};

pub const UPS_LOST: Drill = Drill {
    name: "ups-lost",
    faults: &[48],
    needs: &[Need::Nut],
    scenario: "The driver of one node's supply hangs on mains; that of another hangs on battery.",
    expected: "On mains an alarm and nothing else; on battery the node leaves with code 0.",
    run: |bench| Box::pin(lost(bench)),
};

/// Three nodes, each with a supply of its own and times that fit a drill.
async fn start(bench: &mut Bench) -> Supplies {
    start_steady(bench, 3).await
}

/// `steady_s`: how long mains must stand before it counts as back.
async fn start_steady(bench: &mut Bench, steady_s: u32) -> Supplies {
    let supplies = Supplies::start(&["u1", "u2", "u3"]).await;
    let second = |n: u32| toml::Value::from(format!("{n}s"));
    let plan = Plan::of(3)
        .setting("power", "steady", second(steady_s))
        .setting("power", "confirm", second(1))
        .setting("power", "lost_after", second(3))
        .setting("power", "finish_within", second(1));
    let cluster = bench.prepare(plan);
    for node in 1..=3 {
        supplies.feed(cluster, node, &[&format!("u{node}")]);
    }
    bench.begin().await;
    supplies
}

fn supply_of(node: u64) -> String {
    format!("u{node}")
}

/// What `/readyz?verbose` of a node says, alarms included.
async fn says(bench: &mut Bench, node: u64) -> String {
    let address = bench.cluster().entry(node).health;
    http::get(address, "/readyz?verbose").await.unwrap_or_default()
}

async fn until_said(bench: &mut Bench, node: u64, alarm: &str, stands: bool) -> Duration {
    let began = Instant::now();
    let text = format!("alarm {alarm}");
    let what = format!("{alarm} {} node {node}", if stands { "at" } else { "over at" });
    eventually(&what, KNOWN_WITHIN, async || {
        let said = says(bench, node).await;
        if !said.is_empty() && said.contains(&text) == stands { Ok(()) } else { Err(said) }
    })
    .await;
    began.elapsed()
}

async fn leaves(bench: &mut Bench, node: u64) {
    let status = bench.cluster().ended(node, LEAVES_WITHIN).await;
    let status = status.unwrap_or_else(|| panic!("node {node} did not leave within {LEAVES_WITHIN:?}"));
    bench.check(Invariant::Progress, status.success(), format!("node {node} left with {status}"));
    assert!(status.success(), "node {node} left with {status}");
}

async fn on_battery(bench: &mut Bench) {
    let supplies = start(bench).await;
    let leader = bench.cluster().leader().await;
    let fault = bench.fault(format!("the supply of node {leader}, the leader, loses mains"));
    supplies.say(&supply_of(leader), "OB DISCHRG", 95, 1_500);
    let known = until_said(bench, leader, "ON_BATTERY", true).await;
    bench.injected("mains-lost", 1);
    bench.figure("alarm_after_ms", known.as_secs_f64() * 1000.0);
    eventually("leadership on mains", KNOWN_WITHIN, async || {
        let now = bench.cluster().leader().await;
        if now == leader { Err(format!("node {now} still leads")) } else { Ok(()) }
    })
    .await;
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    supplies.say(&supply_of(leader), "OL CHRG", 90, 1_500);
    until_said(bench, leader, "ON_BATTERY", false).await;
    bench.over(fault);
    bench.cluster().assert_running();
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}

async fn flapping(bench: &mut Bench) {
    let supplies = start_steady(bench, 10).await;
    let node = bench.cluster().follower().await;
    let fault = bench.fault(format!("mains of node {node} flaps"));
    let supply = supply_of(node);
    for round in 0..6 {
        supplies.say(&supply, if round % 2 == 0 { "OB" } else { "OL OB" }, 80, 1_200);
        if round == 0 {
            until_said(bench, node, "ON_BATTERY", true).await;
        }
        tokio::time::sleep(FLAP).await;
        supplies.say(&supply, "OL", 400, -1);
        tokio::time::sleep(FLAP).await;
        bench.injected("mains-lost", 1);
    }
    until_said(bench, node, "UPS_UNRELIABLE", true).await;
    supplies.say(&supply, "OL", 80, 1_200);
    until_said(bench, node, "ON_BATTERY", false).await;
    bench.over(fault);
    bench.cluster().assert_running();
    let log = bench.cluster().log(node);
    let raised = log.lines().filter(|line| line.contains("ON_BATTERY") && line.contains("severity")).count();
    bench.check(Invariant::Progress, raised == 1, format!("ON_BATTERY was raised {raised} times"));
    assert_eq!(raised, 1, "a flapping supply makes one alarm");
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}

async fn low(bench: &mut Bench) {
    let supplies = start(bench).await;
    let leader = bench.cluster().leader().await;
    let fault = bench.fault("mains is lost everywhere; the leader's battery is low");
    for node in 1..=3 {
        supplies.say(&supply_of(node), "OB", 70, 900);
    }
    until_said(bench, leader, "ON_BATTERY", true).await;
    bench.injected("mains-lost", 3);
    supplies.say(&supply_of(leader), "OB LB", 8, 90);
    let began = Instant::now();
    leaves(bench, leader).await;
    bench.injected("low-batteries", 1);
    bench.figure("left_after_ms", began.elapsed().as_secs_f64() * 1000.0);
    bench.cluster().assert_verified(leader);
    bench.served_since(began, NEXT_WRITE_WITHIN).await;
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;

    // systemd starts it anew; mains is away, so it waits with its data closed.
    bench.cluster().start_node(leader);
    eventually("the start waits", KNOWN_WITHIN, async || {
        let log = bench.cluster().log(leader);
        if log.contains("the start waits") { Ok(()) } else { Err("no word of it".to_owned()) }
    })
    .await;
    assert!(says(bench, leader).await.is_empty(), "a node that waits for mains serves nothing");

    let next = bench.cluster().leader().await;
    bench.note(format!("node {next}: forced shutdown"));
    supplies.say(&supply_of(next), "FSD OB LB", 5, 30);
    leaves(bench, next).await;
    bench.injected("forced-shutdowns", 1);
    bench.cluster().assert_verified(next);

    bench.note("mains is back");
    let back = Instant::now();
    for node in 1..=3 {
        supplies.say(&supply_of(node), "OL CHRG", 30, 600);
    }
    bench.cluster().start_node(next);
    bench.over(fault);
    let resumed = bench.served_since(back, REDUNDANT_WITHIN).await;
    bench.figure("resumed_after_power_ms", resumed.as_secs_f64() * 1000.0);
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}

async fn lost(bench: &mut Bench) {
    let supplies = start(bench).await;
    let leader = bench.cluster().leader().await;
    let others: Vec<u64> = bench.cluster().ids().into_iter().filter(|node| *node != leader).collect();
    let (quiet, dark) = (others[0], others[1]);
    let fault = bench.fault(format!("the driver of node {quiet}'s supply hangs on mains"));
    supplies.silence(&supply_of(quiet));
    until_said(bench, quiet, "UPS_UNREACHABLE", true).await;
    bench.injected("supplies-lost-on-mains", 1);
    bench.note(format!("node {dark} runs on battery, then its supply is not heard"));
    supplies.say(&supply_of(dark), "OB", 80, 1_200);
    until_said(bench, dark, "ON_BATTERY", true).await;
    supplies.silence(&supply_of(dark));
    leaves(bench, dark).await;
    bench.injected("supplies-lost-on-battery", 1);
    bench.cluster().assert_verified(dark);
    bench.cluster().assert_running();
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    supplies.say(&supply_of(dark), "OL", 80, 1_200);
    for node in [quiet, dark] {
        supplies.wake(&supply_of(node));
    }
    bench.cluster().start_node(dark);
    until_said(bench, quiet, "UPS_UNREACHABLE", false).await;
    bench.over(fault);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}
