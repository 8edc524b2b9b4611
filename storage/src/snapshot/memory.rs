//! Snapshots of a simulated node: a disk in memory with databases by directory name and a place for what comes in.
//!
//! A copy is one file per column family, every row as length and bytes of key and value, so that transfers are as long,
//! and are cut in as many places, as the state is large.

use super::{Candidate, CopyOf, Home, Manifest, ManifestFile, Pace, Place, Receiver, SnapshotError, Source};
use crate::{
    codec::corrupt,
    engine::{Batch, Cf, Engine, Read, Sync},
    error::StorageError,
    memory::MemoryEngine,
    planted::{self, Mutant},
    slot::EngineSlot,
};
use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

/// A file coming in: its bytes, and how many of them a crash cannot take.
#[derive(Clone, Default)]
struct Arriving {
    bytes: Vec<u8>,
    synced: usize,
}

#[derive(Default)]
struct Disk {
    databases: BTreeMap<String, MemoryEngine>,
    incoming: BTreeMap<String, Arriving>,
}

/// What survives a simulated process; clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Disk>>);

impl MemoryDisk {
    /// A disk with one database.
    pub fn new(directory: &str, engine: MemoryEngine) -> Self {
        let disk = Self::default();
        disk.0.lock().databases.insert(directory.to_owned(), engine);
        disk
    }

    /// The database of a directory.
    pub fn database(&self, directory: &str) -> Option<MemoryEngine> {
        self.0.lock().databases.get(directory).cloned()
    }

    /// Puts a database into a directory, as offline recovery does.
    pub fn put(&self, directory: &str, engine: MemoryEngine) {
        self.0.lock().databases.insert(directory.to_owned(), engine);
    }

    /// Directories that hold a database, ascending.
    pub fn directories(&self) -> Vec<String> {
        self.0.lock().databases.keys().cloned().collect()
    }

    /// The disk after a crash: of the live database the first `keep` unsynced batches, of others what was synced (they
    /// are synced before they matter), of a file coming in its synced part and what `torn` leaves of so many bytes behind.
    pub fn crash(&self, live: &str, keep: usize, mut torn: impl FnMut(usize) -> usize) -> Self {
        let disk = self.0.lock();
        let databases = disk
            .databases
            .iter()
            .map(|(name, engine)| (name.clone(), engine.crash(if name == live { keep } else { 0 })))
            .collect();
        let incoming = disk
            .incoming
            .iter()
            .map(|(name, file)| {
                let loose = file.bytes.len() - file.synced;
                let kept = file.synced + torn(loose).min(loose);
                (name.clone(), Arriving { bytes: file.bytes[..kept].to_vec(), synced: kept })
            })
            .collect();
        Self(Arc::new(Mutex::new(Disk { databases, incoming })))
    }

    /// A bit flips in a file coming in, if it holds that byte.
    pub fn rot_incoming(&self, name: &str, byte: usize) {
        if let Some(byte) = self.0.lock().incoming.get_mut(name).and_then(|f| f.bytes.get_mut(byte)) {
            *byte ^= 1;
        }
    }
}

/// The databases on a [`MemoryDisk`], for one life of a process.
pub struct MemoryHome {
    disk: MemoryDisk,
    /// Name and slot of the live one.
    live: Arc<(Mutex<String>, EngineSlot)>,
}

impl MemoryHome {
    /// As [`super::RocksHome::new`]: whatever is not `live` is removed, but for what was coming in. `None` if there is no
    /// such database.
    pub fn new(disk: &MemoryDisk, live: &str) -> Option<Self> {
        let engine = disk.database(live)?;
        disk.0.lock().databases.retain(|name, _| name == live);
        let live = Arc::new((Mutex::new(live.to_owned()), EngineSlot::new(Arc::new(engine))));
        Some(Self { disk: disk.clone(), live })
    }
}

impl Home for MemoryHome {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.live.1.clone())
    }

    fn take(&self, of: &CopyOf, pace: Pace<'_>) -> Result<Arc<dyn Source>, SnapshotError> {
        let view = self.live.1.view();
        let (mut manifest, batch) = super::strip(&*view, of, pace)?;
        // The little that changes goes through an engine; the rest is written out as it is seen.
        let meta = MemoryEngine::new();
        let mut rows = Batch::default();
        view.scan(Cf::Meta, &[], crate::keys::END, &mut |key, value| {
            rows.put(Cf::Meta, key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        })?;
        meta.write(rows, Sync::Yes)?;
        meta.write(batch, Sync::Yes)?;
        let mut files = Vec::new();
        for cf in Cf::ALL.into_iter().filter(|cf| *cf != Cf::Log) {
            let bytes = if cf == Cf::Meta { write_out(&meta, cf)? } else { write_out(&*view, cf)? };
            if !pace(bytes.len() as u64) {
                return Err(SnapshotError::GivenUp);
            }
            files.push((cf.name(), bytes));
        }
        files.sort_by_key(|(name, _)| *name);
        manifest.files = files
            .iter()
            .map(|(name, bytes)| ManifestFile {
                name: (*name).to_owned(),
                bytes: bytes.len() as u64,
                sha256: Sha256::digest(bytes).into(),
            })
            .collect();
        Ok(Arc::new(MemorySource { manifest, files: files.into_iter().map(|(_, b)| b.into()).collect() }))
    }

    fn incoming(&self) -> Result<Box<dyn Place>, StorageError> {
        Ok(Box::new(MemoryPlace(self.disk.clone())))
    }

    fn candidate(&self, receiver: Receiver) -> Result<Candidate, SnapshotError> {
        let (manifest, place) = receiver.into_parts()?;
        drop(place);
        let live = self.live.0.lock().clone();
        let name = super::free_name(&manifest, &live, |name| self.disk.database(name).is_some())
            .ok_or(SnapshotError::Old { index: manifest.index, applied: manifest.index })?;
        let files = std::mem::take(&mut self.disk.0.lock().incoming);
        let engine = MemoryEngine::new();
        let mut batch = Batch::default();
        for (file, Arriving { mut bytes, .. }) in files {
            if planted::is(Mutant::InstallHalfSnapshot) && file == Cf::Entity.name() {
                bytes.clear();
            }
            let cf = Cf::ALL.into_iter().find(|cf| cf.name() == file);
            read_in(cf.ok_or_else(|| corrupt("copy", format!("file {file}")))?, &bytes, &mut batch)?;
        }
        engine.write(batch, Sync::Yes)?;
        self.disk.0.lock().databases.insert(name.clone(), engine.clone());
        let (disk, live, entered, new) = (self.disk.clone(), self.live.clone(), name.clone(), engine.clone());
        let enter = move || {
            live.1.exchange(Arc::new(new));
            let old = std::mem::replace(&mut *live.0.lock(), entered);
            disk.0.lock().databases.remove(&old);
        };
        let (disk, discarded) = (self.disk.clone(), name.clone());
        let discard = move || {
            disk.0.lock().databases.remove(&discarded);
        };
        Candidate::new(manifest, name, Arc::new(engine), Box::new(enter), Box::new(discard))
    }
}

fn write_out(read: &dyn Read, cf: Cf) -> Result<Vec<u8>, StorageError> {
    let mut out = Vec::new();
    read.scan(cf, &[], crate::keys::END, &mut |key, value| {
        for bytes in [key, value] {
            out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            out.extend_from_slice(bytes);
        }
        ControlFlow::Continue(())
    })?;
    Ok(out)
}

fn read_in(cf: Cf, mut bytes: &[u8], batch: &mut Batch) -> Result<(), StorageError> {
    let short = || corrupt("copy", "a row is cut short");
    let mut piece = || {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
        let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|_| short())?;
        let (piece, rest) = rest.split_at_checked(length).ok_or_else(short)?;
        bytes = rest;
        Ok::<_, StorageError>(Some(piece.to_vec()))
    };
    while let Some(key) = piece()? {
        batch.put(cf, key, piece()?.ok_or_else(short)?);
    }
    Ok(())
}

struct MemorySource {
    manifest: Manifest,
    files: Vec<Bytes>,
}

impl Source for MemorySource {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn read(&self, file: usize, offset: u64, max: usize) -> Result<Bytes, StorageError> {
        let Some(bytes) = self.files.get(file) else { return Ok(Bytes::new()) };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes.slice(from..from.saturating_add(max).min(bytes.len())))
    }
}

/// What is coming in on a [`MemoryDisk`].
struct MemoryPlace(MemoryDisk);

impl Place for MemoryPlace {
    fn list(&self) -> Result<Vec<String>, StorageError> {
        Ok(self.0.0.lock().incoming.keys().cloned().collect())
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StorageError> {
        Ok(self.0.0.lock().incoming.get(name).map(|f| f.bytes.len() as u64))
    }

    fn read(&self, name: &str, offset: u64, max: usize) -> Result<Bytes, StorageError> {
        let disk = self.0.0.lock();
        let Some(file) = disk.incoming.get(name) else { return Ok(Bytes::new()) };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.bytes.len());
        let to = from.saturating_add(max).min(file.bytes.len());
        Ok(Bytes::copy_from_slice(&file.bytes[from..to]))
    }

    fn append(&mut self, name: &str, data: &[u8]) -> Result<(), StorageError> {
        let mut disk = self.0.0.lock();
        disk.incoming.entry(name.to_owned()).or_default().bytes.extend_from_slice(data);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), StorageError> {
        self.0.0.lock().incoming.remove(name);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> Result<(), StorageError> {
        if let Some(file) = self.0.0.lock().incoming.get_mut(name) {
            file.synced = file.bytes.len();
        }
        Ok(())
    }
}
