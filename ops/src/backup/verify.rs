//! Verifying: every byte read and decrypted, the copy opened, the hash chain and the digest of all rows recomputed.

use super::{
    BackupError, Phase, Watch, archive,
    crypt::Identities,
    manifest::Manifest,
    objects::{Course, PIECE, Stored, fetch},
    pace::Pace,
    target::Folder,
};
use bytes::Bytes;
use okno_storage::{
    chain_step,
    commit::MemberRecord,
    rocks::{RocksEngine, RocksOptions},
    state::{AppliedMark, Genesis, StateReader, StateStore},
};
use std::{fs, path::Path, sync::Arc};
use uuid::Uuid;

/// Journal rows read at a time.
const ROWS: usize = 2_000;
const MIB: usize = 1024 * 1024;

/// A copy is read once from end to end: caches would only take memory from the node beside it.
pub fn small() -> RocksOptions {
    RocksOptions {
        block_cache_bytes: 8 * MIB,
        write_buffer_bytes: 64 * MIB,
        max_total_wal_bytes: 64 * MIB as u64,
        background_jobs: 1,
        max_open_files: 256,
    }
}

/// Used only when nothing was ever applied; such a copy is refused.
pub fn no_genesis() -> Genesis {
    Genesis { chain: [0; 32], conf_state: Bytes::new() }
}

/// A database opened for reading, and where it stands.
pub struct Copy {
    reader: StateReader,
    pub mark: AppliedMark,
    pub level: u32,
    pub founding: (Uuid, Vec<MemberRecord>),
}

impl Copy {
    pub fn open(path: &Path) -> Result<Self, BackupError> {
        let engine = RocksEngine::open_read_only(path, &small())?;
        let state = StateStore::open(Arc::new(engine), no_genesis())?;
        let view = state.reader().view();
        let founding = view.founding()?.ok_or_else(|| {
            BackupError::Refused("the cluster has not begun yet: there is nothing to back up".into())
        })?;
        Ok(Self { mark: view.mark()?, level: view.level()?, founding, reader: state.reader() })
    }

    /// The digest of all rows, at the course's rate.
    pub fn digest(&self, mut course: Course<'_>) -> Result<[u8; 32], BackupError> {
        let mut piece = 0;
        self.reader.view().digest_with(&mut |bytes| {
            piece += bytes;
            if piece >= PIECE {
                course.watch.step("rows")?;
                course.moved(std::mem::take(&mut piece));
            }
            Ok(())
        })
    }

    /// Every journal row's hash from the one before it, from h₀ up to the mark.
    pub fn check_chain(&self, genesis: [u8; 32], watch: &dyn Watch) -> Result<(), BackupError> {
        let view = self.reader.view();
        let damaged = |detail: String| BackupError::damaged("journal", detail);
        let (mut at, mut chain) = (0, genesis);
        loop {
            watch.step("chain")?;
            watch.progress(Phase::Chain, at, self.mark.index);
            let rows = view.journal(at, ROWS)?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                if row.index != at + 1 {
                    return Err(damaged(format!("rows between {at} and {} are missing", row.index)));
                }
                let next =
                    chain_step(&chain, row.index, row.term, row.outcome_code, &row.events_hash, &row.rest);
                if next != row.chain {
                    return Err(damaged(format!("the hash chain breaks at entry {}", row.index)));
                }
                (at, chain) = (row.index, next);
            }
        }
        if (at, chain) != (self.mark.index, self.mark.chain) {
            return Err(damaged(format!(
                "the hash chain ends at {at}, the data stand at {}",
                self.mark.index
            )));
        }
        Ok(())
    }
}

/// Reads every file of a backup, and puts the database together in `into`, a folder made here.
pub fn assemble(
    folder: &Folder,
    manifest: &Manifest,
    identities: &Identities,
    into: &Path,
    watch: &dyn Watch,
) -> Result<(), BackupError> {
    fs::create_dir_all(into).map_err(BackupError::io(into))?;
    let mut course =
        Course { watch, pace: Pace::new(0), phase: Phase::Read, done: 0, total: manifest.bytes() };
    let sealed = manifest.sealed().then_some(identities);
    let stored = Stored::on(folder)?;
    for file in &manifest.database {
        let path = into.join(&file.name);
        fetch(folder, sealed, &manifest.recipients_name, file, &stored, Some(&path), &mut course)?;
        // A restore stands on it; a verification pays a little.
        fs::File::open(&path).and_then(|file| file.sync_all()).map_err(BackupError::io(&path))?;
    }
    for file in &manifest.software {
        fetch(folder, sealed, &manifest.recipients_name, file, &stored, None, &mut course)?;
    }
    Ok(())
}

/// Opens a copy and holds it against what the manifest says: where it stands, whose it is, its chain and its digest.
pub fn examine(path: &Path, manifest: &Manifest, watch: &dyn Watch) -> Result<(), BackupError> {
    let copy = Copy::open(path)?;
    let place = format!("backup {}", manifest.id);
    let check = |what: &str, found: String, said: String| {
        if found == said {
            Ok(())
        } else {
            Err(BackupError::damaged(
                &place,
                format!("{what} of the data is {found}, the manifest says {said}"),
            ))
        }
    };
    check("cluster", copy.founding.0.to_string(), manifest.cluster.to_string())?;
    check("index", copy.mark.index.to_string(), manifest.index.to_string())?;
    check("term", copy.mark.term.to_string(), manifest.term.to_string())?;
    check("chain", hex::encode(copy.mark.chain), manifest.chain.clone())?;
    check("level", copy.level.to_string(), manifest.level.to_string())?;
    watch.step("digest")?;
    watch.progress(Phase::Digest, 0, 0);
    let course = Course { watch, pace: Pace::new(0), phase: Phase::Digest, done: 0, total: 0 };
    check("digest", hex::encode(copy.digest(course)?), manifest.digest.clone())?;
    let genesis = hex::decode(&manifest.genesis).ok().and_then(|bytes| bytes.try_into().ok());
    let genesis =
        genesis.ok_or_else(|| BackupError::damaged(&place, "has no beginning of the hash chain"))?;
    copy.check_chain(genesis, watch)
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub id: String,
    pub files: usize,
    pub bytes: u64,
    pub index: u64,
    /// The archive reaches to here from the backup without a gap; the backup's own index if there is none.
    pub archived_to: u64,
}

/// Verifies a backup and the archive behind it. `scratch` is a folder that holds the copy meanwhile; it is removed.
pub fn verify(
    folder: &Folder,
    id: &str,
    identities: &Identities,
    scratch: &Path,
    watch: &dyn Watch,
) -> Result<Verified, BackupError> {
    let _still = folder.hold_still()?;
    let manifest = Manifest::load(folder, id)?;
    let copy = scratch.join(format!("okno-verify-{}", std::process::id()));
    super::target::remove(&copy)?;
    let found =
        assemble(folder, &manifest, identities, &copy, watch).and_then(|()| examine(&copy, &manifest, watch));
    let removed = super::target::remove(&copy);
    found?;
    removed?;
    let archived_to = archive::check(folder, &manifest, identities, watch)?;
    Ok(Verified {
        id: manifest.id.clone(),
        files: manifest.files().count(),
        bytes: manifest.bytes(),
        index: manifest.index,
        archived_to,
    })
}
