//! What must hold of channels and those who ask through them, judged commit by commit: a request is answered once, its
//! message is in exactly one state until then, a delivery counts only with the newest token, bytes are kept as they came,
//! a letter that comes again is known (`docs/channels.md`). What must hold of requests within requests is in `within`,
//! of the clocks of deliveries in `clocks`.
//!
//! As in [`crate::hall`] the words and the picture of every message are the judge's own.

mod clocks;
mod within;

pub use clocks::Why;

use crate::{
    breaches::{Breach, Breaches},
    invariants::Invariant,
};
use std::collections::{BTreeMap, BTreeSet};

/// Generation, term, sequence: the greater is the newer.
pub type Token = (u64, u64, u64);
pub type Digest = [u8; 32];

/// Where a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    Ready,
    Delayed,
    Out {
        token: Token,
        connector: String,
    },
    /// Waits for other channels.
    Asking,
    Dead,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: String,
    pub sequence: u64,
    pub body: Digest,
    /// How many requests it lies within.
    pub depth: u32,
    /// From then on an answer is of no use.
    pub expires_ms: Option<i64>,
    /// What was asked of other channels on its account.
    pub subs: Vec<Sub>,
    pub stand: Stand,
}

/// A request within a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sub {
    pub id: String,
    pub channel: String,
    pub body: Digest,
    /// Outcome and body.
    pub answer: Option<(String, Option<Digest>)>,
}

/// A request within a request, as a connector wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub channel: String,
    pub body: Digest,
    /// From then on; `None`: nothing was said.
    pub expires_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    Accepted,
    HandedOut,
    Failed,
    Unheard,
    Buried,
    Progressed,
    Asked,
    SubAnswered,
    Withdrawn,
}

/// What a request of a case has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Planned,
    Sent,
    /// With this outcome.
    Closed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    Moved {
        channel: String,
        message: Message,
        what: Move,
    },
    /// A dead letter is tried again.
    Redriven {
        channel: String,
        message: Message,
    },
    /// Whoever asked is answered.
    Ended {
        channel: String,
        id: String,
        outcome: String,
        body: Option<Digest>,
    },
    /// A letter from outside, as it is now.
    Letter {
        channel: String,
        number: u64,
        outside_id: String,
        body: Digest,
    },
    LettersForgotten {
        channel: String,
        numbers: Vec<u64>,
    },
    /// A request of a case, as it is now.
    Request {
        id: String,
        state: Asked,
        answer: Option<Digest>,
        /// What came with failed attempts, and bodies of what was asked of other channels on its account.
        others: Vec<Digest>,
    },
    /// A case has taken a letter.
    CaseLetter {
        case: String,
        channel: String,
        number: u64,
        body: Digest,
    },
}

/// What a connector said of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub id: String,
    pub token: Token,
    pub said: Said,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Complete(Option<Digest>),
    Reject(Option<Digest>),
    /// With what came all the same.
    Fail(Option<Digest>),
    Progress,
    Ask(Vec<Wanted>),
}

/// What led to a commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cause {
    #[default]
    Other,
    /// A connector's call.
    Exchange { connector: String, verdicts: Vec<Verdict> },
    /// The clocks of these deliveries ran out; the term of the leader that decided so.
    Lapse { term: u64, deliveries: Vec<(String, Token)> },
    /// A connector brought letters: outside id and body.
    Receive(Vec<(String, Digest)>),
}

/// What one node's store held in the end.
#[derive(Debug, Clone, Default)]
pub struct Held {
    pub node: u64,
    /// By channel.
    pub messages: Vec<(String, Message)>,
    /// Requests of cases by message id.
    pub requests: Vec<(String, Asked)>,
    /// Bodies: what it is, what its digest must be, and what was read back (`None`: nothing).
    pub bodies: Vec<(String, Digest, Option<Digest>)>,
}

/// Facts that were judged, for reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    pub asked: u64,
    pub answered: u64,
    pub handed: u64,
    pub lapsed: u64,
    pub buried: u64,
    pub old_tokens: u64,
    pub letters: u64,
    pub letters_again: u64,
    pub bodies: u64,
    /// Requests within requests: made, told back, that expired, and how deep the deepest lay.
    pub within: u64,
    pub within_answered: u64,
    pub within_expired: u64,
    pub deepest: u64,
    /// Asks of connectors that went beyond a bound, and were refused.
    pub impossible: u64,
    /// Deliveries the leader heard to have arrived, and those that were given back.
    pub acknowledged: u64,
    pub given_back: u64,
    /// Clocks that ran out, by why; those of an earlier leader's deliveries.
    pub unheard: u64,
    pub overdue: u64,
    pub gone: u64,
    pub overdue_anew: u64,
}

impl Facts {
    pub fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.answered += other.answered;
        self.handed += other.handed;
        self.lapsed += other.lapsed;
        self.buried += other.buried;
        self.old_tokens += other.old_tokens;
        self.letters += other.letters;
        self.letters_again += other.letters_again;
        self.bodies += other.bodies;
        self.within += other.within;
        self.within_answered += other.within_answered;
        self.within_expired += other.within_expired;
        self.deepest = self.deepest.max(other.deepest);
        self.impossible += other.impossible;
        self.acknowledged += other.acknowledged;
        self.given_back += other.given_back;
        self.unheard += other.unheard;
        self.overdue += other.overdue;
        self.gone += other.gone;
        self.overdue_anew += other.overdue_anew;
    }
}

#[derive(Debug, Default)]
struct Channel {
    /// By id.
    messages: BTreeMap<String, Message>,
    /// Those that left.
    ended: BTreeMap<String, Left>,
    newest: Token,
    /// By outside id.
    letters: BTreeMap<String, (u64, Digest)>,
    /// Every letter by number.
    bodies: BTreeMap<u64, Digest>,
    /// Every outside id and number that ever went together.
    named: BTreeSet<(String, u64)>,
}

/// What whoever asked was told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Left {
    outcome: String,
    body: Option<Digest>,
    /// What came with failed attempts, and bodies of what was asked on its account.
    others: Vec<Digest>,
}

#[derive(Debug)]
struct Request {
    state: Asked,
}

/// The judge of all channels of a run.
#[derive(Debug, Default)]
pub struct Exchange {
    channels: BTreeMap<String, Channel>,
    requests: BTreeMap<String, Request>,
    /// What came with failed attempts, by message id.
    received: BTreeMap<String, Vec<Digest>>,
    /// Requests within requests, with the moment after which none may live.
    within: BTreeMap<String, i64>,
    case_letters: BTreeSet<(String, u64)>,
    /// Verdicts that counted: (id, token), of those that end a delivery.
    settled: BTreeSet<(String, Token)>,
    /// What was handed out: (id, token).
    handed: BTreeSet<(String, Token)>,
    clocks: clocks::Clocks,
    facts: Facts,
    breaches: Breaches,
}

impl Exchange {
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// What broke since the last time it was asked.
    pub fn take_breaches(&mut self) -> Vec<Breach> {
        self.breaches.take()
    }

    /// One commit, decided at this time.
    pub fn committed(&mut self, time_ms: i64, cause: &Cause, all: Vec<Happened>) {
        for what in all {
            match what {
                Happened::Moved { channel, message, what } => {
                    self.moved(time_ms, &channel, message, what, cause);
                }
                Happened::Redriven { channel, message } => self.redriven(&channel, message),
                Happened::Ended { channel, id, outcome, body } => {
                    self.ended(time_ms, &channel, id, outcome, body, cause);
                }
                Happened::Letter { channel, number, outside_id, body } => {
                    self.letter(&channel, number, outside_id, body, cause);
                }
                Happened::LettersForgotten { channel, numbers } => {
                    let known = &mut self.channels.entry(channel).or_default().letters;
                    known.retain(|_, (number, _)| !numbers.contains(number));
                }
                Happened::Request { id, state, answer, others } => self.request(id, state, answer, &others),
                Happened::CaseLetter { case, channel, number, body } => {
                    let known = self.channels.get(&channel).and_then(|own| own.bodies.get(&number)).copied();
                    if known != Some(body) || !self.case_letters.insert((channel.clone(), number)) {
                        let text = format!("case {case} takes letter {number} of {channel} again or another");
                        self.breaches.add(Invariant::LetterOnce, text);
                    }
                }
            }
        }
    }

    /// Whoever holds the message may give it back now: what did they say, with its token? Of several verdicts in one call
    /// that name it any may be the one that counted.
    fn allowed(&self, stand: Option<&Stand>, id: &str, cause: &Cause) -> Result<Vec<Said>, String> {
        let Some(Stand::Out { token, connector }) = stand else { return Ok(Vec::new()) };
        match cause {
            Cause::Exchange { connector: by, verdicts } => {
                let own = verdicts.iter().filter(|verdict| verdict.id == id);
                let said: Vec<Said> = own
                    .clone()
                    .filter(|verdict| verdict.token == *token)
                    .map(|verdict| verdict.said.clone())
                    .collect();
                if by == connector && !said.is_empty() {
                    return Ok(said);
                }
                let own: Vec<_> = own.collect();
                Err(format!("{by} says {own:?} of {id}, which {connector} holds with {token:?}"))
            }
            Cause::Lapse { deliveries, .. }
                if deliveries.iter().any(|(own, of)| own == id && of == token) =>
            {
                Ok(Vec::new())
            }
            Cause::Lapse { .. } | Cause::Receive(_) | Cause::Other => {
                Err(format!("{id}, which {connector} holds with {token:?}, is taken away by {cause:?}"))
            }
        }
    }

    /// A delivery is ended by the clock of the leader that decides, and by none that somebody kept before.
    fn ended_by_own_clock(&mut self, stand: Option<&Stand>, id: &str, cause: &Cause) {
        if let (Some(Stand::Out { token, .. }), Cause::Lapse { term, deliveries }) = (stand, cause)
            && deliveries.iter().any(|(own, of)| own == id && of == token)
            && !self.clocks.said(*term, id, *token)
        {
            let text = format!("{id} with {token:?} lapses in term {term}, whose leader did not say so");
            self.breaches.add(Invariant::LeaseKept, text);
        }
    }

    fn moved(&mut self, time_ms: i64, channel: &str, message: Message, what: Move, cause: &Cause) {
        let id = message.id.clone();
        let own = self.channels.entry(channel.to_owned()).or_default();
        let before = own.messages.get(&id).cloned();
        let (gone, newest) = (own.ended.contains_key(&id), own.newest);
        if what == Move::Accepted {
            if before.is_some() || gone {
                self.breaches.add(Invariant::AnsweredOnce, format!("{channel} takes {id} again"));
            }
            self.taken_within(channel, &message);
        } else {
            match &before {
                None => {
                    let text = format!("{what:?} happened to {id}, which {channel} does not have");
                    self.breaches.add(Invariant::AnsweredOnce, text);
                }
                Some(before) => {
                    let same = before.sequence == message.sequence
                        && before.body == message.body
                        && (before.depth, before.expires_ms) == (message.depth, message.expires_ms);
                    if !same || !follows(&before.stand, what, &message.stand) {
                        let text = format!("{what:?} took {before:?} to {message:?}");
                        self.breaches.add(Invariant::AnsweredOnce, text);
                    }
                }
            }
        }
        let leaves =
            matches!(what, Move::Failed | Move::Unheard | Move::Buried | Move::Asked | Move::Progressed);
        self.ended_by_own_clock(before.as_ref().map(|own| &own.stand), &id, cause);
        let said = self.allowed(before.as_ref().map(|m| &m.stand), &id, cause);
        if leaves && let Err(text) = &said {
            self.breaches.add(Invariant::TokenNewest, text.clone());
        }
        if let (Move::Failed | Move::Buried, Ok(said)) = (what, &said) {
            self.receives(&id, said);
        }
        if let Some(before) = &before {
            self.others_of(time_ms, channel, (before, &message), what, &said.unwrap_or_default());
        }
        if let (Move::HandedOut, Stand::Out { token, connector }) = (what, &message.stand) {
            self.facts.handed += 1;
            let by = matches!(cause, Cause::Exchange { connector: by, .. } if by == connector);
            if *token <= newest || !by {
                let text =
                    format!("{id} is handed out with {token:?} to {connector}; the newest is {newest:?}");
                self.breaches.add(Invariant::TokenNewest, text);
            }
            self.handed.insert((id.clone(), *token));
            self.clocks.handed(&id, *token);
        }
        match what {
            Move::Unheard => self.facts.lapsed += 1,
            Move::Buried => self.facts.buried += 1,
            _ => {}
        }
        if leaves && what != Move::Progressed {
            self.settle(before.as_ref(), &id);
        }
        let own = self.channels.entry(channel.to_owned()).or_default();
        if let Stand::Out { token, .. } = &message.stand {
            own.newest = own.newest.max(*token);
        }
        own.messages.insert(id, message);
    }

    /// The delivery is over.
    fn settle(&mut self, before: Option<&Message>, id: &str) {
        let Some(Stand::Out { token, .. }) = before.map(|message| &message.stand) else { return };
        if !self.settled.insert((id.to_owned(), *token)) {
            self.breaches.add(Invariant::TokenNewest, format!("the delivery {token:?} of {id} ended twice"));
        }
    }

    fn redriven(&mut self, channel: &str, message: Message) {
        let id = message.id.clone();
        let own = self.channels.entry(channel.to_owned()).or_default();
        let before = own.messages.insert(id.clone(), message.clone());
        let fine = before.as_ref().is_some_and(|before| {
            before.stand == Stand::Dead
                && before.sequence < message.sequence
                && before.body == message.body
                && before.subs == message.subs
                && message.stand == Stand::Ready
        });
        if !fine {
            let text = format!("{id} is tried again as {message:?} and was {before:?}");
            self.breaches.add(Invariant::AnsweredOnce, text);
        }
    }

    fn ended(
        &mut self,
        time_ms: i64,
        channel: &str,
        id: String,
        outcome: String,
        body: Option<Digest>,
        cause: &Cause,
    ) {
        self.facts.answered += 1;
        let own = self.channels.entry(channel.to_owned()).or_default();
        let before = own.messages.remove(&id);
        if let Some(before) = &before {
            self.leaves(time_ms, before, &outcome);
        }
        self.ended_by_own_clock(before.as_ref().map(|own| &own.stand), &id, cause);
        let said = self.allowed(before.as_ref().map(|message| &message.stand), &id, cause);
        // An attempt that failed, of what nobody needs any more.
        if let ("withdrawn" | "expired", Ok(said)) = (outcome.as_str(), &said) {
            self.receives(&id, said);
        }
        let others = before.as_ref().map(|before| self.others(before)).unwrap_or_default();
        let left = Left { outcome: outcome.clone(), body, others };
        let own = self.channels.entry(channel.to_owned()).or_default();
        let again = own.ended.insert(id.clone(), left);
        if before.is_none() || again.is_some() {
            let text =
                format!("{channel} ends {id} as {outcome}; it was {before:?}, and ended {again:?} before");
            self.breaches.add(Invariant::AnsweredOnce, text);
        }
        let said = match said {
            Ok(said) => said,
            Err(text) => return self.breaches.add(Invariant::TokenNewest, text),
        };
        // Only who holds it answers it, and with what was said.
        let answers = |one: &Said| match (outcome.as_str(), one) {
            ("answered", Said::Complete(sent)) | ("rejected", Said::Reject(sent)) => Some(*sent),
            _ => None,
        };
        let sent: Vec<_> = said.iter().filter_map(answers).collect();
        let as_said = !matches!(outcome.as_str(), "answered" | "rejected") || !sent.is_empty();
        if as_said && !sent.is_empty() && !sent.contains(&body) {
            self.breaches.add(Invariant::BodiesKept, format!("the answer to {id} is not kept as it came"));
        }
        if !as_said {
            self.breaches
                .add(Invariant::TokenNewest, format!("{id} is {outcome}, and was said to be {said:?}"));
        }
        self.settle(before.as_ref(), &id);
    }

    fn letter(&mut self, channel: &str, number: u64, outside_id: String, body: Digest, cause: &Cause) {
        let own = self.channels.entry(channel.to_owned()).or_default();
        let known = own.letters.get(&outside_id).copied();
        match known {
            Some((first, sum)) => {
                if (first, sum) != (number, body) {
                    let text = format!("letter {outside_id} of {channel} is {first} and {number}");
                    self.breaches.add(Invariant::LetterOnce, text);
                }
            }
            None => {
                let brought = matches!(
                    cause,
                    Cause::Receive(letters) if letters.contains(&(outside_id.clone(), body))
                );
                own.letters.insert(outside_id.clone(), (number, body));
                own.named.insert((outside_id.clone(), number));
                let twice = own.bodies.insert(number, body).is_some();
                self.facts.letters += 1;
                if !brought {
                    let text = format!("letter {outside_id} of {channel} is not as it was brought");
                    self.breaches.add(Invariant::BodiesKept, text);
                }
                if twice {
                    self.breaches
                        .add(Invariant::LetterOnce, format!("{channel} gives the number {number} twice"));
                }
            }
        }
    }

    fn request(&mut self, id: String, state: Asked, answer: Option<Digest>, others: &[Digest]) {
        let before = self.requests.get(&id).map(|request| request.state.clone());
        let fine = match (&before, &state) {
            (None, Asked::Planned | Asked::Sent)
            | (Some(Asked::Planned), Asked::Sent | Asked::Planned)
            | (Some(Asked::Sent), Asked::Sent | Asked::Closed(_)) => true,
            // One whose turn never came.
            (Some(Asked::Planned), Asked::Closed(outcome)) => outcome == "withdrawn",
            _ => false,
        };
        if !fine {
            let text = format!("request {id} went from {before:?} to {state:?}");
            self.breaches.add(Invariant::AnsweredOnce, text);
        }
        if before.is_none() {
            self.facts.asked += 1;
        }
        if let (Some(Asked::Sent), Asked::Closed(outcome)) = (&before, &state) {
            let ended = self.channels.values().find_map(|channel| channel.ended.get(&id));
            // What a channel did not take it never ended.
            let same = match ended {
                Some(ended) => ended.outcome == *outcome,
                None => outcome == "refused",
            };
            // What passed between channels is kept as long as the answer (R-I2): the case must know of it.
            let known = ended.is_none_or(|ended| ended.others == others && ended.body == answer);
            if !same {
                let text = format!("case was told {outcome} of {id}, which ended as {ended:?}");
                self.breaches.add(Invariant::AnsweredOnce, text);
            }
            if !known {
                let text = format!("the case of {id} does not name the bodies that belong to it");
                self.breaches.add(Invariant::BodiesKept, text);
            }
        }
        self.facts.bodies += u64::from(answer.is_some());
        self.requests.insert(id, Request { state });
    }

    /// A connector was told what came of its verdict.
    pub fn told(&mut self, verdict: &Verdict, reason: &str) {
        let (id, token) = (&verdict.id, verdict.token);
        if !reason.is_empty() {
            self.told_impossible(verdict, reason);
            self.facts.old_tokens += u64::from(reason == "DELIVERY_LOST");
            return;
        }
        let counted = match verdict.said {
            Said::Progress => self.handed.contains(&(id.clone(), token)),
            Said::Complete(_) | Said::Reject(_) | Said::Fail(_) | Said::Ask(_) => {
                self.settled.contains(&(id.clone(), token))
            }
        };
        if !counted {
            let text = format!("{:?} of {id} with {token:?} was told to count", verdict.said);
            self.breaches.add(Invariant::TokenNewest, text);
        }
    }

    /// A connector was handed a message.
    pub fn told_handed(&mut self, id: &str, token: Token) {
        if !self.handed.contains(&(id.to_owned(), token)) {
            let text = format!("{id} was handed out with {token:?}, which no commit says");
            self.breaches.add(Invariant::TokenNewest, text);
        }
    }

    /// A connector was told the number of its letter.
    pub fn told_letter(&mut self, channel: &str, outside_id: &str, number: u64, again: bool) {
        self.facts.letters_again += u64::from(again);
        let own = self.channels.get(channel);
        // One that was forgotten since may have been told all the same.
        let fine = own.is_some_and(|own| own.named.contains(&(outside_id.to_owned(), number)));
        if !fine {
            let text = format!("letter {outside_id} of {channel} was told to be {number}, and is not");
            self.breaches.add(Invariant::LetterOnce, text);
        }
    }

    /// What a node's store holds when everything has come to rest.
    pub fn held(&mut self, held: &Held) {
        let node = held.node;
        let mut broken = Vec::new();
        let found: BTreeMap<_, _> =
            held.messages.iter().map(|(channel, message)| ((channel, &message.id), message)).collect();
        let own: BTreeMap<_, _> = self
            .channels
            .iter()
            .flat_map(|(code, channel)| channel.messages.iter().map(move |(id, own)| ((code, id), own)))
            .collect();
        if found != own {
            let odd = own.iter().find(|(key, message)| found.get(*key) != Some(*message));
            let odd = odd.or_else(|| found.iter().find(|(key, _)| !own.contains_key(*key)));
            broken.push((Invariant::AnsweredOnce, format!("node {node}: not as it was left: {odd:?}")));
        }
        for (id, state) in &held.requests {
            match (state, self.requests.get(id).map(|request| &request.state)) {
                (Asked::Sent, _) => {
                    let text = format!("node {node}: request {id} was never answered");
                    broken.push((Invariant::AnsweredOnce, text));
                }
                (found, Some(own)) if found == own => {}
                (found, own) => {
                    let text = format!("node {node}: request {id} is {found:?} and should be {own:?}");
                    broken.push((Invariant::AnsweredOnce, text));
                }
            }
        }
        let missing = self.requests.len().saturating_sub(held.requests.len());
        if missing > 0 {
            broken.push((Invariant::AnsweredOnce, format!("node {node}: {missing} requests are not there")));
        }
        for (what, expected, found) in &held.bodies {
            if found.as_ref() != Some(expected) {
                broken.push((Invariant::BodiesKept, format!("node {node}: {what} is not as it was kept")));
            }
        }
        self.facts.bodies += held.bodies.len() as u64;
        for (id, text) in broken {
            self.breaches.add(id, text);
        }
    }
}

/// May this come of that?
fn follows(before: &Stand, what: Move, after: &Stand) -> bool {
    use Stand::{Asking, Dead, Delayed, Out, Ready};
    match (what, before, after) {
        (Move::HandedOut, Ready | Delayed, Out { .. })
        | (Move::Failed, Out { .. }, Delayed)
        | (Move::Unheard, Out { .. }, Ready)
        | (Move::Buried, Out { .. }, Dead)
        | (Move::Asked, Out { .. }, Asking)
        | (Move::SubAnswered, Asking, Asking | Ready) => true,
        (Move::Progressed, Out { .. }, _) | (Move::Withdrawn, Out { .. } | Asking, _) => before == after,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
