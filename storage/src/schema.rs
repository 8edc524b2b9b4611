//! The frozen forms of this crate's durable records, and the way from and to what the rest of the code uses.
//!
//! A struct here never changes once released: a new form is a new struct with the next version number, a writer
//! that uses it only from the feature level that allows it, and an upcast from the one before (rule 9). Golden
//! files of every version stand in `tests/golden/`.
//!
//! The second form of a commit has the bytes of the first; its number says that the commit is a note, whose record is
//! its only event.
//!
//! The commit is written compactly: what its entity, id and origin already say is not said again in its messages,
//! timers and replies, and read back from them.

use crate::{
    codec::{self, corrupt, kind},
    commit::{
        Body, COMMIT_BYTES_MAX, Commit, CommitId, EntityKey, MemberRecord, Message, MessageKey, Origin,
        PartChange, Record, RecordTag, RememberedReply, RequestKey, RequestRef, RowChange, SystemOp,
        TimerChange, TimerKey, Value,
    },
    error::StorageError,
    level,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::Bytes as Raw;
use uuid::Uuid;

/// Everything of a commit but its events.
#[derive(Serialize, Deserialize)]
struct RestV1<'a> {
    #[serde(borrow)]
    entity: &'a str,
    term: u64,
    counter: u64,
    base: CommitIdV1,
    time_ms: i64,
    #[serde(borrow)]
    origin: Option<OriginV1<'a>>,
    #[serde(borrow)]
    root: Option<ValueV1<'a>>,
    #[serde(borrow)]
    parts: Vec<PartV1<'a>>,
    #[serde(borrow)]
    rows: Vec<RowV1<'a>>,
    #[serde(borrow)]
    sent: Vec<SentV1<'a>>,
    #[serde(borrow)]
    consumed: Vec<ConsumedV1<'a>>,
    #[serde(borrow)]
    timers: Vec<TimerV1<'a>>,
    #[serde(borrow)]
    replies: Vec<ReplyV1<'a>>,
    #[serde(borrow)]
    system: Option<SystemV1<'a>>,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
struct CommitIdV1(u64, u64);

impl From<CommitId> for CommitIdV1 {
    fn from(id: CommitId) -> Self {
        Self(id.term, id.counter)
    }
}

impl From<CommitIdV1> for CommitId {
    fn from(id: CommitIdV1) -> Self {
        Self { term: id.0, counter: id.1 }
    }
}

#[derive(Serialize, Deserialize)]
struct RecordV1<'a> {
    kind: u16,
    version: u16,
    #[serde(borrow)]
    body: &'a Raw,
}

impl<'a> From<&'a Record> for RecordV1<'a> {
    fn from(record: &'a Record) -> Self {
        Self { kind: record.tag.kind, version: record.tag.version, body: Raw::new(&record.body) }
    }
}

impl RecordV1<'_> {
    fn owned(&self, within: &Bytes) -> Record {
        Record {
            tag: RecordTag { kind: self.kind, version: self.version },
            body: within.slice_ref(self.body),
        }
    }
}

#[derive(Serialize, Deserialize)]
enum BodyV1<'a> {
    Inline(#[serde(borrow)] &'a Raw),
    OfEvent { event: u16, start: u32, len: u32 },
}

#[derive(Serialize, Deserialize)]
struct ValueV1<'a> {
    kind: u16,
    version: u16,
    #[serde(borrow)]
    body: BodyV1<'a>,
}

impl<'a> From<&'a Value> for ValueV1<'a> {
    fn from(value: &'a Value) -> Self {
        let body = match &value.body {
            Body::Inline(bytes) => BodyV1::Inline(Raw::new(bytes)),
            Body::OfEvent { event, start, len } => {
                BodyV1::OfEvent { event: *event, start: *start, len: *len }
            }
        };
        Self { kind: value.tag.kind, version: value.tag.version, body }
    }
}

impl ValueV1<'_> {
    fn owned(&self, within: &Bytes) -> Value {
        let body = match self.body {
            BodyV1::Inline(bytes) => Body::Inline(within.slice_ref(bytes)),
            BodyV1::OfEvent { event, start, len } => Body::OfEvent { event, start, len },
        };
        Value { tag: RecordTag { kind: self.kind, version: self.version }, body }
    }
}

#[derive(Serialize, Deserialize)]
struct PartV1<'a>(#[serde(borrow)] &'a Raw, #[serde(borrow)] Option<ValueV1<'a>>);

#[derive(Serialize, Deserialize)]
struct RowV1<'a> {
    table: u16,
    #[serde(borrow)]
    key: &'a Raw,
    #[serde(borrow)]
    value: Option<Option<ValueV1<'a>>>,
}

#[derive(Serialize, Deserialize)]
struct MessageKeyV1<'a> {
    target: &'a str,
    source: &'a str,
    commit: CommitIdV1,
    place: u16,
}

impl<'a> From<&'a MessageKey> for MessageKeyV1<'a> {
    fn from(key: &'a MessageKey) -> Self {
        Self {
            target: key.target.as_str(),
            source: key.source.as_str(),
            commit: key.commit.into(),
            place: key.place,
        }
    }
}

impl MessageKeyV1<'_> {
    fn owned(&self) -> Result<MessageKey, StorageError> {
        Ok(MessageKey {
            target: entity(self.target)?,
            source: entity(self.source)?,
            commit: self.commit.into(),
            place: self.place,
        })
    }
}

/// A message sent: its source and commit are the commit's.
#[derive(Serialize, Deserialize)]
struct SentV1<'a> {
    target: &'a str,
    place: u16,
    hops: u16,
    #[serde(borrow)]
    answers: Option<MessageKeyV1<'a>>,
    #[serde(borrow)]
    record: RecordV1<'a>,
}

/// A message consumed: its target is the commit's entity.
#[derive(Serialize, Deserialize)]
struct ConsumedV1<'a> {
    source: &'a str,
    commit: CommitIdV1,
    place: u16,
}

/// A timer of the commit's entity; one that is set has the commit's id as its generation.
#[derive(Serialize, Deserialize)]
enum TimerV1<'a> {
    Set { due_ms: i64, name: &'a str },
    Clear { due_ms: i64, name: &'a str, generation: CommitIdV1 },
    Fire { due_ms: i64, name: &'a str, generation: CommitIdV1 },
}

#[derive(Serialize, Deserialize)]
struct OriginV1<'a> {
    principal: &'a str,
    workstation: &'a str,
    #[serde(borrow)]
    request: Option<RequestV1<'a>>,
}

#[derive(Serialize, Deserialize)]
struct RequestV1<'a> {
    id: [u8; 16],
    /// Absent when it is the origin's.
    principal: Option<&'a str>,
    hash: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct ReplyV1<'a> {
    /// Absent when it is the origin's.
    #[serde(borrow)]
    request: Option<RequestV1<'a>>,
    #[serde(borrow)]
    reply: RecordV1<'a>,
}

#[derive(Serialize, Deserialize)]
struct MemberV1<'a> {
    node_id: u64,
    incarnation: [u8; 16],
    peer_address: &'a str,
}

#[derive(Serialize, Deserialize)]
enum SystemV1<'a> {
    Found {
        cluster: [u8; 16],
        #[serde(borrow)]
        members: Vec<MemberV1<'a>>,
    },
    Quarantine {
        entity: &'a str,
        reason: &'a str,
    },
    Release {
        entity: &'a str,
    },
    PurgeRequests {
        before_ms: i64,
    },
    BuryMessage {
        #[serde(borrow)]
        message: MessageKeyV1<'a>,
        reason: &'a str,
    },
    Marker,
    Level {
        level: u32,
    },
    Time,
}

/// What the form that is tried as the next release's says beyond the first: the level it was written at, for nobody to
/// use, and whether the commit is a note.
#[derive(Serialize, Deserialize)]
struct NextForm {
    level: u32,
    note: bool,
}

fn entity(text: &str) -> Result<EntityKey, StorageError> {
    EntityKey::parse(text).map_err(|e| corrupt("entity key", e.to_string()))
}

fn request_v1<'a>(request: &'a RequestRef, origin: Option<&Origin>) -> RequestV1<'a> {
    let known = origin.is_some_and(|o| o.principal == request.key.principal);
    RequestV1 {
        id: *request.key.id.as_bytes(),
        principal: (!known).then_some(request.key.principal.as_str()),
        hash: request.hash,
    }
}

fn request_owned(request: &RequestV1<'_>, principal: Option<&str>) -> Result<RequestRef, StorageError> {
    let principal =
        request.principal.or(principal).ok_or_else(|| corrupt("commit", "a request without principal"))?;
    let key = RequestKey { id: Uuid::from_bytes(request.id), principal: principal.to_owned() };
    Ok(RequestRef { key, hash: request.hash })
}

/// `None`: the first form has no such operation.
fn system_v1(op: &SystemOp) -> Option<SystemV1<'_>> {
    Some(match op {
        SystemOp::Found { cluster, members } => {
            SystemV1::Found { cluster: *cluster.as_bytes(), members: members.iter().map(member_v1).collect() }
        }
        SystemOp::Quarantine { entity, reason } => SystemV1::Quarantine { entity: entity.as_str(), reason },
        SystemOp::Release { entity } => SystemV1::Release { entity: entity.as_str() },
        SystemOp::PurgeRequests { before_ms } => SystemV1::PurgeRequests { before_ms: *before_ms },
        SystemOp::BuryMessage { message, reason } => {
            SystemV1::BuryMessage { message: message.into(), reason }
        }
        SystemOp::Marker => SystemV1::Marker,
        SystemOp::Level { level } => SystemV1::Level { level: *level },
        SystemOp::Time => SystemV1::Time,
        SystemOp::Note { .. } => return None,
    })
}

fn system_owned(op: SystemV1<'_>) -> Result<SystemOp, StorageError> {
    Ok(match op {
        SystemV1::Found { cluster, members } => SystemOp::Found {
            cluster: Uuid::from_bytes(cluster),
            members: members.iter().map(member_owned).collect(),
        },
        SystemV1::Quarantine { entity: key, reason } => {
            SystemOp::Quarantine { entity: entity(key)?, reason: reason.to_owned() }
        }
        SystemV1::Release { entity: key } => SystemOp::Release { entity: entity(key)? },
        SystemV1::PurgeRequests { before_ms } => SystemOp::PurgeRequests { before_ms },
        SystemV1::BuryMessage { message, reason } => {
            SystemOp::BuryMessage { message: message.owned()?, reason: reason.to_owned() }
        }
        SystemV1::Marker => SystemOp::Marker,
        SystemV1::Level { level } => SystemOp::Level { level },
        SystemV1::Time => SystemOp::Time,
    })
}

fn member_v1(member: &MemberRecord) -> MemberV1<'_> {
    MemberV1 {
        node_id: member.node_id,
        incarnation: *member.incarnation.as_bytes(),
        peer_address: &member.peer_address,
    }
}

fn member_owned(member: &MemberV1<'_>) -> MemberRecord {
    MemberRecord {
        node_id: member.node_id,
        incarnation: Uuid::from_bytes(member.incarnation),
        peer_address: member.peer_address.to_owned(),
    }
}

/// An encoded commit: header ‖ length of rest ‖ rest ‖ events.
///
/// The two sections lie side by side so that the hash chain is computed over the bytes as they came, and the
/// journal copies the events without decoding them.
pub(crate) struct Decoded {
    pub commit: Commit,
    /// Where the events section begins.
    pub events_at: usize,
}

pub(crate) fn encode_commit(commit: &Commit, at_level: u32) -> Result<Bytes, StorageError> {
    let note = matches!(commit.system, Some(SystemOp::Note { .. }));
    let version = level::commit_version(at_level, note)
        .ok_or_else(|| corrupt("commit to be encoded", format!("feature level {at_level} has no notes")))?;
    commit.check().map_err(|detail| corrupt("commit to be encoded", detail))?;
    let origin = commit.origin.as_ref();
    let rest = RestV1 {
        entity: commit.entity.as_str(),
        term: commit.term,
        counter: commit.id.counter,
        base: commit.base.into(),
        time_ms: commit.time_ms,
        origin: origin.map(|o| OriginV1 {
            principal: &o.principal,
            workstation: &o.workstation,
            request: o.request.as_ref().map(|r| request_v1(r, origin)),
        }),
        root: commit.root.as_ref().map(Into::into),
        parts: commit
            .parts
            .iter()
            .map(|p| PartV1(Raw::new(&p.part), p.value.as_ref().map(Into::into)))
            .collect(),
        rows: commit
            .rows
            .iter()
            .map(|r| RowV1 {
                table: r.table,
                key: Raw::new(&r.key),
                value: r.value.as_ref().map(|v| v.as_ref().map(Into::into)),
            })
            .collect(),
        sent: commit
            .sent
            .iter()
            .map(|m| SentV1 {
                target: m.key.target.as_str(),
                place: m.key.place,
                hops: m.hops,
                answers: m.answers.as_ref().map(Into::into),
                record: (&m.record).into(),
            })
            .collect(),
        consumed: commit
            .consumed
            .iter()
            .map(|k| ConsumedV1 { source: k.source.as_str(), commit: k.commit.into(), place: k.place })
            .collect(),
        timers: commit
            .timers
            .iter()
            .map(|change| match change {
                TimerChange::Set(t) => TimerV1::Set { due_ms: t.due_ms, name: &t.name },
                TimerChange::Clear(t) => {
                    TimerV1::Clear { due_ms: t.due_ms, name: &t.name, generation: t.generation.into() }
                }
                TimerChange::Fire(t) => {
                    TimerV1::Fire { due_ms: t.due_ms, name: &t.name, generation: t.generation.into() }
                }
            })
            .collect(),
        replies: commit
            .replies
            .iter()
            .map(|r| {
                let same = origin.and_then(|o| o.request.as_ref()) == Some(&r.request);
                ReplyV1 { request: (!same).then(|| request_v1(&r.request, origin)), reply: (&r.reply).into() }
            })
            .collect(),
        system: commit.system.as_ref().and_then(system_v1),
    };
    let bodies: usize = commit.events.iter().map(|e| e.body.len() + 8).sum();
    let mut out = codec::open_frame(512 + bodies);
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    codec::encode_into(&mut out, &rest)?;
    if version == level::COMMIT_VERSION_NEXT {
        codec::encode_into(&mut out, &NextForm { level: at_level, note })?;
    }
    let rest_length = u32::try_from(out.len() - length_at - 4).map_err(|_| too_large(out.len()))?;
    out[length_at..length_at + 4].copy_from_slice(&rest_length.to_be_bytes());
    encode_events(&mut out, &commit.events)?;
    if out.len() > COMMIT_BYTES_MAX {
        return Err(too_large(out.len()));
    }
    codec::seal(&mut out, RecordTag { kind: kind::COMMIT, version });
    Ok(Bytes::from(out))
}

fn too_large(bytes: usize) -> StorageError {
    StorageError::TooLarge(format!("a commit of {bytes} bytes; at most {COMMIT_BYTES_MAX} are taken"))
}

fn encode_events(out: &mut Vec<u8>, events: &[Record]) -> Result<(), StorageError> {
    let events: Vec<RecordV1<'_>> = events.iter().map(Into::into).collect();
    codec::encode_into(out, &events)
}

/// Decodes an events section, as it stands in commits and journal rows; bodies share its memory.
pub(crate) fn decode_events(what: &'static str, section: &Bytes) -> Result<Vec<Record>, StorageError> {
    let events: Vec<RecordV1<'_>> = codec::decode(what, section)?;
    Ok(events.iter().map(|e| e.owned(section)).collect())
}

pub(crate) fn decode_commit(data: &Bytes) -> Result<Decoded, StorageError> {
    if data.len() > COMMIT_BYTES_MAX {
        return Err(corrupt("commit", format!("{} bytes", data.len())));
    }
    let (version, payload) = codec::unframe_own("commit", data, kind::COMMIT, u16::MAX)?;
    if !level::reads_commit(version) {
        return Err(StorageError::Newer { kind: kind::COMMIT, version });
    }
    let (length, body) = payload
        .split_first_chunk::<4>()
        .ok_or_else(|| corrupt("commit", "no length of its first section"))?;
    let rest_length = u32::from_be_bytes(*length) as usize;
    let (rest, _) = body
        .split_at_checked(rest_length)
        .ok_or_else(|| corrupt("commit", "its first section is longer than the commit"))?;
    let events_at = codec::HEADER_BYTES + 4 + rest_length;
    let (rest, note): (RestV1<'_>, bool) = if version == level::COMMIT_VERSION_NEXT {
        let (rest, NextForm { note, .. }) = codec::decode("commit", rest)?;
        (rest, note)
    } else {
        (codec::decode("commit", rest)?, version == level::COMMIT_VERSION_NOTE)
    };
    let events = decode_events("commit", &data.slice(events_at..))?;
    let mut commit = commit_from_v1(rest, events, data)?;
    if note {
        let (None, [record]) = (&commit.system, &commit.events[..]) else {
            return Err(corrupt("commit", "a note is not the commit's only event"));
        };
        commit.system = Some(SystemOp::Note { record: record.clone() });
    }
    commit.check().map_err(|detail| corrupt("commit", detail))?;
    Ok(Decoded { commit, events_at })
}

fn commit_from_v1(rest: RestV1<'_>, events: Vec<Record>, data: &Bytes) -> Result<Commit, StorageError> {
    let key = entity(rest.entity)?;
    let id = CommitId { term: rest.term, counter: rest.counter };
    let origin = match &rest.origin {
        Some(o) => Some(Origin {
            principal: o.principal.to_owned(),
            workstation: o.workstation.to_owned(),
            request: o.request.as_ref().map(|r| request_owned(r, Some(o.principal))).transpose()?,
        }),
        None => None,
    };
    let sent = rest
        .sent
        .iter()
        .map(|m| {
            Ok(Message {
                key: MessageKey {
                    target: entity(m.target)?,
                    source: key.clone(),
                    commit: id,
                    place: m.place,
                },
                hops: m.hops,
                answers: m.answers.as_ref().map(MessageKeyV1::owned).transpose()?,
                record: m.record.owned(data),
            })
        })
        .collect::<Result<_, StorageError>>()?;
    let consumed = rest
        .consumed
        .iter()
        .map(|c| {
            Ok(MessageKey {
                target: key.clone(),
                source: entity(c.source)?,
                commit: c.commit.into(),
                place: c.place,
            })
        })
        .collect::<Result<_, StorageError>>()?;
    let timer = |due_ms: i64, name: &str, generation: CommitId| TimerKey {
        due_ms,
        entity: key.clone(),
        name: name.to_owned(),
        generation,
    };
    let timers = rest
        .timers
        .iter()
        .map(|change| match change {
            TimerV1::Set { due_ms, name } => TimerChange::Set(timer(*due_ms, name, id)),
            TimerV1::Clear { due_ms, name, generation } => {
                TimerChange::Clear(timer(*due_ms, name, (*generation).into()))
            }
            TimerV1::Fire { due_ms, name, generation } => {
                TimerChange::Fire(timer(*due_ms, name, (*generation).into()))
            }
        })
        .collect();
    let replies = rest
        .replies
        .iter()
        .map(|r| {
            let request = match &r.request {
                Some(request) => request_owned(request, origin.as_ref().map(|o| o.principal.as_str()))?,
                None => origin
                    .as_ref()
                    .and_then(|o| o.request.clone())
                    .ok_or_else(|| corrupt("commit", "a reply without request"))?,
            };
            Ok(RememberedReply { request, reply: r.reply.owned(data) })
        })
        .collect::<Result<_, StorageError>>()?;
    Ok(Commit {
        term: rest.term,
        id,
        base: rest.base.into(),
        time_ms: rest.time_ms,
        events,
        root: rest.root.as_ref().map(|v| v.owned(data)),
        parts: rest
            .parts
            .iter()
            .map(|p| PartChange { part: data.slice_ref(p.0), value: p.1.as_ref().map(|v| v.owned(data)) })
            .collect(),
        rows: rest
            .rows
            .iter()
            .map(|r| RowChange {
                table: r.table,
                key: data.slice_ref(r.key),
                value: r.value.as_ref().map(|v| v.as_ref().map(|v| v.owned(data))),
            })
            .collect(),
        sent,
        consumed,
        timers,
        replies,
        system: rest.system.map(system_owned).transpose()?,
        entity: key,
        origin,
    })
}
