//! What can go wrong in storage, and what follows from each.

use std::path::PathBuf;

/// Errors of this crate. `Io` and `Engine` are final for the process (rule 12: exit, never retry); `Corrupt`
/// quarantines the node; the rest are refusals at start.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("i/o error on {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("storage engine: {0}")]
    Engine(String),
    /// Bytes that fail their checksum or cannot be decoded.
    #[error("corrupt {what}: {detail}")]
    Corrupt { what: &'static str, detail: String },
    /// A record of a newer schema than this binary knows (rule 9).
    #[error("record type {kind} of schema version {version} is newer than this binary knows")]
    Newer { kind: u16, version: u16 },
    /// The log ends before what `identity` says was synced: data were lost (rule 12).
    #[error("log ends at ({found_term}, {found_index}), but ({expected_term}, {expected_index}) was synced")]
    LogLost { found_term: u64, found_index: u64, expected_term: u64, expected_index: u64 },
    #[error("data directory {path}: {detail}")]
    Directory { path: PathBuf, detail: String },
    #[error("{0}")]
    TooLarge(String),
}

/// What [`StorageError::Corrupt`] is about when the engine's own checksums failed, or a file of its is gone.
pub const ENGINE: &str = "database";

impl StorageError {
    /// This copy is rotten, whatever the other members hold. Bytes that cannot be decoded may instead be a fault of the
    /// program, which every member shares.
    pub fn is_rot(&self) -> bool {
        matches!(self, Self::Corrupt { what, .. } if *what == ENGINE)
    }
}
