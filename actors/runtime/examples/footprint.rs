//! What the runtime costs: memory of resident idle cases, CPU of a command beside log and apply. Prints a table;
//! used for `docs/performance.md`.
//!
//! `cargo run --release -p okno-runtime --example footprint -- [cases] [commands]`

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

use node::{Node, START_MS};
use okno_domain::{
    case::{self, Case},
    entity::{EntityRef, Kind},
    ids,
    registry::AnyCommand,
};
use okno_runtime::{
    CallResult, RuntimeSettings, ShardSettings,
    cell::{AnyCell, CellInput, CellOutput},
    load::cell_of,
};
use okno_storage::{level::FEATURE_LEVEL, state::StateStore};
use std::{collections::BTreeMap, fs, time::Instant};
use world::{World, anna, document, settings};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap_or(0) * 1_024
}

/// CPU time of each thread by name, in hundredths of a second.
fn cpu() -> BTreeMap<String, u64> {
    let mut by_name = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let Some((head, rest)) = stat.rsplit_once(") ") else { continue };
        let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        *by_name.entry(name).or_insert(0) += ticks(11) + ticks(12);
    }
    by_name
}

/// Opens so many cases without a runtime, so that nothing but the store is left of it.
fn store_of(cases: usize) -> (StateStore, Vec<EntityRef>) {
    let (env, anna) = (bench::env(FEATURE_LEVEL), bench::origin("operator", "anna"));
    let mut store = node::store();
    let first = node::time_commit(1, 1, START_MS).encode().expect("a small commit");
    store.apply(&[node::entry(1, 1, first)], 1).expect("applies");
    let mut opened = Vec::with_capacity(cases);
    for n in 0..cases {
        // Made earlier than the requests of the calls below, so that the ids differ.
        let request = world::request_at(START_MS - 1_000, n as u64);
        let this = EntityRef { kind: Kind::Case, id: ids::case_id(&anna.principal, request) };
        let mut cell =
            cell_of::<Case>(&store.reader().view(), this.clone(), 1).expect("readable").expect("usable");
        let work = bench::call(&this, anna.clone(), request, AnyCommand::Case(world::open_command(None)));
        let input = CellInput { work, stamp_ms: START_MS, commit_refusal: false };
        let CellOutput::Proposed { data, .. } = cell.handle(&input, &env) else { panic!("opens") };
        let index = store.mark().index + 1;
        store.apply(&[node::entry(index, 1, data)], index).expect("applies");
        opened.push(this);
    }
    (store, opened)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let cases = args.next().unwrap_or(100_000);
    let commands = args.next().unwrap_or(100_000);
    let (store, opened) = store_of(cases);
    let shard = ShardSettings { resident_max: cases + 1_000, ..ShardSettings::default() };
    let world = World::on(Node::start_on(store), RuntimeSettings { shard, ..settings(1) });
    world.furnish().await;

    // A refused command each: it makes the case resident and stores nothing.
    let before = resident();
    for batch in opened.chunks(256) {
        let remove = AnyCommand::Case(case::Command::RemoveDocument { document: 9 });
        let calls =
            batch.iter().map(|case| world.runtime.gateway.call(world.call_as(&anna(), case, remove.clone())));
        for result in futures::future::join_all(calls).await {
            assert!(matches!(result, CallResult::Refused(_)), "{result:?}");
        }
    }
    // Idle residents give back what their work left allocated within half a minute.
    tokio::time::sleep(std::time::Duration::from_secs(45)).await;
    let residents = world.runtime.figures().shards[0].residents;
    let grown = resident().saturating_sub(before);
    println!(
        "{residents} residents: {:.0} MB, {:.0} bytes each (store of {:.0} MB apart)",
        grown as f64 / 1e6,
        grown as f64 / residents.max(1) as f64,
        before as f64 / 1e6,
    );

    let before = cpu();
    let begun = Instant::now();
    let mut done = 0;
    while done < commands {
        let batch = (0..256.min(commands - done)).map(|n| {
            let target = &opened[(done + n) % opened.len()];
            let call = world.call_as(&anna(), target, document("пример документа, приложенного к делу"));
            world.runtime.gateway.call(call)
        });
        for result in futures::future::join_all(batch).await {
            assert!(matches!(result, CallResult::Done { .. }), "{result:?}");
            done += 1;
        }
    }
    let wall = begun.elapsed().as_secs_f64();
    println!("{commands} documents, 256 at a time, in {wall:.1} s: {:.0} a second", commands as f64 / wall);
    for (name, ticks) in cpu() {
        let used = ticks - before.get(&name).copied().unwrap_or(0);
        println!("  {name:<24} {:>6.1} µs a command", used as f64 * 10_000.0 / commands as f64);
    }
    world.stop().await;
}
