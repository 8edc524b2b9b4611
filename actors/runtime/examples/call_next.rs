//! What calling the next of 5,000 waiting visitors costs: the cell's time (authorise, decide, fold, encode), the bytes
//! of its commit, and the whole way through shards and actors. Prints a table; used for `docs/performance.md`.
//!
//! `cargo run --release -p okno-runtime --example call_next`
//!
//! The cell's time is all that an actor does for a command. Through the runtime a caller waits for more: the shard's mailbox,
//! apply over the in-memory engine, the way back; there is neither disk nor network in it. 5,990 visitors wait at first, as
//! many as six letters have numbers in a day, and calls are counted as long as 5,000 wait.

#[path = "../tests/runtime/bench.rs"]
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
mod bench;
#[path = "../tests/runtime/node.rs"]
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
mod node;
#[path = "../tests/runtime/probe.rs"]
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
mod probe;
#[path = "../tests/runtime/world.rs"]
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
mod world;

use node::START_MS;
use okno_domain::{
    directory,
    entity::{EntityRef, Kind},
    queue::{Command, Purpose, Queue, Ticket, TicketRef, VisitOutcome},
    registry::{AnyCommand, AnyReply},
};
use okno_runtime::{
    CallResult, SystemResult,
    cell::{AnyCell, Cell, CellInput, CellOutput},
    load::cell_of,
};
use okno_storage::{commit::SystemOp, level::FEATURE_LEVEL};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use world::{World, admin, anna};

const OFFICE: &str = "tikhaya";
/// Named by the office: a tenth of the visitors has it.
const CATEGORY: &str = "veteran";
const WINDOWS: usize = 30;
/// What a call is measured among, at least.
const WAITING: usize = 5_000;
const TAKEN: usize = 5_990;
const BATCH: usize = 64;
/// What it must keep to.
const ACTOR_TIME_MAX: Duration = Duration::from_millis(5);
const COMMIT_BYTES_MAX: usize = 8 * 1024;

fn office() -> directory::Office {
    directory::Office {
        code: OFFICE.into(),
        name: "МФЦ «Тихая улица»".into(),
        utc_offset_minutes: 420,
        priority_categories: vec![CATEGORY.into()],
        ..directory::Office::default()
    }
}

fn windows() -> impl Iterator<Item = directory::Window> {
    (1..=WINDOWS).map(|number| directory::Window {
        office: OFFICE.into(),
        number: number.to_string(),
        ..directory::Window::default()
    })
}

fn queue() -> EntityRef {
    EntityRef { kind: Kind::Queue, id: OFFICE.into() }
}

fn window(turn: usize) -> String {
    (turn % WINDOWS + 1).to_string()
}

/// The `n`-th visitor's wish, letter by letter.
fn take(n: usize) -> Command {
    let (purpose, service) = [
        (Purpose::Apply, "paper"),
        (Purpose::Apply, "in-person"),
        (Purpose::Apply, ""),
        (Purpose::AskStatus, ""),
        (Purpose::CollectResult, ""),
        (Purpose::Other, ""),
    ][n % 6];
    let category = if n.is_multiple_of(10) { CATEGORY } else { "" };
    Command::TakeTicket { purpose, service: service.into(), category: category.into() }
}

#[derive(Default)]
struct Costs {
    times: Vec<Duration>,
    bytes: usize,
}

impl Costs {
    fn show(&mut self, what: &str) {
        self.times.sort();
        let at = |percent: usize| self.times[(self.times.len() - 1) * percent / 100].as_micros();
        let bytes = if self.bytes == 0 { "–".to_owned() } else { self.bytes.to_string() };
        let (count, p50, p99, longest) = (self.times.len(), at(50), at(99), at(100));
        println!("{what:<34} {count:>6} {p50:>9} {p99:>9} {longest:>9} {bytes:>12}");
    }
}

/// The queue's cell over a store of its own.
struct Alone {
    bench: bench::Bench<Queue>,
    requests: u64,
}

impl Alone {
    fn run(&mut self, cell: &mut Cell<Queue>, command: Command, costs: &mut Costs) -> bytes::Bytes {
        self.requests += 1;
        self.bench.now_ms += 1_000;
        let request = world::request_at(START_MS, self.requests);
        let origin = bench::origin("operator", "anna");
        let work = bench::call(&self.bench.this, origin, request, AnyCommand::Queue(command));
        let input = CellInput { work, stamp_ms: self.bench.now_ms, commit_refusal: false };
        let begun = Instant::now();
        let output = cell.handle(&input, &self.bench.env);
        costs.times.push(begun.elapsed());
        let CellOutput::Proposed { data, .. } = output else { panic!("not proposed: {output:?}") };
        costs.bytes = costs.bytes.max(data.len());
        data
    }

    fn load(&self) -> Cell<Queue> {
        let view = self.bench.store.reader().view();
        cell_of::<Queue>(&view, self.bench.this.clone(), 1).expect("readable").expect("usable")
    }
}

/// One entity without shards; every commit is applied, so that the cell that calls is one loaded from rows, as after a
/// change of leadership.
fn cell_alone() -> [Costs; 5] {
    let mut bench = bench::Bench::<Queue>::new(OFFICE);
    bench.env.worlds = furnished(&bench.env);
    let mut alone = Alone { bench, requests: 0 };
    let [mut takes, mut loads, mut calls, mut begins, mut ends]: [Costs; 5] = Default::default();
    let mut cell = alone.load();
    for n in 0..TAKEN {
        let data = alone.run(&mut cell, take(n), &mut takes);
        alone.bench.apply(&data);
    }
    let begun = Instant::now();
    let mut cell = alone.load();
    loads.times.push(begun.elapsed());
    let mut turn = 0;
    while cell.state().waiting_count() > WAITING {
        let window = window(turn);
        alone.run(&mut cell, Command::CallNext { window: window.clone() }, &mut calls);
        let ticket = cell.state().at_window(&window).expect("just called").ticket.clone();
        alone.run(&mut cell, Command::Begin { ticket: ticket.clone(), window: window.clone() }, &mut begins);
        let outcome = VisitOutcome::Served;
        alone.run(&mut cell, Command::Finish { ticket, window, outcome }, &mut ends);
        turn += 1;
    }
    [takes, loads, calls, begins, ends]
}

/// The fixture's catalogue with an office of thirty windows.
fn furnished(env: &okno_runtime::cell::CellEnv) -> Arc<okno_runtime::world::Worlds> {
    use okno_domain::entity::{Entity, EventMeta};
    let world = env.worlds.current().expect("the fixture is right");
    let mut directory = directory::Directory::clone(&world.directory);
    let meta = EventMeta { time_ms: START_MS, origin: bench::origin("admin", "root") };
    directory.evolve(&directory::Event::OfficePut(Arc::new(office())), &meta);
    for window in windows() {
        directory.evolve(&directory::Event::WindowPut(Arc::new(window)), &meta);
    }
    let catalogue = okno_domain::catalogue::Catalogue::clone(&world.catalogue);
    Arc::new(okno_runtime::world::Worlds::fixed(catalogue, directory, env.worlds.level()))
}

/// Through the gateway, the shard's mailbox, the cell and apply, one call at a time.
async fn through_the_runtime() -> Costs {
    let world = World::new();
    world.furnish().await;
    let raised = world.system(&admin(), SystemOp::Level { level: FEATURE_LEVEL }).await;
    assert!(matches!(raised, SystemResult::Done { .. }), "{raised:?}");
    let target = EntityRef { kind: Kind::Directory, id: directory::ENTITY_ID.into() };
    world.done(&admin(), &target, AnyCommand::Directory(directory::Command::PutOffice(office()))).await;
    for window in windows() {
        world.done(&admin(), &target, AnyCommand::Directory(directory::Command::PutWindow(window))).await;
    }
    for first in (0..TAKEN).step_by(BATCH) {
        let calls = (first..(first + BATCH).min(TAKEN)).map(|n| queued(&world, take(n)));
        futures::future::join_all(calls).await;
    }
    let mut costs = Costs::default();
    for turn in 0..TAKEN - WAITING {
        world.log.clock_ms.fetch_add(1_000, Ordering::SeqCst);
        let window = window(turn);
        let begun = Instant::now();
        let called = queued(&world, Command::CallNext { window: window.clone() }).await;
        costs.times.push(begun.elapsed());
        let ticket: TicketRef = called.ticket.clone();
        queued(&world, Command::Begin { ticket: ticket.clone(), window: window.clone() }).await;
        queued(&world, Command::Finish { ticket, window, outcome: VisitOutcome::Served }).await;
    }
    world.stop().await;
    costs
}

async fn queued(world: &World, command: Command) -> Arc<Ticket> {
    match world.runtime.gateway.call(world.call_as(&anna(), &queue(), AnyCommand::Queue(command))).await {
        CallResult::Done { reply: AnyReply::Queue(reply), .. } => reply.ticket().expect("of a ticket"),
        other => panic!("{other:?}"),
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    println!(
        "{:<34} {:>6} {:>9} {:>9} {:>9} {:>12}",
        "", "times", "p50 µs", "p99 µs", "worst µs", "bytes, most"
    );
    let [mut takes, mut loads, mut calls, mut begins, mut ends] = cell_alone();
    takes.show("cell: take a ticket");
    loads.show("cell: load the queue from rows");
    calls.show("cell: call the next");
    begins.show("cell: begin");
    ends.show("cell: finish");
    let mut whole = through_the_runtime().await;
    whole.show("runtime: call the next");
    let worst = calls.times.last().copied().unwrap_or_default();
    let held = |fits: bool| if fits { "held" } else { "NOT HELD" };
    println!(
        "bounds, among {WAITING} waiting: actor time {ACTOR_TIME_MAX:?} {}, commit {COMMIT_BYTES_MAX} bytes {}",
        held(worst <= ACTOR_TIME_MAX),
        held(calls.bytes <= COMMIT_BYTES_MAX),
    );
}
