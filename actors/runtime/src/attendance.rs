//! Who attends the windows (R-R1), as the leader knows it: pure, what was heard and what time it is come in, what the queues
//! are to be told goes out. The task around it is the node's.
//!
//! Invariants: a workstation is in `heard` until its lease has run out; in `wanted` stands what its queue does not know
//! yet, the newest only; who did not look for longer than [`LOOK_WITHIN_MS`] has heard nobody either, and begins anew.

use okno_domain::refusal::{OFFICE_UNKNOWN, WINDOW_UNKNOWN};
use std::collections::{BTreeMap, BTreeSet};

/// How long a node's word is on its way, and a workstation between two nodes, milliseconds.
pub const GRACE_MS: u64 = 2_000;
/// One who rules looks more often than that, unless it stood still: then the silence was its own.
pub const LOOK_WITHIN_MS: u64 = 3_000;
/// Workstations that are listened for: more than the largest region has windows; bounds memory.
pub const HEARD_MAX: usize = 100_000;

/// The queue will never hear of the workstation: its window or office is gone. Any other refusal passes (the queue is
/// parked, the clocks have just moved on), and the command is given again.
pub fn is_final(reason: &str) -> bool {
    [WINDOW_UNKNOWN.code, OFFICE_UNKNOWN.code].contains(&reason)
}

/// What the leader knows. Times are monotonic, milliseconds.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The term in which it is kept; `None`: this node does not rule, and listens to nobody.
    term: Option<u64>,
    /// By workstation: until when it counts as there.
    heard: BTreeMap<String, u64>,
    /// By workstation: true, it is there; false, it is lost.
    wanted: BTreeMap<String, bool>,
    /// When it last looked.
    looked_ms: u64,
}

impl Ledger {
    /// The term in which it is kept.
    pub const fn term(&self) -> Option<u64> {
        self.term
    }

    /// How many workstations are listened for.
    pub fn heard(&self) -> usize {
        self.heard.len()
    }

    /// What queues are to be told.
    pub const fn wanted(&self) -> &BTreeMap<String, bool> {
        &self.wanted
    }

    /// Begins to rule; `expected` are those that had a lease, and each is granted a full one to be heard of again.
    pub fn begin(&mut self, term: u64, expected: BTreeSet<String>, lease_ms: u64, now_ms: u64) {
        let heard = expected.into_iter().map(|name| (name, now_ms + lease_ms + GRACE_MS)).collect();
        *self = Self { term: Some(term), heard, wanted: BTreeMap::new(), looked_ms: now_ms };
    }

    /// These are attached to a node, each for so long still.
    pub fn hear(&mut self, standing: impl IntoIterator<Item = (String, u64)>, now_ms: u64) {
        if self.term.is_none() {
            return;
        }
        for (name, left_ms) in standing {
            let until = now_ms + left_ms + GRACE_MS;
            let room = self.heard.len() < HEARD_MAX;
            match self.heard.get_mut(&name) {
                // The word of the node it has left runs out by itself.
                Some(known) => *known = until.max(*known),
                None if room => {
                    self.heard.insert(name.clone(), until);
                    self.wanted.insert(name, true);
                }
                None => {}
            }
        }
    }

    /// Gives up those that were not heard of for too long; or everything it knows, if it has not looked for too long itself
    /// (a process that was stopped finds all leases run out): who keeps it then sees no term and begins anew.
    pub fn look(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.looked_ms) > LOOK_WITHIN_MS {
            *self = Self::default();
            return;
        }
        self.looked_ms = now_ms;
        let lost: Vec<String> =
            self.heard.iter().filter(|(_, until)| **until <= now_ms).map(|(name, _)| name.clone()).collect();
        for name in lost {
            self.heard.remove(&name);
            self.wanted.insert(name, false);
        }
    }

    /// The queue knows it.
    pub fn settled(&mut self, term: u64, name: &str, there: bool) {
        if self.term != Some(term) {
            return;
        }
        match self.wanted.get(name) {
            Some(wanted) if *wanted == there => {
                self.wanted.remove(name);
            }
            // The loss was told before this ledger began anew, and expects it still: heard of again, it is back.
            None if !there => {
                self.heard.remove(name);
            }
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: u64 = 15_000;

    fn names(ledger: &Ledger) -> Vec<(&str, bool)> {
        ledger.wanted().iter().map(|(name, there)| (name.as_str(), *there)).collect()
    }

    fn from(name: &str, left_ms: u64) -> [(String, u64); 1] {
        [(name.to_owned(), left_ms)]
    }

    /// Time passes while the ledger looks as its keeper does.
    fn pass(ledger: &mut Ledger, from: u64, to: u64) {
        (from..to).step_by(500).chain([to]).for_each(|now| ledger.look(now));
    }

    #[test]
    fn who_is_not_heard_of_is_lost_and_who_comes_is_there() {
        let now = 1_000;
        let mut ledger = Ledger::default();
        ledger.hear(from("early", LEASE), now);
        assert!(ledger.heard.is_empty(), "who does not rule listens to nobody");
        ledger.begin(7, ["w1".to_owned(), "w2".to_owned()].into(), LEASE, now);
        ledger.hear(from("w1", LEASE), now);
        ledger.hear(from("w3", LEASE), now);
        assert_eq!(names(&ledger), [("w3", true)], "those expected are known to their queues");
        ledger.settled(7, "w3", true);
        pass(&mut ledger, now, now + LEASE);
        assert!(ledger.wanted.is_empty(), "a full lease for everybody");
        // The first and the third go on; of the second nothing was heard.
        let later = now + LEASE;
        ledger.hear(from("w1", LEASE), later);
        ledger.hear(from("w3", LEASE), later);
        ledger.look(later + GRACE_MS);
        assert_eq!(names(&ledger), [("w2", false)]);
        // It is back before its queue was told: only the newest counts.
        ledger.hear(from("w2", LEASE), later + GRACE_MS);
        assert_eq!(names(&ledger), [("w2", true)]);
        ledger.settled(7, "w2", false);
        assert_eq!(names(&ledger), [("w2", true)], "what is settled is not what is wanted");
        ledger.settled(6, "w2", true);
        assert_eq!(names(&ledger), [("w2", true)], "of another term");
        ledger.settled(7, "w2", true);
        assert!(ledger.wanted.is_empty());
    }

    #[test]
    fn a_workstation_that_changes_nodes_is_not_lost_with_the_first() {
        let mut ledger = Ledger::default();
        ledger.begin(1, BTreeSet::new(), LEASE, 0);
        ledger.hear(from("w1", LEASE), 0);
        ledger.settled(1, "w1", true);
        ledger.hear(from("w1", LEASE), 10_000);
        // The first node speaks on of what is left of the old lease.
        ledger.hear(from("w1", 3_000), 12_000);
        pass(&mut ledger, 0, 26_000);
        assert!(ledger.wanted.is_empty());
        ledger.look(27_000);
        assert_eq!(names(&ledger), [("w1", false)]);
    }

    #[test]
    fn who_stood_still_gives_nobody_up() {
        let mut ledger = Ledger::default();
        ledger.begin(4, BTreeSet::new(), LEASE, 0);
        ledger.hear(from("w1", LEASE), 0);
        ledger.settled(4, "w1", true);
        pass(&mut ledger, 0, LEASE);
        // Stopped until long after the lease.
        let resumed = 60_000;
        ledger.look(resumed);
        assert_eq!(
            (ledger.term(), ledger.heard(), names(&ledger).len()),
            (None, 0, 0),
            "the silence was its own"
        );
        // Its queue says that a workstation was there: it has its full lease to be heard of.
        ledger.begin(4, ["w1".to_owned()].into(), LEASE, resumed);
        pass(&mut ledger, resumed, resumed + LEASE);
        assert!(ledger.wanted.is_empty());
        pass(&mut ledger, resumed + LEASE, resumed + LEASE + GRACE_MS);
        assert_eq!(names(&ledger), [("w1", false)]);
        // As often as may be is not too seldom.
        let last = resumed + LEASE + GRACE_MS + LOOK_WITHIN_MS;
        ledger.look(last);
        assert_eq!(ledger.term(), Some(4));
    }

    #[test]
    fn a_loss_told_before_the_ledger_began_anew_is_made_good() {
        let mut ledger = Ledger::default();
        ledger.begin(4, ["w1".to_owned()].into(), LEASE, 0);
        // What was under way before arrives, and the workstation is there.
        ledger.settled(4, "w1", false);
        ledger.hear(from("w1", LEASE), 100);
        assert_eq!(names(&ledger), [("w1", true)]);
    }
}
