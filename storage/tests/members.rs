//! The table of members: what may change, that it is written with its entry, and that it is replicated.

mod common;

use bytes::Bytes;
use common::{entry, members, system};
use okno_storage::{
    commit::SystemOp,
    log::{EntryKind, LogEntry},
    members::{MEMBERS_MAX, MemberChange, MemberRefusal, MemberRole, Members},
    memory::MemoryEngine,
    state::StateStore,
};
use uuid::Uuid;

fn add(node_id: u64) -> MemberChange {
    MemberChange::AddLearner { node_id, peer_address: format!("n{node_id}:7401"), incarnation: None }
}

fn promote(node_id: u64) -> MemberChange {
    MemberChange::Promote { node_id }
}

fn remove(node_id: u64) -> MemberChange {
    MemberChange::Remove { node_id }
}

#[test]
fn an_id_lives_once() {
    let founded = Members::founded(&members());
    assert_eq!(founded.voters().collect::<Vec<_>>(), [1, 2, 3]);
    let refused = |table: &Members, change: &MemberChange| table.check(change).expect_err("is refused");
    assert_eq!(refused(&founded, &add(2)), MemberRefusal::Already(2));
    assert_eq!(refused(&founded, &add(0)), MemberRefusal::IdZero);
    assert_eq!(refused(&founded, &promote(4)), MemberRefusal::Unknown(4));
    assert_eq!(refused(&founded, &promote(3)), MemberRefusal::Voter(3));
    let four = founded.with(&add(4), 10).expect("is new");
    assert_eq!((four.learners().collect::<Vec<_>>(), four.voters().count()), (vec![4], 3));
    assert_eq!((four.get(4).map(|m| m.added_index), four.changed_index), (Some(10), 10));
    let same_address =
        MemberChange::AddLearner { node_id: 5, peer_address: "n4:7401".into(), incarnation: None };
    assert_eq!(refused(&four, &same_address), MemberRefusal::AddressTaken(4));
    let four =
        four.with(&promote(4), 11).expect("is a learner").with(&remove(1), 12).expect("others are left");
    assert_eq!(four.voters().collect::<Vec<_>>(), [2, 3, 4]);
    for change in [add(1), promote(1), remove(1)] {
        assert_eq!(refused(&four, &change), MemberRefusal::IdUsed(1), "for ever");
    }
    let one = four.with(&remove(2), 13).and_then(|t| t.with(&remove(3), 14)).expect("one is left");
    assert_eq!(refused(&one, &remove(4)), MemberRefusal::LastVoter(4));
    assert_eq!(one.removed, [1, 2, 3]);
    let mut full = one;
    for node_id in 10.. {
        match full.with(&add(node_id), 20) {
            Ok(next) => full = next,
            Err(refusal) => {
                assert_eq!((refusal, full.current.len()), (MemberRefusal::Full, MEMBERS_MAX));
                break;
            }
        }
    }
}

fn open(engine: &MemoryEngine) -> StateStore {
    common::open(engine)
}

#[test]
fn the_table_is_written_with_its_entry() {
    let engine = MemoryEngine::new();
    let mut state = open(&engine);
    assert_eq!(state.members().expect("reads"), Members::default(), "before the founding there is none");
    let found = SystemOp::Found { cluster: Uuid::from_u128(1), members: members() };
    let change = LogEntry {
        index: 2,
        term: 1,
        kind: EntryKind::Configuration,
        data: add(4).encode().expect("encodes"),
    };
    common::apply_all(&mut state, &[entry(1, 1, &system("founding", 1, 1, found))]);
    assert_eq!(state.members().expect("reads"), Members::founded(&members()));
    let before = state.reader().view().digest().expect("reads");
    state.apply(std::slice::from_ref(&change), 2).expect("applies");
    assert!(state.reload().is_err(), "an entry waits for its configuration");
    let decoded = MemberChange::decode(&change.data).expect("decodes");
    state.set_configuration(Bytes::from_static(b"conf 2"), Some(&decoded)).expect("writes");
    let expected = Members::founded(&members()).with(&add(4), 2).expect("is new");
    assert_eq!(state.reader().view().members().expect("reads"), expected);
    assert_ne!(state.reader().view().digest().expect("reads"), before, "it is replicated");
    assert_eq!(state.members().expect("reads").get(4).map(|m| m.role), Some(MemberRole::Learner));
    // One batch, and on disk at once: who is taken out closes itself, and nobody may need its vote again.
    assert_eq!(engine.unsynced(), 0);
    let kept = open(&engine.crash(0));
    assert_eq!((kept.mark().index, &kept.mark().conf_state[..]), (2, &b"conf 2"[..]));
    assert_eq!(kept.members().expect("reads"), expected);
    // What the table refuses changes nothing.
    let again = LogEntry { index: 3, ..change };
    state.apply(&[again], 3).expect("applies");
    assert!(state.set_configuration(Bytes::from_static(b"conf 3"), Some(&add(4))).is_err());
    state.set_configuration(Bytes::from_static(b"conf 2"), None).expect("an entry that changes nothing");
    assert_eq!((state.mark().index, state.members().expect("reads")), (3, expected));
}
