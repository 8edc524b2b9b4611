//! Samples of everything that channels write, for the golden records: their own, and the variants that others got with
//! them. Nothing here is a history; each form stands once.

use okno_domain::{
    case, catalogue,
    channel::{self, Event, LetterState, MessageState, Move},
    entity::{EntityRef, Kind, Principal},
    exchange::{self, BodyRef, ChannelAnswer, ChannelRequest, Content, Letter},
    message::Message,
};
use serde::Serialize;
use std::sync::Arc;

const AT_MS: i64 = 1_772_420_400_000;

/// Which record a sample is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sample {
    Root,
    Part,
    Event,
    Reply,
    Message,
    CaseEvent,
    CasePart,
    CaseReply,
    CatalogueEvent,
    CataloguePart,
}

/// Takes samples in.
pub trait Samples {
    fn add<T: Serialize>(&mut self, sample: Sample, value: &T);
}

/// What the records of others got with feature level 3.
pub fn others(to: &mut impl Samples) {
    let process = catalogue::Process {
        module: "egrn".into(),
        service: "paper".into(),
        asks: vec![catalogue::Ask {
            code: "extract".into(),
            title: catalogue::Text { ru: "Выписка".into(), en: "Extract".into() },
            requests: vec![catalogue::AskRequest { channel: "egrn".into(), kind: "extract".into() }],
            wait: catalogue::Wait::All,
            order: catalogue::AskOrder::Sequential,
            blocking: true,
            mandatory: false,
            expires_ms: Some(86_400_000),
        }],
        claimed: Vec::new(),
    };
    let process = Arc::new(process);
    let put = catalogue::Event::Put(catalogue::Part::Process(process.clone()));
    to.add(Sample::CatalogueEvent, &put);
    let part = catalogue::Part::Process(process);
    to.add(Sample::CataloguePart, &part);

    let case = EntityRef { kind: Kind::Case, id: "a".into() };
    let channel = EntityRef { kind: Kind::Channel, id: "egrn".into() };
    let sent = BodyRef::of(&case, 1, &Content(b"sent".to_vec()));
    let received = BodyRef::of(&channel, 7, &Content(b"received".to_vec()));
    let request = ChannelRequest {
        id: "a.1".into(),
        case: "a".into(),
        kind: "extract".into(),
        key: "k".into(),
        subject: "выписка".into(),
        body: sent.clone(),
        expires_ms: Some(AT_MS),
        depth: 0,
    };
    let answer = ChannelAnswer {
        id: "a.1".into(),
        outcome: exchange::Outcome::Answered,
        summary: "готово".into(),
        body: Some(received.clone()),
        others: vec![received.clone()],
        connector: "egrn-1".into(),
    };
    let letter = Letter {
        number: 3,
        outside_id: "out-1".into(),
        kind: "notice".into(),
        subject: "письмо".into(),
        body: received.clone(),
        received_ms: AT_MS,
        connector: "egrn-1".into(),
    };
    let outcomes = [
        exchange::Outcome::Rejected { reason: "нет".into() },
        exchange::Outcome::Expired,
        exchange::Outcome::Discarded { reason: "довольно".into() },
        exchange::Outcome::Withdrawn,
        exchange::Outcome::Refused { reason: "CHANNEL_FULL".into() },
    ];
    let answers = outcomes.into_iter().map(|outcome| {
        let answer = ChannelAnswer { outcome, body: None, others: Vec::new(), ..answer.clone() };
        Message::ChannelAnswer(Box::new(answer))
    });
    let messages = [
        Message::ChannelRequest(Box::new(request)),
        Message::ChannelAnswer(Box::new(answer.clone())),
        Message::ChannelProgress { id: "a.1".into(), text: "идёт".into() },
        Message::RequestWithdrawn { id: "a.1".into() },
        Message::ChannelLetter(Box::new(letter.clone())),
        Message::LetterTaken { number: 3 },
        Message::ForgetBodies { numbers: vec![7, 300] },
        Message::BodiesForgotten { count: 2 },
    ];
    for message in messages.into_iter().chain(answers) {
        to.add(Sample::Message, &message);
    }

    let exchange = Arc::new(case::Exchange {
        number: 1,
        id: "a.1".into(),
        asking: 1,
        channel: "egrn".into(),
        kind: "extract".into(),
        key: "k".into(),
        body: sent,
        blocking: true,
        span_ms: Some(86_400_000),
        state: case::ExchangeState::Closed { at_ms: AT_MS, outcome: exchange::Outcome::Answered },
        progress: "идёт".into(),
        answer: Some(received.clone()),
        others: vec![received],
        forgotten: false,
    });
    let asking = Arc::new(case::Asking {
        number: 1,
        code: "extract".into(),
        wait: catalogue::Wait::Any,
        order: catalogue::AskOrder::Parallel,
        blocking: true,
        requests: vec![1],
        asked_ms: AT_MS,
        state: case::AskingState::Satisfied { at_ms: AT_MS },
    });
    let taken = Arc::new(case::CaseLetter {
        number: 1,
        channel: "egrn".into(),
        letter,
        taken_ms: AT_MS,
        forgotten: true,
    });
    let dealt = case::Dealt {
        asking: Some(asking.clone()),
        exchanges: vec![exchange.clone()],
        requests: Vec::new(),
        records: Vec::new(),
        life: Some(case::Life::Accepted),
    };
    for event in [
        case::Event::Asked(Box::new(dealt.clone())),
        case::Event::Exchanged(Box::new(dealt)),
        case::Event::LetterTaken(taken.clone()),
        case::Event::BodiesForgotten { exchanges: vec![exchange.clone()], letters: vec![taken.clone()] },
    ] {
        to.add(Sample::CaseEvent, &event);
    }
    for part in [case::Part::Asking(asking), case::Part::Exchange(exchange), case::Part::Letter(taken)] {
        to.add(Sample::CasePart, &part);
    }
    let reply = case::Reply::Asked { asking: 1, state: case::State::Interagency };
    to.add(Sample::CaseReply, &reply);
}

/// The records of the kind itself: one of each form.
pub fn own(to: &mut impl Samples) {
    let case = EntityRef { kind: Kind::Case, id: "a".into() };
    let body = BodyRef::of(&case, 1, &Content(b"sent".to_vec()));
    let token = channel::Token { generation: 1, term: 4, sequence: 9 };
    let message = |state| {
        Arc::new(channel::Outgoing {
            sequence: 5,
            id: "a.1".into(),
            source: case.clone(),
            case: "a".into(),
            kind: "extract".into(),
            key: "k".into(),
            subject: "выписка".into(),
            body: body.clone(),
            accepted_ms: AT_MS,
            expires_ms: Some(AT_MS + 1),
            depth: 0,
            attempts: 1,
            deliveries: 2,
            unheard: 1,
            progress: 3,
            withdrawn: false,
            state,
            subs: vec![channel::SubRequest {
                id: "a.1.1".into(),
                channel: "zags".into(),
                kind: "act".into(),
                body: body.clone(),
                answer: Some(channel::SubAnswer {
                    outcome: exchange::Outcome::Answered,
                    summary: "есть".into(),
                    body: None,
                    others: Vec::new(),
                }),
            }],
            failure: "нет связи".into(),
            received: vec![body.clone()],
        })
    };

    let account = channel::Account {
        breaker: channel::Breaker::Open { until_ms: AT_MS, trips: 2 },
        paced_us: 7,
        alarm_ms: Some(AT_MS),
        lapses: channel::Lapses { unheard: 1, overdue: 2, gone: 3 },
    };
    let ended = channel::Ended {
        sequence: 5,
        id: "a.1".into(),
        outcome: exchange::Outcome::Answered,
        body: Some(body.clone()),
        attempts: 1,
        received: vec![body.clone()],
    };
    let out =
        MessageState::Out { token, connector: "egrn-1".into(), instance: "host-7".into(), since_ms: AT_MS };
    for event in [
        Event::Moved { message: message(MessageState::Ready), why: Move::Accepted },
        Event::Moved { message: message(out), why: Move::HandedOut },
        Event::Moved { message: message(MessageState::Delayed { until_ms: AT_MS }), why: Move::Failed },
        Event::Moved { message: message(MessageState::Asking), why: Move::Asked },
        Event::Moved { message: message(MessageState::Dead { at_ms: AT_MS }), why: Move::Buried },
        Event::Ended(Box::new(ended)),
        Event::Redriven { from: 4, message: message(MessageState::Ready) },
        Event::LettersForgotten { numbers: vec![1], bodies: vec![1] },
        Event::BodiesForgotten { numbers: vec![2] },
        Event::Accounted(account),
    ] {
        to.add(Sample::Event, &event);
    }
    let settings = Arc::new(channel::Settings {
        title: catalogue::Text { ru: "ЕГРН".into(), en: "Land register".into() },
        connectors: vec!["egrn-1".into()],
        rate: Some(channel::Rate { messages: 10, per_ms: 1_000, burst: 20 }),
        ..channel::Settings::default()
    });
    let letter = |state| {
        Arc::new(channel::Inbox {
            number: 3,
            outside_id: "out-1".into(),
            about: "a.1".into(),
            kind: "notice".into(),
            subject: "письмо".into(),
            body: body.clone(),
            received_ms: AT_MS,
            connector: "egrn-1".into(),
            state,
        })
    };
    let dropped = LetterState::Dropped {
        reason: "не наше".into(),
        by: Principal { kind: "operator".into(), id: "anna".into() },
        at_ms: AT_MS,
    };
    for event in [
        Event::Configured { settings: settings.clone(), version: 1 },
        Event::LetterMoved { letter: letter(LetterState::Routing { case: "a".into() }) },
        Event::LetterMoved { letter: letter(LetterState::Taken { case: "a".into(), at_ms: AT_MS }) },
        Event::LetterMoved {
            letter: letter(LetterState::Parked { reason: "CASE_UNKNOWN".into(), since_ms: AT_MS }),
        },
        Event::LetterMoved { letter: letter(dropped.clone()) },
        Event::Steered { mode: channel::Mode::Draining, reason: "заменяем".into() },
    ] {
        to.add(Sample::Event, &event);
    }
    for part in [
        channel::Part::Message(message(MessageState::Ready)),
        channel::Part::Letter(letter(dropped)),
        channel::Part::Settings(settings),
    ] {
        to.add(Sample::Part, &part);
    }
    to.add(
        Sample::Root,
        &channel::Root {
            version: 1,
            mode: channel::Mode::Paused,
            mode_reason: "работы".into(),
            mode_since_ms: AT_MS,
            changed_ms: AT_MS,
            last_sequence: 5,
            last_token: 9,
            last_body: 3,
            last_letter: 3,
            account,
            counts: channel::Counts {
                live: 1,
                out: 1,
                asking: 0,
                dead: 2,
                letters: 3,
                parked: 1,
                oldest_ms: Some(AT_MS),
            },
            handed_total: 9,
            failed_total: 2,
            ended_total: 4,
        },
    );
    let exchanged = channel::Exchanged {
        results: vec![channel::Settled {
            id: "a.2".into(),
            reason: "DELIVERY_LOST".into(),
            withdrawn: false,
        }],
        handed: vec![message(MessageState::Out {
            token,
            connector: "egrn-1".into(),
            instance: "host-7".into(),
            since_ms: AT_MS,
        })],
        again_ms: Some(AT_MS),
        ack_ms: 5_000,
        work_ms: 300_000,
    };
    let received =
        channel::Received { outside_id: "out-1".into(), number: 3, duplicate: true, reason: String::new() };
    for reply in [
        channel::Reply::None,
        channel::Reply::Configured { version: 1 },
        channel::Reply::Exchanged(Box::new(exchanged)),
        channel::Reply::Lapsed { count: 2 },
        channel::Reply::Received { results: vec![received] },
        channel::Reply::Steered { mode: channel::Mode::Open },
        channel::Reply::Moved { count: 1, left: 2 },
        channel::Reply::Letter(letter(LetterState::Routing { case: "a".into() })),
    ] {
        to.add(Sample::Reply, &reply);
    }
}
