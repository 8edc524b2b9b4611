//! Rolling upgrade and downgrade under load, with two programs of which only the newer one reads what it writes once the
//! feature level is raised: clients notice nothing, and the older program then refuses and says why.
//!
//! The newer program is `okno-faulty`, told to act as the release after this one (`OKNO_NEXT_RELEASE`).

use okno_client::v1 as proto;
use okno_tests::{
    cluster::{Cluster, binary},
    eventually,
    load::Load,
    plan::Launch,
};
use std::{
    path::Path,
    time::{Duration, Instant},
};

const WRITERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);

fn put(cluster: &mut Cluster, node: u64, program: &Path, next: bool) {
    let launch = if next { Launch::default().env("OKNO_NEXT_RELEASE", "1") } else { Launch::default() };
    cluster.set_binary(program);
    cluster.set_launch(node, launch);
    cluster.start_node(node);
}

/// Every node gets the program, one after the other; returns the longest pause between two acknowledged writes.
async fn roll(cluster: &mut Cluster, load: &Load, program: &Path, next: bool) -> Duration {
    let mut longest = Duration::ZERO;
    for node in cluster.ids() {
        let began = Instant::now();
        let status = cluster.terminate(node).await;
        assert!(status.success(), "SIGTERM is a clean end: node {node} ended with {status}");
        put(cluster, node, program, next);
        longest = longest.max(load.first_write_after(began, PATIENCE).await);
        cluster.wait_ready().await;
        load.progress(50).await;
    }
    longest
}

/// What each member is known to understand, once all have said it.
async fn known(cluster: &Cluster) -> Vec<u32> {
    eventually("every member has said what it understands", PATIENCE, async || {
        let status = cluster.status(1).await.map_err(|error| error.to_string())?;
        let levels: Vec<u32> = status.members.iter().map(|member| member.feature_level).collect();
        if levels.iter().all(|level| *level > 0) { Ok(levels) } else { Err(format!("{levels:?}")) }
    })
    .await
}

fn raise(to: u32, dry_run: bool) -> proto::RaiseLevelRequest {
    proto::RaiseLevelRequest { meta: None, to, dry_run }
}

#[tokio::test]
async fn a_newer_program_comes_goes_back_and_stays() {
    let (older, newer) = (binary(), okno_tests::faulty());
    let mut cluster = Cluster::start(3).await;
    let admin = cluster.admin();
    // A new cluster is at its release's level by itself.
    let level = eventually("the new cluster has reached its level", PATIENCE, async || {
        let status = admin.status().await.map_err(|error| error.to_string())?;
        let known = status.members.iter().map(|member| member.feature_level).max().unwrap_or_default();
        if known > 0 && status.level == known {
            Ok(known)
        } else {
            Err(format!("level {} of {known}", status.level))
        }
    })
    .await;
    let refused = admin.once(raise(level + 1, false)).await;
    let refused = match refused {
        // Whoever was asked may not lead; the client finds the leader.
        Err(error) if error.reason() == "NOT_LEADER" => admin.call(raise(level + 1, false)).await,
        other => other,
    };
    assert_eq!(refused.expect_err("nobody knows that level").reason(), "FEATURE_LEVEL_UNSUPPORTED");

    let load = Load::start(&cluster, WRITERS);
    load.progress(100).await;
    let up = roll(&mut cluster, &load, &newer, true).await;
    assert_eq!(known(&cluster).await, [level + 1; 3]);
    let down = roll(&mut cluster, &load, &older, false).await;
    assert_eq!(known(&cluster).await, [level; 3]);
    roll(&mut cluster, &load, &newer, true).await;
    println!("longest wait for a write: {up:?} upgrading, {down:?} downgrading");

    let dry = admin.call(raise(0, true)).await.expect("a dry run");
    assert_eq!((dry.from, dry.to, dry.meta), (level, level + 1, None));
    let raised = admin.call(raise(0, false)).await.expect("every member knows it");
    assert_eq!((raised.from, raised.to), (level, level + 1));
    load.progress(100).await;
    for node in cluster.ids() {
        eventually("the level is raised everywhere", PATIENCE, async || {
            let status = cluster.status(node).await.map_err(|error| error.to_string())?;
            if status.level == level + 1 { Ok(()) } else { Err(format!("level {}", status.level)) }
        })
        .await;
    }

    // What is written now the older program cannot read: it closes itself, says what is needed, and remembers nothing.
    let node = cluster.follower().await;
    cluster.terminate(node).await;
    put(&mut cluster, node, &older, false);
    let status = eventually("the older program has closed itself", PATIENCE, async || {
        let status = cluster.status(node).await.map_err(|error| error.to_string())?;
        if status.phase() == proto::NodePhase::Quarantined { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    let expected = format!("install a version that knows level {}", level + 1);
    assert!(status.reason.contains(&expected), "{status:?}");
    load.progress(50).await;
    cluster.terminate(node).await;
    put(&mut cluster, node, &newer, true);
    cluster.wait_ready().await;
    load.progress(50).await;

    let ledger = load.finish().await;
    assert!(ledger.faults.is_empty(), "the client library hides all of it: {:?}", ledger.faults);
    cluster.wait_applied(node, ledger.index_highest).await;
    ledger.assert_on(&cluster, &cluster.ids()).await;
    cluster.assert_alike().await;
}
