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
/// log cutting write; 3: channels, and the electronic queue whole.
pub const FEATURE_LEVEL: u32 = 3;

/// From this level on the journal has notes ([`crate::commit::SystemOp::Note`]).
pub const NOTES: u32 = 2;
/// From this level on every member knows by name why intake is shut, so that a leader may tell it.
pub const SHUT_REASONS: u32 = 2;

/// From this level on there are channels: the kind, its messages, bodies in rows, and what cases and the catalogue write
/// about them. The domain says which event or message needs it.
pub const CHANNELS: u32 = 3;
/// From this level on the electronic queue is whole, and cases are given to officers. The domain says which event or
/// message needs it.
pub const QUEUE: u32 = 3;

/// From this level on whoever leads takes a change of members from a node that was asked for it.
pub const MEMBER_CALLS: u32 = 3;

/// From this level on nodes tell each other the trace that a forwarded call belongs to.
pub const TRACES: u32 = 2;

/// The form of all commits but notes.
pub(crate) const COMMIT_VERSION: u16 = 1;
/// The form of notes: the one before with one thing more to say. Nothing else is written in it, so that the log stays
/// what it was.
pub(crate) const COMMIT_VERSION_NOTE: u16 = 2;
/// The commit's form in the release after this one, as it is tried; a number no real form will come to.
pub(crate) const COMMIT_VERSION_NEXT: u16 = 0x7FFF;

/// Highest feature level this process knows.
#[inline]
pub fn known() -> u32 {
    FEATURE_LEVEL + u32::from(planted::is_next_release())
}

/// The form in which this process writes a commit at `level`; `None`: the level does not allow it at all.
#[inline]
pub(crate) fn commit_version(level: u32, note: bool) -> Option<u16> {
    let next = planted::is_next_release() && level > FEATURE_LEVEL;
    if next || planted::is(Mutant::EncodeBeforeLevel) {
        Some(COMMIT_VERSION_NEXT)
    } else if note {
        (level >= NOTES).then_some(COMMIT_VERSION_NOTE)
    } else {
        Some(COMMIT_VERSION)
    }
}

/// Does this process read a commit of this form?
#[inline]
pub(crate) fn reads_commit(version: u16) -> bool {
    let next = planted::is_next_release() || planted::is(Mutant::EncodeBeforeLevel);
    version <= COMMIT_VERSION_NOTE || (version == COMMIT_VERSION_NEXT && next)
}

/// The level from which on an encoded commit may stand in the log, by the form it is written in.
pub fn needed_by(data: &[u8]) -> u32 {
    let version = data.get(4..6).map_or(COMMIT_VERSION, |at| u16::from_be_bytes([at[0], at[1]]));
    match version {
        COMMIT_VERSION_NEXT => FEATURE_LEVEL + 1,
        COMMIT_VERSION_NOTE => NOTES,
        _ => 1,
    }
}
