//! What the transport delivers: handshakes, raft messages, gossip and forwarded calls.

use super::{copies::Copies, hub::Hub};
use crate::{
    api::NodeId,
    core::{event::Event, pins::Members},
    status::{REASON_REMOVED, REMEDY_DISOWNED, REMEDY_NEW_ID},
    transport::{ForwardRefusal, Gossip, Hello, Inlet, PeerIdentity, Refusal, SnapshotSink},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use raft::eraftpb::{Message, MessageType};
use std::sync::{
    Arc,
    atomic::Ordering::{Acquire, Relaxed},
};
use uuid::Uuid;

impl Hub {
    /// Takes a hello into account: whom to pin, and whom to connect to.
    fn learn(&self, hello: impl FnOnce(&mut Members, u32) -> Result<bool, Refusal>) -> Result<(), Refusal> {
        let level = self.reader.level();
        let (news, later) = {
            let mut members = self.members.lock();
            (hello(&mut members, level)?, members.later_pins())
        };
        if news {
            self.inbox.later_pins(later);
            self.dial();
        }
        self.look_at_pins();
        Ok(())
    }
}

impl Inlet for Hub {
    fn hello(&self, to: NodeId) -> Hello {
        self.members.lock().hello(to)
    }

    fn greet(&self, hello: &Hello, certificate: &PeerIdentity) -> Result<(), Refusal> {
        if !self.is_open() {
            return Err(Refusal::Closed);
        }
        if certificate.node_id != hello.node {
            return Err(Refusal::Certificate(format!(
                "names node {}, the hello node {}",
                certificate.node_id, hello.node
            )));
        }
        if let Some(cluster) = &self.settings.certificate_cluster
            && *cluster != certificate.cluster
        {
            return Err(Refusal::Certificate(format!("names cluster {:?}", certificate.cluster)));
        }
        self.learn(|members, level| members.greet(hello, level))
    }

    fn answered(&self, hello: &Hello) -> Result<(), Refusal> {
        if !self.is_open() {
            return Err(Refusal::Closed);
        }
        self.learn(|members, level| members.answered(hello, level))
    }

    fn taken(&self, by: NodeId, incarnation: Uuid) {
        self.members.lock().taken(by, incarnation);
        self.look_at_pins();
    }

    fn messages(&self, from: NodeId, messages: Vec<Message>) {
        let mut messages = messages;
        if self.disk_stopped.load(Acquire) {
            // The leader sends them again when there is room; the rest costs no room and keeps the term quiet.
            let before = messages.len();
            messages.retain(|m| m.get_msg_type() != MessageType::MsgAppend || m.entries.is_empty());
            self.count.disk_full_messages.fetch_add((before - messages.len()) as u64, Relaxed);
        }
        let count = messages.len() as u64;
        if !self.inbox.messages(from, messages) {
            self.count.dropped_messages.fetch_add(count, Relaxed);
        }
    }

    fn gossip(&self, from: NodeId, gossip: Gossip) -> Result<(), Refusal> {
        // It may never hear of the entry that removed it: who leads speaks with members alone. Its link ends, and the
        // handshake of the next one tells it.
        {
            let members = self.members.lock();
            if members.table().is_removed(from) {
                return Err(Refusal::Removed(from));
            }
            // As the table of members says since its hello was taken.
            if members.barred().contains(&from) {
                return Err(Refusal::Incarnation(from));
            }
        }
        let now_ms = self.now_ms();
        let found = self.peers.lock().hear(from, &gossip, now_ms);
        self.judge(found);
        Ok(())
    }

    fn forward(&self, from: NodeId, payload: Bytes) -> Result<BoxFuture<'static, Bytes>, ForwardRefusal> {
        if !self.is_open() {
            return Err(ForwardRefusal::Closed);
        }
        let handler = self.handler.get().ok_or(ForwardRefusal::Closed)?;
        self.count.forwards_received.fetch_add(1, Relaxed);
        Ok(handler.handle(from, payload))
    }

    fn unreachable(&self, node: NodeId) {
        // Nobody waits for it: a raft thread that has ended need not know.
        let _ = self.inbox.push(Event::Unreachable(node));
    }

    fn disowned(&self, by: NodeId) {
        if self.members.lock().disowned_by(by) {
            self.quarantine(
                "the other members have pinned another incarnation of this node: its id died with its old data",
                REMEDY_DISOWNED,
            );
        } else {
            self.look_at_pins();
        }
    }

    fn removed(&self, by: NodeId) {
        tracing::warn!(by, "a member says that this node was removed");
        self.quarantine(REASON_REMOVED, REMEDY_NEW_ID);
    }

    fn receive_copy(
        self: Arc<Self>,
        from: NodeId,
        manifest: &[u8],
        message: &[u8],
    ) -> Result<Box<dyn SnapshotSink>, String> {
        if !self.is_open() {
            return Err("the node is closed".into());
        }
        Copies::receive(&self, from, manifest, message)
    }

    fn clock_ms(&self) -> i64 {
        self.wall_ms()
    }
}
