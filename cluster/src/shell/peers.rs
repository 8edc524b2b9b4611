//! What members say about themselves: clocks, progress, hashes. One lock, taken a few times a second per
//! member, and briefly for each stamp.

use crate::{
    api::NodeId,
    core::{
        agreement::{Agreement, Finding},
        clock::{ClockGuard, Verdict},
    },
    status::{MemberAlarm, MemberAlarms, MemberDigests, Point},
    transport::Gossip,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Chain points told in one gossip: at full load some 1.3 s of them.
const POINTS_TOLD: usize = 16;

pub struct Peers {
    own: NodeId,
    clocks: ClockGuard,
    chains: Agreement,
    digests: Agreement,
    newest_digest: BTreeMap<NodeId, Point>,
    /// What a member said it had applied, and when on our monotonic clock.
    applied: BTreeMap<NodeId, (u64, u64)>,
    quarantined: BTreeSet<NodeId>,
    /// Who belongs to the cluster; `None`: whoever speaks.
    members: Option<BTreeSet<NodeId>>,
    /// When on our monotonic clock, and what.
    alarms: BTreeMap<NodeId, (u64, Arc<[MemberAlarm]>)>,
}

/// A finding and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    pub what: &'static str,
    pub finding: Finding,
}

impl Peers {
    pub fn new(own: NodeId, voters: usize) -> Self {
        Self {
            own,
            clocks: ClockGuard::new(voters),
            chains: Agreement::new(own, voters),
            digests: Agreement::new(own, voters),
            newest_digest: BTreeMap::new(),
            applied: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            members: None,
            alarms: BTreeMap::new(),
        }
    }

    /// The members changed: whose words count, and whose are forgotten.
    pub fn set_members(&mut self, voters: &BTreeSet<NodeId>, all: &BTreeSet<NodeId>) {
        self.clocks.set_voters(voters.clone());
        self.chains.set_voters(voters.clone());
        self.digests.set_voters(voters.clone());
        self.applied.retain(|node, _| all.contains(node));
        self.alarms.retain(|node, _| all.contains(node));
        self.quarantined.retain(|node| all.contains(node));
        self.members = Some(all.clone());
    }

    /// Who was heard within `within_ms`.
    pub fn heard(&self, now_ms: u64, within_ms: u64) -> BTreeSet<NodeId> {
        let fresh = self.fresh(now_ms, within_ms).map(|(node, _)| node);
        fresh.filter(|node| !self.quarantined.contains(node)).collect()
    }

    /// How far those are that were heard within `within_ms`.
    pub fn positions(&self, now_ms: u64, within_ms: u64) -> Vec<u64> {
        self.fresh(now_ms, within_ms).map(|(_, applied)| applied).collect()
    }

    /// Members heard within `within_ms`, and how far they were. Who is about to join speaks too, and does not count.
    fn fresh(&self, now_ms: u64, within_ms: u64) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        let said = self.applied.iter().map(|(node, (applied, at))| (*node, *applied, *at));
        let members = said.filter(|(node, ..)| self.members.as_ref().is_none_or(|all| all.contains(node)));
        members
            .filter(move |(.., at)| now_ms.saturating_sub(*at) <= within_ms)
            .map(|(node, applied, _)| (node, applied))
    }

    /// What a member said; `now_ms` is our monotonic clock at that moment.
    pub fn hear(&mut self, from: NodeId, gossip: &Gossip, now_ms: u64) -> Vec<Disagreement> {
        self.clocks.hear(from, gossip.clock_ms, now_ms);
        self.applied.insert(from, (gossip.applied, now_ms));
        if gossip.quarantined {
            self.quarantined.insert(from);
        } else {
            self.quarantined.remove(&from);
        }
        self.alarms.insert(from, (now_ms, gossip.alarms.clone()));
        let mut found: Vec<_> = gossip.chains.iter().filter_map(|p| self.chain(from, *p)).collect();
        if let Some(point) = gossip.digest {
            found.extend(self.digest(from, point));
        }
        found
    }

    pub fn chain(&mut self, node: NodeId, point: Point) -> Option<Disagreement> {
        self.chains.note(node, point).map(|finding| Disagreement { what: "hash chain", finding })
    }

    pub fn digest(&mut self, node: NodeId, point: Point) -> Option<Disagreement> {
        let newest = self.newest_digest.entry(node).or_insert(point);
        if newest.0 <= point.0 {
            *newest = point;
        }
        self.digests.note(node, point).map(|finding| Disagreement { what: "row digest", finding })
    }

    pub fn own_points(&self) -> (Vec<Point>, Option<Point>) {
        let mut chains = self.chains.said(self.own);
        chains.drain(..chains.len().saturating_sub(POINTS_TOLD));
        (chains, self.newest_digest.get(&self.own).copied())
    }

    pub fn report(&self, node: NodeId) -> MemberDigests {
        let mut chains = self.chains.said(node);
        chains.drain(..chains.len().saturating_sub(POINTS_TOLD));
        MemberDigests { node, chains, digest: self.newest_digest.get(&node).copied() }
    }

    pub fn verdict(&self, wall_ms: i64, now_ms: u64) -> Verdict {
        self.clocks.verdict(wall_ms, now_ms)
    }

    pub fn offset(&self, node: NodeId, wall_ms: i64, now_ms: u64) -> Option<i64> {
        if node == self.own { Some(0) } else { self.clocks.offset(node, wall_ms, now_ms) }
    }

    pub fn applied(&self, node: NodeId) -> Option<u64> {
        self.applied.get(&node).map(|(applied, _)| *applied)
    }

    /// What members last said stands wrong with them, by node.
    pub fn alarms(&self, now_ms: u64) -> Vec<MemberAlarms> {
        let said = self.alarms.iter();
        said.map(|(node, (at_ms, alarms))| MemberAlarms {
            node: *node,
            heard_ms_ago: now_ms.saturating_sub(*at_ms),
            alarms: alarms.to_vec(),
        })
        .collect()
    }

    pub fn is_quarantined(&self, node: NodeId) -> bool {
        self.quarantined.contains(&node)
    }
}
