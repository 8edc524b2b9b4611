//! ReadIndex in batches: everything that asks while a round is under way shares the next one (rule 16).
//!
//! Invariants
//! - A request joins only a round whose context is made after it came in; contexts {node, boot, counter} are never
//!   reused.
//! - A shard's question is answered with success only by the leader of one uninterrupted term.
//! - raft drops a ReadIndex without a word before it has committed in its term or without a leader (trap 6): such
//!   requests wait, and a round not answered in time is asked again under a new context.

use super::{
    driver::Driver,
    event::{Effects, ReadId, ReadRequest},
};
use crate::{
    api::{NodeId, ReadError},
    settings::READ_ROUNDS_MAX,
};
use std::collections::VecDeque;

#[derive(Debug)]
struct Round {
    context: [u8; 24],
    asked_at_ms: u64,
    requests: Vec<ReadRequest>,
}

#[derive(Debug)]
pub struct Reads {
    node: NodeId,
    boot: u64,
    counter: u64,
    waiting: Vec<ReadRequest>,
    rounds: VecDeque<Round>,
}

impl Reads {
    pub(super) fn new(node: NodeId, boot: u64) -> Self {
        Self { node, boot, counter: 0, waiting: Vec::new(), rounds: VecDeque::new() }
    }

    fn context(&mut self) -> [u8; 24] {
        self.counter += 1;
        let mut context = [0; 24];
        context[..8].copy_from_slice(&self.node.to_be_bytes());
        context[8..16].copy_from_slice(&self.boot.to_be_bytes());
        context[16..].copy_from_slice(&self.counter.to_be_bytes());
        context
    }

    /// Raft forgot the rounds under way: their requests wait for a new one.
    pub(super) fn restart(&mut self) {
        for round in self.rounds.drain(..) {
            self.waiting.extend(round.requests);
        }
    }

    /// Takes out the open requests that `gone` names.
    fn take_if(&mut self, gone: impl Fn(&ReadRequest) -> bool) -> Vec<ReadRequest> {
        let mut out = Vec::new();
        let rounds = self.rounds.iter_mut().map(|r| &mut r.requests);
        for requests in rounds.chain(std::iter::once(&mut self.waiting)) {
            requests.retain(|r| {
                let gone = gone(r);
                if gone {
                    out.push(*r);
                }
                !gone
            });
        }
        out
    }
}

impl Driver {
    pub(super) fn read(&mut self, request: ReadRequest, fx: &mut Effects) {
        if matches!(request.id, ReadId::Shard { .. }) && self.leading.is_none() {
            fx.reads_failed.push((request, ReadError::NotLeader));
        } else {
            self.reads.waiting.push(request);
        }
    }

    /// Begins a round for what waits, if raft would answer one.
    pub(super) fn ask_reads(&mut self, fx: &mut Effects) {
        if self.reads.waiting.is_empty() || self.reads.rounds.len() >= READ_ROUNDS_MAX {
            return;
        }
        let heard = match self.leading {
            Some(_) => self.node.raft.commit_to_current_term(),
            None => self.leader().is_some(),
        };
        if !heard {
            return;
        }
        let context = self.reads.context();
        let requests = std::mem::take(&mut self.reads.waiting);
        self.reads.rounds.push_back(Round { context, asked_at_ms: self.now_ms, requests });
        self.node.read_index(context.to_vec());
        self.after_raft(fx);
    }

    pub(super) fn read_confirmed(&mut self, context: &[u8], index: u64, fx: &mut Effects) {
        if let Some(at) = self.reads.rounds.iter().position(|r| r.context == context)
            && let Some(round) = self.reads.rounds.remove(at)
            && !round.requests.is_empty()
        {
            fx.reads.push((index, round.requests));
        }
    }

    pub(super) fn expire_reads(&mut self, fx: &mut Effects) {
        let now = self.now_ms;
        let late = self.reads.take_if(|r| r.deadline_ms <= now);
        fx.reads_failed.extend(late.into_iter().map(|r| (r, ReadError::TimedOut)));
        let patience = self.read_round_ms();
        while let Some(round) = self.reads.rounds.pop_front_if(|r| now >= r.asked_at_ms + patience) {
            self.reads.waiting.extend(round.requests);
        }
    }

    pub(super) fn fail_shard_reads(&mut self, fx: &mut Effects) {
        let gone = self.reads.take_if(|r| matches!(r.id, ReadId::Shard { .. }));
        fx.reads_failed.extend(gone.into_iter().map(|r| (r, ReadError::NotLeader)));
    }

    pub(super) fn close_reads(&mut self, fx: &mut Effects) {
        let gone = self.reads.take_if(|_| true);
        fx.reads_failed.extend(gone.into_iter().map(|r| (r, ReadError::Closed)));
    }
}
