//! One survivor: a new cluster from the only directory that is left, offline, confirmed, and grown again. The old cluster's
//! members are nothing to it.

use crate::{WATCHED, WITHIN, WRITERS, check, short, start, stop_and_verify};
use okno_client::v1 as proto;
use okno_tests::{
    cluster::Cluster,
    eventually,
    load::Load,
    members::{Said, names, oknoctl},
};
use std::{collections::BTreeMap, path::Path, time::Instant};
use uuid::Uuid;

/// `oknoctl recover` of a node's directory.
async fn recover(cluster: &Cluster, node: u64, confirm: Option<&str>) -> Said {
    let data = text(&cluster.entry(node).data);
    let mut arguments = vec!["recover", "--data-dir", &data];
    arguments.extend(confirm.iter().flat_map(|id| ["--confirm", *id]));
    oknoctl(cluster, &arguments).await
}

fn text(path: &Path) -> String {
    path.to_str().expect("temporary folders have plain names").to_owned()
}

/// Every file of a directory and what is in it.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    walkdir::WalkDir::new(directory)
        .into_iter()
        .map(|entry| entry.expect("the test's own files"))
        .filter(|entry| entry.file_type().is_file())
        // A lock is taken, and RocksDB says in files of its own that it was opened.
        .filter(|entry| !["lock", "LOCK"].contains(&&*entry.file_name().to_string_lossy()))
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with("LOG"))
        .map(|entry| (text(entry.path()), std::fs::read(entry.path()).expect("the test's own files")))
        .collect()
}

/// Recovers the stopped node and starts it as a cluster of its own; returns the new cluster's id and generation.
async fn refound(cluster: &mut Cluster, node: u64, at_least: u64) -> (Uuid, u64) {
    let old = cluster.file.cluster_id.to_string();
    let data = cluster.entry(node).data.clone();
    let before = contents(&data);
    let looked = recover(cluster, node, None).await.done();
    assert_eq!((&looked["dry_run"], &looked["cluster"]), (&true.into(), &old.as_str().into()), "{looked}");
    let last = looked["last_index"].as_u64().expect("an index");
    assert!(last >= at_least, "{looked}");
    assert!(contents(&data) == before, "a look changes nothing");
    let other = recover(cluster, node, Some(&Uuid::new_v4().to_string())).await;
    assert_eq!(other.code, 2, "{other:?}");
    assert!(other.error.contains("nothing was changed"), "{other:?}");
    assert!(contents(&data) == before, "nothing was changed");

    let began = Instant::now();
    let made = recover(cluster, node, Some(&old)).await.done();
    println!("recovered in {:?}: {made}", began.elapsed());
    assert_eq!(made["last_index"], last, "the last index recovered is stated: {made}");
    assert_eq!(made["former_cluster"], old.as_str());
    let kept = names(&data).into_iter().find(|name| name == &format!("before-recovery-{last}"));
    assert!(kept.is_some(), "the old database stays: {:?}", names(&data));
    let id: Uuid = made["cluster"].as_str().and_then(|id| id.parse().ok()).expect("a cluster id");
    assert_ne!(id.to_string(), old);
    // Settings of the old cluster do not start it.
    let (status, said) = cluster.start_refused(node, WITHIN);
    assert!(!status.success() && said.contains("belongs to cluster"), "{status}: {said}");
    cluster.refound(node, id);
    cluster.assert_verified(node);
    cluster.start_node(node);
    let (leader, _) = cluster.wait_ready().await;
    assert_eq!(leader, node);
    (id, made["generation"].as_u64().expect("a number"))
}

/// Adds nodes of these ids, one after the other, under load.
async fn grow(cluster: &mut Cluster, ids: [u64; 2]) {
    for id in ids {
        cluster.make_joiner(id);
    }
    let load = Load::start(cluster, WRITERS);
    for id in ids {
        cluster.start_node(id);
        let took = cluster.add_voter(id, WITHIN).await;
        println!("node {id} votes {took:?} after it was added");
    }
    load.progress(100).await;
    check(cluster, load).await;
}

#[tokio::test]
async fn one_survivor_becomes_a_cluster_and_grows_again_twice() {
    let mut cluster = start(&short(3)).await;
    let load = Load::start(&cluster, WRITERS);
    load.progress(400).await;
    let survivor = cluster.follower().await;
    let others: Vec<u64> = cluster.ids().into_iter().filter(|node| *node != survivor).collect();
    let ledger = load.finish().await;
    // Everything acknowledged is on all of them: what is recovered can be told exactly.
    ledger.assert_on(&cluster, &cluster.ids()).await;
    for node in &others {
        cluster.kill(*node);
    }
    let used = recover(&cluster, survivor, None).await;
    assert_eq!(used.code, 2, "{used:?}");
    assert!(used.error.contains("in use"), "{used:?}");
    cluster.kill(survivor);
    let old_entry = cluster.entry(others[0]).clone();

    let (_, generation) = refound(&mut cluster, survivor, ledger.index_highest).await;
    assert_eq!(generation, 2);
    ledger.assert_on(&cluster, &[survivor]).await;
    // The old members' ids are used up, those of the recovered cluster's list too.
    for old in &others {
        let add = ["member", "add", &old.to_string(), "--address", &old_entry.peers.to_string()];
        assert_eq!(oknoctl(&cluster, &add).await.refused(), "MEMBER_ID_USED");
    }
    grow(&mut cluster, [11, 12]).await;
    ledger.assert_on(&cluster, &cluster.ids()).await;

    // A member of the old cluster comes back: nobody lets it in, and it serves nothing.
    cluster.file.nodes.push(old_entry.clone());
    cluster.start_node(old_entry.id);
    let old = cluster.desk_at(old_entry.id, "admin", "dev");
    eventually("it answers", WITHIN, async || old.status().await.map_err(|error| error.to_string())).await;
    eventually("it says why nobody speaks with it", WITHIN, async || {
        let log = cluster.log(old_entry.id);
        (log.contains("cluster") && log.contains("no link to peer")).then_some(()).ok_or("nothing is said")
    })
    .await;
    let watched = Instant::now();
    while watched.elapsed() < WATCHED {
        if let Ok(status) = old.status().await {
            assert_eq!(status.leader, 0, "it follows nobody: {status:?}");
        }
        tokio::time::sleep(okno_tests::POLL).await;
    }
    cluster.kill(old_entry.id);
    cluster.retire(old_entry.id);
    cluster.assert_alike().await;

    // Lost again but for one that joined: it is recovered as well.
    let load = Load::start(&cluster, WRITERS);
    load.progress(200).await;
    let second = load.finish().await;
    second.assert_on(&cluster, &cluster.ids()).await;
    for node in cluster.ids() {
        cluster.kill(node);
    }
    let (_, generation) = refound(&mut cluster, 12, second.index_highest).await;
    assert_eq!(generation, 3);
    grow(&mut cluster, [21, 22]).await;
    for ledger in [&ledger, &second] {
        ledger.assert_on(&cluster, &cluster.ids()).await;
    }
    let status = cluster.admin().call(proto::GetStatusRequest {}).await.expect("it answers");
    assert_eq!(status.members.len(), 3, "{status:?}");
    cluster.assert_alike().await;
    stop_and_verify(&mut cluster).await;
}
