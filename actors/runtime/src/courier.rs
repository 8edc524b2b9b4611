//! The courier's core: carries outbox messages to their targets (rule 4). Pure; the task around it is
//! [`crate::shell::courier`].
//!
//! On leadership it walks the outbox once, then follows what applies. Each message is in flight at most once a
//! term, first in first out per (source, target). The row is the backlog: per pair at most [`PAIR_MAX`] messages
//! stand in memory, further ones are read when these are gone.
//!
//! Invariants:
//! - Of a pair only the oldest message is in flight.
//! - A pair whose `more` is set holds a prefix of its rows; otherwise it holds all of them.
//! - A message is forgotten only when it has left the outbox (applied, gone, buried) or leadership ended.
//! - A pair is parked only on an answer to what was sent after the last quarantine that moved: the end of the one that
//!   parks it is still to come.

use crate::{
    call::{Answer, Cause},
    depth::Depths,
};
use okno_storage::{
    commit::{CommitId, EntityKey, Message, MessageKey},
    error::StorageError,
    planted::{self, Mutant},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// Messages of one pair in memory: enough that reading the next ones is rare.
pub const PAIR_MAX: usize = 64;
/// Messages under way at once: they fill the raft thread's batches without crowding out callers.
pub const IN_FLIGHT_MAX: usize = 256;
/// Failed deliveries before a message is moved to the dead letters.
pub const FAILURES_MAX: u32 = 8;
/// Rows read from the outbox at a time.
pub const PAGE: usize = 256;
/// Messages that apply while the outbox is walked; beyond, it is walked once more.
const STASH_MAX: usize = 16_384;
/// Pauses after a failed or deferred delivery, milliseconds.
const RETRY_MIN_MS: u64 = 100;
const RETRY_MAX_MS: u64 = 30_000;
/// Pause before deliveries that had no leader are tried again; leadership's end usually clears them first.
const DEFERRED_MS: u64 = 50;

/// What the core reads.
pub trait OutboxReads {
    /// Messages with a key above `after`, in key order.
    fn outbox(&self, after: Option<&MessageKey>, limit: usize) -> Result<Vec<Message>, StorageError>;
}

#[derive(Debug)]
pub enum Event {
    /// Actors may run here now, in this term; or no longer.
    Role(Option<u64>),
    /// Put into the outbox by applied commits, in order.
    Sent(Vec<Message>),
    /// What came of a delivery.
    Delivered(MessageKey, Answer),
    /// What came of a burial.
    Buried(MessageKey, Answer),
    /// A quarantine began or ended somewhere.
    QuarantineMoved,
    /// Something sent may have been missed: walk the outbox again.
    Missed,
    Tick,
}

#[derive(Debug, PartialEq)]
pub enum Effect {
    Deliver(Message),
    Bury { key: MessageKey, reason: String },
}

type PairKey = (EntityKey, EntityKey);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// Its oldest message may go at this time.
    Ready {
        at: u64,
    },
    InFlight,
    Burying,
    /// The target is quarantined.
    Parked,
}

#[derive(Debug)]
struct Pair {
    waiting: VecDeque<Message>,
    /// Rows beyond the last of `waiting` stand in the outbox.
    more: bool,
    head: Head,
    /// A quarantine moved since the message in flight was sent: an answer that tells of one may be out of date.
    moved: bool,
    failures: u32,
    /// The largest key taken in. Keys of a pair grow in the order they apply, so that what is met twice — by the
    /// walk or a later reading of rows, and by the stream of what applies — is known by it.
    last: MessageKey,
}

/// Counters for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CourierFigures {
    pub pairs: usize,
    pub in_flight: usize,
    pub parked: usize,
    pub delivered: u64,
    pub failed: u64,
    pub buried: u64,
}

/// See the module.
pub struct Courier {
    depths: Arc<Depths>,
    leading: bool,
    /// Where the walk of the outbox stands; `None`: finished.
    walk: Option<Option<MessageKey>>,
    pairs: BTreeMap<PairKey, Pair>,
    /// Under way, over all walks of this term.
    in_flight: BTreeSet<MessageKey>,
    /// Left the outbox while it was walked.
    left: BTreeSet<MessageKey>,
    /// Applied while the outbox was walked: taken in after the walk.
    stash: Vec<Message>,
    /// The stash ran over.
    again: bool,
    figures: CourierFigures,
}

impl Courier {
    pub fn new(depths: Arc<Depths>) -> Self {
        Self {
            depths,
            leading: false,
            walk: None,
            pairs: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            left: BTreeSet::new(),
            stash: Vec::new(),
            again: false,
            figures: CourierFigures::default(),
        }
    }

    pub fn figures(&self) -> CourierFigures {
        CourierFigures {
            pairs: self.pairs.len(),
            in_flight: self.in_flight.len(),
            parked: self.pairs.values().filter(|pair| pair.head == Head::Parked).count(),
            ..self.figures
        }
    }

    pub fn on(
        &mut self,
        event: Event,
        now: u64,
        reads: &dyn OutboxReads,
        fx: &mut Vec<Effect>,
    ) -> Result<(), StorageError> {
        match event {
            Event::Role(term) => {
                self.leading = term.is_some();
                self.in_flight.clear();
                self.begin_walk();
                if !self.leading {
                    self.walk = None;
                }
            }
            Event::Missed => self.begin_walk(),
            Event::Sent(messages) => {
                if self.leading && self.walk.is_some() {
                    self.stash.extend(messages);
                    if self.stash.len() > STASH_MAX {
                        self.stash.clear();
                        self.again = true;
                    }
                } else if self.leading {
                    for message in messages {
                        self.insert(message, now);
                    }
                }
            }
            Event::Delivered(key, answer) => self.on_delivered(&key, answer, now, fx),
            Event::Buried(key, answer) => self.on_buried(&key, &answer, now),
            Event::QuarantineMoved => {
                for pair in self.pairs.values_mut() {
                    match pair.head {
                        Head::Parked => pair.head = Head::Ready { at: now },
                        Head::InFlight => pair.moved = true,
                        Head::Ready { .. } | Head::Burying => {}
                    }
                }
            }
            Event::Tick => {}
        }
        if !self.leading {
            return Ok(());
        }
        self.walk_on(now, reads)?;
        self.refill(now, reads)?;
        self.send(now, fx);
        Ok(())
    }

    /// When [`Event::Tick`] is due; `None`: only an event changes anything.
    pub fn next_wake(&self, now: u64) -> Option<u64> {
        if !self.leading {
            return None;
        }
        if self.walk.is_some() {
            return Some(now);
        }
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            // Nothing may go before one of them is answered, and that is an event.
            return None;
        }
        let ready = self.pairs.values().filter_map(|pair| match pair.head {
            Head::Ready { at } => Some(at),
            Head::InFlight | Head::Burying | Head::Parked => None,
        });
        ready.min().map(|at| at.max(now + 1))
    }

    fn begin_walk(&mut self) {
        self.pairs.clear();
        self.depths.clear();
        self.left.clear();
        self.stash.clear();
        self.again = false;
        self.walk = Some(None);
    }

    /// One page of the walk.
    fn walk_on(&mut self, now: u64, reads: &dyn OutboxReads) -> Result<(), StorageError> {
        let Some(after) = self.walk.take() else { return Ok(()) };
        let page = reads.outbox(after.as_ref(), PAGE)?;
        let full = page.len() == PAGE;
        let last = page.last().map(|message| message.key.clone());
        for message in page {
            self.insert(message, now);
        }
        match last {
            Some(last) if full => self.walk = Some(Some(last)),
            _ if self.again => self.begin_walk(),
            _ => {
                for message in std::mem::take(&mut self.stash) {
                    self.insert(message, now);
                }
                self.left.clear();
            }
        }
        Ok(())
    }

    /// Takes a message into its pair, once.
    fn insert(&mut self, message: Message, now: u64) {
        if self.left.contains(&message.key) {
            return;
        }
        let pair_key = (message.key.source.clone(), message.key.target.clone());
        let pair = self.pairs.entry(pair_key).or_insert_with(|| Pair {
            waiting: VecDeque::new(),
            more: false,
            head: Head::Ready { at: now },
            moved: false,
            failures: 0,
            last: MessageKey { commit: CommitId::NONE, place: 0, ..message.key.clone() },
        });
        if message.key <= pair.last {
            return;
        }
        pair.last = message.key.clone();
        self.depths.add(&message);
        if self.in_flight.contains(&message.key) {
            pair.head = Head::InFlight;
            // Sent before this walk: what moved since then was not counted.
            pair.moved = true;
        }
        if pair.more || pair.waiting.len() >= PAIR_MAX {
            pair.more = true;
        } else {
            pair.waiting.push_back(message);
        }
    }

    fn on_delivered(&mut self, key: &MessageKey, answer: Answer, now: u64, fx: &mut Vec<Effect>) {
        self.in_flight.remove(key);
        if !self.leading {
            return;
        }
        let pair_key = (key.source.clone(), key.target.clone());
        let (retry_at, counted) = match &answer {
            Answer::Done { .. } | Answer::Gone => {
                self.figures.delivered += 1;
                return self.forget(key, now);
            }
            Answer::Quarantined(_) => {
                if let Some(pair) = self.pairs.get_mut(&pair_key) {
                    pair.head = if pair.moved { Head::Ready { at: now + DEFERRED_MS } } else { Head::Parked };
                }
                return;
            }
            Answer::NotApplied(Cause::EntityFailed) | Answer::Refused(_) => (None, true),
            Answer::NotApplied(Cause::NoLeader | Cause::Closed) | Answer::Unknown(_) => {
                (Some(now + DEFERRED_MS), false)
            }
            Answer::NotApplied(cause) => (Some(now + cause.retry_after_ms()), false),
        };
        let Some(pair) = self.pairs.get_mut(&pair_key) else { return };
        if pair.waiting.front().is_none_or(|head| head.key != *key) {
            return;
        }
        if counted {
            self.figures.failed += 1;
            pair.failures += 1;
            if pair.failures >= FAILURES_MAX {
                pair.head = Head::Burying;
                let last = match answer {
                    Answer::Refused(refusal) => refusal.reason,
                    _ => Cause::EntityFailed.code().to_owned(),
                };
                let reason = format!("{FAILURES_MAX} deliveries failed, the last: {last}");
                fx.push(Effect::Bury { key: key.clone(), reason });
                return;
            }
        }
        let pause = RETRY_MIN_MS << pair.failures.min(16);
        pair.head = Head::Ready { at: retry_at.unwrap_or(now + pause.min(RETRY_MAX_MS)) };
    }

    fn on_buried(&mut self, key: &MessageKey, answer: &Answer, now: u64) {
        if matches!(answer, Answer::Done { .. } | Answer::Gone) {
            self.figures.buried += 1;
            return self.forget(key, now);
        }
        // The next failed delivery tries again.
        if let Some(pair) = self.pairs.get_mut(&(key.source.clone(), key.target.clone())) {
            pair.failures = FAILURES_MAX - 1;
            pair.head = Head::Ready { at: now + RETRY_MAX_MS };
        }
    }

    /// The message has left the outbox.
    fn forget(&mut self, key: &MessageKey, now: u64) {
        if self.walk.is_some() {
            self.left.insert(key.clone());
        }
        let pair_key = (key.source.clone(), key.target.clone());
        let Some(pair) = self.pairs.get_mut(&pair_key) else { return };
        let Ok(at) = pair.waiting.binary_search_by(|known| known.key.cmp(key)) else { return };
        if let Some(message) = pair.waiting.remove(at) {
            self.depths.remove(&message);
        }
        pair.failures = 0;
        pair.head = Head::Ready { at: now };
        if pair.waiting.is_empty() && !pair.more {
            self.pairs.remove(&pair_key);
        }
    }

    /// Reads the next messages of pairs that have run dry.
    fn refill(&mut self, now: u64, reads: &dyn OutboxReads) -> Result<(), StorageError> {
        if self.walk.is_some() {
            return Ok(());
        }
        let dry: Vec<PairKey> = self
            .pairs
            .iter()
            .filter(|(_, pair)| pair.more && pair.waiting.is_empty())
            .map(|(key, _)| key.clone())
            .collect();
        for (source, target) in dry {
            let before_all = MessageKey {
                target: target.clone(),
                source: source.clone(),
                commit: CommitId::NONE,
                place: 0,
            };
            let mut page = reads.outbox(Some(&before_all), PAIR_MAX + 1)?;
            page.retain(|message| message.key.source == source && message.key.target == target);
            let Some(pair) = self.pairs.get_mut(&(source.clone(), target.clone())) else { continue };
            pair.more = page.len() > PAIR_MAX;
            page.truncate(PAIR_MAX);
            // The rows may be ahead of the stream: what it has not told yet is counted here, and known when it does.
            for message in page.iter().filter(|message| message.key > pair.last) {
                self.depths.add(message);
            }
            if let Some(newest) = page.last() {
                pair.last = pair.last.clone().max(newest.key.clone());
            }
            pair.waiting = page.into();
            pair.head = Head::Ready { at: now };
            if pair.waiting.is_empty() {
                self.pairs.remove(&(source, target));
            }
        }
        Ok(())
    }

    fn send(&mut self, now: u64, fx: &mut Vec<Effect>) {
        if self.walk.is_some() {
            // The oldest of a pair is known only when the walk is over.
            return;
        }
        for pair in self.pairs.values_mut() {
            if self.in_flight.len() >= IN_FLIGHT_MAX {
                return;
            }
            let Head::Ready { at } = pair.head else { continue };
            let Some(message) = pair.waiting.front().filter(|_| at <= now) else { continue };
            pair.head = Head::InFlight;
            pair.moved = false;
            self.in_flight.insert(message.key.clone());
            fx.push(Effect::Deliver(message.clone()));
            if planted::is(Mutant::DeliverTwice) {
                fx.push(Effect::Deliver(message.clone()));
            }
        }
    }
}
