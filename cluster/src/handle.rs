//! The handle everybody outside this crate holds: reads, proposals, members, status and figures.

use crate::{
    api::{
        ApplyListener, Lane, NodeId, Proposal, ProposeError, Proposer, ReadError, Role, RoleState,
        ShardNotice, ShardPort, StampError, Unknown,
    },
    core::{
        change::CHANGE_WITHIN_MS,
        event::{Event, ReadId, ReadRequest},
        table::Answers,
    },
    shell::{
        hub::{APPEND_BOUNDS_US, Hub},
        system,
    },
    status::{
        ChangeError, Changed, ClusterStatus, MemberAlarm, MemberAlarms, MemberDigests, MemberStatus,
        NodePhase, TransferError,
    },
    transport::{ForwardError, ForwardHandler},
};
use bytes::Bytes;
use okno_storage::{
    log::LogStore,
    members::{MemberChange, MemberRole, Members as MemberTable},
    state::StateReader,
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed, Release},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use uuid::Uuid;

/// How far the node's own threads are; compared with what was seen before, it shows whether they get on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Raft and apply run: neither quarantined nor going down.
    pub runs: bool,
    /// Turns of the raft thread; it ticks, so they grow in an idle cluster too.
    pub turns: u64,
    pub committed: u64,
    pub applied: u64,
}

/// The one thing others hold.
pub struct ClusterHandle {
    hub: Arc<Hub>,
    cluster: Uuid,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl ClusterHandle {
    pub(crate) fn new(hub: Arc<Hub>, cluster: Uuid, threads: Vec<JoinHandle<()>>) -> Self {
        Self { hub, cluster, threads: Mutex::new(threads) }
    }

    /// A linearizable read point: the index returned was committed after this call began, and is applied here.
    pub async fn read_index(&self, deadline: Instant) -> Result<u64, ReadError> {
        if !self.hub.is_open() {
            return Err(ReadError::Closed);
        }
        if !self.hub.reserve_read() {
            return Err(ReadError::Overloaded);
        }
        let (id, answer) = self.hub.await_call();
        // The driver answers at the deadline, also if the caller has gone: the slot is given back in any case.
        let request = ReadRequest { id: ReadId::Call(id), deadline_ms: self.hub.ms_of(deadline) };
        self.hub.push(Event::Read(request));
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ReadError::Closed),
            Err(_) => {
                self.hub.forget_call(id);
                Err(ReadError::TimedOut)
            }
        }
    }

    /// Waits until apply has passed `index`; returns how far it is.
    pub async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<u64, ReadError> {
        let applied = self.applied_index();
        if applied >= index {
            return Ok(applied);
        }
        if !self.hub.reserve_read() {
            return Err(ReadError::Overloaded);
        }
        let (id, answer) = self.hub.await_call();
        let waiting = Waiting { hub: &self.hub, index, id: ReadId::Call(id) };
        let request = ReadRequest { id: waiting.id, deadline_ms: u64::MAX };
        let mut answers = Answers::default();
        self.hub.table.lock().confirm(index, vec![request], &mut answers);
        self.hub.deliver(answers);
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(result)) => result.map(|_| self.applied_index()),
            Ok(Err(_)) => Err(ReadError::Closed),
            Err(_) => Err(ReadError::TimedOut),
        }
    }

    pub fn status(&self) -> ClusterStatus {
        let role = *self.hub.role.borrow();
        let facts = self.hub.facts.lock().clone();
        let (applied, time_ms) = self.hub.reader.applied();
        let (wall_ms, now_ms) = (self.hub.wall_ms(), self.hub.now_ms());
        let table = self.members();
        let members = table
            .current
            .iter()
            .map(|m| {
                let own = m.node_id == self.hub.own;
                let connected = own || self.hub.transport.get().is_some_and(|t| t.connected(m.node_id));
                let feature_level = self.hub.members.lock().level(m.node_id);
                let peers = self.hub.peers.lock();
                MemberStatus {
                    id: m.node_id,
                    address: m.peer_address.clone(),
                    connected,
                    match_index: facts.matches.iter().find(|(id, _)| *id == m.node_id).map(|(_, i)| *i),
                    applied: if own { Some(applied) } else { peers.applied(m.node_id) },
                    clock_offset_ms: peers.offset(m.node_id, wall_ms, now_ms),
                    feature_level,
                    quarantined: peers.is_quarantined(m.node_id),
                    learner: m.role == MemberRole::Learner,
                }
            })
            .collect();
        // One consistent reading of the applied mark; `applied` above may be a little older. The raft thread tells its
        // facts once a tick and apply runs on meanwhile: what is applied is committed and in the log, whatever they say.
        let mark = self.hub.reader.view().mark().ok();
        let committed = mark.as_ref().map_or(applied, |m| m.commit.max(m.index));
        ClusterStatus {
            node_id: self.hub.own,
            cluster: self.cluster,
            term: role.term,
            // Of one reading with the term: the raft thread tells its facts a moment later, perhaps of another term.
            leader: match role.role {
                Role::Leader { .. } => Some(self.hub.own),
                Role::Follower { leader } => leader,
                Role::Candidate => None,
            },
            role: role.role,
            commit: facts.commit.max(committed),
            applied: mark.as_ref().map_or(applied, |m| m.index),
            last_index: facts.last_index.max(committed),
            members,
            time_ms: mark.as_ref().map_or(time_ms, |m| m.time_ms),
            chain: mark.map_or([0; 32], |m| m.chain),
            phase: self.hub.phase.borrow().clone(),
            level: self.level(),
            alarms: self.hub.alarms.lock().iter().cloned().collect(),
        }
    }

    /// For watchdogs: cheap, and takes no lock that the raft thread holds for long.
    pub fn progress(&self) -> Progress {
        let applied = self.hub.reader.applied().0;
        Progress {
            runs: self.hub.is_open(),
            turns: self.hub.count.turns.load(Relaxed),
            committed: self.hub.facts.lock().commit.max(applied),
            applied,
        }
    }

    /// What every member last said its hashes are (rule 15).
    pub fn digest_report(&self) -> Vec<MemberDigests> {
        let table = self.members();
        let peers = self.hub.peers.lock();
        table.current.iter().map(|m| peers.report(m.node_id)).collect()
    }

    /// What stands wrong with this node, told to the others with every gossip; what was said before is replaced.
    pub fn set_alarms(&self, alarms: Vec<MemberAlarm>) {
        *self.hub.own_alarms.lock() = alarms.into();
    }

    /// What stands wrong, by node: this one's, and what the others last said.
    pub fn alarms(&self) -> Vec<MemberAlarms> {
        let mut all = self.hub.peers.lock().alarms(self.hub.now_ms());
        let alarms = self.hub.own_alarms.lock().to_vec();
        all.push(MemberAlarms { node: self.hub.own, heard_ms_ago: 0, alarms });
        all.sort_by_key(|said| said.node);
        all
    }

    /// Hands leadership over, to the member named or to the one nearest. Returns who leads now, verified.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        let (ticket, answer) = self.hub.await_transfer();
        self.hub.push(Event::Transfer { ticket, to });
        // The driver answers by itself; the time is for a raft thread that hangs in its disk.
        let patience = self.hub.settings.transfer_park + self.hub.settings.disk_slow * 2;
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(TransferError::Closed),
            Err(_) => Err(TransferError::TimedOut),
        }
    }

    /// Who belongs to the cluster, as applied here.
    pub fn members(&self) -> Arc<MemberTable> {
        self.hub.members.lock().table().clone()
    }

    /// The cluster's generation, and where its hash chain begins: who joined learns both from the copy it installs.
    pub fn origin(&self) -> (u64, [u8; 32]) {
        let owner = self.hub.copies.owner();
        (owner.generation, owner.genesis)
    }

    /// Changes the members by one step, or only says what it would lead to (`dry_run`). Answers once the change is applied
    /// here; only the leader does it, others say who leads. The removal of the leader hands leadership over first, and
    /// then says who leads.
    pub async fn change_members(&self, change: MemberChange, dry_run: bool) -> Result<Changed, ChangeError> {
        let (ticket, answer) = self.hub.await_change();
        self.hub.push(Event::Change { ticket, change: change.clone(), dry_run });
        // The driver answers by itself; the time is for a raft thread that hangs in its disk.
        let patience = Duration::from_millis(CHANGE_WITHIN_MS) + self.hub.settings.disk_slow * 2;
        let result = match tokio::time::timeout(patience, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ChangeError::Closed),
            Err(_) => {
                self.hub.forget_change(ticket);
                Err(ChangeError::OutcomeUnknown)
            }
        };
        if result == Err(ChangeError::Leads) && !dry_run {
            return Err(match self.transfer_leader(None).await {
                Ok(leader) => ChangeError::NotLeader { leader: Some(leader) },
                Err(_) => ChangeError::Leads,
            });
        }
        result
    }

    /// Carries a call to another node on the batched stream.
    pub async fn forward(
        &self,
        to: NodeId,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, ForwardError> {
        match self.hub.transport.get() {
            Some(transport) if self.hub.is_open() => transport.forward(to, payload, deadline).await,
            _ => Err(ForwardError::NotSent),
        }
    }

    /// Registers who carries out calls forwarded to this node; until then they are refused unsent. The first
    /// registration stays.
    pub fn set_forward_handler(&self, handler: Arc<dyn ForwardHandler>) {
        if self.hub.handler.set(handler).is_err() {
            tracing::error!("a forward handler is registered already");
        }
    }

    /// Adds a listener; it hears of what is applied from now on, so read the state after adding.
    pub fn add_listener(&self, listener: Arc<dyn ApplyListener>) {
        self.hub.listeners.write().push(listener);
    }

    pub fn state(&self) -> StateReader {
        self.hub.reader.clone()
    }

    /// The log, for those who archive it; `None` while quarantined.
    pub fn log(&self) -> Option<LogStore> {
        self.hub.log.get().cloned()
    }

    pub fn phases(&self) -> watch::Receiver<NodePhase> {
        self.hub.phase.subscribe()
    }

    /// Replicated feature level (rule 9).
    pub fn level(&self) -> u32 {
        self.hub.reader.level()
    }

    /// Members of which it is not known, now, that they understand a level, with what each last said: the level may be
    /// raised only when there is none (rule 9). One that cannot be reached may be on its way back to an older program.
    pub fn below_level(&self, level: u32) -> Vec<(NodeId, Option<u32>)> {
        let reached =
            |node| node == self.hub.own || self.hub.transport.get().is_some_and(|t| t.connected(node));
        let members = self.hub.members.lock();
        let all = members.table().current.iter().map(|m| (m.node_id, members.level(m.node_id)));
        all.filter(|(node, said)| !reached(*node) || said.is_none_or(|said| said < level)).collect()
    }

    /// The log is archived up to here: what follows is kept for who archives, within the bytes that are kept for a member
    /// that lags.
    pub fn set_archived(&self, index: u64) {
        self.hub.archived.store(index, Release);
    }

    /// The own disk is full, or has room again. While it is, entries from a leader are not taken in; the node votes,
    /// reads and keeps up its links.
    pub fn set_disk_stopped(&self, stopped: bool) {
        self.hub.disk_stopped.store(stopped, Release);
    }

    /// Of the disk: how many appends took longer than `disk_slow`, and whether one is under way for that long now.
    pub fn disk_slow(&self) -> (u64, bool) {
        let since = self.hub.disk_busy_since_ms.load(Acquire);
        let limit = u64::try_from(self.hub.settings.disk_slow.as_millis()).unwrap_or(u64::MAX);
        let now = since != 0 && self.hub.now_ms().saturating_sub(since) > limit;
        (self.hub.count.slow_appends.load(Relaxed), now)
    }

    /// How long appends took, as a histogram: (upper bound in seconds, how many up to it), the last without a bound;
    /// and the sum of their times in seconds.
    pub fn append_times(&self) -> (Vec<(f64, u64)>, f64) {
        let mut up_to = 0;
        let bounds = APPEND_BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        let classes = bounds.zip(&self.hub.count.appends).map(|(bound, count)| {
            up_to += count.load(Relaxed);
            (bound, up_to)
        });
        (classes.collect(), self.hub.count.persist_us.load(Relaxed) as f64 / 1e6)
    }

    pub fn node_id(&self) -> NodeId {
        self.hub.own
    }

    /// Closes the node to raft and clients (rule 12); for faults found outside this crate, such as a scrub's.
    pub fn quarantine(&self, reason: &str, remedy: &str) {
        self.hub.quarantine(reason, remedy);
    }

    /// Figures for metrics: (name, value). Names ending in `_total` only grow.
    pub fn figures(&self) -> Vec<(&'static str, f64)> {
        let c = &self.hub.count;
        let of = |n: &std::sync::atomic::AtomicU64| n.load(Relaxed) as f64;
        let (fsyncs, entries) = (of(&c.fsyncs), of(&c.entries));
        let mut out = vec![
            ("raft_turns_total", of(&c.turns)),
            ("raft_fsyncs_total", fsyncs),
            ("raft_entries_total", entries),
            ("raft_entries_per_fsync", if fsyncs > 0.0 { entries / fsyncs } else { 0.0 }),
            ("raft_proposals_total", of(&c.proposals)),
            ("raft_persist_seconds_total", of(&c.persist_us) / 1e6),
            ("raft_elections_total", of(&c.elections)),
            ("raft_slow_appends_total", of(&c.slow_appends)),
            ("raft_disk_full_messages_total", of(&c.disk_full_messages)),
            ("raft_reads_total", of(&c.reads)),
            ("raft_messages_refused_total", of(&c.refused_messages)),
            ("markers_passed_over_total", of(&c.markers_passed_over)),
            ("raft_messages_dropped_total", of(&c.dropped_messages)),
            ("apply_slices_total", of(&c.apply_slices)),
            ("apply_entries_total", of(&c.applied)),
            ("apply_seconds_total", of(&c.apply_us) / 1e6),
            ("forwards_received_total", of(&c.forwards_received)),
            ("proposals_in_flight", self.hub.slots.proposals.load(Relaxed) as f64),
            ("proposals_in_flight_bytes", self.hub.slots.bytes.load(Relaxed) as f64),
            ("snapshots_taken_total", of(&self.hub.copies.taken)),
            ("snapshots_sent_total", of(&self.hub.copies.sent)),
            ("snapshots_failed_total", of(&self.hub.copies.sent_failed)),
            ("snapshots_installed_total", of(&self.hub.copies.installed)),
            ("raft_log_first_index", self.hub.facts.lock().first_index as f64),
            ("reads_in_flight", self.hub.slots.reads.load(Relaxed) as f64),
        ];
        if let Some(transport) = self.hub.transport.get() {
            out.extend(transport.figures());
        }
        out
    }

    /// Hands leadership over, ends links and threads, syncs the identity. Returns when all threads have ended.
    pub async fn shutdown(&self) {
        if self.hub.leads() && self.members().voters().count() > 1 {
            match self.transfer_leader(None).await {
                Ok(to) => tracing::info!(to, "leadership handed over"),
                Err(error) => tracing::warn!(%error, "leadership was not handed over"),
            }
        }
        self.hub.phase.send_if_modified(|phase| {
            let change = !matches!(phase, NodePhase::Quarantined { .. });
            if change {
                *phase = NodePhase::Stopping;
            }
            change
        });
        self.hub.inbox.stop();
        self.hub.apply.stop();
        self.hub.stopped.store(true, Release);
        let threads = std::mem::take(&mut *self.threads.lock());
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A panic was reported by the thread itself.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
        self.hub.close_table(Unknown::Closed);
        if let Some(transport) = self.hub.transport.get() {
            transport.close();
        }
    }
}

/// A wait for an index, given up when dropped: the index may never come.
struct Waiting<'a> {
    hub: &'a Hub,
    index: u64,
    id: ReadId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.hub.table.lock().cancel(self.index, self.id) {
            self.hub.release_read();
        }
        if let ReadId::Call(id) = self.id {
            self.hub.forget_call(id);
        }
    }
}

impl Proposer for ClusterHandle {
    fn register(&self, shard: u16, port: Arc<dyn ShardPort>) {
        self.hub.register(shard, port);
    }

    fn propose(&self, proposals: Vec<Proposal>) -> Result<(), ProposeError> {
        if proposals.is_empty() {
            return Ok(());
        }
        if !self.hub.is_open() {
            return Err(ProposeError::Closed);
        }
        let bytes = proposals.iter().map(|p| p.data.len()).sum();
        let count = proposals.len();
        if !self.hub.reserve(count, bytes) {
            return Err(ProposeError::Full);
        }
        self.hub.inbox.push(Event::Propose(proposals)).map_err(|_| {
            self.hub.release(count, bytes);
            ProposeError::Closed
        })
    }

    fn close_lane(&self, lane: Lane) {
        self.hub.push(Event::CloseLane(lane));
    }

    fn confirm_leadership(&self, shard: u16, ticket: u64) {
        let id = ReadId::Shard { shard, ticket };
        let patience = self.hub.settings.read_timeout;
        let request = ReadRequest { id, deadline_ms: self.hub.ms_of(system::monotonic() + patience) };
        if self.hub.reserve_read() {
            self.hub.push(Event::Read(request));
        } else {
            self.hub.tell(shard, ShardNotice::ReadDone { ticket, result: Err(ReadError::Overloaded) });
        }
    }

    fn role(&self) -> RoleState {
        *self.hub.role.borrow()
    }

    fn roles(&self) -> watch::Receiver<RoleState> {
        self.hub.role.subscribe()
    }

    fn is_open(&self) -> bool {
        self.hub.is_open()
    }

    fn applied_index(&self) -> u64 {
        self.hub.reader.applied().0
    }

    fn stamp(&self) -> Result<i64, StampError> {
        self.hub.stamp(self.hub.reader.applied().1)
    }
}

impl Drop for ClusterHandle {
    /// A handle dropped without `shutdown` (a test that crashes a node) stops its threads without waiting.
    fn drop(&mut self) {
        if !self.hub.stopped.load(Acquire) {
            self.hub.inbox.stop();
            self.hub.apply.stop();
            self.hub.stopped.store(true, Release);
            if let Some(transport) = self.hub.transport.get() {
                transport.close();
            }
        }
    }
}
