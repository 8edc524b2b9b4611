//! Copies of the database for who lacks what was cut: after a long absence, twice in a row, and interrupted at any moment.

use crate::{WITHIN, WRITERS, check, short, start, stop_and_verify};
use okno_tests::{
    cluster::{Cluster, okno},
    eventually,
    load::Load,
    members::names,
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Bytes a second of a copy that is to be met on its way: it is read through, summed and sent at this rate.
const SLOW: i64 = 2 << 20;
/// Between two writes of one writer: a fast machine must not write more than can be sent at that rate.
const REST: Duration = Duration::from_millis(20);
const INSTALLED: &str = "okno_cluster_snapshots_installed_total";
/// Starts that are cut short.
const KILLS: u64 = 8;

/// Works on until what `away` has is not enough to go on from.
async fn outrun(cluster: &Cluster, load: &Load, away_has: u64) {
    load.progress(150).await;
    cluster.wait_cut(away_has, WITHIN).await;
}

#[tokio::test]
async fn who_was_away_is_sent_a_copy_twice_in_a_row() {
    let mut cluster = start(&short(3)).await;
    let load = Load::start(&cluster, WRITERS);
    load.progress(100).await;
    let away = cluster.follower().await;
    let mut lived_in = BTreeSet::from([cluster.databases(away)]);
    for round in 1..=2 {
        cluster.kill(away);
        // On its disk, not what it said a moment before.
        let has = verified(&cluster, away);
        outrun(&cluster, &load, has).await;
        let began = Instant::now();
        cluster.start_node(away);
        cluster.wait_ready().await;
        let now = load.ledger().index_highest;
        cluster.wait_applied(away, now).await;
        println!("round {round}: caught up {:?} after its start", began.elapsed());
        cluster.wait_installed(away, WITHIN).await;
        load.progress(50).await;
        // The old database goes as soon as nobody reads it any more.
        let left = eventually("one database is left", WITHIN, async || {
            let left = cluster.databases(away);
            if left.len() == 1 { Ok(left) } else { Err(left) }
        })
        .await;
        assert!(lived_in.insert(left), "a copy has a directory of its own: {lived_in:?}");
    }
    // It counts again, and can lead.
    cluster
        .admin()
        .call(okno_client::v1::TransferLeaderRequest { meta: None, to: away })
        .await
        .expect("it leads");
    load.progress(50).await;
    check(&mut cluster, load).await;
    stop_and_verify(&mut cluster).await;
}

/// Moments of a transfer at which its receiver is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So long after its start.
    After(Duration),
    /// Files come in.
    Incoming,
    /// All of them are here; they are being opened, checked, named by `identity`, gone over to.
    Whole(Duration),
}

/// Another time each time; what it was is printed with what came of it.
fn at_random(below_ms: u64) -> Duration {
    Duration::from_millis(uuid::Uuid::new_v4().as_u64_pair().0 % below_ms)
}

async fn reach(cluster: &Cluster, node: u64, moment: Moment) {
    let data = cluster.entry(node).data.clone();
    match moment {
        Moment::After(time) => tokio::time::sleep(time).await,
        Moment::Incoming => {
            eventually("files come in", WITHIN, async || {
                let files = names(&data.join("incoming"));
                if files.len() > 2 { Ok(()) } else { Err(files) }
            })
            .await;
        }
        Moment::Whole(time) => {
            // What an earlier kill left is gone once it answers.
            eventually("it is up", WITHIN, async || cluster.shown(node, INSTALLED).await).await;
            eventually("all files are here", WITHIN, async || {
                let (now, installed) = (cluster.databases(node), cluster.shown(node, INSTALLED).await);
                if now.len() > 1 || installed == Ok(1.0) { Ok(()) } else { Err(now) }
            })
            .await;
            tokio::time::sleep(time).await;
        }
    }
}

/// The last index in a stopped node's log, which `okno verify` finds whole.
fn verified(cluster: &Cluster, node: u64) -> u64 {
    let data = cluster.entry(node).data.display().to_string();
    let output = okno(&["verify", "--dir", &data]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
    report["log_last"].as_u64().expect("an index")
}

#[tokio::test]
async fn a_receiver_killed_at_any_moment_is_whole_and_comes_to_an_end() {
    let plan = short(3).setting("raft", "snapshot_bytes_per_second", SLOW);
    let mut cluster = start(&plan).await;
    let load = Load::start_unhurried(&cluster, WRITERS, REST);
    load.progress(100).await;
    let node = cluster.follower().await;
    let mut has = cluster.status(node).await.expect("it runs").last_index;
    cluster.kill(node);
    outrun(&cluster, &load, has).await;
    let mut met = 0;
    for round in 0..KILLS {
        let moment = match round % 4 {
            0 => Moment::After(at_random(4_000)),
            1 => Moment::Incoming,
            2 => Moment::Whole(Duration::ZERO),
            _ => Moment::Whole(at_random(1_000)),
        };
        cluster.start_node(node);
        reach(&cluster, node, moment).await;
        cluster.kill(node);
        // The old database or the new one, but whole.
        let last = verified(&cluster, node);
        println!("killed {moment:?}: it had {has}, has {last}; {:?}", names(&cluster.entry(node).data));
        if last == has {
            met += 1;
            load.progress(20).await;
        } else {
            assert!(last > has, "what was here is here");
            has = last;
            outrun(&cluster, &load, has).await;
        }
    }
    assert!(met >= KILLS / 4, "only {met} of {KILLS} kills met a transfer");
    cluster.start_node(node);
    cluster.wait_ready().await;
    let now = load.ledger().index_highest;
    cluster.wait_applied(node, now).await;
    cluster.wait_installed(node, WITHIN).await;
    load.progress(50).await;
    check(&mut cluster, load).await;
    assert_eq!(cluster.databases(node).len(), 1, "nothing is left behind");
    stop_and_verify(&mut cluster).await;
}
