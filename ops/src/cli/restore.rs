//! `oknoctl restore`: offline, from a target to data directories of a new cluster (R-R7).

use super::{
    Failure,
    backup::identities,
    output::{self, Format, facts},
    progress::Bar,
};
use crate::backup::{
    moment,
    restore::{Plan, Until, restore},
    target::Target,
};
use clap::Args;
use okno_storage::identity::Member;
use serde_json::json;
use std::path::PathBuf;
use uuid::Uuid;

/// Makes data directories of a new cluster from a backup and the log archived behind it.
///
/// Everything is verified before a directory becomes a node; a directory that holds anything is refused. On machines
/// apart, run it on each with the same --members, --until, --backup and --new-cluster, and that machine's --to.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Directory of the target
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Id of the cluster to restore, where the target holds several
    #[arg(long, value_name = "CLUSTER")]
    of: Option<Uuid>,
    /// Id of the backup to begin with; the newest that is not behind --until if none is named
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// How far the archived log is followed: end, backup (not at all), a log index, or a moment with its offset, such as
    /// 2026-11-22T08:30:00+07:00
    #[arg(long, default_value = "end")]
    until: Until,
    /// File with the secret key of an encrypted backup (as age-keygen writes it)
    #[arg(long = "identity", value_name = "FILE")]
    secret: Option<PathBuf>,
    /// All members of the new cluster: 1=host:port,2=host:port,…
    #[arg(long, value_delimiter = ',', required = true, value_name = "ID=HOST:PORT", value_parser = member)]
    members: Vec<Member>,
    /// A node to make here and its data directory, absent or empty; once for each
    #[arg(long, required = true, value_name = "ID=DIR", value_parser = directory)]
    to: Vec<(u64, PathBuf)>,
    /// Id of the new cluster; made if none is given
    #[arg(long, value_name = "UUID")]
    new_cluster: Option<Uuid>,
}

fn split(text: &str) -> Result<(u64, &str), String> {
    let (id, rest) = text.split_once('=').ok_or("expected a node id, =, and what belongs to it")?;
    let id = id.trim().parse().ok().filter(|id| *id > 0).ok_or("expected a node id from 1")?;
    if rest.is_empty() { Err("nothing stands behind the node id".to_owned()) } else { Ok((id, rest)) }
}

fn member(text: &str) -> Result<Member, String> {
    let (node_id, address) = split(text)?;
    let port = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match port {
        Some((host, port)) if !host.is_empty() && port > 0 => {
            Ok(Member { node_id, peer_address: address.to_owned() })
        }
        _ => Err(format!("expected <host>:<port>, found {address:?}")),
    }
}

fn directory(text: &str) -> Result<(u64, PathBuf), String> {
    split(text).map(|(id, path)| (id, PathBuf::from(path)))
}

pub fn run(args: RestoreArgs, format: Format) -> Result<(), Failure> {
    let folder = Target::open(&args.from)?.choose(args.of)?;
    let mut members = args.members;
    members.sort();
    if let Some(pair) = members.windows(2).find(|pair| pair[0].node_id == pair[1].node_id) {
        return Err(Failure::Usage(format!("--members: node {} stands twice", pair[0].node_id)));
    }
    let cluster = args.new_cluster.unwrap_or_else(Uuid::new_v4);
    if cluster == folder.cluster {
        return Err(Failure::Usage(
            "--new-cluster: the old cluster's id; a restored cluster is a new one".into(),
        ));
    }
    let identities = identities(args.secret.as_ref())?;
    let plan = Plan {
        folder: &folder,
        backup: args.backup.as_deref(),
        until: args.until,
        identities: &identities,
        cluster,
        members,
        into: args.to,
    };
    let bar = Bar::new(format);
    let restored = restore(&plan, &bar);
    bar.end();
    let restored = restored?;
    match format {
        Format::Json => output::line(
            &json!({
                "backup": restored.backup,
                "index": restored.index,
                "term": restored.term,
                "time_ms": restored.time_ms,
                "time": moment(restored.time_ms),
                "chain": hex::encode(restored.chain),
                "digest": hex::encode(restored.digest),
                "from_cluster": restored.from_cluster,
                "cluster": restored.cluster,
                "generation": restored.generation,
                "replayed": restored.replayed,
                "archive_ended": restored.archive_ended,
                "nodes": plan.into.iter().map(|(id, _)| id).collect::<Vec<_>>(),
            })
            .to_string(),
        ),
        Format::Table => {
            output::line(&facts([
                (
                    "restored from",
                    format!("backup {} and {} archived entries", restored.backup, restored.replayed),
                ),
                ("up to entry", format!("{} (term {})", restored.index, restored.term)),
                ("up to", moment(restored.time_ms)),
                ("digest", hex::encode(restored.digest)),
                ("new cluster", format!("{}, generation {}", restored.cluster, restored.generation)),
            ]));
            if restored.archive_ended {
                output::line("the archive ends before the moment asked for: what came between is not in it");
            }
            output::line(&format!(
                "set cluster.id = \"{}\" in the settings of every node, then start them",
                restored.cluster
            ));
        }
    }
    Ok(())
}
