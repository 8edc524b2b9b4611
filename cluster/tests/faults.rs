//! Faults that end a process, seen through the injected [`Fatal`](okno_cluster::Fatal): a disk that fails, a disk
//! that hangs, a panic (rules 11, 12).

mod support;

use bytes::Bytes;
use okno_cluster::{
    NodePhase, Quarantine, REMEDY_REBUILD,
    api::{ApplyListener, NotApplied, ProposalOutcome, ProposeError, Proposer, Unknown},
    shell::fatal::{EXIT_IO, EXIT_PANIC},
};
use okno_storage::{
    commit::CommitId,
    engine::{Batch, Cf, Engine, Read, Sync, Visit},
    error::StorageError,
    identity::Identity,
    memory::MemoryEngine,
    state::AppliedSlice,
};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use support::{Disk, TestNode, commit, eventually, init, leader, proposal};

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Mood {
    #[default]
    Well,
    /// Synced writes fail.
    Fails,
    /// Synced writes do not return.
    Hangs,
    /// Synced writes find damaged data.
    Rots,
}

/// A store whose disk can be broken.
#[derive(Clone, Default)]
struct Breakable {
    store: MemoryEngine,
    mood: Arc<(Mutex<Mood>, Condvar)>,
}

impl Breakable {
    fn set(&self, mood: Mood) {
        *self.mood.0.lock() = mood;
        self.mood.1.notify_all();
    }
}

impl Read for Breakable {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.store.get(cf, key)
    }
    fn scan(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        self.store.scan(cf, from, to, visit)
    }
    fn scan_back(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        self.store.scan_back(cf, from, to, visit)
    }
}

impl Engine for Breakable {
    fn write(&self, batch: Batch, sync: Sync) -> Result<(), StorageError> {
        if sync == Sync::Yes {
            let mut mood = self.mood.0.lock();
            while *mood == Mood::Hangs {
                self.mood.1.wait(&mut mood);
            }
            if *mood == Mood::Fails {
                return Err(StorageError::Engine("fsync: input/output error".into()));
            }
            if *mood == Mood::Rots {
                return Err(StorageError::Corrupt { what: "database", detail: "block checksum".into() });
            }
        }
        self.store.write(batch, sync)
    }
    fn view(&self) -> Arc<dyn Read> {
        self.store.view()
    }
    fn stats(&self) -> Vec<(&'static str, u64)> {
        self.store.stats()
    }
}

async fn one() -> (Disk<Breakable>, TestNode, u64) {
    let disk = init::<Breakable>(1).await.remove(0);
    let node = TestNode::start(&disk).await;
    leader(&[&node]).await;
    let term = node.handle.role().term;
    (disk, node, term)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fsync_ends_the_process() {
    let (disk, node, term) = one().await;
    disk.engine.set(Mood::Fails);
    let (_, data) = commit("case/1", term, CommitId::NONE, 10);
    node.handle.propose(vec![proposal(1, 1, term, data)]).expect("room");
    eventually("the end", || !node.fatal.0.lock().is_empty()).await;
    assert!(node.fatal.0.lock()[0].starts_with(&format!("{EXIT_IO}: ")));
    // Had the process not ended, nothing would be taken in any more.
    let (_, data) = commit("case/2", term, CommitId::NONE, 10);
    eventually("closed", || {
        node.handle.propose(vec![proposal(2, 1, term, data.clone())]) == Err(ProposeError::Closed)
    })
    .await;
    assert_eq!(
        node.handle
            .state()
            .view()
            .entity(&okno_storage::commit::EntityKey::parse("case/1").expect("key"))
            .expect("read"),
        None
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_the_raft_thread_meets_quarantines() {
    let (disk, mut node, term) = one().await;
    disk.engine.set(Mood::Rots);
    let (_, data) = commit("case/1", term, CommitId::NONE, 10);
    node.handle.propose(vec![proposal(1, 1, term, data)]).expect("room");
    let settled = node.settled(1).await;
    assert_eq!(settled[0].outcome, ProposalOutcome::Unknown(Unknown::Closed));
    let phase = node.handle.phases().borrow().clone();
    assert!(
        matches!(&phase, NodePhase::Quarantined { reason, remedy } if reason.contains("block checksum") && remedy == REMEDY_REBUILD),
        "{phase:?}"
    );
    assert!(node.fatal.0.lock().is_empty(), "the process goes on, to say so");
    disk.engine.set(Mood::Well);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_disk_answers_unknown_and_ends_the_process() {
    let (disk, mut node, term) = one().await;
    disk.engine.set(Mood::Hangs);
    let (_, data) = commit("case/1", term, CommitId::NONE, 10);
    node.handle.propose(vec![proposal(1, 1, term, data)]).expect("room");
    let settled = node.settled(1).await;
    assert_eq!(settled[0].outcome, ProposalOutcome::Unknown(Unknown::DiskHung));
    eventually("the end", || !node.fatal.0.lock().is_empty()).await;
    assert!(node.fatal.0.lock()[0].starts_with(&format!("{EXIT_IO}: ")));
    disk.engine.set(Mood::Well);
    node.stop().await;
}

struct Panics;

impl ApplyListener for Panics {
    fn applied(&self, slice: &Arc<AppliedSlice>) {
        assert!(slice.entries.is_empty(), "a listener that panics");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_on_the_apply_thread_ends_the_process() {
    let (_disk, node, term) = one().await;
    node.handle.add_listener(Arc::new(Panics));
    let (_, data) = commit("case/1", term, CommitId::NONE, 10);
    node.handle.propose(vec![proposal(1, 1, term, data)]).expect("room");
    eventually("the end", || !node.fatal.0.lock().is_empty()).await;
    assert!(node.fatal.0.lock()[0].starts_with(&format!("{EXIT_PANIC}: ")));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_shorter_than_its_identity_says_quarantines() {
    let (disk, node, _) = one().await;
    eventually("the mark is written", || {
        let identity = Identity::open(Box::new(disk.medium.clone())).expect("memory");
        identity.record().synced_index > 1
    })
    .await;
    node.stop().await;
    let lost = Disk { engine: Breakable::default(), ..disk.clone() };
    let node = TestNode::start(&lost).await;
    let phase = node.handle.phases().borrow().clone();
    assert!(
        matches!(&phase, NodePhase::Quarantined { reason, .. } if reason.contains("was synced")),
        "{phase:?}"
    );
    let (_, data) = commit("case/1", 1, CommitId::NONE, 10);
    assert_eq!(node.handle.propose(vec![proposal(1, 1, 1, data)]), Err(ProposeError::Closed));
    assert_eq!(node.handle.status().phase, phase, "health and status answer");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_cannot_be_read_quarantines() {
    let (_disk, mut node, term) = one().await;
    node.handle.propose(vec![proposal(1, 1, term, Bytes::from_static(b"no commit at all"))]).expect("room");
    let settled = node.settled(1).await;
    assert_eq!(settled[0].outcome, ProposalOutcome::Unknown(Unknown::Closed));
    let phase = node.handle.phases().borrow().clone();
    assert!(
        matches!(&phase, NodePhase::Quarantined { reason, .. } if reason.contains("cannot be applied")),
        "{phase:?}"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_bounded_and_comes_back() {
    let (disk, mut node, term) = one().await;
    disk.engine.set(Mood::Hangs);
    // The disk is looked at for less than the watchdog's time here.
    let (_, data) = commit("case/1", term, CommitId::NONE, 10);
    let batch: Vec<_> = (0..1_000).map(|i| proposal(i, 1, term, data.clone())).collect();
    let mut taken = 0;
    while node.handle.propose(batch.clone()) == Ok(()) {
        taken += batch.len();
        assert!(taken < 20_000, "no bound");
    }
    assert!(taken >= 16_000, "{taken}");
    disk.engine.set(Mood::Well);
    let settled = node.settled(taken).await;
    // The first of the lane is applied; the others break the lanes' rule or build on the wrong base.
    assert!(settled.iter().any(|s| matches!(s.outcome, ProposalOutcome::Applied { .. })));
    assert!(settled.iter().any(|s| s.outcome == ProposalOutcome::NotApplied(NotApplied::LaneClosed)));
    node.handle.propose(batch).expect("room again");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_started_without_usable_data_is_closed_and_says_why() {
    let (disk, node, _) = one().await;
    node.stop().await;
    let why = Quarantine { reason: "the database cannot be opened".into(), remedy: "add it anew".into() };
    let node = TestNode::start_quarantined(&disk, why.clone()).await;
    let phase = node.handle.phases().borrow().clone();
    assert_eq!(phase, NodePhase::Quarantined { reason: why.reason, remedy: why.remedy });
    let (_, data) = commit("case/1", 1, CommitId::NONE, 10);
    assert_eq!(node.handle.propose(vec![proposal(1, 1, 1, data)]), Err(ProposeError::Closed));
    let status = node.handle.status();
    assert_eq!((status.phase, status.node_id, status.applied), (phase, 1, 0), "status answers, of nothing");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_never_shows_applied_beyond_commit() {
    let (_disk, mut node, term) = one().await;
    let mut head = CommitId::NONE;
    let mut looked = 0;
    for n in 0..200 {
        let (id, data) = commit("case/1", term, head, 10);
        head = id;
        node.handle.propose(vec![proposal(1, n, term, data)]).expect("room");
        node.settled(1).await;
        let status = node.handle.status();
        assert!(status.applied <= status.commit && status.commit <= status.last_index, "{status:?}");
        looked += u64::from(status.applied > 1);
    }
    assert!(looked > 100, "{looked} statuses of an applied commit");
    node.stop().await;
}
