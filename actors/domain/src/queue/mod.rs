//! The electronic queue of an office (R-Q1 … R-Q13, R-R1, R-C13). One entity per office: `queue/<office code>`.
//!
//! - [`types`]: commands, events, state · [`v1`]: what release 0.2 wrote · `draft`: how a decision is put together
//! - `tickets`: taking and moving them · `order`: who is called next · `windows`: windows, workstations, load
//! - [`bookings`] · [`board`] · [`statistics`] · [`outside`] · [`officers`] · `day`: timers, the day's end, the archive
//! - [`Share`]: what is loaded for a reader · [`spoken`]: what a loudspeaker says. What a queue is made to do, with its bounds: `docs/queue.md`
//!
//! Invariants:
//! - a ticket's number is unique within office and day; its sequence within the queue for ever;
//! - every ticket reaches one final state: at a window, by leaving, or by the day's end; nothing follows it;
//! - `waiting` holds exactly the tickets in state waiting, by lane and then in the order they will be called;
//! - nobody is called before somebody a window could call who came earlier by more than the fairness bound, but
//!   those who return to the head of the queue, once called already (ADR 0013);
//! - `windows` holds exactly the tickets called or in service: one a window and day at most;
//! - while a ticket is open the timer `close` is set, or `sweep` for those of release 0.2; while there are dues the
//!   timer `due` is set, for the earliest or before; while there is anything, `sweep`;
//! - board sequences have no gaps.

pub mod board;
pub mod bookings;
mod day;
mod draft;
pub mod officers;
mod order;
pub mod outside;
mod share;
pub mod spoken;
pub mod statistics;
mod tickets;
pub mod types;
pub mod v1;
mod windows;

pub use board::{BOARD_TAIL, BoardEntry, BoardNews, BoardState};
pub use bookings::{BOOKINGS_MAX, Booking, BookingRef, BookingState};
pub use officers::{WORK_MAX, Work};
pub use outside::{OUTSIDE_EVENTS_PER_DAY_MAX, OutsideEvent, OutsideHappened, OutsideName, Seen};
pub use share::Share;
pub use statistics::{Counted, Ending, Spread, Statistics, Tally};
pub use types::{
    CALLS_MAX, CASES_PER_TICKET_MAX, Closing, Command, DayEnd, Destination, Event, Move, Moved, Part,
    Purpose, REDIRECTS_MAX, Reply, Root, SWEEP_TICKETS_MAX, TICKETS_PER_LETTER_MAX, Ticket, TicketRef,
    TicketState, VisitOutcome,
};
pub use v1::TicketV1;
pub use windows::{Desk, DeskState, Unattended};

use crate::{
    access,
    entity::{Context, Decision, Entity, EntityRef, EventMeta, FIRST_LEVEL, Kind, PartName, Refusal, Row},
    level,
    message::Message,
    refusal::{OUTSIDE_FOREIGN, refuse},
};
use jiff::civil::Date;
use order::{Lane, Turn};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What the timer `due` is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// A ticket that was put off comes back.
    Back(TicketRef),
    /// The grace time of an unattended window is over.
    Grace(String),
    /// A booked visitor did not come.
    Slot(BookingRef),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The office.
    id: String,
    root: Root,
    tickets: BTreeMap<TicketRef, Arc<Ticket>>,
    /// Tickets whose part is still in the old form.
    old: BTreeMap<TicketRef, Arc<TicketV1>>,
    desks: BTreeMap<String, Arc<Desk>>,
    bookings: BTreeMap<BookingRef, Arc<Booking>>,
    /// By sequence; the last [`BOARD_TAIL`].
    board: BTreeMap<u64, Arc<BoardEntry>>,
    /// By name of the part.
    tallies: BTreeMap<PartName, Arc<Tally>>,
    /// By name of the part.
    seen: BTreeMap<PartName, Arc<Seen>>,
    /// By case.
    work: BTreeMap<String, Arc<Work>>,
    ends: BTreeMap<Date, Arc<DayEnd>>,
    // What follows from the above.
    waiting: BTreeMap<Lane, BTreeSet<Turn>>,
    /// By day and window.
    windows: BTreeMap<(Date, String), TicketRef>,
    /// Tickets without a final state.
    open: BTreeSet<TicketRef>,
    dues: BTreeSet<(i64, Due)>,
    /// Slots that are taken, by moment and service.
    slots: BTreeMap<(i64, String), BookingRef>,
    /// By day, system and the name there.
    outside: BTreeMap<(Date, OutsideName), TicketRef>,
    /// Cases each officer was given.
    loads: BTreeMap<String, u32>,
}

impl Queue {
    /// Code of the office.
    pub fn office(&self) -> &str {
        &self.id
    }

    /// The day of the latest ticket.
    pub fn day(&self) -> Option<Date> {
        self.root.day
    }

    pub fn ticket(&self, ticket: &TicketRef) -> Option<&Ticket> {
        self.tickets.get(ticket).map(Arc::as_ref)
    }

    /// The tickets of the queue's day by number (R-Q8).
    pub fn tickets(&self) -> impl Iterator<Item = &Ticket> {
        let day = self.root.day;
        self.tickets.values().map(Arc::as_ref).filter(move |ticket| Some(ticket.ticket.day) == day)
    }

    /// Every ticket that is kept, of past days too.
    pub fn all_tickets(&self) -> impl Iterator<Item = &Ticket> {
        self.tickets.values().map(Arc::as_ref)
    }

    /// The ticket a window has called or serves on the queue's day.
    pub fn at_window(&self, window: &str) -> Option<&Ticket> {
        self.root.day.and_then(|day| self.held_by(window, day))
    }

    fn held_by(&self, window: &str, day: Date) -> Option<&Ticket> {
        self.windows.get(&(day, window.to_owned())).and_then(|ticket| self.ticket(ticket))
    }

    /// A window as it was last heard of; one that was never opened is not here.
    pub fn desk(&self, window: &str) -> Option<&Desk> {
        self.desks.get(window).map(Arc::as_ref)
    }

    /// By number.
    pub fn desks(&self) -> impl Iterator<Item = &Desk> {
        self.desks.values().map(Arc::as_ref)
    }

    fn put(&mut self, ticket: Arc<Ticket>) {
        self.take_out(&ticket.ticket);
        let name = &ticket.ticket;
        match &ticket.state {
            TicketState::Waiting => {
                self.waiting.entry(order::lane(&ticket)).or_default().insert(order::turn(&ticket));
            }
            TicketState::Called { window, .. } | TicketState::InService { window, .. } => {
                self.windows.insert((name.day, window.clone()), name.clone());
            }
            TicketState::PutOff { until_ms } => {
                self.dues.insert((*until_ms, Due::Back(name.clone())));
            }
            TicketState::Finished { .. } | TicketState::Closed { .. } => {}
        }
        if !ticket.state.is_final() {
            self.open.insert(name.clone());
        }
        if let Some(outside) = &ticket.outside {
            self.outside.insert((name.day, outside.clone()), name.clone());
        }
        self.tickets.insert(name.clone(), ticket);
    }

    fn take_out(&mut self, name: &TicketRef) {
        self.old.remove(name);
        let Some(ticket) = self.tickets.remove(name) else { return };
        match &ticket.state {
            TicketState::Waiting => {
                let lane = order::lane(&ticket);
                if let Some(turns) = self.waiting.get_mut(&lane) {
                    turns.remove(&order::turn(&ticket));
                    if turns.is_empty() {
                        self.waiting.remove(&lane);
                    }
                }
            }
            TicketState::Called { window, .. } | TicketState::InService { window, .. } => {
                self.windows.remove(&(name.day, window.clone()));
            }
            TicketState::PutOff { until_ms } => {
                self.dues.remove(&(*until_ms, Due::Back(name.clone())));
            }
            TicketState::Finished { .. } | TicketState::Closed { .. } => {}
        }
        self.open.remove(name);
        if let Some(outside) = &ticket.outside {
            self.outside.remove(&(name.day, outside.clone()));
        }
    }

    /// A ticket in the old form.
    fn put_old(&mut self, old: &Arc<TicketV1>) {
        self.put(Arc::new(Ticket::from(&**old)));
        self.old.insert(old.ticket.clone(), Arc::clone(old));
    }

    /// The counters of the day move on with a ticket that is taken.
    fn number(&mut self, name: &TicketRef, sequence: u64) {
        if self.root.day != Some(name.day) {
            self.root.day = Some(name.day);
            self.root.last_numbers.clear();
        }
        self.root.last_sequence = sequence;
        let mut letters = name.number.chars();
        let letter = letters.next().unwrap_or('?');
        let last = letters.as_str().parse().unwrap_or(TICKETS_PER_LETTER_MAX);
        self.root.last_numbers.insert(letter, last);
    }

    fn moved(&mut self, moved: &Moved, meta: &EventMeta) {
        if moved.what == Move::Taken {
            self.number(&moved.ticket.ticket, moved.ticket.sequence);
        }
        self.put(Arc::clone(&moved.ticket));
        if let Some(entry) = BoardEntry::of(moved, meta.time_ms) {
            self.put_on_board(Arc::new(entry));
        }
        if let Some(counted) = &moved.counted {
            self.count(counted);
        }
    }

    /// Parts that are swept away: not tickets, which [`Event::Swept`] names.
    fn clear(&mut self, part: &str) {
        self.seen.remove(part);
        self.tallies.remove(part);
        match part.split_once(':') {
            Some(("booking", name)) => {
                if let Some(name) = BookingRef::parse(name) {
                    self.take_booking_out(&name);
                }
            }
            Some(("day", day)) => {
                if let Ok(day) = day.parse() {
                    self.ends.remove(&day);
                }
            }
            _ => {}
        }
    }
}

impl Entity for Queue {
    const KIND: Kind = Kind::Queue;
    type Command = Command;
    type Event = Event;
    type Reply = Reply;
    type Root = Root;
    type Part = Part;

    fn empty(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            root: Root::default(),
            tickets: BTreeMap::new(),
            old: BTreeMap::new(),
            desks: BTreeMap::new(),
            bookings: BTreeMap::new(),
            board: BTreeMap::new(),
            tallies: BTreeMap::new(),
            seen: BTreeMap::new(),
            work: BTreeMap::new(),
            ends: BTreeMap::new(),
            waiting: BTreeMap::new(),
            windows: BTreeMap::new(),
            open: BTreeSet::new(),
            dues: BTreeSet::new(),
            slots: BTreeMap::new(),
            outside: BTreeMap::new(),
            loads: BTreeMap::new(),
        }
    }

    fn exists(&self) -> bool {
        self.root.day.is_some()
            || !self.bookings.is_empty()
            || !self.desks.is_empty()
            || !self.work.is_empty()
            || !self.ends.is_empty()
            || !self.seen.is_empty()
    }

    fn decide(&self, command: &Command, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        level::needs(command.level(), context)?;
        let at = self.at(context)?;
        let decision = self.command(command, &at)?;
        // Whom an officer just returned is not called in the same breath.
        let returned = matches!(command, Command::ReturnToQueue { .. });
        Ok(if returned { decision } else { self.with_calls_by_load(decision, &at) })
    }

    fn receive(
        &self,
        source: &EntityRef,
        message: &Message,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        self.take_message(source, message, context)
    }

    fn fire(&self, timer: &str, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        self.take_timer(timer, context)
    }

    fn evolve(&mut self, event: &Event, meta: &EventMeta) {
        match event {
            Event::TicketTaken(ticket) => {
                self.number(&ticket.ticket, ticket.sequence);
                self.put_old(ticket);
            }
            Event::TicketCalled(ticket)
            | Event::ServiceBegun(ticket)
            | Event::TicketFinished(ticket)
            | Event::CaseLinked(ticket) => self.put_old(ticket),
            Event::Swept { tickets } => {
                for ticket in tickets {
                    self.take_out(ticket);
                }
            }
            Event::Moved(moved) => self.moved(moved, meta),
            Event::WindowChanged(desk) => self.put_desk(Arc::clone(desk)),
            Event::BookingChanged(booking) => self.put_booking(Arc::clone(booking)),
            Event::OutsideTaken(seen) => {
                self.seen.insert(seen.part_name(), Arc::clone(seen));
            }
            Event::CaseGiven(work) => self.give(Arc::clone(work)),
            Event::CaseLeft { case } => self.ungive(case),
            Event::DayClosed(end) => {
                self.ends.insert(end.day, Arc::clone(end));
            }
            Event::StatisticsFolded { parts } => self.fold_tallies(parts),
            Event::Cleared { parts } => {
                for part in parts {
                    self.clear(part);
                }
            }
            Event::Woke => {}
        }
    }

    fn touched(event: &Event) -> Vec<PartName> {
        match event {
            Event::TicketTaken(ticket)
            | Event::TicketCalled(ticket)
            | Event::ServiceBegun(ticket)
            | Event::TicketFinished(ticket)
            | Event::CaseLinked(ticket) => vec![ticket.ticket.part_name()],
            Event::Swept { tickets } => tickets.iter().map(TicketRef::part_name).collect(),
            Event::Moved(moved) => {
                let mut parts = vec![moved.ticket.ticket.part_name()];
                if moved.board > 0 {
                    parts.push(board::part_name(moved.board));
                }
                parts.extend(moved.counted.iter().flat_map(|counted| counted.parts()));
                parts
            }
            Event::WindowChanged(desk) => vec![desk.part_name()],
            Event::BookingChanged(booking) => vec![booking.booking.part_name()],
            Event::OutsideTaken(seen) => vec![seen.part_name()],
            Event::CaseGiven(work) => vec![officers::part_name(&work.case)],
            Event::CaseLeft { case } => vec![officers::part_name(case)],
            Event::DayClosed(end) => vec![end.part_name()],
            Event::StatisticsFolded { parts } => {
                let months: BTreeSet<_> =
                    parts.iter().filter_map(|part| statistics::month_part(part)).collect();
                parts.iter().cloned().chain(months).collect()
            }
            Event::Cleared { parts } => parts.clone(),
            Event::Woke => Vec::new(),
        }
    }

    fn root(&self) -> Root {
        self.root.clone()
    }

    fn part(&self, name: &str) -> Option<Part> {
        let (kind, key) = name.split_once(':')?;
        match kind {
            "ticket" => {
                let (day, number) = key.split_once(':')?;
                let ticket = TicketRef { day: day.parse().ok()?, number: number.to_owned() };
                match self.old.get(&ticket) {
                    Some(old) => Some(Part::Ticket(Arc::clone(old))),
                    None => self.tickets.get(&ticket).cloned().map(Part::Visit),
                }
            }
            "window" => self.desks.get(key).cloned().map(Part::Window),
            "booking" => self.bookings.get(&BookingRef::parse(key)?).cloned().map(Part::Booking),
            "board" => self.board_part(key).map(Part::Board),
            "stats" => self.tally_part(name),
            "seen" => self.seen.get(name).cloned().map(Part::Seen),
            "work" => self.work.get(key).cloned().map(Part::Work),
            "day" => self.ends.get(&key.parse().ok()?).cloned().map(Part::Day),
            _ => None,
        }
    }

    fn load(id: &str, root: Root, parts: Vec<(PartName, Part)>) -> Self {
        let mut queue = Self { root, ..Self::empty(id) };
        for (name, part) in parts {
            match part {
                Part::Ticket(ticket) => queue.put_old(&ticket),
                Part::Visit(ticket) => queue.put(ticket),
                Part::Window(desk) => queue.put_desk(desk),
                Part::Booking(booking) => queue.put_booking(booking),
                Part::Board(entry) => {
                    queue.board.insert(entry.sequence, entry);
                }
                Part::Tally(tally) => {
                    queue.tallies.insert(name, tally);
                }
                Part::Seen(seen) => {
                    queue.seen.insert(name, seen);
                }
                Part::Work(work) => queue.give(work),
                Part::Day(end) => {
                    queue.ends.insert(end.day, end);
                }
            }
        }
        queue
    }

    /// None: who lists a queue's tickets reads the queue's parts.
    fn rows(&self, _part: Option<&str>) -> Vec<Row> {
        Vec::new()
    }

    fn level(event: &Event) -> u32 {
        match event {
            Event::TicketTaken(_)
            | Event::TicketCalled(_)
            | Event::ServiceBegun(_)
            | Event::TicketFinished(_)
            | Event::CaseLinked(_)
            | Event::Swept { .. } => FIRST_LEVEL,
            Event::Moved(_)
            | Event::WindowChanged(_)
            | Event::BookingChanged(_)
            | Event::OutsideTaken(_)
            | Event::CaseGiven(_)
            | Event::CaseLeft { .. }
            | Event::DayClosed(_)
            | Event::StatisticsFolded { .. }
            | Event::Cleared { .. }
            | Event::Woke => level::QUEUE,
        }
    }

    fn no_reply() -> Reply {
        Reply::None
    }

    fn authorise(&self, command: &Command, context: &Context<'_>) -> Result<(), Refusal> {
        let office = &self.id;
        let denied = || Err(access::denied(context));
        match context.origin.principal.kind.as_str() {
            "operator" => match command {
                Command::Unattended { .. } | Command::Attended { .. } | Command::Outside(_) => denied(),
                Command::CloseDay => access::head_of(context, office),
                _ => access::officer_of(context, office),
            },
            "workstation" => {
                let own = access::workstation_of(context, office)?;
                match at_window(command) {
                    Scope::Window(window) if *window != own.number => {
                        Err(access::denied(context).with("window", own.number.clone()))
                    }
                    Scope::Window(_) | Scope::Visitor | Scope::Hall => Ok(()),
                    Scope::Keeper | Scope::Head | Scope::Outside => denied(),
                }
            }
            "kiosk" => match at_window(command) {
                Scope::Visitor => {
                    access::kiosk_of(context, office)?;
                    self.own_booking(command, context)
                }
                _ => denied(),
            },
            "portal" => match command {
                Command::Book { .. } | Command::CancelBooking { .. } => self.own_booking(command, context),
                _ => denied(),
            },
            "connector" => match command {
                Command::Book { .. } | Command::CancelBooking { .. } => self.own_booking(command, context),
                Command::Outside(event) => {
                    let settings = context.directory.queue_settings(office);
                    if settings.may_tell(&event.system, &context.origin.principal.id) {
                        Ok(())
                    } else {
                        Err(refuse(OUTSIDE_FOREIGN).with("system", event.system.clone()))
                    }
                }
                _ => denied(),
            },
            "node" => match at_window(command) {
                Scope::Keeper => Ok(()),
                _ => denied(),
            },
            _ => denied(),
        }
    }
}

impl Queue {
    /// From outside only whoever booked may cancel; who works in the office may for anybody. A booking that is not known
    /// is for the decision to refuse.
    fn own_booking(&self, command: &Command, context: &Context<'_>) -> Result<(), Refusal> {
        let Command::CancelBooking { booking } = command else { return Ok(()) };
        match self.booking(booking) {
            Some(known) if known.booked_by != context.origin.principal => {
                Err(access::denied(context).with("expected", "whoever booked it"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Whose business a command is.
enum Scope<'a> {
    /// The window's that gives it.
    Window(&'a String),
    /// A visitor's, at a kiosk.
    Visitor,
    /// Any officer's of the hall.
    Hall,
    /// The keeper's of the workstations' leases.
    Keeper,
    Head,
    Outside,
}

fn at_window(command: &Command) -> Scope<'_> {
    match command {
        Command::TakeTicket { .. }
        | Command::Book { .. }
        | Command::CancelBooking { .. }
        | Command::CheckIn { .. } => Scope::Visitor,
        Command::CallNext { window }
        | Command::Begin { window, .. }
        | Command::Finish { window, .. }
        | Command::CallNumber { window, .. }
        | Command::CallAgain { window, .. }
        | Command::PutOff { window, .. }
        | Command::Redirect { window, .. }
        | Command::ReturnToQueue { window, .. }
        | Command::OpenWindow { window }
        | Command::CloseWindow { window }
        | Command::StartBreak { window, .. } => Scope::Window(window),
        Command::Bind { .. } | Command::Leave { .. } => Scope::Hall,
        Command::Unattended { .. } | Command::Attended { .. } => Scope::Keeper,
        Command::CloseDay => Scope::Head,
        Command::Outside(_) => Scope::Outside,
    }
}
