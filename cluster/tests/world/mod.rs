//! A virtual cluster of drivers: real logs and identities in memory, a network of queues, time that moves only when
//! told to. Played by scripts and by random steps.
#![allow(dead_code, reason = "each test binary uses its part")]

use bytes::Bytes;
use okno_cluster::{
    api::{ProposalOutcome, ReadError, Role, Settled},
    core::{
        driver::{Driver, Start, Timing, recover},
        event::{Effects, Event, Persist, ReadId},
        pins,
        table::{Answers, Table},
    },
};
use okno_storage::{
    commit::{EntityKey, Outcome},
    identity::{Identity, IdentityRecord, Member},
    log::LogStore,
    memory::{MemoryEngine, MemoryIdentity},
    state::{AppliedEntry, AppliedSlice},
};
use raft::eraftpb::{ConfState, Message};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
};
use uuid::Uuid;

pub const TICK_MS: u64 = 50;
pub const FOUND: &[u8] = b"FOUND";

pub struct Node {
    pub driver: Option<Driver>,
    pub engine: MemoryEngine,
    pub medium: MemoryIdentity,
    pub identity: Identity,
    pub log: LogStore,
    pub table: Table,
    pub applied: u64,
    pub founded: bool,
    pub watermark: u64,
    pub slow: bool,
    pub held: Option<Persist>,
    pub apply_held: bool,
}

#[derive(Default)]
pub struct World {
    pub nodes: BTreeMap<u64, Node>,
    pub net: VecDeque<Message>,
    pub cuts: BTreeSet<(u64, u64)>,
    pub now_ms: u64,
    pub out: String,
    pub seen: Vec<Seen>,
    /// Disks that say "synced" and are not: what a crash then loses was promised.
    pub lying: bool,
}

/// What a node told its shards, and how it sees itself.
#[derive(Debug)]
pub enum Seen {
    Settled { node: u64, settled: Settled },
    Read { node: u64, id: ReadId, result: Result<u64, ReadError> },
    Role { node: u64, term: u64, role: Role },
}

pub fn timing() -> Timing {
    Timing {
        heartbeat_ticks: 2,
        election_ticks: (10, 20),
        transfer_park_ms: 2_000,
        read_round_ms: 250,
        caught_up: 1_000,
        seed: 7,
    }
}

impl World {
    pub fn add_nodes(&mut self, count: u64, pinned: bool) {
        let members: Vec<_> =
            (1..=count).map(|id| Member { node_id: id, peer_address: format!("n{id}.test:1") }).collect();
        let pins = (1..=count).map(|id| (id, Uuid::from_u128(u128::from(id)))).collect();
        for id in 1..=count {
            let medium = MemoryIdentity::new();
            let record = IdentityRecord {
                cluster: Uuid::from_u128(9),
                node_id: id,
                incarnation: Uuid::from_u128(u128::from(id)),
                members: members.clone(),
                pins: if pinned { Vec::clone(&pins) } else { Vec::new() },
                term: 0,
                vote: 0,
                synced_term: 0,
                synced_index: 0,
                live_directory: "db".into(),
                sequence: 0,
                later: Default::default(),
            };
            let identity = Identity::create(Box::new(medium.clone()), record).expect("memory");
            let engine = MemoryEngine::new();
            let log = LogStore::open(std::sync::Arc::new(engine.clone())).expect("memory");
            let node = Node {
                driver: None,
                engine,
                medium,
                identity,
                log,
                table: Table::new(0),
                applied: 0,
                founded: false,
                watermark: 0,
                slow: false,
                held: None,
                apply_held: false,
            };
            self.nodes.insert(id, node);
        }
        for id in 1..=count {
            self.start(id);
        }
    }

    /// Starts a node from what its disk holds. What it had applied is lost unless the log says it again.
    pub fn start(&mut self, id: u64) {
        let members: Vec<u64> = self.nodes.keys().copied().collect();
        let table = pins::initial(self.nodes[&id].identity.record());
        let n = self.nodes.get_mut(&id).expect("known");
        n.log = LogStore::open(std::sync::Arc::new(n.engine.clone())).expect("memory");
        n.identity = Identity::open(Box::new(n.medium.clone())).expect("memory");
        let r = n.identity.record();
        let synced = (r.synced_term, r.synced_index);
        let stored = n.log.hard_state().expect("memory");
        let hard_state = match recover((r.term, r.vote), stored, 0, &n.log, synced) {
            Ok(hard_state) => hard_state,
            Err(error) => {
                writeln!(self.out, "n{id} does not start: {error}").expect("string");
                return;
            }
        };
        let start = Start {
            id,
            table: table.clone(),
            log: n.log.clone(),
            hard_state,
            conf_state: ConfState { voters: members, ..ConfState::default() },
            applied: 0,
            founded: false,
            pinned: !r.pins.is_empty(),
            synced,
            boot: self.now_ms,
            unreadable: Default::default(),
        };
        (n.applied, n.watermark, n.founded, n.table, n.held) = (0, 0, false, Table::new(0), None);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        n.driver = Some(Driver::new(start, timing(), &logger).expect("valid"));
    }

    pub fn feed(&mut self, id: u64, events: Vec<Event>) {
        let now = self.now_ms;
        let Some(driver) = self.nodes.get_mut(&id).and_then(|n| n.driver.as_mut()) else { return };
        let fx = driver.on(events, now);
        self.perform(id, fx);
    }

    pub fn say(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.out, "{text}").expect("string");
    }

    pub fn perform(&mut self, id: u64, fx: Effects) {
        let n = self.nodes.get_mut(&id).expect("known");
        let mut answers = Answers { settled: fx.answers, reads: Vec::new() };
        n.table.propose(fx.proposed, &mut answers);
        if let Some(committed) = fx.lost {
            n.table.lose(committed, &mut answers);
        }
        for (index, requests) in fx.reads {
            n.table.confirm(index, requests, &mut answers);
        }
        answers.reads.extend(fx.reads_failed.into_iter().map(|(r, e)| (r, Err(e))));
        if let Some(role) = fx.role {
            self.seen.push(Seen::Role { node: id, term: role.term, role: role.role });
            self.say(format_args!("n{id} {}", show_role(role.role, role.term)));
        }
        self.show(id, answers);
        for (lane, last) in fx.closed_lanes {
            self.say(format_args!("n{id} lane {} closed, last index {last}", lane.activation));
        }
        for (_, result) in fx.transfers {
            self.say(format_args!("n{id} transfer: {result:?}"));
        }
        if let Some(q) = fx.quarantine {
            self.say(format_args!("n{id} quarantined: {}", q.reason));
        }
        if fx.refused > 0 {
            self.say(format_args!("n{id} refused {} message(s)", fx.refused));
        }
        if let Some((term, index)) = fx.synced
            && !self.lying
        {
            let n = self.nodes.get_mut(&id).expect("known");
            n.identity.update(|r| (r.synced_term, r.synced_index) = (term, index)).expect("memory");
        }
        self.net.extend(fx.messages);
        if let Some(watermark) = fx.watermark {
            self.nodes.get_mut(&id).expect("known").watermark = watermark;
            self.apply(id);
        }
        if let Some(term) = fx.found {
            self.feed(id, vec![Event::Found { term, data: Bytes::from_static(FOUND) }]);
        }
        if let Some(persist) = fx.persist {
            let n = self.nodes.get_mut(&id).expect("known");
            assert!(n.held.is_none(), "one append at a time");
            if n.slow {
                n.held = Some(persist);
            } else {
                self.persist(id, persist);
            }
        }
    }

    /// Carries out an append.
    pub fn persist(&mut self, id: u64, p: Persist) {
        let (sequence, lower) = (p.sequence, p.lower);
        self.write(id, p);
        if let Some((term, index)) = lower {
            self.say(format_args!("n{id} cuts its log; identity lowered to index {index} of term {term}"));
        }
        self.feed(id, vec![Event::Persisted(sequence)]);
    }

    /// What of an append reaches the disk.
    pub fn write(&mut self, id: u64, p: Persist) {
        let n = self.nodes.get_mut(&id).expect("known");
        if (p.lower.is_some() || p.voted) && !self.lying {
            n.identity
                .update(|r| {
                    if let Some((term, index)) = p.lower {
                        (r.synced_term, r.synced_index) = (term, index);
                    }
                    if let Some(vote) = p.vote() {
                        (r.term, r.vote) = (vote.term, vote.vote);
                    }
                })
                .expect("memory");
        }
        n.log.persist(p.entries, p.hard_state, !self.lying).expect("memory");
    }

    pub fn apply(&mut self, id: u64) {
        let n = self.nodes.get_mut(&id).expect("known");
        if n.apply_held || n.watermark <= n.applied {
            return;
        }
        let entries = n.log.entries(n.applied + 1, n.watermark + 1, usize::MAX).expect("memory");
        let slice = AppliedSlice {
            first: n.applied + 1,
            last: n.watermark,
            entries: entries
                .iter()
                .map(|e| AppliedEntry {
                    index: e.index,
                    term: e.term,
                    outcome: if e.data.is_empty() { Outcome::NoCommit } else { Outcome::Applied },
                    entity: EntityKey::parse("case/1").ok(),
                    sent: Vec::new(),
                    timers: Vec::new(),
                    moved: true,
                })
                .collect(),
            ..AppliedSlice::default()
        };
        n.founded |= entries.iter().any(|e| &e.data[..] == FOUND);
        n.applied = n.watermark;
        let (index, founded) = (n.applied, n.founded);
        let mut answers = Answers::default();
        n.table.settle(&slice, &mut answers);
        self.show(id, answers);
        self.feed(id, vec![Event::Applied { index, founded }]);
    }

    pub fn show(&mut self, id: u64, answers: Answers) {
        for a in answers.settled {
            let s = a.settled;
            self.seen.push(Seen::Settled { node: id, settled: s.clone() });
            let what = match s.outcome {
                ProposalOutcome::Applied { index } => format!("applied at {index}"),
                other => format!("{other:?}"),
            };
            self.say(format_args!("n{id} lane {} seq {}: {what}", s.lane.activation, s.seq));
        }
        for (request, result) in answers.reads {
            self.seen.push(Seen::Read { node: id, id: request.id, result });
            let name = match request.id {
                ReadId::Shard { ticket, .. } => format!("ticket {ticket}"),
                ReadId::Call(call) => format!("read {call}"),
            };
            self.say(format_args!("n{id} {name}: {result:?}"));
        }
    }

    /// A crash: what was not synced is gone.
    pub fn crash(&mut self, id: u64) {
        let n = self.nodes.get_mut(&id).expect("known");
        n.driver = None;
        n.held = None;
        n.slow = false;
        n.apply_held = false;
        n.engine = n.engine.crash(0);
        self.net.retain(|m| m.to != id);
    }

    /// A held append returns.
    pub fn flush(&mut self, id: u64) {
        let n = self.nodes.get_mut(&id).expect("known");
        n.slow = false;
        if let Some(persist) = n.held.take() {
            self.persist(id, persist);
        }
    }

    pub fn status(&self) -> String {
        let mut out = String::new();
        for (id, n) in &self.nodes {
            let Some(d) = &n.driver else {
                writeln!(out, "n{id} is down").expect("string");
                continue;
            };
            let r = n.identity.record();
            writeln!(
                out,
                "n{id} {}; log {}, watermark {}, applied {}; identity: term {} vote {} synced {}@{}",
                show_role(d.role().role, d.term()),
                d.last_index(),
                d.watermark(),
                n.applied,
                r.term,
                r.vote,
                r.synced_index,
                r.synced_term,
            )
            .expect("string");
        }
        out
    }

    /// Delivers until nothing moves.
    pub fn deliver(&mut self) {
        while let Some(m) = self.net.pop_front() {
            if !self.cuts.contains(&(m.from, m.to)) {
                self.feed(m.to, vec![Event::Messages { from: m.from, messages: vec![m] }]);
            }
        }
    }

    pub fn tick(&mut self, only: Option<u64>) {
        self.now_ms += TICK_MS;
        let ids: Vec<u64> = self.nodes.keys().copied().filter(|id| only.is_none_or(|o| o == *id)).collect();
        for id in ids {
            self.feed(id, vec![Event::Tick]);
        }
        self.deliver();
    }
}

pub fn show_role(role: Role, term: u64) -> String {
    match role {
        Role::Leader { ready: true } => format!("leads in term {term}, ready"),
        Role::Leader { ready: false } => format!("leads in term {term}"),
        Role::Follower { leader: Some(l) } => format!("follows n{l} in term {term}"),
        Role::Follower { leader: None } => format!("follows nobody in term {term}"),
        Role::Candidate => format!("campaigns after term {term}"),
    }
}
