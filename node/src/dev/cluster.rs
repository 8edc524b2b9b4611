//! The nodes of a development cluster together: start, readiness, who leads, and the end of all of them.
//!
//! Every wait polls a condition and has an end; a node that ends by itself is reported with the tail of its log.

use super::desk::Desk;
use super::prepare::{self, DevFile};
use super::processes::NodeProcess;
use anyhow::{Context, Result, bail};
use okno_client::{CallError, v1 as proto};
use okno_storage::level::FEATURE_LEVEL;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// First start of three nodes on a busy machine, pinning and election included.
const READY_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(25);
/// A node asked for its status answers from memory.
const STATUS_WITHIN: Duration = Duration::from_secs(2);
const LOG_LINES_SHOWN: usize = 15;

pub struct DevCluster {
    pub file: DevFile,
    nodes: BTreeMap<u64, NodeProcess>,
    /// An administrator's calls to any node, and to each by itself.
    admin: Desk,
    admin_at: BTreeMap<u64, Desk>,
}

impl DevCluster {
    /// Opens a directory that holds a development cluster, or makes one. Nothing is started yet.
    pub fn open(directory: &Path, nodes: u64) -> Result<Self> {
        let file = if prepare::is_prepared(directory) {
            DevFile::read(directory)?
        } else {
            prepare::prepare(directory, nodes)?
        };
        let binary = std::env::current_exe().context("finding this program's own file")?;
        let processes = file
            .nodes
            .iter()
            .map(|node| (node.id, NodeProcess::new(node.id, &binary, &node.settings, &node.log)))
            .collect();
        let admin = Desk::anywhere(&file, "admin", "dev")?;
        let admin_at = file
            .nodes
            .iter()
            .map(|node| Ok((node.id, Desk::at(&file, node.id, "admin", "dev")?)))
            .collect::<Result<_>>()?;
        Ok(Self { file, nodes: processes, admin, admin_at })
    }

    pub fn node_ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub fn admin(&self) -> &Desk {
        &self.admin
    }

    /// A caller that may call any node.
    pub fn desk(&self, kind: &str, id: &str) -> Result<Desk> {
        Desk::anywhere(&self.file, kind, id)
    }

    /// A caller that calls one node only.
    pub fn desk_at(&self, node: u64, kind: &str, id: &str) -> Result<Desk> {
        Desk::at(&self.file, node, kind, id)
    }

    pub fn start_all(&mut self) -> Result<()> {
        for node in self.nodes.values_mut() {
            node.start()?;
        }
        self.write_file()
    }

    pub fn start(&mut self, node: u64) -> Result<()> {
        self.process(node)?.start()?;
        self.write_file()
    }

    /// SIGKILL.
    pub async fn kill(&mut self, node: u64) -> Result<()> {
        self.process(node)?.kill().await?;
        self.write_file()
    }

    /// SIGTERM to all at once; returns those that had to be killed or ended badly.
    pub async fn stop_all(&mut self) -> Vec<u64> {
        let stops = self.nodes.values_mut().filter(|node| node.is_started()).map(|node| async move {
            let id = node.id;
            let clean = matches!(node.stop().await, Ok(Some(status)) if status.success());
            (!clean).then_some(id)
        });
        let bad: Vec<u64> = futures::future::join_all(stops).await.into_iter().flatten().collect();
        if let Err(error) = self.write_file() {
            tracing::warn!(%error, "dev.json was not brought up to date");
        }
        bad
    }

    fn process(&mut self, node: u64) -> Result<&mut NodeProcess> {
        self.nodes.get_mut(&node).with_context(|| format!("there is no node {node}"))
    }

    pub fn pid(&self, node: u64) -> Option<u32> {
        self.nodes.get(&node).and_then(NodeProcess::pid)
    }

    /// Fails when a node that was started has ended by itself.
    pub fn check_running(&mut self) -> Result<()> {
        for node in self.nodes.values_mut() {
            if let Some(status) = node.ended()? {
                bail!(
                    "node {} has ended by itself ({status}); the end of {}:\n{}",
                    node.id,
                    node.log_path().display(),
                    node.log_tail(LOG_LINES_SHOWN)
                );
            }
        }
        Ok(())
    }

    /// Brings the process ids in `dev.json` up to date.
    fn write_file(&mut self) -> Result<()> {
        let pids: BTreeMap<u64, Option<u32>> =
            self.nodes.iter().map(|(id, node)| (*id, node.pid())).collect();
        for node in &mut self.file.nodes {
            node.pid = pids.get(&node.id).copied().flatten();
        }
        let running = pids.values().any(Option::is_some);
        self.file.pid = running.then(std::process::id);
        self.file.write()
    }

    /// A node's own view of itself.
    pub async fn status(&self, node: u64) -> Result<proto::GetStatusResponse, CallError> {
        let desk = &self.admin_at[&node];
        desk.status(STATUS_WITHIN).await
    }

    pub async fn digests(&self, node: u64) -> Result<Vec<proto::MemberDigest>, CallError> {
        self.admin_at[&node].digests().await
    }

    /// Waits until every started node serves and one of them leads, as all of them say; returns its id and term.
    pub async fn wait_ready(&mut self) -> Result<(u64, u64)> {
        let until = Instant::now() + READY_WITHIN;
        loop {
            self.check_running()?;
            let mut seen = BTreeMap::new();
            for node in self.started() {
                seen.insert(node, self.status(node).await);
            }
            let views: Vec<_> = seen
                .values()
                .filter_map(|status| status.as_ref().ok())
                .filter(|status| status.phase() == proto::NodePhase::Serving && status.leader != 0)
                .map(|status| (status.leader, status.term))
                .collect();
            if views.len() == seen.len()
                && let Some(first) = views.first()
                && views.iter().all(|view| view == first)
            {
                return Ok(*first);
            }
            if Instant::now() > until {
                let states: Vec<String> = seen
                    .iter()
                    .map(|(node, status)| match status {
                        Ok(status) => format!(
                            "node {node}: {:?}, leader {}, term {}, {}",
                            status.phase(),
                            status.leader,
                            status.term,
                            status.reason
                        ),
                        Err(error) => format!("node {node}: {error}"),
                    })
                    .collect();
                bail!("the cluster was not ready within {READY_WITHIN:?}:\n{}", states.join("\n"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A new cluster raises its level by itself, once all its nodes have met; one of an older release is raised by a person.
    pub async fn wait_level(&self) -> Result<()> {
        let until = Instant::now() + READY_WITHIN;
        loop {
            let mut levels = BTreeMap::new();
            for node in self.started() {
                levels.insert(node, self.status(node).await.map_or(0, |status| status.level));
            }
            if levels.values().all(|level| *level >= FEATURE_LEVEL) {
                return Ok(());
            }
            if Instant::now() > until {
                bail!(
                    "the cluster's levels are {levels:?}, the story needs {FEATURE_LEVEL}: oknoctl level raise"
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn started(&self) -> Vec<u64> {
        self.nodes.values().filter(|node| node.is_started()).map(|node| node.id).collect()
    }

    /// The node that leads now, as the nodes that answer say: the view of the highest term counts.
    pub async fn leader(&self) -> Result<u64> {
        let until = Instant::now() + READY_WITHIN;
        loop {
            let mut best = (0, 0);
            for node in self.started() {
                if let Ok(status) = self.status(node).await
                    && status.leader != 0
                {
                    best = best.max((status.term, status.leader));
                }
            }
            if best.1 != 0 {
                return Ok(best.1);
            }
            if Instant::now() > until {
                bail!("no node led for {READY_WITHIN:?}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a node has applied everything up to `index`; returns how far it is then.
    pub async fn wait_applied(&self, node: u64, index: u64, within: Duration) -> Result<u64> {
        let until = Instant::now() + within;
        loop {
            let status = self.status(node).await;
            match &status {
                Ok(status)
                    if status.applied_index >= index && status.phase() == proto::NodePhase::Serving =>
                {
                    return Ok(status.applied_index);
                }
                _ if Instant::now() > until => {
                    let found =
                        status.map(|status| format!("{:?} at {}", status.phase(), status.applied_index));
                    bail!("node {node} had not applied index {index} after {within:?}: {found:?}");
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }
}
