//! The gate: what is still taken in when something runs short.
//!
//! It is asked twice. On the leader, when it decides, after request memory, so that what was done is still told: there every
//! reason counts, whichever node a call came in by. And where a call comes in: there only what this very machine is short of
//! counts ([`Reason::is_local`]), because the caller may go to another node at once.
//!
//! Invariants: each reason has one level, set and lifted by the one keeper that looks after it; what is taken in is what the
//! strictest of them lets through.

use crate::call::Cause;
use okno_domain::intake::Class;
use okno_storage::level;
use parking_lot::Mutex;
use std::{
    array,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
};

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

    fn stops(self, class: Class) -> bool {
        match class {
            Class::New => self >= Self::Completions,
            Class::Completion => self >= Self::Closed,
        }
    }
}

/// What is short. Of two that shut the gate equally far the first is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// This machine is about to go down.
    Power,
    /// The disks of so many voters that it is everybody's business.
    Disk,
}

impl Reason {
    pub const ALL: [Self; 2] = [Self::Power, Self::Disk];

    /// Is it this machine's alone, so that a call is better made to another?
    pub const fn is_local(self) -> bool {
        match self {
            Self::Power => true,
            Self::Disk => false,
        }
    }

    pub const fn cause(self) -> Cause {
        match self {
            Self::Power => Cause::PowerFailing,
            Self::Disk => Cause::DiskFull,
        }
    }
}

/// Why a call is not taken in here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shut {
    pub cause: Cause,
    /// For engineers.
    pub detail: String,
}

/// The gate of one reason.
#[derive(Debug, Default)]
struct Leaf {
    level: AtomicU8,
    detail: Mutex<String>,
}

/// The gate. Set by keepers, asked by shards and by whatever receives calls.
#[derive(Debug)]
pub struct Intake {
    /// In the order of [`Reason::ALL`].
    leaves: [Leaf; Reason::ALL.len()],
    /// Every member knows the causes by name; before, they are told as overload (rule 9).
    named: AtomicBool,
}

impl Default for Intake {
    fn default() -> Self {
        Self { leaves: array::from_fn(|_| Leaf::default()), named: AtomicBool::new(false) }
    }
}

impl Intake {
    /// What one reason allows from now on, until its keeper says otherwise.
    pub fn set(&self, reason: Reason, level: Level, detail: &str) {
        let leaf = self.leaf(reason);
        detail.clone_into(&mut leaf.detail.lock());
        leaf.level.store(level as u8, Ordering::Relaxed);
    }

    /// The replicated feature level: may the leader tell causes by name?
    pub fn set_feature_level(&self, feature_level: u32) {
        self.named.store(feature_level >= level::SHUT_REASONS, Ordering::Relaxed);
    }

    /// What one reason allows.
    pub fn level_of(&self, reason: Reason) -> Level {
        Level::of(self.leaf(reason).level.load(Ordering::Relaxed))
    }

    /// What all of them allow.
    pub fn level(&self) -> Level {
        Reason::ALL.into_iter().map(|reason| self.level_of(reason)).max().unwrap_or_default()
    }

    /// Why a leader does not take in work of this class now.
    pub fn refuses(&self, class: Class) -> Option<Cause> {
        let reason = self.strictest(class, |_| true)?;
        Some(if self.named.load(Ordering::Relaxed) { reason.cause() } else { Cause::Overloaded })
    }

    /// Why a node does not take in a call of this class from its own clients now. It is told to them alone, by name.
    pub fn refuses_here(&self, class: Class) -> Option<Shut> {
        let reason = self.strictest(class, Reason::is_local)?;
        Some(Shut { cause: reason.cause(), detail: self.leaf(reason).detail.lock().clone() })
    }

    fn strictest(&self, class: Class, counts: fn(Reason) -> bool) -> Option<Reason> {
        let mut found: Option<(Level, Reason)> = None;
        for reason in Reason::ALL.into_iter().filter(|reason| counts(*reason)) {
            let level = self.level_of(reason);
            if level.stops(class) && found.is_none_or(|(strictest, _)| level > strictest) {
                found = Some((level, reason));
            }
        }
        found.map(|(_, reason)| reason)
    }

    fn leaf(&self, reason: Reason) -> &Leaf {
        match reason {
            Reason::Power => &self.leaves[0],
            Reason::Disk => &self.leaves[1],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Intake {
        let intake = Intake::default();
        intake.set_feature_level(2);
        intake
    }

    fn both(intake: &Intake) -> [Option<Cause>; 2] {
        [Class::New, Class::Completion].map(|class| intake.refuses(class))
    }

    #[test]
    fn completions_outlast_new_work() {
        let intake = gate();
        assert_eq!(both(&intake), [None, None]);
        intake.set(Reason::Disk, Level::Completions, "");
        assert_eq!(both(&intake), [Some(Cause::DiskFull), None]);
        intake.set(Reason::Disk, Level::Closed, "");
        assert_eq!(both(&intake), [Some(Cause::DiskFull); 2]);
        intake.set_feature_level(1);
        assert_eq!(intake.refuses(Class::New), Some(Cause::Overloaded), "a member may not know the name");
        intake.set(Reason::Disk, Level::Open, "");
        assert_eq!((intake.level(), intake.refuses(Class::New)), (Level::Open, None));
    }

    #[test]
    fn the_strictest_counts_and_each_is_lifted_by_who_set_it() {
        let intake = gate();
        intake.set(Reason::Power, Level::Completions, "low");
        assert_eq!(both(&intake), [Some(Cause::PowerFailing), None]);
        intake.set(Reason::Disk, Level::Completions, "full");
        assert_eq!(both(&intake), [Some(Cause::PowerFailing), None], "of two alike the first is told");
        intake.set(Reason::Disk, Level::Closed, "full");
        assert_eq!(both(&intake), [Some(Cause::DiskFull); 2]);
        // The disk has room again; it does not open what power shut.
        intake.set(Reason::Disk, Level::Open, "");
        assert_eq!(both(&intake), [Some(Cause::PowerFailing), None]);
        assert_eq!((intake.level(), intake.level_of(Reason::Disk)), (Level::Completions, Level::Open));
        intake.set(Reason::Disk, Level::Completions, "full");
        intake.set(Reason::Power, Level::Open, "");
        assert_eq!(both(&intake), [Some(Cause::DiskFull), None]);
        intake.set(Reason::Disk, Level::Open, "");
        assert_eq!((both(&intake), intake.level()), ([None, None], Level::Open));
    }

    #[test]
    fn a_node_turns_away_only_for_what_is_its_own() {
        let intake = gate();
        intake.set_feature_level(1);
        intake.set(Reason::Disk, Level::Closed, "full");
        assert_eq!(intake.refuses_here(Class::New), None, "the leader says so, after request memory");
        intake.set(Reason::Power, Level::Completions, "the battery is low");
        let shut = Shut { cause: Cause::PowerFailing, detail: "the battery is low".into() };
        assert_eq!(intake.refuses_here(Class::New), Some(shut));
        assert_eq!(intake.refuses_here(Class::Completion), None);
    }

    #[test]
    fn every_reason_has_a_place_of_its_own() {
        for reason in Reason::ALL {
            let intake = gate();
            intake.set(reason, Level::Closed, "");
            let shut: Vec<_> =
                Reason::ALL.into_iter().filter(|other| intake.level_of(*other) == Level::Closed).collect();
            assert_eq!((shut, intake.refuses(Class::New)), (vec![reason], Some(reason.cause())));
        }
    }
}
