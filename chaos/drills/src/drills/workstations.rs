//! Workstations that die or stand still while a visitor is called to their window, or served there (R-R1).

use crate::bench::Bench;
use crate::drill::Drill;
use crate::drills::process::{NEXT_WRITE_WITHIN, REDUNDANT_WITHIN, SOME_WRITES};
use crate::harness::cluster::{Cluster, Pair};
use crate::harness::pki::{self, Leaf};
use crate::harness::plan::Plan;
use crate::harness::station::{self, StationProcess};
use crate::harness::{eventually, people, queue};
use crate::limits;
use crate::load::hall::{Clerk, Hall, OFFICE, name};
use okno_checks::invariants::Invariant;
use okno_client::v1 as proto;
use proto::OutsideKind as Kind;
use std::time::{Duration, Instant};

pub const WORKSTATION_KILLED: Drill = Drill {
    name: "workstation-killed",
    faults: &[35],
    needs: &[],
    scenario: "Two workstations are killed (SIGKILL): one whose visitor is called, one whose visitor is being served. Later \
               they are started again, at other nodes.",
    expected: "Both windows are marked unattended within 30 s; the called visitor returns to the head of the queue after \
               the grace time, the served one stays; drafts can be taken over; other windows notice nothing; on their \
               return both take up where they were.",
    run: |bench| Box::pin(lost(bench, How::Killed)),
};

pub const WORKSTATION_PAUSED: Drill = Drill {
    name: "workstation-paused",
    faults: &[27, 35],
    needs: &[],
    scenario: "Two workstations stand still (SIGSTOP) with their connections open: one whose visitor is called, one whose \
               visitor is being served. Later they run again.",
    expected: "As if they had died; the memory of the node they are attached to stays within its bound; when they run again \
               they find their leases lost, attach anew, and take up where they were.",
    run: |bench| Box::pin(lost(bench, How::Paused)),
};

#[derive(Clone, Copy, PartialEq)]
enum How {
    Killed,
    Paused,
}

/// A window must be known to be unattended so soon (R-R1).
const MARKED_WITHIN: Duration = Duration::from_secs(30);
/// Of the office: short, so that the drill is. The lease is the product's own, 15 s.
const GRACE: Duration = Duration::from_secs(8);
/// A timer that is due fires at the next second; a busy machine is given more.
const TIMER_WITHIN: Duration = Duration::from_secs(10);
const ATTACHED_WITHIN: Duration = Duration::from_secs(30);
/// The longest call of a window that nothing happened to.
const CALL_WITHIN: Duration = Duration::from_secs(5);
/// Calls by which the others are seen to work on.
const CALLS: usize = 5;
/// Window and workstation: of the called visitor, and of the one who is served.
const CALLED: (&str, &str) = ("3", "ws-tikhaya-3");
const SERVED: (&str, &str) = ("4", "ws-tikhaya-4");
/// An officer whom the load has no use for.
const COLLEAGUE: usize = people::WRITERS_MAX - 1;

async fn lost(bench: &mut Bench, how: How) {
    let fault_name = if how == How::Killed { "workstation-killed" } else { "workstation-paused" };
    bench.injected(fault_name, 0);
    bench.start(Plan::default()).await;
    let leader = bench.cluster().leader().await;
    let follower = bench.cluster().follower().await;
    furnish(bench.cluster()).await;
    let pairs = [CALLED, SERVED].map(|(_, workstation)| certificate(bench.cluster(), workstation));
    let hall = Hall::open(bench.cluster());
    let clerk = hall.clerk.clone();
    let nodes = if how == How::Killed { vec![follower] } else { vec![follower, leader] };
    let stations = sit_down(bench.cluster(), &pairs, &nodes).await;
    for (window, _) in [CALLED, SERVED] {
        window_is(&clerk, window, "its workstation is heard of", ATTACHED_WITHIN, |desk| desk.attached).await;
    }
    // One visitor is called, one is being served, and an officer has a case in the making.
    hall.progress(CALLS, MARKED_WITHIN).await;
    let called = someone(&clerk, CALLED.0).await;
    let served = someone(&clerk, SERVED.0).await;
    let served = clerk.begin(&served, SERVED.0).await.expect("the visitor has come");
    let draft = clerk.desk().open(1).await.expect("a case is opened");

    let before = resident(bench, follower);
    let fault =
        bench.fault(format!("the workstations of windows {} and {}: {fault_name}", CALLED.0, SERVED.0));
    let paused = match how {
        How::Killed => {
            for station in stations {
                station.kill();
                bench.injected(fault_name, 1);
            }
            Vec::new()
        }
        How::Paused => {
            for station in &stations {
                station.pause().await;
                bench.injected(fault_name, 1);
            }
            stations
        }
    };
    let mut back_at_ms = 0;
    for (window, _) in [SERVED, CALLED] {
        let left =
            window_is(&clerk, window, "it is marked unattended", 2 * MARKED_WITHIN, |desk| desk.unattended)
                .await;
        let took = fault.began.elapsed();
        bench.figure(&format!("window_{window}_unattended_ms"), took.as_secs_f64() * 1e3);
        let detail = format!("window {window} was marked unattended after {} ms", took.as_millis());
        bench.check(
            Invariant::WindowAttended,
            took <= MARKED_WITHIN && left.unattended_until.is_some(),
            detail,
        );
        back_at_ms =
            left.unattended_until.map_or(0, |at| at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000);
    }
    // The called visitor goes back by itself; the other stays, and a colleague takes the draft over.
    window_is(&clerk, CALLED.0, "its visitor has gone back", GRACE + TIMER_WITHIN, |desk| {
        desk.ticket.is_none()
    })
    .await;
    let refused = clerk.call_next(CALLED.0).await;
    let named = refused.as_ref().is_err_and(|error| error.reason() == "WINDOW_UNATTENDED");
    bench.check(Invariant::WindowAttended, named, "nobody is called to a window that nobody attends");
    let stays = clerk.window(SERVED.0).await.ticket;
    let in_service = stays.as_ref().is_some_and(|ticket| {
        name(ticket) == name(&served) && ticket.state() == proto::TicketState::InService
    });
    bench.check(Invariant::WindowAttended, in_service, "who was being served is being served");
    take_over(bench, draft).await;
    // Nobody else has noticed.
    hall.progress(CALLS, MARKED_WITHIN).await;
    let since = hall.called_since(fault.began);
    let slowest = hall.slowest();
    let detail =
        format!("{since} visitors were called meanwhile, the longest call took {} ms", slowest.as_millis());
    bench.check(Invariant::NeighboursUnharmed, slowest <= CALL_WITHIN, detail);
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    if let (Some(before), Some(now)) = (before, resident(bench, follower)) {
        bench.figure("node_grew_mib", (now.saturating_sub(before) >> 20) as f64);
    }

    // They return: one at other nodes, or where they stood.
    let returned = Instant::now();
    let _stations = match how {
        How::Killed => sit_down(bench.cluster(), &pairs, &[leader]).await,
        How::Paused => {
            for station in &paused {
                station.resume();
            }
            for station in &paused {
                station.says("attached", ATTACHED_WITHIN).await;
            }
            paused
        }
    };
    bench.over(fault);
    let whole = |desk: &proto::Desk| desk.attached && !desk.unattended;
    let free = window_is(&clerk, CALLED.0, "it is attended again", ATTACHED_WITHIN, whole).await;
    let back = window_is(&clerk, SERVED.0, "it is attended again", ATTACHED_WITHIN, whole).await;
    bench.figure("attended_again_ms", returned.elapsed().as_secs_f64() * 1e3);
    let open = free.state() == proto::DeskState::Open && free.ticket.is_none();
    let same = back.ticket.as_ref().is_some_and(|ticket| name(ticket) == name(&served));
    bench.check(Invariant::WindowAttended, open && same, "both windows take up where they were");
    clerk.finish(&served, SERVED.0).await.expect("the visit ends");
    let next = someone(&clerk, CALLED.0).await;
    clerk.begin(&next, CALLED.0).await.expect("the next visitor comes");
    clerk.finish(&next, CALLED.0).await.expect("and is served");
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;

    let findings = hall.close(bench.cluster()).await;
    findings.enter(bench);
    // In the journal's own order: after its grace time it was back, and the next who was called anywhere.
    let returned = findings.journal.first(&name(&called), Kind::Returned);
    let head = returned.and_then(|(place, _)| findings.journal.called_after(place));
    let detail = format!("{:?} was back as {returned:?}; the next call was {head:?}", name(&called));
    let first = head.is_some_and(|event| event.ticket == name(&called));
    let late_ms = returned.map_or(-1, |(_, event)| event.at_ms - back_at_ms);
    let in_time = (0..=i64::try_from(TIMER_WITHIN.as_millis()).expect("seconds")).contains(&late_ms);
    let text = format!("the called visitor was back {late_ms} ms after the grace time");
    bench.check(Invariant::WindowAttended, in_time, text);
    bench.check(Invariant::WindowAttended, first, detail);
}

/// Settings of the office, the second window with a workstation, and a colleague.
async fn furnish(cluster: &Cluster) {
    let grace = u32::try_from(GRACE.as_secs()).expect("seconds");
    queue::settle(cluster, |settings| settings.unattended_grace_seconds = Some(grace)).await;
    let admin = cluster.admin();
    let window = proto::Window {
        office: OFFICE.into(),
        number: SERVED.0.into(),
        ticket_groups: Vec::new(),
        workstation: SERVED.1.into(),
    };
    admin
        .call(proto::PutWindowRequest { meta: None, window: Some(window) })
        .await
        .expect("a window is taken");
    let person = proto::OfficePerson {
        person_id: people::writer(COLLEAGUE),
        name: "Примеров Сосед".into(),
        role: "officer".into(),
        offices: vec![OFFICE.into()],
    };
    admin
        .call(proto::PutPersonRequest { meta: None, person: Some(person) })
        .await
        .expect("a person is taken");
}

fn certificate(cluster: &Cluster, workstation: &str) -> Pair {
    let uri = format!("okno://{}/workstation/{workstation}", cluster.file.cluster);
    let leaf = Leaf::client(&uri, pki::fresh_serial());
    cluster.authority("clients").issue(cluster.scratch(), workstation, &leaf)
}

/// Starts the workstations and waits until they are attached.
async fn sit_down(cluster: &Cluster, pairs: &[Pair; 2], nodes: &[u64]) -> Vec<StationProcess> {
    let mut stations = Vec::new();
    for ((_, workstation), pair) in [CALLED, SERVED].into_iter().zip(pairs) {
        let own = station::own("workstation");
        let station = StationProcess::start_as(own, cluster, pair, workstation, nodes);
        station.says("attached", ATTACHED_WITHIN).await;
        stations.push(station);
    }
    stations
}

/// Waits for a window to be as wanted.
async fn window_is(
    clerk: &Clerk,
    window: &str,
    what: &str,
    within: Duration,
    wanted: impl Fn(&proto::Desk) -> bool,
) -> proto::Desk {
    eventually(&format!("window {window}: {what}"), within, async || {
        let desk = clerk.window(window).await;
        if wanted(&desk) { Ok(desk) } else { Err(format!("{desk:?}")) }
    })
    .await
}

/// Calls somebody who waits; visitors come all the time.
async fn someone(clerk: &Clerk, window: &str) -> proto::Ticket {
    eventually("somebody waits", ATTACHED_WITHIN, async || match clerk.call_next(window).await {
        Err(error) if error.reason() == "QUEUE_EMPTY" => Err(error.to_string()),
        called => Ok(called.expect("a visitor is called")),
    })
    .await
}

/// Another officer of the office goes on with a draft.
async fn take_over(bench: &mut Bench, draft: String) {
    let colleague = people::writer(COLLEAGUE);
    let desk = bench.cluster().desk("operator", &colleague);
    let taken = desk.call(proto::TakeOverCaseRequest { meta: None, case_id: draft }).await;
    let held = taken.as_ref().is_ok_and(|taken| taken.officer == colleague);
    bench.check(Invariant::WindowAttended, held, format!("a draft is taken over by {colleague}: {taken:?}"));
}

fn resident(bench: &mut Bench, node: u64) -> Option<u64> {
    limits::resident(bench.cluster().pid(node)?)
}
