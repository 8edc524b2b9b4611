//! Programs beside a cluster that are processes of their own, to be killed or stopped: workstations and connectors. What
//! they do stands in [`crate::programs`].

use crate::harness::channel::CHANNEL;
use crate::harness::cluster::{Cluster, Pair, bare};
use crate::harness::process::Process;
use crate::harness::{POLL, eventually, in_time};
use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines that are kept of one program: far more than one says in the longest drill.
const LINES_MAX: usize = 200_000;
/// A thread that waits for its disk stops when that has answered.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// A program that says what it does, a line each.
pub struct Player {
    process: Process,
    heard: Arc<Heard>,
    /// Lines that were waited for already.
    read: Cell<usize>,
}

impl Player {
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = Path::new(command.get_program()).file_name().map(OsStr::to_owned).unwrap_or_default();
        let mut process = Process::start(command, &program.to_string_lossy()).expect("it can be started");
        let (out, errors) = process.take_output().expect("its output is a pipe");
        let pipes = [OwnedFd::from(out), OwnedFd::from(errors)].map(|pipe| Pipe::new(pipe.into()));
        let heard = Arc::new(Heard { pipes, lines: Mutex::default() });
        for pipe in 0..heard.pipes.len() {
            let heard = Arc::clone(&heard);
            std::thread::spawn(move || heard.listen(pipe));
        }
        Self { process, heard, read: Cell::new(0) }
    }

    /// Everything it has said that begins so, without the beginning.
    pub fn said(&self, begins: &str) -> Vec<String> {
        let lines = self.heard.lines();
        lines.iter().filter_map(|line| line.strip_prefix(begins)).map(|rest| rest.trim().to_owned()).collect()
    }

    /// Whether it has said a line that holds all of these.
    pub fn has_said(&self, parts: &[&str]) -> bool {
        let lines = self.heard.lines();
        lines.iter().any(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// The next line that begins so, of those that were not waited for yet; returns the rest of it.
    fn next(&self, begins: &str) -> Option<String> {
        let lines = self.heard.lines();
        let (place, rest) = lines
            .iter()
            .enumerate()
            .skip(self.read.get())
            .find_map(|(place, line)| Some((place, line.strip_prefix(begins)?)))?;
        self.read.set(place + 1);
        Some(rest.trim().to_owned())
    }

    /// Waits for a line that begins so; returns the rest of it. Holds its thread up.
    pub fn wait_for(&self, begins: &str, within: Duration) -> String {
        let until = Instant::now() + within;
        loop {
            if let Some(rest) = self.next(begins) {
                return rest;
            }
            assert!(Instant::now() < until, "the program did not say {begins:?} within {within:?}");
            std::thread::sleep(POLL);
        }
    }

    /// As [`Player::wait_for`], without holding up other tasks.
    pub async fn says(&self, begins: &str, within: Duration) -> String {
        let heard = in_time("a line", within, async || self.next(begins).ok_or(begins)).await;
        heard.unwrap_or_else(|objection| panic!("the program did not say it: {objection}"))
    }

    /// SIGSTOP: its connections stay open, and nothing is said on them. When this returns every thread of it stands still,
    /// and everything that it wrote before has been heard.
    pub async fn pause(&self) {
        self.process.signal(libc::SIGSTOP);
        eventually("it stands still", STOPS_WITHIN, async || {
            if self.process.stands_still() { Ok(()) } else { Err("a thread goes on") }
        })
        .await;
        for pipe in 0..self.heard.pipes.len() {
            self.heard.take(pipe);
        }
    }

    pub fn resume(&self) {
        self.process.signal(libc::SIGCONT);
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.kill();
        self.process.wait();
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().is_some()
    }
}

/// What a program says: its pipes, and the lines that came out of them.
struct Heard {
    pipes: [Pipe; 2],
    lines: Mutex<Vec<String>>,
}

/// Reading does not wait ([`Pipe::readable`] does), so that whoever holds `reading` can take all there is and know it.
struct Pipe {
    file: File,
    /// The beginning of a line whose end has not come.
    reading: Mutex<Vec<u8>>,
}

impl Heard {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears a pipe until it ends, as it does with the process.
    fn listen(&self, pipe: usize) {
        while self.pipes[pipe].readable(-1) && self.take(pipe) {}
    }

    /// Takes everything that is in the pipe now; false: it has ended.
    fn take(&self, pipe: usize) -> bool {
        let pipe = &self.pipes[pipe];
        let mut begun = pipe.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = [0; 4_096];
        loop {
            match (&pipe.file).read(&mut bytes) {
                Ok(0) => {
                    if !begun.is_empty() {
                        self.keep(&std::mem::take(&mut *begun));
                    }
                    return false;
                }
                Ok(count) => {
                    let mut pieces = bytes[..count].split(|byte| *byte == b'\n');
                    // Each piece but the last one ends a line.
                    begun.extend_from_slice(pieces.next().unwrap_or_default());
                    for piece in pieces {
                        self.keep(&std::mem::replace(&mut *begun, piece.to_vec()));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    fn keep(&self, line: &[u8]) {
        let mut lines = self.lines();
        if lines.len() < LINES_MAX {
            lines.push(String::from_utf8_lossy(line).into_owned());
        }
    }
}

impl Pipe {
    #[allow(unsafe_code)]
    fn new(file: File) -> Self {
        // SAFETY: fcntl(2) with F_SETFL takes a number and touches no memory; the descriptor is open. Only this end of the pipe
        // is concerned: the program writes as before.
        let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        assert!(outcome == 0, "a pipe that does not wait: {}", std::io::Error::last_os_error());
        Self { file, reading: Mutex::default() }
    }

    /// Waits so long (negative: as long as it takes) for something to be read, or for the other end to be closed; false:
    /// neither came.
    #[allow(unsafe_code)]
    fn readable(&self, within_ms: libc::c_int) -> bool {
        let mut asked = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        loop {
            // SAFETY: one pollfd, which lives through the call; the descriptor is open as long as `self`.
            let found = unsafe { libc::poll(&raw mut asked, 1, within_ms) };
            if found >= 0 || std::io::Error::last_os_error().kind() != ErrorKind::Interrupted {
                return found > 0;
            }
        }
    }
}

/// This very program, asked to play a part (`okno-chaos play PART …`): drills need no other binaries for that.
pub fn own(part: &str) -> Command {
    let mut command = bare(&std::env::current_exe().expect("a running program has a file"));
    command.args(["play", part]);
    command
}

/// What every part is told: where the cluster is and who calls.
fn introduce(command: &mut Command, cluster: &Cluster, pair: &Pair) {
    command.arg(&cluster.file.cluster).args([
        &cluster.file.authorities["clients"].certificate,
        &pair.certificate,
        &pair.key,
    ]);
}

fn endpoints(cluster: &Cluster, nodes: &[u64]) -> Vec<String> {
    nodes.iter().map(|node| cluster.entry(*node).clients.to_string()).collect()
}

/// A workstation that is a process of its own.
pub struct StationProcess(Player);

impl StationProcess {
    /// Starts the program of a workstation; it attaches to the given nodes in turn. `program`: the test's
    /// `CARGO_BIN_EXE_workstation`.
    pub fn start(cluster: &Cluster, program: &str, name: &str, nodes: &[u64]) -> Self {
        let pair = cluster.identity("workstation", name);
        Self::start_as(bare(Path::new(program)), cluster, pair, name, nodes)
    }

    /// As [`StationProcess::start`], by another command and with another certificate.
    pub fn start_as(mut command: Command, cluster: &Cluster, pair: &Pair, name: &str, nodes: &[u64]) -> Self {
        introduce(&mut command, cluster, pair);
        command.arg(name).args(endpoints(cluster, nodes));
        Self(Player::start(command))
    }

    pub fn kill(self) {
        self.0.kill();
    }
}

impl std::ops::Deref for StationProcess {
    type Target = Player;

    fn deref(&self) -> &Player {
        &self.0
    }
}

/// The command of a connector on the SDK ([`crate::programs::connector`]), which works on each message for so long; the
/// program comes first.
pub fn connector(cluster: &Cluster, pair: &Pair, works: Duration, nodes: &[u64]) -> Vec<String> {
    let own = std::env::current_exe().expect("a running program has a file");
    let paths = [&own, &cluster.file.authorities["clients"].certificate, &pair.certificate, &pair.key];
    let [own, ca, certificate, key] = paths.map(|path| path.display().to_string());
    let cluster_name = cluster.file.cluster.clone();
    let works = works.as_millis().to_string();
    let mut command = vec![own, "play".into(), "connector".into(), cluster_name, ca, certificate, key];
    command.extend([CHANNEL.to_owned(), works]);
    command.extend(endpoints(cluster, nodes));
    command
}

/// A connector that is a process of the drill's own; what the SDK logs is among what it says.
pub fn start_connector(arguments: &[String]) -> Player {
    let (program, rest) = arguments.split_first().expect("a command has a program");
    let mut command = bare(Path::new(program));
    command.args(rest).env("RUST_LOG", "okno_connectors=info").env("NO_COLOR", "1");
    Player::start(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It writes without a rest; whatever was in the pipe when it was stopped is heard when `pause` returns.
    #[tokio::test]
    async fn what_was_said_before_a_pause_is_heard_when_it_returns() {
        let mut command = Command::new("sh");
        command.args(["-c", "n=0; while :; do n=$((n+1)); echo said $n; echo told $n >&2; done"]);
        let player = Player::start(command);
        for round in 1..=20 {
            player.says("said ", STOPS_WITHIN).await;
            player.pause().await;
            let heard = (player.said("said "), player.said("told "));
            for pipe in &player.heard.pipes {
                assert!(!pipe.readable(0), "round {round}: something was left in the pipe");
            }
            assert_eq!(heard, (player.said("said "), player.said("told ")), "round {round}");
            let last: usize = heard.0.last().expect("it has spoken").parse().expect("a number");
            assert_eq!(heard.0.len(), last, "round {round}: every line, whole");
            player.resume();
        }
        player.kill();
    }
}
