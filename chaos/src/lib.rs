//! The command line of `okno-chaos`: what is run, what is printed, and which exit code says how it ended.

mod cli;
mod drill;
mod live;
mod mutants;
mod output;
mod sim;

use clap::Parser;
use cli::{Cli, Command, Format};
use okno_checks::invariants::Invariant;
use output::Ending;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// The allocator production has, so that figures of the simulator mean something.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs the command line. Usage errors exit with 2, as clap does by itself.
pub fn run() -> ExitCode {
    // Simulated nodes complain as real ones do, thousands of times a second: only who asks hears them.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let ended = match &Cli::parse().command {
        Command::Sim(args) => sim::run(args),
        Command::Drill(args) => drill::run(args),
        Command::Live(args) => live::run(args),
        Command::Mutants(args) => mutants::run(args),
        Command::Play { part } => return okno_drills::programs::play(part),
        Command::Invariants { output } => invariants(*output),
    };
    match ended {
        Ok(ending) => ending.into(),
        Err(error) => {
            output::warn(&format!("okno-chaos: {error:#}"));
            Ending::Broken.into()
        }
    }
}

fn invariants(format: Format) -> anyhow::Result<Ending> {
    let rows = Invariant::ALL.iter().map(|invariant| (invariant.id(), invariant.title()));
    match format {
        Format::Json => output::json(
            &rows.map(|(id, title)| serde_json::json!({ "id": id, "title": title })).collect::<Vec<_>>(),
        )?,
        Format::Text => {
            output::print(&rows.map(|(id, title)| format!("{id:<24} {title}\n")).collect::<String>())?
        }
    }
    Ok(Ending::Held)
}
