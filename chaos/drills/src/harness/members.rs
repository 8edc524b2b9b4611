//! Nodes that come and go: made to join a cluster that is there, on a machine of their own or on that of a lost one; taken
//! out of the list; and `oknoctl`, by which operators do the rest.

use crate::harness::cluster::{Cluster, NodeEntry, Pair, bare, okno_of, sibling};
use crate::harness::eventually;
use crate::harness::pki::{self, Leaf};
use crate::harness::plan;
use okno_client::v1 as proto;
use rand::Rng;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Below the ports that the system hands out, above those of well-known services; as `okno dev` chooses them.
const PORTS: std::ops::Range<u16> = 20_000..32_768;

/// What `oknoctl -o json` came to.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    /// The last thing it printed; `Null` where that is no JSON.
    pub answer: Value,
    /// Everything it printed: a command of several steps tells of each.
    pub answers: Vec<Value>,
    /// What it said to standard error, and where that is JSON, what stands there as the reason.
    pub error: String,
    pub reason: String,
    pub took: Duration,
}

impl Said {
    /// The answer of a command that must succeed.
    #[track_caller]
    pub fn done(self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        self.answer
    }

    /// The answer, or what it said.
    pub fn result(self) -> Result<Value, String> {
        if self.code == 0 { Ok(self.answer) } else { Err(format!("exit code {}: {}", self.code, self.error)) }
    }

    /// The reason code of one that must be refused.
    #[track_caller]
    pub fn refused(self) -> String {
        assert_ne!(self.code, 0, "{self:?}");
        self.reason
    }
}

/// Runs `oknoctl` as the administrator of a cluster.
pub async fn oknoctl(cluster: &Cluster, arguments: &[&str]) -> Said {
    let began = Instant::now();
    // Not blocking: a load may run on this thread.
    let output = tokio::process::Command::from(bare(&sibling("oknoctl")))
        .args(["-o", "json", "--config"])
        .arg(&cluster.file.context)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("oknoctl can be started");
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let answers: Vec<Value> =
        serde_json::Deserializer::from_slice(&output.stdout).into_iter().map_while(Result::ok).collect();
    let told: Value = serde_json::from_str(&error).unwrap_or_default();
    Said {
        code: output.status.code().unwrap_or(-1),
        answer: answers.last().cloned().unwrap_or_default(),
        answers,
        reason: told["error"]["reason"].as_str().unwrap_or_default().to_owned(),
        error,
        took: began.elapsed(),
    }
}

/// A list of numbers in an answer.
pub fn numbers(list: &Value) -> Vec<u64> {
    list.as_array().map(|all| all.iter().filter_map(Value::as_u64).collect()).unwrap_or_default()
}

impl Cluster {
    /// Lays out a node on a machine of its own and makes it by `okno init --join`. It is not started, and nobody is told.
    pub fn make_joiner(&mut self, id: u64) {
        self.make_joiner_on(id, Ipv4Addr::LOCALHOST);
    }

    /// As [`Cluster::make_joiner`], where it listens at another address than the loopback one.
    pub fn make_joiner_on(&mut self, id: u64, host: Ipv4Addr) {
        let held: Vec<TcpListener> = std::iter::from_fn(|| Some(free_port())).take(3).collect();
        let at = |l: &TcpListener| SocketAddr::from((host, l.local_addr().expect("it is bound").port()));
        let at: Vec<SocketAddr> = held.iter().map(at).collect();
        drop(held);
        self.lay_out(id, [at[0], at[1], at[2]]);
    }

    /// As [`Cluster::make_joiner`], on the machine of a node whose data are lost: it takes its addresses over, and the node
    /// its end in this list.
    pub fn make_joiner_at(&mut self, id: u64, place_of: u64) {
        let old = self.entry(place_of).clone();
        self.retire(place_of);
        self.lay_out(id, [old.clients, old.peers, old.health]);
    }

    fn lay_out(&mut self, id: u64, [clients, peers, health]: [SocketAddr; 3]) {
        assert!(!self.ids().contains(&id), "node {id} is there already");
        let folder = self.scratch().join("cluster").join(format!("node-{id}"));
        std::fs::create_dir(&folder).expect("a folder of the cluster's own");
        let uri = format!("okno://{}/peer/{id}", self.file.cluster);
        let serial = pki::fresh_serial();
        let server = Leaf::server(&uri, serial).at(clients.ip());
        let server: Pair = self.authority("clients").issue(&folder, "server", &server);
        let peer: Pair =
            self.authority("peers").issue(&folder, "peer", &Leaf::peer(&uri, serial).at(peers.ip()));
        let model = self.file.nodes.first().expect("a cluster has a node");
        let settings = folder.join("okno.toml");
        std::fs::copy(&model.settings, &settings).expect("settings of a member");
        let (data, log) = (folder.join("data"), folder.join("node.log"));
        let entry = NodeEntry { id, clients, peers, health, settings, data, log, server, peer };
        plan::edit(&entry, |table| {
            plan::put(table, "node", "id", i64::try_from(id).expect("a small number").into());
            plan::put(table, "node", "data_dir", plan::path_value(&entry.data));
            plan::put(table, "clients", "listen", entry.clients.to_string().into());
            plan::put(table, "peers", "listen", entry.peers.to_string().into());
            plan::put(table, "ops", "listen", entry.health.to_string().into());
            plan::put(table, "cluster", "id", self.file.cluster_id.to_string().into());
            for (section, pair) in [("clients", &entry.server), ("peers", &entry.peer)] {
                let tls = table[section]["tls"].as_table_mut().expect("a section of the settings");
                tls.insert("certificate".into(), plan::path_value(&pair.certificate));
                tls.insert("key".into(), plan::path_value(&pair.key));
            }
        });
        self.init_joiner(&entry).expect("a node that joins is made");
        self.file.nodes.push(entry);
        self.admin_at.insert(id, self.desk_at(id, "admin", "dev"));
        self.write_endpoints();
    }

    /// `okno init --join` with the list the cluster began with; the error is what it said.
    pub fn init_joiner(&self, entry: &NodeEntry) -> Result<(), String> {
        let settings = entry.settings.to_str().expect("temporary folders have plain names");
        let arguments = ["init", "--config", settings, "--members", &self.founders, "--join"];
        let output = okno_of(None, &arguments);
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Everything a node had is lost: its machine comes back with an empty disk.
    pub fn wipe(&self, node: u64) {
        assert!(self.pid(node).is_none(), "node {node} runs");
        std::fs::remove_dir_all(&self.entry(node).data).expect("a stopped node's directory");
    }

    /// Strikes a stopped node off the list of this cluster's nodes. Its directory stays where it is.
    pub fn retire(&mut self, node: u64) {
        assert!(self.pid(node).is_none(), "node {node} runs");
        self.file.nodes.retain(|entry| entry.id != node);
        self.admin_at.remove(&node);
        self.write_endpoints();
    }

    /// The stopped node is a cluster of its own, with a new id and `okno init --join`'s new list: what a forced recovery
    /// made of it. The others are struck off.
    pub fn refound(&mut self, node: u64, cluster: uuid::Uuid) {
        for other in self.ids().into_iter().filter(|id| *id != node) {
            self.retire(other);
        }
        self.file.cluster_id = cluster;
        self.founders = format!("{node}={}", self.entry(node).peers);
        self.set_of(node, "cluster", "id", cluster.to_string());
    }

    /// The list of members it was made with, as `okno init` takes it.
    pub fn founders(&self) -> &str {
        &self.founders
    }

    fn write_endpoints(&self) {
        let all = self.file.nodes.iter().map(|entry| entry.clients.to_string()).collect();
        plan::set_endpoints(&self.file.context, all);
    }

    /// Adds a node that was made and runs, and waits until every member counts it a voter; returns how long that took.
    pub async fn add_voter(&self, node: u64, within: Duration) -> Duration {
        let began = Instant::now();
        let address = self.entry(node).peers.to_string();
        oknoctl(self, &["member", "add", &node.to_string(), "--address", &address]).await.done();
        self.wait_voter(node, within).await;
        began.elapsed()
    }

    /// Waits until every running node counts `node` a voter.
    pub async fn wait_voter(&self, node: u64, within: Duration) {
        eventually(&format!("node {node} votes"), within, async || {
            for seen_by in self.running() {
                let status = self.status(seen_by).await.map_err(|error| format!("{seen_by}: {error}"))?;
                let voter = status.members.iter().any(|m| m.node_id == node && !m.learner);
                if !voter || status.phase() != proto::NodePhase::Serving {
                    return Err(format!("as node {seen_by} sees it: {:?}", members(&status)));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Takes a member out, whoever leads.
    pub async fn remove_member(&self, node: u64) -> Said {
        oknoctl(self, &["member", "remove", &node.to_string()]).await
    }

    /// Waits until a node has closed itself; returns its reason and remedy.
    pub async fn wait_closed(&self, node: u64, within: Duration) -> (String, String) {
        eventually(&format!("node {node} closes itself"), within, async || {
            let status = self.status(node).await.map_err(|error| error.to_string())?;
            if status.phase() == proto::NodePhase::Quarantined {
                Ok((status.reason, status.remedy))
            } else {
                Err(format!("{:?}", status.phase()))
            }
        })
        .await
    }

    /// Waits until no running node's log reaches back to `index`: who has no more needs a copy.
    pub async fn wait_cut(&self, index: u64, within: Duration) {
        eventually(&format!("the log is cut beyond {index}"), within, async || {
            for node in self.running() {
                let first = self.shown(node, "okno_cluster_raft_log_first_index").await?;
                if first <= index as f64 + 1.0 {
                    return Err(format!("node {node}'s log begins at {first}"));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Waits until a node has installed one copy since its start: its state is seen a moment before that is counted.
    pub async fn wait_installed(&self, node: u64, within: Duration) {
        let shown = || self.shown(node, "okno_cluster_snapshots_installed_total");
        eventually(&format!("node {node} has installed a copy"), within, async || match shown().await {
            Ok(count) if (count - 1.0).abs() < f64::EPSILON => Ok(()),
            other => Err(other),
        })
        .await;
    }

    /// Databases in a node's directory; one of them is the live one.
    pub fn databases(&self, node: u64) -> BTreeSet<String> {
        let all = names(&self.entry(node).data);
        all.into_iter().filter(|name| name == "db" || name.starts_with("db-")).collect()
    }

    /// A figure of a node's own, by the name it is shown under; the sum over its labels.
    pub async fn shown(&self, node: u64, name: &str) -> Result<f64, String> {
        let answer =
            super::http::get(self.entry(node).health, "/metrics").await.map_err(|e| e.to_string())?;
        let of = |line: &str| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with([' ', '{']) {
                return None;
            }
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        };
        let found: Vec<f64> = answer.lines().filter_map(of).collect();
        if found.is_empty() { Err(format!("node {node} shows no {name}")) } else { Ok(found.iter().sum()) }
    }
}

/// Who belongs to the cluster, as one node sees it: (node, learner).
pub fn members(status: &proto::GetStatusResponse) -> BTreeSet<(u64, bool)> {
    status.members.iter().map(|m| (m.node_id, m.learner)).collect()
}

/// A port that nobody has, and that this process was never given before: who was laid out with it may not have started yet, or
/// come back.
fn free_port() -> TcpListener {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    // Hundreds of misses in a row mean that something else is wrong.
    (0..1_000)
        .map(|_| rand::thread_rng().gen_range(PORTS))
        .find_map(|port| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
            GIVEN.lock().expect("never poisoned").insert(port).then_some(listener)
        })
        .expect("a free port of the loopback address")
}

/// Names of what is in a folder.
pub fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).map(|all| all.flatten().collect()).unwrap_or_else(|_| Vec::new());
    entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
