//! Stored rows: the frozen forms of what apply writes and readers read (rule 9; keys are in `keys`).
//!
//! Like everything in `schema`, a struct here never changes once released.

use crate::{
    codec::{self, corrupt, kind},
    commit::{Commit, CommitId, EntityKey, MemberRecord, Message, MessageKey, Record, RecordTag},
    error::StorageError,
    schema,
    state::{JournalEntry, RememberedRequest},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::Bytes as Raw;
use uuid::Uuid;

const VERSION: u16 = 1;

fn frame_own<T: Serialize>(kind: u16, value: &T) -> Result<Vec<u8>, StorageError> {
    codec::frame_own(kind, VERSION, value)
}

fn payload<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
    kind: u16,
) -> Result<T, StorageError> {
    let (_version, payload) = codec::unframe_own(what, bytes, kind, VERSION)?;
    codec::decode(what, payload)
}

/// An entity's last commit and where it stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Head {
    pub id: CommitId,
    pub index: u64,
}

/// Root row: head's term, counter, index (8 bytes each), the record's type and version (2 each), its body. Fixed
/// places instead of bincode, because every commit writes one and every activation reads one.
const ROOT_PREFIX: usize = 28;

pub(crate) fn root(head: Head, tag: RecordTag, body: &[u8]) -> Vec<u8> {
    let mut out = codec::open_frame(ROOT_PREFIX + body.len());
    for number in [head.id.term, head.id.counter, head.index] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(&tag.kind.to_be_bytes());
    out.extend_from_slice(&tag.version.to_be_bytes());
    out.extend_from_slice(body);
    codec::seal(&mut out, RecordTag { kind: kind::ROOT, version: VERSION });
    out
}

pub(crate) fn parse_root(bytes: &Bytes) -> Result<(Head, Record), StorageError> {
    let (_version, payload) = codec::unframe_own("entity root", bytes, kind::ROOT, VERSION)?;
    let (prefix, body) = payload
        .split_first_chunk::<ROOT_PREFIX>()
        .ok_or_else(|| corrupt("entity root", "shorter than its fixed part"))?;
    let number = |at: usize| prefix[at..at + 8].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let short = |at: usize| u16::from_be_bytes([prefix[at], prefix[at + 1]]);
    let head = Head { id: CommitId { term: number(0), counter: number(8) }, index: number(16) };
    let tag = RecordTag { kind: short(24), version: short(26) };
    Ok((head, Record { tag, body: bytes.slice_ref(body) }))
}

/// The journal row but for its events, which stand behind it as they stood in the commit.
#[derive(Serialize, Deserialize)]
struct JournalV1<'a> {
    term: u64,
    outcome: u8,
    time_ms: i64,
    /// Empty for an entry that is no commit.
    entity: &'a str,
    commit: (u64, u64),
    principal: &'a str,
    workstation: &'a str,
    rest: [u8; 32],
    chain: [u8; 32],
    /// H(events), kept when the events themselves are not (a slim row).
    events: Option<[u8; 32]>,
}

/// What the journal says about one log entry.
pub(crate) struct JournalFacts<'a> {
    pub term: u64,
    pub outcome_code: u8,
    pub time_ms: i64,
    pub commit: Option<&'a Commit>,
    pub rest: [u8; 32],
    pub chain: [u8; 32],
    pub events: [u8; 32],
    /// The events section of an applied commit; empty for a slim row.
    pub section: &'a [u8],
}

/// Journal row: length of the facts (4), facts, events section.
pub(crate) fn journal(facts: &JournalFacts<'_>) -> Result<Vec<u8>, StorageError> {
    let origin = facts.commit.and_then(|c| c.origin.as_ref());
    let v1 = JournalV1 {
        term: facts.term,
        outcome: facts.outcome_code,
        time_ms: facts.time_ms,
        entity: facts.commit.map_or("", |c| c.entity.as_str()),
        commit: facts.commit.map_or((0, 0), |c| (c.id.term, c.id.counter)),
        principal: origin.map_or("", |o| &o.principal),
        workstation: origin.map_or("", |o| &o.workstation),
        rest: facts.rest,
        chain: facts.chain,
        events: facts.section.is_empty().then_some(facts.events),
    };
    let mut out = codec::open_frame(224 + facts.section.len());
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    codec::encode_into(&mut out, &v1)?;
    let length = u32::try_from(out.len() - length_at - 4).unwrap_or(u32::MAX);
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    out.extend_from_slice(facts.section);
    codec::seal(&mut out, RecordTag { kind: kind::JOURNAL, version: VERSION });
    Ok(out)
}

pub(crate) fn parse_journal(index: u64, bytes: &Bytes) -> Result<JournalEntry, StorageError> {
    const WHAT: &str = "journal row";
    let (_version, payload) = codec::unframe_own(WHAT, bytes, kind::JOURNAL, VERSION)?;
    let (length, rest) = payload.split_first_chunk::<4>().ok_or_else(|| corrupt(WHAT, "no length"))?;
    let (facts, section) = rest
        .split_at_checked(u32::from_be_bytes(*length) as usize)
        .ok_or_else(|| corrupt(WHAT, "facts are longer than the row"))?;
    let v1: JournalV1<'_> = codec::decode(WHAT, facts)?;
    let (events, events_hash) = match v1.events {
        Some(hash) => (Vec::new(), hash),
        None => (schema::decode_events(WHAT, &bytes.slice_ref(section))?, crate::apply::hash(section)),
    };
    let entity = match v1.entity {
        "" => None,
        text => Some(EntityKey::parse(text).map_err(|e| corrupt(WHAT, e.to_string()))?),
    };
    Ok(JournalEntry {
        index,
        term: v1.term,
        outcome_code: v1.outcome,
        time_ms: v1.time_ms,
        entity,
        commit: CommitId { term: v1.commit.0, counter: v1.commit.1 },
        principal: v1.principal.to_owned(),
        workstation: v1.workstation.to_owned(),
        events,
        rest: v1.rest,
        events_hash,
        chain: v1.chain,
    })
}

#[derive(Serialize, Deserialize)]
struct MessageRowV1<'a> {
    hops: u16,
    /// Target, source, term, counter, place.
    answers: Option<(&'a str, &'a str, u64, u64, u16)>,
    kind: u16,
    version: u16,
    #[serde(borrow)]
    body: &'a Raw,
}

pub(crate) fn message(message: &Message) -> Result<Vec<u8>, StorageError> {
    frame_own(
        kind::MESSAGE,
        &MessageRowV1 {
            hops: message.hops,
            answers: message
                .answers
                .as_ref()
                .map(|k| (k.target.as_str(), k.source.as_str(), k.commit.term, k.commit.counter, k.place)),
            kind: message.record.tag.kind,
            version: message.record.tag.version,
            body: Raw::new(&message.record.body),
        },
    )
}

pub(crate) fn parse_message(key: MessageKey, bytes: &Bytes) -> Result<Message, StorageError> {
    let v1: MessageRowV1<'_> = payload("message", bytes, kind::MESSAGE)?;
    let entity = |text: &str| EntityKey::parse(text).map_err(|e| corrupt("message", e.to_string()));
    let answers = match v1.answers {
        Some((target, source, term, counter, place)) => Some(MessageKey {
            target: entity(target)?,
            source: entity(source)?,
            commit: CommitId { term, counter },
            place,
        }),
        None => None,
    };
    let record =
        Record { tag: RecordTag { kind: v1.kind, version: v1.version }, body: bytes.slice_ref(v1.body) };
    Ok(Message { key, hops: v1.hops, answers, record })
}

/// Why a message was buried, when, and its outbox row as it was.
#[derive(Serialize, Deserialize)]
struct DeadLetterV1<'a> {
    reason: &'a str,
    time_ms: i64,
    #[serde(borrow)]
    message: &'a Raw,
}

pub(crate) fn dead_letter(reason: &str, time_ms: i64, row: &[u8]) -> Result<Vec<u8>, StorageError> {
    frame_own(kind::DEAD_LETTER, &DeadLetterV1 { reason, time_ms, message: Raw::new(row) })
}

pub(crate) fn parse_dead_letter(
    key: MessageKey,
    bytes: &Bytes,
) -> Result<(Message, String, i64), StorageError> {
    let v1: DeadLetterV1<'_> = payload("dead letter", bytes, kind::DEAD_LETTER)?;
    Ok((parse_message(key, &bytes.slice_ref(v1.message))?, v1.reason.to_owned(), v1.time_ms))
}

#[derive(Serialize, Deserialize)]
struct RequestRowV1<'a> {
    hash: [u8; 32],
    index: u64,
    kind: u16,
    version: u16,
    #[serde(borrow)]
    body: &'a Raw,
}

pub(crate) fn request(hash: &[u8; 32], index: u64, reply: &Record) -> Result<Vec<u8>, StorageError> {
    let body = Raw::new(&reply.body);
    frame_own(
        kind::REQUEST,
        &RequestRowV1 { hash: *hash, index, kind: reply.tag.kind, version: reply.tag.version, body },
    )
}

pub(crate) fn parse_request(bytes: &Bytes) -> Result<RememberedRequest, StorageError> {
    let v1: RequestRowV1<'_> = payload("remembered request", bytes, kind::REQUEST)?;
    let reply =
        Record { tag: RecordTag { kind: v1.kind, version: v1.version }, body: bytes.slice_ref(v1.body) };
    Ok(RememberedRequest { hash: v1.hash, reply, index: v1.index })
}

/// Index, term, chain, replicated time.
#[derive(Serialize, Deserialize)]
pub(crate) struct MarkV1(pub u64, pub u64, pub [u8; 32], pub i64);

pub(crate) fn mark(mark: &MarkV1) -> Result<Vec<u8>, StorageError> {
    frame_own(kind::MARK, mark)
}

pub(crate) fn parse_mark(bytes: &[u8]) -> Result<MarkV1, StorageError> {
    payload("applied mark", bytes, kind::MARK)
}

/// Commit index and configuration state as of the last batch.
#[derive(Serialize, Deserialize)]
pub(crate) struct NodeMarkV1<'a>(pub u64, #[serde(borrow)] pub &'a Raw);

pub(crate) fn node_mark(commit: u64, conf_state: &[u8]) -> Result<Vec<u8>, StorageError> {
    frame_own(kind::NODE_MARK, &NodeMarkV1(commit, Raw::new(conf_state)))
}

pub(crate) fn parse_node_mark(bytes: &Bytes) -> Result<(u64, Bytes), StorageError> {
    let NodeMarkV1(commit, conf_state) = payload("commit mark", bytes, kind::NODE_MARK)?;
    Ok((commit, bytes.slice_ref(conf_state)))
}

pub(crate) fn quarantine(reason: &str) -> Result<Vec<u8>, StorageError> {
    frame_own(kind::QUARANTINE, &reason)
}

pub(crate) fn parse_quarantine(bytes: &[u8]) -> Result<String, StorageError> {
    payload("quarantine", bytes, kind::QUARANTINE)
}

pub(crate) fn level(level: u32) -> Result<Vec<u8>, StorageError> {
    frame_own(kind::LEVEL, &level)
}

pub(crate) fn parse_level(bytes: &[u8]) -> Result<u32, StorageError> {
    payload("feature level", bytes, kind::LEVEL)
}

/// Cluster, then members as node id, incarnation, address.
#[derive(Serialize, Deserialize)]
struct FoundingV1<'a>([u8; 16], #[serde(borrow)] Vec<(u64, [u8; 16], &'a str)>);

pub(crate) fn founding(cluster: Uuid, members: &[MemberRecord]) -> Result<Vec<u8>, StorageError> {
    let members =
        members.iter().map(|m| (m.node_id, *m.incarnation.as_bytes(), m.peer_address.as_str())).collect();
    frame_own(kind::FOUNDING, &FoundingV1(*cluster.as_bytes(), members))
}

pub(crate) fn parse_founding(bytes: &[u8]) -> Result<(Uuid, Vec<MemberRecord>), StorageError> {
    let FoundingV1(cluster, members) = payload("founding", bytes, kind::FOUNDING)?;
    let members = members
        .into_iter()
        .map(|(node_id, incarnation, address)| MemberRecord {
            node_id,
            incarnation: Uuid::from_bytes(incarnation),
            peer_address: address.to_owned(),
        })
        .collect();
    Ok((Uuid::from_bytes(cluster), members))
}
