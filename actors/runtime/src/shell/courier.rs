//! The task around the courier's core.

use super::{Clock, inbox::Inboxes, next_event};
use crate::{
    call::Answer,
    courier::{Courier, CourierFigures, Effect, Event, OutboxReads},
    depth::Depths,
    end::End,
    runtime::{Feed, Own},
    shard::Input,
};
use okno_cluster::api::Proposer;
use okno_storage::{
    commit::{Message, MessageKey, SystemOp},
    error::StorageError,
    state::StateReader,
};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::mpsc;

struct Reads(StateReader);

impl OutboxReads for Reads {
    fn outbox(&self, after: Option<&MessageKey>, limit: usize) -> Result<Vec<Message>, StorageError> {
        self.0.view().outbox(after, limit)
    }
}

/// What the courier works with; survives its restarts.
pub struct CourierTask {
    pub reader: StateReader,
    pub inboxes: Inboxes,
    pub depths: Arc<Depths>,
    pub own: Own,
    pub clock: Clock,
    pub proposer: Arc<dyn Proposer>,
    pub feed: Feed<Event>,
    /// Bounded: completions by what is in flight, what applied by the feed.
    pub queue: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    pub figures: Mutex<CourierFigures>,
}

impl CourierTask {
    /// Runs until the queue closes. `Err`: storage failed.
    pub async fn run(self: Arc<Self>) -> Result<(), End> {
        let mut queue = self.queue.lock().await;
        let reads = Reads(self.reader.clone());
        let mut core = Courier::new(Arc::clone(&self.depths));
        let mut fx = Vec::new();
        // Made anew after a panic it has missed the last change of role.
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
                Event::Sent(messages) => self.feed.taken(messages.len()),
                Event::Missed => self.feed.caught_up(),
                _ => {}
            }
            core.on(event, self.clock.now_ms(), &reads, &mut fx)
                .map_err(|error| End::of("courier", &error))?;
            for effect in fx.drain(..) {
                self.carry_out(effect);
            }
            *self.figures.lock() = core.figures();
        }
    }

    fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Deliver(message) => {
                let inbox = Arc::clone(self.inboxes.of(&message.key.target));
                inbox.push(Input::Message(message));
            }
            Effect::Bury { key, reason } => {
                let answer = self.own.ask(SystemOp::BuryMessage { message: key.clone(), reason });
                let events = self.feed.events.clone();
                tokio::spawn(async move {
                    let answer = answer.await.unwrap_or_else(|_| Answer::Unknown("NODE_CLOSED".into()));
                    // The courier ends before its queue only at shutdown.
                    let _closed = events.send(Event::Buried(key, answer));
                });
            }
        }
    }
}
