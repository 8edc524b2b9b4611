//! The model of a case: its stage, its documents and its interagency requests, and how many steps it took.

use super::{Op, works_in};
use crate::{
    history::{Call, CaseSeen, Outcome, Reply, Seen, Setting, Stage, Step, TicketName},
    linear::Model,
};
use std::collections::BTreeMap;

/// Entries of each sort that a case takes.
const DOCUMENTS_MAX: u32 = 500;
const REQUESTS_MAX: u32 = 64;
const STEPS_MAX: u32 = 1_000;
const SHEETS_MAX: u32 = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State<'a> {
    /// `None`: there is no such case.
    stage: Option<Stage>,
    office: &'a str,
    service: &'a str,
    ticket: Option<&'a TicketName>,
    /// By number.
    documents: Vec<(u32, &'a str)>,
    documents_last: u32,
    steps_last: u32,
    requests_last: u32,
    /// One bit for each interagency request without an answer.
    open: u64,
    /// The stage that goes on after a suspension.
    before: Stage,
}

/// The model of one case.
pub struct CaseModel<'a> {
    setting: &'a Setting,
    /// Numbers under which reads have shown documents, by reference: a document never has another,
    numbers: BTreeMap<&'a str, u32>,
    /// and a number is never given again.
    references: BTreeMap<u32, &'a str>,
    /// No date but the first was possible.
    first_day: u32,
}

enum Decision<'a> {
    Refused(&'static str),
    Done(Box<State<'a>>, Reply),
}

impl<'a> CaseModel<'a> {
    /// `reads`: everything that was seen of this case.
    pub fn new(setting: &'a Setting, reads: impl Iterator<Item = &'a CaseSeen>) -> Self {
        let references: BTreeMap<u32, &str> = reads
            .flat_map(|seen| &seen.documents)
            .map(|(number, reference)| (*number, reference.as_str()))
            .collect();
        Self {
            setting,
            numbers: references.iter().map(|(number, reference)| (*reference, *number)).collect(),
            references,
            first_day: setting.days.first().map_or(0, |(_, day)| *day),
        }
    }

    fn decide(&self, state: &State<'a>, op: &Op<'a>) -> Vec<Decision<'a>> {
        let refused = |reason| vec![Decision::Refused(reason)];
        let setting = self.setting;
        if let Call::OpenCase { office, service, ticket } = op.call {
            if !works_in(setting, op.client, office) {
                return refused("OFFICE_FOREIGN");
            }
            if state.stage.is_some() {
                return refused("CASE_EXISTS");
            }
            return match setting.services.get(service) {
                None => refused("SERVICE_UNKNOWN"),
                Some(known) if !known.active => refused("SERVICE_INACTIVE"),
                Some(_) => {
                    let opened = State {
                        stage: Some(Stage::Draft),
                        office,
                        service,
                        ticket: ticket.as_ref(),
                        ..self.initial()
                    };
                    vec![Decision::Done(Box::new(opened), Reply::Opened)]
                }
            };
        }
        let Some(stage) = state.stage else { return refused("CASE_UNKNOWN") };
        if !works_in(setting, op.client, state.office) {
            return refused("OFFICE_FOREIGN");
        }
        match op.call {
            Call::AddDocument { reference, sheets } => {
                if !takes_documents(stage) {
                    return refused("CASE_CLOSED");
                }
                if *sheets > SHEETS_MAX {
                    return refused("FIELD_INVALID");
                }
                let document = state.documents_last + 1;
                if document > DOCUMENTS_MAX {
                    return refused("CASE_LIMIT");
                }
                let another = self.numbers.get(reference.as_str()).is_some_and(|number| *number != document);
                if another || self.references.get(&document).is_some_and(|shown| shown != reference) {
                    return Vec::new();
                }
                let mut next = state.clone();
                next.documents.push((document, reference));
                next.documents_last = document;
                vec![Decision::Done(Box::new(next), Reply::DocumentAdded { document })]
            }
            Call::RemoveDocument { document } => {
                if !state.documents.iter().any(|(number, _)| number == document) {
                    return refused("DOCUMENT_UNKNOWN");
                }
                if stage != Stage::Draft {
                    return refused("DOCUMENT_TAKEN_IN");
                }
                let mut next = state.clone();
                next.documents.retain(|(number, _)| number != document);
                vec![Decision::Done(Box::new(next), Reply::DocumentRemoved)]
            }
            Call::Advance(step) => self.advance(state, stage, step, op),
            // Calls of queues, and calls that must not come this far.
            _ => Vec::new(),
        }
    }

    fn advance(&self, state: &State<'a>, stage: Stage, step: &Step, op: &Op<'a>) -> Vec<Decision<'a>> {
        let refused = |reason| vec![Decision::Refused(reason)];
        if !possible(stage, step) {
            return refused("CASE_STEP_IMPOSSIBLE");
        }
        if state.steps_last >= STEPS_MAX {
            return refused("CASE_LIMIT");
        }
        let service = self.setting.services.get(state.service);
        let mut next = state.clone();
        let mut request = 0;
        let to = match step {
            Step::Accept => Stage::Accepted,
            Step::RequestInteragency => {
                request = state.requests_last + 1;
                if request > REQUESTS_MAX {
                    return refused("CASE_LIMIT");
                }
                next.requests_last = request;
                next.open |= bit(request);
                Stage::Interagency
            }
            Step::InteragencyAnswered { request: asked } => {
                if *asked == 0 || *asked > state.requests_last {
                    return refused("REQUEST_UNKNOWN");
                }
                if state.open & bit(*asked) == 0 {
                    return refused("REQUEST_ANSWERED");
                }
                request = *asked;
                next.open &= !bit(request);
                match stage {
                    Stage::Suspended => Stage::Suspended,
                    _ if next.open != 0 => Stage::Interagency,
                    _ => Stage::Accepted,
                }
            }
            Step::SendToAuthority => Stage::AtAuthority,
            Step::Suspend { reason } => {
                if !service.is_some_and(|service| service.suspensions.contains(reason)) {
                    return refused("SUSPENSION_REASON_UNKNOWN");
                }
                next.before = stage;
                Stage::Suspended
            }
            Step::Resume => match state.before {
                Stage::Interagency if state.open == 0 => Stage::Accepted,
                before => before,
            },
            Step::ReceiveResult => Stage::ResultReceived,
            Step::ReceiveRefusal => Stage::Refused,
            Step::MakeReady => Stage::ReadyForIssue,
            Step::Issue => Stage::Issued,
            Step::Withdraw => Stage::Withdrawn,
            Step::MarkUnclaimed => Stage::Unclaimed,
            Step::Archive => Stage::Archived,
        };
        // Where nothing depends on it any more it is forgotten: fewer states differ.
        if to != Stage::Suspended {
            next.before = Stage::Draft;
        }
        next.stage = Some(to);
        next.steps_last += 1;
        let reply = Reply::Advanced { step: next.steps_last, stage: to, request };
        let mut decisions = Vec::with_capacity(2);
        let mut may = true;
        if *step == Step::MarkUnclaimed && service.is_some_and(|service| service.storage) {
            decisions.push(Decision::Refused("STORAGE_NOT_OVER"));
            may = op.latest_day > self.first_day;
        }
        if may {
            decisions.push(Decision::Done(Box::new(next), reply));
        }
        decisions
    }

    fn shows(&self, state: &State<'a>, seen: &Seen) -> bool {
        match (state.stage, seen) {
            (None, Seen::Absent) => true,
            (Some(stage), Seen::Case(case)) => {
                let same = |(one, other): (&(u32, &str), &(u32, String))| *one == (other.0, other.1.as_str());
                case.stage == stage
                    && case.documents_last == state.documents_last
                    && case.steps_last == state.steps_last
                    && case.requests_last == state.requests_last
                    && case.requests_open == state.open.count_ones()
                    && case.documents.len() == state.documents.len()
                    && state.documents.iter().zip(&case.documents).all(same)
                    && case.link.as_ref().map(|(ticket, _)| ticket) == state.ticket
            }
            _ => false,
        }
    }
}

impl<'a> Model for CaseModel<'a> {
    type State = State<'a>;
    type Op = Op<'a>;

    fn initial(&self) -> State<'a> {
        State {
            stage: None,
            office: "",
            service: "",
            ticket: None,
            documents: Vec::new(),
            documents_last: 0,
            steps_last: 0,
            requests_last: 0,
            open: 0,
            before: Stage::Draft,
        }
    }

    fn step(&self, state: &State<'a>, op: &Op<'a>, next: &mut Vec<State<'a>>) {
        if let (Call::ReadCase, Some(Outcome::Done { reply: Reply::Read(seen), .. })) = (op.call, op.seen) {
            if self.shows(state, seen) {
                next.push(state.clone());
            }
            return;
        }
        for decision in self.decide(state, op) {
            match (decision, op.seen) {
                (Decision::Done(state, _), None) => next.push(*state),
                // Without an outcome it is as if it never happened.
                (Decision::Refused(_), None) => {}
                (Decision::Done(state, reply), Some(Outcome::Done { reply: seen, .. })) if reply == *seen => {
                    next.push(*state);
                }
                (Decision::Refused(reason), Some(Outcome::Refused(seen))) if reason == seen => {
                    next.push(state.clone());
                }
                _ => {}
            }
        }
    }

    fn reads(&self, op: &Op<'a>) -> bool {
        op.reads()
    }

    fn alike(&self, one: &Op<'a>, other: &Op<'a>) -> bool {
        // Documents that nobody ever saw have names that nobody ever saw.
        let unseen = |op: &Op<'a>| match op.call {
            Call::AddDocument { reference, sheets } if op.seen.is_none() => {
                let named = self.numbers.contains_key(reference.as_str());
                (!named).then(|| (*sheets > SHEETS_MAX, self.setting.officers.get(&op.client)))
            }
            _ => None,
        };
        one == other || unseen(one).is_some_and(|one| unseen(other) == Some(one))
    }

    fn show_op(&self, op: &Op<'a>) -> String {
        op.show()
    }

    fn show_state(&self, state: &State<'a>) -> String {
        format!("{state:?}")
    }
}

const fn bit(request: u32) -> u64 {
    1 << ((request - 1) % 64)
}

const fn takes_documents(stage: Stage) -> bool {
    !matches!(stage, Stage::Issued | Stage::Withdrawn | Stage::Unclaimed | Stage::Archived)
}

/// The table of `docs/case-states.md`.
pub const fn possible(from: Stage, step: &Step) -> bool {
    use Stage as F;
    match step {
        Step::Accept => matches!(from, F::Draft),
        Step::RequestInteragency => matches!(from, F::Accepted | F::Interagency),
        Step::InteragencyAnswered { .. } => matches!(from, F::Interagency | F::Suspended),
        Step::SendToAuthority => matches!(from, F::Accepted),
        Step::Suspend { .. } => matches!(from, F::Accepted | F::Interagency | F::AtAuthority),
        Step::Resume => matches!(from, F::Suspended),
        Step::ReceiveResult => matches!(from, F::AtAuthority),
        Step::ReceiveRefusal => matches!(from, F::AtAuthority | F::Suspended),
        Step::MakeReady => matches!(from, F::ResultReceived | F::Refused),
        Step::Issue => matches!(from, F::ReadyForIssue | F::Unclaimed),
        Step::Withdraw => {
            matches!(from, F::Draft | F::Accepted | F::Interagency | F::AtAuthority | F::Suspended)
        }
        Step::MarkUnclaimed => matches!(from, F::ReadyForIssue),
        Step::Archive => matches!(from, F::Issued | F::Withdrawn | F::Unclaimed),
    }
}
