//! The simulated network: directed links between nodes, connections of clients. What a link does to a packet is drawn when
//! it is sent; whether the packet gets through is seen when it arrives.
//!
//! Invariants
//! - Between nodes only raft messages and gossip are lost, doubled or reordered: they are made for it. Forwarded calls, their
//!   answers and what clients send travel on connections: in order, once, or gone with the connection.
//! - What was on its way when a connection broke does not arrive.

use crate::{
    core::Core,
    port::{self, CommandRequest},
    queue::{To, What},
};
use bytes::Bytes;
use okno_cluster::transport::{Gossip, Hello};
use okno_storage::snapshot::Wanted;
use raft::eraftpb::Message;
use rand::Rng;
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};
use uuid::Uuid;

/// Raft messages remembered, to arrive again much later.
const OLD_MAX: usize = 256;
/// The usual time a packet travels, microseconds.
const DELAY_US: (u64, u64) = (80, 600);
/// What a lost segment costs a connection.
const RETRANSMIT_US: (u64, u64) = (200_000, 400_000);
/// A link cut for so long is known to be down on both sides.
pub const KNOWN_DOWN_US: u64 = 2_000_000;

/// Who sends or receives. Nodes are counted from 0 here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Node(usize),
    Client(usize),
}

pub enum Packet {
    Raft(Vec<Message>),
    Gossip {
        gossip: Box<Gossip>,
        /// Of the node that is spoken to, if the speaker has taken its hello.
        taken: Option<Uuid>,
    },
    Hello {
        hello: Box<Hello>,
        /// Of the node that is spoken to, when this answers its hello.
        answers: Option<Uuid>,
    },
    /// A hello was refused: another incarnation of the speaker is pinned here.
    Disowned,
    /// A hello was refused: the speaker was removed.
    Removed,
    /// A transfer of a copy begins.
    CopyBegin {
        transfer: u64,
        manifest: Bytes,
        message: Box<Message>,
    },
    /// The receiver wants this next.
    CopyWanted {
        transfer: u64,
        wanted: Wanted,
    },
    CopyChunk {
        transfer: u64,
        at: Wanted,
        data: Bytes,
        crc: u32,
    },
    CopyDone {
        transfer: u64,
        installed: bool,
    },
    Forward {
        id: u64,
        payload: Bytes,
    },
    /// The answer to a forward; `None`: refused, it was never begun.
    Forwarded {
        id: u64,
        result: Option<Bytes>,
    },
    Command {
        attempt: port::AttemptId,
        request: Box<CommandRequest>,
    },
    Read {
        attempt: port::AttemptId,
        query: Box<dyn port::Query>,
    },
    /// A program attached to the node says something that is not answered.
    Word(port::Word),
    /// A node tells the leader of the workstations attached to it, and how long they count as that.
    Attendance(Vec<(String, u64)>),
    /// A node asks the leader's keeper about deliveries, and is told.
    Deliveries {
        id: u64,
        ask: okno_runtime::channels::Ask,
    },
    DeliveriesTold {
        id: u64,
        told: okno_runtime::channels::Told,
    },
    Answer(Box<port::Event>),
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raft(messages) => {
                write!(f, "raft")?;
                for m in messages {
                    write!(f, " {:?}", m.get_msg_type())?;
                    write!(f, "(term {} index {} commit {}", m.term, m.index, m.commit)?;
                    if !m.entries.is_empty() {
                        write!(f, " +{}", m.entries.len())?;
                    }
                    write!(f, "{})", if m.reject { " reject" } else { "" })?;
                }
                Ok(())
            }
            Self::Gossip { gossip, .. } => write!(f, "gossip, applied {}", gossip.applied),
            Self::Hello { .. } => write!(f, "hello"),
            Self::Disowned => write!(f, "refused: another incarnation"),
            Self::Removed => write!(f, "refused: removed"),
            Self::CopyBegin { transfer, .. } => write!(f, "copy {transfer} begins"),
            Self::CopyWanted { transfer, wanted } => write!(f, "copy {transfer} wants {wanted:?}"),
            Self::CopyChunk { transfer, at, data, .. } => {
                write!(f, "copy {transfer} {at:?} +{}", data.len())
            }
            Self::CopyDone { transfer, installed } => write!(f, "copy {transfer} installed: {installed}"),
            Self::Forward { id, .. } => write!(f, "forward {id}"),
            Self::Forwarded { id, result } => {
                write!(f, "answer to forward {id}{}", if result.is_none() { ": refused" } else { "" })
            }
            Self::Command { attempt, request } => {
                write!(
                    f,
                    "attempt {attempt}.{}: {} {:?}",
                    request.attempt_number, request.target, request.command
                )
            }
            Self::Read { attempt, .. } => write!(f, "read, attempt {attempt}"),
            Self::Word(word) => write!(f, "{word:?}"),
            Self::Attendance(standing) => write!(f, "attendance {standing:?}"),
            Self::Deliveries { id, ask } => write!(f, "question {id}: {ask:?}"),
            Self::DeliveriesTold { id, told } => write!(f, "answer to question {id}: {told:?}"),
            Self::Answer(event) => write!(f, "{event:?}"),
        }
    }
}

#[derive(Debug)]
pub struct Arrival {
    pub from: End,
    pub to: End,
    /// Of the connection it travels on; `None` survives any break.
    epoch: Option<u32>,
    pub packet: Packet,
}

/// One direction between two nodes.
#[derive(Debug, Clone)]
pub struct Link {
    /// Since when it is cut.
    pub cut: Option<u64>,
    pub loss_pm: u32,
    pub duplicate_pm: u32,
    pub reorder_pm: u32,
    pub delay_us: (u64, u64),
    epoch: u32,
    last_us: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            cut: None,
            loss_pm: 0,
            duplicate_pm: 0,
            reorder_pm: 0,
            delay_us: DELAY_US,
            epoch: 0,
            last_us: 0,
        }
    }
}

/// A client's way to a node.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientLink {
    pub cut: bool,
    epoch: u32,
}

#[derive(Debug)]
pub struct Net {
    nodes: usize,
    links: Vec<Link>,
    clients: Vec<ClientLink>,
    /// Attempts on their way: (client, attempt) → node.
    pub open: BTreeMap<(usize, port::AttemptId), usize>,
    old: VecDeque<(usize, usize, Message)>,
    pub keep_old: bool,
}

impl Net {
    pub fn new(nodes: usize, clients: usize) -> Self {
        Self {
            nodes,
            links: vec![Link::default(); nodes * nodes],
            clients: vec![ClientLink::default(); clients * nodes],
            open: BTreeMap::new(),
            old: VecDeque::new(),
            keep_old: false,
        }
    }

    pub fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    pub fn client(&mut self, client: usize, node: usize) -> &mut ClientLink {
        &mut self.clients[client * self.nodes + node]
    }

    pub fn nodes(&self) -> usize {
        self.nodes
    }

    pub fn count_clients(&self) -> usize {
        self.clients.len() / self.nodes.max(1)
    }

    /// A link is as it should be.
    pub fn restore(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        *link = Link { epoch: link.epoch, last_us: link.last_us, ..Link::default() };
    }

    /// All is well again.
    pub fn heal(&mut self) {
        for link in &mut self.links {
            *link = Link { epoch: link.epoch, last_us: link.last_us, ..Link::default() };
        }
        for client in &mut self.clients {
            client.cut = false;
        }
    }

    /// The connection that `from` opened to `to` breaks.
    pub fn break_connection(&mut self, from: usize, to: usize) {
        self.link(from, to).epoch += 1;
    }

    /// Connections of a client to a node break; which attempts were on them.
    pub fn break_client(&mut self, client: usize, node: usize) -> Vec<port::AttemptId> {
        self.client(client, node).epoch += 1;
        let gone: Vec<_> = self
            .open
            .iter()
            .filter(|((c, _), n)| *c == client && **n == node)
            .map(|((_, a), _)| *a)
            .collect();
        for attempt in &gone {
            self.open.remove(&(client, *attempt));
        }
        gone
    }

    /// A raft message sent long ago, to arrive again.
    pub fn old(&mut self, pick: usize) -> Option<(usize, usize, Message)> {
        let at = pick % self.old.len().max(1);
        self.old.get(at).cloned()
    }

    /// What was remembered was of a cluster that is no more.
    pub fn forget(&mut self) {
        self.old.clear();
    }

    fn remember(&mut self, from: usize, to: usize, message: &Message) {
        if self.keep_old {
            if self.old.len() >= OLD_MAX {
                self.old.pop_front();
            }
            self.old.push_back((from, to, message.clone()));
        }
    }
}

impl Core {
    fn travel(&mut self, (from, to): (usize, usize), ordered: bool) -> u64 {
        let now = self.now;
        let link = self.net.link(from, to);
        let delay = self.rng.net.gen_range(link.delay_us.0..=link.delay_us.1);
        let mut at = now + delay;
        let link = self.net.link(from, to);
        if ordered {
            at = at.max(link.last_us + 1);
            link.last_us = at;
        }
        at
    }

    fn arrive(&mut self, at: u64, from: End, to: End, epoch: Option<u32>, packet: Packet) {
        self.queue.push(at, To::World, What::Arrive(Box::new(Arrival { from, to, epoch, packet })));
    }

    /// Sends a node's raft messages, one packet a receiver unless the link is in trouble.
    pub fn send_raft(&mut self, from: usize, messages: Vec<Message>) {
        let mut by_node: Vec<Vec<Message>> = vec![Vec::new(); self.net.nodes];
        for message in messages {
            let Some(to) = usize::try_from(message.to).ok().and_then(|id| id.checked_sub(1)) else {
                continue;
            };
            if to < by_node.len() && to != from {
                by_node[to].push(message);
            }
        }
        for (to, messages) in by_node.into_iter().enumerate() {
            if messages.is_empty() {
                continue;
            }
            let link = self.net.link(from, to);
            let troubled = link.loss_pm + link.duplicate_pm + link.reorder_pm > 0;
            if !troubled && !self.net.keep_old {
                self.send_batch(from, to, messages, true);
                continue;
            }
            for message in messages {
                self.net.remember(from, to, &message);
                self.send_one(from, to, message);
            }
        }
    }

    fn send_one(&mut self, from: usize, to: usize, message: Message) {
        let link = self.net.link(from, to).clone();
        if self.rng.net.gen_range(0..1_000) < link.loss_pm {
            if self.rng.net.gen_bool(0.2) {
                self.unreachable(from, to, 1_000);
            }
            return;
        }
        if self.rng.net.gen_range(0..1_000) < link.duplicate_pm {
            let ordered = self.rng.net.gen_bool(0.5);
            self.send_batch(from, to, vec![message.clone()], ordered);
        }
        let ordered = self.rng.net.gen_range(0..1_000) >= link.reorder_pm;
        self.send_batch(from, to, vec![message], ordered);
    }

    fn send_batch(&mut self, from: usize, to: usize, messages: Vec<Message>, ordered: bool) {
        let mut at = self.travel((from, to), ordered);
        if !ordered {
            at += self.rng.net.gen_range(0..50_000);
        }
        let link = self.net.link(from, to);
        let (cut, epoch) = (link.cut, link.epoch);
        if cut.is_none() {
            self.arrive(at, End::Node(from), End::Node(to), Some(epoch), Packet::Raft(messages));
        }
    }

    /// A message of long ago arrives once more, whatever became of the connection it was sent on.
    pub fn send_old(&mut self, from: usize, to: usize, message: Message) {
        let at = self.now + 1;
        self.arrive(at, End::Node(from), End::Node(to), None, Packet::Raft(vec![message]));
    }

    /// Gossip and hellos: may be lost.
    pub fn send_news(&mut self, from: usize, to: usize, packet: Packet) {
        let at = self.travel((from, to), true);
        let link = self.net.link(from, to);
        let (cut, epoch, loss) = (link.cut, link.epoch, link.loss_pm);
        if cut.is_none() && self.rng.net.gen_range(0..1_000) >= loss {
            self.arrive(at, End::Node(from), End::Node(to), Some(epoch), packet);
        }
    }

    /// A forwarded call; false: the connection is known to be down, it was not sent.
    pub fn send_forward(&mut self, from: usize, to: usize, id: u64, payload: Bytes) -> bool {
        let now = self.now;
        if self.net.link(from, to).cut.is_some_and(|since| now >= since + KNOWN_DOWN_US) {
            return false;
        }
        let packet = Packet::Forward { id, payload };
        self.send_on_connection((from, to), (from, to), packet);
        true
    }

    /// The answer to a forward, on the connection the call came on.
    pub fn send_forwarded(&mut self, from: usize, to: usize, id: u64, result: Option<Bytes>) {
        self.send_on_connection((from, to), (to, from), Packet::Forwarded { id, result });
    }

    fn send_on_connection(&mut self, way: (usize, usize), connection: (usize, usize), packet: Packet) {
        let mut at = self.travel(way, true);
        let (cut, loss) = (self.net.link(way.0, way.1).cut, self.net.link(way.0, way.1).loss_pm);
        if self.rng.net.gen_range(0..1_000) < loss {
            at += self.rng.net.gen_range(RETRANSMIT_US.0..=RETRANSMIT_US.1);
        }
        let epoch = self.net.link(connection.0, connection.1).epoch;
        if cut.is_none() {
            self.arrive(at, End::Node(way.0), End::Node(way.1), Some(epoch), packet);
        }
    }

    /// `from` learns that its connection to `to` is gone.
    pub fn unreachable(&mut self, from: usize, to: usize, after_us: u64) {
        let Some(boot) = self.boots[from] else { return };
        let at = self.now + self.rng.net.gen_range(1..=after_us.max(1));
        self.queue.push(at, To::Node { node: from, boot }, What::Unreachable(to));
    }

    /// A client's attempt sets out.
    pub fn send_from_client(&mut self, client: usize, node: usize, attempt: port::AttemptId, packet: Packet) {
        self.net.open.insert((client, attempt), node);
        let at = self.now + self.rng.net.gen_range(DELAY_US.0..=DELAY_US.1);
        let link = *self.net.client(client, node);
        if !link.cut {
            self.arrive(at, End::Client(client), End::Node(node), Some(link.epoch), packet);
        }
    }

    /// A client says something that is not answered.
    pub fn send_word(&mut self, client: usize, node: usize, word: port::Word) {
        let at = self.now + self.rng.net.gen_range(DELAY_US.0..=DELAY_US.1);
        let link = *self.net.client(client, node);
        if !link.cut {
            self.arrive(at, End::Client(client), End::Node(node), Some(link.epoch), Packet::Word(word));
        }
    }

    /// A node answers an attempt.
    pub fn send_to_client(
        &mut self,
        node: usize,
        client: usize,
        attempt: port::AttemptId,
        event: port::Event,
    ) {
        // Given up with its connection: nobody waits.
        if !self.net.open.contains_key(&(client, attempt)) {
            return;
        }
        let at = self.now + self.rng.net.gen_range(DELAY_US.0..=DELAY_US.1);
        let link = *self.net.client(client, node);
        if !link.cut {
            let packet = Packet::Answer(Box::new(event));
            self.arrive(at, End::Node(node), End::Client(client), Some(link.epoch), packet);
        }
    }

    /// The connection an attempt is on is gone.
    pub fn broken(&mut self, client: usize, attempt: port::AttemptId, sent: bool, after_us: u64) {
        self.net.open.remove(&(client, attempt));
        let at = self.now + self.rng.net.gen_range(1..=after_us.max(1));
        let event = Box::new(port::Event::Broken { attempt, sent });
        self.queue.push(at, To::World, What::Client { client, event });
    }

    /// Does it get through?
    pub fn gets_through(&mut self, arrival: &Arrival) -> bool {
        match (arrival.from, arrival.to) {
            (End::Node(from), End::Node(to)) => {
                if self.net.link(from, to).cut.is_some() {
                    return false;
                }
                let epoch = match arrival.packet {
                    Packet::Forwarded { .. } => self.net.link(to, from).epoch,
                    _ => self.net.link(from, to).epoch,
                };
                arrival.epoch.is_none_or(|e| e == epoch)
            }
            (End::Client(client), End::Node(node)) | (End::Node(node), End::Client(client)) => {
                let link = self.net.client(client, node);
                !link.cut && arrival.epoch == Some(link.epoch)
            }
            (End::Client(_), End::Client(_)) => false,
        }
    }
}
