//! What the catalogue holds: authorities, services with their terms and document lists, production calendars.
//!
//! Every statement of law carries a [`Source`]: act, clause, the date it was checked and whether it could be
//! verified. What could not be verified is data like any other, but says so wherever it is shown.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A text for people: Russian first, English on request (design §8).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Text {
    pub ru: String,
    pub en: String,
}

impl Text {
    /// The text in the language asked for; Russian unless English is asked for.
    pub fn of(&self, english: bool) -> &str {
        if english { &self.en } else { &self.ru }
    }
}

/// How the days of a term are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DayKind {
    /// Only working days of the production calendar count.
    Working,
    /// Every day counts; a last day that is no working day moves to the next one (Civil Code 193).
    Calendar,
}

impl DayKind {
    pub fn name(self) -> &'static str {
        match self {
            DayKind::Working => "working",
            DayKind::Calendar => "calendar",
        }
    }
}

/// A term in days. Zero days: the day of the event itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term {
    pub days: u16,
    pub kind: DayKind,
}

impl Term {
    pub const fn working(days: u16) -> Self {
        Self { days, kind: DayKind::Working }
    }

    pub const fn calendar(days: u16) -> Self {
        Self { days, kind: DayKind::Calendar }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} days", self.days, self.kind.name())
    }
}

/// Where a statement comes from and how far it can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Kind, number, date and title of the act.
    pub act: String,
    /// Article, part, clause. Empty when unknown; then `verified` is false.
    pub clause: String,
    /// When the record was last compared with something.
    pub checked: Date,
    /// What it was compared with, in words.
    pub against: String,
    /// False: the statement could not be confirmed; shown with a mark.
    pub verified: bool,
}

/// A body of power that renders services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    pub code: String,
    pub name: Text,
    /// As spoken and printed: "МВД России".
    pub short: Text,
}

/// Who may receive a service (R-C10). A representative acts for one of these and is no kind of his own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ReceiverKind {
    /// A citizen of Russia.
    Person,
    /// A foreign citizen or a person without citizenship.
    NonCitizen,
    SoleTrader,
    LegalEntity,
    ForeignLegalEntity,
}

impl ReceiverKind {
    pub const ALL: [ReceiverKind; 5] = [
        ReceiverKind::Person,
        ReceiverKind::NonCitizen,
        ReceiverKind::SoleTrader,
        ReceiverKind::LegalEntity,
        ReceiverKind::ForeignLegalEntity,
    ];

    pub fn name(self) -> &'static str {
        match self {
            ReceiverKind::Person => "person",
            ReceiverKind::NonCitizen => "non_citizen",
            ReceiverKind::SoleTrader => "sole_trader",
            ReceiverKind::LegalEntity => "legal_entity",
            ReceiverKind::ForeignLegalEntity => "foreign_legal_entity",
        }
    }
}

/// Must the document be there when the case is accepted?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DocumentNeed {
    /// The applicant brings it, always.
    Required,
    /// The applicant brings it when the case calls for it; the officer decides.
    WhenApplies,
    /// The applicant may bring it; otherwise it is asked for from its authority (R-C5).
    Interagency,
}

impl DocumentNeed {
    pub fn name(self) -> &'static str {
        match self {
            DocumentNeed::Required => "required",
            DocumentNeed::WhenApplies => "when_applies",
            DocumentNeed::Interagency => "interagency",
        }
    }
}

/// In which form a document is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DocumentForm {
    Original,
    Copy,
    /// The original is shown, a copy stays.
    OriginalAndCopy,
    Any,
}

impl DocumentForm {
    pub fn name(self) -> &'static str {
        match self {
            DocumentForm::Original => "original",
            DocumentForm::Copy => "copy",
            DocumentForm::OriginalAndCopy => "original_and_copy",
            DocumentForm::Any => "any",
        }
    }
}

/// One entry of a service's document list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentKind {
    /// Unique within the service, e.g. `passport`.
    pub code: String,
    pub name: Text,
    pub need: DocumentNeed,
    pub form: DocumentForm,
}

/// Why a service may be suspended, with the longest time it may stand still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspensionReason {
    /// Unique within the service.
    pub code: String,
    pub name: Text,
    /// The longest suspension; `None`: until the cause is gone, no number in the act.
    pub longest: Option<Term>,
    pub source: Source,
}

/// How long an unclaimed result is kept in the office. No single norm: per service, and often not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    pub term: Term,
    pub source: Source,
}

/// A service as rendered through an office.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub code: String,
    pub name: Text,
    /// Code of an [`Authority`] of the same catalogue.
    pub authority: String,
    /// Letter of the service group on tickets: one upper-case Russian letter.
    pub group: String,
    /// False: rendered to the end where begun, but no new case is accepted.
    pub active: bool,
    /// Days of execution, as the act counts them.
    pub execution: Term,
    /// Days of carriage between the office and the authority, counted after execution. Zero while the region's
    /// agreement with the authority has not been entered: then `delivery_source` is not verified.
    pub delivery: Term,
    /// Of the execution term.
    pub source: Source,
    /// Of the delivery term.
    pub delivery_source: Source,
    pub receivers: Vec<ReceiverKind>,
    /// May someone with a power of attorney (or a legal representative) ask for it?
    pub representative: bool,
    pub documents: Vec<DocumentKind>,
    pub documents_source: Source,
    pub suspensions: Vec<SuspensionReason>,
    pub storage: Option<Storage>,
}

impl Service {
    /// Is what the deadline rests on confirmed? If not, whoever shows a deadline shows that too. A delivery of no
    /// days claims nothing and needs no confirmation.
    pub fn term_verified(&self) -> bool {
        self.source.verified && (self.delivery.days == 0 || self.delivery_source.verified)
    }

    pub fn document(&self, code: &str) -> Option<&DocumentKind> {
        self.documents.iter().find(|document| document.code == code)
    }

    pub fn suspension(&self, code: &str) -> Option<&SuspensionReason> {
        self.suspensions.iter().find(|reason| reason.code == code)
    }

    pub fn receives(&self, kind: ReceiverKind) -> bool {
        self.receivers.contains(&kind)
    }

    /// Required documents whose code is not among those present.
    pub fn missing_documents<'a>(&'a self, present: &'a [&str]) -> impl Iterator<Item = &'a DocumentKind> {
        self.documents.iter().filter(|document| {
            document.need == DocumentNeed::Required && !present.contains(&document.code.as_str())
        })
    }

    /// Documents that may be asked for from their authorities instead of the applicant (R-C5).
    pub fn interagency_documents(&self) -> impl Iterator<Item = &DocumentKind> {
        self.documents.iter().filter(|document| document.need == DocumentNeed::Interagency)
    }
}

/// A public holiday: no working day whatever the weekday.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holiday {
    pub date: Date,
    pub name: String,
}

/// A day off moved from one day to another: `to` is off; `from` works, unless it is a holiday itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MovedDay {
    pub from: Date,
    pub to: Date,
}

/// The production calendar of one year: of the country (`region` empty), or what a region adds to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calendar {
    pub year: i16,
    /// Code of the subject of the federation, or empty for the whole country.
    pub region: String,
    pub holidays: Vec<Holiday>,
    pub moved: Vec<MovedDay>,
    /// Working days shorter by an hour (Labour Code 95). They count as working days.
    pub short: Vec<Date>,
    pub source: Source,
    /// Why the calendar is not final yet; every deadline that rests on it carries this text.
    pub provisional: Option<String>,
}

impl Calendar {
    pub fn key(&self) -> CalendarKey {
        CalendarKey { region: self.region.clone(), year: self.year }
    }
}

/// Names a calendar: the country's sorts before the regions'.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CalendarKey {
    pub region: String,
    pub year: i16,
}

impl fmt::Display for CalendarKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.region.is_empty() {
            write!(f, "{}", self.year)
        } else {
            write!(f, "{}:{}", self.year, self.region)
        }
    }
}
