//! Looks after the disk: how full it is, how slow it is, and what follows for this node and for the cluster.
//!
//! What the levels mean stands in `okno_ops::disk`. Here they become an alarm, the gate of the leader, a follower that
//! takes no more entries, leadership that goes to a member with more room — and room itself: a file is held in reserve
//! and given back when nothing may be written any more, so that flushes, compactions and the cutting of the log still
//! can be. While it is given back its size counts as taken, so that giving it back opens nothing.
//!
//! Everything clears by itself once there is room.

use crate::{
    observability::alarms::{Alarms, kinds},
    settings::{DiskSection, ThresholdSection},
};
use okno_cluster::{
    ClusterHandle,
    api::{Proposer, Role},
};
use okno_ops::disk::{Gauge, Level, Room, Slowness, Threshold, Thresholds, cluster_level, successor};
use okno_runtime::intake::{self, Intake, Reason};
use std::{
    collections::BTreeSet,
    ffi::CString,
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Between two looks. A disk fills up in minutes; the thresholds leave room for what is written in one such second.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Leadership is handed over at most this often: the next leader needs a moment to say how its disk is.
const HAND_OVER_EVERY: Duration = Duration::from_secs(10);
/// Name of the file held in reserve, in the data directory.
const RESERVE: &str = "reserve";
/// The reserve is at most this part of the file system.
const RESERVE_PART_MAX: u64 = 100;

/// Figures for metrics.
#[derive(Debug, Default)]
pub struct Figures {
    free: AtomicU64,
    total: AtomicU64,
    level: AtomicU64,
    reserve: AtomicU64,
    slow: AtomicBool,
}

impl Figures {
    /// As metrics; the level counts from 0 (fine) to 3 (nothing is written).
    pub fn list(&self) -> Vec<(&'static str, f64)> {
        let of = |figure: &AtomicU64| figure.load(Relaxed) as f64;
        vec![
            ("free_bytes", of(&self.free)),
            ("size_bytes", of(&self.total)),
            ("level", of(&self.level)),
            ("reserve_bytes", of(&self.reserve)),
            ("slow", f64::from(u8::from(self.slow.load(Relaxed)))),
        ]
    }
}

/// What the keeper works with.
pub struct Parts {
    pub cluster: Arc<ClusterHandle>,
    pub alarms: Arc<Alarms>,
    pub intake: Arc<Intake>,
    pub directory: PathBuf,
    pub settings: DiskSection,
    pub figures: Arc<Figures>,
    pub stop: CancellationToken,
}

fn thresholds(settings: &DiskSection) -> Thresholds {
    let of =
        |section: &ThresholdSection| Threshold { percent: section.percent, bytes: section.bytes.as_u64() };
    Thresholds { low: of(&settings.warn), stop_new: of(&settings.stop_new), stop: of(&settings.stop) }
}

/// What the file system of a directory has.
#[allow(unsafe_code)]
fn room(directory: &Path) -> io::Result<Room> {
    let path = CString::new(directory.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: an all-zero statvfs is a valid value of that plain C structure.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with a NUL and `found` is a statvfs; both live beyond the call.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Room { free: found.f_bavail * found.f_frsize, total: found.f_blocks * found.f_frsize })
}

/// The file held in reserve.
struct Reserve {
    path: PathBuf,
    wanted: u64,
}

impl Reserve {
    fn new(directory: &Path, settings: &DiskSection) -> Self {
        Self { path: directory.join(RESERVE), wanted: settings.reserve.as_u64() }
    }

    /// What it is to be on a file system of this size.
    fn size(&self, total: u64) -> u64 {
        self.wanted.min(total / RESERVE_PART_MAX)
    }

    fn held(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |found| found.len())
    }

    fn release(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    #[allow(unsafe_code)]
    fn take(&self, size: u64) -> io::Result<()> {
        let file: File = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
        let length = libc::off_t::try_from(size).map_err(io::Error::other)?;
        // SAFETY: `file` keeps the descriptor open during the call, which touches no memory of ours.
        let code = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) };
        if code != 0 {
            self.release()?;
            return Err(io::Error::from_raw_os_error(code));
        }
        Ok(())
    }
}

/// Before the database is opened: a disk that is full gets its reserve back, or recovery could not even write its log.
pub fn make_room(directory: &Path, settings: &DiskSection) {
    let reserve = Reserve::new(directory, settings);
    let full = room(directory).is_ok_and(|room| room.free < settings_stop(settings, room.total));
    if full && reserve.held() > 0 {
        match reserve.release() {
            Ok(()) => tracing::warn!("the disk is full: its reserve is given back"),
            Err(error) => tracing::error!(%error, "the disk's reserve cannot be given back"),
        }
    }
}

fn settings_stop(settings: &DiskSection, total: u64) -> u64 {
    thresholds(settings).stop.of(total)
}

/// One look at the file system, the reserve put right by it.
fn look(directory: &Path, reserve: &Reserve, gauge: &mut Gauge) -> io::Result<(Room, Level, u64)> {
    let mut room = room(directory)?;
    let (size, held) = (reserve.size(room.total), reserve.held());
    room.free = room.free.saturating_sub(size.saturating_sub(held));
    let level = gauge.look(room);
    if level == Level::Stop && held > 0 {
        reserve.release()?;
    } else if level == Level::Fine && held != size && size > 0 {
        reserve.take(size)?;
    }
    Ok((room, level, reserve.held()))
}

/// Runs until the node stops.
pub async fn keep(parts: Parts) {
    let mut gauge = Gauge::new(thresholds(&parts.settings));
    let mut slowness = Slowness::default();
    let mut handed_over: Option<Instant> = None;
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = parts.stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let (directory, settings) = (parts.directory.clone(), parts.settings.clone());
        // A file system that hangs must not hold a network thread.
        let looked = tokio::task::spawn_blocking(move || {
            let found = look(&directory, &Reserve::new(&directory, &settings), &mut gauge);
            (gauge, found)
        });
        let Ok((after, found)) = looked.await else { return };
        gauge = after;
        match found {
            Ok((room, level, reserve)) => parts.tell(room, level, reserve),
            Err(error) => tracing::warn!(%error, "the disk's room cannot be told"),
        }
        let (slow_appends, now) = parts.cluster.disk_slow();
        let slow = slowness.look(slow_appends, now);
        parts.tell_slow(slow, slow_appends);
        let voters = parts.voters();
        let own = gauge.level();
        parts.open_and_close(own, &voters);
        if handed_over.is_none_or(|at| at.elapsed() >= HAND_OVER_EVERY)
            && let Some(to) = parts.successor(own, slow, &voters)
        {
            handed_over = Some(Instant::now());
            match parts.cluster.transfer_leader(Some(to)).await {
                Ok(to) => {
                    tracing::warn!(to, level = %own, slow, "leadership went to a member with a better disk")
                }
                Err(error) => {
                    tracing::warn!(to, %error, "leadership did not go to a member with a better disk")
                }
            }
        }
    }
}

/// What another member says about its disk.
struct Said {
    node: u64,
    level: Level,
    slow: bool,
}

impl Parts {
    fn tell(&self, room: Room, level: Level, reserve: u64) {
        self.figures.free.store(room.free, Relaxed);
        self.figures.total.store(room.total, Relaxed);
        self.figures.level.store(level as u64, Relaxed);
        self.figures.reserve.store(reserve, Relaxed);
        let stands = match level {
            Level::Fine => None,
            Level::Low => Some(kinds::DISK_LOW),
            Level::StopNew => Some(kinds::DISK_FULL),
            Level::Stop => Some(kinds::DISK_STOPPED),
        };
        let mib = |bytes: u64| bytes >> 20;
        for kind in [kinds::DISK_LOW, kinds::DISK_FULL, kinds::DISK_STOPPED] {
            let reason = format!("{} of {} MiB are free", mib(room.free), mib(room.total));
            self.alarms.set(kind, (stands == Some(kind)).then_some(reason));
        }
        self.cluster.set_disk_stopped(level == Level::Stop);
    }

    fn tell_slow(&self, slow: bool, appends: u64) {
        self.figures.slow.store(slow, Relaxed);
        let reason = || format!("an append took too long within the last minute; {appends} since the start");
        self.alarms.set(kinds::DISK_SLOW, slow.then(reason));
    }

    /// What the other voters say, by their alarms; one that says nothing is fine. A learner's disk holds nobody up, and
    /// a learner takes no leadership.
    fn voters(&self) -> Vec<Said> {
        let all = self.cluster.alarms();
        let own = self.cluster.node_id();
        let voters: BTreeSet<u64> = self.cluster.members().voters().collect();
        let others = all.iter().filter(|member| member.node != own && voters.contains(&member.node));
        let said = others.map(|member| {
            let stands = |kind: &str| member.alarms.iter().any(|alarm| alarm.kind == kind);
            let level = if stands(kinds::DISK_STOPPED) {
                Level::Stop
            } else if stands(kinds::DISK_FULL) {
                Level::StopNew
            } else if stands(kinds::DISK_LOW) {
                Level::Low
            } else {
                Level::Fine
            };
            Said { node: member.node, level, slow: stands(kinds::DISK_SLOW) }
        });
        said.collect()
    }

    /// The gate of the leader; on a follower it stands ready.
    fn open_and_close(&self, own: Level, others: &[Said]) {
        let mut voters: Vec<Level> = others.iter().map(|said| said.level).collect();
        voters.push(own);
        // Those that were not heard yet count as fine.
        voters.resize(voters.len().max(self.cluster.members().voters().count()), Level::Fine);
        let level = match cluster_level(own, &voters) {
            Level::Fine | Level::Low => intake::Level::Open,
            Level::StopNew => intake::Level::Completions,
            Level::Stop => intake::Level::Closed,
        };
        if level != self.intake.level_of(Reason::Disk) {
            tracing::warn!(?level, own = %own, "the disks move the intake");
        }
        self.intake.set_feature_level(self.cluster.level());
        self.intake.set(Reason::Disk, level, "");
    }

    /// Whom to hand leadership over to; `None`: it stays.
    fn successor(&self, own: Level, slow: bool, others: &[Said]) -> Option<u64> {
        if !matches!(self.cluster.role().role, Role::Leader { .. }) {
            return None;
        }
        let status = self.cluster.status();
        let reached =
            |node: u64| status.members.iter().any(|m| m.id == node && m.connected && !m.quarantined);
        let fast = others.iter().filter(|said| !said.slow && reached(said.node));
        let fast: Vec<(u64, Level)> = fast.map(|said| (said.node, said.level)).collect();
        successor(own, slow, &fast)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_taken_given_back_and_taken_again() {
        let root = tempfile::tempdir().expect("directory");
        let section = DiskSection { reserve: bytesize::ByteSize::kib(64), ..DiskSection::default() };
        let reserve = Reserve::new(root.path(), &section);
        let tight = |percent| {
            let all = ThresholdSection { percent, bytes: bytesize::ByteSize(u64::MAX) };
            Gauge::new(thresholds(&DiskSection { warn: all, stop_new: all, stop: all, ..section.clone() }))
        };
        let (room, level, held) = look(root.path(), &reserve, &mut tight(0.0)).expect("a file system");
        assert!(room.total > 0 && room.free <= room.total);
        assert_eq!((level, held), (Level::Fine, 64 * 1024));
        let (full, level, held) = look(root.path(), &reserve, &mut tight(100.0)).expect("a file system");
        assert_eq!((level, held), (Level::Stop, 0));
        assert!(full.total == room.total);
        let (_, level, held) = look(root.path(), &reserve, &mut tight(0.0)).expect("a file system");
        assert_eq!((level, held), (Level::Fine, 64 * 1024));
    }

    #[test]
    fn a_full_disk_gets_its_reserve_back_before_the_start() {
        let root = tempfile::tempdir().expect("directory");
        let all = ThresholdSection { percent: 100.0, bytes: bytesize::ByteSize(u64::MAX) };
        let full = DiskSection { stop: all, reserve: bytesize::ByteSize::kib(64), ..DiskSection::default() };
        let reserve = Reserve::new(root.path(), &full);
        reserve.take(64 * 1024).expect("room");
        let room = DiskSection { stop: ThresholdSection { percent: 0.0, ..all }, ..full.clone() };
        make_room(root.path(), &room);
        assert_eq!(reserve.held(), 64 * 1024);
        make_room(root.path(), &full);
        assert_eq!(reserve.held(), 0);
    }
}
