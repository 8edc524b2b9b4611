//! The applied state of this node: the apply step's owner and its readers.
//!
//! `StateStore` belongs to the apply thread alone. `StateReader` is for everybody else, cheap to clone.
//! Invariant: applied index, term, chain hash, replicated time and configuration state are written in the same
//! batch as the changes they describe.

use crate::{
    commit::{CommitId, EntityKey, Message, Outcome, Record, RequestKey, TimerKey},
    engine::{Engine, Read},
    error::StorageError,
    log::LogEntry,
};
use bytes::Bytes;
use std::sync::Arc;

/// Where apply stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedMark {
    pub index: u64,
    pub term: u64,
    /// hᵢ of the hash chain (rule 15).
    pub chain: [u8; 32],
    /// Replicated time, milliseconds since the Unix epoch (rule 7).
    pub time_ms: i64,
    /// Encoded raft configuration state, opaque here.
    pub conf_state: Bytes,
    /// Raft's commit index known when the batch was written.
    pub commit: u64,
}

/// An entity as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntity {
    pub key: EntityKey,
    /// Its last commit.
    pub head: CommitId,
    /// Log index of its last commit.
    pub head_index: u64,
    pub root: Record,
    /// Part name → record, in order of names.
    pub parts: Vec<(Bytes, Record)>,
}

/// A journal row: one applied log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    pub index: u64,
    pub term: u64,
    pub outcome_code: u8,
    pub time_ms: i64,
    pub entity: Option<EntityKey>,
    pub commit: CommitId,
    pub principal: String,
    pub workstation: String,
    pub events: Vec<Record>,
    /// H(rest) of the chain.
    pub rest: [u8; 32],
    pub chain: [u8; 32],
}

/// What one slice of applied entries did, for those who wait and those who watch.
#[derive(Debug, Clone, Default)]
pub struct AppliedSlice {
    pub first: u64,
    pub last: u64,
    pub time_ms: i64,
    /// One per entry, in order.
    pub entries: Vec<AppliedEntry>,
    /// Markers met: digest all rows as of this index (rule 15). Apply ends its batch there.
    pub marker: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct AppliedEntry {
    pub index: u64,
    pub term: u64,
    pub outcome: Outcome,
    pub entity: Option<EntityKey>,
    /// Messages this entry put into the outbox, for the leader's courier.
    pub sent: Vec<Message>,
    /// Timers this entry set, for the leader's scanner.
    pub timers: Vec<TimerKey>,
    /// True when the entity's state moved (there were events).
    pub moved: bool,
}

/// Owner of the applied state; lives on the apply thread.
pub struct StateStore {
    _engine: Arc<dyn Engine>,
}

impl StateStore {
    /// Opens the state and rebuilds caches (entity heads lazily, request ids of the last 10 minutes eagerly).
    /// `genesis` is h₀ = H(cluster id ‖ initial member list) and the initial configuration state; used when
    /// nothing was ever applied.
    pub fn open(engine: Arc<dyn Engine>, genesis: Genesis) -> Result<Self, StorageError> {
        let _ = (engine, genesis);
        todo!()
    }
    pub fn mark(&self) -> &AppliedMark {
        todo!()
    }
    /// Applies contiguous entries following `mark().index` as one unsynced batch (the caller bounds the slice).
    /// Stops early after an entry carrying `SystemOp::Marker` and after a configuration entry, so the
    /// returned `last` may be smaller than the last entry given: call again with the rest.
    /// `commit` is raft's commit index known to the caller (≥ the last entry's index).
    pub fn apply(&mut self, entries: &[LogEntry], commit: u64) -> Result<AppliedSlice, StorageError> {
        let _ = (entries, commit);
        todo!()
    }
    /// Records the configuration state that raft computed for the configuration entry just applied.
    pub fn set_conf_state(&mut self, conf_state: Bytes) -> Result<(), StorageError> {
        let _ = conf_state;
        todo!()
    }
    pub fn reader(&self) -> StateReader {
        todo!()
    }
}

/// What the applied state starts from.
#[derive(Debug, Clone)]
pub struct Genesis {
    pub chain: [u8; 32],
    pub conf_state: Bytes,
}

/// Reads the applied state; cheap to clone, callable from any thread. Multi-row reads go through a view.
#[derive(Clone)]
pub struct StateReader {
    _engine: Arc<dyn Engine>,
}

/// A consistent point-in-time view.
pub struct StateView {
    _read: Arc<dyn Read>,
}

/// A remembered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RememberedRequest {
    pub hash: [u8; 32],
    pub reply: Record,
    pub index: u64,
}

impl StateReader {
    pub fn view(&self) -> StateView {
        todo!()
    }
    /// Lock-free copy of the latest mark's index and time, updated after each apply.
    pub fn applied(&self) -> (u64, i64) {
        todo!()
    }
    /// Through the shared request cache; falls back to one read.
    pub fn request(&self, key: &RequestKey) -> Result<Option<RememberedRequest>, StorageError> {
        let _ = key;
        todo!()
    }
}

impl StateView {
    pub fn mark(&self) -> Result<AppliedMark, StorageError> {
        todo!()
    }
    pub fn entity(&self, key: &EntityKey) -> Result<Option<StoredEntity>, StorageError> {
        let _ = key;
        todo!()
    }
    pub fn part(&self, key: &EntityKey, part: &[u8]) -> Result<Option<Record>, StorageError> {
        let _ = (key, part);
        todo!()
    }
    /// Reason of an entity's quarantine.
    pub fn quarantined(&self, key: &EntityKey) -> Result<Option<String>, StorageError> {
        let _ = key;
        todo!()
    }
    pub fn quarantines(&self, limit: usize) -> Result<Vec<(EntityKey, String)>, StorageError> {
        let _ = limit;
        todo!()
    }
    /// Rows of a table whose row key is in `[from, to)`, with their entity, in order; `after` resumes behind a
    /// row returned before (key and entity).
    pub fn rows(
        &self,
        table: u16,
        from: &[u8],
        to: &[u8],
        after: Option<(&[u8], &EntityKey)>,
        limit: usize,
    ) -> Result<Vec<(Bytes, EntityKey)>, StorageError> {
        let _ = (table, from, to, after, limit);
        todo!()
    }
    /// Journal rows of one entity with index > `after`, oldest first.
    pub fn history(&self, key: &EntityKey, after: u64, limit: usize) -> Result<Vec<JournalEntry>, StorageError> {
        let _ = (key, after, limit);
        todo!()
    }
    /// Journal rows by global position (log index) > `after`.
    pub fn journal(&self, after: u64, limit: usize) -> Result<Vec<JournalEntry>, StorageError> {
        let _ = (after, limit);
        todo!()
    }
    /// Outbox messages with key > `after`, in key order (target, source, commit, place).
    pub fn outbox(&self, after: Option<&crate::commit::MessageKey>, limit: usize) -> Result<Vec<Message>, StorageError> {
        let _ = (after, limit);
        todo!()
    }
    pub fn message(&self, key: &crate::commit::MessageKey) -> Result<Option<Message>, StorageError> {
        let _ = key;
        todo!()
    }
    /// Timers with key > `after` and due at or before `until_ms`, in order of due time.
    pub fn timers(&self, after: Option<&TimerKey>, until_ms: i64, limit: usize) -> Result<Vec<TimerKey>, StorageError> {
        let _ = (after, until_ms, limit);
        todo!()
    }
    /// Digest of every row outside the log and node-local meta, in key order per column family (rule 15).
    /// Reads everything: run it off the hot threads.
    pub fn digest(&self) -> Result<[u8; 32], StorageError> {
        todo!()
    }
    /// The founding commit's facts, once applied.
    pub fn founding(&self) -> Result<Option<(uuid::Uuid, Vec<crate::commit::MemberRecord>)>, StorageError> {
        todo!()
    }
}
