//! Cases: commands from the wire, states and lists to it.

use super::{Converted, actor, date, date_text, people, required, term_from, timestamp};
use crate::failure::{Failure, Language};
use okno_domain::{
    case::{Case, Command, DocumentForm, Life, LinkAnswer, Stamp, State, Step},
    catalogue::{Catalogue, Deadline},
    queue::TicketRef,
};
use okno_proto::v1;

pub fn open_from(request: v1::OpenCaseRequest) -> Converted<Command> {
    required("office", &request.office)?;
    required("service", &request.service)?;
    let applicants = request
        .applicants
        .into_iter()
        .enumerate()
        .map(|(n, applicant)| people::applicant_from(&format!("applicants[{n}]"), applicant))
        .collect::<Converted<Vec<_>>>()?;
    let ticket = request.ticket.map(|ticket| ticket_from("ticket", ticket)).transpose()?;
    Ok(Command::Open {
        office: request.office,
        service: request.service,
        applicants,
        ticket,
        note: request.note,
    })
}

pub fn add_document_from(request: v1::AddDocumentRequest) -> Converted<Command> {
    let form = match v1::DocumentForm::try_from(request.form) {
        Ok(v1::DocumentForm::Original) => DocumentForm::Original,
        Ok(v1::DocumentForm::Copy) => DocumentForm::Copy,
        Ok(v1::DocumentForm::Unspecified) | Err(_) => {
            return Err(Failure::field(
                "form",
                "ожидается DOCUMENT_FORM_ORIGINAL или DOCUMENT_FORM_COPY",
                "expected DOCUMENT_FORM_ORIGINAL or DOCUMENT_FORM_COPY",
            ));
        }
    };
    Ok(Command::AddDocument {
        kind: request.kind,
        form,
        sheets: request.sheets,
        reference: request.reference,
        note: request.note,
    })
}

pub fn step_from(step: Option<v1::advance_case_request::Step>) -> Converted<Step> {
    use v1::advance_case_request::Step as Wire;
    let step =
        step.ok_or_else(|| Failure::field("step", "ожидается один из шагов", "expected one of the steps"))?;
    Ok(match step {
        Wire::Accept(_) => Step::Accept,
        Wire::RequestInteragency(step) => {
            Step::RequestInteragency { authority: step.authority, subject: step.subject }
        }
        Wire::InteragencyAnswered(step) => {
            Step::InteragencyAnswered { request: step.number, answer: step.answer }
        }
        Wire::SendToAuthority(step) => Step::SendToAuthority { register_number: step.register_number },
        Wire::Suspend(step) => Step::Suspend {
            reason: step.reason,
            term: step.term.as_ref().map(|term| term_from("suspend.term", term)).transpose()?,
        },
        Wire::Resume(step) => Step::Resume { note: step.note },
        Wire::ReceiveResult(step) => Step::ReceiveResult { reference: step.reference, note: step.note },
        Wire::ReceiveRefusal(step) => Step::ReceiveRefusal { reason: step.reason, reference: step.reference },
        Wire::MakeReady(step) => Step::MakeReady { note: step.note },
        Wire::Issue(step) => Step::Issue { received_by: step.received_by, paper_copy: step.paper_copy },
        Wire::Withdraw(step) => Step::Withdraw { reason: step.reason },
        Wire::MarkUnclaimed(_) => Step::MarkUnclaimed,
        Wire::Archive(_) => Step::Archive,
    })
}

pub fn ticket_from(path: &str, ticket: v1::TicketRef) -> Converted<TicketRef> {
    required(&format!("{path}.number"), &ticket.number)?;
    Ok(TicketRef { day: date(&format!("{path}.day"), &ticket.day)?, number: ticket.number })
}

pub fn ticket(ticket: &TicketRef) -> v1::TicketRef {
    v1::TicketRef { day: ticket.day.to_string(), number: ticket.number.clone() }
}

pub fn state(state: State) -> v1::CaseState {
    match state {
        State::Unopened => v1::CaseState::Unspecified,
        State::Draft => v1::CaseState::Draft,
        State::Accepted => v1::CaseState::Accepted,
        State::Interagency => v1::CaseState::Interagency,
        State::AtAuthority => v1::CaseState::AtAuthority,
        State::Suspended => v1::CaseState::Suspended,
        State::ResultReceived => v1::CaseState::ResultReceived,
        State::Refused => v1::CaseState::Refused,
        State::ReadyForIssue => v1::CaseState::ReadyForIssue,
        State::Issued => v1::CaseState::Issued,
        State::Withdrawn => v1::CaseState::Withdrawn,
        State::Unclaimed => v1::CaseState::Unclaimed,
        State::Archived => v1::CaseState::Archived,
    }
}

/// `None` for unspecified.
pub fn state_from(path: &str, value: i32) -> Converted<Option<State>> {
    let wire = v1::CaseState::try_from(value)
        .map_err(|_| Failure::field(path, "неизвестное состояние", "expected a state of CaseState"))?;
    Ok(State::ALL.into_iter().find(|one| state(*one) == wire))
}

pub fn deadline(deadline: &Deadline) -> v1::Deadline {
    v1::Deadline {
        date: deadline.date.to_string(),
        provisional: deadline.provisional.clone().unwrap_or_default(),
        near: false,
        passed: false,
    }
}

fn stamp_actor(stamp: &Stamp) -> Option<v1::Actor> {
    actor(&stamp.by, &stamp.workstation, &stamp.window)
}

/// A case in full. The service's name is the catalogue's of now.
pub fn case(case: &Case, catalogue: &Catalogue, language: Language) -> v1::Case {
    let root = case.head();
    let service = catalogue.service(&root.service);
    let facts = facts(case);
    v1::Case {
        case_id: case.id().to_owned(),
        office: root.office.clone(),
        service: root.service.clone(),
        service_name: service
            .map(|service| service.name.of(language == Language::English).to_owned())
            .unwrap_or_default(),
        catalogue_version: root.due.as_ref().map_or(0, |due| due.catalogue_version),
        state: state(case.state()).into(),
        applicants: case.applicants().map(people::applicant).collect(),
        documents: case.documents().map(document).collect(),
        interagency_requests: case
            .requests()
            .map(|request| v1::InteragencyRequest {
                number: request.number,
                authority: request.authority.clone(),
                subject: request.subject.clone(),
                sent_at: timestamp(request.sent_ms),
                answered_at: request.answered_ms.and_then(timestamp),
                answer: request.answer.clone(),
            })
            .collect(),
        steps: case
            .steps()
            .map(|step| v1::StepRecord {
                number: step.number,
                step: step.step.kind().name().to_owned(),
                from: state(step.from).into(),
                to: state(step.to).into(),
                time: timestamp(step.stamp.at_ms),
                actor: stamp_actor(&step.stamp),
                note: step_note(&step.step),
                warnings: step.warnings.clone(),
            })
            .collect(),
        deadline: case_deadline(case),
        ticket: root.ticket.as_ref().map(|link| ticket(&link.ticket)),
        ticket_link: match root.ticket.as_ref().map(|link| &link.answer) {
            None => String::new(),
            Some(LinkAnswer::Pending) => "pending".to_owned(),
            Some(LinkAnswer::Linked) => "linked".to_owned(),
            Some(LinkAnswer::Refused(reason)) => reason.clone(),
        },
        opened_at: root.opened.as_ref().and_then(|stamp| timestamp(stamp.at_ms)),
        opened_by: root.opened.as_ref().and_then(stamp_actor),
        changed_at: timestamp(root.changed_ms),
        term_unverified: root.due.as_ref().is_some_and(|due| !due.verified),
        authority_deadline: root.due.as_ref().map(|due| deadline(&due.deadlines.execution)),
        suspension: facts.suspension,
        reason: facts.reason,
        reference: facts.reference,
        outcome: facts.outcome.into(),
        keep_until: facts.keep_until,
        received_by: facts.received_by,
        suspension_over: root.marks.suspension_over_ms.is_some(),
        storage_over: root.marks.storage_over_ms.is_some(),
        note: root.note.clone(),
        warnings: root.warnings.clone(),
    }
}

/// When the result is due in the office, with what timers have marked.
pub fn case_deadline(case: &Case) -> Option<v1::Deadline> {
    let root = case.head();
    let due = root.due.as_ref()?;
    Some(v1::Deadline {
        near: root.marks.deadline_near_ms.is_some(),
        passed: root.marks.deadline_passed_ms.is_some(),
        ..deadline(&due.deadlines.ready)
    })
}

pub fn summary(case: &Case) -> v1::CaseSummary {
    let root = case.head();
    v1::CaseSummary {
        case_id: case.id().to_owned(),
        office: root.office.clone(),
        service: root.service.clone(),
        state: state(case.state()).into(),
        applicant: case.applicants().next().map(|applicant| applicant.display_name()).unwrap_or_default(),
        documents: u32::try_from(case.documents().len()).unwrap_or(u32::MAX),
        deadline: case_deadline(case),
        opened_at: root.opened.as_ref().and_then(|stamp| timestamp(stamp.at_ms)),
    }
}

fn document(document: &okno_domain::case::Document) -> v1::Document {
    let form = match document.form {
        DocumentForm::Original => v1::DocumentForm::Original,
        DocumentForm::Copy => v1::DocumentForm::Copy,
    };
    v1::Document {
        number: document.number,
        kind: document.kind.clone(),
        form: form.into(),
        sheets: document.sheets,
        reference: document.reference.clone(),
        note: document.note.clone(),
        added_at: timestamp(document.added_ms),
        added_by: actor(&document.added_by, "", ""),
    }
}

/// What steps have brought, and what holds in the present state only.
struct Facts {
    suspension: Option<v1::Suspension>,
    reason: String,
    reference: String,
    outcome: v1::CaseOutcome,
    keep_until: String,
    received_by: String,
}

/// Results and reasons come from the steps that brought them: they stay known when the case is issued and archived.
fn facts(case: &Case) -> Facts {
    let mut facts = Facts {
        suspension: None,
        reason: String::new(),
        reference: String::new(),
        outcome: v1::CaseOutcome::Unspecified,
        keep_until: String::new(),
        received_by: String::new(),
    };
    for record in case.steps() {
        match &record.step {
            Step::ReceiveResult { reference, .. } => {
                facts.reference.clone_from(reference);
                facts.outcome = v1::CaseOutcome::Result;
            }
            Step::ReceiveRefusal { reason, reference } => {
                facts.reason.clone_from(reason);
                facts.reference.clone_from(reference);
                facts.outcome = v1::CaseOutcome::Refusal;
            }
            Step::Withdraw { reason } => facts.reason.clone_from(reason),
            Step::Issue { received_by, .. } => facts.received_by.clone_from(received_by),
            Step::Accept
            | Step::RequestInteragency { .. }
            | Step::InteragencyAnswered { .. }
            | Step::SendToAuthority { .. }
            | Step::Suspend { .. }
            | Step::Resume { .. }
            | Step::MakeReady { .. }
            | Step::MarkUnclaimed
            | Step::Archive => {}
        }
    }
    match &case.head().life {
        Life::Suspended(suspension) => {
            facts.suspension = Some(v1::Suspension {
                from: state(suspension.from).into(),
                reason: suspension.reason.clone(),
                since: suspension.since.to_string(),
                until: date_text(suspension.until),
            });
        }
        Life::ReadyForIssue { keep_until, .. } => facts.keep_until = date_text(*keep_until),
        Life::Unopened
        | Life::Draft
        | Life::Accepted
        | Life::Interagency
        | Life::AtAuthority { .. }
        | Life::ResultReceived { .. }
        | Life::Refused { .. }
        | Life::Issued { .. }
        | Life::Withdrawn { .. }
        | Life::Unclaimed { .. }
        | Life::Archived { .. } => {}
    }
    facts
}

/// What was written down with a step, in one line.
pub fn step_note(step: &Step) -> String {
    let join = |one: &str, other: &str| match (one.is_empty(), other.is_empty()) {
        (_, true) => one.to_owned(),
        (true, false) => other.to_owned(),
        (false, false) => format!("{one}; {other}"),
    };
    match step {
        Step::Accept | Step::MarkUnclaimed | Step::Archive => String::new(),
        Step::RequestInteragency { authority, subject } => join(authority, subject),
        Step::InteragencyAnswered { request, answer } => join(&format!("№ {request}"), answer),
        Step::SendToAuthority { register_number } => register_number.clone(),
        Step::Suspend { reason, .. } | Step::Withdraw { reason } => reason.clone(),
        Step::Resume { note } | Step::MakeReady { note } => note.clone(),
        Step::ReceiveResult { reference, note } => join(reference, note),
        Step::ReceiveRefusal { reason, reference } => join(reason, reference),
        Step::Issue { received_by, .. } => received_by.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_goes_both_ways() {
        for one in State::ALL {
            assert_eq!(state_from("state", state(one).into()), Ok(Some(one)));
        }
        assert_eq!(state_from("state", 0), Ok(None));
        assert!(state_from("state", 99).is_err());
    }
}
