//! Events in virtual time, in the order of (time, sequence): who comes first at the same moment is who was scheduled first.

use crate::{core::End, net::Arrival, port};
use std::{cmp::Ordering, collections::BinaryHeap};

/// What can happen. What carries no node is the world's own.
#[derive(Debug)]
pub enum What {
    // At a node; gone with its process.
    Tick,
    Raft,
    Disk,
    Apply,
    Shard(u16),
    Decide {
        shard: u16,
        activation: u64,
    },
    Courier,
    Scanner,
    Gossip,
    /// A call looks again; the round tells whether it still waits for that.
    Call {
        call: u64,
        round: u32,
    },
    /// A call's deadline.
    Deadline(u64),
    /// A forwarded call's deadline on the side that took it.
    Received(u64),
    /// The process ends by itself after a hang.
    Watchdog {
        append: u64,
    },
    /// A copy of the database is taken.
    Copy,
    /// Nothing was heard of this transfer of a copy for long enough.
    CopyPatience(u64),
    /// The wait of a graceful stop is over.
    Halt,
    /// The process ends by a fault.
    Cut(End),
    /// The link to this node is known to be gone.
    Unreachable(usize),
    // Of the world.
    Arrive(Box<Arrival>),
    Client {
        client: usize,
        event: Box<port::Event>,
    },
    Start {
        node: usize,
    },
    /// A fault ends, or goes on to its next stage.
    Fault(usize),
}

impl What {
    /// What the trace's hash takes it for.
    pub const fn tag(&self) -> u64 {
        match self {
            Self::Tick => 1,
            Self::Raft => 2,
            Self::Disk => 3,
            Self::Apply => 4,
            Self::Shard(_) => 5,
            Self::Decide { .. } => 6,
            Self::Courier => 7,
            Self::Scanner => 8,
            Self::Gossip => 9,
            Self::Call { .. } => 10,
            Self::Deadline(_) => 11,
            Self::Received(_) => 12,
            Self::Watchdog { .. } => 13,
            Self::Halt => 14,
            Self::Cut(_) => 20,
            Self::Unreachable(_) => 15,
            Self::Copy => 21,
            Self::CopyPatience(_) => 22,
            Self::Arrive(_) => 16,
            Self::Client { .. } => 17,
            Self::Start { .. } => 18,
            Self::Fault(_) => 19,
        }
    }
}

/// Where an event belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    World,
    /// A node, and which of its lives.
    Node {
        node: usize,
        boot: u32,
    },
}

#[derive(Debug)]
pub struct Entry {
    pub at: u64,
    pub seq: u64,
    /// When it was meant to happen; differs from `at` if the node stood still.
    pub due: u64,
    pub to: To,
    pub what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    /// The earliest is the greatest: the heap gives out its greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

#[derive(Debug, Default)]
pub struct Queue {
    heap: BinaryHeap<Entry>,
    seq: u64,
}

impl Queue {
    pub fn push(&mut self, at: u64, to: To, what: What) {
        self.seq += 1;
        self.heap.push(Entry { at, seq: self.seq, due: at, to, what });
    }

    /// Puts an event off; it stays behind what was put off before it.
    pub fn defer(&mut self, mut entry: Entry, at: u64) {
        self.seq += 1;
        (entry.at, entry.seq) = (at, self.seq);
        self.heap.push(entry);
    }

    pub fn pop(&mut self) -> Option<Entry> {
        self.heap.pop()
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

/// When a thread takes its next turn: the earliest wish counts, later ones are covered by it.
#[derive(Debug, Clone, Copy)]
pub struct Wakeup(u64);

impl Default for Wakeup {
    fn default() -> Self {
        Self(u64::MAX)
    }
}

impl Wakeup {
    /// True: an event must be scheduled for this moment.
    pub fn want(&mut self, at: u64) -> bool {
        let sooner = at < self.0;
        if sooner {
            self.0 = at;
        }
        sooner
    }

    /// An event due then has come; false: an earlier turn has made it needless.
    pub fn take(&mut self, due: u64) -> bool {
        let mine = self.0 == due;
        if mine {
            self.0 = u64::MAX;
        }
        mine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_scheduling() {
        let mut queue = Queue::default();
        for (at, node) in [(5, 1), (3, 2), (5, 3), (3, 4)] {
            queue.push(at, To::World, What::Start { node });
        }
        let mut order = Vec::new();
        while let Some(Entry { at, what: What::Start { node }, .. }) = queue.pop() {
            order.push((at, node));
        }
        assert_eq!(order, [(3, 2), (3, 4), (5, 1), (5, 3)]);
    }

    #[test]
    fn the_earliest_wish_wakes() {
        let mut wake = Wakeup::default();
        assert!(wake.want(10));
        assert!(!wake.want(12));
        assert!(wake.want(8));
        assert!(wake.take(8));
        assert!(!wake.take(10), "covered by the earlier turn");
    }
}
