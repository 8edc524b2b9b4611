//! The virtual apply thread. Mirrors `cluster/src/shell/apply_thread.rs` and the runtime's listener.

use super::{Live, Phase};
use crate::{core::Core, queue::What};
use okno_cluster::core::{change::Configured, steps, table::Answers};
use okno_runtime::{courier, runtime, timers};
use okno_storage::{
    error::StorageError,
    log::{EntryKind, LogEntry},
    members::{MemberChange, Members as MemberTable},
    state::AppliedSlice,
};
use rand::Rng;
use std::sync::Arc;

impl Live {
    /// Apply may go so far.
    pub(super) fn raise(&mut self, w: &mut Core, watermark: u64) {
        self.apply.watermark = self.apply.watermark.max(watermark);
        self.wake_apply(w);
    }

    pub(super) fn wake_apply(&mut self, w: &mut Core) {
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

    /// A change of members: what the raft thread made of it, applied; `None`: it has not said yet.
    fn configuration(
        &mut self,
        w: &mut Core,
        entry: LogEntry,
        watermark: u64,
    ) -> Result<Option<AppliedSlice>, StorageError> {
        if self.reached.is_some() {
            return Ok(None);
        }
        match steps::reached(&self.state, &entry)? {
            None => steps::apply_configuration(&mut self.state, &entry, watermark, None).map(Some),
            Some(reached) => {
                self.push(w, reached.event());
                self.reached = Some((entry, reached));
                Ok(None)
            }
        }
    }

    /// The raft thread counts by the new configuration.
    pub(super) fn configured(&mut self, w: &mut Core, configured: Configured) {
        let Some((entry, reached)) = self.reached.take_if(|(_, r)| r.index == configured.index) else {
            return;
        };
        if self.state.mark().index + 1 != reached.index {
            return;
        }
        let led_to = Some((&reached.change, configured.conf_state));
        let applied = steps::apply_configuration(&mut self.state, &entry, self.apply.watermark, led_to)
            .and_then(|slice| {
                let mark = self.state.mark();
                w.watch.applied(self.ix, std::slice::from_ref(&entry), &slice, mark.chain);
                w.trace.mix(u64::from_le_bytes(mark.chain[..8].try_into().expect("eight of 32 bytes")));
                self.set_table(w, reached.table.clone());
                self.applied_slice(w, &slice)
            });
        if let Err(error) = applied {
            return self.failed(w, &format!("entry {} cannot be applied", reached.index), &error);
        }
        if let MemberChange::Promote { node_id } = &reached.change
            && self.leads()
        {
            w.promoted.push((Self::place(*node_id), reached.index));
        }
        if w.trace.on() {
            w.trace.say(w.now, format_args!("n{} changes the members: {:?}", self.ix + 1, reached.change));
        }
        if self.state.mark().index < self.apply.watermark {
            self.wake_apply(w);
        }
    }

    pub(super) fn set_table(&mut self, w: &mut Core, table: Arc<MemberTable>) {
        super::set_members(&mut self.peers, &table);
        let removed = table.is_removed(self.ix as u64 + 1);
        w.members(self.ix, &table);
        self.members.set_table(table);
        if removed {
            self.leave(w);
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
        let slice = if entries[0].kind == EntryKind::Configuration {
            let Some(slice) = self.configuration(w, entries[0].clone(), watermark)? else { return Ok(()) };
            slice
        } else {
            self.state.apply(&entries, watermark)?
        };
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
            let joined = record.later.joined;
            let (cluster, pins) = (record.cluster, self.members.pins().filter(|_| !joined));
            if let Some(agrees) = steps::founded(&self.state, slice, cluster, pins.as_deref())? {
                if !agrees {
                    self.quarantine(w, "the first commit names other members than those pinned here");
                }
                self.founded = true;
                self.founded_here = true;
            }
        }
        if w.watch.services.is_some() {
            self.keepers_applied(w, slice)?;
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
