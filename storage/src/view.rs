//! Reading the applied state as of one moment.

use crate::{
    codec::{self, corrupt},
    commit::{EntityKey, MemberRecord, Message, MessageKey, Record, TimerKey},
    engine::{Cf, Read},
    error::StorageError,
    keys,
    members::Members,
    rows,
    state::{AppliedMark, JournalEntry, Shared, StoredEntity},
};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::{ops::ControlFlow, sync::Arc};
use uuid::Uuid;

pub(crate) fn members(read: &dyn Read) -> Result<Members, StorageError> {
    if let Some(row) = read.get(Cf::Meta, keys::MEMBERS)? {
        return Members::decode(&row);
    }
    let founding = read.get(Cf::Meta, keys::FOUNDING)?.map(|row| rows::parse_founding(&row)).transpose()?;
    Ok(founding.map(|(_, members)| Members::founded(&members)).unwrap_or_default())
}

pub(crate) fn level(read: &dyn Read) -> Result<u32, StorageError> {
    read.get(Cf::Meta, keys::LEVEL)?.map_or(Ok(0), |bytes| rows::parse_level(&bytes))
}

pub(crate) fn chain_at(read: &dyn Read, index: u64) -> Result<Option<[u8; 32]>, StorageError> {
    let row = read.get(Cf::Journal, &keys::journal(index))?;
    row.map(|bytes| Ok(rows::parse_journal(index, &bytes)?.chain)).transpose()
}

/// A consistent point-in-time view. It pins resources of the engine: hold it briefly.
pub struct StateView {
    read: Arc<dyn Read>,
    shared: Arc<Shared>,
}

impl StateView {
    pub(crate) fn new(read: Arc<dyn Read>, shared: Arc<Shared>) -> Self {
        Self { read, shared }
    }

    pub fn mark(&self) -> Result<AppliedMark, StorageError> {
        self.shared.genesis.mark(&*self.read)
    }

    pub fn entity(&self, key: &EntityKey) -> Result<Option<StoredEntity>, StorageError> {
        let (from, to) = keys::entity_range(key);
        let mut root = None;
        let parts = self.collect(Cf::Entity, &from, &to, usize::MAX, |stored, value| {
            let value = keys::owned(value);
            match keys::part_name(key, stored)? {
                None => {
                    root = Some(rows::parse_root(&value)?);
                    Ok(None)
                }
                Some(name) => Ok(Some((keys::owned(name), codec::unframe(&value)?))),
            }
        })?;
        match root {
            Some((head, root)) => Ok(Some(StoredEntity {
                key: key.clone(),
                head: head.id,
                head_index: head.index,
                root,
                parts,
            })),
            None if parts.is_empty() => Ok(None),
            None => Err(corrupt("entity", format!("{key} has parts and no root"))),
        }
    }

    /// The root alone, with the log index of the entity's last commit: of an entity with many parts the rest costs more.
    pub fn root(&self, key: &EntityKey) -> Result<Option<(u64, Record)>, StorageError> {
        let stored = self.read.get(Cf::Entity, &keys::root(key))?;
        stored.map(|bytes| rows::parse_root(&bytes).map(|(head, root)| (head.index, root))).transpose()
    }

    /// Parts of one entity from the name `from` on, in the order of their names, at most `limit`.
    pub fn parts(
        &self,
        key: &EntityKey,
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, StorageError> {
        self.parts_in(key, &keys::part(key, from), &keys::entity_range(key).1, limit)
    }

    /// Parts of one entity whose names are in `[from, to)`, in the order of their names.
    pub fn parts_between(
        &self,
        key: &EntityKey,
        from: &[u8],
        to: &[u8],
    ) -> Result<Vec<(Bytes, Record)>, StorageError> {
        self.parts_in(key, &keys::part(key, from), &keys::part(key, to), usize::MAX)
    }

    fn parts_in(
        &self,
        key: &EntityKey,
        first: &[u8],
        last: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, StorageError> {
        self.collect(Cf::Entity, first, last, limit, |stored, value| match keys::part_name(key, stored)? {
            Some(name) => Ok(Some((keys::owned(name), codec::unframe(&keys::owned(value))?))),
            None => Ok(None),
        })
    }

    /// Entities of a kind behind `after`, in the order of their ids, at most `limit`. Goes from one to the next without
    /// reading what they are made of.
    pub fn entities(
        &self,
        kind: &str,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Result<Vec<EntityKey>, StorageError> {
        let (mut from, to) = keys::kind_range(kind);
        if let Some(after) = after {
            from = from.max(keys::entity_range(after).1);
        }
        let mut found: Vec<EntityKey> = Vec::new();
        while found.len() < limit {
            let next = self.collect(Cf::Entity, &from, &to, 1, |stored, _| {
                keys::entity_of(stored).map(|(entity, _)| Some(entity))
            })?;
            let Some(entity) = next.into_iter().next() else { break };
            from = keys::entity_range(&entity).1;
            found.push(entity);
        }
        Ok(found)
    }

    pub fn part(&self, key: &EntityKey, part: &[u8]) -> Result<Option<Record>, StorageError> {
        self.read.get(Cf::Entity, &keys::part(key, part))?.map(|bytes| codec::unframe(&bytes)).transpose()
    }

    /// Reason of an entity's quarantine.
    pub fn quarantined(&self, key: &EntityKey) -> Result<Option<String>, StorageError> {
        self.read
            .get(Cf::Meta, &keys::quarantine(key))?
            .map(|bytes| rows::parse_quarantine(&bytes))
            .transpose()
    }

    pub fn quarantines(&self, limit: usize) -> Result<Vec<(EntityKey, String)>, StorageError> {
        let (from, to) = keys::QUARANTINES;
        self.collect(Cf::Meta, from, to, limit, |key, value| {
            Ok(Some((keys::parse_quarantine(key)?, rows::parse_quarantine(value)?)))
        })
    }

    /// Rows of a table whose row key is in `[from, to)` (an empty `to`: to the table's end), with their entity, in
    /// order; `after` resumes behind a row returned before (key and entity).
    ///
    /// A row's entity stands behind its key without a separator, so the row keys of one table must be free of
    /// prefixes: of fixed length, or ended by a byte that does not occur in them.
    pub fn rows(
        &self,
        table: u16,
        from: &[u8],
        to: &[u8],
        after: Option<(&[u8], &EntityKey)>,
        limit: usize,
    ) -> Result<Vec<(Bytes, EntityKey)>, StorageError> {
        let mut first = keys::table_key(table, from);
        if let Some((key, entity)) = after {
            first = first.max(keys::behind(keys::row(table, key, entity)));
        }
        let last = if to.is_empty() { keys::table_end(table) } else { keys::table_key(table, to) };
        self.collect(Cf::Row, &first, &last, limit, |stored, _| {
            let (key, entity) = keys::row_parts(stored)?;
            Ok((key >= from).then(|| (keys::owned(key), entity)))
        })
    }

    /// The value of one row: `Some(None)` when it is key-only.
    pub fn row(
        &self,
        table: u16,
        key: &[u8],
        entity: &EntityKey,
    ) -> Result<Option<Option<Record>>, StorageError> {
        match self.read.get(Cf::Row, &keys::row(table, key, entity))? {
            Some(bytes) if bytes.is_empty() => Ok(Some(None)),
            Some(bytes) => Ok(Some(Some(codec::unframe(&bytes)?))),
            None => Ok(None),
        }
    }

    /// Journal rows of one entity with index > `after`, oldest first.
    pub fn history(
        &self,
        key: &EntityKey,
        after: u64,
        limit: usize,
    ) -> Result<Vec<JournalEntry>, StorageError> {
        let from = keys::journal_of_entity(key, after.saturating_add(1));
        let to = keys::journal_of_entity(key, u64::MAX);
        let indexes =
            self.collect(Cf::Row, &from, &to, limit, |key, _| Ok(Some(keys::journal_index(key)?)))?;
        indexes.into_iter().map(|index| self.journal_row(key, index)).collect()
    }

    /// Journal rows of one entity with index < `before`, newest first.
    pub fn recent(
        &self,
        key: &EntityKey,
        before: u64,
        limit: usize,
    ) -> Result<Vec<JournalEntry>, StorageError> {
        let (from, to) = (keys::journal_of_entity(key, 0), keys::journal_of_entity(key, before));
        let mut indexes = Vec::new();
        if limit > 0 {
            self.read.scan_back(Cf::Row, &from, &to, &mut |key, _| {
                indexes.push(keys::journal_index(key));
                if indexes.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        indexes.into_iter().map(|index| self.journal_row(key, index?)).collect()
    }

    /// The newest journal row of one entity.
    pub fn last_of(&self, key: &EntityKey) -> Result<Option<JournalEntry>, StorageError> {
        Ok(self.recent(key, u64::MAX, 1)?.pop())
    }

    fn journal_row(&self, key: &EntityKey, index: u64) -> Result<JournalEntry, StorageError> {
        match self.read.get(Cf::Journal, &keys::journal(index))? {
            Some(bytes) => rows::parse_journal(index, &bytes),
            None => Err(corrupt("journal", format!("row {index} of {key} is missing"))),
        }
    }

    /// Journal rows by global position (log index) > `after`.
    pub fn journal(&self, after: u64, limit: usize) -> Result<Vec<JournalEntry>, StorageError> {
        let from = keys::journal(after.saturating_add(1));
        self.collect(Cf::Journal, &from, keys::END, limit, |key, value| {
            Ok(Some(rows::parse_journal(keys::journal_index(key)?, &keys::owned(value))?))
        })
    }

    /// Outbox messages with key > `after`, in key order (target, source, commit, place).
    pub fn outbox(&self, after: Option<&MessageKey>, limit: usize) -> Result<Vec<Message>, StorageError> {
        let from = after.map(|key| keys::behind(keys::message(key))).unwrap_or_default();
        self.messages(&from, keys::END, limit)
    }

    /// Messages waiting for one target, in order of (source, commit, place).
    pub fn outbox_of(&self, target: &EntityKey, limit: usize) -> Result<Vec<Message>, StorageError> {
        let (from, to) = keys::outbox_of(target);
        self.messages(&from, &to, limit)
    }

    fn messages(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Message>, StorageError> {
        self.collect(Cf::Outbox, from, to, limit, |key, value| {
            Ok(Some(rows::parse_message(keys::parse_message(key)?, &keys::owned(value))?))
        })
    }

    pub fn message(&self, key: &MessageKey) -> Result<Option<Message>, StorageError> {
        let row = self.read.get(Cf::Outbox, &keys::message(key))?;
        row.map(|bytes| rows::parse_message(key.clone(), &bytes)).transpose()
    }

    /// Buried messages with key > `after`, why, and the replicated time of the burial.
    pub fn dead_letters(
        &self,
        after: Option<&MessageKey>,
        limit: usize,
    ) -> Result<Vec<(Message, String, i64)>, StorageError> {
        let (first, to) = keys::DEAD_LETTERS;
        let from = after.map_or_else(|| first.to_vec(), |key| keys::behind(keys::dead_letter(key)));
        self.collect(Cf::Meta, &from, to, limit, |key, value| {
            Ok(Some(rows::parse_dead_letter(keys::parse_dead_letter(key)?, &keys::owned(value))?))
        })
    }

    /// Timers with key > `after` and due at or before `until_ms`, in order of due time.
    pub fn timers(
        &self,
        after: Option<&TimerKey>,
        until_ms: i64,
        limit: usize,
    ) -> Result<Vec<TimerKey>, StorageError> {
        let from = after.map(|key| keys::behind(keys::timer(key))).unwrap_or_default();
        self.collect(Cf::Timer, &from, &keys::timer_after(until_ms), limit, |key, _| {
            Ok(Some(keys::parse_timer(key)?))
        })
    }

    /// Digest of every row outside the log and node-local meta, in key order per column family (rule 15).
    /// Reads everything: run it off the hot threads.
    ///
    /// Each family is digested by itself (length and bytes of key and value of every row), then the digests in
    /// order of families, so that families can be digested in parallel ([`StateView::digest_of`]).
    pub fn digest(&self) -> Result<[u8; 32], StorageError> {
        self.digest_with(&mut |_| Ok(()))
    }

    /// As [`StateView::digest`]; `passed` hears of each row's bytes, may take its time, and may end it by an error.
    pub fn digest_with<E: From<StorageError>>(
        &self,
        passed: &mut dyn FnMut(usize) -> Result<(), E>,
    ) -> Result<[u8; 32], E> {
        let mut all = Sha256::new();
        for cf in Cf::ALL.into_iter().filter(|cf| *cf != Cf::Log) {
            all.update([cf as u8]);
            all.update(self.rows_of(cf, passed)?);
        }
        Ok(all.finalize().into())
    }

    /// Digest of one column family's replicated rows.
    pub fn digest_of(&self, cf: Cf) -> Result<[u8; 32], StorageError> {
        self.rows_of(cf, &mut |_| Ok(()))
    }

    fn rows_of<E: From<StorageError>>(
        &self,
        cf: Cf,
        passed: &mut dyn FnMut(usize) -> Result<(), E>,
    ) -> Result<[u8; 32], E> {
        let (from, to): (&[u8], &[u8]) =
            if cf == Cf::Meta { keys::META_REPLICATED } else { (&[], keys::END) };
        let mut hash = Sha256::new();
        let mut ended = None;
        self.read.scan(cf, from, to, &mut |key, value| {
            for bytes in [key, value] {
                hash.update((bytes.len() as u64).to_be_bytes());
                hash.update(bytes);
            }
            match passed(key.len() + value.len()) {
                Ok(()) => ControlFlow::Continue(()),
                Err(why) => {
                    ended = Some(why);
                    ControlFlow::Break(())
                }
            }
        })?;
        ended.map_or_else(|| Ok(hash.finalize().into()), Err)
    }

    /// The founding commit's facts, once applied.
    pub fn founding(&self) -> Result<Option<(Uuid, Vec<MemberRecord>)>, StorageError> {
        self.read.get(Cf::Meta, keys::FOUNDING)?.map(|bytes| rows::parse_founding(&bytes)).transpose()
    }

    /// Who belongs to the cluster, and who never may again; empty before the founding commit.
    pub fn members(&self) -> Result<Members, StorageError> {
        members(&*self.read)
    }

    /// hᵢ of the hash chain at an applied index, from its journal row; `None` if there is no such row.
    pub fn chain_at(&self, index: u64) -> Result<Option<[u8; 32]>, StorageError> {
        chain_at(&*self.read, index)
    }

    /// The replicated feature level; 0 until one was set.
    pub fn level(&self) -> Result<u32, StorageError> {
        level(&*self.read)
    }

    /// Visits a range in order and keeps what `take` makes of its rows, at most `limit`.
    fn collect<T>(
        &self,
        cf: Cf,
        from: &[u8],
        to: &[u8],
        limit: usize,
        mut take: impl FnMut(&[u8], &[u8]) -> Result<Option<T>, StorageError>,
    ) -> Result<Vec<T>, StorageError> {
        let mut out = Vec::new();
        let mut failed = None;
        if limit == 0 {
            return Ok(out);
        }
        self.read.scan(cf, from, to, &mut |key, value| {
            match take(key, value) {
                Ok(found) => out.extend(found),
                Err(error) => failed = Some(error),
            }
            if failed.is_some() || out.len() >= limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        failed.map_or(Ok(out), Err)
    }
}
