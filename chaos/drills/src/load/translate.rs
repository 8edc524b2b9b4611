//! The wire's words and the checkers'.

use crate::load::record::Answered;
use okno_checks::history::{
    CaseSeen, Day, Entity, Link, Phase, QueueSeen, Reply, Seen, Stage, TicketName, TicketSeen,
};
use okno_client::v1 as proto;

/// A civil date, ISO 8601, as the number yyyymmdd; 0 for what is none.
pub fn day(text: &str) -> Day {
    text.replace('-', "").parse().unwrap_or(0)
}

pub fn stage(state: proto::CaseState) -> Option<Stage> {
    use proto::CaseState as State;
    Some(match state {
        State::Unspecified => return None,
        State::Draft => Stage::Draft,
        State::Accepted => Stage::Accepted,
        State::Interagency => Stage::Interagency,
        State::AtAuthority => Stage::AtAuthority,
        State::Suspended => Stage::Suspended,
        State::ResultReceived => Stage::ResultReceived,
        State::Refused => Stage::Refused,
        State::ReadyForIssue => Stage::ReadyForIssue,
        State::Issued => Stage::Issued,
        State::Withdrawn => Stage::Withdrawn,
        State::Unclaimed => Stage::Unclaimed,
        State::Archived => Stage::Archived,
    })
}

/// A case as the interface shows it. Nobody in a drill removes documents, so the highest number is the last given.
/// The interface does not tell the index of an entity's last commit: 0.
pub fn case(case: &proto::Case) -> Option<CaseSeen> {
    let mut documents: Vec<(u32, String)> =
        case.documents.iter().map(|document| (document.number, document.reference.clone())).collect();
    documents.sort();
    let requests = &case.interagency_requests;
    let link = case.ticket.as_ref().map(|ticket| {
        let link = match case.ticket_link.as_str() {
            "pending" => Link::Pending,
            "linked" => Link::Linked,
            other => Link::Refused(other.to_owned()),
        };
        (ticket_name(&ticket.day, &ticket.number), link)
    });
    Some(CaseSeen {
        stage: stage(case.state())?,
        documents_last: documents.last().map_or(0, |(number, _)| *number),
        documents,
        steps_last: case.steps.iter().map(|step| step.number).max().unwrap_or(0),
        requests_last: requests.iter().map(|request| request.number).max().unwrap_or(0),
        requests_open: requests.iter().map(|request| u32::from(request.answered_at.is_none())).sum(),
        link,
        index: 0,
    })
}

pub fn ticket_name(day_text: &str, number: &str) -> TicketName {
    TicketName { day: day(day_text), number: number.to_owned() }
}

pub fn ticket(ticket: &proto::Ticket) -> TicketSeen {
    use proto::TicketState as State;
    let phase = match ticket.state() {
        State::Unspecified | State::Waiting | State::PutOff => Phase::Waiting,
        State::Called => Phase::Called(ticket.window.clone()),
        State::InService => Phase::InService(ticket.window.clone()),
        // What the day's end closed is finished at no window.
        State::Finished | State::Closed => Phase::Finished(ticket.window.clone()),
    };
    TicketSeen {
        name: ticket_name(&ticket.day, &ticket.number),
        priority: ticket.priority,
        since_ms: ticket
            .taken_at
            .as_ref()
            .map_or(0, |at| at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000),
        // A cluster of a drill is at its newest level before its load begins.
        before_all: false,
        phase,
        bound: String::new(),
        cases: ticket.case_ids.clone(),
    }
}

/// A whole queue on one page.
pub fn queue(tickets: &[proto::Ticket]) -> Option<QueueSeen> {
    let mut tickets: Vec<TicketSeen> = tickets.iter().map(ticket).collect();
    let day = tickets.iter().map(|ticket| ticket.name.day).max()?;
    tickets.retain(|ticket| ticket.name.day == day);
    tickets.sort_by(|a, b| a.name.number.cmp(&b.name.number));
    Some(QueueSeen { day, tickets, windows: None, index: 0 })
}

// ---- Answers ----

pub fn opened(response: &proto::OpenCaseResponse) -> Answered {
    (Some(Entity::Case(response.case_id.clone())), Reply::Opened)
}

pub fn added(response: &proto::AddDocumentResponse) -> Answered {
    (None, Reply::DocumentAdded { document: response.document_number })
}

pub fn advanced(response: &proto::AdvanceCaseResponse) -> Answered {
    let stage = stage(response.state()).unwrap_or(Stage::Draft);
    (None, Reply::Advanced { step: response.step_number, stage, request: response.interagency_number })
}

pub fn taken(response: &proto::TakeTicketResponse) -> Answered {
    let seen = ticket(&response.ticket.clone().unwrap_or_default());
    (None, Reply::TicketTaken { ticket: seen, ahead: response.ahead })
}

pub fn called(response: &proto::CallNextResponse) -> Answered {
    (None, Reply::Ticket(ticket(&response.ticket.clone().unwrap_or_default())))
}

pub fn begun(response: &proto::BeginServiceResponse) -> Answered {
    (None, Reply::Ticket(ticket(&response.ticket.clone().unwrap_or_default())))
}

pub fn finished(response: &proto::FinishServiceResponse) -> Answered {
    (None, Reply::Ticket(ticket(&response.ticket.clone().unwrap_or_default())))
}

pub fn read_case(response: &proto::GetCaseResponse) -> Option<Seen> {
    response.case.as_ref().and_then(case).map(Seen::Case)
}

pub fn read_queue(response: &proto::ListTicketsResponse) -> Option<Seen> {
    // More than a page is no one moment's queue.
    if !response.next_page_token.is_empty() {
        return None;
    }
    Some(queue(&response.tickets).map_or(Seen::Absent, Seen::Queue))
}
