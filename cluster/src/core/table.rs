//! Who waits for which index: proposals and reads. Shared by the raft and apply threads under one lock.
//!
//! Invariants
//! - Waiters are in ascending order of index; each is answered exactly once (rule 1).
//! - A read at an index is answered once `applied` has reached it.
//! - After `close`, nothing is added: what comes is answered at once.

use super::event::{Answer, ReadId, ReadRequest, Waiter};
use crate::api::{NotApplied, ProposalOutcome, ReadError, Unknown};
use okno_storage::{commit::Outcome, state::AppliedSlice};
use std::collections::{BTreeMap, VecDeque};

/// Answers to be delivered after the lock is released.
#[derive(Debug, Default)]
pub struct Answers {
    pub settled: Vec<Answer>,
    pub reads: Vec<(ReadRequest, Result<u64, ReadError>)>,
}

#[derive(Debug)]
pub struct Table {
    applied: u64,
    waiters: VecDeque<Waiter>,
    reads: BTreeMap<u64, Vec<ReadRequest>>,
    closed: Option<Unknown>,
}

impl Table {
    pub fn new(applied: u64) -> Self {
        Self { applied, waiters: VecDeque::new(), reads: BTreeMap::new(), closed: None }
    }

    pub fn applied(&self) -> u64 {
        self.applied
    }

    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Registers proposals that now stand in the log.
    pub fn propose(&mut self, waiters: Vec<Waiter>, out: &mut Answers) {
        if let Some(why) = self.closed {
            out.settled.extend(waiters.into_iter().map(|w| unknown(w, why)));
            return;
        }
        debug_assert!(
            self.waiters.back().zip(waiters.first()).is_none_or(|(last, first)| last.index < first.index),
            "waiters in order of index"
        );
        self.waiters.extend(waiters);
    }

    /// Leadership ended with `committed` known: what waits beyond may or may not come to be.
    pub fn lose(&mut self, committed: u64, out: &mut Answers) {
        let keep = self.waiters.partition_point(|w| w.index <= committed);
        out.settled.extend(self.waiters.drain(keep..).map(|w| unknown(w, Unknown::LeadershipLost)));
    }

    /// Answers what a slice settles.
    pub fn settle(&mut self, slice: &AppliedSlice, out: &mut Answers) {
        self.applied = slice.last;
        for entry in &slice.entries {
            // A waiter whose entry was passed over cannot be: slices are contiguous.
            debug_assert!(self.waiters.front().is_none_or(|w| w.index >= entry.index));
            let Some(w) = self.waiters.pop_front_if(|w| w.index == entry.index) else { continue };
            let outcome = if w.term == entry.term {
                outcome_of(entry.index, &entry.outcome)
            } else {
                ProposalOutcome::NotApplied(NotApplied::Replaced)
            };
            out.settled.push(Answer::new(w.lane, w.seq, w.bytes, outcome));
        }
        self.answer_reads(out);
    }

    /// A copy at `index` took the place of the slices up to it: what waited for one of them will not be told by it.
    pub fn jump(&mut self, index: u64, out: &mut Answers) {
        self.applied = self.applied.max(index);
        let passed = self.waiters.partition_point(|w| w.index <= index);
        out.settled.extend(self.waiters.drain(..passed).map(|w| unknown(w, Unknown::LeadershipLost)));
        self.answer_reads(out);
    }

    fn answer_reads(&mut self, out: &mut Answers) {
        while let Some(first) = self.reads.first_entry() {
            if *first.key() > self.applied {
                break;
            }
            let (index, requests) = first.remove_entry();
            out.reads.extend(requests.into_iter().map(|r| (r, Ok(index))));
        }
    }

    /// Reads confirmed at `index`.
    pub fn confirm(&mut self, index: u64, requests: Vec<ReadRequest>, out: &mut Answers) {
        if self.closed.is_some() {
            out.reads.extend(requests.into_iter().map(|r| (r, Err(ReadError::Closed))));
        } else if index <= self.applied {
            out.reads.extend(requests.into_iter().map(|r| (r, Ok(index))));
        } else {
            self.reads.entry(index).or_default().extend(requests);
        }
    }

    /// Takes back a read waiting at `index`; false if it is not there (any more).
    pub fn cancel(&mut self, index: u64, id: ReadId) -> bool {
        let Some(requests) = self.reads.get_mut(&index) else { return false };
        let Some(at) = requests.iter().position(|r| r.id == id) else { return false };
        requests.swap_remove(at);
        if requests.is_empty() {
            self.reads.remove(&index);
        }
        true
    }

    /// The node is closed: everything that waits is answered, and whatever comes later.
    pub fn close(&mut self, why: Unknown, out: &mut Answers) {
        self.closed.get_or_insert(why);
        out.settled.extend(self.waiters.drain(..).map(|w| unknown(w, why)));
        for (_, requests) in std::mem::take(&mut self.reads) {
            out.reads.extend(requests.into_iter().map(|r| (r, Err(ReadError::Closed))));
        }
    }
}

fn unknown(w: Waiter, why: Unknown) -> Answer {
    Answer::new(w.lane, w.seq, w.bytes, ProposalOutcome::Unknown(why))
}

fn outcome_of(index: u64, outcome: &Outcome) -> ProposalOutcome {
    match outcome {
        Outcome::Applied => ProposalOutcome::Applied { index },
        Outcome::Duplicate(reply) => ProposalOutcome::Duplicate { index, reply: reply.clone() },
        Outcome::Fenced(reason) => ProposalOutcome::Fenced { index, reason: *reason },
        // Only an entry without data comes to this, and the driver admits none.
        Outcome::NoCommit => ProposalOutcome::NotApplied(NotApplied::Replaced),
    }
}
