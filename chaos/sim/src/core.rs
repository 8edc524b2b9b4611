//! What everything in a run shares: time, the queue, randomness, the network, the trace, the observations.

use crate::{
    clock::START_MS,
    config::Kind,
    net::Net,
    queue::{Queue, To, What},
    trace::Trace,
    tune::Tune,
    watch::Watch,
};
use okno_checks::invariants::Invariant;
use okno_cluster::core::retention::Retention;
use okno_runtime::call::CallResult;
use okno_storage::{commit::EntityKey, members::Members as MemberTable};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// One stream of randomness for each concern, so that leaving out one kind of fault changes the others little: a smaller run
/// that still fails can be found.
#[derive(Debug)]
pub struct Streams {
    pub net: ChaCha8Rng,
    pub disk: ChaCha8Rng,
    pub threads: ChaCha8Rng,
    pub world: ChaCha8Rng,
}

pub fn stream(seed: u64, concern: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(concern);
    rng
}

impl Streams {
    pub fn new(seed: u64) -> Self {
        Self { net: stream(seed, 1), disk: stream(seed, 2), threads: stream(seed, 3), world: stream(seed, 4) }
    }
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Killed, or ended by itself: the operating system keeps what was written.
    Killed,
    /// The machine lost power: any suffix of what was not synced is gone.
    PowerLost,
    /// An fsync failed: what it was to sync may be there or not.
    FsyncFailed,
}

/// A process that ends after the present event.
#[derive(Debug)]
pub struct Exit {
    pub node: usize,
    pub how: End,
    pub reason: String,
    /// A fault of the run explains it; else it is the product's.
    pub expected: bool,
}

pub struct Core {
    /// Virtual time, microseconds.
    pub now: u64,
    pub queue: Queue,
    pub rng: Streams,
    pub net: Net,
    pub trace: Trace,
    pub watch: Watch,
    pub tune: Tune,
    /// Present life of each node; `None`: it is down.
    pub boots: Vec<Option<u32>>,
    /// By how much all clocks have jumped.
    pub together_ms: i64,
    pub injected: BTreeMap<Kind, u64>,
    pub exits: Vec<Exit>,
    /// Nodes are starved of processor time until then.
    pub starved_until: Vec<u64>,
    pub apply_held_until: Vec<u64>,
    /// Nodes that began an append in this event.
    pub appends: Vec<usize>,
    /// A stored value was damaged there.
    pub damaged: Vec<bool>,
    /// The next slice finds courier and scanner too far behind.
    pub missed: Vec<bool>,
    /// Until when a node's clock counts as wrong: as long as it is, and as long as others may remember what it said.
    pub clock_bad_until: Vec<u64>,
    /// How calls ended at the node that took them.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// How much of the log is kept, and for members heard within how many milliseconds.
    pub retention: (Retention, u64),
    /// The cluster whose word counts: the one the run began with, or what was recovered of it.
    pub cluster: Uuid,
    /// Which cluster each machine's `identity` names.
    pub of: Vec<Uuid>,
    /// Machines whose data were removed and made anew under the old id.
    pub wiped: Vec<bool>,
    /// Who belongs to the cluster, as far as whoever is furthest has applied.
    pub table: Arc<MemberTable>,
    /// Learners that became voters in this event, and by which entry.
    pub promoted: Vec<(usize, u64)>,
    next_id: u64,
}

/// How far from true time a clock may be that counts as right.
pub const CLOCK_GOOD_MS: i64 = 300;
/// By how much the fault `clock-drift` lets a clock run fast or slow at most.
pub const DRIFT_MAX_PPM: i64 = 200_000;

impl Core {
    pub fn new(seed: u64, nodes: usize, clients: usize, tune: Tune, readable: bool) -> Self {
        Self {
            now: 0,
            queue: Queue::default(),
            rng: Streams::new(seed),
            net: Net::new(nodes, clients),
            trace: Trace::new(readable),
            watch: Watch::default(),
            tune,
            boots: vec![None; nodes],
            together_ms: 0,
            injected: BTreeMap::new(),
            exits: Vec::new(),
            starved_until: vec![0; nodes],
            apply_held_until: vec![0; nodes],
            appends: Vec::new(),
            damaged: vec![false; nodes],
            missed: vec![false; nodes],
            clock_bad_until: vec![0; nodes],
            outcomes: BTreeMap::new(),
            retention: (Retention { tail: 10_000, bytes_max: 4 << 30 }, 600_000),
            cluster: Uuid::nil(),
            of: vec![Uuid::nil(); nodes],
            wiped: vec![false; nodes],
            table: Arc::default(),
            promoted: Vec::new(),
            next_id: 1,
        }
    }

    pub fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn count(&mut self, kind: Kind) {
        *self.injected.entry(kind).or_default() += 1;
    }

    /// How long a thread takes to notice that there is something to do.
    pub fn wake_us(&mut self, node: usize) -> u64 {
        let rng = &mut self.rng.threads;
        if self.starved_until[node] > self.now {
            return rng.gen_range(1..20_000);
        }
        let draw: u32 = rng.r#gen();
        match draw % 64 {
            0 => u64::from(draw >> 8) % 2_000,
            _ => 1 + u64::from(draw >> 8) % 40,
        }
    }

    pub fn at_node(&mut self, node: usize, boot: u32, after_us: u64, what: What) {
        self.queue.push(self.now + after_us, To::Node { node, boot }, what);
    }

    /// Places of the voters.
    pub fn voters(&self) -> Vec<usize> {
        self.table.voters().filter_map(|id| usize::try_from(id - 1).ok()).collect()
    }

    /// A node has applied a table of members.
    pub fn members(&mut self, node: usize, table: &Arc<MemberTable>) {
        if self.of[node] == self.cluster && table.changed_index >= self.table.changed_index {
            self.table = table.clone();
        }
    }

    pub fn true_ms(&self) -> i64 {
        START_MS + i64::try_from(self.now / 1_000).unwrap_or(i64::MAX) + self.together_ms
    }

    pub fn bad_clocks(&self) -> usize {
        (0..self.clock_bad_until.len()).filter(|node| self.is_bad_clock(*node)).count()
    }

    /// It is off, or was a moment ago.
    pub fn is_bad_clock(&self, node: usize) -> bool {
        self.clock_bad_until[node] > self.now
    }

    pub fn take_missed(&mut self, node: usize) -> bool {
        std::mem::take(&mut self.missed[node])
    }

    pub fn outcome(&mut self, result: &CallResult) {
        let name = match result {
            CallResult::Done { .. } => "done",
            CallResult::Refused(_) => "refused",
            CallResult::NotApplied { .. } => "not_applied",
            CallResult::Unknown { .. } => "unknown",
        };
        *self.outcomes.entry(name).or_default() += 1;
    }

    pub fn read_outcome(&mut self, seen: bool) {
        *self.outcomes.entry(if seen { "read" } else { "read_failed" }).or_default() += 1;
    }

    // What a node says about itself and others, judged.

    pub fn watch_quarantine(&mut self, node: usize, damaged: bool, reason: &str) {
        if self.trace.on() {
            self.trace.say(self.now, format_args!("n{} quarantines itself: {reason}", node + 1));
        }
        if !damaged {
            let detail = format!("sound node {} quarantines itself: {reason}", node + 1);
            self.watch.breach(Invariant::StopsWhenWrong, detail);
        }
    }

    pub fn watch_differs(&mut self, node: usize, what: &str, index: u64) {
        if !self.damaged.get(node).copied().unwrap_or(false) {
            let detail = format!("sound node {}'s {what} at {index} differs from the majority's", node + 1);
            self.watch.breach(Invariant::SameState, detail);
        }
    }

    pub fn watch_tie(&mut self, what: &str, index: u64) {
        if !self.damaged.contains(&true) {
            self.watch
                .breach(Invariant::SameState, format!("nobody has a majority for the {what} at {index}"));
        }
    }

    pub fn watch_refused_hello(&mut self, node: usize, refusal: &str) {
        let detail = format!("node {} refuses a member's hello: {refusal}", node + 1);
        self.watch.breach(Invariant::StopsWhenWrong, detail);
    }

    /// `by`: who took it in.
    pub fn watch_wiped(&mut self, by: usize, node: usize) {
        let detail =
            format!("node {} takes in node {} under its old id though its data were wiped", by + 1, node + 1);
        self.watch.breach(Invariant::StopsWhenWrong, detail);
    }

    /// A node closes itself because it was removed.
    pub fn watch_left(&mut self, node: usize) {
        if !self.table.is_removed(node as u64 + 1) {
            let detail = format!("node {} takes itself for removed, and is a member", node + 1);
            self.watch.breach(Invariant::StopsWhenWrong, detail);
        }
    }

    pub fn watch_foreign(&mut self, node: usize, from: usize) {
        let detail = format!("node {} takes in node {}, which is of another cluster", node + 1, from + 1);
        self.watch.breach(Invariant::StopsWhenWrong, detail);
    }

    pub fn watch_unusable(&mut self, node: usize, entity: &EntityKey, reason: &str) {
        let detail = format!("node {} cannot use the rows of {entity}: {reason}", node + 1);
        self.watch.breach(Invariant::SameState, detail);
    }

    pub fn watch_unreadable(&mut self, node: usize, error: &str) {
        let detail = format!("sound node {} cannot read its rows: {error}", node + 1);
        self.watch.breach(Invariant::SameState, detail);
    }
}
