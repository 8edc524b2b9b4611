//! An entity for tests whose commands are little scripts. It wears the directory's types, because kinds are
//! registered in the domain; its id tells it from the directory.
//!
//! A command is `PutPerson` whose `name` is the script, `;` between its words:
//! `put PART TEXT` · `drop PART` · `quiet` (no event) · `timer NAME DUE` · `clear NAME` · `send KIND/ID` ·
//! `panic` (in decide) · `break` (panic in evolve) · `refuse` · `big N` (bytes).

use okno_domain::{
    directory::{Command, Event, Person, Reply, Role},
    entity::{
        Context, Decision, Entity, EntityRef, EventMeta, Kind, PartName, Refusal, RefusalClass, Row, Send,
        TimerChange,
    },
    message::Message,
    queue::TicketRef,
    registry::{AnyCommand, AnyEvent, AnyReply, Registered},
    rows,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    root: Root,
    pub parts: BTreeMap<String, Arc<Person>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    pub events: u64,
    pub last_ms: i64,
}

impl Probe {
    pub fn events(&self) -> u64 {
        self.root.events
    }
}

/// The command that runs a script.
pub fn script(text: &str) -> AnyCommand {
    AnyCommand::Directory(Command::PutPerson(person("script", text)))
}

fn person(id: &str, name: &str) -> Person {
    Person { id: id.into(), name: name.into(), role: Role::Auditor, offices: Vec::new() }
}

pub fn refusal(reason: &str) -> Refusal {
    Refusal {
        class: RefusalClass::FailedPrecondition,
        reason: reason.into(),
        text_ru: "нельзя".into(),
        text_en: "not allowed".into(),
        details: BTreeMap::new(),
    }
}

impl Probe {
    fn run(&self, script: &str) -> Result<Decision<Self>, Refusal> {
        let mut decision = Decision {
            events: Vec::new(),
            reply: Reply::Version(self.root.events),
            sends: Vec::new(),
            timers: Vec::new(),
        };
        for word in script.split(';') {
            let mut words = word.split_whitespace();
            let name = words.next().unwrap_or("");
            let mut next = || words.next().unwrap_or("").to_owned();
            match name {
                "put" => {
                    let part = next();
                    decision.events.push(Event::PersonPut(Arc::new(person(&part, &next()))));
                }
                "break" => decision.events.push(Event::PersonRemoved { id: "break".into() }),
                "drop" => decision.events.push(Event::PersonRemoved { id: next() }),
                "big" => {
                    let text = "x".repeat(next().parse().expect("a number of bytes"));
                    decision.events.push(Event::PersonPut(Arc::new(person("big", &text))));
                }
                "timer" => {
                    let name = next();
                    decision.timers.push(TimerChange::Set { name, due_ms: next().parse().expect("a time") });
                }
                "clear" => decision.timers.push(TimerChange::Clear { name: next() }),
                "send" => {
                    let target = next();
                    let (kind, id) = target.split_once('/').expect("kind/id");
                    let target = EntityRef { kind: Kind::parse(kind).expect("a kind"), id: id.into() };
                    decision.sends.push(Send { target, message: Message::CaseOpened { ticket: ticket() } });
                }
                "panic" => panic!("asked to panic in decide"),
                "refuse" => return Err(refusal("PROBE_REFUSED")),
                "refuse-if" => {
                    if self.parts.contains_key(&next()) {
                        return Err(refusal("PROBE_REFUSED"));
                    }
                }
                "quiet" | "" => {}
                other => panic!("no such word: {other}"),
            }
        }
        Ok(decision)
    }
}

pub fn ticket() -> TicketRef {
    TicketRef { day: jiff::civil::date(2026, 3, 2), number: "А001".into() }
}

impl Entity for Probe {
    const KIND: Kind = Kind::Directory;
    type Command = Command;
    type Event = Event;
    type Reply = Reply;
    type Root = Root;
    type Part = Person;

    fn empty(_id: &str) -> Self {
        Self { root: Root::default(), parts: BTreeMap::new() }
    }

    fn exists(&self) -> bool {
        self.root.events > 0
    }

    fn decide(&self, command: &Command, _: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        match command {
            Command::PutPerson(person) => self.run(&person.name),
            other => panic!("not a script: {other:?}"),
        }
    }

    fn receive(
        &self,
        source: &EntityRef,
        message: &Message,
        _: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        match message {
            Message::CaseOpened { ticket } if !self.parts.contains_key("closed") => {
                let mut decision = self.run("put received yes")?;
                let message = Message::TicketLinked { ticket: ticket.clone() };
                decision.sends.push(Send { target: source.clone(), message });
                Ok(decision)
            }
            Message::CaseOpened { .. } => Err(refusal("PROBE_CLOSED")),
            Message::TicketLinked { .. } => self.run("put answered yes"),
            Message::Refused { reason, .. } => self.run(&format!("put refused {reason}")),
            Message::OfficerWanted
            | Message::OfficerGiven { .. }
            | Message::OfficerTook { .. }
            | Message::CaseDone
            | Message::OfficerNoted => Err(refusal("PROBE_UNEXPECTED")),
            other => panic!("nobody tells a probe this: {other:?}"),
        }
    }

    fn fire(&self, timer: &str, _: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        match timer {
            "refuse" => Err(refusal("PROBE_TIMER")),
            "panic" => panic!("asked to panic in fire"),
            name => self.run(&format!("put fired-{name} yes")),
        }
    }

    fn evolve(&mut self, event: &Event, meta: &EventMeta) {
        self.root.events += 1;
        self.root.last_ms = meta.time_ms;
        match event {
            Event::PersonPut(person) => {
                self.parts.insert(person.id.clone(), Arc::clone(person));
            }
            Event::PersonRemoved { id } if id == "break" => panic!("asked to panic in evolve"),
            Event::PersonRemoved { id } => {
                self.parts.remove(id);
            }
            other => panic!("not the probe's: {other:?}"),
        }
    }

    fn touched(event: &Event) -> Vec<PartName> {
        match event {
            Event::PersonPut(person) => vec![person.id.clone()],
            Event::PersonRemoved { id } => vec![id.clone()],
            other => panic!("not the probe's: {other:?}"),
        }
    }

    fn root(&self) -> Root {
        self.root.clone()
    }

    fn part(&self, name: &str) -> Option<Person> {
        self.parts.get(name).map(|part| part.as_ref().clone())
    }

    fn load(_id: &str, root: Root, parts: Vec<(PartName, Person)>) -> Self {
        Self { root, parts: parts.into_iter().map(|(name, part)| (name, Arc::new(part))).collect() }
    }

    fn rows(&self, part: Option<&str>) -> Vec<Row> {
        let indexed = part.and_then(|part| self.parts.get(part)).filter(|part| part.id.starts_with("row"));
        indexed.map(|part| rows::case_by_office(&part.name, 0)).into_iter().collect()
    }

    fn no_reply() -> Reply {
        Reply::None
    }

    fn authorise(&self, _: &Command, context: &Context<'_>) -> Result<(), Refusal> {
        if context.origin.principal.kind == "board" { Err(refusal("PROBE_DENIED")) } else { Ok(()) }
    }
}

impl Registered for Probe {
    fn command_into(command: Command) -> AnyCommand {
        AnyCommand::Directory(command)
    }
    fn command_from(any: AnyCommand) -> Result<Command, AnyCommand> {
        match any {
            AnyCommand::Directory(command) => Ok(command),
            other => Err(other),
        }
    }
    fn reply_into(reply: Reply) -> AnyReply {
        AnyReply::Directory(reply)
    }
    fn reply_from(any: AnyReply) -> Result<Reply, AnyReply> {
        match any {
            AnyReply::Directory(reply) => Ok(reply),
            other => Err(other),
        }
    }
    fn event_into(event: Event) -> AnyEvent {
        AnyEvent::Directory(event)
    }
    fn event_from(any: AnyEvent) -> Result<Event, AnyEvent> {
        match any {
            AnyEvent::Directory(event) => Ok(event),
            other => Err(other),
        }
    }
}
