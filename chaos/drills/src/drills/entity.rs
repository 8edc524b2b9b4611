//! An entity that panics (rule 13).

use crate::bench::Bench;
use crate::drill::{Drill, Need};
use crate::drills::process::{NEXT_WRITE_WITHIN, REDUNDANT_WITHIN, SOME_WRITES};
use crate::harness::cluster::sibling;
use crate::harness::plan::Plan;
use crate::harness::{desk, eventually};
use okno_checks::invariants::Invariant;
use okno_client::{CallError, v1 as proto};
use std::time::{Duration, Instant};

pub const PANICKING_ENTITY: Drill = Drill {
    name: "panicking-entity",
    faults: &[49],
    needs: &[Need::FaultyBinary],
    scenario: "With a binary in which certain documents make their case panic: such a case panics again and again beside \
               healthy ones in the same shard; then the leader is killed, and an administrator releases the case.",
    expected: "The caller is told that nothing happened; the neighbours answer on; after repeated panics the case alone is \
               closed, on every node, until it is released; nothing of it is lost.",
    run: |bench| Box::pin(panicking_entity(bench)),
};

const POISON: &str = "test-faults: panic in decide";
const QUARANTINED_WITHIN: Duration = Duration::from_secs(30);

fn poisoned(case: &str) -> proto::AddDocumentRequest {
    proto::AddDocumentRequest { note: POISON.into(), ..desk::document(case, "poison") }
}

async fn panicking_entity(bench: &mut Bench) {
    bench.injected("panic", 0);
    let mut plan = Plan::default().setting("actors", "shards", 1);
    plan.binary = Some(sibling("okno-faulty"));
    bench.start(plan).await;
    let officer = bench.cluster().officer();
    let ill = officer.open(1).await.expect("a case is opened");
    let neighbour = officer.open(2).await.expect("a case is opened");
    officer.add(&ill, "before").await.expect("a document is taken");

    let fault = bench.fault("a case panics again and again");
    let mut panics = 0;
    let mut slowest = Duration::ZERO;
    let mut answered = 0;
    let quarantined = eventually("the case is quarantined", QUARANTINED_WITHIN, async || {
        let begun = Instant::now();
        let beside = officer.once(desk::document(&neighbour, &format!("n-{answered}"))).await;
        slowest = slowest.max(begun.elapsed());
        answered += 1;
        beside.expect("the neighbour answers");
        match officer.once(poisoned(&ill)).await {
            Err(error @ CallError::Refused(_)) => Ok(error),
            Err(error) => {
                panics += u64::from(error.reason() == "ENTITY_FAILED");
                Err(error.to_string())
            }
            Ok(_) => Err("a poisoned document was taken".to_owned()),
        }
    })
    .await;
    bench.injected("panic", panics);
    bench.figure("neighbour_slowest_ms", slowest.as_secs_f64() * 1e3);
    bench.check(
        Invariant::NeighboursUnharmed,
        quarantined.reason() == "ENTITY_QUARANTINED",
        format!("{panics} panics, then {}; the neighbour answered {answered} calls", quarantined.reason()),
    );
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;

    let leader = bench.cluster().leader().await;
    let lost = bench.fault(format!("node {leader}, the leader, is killed"));
    bench.cluster().kill(leader);
    bench.recovered(lost, NEXT_WRITE_WITHIN).await;
    let refused = officer.call(desk::document(&ill, "after the leader was lost")).await;
    let stays = refused.as_ref().is_err_and(|error| error.reason() == "ENTITY_QUARANTINED");
    bench.check(Invariant::NeighboursUnharmed, stays, "the quarantine outlives the leader");
    bench.cluster().start_node(leader);
    bench.over(lost);
    bench.redundant(lost, REDUNDANT_WITHIN).await;

    let entity = Some(proto::EntityRef { kind: "case".into(), id: ill.clone() });
    let released = bench.cluster().admin().call(proto::ReleaseEntityRequest { meta: None, entity }).await;
    released.expect("an administrator releases the case");
    bench.over(fault);
    officer.add(&ill, "healthy").await.expect("a document is taken again");
    let found = officer.case(&ill).await.expect("the case is there");
    let references: Vec<&str> = found.documents.iter().map(|document| document.reference.as_str()).collect();
    let whole = references == ["before", "healthy"];
    bench.check(Invariant::Acknowledged, whole, format!("the released case holds {references:?}"));
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}
