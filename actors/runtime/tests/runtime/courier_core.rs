//! The courier's core: order, exactly one delivery under way per pair, bounds, burial, walks.

use okno_runtime::{
    Answer, Cause,
    courier::{Courier, Effect, Event, FAILURES_MAX, IN_FLIGHT_MAX, OutboxReads, PAIR_MAX},
    depth::Depths,
};
use okno_storage::{
    commit::{CommitId, EntityKey, Message, MessageKey, Record, RecordTag},
    error::StorageError,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The outbox as applied.
#[derive(Default)]
struct Outbox(BTreeMap<MessageKey, Message>);

impl OutboxReads for Outbox {
    fn outbox(&self, after: Option<&MessageKey>, limit: usize) -> Result<Vec<Message>, StorageError> {
        let behind = self.0.iter().filter(|(key, _)| after.is_none_or(|after| *key > after));
        Ok(behind.map(|(_, message)| message.clone()).take(limit).collect())
    }
}

fn message(source: u64, target: u64, counter: u64) -> Message {
    let key = |n| EntityKey::parse(&format!("case/e{n}")).expect("a good key");
    Message {
        key: MessageKey {
            target: key(target),
            source: key(source),
            commit: CommitId { term: 1, counter },
            place: 0,
        },
        hops: 0,
        answers: None,
        record: Record { tag: RecordTag { kind: 0x100, version: 1 }, body: bytes::Bytes::new() },
    }
}

struct Bench {
    courier: Courier,
    outbox: Outbox,
    depths: Arc<Depths>,
    now: u64,
    fx: Vec<Effect>,
}

impl Bench {
    fn new() -> Self {
        let depths = Arc::new(Depths::default());
        Self {
            courier: Courier::new(Arc::clone(&depths)),
            outbox: Outbox::default(),
            depths,
            now: 0,
            fx: Vec::new(),
        }
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        self.courier.on(event, self.now, &self.outbox, &mut self.fx).expect("readable");
        std::mem::take(&mut self.fx)
    }

    fn lead(&mut self) -> Vec<Effect> {
        let mut fx = self.on(Event::Role(Some(1)));
        while self.courier.next_wake(self.now) == Some(self.now) {
            fx.extend(self.on(Event::Tick));
        }
        fx
    }

    fn send(&mut self, message: &Message) -> Vec<Effect> {
        self.outbox.0.insert(message.key.clone(), message.clone());
        self.on(Event::Sent(vec![message.clone()]))
    }

    fn deliver(&mut self, message: &Message) -> Vec<Effect> {
        self.outbox.0.remove(&message.key);
        self.on(Event::Delivered(message.key.clone(), Answer::Done { reply: None, index: 1 }))
    }
}

fn delivered(fx: &[Effect]) -> Vec<(String, u64)> {
    fx.iter()
        .map(|effect| match effect {
            Effect::Deliver(message) => (message.key.target.to_string(), message.key.commit.counter),
            Effect::Bury { key, .. } => (format!("bury {}", key.target), key.commit.counter),
        })
        .collect()
}

#[test]
fn one_of_a_pair_at_a_time_in_order() {
    let mut bench = Bench::new();
    let (first, second, other) = (message(1, 2, 10), message(1, 2, 11), message(3, 2, 12));
    for message in [&first, &second] {
        bench.outbox.0.insert(message.key.clone(), message.clone());
    }
    assert_eq!(delivered(&bench.on(Event::Tick)), [], "nobody leads");
    assert_eq!(delivered(&bench.lead()), [("case/e2".into(), 10)]);
    assert_eq!(delivered(&bench.send(&other)), [("case/e2".into(), 12)], "another source need not wait");
    assert_eq!(delivered(&bench.on(Event::Sent(vec![second.clone()]))), [], "met by the walk already");
    assert_eq!(delivered(&bench.deliver(&first)), [("case/e2".into(), 11)]);
    assert_eq!(delivered(&bench.deliver(&second)), []);
    assert_eq!(delivered(&bench.deliver(&other)), []);
    assert_eq!(bench.courier.figures().pairs, 0);
    assert_eq!(bench.depths.figures(), (0, 0));
}

#[test]
fn a_backlog_is_rows_not_memory() {
    let mut bench = Bench::new();
    assert_eq!(bench.lead(), []);
    let count = PAIR_MAX as u64 * 3 + 5;
    let mut next = delivered(&bench.send(&message(1, 2, 1)));
    for counter in 2..=count {
        assert_eq!(delivered(&bench.send(&message(1, 2, counter))), []);
    }
    assert_eq!(bench.depths.figures().1, count as u32);
    for counter in 1..=count {
        assert_eq!(next, [("case/e2".into(), counter)]);
        next = delivered(&bench.deliver(&message(1, 2, counter)));
    }
    assert_eq!(next, []);
    assert_eq!(bench.depths.figures(), (0, 0));
}

#[test]
fn rows_read_before_the_stream_tells_of_them_are_taken_in_once() {
    let mut bench = Bench::new();
    bench.lead();
    // One more than memory holds, so that the rest is read from rows.
    let told = PAIR_MAX as u64 + 1;
    let mut next = delivered(&bench.send(&message(1, 2, 1)));
    for counter in 2..=told {
        bench.send(&message(1, 2, counter));
    }
    // Applied already, but the stream is behind.
    let ahead: Vec<Message> = (told + 1..told + 4).map(|counter| message(1, 2, counter)).collect();
    for message in &ahead {
        bench.outbox.0.insert(message.key.clone(), message.clone());
    }
    for counter in 1..=PAIR_MAX as u64 {
        assert_eq!(next, [("case/e2".into(), counter)]);
        next = delivered(&bench.deliver(&message(1, 2, counter)));
    }
    assert_eq!(bench.depths.figures().1, 4, "all that wait are counted");
    assert_eq!(delivered(&bench.on(Event::Sent(ahead.clone()))), []);
    assert_eq!(bench.depths.figures().1, 4, "and once");
    for counter in told..told + 4 {
        assert_eq!(next, [("case/e2".into(), counter)]);
        next = delivered(&bench.deliver(&message(1, 2, counter)));
    }
    assert_eq!(next, []);
    assert_eq!(bench.courier.figures().pairs, 0);
    assert_eq!(bench.depths.figures(), (0, 0), "nothing is left of the count");
}

#[test]
fn a_full_house_waits_for_answers_not_for_time() {
    let mut bench = Bench::new();
    bench.lead();
    let count = IN_FLIGHT_MAX as u64 + 1;
    for n in 0..count {
        bench.send(&message(10 + n, 2, n + 1));
    }
    assert_eq!(bench.courier.figures().in_flight, IN_FLIGHT_MAX);
    assert_eq!(bench.courier.next_wake(bench.now), None, "no time makes room");
    assert_eq!(delivered(&bench.on(Event::Tick)), []);
    assert_eq!(delivered(&bench.deliver(&message(10, 2, 1))), [("case/e2".into(), count)]);
}

#[test]
fn what_fails_too_often_is_buried() {
    let mut bench = Bench::new();
    bench.lead();
    let (bad, good) = (message(1, 2, 1), message(1, 2, 2));
    let mut fx = bench.send(&bad);
    bench.send(&good);
    for _ in 0..FAILURES_MAX {
        assert_eq!(delivered(&fx), [("case/e2".into(), 1)]);
        let failed = Event::Delivered(bad.key.clone(), Answer::NotApplied(Cause::EntityFailed));
        fx = bench.on(failed);
        if fx.is_empty() {
            let wake = bench.courier.next_wake(bench.now).expect("it is tried again");
            assert!(wake > bench.now, "after a pause");
            bench.now = wake;
            fx = bench.on(Event::Tick);
        }
    }
    assert_eq!(delivered(&fx), [("bury case/e2".into(), 1)]);
    bench.outbox.0.remove(&bad.key);
    let fx = bench.on(Event::Buried(bad.key.clone(), Answer::Done { reply: None, index: 5 }));
    assert_eq!(delivered(&fx), [("case/e2".into(), 2)], "those behind it go on");
    assert_eq!(bench.courier.figures().buried, 1);
}

#[test]
fn what_is_not_the_messages_fault_is_not_counted() {
    let mut bench = Bench::new();
    bench.lead();
    let waiting = message(1, 2, 1);
    let mut fx = bench.send(&waiting);
    for _ in 0..3 * FAILURES_MAX {
        assert_eq!(delivered(&fx), [("case/e2".into(), 1)]);
        assert_eq!(
            bench.on(Event::Delivered(waiting.key.clone(), Answer::NotApplied(Cause::EntityBusy))),
            []
        );
        bench.now = bench.courier.next_wake(bench.now).expect("it is tried again");
        fx = bench.on(Event::Tick);
    }
    // A quarantined target parks it, until something about quarantines changes.
    assert_eq!(bench.on(Event::Delivered(waiting.key.clone(), Answer::Quarantined("why".into()))), []);
    assert_eq!(bench.courier.next_wake(bench.now), None);
    assert_eq!(bench.courier.figures().parked, 1);
    assert_eq!(delivered(&bench.on(Event::QuarantineMoved)), [("case/e2".into(), 1)]);
    // The end of leadership forgets everything; the next one finds it again.
    assert_eq!(bench.on(Event::Role(None)), []);
    assert_eq!(bench.on(Event::Delivered(waiting.key.clone(), Answer::NotApplied(Cause::NoLeader))), []);
    assert_eq!(delivered(&bench.lead()), [("case/e2".into(), 1)]);
}

/// The end of a quarantine can be heard of before the answer it made out of date: nobody would tell of it again.
#[test]
fn a_quarantine_that_ended_before_its_answer_came_parks_nothing() {
    let mut bench = Bench::new();
    bench.lead();
    let waiting = message(1, 2, 1);
    assert_eq!(delivered(&bench.send(&waiting)), [("case/e2".into(), 1)]);
    assert_eq!(bench.on(Event::QuarantineMoved), []);
    let quarantined = || Event::Delivered(waiting.key.clone(), Answer::Quarantined("why".into()));
    assert_eq!(bench.on(quarantined()), []);
    assert_eq!(bench.courier.figures().parked, 0);
    bench.now = bench.courier.next_wake(bench.now).expect("it is tried again");
    assert_eq!(delivered(&bench.on(Event::Tick)), [("case/e2".into(), 1)]);
    // Nothing moved since it was sent again: now it waits for the end.
    assert_eq!(bench.on(quarantined()), []);
    assert_eq!(bench.courier.figures().parked, 1);
    // What was under way when the outbox was walked again may have been sent before something moved.
    assert_eq!(delivered(&bench.on(Event::QuarantineMoved)), [("case/e2".into(), 1)]);
    assert_eq!(bench.on(Event::QuarantineMoved), []);
    assert_eq!(bench.on(Event::Missed), []);
    assert_eq!(bench.on(quarantined()), []);
    assert_eq!(bench.courier.figures().parked, 0);
}

#[test]
fn deliveries_under_way_are_bounded() {
    let mut bench = Bench::new();
    bench.lead();
    let mut out = 0;
    for target in 0..(IN_FLIGHT_MAX as u64 + 10) {
        out += bench.send(&message(1_000_000, target, target + 1)).len();
    }
    assert_eq!(out, IN_FLIGHT_MAX);
    assert_eq!(bench.deliver(&message(1_000_000, 0, 1)).len(), 1, "one comes back, one goes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever order things happen in — walks begun over, answers lost to a change of term, streams running over —
    /// each message is delivered at least once, per pair in order, and never two of a pair at a time.
    #[test]
    fn every_message_arrives_in_order(steps in proptest::collection::vec((0..10_u8, 0..3_u64, 0..3_u64), 1..300)) {
        let mut bench = Bench::new();
        let mut counter = 0;
        let mut under_way: Vec<Message> = Vec::new();
        let mut arrived: BTreeMap<(EntityKey, EntityKey), Vec<u64>> = BTreeMap::new();
        let mut fx = bench.lead();
        for (what, source, target) in steps {
            match what {
                0..=4 => {
                    counter += 1;
                    fx.extend(bench.send(&message(source, target, counter)));
                }
                5..=7 if !under_way.is_empty() => {
                    let message = under_way.remove((source as usize * 3 + target as usize) % under_way.len());
                    if bench.outbox.0.contains_key(&message.key) {
                        arrived.entry((message.key.source.clone(), message.key.target.clone())).or_default()
                            .push(message.key.commit.counter);
                    }
                    fx.extend(bench.deliver(&message));
                }
                8 => fx.extend(bench.on(Event::Missed)),
                9 => {
                    bench.on(Event::Role(None));
                    under_way.clear();
                    fx = bench.lead();
                }
                _ => {}
            }
            while bench.courier.next_wake(bench.now) == Some(bench.now) {
                fx.extend(bench.on(Event::Tick));
            }
            for effect in fx.drain(..) {
                let Effect::Deliver(message) = effect else { panic!("nothing is buried here") };
                under_way.push(message);
            }
            let pairs: BTreeSet<_> = under_way.iter().map(|one| (&one.key.source, &one.key.target)).collect();
            prop_assert_eq!(pairs.len(), under_way.len(), "two of a pair under way");
        }
        while let Some(message) = under_way.pop() {
            arrived.entry((message.key.source.clone(), message.key.target.clone())).or_default()
                .push(message.key.commit.counter);
            for effect in bench.deliver(&message) {
                let Effect::Deliver(message) = effect else { panic!("nothing is buried here") };
                under_way.push(message);
            }
        }
        prop_assert!(bench.outbox.0.is_empty(), "left behind: {:?}", bench.outbox.0.keys().collect::<Vec<_>>());
        prop_assert_eq!(arrived.values().map(Vec::len).sum::<usize>() as u64, counter);
        for order in arrived.values() {
            prop_assert!(order.is_sorted(), "out of order: {order:?}");
        }
        prop_assert_eq!(bench.depths.figures(), (0, 0));
    }
}
