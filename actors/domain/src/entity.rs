//! The contract between the pure domain and whoever runs it.
//!
//! An entity is a state machine: `decide` turns a command, message or timer into events (or a refusal) and
//! touches nothing; `evolve` folds one event into the state and cannot fail. Time, ids and randomness come in
//! through [`Context`] and live on in events (rule 7). State is a small root plus parts; a commit writes the
//! root and the parts its events touched (rule 8).
//!
//! Laws, each a property test: `load(root, parts) == fold(events)`; an event's `touched` names every part whose
//! value it changes; only the rows of the root and of touched parts may change with an event.

use crate::{catalogue::Catalogue, directory::Directory, message::Message};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt, sync::Arc};
use uuid::Uuid;

pub use crate::registry::Kind;

/// Names an entity: its kind and its id within the kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntityRef {
    pub kind: Kind,
    pub id: String,
}

impl fmt::Display for EntityRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.name(), self.id)
    }
}

/// Name of a part within its entity, e.g. `ticket:А015`. No NUL.
pub type PartName = String;

/// Who calls, as established by the certificate (rule 17).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Kind of the identity: operator, workstation, kiosk, board, connector, portal, auditor, admin, node.
    pub kind: String,
    pub id: String,
}

/// Where a command comes from: recorded with every step (R-C2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub principal: Principal,
    /// Workstation id, or empty.
    pub workstation: String,
}

/// What surrounds a decision. Everything impure that a decision may use is here.
pub struct Context<'a> {
    /// The deciding entity.
    pub this: &'a EntityRef,
    /// Stamped by the leader, milliseconds since the Unix epoch; never before an earlier decision of this entity.
    pub now_ms: i64,
    pub origin: &'a Origin,
    /// Derives from the request: the same on a retry. Use with [`Context::fresh_id`].
    pub request_id: Uuid,
    /// Services, terms and production calendars as applied.
    pub catalogue: &'a Catalogue,
    /// Offices, windows and people as applied.
    pub directory: &'a Directory,
    /// The replicated feature level: what may be written (rule 9); see [`crate::level`].
    pub level: u32,
    /// What a fencing token given out by this decision begins with (rule 5).
    pub fence: Fence,
}

/// Which rule of which cluster decides: what is handed out under an older one is late. A cluster that was restored has a
/// higher generation, so that tokens of the one it came from count for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Fence {
    pub generation: u64,
    pub term: u64,
}

impl Context<'_> {
    /// The `n`-th id of this decision: a function of the request id alone, so that a retry makes the same.
    pub fn fresh_id(&self, n: u32) -> Uuid {
        crate::ids::derived(self.request_id, n)
    }

    /// The `n`-th random number of this decision: evenly spread, and the same on a retry (rule 7).
    pub fn chance(&self, n: u32) -> u64 {
        let [high, low] = [0, 8].map(|at| {
            let bytes = *self.fresh_id(n).as_bytes();
            bytes[at..at + 8].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
        });
        // Some bits of an id are fixed: mixed, so that none of the result's are.
        (high ^ low.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// What is known about an event besides its content; the same at decision and whenever the journal is folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventMeta {
    pub time_ms: i64,
    pub origin: Origin,
}

/// A message to another entity (rule 4): delivered exactly once, in order per (source, target).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    pub target: EntityRef,
    pub message: Message,
}

/// A timer of this entity. Setting a name again replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimerChange {
    Set { name: String, due_ms: i64 },
    Clear { name: String },
}

/// What follows from a command, message or timer.
#[derive(Debug, Clone)]
pub struct Decision<E: Entity> {
    /// May be empty: nothing changes, the reply is still committed and remembered.
    pub events: Vec<E::Event>,
    pub reply: E::Reply,
    pub sends: Vec<Send>,
    /// Setting one takes at least one event: what is set is part of the stored state. Clearing does not.
    pub timers: Vec<TimerChange>,
}

/// How a caller is told (design §8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalClass {
    InvalidArgument,
    NotFound,
    FailedPrecondition,
    PermissionDenied,
}

/// A rule said no. Reason codes are stable, SCREAMING_SNAKE_CASE, and listed in `docs/reasons.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub class: RefusalClass,
    pub reason: String,
    /// For people: Russian first, English on request.
    pub text_ru: String,
    pub text_en: String,
    /// Field path → what was expected there, or other facts about the refusal.
    pub details: BTreeMap<String, String>,
}

/// A row of a table or index that queries read; its stored key also holds the entity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub table: Table,
    /// Ordered bytes; made by `crate::rows` helpers.
    pub key: Vec<u8>,
}

pub use crate::rows::Table;

/// What led to a decision, for [`Entity::kept`].
#[derive(Debug)]
pub enum Input<'a, E: Entity> {
    Command(&'a E::Command),
    Message(&'a Message),
    Timer,
}

/// A body that lies beside the state: it is written or removed with the commit, in a row of its own ([`Table::Body`]),
/// never stands in an event and is never loaded with the entity. Events name it by number and SHA-256
/// ([`crate::exchange::BodyRef`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept<'a> {
    /// Given once by the entity, never again.
    pub number: u64,
    /// `None`: it is removed.
    pub body: Option<&'a [u8]>,
}

/// The feature level of what every release knows.
pub const FIRST_LEVEL: u32 = 1;
/// From this feature level on there are channels: the kind, their messages, and what cases and the catalogue write
/// about them (rule 9).
pub const CHANNELS_LEVEL: u32 = 3;

/// A kind of entity.
pub trait Entity: Clone + fmt::Debug + PartialEq + std::marker::Send + 'static {
    const KIND: Kind;
    type Command: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + std::marker::Send;
    type Event: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + std::marker::Send;
    type Reply: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + std::marker::Send;
    type Root: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned;
    type Part: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned;

    /// The state before the first event. `id` is the entity's id.
    fn empty(id: &str) -> Self;
    /// False until the first event; a command on what does not exist decides itself what that means.
    fn exists(&self) -> bool;
    fn decide(&self, command: &Self::Command, context: &Context<'_>) -> Result<Decision<Self>, Refusal>;
    /// A message of another entity. A refusal is committed and goes back to the source as [`Message::Refused`].
    fn receive(
        &self,
        source: &EntityRef,
        message: &Message,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal>;
    /// A timer of this entity is due. It is gone once the decision commits.
    fn fire(&self, timer: &str, context: &Context<'_>) -> Result<Decision<Self>, Refusal>;
    /// Folds one event. Cannot fail; may panic only on a bug, which is caught before anything leaves.
    fn evolve(&mut self, event: &Self::Event, meta: &EventMeta);
    /// The parts whose value the event may change; the root is always written.
    fn touched(event: &Self::Event) -> Vec<PartName>;
    fn root(&self) -> Self::Root;
    /// `None`: the part is not (or no longer) there.
    fn part(&self, name: &str) -> Option<Self::Part>;
    fn load(id: &str, root: Self::Root, parts: Vec<(PartName, Self::Part)>) -> Self;
    /// The rows the root (`None`) or a part contributes. Bounded: at most 8 each.
    fn rows(&self, part: Option<&str>) -> Vec<Row>;
    /// The bodies that a decision's commit writes and removes; asked before its events are folded.
    fn kept<'a>(&self, _input: &Input<'a, Self>, _events: &[Self::Event]) -> Vec<Kept<'a>> {
        Vec::new()
    }
    /// The feature level from which on the event may be written (rule 9).
    fn level(_event: &Self::Event) -> u32 {
        FIRST_LEVEL
    }
    /// The reply of a decision that answers nobody (messages, timers).
    fn no_reply() -> Self::Reply;
    /// May this principal give this command to this entity? Deny by default (rule 17); called on the leader
    /// before it decides, never for messages and timers.
    fn authorise(&self, command: &Self::Command, context: &Context<'_>) -> Result<(), Refusal>;
}

/// Shared, immutable worlds for contexts.
pub type SharedCatalogue = Arc<Catalogue>;
pub type SharedDirectory = Arc<Directory>;
