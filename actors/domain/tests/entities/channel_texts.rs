//! Texts that go to other systems — kinds, ordering keys, subjects, outside ids — are one line each, whoever says them: a
//! control character in one is refused where it comes in, and nothing of the call happens.

use crate::{
    channel_laws::{process, settings},
    laws::person,
    world::{World, origin},
};
use okno_domain::{
    case::{self, AskBody, Step},
    channel::{Command, MessageState, NewLetter, Reply, Said, SubAsk, Take, Verdict},
    exchange::Content,
    validators::expect_line,
};
use std::sync::Arc;

const BAD: [&str; 7] = ["a\nb", "a\rb", "a\tb", "a\0b", "a\u{1b}[31mb", "a\u{85}b", "a\u{2028}b"];

#[test]
fn a_line_has_no_control_characters_and_no_breaks() {
    for bad in BAD {
        let refused = expect_line("kind", bad, 64).expect_err(bad);
        assert_eq!((refused.reason.as_str(), refused.details.contains_key("kind")), ("FIELD_INVALID", true));
    }
    for good in ["", "extract", "выписка № 5 «о правах»", "ключ/77:01"] {
        assert_eq!(expect_line("kind", good, 64), Ok(()));
    }
    assert_eq!(expect_line("kind", &"я".repeat(65), 64).expect_err("long").reason, "FIELD_TOO_LONG");
}

#[test]
fn what_leaves_for_other_systems_is_refused_where_it_comes_in() {
    let mut world = World::with_office();
    world.origin = origin("admin", "root", "");
    world.processes(&[Arc::new(process())]).expect("a good process");
    let configure = Command::Configure { settings: Box::new(settings(0)) };
    world.channel("egrn", &configure).expect("good settings");
    world.origin = origin("operator", "anna", "ws-1");
    let open = case::Command::Open {
        office: "tikhaya".into(),
        service: "paper".into(),
        applicants: vec![person()],
        ticket: None,
        note: String::new(),
    };
    let (id, opened) = world.open(&open);
    opened.expect("a good case");
    world.case(&id, &case::Command::Advance { step: Step::Accept }).expect("accepted");

    // An officer: a request's subject and ordering key.
    let ask = |subject: &str, key: &str| {
        let body =
            |_| AskBody { subject: subject.into(), key: key.into(), body: Content(b"who owns it".to_vec()) };
        case::Command::Ask { code: "all".into(), bodies: (0..3).map(body).collect() }
    };
    for bad in BAD {
        for (field, command) in [("subject", ask(bad, "k")), ("key", ask("о чём-то", bad))] {
            let refused = world.case(&id, &command).expect_err(bad);
            assert_eq!(refused.reason, "FIELD_INVALID", "{field} {bad:?}");
            assert!(refused.details.contains_key(field), "{refused:?}");
        }
    }
    assert_eq!(world.cases[&id].state.exchanges().count(), 0, "nothing of it happened");
    world.case(&id, &ask("о чём-то", "k")).expect("one line each");

    // A connector: a request within a request.
    world.origin = origin("connector", "one", "");
    let take = Command::Exchange { verdicts: Vec::new(), take: Take { messages: 1, bytes: u32::MAX } };
    let Reply::Exchanged(exchanged) = world.channel("egrn", &take).expect("it may") else { panic!() };
    let message = exchanged.handed[0].clone();
    let MessageState::Out { token, .. } = message.state else { panic!("{message:?}") };
    let sub = |kind: &str, key: &str, subject: &str| Command::Exchange {
        verdicts: vec![Verdict {
            id: message.id.clone(),
            token,
            said: Said::Ask {
                requests: vec![SubAsk {
                    channel: "zags".into(),
                    kind: kind.into(),
                    key: key.into(),
                    subject: subject.into(),
                    body: Content(b"sub".to_vec()),
                    expires_ms: None,
                }],
            },
        }],
        take: Take::default(),
    };
    // And a letter.
    let letter = |outside_id: &str, about: &str, kind: &str, subject: &str| Command::Receive {
        letters: vec![NewLetter {
            outside_id: outside_id.into(),
            about: about.into(),
            kind: kind.into(),
            subject: subject.into(),
            body: Content(b"letter".to_vec()),
        }],
    };
    for bad in BAD {
        for (field, command) in [
            ("kind", sub(bad, "k", "о чём-то")),
            ("key", sub("act", bad, "о чём-то")),
            ("subject", sub("act", "k", bad)),
            ("outside_id", letter(bad, "", "notice", "письмо")),
            ("about", letter("1", bad, "notice", "письмо")),
            ("kind", letter("1", "", bad, "письмо")),
            ("subject", letter("1", "", "notice", bad)),
        ] {
            let refused = world.channel("egrn", &command).expect_err(bad);
            assert_eq!(refused.reason, "FIELD_INVALID", "{field} {bad:?}");
            assert!(refused.details.contains_key(field), "{refused:?}");
        }
    }
    let there = &world.channels["egrn"].state;
    assert!(matches!(there.message(&message.id).map(|m| &m.state), Some(MessageState::Out { .. })));
    assert_eq!(there.letters().count(), 0);
    world.channel("egrn", &sub("act", "k", "о чём-то")).expect("one line each");
    world.channel("egrn", &letter("1", "", "notice", "письмо")).expect("one line each");
}
