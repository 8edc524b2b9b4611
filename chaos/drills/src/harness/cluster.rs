//! Nodes as child processes of a test or drill.
//!
//! Invariants: one cluster at a time on this machine; no process outlives its test (killed on drop, at an interruption,
//! and by the kernel should the test process die); a failing test prints the end of every node's log.

use crate::cleanup;
use crate::harness::desk::Desk;
use crate::harness::plan::{self, Launch, Plan};
use crate::harness::process::{self, Process};
use crate::harness::{POLL, eventually, in_time, people, pki};
use okno_client::v1 as proto;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// First start on a busy machine of two cores, pinning and election included.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// A node that was away has this long to catch up.
pub const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);
/// SIGTERM: hand-over, drain and flush.
pub const STOP_WITHIN: Duration = Duration::from_secs(20);
const LOG_LINES_SHOWN: usize = 40;

/// What the tests use of `dev.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct DevFile {
    pub cluster: String,
    pub cluster_id: uuid::Uuid,
    pub nodes: Vec<NodeEntry>,
    pub authorities: BTreeMap<String, AuthorityFiles>,
    pub identities: BTreeMap<String, Pair>,
    pub context: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
pub struct NodeEntry {
    pub id: u64,
    pub clients: SocketAddr,
    pub peers: SocketAddr,
    pub health: SocketAddr,
    pub settings: PathBuf,
    pub data: PathBuf,
    pub log: PathBuf,
    pub server: Pair,
    pub peer: Pair,
}

/// A certificate and its key.
#[derive(Debug, Clone, Deserialize)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
pub struct AuthorityFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub revocation_list: PathBuf,
}

/// Where binaries are looked for; set once, before anything is started.
static BIN_DIR: OnceLock<PathBuf> = OnceLock::new();

/// From now on binaries are taken from this folder; false: another one was named before.
pub fn use_binaries_of(folder: &Path) -> bool {
    BIN_DIR.get_or_init(|| folder.to_owned()) == folder
}

/// The binary under test: `OKNO_BIN`, or as [`sibling`] finds it.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("OKNO_BIN") {
        return path.into();
    }
    sibling("okno")
}

/// A binary of this workspace; it must be there.
pub fn sibling(name: &str) -> PathBuf {
    let path = binary_path(name);
    assert!(path.is_file(), "{} is missing: build it first (make build)", path.display());
    path
}

/// Where a binary of this workspace must be: in the folder that was named, in `OKNO_BIN_DIR`, or beside the running one.
pub fn binary_path(name: &str) -> PathBuf {
    if let Some(folder) = BIN_DIR.get() {
        return folder.join(name);
    }
    if let Some(folder) = std::env::var_os("OKNO_BIN_DIR") {
        return Path::new(&folder).join(name);
    }
    // <target>/release/deps/<test> → <target>/release/<name>
    let own = std::env::current_exe().expect("a running program has a file");
    match own.parent() {
        Some(folder) if folder.ends_with("deps") => folder.with_file_name(name),
        _ => own.with_file_name(name),
    }
}

/// Runs `okno` with arguments to its end.
pub fn okno(arguments: &[&str]) -> Output {
    okno_of(None, arguments)
}

/// As [`okno`], of another binary.
pub fn okno_of(other: Option<&Path>, arguments: &[&str]) -> Output {
    let path = other.map_or_else(binary, Path::to_owned);
    bare(&path).args(arguments).stdin(Stdio::null()).output().expect("okno can be started")
}

/// Held while nodes run that are no [`Cluster`]'s: those of `okno dev` itself.
pub fn alone() -> File {
    one_at_a_time()
}

/// A command without the settings that stand in this process's environment.
pub fn bare(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    // Writing out a backtrace takes the thread that panicked a quarter of a second, and its shard with it.
    command.env_remove("RUST_BACKTRACE");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OKNO_")) {
        command.env_remove(name);
    }
    command
}

/// Held while a cluster runs: timings of two at a time would mean nothing.
fn one_at_a_time() -> File {
    let path = std::env::temp_dir().join("okno-tests.lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).expect("the lock file opens");
    if file.try_lock().is_err() {
        eprintln!("waiting for another cluster on this machine to end ({})", path.display());
        file.lock().expect("the lock file locks");
    }
    file
}

/// A cluster of its own for one test or drill.
pub struct Cluster {
    pub file: DevFile,
    directory: TempDir,
    nodes: BTreeMap<u64, Process>,
    binary: PathBuf,
    env: BTreeMap<String, OsString>,
    launch: BTreeMap<u64, Launch>,
    pub(super) admin_at: BTreeMap<u64, Desk>,
    /// The list of members it was made with.
    pub(super) founders: String,
    running: Arc<Mutex<BTreeMap<u64, u32>>>,
    _folder: cleanup::Guard,
    _alone: File,
}

impl Cluster {
    /// A cluster that serves and holds the shipped catalogue and a small directory.
    pub async fn start(nodes: usize) -> Self {
        let cluster = Self::start_empty(nodes).await;
        cluster.fill().await;
        cluster
    }

    /// A cluster that serves and holds nothing yet.
    pub async fn start_empty(nodes: usize) -> Self {
        let mut cluster = Self::prepare(nodes);
        cluster.start_all();
        cluster.wait_ready().await;
        cluster
    }

    /// Certificates, settings and data directories; nothing runs yet.
    pub fn prepare(nodes: usize) -> Self {
        Self::prepare_as(&Plan::of(nodes))
    }

    /// As [`Cluster::prepare`], laid out as planned.
    pub fn prepare_as(plan: &Plan) -> Self {
        let alone = one_at_a_time();
        let directory = tempfile::Builder::new().prefix("okno-test-").tempdir().expect("a temporary folder");
        let own = directory.path().to_owned();
        let folder = cleanup::register(format!("folder {}", own.display()), move || {
            // Nothing may be left of it already; what cannot be removed is a temporary file.
            let _ = std::fs::remove_dir_all(own);
        });
        let path = directory.path().join("cluster");
        let (path_text, nodes) =
            (path.to_str().expect("temporary folders have plain names"), plan.nodes.to_string());
        let arguments = ["dev", "--prepare", "--dir", path_text, "--nodes", &nodes];
        let output = okno_of(plan.binary.as_deref(), &arguments);
        assert!(
            output.status.success(),
            "okno dev --prepare failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = std::fs::read(path.join("dev.json")).expect("dev.json was written");
        let mut file: DevFile = serde_json::from_slice(&text).expect("dev.json is as documented");
        assert_eq!(file.nodes.len(), plan.nodes);
        plan::rehome(&mut file, plan);
        let founders: Vec<String> = file.nodes.iter().map(|n| format!("{}={}", n.id, n.peers)).collect();
        let mut cluster = Self {
            file,
            directory,
            nodes: BTreeMap::new(),
            binary: plan.binary.clone().unwrap_or_else(binary),
            env: plan.env.clone(),
            launch: plan.launch.clone(),
            admin_at: BTreeMap::new(),
            founders: founders.join(","),
            running: Arc::default(),
            _folder: folder,
            _alone: alone,
        };
        cluster.admin_at =
            cluster.ids().into_iter().map(|id| (id, cluster.desk_at(id, "admin", "dev"))).collect();
        for (section, key, value) in &plan.settings {
            cluster.set(section, key, value.clone());
        }
        cluster
    }

    /// A folder of this test's own, gone at its end.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    pub fn ids(&self) -> Vec<u64> {
        self.file.nodes.iter().map(|node| node.id).collect()
    }

    pub fn entry(&self, node: u64) -> &NodeEntry {
        self.file.nodes.iter().find(|entry| entry.id == node).expect("a node of this cluster")
    }

    /// Changes one setting in every node's file; a running node reads it when it starts next.
    pub fn set(&self, section: &str, key: &str, value: impl Into<toml::Value>) {
        let value = value.into();
        for node in self.ids() {
            self.set_of(node, section, key, value.clone());
        }
    }

    /// As [`Cluster::set`], of one node.
    pub fn set_of(&self, node: u64, section: &str, key: &str, value: impl Into<toml::Value>) {
        plan::edit(self.entry(node), |table| plan::put(table, section, key, value.into()));
    }

    /// Names a connector that a node starts and looks after, from its next start on.
    pub fn add_connector(&self, node: u64, name: &str, command: Vec<String>) {
        let section = toml::Table::from_iter([("command".to_owned(), toml::Value::from(command))]);
        plan::edit(self.entry(node), |table| {
            let all = table.entry("connectors").or_insert_with(|| toml::Table::new().into());
            all.as_table_mut().expect("connectors are a table").insert(name.to_owned(), section.into());
        });
    }

    // ---- Processes ----

    pub fn start_all(&mut self) {
        for node in self.ids() {
            self.start_node(node);
        }
    }

    /// As [`Cluster::start_all`], of another binary.
    pub fn start_all_of(&mut self, binary: &Path) {
        self.binary = binary.to_owned();
        self.start_all();
    }

    pub fn start_node(&mut self, node: u64) {
        assert!(!self.nodes.contains_key(&node), "node {node} runs already");
        let log = File::options().create(true).append(true).open(&self.entry(node).log);
        let started = self.launch(node, log.expect("the log opens"));
        self.nodes.insert(node, started);
        self.note_running();
    }

    fn launch(&self, node: u64, log: File) -> Process {
        let plain = Launch::default();
        let launch = self.launch.get(&node).unwrap_or(&plain);
        let mut command = match launch.prefix.split_first() {
            None => bare(&self.binary),
            Some((first, rest)) => {
                let mut command = bare(Path::new(first));
                command.args(rest).arg(&self.binary);
                command
            }
        };
        let errors = log.try_clone().expect("the log can be shared");
        command
            .arg("serve")
            .arg("--config")
            .arg(&self.entry(node).settings)
            .envs(&self.env)
            .envs(&launch.env)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        let program = self.binary.file_name().expect("a binary is a file").to_string_lossy();
        Process::start(command, &program).expect("okno can be started")
    }

    /// How a node is launched from its next start on.
    pub fn set_launch(&mut self, node: u64, launch: Launch) {
        self.launch.insert(node, launch);
    }

    /// The binary of later starts.
    pub fn set_binary(&mut self, binary: &Path) {
        self.binary = binary.to_owned();
    }

    /// Runs `okno serve` of a node to its end: for starts that must be refused.
    pub fn start_refused(&self, node: u64, within: Duration) -> (ExitStatus, String) {
        let log = self.scratch().join(format!("refused-{node}.log"));
        let mut process = self.launch(node, File::create(&log).expect("a log file"));
        let until = Instant::now() + within;
        let mut status = process.try_wait();
        while status.is_none() && Instant::now() < until {
            std::thread::sleep(POLL);
            status = process.try_wait();
        }
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let Some(status) = status else {
            panic!("node {node} was expected to refuse to start, but ran on: {text}");
        };
        (status, text)
    }

    /// SIGKILL; returns once the process is gone.
    pub fn kill(&mut self, node: u64) {
        let mut process = self.nodes.remove(&node).expect("a running node");
        process.kill();
        process.wait();
        self.note_running();
    }

    /// SIGKILL to every node, before any of them is waited for.
    pub fn kill_all(&mut self) {
        let mut processes: Vec<Process> = std::mem::take(&mut self.nodes).into_values().collect();
        for process in &mut processes {
            process.kill();
        }
        for process in &mut processes {
            process.wait();
        }
        self.note_running();
    }

    /// SIGTERM, and the wait for the end it asks for.
    pub async fn terminate(&mut self, node: u64) -> ExitStatus {
        let mut process = self.nodes.remove(&node).expect("a running node");
        self.note_running();
        process.signal(libc::SIGTERM);
        let ended = process.ended(STOP_WITHIN).await;
        ended.unwrap_or_else(|| panic!("node {node} did not end within {STOP_WITHIN:?} of SIGTERM"))
    }

    /// Waits for a node to end by itself, and returns how it did.
    pub async fn ended(&mut self, node: u64, within: Duration) -> Option<ExitStatus> {
        let status = self.nodes.get_mut(&node).expect("a running node").ended(within).await?;
        self.nodes.remove(&node);
        self.note_running();
        Some(status)
    }

    /// Whether a node that was started has ended by itself.
    pub fn has_ended(&mut self, node: u64) -> bool {
        self.nodes.get_mut(&node).is_some_and(|process| process.try_wait().is_some())
    }

    /// SIGSTOP: the process stands still with all its connections open.
    pub fn pause(&self, node: u64) {
        self.signal(node, libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self, node: u64) {
        self.signal(node, libc::SIGCONT);
    }

    /// Any signal, to the node itself.
    pub fn signal(&self, node: u64, number: i32) {
        self.nodes[&node].signal(number);
    }

    /// Of the node itself, not of what launched it.
    pub fn pid(&self, node: u64) -> Option<u32> {
        self.nodes.get(&node).map(Process::id)
    }

    /// Nodes that were started and have neither been ended nor noticed to have ended.
    pub fn running(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// Node → process, kept current: for those who watch.
    pub fn processes(&self) -> Arc<Mutex<BTreeMap<u64, u32>>> {
        Arc::clone(&self.running)
    }

    fn note_running(&self) {
        let now = self.nodes.iter().map(|(node, process)| (*node, process.id())).collect();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Fails when a node has ended by itself.
    pub fn assert_running(&mut self) {
        for (node, process) in &mut self.nodes {
            let ended = process.try_wait();
            assert!(ended.is_none(), "node {node} has ended by itself: {ended:?}");
        }
    }

    pub fn log(&self, node: u64) -> String {
        let bytes = std::fs::read(&self.entry(node).log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// `okno verify` of a stopped node's data: identity, log, hash chain and all rows.
    pub fn assert_verified(&self, node: u64) {
        self.verified(node).unwrap_or_else(|problem| panic!("{problem}"));
    }

    /// As [`Cluster::assert_verified`]; the error is what `okno verify` said.
    pub fn verified(&self, node: u64) -> Result<(), String> {
        let data = &self.entry(node).data;
        let output = okno_of(Some(&self.binary), &["verify", "--dir", &data.to_string_lossy()]);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let problem = || format!("node {node} does not pass its check: {}{}", out.trim(), err.trim());
        output.status.success().then_some(()).ok_or_else(problem)
    }

    // ---- Callers ----

    pub fn identity(&self, kind: &str, id: &str) -> &Pair {
        self.file.identities.get(&format!("{kind}/{id}")).expect("an identity of the development cluster")
    }

    /// A caller of any node.
    pub fn desk(&self, kind: &str, id: &str) -> Desk {
        Desk::connect(&self.file, self.identity(kind, id), self.file.nodes.iter())
    }

    /// A caller of one node only.
    pub fn desk_at(&self, node: u64, kind: &str, id: &str) -> Desk {
        Desk::connect(&self.file, self.identity(kind, id), [self.entry(node)].into_iter())
    }

    /// A caller with a certificate of the test's own making.
    pub fn desk_with(&self, pair: &Pair) -> Desk {
        Desk::connect(&self.file, pair, self.file.nodes.iter())
    }

    /// The officer of the quiet office, where tests are alone.
    pub fn officer(&self) -> Desk {
        self.desk("operator", people::OFFICER)
    }

    pub fn admin(&self) -> Desk {
        self.desk("admin", "dev")
    }

    pub fn authority(&self, realm: &str) -> pki::Authority {
        pki::Authority::open(&self.file.authorities[realm])
    }

    // ---- State ----

    pub async fn status(&self, node: u64) -> Result<proto::GetStatusResponse, okno_client::CallError> {
        self.admin_at[&node].status().await
    }

    /// Waits until every running node serves and all agree who leads; returns the leader and its term.
    pub async fn wait_ready(&mut self) -> (u64, u64) {
        let running: Vec<u64> = self.nodes.keys().copied().collect();
        let until = Instant::now() + READY_WITHIN;
        loop {
            self.assert_running();
            let mut views = Vec::new();
            for node in &running {
                views.push((*node, self.status(*node).await));
            }
            let serving: Vec<(u64, u64)> = views
                .iter()
                .filter_map(|(_, status)| status.as_ref().ok())
                .filter(|status| status.phase() == proto::NodePhase::Serving && status.leader != 0)
                .map(|status| (status.leader, status.term))
                .collect();
            if serving.len() == running.len()
                && let Some(first) = serving.first()
                && running.contains(&first.0)
                && serving.iter().all(|view| view == first)
            {
                return *first;
            }
            assert!(Instant::now() < until, "the cluster was not ready within {READY_WITHIN:?}: {views:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Who leads, as the running nodes say; the view of the highest term counts.
    pub async fn leader(&self) -> u64 {
        eventually("a leader", READY_WITHIN, async || {
            let mut best = (0, 0);
            for node in self.nodes.keys() {
                if let Ok(status) = self.status(*node).await
                    && status.leader != 0
                {
                    best = best.max((status.term, status.leader));
                }
            }
            if best.1 == 0 { Err("none is known") } else { Ok(best.1) }
        })
        .await
    }

    /// A node that runs and does not lead.
    pub async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.nodes.keys().find(|node| **node != leader).expect("more than one node runs")
    }

    /// Waits until a node has applied `index`; returns how far it is then.
    pub async fn wait_applied(&self, node: u64, index: u64) -> u64 {
        eventually(&format!("node {node} at index {index}"), CATCH_UP_WITHIN, async || {
            match self.status(node).await {
                Ok(status)
                    if status.applied_index >= index && status.phase() == proto::NodePhase::Serving =>
                {
                    Ok(status.applied_index)
                }
                Ok(status) => Err(format!("{:?} at {}", status.phase(), status.applied_index)),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// The shipped catalogue and a small directory.
    pub async fn fill(&self) {
        self.fill_with(&shipped_catalogue()).await;
    }

    /// A catalogue of the test's choosing and a small directory.
    pub async fn fill_with(&self, catalogue: &[proto::CatalogueFile]) {
        let admin = self.admin();
        admin.load_catalogue(catalogue).await.expect("the catalogue loads");
        for office in people::offices() {
            let request = proto::PutOfficeRequest { meta: None, office: Some(office) };
            admin.call(request).await.expect("an office is taken");
        }
        for window in people::windows() {
            let request = proto::PutWindowRequest { meta: None, window: Some(window) };
            admin.call(request).await.expect("a window is taken");
        }
        for person in people::people() {
            let request = proto::PutPersonRequest { meta: None, person: Some(person) };
            admin.call(request).await.expect("a person is taken");
        }
    }

    /// Places a marker and checks that every running node digests all its rows alike, and that the hash chains agree
    /// at a common index.
    pub async fn assert_alike(&self) {
        let running = self.running();
        self.alike(&running).await.unwrap_or_else(|difference| panic!("{difference}"));
    }

    /// As [`Cluster::assert_alike`], of some nodes; says what was compared, or the difference.
    pub async fn alike(&self, nodes: &[u64]) -> Result<String, String> {
        let placed = self.admin().call(proto::PlaceMarkerRequest { meta: None }).await;
        let marker = placed.map_err(|error| format!("no marker: {error}"))?.marker_index;
        let digests = in_time("a digest of every node", CATCH_UP_WITHIN, async || {
            let mut own = BTreeMap::new();
            for node in nodes {
                let response =
                    self.admin_at[node].call(proto::GetDigestsRequest {}).await.map_err(|e| e.to_string())?;
                let of_node =
                    response.members.into_iter().find(|m| m.node_id == *node && m.marker_index == marker);
                own.insert(*node, of_node.ok_or_else(|| format!("node {node} has none yet"))?.digest);
            }
            Ok::<_, String>(own)
        })
        .await?;
        let first = digests.values().next().ok_or("no node runs")?;
        if first.is_empty() || digests.values().any(|digest| digest != first) {
            return Err(format!("digests at index {marker} differ: {digests:?}"));
        }
        let heads = in_time("hash chains at a common index", CATCH_UP_WITHIN, async || {
            let mut heads = BTreeMap::new();
            for node in nodes {
                let status = self.status(*node).await.map_err(|error| error.to_string())?;
                heads.insert(*node, (status.applied_index, status.chain));
            }
            let index = heads.values().next().map(|(index, _)| *index);
            if heads.values().any(|(other, _)| Some(*other) != index) {
                return Err(format!("{heads:?}"));
            }
            Ok(heads)
        })
        .await?;
        let (index, chain) = heads.values().next().ok_or("no node runs")?;
        if heads.values().any(|(_, other)| other != chain) {
            return Err(format!("hash chains at {index} differ: {heads:?}"));
        }
        Ok(format!("{} nodes alike: rows at {marker}, chain at {index}", nodes.len()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in self.ids() {
                let text = self.log(node);
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
                eprintln!("---- the end of node {node}'s log ----\n{tail}");
            }
        }
        // Before the folder they write into goes.
        self.nodes.clear();
    }
}

/// The catalogue this repository ships, as files for a load.
pub fn shipped_catalogue() -> Vec<proto::CatalogueFile> {
    let file =
        |(path, text): &(&str, &str)| proto::CatalogueFile { path: (*path).into(), text: (*text).into() };
    catalogue::FILES.iter().map(file).collect()
}

mod catalogue {
    include!(concat!(env!("OUT_DIR"), "/catalogue.rs"));
}

/// Sends a signal to a child that was not waited for yet.
pub fn signal_process(child: &Child, number: i32) {
    let id = libc::pid_t::try_from(child.id()).expect("process ids are small");
    let outcome = process::send(id, number);
    assert!(outcome.is_ok(), "signal {number} to process {id}: {outcome:?}");
}
