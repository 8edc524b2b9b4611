//! Child processes of `okno dev`: the nodes, their logs, and the certainty that none is left behind.
//!
//! Invariants: a node runs at most once at a time; every child dies with this process, however that ends (killed on
//! drop, and by the kernel's parent-death signal should this process be killed itself); children are ended by their
//! own process id only.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long a node may take to hand over leadership, drain and flush after SIGTERM before it is killed.
pub const STOP_WITHIN: Duration = Duration::from_secs(15);

/// One node of the development cluster, running or not.
pub struct NodeProcess {
    pub id: u64,
    binary: PathBuf,
    settings: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl NodeProcess {
    pub fn new(id: u64, binary: &Path, settings: &Path, log: &Path) -> Self {
        Self {
            id,
            binary: binary.to_owned(),
            settings: settings.to_owned(),
            log: log.to_owned(),
            child: None,
        }
    }

    /// Starts `okno serve`; what it says goes to the end of its log.
    pub fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("node {} is running already", self.id);
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening the log {}", self.log.display()))?;
        let errors = log.try_clone().context("sharing a log file")?;
        let mut command = Command::new(&self.binary);
        // A setting in a developer's environment would hold for all nodes at once, over each one's own file.
        for name in foreign_settings() {
            command.env_remove(name);
        }
        command
            .arg("serve")
            .arg("--config")
            .arg(&self.settings)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true);
        let command = die_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("starting {} serve", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// How it ended, if it ended by itself since it was started.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            None => Ok(None),
            Some(child) => child.try_wait().with_context(|| format!("asking after node {}", self.id)),
        }
    }

    /// SIGKILL: no chance to say goodbye. Returns once the process is gone.
    pub async fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().await.with_context(|| format!("killing node {}", self.id))
    }

    /// SIGTERM, and after [`STOP_WITHIN`] SIGKILL. `Ok(None)`: it had to be killed.
    pub async fn stop(&mut self) -> Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else { return Ok(None) };
        if let Some(pid) = child.id() {
            terminate(pid);
        }
        match tokio::time::timeout(STOP_WITHIN, child.wait()).await {
            Ok(status) => Ok(Some(status.with_context(|| format!("waiting for node {}", self.id))?)),
            Err(_) => {
                child.kill().await.with_context(|| format!("killing node {}", self.id))?;
                Ok(None)
            }
        }
    }

    /// The last lines of its log: what a person wants to see when it did not start.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }
}

/// Environment variables that a node would take for settings.
pub fn foreign_settings() -> Vec<std::ffi::OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| name.to_string_lossy().starts_with(crate::settings::ENV_PREFIX)).collect()
}

/// Asks the kernel to kill the child when the thread that starts it ends. `okno dev` starts all children from its
/// main thread (its runtime has no other), so that the thread ends only with the process.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    // SAFETY: between fork and exec only prctl and getppid are called, both async-signal-safe, and nothing is
    // allocated: the error values are made of plain numbers.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            // The parent may have died before the call above took effect.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        })
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(command: &mut Command) -> &mut Command {
    command
}

#[allow(unsafe_code)]
fn terminate(pid: u32) {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    // SAFETY: kill(2) touches no memory of ours. The process is our unreaped child (its handle is held by the
    // caller), so that the id can not have passed to another process.
    unsafe {
        libc::kill(pid, libc::SIGTERM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stand-in for `okno serve`: a shell script that writes its arguments and waits. Another process writes it: what a
    /// neighbouring test forks just then would hold it open for writing, and it could not be run ("text file busy").
    fn script(directory: &Path, body: &str) -> PathBuf {
        let path = directory.join("node.sh");
        let written = std::process::Command::new("/bin/sh")
            .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\""])
            .args([path.as_os_str(), body.as_ref()])
            .status();
        assert!(written.unwrap().success());
        path
    }

    async fn wait_for_log(node: &NodeProcess, text: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !node.log_tail(10).contains(text) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the log never said {text:?}: {}",
                node.log_tail(10)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_node_is_stopped_by_sigterm_and_its_log_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let binary = script(
            directory.path(),
            "trap 'echo bye; exit 0' TERM\necho \"$@\"\nwhile :; do sleep 0.02; done",
        );
        let mut node = NodeProcess::new(1, &binary, Path::new("a.toml"), &directory.path().join("node.log"));
        node.start().unwrap();
        assert!(node.start().is_err(), "a node runs at most once");
        wait_for_log(&node, "serve --config a.toml").await;
        let status = node.stop().await.unwrap().expect("it was not killed");
        assert!(status.success());
        assert!(node.log_tail(1).contains("bye"));
        assert!(!node.is_started());
    }

    #[tokio::test]
    async fn a_killed_node_is_gone_and_can_be_started_again() {
        let directory = tempfile::tempdir().unwrap();
        let binary = script(directory.path(), "echo started; exec sleep 600");
        let mut node = NodeProcess::new(2, &binary, Path::new("a.toml"), &directory.path().join("node.log"));
        node.start().unwrap();
        let pid = node.pid().unwrap();
        wait_for_log(&node, "started").await;
        node.kill().await.unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists() || cfg!(not(target_os = "linux")));
        node.start().unwrap();
        assert_ne!(node.pid().unwrap(), pid);
        node.kill().await.unwrap();
    }

    #[tokio::test]
    async fn a_node_that_ends_by_itself_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let binary = script(directory.path(), "echo no >&2; exit 1");
        let mut node = NodeProcess::new(3, &binary, Path::new("a.toml"), &directory.path().join("node.log"));
        node.start().unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let status = loop {
            if let Some(status) = node.ended().unwrap() {
                break status;
            }
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(status.code(), Some(1));
        assert_eq!(node.log_tail(5), "no");
    }
}
