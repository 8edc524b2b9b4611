//! RocksDB keeps the engine's contract: the same rows as the in-memory engine, and after a power cut a prefix of
//! the write order.
#![cfg(feature = "rocksdb")]

mod common;

use common::{apply_all, choices, genesis, make_log, open, settle_configuration};
use okno_storage::{
    engine::{Batch, Cf, Engine, Read, Sync},
    error::StorageError,
    log::{EntryKind, HardState, LogEntry, LogStore},
    memory::MemoryEngine,
    rocks::{LogTail, RocksEngine, RocksOptions},
    state::{AppliedMark, StateStore},
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use std::{
    fs,
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

fn rocks(path: &Path) -> RocksEngine {
    RocksEngine::open(path, &RocksOptions::default()).expect("opens")
}

fn digest(state: &StateStore) -> [u8; 32] {
    state.reader().view().digest().expect("reads")
}

/// The same log every time.
fn a_log(length: usize) -> Vec<LogEntry> {
    let choices = choices(2).new_tree(&mut TestRunner::deterministic()).expect("makes");
    let first = choices.current();
    let mut runner = TestRunner::deterministic();
    let mut all = first;
    while all.len() < length {
        all.extend(common::choices(80).new_tree(&mut runner).expect("makes").current());
    }
    make_log(&all[..length]).0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn both_engines_come_to_the_same_rows(choices in choices(120), batch in 1usize..30, reopen in any::<bool>()) {
        let (log, ..) = make_log(&choices);
        let mut expected = open(&MemoryEngine::new());
        apply_all(&mut expected, &log);
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut state = open(&rocks(dir.path()));
        for (n, entries) in log.chunks(batch).enumerate() {
            if reopen && n % 3 == 2 {
                drop(state);
                state = open(&rocks(dir.path()));
            }
            apply_all(&mut state, entries);
        }
        prop_assert_eq!(state.mark(), expected.mark());
        prop_assert_eq!(digest(&state), digest(&expected));
    }
}

/// Random batches of puts, deletes and range deletes, read back by get, scan and scan_back, live and from views.
#[test]
fn reads_agree_with_the_memory_engine() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (rocks, memory) = (rocks(dir.path()), MemoryEngine::new());
    let ops = proptest::collection::vec((0u8..8, 0u8..10, any::<[u8; 2]>(), any::<[u8; 2]>()), 1..40);
    let mut runner = TestRunner::deterministic();
    let mut views = Vec::new();
    for round in 0..120u8 {
        let ops = ops.new_tree(&mut runner).expect("makes").current();
        let mut batch = Batch::default();
        for (cf, what, a, b) in ops {
            let cf = Cf::ALL[usize::from(cf)];
            match what {
                0..7 => batch.put(cf, a.to_vec(), b.to_vec()),
                7..9 => batch.delete(cf, a.to_vec()),
                _ => batch.delete_range(cf, a.min(b).to_vec(), a.max(b).to_vec()),
            }
        }
        let sync = if round % 10 == 0 { Sync::Yes } else { Sync::No };
        rocks.write(batch.clone(), sync).expect("writes");
        memory.write(batch, sync).expect("writes");
        if round % 7 == 0 {
            views.push((rocks.view(), memory.view()));
        }
        if round == 60 {
            rocks.flush().expect("writes");
        }
    }
    views.push((Arc::new(rocks), Arc::new(memory)));
    let read = |read: &dyn Read, cf, from: &[u8], to: &[u8], back: bool| {
        let mut out = Vec::new();
        let mut keep = |key: &[u8], value: &[u8]| {
            out.push((key.to_vec(), value.to_vec()));
            if out.len() == 50 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        if back { read.scan_back(cf, from, to, &mut keep) } else { read.scan(cf, from, to, &mut keep) }
            .expect("reads");
        out
    };
    for (rocks, memory) in &views {
        for cf in Cf::ALL {
            for (from, to) in [(0u8, 255u8), (10, 20), (20, 10), (77, 78), (5, 5)] {
                for back in [false, true] {
                    let (from, to) = ([from], [to, 9]);
                    assert_eq!(read(&**rocks, cf, &from, &to, back), read(&**memory, cf, &from, &to, back));
                }
            }
            for a in 0..=255u8 {
                assert_eq!(rocks.get(cf, &[a, 7]).expect("reads"), memory.get(cf, &[a, 7]).expect("reads"));
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("can make");
    for file in fs::read_dir(from).expect("reads") {
        let file = file.expect("reads");
        if file.file_name() != "LOCK" {
            fs::copy(file.path(), to.join(file.file_name())).expect("copies");
        }
    }
}

/// The newest write-ahead log file and its length.
fn newest_wal(dir: &Path) -> (std::path::PathBuf, u64) {
    let wals = fs::read_dir(dir).expect("reads").map(|f| f.expect("reads").path());
    let wal = wals.filter(|p| p.extension().is_some_and(|e| e == "log")).max().expect("there is one");
    let length = fs::metadata(&wal).expect("reads").len();
    (wal, length)
}

/// Power cuts: the log file ends anywhere. Log and applied state are a prefix of what was written, the state never
/// ahead of the log, with or without tables flushed before.
#[test]
fn a_cut_write_ahead_log_leaves_a_prefix() {
    let log = a_log(240);
    // Marks of every index, to compare with.
    let mut reference = open(&MemoryEngine::new());
    let mut chains = vec![genesis().chain];
    for entry in &log {
        apply_all(&mut reference, std::slice::from_ref(entry));
        chains.push(reference.mark().chain);
    }
    for flush_at in [None, Some(10)] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let live = dir.path().join("live");
        let engine = rocks(&live);
        let store = LogStore::open(Arc::new(engine.clone())).expect("opens");
        let mut state = open(&engine);
        let mut synced = 0;
        for (n, entries) in log.chunks(7).enumerate() {
            let hard_state = HardState { term: entries[0].term, vote: 1, commit: entries[0].index };
            store.persist(entries.to_vec(), Some(hard_state), true).expect("writes");
            synced = store.last_index();
            apply_all(&mut state, entries);
            if flush_at == Some(n) {
                engine.flush().expect("writes");
            }
        }
        let crash = dir.path().join("crash");
        copy(&live, &crash);
        let (_, length) = newest_wal(&crash);
        let mut seen = Vec::new();
        for keep in (0..=20).map(|n| length * n / 20) {
            let at = dir.path().join(format!("cut-{keep}"));
            copy(&crash, &at);
            let (wal, _) = newest_wal(&at);
            fs::OpenOptions::new().write(true).open(&wal).and_then(|f| f.set_len(keep)).expect("cuts");
            let engine = rocks(&at);
            let store = LogStore::open(Arc::new(engine.clone())).expect("opens");
            let mut state = open(&engine);
            let mark = state.mark().clone();
            assert!(mark.index <= store.last_index(), "applied {} of {}", mark.index, store.last_index());
            assert!(mark.index == 0 || mark.chain == chains[usize::try_from(mark.index).expect("small")]);
            assert!(keep < length || store.last_index() == synced, "nothing synced is lost");
            seen.push(store.last_index());
            // What is left goes on to the same end.
            let rest = &log[usize::try_from(mark.index).expect("small")..];
            apply_all(&mut state, rest);
            assert_eq!(digest(&state), digest(&reference));
        }
        assert!(seen.is_sorted() && seen[0] < seen[20], "cuts were noticed: {seen:?}");
    }
}

/// Rot inside a log file: replay stops there (and `identity` tells that synced entries are missing), or refuses.
#[test]
fn a_rotten_write_ahead_log_never_gives_wrong_rows() {
    let log = a_log(100);
    let dir = tempfile::tempdir().expect("temporary directory");
    let live = dir.path().join("live");
    let engine = rocks(&live);
    let store = LogStore::open(Arc::new(engine.clone())).expect("opens");
    store.persist(log.clone(), None, true).expect("writes");
    let crash = dir.path().join("crash");
    copy(&live, &crash);
    assert_eq!(RocksEngine::log_tail(&crash, &RocksOptions::default()).expect("reads"), LogTail::Whole);
    let (_, length) = newest_wal(&crash);
    for part in 1..10 {
        let at = dir.path().join(format!("rot-{part}"));
        copy(&crash, &at);
        let (wal, _) = newest_wal(&at);
        let mut bytes = fs::read(&wal).expect("reads");
        let place = usize::try_from(length * part / 10).expect("small");
        bytes[place] ^= 0x40;
        fs::write(&wal, &bytes).expect("writes");
        // Looking tells, and leaves everything as it is, also what recovery would throw away.
        let tail = RocksEngine::log_tail(&at, &RocksOptions::default());
        assert!(matches!(tail, Ok(LogTail::Damaged(_))), "{tail:?}");
        let looked = RocksEngine::open_read_only(&at, &RocksOptions::default());
        drop(looked.inspect_err(|error| assert!(error.is_rot(), "{error}")));
        assert_eq!(fs::read(&wal).expect("reads"), bytes);
        match RocksEngine::open(&at, &RocksOptions::default()) {
            Err(error) => assert!(error.is_rot(), "{error}"),
            Ok(engine) => {
                let found = LogStore::open(Arc::new(engine)).expect("opens");
                let entries = found.entries(1, u64::MAX, usize::MAX).expect("reads");
                assert_eq!(entries, log[..entries.len()]);
                assert!(entries.len() < log.len(), "the batch with the rot is gone");
            }
        }
    }
}

/// Rot in a table is damage, not a disk that fails: the node quarantines instead of ending again and again.
#[test]
fn a_rotten_or_missing_table_is_told_as_damage() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let live = dir.path().join("live");
    let engine = rocks(&live);
    for n in 0..200u32 {
        let mut batch = Batch::default();
        batch.put(Cf::Row, n.to_be_bytes().to_vec(), vec![n as u8; 1_000]);
        engine.write(batch, Sync::No).expect("writes");
    }
    engine.flush().expect("writes");
    drop(engine);
    let looked = RocksEngine::open_read_only(&live, &RocksOptions::default()).expect("opens");
    assert_eq!(
        looked.get(Cf::Row, &7u32.to_be_bytes()).expect("reads").map(|value| value.len()),
        Some(1_000)
    );
    let mut batch = Batch::default();
    batch.put(Cf::Row, b"k".to_vec(), b"v".to_vec());
    assert!(looked.write(batch, Sync::Yes).is_err(), "looking writes nothing");
    drop(looked);
    let tables = fs::read_dir(&live).expect("reads").map(|file| file.expect("reads").path());
    let table = tables
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .max_by_key(|path| fs::metadata(path).expect("reads").len())
        .expect("there is one");
    let whole = fs::read(&table).expect("reads");
    let mut rotten = whole.clone();
    rotten[whole.len() / 4] ^= 0x40;
    fs::write(&table, rotten).expect("writes");
    let read = |engine: RocksEngine| {
        engine.scan(Cf::Row, &[], okno_storage::keys::END, &mut |_, _| ControlFlow::Continue(()))
    };
    let error =
        RocksEngine::open(&live, &RocksOptions::default()).and_then(read).expect_err("a checksum fails");
    assert!(error.is_rot(), "{error}");
    fs::remove_file(&table).expect("removes");
    let error = RocksEngine::open(&live, &RocksOptions::default()).map(drop).expect_err("a table is missing");
    assert!(error.is_rot(), "{error}");
    fs::write(&table, whole).expect("writes");
    RocksEngine::open(&live, &RocksOptions::default()).and_then(read).expect("whole again");
    fs::remove_file(live.join("CURRENT"))
        .and_then(|()| fs::write(live.join("CURRENT"), "MANIFEST-999999\n"))
        .expect("writes");
    let error = RocksEngine::open(&live, &RocksOptions::default()).map(drop).expect_err("no such manifest");
    assert!(error.is_rot(), "{error}");
}

#[test]
fn a_directory_is_opened_once_and_views_keep_it_open() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = rocks(dir.path());
    assert!(matches!(RocksEngine::open(dir.path(), &RocksOptions::default()), Err(StorageError::Engine(_))));
    let mut batch = Batch::default();
    batch.put(Cf::Meta, b"k".to_vec(), b"v".to_vec());
    engine.write(batch, Sync::Yes).expect("writes");
    let view = engine.view();
    drop(engine);
    assert_eq!(view.get(Cf::Meta, b"k").expect("reads").as_deref(), Some(&b"v"[..]));
    drop(view);
    let again = rocks(dir.path());
    let stats = again.stats();
    let stat = |name| stats.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
    assert_eq!(stat("rocksdb_write_stopped"), Some(0));
    assert!(stat("rocksdb_l0_files_log").is_some() && stat("rocksdb_memtable_bytes").is_some());
}

/// A MANIFEST that was cut can lose column families; they must not come back empty.
#[test]
fn a_database_that_lost_column_families_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    drop(rocks(dir.path()));
    let manifest = fs::read_dir(dir.path())
        .expect("reads")
        .map(|entry| entry.expect("reads").path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("MANIFEST")))
        .expect("a MANIFEST");
    let whole = fs::read(&manifest).expect("reads");
    // At whatever record it ends: the database opens whole or not at all.
    let mut refused = 0;
    for length in (0..whole.len()).step_by(7) {
        fs::write(&manifest, &whole[..length]).expect("writes");
        match RocksEngine::open(dir.path(), &RocksOptions::default()) {
            Err(StorageError::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("cut to {length} bytes: {other}"),
            Ok(_) => panic!("cut to {length} of {} bytes, it opened", whole.len()),
        }
    }
    assert_eq!(refused, whole.len().div_ceil(7));
}

/// So many entries are committed together in the tests of copies.
const COMMITTED_AT_ONCE: usize = 3;

/// The copy says one applied index, and its rows and journal are those of that index; returns the index. Raft's commit index
/// is what was known when that entry was applied: it is ahead of it where apply stops at a configuration entry.
fn is_of_one_index(copy: &Path, log: &[LogEntry]) -> u64 {
    let copy = open(&rocks(copy));
    let index = copy.mark().index;
    let applied = usize::try_from(index).expect("small");
    let mut expected = open(&MemoryEngine::new());
    apply_all(&mut expected, &log[..applied]);
    let known = applied.next_multiple_of(COMMITTED_AT_ONCE).min(log.len()) as u64;
    assert_eq!(*copy.mark(), AppliedMark { commit: known, ..expected.mark().clone() });
    assert_eq!(digest(&copy), digest(&expected), "at {index}");
    index
}

/// A copy taken while the owner writes on, whenever that is.
#[test]
fn a_checkpoint_is_the_state_at_one_index() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let log = a_log(400);
    let engine = rocks(&dir.path().join("db"));
    let copies: Vec<_> = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut state = open(&engine);
            for entries in log.chunks(COMMITTED_AT_ONCE) {
                apply_all(&mut state, entries);
            }
        });
        let mut copies = Vec::new();
        while !writer.is_finished() || copies.is_empty() {
            let into = dir.path().join(format!("copy{}", copies.len()));
            engine.checkpoint(&into).expect("copies");
            copies.push(into);
        }
        copies
    });
    for into in &copies {
        is_of_one_index(into, &log);
    }
    let before = digest(&open(&engine));
    fs::remove_dir_all(&copies[0]).expect("removes");
    assert_eq!(digest(&open(&engine)), before, "a copy's files are its own links");
    assert!(
        engine.checkpoint(&copies[copies.len() - 1]).is_err() || copies.len() == 1,
        "never over another copy"
    );
}

/// Before a configuration entry, between it and the configuration it led to, and after: what a copy may meet by chance above.
#[test]
fn a_checkpoint_at_a_configuration_entry_is_before_it_or_after_what_it_led_to() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let log = a_log(400);
    let engine = rocks(&dir.path().join("db"));
    let mut state = open(&engine);
    let mut copies = 0;
    let mut copied = || {
        copies += 1;
        let into = dir.path().join(format!("copy{copies}"));
        engine.checkpoint(&into).expect("copies");
        is_of_one_index(&into, &log)
    };
    let (mut ahead, mut between) = (0, 0);
    for committed in log.chunks(COMMITTED_AT_ONCE) {
        let mut rest = committed;
        let turns = committed.iter().any(|entry| entry.kind == EntryKind::Configuration);
        while !rest.is_empty() {
            let known = committed[committed.len() - 1].index;
            let slice = state.apply(rest, known).expect("applies");
            rest = &rest[slice.entries.len()..];
            let configuration =
                log[usize::try_from(slice.last - 1).expect("small")].kind == EntryKind::Configuration;
            if configuration {
                assert_eq!(copied(), slice.last - 1, "not without the configuration");
                between += 1;
                settle_configuration(&mut state, committed, slice.last);
            }
            if turns {
                assert_eq!(copied(), slice.last);
                ahead += usize::from(slice.last < known);
            }
        }
    }
    assert!(ahead > 0 && between > 0, "{ahead} copies behind the commit index, {between} between");
}

/// Found by measuring a million cases: filters and indexes were read whole, megabytes for each row looked up, once they had
/// outgrown the cache.
#[test]
fn a_row_is_found_in_a_large_table_without_reading_all_of_its_filter() {
    use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
    use sha2::{Digest as _, Sha256};
    const ROWS: u64 = 200_000;
    /// As many as are merged at once.
    const FLUSHES: u64 = 8;
    const READS: u64 = 50;
    /// A block of rows, one of a filter, one of an index, and room for what lies at block borders.
    const BYTES_A_READ_MAX: u64 = 64 * 1024;
    let key = |number: u64| Sha256::digest(number.to_be_bytes()).to_vec();
    let dir = tempfile::tempdir().expect("temporary directory");
    let small = RocksOptions { block_cache_bytes: 64 * 1024, ..RocksOptions::default() };
    let engine = RocksEngine::open(dir.path().join("db"), &small).expect("opens");
    for flush in 0..FLUSHES {
        let mut batch = Batch::default();
        for number in flush * ROWS / FLUSHES..(flush + 1) * ROWS / FLUSHES {
            batch.put(Cf::Request, key(number), vec![7; 60]);
        }
        engine.write(batch, Sync::No).expect("writes");
        // A copy of this moment has everything in tables.
        engine.checkpoint(dir.path().join(format!("copy-{flush}"))).expect("copies");
    }
    // Tables at the top are pinned; these were merged into the next level.
    let until = Instant::now() + Duration::from_secs(60);
    while engine.level_files().iter().any(|(cf, level, files)| (*cf, *level) == ("request", 0) && *files > 0)
    {
        assert!(Instant::now() < until, "so many tables at the top are merged");
        std::thread::sleep(Duration::from_millis(10));
    }
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut seen = PerfContext::default();
    for number in 0..READS {
        seen.reset();
        assert!(engine.get(Cf::Request, &key(number * 1_000)).expect("reads").is_some());
        assert!(engine.get(Cf::Request, &key(ROWS + number)).expect("reads").is_none());
        let read = seen.metric(PerfMetric::BlockReadByte);
        assert!(read <= 2 * BYTES_A_READ_MAX, "{read} bytes were read for two rows");
    }
    set_perf_stats(PerfStatsLevel::Disable);
}
