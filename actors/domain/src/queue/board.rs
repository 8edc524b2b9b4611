//! The hall board (R-Q3): which number goes to which window, in the order of calling.
//!
//! Every change of what a hall sees has a sequence number of the queue's own, without gaps and for ever growing; the
//! last [`BOARD_TAIL`] stand in a ring of parts, so that whoever comes back after a break goes on where they were,
//! from any node. Whoever was away for longer takes the picture as it is.

use super::{
    Queue,
    types::{Move, Moved, Ticket, TicketRef, TicketState},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Entries kept for those who come back: at 500 changes a second half a second, at an office's real 5 a minute
/// some 25 minutes.
pub const BOARD_TAIL: u64 = 128;

/// What the hall sees of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BoardState {
    /// Go to the window; blinks and is spoken.
    Called,
    Serving,
    /// No longer at the window.
    Gone,
}

impl BoardState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Called => "called",
            Self::Serving => "serving",
            Self::Gone => "gone",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardEntry {
    /// Without gaps, from 1.
    pub sequence: u64,
    pub ticket: TicketRef,
    pub window: String,
    pub state: BoardState,
    /// How often it was called to this window.
    pub calls: u8,
    pub at_ms: i64,
}

impl BoardEntry {
    /// The entry that a move makes; `None`: the hall sees nothing of it.
    pub fn of(moved: &Moved, at_ms: i64) -> Option<Self> {
        let state = match moved.ticket.state {
            TicketState::Called { .. } => BoardState::Called,
            TicketState::InService { .. } => BoardState::Serving,
            TicketState::Waiting
            | TicketState::Finished { .. }
            | TicketState::PutOff { .. }
            | TicketState::Closed { .. } => BoardState::Gone,
        };
        (moved.board > 0).then(|| Self {
            sequence: moved.board,
            ticket: moved.ticket.ticket.clone(),
            window: moved.window.clone(),
            state,
            calls: moved.ticket.calls,
            at_ms,
        })
    }

    /// What is shown of a ticket at a window whose entry has left the tail: without a sequence, and from the ticket alone, so
    /// that every node shows the same, whatever it remembers.
    pub fn beyond_tail(ticket: &Ticket) -> Option<Self> {
        let (state, window, at_ms) = match &ticket.state {
            TicketState::Called { window, called_ms } => (BoardState::Called, window, *called_ms),
            TicketState::InService { window, begun_ms, .. } => (BoardState::Serving, window, *begun_ms),
            TicketState::Waiting
            | TicketState::Finished { .. }
            | TicketState::PutOff { .. }
            | TicketState::Closed { .. } => return None,
        };
        Some(Self {
            sequence: 0,
            ticket: ticket.ticket.clone(),
            window: window.clone(),
            state,
            calls: ticket.calls,
            at_ms,
        })
    }

    /// Its place in the picture: those beyond the tail first, by when they were called.
    pub fn place(&self) -> (u64, i64, &TicketRef) {
        (self.sequence, self.at_ms, &self.ticket)
    }

    /// What is spoken with it; only calls are.
    pub fn spoken(&self) -> Option<String> {
        (self.state == BoardState::Called).then(|| super::spoken::call(&self.ticket.number, &self.window))
    }
}

/// What follows after a sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoardNews {
    /// Everything since, oldest first; empty: nothing new.
    Entries(Vec<Arc<BoardEntry>>),
    /// Too long ago, or not from this queue: take [`Queue::board`] and go on from its sequence.
    StartAnew,
}

pub(super) fn part_name(sequence: u64) -> String {
    format!("board:{:03}", sequence % BOARD_TAIL)
}

/// Does the hall see this move of a ticket that was, or is now, at a window?
pub(super) const fn shows(what: Move) -> bool {
    match what {
        Move::Taken | Move::CameBack | Move::Bound | Move::CaseLinked => false,
        Move::Called
        | Move::CalledAgain
        | Move::Begun
        | Move::PutOff
        | Move::Redirected
        | Move::Returned
        | Move::ReturnedToHead
        | Move::Finished
        | Move::DidNotCome
        | Move::Left
        | Move::DayOver => true,
    }
}

impl Queue {
    /// The sequence of the last entry; 0: none yet.
    pub fn board_sequence(&self) -> u64 {
        self.board.keys().next_back().copied().unwrap_or(0)
    }

    /// What the board shows now: the last entry of every ticket at a window, in the order of calling.
    pub fn board(&self) -> (u64, Vec<Arc<BoardEntry>>) {
        let mut shown: Vec<_> = self
            .windows
            .values()
            .filter_map(|name| {
                let beyond = BoardEntry::beyond_tail(self.ticket(name)?)?;
                let last = self.board.values().rev().find(|entry| entry.ticket == *name).cloned();
                Some(last.unwrap_or_else(|| Arc::new(beyond)))
            })
            .collect();
        shown.sort_by(|one, other| one.place().cmp(&other.place()));
        (self.board_sequence(), shown)
    }

    /// What happened on the board after `sequence`.
    pub fn board_since(&self, sequence: u64) -> BoardNews {
        let last = self.board_sequence();
        let oldest = self.board.keys().next().copied().unwrap_or(1);
        if sequence > last || sequence + 1 < oldest {
            return BoardNews::StartAnew;
        }
        BoardNews::Entries(self.board.range(sequence + 1..).map(|(_, entry)| Arc::clone(entry)).collect())
    }

    pub(super) fn put_on_board(&mut self, entry: Arc<BoardEntry>) {
        let sequence = entry.sequence;
        self.board.insert(sequence, entry);
        if let Some(old) = sequence.checked_sub(BOARD_TAIL) {
            self.board.remove(&old);
        }
    }

    pub(super) fn board_part(&self, slot: &str) -> Option<Arc<BoardEntry>> {
        let slot: u64 = slot.parse().ok().filter(|slot| *slot < BOARD_TAIL)?;
        let last = self.board_sequence();
        let back = (last % BOARD_TAIL + BOARD_TAIL - slot) % BOARD_TAIL;
        self.board.get(&last.checked_sub(back)?).cloned()
    }
}
