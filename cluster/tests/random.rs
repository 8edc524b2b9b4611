//! Random steps on a virtual cluster: messages lost, doubled and reordered, links cut, disks slow, nodes crashed
//! with and without the append under way. A seed replays exactly; a failure names its seed.
//!
//! Checked: one leader a term; every proposal answered once (unless its node died); `Applied` stands in the final
//! log where it said, `NotApplied` nowhere (rule 1); logs agree; a linearizable read sees everything answered before
//! it began (rule 16); and after all is healed the cluster makes progress.

mod world;

use bytes::Bytes;
use okno_cluster::{
    api::{Lane, Proposal, ProposalOutcome, ReadError, Role},
    core::event::{Event, ReadId, ReadRequest},
};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use world::{Seen, World};

/// Some seconds on one core; `OKNO_SEEDS` asks for more.
const SEEDS: u64 = 300;
const STEPS: usize = 1_500;

#[derive(Debug)]
struct Offered {
    node: u64,
    data: Bytes,
    answer: Option<ProposalOutcome>,
    /// Its node crashed before it answered.
    orphaned: bool,
}

struct Play {
    world: World,
    rng: ChaCha8Rng,
    /// By activation; every proposal has a lane of its own.
    offered: BTreeMap<u64, Offered>,
    /// Read number → (node, highest index known applied when it began).
    reads: BTreeMap<u64, (u64, u64)>,
    leaders: BTreeMap<u64, u64>,
    highest: u64,
    confirmed_reads: usize,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut world = World::default();
        world.add_nodes(3, true);
        Self {
            world,
            rng: ChaCha8Rng::seed_from_u64(seed),
            offered: BTreeMap::new(),
            reads: BTreeMap::new(),
            leaders: BTreeMap::new(),
            highest: 0,
            confirmed_reads: 0,
        }
    }

    fn node(&mut self) -> u64 {
        self.rng.gen_range(1..=3)
    }

    fn propose(&mut self, node: u64) -> u64 {
        let activation = self.offered.len() as u64 + 1;
        let term = self.world.nodes[&node].driver.as_ref().map_or(0, |d| d.term());
        let data = Bytes::from(format!("p{activation}"));
        let orphaned = self.world.nodes[&node].driver.is_none();
        self.offered.insert(activation, Offered { node, data: data.clone(), answer: None, orphaned });
        let proposal = Proposal { lane: Lane { shard: 0, activation }, seq: 1, term, data };
        self.world.feed(node, vec![Event::Propose(vec![proposal])]);
        activation
    }

    fn step(&mut self) {
        let node = self.node();
        match self.rng.gen_range(0..100) {
            0..=34 => {
                self.world.now_ms += 20;
                self.world.feed(node, vec![Event::Tick]);
            }
            35..=74 => self.carry(),
            75..=84 => {
                self.propose(node);
            }
            85..=89 => {
                let id = self.reads.len() as u64 + 1;
                let shard = self.rng.gen_bool(0.3);
                self.reads.insert(id, (node, self.highest));
                let id = if shard { ReadId::Shard { shard: 0, ticket: id } } else { ReadId::Call(id) };
                let deadline_ms = self.world.now_ms + 2_000;
                self.world.feed(node, vec![Event::Read(ReadRequest { id, deadline_ms })]);
            }
            90 | 91 => self.world.nodes.get_mut(&node).expect("known").slow = true,
            92 | 93 => self.world.flush(node),
            94 => {
                let n = self.world.nodes.get_mut(&node).expect("known");
                n.apply_held = !n.apply_held;
                self.world.apply(node);
            }
            95 => {
                let to = self.node();
                self.world.feed(node, vec![Event::Transfer { ticket: 0, to: Some(to) }]);
            }
            96 => {
                let other = self.node();
                if other != node {
                    self.world.cuts.insert((node, other));
                }
            }
            97 => self.world.cuts.clear(),
            98 if self.rng.gen_bool(0.3) => self.crash(node),
            _ => self.revive(node),
        }
        self.look();
    }

    /// Delivers one message out of order, loses it, or delivers it twice.
    fn carry(&mut self) {
        if self.world.net.is_empty() {
            return;
        }
        // Mostly near the front: reordering is the exception.
        let reach = if self.rng.gen_bool(0.8) { 1 } else { self.world.net.len() };
        let at = self.rng.gen_range(0..reach);
        let Some(m) = self.world.net.remove(at) else { return };
        if self.world.cuts.contains(&(m.from, m.to)) || self.rng.gen_bool(0.05) {
            return;
        }
        if self.rng.gen_bool(0.05) {
            self.world.net.push_back(m.clone());
        }
        self.world.feed(m.to, vec![Event::Messages { from: m.from, messages: vec![m] }]);
    }

    fn crash(&mut self, node: u64) {
        // The append under way may have reached the disk although nobody heard of it.
        if let Some(held) = self.world.nodes.get_mut(&node).expect("known").held.take()
            && self.rng.gen_bool(0.5)
        {
            self.world.write(node, held);
        }
        self.world.crash(node);
        for o in self.offered.values_mut().filter(|o| o.node == node && o.answer.is_none()) {
            o.orphaned = true;
        }
    }

    fn revive(&mut self, node: u64) {
        if self.world.nodes[&node].driver.is_none() {
            self.world.now_ms += 1;
            self.world.start(node);
        }
    }

    fn look(&mut self) {
        for seen in std::mem::take(&mut self.world.seen) {
            match seen {
                Seen::Settled { node, settled } => {
                    let o = self.offered.get_mut(&settled.lane.activation).expect("offered");
                    assert_eq!(o.node, node);
                    assert!(o.answer.is_none(), "answered twice: {o:?}, then {settled:?}");
                    if let ProposalOutcome::Applied { index } = settled.outcome {
                        self.highest = self.highest.max(index);
                    }
                    o.answer = Some(settled.outcome);
                }
                Seen::Read { node, id, result } => {
                    let number = match id {
                        ReadId::Call(n) | ReadId::Shard { ticket: n, .. } => n,
                    };
                    // Answered once: a second answer finds nothing.
                    let (asked, before) = self.reads.remove(&number).expect("asked, and not answered before");
                    assert_eq!(asked, node);
                    match result {
                        Ok(index) => {
                            assert!(
                                index >= before,
                                "read {number} at {index}, but {before} was answered before"
                            );
                            self.confirmed_reads += 1;
                        }
                        Err(error) => assert!(matches!(error, ReadError::TimedOut | ReadError::NotLeader)),
                    }
                    // Its number is not used again.
                    self.reads.insert(number, (0, u64::MAX));
                }
                Seen::Role { node, term, role } => {
                    if let Role::Leader { .. } = role {
                        let other = self.leaders.insert(term, node).unwrap_or(node);
                        assert_eq!(other, node, "two leaders in term {term}");
                    }
                }
            }
        }
    }

    /// All is well again: the cluster must make progress.
    fn settle(&mut self) -> BTreeMap<Bytes, u64> {
        self.world.cuts.clear();
        for node in 1..=3 {
            self.world.nodes.get_mut(&node).expect("known").apply_held = false;
            self.world.flush(node);
            self.world.apply(node);
            self.revive(node);
        }
        for _ in 0..200 {
            self.world.tick(None);
            self.look();
        }
        let leader = (1..=3).find(|n| self.leads(*n));
        let leader = leader.unwrap_or_else(|| panic!("no leader, ready:\n{}", self.world.status()));
        let last = self.propose(leader);
        for _ in 0..6 {
            self.world.tick(None);
            self.look();
        }
        assert!(
            matches!(self.offered[&last].answer, Some(ProposalOutcome::Applied { .. })),
            "no progress: {:?}",
            self.offered[&last]
        );
        let logs: Vec<_> = self
            .world
            .nodes
            .values()
            .map(|n| n.log.entries(1, n.applied + 1, usize::MAX).expect("memory"))
            .collect();
        assert!(logs.windows(2).all(|w| w[0] == w[1]), "logs differ");
        let mut stands = BTreeMap::new();
        for entry in logs[0].iter().filter(|e| e.data.starts_with(b"p")) {
            assert!(stands.insert(entry.data.clone(), entry.index).is_none(), "a proposal stands twice");
        }
        stands
    }

    fn leads(&self, node: u64) -> bool {
        let role = self.world.nodes[&node].driver.as_ref().map(|d| d.role().role);
        matches!(role, Some(Role::Leader { ready: true }))
    }
}

/// What a seed came to, to see that the steps reach what they are meant to.
#[derive(Default, Debug)]
struct Tally {
    applied: usize,
    refused: usize,
    unknown: usize,
    orphaned: usize,
    reads: usize,
    terms: usize,
}

fn play(seed: u64, lying: bool, tally: &mut Tally) {
    let mut play = Play::new(seed);
    play.world.lying = lying;
    // Most seeds begin with a leader, some from nothing.
    if !seed.is_multiple_of(4) {
        for _ in 0..60 {
            play.world.tick(None);
        }
        play.look();
    }
    for _ in 0..STEPS {
        play.step();
    }
    let stands = play.settle();
    for o in play.offered.values() {
        let at = stands.get(&o.data).copied();
        match &o.answer {
            Some(ProposalOutcome::Applied { index }) => {
                assert_eq!(at, Some(*index), "acknowledged and lost: {o:?}");
                tally.applied += 1;
            }
            Some(ProposalOutcome::NotApplied(_)) => {
                assert_eq!(at, None, "not applied, they said: {o:?}");
                tally.refused += 1;
            }
            Some(ProposalOutcome::Unknown(_)) => tally.unknown += 1,
            Some(other) => panic!("{other:?} from a store that knows no commits"),
            None => {
                assert!(o.orphaned, "never answered: {o:?}");
                tally.orphaned += 1;
            }
        }
    }
    tally.reads += play.confirmed_reads;
    tally.terms += play.leaders.len();
}

#[test]
fn random_clusters_keep_their_word() {
    let count = std::env::var("OKNO_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    let mut seeds: Vec<u64> = (0..count).collect();
    // Another order finds nothing new, but a failing seed is then not always the same first one.
    seeds.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    let mut tally = Tally::default();
    for seed in seeds {
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(seed, false, &mut tally)));
        assert!(outcome.is_ok(), "seed {seed}");
    }
    println!("{tally:?}");
    // The steps reach every kind of end.
    let reached = [tally.applied, tally.refused, tally.unknown, tally.orphaned, tally.reads, tally.terms];
    assert!(reached.iter().all(|n| *n > 50), "{tally:?}");
}

/// The suite can fail: without the sync behind what was promised, it does.
#[test]
fn disks_that_lie_are_found_out() {
    let broken = (0..SEEDS).find(|seed| {
        let mut tally = Tally::default();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(*seed, true, &mut tally))).is_err()
    });
    assert!(broken.is_some(), "promises were broken and nobody noticed");
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
    let distinct: BTreeSet<String> = (0..5).map(trace).collect();
    assert_eq!(distinct.len(), 5);
    assert!(distinct.contains(&trace(3)));
}
