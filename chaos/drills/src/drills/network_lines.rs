//! Lines that are bad rather than cut: loss, delay, narrowness, resets, and connections that say nothing.

use super::network::{self, NEEDS, NEXT_WRITE_WITHIN, REDUNDANT_WITHIN};
use crate::bench::Bench;
use crate::drill::{Drill, Need};
use crate::harness::plan::Plan;
use crate::net::fault::{self, Fault};
use crate::net::half_open;
use crate::net::lab;
use crate::net::proxy::{Line, Proxy};
use okno_checks::invariants::Invariant;
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long each quality of a line lasts.
const STAGE: Duration = Duration::from_secs(4);

pub const LOSSY: Drill = Drill {
    name: "lossy",
    faults: &[23],
    needs: NEEDS,
    scenario: "Between nodes 5 %, then 20 %, then 50 % of all packets vanish, 4 s each.",
    expected: "The service goes on at 5 % and at 20 %; at 50 % nothing is promised but safety; healed, it goes on \
               within seconds.",
    run: |bench| Box::pin(lossy(bench)),
};

pub const SLOW_LINKS: Drill = Drill {
    name: "slow-links",
    faults: &[24],
    needs: &[],
    scenario: "Between nodes every message is held back: by 20–35 ms, then by 100–200 ms on lines of 512 KiB/s. 4 s each.",
    expected: "The service goes on, slower, under one leader; afterwards as before.",
    run: |bench| Box::pin(slow_links(bench)),
};

pub const NARROW_LINKS: Drill = Drill {
    name: "narrow-links",
    faults: &[24],
    needs: &[Need::Root, Need::NetworkNamespaces, Need::TrafficControl],
    scenario: "What every node sends, to nodes and clients alike, is held to 2 Mbit/s by the kernel (tc tbf) for 4 s.",
    expected: "The service goes on, slower; afterwards as before.",
    run: |bench| Box::pin(narrow_links(bench)),
};

pub const RESETS: Drill = Drill {
    name: "resets",
    faults: &[27],
    needs: NEEDS,
    scenario: "Six times, for up to half a second, whatever the leader or a follower sends to the other is answered by a \
               reset of the connection, so that the receiver is left with one that is half open.",
    expected: "Links are made anew each time; the service goes on.",
    run: |bench| Box::pin(resets(bench)),
};

pub const HALF_OPEN: Drill = Drill {
    name: "half-open",
    faults: &[27],
    needs: &[],
    scenario: "60 connections are opened to the clients' port and to the peers' port of every node, and say nothing or \
               half a greeting. A follower is killed and started among them.",
    expected: "Everybody else is served meanwhile; the follower finds its way back; the nodes close every one of the \
               connections by themselves.",
    run: |bench| Box::pin(half_open(bench)),
};

async fn lossy(bench: &mut Bench) {
    let nodes = network::start(bench).await;
    let mut last = None;
    for (percent, goes_on) in [(5_u32, true), (20, true), (50, false)] {
        let fault = bench.fault(format!("{percent} % of packets between nodes vanish"));
        last.get_or_insert(fault);
        let mut rules = Vec::new();
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                rules.push(fault::one_way(*from, *to, Fault::Lose(f64::from(percent) / 100.0)));
            }
        }
        let before = bench.acknowledged();
        let began = Instant::now();
        tokio::time::sleep(STAGE).await;
        if goes_on {
            bench.served_since(began, NEXT_WRITE_WITHIN).await;
        }
        let rate = (bench.acknowledged() - before) as f64 / began.elapsed().as_secs_f64();
        bench.figure(&format!("writes_per_second_at_{percent}_percent"), rate);
        network::heal(bench, fault, &format!("packets-lost-at-{percent}-percent"), rules);
    }
    let healed = Instant::now();
    let next = bench.served_since(healed, NEXT_WRITE_WITHIN).await;
    bench.figure("next_write_ms", next.as_secs_f64() * 1000.0);
    bench.redundant(last.expect("three stages"), REDUNDANT_WITHIN).await;
}

async fn slow_links(bench: &mut Bench) {
    let mut plan = Plan::default();
    let mut proxies = Vec::new();
    for node in plan.ids().collect::<Vec<_>>() {
        let proxy = Proxy::bind(bench.rng.r#gen()).await;
        plan = plan.through(node, proxy.address);
        proxies.push((node, proxy));
    }
    bench.prepare(plan);
    let mut lines: Vec<Arc<Line>> = Vec::new();
    for (node, proxy) in &mut proxies {
        proxy.forward(bench.cluster().entry(*node).peers);
        lines.push(Arc::clone(&proxy.line));
    }
    bench.keep(proxies);
    bench.begin().await;
    let stages = [("long", 20, 15, 0), ("long-and-narrow", 100, 100, 512 << 10)];
    let mut first = None;
    for (name, delay, jitter, bytes_per_second) in stages {
        let held: u64 = lines.iter().map(|line| line.held.load(Ordering::Relaxed)).sum();
        let fault = bench.fault(format!("{name} lines between nodes: {delay}–{} ms", delay + jitter));
        first.get_or_insert(fault);
        for line in &lines {
            line.set(Duration::from_millis(delay), Duration::from_millis(jitter), bytes_per_second);
        }
        let (before, began) = (bench.acknowledged(), Instant::now());
        tokio::time::sleep(STAGE).await;
        bench.served_since(began, NEXT_WRITE_WITHIN).await;
        let rate = (bench.acknowledged() - before) as f64 / began.elapsed().as_secs_f64();
        bench.figure(&format!("writes_per_second_{name}"), rate);
        for line in &lines {
            line.set(Duration::ZERO, Duration::ZERO, 0);
        }
        let now: u64 = lines.iter().map(|line| line.held.load(Ordering::Relaxed)).sum();
        bench.injected(&format!("chunks-held-back-{name}"), now - held);
        bench.over(fault);
    }
    let healed = Instant::now();
    bench.served_since(healed, NEXT_WRITE_WITHIN).await;
    bench.redundant(first.expect("two stages"), REDUNDANT_WITHIN).await;
}

async fn narrow_links(bench: &mut Bench) {
    let nodes = network::start(bench).await;
    let fault = bench.fault("every node sends 2 Mbit/s at most");
    for node in &nodes {
        lab::throttle(*node, 2_000, 200);
    }
    let (before, began) = (bench.acknowledged(), Instant::now());
    tokio::time::sleep(STAGE).await;
    bench.served_since(began, NEXT_WRITE_WITHIN).await;
    let rate = (bench.acknowledged() - before) as f64 / began.elapsed().as_secs_f64();
    bench.figure("writes_per_second_narrow", rate);
    for node in &nodes {
        bench.injected("packets-held-back", lab::unthrottle(*node));
    }
    bench.over(fault);
    let healed = Instant::now();
    bench.served_since(healed, NEXT_WRITE_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}

const RESETS_TIMES: usize = 6;

async fn resets(bench: &mut Bench) {
    let nodes = network::start(bench).await;
    let mut first = None;
    for _ in 0..RESETS_TIMES {
        let (leader, _) = network::led(bench).await;
        let followers: Vec<u64> = nodes.iter().copied().filter(|node| *node != leader).collect();
        let follower = followers[bench.rng.gen_range(0..followers.len())];
        let (from, to) = if bench.rng.r#gen() { (leader, follower) } else { (follower, leader) };
        let fault = bench.fault(format!("what node {from} sends to node {to} is answered by a reset"));
        first.get_or_insert(fault);
        let rule = fault::one_way(from, to, Fault::Reset);
        let time = Duration::from_millis(bench.rng.gen_range(100..500));
        tokio::time::sleep(time).await;
        let healed = network::heal(bench, fault, "packets-answered-by-a-reset", vec![rule]);
        bench.served_since(healed, NEXT_WRITE_WITHIN).await;
    }
    bench.redundant(first.expect("several times"), REDUNDANT_WITHIN).await;
}

/// Several times the handshakes the peers' listener has open at a time (16).
const SILENT: usize = 60;
/// A handshake times out after 5 s, and what waits behind has its turn after it: four turns, and one to spare.
const CLOSED_WITHIN: Duration = Duration::from_secs(25);

async fn half_open(bench: &mut Bench) {
    bench.start(Plan::default()).await;
    let ports: Vec<_> =
        bench.cluster().file.nodes.iter().flat_map(|node| [node.clients, node.peers]).collect();
    let follower = bench.cluster().follower().await;
    let fault = bench.fault(format!("{SILENT} silent connections to every port"));
    let opened = ports.iter().map(|port| half_open::open(*port, SILENT));
    let silent: Vec<_> = futures::future::join_all(opened).await.into_iter().flatten().collect();
    bench.injected("silent-connections", silent.len() as u64);
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    let restarted = bench.fault(format!("node {follower}, a follower, is killed and started among them"));
    bench.cluster().kill(follower);
    bench.cluster().start_node(follower);
    bench.injected("kill-follower", 1);
    bench.redundant(restarted, REDUNDANT_WITHIN).await;
    bench.over(restarted);
    let total = silent.len();
    let until = Instant::now() + CLOSED_WITHIN;
    let mut closed = 0;
    while closed < total && Instant::now() < until {
        tokio::time::sleep(crate::harness::POLL).await;
        closed = half_open::closed(&silent);
    }
    bench.check(
        Invariant::MemoryBounded,
        closed == total,
        format!("{closed} of {total} silent connections were closed by the nodes"),
    );
    bench.figure("all_closed_after_ms", fault.began.elapsed().as_secs_f64() * 1000.0);
    bench.over(fault);
    let end = Instant::now();
    bench.served_since(end, NEXT_WRITE_WITHIN).await;
}
