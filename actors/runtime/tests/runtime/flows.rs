//! Whole flows through the gateway: cases, queue, catalogue, messages, timers, reads, request memory.

use crate::{
    node::START_MS,
    probe::{Probe, script},
    world::{World, admin, anna, applied, document, eventually, probe, request_at, settings},
};
use okno_domain::{
    case::{self, Case, LinkAnswer, State, Step},
    entity::{EntityRef, Kind},
    queue::{self, Purpose},
    registry::{AnyCommand, AnyReply},
    rows,
};
use okno_runtime::{CallResult, CaseFilter, ShardSettings};
use okno_storage::commit::EntityKey;
use uuid::Uuid;

fn queue_of(office: &str) -> EntityRef {
    EntityRef { kind: Kind::Queue, id: office.into() }
}

fn advance(step: Step) -> AnyCommand {
    AnyCommand::Case(case::Command::Advance { step })
}

fn reason(result: &CallResult) -> &str {
    match result {
        CallResult::Refused(refusal) => &refusal.reason,
        CallResult::NotApplied { reason, .. } | CallResult::Unknown { reason } => reason,
        CallResult::Done { .. } => "DONE",
    }
}

/// R-C1, R-Q4: from the ticket to the linked case, through the outbox both ways.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_and_its_case_learn_of_each_other() {
    let world = World::new();
    world.furnish().await;
    let take = queue::Command::TakeTicket {
        purpose: Purpose::Apply,
        service: "paper".into(),
        category: String::new(),
    };
    let AnyReply::Queue(queue::Reply::Taken { ticket, .. }) =
        world.done(&anna(), &queue_of("tikhaya"), AnyCommand::Queue(take)).await
    else {
        panic!("no ticket")
    };
    let call = AnyCommand::Queue(queue::Command::CallNext { window: "1".into() });
    world.done(&anna(), &queue_of("tikhaya"), call).await;
    let case = world.open(Some(ticket.ticket.clone())).await;

    let query = &world.runtime.query;
    eventually("the case knows that its ticket is linked", || {
        let read = query.case(&case.id).expect("readable")?;
        let link = read.value.head().ticket.clone().expect("opened from a ticket");
        (link.answer == LinkAnswer::Linked).then_some(())
    })
    .await;
    let queue = query.queue("tikhaya", queue::Share::Tickets).expect("readable").expect("there");
    let known = queue.value.ticket(&ticket.ticket).expect("the ticket is there");
    assert_eq!(known.cases, std::slice::from_ref(&case.id));
    let left = world.log.reader.view().outbox(None, 10).expect("readable");
    assert_eq!(left, [], "every message was consumed");

    let history = query.history(&case, 0, 100).expect("readable");
    assert_eq!(history.len(), 2, "opened, linked");
    assert_eq!(history[0].origin.principal, anna());
    let page = query.list_cases(&CaseFilter::Office("tikhaya".into()), None, 10).expect("readable");
    assert_eq!(page.cases.len(), 1);
    assert_eq!(page.next, None);
    world.stop().await;
}

/// A case from a ticket nobody took: the queue's refusal comes back as a message and marks the case.
#[tokio::test(flavor = "multi_thread")]
async fn a_targets_refusal_answers_the_source() {
    let world = World::new();
    world.furnish().await;
    let case = world.open(Some(crate::probe::ticket())).await;
    eventually("the case knows that there is no such ticket", || {
        let read = world.runtime.query.case(&case.id).expect("readable")?;
        let link = read.value.head().ticket.clone().expect("opened from a ticket");
        matches!(link.answer, LinkAnswer::Refused { .. }).then_some(())
    })
    .await;
    let left = world.log.reader.view().outbox(None, 10).expect("readable");
    assert_eq!(left, []);
    world.stop().await;
}

/// R-C2: the deadline's timers fire by replicated time, which a time commit carries on when nothing else does.
#[tokio::test(flavor = "multi_thread")]
async fn timers_mark_the_case_when_replicated_time_passes() {
    let world = World::new();
    world.furnish().await;
    let case = world.open(None).await;
    for document_kind in ["application", "passport"] {
        let add = case::Command::AddDocument {
            kind: document_kind.into(),
            form: case::DocumentForm::Original,
            sheets: 1,
            reference: String::new(),
            note: String::new(),
        };
        world.done(&anna(), &case, AnyCommand::Case(add)).await;
    }
    world.done(&anna(), &case, advance(Step::Accept)).await;
    let info = |world: &World| {
        let key = EntityKey::parse(&case.to_string()).expect("a good key");
        world.runtime.query.entity_info(&key).expect("readable")
    };
    let set = info(&world).timers;
    assert!(!set.is_empty(), "acceptance sets timers");
    let last = set.iter().map(|timer| timer.due_ms).max().expect("not empty");
    world.log.pass_ms(last - START_MS + 1_000);
    let marked = eventually("the case is marked", || {
        let read = world.runtime.query.case(&case.id).expect("readable")?;
        read.value.head().marks.deadline_passed_ms
    })
    .await;
    assert!(marked >= last, "marked at the time of the decision, which is not before the timer was due");
    assert_eq!(info(&world).timers, []);
    let pending = world.log.reader.view().timers(None, i64::MAX, 10).expect("readable");
    assert_eq!(pending, []);
    world.stop().await;
}

/// Rule 6: the same answer for the same request, refused for another body, and one event whatever happens.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_takes_effect_once() {
    let world = World::new();
    let (request, target) = (world.request(), probe("-once"));
    let call = || world.call_with(&admin(), &target, script("put a 1"), request);
    // Together: they join.
    let calls = (0..20).map(|_| world.runtime.gateway.call(call()));
    let answers = futures::future::join_all(calls).await;
    let CallResult::Done { index, .. } = answers[0] else { panic!("{:?}", answers[0]) };
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    // Later: remembered, with the index of the first time.
    let again = world.runtime.gateway.call(call()).await;
    assert_eq!(again, answers[0]);
    assert_eq!(applied::<Probe>(&world.log.reader, "probe-once").events(), 1);
    assert!(index > 1);
    // Another body.
    let other = world.call_with(&admin(), &target, script("put a 2"), request);
    assert_eq!(reason(&world.runtime.gateway.call(other).await), "REQUEST_ID_REUSED");
    // Another principal may use the same id.
    let anna = world.call_with(&anna(), &target, script("put b 1"), request);
    assert_eq!(reason(&world.runtime.gateway.call(anna).await), "DONE");
    world.stop().await;
}

/// Rule 6: the window of request ids.
#[tokio::test(flavor = "multi_thread")]
async fn request_ids_have_a_window() {
    let world = World::new();
    let target = probe("-window");
    let result = |request: Uuid| {
        let call = world.call_with(&admin(), &target, script("put a 1"), request);
        world.runtime.gateway.call(call)
    };
    assert_eq!(reason(&result(Uuid::from_u128(1 << 76)).await), "REQUEST_ID_MALFORMED");
    assert_eq!(reason(&result(request_at(START_MS + 301_000, 1)).await), "REQUEST_ID_AHEAD");
    assert_eq!(reason(&result(request_at(START_MS + 299_000, 2)).await), "DONE");
    // Too old to know, and no use in trying again.
    let old = world.call_with(&admin(), &target, script("put a 1"), request_at(START_MS - 8 * 86_400_000, 3));
    let answer = world.runtime.gateway.call(old).await;
    assert_eq!(answer, CallResult::Unknown { reason: "REQUEST_ID_EXPIRED".into() });
    // After a long stop replicated time is behind the clocks; a time commit puts that right, and nobody is refused.
    world.log.pass_ms(3_600_000);
    let late = world.run(&target, "put late 1").await;
    assert_eq!(reason(&late), "DONE");
    world.stop().await;
}

/// Rule 2: a refusal of a later attempt is remembered; of a first attempt it is not.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_later_attempts_are_remembered() {
    let world = World::new();
    let target = probe("-refusing");
    let (first, second) = (world.request(), world.request());
    let call = |request: Uuid, attempt: u32| {
        let mut call = world.call_with(&admin(), &target, script("refuse-if x; put done 1"), request);
        call.attempt = attempt;
        world.runtime.gateway.call(call)
    };
    assert_eq!(reason(&world.run(&target, "put x 1").await), "DONE");
    assert_eq!(reason(&call(first, 1).await), "PROBE_REFUSED");
    assert_eq!(reason(&call(second, 2).await), "PROBE_REFUSED");
    assert_eq!(reason(&world.run(&target, "drop x").await), "DONE");
    assert_eq!(reason(&call(first, 1).await), "DONE", "nothing was remembered of a first attempt's refusal");
    assert_eq!(
        reason(&call(second, 2).await),
        "PROBE_REFUSED",
        "the second attempt's refusal is the answer for ever"
    );
    world.stop().await;
}

/// Refusals that need no state, and one that a decision makes.
#[tokio::test(flavor = "multi_thread")]
async fn bad_input_changes_nothing() {
    let world = World::new();
    world.furnish().await;
    let case = world.open(None).await;
    let proposals = world.log.proposals();
    let gateway = &world.runtime.gateway;
    let wrong_kind = gateway.call(world.call_as(&anna(), &queue_of("tikhaya"), document("x"))).await;
    assert_eq!(reason(&wrong_kind), "COMMAND_KIND_MISMATCH");
    let malformed = EntityRef { kind: Kind::Case, id: "no/such id".into() };
    assert_eq!(
        reason(&gateway.call(world.call_as(&anna(), &malformed, document("x"))).await),
        "ENTITY_ID_MALFORMED"
    );
    let impossible = gateway.call(world.call_as(&anna(), &case, advance(Step::Archive))).await;
    assert_eq!(reason(&impossible), "CASE_STEP_IMPOSSIBLE");
    let large = world.run(&probe("-large"), "big 300000").await;
    assert_eq!(reason(&large), "COMMIT_TOO_LARGE");
    // Events alone would fit; with the part written beside the event it does not, unless the body is shared.
    assert_eq!(reason(&world.run(&probe("-large"), "big 200000").await), "DONE");
    let denied = gateway.call(world.call_as(
        &okno_domain::entity::Principal { kind: "board".into(), id: "b".into() },
        &probe("-large"),
        script("put a 1"),
    ));
    assert_eq!(reason(&denied.await), "PROBE_DENIED");
    assert_eq!(world.log.proposals(), proposals + 1, "only what was done was proposed");
    world.stop().await;
}

/// Lists go on behind a cursor; filters that the index does not decide give short pages, not wrong ones.
#[tokio::test(flavor = "multi_thread")]
async fn lists_have_pages() {
    let world = World::new();
    world.furnish().await;
    let mut opened = Vec::new();
    for _ in 0..7 {
        opened.push(world.open(None).await.id);
        world.log.pass_ms(1_000);
    }
    let query = &world.runtime.query;
    let applicant = okno_domain::people::applicant_key("112-233-445 95");
    let filters = [
        CaseFilter::Office("tikhaya".into()),
        CaseFilter::State { state: State::Draft, office: Some("tikhaya".into()) },
        CaseFilter::State { state: State::Draft, office: None },
    ];
    for filter in filters.into_iter().chain([CaseFilter::Applicant(applicant.expect("a good number"))]) {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = query.list_cases(&filter, after.as_ref(), 3).expect("readable");
            assert!(page.cases.len() <= 3);
            found.extend(page.cases.into_iter().map(|read| read.value.id().to_owned()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, opened, "{filter:?}: oldest first");
    }
    let none = CaseFilter::State { state: State::Issued, office: None };
    assert_eq!(query.list_cases(&none, None, 3).expect("readable").cases.len(), 0);
    let changes = query.changes(0, 1_000).expect("readable");
    assert_eq!(changes.changes.iter().filter(|change| change.key.kind() == "case").count(), 7);
    assert_eq!(changes.through, query.applied().0);
    let of_cases = rows::Table::ALL.iter().filter(|table| match table {
        rows::Table::CaseByApplicant
        | rows::Table::CaseByOffice
        | rows::Table::CaseByState
        | rows::Table::CaseByDeadline => true,
        // Read by their own entity, not listed.
        rows::Table::Body | rows::Table::ChannelDead | rows::Table::ChannelParked => false,
    });
    assert_eq!(of_cases.count(), 4, "a new table of cases wants a filter here");
    world.stop().await;
}

/// Design §6: passivation races with work, and no work is lost or done twice.
#[tokio::test(flavor = "multi_thread")]
async fn passivation_loses_nothing() {
    let shard = ShardSettings { resident_max: 2, idle_ms: 0, ..ShardSettings::default() };
    let world = World::with(okno_runtime::RuntimeSettings { shard, ..settings(1) });
    let (entities, rounds) = (12_usize, 40_usize);
    let work = (0..entities).map(|entity| {
        let world = &world;
        async move {
            for round in 0..rounds {
                let result = world.run(&probe(&format!("-p{entity}")), &format!("put part{round} 1")).await;
                assert_eq!(reason(&result), "DONE", "entity {entity}, round {round}");
            }
        }
    });
    futures::future::join_all(work).await;
    for entity in 0..entities {
        let state = applied::<Probe>(&world.log.reader, &format!("probe-p{entity}"));
        assert_eq!(state.parts.len(), rounds);
        assert_eq!(state.events(), rounds as u64);
    }
    let figures = world.runtime.figures().shards[0];
    assert!(figures.passivations > 100, "the test was to make entities come and go: {figures:?}");
    eventually("nobody waits any more", || (world.runtime.figures().shards[0].callers == 0).then_some(()))
        .await;
    world.stop().await;
}

/// Rule 10: an entity takes a bounded number of calls at a time, and says so beyond.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_entity_says_so() {
    let world = World::new();
    assert_eq!(reason(&world.run(&probe("-full"), "put a 1").await), "DONE");
    world.log.hold();
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let call = world.call_as(&admin(), &probe("-full"), script(&format!("put p{n} 1")));
            let gateway = world.runtime.gateway.clone();
            tokio::spawn(async move { gateway.call(call).await })
        })
        .collect();
    eventually("the log has what one entity may have under way", || {
        (world.log.waiting() == 64).then_some(())
    })
    .await;
    eventually("the rest was turned away", || {
        (calls.iter().filter(|call| call.is_finished()).count() == 36).then_some(())
    })
    .await;
    world.log.go_on();
    let mut busy = 0;
    for call in calls {
        match call.await.expect("no panic") {
            CallResult::Done { .. } => {}
            CallResult::NotApplied { reason, retry_after_ms } => {
                assert_eq!(reason, "ENTITY_BUSY");
                assert!(retry_after_ms > 0);
                busy += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(busy, 36);
    world.stop().await;
}

/// A decision on a case whose catalogue was loaded a moment ago sees it: the world is never behind what was
/// acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn the_world_is_never_behind() {
    let world = World::new();
    world.furnish().await;
    for n in 0..50 {
        let person = okno_domain::directory::Person {
            id: format!("officer-{n}"),
            name: "Вымыслова Вера".into(),
            role: okno_domain::directory::Role::Officer,
            offices: vec!["tikhaya".into()],
        };
        let target = EntityRef { kind: Kind::Directory, id: okno_domain::directory::ENTITY_ID.into() };
        let put = AnyCommand::Directory(okno_domain::directory::Command::PutPerson(person));
        world.done(&admin(), &target, put).await;
        let officer = okno_domain::entity::Principal { kind: "operator".into(), id: format!("officer-{n}") };
        let request = world.request();
        let target = EntityRef { kind: Kind::Case, id: okno_domain::ids::case_id(&officer, request) };
        let command = AnyCommand::Case(crate::world::open_command(None));
        let result = world.runtime.gateway.call(world.call_with(&officer, &target, command, request)).await;
        assert_eq!(reason(&result), "DONE", "officer {n}");
    }
    assert_eq!(applied::<Case>(&world.log.reader, "none").documents().len(), 0);
    world.stop().await;
}
