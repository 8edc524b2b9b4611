//! Opening a case, its documents, and what its ticket's queue answers. The steps are in `steps`.

use super::{
    Case, DOCUMENTS_MAX, Document, DocumentForm, Event, LinkAnswer, Opened, Reply, Stamp, State, check, get,
};
use crate::{
    entity::{Context, Decision, EntityRef, Kind, Refusal, Send},
    message::Message,
    people::Applicant,
    queue::TicketRef,
    refusal::{
        CASE_CLOSED, CASE_EXISTS, CASE_LIMIT, CASE_UNKNOWN, DOCUMENT_TAKEN_IN, DOCUMENT_UNKNOWN,
        FIELD_INVALID, MESSAGE_UNEXPECTED, OFFICE_UNKNOWN, SERVICE_INACTIVE, SERVICE_UNKNOWN, refuse,
    },
    validators::expect_len,
};
use std::sync::Arc;

/// Longest ticket number worth looking for, in characters.
const TICKET_NUMBER_MAX: usize = 8;

/// The case must have been opened.
pub(super) fn known(case: &Case) -> Result<(), Refusal> {
    if case.root.opened.is_some() { Ok(()) } else { Err(refuse(CASE_UNKNOWN).with("case", case.id.as_ref())) }
}

pub(super) fn done(events: Vec<Event>, reply: Reply) -> Decision<Case> {
    Decision { events, reply, sends: Vec::new(), timers: Vec::new() }
}

impl Case {
    pub(super) fn decide_open(
        &self,
        office: &str,
        service: &str,
        applicants: &[Applicant],
        ticket: Option<&TicketRef>,
        note: &str,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        if self.root.opened.is_some() {
            return Err(refuse(CASE_EXISTS).with("case", self.id.as_ref()));
        }
        if context.directory.office(office).is_none() {
            return Err(refuse(OFFICE_UNKNOWN).with("office", office));
        }
        let known = context.catalogue.service(service);
        let known = known.ok_or_else(|| refuse(SERVICE_UNKNOWN).with("service", service))?;
        if !known.active {
            return Err(refuse(SERVICE_INACTIVE).with("service", service));
        }
        expect_len("note", note, check::LINE_MAX)?;
        if let Some(ticket) = ticket
            && (ticket.number.is_empty() || ticket.number.chars().count() > TICKET_NUMBER_MAX)
        {
            return Err(refuse(FIELD_INVALID).with("ticket.number", "a letter and three digits"));
        }
        let warnings = check::applicants(applicants, known, context.origin)?;
        let opened = Opened {
            office: office.to_owned(),
            service: service.to_owned(),
            applicants: applicants.iter().cloned().map(Arc::new).collect(),
            ticket: ticket.cloned(),
            note: note.to_owned(),
            stamp: stamp(office, context),
            warnings: warnings.clone(),
        };
        let reply = Reply::Opened { state: State::Draft, warnings };
        let mut decision = done(vec![Event::Opened(Box::new(opened))], reply);
        if let Some(ticket) = ticket {
            decision.sends.push(Send {
                target: EntityRef { kind: Kind::Queue, id: office.to_owned() },
                message: Message::CaseOpened { ticket: ticket.clone() },
            });
        }
        self.want_officer(office, &mut decision, context);
        Ok(decision)
    }

    pub(super) fn decide_add_document(
        &self,
        kind: &str,
        form: DocumentForm,
        sheets: u32,
        reference: &str,
        note: &str,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        known(self)?;
        let state = self.state();
        if !state.takes_documents() {
            return Err(refuse(CASE_CLOSED).with("state", state.name()));
        }
        check::required("kind", kind, check::CODE_MAX)?;
        expect_len("reference", reference, check::LINE_MAX)?;
        expect_len("note", note, check::TEXT_MAX)?;
        if sheets > check::SHEETS_MAX {
            return Err(refuse(FIELD_INVALID).with("sheets", format!("at most {}", check::SHEETS_MAX)));
        }
        let number = self.root.documents_last + 1;
        if number > DOCUMENTS_MAX {
            return Err(refuse(CASE_LIMIT).with("documents", format!("at most {DOCUMENTS_MAX}")));
        }
        let document = Document {
            number,
            kind: kind.to_owned(),
            form,
            sheets,
            reference: reference.to_owned(),
            note: note.to_owned(),
            added_ms: context.now_ms,
            added_by: context.origin.principal.clone(),
        };
        fault_in_decide(&document);
        Ok(done(vec![Event::DocumentAdded(Arc::new(document))], Reply::DocumentAdded { document: number }))
    }

    pub(super) fn decide_remove_document(&self, number: u32) -> Result<Decision<Self>, Refusal> {
        known(self)?;
        if get(&self.documents, number).is_none() {
            return Err(refuse(DOCUMENT_UNKNOWN).with("document", number.to_string()));
        }
        if self.state() != State::Draft {
            return Err(refuse(DOCUMENT_TAKEN_IN).with("state", self.state().name()));
        }
        Ok(done(vec![Event::DocumentRemoved { number }], Reply::DocumentRemoved))
    }

    /// The queue has linked the ticket, or refused to; or it says who works on the case.
    pub(super) fn take_message(
        &self,
        source: &EntityRef,
        message: &Message,
        now_ms: i64,
    ) -> Result<Decision<Self>, Refusal> {
        let unexpected =
            || refuse(MESSAGE_UNEXPECTED).with("message", message.name()).with("source", source.to_string());
        if source.kind != Kind::Queue || source.id != self.root.office {
            return Err(unexpected());
        }
        let linked = |ticket: &TicketRef, answer: LinkAnswer| match &self.root.ticket {
            Some(link) if link.ticket == *ticket => {
                Ok(done(vec![Event::TicketAnswered { answer }], Reply::None))
            }
            _ => Err(unexpected()),
        };
        match message {
            Message::TicketLinked { ticket } => linked(ticket, LinkAnswer::Linked),
            Message::OfficerGiven { officer } => Ok(self.officer_given(officer, now_ms)),
            Message::OfficerNoted => Ok(done(Vec::new(), Reply::None)),
            Message::Refused { reason, of } => match of.as_ref() {
                Message::CaseOpened { ticket } => linked(ticket, LinkAnswer::Refused(reason.clone())),
                // The case stays as it is: any officer of the office may take it over.
                Message::OfficerWanted | Message::OfficerTook { .. } | Message::CaseDone => {
                    Ok(done(Vec::new(), Reply::None))
                }
                Message::TicketLinked { .. }
                | Message::OfficerGiven { .. }
                | Message::OfficerNoted
                | Message::Refused { .. }
                | Message::ChannelRequest(_)
                | Message::ChannelAnswer(_)
                | Message::ChannelProgress { .. }
                | Message::RequestWithdrawn { .. }
                | Message::ChannelLetter(_)
                | Message::LetterTaken { .. }
                | Message::ForgetBodies { .. }
                | Message::BodiesForgotten { .. } => Err(unexpected()),
            },
            Message::CaseOpened { .. }
            | Message::OfficerWanted
            | Message::OfficerTook { .. }
            | Message::CaseDone
            | Message::ChannelRequest(_)
            | Message::ChannelAnswer(_)
            | Message::ChannelProgress { .. }
            | Message::RequestWithdrawn { .. }
            | Message::ChannelLetter(_)
            | Message::LetterTaken { .. }
            | Message::ForgetBodies { .. }
            | Message::BodiesForgotten { .. } => Err(unexpected()),
        }
    }
}

/// Who, where and when.
pub(super) fn stamp(office: &str, context: &Context<'_>) -> Stamp {
    let origin = context.origin;
    let window = context.directory.window_of(&origin.workstation).filter(|window| window.office == office);
    Stamp {
        at_ms: context.now_ms,
        by: origin.principal.clone(),
        // Named by the caller: cut, so that no step grows by it.
        workstation: origin.workstation.chars().take(check::CODE_MAX).collect(),
        window: window.map_or_else(String::new, |window| window.number.clone()),
    }
}

/// Notes of a document that make a build with the feature `test-faults` panic on purpose, so that tests of whole
/// clusters can see what an entity's panic does to its neighbours (rule 13). Without the feature nothing looks.
#[cfg(feature = "test-faults")]
pub mod faults {
    pub const PANIC_IN_DECIDE: &str = "test-faults: panic in decide";
    pub const PANIC_IN_EVOLVE: &str = "test-faults: panic in evolve";
}

#[cfg(feature = "test-faults")]
fn fault_in_decide(document: &Document) {
    assert!(document.note != faults::PANIC_IN_DECIDE, "asked to panic in decide");
}

#[cfg(feature = "test-faults")]
pub(super) fn fault_in_evolve(document: &Document) {
    assert!(document.note != faults::PANIC_IN_EVOLVE, "asked to panic in evolve");
}

#[cfg(not(feature = "test-faults"))]
const fn fault_in_decide(_document: &Document) {}

#[cfg(not(feature = "test-faults"))]
pub(super) const fn fault_in_evolve(_document: &Document) {}
