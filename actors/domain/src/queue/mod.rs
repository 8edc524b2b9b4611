//! The electronic queue of an office (R-Q1, R-Q2, R-Q4, R-Q6, R-Q8, R-Q9, R-Q12). One entity per office:
//! `queue/<office code>`; tickets are its parts.
//!
//! Invariants:
//! - a ticket's number is unique within office and day; its sequence within the queue for ever;
//! - `waiting` holds exactly the tickets in state waiting, by letter and then in the order they will be called;
//! - `windows` holds exactly the tickets called or in service: one a window and day at most;
//! - tickets of past days are never called; sweeps remove them some at a time.

mod decide;
mod types;

pub use types::{
    CASES_PER_TICKET_MAX, Command, Event, Part, Purpose, Reply, Root, SWEEP_TICKETS_MAX,
    TICKETS_PER_LETTER_MAX, Ticket, TicketRef, TicketState, VisitOutcome,
};

use crate::{
    access,
    entity::{Context, Decision, Entity, EntityRef, EventMeta, Kind, PartName, Refusal, Row},
    message::Message,
};
use jiff::civil::Date;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Where a waiting ticket stands in the order of calls: priority first, then as they came.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    day: Date,
    without_priority: bool,
    sequence: u64,
    ticket: TicketRef,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The office.
    id: String,
    root: Root,
    tickets: BTreeMap<TicketRef, Arc<Ticket>>,
    /// By letter; follows from `tickets`.
    waiting: BTreeMap<char, BTreeSet<Turn>>,
    /// By day and window; follows from `tickets`.
    windows: BTreeMap<(Date, String), TicketRef>,
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

    /// The ticket a window has called or serves on the queue's day.
    pub fn at_window(&self, window: &str) -> Option<&Ticket> {
        self.root.day.and_then(|day| self.held_by(window, day))
    }

    fn held_by(&self, window: &str, day: Date) -> Option<&Ticket> {
        self.windows.get(&(day, window.to_owned())).and_then(|ticket| self.ticket(ticket))
    }

    /// The first in turn of a letter on a day.
    fn first_waiting(&self, letter: char, day: Date) -> Option<&Turn> {
        let ticket = TicketRef { day, number: String::new() };
        let from = Turn { day, without_priority: false, sequence: 0, ticket };
        self.waiting.get(&letter)?.range(from..).next().filter(|turn| turn.day == day)
    }

    /// How many of the queue's day wait.
    pub fn waiting_count(&self) -> usize {
        let Some(day) = self.root.day else { return 0 };
        self.waiting.values().map(|turns| turns.iter().filter(|turn| turn.day == day).count()).sum()
    }

    fn put(&mut self, ticket: Arc<Ticket>) {
        self.take_out(&ticket.ticket);
        match &ticket.state {
            TicketState::Waiting => {
                self.waiting.entry(ticket.letter()).or_default().insert(turn(&ticket));
            }
            TicketState::Called { window, .. } | TicketState::InService { window, .. } => {
                self.windows.insert((ticket.ticket.day, window.clone()), ticket.ticket.clone());
            }
            TicketState::Finished { .. } => {}
        }
        self.tickets.insert(ticket.ticket.clone(), ticket);
    }

    fn take_out(&mut self, name: &TicketRef) {
        let Some(old) = self.tickets.remove(name) else { return };
        if let Some(turns) = self.waiting.get_mut(&old.letter()) {
            turns.remove(&turn(&old));
            if turns.is_empty() {
                self.waiting.remove(&old.letter());
            }
        }
        if let Some(window) = old.state.occupies() {
            self.windows.remove(&(name.day, window.to_owned()));
        }
    }
}

fn turn(ticket: &Ticket) -> Turn {
    Turn {
        day: ticket.ticket.day,
        without_priority: !ticket.priority,
        sequence: ticket.sequence,
        ticket: ticket.ticket.clone(),
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
            waiting: BTreeMap::new(),
            windows: BTreeMap::new(),
        }
    }

    fn exists(&self) -> bool {
        self.root.day.is_some()
    }

    fn decide(&self, command: &Command, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        match command {
            Command::TakeTicket { purpose, service, category } => {
                self.take_ticket(*purpose, service, category, context)
            }
            Command::CallNext { window } => self.call_next(window, context),
            Command::Begin { ticket, window } => self.begin(ticket, window, context),
            Command::Finish { ticket, window, outcome } => self.finish(ticket, window, *outcome, context),
        }
    }

    fn receive(
        &self,
        source: &EntityRef,
        message: &Message,
        _context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        self.take_message(source, message)
    }

    fn fire(&self, timer: &str, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        self.sweep(timer, context)
    }

    fn evolve(&mut self, event: &Event, _meta: &EventMeta) {
        match event {
            Event::TicketTaken(ticket) => {
                let TicketRef { day, number } = &ticket.ticket;
                if self.root.day != Some(*day) {
                    self.root.day = Some(*day);
                    self.root.last_numbers.clear();
                }
                self.root.last_sequence = ticket.sequence;
                let digits: String = number.chars().skip(1).collect();
                self.root
                    .last_numbers
                    .insert(ticket.letter(), digits.parse().unwrap_or(TICKETS_PER_LETTER_MAX));
                self.put(Arc::clone(ticket));
            }
            Event::TicketCalled(ticket)
            | Event::ServiceBegun(ticket)
            | Event::TicketFinished(ticket)
            | Event::CaseLinked(ticket) => self.put(Arc::clone(ticket)),
            Event::Swept { tickets } => {
                for ticket in tickets {
                    self.take_out(ticket);
                }
            }
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
        }
    }

    fn root(&self) -> Root {
        self.root.clone()
    }

    fn part(&self, name: &str) -> Option<Part> {
        let (day, number) = name.strip_prefix("ticket:")?.split_once(':')?;
        let ticket = TicketRef { day: day.parse().ok()?, number: number.to_owned() };
        self.tickets.get(&ticket).cloned().map(Part::Ticket)
    }

    fn load(id: &str, root: Root, parts: Vec<(PartName, Part)>) -> Self {
        let mut queue = Self { root, ..Self::empty(id) };
        for (_, Part::Ticket(ticket)) in parts {
            queue.put(ticket);
        }
        queue
    }

    /// None: who lists a queue's tickets reads the queue's parts.
    fn rows(&self, _part: Option<&str>) -> Vec<Row> {
        Vec::new()
    }

    fn no_reply() -> Reply {
        Reply::None
    }

    fn authorise(&self, command: &Command, context: &Context<'_>) -> Result<(), Refusal> {
        let office = &self.id;
        match context.origin.principal.kind.as_str() {
            "operator" => access::officer_of(context, office),
            "workstation" => {
                let own = access::workstation_of(context, office)?;
                match command {
                    Command::TakeTicket { .. } => Ok(()),
                    Command::CallNext { window }
                    | Command::Begin { window, .. }
                    | Command::Finish { window, .. } => {
                        if *window == own.number {
                            Ok(())
                        } else {
                            Err(access::denied(context).with("window", own.number.clone()))
                        }
                    }
                }
            }
            "kiosk" => match command {
                Command::TakeTicket { .. } => access::kiosk_of(context, office),
                Command::CallNext { .. } | Command::Begin { .. } | Command::Finish { .. } => {
                    Err(access::denied(context))
                }
            },
            _ => Err(access::denied(context)),
        }
    }
}
