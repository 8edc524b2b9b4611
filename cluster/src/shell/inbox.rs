//! The raft thread's mailbox: everything that waits is taken at once, so that load makes batches by itself.
//!
//! Bounds: proposals and reads hold slots before they get here, closed lanes are as many as activations, raft
//! messages are dropped beyond [`INBOX_MESSAGES_MAX`]; the rest is coalesced.

use crate::{core::event::Event, settings::INBOX_MESSAGES_MAX};
use parking_lot::{Condvar, Mutex};
use raft::eraftpb::Message;
use std::time::Instant;
use uuid::Uuid;

#[derive(Default)]
struct State {
    events: Vec<Event>,
    messages: usize,
    applied: Option<(u64, bool)>,
    pins: Option<Vec<(u64, Uuid)>>,
    later_pins: Option<Vec<(u64, Uuid)>>,
    stop: bool,
    closed: bool,
    asleep: bool,
}

/// What the raft thread takes out in one go.
pub struct Taken {
    pub events: Vec<Event>,
    /// Incarnations to be written to `identity`.
    pub pins: Option<Vec<(u64, Uuid)>>,
    /// As above, of members that came after the founders.
    pub later_pins: Option<Vec<(u64, Uuid)>>,
    pub stop: bool,
}

#[derive(Default)]
pub struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
}

impl Inbox {
    fn change<T>(&self, wake: bool, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let out = change(&mut state);
        if wake && std::mem::take(&mut state.asleep) {
            drop(state);
            self.wake.notify_one();
        }
        out
    }

    /// Gives the event back if the raft thread has ended.
    pub fn push(&self, event: Event) -> Result<(), Event> {
        self.change(true, |s| {
            if s.closed {
                return Err(event);
            }
            s.events.push(event);
            Ok(())
        })
    }

    /// False: dropped, for want of room.
    pub fn messages(&self, from: u64, messages: Vec<Message>) -> bool {
        self.change(true, |s| {
            if s.closed || s.messages + messages.len() > INBOX_MESSAGES_MAX {
                return false;
            }
            s.messages += messages.len();
            s.events.push(Event::Messages { from, messages });
            true
        })
    }

    /// How far apply has come. Wakes the raft thread only if it said that it waits for that; otherwise the next
    /// turn is early enough.
    pub fn applied(&self, index: u64, founded: bool, wake: bool) {
        self.change(wake, |s| s.applied = Some((index, founded)));
    }

    pub fn pins(&self, pins: Vec<(u64, Uuid)>) {
        self.change(true, |s| s.pins = Some(pins));
    }

    pub fn later_pins(&self, pins: Vec<(u64, Uuid)>) {
        self.change(true, |s| s.later_pins = Some(pins));
    }

    pub fn stop(&self) {
        self.change(true, |s| s.stop = true);
    }

    /// Nothing is taken in any more; returns what still waits.
    pub fn close(&self) -> Vec<Event> {
        self.change(false, |s| {
            s.closed = true;
            std::mem::take(&mut s.events)
        })
    }

    /// Waits until there is something, or `until`, and takes everything. `spare` becomes the next buffer. How far
    /// apply has come ends the wait only if it is `wanted`.
    pub fn take(&self, until: Instant, wanted: bool, spare: Vec<Event>) -> Taken {
        let mut state = self.state.lock();
        while state.events.is_empty()
            && state.pins.is_none()
            && state.later_pins.is_none()
            && !state.stop
            && !(wanted && state.applied.is_some())
        {
            state.asleep = true;
            if self.wake.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.asleep = false;
        state.messages = 0;
        let mut events = std::mem::replace(&mut state.events, spare);
        if let Some((index, founded)) = state.applied.take() {
            events.push(Event::Applied { index, founded });
        }
        Taken { events, pins: state.pins.take(), later_pins: state.later_pins.take(), stop: state.stop }
    }
}
