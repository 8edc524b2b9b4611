//! An engine and an identity medium in memory that can lose what a power cut would lose.
//!
//! [`MemoryEngine`] models one write-ahead log: a crash keeps everything synced and any prefix of the batches
//! written after that, log and apply alike. [`MemoryIdentity`] models a file of two slots of which the one being
//! written tears. Both are handles on a "disk" that outlives the process that is simulated.
//!
//! The simulator writes a great many batches and crashes now and then, so that a batch leaves behind what it takes to
//! undo it, instead of being applied to a second store when it is synced.

use crate::{
    engine::{Batch, BatchOp, Cf, Engine, Read, Sync, Visit},
    error::StorageError,
    identity::IdentityMedium,
};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    path::PathBuf,
    sync::Arc,
};

/// Batches written without sync that can be undone at most. Beyond it the oldest count as written back, as an
/// operating system does; without a bound a run that never syncs would keep every value for ever.
pub const UNSYNCED_BATCHES_MAX: usize = 16_384;

const FAMILIES: usize = Cf::ALL.len();

/// Versions of one key, each with the write that made it; `None` is a deletion.
#[derive(Clone)]
struct Versions {
    newest: (u64, Option<Bytes>),
    /// What views still see, oldest first.
    older: Vec<(u64, Option<Bytes>)>,
}

impl Versions {
    fn new(sequence: u64, value: Option<Bytes>) -> Self {
        Self { newest: (sequence, value), older: Vec::new() }
    }

    /// The version seen at `sequence`.
    fn at(&self, sequence: u64) -> Option<&Bytes> {
        if self.newest.0 <= sequence {
            return self.newest.1.as_ref();
        }
        self.older.iter().rev().find(|(seq, _)| *seq <= sequence).and_then(|(_, value)| value.as_ref())
    }

    /// Drops versions that nobody at or above `floor` sees.
    fn prune(&mut self, floor: u64) {
        if self.newest.0 <= floor {
            self.older = Vec::new();
        } else if let Some(visible) = self.older.iter().rposition(|(seq, _)| *seq <= floor) {
            self.older.drain(..visible);
        }
    }
}

type Family = BTreeMap<Bytes, Versions>;

/// What a key held before a write of a batch.
type Undo = (Cf, Bytes, Option<Bytes>);

/// Invariants: undoing `unsynced` from its end leads through the stores after each of those batches back to the one
/// that was synced; versions that no view can see are dropped at the next write.
#[derive(Default)]
struct Inner {
    sequence: u64,
    live: [Family; FAMILIES],
    /// Keys that kept a version for a view, and the write that superseded it.
    superseded: VecDeque<(u64, Cf, Bytes)>,
    unsynced: VecDeque<Vec<Undo>>,
    writes: u64,
    syncs: u64,
}

#[derive(Default)]
struct Shared {
    inner: RwLock<Inner>,
    /// Sequence of each view alive → how many. Taken after `inner`, never before it.
    views: Mutex<BTreeMap<u64, usize>>,
}

/// The in-memory engine; clones share the store.
#[derive(Clone, Default)]
pub struct MemoryEngine(Arc<Shared>);

impl MemoryEngine {
    pub fn new() -> Self {
        Self::default()
    }

    /// Batches a crash could lose now.
    pub fn unsynced(&self) -> usize {
        self.0.inner.read().unsynced.len()
    }

    /// The store as found after a crash that lost all but the first `keep` unsynced batches. This store is left
    /// as it is, so that several crashes can be tried from one state.
    pub fn crash(&self, keep: usize) -> Self {
        let inner = self.0.inner.read();
        let mut live = inner.live.clone();
        for (_, cf, key) in &inner.superseded {
            let family = &mut live[*cf as usize];
            if let Some(versions) = family.get_mut(key) {
                versions.prune(u64::MAX);
                if versions.newest.1.is_none() {
                    family.remove(key);
                }
            }
        }
        for (cf, key, value) in inner.unsynced.iter().skip(keep).rev().flat_map(|batch| batch.iter().rev()) {
            let family = &mut live[*cf as usize];
            match value {
                Some(value) => family.insert(key.clone(), Versions::new(0, Some(value.clone()))),
                None => family.remove(key),
            };
        }
        let inner = Inner { sequence: inner.sequence, live, ..Inner::default() };
        Self(Arc::new(Shared { inner: RwLock::new(inner), ..Shared::default() }))
    }

    /// Keys in a family, for tests and figures.
    pub fn len(&self, cf: Cf) -> usize {
        let inner = self.0.inner.read();
        inner.live[cf as usize].values().filter(|v| v.at(u64::MAX).is_some()).count()
    }
}

type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// `None` for an empty range, which `BTreeMap::range` would refuse with a panic.
fn bounds<'a>(from: &'a [u8], to: &'a [u8]) -> Option<Bounds<'a>> {
    (from < to).then_some((Bound::Included(from), Bound::Excluded(to)))
}

impl Inner {
    /// Sets or deletes a key; returns what it held. `floor`: what the oldest view sees, this write without one.
    fn set(&mut self, cf: Cf, key: Bytes, value: Option<Bytes>, floor: u64) -> Option<Bytes> {
        let family = &mut self.live[cf as usize];
        if floor >= self.sequence {
            let before = match value {
                Some(value) => family.insert(key, Versions::new(self.sequence, Some(value))),
                None => family.remove(&key),
            };
            return before.and_then(|versions| versions.newest.1);
        }
        let Some(versions) = family.get_mut(&key) else {
            if value.is_some() {
                family.insert(key, Versions::new(self.sequence, value));
            }
            return None;
        };
        let before = std::mem::replace(&mut versions.newest, (self.sequence, value));
        let held = before.1.clone();
        versions.older.push(before);
        versions.prune(floor);
        self.superseded.push_back((self.sequence, cf, key));
        held
    }

    /// Drops what was kept for views that are gone.
    fn collect(&mut self, floor: u64) {
        while self.superseded.front().is_some_and(|(seq, ..)| *seq <= floor) {
            let Some((_, cf, key)) = self.superseded.pop_front() else { break };
            let family = &mut self.live[cf as usize];
            if let Some(versions) = family.get_mut(&key) {
                versions.prune(floor);
                if versions.older.is_empty() && versions.newest.1.is_none() {
                    family.remove(&key);
                }
            }
        }
    }
}

impl Read for MemoryEngine {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.0.get(cf, key, u64::MAX))
    }
    fn scan(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        self.0.scan(cf, from, to, u64::MAX, visit);
        Ok(())
    }
    fn scan_back(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        self.0.scan_back(cf, from, to, u64::MAX, visit);
        Ok(())
    }
}

/// Reads take the lock recursively, so that a visitor may itself read; a visitor must not write.
impl Shared {
    fn get(&self, cf: Cf, key: &[u8], sequence: u64) -> Option<Bytes> {
        self.inner.read_recursive().live[cf as usize].get(key).and_then(|v| v.at(sequence)).cloned()
    }

    fn scan(&self, cf: Cf, from: &[u8], to: &[u8], sequence: u64, visit: Visit<'_>) {
        let inner = self.inner.read_recursive();
        let Some(range) = bounds(from, to) else { return };
        for (key, versions) in inner.live[cf as usize].range::<[u8], _>(range) {
            if let Some(value) = versions.at(sequence)
                && visit(key, value).is_break()
            {
                return;
            }
        }
    }

    fn scan_back(&self, cf: Cf, from: &[u8], to: &[u8], sequence: u64, visit: Visit<'_>) {
        let inner = self.inner.read_recursive();
        let Some(range) = bounds(from, to) else { return };
        for (key, versions) in inner.live[cf as usize].range::<[u8], _>(range).rev() {
            if let Some(value) = versions.at(sequence)
                && visit(key, value).is_break()
            {
                return;
            }
        }
    }
}

impl Engine for MemoryEngine {
    fn write(&self, batch: Batch, sync: Sync) -> Result<(), StorageError> {
        let mut inner = self.0.inner.write();
        inner.sequence += 1;
        inner.writes += 1;
        // What the oldest view sees must stay; without views only the newest version of each key does.
        let floor = self.0.views.lock().keys().next().copied().unwrap_or(inner.sequence);
        inner.collect(floor);
        let undoable = sync == Sync::No;
        let mut undo: Vec<Undo> = Vec::with_capacity(if undoable { batch.ops.len() } else { 0 });
        let mut put = |inner: &mut Inner, cf: Cf, key: Bytes, value: Option<Bytes>| {
            if undoable {
                let before = inner.set(cf, key.clone(), value, floor);
                undo.push((cf, key, before));
            } else {
                inner.set(cf, key, value, floor);
            }
        };
        for op in batch.ops {
            match op {
                BatchOp::Put(cf, key, value) => put(&mut inner, cf, key.into(), Some(value.into())),
                BatchOp::Delete(cf, key) => put(&mut inner, cf, key.into(), None),
                BatchOp::DeleteRange(cf, from, to) => {
                    let Some(range) = bounds(&from, &to) else { continue };
                    let family = &inner.live[cf as usize];
                    let keys: Vec<Bytes> =
                        family.range::<[u8], _>(range).map(|(key, _)| key.clone()).collect();
                    for key in keys {
                        put(&mut inner, cf, key, None);
                    }
                }
            }
        }
        if undoable {
            inner.unsynced.push_back(undo);
            if inner.unsynced.len() > UNSYNCED_BATCHES_MAX {
                inner.unsynced.pop_front();
            }
        } else {
            inner.syncs += 1;
            inner.unsynced.clear();
        }
        Ok(())
    }

    fn view(&self) -> Arc<dyn Read> {
        let inner = self.0.inner.read_recursive();
        let sequence = inner.sequence;
        *self.0.views.lock().entry(sequence).or_default() += 1;
        Arc::new(MemoryView { shared: self.0.clone(), sequence })
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let inner = self.0.inner.read();
        vec![
            ("memory_writes", inner.writes),
            ("memory_syncs", inner.syncs),
            ("memory_unsynced", inner.unsynced.len() as u64),
        ]
    }
}

/// The store as of one write.
struct MemoryView {
    shared: Arc<Shared>,
    sequence: u64,
}

impl Drop for MemoryView {
    fn drop(&mut self) {
        let mut views = self.shared.views.lock();
        if let Some(count) = views.get_mut(&self.sequence) {
            *count -= 1;
            if *count == 0 {
                views.remove(&self.sequence);
            }
        }
    }
}

impl Read for MemoryView {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.shared.get(cf, key, self.sequence))
    }
    fn scan(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        self.shared.scan(cf, from, to, self.sequence, visit);
        Ok(())
    }
    fn scan_back(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        self.shared.scan_back(cf, from, to, self.sequence, visit);
        Ok(())
    }
}

#[derive(Default)]
struct Slots {
    slots: [Option<Vec<u8>>; 2],
    tear_at: Option<usize>,
}

/// Two slots in memory; clones share them, so that a restart finds what was written.
#[derive(Clone, Default)]
pub struct MemoryIdentity(Arc<Mutex<Slots>>);

impl MemoryIdentity {
    pub fn new() -> Self {
        Self::default()
    }

    /// The next write keeps only its first `bytes` over what stood there, and fails: the power went.
    pub fn tear_next_write(&self, bytes: usize) {
        self.0.lock().tear_at = Some(bytes);
    }

    /// No write came, or the power stayed after all.
    pub fn spare_next_write(&self) {
        self.0.lock().tear_at = None;
    }

    /// Flips one bit of a slot, if it holds that byte.
    pub fn rot(&self, slot: usize, byte: usize) {
        if let Some(byte) = self.0.lock().slots[slot].as_mut().and_then(|s| s.get_mut(byte)) {
            *byte ^= 1;
        }
    }
}

impl IdentityMedium for MemoryIdentity {
    fn read(&self, slot: usize) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.0.lock().slots[slot].clone())
    }

    fn write(&mut self, slot: usize, bytes: &[u8]) -> Result<(), StorageError> {
        let mut slots = self.0.lock();
        let Some(keep) = slots.tear_at.take() else {
            slots.slots[slot] = Some(bytes.to_vec());
            return Ok(());
        };
        let mut torn = bytes[..keep.min(bytes.len())].to_vec();
        if let Some(old) = &slots.slots[slot] {
            torn.extend(old.iter().skip(torn.len()));
        }
        slots.slots[slot] = Some(torn);
        Err(StorageError::Io {
            path: PathBuf::from("identity"),
            source: std::io::Error::other("the power went while the slot was written"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::ControlFlow;

    fn put(engine: &MemoryEngine, key: &str, value: &str, sync: Sync) {
        let mut batch = Batch::default();
        batch.put(Cf::Row, key.into(), value.into());
        engine.write(batch, sync).expect("memory does not fail");
    }

    fn all(read: &dyn Read) -> Vec<(String, String)> {
        let mut out = Vec::new();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        read.scan(Cf::Row, b"", b"\xFF", &mut |k, v| {
            out.push((text(k), text(v)));
            ControlFlow::Continue(())
        })
        .expect("memory does not fail");
        out
    }

    #[test]
    fn a_view_stays_as_it_was_and_leaves_nothing_behind() {
        let engine = MemoryEngine::new();
        put(&engine, "a", "1", Sync::No);
        put(&engine, "b", "1", Sync::No);
        let view = engine.view();
        put(&engine, "a", "2", Sync::No);
        let mut batch = Batch::default();
        batch.delete_range(Cf::Row, b"b".to_vec(), b"z".to_vec());
        batch.put(Cf::Row, b"c".to_vec(), b"3".to_vec());
        engine.write(batch, Sync::No).expect("memory does not fail");
        let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
        };
        assert_eq!(all(&*view), pairs(&[("a", "1"), ("b", "1")]));
        assert_eq!(all(&engine), pairs(&[("a", "2"), ("c", "3")]));
        drop(view);
        put(&engine, "d", "4", Sync::No);
        let inner = engine.0.inner.read();
        assert!(inner.superseded.is_empty());
        assert!(inner.live[Cf::Row as usize].values().all(|v| v.older.is_empty() && v.newest.1.is_some()));
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest() {
        let engine = MemoryEngine::new();
        put(&engine, "a", "1", Sync::No);
        put(&engine, "b", "1", Sync::Yes);
        put(&engine, "a", "2", Sync::No);
        put(&engine, "c", "1", Sync::No);
        assert_eq!(engine.unsynced(), 2);
        let keys = |engine: &MemoryEngine| all(engine).into_iter().map(|(k, v)| k + &v).collect::<Vec<_>>();
        assert_eq!(keys(&engine.crash(0)), ["a1", "b1"]);
        assert_eq!(keys(&engine.crash(1)), ["a2", "b1"]);
        assert_eq!(keys(&engine.crash(2)), ["a2", "b1", "c1"]);
        assert_eq!(engine.crash(2).unsynced(), 0);
    }

    #[test]
    fn a_crash_undoes_deletions_and_what_a_view_kept() {
        let engine = MemoryEngine::new();
        put(&engine, "a", "1", Sync::Yes);
        put(&engine, "b", "1", Sync::Yes);
        let view = engine.view();
        let mut batch = Batch::default();
        batch.delete_range(Cf::Row, b"a".to_vec(), b"z".to_vec());
        batch.put(Cf::Row, b"c".to_vec(), b"1".to_vec());
        batch.put(Cf::Row, b"c".to_vec(), b"2".to_vec());
        engine.write(batch, Sync::No).expect("memory does not fail");
        put(&engine, "a", "3", Sync::No);
        let keys = |engine: &MemoryEngine| all(engine).into_iter().map(|(k, v)| k + &v).collect::<Vec<_>>();
        assert_eq!(keys(&engine.crash(0)), ["a1", "b1"]);
        assert_eq!(keys(&engine.crash(1)), ["c2"]);
        assert_eq!(keys(&engine.crash(2)), ["a3", "c2"]);
        assert_eq!(all(&*view).len(), 2, "the view is as it was");
        // A store after a crash is a store like any other.
        let after = engine.crash(1);
        put(&after, "d", "1", Sync::No);
        assert_eq!(keys(&after.crash(0)), ["c2"]);
        assert_eq!(keys(&after), ["c2", "d1"]);
        assert!(after.0.inner.read().live[Cf::Row as usize].values().all(|v| v.older.is_empty()));
    }
}
