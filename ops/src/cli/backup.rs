//! `oknoctl backup …`: asking nodes for backups, and looking after a target itself, without any node.

use super::{
    Failure, Session,
    output::{self, Format, facts, moment, table},
    progress::Bar,
};
use crate::backup::{
    BackupError, archive,
    crypt::Identities,
    manifest,
    objects::Stored,
    retention::{self, Policy, State, prune},
    scrub::{Damage, scrub},
    target::{Folder, Target, Work},
    verify::verify,
};
use clap::{Args, Subcommand};
use okno_client::v1::{Backup, ListBackupsRequest, create_backup_response::Update};
use serde_json::json;
use std::path::PathBuf;
use uuid::Uuid;

#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Prepare an empty directory on another medium as a target
    Init {
        #[arg(long, value_name = "DIR")]
        target: PathBuf,
    },
    /// Have a node take a backup now (a follower, unless --node names one) and wait for it
    Now,
    /// What lies on a target: the node's own, or --target without asking any node
    List {
        /// Directory of a target, to look at without asking any node
        #[arg(long, value_name = "DIR")]
        target: Option<PathBuf>,
        /// Id of the cluster, where the target holds several
        #[arg(long, value_name = "CLUSTER", requires = "target")]
        of: Option<Uuid>,
    },
    /// Read every byte of a backup and the log archived behind it, open the copy, recompute hash chain and digest
    Verify(VerifyArgs),
    /// Read every stored byte of a target again, without a key, and write down what is damaged: nodes learn of it from there
    Scrub(Place),
    /// Remove what is not kept: old backups, files and archived log that nothing needs
    Prune(PruneArgs),
}

/// A target, and whose backups on it.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Directory of the target
    #[arg(long, value_name = "DIR")]
    pub target: PathBuf,
    /// Id of the cluster, where the target holds several
    #[arg(long, value_name = "CLUSTER")]
    pub of: Option<Uuid>,
}

impl Place {
    fn folder(&self) -> Result<Folder, Failure> {
        Ok(Target::open(&self.target)?.choose(self.of)?)
    }
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    /// Id of the backup; the newest if none is named
    id: Option<String>,
    /// File with the secret key of an encrypted backup (as age-keygen writes it)
    #[arg(long = "identity", value_name = "FILE")]
    secret: Option<PathBuf>,
    /// Where the copy is put together meanwhile; needs as much room as the database
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    scratch: PathBuf,
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    #[command(flatten)]
    place: Place,
    /// Newest backups to keep
    #[arg(long, default_value_t = Policy::default().last)]
    keep_last: usize,
    /// Days to keep the newest backup of
    #[arg(long, default_value_t = Policy::default().daily)]
    keep_daily: usize,
    /// Weeks to keep the newest backup of
    #[arg(long, default_value_t = Policy::default().weekly)]
    keep_weekly: usize,
    /// Months to keep the newest backup of
    #[arg(long, default_value_t = Policy::default().monthly)]
    keep_monthly: usize,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        match error {
            // Nothing happened, and it may go another time.
            BackupError::Io { .. } | BackupError::Busy { .. } | BackupError::Stopped => {
                Self::NotDone(error.to_string())
            }
            other => Self::Broken(other.to_string()),
        }
    }
}

/// What needs no node: `None` if the command needs one.
pub fn offline(command: &BackupCommand, format: Format) -> Option<Result<(), Failure>> {
    match command {
        BackupCommand::Init { target } => Some(init(target, format)),
        BackupCommand::List { target: Some(target), of } => {
            Some(list_target(&Place { target: target.clone(), of: *of }, format))
        }
        BackupCommand::Verify(args) => Some(verify_one(args, format)),
        BackupCommand::Scrub(place) => Some(scrub_target(place, format)),
        BackupCommand::Prune(args) => Some(prune_target(args, format)),
        BackupCommand::Now | BackupCommand::List { target: None, .. } => None,
    }
}

pub async fn run(session: &Session, command: BackupCommand) -> Result<(), Failure> {
    match command {
        BackupCommand::Now => now(session).await,
        BackupCommand::List { .. } => {
            let response = session.call(ListBackupsRequest {}).await?;
            output::print(session.format, &response, |r| format!("{}\n\n{}", r.target, backups(&r.backups)));
            Ok(())
        }
        BackupCommand::Init { .. }
        | BackupCommand::Verify(_)
        | BackupCommand::Scrub(_)
        | BackupCommand::Prune(_) => Ok(()),
    }
}

async fn now(session: &Session) -> Result<(), Failure> {
    let endpoint = match session.endpoint() {
        Some(endpoint) => Some(endpoint),
        None => follower(session).await,
    };
    let mut stream = session.client.create_backup(endpoint).await?;
    let bar = Bar::new(session.format);
    loop {
        let response = match stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Err(Failure::Broken("the node closed the stream".to_owned())),
            Err(status) => return Err(okno_client::read_error(&status).into()),
        };
        match &response.update {
            Some(Update::Progress(progress)) => bar.show(&progress.phase, progress.done, progress.total),
            Some(Update::Backup(backup)) => {
                bar.end();
                output::print(session.format, &response, |_| shown(backup));
                return Ok(());
            }
            None => {}
        }
    }
}

/// A node that does not lead, if one answers: a leader has other work.
async fn follower(session: &Session) -> Option<usize> {
    session.client.find_leader().await;
    let leader = session.client.leader()?;
    (1..=session.client.endpoints().count() as u64 + 1)
        .filter(|node| *node != leader)
        .find_map(|node| session.client.endpoint_of(node))
}

fn shown(backup: &Backup) -> String {
    facts([
        ("backup", backup.id.clone()),
        ("made by", format!("node {}", backup.node_id)),
        ("cluster", format!("{}, generation {}", backup.cluster, backup.generation)),
        ("up to entry", format!("{} (term {})", backup.index, backup.term)),
        ("up to", moment(backup.cluster_time.as_ref())),
        ("digest", backup.digest.clone()),
        ("bytes", format!("{}, {} of them new", backup.bytes, backup.new_bytes)),
        ("encrypted", if backup.encrypted { "yes" } else { "NO" }.to_owned()),
        ("seconds", format!("{:.1}", backup.seconds)),
    ])
}

fn backups(backups: &[Backup]) -> String {
    let rows = backups.iter().map(|b| {
        let state = match (b.problem.is_empty(), b.complete) {
            (false, _) => b.problem.clone(),
            (true, true) => "complete".to_owned(),
            (true, false) => "FILES MISSING".to_owned(),
        };
        [
            b.id.clone(),
            moment(b.created.as_ref()),
            b.index.to_string(),
            b.bytes.to_string(),
            b.new_bytes.to_string(),
            if b.encrypted { "yes" } else { "no" }.to_owned(),
            state,
        ]
    });
    table(["BACKUP", "CREATED", "UP TO", "BYTES", "NEW", "ENCRYPTED", "STATE"], rows)
}

fn init(target: &std::path::Path, format: Format) -> Result<(), Failure> {
    let target = Target::init(target)?;
    match format {
        Format::Json => output::line(&json!({"target": target.root()}).to_string()),
        Format::Table => output::line(&format!("{} is a backup target", target.root().display())),
    }
    Ok(())
}

fn list_target(place: &Place, format: Format) -> Result<(), Failure> {
    let folder = place.folder()?;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    let listed = manifest::list(&folder)?;
    let stored = Stored::of(listed.iter().filter_map(|(_, manifest)| manifest.as_ref().ok()));
    let damage = Damage::on(&folder);
    for (id, manifest) in listed {
        match manifest {
            Ok(m) => {
                let state = retention::state(&folder, &m, &stored, &damage);
                let archived =
                    archive::segments(&folder, m.generation)?.last().map_or(0, |name| name.to).max(m.index);
                rows.push([
                    id,
                    m.time.clone(),
                    m.index.to_string(),
                    archived.to_string(),
                    m.bytes().to_string(),
                    if m.sealed() { "yes" } else { "no" }.to_owned(),
                    state.name().to_owned(),
                ]);
                let complete = state == State::Complete;
                let shown = json!({"manifest": m, "complete": complete, "state": state.name(), "archived_to": archived});
                values.push(shown);
            }
            Err(error) => {
                values.push(json!({"id": id, "problem": error.to_string()}));
                let empty = String::new;
                rows.push([id, empty(), empty(), empty(), empty(), empty(), error.to_string()]);
            }
        }
    }
    match format {
        Format::Json => output::line(&json!({"cluster": folder.cluster, "backups": values}).to_string()),
        Format::Table => output::line(&table(
            ["BACKUP", "STATE OF", "UP TO", "ARCHIVE TO", "BYTES", "ENCRYPTED", "STATE"],
            rows,
        )),
    }
    Ok(())
}

/// The newest backup's id, also of one that cannot be read: it is not passed over in silence.
fn newest(folder: &Folder) -> Result<String, Failure> {
    let last = manifest::list(folder)?.pop();
    last.map(|(id, _)| id).ok_or_else(|| Failure::Broken("there is no backup".to_owned()))
}

pub fn identities(path: Option<&PathBuf>) -> Result<Identities, Failure> {
    Ok(path.map(|path| Identities::load(path)).transpose()?.unwrap_or_default())
}

fn verify_one(args: &VerifyArgs, format: Format) -> Result<(), Failure> {
    let folder = args.place.folder()?;
    let id = match &args.id {
        Some(id) => id.clone(),
        None => newest(&folder)?,
    };
    let identities = identities(args.secret.as_ref())?;
    let bar = Bar::new(format);
    let found = verify(&folder, &id, &identities, &args.scratch, &bar);
    bar.end();
    let found = found?;
    match format {
        Format::Json => output::line(
            &json!({
                "backup": found.id, "files": found.files, "bytes": found.bytes, "index": found.index,
                "archived_to": found.archived_to, "whole": true,
            })
            .to_string(),
        ),
        Format::Table => output::line(&format!(
            "backup {} is whole: {} files, {} bytes; it can be restored to any entry from {} to {}",
            found.id, found.files, found.bytes, found.index, found.archived_to
        )),
    }
    Ok(())
}

fn scrub_target(place: &Place, format: Format) -> Result<(), Failure> {
    let folder = place.folder()?;
    let bar = Bar::new(format);
    let found = scrub(&folder, 0, &bar);
    bar.end();
    let found = found?;
    match format {
        Format::Json => output::line(&serde_json::to_string(&found).expect("plain values have a JSON form")),
        Format::Table => {
            output::line(&format!(
                "{} files, {} bytes read; {} damaged",
                found.files, found.bytes, found.damaged
            ));
        }
    }
    match found.trouble() {
        Some(trouble) => Err(Failure::Broken(trouble)),
        None => Ok(()),
    }
}

fn prune_target(args: &PruneArgs, format: Format) -> Result<(), Failure> {
    let folder = args.place.folder()?;
    let held = folder.take_on(Work::Backup, &format!("oknoctl, process {}", std::process::id()))?;
    let policy = Policy {
        last: args.keep_last,
        daily: args.keep_daily,
        weekly: args.keep_weekly,
        monthly: args.keep_monthly,
    };
    let bar = Bar::new(format);
    let pruned = prune(&folder, &held, &policy, args.dry_run, &bar);
    bar.end();
    let pruned = pruned?;
    match format {
        Format::Json => output::line(
            &json!({
                "dry_run": args.dry_run, "backups": pruned.backups, "objects": pruned.objects,
                "segments": pruned.segments, "bytes": pruned.bytes, "held_by": pruned.held_by,
            })
            .to_string(),
        ),
        Format::Table => {
            let verb = if args.dry_run { "would go" } else { "removed" };
            for id in &pruned.backups {
                output::line(&format!("backup {id} {verb}"));
            }
            output::line(&format!(
                "{} files and {} archive segments {verb}, {} bytes",
                pruned.objects, pruned.segments, pruned.bytes
            ));
        }
    }
    match pruned.held_by {
        Some(id) => Err(Failure::Broken(format!(
            "files stay: backup {id} cannot be read, and what it needs is not known; remove its folder by hand if it is \
             to go"
        ))),
        None => Ok(()),
    }
}
