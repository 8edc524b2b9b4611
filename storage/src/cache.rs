//! What apply keeps in memory so that it reads nothing on its usual way (design §9).
//!
//! Each cache answers exactly or says that it does not know; then one read decides. So what a cache holds, and
//! when it forgets, never changes an outcome. Changes of a batch enter after the batch is written; until then
//! they are seen through the overlay in `apply`.

use crate::{
    commit::EntityKey,
    engine::{Cf, Read},
    error::StorageError,
    keys,
    rows::Head,
};
use ahash::RandomState;
use lru::LruCache;
use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::Hash,
    ops::ControlFlow,
};

/// Entity heads kept: every entity that moves in a few minutes of full load; some 20 MiB.
const HEADS_MAX: usize = 131_072;
/// Outbox and timer rows known to be there: the ones set recently are the ones consumed, fired or cleared next.
const PRESENT_MAX: usize = 32_768;
/// Quarantined entities kept; each needs an operator, so beyond this something else is wrong and reads will do.
const QUARANTINES_MAX: usize = 65_536;
/// How far back request ids are kept complete, in replicated time: retries come within minutes.
const REQUEST_WINDOW_MS: i64 = 10 * 60 * 1000;
/// Request fingerprints kept, 8 bytes each and the table's slack; when more come in the window, it shortens.
const REQUESTS_MAX: usize = 2 * 1024 * 1024;
/// Rows read at start to fill the window again: about a second. What is older is read when asked for.
const REQUESTS_LOADED_MAX: usize = 400_000;
const REQUEST_BUCKET_MS: i64 = 10_000;

/// Request ids seen in the window.
///
/// Holds fingerprints of whole keys, in buckets by the time in the id. Invariant: of every remembered request
/// made at or after `complete_from_ms` the fingerprint is here, so that one not found was never carried out.
pub(crate) struct RequestFilter {
    buckets: BTreeMap<i64, HashSet<u64, RandomState>>,
    count: usize,
    complete_from_ms: i64,
    hasher: RandomState,
}

impl RequestFilter {
    /// Fills the window from the store, as of replicated time `now_ms`.
    pub fn load(read: &dyn Read, now_ms: i64) -> Result<Self, StorageError> {
        // Fixed seeds: a false find costs a read and changes nothing, and runs stay reproducible.
        let hasher = RandomState::with_seeds(0x6f6b_6e6f, 0x7265_7175, 0x6573_7473, 0x6669_6c74);
        let from_ms = now_ms.saturating_sub(REQUEST_WINDOW_MS);
        let mut filter = Self { buckets: BTreeMap::new(), count: 0, complete_from_ms: from_ms, hasher };
        let mut loaded = 0;
        let mut stopped_at = None;
        read.scan_back(Cf::Request, &keys::request_from(from_ms), keys::END, &mut |key, _| {
            if loaded == REQUESTS_LOADED_MAX {
                stopped_at = Some(keys::request_time(key));
                return ControlFlow::Break(());
            }
            loaded += 1;
            filter.insert(key);
            ControlFlow::Continue(())
        })?;
        if let Some(ms) = stopped_at {
            filter.complete_from_ms = filter.complete_from_ms.max(ms + 1);
        }
        Ok(filter)
    }

    pub fn insert(&mut self, key: &[u8]) {
        let ms = keys::request_time(key);
        if ms < self.complete_from_ms {
            return;
        }
        let bucket = self.buckets.entry(ms.div_euclid(REQUEST_BUCKET_MS)).or_default();
        if bucket.insert(self.hasher.hash_one(key)) {
            self.count += 1;
        }
        while self.count > REQUESTS_MAX {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((bucket, ids)) = self.buckets.pop_first() {
            self.count -= ids.len();
            self.complete_from_ms = self.complete_from_ms.max((bucket + 1) * REQUEST_BUCKET_MS);
        }
    }

    /// Forgets what has left the window.
    pub fn expire(&mut self, now_ms: i64) {
        let from = now_ms.saturating_sub(REQUEST_WINDOW_MS).div_euclid(REQUEST_BUCKET_MS);
        while self.buckets.first_key_value().is_some_and(|(bucket, _)| *bucket < from) {
            self.drop_oldest();
        }
    }

    /// False: it was surely never carried out. True: read.
    pub fn may_hold(&self, key: &[u8]) -> bool {
        let ms = keys::request_time(key);
        ms < self.complete_from_ms
            || self
                .buckets
                .get(&ms.div_euclid(REQUEST_BUCKET_MS))
                .is_some_and(|ids| ids.contains(&self.hasher.hash_one(key)))
    }
}

/// Quarantined entities; `complete` unless there are too many to keep.
pub(crate) struct Quarantines {
    set: BTreeSet<EntityKey>,
    complete: bool,
}

impl Quarantines {
    pub fn load(read: &dyn Read) -> Result<Self, StorageError> {
        let mut out = Self { set: BTreeSet::new(), complete: true };
        let mut failed = None;
        let (from, to) = keys::QUARANTINES;
        read.scan(Cf::Meta, from, to, &mut |key, _| match keys::parse_quarantine(key) {
            Ok(entity) => {
                out.put(entity);
                if out.complete { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(out), Err)
    }

    fn put(&mut self, entity: EntityKey) {
        self.set.insert(entity);
        if self.set.len() > QUARANTINES_MAX {
            self.complete = false;
            self.set.clear();
        }
    }

    pub fn set(&mut self, entity: EntityKey, quarantined: bool) {
        match (self.complete, quarantined) {
            (false, _) => {}
            (true, true) => self.put(entity),
            (true, false) => {
                self.set.remove(&entity);
            }
        }
    }

    pub fn holds(&self, read: &dyn Read, entity: &EntityKey) -> Result<bool, StorageError> {
        if self.complete {
            return Ok(self.set.contains(entity));
        }
        Ok(read.get(Cf::Meta, &keys::quarantine(entity))?.is_some())
    }
}

/// The most recently used, at most `max`. It grows as it fills: [`LruCache::new`] would take all of its memory at once,
/// which a simulator that opens stores by the thousand notices.
pub(crate) struct Bounded<K: Hash + Eq, V> {
    cache: LruCache<K, V>,
    max: usize,
}

impl<K: Hash + Eq, V> Bounded<K, V> {
    pub fn new(max: usize) -> Self {
        Self { cache: LruCache::unbounded(), max }
    }
    pub fn put(&mut self, key: K, value: V) {
        self.cache.put(key, value);
        if self.cache.len() > self.max {
            self.cache.pop_lru();
        }
    }
    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.cache.get(key)
    }
    pub fn contains<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.cache.contains(key)
    }
    pub fn pop<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.cache.pop(key);
    }
}

/// Keys of rows known to be there.
pub(crate) struct Present(Bounded<Vec<u8>, ()>);

impl Present {
    pub fn new() -> Self {
        Self(Bounded::new(PRESENT_MAX))
    }
    pub fn set(&mut self, key: Vec<u8>, present: bool) {
        if present {
            self.0.put(key, ());
        } else {
            self.0.pop(&key);
        }
    }
    pub fn holds(&self, key: &[u8]) -> bool {
        self.0.contains(key)
    }
}

/// Caches that only the apply thread touches.
pub(crate) struct ApplyCaches {
    pub heads: Bounded<EntityKey, Head>,
    pub outbox: Present,
    pub timers: Present,
    pub quarantines: Quarantines,
}

impl ApplyCaches {
    pub fn load(read: &dyn Read) -> Result<Self, StorageError> {
        Ok(Self {
            heads: Bounded::new(HEADS_MAX),
            outbox: Present::new(),
            timers: Present::new(),
            quarantines: Quarantines::load(read)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commit::RequestKey,
        engine::{Batch, Engine, Sync},
        memory::MemoryEngine,
    };
    use uuid::Uuid;

    fn key(ms: u64, n: u64) -> Vec<u8> {
        let id = Uuid::from_u128(u128::from(ms) << 80 | 7 << 76 | u128::from(n));
        keys::request(&RequestKey { id, principal: "workstation/1".into() })
    }

    #[test]
    fn a_filter_knows_the_window_and_says_so_about_the_rest() {
        let engine = MemoryEngine::new();
        let now = 100_000_000;
        let mut batch = Batch::default();
        batch.put(Cf::Request, key(now - 1000, 1), vec![]);
        batch.put(Cf::Request, key(now - 20 * 60_000, 2), vec![]);
        engine.write(batch, Sync::No).expect("memory does not fail");
        let mut filter = RequestFilter::load(&engine, now as i64).expect("loads");
        assert!(filter.may_hold(&key(now - 1000, 1)));
        assert!(!filter.may_hold(&key(now - 1000, 3)), "absent in the window");
        assert!(filter.may_hold(&key(now - 20 * 60_000, 2)), "older than the window: read");
        assert!(filter.may_hold(&key(now - 20 * 60_000, 3)), "older than the window: read");
        filter.insert(&key(now + 5, 4));
        assert!(filter.may_hold(&key(now + 5, 4)));
        filter.expire(now as i64 + REQUEST_WINDOW_MS + 2 * REQUEST_BUCKET_MS);
        assert_eq!(filter.count, 0);
        assert!(filter.may_hold(&key(now - 1000, 3)), "left the window: read");
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Bounded::new(2);
        cache.put(1, 'a');
        cache.put(2, 'b');
        assert_eq!(cache.get(&1), Some(&'a'));
        cache.put(3, 'c');
        assert_eq!([1, 2, 3].map(|key| cache.contains(&key)), [true, false, true]);
        cache.pop(&1);
        assert!(!cache.contains(&1));
    }

    #[test]
    fn a_full_filter_shortens_its_window_instead_of_growing() {
        let mut filter = RequestFilter::load(&MemoryEngine::new(), 0).expect("loads");
        for n in 0..=REQUESTS_MAX as u64 {
            filter.insert(&key(n / 64, n));
        }
        assert!(filter.count <= REQUESTS_MAX);
        assert!(filter.may_hold(&key(0, u64::MAX >> 8)), "fell out of the window: read");
        assert!(!filter.may_hold(&key(REQUESTS_MAX as u64 / 64, u64::MAX >> 8)));
    }
}
