//! What the judge of channels believes, and what it does not.

use super::*;

/// When everything here happens.
const NOW: i64 = 1_000;
const BODY: Digest = [1; 32];
const ANSWER: Digest = [2; 32];

fn message(id: &str, stand: Stand) -> Message {
    let (depth, expires_ms, subs) = (0, None, Vec::new());
    Message { id: id.into(), sequence: 1, body: BODY, depth, expires_ms, subs, stand }
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
    let answer = match &state {
        Asked::Closed(outcome) if outcome == "answered" => Some(ANSWER),
        _ => None,
    };
    Happened::Request { id: "c.1".into(), state, answer, others: Vec::new() }
}

fn ended(outcome: &str, body: Option<Digest>) -> Happened {
    Happened::Ended { channel: "registry".into(), id: "c.1".into(), outcome: outcome.into(), body }
}

/// A request that was sent, accepted and handed out with token 1.
fn asked() -> Exchange {
    let mut exchange = Exchange::default();
    exchange.committed(NOW, &Cause::Other, vec![request(Asked::Sent)]);
    exchange.committed(NOW, &Cause::Other, vec![moved("c.1", Move::Accepted, Stand::Ready)]);
    exchange.committed(NOW, &take(), vec![moved("c.1", Move::HandedOut, out(1))]);
    assert_eq!(exchange.take_breaches(), []);
    exchange
}

fn broken(exchange: &mut Exchange) -> Vec<Invariant> {
    exchange.take_breaches().into_iter().map(|(id, _)| id).collect()
}

#[test]
fn a_request_answered_once_is_believed() {
    let mut exchange = asked();
    let lapse = Cause::Lapse { term: 1, deliveries: vec![("c.1".into(), (0, 1, 1))] };
    exchange.lapses(1, "c.1", (0, 1, 1), Why::Unheard);
    exchange.committed(NOW, &lapse, vec![moved("c.1", Move::Unheard, Stand::Ready)]);
    exchange.committed(NOW, &take(), vec![moved("c.1", Move::HandedOut, out(2))]);
    exchange.committed(NOW, &says(2, Said::Progress), vec![moved("c.1", Move::Progressed, out(2))]);
    exchange.committed(NOW, &says(2, Said::Complete(Some(ANSWER))), vec![ended("answered", Some(ANSWER))]);
    exchange.committed(NOW, &Cause::Other, vec![request(Asked::Closed("answered".into()))]);
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
fn what_came_with_failed_attempts_is_the_cases_to_name() {
    let closed = |others: &[Digest]| {
        let mut exchange = asked();
        for attempt in 1..=10 {
            let said = Said::Fail(Some([100 + u8::try_from(attempt).unwrap_or(0); 32]));
            exchange.committed(
                NOW,
                &says(attempt, said.clone()),
                vec![moved("c.1", Move::Failed, Stand::Delayed)],
            );
            exchange.committed(NOW, &take(), vec![moved("c.1", Move::HandedOut, out(attempt + 1))]);
        }
        let again = Said::Fail(Some([101; 32]));
        exchange.committed(NOW, &says(11, again), vec![moved("c.1", Move::Failed, Stand::Delayed)]);
        exchange.committed(NOW, &take(), vec![moved("c.1", Move::HandedOut, out(12))]);
        exchange.committed(
            NOW,
            &says(12, Said::Complete(Some(ANSWER))),
            vec![ended("answered", Some(ANSWER))],
        );
        let state = Asked::Closed("answered".into());
        let others = others.to_vec();
        let told = Happened::Request { id: "c.1".into(), state, answer: Some(ANSWER), others };
        exchange.committed(NOW, &Cause::Other, vec![told]);
        broken(&mut exchange)
    };
    let kept: Vec<Digest> = [101, 102, 103, 104, 105, 106, 107, 110].map(|body| [body; 32]).to_vec();
    assert_eq!(closed(&kept), []);
    assert_eq!(closed(&kept[..7]), [Invariant::BodiesKept]);
    assert_eq!(closed(&[]), [Invariant::BodiesKept]);
}

#[test]
fn an_old_token_that_counts_is_seen() {
    let lapse = Cause::Lapse { term: 1, deliveries: vec![("c.1".into(), (0, 1, 1))] };
    let again = || {
        let mut exchange = asked();
        exchange.lapses(1, "c.1", (0, 1, 1), Why::Unheard);
        exchange.committed(NOW, &lapse, vec![moved("c.1", Move::Failed, Stand::Delayed)]);
        exchange.committed(NOW, &take(), vec![moved("c.1", Move::HandedOut, out(2))]);
        assert_eq!(exchange.take_breaches(), []);
        exchange
    };
    let mut exchange = again();
    exchange.committed(NOW, &says(1, Said::Complete(None)), vec![ended("answered", None)]);
    assert_eq!(broken(&mut exchange), [Invariant::TokenNewest]);
    let mut exchange = again();
    exchange.committed(NOW, &lapse, vec![moved("c.1", Move::Failed, Stand::Delayed)]);
    assert_eq!(broken(&mut exchange), [Invariant::TokenNewest]);
    let mut exchange = again();
    let other = Cause::Exchange {
        connector: "two".into(),
        verdicts: vec![Verdict { id: "c.1".into(), token: (0, 1, 2), said: Said::Fail(None) }],
    };
    exchange.committed(NOW, &other, vec![moved("c.1", Move::Failed, Stand::Delayed)]);
    assert_eq!(broken(&mut exchange), [Invariant::TokenNewest]);
    let mut exchange = again();
    exchange.told(&Verdict { id: "c.1".into(), token: (0, 1, 2), said: Said::Complete(None) }, "");
    assert_eq!(broken(&mut exchange), [Invariant::TokenNewest]);
    // A token that was given before is none.
    let mut exchange = asked();
    exchange.lapses(1, "c.1", (0, 1, 1), Why::Unheard);
    exchange.committed(NOW, &lapse, vec![moved("c.1", Move::Unheard, Stand::Ready)]);
    exchange.committed(NOW, &take(), vec![moved("c.1", Move::HandedOut, out(1))]);
    assert_eq!(broken(&mut exchange), [Invariant::TokenNewest]);
}

#[test]
fn an_answer_too_many_or_another_is_seen() {
    let mut exchange = asked();
    exchange.committed(NOW, &says(1, Said::Complete(Some(ANSWER))), vec![ended("answered", Some(BODY))]);
    assert_eq!(broken(&mut exchange), [Invariant::BodiesKept]);
    exchange.committed(NOW, &Cause::Other, vec![ended("answered", None)]);
    assert_eq!(broken(&mut exchange), [Invariant::AnsweredOnce, Invariant::TokenNewest]);
    exchange.committed(NOW, &Cause::Other, vec![request(Asked::Closed("rejected".into()))]);
    assert_eq!(broken(&mut exchange), [Invariant::AnsweredOnce]);
    exchange.committed(NOW, &Cause::Other, vec![request(Asked::Closed("answered".into()))]);
    assert_eq!(broken(&mut exchange), [Invariant::AnsweredOnce], "closed twice");
    exchange.committed(NOW, &Cause::Other, vec![moved("c.1", Move::Accepted, Stand::Ready)]);
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
    exchange.committed(NOW, &brought, vec![letter(1, BODY)]);
    exchange.committed(NOW, &Cause::Other, vec![letter(1, BODY)]);
    exchange.told_letter("registry", "out-1", 1, true);
    let case =
        || Happened::CaseLetter { case: "c".into(), channel: "registry".into(), number: 1, body: BODY };
    exchange.committed(NOW, &Cause::Other, vec![case()]);
    assert_eq!(exchange.take_breaches(), []);
    exchange.committed(NOW, &Cause::Other, vec![case()]);
    assert_eq!(broken(&mut exchange), [Invariant::LetterOnce]);
    exchange.committed(NOW, &brought, vec![letter(2, BODY)]);
    assert_eq!(broken(&mut exchange), [Invariant::LetterOnce]);
    exchange.told_letter("registry", "out-2", 9, false);
    assert_eq!(broken(&mut exchange), [Invariant::LetterOnce]);
    let mut exchange = Exchange::default();
    exchange.committed(NOW, &brought, vec![letter(1, ANSWER)]);
    assert_eq!(broken(&mut exchange), [Invariant::BodiesKept]);
    // Forgotten after its time it is a new one.
    let mut exchange = Exchange::default();
    exchange.committed(NOW, &brought, vec![letter(1, BODY)]);
    let forgotten = Happened::LettersForgotten { channel: "registry".into(), numbers: vec![1] };
    exchange.committed(NOW, &Cause::Other, vec![forgotten]);
    exchange.committed(NOW, &brought, vec![letter(2, BODY)]);
    assert_eq!(exchange.take_breaches(), []);
}

fn wanted(channel: &str) -> Wanted {
    Wanted { channel: channel.into(), body: BODY, expires_ms: Some(500) }
}

fn sub(n: u32, channel: &str, answer: Option<(&str, Option<Digest>)>) -> Sub {
    let answer = answer.map(|(outcome, body)| (outcome.to_owned(), body));
    Sub { id: format!("c.1.{n}"), channel: channel.into(), body: BODY, answer }
}

fn with(subs: &[Sub], what: Move, stand: Stand) -> Happened {
    let message = Message { subs: subs.to_vec(), ..message("c.1", stand) };
    Happened::Moved { channel: "registry".into(), message, what }
}

/// What the archive does with the first of the requests within.
fn there(what: Move, expires_ms: Option<i64>, stand: Stand) -> Happened {
    let message = Message { depth: 1, expires_ms, ..message("c.1.1", stand) };
    Happened::Moved { channel: "archive".into(), message, what }
}

fn ended_there(outcome: &str, body: Option<Digest>) -> Happened {
    let (channel, outcome) = ("archive".into(), outcome.into());
    Happened::Ended { channel, id: "c.1.1".into(), outcome, body }
}

/// A request on whose account two others are asked: the archive, and one that takes nothing.
fn asking() -> Exchange {
    let mut exchange = asked();
    let ask = says(1, Said::Ask(vec![wanted("archive"), wanted("nowhere")]));
    let subs = [sub(1, "archive", None), sub(2, "nowhere", None)];
    exchange.committed(NOW, &ask, vec![with(&subs, Move::Asked, Stand::Asking)]);
    assert_eq!(exchange.take_breaches(), []);
    exchange
}

#[test]
fn requests_within_a_request_are_believed() {
    let mut exchange = asking();
    exchange.committed(NOW, &Cause::Other, vec![there(Move::Accepted, Some(NOW + 500), Stand::Ready)]);
    let refused = sub(2, "nowhere", Some(("refused", None)));
    let subs = [sub(1, "archive", None), refused.clone()];
    exchange.committed(NOW, &Cause::Other, vec![with(&subs, Move::SubAnswered, Stand::Asking)]);
    exchange.committed(NOW + 500, &Cause::Other, vec![ended_there("expired", None)]);
    let subs = [sub(1, "archive", Some(("expired", None))), refused];
    exchange.committed(NOW + 501, &Cause::Other, vec![with(&subs, Move::SubAnswered, Stand::Ready)]);
    exchange.committed(NOW + 502, &take(), vec![with(&subs, Move::HandedOut, out(2))]);
    let complete = says(2, Said::Complete(Some(ANSWER)));
    exchange.committed(NOW + 503, &complete, vec![ended("answered", Some(ANSWER))]);
    let closed = |others| {
        let state = Asked::Closed("answered".into());
        vec![Happened::Request { id: "c.1".into(), state, answer: Some(ANSWER), others }]
    };
    exchange.committed(NOW + 504, &Cause::Other, closed(vec![BODY, BODY]));
    assert_eq!(exchange.take_breaches(), []);
    let facts = exchange.facts();
    assert_eq!((facts.within, facts.within_answered, facts.within_expired, facts.deepest), (2, 2, 1, 1));
}

#[test]
fn bodies_that_a_case_does_not_name_are_seen() {
    let mut exchange = asked();
    let ask = says(1, Said::Ask(vec![wanted("archive")]));
    let subs = [sub(1, "archive", None)];
    exchange.committed(NOW, &ask, vec![with(&subs, Move::Asked, Stand::Asking)]);
    let subs = [sub(1, "archive", Some(("refused", None)))];
    exchange.committed(NOW, &Cause::Other, vec![with(&subs, Move::SubAnswered, Stand::Ready)]);
    exchange.committed(NOW, &take(), vec![with(&subs, Move::HandedOut, out(2))]);
    exchange.committed(NOW, &says(2, Said::Complete(Some(ANSWER))), vec![ended("answered", Some(ANSWER))]);
    assert_eq!(exchange.take_breaches(), []);
    exchange.committed(NOW, &Cause::Other, vec![request(Asked::Closed("answered".into()))]);
    assert_eq!(broken(&mut exchange), [Invariant::BodiesKept]);
}

#[test]
fn a_message_that_does_not_wait_for_all_is_seen() {
    let refused = sub(2, "nowhere", Some(("refused", None)));
    // It waits for its turn again though one is open.
    let mut exchange = asking();
    let subs = [sub(1, "archive", None), refused.clone()];
    exchange.committed(NOW, &Cause::Other, vec![with(&subs, Move::SubAnswered, Stand::Ready)]);
    assert_eq!(broken(&mut exchange), [Invariant::AsksBounded]);
    exchange.committed(NOW, &take(), vec![with(&subs, Move::HandedOut, out(2))]);
    assert_eq!(broken(&mut exchange), [Invariant::AsksBounded]);
    // It ends.
    let mut exchange = asking();
    exchange.committed(NOW, &Cause::Other, vec![ended("withdrawn", None)]);
    assert_eq!(broken(&mut exchange), [Invariant::AsksBounded]);
    // It waits on though all have answered.
    let mut exchange = asking();
    let subs = [sub(1, "archive", Some(("refused", None))), sub(2, "nowhere", None)];
    exchange.committed(NOW, &Cause::Other, vec![with(&subs, Move::SubAnswered, Stand::Asking)]);
    let subs = [sub(1, "archive", Some(("refused", None))), refused];
    exchange.committed(NOW, &Cause::Other, vec![with(&subs, Move::SubAnswered, Stand::Asking)]);
    assert_eq!(broken(&mut exchange), [Invariant::AsksBounded]);
}

#[test]
fn an_answer_that_nobody_gave_and_one_told_twice_are_seen() {
    let told = |outcome, body, stand| {
        let subs = [sub(1, "archive", Some((outcome, body))), sub(2, "nowhere", None)];
        vec![with(&subs, Move::SubAnswered, stand)]
    };
    let mut exchange = asking();
    exchange.committed(NOW, &Cause::Other, told("answered", Some(ANSWER), Stand::Asking));
    assert_eq!(broken(&mut exchange), [Invariant::AsksBounded], "nobody answered");
    let mut exchange = asking();
    exchange.committed(NOW, &Cause::Other, vec![there(Move::Accepted, Some(NOW + 500), Stand::Ready)]);
    exchange.committed(NOW, &Cause::Other, told("refused", None, Stand::Asking));
    assert_eq!(broken(&mut exchange), [Invariant::AsksBounded], "it was taken");
    let mut exchange = asking();
    exchange.committed(NOW, &Cause::Other, vec![there(Move::Accepted, Some(NOW + 500), Stand::Ready)]);
    exchange.committed(NOW + 500, &Cause::Other, vec![ended_there("expired", None)]);
    exchange.committed(NOW, &Cause::Other, told("expired", None, Stand::Asking));
    assert_eq!(exchange.take_breaches(), []);
    exchange.committed(NOW, &Cause::Other, told("expired", Some(BODY), Stand::Asking));
    assert_eq!(broken(&mut exchange), [Invariant::AsksBounded], "told twice");
}

#[test]
fn requests_beyond_their_bounds_are_seen() {
    let ask = |wanted: Vec<Wanted>, subs: &[Sub]| {
        let mut exchange = asked();
        exchange.committed(NOW, &says(1, Said::Ask(wanted)), vec![with(subs, Move::Asked, Stand::Asking)]);
        broken(&mut exchange)
    };
    let many: Vec<_> = (1..=9).map(|n| sub(n, "archive", None)).collect();
    assert_eq!(ask(vec![wanted("archive"); 8], &many[..8]), []);
    assert_eq!(ask(vec![wanted("archive"); 9], &many), [Invariant::AsksBounded], "too many");
    assert_eq!(
        ask(vec![wanted("registry")], &[sub(1, "registry", None)]),
        [Invariant::AsksBounded],
        "itself"
    );
    assert_eq!(ask(vec![wanted("archive")], &[sub(1, "nowhere", None)]), [Invariant::AsksBounded], "another");
    assert_eq!(ask(vec![wanted("archive")], &[sub(2, "archive", None)]), [Invariant::AsksBounded], "its id");
    // One within must end by the time it was given, and lies one deeper.
    for (expires_ms, fine) in [(Some(NOW + 500), true), (Some(NOW + 501), false), (None, false)] {
        let mut exchange = asking();
        exchange.committed(NOW, &Cause::Other, vec![there(Move::Accepted, expires_ms, Stand::Ready)]);
        assert_eq!(broken(&mut exchange).is_empty(), fine, "{expires_ms:?}");
    }
    let mut exchange = asked();
    exchange.committed(NOW, &Cause::Other, vec![there(Move::Accepted, Some(NOW), Stand::Ready)]);
    assert!(broken(&mut exchange).contains(&Invariant::AsksBounded), "nobody asked");
    // Nothing is handed out whose time is over, and nothing expires before it.
    let mut exchange = asking();
    exchange.committed(NOW, &Cause::Other, vec![there(Move::Accepted, Some(NOW + 500), Stand::Ready)]);
    exchange.committed(NOW + 499, &Cause::Other, vec![ended_there("expired", None)]);
    assert_eq!(broken(&mut exchange), [Invariant::AsksBounded]);
    let mut exchange = asking();
    exchange.committed(NOW, &Cause::Other, vec![there(Move::Accepted, Some(NOW + 500), Stand::Ready)]);
    exchange.committed(NOW + 500, &take(), vec![there(Move::HandedOut, Some(NOW + 500), out(2))]);
    assert_eq!(broken(&mut exchange), [Invariant::AsksBounded]);
    // What was within the bounds is not refused as beyond them.
    let mut exchange = asked();
    let verdict = Verdict { id: "c.1".into(), token: (0, 1, 1), said: Said::Ask(vec![wanted("archive")]) };
    exchange.told(&verdict, "SUBREQUEST_IMPOSSIBLE");
    assert_eq!(broken(&mut exchange), [Invariant::AsksBounded]);
    let said = Said::Ask(vec![wanted("registry")]);
    exchange.told(&Verdict { said, ..verdict }, "SUBREQUEST_IMPOSSIBLE");
    assert_eq!(exchange.take_breaches(), []);
}

#[test]
fn a_delivery_has_its_whole_time() {
    const TOKEN: Token = (0, 1, 1);
    let handed = || {
        let mut exchange = Exchange::with_leases(1_000, 2_000);
        exchange.leads(1);
        exchange.now(1_000_000);
        exchange.committed(NOW, &Cause::Other, vec![moved("c.1", Move::Accepted, Stand::Ready)]);
        exchange.committed(NOW, &take(), vec![moved("c.1", Move::HandedOut, out(1))]);
        exchange
    };
    let lapses = |exchange: &mut Exchange, now_us: u64, term: u64, why: Why| {
        exchange.now(now_us);
        exchange.lapses(term, "c.1", TOKEN, why);
        let broken = broken(exchange);
        assert!(broken.is_empty() || broken == [Invariant::LeaseKept]);
        broken.is_empty()
    };
    // A fifth faster than true time is still sound.
    assert!(!lapses(&mut handed(), 1_800_000, 1, Why::Unheard));
    assert!(lapses(&mut handed(), 1_840_000, 1, Why::Unheard));
    assert!(!lapses(&mut handed(), 9_000_000, 1, Why::Overdue), "nobody works on it");
    assert!(!lapses(&mut handed(), 9_000_000, 1, Why::Gone), "nobody said goodbye");
    let acknowledged = || {
        let mut exchange = handed();
        exchange.now(1_500_000);
        exchange.acknowledged(1, "c.1", TOKEN);
        exchange
    };
    assert!(!lapses(&mut acknowledged(), 9_000_000, 1, Why::Unheard), "it was heard of");
    assert!(!lapses(&mut acknowledged(), 3_000_000, 1, Why::Overdue));
    assert!(lapses(&mut acknowledged(), 3_200_000, 1, Why::Overdue));
    // A report begins the work time anew.
    let mut reported = acknowledged();
    reported.now(3_000_000);
    reported.committed(NOW, &says(1, Said::Progress), vec![moved("c.1", Move::Progressed, out(1))]);
    reported.reported(1, "c.1", TOKEN);
    assert!(!lapses(&mut reported, 3_200_000, 1, Why::Overdue));
    assert!(lapses(&mut reported, 4_700_000, 1, Why::Overdue));
    // A report says that it arrived, too: an acknowledgement that comes later begins nothing anew.
    let late = || {
        let mut exchange = handed();
        exchange.now(1_500_000);
        exchange.committed(NOW, &says(1, Said::Progress), vec![moved("c.1", Move::Progressed, out(1))]);
        exchange.reported(1, "c.1", TOKEN);
        exchange.now(3_100_000);
        exchange.acknowledged(1, "c.1", TOKEN);
        exchange
    };
    assert!(!lapses(&mut late(), 3_100_000, 1, Why::Overdue));
    assert!(!lapses(&mut late(), 3_200_000, 1, Why::Unheard));
    assert!(lapses(&mut late(), 3_200_000, 1, Why::Overdue));
    // The way is lost: what was not acknowledged goes back at once, what was stays until a goodbye.
    for (gone, overdue) in [(false, false), (true, true)] {
        let mut lost = handed();
        lost.given_back("c.1", TOKEN, gone);
        assert!(lapses(&mut lost, 1_100_000, 1, Why::Unheard));
        let mut lost = acknowledged();
        lost.given_back("c.1", TOKEN, gone);
        assert!(!lapses(&mut lost, 1_600_000, 1, Why::Overdue));
        assert_eq!(lapses(&mut lost, 1_600_000, 1, Why::Gone), overdue);
    }
    // A new leader grants one whole work time, acknowledged or not.
    let led_anew = || {
        let mut exchange = handed();
        exchange.now(5_000_000);
        exchange.leads(2);
        exchange
    };
    assert!(!lapses(&mut led_anew(), 9_000_000, 2, Why::Unheard));
    assert!(!lapses(&mut led_anew(), 6_600_000, 2, Why::Overdue));
    assert!(lapses(&mut led_anew(), 6_700_000, 2, Why::Overdue));
    let mut unknown = handed();
    unknown.lapses(1, "c.1", (0, 1, 9), Why::Unheard);
    assert_eq!(broken(&mut unknown), [Invariant::LeaseKept]);
}

/// A leader that was paused and deposed goes by what it heard itself, and says that a delivery is overdue that another one
/// knows to be worked on. That is no fault; that somebody heeds it is.
#[test]
fn a_former_leaders_clock_ends_nothing() {
    const TOKEN: Token = (0, 1, 1);
    let worked_on = || {
        let mut exchange = Exchange::with_leases(1_000, 2_000);
        exchange.leads(1);
        exchange.committed(NOW, &Cause::Other, vec![moved("c.1", Move::Accepted, Stand::Ready)]);
        exchange.committed(NOW, &take(), vec![moved("c.1", Move::HandedOut, out(1))]);
        exchange.acknowledged(1, "c.1", TOKEN);
        exchange.now(1_000_000);
        exchange.leads(2);
        exchange.acknowledged(2, "c.1", TOKEN);
        exchange.now(2_500_000);
        exchange.committed(NOW, &says(1, Said::Progress), vec![moved("c.1", Move::Progressed, out(1))]);
        exchange.reported(2, "c.1", TOKEN);
        exchange.now(3_000_000);
        exchange.lapses(1, "c.1", TOKEN, Why::Overdue);
        assert_eq!(exchange.take_breaches(), []);
        exchange
    };
    let mut own = worked_on();
    own.lapses(2, "c.1", TOKEN, Why::Overdue);
    assert_eq!(broken(&mut own), [Invariant::LeaseKept]);
    for (term, expected) in [(1, vec![]), (2, vec![Invariant::LeaseKept])] {
        let lapse = Cause::Lapse { term, deliveries: vec![("c.1".into(), TOKEN)] };
        let mut heeded = worked_on();
        heeded.committed(NOW, &lapse, vec![moved("c.1", Move::Failed, Stand::Delayed)]);
        assert_eq!(broken(&mut heeded), expected);
        let mut heeded = worked_on();
        heeded.committed(NOW, &lapse, vec![ended("withdrawn", None)]);
        assert_eq!(broken(&mut heeded), expected);
    }
}
