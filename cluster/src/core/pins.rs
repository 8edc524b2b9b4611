//! Who the members are, whom to connect to, and what a hello must say (rule 14).
//!
//! Invariants
//! - Until `pinned`, the newest incarnation a founder says counts; from then on only the pinned one.
//! - A founder pins once every other founder has taken its hello. One that was wiped and made again therefore never votes
//!   while a founder lives that has pinned its former self: two such ones together could found a second cluster.
//! - An id that is not a founder's is admitted by its certificate once this node is pinned, and pinned itself when it is
//!   first met; a removed one never again.

use crate::{
    api::NodeId,
    settings::{ADMITTED_MAX, MEMBERS_LEVEL, PROTOCOL, level},
    transport::{Hello, Refusal},
};
use okno_storage::{
    identity::{IdentityRecord, Member},
    members::{MemberEntry, MemberRole, Members as MemberTable},
    planted::{self, Mutant},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use uuid::Uuid;

#[derive(Debug)]
pub struct Members {
    cluster: Uuid,
    own: NodeId,
    /// Made to join: `identity` is in the later form from the beginning.
    joined: bool,
    incarnation: Uuid,
    hash: [u8; 32],
    /// The initial member list.
    founders: Vec<Member>,
    table: Arc<MemberTable>,
    known: BTreeMap<NodeId, Uuid>,
    /// Who of `known` is no founder: (node, incarnation), as `identity` has them or is to have them.
    later: BTreeMap<NodeId, Uuid>,
    /// What nodes that connected to us say they are reached at.
    said: BTreeMap<NodeId, String>,
    levels: BTreeMap<NodeId, u32>,
    pinned: bool,
    /// Nodes that have taken our own hello, as long as they are who they were then.
    taken_by: BTreeSet<NodeId>,
    /// Nodes whose hello was taken before the table of members named another incarnation of them.
    barred: BTreeSet<NodeId>,
    /// Members that refuse us because they have pinned another incarnation of this node.
    disowned_by: BTreeSet<NodeId>,
}

/// The table before anything says otherwise: who `okno init` was told of.
pub fn initial(record: &IdentityRecord) -> MemberTable {
    let mut current: Vec<MemberEntry> = record
        .members
        .iter()
        .map(|m| MemberEntry {
            node_id: m.node_id,
            peer_address: m.peer_address.clone(),
            incarnation: None,
            role: MemberRole::Voter,
            added_index: 0,
        })
        .collect();
    current.sort_by_key(|m| m.node_id);
    MemberTable { current, ..MemberTable::default() }
}

impl Members {
    /// `table` as applied; before the founding commit [`initial`].
    pub fn new(record: &IdentityRecord, table: Arc<MemberTable>) -> Self {
        let mut known: BTreeMap<NodeId, Uuid> = record.pins.iter().copied().collect();
        known.extend(record.later.pins.iter().copied());
        // What all have applied counts before what this node met.
        known.extend(table.current.iter().filter_map(|m| m.incarnation.map(|i| (m.node_id, i))));
        known.insert(record.node_id, record.incarnation);
        Self {
            cluster: record.cluster,
            own: record.node_id,
            joined: record.later.joined,
            incarnation: record.incarnation,
            hash: record.members_hash(),
            founders: record.members.clone(),
            table,
            known,
            later: record.later.pins.iter().copied().collect(),
            said: BTreeMap::new(),
            levels: BTreeMap::from([(record.node_id, level::known())]),
            // Who joins meets founders that may be gone: it neither votes nor campaigns before the log makes it a voter.
            pinned: !record.pins.is_empty() || record.later.joined,
            taken_by: BTreeSet::new(),
            barred: BTreeSet::new(),
            disowned_by: BTreeSet::new(),
        }
    }

    /// Who belongs to the cluster, as applied here.
    pub fn table(&self) -> &Arc<MemberTable> {
        &self.table
    }

    pub fn set_table(&mut self, table: Arc<MemberTable>) {
        for member in &table.current {
            let (id, Some(incarnation)) = (member.node_id, member.incarnation) else { continue };
            if id == self.own {
                continue;
            }
            // Who joins knows nobody, and may have met one whose id died with its data: the table knows better.
            let met = self.known.insert(id, incarnation);
            if met.is_some_and(|met| met != incarnation) {
                self.barred.insert(id);
                self.later.remove(&id);
            }
        }
        let gone = |id: &NodeId| table.is_removed(*id);
        self.known.retain(|id, _| !gone(id));
        self.later.retain(|id, _| !gone(id));
        self.said.retain(|id, _| !gone(id));
        self.barred.retain(|id| !gone(id));
        self.table = table;
    }

    /// Every other node to connect to, and where.
    pub fn dial(&self) -> BTreeMap<NodeId, String> {
        let mut all = self.said.clone();
        all.extend(self.table.current.iter().map(|m| (m.node_id, m.peer_address.clone())));
        all.remove(&self.own);
        all
    }

    /// Who may speak.
    pub fn admitted(&self) -> BTreeSet<NodeId> {
        let mut all: BTreeSet<NodeId> = self.known.keys().copied().collect();
        all.remove(&self.own);
        all
    }

    /// The incarnations of those that may speak, as far as they are known.
    pub fn incarnations(&self) -> &BTreeMap<NodeId, Uuid> {
        &self.known
    }

    /// Nodes that speak and may not any more: their links are to end.
    pub fn barred(&self) -> &BTreeSet<NodeId> {
        &self.barred
    }

    pub fn levels(&self) -> &BTreeMap<NodeId, u32> {
        &self.levels
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
        let said = self.table.current.iter().map(|m| (m.node_id, self.level(m.node_id)));
        said.filter(|(_, said)| said.is_none_or(|said| said < level)).collect()
    }

    /// A member refuses us as another incarnation than the one it has pinned. True once so many do that they are the
    /// cluster: this node's id died with earlier data, and no member will ever speak with it again. One alone may be
    /// mistaken itself. Who joins does not know the members yet: those it connects to stand for them.
    pub fn disowned_by(&mut self, node: NodeId) -> bool {
        let member = self.table.get(self.own).is_some();
        let others: BTreeSet<NodeId> = if member {
            self.table.current.iter().map(|m| m.node_id).filter(|id| *id != self.own).collect()
        } else {
            self.dial().into_keys().collect()
        };
        if others.contains(&node) {
            self.disowned_by.insert(node);
        }
        let enough = ((others.len() + usize::from(member)) / 2 + 1).min(others.len());
        enough > 0 && self.disowned_by.intersection(&others).count() >= enough
    }

    /// Members that never will take this node's hello.
    pub fn refused_by(&self) -> Vec<NodeId> {
        self.disowned_by.iter().copied().collect()
    }

    /// Founders that have not taken our hello.
    pub fn missing(&self) -> Vec<NodeId> {
        let others = self.founders.iter().map(|m| m.node_id).filter(|id| *id != self.own);
        others.filter(|id| !self.taken_by.contains(id)).collect()
    }

    /// The founders' pins, or what is to be pinned once all have taken our hello.
    pub fn pins(&self) -> Option<Vec<(NodeId, Uuid)>> {
        if !self.pinned && !self.missing().is_empty() {
            return None;
        }
        self.founders.iter().map(|m| self.known.get(&m.node_id).map(|i| (m.node_id, *i))).collect()
    }

    /// Pins of those that came after the founders.
    pub fn later_pins(&self) -> Vec<(NodeId, Uuid)> {
        self.later.iter().map(|(node, incarnation)| (*node, *incarnation)).collect()
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
            address: self.table.get(self.own).map(|m| m.peer_address.clone()).unwrap_or_default(),
        }
    }

    /// As [`Self::greet`], of a hello that answers ours: its speaker has taken it.
    pub fn answered(&mut self, hello: &Hello, level: u32) -> Result<bool, Refusal> {
        let news = self.greet(hello, level)?;
        self.taken(hello.node, hello.incarnation);
        Ok(news)
    }

    /// This node answered our hello, or goes on speaking after our answer to its own: it has taken it.
    pub fn taken(&mut self, node: NodeId, incarnation: Uuid) {
        if self.known.get(&node) == Some(&incarnation) {
            self.taken_by.insert(node);
            self.disowned_by.remove(&node);
        }
    }

    /// Checks a hello and learns from it. `level` is the replicated feature level: who knows less could not read the log.
    /// True: a node was pinned that is no founder, or said anew where it is reached.
    pub fn greet(&mut self, hello: &Hello, level: u32) -> Result<bool, Refusal> {
        if hello.cluster != self.cluster {
            return Err(Refusal::Cluster(format!("{} meets {}", hello.cluster, self.cluster)));
        }
        if hello.to != self.own {
            return Err(Refusal::NotMe(hello.to));
        }
        if hello.protocol != PROTOCOL {
            return Err(Refusal::Protocol { theirs: hello.protocol, ours: PROTOCOL });
        }
        if self.table.is_removed(hello.node) {
            return Err(Refusal::Removed(hello.node));
        }
        let founder = self.founders.iter().any(|m| m.node_id == hello.node);
        let room = self.known.contains_key(&hello.node)
            || self.later.len() < ADMITTED_MAX && self.known.len() < 2 * ADMITTED_MAX;
        if hello.node == self.own || hello.node == 0 || !(founder || self.pinned && room) {
            return Err(Refusal::UnknownNode(hello.node));
        }
        if hello.members_hash != self.hash {
            return Err(Refusal::Members);
        }
        if hello.feature_level < level {
            return Err(Refusal::Level { theirs: hello.feature_level, needed: level });
        }
        // Pinning who is no founder writes `identity` in a form that the program before this level cannot read (rule 9): until
        // this node has applied the level it only remembers. To refuse would shut out a leader that joined, and with it the
        // entry that raises the level here. Who joins has it in that form already, and knows no level yet.
        let pins = level >= MEMBERS_LEVEL || self.joined;
        let mut news = false;
        match self.known.get(&hello.node) {
            Some(known) if self.pinned && *known != hello.incarnation => {
                if !planted::is(Mutant::AcceptWipedId) {
                    return Err(Refusal::Incarnation(hello.node));
                }
            }
            Some(known) if *known == hello.incarnation => {}
            _ => {
                self.known.insert(hello.node, hello.incarnation);
                self.taken_by.remove(&hello.node);
            }
        }
        if !founder && pins && self.later.get(&hello.node) != Some(&hello.incarnation) {
            self.later.insert(hello.node, hello.incarnation);
            news = true;
        }
        if !hello.address.is_empty()
            && self.table.get(hello.node).is_none()
            && self.said.get(&hello.node) != Some(&hello.address)
        {
            self.said.insert(hello.node, hello.address.clone());
            news = true;
        }
        self.barred.remove(&hello.node);
        self.levels.insert(hello.node, hello.feature_level);
        Ok(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(record: &IdentityRecord) -> Members {
        Members::new(record, Arc::new(initial(record)))
    }

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
        let mut one = new(&record(1));
        let two = new(&record(2));
        assert_eq!(one.missing(), vec![2, 3]);
        one.answered(&two.hello(1), 1).expect("a member");
        // Made anew before anything was pinned: the newest counts.
        let mut again = record(3);
        one.answered(&new(&again).hello(1), 1).expect("a member");
        again.incarnation = Uuid::from_u128(333);
        let third = new(&again);
        one.greet(&third.hello(1), 1).expect("not pinned yet");
        assert_eq!(one.missing(), vec![3], "this one has not taken our hello");
        one.answered(&third.hello(1), 1).expect("it has now");
        let pins = one.pins().expect("complete");
        assert_eq!(pins[2], (3, Uuid::from_u128(333)));
        one.set_pinned();
        assert_eq!(one.greet(&new(&record(3)).hello(1), 1), Err(Refusal::Incarnation(3)));
        one.greet(&third.hello(1), 1).expect("the pinned one");
    }

    #[test]
    fn founders_made_again_found_nothing_without_those_that_have_pinned_their_former_selves() {
        let pins = (1..=3).map(|id| (id, Uuid::from_u128(100 + u128::from(id)))).collect();
        let mut two = new(&IdentityRecord { pins, ..record(2) });
        let again = |id| {
            let incarnation = Uuid::from_u128(1000 + u128::from(id));
            new(&IdentityRecord { incarnation, ..record(id) })
        };
        let (mut one, mut three) = (again(1), again(3));
        one.answered(&three.hello(1), 1).expect("made again as well");
        three.answered(&one.hello(3), 1).expect("made again as well");
        // It still connects to them, and says who it is; to theirs it says no.
        one.greet(&two.hello(1), 1).expect("a founder");
        three.greet(&two.hello(3), 1).expect("a founder");
        assert_eq!(two.greet(&one.hello(2), 1), Err(Refusal::Incarnation(1)));
        assert_eq!(two.greet(&three.hello(2), 1), Err(Refusal::Incarnation(3)));
        assert_eq!((one.missing(), one.pins()), (vec![2], None), "two of three could elect each other");
        assert_eq!((three.missing(), three.pins()), (vec![2], None));
    }

    #[test]
    fn a_founder_that_goes_on_speaking_has_taken_our_answer() {
        let mut one = new(&record(1));
        let again = IdentityRecord { incarnation: Uuid::from_u128(222), ..record(2) };
        one.greet(&new(&record(2)).hello(1), 1).expect("a founder");
        one.greet(&new(&again).hello(1), 1).expect("made again: the newest counts");
        one.taken(2, record(2).incarnation);
        assert_eq!(one.missing(), vec![2, 3], "what its former self took is nothing");
        one.taken(2, again.incarnation);
        assert_eq!(one.missing(), vec![3]);
    }

    #[test]
    fn what_is_pinned_is_known_after_a_restart_before_anybody_is_met() {
        let pins: Vec<_> = (1..=3).map(|id| (id, Uuid::from_u128(100 + u128::from(id)))).collect();
        let one = new(&IdentityRecord { pins: pins.clone(), ..record(1) });
        assert_eq!(
            (one.missing(), one.pins()),
            (vec![2, 3], Some(pins)),
            "the first commit is compared with it"
        );
    }

    #[test]
    fn who_takes_our_hello_does_not_disown_us_any_more() {
        let mut one = new(&record(1));
        assert!(!one.disowned_by(2));
        assert_eq!(one.refused_by(), vec![2]);
        let again = IdentityRecord { incarnation: Uuid::from_u128(222), ..record(2) };
        one.answered(&new(&again).hello(1), 1).expect("made again as well");
        assert_eq!(one.refused_by(), vec![]);
        assert!(!one.disowned_by(3), "one of two");
    }

    #[test]
    fn refuses_strangers_and_names_the_reason() {
        let mut one = new(&record(1));
        let hello = new(&record(2)).hello(1);
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
        assert!(one.admitted().is_empty() && one.level(2).is_none(), "a refused hello teaches nothing");
    }

    #[test]
    fn who_cannot_read_the_log_is_refused_and_counts_as_not_heard() {
        let mut one = new(&record(1));
        let hello = |id, feature_level| Hello { feature_level, ..new(&record(id)).hello(1) };
        assert_eq!(one.greet(&hello(2, 1), 2), Err(Refusal::Level { theirs: 1, needed: 2 }));
        assert!(one.admitted().is_empty() && one.level(2).is_none(), "a refused hello teaches nothing");
        one.answered(&hello(2, 1), 1).expect("level 1 is all it takes");
        assert_eq!(one.below(2), vec![(2, Some(1)), (3, None)]);
        one.greet(&hello(2, 2), 1).expect("a newer binary");
        one.greet(&hello(3, level::known() + 1), 1).expect("a newer binary still");
        assert_eq!(one.below(2), vec![]);
        assert_eq!(one.below(level::known() + 1), vec![(1, Some(level::known())), (2, Some(2))]);
    }

    #[test]
    fn a_majority_disowns_a_node_and_one_member_does_not() {
        let mut again = record(3);
        again.incarnation = Uuid::from_u128(333);
        let mut members = new(&again);
        assert!(!members.disowned_by(1));
        assert!(!members.disowned_by(1), "the same member counts once");
        assert!(!members.disowned_by(9) && !members.disowned_by(3), "only other members count");
        assert!(members.disowned_by(2));
    }

    #[test]
    fn who_joins_later_is_pinned_when_met_and_the_removed_never_come_back() {
        let mut founder = record(1);
        founder.pins = (1..=3).map(|id| (id, Uuid::from_u128(100 + u128::from(id)))).collect();
        let mut one = new(&founder);
        let mut joiner = record(7);
        joiner.later.joined = true;
        let mut seven = new(&joiner);
        assert!(seven.pinned() && seven.missing() == vec![1, 2, 3], "who joins waits for nobody");
        assert_eq!(one.greet(&seven.hello(1), 2), Ok(true), "news: to be pinned");
        assert_eq!(one.greet(&seven.hello(1), 2), Ok(false));
        assert_eq!(one.later_pins(), vec![(7, Uuid::from_u128(107))]);
        seven.greet(&one.hello(7), 2).expect("a founder");
        joiner.incarnation = Uuid::from_u128(777);
        assert_eq!(
            one.greet(&new(&joiner).hello(1), 2),
            Err(Refusal::Incarnation(7)),
            "its id died with its data"
        );

        let mut table = initial(&founder);
        table.removed = vec![7];
        one.set_table(Arc::new(table));
        assert_eq!(one.greet(&seven.hello(1), 2), Err(Refusal::Removed(7)));
        assert!(!one.admitted().contains(&7) && one.later_pins().is_empty());
    }

    #[test]
    fn who_joins_meets_members_that_are_no_founders_before_it_knows_a_level() {
        let mut joiner = record(7);
        joiner.later.joined = true;
        let mut seven = new(&joiner);
        let mut hello = new(&record(1)).hello(7);
        (hello.node, hello.address) = (5, "node5.test:7401".into());
        assert_eq!(seven.greet(&hello, 1), Ok(true), "all founders may be gone");
        let mut one = new(&record(1));
        one.set_pinned();
        assert_eq!(
            one.greet(&new(&joiner).hello(1), 1),
            Ok(false),
            "it may lead, and send what raises the level"
        );
        assert!(one.later_pins().is_empty(), "a founder's own identity changes its form only with the level");
        assert_eq!(one.greet(&new(&joiner).hello(1), 2), Ok(true), "now it is to be pinned");
    }

    #[test]
    fn who_joins_bars_a_wiped_member_that_it_met_before_it_knew_better() {
        let mut joiner = record(7);
        joiner.later.joined = true;
        let mut seven = new(&joiner);
        let mut wiped = record(2);
        wiped.incarnation = Uuid::from_u128(222);
        seven.greet(&new(&wiped).hello(7), 1).expect("it knows nobody yet");
        let mut table = initial(&record(1));
        for member in &mut table.current {
            member.incarnation = Some(Uuid::from_u128(100 + u128::from(member.node_id)));
        }
        seven.set_table(Arc::new(table));
        assert_eq!(*seven.barred(), BTreeSet::from([2]));
        assert_eq!(seven.greet(&new(&wiped).hello(7), 2), Err(Refusal::Incarnation(2)));
        assert_eq!(*seven.barred(), BTreeSet::from([2]), "refused is not admitted");
        seven.greet(&new(&record(2)).hello(7), 2).expect("the data that were lost, brought back");
        assert!(seven.barred().is_empty());
    }

    #[test]
    fn a_wiped_joiner_is_told_by_those_it_reaches() {
        let mut again = record(7);
        again.later.joined = true;
        let mut seven = new(&again);
        let mut hello = new(&record(1)).hello(7);
        (hello.node, hello.address) = (5, "node5.test:7401".into());
        seven.greet(&hello, 1).expect("it knows nobody yet");
        assert!(!seven.disowned_by(5), "one of four that it connects to");
        assert!(!seven.disowned_by(9), "it connects to no such node");
        assert!(!seven.disowned_by(2) && seven.disowned_by(1));
        // With one founder, that one is all it can ask.
        again.members.truncate(1);
        assert!(new(&again).disowned_by(1));
    }

    #[test]
    fn a_node_that_is_not_in_the_table_is_dialled_where_it_says() {
        let mut joiner = record(7);
        joiner.later.joined = true;
        let mut seven = new(&joiner);
        let mut hello = new(&record(1)).hello(7);
        (hello.node, hello.address) = (5, "node5.test:7401".into());
        assert_eq!(seven.greet(&hello, 2), Ok(true));
        assert_eq!(seven.dial().get(&5).map(String::as_str), Some("node5.test:7401"));
        assert_eq!(seven.dial().len(), 4, "and the founders");
    }
}
