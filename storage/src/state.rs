//! The applied state of this node: the apply step's owner and its readers.
//!
//! `StateStore` belongs to the apply thread alone. `StateReader` is for everybody else, cheap to clone.
//! Invariant: applied index, term, chain hash, replicated time and configuration state are written in the same
//! batch as the changes they describe.

pub use crate::view::StateView;
use crate::{
    apply::{self, Overlay, Position, Step},
    cache::{ApplyCaches, RequestFilter},
    commit::{CommitId, EntityKey, Message, Outcome, Record, RequestKey, TimerKey},
    engine::{Batch, BatchOp, Cf, Engine, Read, Sync},
    error::StorageError,
    keys,
    log::{EntryKind, LogEntry},
    members::{MemberChange, MemberRefusal, Members},
    planted::{self, Mutant},
    rows::{self, MarkV1},
    view,
};
use bytes::Bytes;
use parking_lot::RwLock;
use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering},
};

/// Where apply stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedMark {
    pub index: u64,
    pub term: u64,
    /// hᵢ of the hash chain (rule 15).
    pub chain: [u8; 32],
    /// Replicated time, milliseconds since the Unix epoch (rule 7).
    pub time_ms: i64,
    /// Encoded raft configuration state, opaque here.
    pub conf_state: Bytes,
    /// Raft's commit index known when the batch was written.
    pub commit: u64,
}

/// An entity as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntity {
    pub key: EntityKey,
    /// Its last commit.
    pub head: CommitId,
    /// Log index of its last commit.
    pub head_index: u64,
    pub root: Record,
    /// Part name → record, in order of names.
    pub parts: Vec<(Bytes, Record)>,
}

/// A journal row: one applied log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    pub index: u64,
    pub term: u64,
    pub outcome_code: u8,
    pub time_ms: i64,
    pub entity: Option<EntityKey>,
    pub commit: CommitId,
    pub principal: String,
    pub workstation: String,
    pub events: Vec<Record>,
    /// H(rest) of the chain.
    pub rest: [u8; 32],
    /// H(events) of the chain; of a slim row (not applied, or without events) it stands there without them.
    pub events_hash: [u8; 32],
    pub chain: [u8; 32],
}

/// What one slice of applied entries did, for those who wait and those who watch.
#[derive(Debug, Clone, Default)]
pub struct AppliedSlice {
    pub first: u64,
    pub last: u64,
    pub time_ms: i64,
    /// One per entry, in order.
    pub entries: Vec<AppliedEntry>,
    /// Markers met: digest all rows as of this index (rule 15). Apply ends its batch there.
    pub marker: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct AppliedEntry {
    pub index: u64,
    pub term: u64,
    pub outcome: Outcome,
    pub entity: Option<EntityKey>,
    /// Messages this entry put into the outbox, for the leader's courier.
    pub sent: Vec<Message>,
    /// Timers this entry set, for the leader's scanner.
    pub timers: Vec<TimerKey>,
    /// True when the entity's state moved (there were events).
    pub moved: bool,
}

/// What the owner and the readers share.
pub(crate) struct Shared {
    pub engine: Arc<dyn Engine>,
    pub genesis: Genesis,
    requests: RwLock<RequestFilter>,
    applied_index: AtomicU64,
    applied_time: AtomicI64,
    /// The replicated feature level.
    level: AtomicU32,
}

impl Genesis {
    /// The mark as `read` holds it, or as the cluster began.
    pub(crate) fn mark(&self, read: &dyn Read) -> Result<AppliedMark, StorageError> {
        let Some(bytes) = read.get(Cf::Meta, keys::MARK)? else {
            let Self { chain, conf_state } = self.clone();
            return Ok(AppliedMark { index: 0, term: 0, chain, time_ms: 0, conf_state, commit: 0 });
        };
        let MarkV1(index, term, chain, time_ms) = rows::parse_mark(&bytes)?;
        let (commit, conf_state) = match read.get(Cf::Meta, keys::NODE_MARK)? {
            Some(bytes) => rows::parse_node_mark(&bytes)?,
            None => return Err(crate::codec::corrupt("commit mark", "missing beside the applied mark")),
        };
        Ok(AppliedMark { index, term, chain, time_ms, conf_state, commit })
    }
}

/// Owner of the applied state; lives on the apply thread.
///
/// Invariants: unless `held`, `mark` and the caches say what the engine holds. While `held`, a configuration
/// entry is applied but not written, because the configuration it leads to is not known yet: both must be in one
/// batch, or a crash between them would start the node with a configuration older than its applied index.
pub struct StateStore {
    shared: Arc<Shared>,
    mark: AppliedMark,
    caches: ApplyCaches,
    held: Option<Batch>,
}

impl StateStore {
    /// Opens the state and rebuilds caches (entity heads lazily, request ids of the last 10 minutes eagerly).
    /// `genesis` is h₀ = H(cluster id ‖ initial member list) and the initial configuration state; used when
    /// nothing was ever applied.
    pub fn open(engine: Arc<dyn Engine>, genesis: Genesis) -> Result<Self, StorageError> {
        let mark = genesis.mark(&*engine)?;
        let caches = ApplyCaches::load(&*engine)?;
        let requests = RwLock::new(RequestFilter::load(&*engine, mark.time_ms)?);
        let (applied_index, applied_time) = (AtomicU64::new(mark.index), AtomicI64::new(mark.time_ms));
        let level = AtomicU32::new(0);
        let shared = Arc::new(Shared { engine, genesis, requests, applied_index, applied_time, level });
        let state = Self { shared, mark, caches, held: None };
        let level = state.reader().view().level()?;
        state.shared.level.store(level, Ordering::Release);
        Ok(state)
    }

    pub fn mark(&self) -> &AppliedMark {
        &self.mark
    }

    /// Applies contiguous entries following `mark().index` as one unsynced batch (the caller bounds the slice).
    /// Stops early after an entry carrying `SystemOp::Marker`, and before and after a configuration entry, so the
    /// returned `last` may be smaller than the last entry given: call again with the rest.
    /// `commit` is raft's commit index known to the caller (≥ the last entry's index).
    ///
    /// A configuration entry comes alone in its slice; it is written when [`StateStore::set_conf_state`] says
    /// what it led to, and nothing is applied before that.
    ///
    /// An error changes nothing and stops apply: the entry can be neither skipped nor guessed at (rule 9).
    pub fn apply(&mut self, entries: &[LogEntry], commit: u64) -> Result<AppliedSlice, StorageError> {
        if self.held.is_some() {
            return Err(crate::codec::corrupt(
                "apply order",
                "a configuration entry waits for its configuration state",
            ));
        }
        let at = Position {
            index: self.mark.index,
            term: self.mark.term,
            chain: self.mark.chain,
            time_ms: self.mark.time_ms,
        };
        let engine = self.shared.engine.clone();
        let mut slice = AppliedSlice {
            first: at.index + 1,
            last: at.index,
            time_ms: at.time_ms,
            entries: Vec::with_capacity(entries.len()),
            marker: None,
        };
        let mut step = Step::new(&*engine, &mut self.caches, &self.shared.requests, at);
        let mut configuration = false;
        for entry in entries {
            configuration = entry.kind == EntryKind::Configuration;
            if configuration && !slice.entries.is_empty() {
                configuration = false;
                break;
            }
            let applied = step.apply(entry)?;
            slice.entries.push(applied.entry);
            if applied.marker {
                slice.marker = Some(entry.index);
            }
            if applied.marker || configuration {
                break;
            }
        }
        if slice.entries.is_empty() {
            return Ok(slice);
        }
        let Step { at, overlay, mut batch, .. } = step;
        (slice.last, slice.time_ms) = (at.index, at.time_ms);
        let mark = AppliedMark {
            index: at.index,
            term: at.term,
            chain: at.chain,
            time_ms: at.time_ms,
            conf_state: self.mark.conf_state.clone(),
            commit: commit.max(at.index).max(self.mark.commit),
        };
        batch.put(
            Cf::Meta,
            keys::MARK.to_vec(),
            rows::mark(&MarkV1(at.index, at.term, at.chain, at.time_ms))?,
        );
        if configuration {
            self.held = Some(batch);
            self.mark = mark;
            return Ok(slice);
        }
        batch.put(Cf::Meta, keys::NODE_MARK.to_vec(), rows::node_mark(mark.commit, &mark.conf_state)?);
        self.write(batch, mark, overlay, Sync::No)?;
        Ok(slice)
    }

    /// Records the configuration state that raft computed for the configuration entry just applied, together with
    /// that entry.
    pub fn set_conf_state(&mut self, conf_state: Bytes) -> Result<(), StorageError> {
        self.set_configuration(conf_state, None)
    }

    /// As [`StateStore::set_conf_state`], with the change of members that the entry carries: entry, table of members and
    /// configuration state in one batch. A change that the table refuses is an error that changes nothing: ask
    /// [`StateStore::members`] first, and let such an entry change nothing.
    pub fn set_configuration(
        &mut self,
        conf_state: Bytes,
        change: Option<&MemberChange>,
    ) -> Result<(), StorageError> {
        let table = change
            .map(|change| {
                let refuse = |refusal: MemberRefusal| crate::codec::corrupt("members", refusal.to_string());
                self.members()?.with(change, self.mark.index).map_err(refuse)?.encode()
            })
            .transpose()?;
        let mut batch = self.held.take().unwrap_or_default();
        if let Some(row) = table {
            batch.put(Cf::Meta, keys::MEMBERS.to_vec(), row);
        }
        let mark = AppliedMark { conf_state, ..self.mark.clone() };
        batch.put(Cf::Meta, keys::NODE_MARK.to_vec(), rows::node_mark(mark.commit, &mark.conf_state)?);
        if mark.index == 0 {
            // Nothing was ever applied: the two marks stand together or not at all.
            let first = MarkV1(mark.index, mark.term, mark.chain, mark.time_ms);
            batch.put(Cf::Meta, keys::MARK.to_vec(), rows::mark(&first)?);
        }
        // A change of members is on disk before anybody acts by it: who is taken out closes itself, and a member that had
        // forgotten in a power cut that this was committed would need its vote again, for ever.
        let sync = if change.is_some() { Sync::Yes } else { Sync::No };
        self.write(batch, mark, Overlay::EMPTY, sync)
    }

    fn write(
        &mut self,
        batch: Batch,
        mark: AppliedMark,
        overlay: Overlay,
        sync: Sync,
    ) -> Result<(), StorageError> {
        if planted::is(Mutant::SplitApplyBatch) {
            let (marks, rows) = batch.ops.into_iter().partition(is_mark);
            self.shared.engine.write(Batch { ops: rows, bytes: 0 }, Sync::No)?;
            self.shared.engine.write(Batch { ops: marks, bytes: 0 }, Sync::No)?;
        } else {
            self.shared.engine.write(batch, sync)?;
        }
        self.mark = mark;
        if let Some(level) = overlay.level {
            self.shared.level.store(level, Ordering::Release);
        }
        apply::settle(overlay, self.mark.time_ms, &mut self.caches, &self.shared.requests);
        self.publish();
        Ok(())
    }

    /// The table of members as of the last write.
    pub fn members(&self) -> Result<Members, StorageError> {
        view::members(&*self.shared.engine)
    }

    /// Begins anew over the engine as it is now: the slot below was exchanged. Readers go on with the new state; their
    /// views taken before stay as they were.
    pub fn reload(&mut self) -> Result<(), StorageError> {
        if self.held.is_some() {
            return Err(crate::codec::corrupt(
                "apply order",
                "a configuration entry waits for its configuration state",
            ));
        }
        let engine = &*self.shared.engine;
        let mark = self.shared.genesis.mark(engine)?;
        let caches = ApplyCaches::load(engine)?;
        *self.shared.requests.write() = RequestFilter::load(engine, mark.time_ms)?;
        // A copy may be of a higher level than what it replaces: what is written from here on follows it (rule 9).
        self.shared.level.store(view::level(engine)?, Ordering::Release);
        (self.mark, self.caches) = (mark, caches);
        self.publish();
        Ok(())
    }

    /// Last of all, so that who sees the index finds the rows and caches as of it.
    fn publish(&self) {
        self.shared.applied_time.store(self.mark.time_ms, Ordering::Release);
        self.shared.applied_index.store(self.mark.index, Ordering::Release);
    }

    pub fn reader(&self) -> StateReader {
        StateReader { shared: self.shared.clone() }
    }
}

/// Does it say where apply stands? Asked by a planted fault alone.
fn is_mark(op: &BatchOp) -> bool {
    matches!(op, BatchOp::Put(Cf::Meta, key, _) if key == keys::MARK || key == keys::NODE_MARK)
}

/// What the applied state starts from.
#[derive(Debug, Clone)]
pub struct Genesis {
    pub chain: [u8; 32],
    pub conf_state: Bytes,
}

/// Reads the applied state; cheap to clone, callable from any thread. Multi-row reads go through a view.
#[derive(Clone)]
pub struct StateReader {
    shared: Arc<Shared>,
}

/// A remembered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RememberedRequest {
    pub hash: [u8; 32],
    pub reply: Record,
    pub index: u64,
}

impl StateReader {
    pub fn view(&self) -> StateView {
        StateView::new(self.shared.engine.view(), self.shared.clone())
    }
    /// Lock-free copy of the latest mark's index and time, updated after each apply. The time is that of the
    /// index or of a later one.
    pub fn applied(&self) -> (u64, i64) {
        let index = self.shared.applied_index.load(Ordering::Acquire);
        (index, self.shared.applied_time.load(Ordering::Acquire))
    }
    /// The replicated feature level as applied, lock-free: what may be encoded how (rule 9).
    pub fn level(&self) -> u32 {
        self.shared.level.load(Ordering::Acquire).max(1)
    }
    /// Through the shared request cache; falls back to one read.
    pub fn request(&self, key: &RequestKey) -> Result<Option<RememberedRequest>, StorageError> {
        apply::remembered(&*self.shared.engine, &self.shared.requests, &keys::request(key))
    }
}
