//! Connectors that die, hang or come too late, and leaders that are lost: at least once outside, exactly once inside.

use crate::support::{
    CHANNEL, Good, Policy, Raw, SOON, World, acknowledge, all, answer_to, complete, echo, name, pulled,
    settle,
};
use okno_client::v1 as proto;
use okno_connectors::Verdict;
use proto::attach_connector_request::Message as Up;
use std::time::Duration;

#[tokio::test]
async fn a_connector_that_dies_before_it_acknowledges_costs_no_time_and_no_attempt() {
    // Only the loss of the stream can be it: the time to acknowledge is a minute.
    let world = World::start(&Policy { ack_ms: 60_000, ..Policy::default() }).await;
    let (case, _) = world.case_that_asks("extract").await;
    let mut dies = Raw::attach(&world.connector("egrn-1"), "dies", 1).await;
    let first = dies.delivery().await;
    drop(dies);
    let second = pulled(&world.connector("egrn-2")).await;
    assert_eq!((second.message_id.as_str(), second.delivery), (first.message_id.as_str(), 2));
    assert_eq!(second.failed_attempts, 0, "it may never have arrived");
    assert_ne!(second.token, first.token);
    // The dead one comes back and speaks of what it had.
    let late = world.connector("egrn-1");
    assert_eq!(
        late.call(settle(vec![complete(&first, b"late")])).await.unwrap_err().reason(),
        "DELIVERY_LOST"
    );
    world.connector("egrn-2").call(settle(vec![complete(&second, b"in time")])).await.unwrap();
    let exchange = world.ended(&case, "answered").await;
    assert_eq!(exchange.received.unwrap().bytes, 7);
}

#[tokio::test]
async fn a_connector_that_hangs_loses_its_lease_and_its_old_token_counts_for_nothing() {
    let world = World::start(&Policy { ack_ms: 60_000, work_ms: 6_000, attempts: 8 }).await;
    let (case, _) = world.case_that_asks("extract").await;
    // It acknowledges, and then its process stands still: no heartbeats, no verdict.
    let hanging = world.connector("egrn-1");
    let mut stream = Raw::attach(&hanging, "hangs", 1).await;
    let first = stream.delivery().await;
    assert!(hanging.call(acknowledge(&first)).await.unwrap().refused.is_empty());
    let second = pulled(&world.connector("egrn-2")).await;
    assert_eq!(
        (second.message_id.as_str(), second.delivery, second.failed_attempts),
        (first.message_id.as_str(), 2, 1)
    );
    // It wakes up, with its old token.
    let late = hanging.call(acknowledge(&first)).await.unwrap();
    assert_eq!(late.refused[0].reason, "DELIVERY_LOST");
    let late = hanging.call(settle(vec![complete(&first, b"late")])).await.unwrap_err();
    assert_eq!(late.reason(), "DELIVERY_LOST");
    // The other one reports progress for longer than its lease, and keeps it.
    let second_desk = world.connector("egrn-2");
    second_desk.call(acknowledge(&second)).await.unwrap();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let report = proto::Verdict {
            said: Some(proto::verdict::Said::Progress(proto::ReportProgress { text: "иду".into() })),
            ..complete(&second, b"")
        };
        second_desk.call(settle(vec![report])).await.unwrap();
    }
    assert_eq!(world.exchanges(&case).await.exchanges[0].progress, "иду");
    second_desk.call(settle(vec![complete(&second, b"done")])).await.unwrap();
    world.ended(&case, "answered").await;
    assert_eq!(world.figures().await.ended_total, 1);
}

#[tokio::test]
async fn a_stream_is_told_which_delivery_it_did_not_acknowledge_in_time() {
    let world = World::start(&Policy { ack_ms: 1_000, ..Policy::default() }).await;
    let (case, _) = world.case_that_asks("extract").await;
    let mut silent = Raw::attach(&world.connector("egrn-1"), "silent", 1).await;
    let first = silent.delivery().await;
    let end = silent.end_of_delivery().await;
    assert_eq!((end.message_id, end.token), (first.message_id.clone(), first.token.clone()));
    assert_eq!(end.reason, "LEASE_UNHEARD");
    // What it did not hear of is not counted against the message, and goes to the next.
    let second = pulled(&world.connector("egrn-2")).await;
    assert_eq!((second.message_id.as_str(), second.failed_attempts), (first.message_id.as_str(), 0));
    world.connector("egrn-2").call(settle(vec![complete(&second, b"heard")])).await.unwrap();
    world.ended(&case, "answered").await;
}

#[tokio::test]
async fn an_acknowledged_delivery_outlives_its_stream() {
    let world = World::start(&Policy { ack_ms: 60_000, work_ms: 60_000, attempts: 8 }).await;
    let (case, sent) = world.case_that_asks("extract").await;
    let (leader, follower) = (world.cluster.leader().await, world.cluster.follower().await);
    let mut stream = Raw::attach(&world.connector_at(follower, "egrn-1"), "moves", 1).await;
    let delivery = stream.delivery().await;
    stream
        .say(Up::Acknowledgement(proto::ConnectorAcknowledgement { deliveries: vec![name(&delivery)] }))
        .await;
    // Said twice it is no harm, and when it is answered, the one above has been heard.
    assert!(
        world.connector_at(follower, "egrn-1").call(acknowledge(&delivery)).await.unwrap().refused.is_empty()
    );
    drop(stream);
    // Attached elsewhere, it settles what it has there.
    let mut elsewhere = Raw::attach(&world.connector_at(leader, "egrn-1"), "moves", 1).await;
    let mut verdict = settle(vec![complete(&delivery, &answer_to(&sent))]);
    verdict.instance = "moves".into();
    verdict.meta = okno_tests::desk::meta(okno_client::new_request_id(), 1);
    elsewhere.say(Up::Settle(verdict)).await;
    loop {
        use proto::attach_connector_response::Message as Down;
        match elsewhere.next().await.expect("the stream goes on") {
            Down::Settled(settled) => {
                assert_eq!(settled.results[0].reason, "");
                break;
            }
            Down::Delivery(delivery) => panic!("it was handed out again: {delivery:?}"),
            _ => {}
        }
    }
    world.ended(&case, "answered").await;
    assert_eq!(world.figures().await.handed_total, 1);
}

#[tokio::test]
async fn the_leader_is_lost_while_connectors_work_and_each_message_is_answered_once() {
    let mut world = World::start(&Policy::default()).await;
    let slowly = |message: &okno_connectors::Message| {
        (Duration::from_millis(300), Verdict::complete("готово", answer_to(&message.body)))
    };
    let good = [
        Good::start(&world.connector("egrn-1"), "one", slowly),
        Good::start(&world.connector("egrn-2"), "two", slowly),
    ];
    let mut cases = all((0..12).map(|_| world.case_that_asks("extract"))).await;
    let leader = world.cluster.leader().await;
    world.cluster.kill(leader);
    // Those who ask go on asking meanwhile.
    cases.extend(all((0..6).map(|_| world.case_that_asks("extract"))).await);
    for (case, sent) in &cases {
        let exchange = world.ended(case, "answered").await;
        assert_eq!(exchange.received.unwrap().bytes as usize, sent.len());
    }
    world.cluster.start_node(leader);
    world.cluster.wait_ready().await;
    let figures = world.figures().await;
    assert_eq!((figures.live, figures.dead), (0, 0));
    assert_eq!(figures.ended_total, 18, "each was answered once");
    // Outside at least once: every message was seen, none was forgotten.
    let seen: usize = good.iter().map(|good| good.seen().len()).sum();
    assert!(seen >= 18, "{seen}");
    for connector in good {
        connector.end().await;
    }
    world.cluster.assert_alike().await;
}

#[tokio::test]
async fn a_token_of_before_stays_good_under_a_new_leader_for_one_full_lease() {
    let mut world = World::start(&Policy { ack_ms: 60_000, work_ms: 3_000, attempts: 8 }).await;
    let (kept, _) = world.case_that_asks("extract").await;
    let first = pulled(&world.connector("egrn-1")).await;
    world.connector("egrn-1").call(acknowledge(&first)).await.unwrap();
    let leader = world.cluster.leader().await;
    world.cluster.kill(leader);
    // Settled under the new leader, with the token the old one gave.
    world.connector("egrn-1").call(settle(vec![complete(&first, b"kept")])).await.unwrap();
    world.ended(&kept, "answered").await;

    // One that is never settled is not forgotten by the new leader either: its lease begins anew and ends.
    let (lost, _) = world.case_that_asks("extract").await;
    let first = pulled(&world.connector("egrn-1")).await;
    world.connector("egrn-1").call(acknowledge(&first)).await.unwrap();
    world.cluster.start_node(leader);
    world.cluster.wait_ready().await;
    let second_leader = world.cluster.leader().await;
    world.cluster.kill(second_leader);
    let again = pulled(&world.connector("egrn-2")).await;
    assert_eq!((again.message_id.as_str(), again.failed_attempts), (first.message_id.as_str(), 1));
    let late = world.connector("egrn-1").call(settle(vec![complete(&first, b"late")])).await.unwrap_err();
    assert_eq!(late.reason(), "DELIVERY_LOST");
    world.connector("egrn-2").call(settle(vec![complete(&again, b"")])).await.unwrap();
    world.ended(&lost, "answered").await;
}

#[tokio::test]
async fn what_a_connector_no_longer_has_when_it_comes_back_is_not_waited_for() {
    // Their full time would be a minute, and a new leader grants it anew.
    let mut world = World::start(&Policy { ack_ms: 60_000, ..Policy::default() }).await;
    let cases = all((0..2).map(|_| world.case_that_asks("extract"))).await;
    let desk = world.connector("egrn-1");
    let mut stream = Raw::attach(&desk, "forgets", 2).await;
    let (kept, lost) = (stream.delivery().await, stream.delivery().await);
    for delivery in [&kept, &lost] {
        assert!(desk.call(acknowledge(delivery)).await.unwrap().refused.is_empty());
    }
    let (leader, survivor) = (world.cluster.leader().await, world.cluster.follower().await);
    world.cluster.kill(leader);
    drop(stream);
    let there = world.connector_at(survivor, "egrn-1");
    let mut stream = okno_tests::eventually("attached where another will lead", SOON, async || {
        Raw::try_resume(&there, "forgets", 1, &[&kept]).await.map_err(|error| error.to_string())
    })
    .await;
    let again = stream.delivery().await;
    assert_eq!((again.message_id.as_str(), again.delivery), (lost.message_id.as_str(), 2));
    assert_eq!(desk.call(settle(vec![complete(&lost, b"")])).await.unwrap_err().reason(), "DELIVERY_LOST");
    desk.call(settle(vec![complete(&kept, b"kept"), complete(&again, b"again")])).await.unwrap();
    for (case, _) in &cases {
        world.ended(case, "answered").await;
    }
}

#[tokio::test]
async fn a_connector_that_is_told_to_end_settles_what_it_has() {
    let world = World::start(&Policy::default()).await;
    let good = Good::start(&world.connector("egrn-1"), "ends", |message| {
        (Duration::from_millis(800), Verdict::complete("готово", answer_to(&message.body)))
    });
    let cases = all((0..3).map(|_| world.case_that_asks("extract"))).await;
    okno_tests::eventually("all are worked on", Duration::from_secs(20), async || {
        let seen = good.seen().len();
        if seen == 3 { Ok(()) } else { Err(seen) }
    })
    .await;
    good.end().await;
    for (case, _) in &cases {
        world.ended(case, "answered").await;
    }
    let figures = world.figures().await;
    assert_eq!(
        (figures.handed_total, figures.failed_total, figures.unheard_total + figures.gone_total),
        (3, 0, 0),
        "nothing came back"
    );
    // And with nobody there, what comes waits.
    let (waits, _) = world.case_that_asks("side").await;
    world.waiting(1).await;
    let next = Good::start(&world.connector("egrn-2"), "next", echo);
    world.ended(&waits, "answered").await;
    next.end().await;
    let gone = proto::ShowChannelRequest { channel: CHANNEL.into(), read: None };
    okno_tests::eventually("nobody is attached", Duration::from_secs(20), async || {
        let connectors = world.cluster.admin().call(gone.clone()).await.unwrap().connectors;
        if connectors.is_empty() { Ok(()) } else { Err(connectors) }
    })
    .await;
}
