//! The electronic queue through the public API (R-Q1 … R-Q13): a visit from its booking to the statistics, what bad input
//! gets, the hall board over the loss of a node, and an outside queue system.

use okno_client::{Board, BoardWatch, CallError, Class, v1 as proto};
use okno_tests::{
    cluster::{Cluster, bare, sibling},
    desk::{Desk, meta, reference},
    eventually, people,
    people::QUIET_OFFICE as OFFICE,
    queue,
};
use proto::{BoardState, OutsideKind, TicketState};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(30);

fn refused<T: std::fmt::Debug>(result: Result<T, CallError>) -> String {
    let error = result.expect_err("a rule says no");
    assert_eq!(error.class(), Class::Refused, "{error}");
    error.reason().to_owned()
}

fn ticket_of(desk: &Desk) -> impl Future<Output = Result<proto::Ticket, CallError>> {
    desk.take_ticket(OFFICE, people::SERVICE)
}

async fn call_number(desk: &Desk, ticket: &proto::Ticket, window: &str) -> Result<proto::Ticket, CallError> {
    let request = proto::CallNumberRequest {
        meta: None,
        office: OFFICE.into(),
        ticket: Some(reference(ticket)),
        window: window.into(),
    };
    Ok(desk.call(request).await?.ticket.expect("a ticket"))
}

async fn book(desk: &Desk, slot: prost_types::Timestamp) -> Result<proto::Booking, CallError> {
    let request = proto::BookSlotRequest {
        office: OFFICE.into(),
        purpose: proto::VisitPurpose::Apply.into(),
        service: people::SERVICE.into(),
        slot: Some(slot),
        reference: "портал 17".into(),
        ..proto::BookSlotRequest::default()
    };
    Ok(desk.call(request).await?.booking.expect("a booking"))
}

async fn slots(desk: &Desk, day: &str) -> Vec<prost_types::Timestamp> {
    let request = proto::ListSlotsRequest {
        read: None,
        office: OFFICE.into(),
        service: people::SERVICE.into(),
        day: day.into(),
    };
    desk.call(request).await.expect("slots are listed").slots
}

/// The office's date so many days from now: it is seven hours ahead.
fn date(days_ahead: i64) -> String {
    let now = jiff::Timestamp::try_from(SystemTime::now()).expect("a moment of our time");
    let today = jiff::tz::Offset::constant(7).to_datetime(now).date();
    (today + jiff::ToSpan::days(days_ahead)).to_string()
}

/// What an export of the office's journal says.
async fn export(desk: &Desk) -> Vec<proto::WatchQueueResponse> {
    let request = proto::WatchQueueRequest { office: OFFICE.into(), ..proto::WatchQueueRequest::default() };
    let mut stream = desk.client.watch_queue(None, request).await.expect("an export begins");
    let mut all = Vec::new();
    while let Some(response) = stream.message().await.expect("an export goes on to its end") {
        all.push(response);
    }
    all
}

#[tokio::test]
async fn a_day_in_the_hall_from_booking_to_statistics() {
    let cluster = Cluster::start(3).await;
    queue::settle(&cluster, |settings| settings.calls_before_no_show = Some(2)).await;
    let (officer, portal) = (cluster.officer(), cluster.desk("portal", "region"));

    // Appointments: a slot is one visitor's; cancelled it is free at once.
    let tomorrow = date(1);
    let free = slots(&portal, &tomorrow).await;
    let slot = free[free.len() / 2];
    let booked = book(&portal, slot).await.expect("a free slot");
    assert_eq!(refused(book(&portal, slot).await), "SLOT_TAKEN");
    assert!(!slots(&portal, &tomorrow).await.contains(&slot));
    let check_in =
        proto::CheckInRequest { meta: None, office: OFFICE.into(), booking: booked.booking.clone() };
    let kiosk = cluster.desk("kiosk", "hall-tikhaya");
    assert_eq!(refused(kiosk.call(check_in).await), "BOOKING_EARLY");
    let cancel =
        proto::CancelBookingRequest { meta: None, office: OFFICE.into(), booking: booked.booking.clone() };
    let cancelled = portal.call(cancel).await.expect("in time").booking.expect("a booking");
    assert_eq!(cancelled.state(), proto::BookingState::Cancelled);
    assert!(slots(&portal, &tomorrow).await.contains(&slot));
    let list = proto::ListBookingsRequest { office: OFFICE.into(), ..proto::ListBookingsRequest::default() };
    assert_eq!(officer.call(list).await.expect("listed").bookings, [cancelled]);

    // One visitor is sent on and put off, one does not come, one leaves, one is bound to a window.
    let first = ticket_of(&officer).await.expect("a ticket");
    let second = ticket_of(&officer).await.expect("a ticket");
    let third = ticket_of(&officer).await.expect("a ticket");
    let fourth = ticket_of(&officer).await.expect("a ticket");
    let bind = proto::BindTicketRequest {
        meta: None,
        office: OFFICE.into(),
        ticket: Some(reference(&first)),
        window: "2".into(),
    };
    let open = proto::OpenWindowRequest { meta: None, office: OFFICE.into(), window: "2".into() };
    officer.call(open).await.expect("the window opens");
    officer.call(bind).await.expect("the ticket is bound");
    let called = officer.call_next(OFFICE, "1").await.expect("the second");
    assert_eq!(called.number, second.number, "the first waits for its window");
    let no_show = || proto::FinishServiceRequest {
        meta: None,
        office: OFFICE.into(),
        ticket: Some(reference(&second)),
        window: "1".into(),
        outcome: proto::VisitOutcome::NoShow.into(),
    };
    assert_eq!(refused(officer.call(no_show()).await), "CALLS_TOO_FEW");
    let again = proto::CallAgainRequest {
        meta: None,
        office: OFFICE.into(),
        ticket: Some(reference(&second)),
        window: "1".into(),
    };
    officer.call(again).await.expect("called once more");
    officer.call(no_show()).await.expect("twice is enough");
    let leave =
        proto::LeaveQueueRequest { meta: None, office: OFFICE.into(), ticket: Some(reference(&third)) };
    officer.call(leave).await.expect("a visitor may go");
    let called = officer.call_next(OFFICE, "2").await.expect("the first");
    assert_eq!(called.number, first.number);
    officer.begin(&first, "2").await.expect("the visitor came");
    let redirect = proto::RedirectTicketRequest {
        meta: None,
        office: OFFICE.into(),
        ticket: Some(reference(&first)),
        window: "2".into(),
        to: Some(proto::redirect_ticket_request::To::ToWindow("1".into())),
    };
    officer.call(redirect).await.expect("the visitor is sent on");
    let called = officer.call_next(OFFICE, "1").await.expect("the first");
    assert_eq!(called.number, first.number, "keeps number and place");
    let put_off = proto::PutOffTicketRequest {
        meta: None,
        office: OFFICE.into(),
        ticket: Some(reference(&first)),
        window: "1".into(),
        minutes: 30,
    };
    let away = officer.call(put_off).await.expect("put off").ticket.expect("a ticket");
    assert_eq!(away.state(), TicketState::PutOff);
    assert!(away.back_at.is_some());
    let called = call_number(&officer, &first, "1").await.expect("by number out of turn");
    officer.begin(&called, "1").await.expect("the visitor came");
    officer.finish(&called, "1").await.expect("done");
    let called = officer.call_next(OFFICE, "1").await.expect("the fourth");
    assert_eq!(called.number, fourth.number);
    officer.begin(&called, "1").await.expect("the visitor came");
    officer.finish(&called, "1").await.expect("done");
    let pause =
        proto::StartBreakRequest { meta: None, office: OFFICE.into(), window: "1".into(), minutes: 10 };
    officer.call(pause).await.expect("a break");
    assert_eq!(refused(officer.call_next(OFFICE, "1").await), "WINDOW_ON_BREAK");
    let close = proto::CloseWindowRequest { meta: None, office: OFFICE.into(), window: "1".into() };
    officer.call(close).await.expect("the window closes");
    assert_eq!(refused(officer.call_next(OFFICE, "1").await), "WINDOW_CLOSED");

    // The statistics are what the journal says (R-Q11).
    let day = first.day.clone();
    let request =
        proto::GetQueueStatisticsRequest { read: None, office: OFFICE.into(), from: day.clone(), to: day };
    let counted = officer.call(request).await.expect("statistics");
    let all = counted.all.expect("a tally");
    assert_eq!((all.visits, all.served, all.did_not_come, all.left), (4, 2, 1, 1));
    assert_eq!(counted.windows["1"].visits, 3, "those that window 1 ended");
    recount(&cluster, &first.day);
    let journal = export(&cluster.desk("auditor", "revizor")).await;
    let ids: Vec<&String> =
        journal.iter().filter_map(|told| told.event.as_ref()).map(|event| &event.id).collect();
    let once: BTreeSet<&String> = ids.iter().copied().collect();
    assert_eq!(once.len(), ids.len(), "an event's id names it");
}

/// A script that shares no code with Okno counts the exported journal anew, and finds the same.
fn recount(cluster: &Cluster, day: &str) {
    let oknoctl = |arguments: &[&str]| {
        let output = bare(&sibling("oknoctl"))
            .args(["-o", "json", "--config"])
            .arg(&cluster.file.context)
            .args(arguments)
            .output()
            .expect("oknoctl can be started");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let export = cluster.scratch().join("journal.jsonl");
    std::fs::write(&export, oknoctl(&["queue", "export", "--office", OFFICE])).expect("room for a file");
    let shown = oknoctl(&["queue", "statistics", "--office", OFFICE, "--from", day, "--to", day]);
    let shown: Value = serde_json::from_slice(&shown).expect("JSON");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/queue-statistics.py");
    let counted = Command::new("python3")
        .arg(script)
        .arg(&export)
        .args([day, day, "420", "15"])
        .output()
        .expect("python3 can be started");
    assert!(counted.status.success(), "{}", String::from_utf8_lossy(&counted.stderr));
    let counted: Value = serde_json::from_slice(&counted.stdout).expect("JSON");
    for by in ["all", "hours", "services", "windows", "officers"] {
        assert_eq!(present(&counted[by]), present(&shown[by]), "{by}");
        assert_ne!(present(&counted[by]), Value::Null, "{by}: nothing was counted");
    }
}

/// Without what is absent: one writes it as null, the other not at all.
fn present(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, of)| !of.is_null())
            .map(|(key, of)| (key.clone(), present(of)))
            .collect(),
        other => other.clone(),
    }
}

#[tokio::test]
async fn bad_input_gets_a_clear_refusal_and_loses_nothing() {
    let cluster = Cluster::start(3).await;
    let closed = date(2);
    queue::settle(&cluster, |settings| {
        settings.kiosk_pause_seconds = Some(60);
        settings.closed_days = vec![closed.clone()];
    })
    .await;
    let (officer, kiosk) = (cluster.officer(), cluster.desk("kiosk", "hall-tikhaya"));
    let portal = cluster.desk("portal", "region");

    // A kiosk repeats its request: the same ticket. It asks anew for what it was just given: told so.
    let ask = |id: Uuid, attempt| proto::TakeTicketRequest {
        meta: meta(id, attempt),
        office: OFFICE.into(),
        purpose: proto::VisitPurpose::Apply.into(),
        service: people::SERVICE.into(),
        category: String::new(),
    };
    let id = okno_client::new_request_id();
    let given = kiosk.call(ask(id, 1)).await.expect("a ticket").ticket;
    let again = kiosk.call(ask(id, 2)).await.expect("the same").ticket;
    assert_eq!(given, again);
    assert_eq!(refused(kiosk.call(ask(okno_client::new_request_id(), 1)).await), "KIOSK_REPEATS");
    assert_eq!(officer.tickets(OFFICE).await.expect("listed").len(), 1);

    // Two windows call the same number: one of them has the visitor.
    let ticket = given.expect("a ticket");
    let (one, two) = tokio::join!(call_number(&officer, &ticket, "1"), call_number(&officer, &ticket, "2"));
    let (called, lost) = match (one, two) {
        (Ok(called), lost) | (lost, Ok(called)) => (called, lost),
        (one, two) => panic!("{one:?} {two:?}"),
    };
    assert_eq!(refused(lost), "WINDOW_OTHER");
    assert_eq!(called.state(), TicketState::Called);

    // Bookings of a slot that is past, off the grid, on a day on which the office is closed, or beyond the horizon.
    let free = slots(&portal, &date(1)).await;
    let day_seconds = 86_400;
    let past = prost_types::Timestamp { seconds: free[0].seconds - 2 * day_seconds, ..free[0] };
    assert_eq!(refused(book(&portal, past).await), "SLOT_PAST");
    let beside = prost_types::Timestamp { seconds: free[0].seconds + 60, ..free[0] };
    assert_eq!(refused(book(&portal, beside).await), "SLOT_UNKNOWN");
    let shut = prost_types::Timestamp { seconds: free[0].seconds + day_seconds, ..free[0] };
    assert_eq!(refused(book(&portal, shut).await), "OFFICE_CLOSED");
    assert!(slots(&portal, &closed).await.is_empty());
    let far = prost_types::Timestamp { seconds: free[0].seconds + 300 * day_seconds, ..free[0] };
    assert_eq!(refused(book(&portal, far).await), "SLOT_TOO_FAR");
    let nowhere =
        proto::WatchBoardRequest { office: "nowhere".into(), ..proto::WatchBoardRequest::default() };
    let watched = BoardWatch::new(officer.client.clone(), nowhere).next().await;
    assert_eq!(refused(watched), "OFFICE_UNKNOWN");

    // Those who may not.
    let close = proto::CloseDayRequest { meta: None, office: OFFICE.into() };
    assert_eq!(refused(officer.call(close).await), "ACCESS_DENIED");
    let foreign = proto::GetQueueStatisticsRequest {
        read: None,
        office: people::BUSY_OFFICE.into(),
        from: date(0),
        to: date(0),
    };
    assert_eq!(refused(officer.call(foreign).await), "OFFICE_FOREIGN");
    let event = proto::TellOutsideEventRequest::default();
    assert_eq!(refused(portal.call(event).await), "METHOD_NOT_ALLOWED");

    // Nobody was lost or slowed: the visitor is served.
    let window = called.window.clone();
    officer.begin(&called, &window).await.expect("the visitor came");
    officer.finish(&called, &window).await.expect("done");
}

#[tokio::test]
async fn a_board_goes_on_at_another_node_and_is_the_same_everywhere() {
    let mut cluster = Cluster::start(3).await;
    queue::settle(&cluster, |_| {}).await;
    let officer = cluster.officer();
    let request =
        || proto::WatchBoardRequest { office: OFFICE.into(), ..proto::WatchBoardRequest::default() };
    // This one may go to any node.
    let mut watch = BoardWatch::new(cluster.desk("board", "board-tikhaya").client.clone(), request());
    let mut board = Board::default();
    let first = watch.next().await.expect("the picture");
    assert!(first.anew && first.entries.is_empty());
    board.take(&first);
    let mut node = first.served_by;
    let mut spoken = Vec::new();
    let mut sequences = Vec::new();

    let numbers = |board: &Board| -> Vec<(String, String)> {
        let entries = board.entries().into_iter();
        entries.map(|entry| (entry.ticket.clone().unwrap_or_default().number, entry.window.clone())).collect()
    };
    for turn in 0..3 {
        let ticket = ticket_of(&officer).await.expect("a ticket");
        let called = officer.call_next(OFFICE, "1").await.expect("the visitor");
        officer.begin(&called, "1").await.expect("the visitor came");
        officer.finish(&called, "1").await.expect("done");
        let standing = ticket_of(&officer).await.expect("a ticket");
        let window = (turn % 2 + 2).to_string();
        let at_window = call_number(&officer, &standing, &window).await.expect("called");
        let wanted = (at_window.number.clone(), window.clone());
        while !numbers(&board).contains(&wanted) {
            let frame = watch.next().await.expect("the board goes on");
            assert!(!frame.anew, "where it was, not anew");
            node = frame.served_by;
            for entry in &frame.entries {
                sequences.push(entry.sequence);
                if entry.state() == BoardState::Called {
                    spoken.push(entry.spoken.clone());
                }
            }
            board.take(&frame);
        }
        assert!(!numbers(&board).iter().any(|(number, _)| *number == ticket.number), "served and gone");
        if turn == 0 {
            // Its node dies; what happens meanwhile is not missed.
            cluster.kill(node);
            cluster.leader().await;
        }
        officer.begin(&at_window, &window).await.expect("the visitor came");
        officer.finish(&at_window, &window).await.expect("done");
    }
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice: {sequences:?}");
    assert!(spoken.iter().any(|said| said.contains("окно")), "{spoken:?}");

    // The same from every node that lives, from the beginning and from where the first one is.
    let standing = ticket_of(&officer).await.expect("a ticket");
    call_number(&officer, &standing, "1").await.expect("called");
    let board_at = |node| cluster.desk_at(node, "board", "board-tikhaya").client.clone();
    let mut pictures = Vec::new();
    for node in cluster.running() {
        let mut watch = BoardWatch::new(board_at(node), request());
        let picture = watch.next().await.expect("the picture");
        assert!(picture.anew);
        let mut shown = Board::default();
        shown.take(&picture);
        assert_eq!(numbers(&shown), [(standing.number.clone(), "1".to_owned())]);
        let after = proto::WatchBoardRequest { after: Some(board.sequence), ..request() };
        let news = BoardWatch::new(board_at(node), after).next().await.expect("the news");
        assert!(!news.anew);
        pictures.push((picture.sequence, picture.entries, news.entries));
    }
    assert!(pictures.windows(2).all(|pair| pair[0] == pair[1]), "{pictures:?}");
}

#[tokio::test]
async fn an_outside_queue_system_tells_and_is_told() {
    let cluster = Cluster::start(3).await;
    queue::settle(&cluster, |settings| {
        let connectors = vec!["smev".to_owned()];
        settings.outside = vec![proto::OutsideSystem { system: "hall2".into(), connectors }];
    })
    .await;
    let connector = cluster.desk("connector", "smev");
    let follow = proto::WatchQueueRequest {
        office: OFFICE.into(),
        follow: true,
        ..proto::WatchQueueRequest::default()
    };
    let mut told = connector.client.watch_queue(None, follow).await.expect("a stream");
    let began = told.message().await.expect("it goes on").expect("a sign of life");
    assert_eq!(began.event, None);

    let event = |id: &str, kind: OutsideKind, window: &str| proto::TellOutsideEventRequest {
        meta: None,
        office: OFFICE.into(),
        event: Some(proto::OutsideEvent {
            system: "hall2".into(),
            id: id.into(),
            ticket: "B-12".into(),
            at: Some(SystemTime::now().into()),
            kind: kind.into(),
            window: window.into(),
            purpose: proto::VisitPurpose::Apply.into(),
            service: people::SERVICE.into(),
            ..proto::OutsideEvent::default()
        }),
    };
    let registered = event("1", OutsideKind::Registered, "");
    let mut foreign = registered.clone();
    foreign.event.get_or_insert_default().system = "hall3".into();
    assert_eq!(refused(connector.call(foreign).await), "OUTSIDE_FOREIGN");
    let ticket = connector.call(registered.clone()).await.expect("taken").ticket.expect("a ticket");
    assert_eq!((ticket.outside_system.as_str(), ticket.outside_number.as_str()), ("hall2", "B-12"));
    // Told again it is the same event, whatever has happened since.
    connector.call(event("2", OutsideKind::Called, "1")).await.expect("taken");
    let again = connector.call(registered).await.expect("the same").ticket.expect("a ticket");
    assert_eq!((again.number.clone(), again.state()), (ticket.number.clone(), TicketState::Called));
    connector.call(event("3", OutsideKind::Begun, "1")).await.expect("taken");
    connector.call(event("4", OutsideKind::Finished, "1")).await.expect("taken");
    assert_eq!(refused(connector.call(event("5", OutsideKind::Begun, "1")).await), "TICKET_STATE");
    let mut unknown = event("6", OutsideKind::Left, "");
    unknown.event.as_mut().expect("an event").ticket = "B-13".into();
    assert_eq!(refused(connector.call(unknown).await), "TICKET_UNKNOWN");
    let tickets = cluster.officer().tickets(OFFICE).await.expect("listed");
    assert_eq!(tickets.len(), 1);

    // Outwards the same kinds come, once each.
    let mut kinds = Vec::new();
    let told = eventually("the connector is told", SOON, async || {
        while kinds.len() < 4 {
            match tokio::time::timeout(SOON, told.message()).await {
                Ok(Ok(Some(response))) => kinds.extend(response.event.map(|event| event.kind())),
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(kinds.clone())
    })
    .await;
    let expected = [OutsideKind::Registered, OutsideKind::Called, OutsideKind::Begun, OutsideKind::Finished];
    assert_eq!(told, expected);
}
