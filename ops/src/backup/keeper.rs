//! What a node does about backups by itself: takes one when it is due, archives the log meanwhile, prunes, and tells how
//! old the newest is.
//!
//! Nodes do not agree on whose turn it is; they need not. Each ranks itself by what it sees: connected followers by id,
//! the leader last. Rank 0 acts when something is due, each further rank some time later, so that a node that is away or
//! cannot reach the target is replaced. Nothing rests on their views being the same: on a shared target a lock lets one
//! write at a time, and who gets it looks first whether the work was done meanwhile. A node without a target never takes
//! part; nodes with targets of their own each keep theirs.
//!
//! Blocking, on three threads of its own ([`Keeper::keep_backups`], [`Keeper::keep_archive`], [`Keeper::keep_scrubbed`]): a
//! target that hangs holds up nothing else, and no thread is waited for when the process ends.

use super::{
    BackupError, Phase, Watch,
    archive::{self, Archiver, LogSource, Turn},
    crypt::Recipients,
    manifest::{self, Manifest},
    now_ms,
    objects::Stored,
    pace,
    retention::{self, Policy, Pruned},
    scrub::{self, Damage, Scrubbed},
    take::{Facts, Options, Source, take},
    target::{Folder, Target, Work},
};
use std::{
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

/// A backup older than this is an alarm (R-R6).
pub const AGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// An archive further behind than this is an alarm; 10 s is what is promised.
pub const LAG_MAX: Duration = Duration::from_secs(30);
/// How often a node looks whether a backup is due.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How much later each further rank takes a due backup, and takes over an archive nobody writes.
const BACKUP_PATIENCE: Duration = Duration::from_secs(120);
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(4);
/// After a backup that failed, and between two made because the archive has a gap.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// How often a node looks whether the target is due to be scrubbed; also the pause after a scrub that failed.
const SCRUB_LOOK_EVERY: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
pub struct Settings {
    pub target: PathBuf,
    pub every: Duration,
    pub recipients: Vec<String>,
    /// Bytes a second; 0: unbounded.
    pub rate: u64,
    pub archive: bool,
    pub archive_every: Duration,
    /// How often every stored byte is read again; zero: never.
    pub scrub_every: Duration,
    /// The target may lie on the medium of the data.
    pub same_medium: bool,
    pub policy: Policy,
}

/// Who this node sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    pub own: u64,
    pub leader: Option<u64>,
    /// Members it is connected to, itself included.
    pub connected: Vec<u64>,
}

/// This node's place among those who could do the work; `None` without a leader: then nothing is begun.
pub fn rank(sight: &Sight) -> Option<u32> {
    let leader = sight.leader?;
    let mut order: Vec<u64> = sight.connected.clone();
    order.sort_by_key(|id| (*id == leader, *id));
    order.dedup();
    order.iter().position(|id| *id == sight.own).and_then(|place| u32::try_from(place).ok())
}

/// What stands wrong, for the node's alarms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    Target,
    Failed,
    Overdue,
    Damaged,
    ArchiveBehind,
}

/// The node as this sees it.
pub trait Node: LogSource + Source {
    fn cluster(&self) -> Uuid;
    fn generation(&self) -> u64;
    fn sight(&self) -> Sight;
    fn facts(&self) -> Facts;
    /// Its data directory.
    fn data(&self) -> PathBuf;
    /// The log behind this entry is not archived yet, and is to be kept as far as there is room for it.
    fn keep_log(&self, behind: u64);
    /// Raises the alarm with a reason, clears it with none.
    fn trouble(&self, trouble: Trouble, reason: Option<String>);
}

/// For metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Seconds since the newest backup; `None`: there is none, or the target was never reached.
    pub age: Option<f64>,
    /// Seconds the newest took.
    pub last_duration: f64,
    /// Bytes of the newest, and of its new files.
    pub bytes: f64,
    pub new_bytes: f64,
    pub taken_total: f64,
    pub failed_total: f64,
    pub archive_lag: f64,
    pub archived_index: f64,
    /// 1 while this node writes the archive.
    pub archiving: f64,
    /// Seconds since the target was last read whole; `None`: never.
    pub scrub_age: Option<f64>,
    /// Files found damaged then.
    pub damaged: f64,
}

#[derive(Default)]
struct State {
    newest: Option<Manifest>,
    taken: u64,
    failed: u64,
    /// When a backup that failed, or was asked for by the archive, began.
    tried: Option<Instant>,
    /// The archive has a gap, and goes on only behind a new backup.
    gap: Option<String>,
    archived: u64,
    /// Where the node was when it started: an archive that is not there yet may begin as early as here.
    unarchived: u64,
    /// The archive had everything applied here at that time.
    caught_up: Option<Instant>,
    archiving: bool,
    scrubbed: Option<Scrubbed>,
}

pub struct Keeper<N> {
    pub node: N,
    settings: Settings,
    recipients: Recipients,
    begun: Instant,
    state: Mutex<State>,
    stop: AtomicBool,
    wake: (Mutex<()>, Condvar),
}

/// Ends work when the node stops, and passes progress on.
struct Stopping<'a> {
    stop: &'a AtomicBool,
    beside: &'a dyn Watch,
}

impl Watch for Stopping<'_> {
    fn step(&self, step: &'static str) -> Result<(), BackupError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(BackupError::Stopped);
        }
        self.beside.step(step)
    }
    fn progress(&self, phase: Phase, done: u64, total: u64) {
        self.beside.progress(phase, done, total);
    }
}

impl<N: Node> Keeper<N> {
    pub fn new(node: N, settings: Settings) -> Result<Arc<Self>, BackupError> {
        let recipients = Recipients::parse(&settings.recipients)?;
        let applied = node.applied();
        if settings.archive {
            // Before anything is done: what the first backup does not hold must still be there when it is complete.
            node.keep_log(applied);
        }
        Ok(Arc::new(Self {
            node,
            settings,
            recipients,
            begun: Instant::now(),
            state: Mutex::new(State { unarchived: applied, ..State::default() }),
            stop: AtomicBool::new(false),
            wake: Default::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Figures and times: whole after every statement, also of a thread that panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends both loops and the work under way at its next step.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _guard = self.wake.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.1.notify_all();
    }

    /// False when stopped.
    fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut guard = self.wake.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.stop.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            guard = self.wake.1.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// The target, as far as it may be written.
    fn folder(&self) -> Result<Folder, BackupError> {
        let target = Target::open(&self.settings.target)?;
        if !self.settings.same_medium && !target.on_another_medium(&self.node.data())? {
            return Err(BackupError::Refused(format!(
                "{} lies on the medium of the data and would be lost with them: use another one, or allow it with \
                 backup.same_medium",
                target.root().display()
            )));
        }
        Ok(target.folder(self.node.cluster()))
    }

    /// Looks for due backups until stopped.
    pub fn keep_backups(&self) {
        pace::be_humble();
        while self.pause(LOOK_EVERY.min(self.settings.every / 4)) {
            self.look();
        }
    }

    /// One look: refreshes what is known, takes a backup if it is this node's turn.
    pub fn look(&self) {
        let folder = match self.folder() {
            Ok(folder) => folder,
            Err(error) => {
                self.node.trouble(Trouble::Target, Some(error.to_string()));
                self.tell_age();
                return;
            }
        };
        let same = self.settings.same_medium
            && Target::open(&self.settings.target)
                .and_then(|target| target.on_another_medium(&self.node.data()))
                .is_ok_and(|another| !another);
        let warning = same.then(|| {
            format!(
                "{} lies on the medium of the data: a lost disk takes both",
                self.settings.target.display()
            )
        });
        self.node.trouble(Trouble::Target, warning);
        if let Err(error) = self.refresh(&folder) {
            self.node.trouble(Trouble::Target, Some(error.to_string()));
        }
        self.tell_age();
        if !self.is_due() {
            return;
        }
        let known = self.state().newest.as_ref().map(|m| m.id.clone()).unwrap_or_default();
        self.state().tried = Some(Instant::now());
        match self.run(&folder, Some(&known), &super::Silent) {
            Ok(_) | Err(BackupError::Busy { .. } | BackupError::Stopped) => {}
            Err(error) => tracing::error!(%error, "the backup that was due failed"),
        }
        self.tell_age();
    }

    /// The newest backup that can be read, from the target: it survives a restart of the node.
    fn refresh(&self, folder: &Folder) -> Result<(), BackupError> {
        let ids = super::target::names(&folder.backups())?;
        let known = self.state().newest.as_ref().map(|m| m.id.clone());
        for id in ids.iter().rev() {
            if known.as_ref() == Some(id) {
                return Ok(());
            }
            if let Ok(manifest) = Manifest::load(folder, id) {
                self.state().newest = Some(manifest);
                return Ok(());
            }
        }
        self.state().newest = None;
        Ok(())
    }

    fn age(newest: &Manifest) -> Duration {
        Duration::from_millis(u64::try_from(now_ms() - newest.created_ms).unwrap_or_default())
    }

    fn tell_age(&self) {
        let newest = self.state().newest.clone();
        let reason = match newest {
            Some(newest) if Self::age(&newest) > AGE_MAX => {
                Some(format!("the newest backup is of {}", newest.created))
            }
            // A new cluster's first one may take its time.
            None if self.begun.elapsed() > AGE_MAX => Some("there is no backup".to_owned()),
            Some(_) | None => None,
        };
        self.node.trouble(Trouble::Overdue, reason);
    }

    fn is_due(&self) -> bool {
        let Some(rank) = rank(&self.node.sight()) else { return false };
        let state = self.state();
        if state.tried.is_some_and(|tried| tried.elapsed() < RETRY_AFTER.min(self.settings.every)) {
            return false;
        }
        let patience = BACKUP_PATIENCE.min(self.settings.every) * rank;
        match &state.newest {
            None => self.begun.elapsed() >= patience,
            Some(_) if state.gap.is_some() => true,
            Some(newest) => Self::age(newest) >= self.settings.every + patience,
        }
    }

    /// A backup now, because somebody asks.
    pub fn create(&self, watch: &dyn Watch) -> Result<Manifest, BackupError> {
        let folder = self.folder()?;
        match self.run(&folder, None, watch)? {
            Some(manifest) => Ok(manifest),
            None => Err(BackupError::Stopped),
        }
    }

    /// Takes a backup and prunes. `unless_newer` than this id (empty: than none), of a due one: another node made one
    /// meanwhile, then there is nothing to do (`None`).
    fn run(
        &self,
        folder: &Folder,
        unless_newer: Option<&str>,
        watch: &dyn Watch,
    ) -> Result<Option<Manifest>, BackupError> {
        let watch = Stopping { stop: &self.stop, beside: watch };
        let facts = self.node.facts();
        let holder = format!("node {}, process {}", facts.node, std::process::id());
        let mut held = folder.take_on(Work::Backup, &holder)?;
        if let Some(known) = unless_newer {
            let newest = super::target::names(&folder.backups())?.pop();
            if newest.is_some_and(|newest| newest.as_str() > known) {
                self.refresh(folder)?;
                return Ok(None);
            }
        }
        let work = self.node.data();
        let options = Options { recipients: &self.recipients, rate: self.settings.rate, work: &work };
        let taken = take(folder, &mut held, &self.node, &facts, &options, &watch);
        let mut state = self.state();
        match &taken {
            Ok(manifest) => {
                tracing::info!(
                    id = manifest.id,
                    index = manifest.index,
                    bytes = manifest.bytes(),
                    new_bytes = manifest.new_bytes,
                    seconds = manifest.seconds,
                    "backup taken"
                );
                state.taken += 1;
                state.gap = None;
                state.tried = None;
                state.newest = Some(manifest.clone());
                drop(state);
                self.node.trouble(Trouble::Failed, None);
                match retention::prune(folder, &held, &self.settings.policy, false, &watch) {
                    Ok(pruned) if pruned == Pruned::default() => {}
                    Ok(pruned) => tracing::info!(?pruned, "backups pruned"),
                    // The backup stands; the next one prunes.
                    Err(error) => tracing::warn!(%error, "backups are not pruned"),
                }
            }
            Err(BackupError::Stopped) => {}
            Err(error) => {
                state.failed += 1;
                state.tried = Some(Instant::now());
                drop(state);
                self.node.trouble(Trouble::Failed, Some(error.to_string()));
            }
        }
        taken.map(Some)
    }

    /// Reads the target again whenever that is due, until stopped.
    pub fn keep_scrubbed(&self) {
        if self.settings.scrub_every.is_zero() {
            return;
        }
        pace::be_humble();
        while self.pause(SCRUB_LOOK_EVERY.min(self.settings.scrub_every / 4)) {
            self.scrub_turn(&super::Silent);
        }
    }

    /// One look: learns what the last scrub found, and scrubs if it is due and this node's turn. Two nodes that do it at
    /// once read twice and harm nothing.
    pub fn scrub_turn(&self, watch: &dyn Watch) {
        // A target that is away has its own alarm.
        let Ok(folder) = self.folder() else { return };
        let known = scrub::last(&folder);
        let due = scrub::due_in(known.as_ref(), self.settings.scrub_every, now_ms()).is_zero();
        let found = if due && rank(&self.node.sight()) == Some(0) && self.state().newest.is_some() {
            let watch = Stopping { stop: &self.stop, beside: watch };
            match scrub::scrub(&folder, self.settings.rate, &watch) {
                Ok(found) => {
                    tracing::info!(found.files, found.bytes, found.damaged, "the backups were read again");
                    Some(found)
                }
                Err(BackupError::Stopped) => return,
                Err(error) => {
                    tracing::warn!(%error, "the backups could not be read again");
                    known
                }
            }
        } else {
            known
        };
        self.node.trouble(Trouble::Damaged, found.as_ref().and_then(Scrubbed::trouble));
        self.state().scrubbed = found;
    }

    /// Archives the log until stopped.
    pub fn keep_archive(&self) {
        if !self.settings.archive {
            return;
        }
        let mut writer = None;
        let mut led = false;
        while self.pause(self.settings.archive_every) {
            self.archive_turn(&mut writer, &mut led);
        }
    }

    /// One turn: writes if this node has the archive, or takes it over when it is its turn.
    pub fn archive_turn(&self, writer: &mut Option<Archiver>, led: &mut bool) {
        let sight = self.node.sight();
        let leads = sight.leader == Some(sight.own);
        // A leader has better things to do: it lets go once, and takes the archive up again only when nobody does.
        if leads && !*led && sight.connected.len() > 1 {
            *writer = None;
        }
        *led = leads;
        let before = Instant::now();
        let outcome = self.write_archive(writer, &sight);
        let mut state = self.state();
        state.archiving = writer.is_some();
        match outcome {
            Ok(Some(Turn::Caught(index))) => {
                (state.archived, state.caught_up) = (index, Some(before));
            }
            Ok(Some(Turn::Gap { archived, detail })) => {
                state.archived = archived;
                tracing::warn!(archived, detail, "the archive goes on behind a new backup");
                state.gap = Some(detail);
            }
            Ok(Some(Turn::Behind { archived })) => state.archived = archived,
            Ok(Some(Turn::NoBackup) | None) => {}
            Err(error) => {
                *writer = None;
                state.archiving = false;
                tracing::warn!(%error, "the log is not archived");
            }
        }
        let lag = self.lag(&state);
        let behind = match state.archived {
            0 => state.unarchived,
            archived => archived,
        };
        drop(state);
        // On every node: who takes the archive over goes on where it ended.
        self.node.keep_log(behind);
        let reason = (lag > LAG_MAX).then(|| format!("nothing was archived for {} s", lag.as_secs()));
        self.node.trouble(Trouble::ArchiveBehind, reason);
    }

    /// `None`: another node writes.
    fn write_archive(
        &self,
        writer: &mut Option<Archiver>,
        sight: &Sight,
    ) -> Result<Option<Turn>, BackupError> {
        let folder = self.folder()?;
        let watch = Stopping { stop: &self.stop, beside: &super::Silent };
        if writer.is_none() {
            let generation = self.node.generation();
            // As others see it: an archive that reaches what was applied here is written by somebody.
            let applied = self.node.applied();
            let archived = archive::segments(&folder, generation)?.last().map_or(0, |name| name.to);
            let reaches = archived > 0 && {
                let mut state = self.state();
                let grown = archived > state.archived;
                state.archived = state.archived.max(archived);
                if grown || archived >= applied {
                    state.caught_up = Some(Instant::now());
                }
                grown || archived >= applied
            };
            let Some(rank) = rank(sight) else { return Ok(None) };
            if rank > 0 && (reaches || self.lag(&self.state()) < ARCHIVE_PATIENCE * rank) {
                return Ok(None);
            }
            let holder = format!("node {}, process {}", sight.own, std::process::id());
            match folder.take_on(Work::Archive, &holder) {
                Ok(held) => {
                    *writer = Some(Archiver::new(folder, generation, self.recipients.clone(), held));
                }
                Err(BackupError::Busy { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        match writer {
            Some(writer) => writer.turn(&self.node, &watch).map(Some),
            None => Ok(None),
        }
    }

    fn lag(&self, state: &State) -> Duration {
        if state.newest.is_none() {
            // Nothing to begin behind; that there is no backup has its own alarm.
            return Duration::ZERO;
        }
        state.caught_up.unwrap_or(self.begun).elapsed()
    }

    /// What lies on the target, oldest first: id, and its manifest with what can be told of its files, or why it
    /// cannot be read.
    #[expect(clippy::type_complexity, reason = "one list, made here and shown at once")]
    pub fn list(
        &self,
    ) -> Result<Vec<(String, Result<(Manifest, retention::State), BackupError>)>, BackupError> {
        let folder = Target::open(&self.settings.target)?.folder(self.node.cluster());
        let listed = manifest::list(&folder)?;
        let stored = Stored::of(listed.iter().filter_map(|(_, manifest)| manifest.as_ref().ok()));
        let damage = Damage::on(&folder);
        Ok(listed
            .into_iter()
            .map(|(id, manifest)| {
                let told = manifest.map(|manifest| {
                    let state = retention::state(&folder, &manifest, &stored, &damage);
                    (manifest, state)
                });
                (id, told)
            })
            .collect())
    }

    pub fn target(&self) -> &std::path::Path {
        &self.settings.target
    }

    pub fn figures(&self) -> Figures {
        let state = self.state();
        let newest = state.newest.as_ref();
        Figures {
            age: newest.map(|newest| Self::age(newest).as_secs_f64()),
            last_duration: newest.map_or(0.0, |newest| newest.seconds),
            bytes: newest.map_or(0.0, |newest| newest.bytes() as f64),
            new_bytes: newest.map_or(0.0, |newest| newest.new_bytes as f64),
            taken_total: state.taken as f64,
            failed_total: state.failed as f64,
            archive_lag: self.lag(&state).as_secs_f64(),
            archived_index: state.archived as f64,
            archiving: f64::from(u8::from(state.archiving)),
            scrub_age: state.scrubbed.as_ref().map(|s| (now_ms() - s.at_ms).max(0) as f64 / 1e3),
            damaged: state.scrubbed.as_ref().map_or(0.0, |s| s.damaged as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_come_first_in_order_of_their_ids() {
        let at = |own, leader, connected: &[u64]| rank(&Sight { own, leader, connected: connected.to_vec() });
        assert_eq!(at(1, Some(1), &[1, 2, 3]), Some(2), "the leader is last");
        assert_eq!(at(2, Some(1), &[3, 1, 2]), Some(0));
        assert_eq!(at(3, Some(1), &[1, 2, 3]), Some(1));
        assert_eq!(at(3, Some(1), &[1, 3]), Some(0), "node 2 is away");
        assert_eq!(at(1, Some(1), &[1]), Some(0), "alone");
        assert_eq!(at(2, None, &[1, 2, 3]), None, "nobody leads");
    }
}
