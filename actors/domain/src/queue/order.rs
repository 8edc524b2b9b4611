//! Who is called next (R-Q4, R-Q12), and why nobody waits beyond the fairness bound (ADR 0013).
//!
//! A ticket's place is a moment: since when the visitor waits, less the head start of a category or a booking, which
//! is never more than the office's fairness bound B. The smallest is called first; a place never changes while the
//! ticket waits. From that alone: who is called came at most B later than anybody whom the same window could have
//! called. Once a visitor has waited for B, nobody who comes is called before them any more.
//!
//! Only those who return to the head of the queue (they were called, and nobody was at the window) go before.
//!
//! Tickets wait in lanes, one for each window they are bound to and group; a call looks at the first of each lane, so
//! that it costs the number of lanes, not of visitors.

use super::{Queue, Ticket, TicketRef};
use crate::directory::Window;
use jiff::civil::Date;

/// The window a ticket is bound to (empty: none), and the letter of its group.
pub(super) type Lane = (String, char);

/// Where a waiting ticket stands within its lane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub day: Date,
    pub behind_head: bool,
    pub rank_ms: i64,
    pub sequence: u64,
    pub ticket: TicketRef,
}

pub(super) fn lane(ticket: &Ticket) -> Lane {
    (ticket.bound.clone(), ticket.group)
}

pub(super) fn turn(ticket: &Ticket) -> Turn {
    Turn {
        day: ticket.ticket.day,
        behind_head: !ticket.at_head,
        rank_ms: ticket.rank_ms,
        sequence: ticket.sequence,
        ticket: ticket.ticket.clone(),
    }
}

pub(super) fn serves(window: &Window, group: char) -> bool {
    window.ticket_groups.is_empty() || window.ticket_groups.iter().any(|letter| letter.chars().eq([group]))
}

/// The first place of a day.
fn first_of(day: Date) -> Turn {
    let ticket = TicketRef { day, number: String::new() };
    Turn { day, behind_head: false, rank_ms: i64::MIN, sequence: 0, ticket }
}

impl Queue {
    /// Would this window call tickets of the lane? Its own always; those bound to another window only when nobody
    /// works there, so that nobody waits for a window that is closed.
    pub(super) fn calls_from(&self, window: &Window, (bound, group): &Lane, day: Date) -> bool {
        *bound == window.number || (serves(window, *group) && (bound.is_empty() || !self.works(bound, day)))
    }

    /// Whom a window calls next on a day.
    pub(super) fn next_for(&self, window: &Window, day: Date) -> Option<&Ticket> {
        let first = first_of(day);
        self.waiting
            .iter()
            .filter(|(lane, _)| self.calls_from(window, lane, day))
            .filter_map(|(_, turns)| turns.range(&first..).next())
            .filter(|turn| turn.day == day)
            .min()
            .and_then(|turn| self.ticket(&turn.ticket))
    }

    /// How many wait before a ticket.
    pub(super) fn ahead(&self, ticket: &Ticket) -> u32 {
        let (first, own) = (first_of(ticket.ticket.day), turn(ticket));
        let ahead: usize = self.waiting.values().map(|turns| turns.range(&first..&own).count()).sum();
        u32::try_from(ahead).unwrap_or(u32::MAX)
    }

    /// How many of the queue's day wait.
    pub fn waiting_count(&self) -> usize {
        let Some(day) = self.root.day else { return 0 };
        self.waiting.values().map(|turns| turns.iter().filter(|turn| turn.day == day).count()).sum()
    }

    /// The waiting of the queue's day in the order in which one window that serves everything would call them.
    pub fn in_order(&self) -> Vec<&Ticket> {
        let Some(day) = self.root.day else { return Vec::new() };
        let mut turns: Vec<_> = self.waiting.values().flatten().filter(|turn| turn.day == day).collect();
        turns.sort();
        turns.into_iter().filter_map(|turn| self.ticket(&turn.ticket)).collect()
    }
}
