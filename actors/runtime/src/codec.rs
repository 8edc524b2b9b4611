//! Domain types ↔ durable records. The only module of this crate that names an encoding.
//!
//! A record is a tag (what it is, schema version) and a body; storage frames it with length and checksum
//! (rule 9). The numbers of all records stand in [`What::number`] and nowhere else. Version 1 of everything is
//! the domain type itself in bincode with variable-length integers. When a type changes, its old form is frozen
//! as a struct beside [`decode`], which upcasts; golden files of every version ever written decode for ever. An enum may
//! grow at its end within a version: what was written stays as it is, and the new variant says from which feature level
//! on it may be written (`Entity::level`, `Message::level`), below which nobody meets it.

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
    /// A note on power: [`crate::sys::PowerNote`].
    PowerNote,
    /// A body kept beside an entity (`okno_domain::entity::Kept`): SHA-256, then the bytes as they were.
    Body,
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
            Self::PowerNote => 0x106,
            Self::Body => 0x107,
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

/// A body as its row keeps it: SHA-256 and the bytes, as they came.
pub fn keep(body: &[u8]) -> Bytes {
    let mut kept = Vec::with_capacity(32 + body.len());
    kept.extend_from_slice(&okno_domain::exchange::sha256(body));
    kept.extend_from_slice(body);
    Bytes::from(kept)
}

/// The bytes of a kept body, if they are those that were kept.
pub fn kept(record: &Record) -> Result<Bytes, CodecError> {
    let kind = What::Body.number();
    let malformed = |detail: &str| CodecError::Malformed { kind, detail: detail.into() };
    if record.tag.kind != kind {
        return Err(CodecError::WrongType { expected: kind, found: record.tag.kind });
    }
    if record.tag.version != VERSION {
        return Err(CodecError::Newer { kind, version: record.tag.version });
    }
    if record.body.len() < 32 {
        return Err(malformed("no hash"));
    }
    let bytes = record.body.slice(32..);
    if okno_domain::exchange::sha256(&bytes) != record.body[..32] {
        return Err(malformed("the bytes are not those of the hash"));
    }
    Ok(bytes)
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

/// The form that tells the trace a call belongs to: this byte, the length of the trace, the trace, and then the first form.
const WIRE_FORM_TRACED: u8 = 2;

/// The form of what nodes tell the leader of workstations attached to them (`okno.peer.v1.Attendance`): from level
/// [`okno_storage::level::QUEUE`] on. It is for the node, not for a gateway.
pub const WIRE_FORM_ATTENDANCE: u8 = 4;

/// The form of a change of members that a node was asked for and its leader is to make: this byte, then the first form; the
/// answer is of the first form. From level [`okno_storage::level::MEMBER_CALLS`] on. It is for the node too.
pub const WIRE_FORM_MEMBERS: u8 = 5;

/// Puts a trace before what was encoded by [`encode_wire`]; one that has no place in the form is left out. For those
/// that know it: from level [`okno_storage::level::TRACES`] on.
pub fn with_trace(payload: Bytes, trace: &str) -> Bytes {
    let Some(length) = u8::try_from(trace.len()).ok().filter(|length| *length > 0) else { return payload };
    let mut traced = Vec::with_capacity(2 + trace.len() + payload.len());
    traced.extend_from_slice(&[WIRE_FORM_TRACED, length]);
    traced.extend_from_slice(trace.as_bytes());
    traced.extend_from_slice(&payload);
    Bytes::from(traced)
}

/// Parts the trace from the first form.
fn split_trace(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (trace, payload) = bytes
        .strip_prefix(&[WIRE_FORM_TRACED])?
        .split_first()
        .and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)))?;
    Some((std::str::from_utf8(trace).ok()?, payload))
}

/// The trace that a forwarded call belongs to.
pub fn trace_of(bytes: &[u8]) -> Option<&str> {
    split_trace(bytes).map(|(trace, _)| trace)
}

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
    let bytes = split_trace(bytes).map_or(bytes, |(_, payload)| payload);
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

/// The form of what nodes ask about deliveries of channels ([`crate::channels::wire`]): from level
/// [`okno_domain::entity::CHANNELS_LEVEL`] on.
const WIRE_FORM_CHANNELS: u8 = 3;

/// Encodes a question about deliveries, or what is said to it. `None`: too large to carry.
pub fn encode_channels<T: Serialize>(value: &T) -> Option<Bytes> {
    let mut body = Vec::with_capacity(256);
    body.push(WIRE_FORM_CHANNELS);
    options().serialize_into(&mut body, value).ok()?;
    Some(Bytes::from(body))
}

/// `None`: of another form.
pub fn decode_channels<T: DeserializeOwned>(bytes: &[u8]) -> Option<Result<T, CodecError>> {
    bytes.strip_prefix(&[WIRE_FORM_CHANNELS]).map(|body| decode_body(0, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_travels_before_a_call_and_is_no_part_of_it() {
        let plain = encode_wire(&(7_u64, "seven")).expect("small");
        assert_eq!(trace_of(&plain), None);
        let traced = with_trace(plain.clone(), "00-abc-def-01");
        assert_eq!((traced[0], trace_of(&traced)), (2, Some("00-abc-def-01")));
        assert_eq!(decode_wire::<(u64, String)>(&traced).expect("readable"), (7, "seven".into()));
        for unfit in ["", &"x".repeat(256)] {
            assert_eq!(with_trace(plain.clone(), unfit), plain, "left out");
        }
        for cut in 0..traced.len() {
            assert!(decode_wire::<(u64, String)>(&traced[..cut]).is_err(), "cut at {cut}");
        }
    }
}
