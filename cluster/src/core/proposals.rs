//! Proposals on their way into the log: lanes, batches, and parking while leadership is handed over.
//!
//! Invariants
//! - A lane's proposals enter the log in order and without gaps: after one that was refused, all later ones of
//!   the lane are refused too (rule 3).
//! - Lanes are remembered from their first proposal in this term until they are closed. Forgetting them when the term
//!   ends is safe: a later activation waits until an entry of its own, later term has applied, and then every
//!   entry of an earlier term that will ever apply has.
//! - Every proposal ends in exactly one of `Effects::proposed` and `Effects::answers`.

use super::{
    driver::Driver,
    event::{Answer, Effects, Waiter},
};
use crate::{
    api::{Lane, NotApplied, Proposal, ProposalOutcome, Unknown},
    settings::APPEND_BYTES_MAX,
};
use okno_storage::planted::{self, Mutant};
use raft::eraftpb::Entry;
use std::collections::BTreeMap;

/// What is known of a lane in this term.
#[derive(Debug, Default)]
struct LaneState {
    /// Number of its last proposal that was admitted.
    seq: u64,
    /// Index of its last proposal that was appended.
    last_index: u64,
    /// One of its proposals was refused: nothing of it is admitted any more.
    broken: bool,
}

#[derive(Debug, Default)]
pub struct Proposals {
    lanes: BTreeMap<Lane, LaneState>,
    /// Admitted, to be appended at the end of the turn or, while leadership is handed over, later.
    queued: Vec<Proposal>,
    /// Lanes to be closed once what stands before in the turn is appended.
    pub(super) closing: Vec<Lane>,
}

impl Proposals {
    pub(super) fn begin_term(&mut self) {
        self.lanes.clear();
    }
    /// Lanes open in this term.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }
}

impl Driver {
    pub(super) fn propose(&mut self, proposals: Vec<Proposal>, fx: &mut Effects) {
        for proposal in proposals {
            match self.admit(&proposal) {
                Ok(()) => self.proposals.queued.push(proposal),
                Err(why) => refuse(&proposal, why, fx),
            }
        }
    }

    fn admit(&mut self, p: &Proposal) -> Result<(), NotApplied> {
        let not_leader = NotApplied::NotLeader { leader: self.leader().filter(|l| *l != self.id) };
        let (term, _) = self.leading.ok_or(not_leader)?;
        if p.term != term {
            return Err(not_leader);
        }
        let refused = if self.intake_stopped {
            Some(NotApplied::Closed)
        } else if self.backlogged() {
            Some(NotApplied::Overloaded)
        } else if p.data.is_empty() {
            // An entry without data is a new leader's first; nobody decides one.
            Some(NotApplied::Closed)
        } else {
            None
        };
        if p.seq != 1 && !self.proposals.lanes.contains_key(&p.lane) {
            return Err(NotApplied::LaneClosed);
        }
        let lane = self.proposals.lanes.entry(p.lane).or_default();
        if lane.broken || p.seq != lane.seq + 1 {
            lane.broken = true;
            return Err(NotApplied::LaneClosed);
        }
        if let Some(why) = refused {
            lane.broken = true;
            return Err(why);
        }
        lane.seq = p.seq;
        Ok(())
    }

    /// Appends what was admitted: one proposal to raft, one append, for all of it up to a message's size.
    pub(super) fn flush(&mut self, fx: &mut Effects) {
        if self.proposals.queued.is_empty() || self.transferring() {
            return;
        }
        let queued = std::mem::take(&mut self.proposals.queued);
        let mut batch: Vec<Waiter> = Vec::with_capacity(queued.len());
        let mut entries: Vec<Entry> = Vec::with_capacity(queued.len());
        let mut size = 0;
        for p in queued {
            let bytes = p.data.len();
            if size + bytes > APPEND_BYTES_MAX as usize && !entries.is_empty() {
                self.append_batch(std::mem::take(&mut batch), std::mem::take(&mut entries), fx);
                size = 0;
            }
            size += bytes;
            batch.push(Waiter { index: 0, term: p.term, lane: p.lane, seq: p.seq, bytes });
            entries.push(Entry { data: p.data.into(), ..Entry::default() });
        }
        self.append_batch(batch, entries, fx);
        self.after_raft(fx);
    }

    fn append_batch(&mut self, batch: Vec<Waiter>, entries: Vec<Entry>, fx: &mut Effects) {
        match self.append(entries) {
            Ok(first) => {
                for (mut waiter, index) in batch.into_iter().zip(first..) {
                    waiter.index = index;
                    if let Some(lane) = self.proposals.lanes.get_mut(&waiter.lane) {
                        lane.last_index = index;
                    }
                    if planted::is(Mutant::AnswerBeforeCommit) {
                        let outcome = ProposalOutcome::Applied { index };
                        fx.answers.push(Answer::new(waiter.lane, waiter.seq, waiter.bytes, outcome));
                        continue;
                    }
                    fx.proposed.push(waiter);
                }
            }
            Err(_) => {
                let why = NotApplied::NotLeader { leader: self.leader().filter(|l| *l != self.id) };
                for w in batch {
                    self.break_lane(w.lane);
                    fx.answers.push(Answer::new(w.lane, w.seq, w.bytes, ProposalOutcome::NotApplied(why)));
                }
            }
        }
    }

    fn break_lane(&mut self, lane: Lane) {
        if let Some(state) = self.proposals.lanes.get_mut(&lane) {
            state.broken = true;
        }
    }

    /// Answers the lanes closed in this turn. What of them is still parked never enters the log.
    pub(super) fn close_lanes(&mut self, fx: &mut Effects) {
        for lane in std::mem::take(&mut self.proposals.closing) {
            if !self.proposals.queued.is_empty() {
                let queued = std::mem::take(&mut self.proposals.queued);
                let (gone, kept): (Vec<_>, Vec<_>) = queued.into_iter().partition(|p| p.lane == lane);
                self.proposals.queued = kept;
                for p in gone {
                    refuse(&p, NotApplied::LaneClosed, fx);
                }
            }
            let last_index = self.proposals.lanes.remove(&lane).map_or(0, |l| l.last_index);
            fx.closed_lanes.push((lane, last_index));
        }
    }

    /// What was parked for too long.
    pub(super) fn refuse_parked(&mut self, fx: &mut Effects) {
        for p in std::mem::take(&mut self.proposals.queued) {
            self.break_lane(p.lane);
            refuse(&p, NotApplied::Transferring, fx);
        }
    }

    /// Leadership ended: what is queued never entered the log; what of this turn's entries is not yet known to be
    /// committed is as unknown as what was proposed before.
    pub(super) fn drop_queued(&mut self, fx: &mut Effects) {
        let why = NotApplied::NotLeader { leader: self.leader().filter(|l| *l != self.id) };
        for p in std::mem::take(&mut self.proposals.queued) {
            refuse(&p, why, fx);
        }
        let committed = self.node.raft.raft_log.committed;
        fx.proposed.retain(|w| {
            let keep = w.index <= committed;
            if !keep {
                let outcome = ProposalOutcome::Unknown(Unknown::LeadershipLost);
                fx.answers.push(Answer::new(w.lane, w.seq, w.bytes, outcome));
            }
            keep
        });
    }

    pub(super) fn close_proposals(&mut self, fx: &mut Effects) {
        let queued = std::mem::take(&mut self.proposals.queued);
        self.refuse_closed(queued, fx);
    }

    pub(super) fn refuse_closed(&mut self, proposals: Vec<Proposal>, fx: &mut Effects) {
        for p in proposals {
            refuse(&p, NotApplied::Closed, fx);
        }
    }
}

fn refuse(p: &Proposal, why: NotApplied, fx: &mut Effects) {
    fx.answers.push(Answer::new(p.lane, p.seq, p.data.len(), ProposalOutcome::NotApplied(why)));
}
