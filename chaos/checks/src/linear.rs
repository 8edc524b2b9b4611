//! Is there an order of one entity's operations, each at a moment between its begin and its end, in which a sequential
//! model gives every outcome that was seen? Herlihy and Wing call such a history linearizable.
//!
//! The search is Wing and Gong's ("Testing and verifying concurrent objects", 1993) with Lowe's memory ("Testing for
//! linearizability", 2017): a configuration — which operations have been placed, and the model's state — that led
//! nowhere is not entered twice. Entities are checked one by one, because linearizability is local.
//!
//! What is particular here:
//! - an operation without an end may be placed anywhere after its begin, or never; which of several alike is placed
//!   makes no difference, so only the first is tried;
//! - an operation that leaves the state as it is and fits is placed at once: if an order exists, one exists that
//!   begins with it;
//! - operations carry a hint of their place (the log index the cluster named). It orders the search and decides
//!   nothing, so that a wrong hint costs time and no more.
//!
//! The search is bounded; what it could not decide within the bound it says to be undecided, which counts as broken.

use ahash::RandomState;
use std::{collections::HashSet, hash::Hash};

/// Configurations looked at before giving up: far above what histories of a run need, some seconds at the worst.
pub const CONFIGURATIONS_MAX: usize = 400_000;

/// A sequential specification of one entity.
pub trait Model {
    type State: Clone + Eq + Hash;
    type Op: PartialEq;

    fn initial(&self) -> Self::State;

    /// Every state the operation may lead to with the outcome that was seen, or with any if none was; none: it cannot
    /// happen here.
    fn step(&self, state: &Self::State, op: &Self::Op, next: &mut Vec<Self::State>);

    /// Which of the two is placed, of those that may be placed now and never ended, decides nothing of what can follow.
    fn alike(&self, one: &Self::Op, other: &Self::Op) -> bool {
        one == other
    }

    /// The outcome that was seen leaves every state as it is, wherever it is possible.
    fn reads(&self, op: &Self::Op) -> bool;

    fn show_op(&self, op: &Self::Op) -> String;
    fn show_state(&self, state: &Self::State) -> String;
}

/// An operation with its time.
#[derive(Debug, Clone)]
pub struct Timed<O> {
    pub op: O,
    pub begun: u64,
    /// Absent: it may never happen.
    pub ended: Option<u64>,
    /// Where in the order it is likely to stand.
    pub hint: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// In how many configurations it was found.
    Linearizable(usize),
    Broken(Broken),
    Undecided {
        configurations: usize,
    },
}

/// Why there is no such order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Operations that had ended in the shortest part of the history, from its begin, that is broken already.
    pub ended: usize,
    /// When the last of them ended.
    pub by: u64,
    /// For people: how far an order goes, and what fits nowhere.
    pub explanation: String,
}

/// Checks the operations of one entity.
pub fn check<M: Model>(model: &M, operations: &[Timed<M::Op>]) -> Verdict {
    let mut order: Vec<usize> = (0..operations.len()).collect();
    order.sort_by_key(|place| operations[*place].begun);
    match search(model, operations, &order, u64::MAX, CONFIGURATIONS_MAX) {
        Found::Order { configurations } => Verdict::Linearizable(configurations),
        Found::Undecided => Verdict::Undecided { configurations: CONFIGURATIONS_MAX },
        Found::None { .. } => shortest(model, operations, &order),
    }
}

/// The shortest broken part: what is broken up to one end is broken up to every later one.
fn shortest<M: Model>(model: &M, operations: &[Timed<M::Op>], order: &[usize]) -> Verdict {
    let mut ends: Vec<u64> = operations.iter().filter_map(|timed| timed.ended).collect();
    ends.sort_unstable();
    let (mut good, mut broken) = (0, ends.len());
    while broken - good > 1 {
        let middle = good + (broken - good) / 2;
        match search(model, operations, order, ends[middle - 1], CONFIGURATIONS_MAX) {
            Found::None { .. } => broken = middle,
            Found::Order { .. } | Found::Undecided => good = middle,
        }
    }
    let by = broken.checked_sub(1).map_or(0, |last| ends[last]);
    let furthest = match search(model, operations, order, by, CONFIGURATIONS_MAX) {
        Found::None { furthest } => furthest,
        Found::Order { .. } | Found::Undecided => Vec::new(),
    };
    let explanation = explain(model, operations, order, by, &furthest);
    Verdict::Broken(Broken { ended: broken, by, explanation })
}

enum Found {
    Order {
        configurations: usize,
    },
    /// With the longest order that was possible.
    None {
        furthest: Vec<usize>,
    },
    Undecided,
}

/// One placed operation and what may follow it. States are made when they are needed: of a long history only those on
/// the way are held.
struct Frame<S> {
    /// The operation placed to come here; `None`: the root.
    placed: Option<usize>,
    state: S,
    /// What may be placed next, the best last.
    open: Vec<usize>,
    /// Where the one tried last leads to, as far as not entered.
    ready: Vec<(usize, S)>,
}

/// Configurations that were entered, by a fingerprint of 128 bits: states can be large, and two that collide are less
/// likely than a broken processor. A collision could hide an order, never make one up.
struct Entered {
    hashers: [RandomState; 2],
    seen: HashSet<u128, RandomState>,
}

impl Entered {
    fn new() -> Self {
        Self {
            hashers: [RandomState::with_seeds(1, 2, 3, 4), RandomState::with_seeds(5, 6, 7, 8)],
            seen: HashSet::with_hasher(RandomState::with_seeds(9, 10, 11, 12)),
        }
    }

    /// True the first time.
    fn enter(&mut self, configuration: &impl Hash) -> bool {
        let [high, low] = self.hashers.each_ref().map(|hasher| u128::from(hasher.hash_one(configuration)));
        self.seen.insert(high << 64 | low)
    }
}

/// Searches the part of the history up to `until`: what began later is left out, what ended later has not ended.
fn search<M: Model>(
    model: &M,
    operations: &[Timed<M::Op>],
    order: &[usize],
    until: u64,
    configurations_max: usize,
) -> Found {
    let count = order.partition_point(|place| operations[*place].begun <= until);
    let order = &order[..count];
    let ended = |place: usize| operations[place].ended.filter(|end| *end <= until);
    let mut left = order.iter().filter(|place| ended(**place).is_some()).count();
    let mut placed = Bits::new(operations.len());
    let mut entered = Entered::new();
    let mut stack: Vec<Frame<M::State>> = Vec::new();
    let mut configurations = 0;
    let (mut furthest, mut least_left) = (Vec::new(), usize::MAX);
    let mut first = 0;
    let mut next = Vec::new();
    let mut enter = Some((None, model.initial()));
    loop {
        if let Some((at, state)) = enter.take() {
            if let Some(place) = at {
                placed.set(place);
                left -= usize::from(ended(place).is_some());
            }
            if left == 0 {
                return Found::Order { configurations };
            }
            configurations += 1;
            if configurations > configurations_max {
                return Found::Undecided;
            }
            while first < order.len() && placed.has(order[first]) {
                first += 1;
            }
            let open = open(model, operations, &order[first..], &placed, &state, &ended);
            stack.push(Frame { placed: at, state, open, ready: Vec::new() });
            // Only a dead end is worth telling, and the furthest of them.
            if left < least_left {
                least_left = left;
                furthest.clear();
            }
        }
        let Some(frame) = stack.last_mut() else { return Found::None { furthest } };
        if let Some((place, next)) = frame.ready.pop() {
            placed.set(place);
            let new = entered.enter(&(&placed, &next));
            placed.clear(place);
            if new {
                enter = Some((Some(place), next));
            }
        } else if let Some(place) = frame.open.pop() {
            model.step(&frame.state, &operations[place].op, &mut next);
            frame.ready.extend(next.drain(..).map(|next| (place, next)));
        } else {
            if left == least_left && furthest.is_empty() {
                furthest = stack.iter().filter_map(|frame| frame.placed).collect();
            }
            if let Some(place) = stack.pop().and_then(|frame| frame.placed) {
                placed.clear(place);
                left += usize::from(ended(place).is_some());
                first = 0;
            }
        }
    }
}

/// What may be placed next in a configuration; the best last.
fn open<M: Model>(
    model: &M,
    operations: &[Timed<M::Op>],
    order: &[usize],
    placed: &Bits,
    state: &M::State,
    ended: &impl Fn(usize) -> Option<u64>,
) -> Vec<usize> {
    let mut candidates = Vec::new();
    let mut earliest_end = u64::MAX;
    let mut next = Vec::new();
    for place in order.iter().copied() {
        let timed = &operations[place];
        // Only what began before everything unplaced had ended can be next.
        if timed.begun > earliest_end {
            break;
        }
        if placed.has(place) {
            continue;
        }
        let end = ended(place);
        earliest_end = earliest_end.min(end.unwrap_or(u64::MAX));
        if end.is_some() && model.reads(&timed.op) {
            model.step(state, &timed.op, &mut next);
            if !next.is_empty() {
                return vec![place];
            }
            // It fits only in another state.
            continue;
        }
        let alike = |other: &usize| ended(*other).is_none() && model.alike(&operations[*other].op, &timed.op);
        if end.is_some() || !candidates.iter().any(alike) {
            candidates.push(place);
        }
    }
    // What has ended before what has not, then by the hint.
    candidates.sort_by_key(|place| {
        let timed = &operations[*place];
        std::cmp::Reverse((ended(*place).is_none(), timed.hint, timed.begun))
    });
    candidates
}

/// A set of places.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Bits(Box<[u64]>);

impl Bits {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64).max(1)].into())
    }

    fn has(&self, place: usize) -> bool {
        self.0[place / 64] & 1 << (place % 64) != 0
    }

    fn set(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }

    fn clear(&mut self, place: usize) {
        self.0[place / 64] &= !(1 << (place % 64));
    }
}

/// Lines of an order that are shown; the last ones tell most.
const SHOWN_MAX: usize = 16;

fn explain<M: Model>(
    model: &M,
    operations: &[Timed<M::Op>],
    order: &[usize],
    until: u64,
    furthest: &[usize],
) -> String {
    let show = |place: usize| {
        let timed = &operations[place];
        let end = timed.ended.map_or_else(|| "…".to_owned(), |end| end.to_string());
        format!("[{} .. {end}] {}", timed.begun, model.show_op(&timed.op))
    };
    let mut text = String::from("the longest order that is possible:\n");
    let mut states = vec![model.initial()];
    let hidden = furthest.len().saturating_sub(SHOWN_MAX);
    if hidden > 0 {
        text.push_str(&format!("    … {hidden} before\n"));
    }
    for (nth, place) in furthest.iter().copied().enumerate() {
        let mut next = Vec::new();
        for state in &states {
            model.step(state, &operations[place].op, &mut next);
        }
        if !next.is_empty() {
            states = next;
        }
        if nth >= hidden {
            text.push_str(&format!("    {}\n", show(place)));
        }
    }
    if let Some(state) = states.first() {
        text.push_str(&format!("then it is: {}\n", model.show_state(state)));
    }
    text.push_str("and of what had ended, this finds no place:\n");
    let rest = order.iter().copied().filter(|place| {
        !furthest.contains(place) && operations[*place].ended.is_some_and(|end| end <= until)
    });
    for place in rest.take(SHOWN_MAX) {
        text.push_str(&format!("    {}\n", show(place)));
    }
    text
}
