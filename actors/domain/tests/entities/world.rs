//! A region in memory: entities with their stored rows, an outbox that delivers at once, timers that fire when the
//! clock passes them. Every commit is checked against the laws of `okno_domain::entity`:
//!
//! - what is loaded from the stored root and parts is what was folded;
//! - an event changes no part it does not name, and rows only of the root and the parts it names;
//! - the bytes of the parts of documents, tickets and messages stand within the bytes of their events;
//! - a body is written once under a number never given before, and is what the references to it say;
//! - retrying a decision gives the same decision.

use okno_domain::{
    case::Case,
    catalogue::{self, Catalogue, SourceFile, files},
    channel::{self, Channel},
    directory::{self, Directory},
    entity::{
        Context, Decision, Entity, EntityRef, EventMeta, Fence, Input, Kind, Origin, Principal, Refusal, Row,
        Send, TimerChange,
    },
    exchange::BodyRef,
    ids,
    message::{Message, MessageRole},
    queue::{self, Queue},
    registry::{AnyEvent, Registered},
};
use std::collections::{BTreeMap, VecDeque};
use uuid::Uuid;

/// The offices' offset to UTC in these tests: UTC+7.
pub const OFFSET_MINUTES: i32 = 420;
/// Deliveries one command may cause; more is a loop.
const DELIVERIES_MAX: usize = 512;

/// An entity with what is stored of it, encoded.
#[derive(Debug, Clone)]
pub struct Stored<E: Entity> {
    pub state: E,
    root: Vec<u8>,
    parts: BTreeMap<String, Vec<u8>>,
    pub events: usize,
}

impl<E: Entity> Stored<E> {
    pub fn new(id: &str) -> Self {
        let state = E::empty(id);
        Self { root: encode(&state.root()), state, parts: BTreeMap::new(), events: 0 }
    }

    /// Folds and stores a decision's events, and checks the laws.
    fn commit(&mut self, id: &str, events: &[E::Event], meta: &EventMeta) {
        let before_rows = self.rows();
        let mut touched = Vec::new();
        let mut encoded = Vec::new();
        for event in events {
            let bytes = encode(event);
            let again: E::Event = decode(&bytes);
            assert_eq!(&again, event, "an event changes in the journal");
            self.state.evolve(&again, meta);
            self.events += 1;
            touched.extend(E::touched(event));
            encoded.push(bytes);
        }
        if !events.is_empty() {
            self.root = encode(&self.state.root());
        }
        for name in &touched {
            match self.state.part(name) {
                Some(part) => self.parts.insert(name.clone(), encode(&part)),
                None => self.parts.remove(name),
            };
            let shared =
                name.starts_with("document:") || (name.starts_with("ticket:") && E::KIND == Kind::Queue);
            // Below its feature level only the first event of a queue shares its part's bytes.
            let old = encoded.iter().any(|event| event.first().is_some_and(|variant| *variant < 6));
            let shared = shared && !(old && E::KIND == Kind::Queue);
            // A redriven message is no first variant, and is written twice.
            let moved = encoded.iter().any(|event| event.starts_with(&[0; 4]));
            let shared = shared || (name.starts_with("message:") && moved);
            if let Some(bytes) = self.parts.get(name).filter(|_| shared) {
                let stands =
                    encoded.iter().any(|event| event.windows(bytes.len()).any(|window| window == bytes));
                assert!(stands, "the bytes of {name} stand in no event");
            }
        }
        let parts = self.parts.iter().map(|(name, bytes)| (name.clone(), decode(bytes))).collect();
        let loaded = E::load(id, decode(&self.root), parts);
        assert_eq!(loaded, self.state, "loaded from rows is not what was folded");
        for (name, bytes) in &self.parts {
            let part = self.state.part(name).map(|part| encode(&part));
            assert_eq!(part.as_ref(), Some(bytes), "{name} changed, and no event named it");
        }
        for (part, rows) in self.rows() {
            assert!(rows.len() <= 8, "{part:?} has more rows than it may");
            let named = part.as_ref().is_none_or(|name| touched.contains(name));
            let same = before_rows.get(&part).map_or(&[][..], Vec::as_slice) == rows;
            assert!(named || same, "the rows of {part:?} changed, and no event named it");
        }
    }

    pub fn rows(&self) -> BTreeMap<Option<String>, Vec<Row>> {
        let parts = self.parts.keys().map(|name| (Some(name.clone()), self.state.rows(Some(name))));
        parts.chain([(None, self.state.rows(None))]).collect()
    }

    /// Loaded from the parts whose names are in these stretches; and these names.
    pub fn share(&self, id: &str, stretches: &[(String, String)]) -> (E, Vec<String>) {
        let within = |name: &String| stretches.iter().any(|(from, to)| from <= name && name < to);
        let parts: Vec<_> = self.parts.iter().filter(|(name, _)| within(name)).collect();
        let names = parts.iter().map(|(name, _)| (*name).clone()).collect();
        let parts = parts.into_iter().map(|(name, bytes)| (name.clone(), decode(bytes))).collect();
        (E::load(id, decode(&self.root), parts), names)
    }

    /// Encoded bytes of the root: it is written with every commit.
    pub fn root_bytes(&self) -> usize {
        self.root.len()
    }
}

fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    bincode::serialize(value).expect("what the domain makes can be encoded")
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> T {
    bincode::deserialize(bytes).expect("what was encoded can be decoded")
}

pub struct World {
    pub now_ms: i64,
    /// The replicated feature level.
    pub level: u32,
    pub origin: Origin,
    pub catalogue: Catalogue,
    pub directory: Stored<Directory>,
    pub cases: BTreeMap<String, Stored<Case>>,
    pub queues: BTreeMap<String, Stored<Queue>>,
    pub channels: BTreeMap<String, Stored<Channel>>,
    /// Bodies by their holder and number.
    pub bodies: BTreeMap<(EntityRef, u64), Vec<u8>>,
    /// The highest number given by each holder.
    numbered: BTreeMap<EntityRef, u64>,
    /// Requests to channels by message id, and their answers, refusals included.
    pub requested: BTreeMap<String, u32>,
    pub answered: BTreeMap<String, u32>,
    /// Of the leader.
    pub term: u64,
    timers: BTreeMap<(EntityRef, String), i64>,
    outbox: VecDeque<(EntityRef, Send)>,
    requests: u128,
    /// Ids of cases as they were opened.
    opened: Vec<String>,
    /// What happened since somebody looked.
    pub log: Vec<String>,
    /// Everything that happened in queues, with its time.
    pub queue_events: Vec<(i64, queue::Event)>,
}

impl World {
    /// A world with the catalogue of the fixtures and an empty directory, at 10:00 on Monday 2 March 2026.
    pub fn new() -> Self {
        let file = SourceFile::new("catalogue.toml", include_str!("../fixtures/catalogue.toml"));
        let load = files::read(&[file], &Catalogue::empty("region")).expect("the fixture is right");
        Self {
            now_ms: 1_772_420_400_000,
            level: okno_domain::level::QUEUE,
            origin: origin("admin", "root", ""),
            catalogue: Catalogue::of(&load).expect("the fixture is right"),
            directory: Stored::new(directory::ENTITY_ID),
            cases: BTreeMap::new(),
            queues: BTreeMap::new(),
            channels: BTreeMap::new(),
            bodies: BTreeMap::new(),
            numbered: BTreeMap::new(),
            requested: BTreeMap::new(),
            answered: BTreeMap::new(),
            term: 1,
            timers: BTreeMap::new(),
            outbox: VecDeque::new(),
            requests: 0,
            opened: Vec::new(),
            log: Vec::new(),
            queue_events: Vec::new(),
        }
    }

    /// A world with office `tikhaya`, windows 1 and 2, and officer `anna`, who calls.
    pub fn with_office() -> Self {
        let mut world = Self::new();
        world.put_office("tikhaya", &["veterans"]);
        for number in ["1", "2"] {
            let workstation = format!("ws-{number}");
            let window = directory::Window {
                office: "tikhaya".into(),
                number: number.into(),
                ticket_groups: Vec::new(),
                workstation,
            };
            world.directory(&directory::Command::PutWindow(window)).expect("a good window");
        }
        let person = directory::Person {
            id: "anna".into(),
            name: "Вымыслова Анна".into(),
            role: directory::Role::Officer,
            offices: vec!["tikhaya".into()],
        };
        world.directory(&directory::Command::PutPerson(person)).expect("a good person");
        world.origin = origin("operator", "anna", "ws-1");
        world.log.clear();
        world
    }

    pub fn put_office(&mut self, code: &str, categories: &[&str]) {
        let office = directory::Office {
            code: code.into(),
            name: format!("МФЦ {code}"),
            utc_offset_minutes: OFFSET_MINUTES,
            kiosks: vec!["kiosk-1".into()],
            priority_categories: categories.iter().map(|category| (*category).to_owned()).collect(),
            ..directory::Office::default()
        };
        self.directory(&directory::Command::PutOffice(office)).expect("a good office");
    }

    /// The next request id: the same in every run.
    fn request(&mut self) -> Uuid {
        self.requests += 1;
        Uuid::from_u128(self.requests)
    }

    pub fn directory(&mut self, command: &directory::Command) -> Result<directory::Reply, Refusal> {
        let this = EntityRef { kind: Kind::Directory, id: directory::ENTITY_ID.into() };
        let request = self.request();
        let snapshot = self.directory.state.clone();
        let decision = decide(&self.directory.state, command, &self.context(&this, request, &snapshot))?;
        Ok(self.commit(&this, decision, &Input::Command(command)))
    }

    /// Opens a case under the id that follows from the request.
    pub fn open(
        &mut self,
        command: &okno_domain::case::Command,
    ) -> (String, Result<okno_domain::case::Reply, Refusal>) {
        let request = self.request();
        let id = ids::case_id(&self.origin.principal, request);
        let reply = self.case_with(&id, command, request);
        (id, reply)
    }

    pub fn case(
        &mut self,
        id: &str,
        command: &okno_domain::case::Command,
    ) -> Result<okno_domain::case::Reply, Refusal> {
        let request = self.request();
        self.case_with(id, command, request)
    }

    fn case_with(
        &mut self,
        id: &str,
        command: &okno_domain::case::Command,
        request: Uuid,
    ) -> Result<okno_domain::case::Reply, Refusal> {
        let this = EntityRef { kind: Kind::Case, id: id.into() };
        let empty = Stored::new(id);
        let state = &self.cases.get(id).unwrap_or(&empty).state;
        let decision = decide(state, command, &self.context(&this, request, &self.directory.state))?;
        let reply = self.commit(&this, decision, &Input::Command(command));
        self.deliver();
        Ok(reply)
    }

    pub fn channel(&mut self, code: &str, command: &channel::Command) -> Result<channel::Reply, Refusal> {
        let request = self.request();
        let this = EntityRef { kind: Kind::Channel, id: code.into() };
        let empty = Stored::new(code);
        let state = &self.channels.get(code).unwrap_or(&empty).state;
        let decision = decide(state, command, &self.context(&this, request, &self.directory.state))?;
        let reply = self.commit(&this, decision, &Input::Command(command));
        self.deliver();
        Ok(reply)
    }

    /// Puts processes on the catalogue, as an administrator's load does.
    pub fn processes(&mut self, processes: &[std::sync::Arc<catalogue::Process>]) -> Result<(), Refusal> {
        let this = EntityRef { kind: Kind::Catalogue, id: catalogue::ENTITY_ID.into() };
        let request = self.request();
        let command = catalogue::Command::LoadProcesses(processes.to_vec());
        let context = self.context(&this, request, &self.directory.state);
        let decision = self.catalogue.decide(&command, &context)?;
        let meta = EventMeta { time_ms: self.now_ms, origin: self.origin.clone() };
        decision.events.iter().for_each(|event| self.catalogue.evolve(event, &meta));
        Ok(())
    }

    /// A kept body, proven by its reference.
    pub fn body(&self, body: &BodyRef) -> Option<&[u8]> {
        let bytes = self.bodies.get(&(body.holder.clone(), body.number))?;
        body.prove(bytes).expect("what was kept is what was sent");
        Some(bytes)
    }

    pub fn queue(
        &mut self,
        office: &str,
        command: &okno_domain::queue::Command,
    ) -> Result<okno_domain::queue::Reply, Refusal> {
        let request = self.request();
        let this = EntityRef { kind: Kind::Queue, id: office.into() };
        let empty = Stored::new(office);
        let state = &self.queues.get(office).unwrap_or(&empty).state;
        let decision = decide(state, command, &self.context(&this, request, &self.directory.state))?;
        let reply = self.commit(&this, decision, &Input::Command(command));
        self.deliver();
        Ok(reply)
    }

    /// Moves the clock on; timers fire on the way, each at its time.
    pub fn advance_to(&mut self, at_ms: i64) {
        loop {
            let next =
                self.timers.iter().map(|((entity, name), due)| (*due, entity.clone(), name.clone())).min();
            let Some((due, entity, name)) = next.filter(|(due, _, _)| *due <= at_ms) else { break };
            self.now_ms = self.now_ms.max(due);
            self.timers.remove(&(entity.clone(), name.clone()));
            self.log.push(format!("fires {} {name}", self.show(&entity)));
            let request = self.request();
            match entity.kind {
                Kind::Case => {
                    let state = &self.cases[&entity.id].state;
                    let decision = state.fire(&name, &self.context(&entity, request, &self.directory.state));
                    self.commit(&entity, decision.expect("a case's own timer"), &Input::Timer);
                }
                Kind::Queue => {
                    let state = &self.queues[&entity.id].state;
                    let decision = state.fire(&name, &self.context(&entity, request, &self.directory.state));
                    self.commit(&entity, decision.expect("a queue's own timer"), &Input::Timer);
                }
                Kind::Channel => {
                    let state = &self.channels[&entity.id].state;
                    let decision = state.fire(&name, &self.context(&entity, request, &self.directory.state));
                    self.commit(&entity, decision.expect("a channel's own timer"), &Input::Timer);
                }
                Kind::Catalogue | Kind::Directory => panic!("{entity} has no timers"),
            }
            self.deliver();
        }
        self.now_ms = self.now_ms.max(at_ms);
    }

    /// The timers set now, soonest first.
    pub fn timers(&self) -> Vec<(i64, EntityRef, String)> {
        let mut timers: Vec<_> =
            self.timers.iter().map(|((entity, name), due)| (*due, entity.clone(), name.clone())).collect();
        timers.sort();
        timers
    }

    /// Delivers everything in the outbox, and what that sends, in order.
    fn deliver(&mut self) {
        for _ in 0..DELIVERIES_MAX {
            let Some((source, Send { target, message })) = self.outbox.pop_front() else { return };
            let message: Message = decode(&encode(&message));
            let (from, to) = (self.show(&source), self.show(&target));
            let request = self.request();
            let context = self.context(&target, request, &self.directory.state);
            let refused = match target.kind {
                Kind::Case => {
                    let empty = Stored::new(&target.id);
                    let state = &self.cases.get(&target.id).unwrap_or(&empty).state;
                    state.receive(&source, &message, &context).map(|decision| {
                        self.commit(&target, decision, &Input::Message(&message));
                    })
                }
                Kind::Queue => {
                    let empty = Stored::new(&target.id);
                    let state = &self.queues.get(&target.id).unwrap_or(&empty).state;
                    state.receive(&source, &message, &context).map(|decision| {
                        self.commit(&target, decision, &Input::Message(&message));
                    })
                }
                Kind::Channel => {
                    let empty = Stored::new(&target.id);
                    let state = &self.channels.get(&target.id).unwrap_or(&empty).state;
                    state.receive(&source, &message, &context).map(|decision| {
                        self.commit(&target, decision, &Input::Message(&message));
                    })
                }
                Kind::Catalogue | Kind::Directory => panic!("nobody writes to {target}"),
            };
            match &message {
                Message::ChannelRequest(request) => {
                    *self.requested.entry(request.id.clone()).or_default() += 1
                }
                Message::ChannelAnswer(answer) => *self.answered.entry(answer.id.clone()).or_default() += 1,
                Message::Refused { of, .. } => {
                    if let Message::ChannelRequest(request) = of.as_ref() {
                        *self.answered.entry(request.id.clone()).or_default() += 1;
                    }
                }
                _ => {}
            }
            self.log.push(format!("{from} -> {to}: {}", message.name()));
            if let Err(refusal) = refused {
                self.log.push(format!("{to} refuses {}", refusal.reason));
                if message.role() == MessageRole::Request {
                    let message = Message::Refused { reason: refusal.reason, of: Box::new(message) };
                    self.outbox.push_back((target, Send { target: source, message }));
                }
            }
        }
        panic!("messages go round in circles");
    }

    /// As a queue would decide now.
    pub fn in_queue<T>(&self, office: &str, ask: impl FnOnce(&Context<'_>) -> T) -> T {
        let this = EntityRef { kind: Kind::Queue, id: office.to_owned() };
        ask(&self.context(&this, Uuid::nil(), &self.directory.state))
    }

    fn context<'a>(&'a self, this: &'a EntityRef, request_id: Uuid, directory: &'a Directory) -> Context<'a> {
        Context {
            this,
            now_ms: self.now_ms,
            origin: &self.origin,
            request_id,
            catalogue: &self.catalogue,
            directory,
            level: self.level,
            fence: Fence { generation: 1, term: self.term },
        }
    }

    fn commit<E: Held>(
        &mut self,
        entity: &EntityRef,
        decision: Decision<E>,
        input: &Input<'_, E>,
    ) -> E::Reply {
        let meta = EventMeta { time_ms: self.now_ms, origin: self.origin.clone() };
        let sets = decision.timers.iter().any(|change| matches!(change, TimerChange::Set { .. }));
        assert!(!sets || !decision.events.is_empty(), "a timer is set without an event");
        if entity.kind == Kind::Case && !self.opened.contains(&entity.id) {
            self.opened.push(entity.id.clone());
        }
        let name = self.show(entity);
        for change in decision.timers {
            match change {
                TimerChange::Set { name: timer, due_ms } => {
                    self.log.push(format!("{name} sets {timer} at {}", local(due_ms)));
                    self.timers.insert((entity.clone(), timer), due_ms);
                }
                TimerChange::Clear { name: timer } => {
                    self.log.push(format!("{name} clears {timer}"));
                    self.timers.remove(&(entity.clone(), timer));
                }
            }
        }
        for event in &decision.events {
            if let AnyEvent::Queue(event) = E::event_into(event.clone()) {
                self.queue_events.push((self.now_ms, event));
            }
        }
        let kept = E::held(self, &entity.id).state.kept(input, &decision.events);
        assert!(kept.is_empty() || !decision.events.is_empty(), "a row is written without an event");
        for kept in kept {
            let key = (entity.clone(), kept.number);
            let Some(body) = kept.body else {
                self.bodies.remove(&key);
                continue;
            };
            let last = self.numbered.entry(entity.clone()).or_default();
            assert!(kept.number > *last, "the number of a body is given twice");
            *last = kept.number;
            self.bodies.insert(key, body.to_vec());
        }
        if !decision.events.is_empty() {
            E::held(self, &entity.id).commit(&entity.id, &decision.events, &meta);
        }
        self.outbox.extend(decision.sends.into_iter().map(|send| (entity.clone(), send)));
        decision.reply
    }

    /// A message id as transcripts name it: by its case.
    pub fn show_id(&self, id: &str) -> String {
        let case = okno_domain::exchange::case_of(id);
        let shown = self.show(&EntityRef { kind: Kind::Case, id: case.to_owned() });
        format!("{shown}{}", &id[case.len()..])
    }

    /// An entity as transcripts name it: cases by the order of their opening.
    pub fn show(&self, entity: &EntityRef) -> String {
        match entity.kind {
            Kind::Case => {
                let place = self.opened.iter().position(|id| *id == entity.id);
                place.map_or_else(|| "case?".into(), |place| format!("case{}", place + 1))
            }
            Kind::Queue | Kind::Catalogue | Kind::Directory | Kind::Channel => entity.to_string(),
        }
    }
}

/// Where the world keeps the entities of a kind.
trait Held: Registered {
    fn held<'a>(world: &'a mut World, id: &str) -> &'a mut Stored<Self>;
}

impl Held for Case {
    fn held<'a>(world: &'a mut World, id: &str) -> &'a mut Stored<Self> {
        world.cases.entry(id.to_owned()).or_insert_with(|| Stored::new(id))
    }
}

impl Held for Queue {
    fn held<'a>(world: &'a mut World, id: &str) -> &'a mut Stored<Self> {
        world.queues.entry(id.to_owned()).or_insert_with(|| Stored::new(id))
    }
}

impl Held for Channel {
    fn held<'a>(world: &'a mut World, id: &str) -> &'a mut Stored<Self> {
        world.channels.entry(id.to_owned()).or_insert_with(|| Stored::new(id))
    }
}

impl Held for Directory {
    fn held<'a>(world: &'a mut World, _id: &str) -> &'a mut Stored<Self> {
        &mut world.directory
    }
}

/// Authorises and decides, as a leader does; twice, for a retry must give the same.
fn decide<E: Registered>(
    state: &E,
    command: &E::Command,
    context: &Context<'_>,
) -> Result<Decision<E>, Refusal> {
    let any = E::command_into(command.clone());
    assert_eq!(any.kind(), E::KIND);
    let command: E::Command = E::command_from(decode(&encode(&any))).expect("the command is of this kind");
    state.authorise(&command, context)?;
    let decision = state.decide(&command, context)?;
    let again = state.decide(&command, context)?;
    assert_eq!(
        (&decision.events, &decision.reply),
        (&again.events, &again.reply),
        "a retry decides otherwise"
    );
    assert_eq!(decode::<E::Reply>(&encode(&decision.reply)), decision.reply);
    Ok(decision)
}

pub fn origin(kind: &str, id: &str, workstation: &str) -> Origin {
    Origin { principal: Principal { kind: kind.into(), id: id.into() }, workstation: workstation.into() }
}

/// A moment as the offices' clocks show it.
pub fn local(at_ms: i64) -> String {
    let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(
        i8::try_from(OFFSET_MINUTES / 60).expect("a small offset"),
    ));
    jiff::Timestamp::from_millisecond(at_ms)
        .expect("a moment")
        .to_zoned(zone)
        .strftime("%Y-%m-%dT%H:%M")
        .to_string()
}

/// The moment at which the offices' clocks show this.
pub fn moment(text: &str) -> i64 {
    let civil: jiff::civil::DateTime = text.parse().expect("a local time like 2026-03-02T10:00");
    let utc = jiff::tz::TimeZone::UTC.to_timestamp(civil).expect("a moment");
    utc.as_millisecond() - i64::from(OFFSET_MINUTES) * 60_000
}
