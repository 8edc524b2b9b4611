//! The task around the timer scanner's core.

use super::{Clock, inbox::Inboxes, next_event};
use crate::{
    call::Answer,
    end::End,
    runtime::{Feed, Own},
    shard::Input,
    sys,
    timers::{Effect, Event, Scanner, TimerFigures, TimerReads},
};
use okno_cluster::api::Proposer;
use okno_storage::{
    commit::{SystemOp, TimerKey},
    error::StorageError,
    state::StateReader,
};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::mpsc;

struct Reads<'a>(&'a ScannerTask);

impl TimerReads for Reads<'_> {
    fn timers(
        &self,
        after: Option<&TimerKey>,
        until_ms: i64,
        limit: usize,
    ) -> Result<Vec<TimerKey>, StorageError> {
        self.0.reader.view().timers(after, until_ms, limit)
    }

    fn replicated_ms(&self) -> i64 {
        self.0.reader.applied().1
    }

    fn stamp_ms(&self) -> Option<i64> {
        self.0.proposer.stamp().ok()
    }

    fn marked_ms(&self) -> Result<Option<i64>, StorageError> {
        sys::marked_ms(&self.0.reader.view())
    }
}

/// What the scanner works with; survives its restarts.
pub struct ScannerTask {
    pub reader: StateReader,
    pub proposer: Arc<dyn Proposer>,
    pub inboxes: Inboxes,
    pub own: Own,
    pub clock: Clock,
    pub marker_every_ms: i64,
    pub feed: Feed<Event>,
    /// Bounded like the courier's.
    pub queue: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    pub figures: Mutex<TimerFigures>,
}

impl ScannerTask {
    /// Runs until the queue closes. `Err`: storage failed.
    pub async fn run(self: Arc<Self>) -> Result<(), End> {
        let mut queue = self.queue.lock().await;
        let reads = Reads(&self);
        let mut core = Scanner::new(self.marker_every_ms);
        let mut fx = Vec::new();
        let mut next = Some(Event::Role(self.proposer.role().leading_term()));
        loop {
            let now = self.clock.now_ms();
            let event = match next.take() {
                Some(event) => event,
                None => match next_event(&mut queue, core.next_wake(now), now, Event::Tick).await {
                    Some(event) => event,
                    None => return Ok(()),
                },
            };
            match &event {
                Event::Set(timers) => self.feed.taken(timers.len()),
                Event::Missed => self.feed.caught_up(),
                _ => {}
            }
            core.on(event, self.clock.now_ms(), &reads, &mut fx)
                .map_err(|error| End::of("timer scanner", &error))?;
            for effect in fx.drain(..) {
                self.carry_out(effect);
            }
            *self.figures.lock() = core.figures(&reads);
        }
    }

    fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Fire(key) => {
                let inbox = Arc::clone(self.inboxes.of(&key.entity));
                inbox.push(Input::Timer(key));
            }
            Effect::Time => self.ask(SystemOp::Time, |_| Event::TimeDone),
            Effect::Purge { before_ms } => self.ask(SystemOp::PurgeRequests { before_ms }, |answer| {
                Event::PurgeDone(matches!(answer, Answer::Done { .. }))
            }),
            Effect::Marker => {
                self.ask(SystemOp::Marker, |answer| Event::MarkerDone(matches!(answer, Answer::Done { .. })))
            }
        }
    }

    fn ask(&self, op: SystemOp, then: fn(Answer) -> Event) {
        let answer = self.own.ask(op);
        let events = self.feed.events.clone();
        tokio::spawn(async move {
            let answer = answer.await.unwrap_or_else(|_| Answer::Unknown("NODE_CLOSED".into()));
            // The scanner ends before its queue only at shutdown.
            let _closed = events.send(then(answer));
        });
    }
}
