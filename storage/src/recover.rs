//! A new cluster from what is left of one: from one survivor's directory, or from a backup's copy.
//!
//! Offline. The rows, the journal and the hash chain go on; cluster id, members and their incarnations are new, the
//! generation is one higher, and so nothing of the old cluster — a member that comes back, a lease handed out, a vote —
//! can be mistaken for the new one's. The chain is continued instead of begun anew, because the journal is proof of what
//! happened before as well: `identity` keeps the h₀ it began with.
//!
//! From a survivor everything in its log counts, also what it did not know to be committed: what was acknowledged may be
//! there and nowhere else, and what was not has an unknown outcome, which may be either (rule 1).

use crate::{
    codec::corrupt,
    engine::{Batch, Cf, Engine, Sync},
    error::StorageError,
    identity::{IdentityRecord, Later, Member},
    keys,
    log::{self, EntryKind, HardState, LogStore},
    members::{MEMBERS_MAX, Members},
    rows::{self, MarkV1},
    state::{Genesis, StateStore},
    view,
};
use bytes::Bytes;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Terms left out between the old cluster and the new one. Commit ids, and the keys of messages that went outside, begin
/// with their term: those of entries that are lost must not come again with other contents. Far more elections than a
/// cluster holds between a backup and its loss.
pub const TERM_GAP: u64 = 1 << 20;
/// Bytes of log entries applied at a time.
const SLICE_BYTES: usize = 4 * 1024 * 1024;

/// A member of the new cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlannedMember {
    pub node_id: u64,
    pub peer_address: String,
    /// Random and new; the same on all members, which therefore are pinned from the beginning.
    pub incarnation: Uuid,
}

/// The new cluster: the same for all its members but for `node_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverPlan {
    pub cluster: Uuid,
    /// Higher than the old cluster's.
    pub generation: u64,
    pub members: Vec<PlannedMember>,
    /// The member this copy is for.
    pub node_id: u64,
}

/// What the new cluster begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Of the new member; its sequence is 0, its `live_directory` the caller's to set.
    pub identity: IdentityRecord,
    /// The last index recovered, its term, and the hash chain there.
    pub index: u64,
    pub term: u64,
    pub chain: [u8; 32],
    /// Replicated time there, milliseconds since the Unix epoch.
    pub time_ms: i64,
}

impl RecoverPlan {
    fn check(&self, old: &IdentityRecord) -> Result<(), StorageError> {
        let refuse = |detail: &str| Err(corrupt("plan of recovery", detail));
        let ids: BTreeSet<u64> = self.members.iter().map(|m| m.node_id).collect();
        if ids.len() != self.members.len() || self.members.is_empty() || self.members.len() > MEMBERS_MAX {
            return refuse("members are none, too many, or stand twice");
        }
        if ids.contains(&0) || !ids.contains(&self.node_id) {
            return refuse("node id 0, or the member itself is not among the members");
        }
        if self.cluster == old.cluster || self.generation <= old.later.generation {
            return refuse("cluster id and generation must be new");
        }
        Ok(())
    }
}

/// raft's `ConfState` with these voters: field 1, numbers, one by one. Every reader of that format takes it.
fn conf_state(voters: impl Iterator<Item = u64>) -> Bytes {
    let mut out = Vec::new();
    for mut voter in voters {
        out.push(0x08);
        while voter >= 0x80 {
            out.push((voter & 0x7F) as u8 | 0x80);
            voter >>= 7;
        }
        out.push(voter as u8);
    }
    out.into()
}

/// Applies what the log holds beyond the applied index. Changes of members in it are passed over: the new cluster has its
/// own.
pub fn apply_rest(log: &LogStore, state: &mut StateStore) -> Result<(), StorageError> {
    let last = log.last_index();
    while state.mark().index < last {
        let next = state.mark().index + 1;
        let entries = log.entries(next, last + 1, SLICE_BYTES)?;
        let slice = state.apply(&entries, last)?;
        let conf = entries.iter().find(|e| e.index == slice.last && e.kind == EntryKind::Configuration);
        if conf.is_some() {
            let unchanged = state.mark().conf_state.clone();
            state.set_conf_state(unchanged)?;
        }
        if slice.entries.is_empty() {
            return Err(corrupt("log", format!("entry {next} cannot be read")));
        }
    }
    Ok(())
}

/// Makes the database in `engine`, which is nobody else's, the beginning of the planned cluster: one synced write. `old`
/// is the identity of the member, or of the backup, that the data are from; its term is the highest that may have been
/// used. Repeating it gives the same.
pub fn convert(
    engine: &dyn Engine,
    plan: &RecoverPlan,
    old: &IdentityRecord,
) -> Result<Recovered, StorageError> {
    plan.check(old)?;
    let mark = engine.get(Cf::Meta, keys::MARK)?;
    let mark = mark.ok_or_else(|| corrupt("recovery", "nothing was ever applied here"))?;
    let MarkV1(index, term, chain, time_ms) = rows::parse_mark(&mark)?;
    let mut members = plan.members.clone();
    members.sort();
    let founders: Vec<_> = members
        .iter()
        .map(|m| crate::commit::MemberRecord {
            node_id: m.node_id,
            incarnation: m.incarnation,
            peer_address: m.peer_address.clone(),
        })
        .collect();
    let before = view::members(engine)?;
    let mut table = Members { changed_index: index, ..Members::founded(&founders) };
    let gone: BTreeSet<u64> =
        before.removed.iter().copied().chain(before.current.iter().map(|m| m.node_id)).collect();
    table.removed = gone.into_iter().filter(|id| table.get(*id).is_none()).collect();
    let known = old.term.max(term);
    let new_term = known.checked_add(TERM_GAP).ok_or_else(|| corrupt("recovery", "no terms are left"))?;

    let mut batch = Batch::default();
    let (from, to) = keys::META_NODE;
    batch.delete_range(Cf::Meta, from.to_vec(), to.to_vec());
    batch.delete_range(Cf::Log, Vec::new(), keys::END.to_vec());
    batch.put(Cf::Meta, keys::FOUNDING.to_vec(), rows::founding(plan.cluster, &founders)?);
    batch.put(Cf::Meta, keys::MEMBERS.to_vec(), table.encode()?);
    let voters = conf_state(members.iter().map(|m| m.node_id));
    batch.put(Cf::Meta, keys::NODE_MARK.to_vec(), rows::node_mark(index, &voters)?);
    batch.put(Cf::Meta, keys::TRUNCATED.to_vec(), log::truncated_row((index, term))?);
    let hard_state = HardState { term: new_term, vote: 0, commit: index };
    batch.put(Cf::Meta, keys::HARD_STATE.to_vec(), log::hard_state_row(hard_state)?);
    engine.write(batch, Sync::Yes)?;

    let own = members.iter().find(|m| m.node_id == plan.node_id);
    let own = own.ok_or_else(|| corrupt("plan of recovery", "the member itself is not among them"))?;
    let identity = IdentityRecord {
        cluster: plan.cluster,
        node_id: plan.node_id,
        incarnation: own.incarnation,
        members: members
            .iter()
            .map(|m| Member { node_id: m.node_id, peer_address: m.peer_address.clone() })
            .collect(),
        pins: members.iter().map(|m| (m.node_id, m.incarnation)).collect(),
        term: new_term,
        vote: 0,
        synced_term: term,
        synced_index: index,
        live_directory: String::new(),
        sequence: 0,
        later: Later {
            generation: plan.generation,
            genesis: Some(old.genesis_chain()),
            pins: Vec::new(),
            joined: false,
        },
    };
    Ok(Recovered { identity, index, term, chain, time_ms })
}

#[cfg(feature = "rocksdb")]
pub use self::survivor::{Survivor, SurvivorReport};

#[cfg(feature = "rocksdb")]
mod survivor {
    //! Forced recovery: a cluster of one from the data directory of the only member that is left.

    use super::{
        Genesis, IdentityRecord, LogStore, PlannedMember, RecoverPlan, Recovered, StateStore, StorageError,
        Uuid, apply_rest, convert, view,
    };
    use crate::{
        engine::Engine,
        identity::{FileIdentityMedium, Identity},
        log,
        rocks::{RocksEngine, RocksOptions},
        snapshot::files,
    };
    use std::{
        fs::{self, File, OpenOptions},
        os::fd::AsRawFd,
        path::{Path, PathBuf},
        sync::Arc,
    };

    /// A stopped node's directory, locked as a running one locks it.
    pub struct Survivor {
        path: PathBuf,
        identity: Identity,
        options: RocksOptions,
        _lock: File,
    }

    /// What a look says, and what a recovery would come to.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct SurvivorReport {
        pub cluster: Uuid,
        pub node_id: u64,
        pub generation: u64,
        pub applied: u64,
        /// The last index that would be recovered, and its term.
        pub log_last: u64,
        pub log_last_term: u64,
        /// Node ids of the other members, whose data are given up.
        pub given_up: Vec<u64>,
    }

    impl Survivor {
        pub fn open(path: &Path, options: &RocksOptions) -> Result<Self, StorageError> {
            let refuse =
                |detail: &str| StorageError::Directory { path: path.to_owned(), detail: detail.into() };
            if !path.join("identity").exists() {
                return Err(refuse("there is no identity: this is no node's data"));
            }
            let lock = path.join("lock");
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&lock)
                .map_err(files::io_error(&lock))?;
            if !lock_now(&lock) {
                return Err(refuse("it is in use: stop the node first"));
            }
            let identity = Identity::open(Box::new(FileIdentityMedium::new(path.join("identity"))?))?;
            Ok(Self { path: path.to_owned(), identity, options: options.clone(), _lock: lock })
        }

        pub fn record(&self) -> &IdentityRecord {
            self.identity.record()
        }

        fn live(&self) -> PathBuf {
            self.path.join(&self.record().live_directory)
        }

        /// Changes nothing.
        pub fn look(&self) -> Result<SurvivorReport, StorageError> {
            let record = self.record();
            let engine: Arc<dyn Engine> = Arc::new(RocksEngine::open_read_only(self.live(), &self.options)?);
            let log = LogStore::open(engine.clone())?;
            let (state, last) = (self.state(engine.clone())?, log.last_index());
            let members = view::members(&*engine)?;
            Ok(SurvivorReport {
                cluster: record.cluster,
                node_id: record.node_id,
                generation: record.later.generation,
                applied: state.mark().index,
                log_last: last,
                log_last_term: log.term(last)?.unwrap_or_default(),
                given_up: members
                    .current
                    .iter()
                    .map(|m| m.node_id)
                    .filter(|id| *id != record.node_id)
                    .collect(),
            })
        }

        fn state(&self, engine: Arc<dyn Engine>) -> Result<StateStore, StorageError> {
            let genesis = Genesis { chain: self.record().genesis_chain(), conf_state: bytes::Bytes::new() };
            StateStore::open(engine, genesis)
        }

        /// Makes a cluster of this node alone. Works on a copy; the one write of `identity` decides, and up to it
        /// nothing has changed. The old database stays beside, in `before-recovery-<index>`, until an operator removes
        /// it.
        pub fn recover(
            &mut self,
            cluster: Uuid,
            incarnation: Uuid,
            peer_address: Option<String>,
        ) -> Result<Recovered, StorageError> {
            let old = self.record().clone();
            let live = RocksEngine::open(self.live(), &self.options)?;
            self.not_behind(&live, &old)?;
            let generation = old.later.generation + 1;
            let name = format!("db-recovered-{generation}");
            let into = self.path.join(&name);
            // One of an attempt that was interrupted.
            files::remove_directory(&into)?;
            files::remove_directory(&self.path.join(format!("{name}.tmp")))?;
            live.checkpoint(&into)?;
            drop(live);
            let engine = RocksEngine::open(&into, &self.options)?;
            let slot: Arc<dyn Engine> = Arc::new(engine.clone());
            let log = LogStore::open(slot.clone())?;
            log.verify()?;
            let mut state = self.state(slot)?;
            apply_rest(&log, &mut state)?;
            let known = view::members(&engine)?.get(old.node_id).map(|m| m.peer_address.clone());
            let listed =
                old.members.iter().find(|m| m.node_id == old.node_id).map(|m| m.peer_address.clone());
            let address = peer_address.or(known).or(listed).unwrap_or_default();
            let own = PlannedMember { node_id: old.node_id, peer_address: address, incarnation };
            let plan = RecoverPlan { cluster, generation, members: vec![own], node_id: old.node_id };
            // Term and vote stand in both places, and the larger counts.
            let term = log.hard_state()?.term.max(old.term);
            let mut recovered = convert(&engine, &plan, &IdentityRecord { term, ..old.clone() })?;
            engine.flush()?;
            drop((log, state, engine));
            recovered.identity.live_directory.clone_from(&name);
            let new = recovered.identity.clone();
            self.identity.update(|r| *r = IdentityRecord { sequence: r.sequence, ..new })?;
            recovered.identity = self.identity.record().clone();
            let kept = self.path.join(format!("before-recovery-{}", recovered.index));
            let was = self.path.join(&old.live_directory);
            fs::rename(&was, &kept).map_err(files::io_error(&was))?;
            files::sync_directory(&self.path)?;
            Ok(recovered)
        }

        /// The log must reach as far as it was once synced (rule 12): a survivor that lost its own end recovers nothing.
        fn not_behind(&self, live: &RocksEngine, old: &IdentityRecord) -> Result<(), StorageError> {
            let found = log::load(live)?;
            let last_term = LogStore::open(Arc::new(live.clone()))?.term(found.last)?.unwrap_or_default();
            if (last_term, found.last) < (old.synced_term, old.synced_index) {
                return Err(StorageError::LogLost {
                    found_term: last_term,
                    found_index: found.last,
                    expected_term: old.synced_term,
                    expected_index: old.synced_index,
                });
            }
            Ok(())
        }
    }

    #[expect(unsafe_code, reason = "flock has no safe form here")]
    fn lock_now(file: &File) -> bool {
        // SAFETY: flock takes a descriptor, which `file` keeps open, and touches no memory.
        unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
    }
}
