//! What a channel holds that is no case's yet, and who reads it: letters that a person is to place, and what came with failed
//! attempts. Each is proven by its hash, and each reading is recorded (R-I2, R-S1).

use crate::support::{CHANNEL, Policy, SOON, World, install, module, pulled, settle};
use okno_client::{CallError, v1 as proto};
use okno_tests::{
    cluster::{Cluster, Pair, bare, sibling},
    desk::Desk,
    eventually,
    people::{self, OFFICER},
    pki::{self, Leaf},
};
use proto::get_channel_body_request::Whose;
use std::process::Output;

fn body_of(whose: Whose) -> proto::GetChannelBodyRequest {
    proto::GetChannelBodyRequest { channel: CHANNEL.into(), whose: Some(whose), read: None }
}

fn letter(number: u64) -> proto::GetChannelBodyRequest {
    body_of(Whose::Letter(number))
}

fn attempt(message_id: &str, body: u64) -> proto::GetChannelBodyRequest {
    body_of(Whose::Attempt(proto::FailedAttempt { message_id: message_id.into(), body }))
}

fn reason<T: std::fmt::Debug>(answer: Result<T, CallError>) -> String {
    answer.expect_err("refused").reason().to_owned()
}

fn certificate(cluster: &Cluster, kind: &str, id: &str) -> Pair {
    let uri = format!("okno://{}/{kind}/{id}", cluster.file.cluster);
    let leaf = Leaf::client(&uri, pki::fresh_serial());
    cluster.authority("clients").issue(cluster.scratch(), &format!("{kind}-{id}"), &leaf)
}

/// A person of the directory with this role, in no office.
async fn person(world: &World, id: &str, role: &str) -> Desk {
    let person = proto::OfficePerson {
        person_id: id.into(),
        name: "Примеров Пример".into(),
        role: role.into(),
        offices: if role == "head" { vec![people::BUSY_OFFICE.into()] } else { Vec::new() },
    };
    let put = proto::PutPersonRequest { meta: None, person: Some(person) };
    world.cluster.admin().call(put).await.expect("the directory takes them");
    world.cluster.desk_with(&certificate(&world.cluster, "operator", id))
}

fn oknoctl(world: &World, arguments: &[&str]) -> Output {
    let mut command = bare(&sibling("oknoctl"));
    let output = command.arg("--config").arg(&world.cluster.file.context).args(arguments).output();
    output.expect("oknoctl can be started")
}

/// Standard output of what must be done.
fn told(world: &World, arguments: &[&str]) -> String {
    let output = oknoctl(world, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Waits until some node's security log has an event with all of these.
async fn recorded(world: &World, what: [&str; 3]) {
    eventually(&format!("{what:?} is recorded"), SOON, async || {
        let cluster = &world.cluster;
        let logs = cluster.ids().into_iter().map(|node| {
            std::fs::read_to_string(cluster.entry(node).data.join("security.log")).unwrap_or_default()
        });
        let logs: String = logs.collect();
        let found = logs.lines().any(|line| what.iter().all(|text| line.contains(text)));
        found.then_some(()).ok_or("not recorded yet")
    })
    .await;
}

#[tokio::test]
async fn a_parked_letter_is_read_by_whoever_is_to_place_it_and_by_nobody_else() {
    let world = World::start(&Policy::default()).await;
    let (case, _) = world.case_that_asks("side").await;
    let bytes = "Уведомление: заявитель отозвал согласие.\n".as_bytes();
    let binary = [0_u8, 1, 2, 0x1b, b'[', 0xff];
    let bring = proto::BringLettersRequest {
        channel: CHANNEL.into(),
        letters: [("A", bytes), ("B", &binary[..])]
            .map(|(outside_id, body)| proto::NewLetter {
                outside_id: outside_id.into(),
                kind: "notice".into(),
                subject: "Уведомление".into(),
                body: body.to_vec().into(),
                ..Default::default()
            })
            .into(),
        ..Default::default()
    };
    let brought = world.connector("egrn-1").call(bring).await.unwrap().results;
    let [first, second] = [brought[0].number, brought[1].number];
    let parked = proto::ListParkedLettersRequest { channel: CHANNEL.into(), ..Default::default() };
    let listed = world.officer.call(parked.clone()).await.unwrap().letters;
    let sha256 = listed[0].body.as_ref().expect("it has one").sha256.clone();
    assert_eq!((listed.len(), listed[0].number), (2, first));
    recorded(&world, ["ListParkedLetters", &format!("operator/{OFFICER}"), CHANNEL]).await;

    // An officer may place it, and so may read it, at every node.
    for node in world.cluster.ids() {
        let read = world.cluster.desk_at(node, "operator", OFFICER).call(letter(first)).await.unwrap();
        assert_eq!((&read.body[..], &read.sha256), (bytes, &sha256), "node {node}");
    }
    recorded(
        &world,
        ["GetChannelBody", &format!("operator/{OFFICER}"), &format!("{CHANNEL}/letter/{first}")],
    )
    .await;
    for role in ["head", "administrator", "auditor"] {
        let desk = person(&world, &format!("some-{role}"), role).await;
        assert_eq!(&desk.call(letter(second)).await.unwrap().body[..], binary, "{role}");
    }
    // A certificate alone is not enough, and other kinds have no business here.
    let nobody = world.cluster.desk_with(&certificate(&world.cluster, "operator", "nobody"));
    assert_eq!(reason(nobody.call(letter(first)).await), "PERSON_UNKNOWN");
    assert_eq!(reason(nobody.call(parked.clone()).await), "PERSON_UNKNOWN");
    assert_eq!(reason(world.connector("egrn-1").call(letter(first)).await), "METHOD_NOT_ALLOWED");
    recorded(&world, ["GetChannelBody", "operator/nobody", "PERSON_UNKNOWN"]).await;

    // What is not there, and what says nothing.
    assert_eq!(reason(world.officer.call(letter(77)).await), "LETTER_UNKNOWN");
    let elsewhere = proto::GetChannelBodyRequest { channel: "nowhere".into(), ..letter(first) };
    assert_eq!(reason(world.officer.call(elsewhere).await), "CHANNEL_UNKNOWN");
    let nothing = proto::GetChannelBodyRequest { whose: None, ..letter(first) };
    assert_eq!(reason(world.officer.call(nothing).await), "FIELD_INVALID");

    // Through the command line: as text, or saved as it came, into a file that was not there.
    let shown = told(&world, &["channel", "letter", CHANNEL, &first.to_string()]);
    assert!(shown.contains("отозвал согласие") && shown.contains(&hex::encode(&sha256)), "{shown}");
    let shown = told(&world, &["channel", "letter", CHANNEL, &second.to_string()]);
    assert!(shown.contains("--out") && !shown.contains('\u{1b}'), "nothing steers the terminal: {shown}");
    let file = world.cluster.scratch().join("letter.bin");
    let saved = ["channel", "letter", CHANNEL, &second.to_string(), "--out", &file.to_string_lossy()];
    assert!(told(&world, &saved).contains("6 bytes"));
    assert_eq!(std::fs::read(&file).unwrap(), binary);
    assert_eq!(oknoctl(&world, &saved).status.code(), Some(2), "it overwrites nothing");

    // Once a case has it, it is read there; what was dropped can still be looked at.
    let assign = proto::AssignLetterRequest {
        meta: None,
        channel: CHANNEL.into(),
        number: first,
        case_id: case.clone(),
    };
    world.officer.call(assign).await.unwrap();
    let body = eventually("the letter is the case's", SOON, async || {
        world.exchanges(&case).await.letters.pop().and_then(|letter| letter.body).ok_or("not yet")
    })
    .await;
    let refused = eventually("the channel knows that the case has it", SOON, async || {
        world.officer.call(letter(first)).await.map_or_else(Ok, |_| Err("on its way"))
    })
    .await;
    assert_eq!(refused.reason(), "LETTER_STATE");
    assert_eq!(refused.problem().details.get("case"), Some(&case), "{refused:?}");
    let read = proto::GetMessageBodyRequest { case_id: case.clone(), body: Some(body), read: None };
    assert_eq!(&world.officer.call(read).await.unwrap().body[..], bytes);
    let drop = proto::DropLetterRequest {
        meta: None,
        channel: CHANNEL.into(),
        number: second,
        reason: "реклама".into(),
    };
    world.officer.call(drop).await.unwrap();
    assert_eq!(&world.officer.call(letter(second)).await.unwrap().body[..], binary);
    assert_eq!(world.officer.call(parked).await.unwrap().letters.len(), 0);
}

#[tokio::test]
async fn what_came_with_failed_attempts_is_kept_listed_and_proven() {
    let world = World::start(&Policy { attempts: 3, ..Policy::default() }).await;
    let (case, _) = world.case_that_asks("extract").await;
    let connector = world.connector("egrn-1");
    let fail = |body: &'static [u8]| proto::FailMessage {
        reason: "HTTP 503".into(),
        body: Some(body.into()),
        ..Default::default()
    };
    let pages: [&[u8]; 3] = [b"<h1>maintenance</h1>", b"<h1>maintenance</h1>", b"<h1>bad gateway</h1>"];
    for page in pages {
        let delivery = pulled(&connector).await;
        let verdict = proto::Verdict {
            message_id: delivery.message_id,
            token: delivery.token,
            said: Some(proto::verdict::Said::Fail(fail(page))),
        };
        connector.call(settle(vec![verdict])).await.unwrap();
    }
    let list = proto::ListDeadLettersRequest { channel: CHANNEL.into(), ..Default::default() };
    let dead = world.cluster.admin().call(list.clone()).await.unwrap().letters.swap_remove(0);
    assert_eq!((dead.attempts, dead.received.len()), (3, 2), "the same page is kept once: {dead:?}");
    recorded(&world, ["ListDeadLetters", "admin/dev", CHANNEL]).await;
    for (body, page) in dead.received.iter().zip([pages[0], pages[2]]) {
        let read = world.cluster.admin().call(attempt(&dead.message_id, body.number)).await.unwrap();
        assert_eq!((&read.body[..], &read.sha256), (page, &body.sha256));
    }
    recorded(&world, ["GetChannelBody", "admin/dev", &dead.message_id]).await;
    let number = dead.received[1].number.to_string();
    assert!(told(&world, &["channel", "dead-letters", CHANNEL]).contains("RECEIVED"));
    let shown = told(&world, &["channel", "attempt", CHANNEL, &dead.message_id, &number]);
    assert!(shown.contains("bad gateway"), "{shown}");
    // Dead letters are of cases of all offices: for who redrives them, and for auditors.
    assert_eq!(reason(world.officer.call(list.clone()).await), "ACCESS_DENIED");
    assert_eq!(reason(world.officer.call(attempt(&dead.message_id, 1)).await), "ACCESS_DENIED");
    let keeper = person(&world, "keeper", "administrator").await;
    assert_eq!(keeper.call(list.clone()).await.unwrap().letters.len(), 1);
    assert_eq!(reason(keeper.call(attempt("nobody.1", 1)).await), "MESSAGE_UNKNOWN");
    assert_eq!(reason(keeper.call(attempt(&dead.message_id, 77)).await), "FIELD_INVALID");

    // Given up, it is the case's, as the other side's answer would be.
    let discard = ["channel", "discard", CHANNEL, &dead.message_id, "--reason", "служба закрыта"];
    assert!(told(&world, &discard).starts_with("1 dead letters"));
    let exchange = world.ended(&case, "discarded").await;
    assert_eq!(exchange.others, dead.received);
    for (body, page) in exchange.others.into_iter().zip([pages[0], pages[2]]) {
        let read = proto::GetMessageBodyRequest { case_id: case.clone(), body: Some(body), read: None };
        assert_eq!(&world.officer.call(read).await.unwrap().body[..], page);
    }
    assert_eq!(reason(keeper.call(attempt(&dead.message_id, 1)).await), "MESSAGE_UNKNOWN");
    world.cluster.assert_alike().await;
}

#[tokio::test]
async fn of_two_modules_that_want_the_same_ask_one_is_installed_and_the_other_changes_nothing() {
    let world = World::start(&Policy::default()).await;
    let other = |code: &str| {
        let text = module(&Policy::default()).replace("\"egrn\"", &format!("\"{code}\""));
        text.replace("code = \"extract\"", "code = \"map\"")
            .replace("code = \"side\"", &format!("code = \"{code}\""))
    };
    let (admin, second) = (world.cluster.admin(), world.cluster.admin());
    let (one, two) = tokio::join!(admin.call(install(&other("maps"))), second.call(install(&other("plans"))));
    let (good, refused, left_out) = match (one, two) {
        (Ok(good), Err(refused)) => (good, refused, "plans"),
        (Err(refused), Ok(good)) => (good, refused, "maps"),
        both => panic!("one of them has the code: {both:?}"),
    };
    assert_eq!((good.version, good.processes_changed), (1, 1));
    assert_eq!(refused.reason(), "CATALOGUE_INVALID");
    let show = proto::ShowChannelRequest { channel: left_out.into(), read: None };
    assert_eq!(reason(admin.call(show).await), "CHANNEL_UNKNOWN", "nothing of it is there");
    // With a code of its own it is installed.
    let own = other(left_out).replace("code = \"map\"", "code = \"other\"");
    assert_eq!(admin.call(install(&own)).await.unwrap().processes_changed, 1);
}
