//! `okno-chaos sim`: one seed or many, what failed, and the smallest run that still fails.

use crate::{
    cli::{Format, SimArgs},
    output::{self, Ending},
};
use indicatif::{ProgressBar, ProgressStyle};
use okno_sim::{BatchConfig, BatchReport, Config, Run, RunReport, batch, minimise};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Seeds of one batch when a time is given: enough for every kind of fault to happen in it, a fraction of a minute.
const CHUNK: u64 = 1_000;
/// Failing seeds that are made smaller; each takes as long as some dozens of runs.
const MINIMISED_MAX: usize = 3;

/// What a batch came to, as JSON has it.
#[derive(Debug, Serialize)]
struct Summary {
    first_seed: u64,
    seeds: u64,
    steps: u64,
    steps_min: u64,
    virtual_hours: f64,
    seconds: f64,
    seeds_per_minute: f64,
    operations: u64,
    outcomes: BTreeMap<String, u64>,
    injected: BTreeMap<&'static str, u64>,
    /// What happened in halls and channels.
    judged: BTreeMap<&'static str, u64>,
    /// Runs in which each invariant was judged to hold.
    held: BTreeMap<&'static str, u64>,
    peaks: BTreeMap<&'static str, Peak>,
    lacks: Vec<String>,
    failures: u64,
    failed: Vec<Failed>,
}

#[derive(Debug, Serialize)]
struct Peak {
    highest: usize,
    bound: usize,
}

#[derive(Debug, Serialize)]
struct Failed {
    /// As `--run` and the file of recorded seeds take it.
    run: String,
    check: &'static str,
    detail: String,
    /// The smallest run found that fails alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    smallest: Option<String>,
}

pub fn run(args: &SimArgs) -> anyhow::Result<Ending> {
    let template = match template(args) {
        Ok(template) => template,
        Err(error) => {
            output::warn(&format!("okno-chaos: {error}"));
            return Ok(Ending::Usage);
        }
    };
    if let Some(mutant) = template.mutant {
        #[cfg(feature = "mutants")]
        okno_sim::planted::choose(Some(mutant));
        #[cfg(not(feature = "mutants"))]
        {
            output::warn(&format!(
                "{} is not compiled into this program: run okno-chaos-mutants",
                mutant.name()
            ));
            return Ok(Ending::Usage);
        }
    }
    if args.seed.is_some() || args.run.is_some() {
        return one(&template, args);
    }
    let first_seed = args.from.unwrap_or_else(output::fresh_seed);
    let threads = args.threads.map_or_else(output::cores, usize::from);
    let began = Instant::now();
    let bar = bar(args);
    let mut total = BatchReport::default();
    loop {
        let seeds = if args.for_time.is_some() { CHUNK } else { args.seeds };
        let config = BatchConfig {
            run: template.clone(),
            first_seed: first_seed.wrapping_add(total.runs),
            seeds,
            threads,
            until_failure: false,
        };
        let before = total.runs;
        total.merge(batch(&config, |runs| {
            let seconds = began.elapsed().as_secs();
            bar.set_position(args.for_time.map_or(before + runs, |_| seconds));
        }));
        match args.for_time {
            Some(time) if began.elapsed() < time || total.runs < args.seeds => {}
            _ => break,
        }
    }
    bar.finish_and_clear();
    let differing = if args.twice { differing(&template, first_seed, total.runs) } else { Vec::new() };
    let mut summary = summary(&total, first_seed, began.elapsed());
    summary.lacks.extend(differing);
    if !args.no_minimise {
        for (failed, found) in summary.failed.iter_mut().zip(&total.failed).take(MINIMISED_MAX) {
            output::warn(&format!("{}: looking for the smallest run that fails alike", failed.run));
            failed.smallest = minimise::minimise(&found.config).map(|smallest| smallest.config.to_string());
        }
    }
    match args.output {
        Format::Json => output::json(&summary)?,
        Format::Text => output::print(&text(&summary))?,
    }
    let held = total.held() && summary.lacks.is_empty();
    Ok(if held { Ending::Held } else { Ending::Broken })
}

/// Every run's configuration but its seed.
fn template(args: &SimArgs) -> Result<Config, okno_sim::config::ConfigError> {
    let mut config = match &args.run {
        Some(line) => line.parse()?,
        None => Config { steps: args.steps, ..Config::new(args.seed.unwrap_or(0)) },
    };
    if let Some(kinds) = &args.kinds {
        config.kinds = okno_sim::config::kinds_of(kinds)?;
    }
    config.trace = args.trace;
    Ok(config)
}

/// One run, played twice: the trace of a seed is one and the same, or nothing else it says counts.
fn one(config: &Config, args: &SimArgs) -> anyhow::Result<Ending> {
    let report = Run::new(config.clone()).execute();
    let again = Run::new(config.clone()).execute();
    let same = report.same(&again);
    if args.output == Format::Json {
        output::json(&serde_json::json!({
            "run": config.to_string(),
            "trace_hash": format!("{:016x}", report.trace_hash),
            "same_twice": same,
            "nodes": report.nodes,
            "steps": report.steps,
            "virtual_ms": report.virtual_ms,
            "operations": report.operations,
            "outcomes": report.outcomes,
            "injected": named(&report.injected),
            "verdicts": report.verdicts,
            "failure": report.failure.as_ref().map(|failure| (failure.id(), &failure.detail)),
            "trace": report.trace,
        }))?;
    } else {
        for line in &report.trace {
            output::print(&format!("{line}\n"))?;
        }
        output::print(&story(config, &report, same))?;
    }
    if report.failure.is_some()
        && !args.no_minimise
        && let Some(smallest) = minimise::minimise(config)
    {
        output::warn(&format!("the smallest run found that fails alike: {}", smallest.config));
    }
    Ok(if report.failure.is_none() && same { Ending::Held } else { Ending::Broken })
}

fn story(config: &Config, report: &RunReport, same: bool) -> String {
    let mut out = format!(
        "{config}\n{} nodes, {} steps in {:.1} virtual seconds; trace {:016x}, {}\n",
        report.nodes,
        report.steps,
        report.virtual_ms as f64 / 1_000.0,
        report.trace_hash,
        if same { "the same twice" } else { "NOT THE SAME when played again" },
    );
    out.push_str(&format!("operations  {}\n", counts(report.outcomes.iter())));
    out.push_str(&format!("injected    {}\n", counts(named(&report.injected).iter())));
    for verdict in &report.verdicts {
        let word = if verdict.held { "held  " } else { "BROKEN" };
        out.push_str(&format!("{word} {:<24} {}\n", verdict.id.id(), verdict.detail));
    }
    if let Some(failure) = report.failure.as_ref().filter(|_| report.verdicts.is_empty()) {
        out.push_str(&format!("BROKEN {}\n", failure.detail));
    }
    out
}

/// Seeds whose trace is another when they are played again.
fn differing(template: &Config, first_seed: u64, seeds: u64) -> Vec<String> {
    let differs = |seed: &u64| {
        let run = || Run::new(Config { seed: *seed, trace: false, ..template.clone() }).execute();
        !run().same(&run())
    };
    (0..seeds)
        .map(|at| first_seed.wrapping_add(at))
        .filter(differs)
        .map(|seed| format!("seed {seed} is not the same when played again"))
        .collect()
}

fn summary(total: &BatchReport, first_seed: u64, took: Duration) -> Summary {
    let seconds = took.as_secs_f64();
    Summary {
        first_seed,
        seeds: total.runs,
        steps: total.steps,
        steps_min: total.steps_min,
        virtual_hours: total.virtual_ms as f64 / 3_600_000.0,
        seconds,
        seeds_per_minute: total.runs as f64 * 60.0 / seconds.max(f64::EPSILON),
        operations: total.operations,
        outcomes: total.outcomes.clone(),
        injected: named(&total.injected),
        judged: total.facts.named().collect(),
        held: total.held.iter().map(|(invariant, runs)| (invariant.id(), *runs)).collect(),
        peaks: total
            .peaks
            .iter()
            .map(|(name, (highest, bound))| (*name, Peak { highest: *highest, bound: *bound }))
            .collect(),
        lacks: total.lacks.clone(),
        failures: total.failures,
        failed: total
            .failed
            .iter()
            .map(|failed| Failed {
                run: failed.config.to_string(),
                check: failed.failure.id(),
                detail: failed.failure.detail.clone(),
                smallest: None,
            })
            .collect(),
    }
}

fn named(injected: &BTreeMap<okno_sim::Kind, u64>) -> BTreeMap<&'static str, u64> {
    injected.iter().map(|(kind, count)| (kind.id(), *count)).collect()
}

fn counts<N: std::fmt::Display>(counts: impl Iterator<Item = (N, impl std::fmt::Display)>) -> String {
    counts.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn text(summary: &Summary) -> String {
    let mut out = format!(
        "{} seeds from {}: {} steps (at least {} a seed), {:.1} virtual hours, in {:.1} s: {:.0} seeds a minute\n",
        summary.seeds,
        summary.first_seed,
        summary.steps,
        summary.steps_min,
        summary.virtual_hours,
        summary.seconds,
        summary.seeds_per_minute,
    );
    out.push_str(&format!("operations  {} ({})\n", summary.operations, counts(summary.outcomes.iter())));
    out.push_str(&format!("injected    {}\n", counts(summary.injected.iter())));
    out.push_str(&format!("judged      {}\n", counts(summary.judged.iter())));
    for (id, runs) in &summary.held {
        out.push_str(&format!("held in {runs:>8} runs  {id}\n"));
    }
    for lack in &summary.lacks {
        out.push_str(&format!("LACKS  {lack}\n"));
    }
    for failed in &summary.failed {
        out.push_str(&format!(
            "BROKEN {}: {}\n    okno-chaos sim --run '{}' --trace\n",
            failed.check, failed.detail, failed.run
        ));
        if let Some(smallest) = &failed.smallest {
            out.push_str(&format!("    smallest: okno-chaos sim --run '{smallest}' --trace\n"));
        }
    }
    if summary.failures > summary.failed.len() as u64 {
        out.push_str(&format!("... {} seeds failed in all\n", summary.failures));
    }
    out
}

fn bar(args: &SimArgs) -> ProgressBar {
    let bar = ProgressBar::new(args.for_time.map_or(args.seeds, |time| time.as_secs()));
    let unit = if args.for_time.is_some() { "s" } else { "seeds" };
    let style = ProgressStyle::with_template(&format!("{{bar:40}} {{pos}}/{{len}} {unit}, {{eta}} left"));
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
