//! Plays scripts on a virtual cluster of drivers. The transcripts under `scripts/` are reviewed by people; set
//! `UPDATE_GOLDENFILES=1` to write them anew.

mod world;

use bytes::Bytes;
use goldenscript::{Command, Runner};
use okno_cluster::{
    api::{Lane, Proposal, Role},
    core::{
        driver::Driver,
        event::{Event, ReadId, ReadRequest},
    },
};
use okno_storage::{
    log::{EntryKind, LogStore},
    memory::MemoryEngine,
};
use raft::eraftpb::{Entry, Message, MessageType};
use std::{error::Error, fmt::Write as _};
use uuid::Uuid;
use world::World;

impl Runner for World {
    fn run(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut id = || -> Result<u64, Box<dyn Error>> { args.next_pos().ok_or("which node?")?.parse() };
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
                self.flush(node);
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
                self.crash(node);
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
                let status = self.status();
                self.out.push_str(&status);
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
    election,
    replication,
    batch,
    conflict,
    reads,
    lanes,
    transfer,
    restart,
    pinning,
    quarantine,
    slow_disk,
    single,
);
