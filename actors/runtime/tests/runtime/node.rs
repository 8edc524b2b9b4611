//! A log of one node: what is proposed is "committed" at once and applied by the real apply step over the
//! in-memory engine, on a thread of its own. Tests can hold it, make it lose what waits, and take leadership away.

use okno_cluster::api::{
    ApplyListener, Lane, NotApplied, Proposal, ProposalOutcome, ProposeError, Proposer, ReadError, Role,
    RoleState, Settled, ShardNotice, ShardPort, StampError, Unknown,
};
use okno_storage::{
    commit::{Commit, CommitId, EntityKey, Origin, Outcome, SystemOp},
    engine::Engine,
    log::{EntryKind, LogEntry},
    memory::MemoryEngine,
    state::{Genesis, StateReader, StateStore},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};
use tokio::sync::watch;

/// 10:00 at UTC+7 on Monday 2 March 2026.
pub const START_MS: i64 = 1_772_420_400_000;

enum Step {
    Propose(Proposal),
    Close(Lane),
    Confirm(u16, u64),
}

struct Inner {
    store: StateStore,
    term: u64,
    leading: bool,
    ports: BTreeMap<u16, Arc<dyn ShardPort>>,
    listeners: Vec<Arc<dyn ApplyListener>>,
    queue: VecDeque<Step>,
    closed: BTreeSet<Lane>,
    last_of_lane: BTreeMap<Lane, u64>,
    held: bool,
    stopped: bool,
    /// Proposals to drop as replaced by another entry.
    replace: usize,
    applied_events: usize,
}

pub struct Node {
    inner: Mutex<Inner>,
    changed: Condvar,
    roles: watch::Sender<RoleState>,
    pub reader: StateReader,
    pub clock_ms: Arc<AtomicI64>,
    proposals: AtomicU64,
    open: AtomicBool,
}

/// The node and its thread; stops with the test.
pub struct Running {
    pub node: Arc<Node>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.node.lock().stopped = true;
        self.node.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the log's thread does not panic");
        }
    }
}

impl std::ops::Deref for Running {
    type Target = Arc<Node>;
    fn deref(&self) -> &Arc<Node> {
        &self.node
    }
}

pub fn store() -> StateStore {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let genesis = Genesis { chain: [7; 32], conf_state: bytes::Bytes::new() };
    StateStore::open(engine, genesis).expect("an empty store opens")
}

/// A commit that carries time alone.
pub fn time_commit(term: u64, counter: u64, time_ms: i64) -> Commit {
    let entity = EntityKey::parse("sys/time").expect("a good key");
    Commit {
        origin: Some(Origin { principal: "node/1".into(), workstation: String::new(), request: None }),
        system: Some(SystemOp::Time),
        ..Commit::bare(entity, CommitId { term, counter }, CommitId::NONE, time_ms)
    }
}

pub fn entry(index: u64, term: u64, data: bytes::Bytes) -> LogEntry {
    LogEntry { index, term, kind: EntryKind::Normal, data }
}

/// True for what is not the cluster's own.
fn of_domain(proposal: &Proposal) -> bool {
    !Commit::decode(&proposal.data).expect("what cells encode can be decoded").entity.is_system()
}

impl Node {
    /// A leader in term 1 whose replicated time is [`START_MS`].
    pub fn start() -> Running {
        let mut store = store();
        let first = time_commit(1, 1, START_MS).encode().expect("a small commit");
        store.apply(&[entry(1, 1, first)], 1).expect("applies");
        Self::start_on(store)
    }

    /// A leader in term 1 over a store something was applied to.
    pub fn start_on(store: StateStore) -> Running {
        let reader = store.reader();
        let role = RoleState { term: 1, role: Role::Leader { ready: true } };
        let node = Arc::new(Self {
            inner: Mutex::new(Inner {
                store,
                term: 1,
                leading: true,
                ports: BTreeMap::new(),
                listeners: Vec::new(),
                queue: VecDeque::new(),
                closed: BTreeSet::new(),
                last_of_lane: BTreeMap::new(),
                held: false,
                stopped: false,
                replace: 0,
                applied_events: 0,
            }),
            changed: Condvar::new(),
            roles: watch::channel(role).0,
            reader,
            clock_ms: Arc::new(AtomicI64::new(START_MS)),
            proposals: AtomicU64::new(0),
            open: AtomicBool::new(true),
        });
        let worker = Arc::clone(&node);
        let thread = std::thread::spawn(move || worker.run());
        Running { node, thread: Some(thread) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics while it holds the log")
    }

    pub fn add_listener(&self, listener: Arc<dyn ApplyListener>) {
        self.lock().listeners.push(listener);
    }

    /// Nothing is committed until [`Node::go_on`].
    pub fn hold(&self) {
        self.lock().held = true;
    }

    pub fn go_on(&self) {
        self.lock().held = false;
        self.changed.notify_all();
    }

    /// The next `count` proposals of the domain's entities find another entry in their place.
    pub fn replace_next(&self, count: usize) {
        self.lock().replace = count;
    }

    /// Proposals of the domain's entities waiting while held.
    pub fn waiting(&self) -> usize {
        self.lock().queue.iter().filter(|step| matches!(step, Step::Propose(one) if of_domain(one))).count()
    }

    pub fn proposals(&self) -> u64 {
        self.proposals.load(Ordering::SeqCst)
    }

    /// Applied entries that had events.
    pub fn applied_events(&self) -> usize {
        self.lock().applied_events
    }

    pub fn pass_ms(&self, ms: i64) {
        self.clock_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Leadership ends. What waits was proposed and nobody knows; with `apply_first`, it had committed.
    pub fn lose_leadership(&self, apply_first: bool) {
        let mut inner = self.lock();
        inner.leading = false;
        let steps = std::mem::take(&mut inner.queue);
        let mut later = Vec::new();
        for step in steps {
            match step {
                Step::Propose(proposal) => {
                    if apply_first {
                        self.apply(&mut inner, &proposal);
                    }
                    let outcome = ProposalOutcome::Unknown(Unknown::LeadershipLost);
                    later.push((proposal.lane, proposal.seq, outcome));
                }
                Step::Close(lane) => self.close(&mut inner, lane),
                Step::Confirm(shard, ticket) => {
                    inner.ports[&shard]
                        .deliver(ShardNotice::ReadDone { ticket, result: Err(ReadError::NotLeader) });
                }
            }
        }
        let term = inner.term;
        for (lane, seq, outcome) in later {
            inner.ports[&lane.shard].deliver(ShardNotice::Settled(vec![Settled { lane, seq, outcome }]));
        }
        drop(inner);
        self.roles.send_replace(RoleState { term, role: Role::Follower { leader: None } });
    }

    /// Quarantined, as a member is that was taken out.
    pub fn quarantine(&self) {
        self.open.store(false, Ordering::SeqCst);
        self.lose_leadership(false);
    }

    /// Leader again, in the next term.
    pub fn win_leadership(&self) {
        let mut inner = self.lock();
        inner.term += 1;
        inner.leading = true;
        let term = inner.term;
        let index = inner.store.mark().index + 1;
        inner.store.apply(&[entry(index, term, bytes::Bytes::new())], index).expect("applies");
        drop(inner);
        self.roles.send_replace(RoleState { term, role: Role::Leader { ready: true } });
    }

    /// Follows another node.
    pub fn follow(&self, leader: u64) {
        let mut inner = self.lock();
        inner.leading = false;
        let term = inner.term;
        drop(inner);
        self.roles.send_replace(RoleState { term, role: Role::Follower { leader: Some(leader) } });
    }

    fn run(&self) {
        let mut inner = self.lock();
        loop {
            while inner.queue.is_empty() || inner.held {
                if inner.stopped {
                    return;
                }
                inner = self.changed.wait(inner).expect("no test panics while it holds the log");
            }
            if inner.stopped {
                return;
            }
            let Some(step) = inner.queue.pop_front() else { continue };
            match step {
                Step::Propose(proposal) => {
                    let outcome = if !inner.leading || proposal.term != inner.term {
                        ProposalOutcome::NotApplied(NotApplied::NotLeader { leader: None })
                    } else if inner.closed.contains(&proposal.lane) {
                        ProposalOutcome::NotApplied(NotApplied::LaneClosed)
                    } else if inner.replace > 0 && of_domain(&proposal) {
                        inner.replace -= 1;
                        ProposalOutcome::NotApplied(NotApplied::Replaced)
                    } else {
                        self.apply(&mut inner, &proposal)
                    };
                    let settled = Settled { lane: proposal.lane, seq: proposal.seq, outcome };
                    inner.ports[&proposal.lane.shard].deliver(ShardNotice::Settled(vec![settled]));
                }
                Step::Close(lane) => self.close(&mut inner, lane),
                Step::Confirm(shard, ticket) => {
                    let index = inner.store.mark().index;
                    let result = if inner.leading { Ok(index) } else { Err(ReadError::NotLeader) };
                    inner.ports[&shard].deliver(ShardNotice::ReadDone { ticket, result });
                }
            }
        }
    }

    fn apply(&self, inner: &mut Inner, proposal: &Proposal) -> ProposalOutcome {
        let index = inner.store.mark().index + 1;
        let entry = entry(index, inner.term, proposal.data.clone());
        let slice = Arc::new(inner.store.apply(&[entry], index).expect("what cells encode applies"));
        inner.last_of_lane.insert(proposal.lane, index);
        inner.applied_events += slice.entries.iter().filter(|entry| entry.moved).count();
        for listener in &inner.listeners {
            listener.applied(&slice);
        }
        match slice.entries[0].outcome.clone() {
            Outcome::Applied | Outcome::NoCommit => ProposalOutcome::Applied { index },
            Outcome::Duplicate(reply) => ProposalOutcome::Duplicate { index, reply },
            Outcome::Fenced(reason) => ProposalOutcome::Fenced { index, reason },
        }
    }

    fn close(&self, inner: &mut Inner, lane: Lane) {
        inner.closed.insert(lane);
        let last_index = inner.last_of_lane.get(&lane).copied().unwrap_or(0);
        inner.ports[&lane.shard].deliver(ShardNotice::LaneClosed { lane, last_index });
    }

    fn enqueue(&self, step: Step) {
        self.lock().queue.push_back(step);
        self.changed.notify_all();
    }
}

impl Proposer for Node {
    fn register(&self, shard: u16, port: Arc<dyn ShardPort>) {
        self.lock().ports.insert(shard, port);
    }

    fn propose(&self, proposals: Vec<Proposal>) -> Result<(), ProposeError> {
        self.proposals.fetch_add(proposals.len() as u64, Ordering::SeqCst);
        let mut inner = self.lock();
        inner.queue.extend(proposals.into_iter().map(Step::Propose));
        drop(inner);
        self.changed.notify_all();
        Ok(())
    }

    fn close_lane(&self, lane: Lane) {
        self.enqueue(Step::Close(lane));
    }

    fn confirm_leadership(&self, shard: u16, ticket: u64) {
        self.enqueue(Step::Confirm(shard, ticket));
    }

    fn role(&self) -> RoleState {
        *self.roles.borrow()
    }

    fn roles(&self) -> watch::Receiver<RoleState> {
        self.roles.subscribe()
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    fn applied_index(&self) -> u64 {
        self.reader.applied().0
    }

    fn stamp(&self) -> Result<i64, StampError> {
        Ok(self.clock_ms.load(Ordering::SeqCst))
    }
}
