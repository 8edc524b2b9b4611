//! Many seeds on a few threads, with everything counted together.

use crate::{
    config::{Config, Kind},
    run::{Failure, Run, RunReport},
    services::Facts,
    watch::Figures,
};
use okno_checks::invariants::Invariant;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// Failing runs kept in full; further ones are counted.
pub const FAILURES_MAX: usize = 64;
/// Under this share of operations that succeeded a batch says nothing about a working cluster.
const SUCCEEDED_MIN: f64 = 0.5;
/// Fewer runs than this cannot be expected to meet every kind of fault.
pub const KINDS_FROM_RUNS: u64 = 200;

/// And fewer than this to see what happens once in some hundred.
const SELDOM_FROM_RUNS: u64 = 2_000;

#[derive(Debug, Clone)]
pub struct BatchConfig {
    /// Of every run but its seed.
    pub run: Config,
    pub first_seed: u64,
    pub seeds: u64,
    pub threads: usize,
    /// Ends at the first failure.
    pub until_failure: bool,
}

/// A run that failed.
#[derive(Debug, Clone)]
pub struct Failed {
    pub config: Config,
    pub failure: Failure,
}

#[derive(Debug, Clone, Default)]
pub struct BatchReport {
    pub runs: u64,
    pub steps: u64,
    pub virtual_ms: u64,
    pub operations: u64,
    /// Operations of clients by how they ended.
    pub outcomes: BTreeMap<String, u64>,
    pub injected: BTreeMap<Kind, u64>,
    /// Kinds that could happen.
    pub kinds: BTreeSet<Kind>,
    /// Runs in which an invariant was judged to hold.
    pub held: BTreeMap<Invariant, u64>,
    pub figures: Figures,
    /// Of halls and channels.
    pub facts: Facts,
    /// Name → highest seen and bound.
    pub peaks: BTreeMap<&'static str, (usize, usize)>,
    /// By seed, the first [`FAILURES_MAX`].
    pub failed: Vec<Failed>,
    pub failures: u64,
    /// What the batch as a whole lacks.
    pub lacks: Vec<String>,
    /// The fewest steps a run had.
    pub steps_min: u64,
}

impl BatchReport {
    /// Every invariant held in every run and everything configured happened.
    pub fn held(&self) -> bool {
        self.failures == 0 && self.lacks.is_empty()
    }

    fn add(&mut self, report: RunReport) {
        self.steps_min = if self.runs == 0 { report.steps } else { self.steps_min.min(report.steps) };
        self.runs += 1;
        self.steps += report.steps;
        self.virtual_ms += report.virtual_ms;
        self.operations += report.operations;
        for (name, count) in report.outcomes {
            *self.outcomes.entry(name).or_default() += count;
        }
        for (kind, count) in report.injected {
            *self.injected.entry(kind).or_default() += count;
        }
        for verdict in report.verdicts.iter().filter(|verdict| verdict.held) {
            *self.held.entry(verdict.id).or_default() += 1;
        }
        for (name, value, bound) in report.peaks {
            let peak = self.peaks.entry(name).or_insert((value, bound));
            if value > peak.0 {
                *peak = (value, bound);
            }
        }
        self.figures.add(&report.figures);
        self.facts.hall.add(&report.facts.hall);
        self.facts.exchange.add(&report.facts.exchange);
        if let Some(failure) = report.failure {
            self.failures += 1;
            self.failed.push(Failed { config: report.config, failure });
            self.failed.sort_by_key(|failed| failed.config.seed);
            self.failed.truncate(FAILURES_MAX);
        }
    }

    /// Adds another batch of the same kind of runs; what that one lacked this one may have.
    pub fn merge(&mut self, other: Self) {
        self.steps_min = match (self.runs, other.runs) {
            (0, _) => other.steps_min,
            (_, 0) => self.steps_min,
            _ => self.steps_min.min(other.steps_min),
        };
        self.runs += other.runs;
        self.steps += other.steps;
        self.virtual_ms += other.virtual_ms;
        self.operations += other.operations;
        for (name, count) in other.outcomes {
            *self.outcomes.entry(name).or_default() += count;
        }
        for (kind, count) in other.injected {
            *self.injected.entry(kind).or_default() += count;
        }
        for (id, count) in other.held {
            *self.held.entry(id).or_default() += count;
        }
        self.figures.add(&other.figures);
        self.facts.hall.add(&other.facts.hall);
        self.facts.exchange.add(&other.facts.exchange);
        for (name, (value, bound)) in other.peaks {
            let peak = self.peaks.entry(name).or_insert((value, bound));
            if value > peak.0 {
                *peak = (value, bound);
            }
        }
        self.failures += other.failures;
        self.failed.extend(other.failed);
        self.failed.sort_by_key(|failed| failed.config.seed);
        self.failed.truncate(FAILURES_MAX);
        self.kinds.extend(other.kinds);
        self.lacks = self.lacking();
    }

    /// What the batch as a whole lacks.
    fn lacking(&self) -> Vec<String> {
        let mut lacks = Vec::new();
        if self.runs >= KINDS_FROM_RUNS {
            let missing: Vec<&str> = self
                .kinds
                .iter()
                .filter(|kind| !self.injected.contains_key(kind))
                .map(|kind| kind.id())
                .collect();
            if !missing.is_empty() {
                lacks.push(format!("kinds that never happened: {}", missing.join(", ")));
            }
            let (hall, exchange) = (&self.facts.hall, &self.facts.exchange);
            let seen = [
                ("visitors served", hall.served),
                ("visitors returned to the head", hall.to_head),
                ("events of outside queue systems", hall.outside),
                ("strangers who spoke for one", hall.foreign),
                ("deliveries that lapsed", exchange.lapsed),
                ("messages buried", exchange.buried),
                ("old tokens", exchange.old_tokens),
                ("deliveries that lapsed unheard", exchange.unheard),
                ("deliveries that lapsed overdue", exchange.overdue),
                ("deliveries of an earlier leader that lapsed", exchange.overdue_anew),
                ("requests within requests that were answered", exchange.within_answered),
                ("requests within requests that expired", exchange.within_expired),
            ];
            let seldom = [
                ("deliveries of a connector that said goodbye", exchange.gone),
                ("requests as deep as they may lie", exchange.deepest / 3),
                ("asks beyond a bound", exchange.impossible),
            ];
            let seldom = seldom.iter().filter(|_| self.runs >= SELDOM_FROM_RUNS);
            let unseen: Vec<&str> =
                seen.iter().chain(seldom).filter(|(_, n)| *n == 0).map(|(what, _)| *what).collect();
            if self.kinds.len() == Kind::ALL.len() && !unseen.is_empty() {
                lacks.push(format!("never seen: {}", unseen.join(", ")));
            }
        }
        let done = self.outcomes.get("done").copied().unwrap_or(0);
        if self.operations > 0 && (done as f64) < SUCCEEDED_MIN * self.operations as f64 {
            lacks.push(format!("only {done} of {} operations succeeded", self.operations));
        }
        lacks
    }
}

/// Plays seeds `first_seed..` and adds up what came of them. Which thread plays a seed changes nothing about it.
pub fn batch(config: &BatchConfig, progress: impl Fn(u64) + Sync) -> BatchReport {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(BatchReport::default());
    std::thread::scope(|scope| {
        for _ in 0..config.threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let at = next.fetch_add(1, Relaxed);
                    if at >= config.seeds {
                        return;
                    }
                    let seed = config.first_seed.wrapping_add(at);
                    let report = Run::new(Config { seed, trace: false, ..config.run.clone() }).execute();
                    if report.failure.is_some() && config.until_failure {
                        stop.store(true, Relaxed);
                    }
                    let mut total = total.lock();
                    total.add(report);
                    progress(total.runs);
                }
            });
        }
    });
    let mut total = total.into_inner();
    total.kinds = config.run.kinds.clone();
    total.lacks = total.lacking();
    total
}
