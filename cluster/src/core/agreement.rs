//! Do members have the same hashes at the same index (rule 15)? Pure comparison of what they say.
//!
//! A majority with one hash is right: who differs quarantines. When no hash can have a majority any more, nobody
//! knows who is right, and intake stops everywhere. A node judges no index that it has no hash of: who voted by then it may
//! not know yet.

use crate::{api::NodeId, status::Point};
use std::collections::{BTreeMap, BTreeSet};

/// Indexes remembered: members that far apart are compared when the slower one gets there, by its own report.
pub const POINTS_KEPT: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A majority agrees on another hash than ours.
    OwnMinority { index: u64 },
    /// A majority agrees on our hash, and this member differs.
    Differs { index: u64, node: NodeId },
    /// No majority is possible at this index.
    Tie { index: u64 },
}

/// One series of hashes: the chain, or the digests at markers.
#[derive(Debug)]
pub struct Agreement {
    own: NodeId,
    voters: usize,
    /// Whose hashes make a majority; `None`: everybody's.
    only: Option<BTreeSet<NodeId>>,
    points: BTreeMap<u64, BTreeMap<NodeId, [u8; 32]>>,
}

impl Agreement {
    pub fn new(own: NodeId, voters: usize) -> Self {
        Self { own, voters, only: None, points: BTreeMap::new() }
    }

    /// The members changed.
    pub fn set_voters(&mut self, voters: BTreeSet<NodeId>) {
        self.voters = voters.len();
        self.only = Some(voters);
    }

    /// Notes what a member says, and judges if it is news.
    pub fn note(&mut self, node: NodeId, (index, hash): Point) -> Option<Finding> {
        let oldest = self.points.first_key_value().map_or(0, |(i, _)| *i);
        if self.points.len() >= POINTS_KEPT && index < oldest {
            return None;
        }
        let said = self.points.entry(index).or_default();
        if said.insert(node, hash) == Some(hash) {
            return None;
        }
        let finding = judge(self.own, self.voters, self.only.as_ref(), index, said);
        while self.points.len() > POINTS_KEPT {
            self.points.pop_first();
        }
        finding
    }

    /// What a member said, oldest first.
    pub fn said(&self, node: NodeId) -> Vec<Point> {
        self.points.iter().filter_map(|(i, by)| by.get(&node).map(|h| (*i, *h))).collect()
    }
}

/// A learner's hash is compared with the voters' and decides nothing.
fn judge(
    own: NodeId,
    voters: usize,
    only: Option<&BTreeSet<NodeId>>,
    index: u64,
    said: &BTreeMap<NodeId, [u8; 32]>,
) -> Option<Finding> {
    let own_hash = said.get(&own)?;
    let mut counts: BTreeMap<[u8; 32], usize> = BTreeMap::new();
    let mut spoken = 0;
    for (node, hash) in said {
        let votes = only.is_none_or(|only| only.contains(node));
        *counts.entry(*hash).or_default() += usize::from(votes);
        spoken += usize::from(votes);
    }
    if counts.len() < 2 {
        return None;
    }
    let majority = voters / 2 + 1;
    let (winner, count) = counts.iter().max_by_key(|(_, n)| **n)?;
    if *count >= majority {
        if own_hash != winner {
            return Some(Finding::OwnMinority { index });
        }
        return said
            .iter()
            .find(|(_, hash)| *hash != winner)
            .map(|(node, _)| Finding::Differs { index, node: *node });
    }
    let silent = voters.saturating_sub(spoken);
    (count + silent < majority).then_some(Finding::Tie { index })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 32] = [1; 32];
    const B: [u8; 32] = [2; 32];
    const C: [u8; 32] = [3; 32];

    #[test]
    fn a_minority_learns_it_is_one() {
        let mut a = Agreement::new(1, 3);
        assert_eq!(a.note(1, (1024, A)), None);
        // Two that differ out of three: nobody knows yet.
        assert_eq!(a.note(2, (1024, B)), None);
        assert_eq!(a.note(3, (1024, B)), Some(Finding::OwnMinority { index: 1024 }));
    }

    #[test]
    fn a_majority_names_who_differs() {
        let mut a = Agreement::new(1, 3);
        a.note(1, (1024, A));
        a.note(2, (1024, A));
        assert_eq!(a.note(3, (1024, B)), Some(Finding::Differs { index: 1024, node: 3 }));
        // Said again: no news.
        assert_eq!(a.note(3, (1024, B)), None);
    }

    /// n1 was alone once, its data have rotted since, and n2 was away while 2 and 3 became voters.
    #[test]
    fn who_has_not_come_so_far_accuses_nobody() {
        let mut b = Agreement::new(2, 1);
        b.set_voters([1].into());
        assert_eq!(b.note(1, (1024, A)), None);
        assert_eq!(b.note(3, (1024, B)), None, "by the voters it knows, a majority");
        b.set_voters([1, 2, 3].into());
        assert_eq!(b.note(2, (1024, B)), Some(Finding::Differs { index: 1024, node: 1 }));
    }

    #[test]
    fn no_possible_majority_is_a_tie() {
        let mut a = Agreement::new(1, 3);
        a.note(1, (2048, A));
        a.note(2, (2048, B));
        assert_eq!(a.note(3, (2048, C)), Some(Finding::Tie { index: 2048 }));
        let mut two = Agreement::new(1, 2);
        two.note(1, (1024, A));
        assert_eq!(two.note(2, (1024, B)), Some(Finding::Tie { index: 1024 }));
    }

    #[test]
    fn a_learner_is_compared_and_decides_nothing() {
        let mut a = Agreement::new(1, 3);
        a.set_voters([1, 2, 3].into());
        a.note(1, (1024, A));
        a.note(4, (1024, B));
        assert_eq!(a.note(5, (1024, B)), None, "two learners are no majority");
        assert_eq!(a.note(2, (1024, A)), Some(Finding::Differs { index: 1024, node: 4 }));
        let mut learner = Agreement::new(4, 3);
        learner.set_voters([1, 2, 3].into());
        learner.note(4, (1024, B));
        learner.note(1, (1024, A));
        assert_eq!(learner.note(2, (1024, A)), Some(Finding::OwnMinority { index: 1024 }));
    }

    #[test]
    fn memory_is_bounded_and_old_news_do_not_push_out_new() {
        let mut a = Agreement::new(1, 3);
        for i in 1..=200 {
            a.note(2, (i * 1024, A));
        }
        assert_eq!(a.said(2).len(), POINTS_KEPT);
        assert_eq!(a.note(3, (1024, B)), None);
        assert_eq!(a.said(3), vec![]);
        assert_eq!(a.said(2).last(), Some(&(200 * 1024, A)));
    }
}
