//! More is asked for than can be done.

use crate::bench::Bench;
use crate::drill::Drill;
use crate::drills::process::{NEXT_WRITE_WITHIN, SOME_WRITES};
use crate::harness::desk::{self, Desk};
use crate::harness::people;
use crate::harness::plan::Plan;
use okno_checks::invariants::Invariant;
use okno_client::{Call, CallOptions, Class};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

pub const OVERLOAD: Drill = Drill {
    name: "overload",
    faults: &[34],
    needs: &[],
    scenario: "After a measurement of what the cluster does when callers wait for their answers, five times as much is \
               asked for without waiting (open loop), half of it of one single case.",
    expected: "What cannot be done is turned away at once as RESOURCE_EXHAUSTED with a hint when to come again; work goes \
               on being done; memory stays within its bound; afterwards everything is as before.",
    run: |bench| Box::pin(overload(bench)),
};

/// To each node: one carries a few hundred calls at a time.
const CONNECTIONS: usize = 8;
/// Callers that wait for their answers, for the measurement.
const CALLERS: usize = 32;
const MEASURED: Duration = Duration::from_secs(2);
const OVERLOADED: Duration = Duration::from_secs(5);
const TIMES: u64 = 5;
/// Calls that nobody waits for: what this program may hold, so that it is not itself what breaks.
const UNDER_WAY_MAX: usize = 20_000;
const ATTEMPT: Duration = Duration::from_secs(5);
/// Released together, a slice of time's worth at once.
const SLICE: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Counts {
    done: AtomicU64,
    /// RESOURCE_EXHAUSTED, with a hint when to come again.
    turned_away: AtomicU64,
    without_hint: AtomicU64,
    refused: AtomicU64,
    /// Anything else, by reason.
    other: Mutex<BTreeMap<String, u64>>,
}

async fn overload(bench: &mut Bench) {
    bench.injected("calls-beyond-capacity", 0);
    bench.injected("turned-away", 0);
    bench.start(Plan::default()).await;
    let desks: Vec<Desk> = bench
        .cluster()
        .ids()
        .into_iter()
        .flat_map(|node| [node; CONNECTIONS])
        .map(|node| bench.cluster().desk_at(node, "operator", people::OFFICER))
        .collect();
    // Cases are opened, each an entity of its own; every second call of the open loop adds to this one.
    let hot: Arc<str> = desks[0].open(0).await.expect("a case is opened").into();

    bench.note("callers who wait");
    let counts = Arc::new(Counts::default());
    let until = Instant::now() + MEASURED;
    let mut callers = JoinSet::new();
    for n in 0..CALLERS {
        let (desk, counts) = (desks[n % desks.len()].clone(), Arc::clone(&counts));
        callers.spawn(async move {
            while Instant::now() < until {
                call(&desk, desk::open(people::QUIET_OFFICE, 1), &counts).await;
            }
        });
    }
    while callers.join_next().await.is_some() {}
    let capacity = (counts.done.load(Ordering::Relaxed) as f64 / MEASURED.as_secs_f64()).max(1.0);
    bench.figure("waiting_callers_per_second", capacity);

    let counts = Arc::new(Counts::default());
    let fault = bench.fault(format!("{TIMES} times as many calls as can be done"));
    let rate = capacity * TIMES as f64;
    let mut asked = 0_u64;
    let mut under_way = JoinSet::new();
    let mut slowest_slice = u64::MAX;
    let mut seconds: BTreeMap<u64, u64> = BTreeMap::new();
    while fault.began.elapsed() < OVERLOADED {
        let due = (fault.began.elapsed().as_secs_f64() * rate) as u64;
        while asked < due && under_way.len() < UNDER_WAY_MAX {
            let n = usize::try_from(asked).unwrap_or(0);
            let (desk, hot, counts) = (desks[n % desks.len()].clone(), Arc::clone(&hot), Arc::clone(&counts));
            under_way.spawn(async move {
                // The bound of one case is met first.
                if n.is_multiple_of(2) {
                    call(&desk, desk::document(&hot, &format!("o-{n}")), &counts).await;
                } else {
                    call(&desk, desk::open(people::QUIET_OFFICE, 1), &counts).await;
                }
            });
            asked += 1;
        }
        seconds.insert(fault.began.elapsed().as_secs(), counts.done.load(Ordering::Relaxed));
        while under_way.try_join_next().is_some() {}
        tokio::time::sleep(SLICE).await;
    }
    while under_way.join_next().await.is_some() {}
    bench.over(fault);
    let mut before = 0;
    for done in seconds.values() {
        slowest_slice = slowest_slice.min(done - before);
        before = *done;
    }
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (done, turned_away) = (get(&counts.done), get(&counts.turned_away));
    bench.injected("calls-beyond-capacity", asked.saturating_sub(done));
    bench.injected("turned-away", turned_away);
    bench.figure("asked_per_second", asked as f64 / OVERLOADED.as_secs_f64());
    bench.figure("done_per_second", done as f64 / OVERLOADED.as_secs_f64());
    bench.figure("done_in_the_slowest_second", slowest_slice as f64);
    bench.figure("turned_away", turned_away as f64);
    bench.figure("refused_by_a_rule", get(&counts.refused) as f64);
    let other = std::mem::take(&mut *counts.other.lock().unwrap_or_else(PoisonError::into_inner));
    for (reason, times) in other {
        bench.figure(&format!("ended_as_{reason}"), times as f64);
    }
    let hints = get(&counts.without_hint) == 0;
    let detail =
        format!("{turned_away} calls turned away with a hint, {} without", get(&counts.without_hint));
    bench.check(Invariant::MemoryBounded, hints, detail);
    bench.check(Invariant::Progress, done > 0, format!("{done} calls done while {asked} were asked for"));
    bench.served_since(Instant::now(), NEXT_WRITE_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

async fn call<C: Call + Send + Sync>(desk: &Desk, request: C, counts: &Counts) {
    let options = CallOptions { once: true, deadline: Some(ATTEMPT), ..CallOptions::default() };
    let error = match desk.client.call_with(request, options).await {
        Ok(_) => {
            counts.done.fetch_add(1, Ordering::Relaxed);
            return;
        }
        Err(error) => error,
    };
    let problem = error.problem();
    if error.class() == Class::Refused {
        // The one case is full in the end: answered by a rule, which is work too.
        counts.refused.fetch_add(1, Ordering::Relaxed);
    } else if error.class() == Class::NotApplied && problem.code == tonic::Code::ResourceExhausted {
        let counter = if problem.retry_after.is_some() { &counts.turned_away } else { &counts.without_hint };
        counter.fetch_add(1, Ordering::Relaxed);
    } else {
        let mut other = counts.other.lock().unwrap_or_else(PoisonError::into_inner);
        *other.entry(error.reason().to_lowercase()).or_default() += 1;
    }
}
