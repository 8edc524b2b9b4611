//! Connectors at work: verdicts on what they hold, more of it, and deliveries whose time is up.
//!
//! Handing out is a commit; the lease's clock — acknowledged within seconds, settled within the work time — runs in the
//! leader's memory alone, and what it says comes in as [`Command::Lapse`](super::Command).

use super::{
    Breaker, CALL_BYTES_MAX, Channel, Exchanged, ITEMS_MAX, Lapse, Lapsed, MessageState, Move, Outgoing,
    PROGRESS_MAX, Reply, Said, Settled, SubAsk, SubRequest, Take, UNHEARD_MAX, Verdict,
    settings::is_code,
    turn::{FRAME_BYTES, Turn, cut, weight},
    types::{RETRY_AFTER_MAX_MS, SUBREQUEST_EXPIRES_MS},
};
use crate::{
    access,
    entity::{Context, Decision, EntityRef, Kind, Refusal, Send},
    exchange::{
        BODY_BYTES_MAX, CODE_MAX, ChannelRequest, Content, DEPTH_MAX, LINE_MAX, Outcome, SUBREQUESTS_MAX,
        TEXT_MAX, within,
    },
    message::Message,
    planted::{self, Fault},
    refusal::{
        BODY_TOO_LARGE, CALL_TOO_LARGE, CHANNEL_FOREIGN, DELIVERY_LOST, FIELD_INVALID, LEASE_FOREIGN,
        LEASES_STALE, MESSAGE_UNKNOWN, PROGRESS_LIMIT, SUBREQUEST_IMPOSSIBLE, refuse,
    },
    validators::{expect_len, expect_line},
};
use std::sync::Arc;

/// What a verdict may take in a commit beside its bodies: twice the longest text, whose characters have up to four bytes,
/// and for an ask eight requests with their subjects.
const SAID_BYTES: usize = 20 * 1024;
const ASK_BYTES: usize = 40 * 1024;

impl Channel {
    /// The caller is one of the connectors the settings name.
    pub(super) fn own_connector(&self, context: &Context<'_>) -> Result<(), Refusal> {
        let principal = &context.origin.principal;
        if principal.kind != "connector" {
            return Err(access::denied(context));
        }
        let Some(settings) = &self.settings else { return Ok(()) };
        if settings.connectors.contains(&principal.id) {
            Ok(())
        } else {
            Err(refuse(CHANNEL_FOREIGN)
                .with("channel", self.id.clone())
                .with("connector", principal.id.clone()))
        }
    }

    /// One call: verdicts first, so that what they free can be handed out. A verdict that does not count hinders no
    /// other; a call with one verdict that does not count, and nothing else, is refused.
    pub(super) fn exchange(
        &self,
        verdicts: &[Verdict],
        take: Take,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let mut turn = Turn::begin(self, context)?;
        expect_call(verdicts.len(), verdicts.iter().flat_map(|verdict| verdict.said.bodies()))?;
        let mut results = Vec::with_capacity(verdicts.len());
        for verdict in verdicts {
            let judged = turn.judge(verdict);
            if let (Err(refusal), 1, 0) = (&judged, verdicts.len(), take.messages) {
                return Err(refusal.clone());
            }
            results.push(Settled {
                id: cut(&verdict.id),
                withdrawn: judged.as_ref().is_ok_and(|withdrawn| *withdrawn),
                reason: judged.err().map(|refusal| refusal.reason).unwrap_or_default(),
            });
        }
        let handed = turn.hand_out(take, context.origin);
        let reply = Exchanged {
            results,
            handed: handed.messages,
            again_ms: handed.again_ms,
            ack_ms: turn.settings.ack_ms,
            work_ms: turn.settings.work_ms,
        };
        Ok(turn.finish(Reply::Exchanged(Box::new(reply))))
    }

    /// The leader's clock ran out for these. A delivery that was settled or handed out again meanwhile is none any more.
    /// Only the deciding leader's own clock counts: what was acknowledged and reported to it, one that was paused and deposed
    /// meanwhile has not heard of, and the token of a delivery stays the same under both.
    pub(super) fn lapse(
        &self,
        lapsed: &[Lapsed],
        term: u64,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let own = context.fence.term;
        if term != own && !planted::is(Fault::HeedFormerClock) {
            let stale = refuse(LEASES_STALE).with("term", term.to_string());
            return Err(stale.with("expected", own.to_string()));
        }
        let mut turn = Turn::begin(self, context)?;
        expect_call(lapsed.len(), [])?;
        // As it was before anything of this call counts.
        let probing = matches!(turn.account.breaker, Breaker::HalfOpen { .. });
        let mut count = 0;
        for Lapsed { id, token, why } in lapsed {
            let Some(message) = turn.by_id(id) else { continue };
            if !matches!(&message.state, MessageState::Out { token: own, .. } if own == token) {
                continue;
            }
            // The clock says the rest again.
            if !turn.has_room_for(&message) {
                break;
            }
            count += 1;
            turn.account.lapses.count(*why);
            let unheard = message.unheard + 1;
            match why {
                // It may never have arrived: back to where it stood, unless that goes on and on.
                Lapse::Unheard if unheard < UNHEARD_MAX => {
                    let back = Outgoing { state: MessageState::Ready, unheard, ..message.as_ref().clone() };
                    if !turn.ends_instead(&back) {
                        turn.put(back, Move::Unheard);
                    }
                }
                // A lapse tells of the connector; of the other side at most that it is still not seen to answer.
                Lapse::Unheard | Lapse::Overdue | Lapse::Gone => {
                    let outside = probing && *why == Lapse::Overdue;
                    turn.fail(&message, why.name(), turn.now_ms, outside);
                }
            }
        }
        Ok(turn.finish(Reply::Lapsed { count }))
    }
}

/// What one call may hold.
pub(super) fn expect_call<'c>(
    items: usize,
    bodies: impl IntoIterator<Item = &'c Content>,
) -> Result<(), Refusal> {
    if items > ITEMS_MAX {
        return Err(refuse(CALL_TOO_LARGE).with("items", format!("at most {ITEMS_MAX}")));
    }
    let bytes: usize = bodies.into_iter().map(|body| body.0.len()).sum();
    if bytes > CALL_BYTES_MAX {
        return Err(refuse(CALL_TOO_LARGE).with("bytes", format!("at most {CALL_BYTES_MAX}")));
    }
    Ok(())
}

/// A body within its bound.
pub(super) fn expect_body(body: &Content) -> Result<(), Refusal> {
    if body.0.len() <= BODY_BYTES_MAX {
        Ok(())
    } else {
        Err(refuse(BODY_TOO_LARGE).with("bytes", format!("at most {BODY_BYTES_MAX}")))
    }
}

impl Turn<'_> {
    /// Does the verdict count? Then: does nobody need the answer any more?
    fn judge(&mut self, verdict: &Verdict) -> Result<bool, Refusal> {
        let Verdict { id, token, said } = verdict;
        let message = self.by_id(id).ok_or_else(|| refuse(MESSAGE_UNKNOWN).with("message", id.clone()))?;
        let connector = match &message.state {
            MessageState::Out { token: own, connector, .. }
                if own == token || planted::is(Fault::AcceptOldToken) =>
            {
                connector
            }
            other => {
                return Err(refuse(DELIVERY_LOST)
                    .with("message", id.clone())
                    .with("token", token.to_string())
                    .with("state", other.name()));
            }
        };
        if *connector != self.context.origin.principal.id {
            return Err(refuse(LEASE_FOREIGN).with("message", id.clone()).with("holder", connector.clone()));
        }
        for body in said.bodies() {
            expect_body(body)?;
        }
        let bodies: usize = said.bodies().map(|body| body.0.len()).sum();
        let texts = if matches!(said, Said::Ask { .. }) { ASK_BYTES } else { SAID_BYTES };
        self.expect_room(texts + bodies + weight(&message))?;
        match said {
            Said::Complete { summary, body } => {
                expect_len("summary", summary, TEXT_MAX)?;
                let body = body.as_ref().map(|body| self.keep(body));
                self.account.succeeded();
                self.end(&message, Outcome::Answered, summary, body, connector);
            }
            Said::Reject { reason, body } => {
                expect_len("reason", reason, TEXT_MAX)?;
                let body = body.as_ref().map(|body| self.keep(body));
                // Who says no is there.
                self.account.succeeded();
                self.end(&message, Outcome::Rejected { reason: reason.clone() }, "", body, connector);
            }
            Said::Fail { reason, retry_after_ms, body } => {
                expect_len("reason", reason, TEXT_MAX)?;
                let after = retry_after_ms.unwrap_or(0).min(RETRY_AFTER_MAX_MS);
                let not_before_ms = self.now_ms.saturating_add_unsigned(after);
                match body {
                    None => self.fail(&message, reason, not_before_ms, true),
                    Some(body) => {
                        let received = self.receive(&message, body);
                        let message = Outgoing { received, ..message.as_ref().clone() };
                        self.fail(&message, reason, not_before_ms, true);
                    }
                }
            }
            Said::Progress { text } => self.progress(&message, text)?,
            Said::Ask { requests } => self.ask(&message, requests)?,
        }
        Ok(message.withdrawn)
    }

    fn progress(&mut self, message: &Arc<Outgoing>, text: &str) -> Result<(), Refusal> {
        expect_len("text", text, LINE_MAX)?;
        if message.progress >= PROGRESS_MAX {
            return Err(refuse(PROGRESS_LIMIT).with("progress", format!("at most {PROGRESS_MAX}")));
        }
        self.put(
            Outgoing { progress: message.progress + 1, unheard: 0, ..message.as_ref().clone() },
            Move::Progressed,
        );
        if message.source.kind == Kind::Case {
            self.spend(FRAME_BYTES + text.len());
            let told = Message::ChannelProgress { id: message.id.clone(), text: text.to_owned() };
            self.sends.push(Send { target: message.source.clone(), message: told });
        }
        Ok(())
    }

    /// Other channels are asked first. The token ends here: with all answers the message is handed out anew.
    fn ask(&mut self, message: &Arc<Outgoing>, requests: &[SubAsk]) -> Result<(), Refusal> {
        if requests.is_empty() {
            return Err(refuse(FIELD_INVALID).with("requests", "at least one"));
        }
        if message.subs.len() + requests.len() > SUBREQUESTS_MAX {
            return Err(refuse(SUBREQUEST_IMPOSSIBLE).with("requests", format!("at most {SUBREQUESTS_MAX}")));
        }
        if message.depth >= DEPTH_MAX {
            return Err(refuse(SUBREQUEST_IMPOSSIBLE).with("depth", format!("at most {DEPTH_MAX}")));
        }
        for request in requests {
            if !is_code(&request.channel) {
                return Err(refuse(FIELD_INVALID).with("channel", "a channel's code"));
            }
            // A channel that waits for itself may wait for ever.
            if request.channel == self.channel.id {
                return Err(refuse(SUBREQUEST_IMPOSSIBLE).with("channel", "another one"));
            }
            if request.kind.is_empty() {
                return Err(refuse(FIELD_INVALID).with("kind", "not empty"));
            }
            expect_line("kind", &request.kind, CODE_MAX)?;
            expect_line("key", &request.key, CODE_MAX)?;
            expect_line("subject", &request.subject, LINE_MAX)?;
        }
        let mut asking = message.as_ref().clone();
        for request in requests {
            let n = asking.subs.len() + 1;
            let body = self.keep(&request.body);
            let span_ms = request.expires_ms.map_or(SUBREQUEST_EXPIRES_MS, i64::from);
            let expires_ms = self.now_ms.saturating_add(span_ms);
            let sub = SubRequest {
                id: within(&message.id, n),
                channel: request.channel.clone(),
                kind: request.kind.clone(),
                body: body.clone(),
                answer: None,
            };
            self.sends.push(Send {
                target: EntityRef { kind: Kind::Channel, id: request.channel.clone() },
                message: Message::ChannelRequest(Box::new(ChannelRequest {
                    id: sub.id.clone(),
                    case: message.case.clone(),
                    kind: request.kind.clone(),
                    key: request.key.clone(),
                    subject: request.subject.clone(),
                    body,
                    expires_ms: Some(message.expires_ms.map_or(expires_ms, |own| own.min(expires_ms))),
                    depth: message.depth + 1,
                })),
            });
            self.spend(2 * FRAME_BYTES + request.subject.len() + request.key.len() + request.kind.len());
            asking.subs.push(sub);
        }
        asking.state = MessageState::Asking;
        asking.unheard = 0;
        self.put(asking, Move::Asked);
        Ok(())
    }
}
