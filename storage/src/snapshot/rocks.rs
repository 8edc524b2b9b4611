//! Snapshots of a real node: directories under its data directory.
//!
//! ```text
//! <data>/db, <data>/db-<term>-<index>   databases; `identity` names the live one. `-2` and so on behind it: another copy of
//!                                       the same index
//! <data>/incoming/                      files of a copy that is being received
//! <data>/copies/<n>/                    copies being sent
//! ```

use super::{
    Candidate, CopyOf, DirectoryPlace, Home, Manifest, ManifestFile, Pace, Place, Receiver, SnapshotError,
    Source, files,
};
use crate::{
    engine::Engine,
    error::StorageError,
    rocks::{RocksEngine, RocksOptions},
    slot::EngineSlot,
};
use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const INCOMING: &str = "incoming";
const COPIES: &str = "copies";
/// How names of databases begin.
const DATABASE: &str = "db";
/// Bytes read at a time for a file's sum.
const SUM_BYTES: usize = 1024 * 1024;

/// Invariant: `engine` is what `slot` holds.
struct Live {
    slot: EngineSlot,
    engine: Mutex<RocksEngine>,
}

/// The databases of a data directory.
pub struct RocksHome {
    data: PathBuf,
    options: RocksOptions,
    live: Arc<Live>,
    copies: AtomicU64,
}

impl RocksHome {
    /// `live` is the database that `identity` names, open, in a directory of `data`. What else is there is removed: other
    /// databases — an old one whose removal was interrupted, or a copy that was not installed — and copies for others.
    /// What was being received stays, to be gone on with.
    pub fn new(
        data: impl Into<PathBuf>,
        live: RocksEngine,
        options: &RocksOptions,
    ) -> Result<Self, StorageError> {
        let data = data.into();
        for name in files::names(&data)? {
            let path = data.join(&name);
            let database = name == DATABASE || name.starts_with("db-");
            if name == COPIES || database && path != live.path() && path.is_dir() {
                tracing::info!(path = %path.display(), "what `identity` does not name is removed");
                files::remove_directory(&path)?;
            }
        }
        let live = Live { slot: EngineSlot::new(Arc::new(live.clone())), engine: Mutex::new(live) };
        Ok(Self { data, options: options.clone(), live: Arc::new(live), copies: AtomicU64::new(0) })
    }

    /// The live database as such: for a checkpoint, for its path.
    pub fn live(&self) -> RocksEngine {
        self.live.engine.lock().clone()
    }
}

impl Home for RocksHome {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.live.slot.clone())
    }

    fn take(&self, of: &CopyOf, pace: Pace<'_>) -> Result<Arc<dyn Source>, SnapshotError> {
        let copies = self.data.join(COPIES);
        fs::create_dir_all(&copies).map_err(files::io_error(&copies))?;
        let path = copies.join(self.copies.fetch_add(1, Ordering::Relaxed).to_string());
        let copy = Directory { path: path.clone() };
        self.live().checkpoint(&path)?;
        let (mut manifest, names) =
            RocksEngine::strip_copy(&path, &self.options, |copy| super::strip(copy, of, &mut *pace))?;
        manifest.files = sums(&path, &names, pace)?;
        if manifest.files.len() > super::FILES_MAX {
            return Err(StorageError::TooLarge(format!("a copy of {} files", manifest.files.len())).into());
        }
        Ok(Arc::new(RocksSource { manifest, copy }))
    }

    fn incoming(&self) -> Result<Box<dyn Place>, StorageError> {
        Ok(Box::new(DirectoryPlace::new(self.data.join(INCOMING))?))
    }

    fn candidate(&self, receiver: Receiver) -> Result<Candidate, SnapshotError> {
        let (manifest, place) = receiver.into_parts()?;
        drop(place);
        let live = self.live();
        let live = live.path().file_name().unwrap_or_default().to_string_lossy();
        let name = super::free_name(&manifest, &live, |name| self.data.join(name).exists())
            .ok_or(SnapshotError::Old { index: manifest.index, applied: manifest.index })?;
        let path = self.data.join(&name);
        fs::rename(self.data.join(INCOMING), &path).map_err(files::io_error(&path))?;
        files::sync_directory(&self.data)?;
        let engine = match RocksEngine::open(&path, &self.options) {
            Ok(engine) => engine,
            Err(error) => {
                // The next copy of this index would have another name, so nothing else removes it while this process lives.
                files::remove_directory(&path)?;
                return Err(error.into());
            }
        };
        let (live, installed) = (self.live.clone(), engine.clone());
        let enter = move || {
            let old = std::mem::replace(&mut *live.engine.lock(), installed.clone());
            live.slot.exchange(Arc::new(installed));
            old.remove_when_closed();
        };
        let discarded = engine.clone();
        let discard = move || discarded.remove_when_closed();
        Candidate::new(manifest, name, Arc::new(engine), Box::new(enter), Box::new(discard))
    }
}

/// The sums of the files that make up a copy.
fn sums(path: &Path, names: &[String], pace: Pace<'_>) -> Result<Vec<ManifestFile>, SnapshotError> {
    let mut out = Vec::with_capacity(names.len());
    for name in names {
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        loop {
            let piece = files::read_at(&path.join(name), bytes, SUM_BYTES)?;
            if piece.is_empty() {
                break;
            }
            hash.update(&piece);
            bytes += piece.len() as u64;
            if !pace(piece.len() as u64) {
                return Err(SnapshotError::GivenUp);
            }
        }
        out.push(ManifestFile { name: name.clone(), bytes, sha256: hash.finalize().into() });
    }
    Ok(out)
}

pub(crate) fn remove_or_warn(path: &Path) {
    if let Err(error) = files::remove_directory(path) {
        // Nothing depends on its being gone; the next start removes it.
        tracing::warn!(path = %path.display(), %error, "an old database is not removed");
    }
}

/// Removed when dropped.
struct Directory {
    path: PathBuf,
}

impl Drop for Directory {
    fn drop(&mut self) {
        remove_or_warn(&self.path);
    }
}

struct RocksSource {
    manifest: Manifest,
    copy: Directory,
}

impl Source for RocksSource {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn read(&self, file: usize, offset: u64, max: usize) -> Result<Bytes, StorageError> {
        let Some(file) = self.manifest.files.get(file) else { return Ok(Bytes::new()) };
        files::read_at(&self.copy.path.join(&file.name), offset, max)
    }
}
