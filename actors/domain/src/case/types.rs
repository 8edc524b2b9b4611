//! What a case is told, what happened to it, what it answers, and what it is made of.
//!
//! Layout (rule 8): the root is small and written with every commit; applicants, documents, interagency requests
//! and steps are parts, written when they change. The order of the variants of [`Event`] and [`Part`] is part of
//! the encoding, and `Event::DocumentAdded` and `Part::Document` share their place in it, so that the bytes of a
//! document's part stand within the bytes of its event, and a commit holds them once (design §2).

use super::{
    exchanges::{AskBody, Asking, CaseLetter, Dealt, Exchange},
    life::{Life, State, Step},
};
use crate::{
    catalogue::ServiceDeadlines, entity::Principal, people::Applicant, queue::TicketRef, rows::ApplicantKey,
};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Documents a case may have had, removed ones included: far above the largest real set; bounds memory.
pub const DOCUMENTS_MAX: u32 = 500;
/// Applicants of one case: joint applications of a family fit.
pub const APPLICANTS_MAX: usize = 8;
/// Keys one case is listed by under applicants; with the other rows this stays within 8 (entity.rs).
pub const APPLICANT_KEYS_MAX: usize = 5;
/// Interagency requests of one case.
pub const INTERAGENCY_MAX: u32 = 64;
/// Steps of one case: suspending and resuming can repeat, not for ever.
pub const STEPS_MAX: u32 = 1_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Opens a draft. The case's id derives from the request: `crate::ids::case_id`.
    Open {
        office: String,
        service: String,
        applicants: Vec<Applicant>,
        /// The visitor's ticket in the office's queue.
        ticket: Option<TicketRef>,
        note: String,
    },
    AddDocument {
        /// As the catalogue names it, or a free name.
        kind: String,
        form: DocumentForm,
        sheets: u32,
        /// Series, number, date, or another reference.
        reference: String,
        note: String,
    },
    /// Only from a draft: what was taken in stands on the receipt.
    RemoveDocument {
        document: u32,
    },
    Advance {
        step: Step,
    },
    /// Another officer of the office goes on with it: its officer is away, or their workstation is lost (R-R1).
    TakeOver,
    /// Asks channels what the process of the service provides for under this code: one body for each of its requests, in
    /// their order (R-C11).
    Ask {
        code: String,
        bodies: Vec<AskBody>,
    },
    /// Waits no longer for an ask.
    GiveUpAsk {
        asking: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DocumentForm {
    Original,
    Copy,
}

impl DocumentForm {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Copy => "copy",
        }
    }
}

/// An entry for a document (R-C3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Within the case, from 1; never used again.
    pub number: u32,
    pub kind: String,
    pub form: DocumentForm,
    pub sheets: u32,
    pub reference: String,
    pub note: String,
    pub added_ms: i64,
    pub added_by: Principal,
}

/// Who, where and when (R-C2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub at_ms: i64,
    pub by: Principal,
    /// Empty: none was named.
    pub workstation: String,
    /// Number of the window the workstation stands at; empty: none.
    pub window: String,
}

/// A request to another authority for a document the applicant need not bring (R-C5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InteragencyRequest {
    pub number: u32,
    pub authority: String,
    pub subject: String,
    pub sent_ms: i64,
    pub answered_ms: Option<i64>,
    pub answer: String,
}

/// A step as it was taken. The opening is not among them: it is [`Root::opened`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Within the case, from 1.
    pub number: u32,
    pub step: Step,
    pub from: State,
    pub to: State,
    pub stamp: Stamp,
    /// What was wrong but did not hinder: reason codes with the field, e.g. `DOCUMENT_MISSING passport`.
    pub warnings: Vec<String>,
}

/// The term as computed at acceptance and moved by suspensions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DueDates {
    pub accepted_ms: i64,
    pub accepted_on: Date,
    /// The catalogue they were computed from.
    pub catalogue_version: u64,
    /// Execution by the authority, and the result in the office; each with the mark of a provisional calendar.
    pub deadlines: ServiceDeadlines,
    /// False: the catalogue could not verify the service's term against its act; shown with a mark.
    pub verified: bool,
}

/// What timers have marked a case with. A mark names the moment it was set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Marks {
    pub deadline_near_ms: Option<i64>,
    pub deadline_passed_ms: Option<i64>,
    /// A suspension with a term is over and nobody resumed it.
    pub suspension_over_ms: Option<i64>,
    /// The result lies longer than its storage term.
    pub storage_over_ms: Option<i64>,
}

/// One of the [`Marks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mark {
    DeadlineNear,
    DeadlinePassed,
    SuspensionOver,
    StorageOver,
}

impl Mark {
    pub const ALL: [Self; 4] =
        [Self::DeadlineNear, Self::DeadlinePassed, Self::SuspensionOver, Self::StorageOver];

    /// The name of the timer that sets it.
    pub const fn timer(self) -> &'static str {
        match self {
            Self::DeadlineNear => "deadline-near",
            Self::DeadlinePassed => "deadline-passed",
            Self::SuspensionOver => "suspension-over",
            Self::StorageOver => "storage-over",
        }
    }
}

/// The ticket a case was opened from, and what the queue said to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketLink {
    pub ticket: TicketRef,
    pub answer: LinkAnswer,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkAnswer {
    Pending,
    Linked,
    /// The queue refused, with its reason code.
    Refused(String),
}

/// What happened. `evolve` only copies: everything was worked out when it was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    DocumentAdded(Arc<Document>),
    Opened(Box<Opened>),
    DocumentRemoved {
        number: u32,
    },
    Stepped(Box<Stepped>),
    Marked {
        mark: Mark,
    },
    TicketAnswered {
        answer: LinkAnswer,
    },
    /// From [`crate::level::QUEUE`] on.
    OfficerSet(Arc<Assignment>),
    /// Channels were asked. From here on: [`CHANNELS_LEVEL`](crate::entity::CHANNELS_LEVEL).
    Asked(Box<Dealt>),
    /// What channels said, or an ask given up.
    Exchanged(Box<Dealt>),
    LetterTaken(Arc<CaseLetter>),
    /// As they are without their bodies.
    BodiesForgotten {
        exchanges: Vec<Arc<Exchange>>,
        letters: Vec<Arc<CaseLetter>>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    pub office: String,
    pub service: String,
    pub applicants: Vec<Arc<Applicant>>,
    pub ticket: Option<TicketRef>,
    pub note: String,
    pub stamp: Stamp,
    /// Faults in what came from outside: reason codes with the field.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stepped {
    pub record: Arc<StepRecord>,
    /// The life after the step.
    pub life: Life,
    /// The term after the step.
    pub due: Option<DueDates>,
    /// The interagency request it made or answered.
    pub request: Option<Arc<InteragencyRequest>>,
    /// Marks that no longer hold.
    pub cleared: Vec<Mark>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To messages and timers.
    None,
    Opened {
        state: State,
        warnings: Vec<String>,
    },
    DocumentAdded {
        document: u32,
    },
    DocumentRemoved,
    Advanced(Advanced),
    /// `before`: who had it; empty: nobody.
    TakenOver {
        officer: String,
        before: String,
    },
    /// The ask made or given up, and the case after it.
    Asked {
        asking: u32,
        state: State,
    },
}

/// The case after a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advanced {
    pub step: u32,
    pub state: State,
    /// `None` before acceptance and while suspended.
    pub deadline: Option<Date>,
    /// Why the deadline may still move.
    pub provisional: Option<String>,
    /// The interagency request the step made or answered; 0: none.
    pub request: u32,
    pub warnings: Vec<String>,
}

/// The small part of a case's state that every commit writes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Root {
    pub office: String,
    pub service: String,
    pub life: Life,
    /// `None`: not opened.
    pub opened: Option<Stamp>,
    pub changed_ms: i64,
    pub applicant_keys: Vec<ApplicantKey>,
    pub ticket: Option<TicketLink>,
    pub due: Option<DueDates>,
    pub marks: Marks,
    pub note: String,
    pub warnings: Vec<String>,
    /// The last number given to each; numbers are never used again.
    pub documents_last: u32,
    pub requests_last: u32,
    pub steps_last: u32,
    /// Interagency requests without an answer.
    pub requests_open: u32,
}

/// Who works on a case, where that is known: cases that came without an officer, and those that were taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Id in the directory.
    pub officer: String,
    pub since_ms: i64,
    /// By the office's queue (R-C13); otherwise the officer took it over.
    pub by_load: bool,
}

/// Parts are named `document:0001`, `applicant:0001`, `request:0001`, `step:0001`, and `officer:0001` for the one who
/// works on it; `asking:0001`, `exchange:0001` (as its request) and `letter:0001`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    Document(Arc<Document>),
    Applicant(Arc<Applicant>),
    Request(Arc<InteragencyRequest>),
    Step(Arc<StepRecord>),
    Officer(Arc<Assignment>),
    /// From here on: [`CHANNELS_LEVEL`](crate::entity::CHANNELS_LEVEL).
    Asking(Arc<Asking>),
    Exchange(Arc<Exchange>),
    Letter(Arc<CaseLetter>),
}
