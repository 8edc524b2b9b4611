//! Every key that stands in a column family, in one place (design §4).
//!
//! | family | key |
//! |---|---|
//! | log | `index` |
//! | entity | `entity 00 01` root · `entity 00 02 part` |
//! | row | `table ‖ key ‖ entity ‖ length of entity` · `FF FF ‖ entity 00 index` the journal's index by entity |
//! | journal | `index` |
//! | outbox | `target 00 source 00 term counter place` |
//! | timer | `due ‖ entity 00 name 00 term counter` |
//! | request | `id ‖ principal` |
//! | meta | `'r' …` replicated, in the digest · `'n' …` this node's own, not in it |
//!
//! Integers are big-endian, so that byte order is their order; a due time has its sign bit flipped for the same
//! reason. Entity keys and timer names hold no NUL, which therefore separates.

use crate::{
    codec::corrupt,
    commit::{CommitId, EntityKey, MessageKey, RequestKey, TimerKey},
    error::StorageError,
};
use bytes::Bytes;

const NUL: u8 = 0;
const ROOT: u8 = 1;
const PART: u8 = 2;
const REPLICATED: u8 = b'r';
const NODE: u8 = b'n';
const QUARANTINE: u8 = b'q';
const DEAD_LETTER: u8 = b'd';

/// Applied index, term, chain and replicated time.
pub const MARK: &[u8] = b"rm";
/// The founding commit's facts.
pub const FOUNDING: &[u8] = b"rf";
/// The replicated feature level.
pub const LEVEL: &[u8] = b"rl";
/// The table of members, once they changed.
pub const MEMBERS: &[u8] = b"rc";
/// Configuration state and commit index as of the last apply batch.
pub const NODE_MARK: &[u8] = b"nm";
/// Raft's hard state.
pub const HARD_STATE: &[u8] = b"nh";
/// Index and term just before the log's first entry.
pub const TRUNCATED: &[u8] = b"nt";
/// `[from, to)` of everything replicated in `meta`.
pub const META_REPLICATED: (&[u8], &[u8]) = (&[REPLICATED], &[REPLICATED + 1]);
/// `[from, to)` of what is this node's own in `meta`; removed from copies sent to others.
pub const META_NODE: (&[u8], &[u8]) = (&[NODE], &[NODE + 1]);
/// Above every key of the families whose keys begin with a letter, an id or a big-endian count below 2⁶³.
pub const END: &[u8] = &[0xFF; 64];

/// The first key behind `key`.
pub fn behind(mut key: Vec<u8>) -> Vec<u8> {
    key.push(NUL);
    key
}

pub fn log(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

pub fn log_index(key: &[u8]) -> Result<u64, StorageError> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| corrupt("log key", hex::encode(key)))
}

fn entity_with(key: &EntityKey, what: u8, rest: &[u8]) -> Vec<u8> {
    let name = key.as_str().as_bytes();
    let mut out = Vec::with_capacity(name.len() + 2 + rest.len());
    out.extend_from_slice(name);
    out.push(NUL);
    out.push(what);
    out.extend_from_slice(rest);
    out
}

pub fn root(key: &EntityKey) -> Vec<u8> {
    entity_with(key, ROOT, &[])
}

pub fn part(key: &EntityKey, part: &[u8]) -> Vec<u8> {
    entity_with(key, PART, part)
}

/// `[from, to)` of an entity's root and parts.
pub fn entity_range(key: &EntityKey) -> (Vec<u8>, Vec<u8>) {
    (entity_with(key, ROOT, &[]), entity_with(key, PART + 1, &[]))
}

/// `[from, to)` of all entities of a kind. Ids are text, so no key of one is behind `<kind>/` and the highest byte.
pub fn kind_range(kind: &str) -> (Vec<u8>, Vec<u8>) {
    let from = format!("{kind}/").into_bytes();
    let mut to = from.clone();
    to.push(u8::MAX);
    (from, to)
}

/// The part's name in a key of `entity`'s range, or `None` for the root.
pub fn part_name<'a>(entity: &EntityKey, key: &'a [u8]) -> Result<Option<&'a [u8]>, StorageError> {
    let rest = key.get(entity.as_str().len()..).unwrap_or_default();
    match rest {
        [NUL, ROOT] => Ok(None),
        [NUL, PART, name @ ..] => Ok(Some(name)),
        _ => Err(corrupt("entity key", hex::encode(key))),
    }
}

/// The entity of a key of the family `entity`, and whether it is the root's.
pub fn entity_of(stored: &[u8]) -> Result<(EntityKey, bool), StorageError> {
    let (name, rest) = until_nul(stored).ok_or_else(|| corrupt("entity key", hex::encode(stored)))?;
    Ok((parse_entity("entity key", name)?, rest == [ROOT]))
}

pub fn table_key(table: u16, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + key.len());
    out.extend_from_slice(&table.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// The first key behind a table.
pub fn table_end(table: u16) -> Vec<u8> {
    match table.checked_add(1) {
        Some(next) => next.to_be_bytes().to_vec(),
        None => END.to_vec(),
    }
}

pub fn row(table: u16, key: &[u8], entity: &EntityKey) -> Vec<u8> {
    let name = entity.as_str().as_bytes();
    let mut out = Vec::with_capacity(2 + key.len() + name.len() + 1);
    out.extend_from_slice(&table.to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(name);
    out.push(u8::try_from(name.len()).expect("an entity key has at most 96 bytes"));
    out
}

/// The row key and the entity of a stored row.
pub fn row_parts(stored: &[u8]) -> Result<(&[u8], EntityKey), StorageError> {
    let bad = || corrupt("row key", hex::encode(stored));
    let (&length, rest) = stored.split_last().ok_or_else(bad)?;
    let at = rest.len().checked_sub(usize::from(length)).filter(|at| *at >= 2).ok_or_else(bad)?;
    let entity = parse_entity("row key", &rest[at..])?;
    Ok((&rest[2..at], entity))
}

/// The table of the journal's index by entity. It lies in `row`, because `journal` written in ascending order
/// only is compacted by moving whole tables instead of rewriting them; no commit may write it (ADR 0008).
pub const TABLE_RESERVED: u16 = u16::MAX;

pub fn journal(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

pub fn journal_of_entity(entity: &EntityKey, index: u64) -> Vec<u8> {
    let name = entity.as_str().as_bytes();
    let mut out = Vec::with_capacity(name.len() + 11);
    out.extend_from_slice(&TABLE_RESERVED.to_be_bytes());
    out.extend_from_slice(name);
    out.push(NUL);
    out.extend_from_slice(&index.to_be_bytes());
    out
}

/// The index at the end of a journal key or of a key of its index.
pub fn journal_index(key: &[u8]) -> Result<u64, StorageError> {
    let tail = key.len().checked_sub(8).map(|at| &key[at..]).unwrap_or_default();
    tail.try_into().map(u64::from_be_bytes).map_err(|_| corrupt("journal key", hex::encode(key)))
}

fn push_id(out: &mut Vec<u8>, id: CommitId) {
    out.extend_from_slice(&id.term.to_be_bytes());
    out.extend_from_slice(&id.counter.to_be_bytes());
}

fn take_id(bytes: &[u8]) -> Option<CommitId> {
    let term = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
    let counter = u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?);
    Some(CommitId { term, counter })
}

fn parse_entity(what: &'static str, bytes: &[u8]) -> Result<EntityKey, StorageError> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| EntityKey::parse(text).ok())
        .ok_or_else(|| corrupt(what, hex::encode(bytes)))
}

/// Splits at the first NUL.
fn until_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|b| *b == NUL)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

pub fn message(key: &MessageKey) -> Vec<u8> {
    let (target, source) = (key.target.as_str().as_bytes(), key.source.as_str().as_bytes());
    let mut out = Vec::with_capacity(target.len() + source.len() + 20);
    out.extend_from_slice(target);
    out.push(NUL);
    out.extend_from_slice(source);
    out.push(NUL);
    push_id(&mut out, key.commit);
    out.extend_from_slice(&key.place.to_be_bytes());
    out
}

pub fn parse_message(key: &[u8]) -> Result<MessageKey, StorageError> {
    let bad = || corrupt("outbox key", hex::encode(key));
    let (target, rest) = until_nul(key).ok_or_else(bad)?;
    let (source, rest) = until_nul(rest).ok_or_else(bad)?;
    if rest.len() != 18 {
        return Err(bad());
    }
    Ok(MessageKey {
        target: parse_entity("outbox key", target)?,
        source: parse_entity("outbox key", source)?,
        commit: take_id(rest).ok_or_else(bad)?,
        place: u16::from_be_bytes([rest[16], rest[17]]),
    })
}

/// `[from, to)` of the messages for one target.
pub fn outbox_of(target: &EntityKey) -> (Vec<u8>, Vec<u8>) {
    let name = target.as_str().as_bytes();
    ([name, &[NUL]].concat(), [name, &[NUL + 1]].concat())
}

fn order_preserving(ms: i64) -> [u8; 8] {
    (ms as u64 ^ (1 << 63)).to_be_bytes()
}

pub fn timer(key: &TimerKey) -> Vec<u8> {
    let entity = key.entity.as_str().as_bytes();
    let mut out = Vec::with_capacity(8 + entity.len() + key.name.len() + 18);
    out.extend_from_slice(&order_preserving(key.due_ms));
    out.extend_from_slice(entity);
    out.push(NUL);
    out.extend_from_slice(key.name.as_bytes());
    out.push(NUL);
    push_id(&mut out, key.generation);
    out
}

/// The first key of timers due after `ms`.
pub fn timer_after(ms: i64) -> Vec<u8> {
    match ms.checked_add(1) {
        Some(next) => order_preserving(next).to_vec(),
        None => END.to_vec(),
    }
}

pub fn parse_timer(key: &[u8]) -> Result<TimerKey, StorageError> {
    let bad = || corrupt("timer key", hex::encode(key));
    let due = key.get(..8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes).ok_or_else(bad)?;
    let (entity, rest) = until_nul(&key[8..]).ok_or_else(bad)?;
    let (name, rest) = until_nul(rest).ok_or_else(bad)?;
    if rest.len() != 16 {
        return Err(bad());
    }
    Ok(TimerKey {
        due_ms: (due ^ (1 << 63)) as i64,
        entity: parse_entity("timer key", entity)?,
        name: String::from_utf8(name.to_vec()).map_err(|_| bad())?,
        generation: take_id(rest).ok_or_else(bad)?,
    })
}

pub fn request(key: &RequestKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + key.principal.len());
    out.extend_from_slice(key.id.as_bytes());
    out.extend_from_slice(key.principal.as_bytes());
    out
}

/// The first request key whose id (UUIDv7) was made at or after `ms`: ids begin with 48 bits of milliseconds.
pub fn request_from(ms: i64) -> Vec<u8> {
    let ms = u64::try_from(ms).unwrap_or(0).min((1 << 48) - 1);
    ms.to_be_bytes()[2..].to_vec()
}

/// When a request's id was made, read from its stored key.
pub fn request_time(key: &[u8]) -> i64 {
    key.iter().take(6).fold(0, |ms, byte| ms << 8 | i64::from(*byte))
}

pub fn quarantine(entity: &EntityKey) -> Vec<u8> {
    [&[REPLICATED, QUARANTINE], entity.as_str().as_bytes()].concat()
}

/// `[from, to)` of quarantine rows.
pub const QUARANTINES: (&[u8], &[u8]) = (&[REPLICATED, QUARANTINE], &[REPLICATED, QUARANTINE + 1]);

pub fn parse_quarantine(key: &[u8]) -> Result<EntityKey, StorageError> {
    parse_entity("quarantine key", key.get(2..).unwrap_or_default())
}

pub fn dead_letter(key: &MessageKey) -> Vec<u8> {
    [&[REPLICATED, DEAD_LETTER][..], &message(key)].concat()
}

/// `[from, to)` of dead letters.
pub const DEAD_LETTERS: (&[u8], &[u8]) = (&[REPLICATED, DEAD_LETTER], &[REPLICATED, DEAD_LETTER + 1]);

pub fn parse_dead_letter(key: &[u8]) -> Result<MessageKey, StorageError> {
    parse_message(key.get(2..).unwrap_or_default())
}

/// A copy that shares nothing with an iterator's buffer.
pub fn owned(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(text: &str) -> EntityKey {
        EntityKey::parse(text).expect("well formed")
    }

    #[test]
    fn keys_give_their_parts_back() {
        let id = CommitId { term: 3, counter: 9 };
        let key = MessageKey { target: entity("queue/1"), source: entity("case/a.b"), commit: id, place: 7 };
        assert_eq!(parse_message(&message(&key)).expect("own key"), key);
        assert_eq!(parse_dead_letter(&dead_letter(&key)).expect("own key"), key);
        let timer_key =
            TimerKey { due_ms: -5, entity: entity("case/1"), name: "срок".into(), generation: id };
        assert_eq!(parse_timer(&timer(&timer_key)).expect("own key"), timer_key);
        let stored = row(4, b"key", &entity("case/1"));
        assert_eq!(row_parts(&stored).expect("own key"), (&b"key"[..], entity("case/1")));
        assert_eq!(
            part_name(&entity("case/1"), &part(&entity("case/1"), b"p")).expect("own key"),
            Some(&b"p"[..])
        );
        assert_eq!(part_name(&entity("case/1"), &root(&entity("case/1"))).expect("own key"), None);
    }

    #[test]
    fn byte_order_is_the_order_of_times() {
        let at = |due_ms| {
            timer(&TimerKey {
                due_ms,
                entity: entity("case/1"),
                name: "n".into(),
                generation: CommitId::NONE,
            })
        };
        let keys: Vec<_> = [i64::MIN, -1, 0, 1, 1 << 40, i64::MAX - 1].map(at).to_vec();
        assert!(keys.is_sorted());
        assert!(at(41) < timer_after(41) && timer_after(41) < at(42));
        assert!(at(i64::MAX) < timer_after(i64::MAX));
    }

    #[test]
    fn an_entitys_range_holds_no_neighbour() {
        let (from, to) = entity_range(&entity("case/1"));
        let inside = |key: &Vec<u8>| *key >= from && *key < to;
        assert!(inside(&root(&entity("case/1"))) && inside(&part(&entity("case/1"), &[0xFF; 8])));
        for other in ["case/10", "case/1.1", "case/0", "case/2"] {
            assert!(!inside(&root(&entity(other))) && !inside(&part(&entity(other), b"x")));
        }
    }

    #[test]
    fn request_keys_sort_by_the_time_in_their_id() {
        let key = RequestKey {
            id: uuid::Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0000),
            principal: "w".into(),
        };
        let stored = request(&key);
        assert_eq!(request_time(&stored), 0x0192_0000_0000);
        assert!(stored >= request_from(0x0192_0000_0000) && stored < request_from(0x0192_0000_0001));
    }
}
