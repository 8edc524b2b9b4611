//! A desk without a cluster: the domain's entities in memory, one decision after the other, requests remembered.

use okno_checks::history::{Entity as Subject, Final, History, Seen};
use okno_domain::{
    case::Case,
    catalogue::Catalogue,
    directory::Directory,
    entity::{
        Context, Decision, Entity, EntityRef, EventMeta, Kind, Origin, Principal, Refusal, Send, TimerChange,
    },
    message::Message,
    queue::Queue,
    registry::{AnyCommand, AnyReply, Registered},
};
use okno_runtime::call::CallResult;
use okno_sim::{
    clients::{Population, fixtures, random::Random, translate, workload::Workload},
    port::{Action, Clients, CommandRequest, Event, ReadFailed},
};
use std::collections::{BTreeMap, VecDeque};
use uuid::Uuid;

/// Virtual time after which clients begin nothing new.
const BUSY_US: u64 = 2_000_000;
/// Events of one run: far more than any needs.
const EVENTS_MAX: usize = 200_000;

/// What the desk does wrong, when it is asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    ForgetsRequests,
    LosesAcknowledged,
    ReadsOld,
    RefusesFromTheFuture,
    NotAppliedTakesEffect,
    LosesMessages,
    CallsOneTicketTwice,
}

#[derive(Debug, Clone, Default)]
struct Entities {
    cases: BTreeMap<String, (Case, u64)>,
    queues: BTreeMap<String, (Queue, u64)>,
}

pub struct Desk {
    catalogue: Catalogue,
    directory: Directory,
    now: Entities,
    /// As it was some time ago.
    old: Entities,
    index: u64,
    remembered: BTreeMap<(String, Uuid), ([u8; 32], CallResult)>,
    timers: BTreeMap<(EntityRef, String), i64>,
    outbox: VecDeque<(EntityRef, Send)>,
    random: Random,
    fault: Option<Fault>,
    /// When the clocks jump, and how far.
    jump: Option<(u64, i64)>,
    decided: u64,
}

enum Due {
    Client(usize, Event),
    Arrives(usize, u64, Box<CommandRequest>),
    Reads(usize, u64, Subject),
}

impl Desk {
    /// Lets a run's clients work here and returns what they saw.
    pub fn run(seed: u64, fault: Option<Fault>) -> History {
        let (catalogue, directory) = fixtures::world();
        let mut random = Random::new(seed, 1_000);
        let jump = random.percent(30).then(|| {
            let hours = i64::try_from(random.within(20, 100)).expect("a small number");
            (random.within(BUSY_US / 4, BUSY_US), hours * 3_600_000)
        });
        let mut desk = Self {
            catalogue,
            directory,
            now: Entities::default(),
            old: Entities::default(),
            index: 10,
            remembered: BTreeMap::new(),
            timers: BTreeMap::new(),
            outbox: VecDeque::new(),
            random,
            fault,
            jump,
            decided: 0,
        };
        let mut clients = Population::new(seed, &[1, 2, 3], Workload::draw(seed));
        let mut due: BTreeMap<(u64, u64), Due> = BTreeMap::new();
        let mut nth = 0;
        for client in 0..clients.count() {
            due.insert((client as u64, nth), Due::Client(client, Event::Awake));
            nth += 1;
        }
        let mut actions = Vec::new();
        for _ in 0..EVENTS_MAX {
            let Some(((at, _), event)) = due.pop_first() else { break };
            if at > BUSY_US {
                clients.wind_down();
                if clients.idle() {
                    break;
                }
            }
            let wall_ms = desk.wall_ms(at);
            desk.fire(wall_ms);
            let client = match event {
                Due::Client(client, event) => {
                    clients.on(client, event, at, wall_ms, &mut actions);
                    client
                }
                Due::Arrives(client, attempt, request) => {
                    let result = desk.answer(&request, wall_ms);
                    if !desk.random.percent(5) {
                        let event = Event::Answer { attempt, result, leader_hint: Some(1) };
                        due.insert((at + desk.delay(), nth), Due::Client(client, event));
                    }
                    nth += 1;
                    continue;
                }
                Due::Reads(client, attempt, subject) => {
                    let lies = desk.fault == Some(Fault::ReadsOld) && desk.random.percent(30);
                    let from = if lies { &desk.old } else { &desk.now };
                    let result =
                        if desk.random.percent(5) { Err(ReadFailed) } else { Ok(from.seen(&subject)) };
                    let event = Event::Seen { attempt, result };
                    due.insert((at + desk.delay(), nth), Due::Client(client, event));
                    nth += 1;
                    continue;
                }
            };
            for action in actions.drain(..) {
                nth += 1;
                match action {
                    Action::Wake { at_us } => {
                        due.insert((at_us, nth), Due::Client(client, Event::Awake));
                    }
                    Action::Command { attempt, node: _, request } => {
                        if desk.random.percent(3) {
                            let event = Event::Broken { attempt, sent: desk.random.percent(50) };
                            due.insert((at + desk.delay(), nth), Due::Client(client, event));
                        } else if !desk.random.percent(4) {
                            due.insert((at + desk.delay(), nth), Due::Arrives(client, attempt, request));
                        }
                    }
                    Action::Read { attempt, .. } => {
                        let asked = clients.operations().iter().rev();
                        let subject = asked
                            .filter(|operation| operation.client as usize == client)
                            .map(|operation| operation.entity.clone())
                            .next()
                            .expect("a read is an operation");
                        due.insert((at + desk.delay(), nth), Due::Reads(client, attempt, subject));
                    }
                    Action::Tell { .. } | Action::Pass { .. } => unreachable!("officers do neither"),
                }
            }
        }
        assert!(clients.idle(), "seed {seed}: clients never came to an end");
        let mut clocks = vec![(0, fixtures::START_MS)];
        clocks.extend(desk.jump.map(|(at, _)| (at, desk.wall_ms(at))));
        let finals = desk.finals();
        clients.history(&clocks, &clocks, finals)
    }

    fn wall_ms(&self, at: u64) -> i64 {
        let jumped = self.jump.filter(|(from, _)| at >= *from).map_or(0, |(_, by)| by);
        fixtures::START_MS + i64::try_from(at / 1_000).expect("a run is short") + jumped
    }

    fn delay(&mut self) -> u64 {
        // Now and then far beyond what a client waits.
        if self.random.percent(2) { self.random.within(1, 10_000_000) } else { self.random.within(1, 20_000) }
    }

    fn finals(&self) -> Vec<Final> {
        let cases = self.now.cases.keys().filter_map(|id| match self.now.seen(&Subject::Case(id.clone())) {
            Seen::Case(case) => Some((id.clone(), case)),
            _ => None,
        });
        let queues =
            self.now.queues.keys().filter_map(|id| match self.now.seen(&Subject::Queue(id.clone())) {
                Seen::Queue(queue) => Some((id.clone(), queue)),
                _ => None,
            });
        vec![Final { node: 1, cases: cases.collect(), queues: queues.collect() }]
    }

    fn is(&mut self, fault: Fault, percent: u64) -> bool {
        self.fault == Some(fault) && self.random.percent(percent)
    }

    fn answer(&mut self, request: &CommandRequest, now_ms: i64) -> CallResult {
        if request.request_id.get_version_num() != 7 {
            return CallResult::Refused(refusal("REQUEST_ID_MALFORMED"));
        }
        let overloaded = || CallResult::NotApplied { reason: "OVERLOADED".into(), retry_after_ms: 10 };
        let key = (request.principal.id.clone(), request.request_id);
        if let Some((hash, result)) = self.remembered.get(&key).cloned()
            && !self.is(Fault::ForgetsRequests, 50)
        {
            return if hash == request.hash {
                result
            } else {
                CallResult::Refused(refusal("REQUEST_ID_REUSED"))
            };
        }
        if self.random.percent(3) {
            return if self.fault == Some(Fault::NotAppliedTakesEffect) {
                self.decide(request, now_ms);
                overloaded()
            } else {
                overloaded()
            };
        }
        self.decided += 1;
        if self.decided.is_multiple_of(20) {
            self.old = self.now.clone();
        }
        if self.is(Fault::RefusesFromTheFuture, 20) {
            // Decided on a state that does not come to be: as if somebody had withdrawn the case.
            let known = self.now.cases.get(&request.target.id).is_some_and(|(case, _)| case.exists());
            if known
                && matches!(request.command, AnyCommand::Case(okno_domain::case::Command::AddDocument { .. }))
            {
                return CallResult::Refused(refusal("CASE_CLOSED"));
            }
        }
        let before = self.now.clone();
        let result = self.decide(request, now_ms);
        if self.is(Fault::LosesAcknowledged, 10)
            || (self.is(Fault::CallsOneTicketTwice, 50)
                && matches!(request.command, AnyCommand::Queue(okno_domain::queue::Command::CallNext { .. })))
        {
            self.now = before;
        }
        let remember = match &result {
            CallResult::Done { .. } => true,
            CallResult::Refused(_) => request.attempt_number > 1,
            _ => false,
        };
        if remember {
            self.remembered.insert(key, (request.hash, result.clone()));
        }
        self.deliver(now_ms);
        result
    }

    fn decide(&mut self, request: &CommandRequest, now_ms: i64) -> CallResult {
        let this = &request.target;
        let origin =
            Origin { principal: request.principal.clone(), workstation: request.workstation.clone() };
        let decided = match request.command.clone() {
            AnyCommand::Case(command) if this.kind == Kind::Case => {
                let state = self.now.case(&this.id);
                self.command(&state, &command, this, &origin, request.request_id, now_ms)
                    .map(|decision| self.commit(&state, this, decision, &origin, now_ms))
            }
            AnyCommand::Queue(command) if this.kind == Kind::Queue => {
                let state = self.now.queue(&this.id);
                self.command(&state, &command, this, &origin, request.request_id, now_ms)
                    .map(|decision| self.commit(&state, this, decision, &origin, now_ms))
            }
            _ => Err(refusal("COMMAND_KIND_MISMATCH")),
        };
        match decided {
            Ok(reply) => CallResult::Done { reply, index: self.index },
            Err(refusal) => CallResult::Refused(refusal),
        }
    }

    fn command<E: Entity>(
        &self,
        state: &E,
        command: &E::Command,
        this: &EntityRef,
        origin: &Origin,
        request_id: Uuid,
        now_ms: i64,
    ) -> Result<Decision<E>, Refusal> {
        let context = self.context(this, origin, request_id, now_ms);
        state.authorise(command, &context)?;
        state.decide(command, &context)
    }

    fn context<'a>(
        &'a self,
        this: &'a EntityRef,
        origin: &'a Origin,
        request_id: Uuid,
        now_ms: i64,
    ) -> Context<'a> {
        Context {
            this,
            now_ms,
            origin,
            request_id,
            catalogue: &self.catalogue,
            directory: &self.directory,
            level: okno_storage::level::FEATURE_LEVEL,
            fence: Default::default(),
        }
    }

    fn commit<E: Registered + Kept>(
        &mut self,
        state: &E,
        this: &EntityRef,
        decision: Decision<E>,
        origin: &Origin,
        now_ms: i64,
    ) -> AnyReply {
        let mut state = state.clone();
        let meta = EventMeta { time_ms: now_ms, origin: origin.clone() };
        decision.events.iter().for_each(|event| state.evolve(event, &meta));
        self.index += 1;
        if !decision.events.is_empty() {
            E::keep(&mut self.now, &this.id, state, self.index);
        }
        for change in decision.timers {
            match change {
                TimerChange::Set { name, due_ms } => self.timers.insert((this.clone(), name), due_ms),
                TimerChange::Clear { name } => self.timers.remove(&(this.clone(), name)),
            };
        }
        self.outbox.extend(decision.sends.into_iter().map(|send| (this.clone(), send)));
        E::reply_into(decision.reply)
    }

    fn deliver(&mut self, now_ms: i64) {
        while let Some((source, Send { target, message })) = self.outbox.pop_front() {
            if self.is(Fault::LosesMessages, 50) {
                continue;
            }
            let origin = node();
            let refused = match target.kind {
                Kind::Case => {
                    let state = self.now.case(&target.id);
                    state
                        .receive(&source, &message, &self.context(&target, &origin, Uuid::nil(), now_ms))
                        .map(|decision| self.commit(&state, &target, decision, &origin, now_ms))
                }
                Kind::Queue => {
                    let state = self.now.queue(&target.id);
                    state
                        .receive(&source, &message, &self.context(&target, &origin, Uuid::nil(), now_ms))
                        .map(|decision| self.commit(&state, &target, decision, &origin, now_ms))
                }
                Kind::Catalogue | Kind::Directory | Kind::Channel => panic!("nobody writes to {target}"),
            };
            if let Err(refusal) = refused
                && !matches!(message, Message::Refused { .. })
            {
                let message = Message::Refused { reason: refusal.reason, of: Box::new(message) };
                self.outbox.push_back((target, Send { target: source, message }));
            }
        }
    }

    fn fire(&mut self, now_ms: i64) {
        while let Some(((this, name), _)) = self.timers.iter().find(|(_, due)| **due <= now_ms) {
            let (this, name) = (this.clone(), name.clone());
            self.timers.remove(&(this.clone(), name.clone()));
            let origin = node();
            match this.kind {
                Kind::Case => {
                    let state = self.now.case(&this.id);
                    let decision = state.fire(&name, &self.context(&this, &origin, Uuid::nil(), now_ms));
                    self.commit(&state, &this, decision.expect("a case's own timer"), &origin, now_ms);
                }
                _ => {
                    let state = self.now.queue(&this.id);
                    let decision = state.fire(&name, &self.context(&this, &origin, Uuid::nil(), now_ms));
                    self.commit(&state, &this, decision.expect("a queue's own timer"), &origin, now_ms);
                }
            }
        }
    }
}

fn node() -> Origin {
    Origin { principal: Principal { kind: "node".into(), id: "1".into() }, workstation: String::new() }
}

fn refusal(reason: &str) -> Refusal {
    Refusal {
        class: okno_domain::entity::RefusalClass::InvalidArgument,
        reason: reason.to_owned(),
        text_ru: String::new(),
        text_en: String::new(),
        details: BTreeMap::new(),
    }
}

trait Kept {
    fn keep(entities: &mut Entities, id: &str, state: Self, index: u64);
}

impl Kept for Case {
    fn keep(entities: &mut Entities, id: &str, state: Self, index: u64) {
        entities.cases.insert(id.to_owned(), (state, index));
    }
}

impl Kept for Queue {
    fn keep(entities: &mut Entities, id: &str, state: Self, index: u64) {
        entities.queues.insert(id.to_owned(), (state, index));
    }
}

impl Entities {
    fn case(&self, id: &str) -> Case {
        self.cases.get(id).map_or_else(|| Case::empty(id), |(case, _)| case.clone())
    }

    fn queue(&self, id: &str) -> Queue {
        self.queues.get(id).map_or_else(|| Queue::empty(id), |(queue, _)| queue.clone())
    }

    fn seen(&self, subject: &Subject) -> Seen {
        match subject {
            Subject::Case(id) => self
                .cases
                .get(id)
                .and_then(|(case, index)| translate::case_seen(case, *index))
                .map_or(Seen::Absent, Seen::Case),
            Subject::Queue(id) => self
                .queues
                .get(id)
                .and_then(|(queue, index)| translate::queue_seen(queue, *index))
                .map_or(Seen::Absent, Seen::Queue),
        }
    }
}
