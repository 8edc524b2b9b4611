//! `okno-chaos drill`: which drills run, how often, and where their report goes.

use crate::{
    cli::{DrillArgs, Format},
    output::{self, Ending},
};
use anyhow::Context;
use okno_checks::report::{DrillReport, Outcome};
use okno_drills::{Drill, Options, Progress};
use std::{fs, path::Path};

pub fn run(args: &DrillArgs) -> anyhow::Result<Ending> {
    if args.names.iter().any(|name| name == "list") {
        list(args.output)?;
        return Ok(Ending::Held);
    }
    let mut drills = match okno_drills::select(&args.names) {
        Ok(drills) => drills,
        Err(name) => {
            eprintln!("okno-chaos: there is no drill {name:?}; `okno-chaos drill list` names them all");
            return Ok(Ending::Usage);
        }
    };
    if args.without_root {
        drills.retain(|drill| !drill.needs_root());
    }
    let options = Options {
        seed: args.seed.unwrap_or_else(output::fresh_seed),
        wait: args.wait,
        bin_dir: args.bin_dir.clone(),
        ..Options::default()
    };
    let mut reports = Vec::new();
    for round in 0..u64::from(args.times) {
        let options = Options { seed: options.seed.wrapping_add(round), ..options.clone() };
        reports.extend(okno_drills::run(&drills, &options, tell));
    }
    if args.output == Format::Json {
        output::json(&reports)?;
    }
    if let Some(folder) = &args.report {
        write_report(folder, &reports)?;
    }
    Ok(ending(&reports))
}

/// Progress goes to standard error, so that standard output holds the report alone.
pub fn tell(progress: Progress<'_>) {
    match progress {
        Progress::Missing { drill, missing } => {
            eprintln!("{:<22} will be skipped: {}", drill.name, missing.join("; "));
        }
        Progress::Begins { drill, number, of } => {
            eprintln!("[{number}/{of}] {}: {}", drill.name, drill.scenario)
        }
        Progress::Ended { report } => eprintln!("{}", line(report)),
    }
}

/// One line of what a drill came to.
pub fn line(report: &DrillReport) -> String {
    let ms = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
    let verdict = match report.verdict {
        Outcome::Held => "held",
        Outcome::Broken => "BROKEN",
        Outcome::Skipped => "skipped",
    };
    let mut text = format!("{:<22} {verdict:<8}", report.name);
    if report.verdict != Outcome::Skipped {
        text.push_str(&format!(
            "{:>7} acknowledged, {} lost, {} doubled; down {}, redundant after {}; {:.1} s",
            report.acknowledged,
            report.lost,
            report.duplicated,
            ms(report.downtime_ms),
            ms(report.redundancy_ms),
            report.took_ms as f64 / 1_000.0,
        ));
    }
    if !report.explanation.is_empty() {
        text.push_str(&format!("\n    {}", report.explanation));
    }
    text
}

/// Held only when every drill asked for ran and held: one that was skipped has proved nothing.
pub fn ending(reports: &[DrillReport]) -> Ending {
    let held = !reports.is_empty() && reports.iter().all(|report| report.verdict == Outcome::Held);
    if held { Ending::Held } else { Ending::Broken }
}

pub fn write_report(folder: &Path, reports: &[DrillReport]) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let json = serde_json::to_vec_pretty(reports)?;
    let page = okno_checks::page::render(&output::about(), reports, None);
    for (name, bytes) in [("report.json", json), ("report.html", page.into_bytes())] {
        let path = folder.join(name);
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

fn list(format: Format) -> anyhow::Result<()> {
    let drills = okno_drills::list();
    if format == Format::Json {
        let rows: Vec<_> = drills.iter().map(describe).collect();
        return output::json(&rows);
    }
    let mut table = output::table(["drill", "rows", "needs", "scenario"]);
    for drill in drills {
        let rows: Vec<String> = drill.faults.iter().map(u32::to_string).collect();
        let needs: Vec<String> = drill.needs.iter().map(|need| format!("{need:?}")).collect();
        table.add_row([drill.name, &rows.join(", "), &needs.join(", "), drill.scenario]);
    }
    output::print(&format!("{table}\n"))
}

fn describe(drill: &Drill) -> serde_json::Value {
    serde_json::json!({
        "name": drill.name,
        "faults": drill.faults,
        "needs": drill.needs,
        "scenario": drill.scenario,
        "expected": drill.expected,
    })
}
