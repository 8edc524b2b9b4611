//! Which form of a durable record which replicated feature level allows (rule 9).
//!
//! A release writes a new form only once the cluster's level says that every member reads it. Until then the cluster
//! can go back to the release before, one node at a time.
//!
//! A build with planted faults can act as the release after this one ([`planted::be_next_release`]): it knows one level
//! more, and from that level on writes commits in a form that no shipped binary decodes. That is how rolling upgrades
//! are tried with two binaries of which only the newer one reads what it writes.

use crate::planted::{self, Mutant};

/// Highest feature level this release knows. 1: release 0.1; 2: release 0.2, which adds what membership, snapshots and
/// log cutting write.
pub const FEATURE_LEVEL: u32 = 2;

/// The commit's form in this release.
pub(crate) const COMMIT_VERSION: u16 = 1;
/// The commit's form in the release after this one, as it is tried; a number no real form will come to.
pub(crate) const COMMIT_VERSION_NEXT: u16 = 0x7FFF;

/// Highest feature level this process knows.
#[inline]
pub fn known() -> u32 {
    FEATURE_LEVEL + u32::from(planted::is_next_release())
}

/// The newest form of a commit that `level` allows and this process writes.
#[inline]
pub(crate) fn commit_version(level: u32) -> u16 {
    let allowed = planted::is_next_release() && level > FEATURE_LEVEL;
    if allowed || planted::is(Mutant::EncodeBeforeLevel) { COMMIT_VERSION_NEXT } else { COMMIT_VERSION }
}

/// Does this process read a commit of this form?
#[inline]
pub(crate) fn reads_commit(version: u16) -> bool {
    let next = planted::is_next_release() || planted::is(Mutant::EncodeBeforeLevel);
    version <= COMMIT_VERSION || (version == COMMIT_VERSION_NEXT && next)
}

/// The level from which on an encoded commit may stand in the log, by the form it is written in.
pub fn needed_by(data: &[u8]) -> u32 {
    let version = data.get(4..6).map_or(COMMIT_VERSION, |at| u16::from_be_bytes([at[0], at[1]]));
    if version == COMMIT_VERSION_NEXT { FEATURE_LEVEL + 1 } else { 1 }
}
