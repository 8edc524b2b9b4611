//! How full a disk is, and what follows: the three levels with their hysteresis, and what a leader makes of the levels
//! of all members. Pure; the node's keeper (`node/src/keepers/disk.rs`) looks at the file system and does what is said
//! here.
//!
//! A level begins when free space falls below its threshold and ends only when it is well above it again
//! ([`CLEARS_AT_PERCENT`]), so that a disk at the edge does not open and close the intake every second.

use std::fmt;

/// A level ends at this much of its threshold.
const CLEARS_AT_PERCENT: u128 = 120;

/// How much room is left, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    #[default]
    Fine,
    /// An operator should make room.
    Low,
    /// Nothing new is begun; what was begun can be finished and everything can be read.
    StopNew,
    /// Nothing is written: what is left is for flushing, compaction and cutting the log.
    Stop,
}

impl Level {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Low => "low",
            Self::StopNew => "stop-new",
            Self::Stop => "stop",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Free space below which a level begins: the smaller of a share of the file system and a size, so that neither a large
/// disk stops with hundreds of gigabytes left nor a small one at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// Of the file system's size.
    pub percent: f64,
    pub bytes: u64,
}

impl Threshold {
    /// In bytes, on a file system of `total` bytes.
    pub fn of(&self, total: u64) -> u64 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a size, exact enough to the page"
        )]
        let share = (total as f64 * self.percent / 100.0) as u64;
        share.min(self.bytes)
    }
}

/// All thresholds, each below the one before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    pub low: Threshold,
    pub stop_new: Threshold,
    pub stop: Threshold,
}

/// What the file system says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Available to the node.
    pub free: u64,
    pub total: u64,
}

/// The level of one disk over time.
#[derive(Debug, Clone)]
pub struct Gauge {
    thresholds: Thresholds,
    level: Level,
}

impl Gauge {
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, level: Level::Fine }
    }

    pub fn level(&self) -> Level {
        self.level
    }

    /// Takes in a look; says the level from now on.
    pub fn look(&mut self, room: Room) -> Level {
        let Thresholds { low, stop_new, stop } = self.thresholds;
        let steps = [(Level::Stop, stop), (Level::StopNew, stop_new), (Level::Low, low)];
        let below = |bound: u128| u128::from(room.free) * 100 < bound;
        let next = steps.into_iter().find(|(level, threshold)| {
            let bound = u128::from(threshold.of(room.total));
            // What stands already holds on a little longer.
            below(bound * if self.level >= *level { CLEARS_AT_PERCENT } else { 100 })
        });
        self.level = next.map_or(Level::Fine, |(level, _)| level);
        self.level
    }
}

/// What a leader takes in, by its own disk and by what the others say of theirs: it must not go on alone where the
/// others could not follow. `voters` are the levels of all voting members, its own included; one that says nothing
/// counts as fine, for raft itself waits for a quorum.
pub fn cluster_level(own: Level, voters: &[Level]) -> Level {
    let majority = voters.len() / 2 + 1;
    let of_others = [Level::Stop, Level::StopNew]
        .into_iter()
        .find(|level| voters.iter().filter(|one| *one < level).count() < majority);
    let own = if own >= Level::StopNew { own } else { Level::Fine };
    own.max(of_others.unwrap_or(Level::Fine))
}

/// Whom a leader should hand over to for its disk's sake; `None`: it stays. `others` can take over and are not slow. One
/// whose disk takes no new work goes to one that does, a slow one too; one whose disk takes nothing to any that has more.
pub fn successor(own: Level, slow: bool, others: &[(u64, Level)]) -> Option<u64> {
    if own == Level::Stop {
        return better(own, others);
    }
    // A slow disk is better than one that takes no new work.
    let open: Vec<_> = others.iter().copied().filter(|(_, level)| *level < Level::StopNew).collect();
    if slow || own == Level::StopNew { better(Level::StopNew, &open) } else { None }
}

/// The first member with the most room, if it has more.
fn better(own: Level, others: &[(u64, Level)]) -> Option<u64> {
    others
        .iter()
        .filter(|(_, level)| *level < own)
        .min_by_key(|(node, level)| (*level, *node))
        .map(|(node, _)| *node)
}

/// Is a disk slow? By the time of its appends, with hysteresis: it is slow as soon as one append took too long, and fast
/// again after [`FAST_AFTER_LOOKS`] looks without one.
#[derive(Debug, Clone, Default)]
pub struct Slowness {
    /// Slow appends counted at the last look.
    seen: u64,
    /// Looks left until it counts as fast.
    left: u32,
}

/// A minute of looks a second: a disk that stalls now and then stays slow in between.
pub const FAST_AFTER_LOOKS: u32 = 60;

impl Slowness {
    /// `slow` counts the slow appends since the start; `now` says that one is under way for too long. True: it is slow.
    pub fn look(&mut self, slow: u64, now: bool) -> bool {
        if slow > self.seen || now {
            self.left = FAST_AFTER_LOOKS;
        } else {
            self.left = self.left.saturating_sub(1);
        }
        self.seen = slow;
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn thresholds() -> Thresholds {
        let at = |percent, gib| Threshold { percent, bytes: gib * GIB };
        Thresholds { low: at(10.0, 20), stop_new: at(5.0, 10), stop: at(2.0, 4) }
    }

    fn look(gauge: &mut Gauge, free: u64) -> Level {
        gauge.look(Room { free: free * GIB, total: 100 * GIB })
    }

    #[test]
    fn levels_come_one_by_one_and_go_with_hysteresis() {
        let mut gauge = Gauge::new(thresholds());
        let course: Vec<Level> = [50, 10, 9, 5, 4, 2, 1, 2, 3, 5, 6, 11, 12, 10]
            .into_iter()
            .map(|free| look(&mut gauge, free))
            .collect();
        use Level::{Fine, Low, Stop, StopNew};
        assert_eq!(
            course,
            [Fine, Fine, Low, Low, StopNew, StopNew, Stop, Stop, StopNew, StopNew, Low, Low, Fine, Fine]
        );
    }

    #[test]
    fn a_disk_may_fill_up_between_two_looks() {
        let mut gauge = Gauge::new(thresholds());
        assert_eq!(look(&mut gauge, 0), Level::Stop);
        assert_eq!(look(&mut gauge, 90), Level::Fine);
    }

    #[test]
    fn a_threshold_is_the_smaller_of_share_and_size() {
        let threshold = Threshold { percent: 10.0, bytes: 20 * GIB };
        assert_eq!(threshold.of(100 * GIB), 10 * GIB);
        assert_eq!(threshold.of(4_000 * GIB), 20 * GIB);
        assert_eq!(threshold.of(0), 0);
    }

    #[test]
    fn a_leader_goes_on_while_a_majority_has_room() {
        use Level::{Fine, Low, Stop, StopNew};
        let check =
            |own, voters: &[Level], expected| assert_eq!(cluster_level(own, voters), expected, "{voters:?}");
        check(Fine, &[Fine, Fine, Fine], Fine);
        check(Fine, &[Fine, Stop, Fine], Fine);
        check(Fine, &[Fine, Stop, StopNew], StopNew);
        check(Fine, &[Fine, Stop, Stop], Stop);
        check(Low, &[Low, Low, Low], Fine);
        check(StopNew, &[StopNew, Fine, Fine], StopNew);
        check(Stop, &[Stop], Stop);
        check(Fine, &[Fine, Fine, Fine, Stop, Stop], Fine);
        check(Fine, &[Fine, Fine, Low, StopNew, Stop], Fine);
        check(Fine, &[Fine, Fine, Stop, StopNew, Stop], StopNew);
    }

    #[test]
    fn leadership_goes_to_more_room_or_stays() {
        use Level::{Fine, Low, Stop, StopNew};
        assert_eq!(successor(Stop, false, &[(2, StopNew), (3, Low)]), Some(3));
        assert_eq!(successor(Stop, false, &[(3, Fine), (2, Fine)]), Some(2));
        assert_eq!(successor(Stop, false, &[(2, StopNew), (3, Stop)]), Some(2));
        assert_eq!(successor(Stop, true, &[(2, Stop), (3, Stop)]), None);
        assert_eq!(successor(Stop, false, &[]), None);
        assert_eq!(successor(StopNew, false, &[(2, StopNew), (3, Low)]), Some(3));
        assert_eq!(successor(StopNew, true, &[(2, StopNew), (3, Stop)]), None);
        assert_eq!(successor(Low, false, &[(2, Fine), (3, Fine)]), None);
        assert_eq!(successor(Fine, true, &[(2, StopNew), (3, Low)]), Some(3));
        assert_eq!(successor(Fine, true, &[(2, StopNew)]), None);
    }

    #[test]
    fn a_disk_stays_slow_for_a_while() {
        let mut slowness = Slowness::default();
        assert!(!slowness.look(0, false));
        assert!(slowness.look(1, false));
        for _ in 1..FAST_AFTER_LOOKS {
            assert!(slowness.look(1, false));
        }
        assert!(!slowness.look(1, false));
        assert!(slowness.look(1, true), "one that has not returned yet");
    }
}
