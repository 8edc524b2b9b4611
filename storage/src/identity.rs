//! The `identity` file: who this node is, its term and vote, and how far its log was ever synced (design §4).
//!
//! Two checksummed slots written in turn, so that a torn write leaves the other. Written by `okno init` and then
//! by the raft thread alone. The same logic runs over a file and, in the simulator, over memory (`IdentityMedium`).

use crate::{
    codec::{self, corrupt, kind},
    error::StorageError,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// Size of a slot: two pages, so that no write of one slot touches a page of the other, with room for a
/// configuration of dozens of members.
pub const SLOT_BYTES: usize = 8192;
const SLOTS: usize = 2;
const VERSION: u16 = 2;

/// A member of the initial configuration, as given to `okno init`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    pub node_id: u64,
    /// host:port other nodes reach it at.
    pub peer_address: String,
}

/// Generation of a cluster as it is founded.
pub const FIRST_GENERATION: u64 = 1;

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
    /// What only version 2 can say; as by default it is written in version 1, which earlier releases read.
    pub later: Later,
}

/// The part of an identity that came with version 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Later {
    /// [`FIRST_GENERATION`] as founded; restore and forced recovery raise it. Part of every fencing token.
    pub generation: u64,
    /// h₀ of the chain, where it began in another cluster: a restored or recovered one continues the chain of the data
    /// it was made of.
    pub genesis: Option<[u8; 32]>,
    /// Incarnations of members that joined after the founding, as first met: (node id, incarnation), ordered.
    pub pins: Vec<(u64, Uuid)>,
    /// Made to join a cluster that is there: the initial member list does not hold this node.
    pub joined: bool,
}

impl Default for Later {
    fn default() -> Self {
        Self { generation: FIRST_GENERATION, genesis: None, pins: Vec::new(), joined: false }
    }
}

impl IdentityRecord {
    /// h₀ of the hash chain: H(cluster id ‖ member list) (rule 14), unless the chain began in another cluster.
    pub fn genesis_chain(&self) -> [u8; 32] {
        self.later.genesis.unwrap_or_else(|| self.members_hash())
    }

    /// H(cluster id ‖ initial member list). Members are taken in order of node id, each as id, length of address,
    /// address.
    pub fn members_hash(&self) -> [u8; 32] {
        let mut members: Vec<&Member> = self.members.iter().collect();
        members.sort();
        let mut hash = Sha256::new();
        hash.update(self.cluster.as_bytes());
        for member in members {
            hash.update(member.node_id.to_be_bytes());
            hash.update((member.peer_address.len() as u64).to_be_bytes());
            hash.update(member.peer_address.as_bytes());
        }
        hash.finalize().into()
    }
}

/// [`IdentityRecord`] as version 2 stores it: version 1 and what came later. Frozen.
#[derive(Serialize, Deserialize)]
struct IdentityV2 {
    v1: IdentityV1,
    generation: u64,
    genesis: Option<[u8; 32]>,
    later_pins: Vec<(u64, [u8; 16])>,
    joined: bool,
}

/// [`IdentityRecord`] as version 1 stores it. Frozen.
#[derive(Serialize, Deserialize)]
struct IdentityV1 {
    cluster: [u8; 16],
    node_id: u64,
    incarnation: [u8; 16],
    members: Vec<(u64, String)>,
    pins: Vec<(u64, [u8; 16])>,
    term: u64,
    vote: u64,
    synced_term: u64,
    synced_index: u64,
    live_directory: String,
    sequence: u64,
}

fn encode(record: &IdentityRecord) -> Result<Vec<u8>, StorageError> {
    let v1 = IdentityV1 {
        cluster: *record.cluster.as_bytes(),
        node_id: record.node_id,
        incarnation: *record.incarnation.as_bytes(),
        members: record.members.iter().map(|m| (m.node_id, m.peer_address.clone())).collect(),
        pins: record.pins.iter().map(|(node, incarnation)| (*node, *incarnation.as_bytes())).collect(),
        term: record.term,
        vote: record.vote,
        synced_term: record.synced_term,
        synced_index: record.synced_index,
        live_directory: record.live_directory.clone(),
        sequence: record.sequence,
    };
    // The slot's own length stands in front, because a slot is padded.
    let frame = if record.later == Later::default() {
        codec::frame_own(kind::IDENTITY, 1, &v1)?
    } else {
        let Later { generation, genesis, pins, joined } = &record.later;
        let later_pins = pins.iter().map(|(node, incarnation)| (*node, *incarnation.as_bytes())).collect();
        let v2 = IdentityV2 { v1, generation: *generation, genesis: *genesis, later_pins, joined: *joined };
        codec::frame_own(kind::IDENTITY, 2, &v2)?
    };
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let slot = [&length.to_be_bytes()[..], &frame].concat();
    if slot.len() > SLOT_BYTES {
        return Err(StorageError::TooLarge(format!(
            "identity of {} bytes; a slot has {SLOT_BYTES}",
            slot.len()
        )));
    }
    Ok(slot)
}

fn decode(slot: &[u8]) -> Result<IdentityRecord, StorageError> {
    let (length, rest) =
        slot.split_first_chunk::<4>().ok_or_else(|| corrupt("identity", "slot is too short"))?;
    let frame = rest
        .get(..u32::from_be_bytes(*length) as usize)
        .ok_or_else(|| corrupt("identity", "length is larger than the slot"))?;
    let (version, payload) = codec::unframe_own("identity", frame, kind::IDENTITY, VERSION)?;
    let (v1, later): (IdentityV1, Later) = match version {
        1 => (codec::decode("identity", payload)?, Later::default()),
        _ => {
            let v2: IdentityV2 = codec::decode("identity", payload)?;
            let pins = v2.later_pins.into_iter().map(|(node, i)| (node, Uuid::from_bytes(i))).collect();
            let later = Later { generation: v2.generation, genesis: v2.genesis, pins, joined: v2.joined };
            (v2.v1, later)
        }
    };
    Ok(IdentityRecord {
        cluster: Uuid::from_bytes(v1.cluster),
        node_id: v1.node_id,
        incarnation: Uuid::from_bytes(v1.incarnation),
        members: v1
            .members
            .into_iter()
            .map(|(node_id, peer_address)| Member { node_id, peer_address })
            .collect(),
        pins: v1.pins.into_iter().map(|(node, incarnation)| (node, Uuid::from_bytes(incarnation))).collect(),
        term: v1.term,
        vote: v1.vote,
        synced_term: v1.synced_term,
        synced_index: v1.synced_index,
        live_directory: v1.live_directory,
        sequence: v1.sequence,
        later,
    })
}

/// Two slots of bytes; `write` returns once the slot is on stable storage.
pub trait IdentityMedium: Send {
    /// `None` when the slot was never written.
    fn read(&self, slot: usize) -> Result<Option<Vec<u8>>, StorageError>;
    fn write(&mut self, slot: usize, bytes: &[u8]) -> Result<(), StorageError>;
}

/// The record and where it is kept.
///
/// Invariant: `record` is on stable storage, in the slot its sequence names (`sequence % 2`); the next write goes
/// to the other one.
pub struct Identity {
    medium: Box<dyn IdentityMedium>,
    record: IdentityRecord,
}

impl Identity {
    /// Reads the newest valid slot. Both damaged or absent: an error that says which.
    ///
    /// One damaged slot is what a torn write leaves: the write did not return, so nothing was promised on it and
    /// the other slot counts. Rot of the newest slot looks the same; what it could hide — a vote, or the end of the
    /// synced log — stands in the database as well, and the larger of the two counts.
    pub fn open(medium: Box<dyn IdentityMedium>) -> Result<Self, StorageError> {
        let mut best: Option<IdentityRecord> = None;
        let mut told = Vec::new();
        for slot in 0..SLOTS {
            match medium.read(slot)?.map(|bytes| decode(&bytes)) {
                None => told.push(format!("slot {slot} was never written")),
                Some(Ok(record)) => {
                    if record.sequence % SLOTS as u64 != slot as u64 {
                        return Err(corrupt(
                            "identity",
                            format!("slot {slot} holds the other slot's record"),
                        ));
                    }
                    if best.as_ref().is_none_or(|b| b.sequence < record.sequence) {
                        best = Some(record);
                    }
                }
                Some(Err(newer @ StorageError::Newer { .. })) => return Err(newer),
                Some(Err(error)) => told.push(format!("slot {slot}: {error}")),
            }
        }
        match best {
            Some(record) => Ok(Self { medium, record }),
            None => Err(corrupt("identity", told.join("; "))),
        }
    }

    /// Writes the first record; refuses if one is there, even a damaged one.
    pub fn create(mut medium: Box<dyn IdentityMedium>, record: IdentityRecord) -> Result<Self, StorageError> {
        for slot in 0..SLOTS {
            if medium.read(slot)?.is_some() {
                return Err(StorageError::Directory {
                    path: PathBuf::from("identity"),
                    detail: format!("slot {slot} is already written: this directory belongs to a node"),
                });
            }
        }
        write_record(&mut *medium, &record)?;
        Ok(Self { medium, record })
    }

    pub fn record(&self) -> &IdentityRecord {
        &self.record
    }

    /// Changes and syncs; returns once on stable storage. A change that changes nothing writes nothing. After an
    /// error the process must end (rule 12): what the medium holds is not known.
    pub fn update(&mut self, change: impl FnOnce(&mut IdentityRecord)) -> Result<(), StorageError> {
        let mut next = self.record.clone();
        change(&mut next);
        if next == self.record {
            return Ok(());
        }
        next.sequence = self.record.sequence + 1;
        write_record(&mut *self.medium, &next)?;
        self.record = next;
        Ok(())
    }
}

fn write_record(medium: &mut dyn IdentityMedium, record: &IdentityRecord) -> Result<(), StorageError> {
    let slot = usize::try_from(record.sequence % SLOTS as u64).unwrap_or_default();
    medium.write(slot, &encode(record)?)
}

/// The slots in one file, made at the first write. Each slot is written whole and synced; the directory is synced
/// when the file is made.
pub struct FileIdentityMedium {
    path: PathBuf,
    file: Option<File>,
}

impl FileIdentityMedium {
    /// Opens the file if it is there.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let path = path.into();
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(StorageError::Io { path, source }),
        };
        Ok(Self { path, file })
    }

    fn io(path: &Path) -> impl Fn(io::Error) -> StorageError + '_ {
        move |source| StorageError::Io { path: path.to_owned(), source }
    }

    fn offset(slot: usize) -> u64 {
        (slot * SLOT_BYTES) as u64
    }
}

impl IdentityMedium for FileIdentityMedium {
    fn read(&self, slot: usize) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(file) = &self.file else { return Ok(None) };
        let length = file.metadata().map_err(Self::io(&self.path))?.len();
        let from = Self::offset(slot);
        let size = length.saturating_sub(from).min(SLOT_BYTES as u64);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(SLOT_BYTES)];
        file.read_exact_at(&mut bytes, from).map_err(Self::io(&self.path))?;
        // A slot never written is absent or a hole of zeros; a record begins with its length, which is not zero.
        Ok(bytes.iter().any(|b| *b != 0).then_some(bytes))
    }

    fn write(&mut self, slot: usize, bytes: &[u8]) -> Result<(), StorageError> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                let made = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&self.path)
                    .and_then(|file| {
                        file.set_len((SLOTS * SLOT_BYTES) as u64)
                            .and_then(|()| file.sync_all())
                            .map(|()| file)
                    })
                    .map_err(Self::io(&self.path))?;
                let parent =
                    self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                File::open(parent).and_then(|dir| dir.sync_all()).map_err(Self::io(parent))?;
                self.file.insert(made)
            }
        };
        let mut slot_bytes = bytes.to_vec();
        slot_bytes.resize(SLOT_BYTES, 0);
        file.write_all_at(&slot_bytes, Self::offset(slot))
            .and_then(|()| file.sync_data())
            .map_err(Self::io(&self.path))
    }
}
