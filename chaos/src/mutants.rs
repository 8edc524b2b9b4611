//! `okno-chaos mutants`: plants one fault at a time into the product and shows which check catches it.
//!
//! The faults are compiled in only with the feature `mutants`. Without it this program hands the command to
//! `okno-chaos-mutants` beside it, which is the same program with the feature.

use crate::{
    cli::MutantArgs,
    output::{self, Ending},
};

/// The program with the feature.
#[cfg(not(feature = "mutants"))]
const PLANTED: &str = "okno-chaos-mutants";

#[cfg(not(feature = "mutants"))]
pub fn run(_args: &MutantArgs) -> anyhow::Result<Ending> {
    use anyhow::Context;
    use std::os::unix::process::CommandExt;

    let own = std::env::current_exe().context("finding this program's file")?;
    let planted = own.with_file_name(PLANTED);
    if !planted.is_file() {
        output::warn(&format!(
            "planted faults are not compiled into this program, and {} is not there: \
             build it with the feature `mutants` (make faulty)",
            planted.display()
        ));
        return Ok(Ending::Usage);
    }
    let error = std::process::Command::new(&planted).args(std::env::args_os().skip(1)).exec();
    Err(error).with_context(|| format!("starting {}", planted.display()))
}

#[cfg(feature = "mutants")]
pub use planted::run;

#[cfg(feature = "mutants")]
mod planted {
    use super::{Ending, MutantArgs, output};
    use crate::{cli::Format, drill};
    use okno_checks::report::{DrillReport, Outcome};
    use okno_drills::{Drill, Options};
    use okno_sim::{Config, Kind, Mutant, Run, RunReport, planted};
    use serde::Serialize;
    use std::{
        collections::BTreeMap,
        sync::{
            Mutex,
            atomic::{AtomicU64, Ordering},
        },
        thread,
        time::{Duration, Instant},
    };

    /// Faults that a power cut on real disks must bring to light too, and the drill that does.
    const ON_DISK: &[(Mutant, &str)] = &[(Mutant::SkipLogFsync, "power-loss")];
    /// A fence is the second line behind lanes and joins, so that hardly a run ever reaches it: what reaches it most is closing
    /// and opening entities between their calls, over longer runs.
    fn config(mutant: Mutant, seed: u64) -> Config {
        let mut config = Config { mutant: Some(mutant), ..Config::new(seed) };
        match mutant {
            Mutant::DropBaseCheck => {
                config.kinds = [Kind::CloseAndOpen].into();
                config.steps *= 2;
            }
            Mutant::SendBeforePersist => config.steps *= 2,
            // What these break needs members that lack something.
            Mutant::CutLogTooFar => config.kinds = [Kind::CutLog, Kind::Away, Kind::Crash].into(),
            Mutant::PromoteTooEarly => config.kinds = [Kind::Join, Kind::Replace, Kind::Recover].into(),
            Mutant::InstallHalfSnapshot => config.kinds = [Kind::Away, Kind::TwoCopies, Kind::Join].into(),
            Mutant::AcceptWipedId => config.kinds = [Kind::Wipe].into(),
            // A leader that is paused, deposed, and goes on, before the connectors have found the new one.
            Mutant::HeedFormerClock => {
                config.kinds = [Kind::Pause, Kind::ClientCut, Kind::ClockSkew].into();
                config.steps *= 2;
            }
            _ => {}
        }
        config
    }

    /// The drill's wait is the product's promise; here only the loss counts.
    const WAIT: Duration = Duration::from_secs(2);

    /// What became of one planted fault.
    #[derive(Debug, Serialize)]
    struct Row {
        mutant: &'static str,
        caught: bool,
        /// The first seed that caught it, its run as `sim --run` takes it, and the checks it broke.
        seed: Option<u64>,
        run: Option<String>,
        /// The same run without the fault.
        holds_without: bool,
        seeds_run: u64,
        checks: Vec<String>,
        detail: String,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        drills: Vec<DrillPair>,
    }

    /// The same drill with the fault and without.
    #[derive(Debug, Serialize)]
    struct DrillPair {
        drill: &'static str,
        caught: bool,
        with_fault: DrillReport,
        without: DrillReport,
    }

    pub fn run(args: &MutantArgs) -> anyhow::Result<Ending> {
        let mut chosen = Vec::new();
        for name in &args.names {
            match Mutant::ALL.iter().find(|mutant| mutant.name() == name) {
                Some(mutant) => chosen.push(*mutant),
                None => {
                    output::warn(&format!("there is no planted fault {name:?}"));
                    return Ok(Ending::Usage);
                }
            }
        }
        if chosen.is_empty() {
            chosen = Mutant::ALL.to_vec();
        }
        let mut rows = Vec::new();
        for mutant in chosen {
            let mut row = hunt(mutant, args);
            if args.drills {
                for (on_disk, drill) in ON_DISK {
                    if *on_disk == mutant {
                        row.drills.push(pair(mutant, drill, args)?);
                    }
                }
            }
            output::warn(&line(&row));
            rows.push(row);
        }
        let caught = rows.iter().all(|row| row.caught && row.drills.iter().all(|pair| pair.caught));
        match args.output {
            Format::Json => output::json(&rows)?,
            Format::Text => {
                let mut table = output::table(["planted fault", "seed", "caught by"]);
                for row in &rows {
                    let seed = row
                        .seed
                        .map_or_else(|| format!("none of {}", row.seeds_run), |seed| seed.to_string());
                    let mut by = row.checks.clone();
                    by.extend(
                        row.drills
                            .iter()
                            .filter(|pair| pair.caught)
                            .map(|pair| format!("drill {}", pair.drill)),
                    );
                    table.add_row([row.mutant.to_owned(), seed, by.join(", ")]);
                }
                output::print(&format!("{table}\n"))?;
            }
        }
        Ok(if caught { Ending::Held } else { Ending::Broken })
    }

    fn line(row: &Row) -> String {
        let mut text = match row.seed {
            Some(seed) => {
                format!("{:<26} caught by seed {seed}: {}: {}", row.mutant, row.checks.join(", "), row.detail)
            }
            None => format!("{:<26} NOT CAUGHT by {} seeds", row.mutant, row.seeds_run),
        };
        for pair in &row.drills {
            text.push_str(&format!(
                "\n    with the fault:    {}\n    without the fault: {}",
                drill::line(&pair.with_fault),
                drill::line(&pair.without)
            ));
        }
        text
    }

    /// Runs seeds in order until one breaks an invariant. Side by side, but the lowest seed that caught it counts, so that
    /// the answer does not depend on the machine.
    fn hunt(mutant: Mutant, args: &MutantArgs) -> Row {
        planted::choose(Some(mutant));
        let next = AtomicU64::new(args.from);
        let end = args.from + args.seeds;
        let found: Mutex<BTreeMap<u64, RunReport>> = Mutex::default();
        let ran = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..output::cores() {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        let done = |found: &BTreeMap<u64, RunReport>| {
                            found.keys().next().is_some_and(|low| *low < seed)
                        };
                        if seed >= end || done(&found.lock().expect("a run that panics is a report")) {
                            return;
                        }
                        let report = Run::new(config(mutant, seed)).execute();
                        ran.fetch_add(1, Ordering::Relaxed);
                        if report.failure.is_some() {
                            found.lock().expect("a run that panics is a report").insert(seed, report);
                        }
                    }
                });
            }
        });
        planted::choose(None);
        let found = found.into_inner().expect("a run that panics is a report").pop_first();
        // What fails without the fault too has not caught it.
        let holds_without = found.as_ref().is_some_and(|(_, report)| {
            Run::new(Config { mutant: None, ..report.config.clone() }).execute().failure.is_none()
        });
        let (checks, detail) = found.as_ref().map_or_else(Default::default, |(_, report)| {
            let failure = report.failure.as_ref().expect("only runs that failed are kept");
            let mut checks = vec![failure.id().to_owned()];
            let others =
                report.verdicts.iter().filter(|verdict| !verdict.held && verdict.id.id() != checks[0]);
            let others: Vec<String> = others.map(|verdict| verdict.id.id().to_owned()).collect();
            checks.extend(others);
            (checks, failure.detail.clone())
        });
        Row {
            mutant: mutant.name(),
            caught: found.is_some() && holds_without,
            run: found.as_ref().map(|(_, report)| report.config.to_string()),
            holds_without,
            seed: found.map(|(seed, _)| seed),
            seeds_run: ran.into_inner(),
            checks,
            detail,
            drills: Vec::new(),
        }
    }

    /// The drill twice, with the same binary: the fault chosen, and not. It catches the fault when it breaks with it
    /// and holds without.
    fn pair(mutant: Mutant, name: &'static str, args: &MutantArgs) -> anyhow::Result<DrillPair> {
        let drill: &Drill =
            okno_drills::drills::find(name).ok_or_else(|| anyhow::anyhow!("there is no drill {name:?}"))?;
        let began = Instant::now();
        let binary = output::sibling("okno-faulty", args.bin_dir.as_deref())?;
        let run = |mutant: Option<Mutant>| {
            let options = Options {
                wait: WAIT,
                bin_dir: args.bin_dir.clone(),
                binary: Some(binary.clone()),
                mutant: mutant.map(|mutant| mutant.name().to_owned()),
                ..Options::default()
            };
            okno_drills::run(&[drill], &options, drill::tell)
                .pop()
                .ok_or_else(|| anyhow::anyhow!("no report"))
        };
        let (with_fault, without) = (run(Some(mutant))?, run(None)?);
        let caught = with_fault.verdict == Outcome::Broken && without.verdict == Outcome::Held;
        tracing::debug!(took = ?began.elapsed(), name, "drilled twice");
        Ok(DrillPair { drill: name, caught, with_fault, without })
    }
}
