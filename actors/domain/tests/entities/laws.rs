//! The laws of entities under random histories. The world checks them at every commit; here are the histories,
//! and what must hold whatever happened.

use crate::world::{OFFSET_MINUTES, World, origin};
use okno_domain::{
    case::{self, Case, DocumentForm, Event, Life, State, Step, life},
    catalogue::{DayKind, Term},
    directory::{self, Office, Person, Role, Window},
    entity::{Entity, EventMeta, Kind},
    level,
    message::{Message, MessageRole},
    people::{self, Applicant, PersonName},
    queue::{self, Purpose, TicketRef, TicketState, VisitOutcome},
    rows::Table,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Bytes of a root that every commit of a case writes again.
const CASE_ROOT_BYTES_MAX: usize = 1_024;

pub fn person() -> Applicant {
    Applicant::Person(people::Person {
        name: PersonName {
            last_name: "Образцов".into(),
            first_name: "Пётр".into(),
            middle_name: "Примерович".into(),
        },
        snils: "112-233-445 95".into(),
        ..people::Person::default()
    })
}

fn open(ticket: Option<TicketRef>) -> case::Command {
    case::Command::Open {
        office: "tikhaya".into(),
        service: "paper".into(),
        applicants: vec![person()],
        ticket,
        note: String::new(),
    }
}

fn document(note: String) -> case::Command {
    case::Command::AddDocument {
        kind: "passport".into(),
        form: DocumentForm::Copy,
        sheets: 2,
        reference: "0000 123456".into(),
        note,
    }
}

fn steps() -> impl Strategy<Value = Step> {
    let text = || Just("по заявлению".to_owned());
    prop_oneof![
        3 => Just(Step::Accept),
        2 => text().prop_map(|subject| Step::RequestInteragency { authority: "bureau".into(), subject }),
        2 => (1_u32..4, text()).prop_map(|(request, answer)| Step::InteragencyAnswered { request, answer }),
        3 => text().prop_map(|register_number| Step::SendToAuthority { register_number }),
        2 => proptest::option::of(0_u16..40).prop_map(|days| Step::Suspend {
            reason: "more-papers".into(),
            term: days.map(|days| Term { days, kind: DayKind::Calendar }),
        }),
        3 => text().prop_map(|note| Step::Resume { note }),
        2 => text().prop_map(|reference| Step::ReceiveResult { reference, note: String::new() }),
        1 => text().prop_map(|reason| Step::ReceiveRefusal { reason, reference: String::new() }),
        3 => text().prop_map(|note| Step::MakeReady { note }),
        1 => text().prop_map(|received_by| Step::Issue { received_by, paper_copy: true }),
        1 => text().prop_map(|reason| Step::Withdraw { reason }),
        2 => Just(Step::MarkUnclaimed),
        1 => Just(Step::Archive),
    ]
}

fn case_commands() -> impl Strategy<Value = case::Command> {
    prop_oneof![
        6 => steps().prop_map(|step| case::Command::Advance { step }),
        2 => "\\PC{0,80}".prop_map(document),
        1 => (1_u32..4).prop_map(|document| case::Command::RemoveDocument { document }),
        1 => Just(open(None)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// A case goes only where the table leads; its timers and rows are those of its state.
    #[test]
    fn cases_keep_the_laws(history in proptest::collection::vec((case_commands(), 0_i64..20), 1..40)) {
        let mut world = World::with_office();
        let (id, opened) = world.open(&open(None));
        opened.unwrap();
        for (command, days) in history {
            let before = world.cases[&id].state.clone();
            let result = world.case(&id, &command);
            let case = &world.cases[&id].state;
            match (&command, result) {
                (_, Err(refusal)) => {
                    prop_assert_eq!(case, &before, "refused with {} and yet changed", refusal.reason);
                }
                (case::Command::Advance { step }, Ok(_)) => {
                    prop_assert!(life::leads_to(before.state(), step.kind()).contains(&case.state()));
                    prop_assert_eq!(case.steps().len(), before.steps().len() + 1);
                }
                (_, Ok(_)) => prop_assert_eq!(case.state(), before.state()),
            }
            let open = case.requests().filter(|request| request.answered_ms.is_none()).count();
            prop_assert_eq!(open, case.head().requests_open as usize);
            let deadlines = case.rows(None).iter().filter(|row| row.table == Table::CaseByDeadline).count();
            prop_assert_eq!(deadlines == 1, case.state().term_runs());
            for (due, _, _) in world.timers() {
                prop_assert!(due > 0, "a timer out of time");
            }
            prop_assert!(world.cases[&id].root_bytes() <= CASE_ROOT_BYTES_MAX);
            let later = world.now_ms + days * 86_400_000;
            world.advance_to(later);
            let case = &world.cases[&id].state;
            // Whoever looks after a deadline finds it marked.
            if let (true, Some(due)) = (case.state().term_runs(), &case.head().due) {
                let today = okno_domain::time::local_date(world.now_ms, OFFSET_MINUTES);
                prop_assert_eq!(case.head().marks.deadline_passed_ms.is_some(), today > due.deadlines.ready.date);
            }
        }
    }

    /// Below its feature level a queue does what release 0.2 did: no number twice, nobody before their turn with
    /// priority before everybody, one ticket a window. What it does from that level on is in `queue_days`.
    #[test]
    fn queues_keep_the_laws(history in proptest::collection::vec((0_u8..8, 0_usize..12, any::<bool>(), 0_i64..6), 1..60)) {
        let mut world = World::with_office();
        world.level = level::QUEUE - 1;
        let mut given = BTreeSet::new();
        for (what, which, second, hours) in history {
            let window = if second { "2" } else { "1" }.to_owned();
            let known = |world: &World, at: usize| {
                let tickets: Vec<_> = world.queues.get("tikhaya")?.state.tickets().map(|t| t.ticket.clone()).collect();
                (!tickets.is_empty()).then(|| tickets[at % tickets.len()].clone())
            };
            match what {
                0..=2 => {
                    let purpose = Purpose::ALL[which % 4];
                    let service = if which % 3 == 0 { "paper" } else { "" }.to_owned();
                    let category = if which == 11 { "veterans" } else { "" }.to_owned();
                    let taken = world.queue("tikhaya", &queue::Command::TakeTicket { purpose, service, category });
                    let Ok(queue::Reply::Taken { ticket, .. }) = taken else { panic!("a good ticket: {taken:?}") };
                    prop_assert!(given.insert(ticket.ticket.clone()), "{:?} was given twice", ticket.ticket);
                }
                3..=4 => {
                    let waiting = |world: &World| -> Vec<_> {
                        let today = okno_domain::time::local_date(world.now_ms, OFFSET_MINUTES);
                        let Some(queue) = world.queues.get("tikhaya") else { return Vec::new() };
                        let tickets = queue.state.tickets().filter(|ticket| ticket.ticket.day == today);
                        tickets.filter(|t| t.state == TicketState::Waiting).map(|t| (!t.priority, t.sequence)).collect()
                    };
                    let first = waiting(&world).into_iter().min();
                    match world.queue("tikhaya", &queue::Command::CallNext { window }) {
                        Ok(queue::Reply::Ticket(ticket)) => {
                            prop_assert_eq!(Some((!ticket.priority, ticket.sequence)), first);
                        }
                        Ok(other) => prop_assert!(false, "{:?}", other),
                        Err(refusal) => prop_assert!(
                            refusal.reason == "WINDOW_BUSY" || (first.is_none() && refusal.reason == "QUEUE_EMPTY")
                        ),
                    }
                }
                5 => if let Some(ticket) = known(&world, which) {
                    let _ = world.queue("tikhaya", &queue::Command::Begin { ticket, window });
                },
                6 => if let Some(ticket) = known(&world, which) {
                    let outcome = if which % 2 == 0 { VisitOutcome::Served } else { VisitOutcome::NoShow };
                    let _ = world.queue("tikhaya", &queue::Command::Finish { ticket, window, outcome });
                },
                _ => if let Some(ticket) = known(&world, which) {
                    let (id, opened) = world.open(&open(Some(ticket.clone())));
                    opened.unwrap();
                    let linked = world.queues["tikhaya"].state.ticket(&ticket).unwrap().cases.contains(&id);
                    let answer = &world.cases[&id].state.head().ticket.as_ref().unwrap().answer;
                    prop_assert_eq!(linked, *answer == case::LinkAnswer::Linked);
                    prop_assert_ne!(answer, &case::LinkAnswer::Pending, "nobody answered");
                },
            }
            let later = world.now_ms + hours * 3_600_000;
            world.advance_to(later);
        }
    }

    #[test]
    fn the_directory_keeps_the_laws(history in proptest::collection::vec((0_u8..6, 0_usize..3, 0_usize..3), 1..60)) {
        let mut world = World::new();
        let code = |n: usize| format!("office-{n}");
        for (what, one, other) in history {
            let command = match what {
                0 => directory::Command::PutOffice(Office { code: code(one), name: format!("МФЦ {other}"), ..Office::default() }),
                1 => directory::Command::PutWindow(Window {
                    office: code(one),
                    number: "1".into(),
                    ticket_groups: Vec::new(),
                    workstation: if other == 0 { String::new() } else { format!("ws-{other}") },
                }),
                2 => directory::Command::PutPerson(Person {
                    id: format!("person-{one}"),
                    name: "Образцова".into(),
                    role: Role::Officer,
                    offices: vec![code(other)],
                }),
                3 => directory::Command::RemoveOffice { code: code(one) },
                4 => directory::Command::RemoveWindow { office: code(one), number: "1".into() },
                _ => directory::Command::RemovePerson { id: format!("person-{one}") },
            };
            let before = world.directory.state.clone();
            match world.directory(&command) {
                Ok(directory::Reply::Version(version)) => {
                    prop_assert_eq!(version, world.directory.state.version());
                    prop_assert_eq!(version == before.version(), before == world.directory.state);
                }
                Ok(reply) => prop_assert!(false, "{:?}", reply),
                Err(_) => prop_assert_eq!(&before, &world.directory.state),
            }
            let directory = &world.directory.state;
            for office in 0..3 {
                for window in directory.windows(&code(office)) {
                    prop_assert!(directory.office(&window.office).is_some(), "a window without its office");
                    if !window.workstation.is_empty() {
                        prop_assert_eq!(directory.window_of(&window.workstation), Some(window));
                    }
                }
            }
        }
    }
}

/// What adding a document may cost (design §9): no index row, no timer, no message, a small root.
#[test]
fn a_document_changes_no_index_row() {
    let mut world = World::with_office();
    let (id, opened) = world.open(&open(None));
    opened.unwrap();
    let before = world.cases[&id].rows();
    for n in 0..100 {
        world.case(&id, &document(format!("{n:01000}"))).unwrap();
    }
    let after = world.cases[&id].rows();
    assert_eq!(before[&None], after[&None]);
    assert!(after.values().map(Vec::len).sum::<usize>() <= 4);
    assert!(world.timers().is_empty() && world.log.is_empty());
    assert!(world.cases[&id].root_bytes() <= CASE_ROOT_BYTES_MAX);
}

#[test]
fn documents_are_bounded() {
    let mut world = World::with_office();
    let (id, opened) = world.open(&open(None));
    opened.unwrap();
    let mut case: Case = world.cases[&id].state.clone();
    // Folding one document with the highest number is as good as five hundred commands.
    let meta = EventMeta { time_ms: world.now_ms, origin: origin("operator", "anna", "") };
    case.evolve(&Event::DocumentAdded(std::sync::Arc::new(highest_document())), &meta);
    world.cases.get_mut(&id).unwrap().state = case;
    let refusal = world.case(&id, &document(String::new())).unwrap_err();
    assert_eq!(refusal.reason, "CASE_LIMIT");
}

fn highest_document() -> case::Document {
    case::Document {
        number: case::DOCUMENTS_MAX,
        kind: "passport".into(),
        form: DocumentForm::Copy,
        sheets: 1,
        reference: String::new(),
        note: String::new(),
        added_ms: 0,
        added_by: origin("operator", "anna", "").principal,
    }
}

/// Calling among thousands walks over groups, not over visitors.
#[test]
fn calling_among_five_thousand_goes_by_turn() {
    let mut world = World::with_office();
    let mut queue = queue::Queue::empty("tikhaya");
    let meta = EventMeta { time_ms: world.now_ms, origin: world.origin.clone() };
    let day: jiff::civil::Date = "2026-03-02".parse().unwrap();
    for n in 0..5_000_u64 {
        let letter = ['А', 'Б', 'В', 'Г', 'Д', 'Е'][(n % 6) as usize];
        let ticket = queue::TicketV1 {
            ticket: TicketRef { day, number: format!("{letter}{:03}", n / 6 + 1) },
            purpose: Purpose::Apply,
            service: String::new(),
            category: String::new(),
            priority: n == 4_321,
            sequence: n + 1,
            taken_ms: world.now_ms,
            state: TicketState::Waiting,
            cases: Vec::new(),
        };
        queue.evolve(&queue::Event::TicketTaken(std::sync::Arc::new(ticket)), &meta);
    }
    assert_eq!(queue.waiting_count(), 5_000);
    let this = okno_domain::entity::EntityRef { kind: Kind::Queue, id: "tikhaya".into() };
    let mut called = Vec::new();
    for _ in 0..5_000 {
        let context = okno_domain::entity::Context {
            this: &this,
            now_ms: world.now_ms,
            origin: &world.origin,
            request_id: uuid::Uuid::nil(),
            catalogue: &world.catalogue,
            directory: &world.directory.state,
            level: level::QUEUE - 1,
            fence: Default::default(),
        };
        let decision = queue.decide(&queue::Command::CallNext { window: "1".into() }, &context).unwrap();
        let queue::Reply::Ticket(ticket) = decision.reply else { panic!("a call answers with the ticket") };
        queue.evolve(&decision.events[0], &meta);
        let outcome = VisitOutcome::NoShow;
        let finish = queue::Command::Finish { ticket: ticket.ticket.clone(), window: "1".into(), outcome };
        let decision = queue.decide(&finish, &context).unwrap();
        queue.evolve(&decision.events[0], &meta);
        called.push(ticket.sequence);
        world.now_ms += 1;
    }
    let mut expected: Vec<u64> = (1..=5_000).filter(|sequence| *sequence != 4_322).collect();
    expected.insert(0, 4_322);
    assert_eq!(called, expected);
}

#[test]
fn requests_have_answers() {
    let ticket = TicketRef { day: "2026-03-02".parse().unwrap(), number: "А001".into() };
    let asked = Message::CaseOpened { ticket: ticket.clone() };
    assert_eq!(asked.role(), MessageRole::Request);
    assert_eq!(Message::TicketLinked { ticket }.role(), MessageRole::Answer);
    assert_eq!(
        Message::Refused { reason: "TICKET_UNKNOWN".into(), of: Box::new(asked) }.role(),
        MessageRole::Answer
    );
    let officer = String::from("anna");
    for (request, answer) in [
        (Message::OfficerWanted, Message::OfficerGiven { officer: officer.clone() }),
        (Message::OfficerTook { officer }, Message::OfficerNoted),
        (Message::CaseDone, Message::OfficerNoted),
    ] {
        assert_eq!((request.role(), answer.role()), (MessageRole::Request, MessageRole::Answer));
    }
}

/// The states that are ends for the visitor keep no timer behind.
#[test]
fn ended_cases_have_no_timers() {
    for end in ["issue", "withdraw"] {
        let mut world = World::with_office();
        let (id, opened) = world.open(&open(None));
        opened.unwrap();
        let mut go = |step: Step| world.case(&id, &case::Command::Advance { step }).unwrap();
        go(Step::Accept);
        if end == "withdraw" {
            go(Step::Withdraw { reason: "передумал".into() });
        } else {
            go(Step::SendToAuthority { register_number: "1".into() });
            go(Step::ReceiveResult { reference: "1".into(), note: String::new() });
            go(Step::MakeReady { note: String::new() });
            go(Step::Issue { received_by: "Образцов".into(), paper_copy: false });
        }
        assert!(world.timers().is_empty(), "{end} leaves {:?}", world.timers());
        let case = &world.cases[&id].state;
        assert!(matches!(case.head().life, Life::Issued { .. } | Life::Withdrawn { .. }));
        assert_eq!(case.rows(None).len(), 3, "two lists and the applicant's");
        assert_ne!(case.state(), State::Accepted);
    }
}

/// A hundred thousand idle cases are to fit 300 MB with their actors: what one holds on the stack of its box and
/// on the heap. Encoded bytes stand for the contents of texts.
#[test]
fn a_resident_case_is_small() {
    let mut world = World::with_office();
    let (id, opened) = world.open(&open(None));
    opened.unwrap();
    let fixed = size_of::<Case>() + size_of::<case::Root>() + size_of::<Applicant>();
    let texts = world.cases[&id].root_bytes() + bincode::serialize(&person()).unwrap().len();
    assert!(fixed + texts <= 1_800, "{fixed} bytes and {texts} of texts");
}

/// Details of a refusal may be the caller's own text.
#[test]
fn refusals_stay_small() {
    let mut world = World::with_office();
    let case::Command::Open { office, applicants, ticket, note, .. } = open(None) else { unreachable!() };
    let service = "ы".repeat(100_000);
    let (_, opened) = world.open(&case::Command::Open { office, service, applicants, ticket, note });
    let refusal = opened.unwrap_err();
    assert_eq!(
        (refusal.reason.as_str(), refusal.details["service"].chars().count()),
        ("SERVICE_UNKNOWN", 301)
    );
}

/// Notes by which a build for tests is made to panic mean nothing in any other build.
#[test]
fn only_a_build_for_tests_panics_on_purpose() {
    let mut world = World::with_office();
    let (id, opened) = world.open(&open(None));
    opened.unwrap();
    for note in ["test-faults: panic in decide", "test-faults: panic in evolve"] {
        let added = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.case(&id, &document(note.into()))
        }));
        assert_eq!(added.is_err(), cfg!(feature = "test-faults"), "{note}");
    }
}
