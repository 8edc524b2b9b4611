//! What is replicated: the `Commit` an entity's actor decided on, and what applying it can come to.
//!
//! Nothing here knows what a case is. A commit carries opaque records (type, version, bytes) and names the
//! rows they go to; every replica applies it without understanding it ("leader decides, everybody applies",
//! design §2).

use crate::{error::StorageError, keys, schema};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};
use uuid::Uuid;

/// Encoded size a commit may not pass, in bytes (design §2). Larger things belong to blobs.
pub const COMMIT_BYTES_MAX: usize = 256 * 1024;
/// Length an entity key may not pass, in bytes.
pub const ENTITY_KEY_BYTES_MAX: usize = 96;
/// Length a timer's name may not pass, in bytes: it stands in every key of its rows.
pub const TIMER_NAME_BYTES_MAX: usize = 64;
/// Length a part's name and a row's key may not pass, in bytes: keys are held in memory by filters and indexes.
pub const PART_NAME_BYTES_MAX: usize = 256;
/// See [`PART_NAME_BYTES_MAX`].
pub const ROW_KEY_BYTES_MAX: usize = 1024;
/// Length the name of a principal or a workstation may not pass, in bytes: it stands in every request key.
pub const PRINCIPAL_BYTES_MAX: usize = 256;
/// Length a reason given for a quarantine or a burial may not pass, in bytes.
pub const REASON_BYTES_MAX: usize = 4096;

/// Names an entity: `<kind>/<id>`, for example `case/018f…` or `sys/founding`.
///
/// Invariants: `kind` is `[a-z]+`; `id` is one or more of `[A-Za-z0-9._:-]`; at most
/// [`ENTITY_KEY_BYTES_MAX`] bytes; therefore never a NUL, which storage keys use as a separator.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntityKey(Arc<str>);

/// An entity key that breaks the form of [`EntityKey`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an entity key: {0:?}")]
pub struct EntityKeyError(String);

impl EntityKey {
    /// Checks the form and makes the key.
    pub fn parse(text: &str) -> Result<Self, EntityKeyError> {
        let refuse = || EntityKeyError(text.chars().take(128).collect());
        let (kind, id) = text.split_once('/').ok_or_else(refuse)?;
        let kind_ok = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_lowercase());
        let id_ok = !id.is_empty()
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'));
        if kind_ok && id_ok && text.len() <= ENTITY_KEY_BYTES_MAX {
            Ok(Self(text.into()))
        } else {
            Err(refuse())
        }
    }

    /// The part before the slash.
    pub fn kind(&self) -> &str {
        self.0.split_once('/').map_or("", |(kind, _)| kind)
    }

    /// The part after the slash.
    pub fn id(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, id)| id)
    }

    /// The whole key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for the cluster's own entities (`sys/…`), the only ones that may carry a [`SystemOp`].
    pub fn is_system(&self) -> bool {
        self.kind() == "sys"
    }
}

impl TryFrom<String> for EntityKey {
    type Error = EntityKeyError;
    fn try_from(text: String) -> Result<Self, EntityKeyError> {
        Self::parse(&text)
    }
}

impl From<EntityKey> for String {
    fn from(key: EntityKey) -> Self {
        key.0.to_string()
    }
}

impl fmt::Debug for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Identifies a commit: the term it was decided in and a counter never reused in that term.
/// `CommitId::NONE` is the head of an entity that has no commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct CommitId {
    pub term: u64,
    pub counter: u64,
}

impl CommitId {
    pub const NONE: Self = Self { term: 0, counter: 0 };
}

/// The type and schema version of a durable record; the header that is stored before its bytes carries both
/// (rule 9). The numbers are assigned in the crate that encodes the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordTag {
    pub kind: u16,
    pub version: u16,
}

/// A typed opaque record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub tag: RecordTag,
    pub body: Bytes,
}

/// The body of a stored value. `OfEvent` points into an event of the same commit, so that a body stands in
/// the commit once although several rows hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    Inline(Bytes),
    OfEvent { event: u16, start: u32, len: u32 },
}

/// A value to be stored under a header made of its tag, length and checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    pub tag: RecordTag,
    pub body: Body,
}

/// A part of an entity's state (a ticket, a document) that is written or, with `None`, deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartChange {
    pub part: Bytes,
    pub value: Option<Value>,
}

/// A row of a table or index. The stored key is `table ‖ key ‖ entity ‖ length of entity`, so that a commit
/// cannot name a row of another entity. `value: Some(None)` is a key-only row; `None` deletes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowChange {
    pub table: u16,
    pub key: Bytes,
    pub value: Option<Option<Value>>,
}

/// Identifies an outbox message: order within a (source, target) pair is the order of these keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageKey {
    pub target: EntityKey,
    pub source: EntityKey,
    pub commit: CommitId,
    pub place: u16,
}

/// An outbox message as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub key: MessageKey,
    /// How many messages led to this one; bounded, so that two entities cannot play ball for ever (rule 4).
    pub hops: u16,
    /// The message this one answers.
    pub answers: Option<MessageKey>,
    pub record: Record,
}

/// Names one setting of a timer: deleting exactly this row is what firing means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TimerKey {
    /// Replicated time at which it is due, milliseconds since the Unix epoch.
    pub due_ms: i64,
    pub entity: EntityKey,
    pub name: String,
    /// The commit that set it.
    pub generation: CommitId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimerChange {
    Set(TimerKey),
    /// Deletes; it is no fault if the row is gone.
    Clear(TimerKey),
    /// Deletes; the commit is fenced if the row is gone.
    Fire(TimerKey),
}

/// The principal and request id of a caller (rule 6). `hash` covers the method and the body.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestKey {
    pub id: Uuid,
    pub principal: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRef {
    pub key: RequestKey,
    pub hash: [u8; 32],
}

/// Who asked for a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// `<kind>/<id>` of the caller's certificate, or `node/<id>` for what the cluster does by itself.
    pub principal: String,
    /// The workstation named by the caller, empty if none.
    pub workstation: String,
    pub request: Option<RequestRef>,
}

/// A reply to be remembered for its request, so that a repeated call gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedReply {
    pub request: RequestRef,
    pub reply: Record,
}

/// One member of the initial configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemberRecord {
    pub node_id: u64,
    pub incarnation: Uuid,
    pub peer_address: String,
}

/// What only the cluster's own entities (`sys/…`) may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemOp {
    /// The first commit: who the cluster is (rule 14). Its members must equal the pins.
    Found {
        cluster: Uuid,
        members: Vec<MemberRecord>,
    },
    /// Parks an entity after repeated panics, until released (rule 13).
    Quarantine {
        entity: EntityKey,
        reason: String,
    },
    Release {
        entity: EntityKey,
    },
    /// Removes remembered replies whose request id is older than this (rule 6).
    PurgeRequests {
        before_ms: i64,
    },
    /// Moves an undeliverable message out of the way (rule 4).
    BuryMessage {
        message: MessageKey,
        reason: String,
    },
    /// Every member digests all rows at this index (rule 15).
    Marker,
    /// Raises the replicated feature level (rule 9).
    Level {
        level: u32,
    },
    /// Carries time alone, so that an idle cluster ages too (rule 7).
    Time,
    /// Says something to the journal and changes nothing: the record is the commit's only event, and stands in it once.
    /// Only from level [`level::NOTES`](crate::level::NOTES) on.
    Note {
        record: Record,
    },
}

/// One decided change of one entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub entity: EntityKey,
    /// Term of the activation that decided; an entry of another term is fenced.
    pub term: u64,
    pub id: CommitId,
    /// The entity's last commit at decision; [`CommitId::NONE`] for a new entity.
    pub base: CommitId,
    /// Stamped by the leader, milliseconds since the Unix epoch.
    pub time_ms: i64,
    pub origin: Option<Origin>,
    /// Empty for a commit that neither moves nor creates its entity; then `root`, `parts` and `rows` are empty.
    pub events: Vec<Record>,
    /// The entity's root after the events; `Some` exactly when there are events.
    pub root: Option<Value>,
    pub parts: Vec<PartChange>,
    pub rows: Vec<RowChange>,
    pub sent: Vec<Message>,
    pub consumed: Vec<MessageKey>,
    pub timers: Vec<TimerChange>,
    pub replies: Vec<RememberedReply>,
    pub system: Option<SystemOp>,
}

impl Commit {
    /// A commit with nothing in it yet.
    pub fn bare(entity: EntityKey, id: CommitId, base: CommitId, time_ms: i64) -> Self {
        Self {
            entity,
            term: id.term,
            id,
            base,
            time_ms,
            origin: None,
            events: Vec::new(),
            root: None,
            parts: Vec::new(),
            rows: Vec::new(),
            sent: Vec::new(),
            consumed: Vec::new(),
            timers: Vec::new(),
            replies: Vec::new(),
            system: None,
        }
    }

    /// The commit as it goes into the log. Refuses what breaks a rule of [`Commit::check`] and what is larger
    /// than [`COMMIT_BYTES_MAX`].
    ///
    /// In the oldest form, which every release reads and which has no notes; [`Commit::encode_at`] is for where the
    /// level is known.
    pub fn encode(&self) -> Result<Bytes, StorageError> {
        schema::encode_commit(self, 1)
    }

    /// As [`Commit::encode`], in the newest form that the replicated feature level allows (rule 9). Refuses what it does
    /// not allow.
    pub fn encode_at(&self, level: u32) -> Result<Bytes, StorageError> {
        schema::encode_commit(self, level)
    }

    /// Reads an encoded commit; bodies share the memory of `data`.
    pub fn decode(data: &Bytes) -> Result<Self, StorageError> {
        schema::decode_commit(data).map(|decoded| decoded.commit)
    }

    /// What holds for every commit that is encoded or decoded; the text says what does not.
    pub fn check(&self) -> Result<(), String> {
        let refuse = |text: &str| Err(format!("{text} ({} {:?})", self.entity, self.id));
        if self.id.term != self.term || self.id == CommitId::NONE {
            return refuse("the commit's id is not of its term");
        }
        if self.events.is_empty() && !(self.root.is_none() && self.parts.is_empty() && self.rows.is_empty()) {
            return refuse("a commit without events writes rows");
        }
        if !self.events.is_empty() && self.root.is_none() {
            return refuse("a commit with events has no root");
        }
        if self.events.len() > usize::from(u16::MAX) {
            return refuse("too many events");
        }
        if self.rows.iter().any(|row| row.table == keys::TABLE_RESERVED) {
            return refuse("the journal's own table is not a commit's to write");
        }
        if self.system.is_some() && !self.entity.is_system() {
            return refuse("an entity that is not the cluster's own carries a system operation");
        }
        match &self.system {
            Some(SystemOp::Quarantine { entity, .. }) if entity.is_system() => {
                return refuse(
                    "the cluster's own entities cannot be quarantined: nothing could release them",
                );
            }
            Some(SystemOp::Quarantine { reason, .. } | SystemOp::BuryMessage { reason, .. })
                if reason.len() > REASON_BYTES_MAX =>
            {
                return refuse("a reason is too long");
            }
            Some(SystemOp::Note { record }) if self.events != std::slice::from_ref(record) => {
                return refuse("a note is not the commit's only event");
            }
            _ => {}
        }
        self.check_values().or_else(refuse)?;
        self.check_messages().or_else(refuse)?;
        self.check_timers().or_else(refuse)?;
        self.check_origin().or_else(refuse)
    }

    fn check_values(&self) -> Result<(), &'static str> {
        let parts = self.parts.iter().filter_map(|p| p.value.as_ref());
        let rows = self.rows.iter().filter_map(|r| r.value.as_ref().and_then(Option::as_ref));
        for value in self.root.iter().chain(parts).chain(rows) {
            if value.resolve(&self.events).is_none() {
                return Err("a value points outside the commit's events");
            }
        }
        if self.parts.iter().any(|p| p.part.len() > PART_NAME_BYTES_MAX) {
            return Err("a part's name is too long");
        }
        if self.rows.iter().any(|r| r.key.len() > ROW_KEY_BYTES_MAX) {
            return Err("a row's key is too long");
        }
        Ok(())
    }

    fn check_messages(&self) -> Result<(), &'static str> {
        if self.sent.iter().any(|m| m.key.source != self.entity || m.key.commit != self.id) {
            return Err("a sent message is not the commit's");
        }
        if !self.sent.is_sorted_by(|a, b| a.key.place < b.key.place) {
            return Err("places of sent messages do not ascend");
        }
        if self.consumed.iter().any(|k| k.target != self.entity) {
            return Err("a consumed message is for another entity");
        }
        if (1..self.consumed.len()).any(|i| self.consumed[..i].contains(&self.consumed[i])) {
            return Err("a message is consumed twice");
        }
        Ok(())
    }

    fn check_timers(&self) -> Result<(), &'static str> {
        for (place, change) in self.timers.iter().enumerate() {
            let key = change.key();
            if key.entity != self.entity {
                return Err("a timer is another entity's");
            }
            if key.name.is_empty() || key.name.len() > TIMER_NAME_BYTES_MAX || key.name.contains('\0') {
                return Err("a timer's name is empty, too long or holds a NUL");
            }
            if matches!(change, TimerChange::Set(_)) && key.generation != self.id {
                return Err("a timer's generation is not the commit that sets it");
            }
            let fired = |c: &TimerChange| matches!(c, TimerChange::Fire(k) if k == key);
            if matches!(change, TimerChange::Fire(_)) && self.timers[..place].iter().any(fired) {
                return Err("a timer is fired twice");
            }
        }
        Ok(())
    }

    fn check_origin(&self) -> Result<(), &'static str> {
        let long = |text: &str| text.len() > PRINCIPAL_BYTES_MAX;
        if self.origin.as_ref().is_some_and(|o| long(&o.principal) || long(&o.workstation)) {
            return Err("the name of a principal or workstation is too long");
        }
        if self.requests().any(|r| long(&r.key.principal)) {
            return Err("the name of a principal is too long");
        }
        Ok(())
    }

    /// The requests this commit answers to: its origin's first, then those it remembers replies for.
    pub fn requests(&self) -> impl Iterator<Item = &RequestRef> {
        let origin = self.origin.as_ref().and_then(|o| o.request.as_ref());
        let others = self.replies.iter().map(|r| &r.request).filter(move |r| Some(*r) != origin);
        origin.into_iter().chain(others)
    }
}

impl Value {
    /// The body's bytes, found in `events` if it points there; `None` if it points outside.
    pub fn resolve<'a>(&'a self, events: &'a [Record]) -> Option<&'a [u8]> {
        match &self.body {
            Body::Inline(bytes) => Some(bytes),
            Body::OfEvent { event, start, len } => {
                let body = &events.get(usize::from(*event))?.body;
                let start = usize::try_from(*start).ok()?;
                body.get(start..start.checked_add(usize::try_from(*len).ok()?)?)
            }
        }
    }
}

impl TimerChange {
    pub fn key(&self) -> &TimerKey {
        match self {
            Self::Set(key) | Self::Clear(key) | Self::Fire(key) => key,
        }
    }
}

/// Why apply refused to let a commit take effect. The order of the variants is the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FenceReason {
    /// The request id is remembered with another hash.
    RequestReused,
    /// The commit was decided in another term than the entry's.
    Term,
    /// The entity is quarantined.
    Quarantined,
    /// The base commit is not the entity's last.
    Base,
    /// A consumed message is not in the outbox.
    Message,
    /// A fired timer is not there.
    Timer,
}

/// What applying one entry came to; a function of (state, entry) alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Applied,
    /// The request was carried out before; this is what was answered then.
    Duplicate(Record),
    Fenced(FenceReason),
    /// Not a commit: an empty entry of a new leader, or a configuration entry.
    NoCommit,
}

impl Outcome {
    /// The byte that enters the hash chain.
    pub fn code(&self) -> u8 {
        match self {
            Self::Applied => 1,
            Self::Duplicate(_) => 2,
            Self::NoCommit => 3,
            Self::Fenced(FenceReason::RequestReused) => 16,
            Self::Fenced(FenceReason::Term) => 17,
            Self::Fenced(FenceReason::Quarantined) => 18,
            Self::Fenced(FenceReason::Base) => 19,
            Self::Fenced(FenceReason::Message) => 20,
            Self::Fenced(FenceReason::Timer) => 21,
        }
    }
}
