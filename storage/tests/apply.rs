//! Apply is a function of (state, entry) alone: against a naive model, over any split into batches, with cold
//! caches and after crashes (design §2; rules 4, 6, 7, 13, 15).

mod common;

use bytes::Bytes;
use common::{
    apply_all, asked, bare, choices, entity, entry, genesis, make_log, moving, open, request, system,
};
use okno_storage::{
    commit::{
        Body, Commit, CommitId, FenceReason, Message, MessageKey, Outcome, RequestKey, RowChange, SystemOp,
        TimerChange, TimerKey, Value,
    },
    engine::{Cf, Engine},
    error::StorageError,
    log::{EntryKind, LogEntry, LogStore},
    memory::MemoryEngine,
    state::{AppliedEntry, StateStore},
};
use proptest::prelude::*;
use std::sync::Arc;

fn outcomes(entries: &[AppliedEntry]) -> Vec<Outcome> {
    entries.iter().map(|e| e.outcome.clone()).collect()
}

fn digest(state: &StateStore) -> [u8; 32] {
    state.reader().view().digest().expect("memory does not fail")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Outcomes and rows are the model's.
    #[test]
    fn apply_agrees_with_the_model(choices in choices(80)) {
        let (log, expected, model) = make_log(&choices);
        let mut state = open(&MemoryEngine::new());
        let applied = apply_all(&mut state, &log);
        prop_assert_eq!(outcomes(&applied), expected);
        model.compare(&state);
    }

    /// Any split gives the same outcomes, chain and rows; so do caches emptied by a restart in between.
    #[test]
    fn any_split_gives_the_same_state(choices in choices(80), splits in proptest::collection::vec((1usize..20, any::<bool>()), 1..40)) {
        let (log, expected, _) = make_log(&choices);
        let mut whole = open(&MemoryEngine::new());
        apply_all(&mut whole, &log);

        let engine = MemoryEngine::new();
        let mut split = open(&engine);
        let (mut rest, mut sizes, mut seen) = (&log[..], splits.iter().cycle(), Vec::new());
        while !rest.is_empty() {
            let (size, restart) = sizes.next().expect("cycles");
            let (now, later) = rest.split_at(rest.len().min(*size));
            seen.extend(outcomes(&apply_all(&mut split, now)));
            rest = later;
            if *restart {
                split = open(&engine);
            }
        }
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(split.mark(), whole.mark());
        prop_assert_eq!(digest(&split), digest(&whole));
    }

    /// A crash loses any unsynced suffix of log and apply together: what is left is a state the log explains, and
    /// replaying leads to the same end.
    #[test]
    fn a_crash_and_replay_lead_to_the_same_state(choices in choices(60), batch in 1usize..8, sync_every in 1usize..4, lost in any::<prop::sample::Index>()) {
        let (log, ..) = make_log(&choices);
        let mut whole = open(&MemoryEngine::new());
        apply_all(&mut whole, &log);

        let engine = MemoryEngine::new();
        let store = LogStore::open(Arc::new(engine.clone())).expect("opens");
        let mut state = open(&engine);
        for (n, entries) in log.chunks(batch).enumerate() {
            store.persist(entries.to_vec(), None, n % sync_every == 0).expect("memory does not fail");
            apply_all(&mut state, entries);
        }
        let crashed = engine.crash(lost.index(engine.unsynced() + 1));
        let store = LogStore::open(Arc::new(crashed.clone())).expect("opens after a crash");
        let mut state = open(&crashed);
        let applied = state.mark().index;
        prop_assert!(applied <= store.last_index(), "applied state never runs ahead of the log");
        // What was lost comes again from the leader.
        let missing: Vec<LogEntry> = log[store.last_index() as usize..].to_vec();
        store.persist(missing, None, true).expect("memory does not fail");
        let again = store.entries(applied + 1, u64::MAX, usize::MAX).expect("reads");
        apply_all(&mut state, &again);
        prop_assert_eq!(state.mark(), whole.mark());
        prop_assert_eq!(digest(&state), digest(&whole));
    }

    /// The journal has a row for every entry, and the chain can be computed again from it.
    #[test]
    fn the_chain_follows_from_the_journal(choices in choices(60)) {
        let (log, expected, _) = make_log(&choices);
        let mut state = open(&MemoryEngine::new());
        apply_all(&mut state, &log);
        let journal = state.reader().view().journal(0, usize::MAX).expect("reads");
        prop_assert_eq!(journal.len(), log.len());
        let mut chain = genesis().chain;
        for ((row, entry), outcome) in journal.iter().zip(&log).zip(expected) {
            prop_assert_eq!((row.index, row.term, row.outcome_code), (entry.index, entry.term, outcome.code()));
            chain = okno_storage::chain_step(&chain, row.index, row.term, row.outcome_code, &row.events_hash, &row.rest);
            prop_assert_eq!(chain, row.chain);
            if outcome == Outcome::Applied {
                prop_assert_eq!(&row.events, &Commit::decode(&entry.data).expect("was encoded").events);
            }
        }
        prop_assert_eq!(chain, state.mark().chain);
    }
}

fn outcome(state: &mut StateStore, commit: &Commit) -> Outcome {
    let index = state.mark().index + 1;
    let applied = apply_all(state, &[entry(index, commit.term.max(state.mark().term), commit)]);
    applied[0].outcome.clone()
}

#[test]
fn checks_come_in_the_order_of_the_design() {
    let mut state = open(&MemoryEngine::new());
    let asked_first =
        asked(moving("case/a", 1, 1, CommitId::NONE, "first"), request(1000, 1, "w/1", 1), "first answer");
    assert_eq!(outcome(&mut state, &asked_first), Outcome::Applied);
    let quarantine = SystemOp::Quarantine { entity: entity("case/a"), reason: "panics".into() };
    assert_eq!(outcome(&mut state, &system("quarantine", 2, 2, quarantine)), Outcome::Applied);

    // Wrong in every respect: term, quarantine, base, message, timer. Each check hides those behind it.
    let mut bad = moving("case/a", 1, 3, CommitId { term: 9, counter: 9 }, "second");
    let missing = MessageKey {
        target: entity("case/a"),
        source: entity("case/b"),
        commit: CommitId { term: 1, counter: 5 },
        place: 0,
    };
    bad.consumed = vec![missing];
    let unset = TimerKey {
        due_ms: 1,
        entity: entity("case/a"),
        name: "t".into(),
        generation: CommitId { term: 1, counter: 5 },
    };
    bad.timers = vec![TimerChange::Fire(unset)];
    let repeated = asked(bad.clone(), request(1000, 1, "w/1", 1), "second answer");
    let Outcome::Duplicate(reply) = outcome(&mut state, &repeated) else {
        panic!("a known request is a duplicate")
    };
    assert_eq!(&reply.body[..], b"first answer");
    let reused = asked(bad.clone(), request(1000, 1, "w/1", 2), "second answer");
    assert_eq!(outcome(&mut state, &reused), Outcome::Fenced(FenceReason::RequestReused));
    assert_eq!(outcome(&mut state, &bad), Outcome::Fenced(FenceReason::Term));
    (bad.term, bad.id.term) = (2, 2);
    assert_eq!(outcome(&mut state, &bad), Outcome::Fenced(FenceReason::Quarantined));
    assert_eq!(
        outcome(&mut state, &system("quarantine", 2, 4, SystemOp::Release { entity: entity("case/a") })),
        Outcome::Applied
    );
    assert_eq!(outcome(&mut state, &bad), Outcome::Fenced(FenceReason::Base));
    bad.base = asked_first.id;
    assert_eq!(outcome(&mut state, &bad), Outcome::Fenced(FenceReason::Message));
    bad.consumed.clear();
    assert_eq!(outcome(&mut state, &bad), Outcome::Fenced(FenceReason::Timer));
    bad.timers.clear();
    assert_eq!(outcome(&mut state, &bad), Outcome::Applied);
    // The same id of another principal is another request.
    let other = asked(moving("case/b", 2, 9, CommitId::NONE, "x"), request(1000, 1, "w/2", 7), "other");
    assert_eq!(outcome(&mut state, &other), Outcome::Applied);
}

#[test]
fn the_entrys_term_decides_and_an_old_leaders_entry_applies() {
    let mut state = open(&MemoryEngine::new());
    let late = moving("case/a", 3, 1, CommitId::NONE, "decided in term 3");
    let fenced = apply_all(&mut state, &[entry(1, 4, &late)]);
    assert_eq!(fenced[0].outcome, Outcome::Fenced(FenceReason::Term));
    let old =
        moving("case/a", 4, 1, CommitId::NONE, "proposed by the leader of term 4, committed by that of 5");
    let applied = apply_all(&mut state, &[entry(2, 4, &old)]);
    assert_eq!(applied[0].outcome, Outcome::Applied);
    assert_eq!(state.mark().term, 4);
}

#[test]
fn a_commit_without_events_neither_moves_nor_creates_its_entity() {
    let mut state = open(&MemoryEngine::new());
    let refused = asked(bare("case/a", 1, 1, CommitId::NONE), request(1000, 1, "w/1", 1), "refused");
    assert_eq!(outcome(&mut state, &refused), Outcome::Applied);
    let view = state.reader().view();
    assert_eq!(view.entity(&entity("case/a")).expect("reads"), None);
    assert_eq!(outcome(&mut state, &moving("case/a", 1, 2, CommitId::NONE, "x")), Outcome::Applied);
    let mut writes = bare("case/a", 1, 3, CommitId { term: 1, counter: 2 });
    writes.root = Some(common::inline(common::ROOT, "x"));
    assert!(matches!(writes.encode(), Err(StorageError::Corrupt { .. })));
}

#[test]
fn fenced_commits_leave_no_trace_but_in_the_journal() {
    let engine = MemoryEngine::new();
    let mut state = open(&engine);
    let good = moving("case/a", 1, 1, CommitId::NONE, "x");
    assert_eq!(outcome(&mut state, &good), Outcome::Applied);
    let sizes = || [Cf::Entity, Cf::Row, Cf::Outbox, Cf::Timer, Cf::Request].map(|cf| engine.len(cf));
    let (before, time) = (sizes(), state.mark().time_ms);
    let mut bad = asked(moving("case/a", 1, 2, CommitId::NONE, "y"), request(1000, 1, "w/1", 1), "no");
    bad.time_ms = 5_000_000;
    let key = MessageKey { target: entity("case/b"), source: entity("case/a"), commit: bad.id, place: 0 };
    bad.sent = vec![Message { key, hops: 0, answers: None, record: common::record(common::EVENT, "m") }];
    bad.timers = vec![TimerChange::Set(TimerKey {
        due_ms: 1,
        entity: entity("case/a"),
        name: "t".into(),
        generation: bad.id,
    })];
    assert_eq!(outcome(&mut state, &bad), Outcome::Fenced(FenceReason::Base));
    assert_eq!((sizes(), state.mark().time_ms), (before, time));
    let row = &state.reader().view().journal(1, 1).expect("reads")[0];
    assert_eq!((row.outcome_code, row.entity.clone(), row.events.len()), (19, Some(entity("case/a")), 0));
}

#[test]
fn replicated_time_never_goes_back() {
    let mut state = open(&MemoryEngine::new());
    for (counter, (time_ms, expected)) in [(100, 100), (50, 100), (150, 150)].into_iter().enumerate() {
        let mut commit = system("time", 1, counter as u64 + 1, SystemOp::Time);
        commit.time_ms = time_ms;
        assert_eq!(outcome(&mut state, &commit), Outcome::Applied);
        assert_eq!(state.reader().applied(), (counter as u64 + 1, expected));
    }
}

#[test]
fn a_purge_is_honoured_within_its_batch_and_by_the_caches() {
    let mut state = open(&MemoryEngine::new());
    let ask = |counter: u64, ms: i64, hash: u8| {
        asked(bare("case/a", 1, counter, CommitId::NONE), request(ms, 1, "w/1", hash), "done")
    };
    let purge = |counter, before_ms| system("purge", 1, counter, SystemOp::PurgeRequests { before_ms });
    let commits =
        [ask(1, 1000, 1), ask(2, 2000, 1), purge(3, 1500), ask(4, 1000, 2), ask(5, 2000, 2), ask(6, 1000, 2)];
    let entries: Vec<LogEntry> = commits.iter().zip(1..).map(|(c, index)| entry(index, 1, c)).collect();
    let seen = outcomes(&apply_all(&mut state, &entries));
    assert_eq!(seen[3], Outcome::Applied, "purged: the id may be used again");
    assert_eq!(seen[4], Outcome::Fenced(FenceReason::RequestReused), "younger than the purge: kept");
    assert!(matches!(seen[5], Outcome::Duplicate(_)), "remembered again after the purge");
    let key = |ms| request(ms, 1, "w/1", 0).key;
    let remembered = |key: &RequestKey| state.reader().request(key).expect("reads").map(|r| r.hash[0]);
    assert_eq!((remembered(&key(1000)), remembered(&key(2000))), (Some(2), Some(1)));
}

#[test]
fn the_first_founding_stands() {
    let mut state = open(&MemoryEngine::new());
    let found = |counter, cluster| {
        let op = SystemOp::Found { cluster: uuid::Uuid::from_u128(cluster), members: common::members() };
        system("founding", 1, counter, op)
    };
    assert_eq!(state.reader().view().founding().expect("reads"), None);
    let both: Vec<LogEntry> =
        [found(1, 1), found(2, 2)].iter().zip(1..).map(|(c, i)| entry(i, 1, c)).collect();
    apply_all(&mut state, &both);
    apply_all(&mut state, &[entry(3, 1, &found(3, 3))]);
    let (cluster, members) = state.reader().view().founding().expect("reads").expect("founded");
    assert_eq!((cluster.as_u128(), members), (1, common::members()));
}

#[test]
fn slices_end_at_markers_and_around_configuration_entries() {
    let mut state = open(&MemoryEngine::new());
    let marker = system("marker", 1, 2, SystemOp::Marker);
    let conf = LogEntry { index: 4, term: 1, kind: EntryKind::Configuration, data: "c".into() };
    let entries = [
        entry(1, 1, &moving("case/a", 1, 1, CommitId::NONE, "x")),
        entry(2, 1, &marker),
        entry(3, 1, &moving("case/b", 1, 3, CommitId::NONE, "x")),
        conf,
        entry(5, 1, &moving("case/c", 1, 4, CommitId::NONE, "x")),
    ];
    let slice = state.apply(&entries, 5).expect("applies");
    assert_eq!((slice.first, slice.last, slice.marker), (1, 2, Some(2)));
    let slice = state.apply(&entries[2..], 5).expect("applies");
    assert_eq!((slice.first, slice.last, slice.marker), (3, 3, None));
    let slice = state.apply(&entries[3..], 5).expect("applies");
    assert_eq!((slice.first, slice.last), (4, 4));
    // Until its configuration is known the entry is not written, and nothing goes on.
    assert_eq!(state.reader().view().mark().expect("reads").index, 3);
    assert_eq!(state.reader().applied().0, 3);
    assert!(state.apply(&entries[4..], 5).is_err());
    state.set_conf_state("conf 1".into()).expect("memory does not fail");
    let mark = state.reader().view().mark().expect("reads");
    assert_eq!((mark.index, &mark.conf_state[..], mark.commit), (4, &b"conf 1"[..], 5));
    assert_eq!(state.apply(&entries[4..], 5).expect("applies").last, 5);
    assert_eq!(&state.reader().view().mark().expect("reads").conf_state[..], b"conf 1");
}

#[test]
fn what_cannot_be_decoded_stops_apply_and_changes_nothing() {
    let engine = MemoryEngine::new();
    let mut state = open(&engine);
    let good = entry(1, 1, &moving("case/a", 1, 1, CommitId::NONE, "x"));
    let mut rotten = good.data.to_vec();
    let last = rotten.len() - 1;
    rotten[last] ^= 1;
    let bad = LogEntry { index: 2, data: rotten.into(), ..good.clone() };
    let mark = state.mark().clone();
    assert!(matches!(state.apply(&[good.clone(), bad], 2), Err(StorageError::Corrupt { .. })));
    assert_eq!((state.mark(), engine.len(Cf::Journal)), (&mark, 0));
    assert_eq!(state.apply(&[good], 1).expect("goes on where it stood").last, 1);
}

#[test]
fn an_entry_out_of_order_is_refused() {
    let mut state = open(&MemoryEngine::new());
    let commit = moving("case/a", 2, 1, CommitId::NONE, "x");
    assert!(state.apply(&[entry(2, 2, &commit)], 2).is_err());
    assert!(state.apply(&[entry(1, 2, &commit)], 1).is_ok());
    assert!(state.apply(&[entry(2, 1, &commit)], 2).is_err(), "terms do not fall");
}

#[test]
fn commits_that_break_their_form_are_not_encoded() {
    let good = || moving("case/a", 1, 1, CommitId::NONE, "abc");
    assert!(good().encode().is_ok());
    type Spoil = fn(&mut Commit);
    let breaks: [(&str, Spoil); 10] = [
        ("id of another term", |c| c.id.term = 2),
        ("a row of the journal's own table", |c| {
            c.rows = vec![RowChange { table: u16::MAX, key: Bytes::from_static(b"k"), value: Some(None) }];
        }),
        ("no root", |c| c.root = None),
        ("body outside the event", |c| {
            c.root = Some(Value { tag: common::ROOT, body: Body::OfEvent { event: 0, start: 1, len: 3 } });
        }),
        ("body of no event", |c| {
            c.root = Some(Value { tag: common::ROOT, body: Body::OfEvent { event: 1, start: 0, len: 0 } });
        }),
        ("body beyond counting", |c| {
            c.root = Some(Value {
                tag: common::ROOT,
                body: Body::OfEvent { event: 0, start: u32::MAX, len: u32::MAX },
            });
        }),
        ("system operation of a case", |c| c.system = Some(SystemOp::Time)),
        ("timer of another entity", |c| {
            let key = TimerKey { due_ms: 1, entity: entity("case/b"), name: "t".into(), generation: c.id };
            c.timers = vec![TimerChange::Set(key)];
        }),
        ("timer name with NUL", |c| {
            let key = TimerKey { due_ms: 1, entity: entity("case/a"), name: "a\0".into(), generation: c.id };
            c.timers = vec![TimerChange::Set(key)];
        }),
        ("message of another entity", |c| {
            c.consumed = vec![MessageKey {
                target: entity("case/b"),
                source: entity("case/a"),
                commit: c.id,
                place: 0,
            }];
        }),
    ];
    for (what, spoil) in breaks {
        let mut commit = good();
        spoil(&mut commit);
        assert!(matches!(commit.encode(), Err(StorageError::Corrupt { .. })), "{what}");
    }
    let mut large = good();
    large.events[0].body = vec![0; okno_storage::commit::COMMIT_BYTES_MAX].into();
    assert!(matches!(large.encode(), Err(StorageError::TooLarge(_))));
}

#[test]
fn a_kilobyte_command_makes_a_commit_of_little_more() {
    let mut commit = moving(
        "case/0192f0c4-7a00-7000-8000-000000000001",
        3,
        1_000_000,
        CommitId { term: 3, counter: 999_999 },
        "",
    );
    commit.time_ms = 1_790_000_000_000;
    commit.events[0].body = vec![b'd'; 1024].into();
    commit.root = Some(common::inline(common::ROOT, vec![1; 120]));
    let part = Value { tag: common::PART, body: Body::OfEvent { event: 0, start: 0, len: 1024 } };
    commit.parts = vec![okno_storage::commit::PartChange { part: "doc-17".into(), value: Some(part) }];
    let commit =
        asked(commit, request(1_790_000_000_000, 5, "workstation/okno-12-3", 1), "reply of some bytes");
    let bytes = commit.encode().expect("fits").len();
    // Bodies of root and reply are 140 bytes of it.
    assert!(bytes < 1024 + 140 + 220, "{bytes} bytes");
    assert_eq!(Commit::decode(&commit.encode().expect("fits")).expect("own"), commit);
}

proptest! {
    /// Arbitrary bytes, and good commits with any byte changed, never panic and never pass for a commit.
    #[test]
    fn damaged_commits_are_refused(noise in proptest::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        prop_assert!(Commit::decode(&noise.into()).is_err());
        let good = asked(moving("case/a", 1, 1, CommitId::NONE, "x"), request(1, 1, "w/1", 1), "r").encode().expect("fits");
        let mut bad = good.to_vec();
        let at = at.index(bad.len());
        prop_assume!(bad[at] != to);
        bad[at] = to;
        prop_assert!(Commit::decode(&bad.into()).is_err());
    }
}

#[test]
fn reads_page_without_gaps_or_repeats() {
    let engine = MemoryEngine::new();
    let mut state = open(&engine);
    let mut log = Vec::new();
    let mut base = CommitId::NONE;
    for n in 1..=20u64 {
        let mut c = moving("case/a", 1, n, base, &format!("e{n}"));
        base = c.id;
        let target = if n % 2 == 0 { "queue/1" } else { "case/b" };
        let key = MessageKey { target: entity(target), source: c.entity.clone(), commit: c.id, place: 0 };
        c.sent = vec![Message { key, hops: 1, answers: None, record: common::record(common::EVENT, "m") }];
        c.timers = vec![TimerChange::Set(TimerKey {
            due_ms: n as i64 / 3,
            entity: c.entity.clone(),
            name: "t".into(),
            generation: c.id,
        })];
        let row = okno_storage::commit::RowChange { table: 5, key: vec![n as u8].into(), value: Some(None) };
        c.rows = vec![row];
        log.push(entry(n, 1, &c));
    }
    apply_all(&mut state, &log);
    let view = state.reader().view();
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = view.outbox(after.as_ref(), 3).expect("reads");
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        all.extend(page);
    }
    assert_eq!(all, view.outbox(None, usize::MAX).expect("reads"));
    assert_eq!((all.len(), view.outbox_of(&entity("queue/1"), 100).expect("reads").len()), (20, 10));
    let due = view.timers(None, 2, usize::MAX).expect("reads");
    assert_eq!(due.iter().map(|t| t.due_ms).collect::<Vec<_>>(), [0, 0, 1, 1, 1, 2, 2, 2]);
    assert_eq!(view.timers(Some(&due[2]), 2, 2).expect("reads"), due[3..5]);
    let page = view.rows(5, &[4], &[9], None, 3).expect("reads");
    assert_eq!(page.iter().map(|(k, _)| k[0]).collect::<Vec<_>>(), [4, 5, 6]);
    let (key, entity_of) = &page[2];
    let next = view.rows(5, &[4], &[9], Some((&key[..], entity_of)), 9).expect("reads");
    assert_eq!(next.iter().map(|(k, _)| k[0]).collect::<Vec<_>>(), [7, 8]);
    assert_eq!(
        view.history(&entity("case/a"), 18, 10).expect("reads").iter().map(|j| j.index).collect::<Vec<_>>(),
        [19, 20]
    );
    assert_eq!(view.journal(15, 2).expect("reads").iter().map(|j| j.index).collect::<Vec<_>>(), [16, 17]);
    // A view stays as it was.
    apply_all(&mut state, &[entry(21, 1, &moving("case/a", 1, 21, base, "later"))]);
    assert_eq!(view.mark().expect("reads").index, 20);
    assert!(engine.stats().iter().any(|(name, value)| *name == "memory_writes" && *value >= 2));
}

fn part_of(name: &'static str) -> okno_storage::commit::PartChange {
    let value = Some(common::inline(common::PART, name));
    okno_storage::commit::PartChange { part: name.as_bytes().into(), value }
}

#[test]
fn entities_of_a_kind_are_listed_and_read_piece_by_piece() {
    let mut state = open(&MemoryEngine::new());
    let names = ["channel/b", "case/x", "channel/a", "channel/a-1", "channels/z", "queue/q", "channel/a.b"];
    for (name, counter) in names.into_iter().zip(1..) {
        let mut commit = moving(name, 1, counter, CommitId::NONE, name);
        commit.parts = ["p1", "p2", "q1"].map(part_of).to_vec();
        assert_eq!(outcome(&mut state, &commit), Outcome::Applied);
    }
    let view = state.reader().view();
    let all = ["channel/a", "channel/a-1", "channel/a.b", "channel/b"].map(entity);
    assert_eq!(view.entities("channel", None, 10).expect("listed"), all);
    assert_eq!(view.entities("channel", None, 2).expect("listed"), all[..2]);
    assert_eq!(view.entities("channel", Some(&all[1]), 10).expect("listed"), all[2..]);
    assert!(view.entities("channel", Some(&all[3]), 10).expect("listed").is_empty());
    assert!(view.entities("chan", None, 10).expect("listed").is_empty());
    let names = |from: &[u8], limit| {
        let parts = view.parts(&all[0], from, limit).expect("read");
        parts.into_iter().map(|(name, _)| String::from_utf8(name.to_vec()).expect("text")).collect::<Vec<_>>()
    };
    assert_eq!(names(b"", 10), ["p1", "p2", "q1"]);
    assert_eq!(names(b"p2", 1), ["p2"]);
    assert!(names(b"r", 10).is_empty());
    let between = |from: &str, to: &str| {
        let parts = view.parts_between(&all[0], from.as_bytes(), to.as_bytes()).expect("read");
        parts.into_iter().map(|(name, _)| String::from_utf8(name.to_vec()).expect("text")).collect::<Vec<_>>()
    };
    assert_eq!(between("p", "q"), ["p1", "p2"]);
    assert_eq!(between("p2", "q1"), ["p2"]);
    assert_eq!(between("p2", "z"), ["p2", "q1"]);
    assert!(between("q2", "z").is_empty());
    let whole = view.entity(&all[0]).expect("read").expect("there");
    let (index, root) = view.root(&all[0]).expect("read").expect("there");
    assert_eq!((index, root), (whole.head_index, whole.root));
    assert!(view.root(&entity("channel/c")).expect("read").is_none());
}
