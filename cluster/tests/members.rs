//! Whole nodes join and leave: learners are promoted, who lacks what was cut gets a copy of the database, the removed
//! close themselves (rules 11 and 14, design §4 and §5).
#![allow(clippy::disallowed_methods, reason = "whole nodes run in real time")]

mod support;

use bytes::Bytes;
use okno_cluster::{
    ChangeError, Changed, ClusterSettings, NodePhase,
    api::{ProposalOutcome, Proposer},
};
use okno_storage::{
    commit::{CommitId, SystemOp},
    engine::Engine,
    error::StorageError,
    identity::{Identity, Member},
    members::{MemberChange, MemberRefusal},
    snapshot::{Candidate, CopyOf, Home, Manifest, Place, Receiver, SnapshotError, Source},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use support::{HomeDisk, TestNode, commit, eventually, init_home, leader, proposal, settings, system};

/// A log so short that whoever joins lacks its beginning.
fn short() -> ClusterSettings {
    ClusterSettings {
        keep_log_for: Duration::from_secs(1),
        keep_log_entries: 40,
        keep_log_bytes: 4_000,
        ..settings()
    }
}

fn figure(node: &TestNode, name: &str) -> f64 {
    node.handle.figures().into_iter().find(|(n, _)| *n == name).map_or(-1.0, |(_, value)| value)
}

/// A cluster of one at the level from which members can be changed.
async fn one() -> (HomeDisk, TestNode, Vec<Member>) {
    let disk = init_home(1, &[]).await;
    let mut node = TestNode::start_home(&disk, short()).await;
    raised(&mut node).await;
    let founders = vec![Member { node_id: 1, peer_address: disk.address.clone() }];
    (disk, node, founders)
}

/// Leads, at the level from which members can be changed.
async fn raised(node: &mut TestNode) {
    leader(&[node]).await;
    let term = node.handle.role().term;
    if node.handle.level() < 2 {
        let data = system(term, "sys/test-level", SystemOp::Level { level: 2 });
        node.handle.propose(vec![proposal(900_000, 1, term, data)]).expect("room");
        node.settled(1).await;
    }
    eventually("level 2", || node.handle.level() >= 2).await;
}

/// Commits so many cases at the leader, each of a lane of its own.
async fn work(node: &mut TestNode, from: u64, count: u64) {
    let term = node.handle.role().term;
    for i in from..from + count {
        let (_, data) = commit(&format!("case/{i}"), term, CommitId::NONE, 200);
        node.handle.propose(vec![proposal(i, 1, term, data)]).expect("room");
    }
    let settled = node.settled(usize::try_from(count).expect("small")).await;
    assert!(settled.iter().all(|s| matches!(s.outcome, ProposalOutcome::Applied { .. })), "{settled:?}");
}

/// Asks for a change, again while another one is on its way: the table shows it a moment before it is settled.
async fn change_members(node: &TestNode, change: MemberChange) -> Result<Changed, ChangeError> {
    let asked = Instant::now();
    loop {
        match node.handle.change_members(change.clone(), false).await {
            Err(ChangeError::InFlight) if asked.elapsed() < Duration::from_secs(30) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            answer => return answer,
        }
    }
}

fn voters(node: &TestNode) -> Vec<u64> {
    node.handle.members().voters().collect()
}

async fn equal(nodes: &[&TestNode]) {
    eventually("equal chains", || {
        let all: Vec<_> = nodes.iter().map(|n| n.handle.status()).map(|s| (s.applied, s.chain)).collect();
        all.windows(2).all(|w| w[0] == w[1])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_becomes_three_and_one_again() {
    let (_disk, mut one, founders) = one().await;
    work(&mut one, 1, 400).await;
    eventually("the log is cut", || figure(&one, "raft_log_first_index") > 100.0).await;

    // The second: added, sent a copy, promoted by the leader.
    let second = init_home(2, &founders).await;
    let two = TestNode::start_home(&second, short()).await;
    let add = |id: u64, disk: &HomeDisk| MemberChange::AddLearner {
        node_id: id,
        peer_address: disk.address.clone(),
        incarnation: None,
    };
    let tried = one.handle.change_members(add(2, &second), true).await.expect("can be");
    assert_eq!((tried.index, tried.plan.after.voters, tried.plan.after.learners), (None, vec![1], vec![2]));
    assert!(one.handle.members().get(2).is_none(), "only tried");
    let added = change_members(&one, add(2, &second)).await.expect("added");
    assert!(added.index.is_some());
    eventually("the second is a voter", || voters(&one) == [1, 2] && voters(&two) == [1, 2]).await;
    assert_eq!(
        change_members(&one, add(2, &second)).await,
        Err(ChangeError::Refused(MemberRefusal::Already(2)))
    );
    assert_eq!(figure(&two, "snapshots_installed_total") as u64, 1, "it lacked what was cut");
    equal(&[&one, &two]).await;

    // The third, while work goes on.
    let third = init_home(3, &founders).await;
    let three = TestNode::start_home(&third, short()).await;
    change_members(&one, add(3, &third)).await.expect("added");
    work(&mut one, 1_000, 400).await;
    eventually("three voters", || [&one, &two, &three].iter().all(|n| voters(n) == [1, 2, 3])).await;
    equal(&[&one, &two, &three]).await;
    let status = three.handle.status();
    assert!(status.members.len() == 3 && status.members.iter().all(|m| !m.learner));

    // Who follows does not change members; who leads is not removed before leadership has gone.
    assert_eq!(
        change_members(&two, MemberChange::Remove { node_id: 3 }).await,
        Err(ChangeError::NotLeader { leader: Some(1) })
    );
    let gone = change_members(&one, MemberChange::Remove { node_id: 1 }).await;
    let Err(ChangeError::NotLeader { leader: Some(next) }) = gone else { panic!("{gone:?}") };
    assert!(next != 1);
    let mut heir = if next == 2 { two } else { three };
    let other = 5 - next;
    eventually("the heir is ready", || heir.leads()).await;
    eventually("it hears the others", || {
        // Refused as long as too few are heard; done when it succeeds.
        heir.handle.status().members.iter().all(|m| m.connected && m.clock_offset_ms.is_some())
    })
    .await;
    let mut removed = change_members(&heir, MemberChange::Remove { node_id: 1 }).await;
    for _ in 0..100 {
        if removed.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        removed = change_members(&heir, MemberChange::Remove { node_id: 1 }).await;
    }
    removed.expect("removed");
    eventually("the removed closes itself", || {
        matches!(&*one.handle.phases().borrow(), NodePhase::Quarantined { reason, .. } if reason.starts_with("removed"))
    })
    .await;
    assert_eq!(
        heir.handle.change_members(add(1, &second), true).await,
        Err(ChangeError::Refused(MemberRefusal::IdUsed(1)))
    );

    // Down to one, which is not removed.
    change_members(&heir, MemberChange::Remove { node_id: other }).await.expect("removed");
    assert_eq!(voters(&heir), [next]);
    assert!(matches!(
        change_members(&heir, MemberChange::Remove { node_id: next }).await,
        Err(ChangeError::QuorumWouldBeLost(_))
    ));
    work(&mut heir, 5_000, 10).await;
    for node in [one, heir] {
        assert!(node.fatal.0.lock().is_empty());
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_is_sent_a_copy_and_starts_from_it() {
    let (_disk, one, founders) = one().await;
    let second = init_home(2, &founders).await;
    let two = TestNode::start_home(&second, short()).await;
    let change =
        MemberChange::AddLearner { node_id: 2, peer_address: second.address.clone(), incarnation: None };
    change_members(&one, change).await.expect("added");
    eventually("two voters", || voters(&one) == [1, 2] && voters(&two) == [1, 2]).await;
    let third = init_home(3, &founders).await;
    let three = TestNode::start_home(&third, short()).await;
    let change =
        MemberChange::AddLearner { node_id: 3, peer_address: third.address.clone(), incarnation: None };
    change_members(&one, change).await.expect("added");
    eventually("three voters", || voters(&three) == [1, 2, 3]).await;

    // Away for longer than the log is kept.
    three.stop().await;
    // The first, if nobody disturbed it.
    eventually("one of the two leads", || one.leads() || two.leads()).await;
    let (mut leader, two) = if one.leads() { (one, two) } else { (two, one) };
    work(&mut leader, 1, 300).await;
    eventually("the log is cut", || figure(&leader, "raft_log_first_index") > 200.0).await;
    let back = TestNode::start_home(&third, short()).await;
    equal(&[&leader, &two, &back]).await;
    assert!(figure(&back, "snapshots_installed_total") >= 1.0);
    back.stop().await;

    // It starts from what `identity` names now.
    let identity = Identity::open(Box::new(third.medium.clone())).expect("memory");
    assert_ne!(identity.record().live_directory, "db");
    drop(identity);
    work(&mut leader, 10_000, 5).await;
    let again = TestNode::start_home(&third, short()).await;
    equal(&[&leader, &two, &again]).await;
    for node in [leader, two, again] {
        assert!(node.fatal.0.lock().is_empty());
        node.stop().await;
    }
}

/// The first copy that is taken rots at its sender; the next ones do not.
struct Rotten {
    home: Arc<dyn Home>,
    taken: AtomicU64,
}

/// One byte of each file is another one than it was.
struct RottenSource(Arc<dyn Source>);

impl Source for RottenSource {
    fn manifest(&self) -> &Manifest {
        self.0.manifest()
    }
    fn read(&self, file: usize, offset: u64, max: usize) -> Result<Bytes, StorageError> {
        let mut bytes = self.0.read(file, offset, max)?.to_vec();
        if let Some(byte) = bytes.first_mut().filter(|_| offset == 0) {
            *byte ^= 1;
        }
        Ok(bytes.into())
    }
}

impl Home for Rotten {
    fn engine(&self) -> Arc<dyn Engine> {
        self.home.engine()
    }
    fn take(&self, of: &CopyOf, pace: &mut dyn FnMut(u64) -> bool) -> Result<Arc<dyn Source>, SnapshotError> {
        let whole = self.home.take(of, pace)?;
        let first = self.taken.fetch_add(1, Relaxed) == 0;
        Ok(if first { Arc::new(RottenSource(whole)) } else { whole })
    }
    fn incoming(&self) -> Result<Box<dyn Place>, StorageError> {
        self.home.incoming()
    }
    fn candidate(&self, receiver: Receiver) -> Result<Candidate, SnapshotError> {
        self.home.candidate(receiver)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_rots_at_its_sender_is_not_sent_for_ever() {
    let disk = init_home(1, &[]).await;
    let rotten = |home| -> Arc<dyn Home> { Arc::new(Rotten { home, taken: AtomicU64::new(0) }) };
    let mut one = TestNode::start_home_as(&disk, short(), rotten).await;
    raised(&mut one).await;
    work(&mut one, 1, 400).await;
    eventually("the log is cut", || figure(&one, "raft_log_first_index") > 100.0).await;
    let founders = vec![Member { node_id: 1, peer_address: disk.address.clone() }];
    let second = init_home(2, &founders).await;
    let two = TestNode::start_home(&second, short()).await;
    let change =
        MemberChange::AddLearner { node_id: 2, peer_address: second.address.clone(), incarnation: None };
    change_members(&one, change).await.expect("added");
    eventually("the second is a voter", || voters(&one) == [1, 2] && voters(&two) == [1, 2]).await;
    assert_eq!(figure(&two, "snapshots_installed_total") as u64, 1);
    assert!(figure(&one, "snapshots_failed_total") >= 1.0 && figure(&one, "snapshots_taken_total") >= 2.0);
    equal(&[&one, &two]).await;
    for node in [one, two] {
        assert!(node.fatal.0.lock().is_empty());
        node.stop().await;
    }
}
