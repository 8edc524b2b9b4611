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

use std::time::{Duration, Instant};
use tokio::sync::mpsc;

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

/// The next event for a core, or `tick` once the moment has come at which it wants to be woken. `None`: the queue is closed.
async fn next_event<E>(
    queue: &mut mpsc::UnboundedReceiver<E>,
    wake: Option<u64>,
    now: u64,
    tick: E,
) -> Option<E> {
    let idle = async {
        match wake.map(|at| Duration::from_millis(at.saturating_sub(now))) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        event = queue.recv() => event,
        () = idle => Some(tick),
    }
}
