//! Tickets.

use super::{Converted, timestamp};
use crate::failure::Failure;
use okno_domain::queue::{Purpose, Ticket, TicketState, VisitOutcome};
use okno_proto::v1;

pub fn purpose_from(value: i32) -> Converted<Purpose> {
    match v1::VisitPurpose::try_from(value) {
        Ok(v1::VisitPurpose::Apply) => Ok(Purpose::Apply),
        Ok(v1::VisitPurpose::AskStatus) => Ok(Purpose::AskStatus),
        Ok(v1::VisitPurpose::CollectResult) => Ok(Purpose::CollectResult),
        Ok(v1::VisitPurpose::Other) => Ok(Purpose::Other),
        Ok(v1::VisitPurpose::Unspecified) | Err(_) => {
            Err(Failure::field("purpose", "ожидается цель посещения", "expected a purpose of VisitPurpose"))
        }
    }
}

/// Unspecified is served: what a visit ends with unless something else is said.
pub fn outcome_from(value: i32) -> Converted<VisitOutcome> {
    match v1::VisitOutcome::try_from(value) {
        Ok(v1::VisitOutcome::Served | v1::VisitOutcome::Unspecified) => Ok(VisitOutcome::Served),
        Ok(v1::VisitOutcome::NoShow) => Ok(VisitOutcome::NoShow),
        Err(_) => Err(Failure::field("outcome", "неизвестный исход", "expected an outcome of VisitOutcome")),
    }
}

pub fn state(state: &TicketState) -> v1::TicketState {
    match state {
        TicketState::Waiting => v1::TicketState::Waiting,
        TicketState::Called { .. } => v1::TicketState::Called,
        TicketState::InService { .. } => v1::TicketState::InService,
        TicketState::Finished { .. } => v1::TicketState::Finished,
    }
}

pub fn ticket(office: &str, ticket: &Ticket) -> v1::Ticket {
    let purpose = match ticket.purpose {
        Purpose::Apply => v1::VisitPurpose::Apply,
        Purpose::AskStatus => v1::VisitPurpose::AskStatus,
        Purpose::CollectResult => v1::VisitPurpose::CollectResult,
        Purpose::Other => v1::VisitPurpose::Other,
    };
    let (called, begun, finished) = match &ticket.state {
        TicketState::Waiting => (None, None, None),
        TicketState::Called { called_ms, .. } => (Some(*called_ms), None, None),
        TicketState::InService { called_ms, begun_ms, .. } => (Some(*called_ms), Some(*begun_ms), None),
        TicketState::Finished { called_ms, begun_ms, finished_ms, .. } => {
            (Some(*called_ms), *begun_ms, Some(*finished_ms))
        }
    };
    v1::Ticket {
        office: office.to_owned(),
        day: ticket.ticket.day.to_string(),
        number: ticket.ticket.number.clone(),
        purpose: purpose.into(),
        service: ticket.service.clone(),
        category: ticket.category.clone(),
        state: state(&ticket.state).into(),
        window: ticket.state.window().unwrap_or_default().to_owned(),
        case_ids: ticket.cases.clone(),
        taken_at: timestamp(ticket.taken_ms),
        called_at: called.and_then(timestamp),
        begun_at: begun.and_then(timestamp),
        finished_at: finished.and_then(timestamp),
        priority: ticket.priority,
    }
}
