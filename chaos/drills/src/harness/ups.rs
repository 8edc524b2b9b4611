//! Power supplies that say what they are told: Debian's `upsd` with its `dummy-ups` drivers, on a loopback port of its
//! own with its own settings.
//!
//! Invariants: the processes are gone with the value and at an interruption; nothing of the system's own NUT is touched.

use crate::harness::cluster::Cluster;
use crate::harness::process::{self, Process};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where Debian puts them; `/sbin/upsd` is a script that asks whether the service is enabled.
const PROGRAMS: &str = "/lib/nut";
/// Drivers and server start within a moment, on a busy machine within a few.
const STARTS_WITHIN: Duration = Duration::from_secs(20);
/// After this long without a word of its driver, `upsd` calls its data stale.
const STALE_AFTER_S: u32 = 3;

/// Why supplies cannot be had here; `None`: they can.
pub fn missing() -> Option<String> {
    let absent = ["upsd", "dummy-ups"].iter().any(|name| !Path::new(PROGRAMS).join(name).is_file());
    absent.then(|| "not installed: nut-server (make setup-drills)".to_owned())
}

/// A server and its supplies.
pub struct Supplies {
    server: Option<Process>,
    drivers: BTreeMap<String, Process>,
    port: u16,
    folder: TempDir,
}

impl Supplies {
    /// Starts supplies of these names, all on mains. Unwinds, naming the package, where NUT is not installed.
    pub async fn start(names: &[&str]) -> Self {
        if let Some(why) = missing() {
            panic!("{why}");
        }
        let folder = tempfile::Builder::new().prefix("okno-ups-").tempdir().expect("a temporary folder");
        // Sockets and settings are for this user alone.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700))
            .expect("our own folder");
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
            free.local_addr().expect("bound").port()
        };
        let path = |name: &str| folder.path().join(name);
        let mut drivers = String::from("pollinterval = 1\n");
        for name in names {
            let file = path(&format!("{name}.dev"));
            drivers +=
                &format!("[{name}]\ndriver = dummy-ups\nmode = dummy-once\nport = {}\n", file.display());
        }
        let shown = folder.path().display();
        let server = format!("LISTEN 127.0.0.1 {port}\nMAXAGE {STALE_AFTER_S}\nSTATEPATH {shown}\n");
        let users = "[okno]\npassword = secret\nupsmon secondary\n";
        for (name, text) in [("ups.conf", drivers.as_str()), ("upsd.conf", &server), ("upsd.users", users)] {
            std::fs::write(path(name), text).expect("our own folder");
        }
        let mut supplies = Self { server: None, drivers: BTreeMap::new(), port, folder };
        for name in names {
            supplies.say(name, "OL", 100, 1_800);
            supplies.start_driver(name);
        }
        // The server connects to drivers that have made their sockets.
        let until = Instant::now() + STARTS_WITHIN;
        while !names.iter().all(|name| supplies.path(&format!("dummy-ups-{name}")).exists()) {
            assert!(Instant::now() < until, "dummy-ups did not start: {}", supplies.log());
            tokio::time::sleep(crate::harness::POLL).await;
        }
        supplies.start_server();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "upsd did not start: {}", supplies.log());
            tokio::time::sleep(crate::harness::POLL).await;
        }
        supplies
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn launch(&self, program: &str, arguments: &[&str]) -> Process {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log"));
        let log = log.expect("our own folder");
        let errors = log.try_clone().expect("the log can be shared");
        let mut command = Command::new(Path::new(PROGRAMS).join(program));
        for name in ["NUT_CONFPATH", "NUT_STATEPATH", "NUT_ALTPIDPATH"] {
            command.env(name, self.folder.path());
        }
        let user = crate::tools::run("id", ["-un"]);
        command.args(arguments).args(["-u", user.trim(), "-F"]);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        Process::start(command, program).expect("looked for before")
    }

    fn start_driver(&mut self, name: &str) {
        let driver = self.launch("dummy-ups", &["-a", name]);
        self.drivers.insert(name.to_owned(), driver);
    }

    pub fn start_server(&mut self) {
        self.server = Some(self.launch("upsd", &[]));
    }

    /// From now on the supply says this; its driver looks every second.
    pub fn say(&self, name: &str, status: &str, charge: i32, runtime_s: i32) {
        let text = format!("ups.status: {status}\nbattery.charge: {charge}\nbattery.runtime: {runtime_s}\n");
        let (new, file) = (self.path(&format!("{name}.new")), self.path(&format!("{name}.dev")));
        std::fs::write(&new, text).expect("our own folder");
        std::fs::rename(new, file).expect("our own folder");
    }

    /// The driver stands still: `upsd` will call its data stale.
    pub fn silence(&self, name: &str) {
        self.drivers[name].signal(libc::SIGSTOP);
    }

    pub fn wake(&self, name: &str) {
        self.drivers[name].signal(libc::SIGCONT);
    }

    /// `upsd` is gone.
    pub fn stop_server(&mut self) {
        drop(self.server.take());
    }

    /// As a node's settings name a supply.
    pub fn address(&self, name: &str) -> String {
        format!("{name}@127.0.0.1:{}", self.port)
    }

    /// Puts the supplies of a node into its settings, logged in as a secondary.
    pub fn feed(&self, cluster: &Cluster, node: u64, names: &[&str]) {
        let password = self.path("password");
        std::fs::write(&password, "secret\n").expect("our own folder");
        let password = password.to_str().expect("temporary folders have plain names").to_owned();
        let tables = names.iter().map(|name| {
            let mut table = toml::Table::new();
            table.insert("name".into(), self.address(name).into());
            table.insert("user".into(), "okno".into());
            table.insert("password_file".into(), password.clone().into());
            toml::Value::Table(table)
        });
        cluster.set_of(node, "power", "ups", toml::Value::Array(tables.collect()));
    }
}

impl Drop for Supplies {
    fn drop(&mut self) {
        // A driver that was stopped still dies of SIGKILL.
        for driver in self.drivers.values_mut() {
            driver.kill();
        }
    }
}

/// Stops one thread of a process at its next system call, by holding its tracer; it goes on when this is dropped.
pub struct HeldThread {
    tracer: Process,
}

impl HeldThread {
    /// Needs `strace`, and the right to trace the process.
    pub async fn hold(process_id: u32, thread: &str) -> Self {
        let thread = crate::trace::thread(process_id, thread);
        let mut command = Command::new("strace");
        command.args(["-o", "/dev/null", "-p", &thread.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let tracer = process::Process::start(command, "strace").expect("strace can be started");
        let traced = async || {
            let status = std::fs::read_to_string(format!("/proc/{process_id}/task/{thread}/status"));
            let status = status.map_err(|error| error.to_string())?;
            let by = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap_or("0").trim();
            if by == tracer.id().to_string() { Ok(()) } else { Err(format!("traced by {by}")) }
        };
        crate::harness::eventually("strace attaches", STARTS_WITHIN, traced).await;
        tracer.signal(libc::SIGSTOP);
        Self { tracer }
    }
}

impl Drop for HeldThread {
    fn drop(&mut self) {
        // The kernel detaches what it traced.
        self.tracer.kill();
    }
}
