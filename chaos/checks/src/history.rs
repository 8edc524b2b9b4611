//! What clients asked and what they learned: the only evidence the checks accept.
//!
//! The words are the checkers' own. Nothing here is shared with the domain, so that a mistake there cannot hide
//! itself here; simulator and drills translate. Histories are JSON, so that bad ones can be committed as files.
//!
//! Times are numbers of one clock of the whole history (the simulator's virtual microseconds, a drill's monotonic
//! ones): an operation that ended before another began happened before it; equal times say nothing.

use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// An office's local date as the number yyyymmdd: 20260302.
pub type Day = u32;

/// Everything that was seen of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    pub setting: Setting,
    /// In the order in which they began, each client's own operations one after the other.
    pub operations: Vec<Operation>,
    /// What the stores of the nodes held when everything was over and had caught up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finals: Vec<Final>,
}

/// The unchanging world around the entities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    pub services: BTreeMap<String, Service>,
    pub offices: BTreeMap<String, Office>,
    /// From which time on the fastest clock may have shown a local date, by time. Until then none after it is
    /// possible; slower clocks may show any between it and the first.
    pub days: Vec<(u64, Day)>,
    /// What the fastest clock may have shown at most, by time, milliseconds since 1970; in between it may run a fifth too
    /// fast. Empty: nothing is known, and any time is possible.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clocks: Vec<(u64, i64)>,
    /// Offices a client works in; a client that is not named works everywhere.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub officers: BTreeMap<u32, BTreeSet<String>>,
    /// The history may end before every message between entities has arrived.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub links_may_wait: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// False: known, and no new case is taken.
    pub active: bool,
    /// Letter of its tickets.
    pub letter: char,
    /// Codes of the reasons it may be suspended for.
    #[serde(default)]
    pub suspensions: BTreeSet<String>,
    /// Its results are kept for a term of at least a day; until then none is unclaimed.
    #[serde(default)]
    pub storage: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Office {
    /// Letters each window serves; empty: all.
    pub windows: BTreeMap<String, Vec<char>>,
    /// Priority categories.
    #[serde(default)]
    pub categories: BTreeSet<String>,
    /// How much earlier a visitor without priority must have come than one who has it, to be called first: the office's
    /// fairness bound, of which every category here has all as its head start. Milliseconds.
    #[serde(default = "fairness_default_ms")]
    pub fairness_ms: i64,
    /// Calls after which a visitor who was called has not come.
    #[serde(default = "one_call")]
    pub calls_before_no_show: u8,
}

impl Office {
    /// How often a visitor may be put off, and sent on.
    pub const PUT_OFFS_MAX: u8 = 3;
    pub const REDIRECTS_MAX: u8 = 16;
    /// How often one is called to one window.
    pub const CALLS_MAX: u8 = 20;
}

const fn one_call() -> u8 {
    1
}

/// What an office has that says nothing else: half an hour.
pub const fn fairness_default_ms() -> i64 {
    30 * 60 * 1_000
}

/// A leader stamps no more than half a second beyond the clocks it heard; the rest is rounding.
const STAMP_AHEAD_MS: i64 = 600;

impl Setting {
    /// The latest date that may have been in use by a moment.
    pub fn latest_day(&self, by: u64) -> Day {
        self.days.iter().take_while(|(since, _)| *since <= by).map(|(_, day)| *day).max().unwrap_or(0)
    }

    /// The latest time that may have been stamped by a moment.
    pub fn latest_ms(&self, by: u64) -> i64 {
        let shown = self.clocks.iter().take_while(|(since, _)| *since <= by).map(|(since, shown_ms)| {
            let passed = i64::try_from((by - since) / 1_000).unwrap_or(i64::MAX);
            shown_ms.saturating_add(passed.saturating_add(passed / 5))
        });
        shown.max().map_or(i64::MAX, |shown_ms| shown_ms.saturating_add(STAMP_AHEAD_MS))
    }
}

/// One call of one client, with all its attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub client: u32,
    pub entity: Entity,
    /// Absent for reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    pub call: Call,
    pub begun: u64,
    /// Absent: the client was still waiting when the history ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// Number of the first attempt: above 1 it goes on with a request made before.
    #[serde(default = "one")]
    pub first_attempt: u32,
    /// Attempts made.
    #[serde(default = "one")]
    pub attempts: u32,
    pub outcome: Outcome,
    /// Answers to attempts the client had given up, in the order they came: no outcome, but evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late: Vec<Late>,
}

const fn one() -> u32 {
    1
}

/// An answer that came after its attempt was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    pub at: u64,
    pub outcome: Outcome,
}

/// With the client it names a request: the same on every retry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for RequestId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let digits: String = text.chars().filter(|letter| *letter != '-').collect();
        u128::from_str_radix(&digits, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

/// What an operation is about. Operations of different entities do not touch each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entity {
    Case(String),
    /// The queue of an office.
    Queue(String),
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Case(id) => write!(f, "case {id}"),
            Self::Queue(office) => write!(f, "queue of {office}"),
        }
    }
}

/// Names a ticket within its office.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TicketName {
    pub day: Day,
    /// Letter and three digits.
    pub number: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    OpenCase {
        office: String,
        service: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ticket: Option<TicketName>,
    },
    AddDocument {
        /// Differs in every call, so that a document shows which call added it.
        reference: String,
        sheets: u32,
    },
    RemoveDocument {
        document: u32,
    },
    Advance(Step),
    ReadCase,
    TakeTicket {
        purpose: Purpose,
        /// Empty: none named.
        service: String,
        /// Empty: without priority.
        category: String,
    },
    CallNext {
        window: String,
    },
    Begin {
        ticket: TicketName,
        window: String,
    },
    Finish {
        ticket: TicketName,
        window: String,
        /// False: did not come.
        served: bool,
    },
    /// Calls a visitor who waits or was put off out of turn.
    CallNumber {
        ticket: TicketName,
        window: String,
    },
    /// Calls the visitor of the window once more.
    CallAgain {
        ticket: TicketName,
        window: String,
    },
    PutOff {
        ticket: TicketName,
        window: String,
        minutes: u16,
    },
    Redirect {
        ticket: TicketName,
        window: String,
        to: Destination,
    },
    /// Only this window calls the visitor; empty: any again.
    Bind {
        ticket: TicketName,
        window: String,
    },
    ReturnToQueue {
        ticket: TicketName,
        window: String,
    },
    /// The visitor leaves.
    Leave {
        ticket: TicketName,
    },
    OpenWindow {
        window: String,
    },
    CloseWindow {
        window: String,
    },
    StartBreak {
        window: String,
        minutes: u16,
    },
    ReadQueue,
    /// Another content under an id that was used before: must be refused.
    ReuseRequest,
    /// An id that is none: must be refused.
    MalformedRequest,
}

impl Call {
    /// Done, it may have found everything as it was to be.
    pub const fn may_change_nothing(&self) -> bool {
        matches!(
            self,
            Self::Bind { .. } | Self::OpenWindow { .. } | Self::CloseWindow { .. } | Self::StartBreak { .. }
        )
    }

    /// Reads have no effect.
    pub const fn reads(&self) -> bool {
        matches!(self, Self::ReadCase | Self::ReadQueue)
    }
}

/// Where a visitor is sent on to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Destination {
    Window(String),
    Service(String),
}

/// A step in the life of a case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    Accept,
    RequestInteragency,
    InteragencyAnswered { request: u32 },
    SendToAuthority,
    Suspend { reason: String },
    Resume,
    ReceiveResult,
    ReceiveRefusal,
    MakeReady,
    Issue,
    Withdraw,
    MarkUnclaimed,
    Archive,
}

/// Why a visitor came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    Apply,
    AskStatus,
    CollectResult,
    Other,
}

/// How an operation ended for its client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It took effect; `index` is the log index the cluster named, of a read the entity's own.
    Done { reply: Reply, index: u64 },
    /// A rule said no; nothing changed. The reason code.
    Refused(String),
    /// Nothing happened and nothing will. The reason code.
    NotApplied(String),
    /// It takes effect once, at any time since it began, or never. The reason code.
    Unknown(String),
}

impl Outcome {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Done { .. } => "done",
            Self::Refused(_) => "refused",
            Self::NotApplied(_) => "not-applied",
            Self::Unknown(_) => "unknown",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Opened,
    DocumentAdded {
        document: u32,
    },
    DocumentRemoved,
    Advanced {
        /// Number of the step within the case.
        step: u32,
        stage: Stage,
        /// The interagency request it made or answered; 0: none.
        request: u32,
    },
    TicketTaken {
        ticket: TicketSeen,
        /// How many wait before it.
        ahead: u32,
    },
    /// A ticket after something was done with it.
    Ticket(TicketSeen),
    Window(WindowSeen),
    Read(Seen),
}

/// Where a case is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Draft,
    Accepted,
    Interagency,
    AtAuthority,
    Suspended,
    ResultReceived,
    Refused,
    ReadyForIssue,
    Issued,
    Withdrawn,
    Unclaimed,
    Archived,
}

/// What a read of an entity saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seen {
    /// There is no such entity.
    Absent,
    Case(CaseSeen),
    Queue(QueueSeen),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseSeen {
    pub stage: Stage,
    /// Number and reference, by number.
    pub documents: Vec<(u32, String)>,
    /// The last number given to a document, a step, an interagency request.
    pub documents_last: u32,
    pub steps_last: u32,
    pub requests_last: u32,
    /// Interagency requests without an answer.
    pub requests_open: u32,
    /// The ticket it was opened from, and what the queue said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<(TicketName, Link)>,
    /// Log index of the entity's last commit.
    pub index: u64,
}

/// What the queue said to a case that was opened from a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    Pending,
    Linked,
    Refused(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSeen {
    /// The day of the latest ticket; 0 before the first.
    pub day: Day,
    /// The tickets of that day by number.
    pub tickets: Vec<TicketSeen>,
    /// The windows that were ever opened or closed, by number. Absent: they were not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Vec<WindowSeen>>,
    pub index: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSeen {
    pub number: String,
    /// Of which day that is.
    pub day: Day,
    pub stand: WindowStand,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WindowStand {
    Open,
    Closed,
    /// Over by itself; the next call ends it.
    Break {
        until_ms: i64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketSeen {
    pub name: TicketName,
    pub priority: bool,
    /// Since when the visitor waits, in milliseconds since 1970; 0: it was not shown.
    #[serde(default)]
    pub since_ms: i64,
    /// It was taken in the order of release 0.2, in which who has priority was before everybody who has none.
    #[serde(default)]
    pub before_all: bool,
    pub phase: Phase,
    /// Only this window calls it; empty: any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bound: String,
    /// Cases opened from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cases: Vec<String>,
}

/// Where a ticket is; with the window once it was called. One that the day's end closed is finished at no window.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Waiting,
    Called(String),
    InService(String),
    Finished(String),
    /// Comes back by itself then.
    PutOff {
        until_ms: i64,
    },
}

/// What one node's own store held in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Final {
    pub node: u64,
    pub cases: BTreeMap<String, CaseSeen>,
    pub queues: BTreeMap<String, QueueSeen>,
}

impl Final {
    /// An entity as this node held it.
    pub fn seen(&self, entity: &Entity) -> Seen {
        match entity {
            Entity::Case(id) => self.cases.get(id).cloned().map_or(Seen::Absent, Seen::Case),
            Entity::Queue(office) => self.queues.get(office).cloned().map_or(Seen::Absent, Seen::Queue),
        }
    }
}
