//! `oknoctl`: the arguments, the commands behind them, and the exit code.
//!
//! Exit codes: 0 done, 1 refused, 2 usage, 3 not applied, 4 outcome unknown (design §8).

mod cases;
mod catalogue;
mod cluster;
mod connection;
mod directory;
mod output;
mod queue;
mod recover;

pub use connection::Connection;
pub use output::{Format, exit, line};

use crate::bench;
use clap::{CommandFactory, Parser, Subcommand};
use okno_client::{Answer, Call, CallError, CallOptions, Client, SetupError};
use std::process::ExitCode;

/// Talks to an Okno cluster.
#[derive(Debug, Parser)]
#[command(name = "oknoctl", version, about, max_term_width = 110)]
pub struct Cli {
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t, env = "OKNOCTL_OUTPUT")]
    pub output: Format,
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// What every node says about itself and the cluster
    Status,
    /// Members of the cluster
    #[command(subcommand)]
    Member(cluster::MemberCommand),
    /// Hand leadership over and check that it went
    TransferLeader(cluster::TransferArgs),
    /// Hash chains and row digests of every member
    Digest(cluster::DigestArgs),
    /// Follow cluster notices
    Notices(cluster::NoticesArgs),
    /// Cases: from taking the documents to handing over the result
    #[command(subcommand)]
    Case(cases::CaseCommand),
    /// The electronic queue of an office
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Services with their terms, and production calendars
    #[command(subcommand)]
    Catalogue(catalogue::CatalogueCommand),
    /// Offices, windows and people
    #[command(subcommand)]
    Directory(directory::DirectoryCommand),
    /// Single entities: what is known about them, ending a quarantine
    #[command(subcommand)]
    Entity(cluster::EntityCommand),
    /// Show or raise the replicated feature level
    #[command(subcommand)]
    Level(cluster::LevelCommand),
    /// Measure the cluster through its public API
    Bench(bench::BenchArgs),
    /// A cluster of one from the only member that is left: offline, on its data directory
    Recover(recover::RecoverArgs),
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
}

impl Command {
    /// The identity such calls are usually made with; `None`: the context file's own.
    fn usual_identity(&self) -> Option<&'static str> {
        match self {
            Self::Case(_) | Self::Queue(_) | Self::Bench(_) => Some("operator"),
            Self::Status
            | Self::Member(_)
            | Self::TransferLeader(_)
            | Self::Digest(_)
            | Self::Notices(_)
            | Self::Catalogue(_)
            | Self::Directory(_)
            | Self::Entity(_)
            | Self::Level(_)
            | Self::Recover(_)
            | Self::Completion { .. } => None,
        }
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The call failed in one of three ways.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The command cannot be understood or set up.
    #[error("{0}")]
    Usage(String),
    /// It was done, and found something broken.
    #[error("{0}")]
    Broken(String),
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Call(error) => output::exit_code(error.class()),
            Self::Usage(_) => exit::USAGE,
            Self::Broken(_) => exit::REFUSED,
        }
    }

    /// For standard error.
    fn text(&self, format: Format) -> String {
        match (self, format) {
            (Self::Call(error), Format::Json) => output::error_json(error).to_string(),
            (Self::Call(error), Format::Table) => output::error_text(error),
            (Self::Usage(text), _) => format!("oknoctl: {text}"),
            (Self::Broken(text), _) => text.clone(),
        }
    }
}

/// A client with what the command line says about every call.
pub struct Session {
    pub client: Client,
    pub format: Format,
    connection: Connection,
    endpoint: Option<usize>,
}

impl Session {
    async fn open(connection: &Connection, format: Format, usual: Option<&str>) -> Result<Self, Failure> {
        let client = connection.client(usual)?;
        let endpoint = match connection.node {
            None => None,
            Some(node) => {
                client.find_leader().await;
                Some(client.endpoint_of(node).ok_or_else(|| {
                    let endpoints: Vec<_> = client.endpoints().collect();
                    Failure::Usage(format!("no endpoint answers as node {node}: {}", endpoints.join(", ")))
                })?)
            }
        };
        Ok(Self { client, format, connection: connection.clone(), endpoint })
    }

    pub fn meta(&self) -> Option<okno_client::v1::RequestMeta> {
        self.connection.meta()
    }

    pub fn read(&self) -> Option<okno_client::v1::ReadOptions> {
        self.connection.read()
    }

    /// The endpoint of `--node`.
    pub fn endpoint(&self) -> Option<usize> {
        self.endpoint
    }

    pub async fn call<C: Call>(&self, request: C) -> Result<C::Response, Failure> {
        let options = CallOptions { endpoint: self.endpoint, ..CallOptions::default() };
        let Answer { response, attempts, endpoint } = self.client.call_with(request, options).await?;
        tracing::debug!(attempts, endpoint, "answered");
        Ok(response)
    }
}

/// Parses the arguments, runs the command, and turns what came of it into an exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("OKNOCTL_LOG").unwrap_or_default())
        .init();
    if let Command::Completion { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "oknoctl", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    // One thread: the benchmark shares the machine's cores with what it measures.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("oknoctl: {error}");
            return ExitCode::from(exit::NOT_APPLIED);
        }
    };
    let format = cli.output;
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(failure) => {
            eprintln!("{}", failure.text(format));
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let usual = cli.command.usual_identity();
    if let Command::Bench(args) = cli.command {
        return bench::run(cli.connection.client(usual)?, args, cli.output).await;
    }
    if let Command::Recover(args) = &cli.command {
        return recover::run(args, cli.output);
    }
    let session = Session::open(&cli.connection, cli.output, usual).await?;
    match cli.command {
        Command::Status => cluster::status(&session).await,
        Command::Member(command) => cluster::member(&session, command).await,
        Command::TransferLeader(args) => cluster::transfer_leader(&session, args).await,
        Command::Digest(args) => cluster::digest(&session, args).await,
        Command::Notices(args) => cluster::notices(&session, args).await,
        Command::Case(command) => cases::run(&session, command).await,
        Command::Queue(command) => queue::run(&session, command).await,
        Command::Catalogue(command) => catalogue::run(&session, command).await,
        Command::Directory(command) => directory::run(&session, command).await,
        Command::Entity(command) => cluster::entity(&session, command).await,
        Command::Level(command) => cluster::level(&session, command).await,
        Command::Bench(_) | Command::Recover(_) | Command::Completion { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests;
