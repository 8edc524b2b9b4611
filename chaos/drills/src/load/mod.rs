//! The load of a drill: officers, visitors and readers at work, everything they asked and learned recorded.
//!
//! | module | does |
//! |---|---|
//! | [`record`] | what was asked and learned: the history, acknowledged writes, errors, what is still open |
//! | [`officers`] | who works, and at what |
//! | [`translate`] | the wire's words and the checkers' |
//! | [`hall`] | an office's hall at work, with a ledger of its own |
//! | [`journal`] | an office's journal, and what no ticket's way may hold |
//! | [`exchange`] | cases that ask a channel, with a ledger of their own |
//! | [`finals`] | what each node's own store holds in the end |
//!
//! Errors do not stop it: they are counted, and calls whose outcome is unknown are repeated under the same request id
//! once the fault is over ([`Load::finish`]).

pub mod exchange;
pub mod finals;
pub mod hall;
pub mod journal;
pub mod officers;
pub mod record;
pub mod translate;

use crate::harness::cluster::Cluster;
use record::Recorder;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Writers end after the call they are in; one call ends within its deadline.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Who is at work.
#[derive(Debug, Clone, Copy)]
pub struct Staff {
    /// Officers with cases of their own.
    pub writers: usize,
    /// Officers who work at the same cases at the same time.
    pub sharers: usize,
    /// Readers of everybody's cases, from all nodes in turn.
    pub readers: usize,
    /// The queue of an office: a kiosk, windows, a board.
    pub queue: bool,
    /// Between two calls of one person.
    pub pause: Duration,
}

impl Default for Staff {
    fn default() -> Self {
        Self { writers: 6, sharers: 3, readers: 2, queue: true, pause: Duration::from_millis(8) }
    }
}

/// People at work.
pub struct Load {
    pub(crate) recorder: Arc<Recorder>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(cluster: &Cluster, staff: &Staff, seed: u64) -> Self {
        let recorder = Arc::new(Recorder::new());
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = officers::hire(cluster, staff, seed, &recorder, &stop);
        Self { recorder, stop, tasks }
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.recorder.acknowledged()
    }

    /// How long after a moment the first write begun since was acknowledged.
    pub fn first_write_after(&self, moment: Instant) -> Option<Duration> {
        self.recorder.first_write_after(moment)
    }

    /// Ends the work, and learns what became of every call whose outcome is open: those that stay open are returned in
    /// words.
    pub async fn finish(&mut self, settle_within: Duration) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut problems = Vec::new();
        let until = Instant::now() + STOP_WITHIN;
        for task in &mut self.tasks {
            let left = until.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, &mut *task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => problems.push(format!("somebody at work failed: {error}")),
                Err(_) => {
                    task.abort();
                    problems.push("somebody at work did not end".to_owned());
                }
            }
        }
        self.tasks.clear();
        problems.extend(self.recorder.settle(settle_within).await);
        problems
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
