//! The command line: what can be asked for, with what bounds.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, time::Duration};

/// Breaks Okno on purpose and tells what it saw.
///
/// Exit codes: 0 every invariant held, 1 one broke or a run did not do what it is for, 2 usage.
#[derive(Debug, Parser)]
#[command(name = "okno-chaos", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Whole clusters of production code in virtual time, one seed each
    Sim(SimArgs),
    /// Faults on real processes: one drill, several, or all
    Drill(DrillArgs),
    /// The guarded drills against a running cluster: `leader-transfer`, `stop-one-node`
    Live(LiveArgs),
    /// Plants one fault at a time into the product and shows which check catches it
    Mutants(MutantArgs),
    /// A workstation or connector as a process of its own: drills start, stop and kill it
    #[command(hide = true)]
    Play {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        part: Vec<String>,
    },
    /// The catalogue of invariants: what simulator and drills check
    Invariants {
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct SimArgs {
    /// Run exactly this seed
    #[arg(long, group = "one", conflicts_with_all = ["seeds", "for_time", "from"])]
    pub seed: Option<u64>,
    /// How many seeds to run; with --for, at least so many
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub seeds: u64,
    /// The first seed; without it the seeds are fresh ones
    #[arg(long)]
    pub from: Option<u64>,
    /// Go on for so long, e.g. 300s
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub for_time: Option<Duration>,
    /// Run exactly this, as a failure prints it, e.g. 'seed=7 steps=900 kinds=loss,crash'
    #[arg(long, group = "one", value_name = "LINE", conflicts_with_all = ["seed", "seeds", "for_time", "from"])]
    pub run: Option<String>,
    /// Kinds of faults that may happen: `all`, `none`, or names separated by commas
    #[arg(long, value_name = "KINDS")]
    pub kinds: Option<String>,
    /// Steps of a run before its faults end
    #[arg(long, default_value_t = okno_sim::config::STEPS, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub steps: u64,
    /// Threads; one seed always runs in one
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: Option<u16>,
    /// Print the trace of the one run
    #[arg(long, requires = "one")]
    pub trace: bool,
    /// Run every seed twice and compare the traces' hashes
    #[arg(long)]
    pub twice: bool,
    /// Leave a failing seed as it is instead of looking for a smaller run that fails alike
    #[arg(long)]
    pub no_minimise: bool,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct DrillArgs {
    /// Names of drills, `all`, or `list`
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Write report.html and report.json here
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Draws what a drill leaves to chance; a fresh one without it
    #[arg(long)]
    pub seed: Option<u64>,
    /// How long the power stays off in power-loss
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration)]
    pub wait: Duration,
    /// Where `okno`, `oknoctl` and `okno-faulty` lie; beside this program without it
    #[arg(long, value_name = "DIR", env = "OKNO_BIN_DIR")]
    pub bin_dir: Option<PathBuf>,
    /// Run every drill so many times
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub times: u32,
    /// Leave out the drills that need root instead of reporting them as skipped
    #[arg(long)]
    pub without_root: bool,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct LiveArgs {
    /// `leader-transfer` or `stop-one-node`
    pub name: String,
    /// The context file that oknoctl uses for this cluster
    #[arg(long, value_name = "FILE")]
    pub context: PathBuf,
    /// The cluster's name, typed out, instead of being asked for it
    #[arg(long, value_name = "CLUSTER")]
    pub yes: Option<String>,
    /// Stops the node; run through `sh -c`, the node's id in $OKNO_NODE
    #[arg(long, value_name = "COMMAND")]
    pub stop_command: Option<String>,
    /// Starts it again, likewise
    #[arg(long, value_name = "COMMAND")]
    pub start_command: Option<String>,
    /// Write report.html and report.json here
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct MutantArgs {
    /// Only these
    pub names: Vec<String>,
    /// Within so many seeds each must be caught
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// Those about the disk: also run the power-loss drill with a binary that has the fault, and with one that has not
    #[arg(long)]
    pub drills: bool,
    /// Where `okno` and `okno-faulty` lie; beside this program without it
    #[arg(long, value_name = "DIR", env = "OKNO_BIN_DIR")]
    pub bin_dir: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}
