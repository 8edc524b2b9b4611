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
}

impl Context<'_> {
    /// The `n`-th id of this decision: a function of the request id alone, so that a retry makes the same.
    pub fn fresh_id(&self, n: u32) -> Uuid {
        crate::ids::derived(self.request_id, n)
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
    /// The reply of a decision that answers nobody (messages, timers).
    fn no_reply() -> Self::Reply;
    /// May this principal give this command to this entity? Deny by default (rule 17); called on the leader
    /// before it decides, never for messages and timers.
    fn authorise(&self, command: &Self::Command, context: &Context<'_>) -> Result<(), Refusal>;
}

/// Shared, immutable worlds for contexts.
pub type SharedCatalogue = Arc<Catalogue>;
pub type SharedDirectory = Arc<Directory>;
