//! The apply step: (state, entry) → outcome and changes (design §2, rules 4, 6, 7, 13, 15).
//!
//! A [`Step`] stages the changes of one batch. What it decides depends on the state before the batch and the
//! entries in it alone: checks read through an overlay of what is staged, so that any split into batches gives
//! the same state, outcomes and chain. Nothing outside changes until the batch is written; an error leaves the
//! state as it was.

use crate::{
    cache::{ApplyCaches, RequestFilter},
    codec::corrupt,
    commit::{
        Commit, EntityKey, FenceReason, MessageKey, Outcome, Record, RequestKey, SystemOp, TimerChange, Value,
    },
    engine::{Batch, Cf, Read},
    error::StorageError,
    keys,
    log::{self, EntryKind, LogEntry},
    planted::{self, Mutant},
    rows::{self, Head, JournalFacts},
    schema,
    state::{AppliedEntry, RememberedRequest},
};
use bytes::Bytes;
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

pub(crate) fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// hᵢ = SHA-256(hᵢ₋₁ ‖ index ‖ term ‖ outcome ‖ H(events) ‖ H(rest)) (rule 15), where events is the section of
/// that name and rest everything before it, header included; of an entry that is no commit all is rest.
pub fn chain_step(
    previous: &[u8; 32],
    index: u64,
    term: u64,
    outcome: u8,
    events: &[u8; 32],
    rest: &[u8; 32],
) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(previous);
    hash.update(index.to_be_bytes());
    hash.update(term.to_be_bytes());
    hash.update([outcome]);
    hash.update(events);
    hash.update(rest);
    hash.finalize().into()
}

/// Where the chain, the log and replicated time stand while a batch is staged.
#[derive(Clone)]
pub(crate) struct Position {
    pub index: u64,
    pub term: u64,
    pub chain: [u8; 32],
    pub time_ms: i64,
}

/// What this batch changed, as far as later entries of it can ask.
pub(crate) struct Overlay {
    pub heads: BTreeMap<EntityKey, Head>,
    pub requests: BTreeMap<Vec<u8>, Bytes>,
    /// Requests below this key were purged in this batch; only `requests` holds any of them.
    pub purged_below: Option<Vec<u8>>,
    /// Outbox rows; `None` was deleted.
    pub outbox: BTreeMap<Vec<u8>, Option<Bytes>>,
    pub timers: BTreeMap<Vec<u8>, bool>,
    pub quarantines: BTreeMap<EntityKey, bool>,
    pub level: Option<u32>,
    pub founded: bool,
}

impl Overlay {
    pub const EMPTY: Self = Self {
        heads: BTreeMap::new(),
        requests: BTreeMap::new(),
        purged_below: None,
        outbox: BTreeMap::new(),
        timers: BTreeMap::new(),
        quarantines: BTreeMap::new(),
        level: None,
        founded: false,
    };
}

pub(crate) struct Step<'a> {
    read: &'a dyn Read,
    caches: &'a mut ApplyCaches,
    requests: &'a RwLock<RequestFilter>,
    pub at: Position,
    pub overlay: Overlay,
    pub batch: Batch,
}

/// An entry applied, and whether it asks for a digest of all rows.
pub(crate) struct Applied {
    pub entry: AppliedEntry,
    pub marker: bool,
}

impl<'a> Step<'a> {
    pub fn new(
        read: &'a dyn Read,
        caches: &'a mut ApplyCaches,
        requests: &'a RwLock<RequestFilter>,
        at: Position,
    ) -> Self {
        Self { read, caches, requests, at, overlay: Overlay::EMPTY, batch: Batch::default() }
    }

    /// Stages one entry; it must follow the one before.
    pub fn apply(&mut self, entry: &LogEntry) -> Result<Applied, StorageError> {
        if entry.index != self.at.index + 1 || entry.term < self.at.term {
            return Err(corrupt(
                "log",
                format!(
                    "entry ({}, {}) does not follow ({}, {})",
                    entry.term, entry.index, self.at.term, self.at.index
                ),
            ));
        }
        if entry.kind == EntryKind::Configuration || entry.data.is_empty() {
            self.conclude(entry, &Outcome::NoCommit, None, entry.data.len())?;
            return Ok(Applied { entry: applied_entry(entry, Outcome::NoCommit, None), marker: false });
        }
        let schema::Decoded { commit, events_at } = schema::decode_commit(&entry.data)?;
        let outcome = self.judge(&commit, entry.term)?;
        let applied = outcome == Outcome::Applied;
        if applied {
            self.at.time_ms = self.at.time_ms.max(commit.time_ms);
            self.take_effect(&commit, entry.index)?;
        }
        self.conclude(entry, &outcome, Some(&commit), events_at)?;
        let marker = applied && commit.system == Some(SystemOp::Marker);
        Ok(Applied { entry: applied_entry(entry, outcome, Some(commit)), marker })
    }

    /// Advances index, term and chain, and writes the journal row: for every entry, whatever its outcome.
    fn conclude(
        &mut self,
        entry: &LogEntry,
        outcome: &Outcome,
        commit: Option<&Commit>,
        events_at: usize,
    ) -> Result<(), StorageError> {
        let (rest, section) = entry.data.split_at(events_at);
        let (rest, events) = (hash(rest), hash(section));
        let code = outcome.code();
        let chain = chain_step(&self.at.chain, entry.index, entry.term, code, &events, &rest);
        let keep = *outcome == Outcome::Applied && commit.is_some_and(|c| !c.events.is_empty());
        let row = rows::journal(&JournalFacts {
            term: entry.term,
            outcome_code: code,
            time_ms: self.at.time_ms,
            commit,
            rest,
            chain,
            events,
            section: if keep { section } else { &[] },
        })?;
        self.batch.put(Cf::Journal, keys::journal(entry.index).to_vec(), row);
        (self.at.index, self.at.term, self.at.chain) = (entry.index, entry.term, chain);
        Ok(())
    }

    /// The checks, in the order that design §2 fixes.
    fn judge(&mut self, commit: &Commit, entry_term: u64) -> Result<Outcome, StorageError> {
        for request in commit.requests() {
            if let Some(known) = self.request(&request.key)? {
                return Ok(if known.hash == request.hash {
                    Outcome::Duplicate(known.reply)
                } else {
                    Outcome::Fenced(FenceReason::RequestReused)
                });
            }
        }
        let fenced = |reason| Ok(Outcome::Fenced(reason));
        let term = if planted::is(Mutant::CompareCurrentTerm) {
            log::stored_hard_state(self.read)?.term
        } else {
            entry_term
        };
        if commit.term != term {
            return fenced(FenceReason::Term);
        }
        if self.quarantined(&commit.entity)? {
            return fenced(FenceReason::Quarantined);
        }
        if commit.base != self.head(&commit.entity)?.id && !planted::is(Mutant::DropBaseCheck) {
            return fenced(FenceReason::Base);
        }
        let buried = match &commit.system {
            Some(SystemOp::BuryMessage { message, .. }) => Some(message),
            _ => None,
        };
        // Doubled by the courier and consumed twice: the second half of that planted fault.
        let unchecked = if planted::is(Mutant::DeliverTwice) { commit.consumed.len() } else { 0 };
        for message in commit.consumed.iter().skip(unchecked).chain(buried) {
            if !self.in_outbox(message)? {
                return fenced(FenceReason::Message);
            }
        }
        for change in &commit.timers {
            if let TimerChange::Fire(key) = change
                && !self.timer_is_set(&keys::timer(key))?
            {
                return fenced(FenceReason::Timer);
            }
        }
        Ok(Outcome::Applied)
    }

    /// What the checks see of this batch.
    fn staged(&self) -> &Overlay {
        if planted::is(Mutant::FenceWithoutOverlay) {
            return const { &Overlay::EMPTY };
        }
        &self.overlay
    }

    fn request(&self, key: &RequestKey) -> Result<Option<RememberedRequest>, StorageError> {
        let key = keys::request(key);
        if let Some(row) = self.staged().requests.get(&key) {
            return rows::parse_request(row).map(Some);
        }
        if self.staged().purged_below.as_ref().is_some_and(|bound| key < *bound) {
            return Ok(None);
        }
        remembered(self.read, self.requests, &key)
    }

    fn quarantined(&self, entity: &EntityKey) -> Result<bool, StorageError> {
        match self.staged().quarantines.get(entity) {
            Some(quarantined) => Ok(*quarantined),
            None => self.caches.quarantines.holds(self.read, entity),
        }
    }

    fn head(&mut self, entity: &EntityKey) -> Result<Head, StorageError> {
        if let Some(head) = self.staged().heads.get(entity).copied() {
            return Ok(head);
        }
        if let Some(head) = self.caches.heads.get(entity) {
            return Ok(*head);
        }
        match self.read.get(Cf::Entity, &keys::root(entity))? {
            Some(bytes) => {
                let (head, _root) = rows::parse_root(&bytes)?;
                self.caches.heads.put(entity.clone(), head);
                Ok(head)
            }
            None => Ok(Head::default()),
        }
    }

    fn in_outbox(&self, message: &MessageKey) -> Result<bool, StorageError> {
        let key = keys::message(message);
        match self.staged().outbox.get(&key) {
            Some(row) => Ok(row.is_some()),
            None => Ok(self.caches.outbox.holds(&key) || self.read.get(Cf::Outbox, &key)?.is_some()),
        }
    }

    fn timer_is_set(&self, key: &[u8]) -> Result<bool, StorageError> {
        match self.staged().timers.get(key) {
            Some(set) => Ok(*set),
            None => Ok(self.caches.timers.holds(key) || self.read.get(Cf::Timer, key)?.is_some()),
        }
    }

    /// Stages everything an applied commit changes, but for its journal row.
    fn take_effect(&mut self, commit: &Commit, index: u64) -> Result<(), StorageError> {
        if let Some(op) = &commit.system {
            self.system(op)?;
        }
        if commit.root.is_some() {
            self.write_entity(commit, index)?;
        }
        if !commit.events.is_empty() || commit.system.as_ref().is_some_and(|op| *op != SystemOp::Time) {
            self.batch.put(Cf::Row, keys::journal_of_entity(&commit.entity, index), Vec::new());
        }
        for key in &commit.consumed {
            self.delete_message(keys::message(key));
        }
        for message in &commit.sent {
            let (key, row) = (keys::message(&message.key), rows::message(message)?);
            self.overlay.outbox.insert(key.clone(), Some(Bytes::copy_from_slice(&row)));
            self.batch.put(Cf::Outbox, key, row);
        }
        for change in &commit.timers {
            let key = keys::timer(change.key());
            let set = matches!(change, TimerChange::Set(_));
            self.overlay.timers.insert(key.clone(), set);
            if set {
                self.batch.put(Cf::Timer, key, Vec::new());
            } else {
                self.batch.delete(Cf::Timer, key);
            }
        }
        for reply in commit.replies.iter().filter(|_| !planted::is(Mutant::DropRememberedReply)) {
            let key = keys::request(&reply.request.key);
            let row = rows::request(&reply.request.hash, index, &reply.reply)?;
            self.overlay.requests.insert(key.clone(), Bytes::copy_from_slice(&row));
            self.batch.put(Cf::Request, key, row);
        }
        Ok(())
    }

    fn write_entity(&mut self, commit: &Commit, index: u64) -> Result<(), StorageError> {
        let Some(root) = &commit.root else { return Ok(()) };
        let head = Head { id: commit.id, index };
        let row = rows::root(head, root.tag, resolve(root, &commit.events)?);
        self.batch.put(Cf::Entity, keys::root(&commit.entity), row);
        self.overlay.heads.insert(commit.entity.clone(), head);
        for change in &commit.parts {
            let key = keys::part(&commit.entity, &change.part);
            match &change.value {
                Some(value) => self.batch.put(Cf::Entity, key, stored(value, &commit.events)?),
                None => self.batch.delete(Cf::Entity, key),
            }
        }
        for change in &commit.rows {
            let key = keys::row(change.table, &change.key, &commit.entity);
            match &change.value {
                Some(Some(value)) => self.batch.put(Cf::Row, key, stored(value, &commit.events)?),
                Some(None) => self.batch.put(Cf::Row, key, Vec::new()),
                None => self.batch.delete(Cf::Row, key),
            }
        }
        Ok(())
    }

    fn delete_message(&mut self, key: Vec<u8>) {
        self.overlay.outbox.insert(key.clone(), None);
        self.batch.delete(Cf::Outbox, key);
    }

    fn system(&mut self, op: &SystemOp) -> Result<(), StorageError> {
        match op {
            // The first one stands: a second leader may have proposed it as well.
            SystemOp::Found { cluster, members } => {
                if !self.overlay.founded && self.read.get(Cf::Meta, keys::FOUNDING)?.is_none() {
                    self.overlay.founded = true;
                    self.batch.put(Cf::Meta, keys::FOUNDING.to_vec(), rows::founding(*cluster, members)?);
                }
            }
            SystemOp::Quarantine { entity, reason } => {
                self.overlay.quarantines.insert(entity.clone(), true);
                self.batch.put(Cf::Meta, keys::quarantine(entity), rows::quarantine(reason)?);
            }
            SystemOp::Release { entity } => {
                self.overlay.quarantines.insert(entity.clone(), false);
                self.batch.delete(Cf::Meta, keys::quarantine(entity));
            }
            SystemOp::PurgeRequests { before_ms } => {
                let bound = keys::request_from(*before_ms);
                self.batch.delete_range(Cf::Request, Vec::new(), bound.clone());
                self.overlay.requests = self.overlay.requests.split_off(&bound);
                if self.overlay.purged_below.as_ref().is_none_or(|known| *known < bound) {
                    self.overlay.purged_below = Some(bound);
                }
            }
            SystemOp::BuryMessage { message, reason } => {
                let key = keys::message(message);
                let row = match self.overlay.outbox.get(&key) {
                    Some(row) => row.clone(),
                    None => self.read.get(Cf::Outbox, &key)?,
                };
                let row = row.ok_or_else(|| corrupt("outbox", "a row that was found is gone"))?;
                let letter = rows::dead_letter(reason, self.at.time_ms, &row)?;
                self.batch.put(Cf::Meta, keys::dead_letter(message), letter);
                self.delete_message(key);
            }
            SystemOp::Level { level } => {
                let current = match self.overlay.level {
                    Some(level) => level,
                    None => self.read.get(Cf::Meta, keys::LEVEL)?.map_or(Ok(0), |b| rows::parse_level(&b))?,
                };
                // It only rises: what was written at a level stays readable for ever.
                if *level > current {
                    self.overlay.level = Some(*level);
                    self.batch.put(Cf::Meta, keys::LEVEL.to_vec(), rows::level(*level)?);
                }
            }
            // A note's words are the commit's event, which the journal keeps like any other.
            SystemOp::Marker | SystemOp::Time | SystemOp::Note { .. } => {}
        }
        Ok(())
    }
}

/// Moves what a written batch changed into the caches.
pub(crate) fn settle(
    overlay: Overlay,
    now_ms: i64,
    caches: &mut ApplyCaches,
    requests: &RwLock<RequestFilter>,
) {
    for (entity, head) in overlay.heads {
        caches.heads.put(entity, head);
    }
    for (key, row) in overlay.outbox {
        caches.outbox.set(key, row.is_some());
    }
    for (key, set) in overlay.timers {
        caches.timers.set(key, set);
    }
    for (entity, quarantined) in overlay.quarantines {
        caches.quarantines.set(entity, quarantined);
    }
    let mut filter = requests.write();
    for key in overlay.requests.keys() {
        filter.insert(key);
    }
    filter.expire(now_ms);
}

/// A remembered request by its stored key: through the filter, then by one read.
pub(crate) fn remembered(
    read: &dyn Read,
    filter: &RwLock<RequestFilter>,
    key: &[u8],
) -> Result<Option<RememberedRequest>, StorageError> {
    if !filter.read().may_hold(key) {
        return Ok(None);
    }
    read.get(Cf::Request, key)?.map(|row| rows::parse_request(&row)).transpose()
}

fn resolve<'v>(value: &'v Value, events: &'v [Record]) -> Result<&'v [u8], StorageError> {
    value.resolve(events).ok_or_else(|| corrupt("commit", "a value points outside its events"))
}

fn stored(value: &Value, events: &[Record]) -> Result<Vec<u8>, StorageError> {
    Ok(crate::codec::frame(value.tag, resolve(value, events)?))
}

fn applied_entry(entry: &LogEntry, outcome: Outcome, commit: Option<Commit>) -> AppliedEntry {
    let mut out = AppliedEntry {
        index: entry.index,
        term: entry.term,
        outcome,
        entity: None,
        sent: Vec::new(),
        timers: Vec::new(),
        moved: false,
    };
    let Some(commit) = commit else { return out };
    out.entity = Some(commit.entity);
    if out.outcome == Outcome::Applied {
        out.moved = !commit.events.is_empty();
        out.sent = commit.sent;
        out.timers = commit
            .timers
            .into_iter()
            .filter_map(|change| match change {
                TimerChange::Set(key) => Some(key),
                _ => None,
            })
            .collect();
    }
    out
}
