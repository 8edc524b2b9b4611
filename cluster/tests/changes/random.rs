//! Random steps on a virtual cluster whose members change: messages and copies lost and late, links cut, disks slow, nodes
//! crashed, logs kept so short that members need copies. A seed replays exactly; a failure names its seed.
//!
//! Checked: one leader a term; the same chain wherever slices end alike; a commit that was answered as applied stands where
//! it was said to, on all; successive sets of voters have majorities that meet; and once all is healed the cluster makes
//! progress and all members are equal.

use crate::world::{World, add};
use okno_cluster::{
    api::{ProposalOutcome, Role},
    core::event::Event,
};
use okno_storage::{commit::Commit, members::MemberChange};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// Some seconds on one core; `OKNO_SEEDS` asks for more.
const SEEDS: u64 = 120;
/// One that was taken out had closed itself, and the last one, which forgot the change in a crash, needed its vote.
const RECORDED: [u64; 1] = [230];
const STEPS: usize = 2_500;
const NODES_MAX: u64 = 9;

struct Play {
    world: World,
    rng: ChaCha8Rng,
    /// Proposal → index it was answered with.
    applied: BTreeMap<u64, u64>,
    /// Voters by the index of the change that made them so.
    voters: BTreeMap<u64, BTreeSet<u64>>,
    next: u64,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut world = World::default();
        let founders = [1, 3, 3][rng.gen_range(0..3)];
        world.found(founders);
        world.tail = rng.gen_bool(0.7).then(|| rng.gen_range(1..20));
        Self { world, rng, applied: BTreeMap::new(), voters: BTreeMap::new(), next: founders + 1 }
    }

    fn node(&mut self) -> u64 {
        let ids: Vec<u64> = self.world.nodes.keys().copied().collect();
        ids[self.rng.gen_range(0..ids.len())]
    }

    fn leader(&self) -> Option<u64> {
        let leads = |id: &u64| {
            let live = self.world.live(*id)?;
            matches!(live.driver.role().role, Role::Leader { ready: true })
                .then_some((live.driver.term(), *id))
        };
        self.world.nodes.keys().filter_map(leads).max().map(|(_, id)| id)
    }

    fn step(&mut self) {
        let node = self.node();
        match self.rng.gen_range(0..100) {
            0..=34 => {
                self.world.now_ms += 12;
                self.world.tick_one(node);
            }
            35..=74 => self.carry(),
            75..=84 => {
                let to = if self.rng.gen_bool(0.7) { self.leader().unwrap_or(node) } else { node };
                self.world.propose(to);
            }
            85..=88 => self.change(),
            89 => self.world.nodes.get_mut(&node).expect("known").slow = true,
            90..=92 => self.world.flush(node),
            93 => {
                let to = self.node();
                self.world.feed(node, vec![Event::Transfer { ticket: 0, to: Some(to) }]);
            }
            94 => {
                let other = self.node();
                if other != node {
                    self.world.cuts.insert((node, other));
                }
            }
            95 => self.world.cuts.clear(),
            96 if self.rng.gen_bool(0.4) => self.world.crash(node),
            97 => {
                self.world.ends_after_install.insert(node);
            }
            _ => self.revive(node),
        }
        self.look();
    }

    fn carry(&mut self) {
        if self.world.net.is_empty() {
            return;
        }
        let reach = if self.rng.gen_bool(0.8) { 1 } else { self.world.net.len() };
        let at = self.rng.gen_range(0..reach);
        let Some(packet) = self.world.net.remove(at) else { return };
        let lost = self.world.cuts.contains(&packet.way()) || self.rng.gen_bool(0.05);
        match packet {
            crate::world::Packet::Copy { message, .. } if lost => {
                // A sender knows that a transfer broke off.
                self.world.feed(message.from, vec![Event::Sent { to: message.to, installed: false }]);
            }
            crate::world::Packet::Told { to, about, .. } if lost => {
                self.world.feed(to, vec![Event::Sent { to: about, installed: false }]);
            }
            _ if lost => {}
            packet => self.world.carry(packet),
        }
    }

    fn change(&mut self) {
        let Some(leader) = self.leader() else { return };
        let table = self.world.live(leader).expect("it leads").driver.table().clone();
        let change = match self.rng.gen_range(0..5) {
            0 | 1 if self.next <= NODES_MAX => {
                self.world.join(self.next);
                self.next += 1;
                add(self.next - 1)
            }
            // One that was started and is no member yet, or was one.
            2 => add(self.rng.gen_range(1..self.next)),
            3 if table.current.len() > 2 => {
                let at = self.rng.gen_range(0..table.current.len());
                MemberChange::Remove { node_id: table.current[at].node_id }
            }
            _ => MemberChange::Promote { node_id: self.rng.gen_range(1..self.next) },
        };
        self.world.change(leader, change, false, 0);
    }

    fn revive(&mut self, node: u64) {
        let n = &self.world.nodes[&node];
        if n.live.is_none() && n.why.is_none() {
            self.world.now_ms += 1;
            self.world.start(node);
        }
    }

    fn look(&mut self) {
        for (_, settled) in std::mem::take(&mut self.world.settled) {
            if let ProposalOutcome::Applied { index } = settled.outcome {
                let before = self.applied.insert(settled.lane.activation, index);
                assert_eq!(before, None, "answered twice");
            }
        }
        for id in self.world.nodes.keys() {
            let Some(live) = self.world.live(*id) else { continue };
            let table = live.driver.table();
            if table.changed_index == 0 {
                continue;
            }
            let voters: BTreeSet<u64> = table.voters().collect();
            let known = self.voters.entry(table.changed_index).or_insert_with(|| voters.clone());
            assert_eq!(*known, voters, "the members as of {} differ", table.changed_index);
        }
    }

    /// All is well again: the cluster must make progress, and all members become equal.
    fn settle(&mut self) {
        self.world.cuts.clear();
        self.world.ends_after_install.clear();
        for node in self.world.nodes.keys().copied().collect::<Vec<_>>() {
            self.world.flush(node);
            self.revive(node);
        }
        for _ in 0..400 {
            self.world.tick(None);
            self.look();
        }
        let leader = self.leader().unwrap_or_else(|| panic!("no leader:\n{}", self.world.status()));
        let last = self.world.propose(leader);
        for _ in 0..10 {
            self.world.tick(None);
            self.look();
        }
        assert!(self.applied.contains_key(&last), "no progress:\n{}", self.world.status());
        let table = self.world.live(leader).expect("it leads").driver.table().clone();
        assert_eq!(table.learners().count(), 0, "not promoted:\n{}", self.world.status());
        let mark =
            |id: u64| self.world.live(id).map(|live| (live.state.mark().index, live.state.mark().chain));
        for member in &table.current {
            assert_eq!(mark(member.node_id), mark(leader), "not equal:\n{}", self.world.status());
        }
    }

    /// What was answered stands in the journal where it was said to, on every member.
    fn judge(&self) {
        let leader = self.leader().expect("settled");
        let live = self.world.live(leader).expect("it leads");
        let journal = live.state.reader().view().journal(0, usize::MAX).expect("memory");
        assert!(journal.windows(2).all(|w| w[0].index + 1 == w[1].index), "the journal has no gaps");
        for index in self.applied.values() {
            let row = journal.binary_search_by_key(index, |row| row.index);
            let code = row.map(|at| journal[at].outcome_code);
            assert_eq!(code, Ok(1), "acknowledged at {index} and not applied there");
        }
        let sets: Vec<&BTreeSet<u64>> = self.voters.values().collect();
        for pair in sets.windows(2) {
            let moved = pair[0].symmetric_difference(pair[1]).count();
            assert!(moved <= 1, "{:?} became {:?} in one change", pair[0], pair[1]);
        }
    }
}

/// What the seeds came to, to see that the steps reach what they are meant to.
#[derive(Default, Debug)]
struct Tally {
    applied: usize,
    copies: u64,
    changes: u64,
    sets: usize,
    terms: usize,
}

fn play(seed: u64, tally: &mut Tally) {
    let mut play = Play::new(seed);
    for _ in 0..60 {
        play.world.tick(None);
    }
    for _ in 0..STEPS {
        play.step();
    }
    play.settle();
    play.judge();
    tally.applied += play.applied.len();
    tally.copies += play.world.copies;
    tally.changes += play.world.changes;
    tally.sets += play.voters.len();
    tally.terms += play.world.leaders.len();
}

#[test]
fn random_clusters_change_and_keep_their_word() {
    let count = std::env::var("OKNO_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    for seed in (0..count).chain(RECORDED) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(seed, &mut tally)));
        if outcome.is_err() {
            failed.push(seed);
        }
    }
    println!("{tally:?}");
    assert!(failed.is_empty(), "seeds {failed:?}");
    // The steps reach what they are meant to.
    let reached = [tally.applied, tally.copies as usize, tally.changes as usize, tally.sets, tally.terms];
    assert!(reached.iter().all(|n| *n > 50), "{tally:?}");
}

#[test]
fn a_seed_replays_exactly() {
    let trace = |seed| {
        let mut play = Play::new(seed);
        for _ in 0..STEPS {
            play.step();
        }
        play.world.out
    };
    assert_eq!(trace(3), trace(3));
    assert_ne!(trace(3), trace(4));
}

/// Ids and addresses in a commit of this world are what tells two of them apart.
#[test]
fn proposals_are_different_commits() {
    let mut world = World::default();
    world.found(1);
    for _ in 0..40 {
        world.tick(None);
    }
    world.propose(1);
    world.propose(1);
    let live = world.live(1).expect("it is up");
    let last = live.log.last_index();
    let entries = live.log.entries(last - 1, last + 1, usize::MAX).expect("memory");
    let ids: BTreeSet<_> = entries.iter().map(|e| Commit::decode(&e.data).expect("a commit").id).collect();
    assert_eq!(ids.len(), 2);
}
