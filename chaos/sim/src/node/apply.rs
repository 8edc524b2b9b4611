//! The virtual apply thread. Mirrors `cluster/src/shell/apply_thread.rs` and the runtime's listener.

use super::{Live, Phase};
use crate::{core::Core, queue::What};
use okno_cluster::core::{steps, table::Answers};
use okno_runtime::{courier, runtime, timers};
use okno_storage::{error::StorageError, state::AppliedSlice};
use rand::Rng;

impl Live {
    /// Apply may go so far.
    pub(super) fn raise(&mut self, w: &mut Core, watermark: u64) {
        self.apply.watermark = self.apply.watermark.max(watermark);
        self.wake_apply(w);
    }

    fn wake_apply(&mut self, w: &mut Core) {
        if self.apply.stopped {
            return;
        }
        let (low, high) = w.tune.apply_us;
        let mut after = w.rng.threads.gen_range(low..=high) + w.wake_us(self.ix);
        after = after.max(w.apply_held_until[self.ix].saturating_sub(w.now));
        if self.apply.wake.want(w.now + after) {
            self.at(w, after, What::Apply);
        }
    }

    /// One slice.
    pub(super) fn apply_turn(&mut self, w: &mut Core) {
        if self.apply.stopped {
            return;
        }
        if let Err(error) = self.apply_slice(w) {
            let next = self.state.mark().index + 1;
            self.failed(w, &format!("entry {next} cannot be applied"), &error);
            return;
        }
        if self.state.mark().index < self.apply.watermark {
            self.wake_apply(w);
        }
    }

    fn apply_slice(&mut self, w: &mut Core) -> Result<(), StorageError> {
        let watermark = self.apply.watermark;
        let mut entries = steps::next_slice(&self.state, &self.log, watermark)?;
        if entries.is_empty() {
            return Ok(());
        }
        if w.tune.short_slices && entries.len() > 1 && w.rng.threads.gen_bool(0.5) {
            // As if the rest had been committed a moment later.
            let keep = w.rng.threads.gen_range(1..=entries.len());
            entries.truncate(keep);
        }
        let slice = self.state.apply(&entries, watermark)?;
        let mark = self.state.mark();
        w.watch.applied(self.ix, &entries, &slice, mark.chain);
        w.watch.encoded(&entries[..slice.entries.len()], self.reader.level());
        w.trace.mix(u64::from_le_bytes(mark.chain[..8].try_into().expect("eight of 32 bytes")));
        if w.trace.on() {
            for entry in &slice.entries {
                let entity = entry.entity.as_ref().map_or("-", |key| key.as_str()).to_owned();
                w.trace.say(
                    w.now,
                    format_args!(
                        "n{} applies {} of term {}: {entity} {:?}",
                        self.ix + 1,
                        entry.index,
                        entry.term,
                        entry.outcome
                    ),
                );
            }
        }
        self.applied_slice(w, &slice)
    }

    /// The state holds the slice: say so, in the order listeners, waiters, raft.
    fn applied_slice(&mut self, w: &mut Core, slice: &AppliedSlice) -> Result<(), StorageError> {
        if !self.founded {
            let record = self.identity.record();
            let (cluster, pins) = (record.cluster, self.members.pins().unwrap_or_default());
            if let Some(agrees) = steps::founded(&self.state, slice, cluster, &pins)? {
                if !agrees {
                    self.quarantine(w, "the first commit names other members than those pinned here");
                }
                self.founded = true;
                self.founded_here = true;
            }
        }
        let leading = self.ready();
        let moved = runtime::moved(slice, leading, &self.worlds);
        let missed = w.take_missed(self.ix);
        if !moved.sent.is_empty() || missed {
            let event = if missed { courier::Event::Missed } else { courier::Event::Sent(moved.sent) };
            self.tell_courier(w, event);
        }
        if !moved.timers.is_empty() || missed {
            let event = if missed { timers::Event::Missed } else { timers::Event::Set(moved.timers) };
            self.tell_scanner(w, event);
        }
        if moved.quarantine {
            self.tell_courier(w, courier::Event::QuarantineMoved);
            self.tell_scanner(w, timers::Event::QuarantineMoved);
        }
        let mut answers = Answers::default();
        self.table.settle(slice, &mut answers);
        self.deliver(w, answers);
        self.tell_applied(w, slice.last);
        if steps::compares(&self.state, slice) {
            let mark = self.state.mark();
            let found = self.peers.chain(self.ix as u64 + 1, (mark.index, mark.chain));
            self.judge(w, found.into_iter().collect());
        }
        if let Some(index) = slice.marker
            && self.phase == Phase::Serving
        {
            let digest = self.state.reader().view().digest()?;
            let found = self.peers.digest(self.ix as u64 + 1, (index, digest));
            self.judge(w, found.into_iter().collect());
        }
        Ok(())
    }
}
