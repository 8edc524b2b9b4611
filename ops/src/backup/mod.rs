//! Backups of data and software, the log archive between them, and the way back (R-R6, R-R7, ADR 0010).
//!
//! Code map: `target` where they lie and how a file becomes durable there · `manifest` what a backup says of itself ·
//! `crypt` the age format · `pace` the bound on speed · `objects` content-addressed files · `take` making one ·
//! `archive` the log between backups · `retention` what may go · `verify` reading every byte again · `scrub` the same
//! from time to time and without a key · `restore` data
//! directories of a new cluster ·
//! `member` the last step of that · `keeper` what a node does by itself.
//!
//! Everything blocks: callers run it on a thread of its own. Nothing here retries; a target that fails leaves what
//! was complete before as it was, and the next run begins anew.

pub mod archive;
pub mod crypt;
pub mod keeper;
pub mod manifest;
pub mod member;
pub mod objects;
pub mod pace;
pub mod restore;
pub mod retention;
pub mod scrub;
pub mod take;
pub mod target;
#[cfg(test)]
mod tests;
pub mod verify;

use okno_storage::error::StorageError;
use std::{io, path::Path, path::PathBuf};

/// Why something of a backup was not done.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// What was asked for cannot be done as asked; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// Bytes are not those that were written.
    #[error("{place}: {detail}")]
    Damaged { place: String, detail: String },
    /// Made by a program newer than this one.
    #[error("{place} has format {found}, this program knows formats up to {known}: use the newer program")]
    Newer { place: String, found: u32, known: u32 },
    #[error("in use: {holder}")]
    Busy { holder: String },
    #[error("stopped before it was complete")]
    Stopped,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl BackupError {
    pub(crate) fn damaged(place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Damaged { place: place.into(), detail: detail.into() }
    }

    /// For `map_err`: an error of the file system on `path`.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// What is being done, for people who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A copy of the database at one index.
    Copy,
    /// Digest of all rows of the copy.
    Digest,
    /// Reading, sealing and writing files.
    Store,
    /// Reading every file of a backup.
    Read,
    /// Recomputing the hash chain.
    Chain,
    /// Applying archived log entries.
    Replay,
    /// Writing data directories.
    Write,
    /// Removing what is not kept.
    Prune,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Digest => "digest",
            Self::Store => "store",
            Self::Read => "read",
            Self::Chain => "chain",
            Self::Replay => "replay",
            Self::Write => "write",
            Self::Prune => "prune",
        }
    }
}

/// Who watches work and may end it.
pub trait Watch: Send + Sync {
    /// Called before each step that changes something; an error ends the work right there.
    fn step(&self, _step: &'static str) -> Result<(), BackupError> {
        Ok(())
    }
    /// `done` of `total` (0: not known), in bytes or, for chain and replay, in entries.
    fn progress(&self, _phase: Phase, _done: u64, _total: u64) {}
}

/// Nobody watches.
pub struct Silent;

impl Watch for Silent {}

/// Milliseconds since the Unix epoch as RFC 3339; empty when out of range.
pub fn moment(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|t| t.to_string()).unwrap_or_default()
}

/// The wall clock, milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
