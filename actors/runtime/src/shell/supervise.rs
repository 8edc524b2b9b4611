//! One-for-one supervision of tasks (design §6): a task that panics is made anew, after a pause that doubles;
//! one that cannot be kept alive ends the process, and systemd starts it again.

use crate::{cell::panic_text, end::End, runtime::Fatal};
use futures::FutureExt;
use std::{
    future::Future,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Restarts within [`WINDOW`] above which the process ends.
const RESTARTS_MAX: usize = 8;
const WINDOW: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Runs `task` until it returns or `stop` is cancelled. `make` builds it from scratch each time: what it needs
/// to know is in storage.
pub async fn supervise<F, T>(name: &'static str, stop: CancellationToken, fatal: Fatal, mut make: F)
where
    F: FnMut() -> T,
    T: Future<Output = Result<(), End>>,
{
    let mut restarts: Vec<Instant> = Vec::new();
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = AssertUnwindSafe(make()).catch_unwind() => ended,
        };
        match ended {
            Ok(Ok(())) => return,
            // Storage failed: no restart mends that (rule 12).
            Ok(Err(end)) => return fatal(end),
            Err(panic) => tracing::error!(task = name, panic = panic_text(&*panic), "task panicked"),
        }
        restarts.retain(|at| at.elapsed() < WINDOW);
        restarts.push(Instant::now());
        if restarts.len() > RESTARTS_MAX {
            let text = format!("{name} panicked {} times within {WINDOW:?}", restarts.len());
            return fatal(End::Failed(text));
        }
        let doublings = u32::try_from(restarts.len() - 1).unwrap_or(0);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep((PAUSE_MIN * 2u32.pow(doublings)).min(PAUSE_MAX)) => {}
        }
    }
}
