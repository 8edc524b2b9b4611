//! Planted faults in rules that are the domain's own, so that the simulator can show it would notice. Their names, and how
//! one is chosen, are `okno-storage`'s (`planted.rs`); the domain knows nobody, so whoever runs it carries the choice over.
//! Compiled in only with the feature `mutants`, which no shipped binary has; without it [`is`] is `false` at compile time.

/// Every planted fault of the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// A verdict counts whatever its token (`channel::work`).
    AcceptOldToken = 1,
    /// No timer is set for a ticket that is put off (`queue::tickets`).
    LoseDeferredTimer,
    /// Priority is before everybody, however long they have waited (`queue::tickets`).
    CallUnbounded,
    /// A lapse counts whichever leader's clock it is (`channel::work`).
    HeedFormerClock,
}

#[cfg(feature = "mutants")]
mod chosen {
    use super::Fault;
    use std::sync::atomic::{AtomicU8, Ordering};

    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// Chooses the planted fault of this process, or none.
    pub fn choose(fault: Option<Fault>) {
        CHOSEN.store(fault.map_or(0, |fault| fault as u8), Ordering::Relaxed);
    }

    /// Is this the planted fault?
    #[inline]
    pub fn is(fault: Fault) -> bool {
        CHOSEN.load(Ordering::Relaxed) == fault as u8
    }
}

#[cfg(feature = "mutants")]
pub use chosen::{choose, is};

/// Is this the planted fault? Never, in this build.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_fault: Fault) -> bool {
    false
}
