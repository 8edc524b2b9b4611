//! What a queue is told, what happened in it, what it answers, and what it is made of.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Tickets of one letter in one day: three digits, 001 to 999 (R-Q3: they are spoken and shown).
pub const TICKETS_PER_LETTER_MAX: u32 = 999;
/// Cases that may be opened from one ticket: a visitor with more takes another ticket.
pub const CASES_PER_TICKET_MAX: usize = 16;
/// Tickets of past days that one sweep removes: keeps its commit well below the bound of 256 KiB.
pub const SWEEP_TICKETS_MAX: usize = 200;

/// Names a ticket within its office's queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TicketRef {
    /// The office's local date on which it was taken.
    pub day: Date,
    /// Letter and three digits: "А015".
    pub number: String,
}

impl TicketRef {
    /// The name of the ticket's part.
    pub fn part_name(&self) -> String {
        format!("ticket:{}:{}", self.day, self.number)
    }
}

/// Why the visitor came (R-Q2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Purpose {
    Apply,
    AskStatus,
    CollectResult,
    Other,
}

impl Purpose {
    pub const ALL: [Self; 4] = [Self::Apply, Self::AskStatus, Self::CollectResult, Self::Other];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::AskStatus => "ask-status",
            Self::CollectResult => "collect-result",
            Self::Other => "other",
        }
    }

    /// The letter of a ticket without a service. Latin look-alikes are avoided: all letters are Russian.
    pub const fn letter(self) -> char {
        match self {
            Self::Apply => 'У',
            Self::AskStatus => 'С',
            Self::CollectResult => 'Р',
            Self::Other => 'П',
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Registers a visitor (R-Q1).
    TakeTicket {
        purpose: Purpose,
        /// Code in the catalogue; empty when the visitor names none.
        service: String,
        /// One of the office's priority categories (R-Q12); empty for most.
        category: String,
    },
    /// Calls the next visitor to a window (R-Q4, R-Q9).
    CallNext { window: String },
    /// The called visitor has come.
    Begin { ticket: TicketRef, window: String },
    /// Done with the visitor (R-Q6), or the visitor did not come.
    Finish { ticket: TicketRef, window: String, outcome: VisitOutcome },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VisitOutcome {
    Served,
    /// Called and did not come: only before service began.
    NoShow,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    pub ticket: TicketRef,
    pub purpose: Purpose,
    pub service: String,
    pub category: String,
    /// Called before those without (R-Q12).
    pub priority: bool,
    /// Order of taking within the queue; never used again.
    pub sequence: u64,
    pub taken_ms: i64,
    pub state: TicketState,
    /// Ids of the cases opened from it.
    pub cases: Vec<String>,
}

/// The way of a ticket; a later state keeps the times of the earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TicketState {
    Waiting,
    Called {
        window: String,
        called_ms: i64,
    },
    InService {
        window: String,
        called_ms: i64,
        begun_ms: i64,
    },
    /// `begun_ms` is `None` when the visitor did not come.
    Finished {
        window: String,
        called_ms: i64,
        begun_ms: Option<i64>,
        finished_ms: i64,
    },
}

impl TicketState {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Called { .. } => "called",
            Self::InService { .. } => "in-service",
            Self::Finished { .. } => "finished",
        }
    }

    /// The window that called it; `None` while it waits.
    pub fn window(&self) -> Option<&str> {
        match self {
            Self::Waiting => None,
            Self::Called { window, .. } | Self::InService { window, .. } | Self::Finished { window, .. } => {
                Some(window)
            }
        }
    }

    /// The window it occupies: called there or in service.
    pub fn occupies(&self) -> Option<&str> {
        match self {
            Self::Called { window, .. } | Self::InService { window, .. } => Some(window),
            Self::Waiting | Self::Finished { .. } => None,
        }
    }
}

impl Ticket {
    pub fn letter(&self) -> char {
        self.ticket.number.chars().next().unwrap_or('?')
    }
}

/// What happened. A ticket event carries the ticket as it is afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    TicketTaken(Arc<Ticket>),
    TicketCalled(Arc<Ticket>),
    ServiceBegun(Arc<Ticket>),
    TicketFinished(Arc<Ticket>),
    CaseLinked(Arc<Ticket>),
    /// Tickets of past days leave the queue; the journal keeps what happened to them.
    Swept {
        tickets: Vec<TicketRef>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To messages and timers.
    None,
    Taken {
        ticket: Arc<Ticket>,
        /// How many wait before it.
        ahead: u32,
    },
    Ticket(Arc<Ticket>),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Root {
    /// The day the counters are of; `None`: no ticket yet.
    pub day: Option<Date>,
    /// The last number of each letter on that day.
    pub last_numbers: BTreeMap<char, u32>,
    /// The last sequence given to a ticket.
    pub last_sequence: u64,
}

/// The parts of a queue are its tickets: `ticket:2026-11-21:А015`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    Ticket(Arc<Ticket>),
}
