//! Where backups lie: a directory on another medium, prepared once, and how a file becomes durable there.
//!
//! ```text
//! <target>/okno-target.json                       says that this is a target, and of which format
//! <target>/<cluster id>/backup.lock archive.lock  held by whoever writes (flock; goes with its holder)
//!                      /objects/<recipients>/ab/<sha-256>[.age]   files, named by the content they hold
//!                      /backups/<id>/manifest.json manifest.sha256
//!                      /archive/<generation>/<from>-<to>-<chain>.seg[.age]
//!                      /tmp/                       what is not complete; emptied by the next holder of a lock
//! ```
//! A target must have been prepared (`oknoctl backup init`): an empty mount point whose medium is gone is thereby told
//! from a new target, and nothing is ever written under it.

use super::BackupError;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// The newest format this program writes and reads.
pub const TARGET_FORMAT: u32 = 1;
const MARKER: &str = "okno-target.json";

#[derive(Serialize, Deserialize)]
struct Marker {
    format: u32,
}

/// A prepared target.
#[derive(Debug, Clone)]
pub struct Target {
    root: PathBuf,
}

/// Two kinds of work, each done by one process at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Writing backups and removing them.
    Backup,
    /// Writing the log archive.
    Archive,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Archive => "archive",
        }
    }
}

impl Target {
    /// Prepares a directory that is empty or not there yet.
    pub fn init(root: &Path) -> Result<Self, BackupError> {
        fs::create_dir_all(root).map_err(BackupError::io(root))?;
        if root.join(MARKER).exists() {
            return Self::open(root);
        }
        let foreign = fs::read_dir(root)
            .map_err(BackupError::io(root))?
            .filter_map(Result::ok)
            // What mkfs leaves on a fresh medium.
            .find(|entry| entry.file_name() != "lost+found");
        if let Some(entry) = foreign {
            return Err(BackupError::Refused(format!(
                "{} holds {:?}: a target is prepared in an empty directory",
                root.display(),
                entry.file_name()
            )));
        }
        let text = serde_json::to_vec(&Marker { format: TARGET_FORMAT }).expect("a number has a JSON form");
        publish(&root.join(format!(".{MARKER}.new")), &root.join(MARKER), &text)?;
        Self::open(root)
    }

    pub fn open(root: &Path) -> Result<Self, BackupError> {
        let path = root.join(MARKER);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::Refused(format!(
                    "{} is not a backup target: its medium is not mounted, or it was never prepared (`oknoctl backup \
                     init --target {}`)",
                    root.display(),
                    root.display()
                )));
            }
            Err(source) => return Err(BackupError::Io { path, source }),
        };
        let marker: Marker = serde_json::from_slice(&text)
            .map_err(|error| BackupError::damaged(path.display().to_string(), error.to_string()))?;
        if marker.format > TARGET_FORMAT {
            return Err(BackupError::Newer {
                place: path.display().to_string(),
                found: marker.format,
                known: TARGET_FORMAT,
            });
        }
        Ok(Self { root: root.to_owned() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A backup on the medium that holds the data is lost with them.
    pub fn on_another_medium(&self, data: &Path) -> Result<bool, BackupError> {
        let device = |path: &Path| path.metadata().map(|m| m.dev()).map_err(BackupError::io(path));
        Ok(device(&self.root)? != device(data)?)
    }

    /// The clusters with something here, in order of their ids.
    pub fn clusters(&self) -> Result<Vec<Uuid>, BackupError> {
        let mut found: Vec<Uuid> =
            names(&self.root)?.iter().filter_map(|n| Uuid::try_parse(n).ok()).collect();
        found.sort();
        Ok(found)
    }

    pub fn folder(&self, cluster: Uuid) -> Folder {
        Folder { path: self.root.join(cluster.to_string()), cluster }
    }

    /// The folder of the cluster named, or of the only one there is.
    pub fn choose(&self, cluster: Option<Uuid>) -> Result<Folder, BackupError> {
        let clusters = self.clusters()?;
        let list = || clusters.iter().map(Uuid::to_string).collect::<Vec<_>>().join(", ");
        match (cluster, clusters.as_slice()) {
            (Some(cluster), _) if clusters.contains(&cluster) => Ok(self.folder(cluster)),
            (Some(cluster), _) => Err(BackupError::Refused(format!(
                "{} holds nothing of cluster {cluster}; it holds: {}",
                self.root.display(),
                if clusters.is_empty() { "nothing".to_owned() } else { list() }
            ))),
            (None, [one]) => Ok(self.folder(*one)),
            (None, []) => Err(BackupError::Refused(format!("{} holds no backup", self.root.display()))),
            (None, _) => Err(BackupError::Refused(format!(
                "{} holds backups of several clusters, name one with --of: {}",
                self.root.display(),
                list()
            ))),
        }
    }
}

/// What one cluster has on a target.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    pub cluster: Uuid,
}

impl Folder {
    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn backups(&self) -> PathBuf {
        self.path.join("backups")
    }
    pub fn objects(&self) -> PathBuf {
        self.path.join("objects")
    }
    /// A generation's log: a forced recovery begins another history under the same or another id.
    pub fn archive(&self, generation: u64) -> PathBuf {
        self.path.join("archive").join(generation.to_string())
    }
    pub fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// Takes the work on, as `holder`, and clears away what an interrupted one left.
    pub fn take_on(&self, work: Work, holder: &str) -> Result<Held, BackupError> {
        for folder in [self.path.clone(), self.backups(), self.objects(), self.tmp()] {
            make_folder(&folder)?;
        }
        let held = self.lock(work, holder, libc::LOCK_EX)?;
        for name in names(&self.tmp())? {
            if name.starts_with(work.name()) {
                remove(&self.tmp().join(name))?;
            }
        }
        Ok(held)
    }

    /// Keeps writers of backups away while they are read. `None` where the medium cannot be written: then nobody can.
    pub fn hold_still(&self) -> Result<Option<Held>, BackupError> {
        match self.lock(Work::Backup, "", libc::LOCK_SH) {
            Ok(held) => Ok(Some(held)),
            Err(BackupError::Io { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EROFS | libc::EACCES | libc::EPERM)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    #[allow(unsafe_code)]
    fn lock(&self, work: Work, holder: &str, how: libc::c_int) -> Result<Held, BackupError> {
        let path = self.path.join(format!("{}.lock", work.name()));
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(BackupError::io(&path))?;
        // SAFETY: flock takes a descriptor, which `file` keeps open, and touches no memory.
        if unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) } != 0 {
            let who = fs::read_to_string(&path).unwrap_or_default();
            let who = if who.trim().is_empty() { "another process" } else { who.trim() };
            return Err(BackupError::Busy { holder: format!("{} ({who})", path.display()) });
        }
        if how == libc::LOCK_EX {
            // For people alone; the lock itself is the kernel's.
            file.set_len(0)
                .and_then(|()| file.write_all(holder.as_bytes()))
                .map_err(BackupError::io(&path))?;
        }
        Ok(Held { _file: file, temporary: self.tmp(), work, count: 0 })
    }
}

/// The right to write; given back when dropped.
#[derive(Debug)]
pub struct Held {
    _file: File,
    temporary: PathBuf,
    work: Work,
    count: u64,
}

impl Held {
    /// A name nobody else uses, for a file that is not complete.
    pub fn temporary(&mut self) -> PathBuf {
        self.count += 1;
        self.temporary.join(format!("{}-{}", self.work.name(), self.count))
    }
}

/// Writes `bytes` so that `path` holds all of them or is not there.
pub fn publish(temporary: &Path, path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let mut file = File::create(temporary).map_err(BackupError::io(temporary))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(BackupError::io(temporary))?;
    drop(file);
    put_in_place(temporary, path)
}

/// Moves what is complete and synced to its name, durably.
pub fn put_in_place(temporary: &Path, path: &Path) -> Result<(), BackupError> {
    fs::rename(temporary, path).map_err(BackupError::io(path))?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

pub fn sync_folder(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(BackupError::io(path))
}

/// Makes a folder that survives a power cut.
pub fn make_folder(path: &Path) -> Result<(), BackupError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(BackupError::io(path))?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Names in a folder, sorted; none if it is not there.
pub fn names(path: &Path) -> Result<Vec<String>, BackupError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(BackupError::Io { path: path.to_owned(), source }),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(BackupError::io(path))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Removes a file or a folder with everything in it.
pub fn remove(path: &Path) -> Result<(), BackupError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(BackupError::io(path)),
    }
}
