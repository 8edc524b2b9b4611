//! What a backup says of itself: readable by people (JSON), versioned, and with a checksum of its own beside it in the
//! form that `sha256sum -c` reads.

use super::{BackupError, moment, target::Folder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fs, path::Path};
use uuid::Uuid;

/// The newest format this program writes and reads.
pub const FORMAT: u32 = 1;
pub const FILE: &str = "manifest.json";
pub const SUM: &str = "manifest.sha256";
/// A manifest of a hundred thousand files stays below; a larger one is damaged.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Name it had, without folders.
    pub name: String,
    pub size: u64,
    /// Of its content; names the object.
    pub sha256: String,
    /// As it lies on the target: larger and another sum when encrypted.
    pub stored_size: u64,
    pub stored_sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberEntry {
    pub node_id: u64,
    pub peer_address: String,
    pub incarnation: Uuid,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    pub id: String,
    pub cluster: Uuid,
    pub cluster_name: String,
    pub generation: u64,
    /// Where the hash chain begins, hexadecimal.
    pub genesis: String,
    /// The node that made it.
    pub node: u64,
    /// The maker's clock when the copy was taken.
    pub created_ms: i64,
    pub created: String,
    /// Everything up to this log entry is in it, nothing behind.
    pub index: u64,
    pub term: u64,
    /// Hash chain at `index`, hexadecimal.
    pub chain: String,
    /// Digest of all replicated rows, recomputed from the copy, hexadecimal.
    pub digest: String,
    /// Replicated time at `index`.
    pub time_ms: i64,
    pub time: String,
    /// Replicated feature level.
    pub level: u32,
    /// Initial members as the first commit names them.
    pub members: Vec<MemberEntry>,
    /// Of the program that made it.
    pub version: String,
    /// `plain`, or the name of the set of recipients; a folder under `objects/`.
    pub recipients_name: String,
    /// Who can read it; empty: it is not encrypted.
    pub recipients: Vec<String>,
    /// The database, file by file.
    pub database: Vec<FileEntry>,
    /// Programs and settings.
    pub software: Vec<FileEntry>,
    /// Bytes of files that were not on the target before.
    pub new_bytes: u64,
    pub seconds: f64,
}

impl Manifest {
    pub fn sealed(&self) -> bool {
        !self.recipients.is_empty()
    }

    pub fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.database.iter().chain(&self.software)
    }

    /// Bytes of all files as they were.
    pub fn bytes(&self) -> u64 {
        self.files().map(|file| file.size).sum()
    }

    /// The id of a backup: sorts by time.
    pub fn id_of(created_ms: i64, index: u64) -> String {
        let digits: String = moment(created_ms).chars().take(19).filter(|c| c.is_ascii_digit()).collect();
        let (day, time) = digits.split_at(digits.len().min(8));
        format!("{day}T{time}Z-{index}")
    }

    /// The bytes of the manifest and of its checksum file.
    pub fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let mut text = serde_json::to_vec_pretty(self).expect("plain values have a JSON form");
        text.push(b'\n');
        let sum = format!("{}  {FILE}\n", hex::encode(Sha256::digest(&text)));
        (text, sum.into_bytes())
    }

    pub fn load(folder: &Folder, id: &str) -> Result<Self, BackupError> {
        let path = folder.backups().join(id);
        let manifest = Self::read(&path)?;
        let place = || path.join(FILE).display().to_string();
        if manifest.cluster != folder.cluster {
            return Err(BackupError::damaged(
                place(),
                format!("of cluster {}, but it lies under cluster {}", manifest.cluster, folder.cluster),
            ));
        }
        if manifest.id != id {
            return Err(BackupError::damaged(place(), format!("says that it is {}", manifest.id)));
        }
        Ok(manifest)
    }

    fn read(path: &Path) -> Result<Self, BackupError> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let (file, sum) = (path.join(FILE), path.join(SUM));
        let place = file.display().to_string();
        let read = |path: &Path| -> Result<Vec<u8>, BackupError> {
            let size = path.metadata().map_err(BackupError::io(path))?.len();
            if size > BYTES_MAX {
                return Err(BackupError::damaged(path.display().to_string(), format!("{size} bytes")));
            }
            fs::read(path).map_err(BackupError::io(path))
        };
        let (text, sum) = (read(&file)?, read(&sum)?);
        let expected = format!("{}  {FILE}\n", hex::encode(Sha256::digest(&text)));
        if sum != expected.as_bytes() {
            return Err(BackupError::damaged(place, "does not match its checksum in manifest.sha256"));
        }
        let bad = |error: serde_json::Error| BackupError::damaged(place.clone(), error.to_string());
        let Versioned { format } = serde_json::from_slice(&text).map_err(bad)?;
        if format > FORMAT {
            return Err(BackupError::Newer { place, found: format, known: FORMAT });
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(bad)?;
        manifest.check().map_err(|detail| BackupError::damaged(place, detail))?;
        Ok(manifest)
    }

    /// Names become paths: nothing in them may lead elsewhere.
    fn check(&self) -> Result<(), String> {
        let hexadecimal = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        for file in self.files() {
            let plain = !file.name.is_empty() && !file.name.contains(['/', '\0']);
            if !plain || file.name == "." || file.name == ".." {
                return Err(format!("names a file {:?}", file.name));
            }
            if !hexadecimal(&file.sha256) || !hexadecimal(&file.stored_sha256) {
                return Err(format!("has no SHA-256 of {:?}", file.name));
            }
        }
        if !hexadecimal(&self.chain) || !hexadecimal(&self.digest) || !hexadecimal(&self.genesis) {
            return Err("has no hash chain or digest".to_owned());
        }
        if self.recipients_name.is_empty() || !self.recipients_name.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            return Err(format!("names recipients {:?}", self.recipients_name));
        }
        Ok(())
    }
}

/// A backup's id with its manifest, or why that cannot be read.
pub type Listed = (String, Result<Manifest, BackupError>);

/// What lies under `backups/`, oldest first.
pub fn list(folder: &Folder) -> Result<Vec<Listed>, BackupError> {
    let ids = super::target::names(&folder.backups())?;
    Ok(ids
        .into_iter()
        .map(|id| {
            let m = Manifest::load(folder, &id);
            (id, m)
        })
        .collect())
}

/// The readable ones, oldest first.
pub fn readable(folder: &Folder) -> Result<Vec<Manifest>, BackupError> {
    Ok(list(folder)?.into_iter().filter_map(|(_, manifest)| manifest.ok()).collect())
}
