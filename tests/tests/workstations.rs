//! Workstations hold leases, and cluster notices reach every attached one; windows whose workstation is lost are left to
//! others until it is back (R-R1, R-R4).

use futures::StreamExt;
use okno_client::v1 as proto;
use okno_tests::{cluster::Cluster, eventually, people, queue, station::StationProcess};
use proto::{attach_request, attach_response};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const SOON: Duration = Duration::from_secs(20);

fn request(message: attach_request::Message) -> proto::AttachRequest {
    proto::AttachRequest { message: Some(message) }
}

#[tokio::test]
async fn a_lease_is_renewed_and_the_loss_of_a_node_is_told() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let station = cluster.desk_at(follower, "workstation", "ws-tikhaya-3");
    let (up, outbound) = mpsc::channel(4);
    let hello = attach_request::Message::Hello(proto::AttachHello {
        workstation: "ws-tikhaya-3".into(),
        office: people::QUIET_OFFICE.into(),
        window: "3".into(),
    });
    up.send(request(hello)).await.unwrap();
    let mut down = station.client.attach(None, ReceiverStream::new(outbound)).await.unwrap();

    let next = async |down: &mut tonic::Streaming<proto::AttachResponse>| {
        let response = tokio::time::timeout(SOON, down.next()).await.expect("the node speaks");
        response.expect("the stream goes on").expect("the stream is healthy").message.expect("a message")
    };
    let lease = loop {
        if let attach_response::Message::Lease(lease) = next(&mut down).await {
            break lease;
        }
    };
    assert_eq!((lease.sequence, lease.served_by), (0, follower));
    assert!(!lease.lease_id.is_empty() && lease.heartbeat_interval_ms > 0);

    // A heartbeat renews the same lease.
    up.send(request(attach_request::Message::Heartbeat(proto::Heartbeat { sequence: 1 }))).await.unwrap();
    let renewed = loop {
        if let attach_response::Message::Lease(lease) = next(&mut down).await {
            break lease;
        }
    };
    assert_eq!((renewed.lease_id.as_str(), renewed.sequence), (lease.lease_id.as_str(), 1));

    // The leader is lost: the workstation attached to another node learns of it.
    cluster.kill(leader);
    let told = tokio::time::timeout(SOON, async {
        let mut sequence = 1;
        loop {
            match next(&mut down).await {
                attach_response::Message::Notice(notice) => {
                    assert!(!notice.text_ru.is_empty());
                    if ["LEADER_CHANGED", "MEMBER_DOWN"].contains(&notice.kind.as_str()) {
                        return notice;
                    }
                }
                // A lease wants to be renewed meanwhile.
                attach_response::Message::Lease(_) => {
                    sequence += 1;
                    let beat = attach_request::Message::Heartbeat(proto::Heartbeat { sequence });
                    up.send(request(beat)).await.expect("the stream is open");
                }
            }
        }
    })
    .await
    .expect("the notice arrives");
    assert!(!told.kind.is_empty());
}

const WORKSTATION: &str = "ws-tikhaya-3";
const WINDOW: &str = "3";
/// A window must be known to be unattended so soon (R-R1).
const MARKED_WITHIN: Duration = Duration::from_secs(30);
/// What the tests' nodes give a workstation: short, so that the tests are.
const LEASE: Duration = Duration::from_secs(8);
const GRACE_SECONDS: u32 = 4;

/// Three nodes with short leases, at the level of the whole queue, and an office with a short grace time.
async fn cluster() -> Cluster {
    let mut cluster = Cluster::prepare(3);
    cluster.set("clients", "workstation_lease", format!("{}s", LEASE.as_secs()));
    cluster.start_all();
    cluster.wait_ready().await;
    cluster.fill().await;
    queue::settle(&cluster, |settings| settings.unattended_grace_seconds = Some(GRACE_SECONDS)).await;
    cluster
}

async fn window(cluster: &Cluster) -> proto::Desk {
    queue::window(&cluster.officer(), people::QUIET_OFFICE, WINDOW).await
}

/// Until the window is as wanted.
async fn window_is(cluster: &Cluster, what: &str, wanted: impl Fn(&proto::Desk) -> bool) -> proto::Desk {
    eventually(what, MARKED_WITHIN, async || {
        let desk = window(cluster).await;
        if wanted(&desk) { Ok(desk) } else { Err(format!("{desk:?}")) }
    })
    .await
}

#[tokio::test]
async fn a_killed_workstation_leaves_its_window_to_others_and_takes_it_up_again() {
    let mut cluster = cluster().await;
    let officer = cluster.officer();
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let program = env!("CARGO_BIN_EXE_workstation");
    let station = StationProcess::start(&cluster, program, WORKSTATION, &[follower]);
    window_is(&cluster, "the workstation is heard of", |desk| desk.attached).await;

    // A visitor is called to its window, another waits; the officer has a case in the making.
    let called = officer.take_ticket(people::QUIET_OFFICE, people::SERVICE).await.expect("a ticket");
    let waiting = officer.take_ticket(people::QUIET_OFFICE, people::SERVICE).await.expect("a ticket");
    let at_window = officer.call_next(people::QUIET_OFFICE, WINDOW).await.expect("somebody waits");
    assert_eq!(at_window.number, called.number);
    let draft = officer.open(1).await.expect("a case");

    // The leader is lost: the workstation keeps its lease at a node that lives, and its window notices nothing for
    // longer than a lease and everything that is added to it.
    cluster.kill(leader);
    cluster.leader().await;
    let until = std::time::Instant::now() + LEASE * 3;
    while std::time::Instant::now() < until {
        assert!(!window(&cluster).await.unattended, "the workstation never went away");
        station.wait_for("beat", SOON);
    }
    cluster.start_node(leader);
    cluster.wait_ready().await;

    station.kill();
    let lost = window_is(&cluster, "the window is marked unattended", |desk| desk.unattended).await;
    assert!(lost.unattended_until.is_some());
    // After the grace time its visitor stands at the head of the queue, before whoever comes next.
    eventually("the called visitor is back in the queue", MARKED_WITHIN, async || {
        let tickets = officer.tickets(people::QUIET_OFFICE).await.map_err(|error| error.to_string())?;
        let found = tickets.iter().find(|ticket| ticket.number == called.number).map(proto::Ticket::state);
        if found == Some(proto::TicketState::Waiting) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let refused = officer.call_next(people::QUIET_OFFICE, WINDOW).await.expect_err("nobody is there");
    assert_eq!(refused.reason(), "WINDOW_UNATTENDED");
    let again = officer.call_next(people::QUIET_OFFICE, "1").await.expect("another window works on");
    assert_eq!(again.number, called.number);

    // Another officer of the office goes on with the draft.
    let colleague = people::writer(0);
    let person = proto::OfficePerson {
        person_id: colleague.clone(),
        name: "Примеров Номер 1".into(),
        role: "officer".into(),
        offices: vec![people::QUIET_OFFICE.into()],
    };
    let put = proto::PutPersonRequest { meta: None, person: Some(person) };
    cluster.admin().call(put).await.expect("the person moves to the office");
    let taken = cluster
        .desk("operator", &colleague)
        .call(proto::TakeOverCaseRequest { meta: None, case_id: draft })
        .await
        .expect("any officer of the office may");
    assert_eq!(taken.officer, colleague);

    // It returns, at another node: the window is free and open as it was.
    let station = StationProcess::start(&cluster, program, WORKSTATION, &[leader]);
    station.wait_for("attached", SOON);
    let back = window_is(&cluster, "the window is attended", |desk| desk.attached && !desk.unattended).await;
    assert_eq!((back.state(), back.ticket), (proto::DeskState::Open, None));
    let next = officer.call_next(people::QUIET_OFFICE, WINDOW).await.expect("the second still waits");
    assert_eq!(next.number, waiting.number);
}

#[tokio::test]
async fn a_half_open_workstation_keeps_its_visitor_and_goes_on_where_it_was() {
    let cluster = cluster().await;
    let officer = cluster.officer();
    let nodes = cluster.ids();
    let station = StationProcess::start(&cluster, env!("CARGO_BIN_EXE_workstation"), WORKSTATION, &nodes);
    window_is(&cluster, "the workstation is heard of", |desk| desk.attached).await;
    officer.take_ticket(people::QUIET_OFFICE, people::SERVICE).await.expect("a ticket");
    let called = officer.call_next(people::QUIET_OFFICE, WINDOW).await.expect("somebody waits");
    let served = officer.begin(&called, WINDOW).await.expect("the visitor has come");

    // Its connection stays open; nothing is said on it.
    station.pause().await;
    let lost = window_is(&cluster, "the window is marked unattended", |desk| desk.unattended).await;
    assert_eq!(lost.ticket.as_ref().map(|ticket| &ticket.number), Some(&served.number));
    station.resume();
    station.wait_for("attached", SOON);
    let back = window_is(&cluster, "the window is attended", |desk| desk.attached && !desk.unattended).await;
    // Who was being served is being served.
    let ticket = back.ticket.expect("the visitor is still there");
    assert_eq!((&ticket.number, ticket.state()), (&served.number, proto::TicketState::InService));
    officer.finish(&ticket, WINDOW).await.expect("and is done");
}
