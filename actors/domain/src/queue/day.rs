//! Timers of a queue, the end of its day, and the archive.
//!
//! Three timers, because setting one writes the list of all: `due` for whatever is due next (a ticket that was put
//! off comes back, a grace time is over, a booked visitor did not come), `close` for the end of the day, `sweep` for
//! the night. Each does a bounded piece of work a commit and comes again soon while there is more.

use super::{
    Due, Event, Move, Queue, Reply, SWEEP_TICKETS_MAX, TicketRef, TicketState,
    draft::{At, Draft},
    outside,
    statistics::{DAYS_KEPT, MONTHS_KEPT},
    types::{Closing, DayEnd},
};
use crate::{
    directory::Opening,
    entity::{Context, Decision, Refusal},
    refusal::{OFFICE_CLOSED, TIMER_UNKNOWN, refuse},
    time::{local_hour_ms, plus_days},
};
use std::{collections::BTreeSet, sync::Arc};

/// By it tickets of past days leave, and everything else whose time is over.
pub(super) const SWEEP_TIMER: &str = "sweep";
/// By it what is left of a day gets its final state.
pub(super) const CLOSE_TIMER: &str = "close";
/// By it comes what is due.
pub(super) const DUE_TIMER: &str = "due";
/// Local hour of the first sweep: every office is closed then.
const SWEEP_HOUR: i8 = 3;
/// Between two pieces of work of one timer: lets other commits pass.
pub(super) const PAUSE_MS: i64 = 1_000;
/// Tickets that one commit closes: with their tallies below 256 KiB.
pub const CLOSE_TICKETS_MAX: usize = 100;
/// Things due that one commit does.
pub const DUES_MAX: usize = 64;
/// Parts other than tickets that one sweep removes.
const SWEEP_PARTS_MAX: usize = 200;

/// The next night.
pub(super) fn next_sweep_ms(at: &At<'_>) -> i64 {
    local_hour_ms(plus_days(at.day, 1), SWEEP_HOUR, at.offset_minutes)
}

impl Queue {
    /// There is nothing that a sweep would ever remove.
    pub(super) fn is_bare(&self) -> bool {
        self.tickets.is_empty()
            && self.bookings.is_empty()
            && self.tallies.is_empty()
            && self.seen.is_empty()
            && self.ends.is_empty()
    }

    /// Refuses a ticket outside the office's hours.
    pub(super) fn open_now(&self, at: &At<'_>) -> Result<(), Refusal> {
        let settings = at.settings;
        let closed = || refuse(OFFICE_CLOSED).with("day", at.day.to_string());
        if self.ends.contains_key(&at.day) {
            return Err(closed());
        }
        if settings.hours.is_empty() && settings.closed_days.is_empty() {
            return Ok(());
        }
        match settings.opening(at.day, at.offset_minutes) {
            Opening::Hours { opens_ms, closes_ms } if (opens_ms..closes_ms).contains(&at.now_ms) => Ok(()),
            Opening::Hours { .. } | Opening::Closed => Err(closed()),
        }
    }

    pub(super) fn take_timer(&self, timer: &str, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        let at = self.at_office(context.directory.office(&self.id), context);
        match timer {
            SWEEP_TIMER if at.whole => Ok(self.sweep(&at)),
            SWEEP_TIMER => Ok(self.sweep_tickets(&at)),
            CLOSE_TIMER => Ok(self.close(&at)),
            DUE_TIMER => Ok(self.with_calls_by_load(self.dues(&at), &at)),
            _ => Err(refuse(TIMER_UNKNOWN).with("timer", timer)),
        }
    }

    /// Removes some tickets of past days; comes again soon while there are more. As release 0.2 did.
    fn sweep_tickets(&self, at: &At<'_>) -> Decision<Self> {
        let mut past = self.tickets.keys().filter(|ticket| ticket.day < at.day);
        let tickets: Vec<_> = past.by_ref().take(SWEEP_TICKETS_MAX).cloned().collect();
        let due_ms = if past.next().is_some() {
            Some(at.now_ms + PAUSE_MS)
        } else if self.tickets.len() > tickets.len() {
            Some(next_sweep_ms(at))
        } else {
            None
        };
        let mut draft = self.draft(at);
        // Setting a timer takes an event, even an empty one (entity.rs).
        if !tickets.is_empty() || due_ms.is_some() {
            draft.events.push(Event::Swept { tickets });
        }
        if let Some(due_ms) = due_ms {
            draft.set_timer(SWEEP_TIMER, due_ms);
        }
        draft.done(Reply::None)
    }

    /// One piece of the night's work: first what is open of past days gets its final state, then everything past
    /// leaves, then days become months, then old months leave.
    fn sweep(&self, at: &At<'_>) -> Decision<Self> {
        let mut draft = self.draft(at);
        self.close_some(&mut draft, |ticket| ticket.day < at.day);
        if draft.events.is_empty() {
            let past = self.tickets.keys().take_while(|ticket| ticket.day < at.day);
            let tickets: Vec<_> = past.take(SWEEP_TICKETS_MAX).cloned().collect();
            if !tickets.is_empty() {
                draft.events.push(Event::Swept { tickets });
            }
        }
        if draft.events.is_empty() {
            let parts = self.parts_of_the_past(at);
            if !parts.is_empty() {
                draft.events.push(Event::Cleared { parts });
            }
        }
        if draft.events.is_empty() {
            // Month by month, so that no month is half apart and half together.
            let parts = self.tallies_to_fold(plus_days(at.day, -DAYS_KEPT).first_of_month());
            if !parts.is_empty() {
                draft.events.push(Event::StatisticsFolded { parts });
            }
        }
        if draft.events.is_empty() {
            let oldest = at.day.saturating_sub(jiff::Span::new().months(MONTHS_KEPT));
            let parts = self.tallies_to_clear(oldest);
            if !parts.is_empty() {
                draft.events.push(Event::Cleared { parts });
            }
        }
        if !draft.events.is_empty() {
            draft.set_timer(SWEEP_TIMER, at.now_ms + PAUSE_MS);
        } else if !self.is_bare() {
            draft.events.push(Event::Woke);
            draft.set_timer(SWEEP_TIMER, next_sweep_ms(at));
        }
        draft.done(Reply::None)
    }

    /// Bookings and day ends of past days, and outside events of days before yesterday: those of yesterday may still be
    /// told again.
    fn parts_of_the_past(&self, at: &At<'_>) -> Vec<String> {
        let bookings = self.bookings.keys().take_while(|booking| booking.day < at.day);
        let yesterday = outside::seen_of(plus_days(at.day, -1));
        let seen = self.seen.keys().take_while(|name| **name < yesterday);
        let ends = self.ends.values().take_while(|end| end.day < at.day);
        bookings
            .map(|booking| booking.part_name())
            .chain(seen.cloned())
            .chain(ends.map(|end| end.part_name()))
            .take(SWEEP_PARTS_MAX)
            .collect()
    }

    /// The day of a ticket is over.
    fn is_over(&self, ticket: &TicketRef, at: &At<'_>) -> bool {
        ticket.day < at.day
            || self.ends.contains_key(&ticket.day)
            || at.settings.day_ends_ms(ticket.day, at.offset_minutes) <= at.now_ms
    }

    /// Gives some open tickets their final state, the oldest first. True: there are more.
    fn close_some(&self, draft: &mut Draft<'_>, over: impl Fn(&TicketRef) -> bool) -> bool {
        let mut left = self.open.iter().filter(|ticket| over(ticket));
        for name in left.by_ref().take(CLOSE_TICKETS_MAX) {
            let Some(ticket) = self.ticket(name) else { continue };
            let mut ticket = ticket.clone();
            let why = match ticket.state {
                TicketState::InService { .. } => Closing::DayOverInService,
                TicketState::Waiting
                | TicketState::Called { .. }
                | TicketState::PutOff { .. }
                | TicketState::Finished { .. }
                | TicketState::Closed { .. } => Closing::DayOver,
            };
            let window = ticket.state.occupies().unwrap_or_default().to_owned();
            ticket.state = TicketState::Closed { closed_ms: draft.at.now_ms, why };
            draft.moved(ticket, Move::DayOver, &window);
        }
        left.next().is_some()
    }

    /// The day is over: what is left gets its final state, piece by piece.
    fn close(&self, at: &At<'_>) -> Decision<Self> {
        let mut draft = self.draft(at);
        let more = self.close_some(&mut draft, |ticket| self.is_over(ticket, at));
        let closed: BTreeSet<_> = self.open.iter().filter(|ticket| self.is_over(ticket, at)).collect();
        if more {
            draft.set_timer(CLOSE_TIMER, at.now_ms + PAUSE_MS);
        } else if let Some(next) = self.open.iter().find(|ticket| !closed.contains(ticket)) {
            if draft.events.is_empty() {
                draft.events.push(Event::Woke);
            }
            let ends_ms = at.settings.day_ends_ms(next.day, at.offset_minutes);
            draft.set_timer(CLOSE_TIMER, ends_ms.max(at.now_ms + PAUSE_MS));
        }
        draft.done(Reply::None)
    }

    /// The head of an office ends its day: no ticket is given out any more.
    pub(super) fn close_day(&self, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        let mut draft = self.draft(at);
        if !self.ends.contains_key(&at.day) {
            let end = DayEnd { day: at.day, closed_ms: at.now_ms };
            draft.events.push(Event::DayClosed(Arc::new(end)));
        }
        self.keep_sweep(&mut draft);
        let open = self.open.iter().filter(|ticket| ticket.day <= at.day).count();
        let more = self.close_some(&mut draft, |ticket| ticket.day <= at.day);
        if more {
            draft.set_timer(CLOSE_TIMER, at.now_ms + PAUSE_MS);
        }
        if draft.events.is_empty() {
            draft.timers.clear();
        }
        let left = u32::try_from(open.saturating_sub(CLOSE_TICKETS_MAX)).unwrap_or(u32::MAX);
        Ok(draft.done(Reply::DayClosed { left }))
    }

    /// Does some of what is due, the earliest first.
    fn dues(&self, at: &At<'_>) -> Decision<Self> {
        let mut draft = self.draft(at);
        let mut dues = self.dues.iter();
        let now: Vec<_> =
            dues.by_ref().take_while(|(due_ms, _)| *due_ms <= at.now_ms).take(DUES_MAX).collect();
        for (_, due) in &now {
            match due {
                Due::Back(name) => {
                    if let Some(ticket) = self.ticket(name) {
                        let mut ticket = ticket.clone();
                        ticket.state = TicketState::Waiting;
                        draft.moved(ticket, Move::CameBack, "");
                    }
                }
                Due::Grace(window) => self.grace_over(window, &mut draft),
                Due::Slot(name) => self.lapse(name, &mut draft),
            }
        }
        if let Some((next_ms, _)) = self.dues.iter().nth(now.len()) {
            if draft.events.is_empty() {
                draft.events.push(Event::Woke);
            }
            draft.set_timer(DUE_TIMER, (*next_ms).max(at.now_ms + PAUSE_MS));
        }
        draft.done(Reply::None)
    }
}
