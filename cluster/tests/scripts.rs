//! Plays scripts on a virtual cluster of drivers: real logs and identities in memory, a network of queues, time that
//! moves only when told to. The transcripts under `scripts/` are reviewed by people; set `UPDATE_GOLDENFILES=1` to
//! write them anew.

use bytes::Bytes;
use goldenscript::{Command, Runner};
use okno_cluster::{
    api::{Lane, Proposal, ProposalOutcome, Role},
    core::{
        driver::{Driver, Start, Timing, recover},
        event::{Effects, Event, Persist, ReadId, ReadRequest},
        table::{Answers, Table},
    },
};
use okno_storage::{
    commit::{EntityKey, Outcome},
    identity::{Identity, IdentityRecord, Member},
    log::{EntryKind, LogStore},
    memory::{MemoryEngine, MemoryIdentity},
    state::{AppliedEntry, AppliedSlice},
};
use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    error::Error,
    fmt::Write as _,
};
use uuid::Uuid;

const TICK_MS: u64 = 50;
const FOUND: &[u8] = b"FOUND";

struct Node {
    driver: Option<Driver>,
    engine: MemoryEngine,
    medium: MemoryIdentity,
    identity: Identity,
    log: LogStore,
    table: Table,
    applied: u64,
    founded: bool,
    watermark: u64,
    slow: bool,
    held: Option<Persist>,
    apply_held: bool,
}

#[derive(Default)]
struct World {
    nodes: BTreeMap<u64, Node>,
    net: VecDeque<Message>,
    cuts: BTreeSet<(u64, u64)>,
    now_ms: u64,
    out: String,
}

fn timing() -> Timing {
    Timing { heartbeat_ticks: 2, election_ticks: (10, 20), transfer_park_ms: 2_000, read_round_ms: 250, seed: 7 }
}

impl World {
    fn add_nodes(&mut self, count: u64, pinned: bool) {
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
    fn start(&mut self, id: u64) {
        let members: Vec<u64> = self.nodes.keys().copied().collect();
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
            members: members.clone(),
            log: n.log.clone(),
            hard_state,
            conf_state: ConfState { voters: members, ..ConfState::default() },
            applied: 0,
            founded: false,
            pinned: !r.pins.is_empty(),
            synced,
            boot: 1,
        };
        (n.applied, n.watermark, n.founded, n.table, n.held) = (0, 0, false, Table::new(0), None);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        n.driver = Some(Driver::new(start, timing(), &logger).expect("valid"));
    }

    fn feed(&mut self, id: u64, events: Vec<Event>) {
        let now = self.now_ms;
        let Some(driver) = self.nodes.get_mut(&id).and_then(|n| n.driver.as_mut()) else { return };
        let fx = driver.on(events, now);
        self.perform(id, fx);
    }

    fn say(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.out, "{text}").expect("string");
    }

    fn perform(&mut self, id: u64, fx: Effects) {
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
        if let Some((term, index)) = fx.synced {
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

    fn persist(&mut self, id: u64, p: Persist) {
        let n = self.nodes.get_mut(&id).expect("known");
        if p.lower.is_some() || p.vote.is_some() {
            n.identity
                .update(|r| {
                    if let Some((term, index)) = p.lower {
                        (r.synced_term, r.synced_index) = (term, index);
                    }
                    if let Some(vote) = p.vote {
                        (r.term, r.vote) = (vote.term, vote.vote);
                    }
                })
                .expect("memory");
        }
        n.log.persist(p.entries, p.vote, true).expect("memory");
        if let Some((term, index)) = p.lower {
            self.say(format_args!("n{id} cuts its log; identity lowered to index {index} of term {term}"));
        }
        self.feed(id, vec![Event::Persisted(p.sequence)]);
    }

    fn apply(&mut self, id: u64) {
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

    fn show(&mut self, id: u64, answers: Answers) {
        for a in answers.settled {
            let s = a.settled;
            let what = match s.outcome {
                ProposalOutcome::Applied { index } => format!("applied at {index}"),
                other => format!("{other:?}"),
            };
            self.say(format_args!("n{id} lane {} seq {}: {what}", s.lane.activation, s.seq));
        }
        for (request, result) in answers.reads {
            let name = match request.id {
                ReadId::Shard { ticket, .. } => format!("ticket {ticket}"),
                ReadId::Call(call) => format!("read {call}"),
            };
            self.say(format_args!("n{id} {name}: {result:?}"));
        }
    }

    /// Delivers until nothing moves.
    fn deliver(&mut self) {
        while let Some(m) = self.net.pop_front() {
            if !self.cuts.contains(&(m.from, m.to)) {
                self.feed(m.to, vec![Event::Messages { from: m.from, messages: vec![m] }]);
            }
        }
    }

    fn tick(&mut self, only: Option<u64>) {
        self.now_ms += TICK_MS;
        let ids: Vec<u64> = self.nodes.keys().copied().filter(|id| only.is_none_or(|o| o == *id)).collect();
        for id in ids {
            self.feed(id, vec![Event::Tick]);
        }
        self.deliver();
    }
}

fn show_role(role: Role, term: u64) -> String {
    match role {
        Role::Leader { ready: true } => format!("leads in term {term}, ready"),
        Role::Leader { ready: false } => format!("leads in term {term}"),
        Role::Follower { leader: Some(l) } => format!("follows n{l} in term {term}"),
        Role::Follower { leader: None } => format!("follows nobody in term {term}"),
        Role::Candidate => format!("campaigns after term {term}"),
    }
}

impl Runner for World {
    fn run(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut id = || -> Result<u64, Box<dyn Error>> { Ok(args.next_pos().ok_or("which node?")?.parse()?) };
        match command.name.as_str() {
            // nodes COUNT [pinned=false]
            "nodes" => {
                let count = id()?;
                let pinned = args.lookup_parse("pinned")?.unwrap_or(true);
                self.add_nodes(count, pinned);
            }
            // pin NODE…: all incarnations are known and on its disk
            "pin" => {
                let pins: Vec<_> = self.nodes.keys().map(|i| (*i, Uuid::from_u128(u128::from(*i)))).collect();
                for arg in args.rest_pos() {
                    let id = arg.parse()?;
                    let n = self.nodes.get_mut(&id).ok_or("no such node")?;
                    n.identity.update(|r| r.pins.clone_from(&pins))?;
                    self.feed(id, vec![Event::Pinned]);
                }
            }
            // elect NODE: only its clock runs, until it leads or 40 ticks are over
            "elect" => {
                let id = id()?;
                for _ in 0..40 {
                    self.tick(Some(id));
                    let role = self.nodes[&id].driver.as_ref().map(|d| d.role().role);
                    if matches!(role, Some(Role::Leader { .. })) {
                        break;
                    }
                }
            }
            // tick [TIMES] [node=N]
            "tick" => {
                let times = args.next_pos().map_or(Ok(1), |a| a.parse::<u64>())?;
                let only = args.lookup_parse("node")?;
                for _ in 0..times {
                    self.tick(only);
                }
            }
            // propose NODE LANE SEQ DATA… [term=T]: a run of proposals handed in together
            "propose" => {
                let (node, lane, seq) = (id()?, id()?, id()?);
                let data = args.rest_pos();
                let term = args
                    .lookup_parse("term")?
                    .unwrap_or_else(|| self.nodes[&node].driver.as_ref().map_or(0, Driver::term));
                let lane = Lane { shard: 0, activation: lane };
                let proposals = data
                    .iter()
                    .zip(seq..)
                    .map(|(d, seq)| Proposal {
                        lane,
                        seq,
                        term,
                        data: Bytes::copy_from_slice(d.value.as_bytes()),
                    })
                    .collect();
                self.feed(node, vec![Event::Propose(proposals)]);
            }
            "deliver" => self.deliver(),
            "close-lane" => {
                let (node, lane) = (id()?, id()?);
                self.feed(node, vec![Event::CloseLane(Lane { shard: 0, activation: lane })]);
            }
            // read NODE NUMBER; confirm NODE TICKET
            "read" | "confirm" => {
                let (node, number) = (id()?, id()?);
                let id = if command.name == "read" {
                    ReadId::Call(number)
                } else {
                    ReadId::Shard { shard: 0, ticket: number }
                };
                let deadline_ms = self.now_ms + 2_000;
                self.feed(node, vec![Event::Read(ReadRequest { id, deadline_ms })]);
            }
            // transfer NODE [to=N]
            "transfer" => {
                let node = id()?;
                let to = args.lookup_parse("to")?;
                self.feed(node, vec![Event::Transfer { ticket: 1, to }]);
            }
            "stop-intake" => {
                let node = id()?;
                self.feed(node, vec![Event::StopIntake]);
            }
            "close" => {
                let node = id()?;
                self.feed(node, vec![Event::Close]);
            }
            // cut A B: nothing passes between them; cut A: nothing passes to or from A
            "cut" => {
                let a = id()?;
                let others: Vec<u64> = match args.next_pos() {
                    Some(b) => vec![b.parse()?],
                    None => self.nodes.keys().copied().filter(|n| *n != a).collect(),
                };
                for b in others {
                    self.cuts.extend([(a, b), (b, a)]);
                }
            }
            "heal" => self.cuts.clear(),
            // slow NODE: its appends do not return; flush NODE: they do
            "slow" => {
                let node = id()?;
                self.nodes.get_mut(&node).ok_or("no such node")?.slow = true;
            }
            "flush" => {
                let node = id()?;
                let n = self.nodes.get_mut(&node).ok_or("no such node")?;
                n.slow = false;
                if let Some(persist) = n.held.take() {
                    self.persist(node, persist);
                }
            }
            "hold-apply" => {
                let node = id()?;
                self.nodes.get_mut(&node).ok_or("no such node")?.apply_held = true;
            }
            "release-apply" => {
                let node = id()?;
                self.nodes.get_mut(&node).ok_or("no such node")?.apply_held = false;
                self.apply(node);
            }
            // crash NODE: what was not synced is gone; start NODE
            "crash" => {
                let node = id()?;
                let n = self.nodes.get_mut(&node).ok_or("no such node")?;
                n.driver = None;
                n.held = None;
                n.slow = false;
                n.engine = n.engine.crash(0);
                self.net.retain(|m| m.to != node);
            }
            "start" => {
                let node = id()?;
                self.start(node);
            }
            // wipe NODE: its database is lost, its identity is not
            "wipe" => {
                let node = id()?;
                self.nodes.get_mut(&node).ok_or("no such node")?.engine = MemoryEngine::new();
            }
            // second-vote NODE: its database says it voted for another node in the same term
            "second-vote" => {
                let (node, vote) = (id()?, id()?);
                let n = self.nodes.get_mut(&node).ok_or("no such node")?;
                let log = LogStore::open(std::sync::Arc::new(n.engine.clone()))?;
                let mut hard_state = log.hard_state()?;
                hard_state.vote = vote;
                log.persist(Vec::new(), Some(hard_state), true)?;
            }
            // inject TO from=N kind=… [term=…] [index=…] [commit=…] [entry=…]
            "inject" => {
                let to = id()?;
                let from = args.lookup_parse("from")?.ok_or("from whom?")?;
                let term = args.lookup_parse("term")?.unwrap_or(0);
                let mut m = Message { to, from, term, ..Message::default() };
                m.index = args.lookup_parse("index")?.unwrap_or(0);
                m.commit = args.lookup_parse("commit")?.unwrap_or(0);
                if let Some(index) = args.lookup_parse("entry")? {
                    m.entries.push(Entry { index, term, ..Entry::default() });
                }
                let kind: String = args.lookup_parse("kind")?.ok_or("what kind?")?;
                m.set_msg_type(match kind.as_str() {
                    "heartbeat" => MessageType::MsgHeartbeat,
                    "append" => MessageType::MsgAppend,
                    "propose" => MessageType::MsgPropose,
                    "snapshot" => MessageType::MsgSnapshot,
                    "read" => MessageType::MsgReadIndex,
                    "confirm" => MessageType::MsgAppendResponse,
                    "timeout-now" => MessageType::MsgTimeoutNow,
                    other => return Err(format!("kind {other}?").into()),
                });
                let link = args.lookup_parse("link")?.unwrap_or(from);
                self.feed(to, vec![Event::Messages { from: link, messages: vec![m] }]);
            }
            "log" => {
                for (id, n) in &self.nodes {
                    let entries = n.log.entries(1, n.log.last_index() + 1, usize::MAX)?;
                    let line: Vec<_> = entries
                        .iter()
                        .map(|e| {
                            assert_eq!(e.kind, EntryKind::Normal);
                            let data = String::from_utf8_lossy(&e.data);
                            format!("{}@{}:{}", e.index, e.term, if data.is_empty() { "-" } else { &data })
                        })
                        .collect();
                    writeln!(self.out, "n{id} {}", line.join(" "))?;
                }
            }
            "status" => {
                for (id, n) in &self.nodes {
                    let Some(d) = &n.driver else {
                        writeln!(self.out, "n{id} is down")?;
                        continue;
                    };
                    let r = n.identity.record();
                    writeln!(
                        self.out,
                        "n{id} {}; log {}, watermark {}, applied {}; identity: term {} vote {} synced {}@{}",
                        show_role(d.role().role, d.term()),
                        d.last_index(),
                        d.watermark(),
                        n.applied,
                        r.term,
                        r.vote,
                        r.synced_index,
                        r.synced_term,
                    )?;
                }
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        args.reject_rest()?;
        Ok(std::mem::take(&mut self.out))
    }
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            let file = format!("{}/tests/scripts/raft/{}", env!("CARGO_MANIFEST_DIR"), stringify!($name));
            goldenscript::run(&mut World::default(), file).expect("transcript");
        }
    )*};
}

scripts!(
    election, replication, batch, conflict, reads, lanes, transfer, restart, pinning, quarantine, slow_disk, single,
);
