//! Connectors that run beside this node (R-I4): started with it, restarted with back-off when they end, ended with it. Their
//! output goes to the node's log, line by line.
//!
//! Invariants:
//! - one process a connector; it never outlives the node, however that ends;
//! - a connector that fails again and again costs a start a minute, and hinders nobody else; from the sixth failure in a row
//!   on the alarm `CONNECTOR_FAILS` stands, until it has run for a minute.

use crate::{
    observability::{
        alarms::{Alarms, kinds::CONNECTOR_FAILS},
        metrics::Sample,
    },
    settings::ConnectorSection,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io,
    os::unix::process::CommandExt,
    process::Stdio,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

/// Pause before a restart: doubled each time, begun anew once it ran for [`STEADY`].
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
const STEADY: Duration = Duration::from_secs(60);
/// How long a connector may take to settle what it has when it is told to end.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of one line of output that are logged; the rest of it is left out.
const LINE_MAX: usize = 4 * 1024;
/// Failures in a row from which on somebody is told: half a minute of tries.
const FAILURES_TOLD: u32 = 6;

/// How this node's connectors get on. One place for all of them, because one alarm of a kind stands at a time.
pub struct Connectors {
    alarms: Arc<Alarms>,
    shown: Mutex<BTreeMap<String, Shown>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    running: bool,
    /// Tries, those included that came to nothing.
    starts: u64,
    /// In a row, each before it had run for [`STEADY`].
    failures: u32,
}

impl Connectors {
    pub fn new(alarms: Arc<Alarms>) -> Self {
        Self { alarms, shown: Mutex::default() }
    }

    fn note(&self, name: &str, change: impl FnOnce(&mut Shown)) {
        let mut shown = self.shown.lock();
        change(shown.entry(name.to_owned()).or_default());
        let failing: Vec<&str> = shown
            .iter()
            .filter(|(_, of)| of.failures >= FAILURES_TOLD)
            .map(|(name, _)| name.as_str())
            .collect();
        let reason = format!("connectors that end again and again: {}", failing.join(", "));
        self.alarms.set(CONNECTOR_FAILS, (!failing.is_empty()).then_some(reason));
    }

    pub fn figures(&self) -> Vec<Sample> {
        let shown = self.shown.lock();
        let samples = shown.iter().flat_map(|(name, of)| {
            let label = format!("connector=\"{name}\"");
            [
                Sample::labelled("okno_connector_running", label.clone(), f64::from(u8::from(of.running))),
                Sample::labelled("okno_connector_starts_total", label, of.starts as f64),
            ]
        });
        samples.collect()
    }
}

/// Pauses before restarts.
#[derive(Debug)]
struct Pauses(Duration);

impl Pauses {
    /// The one after a process that ran for so long.
    fn next(&mut self, ran: Duration) -> Duration {
        if ran >= STEADY {
            self.0 = PAUSE_MIN;
        }
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

/// Keeps one connector running until `stop`.
pub async fn keep(
    name: String,
    section: ConnectorSection,
    connectors: Arc<Connectors>,
    stop: CancellationToken,
) {
    if section.command.is_empty() {
        return;
    }
    let parent = match Parent::start() {
        Ok(parent) => parent,
        Err(error) => {
            tracing::error!(connector = name, %error, "a connector has no thread to be started from");
            return;
        }
    };
    let mut pauses = Pauses(PAUSE_MIN);
    while !stop.is_cancelled() {
        let began = Instant::now();
        connectors.note(&name, |shown| shown.starts += 1);
        match parent.start_one(&section.command).await {
            Ok(child) => {
                tracing::info!(connector = name, id = child.id(), "a connector was started");
                connectors.note(&name, |shown| shown.running = true);
                run(&name, child, &connectors, &stop).await;
                connectors.note(&name, |shown| shown.running = false);
            }
            Err(error) => tracing::error!(connector = name, %error, "a connector cannot be started"),
        }
        if stop.is_cancelled() {
            return;
        }
        let ran = began.elapsed();
        if ran < STEADY {
            connectors.note(&name, |shown| shown.failures = shown.failures.saturating_add(1));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pauses.next(ran)) => {}
        }
    }
}

/// What a parent is asked to start, and whom it tells.
type Order = (Vec<String>, oneshot::Sender<io::Result<Child>>);

/// The thread that connectors are children of. The kernel ends them with it, so it must live as long as they may: a thread
/// of the runtime that has blocked in place gives its work to another and is dismissed some time later.
struct Parent {
    orders: mpsc::Sender<Order>,
}

impl Parent {
    fn start() -> io::Result<Self> {
        let (orders, taken) = mpsc::channel::<Order>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("connector".to_owned()).spawn(move || {
            let _within = runtime.enter();
            // Until the keeper has gone, who has waited for the last child by then.
            for (command, told) in taken {
                // One that nobody waits for any more is killed on being dropped.
                let _ = told.send(start(&command));
            }
        })?;
        Ok(Self { orders })
    }

    async fn start_one(&self, command: &[String]) -> io::Result<Child> {
        let (told, started) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts connectors is gone");
        self.orders.send((command.to_vec(), told)).map_err(|_| gone())?;
        started.await.map_err(|_| gone())?
    }
}

fn start(command: &[String]) -> io::Result<Child> {
    let (program, arguments) =
        command.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut command = std::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The node's own settings are none of a connector's.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(crate::settings::ENV_PREFIX) {
            command.env_remove(name);
        }
    }
    command.process_group(0);
    die_with_the_node(&mut command);
    Command::from(command).kill_on_drop(true).spawn()
}

async fn run(name: &str, mut child: Child, connectors: &Connectors, stop: &CancellationToken) {
    let lines = [
        child.stdout.take().map(|out| tokio::spawn(log(name.to_owned(), out))),
        child.stderr.take().map(|out| tokio::spawn(log(name.to_owned(), out))),
    ];
    let steady = async {
        tokio::time::sleep(STEADY).await;
        connectors.note(name, |shown| shown.failures = 0);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = child.wait() => match ended {
            Ok(status) => tracing::warn!(connector = name, %status, "a connector ended"),
            Err(error) => tracing::error!(connector = name, %error, "a connector cannot be waited for"),
        },
        () = steady => {}
        () = stop.cancelled() => {
            terminate(&child);
            if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err() {
                tracing::warn!(connector = name, "a connector did not end in time and is killed");
                if let Err(error) = child.kill().await {
                    tracing::error!(connector = name, %error, "a connector cannot be killed");
                }
            }
        }
    }
    for lines in lines.into_iter().flatten() {
        // What it started may hold the pipe open; nobody waits for that.
        lines.abort();
    }
}

/// Logs what a connector writes, a line at a time.
async fn log(connector: String, mut from: impl AsyncRead + Unpin) {
    let mut line = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = match from.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        for byte in &piece[..read] {
            if *byte == b'\n' {
                tell(&connector, &line);
                line.clear();
            } else if line.len() < LINE_MAX {
                line.push(*byte);
            }
        }
    }
    tell(&connector, &line);
}

fn tell(connector: &str, line: &[u8]) {
    if !line.is_empty() {
        tracing::info!(target: "okno::connector", connector, "{}", String::from_utf8_lossy(line));
    }
}

/// Asks a process and what it started to end.
#[allow(unsafe_code)]
fn terminate(child: &Child) {
    let Some(group) = child.id().and_then(|id| libc::pid_t::try_from(id).ok()) else { return };
    // SAFETY: kill(2) touches no memory of ours; the child was not waited for, so the group is still its own.
    if unsafe { libc::kill(-group, libc::SIGTERM) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(group, %error, "a connector cannot be asked to end");
    }
}

/// The kernel kills the process when the thread that started it ends: with the node, whatever way that goes.
#[allow(unsafe_code)]
fn die_with_the_node(command: &mut std::process::Command) {
    let node = std::process::id();
    // SAFETY: between fork and exec only prctl and getppid are called, which are async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The node may have gone before the kernel was asked.
            if u32::try_from(libc::getppid()).is_ok_and(|parent| parent == node) {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connectors() -> Arc<Connectors> {
        Arc::new(Connectors::new(Arc::default()))
    }

    fn figure(connectors: &Connectors, family: &str) -> f64 {
        let figures = connectors.figures();
        figures.iter().find(|sample| sample.name == family).map_or(-1.0, |sample| sample.value)
    }

    fn shell(script: &str) -> ConnectorSection {
        ConnectorSection { command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec() }
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(30), "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_connector_that_ends_is_started_again_and_ends_with_the_node() {
        let folder = tempfile::tempdir().expect("a folder");
        let [starts, listens, ended] = ["starts", "listens", "ended"].map(|name| folder.path().join(name));
        // Ends by itself once, then runs until it is asked to end, which it notes.
        let script = format!(
            "echo x >> {starts}; if [ $(wc -l < {starts}) -lt 2 ]; then exit 3; fi; \
             trap 'touch {ended}; exit 0' TERM; touch {listens}; while :; do sleep 0.05; done",
            starts = starts.display(),
            listens = listens.display(),
            ended = ended.display(),
        );
        let stop = CancellationToken::new();
        let shown = connectors();
        let keeper = tokio::spawn(keep("egrn".into(), shell(&script), shown.clone(), stop.clone()));
        let count = || std::fs::read_to_string(&starts).map_or(0, |text| text.lines().count());
        until("it is started again", || count() == 2).await;
        until("it listens", || listens.exists()).await;
        until("it is told", || figure(&shown, "okno_connector_running") == 1.0).await;
        stop.cancel();
        keeper.await.expect("the keeper ends");
        assert!(ended.exists(), "it was asked, not killed");
        assert_eq!(count(), 2);
        assert_eq!(figure(&shown, "okno_connector_starts_total"), 2.0);
        assert_eq!(figure(&shown, "okno_connector_running"), 0.0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_does_not_listen_is_killed() {
        let folder = tempfile::tempdir().expect("a folder");
        let ready = folder.path().join("ready");
        let script = format!("trap '' TERM; touch {}; while :; do sleep 0.05; done", ready.display());
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(keep("deaf".into(), shell(&script), connectors(), stop.clone()));
        until("it runs", || ready.exists()).await;
        stop.cancel();
        tokio::time::timeout(END_WITHIN * 3, keeper).await.expect("in time").expect("the keeper ends");
    }
    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_a_steady_run() {
        let mut pauses = Pauses(PAUSE_MIN);
        let soon = Duration::from_millis(10);
        let seconds: Vec<u64> = (0..8).map(|_| pauses.next(soon).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pauses.next(STEADY), PAUSE_MIN);
        assert_eq!(pauses.next(soon), PAUSE_MIN * 2);
    }

    #[test]
    fn who_fails_again_and_again_is_told_of_until_it_is_steady() {
        let alarms = Arc::new(Alarms::default());
        let connectors = Connectors::new(alarms.clone());
        let fail = |name: &str| connectors.note(name, |shown| shown.failures += 1);
        for _ in 1..FAILURES_TOLD {
            fail("egrn");
            fail("fns");
        }
        assert!(alarms.list().is_empty(), "a restart or two are nobody's concern");
        fail("egrn");
        let reason = || alarms.list().first().map(|standing| standing.alarm.reason.clone());
        assert_eq!(reason().as_deref(), Some("connectors that end again and again: egrn"));
        fail("fns");
        connectors.note("egrn", |shown| shown.failures = 0);
        assert_eq!(reason().as_deref(), Some("connectors that end again and again: fns"));
        connectors.note("fns", |shown| shown.failures = 0);
        assert!(alarms.list().is_empty());
        for sample in connectors.figures() {
            assert!(crate::observability::described::find(&sample.name).is_some(), "{}", sample.name);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_program_that_is_not_there_hinders_nobody() {
        let (stop, shown) = (CancellationToken::new(), connectors());
        let section = ConnectorSection { command: vec!["/nowhere/okno-https".into()] };
        let keeper = tokio::spawn(keep("absent".into(), section, shown.clone(), stop.clone()));
        until("it is tried again", || figure(&shown, "okno_connector_starts_total") >= 2.0).await;
        assert_eq!(figure(&shown, "okno_connector_running"), 0.0);
        stop.cancel();
        // In the middle of a pause.
        tokio::time::timeout(Duration::from_secs(5), keeper)
            .await
            .expect("at once")
            .expect("the keeper ends");
    }

    /// A thread of the runtime that blocks in place gives its work away and is dismissed.
    #[test]
    fn it_lives_on_when_a_thread_of_the_runtime_ends() {
        let keep_alive = Duration::from_millis(20);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_keep_alive(keep_alive)
            .enable_all()
            .build()
            .expect("a runtime");
        let (stop, shown) = (CancellationToken::new(), connectors());
        let keeper = keep("egrn".into(), shell("exec sleep 600"), shown.clone(), stop.clone());
        let keeper = runtime.spawn(keeper);
        runtime.block_on(async {
            until("it runs", || figure(&shown, "okno_connector_running") == 1.0).await;
            for _ in 0..3 {
                let blocked =
                    async move { tokio::task::block_in_place(|| std::thread::sleep(keep_alive * 5)) };
                tokio::spawn(blocked).await.expect("it does not panic");
                tokio::time::sleep(keep_alive * 5).await;
            }
            assert_eq!(figure(&shown, "okno_connector_running"), 1.0);
            assert_eq!(figure(&shown, "okno_connector_starts_total"), 1.0, "never started again");
            stop.cancel();
            keeper.await.expect("the keeper ends");
        });
    }
}
