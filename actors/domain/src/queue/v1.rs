//! What was written before level [`crate::level::QUEUE`], frozen, and how it becomes what there is now (rule 9).
//!
//! Invariant: below that level every decision can be written in this form, because nothing that needs more is decided
//! there; the way up is a function of the old form alone, so that loading and folding agree.

use super::types::{Event, Move, Purpose, Reply, Ticket, TicketRef, TicketState};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketV1 {
    pub ticket: TicketRef,
    pub purpose: Purpose,
    pub service: String,
    pub category: String,
    /// Called before those without (R-Q12).
    pub priority: bool,
    /// Order of taking within the queue; never used again.
    pub sequence: u64,
    pub taken_ms: i64,
    /// One of the first four states.
    pub state: TicketState,
    /// Ids of the cases opened from it.
    pub cases: Vec<String>,
}

impl From<&TicketV1> for Ticket {
    fn from(old: &TicketV1) -> Self {
        let called_first_ms = match &old.state {
            TicketState::Called { called_ms, .. }
            | TicketState::InService { called_ms, .. }
            | TicketState::Finished { called_ms, .. } => Some(*called_ms),
            TicketState::Waiting | TicketState::PutOff { .. } | TicketState::Closed { .. } => None,
        };
        Self {
            ticket: old.ticket.clone(),
            purpose: old.purpose,
            service: old.service.clone(),
            category: old.category.clone(),
            priority: old.priority,
            group: old.ticket.number.chars().next().unwrap_or('?'),
            sequence: old.sequence,
            taken_ms: old.taken_ms,
            wait_from_ms: old.taken_ms,
            // Below the level, priority was before everybody.
            rank_ms: if old.priority { i64::MIN } else { old.taken_ms },
            at_head: false,
            state: old.state.clone(),
            calls: u8::from(called_first_ms.is_some()),
            put_offs: 0,
            redirects: 0,
            revision: 1,
            called_first_ms,
            served_before_ms: 0,
            bound: String::new(),
            officer: String::new(),
            taken_by: String::new(),
            booking: None,
            outside: None,
            cases: old.cases.clone(),
        }
    }
}

/// The old form of a ticket that came to be below the level.
fn old(ticket: &Ticket) -> Arc<TicketV1> {
    Arc::new(TicketV1 {
        ticket: ticket.ticket.clone(),
        purpose: ticket.purpose,
        service: ticket.service.clone(),
        category: ticket.category.clone(),
        priority: ticket.priority,
        sequence: ticket.sequence,
        taken_ms: ticket.taken_ms,
        state: ticket.state.clone(),
        cases: ticket.cases.clone(),
    })
}

/// A move as it was written then. `None`: there was none of the kind.
pub(super) fn event(what: Move, ticket: &Ticket) -> Option<Event> {
    match what {
        Move::Taken => Some(Event::TicketTaken(old(ticket))),
        Move::Called => Some(Event::TicketCalled(old(ticket))),
        Move::Begun => Some(Event::ServiceBegun(old(ticket))),
        Move::Finished | Move::DidNotCome => Some(Event::TicketFinished(old(ticket))),
        Move::CaseLinked => Some(Event::CaseLinked(old(ticket))),
        Move::CalledAgain
        | Move::PutOff
        | Move::CameBack
        | Move::Redirected
        | Move::Bound
        | Move::Returned
        | Move::ReturnedToHead
        | Move::Left
        | Move::DayOver => None,
    }
}

pub(super) fn given(ticket: &Ticket, ahead: u32) -> Reply {
    Reply::Taken { ticket: old(ticket), ahead }
}

pub(super) fn shown(ticket: &Ticket) -> Reply {
    Reply::Ticket(old(ticket))
}
