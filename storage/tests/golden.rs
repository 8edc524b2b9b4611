//! Golden files: every form ever written decodes for ever (rule 9).
//!
//! `tests/golden/` holds a commit, an identity slot and a whole store — every key and value that applying a log
//! and keeping it leaves — as version 1 wrote them. They are read here with today's code and compared with what
//! was meant. A file is never changed; a new version adds one. `OKNO_WRITE_GOLDEN=1` writes those that are missing.

mod common;

use common::{
    apply_all, asked, bare, entity, entry, genesis, inline, members, moving, record, request, system,
};
use okno_storage::{
    commit::{
        Body, Commit, CommitId, Message, MessageKey, Outcome, PartChange, RowChange, SystemOp, TimerChange,
        TimerKey, Value,
    },
    engine::{Batch, Cf, Engine, Read, Sync},
    error::StorageError,
    identity::{Identity, IdentityMedium, IdentityRecord, Later, Member},
    level,
    log::{EntryKind, HardState, LogEntry, LogStore},
    members::{MemberChange, Members},
    memory::{MemoryEngine, MemoryIdentity},
    snapshot::{Manifest, ManifestFile},
    state::StateStore,
};
use std::{fmt::Write, fs, ops::ControlFlow, path::PathBuf, sync::Arc};
use uuid::Uuid;

/// The file's text. When it is missing: written if asked for, else the test fails.
fn golden(name: &str, today: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if !path.exists() && std::env::var_os("OKNO_WRITE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("has a parent")).expect("can make the folder");
        fs::write(&path, today).expect("can write");
    }
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn from_hex(text: &str) -> Vec<u8> {
    hex::decode(text.split_whitespace().collect::<String>()).expect("golden files hold hexadecimal digits")
}

/// Hexadecimal digits, 64 bytes a line.
fn to_hex(bytes: &[u8]) -> String {
    bytes.chunks(64).map(|line| hex::encode(line) + "\n").collect()
}

/// A commit that uses everything a commit of an entity can hold.
fn full_commit() -> Commit {
    let before = CommitId { term: 1, counter: 1 };
    let mut c = moving("case/0192f0c4", 1, 300, before, "event body");
    c.time_ms = 1_790_000_000_000;
    c.events.push(record(okno_storage::commit::RecordTag { kind: 40, version: 3 }, "second"));
    c.root = Some(Value { tag: common::ROOT, body: Body::OfEvent { event: 1, start: 1, len: 4 } });
    c.parts = vec![
        PartChange { part: "doc-1".into(), value: Some(inline(common::PART, "part")) },
        PartChange { part: "doc-2".into(), value: None },
    ];
    c.rows = vec![
        RowChange { table: 1, key: "k1".into(), value: Some(None) },
        RowChange { table: 1, key: "k2".into(), value: Some(Some(inline(common::PART, "row"))) },
        RowChange { table: 2, key: "k3".into(), value: None },
    ];
    let key = |place| MessageKey {
        target: entity("queue/7"),
        source: entity("case/0192f0c4"),
        commit: c.id,
        place,
    };
    let answered =
        MessageKey { target: entity("case/0192f0c4"), source: entity("queue/7"), commit: before, place: 2 };
    c.sent = vec![
        Message { key: key(0), hops: 1, answers: Some(answered), record: record(common::EVENT, "answer") },
        Message { key: key(1), hops: 0, answers: None, record: record(common::EVENT, "message") },
    ];
    c.consumed = vec![MessageKey {
        target: entity("case/0192f0c4"),
        source: entity("case/x"),
        commit: before,
        place: 0,
    }];
    let timer = |name: &str, generation| TimerKey {
        due_ms: -5,
        entity: entity("case/0192f0c4"),
        name: name.into(),
        generation,
    };
    c.timers = vec![
        TimerChange::Set(timer("срок", c.id)),
        TimerChange::Clear(timer("a", before)),
        TimerChange::Fire(timer("b", before)),
    ];
    let mut c = asked(c, request(1_790_000_000_000, 7, "workstation/window-3", 5), "reply");
    let other = okno_storage::commit::RememberedReply {
        request: request(1_790_000_000_001, 8, "portal/1", 6),
        reply: record(common::REPLY, "other"),
    };
    c.replies.push(other);
    c
}

fn system_commits() -> Vec<Commit> {
    let message = MessageKey {
        target: entity("queue/7"),
        source: entity("case/a"),
        commit: CommitId { term: 1, counter: 2 },
        place: 0,
    };
    [
        SystemOp::Found { cluster: Uuid::from_u128(0xABCD), members: members() },
        SystemOp::Quarantine { entity: entity("case/b"), reason: "три паники".into() },
        SystemOp::Release { entity: entity("case/c") },
        SystemOp::PurgeRequests { before_ms: 1000 },
        SystemOp::BuryMessage { message, reason: "no such queue".into() },
        SystemOp::Marker,
        SystemOp::Level { level: 1 },
        SystemOp::Time,
    ]
    .into_iter()
    .zip(100..)
    .map(|(op, counter)| system("golden", 1, counter, op))
    .collect()
}

#[test]
fn commits_of_version_1() {
    for (name, commits) in
        [("commit_v1.hex", vec![full_commit()]), ("system_commits_v1.hex", system_commits())]
    {
        let today: Vec<String> = commits.iter().map(|c| to_hex(&c.encode().expect("fits"))).collect();
        let text = golden(name, &today.join("\n"));
        let decoded: Vec<Commit> = text
            .split("\n\n")
            .map(|hex| Commit::decode(&from_hex(hex).into()).expect("version 1 decodes for ever"))
            .collect();
        assert_eq!(decoded, commits);
        assert_eq!(text, today.join("\n"), "version 1 is what this release writes");
    }
}

/// Notes alone are written in the second form, and never before the level that has them.
#[test]
fn commits_of_version_2() {
    let note = common::note("power", 1, 400, CommitId { term: 1, counter: 1 }, "сеть пропала");
    let today = note.encode_at(2).expect("fits");
    assert_eq!((&today[4..6], level::needed_by(&today)), (&[0, 2][..], 2));
    let text = golden("commit_v2.hex", &to_hex(&today));
    assert_eq!(Commit::decode(&from_hex(&text).into()).expect("version 2 decodes for ever"), note);
    assert_eq!(text, to_hex(&today), "version 2 is what this release writes");

    assert!(note.encode_at(1).is_err() && note.encode().is_err(), "no notes before their level");
    let other = full_commit();
    let (old, new) = (other.encode().expect("fits"), other.encode_at(2).expect("fits"));
    assert_eq!((old, level::needed_by(&new)), (new.clone(), 1), "everything else stays as it was");
    let mut spoilt = note.clone();
    spoilt.events.push(record(common::EVENT, "more"));
    assert!(spoilt.encode_at(2).is_err(), "a note is the commit's only event");
    let mut disguised = new.to_vec();
    disguised[5] = 2;
    reseal(&mut disguised);
    assert!(matches!(Commit::decode(&disguised.into()), Err(StorageError::Corrupt { .. })));
}

/// Puts the checksum right after a header was changed.
fn reseal(data: &mut [u8]) {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&data[..10]), &data[14..]);
    data[10..14].copy_from_slice(&sum.to_be_bytes());
}

fn identity_record() -> IdentityRecord {
    IdentityRecord {
        cluster: Uuid::from_u128(0xC),
        node_id: 2,
        incarnation: Uuid::from_u128(0xD),
        members: vec![Member { node_id: 1, peer_address: "n1.example:7401".into() }],
        pins: vec![(1, Uuid::from_u128(0xE))],
        term: 3,
        vote: 1,
        synced_term: 2,
        synced_index: 500,
        live_directory: "db".into(),
        sequence: 0,
        later: Default::default(),
    }
}

#[test]
fn identity_of_version_1() {
    let made = MemoryIdentity::new();
    Identity::create(Box::new(made.clone()), identity_record()).expect("memory does not fail");
    let slot = made.read(0).expect("memory does not fail").expect("was written");
    let text = golden("identity_v1.hex", &to_hex(&slot));
    let mut medium = MemoryIdentity::new();
    medium.write(0, &from_hex(&text)).expect("memory does not fail");
    assert_eq!(
        Identity::open(Box::new(medium)).expect("version 1 decodes for ever").record(),
        &identity_record()
    );
    assert_eq!(from_hex(&text), slot, "version 1 is what this release writes");
}

/// A log that leaves every kind of row.
fn store_log() -> Vec<LogEntry> {
    let mut a = moving("case/a", 1, 1, CommitId::NONE, "case opened");
    a.time_ms = 1_000_000;
    a.parts = vec![PartChange { part: "p".into(), value: Some(inline(common::PART, "part")) }];
    a.rows = vec![
        RowChange { table: 3, key: "office-1".into(), value: Some(None) },
        RowChange { table: 3, key: "office-2".into(), value: Some(Some(inline(common::PART, "row"))) },
    ];
    let key = |place| MessageKey { target: entity("queue/7"), source: entity("case/a"), commit: a.id, place };
    let message = |place| Message {
        key: key(place),
        hops: 2,
        answers: Some(key(9)),
        record: record(common::EVENT, "m"),
    };
    a.sent = vec![message(0), message(1)];
    a.timers = vec![TimerChange::Set(TimerKey {
        due_ms: 7,
        entity: entity("case/a"),
        name: "t".into(),
        generation: a.id,
    })];
    let buried = key(0);
    let a = asked(a, request(1_000_000, 1, "workstation/1", 1), "opened");
    let commits = [
        a,
        moving("case/a", 1, 2, CommitId { term: 1, counter: 77 }, "fenced"),
        system("founding", 1, 3, SystemOp::Found { cluster: Uuid::from_u128(0xABCD), members: members() }),
        system(
            "quarantine",
            1,
            4,
            SystemOp::Quarantine { entity: entity("case/b"), reason: "panics".into() },
        ),
        system("dead", 1, 5, SystemOp::BuryMessage { message: buried, reason: "no such queue".into() }),
        system("level", 1, 6, SystemOp::Level { level: 2 }),
        asked(bare("case/c", 1, 7, CommitId::NONE), request(1_000_001, 2, "workstation/1", 2), "refused"),
    ];
    let mut log: Vec<LogEntry> = commits.iter().zip(1..).map(|(c, index)| entry(index, 1, c)).collect();
    log.push(LogEntry { index: 8, term: 2, kind: EntryKind::Normal, data: Default::default() });
    log.push(LogEntry { index: 9, term: 2, kind: EntryKind::Configuration, data: "change".into() });
    log
}

const FOUND: [(Cf, usize); 8] = [
    (Cf::Log, 9),
    (Cf::Entity, 2),
    (Cf::Row, 7),
    (Cf::Journal, 9),
    (Cf::Outbox, 1),
    (Cf::Timer, 1),
    (Cf::Request, 2),
    (Cf::Meta, 7),
];

fn dump(engine: &MemoryEngine) -> String {
    let mut out = String::new();
    for cf in Cf::ALL {
        engine
            .scan(cf, &[], okno_storage::keys::END, &mut |key, value| {
                writeln!(out, "{} {} {}", cf.name(), hex::encode(key), hex::encode(value))
                    .expect("to a string");
                ControlFlow::Continue(())
            })
            .expect("memory does not fail");
    }
    out
}

fn load(text: &str) -> MemoryEngine {
    let engine = MemoryEngine::new();
    let mut batch = Batch::default();
    for line in text.lines() {
        let [cf, key, value] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("not a row: {line}") };
        let cf = Cf::ALL.into_iter().find(|c| c.name() == cf).expect("a column family");
        batch.put(cf, from_hex(key), from_hex(value));
    }
    engine.write(batch, Sync::Yes).expect("memory does not fail");
    engine
}

#[test]
fn a_store_of_version_1() {
    let made = MemoryEngine::new();
    let log = store_log();
    let hard_state = HardState { term: 2, vote: 3, commit: 9 };
    LogStore::open(Arc::new(made.clone()))
        .and_then(|store| store.persist(log.clone(), Some(hard_state), true))
        .expect("memory does not fail");
    let applied = apply_all(&mut common::open(&made), &log);
    assert_eq!(applied.iter().filter(|e| e.outcome == Outcome::Applied).count(), 6);
    let today = dump(&made);
    let text = golden("store_v1.txt", &today);
    assert_eq!(text, today, "version 1 is what this release writes");

    let engine = load(&text);
    for (cf, rows) in FOUND {
        assert_eq!(engine.len(cf), rows, "{}", cf.name());
    }
    let store = LogStore::open(Arc::new(engine.clone())).expect("version 1 opens for ever");
    assert_eq!(store.entries(1, 99, usize::MAX).expect("reads"), log);
    assert_eq!(store.hard_state().expect("reads"), hard_state);
    let state = StateStore::open(Arc::new(engine), genesis()).expect("version 1 opens for ever");
    let mark = state.mark();
    assert_eq!((mark.index, mark.term, mark.time_ms, mark.commit), (9, 2, 1_000_000, 9));
    assert_eq!(&mark.conf_state[..], b"conf 9");
    let view = state.reader().view();
    let case = view.entity(&entity("case/a")).expect("reads").expect("is there");
    assert_eq!((case.head, case.head_index), (CommitId { term: 1, counter: 1 }, 1));
    assert_eq!(&case.root.body[..], b"root after case opened");
    assert_eq!(case.parts, [("p".into(), record(common::PART, "part"))]);
    let rows = view.rows(3, b"", b"", None, 9).expect("reads");
    assert_eq!(rows, [("office-1".into(), entity("case/a")), ("office-2".into(), entity("case/a"))]);
    assert_eq!(view.row(3, b"office-1", &entity("case/a")).expect("reads"), Some(None));
    assert_eq!(
        view.row(3, b"office-2", &entity("case/a")).expect("reads"),
        Some(Some(record(common::PART, "row")))
    );
    let sent = Commit::decode(&log[0].data).expect("own").sent;
    assert_eq!(view.outbox(None, 9).expect("reads"), sent[1..]);
    let (letter, reason, time) = view.dead_letters(None, 9).expect("reads").remove(0);
    assert_eq!((letter, &reason[..], time), (sent[0].clone(), "no such queue", 1_000_000));
    let timers = view.timers(None, 99, 9).expect("reads");
    assert_eq!((timers.len(), timers[0].due_ms, &timers[0].name[..]), (1, 7, "t"));
    assert_eq!(view.quarantined(&entity("case/b")).expect("reads").as_deref(), Some("panics"));
    assert_eq!(view.level().expect("reads"), 2);
    assert_eq!(view.founding().expect("reads"), Some((Uuid::from_u128(0xABCD), members())));
    let reply = state
        .reader()
        .request(&request(1_000_001, 2, "workstation/1", 2).key)
        .expect("reads")
        .expect("remembered");
    assert_eq!((reply.hash, &reply.reply.body[..], reply.index), ([2; 32], &b"refused"[..], 7));
    let journal = view.journal(0, 99).expect("reads");
    assert_eq!(journal.iter().map(|j| j.outcome_code).collect::<Vec<_>>(), [1, 19, 1, 1, 1, 1, 1, 3, 3]);
    assert_eq!((&journal[0].principal[..], &journal[0].workstation[..]), ("workstation/1", "window-3"));
    assert_eq!(journal[0].events, [record(common::EVENT, "case opened")]);
    assert_eq!(view.history(&entity("case/a"), 0, 9).expect("reads"), journal[..1]);
}

#[test]
fn a_newer_version_stops_apply_instead_of_being_skipped() {
    let mut data = full_commit().encode().expect("fits").to_vec();
    data[5] = 3;
    reseal(&mut data);
    let entry = LogEntry { index: 1, term: 1, kind: EntryKind::Normal, data: data.into() };
    let mut state = common::open(&MemoryEngine::new());
    assert!(matches!(state.apply(&[entry], 1), Err(StorageError::Newer { version: 3, .. })));
    assert_eq!(state.mark().index, 0);
}

#[test]
fn identity_of_version_2() {
    let later =
        Later { generation: 3, genesis: Some([9; 32]), pins: vec![(4, Uuid::from_u128(0xF))], joined: true };
    let record = IdentityRecord { later, ..identity_record() };
    let made = MemoryIdentity::new();
    Identity::create(Box::new(made.clone()), record.clone()).expect("memory does not fail");
    let slot = made.read(0).expect("memory does not fail").expect("was written");
    let text = golden("identity_v2.hex", &to_hex(&slot));
    let mut medium = MemoryIdentity::new();
    medium.write(0, &from_hex(&text)).expect("memory does not fail");
    assert_eq!(Identity::open(Box::new(medium)).expect("version 2 decodes for ever").record(), &record);
    assert_eq!(from_hex(&text), slot, "version 2 is what this release writes");
}

/// Member changes, the table as it is stored, a snapshot's manifest.
#[test]
fn members_and_manifest_of_version_1() {
    let changes = [
        MemberChange::AddLearner {
            node_id: 4,
            peer_address: "n4.example:7401".into(),
            incarnation: Some(Uuid::from_u128(44)),
        },
        MemberChange::Promote { node_id: 4 },
        MemberChange::Remove { node_id: 1 },
    ];
    let today: Vec<String> = changes.iter().map(|c| to_hex(&c.encode().expect("fits"))).collect();
    let text = golden("member_changes_v1.hex", &today.join("\n"));
    let decoded: Vec<MemberChange> = text
        .split("\n\n")
        .map(|hex| MemberChange::decode(&from_hex(hex)).expect("version 1 decodes for ever"))
        .collect();
    assert_eq!((&decoded[..], text), (&changes[..], today.join("\n")));

    let mut table = Members::founded(&members());
    for (change, index) in changes.iter().zip(7..) {
        table = table.with(change, index).expect("may follow");
    }
    let file = |name: &str, bytes| ManifestFile { name: name.into(), bytes, sha256: [6; 32] };
    let manifest = Manifest {
        cluster: Uuid::from_u128(0xABCD),
        generation: 2,
        genesis: [6; 32],
        taken_by: 3,
        index: 9,
        term: 2,
        chain: [5; 32],
        time_ms: 1_790_000_000_000,
        conf_state: "conf".into(),
        members: table,
        level: 2,
        files: vec![file("000012.sst", 1 << 26), file("CURRENT", 16)],
    };
    let today = to_hex(&manifest.encode().expect("fits"));
    let text = golden("manifest_v1.hex", &today);
    assert_eq!(Manifest::decode(&from_hex(&text)).expect("version 1 decodes for ever"), manifest);
    assert_eq!(text, today, "version 1 is what this release writes");
}
