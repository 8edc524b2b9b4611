//! One run from seed to report.

use crate::{
    clients::fixtures,
    config::{Config, Kind},
    services::{Facts, Services},
    watch::Figures,
    world::World,
};
use okno_checks::{
    history::Outcome,
    invariants::{Invariant, Verdict},
};
use std::{
    any::Any,
    cell::RefCell,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

/// So many times its steps a run may take for who is away.
const LONGEST: u64 = 4;

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The invariant that broke; a panic outside every entity is one entity's trouble that was not its own.
    pub invariant: Option<Invariant>,
    pub detail: String,
}

impl Failure {
    /// What reports call it.
    pub fn id(&self) -> &'static str {
        self.invariant.map_or("panic", Invariant::id)
    }
}

#[derive(Debug, Clone)]
pub struct RunReport {
    pub config: Config,
    pub nodes: usize,
    pub trace_hash: u64,
    /// Events handed to cores, those after the faults included.
    pub steps: u64,
    pub virtual_ms: u64,
    /// Faults by kind.
    pub injected: BTreeMap<Kind, u64>,
    /// Operations of clients by how they ended.
    pub outcomes: BTreeMap<String, u64>,
    pub operations: u64,
    pub figures: Figures,
    /// What was judged of a hall and of channels, in runs that have them.
    pub facts: Facts,
    /// Every bound that was watched: name, highest seen, bound.
    pub peaks: Vec<(&'static str, usize, usize)>,
    pub verdicts: Vec<Verdict>,
    pub failure: Option<Failure>,
    /// The last lines of the readable trace, if asked for.
    pub trace: Vec<String>,
}

impl RunReport {
    /// The same as far as a seed decides it.
    pub fn same(&self, other: &Self) -> bool {
        (self.trace_hash, self.steps, self.virtual_ms) == (other.trace_hash, other.steps, other.virtual_ms)
            && self.outcomes == other.outcomes
            && self.injected == other.injected
            && self.failure == other.failure
    }
}

pub struct Run {
    config: Config,
}

impl Run {
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Plays the run. A planted fault must have been chosen before: it is the whole process's.
    pub fn execute(self) -> RunReport {
        let config = self.config;
        let outcome = quietly(|| play(&config));
        match outcome {
            Ok(report) => report,
            Err(panic) => RunReport {
                nodes: 0,
                trace_hash: 0,
                steps: 0,
                virtual_ms: 0,
                injected: BTreeMap::new(),
                outcomes: BTreeMap::new(),
                operations: 0,
                figures: Figures::default(),
                facts: Facts::default(),
                peaks: Vec::new(),
                verdicts: Vec::new(),
                failure: Some(Failure { invariant: Some(Invariant::NeighboursUnharmed), detail: panic }),
                trace: Vec::new(),
                config,
            },
        }
    }
}

fn play(config: &Config) -> RunReport {
    let mut world = World::new(config);
    // Who is away comes back first: what it is to meet then needs clients that go on.
    let longest = LONGEST * config.steps;
    let goes_on =
        |world: &World| world.steps < config.steps || world.steps < longest && world.is_somebody_away();
    while goes_on(&world) && !world.w.watch.broken() {
        world.cause_faults();
        world.step();
    }
    if !world.w.watch.broken() {
        world.heal();
        if world.settle() {
            world.compare();
        }
    }
    report(config, world)
}

fn report(config: &Config, mut world: World) -> RunReport {
    let mut finals =
        |offices: &[&str]| if world.w.watch.broken() { Vec::new() } else { world.finals(offices) };
    let (finals, of_desks) = (finals(&fixtures::OFFICES), finals(&[fixtures::DESKS]));
    let clocks = std::mem::take(&mut world.clocks);
    let fastest = std::mem::take(&mut world.fastest);
    let nodes = world.w.tune.nodes;
    let World { mut w, clients, steps, .. } = world;
    let mut histories = vec![clients.officers.history(&clocks, &fastest, finals)];
    histories.extend(clients.desks.map(|desks| desks.history(&clocks, &fastest, of_desks)));
    let mut outcomes = BTreeMap::new();
    for operation in histories.iter().flat_map(|history| &history.operations) {
        let name = match operation.outcome {
            Outcome::Done { .. } => "done",
            Outcome::Refused(_) => "refused",
            Outcome::NotApplied(_) => "not_applied",
            Outcome::Unknown(_) => "unknown",
        };
        *outcomes.entry(name.to_owned()).or_default() += 1;
    }
    let mut verdicts = w.watch.verdicts();
    for verdict in histories.iter().flat_map(crate::judge::judge) {
        match verdicts.iter_mut().find(|known| known.id == verdict.id) {
            Some(known) if known.held => *known = verdict,
            Some(_) => {}
            None => verdicts.push(verdict),
        }
    }
    let failure = verdicts
        .iter()
        .find(|verdict| !verdict.held)
        .map(|verdict| Failure { invariant: Some(verdict.id), detail: verdict.detail.clone() });
    RunReport {
        config: config.clone(),
        nodes,
        trace_hash: w.trace.hash(),
        steps,
        virtual_ms: w.now / 1_000,
        injected: std::mem::take(&mut w.injected),
        outcomes,
        operations: histories.iter().map(|history| history.operations.len() as u64).sum(),
        figures: w.watch.figures,
        facts: w.watch.services.as_ref().map(Services::facts).unwrap_or_default(),
        peaks: w.watch.peaks().collect(),
        verdicts,
        failure,
        trace: w.trace.lines(),
    }
}

thread_local! {
    /// A run is under way on this thread; where it panicked last.
    static PLAYING: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs with panics caught and not printed: damaged logs make raft panic by design, and a run that panics is a report.
fn quietly<T>(play: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let mine = PLAYING.with(|playing| {
                let mut playing = playing.borrow_mut();
                if let Some(place) = playing.as_mut() {
                    *place = info.location().map_or_else(String::new, ToString::to_string);
                }
                playing.is_some()
            });
            if !mine {
                usual(info);
            }
        }));
    });
    PLAYING.with(|playing| *playing.borrow_mut() = Some(String::new()));
    let outcome = catch_unwind(AssertUnwindSafe(play));
    let place = PLAYING.with(|playing| playing.borrow_mut().take()).unwrap_or_default();
    outcome.map_err(|panic| format!("{} at {place}", text(&*panic)))
}

fn text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_owned())
}
