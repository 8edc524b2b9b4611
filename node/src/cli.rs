//! The command line of `okno`. Exit codes: 0 done, 1 refused or an invariant broken, 2 usage (design §8).

use crate::{
    data, dev,
    identity::Caller,
    observability::chain,
    settings::{self, Override, SETTINGS_PATH, Settings},
    verify,
};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};
use uuid::Uuid;

const REFUSED: u8 = 1;
const USAGE: u8 = 2;

#[derive(Debug, Parser)]
#[command(name = "okno", version, about = "A node of a cluster that runs a region's public service centres")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a node, once, in an empty directory.
    Init(InitArgs),
    /// Run the node.
    Serve(SettingsArgs),
    /// Check the settings and the files they name, and print what is in effect.
    CheckConfig(SettingsArgs),
    /// Check the data of a stopped node: identity, log, hash chain, digest of all rows.
    Verify(VerifyArgs),
    /// Run a cluster on this machine for development, and tell a story with it.
    Dev(dev::DevArgs),
    /// Write manual pages and completion scripts into a folder; for packages.
    #[command(hide = true)]
    Paper { into: PathBuf },
}

/// Where settings come from; flag > environment > file > default.
#[derive(Debug, Clone, Args)]
struct SettingsArgs {
    /// Settings file.
    #[arg(long, value_name = "FILE", env = "OKNO_CONFIG", default_value = SETTINGS_PATH)]
    config: PathBuf,
    /// One setting, for example `--set node.data_dir=/data`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Args)]
struct InitArgs {
    /// Settings file to take the directory, cluster id and node id from.
    #[arg(long, value_name = "FILE", env = "OKNO_CONFIG")]
    config: Option<PathBuf>,
    /// Data directory; empty or absent.
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    dir: Option<PathBuf>,
    /// The cluster's id, the same on all nodes.
    #[arg(long, value_name = "UUID", required_unless_present = "config")]
    cluster_id: Option<Uuid>,
    /// This node's id; never used before in this cluster.
    #[arg(long, value_name = "N", required_unless_present = "config")]
    node_id: Option<u64>,
    /// The full initial member list, the same on all nodes: `1=host:7401,2=host:7401,3=host:7401`.
    #[arg(long, value_name = "LIST")]
    members: String,
    /// Join a cluster that is there: the list is the one it began with, which does not hold this node. Then
    /// `oknoctl member add` on any member lets it in.
    #[arg(long)]
    join: bool,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Data directory of a stopped node; otherwise the settings file's.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs the command line to its exit code. Call it on the main thread, before any runtime.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Init(arguments) => init(&arguments),
        Command::Serve(arguments) => serve(&arguments),
        Command::CheckConfig(arguments) => check_config(&arguments),
        Command::Verify(arguments) => verify(&arguments),
        Command::Dev(arguments) => return dev::run(&arguments),
        Command::Paper { into } => {
            okno_ops::paper::write(Cli::command(), &into).map_err(|error| Refusal::of(&error))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal { code, text }) => {
            eprintln!("okno: {text}");
            ExitCode::from(code)
        }
    }
}

/// Why the command did nothing.
struct Refusal {
    code: u8,
    text: String,
}

impl Refusal {
    fn of(error: &dyn std::error::Error) -> Self {
        Self { code: REFUSED, text: chain(error) }
    }
}

fn load(arguments: &SettingsArgs) -> Result<Settings, Refusal> {
    load_from(&arguments.config, &arguments.set)
}

fn load_from(path: &Path, set: &[String]) -> Result<Settings, Refusal> {
    let usage = |error: settings::SettingsError| Refusal { code: USAGE, text: chain(&error) };
    let mut overrides = Override::from_environment(std::env::vars());
    for flag in set {
        overrides.push(Override::from_flag(flag).map_err(usage)?);
    }
    settings::load(Some(path), &overrides).map_err(usage)
}

fn init(arguments: &InitArgs) -> Result<(), Refusal> {
    let settings = match &arguments.config {
        Some(path) => Some(load_from(path, &[])?),
        None => None,
    };
    let missing =
        |what: &str| Refusal { code: USAGE, text: format!("{what} is neither given nor in the settings") };
    let from_settings = settings.as_ref();
    let plan = data::InitPlan {
        directory: arguments
            .dir
            .clone()
            .or_else(|| from_settings.map(|settings| settings.node.data_dir.clone()))
            .ok_or_else(|| missing("--dir"))?,
        cluster: arguments
            .cluster_id
            .or_else(|| from_settings.and_then(|settings| settings.cluster.id))
            .ok_or_else(|| missing("--cluster-id"))?,
        node_id: arguments
            .node_id
            .or_else(|| from_settings.map(|settings| settings.node.id))
            .ok_or_else(|| missing("--node-id"))?,
        members: data::parse_members(&arguments.members)
            .map_err(|error| Refusal { code: USAGE, text: chain(&error) })?,
        join: arguments.join,
    };
    let made = data::init(&plan).map_err(|error| Refusal::of(&error))?;
    println!(
        "node {} of cluster {} made in {}, incarnation {}",
        made.node_id,
        made.cluster,
        plan.directory.display(),
        made.incarnation
    );
    Ok(())
}

fn serve(arguments: &SettingsArgs) -> Result<(), Refusal> {
    let settings = load(arguments)?;
    crate::node::run(settings).map_err(|error| Refusal { code: REFUSED, text: format!("{error:#}") })
}

fn check_config(arguments: &SettingsArgs) -> Result<(), Refusal> {
    let settings = load(arguments)?;
    for (side, section) in [("clients", &settings.clients.tls), ("peers", &settings.peers.tls)] {
        let material = crate::tls::Material::load(section).map_err(|error| Refusal::of(&error))?;
        Caller::check_own(material.leaf(), &settings.cluster.name, settings.node.id)
            .map_err(|detail| Refusal { code: REFUSED, text: format!("{side}.tls.certificate: {detail}") })?;
    }
    print!("{}", settings.to_toml());
    Ok(())
}

fn verify(arguments: &VerifyArgs) -> Result<(), Refusal> {
    let directory = match &arguments.dir {
        Some(directory) => directory.clone(),
        None => load(&arguments.settings)?.node.data_dir,
    };
    let report = verify::verify(&directory).map_err(|error| Refusal::of(&error))?;
    let text = serde_json::to_string_pretty(&report).map_err(|error| Refusal::of(&error))?;
    println!("{text}");
    for doubt in &report.doubts {
        eprintln!("okno: {doubt}");
    }
    if report.faults.is_empty() {
        return Ok(());
    }
    Err(Refusal { code: REFUSED, text: report.faults.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn init_needs_a_directory_and_ids_or_a_file() {
        let parse = |arguments: &[&str]| Cli::try_parse_from([&["okno", "init"], arguments].concat());
        assert!(parse(&["--members", "1=a:1"]).is_err());
        assert!(parse(&["--config", "f", "--members", "1=a:1"]).is_ok());
        let id = "0190b5f0-0000-7000-8000-000000000001";
        assert!(parse(&["--dir", "d", "--cluster-id", id, "--node-id", "1", "--members", "1=a:1"]).is_ok());
        assert!(
            parse(&["--dir", "d", "--cluster-id", id, "--node-id", "1"]).is_err(),
            "members are required"
        );
    }
}
