//! What a channel is told, what happened to it, what it answers, and what it is made of.
//!
//! Layout (rule 8): the root is small and written with every commit; each message of the backlog and each letter from
//! outside is a part, without its body, which lies in a row of its own. [`Event::Moved`] and [`Part::Message`] share
//! their place in the encoding, so that the bytes of a message's part stand within the bytes of its event.

use super::settings::Settings;
use crate::{
    entity::{EntityRef, Principal},
    exchange::{BodyRef, Content, Outcome},
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};

/// Messages one call may take: a commit writes the part of each.
pub const TAKE_MAX: u16 = 64;
/// Verdicts one call may bring, and letters.
pub const ITEMS_MAX: usize = 64;
/// Bytes of all bodies of one call: with everything else they fit the 256 KiB of a commit.
pub const CALL_BYTES_MAX: usize = 192 * 1024;
/// Messages that one redrive or discard moves; say it again for more.
pub const REDRIVE_MAX: usize = 64;
/// Reports of progress for one message: each is a commit and a message to the case.
pub const PROGRESS_MAX: u32 = 32;
/// Deliveries in a row that nobody acknowledged before they count as a failed attempt.
pub const UNHEARD_MAX: u32 = 8;
/// Different bodies of failed attempts that are kept with one message: as many as the usual settings allow attempts.
pub const RECEIVED_MAX: usize = 8;
/// The longest a connector may ask to wait before a message is tried again.
pub const RETRY_AFTER_MAX_MS: u64 = 24 * 3_600 * 1_000;
/// For requests within requests that name no time of their own.
pub const SUBREQUEST_EXPIRES_MS: i64 = 24 * 3_600 * 1_000;
/// Messages and letters that one firing of the alarm ends.
pub const SWEEP_MAX: usize = 64;

/// A fencing token (rule 5): only the newest of a message counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token {
    /// Of the cluster: higher after a restore.
    pub generation: u64,
    pub term: u64,
    /// Within the channel: never given twice.
    pub sequence: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.generation, self.term, self.sequence)
    }
}

/// Not a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a token looks like 1.7.42")]
pub struct TokenError;

impl FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut numbers = text.split('.').map(|number| number.parse::<u64>().map_err(|_| TokenError));
        let mut next = || numbers.next().ok_or(TokenError).flatten();
        let token = Self { generation: next()?, term: next()?, sequence: next()? };
        if numbers.next().is_some() { Err(TokenError) } else { Ok(token) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Creates the channel or changes its policies.
    Configure { settings: Box<Settings> },
    /// A connector brings verdicts on what it has and takes more: one call, one commit.
    Exchange { verdicts: Vec<Verdict>, take: Take },
    /// The leader's clock has run out for these deliveries. Only nodes. `term`: of the leader whose clock it is.
    Lapse { lapsed: Vec<Lapsed>, term: u64 },
    /// A connector brings letters from outside.
    Receive { letters: Vec<NewLetter> },
    /// An operator stops or starts it.
    Steer { mode: Mode, reason: String },
    /// Dead letters are tried again: those named, or the oldest.
    Redrive { which: Which },
    /// Dead letters are given up: whoever asked is told.
    Discard { which: Which, reason: String },
    /// A parked letter belongs to this case.
    AssignLetter { letter: u64, case: String },
    /// A parked letter belongs to nobody.
    DropLetter { letter: u64, reason: String },
}

/// How much a connector wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Take {
    /// At most so many messages; 0: none.
    pub messages: u16,
    /// At most so many bytes of bodies; the first message comes whatever its size.
    pub bytes: u32,
}

/// What a connector says about a message it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Our message id.
    pub id: String,
    pub token: Token,
    pub said: Said,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// Done; the answer as it came.
    Complete { summary: String, body: Option<Content> },
    /// Not now; what came all the same is kept.
    Fail { reason: String, retry_after_ms: Option<u64>, body: Option<Content> },
    /// Never.
    Reject { reason: String, body: Option<Content> },
    /// Still at it.
    Progress { text: String },
    /// Other channels must be asked first: it is handed out again when all of them have answered.
    Ask { requests: Vec<SubAsk> },
}

impl Said {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Complete { .. } => "complete",
            Self::Fail { .. } => "fail",
            Self::Reject { .. } => "reject",
            Self::Progress { .. } => "progress",
            Self::Ask { .. } => "ask",
        }
    }

    /// The bodies it brings.
    pub fn bodies(&self) -> impl Iterator<Item = &Content> {
        let one = match self {
            Self::Complete { body, .. } | Self::Reject { body, .. } | Self::Fail { body, .. } => {
                body.as_ref()
            }
            Self::Progress { .. } | Self::Ask { .. } => None,
        };
        let many = match self {
            Self::Ask { requests } => requests.as_slice(),
            _ => &[],
        };
        one.into_iter().chain(many.iter().map(|request| &request.body))
    }
}

/// A request on account of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubAsk {
    pub channel: String,
    pub kind: String,
    pub key: String,
    pub subject: String,
    pub body: Content,
    /// From now; `None`: a day. Never longer than the request it is for.
    pub expires_ms: Option<u32>,
}

/// A delivery whose time is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapsed {
    pub id: String,
    pub token: Token,
    pub why: Lapse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lapse {
    /// Nobody acknowledged the delivery: it may never have arrived, and counts as no attempt.
    Unheard,
    /// It was acknowledged and not settled in time.
    Overdue,
    /// The connector went away with it.
    Gone,
}

impl Lapse {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unheard => "LEASE_UNHEARD",
            Self::Overdue => "LEASE_OVERDUE",
            Self::Gone => "CONNECTOR_GONE",
        }
    }
}

/// A letter as a connector brings it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewLetter {
    /// As its sender calls it: by it a letter that comes again is known.
    pub outside_id: String,
    /// The case, or one of our message ids, it is about; empty: a person must say.
    pub about: String,
    pub kind: String,
    pub subject: String,
    pub body: Content,
}

/// Dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    Named(Vec<String>),
    Oldest(u16),
}

/// What a channel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Mode {
    /// Takes requests and hands them out.
    #[default]
    Open,
    /// Takes requests, hands nothing out; what is out may be settled.
    Paused,
    /// Takes no new requests, hands out the rest.
    Draining,
}

impl Mode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }
}

/// A message of the backlog, as its part keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Its place in the order; a new one when it is redriven.
    pub sequence: u64,
    pub id: String,
    /// Who asked and gets the answer.
    pub source: EntityRef,
    pub case: String,
    pub kind: String,
    pub key: String,
    pub subject: String,
    pub body: BodyRef,
    pub accepted_ms: i64,
    pub expires_ms: Option<i64>,
    pub depth: u8,
    /// Failed ones, since it came or was redriven.
    pub attempts: u32,
    /// Every time it was handed out.
    pub deliveries: u32,
    /// The last of those that nobody acknowledged, in a row.
    pub unheard: u32,
    pub progress: u32,
    /// Whoever asked needs it no longer; told to who holds it.
    pub withdrawn: bool,
    pub state: MessageState,
    /// What was asked of other channels on its account.
    pub subs: Vec<SubRequest>,
    /// Why it failed last; empty: it did not.
    pub failure: String,
    /// What came with failed attempts (R-I2), each body once. Of more than [`RECEIVED_MAX`] the first ones and the newest.
    pub received: Vec<BodyRef>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageState {
    /// Waits for its turn.
    Ready,
    /// Is tried again not before this.
    Delayed { until_ms: i64 },
    /// A connector has it; `instance`: which of its processes, as the process calls itself.
    Out { token: Token, connector: String, instance: String, since_ms: i64 },
    /// Other channels have been asked.
    Asking,
    /// A dead letter: waits for a person. The reason is the message's `failure`.
    Dead { at_ms: i64 },
}

impl MessageState {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Delayed { .. } => "delayed",
            Self::Out { .. } => "out",
            Self::Asking => "asking",
            Self::Dead { .. } => "dead",
        }
    }
}

impl Outgoing {
    /// When it expires, where that may happen now: not while somebody works on it.
    pub fn may_expire(&self) -> Option<i64> {
        match self.state {
            MessageState::Ready | MessageState::Delayed { .. } | MessageState::Dead { .. } => self.expires_ms,
            MessageState::Out { .. } | MessageState::Asking => None,
        }
    }
}

/// A request to another channel, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubRequest {
    pub id: String,
    pub channel: String,
    pub kind: String,
    pub body: BodyRef,
    pub answer: Option<SubAnswer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubAnswer {
    pub outcome: Outcome,
    pub summary: String,
    pub body: Option<BodyRef>,
    pub others: Vec<BodyRef>,
}

/// A letter from outside, as its part keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbox {
    pub number: u64,
    pub outside_id: String,
    pub about: String,
    pub kind: String,
    pub subject: String,
    pub body: BodyRef,
    pub received_ms: i64,
    pub connector: String,
    pub state: LetterState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LetterState {
    /// On its way to the case.
    Routing { case: String },
    /// The case has it, and looks after the body from now on.
    Taken { case: String, at_ms: i64 },
    /// A person must say whose it is; a reason code.
    Parked { reason: String, since_ms: i64 },
    /// Nobody's.
    Dropped { reason: String, by: Principal, at_ms: i64 },
}

impl LetterState {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Routing { .. } => "routing",
            Self::Taken { .. } => "taken",
            Self::Parked { .. } => "parked",
            Self::Dropped { .. } => "dropped",
        }
    }
}

/// Whether the other side is believed to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Breaker {
    /// It is; so many failures in a row.
    Closed { failures: u32 },
    /// It is not: nothing is handed out before `until_ms`. The `trips`-th time in a row.
    Open { until_ms: i64, trips: u32 },
    /// Some are handed out to see.
    HalfOpen { trips: u32 },
}

impl Breaker {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed { .. } => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half-open",
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

/// What changes with nearly every call, and is told once a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Account {
    pub breaker: Breaker,
    /// The rate limit's memory: when the next message is due if none comes early, microseconds since the epoch.
    pub paced_us: i64,
    /// When the alarm is set for; `None`: it is not.
    pub alarm_ms: Option<i64>,
    pub lapses: Lapses,
}

/// Deliveries whose time ran out since the channel began, by why: each why asks for another remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lapses {
    pub unheard: u64,
    pub overdue: u64,
    pub gone: u64,
}

impl Lapses {
    pub const fn count(&mut self, why: Lapse) {
        match why {
            Lapse::Unheard => self.unheard += 1,
            Lapse::Overdue => self.overdue += 1,
            Lapse::Gone => self.gone += 1,
        }
    }

    pub const fn total(&self) -> u64 {
        self.unheard + self.overdue + self.gone
    }
}

/// Why a message moved, for the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Move {
    Accepted,
    HandedOut,
    /// Failed; it is tried again.
    Failed,
    /// Nobody acknowledged it.
    Unheard,
    Buried,
    Progressed,
    Asked,
    /// One of the channels asked has answered.
    SubAnswered,
    Withdrawn,
}

impl Move {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::HandedOut => "handed-out",
            Self::Failed => "failed",
            Self::Unheard => "unheard",
            Self::Buried => "buried",
            Self::Progressed => "progressed",
            Self::Asked => "asked",
            Self::SubAnswered => "sub-answered",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// What happened. A message or letter stands in it as it is afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Moved {
        message: Arc<Outgoing>,
        why: Move,
    },
    Configured {
        settings: Arc<Settings>,
        version: u32,
    },
    /// A message has left: whoever asked was answered.
    Ended(Box<Ended>),
    Redriven {
        from: u64,
        message: Arc<Outgoing>,
    },
    LetterMoved {
        letter: Arc<Inbox>,
    },
    /// Their ids are no longer remembered; of those dropped the bodies go, too.
    LettersForgotten {
        numbers: Vec<u64>,
        bodies: Vec<u64>,
    },
    /// The case they were kept for let them go.
    BodiesForgotten {
        numbers: Vec<u64>,
    },
    Steered {
        mode: Mode,
        reason: String,
    },
    Accounted(Account),
}

/// The end of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub sequence: u64,
    pub id: String,
    pub outcome: Outcome,
    /// The answer's.
    pub body: Option<BodyRef>,
    pub attempts: u32,
    /// As [`Outgoing::received`], the last attempt's included.
    pub received: Vec<BodyRef>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To messages and timers.
    None,
    Configured {
        version: u32,
    },
    Exchanged(Box<Exchanged>),
    Lapsed {
        count: u32,
    },
    Received {
        results: Vec<Received>,
    },
    Steered {
        mode: Mode,
    },
    /// How many dead letters moved, and how many are left.
    Moved {
        count: u32,
        left: u32,
    },
    Letter(Arc<Inbox>),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Exchanged {
    /// One for each verdict, in their order.
    pub results: Vec<Settled>,
    /// Handed out now: token and connector stand in the state. Bodies are read from rows by their references.
    pub handed: Vec<Arc<Outgoing>>,
    /// When it is worth to ask again although nothing else happens; `None`: only an event brings more.
    pub again_ms: Option<i64>,
    /// The leases of what was handed out: to acknowledge, and then to work.
    pub ack_ms: u32,
    pub work_ms: u32,
}

/// What came of a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    pub id: String,
    /// A reason code; empty: it counts.
    pub reason: String,
    /// Whoever asked needs it no longer.
    pub withdrawn: bool,
}

/// What came of a letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    pub outside_id: String,
    /// 0: it was refused.
    pub number: u64,
    /// It came before.
    pub duplicate: bool,
    /// A reason code: why it was refused.
    pub reason: String,
}

/// Figures of a channel, as of its last commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// In the backlog, dead letters left out.
    pub live: u32,
    pub out: u32,
    /// Waiting for other channels.
    pub asking: u32,
    pub dead: u32,
    pub letters: u32,
    pub parked: u32,
    /// When the oldest message came that is not dead; `None`: there is none.
    pub oldest_ms: Option<i64>,
}

/// The small part of a channel that every commit writes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Root {
    /// Of the settings; 0: never configured.
    pub version: u32,
    pub mode: Mode,
    /// Why it is not open.
    pub mode_reason: String,
    pub mode_since_ms: i64,
    pub changed_ms: i64,
    /// The last given of each; never given again.
    pub last_sequence: u64,
    pub last_token: u64,
    pub last_body: u64,
    pub last_letter: u64,
    pub account: Account,
    pub counts: Counts,
    /// Since the channel began: for rates over time.
    pub handed_total: u64,
    pub failed_total: u64,
    pub ended_total: u64,
}

/// Parts are named `message:<sequence>` and `letter:<number>`, both with twenty digits, and `settings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    Message(Arc<Outgoing>),
    Letter(Arc<Inbox>),
    Settings(Arc<Settings>),
}
