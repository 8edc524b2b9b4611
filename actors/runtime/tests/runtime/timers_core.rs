//! The timer scanner's core: what is due fires once, whatever is inserted where; time and purges are kept going.

use okno_runtime::{
    Answer, Cause,
    timers::{
        Effect, Event, IN_FLIGHT_MAX, MARKER_EVERY_MS, PURGE_EVERY_MS, REQUEST_ROWS_MS, Scanner,
        TIME_EVERY_MS, TimerReads,
    },
};
use okno_storage::{
    commit::{CommitId, EntityKey, TimerKey},
    error::StorageError,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Default)]
struct Rows {
    rows: BTreeSet<TimerKey>,
    replicated: i64,
    clock: i64,
    marked: i64,
}

impl TimerReads for Rows {
    fn timers(
        &self,
        after: Option<&TimerKey>,
        until_ms: i64,
        limit: usize,
    ) -> Result<Vec<TimerKey>, StorageError> {
        let due =
            self.rows.iter().filter(|key| after.is_none_or(|after| *key > after) && key.due_ms <= until_ms);
        Ok(due.take(limit).cloned().collect())
    }
    fn replicated_ms(&self) -> i64 {
        self.replicated
    }
    fn stamp_ms(&self) -> Option<i64> {
        Some(self.clock)
    }
    fn marked_ms(&self) -> Result<Option<i64>, StorageError> {
        Ok(Some(self.marked))
    }
}

fn key(due_ms: i64, n: u64) -> TimerKey {
    TimerKey {
        due_ms,
        entity: EntityKey::parse(&format!("case/e{}", n % 5)).expect("a good key"),
        name: "t".into(),
        generation: CommitId { term: 1, counter: n },
    }
}

struct Bench {
    scanner: Scanner,
    rows: Rows,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self { scanner: Scanner::new(MARKER_EVERY_MS), rows: Rows::default(), now: 0 };
        assert_eq!(bench.on(Event::Role(Some(1))), []);
        bench
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut fx = Vec::new();
        self.scanner.on(event, self.now, &self.rows, &mut fx).expect("readable");
        fx
    }

    fn set(&mut self, key: &TimerKey) -> Vec<Effect> {
        self.rows.rows.insert(key.clone());
        self.on(Event::Set(vec![key.clone()]))
    }

    fn fired(&mut self, key: &TimerKey) -> Vec<Effect> {
        self.rows.rows.remove(key);
        self.on(Event::Fired(key.clone(), Answer::Done { reply: None, index: 1 }))
    }

    /// Time goes on and is replicated at once.
    fn pass(&mut self, ms: i64) -> Vec<Effect> {
        self.now += ms as u64;
        self.rows.clock += ms;
        self.rows.replicated = self.rows.clock;
        self.on(Event::Tick)
    }
}

fn fires(key: &TimerKey) -> Effect {
    Effect::Fire(key.clone())
}

#[test]
fn timers_fire_by_replicated_time() {
    let mut bench = Bench::new();
    let timer = key(1_000, 1);
    assert_eq!(bench.set(&timer), []);
    bench.rows.clock = 1_500;
    bench.now = 1_500;
    assert_eq!(bench.on(Event::Tick), [Effect::Time], "due by the clock: carry time on");
    assert_eq!(bench.on(Event::Tick), [], "asked for already");
    bench.rows.replicated = 1_500;
    assert_eq!(bench.on(Event::TimeDone), [fires(&timer)]);
    assert_eq!(bench.on(Event::Tick), [], "under way");
    assert_eq!(bench.fired(&timer), []);
    assert_eq!(bench.scanner.figures(&bench.rows).fired, 1);
}

#[test]
fn an_insert_behind_the_cursor_pulls_it_back() {
    let mut bench = Bench::new();
    let (late, early, same) = (key(1_000, 1), key(500, 2), key(1_000, 3));
    bench.set(&late);
    assert_eq!(bench.pass(2_000), [fires(&late)]);
    assert_eq!(bench.set(&early), [fires(&early)], "already due when it was set");
    assert_eq!(bench.set(&same), [fires(&same)]);
    for timer in [&late, &early, &same] {
        assert_eq!(bench.fired(timer), []);
    }
    assert_eq!(bench.on(Event::Missed), [], "walked again, nothing is left");
}

#[test]
fn failures_are_tried_again_and_quarantines_park() {
    let mut bench = Bench::new();
    let (failing, parked) = (key(10, 1), key(10, 2));
    bench.set(&failing);
    bench.set(&parked);
    assert_eq!(bench.pass(20), [fires(&failing), fires(&parked)]);
    assert_eq!(bench.on(Event::Fired(failing.clone(), Answer::NotApplied(Cause::EntityFailed))), []);
    assert_eq!(bench.on(Event::Fired(parked.clone(), Answer::Quarantined("why".into()))), []);
    assert_eq!(bench.pass(4_000), [], "not before its pause is over");
    assert_eq!(bench.pass(2_000), [fires(&failing)]);
    assert_eq!(bench.fired(&failing), []);
    assert_eq!(bench.on(Event::QuarantineMoved), [fires(&parked)]);
}

/// The end of a quarantine applies with the commit it fenced, and is heard of first.
#[test]
fn an_answer_older_than_the_end_of_a_quarantine_does_not_park() {
    let mut bench = Bench::new();
    let timer = key(10, 1);
    bench.set(&timer);
    assert_eq!(bench.pass(20), [fires(&timer)]);
    assert_eq!(bench.on(Event::QuarantineMoved), []);
    assert_eq!(bench.on(Event::Fired(timer.clone(), Answer::Quarantined("lifted since".into()))), []);
    assert_eq!(bench.pass(5_000), [fires(&timer)], "tried again, not parked for ever");
}

#[test]
fn timers_under_way_are_bounded() {
    let mut bench = Bench::new();
    let count = IN_FLIGHT_MAX as u64 + 40;
    for n in 0..count {
        bench.rows.rows.insert(key(10, n));
    }
    bench.on(Event::Missed);
    let first = bench.pass(20);
    assert_eq!(first.len(), IN_FLIGHT_MAX);
    let mut rest = 0;
    for effect in first {
        let Effect::Fire(timer) = effect else { panic!("only timers: {effect:?}") };
        rest += bench.fired(&timer).len();
    }
    assert_eq!(rest, 40, "the others follow as there is room");
}

#[test]
fn an_idle_cluster_ages_and_forgets() {
    let mut bench = Bench::new();
    bench.rows.clock = TIME_EVERY_MS;
    assert_eq!(bench.on(Event::Tick), [Effect::Time]);
    bench.rows.replicated = bench.rows.clock;
    assert_eq!(bench.on(Event::TimeDone), []);

    bench.rows.clock = REQUEST_ROWS_MS + 5_000;
    bench.rows.marked = bench.rows.clock;
    bench.rows.replicated = bench.rows.clock;
    assert_eq!(bench.on(Event::Tick), [Effect::Purge { before_ms: 5_000 }]);
    assert_eq!(bench.on(Event::PurgeDone(true)), []);
    assert_eq!(bench.on(Event::Tick), []);
    assert_eq!(bench.pass(PURGE_EVERY_MS), [Effect::Purge { before_ms: 5_000 + PURGE_EVERY_MS }]);
}

#[test]
fn markers_are_placed_by_what_stands_in_the_rows() {
    let mut bench = Bench::new();
    bench.rows.marked = 1_000;
    assert_eq!(bench.pass(MARKER_EVERY_MS), [], "the last one is a second younger");
    assert_eq!(bench.pass(1_000), [Effect::Marker]);
    assert_eq!(bench.on(Event::Tick), [], "asked for already");
    assert_eq!(bench.on(Event::MarkerDone(false)), [], "not at once again");
    assert_eq!(bench.pass(60_000), [Effect::Marker], "but some time later");
    bench.rows.marked = bench.rows.replicated;
    assert_eq!(bench.on(Event::MarkerDone(true)), []);
    assert_eq!(bench.scanner.figures(&bench.rows).markers, 1);

    // Another leader goes on with the same schedule.
    bench.pass(MARKER_EVERY_MS / 2);
    assert_eq!(bench.on(Event::Role(None)), []);
    assert_eq!(bench.on(Event::Role(Some(2))), []);
    // One placed by hand counts.
    bench.rows.marked = bench.rows.replicated;
    assert_eq!(bench.pass(MARKER_EVERY_MS / 2), []);
    assert_eq!(bench.pass(MARKER_EVERY_MS / 2), [Effect::Marker]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Timers set in any order, before and behind the cursor, with failures and missed streams: all that are due
    /// fire, and none is under way twice.
    #[test]
    fn all_that_is_due_fires(steps in proptest::collection::vec((0..8_u8, 0..2_000_i64), 1..200)) {
        let mut bench = Bench::new();
        let mut under_way: Vec<TimerKey> = Vec::new();
        let mut n = 0;
        for (what, amount) in steps {
            let fx = match what {
                0..=3 => {
                    n += 1;
                    let timer = key(amount, n);
                    bench.set(&timer)
                }
                4 => bench.pass(amount / 4),
                5 if !under_way.is_empty() => {
                    let timer = under_way.remove(amount as usize % under_way.len());
                    bench.fired(&timer)
                }
                6 if !under_way.is_empty() => {
                    let timer = under_way.remove(amount as usize % under_way.len());
                    bench.on(Event::Fired(timer, Answer::NotApplied(Cause::EntityBusy)))
                }
                7 => bench.on(Event::Missed),
                _ => bench.on(Event::Tick),
            };
            for effect in fx {
                if let Effect::Fire(timer) = effect {
                    prop_assert!(timer.due_ms <= bench.rows.replicated, "fired before it was due");
                    prop_assert!(!under_way.contains(&timer), "under way twice");
                    under_way.push(timer);
                }
            }
        }
        let mut rounds = 0;
        loop {
            let mut fx = Vec::new();
            for timer in std::mem::take(&mut under_way) {
                fx.extend(bench.fired(&timer));
            }
            fx.extend(bench.pass(2_500));
            for effect in fx {
                if let Effect::Fire(timer) = effect {
                    under_way.push(timer);
                }
            }
            if under_way.is_empty() {
                break;
            }
            rounds += 1;
            prop_assert!(rounds < 1_000, "no end");
        }
        prop_assert!(bench.rows.rows.is_empty(), "never fired: {:?}", bench.rows.rows);
    }
}
