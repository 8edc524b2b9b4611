//! The identity file: torn writes, rot, refusals; over memory and over a real file.

use okno_storage::{
    error::StorageError,
    identity::{FileIdentityMedium, Identity, IdentityMedium, IdentityRecord, Member},
    memory::MemoryIdentity,
};
use std::fs;
use uuid::Uuid;

fn record() -> IdentityRecord {
    IdentityRecord {
        cluster: Uuid::from_u128(1),
        node_id: 2,
        incarnation: Uuid::from_u128(3),
        members: (1..=3)
            .map(|id| Member { node_id: id, peer_address: format!("n{id}.example:7401") })
            .collect(),
        pins: vec![(1, Uuid::from_u128(9))],
        term: 5,
        vote: 1,
        synced_term: 4,
        synced_index: 77,
        live_directory: "db".into(),
        sequence: 0,
        later: Default::default(),
    }
}

fn open(medium: &MemoryIdentity) -> Result<Identity, StorageError> {
    Identity::open(Box::new(medium.clone()))
}

#[test]
fn it_is_made_once_and_then_changed() {
    let medium = MemoryIdentity::new();
    assert!(matches!(open(&medium), Err(StorageError::Corrupt { .. })));
    let mut identity = Identity::create(Box::new(medium.clone()), record()).expect("first time");
    assert!(matches!(
        Identity::create(Box::new(medium.clone()), record()),
        Err(StorageError::Directory { .. })
    ));
    for term in 6..20 {
        identity.update(|r| r.term = term).expect("memory does not fail");
        let found = open(&medium).expect("valid");
        assert_eq!(found.record(), identity.record());
        assert_eq!((found.record().term, found.record().sequence), (term, term - 5));
    }
    identity.update(|_| {}).expect("memory does not fail");
    assert_eq!(identity.record().sequence, 14, "nothing changed, nothing written");
}

#[test]
fn a_torn_write_leaves_the_record_before_it() {
    // (A write torn behind its last changed byte is whole: the old padding stands there.)
    for keep in [0, 1, 3, 4, 17, 40, 90, 120] {
        let medium = MemoryIdentity::new();
        let mut identity = Identity::create(Box::new(medium.clone()), record()).expect("first time");
        identity.update(|r| r.term = 6).expect("memory does not fail");
        identity.update(|r| r.term = 7).expect("memory does not fail");
        medium.tear_next_write(keep);
        assert!(identity.update(|r| (r.term, r.vote) = (8, 3)).is_err());
        let mut found = open(&medium).expect("one slot is whole");
        assert_eq!((found.record().term, found.record().vote), (7, 1), "kept {keep}");
        // The next write goes over the torn slot, not over the whole one.
        medium.tear_next_write(keep);
        assert!(found.update(|r| r.term = 9).is_err());
        assert_eq!(open(&medium).expect("still whole").record().term, 7);
    }
}

#[test]
fn both_slots_rotten_is_an_error_that_names_them() {
    let medium = MemoryIdentity::new();
    let mut identity = Identity::create(Box::new(medium.clone()), record()).expect("first time");
    identity.update(|r| r.term = 6).expect("memory does not fail");
    medium.rot(0, 30);
    assert_eq!(open(&medium).expect("slot 1 is whole").record().term, 6);
    medium.rot(1, 30);
    let Err(error) = open(&medium) else { panic!("nothing is whole") };
    let text = error.to_string();
    assert!(text.contains("slot 0") && text.contains("slot 1"), "{text}");
    assert!(Identity::create(Box::new(medium), record()).is_err(), "a damaged identity is not overwritten");
}

#[test]
fn a_file_holds_it_and_a_slot_torn_in_it_is_noticed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("identity");
    let medium = || Box::new(FileIdentityMedium::new(&path).expect("opens"));
    assert!(matches!(Identity::open(medium()), Err(StorageError::Corrupt { .. })));
    let mut identity = Identity::create(medium(), record()).expect("first time");
    identity.update(|r| r.synced_index = 100).expect("writes");
    assert_eq!(Identity::open(medium()).expect("valid").record(), identity.record());
    assert!(Identity::create(medium(), record()).is_err());
    let mut bytes = fs::read(&path).expect("reads");
    assert_eq!(bytes.len() % 4096, 0);
    let half = bytes.len() / 2;
    bytes[half + 20] ^= 1;
    fs::write(&path, &bytes).expect("writes");
    assert_eq!(Identity::open(medium()).expect("slot 0 is whole").record().synced_index, 77);
    fs::write(&path, &bytes[..half - 100]).expect("writes");
    assert_eq!(Identity::open(medium()).expect("the record is whole").record().synced_index, 77);
    fs::write(&path, b"").expect("writes");
    assert!(Identity::open(medium()).is_err());
    let mut raw = FileIdentityMedium::new(&path).expect("opens");
    raw.write(1, b"x").expect("writes");
    assert!(raw.read(0).expect("reads").is_none() && raw.read(1).expect("reads").is_some());
}

#[test]
fn the_chain_begins_with_cluster_and_members() {
    let first = record().genesis_chain();
    let changed = |change: fn(&mut IdentityRecord)| {
        let mut r = record();
        change(&mut r);
        r.genesis_chain()
    };
    assert_eq!(first, changed(|r| (r.node_id, r.term, r.sequence) = (9, 9, 9)), "the same on every node");
    assert_eq!(first, changed(|r| r.members.reverse()), "in order of node id");
    assert_ne!(first, changed(|r| r.cluster = Uuid::from_u128(2)));
    assert_ne!(first, changed(|r| r.members[0].peer_address.push('0')));
    assert_ne!(first, changed(|r| r.members[0].node_id = 9));
}
