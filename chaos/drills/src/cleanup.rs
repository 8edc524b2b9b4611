//! What must be undone whatever happens: nodes, mounts, namespaces, frozen file systems, folders.
//!
//! Invariants: an action runs exactly once — when its guard is dropped, or when the program is told to end, whichever
//! comes first; it is registered **before** the thing it undoes is done, so that no moment is left uncovered; the
//! newest runs first. Actions must bear that there is nothing to undo yet.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// Ended by a signal: as shells count it, 128 + SIGINT.
pub const EXIT_INTERRUPTED: i32 = 130;
/// Actions that another thread has begun are given this long before the program ends anyway.
const UNDER_WAY_WITHIN: Duration = Duration::from_secs(15);

type Action = Box<dyn FnOnce() + Send>;

struct Registry {
    next: u64,
    actions: BTreeMap<u64, (String, Action)>,
    /// Actions that run now.
    running: usize,
    ending: bool,
}

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { next: 0, actions: BTreeMap::new(), running: 0, ending: false });
static FINISHED: Condvar = Condvar::new();

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Undoes one thing when it is dropped.
#[derive(Debug)]
#[must_use = "dropped at once, it undoes at once"]
pub struct Guard {
    id: u64,
}

impl Guard {
    /// Undoes now.
    pub fn run(self) {
        drop(self);
    }

    /// Nothing is left to undo.
    pub fn disarm(self) {
        registry().actions.remove(&self.id);
        std::mem::forget(self);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some((_, action)) = take(Some(self.id)) else { return };
        perform(action);
    }
}

/// Registers what undoes the thing that is about to be done.
pub fn register(what: impl Into<String>, action: impl FnOnce() + Send + 'static) -> Guard {
    let mut registry = registry();
    while registry.ending {
        // The program ends; nothing new may begin. The thread that ends it does not wait for this one.
        registry = FINISHED.wait(registry).unwrap_or_else(PoisonError::into_inner);
    }
    let id = registry.next;
    registry.next += 1;
    registry.actions.insert(id, (what.into(), Box::new(action)));
    Guard { id }
}

/// What is registered now, oldest first.
pub fn registered() -> Vec<String> {
    registry().actions.values().map(|(what, _)| what.clone()).collect()
}

/// Takes an action out, to be run by whoever took it.
fn take(id: Option<u64>) -> Option<(String, Action)> {
    let mut registry = registry();
    let taken = match id {
        Some(id) => registry.actions.remove(&id),
        None => registry.actions.pop_last().map(|(_, entry)| entry),
    };
    registry.running += usize::from(taken.is_some());
    taken
}

fn perform(action: Action) {
    struct Done;
    impl Drop for Done {
        fn drop(&mut self) {
            registry().running -= 1;
            FINISHED.notify_all();
        }
    }
    let _done = Done;
    // One that fails must not keep the others from running; its message has gone to standard error.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(action));
}

/// Runs everything that is registered, newest first, and waits for what others have begun.
pub fn run_all() {
    registry().ending = true;
    while let Some((what, action)) = take(None) {
        eprintln!("cleaning up: {what}");
        perform(action);
    }
    let until = Instant::now() + UNDER_WAY_WITHIN;
    let mut registry = registry();
    while registry.running > 0 && Instant::now() < until {
        registry =
            FINISHED.wait_timeout(registry, UNDER_WAY_WITHIN).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP clean up before they end the program.
pub fn on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let watch = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime of one thread can be made");
            runtime.block_on(async {
                use tokio::signal::unix::{SignalKind, signal};
                let listen = |kind| signal(kind).expect("handlers of common signals can be set");
                let mut interrupt = listen(SignalKind::interrupt());
                let mut terminate = listen(SignalKind::terminate());
                let mut hang_up = listen(SignalKind::hangup());
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
            });
            eprintln!("interrupted");
            run_all();
            std::process::exit(EXIT_INTERRUPTED);
        };
        std::thread::Builder::new().name("signals".into()).spawn(watch).expect("a thread can be started");
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_guard_undoes_once_and_a_disarmed_one_never() {
        let times = Arc::new(AtomicU32::new(0));
        let count = |name: &str| {
            let times = Arc::clone(&times);
            register(name, move || {
                times.fetch_add(1, Ordering::SeqCst);
            })
        };
        let first = count("undone by hand");
        assert!(registered().contains(&"undone by hand".to_owned()));
        first.run();
        assert_eq!(times.load(Ordering::SeqCst), 1);
        drop(count("undone by its end"));
        assert_eq!(times.load(Ordering::SeqCst), 2);
        count("not needed any more").disarm();
        assert_eq!(times.load(Ordering::SeqCst), 2);
        assert!(
            !registered().iter().any(|what| what.starts_with("undone") || what.starts_with("not needed"))
        );
    }

    #[test]
    fn an_action_that_panics_harms_nobody() {
        drop(register("a bad one", || panic!("it cannot be undone")));
        assert!(!registered().contains(&"a bad one".to_owned()));
    }
}
