//! How many messages wait between entities (rule 4). The courier counts what has applied; cells ask before they
//! send. The bound is therefore soft by what is in flight, which shards bound.
//!
//! A request counts twice: at its target, and as outstanding at its source until its answer has been consumed.
//! So an answer's place is reserved when its request is sent, and answers need no check of their own.

use ahash::AHashMap;
use okno_storage::commit::{EntityKey, Message};
use parking_lot::Mutex;

/// Requests that may wait for one target: a queue takes some 5,000 a second, so this is a fraction of a second
/// of work, and enough that only a stuck target reaches it.
pub const REQUESTS_PER_TARGET_MAX: u32 = 1_024;
/// Requests without a consumed answer one source may have.
pub const OUTSTANDING_PER_SOURCE_MAX: u32 = 1_024;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Depth {
    waiting: u32,
    outstanding: u32,
}

/// Shared by the courier (writes) and all cells (read). Entities with nothing waiting have no entry.
#[derive(Debug, Default)]
pub struct Depths {
    by_entity: Mutex<AHashMap<EntityKey, Depth>>,
}

impl Depths {
    /// May `source` send another request to `target`?
    pub fn has_room(&self, source: &EntityKey, target: &EntityKey) -> bool {
        let by_entity = self.by_entity.lock();
        by_entity.get(target).is_none_or(|depth| depth.waiting < REQUESTS_PER_TARGET_MAX)
            && by_entity.get(source).is_none_or(|depth| depth.outstanding < OUTSTANDING_PER_SOURCE_MAX)
    }

    /// A message stands in the outbox.
    pub fn add(&self, message: &Message) {
        let mut by_entity = self.by_entity.lock();
        if message.answers.is_some() {
            // It takes over the place its request held: the request's consumption gives one back.
            by_entity.entry(message.key.target.clone()).or_default().outstanding += 1;
        } else {
            by_entity.entry(message.key.target.clone()).or_default().waiting += 1;
            by_entity.entry(message.key.source.clone()).or_default().outstanding += 1;
        }
    }

    /// A message has left the outbox.
    pub fn remove(&self, message: &Message) {
        let mut by_entity = self.by_entity.lock();
        let mut change = |key: &EntityKey, change: fn(&mut Depth)| {
            if let Some(depth) = by_entity.get_mut(key) {
                change(depth);
                if *depth == Depth::default() {
                    by_entity.remove(key);
                }
            }
        };
        if message.answers.is_some() {
            change(&message.key.target, |depth| depth.outstanding = depth.outstanding.saturating_sub(1));
        } else {
            change(&message.key.target, |depth| depth.waiting = depth.waiting.saturating_sub(1));
            change(&message.key.source, |depth| depth.outstanding = depth.outstanding.saturating_sub(1));
        }
    }

    pub fn clear(&self) {
        self.by_entity.lock().clear();
    }

    /// Entities with something waiting, and the deepest.
    pub fn figures(&self) -> (usize, u32) {
        let by_entity = self.by_entity.lock();
        (by_entity.len(), by_entity.values().map(|depth| depth.waiting).max().unwrap_or(0))
    }
}
