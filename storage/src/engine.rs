//! The floor everything durable stands on: column families under one write-ahead log.
//!
//! Two implementations, one contract: [`crate::rocks::RocksEngine`] (RocksDB) and [`crate::memory::MemoryEngine`]
//! (the simulator's, which can lose any unsynced suffix of its log at a crash, and tests'). Everything above —
//! log, state, apply — is written once, over this trait.
//!
//! Contract:
//! - A batch is atomic. Batches become visible, and are recovered, in the order of `write` calls: after a crash
//!   the store holds a prefix of that order which contains at least everything up to the last synced write.
//! - `write(batch, Sync::Yes)` returns after the log up to and including this batch is on stable storage. Any
//!   error of it is final: the caller ends the process and never retries (rule 12).
//! - Iteration is in byte order of keys.

use crate::error::StorageError;
use bytes::Bytes;
use std::{ops::ControlFlow, sync::Arc};

/// The column families (design §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Cf {
    Log = 0,
    Entity = 1,
    Row = 2,
    Journal = 3,
    Outbox = 4,
    Timer = 5,
    Request = 6,
    Meta = 7,
}

impl Cf {
    pub const ALL: [Self; 8] = [
        Self::Log,
        Self::Entity,
        Self::Row,
        Self::Journal,
        Self::Outbox,
        Self::Timer,
        Self::Request,
        Self::Meta,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Entity => "entity",
            Self::Row => "row",
            Self::Journal => "journal",
            Self::Outbox => "outbox",
            Self::Timer => "timer",
            Self::Request => "request",
            Self::Meta => "meta",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchOp {
    Put(Cf, Vec<u8>, Vec<u8>),
    Delete(Cf, Vec<u8>),
    /// Deletes keys in `[from, to)`.
    DeleteRange(Cf, Vec<u8>, Vec<u8>),
}

/// An ordered, atomic set of changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub ops: Vec<BatchOp>,
    /// Sum of key and value lengths, bytes.
    pub bytes: usize,
}

impl Batch {
    pub fn put(&mut self, cf: Cf, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.ops.push(BatchOp::Put(cf, key, value));
    }
    pub fn delete(&mut self, cf: Cf, key: Vec<u8>) {
        self.bytes += key.len();
        self.ops.push(BatchOp::Delete(cf, key));
    }
    pub fn delete_range(&mut self, cf: Cf, from: Vec<u8>, to: Vec<u8>) {
        self.bytes += from.len() + to.len();
        self.ops.push(BatchOp::DeleteRange(cf, from, to));
    }
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    Yes,
    No,
}

/// A visitor of a scan; `Break` ends it.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Reading, from the live store or from a point-in-time view of it.
pub trait Read: Send + std::marker::Sync {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, StorageError>;
    /// Visits keys in `[from, to)` in ascending order.
    fn scan(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError>;
    /// Visits keys in `[from, to)` in descending order.
    fn scan_back(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError>;
}

/// A store. See the module's contract.
pub trait Engine: Read + 'static {
    fn write(&self, batch: Batch, sync: Sync) -> Result<(), StorageError>;
    /// A consistent view of this moment. It pins resources: hold it briefly.
    fn view(&self) -> Arc<dyn Read>;
    /// Figures for metrics: (name, value).
    fn stats(&self) -> Vec<(&'static str, u64)>;
}
