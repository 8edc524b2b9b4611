//! Copies of the database on their way to a member that lacks what was cut: cut off, damaged, and two in a row.

use crate::bench::Bench;
use crate::drill::{Drill, Need};
use crate::drills::membership::short;
use crate::drills::network;
use crate::drills::process::{NEXT_WRITE_WITHIN, REDUNDANT_WITHIN, SOME_WRITES};
use crate::harness::eventually;
use crate::harness::members::names;
use crate::harness::plan::{Launch, Plan};
use crate::net::fault::{self, Fault};
use crate::net::lab::{self, Lab};
use okno_checks::invariants::Invariant;
use rand::Rng;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const SNAPSHOT_CUT: Drill = Drill {
    name: "snapshot-cut",
    faults: &[30],
    needs: &[Need::Root, Need::NetworkNamespaces],
    scenario: "Under load a follower is away until it needs a copy of the database. While it is sent, the follower is \
               killed, then the sender, then everything between the two is dropped; then it is away again and needs a \
               second copy at once.",
    expected: "After each cut its directory is whole; the transfer goes on or begins again, and comes to its end; the second \
               copy as well.",
    run: |bench| Box::pin(snapshot_cut(bench)),
};

pub const SNAPSHOT_DAMAGED: Drill = Drill {
    name: "snapshot-damaged",
    faults: &[12],
    needs: &[],
    scenario: "Under load a follower needs a copy of the database. One byte flips in the copy at its sender, while it is \
               sent; another in what the follower has received, while it is down.",
    expected: "Nothing damaged is installed: what is wrong is found by its sum and sent again, or copied again; the follower \
               comes to the same state as the others.",
    run: |bench| Box::pin(snapshot_damaged(bench)),
};

/// Bytes a second: a transfer takes seconds, so that it can be met.
const SLOW: i64 = 512 << 10;
const SENT_WITHIN: Duration = Duration::from_secs(60);
/// A damaged copy is refused some times in three transfers; then another is taken, read through and sent, at [`SLOW`] bytes a
/// second each, of a database that has grown under the load meanwhile.
const INSTALLED_WITHIN: Duration = Duration::from_secs(240);
/// How long the line is cut: longer than a link waits for an answer.
const CUT_FOR: Duration = Duration::from_secs(6);
const INSTALLED: &str = "okno_cluster_snapshots_installed_total";

/// Kills a node and works on until it needs a copy.
async fn outrun(bench: &mut Bench, node: u64) {
    let has = bench.cluster().status(node).await.expect("it runs").last_index;
    bench.cluster().kill(node);
    overtake(bench, has).await;
}

async fn overtake(bench: &mut Bench, index: u64) {
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
    bench.cluster().wait_cut(index, SENT_WITHIN).await;
}

/// Waits until files of a copy come in at a node.
async fn incoming(bench: &mut Bench, node: u64) -> PathBuf {
    let place = bench.cluster().entry(node).data.join("incoming");
    eventually("files of a copy come in", SENT_WITHIN, async || {
        let files = names(&place);
        if files.len() > 2 { Ok(()) } else { Err(files) }
    })
    .await;
    place
}

async fn installed(bench: &mut Bench, node: u64) {
    let cluster = bench.cluster();
    eventually("the copy is installed", INSTALLED_WITHIN, async || {
        match cluster.shown(node, INSTALLED).await {
            Ok(count) if count >= 1.0 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

fn whole(bench: &mut Bench, node: u64, when: &str) {
    let verified = bench.cluster().verified(node);
    let text = format!("{when}: {}", verified.as_ref().err().map_or("whole", String::as_str));
    bench.check(Invariant::JournalWhole, verified.is_ok(), text);
}

async fn snapshot_cut(bench: &mut Bench) {
    for kind in ["receivers-killed", "senders-killed", "packets-dropped", "second-copies"] {
        bench.injected(kind, 0);
    }
    let nodes: Vec<u64> = (1..=3).collect();
    bench.keep(Lab::new(&nodes));
    let mut plan: Plan = short().setting("raft", "snapshot_bytes_per_second", SLOW);
    for node in &nodes {
        plan = plan.host(*node, lab::address(*node).into()).launch(*node, Launch::by(Lab::prefix(*node)));
    }
    bench.start(plan).await;
    let node = bench.cluster().follower().await;
    let fault = bench.fault(format!("node {node} is away until the log is cut beyond what it has"));
    outrun(bench, node).await;

    bench.cluster().start_node(node);
    incoming(bench, node).await;
    bench.note("the receiver is killed on the way");
    bench.cluster().kill(node);
    bench.injected("receivers-killed", 1);
    whole(bench, node, "after the receiver was killed");

    bench.cluster().start_node(node);
    incoming(bench, node).await;
    let leader = network::led(bench).await.0;
    bench.note(format!("node {leader}, the sender, is killed on the way"));
    bench.cluster().kill(leader);
    bench.injected("senders-killed", 1);
    // Two of three are there, and one of them lacks the log: nobody is served before the sender is back.
    bench.cluster().start_node(leader);
    bench.served_since(Instant::now(), SENT_WITHIN).await;

    let sender = network::led(bench).await.0;
    if sender == node || bench.cluster().shown(node, INSTALLED).await != Ok(0.0) {
        installed(bench, node).await;
        outrun(bench, node).await;
        bench.cluster().start_node(node);
    }
    incoming(bench, node).await;
    let sender = network::led(bench).await.0;
    bench.note("nothing passes between sender and receiver");
    let rules = fault::between(sender, node, Fault::Drop);
    tokio::time::sleep(CUT_FOR).await;
    let caught = fault::heal(rules);
    bench.injected("packets-dropped", caught);
    installed(bench, node).await;
    bench.over(fault);
    bench.redundant(fault, REDUNDANT_WITHIN).await;

    let fault = bench.fault("a second copy at once");
    outrun(bench, node).await;
    bench.cluster().start_node(node);
    installed(bench, node).await;
    bench.injected("second-copies", 1);
    bench.over(fault);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

/// Flips a byte of the largest file in a folder; `None`: there is none yet.
fn flip(bench: &mut Bench, folder: &Path, but: &str) -> Option<String> {
    let files = walkdir::WalkDir::new(folder).into_iter().flatten().filter(|e| e.file_type().is_file());
    let largest = files
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with(but))
        .filter_map(|entry| Some((entry.metadata().ok()?.len(), entry.into_path())))
        .max()?;
    let (size, path) = largest;
    let at = usize::try_from(size).ok().filter(|size| *size > 0).map(|size| bench.rng.gen_range(0..size))?;
    let mut bytes = std::fs::read(&path).ok()?;
    *bytes.get_mut(at)? ^= 1;
    // A file of its own: a copy at its sender shares its tables with the living database, which is not to be hurt.
    let beside = path.with_extension("flipped");
    std::fs::write(&beside, bytes).ok()?;
    std::fs::rename(&beside, &path).ok()?;
    Some(format!("byte {at} of {size} of {}", path.file_name()?.to_string_lossy()))
}

async fn snapshot_damaged(bench: &mut Bench) {
    bench.injected("bytes-flipped-at-sender", 0);
    bench.injected("bytes-flipped-at-receiver", 0);
    bench.start(short().setting("raft", "snapshot_bytes_per_second", SLOW)).await;
    let node = bench.cluster().follower().await;
    let fault = bench.fault(format!("node {node} needs a copy, which is damaged on its way"));
    outrun(bench, node).await;
    let leader = network::led(bench).await.0;
    let copies = bench.cluster().entry(leader).data.join("copies");
    bench.cluster().start_node(node);
    incoming(bench, node).await;
    // What was sent of the file already came undamaged; what is sent again of it will not.
    let flipped = flip(bench, &copies, "_").expect("a copy is being sent");
    bench.note(format!("at the sender: {flipped}"));
    bench.injected("bytes-flipped-at-sender", 1);
    bench.cluster().kill(node);
    let place = bench.cluster().entry(node).data.join("incoming");
    let flipped = flip(bench, &place, "_").expect("something had come");
    bench.note(format!("at the receiver: {flipped}"));
    bench.injected("bytes-flipped-at-receiver", 1);
    whole(bench, node, "with a damaged copy beside it");
    bench.cluster().start_node(node);
    installed(bench, node).await;
    bench.over(fault);
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    let log = bench.cluster().log(node);
    let noticed = log.contains("is not what the manifest says") || log.contains("a copy was not installed");
    bench.check(Invariant::StopsWhenWrong, noticed, "the receiver says that something was damaged");
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}
