//! A newer program comes node by node, goes back, comes again, and the level is raised: rolling upgrade and downgrade.
//!
//! The newer program is `okno-faulty` told to act as the next release: it knows one feature level more and from there on
//! writes what the program under test cannot read.

use crate::bench::Bench;
use crate::drill::Drill;
use crate::fate::{Fate, Look};
use crate::harness::cluster::sibling;
use crate::harness::plan::{Launch, Plan};
use okno_checks::invariants::Invariant;
use okno_client::v1 as proto;
use std::path::Path;
use std::time::Duration;

const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(10);
const REDUNDANT_WITHIN: Duration = Duration::from_secs(30);
const SOME_WRITES: u64 = 100;
/// A program that is too old says so at its start.
const REFUSES_WITHIN: Duration = Duration::from_secs(30);

pub const ROLLING_UPGRADE: Drill = Drill {
    name: "rolling-upgrade",
    faults: &[33],
    needs: &[],
    scenario: "Under load one node after the other gets a newer program, then the old one again, then the newer one; then \
               the feature level is raised and one node gets the old program once more.",
    expected: "Each change costs a hand-over and nothing else; nothing acknowledged is lost. After the level was raised \
               the old program closes itself and says which is needed; the newer one brings the node back.",
    run: |bench| Box::pin(rolling_upgrade(bench)),
};

/// One node after the other is stopped and started with another program.
async fn roll(bench: &mut Bench, binary: &Path, next: bool) {
    let what = if next { "the newer" } else { "the older" };
    for node in bench.cluster().ids() {
        let fault = bench.fault(format!("node {node} gets {what} program"));
        let status = bench.cluster().terminate(node).await;
        assert!(status.success(), "SIGTERM is a clean end: node {node} ended with {status}");
        put(bench, node, binary, next);
        bench.injected("programs-changed", 1);
        bench.recovered(fault, NEXT_WRITE_WITHIN).await;
        bench.over(fault);
        bench.redundant(fault, REDUNDANT_WITHIN).await;
        bench.cluster().wait_ready().await;
    }
}

fn put(bench: &mut Bench, node: u64, binary: &Path, next: bool) {
    let launch = if next { Launch::default().env("OKNO_NEXT_RELEASE", "1") } else { Launch::default() };
    bench.cluster().set_binary(binary);
    bench.cluster().set_launch(node, launch);
    bench.cluster().start_node(node);
}

async fn rolling_upgrade(bench: &mut Bench) {
    bench.injected("programs-changed", 0);
    let (older, newer) = (sibling("okno"), sibling("okno-faulty"));
    bench.start(Plan { binary: Some(older.clone()), ..Plan::default() }).await;
    roll(bench, &newer, true).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
    roll(bench, &older, false).await;
    roll(bench, &newer, true).await;
    let admin = bench.cluster().admin();
    let raised = admin.call(proto::RaiseLevelRequest { meta: None, to: 0, dry_run: false }).await;
    let raised = raised.expect("every member knows the level");
    bench.note(format!("the level goes from {} to {}", raised.from, raised.to));
    bench.check(Invariant::LevelFirst, raised.to == raised.from + 1, format!("{raised:?}"));
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
    let node = bench.cluster().follower().await;
    let fault =
        bench.fault(format!("node {node} gets the older program, which cannot read what is written now"));
    bench.cluster().terminate(node).await;
    let look = Look::begin(bench, node).await;
    put(bench, node, &older, false);
    let fate = look.fate(bench, REFUSES_WITHIN).await;
    let said = matches!(&fate, Fate::Quarantined { reason, .. } if reason.contains("feature level"));
    bench.check(Invariant::StopsWhenWrong, said, format!("with the older program node {node} {fate}"));
    bench.injected("programs-too-old", u64::from(said));
    bench.cluster().terminate(node).await;
    put(bench, node, &newer, true);
    bench.over(fault);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}
