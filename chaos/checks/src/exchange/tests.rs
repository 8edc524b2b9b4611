//! What the judge of channels believes, and what it does not.

use super::*;

const BODY: Digest = [1; 32];
const ANSWER: Digest = [2; 32];

fn message(id: &str, stand: Stand) -> Message {
    Message { id: id.into(), sequence: 1, body: BODY, stand }
}

fn moved(id: &str, what: Move, stand: Stand) -> Happened {
    Happened::Moved { channel: "registry".into(), message: message(id, stand), what }
}

fn out(sequence: u64) -> Stand {
    Stand::Out { token: (0, 1, sequence), connector: "one".into() }
}

fn says(sequence: u64, said: Said) -> Cause {
    let verdict = Verdict { id: "c.1".into(), token: (0, 1, sequence), said };
    Cause::Exchange { connector: "one".into(), verdicts: vec![verdict] }
}

fn take() -> Cause {
    Cause::Exchange { connector: "one".into(), verdicts: Vec::new() }
}

fn request(state: Asked) -> Happened {
    Happened::Request { id: "c.1".into(), state, answer: None }
}

fn ended(outcome: &str, body: Option<Digest>) -> Happened {
    Happened::Ended { channel: "registry".into(), id: "c.1".into(), outcome: outcome.into(), body }
}

/// A request that was sent, accepted and handed out with token 1.
fn asked() -> Exchange {
    let mut exchange = Exchange::default();
    exchange.committed(&Cause::Other, vec![request(Asked::Sent)]);
    exchange.committed(&Cause::Other, vec![moved("c.1", Move::Accepted, Stand::Ready)]);
    exchange.committed(&take(), vec![moved("c.1", Move::HandedOut, out(1))]);
    assert_eq!(exchange.take_breaches(), []);
    exchange
}

fn broken(exchange: &mut Exchange) -> Vec<Invariant> {
    exchange.take_breaches().into_iter().map(|(id, _)| id).collect()
}

#[test]
fn a_request_answered_once_is_believed() {
    let mut exchange = asked();
    let lapse = Cause::Lapse(vec![("c.1".into(), (0, 1, 1))]);
    exchange.committed(&lapse, vec![moved("c.1", Move::Unheard, Stand::Ready)]);
    exchange.committed(&take(), vec![moved("c.1", Move::HandedOut, out(2))]);
    exchange.committed(&says(2, Said::Progress), vec![moved("c.1", Move::Progressed, out(2))]);
    exchange.committed(&says(2, Said::Complete(Some(ANSWER))), vec![ended("answered", Some(ANSWER))]);
    exchange.committed(&Cause::Other, vec![request(Asked::Closed("answered".into()))]);
    exchange.told(&Verdict { id: "c.1".into(), token: (0, 1, 2), said: Said::Complete(Some(ANSWER)) }, "");
    exchange.told_handed("c.1", (0, 1, 1));
    let held = Held {
        node: 1,
        messages: Vec::new(),
        requests: vec![("c.1".into(), Asked::Closed("answered".into()))],
        bodies: vec![("the answer".into(), ANSWER, Some(ANSWER))],
    };
    exchange.held(&held);
    assert_eq!(exchange.take_breaches(), []);
    exchange.held(&Held { bodies: vec![("the answer".into(), ANSWER, None)], ..held.clone() });
    assert_eq!(broken(&mut exchange), [Invariant::BodiesKept]);
    exchange.held(&Held { requests: Vec::new(), ..held.clone() });
    assert_eq!(broken(&mut exchange), [Invariant::AnsweredOnce]);
    exchange.held(&Held { messages: vec![("registry".into(), message("c.1", Stand::Ready))], ..held });
    assert_eq!(broken(&mut exchange), [Invariant::AnsweredOnce]);
}

#[test]
fn an_old_token_that_counts_is_seen() {
    let lapse = Cause::Lapse(vec![("c.1".into(), (0, 1, 1))]);
    let again = || {
        let mut exchange = asked();
        exchange.committed(&lapse, vec![moved("c.1", Move::Failed, Stand::Delayed)]);
        exchange.committed(&take(), vec![moved("c.1", Move::HandedOut, out(2))]);
        assert_eq!(exchange.take_breaches(), []);
        exchange
    };
    let mut exchange = again();
    exchange.committed(&says(1, Said::Complete(None)), vec![ended("answered", None)]);
    assert_eq!(broken(&mut exchange), [Invariant::TokenNewest]);
    let mut exchange = again();
    exchange.committed(&lapse, vec![moved("c.1", Move::Failed, Stand::Delayed)]);
    assert_eq!(broken(&mut exchange), [Invariant::TokenNewest]);
    let mut exchange = again();
    let other = Cause::Exchange {
        connector: "two".into(),
        verdicts: vec![Verdict { id: "c.1".into(), token: (0, 1, 2), said: Said::Fail }],
    };
    exchange.committed(&other, vec![moved("c.1", Move::Failed, Stand::Delayed)]);
    assert_eq!(broken(&mut exchange), [Invariant::TokenNewest]);
    let mut exchange = again();
    exchange.told(&Verdict { id: "c.1".into(), token: (0, 1, 2), said: Said::Complete(None) }, "");
    assert_eq!(broken(&mut exchange), [Invariant::TokenNewest]);
    // A token that was given before is none.
    let mut exchange = asked();
    exchange.committed(&lapse, vec![moved("c.1", Move::Unheard, Stand::Ready)]);
    exchange.committed(&take(), vec![moved("c.1", Move::HandedOut, out(1))]);
    assert_eq!(broken(&mut exchange), [Invariant::TokenNewest]);
}

#[test]
fn an_answer_too_many_or_another_is_seen() {
    let mut exchange = asked();
    exchange.committed(&says(1, Said::Complete(Some(ANSWER))), vec![ended("answered", Some(BODY))]);
    assert_eq!(broken(&mut exchange), [Invariant::BodiesKept]);
    exchange.committed(&Cause::Other, vec![ended("answered", None)]);
    assert_eq!(broken(&mut exchange), [Invariant::AnsweredOnce, Invariant::TokenNewest]);
    exchange.committed(&Cause::Other, vec![request(Asked::Closed("rejected".into()))]);
    assert_eq!(broken(&mut exchange), [Invariant::AnsweredOnce]);
    exchange.committed(&Cause::Other, vec![request(Asked::Closed("answered".into()))]);
    assert_eq!(broken(&mut exchange), [Invariant::AnsweredOnce], "closed twice");
    exchange.committed(&Cause::Other, vec![moved("c.1", Move::Accepted, Stand::Ready)]);
    assert_eq!(broken(&mut exchange), [Invariant::AnsweredOnce], "taken again");
    let mut exchange = asked();
    let held = Held {
        node: 1,
        messages: vec![("registry".into(), message("c.1", out(1)))],
        requests: vec![("c.1".into(), Asked::Sent)],
        bodies: Vec::new(),
    };
    exchange.held(&held);
    assert_eq!(broken(&mut exchange), [Invariant::AnsweredOnce], "never answered");
}

#[test]
fn a_letter_taken_twice_is_seen() {
    let letter = |number, body| Happened::Letter {
        channel: "registry".into(),
        number,
        outside_id: "out-1".into(),
        body,
    };
    let brought = Cause::Receive(vec![("out-1".into(), BODY)]);
    let mut exchange = Exchange::default();
    exchange.committed(&brought, vec![letter(1, BODY)]);
    exchange.committed(&Cause::Other, vec![letter(1, BODY)]);
    exchange.told_letter("registry", "out-1", 1, true);
    let case =
        || Happened::CaseLetter { case: "c".into(), channel: "registry".into(), number: 1, body: BODY };
    exchange.committed(&Cause::Other, vec![case()]);
    assert_eq!(exchange.take_breaches(), []);
    exchange.committed(&Cause::Other, vec![case()]);
    assert_eq!(broken(&mut exchange), [Invariant::LetterOnce]);
    exchange.committed(&brought, vec![letter(2, BODY)]);
    assert_eq!(broken(&mut exchange), [Invariant::LetterOnce]);
    exchange.told_letter("registry", "out-2", 9, false);
    assert_eq!(broken(&mut exchange), [Invariant::LetterOnce]);
    let mut exchange = Exchange::default();
    exchange.committed(&brought, vec![letter(1, ANSWER)]);
    assert_eq!(broken(&mut exchange), [Invariant::BodiesKept]);
    // Forgotten after its time it is a new one.
    let mut exchange = Exchange::default();
    exchange.committed(&brought, vec![letter(1, BODY)]);
    let forgotten = Happened::LettersForgotten { channel: "registry".into(), numbers: vec![1] };
    exchange.committed(&Cause::Other, vec![forgotten]);
    exchange.committed(&brought, vec![letter(2, BODY)]);
    assert_eq!(exchange.take_breaches(), []);
}
