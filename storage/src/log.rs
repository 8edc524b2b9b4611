//! Raft's log of this node over an [`crate::engine::Engine`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A commit, or empty for a new leader's first entry.
    Normal,
    /// A configuration change (raft's ConfChangeV2 bytes).
    Configuration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    pub index: u64,
    pub term: u64,
    pub kind: EntryKind,
    pub data: Bytes,
}

use crate::{engine::Engine, error::StorageError};
use std::sync::Arc;

/// Raft's durable vote and commit index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HardState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

/// The log with its cache of recent entries. Clones share it: the raft thread appends, the apply thread and
/// senders read. Only the raft thread calls `persist`.
#[derive(Clone)]
pub struct LogStore {
    _engine: Arc<dyn Engine>,
}

impl LogStore {
    /// Opens the log; checks that its indexes are contiguous.
    pub fn open(engine: Arc<dyn Engine>) -> Result<Self, StorageError> {
        let _ = engine;
        todo!()
    }
    /// First index kept, last index, (0-based start: an empty log has first 1, last 0).
    pub fn first_index(&self) -> u64 {
        todo!()
    }
    pub fn last_index(&self) -> u64 {
        todo!()
    }
    /// Index and term just before `first_index`.
    pub fn truncated(&self) -> (u64, u64) {
        todo!()
    }
    /// Term of an entry in `[truncated index, last]`, else `None`.
    pub fn term(&self, index: u64) -> Result<Option<u64>, StorageError> {
        let _ = index;
        todo!()
    }
    /// Entries in `[from, to)`, at least one if any, then until `bytes_max`.
    pub fn entries(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, StorageError> {
        let _ = (from, to, bytes_max);
        todo!()
    }
    pub fn hard_state(&self) -> Result<HardState, StorageError> {
        todo!()
    }
    /// Cuts a conflicting tail if `entries` begins at or before `last_index`, appends, writes the hard state:
    /// one batch, synced when `sync`. On return (with sync) everything is on stable storage.
    pub fn persist(&self, entries: Vec<LogEntry>, hard_state: Option<HardState>, sync: bool) -> Result<(), StorageError> {
        let _ = (entries, hard_state, sync);
        todo!()
    }
}
