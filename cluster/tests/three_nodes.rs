//! Three nodes over real streams and threads: founding, agreement, hand-over, death and return, forwarding,
//! handshakes, hashes.
#![allow(clippy::disallowed_methods, reason = "whole nodes run in real time")]

mod support;

use bytes::Bytes;
use okno_cluster::{
    ForwardError, MemberAlarm, NodePhase, TransferError,
    api::{ProposalOutcome, Proposer, ReadError, Role, ShardNotice},
};
use okno_storage::{
    commit::{CommitId, FenceReason},
    engine::{Batch, Cf, Engine, Sync},
    memory::MemoryEngine,
};
use std::time::{Duration, Instant};
use support::{Disk, PATIENCE, TestNode, commit, eventually, init, init_one, lane, leader, marker, proposal};

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

async fn three() -> (Vec<Disk<MemoryEngine>>, Vec<TestNode>) {
    let disks = init::<MemoryEngine>(3).await;
    let mut nodes = Vec::new();
    for disk in &disks {
        nodes.push(TestNode::start(disk).await);
    }
    (disks, nodes)
}

async fn lead(nodes: &[TestNode]) -> usize {
    leader(&nodes.iter().collect::<Vec<_>>()).await
}

fn all_applied(settled: &[okno_cluster::api::Settled]) -> bool {
    settled.iter().all(|s| matches!(s.outcome, ProposalOutcome::Applied { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founds_orders_reads_forwards_and_hands_over() {
    let (_disks, mut nodes) = three().await;
    let l = lead(&nodes).await;
    let term = nodes[l].handle.role().term;
    // Rule 14: served only after the founding commit; everybody has it.
    let founding = nodes[l].handle.state().view().founding().expect("read").expect("founded");
    assert_eq!(founding.1.len(), 3);
    eventually("all pinned", || nodes.iter().all(|n| *n.handle.phases().borrow() == NodePhase::Serving))
        .await;

    // A thousand entities, one commit each, in batches; then a second one that builds on the wrong base.
    let mut ids = Vec::new();
    let mut batch = Vec::new();
    for i in 0..1_000u64 {
        let (id, data) = commit(&format!("case/{i}"), term, CommitId::NONE, 1_000);
        ids.push(id);
        batch.push(proposal(i, 1, term, data));
    }
    for part in batch.chunks(50) {
        nodes[l].handle.propose(part.to_vec()).expect("room");
    }
    let settled = nodes[l].settled(1_000).await;
    assert!(
        all_applied(&settled),
        "{:?}",
        settled.iter().find(|s| !matches!(s.outcome, ProposalOutcome::Applied { .. }))
    );
    let mut lanes: Vec<_> = settled.iter().map(|s| s.lane.activation).collect();
    lanes.sort_unstable();
    lanes.dedup();
    assert_eq!(lanes.len(), 1_000, "each answered exactly once");
    let (_, data) = commit("case/7", term, CommitId::NONE, 10);
    nodes[l].handle.propose(vec![proposal(7, 2, term, data)]).expect("room");
    let fenced = nodes[l].settled(1).await;
    assert!(matches!(fenced[0].outcome, ProposalOutcome::Fenced { reason: FenceReason::Base, .. }));

    // Rule 3: the lane's end names its last index; rule 2: leadership is confirmed.
    nodes[l].handle.close_lane(lane(7));
    let ProposalOutcome::Fenced { index, .. } = fenced[0].outcome else { unreachable!("asserted above") };
    assert!(
        matches!(nodes[l].next().await, ShardNotice::LaneClosed { last_index, .. } if last_index == index)
    );
    nodes[l].handle.confirm_leadership(0, 42);
    assert!(
        matches!(nodes[l].next().await, ShardNotice::ReadDone { ticket: 42, result: Ok(at) } if at >= index)
    );

    // Linearizable reads anywhere (rule 16), and the same state at the same index.
    for n in &nodes {
        let at = n.handle.read_index(soon()).await.expect("confirmed");
        assert!(at >= index, "read at {at}, written at {index}");
        assert!(n.handle.applied_index() >= at);
        n.handle.wait_applied(index, soon()).await.expect("applied");
    }
    let too_far =
        nodes[0].handle.wait_applied(index + 1_000, Instant::now() + Duration::from_millis(20)).await;
    assert_eq!(too_far, Err(ReadError::TimedOut));
    eventually("equal chains at an equal index", || {
        let all: Vec<_> = nodes.iter().map(|n| n.handle.status()).map(|s| (s.applied, s.chain)).collect();
        all.windows(2).all(|w| w[0] == w[1])
    })
    .await;

    // What stands wrong with one is known to all.
    let wrong = MemberAlarm {
        kind: "DISK_LOW".into(),
        severity: 2,
        since_ms: 1_790_000_000_000,
        text_ru: "мало места на диске".repeat(100),
        text_en: "the disk is nearly full".into(),
    };
    nodes[0].handle.set_alarms(vec![wrong.clone()]);
    let told = |n: &TestNode| n.handle.alarms().into_iter().find(|said| said.node == 1);
    eventually("the alarm is told", || {
        nodes.iter().all(|n| told(n).is_some_and(|said| said.alarms.len() == 1))
    })
    .await;
    let heard = told(&nodes[1]).expect("just seen").alarms.remove(0);
    assert_eq!((heard.kind, heard.severity, heard.since_ms), (wrong.kind, 2, wrong.since_ms));
    assert_eq!(heard.text_en, wrong.text_en);
    assert!(wrong.text_ru.starts_with(&heard.text_ru) && heard.text_ru.len() > 1_000, "cut to its bound");
    nodes[0].handle.set_alarms(Vec::new());
    eventually("the alarm is gone", || {
        nodes.iter().all(|n| told(n).is_some_and(|said| said.alarms.is_empty()))
    })
    .await;

    // Forwarding.
    let (from, to) = ((l + 1) % 3, l);
    let to_id = nodes[to].handle.node_id();
    let from_id = nodes[from].handle.node_id();
    let answer =
        nodes[from].handle.forward(to_id, Bytes::from_static(b"hi"), soon()).await.expect("answered");
    assert_eq!(&answer[..], format!("{to_id} for {from_id}: hi").as_bytes());
    let short = Instant::now() + Duration::from_secs(2);
    assert_eq!(nodes[from].handle.forward(to_id, Bytes::new(), short).await, Err(ForwardError::Unknown));
    assert_eq!(nodes[from].handle.forward(99, Bytes::new(), short).await, Err(ForwardError::NotSent));

    // Hand-over, verified.
    let target = nodes[(l + 1) % 3].handle.node_id();
    assert_eq!(nodes[l].handle.transfer_leader(Some(99)).await, Err(TransferError::BadTarget));
    assert_eq!(nodes[l].handle.transfer_leader(Some(target)).await, Ok(target));
    eventually("the target is ready", || nodes[(l + 1) % 3].leads()).await;
    assert!(matches!(nodes[l].handle.role().role, Role::Follower { .. }));
    // A proposal of the old term is refused here and there.
    let (_, data) = commit("case/late", term, CommitId::NONE, 10);
    nodes[l].handle.propose(vec![proposal(5_000, 1, term, data)]).expect("room");
    assert!(matches!(nodes[l].settled(1).await[0].outcome, ProposalOutcome::NotApplied(_)));

    for n in nodes {
        assert!(n.fatal.0.lock().is_empty());
        n.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_dies_and_comes_back() {
    let (disks, mut nodes) = three().await;
    let l = lead(&nodes).await;
    let term = nodes[l].handle.role().term;
    let (first, data) = commit("case/1", term, CommitId::NONE, 500);
    nodes[l].handle.propose(vec![proposal(1, 1, term, data)]).expect("room");
    assert!(all_applied(&nodes[l].settled(1).await));

    // Killed with work open: what is answered afterwards is what stands in the log.
    let dead = nodes.remove(l);
    dead.kill();
    let n = lead(&nodes).await;
    let term = nodes[n].handle.role().term;
    let (_, data) = commit("case/1", term, first, 500);
    nodes[n].handle.propose(vec![proposal(1, 1, term, data)]).expect("room");
    let settled = nodes[n].settled(1).await;
    let ProposalOutcome::Applied { index } = settled[0].outcome else { panic!("{settled:?}") };

    // Its unsynced writes are lost; the log brings them back.
    let disk = Disk { engine: disks[l].engine.crash(0), ..disks[l].clone() };
    let back = TestNode::start(&disk).await;
    back.handle.wait_applied(index, soon()).await.expect("catches up");
    eventually("equal chains", || {
        let (a, b) = (back.handle.status(), nodes[n].handle.status());
        a.applied == b.applied && a.chain == b.chain
    })
    .await;
    // Reads go through the new leader.
    back.handle.read_index(soon()).await.expect("confirmed");
    back.stop().await;
    for n in nodes {
        n.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_quorum_no_answer_and_no_lie() {
    let (_disks, mut nodes) = three().await;
    let l = lead(&nodes).await;
    let term = nodes[l].handle.role().term;
    let mut lone = nodes.remove(l);
    for n in nodes {
        n.kill();
    }
    let (_, data) = commit("case/1", term, CommitId::NONE, 500);
    // Either it entered the log, and ends unknown when the quorum check ends the leadership; or the leadership was
    // over before, and it was refused.
    lone.handle.propose(vec![proposal(1, 1, term, data)]).expect("room");
    let settled = lone.settled(1).await;
    assert!(
        matches!(settled[0].outcome, ProposalOutcome::Unknown(_) | ProposalOutcome::NotApplied(_)),
        "{settled:?}"
    );
    eventually("leadership ends", || lone.handle.role().leading_term().is_none()).await;
    let read = lone.handle.read_index(Instant::now() + Duration::from_millis(300)).await;
    assert_eq!(read, Err(ReadError::TimedOut));
    lone.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_made_anew_is_refused() {
    let (disks, mut nodes) = three().await;
    lead(&nodes).await;
    eventually("all pinned", || nodes.iter().all(|n| *n.handle.phases().borrow() == NodePhase::Serving))
        .await;
    nodes.pop().expect("three").kill();
    // The same id and address with empty data and a new incarnation: its id died with its data.
    let members: Vec<_> = (1..=3u64)
        .zip(&disks)
        .map(|(id, d)| okno_storage::identity::Member { node_id: id, peer_address: d.address.clone() })
        .collect();
    let anew = init_one::<MemoryEngine>(3, &members, 900);
    let third = TestNode::start(&anew).await;
    let status = |n: &TestNode| n.handle.status();
    eventually("the others see the old one gone", || !status(&nodes[0]).members[2].connected).await;
    // It gets no word in, and as both others say why, it closes itself and serves nothing.
    eventually(
        "it closes itself",
        || matches!(&*third.handle.phases().borrow(), NodePhase::Quarantined { reason, .. } if reason.contains("incarnation")),
    )
    .await;
    let read = third.handle.read_index(Instant::now() + Duration::from_secs(2)).await;
    assert_eq!(read, Err(ReadError::Closed));
    assert_eq!(third.handle.status().last_index, 0);
    assert!(!status(&nodes[0]).members[2].connected);
    for n in nodes {
        n.stop().await;
    }
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_changed_behind_apply_quarantines_its_node() {
    let (disks, mut nodes) = three().await;
    let l = lead(&nodes).await;
    let wrong = (l + 1) % 3;
    let mut batch = Batch::default();
    batch.put(Cf::Row, b"not from any commit".to_vec(), b"x".to_vec());
    disks[wrong].engine.write(batch, Sync::Yes).expect("memory");
    let term = nodes[l].handle.role().term;
    nodes[l].handle.propose(vec![proposal(1, 1, term, marker(term))]).expect("room");
    assert!(all_applied(&nodes[l].settled(1).await));
    eventually("quarantine", || {
        matches!(&*nodes[wrong].handle.phases().borrow(), NodePhase::Quarantined { reason, .. } if reason.contains("row digest"))
    })
    .await;
    // Closed to clients; the others know, and go on.
    assert!(nodes[wrong].handle.propose(vec![proposal(9, 1, term, marker(term))]).is_err());
    assert_eq!(nodes[wrong].handle.read_index(soon()).await, Err(ReadError::Closed));
    eventually("an alarm on the leader", || {
        nodes[l].handle.status().alarms.iter().any(|a| a.starts_with("HASH_DIFFERS"))
    })
    .await;
    let (_, data) = commit("case/1", term, CommitId::NONE, 10);
    nodes[l].handle.propose(vec![proposal(2, 1, term, data)]).expect("room");
    assert!(all_applied(&nodes[l].settled(1).await));
    let report = nodes[l].handle.digest_report();
    let digests: Vec<_> = report.iter().filter_map(|m| m.digest).collect();
    assert_eq!(digests.len(), 3);
    assert_eq!(digests.iter().filter(|d| **d == digests[l]).count(), 2);
    for n in nodes {
        n.stop().await;
    }
}
