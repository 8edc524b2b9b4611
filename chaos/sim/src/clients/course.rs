//! One call over its attempts, as `okno-client` makes it: which node next, when, and what the call has come to.
//!
//! Invariants (rule 1): every attempt carries the same request id and a higher attempt number; once an attempt ended
//! unknown, "not applied" is reported as unknown; the deadline bounds everything, pauses included.

use super::random::Random;
use crate::port::NodeId;
use okno_checks::history::Outcome;
use okno_domain::{entity::RefusalClass, registry::AnyCommand};
use okno_runtime::call::{CallResult, Cause};
use uuid::Uuid;

/// As in `okno-client`.
const BACKOFF_FIRST_US: u64 = 25_000;
const BACKOFF_LONGEST_US: u64 = 400_000;
const RETRY_AFTER_MAX_US: u64 = 2_000_000;
const DOWN_FOR_US: u64 = 1_000_000;
const ATTEMPTS_MAX: u32 = 200;
/// Cause of an unknown outcome that no retry clears up (rule 6).
pub const REQUEST_ID_EXPIRED: &str = "REQUEST_ID_EXPIRED";

/// Which nodes a client knows and which it turns to.
#[derive(Debug, Clone)]
pub struct Endpoints {
    nodes: Vec<NodeId>,
    /// Until when one is passed over.
    down_until: Vec<u64>,
    current: usize,
    leader: Option<NodeId>,
}

impl Endpoints {
    pub fn new(nodes: &[NodeId], start: usize) -> Self {
        Self {
            nodes: nodes.to_vec(),
            down_until: vec![0; nodes.len()],
            current: start % nodes.len(),
            leader: None,
        }
    }

    pub fn node(&self, index: usize) -> NodeId {
        self.nodes[index]
    }

    pub fn pick(&self, now: u64) -> usize {
        let count = self.nodes.len();
        (0..count)
            .map(|step| (self.current + step) % count)
            .find(|index| !self.is_down(*index, now))
            .unwrap_or(self.current)
    }

    pub fn learn_leader(&mut self, leader: Option<NodeId>) {
        self.leader = leader.or(self.leader);
    }

    fn is_down(&self, index: usize, now: u64) -> bool {
        self.down_until[index] > now
    }

    fn mark_down(&mut self, index: usize, now: u64) {
        self.down_until[index] = now + DOWN_FOR_US;
        self.leave(index);
    }

    fn leave(&mut self, index: usize) {
        if self.current == index {
            self.current = (index + 1) % self.nodes.len();
        }
    }

    fn leader_index(&self) -> Option<usize> {
        let leader = self.leader?;
        self.nodes.iter().position(|node| *node == leader)
    }
}

/// What is asked.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "one a client")]
pub enum Ask {
    Command { command: AnyCommand, request: Uuid, hash: [u8; 32] },
    Read,
}

/// How one attempt ended.
#[derive(Debug)]
pub enum Ended {
    Answered(CallResult),
    /// A read that failed: it had no effect.
    ReadFailed,
    /// Nobody listened.
    Unreachable,
    /// The connection broke, or nothing came in time.
    Silence,
}

/// What to do after an attempt.
#[derive(Debug, PartialEq)]
pub enum Next {
    Over(Outcome),
    AgainAt(u64),
}

#[derive(Debug)]
pub struct Course {
    /// Place of the operation in the history.
    pub operation: usize,
    pub ask: Ask,
    pub first_attempt: u32,
    pub attempts: u32,
    /// Attempts that ended unknown: they raise the number of the next one.
    unknown: u32,
    /// It counts every attempt instead, as a program without our library may.
    counts_all: bool,
    pub deadline: u64,
    pub attempt_timeout: u64,
    /// Endpoint of the attempt under way.
    pub endpoint: usize,
    /// Its outcome is in doubt: an attempt of this call, or an earlier call with the same id, ended unknown.
    doubt: Option<String>,
    last: Option<Outcome>,
    pause: u64,
    unreachable_in_a_row: usize,
    followed_hint: bool,
}

impl Course {
    pub fn new(operation: usize, ask: Ask, first_attempt: u32, deadline: u64, attempt_timeout: u64) -> Self {
        Self {
            operation,
            ask,
            first_attempt,
            attempts: 0,
            unknown: 0,
            counts_all: false,
            deadline,
            attempt_timeout,
            endpoint: 0,
            doubt: (first_attempt > 1).then(|| "EARLIER_CALL".to_owned()),
            last: None,
            pause: BACKOFF_FIRST_US,
            unreachable_in_a_row: 0,
            followed_hint: false,
        }
    }

    /// The same call of a program that counts every attempt.
    pub fn counting_all(mut self, counts_all: bool) -> Self {
        self.counts_all = counts_all;
        self
    }

    /// Begins an attempt; its number.
    pub fn attempt(&mut self, endpoint: usize) -> u32 {
        self.endpoint = endpoint;
        let before = if self.counts_all { self.attempts } else { self.unknown };
        self.attempts += 1;
        self.first_attempt + before
    }

    /// Takes in how the attempt under way ended.
    pub fn settle(&mut self, ended: Ended, now: u64, endpoints: &mut Endpoints, random: &mut Random) -> Next {
        let index = self.endpoint;
        let mut retry_after = 0;
        let mut over = false;
        let unreachable = matches!(ended, Ended::Unreachable);
        let outcome = match ended {
            Ended::Unreachable => {
                endpoints.mark_down(index, now);
                Outcome::NotApplied("UNREACHABLE".into())
            }
            Ended::Silence => {
                endpoints.mark_down(index, now);
                match self.ask {
                    Ask::Read => Outcome::NotApplied("NO_ANSWER".into()),
                    Ask::Command { .. } => Outcome::Unknown("NO_ANSWER".into()),
                }
            }
            Ended::ReadFailed => {
                endpoints.leave(index);
                Outcome::NotApplied("READ_FAILED".into())
            }
            Ended::Answered(CallResult::NotApplied { reason, retry_after_ms }) => {
                // Overload is the cluster's; anything else another node may know better.
                if !Cause::code_is_exhaustion(&reason) {
                    endpoints.leave(index);
                }
                retry_after = (retry_after_ms * 1_000).min(RETRY_AFTER_MAX_US);
                Outcome::NotApplied(reason)
            }
            Ended::Answered(CallResult::Unknown { reason }) => {
                endpoints.leave(index);
                over = reason == REQUEST_ID_EXPIRED;
                Outcome::Unknown(reason)
            }
            Ended::Answered(CallResult::Refused(refusal)) => {
                over = true;
                // A denial may come before the request's memory is looked up: it settles no doubt.
                let settles = refusal.class != RefusalClass::PermissionDenied;
                if self.doubt.is_some() && !settles {
                    Outcome::Unknown(refusal.reason)
                } else {
                    self.doubt = None;
                    Outcome::Refused(refusal.reason)
                }
            }
            Ended::Answered(done @ CallResult::Done { .. }) => {
                return Next::Over(super::translate::outcome(done));
            }
        };
        self.unreachable_in_a_row = if unreachable { self.unreachable_in_a_row + 1 } else { 0 };
        if let Outcome::Unknown(reason) = &outcome {
            self.doubt.get_or_insert_with(|| reason.clone());
            self.unknown += 1;
        }
        self.last = Some(outcome);
        if over || self.attempts >= ATTEMPTS_MAX {
            return self.end();
        }
        let leader = endpoints.leader_index();
        if let Some(leader) = leader
            && !self.followed_hint
            && leader != index
            && !endpoints.is_down(leader, now)
        {
            endpoints.current = leader;
            self.followed_hint = true;
            return if now < self.deadline { Next::AgainAt(now) } else { self.end() };
        }
        let others_left = self.unreachable_in_a_row > 0 && self.unreachable_in_a_row < endpoints.nodes.len();
        if others_left {
            return if now < self.deadline { Next::AgainAt(now) } else { self.end() };
        }
        let jitter = random.below(self.pause);
        let pause = (self.pause + jitter).max(retry_after);
        self.pause = (self.pause * 2).min(BACKOFF_LONGEST_US);
        if now.saturating_add(pause) >= self.deadline { self.end() } else { Next::AgainAt(now + pause) }
    }

    fn end(&mut self) -> Next {
        let last = self.last.take().unwrap_or_else(|| Outcome::NotApplied("DEADLINE_EXCEEDED".into()));
        Next::Over(match (last, self.doubt.take()) {
            (Outcome::NotApplied(_), Some(doubt)) => Outcome::Unknown(doubt),
            (last, _) => last,
        })
    }
}
