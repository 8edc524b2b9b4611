//! Cases between officers by load (R-C13).
//!
//! A case that comes without an officer (from a portal, through a channel) asks its office's queue for one, because
//! the queue knows who is at work. It is given to whoever has the fewest such cases, those at an open window first.
//! The queue keeps who has which case until the case says that it is done, or that another officer has taken it over.

use super::{
    CASES_PER_TICKET_MAX, DeskState, Event, Move, Queue, Reply, TicketState,
    draft::{At, Draft},
    tickets::wrong_state,
};
use crate::{
    directory::{Person, Role},
    entity::{Context, Decision, EntityRef, Kind, Refusal, Send},
    message::Message,
    refusal::{MESSAGE_UNEXPECTED, OFFICER_NONE, TICKET_CASES_LIMIT, WORK_LIMIT, refuse},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc};

/// Cases of one office that are given to officers at a time: bounds memory to some 2 MB.
pub const WORK_MAX: usize = 10_000;

/// An officer was given a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    pub case: String,
    /// Id in the directory.
    pub officer: String,
    pub since_ms: i64,
}

pub(super) fn part_name(case: &str) -> String {
    format!("work:{case}")
}

impl Queue {
    /// The officer who was given a case.
    pub fn officer_of(&self, case: &str) -> Option<&str> {
        self.work.get(case).map(|work| work.officer.as_str())
    }

    /// How many cases an officer was given.
    pub fn load_of(&self, officer: &str) -> u32 {
        self.loads.get(officer).copied().unwrap_or(0)
    }

    pub(super) fn give(&mut self, work: Arc<Work>) {
        self.ungive(&work.case);
        *self.loads.entry(work.officer.clone()).or_default() += 1;
        self.work.insert(work.case.clone(), work);
    }

    pub(super) fn ungive(&mut self, case: &str) {
        let Some(old) = self.work.remove(case) else { return };
        if let Some(load) = self.loads.get_mut(&old.officer) {
            *load -= 1;
            if *load == 0 {
                self.loads.remove(&old.officer);
            }
        }
    }

    /// A case says something.
    pub(super) fn take_message(
        &self,
        source: &EntityRef,
        message: &Message,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let at = self.at_office(context.directory.office(&self.id), context);
        let mut draft = self.draft(&at);
        let unexpected = || {
            Err(refuse(MESSAGE_UNEXPECTED).with("message", message.name()).with("source", source.to_string()))
        };
        if source.kind != Kind::Case {
            return unexpected();
        }
        let case = &source.id;
        let answer = match message {
            Message::CaseOpened { ticket: name } => {
                let ticket = self.known_ticket(name)?;
                // The visitor may be served and gone by the time the message comes.
                if matches!(ticket.state, TicketState::Waiting | TicketState::PutOff { .. }) {
                    return Err(wrong_state(&ticket.state, "called, in-service, finished"));
                }
                if !ticket.cases.contains(case) {
                    if ticket.cases.len() >= CASES_PER_TICKET_MAX {
                        return Err(refuse(TICKET_CASES_LIMIT)
                            .with("cases", format!("at most {CASES_PER_TICKET_MAX}")));
                    }
                    let mut linked = ticket.clone();
                    linked.cases.push(case.clone());
                    draft.moved(linked, Move::CaseLinked, "");
                }
                Message::TicketLinked { ticket: name.clone() }
            }
            Message::OfficerWanted => {
                let officer = match self.officer_of(case) {
                    Some(officer) => officer.to_owned(),
                    None => self.least_loaded(&at)?.id.clone(),
                };
                self.give_case(case, &officer, &mut draft)?;
                Message::OfficerGiven { officer }
            }
            Message::OfficerTook { officer } => {
                self.give_case(case, officer, &mut draft)?;
                Message::OfficerNoted
            }
            Message::CaseDone => {
                if self.work.contains_key(case) {
                    draft.events.push(Event::CaseLeft { case: case.clone() });
                }
                Message::OfficerNoted
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
            | Message::BodiesForgotten { .. } => return unexpected(),
        };
        draft.sends.push(Send { target: source.clone(), message: answer });
        Ok(draft.done(Reply::None))
    }

    fn give_case(&self, case: &str, officer: &str, draft: &mut Draft<'_>) -> Result<(), Refusal> {
        match self.officer_of(case) {
            Some(known) if known == officer => return Ok(()),
            Some(_) => {}
            None if self.work.len() >= WORK_MAX => {
                return Err(refuse(WORK_LIMIT).with("cases", format!("at most {WORK_MAX}")));
            }
            None => {}
        }
        draft.events.push(Event::CaseGiven(Arc::new(Work {
            case: case.to_owned(),
            officer: officer.to_owned(),
            since_ms: draft.at.now_ms,
        })));
        Ok(())
    }

    /// The officer of the office with the fewest cases, of those at work if there are any.
    fn least_loaded<'a>(&self, at: &At<'a>) -> Result<&'a Person, Refusal> {
        let at_work: BTreeSet<&str> = self
            .desks()
            .filter(|desk| desk.day == at.day && desk.state != DeskState::Closed && desk.unattended.is_none())
            .map(|desk| desk.officer.as_str())
            .collect();
        at.context
            .directory
            .people()
            .filter(|person| person.role == Role::Officer && person.offices.contains(&self.id))
            .min_by_key(|person| {
                (!at_work.contains(person.id.as_str()), self.load_of(&person.id), person.id.clone())
            })
            .ok_or_else(|| refuse(OFFICER_NONE).with("office", self.id.clone()))
    }
}
