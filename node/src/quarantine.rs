//! A node whose data are wrong (rule 12): what counts as that at a start, what is remembered of it, and what stands in
//! for the data meanwhile.
//!
//! Damaged data are nothing a restart mends, and nothing systemd should start again and again over: such a node comes
//! up closed, with health and admin open, and says why. `quarantine.json` beside `identity` keeps a node closed that
//! was found wrong while it ran, because the next start may not see what this one saw. Nothing removes the file: the
//! way back is to remove the data directory and to add the node as a new member. Two things are not remembered,
//! because every start finds them itself and what cures them is no new node: data of a newer program, and a database
//! that is not there, which may be a file system that is not mounted.

use crate::{data::DataError, settings::Settings};
use okno_cluster::{
    ClusterError, ClusterHandle, NodePhase, Quarantine, REMEDY_NEWER_PROGRAM, REMEDY_REBUILD,
};
use okno_storage::{
    error::StorageError,
    identity::{Identity, IdentityRecord, Member},
    memory::{MemoryEngine, MemoryIdentity},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Name of the file in the data directory.
pub const FILE: &str = "quarantine.json";
/// Longer is no file of ours: reasons are a line or two.
const FILE_BYTES_MAX: u64 = 64 * 1024;
const REMEDY_FIND_DATABASE: &str = "mount the file system that holds it; if it is lost, remove this node's data and add the node as a new member";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub reason: String,
    pub remedy: String,
    /// RFC 3339.
    pub since: String,
}

/// Whether a later start must know of it; see the module.
fn lasts(why: &Quarantine) -> bool {
    ![REMEDY_NEWER_PROGRAM, REMEDY_FIND_DATABASE].contains(&why.remedy.as_str())
}

/// The quarantine this error of the store is; `None`: it is none, and the process ends.
fn of_store(error: &StorageError) -> Option<Quarantine> {
    let remedy = match error {
        StorageError::Corrupt { .. } | StorageError::LogLost { .. } => REMEDY_REBUILD,
        StorageError::Newer { .. } => REMEDY_NEWER_PROGRAM,
        StorageError::Directory { .. } => REMEDY_FIND_DATABASE,
        // A disk that fails ends the process; a size beyond a bound is a fault of the program.
        StorageError::Io { .. } | StorageError::Engine(_) | StorageError::TooLarge(_) => return None,
    };
    Some(Quarantine { reason: format!("the data cannot be used: {error}"), remedy: remedy.to_owned() })
}

/// Damage found while identity or database were opened. Everything else is told and ends the process: settings, a
/// directory of another node or without a node, a lock, a disk that fails.
pub fn of_data(error: &DataError) -> Option<Quarantine> {
    match error {
        DataError::Storage(error) => of_store(error),
        _ => None,
    }
}

/// Damage found while log and state were read.
pub fn of_cluster(error: &ClusterError) -> Option<Quarantine> {
    match error {
        ClusterError::Storage(error) => of_store(error),
        _ => None,
    }
}

/// What an earlier run left behind. A file that cannot be understood counts: somebody was quarantined here.
pub fn remembered(directory: &Path) -> io::Result<Option<Remembered>> {
    let path = directory.join(FILE);
    let length = match std::fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let unreadable = |detail: &str| Remembered {
        reason: format!("{FILE} cannot be read: {detail}"),
        remedy: REMEDY_REBUILD.to_owned(),
        since: String::new(),
    };
    if length > FILE_BYTES_MAX {
        return Ok(Some(unreadable("it is too large")));
    }
    let text = std::fs::read(&path)?;
    Ok(Some(serde_json::from_slice(&text).unwrap_or_else(|error| unreadable(&error.to_string()))))
}

impl From<Remembered> for Quarantine {
    fn from(remembered: Remembered) -> Self {
        let Remembered { reason, remedy, since } = remembered;
        let reason = if since.is_empty() { reason } else { format!("{reason} (since {since})") };
        Self { reason, remedy }
    }
}

/// Writes the file, synced with its directory, unless there is one: the first reason stays.
pub fn remember(directory: &Path, why: &Quarantine) -> io::Result<()> {
    let path = directory.join(FILE);
    if !lasts(why) || path.exists() {
        return Ok(());
    }
    let since = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let remembered = Remembered { reason: why.reason.clone(), remedy: why.remedy.clone(), since };
    let mut text = serde_json::to_vec_pretty(&remembered)?;
    text.push(b'\n');
    let unfinished = directory.join(format!("{FILE}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&unfinished)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, &path)?;
    File::open(directory)?.sync_all()
}

/// Remembers the quarantine this node enters while it runs. That it could not be remembered is told and no more: the
/// node is closed all the same, and a disk that fails shows at the next start.
pub async fn keep(cluster: Arc<ClusterHandle>, directory: PathBuf, stop: CancellationToken) {
    let mut phases = cluster.phases();
    loop {
        keep_now(&phases.borrow_and_update(), &directory);
        tokio::select! {
            () = stop.cancelled() => break,
            changed = phases.changed() => if changed.is_err() { break },
        }
    }
    // It may have come together with the end.
    keep_now(&phases.borrow(), &directory);
}

fn keep_now(phase: &NodePhase, directory: &Path) {
    let NodePhase::Quarantined { reason, remedy } = phase else { return };
    let why = Quarantine { reason: reason.clone(), remedy: remedy.clone() };
    if let Err(error) = remember(directory, &why) {
        tracing::error!(%error, "the quarantine is not remembered across a restart");
    }
}

/// An empty store and an identity in memory: what a quarantined node runs on, so that nothing touches its data.
/// `record` is what `identity` says, if it can be read; else the settings say who the node was to be.
pub fn stand_in(
    record: Option<IdentityRecord>,
    settings: &Settings,
) -> Result<(Arc<MemoryEngine>, Identity), StorageError> {
    let record = record.unwrap_or_else(|| IdentityRecord {
        cluster: settings.cluster.id.unwrap_or_default(),
        node_id: settings.node.id,
        incarnation: Uuid::nil(),
        members: vec![Member { node_id: settings.node.id, peer_address: settings.peers.listen.to_string() }],
        pins: Vec::new(),
        term: 0,
        vote: 0,
        synced_term: 0,
        synced_index: 0,
        live_directory: String::new(),
        sequence: 0,
        later: Default::default(),
    });
    let identity = Identity::create(Box::new(MemoryIdentity::default()), record)?;
    Ok((Arc::new(MemoryEngine::new()), identity))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(remedy: &str) -> Quarantine {
        Quarantine { reason: "row digest at index 7 differs".into(), remedy: remedy.into() }
    }

    #[test]
    fn a_quarantine_is_remembered_once() {
        let root = tempfile::tempdir().expect("directory");
        assert_eq!(remembered(root.path()).expect("read"), None);
        remember(root.path(), &why("rebuild")).expect("written");
        remember(root.path(), &Quarantine { reason: "later".into(), remedy: "x".into() }).expect("kept");
        let found = remembered(root.path()).expect("read").expect("there");
        assert_eq!(
            (found.reason.as_str(), found.remedy.as_str()),
            ("row digest at index 7 differs", "rebuild")
        );
        let again = Quarantine::from(found.clone());
        assert!(again.reason.contains("row digest") && again.reason.contains(&found.since), "{again:?}");
        assert_eq!(std::fs::read_dir(root.path()).expect("listed").count(), 1, "nothing unfinished is left");
    }

    #[test]
    fn what_another_program_or_a_mount_cures_is_not_remembered() {
        let root = tempfile::tempdir().expect("directory");
        let newer = of_store(&StorageError::Newer { kind: 1, version: 9 }).expect("a quarantine");
        let gone = StorageError::Directory { path: "db".into(), detail: "not there".into() };
        for why in [newer, of_store(&gone).expect("a quarantine")] {
            remember(root.path(), &why).expect("nothing to do");
            assert_eq!(remembered(root.path()).expect("read"), None, "{why:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_understood_keeps_the_node_closed() {
        let root = tempfile::tempdir().expect("directory");
        for text in [&b"{\"reason\": \"torn"[..], b"", &vec![b'x'; FILE_BYTES_MAX as usize + 1]] {
            std::fs::write(root.path().join(FILE), text).expect("written");
            let found = remembered(root.path()).expect("read").expect("counts");
            assert!(found.reason.contains("cannot be read"), "{found:?}");
        }
    }

    #[test]
    fn only_damage_quarantines() {
        let corrupt = || StorageError::Corrupt { what: "database", detail: "checksum".into() };
        let io = || StorageError::Io { path: "identity".into(), source: io::Error::other("EIO") };
        assert_eq!(of_data(&corrupt().into()).expect("damage").remedy, REMEDY_REBUILD);
        assert_eq!(of_cluster(&corrupt().into()).expect("damage").remedy, REMEDY_REBUILD);
        for error in [
            io().into(),
            StorageError::Engine("IO error: Input/output error".into()).into(),
            DataError::NoIdentity { path: "d".into() },
            DataError::Locked { path: "d".into() },
            DataError::Foreign { path: "d".into(), found: "node 1".into(), expected: "node 2".into() },
        ] {
            assert_eq!(of_data(&error), None, "{error}");
        }
        assert_eq!(of_cluster(&ClusterError::Settings("x".into())), None);
    }
}
