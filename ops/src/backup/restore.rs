//! Restore (R-R7): from a backup and the log archive to data directories of a new cluster. Offline: nothing running is
//! asked or touched.
//!
//! Everything is read and checked in a folder of its own inside the first directory — files, hash chain, digest, then
//! archived entries applied by the same code that applied them before, their hash chain compared — and only what passed
//! becomes a node. A directory that holds anything else is refused. Until the last step a directory has no identity, so
//! that an interrupted restore is never taken for a node.

use super::{
    BackupError, Phase, Watch,
    archive::{self, Archived},
    crypt::Identities,
    manifest::{self, Manifest},
    member::{self, NewMember},
    target::{Folder, names, remove, sync_folder},
    verify::{assemble, examine, no_genesis, small},
};
use okno_storage::{
    engine::Engine,
    identity::Member,
    log::EntryKind,
    rocks::RocksEngine,
    state::{AppliedMark, StateStore},
};
use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use uuid::Uuid;

/// Where a restore works until it is complete.
const WORK: &str = "restoring";
/// Entries applied at a time.
const SLICE: usize = 512;

/// How far the archive is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// As far as it reaches.
    End,
    /// Not at all: the state of the backup.
    Backup,
    /// Up to and including this entry.
    Index(u64),
    /// Everything stamped at or before this replicated time, milliseconds.
    Time(i64),
}

impl std::str::FromStr for Until {
    type Err = String;

    /// `end`, `backup`, an index, or a moment such as `2026-11-22T08:30:00+07:00`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "end" => Ok(Self::End),
            "backup" => Ok(Self::Backup),
            _ => match (text.parse::<u64>(), text.parse::<jiff::Timestamp>()) {
                (Ok(index), _) => Ok(Self::Index(index)),
                (_, Ok(time)) => Ok(Self::Time(time.as_millisecond())),
                (_, Err(error)) => Err(format!(
                    "expected end, backup, a log index, or a moment with its offset such as \
                     2026-11-22T08:30:00+07:00: {error}"
                )),
            },
        }
    }
}

pub struct Plan<'a> {
    pub folder: &'a Folder,
    /// `None`: the newest that is not behind `until`.
    pub backup: Option<&'a str>,
    pub until: Until,
    pub identities: &'a Identities,
    /// Of the new cluster; the same on every machine that restores.
    pub cluster: Uuid,
    /// All of the new cluster.
    pub members: Vec<Member>,
    /// Those made here: node id and directory.
    pub into: Vec<(u64, PathBuf)>,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub backup: String,
    /// Where the data stand now.
    pub index: u64,
    pub term: u64,
    pub time_ms: i64,
    pub chain: [u8; 32],
    /// Digest of all rows at `index`, before the new cluster's identity was written over the old one's. Equal to what
    /// the old cluster's members had at that index, unless its members changed behind the backup.
    pub digest: [u8; 32],
    pub from_cluster: Uuid,
    pub cluster: Uuid,
    pub generation: u64,
    /// Entries applied from the archive.
    pub replayed: u64,
    /// The moment asked for lies behind the archive's end: what happened between is not in it.
    pub archive_ended: bool,
}

pub fn restore(plan: &Plan<'_>, watch: &dyn Watch) -> Result<Restored, BackupError> {
    check_members(plan)?;
    for (_, directory) in &plan.into {
        check_empty(directory)?;
    }
    let _still = plan.folder.hold_still()?;
    let manifest = choose(plan)?;
    let Some((_, first)) = plan.into.first() else {
        return Err(BackupError::Refused("no directory to restore into was named".into()));
    };
    for (_, directory) in &plan.into {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(BackupError::io(directory))?;
        remove(&directory.join(WORK))?;
    }
    let work = first.join(WORK);
    let restored = prepare(plan, &manifest, &work, watch).and_then(|restored| {
        finish(plan, &manifest, &restored, &work, watch)?;
        Ok(restored)
    });
    if restored.is_err() {
        // Back to empty, as far as that can be done; a directory without identity is no node in any case.
        for (_, directory) in &plan.into {
            if let Err(error) = remove(&directory.join(WORK)) {
                tracing::warn!(%error, "what was begun is not removed");
            }
        }
    }
    restored
}

fn check_members(plan: &Plan<'_>) -> Result<(), BackupError> {
    let refuse = |detail: String| Err(BackupError::Refused(detail));
    if !(1..=5).contains(&plan.members.len()) {
        return refuse(format!("a restored cluster has one to five members, not {}", plan.members.len()));
    }
    for (at, (id, directory)) in plan.into.iter().enumerate() {
        if !plan.members.iter().any(|m| m.node_id == *id) {
            return refuse(format!("node {id} is not among the members"));
        }
        if plan.into[..at].iter().any(|(other, path)| other == id || path == directory) {
            return refuse(format!("node {id} or its directory is named twice"));
        }
    }
    Ok(())
}

/// Nothing but what an interrupted restore left may be there.
fn check_empty(directory: &Path) -> Result<(), BackupError> {
    match names(directory)?.iter().find(|name| *name != WORK) {
        None => Ok(()),
        Some(name) => Err(BackupError::Refused(format!(
            "{} is not empty (it holds {name:?}): a restore never writes into a directory that holds data",
            directory.display()
        ))),
    }
}

/// The backup named, or the newest that does not lie behind the moment asked for. A newer one that cannot be read is not
/// passed over in silence.
fn choose(plan: &Plan<'_>) -> Result<Manifest, BackupError> {
    if let Some(id) = plan.backup {
        return Manifest::load(plan.folder, id);
    }
    for (id, manifest) in manifest::list(plan.folder)?.into_iter().rev() {
        let manifest = manifest.map_err(|error| {
            BackupError::damaged(
                format!("backup {id}"),
                format!("{error}; name an older one with --backup to do without it"),
            )
        })?;
        let before = match plan.until {
            Until::End | Until::Backup => true,
            Until::Index(index) => manifest.index <= index,
            Until::Time(ms) => manifest.time_ms <= ms,
        };
        if before {
            return Ok(manifest);
        }
    }
    Err(BackupError::Refused("there is no backup, or none before the moment asked for".into()))
}

/// The database in `work`, checked and brought to the moment asked for.
fn prepare(
    plan: &Plan<'_>,
    manifest: &Manifest,
    work: &Path,
    watch: &dyn Watch,
) -> Result<Restored, BackupError> {
    assemble(plan.folder, manifest, plan.identities, work, watch)?;
    examine(work, manifest, watch)?;
    let engine = RocksEngine::open(work, &small())?;
    let shared: Arc<dyn Engine> = Arc::new(engine.clone());
    let mut state = StateStore::open(shared, no_genesis())?;
    let reached = replay(plan, manifest, &mut state, watch)?;
    watch.step("digest")?;
    watch.progress(Phase::Digest, 0, 0);
    let AppliedMark { index, term, chain, time_ms, .. } = state.mark().clone();
    let digest = state.reader().view().digest()?;
    drop(state);
    engine.flush()?;
    let archive_ended = match plan.until {
        Until::End | Until::Backup => false,
        Until::Index(asked) if index < asked => {
            return Err(BackupError::Refused(format!(
                "the archive reaches to entry {index}, {asked} was asked for"
            )));
        }
        Until::Index(_) => false,
        Until::Time(_) => reached == Reached::End,
    };
    Ok(Restored {
        backup: manifest.id.clone(),
        index,
        term,
        time_ms,
        chain,
        digest,
        from_cluster: manifest.cluster,
        cluster: plan.cluster,
        generation: manifest.generation + 1,
        replayed: index - manifest.index,
        archive_ended,
    })
}

#[derive(PartialEq, Eq)]
enum Reached {
    /// An entry that does not belong to it any more.
    Limit,
    /// The last archived one.
    End,
}

fn replay(
    plan: &Plan<'_>,
    manifest: &Manifest,
    state: &mut StateStore,
    watch: &dyn Watch,
) -> Result<Reached, BackupError> {
    let wanted = |archived: &Archived| match plan.until {
        Until::Backup => false,
        Until::End => true,
        Until::Index(index) => archived.entry.index <= index,
        Until::Time(ms) => archived.time_ms <= ms,
    };
    if plan.until == Until::Backup {
        return Ok(Reached::Limit);
    }
    let mut reached = Reached::End;
    let from = (manifest.index, manifest.chain.as_str());
    archive::read(plan.folder, manifest.generation, from, plan.identities, watch, |header, entries| {
        let all = entries.len();
        let applied = state.mark().index;
        // The first segment may begin before the backup.
        let entries: Vec<_> = entries.into_iter().take_while(wanted).map(|archived| archived.entry).collect();
        let whole = entries.len() == all;
        let rest = &entries[entries.iter().take_while(|e| e.index <= applied).count()..];
        apply(state, rest)?;
        if whole && hex::encode(state.mark().chain) != header.chain {
            return Err(BackupError::damaged(
                format!("archive segment up to entry {}", header.to),
                "applying it gives another hash chain than the cluster had",
            ));
        }
        if !whole {
            reached = Reached::Limit;
        }
        Ok(whole)
    })?;
    Ok(reached)
}

fn apply(state: &mut StateStore, entries: &[okno_storage::log::LogEntry]) -> Result<(), BackupError> {
    let mut rest = entries;
    while !rest.is_empty() {
        let slice = &rest[..rest.len().min(SLICE)];
        let last = slice.last().map_or(0, |entry| entry.index);
        let applied = state.apply(slice, last)?;
        let done = usize::try_from(applied.last + 1 - applied.first).unwrap_or(usize::MAX);
        if done == 1 && slice[0].kind == EntryKind::Configuration {
            // Who belonged to the old cluster ends with it: the new one's members are written last.
            let conf_state = state.mark().conf_state.clone();
            state.set_conf_state(conf_state)?;
        }
        rest = rest.get(done..).unwrap_or_default();
    }
    Ok(())
}

/// Makes nodes of the prepared database: copies first, the work folder itself becomes the first node's.
fn finish(
    plan: &Plan<'_>,
    manifest: &Manifest,
    restored: &Restored,
    work: &Path,
    watch: &dyn Watch,
) -> Result<(), BackupError> {
    let genesis = hex::decode(&manifest.genesis).ok().and_then(|bytes| bytes.try_into().ok());
    let genesis =
        genesis.ok_or_else(|| BackupError::damaged(&manifest.id, "has no beginning of the hash chain"))?;
    let new = NewMember {
        cluster: plan.cluster,
        generation: restored.generation,
        from: (manifest.cluster, manifest.generation),
        genesis,
        node_id: plan.into[0].0,
        members: plan.members.clone(),
    };
    let first = member::rewrite(work, &new)?;
    for (_, directory) in plan.into.iter().skip(1) {
        watch.step("copy")?;
        watch.progress(Phase::Write, 0, manifest.bytes());
        copy_folder(work, &directory.join(WORK), watch)?;
    }
    for (node_id, directory) in &plan.into {
        watch.step("identity")?;
        member::settle(directory, &directory.join(WORK), *node_id, &first)?;
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path, watch: &dyn Watch) -> Result<(), BackupError> {
    fs::create_dir(to).map_err(BackupError::io(to))?;
    for name in names(from)? {
        watch.step("file copied")?;
        let (source, target) = (from.join(&name), to.join(&name));
        fs::copy(&source, &target)
            .and_then(|_| File::open(&target)?.sync_all())
            .map_err(BackupError::io(&target))?;
    }
    sync_folder(to)
}
