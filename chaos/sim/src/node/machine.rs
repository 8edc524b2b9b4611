//! A machine: what is left when the process is gone.

use super::{Live, shards::Panics};
use crate::{
    clock::Clock,
    core::{Core, End},
};
use okno_cluster::core::steps;
use okno_storage::{
    engine::{Batch, Cf, Engine, Read, Sync},
    identity::{Identity, IdentityMedium, IdentityRecord},
    memory::{MemoryEngine, MemoryIdentity},
};
use rand::Rng;
use std::{ops::ControlFlow, sync::Arc};

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
}

pub struct Machine {
    pub engine: MemoryEngine,
    pub medium: MemoryIdentity,
    pub clock: Clock,
    pub disk: Disk,
    pub panics: Arc<Panics>,
    pub live: Option<Live>,
    /// A stored value was damaged on this machine.
    pub damaged: bool,
    /// Its data were removed and made anew.
    pub wiped: bool,
    /// Stays down: quarantined, or taken out for its damage.
    pub gone: bool,
    /// Stands still until then.
    pub paused_until: u64,
}

impl Machine {
    pub fn new(engine: MemoryEngine, record: IdentityRecord) -> Self {
        let medium = MemoryIdentity::new();
        let identity = Identity::create(Box::new(medium.clone()), record);
        drop(identity.expect("a new medium in memory takes its first record"));
        Self {
            engine,
            medium,
            clock: Clock::default(),
            disk: Disk::default(),
            panics: Arc::default(),
            live: None,
            damaged: false,
            wiped: false,
            gone: false,
            paused_until: 0,
        }
    }

    /// The process is gone; what the disk holds now is what the next one finds.
    pub fn down(&mut self, how: End, w: &mut Core) {
        let Some(mut live) = self.live.take() else { return };
        let rng = &mut w.rng.disk;
        if let Some(append) = live.raft.append.take() {
            // Nobody was told about it: it may have reached the disk, in part or not at all.
            let persist = append.persist;
            let votes = persist.vote.is_some() || persist.lower.is_some();
            let how_far = rng.gen_range(0..4);
            if how_far == 0 && votes && how != End::Killed && slots_sound(&self.medium) {
                self.medium.tear_next_write(rng.gen_range(0..200));
                if steps::vote(&mut live.identity, &persist).is_ok() {
                    // Nothing was to be written: the tear must not wait for a later write.
                    self.medium.spare_next_write();
                }
            } else if how_far >= 1 {
                let vote = persist.vote;
                let written = steps::vote(&mut live.identity, &persist);
                debug_assert!(written.is_ok(), "memory takes it");
                if how_far >= 2 {
                    let written = live.log.persist(persist.entries, vote, how_far == 3 && how != End::Killed);
                    debug_assert!(written.is_ok(), "memory takes it");
                }
            }
        }
        let unsynced = self.engine.unsynced();
        let keep = match how {
            End::Killed => unsynced,
            // Often nothing or all, sometimes in between.
            End::PowerLost | End::FsyncFailed => match rng.gen_range(0..4) {
                0 => 0,
                1 => unsynced,
                _ => rng.gen_range(0..=unsynced),
            },
        };
        drop(live);
        self.engine = self.engine.crash(keep);
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
        self.medium.tear_next_write(w.rng.disk.gen_range(0..200));
        let last = live.log.last_index();
        let term = live.log.term(last).ok().flatten().unwrap_or(0);
        // A write that changes nothing is none: the tear must not wait for a later one.
        if steps::note_synced(&mut live.identity, (term, last)).is_ok() {
            let before = live.identity.record().live_directory.clone();
            let torn = live.identity.update(|r| r.live_directory = format!("{before}~"));
            debug_assert!(torn.is_err(), "the power went");
        }
    }

    /// The data are gone; `okno init` has run again.
    pub fn wipe(&mut self, record: IdentityRecord) {
        let fresh = Self::new(MemoryEngine::new(), record);
        (self.engine, self.medium) = (fresh.engine, fresh.medium);
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
        let scanned = self.engine.scan(cf, &[], okno_storage::keys::END, &mut |key, value| {
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
        self.engine.write(batch, Sync::Yes).ok()?;
        self.damaged = true;
        if let Some(live) = &mut self.live {
            live.damaged = true;
        }
        Some(what)
    }
}

/// Both slots were written and can be read.
fn slots_sound(medium: &MemoryIdentity) -> bool {
    (0..2).all(|slot| {
        let Ok(Some(bytes)) = medium.read(slot) else { return false };
        let mut alone = MemoryIdentity::new();
        alone.write(slot, &bytes).is_ok() && Identity::open(Box::new(alone)).is_ok()
    })
}
