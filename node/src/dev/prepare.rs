//! The directory of a development cluster: authorities, certificates, one settings file and data directory per node,
//! and the two files that tell others about it — `dev.json` for programs, `oknoctl.toml` for `oknoctl --config`.
//!
//! Invariants: all paths in both files are absolute; a directory that holds anything but a development cluster is
//! never written to; a node's data directory is made by `okno init` alone.

use super::certificates::{Authority, AuthorityFiles, CertificateFiles, Realm, Usage};
use super::{fixtures, ports};
use crate::settings::{LogFormat, Settings, TlsSection};
use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub const DEV_FILE: &str = "dev.json";
pub const CONTEXT_FILE: &str = "oknoctl.toml";

/// What `dev.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DevFile {
    /// Name of the cluster in certificates.
    pub cluster: String,
    pub cluster_id: uuid::Uuid,
    pub directory: PathBuf,
    /// The process that runs the nodes; absent while they are only prepared.
    pub pid: Option<u32>,
    pub nodes: Vec<NodeEntry>,
    /// The clients' addresses of all nodes, as URLs.
    pub endpoints: Vec<String>,
    pub authorities: BTreeMap<String, AuthorityFiles>,
    /// `<kind>/<id>` → certificate and key.
    pub identities: BTreeMap<String, CertificateFiles>,
    /// The context file for `oknoctl --config`.
    pub context: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeEntry {
    pub id: u64,
    pub endpoint: String,
    pub clients: SocketAddr,
    pub peers: SocketAddr,
    pub health: SocketAddr,
    pub settings: PathBuf,
    pub data: PathBuf,
    pub log: PathBuf,
    pub server: CertificateFiles,
    pub peer: CertificateFiles,
    /// While it runs.
    pub pid: Option<u32>,
}

impl DevFile {
    pub fn path(directory: &Path) -> PathBuf {
        directory.join(DEV_FILE)
    }

    pub fn read(directory: &Path) -> Result<Self> {
        let path = Self::path(directory);
        let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is not what okno dev wrote", path.display()))
    }

    /// Written beside and renamed, so that a reader never meets half a file.
    pub fn write(&self) -> Result<()> {
        let path = Self::path(&self.directory);
        let beside = self.directory.join(".dev.json.new");
        let text = serde_json::to_vec_pretty(self).context("encoding dev.json")?;
        std::fs::write(&beside, text).with_context(|| format!("writing {}", beside.display()))?;
        std::fs::rename(&beside, &path).with_context(|| format!("writing {}", path.display()))
    }

    pub fn identity(&self, kind: &str, id: &str) -> Result<&CertificateFiles> {
        let name = format!("{kind}/{id}");
        self.identities.get(&name).with_context(|| format!("dev.json names no certificate of {name}"))
    }

    pub fn clients_authority(&self) -> Result<&AuthorityFiles> {
        self.authorities.get(Realm::Clients.name()).context("dev.json names no authority of clients")
    }
}

/// Is there a development cluster in this directory already?
pub fn is_prepared(directory: &Path) -> bool {
    DevFile::path(directory).is_file()
}

/// Fills an empty or absent directory with everything `nodes` nodes need, and starts nothing.
pub fn prepare(directory: &Path, nodes: u64) -> Result<DevFile> {
    if let Ok(mut entries) = std::fs::read_dir(directory)
        && entries.next().is_some()
    {
        bail!("{} is not empty and holds no development cluster ({DEV_FILE})", directory.display());
    }
    make_private_directory(directory)?;
    let directory =
        &directory.canonicalize().with_context(|| format!("resolving {}", directory.display()))?;
    let authorities_directory = make_directory(directory, "ca")?;
    let identities_directory = make_directory(directory, "identities")?;
    let clients = Authority::create(Realm::Clients)?;
    let peers = Authority::create(Realm::Peers)?;
    let clients_files = clients.save(&authorities_directory)?;
    let peers_files = peers.save(&authorities_directory)?;

    let mut identities = BTreeMap::new();
    for (kind, id) in fixtures::identities() {
        let uri = format!("okno://{}/{kind}/{id}", fixtures::CLUSTER);
        let files =
            clients.issue(&identities_directory, &format!("{kind}-{id}"), Usage::Client, &uri, &[], &[])?;
        identities.insert(format!("{kind}/{id}"), files);
    }

    let cluster_id = uuid::Uuid::new_v4();
    let per_node = 3;
    let ports = ports::free_ports(per_node * usize::try_from(nodes).context("number of nodes")?)?;
    let mut entries = Vec::new();
    for (id, ports) in (1..=nodes).zip(ports.chunks_exact(per_node)) {
        let [clients_port, peers_port, health_port] = ports else { bail!("a node takes {per_node} ports") };
        let address = |port: &u16| SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
        let node_directory = make_directory(directory, &format!("node-{id}"))?;
        let uri = format!("okno://{}/peer/{id}", fixtures::CLUSTER);
        let names = ["localhost", &format!("okno-{id}")];
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let server = clients.issue(&node_directory, "server", Usage::Server, &uri, &names, &loopback)?;
        let peer = peers.issue(&node_directory, "peer", Usage::Peer, &uri, &names, &loopback)?;
        entries.push(NodeEntry {
            id,
            endpoint: format!("https://{}", address(clients_port)),
            clients: address(clients_port),
            peers: address(peers_port),
            health: address(health_port),
            settings: node_directory.join("okno.toml"),
            data: node_directory.join("data"),
            log: node_directory.join("node.log"),
            server,
            peer,
            pid: None,
        });
    }
    for entry in &entries {
        let text = settings(entry, &entries, cluster_id, &clients_files, &peers_files).to_toml();
        let text = format!(
            "# Settings of node {} of a development cluster, as `okno dev` wrote them.\n{text}",
            entry.id
        );
        std::fs::write(&entry.settings, text)
            .with_context(|| format!("writing {}", entry.settings.display()))?;
    }
    for entry in &entries {
        init(entry, &entries)?;
    }
    let file = DevFile {
        cluster: fixtures::CLUSTER.into(),
        cluster_id,
        directory: directory.clone(),
        pid: None,
        endpoints: entries.iter().map(|entry| entry.endpoint.clone()).collect(),
        nodes: entries,
        authorities: BTreeMap::from([
            (Realm::Clients.name().to_owned(), clients_files),
            (Realm::Peers.name().to_owned(), peers_files),
        ]),
        identities,
        context: directory.join(CONTEXT_FILE),
    };
    write_context(&file)?;
    Ok(file)
}

fn settings(
    node: &NodeEntry,
    all: &[NodeEntry],
    cluster_id: uuid::Uuid,
    clients: &AuthorityFiles,
    peers: &AuthorityFiles,
) -> Settings {
    let tls = |authority: &AuthorityFiles, leaf: &CertificateFiles| TlsSection {
        ca: authority.certificate.clone(),
        certificate: leaf.certificate.clone(),
        key: leaf.key.clone(),
        revocation_lists: vec![authority.revocation_list.clone()],
    };
    let mut settings = Settings::default();
    settings.cluster.name = fixtures::CLUSTER.into();
    settings.cluster.id = Some(cluster_id);
    settings.cluster.client_addresses =
        all.iter().map(|entry| (entry.id.to_string(), entry.clients.to_string())).collect();
    settings.node.id = node.id;
    settings.node.data_dir = node.data.clone();
    // Three nodes and their clients share one machine.
    settings.node.worker_threads = 1;
    settings.clients.listen = node.clients;
    settings.clients.tls = tls(clients, &node.server);
    settings.peers.listen = node.peers;
    settings.peers.tls = tls(peers, &node.peer);
    settings.ops.listen = node.health;
    settings.storage.block_cache = ByteSize::mib(64);
    settings.storage.write_buffers = ByteSize::mib(64);
    settings.log.format = LogFormat::Text;
    settings
}

/// Makes a node's data directory the way an administrator does: by `okno init` with the full list of members.
fn init(node: &NodeEntry, all: &[NodeEntry]) -> Result<()> {
    let members: Vec<String> = all.iter().map(|entry| format!("{}={}", entry.id, entry.peers)).collect();
    let binary = std::env::current_exe().context("finding this program's own file")?;
    let mut command = std::process::Command::new(&binary);
    for name in super::processes::foreign_settings() {
        command.env_remove(name);
    }
    let output = command
        .arg("init")
        .arg("--config")
        .arg(&node.settings)
        .arg("--members")
        .arg(members.join(","))
        .output()
        .with_context(|| format!("starting {} init", binary.display()))?;
    if !output.status.success() {
        bail!("okno init of node {} failed: {}", node.id, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn make_directory(parent: &Path, name: &str) -> Result<PathBuf> {
    let path = parent.join(name);
    std::fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}

/// Keys of authorities lie in it: for its owner only.
fn make_private_directory(path: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    if path.is_dir() {
        let private = std::fs::Permissions::from_mode(0o700);
        return std::fs::set_permissions(path, private)
            .with_context(|| format!("closing {}", path.display()));
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path).with_context(|| format!("making {}", path.display()))
}

/// The context for `oknoctl`.
fn write_context(file: &DevFile) -> Result<()> {
    let authority = file.clients_authority()?;
    let admin = file.identity("admin", "dev")?;
    let text = |path: &Path| toml::Value::from(path.display().to_string());
    let mut table = toml::Table::new();
    let endpoints: Vec<String> = file.nodes.iter().map(|node| node.clients.to_string()).collect();
    table.insert("endpoints".into(), toml::Value::from(endpoints));
    table.insert("cluster".into(), toml::Value::from(file.cluster.clone()));
    table.insert("ca".into(), text(&authority.certificate));
    table.insert("cert".into(), text(&admin.certificate));
    table.insert("key".into(), text(&admin.key));
    // An administrator opens no cases: those calls are an officer's, the kiosk's tickets included.
    let officer = file.identity("operator", fixtures::STORY_OFFICER)?;
    let mut files = toml::Table::new();
    files.insert("cert".into(), text(&officer.certificate));
    files.insert("key".into(), text(&officer.key));
    let identities = toml::Table::from_iter([("operator".to_owned(), toml::Value::Table(files))]);
    table.insert("identity".into(), toml::Value::Table(identities));
    let text = toml::to_string(&table).context("encoding the context of oknoctl")?;
    let text = format!("# Context of a development cluster: oknoctl --config <this file> …\n{text}");
    std::fs::write(&file.context, text).with_context(|| format!("writing {}", file.context.display()))
}
