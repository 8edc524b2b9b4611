//! What happens when all goes well, in every way a connector can work.

use crate::support::{
    CHANNEL, CONNECTORS, Good, Policy, SOON, World, acknowledge, all, answer_to, complete, echo, install,
    module, pull, settle,
};
use okno_client::v1 as proto;
use okno_connectors::Verdict;
use okno_tests::{
    cluster::{bare, sibling},
    eventually,
};
use std::{collections::BTreeSet, time::Duration};

#[tokio::test]
async fn a_case_asks_a_connector_answers_and_the_case_goes_on() {
    let world = World::start(&Policy::default()).await;
    let (case, sent) = world.case_that_asks("extract").await;
    assert_eq!(world.officer.case(&case).await.unwrap().state(), proto::CaseState::Interagency, "it waits");
    let connector = Good::start(&world.connector("egrn-1"), "one", echo);
    let exchange = world.ended(&case, "answered").await;
    assert_eq!((exchange.channel.as_str(), exchange.kind.as_str()), (CHANNEL, "extract"));
    assert_eq!(exchange.message_id, format!("{case}.1"));
    assert_eq!(world.officer.case(&case).await.unwrap().state(), proto::CaseState::Accepted, "it goes on");
    assert_eq!(connector.seen(), [(exchange.message_id.clone(), 1)].into());

    // Both messages as they were, on every node, each with the hash that proves it (R-I2).
    let received = answer_to(&sent);
    for (reference, expected) in [(exchange.sent.clone(), &sent), (exchange.received.clone(), &received)] {
        for node in world.cluster.ids() {
            let request =
                proto::GetMessageBodyRequest { case_id: case.clone(), body: reference.clone(), read: None };
            let read =
                world.cluster.desk_at(node, "operator", okno_tests::people::OFFICER).call(request).await;
            let read = read.unwrap();
            assert_eq!(&read.body[..], expected, "node {node}");
            assert_eq!(read.sha256, reference.as_ref().unwrap().sha256);
        }
    }
    // Another case's messages are not read through this one.
    let (other, _) = world.case_that_asks("side").await;
    let request =
        proto::GetMessageBodyRequest { case_id: other.clone(), body: exchange.received.clone(), read: None };
    assert_eq!(world.officer.call(request).await.unwrap_err().reason(), "FIELD_INVALID");
    assert_eq!(
        world.officer.case(&other).await.unwrap().state(),
        proto::CaseState::Accepted,
        "it never waited"
    );
    world.ended(&other, "answered").await;

    // The leader knows who is attached, whichever node that is.
    let attached = eventually("the connector is shown", SOON, async || {
        let connectors = world.show().await.connectors;
        if connectors.len() == 1 { Ok(connectors) } else { Err(connectors) }
    })
    .await;
    assert_eq!((attached[0].connector.as_str(), attached[0].instance.as_str()), ("egrn-1", "one"));
    connector.end().await;
    let figures = world.figures().await;
    assert_eq!((figures.live, figures.dead, figures.ended_total), (0, 0, 2));
    world.cluster.assert_alike().await;
}

#[tokio::test]
async fn several_messages_are_taken_completed_and_committed_in_one_call() {
    let world = World::start(&Policy::default()).await;
    let cases = all((0..6).map(|_| world.case_that_asks("extract"))).await;
    world.waiting(6).await;
    let connector = world.connector("egrn-1");
    let first = connector.call(pull(4, 20_000)).await.unwrap();
    assert_eq!(first.deliveries.len(), 4);
    let names: Vec<_> = first.deliveries.iter().map(crate::support::name).collect();
    let acknowledged = connector
        .call(proto::AcknowledgeMessagesRequest { channel: CHANNEL.into(), deliveries: names })
        .await
        .unwrap();
    assert!(acknowledged.refused.is_empty(), "{acknowledged:?}");

    // Four verdicts and the next messages, in one commit; said again it answers the same.
    let mut call = settle(first.deliveries.iter().map(|d| complete(d, &answer_to(&d.body))).collect());
    call.take_messages = 64;
    call.meta = okno_tests::desk::meta(okno_client::new_request_id(), 1);
    let settled = connector.call(call.clone()).await.unwrap();
    assert!(settled.results.iter().all(|result| result.reason.is_empty()), "{:?}", settled.results);
    assert_eq!(settled.deliveries.len(), 2);
    call.meta.as_mut().unwrap().attempt = 2;
    let again = connector.call(call).await.unwrap();
    assert_eq!(again.results, settled.results);
    assert_eq!(again.deliveries, settled.deliveries, "the same messages under the same tokens");
    assert_eq!(again.meta.unwrap().applied_index, settled.meta.unwrap().applied_index, "one commit");

    let rest = settle(settled.deliveries.iter().map(|d| complete(d, &answer_to(&d.body))).collect());
    connector.call(rest).await.unwrap();
    for (case, sent) in &cases {
        let exchange = world.ended(case, "answered").await;
        assert_eq!(exchange.received.unwrap().bytes as usize, answer_to(sent).len());
    }
    // A pull with nothing to take waits as long as it was told to, and takes nothing.
    let empty = connector.call(pull(1, 100)).await.unwrap();
    assert!(empty.deliveries.is_empty() && empty.state.is_some());
    assert_eq!(world.figures().await.handed_total, 6);
}

#[tokio::test]
async fn pushes_and_pulls_share_one_backlog() {
    let world = World::start(&Policy::default()).await;
    let good = Good::start(&world.connector("egrn-1"), "push", echo);
    let puller = world.connector("egrn-2");
    let cases = all((0..12).map(|_| world.case_that_asks("extract"))).await;
    // The puller gets what the stream leaves.
    let mut pulled = BTreeSet::new();
    loop {
        let answer = puller.call(pull(2, 300)).await.unwrap();
        if answer.deliveries.is_empty() {
            break;
        }
        for delivery in &answer.deliveries {
            pulled.insert(delivery.message_id.clone());
            puller.call(settle(vec![complete(delivery, b"pulled")])).await.unwrap();
        }
    }
    for (case, _) in &cases {
        world.ended(case, "answered").await;
    }
    let pushed: BTreeSet<String> = good.seen().into_keys().collect();
    assert!(pushed.is_disjoint(&pulled), "each message went one way");
    assert_eq!(pushed.len() + pulled.len(), cases.len());
    good.end().await;
}

#[tokio::test]
async fn failures_are_tried_again_buried_and_redriven_by_an_operator() {
    let world = World::start(&Policy { attempts: 3, ..Policy::default() }).await;
    let down =
        Good::start(&world.connector("egrn-1"), "down", |_| (Duration::ZERO, Verdict::fail("нет связи")));
    let (case, _) = world.case_that_asks("extract").await;
    let dead = eventually("the message is buried", SOON, async || {
        let request = proto::ListDeadLettersRequest { channel: CHANNEL.into(), ..Default::default() };
        let letters = world.cluster.admin().call(request).await.unwrap().letters;
        if letters.len() == 1 { Ok(letters) } else { Err(letters) }
    })
    .await;
    assert_eq!((dead[0].attempts, dead[0].reason.as_str()), (3, "нет связи"));
    assert_eq!(down.seen()[&dead[0].message_id], 3);
    down.end().await;

    // Through the command line, as an operator does it.
    let told = |arguments: &[&str]| {
        let mut command = bare(&sibling("oknoctl"));
        let output = command.arg("--config").arg(&world.cluster.file.context).args(arguments).output();
        let output = output.expect("oknoctl can be started");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {errors}");
        text
    };
    assert!(told(&["channel", "list"]).contains(CHANNEL));
    assert!(told(&["channel", "dead-letters", CHANNEL]).contains("нет связи"));
    let json: serde_json::Value =
        serde_json::from_str(&told(&["-o", "json", "channel", "dead-letters", CHANNEL])).unwrap();
    assert_eq!(json["letters"][0]["message_id"], dead[0].message_id.as_str());
    assert!(told(&["channel", "pause", CHANNEL, "--reason", "работы"]).contains("работы"));
    assert!(told(&["channel", "redrive", CHANNEL, "--oldest", "64"]).starts_with("1 dead letters"));
    let shown = told(&["channel", "show", CHANNEL]);
    assert!(shown.contains("paused") && shown.contains("[channel.lease]"), "{shown}");

    // Paused, nothing leaves; resumed, it does.
    let good = Good::start(&world.connector("egrn-2"), "good", echo);
    world.waiting(1).await;
    assert!(good.seen().is_empty());
    told(&["channel", "resume", CHANNEL]);
    world.ended(&case, "answered").await;
    // Drained, it takes no more: the request is answered with the refusal.
    assert!(told(&["channel", "drain", CHANNEL]).contains("0 messages are left"));
    let (late, _) = world.case_that_asks("side").await;
    assert_eq!(world.ended(&late, "refused").await.reason, "CHANNEL_DRAINING");
    good.end().await;
}

#[tokio::test]
async fn letters_come_once_and_are_routed_or_parked() {
    let world = World::start(&Policy::default()).await;
    let (case, _) = world.case_that_asks("side").await;
    let connector = world.connector("egrn-1");
    let letter = |outside_id: &str, about: &str, body: &str| proto::NewLetter {
        outside_id: outside_id.into(),
        about: about.into(),
        kind: "notice".into(),
        subject: "Уведомление".into(),
        body: body.as_bytes().to_vec().into(),
    };
    let bring = |letters: Vec<proto::NewLetter>| proto::BringLettersRequest {
        channel: CHANNEL.into(),
        letters,
        ..Default::default()
    };
    let brought =
        connector.call(bring(vec![letter("A", &case, "одно"), letter("B", "", "два")])).await.unwrap();
    assert!(
        brought.results.iter().all(|result| result.reason.is_empty() && !result.duplicate),
        "{brought:?}"
    );
    let again =
        connector.call(bring(vec![letter("A", &case, "одно"), letter("A", &case, "другое")])).await.unwrap();
    assert!(again.results[0].duplicate && again.results[0].number == brought.results[0].number);
    assert_eq!(again.results[1].reason, "LETTER_ID_REUSED");
    let letters = eventually("the letter is the case's", SOON, async || {
        let letters = world.exchanges(&case).await.letters;
        if letters.len() == 1 { Ok(letters) } else { Err(letters) }
    })
    .await;
    assert_eq!(letters[0].outside_id, "A");
    let request =
        proto::GetMessageBodyRequest { case_id: case.clone(), body: letters[0].body.clone(), read: None };
    assert_eq!(world.officer.call(request).await.unwrap().body, "одно");

    // The other one a person assigns.
    let parked = proto::ListParkedLettersRequest { channel: CHANNEL.into(), ..Default::default() };
    let parked = world.cluster.admin().call(parked).await.unwrap().letters;
    assert_eq!((parked.len(), parked[0].reason.as_str()), (1, "LETTER_UNADDRESSED"));
    let assign = proto::AssignLetterRequest {
        meta: None,
        channel: CHANNEL.into(),
        number: parked[0].number,
        case_id: case.clone(),
    };
    world.officer.call(assign.clone()).await.unwrap();
    assert_eq!(world.officer.call(assign).await.unwrap_err().reason(), "LETTER_STATE", "once");
    eventually("the assigned letter is the case's", SOON, async || {
        let letters = world.exchanges(&case).await.letters;
        if letters.len() == 2 { Ok(()) } else { Err(letters) }
    })
    .await;
}

#[tokio::test]
async fn a_module_is_installed_changed_and_refused_by_its_file() {
    let world = World::start(&Policy::default()).await;
    let admin = world.cluster.admin();
    let text = module(&Policy::default());
    // Nothing new: nothing changes. A change is a new version.
    assert_eq!(admin.call(install(&text)).await.unwrap().version, 1);
    let changed = admin.call(install(&text.replace("ack_ms = 10000", "ack_ms = 9000"))).await.unwrap();
    assert_eq!((changed.version, changed.processes_changed, changed.processes_unchanged), (2, 0, 1));
    let wrong = admin.call(install(&text.replace("ack_ms = 10000", "ack_ms = 1"))).await.unwrap_err();
    assert_eq!(wrong.reason(), "CHANNEL_SETTINGS_INVALID");
    assert!(wrong.problem().details.keys().any(|key| key.contains("ack_ms")), "{wrong:?}");
    let mut dry = install(&text.replace("rosreestr.rights", "nobody.knows"));
    dry.dry_run = true;
    assert_eq!(admin.call(dry).await.unwrap_err().reason(), "CATALOGUE_INVALID");
    assert_eq!(world.figures().await.version, 2);
    // An officer installs nothing, and a connector the settings do not name gets nothing.
    assert_eq!(world.officer.call(install(&text)).await.unwrap_err().reason(), "ACCESS_DENIED");
    let stranger = world.connector("stranger");
    let refused = stranger.call(pull(1, 0)).await.unwrap_err();
    assert_eq!(refused.reason(), "CHANNEL_FOREIGN");
    let (case, _) = world.case_that_asks("side").await;
    let held = world.connector(CONNECTORS[0]);
    let delivery = crate::support::pulled(&held).await;
    let lying = stranger.call(settle(vec![complete(&delivery, b"")])).await.unwrap_err();
    assert_eq!(lying.reason(), "CHANNEL_FOREIGN");
    held.call(acknowledge(&delivery)).await.unwrap();
    held.call(settle(vec![complete(&delivery, b"")])).await.unwrap();
    world.ended(&case, "answered").await;
}
