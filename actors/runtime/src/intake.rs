//! The gate of a leader whose disks fill up: it decides for the whole cluster, whichever node a call came in by.
//!
//! It is asked after request memory, so that what was done is still told.

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

/// The gate. Set by the keeper of the disk, asked by the shards.
#[derive(Debug, Default)]
pub struct Intake {
    level: AtomicU8,
    /// Every member knows the cause by name, from feature level 2 on; before, it is told as overload (rule 9).
    named: AtomicBool,
}

impl Intake {
    /// What the disks allow, at the replicated feature level.
    pub fn set(&self, level: Level, feature_level: u32) {
        self.named.store(feature_level >= 2, Ordering::Relaxed);
        self.level.store(level as u8, Ordering::Relaxed);
    }

    pub fn level(&self) -> Level {
        match self.level.load(Ordering::Relaxed) {
            0 => Level::Open,
            1 => Level::Completions,
            _ => Level::Closed,
        }
    }

    /// Why work of this class is not taken in now.
    pub fn refuses(&self, class: Class) -> Option<Cause> {
        let shut = match class {
            Class::New => self.level() >= Level::Completions,
            Class::Completion => self.level() >= Level::Closed,
        };
        let named = || if self.named.load(Ordering::Relaxed) { Cause::DiskFull } else { Cause::Overloaded };
        shut.then(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_outlast_new_work() {
        let intake = Intake::default();
        assert_eq!(intake.refuses(Class::New), None);
        intake.set(Level::Completions, 2);
        assert_eq!(intake.refuses(Class::New), Some(Cause::DiskFull));
        assert_eq!(intake.refuses(Class::Completion), None);
        intake.set(Level::Closed, 2);
        assert_eq!(intake.refuses(Class::Completion), Some(Cause::DiskFull));
        intake.set(Level::Closed, 1);
        assert_eq!(intake.refuses(Class::New), Some(Cause::Overloaded), "a member may not know the name");
        intake.set(Level::Open, 2);
        assert_eq!((intake.level(), intake.refuses(Class::New)), (Level::Open, None));
    }
}
