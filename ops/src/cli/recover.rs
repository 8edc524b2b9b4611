//! `oknoctl recover`: a cluster of one from the data directory of the only member that is left. Offline.

use super::{Failure, Format};
use clap::Args;
use okno_storage::{
    error::StorageError,
    recover::{Survivor, SurvivorReport},
    rocks::RocksOptions,
};
use serde_json::json;
use std::{error::Error, path::PathBuf};
use uuid::Uuid;

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Data directory of the survivor; its node must be stopped
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Id of the cluster that is given up. Without it nothing is changed: the command says what it would do
    #[arg(long, value_name = "UUID")]
    confirm: Option<Uuid>,
    /// The address other nodes will reach it at, if it is to change
    #[arg(long, value_name = "HOST:PORT")]
    peer_address: Option<String>,
}

/// Damaged data refuse; a directory that cannot be used is usage; a disk that fails leaves all as it was.
fn failure(error: &StorageError) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    match error {
        StorageError::Directory { .. } => Failure::Usage(text),
        _ => Failure::Broken(format!("oknoctl: {text}")),
    }
}

/// Looks, and with `--confirm` recovers.
pub fn run(args: &RecoverArgs, format: Format) -> Result<(), Failure> {
    let mut survivor = Survivor::open(&args.data_dir, &RocksOptions::default()).map_err(|e| failure(&e))?;
    let report = survivor.look().map_err(|e| failure(&e))?;
    let Some(confirmed) = args.confirm else {
        say(&report, format);
        return Ok(());
    };
    if confirmed != report.cluster {
        return Err(Failure::Usage(format!(
            "--confirm names cluster {confirmed}, the data are of cluster {}: nothing was changed",
            report.cluster
        )));
    }
    let made = survivor
        .recover(Uuid::new_v4(), Uuid::new_v4(), args.peer_address.clone())
        .map_err(|e| failure(&e))?;
    let identity = &made.identity;
    match format {
        Format::Json => println!(
            "{}",
            json!({
                "cluster": identity.cluster.to_string(), "generation": identity.later.generation, "node_id": identity.node_id,
                "last_index": made.index, "last_term": made.term, "replicated_time_ms": made.time_ms,
                "former_cluster": report.cluster.to_string(), "given_up": report.given_up,
            })
        ),
        Format::Table => println!(
            "node {} is a cluster of its own now\n\
             cluster id           {} (generation {}); set cluster.id in the settings, if it stands there\n\
             last index recovered {} (term {}), replicated time {} ms\n\
             given up             nodes {:?}: they never come back under these ids; remove their data\n\
             kept                 {}: remove it when all is well",
            identity.node_id,
            identity.cluster,
            identity.later.generation,
            made.index,
            made.term,
            made.time_ms,
            report.given_up,
            args.data_dir.join(format!("before-recovery-{}", made.index)).display(),
        ),
    }
    Ok(())
}

fn say(report: &SurvivorReport, format: Format) {
    let SurvivorReport { cluster, node_id, generation, applied, log_last, log_last_term, given_up } = report;
    match format {
        Format::Json => println!(
            "{}",
            json!({
                "dry_run": true, "cluster": cluster.to_string(), "generation": generation, "node_id": node_id,
                "applied": applied, "last_index": log_last, "last_term": log_last_term, "given_up": given_up,
            })
        ),
        Format::Table => println!(
            "nothing was changed. It would make a cluster of node {node_id} alone, with a new cluster id, generation {}\n\
             last index that would be recovered {log_last} (term {log_last_term}); applied here so far {applied}\n\
             what nodes {given_up:?} hold beyond that is given up, and these ids for ever\n\
             to do it: --confirm {cluster}",
            generation + 1,
        ),
    }
}
