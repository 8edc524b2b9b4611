//! The timer scanner's core: fires what is due by replicated time, keeps that time and the request memory going
//! (rules 6 and 7), and places the markers at which members compare their rows (rule 15). Pure; the task around it is
//! [`crate::shell::timers`].
//!
//! Invariants:
//! - Every timer at or before `cursor` is in flight, parked, or gone.
//! - An insert at or before the cursor pulls it back to just before the insert.
//! - A timer is in flight at most once.

use crate::call::{Answer, Cause};
use okno_storage::{commit::TimerKey, error::StorageError};
use std::collections::{BTreeMap, BTreeSet};

/// Timers under way at once: they share the raft thread's batches with callers.
pub const IN_FLIGHT_MAX: usize = 256;
/// Rows read at a time.
pub const PAGE: usize = 256;
/// Timers of quarantined entities remembered; beyond, they are found again by the next walk.
pub const PARKED_MAX: usize = 4_096;
/// An idle cluster ages at least this often (rule 7).
pub const TIME_EVERY_MS: i64 = 60_000;
/// How often remembered requests are purged.
pub const PURGE_EVERY_MS: i64 = 3_600_000;
/// Rows of remembered requests stay this long: a day more than the window in which they count (rule 6).
pub const REQUEST_ROWS_MS: i64 = 8 * 24 * 3_600 * 1_000;
/// How often all members digest their rows and compare them, unless the settings say otherwise. Every member reads all
/// it has: at 200 MB/s some eight minutes for 100 GB, so once a day costs a disk half a percent, and damage is found
/// long before the last sound backup is gone.
pub const MARKER_EVERY_MS: i64 = 24 * 3_600 * 1_000;
/// Pause between looks when nothing is known to be due.
pub const IDLE_MS: u64 = 500;
/// Pauses before a timer that did not fire is tried again.
const RETRY_MS: u64 = 1_000;
/// Pause before another time commit is asked for when one did not come about.
const REPEAT_MS: u64 = 1_000;
/// The same for purges and markers, which nothing waits for.
const REPEAT_RARE_MS: u64 = 60_000;

/// What the core reads.
pub trait TimerReads {
    /// Timers with a key above `after`, due at or before `until_ms`, in order.
    fn timers(
        &self,
        after: Option<&TimerKey>,
        until_ms: i64,
        limit: usize,
    ) -> Result<Vec<TimerKey>, StorageError>;
    /// Replicated time.
    fn replicated_ms(&self) -> i64;
    /// What the leader might stamp; `None`: not now (rule 7).
    fn stamp_ms(&self) -> Option<i64>;
    /// Replicated time of the last marker, or of the founding if there was none; `None`: not founded.
    fn marked_ms(&self) -> Result<Option<i64>, StorageError>;
}

#[derive(Debug)]
pub enum Event {
    Role(Option<u64>),
    /// Set by applied commits.
    Set(Vec<TimerKey>),
    Fired(TimerKey, Answer),
    /// A time commit ended, well or not.
    TimeDone,
    /// A purge ended; true: it applied.
    PurgeDone(bool),
    /// A marker ended; true: it applied.
    MarkerDone(bool),
    QuarantineMoved,
    /// Something set may have been missed.
    Missed,
    Tick,
}

#[derive(Debug, PartialEq)]
pub enum Effect {
    Fire(TimerKey),
    /// Carry time alone.
    Time,
    Purge {
        before_ms: i64,
    },
    /// Let all members digest their rows (rule 15).
    Marker,
}

/// Bounds of [`Lateness`]: a timer fires within a tick when all is well; hours mean that nobody led.
pub const LATE_MS: [u64; 10] = [50, 100, 250, 500, 1_000, 5_000, 30_000, 300_000, 3_600_000, 86_400_000];

/// How late timers fired, by the leader's clock: a histogram with the bounds of [`LATE_MS`], the last place beyond
/// them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lateness {
    pub counts: [u64; LATE_MS.len() + 1],
    pub sum_ms: u64,
}

impl Lateness {
    fn count(&mut self, late_ms: i64) {
        let late_ms = u64::try_from(late_ms).unwrap_or(0);
        let place = LATE_MS.iter().position(|bound| late_ms <= *bound).unwrap_or(LATE_MS.len());
        self.counts[place] += 1;
        self.sum_ms = self.sum_ms.saturating_add(late_ms);
    }
}

/// Figures for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimerFigures {
    pub in_flight: usize,
    pub parked: usize,
    pub fired: u64,
    /// How long the oldest timer in flight is overdue, by the leader's clock.
    pub overdue_ms: i64,
    /// How late those were that fired.
    pub late: Lateness,
    pub time_commits: u64,
    pub purges: u64,
    pub markers: u64,
}

/// See the module.
pub struct Scanner {
    marker_every_ms: i64,
    leading: bool,
    cursor: Option<TimerKey>,
    in_flight: BTreeSet<TimerKey>,
    /// Of those in flight: a quarantine moved since, so that an answer that tells of one may be out of date.
    moved: BTreeSet<TimerKey>,
    /// Not before this monotonic time.
    retries: BTreeMap<TimerKey, u64>,
    parked: BTreeSet<TimerKey>,
    /// The walk has rows left that are due.
    more: bool,
    /// Due time of the first timer behind the last look, if one is known.
    next_due_ms: Option<i64>,
    time_asked_at: Option<u64>,
    purge_asked_at: Option<u64>,
    purged_ms: Option<i64>,
    marker_asked_at: Option<u64>,
    /// When the last marker was placed, as last read: another may have been placed by hand since.
    marked_ms: Option<i64>,
    figures: TimerFigures,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new(MARKER_EVERY_MS)
    }
}

impl Scanner {
    /// Places a marker whenever the last one is `marker_every_ms` of replicated time old.
    pub fn new(marker_every_ms: i64) -> Self {
        Self {
            marker_every_ms,
            leading: false,
            cursor: None,
            in_flight: BTreeSet::new(),
            moved: BTreeSet::new(),
            retries: BTreeMap::new(),
            parked: BTreeSet::new(),
            more: false,
            next_due_ms: None,
            time_asked_at: None,
            purge_asked_at: None,
            purged_ms: None,
            marker_asked_at: None,
            marked_ms: None,
            figures: TimerFigures::default(),
        }
    }

    pub fn figures(&self, reads: &dyn TimerReads) -> TimerFigures {
        let oldest =
            self.in_flight.first().into_iter().chain(self.retries.keys().next()).map(|key| key.due_ms).min();
        let overdue_ms = oldest.zip(reads.stamp_ms()).map_or(0, |(due, now)| (now - due).max(0));
        TimerFigures {
            in_flight: self.in_flight.len(),
            parked: self.parked.len(),
            overdue_ms,
            ..self.figures
        }
    }

    pub fn on(
        &mut self,
        event: Event,
        now: u64,
        reads: &dyn TimerReads,
        fx: &mut Vec<Effect>,
    ) -> Result<(), StorageError> {
        match event {
            Event::Role(term) => {
                let figures = self.figures;
                let begun = Self::new(self.marker_every_ms);
                *self = Self { leading: term.is_some(), more: true, figures, ..begun };
            }
            Event::Missed => self.start_over(),
            Event::QuarantineMoved => {
                self.moved.clone_from(&self.in_flight);
                if !self.parked.is_empty() {
                    self.start_over();
                }
            }
            Event::Set(keys) => {
                for key in keys {
                    self.inserted(&key);
                }
            }
            Event::Fired(key, answer) => {
                let late_ms = reads.stamp_ms().map(|stamp| stamp - key.due_ms);
                self.on_fired(key, &answer, now, late_ms);
            }
            Event::TimeDone => {
                self.figures.time_commits += 1;
                self.time_asked_at = None;
            }
            Event::PurgeDone(applied) => {
                if applied {
                    self.figures.purges += 1;
                    self.purged_ms = Some(reads.replicated_ms());
                    self.purge_asked_at = None;
                }
            }
            Event::MarkerDone(applied) => {
                if applied {
                    self.figures.markers += 1;
                    self.marker_asked_at = None;
                }
            }
            Event::Tick => {}
        }
        if !self.leading {
            return Ok(());
        }
        self.retry(now, fx);
        self.walk(reads, fx)?;
        self.keep_time(now, reads, fx);
        self.mark(now, reads, fx)
    }

    /// When [`Event::Tick`] is due.
    pub fn next_wake(&self, now: u64) -> Option<u64> {
        if !self.leading {
            return None;
        }
        let retry = self.retries.values().min().map(|at| (*at).max(now + 1));
        Some(retry.map_or(now + IDLE_MS, |at| at.min(now + IDLE_MS)))
    }

    /// Walks again from the first row. What is in flight stays so.
    fn start_over(&mut self) {
        self.cursor = None;
        self.parked.clear();
        self.retries.clear();
        self.more = true;
        self.next_due_ms = None;
    }

    fn inserted(&mut self, key: &TimerKey) {
        if !self.leading {
            return;
        }
        if self.cursor.as_ref().is_some_and(|cursor| key <= cursor) {
            // What lies between is in flight, parked or gone, and the first two are known, so that reading it
            // again fires nothing twice.
            self.cursor = predecessor(key);
            self.more = true;
        }
        self.next_due_ms = Some(self.next_due_ms.map_or(key.due_ms, |known| known.min(key.due_ms)));
    }

    fn on_fired(&mut self, key: TimerKey, answer: &Answer, now: u64, late_ms: Option<i64>) {
        if !self.in_flight.remove(&key) {
            return;
        }
        let moved = self.moved.remove(&key);
        match answer {
            Answer::Done { .. } => {
                self.figures.fired += 1;
                if let Some(late_ms) = late_ms {
                    self.figures.late.count(late_ms);
                }
            }
            Answer::Gone => {}
            // The end of the quarantine it tells of may have been heard of before.
            Answer::Quarantined(_) if moved => {
                self.retries.insert(key, now + RETRY_MS);
            }
            Answer::Quarantined(_) => {
                if self.parked.len() < PARKED_MAX {
                    self.parked.insert(key);
                }
            }
            Answer::NotApplied(cause) => {
                let pause = if *cause == Cause::EntityFailed { 5 * RETRY_MS } else { cause.retry_after_ms() };
                self.retries.insert(key, now + pause);
            }
            Answer::Unknown(_) | Answer::Refused(_) => {
                self.retries.insert(key, now + RETRY_MS);
            }
        }
    }

    fn retry(&mut self, now: u64, fx: &mut Vec<Effect>) {
        let due: Vec<TimerKey> = self
            .retries
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, _)| key.clone())
            .take(PAGE)
            .collect();
        for key in due {
            if self.in_flight.len() >= IN_FLIGHT_MAX {
                return;
            }
            self.retries.remove(&key);
            self.in_flight.insert(key.clone());
            fx.push(Effect::Fire(key));
        }
    }

    /// Fires what is due by replicated time, as far as there is room.
    fn walk(&mut self, reads: &dyn TimerReads, fx: &mut Vec<Effect>) -> Result<(), StorageError> {
        let replicated = reads.replicated_ms();
        loop {
            let room = IN_FLIGHT_MAX
                .saturating_sub(self.in_flight.len() + self.retries.len().min(IN_FLIGHT_MAX / 2));
            let due = self.more || self.next_due_ms.is_some_and(|due| due <= replicated);
            if room == 0 || !due {
                return Ok(());
            }
            let page = reads.timers(self.cursor.as_ref(), replicated, room.min(PAGE))?;
            let full = page.len() == room.min(PAGE);
            for key in page {
                self.cursor = Some(key.clone());
                if self.parked.contains(&key) || self.retries.contains_key(&key) {
                    continue;
                }
                if self.in_flight.insert(key.clone()) {
                    fx.push(Effect::Fire(key));
                }
            }
            self.more = full;
            if !full {
                let next = reads.timers(self.cursor.as_ref(), i64::MAX, 1)?;
                self.next_due_ms = next.first().map(|key| key.due_ms);
                return Ok(());
            }
        }
    }

    /// Time commits and purges.
    fn keep_time(&mut self, now: u64, reads: &dyn TimerReads, fx: &mut Vec<Effect>) {
        let Some(stamp) = reads.stamp_ms() else { return };
        let replicated = reads.replicated_ms();
        let due = self.next_due_ms.is_some_and(|due| replicated < due && due <= stamp);
        let old = stamp.saturating_sub(replicated) >= TIME_EVERY_MS;
        let asked = self.time_asked_at.is_some_and(|at| now < at + REPEAT_MS);
        if (due || old) && !asked {
            self.time_asked_at = Some(now);
            fx.push(Effect::Time);
        }
        let last = self.purged_ms.is_some_and(|at| replicated - at < PURGE_EVERY_MS);
        let asked = self.purge_asked_at.is_some_and(|at| now < at + REPEAT_RARE_MS);
        if !last && !asked && replicated > REQUEST_ROWS_MS {
            self.purge_asked_at = Some(now);
            fx.push(Effect::Purge { before_ms: replicated - REQUEST_ROWS_MS });
        }
    }

    /// Places a marker when the last one is old enough. What stands in the rows decides, so that neither a change of
    /// leadership nor a restart moves the schedule.
    fn mark(&mut self, now: u64, reads: &dyn TimerReads, fx: &mut Vec<Effect>) -> Result<(), StorageError> {
        if self.marker_asked_at.is_some_and(|at| now < at + REPEAT_RARE_MS) {
            return Ok(());
        }
        let replicated = reads.replicated_ms();
        let every = self.marker_every_ms;
        let due = |marked: i64| replicated.saturating_sub(marked) >= every;
        if self.marked_ms.is_none_or(due) {
            self.marked_ms = reads.marked_ms()?;
            if self.marked_ms.is_some_and(due) {
                self.marker_asked_at = Some(now);
                fx.push(Effect::Marker);
            }
        }
        Ok(())
    }
}

/// A cursor just before `key`: the due time before it, or the start.
fn predecessor(key: &TimerKey) -> Option<TimerKey> {
    // Rows of the same due time that sort before are read again and skipped if known.
    let due_ms = key.due_ms.checked_sub(1)?;
    Some(TimerKey {
        due_ms,
        entity: key.entity.clone(),
        name: "\u{10ffff}".into(),
        generation: okno_storage::commit::CommitId { term: u64::MAX, counter: u64::MAX },
    })
}
