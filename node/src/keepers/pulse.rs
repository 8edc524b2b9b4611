//! Whether the node's threads get on: fed to systemd's watchdog and shown by `/livez`.
//!
//! systemd must end a process that hangs, and a timer of its own would tell it nothing. What counts is that the raft thread
//! makes turns, that apply gets on while there is something to apply, and that every shard answers; that this
//! task runs at all shows that the network threads turn. A quarantined node has no such threads, and is up to say why.

use okno_cluster::{
    ClusterHandle, NodePhase,
    api::{Proposer, Role},
    handle::Progress,
};
use okno_runtime::Gateway;
use parking_lot::Mutex;
use sd_notify::NotifyState;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// The raft thread ticks twenty times a second.
const RAFT_WITHIN: Duration = Duration::from_secs(1);
/// A slice is a few megabytes; a store that slows writes down holds one for seconds.
const APPLY_WITHIN: Duration = Duration::from_secs(10);
/// Shards are woken every second.
const SHARDS_WITHIN: Duration = Duration::from_secs(5);
/// A node that stands still for so long is not live: longer than an append may take before the disk counts as hung.
const DEAD_AFTER: Duration = Duration::from_secs(15);
/// How often is looked, unless systemd asks for more.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A start may take longer than systemd's patience: a large log is replayed. It is asked for this much at a time, and for
/// no more than so much in all.
const START_STEP: Duration = Duration::from_secs(30);
const START_MAX: Duration = Duration::from_secs(30 * 60);

/// What was seen last, and since when it has been the same.
#[derive(Debug)]
struct Seen<T> {
    value: T,
    since: Instant,
}

impl<T: PartialEq> Seen<T> {
    /// For how long this has been so.
    fn same_for(&mut self, value: T, now: Instant) -> Duration {
        if value != self.value {
            *self = Self { value, since: now };
        }
        now.saturating_duration_since(self.since)
    }
}

/// Compares what the threads do with what they did. Invariant: a thread that has nothing to do counts as getting on.
#[derive(Debug)]
struct Pulse {
    turns: Seen<u64>,
    applied: Seen<u64>,
    shards: Vec<Seen<u64>>,
}

impl Pulse {
    fn new(now: Instant) -> Self {
        let seen = || Seen { value: 0, since: now };
        Self { turns: seen(), applied: seen(), shards: Vec::new() }
    }

    /// `Err` says what stands still.
    fn beat(&mut self, cluster: Progress, shards: &[u64], now: Instant) -> Result<(), String> {
        if !cluster.runs {
            *self = Self::new(now);
            return Ok(());
        }
        let mut stuck = Vec::new();
        let still = self.turns.same_for(cluster.turns, now);
        if still > RAFT_WITHIN {
            stuck.push(format!("the raft thread made no turn for {still:.1?}"));
        }
        let behind = cluster.committed > cluster.applied;
        let still = self.applied.same_for(cluster.applied, now);
        if !behind {
            self.applied.since = now;
        } else if still > APPLY_WITHIN {
            stuck.push(format!(
                "apply stands at {} of {} for {still:.1?}",
                cluster.applied, cluster.committed
            ));
        }
        if self.shards.len() != shards.len() {
            self.shards = shards.iter().map(|turns| Seen { value: *turns, since: now }).collect();
        }
        for (place, (seen, turns)) in self.shards.iter_mut().zip(shards).enumerate() {
            let still = seen.same_for(*turns, now);
            if still > SHARDS_WITHIN {
                stuck.push(format!("shard {place} answers nothing for {still:.1?}"));
            }
        }
        if stuck.is_empty() { Ok(()) } else { Err(stuck.join("; ")) }
    }
}

/// How the node got on when it was last looked at.
#[derive(Debug, Default)]
pub struct Life(Mutex<Option<(Instant, String)>>);

impl Life {
    /// What `/livez` says: a stall is forgiven for a while, because ending the process costs more.
    pub fn check(&self) -> Result<(), String> {
        match &*self.0.lock() {
            Some((since, why)) if since.elapsed() >= DEAD_AFTER => Err(why.clone()),
            _ => Ok(()),
        }
    }

    fn note(&self, outcome: &Result<(), String>) {
        let mut stuck = self.0.lock();
        *stuck = match (stuck.take(), outcome) {
            (_, Ok(())) => None,
            (Some((since, _)), Err(why)) => Some((since, why.clone())),
            (None, Err(why)) => {
                tracing::error!(why, "the node stands still");
                Some((Instant::now(), why.clone()))
            }
        };
    }
}

/// Looks, feeds systemd's watchdog while all get on, and tells systemd in a line how the node is.
pub async fn keep(cluster: Arc<ClusterHandle>, gateway: Gateway, life: Arc<Life>, stop: CancellationToken) {
    let mut interval_us = 0;
    let fed = sd_notify::watchdog_enabled(false, &mut interval_us);
    // Four looks within systemd's patience: one that is late ends nothing.
    let every = if fed {
        (Duration::from_micros(interval_us) / 4).clamp(Duration::from_millis(50), LOOK_EVERY)
    } else {
        LOOK_EVERY
    };
    let mut look = tokio::time::interval(every);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut pulse = Pulse::new(Instant::now());
    let mut told = String::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        let outcome = pulse.beat(cluster.progress(), &gateway.shard_turns(), Instant::now());
        life.note(&outcome);
        if fed && outcome.is_ok() {
            tell(&[NotifyState::Watchdog]);
        }
        let line = line(&cluster, &outcome);
        if line != told {
            tell(&[NotifyState::Status(&line)]);
            told = line;
        }
    }
}

/// What `systemctl status` shows.
fn line(cluster: &ClusterHandle, outcome: &Result<(), String>) -> String {
    if let Err(why) = outcome {
        return format!("standing still: {why}");
    }
    match &*cluster.phases().borrow() {
        NodePhase::Serving => {}
        other => return other.line(),
    }
    match cluster.role().role {
        Role::Leader { .. } => "serving, leads".into(),
        Role::Follower { leader: Some(leader) } => format!("serving, node {leader} leads"),
        Role::Follower { leader: None } | Role::Candidate => "serving, no leader is known".into(),
    }
}

/// Tells systemd something, if it listens.
pub fn tell(states: &[NotifyState<'_>]) {
    // Whether it takes it or not changes nothing here.
    let _ = sd_notify::notify(false, states);
}

/// Asks systemd for patience until dropped: a start is under way.
pub struct Starting(tokio::task::JoinHandle<()>);

impl Starting {
    pub fn begin() -> Self {
        Self(tokio::spawn(async {
            let began = Instant::now();
            while began.elapsed() < START_MAX {
                extend();
                tokio::time::sleep(START_STEP / 3).await;
            }
        }))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks for one more step of patience.
pub fn extend() {
    let micros = u32::try_from(START_STEP.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_still_is_named() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut pulse = Pulse::new(start);
        let progress = |turns, committed, applied| Progress { runs: true, turns, committed, applied };
        assert_eq!(pulse.beat(progress(1, 5, 5), &[1, 1], at(0)), Ok(()));
        assert_eq!(pulse.beat(progress(9, 5, 5), &[2, 1], at(900)), Ok(()), "a shard may be late");
        // Idle: nothing to apply for a long time is no standing still.
        for second in 1..30 {
            let beat = pulse.beat(progress(10 + second, 5, 5), &[2 + second, 1 + second], at(second * 1_000));
            assert_eq!(beat, Ok(()));
        }
        let mut late = |turns, committed, applied, shards: [u64; 2], ms| {
            pulse.beat(progress(turns, committed, applied), &shards, at(ms)).err().unwrap_or_default()
        };
        assert_eq!(late(100, 50, 5, [100, 100], 30_000), "");
        assert!(late(100, 50, 5, [101, 101], 31_500).contains("raft thread"));
        assert_eq!(late(101, 50, 5, [102, 102], 32_000), "", "it moves again");
        assert!(late(102, 50, 5, [103, 103], 40_500).contains("apply stands at 5 of 50"));
        assert_eq!(late(103, 50, 6, [104, 104], 41_000), "");
        let stuck = late(104, 6, 6, [105, 104], 46_500);
        assert!(stuck.contains("shard 1") && !stuck.contains("shard 0"), "{stuck}");
    }

    #[test]
    fn a_node_without_threads_is_up_to_say_why() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        let closed = Progress { runs: false, turns: 7, committed: 9, applied: 1 };
        for second in 0..60 {
            assert_eq!(pulse.beat(closed, &[1], start + Duration::from_secs(second)), Ok(()));
        }
    }
}
