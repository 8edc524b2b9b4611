//! The decisions of a queue.

use super::{
    CASES_PER_TICKET_MAX, Event, Purpose, Queue, Reply, SWEEP_TICKETS_MAX, TICKETS_PER_LETTER_MAX, Ticket,
    TicketRef, TicketState, VisitOutcome,
};
use crate::{
    directory::{Office, Window},
    entity::{Context, Decision, EntityRef, Kind, Refusal, Send, TimerChange},
    message::Message,
    refusal::{
        CATEGORY_UNKNOWN, MESSAGE_UNEXPECTED, OFFICE_UNKNOWN, QUEUE_EMPTY, SERVICE_INACTIVE, SERVICE_UNKNOWN,
        TICKET_CASES_LIMIT, TICKET_STATE, TICKET_UNKNOWN, TICKETS_EXHAUSTED, TIMER_UNKNOWN, WINDOW_BUSY,
        WINDOW_OTHER, WINDOW_UNKNOWN, refuse,
    },
    time::{local_date, local_hour_ms, plus_days},
};
use jiff::civil::Date;
use std::sync::Arc;

/// The timer by which tickets of past days leave.
const SWEEP_TIMER: &str = "sweep";
/// Local hour of the first sweep: every office is closed then.
const SWEEP_HOUR: i8 = 3;
/// Between two sweeps of one night: lets other commits pass.
const SWEEP_PAUSE_MS: i64 = 1_000;

impl Queue {
    pub(super) fn take_ticket(
        &self,
        purpose: Purpose,
        service: &str,
        category: &str,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let office = self.known_office(context)?;
        let letter = letter(purpose, service, context)?;
        let priority = !category.is_empty();
        if priority && !office.priority_categories.iter().any(|known| known == category) {
            return Err(refuse(CATEGORY_UNKNOWN).with("category", office.priority_categories.join(", ")));
        }
        let day = self.today(office.utc_offset_minutes, context);
        let counted = self.root.day == Some(day);
        let last = if counted { self.root.last_numbers.get(&letter).copied().unwrap_or(0) } else { 0 };
        if last >= TICKETS_PER_LETTER_MAX {
            return Err(refuse(TICKETS_EXHAUSTED).with("letter", letter.to_string()));
        }
        let ticket = Arc::new(Ticket {
            ticket: TicketRef { day, number: format!("{letter}{:03}", last + 1) },
            purpose,
            service: service.to_owned(),
            category: category.to_owned(),
            priority,
            sequence: self.root.last_sequence + 1,
            taken_ms: context.now_ms,
            state: TicketState::Waiting,
            cases: Vec::new(),
        });
        let ahead = self.ahead(&ticket);
        let mut decision =
            done(vec![Event::TicketTaken(Arc::clone(&ticket))], Reply::Taken { ticket, ahead });
        // While there are tickets a sweep is set; it sets the next one itself.
        if self.tickets.is_empty() {
            let due_ms = local_hour_ms(plus_days(day, 1), SWEEP_HOUR, office.utc_offset_minutes);
            decision.timers.push(TimerChange::Set { name: SWEEP_TIMER.to_owned(), due_ms });
        }
        Ok(decision)
    }

    pub(super) fn call_next(&self, window: &str, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        let office = self.known_office(context)?;
        let place = self.known_window(window, context)?;
        let day = self.today(office.utc_offset_minutes, context);
        if let Some(held) = self.held_by(window, day) {
            return Err(refuse(WINDOW_BUSY)
                .with("ticket", held.ticket.number.clone())
                .with("state", held.state.name()));
        }
        let next = self
            .waiting
            .keys()
            .filter(|letter| serves(place, **letter))
            .filter_map(|letter| self.first_waiting(*letter, day))
            .min_by_key(|turn| (turn.without_priority, turn.sequence))
            .and_then(|turn| self.ticket(&turn.ticket))
            .ok_or_else(|| refuse(QUEUE_EMPTY).with("window", window))?;
        let ticket =
            next.in_state(TicketState::Called { window: window.to_owned(), called_ms: context.now_ms });
        Ok(done(vec![Event::TicketCalled(Arc::clone(&ticket))], Reply::Ticket(ticket)))
    }

    pub(super) fn begin(
        &self,
        ticket: &TicketRef,
        window: &str,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let office = self.known_office(context)?;
        self.known_window(window, context)?;
        let ticket = self.known_ticket(ticket)?;
        let today = self.today(office.utc_offset_minutes, context);
        if ticket.ticket.day != today {
            return Err(wrong_state(&ticket.state, &format!("a ticket of {today}")));
        }
        match &ticket.state {
            TicketState::Called { window: at, called_ms } => {
                same_window(at, window)?;
                let state = TicketState::InService {
                    window: at.clone(),
                    called_ms: *called_ms,
                    begun_ms: context.now_ms,
                };
                let ticket = ticket.in_state(state);
                Ok(done(vec![Event::ServiceBegun(Arc::clone(&ticket))], Reply::Ticket(ticket)))
            }
            other @ (TicketState::Waiting | TicketState::InService { .. } | TicketState::Finished { .. }) => {
                Err(wrong_state(other, "called"))
            }
        }
    }

    pub(super) fn finish(
        &self,
        ticket: &TicketRef,
        window: &str,
        outcome: VisitOutcome,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        self.known_window(window, context)?;
        let ticket = self.known_ticket(ticket)?;
        let (at, called_ms, begun_ms) = match (&ticket.state, outcome) {
            (TicketState::InService { window, called_ms, begun_ms }, VisitOutcome::Served) => {
                (window, *called_ms, Some(*begun_ms))
            }
            (TicketState::Called { window, called_ms }, VisitOutcome::NoShow) => (window, *called_ms, None),
            (state, VisitOutcome::Served) => return Err(wrong_state(state, "in-service")),
            (state, VisitOutcome::NoShow) => return Err(wrong_state(state, "called")),
        };
        same_window(at, window)?;
        let state =
            TicketState::Finished { window: at.clone(), called_ms, begun_ms, finished_ms: context.now_ms };
        let ticket = ticket.in_state(state);
        Ok(done(vec![Event::TicketFinished(Arc::clone(&ticket))], Reply::Ticket(ticket)))
    }

    /// A case says it was opened from a ticket: the ticket remembers it, the case is told.
    pub(super) fn take_message(
        &self,
        source: &EntityRef,
        message: &Message,
    ) -> Result<Decision<Self>, Refusal> {
        match message {
            Message::CaseOpened { ticket: name } if source.kind == Kind::Case => {
                let ticket = self.known_ticket(name)?;
                // The visitor may be served and gone by the time the message comes.
                if ticket.state == TicketState::Waiting {
                    return Err(wrong_state(&ticket.state, "called, in-service, finished"));
                }
                let answer =
                    Send { target: source.clone(), message: Message::TicketLinked { ticket: name.clone() } };
                let mut decision = done(Vec::new(), Reply::None);
                if !ticket.cases.contains(&source.id) {
                    if ticket.cases.len() >= CASES_PER_TICKET_MAX {
                        return Err(refuse(TICKET_CASES_LIMIT)
                            .with("cases", format!("at most {CASES_PER_TICKET_MAX}")));
                    }
                    let mut linked = ticket.clone();
                    linked.cases.push(source.id.clone());
                    decision.events.push(Event::CaseLinked(Arc::new(linked)));
                }
                decision.sends.push(answer);
                Ok(decision)
            }
            Message::CaseOpened { .. } | Message::TicketLinked { .. } | Message::Refused { .. } => {
                Err(refuse(MESSAGE_UNEXPECTED)
                    .with("message", message.name())
                    .with("source", source.to_string()))
            }
        }
    }

    /// Removes some tickets of past days; comes again soon while there are more.
    pub(super) fn sweep(&self, timer: &str, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        if timer != SWEEP_TIMER {
            return Err(refuse(TIMER_UNKNOWN).with("timer", timer));
        }
        // The office may have left the directory: its tickets leave all the same.
        let offset_minutes = context.directory.office(&self.id).map_or(0, |office| office.utc_offset_minutes);
        let today = self.today(offset_minutes, context);
        let mut past = self.tickets.keys().filter(|ticket| ticket.day < today);
        let tickets: Vec<_> = past.by_ref().take(SWEEP_TICKETS_MAX).cloned().collect();
        let due_ms = if past.next().is_some() {
            Some(context.now_ms + SWEEP_PAUSE_MS)
        } else if self.tickets.len() > tickets.len() {
            Some(local_hour_ms(plus_days(today, 1), SWEEP_HOUR, offset_minutes))
        } else {
            None
        };
        // Setting a timer takes an event, even an empty one (entity.rs).
        let quiet = tickets.is_empty() && due_ms.is_none();
        let events = if quiet { Vec::new() } else { vec![Event::Swept { tickets }] };
        let mut decision = done(events, Reply::None);
        decision
            .timers
            .extend(due_ms.map(|due_ms| TimerChange::Set { name: SWEEP_TIMER.to_owned(), due_ms }));
        Ok(decision)
    }

    fn ahead(&self, ticket: &Ticket) -> u32 {
        // A ticket without priority is behind everybody of its day, one with priority behind its like.
        let ahead = self
            .waiting
            .values()
            .flatten()
            .filter(|turn| turn.day == ticket.ticket.day && (!ticket.priority || !turn.without_priority))
            .count();
        u32::try_from(ahead).unwrap_or(u32::MAX)
    }

    /// The office's date, never before the queue's day: an office that moves to another offset repeats no number.
    fn today(&self, offset_minutes: i32, context: &Context<'_>) -> Date {
        let date = local_date(context.now_ms, offset_minutes);
        self.root.day.map_or(date, |day| day.max(date))
    }

    fn known_office<'a>(&self, context: &Context<'a>) -> Result<&'a Office, Refusal> {
        context
            .directory
            .office(&self.id)
            .ok_or_else(|| refuse(OFFICE_UNKNOWN).with("office", self.id.clone()))
    }

    fn known_window<'a>(&self, window: &str, context: &Context<'a>) -> Result<&'a Window, Refusal> {
        let known = context.directory.window(&self.id, window);
        known.ok_or_else(|| refuse(WINDOW_UNKNOWN).with("window", window))
    }

    fn known_ticket(&self, ticket: &TicketRef) -> Result<&Ticket, Refusal> {
        let unknown = || refuse(TICKET_UNKNOWN).with("ticket", format!("{} {}", ticket.day, ticket.number));
        self.ticket(ticket).ok_or_else(unknown)
    }
}

impl Ticket {
    fn in_state(&self, state: TicketState) -> Arc<Self> {
        Arc::new(Self { state, ..self.clone() })
    }
}

fn done(events: Vec<Event>, reply: Reply) -> Decision<Queue> {
    Decision { events, reply, sends: Vec::new(), timers: Vec::new() }
}

fn letter(purpose: Purpose, service: &str, context: &Context<'_>) -> Result<char, Refusal> {
    if service.is_empty() {
        return Ok(purpose.letter());
    }
    let known = context.catalogue.service(service);
    let known = known.ok_or_else(|| refuse(SERVICE_UNKNOWN).with("service", service))?;
    match purpose {
        Purpose::Apply if !known.active => Err(refuse(SERVICE_INACTIVE).with("service", service)),
        Purpose::Apply => Ok(known.group.chars().next().unwrap_or_else(|| purpose.letter())),
        // Who asks for a status or a result goes to the windows for that, whatever the service.
        Purpose::AskStatus | Purpose::CollectResult | Purpose::Other => Ok(purpose.letter()),
    }
}

fn serves(window: &Window, letter: char) -> bool {
    window.ticket_groups.is_empty() || window.ticket_groups.iter().any(|group| group.chars().eq([letter]))
}

fn same_window(at: &str, window: &str) -> Result<(), Refusal> {
    if at == window { Ok(()) } else { Err(refuse(WINDOW_OTHER).with("window", at)) }
}

fn wrong_state(state: &TicketState, expected: &str) -> Refusal {
    refuse(TICKET_STATE).with("state", state.name()).with("expected", expected)
}
