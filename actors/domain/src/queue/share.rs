//! What of a queue a reader needs. A queue keeps months of tallies, a book of appointments and what outside systems told;
//! whoever asks for its windows has no use for them. A queue that was loaded from a share answers what the share names as
//! the whole would, and must be asked nothing else.

use super::{Root, statistics};
use jiff::civil::Date;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// [`super::Queue::desk`], [`super::Queue::desks`].
    Windows,
    /// [`super::Queue::tickets`].
    Tickets,
    /// Windows and tickets of the queue's day, and [`super::Queue::at_window`].
    Hall,
    /// [`super::Queue::board`], [`super::Queue::board_since`], [`super::Queue::ticket`].
    Board,
    /// [`super::Queue::bookings`] of a day, or of all days.
    Bookings(Option<Date>),
    /// [`super::Queue::free_slots`].
    Slots,
    /// [`super::Queue::statistics`] from a day to a day.
    Statistics(Date, Date),
}

impl Share {
    /// The stretches `[from, to)` of names of parts that belong to it.
    pub fn stretches(self, root: &Root) -> Vec<(String, String)> {
        let tickets = || root.day.map(|day| of(&format!("ticket:{day}")));
        match self {
            Self::Windows => vec![of("window")],
            Self::Tickets => tickets().into_iter().collect(),
            Self::Hall => [of("window")].into_iter().chain(tickets()).collect(),
            // Windows may hold tickets of a day before.
            Self::Board => vec![of("board"), of("ticket")],
            Self::Bookings(None) => vec![of("booking")],
            Self::Bookings(Some(day)) => vec![of(&format!("booking:{day}"))],
            Self::Slots => vec![of("booking"), of("day")],
            Self::Statistics(from, to) if to < from => Vec::new(),
            Self::Statistics(from, to) => statistics::stretches(from, to).into(),
        }
    }
}

/// Names that begin so, up to a colon; behind it comes the semicolon.
fn of(beginning: &str) -> (String, String) {
    (format!("{beginning}:"), format!("{beginning};"))
}
