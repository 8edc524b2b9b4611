//! `okno dev`: a cluster of real processes on this machine, and a story told while its leader is killed.
//!
//! | module | does |
//! |---|---|
//! | `certificates` | two authorities and the identities they sign |
//! | `ports` | free ports of the loopback address |
//! | `prepare` | the directory: settings, data directories, `dev.json`, `oknoctl.toml` |
//! | `processes` | the nodes as child processes, none ever left behind |
//! | `cluster` | the nodes together: start, readiness, who leads |
//! | `fixtures` | offices, officers and visitors, all made up |
//! | `desk` | one caller's calls to the public interface |
//! | `ledger` | every acknowledged step, to be asked for at the end |
//! | `story` | the visitor's way through the centre |
//! | `hall` | the hall board, and a workstation that dies |
//! | `channel` | a channel, and the connector that a node looks after |
//! | `writers` | the clients that work beside it |
//! | `verdict` | every acknowledged step read back from every node's own store |
//!
//! Everything goes through the public interface, as any client's calls would; the one liberty taken is SIGKILL.

mod certificates;
mod channel;
mod cluster;
mod desk;
mod fixtures;
mod hall;
mod ledger;
mod ports;
mod prepare;
mod processes;
mod scene;
mod story;
mod terminal;
mod verdict;
mod writers;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use terminal::Terminal;

/// Fewer than three nodes survive no failure, more than seven nobody runs on one machine.
const NODES: std::ops::RangeInclusive<u64> = 1..=7;

/// Runs a development cluster on this machine and shows that it survives the loss of its leader.
#[derive(Debug, Clone, clap::Args)]
pub struct DevArgs {
    /// Tell the story once, verify, stop everything and exit.
    #[arg(long)]
    pub once: bool,
    /// Where certificates, settings, data and logs go; a temporary directory if absent. A directory that holds a
    /// development cluster already is started again.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Number of nodes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=7))]
    pub nodes: u64,
    /// Make the directory with everything in it, and start nothing.
    #[arg(long, requires = "dir", conflicts_with = "once")]
    pub prepare: bool,
    /// Be the connector of the story in this directory: what a node of it starts.
    #[arg(long, requires = "dir", conflicts_with_all = ["once", "prepare"], hide = true)]
    pub connector: bool,
    /// Repeats the random choices of an earlier run, which printed it.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
}

/// Exit code 0: everything that was acknowledged is there, once, on every node. 1: it is not, or the cluster could
/// not be run. Must be called outside of any runtime: children die with the thread that starts them, which has to be
/// the main one.
pub fn run(arguments: &DevArgs) -> ExitCode {
    let terminal = Terminal::new();
    let outcome = (|| {
        if !NODES.contains(&arguments.nodes) {
            bail!("--nodes must be between {} and {}", NODES.start(), NODES.end());
        }
        if arguments.prepare {
            let directory = arguments.dir.as_deref().context("--prepare needs --dir")?;
            prepare::prepare(directory, arguments.nodes)?.write()?;
            println!("{}", prepare::DevFile::path(directory).display());
            return Ok(());
        }
        if arguments.connector {
            let directory = arguments.dir.as_deref().context("--connector needs --dir")?;
            return runtime()?.block_on(channel::work(directory));
        }
        let (directory, temporary) = match &arguments.dir {
            Some(directory) => (directory.clone(), false),
            None => (temporary_directory()?, true),
        };
        let runtime = runtime()?;
        let outcome = runtime.block_on(scene::run(arguments, &directory, &terminal));
        // Whatever still runs in the background must not outlive the children it talks to.
        runtime.shutdown_background();
        if temporary {
            match &outcome {
                Ok(()) => remove(&directory, &terminal),
                Err(_) => {
                    terminal.plain(&format!("Журналы и данные узлов оставлены в {}", directory.display()))
                }
            }
        }
        outcome
    })();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("okno dev: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("starting the runtime of okno dev")
}

fn temporary_directory() -> Result<PathBuf> {
    let name = format!("okno-dev-{}", uuid::Uuid::new_v4().simple());
    Ok(std::env::temp_dir().join(name))
}

fn remove(directory: &Path, terminal: &Terminal) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        terminal.plain(&format!("Не удалось удалить {}: {error}", directory.display()));
    }
}
