//! Connectors that lie, flood or loop: a clear refusal each, nothing lost, nobody else slowed.

use crate::support::{
    CHANNEL, Good, Policy, Raw, World, acknowledge, answer_to, complete, echo, name, pull, pulled, reason,
    say_too_much, settle,
};
use okno_client::v1 as proto;
use proto::attach_connector_request::Message as Up;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_lying_connector_is_refused_and_the_message_is_answered_once() {
    // It never acknowledges what it lies about, and keeps it.
    let world = World::start(&Policy { ack_ms: 60_000, ..Policy::default() }).await;
    let (case, sent) = world.case_that_asks("extract").await;
    let (other_case, _) = world.case_that_asks("extract").await;
    world.waiting(2).await;
    let liar = world.connector("egrn-1");
    let mut two = liar.call(pull(2, 20_000)).await.unwrap().deliveries;
    assert_eq!(two.len(), 2);
    two.sort_by_key(|delivery| delivery.message_id != format!("{case}.1"));
    let (own, other) = (&two[0], &two[1]);

    // A token nobody gave, one that is none, and one of another message.
    for token in ["1.1.999999", "not a token", "", other.token.as_str()] {
        let lie = proto::Verdict { token: token.into(), ..complete(own, b"lie") };
        let refused = liar.call(settle(vec![lie])).await.unwrap_err();
        assert_eq!(refused.reason(), "DELIVERY_LOST", "{token}");
    }
    // A message that is not there, and one that another certificate holds.
    let nowhere = proto::Verdict { message_id: format!("{case}.77"), ..complete(own, b"lie") };
    assert_eq!(liar.call(settle(vec![nowhere])).await.unwrap_err().reason(), "MESSAGE_UNKNOWN");
    let second = world.connector("egrn-2");
    assert_eq!(second.call(settle(vec![complete(own, b"lie")])).await.unwrap_err().reason(), "LEASE_FOREIGN");
    let foreign = second.call(acknowledge(own)).await.unwrap();
    assert_eq!(foreign.refused[0].reason, "LEASE_FOREIGN");
    let foreign = proto::FetchBodyRequest {
        channel: CHANNEL.into(),
        message_id: own.message_id.clone(),
        token: own.token.clone(),
        body: None,
    };
    assert_eq!(second.call(foreign).await.unwrap_err().reason(), "FIELD_INVALID");

    // Too much: one body, one call, and more than a node takes at all.
    let large = complete(own, &vec![b'x'; 65_537]);
    assert_eq!(liar.call(settle(vec![large])).await.unwrap_err().reason(), "BODY_TOO_LARGE");
    let many = settle(vec![complete(own, b""); 65]);
    assert_eq!(liar.call(many).await.unwrap_err().reason(), "CALL_TOO_LARGE");
    let bytes = settle((0..4).map(|_| complete(own, &vec![b'x'; 60_000])).collect());
    assert_eq!(liar.call(bytes).await.unwrap_err().reason(), "CALL_TOO_LARGE");
    let began = Instant::now();
    let flood = settle(vec![complete(own, &vec![b'x'; 900_000])]);
    assert_eq!(liar.call(flood).await.unwrap_err().reason(), "BODY_TOO_LARGE");
    let certificate = world.certificate("egrn-1");
    let huge = say_too_much(&world.cluster, &certificate, own, 100 * 1024 * 1024).await;
    assert_eq!(huge.code(), tonic::Code::InvalidArgument, "{huge:?}");
    assert_eq!(reason(&huge), "MESSAGE_TOO_LARGE");
    assert!(began.elapsed() < Duration::from_secs(30), "a refusal, not a wait: {:?}", began.elapsed());

    // After all that the message is still its own. One verdict counts; the lie in the same call hinders nothing.
    let mixed = settle(vec![
        complete(own, &answer_to(&sent)),
        proto::Verdict { token: "1.1.999999".into(), ..complete(other, b"lie") },
    ]);
    let results = liar.call(mixed).await.unwrap().results;
    assert_eq!(results.iter().map(|r| r.reason.as_str()).collect::<Vec<_>>(), ["", "DELIVERY_LOST"]);
    // Completed twice: the second counts for nothing, and neither does an answer under the old token.
    let twice = liar.call(settle(vec![complete(own, b"other")])).await.unwrap_err();
    assert_eq!(twice.reason(), "MESSAGE_UNKNOWN");
    let exchange = world.ended(&case, "answered").await;
    let read = proto::GetMessageBodyRequest { case_id: case.clone(), body: exchange.received, read: None };
    assert_eq!(
        world.officer.call(read).await.unwrap().body,
        answer_to(&sent),
        "what counted, and nothing else"
    );
    liar.call(settle(vec![complete(other, b"")])).await.unwrap();
    world.ended(&other_case, "answered").await;
    assert_eq!(world.figures().await.ended_total, 2);
}

#[tokio::test]
async fn one_that_floods_or_attaches_in_a_loop_slows_nobody() {
    let world = World::start(&Policy::default()).await;
    let node = world.cluster.follower().await;
    let good = Good::start(&world.connector("egrn-2"), "good", echo);
    // It attaches again and again: after some times it is told to wait.
    let looping = world.connector_at(node, "egrn-1");
    let mut refused = None;
    for n in 0..40 {
        match Raw::try_attach(&looping, &format!("loop-{n}"), 0).await {
            Ok(stream) => drop(stream),
            Err(error) => {
                refused = Some(error.reason().to_owned());
                break;
            }
        }
    }
    assert_eq!(refused.as_deref(), Some("CONNECTOR_LOOPS"));

    // It calls as fast as it can: what is over its bound is turned away at once.
    let flooding = world.connector_at(node, "egrn-1");
    let calls = (0..200).map(|_| flooding.once(pull(1, 2_000)));
    let answers = crate::support::all(calls).await;
    let turned_away = answers
        .iter()
        .filter(|answer| answer.as_ref().is_err_and(|error| error.reason() == "CONNECTOR_FLOODS"));
    assert!(turned_away.count() > 0, "200 pulls at once are too many");

    // Meanwhile others are served: a case goes through in ordinary time.
    let began = Instant::now();
    let (case, _) = world.case_that_asks("extract").await;
    world.ended(&case, "answered").await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    good.end().await;
}

#[tokio::test]
async fn a_stream_that_breaks_its_rules_is_ended_with_a_reason() {
    let world = World::start(&Policy::default()).await;
    let connector = world.connector("egrn-1");
    // Hello twice.
    let raw = Raw::attach(&connector, "twice", 0).await;
    raw.say(Up::Hello(proto::ConnectorHello { channel: CHANNEL.into(), ..Default::default() })).await;
    assert_eq!(reason(&raw.end().await), "FIELD_INVALID");
    // Another stream of the same instance: the newer one stays, on this node or another.
    let leader = world.cluster.leader().await;
    let follower = world.cluster.follower().await;
    let older = Raw::attach(&world.connector_at(leader, "egrn-1"), "same", 0).await;
    let newer = Raw::attach(&world.connector_at(leader, "egrn-1"), "same", 0).await;
    assert_eq!(reason(&beating_to_the_end(older).await), "CONNECTOR_REPLACED");
    let mut elsewhere = Raw::attach(&world.connector_at(follower, "egrn-1"), "same", 1).await;
    let (_, replaced) = tokio::join!(
        // Both beat, or they would be ended for their silence.
        async { tokio::time::timeout(Duration::from_secs(8), elsewhere.delivery()).await },
        beating_to_the_end(newer),
    );
    assert_eq!(reason(&replaced), "CONNECTOR_REPLACED");
    // One of which nothing is heard.
    let silent = Raw::attach(&connector, "silent", 1).await;
    assert_eq!(reason(&silent.end().await), "CONNECTOR_SILENT");

    // More credit than there may be brings no more than may be under way.
    let cases = crate::support::all((0..3).map(|_| world.case_that_asks("side"))).await;
    let mut greedy = Raw::attach(&connector, "greedy", u32::MAX).await;
    for _ in &cases {
        let delivery = greedy.delivery().await;
        let settled = settle(vec![complete(&delivery, b"")]);
        greedy
            .say(Up::Acknowledgement(proto::ConnectorAcknowledgement { deliveries: vec![name(&delivery)] }))
            .await;
        connector.call(settled).await.unwrap();
    }
    // What was settled by a call of its own is no longer on the stream: after a goodbye it ends by itself.
    greedy.say(Up::Goodbye(proto::ConnectorGoodbye {})).await;
    assert_eq!(beating_to_the_end(greedy).await.code(), tonic::Code::Ok);
    for (case, _) in &cases {
        world.ended(case, "answered").await;
    }
    let (last, _) = world.case_that_asks("side").await;
    let delivery = pulled(&connector).await;
    connector.call(settle(vec![complete(&delivery, b"")])).await.unwrap();
    world.ended(&last, "answered").await;
}

/// Keeps a stream alive until it is ended.
async fn beating_to_the_end(mut raw: Raw) -> tonic::Status {
    let mut beat = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            message = raw.down.message() => match message {
                Ok(Some(_)) => {}
                Ok(None) => return tonic::Status::ok("ended"),
                Err(status) => return status,
            },
            _ = beat.tick() => {
                let up = crate::support::request(Up::Heartbeat(proto::ConnectorHeartbeat { sequence: 1 }));
                let _ended = raw.up.try_send(up);
            }
        }
    }
}
