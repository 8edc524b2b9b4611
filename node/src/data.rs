//! The data directory: made once by `okno init`, opened by one process at a time, and checked against the settings.
//!
//! ```text
//! <data>/identity    who this node is (double-slot, checksummed)
//! <data>/db/         RocksDB
//! <data>/security.log
//! <data>/quarantine.json  why the node stays closed, once it was found wrong
//! <data>/lock        held while a process uses the directory
//! ```
//! A node id dies with its data: a missing identity is never replaced by itself (rule 14).

use okno_storage::{
    error::{ENGINE, StorageError},
    identity::{FileIdentityMedium, Identity, IdentityRecord, Later, Member},
    rocks::{RocksEngine, RocksOptions},
};
use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};
use uuid::Uuid;

use crate::settings::Settings;

const DATABASE: &str = "db";

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{path}: cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} is not empty: `okno init` makes a node once, in an empty directory; a node id dies with its data and \
         is never initialised again"
    )]
    NotEmpty { path: PathBuf },
    #[error("{path} is in use by another process")]
    Locked { path: PathBuf },
    #[error(
        "{path} has no identity. A new node is made by `okno init` with a node id that was never used; an id that \
         was in the cluster before does not come back over an empty directory"
    )]
    NoIdentity { path: PathBuf },
    #[error("{path} belongs to {found}, but the settings say {expected}")]
    Foreign { path: PathBuf, found: String, expected: String },
    #[error("members: {0}")]
    Members(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What `okno init` is told.
#[derive(Debug, Clone)]
pub struct InitPlan {
    pub directory: PathBuf,
    pub cluster: Uuid,
    pub node_id: u64,
    /// The full initial member list: the same on all.
    pub members: Vec<Member>,
    /// The node joins a cluster that is there, whose initial list does not hold it.
    pub join: bool,
}

/// Reads `1=host:port,2=host:port,…`.
pub fn parse_members(text: &str) -> Result<Vec<Member>, DataError> {
    let refuse = |detail: String| DataError::Members(detail);
    let mut members = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (id, address) = item
            .split_once('=')
            .ok_or_else(|| refuse(format!("expected <node id>=<host>:<port>, found {item:?}")))?;
        let node_id: u64 = id
            .trim()
            .parse()
            .ok()
            .filter(|id| *id > 0)
            .ok_or_else(|| refuse(format!("expected a node id from 1, found {id:?}")))?;
        let port = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        if port.is_none_or(|(host, port)| host.is_empty() || port == 0) {
            return Err(refuse(format!("expected <host>:<port>, found {address:?}")));
        }
        members.push(Member { node_id, peer_address: address.to_owned() });
    }
    members.sort();
    if members.is_empty() {
        return Err(refuse("expected at least one".into()));
    }
    if let Some(pair) = members.windows(2).find(|pair| pair[0].node_id == pair[1].node_id) {
        return Err(refuse(format!("node {} stands twice", pair[0].node_id)));
    }
    Ok(members)
}

/// Makes a node: identity and empty database directory. Refuses a directory that holds anything.
pub fn init(plan: &InitPlan) -> Result<IdentityRecord, DataError> {
    let listed = plan.members.iter().any(|member| member.node_id == plan.node_id);
    if !listed && !plan.join {
        return Err(DataError::Members(format!(
            "node {} itself is not among them; a node that joins a cluster that is there is made with --join",
            plan.node_id
        )));
    }
    if listed && plan.join {
        return Err(DataError::Members(format!(
            "node {} is a founder; a founder's id dies with its data: join under an id that was never used",
            plan.node_id
        )));
    }
    let directory = &plan.directory;
    let io = |source| DataError::Io { path: directory.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
    if std::fs::read_dir(directory).map_err(io)?.next().is_some() {
        return Err(DataError::NotEmpty { path: directory.clone() });
    }
    let _lock = Lock::take(directory)?;
    DirBuilder::new().mode(0o700).create(directory.join(DATABASE)).map_err(io)?;
    let record = IdentityRecord {
        cluster: plan.cluster,
        node_id: plan.node_id,
        incarnation: Uuid::new_v4(),
        members: plan.members.clone(),
        pins: Vec::new(),
        term: 0,
        vote: 0,
        synced_term: 0,
        synced_index: 0,
        live_directory: DATABASE.into(),
        sequence: 0,
        later: Later { joined: plan.join, ..Later::default() },
    };
    // Last: a directory without identity is not a node, so an interrupted init is seen.
    let identity = Identity::create(Box::new(FileIdentityMedium::new(directory.join("identity"))?), record)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    Ok(identity.record().clone())
}

/// Held while the directory is used; the kernel lets it go with the process.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    #[allow(unsafe_code)]
    pub fn take(directory: &Path) -> Result<Self, DataError> {
        let path = directory.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| DataError::Io { path: path.clone(), source })?;
        // SAFETY: flock takes a descriptor, which `file` keeps open, and touches no memory.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(DataError::Locked { path: directory.to_owned() });
        }
        Ok(Self { _file: file })
    }
}

/// An opened data directory.
pub struct DataDirectory {
    pub path: PathBuf,
    pub identity: Identity,
    lock: Lock,
}

impl DataDirectory {
    /// Locks the directory and reads its identity.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        if !path.join("identity").exists() {
            return Err(DataError::NoIdentity { path: path.to_owned() });
        }
        let lock = Lock::take(path)?;
        let identity = Identity::open(Box::new(FileIdentityMedium::new(path.join("identity"))?))?;
        Ok(Self { path: path.to_owned(), identity, lock })
    }

    /// The directory must be the one the settings speak of.
    pub fn check(&self, settings: &Settings) -> Result<(), DataError> {
        let record = self.identity.record();
        let foreign =
            |found: String, expected: String| DataError::Foreign { path: self.path.clone(), found, expected };
        if let Some(cluster) = settings.cluster.id
            && cluster != record.cluster
        {
            return Err(foreign(format!("cluster {}", record.cluster), format!("cluster.id = {cluster}")));
        }
        if settings.node.id != record.node_id {
            return Err(foreign(
                format!("node {}", record.node_id),
                format!("node.id = {}", settings.node.id),
            ));
        }
        Ok(())
    }

    /// Where the database is now (design §4: `identity` names the live directory), and whether it was ever opened.
    /// Refuses one that is gone: opening would make an empty one, and a node that lost its log must not come back as if
    /// it had none.
    pub fn database(&self) -> Result<(PathBuf, bool), DataError> {
        let record = self.identity.record();
        let path = self.path.join(&record.live_directory);
        let gone = |path, detail: &str| StorageError::Directory { path, detail: detail.to_owned() };
        if !path.is_dir() {
            return Err(gone(path, "the database that `identity` names is not there").into());
        }
        // RocksDB's file that names its manifest: made, synced, when a database is opened for the first time.
        let made = path.join("CURRENT").exists();
        // `identity` changes only when a database is open.
        if record.sequence > 0 && !made {
            let io = |source| DataError::Io { path: path.clone(), source };
            return Err(match std::fs::read_dir(&path).map_err(io)?.next() {
                None => gone(path, "the database that `identity` names is empty").into(),
                Some(_) => {
                    let detail = "its file CURRENT is missing".to_owned();
                    StorageError::Corrupt { what: ENGINE, detail }.into()
                }
            });
        }
        Ok((path, made))
    }

    pub fn open_engine(&self, options: &RocksOptions) -> Result<RocksEngine, DataError> {
        Ok(RocksEngine::open(self.database()?.0, options)?)
    }

    /// Identity and lock, for those who go on with them.
    pub fn into_parts(self) -> (Identity, Lock) {
        (self.identity, self.lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(directory: &Path, node_id: u64) -> InitPlan {
        InitPlan {
            directory: directory.to_owned(),
            cluster: Uuid::from_u128(7),
            node_id,
            members: parse_members("1=127.0.0.1:1,2=127.0.0.1:2,3=127.0.0.1:3").expect("members"),
            join: false,
        }
    }

    /// Opens it when nobody holds it: what another test forks just then holds its lock until it has become another program.
    fn open(directory: &Path) -> Result<DataDirectory, DataError> {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            match DataDirectory::open(directory) {
                Err(DataError::Locked { .. }) if std::time::Instant::now() < until => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                opened => return opened,
            }
        }
    }

    #[test]
    fn init_makes_a_node_once() {
        let root = tempfile::tempdir().expect("directory");
        let path = root.path().join("data");
        let made = init(&plan(&path, 2)).expect("made");
        assert_eq!((made.cluster, made.node_id, made.members.len()), (Uuid::from_u128(7), 2, 3));
        assert!(matches!(init(&plan(&path, 2)), Err(DataError::NotEmpty { .. })), "an id is made once");
        let opened = open(&path).expect("opened");
        assert_eq!(opened.identity.record().incarnation, made.incarnation);
        assert!(matches!(DataDirectory::open(&path), Err(DataError::Locked { .. })), "one process at a time");
        drop(opened);
        assert!(open(&path).is_ok(), "the lock goes with its holder");
    }

    #[test]
    fn another_clusters_or_nodes_directory_is_refused() {
        let root = tempfile::tempdir().expect("directory");
        init(&plan(root.path(), 2)).expect("made");
        let opened = open(root.path()).expect("opened");
        let mut settings = Settings::default();
        settings.cluster.id = Some(Uuid::from_u128(7));
        settings.node.id = 2;
        opened.check(&settings).expect("its own");
        settings.node.id = 3;
        let error = opened.check(&settings).expect_err("another node").to_string();
        assert!(error.contains("belongs to node 2") && error.contains("node.id = 3"), "{error}");
        settings.cluster.id = Some(Uuid::from_u128(8));
        assert!(matches!(opened.check(&settings), Err(DataError::Foreign { .. })), "another cluster");
    }

    #[test]
    fn empty_directories_and_lost_databases_are_refused() {
        let root = tempfile::tempdir().expect("directory");
        assert!(matches!(DataDirectory::open(root.path()), Err(DataError::NoIdentity { .. })));
        init(&plan(root.path(), 1)).expect("made");
        std::fs::remove_dir(root.path().join("db")).expect("removed");
        let opened = open(root.path()).expect("opened");
        assert!(matches!(opened.database(), Err(DataError::Storage(StorageError::Directory { .. }))));
    }

    #[test]
    fn member_lists_are_checked() {
        for (text, detail) in [
            ("", "at least one"),
            ("1", "<node id>=<host>:<port>"),
            ("0=a:1", "from 1"),
            ("x=a:1", "from 1"),
            ("1=a", "<host>:<port>"),
            ("1=a:0", "<host>:<port>"),
            ("1=:5", "<host>:<port>"),
            ("1=a:1,1=b:2", "stands twice"),
        ] {
            let error = parse_members(text).expect_err(text).to_string();
            assert!(error.contains(detail), "{text:?}: {error}");
        }
        let root = tempfile::tempdir().expect("directory");
        assert!(init(&plan(&root.path().join("d"), 4)).is_err(), "a node outside of its member list");
        let join = |id| InitPlan { join: true, ..plan(&root.path().join(format!("j{id}")), id) };
        assert!(init(&join(2)).is_err(), "a founder does not join");
        assert!(init(&join(4)).expect("made").later.joined);
    }
}
