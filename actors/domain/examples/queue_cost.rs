//! What a call among 5,000 waiting costs an actor: decide, fold, encode. A measurement, not a test:
//! `cargo run --release -p okno-domain --example queue_cost`.

use bincode::Options;
use okno_domain::{
    catalogue::Catalogue,
    directory::{self, Directory},
    entity::{Context, Entity, EntityRef, EventMeta, Kind, Origin, Principal},
    level,
    queue::{Command, Event, Move, Moved, Purpose, Queue, VisitOutcome},
};
use std::{sync::Arc, time::Duration};

const WAITING: usize = 5_000;
const CALLS: usize = 2_000;

fn principal(kind: &str, id: &str) -> Origin {
    Origin { principal: Principal { kind: kind.into(), id: id.into() }, workstation: String::new() }
}

struct Desk {
    queue: Queue,
    directory: Directory,
    catalogue: Catalogue,
    this: EntityRef,
    origin: Origin,
    now_ms: i64,
}

impl Desk {
    /// Decides, folds and encodes; answers with the time it took and the bytes of events, root and changed parts.
    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    fn run(&mut self, command: &Command) -> Option<(Duration, usize)> {
        self.now_ms += 1_000;
        let begun = std::time::Instant::now();
        let context = Context {
            this: &self.this,
            now_ms: self.now_ms,
            origin: &self.origin,
            request_id: uuid::Uuid::from_u128(1),
            catalogue: &self.catalogue,
            directory: &self.directory,
            level: level::QUEUE,
            fence: okno_domain::entity::Fence::default(),
        };
        self.queue.authorise(command, &context).ok()?;
        let decision = self.queue.decide(command, &context).ok()?;
        let meta = EventMeta { time_ms: self.now_ms, origin: self.origin.clone() };
        let options = bincode::DefaultOptions::new().with_varint_encoding();
        let mut bytes = 0;
        for event in &decision.events {
            bytes += options.serialize(event).map_or(0, |body| body.len());
            self.queue.evolve(event, &meta);
            for name in Queue::touched(event) {
                let part = self.queue.part(&name);
                bytes +=
                    name.len() + part.map_or(0, |part| options.serialize(&part).map_or(0, |body| body.len()));
            }
        }
        bytes += options.serialize(&self.queue.root()).map_or(0, |body| body.len());
        bytes += options.serialize(&decision.reply).map_or(0, |body| body.len());
        Some((begun.elapsed(), bytes))
    }
}

fn show(what: &str, mut costs: Vec<(Duration, usize)>) {
    costs.sort();
    let at = |percent: usize| costs[(costs.len() - 1) * percent / 100].0.as_micros();
    let bytes = costs.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
    println!(
        "{what}: {} times, p50 {} µs, p99 {} µs, longest {} µs, at most {bytes} bytes",
        costs.len(),
        at(50),
        at(99),
        at(100)
    );
}

fn main() {
    let mut directory = Directory::empty("region");
    let admin = EventMeta { time_ms: 0, origin: principal("admin", "root") };
    let office =
        directory::Office { code: "a".into(), name: "МФЦ".into(), ..directory::Office::default() };
    directory.evolve(&directory::Event::OfficePut(Arc::new(office)), &admin);
    for number in 1..=30 {
        let window = directory::Window {
            office: "a".into(),
            number: number.to_string(),
            ..directory::Window::default()
        };
        directory.evolve(&directory::Event::WindowPut(Arc::new(window)), &admin);
    }
    let person = directory::Person {
        id: "anna".into(),
        name: "Вымыслова Анна".into(),
        role: directory::Role::Officer,
        offices: vec!["a".into()],
    };
    directory.evolve(&directory::Event::PersonPut(Arc::new(person)), &admin);
    let mut desk = Desk {
        queue: Queue::empty("a"),
        directory,
        catalogue: Catalogue::default(),
        this: EntityRef { kind: Kind::Queue, id: "a".into() },
        origin: principal("operator", "anna"),
        now_ms: 1_772_420_400_000,
    };
    let mut taken = Vec::new();
    for n in 0..WAITING / 2 {
        let take = Command::TakeTicket {
            purpose: Purpose::ALL[n % 4],
            service: String::new(),
            category: String::new(),
        };
        taken.extend(desk.run(&take));
    }
    show("take a ticket", taken);
    // Four letters have 3,996 numbers a day: the other half is of groups that no purpose has.
    let sample = desk.queue.tickets().next().expect("just taken").clone();
    for n in 0..WAITING / 2 {
        let group = ['А', 'Б', 'В'][n % 3];
        let mut ticket = sample.clone();
        ticket.ticket.number = format!("{group}{:03}", n / 3 + 1);
        ticket.group = group;
        ticket.sequence = (WAITING + n) as u64;
        let what = Move::Taken;
        let moved = Moved { ticket: Arc::new(ticket), what, window: String::new(), board: 0, counted: None };
        let meta = EventMeta { time_ms: desk.now_ms, origin: desk.origin.clone() };
        desk.queue.evolve(&Event::Moved(Box::new(moved)), &meta);
    }
    println!("{} wait", desk.queue.waiting_count());
    let (mut calls, mut begins, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..CALLS {
        let window = (n % 30 + 1).to_string();
        calls.extend(desk.run(&Command::CallNext { window: window.clone() }));
        let Some(held) = desk.queue.at_window(&window).map(|ticket| ticket.ticket.clone()) else { continue };
        begins.extend(desk.run(&Command::Begin { ticket: held.clone(), window: window.clone() }));
        let outcome = VisitOutcome::Served;
        ends.extend(desk.run(&Command::Finish { ticket: held, window, outcome }));
    }
    show("call the next", calls);
    show("begin", begins);
    show("finish", ends);
}
