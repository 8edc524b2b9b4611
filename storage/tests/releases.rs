//! Data directories that earlier releases wrote, opened by today's code: identity, database, log, hash chain, digest.
//!
//! Each stands in `tests/releases/<version>/` as its node left it after a clean stop: a cluster of one with a
//! catalogue, an office, three cases and a ticket. Every release adds its own and none is ever changed.
#![cfg(feature = "rocksdb")]

use okno_storage::{
    chain_step,
    commit::EntityKey,
    engine::Engine,
    identity::{FileIdentityMedium, Identity, IdentityRecord},
    log::LogStore,
    rocks::{LogTail, RocksEngine, RocksOptions},
    state::{Genesis, StateStore},
};
use std::{fs, path::Path, sync::Arc};
use tempfile::TempDir;

struct Release {
    version: &'static str,
    applied: u64,
    /// The hash chain and the digest of all rows there, as that release itself told them (`oknoctl digest`).
    chain: &'static str,
    digest: &'static str,
    level: u32,
    cases: &'static [&'static str],
}

const RELEASES: &[Release] = &[Release {
    version: "0.1.0",
    applied: 19,
    chain: "9e99f9d99c41660fb479ad7fa47a6a0e6c9df74f188890131ad9fbb8fe67e8f1",
    digest: "6349e4696032390925e4d8d1a895f6e517e93a520d4e935974eeec88217dda94",
    level: 1,
    cases: &[
        "case/1febb457-6bef-895d-ba14-ca376439990c",
        "case/0a3d57ad-be42-85d6-a99f-b8671e9f9a37",
        "case/2d71ee1e-f364-8c02-b03a-42cbfaa09d29",
    ],
}];

/// A copy to work on: opening a database writes to it.
fn copy(version: &str) -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/releases").join(version);
    let to = tempfile::tempdir().expect("temporary directory");
    fs::create_dir(to.path().join("db")).expect("made");
    for below in ["", "db"] {
        for entry in fs::read_dir(from.join(below)).expect("a committed directory") {
            let entry = entry.expect("listed");
            if entry.file_type().expect("known").is_file() {
                fs::copy(entry.path(), to.path().join(below).join(entry.file_name())).expect("copied");
            }
        }
    }
    to
}

fn identity(directory: &Path) -> IdentityRecord {
    let medium = FileIdentityMedium::new(directory.join("identity")).expect("a file");
    Identity::open(Box::new(medium)).expect("every release's identity opens for ever").record().clone()
}

fn genesis(record: &IdentityRecord) -> Genesis {
    Genesis { chain: record.genesis_chain(), conf_state: bytes::Bytes::new() }
}

fn judge(release: &Release, directory: &Path, engine: Arc<dyn Engine>) {
    let version = release.version;
    let record = identity(directory);
    assert_eq!((record.node_id, record.members.len(), record.pins.len()), (1, 1, 1), "{version}");
    let log = LogStore::open(engine.clone()).expect("every release's log opens for ever");
    log.verify().expect("every entry reads");
    let last = (log.term(log.last_index()).expect("reads").unwrap_or_default(), log.last_index());
    assert!(last >= (record.synced_term, record.synced_index), "{version}: {last:?} {record:?}");
    let entries = log.entries(log.first_index(), log.last_index() + 1, usize::MAX).expect("reads");
    for entry in entries.iter().filter(|entry| !entry.data.is_empty()) {
        okno_storage::commit::Commit::decode(&entry.data).expect("every commit decodes for ever");
    }
    let state = StateStore::open(engine, genesis(&record)).expect("every release's state opens for ever");
    let mark = state.mark();
    assert_eq!((mark.index, &hex::encode(mark.chain)[..]), (release.applied, release.chain), "{version}");
    assert_eq!(state.reader().level(), release.level, "{version}");
    let view = state.reader().view();
    let (cluster, members) = view.founding().expect("reads").expect("founded");
    assert_eq!((cluster, members.len()), (record.cluster, 1), "{version}");
    let mut chain = record.genesis_chain();
    let journal = view.journal(0, usize::MAX).expect("every row decodes");
    assert_eq!(journal.len() as u64, release.applied, "{version}");
    for row in &journal {
        chain = chain_step(&chain, row.index, row.term, row.outcome_code, &row.events_hash, &row.rest);
        assert_eq!(chain, row.chain, "{version}: entry {}", row.index);
    }
    assert_eq!(chain, mark.chain, "{version}");
    for case in release.cases {
        let key = EntityKey::parse(case).expect("a key");
        let stored = view.entity(&key).expect("reads").expect("is there");
        assert!(!stored.parts.is_empty(), "{version}: {case} has documents");
    }
    assert_eq!(hex::encode(view.digest().expect("reads")), release.digest, "{version}");
}

#[test]
fn what_every_release_wrote_opens_and_comes_to_the_same() {
    for release in RELEASES {
        let directory = copy(release.version);
        let database = directory.path().join("db");
        let options = RocksOptions::default();
        let looking = RocksEngine::open_read_only(&database, &options).expect("opens for looking at");
        judge(release, directory.path(), Arc::new(looking));
        assert_eq!(RocksEngine::log_tail(&database, &options).expect("reads"), LogTail::Whole);
        // For writing twice: the second time what today's code has written is read too.
        for _ in 0..2 {
            let engine = Arc::new(RocksEngine::open(&database, &options).expect("opens for writing"));
            judge(release, directory.path(), engine.clone());
            engine.flush().expect("a disk that works");
        }
    }
}

#[test]
fn every_directory_stands_in_the_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/releases");
    let mut found: Vec<String> = fs::read_dir(folder)
        .expect("a committed directory")
        .map(|entry| entry.expect("listed").file_name().into_string().expect("a version"))
        .collect();
    found.sort();
    let known: Vec<&str> = RELEASES.iter().map(|release| release.version).collect();
    assert_eq!(found, known);
}
