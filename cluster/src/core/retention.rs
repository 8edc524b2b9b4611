//! How much of the log is kept (design §5): for any member heard lately, up to a number of bytes.
//!
//! Invariants: nothing is cut that is not applied here, nor what a copy on its way needs behind it; a tail always stays,
//! so that a member that was away for a moment need not be sent a copy.

use okno_storage::planted::{self, Mutant};

/// What a node's settings say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Entries always kept.
    pub tail: u64,
    /// Bytes of log kept for members that lag.
    pub bytes_max: u64,
}

/// What the node knows at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub first_index: u64,
    pub last_index: u64,
    pub applied: u64,
    /// What members heard lately say they have applied.
    pub others: &'a [u64],
    /// A copy on its way needs the log from here on.
    pub pinned: Option<u64>,
    /// Bytes of an entry, on average.
    pub entry_bytes: u64,
}

/// Entries cut at once, at least.
pub const STEP_MIN: u64 = 1_024;

/// The index through which the log may be cut; 0: not at all.
pub fn cut_through(kept: Retention, facts: Facts<'_>) -> u64 {
    if planted::is(Mutant::CutLogTooFar) {
        return facts.last_index;
    }
    let wanted = facts.others.iter().copied().min().unwrap_or(u64::MAX);
    let room = kept.bytes_max / facts.entry_bytes.max(1);
    let too_long = facts.last_index.saturating_sub(room);
    let through = wanted.max(too_long);
    let own = facts.applied.saturating_sub(kept.tail);
    let through = through.min(own).min(facts.pinned.unwrap_or(u64::MAX));
    if through >= facts.first_index { through } else { 0 }
}

/// Bytes of an entry on average, of those appended lately: the older, the less they count.
#[derive(Debug, Clone, Copy, Default)]
pub struct EntryBytes {
    entries: u64,
    bytes: u64,
}

impl EntryBytes {
    /// Entries among which older ones count half.
    const MEMORY: u64 = 65_536;
    /// What an entry takes beside its data.
    const OVERHEAD: u64 = 48;

    pub fn note(&mut self, entries: u64, bytes: u64) {
        self.entries += entries;
        self.bytes += bytes;
        if self.entries > 2 * Self::MEMORY {
            (self.entries, self.bytes) = (self.entries / 2, self.bytes / 2);
        }
    }

    pub fn mean(&self) -> u64 {
        self.bytes.checked_div(self.entries).unwrap_or(0) + Self::OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Retention = Retention { tail: 100, bytes_max: 1_000_000 };

    fn facts(others: &[u64]) -> Facts<'_> {
        Facts { first_index: 1, last_index: 5_000, applied: 4_900, others, pinned: None, entry_bytes: 1_000 }
    }

    #[test]
    fn keeps_for_who_was_heard_up_to_the_bytes() {
        assert_eq!(cut_through(KEPT, facts(&[4_500, 4_700])), 4_500);
        assert_eq!(cut_through(KEPT, facts(&[10, 4_700])), 4_000, "no more than the bytes");
        assert_eq!(cut_through(KEPT, facts(&[])), 4_800, "nobody to keep it for: the tail stays");
        assert_eq!(cut_through(KEPT, facts(&[9_000])), 4_800, "never what is not applied here, nor the tail");
    }

    #[test]
    fn a_copy_on_its_way_pins_what_is_behind_it() {
        let pinned = Facts { pinned: Some(4_200), ..facts(&[4_700]) };
        assert_eq!(cut_through(KEPT, pinned), 4_200);
        let beyond_the_bytes = Facts { pinned: Some(300), ..facts(&[10]) };
        assert_eq!(cut_through(KEPT, beyond_the_bytes), 300);
    }

    #[test]
    fn cuts_nothing_twice_and_nothing_of_a_short_log() {
        let cut = Facts { first_index: 4_501, ..facts(&[4_500]) };
        assert_eq!(cut_through(KEPT, cut), 0);
        let short = Facts { last_index: 80, applied: 80, ..facts(&[80]) };
        assert_eq!(cut_through(KEPT, short), 0);
    }

    #[test]
    fn the_mean_follows_what_is_appended() {
        let mut mean = EntryBytes::default();
        assert_eq!(mean.mean(), 48);
        mean.note(10, 10_000);
        assert_eq!(mean.mean(), 1_048);
        for _ in 0..1_000 {
            mean.note(1_000, 100_000);
        }
        assert_eq!(mean.mean(), 148);
    }
}
