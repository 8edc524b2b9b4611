//! The only place of this crate where clocks and randomness come in. The core gets them as parameters.
#![allow(clippy::disallowed_methods, reason = "this is where they enter")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock.
pub fn monotonic() -> Instant {
    Instant::now()
}

/// The wall clock, milliseconds since the Unix epoch; 0 for a clock before it.
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Never the same twice for one node, with certainty enough: names a boot.
pub fn boot_id() -> u64 {
    rand::random()
}

/// From `[0, 1)`, to keep nodes from acting in step.
pub fn jitter() -> f64 {
    rand::random()
}
