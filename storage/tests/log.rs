//! Raft's log: contiguity, conflicting tails, limits, restarts; with the cache and without it.

mod common;

use bytes::Bytes;
use okno_storage::{
    engine::{Batch, Cf, Engine, Sync},
    error::StorageError,
    log::{EntryKind, HardState, LOG_CACHE_BYTES_MAX, LogEntry, LogStore},
    memory::MemoryEngine,
};
use proptest::prelude::*;
use std::sync::Arc;

fn entries(from: u64, count: u64, term: u64, size: usize) -> Vec<LogEntry> {
    (from..from + count)
        .map(|index| {
            let kind = if index % 7 == 0 { EntryKind::Configuration } else { EntryKind::Normal };
            LogEntry { index, term, kind, data: Bytes::from(vec![(index % 251) as u8; size]) }
        })
        .collect()
}

fn open(engine: &MemoryEngine) -> LogStore {
    LogStore::open(Arc::new(engine.clone())).expect("opens")
}

#[test]
fn an_empty_log_begins_at_one() {
    let log = open(&MemoryEngine::new());
    assert_eq!((log.first_index(), log.last_index(), log.truncated()), (1, 0, (0, 0)));
    assert_eq!((log.term(0).expect("reads"), log.term(1).expect("reads")), (Some(0), None));
    assert_eq!(log.entries(1, 9, 1000).expect("reads"), []);
    assert_eq!(log.hard_state().expect("reads"), HardState::default());
}

#[test]
fn what_is_persisted_is_there_after_a_restart() {
    let engine = MemoryEngine::new();
    let hard_state = HardState { term: 4, vote: 2, commit: 3 };
    open(&engine).persist(entries(1, 10, 4, 5), Some(hard_state), true).expect("memory does not fail");
    let log = open(&engine.crash(0));
    assert_eq!((log.last_index(), log.hard_state().expect("reads")), (10, hard_state));
    assert_eq!(log.entries(1, 11, usize::MAX).expect("reads"), entries(1, 10, 4, 5));
}

#[test]
fn a_conflicting_tail_goes_with_its_replacement_in_one_batch() {
    let engine = MemoryEngine::new();
    let log = open(&engine);
    log.persist(entries(1, 10, 1, 5), None, true).expect("memory does not fail");
    log.persist(entries(6, 2, 2, 5), None, false).expect("memory does not fail");
    assert_eq!(engine.unsynced(), 1, "one batch");
    let expected = [entries(1, 5, 1, 5), entries(6, 2, 2, 5)].concat();
    for log in [log, open(&engine.crash(1))] {
        assert_eq!(log.last_index(), 7);
        assert_eq!((log.term(7).expect("reads"), log.term(8).expect("reads")), (Some(2), None));
        assert_eq!(log.entries(1, 99, usize::MAX).expect("reads"), expected);
    }
    assert_eq!(open(&engine.crash(0)).entries(1, 99, usize::MAX).expect("reads"), entries(1, 10, 1, 5));
}

#[test]
fn gaps_are_refused_when_written_and_noticed_when_read() {
    let engine = MemoryEngine::new();
    let log = open(&engine);
    assert!(log.persist(entries(2, 1, 1, 5), None, true).is_err());
    let mut holed = entries(1, 3, 1, 5);
    holed.remove(1);
    assert!(log.persist(holed, None, true).is_err());
    assert_eq!(log.last_index(), 0, "a refusal changes nothing");
    log.persist(entries(1, 10, 1, 5), None, true).expect("memory does not fail");
    let mut batch = Batch::default();
    batch.delete(Cf::Log, okno_storage::keys::log(4).to_vec());
    engine.write(batch, Sync::Yes).expect("memory does not fail");
    assert!(matches!(LogStore::open(Arc::new(engine)), Err(StorageError::Corrupt { .. })));
}

#[test]
fn a_rotten_entry_is_noticed() {
    let engine = MemoryEngine::new();
    open(&engine).persist(entries(1, 3, 1, 50), None, true).expect("memory does not fail");
    let mut batch = Batch::default();
    batch.put(Cf::Log, okno_storage::keys::log(3).to_vec(), b"rot".to_vec());
    engine.write(batch, Sync::Yes).expect("memory does not fail");
    assert!(matches!(LogStore::open(Arc::new(engine)), Err(StorageError::Corrupt { .. })));
}

#[test]
fn damage_behind_the_tail_is_found_by_verify_and_by_reading() {
    let engine = MemoryEngine::new();
    let size = 500 * 1024;
    for index in 1..=60 {
        open(&engine).persist(entries(index, 1, 1, size), None, true).expect("memory does not fail");
    }
    let mut batch = Batch::default();
    batch.delete(Cf::Log, okno_storage::keys::log(4).to_vec());
    engine.write(batch, Sync::Yes).expect("memory does not fail");
    let log = open(&engine);
    assert!(log.verify().is_err());
    assert!(log.entries(3, 5, usize::MAX).is_err());
    assert_eq!(log.entries(1, 4, usize::MAX).expect("reads").len(), 3);
}

#[test]
fn what_left_the_cache_is_read_from_the_engine() {
    let engine = MemoryEngine::new();
    let log = open(&engine);
    let size = 200 * 1024;
    let count = (LOG_CACHE_BYTES_MAX / size) as u64 + 50;
    for index in 1..=count {
        log.persist(entries(index, 1, 3, size), None, false).expect("memory does not fail");
    }
    assert_eq!(log.entries(1, count + 1, usize::MAX).expect("reads"), entries(1, count, 3, size));
    assert_eq!(log.entries(30, 32, usize::MAX).expect("reads"), entries(30, 2, 3, size));
    assert_eq!(log.term(1).expect("reads"), Some(3));
    log.verify().expect("all is well");
    // After a restart the cache holds the tail only.
    assert_eq!(open(&engine).entries(1, count + 1, usize::MAX).expect("reads").len() as u64, count);
}

proptest! {
    /// Appends and overwrites, restarts in between: always what a plain vector says, within the byte limit.
    #[test]
    fn the_log_is_a_vector(
        steps in proptest::collection::vec((0u64..6, 1u64..6, any::<bool>()), 1..30),
        from in 1u64..60, to in 1u64..60, limit in 0usize..2000,
    ) {
        let engine = MemoryEngine::new();
        let mut log = open(&engine);
        let mut plain: Vec<LogEntry> = Vec::new();
        for (term, (back, count, restart)) in (1..).zip(steps) {
            let first = plain.len() as u64 + 1 - back.min(plain.len() as u64);
            let new = entries(first, count, term, 40);
            plain.truncate(first as usize - 1);
            plain.extend(new.clone());
            log.persist(new, None, true).expect("memory does not fail");
            if restart {
                log = open(&engine);
            }
        }
        prop_assert_eq!(log.last_index(), plain.len() as u64);
        let (from, to) = (from.min(to), from.max(to));
        let expected: Vec<_> = plain.iter().filter(|e| e.index >= from && e.index < to).cloned().collect();
        prop_assert_eq!(&log.entries(from, to, usize::MAX).expect("reads"), &expected);
        let some = log.entries(from, to, limit).expect("reads");
        prop_assert!(some.len() >= expected.len().min(1));
        prop_assert_eq!(&some[..], &expected[..some.len()]);
        prop_assert!(some.len() <= 1 || some.iter().map(|e| e.data.len()).sum::<usize>() <= limit);
        for index in 0..=plain.len() as u64 + 1 {
            let expected = if index == 0 { Some(0) } else { plain.get(index as usize - 1).map(|e| e.term) };
            prop_assert_eq!(log.term(index).expect("reads"), expected);
        }
    }
}
