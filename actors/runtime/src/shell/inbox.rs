//! What reaches a shard from other threads: gateway, raft thread, apply thread, courier, scanner, its own actors.
//!
//! A push takes an uncontended lock and wakes the shard once per batch; it neither blocks nor fails (rule 11).
//! Depth: calls are bounded by [`Inboxes`]' places, notices by proposals and tickets, completions by their
//! senders' in-flight bounds, outputs by deliveries.

use crate::{call::Answer, shard::Input};
use futures::{Stream, task::AtomicWaker};
use okno_cluster::api::{ShardNotice, ShardPort};
use parking_lot::Mutex;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};
use tokio::sync::oneshot;

/// Someone who waits for an answer. Dropping it unanswered tells them that nobody knows.
#[derive(Debug)]
pub struct Caller {
    answer: oneshot::Sender<Answer>,
    _place: Option<Place>,
}

impl Caller {
    /// For the cluster's own operations, which need no place.
    pub fn internal() -> (Self, oneshot::Receiver<Answer>) {
        let (answer, receiver) = oneshot::channel();
        (Self { answer, _place: None }, receiver)
    }

    pub fn tell(self, answer: Answer) {
        // A caller that went away needs no answer.
        let _gone = self.answer.send(answer);
    }
}

/// One of a shard's bounded places for callers; free again when dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A shard's queue of inputs.
pub struct Inbox {
    queue: Mutex<Vec<Input<Caller>>>,
    waker: AtomicWaker,
    closed: AtomicBool,
    callers: Arc<AtomicUsize>,
    callers_max: usize,
    /// Monotonic time of the shard's last turn, for the watchdog.
    pub last_turn_ms: AtomicU64,
    /// Turns so far.
    pub turns: AtomicU64,
}

impl Inbox {
    pub fn new(callers_max: usize) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::new(Vec::new()),
            waker: AtomicWaker::new(),
            closed: AtomicBool::new(false),
            callers: Arc::new(AtomicUsize::new(0)),
            callers_max,
            last_turn_ms: AtomicU64::new(0),
            turns: AtomicU64::new(0),
        })
    }

    pub fn push(&self, input: Input<Caller>) {
        if self.closed.load(Ordering::Acquire) {
            // Nobody takes it any more; a caller dropped with it learns that.
            return;
        }
        let first = {
            let mut queue = self.queue.lock();
            queue.push(input);
            queue.len() == 1
        };
        if first {
            self.waker.wake();
        }
    }

    /// Ends the stream of batches once what is queued has been taken.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Someone who takes one of the places for callers; `None`: all are taken (rule 10).
    pub fn caller(&self) -> Option<(Caller, oneshot::Receiver<Answer>)> {
        let place = Place(Arc::clone(&self.callers));
        if self.callers.fetch_add(1, Ordering::AcqRel) >= self.callers_max {
            return None;
        }
        let (answer, receiver) = oneshot::channel();
        Some((Caller { answer, _place: Some(place) }, receiver))
    }
}

impl ShardPort for Inbox {
    fn deliver(&self, notice: ShardNotice) {
        self.push(Input::Notice(notice));
    }
}

/// Everything that waits, as one batch a time.
pub struct Batches(pub Arc<Inbox>);

impl Stream for Batches {
    type Item = Vec<Input<Caller>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let inbox = &self.0;
        inbox.waker.register(context.waker());
        let batch = std::mem::take(&mut *inbox.queue.lock());
        if !batch.is_empty() {
            Poll::Ready(Some(batch))
        } else if inbox.closed.load(Ordering::Acquire) {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}

/// All places of a shard are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// The inboxes of all shards, by the entity that is asked.
#[derive(Clone)]
pub struct Inboxes(Arc<[Arc<Inbox>]>);

impl Inboxes {
    pub fn new(inboxes: Vec<Arc<Inbox>>) -> Self {
        Self(inboxes.into())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Inbox>> {
        self.0.iter()
    }

    pub fn of(&self, entity: &okno_storage::commit::EntityKey) -> &Arc<Inbox> {
        let shards = u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        &self.0[usize::from(crate::work::shard_of(entity, shards))]
    }

    /// Hands in a call and says where its answer comes.
    pub fn call(
        &self,
        work: Arc<crate::work::Work>,
        attempt: u32,
    ) -> Result<oneshot::Receiver<Answer>, NoRoom> {
        let inbox = self.of(work.entity());
        let (handle, receiver) = inbox.caller().ok_or(NoRoom)?;
        inbox.push(Input::Call { work, attempt, handle });
        Ok(receiver)
    }

    /// Hands in an operation of the cluster itself.
    pub fn internal(&self, work: Arc<crate::work::Work>) -> oneshot::Receiver<Answer> {
        let (handle, receiver) = Caller::internal();
        self.of(work.entity()).push(Input::Call { work, attempt: 1, handle });
        receiver
    }
}
