//! `okno-https`: works for one channel by asking an HTTPS service. Its file is described in `okno_connectors::https::settings`.

use anyhow::{Context, Result};
use clap::Parser;
use okno_connectors::{
    Setup,
    https::{HttpsConnector, settings},
    run,
};
use std::{path::PathBuf, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Carries messages of a channel to an HTTPS service and its answers back
#[derive(Debug, Parser)]
#[command(name = "okno-https", version)]
struct Arguments {
    /// The connector's file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the file and the certificates, and end
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logs may be filtered; why it ends is always told.
            tracing::error!("{error:#}");
            ExitCode::from(2)
        }
    }
}

fn start(arguments: Arguments) -> Result<()> {
    let settings = settings::load(&arguments.config)?;
    let connector = HttpsConnector::new(settings.service)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the network threads")?;
    let mut setup = Setup::new(settings.channel, concat!("okno-https ", env!("CARGO_PKG_VERSION")));
    setup.workers = settings.workers;
    if let Some(instance) = settings.instance {
        setup.instance = instance;
    }
    runtime.block_on(async {
        let client = okno_client::Client::new(settings.client)?;
        if arguments.check {
            return Ok(());
        }
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;
        let told = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            told.cancel();
        });
        run(client, setup, connector, stop).await;
        Ok(())
    })
}
