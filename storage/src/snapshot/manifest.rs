//! What a copy is and what it is made of: the durable record that travels before the files.

use crate::{
    codec::{self, corrupt, kind},
    error::StorageError,
    members::Members,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::Bytes as Raw;
use sha2::{Digest, Sha256};
use uuid::Uuid;

const VERSION: u16 = 1;
const WHAT: &str = "snapshot manifest";
/// Files a copy has at most: tables of 64 MiB make half a terabyte of that, and the manifest stays within a record.
pub const FILES_MAX: usize = 8_192;
/// Length of a file's name, bytes. RocksDB's are below 30.
pub const FILE_NAME_BYTES_MAX: usize = 64;

/// Whose copy it is, of what only `identity` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyOf {
    pub cluster: Uuid,
    pub generation: u64,
    /// Where its hash chain begins; of a restored or recovered cluster that is another cluster's.
    pub genesis: [u8; 32],
    pub node_id: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// A plain name, without a path.
    pub name: String,
    pub bytes: u64,
    pub sha256: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub cluster: Uuid,
    pub generation: u64,
    /// h₀ of the chain.
    pub genesis: [u8; 32],
    /// The member that took it.
    pub taken_by: u64,
    /// S: everything up to it is applied, nothing behind it is there.
    pub index: u64,
    pub term: u64,
    /// h at S.
    pub chain: [u8; 32],
    pub time_ms: i64,
    pub conf_state: Bytes,
    pub members: Members,
    /// Replicated feature level at S.
    pub level: u32,
    pub files: Vec<ManifestFile>,
}

impl Manifest {
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// Names this very copy: SHA-256 of its encoding.
    pub fn id(&self) -> Result<[u8; 32], StorageError> {
        Ok(Sha256::digest(self.encode()?).into())
    }

    pub fn encode(&self) -> Result<Vec<u8>, StorageError> {
        let members = self.members.encode()?;
        let v1 = ManifestV1 {
            cluster: self.cluster.into_bytes(),
            generation: self.generation,
            genesis: self.genesis,
            taken_by: self.taken_by,
            index: self.index,
            term: self.term,
            chain: self.chain,
            time_ms: self.time_ms,
            conf_state: Raw::new(&self.conf_state),
            members: Raw::new(&members),
            level: self.level,
            files: self.files.iter().map(|f| FileV1(&f.name, f.bytes, f.sha256)).collect(),
        };
        codec::frame_own(kind::MANIFEST, VERSION, &v1)
    }

    /// Reads one that came from elsewhere: names that lead out of their directory, names that stand twice and too many
    /// files are refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        let (_version, payload) = codec::unframe_own(WHAT, bytes, kind::MANIFEST, VERSION)?;
        let v1: ManifestV1<'_> = codec::decode(WHAT, payload)?;
        if v1.files.len() > FILES_MAX {
            return Err(corrupt(WHAT, format!("{} files", v1.files.len())));
        }
        if !v1.files.windows(2).all(|w| w[0].0 < w[1].0) {
            return Err(corrupt(WHAT, "file names do not ascend"));
        }
        if let Some(FileV1(name, ..)) = v1.files.iter().find(|f| !plain(f.0)) {
            return Err(corrupt(WHAT, format!("file name {name:?}")));
        }
        Ok(Self {
            cluster: Uuid::from_bytes(v1.cluster),
            generation: v1.generation,
            genesis: v1.genesis,
            taken_by: v1.taken_by,
            index: v1.index,
            term: v1.term,
            chain: v1.chain,
            time_ms: v1.time_ms,
            conf_state: Bytes::copy_from_slice(v1.conf_state),
            members: Members::decode(v1.members)?,
            level: v1.level,
            files: v1
                .files
                .iter()
                .map(|FileV1(name, bytes, sha256)| ManifestFile {
                    name: (*name).to_owned(),
                    bytes: *bytes,
                    sha256: *sha256,
                })
                .collect(),
        })
    }
}

/// Letters, digits, dots, dashes, underscores; not beginning with a dot, nor with the underscore of our own files.
fn plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= FILE_NAME_BYTES_MAX
        && !name.starts_with(['.', '_'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Name, bytes, SHA-256. Frozen.
#[derive(Serialize, Deserialize)]
struct FileV1<'a>(&'a str, u64, [u8; 32]);

/// [`Manifest`] as version 1 writes it. Frozen.
#[derive(Serialize, Deserialize)]
struct ManifestV1<'a> {
    cluster: [u8; 16],
    generation: u64,
    genesis: [u8; 32],
    taken_by: u64,
    index: u64,
    term: u64,
    chain: [u8; 32],
    time_ms: i64,
    #[serde(borrow)]
    conf_state: &'a Raw,
    #[serde(borrow)]
    members: &'a Raw,
    level: u32,
    #[serde(borrow)]
    files: Vec<FileV1<'a>>,
}
