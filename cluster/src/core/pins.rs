//! Who the members are, and what a hello must say (rule 14).
//!
//! Invariants: until `pinned`, the newest incarnation a member says counts; from then on only the pinned one.

use crate::{
    api::NodeId,
    settings::{PROTOCOL, level},
    transport::{Hello, Refusal},
};
use okno_storage::identity::{IdentityRecord, Member};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

#[derive(Debug)]
pub struct Members {
    cluster: Uuid,
    own: NodeId,
    incarnation: Uuid,
    hash: [u8; 32],
    list: Vec<Member>,
    known: BTreeMap<NodeId, Uuid>,
    levels: BTreeMap<NodeId, u32>,
    pinned: bool,
    /// Members that refuse us because they have pinned another incarnation of this node.
    disowned_by: BTreeSet<NodeId>,
}

impl Members {
    pub fn new(record: &IdentityRecord) -> Self {
        let pinned = !record.pins.is_empty();
        let mut known: BTreeMap<NodeId, Uuid> = record.pins.iter().copied().collect();
        known.insert(record.node_id, record.incarnation);
        Self {
            cluster: record.cluster,
            own: record.node_id,
            incarnation: record.incarnation,
            hash: record.genesis_chain(),
            list: record.members.clone(),
            known,
            levels: BTreeMap::from([(record.node_id, level::known())]),
            pinned,
            disowned_by: BTreeSet::new(),
        }
    }

    pub fn list(&self) -> &[Member] {
        &self.list
    }

    pub fn pinned(&self) -> bool {
        self.pinned
    }

    /// The pins are on disk.
    pub fn set_pinned(&mut self) {
        self.pinned = true;
    }

    pub fn level(&self, node: NodeId) -> Option<u32> {
        self.levels.get(&node).copied()
    }

    /// Members that are not known to understand `level`, with what they said last: nobody may write what they could not
    /// read (rule 9).
    pub fn below(&self, level: u32) -> Vec<(NodeId, Option<u32>)> {
        let said = self.list.iter().map(|m| (m.node_id, self.level(m.node_id)));
        said.filter(|(_, said)| said.is_none_or(|said| said < level)).collect()
    }

    /// A member refuses us as another incarnation than the one it has pinned. True once so many do that they are the
    /// cluster: this node's id died with earlier data, and no member will ever speak with it again. One alone may be
    /// mistaken itself.
    pub fn disowned_by(&mut self, node: NodeId) -> bool {
        if node != self.own && self.list.iter().any(|m| m.node_id == node) {
            self.disowned_by.insert(node);
        }
        let others = self.list.len().saturating_sub(1);
        let enough = (self.list.len() / 2 + 1).min(others);
        enough > 0 && self.disowned_by.len() >= enough
    }

    /// Members whose incarnation is not known.
    pub fn missing(&self) -> Vec<NodeId> {
        self.list.iter().map(|m| m.node_id).filter(|id| !self.known.contains_key(id)).collect()
    }

    /// The pins, once all incarnations are known.
    pub fn pins(&self) -> Option<Vec<(NodeId, Uuid)>> {
        self.missing().is_empty().then(|| {
            self.list.iter().filter_map(|m| self.known.get(&m.node_id).map(|i| (m.node_id, *i))).collect()
        })
    }

    pub fn hello(&self, to: NodeId) -> Hello {
        Hello {
            cluster: self.cluster,
            node: self.own,
            incarnation: self.incarnation,
            members_hash: self.hash,
            feature_level: level::known(),
            protocol: PROTOCOL,
            to,
        }
    }

    /// Checks a hello and learns from it. `level` is the replicated feature level: who knows less could not read the log.
    pub fn greet(&mut self, hello: &Hello, level: u32) -> Result<(), Refusal> {
        if hello.cluster != self.cluster {
            return Err(Refusal::Cluster(format!("{} meets {}", hello.cluster, self.cluster)));
        }
        if hello.to != self.own {
            return Err(Refusal::NotMe(hello.to));
        }
        if hello.protocol != PROTOCOL {
            return Err(Refusal::Protocol { theirs: hello.protocol, ours: PROTOCOL });
        }
        if hello.node == self.own || !self.list.iter().any(|m| m.node_id == hello.node) {
            return Err(Refusal::UnknownNode(hello.node));
        }
        if hello.members_hash != self.hash {
            return Err(Refusal::Members);
        }
        if hello.feature_level < level {
            return Err(Refusal::Level { theirs: hello.feature_level, needed: level });
        }
        match self.known.get(&hello.node) {
            Some(known) if self.pinned && *known != hello.incarnation => {
                return Err(Refusal::Incarnation(hello.node));
            }
            _ => self.known.insert(hello.node, hello.incarnation),
        };
        self.levels.insert(hello.node, hello.feature_level);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(own: NodeId) -> IdentityRecord {
        IdentityRecord {
            cluster: Uuid::from_u128(7),
            node_id: own,
            incarnation: Uuid::from_u128(100 + u128::from(own)),
            members: (1..=3)
                .map(|id| Member { node_id: id, peer_address: format!("node{id}.test:7401") })
                .collect(),
            pins: Vec::new(),
            term: 0,
            vote: 0,
            synced_term: 0,
            synced_index: 0,
            live_directory: "db".into(),
            sequence: 0,
            later: Default::default(),
        }
    }

    #[test]
    fn pins_when_all_are_known_and_then_holds_to_them() {
        let mut one = Members::new(&record(1));
        let two = Members::new(&record(2));
        assert_eq!(one.missing(), vec![2, 3]);
        one.greet(&two.hello(1), 1).expect("a member");
        // Made anew before anything was pinned: the newest counts.
        let mut again = record(3);
        one.greet(&Members::new(&again).hello(1), 1).expect("a member");
        again.incarnation = Uuid::from_u128(333);
        let third = Members::new(&again);
        one.greet(&third.hello(1), 1).expect("not pinned yet");
        let pins = one.pins().expect("complete");
        assert_eq!(pins[2], (3, Uuid::from_u128(333)));
        one.set_pinned();
        assert_eq!(one.greet(&Members::new(&record(3)).hello(1), 1), Err(Refusal::Incarnation(3)));
        one.greet(&third.hello(1), 1).expect("the pinned one");
    }

    #[test]
    fn refuses_strangers_and_names_the_reason() {
        let mut one = Members::new(&record(1));
        let hello = Members::new(&record(2)).hello(1);
        let with = |change: fn(&mut Hello)| {
            let mut h = hello.clone();
            change(&mut h);
            h
        };
        assert!(matches!(one.greet(&with(|h| h.cluster = Uuid::nil()), 1), Err(Refusal::Cluster(_))));
        assert_eq!(one.greet(&with(|h| h.node = 9), 1), Err(Refusal::UnknownNode(9)));
        assert_eq!(one.greet(&with(|h| h.node = 1), 1), Err(Refusal::UnknownNode(1)));
        assert_eq!(one.greet(&with(|h| h.to = 3), 1), Err(Refusal::NotMe(3)));
        assert_eq!(one.greet(&with(|h| h.members_hash = [0; 32]), 1), Err(Refusal::Members));
        assert_eq!(
            one.greet(&with(|h| h.protocol = 2), 1),
            Err(Refusal::Protocol { theirs: 2, ours: PROTOCOL })
        );
        assert_eq!(one.missing(), vec![2, 3], "a refused hello teaches nothing");
    }

    #[test]
    fn who_cannot_read_the_log_is_refused_and_counts_as_not_heard() {
        let mut one = Members::new(&record(1));
        let hello = |id, feature_level| Hello { feature_level, ..Members::new(&record(id)).hello(1) };
        assert_eq!(one.greet(&hello(2, 1), 2), Err(Refusal::Level { theirs: 1, needed: 2 }));
        assert_eq!(one.missing(), vec![2, 3], "a refused hello teaches nothing");
        one.greet(&hello(2, 1), 1).expect("level 1 is all it takes");
        assert_eq!(one.below(2), vec![(2, Some(1)), (3, None)]);
        one.greet(&hello(2, 2), 1).expect("a newer binary");
        one.greet(&hello(3, 3), 1).expect("a newer binary still");
        assert_eq!(one.below(2), vec![]);
        assert_eq!(one.below(level::known() + 1), vec![(1, Some(level::known())), (2, Some(2))]);
    }

    #[test]
    fn a_majority_disowns_a_node_and_one_member_does_not() {
        let mut again = record(3);
        again.incarnation = Uuid::from_u128(333);
        let mut members = Members::new(&again);
        assert!(!members.disowned_by(1));
        assert!(!members.disowned_by(1), "the same member counts once");
        assert!(!members.disowned_by(9) && !members.disowned_by(3), "only other members count");
        assert!(members.disowned_by(2));
    }
}
