//! Members, copies and forced recovery with real processes under load: nothing acknowledged is lost, all members are alike,
//! and every refusal says why (rules 12 and 14, design §4 and §5).

mod changes;
mod copies;
mod recovery;

use okno_tests::{
    cluster::Cluster,
    eventually,
    load::{Ledger, Load},
    members::numbers,
    plan::Plan,
};
use serde_json::Value;
use std::time::Duration;

/// For a node to join, catch up and vote, or to close itself, on a machine that does other things as well.
const WITHIN: Duration = Duration::from_secs(60);
const WRITERS: usize = 4;
/// How long a node that must stay outside is watched.
const WATCHED: Duration = Duration::from_secs(3);

/// A log so short that whoever joins or was away lacks its beginning.
fn short(nodes: usize) -> Plan {
    Plan::of(nodes).setting("raft", "keep_log_for", "1s").setting("raft", "keep_log_entries", 100)
}

/// A cluster that serves, filled, at the level from which members can be changed.
async fn start(plan: &Plan) -> Cluster {
    let mut cluster = Cluster::prepare_as(plan);
    cluster.start_all();
    cluster.wait_ready().await;
    cluster.fill().await;
    let admin = cluster.admin();
    eventually("the new cluster has reached its level", WITHIN, async || {
        let status = admin.status().await.map_err(|error| error.to_string())?;
        if status.level >= 2 { Ok(()) } else { Err(format!("level {}", status.level)) }
    })
    .await;
    cluster
}

/// Everything acknowledged is on every node, all nodes are alike, and what they leave behind is whole.
async fn check(cluster: &mut Cluster, load: Load) -> Ledger {
    let ledger = load.finish().await;
    ledger.assert_on(cluster, &cluster.ids()).await;
    cluster.assert_alike().await;
    println!("{} writes acknowledged, {} attempts hidden", ledger.writes.len(), ledger.retries);
    ledger
}

async fn stop_and_verify(cluster: &mut Cluster) {
    for node in cluster.running() {
        assert!(cluster.terminate(node).await.success());
        cluster.assert_verified(node);
    }
}

/// What a node that was taken out says of itself; then its process ends and it leaves the list.
async fn farewell(cluster: &mut Cluster, node: u64) {
    let (reason, remedy) = cluster.wait_closed(node, WITHIN).await;
    assert!(reason.starts_with("removed") && remedy.contains("okno init --join"), "{reason}; {remedy}");
    cluster.terminate(node).await;
    cluster.retire(node);
}

fn quorum(change: &Value, when: &str) -> (Vec<u64>, Vec<u64>, u64) {
    let quorum = &change[when];
    (
        numbers(&quorum["voters"]),
        numbers(&quorum["learners"]),
        quorum["votes"].as_u64().expect("a number of votes"),
    )
}

/// Who votes, as the leader sees it.
async fn voters(cluster: &Cluster) -> Vec<u64> {
    let leader = cluster.leader().await;
    let status = cluster.status(leader).await.expect("the leader answers");
    status.members.iter().filter(|m| !m.learner).map(|m| m.node_id).collect()
}
