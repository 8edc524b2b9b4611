//! What the judge of an office believes, and what it does not.

use super::*;

const B: i64 = 60_000;

fn name(number: &str) -> TicketName {
    TicketName { day: 20_260_302, number: number.into() }
}

fn ticket(number: &str, since_ms: i64, revision: u32, stand: Stand) -> Ticket {
    let (bound, outside) = (String::new(), None);
    Ticket { name: name(number), group: 'А', since_ms, bound, at_head: false, revision, stand, outside }
}

fn moved(ticket: Ticket, what: Move) -> Happened {
    Happened::Moved { ticket, what, by_number: false }
}

fn hall() -> Hall {
    let windows = BTreeMap::from([("1".to_owned(), vec![]), ("2".to_owned(), vec!['А'])]);
    let outside = BTreeMap::from([("elq".to_owned(), BTreeSet::from(["elq-1".to_owned()]))]);
    Hall::new(Rules { fairness_ms: B, windows, outside })
}

/// Everything of it happened, a second apart; what broke.
fn broken(hall: &mut Hall, all: impl IntoIterator<Item = Happened>) -> Vec<Invariant> {
    for (second, what) in (1..).zip(all) {
        hall.happened(second * 1_000, what);
    }
    hall.take_breaches().into_iter().map(|(id, _)| id).collect()
}

fn at(window: &str) -> Stand {
    Stand::Called(window.into())
}

fn taken(number: &str, since_ms: i64) -> Happened {
    moved(ticket(number, since_ms, 1, Stand::Waiting), Move::Taken)
}

fn window(unattended: Option<Unattended>) -> Happened {
    Happened::Window(Window { number: "1".into(), unattended, leased: unattended.is_none() })
}

#[test]
fn a_visit_is_believed() {
    let mut hall = hall();
    let visit = [
        taken("А001", 0),
        moved(ticket("А001", 0, 2, at("1")), Move::Called),
        moved(ticket("А001", 0, 3, Stand::PutOff { until_ms: 4_000 }), Move::PutOff),
        moved(ticket("А001", 0, 4, Stand::Waiting), Move::CameBack),
        moved(ticket("А001", 0, 5, at("1")), Move::Called),
        moved(ticket("А001", 0, 6, Stand::InService("1".into())), Move::Begun),
        moved(ticket("А001", 0, 7, Stand::Ended), Move::Finished),
    ];
    assert_eq!(broken(&mut hall, visit), []);
    hall.told(&name("А001"), 7);
    let held = Held {
        node: 1,
        tickets: vec![ticket("А001", 0, 7, Stand::Ended)],
        day: 20_260_302,
        ..Held::default()
    };
    hall.held(&held, 9_000);
    assert_eq!(hall.take_breaches(), []);
    hall.happened(10_000, Happened::Swept(vec![name("А001")]));
    hall.told(&name("А001"), 7);
    hall.held(&Held { tickets: Vec::new(), ..held }, 11_000);
    assert_eq!(hall.take_breaches(), []);
    assert_eq!((hall.facts().served, hall.facts().came_back), (1, 1));
}

#[test]
fn numbers_given_twice_or_left_out_are_seen() {
    assert_eq!(broken(&mut hall(), [taken("А001", 0), taken("А002", 0)]), []);
    let twice = broken(&mut hall(), [taken("А001", 0), taken("А001", 0)]);
    assert!(twice.contains(&Invariant::NumbersUnique));
    assert_eq!(broken(&mut hall(), [taken("А002", 0)]), [Invariant::NumbersUnique]);
}

#[test]
fn who_is_served_twice_or_with_another_is_seen() {
    let served = || {
        [
            taken("А001", 0),
            moved(ticket("А001", 0, 2, at("1")), Move::Called),
            moved(ticket("А001", 0, 3, Stand::InService("1".into())), Move::Begun),
            moved(ticket("А001", 0, 4, Stand::Ended), Move::Finished),
        ]
    };
    let again = moved(ticket("А001", 0, 5, at("2")), Move::Called);
    assert_eq!(broken(&mut hall(), served().into_iter().chain([again])), [Invariant::TicketOnce]);
    let two = [
        taken("А001", 0),
        taken("А002", 0),
        moved(ticket("А001", 0, 2, at("1")), Move::Called),
        moved(ticket("А002", 0, 2, at("1")), Move::Called),
    ];
    assert_eq!(broken(&mut hall(), two), [Invariant::TicketOnce]);
    let other = [
        taken("А001", 0),
        moved(ticket("А001", 0, 2, at("1")), Move::Called),
        moved(ticket("А001", 0, 3, Stand::InService("2".into())), Move::Begun),
    ];
    assert_eq!(broken(&mut hall(), other), [Invariant::TicketOnce]);
}

#[test]
fn who_is_passed_over_beyond_the_bound_is_seen() {
    let pass = |later_ms, by_number| {
        let ticket = ticket("А002", later_ms, 2, at("1"));
        let mut hall = hall();
        broken(
            &mut hall,
            [
                taken("А001", 0),
                taken("А002", later_ms),
                Happened::Moved { ticket, what: Move::Called, by_number },
            ],
        )
    };
    assert_eq!(pass(B, false), []);
    assert_eq!(pass(B + 1, false), [Invariant::FairTurn]);
    assert_eq!(pass(B + 1, true), [], "out of turn is out of turn");
    // Nobody the window serves is passed over.
    let mut other = ticket("Б001", 0, 1, Stand::Waiting);
    other.group = 'Б';
    let call = moved(ticket("А001", 2 * B, 2, at("2")), Move::Called);
    assert_eq!(broken(&mut hall(), [moved(other, Move::Taken), taken("А001", 2 * B), call]), []);
}

#[test]
fn who_does_not_come_back_or_comes_early_is_seen() {
    let off = |until_ms| {
        [
            taken("А001", 0),
            moved(ticket("А001", 0, 2, at("1")), Move::Called),
            moved(ticket("А001", 0, 3, Stand::PutOff { until_ms }), Move::PutOff),
        ]
    };
    let back = moved(ticket("А001", 0, 4, Stand::Waiting), Move::CameBack);
    assert_eq!(broken(&mut hall(), off(60_000).into_iter().chain([back])), [Invariant::DeferredBack]);
    let mut hall = hall();
    assert_eq!(broken(&mut hall, off(60_000)), []);
    let tickets = vec![ticket("А001", 0, 3, Stand::PutOff { until_ms: 60_000 })];
    let held = Held { node: 1, tickets, day: 20_260_302, ..Held::default() };
    hall.held(&held, 61_000);
    assert_eq!(hall.take_breaches(), []);
    hall.held(&held, 70_000);
    assert_eq!(hall.take_breaches()[0].0, Invariant::DeferredBack);
}

#[test]
fn a_window_that_nobody_attends_calls_nobody_and_gives_its_visitor_back() {
    let left = |over| Some(Unattended { until_ms: 4_000, over });
    let head = Ticket { at_head: true, ..ticket("А001", 0, 3, Stand::Waiting) };
    let lost = || {
        [
            taken("А001", 0),
            moved(ticket("А001", 0, 2, at("1")), Move::Called),
            window(left(false)),
            window(left(true)),
        ]
    };
    let back = || moved(head.clone(), Move::ReturnedToHead);
    let good = lost().into_iter().chain([back(), window(None)]);
    assert_eq!(broken(&mut hall(), good), []);
    let early =
        [taken("А001", 0), moved(ticket("А001", 0, 2, at("1")), Move::Called), window(left(false)), back()];
    assert_eq!(broken(&mut hall(), early), [Invariant::WindowAttended]);
    let called = lost().into_iter().chain([back(), moved(ticket("А001", 0, 4, at("1")), Move::Called)]);
    assert_eq!(broken(&mut hall(), called), [Invariant::WindowAttended]);
    let passed = lost().into_iter().chain([
        back(),
        taken("А002", 0),
        moved(ticket("А002", 0, 2, at("2")), Move::Called),
    ]);
    assert_eq!(broken(&mut hall(), passed), [Invariant::WindowAttended]);
    let anew = [window(left(false)), window(Some(Unattended { until_ms: 9_000, over: false }))];
    assert_eq!(broken(&mut hall(), anew), [Invariant::WindowAttended]);
}

#[test]
fn what_the_store_lost_or_made_up_is_seen() {
    let mut hall = hall();
    assert_eq!(broken(&mut hall, [taken("А001", 0)]), []);
    let day = 20_260_302;
    let held = Held {
        node: 1,
        tickets: vec![ticket("А001", 0, 1, Stand::Waiting)],
        order: vec![name("А001")],
        day,
        windows: Vec::new(),
    };
    hall.held(&held, 5_000);
    assert_eq!(hall.take_breaches(), []);
    for wrong in [
        Held { node: 1, day, ..Held::default() },
        Held { order: Vec::new(), ..held.clone() },
        Held { tickets: vec![ticket("А001", 0, 2, at("1"))], ..held.clone() },
        Held {
            tickets: vec![ticket("А001", 0, 1, Stand::Waiting), ticket("А002", 0, 1, Stand::Ended)],
            ..held.clone()
        },
    ] {
        hall.held(&wrong, 5_000);
        assert!(hall.take_breaches().iter().any(|(id, _)| *id == Invariant::TicketKept), "{wrong:?}");
    }
    hall.told(&name("А009"), 1);
    hall.told(&name("А001"), 2);
    hall.happened(6_000, Happened::Swept(vec![name("А001")]));
    assert_eq!(hall.take_breaches().len(), 3, "unknown, ahead, and archived without an end");
}

#[test]
fn a_slot_is_one_visitors() {
    let slot = |booking: &str, stand| {
        Happened::Slot(Slot { booking: booking.into(), service: "paper".into(), slot_ms: 7, stand })
    };
    let good = [
        slot("1", SlotStand::Booked),
        slot("1", SlotStand::Cancelled),
        slot("2", SlotStand::Booked),
        taken("А001", 0),
        slot("2", SlotStand::Came(name("А001"))),
    ];
    assert_eq!(broken(&mut hall(), good), []);
    let twice = [slot("1", SlotStand::Booked), slot("2", SlotStand::Booked)];
    assert_eq!(broken(&mut hall(), twice), [Invariant::SlotOnce]);
    let again = [
        taken("А001", 0),
        slot("1", SlotStand::Booked),
        slot("1", SlotStand::Came(name("А001"))),
        slot("1", SlotStand::Came(name("А001"))),
    ];
    assert_eq!(broken(&mut hall(), again), [Invariant::SlotOnce]);
}

mod from_outside {
    use super::super::{outside::*, *};

    const DAY: Day = 20_260_228;

    fn name(number: &str) -> TicketName {
        TicketName { day: DAY, number: number.into() }
    }

    fn told(by: &str, event: &str) -> Telling {
        Telling { by: by.into(), event: ("elq".into(), event.into()), ticket: "v1".into() }
    }

    fn took(event: &str, day: Day) -> Taken {
        Taken { day, event: ("elq".into(), event.into()), ticket: Some(name("А001")) }
    }

    /// A visitor whom the outside system registered.
    fn registered() -> Hall {
        let mut hall = super::hall();
        let outside = Some(("elq".to_owned(), "v1".to_owned()));
        let ticket = Ticket { name: name("А001"), outside, ..super::ticket("А001", 0, 1, Stand::Waiting) };
        hall.happened(1_000, super::moved(ticket, Move::Taken));
        hall.told_by_outside(Some(&told("elq-1", "e1")), &[took("e1", DAY)]);
        assert_eq!(hall.take_breaches(), []);
        hall
    }

    fn broken(hall: &mut Hall) -> Vec<Invariant> {
        hall.take_breaches().into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn what_was_taken_is_answered_with_its_ticket() {
        let mut hall = registered();
        hall.answered_outside(&told("elq-1", "e1"), Some(&name("А001")));
        assert_eq!(hall.take_breaches(), []);
        hall.answered_outside(&told("elq-1", "e1"), Some(&name("А002")));
        assert_eq!(broken(&mut hall), [Invariant::OutsideOnce], "another ticket");
        hall.answered_outside(&told("elq-1", "e2"), None);
        assert_eq!(broken(&mut hall), [Invariant::OutsideOnce], "never taken");
    }

    #[test]
    fn an_event_taken_twice_is_seen() {
        let again = |day| {
            let mut hall = registered();
            hall.told_by_outside(Some(&told("elq-1", "e1")), &[took("e1", day)]);
            broken(&mut hall)
        };
        assert_eq!(again(DAY), [Invariant::OutsideOnce]);
        assert_eq!(again(20_260_301), [Invariant::OutsideOnce], "the day after, which begins a month");
        assert_eq!(again(20_260_302), [], "forgotten by then");
        // A name stands for one ticket a day.
        let mut hall = registered();
        let outside = Some(("elq".to_owned(), "v1".to_owned()));
        let ticket = Ticket { name: name("А002"), outside, ..super::ticket("А002", 0, 1, Stand::Waiting) };
        hall.happened(2_000, super::moved(ticket, Move::Taken));
        assert_eq!(broken(&mut hall), [Invariant::OutsideOnce]);
    }

    #[test]
    fn who_may_not_speak_and_effects_without_their_event_are_seen() {
        let mut hall = registered();
        hall.told_by_outside(Some(&told("stranger", "e2")), &[took("e2", DAY)]);
        assert_eq!(broken(&mut hall), [Invariant::Refused]);
        hall.told_by_outside(Some(&told("elq-1", "e3")), &[]);
        assert_eq!(broken(&mut hall), [Invariant::OutsideOnce], "it will be taken again");
        hall.told_by_outside(None, &[took("e4", DAY)]);
        assert_eq!(broken(&mut hall), [Invariant::OutsideOnce], "nobody told it");
        let other = Taken { ticket: Some(name("А007")), ..took("e5", DAY) };
        hall.told_by_outside(Some(&told("elq-1", "e5")), &[other]);
        assert_eq!(broken(&mut hall), [Invariant::OutsideOnce], "of another ticket");
    }

    #[test]
    fn who_is_told_all_knows_where_everybody_is() {
        let tell = |hall: &mut Hall, revision: u32, stand| {
            let id = format!("hall:2026-02-28:А001:{revision}");
            hall.tells_outside(Told { id, ticket: name("А001"), stand });
        };
        let mut hall = registered();
        tell(&mut hall, 1, Stand::Waiting);
        let ids = ["hall:2026-02-28:А001:1".to_owned()];
        hall.exported(1, &ids);
        assert_eq!(hall.take_breaches(), []);
        hall.exported(1, &[]);
        assert_eq!(broken(&mut hall), [Invariant::OutsideOnce], "the export leaves one out");
        tell(&mut hall, 1, Stand::Waiting);
        assert_eq!(broken(&mut hall), [Invariant::OutsideOnce], "one id twice");
        let mut hall = registered();
        tell(&mut hall, 1, Stand::Called("1".into()));
        hall.exported(1, &ids);
        assert_eq!(broken(&mut hall), [Invariant::OutsideOnce], "not where the visitor is");
    }
}
