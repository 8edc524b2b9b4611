//! How a decision of a queue is put together: where and when it is made, and what follows from it so far.

use super::{
    Event, Move, Moved, Queue, Reply, Ticket, TicketState, board, day,
    statistics::{Counted, Ending},
    types::Closing,
    v1,
};
use crate::{
    directory::{Office, QueueSettings, Window},
    entity::{Context, Decision, Refusal, Send, TimerChange},
    level,
    refusal::{OFFICE_UNKNOWN, WINDOW_UNKNOWN, refuse},
    time::{HOUR_MS, MINUTE_MS, local_date, local_hour_ms},
};
use jiff::civil::Date;
use std::sync::Arc;

/// Where and when a decision is made.
pub(super) struct At<'a> {
    pub context: &'a Context<'a>,
    pub settings: &'a QueueSettings,
    pub offset_minutes: i32,
    /// The office's date, never before the queue's day: an office that moves to another offset repeats no number.
    pub day: Date,
    pub now_ms: i64,
    /// Everything this level allows may be written.
    pub whole: bool,
}

impl Queue {
    /// Where a decision of this queue is made. `Err`: the office is not in the directory.
    pub(super) fn at<'a>(&self, context: &'a Context<'a>) -> Result<At<'a>, Refusal> {
        let office = context.directory.office(&self.id);
        let office = office.ok_or_else(|| refuse(OFFICE_UNKNOWN).with("office", self.id.clone()))?;
        Ok(self.at_office(Some(office), context))
    }

    /// As above for timers and messages: the office may have left the directory, what is kept goes its way all the
    /// same.
    pub(super) fn at_office<'a>(&self, office: Option<&Office>, context: &'a Context<'a>) -> At<'a> {
        let offset_minutes = office.map_or(0, |office| office.utc_offset_minutes);
        let date = local_date(context.now_ms, offset_minutes);
        At {
            context,
            settings: context.directory.queue_settings(&self.id),
            offset_minutes,
            day: self.root.day.map_or(date, |day| day.max(date)),
            now_ms: context.now_ms,
            whole: context.level >= level::QUEUE,
        }
    }

    pub(super) fn known_window<'a>(&self, window: &str, at: &At<'a>) -> Result<&'a Window, Refusal> {
        let known = at.context.directory.window(&self.id, window);
        known.ok_or_else(|| refuse(WINDOW_UNKNOWN).with("window", window))
    }

    pub(super) fn draft<'a>(&'a self, at: &'a At<'a>) -> Draft<'a> {
        Draft {
            queue: self,
            at,
            board: self.board_sequence(),
            due_ms: None,
            events: Vec::new(),
            sends: Vec::new(),
            timers: Vec::new(),
        }
    }
}

/// A decision in the making.
pub(super) struct Draft<'a> {
    pub queue: &'a Queue,
    pub at: &'a At<'a>,
    /// The last sequence of the board.
    board: u64,
    /// The earliest moment something new is due.
    due_ms: Option<i64>,
    pub events: Vec<Event>,
    pub sends: Vec<Send>,
    pub timers: Vec<TimerChange>,
}

impl Draft<'_> {
    /// A ticket as it is after a move; `window`: the one concerned, or empty.
    pub fn moved(&mut self, mut ticket: Ticket, what: Move, window: &str) -> Arc<Ticket> {
        ticket.revision += 1;
        let ticket = Arc::new(ticket);
        if !self.at.whole
            && let Some(event) = v1::event(what, &ticket)
        {
            self.events.push(event);
            return ticket;
        }
        let board = if board::shows(what) && !window.is_empty() {
            self.board += 1;
            self.board
        } else {
            0
        };
        let moved = Moved {
            what,
            window: window.to_owned(),
            board,
            // A case may be linked after the visit has ended, which was counted then.
            counted: (what != Move::CaseLinked)
                .then(|| self.counted(&ticket, window))
                .flatten()
                .map(Box::new),
            ticket: Arc::clone(&ticket),
        };
        self.events.push(Event::Moved(Box::new(moved)));
        ticket
    }

    /// What the statistics count of a ticket that reached its final state.
    fn counted(&self, ticket: &Ticket, window: &str) -> Option<Counted> {
        let (ending, service_ms) = match &ticket.state {
            TicketState::Finished { begun_ms: Some(begun_ms), finished_ms, .. } => {
                (Ending::Served, Some(ticket.served_before_ms + (finished_ms - begun_ms).max(0)))
            }
            TicketState::Finished { begun_ms: None, .. } => (Ending::DidNotCome, None),
            TicketState::Closed { why: Closing::Left, .. } => (Ending::Left, None),
            TicketState::Closed { why: Closing::DayOver | Closing::DayOverInService, .. } => {
                (Ending::Unserved, None)
            }
            TicketState::Waiting
            | TicketState::Called { .. }
            | TicketState::InService { .. }
            | TicketState::PutOff { .. } => return None,
        };
        let day = ticket.ticket.day;
        // A ticket of a moment that is not on its day (the office moved to another offset) is of the nearest hour.
        let since_midnight = ticket.taken_ms - local_hour_ms(day, 0, self.at.offset_minutes);
        let hour = i8::try_from((since_midnight / HOUR_MS).clamp(0, 23)).unwrap_or(0);
        let wait_ms = ticket.wait_ms();
        let norm_ms = i64::from(self.at.settings.norm_minutes) * MINUTE_MS;
        Some(Counted {
            day,
            hour,
            service: self.queue.counted_as(day, "service", &ticket.service),
            window: self.queue.counted_as(day, "window", window),
            officer: self.queue.counted_as(day, "officer", &ticket.officer),
            ending,
            wait_ms,
            service_ms,
            in_norm: wait_ms.is_some_and(|wait_ms| wait_ms <= norm_ms),
        })
    }

    /// Something is due at a moment: the timer is set for it, if nothing is due earlier.
    pub fn due(&mut self, due_ms: i64) {
        self.due_ms = Some(self.due_ms.map_or(due_ms, |earlier| earlier.min(due_ms)));
    }

    pub fn set_timer(&mut self, name: &str, due_ms: i64) {
        self.timers.push(TimerChange::Set { name: name.to_owned(), due_ms });
    }

    pub fn done(mut self, reply: Reply) -> Decision<Queue> {
        // While something is due the timer is set, for it or before.
        let earliest = self.queue.dues.first().map(|(due_ms, _)| *due_ms);
        if let Some(due_ms) = self.due_ms.filter(|due_ms| earliest.is_none_or(|earliest| *due_ms < earliest))
        {
            self.set_timer(day::DUE_TIMER, due_ms);
        }
        Decision { events: self.events, reply, sends: self.sends, timers: self.timers }
    }

    /// The reply that shows a ticket, in the form the level allows.
    pub fn shown(self, ticket: Arc<Ticket>) -> Decision<Queue> {
        let reply = if self.at.whole { Reply::Shown(ticket) } else { v1::shown(&ticket) };
        self.done(reply)
    }
}
