//! A disk that does not return silences the heartbeats by itself; this thread tells those who wait, and ends the
//! process, because nothing else can (rule 11).

use super::{fatal::EXIT_IO, hub::Hub};
use crate::api::Unknown;
use std::{
    sync::{Arc, atomic::Ordering::Acquire},
    time::Duration,
};

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two looks; more was no thread's doing.
const STOOD_STILL_MS: u64 = 2_000;

pub fn run(hub: &Arc<Hub>) {
    let limit = u64::try_from(hub.settings.disk_hung.as_millis()).unwrap_or(u64::MAX);
    let (mut looked, mut awake_since) = (hub.now_ms(), 0);
    while !hub.stopped.load(Acquire) {
        std::thread::sleep(LOOK_EVERY);
        let now = hub.now_ms();
        // The whole process stood still (SIGSTOP, a paused machine): the disk had no more time to answer than this thread to look.
        if now.saturating_sub(looked) > STOOD_STILL_MS {
            awake_since = now;
        }
        looked = now;
        let since = hub.disk_busy_since_ms.load(Acquire);
        if since != 0 && now.saturating_sub(since.max(awake_since)) > limit {
            hub.close_table(Unknown::DiskHung);
            hub.fatal.exit(EXIT_IO, "the disk does not answer: an append has not returned in time");
            return;
        }
    }
}
