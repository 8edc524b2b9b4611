//! The apply thread: reads the log up to the watermark, applies bounded slices, tells listeners, answers.
//! It alone writes the applied state; its batches are not synced, because the one WAL keeps them behind the log.

use super::{
    digests::{Digests, Views},
    fatal::EXIT_IO,
    hub::Hub,
    system,
};
use crate::{
    core::{steps, table::Answers},
    status::{REASON_REMOVED, REMEDY_NEW_ID, REMEDY_NEWER_PROGRAM, REMEDY_REBUILD},
};
use okno_storage::{
    error::StorageError,
    log::{EntryKind, LogStore},
    state::{AppliedSlice, StateStore, StateView},
};
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::Ordering::{Acquire, Relaxed, Release},
};
use uuid::Uuid;

pub struct ApplyThread {
    pub hub: Arc<Hub>,
    /// Shared with the raft thread, which takes it over while it installs a copy; else nobody waits for it.
    pub state: Arc<Mutex<StateStore>>,
    pub log: LogStore,
    /// The founding commit is applied.
    pub founded: bool,
    pub cluster: Uuid,
    /// Made to join: the founders are pinned as the first commit names them.
    pub joined: bool,
    /// Digests are computed elsewhere: reading every row would hold apply for seconds.
    pub digests: Digests,
}

impl ApplyThread {
    /// Runs until stopped. Wrong data quarantine, a failing disk ends the process (rule 12).
    pub fn run(mut self) {
        match self.slices() {
            Ok(()) => {}
            Err(error @ (StorageError::Io { .. } | StorageError::Engine(_))) => {
                self.hub.fatal.exit(EXIT_IO, &format!("apply thread: {error}"));
            }
            Err(error) => {
                let newer = matches!(error, StorageError::Newer { .. });
                self.hub.quarantine(
                    &format!("entry {} cannot be applied: {error}", self.state.lock().mark().index + 1),
                    if newer { REMEDY_NEWER_PROGRAM } else { REMEDY_REBUILD },
                );
            }
        }
    }

    fn slices(&mut self) -> Result<(), StorageError> {
        loop {
            let applied = self.state.lock().mark().index;
            let Some(watermark) = self.hub.apply.wait(applied) else { return Ok(()) };
            let installs = self.hub.apply.installs();
            let began = system::monotonic();
            let Some(slice) = self.slice(watermark, installs)? else { continue };
            let slice = Arc::new(slice);
            let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            let count = &self.hub.count;
            count.apply_us.fetch_add(took, Relaxed);
            count.apply_slices.fetch_add(1, Relaxed);
            count.applied.fetch_add(slice.entries.len() as u64, Relaxed);
            self.applied(&slice)?;
        }
    }

    /// The next slice, applied; `None`: there is none, or a copy took its place.
    fn slice(&self, watermark: u64, installs: u64) -> Result<Option<AppliedSlice>, StorageError> {
        let (entry, reached) = {
            let mut state = self.state.lock();
            let entries = steps::next_slice(&state, &self.log, watermark)?;
            let Some(first) = entries.first() else { return Ok(None) };
            if first.kind != EntryKind::Configuration {
                return state.apply(&entries, watermark).map(Some);
            }
            match steps::reached(&state, first)? {
                Some(reached) => (first.clone(), reached),
                None => return steps::apply_configuration(&mut state, first, watermark, None).map(Some),
            }
        };
        self.hub.push(reached.event());
        let Some(configured) = self.hub.apply.wait_configured(reached.index, installs) else {
            return Ok(None);
        };
        let mut state = self.state.lock();
        if state.mark().index + 1 != reached.index {
            return Ok(None);
        }
        let led_to = Some((&reached.change, configured.conf_state));
        let slice = steps::apply_configuration(&mut state, &entry, watermark, led_to)?;
        drop(state);
        tracing::info!(index = reached.index, change = ?reached.change, "the members changed");
        if reached.table.is_removed(self.hub.own) {
            self.hub.quarantine(REASON_REMOVED, REMEDY_NEW_ID);
        }
        Ok(Some(slice))
    }

    /// The state holds the slice: say so, in the order listeners, waiters, raft — so that who gets an answer finds
    /// what was built from it.
    fn applied(&mut self, slice: &Arc<AppliedSlice>) -> Result<(), StorageError> {
        if !self.founded {
            self.look_for_founding(slice)?;
        }
        if let Some(why) = steps::level_above(&self.hub.reader) {
            self.hub.quarantine(&why, REMEDY_NEWER_PROGRAM);
        }
        for listener in self.hub.listeners.read().iter() {
            listener.applied(slice);
        }
        let mut answers = Answers::default();
        self.hub.table.lock().settle(slice, &mut answers);
        self.hub.deliver(answers);
        self.hub.inbox.applied(slice.last, self.founded, self.hub.applied_wanted.load(Acquire));
        // A copy may have been installed since: then there is nothing to compare, and nothing of this moment to digest.
        let (compares, mark, reader) = {
            let state = self.state.lock();
            (steps::compares(&state, slice), state.mark().clone(), state.reader())
        };
        if mark.index != slice.last {
            return Ok(());
        }
        if compares {
            let found = self.hub.peers.lock().chain(self.hub.own, (mark.index, mark.chain));
            self.hub.judge(found.into_iter().collect());
        }
        if let Some(index) = slice.marker {
            // The view is of this moment: apply goes on only when it is taken.
            let view = reader.view();
            if view.mark()?.index != index {
                return Ok(());
            }
            if let Some(passed_over) = self.digests.put(index, view) {
                self.hub.count.markers_passed_over.fetch_add(1, Relaxed);
                tracing::warn!(index, passed_over, "markers come faster than rows are digested");
            }
        }
        Ok(())
    }

    /// The first commit must say what is pinned here (rule 14).
    fn look_for_founding(&mut self, slice: &AppliedSlice) -> Result<(), StorageError> {
        let pins = self.hub.members.lock().pins().filter(|_| !self.joined);
        let found = {
            let state = self.state.lock();
            let agrees = steps::founded(&state, slice, self.cluster, pins.as_deref())?;
            agrees.map(|agrees| Ok::<_, StorageError>((agrees, state.members()?))).transpose()?
        };
        if let Some((agrees, table)) = found {
            if self.joined && agrees {
                let founders = table.current.iter().filter_map(|m| m.incarnation.map(|i| (m.node_id, i)));
                self.hub.inbox.pins(founders.collect());
            }
            self.hub.set_table(Arc::new(table));
            if !agrees {
                self.hub.quarantine(
                    "the cluster's first commit names other members than those pinned here",
                    "this node belongs to another cluster: remove its data and run `okno init` again",
                );
            }
            self.founded = true;
            self.hub.founded_here.store(true, Release);
        }
        Ok(())
    }
}

/// Bytes digested between two rests: some milliseconds.
const DIGEST_PIECE: usize = 256 * 1024;
/// Rest after each piece, in times that it took. All members digest at the same index and so at the same time, while those who
/// serve need the processors; a day lies between two digests.
const DIGEST_RESTS: u32 = 3;

/// Why a digest has no result.
enum NoDigest {
    Stopped,
    Storage(StorageError),
}

impl From<StorageError> for NoDigest {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

fn digest(hub: &Hub, view: &StateView) -> Result<[u8; 32], NoDigest> {
    let (mut passed, mut since) = (0, system::monotonic());
    view.digest_with(&mut |bytes| {
        passed += bytes;
        if passed < DIGEST_PIECE {
            return Ok(());
        }
        if hub.stopped.load(Acquire) {
            return Err(NoDigest::Stopped);
        }
        std::thread::sleep(since.elapsed() * DIGEST_RESTS);
        (passed, since) = (0, system::monotonic());
        Ok(())
    })
}

/// Digests all rows of the views handed in, one after the other.
pub fn digest_thread(hub: &Hub, views: &Views) {
    while let Some((index, view)) = views.next() {
        let began = system::monotonic();
        match digest(hub, &view) {
            Ok(hash) => {
                tracing::info!(index, hash = %hex::encode(hash), took = ?began.elapsed(), "digest of all rows");
                let found = hub.peers.lock().digest(hub.own, (index, hash));
                hub.judge(found.into_iter().collect());
            }
            Err(NoDigest::Stopped) => return,
            // A disk that fails says nothing about the data (rule 12).
            Err(NoDigest::Storage(error @ (StorageError::Io { .. } | StorageError::Engine(_)))) => {
                hub.fatal.exit(EXIT_IO, &format!("digest at index {index}: {error}"));
            }
            Err(NoDigest::Storage(error)) => hub.quarantine(
                &format!("rows cannot be read for the digest at index {index}: {error}"),
                REMEDY_REBUILD,
            ),
        }
    }
}
