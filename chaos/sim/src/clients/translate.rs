//! Between the domain's words and the checkers': what is asked becomes a command, what is answered and what a store
//! holds becomes what was seen. Nothing is worked out here, so that nothing can be hidden here.

use crate::port::{Observed, Query};
use okno_checks::history::{
    Call, CaseSeen, Day, Destination, Entity as Subject, Final, Link, Outcome, Phase, Purpose, QueueSeen,
    Reply, Seen, Stage, Step, TicketName, TicketSeen, WindowSeen, WindowStand,
};
use okno_domain::{
    case::{self, Case, LinkAnswer, State},
    entity::{EntityRef, Kind},
    queue::{self, Command, DeskState, Queue, TicketRef, TicketState, VisitOutcome},
    registry::{AnyCommand, AnyReply},
    rows::{self, Table},
};
use okno_runtime::{call::CallResult, load::load_state};
use okno_storage::{commit::EntityKey, error::StorageError, state::StateView};
use std::collections::BTreeMap;

use super::fixtures;

/// Cases one store lists in the end; a run opens far fewer.
const CASES_MAX: usize = 10_000;

pub fn target(entity: &Subject) -> EntityRef {
    match entity {
        Subject::Case(id) => EntityRef { kind: Kind::Case, id: id.clone() },
        Subject::Queue(office) => EntityRef { kind: Kind::Queue, id: office.clone() },
    }
}

/// The command of a call. Reads have none.
pub fn command(call: &Call) -> Option<AnyCommand> {
    Some(match call {
        Call::OpenCase { office, service, ticket } => AnyCommand::Case(case::Command::Open {
            office: office.clone(),
            service: service.clone(),
            applicants: vec![fixtures::applicant()],
            ticket: ticket.as_ref().map(ticket_ref),
            note: String::new(),
        }),
        Call::AddDocument { reference, sheets } => document(reference, *sheets),
        Call::RemoveDocument { document } => {
            AnyCommand::Case(case::Command::RemoveDocument { document: *document })
        }
        Call::Advance(step) => AnyCommand::Case(case::Command::Advance { step: domain_step(step) }),
        Call::TakeTicket { purpose, service, category } => AnyCommand::Queue(queue::Command::TakeTicket {
            purpose: match purpose {
                Purpose::Apply => queue::Purpose::Apply,
                Purpose::AskStatus => queue::Purpose::AskStatus,
                Purpose::CollectResult => queue::Purpose::CollectResult,
                Purpose::Other => queue::Purpose::Other,
            },
            service: service.clone(),
            category: category.clone(),
        }),
        Call::CallNext { window } => AnyCommand::Queue(queue::Command::CallNext { window: window.clone() }),
        Call::Begin { ticket, window } => {
            AnyCommand::Queue(queue::Command::Begin { ticket: ticket_ref(ticket), window: window.clone() })
        }
        Call::Finish { ticket, window, served } => AnyCommand::Queue(queue::Command::Finish {
            ticket: ticket_ref(ticket),
            window: window.clone(),
            outcome: if *served { VisitOutcome::Served } else { VisitOutcome::NoShow },
        }),
        Call::CallNumber { ticket, window } => {
            AnyCommand::Queue(Command::CallNumber { ticket: ticket_ref(ticket), window: window.clone() })
        }
        Call::CallAgain { ticket, window } => {
            AnyCommand::Queue(Command::CallAgain { ticket: ticket_ref(ticket), window: window.clone() })
        }
        Call::PutOff { ticket, window, minutes } => AnyCommand::Queue(Command::PutOff {
            ticket: ticket_ref(ticket),
            window: window.clone(),
            minutes: *minutes,
        }),
        Call::Redirect { ticket, window, to } => AnyCommand::Queue(Command::Redirect {
            ticket: ticket_ref(ticket),
            window: window.clone(),
            to: match to {
                Destination::Window(window) => queue::Destination::Window(window.clone()),
                Destination::Service(service) => queue::Destination::Service(service.clone()),
            },
        }),
        Call::Bind { ticket, window } => {
            AnyCommand::Queue(Command::Bind { ticket: ticket_ref(ticket), window: window.clone() })
        }
        Call::ReturnToQueue { ticket, window } => {
            AnyCommand::Queue(Command::ReturnToQueue { ticket: ticket_ref(ticket), window: window.clone() })
        }
        Call::Leave { ticket } => AnyCommand::Queue(Command::Leave { ticket: ticket_ref(ticket) }),
        Call::OpenWindow { window } => AnyCommand::Queue(Command::OpenWindow { window: window.clone() }),
        Call::CloseWindow { window } => AnyCommand::Queue(Command::CloseWindow { window: window.clone() }),
        Call::StartBreak { window, minutes } => {
            AnyCommand::Queue(Command::StartBreak { window: window.clone(), minutes: *minutes })
        }
        // Neither may ever come to be: a document that shows up names the call.
        Call::ReuseRequest => document("under a used id", 1),
        Call::MalformedRequest => document("under a malformed id", 1),
        Call::ReadCase | Call::ReadQueue => return None,
    })
}

fn document(reference: &str, sheets: u32) -> AnyCommand {
    AnyCommand::Case(case::Command::AddDocument {
        kind: "passport".into(),
        form: case::DocumentForm::Original,
        sheets,
        reference: reference.to_owned(),
        note: String::new(),
    })
}

fn domain_step(step: &Step) -> case::Step {
    use case::Step as To;
    match step {
        Step::Accept => To::Accept,
        Step::RequestInteragency => {
            To::RequestInteragency { authority: "bureau".into(), subject: "справка".into() }
        }
        Step::InteragencyAnswered { request } => {
            To::InteragencyAnswered { request: *request, answer: "да".into() }
        }
        Step::SendToAuthority => To::SendToAuthority { register_number: "1".into() },
        Step::Suspend { reason } => To::Suspend { reason: reason.clone(), term: None },
        Step::Resume => To::Resume { note: String::new() },
        Step::ReceiveResult => To::ReceiveResult { reference: "№ 1".into(), note: String::new() },
        Step::ReceiveRefusal => To::ReceiveRefusal { reason: "нет".into(), reference: "№ 2".into() },
        Step::MakeReady => To::MakeReady { note: String::new() },
        Step::Issue => To::Issue { received_by: "заявитель".into(), paper_copy: false },
        Step::Withdraw => To::Withdraw { reason: String::new() },
        Step::MarkUnclaimed => To::MarkUnclaimed,
        Step::Archive => To::Archive,
    }
}

/// How a call ended, in the checkers' words.
pub fn outcome(result: CallResult) -> Outcome {
    match result {
        CallResult::Done { reply: any, index } => match reply(any) {
            Some(reply) => Outcome::Done { reply, index },
            // An answer to something else than was asked is as good as none, and shows in the counts.
            None => Outcome::Unknown("REPLY_OF_ANOTHER_KIND".into()),
        },
        CallResult::Refused(refusal) => Outcome::Refused(refusal.reason),
        CallResult::NotApplied { reason, .. } => Outcome::NotApplied(reason),
        CallResult::Unknown { reason } => Outcome::Unknown(reason),
    }
}

fn reply(any: AnyReply) -> Option<Reply> {
    Some(match any {
        AnyReply::Case(reply) => match reply {
            case::Reply::Opened { .. } => Reply::Opened,
            case::Reply::DocumentAdded { document } => Reply::DocumentAdded { document },
            case::Reply::DocumentRemoved => Reply::DocumentRemoved,
            case::Reply::Advanced(advanced) => Reply::Advanced {
                step: advanced.step,
                stage: stage(advanced.state)?,
                request: advanced.request,
            },
            // The clients here take nothing over and ask no channels.
            case::Reply::TakenOver { .. } | case::Reply::Asked { .. } | case::Reply::None => return None,
        },
        AnyReply::Queue(queue::Reply::Window(desk)) => Reply::Window(window_seen(&desk)),
        AnyReply::Queue(reply) => match reply.given() {
            Some((ticket, ahead)) => Reply::TicketTaken { ticket: ticket_seen(&ticket), ahead },
            None => Reply::Ticket(ticket_seen(reply.ticket()?.as_ref())),
        },
        AnyReply::Catalogue(_) | AnyReply::Directory(_) | AnyReply::Channel(_) => return None,
    })
}

const fn stage(state: State) -> Option<Stage> {
    Some(match state {
        State::Unopened => return None,
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

fn ticket_ref(name: &TicketName) -> TicketRef {
    let TicketName { day, number } = name;
    let part = |value: u32| i8::try_from(value).unwrap_or(0);
    let date = jiff::civil::Date::new(
        i16::try_from(day / 10_000).unwrap_or(0),
        part(day / 100 % 100),
        part(day % 100),
    );
    // Names come from answers; one that is no date names no ticket either.
    TicketRef { day: date.unwrap_or(jiff::civil::Date::MIN), number: number.clone() }
}

pub fn day(date: jiff::civil::Date) -> Day {
    let part = |value: i16| u32::try_from(value).unwrap_or(0);
    part(date.year()) * 10_000 + part(date.month().into()) * 100 + part(date.day().into())
}

pub fn ticket_name(ticket: &TicketRef) -> TicketName {
    TicketName { day: day(ticket.day), number: ticket.number.clone() }
}

fn ticket_seen(ticket: &queue::Ticket) -> TicketSeen {
    TicketSeen {
        name: ticket_name(&ticket.ticket),
        priority: ticket.priority,
        since_ms: ticket.wait_from_ms,
        before_all: ticket.priority && ticket.rank_ms == i64::MIN,
        phase: match &ticket.state {
            TicketState::Waiting => Phase::Waiting,
            TicketState::PutOff { until_ms } => Phase::PutOff { until_ms: *until_ms },
            TicketState::Called { window, .. } => Phase::Called(window.clone()),
            TicketState::InService { window, .. } => Phase::InService(window.clone()),
            TicketState::Finished { window, .. } => Phase::Finished(window.clone()),
            TicketState::Closed { .. } => Phase::Finished(String::new()),
        },
        bound: ticket.bound.clone(),
        cases: ticket.cases.clone(),
    }
}

fn window_seen(desk: &queue::Desk) -> WindowSeen {
    WindowSeen {
        number: desk.window.clone(),
        day: day(desk.day),
        stand: match desk.state {
            DeskState::Open => WindowStand::Open,
            DeskState::Closed => WindowStand::Closed,
            DeskState::Break { until_ms } => WindowStand::Break { until_ms },
        },
    }
}

pub fn case_seen(case: &Case, index: u64) -> Option<CaseSeen> {
    let head = case.head();
    Some(CaseSeen {
        stage: stage(case.state())?,
        documents: case.documents().map(|document| (document.number, document.reference.clone())).collect(),
        documents_last: head.documents_last,
        steps_last: head.steps_last,
        requests_last: head.requests_last,
        requests_open: head.requests_open,
        link: head.ticket.as_ref().map(|link| {
            let said = match &link.answer {
                LinkAnswer::Pending => Link::Pending,
                LinkAnswer::Linked => Link::Linked,
                LinkAnswer::Refused(reason) => Link::Refused(reason.clone()),
            };
            (ticket_name(&link.ticket), said)
        }),
        index,
    })
}

pub fn queue_seen(queue: &Queue, index: u64) -> Option<QueueSeen> {
    let windows: Vec<_> = queue.desks().map(window_seen).collect();
    // Windows open before anybody takes a ticket.
    if queue.day().is_none() && windows.is_empty() {
        return None;
    }
    Some(QueueSeen {
        day: queue.day().map_or(0, day),
        tickets: queue.tickets().map(ticket_seen).collect(),
        windows: Some(windows),
        index,
    })
}

fn see(view: &StateView, entity: &Subject) -> Result<Seen, StorageError> {
    let this = target(entity);
    Ok(match entity {
        Subject::Case(_) => load_state::<Case>(view, &this)?
            .and_then(|loaded| case_seen(&loaded.state, loaded.head_index))
            .map_or(Seen::Absent, Seen::Case),
        Subject::Queue(_) => load_state::<Queue>(view, &this)?
            .and_then(|loaded| queue_seen(&loaded.state, loaded.head_index))
            .map_or(Seen::Absent, Seen::Queue),
    })
}

/// A read of one entity.
#[derive(Debug, Clone)]
pub struct ReadEntity(pub Subject);

impl Query for ReadEntity {
    fn run(&self, view: &StateView) -> Result<Observed, StorageError> {
        see(view, &self.0)
    }
}

/// Everything a node's store holds of these offices that clients could have made, whether anybody asked for it or not.
pub fn final_of(node: u64, view: &StateView, offices: &[&str]) -> Result<Final, StorageError> {
    let mut found = Final { node, cases: BTreeMap::new(), queues: BTreeMap::new() };
    for office in offices {
        let from = rows::case_by_office_prefix(office);
        let mut to = from.clone();
        // The prefix ends with the zero behind the office's code.
        to.pop();
        to.push(1);
        let rows = view.rows(Table::CaseByOffice.number(), &from, &to, None, CASES_MAX)?;
        for (_, key) in rows {
            let id = EntityKey::id(&key).to_owned();
            if let Seen::Case(case) = see(view, &Subject::Case(id.clone()))? {
                found.cases.insert(id, case);
            }
        }
        if let Seen::Queue(queue) = see(view, &Subject::Queue((*office).to_owned()))? {
            found.queues.insert((*office).to_owned(), queue);
        }
    }
    Ok(found)
}
