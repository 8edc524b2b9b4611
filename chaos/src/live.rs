//! `okno-chaos live`: a guarded drill against a running cluster. The guards are in `okno_drills::live`; here the operator is
//! asked.

use crate::{
    cli::{Format, LiveArgs},
    drill,
    output::{self, Ending},
};
use okno_drills::live::{Commands, Live, LiveError, NAMES};
use std::io::{BufRead, IsTerminal, Write};

pub fn run(args: &LiveArgs) -> anyhow::Result<Ending> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(course(args));
    match outcome {
        Ok(report) => {
            output::warn(&drill::line(&report));
            let reports = [report];
            if args.output == Format::Json {
                output::json(&reports)?;
            }
            if let Some(folder) = &args.report {
                drill::write_report(folder, &reports)?;
            }
            Ok(drill::ending(&reports))
        }
        Err(
            error @ (LiveError::Unknown(_) | LiveError::Commands | LiveError::Setup(_) | LiveError::Nameless),
        ) => {
            output::warn(&format!("okno-chaos: {error}"));
            Ok(Ending::Usage)
        }
        Err(error @ (LiveError::Unsafe(_) | LiveError::NotConfirmed { .. })) => {
            output::warn(&format!("okno-chaos: {error}"));
            Ok(Ending::Broken)
        }
    }
}

async fn course(args: &LiveArgs) -> Result<okno_checks::report::DrillReport, LiveError> {
    let Some((_, what)) = NAMES.iter().find(|(name, _)| *name == args.name) else {
        return Err(LiveError::Unknown(args.name.clone()));
    };
    let live = Live::open(&args.context)?;
    // Before the operator is asked: whoever types a cluster's name should know that it is safe.
    let facts = live.check().await?;
    output::warn(&format!(
        "cluster {}: {} members serve and have caught up; node {} leads in term {}.\n{}: {what}.",
        live.cluster(),
        facts.members.len(),
        facts.leader,
        facts.term,
        args.name,
    ));
    let typed = args.yes.clone().unwrap_or_else(|| ask(live.cluster()));
    let confirmed = live.confirm(typed.trim())?;
    let commands = match (&args.stop_command, &args.start_command) {
        (Some(stop), Some(start)) => Some(Commands { stop: stop.clone(), start: start.clone() }),
        _ => None,
    };
    live.run(&args.name, confirmed, commands.as_ref()).await
}

/// What the operator types; nothing where nobody can be asked.
fn ask(cluster: &str) -> String {
    if !std::io::stdin().is_terminal() {
        return String::new();
    }
    eprint!("Type the cluster's name ({cluster}) to go on: ");
    // A prompt that cannot be shown is answered by nothing, which confirms nothing.
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(_) => line,
        Err(_) => String::new(),
    }
}
