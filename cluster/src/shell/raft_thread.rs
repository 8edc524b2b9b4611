//! The raft thread: takes everything that waits, makes one turn of the driver, does its effects in their order.
//! It alone writes the log and `identity`.

use super::{
    copies::{Copies, Owner},
    fatal::EXIT_IO,
    hub::{APPEND_BOUNDS_US, Hub, RaftFacts},
    system,
};
use crate::{
    core::{
        change::Known,
        driver::Driver,
        event::{Effects, Event, Install, Persist},
        log_view::Unreadable,
        retention::{self, EntryBytes},
        steps,
        table::Answers,
    },
    status::{NodePhase, REMEDY_NEWER_PROGRAM, REMEDY_REBUILD},
    transport::Transport,
};
use bytes::Bytes;
use okno_storage::{
    error::StorageError, identity::Identity, log::LogStore, snapshot::SnapshotError, state::StateStore,
};
use parking_lot::Mutex;
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed, Release},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

/// A slow disk or a wrong clock hands leadership over at most this often: the next leader may be no better.
const HAND_OVER_EVERY: Duration = Duration::from_secs(30);
/// Ticks between two attempts to raise a new cluster's level: one is applied within a few, unless it was dropped.
const LEVEL_EVERY_TICKS: u64 = 10;

pub struct RaftThread {
    pub hub: Arc<Hub>,
    pub driver: Driver,
    pub log: LogStore,
    pub identity: Identity,
    /// The apply thread's; taken over while a copy is installed.
    pub state: Arc<Mutex<StateStore>>,
    pub transport: Arc<dyn Transport>,
    /// Set when raft panics because it could not read the log.
    pub unreadable: Unreadable,
    pub entry_bytes: EntryBytes,
    /// What the driver was last told of others.
    pub known: Known,
}

impl RaftThread {
    /// Runs until stopped. An error is final.
    pub fn run(mut self) {
        match catch_unwind(AssertUnwindSafe(|| self.turns())) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.end(&error),
            // The driver is not touched any more: raft-rs was left in the middle of something.
            Err(panic) => match self.unreadable.get() {
                Some(error) => self.end(error),
                None => resume_unwind(panic),
            },
        }
        for event in self.hub.inbox.close() {
            self.hub.answer_unseen(event);
        }
    }

    /// Wrong data quarantine, a failing disk ends the process (rule 12).
    fn end(&self, error: &StorageError) {
        let remedy = match error {
            StorageError::Corrupt { .. } => REMEDY_REBUILD,
            StorageError::Newer { .. } => REMEDY_NEWER_PROGRAM,
            _ => return self.hub.fatal.exit(EXIT_IO, &format!("raft thread: {error}")),
        };
        self.hub.quarantine(&format!("the log cannot be read: {error}"), remedy);
    }

    fn turns(&mut self) -> Result<(), StorageError> {
        let tick = self.hub.settings.tick;
        let mut next_tick = system::monotonic() + tick;
        let mut handed_over: Option<Instant> = None;
        let mut spare = Vec::new();
        let mut ticks = 0u64;
        loop {
            let wanted = self.hub.applied_wanted.load(Acquire);
            let taken = self.hub.inbox.take(next_tick, wanted, spare);
            let mut events = taken.events;
            if let Some(pins) = taken.pins {
                self.pin(pins, &mut events)?;
            }
            if let Some(pins) = taken.later_pins {
                self.timed(|this| this.identity.update(|r| r.later.pins = pins))?;
            }
            if taken.stop {
                events.push(Event::Close);
            }
            // A change of members is judged by what is known now, not a tick ago: the level may just have been raised.
            if events.iter().any(|event| matches!(event, Event::Change { .. }))
                && let Some(news) = self.news()
            {
                events.insert(0, news);
            }
            let now = system::monotonic();
            if now >= next_tick {
                // Behind the messages, so that what came in meanwhile counts first; ticks missed in a long append
                // are not made up, or a slow disk would look like a dead leader.
                events.extend(self.news());
                events.push(Event::Tick);
                next_tick = now + tick;
                let outlier = self.hub.look_at_clocks().outlier();
                if outlier && self.hub.leads() && may_hand_over(&mut handed_over, now) {
                    tracing::warn!("this leader's clock is an outlier: handing over");
                    events.push(Event::Transfer { ticket: 0, to: None });
                }
                ticks += 1;
                if ticks.is_multiple_of(LEVEL_EVERY_TICKS) {
                    events.extend(self.raise_level(ticks));
                }
                self.publish();
                self.cut()?;
            }
            self.hub.count.turns.fetch_add(1, Relaxed);
            let effects = self.driver.on(events.drain(..), self.hub.ms_of(now));
            spare = events;
            let slow = self.perform(effects)?;
            if slow && self.hub.leads() && may_hand_over(&mut handed_over, now) {
                tracing::warn!("the disk is slow: handing leadership over");
                self.hub.push(Event::Transfer { ticket: 0, to: None });
            }
            if taken.stop {
                return Ok(());
            }
        }
    }

    /// What the driver must know of others, if it is not what it was told last.
    fn news(&mut self) -> Option<Event> {
        let known = self.hub.known();
        (known != self.known).then(|| {
            self.known = known.clone();
            Event::Known(Box::new(known))
        })
    }

    /// Does the effects of a turn, and of the turns its appends lead to. True: an append was slow.
    fn perform(&mut self, mut fx: Effects) -> Result<bool, StorageError> {
        let mut slow = false;
        loop {
            let persist = fx.persist.take();
            let found = fx.found;
            self.announce(fx)?;
            let mut next = Vec::new();
            if let Some(persist) = persist {
                let sequence = persist.sequence;
                if let Some(install) = persist.install {
                    let Some(installed) = self.install(install, persist)? else { return Ok(slow) };
                    next.push(installed);
                } else {
                    slow |= self.persist(persist)?;
                }
                next.push(Event::Persisted(sequence));
            }
            if let Some(term) = found
                && let Some(data) = self.founding(term)
            {
                next.push(Event::Found { term, data });
            }
            if next.is_empty() {
                return Ok(slow);
            }
            fx = self.driver.on(next, self.hub.now_ms());
        }
    }

    /// Everything but the append.
    fn announce(&mut self, mut fx: Effects) -> Result<(), StorageError> {
        let hub = &self.hub;
        hub.count.proposals.fetch_add(fx.proposed.len() as u64, Relaxed);
        hub.count.reads.fetch_add(fx.reads.iter().map(|(_, r)| r.len() as u64).sum(), Relaxed);
        let answers = if fx.concerns_waiters() {
            steps::register(&mut hub.table.lock(), &mut fx)
        } else {
            Answers::default()
        };
        if !fx.messages.is_empty() {
            self.transport.send(fx.messages);
        }
        if let Some(watermark) = fx.watermark {
            hub.apply.raise(watermark);
        }
        if let Some(role) = fx.role {
            hub.set_role(role);
            self.publish();
        }
        let hub = &self.hub;
        hub.deliver(answers);
        for (lane, last_index) in fx.closed_lanes {
            hub.lane_closed(lane, last_index);
        }
        for (ticket, result) in fx.transfers {
            hub.answer_transfer(ticket, result);
        }
        for (ticket, result) in fx.changes {
            hub.answer_change(ticket, result);
        }
        if let Some(configured) = fx.configured {
            hub.set_table(configured.table.clone());
            hub.apply.configured(configured);
        }
        for copy in fx.discard {
            hub.copies.discard(copy);
        }
        if fx.drop_copy {
            hub.copies.drop_copy();
        }
        if fx.take_copy {
            Copies::take(hub);
        }
        for message in fx.send_copies {
            Copies::send(hub, message);
        }
        if fx.refused > 0 {
            hub.count.refused_messages.fetch_add(fx.refused, Relaxed);
        }
        if let Some(why) = fx.quarantine {
            hub.quarantine(&why.reason, &why.remedy);
        }
        if let Some((term, index)) = fx.synced {
            self.timed(|this| steps::note_synced(&mut this.identity, (term, index)))?;
        }
        Ok(())
    }

    /// Makes a received copy this node's database (design §4). `None`: it cannot be, and the node is closed; all is as it
    /// was on the disk.
    fn install(&mut self, install: Install, persist: Persist) -> Result<Option<Event>, StorageError> {
        let hub = self.hub.clone();
        let Some((candidate, tell)) = hub.copies.claim(install.copy) else {
            // Closed meanwhile: what was received is gone.
            return Ok(None);
        };
        let state = self.state.clone();
        let installed = self.timed(|this| {
            let mut state = state.lock();
            steps::install(candidate, &mut this.identity, &this.log, &mut state, persist)
        });
        match installed {
            Ok(table) => {
                tracing::info!(index = install.index, "a copy of another member's database was installed");
                hub.copies.installed.fetch_add(1, Relaxed);
                hub.copies.set_owner(Owner::of(self.identity.record(), install.index));
                hub.apply.installed();
                for listener in hub.listeners.read().iter() {
                    listener.installed(install.index);
                }
                let mut answers = Answers::default();
                hub.table.lock().jump(install.index, &mut answers);
                hub.deliver(answers);
                hub.set_table(table.clone());
                let _ = tell.send(Ok(()));
                Ok(Some(Event::Installed { table }))
            }
            Err(SnapshotError::Storage(error)) => Err(error),
            Err(error) => {
                // Raft has taken it and cannot give it back.
                let _ = tell.send(Err(error.to_string()));
                let newer = matches!(error, SnapshotError::Newer { .. });
                hub.quarantine(&error.to_string(), if newer { REMEDY_NEWER_PROGRAM } else { REMEDY_REBUILD });
                Ok(None)
            }
        }
    }

    /// Cuts the log as far as nobody needs it, one bounded step at a time.
    fn cut(&mut self) -> Result<(), StorageError> {
        let (truncated, _) = self.log.truncated();
        let others = self.hub.positions();
        let kept = self.hub.settings.retention();
        let through = retention::cut_through(
            kept,
            retention::Facts {
                first_index: truncated + 1,
                last_index: self.driver.last_index(),
                applied: self.driver.applied(),
                others: &others,
                pinned: self.driver.pinned_from(),
                entry_bytes: self.entry_bytes.mean(),
            },
        );
        // Each cut leaves a tombstone over its range: few of them, but none that waits for long.
        if through.saturating_sub(truncated) >= retention::STEP_MIN.min(kept.tail)
            && !self.driver.is_waiting()
        {
            self.timed(|this| this.log.cut(through))?;
        }
        Ok(())
    }

    /// The one place where entries, term and vote reach the disk. True: it was slow.
    fn persist(&mut self, persist: Persist) -> Result<bool, StorageError> {
        let began = system::monotonic();
        let entries = persist.entries.len() as u64;
        let bytes = persist.entries.iter().map(|e| e.data.len() as u64).sum();
        self.entry_bytes.note(entries, bytes);
        self.timed(|this| steps::persist(&mut this.identity, &this.log, persist))?;
        let took = began.elapsed();
        let count = &self.hub.count;
        count.fsyncs.fetch_add(1, Relaxed);
        count.entries.fetch_add(entries, Relaxed);
        count.persist_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class =
            APPEND_BOUNDS_US.iter().position(|bound| took_us <= *bound).unwrap_or(APPEND_BOUNDS_US.len());
        count.appends[class].fetch_add(1, Relaxed);
        let slow = took >= self.hub.settings.disk_slow;
        count.slow_appends.fetch_add(u64::from(slow), Relaxed);
        Ok(slow)
    }

    /// Under the watchdog's eye.
    fn timed<T>(&mut self, write: impl FnOnce(&mut Self) -> T) -> T {
        self.hub.disk_busy_since_ms.store(self.hub.now_ms(), Release);
        let out = write(self);
        self.hub.disk_busy_since_ms.store(0, Release);
        out
    }

    /// Writes the pins, then lets the driver vote (rule 14).
    fn pin(&mut self, pins: Vec<(u64, Uuid)>, events: &mut Vec<Event>) -> Result<(), StorageError> {
        if !self.identity.record().pins.is_empty() {
            return Ok(());
        }
        self.timed(|this| this.identity.update(|r| r.pins = pins))?;
        self.hub.members.lock().set_pinned();
        tracing::info!("the incarnations of all members are pinned");
        self.hub.serving();
        events.push(Event::Pinned);
        Ok(())
    }

    /// The first commit (rule 14). It is exempt from the rule on clock steps (rule 7).
    fn founding(&self, term: u64) -> Option<Bytes> {
        let time_ms = self.hub.stamp(0).ok()?;
        match steps::founding_commit(self.identity.record(), term, time_ms)?.encode() {
            Ok(data) => Some(data),
            Err(error) => {
                // Only a member list beyond a commit's size comes here; `okno init` bounds it.
                tracing::error!(%error, "the founding commit cannot be encoded");
                None
            }
        }
    }

    /// The leader of a new cluster raises its level once all members are known to understand it.
    fn raise_level(&self, asked: u64) -> Option<Event> {
        let term = self.hub.role.borrow().leading_term()?;
        let level = self.hub.own_level()?;
        let time_ms = self.hub.stamp(self.hub.reader.applied().1).ok()?;
        let commit = steps::level_commit(self.hub.own, term, time_ms, level, asked / LEVEL_EVERY_TICKS);
        tracing::info!(level, "raising the feature level of a new cluster");
        commit.encode().ok().map(|data| Event::Own { term, data })
    }

    /// What the status shows.
    fn publish(&self) {
        if !matches!(*self.hub.phase.borrow(), NodePhase::Quarantined { .. }) {
            *self.hub.facts.lock() = RaftFacts {
                leader: self.driver.leader(),
                commit: self.driver.watermark(),
                last_index: self.driver.last_index(),
                first_index: self.log.first_index(),
                matches: self.driver.matches(),
            };
        }
    }
}

fn may_hand_over(last: &mut Option<Instant>, now: Instant) -> bool {
    let may = last.is_none_or(|at| now.duration_since(at) >= HAND_OVER_EVERY);
    if may {
        *last = Some(now);
    }
    may
}
