//! Wall clocks that jump and strobe, and monotonic clocks that start elsewhere.

use crate::bench::Bench;
use crate::clock::{self, Clock, Library};
use crate::disk::Folder;
use crate::drill::{Drill, Need};
use crate::harness::plan::{Launch, Plan};
use okno_checks::invariants::Invariant;
use rand::Rng;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(15);
const REDUNDANT_WITHIN: Duration = Duration::from_secs(30);
const GOES_ON_WRITES: u64 = 100;
const HOUR_MS: i64 = 3_600_000;
/// The clocks of others are heard within 2 s, and a leader may hand over a while later.
const HOLD: Duration = Duration::from_secs(3);
/// What a leader may stamp beyond the median of the clocks (500 ms), and what a busy machine adds to asking.
const REPLICATED_AHEAD_MAX: Duration = Duration::from_secs(2);

pub const CLOCK_JUMP: Drill = Drill {
    name: "clock-jump",
    faults: &[18],
    needs: &[Need::Compiler],
    scenario: "The leader's wall clock jumps an hour ahead, and back after 3 s; then a follower's an hour behind; then the \
               leader's again, 2 s ahead.",
    expected: "The service goes on, and replicated time follows the clocks of the majority: nobody's request or deadline \
               expires by one wrong clock.",
    run: |bench| Box::pin(clock_jump(bench)),
};

pub const CLOCK_STROBE: Drill = Drill {
    name: "clock-strobe",
    faults: &[18],
    needs: &[Need::Compiler],
    scenario: "For 5 s one node's wall clock is another every 20–120 ms: right, or off by up to a minute either way; then \
               another node's.",
    expected: "The service goes on, histories stay in order, replicated time follows the majority.",
    run: |bench| Box::pin(clock_strobe(bench)),
};

pub const MONOTONIC: Drill = Drill {
    name: "monotonic",
    faults: &[19],
    needs: &[Need::Root, Need::TimeNamespaces],
    scenario: "Every node is killed and started again, one after the other, each time with a monotonic clock that is \
               days away from the one it had before.",
    expected: "Nothing that was kept rests on a monotonic clock: the service goes on.",
    run: |bench| Box::pin(monotonic(bench)),
};

/// Three nodes under load, each with a clock of its own.
async fn start(bench: &mut Bench) -> BTreeMap<u64, Clock> {
    let mut plan = Plan::default();
    let folder = Rc::new(Folder::new());
    let library = Library::build(folder.path());
    let clocks: BTreeMap<u64, Clock> = plan.ids().map(|node| (node, library.clock(node))).collect();
    bench.keep(folder);
    for (node, clock) in &clocks {
        let launch = clock
            .environment()
            .into_iter()
            .fold(Launch::default(), |launch, (name, value)| launch.env(&name, value));
        plan = plan.launch(*node, launch);
    }
    bench.start(plan).await;
    clocks
}

/// Replicated time is not ahead of this machine's clock, which the majority has all the time.
async fn replicated_time(bench: &mut Bench, when: &str) {
    for node in bench.cluster().running() {
        let Ok(status) = bench.cluster().status(node).await else { continue };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let time = status.cluster_time.expect("a cluster that has commits has a time");
        let ahead_s = time.seconds as f64 + f64::from(time.nanos) / 1e9 - now.as_secs_f64();
        bench.check(
            Invariant::TimersOnce,
            ahead_s <= REPLICATED_AHEAD_MAX.as_secs_f64(),
            format!("{when}, replicated time on node {node} is {ahead_s:+.3} s from the majority's clocks"),
        );
    }
}

async fn jump(bench: &mut Bench, clocks: &BTreeMap<u64, Clock>, node: u64, role: &str, offset_ms: i64) {
    let fault = bench.fault(format!("the clock of node {node}, {role}, is {offset_ms:+} ms off"));
    let clock = &clocks[&node];
    let before = clock.readings();
    clock.set(offset_ms);
    let jumped = Instant::now();
    let next = bench.served_since(jumped, NEXT_WRITE_WITHIN).await;
    bench.figure(&format!("next_write_at_{offset_ms}_ms"), next.as_secs_f64() * 1000.0);
    tokio::time::sleep(HOLD.saturating_sub(jumped.elapsed())).await;
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    replicated_time(bench, &format!("with a clock {offset_ms:+} ms off")).await;
    clock.set(0);
    bench.injected("wrong-times-read", clock.readings() - before);
    bench.injected("clock-jumps", 2);
    bench.over(fault);
    let back = Instant::now();
    bench.served_since(back, NEXT_WRITE_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}

async fn clock_jump(bench: &mut Bench) {
    let clocks = start(bench).await;
    let leader = bench.cluster().leader().await;
    jump(bench, &clocks, leader, "the leader", HOUR_MS).await;
    let follower = bench.cluster().follower().await;
    jump(bench, &clocks, follower, "a follower", -HOUR_MS).await;
    let leader = bench.cluster().leader().await;
    jump(bench, &clocks, leader, "the leader", 2_000).await;
}

const STROBE_FOR: Duration = Duration::from_secs(5);

async fn clock_strobe(bench: &mut Bench) {
    let clocks = start(bench).await;
    for leads in [true, false] {
        let node = if leads { bench.cluster().leader().await } else { bench.cluster().follower().await };
        let fault = bench.fault(format!("the clock of node {node} strobes"));
        let clock = &clocks[&node];
        let (before, began) = (clock.readings(), Instant::now());
        let mut strobes = 0;
        while began.elapsed() < STROBE_FOR {
            let offset_ms = if strobes % 2 == 0 { bench.rng.gen_range(-60_000..60_000) } else { 0 };
            clock.set(offset_ms);
            strobes += 1;
            let pause = Duration::from_millis(bench.rng.gen_range(20..120));
            tokio::time::sleep(pause).await;
        }
        bench.served_since(began, NEXT_WRITE_WITHIN).await;
        replicated_time(bench, "under a strobing clock").await;
        clock.set(0);
        bench.injected("clock-strobes", strobes);
        bench.injected("wrong-times-read", clock.readings() - before);
        bench.over(fault);
        let back = Instant::now();
        bench.served_since(back, NEXT_WRITE_WITHIN).await;
        bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
        bench.redundant(fault, REDUNDANT_WITHIN).await;
    }
}

const DAY_S: u64 = 24 * 3_600;

async fn monotonic(bench: &mut Bench) {
    bench.start(Plan::default()).await;
    for node in bench.cluster().ids() {
        let ahead_s = bench.rng.gen_range(1..1_000) * DAY_S;
        let fault = bench.fault(format!("node {node} is started with a monotonic clock {ahead_s} s ahead"));
        bench.cluster().kill(node);
        bench.cluster().set_launch(node, Launch::by(clock::monotonic_ahead(ahead_s)));
        bench.cluster().start_node(node);
        let back = Instant::now();
        bench.served_since(back, NEXT_WRITE_WITHIN).await;
        bench.redundant(fault, REDUNDANT_WITHIN).await;
        let process = bench.cluster().pid(node).expect("it was just started");
        let offset = clock::monotonic_offset(process);
        assert_eq!(offset, i64::try_from(ahead_s).ok(), "node {node} has this machine's monotonic clock");
        bench.injected("monotonic-clocks-moved", 1);
        bench.over(fault);
    }
}
