//! System calls that fail, take long or end the process, by `strace`'s tampering.
//!
//! strace attaches to the threads that matter while they run: the raft thread alone syncs the log and `identity`, and
//! a thread nobody traces runs at full speed.
//!
//! Invariants: the tracer is gone with its value, also when the drill is interrupted, and detaches then; whether the
//! fault happened is read from its own record.

use crate::cleanup::{self, Guard};
use crate::harness::process;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The thread that syncs log and identity.
pub const RAFT_THREAD: &str = "okno-raft";
const ATTACHED_WITHIN: Duration = Duration::from_secs(10);
/// Calls of either name make a write durable.
pub const SYNCS: &str = "fdatasync,fsync";

/// Which threads are traced.
#[derive(Debug, Clone, Copy)]
pub enum Threads<'a> {
    Named(&'a str),
    All,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy)]
pub enum Tamper {
    /// It fails with EIO, nothing done; from the `first`-th on, as often as said.
    Eio { first: u32, times: u32 },
    /// It begins only after this time.
    Delay(Duration),
    /// The process is killed at the call, before it is done.
    Kill { at: u32 },
}

/// A tracer at work.
pub struct Tracer {
    child: Option<Child>,
    record: PathBuf,
    guard: Option<Guard>,
}

impl Tracer {
    /// Tampers with calls of a running process; `record` is a new file. Returns once every thread is attached to, or
    /// once the process is gone.
    pub async fn attach(
        process: u32,
        threads: Threads<'_>,
        calls: &str,
        tamper: Tamper,
        record: &Path,
    ) -> Self {
        let what = match tamper {
            Tamper::Eio { first, times } => format!("error=EIO:when={first}..{}", first + times - 1),
            Tamper::Delay(time) => format!("delay_enter={}", time.as_micros()),
            Tamper::Kill { at } => format!("signal=KILL:when={at}"),
        };
        let messages = record.with_extension("messages");
        let errors = std::fs::File::create(&messages).expect("the drill's folder is writable");
        let mut command = Command::new("strace");
        command.arg("-o").arg(record).args(["-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:{what}")]);
        match threads {
            Threads::Named(name) => {
                command.args(["-p", &thread(process, name).to_string()]);
            }
            Threads::All => {
                command.args(["-f", "-p", &process.to_string()]);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let child = command.spawn().expect("strace was looked for before");
        let guard = cleanup::register("a tracer", {
            let id = process_id(&child);
            move || {
                // Gone already, or killed now: its threads are detached and run on either way.
                let _ = process::send(id, libc::SIGKILL);
            }
        });
        let mut tracer = Self { child: Some(child), record: record.to_owned(), guard: Some(guard) };
        let until = Instant::now() + ATTACHED_WITHIN;
        loop {
            let said = std::fs::read_to_string(&messages).unwrap_or_default();
            if said.contains("attached") {
                return tracer;
            }
            let ended =
                tracer.child.as_mut().expect("not ended").try_wait().expect("a child can be asked for");
            assert!(
                ended.is_none() && Instant::now() < until,
                "strace did not attach to process {process}: {said}"
            );
            tokio::time::sleep(crate::harness::POLL).await;
        }
    }

    /// Calls that were tampered with so far, by strace's own record.
    pub fn injected(&self) -> u64 {
        let text = std::fs::read(&self.record).unwrap_or_default();
        count(&String::from_utf8_lossy(&text))
    }

    /// Calls to `killed by SIGKILL` in the record: the process ended under the tracer.
    pub fn killed(&self) -> bool {
        let text = std::fs::read(&self.record).unwrap_or_default();
        String::from_utf8_lossy(&text).contains("killed by SIGKILL")
    }

    /// Detaches; returns how many calls were tampered with.
    pub fn detach(mut self) -> u64 {
        self.end();
        self.injected()
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SIGTERM makes strace detach, so that its threads are not left standing; it may have ended before.
            if child.try_wait().ok().flatten().is_none() {
                let _ = process::send(process_id(&child), libc::SIGTERM);
            }
            let _ = child.wait();
        }
        // Its process id may be another's from now on.
        if let Some(guard) = self.guard.take() {
            guard.disarm();
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.end();
    }
}

fn process_id(child: &Child) -> libc::pid_t {
    libc::pid_t::try_from(child.id()).expect("process ids are small")
}

fn count(record: &str) -> u64 {
    let tampered = |line: &&str| line.contains("(INJECTED)") || line.contains("(DELAYED)");
    record.lines().filter(tampered).count() as u64
}

/// The thread of a process by its name.
pub fn thread(process: u32, name: &str) -> u32 {
    let tasks = PathBuf::from(format!("/proc/{process}/task"));
    let entries = std::fs::read_dir(&tasks).unwrap_or_else(|error| panic!("{}: {error}", tasks.display()));
    entries
        .filter_map(Result::ok)
        .find(|entry| {
            std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        })
        .and_then(|entry| entry.file_name().to_string_lossy().parse().ok())
        .unwrap_or_else(|| panic!("process {process} has no thread {name}"))
}
