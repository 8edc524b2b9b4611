//! How a cluster is laid out: which binary, at which addresses, with its data where, launched by what.

use crate::harness::cluster::{DevFile, NodeEntry, okno_of};
use crate::harness::pki::{self, Leaf};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// What differs from three nodes on the loopback address.
#[derive(Debug, Clone)]
pub struct Plan {
    pub nodes: usize,
    /// Run instead of `okno`.
    pub binary: Option<PathBuf>,
    /// Environment of every node.
    pub env: BTreeMap<String, OsString>,
    /// Addresses at which nodes listen for clients, nodes and checks of health; loopback where none is given.
    pub hosts: BTreeMap<u64, IpAddr>,
    /// Data directories elsewhere, e.g. on a mounted device: absent or empty folders.
    pub data: BTreeMap<u64, PathBuf>,
    /// Where the other nodes call a node, when not where it listens: a proxy's address.
    pub through: BTreeMap<u64, SocketAddr>,
    pub launch: BTreeMap<u64, Launch>,
    /// Section, key, value: settings of every node.
    pub settings: Vec<(&'static str, &'static str, toml::Value)>,
}

/// How one node's process is launched.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// A command that is given the node's own as its last arguments: `ip netns exec NAME`, `strace …`.
    pub prefix: Vec<OsString>,
    pub env: BTreeMap<String, OsString>,
}

impl Launch {
    pub fn by(prefix: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { prefix: prefix.into_iter().map(Into::into).collect(), env: BTreeMap::new() }
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::of(3)
    }
}

impl Plan {
    pub fn of(nodes: usize) -> Self {
        Self {
            nodes,
            binary: None,
            env: BTreeMap::new(),
            hosts: BTreeMap::new(),
            data: BTreeMap::new(),
            through: BTreeMap::new(),
            launch: BTreeMap::new(),
            settings: Vec::new(),
        }
    }

    #[must_use]
    pub fn host(mut self, node: u64, host: IpAddr) -> Self {
        self.hosts.insert(node, host);
        self
    }

    #[must_use]
    pub fn data(mut self, node: u64, directory: impl Into<PathBuf>) -> Self {
        self.data.insert(node, directory.into());
        self
    }

    #[must_use]
    pub fn through(mut self, node: u64, proxy: SocketAddr) -> Self {
        self.through.insert(node, proxy);
        self
    }

    #[must_use]
    pub fn launch(mut self, node: u64, launch: Launch) -> Self {
        self.launch.insert(node, launch);
        self
    }

    #[must_use]
    pub fn setting(
        mut self,
        section: &'static str,
        key: &'static str,
        value: impl Into<toml::Value>,
    ) -> Self {
        self.settings.push((section, key, value.into()));
        self
    }

    pub fn ids(&self) -> impl Iterator<Item = u64> {
        1..=self.nodes as u64
    }
}

/// Moves prepared nodes to the plan's addresses and folders: certificates, settings and data anew. Nothing runs yet.
pub(crate) fn rehome(file: &mut DevFile, plan: &Plan) {
    if plan.hosts.is_empty() && plan.data.is_empty() && plan.through.is_empty() {
        return;
    }
    let moved = |address: &mut SocketAddr, host: Option<&IpAddr>| {
        if let Some(host) = host {
            address.set_ip(*host);
        }
    };
    for entry in &mut file.nodes {
        let host = plan.hosts.get(&entry.id);
        moved(&mut entry.clients, host);
        moved(&mut entry.peers, host);
        moved(&mut entry.health, host);
    }
    let clients = pki::Authority::open(&file.authorities["clients"]);
    let peers = pki::Authority::open(&file.authorities["peers"]);
    let directory: Vec<(String, toml::Value)> = file
        .nodes
        .iter()
        .map(|entry| (entry.id.to_string(), toml::Value::from(entry.clients.to_string())))
        .collect();
    let member = |entry: &NodeEntry| {
        format!("{}={}", entry.id, plan.through.get(&entry.id).copied().unwrap_or(entry.peers))
    };
    let members: Vec<String> = file.nodes.iter().map(member).collect();
    for entry in &mut file.nodes {
        if let Some(host) = plan.hosts.get(&entry.id) {
            let uri = format!("okno://{}/peer/{}", file.cluster, entry.id);
            clients.issue_into(&entry.server, &Leaf::server(&uri, pki::fresh_serial()).at(*host));
            peers.issue_into(&entry.peer, &Leaf::peer(&uri, pki::fresh_serial()).at(*host));
        }
        std::fs::remove_dir_all(&entry.data).expect("a data directory that was just made");
        if let Some(data) = plan.data.get(&entry.id) {
            entry.data.clone_from(data);
        }
        edit(entry, |table| {
            let addresses = toml::Table::from_iter(directory.iter().cloned());
            put(table, "cluster", "client_addresses", addresses.into());
            put(table, "node", "data_dir", path_value(&entry.data));
            put(table, "clients", "listen", entry.clients.to_string().into());
            put(table, "peers", "listen", entry.peers.to_string().into());
            put(table, "ops", "listen", entry.health.to_string().into());
        });
        let settings = entry.settings.to_str().expect("temporary folders have plain names");
        let output =
            okno_of(plan.binary.as_deref(), &["init", "--config", settings, "--members", &members.join(",")]);
        assert!(
            output.status.success(),
            "okno init of node {} failed: {}",
            entry.id,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    set_endpoints(&file.context, file.nodes.iter().map(|entry| entry.clients.to_string()).collect());
}

/// Names the nodes that `oknoctl` calls.
pub(crate) fn set_endpoints(context: &Path, endpoints: Vec<String>) {
    let text = std::fs::read_to_string(context).expect("the context file was written");
    let mut table: toml::Table = text.parse().expect("okno dev wrote TOML");
    table.insert("endpoints".to_owned(), endpoints.into());
    std::fs::write(context, table.to_string()).expect("the context file can be written");
}

pub(crate) fn path_value(path: &Path) -> toml::Value {
    path.to_str().expect("temporary folders have plain names").into()
}

/// Changes a node's settings file.
pub(crate) fn edit(entry: &NodeEntry, change: impl FnOnce(&mut toml::Table)) {
    let text = std::fs::read_to_string(&entry.settings).expect("the settings are readable");
    let mut table: toml::Table = text.parse().expect("okno dev wrote TOML");
    change(&mut table);
    std::fs::write(&entry.settings, table.to_string()).expect("the settings are writable");
}

/// Sets what must stand there already: a name misspelt would change nothing.
pub(crate) fn put(table: &mut toml::Table, section: &str, key: &str, value: toml::Value) {
    let section =
        table.get_mut(section).and_then(toml::Value::as_table_mut).expect("a section of the settings");
    assert!(section.insert(key.to_owned(), value).is_some(), "{key} is no setting");
}
