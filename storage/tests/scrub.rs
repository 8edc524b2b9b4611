//! A scrub reads everything, in steps of any size, and finds what is rotten, broken or without an owner.

mod common;

use common::{apply_all, entity, entry, moving, open, record};
use okno_storage::{
    commit::{CommitId, RowChange, TimerChange, TimerKey},
    engine::{Batch, Cf, Engine, Read, Sync},
    error::StorageError,
    keys,
    log::LogEntry,
    memory::MemoryEngine,
    scrub::{Pass, Seen},
};
use std::ops::ControlFlow;

/// Twenty cases with a row and a timer each.
fn store() -> MemoryEngine {
    let engine = MemoryEngine::new();
    let mut state = open(&engine);
    let entries: Vec<LogEntry> = (1..=20)
        .map(|n| {
            let name = format!("case/{n}");
            let mut commit = moving(&name, 1, n, CommitId::NONE, "opened");
            commit.rows = vec![RowChange {
                table: 3,
                key: format!("office-{n}").into_bytes().into(),
                value: Some(None),
            }];
            let id = commit.id;
            let due = TimerKey { due_ms: 7, entity: entity(&name), name: "t".into(), generation: id };
            commit.timers = vec![TimerChange::Set(due)];
            entry(n, 1, &commit)
        })
        .collect();
    apply_all(&mut state, &entries);
    engine
}

/// A whole pass, a view a step.
fn pass(engine: &MemoryEngine, budget: usize) -> Result<Seen, StorageError> {
    let mut pass = Pass::default();
    for _ in 0..10_000 {
        if pass.step(&*engine.view(), budget)? {
            return Ok(pass.seen().clone());
        }
    }
    panic!("a pass of a small store ends");
}

fn rows(engine: &MemoryEngine) -> u64 {
    let mut rows = 0;
    for cf in Cf::ALL {
        engine
            .scan(cf, &[], keys::END, &mut |_, _| {
                rows += 1;
                ControlFlow::Continue(())
            })
            .expect("memory reads");
    }
    rows
}

fn change(engine: &MemoryEngine, change: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::default();
    change(&mut batch);
    engine.write(batch, Sync::Yes).expect("memory takes it");
}

#[test]
fn a_pass_reads_every_row_once_whatever_its_steps() {
    let engine = store();
    let whole = pass(&engine, usize::MAX).expect("sound");
    assert_eq!((whole.rows, whole.orphans), (rows(&engine), 0));
    for budget in [1, 7, 100, 4_096] {
        assert_eq!(pass(&engine, budget).expect("sound"), whole, "steps of {budget}");
    }
}

#[test]
fn what_changes_meanwhile_disturbs_nothing() {
    let engine = store();
    let mut running = Pass::default();
    assert!(!running.step(&*engine.view(), 200).expect("sound"));
    change(&engine, |batch| batch.delete(Cf::Timer, keys::END[..1].to_vec()));
    let gone = entity("case/7");
    change(&engine, |batch| {
        batch.delete(Cf::Entity, keys::root(&gone));
        batch.delete(Cf::Row, keys::row(3, b"office-7", &gone));
        batch.delete_range(Cf::Timer, Vec::new(), keys::END.to_vec());
    });
    while !running.step(&*engine.view(), 200).expect("sound") {}
    assert_eq!(running.seen().orphans, 0);
}

#[test]
fn rows_without_their_owner_are_told_and_are_no_rot() {
    let engine = store();
    let gone = entity("case/7");
    change(&engine, |batch| batch.delete(Cf::Entity, keys::root(&gone)));
    let seen = pass(&engine, 1_000).expect("no rot");
    assert_eq!(seen.orphans, 2, "{seen:?}");
    assert!(seen.orphans_told.iter().all(|text| text.contains("case/7")), "{seen:?}");
    change(&engine, |batch| batch.delete(Cf::Journal, keys::journal(20).to_vec()));
    assert_eq!(pass(&engine, 1_000).expect("the chain only ends earlier").orphans, 3);
}

#[test]
fn a_flipped_bit_a_gap_and_a_foreign_row_are_damage() {
    let engine = store();
    for cf in [Cf::Entity, Cf::Journal] {
        let mut first = None;
        engine
            .scan(cf, &[], keys::END, &mut |key, value| {
                first = Some((key.to_vec(), value.to_vec()));
                ControlFlow::Break(())
            })
            .expect("memory reads");
        let (key, good) = first.expect("has rows");
        let mut bad = good.clone();
        *bad.last_mut().expect("not empty") ^= 1;
        change(&engine, |batch| batch.put(cf, key.clone(), bad));
        assert!(matches!(pass(&engine, 500), Err(StorageError::Corrupt { .. })), "{cf:?}");
        change(&engine, |batch| batch.put(cf, key, good));
    }
    let chain = engine.get(Cf::Journal, &keys::journal(9)).expect("reads").expect("is there");
    change(&engine, |batch| batch.put(Cf::Journal, keys::journal(10).to_vec(), chain.to_vec()));
    let error = pass(&engine, 500).expect_err("row 9 stands where 10 belongs");
    assert!(error.to_string().contains("chain breaks at 10"), "{error}");
    change(&engine, |batch| batch.delete(Cf::Journal, keys::journal(10).to_vec()));
    let error = pass(&engine, 500).expect_err("a gap");
    assert!(error.to_string().contains("from 9 to 11"), "{error}");
    let framed = okno_storage::codec::frame(record(common::PART, "x").tag, b"x");
    change(&engine, |batch| batch.put(Cf::Row, b"no row of ours".to_vec(), framed));
    assert!(pass(&engine, 500).is_err());
}

#[cfg(feature = "rocksdb")]
#[test]
fn rot_in_a_table_file_is_found() {
    use okno_storage::rocks::{RocksEngine, RocksOptions};
    let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/releases/0.1.0/db");
    let copy = || {
        let to = tempfile::tempdir().expect("temporary directory");
        for file in std::fs::read_dir(&from).expect("a committed directory") {
            let file = file.expect("listed");
            std::fs::copy(file.path(), to.path().join(file.file_name())).expect("copied");
        }
        to
    };
    let scrub = |path: &std::path::Path| {
        let engine = RocksEngine::open(path, &RocksOptions::default())?;
        let mut pass = Pass::default();
        while !pass.step(&*engine.view(), 1_000)? {}
        Ok::<Seen, StorageError>(pass.seen().clone())
    };
    let sound = copy();
    let seen = scrub(sound.path()).expect("sound");
    assert!(seen.rows > 100 && seen.orphans == 0, "{seen:?}");
    let mut tried = 0;
    for file in std::fs::read_dir(sound.path()).expect("listed") {
        let name = file.expect("listed").file_name();
        if !name.to_string_lossy().ends_with(".sst") || !from.join(&name).exists() {
            continue;
        }
        let rotten = copy();
        let path = rotten.path().join(&name);
        let mut bytes = std::fs::read(&path).expect("read");
        // Within the first block, which holds rows: the smallest table has hardly a hundred bytes of them.
        bytes[10] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        let error = scrub(rotten.path()).expect_err("a block's checksum does not match");
        assert!(error.is_rot(), "{name:?}: {error}");
        tried += 1;
    }
    assert!(tried >= 5, "{tried} table files");
}

#[test]
fn a_digest_can_be_followed_and_ended() {
    let engine = store();
    let state = open(&engine);
    let view = state.reader().view();
    let (mut rows, mut bytes) = (0, 0);
    let followed = view.digest_with::<StorageError>(&mut |row| {
        (rows, bytes) = (rows + 1, bytes + row);
        Ok(())
    });
    assert_eq!(followed.expect("reads"), view.digest().expect("reads"));
    assert!(rows > 20 * 5 && bytes > rows, "root, row, timer, journal and its index of every case: {rows}");
    let mut left = 3;
    let ended = view.digest_with(&mut |_| {
        left -= 1;
        if left > 0 { Ok(()) } else { Err(StorageError::TooLarge("enough".into())) }
    });
    assert!(ended.is_err() && left == 0, "{ended:?}");
}
