//! The gate of a node that has to take in less: a disk that fills up, power that fails.
//!
//! Each cause holds the gate at a level of its own, and the strictest counts. Only a leader decides, so only a leader's
//! gate matters; it is asked after request memory, so that what was done is still told.

use crate::call::Cause;
use okno_domain::intake::Class;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// How much is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Level {
    #[default]
    Open = 0,
    /// What was begun is brought to its end; nothing new begins.
    Completions = 1,
    /// Nothing is written. Reads go on.
    Closed = 2,
}

impl Level {
    const fn of(number: u8) -> Self {
        match number {
            0 => Self::Open,
            1 => Self::Completions,
            _ => Self::Closed,
        }
    }
}

/// The gate. Set by the keepers of disk and power, asked by the shards.
#[derive(Debug, Default)]
pub struct Intake {
    disk: AtomicU8,
    power: AtomicU8,
    /// Every member knows the causes by name, from feature level 2 on; before, all is overload (rule 9).
    named: AtomicBool,
}

impl Intake {
    /// What the disks allow.
    pub fn set_disk(&self, level: Level) {
        self.disk.store(level as u8, Ordering::Relaxed);
    }

    /// What the power allows.
    pub fn set_power(&self, level: Level) {
        self.power.store(level as u8, Ordering::Relaxed);
    }

    /// The replicated feature level, which says whether causes may be told by name.
    pub fn set_feature_level(&self, level: u32) {
        self.named.store(level >= 2, Ordering::Relaxed);
    }

    /// The strictest of all.
    pub fn level(&self) -> Level {
        let [disk, power] = [&self.disk, &self.power].map(|held| held.load(Ordering::Relaxed));
        Level::of(disk.max(power))
    }

    /// Why work of this class is not taken in now.
    pub fn refuses(&self, class: Class) -> Option<Cause> {
        let [disk, power] = [&self.disk, &self.power].map(|held| Level::of(held.load(Ordering::Relaxed)));
        let shut = |level: Level| match class {
            Class::New => level >= Level::Completions,
            Class::Completion => level >= Level::Closed,
        };
        let cause = if shut(power) {
            Cause::PowerFailing
        } else if shut(disk) {
            Cause::DiskFull
        } else {
            return None;
        };
        Some(if self.named.load(Ordering::Relaxed) { cause } else { Cause::Overloaded })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strictest_cause_counts_and_completions_outlast_new_work() {
        let intake = Intake::default();
        assert_eq!(intake.refuses(Class::New), None);
        intake.set_disk(Level::Completions);
        assert_eq!(intake.refuses(Class::New), Some(Cause::Overloaded), "a member may not know the name");
        intake.set_feature_level(2);
        assert_eq!(intake.refuses(Class::New), Some(Cause::DiskFull));
        assert_eq!(intake.refuses(Class::Completion), None);
        intake.set_power(Level::Closed);
        assert_eq!(intake.refuses(Class::Completion), Some(Cause::PowerFailing));
        assert_eq!(intake.level(), Level::Closed);
        intake.set_power(Level::Open);
        intake.set_disk(Level::Closed);
        assert_eq!(intake.refuses(Class::Completion), Some(Cause::DiskFull));
        intake.set_disk(Level::Open);
        assert_eq!((intake.level(), intake.refuses(Class::New)), (Level::Open, None));
    }
}
