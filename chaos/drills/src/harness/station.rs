//! Programs beside a cluster that are processes of their own, to be killed or stopped: workstations and connectors. What
//! they do stands in [`crate::programs`].

use crate::harness::channel::CHANNEL;
use crate::harness::cluster::{Cluster, Pair, bare};
use crate::harness::process::Process;
use crate::harness::{POLL, in_time};
use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines that are kept of one program: far more than one says in the longest drill.
const LINES_MAX: usize = 200_000;

/// A program that says what it does, a line each.
pub struct Player {
    process: Process,
    lines: Arc<Mutex<Vec<String>>>,
    /// Lines that were waited for already.
    read: Cell<usize>,
}

impl Player {
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = Path::new(command.get_program()).file_name().map(OsStr::to_owned).unwrap_or_default();
        let mut process = Process::start(command, &program.to_string_lossy()).expect("it can be started");
        let (out, errors) = process.take_output().expect("its output is a pipe");
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        keep(out, &lines);
        keep(errors, &lines);
        Self { process, lines, read: Cell::new(0) }
    }

    /// Everything it has said that begins so, without the beginning.
    pub fn said(&self, begins: &str) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter_map(|line| line.strip_prefix(begins)).map(|rest| rest.trim().to_owned()).collect()
    }

    /// Whether it has said a line that holds all of these.
    pub fn has_said(&self, parts: &[&str]) -> bool {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().any(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// The next line that begins so, of those that were not waited for yet; returns the rest of it.
    fn next(&self, begins: &str) -> Option<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// SIGSTOP: its connections stay open, and nothing is said on them.
    pub fn pause(&self) {
        self.process.signal(libc::SIGSTOP);
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

/// Keeps what is read until the pipe ends, as it does with the process.
fn keep(from: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let kept = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < LINES_MAX {
                kept.push(line);
            }
        }
    });
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
