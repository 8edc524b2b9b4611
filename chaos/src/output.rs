//! What all commands share: endings, tables, JSON, fresh seeds.

#[cfg(feature = "mutants")]
use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;
use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

/// How a command ended; the exit code follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Held,
    Broken,
    Usage,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        Self::from(match ending {
            Ending::Held => 0,
            Ending::Broken => 1,
            Ending::Usage => 2,
        })
    }
}

/// Nobody chose it, so no run repeats the last one; every report names it.
pub fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Room for a batch to count upwards from it without meeting another's; short enough to type.
    since.as_secs().wrapping_mul(1_000_000) % 1_000_000_000_000
}

/// Version and machine, for the head of a report.
pub fn about() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("okno-chaos {} on {} with {cores} cores", env!("CARGO_PKG_VERSION"), std::env::consts::OS)
}

pub fn table<const N: usize>(columns: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(columns);
    table
}

pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// To standard output; a reader that went away ends the program's interest, not its verdict.
pub fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// To standard error, for people who watch.
pub fn warn(text: &str) {
    eprintln!("{text}");
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Another program of ours: in `folder`, or beside this one.
#[cfg(feature = "mutants")]
pub fn sibling(name: &str, folder: Option<&std::path::Path>) -> anyhow::Result<std::path::PathBuf> {
    let path = match folder {
        Some(folder) => folder.join(name),
        None => std::env::current_exe().context("finding this program's file")?.with_file_name(name),
    };
    anyhow::ensure!(path.is_file(), "{} is not there: build it first (make faulty)", path.display());
    Ok(path)
}
