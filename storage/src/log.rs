//! Raft's log of this node over an [`crate::engine::Engine`].
//!
//! Indexes are contiguous from `first_index` to `last_index`. Recent entries are kept in memory, shared by the raft
//! thread, which appends, and by the apply thread and senders, which read: in the usual run nothing is read back
//! from the engine. The log's head is cut in steps: `truncated` moves in the batch that deletes, and in memory before
//! that, so that a reader who finds an entry gone finds out that it was cut.

use crate::{
    codec::{self, corrupt, kind},
    commit::{COMMIT_BYTES_MAX, RecordTag},
    engine::{Batch, Cf, Engine, Read, Sync},
    error::StorageError,
    keys,
    planted::{self, Mutant},
    rows,
};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, ops::ControlFlow, sync::Arc};

/// Bytes of recent entries kept in memory: some ten seconds of full load, far more than apply or a healthy
/// follower lags behind; what lags further is read from the engine.
pub const LOG_CACHE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Charged for an entry beside its data, so that empty entries count too.
const ENTRY_OVERHEAD: usize = 96;
/// Entries checked for contiguity, and taken into the cache, at start: everything a crash could have touched is in
/// the log's tail, and reading checks what is older.
const OPEN_CHECK_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of entries read at a time by [`LogStore::verify`].
const VERIFY_BYTES: usize = 4 * 1024 * 1024;
/// Entries cut at a time by [`LogStore::cut`]: a step costs a millisecond, whatever the log's length.
pub const CUT_ENTRIES_MAX: u64 = 16_384;
const VERSION: u16 = 1;

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

/// Raft's durable vote and commit index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HardState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

/// `HardState` as version 1 stores it: term, vote, commit.
#[derive(Serialize, Deserialize)]
struct HardStateV1(u64, u64, u64);

/// Index and term of the last entry cut away.
#[derive(Serialize, Deserialize)]
struct TruncatedV1(u64, u64);

/// Stored entry: term (8), kind (1), data, in one frame.
const ENTRY_PREFIX: usize = 9;

fn encode(entry: &LogEntry) -> Vec<u8> {
    let mut out = codec::open_frame(ENTRY_PREFIX + entry.data.len());
    out.extend_from_slice(&entry.term.to_be_bytes());
    out.push(match entry.kind {
        EntryKind::Normal => 0,
        EntryKind::Configuration => 1,
    });
    out.extend_from_slice(&entry.data);
    codec::seal(&mut out, RecordTag { kind: kind::LOG_ENTRY, version: VERSION });
    out
}

fn decode(index: u64, bytes: &Bytes) -> Result<LogEntry, StorageError> {
    let (_version, payload) = codec::unframe_own("log entry", bytes, kind::LOG_ENTRY, VERSION)?;
    let (prefix, data) =
        payload.split_first_chunk::<ENTRY_PREFIX>().ok_or_else(|| corrupt("log entry", "too short"))?;
    let [term @ .., kind] = *prefix;
    let kind = match kind {
        0 => EntryKind::Normal,
        1 => EntryKind::Configuration,
        other => return Err(corrupt("log entry", format!("kind {other}"))),
    };
    Ok(LogEntry { index, term: u64::from_be_bytes(term), kind, data: bytes.slice_ref(data) })
}

fn cost(entry: &LogEntry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD
}

/// Invariants: `cache` holds contiguous entries that end at `last`, at most [`LOG_CACHE_BYTES_MAX`] of them by
/// cost but always the last one of a log that is not empty; `truncated.0 <= last`; everything here is in the engine.
pub(crate) struct Inner {
    pub last: u64,
    pub truncated: (u64, u64),
    cache: VecDeque<LogEntry>,
    cached_bytes: usize,
    pub hard_state: HardState,
}

impl Inner {
    fn push(&mut self, entry: LogEntry) {
        self.last = entry.index;
        self.cached_bytes += cost(&entry);
        self.cache.push_back(entry);
        while self.cached_bytes > LOG_CACHE_BYTES_MAX && self.cache.len() > 1 {
            if let Some(old) = self.cache.pop_front() {
                self.cached_bytes -= cost(&old);
            }
        }
    }

    /// Forgets entries from `index` on.
    fn cut(&mut self, index: u64) {
        while self.cache.back().is_some_and(|e| e.index >= index) {
            if let Some(entry) = self.cache.pop_back() {
                self.cached_bytes -= cost(&entry);
            }
        }
        self.last = self.last.min(index.saturating_sub(1));
    }

    /// Forgets entries up to `index`, which are cut away; `term` is its term.
    fn behead(&mut self, index: u64, term: u64) {
        while self.cache.front().is_some_and(|e| e.index <= index) {
            if let Some(entry) = self.cache.pop_front() {
                self.cached_bytes -= cost(&entry);
            }
        }
        self.truncated = (index, term);
    }

    fn cached(&self, index: u64) -> Option<&LogEntry> {
        let first = self.cache.front()?.index;
        self.cache.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }
}

struct Shared {
    engine: Arc<dyn Engine>,
    inner: Mutex<Inner>,
}

/// The log with its cache of recent entries. Clones share it: the raft thread appends, the apply thread and
/// senders read. Only the raft thread calls `persist`.
#[derive(Clone)]
pub struct LogStore(Arc<Shared>);

impl LogStore {
    /// Opens the log; checks that its ends fit and that the indexes of its tail are contiguous. (Older entries are
    /// checked whenever they are read: reading all of a large log would make every start slow.)
    pub fn open(engine: Arc<dyn Engine>) -> Result<Self, StorageError> {
        let inner = Mutex::new(load(&*engine)?);
        Ok(Self(Arc::new(Shared { engine, inner })))
    }

    /// Begins anew over the engine as it is now: the slot below was exchanged.
    pub fn reload(&self) -> Result<(), StorageError> {
        let inner = load(&*self.0.engine)?;
        *self.0.inner.lock() = inner;
        Ok(())
    }

    /// Cuts the head up to and including `through`, at most [`CUT_ENTRIES_MAX`] entries of it: one batch, not synced (a
    /// crash may bring entries back, never lose one more). Returns how far the log is cut now; call again until that is
    /// `through`. Refuses what is not applied here. Only the raft thread calls it.
    pub fn cut(&self, through: u64) -> Result<u64, StorageError> {
        let (from, _) = self.truncated();
        let through_now = through.min(from.saturating_add(CUT_ENTRIES_MAX));
        if through_now <= from {
            return Ok(from);
        }
        let applied = match self.0.engine.get(Cf::Meta, keys::MARK)? {
            Some(bytes) => rows::parse_mark(&bytes)?.0,
            None => 0,
        };
        if through > applied && !planted::is(Mutant::CutLogTooFar) {
            return Err(corrupt("log", format!("cut up to {through} asked, applied is {applied}")));
        }
        let term = self.term(through_now)?.ok_or_else(|| {
            corrupt("log", format!("cut up to {through_now} asked, which it does not hold"))
        })?;
        let mut batch = Batch::default();
        batch.delete_range(Cf::Log, keys::log(from).to_vec(), keys::log(through_now + 1).to_vec());
        batch.put(Cf::Meta, keys::TRUNCATED.to_vec(), truncated_row((through_now, term))?);
        // First here: nobody reads what is going, and who does is told.
        self.0.inner.lock().behead(through_now, term);
        self.0.engine.write(batch, Sync::No)?;
        Ok(through_now)
    }

    /// First index kept, last index, (0-based start: an empty log has first 1, last 0).
    pub fn first_index(&self) -> u64 {
        self.0.inner.lock().truncated.0 + 1
    }
    pub fn last_index(&self) -> u64 {
        self.0.inner.lock().last
    }
    /// Index and term just before `first_index`.
    pub fn truncated(&self) -> (u64, u64) {
        self.0.inner.lock().truncated
    }
    /// Term of an entry in `[truncated index, last]`, else `None`.
    pub fn term(&self, index: u64) -> Result<Option<u64>, StorageError> {
        {
            let inner = self.0.inner.lock();
            if index == inner.truncated.0 {
                return Ok(Some(inner.truncated.1));
            }
            if index < inner.truncated.0 || index > inner.last {
                return Ok(None);
            }
            if let Some(entry) = inner.cached(index) {
                return Ok(Some(entry.term));
            }
        }
        match self.0.engine.get(Cf::Log, &keys::log(index))? {
            Some(bytes) => Ok(Some(decode(index, &bytes)?.term)),
            None => match self.truncated() {
                // Cut away meanwhile.
                (at, term) if index <= at => Ok((index == at).then_some(term)),
                _ => Err(corrupt("log", format!("entry {index} is missing"))),
            },
        }
    }
    /// Entries in `[from, to)`, at least one if any, then until `bytes_max`. What lies outside the log is left out.
    pub fn entries(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, StorageError> {
        loop {
            let (cut, _) = self.truncated();
            let read = self.entries_once(from, to, bytes_max);
            // What is missing was cut away while it was read: begin behind the cut. Cuts end at what is applied, so
            // that this ends too.
            if read.is_err() && self.truncated().0 > cut.max(from.saturating_sub(1)) {
                continue;
            }
            return read;
        }
    }

    fn entries_once(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, StorageError> {
        let mut out = Vec::new();
        let mut room = Room { bytes: 0, max: bytes_max };
        let (from, to, cached_from) = {
            let inner = self.0.inner.lock();
            let from = from.max(inner.truncated.0 + 1);
            let to = to.min(inner.last + 1);
            let cached_from = inner.cache.front().map_or(inner.last + 1, |e| e.index);
            if from >= cached_from {
                take_cached(&inner, from, to, &mut room, &mut out);
                return Ok(out);
            }
            (from, to, cached_from)
        };
        self.read(from, to.min(cached_from), &mut room, &mut out)?;
        if !room.full() && to > cached_from {
            // Between the two locks the cache can only have lost entries at its front.
            let missing = {
                let inner = self.0.inner.lock();
                let now_from = inner.cache.front().map_or(inner.last + 1, |e| e.index);
                if now_from <= cached_from {
                    take_cached(&inner, cached_from, to, &mut room, &mut out);
                }
                now_from > cached_from
            };
            if missing {
                self.read(cached_from, to, &mut room, &mut out)?;
            }
        }
        Ok(out)
    }

    /// Reads the whole log from the engine and checks every entry: checksum, and that none is missing. Slow; for
    /// an offline check.
    pub fn verify(&self) -> Result<(), StorageError> {
        let (mut next, last) = (self.first_index(), self.last_index());
        while next <= last {
            let mut room = Room { bytes: 0, max: VERIFY_BYTES };
            let mut entries = Vec::new();
            self.read(next, last + 1, &mut room, &mut entries)?;
            next += entries.len() as u64;
        }
        Ok(())
    }

    fn read(&self, from: u64, to: u64, room: &mut Room, out: &mut Vec<LogEntry>) -> Result<(), StorageError> {
        let mut next = from;
        let mut failed = None;
        self.0.engine.scan(Cf::Log, &keys::log(from), &keys::log(to), &mut |key, value| {
            let entry = keys::log_index(key).and_then(|index| {
                if index == next {
                    decode(index, &keys::owned(value))
                } else {
                    Err(corrupt("log", format!("entry {next} is missing")))
                }
            });
            match entry {
                Ok(entry) if room.take(&entry) => out.push(entry),
                Ok(_) => return ControlFlow::Break(()),
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            next += 1;
            ControlFlow::Continue(())
        })?;
        match failed {
            Some(error) => Err(error),
            None if next < to && !room.full() => Err(corrupt("log", format!("entry {next} is missing"))),
            None => Ok(()),
        }
    }

    pub fn hard_state(&self) -> Result<HardState, StorageError> {
        Ok(self.0.inner.lock().hard_state)
    }
    /// Cuts a conflicting tail if `entries` begins at or before `last_index`, appends, writes the hard state:
    /// one batch, synced when `sync`. On return (with sync) everything is on stable storage. An error is final
    /// (rule 12): what the log holds then is known only after a restart.
    pub fn persist(
        &self,
        entries: Vec<LogEntry>,
        hard_state: Option<HardState>,
        sync: bool,
    ) -> Result<(), StorageError> {
        let mut batch = Batch::default();
        let cut_from = self.stage(&entries, &mut batch)?;
        let hard_state = hard_state.filter(|_| !planted::is(Mutant::ForgetVote));
        if let Some(hard_state) = hard_state {
            batch.put(Cf::Meta, keys::HARD_STATE.to_vec(), hard_state_row(hard_state)?);
        }
        if batch.is_empty() {
            return Ok(());
        }
        let sync = sync && !planted::is(Mutant::SkipLogFsync);
        self.0.engine.write(batch, if sync { Sync::Yes } else { Sync::No })?;
        let mut inner = self.0.inner.lock();
        if let Some(index) = cut_from {
            inner.cut(index);
        }
        for entry in entries {
            inner.push(entry);
        }
        if let Some(hard_state) = hard_state {
            inner.hard_state = hard_state;
        }
        Ok(())
    }

    /// Puts the entries into the batch, behind the deletion of the tail they replace. Returns where the cut is.
    fn stage(&self, entries: &[LogEntry], batch: &mut Batch) -> Result<Option<u64>, StorageError> {
        let Some(first) = entries.first() else { return Ok(None) };
        let (last, truncated) = {
            let inner = self.0.inner.lock();
            (inner.last, inner.truncated.0)
        };
        if first.index > last + 1 || first.index <= truncated {
            return Err(corrupt(
                "log",
                format!("entry {} does not follow ({truncated}, {last}]", first.index),
            ));
        }
        let cut_from = (first.index <= last).then_some(first.index);
        if let Some(index) = cut_from {
            batch.delete_range(Cf::Log, keys::log(index).to_vec(), keys::log(last + 1).to_vec());
        }
        for (entry, index) in entries.iter().zip(first.index..) {
            if entry.index != index {
                return Err(corrupt("log", format!("entry {} stands where {index} belongs", entry.index)));
            }
            if entry.data.len() > 2 * COMMIT_BYTES_MAX {
                return Err(StorageError::TooLarge(format!("log entry of {} bytes", entry.data.len())));
            }
            batch.put(Cf::Log, keys::log(index).to_vec(), encode(entry));
        }
        Ok(cut_from)
    }
}

/// Counts bytes given out; the first entry is always given.
struct Room {
    bytes: usize,
    max: usize,
}

impl Room {
    fn take(&mut self, entry: &LogEntry) -> bool {
        if self.bytes > 0 && self.bytes + cost(entry) > self.max {
            self.bytes = self.max.max(self.bytes);
            return false;
        }
        self.bytes += cost(entry);
        true
    }

    fn full(&self) -> bool {
        self.bytes > 0 && self.bytes >= self.max
    }
}

fn take_cached(inner: &Inner, from: u64, to: u64, room: &mut Room, out: &mut Vec<LogEntry>) {
    for index in from..to {
        match inner.cached(index) {
            Some(entry) if room.take(entry) => out.push(entry.clone()),
            _ => return,
        }
    }
}

/// Raft's hard state as stored; all zero if none was.
pub(crate) fn stored_hard_state(read: &dyn Read) -> Result<HardState, StorageError> {
    let Some(bytes) = read.get(Cf::Meta, keys::HARD_STATE)? else { return Ok(HardState::default()) };
    let (_version, payload) = codec::unframe_own("hard state", &bytes, kind::HARD_STATE, VERSION)?;
    let HardStateV1(term, vote, commit) = codec::decode("hard state", payload)?;
    Ok(HardState { term, vote, commit })
}

/// The row that says how far the log is cut.
pub(crate) fn truncated_row((index, term): (u64, u64)) -> Result<Vec<u8>, StorageError> {
    codec::frame_own(kind::TRUNCATED, VERSION, &TruncatedV1(index, term))
}

/// The row of raft's hard state.
pub(crate) fn hard_state_row(HardState { term, vote, commit }: HardState) -> Result<Vec<u8>, StorageError> {
    codec::frame_own(kind::HARD_STATE, VERSION, &HardStateV1(term, vote, commit))
}

/// What an engine holds of a log, checked as [`LogStore::open`] says.
pub(crate) fn load(engine: &dyn Read) -> Result<Inner, StorageError> {
    let hard_state = stored_hard_state(engine)?;
    let truncated = match engine.get(Cf::Meta, keys::TRUNCATED)? {
        Some(bytes) => {
            let (_version, payload) = codec::unframe_own("truncated mark", &bytes, kind::TRUNCATED, VERSION)?;
            let TruncatedV1(index, term) = codec::decode("truncated mark", payload)?;
            (index, term)
        }
        None => (0, 0),
    };
    let first = first_key(engine)?;
    if first.is_some_and(|first| first != truncated.0 + 1) {
        return Err(corrupt("log", format!("begins at {first:?}, was cut up to {}", truncated.0)));
    }
    let mut inner =
        Inner { last: truncated.0, truncated, cache: VecDeque::new(), cached_bytes: 0, hard_state };
    for entry in tail(engine)? {
        inner.push(entry);
    }
    Ok(inner)
}

fn first_key(engine: &dyn Read) -> Result<Option<u64>, StorageError> {
    let mut first = None;
    engine.scan(Cf::Log, &[], keys::END, &mut |key, _| {
        first = Some(keys::log_index(key));
        ControlFlow::Break(())
    })?;
    first.transpose()
}

/// The last entries, oldest first.
fn tail(engine: &dyn Read) -> Result<Vec<LogEntry>, StorageError> {
    let mut entries: Vec<LogEntry> = Vec::new();
    let mut bytes = 0;
    let mut failed = None;
    engine.scan_back(Cf::Log, &[], keys::END, &mut |key, value| {
        let entry = keys::log_index(key).and_then(|index| match entries.last() {
            Some(newer) if newer.index != index + 1 => {
                Err(corrupt("log", format!("between entries {index} and {} some are missing", newer.index)))
            }
            _ => decode(index, &keys::owned(value)),
        });
        match entry {
            Ok(entry) => {
                bytes += cost(&entry);
                entries.push(entry);
            }
            Err(error) => failed = Some(error),
        }
        if failed.is_some() || bytes > OPEN_CHECK_BYTES {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    entries.reverse();
    failed.map_or(Ok(entries), Err)
}
