//! Runs drills one after the other and tells what each came to.
//!
//! Invariants: what a drill needs and the machine has not is said before anything runs, and in the report; a drill that
//! unwinds is broken, and so is one whose faults did not happen; whatever it started is gone before the next begins.

use crate::bench::Bench;
use crate::drill::Drill;
use crate::harness::cluster;
use crate::{Options, cleanup, finish};
use futures::FutureExt;
use okno_checks::invariants::{Invariant, Verdict};
use okno_checks::report::{DrillReport, Outcome};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

/// Longer than any drill takes besides the time the power stays off.
pub const DRILL_WITHIN: Duration = Duration::from_secs(150);

/// What a caller of [`run`] is told while drills run.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Said first, before anything runs.
    Missing {
        drill: &'a Drill,
        missing: &'a [String],
    },
    Begins {
        drill: &'a Drill,
        number: usize,
        of: usize,
    },
    Ended {
        report: &'a DrillReport,
    },
}

impl std::fmt::Debug for Drill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Runs the drills in order. Blocks; signals clean up and end the program meanwhile.
pub fn run(drills: &[&Drill], options: &Options, mut tell: impl FnMut(Progress<'_>)) -> Vec<DrillReport> {
    cleanup::on_signals();
    if let Some(folder) = &options.bin_dir {
        cluster::use_binaries_of(folder);
    }
    let missing: Vec<Vec<String>> = drills.iter().map(|drill| drill.missing()).collect();
    for (drill, missing) in drills.iter().zip(&missing) {
        if !missing.is_empty() {
            tell(Progress::Missing { drill, missing });
        }
    }
    let mut reports = Vec::new();
    for (number, (drill, missing)) in (1..).zip(drills.iter().zip(&missing)) {
        let report = if missing.is_empty() {
            tell(Progress::Begins { drill, number, of: drills.len() });
            // Waiting for somebody else's cluster to end is no part of the drill's time.
            drop(cluster::alone());
            run_one(drill, options)
        } else {
            let mut report = blank(drill, options);
            report.verdict = Outcome::Skipped;
            report.explanation = format!("not run: {}", missing.join("; "));
            report
        };
        tell(Progress::Ended { report: &report });
        reports.push(report);
    }
    reports
}

fn blank(drill: &Drill, options: &Options) -> DrillReport {
    DrillReport::begin(drill.name, drill.faults, options.seed, drill.scenario.to_owned(), drill.expected)
}

fn run_one(drill: &Drill, options: &Options) -> DrillReport {
    let began = Instant::now();
    let mut report = blank(drill, options);
    let mut problems = Vec::new();
    // Two threads: the load must not wait for a drill that waits for a command.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let mut bench = Bench::new(options.clone());
    let limit = DRILL_WITHIN + options.wait;
    let course = async {
        let run = AssertUnwindSafe((drill.run)(&mut bench)).catch_unwind();
        match tokio::time::timeout(limit, run).await {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => problems.push(text_of(&*panic)),
            Err(_) => problems.push(format!("the drill did not end within {limit:?}")),
        }
        // What it came to is checked whether or not it went as expected.
        let checks = AssertUnwindSafe(finish::checks(&mut bench, &mut report)).catch_unwind().await;
        if let Err(panic) = checks {
            problems.push(format!("the final checks could not be made: {}", text_of(&*panic)));
        }
    };
    runtime.block_on(course);
    conclude(&bench, &mut report, problems);
    let dropped = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let _context = runtime.enter();
        drop(bench);
    }));
    if let Err(panic) = dropped {
        report.verdict = Outcome::Broken;
        report.explanation.push_str(&format!(" Not all could be cleaned up: {}.", text_of(&*panic)));
    }
    runtime.shutdown_background();
    report.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    report
}

/// What the bench saw becomes the report, and the report a verdict.
fn conclude(bench: &Bench, report: &mut DrillReport, mut problems: Vec<String>) {
    report.injected.clone_from(&bench.injected);
    report.figures.extend(bench.figures.clone());
    report.redundancy_ms = bench.redundancy.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    report.timeline.marks.clone_from(&bench.marks);
    report.invariants = merged(&bench.verdicts);
    if bench.injected.is_empty() {
        problems.push("no fault was injected".to_owned());
    }
    if report.acknowledged == 0 && problems.is_empty() {
        problems.push("no write was acknowledged: nothing was put to the test".to_owned());
    }
    if report.lost + report.duplicated > 0 {
        problems.push(format!("{} acknowledged writes lost, {} there twice", report.lost, report.duplicated));
    }
    for (kind, _) in bench.injected.iter().filter(|(_, count)| **count == 0) {
        problems.push(format!("{kind} was to be injected and never happened"));
    }
    for broken in report.invariants.iter().filter(|verdict| !verdict.held) {
        problems.push(format!("{} is broken: {}", broken.id.id(), broken.detail));
    }
    report.verdict = if problems.is_empty() { Outcome::Held } else { Outcome::Broken };
    report.explanation = problems.join(". ");
}

/// One verdict an invariant: it held when every one of its checks did.
fn merged(verdicts: &[Verdict]) -> Vec<Verdict> {
    let mut by_id: BTreeMap<Invariant, Verdict> = BTreeMap::new();
    for verdict in verdicts {
        let entry = by_id.entry(verdict.id).or_insert_with(|| Verdict {
            id: verdict.id,
            held: true,
            detail: String::new(),
        });
        // How it broke is what a reader looks for first.
        let text = if entry.detail.is_empty() {
            verdict.detail.clone()
        } else if verdict.held || !entry.held {
            format!("{}; {}", entry.detail, verdict.detail)
        } else {
            format!("{}; {}", verdict.detail, entry.detail)
        };
        entry.detail = text;
        entry.held &= verdict.held;
    }
    by_id.into_values().collect()
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::Need;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn drill(run: for<'a> fn(&'a mut Bench) -> futures::future::LocalBoxFuture<'a, ()>) -> Drill {
        Drill { name: "test", faults: &[1], needs: &[], scenario: "s", expected: "e", run }
    }

    fn run_alone(drill: &Drill) -> DrillReport {
        run(&[drill], &Options::default(), |_| {}).pop().expect("one report for one drill")
    }

    #[test]
    fn an_expectation_that_does_not_hold_breaks_the_drill_and_all_is_cleaned_up() {
        static CLEANED: AtomicBool = AtomicBool::new(false);
        let report = run_alone(&drill(|bench| {
            Box::pin(async move {
                bench.injected("fault", 1);
                bench.keep(cleanup::register("a mount", || CLEANED.store(true, Ordering::SeqCst)));
                panic!("the leader was not replaced");
            })
        }));
        assert_eq!(report.verdict, Outcome::Broken);
        assert!(report.explanation.contains("the leader was not replaced"), "{}", report.explanation);
        assert!(CLEANED.load(Ordering::SeqCst));
        assert!(!cleanup::registered().contains(&"a mount".to_owned()));
    }

    #[test]
    fn a_fault_that_never_happened_breaks_the_drill() {
        let none = run_alone(&drill(|_| Box::pin(async {})));
        assert_eq!(none.verdict, Outcome::Broken);
        assert!(none.explanation.contains("no fault was injected"), "{}", none.explanation);
        let zero = run_alone(&drill(|bench| {
            Box::pin(async move {
                bench.injected("cut", 1);
                bench.injected("heal", 0);
            })
        }));
        assert_eq!(zero.verdict, Outcome::Broken);
        assert!(zero.explanation.contains("heal was to be injected"), "{}", zero.explanation);
        assert_eq!(zero.injected["cut"], 1);
    }

    #[test]
    fn a_drill_under_no_load_proves_nothing() {
        let report = run_alone(&drill(|bench| Box::pin(async move { bench.injected("cut", 1) })));
        assert_eq!(report.verdict, Outcome::Broken);
        assert!(report.explanation.contains("no write was acknowledged"), "{}", report.explanation);
    }

    #[test]
    fn a_broken_invariant_breaks_the_drill_and_is_told_first() {
        let report = run_alone(&drill(|bench| {
            Box::pin(async move {
                bench.injected("cut", 1);
                bench.check(Invariant::Refused, true, "one was refused");
                bench.check(Invariant::Refused, false, "another got in");
            })
        }));
        assert_eq!(report.verdict, Outcome::Broken);
        let told: Vec<_> = report.invariants.iter().map(|v| (v.id, v.held, v.detail.as_str())).collect();
        assert_eq!(told, [(Invariant::Refused, false, "another got in; one was refused")]);
    }

    #[test]
    fn what_is_missing_is_said_first_and_the_drill_is_skipped() {
        static RAN: AtomicBool = AtomicBool::new(false);
        let mut wants = drill(|_| Box::pin(async { RAN.store(true, Ordering::SeqCst) }));
        wants.needs = &[Need::FaultyBinary];
        let folder = tempfile::tempdir().unwrap();
        let options = Options { bin_dir: Some(folder.path().to_owned()), ..Options::default() };
        let mut said = Vec::new();
        let reports = run(&[&wants], &options, |progress| {
            said.push(match progress {
                Progress::Missing { missing, .. } => missing.join(", "),
                Progress::Begins { .. } => "begins".to_owned(),
                Progress::Ended { report } => format!("{:?}", report.verdict),
            });
        });
        assert_eq!(reports[0].verdict, Outcome::Skipped);
        assert!(reports[0].explanation.contains("okno-faulty is not there"), "{}", reports[0].explanation);
        assert!(said[0].contains("okno-faulty is not there"), "{said:?}");
        assert_eq!(said[1..], ["Skipped"]);
        assert!(!RAN.load(Ordering::SeqCst));
    }
}
