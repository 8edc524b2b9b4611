//! Reads everything a store holds, a little at a time, to find damage before somebody needs what is damaged.
//!
//! A pass goes through all column families in key order. Every block it meets passes RocksDB's checksum, every value this
//! crate's own; the journal's hash chain is computed again, and rows that belong to an entity or to a journal row are
//! looked for theirs. Each step takes a view of its own, so that a pass of hours pins nothing: what was deleted
//! meanwhile is not met, and what one view shows belongs together.
//!
//! Two kinds of findings, because they call for different things: rot is this copy's own, and closes the node; an orphan
//! may be a fault of the program, which all members would share, and is only told.

use crate::{
    apply::chain_step,
    codec,
    commit::EntityKey,
    engine::{Cf, Read},
    error::StorageError,
    keys, rows,
};
use bytes::Bytes;
use std::ops::ControlFlow;

/// Orphans told by name in one pass; the rest is counted.
pub const ORPHANS_TOLD: usize = 16;

/// What a pass has seen so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub rows: u64,
    pub bytes: u64,
    /// Rows whose owner is not there, and the first of them by name.
    pub orphans: u64,
    pub orphans_told: Vec<String>,
}

/// One pass. Invariant: everything before `cursor` in family `family`, and all families before it, was read.
#[derive(Debug, Default)]
pub struct Pass {
    family: usize,
    cursor: Vec<u8>,
    /// The last journal row read, and its chain.
    chain: Option<(u64, [u8; 32])>,
    /// The last entity's root read.
    root: Option<EntityKey>,
    seen: Seen,
    /// The log is passed over.
    without_log: bool,
}

/// A row that is to be looked at closer once the scan has let go of it.
type Met = (Vec<u8>, Bytes);

impl Pass {
    /// Over what a copy takes along.
    pub fn of_a_copy() -> Self {
        Self { without_log: true, ..Self::default() }
    }

    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Reads about `budget` bytes more of `read`, a view of this moment. True: the pass is complete. An error is damage
    /// (`Corrupt`) or a disk that fails; the pass is over in either case.
    pub fn step(&mut self, read: &dyn Read, budget: usize) -> Result<bool, StorageError> {
        let mut left = budget.max(1);
        while let Some(family) = Cf::ALL.get(self.family).copied() {
            if self.without_log && family == Cf::Log {
                self.family += 1;
                continue;
            }
            let mut met: Vec<Met> = Vec::new();
            let mut size = 0;
            read.scan(family, &self.cursor, keys::END, &mut |key, value| {
                size += key.len() + value.len();
                met.push((key.to_vec(), keys::owned(value)));
                if size >= left { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            for (key, value) in &met {
                self.look(read, family, key, value)?;
            }
            self.seen.rows += met.len() as u64;
            self.seen.bytes += size as u64;
            match met.pop() {
                Some((key, _)) if size >= left => {
                    self.cursor = keys::behind(key);
                    return Ok(false);
                }
                _ => {
                    left = left.saturating_sub(size).max(1);
                    self.family += 1;
                    self.cursor.clear();
                }
            }
        }
        Ok(true)
    }

    fn look(&mut self, read: &dyn Read, family: Cf, key: &[u8], value: &Bytes) -> Result<(), StorageError> {
        if !value.is_empty() {
            // Header and checksum; what it means is for whoever uses it.
            codec::unframe(value)?;
        }
        match family {
            Cf::Journal => self.journal(key, value),
            Cf::Row if key.starts_with(&keys::TABLE_RESERVED.to_be_bytes()) => {
                let index = keys::journal_index(key)?;
                if read.get(Cf::Journal, &keys::journal(index))?.is_none() {
                    self.orphan(format!("the index of the journal names row {index}, which is not there"));
                }
                Ok(())
            }
            Cf::Row => {
                let (_, entity) = keys::row_parts(key)?;
                self.owned(read, &entity, "a row of a table")
            }
            Cf::Timer => {
                let timer = keys::parse_timer(key)?;
                self.owned(read, &timer.entity, "a timer")
            }
            Cf::Entity => match keys::entity_of(key)? {
                (entity, true) => {
                    self.root = Some(entity);
                    Ok(())
                }
                // Parts stand behind their root. One that a step before met is still there as long as its parts are.
                (entity, false) if self.root.as_ref() == Some(&entity) => Ok(()),
                (entity, false) => self.owned(read, &entity, "a part"),
            },
            Cf::Log | Cf::Outbox | Cf::Request | Cf::Meta => Ok(()),
        }
    }

    fn journal(&mut self, key: &[u8], value: &Bytes) -> Result<(), StorageError> {
        let row = rows::parse_journal(keys::journal_index(key)?, value)?;
        if let Some((index, chain)) = self.chain {
            if row.index != index + 1 {
                return Err(codec::corrupt("journal", format!("it goes from {index} to {}", row.index)));
            }
            let computed =
                chain_step(&chain, row.index, row.term, row.outcome_code, &row.events_hash, &row.rest);
            if computed != row.chain {
                return Err(codec::corrupt("journal", format!("the hash chain breaks at {}", row.index)));
            }
        }
        self.chain = Some((row.index, row.chain));
        Ok(())
    }

    fn owned(&mut self, read: &dyn Read, entity: &EntityKey, what: &str) -> Result<(), StorageError> {
        if read.get(Cf::Entity, &keys::root(entity))?.is_none() {
            self.orphan(format!("{what} belongs to {entity}, which is not there"));
        }
        Ok(())
    }

    fn orphan(&mut self, text: String) {
        self.seen.orphans += 1;
        if self.seen.orphans_told.len() < ORPHANS_TOLD {
            self.seen.orphans_told.push(text);
        }
    }
}
