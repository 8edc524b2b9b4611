//! The shells around the cores: actix actors for shards and entities, supervised tasks for courier and scanner.
//! No other module of the product imports actix (its maintenance is passive; what replaces it replaces this).

pub mod courier;
mod entity;
mod inbox;
mod shard;
pub mod supervise;
pub mod timers;

pub use inbox::{Inbox, Inboxes};
pub use shard::{ShardSinks, Shards, ShardsStart};

use std::time::Instant;

/// The runtime's monotonic clock, in milliseconds since it started: what cores call `now`.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now_ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A moment on this clock; past moments are 0 or now.
    pub fn at_ms(self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.0).as_millis()).unwrap_or(u64::MAX)
    }
}
