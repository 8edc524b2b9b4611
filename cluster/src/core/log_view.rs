//! The log as raft-rs wants to see it.
//!
//! Entries that raft asks for to hand them to apply, or to look for configuration changes among them, come
//! without their data: apply reads the log itself (rule 11), so raft need not copy a megabyte to say "up to here".

use super::snapshots::Copies;
use okno_storage::{
    error::StorageError as StoreError,
    log::{EntryKind, HardState, LogEntry, LogStore},
};
use raft::{
    Error, GetEntriesContext, RaftState, Result, Storage, StorageError,
    eraftpb::{ConfState, Entry, EntryType, HardState as RaftHardState, Snapshot},
};
use std::sync::{Arc, OnceLock};

/// Entries read at once when raft wants all of a range: bounds the memory of a start far behind.
const CHUNK_BYTES: usize = 8 << 20;

/// Why raft could not read the log. Raft-rs panics on any such error; what stands here says whether the process ends
/// (i/o) or the node quarantines (damaged data).
pub type Unreadable = Arc<OnceLock<StoreError>>;

pub struct LogView {
    log: LogStore,
    initial: RaftState,
    copies: Copies,
    unreadable: Unreadable,
}

impl LogView {
    /// `hard_state` is the larger of what `identity` and the database say.
    pub(super) fn new(
        log: LogStore,
        hard_state: HardState,
        conf_state: ConfState,
        copies: Copies,
        unreadable: Unreadable,
    ) -> Self {
        let hard_state =
            RaftHardState { term: hard_state.term, vote: hard_state.vote, commit: hard_state.commit };
        Self { log, initial: RaftState { hard_state, conf_state }, copies, unreadable }
    }

    fn unreadable(&self, error: StoreError) -> Error {
        let text = error.to_string();
        // The first error is the cause.
        let _ = self.unreadable.set(error);
        Error::Store(StorageError::Other(text.into()))
    }
}

pub fn entry_type(kind: EntryKind) -> EntryType {
    match kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::Configuration => EntryType::EntryConfChangeV2,
    }
}

/// The stored form of what raft appends.
pub fn to_log(entry: Entry) -> LogEntry {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => EntryKind::Normal,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::Configuration,
    };
    LogEntry { index: entry.index, term: entry.term, kind, data: entry.data.into() }
}

fn to_raft(entry: &LogEntry, with_data: bool) -> Entry {
    let mut out = Entry { index: entry.index, term: entry.term, ..Entry::default() };
    out.set_entry_type(entry_type(entry.kind));
    if with_data || entry.kind == EntryKind::Configuration {
        out.data = entry.data.to_vec();
    }
    out
}

impl Storage for LogView {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        // Only reading for a follower may be asynchronous; everything else looks at numbers and kinds.
        let with_data = context.can_async();
        if low < self.log.first_index() {
            return Err(Error::Store(StorageError::Compacted));
        }
        match max_size.into() {
            Some(bytes) => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                let entries = self.log.entries(low, high, bytes).map_err(|e| self.unreadable(e))?;
                Ok(entries.iter().map(|e| to_raft(e, with_data)).collect())
            }
            None => {
                let mut all = Vec::new();
                let mut next = low;
                while next < high {
                    let entries =
                        self.log.entries(next, high, CHUNK_BYTES).map_err(|e| self.unreadable(e))?;
                    if entries.is_empty() {
                        return Err(Error::Store(StorageError::Unavailable));
                    }
                    next += entries.len() as u64;
                    all.extend(entries.iter().map(|e| to_raft(e, with_data)));
                }
                Ok(all)
            }
        }
    }

    fn term(&self, index: u64) -> Result<u64> {
        match self.log.term(index).map_err(|e| self.unreadable(e))? {
            Some(term) => Ok(term),
            None if index < self.log.first_index() => Err(Error::Store(StorageError::Compacted)),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.log.first_index())
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.log.last_index())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        self.copies.snapshot(self.log.first_index(), request_index, to)
    }
}
