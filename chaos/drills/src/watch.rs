//! An onlooker during a drill: who claims to lead in which term, and how much memory the nodes take.

use crate::harness::cluster::{CATCH_UP_WITHIN, Cluster};
use crate::harness::desk::Desk;
use crate::harness::{POLL, in_time};
use crate::limits;
use okno_checks::invariants::{Invariant, Verdict};
use okno_client::v1 as proto;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Each node is asked this often.
const EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Seen {
    /// Term → nodes that were said to lead it.
    leaders: BTreeMap<u64, BTreeSet<u64>>,
    answers: u64,
    resident_max: BTreeMap<u64, u64>,
}

pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Watch {
    pub fn start(cluster: &Cluster) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut tasks = Vec::new();
        for node in cluster.ids() {
            let desk = cluster.desk_at(node, "admin", "dev");
            let processes = cluster.processes();
            let seen = Arc::clone(&seen);
            tasks.push(tokio::spawn(async move {
                loop {
                    look(node, &desk, &processes, &seen).await;
                    tokio::time::sleep(EVERY).await;
                }
            }));
        }
        Self { seen, tasks }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn one_leader(&self) -> Verdict {
        let seen = self.seen();
        let doubled: Vec<String> = seen
            .leaders
            .iter()
            .filter(|(_, leaders)| leaders.len() > 1)
            .map(|(term, leaders)| format!("term {term}: {leaders:?}"))
            .collect();
        let detail = if doubled.is_empty() {
            format!("{} terms in {} answers of nodes", seen.leaders.len(), seen.answers)
        } else {
            doubled.join("; ")
        };
        Verdict { id: Invariant::OneLeader, held: doubled.is_empty() && !seen.leaders.is_empty(), detail }
    }

    pub fn terms(&self) -> Vec<u64> {
        self.seen().leaders.keys().copied().collect()
    }

    /// The most any node took, in bytes.
    pub fn resident_max(&self) -> BTreeMap<u64, u64> {
        self.seen().resident_max.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn look(node: u64, desk: &Desk, processes: &Mutex<BTreeMap<u64, u32>>, seen: &Mutex<Seen>) {
    let process = processes.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied();
    let Some(process) = process else { return };
    let resident = limits::resident(process);
    let status = desk.status().await;
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(resident) = resident {
        let most = seen.resident_max.entry(node).or_default();
        *most = (*most).max(resident);
    }
    if let Ok(status) = status {
        seen.answers += 1;
        if status.leader != 0 {
            seen.leaders.entry(status.term).or_default().insert(status.leader);
        }
    }
}

/// Returns once every one of the nodes serves and has applied what the leader had committed when this was called.
pub async fn caught_up(cluster: &Cluster, nodes: &[u64]) {
    let aim = loop {
        let mut best = None;
        for node in nodes {
            if let Ok(status) = cluster.status(*node).await
                && status.role() == proto::MemberRole::Leader
            {
                best = best.max(Some((status.term, status.commit_index)));
            }
        }
        if let Some((_, index)) = best {
            break index;
        }
        tokio::time::sleep(POLL).await;
    };
    for node in nodes {
        loop {
            if let Ok(status) = cluster.status(*node).await
                && status.phase() == proto::NodePhase::Serving
                && status.leader != 0
                && status.applied_index >= aim
            {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Waits until a node has applied an index; the error says how far it is.
pub async fn applied(cluster: &Cluster, node: u64, index: u64) -> Result<(), String> {
    in_time(&format!("node {node} at index {index}"), CATCH_UP_WITHIN, async || {
        match cluster.status(node).await {
            Ok(status) if status.applied_index >= index && status.phase() == proto::NodePhase::Serving => {
                Ok(())
            }
            Ok(status) => Err(format!("{:?} at {}", status.phase(), status.applied_index)),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
}
