//! Backups that are cut off, rot, or come back beside the cluster they were taken of.

use crate::bench::Bench;
use crate::drill::{Drill, Need};
use crate::drills::process::{NEXT_WRITE_WITHIN, REDUNDANT_WITHIN, SOME_WRITES};
use crate::harness::cluster::{Cluster, bare, sibling};
use crate::harness::eventually;
use crate::harness::plan::Plan;
use okno_checks::invariants::Invariant;
use rand::Rng;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

pub const BACKUP_CUT_OFF: Drill = Drill {
    name: "backup-cut-off",
    faults: &[44],
    needs: &[Need::Oknoctl],
    scenario: "Under load, nodes are killed while they take a backup; then the target goes away while one is taken, and \
               comes back.",
    expected: "The backup before is whole each time and the cluster serves on; without its target a node refuses to back \
               up and writes nothing where it was; afterwards backups are taken again.",
    run: |bench| Box::pin(cut_off(bench)),
};

pub const BACKUP_DAMAGED: Drill = Drill {
    name: "backup-damaged",
    faults: &[45],
    needs: &[Need::Oknoctl],
    scenario: "One bit flips in files of a backup, one file after the other, and each time it is restored; then into a \
               directory that a node lives in.",
    expected: "Every restore is refused before a directory becomes a node, and says which file is wrong; the live \
               directory is not touched. Undamaged, it restores.",
    run: |bench| Box::pin(damaged(bench)),
};

pub const RESTORED_MEETS_OLD: Drill = Drill {
    name: "restored-meets-old",
    faults: &[46],
    needs: &[Need::Oknoctl],
    scenario: "One node's directory is replaced by one restored from a backup, as a member of a new cluster with the old \
               members' ids and addresses, and started among the old cluster's nodes.",
    expected: "With the old settings it refuses to start; with its own it is let in by nobody and serves nothing. The old \
               cluster serves on, and takes its own node back.",
    run: |bench| Box::pin(meets_old(bench)),
};

/// A backup under load, and a restore of a small cluster.
const BACKUP_WITHIN: Duration = Duration::from_secs(60);
/// How long a restored stranger is watched.
const WATCHED: Duration = Duration::from_secs(5);
/// Backups that are cut off by a kill.
const KILLS: u64 = 3;

async fn oknoctl(cluster: &Cluster, arguments: &[&str]) -> Result<Value, String> {
    crate::harness::members::oknoctl(cluster, arguments).await.result()
}

/// A cluster whose nodes share a target beside it. Returns the target's folder.
async fn begin(bench: &mut Bench, rate: &str) -> String {
    let plan = Plan::default().setting("backup", "same_medium", true).setting("backup", "rate", rate);
    let cluster = bench.prepare(plan);
    let target = cluster.scratch().join("target").display().to_string();
    cluster.set("backup", "target", target.as_str());
    oknoctl(cluster, &["backup", "init", "--target", &target]).await.expect("a target is prepared");
    bench.begin().await;
    target
}

/// Takes a backup; who was busy with one of its own accord is waited for.
async fn take(bench: &mut Bench) -> String {
    let cluster = bench.cluster();
    let made =
        eventually("a backup", BACKUP_WITHIN, async || oknoctl(cluster, &["backup", "now"]).await).await;
    made["backup"]["id"].as_str().expect("an id").to_owned()
}

async fn cut_off(bench: &mut Bench) {
    bench.injected("killed-backups", 0);
    bench.injected("targets-removed", 0);
    // Slow enough to be met on the way: the program and the tables take some seconds.
    let target = begin(bench, "8MiB").await;
    let first = take(bench).await;
    let verify = ["backup", "verify", "--target", &target, &first];
    for _ in 0..KILLS {
        let node = bench.cluster().follower().await;
        let fault = bench.fault(format!("node {node} is killed while it backs up"));
        let mut asked = tokio::process::Command::from(bare(&sibling("oknoctl")))
            .arg("--config")
            .arg(&bench.cluster().file.context)
            .args(["--node", &node.to_string(), "backup", "now"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("oknoctl can be started");
        let checkpoint = bench.cluster().entry(node).data.join("checkpoint");
        eventually("a backup on its way", BACKUP_WITHIN, async || {
            let ended = asked.try_wait().ok().flatten();
            if checkpoint.exists() || ended.is_some() { Ok(()) } else { Err("there is no copy yet") }
        })
        .await;
        let pause = bench.rng.gen_range(0..400);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let met = asked.try_wait().is_ok_and(|ended| ended.is_none());
        bench.cluster().kill(node);
        bench.injected("killed-backups", u64::from(met));
        let whole = oknoctl(bench.cluster(), &verify).await;
        bench.check(Invariant::Restorable, whole.is_ok(), format!("the backup before: {whole:?}"));
        bench.cluster().start_node(node);
        bench.over(fault);
        bench.recovered(fault, NEXT_WRITE_WITHIN).await;
        bench.redundant(fault, REDUNDANT_WITHIN).await;
    }

    let fault = bench.fault("the target goes away");
    let aside = format!("{target}.aside");
    std::fs::rename(&target, &aside).expect("both stand in one folder");
    std::fs::create_dir(&target).expect("an empty mount point");
    bench.injected("targets-removed", 1);
    let refused = oknoctl(bench.cluster(), &["backup", "now"]).await;
    let said = refused.as_ref().is_err_and(|text| text.contains("not a backup target"));
    bench.check(Invariant::Restorable, said, format!("without its target: {refused:?}"));
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
    // Fails if anything was written where the medium was.
    std::fs::remove_dir(&target).expect("nothing was written under the empty mount point");
    std::fs::rename(&aside, &target).expect("both stand in one folder");
    bench.over(fault);
    let whole = oknoctl(bench.cluster(), &verify).await;
    bench.check(Invariant::Restorable, whole.is_ok(), format!("the target is back: {whole:?}"));
    let last = take(bench).await;
    let whole = oknoctl(bench.cluster(), &["backup", "verify", "--target", &target, &last]).await;
    bench.check(Invariant::Restorable, whole.is_ok(), format!("a backup taken afterwards: {whole:?}"));
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}

/// Flips one bit of a file; doing it again mends it.
fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("the drill's own files");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("the drill's own files");
}

/// Every file of backups and archive on a target.
fn files(target: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = walkdir::WalkDir::new(target)
        .into_iter()
        .map(|entry| entry.expect("the drill's own files"))
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.into_path())
        .filter(|path| path.extension().is_none_or(|end| end != "lock"))
        .filter(|path| {
            path.components().any(|part| part.as_os_str() == "objects" || part.as_os_str() == "backups")
        })
        .collect();
    found.sort();
    found
}

fn members(cluster: &Cluster) -> String {
    let all: Vec<String> =
        cluster.file.nodes.iter().map(|node| format!("{}={}", node.id, node.peers)).collect();
    all.join(",")
}

/// Restores one node of a new cluster with the members of the old one.
async fn restore(cluster: &Cluster, target: &str, node: u64, into: &Path, id: &str) -> Result<Value, String> {
    let (members, to) = (members(cluster), format!("{node}={}", into.display()));
    let arguments = ["restore", "--from", target, "--members", &members, "--new-cluster", id, "--to", &to];
    oknoctl(cluster, &arguments).await
}

async fn damaged(bench: &mut Bench) {
    bench.injected("flipped-files", 0);
    let target = begin(bench, "0B").await;
    take(bench).await;
    // Nothing may be added while files are compared: one set of nodes, one restore after the other.
    let into = bench.scratch().join("restored");
    let id = uuid::Uuid::new_v4().to_string();
    let fault = bench.fault("files of the backup rot, one after the other");
    // The programs are in the backup too: large files, a few of all kinds do.
    let mut wrong = Vec::new();
    for path in files(&target) {
        let size = usize::try_from(path.metadata().expect("the drill's own files").len()).expect("it fits");
        if size == 0 || size > 8 * 1024 * 1024 {
            continue;
        }
        let at = bench.rng.gen_range(0..size);
        flip(&path, at);
        bench.injected("flipped-files", 1);
        let refused = restore(bench.cluster(), &target, 1, &into, &id).await;
        let is_node = into.join("identity").exists();
        flip(&path, at);
        if refused.is_ok() || is_node {
            wrong.push(format!("{} byte {at}: {refused:?}", path.display()));
        }
    }
    bench.over(fault);
    bench.check(Invariant::Restorable, wrong.is_empty(), format!("restored although damaged: {wrong:?}"));
    let leader = bench.cluster().leader().await;
    let live = bench.cluster().entry(leader).data.clone();
    let refused = restore(bench.cluster(), &target, leader, &live, &id).await;
    let said = refused.as_ref().is_err_and(|text| text.contains("is not empty"));
    bench.check(Invariant::Restorable, said, format!("into a live directory: {refused:?}"));
    let restored = restore(bench.cluster(), &target, 1, &into, &id).await;
    bench.check(Invariant::Restorable, restored.is_ok(), format!("undamaged: {restored:?}"));
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}

async fn meets_old(bench: &mut Bench) {
    bench.injected("restored-nodes", 0);
    let target = begin(bench, "0B").await;
    take(bench).await;
    let node = bench.cluster().follower().await;
    let id = uuid::Uuid::new_v4().to_string();
    let fault = bench.fault(format!("node {node} is replaced by a restored one"));
    bench.cluster().kill(node);
    let data = bench.cluster().entry(node).data.clone();
    let aside = bench.scratch().join("aside");
    std::fs::rename(&data, &aside).expect("both stand in one file system");
    restore(bench.cluster(), &target, node, &data, &id).await.expect("an undamaged backup restores");
    bench.injected("restored-nodes", 1);
    let (status, said) = bench.cluster().start_refused(node, BACKUP_WITHIN);
    let refused = !status.success() && said.contains("belongs to cluster");
    bench.check(Invariant::StopsWhenWrong, refused, format!("with the old settings: {status}"));

    let old = bench.cluster().file.cluster_id.to_string();
    bench.cluster().set_of(node, "cluster", "id", id.as_str());
    bench.cluster().start_node(node);
    let watched = std::time::Instant::now();
    let mut served = Vec::new();
    while watched.elapsed() < WATCHED {
        if let Ok(status) = bench.cluster().status(node).await {
            // It may serve as one of a cluster that it alone is up of; it must follow nobody.
            if status.leader != 0 {
                served.push(format!("led by {} in term {}", status.leader, status.term));
            }
        }
        tokio::time::sleep(crate::harness::POLL).await;
    }
    bench.check(Invariant::StopsWhenWrong, served.is_empty(), format!("among the old cluster: {served:?}"));
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
    bench.cluster().kill(node);
    bench.cluster().set_of(node, "cluster", "id", old.as_str());
    std::fs::remove_dir_all(&data).expect("the drill's own files");
    std::fs::rename(&aside, &data).expect("both stand in one file system");
    bench.cluster().start_node(node);
    bench.over(fault);
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}
