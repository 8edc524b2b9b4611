//! What the raft and the apply thread do with their stores, one step at a time. The simulator calls the same functions,
//! so that what it proves is the order production keeps.

use super::{
    change::{self, Reaching},
    event::{Effects, Event, Persist},
    snapshots::CopyFacts,
    table::{Answers, Table},
};
use crate::settings::{CHAIN_EVERY, SLICE_BYTES_MAX, SLICE_ENTRIES_MAX, level};
use bytes::Bytes;
use okno_storage::{
    commit::{Commit, CommitId, EntityKey, MemberRecord, Origin, Outcome, SystemOp},
    error::StorageError,
    identity::{Identity, IdentityRecord},
    log::{EntryKind, LogEntry, LogStore},
    members::{MemberChange, Members as MemberTable},
    planted::{self, Mutant},
    snapshot::{self, Candidate, Manifest, SnapshotError},
    state::{AppliedSlice, StateReader, StateStore},
};
use prost_raft::Message as _;
use raft::eraftpb::{ConfChangeV2, ConfState};
use std::sync::Arc;
use uuid::Uuid;

/// The entity whose one commit says who the cluster is (rule 14).
pub const FOUNDING: &str = "sys/founding";

/// Carries out an append: identity first — the synced mark lowered, term and vote — then the log, synced. On return
/// all of it is on stable storage; an error is final (rule 12).
pub fn persist(identity: &mut Identity, log: &LogStore, persist: Persist) -> Result<(), StorageError> {
    vote(identity, &persist)?;
    log.persist(persist.entries, persist.hard_state, true)
}

/// The first half of [`persist`]: what goes to `identity`.
pub fn vote(identity: &mut Identity, persist: &Persist) -> Result<(), StorageError> {
    if persist.lower.is_none() && persist.vote().is_none() {
        return Ok(());
    }
    identity.update(|r| {
        if let Some((term, index)) = persist.lower {
            (r.synced_term, r.synced_index) = (term, index);
        }
        // The other place of a vote is beside the log; the planted fault leaves both as they were.
        if let Some(vote) = persist.vote().filter(|_| !planted::is(Mutant::ForgetVote)) {
            (r.term, r.vote) = (vote.term, vote.vote);
        }
    })
}

/// Notes how far the log is synced.
pub fn note_synced(identity: &mut Identity, (term, index): (u64, u64)) -> Result<(), StorageError> {
    identity.update(|r| (r.synced_term, r.synced_index) = (term, index))
}

/// What of a turn concerns those who wait: proposals that now stand in the log are registered before anything can
/// apply, what leadership's end leaves open is unknown, confirmed reads wait for their index.
pub fn register(table: &mut Table, fx: &mut Effects) -> Answers {
    let mut answers = Answers { settled: std::mem::take(&mut fx.answers), reads: Vec::new() };
    if !fx.proposed.is_empty() {
        table.propose(std::mem::take(&mut fx.proposed), &mut answers);
    }
    if let Some(committed) = fx.lost.take() {
        table.lose(committed, &mut answers);
    }
    for (index, requests) in std::mem::take(&mut fx.reads) {
        table.confirm(index, requests, &mut answers);
    }
    answers.reads.extend(std::mem::take(&mut fx.reads_failed).into_iter().map(|(r, why)| (r, Err(why))));
    answers
}

/// The entries of the next slice, none if apply has reached the watermark.
pub fn next_slice(state: &StateStore, log: &LogStore, watermark: u64) -> Result<Vec<LogEntry>, StorageError> {
    let next = state.mark().index + 1;
    if watermark < next {
        return Ok(Vec::new());
    }
    // A slice ends where members compare their chains (rule 15).
    let compare = next.next_multiple_of(CHAIN_EVERY);
    let to = watermark.min(compare).min(next + SLICE_ENTRIES_MAX - 1);
    let mut entries = log.entries(next, to + 1, SLICE_BYTES_MAX)?;
    if entries.first().is_none_or(|first| first.index != next) {
        let detail = format!("entry {next} is to be applied and was cut away");
        return Err(StorageError::Corrupt { what: "log", detail });
    }
    // A configuration entry comes alone: the raft thread changes the configuration between two slices (rule 11).
    if let Some(at) = entries.iter().position(|e| e.kind == EntryKind::Configuration) {
        entries.truncate(at.max(1));
    }
    Ok(entries)
}

/// A change of members that apply has reached: what raft and this node have to take over before it is applied.
#[derive(Debug, Clone)]
pub struct Reached {
    pub index: u64,
    pub term: u64,
    pub raft: ConfChangeV2,
    pub change: MemberChange,
    /// The table after it.
    pub table: Arc<MemberTable>,
}

impl Reached {
    pub fn event(&self) -> Event {
        let (change, table) = (self.raft.clone(), self.table.clone());
        Event::Configuration(Box::new(Reaching { index: self.index, term: self.term, change, table }))
    }
}

/// What a slice that begins with a configuration entry changes; `None`: nothing, because the table of members refuses it,
/// here as everywhere.
pub fn reached(state: &StateStore, entry: &LogEntry) -> Result<Option<Reached>, StorageError> {
    let corrupt = |detail| StorageError::Corrupt { what: "configuration entry", detail };
    let (raft, change) = change::decode(&entry.data).map_err(corrupt)?;
    let table = match state.members()?.with(&change, entry.index) {
        Ok(table) => Arc::new(table),
        Err(why) => {
            tracing::warn!(index = entry.index, %why, "a change of members is not applied");
            return Ok(None);
        }
    };
    Ok(Some(Reached { index: entry.index, term: entry.term, raft, change, table }))
}

/// Applies a configuration entry, in one batch with what it led to: `None`, nothing.
pub fn apply_configuration(
    state: &mut StateStore,
    entry: &LogEntry,
    watermark: u64,
    led_to: Option<(&MemberChange, Bytes)>,
) -> Result<AppliedSlice, StorageError> {
    let before = state.mark().conf_state.clone();
    let slice = state.apply(std::slice::from_ref(entry), watermark)?;
    match led_to {
        Some((change, conf_state)) => state.set_configuration(conf_state, Some(change))?,
        None => state.set_configuration(before, None)?,
    }
    Ok(slice)
}

/// Installs a received copy and appends what follows it (design §4): on the raft thread, with apply standing still.
pub fn install(
    candidate: Candidate,
    identity: &mut Identity,
    log: &LogStore,
    state: &mut StateStore,
    persist: Persist,
) -> Result<Arc<MemberTable>, SnapshotError> {
    let vote = persist.install.map_or((0, 0), |install| install.vote);
    snapshot::install(candidate, identity, log, state, vote, level::known())?;
    log.persist(persist.entries, persist.hard_state, true)?;
    Ok(Arc::new(state.members()?))
}

/// What must be known of a copy taken here.
pub fn copy_facts(manifest: &Manifest) -> Result<CopyFacts, StorageError> {
    let conf_state = ConfState::decode(&manifest.conf_state[..])
        .map_err(|e| StorageError::Corrupt { what: "copy", detail: format!("configuration state: {e}") })?;
    Ok(CopyFacts { index: manifest.index, term: manifest.term, conf_state })
}

/// Members compare their chains as of the end of this slice (rule 15).
pub fn compares(state: &StateStore, slice: &AppliedSlice) -> bool {
    state.mark().index.is_multiple_of(CHAIN_EVERY) || slice.marker.is_some()
}

/// Looks for the founding commit in a slice just applied: `None`, it is not there; else whether it says what is pinned
/// here (rule 14).
pub fn founded(
    state: &StateStore,
    slice: &AppliedSlice,
    cluster: Uuid,
    pins: Option<&[(u64, Uuid)]>,
) -> Result<Option<bool>, StorageError> {
    let here = slice
        .entries
        .iter()
        .any(|e| e.outcome == Outcome::Applied && e.entity.as_ref().is_some_and(|k| k.as_str() == FOUNDING));
    if !here {
        return Ok(None);
    }
    let Some((said_cluster, members)) = state.reader().view().founding()? else { return Ok(None) };
    let said = members.iter().map(|m| (m.node_id, m.incarnation));
    // Who joined has pinned nobody yet: it takes the founders as they are named here.
    Ok(Some(said_cluster == cluster && pins.is_none_or(|pins| said.eq(pins.iter().copied()))))
}

/// The first commit: who the cluster is (rule 14). `None` while an incarnation is not pinned.
pub fn founding_commit(record: &IdentityRecord, term: u64, time_ms: i64) -> Option<Commit> {
    let incarnation = |id| record.pins.iter().find(|(node, _)| *node == id).map(|(_, i)| *i);
    let members = record
        .members
        .iter()
        .map(|m| {
            Some(MemberRecord {
                node_id: m.node_id,
                incarnation: incarnation(m.node_id)?,
                peer_address: m.peer_address.clone(),
            })
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Commit {
        system: Some(SystemOp::Found { cluster: record.cluster, members }),
        ..bare(record.node_id, term, time_ms)
    })
}

/// Why this program must not go on with the state: the cluster has raised its feature level above what it knows, and
/// what is written from there on it could not read (rule 9). The node stays up, closed, and says so: a process that
/// ended would be started again for ever.
pub fn level_above(reader: &StateReader) -> Option<String> {
    let (level, known) = (reader.level(), level::known());
    (level > known).then(|| {
        format!(
            "the cluster's feature level is {level} and this program knows level {known}: install a version that knows \
             level {level}"
        )
    })
}

/// Numbers of a leader's own commits that are not founding; below what the runtime counts from.
const OWN_COUNTERS: std::ops::Range<u64> = 1..1_024;

/// A leader's own raising of the level, right after founding, when every member is known to understand it: a cluster
/// that is new begins with all that its release can do. `asked` counts the attempts of this process.
pub fn level_commit(node: u64, term: u64, time_ms: i64, level: u32, asked: u64) -> Commit {
    let counters = OWN_COUNTERS.end - OWN_COUNTERS.start;
    Commit {
        entity: EntityKey::parse("sys/level").expect("a constant in the right form"),
        id: CommitId { term, counter: OWN_COUNTERS.start + asked % counters },
        system: Some(SystemOp::Level { level }),
        ..bare(node, term, time_ms)
    }
}

/// A commit of the cluster's own, with nothing in it yet.
fn bare(node: u64, term: u64, time_ms: i64) -> Commit {
    let entity = EntityKey::parse(FOUNDING).expect("a constant in the right form");
    // The counter's first value; the runtime begins at 1,024.
    let id = CommitId { term, counter: 0 };
    let origin = Origin { principal: format!("node/{node}"), workstation: String::new(), request: None };
    Commit { origin: Some(origin), ..Commit::bare(entity, id, CommitId::NONE, time_ms) }
}
