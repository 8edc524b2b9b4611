//! A new cluster from what is left: rows, journal and chain go on, everything that says who is new.
#![cfg(feature = "rocksdb")]

mod common;

use common::{apply_all, founded_log, genesis, identity_of, members};
use okno_storage::{
    chain_step,
    identity::{FileIdentityMedium, Identity, IdentityRecord},
    log::{LogEntry, LogStore},
    memory::MemoryEngine,
    recover::{PlannedMember, RecoverPlan, Survivor, TERM_GAP, convert},
    rocks::{RocksEngine, RocksOptions},
    state::StateStore,
};
use std::{path::Path, sync::Arc};
use uuid::Uuid;

const OLD: Uuid = Uuid::from_u128(0xABCD);
const NEW: Uuid = Uuid::from_u128(0xEF);

fn record(node_id: u64) -> IdentityRecord {
    IdentityRecord { term: 4, synced_index: 40, ..identity_of(OLD, node_id) }
}

fn a_log(length: u64) -> Vec<LogEntry> {
    founded_log(OLD, length, "text")
}

/// A node that died with 40 entries, of which it had applied 30.
fn dead(path: &Path, last: u64) {
    let medium = FileIdentityMedium::new(path.join("identity")).expect("opens");
    Identity::create(Box::new(medium), record(2)).expect("made");
    let engine = RocksEngine::open(path.join("db"), &RocksOptions::default()).expect("opens");
    let log = a_log(last);
    LogStore::open(Arc::new(engine.clone()))
        .and_then(|l| l.persist(log.clone(), None, true))
        .expect("writes");
    let genesis = okno_storage::state::Genesis { chain: record(2).genesis_chain(), ..genesis() };
    let mut state = StateStore::open(Arc::new(engine), genesis).expect("opens");
    apply_all(&mut state, &log[..30]);
}

#[test]
fn one_survivor_becomes_a_cluster_with_all_its_log_held() {
    let dir = tempfile::tempdir().expect("temporary directory");
    dead(dir.path(), 40);
    let options = RocksOptions::default();
    let mut survivor = Survivor::open(dir.path(), &options).expect("opens");
    assert!(Survivor::open(dir.path(), &options).is_err(), "one at a time");
    let report = survivor.look().expect("looks");
    assert_eq!((report.applied, report.log_last, report.log_last_term), (30, 40, 1));
    assert_eq!((report.cluster, report.node_id, report.given_up), (OLD, 2, vec![1, 3]));
    assert_eq!(survivor.record(), &record(2), "a look changes nothing");
    let incarnation = Uuid::from_u128(77);
    let recovered = survivor.recover(NEW, incarnation, None).expect("recovers");
    assert_eq!((recovered.index, recovered.term), (40, 1));
    drop(survivor);

    let medium = FileIdentityMedium::new(dir.path().join("identity")).expect("opens");
    let identity = Identity::open(Box::new(medium)).expect("whole");
    let found = identity.record();
    assert_eq!(found, &recovered.identity);
    assert_eq!((found.cluster, found.node_id, found.later.generation), (NEW, 2, 2));
    assert_eq!((found.members.len(), &found.pins[..]), (1, &[(2, incarnation)][..]));
    assert_eq!((found.synced_term, found.synced_index, found.term, found.vote), (1, 40, 4 + TERM_GAP, 0));
    assert_eq!(found.genesis_chain(), record(2).genesis_chain(), "the chain goes on");
    assert_ne!(found.members_hash(), record(2).members_hash());
    assert!(dir.path().join("before-recovery-40").join("CURRENT").exists(), "the old database is kept");

    let engine = RocksEngine::open(dir.path().join(&found.live_directory), &options).expect("opens");
    let log = LogStore::open(Arc::new(engine.clone())).expect("opens");
    assert_eq!((log.truncated(), log.last_index()), ((40, 1), 40));
    assert_eq!(log.hard_state().expect("reads").term, found.term);
    let state = StateStore::open(Arc::new(engine), genesis()).expect("opens");
    assert_eq!(
        (state.mark().index, state.mark().commit, &state.mark().conf_state[..]),
        (40, 40, &[8u8, 2][..])
    );
    let view = state.reader().view();
    let (cluster, founders) = view.founding().expect("reads").expect("is there");
    assert_eq!((cluster, founders.len(), founders[0].incarnation), (NEW, 1, incarnation));
    let table = view.members().expect("reads");
    assert_eq!((table.voters().collect::<Vec<_>>(), &table.removed[..]), (vec![2], &[1, 3][..]));
    assert_eq!(founders[0].peer_address, members()[1].peer_address);
    let journal = view.journal(0, 99).expect("reads");
    let mut chain = record(2).genesis_chain();
    for row in &journal {
        chain = chain_step(&chain, row.index, row.term, row.outcome_code, &row.events_hash, &row.rest);
        assert_eq!(chain, row.chain);
    }
    assert_eq!((journal.len(), chain), (40, recovered.chain));
}

#[test]
fn a_survivor_that_lost_its_own_end_recovers_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    dead(dir.path(), 39);
    let mut survivor = Survivor::open(dir.path(), &RocksOptions::default()).expect("opens");
    let error = survivor.recover(NEW, Uuid::from_u128(77), None).expect_err("39 of 40 that were synced");
    assert!(matches!(error, okno_storage::error::StorageError::LogLost { found_index: 39, .. }), "{error}");
    assert_eq!(survivor.record(), &record(2));
}

/// From a backup's copy: as many members as wanted, alike but for who they are.
#[test]
fn copies_become_members_of_one_new_cluster() {
    let log = a_log(20);
    let mut digests = Vec::new();
    let member = |id: u64| PlannedMember {
        node_id: id,
        peer_address: format!("new{id}:1"),
        incarnation: Uuid::from_u128(100 + u128::from(id)),
    };
    for node_id in 5..=7 {
        let engine = MemoryEngine::new();
        LogStore::open(Arc::new(engine.clone()))
            .and_then(|l| l.persist(log.clone(), None, true))
            .expect("writes");
        apply_all(&mut common::open(&engine), &log);
        let plan =
            RecoverPlan { cluster: NEW, generation: 3, members: (5..=7).map(member).collect(), node_id };
        let made = convert(&engine, &plan, &record(2)).expect("converts");
        assert_eq!(made, convert(&engine, &plan, &record(2)).expect("again"));
        assert_eq!((made.identity.node_id, made.identity.later.generation), (node_id, 3));
        let state = common::open(&engine);
        assert_eq!(state.members().expect("reads").removed, [1, 2, 3]);
        digests.push(state.reader().view().digest().expect("reads"));
        for wrong in [
            RecoverPlan { cluster: OLD, ..plan.clone() },
            RecoverPlan { generation: 1, ..plan.clone() },
            RecoverPlan { node_id: 4, ..plan.clone() },
            RecoverPlan { members: vec![], ..plan.clone() },
            RecoverPlan { members: vec![member(5), member(5)], node_id: 5, ..plan },
        ] {
            assert!(convert(&engine, &wrong, &record(2)).is_err(), "{wrong:?}");
        }
    }
    assert!(digests.windows(2).all(|w| w[0] == w[1]));
}
