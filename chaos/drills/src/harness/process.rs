//! One node's process, or the processes of the command that launched it.
//!
//! Invariants: it dies with the thread that started it, at an interruption, and when it is dropped — with everything it
//! started, stopped or not; a signal meant for the node reaches `okno` itself, whatever stands before it.

use crate::cleanup;
use crate::harness::POLL;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Wrappers between the command and `okno`; a chain longer than this is none of ours.
const WRAPPERS_MAX: usize = 8;

#[derive(Debug)]
pub struct Process {
    child: Child,
    /// As it stands in the process table.
    program: String,
    _guard: cleanup::Guard,
}

impl Process {
    /// Starts a command in a process group of its own. `program`: file name of the node's binary.
    pub fn start(mut command: Command, program: &str) -> std::io::Result<Self> {
        command.process_group(0);
        die_with_parent(&mut command);
        let child = command.spawn()?;
        let group = process_id(child.id());
        let guard = cleanup::register(format!("process group {group} ({program})"), move || {
            let _ = send(-group, libc::SIGKILL);
        });
        Ok(Self { child, program: program.to_owned(), _guard: guard })
    }

    /// The node's own id: below its wrappers, where there are any.
    pub fn id(&self) -> u32 {
        let mut id = self.child.id();
        for _ in 0..WRAPPERS_MAX {
            if runs(id, &self.program) {
                return id;
            }
            let Some(below) = first_child(id) else { break };
            id = below;
        }
        self.child.id()
    }

    /// What it says on both outputs, where these were made pipes; once.
    pub fn take_output(&mut self) -> Option<(ChildStdout, ChildStderr)> {
        Some((self.child.stdout.take()?, self.child.stderr.take()?))
    }

    /// Sends a signal to the node itself.
    pub fn signal(&self, number: i32) {
        let id = process_id(self.id());
        let outcome = send(id, number);
        assert!(outcome.is_ok(), "signal {number} to process {id}: {outcome:?}");
    }

    /// Whether a SIGSTOP has taken hold of it: every thread stands still, and whatever call one of them was in has come to
    /// its end.
    pub fn stands_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id()));
        let states = tasks.into_iter().flatten().map(|entry| {
            let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
            stat.rsplit_once(") ")?.1.chars().next()
        });
        // A thread that cannot be read has ended between two looks: look again.
        let states: Vec<_> = states.collect();
        !states.is_empty() && states.iter().all(|state| matches!(state, Some('T' | 't')))
    }

    /// SIGKILL to the node and its wrappers; does not wait.
    pub fn kill(&mut self) {
        // A group whose processes are all gone is as good as killed.
        let _ = send(-process_id(self.child.id()), libc::SIGKILL);
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a child can be waited for")
    }

    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked for")
    }

    /// Waits for its end without holding up other tasks.
    pub async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = self.try_wait() {
                return Some(status);
            }
            if Instant::now() > until {
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        // It may have been waited for already; either way it is gone after this.
        let _ = self.child.wait();
    }
}

/// A living child of a process, by its program's name, whichever thread has started it.
pub fn child_of(parent: u32, program: &str) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let found = entries.filter_map(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (head, rest) = stat.rsplit_once(')')?;
        let (id, name) = head.split_once(" (")?;
        let own: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
        // A zombie is one no longer.
        (name == program && own == parent && !rest.starts_with(" Z")).then(|| id.parse().ok())?
    });
    found.min()
}

/// Sends a signal to a process that a node has started, found by [`child_of`].
pub fn signal_child(id: u32, number: i32) {
    let outcome = send(process_id(id), number);
    assert!(outcome.is_ok(), "signal {number} to process {id}: {outcome:?}");
}

fn process_id(id: u32) -> libc::pid_t {
    libc::pid_t::try_from(id).expect("process ids are small")
}

/// Whether a process runs this program, by the file behind it or, while it is being replaced, its first argument.
fn runs(id: u32, program: &str) -> bool {
    let file = std::fs::read_link(format!("/proc/{id}/exe"));
    file.is_ok_and(|file| file.file_name().is_some_and(|name| name == program))
}

fn first_child(id: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Sends a signal to a process, or with a negative id to a group.
#[allow(unsafe_code)]
pub(crate) fn send(id: libc::pid_t, number: i32) -> std::io::Result<()> {
    assert!(id != 0 && id != -1, "a signal to everybody");
    // SAFETY: kill(2) touches no memory of ours; the target is a child, or the group of one, that we have not waited
    // for, so the id is still its own.
    if unsafe { libc::kill(id, number) } == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// The kernel kills the child when the thread that started it ends, whatever way it does.
#[allow(unsafe_code)]
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
}
