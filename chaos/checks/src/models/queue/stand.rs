//! How tickets and windows of the model stand, what of it shows, and what a call changes.

use super::{Decision, Place, Seeing, State, Ticket, Window};
use crate::history::{Day, Office, Phase, TicketName, TicketSeen, WindowSeen, WindowStand};

impl Ticket<'_> {
    pub(super) fn is(&self, name: &TicketName) -> bool {
        let mut letters = name.number.chars();
        name.day == self.day
            && letters.next() == Some(self.letter)
            && letters.as_str().len() == 3
            && letters.as_str().parse() == Ok(self.number)
    }

    pub(super) fn shows(&self, seen: &TicketSeen) -> bool {
        let place = match (&seen.phase, self.place) {
            (Phase::Waiting, Place::Waiting) => true,
            // It may be back by itself.
            (Phase::Waiting, Place::PutOff(_)) => true,
            (Phase::PutOff { until_ms }, Place::PutOff(own)) => own == 0 || own == *until_ms,
            (Phase::Called(window), Place::Called(at))
            | (Phase::InService(window), Place::InService(at))
            | (Phase::Finished(window), Place::Finished(at)) => window == at,
            _ => false,
        };
        self.is(&seen.name) && seen.priority == self.priority && seen.bound == self.bound && place
    }
}

impl Window<'_> {
    pub(super) fn shows(&self, seen: &WindowSeen) -> bool {
        let stand = match (self.stand, seen.stand) {
            // Nobody learned until when.
            (WindowStand::Break { until_ms: 0 }, WindowStand::Break { .. }) => true,
            (own, seen) => own == seen,
        };
        self.number == seen.number && self.day == seen.day && stand
    }
}

impl<'a> State<'a> {
    pub(super) fn stand(&self, window: &str, day: Day) -> Option<WindowStand> {
        let known = self.windows.iter().find(|known| known.number == window && known.day == day);
        known.map(|known| known.stand)
    }

    /// Somebody works at the window today, or is on a break.
    pub(super) fn works(&self, window: &str, day: Day) -> bool {
        self.stand(window, day).is_some_and(|stand| stand != WindowStand::Closed)
    }

    pub(super) fn held_by(&self, window: &str, day: Day) -> bool {
        self.tickets.iter().any(|ticket| {
            ticket.day == day
                && matches!(ticket.place, Place::Called(at) | Place::InService(at) if at == window)
        })
    }

    pub(super) fn put(&mut self, window: Window<'a>) -> Window<'a> {
        match self.windows.iter_mut().find(|known| known.number == window.number) {
            Some(known) => *known = window,
            None => {
                self.windows.push(window);
                self.windows.sort_unstable_by_key(|known| known.number);
            }
        }
        window
    }
}

/// May visitors be sent to this window?
pub(super) fn receives(
    state: &State<'_>,
    window: &str,
    day: Day,
    office: &Office,
) -> Result<(), &'static str> {
    if !office.windows.contains_key(window) {
        Err("WINDOW_UNKNOWN")
    } else if state.stand(window, day) == Some(WindowStand::Closed) {
        Err("WINDOW_CLOSED")
    } else {
        Ok(())
    }
}

/// A visitor goes to a window, which that opens.
pub(super) fn call<'a>(state: &State<'a>, ticket: Ticket<'a>, window: &'a str, day: Day) -> Decision<'a> {
    let mut open = state.clone();
    open.put(Window { number: window, day, stand: WindowStand::Open });
    changed(&open, ticket, Ticket { calls: 1, place: Place::Called(window), ..ticket })
}

pub(super) fn changed<'a>(state: &State<'a>, before: Ticket<'a>, after: Ticket<'a>) -> Decision<'a> {
    let mut next = state.clone();
    for own in &mut next.tickets {
        if *own == before {
            *own = after;
        }
    }
    Decision::Done(next, Seeing::Ticket(after))
}
