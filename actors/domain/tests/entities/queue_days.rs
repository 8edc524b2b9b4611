//! Random days of an office (the world checks `load == fold` at every commit). A ledger that is kept from the events
//! alone says what must hold: no ticket is lost or served twice, numbers are given once, nobody is overtaken by
//! more than the fairness bound, the board has no gaps, and statistics are what the events add up to.

use crate::world::{OFFSET_MINUTES, World, origin};
use okno_domain::{
    case,
    directory::{self, DayHours, OutsideSystem, PriorityCategory, QueueSettings},
    entity::{Entity, Kind},
    level,
    queue::{
        BOARD_TAIL, BoardNews, BoardState, BookingRef, Command, Destination, Event, Move, OutsideEvent,
        OutsideHappened, Purpose, Queue, Reply, Share, Tally, Ticket, TicketRef, TicketState, VisitOutcome,
        statistics::{bucket, upper_ms},
    },
    time::{MINUTE_MS, local_date, local_hour_ms, plus_days},
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const OFFICE: &str = "tikhaya";
const FAIRNESS_MINUTES: u16 = 20;
const FAIRNESS_MS: i64 = FAIRNESS_MINUTES as i64 * MINUTE_MS;
const NORM_MS: i64 = 15 * MINUTE_MS;

fn settings(by_load: bool) -> QueueSettings {
    QueueSettings {
        office: OFFICE.into(),
        fairness_minutes: FAIRNESS_MINUTES,
        categories: vec![
            PriorityCategory { code: "family".into(), weight: 40 },
            PriorityCategory { code: "veterans".into(), weight: 100 },
        ],
        hours: (1..=7).map(|weekday| DayHours { weekday, opens_minute: 480, closes_minute: 1_200 }).collect(),
        auto_call: by_load,
        outside: vec![OutsideSystem { system: "eq".into(), connectors: vec!["eq".into()] }],
        ..QueueSettings::default()
    }
}

/// An office with three windows, of which the third serves one group, and two officers.
fn world(by_load: bool) -> World {
    let mut world = World::with_office();
    world.origin = origin("admin", "root", "");
    let window = directory::Window {
        office: OFFICE.into(),
        number: "3".into(),
        ticket_groups: vec!["А".into()],
        workstation: "ws-3".into(),
    };
    world.directory(&directory::Command::PutWindow(window)).expect("a good entry");
    let person = directory::Person {
        id: "boris".into(),
        name: "Вымыслов Борис".into(),
        role: directory::Role::Head,
        offices: vec![OFFICE.into()],
    };
    world.directory(&directory::Command::PutPerson(person)).expect("a good entry");
    world
        .directory(&directory::Command::PutQueueSettings(Box::new(settings(by_load))))
        .expect("a good entry");
    world.origin = origin("operator", "anna", "ws-1");
    world
}

#[derive(Debug, Clone)]
struct Op {
    what: u8,
    which: usize,
    window: u8,
    /// Seconds until the next one.
    pause_s: i64,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let pause = prop_oneof![6 => 0_i64..120, 3 => 120_i64..900, 1 => 900_i64..20_000];
    let op = (0_u8..42, 0_usize..16, 1_u8..4, pause).prop_map(|(what, which, window, pause_s)| Op {
        what,
        which,
        window,
        pause_s,
    });
    proptest::collection::vec(op, 1..90)
}

/// What the events say, without the queue's own code.
#[derive(Default)]
struct Ledger {
    read: usize,
    tickets: BTreeMap<TicketRef, Ticket>,
    ended: BTreeSet<TicketRef>,
    served: BTreeSet<TicketRef>,
    board: Vec<(u64, TicketRef, String, BoardState)>,
    ends: Vec<End>,
}

/// How a visit ended.
struct End {
    /// Local hour of the taking.
    hour: i64,
    wait_ms: Option<i64>,
    service_ms: Option<i64>,
    how: &'static str,
    window: String,
}

impl Ledger {
    fn read(&mut self, world: &World) {
        for (_, event) in &world.queue_events[self.read..] {
            let Event::Moved(moved) = event else { continue };
            let ticket = &*moved.ticket;
            let name = &ticket.ticket;
            match self.tickets.get(name) {
                None => assert_eq!(moved.what, Move::Taken, "{name:?} came from nowhere"),
                Some(before) => {
                    assert_ne!(moved.what, Move::Taken, "{name:?} was given twice");
                    assert_eq!(ticket.revision, before.revision + 1);
                    assert_eq!((ticket.sequence, ticket.taken_ms), (before.sequence, before.taken_ms));
                    if moved.what != Move::CaseLinked {
                        assert!(
                            !self.ended.contains(name),
                            "{name:?} goes on after its end: {:?}",
                            moved.what
                        );
                    }
                }
            }
            if moved.what == Move::Finished {
                assert!(self.served.insert(name.clone()), "{name:?} was served twice");
            }
            if let (TicketState::Called { window, .. }, Move::Called) = (&ticket.state, moved.what) {
                let busy = self.tickets.values().any(|other| {
                    other.ticket.day == name.day
                        && other.ticket != *name
                        && other.state.occupies() == Some(window)
                });
                assert!(!busy, "window {window} has two visitors");
            }
            if moved.board > 0 {
                let state = match ticket.state {
                    TicketState::Called { .. } => BoardState::Called,
                    TicketState::InService { .. } => BoardState::Serving,
                    _ => BoardState::Gone,
                };
                self.board.push((moved.board, name.clone(), moved.window.clone(), state));
            }
            let counts = ticket.state.is_final() && moved.what != Move::CaseLinked;
            assert_eq!(counts, moved.counted.is_some(), "a visit is counted once, with its end");
            if ticket.state.is_final() && self.ended.insert(name.clone()) {
                let wait = ticket.called_first_ms.map(|called| (called - ticket.wait_from_ms).max(0));
                let (ending, service) = match &ticket.state {
                    TicketState::Finished { begun_ms: Some(begun), finished_ms, .. } => {
                        ("served", Some(ticket.served_before_ms + finished_ms - begun))
                    }
                    TicketState::Finished { .. } => ("did-not-come", None),
                    TicketState::Closed { why: okno_domain::queue::Closing::Left, .. } => ("left", None),
                    _ => ("unserved", None),
                };
                let hour = (ticket.taken_ms - local_hour_ms(name.day, 0, OFFSET_MINUTES)) / 3_600_000;
                let window = moved.window.clone();
                self.ends.push(End { hour, wait_ms: wait, service_ms: service, how: ending, window });
            }
            self.tickets.insert(name.clone(), ticket.clone());
        }
        self.read = world.queue_events.len();
    }

    fn check(&self, world: &World) {
        let Some(queue) = world.queues.get(OFFICE).map(|stored| &stored.state) else { return };
        // Board: no gaps, the tail is the last of what there was, and what is shown is who is at a window.
        let sequences: Vec<u64> = self.board.iter().map(|(sequence, ..)| *sequence).collect();
        assert_eq!(sequences, (1..).take(sequences.len()).collect::<Vec<_>>());
        assert_eq!(queue.board_sequence(), sequences.len() as u64);
        let tail = self.board.len().saturating_sub(BOARD_TAIL as usize);
        let BoardNews::Entries(entries) = queue.board_since(tail as u64) else { panic!("the tail is there") };
        let entries: Vec<_> = entries
            .iter()
            .map(|entry| (entry.sequence, entry.ticket.clone(), entry.window.clone(), entry.state))
            .collect();
        assert_eq!(entries, self.board[tail..]);
        if tail > 0 {
            assert_eq!(queue.board_since(tail as u64 - 1), BoardNews::StartAnew);
        }
        let shown: BTreeSet<_> = queue.board().1.iter().map(|entry| entry.ticket.clone()).collect();
        let at_windows = self.tickets.values().filter(|ticket| ticket.state.occupies().is_some());
        assert_eq!(shown, at_windows.map(|ticket| ticket.ticket.clone()).collect());
        // What is due has a timer, at its time or before.
        let due = |name: &str| {
            let timers = world.timers();
            timers
                .into_iter()
                .find(|(_, entity, timer)| entity.kind == Kind::Queue && timer == name)
                .map(|(due, ..)| due)
        };
        let earliest = queue.all_tickets().filter_map(|ticket| match ticket.state {
            TicketState::PutOff { until_ms } => Some(until_ms),
            _ => None,
        });
        if let Some(earliest) = earliest.min() {
            assert!(
                due("due").is_some_and(|due| due <= earliest.max(world.now_ms + 1_000)),
                "a visitor who was put off is lost"
            );
        }
        if queue.all_tickets().any(|ticket| !ticket.state.is_final()) {
            assert!(due("close").is_some() && due("sweep").is_some(), "an open ticket without its timers");
        }
    }

    /// Statistics are what the events add up to.
    fn check_statistics(&self, queue: &Queue) {
        let (from, to) = ("2026-03-01".parse().expect("a date"), "2026-04-30".parse().expect("a date"));
        let found = queue.statistics(from, to).expect("a good period");
        let compare = |tally: &Tally, hour: Option<i64>, window: Option<&str>| {
            let mine: Vec<_> = self
                .ends
                .iter()
                .filter(|end| hour.is_none_or(|hour| hour == end.hour))
                .filter(|end| window.is_none_or(|window| window == end.window))
                .collect();
            let count = |ending: &str| mine.iter().filter(|end| end.how == ending).count() as u32;
            assert_eq!(tally.visits, mine.len() as u32);
            assert_eq!(
                [tally.served, tally.did_not_come, tally.unserved, tally.left],
                ["served", "did-not-come", "unserved", "left"].map(count)
            );
            let mut waits: Vec<i64> = mine.iter().filter_map(|end| end.wait_ms).collect();
            let mut services: Vec<i64> = mine.iter().filter_map(|end| end.service_ms).collect();
            assert_eq!(tally.in_norm, waits.iter().filter(|wait| **wait <= NORM_MS).count() as u32);
            for (spread, times) in [(&tally.wait, &mut waits), (&tally.service, &mut services)] {
                assert_eq!(spread.count as usize, times.len());
                assert_eq!(spread.sum_ms, times.iter().sum::<i64>() as u64);
                times.sort_unstable();
                let exact = (!times.is_empty()).then(|| times[(times.len() * 9).div_ceil(10) - 1]);
                assert_eq!(spread.percentile_ms(90), exact.map(|exact| upper_ms(bucket(exact))));
            }
        };
        compare(&found.all, None, None);
        for (hour, tally) in &found.hours {
            compare(tally, Some(i64::from(*hour)), None);
        }
        for (window, tally) in &found.windows {
            compare(tally, None, Some(window));
        }
        assert_eq!(found.hours.values().map(|tally| tally.visits).sum::<u32>(), found.all.visits);
    }
}

/// Whom a window could have called just before, by the settings above and not by the queue's own code.
fn could_call(world: &World, window: &str) -> Vec<Ticket> {
    let Some(queue) = world.queues.get(OFFICE).map(|stored| &stored.state) else { return Vec::new() };
    let today = local_date(world.now_ms, OFFSET_MINUTES);
    let serves = |ticket: &Ticket| window != "3" || ticket.group == 'А';
    let mine = |ticket: &Ticket| ticket.bound == window || (ticket.bound.is_empty() && serves(ticket));
    queue
        .all_tickets()
        .filter(|ticket| ticket.state == TicketState::Waiting && ticket.ticket.day == today && mine(ticket))
        .cloned()
        .collect()
}

fn play(world: &mut World, op: &Op) {
    let window = op.window.to_string();
    let queue = world.queues.get(OFFICE).map(|stored| stored.state.clone());
    let tickets: Vec<TicketRef> =
        queue.iter().flat_map(|queue| queue.tickets().map(|ticket| ticket.ticket.clone())).collect();
    let any = (!tickets.is_empty()).then(|| tickets[op.which * 7 % tickets.len()].clone());
    // Most of the time an officer acts on the ticket at the window.
    let held = queue.as_ref().and_then(|queue| queue.at_window(&window)).map(|ticket| ticket.ticket.clone());
    let ticket = if op.which < 13 { held.or(any.clone()) } else { any.clone() };
    let bookings: Vec<BookingRef> =
        queue.iter().flat_map(|queue| queue.bookings().map(|booking| booking.booking.clone())).collect();
    let booking = (!bookings.is_empty()).then(|| bookings[op.which % bookings.len()].clone());
    let command = match op.what {
        0..=8 => Some(Command::TakeTicket {
            purpose: Purpose::ALL[op.which % 4],
            service: ["paper", "in-person", ""][op.which % 3].into(),
            category: if op.which > 11 { ["veterans", "family"][op.which % 2] } else { "" }.into(),
        }),
        9..=14 => {
            let before = could_call(world, &window);
            let reply = world.queue(OFFICE, &Command::CallNext { window: window.clone() });
            match reply {
                Ok(reply) => {
                    let called = reply.ticket().expect("a call shows its ticket");
                    let was = before.iter().find(|ticket| ticket.ticket == called.ticket);
                    if let Some(was) = was.filter(|was| !was.at_head) {
                        for other in &before {
                            assert!(
                                was.wait_from_ms - other.wait_from_ms <= FAIRNESS_MS,
                                "{:?} overtook {:?}",
                                was.ticket,
                                other.ticket
                            );
                            assert!(!other.at_head, "the head of the queue was passed over");
                            // Of two of the same weight the earlier one.
                            let start = |ticket: &Ticket| ticket.wait_from_ms - ticket.rank_ms;
                            if start(other) == start(was) {
                                assert!(
                                    (was.wait_from_ms, was.sequence) <= (other.wait_from_ms, other.sequence)
                                );
                            }
                        }
                    }
                }
                Err(refusal) => {
                    let others = ["WINDOW_BUSY", "WINDOW_CLOSED", "WINDOW_ON_BREAK", "WINDOW_UNATTENDED"];
                    assert!(
                        others.contains(&refusal.reason.as_str())
                            || (refusal.reason == "QUEUE_EMPTY" && before.is_empty()),
                        "{refusal:?} with {before:?}"
                    );
                }
            }
            None
        }
        15..=17 => ticket.map(|ticket| Command::Begin { ticket, window }),
        18..=20 => ticket.map(|ticket| Command::Finish { ticket, window, outcome: VisitOutcome::Served }),
        21 => ticket.map(|ticket| Command::Finish { ticket, window, outcome: VisitOutcome::NoShow }),
        22 => any.map(|ticket| Command::CallNumber { ticket, window }),
        23 => ticket.map(|ticket| Command::CallAgain { ticket, window }),
        24..=25 => ticket.map(|ticket| Command::PutOff { ticket, window, minutes: 1 + op.which as u16 * 4 }),
        26 => ticket.map(|ticket| Command::Redirect {
            ticket,
            window,
            to: Destination::Window((1 + op.which % 3).to_string()),
        }),
        27 => ticket.map(|ticket| Command::Redirect {
            ticket,
            window,
            to: Destination::Service("paper".into()),
        }),
        28 => any.map(|ticket| Command::Bind {
            ticket,
            window: if op.which.is_multiple_of(3) { String::new() } else { window },
        }),
        29 => ticket.map(|ticket| Command::ReturnToQueue { ticket, window }),
        30 => any.map(|ticket| Command::Leave { ticket }),
        31 => Some(Command::OpenWindow { window }),
        32 => Some(if op.which.is_multiple_of(3) {
            Command::CloseWindow { window }
        } else {
            Command::StartBreak { window, minutes: 10 }
        }),
        33 => {
            let caller = std::mem::replace(&mut world.origin, origin("node", "1", ""));
            let term = world.term;
            let _ = world.queue(OFFICE, &Command::Unattended { window, term });
            world.origin = caller;
            None
        }
        34 => {
            let caller = std::mem::replace(&mut world.origin, origin("node", "1", ""));
            let term = world.term;
            let _ = world.queue(OFFICE, &Command::Attended { window, term });
            world.origin = caller;
            None
        }
        35..=36 => {
            let open = local_hour_ms(local_date(world.now_ms, OFFSET_MINUTES), 8, OFFSET_MINUTES);
            let step = (world.now_ms - open) / (15 * MINUTE_MS) + 1 + (op.which % 6) as i64;
            Some(Command::Book {
                purpose: Purpose::Apply,
                service: ["paper", ""][op.which % 2].into(),
                category: String::new(),
                slot_ms: open + step * 15 * MINUTE_MS,
                reference: String::new(),
            })
        }
        37 => booking.map(|booking| Command::CheckIn { booking }),
        38 => booking.map(|booking| {
            if op.which.is_multiple_of(4) {
                Command::CancelBooking { booking }
            } else {
                Command::CheckIn { booking }
            }
        }),
        40..=41 => {
            // Before the visit's end or after it: an officer may be slow to enter the case.
            if let Some(ticket) = ticket {
                let (_, opened) = world.open(&case::Command::Open {
                    office: OFFICE.into(),
                    service: "paper".into(),
                    applicants: vec![crate::laws::person()],
                    ticket: Some(ticket),
                    note: String::new(),
                });
                opened.expect("a good case");
            }
            None
        }
        _ => {
            let caller = std::mem::replace(&mut world.origin, origin("connector", "eq", ""));
            let outside = |happened| {
                Command::Outside(OutsideEvent {
                    system: "eq".into(),
                    id: format!("{}-{}", op.window, op.which),
                    ticket: op.which.to_string(),
                    at_ms: 0,
                    happened,
                })
            };
            let registered = OutsideHappened::Registered {
                purpose: Purpose::Apply,
                service: String::new(),
                category: String::new(),
            };
            let event = outside(if op.window == 1 { registered } else { OutsideHappened::Called { window } });
            let first = world.queue(OFFICE, &event);
            let events = world.queue_events.len();
            let again = world.queue(OFFICE, &event);
            assert_eq!(events, world.queue_events.len(), "an outside event was taken twice");
            if let (Ok(first), Ok(again)) = (&first, &again) {
                assert_eq!(
                    first.ticket().map(|t| t.ticket.clone()),
                    again.ticket().map(|t| t.ticket.clone())
                );
            }
            assert_eq!(first.is_ok(), again.is_ok());
            world.origin = caller;
            None
        }
    };
    if let Some(command) = command {
        let before = world.queues.get(OFFICE).map(|stored| stored.state.clone());
        match world.queue(OFFICE, &command) {
            Ok(Reply::None) => panic!("commands are answered"),
            Ok(_) => {}
            Err(refusal) => {
                let after = world.queues.get(OFFICE).map(|stored| stored.state.clone());
                assert_eq!(before, after, "refused with {} and yet changed", refusal.reason);
            }
        }
    }
    let later = world.now_ms + op.pause_s * 1_000;
    world.advance_to(later);
}

/// What is loaded for a question answers it as the whole would, and is no more than the question needs.
fn check_shares(world: &World) {
    let Some(stored) = world.queues.get(OFFICE) else { return };
    let whole = &stored.state;
    let of = |share: Share, kinds: &[&str]| {
        let (queue, names) = stored.share(OFFICE, &share.stretches(&whole.root()));
        let foreign = names.iter().find(|name| !kinds.iter().any(|kind| name.starts_with(kind)));
        assert_eq!(foreign, None, "{share:?} reads it");
        queue
    };
    let hall = of(Share::Hall, &["window:", "ticket:"]);
    assert!(hall.desks().eq(whole.desks()) && hall.tickets().eq(whole.tickets()));
    for window in ["1", "2", "3"] {
        assert_eq!(hall.at_window(window), whole.at_window(window));
        assert_eq!(hall.desk(window), whole.desk(window));
    }
    assert!(of(Share::Windows, &["window:"]).desks().eq(whole.desks()));
    let day = whole.day().map_or("ticket:".to_owned(), |day| format!("ticket:{day}:"));
    assert!(of(Share::Tickets, &[&day]).tickets().eq(whole.tickets()));
    let board = of(Share::Board, &["board:", "ticket:"]);
    assert_eq!(board.board(), whole.board());
    let last = whole.board().0;
    for sequence in [0, last.saturating_sub(BOARD_TAIL), last.saturating_sub(1), last, last + 1] {
        assert_eq!(board.board_since(sequence), whole.board_since(sequence));
    }
    assert!(of(Share::Bookings(None), &["booking:"]).bookings().eq(whole.bookings()));
    let today = local_date(world.now_ms, OFFSET_MINUTES);
    let slots = of(Share::Slots, &["booking:", "day:"]);
    for day in [today, plus_days(today, 1)] {
        let booked = of(Share::Bookings(Some(day)), &[&format!("booking:{day}:")]);
        assert!(booked.bookings().eq(whole.bookings().filter(|booking| booking.booking.day == day)));
        world.in_queue(OFFICE, |context| {
            assert_eq!(slots.free_slots("", day, context), whole.free_slots("", day, context));
        });
    }
    let before = plus_days(today, -40);
    for (from, to) in [(today, today), (before, today), (today, before), (before, plus_days(today, 40))] {
        let statistics = of(Share::Statistics(from, to), &["stats:"]);
        assert_eq!(statistics.statistics(from, to), whole.statistics(from, to));
    }
    let (_, one_day) = stored.share(OFFICE, &Share::Statistics(today, today).stretches(&whole.root()));
    let month = today.strftime("stats:m:%Y-%m:").to_string();
    let other = one_day
        .iter()
        .find(|name| !name.starts_with(&format!("stats:d:{today}:")) && !name.starts_with(&month));
    assert_eq!(other, None, "of one day's statistics");
}

/// Past the next two nights.
fn night_after(world: &mut World) {
    let day = plus_days(local_date(world.now_ms, OFFSET_MINUTES), 2);
    world.advance_to(local_hour_ms(day, 4, OFFSET_MINUTES));
}

/// At night everything open gets its end, and leaves.
fn end(world: &mut World, ledger: &mut Ledger) {
    night_after(world);
    ledger.read(world);
    ledger.check(world);
    let Some(queue) = world.queues.get(OFFICE).map(|stored| &stored.state) else { return };
    let taken: BTreeSet<_> = ledger.tickets.keys().cloned().collect();
    assert_eq!(taken, ledger.ended, "a ticket was lost");
    assert_eq!(queue.all_tickets().count(), 0, "the archive keeps nothing back");
    assert_eq!(queue.bookings().count(), 0);
    ledger.check_statistics(queue);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn days_of_an_office(history in ops(), by_load in any::<bool>()) {
        let mut world = world(by_load);
        let mut ledger = Ledger::default();
        for op in &history {
            play(&mut world, op);
            ledger.read(&world);
            ledger.check(&world);
            check_shares(&world);
        }
        end(&mut world, &mut ledger);
    }

    /// A queue in the middle of its day when the cluster's level rises: what was begun is ended in the new form.
    #[test]
    fn the_level_rises_during_the_day(before in ops(), after in ops()) {
        let mut world = World::with_office();
        world.level = level::QUEUE - 1;
        for op in &before {
            // What release 0.2 knows; the rest is refused.
            play_loosely(&mut world, op);
        }
        let old = |event: &Event| matches!(
            event,
            Event::TicketTaken(_) | Event::TicketCalled(_) | Event::ServiceBegun(_) | Event::TicketFinished(_)
                | Event::CaseLinked(_) | Event::Swept { .. }
        );
        prop_assert!(world.queue_events.iter().all(|(_, event)| old(event)), "something new below its level");
        world.level = level::QUEUE;
        let from = world.queue_events.len();
        for op in &after {
            play_loosely(&mut world, op);
        }
        let new = |event: &Event| matches!(event, Event::Swept { .. }) || !old(event);
        prop_assert!(world.queue_events[from..].iter().all(|(_, event)| new(event)), "something old at its level");
        night_after(&mut world);
        let left = world.queues.get(OFFICE).map_or(0, |stored| stored.state.all_tickets().count());
        prop_assert_eq!(left, 0);
    }
}

/// A few commands whose outcome is not looked at.
fn play_loosely(world: &mut World, op: &Op) {
    let window = op.window.to_string();
    let queue = world.queues.get(OFFICE).map(|stored| stored.state.clone());
    let held = queue.as_ref().and_then(|queue| queue.at_window(&window)).map(|ticket| ticket.ticket.clone());
    let command = match (op.what % 6, held) {
        (0 | 1, _) => Command::TakeTicket {
            purpose: Purpose::ALL[op.which % 4],
            service: String::new(),
            category: if op.which > 12 { "veterans" } else { "" }.into(),
        },
        (2, _) | (_, None) => Command::CallNext { window },
        (3, Some(ticket)) => Command::Begin { ticket, window },
        (4, Some(ticket)) => Command::PutOff { ticket, window, minutes: 5 },
        (_, Some(ticket)) => Command::Finish { ticket, window, outcome: VisitOutcome::Served },
    };
    let _ = world.queue(OFFICE, &command);
    let later = world.now_ms + op.pause_s * 1_000;
    world.advance_to(later);
}
