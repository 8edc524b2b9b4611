//! Channels: deliveries, verdicts, letters, figures.

use super::{Converted, required, timestamp};
use crate::failure::{Failure, Language};
use bytes::Bytes;
use okno_domain::{
    channel::{
        Breaker, Mode, NewLetter, Outgoing, Said, Settled, SubAnswer, SubAsk, SubRequest, Take, Token,
        Verdict, Which,
    },
    entity::{EntityRef, Kind},
    exchange::{BODY_BYTES_MAX, BodyRef, CODE_MAX, Content, Outcome},
    refusal::{BODY_TOO_LARGE, CALL_TOO_LARGE, refuse},
};
use okno_proto::v1::{self, verdict::Said as Wire};
use okno_runtime::channels::{ChannelHead, Delivered, Session};

/// Items of one call: the domain's own bound, seen before a command is made of them.
const ITEMS_MAX: usize = okno_domain::channel::ITEMS_MAX;
/// Bytes of bodies of one hand-out: 64 of the largest would be more than a message may carry.
pub const TAKE_BYTES_MAX: u32 = 768 * 1024;
/// Why a delivery may be dropped although it still counts: whoever asked needs it no longer.
pub const WITHDRAWN: &str = "WITHDRAWN";
/// Characters of a process's name for itself.
const SOFTWARE_MAX: usize = 100;

/// A channel's code; its form is checked before it becomes a key.
pub fn channel_ref(code: &str) -> Converted<EntityRef> {
    required("channel", code)?;
    if !okno_domain::channel::settings::is_code(code) {
        return Err(Failure::field(
            "channel",
            "ожидается код из 1–64 знаков a-z, 0-9, «.», «-», «_»",
            "expected a code of 1 to 64 of a-z, 0-9, '.', '-', '_'",
        ));
    }
    Ok(EntityRef { kind: Kind::Channel, id: code.to_owned() })
}

pub fn instance_from(text: &str) -> Converted<String> {
    if text.is_empty() || text.len() > CODE_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::field(
            "instance",
            "ожидается от 1 до 64 печатных латинских знаков",
            "expected 1 to 64 printable ASCII characters",
        ));
    }
    Ok(text.to_owned())
}

pub fn software_from(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(SOFTWARE_MAX).collect()
}

/// How much a call wants: 0 messages is none.
pub fn take_from(messages: u32, bytes: u32) -> Converted<Take> {
    let most = u32::from(okno_domain::channel::TAKE_MAX);
    if messages > most {
        return Err(Failure::field(
            "messages",
            &format!("не более {most}"),
            &format!("expected at most {most}"),
        ));
    }
    let bytes = if bytes == 0 { TAKE_BYTES_MAX } else { bytes.min(TAKE_BYTES_MAX) };
    Ok(Take { messages: u16::try_from(messages).unwrap_or(okno_domain::channel::TAKE_MAX), bytes })
}

fn within_call(items: usize) -> Converted<()> {
    if items > ITEMS_MAX {
        return Err(Failure::Refused(refuse(CALL_TOO_LARGE).with("items", format!("at most {ITEMS_MAX}"))));
    }
    Ok(())
}

fn content(body: Bytes) -> Converted<Content> {
    if body.len() > BODY_BYTES_MAX {
        return Err(Failure::Refused(
            refuse(BODY_TOO_LARGE).with("bytes", format!("at most {BODY_BYTES_MAX}")),
        ));
    }
    Ok(Content(body.into()))
}

/// A token that is none is one that counts for nothing: its verdict is answered like any late one.
fn token(text: &str) -> Token {
    text.parse().unwrap_or(Token { generation: 0, term: 0, sequence: 0 })
}

pub fn delivered_from(names: Vec<v1::DeliveryName>) -> Converted<Vec<Delivered>> {
    within_call(names.len())?;
    Ok(names
        .into_iter()
        .map(|name| Delivered { token: token(&name.token), id: cut(name.message_id) })
        .collect())
}

/// What a foreign id may cost us: ours have at most 128 characters.
fn cut(mut id: String) -> String {
    if let Some((end, _)) = id.char_indices().nth(160) {
        id.truncate(end);
    }
    id
}

pub fn verdicts_from(verdicts: Vec<v1::Verdict>) -> Converted<Vec<Verdict>> {
    within_call(verdicts.len())?;
    verdicts.into_iter().enumerate().map(|(place, verdict)| verdict_from(place, verdict)).collect()
}

fn verdict_from(place: usize, verdict: v1::Verdict) -> Converted<Verdict> {
    let said = match verdict.said {
        Some(Wire::Complete(v1::CompleteMessage { summary, body })) => {
            Said::Complete { summary, body: body.map(content).transpose()? }
        }
        Some(Wire::Fail(v1::FailMessage { reason, retry_after_ms, body })) => Said::Fail {
            reason,
            retry_after_ms: (retry_after_ms > 0).then_some(retry_after_ms),
            body: body.map(content).transpose()?,
        },
        Some(Wire::Reject(v1::RejectMessage { reason, body })) => {
            Said::Reject { reason, body: body.map(content).transpose()? }
        }
        Some(Wire::Progress(v1::ReportProgress { text })) => Said::Progress { text },
        Some(Wire::Ask(v1::AskOthers { requests })) => {
            Said::Ask { requests: requests.into_iter().map(sub_ask_from).collect::<Converted<_>>()? }
        }
        None => {
            return Err(Failure::field(
                &format!("verdicts[{place}]"),
                "ожидается complete, fail, reject, progress или ask",
                "expected complete, fail, reject, progress or ask",
            ));
        }
    };
    Ok(Verdict { id: cut(verdict.message_id), token: token(&verdict.token), said })
}

fn sub_ask_from(request: v1::OtherRequest) -> Converted<SubAsk> {
    Ok(SubAsk {
        channel: request.channel,
        kind: request.kind,
        key: request.key,
        subject: request.subject,
        body: content(request.body)?,
        expires_ms: (request.expires_in_ms > 0).then_some(request.expires_in_ms),
    })
}

pub fn letters_from(letters: Vec<v1::NewLetter>) -> Converted<Vec<NewLetter>> {
    within_call(letters.len())?;
    letters
        .into_iter()
        .map(|letter| {
            Ok(NewLetter {
                outside_id: letter.outside_id,
                about: letter.about,
                kind: letter.kind,
                subject: letter.subject,
                body: content(letter.body)?,
            })
        })
        .collect()
}

pub fn which_from(message_ids: Vec<String>, oldest: u32) -> Converted<Which> {
    match (message_ids.is_empty(), oldest) {
        (false, 0) => Ok(Which::Named(message_ids)),
        (true, 1..) => Ok(Which::Oldest(u16::try_from(oldest).unwrap_or(u16::MAX))),
        _ => Err(Failure::field(
            "message_ids",
            "ожидаются номера сообщений либо число самых старых",
            "expected ids of messages, or how many of the oldest",
        )),
    }
}

pub fn body_from(path: &str, body: Option<v1::BodyReference>) -> Converted<BodyRef> {
    let malformed = || {
        Failure::field(path, "ожидается ссылка, как она названа", "expected the reference as it was named")
    };
    let body = body.ok_or_else(malformed)?;
    let (kind, id) = body.holder.split_once('/').ok_or_else(malformed)?;
    let kind = Kind::parse(kind).ok_or_else(malformed)?;
    let sha256 = body.sha256.as_ref().try_into().map_err(|_| malformed())?;
    let holder = EntityRef { kind, id: id.to_owned() };
    Ok(BodyRef { holder, number: body.number, sha256, bytes: body.bytes })
}

// ---- to the wire ----

pub fn body(body: &BodyRef) -> v1::BodyReference {
    v1::BodyReference {
        holder: body.holder.to_string(),
        number: body.number,
        sha256: Bytes::copy_from_slice(&body.sha256),
        bytes: body.bytes,
    }
}

pub fn outcome(outcome: &Outcome) -> v1::ExchangeOutcome {
    match outcome {
        Outcome::Answered => v1::ExchangeOutcome::Answered,
        Outcome::Rejected { .. } => v1::ExchangeOutcome::Rejected,
        Outcome::Expired => v1::ExchangeOutcome::Expired,
        Outcome::Discarded { .. } => v1::ExchangeOutcome::Discarded,
        Outcome::Withdrawn => v1::ExchangeOutcome::Withdrawn,
        Outcome::Refused { .. } => v1::ExchangeOutcome::Refused,
    }
}

/// `token`: of the delivery; the message is as it stood when it was handed out.
pub fn delivery(
    channel: &str,
    message: &Outgoing,
    token: Token,
    bytes: Bytes,
    (acknowledge_within_ms, work_within_ms): (u32, u32),
) -> v1::Delivery {
    v1::Delivery {
        message_id: message.id.clone(),
        token: token.to_string(),
        channel: channel.to_owned(),
        kind: message.kind.clone(),
        key: message.key.clone(),
        subject: message.subject.clone(),
        body: bytes,
        sha256: Bytes::copy_from_slice(&message.body.sha256),
        case: message.case.clone(),
        delivery: message.deliveries,
        failed_attempts: message.attempts,
        accepted_at: timestamp(message.accepted_ms),
        expires_at: message.expires_ms.and_then(timestamp),
        answers: message.subs.iter().filter_map(sub_answer).collect(),
        acknowledge_within_ms,
        work_within_ms,
    }
}

fn sub_answer(sub: &SubRequest) -> Option<v1::SubAnswer> {
    let SubAnswer { outcome: ended, summary, body: answer, .. } = sub.answer.as_ref()?;
    Some(v1::SubAnswer {
        message_id: sub.id.clone(),
        channel: sub.channel.clone(),
        kind: sub.kind.clone(),
        outcome: outcome(ended).into(),
        reason: ended.reason().to_owned(),
        summary: summary.clone(),
        body: answer.as_ref().map(body),
    })
}

pub fn result(settled: Settled) -> v1::VerdictResult {
    v1::VerdictResult { message_id: settled.id, reason: settled.reason, withdrawn: settled.withdrawn }
}

pub fn mode(mode: Mode) -> v1::ChannelMode {
    match mode {
        Mode::Open => v1::ChannelMode::Open,
        Mode::Paused => v1::ChannelMode::Paused,
        Mode::Draining => v1::ChannelMode::Draining,
    }
}

pub fn breaker(breaker: Breaker) -> v1::BreakerState {
    match breaker {
        Breaker::Closed { .. } => v1::BreakerState::Closed,
        Breaker::Open { .. } => v1::BreakerState::Open,
        Breaker::HalfOpen { .. } => v1::BreakerState::HalfOpen,
    }
}

pub fn state(head: &ChannelHead, again_ms: Option<i64>) -> v1::ChannelState {
    v1::ChannelState {
        mode: mode(head.root.mode).into(),
        breaker: breaker(head.root.account.breaker).into(),
        again_at: again_ms.and_then(timestamp),
    }
}

pub fn figures(head: &ChannelHead, language: Language) -> v1::ChannelFigures {
    let root = &head.root;
    let until = match root.account.breaker {
        Breaker::Open { until_ms, .. } => timestamp(until_ms),
        Breaker::Closed { .. } | Breaker::HalfOpen { .. } => None,
    };
    let title = &head.settings.title;
    v1::ChannelFigures {
        channel: head.code.clone(),
        title: language.pick(&title.ru, &title.en).to_owned(),
        mode: mode(root.mode).into(),
        mode_reason: root.mode_reason.clone(),
        mode_since: (root.mode_since_ms > 0).then(|| timestamp(root.mode_since_ms)).flatten(),
        breaker: breaker(root.account.breaker).into(),
        breaker_until: until,
        live: root.counts.live,
        out: root.counts.out,
        asking: root.counts.asking,
        dead: root.counts.dead,
        letters: root.counts.letters,
        parked: root.counts.parked,
        oldest: root.counts.oldest_ms.and_then(timestamp),
        handed_total: root.handed_total,
        failed_total: root.failed_total,
        unheard_total: root.account.lapses.unheard,
        overdue_total: root.account.lapses.overdue,
        gone_total: root.account.lapses.gone,
        ended_total: root.ended_total,
        version: root.version,
    }
}

pub fn attached(node_id: u64, session: Session) -> v1::AttachedConnector {
    v1::AttachedConnector {
        connector: session.connector,
        instance: session.instance,
        software: session.software,
        node_id,
        heard_at: timestamp(session.heard_ms),
        unacknowledged: session.unacknowledged,
        working: session.working,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(said: Option<Wire>) -> v1::Verdict {
        v1::Verdict { message_id: "m".into(), token: "1.2.3".into(), said }
    }

    #[test]
    fn what_a_lying_connector_sends_is_bounded_before_it_is_a_command() {
        let large = Bytes::from(vec![0; BODY_BYTES_MAX + 1]);
        let complete =
            |body| Wire::Complete(v1::CompleteMessage { summary: String::new(), body: Some(body) });
        let refused = |verdicts| verdicts_from(verdicts).expect_err("refused").reason().to_owned();
        let fail = |body| Wire::Fail(v1::FailMessage { body: Some(body), ..Default::default() });
        assert_eq!(refused(vec![of(Some(fail(large.clone())))]), "BODY_TOO_LARGE");
        assert_eq!(refused(vec![of(Some(complete(large)))]), "BODY_TOO_LARGE");
        assert_eq!(refused(vec![of(None)]), "FIELD_INVALID");
        let many = vec![of(Some(complete(Bytes::new()))); ITEMS_MAX + 1];
        assert_eq!(refused(many), "CALL_TOO_LARGE");
        let garbage = v1::Verdict { token: "ключ".into(), message_id: "x".repeat(9_000), ..of(None) };
        let said = Some(Wire::Progress(v1::ReportProgress::default()));
        let taken =
            verdicts_from(vec![v1::Verdict { said, ..garbage }]).expect("a verdict that counts for nothing");
        assert_eq!((taken[0].token.sequence, taken[0].id.len()), (0, 160));
    }

    #[test]
    fn how_much_is_wanted_is_bounded() {
        assert_eq!(take_from(0, 0).expect("none"), Take { messages: 0, bytes: TAKE_BYTES_MAX });
        assert_eq!(take_from(64, 7).expect("fits"), Take { messages: 64, bytes: 7 });
        assert!(take_from(65, 0).is_err());
        assert!(which_from(Vec::new(), 0).is_err() && which_from(vec!["a".into()], 1).is_err());
    }

    #[test]
    fn references_go_there_and_back() {
        let holder = EntityRef { kind: Kind::Case, id: "c-1".into() };
        let own = BodyRef::of(&holder, 7, &Content(b"body".to_vec()));
        assert_eq!(body_from("body", Some(body(&own))), Ok(own.clone()));
        for wrong in [
            v1::BodyReference { holder: "c-1".into(), ..body(&own) },
            v1::BodyReference { holder: "ship/c-1".into(), ..body(&own) },
            v1::BodyReference { sha256: Bytes::from(vec![1; 31]), ..body(&own) },
        ] {
            assert!(body_from("body", Some(wrong)).is_err());
        }
        assert!(body_from("body", None).is_err());
    }
}
