//! Taking a backup: a checkpoint of the live database, digested and stored file by file; the manifest comes last, so
//! that a backup is there complete or not at all.
//!
//! Order: checkpoint (hard links on the node's own disk) → read-only opening, index and digest recomputed from the copy
//! → files that are not on the target yet → manifest, synced, moved to its name. Whatever interrupts it, the backups
//! before stand as they were.

use super::{
    BackupError, Phase, Watch,
    crypt::Recipients,
    manifest::{FILE, FORMAT, FileEntry, Manifest, MemberEntry, SUM, readable},
    moment, now_ms,
    objects::{Course, Stored, store},
    pace::Pace,
    target::{Folder, Held, names, put_in_place, remove, sync_folder},
    verify::Copy,
};
use okno_storage::error::StorageError;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

/// Where the copy comes from.
pub trait Source {
    /// Makes a copy of the database in a folder that is not there yet: consistent at one applied index, on the same file
    /// system, by hard links.
    fn checkpoint(&self, into: &Path) -> Result<(), StorageError>;
}

impl<F: Fn(&Path) -> Result<(), StorageError>> Source for F {
    fn checkpoint(&self, into: &Path) -> Result<(), StorageError> {
        self(into)
    }
}

/// What a backup is told beside the data.
#[derive(Clone)]
pub struct Facts {
    pub cluster_name: String,
    pub generation: u64,
    /// h₀ of the hash chain, from the node's identity.
    pub genesis: [u8; 32],
    pub node: u64,
    pub version: String,
    /// Programs and settings files to keep with the data, by the names they shall have.
    pub software: Vec<(String, PathBuf)>,
}

pub struct Options<'a> {
    pub recipients: &'a Recipients,
    /// Bytes a second; 0: unbounded.
    pub rate: u64,
    /// A folder of the node's own, on the file system of the data.
    pub work: &'a Path,
}

/// Takes one. The caller holds [`super::target::Work::Backup`].
pub fn take(
    folder: &Folder,
    held: &mut Held,
    source: &dyn Source,
    facts: &Facts,
    options: &Options<'_>,
    watch: &dyn Watch,
) -> Result<Manifest, BackupError> {
    let begun = Instant::now();
    let copy = options.work.join("checkpoint");
    // An interrupted one may have left it.
    remove(&copy)?;
    remove(&options.work.join("checkpoint.tmp"))?;
    watch.step("checkpoint")?;
    watch.progress(Phase::Copy, 0, 0);
    source.checkpoint(&copy)?;
    let taken = from_copy(folder, held, &copy, facts, options, begun, watch);
    // The hard links would keep deleted tables on the node's disk.
    let removed = remove(&copy);
    let manifest = taken?;
    removed?;
    Ok(manifest)
}

fn from_copy(
    folder: &Folder,
    held: &mut Held,
    copy: &Path,
    facts: &Facts,
    options: &Options<'_>,
    begun: Instant,
    watch: &dyn Watch,
) -> Result<Manifest, BackupError> {
    let created_ms = now_ms();
    watch.step("digest")?;
    watch.progress(Phase::Digest, 0, 0);
    let opened = Copy::open(copy)?;
    let course = Course { watch, pace: Pace::new(options.rate), phase: Phase::Digest, done: 0, total: 0 };
    let (mark, digest) = (opened.mark.clone(), opened.digest(course)?);
    let (level, (cluster, members)) = (opened.level, opened.founding.clone());
    drop(opened);
    if cluster != folder.cluster {
        return Err(BackupError::Refused(format!(
            "the data are of cluster {cluster}, the folder of cluster {}",
            folder.cluster
        )));
    }
    let earlier = readable(folder)?;
    let mut stored = Stored::of(&earlier);
    let database: Vec<(String, PathBuf)> = names(copy)?
        .into_iter()
        .filter(|name| belongs(name))
        .map(|name| (name.clone(), copy.join(name)))
        .collect();
    let mut total = 0;
    for (_, path) in database.iter().chain(&facts.software) {
        // Read twice when new: once for its name, once for its copy.
        total += path.metadata().map_err(BackupError::io(path))?.len();
    }
    let mut course = Course { watch, pace: Pace::new(options.rate), phase: Phase::Store, done: 0, total };
    let mut new_bytes = 0;
    let mut put = |files: &[(String, PathBuf)],
                   course: &mut Course<'_>|
     -> Result<Vec<FileEntry>, BackupError> {
        let mut entries = Vec::new();
        for (name, path) in files {
            let (entry, new) =
                store(folder, held, options.recipients, &stored, (name.as_str(), path.as_path()), course)?;
            if new {
                new_bytes += entry.stored_size;
                stored.note(&options.recipients.name(), &entry);
            }
            entries.push(entry);
        }
        Ok(entries)
    };
    let database = put(&database, &mut course)?;
    let software = put(&facts.software, &mut course)?;
    let manifest = Manifest {
        format: FORMAT,
        id: Manifest::id_of(created_ms, mark.index),
        cluster,
        cluster_name: facts.cluster_name.clone(),
        generation: facts.generation,
        genesis: hex::encode(facts.genesis),
        node: facts.node,
        created_ms,
        created: moment(created_ms),
        index: mark.index,
        term: mark.term,
        chain: hex::encode(mark.chain),
        digest: hex::encode(digest),
        time_ms: mark.time_ms,
        time: moment(mark.time_ms),
        level,
        members: members
            .into_iter()
            .map(|m| MemberEntry {
                node_id: m.node_id,
                peer_address: m.peer_address,
                incarnation: m.incarnation,
            })
            .collect(),
        version: facts.version.clone(),
        recipients_name: options.recipients.name(),
        recipients: options.recipients.texts().to_vec(),
        database,
        software,
        new_bytes,
        seconds: begun.elapsed().as_secs_f64(),
    };
    publish(folder, held, &manifest, watch)?;
    Ok(manifest)
}

/// RocksDB's own log and lock are no part of the data.
fn belongs(name: &str) -> bool {
    name != "LOCK" && name != "LOG" && !name.starts_with("LOG.old")
}

fn publish(
    folder: &Folder,
    held: &mut Held,
    manifest: &Manifest,
    watch: &dyn Watch,
) -> Result<(), BackupError> {
    watch.step("manifest")?;
    let place = folder.backups().join(&manifest.id);
    if place.exists() {
        return Err(BackupError::Refused(format!("{} is there already", place.display())));
    }
    let temporary = held.temporary();
    fs::create_dir(&temporary).map_err(BackupError::io(&temporary))?;
    let (text, sum) = manifest.encode();
    for (name, bytes) in [(FILE, text), (SUM, sum)] {
        let path = temporary.join(name);
        fs::write(&path, bytes)
            .and_then(|()| fs::File::open(&path)?.sync_all())
            .map_err(BackupError::io(&path))?;
    }
    sync_folder(&temporary)?;
    watch.step("manifest written")?;
    put_in_place(&temporary, &place)
}
