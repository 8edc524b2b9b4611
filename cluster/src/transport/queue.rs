//! What waits to leave for one peer, and the forwarded calls that wait for its answer.
//!
//! Invariants
//! - While the link is down nothing waits: messages are dropped, calls are answered `NotSent`.
//! - A call is in `forwards` (never left) or in `sent` (left on the present link), and is answered exactly once:
//!   `NotSent` from the first, its reply or `Unknown` from the second.
//! - Everything is bounded by the constants of `settings`.

use super::{ForwardError, ForwardRefusal, Gossip, Inlet, wire};
use crate::settings::{FORWARDS_MAX, FRAME_BYTES_MAX, PEER_QUEUE_BYTES_MAX, PEER_QUEUE_MESSAGES_MAX};
use bytes::Bytes;
use okno_proto::okno::peer::v1 as pb;
use parking_lot::Mutex;
use raft::eraftpb::Message;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::sync::{Notify, oneshot};

type Reply = oneshot::Sender<Result<Bytes, ForwardError>>;

#[derive(Default)]
struct State {
    /// Number of the present link; 0 while it is down.
    link: u64,
    closed: bool,
    messages: VecDeque<Message>,
    bytes: usize,
    forwards: VecDeque<(u64, Bytes, Reply)>,
    sent: BTreeMap<u64, Reply>,
    gossip: Option<Gossip>,
    next_id: u64,
}

#[derive(Default)]
pub struct PeerQueue {
    state: Mutex<State>,
    wake: Notify,
    pub frames: AtomicU64,
    pub messages: AtomicU64,
    pub dropped: AtomicU64,
    pub forwards: AtomicU64,
}

impl PeerQueue {
    /// Takes raft messages; false if one was dropped.
    pub fn push(&self, messages: impl Iterator<Item = Message>) -> bool {
        let mut dropped = 0;
        let mut state = self.state.lock();
        for message in messages {
            if state.link == 0
                || state.messages.len() >= PEER_QUEUE_MESSAGES_MAX
                || state.bytes >= PEER_QUEUE_BYTES_MAX
            {
                dropped += 1;
            } else {
                state.bytes += wire::weight(&message);
                state.messages.push_back(message);
            }
        }
        drop(state);
        self.wake.notify_one();
        self.dropped.fetch_add(dropped, Relaxed);
        dropped == 0
    }

    /// The newest gossip replaces what has not left.
    pub fn gossip(&self, gossip: Gossip) {
        let mut state = self.state.lock();
        if state.link != 0 {
            state.gossip = Some(gossip);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Queues a call; its number serves to give it up.
    pub fn forward(
        &self,
        payload: Bytes,
    ) -> Result<(u64, oneshot::Receiver<Result<Bytes, ForwardError>>), ForwardError> {
        let mut state = self.state.lock();
        if state.link == 0 || state.forwards.len() + state.sent.len() >= FORWARDS_MAX {
            return Err(ForwardError::NotSent);
        }
        state.next_id += 1;
        let id = state.next_id;
        let (reply, answer) = oneshot::channel();
        state.forwards.push_back((id, payload, reply));
        drop(state);
        self.wake.notify_one();
        self.forwards.fetch_add(1, Relaxed);
        Ok((id, answer))
    }

    /// The caller waits no longer: was the call sent?
    pub fn give_up(&self, id: u64) -> ForwardError {
        let mut state = self.state.lock();
        if let Some(at) = state.forwards.iter().position(|f| f.0 == id) {
            state.forwards.remove(at);
            return ForwardError::NotSent;
        }
        state.sent.remove(&id);
        ForwardError::Unknown
    }

    pub fn answer(&self, reply: pb::ForwardReply) {
        let Some(waiting) = self.state.lock().sent.remove(&reply.id) else { return };
        let result = match reply.result {
            Some(pb::forward_reply::Result::Payload(payload)) => Ok(payload),
            Some(pb::forward_reply::Result::Refusal(_)) => Err(ForwardError::NotSent),
            None => Err(ForwardError::Unknown),
        };
        // The caller may have given up.
        let _ = waiting.send(result);
    }

    /// The handshake is done: link number `link` carries from now on.
    pub fn up(&self, link: u64) {
        let mut state = self.state.lock();
        if !state.closed {
            state.link = link;
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The link ended: nothing of what waits will leave on it.
    pub fn down(&self) {
        let mut state = self.state.lock();
        state.link = 0;
        state.messages.clear();
        state.bytes = 0;
        state.gossip = None;
        let forwards = std::mem::take(&mut state.forwards);
        let sent = std::mem::take(&mut state.sent);
        drop(state);
        // The frame maker of the ended link must notice.
        self.wake.notify_one();
        for (_, _, reply) in forwards {
            let _ = reply.send(Err(ForwardError::NotSent));
        }
        for (_, reply) in sent {
            let _ = reply.send(Err(ForwardError::Unknown));
        }
    }

    pub fn close(&self) {
        self.state.lock().closed = true;
        self.down();
    }

    pub fn is_up(&self) -> bool {
        self.state.lock().link != 0
    }

    /// The next frame of link `link`, holding everything that waits up to a frame's size; `None` when the link
    /// has ended.
    pub async fn next_frame(&self, link: u64, inlet: &dyn Inlet) -> Option<pb::LinkRequest> {
        loop {
            if let Some(ready) = self.take(link)? {
                let (messages, forwards, gossip) = ready;
                self.frames.fetch_add(1, Relaxed);
                self.messages.fetch_add(messages.len() as u64, Relaxed);
                return Some(pb::LinkRequest {
                    hello: None,
                    raft: messages.iter().map(wire::message_out).collect(),
                    forwards,
                    gossip: gossip.map(|g| wire::gossip_out(&g, inlet.clock_ms())),
                });
            }
            self.wake.notified().await;
        }
    }

    /// `None`: the link has ended; `Some(None)`: nothing waits.
    #[allow(clippy::type_complexity)]
    fn take(&self, link: u64) -> Option<Option<(Vec<Message>, Vec<pb::Forward>, Option<Gossip>)>> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.closed || (state.link != 0 && state.link != link) {
            return None;
        }
        // Before the handshake is done the link counts as down and waits; after its end it is dropped by its task.
        if state.link == 0
            || (state.messages.is_empty() && state.forwards.is_empty() && state.gossip.is_none())
        {
            return Some(None);
        }
        let mut size = 0;
        let mut messages = Vec::with_capacity(state.messages.len());
        while size < FRAME_BYTES_MAX
            && let Some(message) = state.messages.pop_front()
        {
            let weight = wire::weight(&message);
            state.bytes = state.bytes.saturating_sub(weight);
            size += weight;
            messages.push(message);
        }
        let mut forwards = Vec::with_capacity(state.forwards.len());
        while size < FRAME_BYTES_MAX
            && let Some((id, payload, reply)) = state.forwards.pop_front()
        {
            size += payload.len() + 16;
            state.sent.insert(id, reply);
            forwards.push(pb::Forward { id, payload });
        }
        Some(Some((messages, forwards, state.gossip.take())))
    }
}

/// Replies that wait to leave on an inbound link.
#[derive(Default)]
pub struct ReplyQueue {
    state: Mutex<(Vec<pb::ForwardReply>, bool)>,
    wake: Notify,
}

impl ReplyQueue {
    pub fn push(&self, id: u64, result: Result<Bytes, ForwardRefusal>) {
        let result = match result {
            Ok(payload) => pb::forward_reply::Result::Payload(payload),
            Err(ForwardRefusal::Full) => pb::forward_reply::Result::Refusal(pb::ForwardRefusal::Full as i32),
            Err(ForwardRefusal::Closed) => {
                pb::forward_reply::Result::Refusal(pb::ForwardRefusal::Closed as i32)
            }
        };
        self.state.lock().0.push(pb::ForwardReply { id, result: Some(result) });
        self.wake.notify_one();
    }

    pub fn end(&self) {
        self.state.lock().1 = true;
        self.wake.notify_one();
    }

    /// Everything that waits; `None` once the link has ended.
    pub fn take(&self) -> Option<Vec<pb::ForwardReply>> {
        let mut state = self.state.lock();
        if state.1 { None } else { Some(std::mem::take(&mut state.0)) }
    }

    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::NodeId,
        transport::{Hello, PeerIdentity, Refusal, SnapshotSink},
    };
    use futures::{FutureExt, future::BoxFuture};
    use raft::eraftpb::Entry;

    /// Only its clock is looked at.
    struct Clock;

    impl Inlet for Clock {
        fn hello(&self, _: NodeId) -> Hello {
            unreachable!("not asked")
        }
        fn disowned(&self, _: NodeId) {}
        fn removed(&self, _: NodeId) {}
        fn receive_copy(
            self: std::sync::Arc<Self>,
            _: NodeId,
            _: &[u8],
            _: &[u8],
        ) -> Result<Box<dyn SnapshotSink>, String> {
            Err("not here".into())
        }
        fn greet(&self, _: &Hello, _: &PeerIdentity) -> Result<(), Refusal> {
            unreachable!("not asked")
        }
        fn answered(&self, _: &Hello) -> Result<(), Refusal> {
            unreachable!("not asked")
        }
        fn taken(&self, _: NodeId, _: uuid::Uuid) {}
        fn messages(&self, _: NodeId, _: Vec<Message>) {}
        fn gossip(&self, _: NodeId, _: Gossip) -> Result<(), Refusal> {
            Ok(())
        }
        fn forward(&self, _: NodeId, _: Bytes) -> Result<BoxFuture<'static, Bytes>, ForwardRefusal> {
            Err(ForwardRefusal::Closed)
        }
        fn unreachable(&self, _: NodeId) {}
        fn clock_ms(&self) -> i64 {
            77
        }
    }

    fn frame(queue: &PeerQueue, link: u64) -> Option<pb::LinkRequest> {
        queue.next_frame(link, &Clock).now_or_never().expect("something waits")
    }

    fn message(bytes: usize) -> Message {
        Message { entries: vec![Entry { data: vec![0; bytes], ..Entry::default() }], ..Message::default() }
    }

    #[test]
    fn a_call_that_never_left_was_not_sent_and_one_that_left_is_unknown() {
        let queue = PeerQueue::default();
        assert!(matches!(queue.forward(Bytes::new()), Err(ForwardError::NotSent)), "down");
        queue.up(1);
        let (_, mut sent) = queue.forward(Bytes::from_static(b"a")).expect("up");
        assert_eq!(frame(&queue, 1).expect("link 1").forwards.len(), 1);
        let (_, mut waiting) = queue.forward(Bytes::from_static(b"b")).expect("up");
        queue.down();
        assert_eq!(sent.try_recv(), Ok(Err(ForwardError::Unknown)));
        assert_eq!(waiting.try_recv(), Ok(Err(ForwardError::NotSent)));
    }

    #[test]
    fn giving_up_says_whether_it_left() {
        let queue = PeerQueue::default();
        queue.up(1);
        let (early, _answer) = queue.forward(Bytes::from_static(b"a")).expect("up");
        assert_eq!(queue.give_up(early), ForwardError::NotSent);
        let (late, _answer) = queue.forward(Bytes::from_static(b"b")).expect("up");
        let forwards = frame(&queue, 1).expect("link 1").forwards;
        assert_eq!(forwards.len(), 1, "what was given up does not leave");
        assert_eq!(queue.give_up(late), ForwardError::Unknown);
        // An answer nobody waits for is no harm.
        queue.answer(pb::ForwardReply { id: late, result: None });
    }

    #[test]
    fn a_refused_call_was_not_sent() {
        let queue = PeerQueue::default();
        queue.up(1);
        let (id, mut answer) = queue.forward(Bytes::from_static(b"a")).expect("up");
        frame(&queue, 1);
        let refusal = pb::forward_reply::Result::Refusal(pb::ForwardRefusal::Full as i32);
        queue.answer(pb::ForwardReply { id, result: Some(refusal) });
        assert_eq!(answer.try_recv(), Ok(Err(ForwardError::NotSent)));
    }

    #[test]
    fn everything_that_waits_is_one_frame_up_to_its_size() {
        let queue = PeerQueue::default();
        queue.up(1);
        assert!(queue.push((0..10).map(|_| message(1_000))));
        queue.gossip(Gossip::default());
        let first = frame(&queue, 1).expect("link 1");
        assert_eq!((first.raft.len(), first.gossip.map(|g| g.clock_ms)), (10, Some(77)));
        assert!(queue.push((0..6).map(|_| message(1 << 20))));
        assert_eq!(frame(&queue, 1).expect("link 1").raft.len(), 4);
        assert_eq!(frame(&queue, 1).expect("link 1").raft.len(), 2);
    }

    #[test]
    fn queues_are_bounded_and_a_link_that_is_down_takes_nothing() {
        let queue = PeerQueue::default();
        assert!(!queue.push(std::iter::once(message(1))));
        queue.up(1);
        assert!(!queue.push((0..=PEER_QUEUE_MESSAGES_MAX).map(|_| message(1))));
        queue.down();
        queue.up(2);
        assert!(!queue.push((0..64).map(|_| message(1 << 20))), "bytes");
        for _ in 0..FORWARDS_MAX {
            queue.forward(Bytes::new()).expect("room");
        }
        assert!(queue.forward(Bytes::new()).is_err());
        assert!(frame(&queue, 1).is_none(), "an old link carries nothing");
        assert!(frame(&queue, 2).is_some());
    }
}
