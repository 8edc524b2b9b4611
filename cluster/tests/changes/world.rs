//! A virtual cluster whose members change: real logs, states, identities and copies in memory, a network of queues, time
//! that moves only when told to. Played by scripts and by random steps.
//!
//! Where `tests/world` has a store that knows no commits, this one applies real ones: tables of members and copies of the
//! database are made of them.

use crate::show::{show_change, show_table};
use okno_cluster::{
    api::{Lane, NodeId, Proposal, ProposalOutcome, Role, Settled},
    core::{
        change::Known,
        driver::{Driver, Timing},
        event::{Effects, Event, Persist},
        open::open,
        retention::{self, Retention},
        steps::{self, Reached},
        table::{Answers, Table},
    },
    settings::{FEATURE_LEVEL, MEMBERS_LEVEL},
};
use okno_storage::{
    commit::{Commit, CommitId, EntityKey},
    identity::{Identity, IdentityRecord, Member},
    log::{EntryKind, LogEntry, LogStore},
    members::MemberChange,
    memory::{MemoryEngine, MemoryIdentity},
    snapshot::{Candidate, CopyOf, Home, MemoryDisk, MemoryHome, Receiver, Source},
    state::{AppliedSlice, StateStore},
};
use raft::eraftpb::{Message, MessageType};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    sync::Arc,
};
use uuid::Uuid;

pub const TICK_MS: u64 = 50;
/// Entries a learner may lack when it is promoted.
pub const CAUGHT_UP: u64 = 8;
const CHUNK: usize = 4_096;

/// A process.
pub struct Live {
    pub driver: Driver,
    pub identity: Identity,
    pub log: LogStore,
    pub state: StateStore,
    home: MemoryHome,
    table: Table,
    watermark: u64,
    reached: Option<(LogEntry, Reached)>,
    source: Option<Arc<dyn Source>>,
    candidates: BTreeMap<u64, (Candidate, NodeId)>,
    founded: bool,
    held: Option<Persist>,
    known: Known,
    closed: bool,
}

pub struct Node {
    pub live: Option<Live>,
    disk: MemoryDisk,
    medium: MemoryIdentity,
    /// Its appends do not return.
    pub slow: bool,
    /// It applies nothing, until it starts again.
    pub lags: bool,
    /// Why it did not start, or closed itself.
    pub why: Option<String>,
}

pub enum Packet {
    Raft(Message),
    Copy {
        message: Message,
        source: Arc<dyn Source>,
    },
    /// What became of a copy.
    Told {
        to: NodeId,
        about: NodeId,
        installed: bool,
    },
}

impl Packet {
    pub fn way(&self) -> (NodeId, NodeId) {
        match self {
            Self::Raft(m) | Self::Copy { message: m, .. } => (m.from, m.to),
            Self::Told { to, about, .. } => (*about, *to),
        }
    }

    fn only_says_commit(&self) -> bool {
        let Self::Raft(m) = self else { return false };
        match m.get_msg_type() {
            MessageType::MsgAppend => m.entries.is_empty(),
            kind => kind == MessageType::MsgHeartbeat,
        }
    }
}

#[derive(Default)]
pub struct World {
    pub nodes: BTreeMap<NodeId, Node>,
    pub net: VecDeque<Packet>,
    pub cuts: BTreeSet<(NodeId, NodeId)>,
    /// From the one to the other nothing passes that only says how far is committed.
    pub hushed: BTreeSet<(NodeId, NodeId)>,
    pub now_ms: u64,
    pub out: String,
    pub settled: Vec<(NodeId, Settled)>,
    /// Term → who led in it.
    pub leaders: BTreeMap<u64, NodeId>,
    /// Index → chain there, as first applied.
    pub chains: BTreeMap<u64, [u8; 32]>,
    /// Entries kept of the log; `None`: it is not cut.
    pub tail: Option<u64>,
    /// The word that a copy was installed is lost: its sender takes the transfer for broken off.
    pub unheard: bool,
    /// Copies on their way: (from, to).
    sending: BTreeSet<(NodeId, NodeId)>,
    /// The node ends right after it has installed a copy, before anybody hears of it.
    pub ends_after_install: BTreeSet<NodeId>,
    pub copies: u64,
    pub changes: u64,
    founders: Vec<Member>,
    proposed: u64,
    received: u64,
}

fn timing() -> Timing {
    Timing {
        heartbeat_ticks: 2,
        election_ticks: (10, 20),
        transfer_park_ms: 2_000,
        read_round_ms: 250,
        caught_up: CAUGHT_UP,
        seed: 7,
    }
}

fn cluster() -> Uuid {
    Uuid::from_u128(9)
}

fn address(id: NodeId) -> String {
    format!("n{id}.test:1")
}

/// A commit that changes nothing and so may come anywhere.
fn commit(number: u64, term: u64) -> Commit {
    let entity = EntityKey::parse("case/one").expect("in the right form");
    Commit::bare(entity, CommitId { term, counter: 5_000 + number }, CommitId::NONE, 0)
}

impl World {
    pub fn found(&mut self, count: u64) {
        self.founders = (1..=count).map(|id| Member { node_id: id, peer_address: address(id) }).collect();
        for id in 1..=count {
            self.init(id, false);
        }
        for id in 1..=count {
            self.start(id);
        }
    }

    fn init(&mut self, id: NodeId, joined: bool) {
        let incarnation = |id: NodeId| Uuid::from_u128(u128::from(id));
        let pins = self.founders.iter().map(|m| (m.node_id, incarnation(m.node_id)));
        let mut record = IdentityRecord {
            cluster: cluster(),
            node_id: id,
            incarnation: incarnation(id),
            members: self.founders.clone(),
            pins: if joined { Vec::new() } else { pins.collect() },
            term: 0,
            vote: 0,
            synced_term: 0,
            synced_index: 0,
            live_directory: "db".into(),
            sequence: 0,
            later: Default::default(),
        };
        record.later.joined = joined;
        let medium = MemoryIdentity::new();
        Identity::create(Box::new(medium.clone()), record).expect("memory");
        let disk = MemoryDisk::new("db", MemoryEngine::new());
        self.nodes.insert(id, Node { live: None, disk, medium, slow: false, lags: false, why: None });
    }

    /// A machine on which `okno init --join` has run starts.
    pub fn join(&mut self, id: NodeId) {
        self.init(id, true);
        self.start(id);
    }

    pub fn start(&mut self, id: NodeId) {
        let boot = self.now_ms;
        let n = self.nodes.get_mut(&id).expect("known");
        let identity = Identity::open(Box::new(n.medium.clone())).expect("memory");
        let record = identity.record().clone();
        let home = MemoryHome::new(&n.disk, &record.live_directory).expect("what identity names is there");
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let opened = open(&home.engine(), &record, timing(), boot, &logger).expect("memory");
        let driver = match opened.driver {
            Ok(driver) => driver,
            Err(wrong) => {
                n.why = Some(wrong.reason);
                return;
            }
        };
        let applied = opened.state.mark().index;
        n.live = Some(Live {
            driver,
            identity,
            log: opened.log,
            state: opened.state,
            home,
            table: Table::new(applied),
            watermark: applied,
            reached: None,
            source: None,
            candidates: BTreeMap::new(),
            founded: opened.founded,
            held: None,
            known: Known::default(),
            closed: false,
        });
    }

    /// The process ends: what was not synced is gone.
    pub fn crash(&mut self, id: NodeId) {
        let n = self.nodes.get_mut(&id).expect("known");
        let Some(live) = n.live.take() else { return };
        let directory = live.identity.record().live_directory.clone();
        // What was received and not installed stays as a directory that nobody names.
        live.candidates.into_values().for_each(std::mem::forget);
        (n.slow, n.lags) = (false, false);
        n.disk = n.disk.crash(&directory, 0, |loose| loose / 2);
        self.net.retain(|packet| packet.way().1 != id);
        // A sender always learns that a transfer has ended.
        self.sending.retain(|(from, _)| *from != id);
        let broken: Vec<_> = self.sending.iter().copied().filter(|(_, to)| *to == id).collect();
        for (from, to) in broken {
            self.tell(from, to, false);
        }
    }

    pub fn live(&self, id: NodeId) -> Option<&Live> {
        self.nodes.get(&id)?.live.as_ref().filter(|live| !live.closed)
    }

    fn live_mut(&mut self, id: NodeId) -> Option<&mut Live> {
        self.nodes.get_mut(&id)?.live.as_mut()
    }

    pub fn say(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.out, "{text}").expect("string");
    }

    /// Everybody knows every program, and hears whom it is not cut off from.
    fn know(&self, id: NodeId) -> Option<Known> {
        let live = self.live(id)?;
        let table = live.state.members().ok()?;
        let up: BTreeSet<NodeId> =
            self.nodes.keys().copied().filter(|n| *n != id && self.live(*n).is_some()).collect();
        let heard = up.iter().copied().filter(|n| !self.cuts.contains(&(*n, id)) && table.get(*n).is_some());
        Some(Known {
            level: MEMBERS_LEVEL,
            levels: self.nodes.keys().map(|n| (*n, FEATURE_LEVEL)).collect(),
            heard: heard.collect(),
            admitted: self.nodes.keys().copied().filter(|n| !table.is_removed(*n)).collect(),
            ..Known::default()
        })
    }

    pub fn feed(&mut self, id: NodeId, events: Vec<Event>) {
        let now = self.now_ms;
        let Some(live) = self.live_mut(id).filter(|live| !live.closed) else { return };
        let fx = live.driver.on(events, now);
        self.perform(id, fx);
    }

    fn proposal(&mut self, id: NodeId) -> Event {
        self.proposed += 1;
        let number = self.proposed;
        let term = self.live(id).map_or(0, |live| live.driver.term());
        let data = commit(number, term).encode().expect("small");
        Event::Propose(vec![Proposal { lane: Lane { shard: 0, activation: number }, seq: 1, term, data }])
    }

    pub fn propose(&mut self, id: NodeId) -> u64 {
        let event = self.proposal(id);
        self.feed(id, vec![event]);
        self.proposed
    }

    /// Asks for a change in one turn with so many proposals before it.
    pub fn change(&mut self, id: NodeId, change: MemberChange, dry_run: bool, after: u64) {
        let mut events: Vec<Event> = (0..after).map(|_| self.proposal(id)).collect();
        events.push(Event::Change { ticket: 1, change, dry_run });
        self.feed(id, events);
    }

    fn perform(&mut self, id: NodeId, mut fx: Effects) {
        let persist = fx.persist.take();
        let Some(live) = self.live_mut(id) else { return };
        let answers = steps::register(&mut live.table, &mut fx);
        self.settle(id, answers);
        if let Some(role) = fx.role
            && let Role::Leader { ready } = role.role
        {
            let other = *self.leaders.entry(role.term).or_insert(id);
            assert_eq!(other, id, "two leaders in term {}", role.term);
            if ready {
                self.say(format_args!("n{id} leads in term {}", role.term));
            }
        }
        for (_, result) in std::mem::take(&mut fx.changes) {
            let text = show_change(&result.map(|c| (c.index, c.plan)));
            self.say(format_args!("n{id} change: {text}"));
        }
        for (_, result) in std::mem::take(&mut fx.transfers) {
            self.say(format_args!("n{id} transfer: {result:?}"));
        }
        self.net.extend(std::mem::take(&mut fx.messages).into_iter().map(Packet::Raft));
        for copy in std::mem::take(&mut fx.discard) {
            let taken = self.live_mut(id).and_then(|live| live.candidates.remove(&copy));
            if let Some((_, from)) = taken {
                self.tell(from, id, false);
            }
        }
        if fx.drop_copy
            && let Some(live) = self.live_mut(id)
        {
            live.source = None;
        }
        if fx.take_copy {
            self.take_copy(id);
        }
        for message in std::mem::take(&mut fx.send_copies) {
            self.send_copy(id, message);
        }
        if let Some(configured) = fx.configured.take() {
            let Some(live) = self.live_mut(id) else { return };
            let of = |(_, r): &mut (LogEntry, Reached)| r.index == configured.index;
            if let Some((entry, reached)) = live.reached.take_if(of) {
                let watermark = live.watermark;
                let led_to = Some((&reached.change, configured.conf_state));
                let slice = steps::apply_configuration(&mut live.state, &entry, watermark, led_to);
                self.changes += 1;
                self.say(format_args!("n{id} applies {}: {}", reached.index, show_table(&reached.table)));
                self.applied(id, &slice.expect("applies"));
                if reached.table.is_removed(id) {
                    self.close(id, "removed");
                }
            }
        }
        if let Some(why) = fx.quarantine.take() {
            self.close(id, &why.reason);
        }
        if let Some(mark) = fx.synced
            && let Some(live) = self.live_mut(id)
        {
            steps::note_synced(&mut live.identity, mark).expect("memory");
        }
        if let Some(watermark) = fx.watermark
            && let Some(live) = self.live_mut(id)
        {
            live.watermark = live.watermark.max(watermark);
        }
        self.apply(id);
        if let Some(term) = fx.found {
            let record = self.live(id).map(|live| live.identity.record().clone());
            let commit = record.and_then(|record| steps::founding_commit(&record, term, 0));
            if let Some(commit) = commit {
                let data = commit.encode().expect("small");
                self.feed(id, vec![Event::Found { term, data }]);
            }
        }
        if let Some(persist) = persist {
            let slow = self.nodes[&id].slow;
            let Some(live) = self.live_mut(id) else { return };
            if slow {
                assert!(live.held.is_none(), "one append at a time");
                live.held = Some(persist);
            } else {
                self.persist(id, persist);
            }
        }
    }

    /// An append, or an install, returns.
    fn persist(&mut self, id: NodeId, persist: Persist) {
        let sequence = persist.sequence;
        let Some(live) = self.live_mut(id) else { return };
        let Some(install) = persist.install else {
            steps::persist(&mut live.identity, &live.log, persist).expect("memory");
            return self.feed(id, vec![Event::Persisted(sequence)]);
        };
        let Some((candidate, from)) = live.candidates.remove(&install.copy) else { return };
        live.reached = None;
        let table = steps::install(candidate, &mut live.identity, &live.log, &mut live.state, persist);
        let table = table.expect("a copy that was checked");
        let mut answers = Answers::default();
        live.table.jump(install.index, &mut answers);
        live.founded = true;
        self.settle(id, answers);
        self.copies += 1;
        self.say(format_args!("n{id} is a copy of {}", install.index));
        let chain = self.live(id).map(|live| live.state.mark().chain);
        self.check_chain(install.index, chain.expect("it is up"));
        if self.ends_after_install.remove(&id) {
            return self.crash(id);
        }
        self.tell(from, id, true);
        self.feed(id, vec![Event::Installed { table }, Event::Persisted(sequence)]);
    }

    pub fn flush(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).expect("known").slow = false;
        if let Some(persist) = self.live_mut(id).and_then(|live| live.held.take()) {
            self.persist(id, persist);
        }
    }

    fn close(&mut self, id: NodeId, why: &str) {
        self.say(format_args!("n{id} closes: {why}"));
        let n = self.nodes.get_mut(&id).expect("known");
        n.why = Some(why.to_owned());
        let Some(live) = n.live.as_mut() else { return };
        live.closed = true;
        let fx = live.driver.on([Event::Close], self.now_ms);
        let mut answers = steps::register(&mut live.table, &mut { fx });
        live.table.close(okno_cluster::api::Unknown::Closed, &mut answers);
        self.settle(id, answers);
    }

    /// Applies what may be applied, up to a change of members that the driver has to answer.
    fn apply(&mut self, id: NodeId) {
        if self.nodes[&id].lags {
            return;
        }
        loop {
            let Some(live) = self.live_mut(id).filter(|live| !live.closed && live.reached.is_none()) else {
                return;
            };
            let watermark = live.watermark;
            let entries = steps::next_slice(&live.state, &live.log, watermark).expect("the log holds it");
            let Some(first) = entries.first().cloned() else { return };
            if first.kind == EntryKind::Configuration {
                match steps::reached(&live.state, &first).expect("known bytes") {
                    Some(reached) => {
                        let event = reached.event();
                        live.reached = Some((first, reached));
                        self.feed(id, vec![event]);
                        continue;
                    }
                    None => {
                        let slice = steps::apply_configuration(&mut live.state, &first, watermark, None);
                        self.applied(id, &slice.expect("applies"));
                        continue;
                    }
                }
            }
            let slice = live.state.apply(&entries, watermark).expect("applies");
            self.applied(id, &slice);
        }
    }

    fn applied(&mut self, id: NodeId, slice: &AppliedSlice) {
        let Some(live) = self.live_mut(id) else { return };
        let pins = live.identity.record().pins.clone();
        let pins = (!live.identity.record().later.joined).then_some(pins);
        if let Some(agrees) = steps::founded(&live.state, slice, cluster(), pins.as_deref()).expect("memory")
        {
            assert!(agrees);
            live.founded = true;
        }
        let mut answers = Answers::default();
        live.table.settle(slice, &mut answers);
        let (index, founded, chain) = (slice.last, live.founded, live.state.mark().chain);
        self.settle(id, answers);
        self.check_chain(index, chain);
        self.feed(id, vec![Event::Applied { index, founded }]);
    }

    /// Whoever ends a slice where another did has the same chain there.
    fn check_chain(&mut self, index: u64, chain: [u8; 32]) {
        let known = *self.chains.entry(index).or_insert(chain);
        assert_eq!(known, chain, "chains differ at {index}");
    }

    fn settle(&mut self, id: NodeId, answers: Answers) {
        for answer in answers.settled {
            let settled = answer.settled;
            match &settled.outcome {
                ProposalOutcome::Applied { index } => {
                    self.say(format_args!("n{id} proposal {}: applied at {index}", settled.lane.activation));
                }
                other => self.say(format_args!("n{id} proposal {}: {other:?}", settled.lane.activation)),
            }
            self.settled.push((id, settled));
        }
    }

    // Copies.

    fn take_copy(&mut self, id: NodeId) {
        let Some(live) = self.live_mut(id) else { return };
        let genesis = live.identity.record().genesis_chain();
        let of = CopyOf { cluster: cluster(), generation: 1, genesis, node_id: id };
        let source = live.home.take(&of, &mut |_| true).expect("sound");
        let facts = steps::copy_facts(source.manifest()).expect("sound");
        live.source = Some(source);
        self.say(format_args!("n{id} takes a copy of {}", facts.index));
        self.feed(id, vec![Event::Copied(Some(facts))]);
    }

    fn send_copy(&mut self, id: NodeId, message: Message) {
        let index = message.get_snapshot().get_metadata().index;
        let source = self.live(id).and_then(|live| live.source.clone());
        match source.filter(|s| s.manifest().index == index) {
            Some(source) => {
                self.sending.insert((id, message.to));
                self.net.push_back(Packet::Copy { message, source });
            }
            None => self.feed(id, vec![Event::Sent { to: message.to, installed: false }]),
        }
    }

    fn tell(&mut self, to: NodeId, about: NodeId, installed: bool) {
        self.sending.remove(&(to, about));
        self.net.push_back(Packet::Told { to, about, installed: installed && !self.unheard });
    }

    fn copy_comes(&mut self, message: Message, source: &Arc<dyn Source>) {
        let (from, to) = (message.from, message.to);
        self.received += 1;
        let copy = self.received;
        let Some(live) = self.live_mut(to).filter(|live| !live.closed) else {
            return self.tell(from, to, false);
        };
        let manifest = source.manifest().clone();
        let applied = live.state.mark().index;
        let checked = okno_storage::snapshot::check(&manifest, &live.identity, applied, FEATURE_LEVEL);
        if let Err(why) = checked {
            self.say(format_args!("n{to} refuses a copy: {why}"));
            self.tell(from, to, false);
            if matches!(why, okno_storage::snapshot::SnapshotError::Old { .. }) {
                self.feed(to, vec![Event::NotNeeded { from, message: Box::new(message) }]);
            }
            return;
        }
        let place = live.home.incoming().expect("memory");
        let mut receiver = Receiver::begin(manifest, place, &mut |_| true).expect("memory");
        while let Some(at) = receiver.wanted() {
            let data = source.read(at.file, at.offset, CHUNK).expect("memory");
            receiver.put(at, &data, crc32c::crc32c(&data)).expect("memory");
        }
        let candidate = live.home.candidate(receiver).expect("sound");
        live.candidates.insert(copy, (candidate, from));
        self.feed(to, vec![Event::Received { from, message: Box::new(message), copy }]);
    }

    pub fn carry(&mut self, packet: Packet) {
        match packet {
            Packet::Raft(m) => {
                let (from, to) = (m.from, m.to);
                // Its links are down for who knows that it was removed.
                let removed = self.live(to).and_then(|l| l.state.members().ok());
                if !removed.is_some_and(|table| table.is_removed(from)) {
                    self.feed(to, vec![Event::Messages { from, messages: vec![m] }]);
                }
            }
            Packet::Copy { message, source } => self.copy_comes(message, &source),
            Packet::Told { to, about, installed } => {
                self.feed(to, vec![Event::Sent { to: about, installed }]);
            }
        }
    }

    /// Delivers until nothing moves.
    pub fn deliver(&mut self) {
        while let Some(packet) = self.net.pop_front() {
            if !self.cuts.contains(&packet.way()) {
                if !(self.hushed.contains(&packet.way()) && packet.only_says_commit()) {
                    self.carry(packet);
                }
            } else if let Packet::Copy { message, .. } = packet {
                self.feed(message.from, vec![Event::Sent { to: message.to, installed: false }]);
            }
        }
    }

    pub fn tick_one(&mut self, id: NodeId) {
        let known = self.know(id);
        let tail = self.tail;
        let Some(live) = self.live_mut(id).filter(|live| !live.closed) else { return };
        let mut events = Vec::new();
        if let Some(known) = known.filter(|known| *known != live.known) {
            live.known = known.clone();
            events.push(Event::Known(Box::new(known)));
        }
        events.push(Event::Tick);
        if let Some(tail) = tail.filter(|_| !live.driver.is_waiting()) {
            let facts = retention::Facts {
                first_index: live.log.first_index(),
                last_index: live.driver.last_index(),
                applied: live.driver.applied(),
                others: &[],
                pinned: live.driver.pinned_from(),
                entry_bytes: 100,
            };
            let through = retention::cut_through(Retention { tail, bytes_max: u64::MAX }, facts);
            live.log.cut(through).expect("it is applied");
        }
        self.feed(id, events);
    }

    pub fn tick(&mut self, only: Option<NodeId>) {
        self.now_ms += TICK_MS;
        let ids: Vec<NodeId> =
            self.nodes.keys().copied().filter(|id| only.is_none_or(|o| o == *id)).collect();
        for id in ids {
            self.tick_one(id);
        }
        self.deliver();
    }

    pub fn status(&self) -> String {
        let mut out = String::new();
        for (id, n) in &self.nodes {
            let Some(live) = self.live(*id) else {
                let why = n.why.as_deref().unwrap_or("down");
                writeln!(out, "n{id} is out: {why}").expect("string");
                continue;
            };
            let role = match live.driver.role().role {
                Role::Leader { .. } => "leads".to_owned(),
                Role::Follower { leader: Some(l) } => format!("follows n{l}"),
                Role::Follower { leader: None } => "follows nobody".to_owned(),
                Role::Candidate => "campaigns".to_owned(),
            };
            let table = show_table(live.driver.table());
            let (first, last, applied) =
                (live.log.first_index(), live.log.last_index(), live.state.mark().index);
            writeln!(out, "n{id} {role}; log {first}..={last}, applied {applied}; {table}").expect("string");
        }
        out
    }
}

/// A learner to be added, as `oknoctl member add` asks for it.
pub fn add(id: NodeId) -> MemberChange {
    MemberChange::AddLearner { node_id: id, peer_address: address(id), incarnation: None }
}
