//! Domain types ↔ durable records. The only module of this crate that names an encoding.
//!
//! A record is a tag (what it is, schema version) and a body; storage frames it with length and checksum
//! (rule 9). The numbers of all records stand in [`What::number`] and nowhere else. Version 1 of everything is
//! the domain type itself in bincode with variable-length integers. When a type changes, its old form is frozen
//! as a struct beside [`decode`], which upcasts; golden files of every version ever written decode for ever.

use bincode::Options;
use bytes::Bytes;
use okno_domain::registry::Kind;
use okno_storage::commit::{COMMIT_BYTES_MAX, CommitId, EntityKey, Record, RecordTag, TimerKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The schema version this binary writes; all records are still at their first.
pub const VERSION: u16 = 1;

/// What a record can be. Domain kinds number their own records; the rest belong to every kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Root(Kind),
    Part(Kind),
    Event(Kind),
    Reply(Kind),
    /// A message between entities.
    Message,
    /// A refusal remembered as the reply of its request.
    Refusal,
    /// The timers an entity has set: the reserved part [`TIMERS_PART`].
    Timers,
    /// Root, event and reply of the cluster's own entities (`sys/…`).
    SystemRoot,
    SystemEvent,
    SystemReply,
}

impl What {
    /// The stable number of a record: `0x100 + 16 × number of the kind + place`; the kind 0 is everybody's.
    /// Numbers below `0x100` are storage's own. Never reuse one.
    pub const fn number(self) -> u16 {
        const fn of(kind: Kind, place: u16) -> u16 {
            0x100 + 16 * kind.number() as u16 + place
        }
        match self {
            Self::Root(kind) => of(kind, 0),
            Self::Part(kind) => of(kind, 1),
            Self::Event(kind) => of(kind, 2),
            Self::Reply(kind) => of(kind, 3),
            Self::Message => 0x100,
            Self::Refusal => 0x101,
            Self::Timers => 0x102,
            Self::SystemRoot => 0x103,
            Self::SystemEvent => 0x104,
            Self::SystemReply => 0x105,
        }
    }

    pub const fn tag(self) -> RecordTag {
        RecordTag { kind: self.number(), version: VERSION }
    }
}

/// Why bytes did not become a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("record type {found} where {expected} was expected")]
    WrongType { expected: u16, found: u16 },
    #[error("record type {kind} of schema version {version} is newer than this binary knows")]
    Newer { kind: u16, version: u16 },
    #[error("record type {kind} cannot be decoded: {detail}")]
    Malformed { kind: u16, detail: String },
}

fn options() -> impl Options {
    // The limit keeps a damaged length from allocating; no record is larger than the commit that brought it.
    bincode::DefaultOptions::new().with_varint_encoding().with_limit(COMMIT_BYTES_MAX as u64)
}

/// Encodes the current version. `None`: larger than any commit may be.
pub fn encode<T: Serialize + ?Sized>(what: What, value: &T) -> Option<Record> {
    Some(Record { tag: what.tag(), body: encode_body(value)? })
}

/// The body alone, for values whose tag travels apart.
pub fn encode_body<T: Serialize + ?Sized>(value: &T) -> Option<Bytes> {
    let mut body = Vec::with_capacity(256);
    match options().serialize_into(&mut body, value) {
        Ok(()) => Some(Bytes::from(body)),
        Err(_) => None,
    }
}

/// Decodes any version ever written into the current type.
pub fn decode<T: DeserializeOwned>(what: What, record: &Record) -> Result<T, CodecError> {
    if record.tag.kind != what.number() {
        return Err(CodecError::WrongType { expected: what.number(), found: record.tag.kind });
    }
    match record.tag.version {
        1 => decode_body(what.number(), &record.body),
        version => Err(CodecError::Newer { kind: record.tag.kind, version }),
    }
}

fn decode_body<T: DeserializeOwned>(kind: u16, body: &[u8]) -> Result<T, CodecError> {
    options().deserialize(body).map_err(|error| CodecError::Malformed { kind, detail: error.to_string() })
}

/// Name of the part that lists an entity's timers; domain part names never begin with this byte.
pub const TIMERS_PART: &[u8] = b"\x01timers";

/// One timer in the reserved part; the entity is known from the part's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TimerV1 {
    name: String,
    due_ms: i64,
    generation: CommitId,
}

/// The reserved part: name → (due, generation), so that setting a name again deletes exactly the old row.
pub fn encode_timers(timers: &[TimerKey]) -> Option<Record> {
    let rows: Vec<TimerV1> = timers
        .iter()
        .map(|t| TimerV1 { name: t.name.clone(), due_ms: t.due_ms, generation: t.generation })
        .collect();
    encode(What::Timers, &rows)
}

pub fn decode_timers(entity: &EntityKey, record: &Record) -> Result<Vec<TimerKey>, CodecError> {
    let rows: Vec<TimerV1> = decode(What::Timers, record)?;
    Ok(rows
        .into_iter()
        .map(|t| TimerKey {
            due_ms: t.due_ms,
            entity: entity.clone(),
            name: t.name,
            generation: t.generation,
        })
        .collect())
}

/// First byte of everything nodes exchange through a forward; a change of form is a new number, sent only once
/// the feature level allows it (rule 9).
const WIRE_FORM: u8 = 1;

/// Encodes what one node's gateway sends to another's. `None`: too large to carry.
pub fn encode_wire<T: Serialize>(value: &T) -> Option<Bytes> {
    let mut body = Vec::with_capacity(512);
    body.push(WIRE_FORM);
    // Twice the largest commit: a command that cannot be committed is refused by the entity, not lost on the way.
    let options =
        bincode::DefaultOptions::new().with_varint_encoding().with_limit(2 * COMMIT_BYTES_MAX as u64);
    options.serialize_into(&mut body, value).ok()?;
    Some(Bytes::from(body))
}

pub fn decode_wire<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let malformed = |detail: String| CodecError::Malformed { kind: 0, detail };
    let (form, body) = bytes.split_first().ok_or_else(|| malformed("empty".into()))?;
    if *form != WIRE_FORM {
        return Err(CodecError::Newer { kind: 0, version: u16::from(*form) });
    }
    bincode::DefaultOptions::new()
        .with_varint_encoding()
        .with_limit(2 * COMMIT_BYTES_MAX as u64)
        .deserialize(body)
        .map_err(|error| malformed(error.to_string()))
}
