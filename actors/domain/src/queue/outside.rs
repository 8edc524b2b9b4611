//! The universal interface for an outside queue system (R-Q13; 844 XV.2–3): the same events in and out.
//!
//! In: [`super::Command::Outside`] takes an event once by its system and id; told again, it answers with the ticket as
//! it is, the day after too. The outside system's ticket is known here by its own name and has a number of ours besides, because numbers
//! must be unique whoever gives them. Out: [`OutsideEvent::of`] makes the same kind of event from one of ours.

use super::{
    Command, Destination, Event, Move, Moved, Purpose, Queue, Reply, Ticket, TicketRef, VisitOutcome,
    draft::At, tickets::Visitor,
};
use crate::{
    entity::{Decision, Refusal},
    refusal::{FIELD_INVALID, OUTSIDE_LIMIT, TICKET_STATE, TICKET_UNKNOWN, refuse},
    time::plus_days,
    validators::{expect_code, expect_len},
};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Outside events of one office and day: 1,000 visitors with a dozen each; bounds memory, with those of the two
/// days before, of which the night leaves one.
pub const OUTSIDE_EVENTS_PER_DAY_MAX: usize = 20_000;
/// Length of a system's name, of an event's id and of a ticket's name there.
pub(crate) const SYSTEM_MAX: usize = 32;
const ID_MAX: usize = 64;
const NAME_MAX: usize = 32;
/// What events of ours are called by, for those outside.
pub const OWN_SYSTEM: &str = "okno";

/// A ticket's name in an outside system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OutsideName {
    pub system: String,
    pub number: String,
}

/// What happened in a queue system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutsideHappened {
    Registered { purpose: Purpose, service: String, category: String },
    Called { window: String },
    CalledAgain { window: String },
    Begun { window: String },
    PutOff { window: String, minutes: u16 },
    CameBack,
    Redirected { window: String, to: Destination },
    Returned { window: String },
    Finished { window: String },
    DidNotCome { window: String },
    Left,
}

/// An event as queue systems tell each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideEvent {
    /// Which system tells.
    pub system: String,
    /// The event's id there: told again, it is the same event.
    pub id: String,
    /// The ticket's name there.
    pub ticket: String,
    /// When it happened there; for the record, decisions go by the time here.
    pub at_ms: i64,
    pub happened: OutsideHappened,
}

/// An outside event that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// On which it was taken here.
    pub day: Date,
    pub system: String,
    pub id: String,
    pub ticket: Option<TicketRef>,
    /// As the outside system told it.
    pub happened_ms: i64,
}

impl Seen {
    pub fn part_name(&self) -> String {
        seen_part(self.day, &self.system, &self.id)
    }
}

fn seen_part(day: Date, system: &str, id: &str) -> String {
    format!("{}{system}:{id}", seen_of(day))
}

/// What the names of a day's parts begin with.
pub(super) fn seen_of(day: Date) -> String {
    format!("seen:{day}:")
}

impl OutsideEvent {
    /// What an outside system is told of an event of ours; `None`: nothing that concerns it. The id is the same
    /// whenever it is made: office, ticket and the ticket's revision.
    pub fn of(office: &str, event: &Event, at_ms: i64) -> Option<Self> {
        let Event::Moved(moved) = event else { return None };
        let Moved { ticket, what, window, .. } = &**moved;
        let window = window.clone();
        let happened = match what {
            Move::Taken => OutsideHappened::Registered {
                purpose: ticket.purpose,
                service: ticket.service.clone(),
                category: ticket.category.clone(),
            },
            Move::Called => OutsideHappened::Called { window },
            Move::CalledAgain => OutsideHappened::CalledAgain { window },
            Move::Begun => OutsideHappened::Begun { window },
            Move::PutOff => {
                let super::TicketState::PutOff { until_ms } = ticket.state else { return None };
                let minutes = (until_ms - at_ms).max(0) / crate::time::MINUTE_MS;
                OutsideHappened::PutOff { window, minutes: u16::try_from(minutes).unwrap_or(u16::MAX) }
            }
            Move::CameBack => OutsideHappened::CameBack,
            Move::Redirected => OutsideHappened::Redirected {
                window,
                to: if ticket.bound.is_empty() {
                    Destination::Service(ticket.service.clone())
                } else {
                    Destination::Window(ticket.bound.clone())
                },
            },
            Move::Returned | Move::ReturnedToHead => OutsideHappened::Returned { window },
            Move::Finished => OutsideHappened::Finished { window },
            Move::DidNotCome => OutsideHappened::DidNotCome { window },
            Move::Left | Move::DayOver => OutsideHappened::Left,
            Move::Bound | Move::CaseLinked => return None,
        };
        let TicketRef { day, number } = &ticket.ticket;
        Some(Self {
            system: OWN_SYSTEM.to_owned(),
            id: format!("{office}:{day}:{number}:{}", ticket.revision),
            ticket: number.clone(),
            at_ms,
            happened,
        })
    }
}

impl Queue {
    /// Our ticket for one of an outside system.
    pub fn ticket_of_outside(&self, day: Date, name: &OutsideName) -> Option<&Ticket> {
        self.outside.get(&(day, name.clone())).and_then(|ticket| self.ticket(ticket))
    }

    pub(super) fn take_outside(&self, event: &OutsideEvent, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        expect_code("event.system", &event.system, SYSTEM_MAX)?;
        expect_code("event.id", &event.id, ID_MAX)?;
        if event.ticket.trim().is_empty() {
            return Err(refuse(FIELD_INVALID).with("event.ticket", "not empty"));
        }
        expect_len("event.ticket", &event.ticket, NAME_MAX)?;
        // Told again, also after midnight: the first telling may have been the last thing before it.
        let mut days = [at.day, plus_days(at.day, -1)].into_iter();
        let seen = days.find_map(|day| self.seen.get(&seen_part(day, &event.system, &event.id)));
        if let Some(seen) = seen {
            let ticket = seen.ticket.as_ref().and_then(|name| self.tickets.get(name)).cloned();
            return Ok(self.draft(at).done(Reply::Outside(ticket)));
        }
        let of_today = || self.seen.range(seen_of(at.day)..).count();
        if self.seen.len() >= OUTSIDE_EVENTS_PER_DAY_MAX && of_today() >= OUTSIDE_EVENTS_PER_DAY_MAX {
            return Err(refuse(OUTSIDE_LIMIT).with("events", format!("at most {OUTSIDE_EVENTS_PER_DAY_MAX}")));
        }
        let name = OutsideName { system: event.system.clone(), number: event.ticket.clone() };
        let known = self.ticket_of_outside(at.day, &name);
        let mut decision = match (&event.happened, known) {
            (OutsideHappened::Registered { .. }, Some(ticket)) => {
                return Err(refuse(TICKET_STATE)
                    .with("state", ticket.state.name())
                    .with("expected", "a ticket that is new here"));
            }
            (OutsideHappened::Registered { purpose, service, category }, None) => {
                let visitor = Visitor {
                    purpose: *purpose,
                    service,
                    category,
                    weight: 0,
                    wait_from_ms: at.now_ms,
                    booking: None,
                    outside: Some(name),
                };
                let mut draft = self.draft(at);
                let ticket = self.register(&visitor, &mut draft)?;
                self.given(ticket, draft)
            }
            (_, None) => return Err(refuse(TICKET_UNKNOWN).with("ticket", event.ticket.clone())),
            (happened, Some(ticket)) => match command(happened, &ticket.ticket) {
                Some(command) => self.command(&command, at)?,
                // Comes back here by our own timer.
                None => self.draft(at).done(Reply::Shown(Arc::new(ticket.clone()))),
            },
        };
        let ticket = decision.reply.ticket();
        decision.events.push(Event::OutsideTaken(Arc::new(Seen {
            day: at.day,
            system: event.system.clone(),
            id: event.id.clone(),
            ticket: ticket.as_ref().map(|ticket| ticket.ticket.clone()),
            happened_ms: event.at_ms,
        })));
        decision.reply = Reply::Outside(ticket);
        Ok(decision)
    }
}

/// The command that does here what happened there.
fn command(happened: &OutsideHappened, ticket: &TicketRef) -> Option<Command> {
    let ticket = ticket.clone();
    Some(match happened {
        OutsideHappened::Called { window } => Command::CallNumber { ticket, window: window.clone() },
        OutsideHappened::CalledAgain { window } => Command::CallAgain { ticket, window: window.clone() },
        OutsideHappened::Begun { window } => Command::Begin { ticket, window: window.clone() },
        OutsideHappened::PutOff { window, minutes } => {
            Command::PutOff { ticket, window: window.clone(), minutes: *minutes }
        }
        OutsideHappened::Redirected { window, to } => {
            Command::Redirect { ticket, window: window.clone(), to: to.clone() }
        }
        OutsideHappened::Returned { window } => Command::ReturnToQueue { ticket, window: window.clone() },
        OutsideHappened::Finished { window } => {
            Command::Finish { ticket, window: window.clone(), outcome: VisitOutcome::Served }
        }
        OutsideHappened::DidNotCome { window } => {
            Command::Finish { ticket, window: window.clone(), outcome: VisitOutcome::NoShow }
        }
        OutsideHappened::Left => Command::Leave { ticket },
        OutsideHappened::Registered { .. } | OutsideHappened::CameBack => return None,
    })
}
