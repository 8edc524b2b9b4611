//! A machine: what is left when the process is gone.

use super::{Live, copies::Step, shards::Panics};
use crate::{
    clock::Clock,
    config::Kind,
    core::{Core, End},
};
use okno_checks::invariants::Invariant;
use okno_cluster::core::steps;
use okno_storage::{
    engine::{Batch, Cf, Engine, Read, Sync},
    identity::{Identity, IdentityMedium, IdentityRecord},
    memory::{MemoryEngine, MemoryIdentity},
    snapshot::MemoryDisk,
};
use rand::Rng;
use std::{ops::ControlFlow, sync::Arc};
use uuid::Uuid;

/// Bytes that a torn write of an identity slot keeps: fewer than the shortest record has, whose last word is what changed.
const TORN_MAX: usize = 100;

/// How the disk behaves now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk {
    /// Every append takes this long, microseconds.
    pub slow_us: Option<(u64, u64)>,
    /// The next append does not return for this long.
    pub hang_us: Option<u64>,
    /// The next append fails.
    pub fail: bool,
    /// The process ends while the next append is under way: between what was told and what is on disk.
    pub cut: Option<End>,
    /// The end comes while the next copy is received or installed: this kind of fault.
    pub armed: Option<Kind>,
}

pub struct Machine {
    pub store: MemoryDisk,
    pub medium: MemoryIdentity,
    /// As in `identity`.
    pub incarnation: Uuid,
    pub clock: Clock,
    pub disk: Disk,
    pub panics: Arc<Panics>,
    pub live: Option<Live>,
    /// A stored value was damaged on this machine.
    pub damaged: bool,
    /// Its data were removed and made anew.
    pub wiped: bool,
    /// Stays down: quarantined, or taken out for its damage, or not yet made.
    pub gone: bool,
    /// Does not start for now.
    pub held: bool,
    /// Copies installed by processes that are gone.
    installs: u64,
    /// Stands still until then.
    pub paused_until: u64,
}

impl Machine {
    pub fn new(engine: MemoryEngine, record: IdentityRecord) -> Self {
        let (medium, incarnation) = (MemoryIdentity::new(), record.incarnation);
        let identity = Identity::create(Box::new(medium.clone()), record);
        let identity = identity.expect("a new medium in memory takes its first record");
        let store = MemoryDisk::new(&identity.record().live_directory, engine);
        Self {
            store,
            medium,
            incarnation,
            clock: Clock::default(),
            disk: Disk::default(),
            panics: Arc::default(),
            live: None,
            damaged: false,
            wiped: false,
            gone: false,
            held: false,
            installs: 0,
            paused_until: 0,
        }
    }

    /// What stands in `identity` now.
    pub fn identity(&self) -> Option<IdentityRecord> {
        Some(Identity::open(Box::new(self.medium.clone())).ok()?.record().clone())
    }

    /// `okno init` runs on a machine without data.
    pub fn init(&mut self, record: IdentityRecord) {
        let fresh = Self::new(MemoryEngine::new(), record);
        (self.store, self.medium, self.incarnation) = (fresh.store, fresh.medium, fresh.incarnation);
        (self.damaged, self.wiped, self.gone) = (false, false, false);
    }

    /// Copies installed, by the process that runs as well.
    pub fn copies_installed(&self) -> u64 {
        self.installs + self.live.as_ref().map_or(0, |live| live.installs)
    }

    /// Name of the database that `identity` names.
    pub fn live_directory(&self) -> Option<String> {
        Some(self.identity()?.live_directory)
    }

    /// The database that `identity` names.
    pub fn engine(&self) -> Option<MemoryEngine> {
        self.store.database(&self.live_directory()?)
    }

    /// The process is gone; what the disk holds now is what the next one finds.
    pub fn down(&mut self, how: End, w: &mut Core) {
        let Some(mut live) = self.live.take() else { return };
        if self.disk.armed == Some(Kind::CutCopy) && live.cut_the_copy() {
            self.disk.armed = None;
            w.count(Kind::CutCopy);
        }
        self.installs += live.installs;
        if let Some(append) = live.raft.append.take() {
            // Nobody was told about it: it may have reached the disk, in part or not at all.
            let persist = append.persist;
            let votes = persist.voted || persist.lower.is_some();
            let how_far: usize = w.rng.disk.gen_range(0..4);
            if persist.install.is_some() {
                let step = match self.disk.armed {
                    Some(Kind::InstallUnnamed) => Step::Unnamed,
                    Some(Kind::InstallTorn) => Step::Torn,
                    Some(Kind::InstallNamed) => Step::Named,
                    _ => [Step::Unnamed, Step::Torn, Step::Named][how_far.min(2)],
                };
                let before = self.live_directory();
                let tear = w.rng.disk.gen_range(0..TORN_MAX);
                let came_to = live.break_install(persist, step, how, tear, &self.medium);
                let named = self.live_directory() != before;
                if named != (came_to == Some(Step::Named)) {
                    let detail = format!(
                        "node {}: the end came in an install at {came_to:?}, and `identity` names {} database",
                        live.ix + 1,
                        if named { "the new" } else { "the old" }
                    );
                    w.watch.breach(Invariant::StopsWhenWrong, detail);
                }
                self.installs += u64::from(named);
                if came_to == Some(step)
                    && let Some(kind) = self.disk.armed.take_if(|kind| *kind != Kind::CutCopy)
                {
                    w.count(kind);
                }
            } else if how_far == 0 && votes && how != End::Killed && slots_sound(&self.medium) {
                self.medium.tear_next_write(w.rng.disk.gen_range(0..TORN_MAX));
                if steps::vote(&mut live.identity, &persist).is_ok() {
                    // Nothing was to be written: the tear must not wait for a later write.
                    self.medium.spare_next_write();
                }
            } else if how_far >= 1 {
                let hard_state = persist.hard_state;
                let written = steps::vote(&mut live.identity, &persist);
                debug_assert!(written.is_ok(), "memory takes it");
                if how_far >= 2 {
                    let written =
                        live.log.persist(persist.entries, hard_state, how_far == 3 && how != End::Killed);
                    debug_assert!(written.is_ok(), "memory takes it");
                }
            }
        }
        let directory = self.live_directory().unwrap_or_default();
        let unsynced = self.engine().map_or(0, |engine| engine.unsynced());
        let keep = match how {
            End::Killed => unsynced,
            // Often nothing or all, sometimes in between.
            End::PowerLost | End::FsyncFailed => match w.rng.disk.gen_range(0..4) {
                0 => 0,
                1 => unsynced,
                _ => w.rng.disk.gen_range(0..=unsynced),
            },
        };
        drop(live);
        let killed = how == End::Killed;
        self.store = self
            .store
            .crash(&directory, keep, |loose| if killed { loose } else { w.rng.disk.gen_range(0..=loose) });
        self.disk.hang_us = None;
        self.disk.fail = false;
        self.disk.cut = None;
        self.paused_until = 0;
    }

    /// The power goes while an identity slot is being written: the slot tears. Not while the other slot is damaged: two
    /// faults at once on one machine's identity are more than it promises to survive.
    pub fn tear(&mut self, w: &mut Core) {
        if !slots_sound(&self.medium) {
            return;
        }
        let Some(live) = &mut self.live else { return };
        self.medium.tear_next_write(w.rng.disk.gen_range(0..TORN_MAX));
        let last = live.log.last_index();
        let term = live.log.term(last).ok().flatten().unwrap_or(0);
        // A write that changes nothing is none: the tear must not wait for a later one.
        if steps::note_synced(&mut live.identity, (term, last)).is_ok() {
            // Harmless also where all of it gets written: a mark may always be lower.
            if last > 0 {
                let torn = live.identity.update(|r| (r.synced_term, r.synced_index) = (0, 0));
                debug_assert!(torn.is_err(), "the power went");
            } else {
                self.medium.spare_next_write();
            }
        }
    }

    /// The data are gone; `okno init` has run again.
    pub fn wipe(&mut self, record: IdentityRecord) {
        let fresh = Self::new(MemoryEngine::new(), record);
        (self.store, self.medium, self.incarnation) = (fresh.store, fresh.medium, fresh.incarnation);
        (self.damaged, self.wiped) = (true, true);
    }

    /// Flips a byte of one identity slot, if the other can stand for it.
    pub fn rot_identity(&mut self, slot: usize, byte: usize) -> bool {
        let sound = slots_sound(&self.medium);
        if sound {
            self.medium.rot(slot, byte);
        }
        sound
    }

    /// Flips one byte of a stored value; says of what. Small families come as often as large ones.
    pub fn rot(&mut self, pick: u64) -> Option<String> {
        const FAMILIES: [Cf; 5] = [Cf::Log, Cf::Entity, Cf::Journal, Cf::Request, Cf::Outbox];
        let cf = FAMILIES[usize::try_from(pick % 5).unwrap_or(0)];
        let mut rows: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let engine = self.engine()?;
        let scanned = engine.scan(cf, &[], okno_storage::keys::END, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        });
        scanned.ok()?;
        if rows.is_empty() {
            return None;
        }
        let (key, mut value) = rows.swap_remove(usize::try_from(pick / 5).ok()? % rows.len());
        let at = usize::try_from(pick / 7).ok()? % value.len().max(1);
        *value.get_mut(at)? ^= 1 << (pick % 8);
        let mut batch = Batch::default();
        let what = format!("{} {}", cf.name(), String::from_utf8_lossy(&key).escape_debug());
        batch.put(cf, key, value);
        engine.write(batch, Sync::Yes).ok()?;
        self.damaged = true;
        if let Some(live) = &mut self.live {
            live.damaged = true;
        }
        Some(what)
    }
}

/// Both slots were written, can be read, and can stand for each other.
pub(super) fn slots_sound(medium: &MemoryIdentity) -> bool {
    let alone = |slot| {
        let bytes = medium.read(slot).ok()??;
        let mut alone = MemoryIdentity::new();
        alone.write(slot, &bytes).ok()?;
        Some(Identity::open(Box::new(alone)).ok()?.record().live_directory.clone())
    };
    // Right after an install the older slot names a database that is gone, until the next write.
    alone(0).is_some_and(|one| alone(1) == Some(one))
}
