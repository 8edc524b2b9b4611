//! Golden bytes of what is written from level `QUEUE` on, as the runtime encodes it: one record a line, its name and its
//! bytes. What is there never changes and decodes for ever (rule 9); `UPDATE_GOLDENFILES=1` adds what is missing.
//! Records of release 0.2 are among the runtime's goldens.

use crate::world::origin;
use bincode::Options;
use okno_domain::{
    case,
    directory::{self, DayHours, OutsideSystem, PriorityCategory, QueueSettings, ServiceGroup, ServiceSlots},
    message::Message,
    queue::{
        self, BoardEntry, BoardState, Booking, BookingRef, BookingState, Closing, Counted, DayEnd, Desk,
        DeskState, Ending, Move, Moved, OutsideName, Purpose, Seen, Tally, Ticket, TicketRef, TicketState,
        Unattended, Work,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt::Debug, fs, path::Path, sync::Arc};

const AT_MS: i64 = 1_772_420_400_000;

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_varint_encoding()
}

#[derive(Default)]
struct Samples(BTreeMap<String, String>);

impl Samples {
    fn add<T: Serialize + DeserializeOwned + PartialEq + Debug>(&mut self, name: &str, value: &T) {
        let bytes = options().serialize(value).expect("small");
        let again: T = options().deserialize(&bytes).expect("what was encoded can be decoded");
        assert_eq!(&again, value);
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(self.0.insert(name.into(), hex), None, "{name} twice");
    }
}

fn name() -> TicketRef {
    TicketRef { day: "2026-03-02".parse().expect("a date"), number: "А015".into() }
}

fn booking_name() -> BookingRef {
    BookingRef { day: "2026-03-02".parse().expect("a date"), code: "052916".into() }
}

fn ticket(state: TicketState) -> Arc<Ticket> {
    Arc::new(Ticket {
        ticket: name(),
        purpose: Purpose::Apply,
        service: "paper".into(),
        category: "veterans".into(),
        priority: true,
        group: 'Б',
        sequence: 300,
        taken_ms: AT_MS,
        wait_from_ms: AT_MS + 1,
        rank_ms: AT_MS - 1_800_000,
        at_head: true,
        state,
        calls: 2,
        put_offs: 1,
        redirects: 3,
        revision: 9,
        called_first_ms: Some(AT_MS + 60_000),
        served_before_ms: 5_000,
        bound: "12А".into(),
        officer: "anna".into(),
        taken_by: "kiosk/kiosk-1".into(),
        booking: Some(booking_name()),
        outside: Some(OutsideName { system: "eq".into(), number: "17".into() }),
        cases: vec!["1dda53ae-6c04-8f6c-90f3-706c968e1c59".into()],
    })
}

fn settings() -> QueueSettings {
    QueueSettings {
        office: "tikhaya".into(),
        groups: vec![ServiceGroup {
            letter: "Ж".into(),
            name: "Земля".into(),
            services: vec!["paper".into()],
        }],
        categories: vec![PriorityCategory { code: "veterans".into(), weight: 100 }],
        hours: vec![DayHours { weekday: 1, opens_minute: 480, closes_minute: 1_200 }],
        closed_days: vec!["2026-05-09".parse().expect("a date")],
        outside: vec![OutsideSystem { system: "eq".into(), connectors: vec!["eq-1".into()] }],
        booking: directory::BookingSettings {
            services: vec![ServiceSlots { service: "paper".into(), step_minutes: 30 }],
            ..directory::BookingSettings::default()
        },
        ..QueueSettings::default()
    }
}

fn samples() -> Samples {
    let mut all = Samples::default();
    let counted = Counted {
        day: name().day,
        hour: 10,
        service: "paper".into(),
        window: "1".into(),
        officer: "anna".into(),
        ending: Ending::Served,
        wait_ms: Some(61_000),
        service_ms: Some(400_000),
        in_norm: true,
    };
    let states = [
        TicketState::Waiting,
        TicketState::Called { window: "1".into(), called_ms: AT_MS },
        TicketState::InService { window: "1".into(), called_ms: AT_MS, begun_ms: AT_MS + 1 },
        TicketState::Finished {
            window: "1".into(),
            called_ms: AT_MS,
            begun_ms: Some(AT_MS + 1),
            finished_ms: AT_MS + 2,
        },
        TicketState::PutOff { until_ms: AT_MS + 600_000 },
        TicketState::Closed { closed_ms: AT_MS, why: Closing::DayOver },
        TicketState::Closed { closed_ms: AT_MS, why: Closing::DayOverInService },
        TicketState::Closed { closed_ms: AT_MS, why: Closing::Left },
    ];
    for (n, state) in states.into_iter().enumerate() {
        all.add(&format!("queue part visit {n}"), &queue::Part::Visit(ticket(state)));
    }
    for what in [
        Move::Taken,
        Move::Called,
        Move::CalledAgain,
        Move::Begun,
        Move::PutOff,
        Move::CameBack,
        Move::Redirected,
        Move::Bound,
        Move::Returned,
        Move::ReturnedToHead,
        Move::Finished,
        Move::DidNotCome,
        Move::Left,
        Move::DayOver,
        Move::CaseLinked,
    ] {
        let moved = Moved {
            ticket: ticket(TicketState::Waiting),
            what,
            window: "1".into(),
            board: 300,
            counted: (what == Move::Finished).then(|| Box::new(counted.clone())),
        };
        all.add(&format!("queue event moved {}", what.name()), &queue::Event::Moved(Box::new(moved)));
    }
    for (n, ending) in
        [Ending::Served, Ending::DidNotCome, Ending::Unserved, Ending::Left].into_iter().enumerate()
    {
        all.add(&format!("queue ending {n}"), &ending);
    }
    let desk = |state, unattended: Option<Unattended>| {
        Arc::new(Desk {
            window: "1".into(),
            day: name().day,
            state,
            changed_ms: AT_MS,
            officer: "anna".into(),
            leased: unattended.is_none(),
            unattended,
        })
    };
    let away = Unattended { since_ms: AT_MS, until_ms: AT_MS + 60_000, over: true };
    let desks = [
        desk(DeskState::Open, None),
        desk(DeskState::Break { until_ms: AT_MS }, None),
        desk(DeskState::Closed, Some(away)),
    ];
    for (n, desk) in desks.into_iter().enumerate() {
        all.add(&format!("queue part window {n}"), &queue::Part::Window(Arc::clone(&desk)));
        all.add(&format!("queue event window {n}"), &queue::Event::WindowChanged(Arc::clone(&desk)));
        all.add(&format!("queue reply window {n}"), &queue::Reply::Window(desk));
    }
    let bookings = [
        BookingState::Booked,
        BookingState::Cancelled { at_ms: AT_MS },
        BookingState::Came { at_ms: AT_MS, ticket: name(), late: true },
        BookingState::Lapsed { at_ms: AT_MS },
    ];
    for (n, state) in bookings.into_iter().enumerate() {
        let booking = Arc::new(Booking {
            booking: booking_name(),
            purpose: Purpose::AskStatus,
            service: String::new(),
            category: String::new(),
            slot_ms: AT_MS,
            lapses_ms: AT_MS + 600_000,
            reference: "17/2".into(),
            booked_ms: AT_MS - 1,
            booked_by: origin("portal", "region", "").principal,
            state,
        });
        all.add(&format!("queue part booking {n}"), &queue::Part::Booking(Arc::clone(&booking)));
        all.add(&format!("queue event booking {n}"), &queue::Event::BookingChanged(Arc::clone(&booking)));
        all.add(&format!("queue reply booking {n}"), &queue::Reply::Booking(booking));
    }
    for (n, state) in [BoardState::Called, BoardState::Serving, BoardState::Gone].into_iter().enumerate() {
        let entry =
            BoardEntry { sequence: 300, ticket: name(), window: "1".into(), state, calls: 2, at_ms: AT_MS };
        all.add(&format!("queue part board {n}"), &queue::Part::Board(Arc::new(entry)));
    }
    let mut tally = Tally::default();
    tally.count(&counted);
    all.add("queue part tally", &queue::Part::Tally(Arc::new(tally)));
    let seen = Arc::new(Seen {
        day: name().day,
        system: "eq".into(),
        id: "1".into(),
        ticket: Some(name()),
        happened_ms: AT_MS,
    });
    all.add("queue part seen", &queue::Part::Seen(Arc::clone(&seen)));
    all.add("queue event outside", &queue::Event::OutsideTaken(seen));
    let work = Arc::new(Work { case: "1dda53ae".into(), officer: "anna".into(), since_ms: AT_MS });
    all.add("queue part work", &queue::Part::Work(Arc::clone(&work)));
    all.add("queue event case given", &queue::Event::CaseGiven(work));
    all.add("queue event case left", &queue::Event::CaseLeft { case: "1dda53ae".into() });
    let end = Arc::new(DayEnd { day: name().day, closed_ms: AT_MS });
    all.add("queue part day", &queue::Part::Day(Arc::clone(&end)));
    all.add("queue event day closed", &queue::Event::DayClosed(end));
    let parts = vec!["stats:d:2026-03-02:all".to_owned()];
    all.add("queue event folded", &queue::Event::StatisticsFolded { parts: parts.clone() });
    all.add("queue event cleared", &queue::Event::Cleared { parts });
    all.add("queue event woke", &queue::Event::Woke);
    all.add("queue reply given", &queue::Reply::Given { ticket: ticket(TicketState::Waiting), ahead: 7 });
    all.add("queue reply shown", &queue::Reply::Shown(ticket(TicketState::Waiting)));
    all.add("queue reply day closed", &queue::Reply::DayClosed { left: 3 });
    all.add("queue reply outside", &queue::Reply::Outside(Some(ticket(TicketState::Waiting))));
    all.add("queue reply outside none", &queue::Reply::Outside(None));

    let settings = Arc::new(settings());
    all.add("directory part settings", &directory::Part::QueueSettings(Arc::clone(&settings)));
    all.add("directory event settings", &directory::Event::QueueSettingsPut(settings));

    let assignment = Arc::new(case::Assignment { officer: "anna".into(), since_ms: AT_MS, by_load: true });
    all.add("case part officer", &case::Part::Officer(Arc::clone(&assignment)));
    all.add("case event officer", &case::Event::OfficerSet(assignment));
    let taken = case::Reply::TakenOver { officer: "boris".into(), before: "anna".into() };
    all.add("case reply taken over", &taken);
    for message in [
        Message::OfficerWanted,
        Message::OfficerGiven { officer: "anna".into() },
        Message::OfficerTook { officer: "anna".into() },
        Message::CaseDone,
        Message::OfficerNoted,
    ] {
        all.add(&format!("message {}", message.name()), &message);
    }
    all
}

#[test]
fn what_is_written_stays_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/level-3.hex");
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let mut kept: BTreeMap<String, String> = kept
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, hex)| (name.to_owned(), hex.to_owned()))
        .collect();
    let fresh = samples().0;
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        for (name, hex) in &fresh {
            kept.entry(name.clone()).or_insert_with(|| hex.clone());
        }
        let text: String = kept.iter().map(|(name, hex)| format!("{name} {hex}\n")).collect();
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder is writable");
        fs::write(&path, text).expect("the golden file is writable");
    }
    for (name, hex) in &kept {
        assert_eq!(
            Some(hex),
            fresh.get(name),
            "{name}: the bytes changed; that takes a new variant or version"
        );
    }
    assert_eq!(kept.len(), fresh.len(), "a record without golden bytes; run with UPDATE_GOLDENFILES=1");
}
