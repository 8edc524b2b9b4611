//! `oknoctl`: the arguments, the commands behind them, and the exit code.
//!
//! Exit codes: 0 done, 1 refused, 2 usage, 3 not applied, 4 outcome unknown (design §8).

/// Pages that one command reads: a bound against a server that never ends.
const PAGES_MAX: usize = 1_000;

/// All pages of a list in one answer: asks again, from where the page before ended, until nothing is left, or as many items
/// are there as are wanted at the most. Page tokens and items stand in messages of different types under the same names,
/// which only a macro can use.
macro_rules! every_page {
    ($session:expr, $request:expr, $items:ident) => {
        every_page!($session, $request, $items, at_most u32::MAX)
    };
    ($session:expr, $request:expr, $items:ident, at_most $most:expr) => {{
        let (mut request, most) = ($request, $most);
        request.page_size = request.page_size.min(most);
        let mut response = $session.call(request.clone()).await?;
        for _ in 1..$crate::cli::PAGES_MAX {
            let left = most.saturating_sub(u32::try_from(response.$items.len()).unwrap_or(u32::MAX));
            if left == 0 || response.next_page_token.is_empty() {
                break;
            }
            request.page_size = request.page_size.min(left);
            request.page_token = response.next_page_token;
            let mut page = $session.call(request.clone()).await?;
            response.$items.append(&mut page.$items);
            response.next_page_token = page.next_page_token;
            response.meta = page.meta;
        }
        response
    }};
}

mod alarms;
mod backup;
mod cases;
mod catalogue;
mod channel;
mod cluster;
mod connection;
mod directory;
mod every;
mod health;
mod journal;
mod log_level;
mod members;
mod output;
mod progress;
mod queue;
mod recover;
mod restore;
mod support;
mod top;

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
    Member(members::MemberCommand),
    /// Hand leadership over and check that it went
    TransferLeader(cluster::TransferArgs),
    /// Hash chains and row digests of every member
    Digest(cluster::DigestArgs),
    /// Live view of the cluster: members, load, latencies, queues, alarms
    Top(top::TopArgs),
    /// Whether every node lives and serves; exit code 1 when one does not
    Health,
    /// Standing alarms of all nodes
    #[command(subcommand)]
    Alarm(alarms::AlarmCommand),
    /// What the cluster did by itself or was told to do: power, levels, quarantines
    Journal(journal::JournalArgs),
    /// What a node logs
    #[command(subcommand)]
    LogLevel(log_level::LogLevelCommand),
    /// Gather what engineers need to look for a fault, without personal data, into one file
    SupportBundle(support::SupportArgs),
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
    /// Integration channels: backlog, connectors, dead letters
    #[command(subcommand)]
    Channel(channel::ChannelCommand),
    /// Offices, windows and people
    #[command(subcommand)]
    Directory(directory::DirectoryCommand),
    /// Single entities: what is known about them, ending a quarantine
    #[command(subcommand)]
    Entity(cluster::EntityCommand),
    /// Show or raise the replicated feature level
    #[command(subcommand)]
    Level(cluster::LevelCommand),
    /// Backups: taking them, and looking after a target
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Make data directories of a new cluster from a backup; offline
    Restore(restore::RestoreArgs),
    /// Measure the cluster through its public API
    Bench(bench::BenchArgs),
    /// A cluster of one from the only member that is left: offline, on its data directory
    Recover(recover::RecoverArgs),
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
    /// Write manual pages and completion scripts into a folder; for packages
    #[command(hide = true)]
    Paper { into: std::path::PathBuf },
}

impl Command {
    /// The identity such calls are usually made with; `None`: the context file's own.
    fn usual_identity(&self) -> Option<&'static str> {
        match self {
            Self::Case(_) | Self::Queue(_) | Self::Bench(_) => Some("operator"),
            Self::Status
            | Self::Top(_)
            | Self::Health
            | Self::Alarm(_)
            | Self::Journal(_)
            | Self::LogLevel(_)
            | Self::SupportBundle(_)
            | Self::Member(_)
            | Self::TransferLeader(_)
            | Self::Digest(_)
            | Self::Notices(_)
            | Self::Catalogue(_)
            | Self::Channel(_)
            | Self::Directory(_)
            | Self::Entity(_)
            | Self::Level(_)
            | Self::Recover(_)
            | Self::Backup(_)
            | Self::Restore(_)
            | Self::Completion { .. }
            | Self::Paper { .. } => None,
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
    /// Nothing was done, for a reason that may pass.
    #[error("{0}")]
    NotDone(String),
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
            Self::NotDone(_) => exit::NOT_APPLIED,
            Self::Broken(_) => exit::REFUSED,
        }
    }

    /// For standard error.
    fn text(&self, format: Format) -> String {
        match (self, format) {
            (Self::Call(error), Format::Json) => output::error_json(error).to_string(),
            (Self::Call(error), Format::Table) => output::error_text(error),
            (Self::Usage(text), _) => format!("oknoctl: {text}"),
            (Self::Broken(text) | Self::NotDone(text), _) => text.clone(),
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
    if let Command::Paper { into } = &cli.command {
        return match crate::paper::write(Cli::command(), into) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("oknoctl: {}: {error}", into.display());
                ExitCode::from(exit::REFUSED)
            }
        };
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
    let command = match cli.command {
        // No node is asked: none may be left.
        Command::Restore(args) => return restore::run(args, cli.output),
        Command::Backup(command) => match backup::offline(&command, cli.output) {
            Some(done) => return done,
            None => Command::Backup(command),
        },
        other => other,
    };
    let session = Session::open(&cli.connection, cli.output, usual).await?;
    match command {
        Command::Status => cluster::status(&session).await,
        Command::Top(args) => top::run(&session, args).await,
        Command::Health => health::run(&session).await,
        Command::Alarm(command) => alarms::run(&session, command).await,
        Command::Journal(args) => journal::run(&session, args).await,
        Command::LogLevel(command) => log_level::run(&session, command).await,
        Command::SupportBundle(args) => support::run(&session, args).await,
        Command::Member(command) => members::member(&session, command).await,
        Command::TransferLeader(args) => cluster::transfer_leader(&session, args).await,
        Command::Digest(args) => cluster::digest(&session, args).await,
        Command::Notices(args) => cluster::notices(&session, args).await,
        Command::Case(command) => cases::run(&session, command).await,
        Command::Queue(command) => queue::run(&session, command).await,
        Command::Catalogue(command) => catalogue::run(&session, command).await,
        Command::Channel(command) => channel::run(&session, command).await,
        Command::Directory(command) => directory::run(&session, command).await,
        Command::Entity(command) => cluster::entity(&session, command).await,
        Command::Level(command) => cluster::level(&session, command).await,
        Command::Backup(command) => backup::run(&session, command).await,
        Command::Bench(_)
        | Command::Recover(_)
        | Command::Restore(_)
        | Command::Completion { .. }
        | Command::Paper { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests;
