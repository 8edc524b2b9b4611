//! The `identity` file: who this node is, its term and vote, and how far its log was ever synced (design §4).
//!
//! Two checksummed slots written in turn, so that a torn write leaves the other. Written by `okno init` and then
//! by the raft thread alone. The same logic runs over a file and, in the simulator, over memory (`IdentityMedium`).

use crate::error::StorageError;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A member of the initial configuration, as given to `okno init`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    pub node_id: u64,
    /// host:port other nodes reach it at.
    pub peer_address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRecord {
    pub cluster: Uuid,
    pub node_id: u64,
    /// Random, made by `okno init`: an id dies with its data.
    pub incarnation: Uuid,
    /// The full initial member list, ordered by node id.
    pub members: Vec<Member>,
    /// Incarnations pinned before the first commit: (node id, incarnation), ordered; empty until all are known.
    pub pins: Vec<(u64, Uuid)>,
    pub term: u64,
    pub vote: u64,
    /// The last entry known synced: compared as (term, index).
    pub synced_term: u64,
    pub synced_index: u64,
    /// Name of the live database directory.
    pub live_directory: String,
    /// Grows with every write; the larger valid slot counts.
    pub sequence: u64,
}

impl IdentityRecord {
    /// h₀ of the hash chain: H(cluster id ‖ member list) (rule 14).
    pub fn genesis_chain(&self) -> [u8; 32] {
        todo!()
    }
}

/// Two slots of bytes; `write` returns once the slot is on stable storage.
pub trait IdentityMedium: Send {
    fn read(&self, slot: usize) -> Result<Option<Vec<u8>>, StorageError>;
    fn write(&mut self, slot: usize, bytes: &[u8]) -> Result<(), StorageError>;
}

/// The record and where it is kept.
pub struct Identity {
    _medium: Box<dyn IdentityMedium>,
}

impl Identity {
    /// Reads the newest valid slot. Both damaged or absent: an error that says which.
    pub fn open(medium: Box<dyn IdentityMedium>) -> Result<Self, StorageError> {
        let _ = medium;
        todo!()
    }
    /// Writes the first record; refuses if one is there.
    pub fn create(medium: Box<dyn IdentityMedium>, record: IdentityRecord) -> Result<Self, StorageError> {
        let _ = (medium, record);
        todo!()
    }
    pub fn record(&self) -> &IdentityRecord {
        todo!()
    }
    /// Changes and syncs; returns once on stable storage.
    pub fn update(&mut self, change: impl FnOnce(&mut IdentityRecord)) -> Result<(), StorageError> {
        let _ = change;
        todo!()
    }
}
