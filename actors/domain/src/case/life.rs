//! The life cycle of a case: its states, its steps, and the one table that says which step is possible where.

use crate::catalogue::Term;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

/// Where a case is, with what matters only there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Life {
    /// No such case yet: the state before the first event.
    #[default]
    Unopened,
    /// Documents are being taken.
    Draft,
    /// Taken in: the term runs.
    Accepted,
    /// Interagency requests are out.
    Interagency,
    AtAuthority {
        since_ms: i64,
    },
    Suspended(Suspension),
    ResultReceived {
        reference: String,
    },
    /// The authority refused the service; the notice of it is the result.
    Refused {
        reason: String,
        reference: String,
    },
    ReadyForIssue {
        since_ms: i64,
        outcome: Outcome,
        /// Last day the result is kept; `None`: the catalogue names no storage term.
        keep_until: Option<Date>,
    },
    Issued {
        at_ms: i64,
        outcome: Outcome,
        received_by: String,
    },
    Withdrawn {
        reason: String,
    },
    /// Nobody came for the result within its storage term.
    Unclaimed {
        since_ms: i64,
        outcome: Outcome,
    },
    Archived {
        /// The state it was archived from.
        after: State,
    },
}

/// A pause of the term (R-C2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// The state that goes on when it ends.
    pub from: State,
    /// Code of the service's suspension reason.
    pub reason: String,
    pub since: Date,
    /// Last day; `None`: the act gives no number.
    pub until: Option<Date>,
}

/// What there is to hand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Result,
    Refusal,
}

/// A state without its data: what tables, indexes and callers speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum State {
    Unopened = 0,
    Draft = 1,
    Accepted = 2,
    Interagency = 3,
    AtAuthority = 4,
    Suspended = 5,
    ResultReceived = 6,
    Refused = 7,
    ReadyForIssue = 8,
    Issued = 9,
    Withdrawn = 10,
    Unclaimed = 11,
    Archived = 12,
}

impl State {
    /// Every state of a case that exists, in the order of the numbers.
    pub const ALL: [Self; 12] = [
        Self::Draft,
        Self::Accepted,
        Self::Interagency,
        Self::AtAuthority,
        Self::Suspended,
        Self::ResultReceived,
        Self::Refused,
        Self::ReadyForIssue,
        Self::Issued,
        Self::Withdrawn,
        Self::Unclaimed,
        Self::Archived,
    ];

    /// The stable number; index keys carry it.
    pub const fn number(self) -> u8 {
        self as u8
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Unopened => "unopened",
            Self::Draft => "draft",
            Self::Accepted => "accepted",
            Self::Interagency => "interagency",
            Self::AtAuthority => "at-authority",
            Self::Suspended => "suspended",
            Self::ResultReceived => "result-received",
            Self::Refused => "refused",
            Self::ReadyForIssue => "ready-for-issue",
            Self::Issued => "issued",
            Self::Withdrawn => "withdrawn",
            Self::Unclaimed => "unclaimed",
            Self::Archived => "archived",
        }
    }

    /// As an applicant reads it (R-C7).
    pub const fn text_ru(self) -> &'static str {
        match self {
            Self::Unopened => "нет",
            Self::Draft => "черновик",
            Self::Accepted => "принято",
            Self::Interagency => "направлены межведомственные запросы",
            Self::AtAuthority => "передано в ведомство",
            Self::Suspended => "приостановлено",
            Self::ResultReceived => "получен результат",
            Self::Refused => "отказано ведомством",
            Self::ReadyForIssue => "готово к выдаче",
            Self::Issued => "выдано",
            Self::Withdrawn => "отозвано заявителем",
            Self::Unclaimed => "не востребовано",
            Self::Archived => "в архиве",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Does the term run here? Only then a deadline stands in the index and timers are set.
    pub const fn term_runs(self) -> bool {
        match self {
            Self::Accepted | Self::Interagency | Self::AtAuthority | Self::ResultReceived | Self::Refused => {
                true
            }
            Self::Unopened
            | Self::Draft
            | Self::Suspended
            | Self::ReadyForIssue
            | Self::Issued
            | Self::Withdrawn
            | Self::Unclaimed
            | Self::Archived => false,
        }
    }

    /// May documents still be added?
    pub const fn takes_documents(self) -> bool {
        match self {
            Self::Draft
            | Self::Accepted
            | Self::Interagency
            | Self::AtAuthority
            | Self::Suspended
            | Self::ResultReceived
            | Self::Refused
            | Self::ReadyForIssue => true,
            Self::Unopened | Self::Issued | Self::Withdrawn | Self::Unclaimed | Self::Archived => false,
        }
    }
}

impl Life {
    pub const fn state(&self) -> State {
        match self {
            Self::Unopened => State::Unopened,
            Self::Draft => State::Draft,
            Self::Accepted => State::Accepted,
            Self::Interagency => State::Interagency,
            Self::AtAuthority { .. } => State::AtAuthority,
            Self::Suspended(_) => State::Suspended,
            Self::ResultReceived { .. } => State::ResultReceived,
            Self::Refused { .. } => State::Refused,
            Self::ReadyForIssue { .. } => State::ReadyForIssue,
            Self::Issued { .. } => State::Issued,
            Self::Withdrawn { .. } => State::Withdrawn,
            Self::Unclaimed { .. } => State::Unclaimed,
            Self::Archived { .. } => State::Archived,
        }
    }
}

/// A step somebody takes with a case. Texts that may be missing are empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Takes the documents in: the term starts and the deadline is computed.
    Accept,
    RequestInteragency {
        authority: String,
        subject: String,
    },
    InteragencyAnswered {
        /// Number of the request within the case.
        request: u32,
        answer: String,
    },
    SendToAuthority {
        /// Number of the transfer register (R-C4).
        register_number: String,
    },
    Suspend {
        /// Code of one of the service's suspension reasons.
        reason: String,
        /// Where the act leaves the term to the authority; otherwise the catalogue's counts.
        term: Option<Term>,
    },
    Resume {
        note: String,
    },
    ReceiveResult {
        reference: String,
        note: String,
    },
    ReceiveRefusal {
        reason: String,
        reference: String,
    },
    MakeReady {
        note: String,
    },
    Issue {
        received_by: String,
        /// A paper copy of an electronic result (R-C8).
        paper_copy: bool,
    },
    Withdraw {
        reason: String,
    },
    MarkUnclaimed,
    Archive,
}

/// A step without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StepKind {
    Accept,
    RequestInteragency,
    InteragencyAnswered,
    SendToAuthority,
    Suspend,
    Resume,
    ReceiveResult,
    ReceiveRefusal,
    MakeReady,
    Issue,
    Withdraw,
    MarkUnclaimed,
    Archive,
}

impl StepKind {
    pub const ALL: [Self; 13] = [
        Self::Accept,
        Self::RequestInteragency,
        Self::InteragencyAnswered,
        Self::SendToAuthority,
        Self::Suspend,
        Self::Resume,
        Self::ReceiveResult,
        Self::ReceiveRefusal,
        Self::MakeReady,
        Self::Issue,
        Self::Withdraw,
        Self::MarkUnclaimed,
        Self::Archive,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::RequestInteragency => "request-interagency",
            Self::InteragencyAnswered => "interagency-answered",
            Self::SendToAuthority => "send-to-authority",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::ReceiveResult => "receive-result",
            Self::ReceiveRefusal => "receive-refusal",
            Self::MakeReady => "make-ready",
            Self::Issue => "issue",
            Self::Withdraw => "withdraw",
            Self::MarkUnclaimed => "mark-unclaimed",
            Self::Archive => "archive",
        }
    }
}

impl Step {
    pub const fn kind(&self) -> StepKind {
        match self {
            Self::Accept => StepKind::Accept,
            Self::RequestInteragency { .. } => StepKind::RequestInteragency,
            Self::InteragencyAnswered { .. } => StepKind::InteragencyAnswered,
            Self::SendToAuthority { .. } => StepKind::SendToAuthority,
            Self::Suspend { .. } => StepKind::Suspend,
            Self::Resume { .. } => StepKind::Resume,
            Self::ReceiveResult { .. } => StepKind::ReceiveResult,
            Self::ReceiveRefusal { .. } => StepKind::ReceiveRefusal,
            Self::MakeReady { .. } => StepKind::MakeReady,
            Self::Issue { .. } => StepKind::Issue,
            Self::Withdraw { .. } => StepKind::Withdraw,
            Self::MarkUnclaimed => StepKind::MarkUnclaimed,
            Self::Archive => StepKind::Archive,
        }
    }

    pub const fn name(&self) -> &'static str {
        self.kind().name()
    }
}

/// Where a step leads from a state: the states it can end in, the usual one first; empty: impossible.
///
/// Two entries depend on the case: the last interagency answer leads back to `accepted`, an earlier one stays;
/// a resumed case goes on where it was (`accepted` if its last answer came meanwhile).
pub const fn leads_to(from: State, step: StepKind) -> &'static [State] {
    use State as S;
    use StepKind as K;
    match from {
        S::Unopened => &[],
        S::Draft => match step {
            K::Accept => &[S::Accepted],
            K::Withdraw => &[S::Withdrawn],
            _ => &[],
        },
        S::Accepted => match step {
            K::RequestInteragency => &[S::Interagency],
            K::SendToAuthority => &[S::AtAuthority],
            K::Suspend => &[S::Suspended],
            K::Withdraw => &[S::Withdrawn],
            _ => &[],
        },
        S::Interagency => match step {
            K::RequestInteragency => &[S::Interagency],
            K::InteragencyAnswered => &[S::Accepted, S::Interagency],
            K::Suspend => &[S::Suspended],
            K::Withdraw => &[S::Withdrawn],
            _ => &[],
        },
        S::AtAuthority => match step {
            K::Suspend => &[S::Suspended],
            K::ReceiveResult => &[S::ResultReceived],
            K::ReceiveRefusal => &[S::Refused],
            K::Withdraw => &[S::Withdrawn],
            _ => &[],
        },
        S::Suspended => match step {
            K::InteragencyAnswered => &[S::Suspended],
            K::Resume => &[S::AtAuthority, S::Accepted, S::Interagency],
            // An authority that sees no cure refuses without resuming first.
            K::ReceiveRefusal => &[S::Refused],
            K::Withdraw => &[S::Withdrawn],
            _ => &[],
        },
        S::ResultReceived | S::Refused => match step {
            K::MakeReady => &[S::ReadyForIssue],
            _ => &[],
        },
        S::ReadyForIssue => match step {
            K::Issue => &[S::Issued],
            K::MarkUnclaimed => &[S::Unclaimed],
            _ => &[],
        },
        S::Unclaimed => match step {
            // The applicant came after all.
            K::Issue => &[S::Issued],
            K::Archive => &[S::Archived],
            _ => &[],
        },
        S::Issued | S::Withdrawn => match step {
            K::Archive => &[S::Archived],
            _ => &[],
        },
        S::Archived => &[],
    }
}

/// The steps possible in a state, in the order of [`StepKind::ALL`].
pub fn allowed(from: State) -> impl Iterator<Item = StepKind> {
    StepKind::ALL.into_iter().filter(move |step| !leads_to(from, *step).is_empty())
}

/// The table as Markdown, for the documentation.
pub fn table_markdown() -> String {
    let mut text = String::from("| From | Step | To |\n|---|---|---|\n");
    for from in State::ALL {
        for step in allowed(from) {
            let to: Vec<_> = leads_to(from, step).iter().map(|state| state.name()).collect();
            text.push_str(&format!("| {} | {} | {} |\n", from.name(), step.name(), to.join(" or ")));
        }
    }
    text
}
