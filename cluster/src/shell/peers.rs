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
    applied: BTreeMap<NodeId, u64>,
    quarantined: BTreeSet<NodeId>,
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
            alarms: BTreeMap::new(),
        }
    }

    /// What a member said; `now_ms` is our monotonic clock at that moment.
    pub fn hear(&mut self, from: NodeId, gossip: &Gossip, now_ms: u64) -> Vec<Disagreement> {
        self.clocks.hear(from, gossip.clock_ms, now_ms);
        self.applied.insert(from, gossip.applied);
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
        self.applied.get(&node).copied()
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
