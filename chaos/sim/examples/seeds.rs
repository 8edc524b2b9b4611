//! Plays seeds and prints what came of them: `seeds [LINE…]`, each word `key=value` as of a recorded seed, and
//! `first=`, `count=`, `threads=`, `trace=1`, `twice=1`.

#![allow(clippy::disallowed_methods, reason = "how long it took is shown to people")]

use okno_sim::{BatchConfig, Config, Run, batch};
use std::time::Instant;

fn main() {
    let (mut first, mut count, mut threads, mut trace, mut twice) = (0, 1, 2, false, false);
    let mut line = String::new();
    for word in std::env::args().skip(1) {
        match word.split_once('=') {
            Some(("first", value)) => first = value.parse().expect("a number"),
            Some(("count", value)) => count = value.parse().expect("a number"),
            Some(("threads", value)) => threads = value.parse().expect("a number"),
            Some(("trace", _)) => trace = true,
            Some(("twice", _)) => twice = true,
            _ => line = format!("{line} {word}"),
        }
    }
    let mut run: Config = line.parse().expect("a run");
    #[cfg(feature = "mutants")]
    okno_storage::planted::choose(run.mutant);
    if line.contains("seed=") {
        run.trace = trace;
        let report = Run::new(run.clone()).execute();
        for line in &report.trace {
            println!("{line}");
        }
        println!(
            "hash {:016x} steps {} virtual {} ms nodes {} operations {} {:?} injected {:?}\n{:?}",
            report.trace_hash,
            report.steps,
            report.virtual_ms,
            report.nodes,
            report.operations,
            report.outcomes,
            report.injected,
            report.figures
        );
        for verdict in &report.verdicts {
            println!(
                "{} {}: {}",
                if verdict.held { "held  " } else { "BROKEN" },
                verdict.id.id(),
                verdict.detail
            );
        }
        println!("{:?}", report.failure);
        if twice {
            assert!(report.same(&Run::new(run).execute()), "not the same twice");
        }
        return;
    }
    let began = Instant::now();
    let config = BatchConfig { run, first_seed: first, seeds: count, threads, until_failure: false };
    let report = batch(&config, |_| {});
    let took = began.elapsed().as_secs_f64();
    println!(
        "{} runs in {took:.1} s = {:.0}/min, {:.0} steps each (min {}), virtual {:.1} s each, operations {} {:?}",
        report.runs,
        report.runs as f64 * 60.0 / took,
        report.steps as f64 / report.runs as f64,
        report.steps_min,
        report.virtual_ms as f64 / 1000.0 / report.runs as f64,
        report.operations,
        report.outcomes
    );
    println!(
        "injected {:?}\nfigures {:?}\n{:?}\npeaks {:?}\nheld {:?}",
        report.injected, report.figures, report.facts, report.peaks, report.held
    );
    println!("failures {} lacks {:?}", report.failures, report.lacks);
    for failed in report.failed.iter().take(40) {
        println!("  {} -> {}: {}", failed.config, failed.failure.id(), failed.failure.detail);
    }
}
