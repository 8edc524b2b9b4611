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

/// Says in the store that so much is applied: what a cut may not pass.
fn say_applied(engine: &MemoryEngine, log: &[LogEntry]) {
    let mut state = common::open(engine);
    let from = usize::try_from(state.mark().index).expect("small");
    common::apply_all(&mut state, &log[from..]);
}

fn empty_entries(count: u64) -> Vec<LogEntry> {
    let entry = |index| LogEntry { index, term: 1 + index / 10, kind: EntryKind::Normal, data: Bytes::new() };
    (1..=count).map(entry).collect()
}

#[test]
fn a_cut_goes_no_further_than_what_is_applied() {
    let engine = MemoryEngine::new();
    let log = open(&engine);
    let all = empty_entries(30);
    log.persist(all.clone(), None, true).expect("memory does not fail");
    assert!(log.cut(1).is_err(), "nothing is applied");
    say_applied(&engine, &all[..20]);
    assert!(log.cut(21).is_err());
    assert_eq!(log.first_index(), 1, "a refusal changes nothing");
    assert_eq!(log.cut(20).expect("cuts"), 20);
    assert_eq!(log.cut(5).expect("is cut further already"), 20);
    for log in [log, open(&engine)] {
        assert_eq!((log.first_index(), log.last_index(), log.truncated()), (21, 30, (20, 3)));
        assert_eq!((log.term(20).expect("reads"), log.term(19).expect("reads")), (Some(3), None));
        assert_eq!(log.entries(1, 31, usize::MAX).expect("reads"), all[20..]);
        log.verify().expect("all is well");
        assert!(log.persist(all[19..].to_vec(), None, true).is_err(), "what is cut is not written again");
    }
    // To the very end, and on from there.
    say_applied(&engine, &all);
    let log = open(&engine);
    assert_eq!(log.cut(30).expect("cuts"), 30);
    assert_eq!((log.first_index(), log.last_index(), log.term(30).expect("reads")), (31, 30, Some(4)));
    log.persist(vec![LogEntry { index: 31, ..all[29].clone() }], None, true).expect("memory does not fail");
    assert_eq!(open(&engine).entries(1, 99, usize::MAX).expect("reads").len(), 1);
}

#[test]
fn a_long_cut_is_made_in_steps() {
    let engine = MemoryEngine::new();
    let log = open(&engine);
    let count = okno_storage::log::CUT_ENTRIES_MAX + 10;
    let all = empty_entries(count);
    log.persist(all.clone(), None, true).expect("memory does not fail");
    say_applied(&engine, &all);
    assert_eq!(log.cut(count).expect("cuts"), okno_storage::log::CUT_ENTRIES_MAX);
    assert_eq!(log.cut(count).expect("cuts"), count);
    assert_eq!(engine.len(Cf::Log), 0);
}

/// Readers that are in the middle of what is cut find that out, and never take it for damage.
#[test]
fn reading_goes_on_while_the_head_is_cut() {
    let engine = MemoryEngine::new();
    let all = empty_entries(3_000);
    open(&engine).persist(all.clone(), None, true).expect("memory does not fail");
    say_applied(&engine, &all);
    let log = open(&engine);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while log.first_index() < 3_000 {
                let from = log.first_index();
                let read = log.entries(from, from + 50, usize::MAX).expect("never damage");
                assert!(read.windows(2).all(|w| w[0].index + 1 == w[1].index));
                log.term(from + 1).expect("never damage");
            }
        });
        for through in 1..3_000 {
            log.cut(through).expect("cuts");
        }
        reader.join().expect("reads");
    });
}

proptest! {
    /// Appends, cuts and crashes: after each start the log is a suffix of what was appended, from a cut that was made on.
    #[test]
    fn a_cut_log_is_a_suffix(
        steps in proptest::collection::vec((1u64..8, 0u64..40, any::<bool>(), any::<prop::sample::Index>()), 1..25),
    ) {
        let mut engine = MemoryEngine::new();
        let mut log = open(&engine);
        let (mut all, mut cut) = (Vec::new(), 0);
        for (count, back, crash, keep) in steps {
            let last = log.last_index();
            let new: Vec<_> = empty_entries(last + count).split_off(usize::try_from(last).expect("small"));
            log.persist(new.clone(), None, true).expect("memory does not fail");
            all.extend(new);
            say_applied(&engine, &all);
            let through = log.last_index().saturating_sub(back);
            let before = cut;
            cut = log.cut(through).expect("applied").max(cut);
            if crash {
                engine = engine.crash(keep.index(engine.unsynced() + 1));
                log = open(&engine);
                let found = log.truncated().0;
                prop_assert!(found == before || found == cut, "{} is neither {} nor {}", found, before, cut);
                cut = found;
            }
            let from = usize::try_from(cut).expect("small");
            prop_assert_eq!(&log.entries(0, u64::MAX - 1, usize::MAX).expect("reads")[..], &all[from..]);
            prop_assert_eq!(log.truncated().1, if cut == 0 { 0 } else { all[from - 1].term });
            log.verify().expect("all is well");
        }
    }
}
