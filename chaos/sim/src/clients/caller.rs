//! One program that calls the cluster — a kiosk, a workstation, a connector: one call at a time, over its attempts as
//! [`Course`] has it. What it asks for is its owner's affair.

use super::{
    course::{Ask, Course, Ended, Endpoints, Next},
    random::Random,
};
use crate::port::{Action, AttemptId, CommandRequest, Event, NodeId};
use okno_checks::history::Outcome;
use okno_domain::{
    entity::{EntityRef, Principal},
    registry::{AnyCommand, AnyReply},
};
use okno_runtime::call::CallResult;
use uuid::Uuid;

/// How long a program tries, and how long it waits for one answer.
const DEADLINE_US: u64 = 6_000_000;
const ATTEMPT_US: (u64, u64) = (500_000, 2_000_000);

/// A call, as it can be made again.
#[derive(Debug, Clone)]
pub struct Asked {
    pub principal: Principal,
    pub target: EntityRef,
    pub command: AnyCommand,
    pub request: Uuid,
    /// Attempts that were made with this id.
    pub attempts: u32,
}

impl Asked {
    pub fn new(principal: Principal, target: EntityRef, command: AnyCommand, request: Uuid) -> Self {
        Self { principal, target, command, request, attempts: 0 }
    }
}

/// How a call ended.
#[derive(Debug)]
pub enum Ending {
    Done { reply: AnyReply, index: u64 },
    Refused(String),
    NotApplied,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Free,
    /// An attempt is under way; nobody waits for it longer than until then.
    Wait {
        attempt: AttemptId,
        until: u64,
    },
    /// Between two attempts.
    Pause {
        until: u64,
    },
}

pub struct Caller {
    pub random: Random,
    endpoints: Endpoints,
    call: Option<(Asked, Course)>,
    doing: Doing,
    next_attempt: AttemptId,
    attempt_us: u64,
}

impl Caller {
    pub fn new(seed: u64, stream: u64, nodes: &[NodeId]) -> Self {
        let mut random = Random::new(seed, stream);
        let start = random.index(nodes.len());
        let attempt_us = random.within(ATTEMPT_US.0, ATTEMPT_US.1);
        Self {
            random,
            endpoints: Endpoints::new(nodes, start),
            call: None,
            doing: Doing::Free,
            next_attempt: 1,
            attempt_us,
        }
    }

    pub const fn is_free(&self) -> bool {
        matches!(self.doing, Doing::Free)
    }

    /// A new request's id.
    pub fn request(&mut self, wall_ms: i64) -> Uuid {
        let millis = u64::try_from(wall_ms).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &self.random.bytes()).into_uuid()
    }

    /// The node it would turn to now.
    pub fn node(&self, now: u64) -> NodeId {
        self.endpoints.node(self.endpoints.pick(now))
    }

    /// Begins a call. The caller is free.
    pub fn call(&mut self, asked: Asked, now: u64, out: &mut Vec<Action>) {
        let ask = Ask::Command {
            command: asked.command.clone(),
            request: asked.request,
            hash: hash(asked.request),
        };
        let course = Course::new(0, ask, asked.attempts + 1, now + DEADLINE_US, self.attempt_us);
        self.call = Some((asked, course));
        self.attempt(now, out);
    }

    /// The program is gone, and what it had under way with it.
    pub fn die(&mut self) {
        self.call = None;
        self.doing = Doing::Free;
    }

    fn attempt(&mut self, now: u64, out: &mut Vec<Action>) {
        let attempt = self.next_attempt;
        let Some((asked, course)) = &mut self.call else { return };
        self.next_attempt += 1;
        let endpoint = self.endpoints.pick(now);
        let number = course.attempt(endpoint);
        asked.attempts = number;
        let node = self.endpoints.node(endpoint);
        let until = course.deadline.min(now + course.attempt_timeout).max(now + 1);
        self.doing = Doing::Wait { attempt, until };
        let request = Box::new(CommandRequest {
            principal: asked.principal.clone(),
            workstation: String::new(),
            request_id: asked.request,
            attempt_number: number,
            hash: hash(asked.request),
            target: asked.target.clone(),
            command: asked.command.clone(),
            timeout_ms: (until - now).div_ceil(1_000),
        });
        out.push(Action::Command { attempt, node, request });
        out.push(Action::Wake { at_us: until });
    }

    /// What an event makes of the call under way; `Some`: it has ended.
    pub fn on(&mut self, event: Event, now: u64, out: &mut Vec<Action>) -> Option<(Asked, Ending)> {
        let ended = match (event, self.doing) {
            (Event::Awake, Doing::Pause { until }) if now >= until => {
                self.attempt(now, out);
                return None;
            }
            (Event::Awake, Doing::Wait { until, .. }) if now >= until => Ended::Silence,
            (Event::Answer { attempt, result, leader_hint }, doing) => {
                self.endpoints.learn_leader(leader_hint);
                match doing {
                    Doing::Wait { attempt: current, .. } if current == attempt => Ended::Answered(result),
                    _ => return None,
                }
            }
            (Event::Broken { attempt, sent }, Doing::Wait { attempt: current, .. }) if current == attempt => {
                if sent {
                    Ended::Silence
                } else {
                    Ended::Unreachable
                }
            }
            _ => return None,
        };
        let (_, course) = self.call.as_mut()?;
        let ending = match ended {
            Ended::Answered(CallResult::Done { reply, index }) => Ending::Done { reply, index },
            other => match course.settle(other, now, &mut self.endpoints, &mut self.random) {
                Next::AgainAt(at) if at <= now => {
                    self.attempt(now, out);
                    return None;
                }
                Next::AgainAt(at) => {
                    self.doing = Doing::Pause { until: at };
                    out.push(Action::Wake { at_us: at });
                    return None;
                }
                Next::Over(Outcome::Refused(reason)) => Ending::Refused(reason),
                Next::Over(Outcome::NotApplied(_)) => Ending::NotApplied,
                Next::Over(Outcome::Unknown(_) | Outcome::Done { .. }) => Ending::Unknown,
            },
        };
        self.doing = Doing::Free;
        let (asked, _) = self.call.take()?;
        Some((asked, ending))
    }
}

/// One content a request.
fn hash(request: Uuid) -> [u8; 32] {
    super::hash_of(request)
}
