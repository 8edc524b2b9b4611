//! What a queue is told, what happened in it, what it answers, and what it is made of.
//!
//! Layout (rule 8): the root has the day's counters and is written with every commit; everything else is a part,
//! written when it changes. The order of the variants of [`Command`], [`Event`], [`Part`] and [`Reply`] is part of the
//! encoding: new ones go last. `Event::Moved` and `Part::Visit` share their place in it, and so do those of windows
//! and bookings, so that the bytes of the part stand within the bytes of the event, and a commit holds them once
//! (design §2). What was written before [`crate::level::QUEUE`] is in [`super::v1`].

use super::{
    board::BoardEntry,
    bookings::{Booking, BookingRef},
    officers::Work,
    outside::{OutsideEvent, OutsideName, Seen},
    statistics::{Counted, Tally},
    v1::TicketV1,
    windows::Desk,
};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Tickets of one letter in one day: three digits, 001 to 999 (R-Q3: they are spoken and shown).
pub const TICKETS_PER_LETTER_MAX: u32 = 999;
/// Cases that may be opened from one ticket: a visitor with more takes another ticket.
pub const CASES_PER_TICKET_MAX: usize = 16;
/// Tickets of past days that one sweep removes: keeps its commit well below the bound of 256 KiB.
pub const SWEEP_TICKETS_MAX: usize = 200;
/// Calls of one visitor to one window: a display that blinks for ever helps nobody.
pub const CALLS_MAX: u8 = 20;
/// Times one visitor is sent on to another window or service.
pub const REDIRECTS_MAX: u8 = 16;

/// Names a ticket within its office's queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TicketRef {
    /// The office's local date on which it was taken.
    pub day: Date,
    /// Letter and three digits: "А015".
    pub number: String,
}

impl TicketRef {
    /// The name of the ticket's part.
    pub fn part_name(&self) -> String {
        format!("ticket:{}:{}", self.day, self.number)
    }
}

/// Why the visitor came (R-Q2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Purpose {
    Apply,
    AskStatus,
    CollectResult,
    Other,
}

impl Purpose {
    pub const ALL: [Self; 4] = [Self::Apply, Self::AskStatus, Self::CollectResult, Self::Other];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::AskStatus => "ask-status",
            Self::CollectResult => "collect-result",
            Self::Other => "other",
        }
    }

    /// The letter of a ticket without a service. Latin look-alikes are avoided: all letters are Russian.
    pub const fn letter(self) -> char {
        match self {
            Self::Apply => 'У',
            Self::AskStatus => 'С',
            Self::CollectResult => 'Р',
            Self::Other => 'П',
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Registers a visitor (R-Q1).
    TakeTicket {
        purpose: Purpose,
        /// Code in the catalogue; empty when the visitor names none.
        service: String,
        /// One of the office's priority categories (R-Q12); empty for most.
        category: String,
    },
    /// Calls the next visitor to a window (R-Q4, R-Q9).
    CallNext {
        window: String,
    },
    /// The called visitor has come.
    Begin {
        ticket: TicketRef,
        window: String,
    },
    /// Done with the visitor (R-Q6), or the visitor did not come.
    Finish {
        ticket: TicketRef,
        window: String,
        outcome: VisitOutcome,
    },
    /// Calls a visitor who waits or is put off, out of turn (R-Q10).
    CallNumber {
        ticket: TicketRef,
        window: String,
    },
    /// Calls the visitor of this window once more.
    CallAgain {
        ticket: TicketRef,
        window: String,
    },
    /// The called visitor comes back into the queue by itself after a time (R-Q5).
    PutOff {
        ticket: TicketRef,
        window: String,
        minutes: u16,
    },
    /// Sends the visitor of a window on (R-Q7); the place by arrival is kept.
    Redirect {
        ticket: TicketRef,
        window: String,
        to: Destination,
    },
    /// Only this window calls the waiting visitor (R-Q9); empty: any window again.
    Bind {
        ticket: TicketRef,
        window: String,
    },
    /// The called visitor waits again, in the place by arrival.
    ReturnToQueue {
        ticket: TicketRef,
        window: String,
    },
    /// The visitor leaves without having been served.
    Leave {
        ticket: TicketRef,
    },
    /// The window receives; ends a break.
    OpenWindow {
        window: String,
    },
    CloseWindow {
        window: String,
    },
    StartBreak {
        window: String,
        minutes: u16,
    },
    /// The workstation of the window is lost (R-R1): given by the keeper of leases on the leader.
    Unattended {
        window: String,
        /// Of the leadership whose keeper says so: another's word is late.
        term: u64,
    },
    /// The workstation is back.
    Attended {
        window: String,
        term: u64,
    },
    /// Books a slot (R-Q1).
    Book {
        purpose: Purpose,
        /// Empty: none named; such visitors share one row of slots.
        service: String,
        category: String,
        slot_ms: i64,
        /// How the one who books calls it; no personal data.
        reference: String,
    },
    CancelBooking {
        booking: BookingRef,
    },
    /// The visitor with a booking has come: gives a ticket.
    CheckIn {
        booking: BookingRef,
    },
    /// Ends the office's day before its time: what is left gets a final state.
    CloseDay,
    /// Something happened in an outside queue system (R-Q13); taken once by its id.
    Outside(OutsideEvent),
}

/// Where a visitor is sent on to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    Window(String),
    /// Code of a service: any window that serves its group.
    Service(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VisitOutcome {
    Served,
    /// Called and did not come: only before service began.
    NoShow,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    pub ticket: TicketRef,
    pub purpose: Purpose,
    pub service: String,
    pub category: String,
    /// Has a head start (R-Q12).
    pub priority: bool,
    /// Letter of the group whose windows serve it; a redirection changes it, never the number.
    pub group: char,
    /// Order of taking within the queue; never used again.
    pub sequence: u64,
    pub taken_ms: i64,
    /// From when on the visitor waits: the taking, or the slot of whoever came before it.
    pub wait_from_ms: i64,
    /// The place in the queue: `wait_from_ms` less the head start. The smallest is called first.
    pub rank_ms: i64,
    /// Returned because of a window that nobody attended: before all others.
    pub at_head: bool,
    pub state: TicketState,
    /// To the window that has it now or had it last.
    pub calls: u8,
    pub put_offs: u8,
    pub redirects: u8,
    /// Counts what happened to it, from 1: tells a newer picture of a ticket from an older one.
    pub revision: u32,
    pub called_first_ms: Option<i64>,
    /// Milliseconds in service at windows that sent it on.
    pub served_before_ms: i64,
    /// Only this window calls it; empty: any.
    pub bound: String,
    /// Who called it last; empty: not known.
    pub officer: String,
    /// Who registered it: `kind/id` of the caller.
    pub taken_by: String,
    pub booking: Option<BookingRef>,
    pub outside: Option<OutsideName>,
    /// Ids of the cases opened from it.
    pub cases: Vec<String>,
}

/// The way of a ticket; a later state keeps the times of the earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TicketState {
    Waiting,
    Called {
        window: String,
        called_ms: i64,
    },
    InService {
        window: String,
        called_ms: i64,
        begun_ms: i64,
    },
    /// `begun_ms` is `None` when the visitor did not come.
    Finished {
        window: String,
        called_ms: i64,
        begun_ms: Option<i64>,
        finished_ms: i64,
    },
    /// Comes back by itself.
    PutOff {
        until_ms: i64,
    },
    /// Ended without an outcome at a window.
    Closed {
        closed_ms: i64,
        why: Closing,
    },
}

/// Why a ticket ended without an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Closing {
    /// The day was over while it waited, was put off or called.
    DayOver,
    /// The day was over while it was in service: nobody said how that ended.
    DayOverInService,
    /// The visitor left.
    Left,
}

impl TicketState {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Called { .. } => "called",
            Self::InService { .. } => "in-service",
            Self::Finished { .. } => "finished",
            Self::PutOff { .. } => "put-off",
            Self::Closed { .. } => "closed",
        }
    }

    /// The window that called it; `None` while it waits.
    pub fn window(&self) -> Option<&str> {
        match self {
            Self::Called { window, .. } | Self::InService { window, .. } | Self::Finished { window, .. } => {
                Some(window)
            }
            Self::Waiting | Self::PutOff { .. } | Self::Closed { .. } => None,
        }
    }

    /// The window it occupies: called there or in service.
    pub fn occupies(&self) -> Option<&str> {
        match self {
            Self::Called { window, .. } | Self::InService { window, .. } => Some(window),
            Self::Waiting | Self::Finished { .. } | Self::PutOff { .. } | Self::Closed { .. } => None,
        }
    }

    /// Nothing follows.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Finished { .. } | Self::Closed { .. } => true,
            Self::Waiting | Self::Called { .. } | Self::InService { .. } | Self::PutOff { .. } => false,
        }
    }
}

impl Ticket {
    /// The letter of its number.
    pub fn letter(&self) -> char {
        self.ticket.number.chars().next().unwrap_or('?')
    }

    /// How long the visitor waited until first called.
    pub fn wait_ms(&self) -> Option<i64> {
        self.called_first_ms.map(|called| (called - self.wait_from_ms).max(0))
    }
}

/// What happened to a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Move {
    Taken,
    Called,
    CalledAgain,
    Begun,
    PutOff,
    /// The time it was put off for is over.
    CameBack,
    Redirected,
    Bound,
    /// An officer returned it to the queue.
    Returned,
    /// The window that called it was left unattended: to the head of the queue.
    ReturnedToHead,
    Finished,
    DidNotCome,
    Left,
    DayOver,
    CaseLinked,
}

impl Move {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Called => "called",
            Self::CalledAgain => "called-again",
            Self::Begun => "begun",
            Self::PutOff => "put-off",
            Self::CameBack => "came-back",
            Self::Redirected => "redirected",
            Self::Bound => "bound",
            Self::Returned => "returned",
            Self::ReturnedToHead => "returned-to-head",
            Self::Finished => "finished",
            Self::DidNotCome => "did-not-come",
            Self::Left => "left",
            Self::DayOver => "day-over",
            Self::CaseLinked => "case-linked",
        }
    }
}

/// Something happened to a ticket, with everything a reader outside needs (R-Q13).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// As it is afterwards. First, so that the part's bytes stand in the event.
    pub ticket: Arc<Ticket>,
    pub what: Move,
    /// The window concerned, also where the ticket just left it; empty: none.
    pub window: String,
    /// Its number on the hall board; 0: not for the board.
    pub board: u64,
    /// With the final state: what the statistics count.
    pub counted: Option<Box<Counted>>,
}

/// The end of an office's day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayEnd {
    pub day: Date,
    pub closed_ms: i64,
}

impl DayEnd {
    pub fn part_name(&self) -> String {
        format!("day:{}", self.day)
    }
}

/// What happened. A ticket event carries the ticket as it is afterwards. The first six are written below
/// [`crate::level::QUEUE`]; a sweep removes tickets at any level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    TicketTaken(Arc<TicketV1>),
    TicketCalled(Arc<TicketV1>),
    ServiceBegun(Arc<TicketV1>),
    TicketFinished(Arc<TicketV1>),
    CaseLinked(Arc<TicketV1>),
    /// Tickets of past days leave the queue; the journal keeps what happened to them.
    Swept {
        tickets: Vec<TicketRef>,
    },
    Moved(Box<Moved>),
    WindowChanged(Arc<Desk>),
    BookingChanged(Arc<Booking>),
    OutsideTaken(Arc<Seen>),
    CaseGiven(Arc<Work>),
    CaseLeft {
        case: String,
    },
    DayClosed(Arc<DayEnd>),
    /// Tallies of days become part of their month's.
    StatisticsFolded {
        parts: Vec<String>,
    },
    /// Parts whose time is over leave.
    Cleared {
        parts: Vec<String>,
    },
    /// A timer found nothing to do yet.
    Woke,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To messages and timers.
    None,
    /// Below [`crate::level::QUEUE`]; see [`Reply::ticket`].
    Taken {
        ticket: Arc<TicketV1>,
        /// How many wait before it.
        ahead: u32,
    },
    /// Below [`crate::level::QUEUE`]; see [`Reply::ticket`].
    Ticket(Arc<TicketV1>),
    /// A ticket was given out.
    Given {
        ticket: Arc<Ticket>,
        /// How many wait before it.
        ahead: u32,
    },
    Shown(Arc<Ticket>),
    Window(Arc<Desk>),
    Booking(Arc<Booking>),
    /// The day is over; so many tickets still get their final state from the timer.
    DayClosed {
        left: u32,
    },
    /// To an outside event: the ticket it was about.
    Outside(Option<Arc<Ticket>>),
}

impl Reply {
    /// The ticket of a reply of either form.
    pub fn ticket(&self) -> Option<Arc<Ticket>> {
        match self {
            Self::Taken { ticket, .. } | Self::Ticket(ticket) => Some(Arc::new(Ticket::from(&**ticket))),
            Self::Given { ticket, .. } | Self::Shown(ticket) => Some(Arc::clone(ticket)),
            Self::Outside(ticket) => ticket.clone(),
            Self::None | Self::Window(_) | Self::Booking(_) | Self::DayClosed { .. } => None,
        }
    }

    /// A ticket that was given out, with how many wait before it.
    pub fn given(&self) -> Option<(Arc<Ticket>, u32)> {
        match self {
            Self::Taken { ahead, .. } | Self::Given { ahead, .. } => {
                self.ticket().map(|ticket| (ticket, *ahead))
            }
            Self::None
            | Self::Ticket(_)
            | Self::Shown(_)
            | Self::Window(_)
            | Self::Booking(_)
            | Self::DayClosed { .. }
            | Self::Outside(_) => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Root {
    /// The day the counters are of; `None`: no ticket yet.
    pub day: Option<Date>,
    /// The last number of each letter on that day.
    pub last_numbers: BTreeMap<char, u32>,
    /// The last sequence given to a ticket.
    pub last_sequence: u64,
}

/// The parts of a queue:
///
/// | Name | Is |
/// |---|---|
/// | `ticket:2026-11-21:А015` | a ticket, of either form |
/// | `window:5` | a window's day |
/// | `booking:2026-11-21:052916` | a booking, by the day of its slot |
/// | `board:017` | an entry of the hall board; the number is its sequence modulo [`super::BOARD_TAIL`] |
/// | `stats:d:2026-11-21:hour:10`, `stats:m:2026-11:all` | a tally of a day or a month |
/// | `seen:2026-11-21:<system>:<id>` | an outside event that was taken |
/// | `work:<case>` | which officer a case was given to |
/// | `day:2026-11-21` | the end of a day |
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    Ticket(Arc<TicketV1>),
    Board(Arc<BoardEntry>),
    Tally(Arc<Tally>),
    Seen(Arc<Seen>),
    Work(Arc<Work>),
    Day(Arc<DayEnd>),
    Visit(Arc<Ticket>),
    Window(Arc<Desk>),
    Booking(Arc<Booking>),
}
