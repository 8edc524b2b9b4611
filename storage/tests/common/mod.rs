//! What the storage tests share: making commits, a naive model of apply to compare with, and logs made from
//! random choices.
#![allow(dead_code, reason = "each test binary uses its own part")]

use bytes::Bytes;
use okno_storage::{
    commit::{
        Body, Commit, CommitId, EntityKey, FenceReason, MemberRecord, Message, MessageKey, Origin, Outcome,
        PartChange, Record, RecordTag, RememberedReply, RequestKey, RequestRef, RowChange, SystemOp,
        TimerChange, TimerKey, Value,
    },
    engine::Engine,
    identity::{IdentityRecord, Member},
    level::FEATURE_LEVEL,
    log::{EntryKind, LogEntry},
    state::{AppliedEntry, Genesis, StateStore},
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use uuid::Uuid;

pub fn entity(text: &str) -> EntityKey {
    EntityKey::parse(text).expect("tests use well-formed keys")
}

pub const EVENT: RecordTag = RecordTag { kind: 1, version: 1 };
pub const ROOT: RecordTag = RecordTag { kind: 2, version: 1 };
pub const PART: RecordTag = RecordTag { kind: 3, version: 2 };
pub const REPLY: RecordTag = RecordTag { kind: 4, version: 1 };

pub fn record(tag: RecordTag, body: impl Into<Vec<u8>>) -> Record {
    Record { tag, body: Bytes::from(body.into()) }
}

pub fn inline(tag: RecordTag, body: impl Into<Vec<u8>>) -> Value {
    Value { tag, body: Body::Inline(Bytes::from(body.into())) }
}

/// What `identity` says on a member of three that voted for the first and has synced nothing.
pub fn identity_of(cluster: Uuid, node_id: u64) -> IdentityRecord {
    IdentityRecord {
        cluster,
        node_id,
        incarnation: Uuid::from_u128(u128::from(node_id)),
        members: (1..=3).map(|id| Member { node_id: id, peer_address: format!("n{id}:1") }).collect(),
        pins: (1..=3).map(|id| (id, Uuid::from_u128(id.into()))).collect(),
        term: 1,
        vote: 1,
        synced_term: 1,
        synced_index: 0,
        live_directory: "db".into(),
        sequence: 0,
        later: Default::default(),
    }
}

/// A log that founds and then moves one case after the other.
pub fn founded_log(cluster: Uuid, length: u64, text: &str) -> Vec<LogEntry> {
    let found = SystemOp::Found { cluster, members: members() };
    let mut log = vec![entry(1, 1, &system("founding", 1, 1, found))];
    for index in 2..=length {
        log.push(entry(index, 1, &moving(&format!("case/{index}"), 1, index, CommitId::NONE, text)));
    }
    log
}

pub fn genesis() -> Genesis {
    Genesis { chain: [7; 32], conf_state: Bytes::from_static(b"conf 0") }
}

/// A commit without anything in it.
pub fn bare(key: &str, term: u64, counter: u64, base: CommitId) -> Commit {
    Commit::bare(entity(key), CommitId { term, counter }, base, 0)
}

/// A commit with one event and a root.
pub fn moving(key: &str, term: u64, counter: u64, base: CommitId, text: &str) -> Commit {
    let mut commit = bare(key, term, counter, base);
    commit.events = vec![record(EVENT, text)];
    commit.root = Some(inline(ROOT, format!("root after {text}")));
    commit
}

pub fn system(name: &str, term: u64, counter: u64, op: SystemOp) -> Commit {
    Commit { system: Some(op), ..bare(&format!("sys/{name}"), term, counter, CommitId::NONE) }
}

/// A note to the journal.
pub fn note(name: &str, term: u64, counter: u64, base: CommitId, text: &str) -> Commit {
    let mut commit = moving(&format!("sys/{name}"), term, counter, base, text);
    commit.system = Some(SystemOp::Note { record: commit.events[0].clone() });
    commit
}

/// A UUIDv7 made at `ms`.
pub fn request_id(ms: i64, n: u64) -> Uuid {
    Uuid::from_u128((ms as u128) << 80 | 7 << 76 | 2 << 62 | u128::from(n))
}

pub fn request(ms: i64, n: u64, principal: &str, hash: u8) -> RequestRef {
    let key = RequestKey { id: request_id(ms, n), principal: principal.into() };
    RequestRef { key, hash: [hash; 32] }
}

/// Makes the commit the answer to a request and remembers a reply for it.
pub fn asked(mut commit: Commit, request: RequestRef, reply: &str) -> Commit {
    commit.origin = Some(Origin {
        principal: request.key.principal.clone(),
        workstation: "window-3".into(),
        request: Some(request.clone()),
    });
    commit.replies = vec![RememberedReply { request, reply: record(REPLY, reply) }];
    commit
}

pub fn entry(index: u64, term: u64, commit: &Commit) -> LogEntry {
    let data = commit.encode_at(FEATURE_LEVEL).expect("tests make commits that can be encoded");
    LogEntry { index, term, kind: EntryKind::Normal, data }
}

/// Applies all entries, going on where a slice stopped early, and gives configuration entries their state.
pub fn apply_all(state: &mut StateStore, entries: &[LogEntry]) -> Vec<AppliedEntry> {
    let mut out = Vec::new();
    let mut rest = entries;
    while let Some(last) = rest.last() {
        let slice = state.apply(rest, last.index).expect("a good log applies");
        assert_eq!(slice.entries.len() as u64, slice.last + 1 - slice.first);
        rest = &rest[slice.entries.len()..];
        settle_configuration(state, entries, slice.last);
        out.extend(slice.entries);
    }
    out
}

/// If the entry applied last is a configuration entry, does what the raft thread does.
pub fn settle_configuration(state: &mut StateStore, entries: &[LogEntry], index: u64) {
    let entry = entries.iter().find(|e| e.index == index).expect("was applied");
    if entry.kind == EntryKind::Configuration {
        state.set_conf_state(Bytes::from(format!("conf {index}"))).expect("memory does not fail");
    }
}

pub fn open(engine: &(impl Engine + Clone)) -> StateStore {
    StateStore::open(Arc::new(engine.clone()), genesis()).expect("opens")
}

/// Apply as the design states it, over plain maps: what the real one must agree with.
#[derive(Default, Clone, Debug, PartialEq)]
pub struct Model {
    pub heads: BTreeMap<EntityKey, CommitId>,
    pub roots: BTreeMap<EntityKey, Vec<u8>>,
    pub parts: BTreeMap<(EntityKey, Bytes), Vec<u8>>,
    pub rows: BTreeSet<(u16, Bytes, EntityKey)>,
    pub outbox: BTreeMap<MessageKey, Message>,
    pub dead: BTreeSet<MessageKey>,
    pub timers: BTreeSet<TimerKey>,
    pub requests: BTreeMap<(Uuid, String), ([u8; 32], Record)>,
    pub quarantined: BTreeMap<EntityKey, String>,
    pub level: u32,
    pub time_ms: i64,
}

impl Model {
    fn judge(&self, c: &Commit, entry_term: u64) -> Outcome {
        for r in c.requests() {
            if let Some((hash, reply)) = self.requests.get(&(r.key.id, r.key.principal.clone())) {
                return if *hash == r.hash {
                    Outcome::Duplicate(reply.clone())
                } else {
                    Outcome::Fenced(FenceReason::RequestReused)
                };
            }
        }
        if c.term != entry_term {
            return Outcome::Fenced(FenceReason::Term);
        }
        if self.quarantined.contains_key(&c.entity) {
            return Outcome::Fenced(FenceReason::Quarantined);
        }
        if c.base != self.heads.get(&c.entity).copied().unwrap_or(CommitId::NONE) {
            return Outcome::Fenced(FenceReason::Base);
        }
        if c.consumed.iter().any(|k| !self.outbox.contains_key(k)) {
            return Outcome::Fenced(FenceReason::Message);
        }
        if let Some(SystemOp::BuryMessage { message, .. }) = &c.system
            && !self.outbox.contains_key(message)
        {
            return Outcome::Fenced(FenceReason::Message);
        }
        if c.timers.iter().any(|t| matches!(t, TimerChange::Fire(k) if !self.timers.contains(k))) {
            return Outcome::Fenced(FenceReason::Timer);
        }
        Outcome::Applied
    }

    pub fn apply(&mut self, c: &Commit, entry_term: u64) -> Outcome {
        let outcome = self.judge(c, entry_term);
        if outcome != Outcome::Applied {
            return outcome;
        }
        self.time_ms = self.time_ms.max(c.time_ms);
        match &c.system {
            Some(SystemOp::Quarantine { entity, reason }) => {
                self.quarantined.insert(entity.clone(), reason.clone());
            }
            Some(SystemOp::Release { entity }) => {
                self.quarantined.remove(entity);
            }
            Some(SystemOp::PurgeRequests { before_ms }) => {
                let bound = u128::try_from(*before_ms).unwrap_or(0) << 80;
                self.requests.retain(|(id, _), _| id.as_u128() >= bound);
            }
            Some(SystemOp::BuryMessage { message, .. }) => {
                self.outbox.remove(message);
                self.dead.insert(message.clone());
            }
            Some(SystemOp::Level { level }) => self.level = self.level.max(*level),
            _ => {}
        }
        let bytes = |v: &Value| v.resolve(&c.events).expect("checked when encoded").to_vec();
        if let Some(root) = &c.root {
            self.heads.insert(c.entity.clone(), c.id);
            self.roots.insert(c.entity.clone(), bytes(root));
        }
        for p in &c.parts {
            let key = (c.entity.clone(), p.part.clone());
            match &p.value {
                Some(value) => self.parts.insert(key, bytes(value)),
                None => self.parts.remove(&key),
            };
        }
        for r in &c.rows {
            let key = (r.table, r.key.clone(), c.entity.clone());
            if r.value.is_some() {
                self.rows.insert(key)
            } else {
                self.rows.remove(&key)
            };
        }
        for k in &c.consumed {
            self.outbox.remove(k);
        }
        for m in &c.sent {
            self.outbox.insert(m.key.clone(), m.clone());
        }
        for t in &c.timers {
            match t {
                TimerChange::Set(k) => self.timers.insert(k.clone()),
                TimerChange::Clear(k) | TimerChange::Fire(k) => self.timers.remove(k),
            };
        }
        for r in &c.replies {
            let key = (r.request.key.id, r.request.key.principal.clone());
            self.requests.insert(key, (r.request.hash, r.reply.clone()));
        }
        outcome
    }

    /// Asserts that the store holds just this.
    pub fn compare(&self, state: &StateStore) {
        let reader = state.reader();
        let view = reader.view();
        assert_eq!(view.mark().expect("reads").time_ms, self.time_ms);
        for (key, head) in &self.heads {
            let stored = view.entity(key).expect("reads").expect("the entity is there");
            assert_eq!(stored.head, *head, "{key}");
            assert_eq!(stored.root, Record { tag: ROOT, body: self.roots[key].clone().into() });
            let parts: Vec<_> =
                self.parts.iter().filter(|((k, _), _)| k == key).map(|((_, n), v)| (n.clone(), v)).collect();
            assert_eq!(
                stored.parts.iter().map(|(n, r)| (n.clone(), &r.body[..])).collect::<Vec<_>>(),
                parts.iter().map(|(n, v)| (n.clone(), &v[..])).collect::<Vec<_>>()
            );
            let moved = view.history(key, 0, usize::MAX).expect("reads");
            assert_eq!(moved.last().map(|j| j.commit), Some(*head));
        }
        let mut rows = BTreeSet::new();
        for table in [0, 1, u16::MAX - 1] {
            let found = view.rows(table, b"", b"", None, usize::MAX).expect("reads");
            rows.extend(found.into_iter().map(|(key, entity)| (table, key, entity)));
        }
        assert_eq!(rows, self.rows);
        let outbox = view.outbox(None, usize::MAX).expect("reads");
        assert_eq!(outbox, self.outbox.values().cloned().collect::<Vec<_>>(), "same messages, same order");
        let dead = view.dead_letters(None, usize::MAX).expect("reads");
        assert_eq!(dead.into_iter().map(|(m, ..)| m.key).collect::<BTreeSet<_>>(), self.dead);
        let timers = view.timers(None, i64::MAX, usize::MAX).expect("reads");
        assert_eq!(timers, self.timers.iter().cloned().collect::<Vec<_>>(), "same timers, same order");
        assert_eq!(
            view.quarantines(usize::MAX).expect("reads").into_iter().collect::<BTreeMap<_, _>>(),
            self.quarantined
        );
        assert_eq!(view.level().expect("reads"), self.level);
        for ((id, principal), (hash, reply)) in &self.requests {
            let key = RequestKey { id: *id, principal: principal.clone() };
            let found = reader.request(&key).expect("reads").expect("the request is remembered");
            assert_eq!((found.hash, &found.reply), (*hash, reply));
        }
    }
}

/// One random choice of what comes next in a log. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
pub struct Choice {
    pub what: u8,
    pub entity: u8,
    pub pick: u8,
    pub flags: u16,
    pub jump_ms: u16,
}

pub fn choices(max: usize) -> impl Strategy<Value = Vec<Choice>> {
    let one = (0u8..24, 0u8..5, any::<u8>(), any::<u16>(), 0u16..4000)
        .prop_map(|(what, entity, pick, flags, jump_ms)| Choice { what, entity, pick, flags, jump_ms });
    proptest::collection::vec(one, 1..max)
}

const NAMES: [&str; 5] = ["case/a", "case/b", "case/b.1", "queue/7", "channel/post"];

fn pick<T: Clone>(all: impl IntoIterator<Item = T>, n: u8) -> Option<T> {
    let all: Vec<T> = all.into_iter().collect();
    (!all.is_empty()).then(|| all[usize::from(n) % all.len()].clone())
}

/// Makes a log: mostly commits that apply, among them every way of not applying. Returns it with what the model
/// says about each entry, and the model at the end.
pub fn make_log(choices: &[Choice]) -> (Vec<LogEntry>, Vec<Outcome>, Model) {
    let mut model = Model::default();
    let (mut log, mut outcomes): (Vec<LogEntry>, Vec<Outcome>) = (vec![], vec![]);
    let (mut term, mut counter, mut now) = (1, 0, 1_000_000_000);
    let mut asked_before: Vec<RequestRef> = Vec::new();
    for c in choices {
        let index = log.len() as u64 + 1;
        counter += 1;
        now += i64::from(c.jump_ms);
        let name = NAMES[usize::from(c.entity)];
        let target = NAMES[usize::from(c.pick) % NAMES.len()];
        let flag = |bit: u16| c.flags & (1 << bit) != 0;
        let base = model.heads.get(&entity(name)).copied().unwrap_or(CommitId::NONE);
        let entry_term = term;
        let mut commit =
            moving(name, term, counter, base, &format!("event {index} {}", "x".repeat(usize::from(c.pick))));
        commit.time_ms = if flag(0) { now } else { now - 60_000 };
        match c.what {
            0..=7 => decorate(&mut commit, c, target, &model),
            8 => {
                decorate(&mut commit, c, target, &model);
                commit.base = CommitId { term, counter: 77_777 };
            }
            9 => commit.term = term - 1,
            10 | 11 => {
                let before =
                    pick(asked_before.clone(), c.pick).unwrap_or_else(|| request(now, index, "w/1", 1));
                let hash = if flag(1) { before.hash } else { [99; 32] };
                commit = asked(commit, RequestRef { hash, ..before }, "another answer");
            }
            12 => {
                if let Some(key) = pick(model.outbox.keys().cloned(), c.pick) {
                    let base = model.heads.get(&key.target).copied().unwrap_or(CommitId::NONE);
                    commit = moving(key.target.as_str(), term, counter, base, "delivered");
                    commit.consumed = vec![key];
                }
            }
            13 => {
                commit.consumed = vec![MessageKey {
                    target: entity(name),
                    source: entity(target),
                    commit: CommitId { term, counter: u64::from(c.pick) },
                    place: 0,
                }];
            }
            14 => {
                if let Some(key) = pick(model.timers.iter().cloned(), c.pick) {
                    let base = model.heads.get(&key.entity).copied().unwrap_or(CommitId::NONE);
                    commit = moving(key.entity.as_str(), term, counter, base, "timer");
                    commit.timers =
                        vec![if flag(1) { TimerChange::Fire(key) } else { TimerChange::Clear(key) }];
                }
            }
            15 => {
                let generation = CommitId { term: 1, counter: u64::from(c.pick) };
                let key = TimerKey { due_ms: now, entity: entity(name), name: "gone".into(), generation };
                commit.timers = vec![if flag(1) { TimerChange::Fire(key) } else { TimerChange::Clear(key) }];
            }
            16 => {
                let op = SystemOp::Quarantine { entity: entity(name), reason: format!("panics {index}") };
                commit = system("quarantine", term, counter, op);
            }
            17 | 18 => {
                let entity = pick(model.quarantined.keys().cloned(), c.pick).unwrap_or(entity(name));
                commit = system("quarantine", term, counter, SystemOp::Release { entity });
            }
            19 => {
                let before_ms = now - i64::from(c.pick) * 100;
                commit = system("purge", term, counter, SystemOp::PurgeRequests { before_ms });
            }
            20 => {
                let message = pick(model.outbox.keys().cloned(), c.pick).unwrap_or(MessageKey {
                    target: entity(name),
                    source: entity(target),
                    commit: CommitId { term, counter },
                    place: 9,
                });
                commit =
                    system("dead", term, counter, SystemOp::BuryMessage { message, reason: "no use".into() });
            }
            21 => {
                let op = match c.pick % 4 {
                    0 => SystemOp::Marker,
                    1 => SystemOp::Level { level: u32::from(c.flags % 5) },
                    2 => {
                        SystemOp::Found { cluster: Uuid::from_u128(u128::from(c.flags)), members: members() }
                    }
                    _ => SystemOp::Time,
                };
                commit = if !flag(7) {
                    system("misc", term, counter, op)
                } else {
                    let base = model.heads.get(&entity("sys/notes")).copied().unwrap_or(CommitId::NONE);
                    note("notes", term, counter, base, "note")
                };
                commit.time_ms = now;
            }
            22 => {
                term += u64::from(flag(1));
                log.push(LogEntry { index, term, kind: EntryKind::Normal, data: Bytes::new() });
                outcomes.push(Outcome::NoCommit);
                continue;
            }
            _ => {
                let data = Bytes::from(format!("change {}", c.pick));
                log.push(LogEntry { index, term, kind: EntryKind::Configuration, data });
                outcomes.push(Outcome::NoCommit);
                continue;
            }
        }
        commit.id.term = commit.term;
        for t in &mut commit.timers {
            if let TimerChange::Set(key) = t {
                key.generation = commit.id;
            }
        }
        for m in &mut commit.sent {
            m.key.commit = commit.id;
        }
        asked_before.extend(commit.requests().cloned());
        outcomes.push(model.apply(&commit, entry_term));
        log.push(entry(index, entry_term, &commit));
    }
    (log, outcomes, model)
}

pub fn members() -> Vec<MemberRecord> {
    (1..=3)
        .map(|node_id| MemberRecord {
            node_id,
            incarnation: Uuid::from_u128(u128::from(node_id)),
            peer_address: format!("node-{node_id}.example:7401"),
        })
        .collect()
}

/// Parts, rows, messages, timers and a request, as the flags say.
fn decorate(commit: &mut Commit, c: &Choice, target: &str, model: &Model) {
    let flag = |bit: u16| c.flags & (1 << bit) != 0;
    let name = Bytes::from(vec![b'p', c.pick % 3]);
    if flag(2) {
        let body = Body::OfEvent { event: 0, start: 2, len: 3 };
        commit.parts.push(PartChange { part: name.clone(), value: Some(Value { tag: PART, body }) });
    } else if flag(3) {
        commit.parts.push(PartChange { part: name, value: None });
    }
    let table = [0, 1, u16::MAX - 1][usize::from(c.pick) % 3];
    let key = Bytes::from(vec![c.pick % 4; 3]);
    if flag(4) {
        let value = if flag(5) { None } else { Some(inline(PART, "row")) };
        commit.rows.push(RowChange { table, key, value: Some(value) });
    } else if flag(5) {
        commit.rows.push(RowChange { table, key, value: None });
    }
    for place in 0..u16::from(flag(6)) + u16::from(flag(7)) {
        let key =
            MessageKey { target: entity(target), source: commit.entity.clone(), commit: commit.id, place };
        let answers = if flag(8) { model.outbox.keys().next().cloned() } else { None };
        commit.sent.push(Message {
            key,
            hops: place,
            answers,
            record: record(EVENT, format!("message {place}")),
        });
    }
    if flag(9) {
        let key = TimerKey {
            due_ms: commit.time_ms + i64::from(c.pick) - 100,
            entity: commit.entity.clone(),
            name: format!("timer-{}", c.pick % 2),
            generation: commit.id,
        };
        commit.timers.push(TimerChange::Set(key));
    }
    if flag(10) {
        let principal = if flag(11) { "workstation/1" } else { "portal/2" };
        // Some ids are older than any cache keeps.
        let ms = if flag(12) { commit.time_ms } else { commit.time_ms - 3_000_000 };
        *commit = asked(commit.clone(), request(ms, commit.id.counter, principal, c.pick), "done");
    }
}
