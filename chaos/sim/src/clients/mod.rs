//! Simulated clients: officers who open cases, add documents and take steps, and who hand out, call and finish
//! tickets; several at once, on the same few entities. They retry as `okno-client` does, and sometimes do what only
//! bad luck or bad clients do: ask again what succeeded, give up and come back, use an id twice.
//!
//! - [`workload`]: what they ask for · [`course`]: one call over its attempts · [`translate`]: words
//! - [`desks`]: what those do who race for one office's visitors
//! - [`fixtures`]: the region they work in · [`places`]: its halls and channels
//! - [`hall`]: kiosks, windows and workstations of a hall · [`exchange`]: those who ask channels, and connectors, both
//!   made of [`caller`]s · [`crowd`]: all of a run together
//!
//! Everything follows from the seed and from what the world answers. What they saw becomes a
//! [`okno_checks::history::History`].
//!
//! Invariants:
//! - a client has one call under way at most; every call stands in the history from its first attempt on;
//! - an attempt's number is never used again; an answer to a given-up attempt is kept as evidence and decides nothing.

pub mod caller;
pub mod course;
pub mod crowd;
pub mod desks;
pub mod exchange;
pub mod fixtures;
pub mod hall;
pub mod places;
pub mod random;
pub mod translate;
pub mod workload;

use crate::port::{Action, AttemptId, Clients, CommandRequest, Event, NodeId, Query};
use course::{Ask, Course, Ended, Endpoints, Next, REQUEST_ID_EXPIRED};
use okno_checks::history::{
    Call, Entity as Subject, Final, History, Late, Operation, Outcome, Reply, RequestId, Seen,
};
use random::Random;
use std::collections::{BTreeMap, VecDeque};
use uuid::Uuid;
use workload::{Beliefs, Wish, Workload};

/// Requests a client remembers for asking again.
const REMEMBERED_MAX: usize = 24;
/// A call given up almost at once: within this.
const IMPATIENCE_US: u64 = 8_000;
/// How long a call that must come to an end tries: longer than any run.
const PATIENT_US: u64 = u64::MAX / 2;

/// A request that was made, for asking again.
#[derive(Debug, Clone)]
struct Asked {
    operation: usize,
    ask: Ask,
    /// Attempts made with this id, over all calls.
    attempts: u32,
}

#[derive(Debug)]
enum Doing {
    /// Nothing until then.
    Rest { until: u64 },
    /// An attempt is under way; nobody waits for it longer than until then.
    Wait { attempt: AttemptId, until: u64 },
    /// Between two attempts.
    Pause { until: u64 },
    /// Nothing more to do.
    Over,
}

#[derive(Debug)]
struct Client {
    doing: Doing,
    course: Option<Course>,
    endpoints: Endpoints,
    random: Random,
    /// Requests that succeeded or were refused.
    settled: VecDeque<Asked>,
    /// Requests whose outcome is unknown.
    open: VecDeque<Asked>,
    /// Entities this client still reads before it ends; `None`: it is not ending.
    last_reads: Option<VecDeque<Subject>>,
}

/// All clients of a run; see the module.
pub struct Population {
    workload: Workload,
    clients: Vec<Client>,
    beliefs: Beliefs,
    operations: Vec<Operation>,
    /// Attempts given up whose answer may still come, and their operation.
    given_up: BTreeMap<AttemptId, usize>,
    next_attempt: AttemptId,
    /// The last moment given to an operation's begin or end: each is later than the one before, as it happened.
    moment: u64,
    winding_down: bool,
}

impl Population {
    pub fn new(seed: u64, nodes: &[NodeId], workload: Workload) -> Self {
        Self::with(seed, nodes, workload, 0, Beliefs::new())
    }

    /// Those who race for the visitors of one office; `stream`: their randomness.
    pub fn of_desks(seed: u64, nodes: &[NodeId], stream: u64) -> Self {
        Self::with(seed, nodes, desks::workload(seed, stream), stream + 1, Beliefs::of_desks())
    }

    fn with(seed: u64, nodes: &[NodeId], workload: Workload, stream: u64, beliefs: Beliefs) -> Self {
        let clients = (0..workload.clients)
            .map(|client| {
                let mut random = Random::new(seed, stream + client as u64);
                Client {
                    doing: Doing::Rest { until: 0 },
                    course: None,
                    endpoints: Endpoints::new(nodes, random.index(nodes.len())),
                    random,
                    settled: VecDeque::new(),
                    open: VecDeque::new(),
                    last_reads: None,
                }
            })
            .collect();
        Self {
            workload,
            clients,
            beliefs,
            operations: Vec::new(),
            given_up: BTreeMap::new(),
            next_attempt: 1,
            moment: 0,
            winding_down: false,
        }
    }

    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Everything the clients saw. `clocks`, `fastest`: see [`fixtures::setting`]; `finals`: what the nodes' stores hold in
    /// the end, by [`translate::final_of`].
    pub fn history(self, clocks: &[(u64, i64)], fastest: &[(u64, i64)], finals: Vec<Final>) -> History {
        History { setting: fixtures::setting(clocks, fastest), operations: self.operations, finals }
    }

    fn moment(&mut self, now: u64) -> u64 {
        self.moment = now.max(self.moment + 1);
        self.moment
    }

    /// The client is free: what does it do next?
    fn begin(&mut self, client: usize, now: u64, wall_ms: i64, out: &mut Vec<Action>) {
        let Some((subject, call, ask, first_attempt)) = self.next_call(client, wall_ms) else {
            self.clients[client].doing = Doing::Over;
            return;
        };
        let ending = self.clients[client].last_reads.is_some();
        let impatient = !ending && self.clients[client].random.percent(self.workload.impatient);
        let deadline = match (ending, impatient) {
            (true, _) => now.saturating_add(PATIENT_US),
            (false, true) => now + 1 + self.clients[client].random.below(IMPATIENCE_US),
            (false, false) => now + self.workload.deadline_us,
        };
        let request = match &ask {
            Ask::Command { request, .. } => Some(RequestId(request.as_u128())),
            Ask::Read => None,
        };
        let begun = self.moment(now);
        self.operations.push(Operation {
            client: u32::try_from(client).unwrap_or(u32::MAX),
            entity: subject,
            request,
            call,
            begun,
            ended: None,
            first_attempt,
            attempts: 0,
            outcome: Outcome::Unknown("UNDER_WAY".into()),
            late: Vec::new(),
        });
        let operation = self.operations.len() - 1;
        let timeout = self.workload.attempt_timeout_us;
        let course = Course::new(operation, ask, first_attempt, deadline, timeout);
        // Both kinds of programs call: ours, and those that raise the number each time.
        self.clients[client].course = Some(course.counting_all(client % 2 == 1));
        self.attempt(client, now, out);
    }

    /// What to call, as what, and from which attempt number on. `None`: this client is done.
    fn next_call(&mut self, client: usize, wall_ms: i64) -> Option<(Subject, Call, Ask, u32)> {
        if self.winding_down {
            return self.last_call(client);
        }
        let Self { clients, workload, .. } = self;
        let Client { random, settled, open, .. } = &mut clients[client];
        if random.percent(workload.replays) {
            let from = if open.is_empty() || random.percent(30) { &mut *settled } else { &mut *open };
            let place = random.index(from.len());
            if let Some(asked) = from.remove(place) {
                return Some(self.again(asked));
            }
        }
        if random.percent(workload.wrong) {
            let used = settled
                .iter()
                .find(|asked| matches!(self.operations[asked.operation].outcome, Outcome::Done { .. }));
            let (subject, call, request) = match used {
                Some(Asked { operation, ask: Ask::Command { request, .. }, .. }) if random.percent(60) => {
                    (self.operations[*operation].entity.clone(), Call::ReuseRequest, *request)
                }
                _ => {
                    let subject = self.beliefs.subjects().next()?;
                    (
                        subject,
                        Call::MalformedRequest,
                        uuid::Builder::from_random_bytes(random.bytes()).into_uuid(),
                    )
                }
            };
            // Queues take no documents: the entity is a case whatever it is called.
            let subject = match subject {
                Subject::Case(id) => Subject::Case(id),
                Subject::Queue(office) => Subject::Case(office),
            };
            let command = translate::command(&call)?;
            let hash = random.bytes();
            return Some((subject, call, Ask::Command { command, request, hash }, 1));
        }
        let millis = u64::try_from(wall_ms).unwrap_or(0);
        let request = uuid::Builder::from_unix_timestamp_millis(millis, &random.bytes()).into_uuid();
        let (subject, call) = match self.beliefs.wish(workload, client, random) {
            Wish::Of(subject, call) => (subject, call),
            Wish::Open(call) => {
                let id = okno_domain::ids::case_id(&fixtures::officer(client), request);
                // Others may come to it before it is there.
                if random.percent(25) {
                    self.beliefs.heard_of(&id);
                }
                (Subject::Case(id), call)
            }
        };
        let ask = match translate::command(&call) {
            Some(command) => Ask::Command { command, request, hash: hash_of(request) },
            None => Ask::Read,
        };
        Some((subject, call, ask, 1))
    }

    /// The same request once more, with the next attempt number.
    fn again(&self, asked: Asked) -> (Subject, Call, Ask, u32) {
        let operation = &self.operations[asked.operation];
        (operation.entity.clone(), operation.call.clone(), asked.ask, asked.attempts + 1)
    }

    /// In the end every client finds out what became of most of its open requests, then reads its share of all
    /// entities.
    fn last_call(&mut self, client: usize) -> Option<(Subject, Call, Ask, u32)> {
        while let Some(asked) = self.clients[client].open.pop_front() {
            // Some stay open for ever.
            if self.clients[client].random.percent(70) {
                return Some(self.again(asked));
            }
        }
        let clients = self.clients.len();
        if self.clients[client].last_reads.is_none() {
            let share = self.beliefs.subjects().enumerate();
            let share =
                share.filter(|(place, _)| place % clients == client).map(|(_, subject)| subject).collect();
            self.clients[client].last_reads = Some(share);
        }
        let subject = self.clients[client].last_reads.as_mut()?.pop_front()?;
        let call = match &subject {
            Subject::Case(_) => Call::ReadCase,
            Subject::Queue(_) => Call::ReadQueue,
        };
        Some((subject, call, Ask::Read, 1))
    }

    fn attempt(&mut self, client: usize, now: u64, out: &mut Vec<Action>) {
        let attempt = self.next_attempt;
        let Client { course, endpoints, doing, .. } = &mut self.clients[client];
        let Some(course) = course else { return };
        self.next_attempt += 1;
        let endpoint = endpoints.pick(now);
        let number = course.attempt(endpoint);
        let node = endpoints.node(endpoint);
        let until = course.deadline.min(now + course.attempt_timeout).max(now + 1);
        *doing = Doing::Wait { attempt, until };
        let operation = &self.operations[course.operation];
        out.push(match &course.ask {
            Ask::Command { command, request, hash } => Action::Command {
                attempt,
                node,
                request: Box::new(CommandRequest {
                    principal: fixtures::officer(client),
                    workstation: String::new(),
                    request_id: *request,
                    attempt_number: number,
                    hash: *hash,
                    target: translate::target(&operation.entity),
                    command: command.clone(),
                    timeout_ms: (until - now).div_ceil(1_000),
                }),
            },
            Ask::Read => {
                let query: Box<dyn Query> = Box::new(translate::ReadEntity(operation.entity.clone()));
                Action::Read { attempt, node, query }
            }
        });
        out.push(Action::Wake { at_us: until });
    }

    /// The attempt under way has ended.
    fn ended(&mut self, client: usize, ended: Ended, now: u64, out: &mut Vec<Action>) {
        let Client { course, endpoints, random, .. } = &mut self.clients[client];
        let Some(under_way) = course else { return };
        match under_way.settle(ended, now, endpoints, random) {
            Next::AgainAt(at) if at <= now => self.attempt(client, now, out),
            Next::AgainAt(at) => {
                self.clients[client].doing = Doing::Pause { until: at };
                out.push(Action::Wake { at_us: at });
            }
            Next::Over(outcome) => {
                if let Some(course) = self.clients[client].course.take() {
                    self.over(client, course, outcome, now);
                }
                self.rest(client, now, out);
            }
        }
    }

    fn over(&mut self, client: usize, course: Course, outcome: Outcome, now: u64) {
        let ended = self.moment(now);
        let operation = &mut self.operations[course.operation];
        operation.ended = Some(ended);
        operation.attempts = course.attempts;
        operation.outcome = outcome;
        self.beliefs.learn(operation);
        let Ask::Command { .. } = course.ask else { return };
        if matches!(operation.call, Call::ReuseRequest | Call::MalformedRequest) {
            return;
        }
        let attempts = course.first_attempt + course.attempts - 1;
        let asked = Asked { operation: course.operation, ask: course.ask, attempts };
        let Client { settled, open, .. } = &mut self.clients[client];
        let list = match &operation.outcome {
            Outcome::Done { .. } | Outcome::Refused(_) => settled,
            Outcome::Unknown(reason) if reason != REQUEST_ID_EXPIRED => open,
            Outcome::Unknown(_) | Outcome::NotApplied(_) => return,
        };
        if list.len() >= REMEMBERED_MAX {
            list.pop_front();
        }
        list.push_back(asked);
    }

    fn rest(&mut self, client: usize, now: u64, out: &mut Vec<Action>) {
        let (from, to) = if self.winding_down { (0, 1_000) } else { self.workload.think_us };
        let until = now + 1 + self.clients[client].random.within(from, to);
        self.clients[client].doing = Doing::Rest { until };
        out.push(Action::Wake { at_us: until });
    }

    /// A read's answer, or a command's, came to its attempt.
    fn answered(&mut self, client: usize, attempt: AttemptId, ended: Ended, now: u64, out: &mut Vec<Action>) {
        match self.clients[client].doing {
            Doing::Wait { attempt: current, .. } if current == attempt => self.ended(client, ended, now, out),
            _ => {
                if let (Some(operation), Ended::Answered(result)) = (self.given_up.remove(&attempt), ended) {
                    let at = self.moment(now);
                    let late = Late { at, outcome: translate::outcome(result) };
                    self.operations[operation].late.push(late);
                }
            }
        }
    }

    fn read_seen(&mut self, client: usize, seen: Seen, now: u64, out: &mut Vec<Action>) {
        let index = match &seen {
            Seen::Absent => 0,
            Seen::Case(case) => case.index,
            Seen::Queue(queue) => queue.index,
        };
        let outcome = Outcome::Done { reply: Reply::Read(seen), index };
        if let Some(course) = self.clients[client].course.take() {
            self.over(client, course, outcome, now);
        }
        self.rest(client, now, out);
    }
}

impl Clients for Population {
    fn count(&self) -> usize {
        self.clients.len()
    }

    fn on(&mut self, client: usize, event: Event, now_us: u64, wall_ms: i64, out: &mut Vec<Action>) {
        match event {
            Event::Awake => match self.clients[client].doing {
                Doing::Rest { until } if now_us >= until => self.begin(client, now_us, wall_ms, out),
                Doing::Pause { until } if now_us >= until => self.attempt(client, now_us, out),
                Doing::Wait { attempt, until } if now_us >= until => {
                    if let Some(course) = &self.clients[client].course {
                        self.given_up.insert(attempt, course.operation);
                    }
                    self.ended(client, Ended::Silence, now_us, out);
                }
                // A wake that was asked for before something else came.
                Doing::Rest { .. } | Doing::Pause { .. } | Doing::Wait { .. } | Doing::Over => {}
            },
            Event::Answer { attempt, result, leader_hint } => {
                self.clients[client].endpoints.learn_leader(leader_hint);
                self.answered(client, attempt, Ended::Answered(result), now_us, out);
            }
            Event::Seen { attempt, result: Ok(seen) } => {
                if matches!(self.clients[client].doing, Doing::Wait { attempt: current, .. } if current == attempt)
                {
                    self.read_seen(client, seen, now_us, out);
                }
            }
            Event::Seen { attempt, result: Err(_) } => {
                self.answered(client, attempt, Ended::ReadFailed, now_us, out)
            }
            Event::Broken { attempt, sent } => {
                let ended = if sent { Ended::Silence } else { Ended::Unreachable };
                self.answered(client, attempt, ended, now_us, out);
            }
        }
    }

    fn wind_down(&mut self) {
        self.winding_down = true;
    }

    fn idle(&self) -> bool {
        self.winding_down && self.clients.iter().all(|client| matches!(client.doing, Doing::Over))
    }
}

/// Stands for the hash over method and body: as different as the requests are.
fn hash_of(request: Uuid) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..16].copy_from_slice(request.as_bytes());
    hash
}
