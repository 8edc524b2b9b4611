//! Backups on this node: what `okno_ops::backup` needs of it, and the threads it works on.

use crate::{
    observability::alarms::{Alarms, kinds},
    settings::{BackupSection, Settings},
};
use okno_cluster::{ClusterHandle, api::Role};
use okno_ops::backup::{
    BackupError,
    archive::{LogSource, Position},
    keeper::{self, Figures, Keeper, Sight, Trouble},
    retention::Policy,
    take::{Facts, Source},
};
use okno_storage::{error::StorageError, identity::IdentityRecord, log::LogEntry, snapshot::RocksHome};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use uuid::Uuid;

/// The effective settings, as they lie beside the data in a backup.
const SETTINGS_FILE: &str = "backup-settings.toml";

/// This node, as backups see it.
pub struct Own {
    settings: Settings,
    cluster: Arc<ClusterHandle>,
    home: Arc<RocksHome>,
    record: IdentityRecord,
    alarms: Arc<Alarms>,
}

pub type Backups = Keeper<Own>;

/// `None`: no target is set, or the node is quarantined and its data are left alone.
pub fn new(
    settings: &Settings,
    cluster: &Arc<ClusterHandle>,
    home: Option<&Arc<RocksHome>>,
    record: Option<&IdentityRecord>,
    alarms: &Arc<Alarms>,
) -> Result<Option<Arc<Backups>>, BackupError> {
    let (Some(home), Some(record)) = (home, record) else { return Ok(None) };
    if settings.backup.target.as_os_str().is_empty() {
        return Ok(None);
    }
    let own = Own {
        settings: settings.clone(),
        cluster: cluster.clone(),
        home: home.clone(),
        record: record.clone(),
        alarms: alarms.clone(),
    };
    Keeper::new(own, of_settings(&settings.backup)).map(Some)
}

fn of_settings(section: &BackupSection) -> keeper::Settings {
    keeper::Settings {
        target: section.target.clone(),
        every: section.every,
        recipients: section.recipients.clone(),
        rate: section.rate.as_u64(),
        archive: section.archive,
        archive_every: section.archive_every,
        scrub_every: section.scrub_every,
        same_medium: section.same_medium,
        policy: Policy {
            last: section.keep_last,
            daily: section.keep_daily,
            weekly: section.keep_weekly,
            monthly: section.keep_monthly,
        },
    }
}

/// Starts the threads. They are not waited for at the end: a target may hang, and what they leave is cleared away by the
/// next run.
pub fn start(backups: &Arc<Backups>) -> std::io::Result<()> {
    let keeper = backups.clone();
    std::thread::Builder::new().name("backup".into()).spawn(move || keeper.keep_backups())?;
    let keeper = backups.clone();
    std::thread::Builder::new().name("archive".into()).spawn(move || keeper.keep_archive())?;
    let keeper = backups.clone();
    std::thread::Builder::new().name("backup-scrub".into()).spawn(move || keeper.keep_scrubbed())?;
    Ok(())
}

impl LogSource for Own {
    fn applied(&self) -> u64 {
        self.cluster.state().applied().0
    }

    fn entries(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, StorageError> {
        self.cluster.log().map_or_else(|| Ok(Vec::new()), |log| log.entries(from, to, bytes_max))
    }

    fn positions(&self, after: u64, limit: usize) -> Result<Vec<Position>, StorageError> {
        let rows = self.cluster.state().view().journal(after, limit)?;
        Ok(rows
            .into_iter()
            .map(|row| Position { index: row.index, chain: row.chain, time_ms: row.time_ms })
            .collect())
    }
}

impl Source for Own {
    fn checkpoint(&self, into: &Path) -> Result<(), StorageError> {
        self.home.live().checkpoint(into)
    }
}

impl keeper::Node for Own {
    fn cluster(&self) -> Uuid {
        self.record.cluster
    }

    fn generation(&self) -> u64 {
        self.cluster.origin().0
    }

    fn sight(&self) -> Sight {
        let status = self.cluster.status();
        let leader = match status.role {
            Role::Leader { .. } => Some(status.node_id),
            Role::Follower { leader } => leader,
            Role::Candidate => None,
        };
        // Only members that take part: a node that is not in the cluster yet, or not any more, does nothing.
        let serving = self.cluster.phases().borrow().is_serving();
        Sight {
            own: status.node_id,
            leader: leader.filter(|_| serving),
            connected: status.members.iter().filter(|m| m.connected).map(|m| m.id).collect(),
        }
    }

    fn facts(&self) -> Facts {
        let mut software = Vec::new();
        if let Ok(program) = std::env::current_exe() {
            let tool = program.with_file_name("oknoctl");
            software.push(("okno".to_owned(), program));
            software.push(("oknoctl".to_owned(), tool));
        }
        let written = self.data().join(SETTINGS_FILE);
        match std::fs::write(&written, self.settings.to_toml()) {
            Ok(()) => software.push(("okno.toml".to_owned(), written)),
            Err(error) => tracing::warn!(%error, "settings are not in the backup"),
        }
        for path in &self.settings.backup.more_files {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            software.push((name, path.clone()));
        }
        software.retain(|(name, path)| {
            let there = path.is_file();
            if !there {
                tracing::warn!(name, path = %path.display(), "not there, and not in the backup");
            }
            there
        });
        Facts {
            cluster_name: self.settings.cluster.name.clone(),
            generation: keeper::Node::generation(self),
            genesis: self.cluster.origin().1,
            node: self.settings.node.id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            software,
        }
    }

    fn data(&self) -> PathBuf {
        self.settings.node.data_dir.clone()
    }

    fn keep_log(&self, behind: u64) {
        self.cluster.set_archived(behind);
    }

    fn trouble(&self, trouble: Trouble, reason: Option<String>) {
        let kind = match trouble {
            Trouble::Target => kinds::BACKUP_TARGET,
            Trouble::Failed => kinds::BACKUP_FAILED,
            Trouble::Overdue => kinds::BACKUP_OVERDUE,
            Trouble::Damaged => kinds::BACKUP_DAMAGED,
            Trouble::ArchiveBehind => kinds::ARCHIVE_BEHIND,
        };
        self.alarms.set(kind, reason);
    }
}

/// `okno_backup_…`.
pub fn backup_figures(figures: &Figures) -> Vec<(&'static str, f64)> {
    let mut found = vec![
        ("last_duration_seconds", figures.last_duration),
        ("bytes", figures.bytes),
        ("new_bytes", figures.new_bytes),
        ("taken_total", figures.taken_total),
        ("failed_total", figures.failed_total),
    ];
    // Without a backup there is no age: an alert on its absence tells that from a young one.
    found.extend(figures.age.map(|age| ("age_seconds", age)));
    if let Some(age) = figures.scrub_age {
        found.extend([("scrub_age_seconds", age), ("damaged_files", figures.damaged)]);
    }
    found
}

/// `okno_archive_…`.
pub fn archive_figures(figures: &Figures) -> Vec<(&'static str, f64)> {
    vec![
        ("lag_seconds", figures.archive_lag),
        ("index", figures.archived_index),
        ("writes", figures.archiving),
    ]
}

/// Checks what a setting can get wrong; the key and what was expected.
pub fn check(section: &BackupSection) -> Result<(), (&'static str, String)> {
    if let Err(error) = okno_ops::backup::crypt::Recipients::parse(&section.recipients) {
        return Err(("backup.recipients", error.to_string()));
    }
    if !(Duration::from_secs(5)..=Duration::from_secs(23 * 3_600)).contains(&section.every) {
        return Err(("backup.every", "expected 5s to 23h: a backup older than 24 hours is an alarm".into()));
    }
    if !(Duration::from_millis(100)..=Duration::from_secs(8)).contains(&section.archive_every) {
        return Err(("backup.archive_every", "expected 100ms to 8s: the archive lags at most 10 s".into()));
    }
    if !section.scrub_every.is_zero() && section.scrub_every < Duration::from_secs(60) {
        return Err(("backup.scrub_every", "expected 0s (never) or at least 1min".into()));
    }
    if section.rate.as_u64() != 0 && section.rate.as_u64() < 64 * 1024 {
        return Err(("backup.rate", "expected 0 (unbounded) or at least 64KiB a second".into()));
    }
    if !section.target.as_os_str().is_empty() && !section.target.is_absolute() {
        return Err(("backup.target", "expected an absolute path".into()));
    }
    Ok(())
}
