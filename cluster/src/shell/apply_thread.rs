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
    status::{REMEDY_NEWER_PROGRAM, REMEDY_REBUILD},
};
use okno_storage::{
    error::StorageError,
    log::LogStore,
    state::{AppliedSlice, StateStore},
};
use std::sync::{
    Arc,
    atomic::Ordering::{Acquire, Relaxed, Release},
};
use uuid::Uuid;

pub struct ApplyThread {
    pub hub: Arc<Hub>,
    pub state: StateStore,
    pub log: LogStore,
    /// The founding commit is applied.
    pub founded: bool,
    pub cluster: Uuid,
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
                    &format!("entry {} cannot be applied: {error}", self.state.mark().index + 1),
                    if newer { REMEDY_NEWER_PROGRAM } else { REMEDY_REBUILD },
                );
            }
        }
    }

    fn slices(&mut self) -> Result<(), StorageError> {
        while let Some(watermark) = self.hub.apply.wait(self.state.mark().index) {
            let entries = steps::next_slice(&self.state, &self.log, watermark)?;
            let began = system::monotonic();
            let slice = Arc::new(self.state.apply(&entries, watermark)?);
            let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            let count = &self.hub.count;
            count.apply_us.fetch_add(took, Relaxed);
            count.apply_slices.fetch_add(1, Relaxed);
            count.applied.fetch_add(slice.entries.len() as u64, Relaxed);
            self.applied(&slice)?;
        }
        Ok(())
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
        if steps::compares(&self.state, slice) {
            let mark = self.state.mark();
            let found = self.hub.peers.lock().chain(self.hub.own, (mark.index, mark.chain));
            self.hub.judge(found.into_iter().collect());
        }
        if let Some(index) = slice.marker {
            // The view is of this moment: apply goes on only when it is taken.
            let view = self.state.reader().view();
            if let Some(passed_over) = self.digests.put(index, view) {
                self.hub.count.markers_passed_over.fetch_add(1, Relaxed);
                tracing::warn!(index, passed_over, "markers come faster than rows are digested");
            }
        }
        Ok(())
    }

    /// The first commit must say what is pinned here (rule 14).
    fn look_for_founding(&mut self, slice: &AppliedSlice) -> Result<(), StorageError> {
        let pins = self.hub.members.lock().pins().unwrap_or_default();
        if let Some(agrees) = steps::founded(&self.state, slice, self.cluster, &pins)? {
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

/// Digests all rows of the views handed in, one after the other.
pub fn digest_thread(hub: &Hub, views: &Views) {
    while let Some((index, view)) = views.next() {
        let began = system::monotonic();
        match view.digest() {
            Ok(hash) => {
                tracing::info!(index, hash = %hex::encode(hash), took = ?began.elapsed(), "digest of all rows");
                let found = hub.peers.lock().digest(hub.own, (index, hash));
                hub.judge(found.into_iter().collect());
            }
            // A disk that fails says nothing about the data (rule 12).
            Err(error @ (StorageError::Io { .. } | StorageError::Engine(_))) => {
                hub.fatal.exit(EXIT_IO, &format!("digest at index {index}: {error}"));
            }
            Err(error) => hub.quarantine(
                &format!("rows cannot be read for the digest at index {index}: {error}"),
                REMEDY_REBUILD,
            ),
        }
    }
}
