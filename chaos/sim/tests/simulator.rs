//! The simulator itself: a seed repeats, quick batches hold, recorded runs hold, kinds of faults happen, failures are made
//! smaller.

use okno_checks::invariants::Invariant;
use okno_sim::{BatchConfig, Config, Kind, Run, batch, config::kinds_of, minimise};

/// Some seconds on one core; `OKNO_SEEDS` asks for more.
const SEEDS: u64 = 60;

fn seeds() -> u64 {
    std::env::var("OKNO_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS)
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..6 {
        let first = Run::new(Config::new(seed)).execute();
        let again = Run::new(Config { trace: true, ..Config::new(seed) }).execute();
        assert!(first.same(&again), "seed {seed}: {:016x}, then {:016x}", first.trace_hash, again.trace_hash);
        assert!(!again.trace.is_empty(), "a trace that was asked for is there");
        hashes.insert(first.trace_hash);
    }
    assert_eq!(hashes.len(), 6, "different seeds are different runs");
}

#[test]
fn whichever_thread_plays_a_seed() {
    let config = |threads| BatchConfig {
        run: Config { steps: 1_000, ..Config::new(0) },
        first_seed: 500,
        seeds: 12,
        threads,
        until_failure: false,
    };
    let (alone, together) = (batch(&config(1), |_| {}), batch(&config(3), |_| {}));
    assert_eq!((alone.steps, alone.operations), (together.steps, together.operations));
    assert_eq!((alone.outcomes, alone.injected), (together.outcomes, together.injected));
}

#[test]
fn every_invariant_holds_in_a_quick_batch() {
    let config = BatchConfig {
        run: Config::new(0),
        first_seed: 1_000,
        seeds: seeds(),
        threads: 2,
        until_failure: false,
    };
    let report = batch(&config, |_| {});
    let shown: Vec<String> = report
        .failed
        .iter()
        .map(|f| format!("{} -> {}: {}", f.config, f.failure.id(), f.failure.detail))
        .collect();
    assert!(report.held(), "{:?} {}", report.lacks, shown.join("\n"));
    assert!(report.steps_min >= 1_000, "{}", report.steps_min);
    for (id, held) in &report.held {
        assert_eq!(*held, report.runs, "{}", id.id());
    }
    // The runs reach what they are meant to: leaders change, messages and timers happen, callers are left in doubt.
    let f = report.figures;
    let reached = [f.terms, f.sent, f.consumed, f.timers_set, f.timers_fired, f.acknowledged, f.markers];
    assert!(reached.iter().all(|n| *n > 20), "{f:?}");
    // Halls and channels see what they are there for: visitors who are served or come back, windows that are left, deliveries
    // that lapse, lies. What is seldom is asked of larger batches (`lacks`).
    let (hall, exchange) = (report.facts.hall, report.facts.exchange);
    let reached = [hall.taken, hall.slots, exchange.answered];
    assert!(reached.iter().all(|n| *n > 20), "{:?}", report.facts);
    let lapsed = exchange.unheard + exchange.overdue + exchange.gone;
    let fewer = [hall.served, hall.came_back, hall.unattended, lapsed, exchange.old_tokens, exchange.letters];
    let new = [hall.outside, exchange.within_answered, exchange.within_expired, exchange.acknowledged];
    assert!(new.iter().all(|n| *n > 0), "{:?}", report.facts);
    assert!(fewer.iter().all(|n| *n > 0), "{:?}", report.facts);
    assert!(report.outcomes.get("unknown").is_some_and(|n| *n > 20), "{:?}", report.outcomes);
}

/// What happened in a run is what was asked for.
#[test]
fn only_configured_kinds_happen() {
    let kinds = kinds_of("loss,crash").expect("names of kinds");
    let run = Config { kinds: kinds.clone(), ..Config::new(0) };
    let config = BatchConfig { run, first_seed: 0, seeds: 40, threads: 2, until_failure: false };
    let report = batch(&config, |_| {});
    let happened: std::collections::BTreeSet<Kind> = report.injected.keys().copied().collect();
    assert_eq!(happened, kinds);
    assert_eq!(report.failures, 0);
}

#[test]
fn clusters_of_every_size_and_from_nothing_hold() {
    for nodes in [1, 3, 5] {
        for seed in 0..6 {
            let report = Run::new(Config { nodes: Some(nodes), ..Config::new(7_000 + seed) }).execute();
            assert_eq!(report.nodes, nodes);
            assert_eq!(report.failure, None, "{}", report.config);
        }
    }
}

#[test]
fn recorded_runs_hold() {
    let mut played = 0;
    for line in include_str!("../seeds.txt").lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let config: Config = line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        let report = Run::new(config).execute();
        assert_eq!(report.failure, None, "{line}");
        played += 1;
    }
    assert!(played > 0);
}

/// A run that cannot hold is seen to fail, and made smaller: nobody acknowledges what no client asked for, so a run in which a
/// kind of fault happened is taken for the failure here.
#[test]
fn a_failing_run_is_made_smaller() {
    let config = Config::new(3);
    let failure = okno_sim::Failure { invariant: Some(Invariant::Progress), detail: "as asked".into() };
    let mut fails = |tried: &Config| {
        let report = Run::new(tried.clone()).execute();
        report.injected.contains_key(&wanted()).then(|| failure.clone())
    };
    let first = (0..200)
        .map(|seed| Config { seed, ..config.clone() })
        .find(|config| fails(config).is_some())
        .expect("the kind happens within 200 seeds");
    let found = minimise::minimise_by(&first, &first, failure.clone(), &mut fails);
    assert_eq!(found.config.kinds, [wanted()].into());
    assert!(found.config.steps < first.steps);
    assert!(Run::new(found.config.clone()).execute().injected.contains_key(&wanted()));
}

const fn wanted() -> Kind {
    Kind::PowerLoss
}
