//! Requests within requests: a connector that holds a message asks other channels first, the message waits for all of them
//! and then comes again with their answers (`docs/channels.md`). They are bounded in number, depth and time, so that no
//! wait is for ever.

use super::{Digest, Exchange, Left, Message, Move, Said, Stand, Sub, Verdict, Wanted};
use crate::invariants::Invariant;

/// Requests made on account of one request.
const SUBS_MAX: usize = 8;
/// How deep they lie at most; those of a case lie at 0.
const DEPTH_MAX: u32 = 3;
/// Different bodies of failed attempts of a message.
const RECEIVED_MAX: usize = 8;
/// Bodies an answer names besides its own.
const OTHERS_MAX: usize = 24;
/// How long one waits of which nothing was said.
const DAY_MS: i64 = 24 * 3_600 * 1_000;

impl Exchange {
    /// A channel takes a message. One that lies within another was asked for by the connector that held that one, and
    /// is as it was asked for.
    pub(super) fn taken_within(&mut self, channel: &str, message: &Message) {
        let Some((parent, _)) = message.id.rsplit_once('.').filter(|(parent, _)| parent.contains('.')) else {
            if message.depth != 0 || !message.subs.is_empty() {
                self.breaches.add(Invariant::AsksBounded, format!("{channel} takes {message:?} of a case"));
            }
            return;
        };
        let fine = self.message(parent).is_some_and(|parent| {
            let asked = parent.subs.iter().find(|sub| sub.id == message.id && sub.answer.is_none());
            parent.stand == Stand::Asking
                && parent.depth + 1 == message.depth
                && asked.is_some_and(|sub| sub.channel == channel && sub.body == message.body)
        });
        if !fine {
            let text =
                format!("{channel} takes {message:?}, for which {:?} did not ask", self.message(parent));
            self.breaches.add(Invariant::AsksBounded, text);
        }
        let latest = self.within.get(&message.id).copied();
        let ends = message.expires_ms.zip(latest).is_some_and(|(expires_ms, latest)| expires_ms <= latest);
        if message.depth > DEPTH_MAX || !ends {
            let text = format!("{channel} takes {message:?}, which must end by {latest:?}");
            self.breaches.add(Invariant::AsksBounded, text);
        }
        self.facts.deepest = self.facts.deepest.max(u64::from(message.depth));
    }

    fn message(&self, id: &str) -> Option<&Message> {
        self.channels.values().find_map(|channel| channel.messages.get(id))
    }

    fn left(&self, id: &str) -> Option<&Left> {
        self.channels.values().find_map(|channel| channel.ended.get(id))
    }

    /// What a move makes of the requests within a message. `said`: by whoever held it, if that led here.
    pub(super) fn others_of(
        &mut self,
        time_ms: i64,
        channel: &str,
        (before, after): (&Message, &Message),
        what: Move,
        said: &[Said],
    ) {
        let fine = match what {
            Move::Asked => {
                let wanted = said.iter().find_map(|said| match said {
                    Said::Ask(wanted) if made(channel, before, after, wanted) => Some(wanted),
                    _ => None,
                });
                if let Some(wanted) = wanted {
                    self.promise(time_ms, before, after, wanted);
                }
                wanted.is_some()
            }
            Move::SubAnswered => self.answered_within(before, after),
            // Nothing is handed out that still waits, or whose time is over.
            Move::HandedOut => {
                before.subs == after.subs
                    && after.subs.iter().all(|sub| sub.answer.is_some())
                    && after.expires_ms.is_none_or(|at| time_ms < at)
            }
            _ => before.subs == after.subs,
        };
        if !fine {
            let text = format!(
                "{channel}: {what:?} at {time_ms}, said to be {said:?}, took {before:?} to {after:?}"
            );
            self.breaches.add(Invariant::AsksBounded, text);
        }
    }

    /// By when each of them must have ended.
    fn promise(&mut self, time_ms: i64, before: &Message, after: &Message, wanted: &[Wanted]) {
        self.facts.within += wanted.len() as u64;
        for (sub, wanted) in after.subs[before.subs.len()..].iter().zip(wanted) {
            let latest = time_ms.saturating_add(wanted.expires_ms.unwrap_or(DAY_MS));
            let latest = before.expires_ms.map_or(latest, |own| own.min(latest));
            self.within.insert(sub.id.clone(), latest);
        }
    }

    /// One of them, and one alone, has been answered, as its channel ended it; with the last the message waits for its turn.
    fn answered_within(&mut self, before: &Message, after: &Message) -> bool {
        let changed: Vec<(&Sub, &Sub)> =
            before.subs.iter().zip(&after.subs).filter(|(one, other)| one != other).collect();
        let [(open, told)] = changed.as_slice() else { return false };
        let Some(answer) = &told.answer else { return false };
        self.facts.within_answered += 1;
        self.facts.within_expired += u64::from(answer.0 == "expired");
        let as_ended = match self.left(&open.id) {
            Some(left) => (&left.outcome, left.body) == (&answer.0, answer.1),
            // What a channel did not take it never ended.
            None => answer.0 == "refused" && answer.1.is_none() && self.message(&open.id).is_none(),
        };
        let all = after.subs.iter().all(|sub| sub.answer.is_some());
        let stand = if all { Stand::Ready } else { Stand::Asking };
        let same = Sub { answer: None, ..(*told).clone() } == **open;
        as_ended && same && before.subs.len() == after.subs.len() && after.stand == stand
    }

    /// A message ends: not while somebody it waits for may still answer, and as expired only when it is.
    pub(super) fn leaves(&mut self, time_ms: i64, before: &Message, outcome: &str) {
        if outcome == "expired" && before.expires_ms.is_none_or(|at| time_ms < at) {
            self.breaches.add(Invariant::AsksBounded, format!("{before:?} expired at {time_ms}"));
        }
        if before.stand != Stand::Asking {
            return;
        }
        let mut open = before.subs.iter().filter(|sub| sub.answer.is_none());
        let last = open.next().is_some_and(|sub| self.message(&sub.id).is_none());
        if !last || open.next().is_some() || !matches!(outcome, "withdrawn" | "expired") {
            let text = format!("{before:?} ends as {outcome} and has not been told all");
            self.breaches.add(Invariant::AsksBounded, text);
        }
    }

    /// What came with an attempt that failed is kept (R-I2): each different body once, the first ones and the newest.
    pub(super) fn receives(&mut self, id: &str, said: &[Said]) {
        let failed = said.iter().find_map(|said| match said {
            Said::Fail(body) => Some(*body),
            _ => None,
        });
        let Some(Some(body)) = failed else { return };
        let received = self.received.entry(id.to_owned()).or_default();
        if !received.contains(&body) {
            received.truncate(RECEIVED_MAX - 1);
            received.push(body);
        }
    }

    /// The bodies that an answer names besides its own: what came with failed attempts, those of the requests within it, their
    /// answers', and what these name.
    pub(super) fn others(&self, message: &Message) -> Vec<Digest> {
        let of = |sub: &Sub| {
            let left = self.left(&sub.id);
            let answer = left.and_then(|left| left.body);
            let deeper = left.map(|left| left.others.clone()).unwrap_or_default();
            std::iter::once(sub.body).chain(answer).chain(deeper)
        };
        let received = self.received.get(&message.id).into_iter().flatten().copied();
        received.chain(message.subs.iter().flat_map(of)).take(OTHERS_MAX).collect()
    }

    /// An ask is refused as impossible only if it is.
    pub(super) fn told_impossible(&mut self, verdict: &Verdict, reason: &str) {
        let Said::Ask(wanted) = &verdict.said else { return };
        if reason != "SUBREQUEST_IMPOSSIBLE" {
            return;
        }
        self.facts.impossible += 1;
        let known = self.channels.iter().find_map(|(code, own)| Some((code, own.messages.get(&verdict.id)?)));
        let possible = known.is_some_and(|(code, message)| {
            message.depth < DEPTH_MAX
                && message.subs.len() + wanted.len() <= SUBS_MAX
                && wanted.iter().all(|wanted| wanted.channel != *code)
        });
        if possible {
            let text = format!("{:?} of {} was refused as impossible", verdict.said, verdict.id);
            self.breaches.add(Invariant::AsksBounded, text);
        }
    }
}

/// Do the requests stand as the connector wanted them, behind those that were there, and within the bounds?
fn made(channel: &str, before: &Message, after: &Message, wanted: &[Wanted]) -> bool {
    let had = before.subs.len();
    let kept = after.subs.get(..had) == Some(before.subs.as_slice());
    let new = after.subs.get(had..).unwrap_or_default();
    let as_wanted = new.iter().zip(wanted).enumerate().all(|(place, (sub, wanted))| {
        sub.id == format!("{}.{}", before.id, had + place + 1)
            && (&sub.channel, sub.body) == (&wanted.channel, wanted.body)
            && sub.answer.is_none()
            && sub.channel != channel
    });
    let bounded = after.subs.len() <= SUBS_MAX && before.depth < DEPTH_MAX;
    kept && as_wanted && bounded && !wanted.is_empty() && new.len() == wanted.len()
}
