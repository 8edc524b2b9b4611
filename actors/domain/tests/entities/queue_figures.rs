//! What a queue may cost, how statistics keep times, how numbers are spoken.

use crate::world::{World, moment, origin};
use bincode::Options;
use okno_domain::{
    directory::{self, BookingSettings, QueueSettings},
    entity::{Context, Decision, Entity, EntityRef, EventMeta, Kind},
    level,
    queue::{
        BOOKINGS_MAX, Booking, BookingRef, BookingState, Command, Event, Move, Moved, Part, Purpose, Queue,
        Reply, Root, SWEEP_TICKETS_MAX, Ticket, TicketRef, TicketState, VisitOutcome, spoken,
        statistics::{DAYS_KEPT, MONTHS_KEPT, bucket, upper_ms},
    },
    time::{DAY_MS, HOUR_MS, local_date},
};
use proptest::prelude::*;
use std::sync::Arc;

/// A call among 5,000 waiting writes at most this.
const CALL_BYTES_MAX: usize = 8 * 1_024;
/// The end of a visit also writes five tallies.
const FINISH_BYTES_MAX: usize = 16 * 1_024;
/// What the frame of a commit, its timers and its request add, at most.
const FRAME_BYTES: usize = 1_024;

fn encoded(value: &impl serde::Serialize) -> usize {
    let options = bincode::DefaultOptions::new().with_varint_encoding();
    usize::try_from(options.serialized_size(value).expect("small")).expect("small")
}

/// What a commit of the decision holds: events, reply, root, and every part it changes. Bodies that stand in events
/// are counted twice.
fn bytes(before: &Queue, decision: &Decision<Queue>, meta: &EventMeta) -> (usize, Queue) {
    let mut after = before.clone();
    let mut parts = std::collections::BTreeSet::new();
    let mut bytes = FRAME_BYTES + encoded(&decision.reply);
    for event in &decision.events {
        after.evolve(event, meta);
        parts.extend(Queue::touched(event));
        bytes += encoded(event);
    }
    bytes += encoded(&after.root());
    for name in &parts {
        bytes += name.len() + after.part(name).map_or(0, |part| encoded(&part));
    }
    (bytes, after)
}

fn ticket(n: u64, at_ms: i64) -> Ticket {
    let letter = ['А', 'Б', 'В', 'Г', 'Д', 'Е'][(n % 6) as usize];
    Ticket {
        ticket: TicketRef {
            day: "2026-03-02".parse().expect("a date"),
            number: format!("{letter}{:03}", n / 6 + 1),
        },
        purpose: Purpose::Apply,
        service: format!("service-{}", n % 40),
        category: String::new(),
        priority: false,
        group: letter,
        sequence: n + 1,
        taken_ms: at_ms,
        wait_from_ms: at_ms,
        rank_ms: at_ms,
        at_head: false,
        state: TicketState::Waiting,
        calls: 0,
        put_offs: 0,
        redirects: 0,
        revision: 1,
        called_first_ms: None,
        served_before_ms: 0,
        bound: String::new(),
        officer: String::new(),
        taken_by: "kiosk/kiosk-1".into(),
        booking: None,
        outside: None,
        cases: Vec::new(),
    }
}

/// A call among thousands touches the ticket, the board and the root; it goes by turn.
#[test]
fn a_call_among_five_thousand_writes_little() {
    let world = World::with_office();
    let mut queue = Queue::empty("tikhaya");
    let meta = EventMeta { time_ms: world.now_ms, origin: world.origin.clone() };
    for n in 0..5_000 {
        let moved = Moved {
            ticket: Arc::new(ticket(n, world.now_ms - 3_600_000 + n as i64)),
            what: Move::Taken,
            window: String::new(),
            board: 0,
            counted: None,
        };
        queue.evolve(&Event::Moved(Box::new(moved)), &meta);
    }
    assert_eq!(queue.waiting_count(), 5_000);
    let this = EntityRef { kind: Kind::Queue, id: "tikhaya".into() };
    let (mut calls_max, mut ends_max) = (0, 0);
    let mut now_ms = world.now_ms;
    for n in 0..600_u32 {
        now_ms += 1_000 + i64::from(n) * 37;
        let decide = |now_ms: i64, queue: &Queue, command: &Command| {
            let context = Context {
                this: &this,
                now_ms,
                origin: &world.origin,
                request_id: uuid::Uuid::nil(),
                catalogue: &world.catalogue,
                directory: &world.directory.state,
                level: level::QUEUE,
                fence: Default::default(),
            };
            queue.decide(command, &context).unwrap()
        };
        let call = decide(now_ms, &queue, &Command::CallNext { window: "1".into() });
        let Reply::Shown(called) = &call.reply else { panic!("a call answers with the ticket") };
        assert_eq!(called.sequence, u64::from(n) + 1);
        let called = called.ticket.clone();
        let (size, after) = bytes(&queue, &call, &meta);
        calls_max = calls_max.max(size);
        let begin = decide(now_ms, &after, &Command::Begin { ticket: called.clone(), window: "1".into() });
        let (_, after) = bytes(&after, &begin, &meta);
        now_ms += i64::from(n % 50) * 2_000;
        let outcome = VisitOutcome::Served;
        let end = decide(now_ms, &after, &Command::Finish { ticket: called, window: "1".into(), outcome });
        let (size, after) = bytes(&after, &end, &meta);
        ends_max = ends_max.max(size);
        queue = after;
    }
    assert!(calls_max <= CALL_BYTES_MAX, "a call writes {calls_max} bytes");
    assert!(ends_max <= FINISH_BYTES_MAX, "the end of a visit writes {ends_max} bytes");
}

/// What was cancelled uses nothing of the bound up, and the bound holds.
#[test]
fn a_full_book_takes_one_more_for_the_oldest_cancelled() {
    let mut world = World::with_office();
    let caller = std::mem::replace(&mut world.origin, origin("admin", "root", ""));
    let booking = BookingSettings { enabled: true, ..BookingSettings::default() };
    let settings = QueueSettings { office: "tikhaya".into(), booking, ..QueueSettings::default() };
    world.directory(&directory::Command::PutQueueSettings(Box::new(settings))).expect("a good entry");
    world.origin = caller;
    let full = |cancelled: &[usize]| {
        let parts = (0..BOOKINGS_MAX).map(|n| {
            let at = cancelled.iter().position(|one| *one == n).and_then(|at| i64::try_from(at).ok());
            let name = BookingRef { day: "2026-03-03".parse().expect("a date"), code: format!("{n:06}") };
            let slot_ms = moment("2026-03-03T00:00:01") + i64::try_from(n).expect("small");
            let part = name.part_name();
            let booking = Booking {
                booking: name,
                purpose: Purpose::Apply,
                service: "paper".into(),
                category: String::new(),
                slot_ms,
                lapses_ms: slot_ms + HOUR_MS,
                reference: String::new(),
                booked_ms: world.now_ms,
                booked_by: world.origin.principal.clone(),
                state: at.map_or(BookingState::Booked, |at_ms| BookingState::Cancelled { at_ms }),
            };
            (part, Part::Booking(Arc::new(booking)))
        });
        Queue::load("tikhaya", Root::default(), parts.collect())
    };
    let this = EntityRef { kind: Kind::Queue, id: "tikhaya".into() };
    let context = Context {
        this: &this,
        now_ms: world.now_ms,
        origin: &world.origin,
        request_id: uuid::Uuid::from_u128(7),
        catalogue: &world.catalogue,
        directory: &world.directory.state,
        level: level::QUEUE,
        fence: Default::default(),
    };
    let command = Command::Book {
        purpose: Purpose::Apply,
        service: "paper".into(),
        category: String::new(),
        slot_ms: moment("2026-03-03T12:00"),
        reference: String::new(),
    };
    let refused = full(&[]).decide(&command, &context).expect_err("all of them are open");
    assert_eq!(refused.reason, "BOOKINGS_LIMIT");
    // The later number was cancelled first.
    let mut queue = full(&[900, 20]);
    let decision = queue.decide(&command, &context).expect("there is room");
    let meta = EventMeta { time_ms: world.now_ms, origin: world.origin.clone() };
    decision.events.iter().for_each(|event| queue.evolve(event, &meta));
    assert_eq!(queue.bookings().count(), BOOKINGS_MAX);
    let kept = |code: &str| queue.bookings().any(|booking| booking.booking.code == code);
    assert_eq!((kept("000900"), kept("000020")), (false, true));
    assert!(queue.slot_taken("paper", moment("2026-03-03T12:00")));
}

/// The day's close and the night's sweep go in pieces, each far below what a commit may hold.
#[test]
fn a_full_hall_is_closed_in_pieces() {
    let mut world = World::with_office();
    let mut taken = 0;
    while let Ok(reply) = world.queue(
        "tikhaya",
        &Command::TakeTicket { purpose: Purpose::Other, service: String::new(), category: String::new() },
    ) {
        taken += usize::from(reply.given().is_some());
        if taken == 450 {
            break;
        }
    }
    world.origin = origin("node", "1", "");
    world.queue_events.clear();
    world.advance_to(moment("2026-03-03T02:00"));
    let closed = world
        .queue_events
        .iter()
        .filter(|(_, event)| matches!(event, Event::Moved(moved) if moved.what == Move::DayOver));
    assert_eq!(closed.count(), 450);
    let moments: std::collections::BTreeSet<_> = world.queue_events.iter().map(|(at_ms, _)| *at_ms).collect();
    assert!(moments.len() >= 5, "closed in {} pieces", moments.len());
    world.queue_events.clear();
    world.advance_to(moment("2026-03-03T04:00"));
    for (_, event) in &world.queue_events {
        if let Event::Swept { tickets } = event {
            assert!(tickets.len() <= SWEEP_TICKETS_MAX);
        }
    }
    assert_eq!(world.queues["tikhaya"].state.all_tickets().count(), 0);
}

/// Days become part of their months, months leave; what a period says does not change by it.
#[test]
fn statistics_outlive_their_days() {
    let mut world = World::with_office();
    let visit = |world: &mut World, at: i64| {
        world.advance_to(at);
        let take =
            Command::TakeTicket { purpose: Purpose::Other, service: String::new(), category: String::new() };
        world.queue("tikhaya", &take).unwrap();
        world.advance_to(at + 60_000);
        let called = world.queue("tikhaya", &Command::CallNext { window: "1".into() }).unwrap();
        let ticket = called.ticket().unwrap().ticket.clone();
        world.queue("tikhaya", &Command::Begin { ticket: ticket.clone(), window: "1".into() }).unwrap();
        world.advance_to(at + 300_000);
        let outcome = VisitOutcome::Served;
        world.queue("tikhaya", &Command::Finish { ticket, window: "1".into(), outcome }).unwrap();
    };
    let start = world.now_ms;
    for day in 0..40 {
        visit(&mut world, start + day * DAY_MS);
    }
    let period = |world: &World, from: &str, to: &str| {
        world.queues["tikhaya"].state.statistics(from.parse().unwrap(), to.parse().unwrap())
    };
    let march = period(&world, "2026-03-01", "2026-03-31").unwrap();
    assert_eq!((march.all.visits, march.all.served), (30, 30));
    assert_eq!(march.officers["anna"].visits, 30);
    assert_eq!(period(&world, "2026-03-10", "2026-03-10").unwrap().all.visits, 1);
    // The last day of March and some: it is folded now, April is not.
    world.advance_to(start + (31 + i64::from(DAYS_KEPT) + 30) * DAY_MS);
    assert_eq!(period(&world, "2026-03-01", "2026-03-31").unwrap(), march);
    assert_eq!(period(&world, "2026-03-10", "2026-03-10").unwrap_err().reason, "PERIOD_UNAVAILABLE");
    assert_eq!(period(&world, "2026-02-01", "2026-04-30").unwrap().all.visits, 40);
    assert_eq!(period(&world, "2026-03-31", "2026-03-01").unwrap_err().reason, "FIELD_INVALID");
    // Until nothing is left, and no timer with it.
    world.advance_to(start + i64::from(MONTHS_KEPT + 4) * 31 * DAY_MS);
    assert_eq!(period(&world, "2026-01-01", "2028-12-31").unwrap().all.visits, 0);
    assert!(world.timers().is_empty(), "{:?}", world.timers());
    assert!(local_date(world.now_ms, 420) > "2028-04-01".parse().unwrap());
}

proptest! {
    /// A duration lies in its bucket, and the buckets are in order.
    #[test]
    fn buckets_hold_their_durations(duration_ms in 0_i64..10 * HOUR_MS) {
        let own = bucket(duration_ms);
        let below = own.checked_sub(1).map_or(0, upper_ms);
        prop_assert!(duration_ms >= below);
        if duration_ms < 4 * HOUR_MS {
            prop_assert!(duration_ms < upper_ms(own));
            prop_assert!(upper_ms(own) - duration_ms <= 120_000);
        }
        prop_assert!(own <= 250);
    }
}

#[test]
fn numbers_are_spoken_in_russian() {
    let spoken: Vec<_> =
        [("А015", "3"), ("Б001", "12"), ("Я999", "40"), ("П200", "101"), ("Ж342", "12А"), ("К010", "7б")]
            .map(|(ticket, window)| spoken::call(ticket, window))
            .to_vec();
    assert_eq!(
        spoken,
        [
            "талон А пятнадцать, окно три",
            "талон Б один, окно двенадцать",
            "талон Я девятьсот девяносто девять, окно сорок",
            "талон П двести, окно сто один",
            "талон Ж триста сорок два, окно двенадцать А",
            "талон К десять, окно семь Б",
        ]
    );
    let numbers: std::collections::BTreeSet<_> = (0..1_000).map(spoken::numeral).collect();
    assert_eq!(numbers.len(), 1_000, "no two numbers sound alike");
    assert_eq!(spoken::numeral(2_026), "два ноль два шесть");
}
