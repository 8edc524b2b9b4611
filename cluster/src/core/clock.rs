//! What time a leader may stamp (rule 7), from the clocks members say they have.
//!
//! A clock is kept as what it said and when on our monotonic clock; since then it is taken to have run on. Our own wall clock
//! does not enter before it is asked about, so that its jump is seen in the very next stamp and not only when the others have
//! been heard again. Delay makes a clock look behind: a slow network can only hold stamps back, never let them run ahead.

use crate::api::{NodeId, StampError};
use okno_storage::planted::{self, Mutant};
use std::collections::{BTreeMap, BTreeSet};

/// A clock not heard for longer does not count.
pub const HEARD_WITHIN_MS: u64 = 2_000;
/// What a leader may stamp beyond the lower median.
pub const TOLERANCE_MS: i64 = 500;
/// A step forward beyond this needs a majority of agreeing clocks.
pub const STEP_MS: i64 = 10 * 60 * 1_000;
/// How near to each other agreeing clocks are; a leader farther from the median hands over.
pub const AGREE_MS: i64 = 10_000;
/// Clocks below which a deviation only raises an alarm.
pub const CLOCKS_MIN: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    said_ms: i64,
    at_ms: u64,
}

impl Heard {
    /// What it shows now.
    fn shows(&self, now_ms: u64) -> i64 {
        let since = i64::try_from(now_ms.saturating_sub(self.at_ms)).unwrap_or(i64::MAX);
        self.said_ms.saturating_add(since)
    }
}

/// The clocks heard. `at_ms` and `now_ms` are monotonic.
#[derive(Debug)]
pub struct ClockGuard {
    voters: usize,
    /// Whose clocks count beside our own; `None`: everybody's.
    only: Option<BTreeSet<NodeId>>,
    heard: BTreeMap<NodeId, Heard>,
}

/// What the clocks say at a moment. Good for the wall clock's reading it was made with and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Most that may be added to our clock; `None` with too few clocks.
    pub ceiling_ms: Option<i64>,
    /// A majority of voters is within [`AGREE_MS`] of each other.
    pub agreed: bool,
    /// Our clock minus the lower median.
    pub ahead_ms: i64,
    pub clocks: usize,
}

impl Verdict {
    /// Before anything was heard.
    pub fn alone(voters: usize) -> Self {
        Self { ceiling_ms: None, agreed: voters == 1, ahead_ms: 0, clocks: 1 }
    }
    /// A leader with this clock should not be one.
    pub fn outlier(&self) -> bool {
        self.clocks >= CLOCKS_MIN && self.ahead_ms.saturating_abs() > AGREE_MS
    }
    /// Somebody should look at the clocks.
    pub fn alarm(&self) -> bool {
        self.ahead_ms.saturating_abs() > TOLERANCE_MS && self.clocks > 1
    }
}

impl ClockGuard {
    pub fn new(voters: usize) -> Self {
        Self { voters, only: None, heard: BTreeMap::new() }
    }

    /// The members changed.
    pub fn set_voters(&mut self, voters: BTreeSet<NodeId>) {
        self.voters = voters.len();
        self.only = Some(voters);
    }

    /// A member said that its clock shows `theirs_ms`. Nonsense is ignored.
    pub fn hear(&mut self, node: NodeId, theirs_ms: i64, now_ms: u64) {
        if theirs_ms > 0 {
            self.heard.insert(node, Heard { said_ms: theirs_ms, at_ms: now_ms });
        }
    }

    /// A member's clock minus ours, if heard lately.
    pub fn offset(&self, node: NodeId, wall_ms: i64, now_ms: u64) -> Option<i64> {
        let heard = self.heard.get(&node).filter(|h| fresh(h, now_ms))?;
        Some(heard.shows(now_ms).saturating_sub(wall_ms))
    }

    /// `wall_ms` is what our clock shows now.
    pub fn verdict(&self, wall_ms: i64, now_ms: u64) -> Verdict {
        let voters =
            self.heard.iter().filter(|(node, _)| self.only.as_ref().is_none_or(|o| o.contains(node)));
        let fresh = voters.filter(|(_, h)| fresh(h, now_ms));
        let mut offsets: Vec<i64> = fresh.map(|(_, h)| h.shows(now_ms).saturating_sub(wall_ms)).collect();
        offsets.push(0);
        offsets.sort_unstable();
        let clocks = offsets.len();
        let median = offsets[(clocks - 1) / 2];
        let majority = self.voters / 2 + 1;
        let agreed = offsets.windows(majority).any(|w| w[majority - 1].saturating_sub(w[0]) <= AGREE_MS);
        Verdict {
            ceiling_ms: (clocks >= CLOCKS_MIN).then(|| median.saturating_add(TOLERANCE_MS)),
            agreed,
            ahead_ms: median.saturating_neg(),
            clocks,
        }
    }
}

fn fresh(heard: &Heard, now_ms: u64) -> bool {
    now_ms.saturating_sub(heard.at_ms) <= HEARD_WITHIN_MS
}

/// The time to stamp when our clock shows `wall_ms`, which the verdict was made with, and replicated time is `replicated_ms` (0: nothing was ever
/// applied, and the first commit is exempt from the step rule).
pub fn stamp(verdict: &Verdict, wall_ms: i64, replicated_ms: i64) -> Result<i64, StampError> {
    let capped = match verdict.ceiling_ms.filter(|_| !planted::is(Mutant::FastClockExpires)) {
        Some(ceiling) => wall_ms.min(wall_ms.saturating_add(ceiling)),
        None => wall_ms,
    };
    let time = capped.max(replicated_ms);
    if replicated_ms > 0 && time - replicated_ms > STEP_MS && !verdict.agreed {
        return Err(StampError::ClockStep);
    }
    Ok(time)
}
