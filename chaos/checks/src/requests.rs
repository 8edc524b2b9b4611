//! What became of each request, over all the calls that named it: one effect at most (rule 6), the same answer every
//! time, and no answer that another takes back.
//!
//! An operation is one call; a request is its id. A client that gave up may ask again with the same id, and so may one
//! that succeeded. From the calls of one request comes at most one [`Effect`] for the linearizability check — from the
//! begin of the first call it may be of, to the first answer that tells — and every contradiction is a violation.

use crate::history::{Call, Entity, History, Operation, Outcome, RequestId};
use std::collections::BTreeMap;

/// What is answered at the door, before an entity is asked: no model of an entity knows why, and nothing remembers it.
const AT_THE_DOOR: [&str; 3] = ["ENTITY_QUARANTINED", "REQUEST_ID_AHEAD", "CALLER_NAME_TOO_LONG"];

/// Something that happened to an entity, or may have.
#[derive(Debug, Clone)]
pub struct Effect<'a> {
    pub operation: &'a Operation,
    pub begun: u64,
    /// Absent: it may be still to come, or never.
    pub ended: Option<u64>,
    pub outcome: Option<&'a Outcome>,
    /// A call of it ended unknown before it was told.
    pub doubtful: bool,
}

impl<'a> Effect<'a> {
    pub fn entity(&self) -> &'a Entity {
        &self.operation.entity
    }

    pub fn call(&self) -> &'a Call {
        &self.operation.call
    }

    /// Log index the cluster named; 0: none.
    pub fn index(&self) -> u64 {
        match self.outcome {
            Some(Outcome::Done { index, .. }) => *index,
            _ => 0,
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Done { .. }))
    }

    /// It took effect, or may have.
    pub fn may_be(&self) -> bool {
        self.outcome.is_none() || self.is_done()
    }
}

/// What the calls came to.
#[derive(Debug, Default)]
pub struct Requests<'a> {
    /// In no particular order.
    pub effects: Vec<Effect<'a>>,
    /// Answers to one request that contradict each other.
    pub contradictions: Vec<String>,
    /// Requests that were asked for more than once.
    pub asked_again: usize,
    /// Requests whose outcome was unknown and told later.
    pub resolved: usize,
}

/// Sorts a history's operations out by request.
pub fn sort_out(history: &History) -> Requests<'_> {
    let mut found = Requests::default();
    let mut calls: BTreeMap<(u32, RequestId), Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        match (&operation.call, operation.request) {
            (Call::ReuseRequest, _) => found.must_be_refused(operation, "REQUEST_ID_REUSED"),
            (Call::MalformedRequest, _) => found.must_be_refused(operation, "REQUEST_ID_MALFORMED"),
            (call, _) if call.reads() => found.read(operation),
            (_, Some(request)) => calls.entry((operation.client, request)).or_default().push(operation),
            (_, None) => found.contradictions.push(format!("{} has no request id", show(operation))),
        }
    }
    for calls in calls.values() {
        found.request(calls);
    }
    found
}

fn show(operation: &Operation) -> String {
    let request = operation.request.map_or_else(String::new, |request| format!(" request {request}"));
    format!("client {}{request}, {}: {:?}", operation.client, operation.entity, operation.call)
}

impl<'a> Requests<'a> {
    fn must_be_refused(&mut self, operation: &Operation, reason: &str) {
        let wrong = |outcome: &Outcome| match outcome {
            // Nothing else is a ground: a leader that is none any more keeps what it knows of time and quarantines to itself.
            Outcome::Refused(seen) => seen != reason,
            Outcome::Done { .. } => true,
            Outcome::NotApplied(_) | Outcome::Unknown(_) => false,
        };
        let late = operation.late.iter().map(|late| &late.outcome);
        if let Some(outcome) = std::iter::once(&operation.outcome).chain(late).find(|outcome| wrong(outcome))
        {
            self.contradictions.push(format!("{} must be {reason} and is {outcome:?}", show(operation)));
        }
    }

    fn read(&mut self, operation: &'a Operation) {
        if let (Outcome::Done { .. }, Some(ended)) = (&operation.outcome, operation.ended) {
            self.effects.push(Effect {
                operation,
                begun: operation.begun,
                ended: Some(ended),
                outcome: Some(&operation.outcome),
                doubtful: false,
            });
        }
    }

    /// All calls of one request, in the order they began.
    fn request(&mut self, calls: &[&'a Operation]) {
        self.asked_again += usize::from(calls.len() > 1);
        let mut done: Option<&'a Outcome> = None;
        let mut open: Option<Effect<'a>> = None;
        let mut first_told: Option<Effect<'a>> = None;
        // Reason → begin of the first call refused so. The refusal of an attempt above 1 is remembered (rule 2), and the
        // nodes count attempts of their own: asked again it may be told again, however the entity has changed.
        let mut refused: BTreeMap<&str, u64> = BTreeMap::new();
        for call in calls.iter().copied() {
            if call.call != calls[0].call || call.entity != calls[0].entity {
                self.contradictions.push(format!("{} goes on as {}", show(calls[0]), show(call)));
            }
            let told = call.ended.filter(|_| !matches!(call.outcome, Outcome::Unknown(_)));
            let own = told.map(|at| (at, &call.outcome));
            let late = call.late.iter().map(|late| (late.at, &late.outcome));
            for (_, outcome) in own.into_iter().chain(late.clone()) {
                if matches!(outcome, Outcome::Done { .. }) {
                    if done.is_some_and(|before| before != outcome) {
                        self.contradictions.push(format!("{} is told {done:?} and {outcome:?}", show(call)));
                    }
                    done = Some(outcome);
                }
            }
            match &call.outcome {
                Outcome::Refused(reason) => {
                    if let Some(done) = done {
                        let refused = format!("{} is refused as {reason}", show(call));
                        self.contradictions.push(format!("{refused} and told {done:?}"));
                    }
                    // Nothing of this call is on its way any more; a later one may be decided anew.
                    let before = open.take();
                    if !AT_THE_DOOR.contains(&reason.as_str()) {
                        self.resolved += usize::from(before.is_some());
                        let begun = before.as_ref().map_or(call.begun, |before| before.begun);
                        let begun = *refused.entry(reason).or_insert(begun);
                        self.effects.push(Effect {
                            operation: call,
                            begun,
                            ended: call.ended,
                            outcome: Some(&call.outcome),
                            doubtful: before.is_some(),
                        });
                    }
                }
                Outcome::NotApplied(reason) => {
                    if let Some(late) =
                        call.late.iter().find(|late| matches!(late.outcome, Outcome::Done { .. }))
                    {
                        let told = format!("{} is not applied ({reason})", show(call));
                        self.contradictions.push(format!("{told} and told {:?}", late.outcome));
                    }
                }
                Outcome::Done { .. } | Outcome::Unknown(_) => {
                    let effect = open.get_or_insert(Effect {
                        operation: call,
                        begun: call.begun,
                        ended: None,
                        outcome: None,
                        doubtful: false,
                    });
                    let answer = own
                        .into_iter()
                        .chain(late)
                        .filter(|(_, outcome)| matches!(outcome, Outcome::Done { .. }))
                        .min_by_key(|(at, _)| *at);
                    match answer {
                        Some((at, outcome)) => {
                            self.resolved += usize::from(effect.doubtful || call.ended != Some(at));
                            effect.ended = Some(at);
                            effect.outcome = Some(outcome);
                            let told = open.take();
                            if first_told.is_none() {
                                first_told = told;
                            }
                        }
                        None => effect.doubtful = true,
                    }
                }
            }
        }
        match first_told {
            // Whatever was asked after the first answer adds nothing.
            Some(effect) => self.effects.push(effect),
            None => self.effects.extend(open),
        }
    }
}
