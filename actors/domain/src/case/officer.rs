//! Who works on a case: given by load (R-C13), taken over by another officer of the office (R-R1), and let go.
//!
//! Any officer of the office may act on its cases at any time: an assignment says whose desk a case lies on, it shuts
//! nobody out. Cases that an operator opens are the operator's own and cost the queue nothing.

use super::{Assignment, Case, Event, Reply, State, decide::done};
use crate::{
    entity::{Context, Decision, EntityRef, Kind, Refusal, Send},
    level,
    message::Message,
    refusal::{CASE_CLOSED, refuse},
};
use std::sync::Arc;

impl Case {
    /// A case that came without an officer asks its office for one.
    pub(super) fn want_officer(&self, office: &str, decision: &mut Decision<Self>, context: &Context<'_>) {
        if context.level >= level::QUEUE && context.origin.principal.kind != "operator" {
            let target = EntityRef { kind: Kind::Queue, id: office.to_owned() };
            decision.sends.push(Send { target, message: Message::OfficerWanted });
        }
    }

    /// The office's queue has chosen. Whoever took the case over meanwhile keeps it.
    pub(super) fn officer_given(&self, officer: &str, now_ms: i64) -> Decision<Self> {
        let mut decision = done(Vec::new(), Reply::None);
        match &self.officer {
            Some(assignment) if assignment.officer == officer => {}
            // The queue heard of both, in this order: it knows the later one.
            Some(_) => {}
            None => decision.events.push(Event::OfficerSet(Arc::new(Assignment {
                officer: officer.to_owned(),
                since_ms: now_ms,
                by_load: true,
            }))),
        }
        decision
    }

    pub(super) fn take_over(&self, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        level::needs(level::QUEUE, context)?;
        if is_done(self.state()) {
            return Err(refuse(CASE_CLOSED).with("state", self.state().name()));
        }
        let officer = context.origin.principal.id.clone();
        let before = match (&self.officer, &self.root.opened) {
            (Some(assignment), _) => assignment.officer.clone(),
            (None, Some(opened)) if opened.by.kind == "operator" => opened.by.id.clone(),
            (None, _) => String::new(),
        };
        let mut decision =
            done(Vec::new(), Reply::TakenOver { officer: officer.clone(), before: before.clone() });
        if before != officer {
            decision.events.push(Event::OfficerSet(Arc::new(Assignment {
                officer: officer.clone(),
                since_ms: context.now_ms,
                by_load: false,
            })));
            decision.sends.push(self.to_queue(Message::OfficerTook { officer }));
        }
        Ok(decision)
    }

    /// With the step that ends the work on it the case leaves its officer's desk.
    pub(super) fn with_release(&self, mut decision: Decision<Self>, context: &Context<'_>) -> Decision<Self> {
        let ends = decision.events.iter().any(|event| match event {
            Event::Stepped(stepped) => is_done(stepped.life.state()),
            Event::DocumentAdded(_)
            | Event::Opened(_)
            | Event::DocumentRemoved { .. }
            | Event::Marked { .. }
            | Event::TicketAnswered { .. }
            | Event::OfficerSet(_)
            | Event::Asked(_)
            | Event::Exchanged(_)
            | Event::LetterTaken(_)
            | Event::BodiesForgotten { .. } => false,
        });
        // One that was wanted may yet be given: the queue hears the wish first, and then that it is over.
        let known = self.officer.is_some() || self.wanted_officer();
        if context.level >= level::QUEUE && ends && known && !is_done(self.state()) {
            decision.sends.push(self.to_queue(Message::CaseDone));
        }
        decision
    }

    /// It came from somebody who is no operator; below the queue's level its office was not asked, and has nothing to
    /// forget.
    fn wanted_officer(&self) -> bool {
        self.root.opened.as_ref().is_some_and(|opened| opened.by.kind != "operator")
    }

    fn to_queue(&self, message: Message) -> Send {
        Send { target: EntityRef { kind: Kind::Queue, id: self.root.office.clone() }, message }
    }
}

/// Nobody works on it any more.
const fn is_done(state: State) -> bool {
    match state {
        State::Issued | State::Withdrawn | State::Archived => true,
        State::Unopened
        | State::Draft
        | State::Accepted
        | State::Interagency
        | State::AtAuthority
        | State::Suspended
        | State::ResultReceived
        | State::Refused
        | State::ReadyForIssue
        | State::Unclaimed => false,
    }
}
