//! Panics, quarantine and release; commits that fail; leadership that comes and goes (rules 1, 3, 13).

use crate::{
    probe::{Probe, script},
    world::{World, admin, anna, applied, eventually, probe, settings},
};
use okno_runtime::{
    Answer, CallResult, RuntimeSettings, ShardSettings, SystemResult,
    sys::{OwnEvent, PowerNote, PowerState, SysEvent},
};
use okno_storage::commit::{EntityKey, SystemOp};
use std::time::{Duration, Instant};

fn quick() -> RuntimeSettings {
    let shard = ShardSettings { backoff_min_ms: 1, backoff_max_ms: 4, ..ShardSettings::default() };
    RuntimeSettings { shard, ..settings(1) }
}

fn not_applied(result: CallResult) -> String {
    match result {
        CallResult::NotApplied { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

/// Rule 13: siblings in the same shard answer on; the entity is rebuilt from storage.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_one_entitys_trouble() {
    let world = World::with(quick());
    assert!(matches!(world.run(&probe("-a"), "put kept 1").await, CallResult::Done { .. }));
    assert!(matches!(world.run(&probe("-b"), "put kept 1").await, CallResult::Done { .. }));
    assert_eq!(not_applied(world.run(&probe("-a"), "panic").await), "ENTITY_FAILED");
    assert!(matches!(world.run(&probe("-b"), "put more 1").await, CallResult::Done { .. }));
    // What cannot be folded never leaves either.
    let before = world.log.applied_events();
    assert_eq!(not_applied(world.run(&probe("-a"), "put lost 1; break").await), "ENTITY_FAILED");
    assert_eq!(world.log.applied_events(), before);
    // Rebuilt: it has what was committed and nothing else.
    assert!(matches!(world.run(&probe("-a"), "put after 1").await, CallResult::Done { .. }));
    let state = applied::<Probe>(&world.log.reader, "probe-a");
    assert_eq!(state.parts.keys().collect::<Vec<_>>(), ["after", "kept"]);
    world.stop().await;
}

/// Rule 13: only the entity that failed pauses. Its pause is longer than any call here waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_entitys_pause_is_its_own() {
    let pause = 600_000;
    let shard = ShardSettings { backoff_min_ms: pause, backoff_max_ms: pause, ..ShardSettings::default() };
    let world = World::with(RuntimeSettings { shard, ..settings(1) });
    assert_eq!(not_applied(world.run(&probe("-a"), "panic").await), "ENTITY_FAILED");
    assert!(matches!(world.run(&probe("-b"), "put more 1").await, CallResult::Done { .. }));
    let mut call = world.call_as(&admin(), &probe("-a"), script("put more 1"));
    call.deadline = Instant::now() + Duration::from_secs(1);
    let paused = world.runtime.gateway.call(call).await;
    assert!(!matches!(paused, CallResult::Done { .. }), "it pauses: {paused:?}");
    world.stop().await;
}

/// After a change of leadership everybody comes at once, and no actor is loaded: what waits for the load is all delivered when
/// the actor starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_cold_entity_takes_as_many_calls_at_once_as_it_may() {
    let world = World::new();
    let most = ShardSettings::default().entity_calls_max;
    let (target, puts) = (probe("-cold"), (0..most).map(|n| format!("put p{n} 1")).collect::<Vec<_>>());
    for answer in futures::future::join_all(puts.iter().map(|put| world.run(&target, put))).await {
        assert!(matches!(answer, CallResult::Done { .. }), "{answer:?}");
    }
    assert_eq!(applied::<Probe>(&world.log.reader, "probe-cold").parts.len(), most);
    world.stop().await;
}

/// Rule 13: after repeated panics a replicated row closes the entity, its messages and timers park, and an
/// administrator's release opens it again.
#[tokio::test(flavor = "multi_thread")]
async fn quarantine_and_release() {
    let world = World::with(quick());
    let key = EntityKey::parse("directory/probe-bad").expect("a good key");
    assert!(matches!(world.run(&probe("-bad"), "put kept 1").await, CallResult::Done { .. }));
    for _ in 0..3 {
        assert_eq!(not_applied(world.run(&probe("-bad"), "panic").await), "ENTITY_FAILED");
    }
    eventually("the entity is quarantined", || world.log.reader.view().quarantined(&key).expect("readable"))
        .await;
    let closed = world.run(&probe("-bad"), "put x 1").await;
    let CallResult::Refused(refusal) = closed else { panic!("{closed:?}") };
    assert_eq!(refusal.reason, "ENTITY_QUARANTINED");
    assert!(refusal.details["quarantine"].contains("asked to panic"), "{refusal:?}");

    // A message to it waits.
    assert!(matches!(
        world.run(&probe("-sender"), "put s 1; send directory/probe-bad").await,
        CallResult::Done { .. }
    ));
    eventually("the courier has parked it", || (world.runtime.figures().courier.parked == 1).then_some(()))
        .await;
    let info = world.runtime.query.entity_info(&key).expect("readable");
    assert_eq!(info.waiting.len(), 1);
    let row = world.log.reader.view().last_of(&EntityKey::parse("sys/quarantine").expect("a good key"));
    assert_eq!(
        info.quarantined_ms,
        row.expect("readable").map(|row| row.time_ms),
        "the journal knows since when"
    );
    assert!(info.quarantined_ms.is_some());

    // Only an administrator may release it.
    let release = || SystemOp::Release { entity: key.clone() };
    let denied = world.system(&anna(), release()).await;
    assert!(
        matches!(&denied, SystemResult::Refused(refusal) if refusal.reason == "SYSTEM_OPERATION_DENIED"),
        "{denied:?}"
    );
    let released = world.system(&admin(), release()).await;
    assert!(matches!(released, SystemResult::Done { .. }), "{released:?}");
    // Twice there is nothing to release; nor is there of a neighbour that never failed. A second attempt is refused
    // by what the first may have left behind, as any other.
    let never = SystemOp::Release { entity: EntityKey::parse("directory/probe-sender").expect("a good key") };
    for (op, attempt) in [(release(), 1), (never.clone(), 1), (never, 2)] {
        let again = world.system_attempt(&admin(), op, attempt).await;
        assert!(
            matches!(&again, SystemResult::Refused(refusal) if refusal.reason == "ENTITY_NOT_QUARANTINED"),
            "{again:?}"
        );
    }
    assert!(matches!(world.run(&probe("-bad"), "put x 1").await, CallResult::Done { .. }));
    eventually("the answer to the parked message has come", || {
        applied::<Probe>(&world.log.reader, "probe-sender").parts.contains_key("answered").then_some(())
    })
    .await;
    let state = applied::<Probe>(&world.log.reader, "probe-bad");
    assert_eq!(state.parts.keys().collect::<Vec<_>>(), ["kept", "received", "x"]);
    eventually("the courier has done with both", || {
        (world.runtime.figures().message_depths == (0, 0)).then_some(())
    })
    .await;
    world.stop().await;
}

/// Rule 9: notes are written from their level on, by the node itself alone; the journal gives them newest first.
#[tokio::test(flavor = "multi_thread")]
async fn notes_on_power_wait_for_their_level() {
    let world = World::with(quick());
    let note = |node: u64| PowerNote {
        short: [(node, PowerState::OnBattery)].into(),
        russian: "Сеть пропала".into(),
        english: format!("mains lost at node {node}"),
    };
    let op = |node| note(node).op().expect("small");
    let (own, query) = (world.runtime.own(), &world.runtime.query);
    let early = own.ask(op(1)).await.expect("answered");
    assert!(matches!(&early, Answer::Refused(refusal) if refusal.reason == "FEATURE_LEVEL_LOW"), "{early:?}");
    assert_eq!(query.power_note().expect("readable"), None);
    let foreign = world.system(&admin(), op(1)).await;
    assert!(
        matches!(&foreign, SystemResult::Refused(refusal) if refusal.reason == "SYSTEM_OPERATION_DENIED"),
        "{foreign:?}"
    );
    let raised = world.system(&admin(), SystemOp::Level { level: 2 }).await;
    assert!(matches!(raised, SystemResult::Done { .. }), "{raised:?}");
    for node in [1, 2] {
        let written = own.ask(op(node)).await.expect("answered");
        assert!(matches!(written, Answer::Done { .. }), "{written:?}");
        assert_eq!(query.power_note().expect("readable"), Some(note(node)));
    }
    let newest = query.own_history(u64::MAX, 2).expect("readable");
    let events: Vec<OwnEvent> = newest.iter().flat_map(|entry| entry.events.clone()).collect();
    assert_eq!(events, [OwnEvent::Power(note(2)), OwnEvent::Power(note(1))]);
    let older = query.own_history(newest[1].index, 9).expect("readable");
    assert_eq!(older.len(), 1);
    assert_eq!(older[0].events, [OwnEvent::System(SysEvent::LevelRaised { level: 2 })]);
    assert!(query.own_history(older[0].index, 9).expect("readable").is_empty());
    world.stop().await;
}

/// Rule 3: behind a commit that failed nothing of the activation holds; its callers are served all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_commit_rebuilds_the_entity() {
    let world = World::with(quick());
    assert!(matches!(world.run(&probe("-r"), "put first 1").await, CallResult::Done { .. }));
    world.log.hold();
    let calls: Vec<_> = (0..10)
        .map(|n| {
            let call = world.call_as(&admin(), &probe("-r"), script(&format!("put p{n} 1")));
            let gateway = world.runtime.gateway.clone();
            tokio::spawn(async move { gateway.call(call).await })
        })
        .collect();
    eventually("all are proposed", || (world.log.waiting() == 10).then_some(())).await;
    world.log.replace_next(3);
    world.log.go_on();
    for call in calls {
        let result = call.await.expect("no panic");
        assert!(matches!(result, CallResult::Done { .. }), "{result:?}");
    }
    let state = applied::<Probe>(&world.log.reader, "probe-r");
    assert_eq!(state.parts.len(), 11);
    assert_eq!(state.events(), 11, "each once");
    world.stop().await;
}

/// Rule 2: a refusal that rests on a commit which then fails is decided again.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_on_lost_ground_is_decided_again() {
    let world = World::with(quick());
    world.log.hold();
    let gateway = world.runtime.gateway.clone();
    let put = world.call_as(&admin(), &probe("-g"), script("put x 1"));
    let put = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.call(put).await }
    });
    eventually("the ground is proposed", || (world.log.waiting() == 1).then_some(())).await;
    let refused = world.call_as(&admin(), &probe("-g"), script("refuse-if x; put y 1"));
    let refused = tokio::spawn(async move { gateway.call(refused).await });
    eventually("the refusal is decided", || (world.runtime.figures().shards[0].refusals == 1).then_some(()))
        .await;
    // The put finds another entry in its place and is decided again; so is the refusal, which rested on it.
    assert!(!refused.is_finished(), "a refusal does not leave before what it rests on has applied");
    world.log.replace_next(1);
    world.log.go_on();
    let (put, refused) = (put.await.expect("no panic"), refused.await.expect("no panic"));
    assert!(matches!(put, CallResult::Done { .. }), "{put:?}");
    let state = applied::<Probe>(&world.log.reader, "probe-g");
    match refused {
        // Decided again before the put was: accepted.
        CallResult::Done { .. } => assert!(state.parts.contains_key("y")),
        // Decided again after it: refused on firm ground.
        CallResult::Refused(_) => assert!(!state.parts.contains_key("y")),
        other => panic!("{other:?}"),
    }
    eventually("the entity was rebuilt", || (world.runtime.figures().shards[0].rebuilds >= 1).then_some(()))
        .await;
    world.stop().await;
}

/// Rule 1: leadership lost under way. What had committed is found again, what had not is done once; the gateway's
/// own retries see to it within the deadline.
#[tokio::test(flavor = "multi_thread")]
async fn leadership_comes_and_goes() {
    for committed in [false, true] {
        let world = World::with(quick());
        assert!(matches!(world.run(&probe("-l"), "put first 1").await, CallResult::Done { .. }));
        world.log.hold();
        let calls: Vec<_> = (0..8)
            .map(|n| {
                let call = world.call_as(&admin(), &probe("-l"), script(&format!("put p{n} 1")));
                let gateway = world.runtime.gateway.clone();
                tokio::spawn(async move { gateway.call(call).await })
            })
            .collect();
        eventually("all are proposed", || (world.log.waiting() == 8).then_some(())).await;
        world.log.lose_leadership(committed);
        world.log.go_on();
        eventually("the actors are gone", || {
            (world.runtime.figures().shards[0].residents == 0).then_some(())
        })
        .await;
        world.log.win_leadership();
        for call in calls {
            let result = call.await.expect("no panic");
            assert!(matches!(result, CallResult::Done { .. }), "committed {committed}: {result:?}");
        }
        let state = applied::<Probe>(&world.log.reader, "probe-l");
        assert_eq!((state.parts.len(), state.events()), (9, 9), "committed {committed}: each once");
        world.stop().await;
    }
}

/// No leader at all: not applied, after a bounded wait; and unknown once an attempt was.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader() {
    let world = World::with(quick());
    world.log.lose_leadership(false);
    let mut call = world.call_as(&admin(), &probe("-n"), script("put a 1"));
    call.deadline = Instant::now() + Duration::from_millis(300);
    let result = world.runtime.gateway.call(call).await;
    assert_eq!(not_applied(result), "DEADLINE_PASSED");

    world.log.win_leadership();
    world.log.hold();
    let mut call = world.call_as(&admin(), &probe("-n"), script("put a 1"));
    call.deadline = Instant::now() + Duration::from_secs(5);
    let gateway = world.runtime.gateway.clone();
    let call = tokio::spawn(async move { gateway.call(call).await });
    eventually("it is proposed", || (world.log.waiting() == 1).then_some(())).await;
    world.log.lose_leadership(false);
    let result = call.await.expect("no panic");
    assert_eq!(result, CallResult::Unknown { reason: "LEADERSHIP_LOST".into() });
    world.stop().await;
}

/// Found by measuring replacements: calls under way at a member that was taken out waited for a leader that it would never hear of.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_closes_lets_waiting_calls_go() {
    let world = World::with(quick());
    world.log.hold();
    let start = |deadline| {
        let mut call = world.call_as(&admin(), &probe("-n"), script("put a 1"));
        call.deadline = Instant::now() + deadline;
        let gateway = world.runtime.gateway.clone();
        tokio::spawn(async move { gateway.call(call).await })
    };
    // Nothing but the node's end can end the waiting while the test runs.
    let sent = start(Duration::from_secs(3_600));
    eventually("it is proposed", || (world.log.waiting() == 1).then_some(())).await;
    world.log.quarantine();
    let result = sent.await.expect("no panic");
    assert_eq!(result, CallResult::Unknown { reason: "LEADERSHIP_LOST".into() });
    let result = start(Duration::from_secs(3_600)).await.expect("no panic");
    assert_eq!(not_applied(result), "NODE_CLOSED");
    world.stop().await;
}

/// Timers of an entity that panics on them park with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_timer_parks() {
    let shard =
        ShardSettings { panics_max: 1, backoff_min_ms: 1, backoff_max_ms: 4, ..ShardSettings::default() };
    let world = World::with(RuntimeSettings { shard, ..settings(1) });
    let due = crate::node::START_MS + 1_000;
    let set = format!("put t 1; timer panic {due}; timer good {}", due + 1);
    assert!(matches!(world.run(&probe("-t"), &set).await, CallResult::Done { .. }));
    world.log.pass_ms(120_000);
    let key = EntityKey::parse("directory/probe-t").expect("a good key");
    eventually("the entity is quarantined", || world.log.reader.view().quarantined(&key).expect("readable"))
        .await;
    eventually("a timer is parked", || (world.runtime.figures().timers.parked >= 1).then_some(())).await;
    let rows = world.log.reader.view().timers(None, i64::MAX, 10).expect("readable");
    assert!(rows.iter().any(|row| row.name == "panic"), "the timer is still there: {rows:?}");
    world.stop().await;
}
