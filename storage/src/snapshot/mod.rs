//! Snapshots: copies of one member's database for another, from the taking to the installing (design §4).
//!
//! A copy is the database at one applied index S without log and node-local keys; it says commit = applied = S and
//! truncated = (S, term). It travels as files named by a [`Manifest`]. What differs between a real node and a simulated
//! one — where databases live, how a copy is made — is behind [`Home`]; the rules are written once, here and in
//! `receive`:
//!
//! | step | sender | receiver |
//! |---|---|---|
//! | take | [`Home::take`]: a thread of its own, not raft's, not apply's | |
//! | send | [`Source::read`] in chunks | [`Receiver::begin`] (also resumes), [`Receiver::put`] |
//! | verify | | [`Home::candidate`] when [`Receiver::wanted`] is `None`: opened, its own words compared |
//! | install | | [`install`] on the raft thread, while handling the Ready that carries the snapshot |
//!
//! Up to the one write of `identity` inside [`install`] the old database is whole and named; from it on the new one is.
//! Whatever `identity` does not name is removed at the next start ([`Home`]'s implementations do it when they are made).

pub(crate) mod files;
mod manifest;
mod memory;
mod receive;
#[cfg(feature = "rocksdb")]
mod rocks;

#[cfg(feature = "rocksdb")]
pub use self::rocks::RocksHome;
pub use self::{
    files::{DirectoryPlace, Place},
    manifest::{CopyOf, FILE_NAME_BYTES_MAX, FILES_MAX, Manifest, ManifestFile},
    memory::{MemoryDisk, MemoryHome},
    receive::{Put, Receiver, Wanted},
};
use crate::{
    codec::corrupt,
    engine::{Batch, Cf, Engine, Read, Sync},
    error::StorageError,
    identity::Identity,
    keys,
    log::{self, HardState, LogStore},
    rows::{self, MarkV1},
    scrub::Pass,
    state::StateStore,
    view,
};
use bytes::Bytes;
use std::{ops::ControlFlow, sync::Arc};

/// Bytes a chunk has at most: small enough that heartbeats pass between two, large enough that their number is no cost.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Bytes read through between two looks at the pace.
const READ_BYTES: usize = 1024 * 1024;

/// Why a copy is not taken or not installed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The caller's pace said stop.
    #[error("the copy was given up")]
    GivenUp,
    /// It is another cluster's, or another generation's.
    #[error("the copy is of {found}, this node of {own}")]
    Foreign { found: String, own: String },
    /// Nothing new in it: discard it.
    #[error("the copy is at {index}, this node has applied {applied}")]
    Old { index: u64, applied: u64 },
    /// It does not know this node: it is from before the entry that added it.
    #[error("the copy at {index} does not know node {node_id}")]
    NotAMember { index: u64, node_id: u64 },
    /// Its level is beyond what this program knows.
    #[error("the copy is at feature level {level}")]
    Newer { level: u32 },
    /// Its journal disagrees with what was applied here: one of the two is wrong. The node is to be quarantined.
    #[error("the copy's journal differs from this node's at index {index}")]
    Diverged { index: u64 },
    /// What was received is not what the manifest says, though every file is: the sender's fault.
    #[error("the copy is not what its manifest says: {0}")]
    NotAsSaid(String),
}

/// Called after each piece of work with the bytes it took; `false` gives the work up. The place to sleep for a rate.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> bool;

/// A copy ready to be sent; removed from the disk when dropped.
pub trait Source: Send + std::marker::Sync {
    fn manifest(&self) -> &Manifest;
    /// Up to `max` bytes of a file from `offset`; empty at its end.
    fn read(&self, file: usize, offset: u64, max: usize) -> Result<Bytes, StorageError>;
}

/// Where a node's databases live.
pub trait Home: Send + std::marker::Sync + 'static {
    /// The live database; the same slot for ever. Log and state are opened over it.
    fn engine(&self) -> Arc<dyn Engine>;

    /// Copies the live database as of now, at its applied index. Slow (reads every byte for the sums): off the hot
    /// threads; only the copying itself, a moment, touches the live database.
    fn take(&self, of: &CopyOf, pace: Pace<'_>) -> Result<Arc<dyn Source>, SnapshotError>;

    /// Where files come in; what an earlier transfer left is still there. One transfer at a time.
    fn incoming(&self) -> Result<Box<dyn Place>, StorageError>;

    /// Makes a database of what was received: moves it to a directory of its own, opens it, and checks that it says what
    /// its manifest says. Slow: off the hot threads. `receiver` must want nothing more.
    fn candidate(&self, receiver: Receiver) -> Result<Candidate, SnapshotError>;
}

/// A database that was received and checked. Dropped without being installed it is removed (a Ready that does not carry
/// it, design §4).
pub struct Candidate {
    manifest: Manifest,
    /// Name of its directory, for `identity`.
    directory: String,
    engine: Arc<dyn Engine>,
    /// Makes it the live one; the old one is removed when the last view of it is gone.
    enter: Option<Box<dyn FnOnce() + Send>>,
    /// Removes it.
    discard: Option<Box<dyn FnOnce() + Send>>,
}

impl Candidate {
    fn new(
        manifest: Manifest,
        directory: String,
        engine: Arc<dyn Engine>,
        enter: Box<dyn FnOnce() + Send>,
        discard: Box<dyn FnOnce() + Send>,
    ) -> Result<Self, SnapshotError> {
        let candidate = Self { manifest, directory, engine, enter: Some(enter), discard: Some(discard) };
        candidate.check()?;
        Ok(candidate)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Its own words against its manifest's.
    fn check(&self) -> Result<(), SnapshotError> {
        let (read, said) = (&*self.engine, &self.manifest);
        let wrong = |what: &str| Err(SnapshotError::NotAsSaid(what.to_owned()));
        let Some(mark) = read.get(Cf::Meta, keys::MARK)? else { return wrong("it has no applied mark") };
        let MarkV1(index, term, chain, time_ms) = rows::parse_mark(&mark)?;
        if (index, term, chain, time_ms) != (said.index, said.term, said.chain, said.time_ms) {
            return wrong("index, term, chain or time");
        }
        let Some(node_mark) = read.get(Cf::Meta, keys::NODE_MARK)? else {
            return wrong("it has no configuration state");
        };
        if rows::parse_node_mark(&node_mark)? != (index, said.conf_state.clone()) {
            return wrong("commit index or configuration state");
        }
        // Opening checks that it is cut up to S and holds no entry.
        let log = log::load(read)?;
        if log.truncated != (index, term) || log.last != index || log.hard_state != HardState::default() {
            return wrong("it holds a log, or another node's vote");
        }
        if view::chain_at(read, index)? != Some(chain) {
            return wrong("its journal does not end in its chain");
        }
        if view::members(read)? != said.members || view::level(read)? != said.level {
            return wrong("members or feature level");
        }
        // Equal sums say that these are the sender's files. Whether they had rotted there already only reading tells: what
        // cannot be read here is not installed, or damage would go from member to member.
        for family in Cf::ALL {
            read.scan(family, &[], keys::END, &mut |_, _| ControlFlow::Continue(()))?;
        }
        Ok(())
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if let Some(discard) = self.discard.take() {
            discard();
        }
    }
}

/// A name for the directory of a copy's database that nobody has: another copy of the same index may be waiting to be
/// installed, for as long as a disk hangs, and its directory is its own. `None`: the live database is a copy of this index.
pub(crate) fn free_name(manifest: &Manifest, live: &str, is_taken: impl Fn(&str) -> bool) -> Option<String> {
    let name = format!("db-{}-{}", manifest.term, manifest.index);
    if live.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
        return None;
    }
    let names = std::iter::once(name.clone()).chain((2u64..).map(|n| format!("{name}-{n}")));
    names.into_iter().find(|name| !is_taken(name))
}

/// May this copy replace what this node has? Cheap: also to be asked before a transfer, with its manifest.
pub fn check(
    manifest: &Manifest,
    identity: &Identity,
    applied: u64,
    level_known: u32,
) -> Result<(), SnapshotError> {
    let record = identity.record();
    // Who has just joined is told the generation by the copy: a cluster id is of one generation alone.
    let generation =
        if record.later.joined && applied == 0 { manifest.generation } else { record.later.generation };
    if (manifest.cluster, manifest.generation) != (record.cluster, generation) {
        return Err(SnapshotError::Foreign {
            found: format!("cluster {} generation {}", manifest.cluster, manifest.generation),
            own: format!("cluster {} generation {}", record.cluster, record.later.generation),
        });
    }
    if manifest.level > level_known {
        return Err(SnapshotError::Newer { level: manifest.level });
    }
    if manifest.index <= applied {
        return Err(SnapshotError::Old { index: manifest.index, applied });
    }
    if manifest.members.get(record.node_id).is_none() {
        return Err(SnapshotError::NotAMember { index: manifest.index, node_id: record.node_id });
    }
    Ok(())
}

/// Installs a candidate: on the raft thread, while apply stands still, with `vote` the hard state raft has now. On
/// return log and state are those of the copy; an error of storage is final (rule 12), every other one left all as it
/// was, and the candidate is removed.
///
/// 1. the candidate is this node's to take, and its journal at the applied index shows this node's hash;
/// 2. term and vote are written into it, synced;
/// 3. `identity` names it, with (S, term) as its synced mark: one synced write;
/// 4. log, state and readers go over to it.
pub fn install(
    mut candidate: Candidate,
    identity: &mut Identity,
    log: &LogStore,
    state: &mut StateStore,
    vote: (u64, u64),
    level_known: u32,
) -> Result<(), SnapshotError> {
    let mark = state.mark().clone();
    check(&candidate.manifest, identity, mark.index, level_known)?;
    if mark.index > 0 && view::chain_at(&*candidate.engine, mark.index)? != Some(mark.chain) {
        return Err(SnapshotError::Diverged { index: mark.index });
    }
    prepare(&candidate, vote)?;
    // From here on it may be what `identity` names, also if the write fails: only the next start knows.
    candidate.discard = None;
    name(&candidate, identity, vote)?;
    enter(candidate, log, state)
}

/// Step 2.
pub(crate) fn prepare(candidate: &Candidate, (term, vote): (u64, u64)) -> Result<(), StorageError> {
    let hard_state = HardState { term, vote, commit: candidate.manifest.index };
    let mut batch = Batch::default();
    batch.put(Cf::Meta, keys::HARD_STATE.to_vec(), log::hard_state_row(hard_state)?);
    candidate.engine.write(batch, Sync::Yes)
}

/// Step 3. A node that joined pins the founders as the copy's founding commit names them (rule 14).
pub(crate) fn name(
    candidate: &Candidate,
    identity: &mut Identity,
    (term, vote): (u64, u64),
) -> Result<(), StorageError> {
    let founding = candidate.engine.get(Cf::Meta, keys::FOUNDING)?;
    let founders = founding.map(|row| rows::parse_founding(&row)).transpose()?.map(|(_, members)| members);
    identity.update(|r| {
        r.live_directory.clone_from(&candidate.directory);
        (r.synced_term, r.synced_index) = (candidate.manifest.term, candidate.manifest.index);
        (r.term, r.vote) = (term, vote);
        r.later.generation = candidate.manifest.generation;
        // Who joined knows the list its cluster was made with, and not what was there before.
        if r.later.joined && r.genesis_chain() != candidate.manifest.genesis {
            r.later.genesis = Some(candidate.manifest.genesis);
        }
        if let Some(founders) = founders.filter(|_| r.pins.is_empty()) {
            r.pins = founders.iter().map(|m| (m.node_id, m.incarnation)).collect();
        }
    })
}

/// Step 4.
pub(crate) fn enter(
    mut candidate: Candidate,
    log: &LogStore,
    state: &mut StateStore,
) -> Result<(), SnapshotError> {
    if let Some(enter) = candidate.enter.take() {
        enter();
    }
    log.reload()?;
    state.reload()?;
    Ok(())
}

/// What every copy says of itself, read from it before log and node-local keys go: its applied position, and the batch
/// that makes a copy for others of it. The log is removed by the caller, in the way its engine does it best.
///
/// Everything is read through first: sums vouch for bytes, not for what they mean, and damage that is copied would be
/// found on a member that had none. An error of it is this node's own damage.
fn strip(read: &dyn Read, of: &CopyOf, pace: Pace<'_>) -> Result<(Manifest, Batch), SnapshotError> {
    let mut pass = Pass::of_a_copy();
    let mut done = false;
    while !done {
        let before = pass.seen().bytes;
        done = pass.step(read, READ_BYTES)?;
        if !pace(pass.seen().bytes - before) {
            return Err(SnapshotError::GivenUp);
        }
    }
    let mark = read.get(Cf::Meta, keys::MARK)?.ok_or_else(|| corrupt("copy", "nothing was ever applied"))?;
    let MarkV1(index, term, chain, time_ms) = rows::parse_mark(&mark)?;
    let node_mark =
        read.get(Cf::Meta, keys::NODE_MARK)?.ok_or_else(|| corrupt("copy", "no configuration state"))?;
    let (_, conf_state) = rows::parse_node_mark(&node_mark)?;
    let mut batch = Batch::default();
    let (from, to) = keys::META_NODE;
    batch.delete_range(Cf::Meta, from.to_vec(), to.to_vec());
    batch.put(Cf::Meta, keys::NODE_MARK.to_vec(), rows::node_mark(index, &conf_state)?);
    batch.put(Cf::Meta, keys::TRUNCATED.to_vec(), log::truncated_row((index, term))?);
    let manifest = Manifest {
        cluster: of.cluster,
        generation: of.generation,
        genesis: of.genesis,
        taken_by: of.node_id,
        index,
        term,
        chain,
        time_ms,
        conf_state,
        members: view::members(read)?,
        level: view::level(read)?,
        files: Vec::new(),
    };
    Ok((manifest, batch))
}
