//! The engine a node runs on, exchangeable when a snapshot is installed.
//!
//! Log, state and readers hold the slot, not the database: after [`EngineSlot::exchange`] they reach the new one, while
//! views taken before, and scans under way, finish on the old one, which closes when the last of them is gone.
//!
//! Invariant: nobody writes while the slot is exchanged. The raft thread does it while apply stands still, and these
//! two alone write (rule 11).

use crate::{
    engine::{Batch, Cf, Engine, Read, Sync, Visit},
    error::StorageError,
};
use bytes::Bytes;
use parking_lot::RwLock;
use std::sync::Arc;

/// An engine that can be another one from some moment on; clones share it.
#[derive(Clone)]
pub struct EngineSlot(Arc<RwLock<Arc<dyn Engine>>>);

impl EngineSlot {
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self(Arc::new(RwLock::new(engine)))
    }

    /// The engine of this moment. The lock is held for the copy of the handle alone.
    pub fn now(&self) -> Arc<dyn Engine> {
        self.0.read().clone()
    }

    /// Puts another engine in its place; returns the one before. Log and state have to be reloaded
    /// ([`crate::log::LogStore::reload`], [`crate::state::StateStore::reload`]).
    pub fn exchange(&self, engine: Arc<dyn Engine>) -> Arc<dyn Engine> {
        std::mem::replace(&mut *self.0.write(), engine)
    }
}

impl Read for EngineSlot {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.now().get(cf, key)
    }
    fn scan(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        self.now().scan(cf, from, to, visit)
    }
    fn scan_back(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        self.now().scan_back(cf, from, to, visit)
    }
}

impl Engine for EngineSlot {
    fn write(&self, batch: Batch, sync: Sync) -> Result<(), StorageError> {
        self.now().write(batch, sync)
    }
    fn view(&self) -> Arc<dyn Read> {
        self.now().view()
    }
    fn stats(&self) -> Vec<(&'static str, u64)> {
        self.now().stats()
    }
}
