//! Taking tickets and moving them: everything an officer or a kiosk does with one.

use super::{
    CALLS_MAX, Command, Destination, Move, Purpose, Queue, REDIRECTS_MAX, Reply, TICKETS_PER_LETTER_MAX,
    Ticket, TicketRef, TicketState, VisitOutcome,
    bookings::BookingRef,
    day,
    draft::{At, Draft},
    outside::OutsideName,
    types::Closing,
    v1,
};
use crate::{
    entity::{Context, Decision, Refusal},
    planted::{self, Fault},
    refusal::{
        CALLS_TOO_FEW, CATEGORY_UNKNOWN, FIELD_INVALID, KIOSK_REPEATS, QUEUE_EMPTY, SERVICE_INACTIVE,
        SERVICE_UNKNOWN, TICKET_BOUND, TICKET_LIMIT, TICKET_STATE, TICKET_UNKNOWN, TICKETS_EXHAUSTED,
        WINDOW_OTHER, refuse,
    },
    time::MINUTE_MS,
};
use std::sync::Arc;

/// What is known of a visitor who is registered.
pub(super) struct Visitor<'a> {
    pub purpose: Purpose,
    pub service: &'a str,
    pub category: &'a str,
    /// Weight beside the category's.
    pub weight: u8,
    /// From when on the visitor waits; not before now.
    pub wait_from_ms: i64,
    pub booking: Option<BookingRef>,
    pub outside: Option<OutsideName>,
}

impl Queue {
    pub(super) fn command(&self, command: &Command, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        match command {
            Command::TakeTicket { purpose, service, category } => {
                let visitor = Visitor {
                    purpose: *purpose,
                    service,
                    category,
                    weight: 0,
                    wait_from_ms: at.now_ms,
                    booking: None,
                    outside: None,
                };
                self.not_again(&visitor, at)?;
                let mut draft = self.draft(at);
                let ticket = self.register(&visitor, &mut draft)?;
                Ok(self.given(ticket, draft))
            }
            Command::CallNext { window } => self.call_next(window, at),
            Command::Begin { ticket, window } => self.begin(ticket, window, at),
            Command::Finish { ticket, window, outcome } => self.finish(ticket, window, *outcome, at),
            Command::CallNumber { ticket, window } => self.call_number(ticket, window, at),
            Command::CallAgain { ticket, window } => self.call_again(ticket, window, at),
            Command::PutOff { ticket, window, minutes } => self.put_off(ticket, window, *minutes, at),
            Command::Redirect { ticket, window, to } => self.redirect(ticket, window, to, at),
            Command::Bind { ticket, window } => self.bind(ticket, window, at),
            Command::ReturnToQueue { ticket, window } => self.return_to_queue(ticket, window, at),
            Command::Leave { ticket } => self.leave(ticket, at),
            Command::OpenWindow { window } => self.open_window(window, at),
            Command::CloseWindow { window } => self.close_window(window, at),
            Command::StartBreak { window, minutes } => self.start_break(window, *minutes, at),
            Command::Unattended { window, term } => self.unattended(window, *term, at),
            Command::Attended { window, term } => self.attended(window, *term, at),
            Command::Book { purpose, service, category, slot_ms, reference } => {
                self.book(*purpose, service, category, *slot_ms, reference, at)
            }
            Command::CancelBooking { booking } => self.cancel_booking(booking, at),
            Command::CheckIn { booking } => self.check_in(booking, at),
            Command::CloseDay => self.close_day(at),
            Command::Outside(event) => self.take_outside(event, at),
        }
    }

    /// A kiosk that asks for what it was just given repeats itself.
    fn not_again(&self, visitor: &Visitor<'_>, at: &At<'_>) -> Result<(), Refusal> {
        let pause_ms = i64::from(at.settings.kiosk_pause_seconds) * 1_000;
        if pause_ms == 0 || at.context.origin.principal.kind != "kiosk" {
            return Ok(());
        }
        let kiosk = caller(at.context);
        let of_kiosk = self.tickets.values().filter(|ticket| ticket.taken_by == kiosk);
        match of_kiosk.max_by_key(|ticket| ticket.sequence) {
            Some(last)
                if at.now_ms - last.taken_ms < pause_ms
                    && last.purpose == visitor.purpose
                    && last.service == visitor.service
                    && last.category == visitor.category =>
            {
                Err(refuse(KIOSK_REPEATS).with("ticket", last.ticket.number.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Gives a ticket.
    pub(super) fn register(
        &self,
        visitor: &Visitor<'_>,
        draft: &mut Draft<'_>,
    ) -> Result<Arc<Ticket>, Refusal> {
        let at = draft.at;
        let group = self.group(visitor.purpose, visitor.service, at)?;
        let weight = self.weight(visitor.category, at)?.max(visitor.weight);
        self.open_now(at)?;
        let day = at.day;
        let counted = self.root.day == Some(day);
        let last = if counted { self.root.last_numbers.get(&group).copied().unwrap_or(0) } else { 0 };
        if last >= TICKETS_PER_LETTER_MAX {
            return Err(refuse(TICKETS_EXHAUSTED).with("letter", group.to_string()));
        }
        let priority = weight > 0;
        let rank_ms = match (at.whole, priority) {
            // As release 0.2 called.
            (false, true) => i64::MIN,
            (true, true) if planted::is(Fault::CallUnbounded) => i64::MIN,
            (false, false) | (true, _) => visitor.wait_from_ms - at.settings.head_start_ms(weight),
        };
        let ticket = Ticket {
            ticket: TicketRef { day, number: format!("{group}{:03}", last + 1) },
            purpose: visitor.purpose,
            service: visitor.service.to_owned(),
            category: visitor.category.to_owned(),
            priority,
            group,
            sequence: self.root.last_sequence + 1,
            taken_ms: at.now_ms,
            wait_from_ms: visitor.wait_from_ms.max(at.now_ms),
            rank_ms,
            at_head: false,
            state: TicketState::Waiting,
            calls: 0,
            put_offs: 0,
            redirects: 0,
            revision: 0,
            called_first_ms: None,
            served_before_ms: 0,
            bound: String::new(),
            officer: String::new(),
            taken_by: caller(at.context),
            booking: visitor.booking.clone(),
            outside: visitor.outside.clone(),
            cases: Vec::new(),
        };
        let ticket = draft.moved(ticket, Move::Taken, "");
        self.keep_timers(&ticket, draft);
        Ok(ticket)
    }

    /// The timers that a new ticket needs.
    fn keep_timers(&self, ticket: &Ticket, draft: &mut Draft<'_>) {
        let at = draft.at;
        if if at.whole { self.is_bare() } else { self.tickets.is_empty() } {
            draft.set_timer(day::SWEEP_TIMER, day::next_sweep_ms(at));
        }
        // Set as long as a ticket is open; it sets the next one itself. Those taken below the level have none.
        let of_day = |open: &TicketRef| {
            let known = self.ticket(open).is_some_and(|ticket| !ticket.taken_by.is_empty());
            open.day == ticket.ticket.day && known
        };
        if at.whole && !self.open.last().is_some_and(of_day) {
            let ends_ms = at.settings.day_ends_ms(ticket.ticket.day, at.offset_minutes);
            // Those of past days are closed first, and soon.
            let past = self.open.first().is_some_and(|open| open.day < at.day);
            let ends_ms = if past { at.now_ms } else { ends_ms };
            draft.set_timer(day::CLOSE_TIMER, ends_ms.max(at.now_ms + day::PAUSE_MS));
        }
    }

    /// The reply to a visitor who was given a ticket.
    pub(super) fn given(&self, ticket: Arc<Ticket>, draft: Draft<'_>) -> Decision<Self> {
        let ahead = self.ahead(&ticket);
        let reply = if draft.at.whole { Reply::Given { ticket, ahead } } else { v1::given(&ticket, ahead) };
        draft.done(reply)
    }

    /// The letter of the group whose windows serve a visitor.
    pub(super) fn group(&self, purpose: Purpose, service: &str, at: &At<'_>) -> Result<char, Refusal> {
        if service.is_empty() {
            return Ok(purpose.letter());
        }
        let known = at.context.catalogue.service(service);
        let known = known.ok_or_else(|| refuse(SERVICE_UNKNOWN).with("service", service))?;
        match purpose {
            Purpose::Apply if !known.active => Err(refuse(SERVICE_INACTIVE).with("service", service)),
            Purpose::Apply => {
                let own = at.settings.letter(service).or_else(|| known.group.chars().next());
                Ok(own.unwrap_or_else(|| purpose.letter()))
            }
            // Who asks for a status or a result goes to the windows for that, whatever the service.
            Purpose::AskStatus | Purpose::CollectResult | Purpose::Other => Ok(purpose.letter()),
        }
    }

    /// The weight of a category; nought without one.
    pub(super) fn weight(&self, category: &str, at: &At<'_>) -> Result<u8, Refusal> {
        if category.is_empty() {
            return Ok(0);
        }
        let weighed = at.settings.categories.iter().find(|known| known.code == category);
        if let Some(known) = weighed {
            return Ok(known.weight);
        }
        let office = at.context.directory.office(&self.id);
        let named = office.map_or(&[][..], |office| &office.priority_categories);
        if named.iter().any(|known| known == category) {
            return Ok(100);
        }
        let mut known: Vec<_> = at.settings.categories.iter().map(|known| known.code.as_str()).collect();
        known.extend(named.iter().map(String::as_str));
        known.sort_unstable();
        known.dedup();
        Err(refuse(CATEGORY_UNKNOWN).with("category", known.join(", ")))
    }

    pub(super) fn call_next(&self, window: &str, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        let mut draft = self.draft(at);
        let place = self.ready(window, &mut draft)?;
        let next = self.next_for(place, at.day);
        let next = next.ok_or_else(|| refuse(QUEUE_EMPTY).with("window", window))?;
        let ticket = self.call(next, window, &mut draft);
        Ok(draft.shown(ticket))
    }

    /// A ticket goes to a window.
    pub(super) fn call(&self, ticket: &Ticket, window: &str, draft: &mut Draft<'_>) -> Arc<Ticket> {
        let now_ms = draft.at.now_ms;
        let mut ticket = ticket.clone();
        ticket.state = TicketState::Called { window: window.to_owned(), called_ms: now_ms };
        ticket.calls = 1;
        ticket.at_head = false;
        ticket.called_first_ms.get_or_insert(now_ms);
        ticket.officer = self.officer_at(window, draft.at);
        draft.moved(ticket, Move::Called, window)
    }

    fn call_number(&self, name: &TicketRef, window: &str, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        let mut draft = self.draft(at);
        self.ready(window, &mut draft)?;
        let ticket = self.ticket_of_today(name, at)?;
        match &ticket.state {
            TicketState::Waiting | TicketState::PutOff { .. } => {}
            TicketState::Called { window: other, .. } | TicketState::InService { window: other, .. } => {
                return Err(refuse(WINDOW_OTHER).with("window", other));
            }
            other @ (TicketState::Finished { .. } | TicketState::Closed { .. }) => {
                return Err(wrong_state(other, "waiting, put-off"));
            }
        }
        if !ticket.bound.is_empty() && ticket.bound != window && self.works(&ticket.bound, at.day) {
            return Err(refuse(TICKET_BOUND).with("window", ticket.bound.clone()));
        }
        let ticket = self.call(ticket, window, &mut draft);
        Ok(draft.shown(ticket))
    }

    fn call_again(&self, name: &TicketRef, window: &str, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        let mut ticket = self.called_at(name, window, at)?.clone();
        if ticket.calls >= CALLS_MAX {
            return Err(refuse(TICKET_LIMIT).with("calls", format!("at most {CALLS_MAX}")));
        }
        ticket.calls += 1;
        let mut draft = self.draft(at);
        let ticket = draft.moved(ticket, Move::CalledAgain, window);
        Ok(draft.shown(ticket))
    }

    pub(super) fn begin(
        &self,
        name: &TicketRef,
        window: &str,
        at: &At<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let mut ticket = self.called_at(name, window, at)?.clone();
        let TicketState::Called { window: place, called_ms } = &ticket.state else {
            return Err(wrong_state(&ticket.state, "called"));
        };
        ticket.state =
            TicketState::InService { window: place.clone(), called_ms: *called_ms, begun_ms: at.now_ms };
        ticket.officer = self.officer_at(window, at);
        let mut draft = self.draft(at);
        let ticket = draft.moved(ticket, Move::Begun, window);
        Ok(draft.shown(ticket))
    }

    pub(super) fn finish(
        &self,
        name: &TicketRef,
        window: &str,
        outcome: VisitOutcome,
        at: &At<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        self.known_window(window, at)?;
        let ticket = self.known_ticket(name)?;
        let (place, called_ms, begun_ms, what) = match (&ticket.state, outcome) {
            (TicketState::InService { window, called_ms, begun_ms }, VisitOutcome::Served) => {
                (window, *called_ms, Some(*begun_ms), Move::Finished)
            }
            (TicketState::Called { window, called_ms }, VisitOutcome::NoShow) => {
                (window, *called_ms, None, Move::DidNotCome)
            }
            (state, VisitOutcome::Served) => return Err(wrong_state(state, "in-service")),
            (state, VisitOutcome::NoShow) => return Err(wrong_state(state, "called")),
        };
        same_window(place, window)?;
        let calls = at.settings.calls_before_no_show;
        if at.whole && outcome == VisitOutcome::NoShow && ticket.calls < calls {
            return Err(refuse(CALLS_TOO_FEW)
                .with("calls", ticket.calls.to_string())
                .with("needed", calls.to_string()));
        }
        let mut ended = ticket.clone();
        ended.state =
            TicketState::Finished { window: place.clone(), called_ms, begun_ms, finished_ms: at.now_ms };
        let mut draft = self.draft(at);
        let ticket = draft.moved(ended, what, window);
        Ok(draft.shown(ticket))
    }

    fn put_off(
        &self,
        name: &TicketRef,
        window: &str,
        minutes: u16,
        at: &At<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let mut ticket = self.called_at(name, window, at)?.clone();
        let longest = at.settings.put_off_minutes_max;
        if !(1..=longest).contains(&minutes) {
            return Err(refuse(FIELD_INVALID).with("minutes", format!("1 to {longest}")));
        }
        let most = at.settings.put_offs_max;
        if ticket.put_offs >= most {
            return Err(refuse(TICKET_LIMIT).with("put_offs", format!("at most {most}")));
        }
        let until_ms = at.now_ms + i64::from(minutes) * MINUTE_MS;
        ticket.put_offs += 1;
        ticket.calls = 0;
        ticket.state = TicketState::PutOff { until_ms };
        let mut draft = self.draft(at);
        if !planted::is(Fault::LoseDeferredTimer) {
            draft.due(until_ms);
        }
        let ticket = draft.moved(ticket, Move::PutOff, window);
        Ok(draft.shown(ticket))
    }

    fn redirect(
        &self,
        name: &TicketRef,
        window: &str,
        to: &Destination,
        at: &At<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        self.known_window(window, at)?;
        let mut ticket = self.ticket_of_today(name, at)?.clone();
        match &ticket.state {
            TicketState::Called { window: place, .. } => same_window(place, window)?,
            TicketState::InService { window: place, begun_ms, .. } => {
                same_window(place, window)?;
                ticket.served_before_ms += (at.now_ms - begun_ms).max(0);
            }
            other @ (TicketState::Waiting
            | TicketState::PutOff { .. }
            | TicketState::Finished { .. }
            | TicketState::Closed { .. }) => return Err(wrong_state(other, "called, in-service")),
        }
        if ticket.redirects >= REDIRECTS_MAX {
            return Err(refuse(TICKET_LIMIT).with("redirects", format!("at most {REDIRECTS_MAX}")));
        }
        match to {
            Destination::Window(other) if other == window => {
                return Err(refuse(FIELD_INVALID).with("to.window", "another window"));
            }
            Destination::Window(other) => {
                self.not_closed(other, at)?;
                ticket.bound.clone_from(other);
            }
            Destination::Service(service) => {
                if service.is_empty() {
                    return Err(refuse(FIELD_INVALID).with("to.service", "not empty"));
                }
                ticket.group = self.group(Purpose::Apply, service, at)?;
                ticket.service.clone_from(service);
                ticket.bound.clear();
            }
        }
        ticket.redirects += 1;
        ticket.calls = 0;
        ticket.state = TicketState::Waiting;
        let mut draft = self.draft(at);
        let ticket = draft.moved(ticket, Move::Redirected, window);
        Ok(draft.shown(ticket))
    }

    fn bind(&self, name: &TicketRef, window: &str, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        let mut ticket = self.ticket_of_today(name, at)?.clone();
        match &ticket.state {
            TicketState::Waiting | TicketState::PutOff { .. } => {}
            other @ (TicketState::Called { .. }
            | TicketState::InService { .. }
            | TicketState::Finished { .. }
            | TicketState::Closed { .. }) => return Err(wrong_state(other, "waiting, put-off")),
        }
        if !window.is_empty() {
            self.not_closed(window, at)?;
        }
        let mut draft = self.draft(at);
        if ticket.bound == window {
            return Ok(draft.shown(Arc::new(ticket)));
        }
        window.clone_into(&mut ticket.bound);
        let ticket = draft.moved(ticket, Move::Bound, "");
        Ok(draft.shown(ticket))
    }

    fn return_to_queue(
        &self,
        name: &TicketRef,
        window: &str,
        at: &At<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let mut ticket = self.called_at(name, window, at)?.clone();
        ticket.state = TicketState::Waiting;
        ticket.calls = 0;
        let mut draft = self.draft(at);
        let ticket = draft.moved(ticket, Move::Returned, window);
        Ok(draft.shown(ticket))
    }

    pub(super) fn leave(&self, name: &TicketRef, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        let ticket = self.known_ticket(name)?;
        let window = match &ticket.state {
            TicketState::Waiting | TicketState::PutOff { .. } => "",
            TicketState::Called { window, .. } => window,
            other @ (TicketState::InService { .. }
            | TicketState::Finished { .. }
            | TicketState::Closed { .. }) => {
                return Err(wrong_state(other, "waiting, put-off, called"));
            }
        };
        let mut left = ticket.clone();
        left.state = TicketState::Closed { closed_ms: at.now_ms, why: Closing::Left };
        let mut draft = self.draft(at);
        let ticket = draft.moved(left, Move::Left, window);
        Ok(draft.shown(ticket))
    }

    pub(super) fn known_ticket(&self, ticket: &TicketRef) -> Result<&Ticket, Refusal> {
        let unknown = || refuse(TICKET_UNKNOWN).with("ticket", format!("{} {}", ticket.day, ticket.number));
        self.ticket(ticket).ok_or_else(unknown)
    }

    /// A ticket of the day: those of past days are not called any more.
    fn ticket_of_today(&self, name: &TicketRef, at: &At<'_>) -> Result<&Ticket, Refusal> {
        let ticket = self.known_ticket(name)?;
        if ticket.ticket.day == at.day {
            Ok(ticket)
        } else {
            Err(wrong_state(&ticket.state, &format!("a ticket of {}", at.day)))
        }
    }

    /// A ticket that this window has called and not begun to serve.
    fn called_at(&self, name: &TicketRef, window: &str, at: &At<'_>) -> Result<&Ticket, Refusal> {
        self.known_window(window, at)?;
        let ticket = self.ticket_of_today(name, at)?;
        match &ticket.state {
            TicketState::Called { window: place, .. } => same_window(place, window).map(|()| ticket),
            other @ (TicketState::Waiting
            | TicketState::InService { .. }
            | TicketState::Finished { .. }
            | TicketState::PutOff { .. }
            | TicketState::Closed { .. }) => Err(wrong_state(other, "called")),
        }
    }
}

/// `kind/id` of who gives a command.
pub(super) fn caller(context: &Context<'_>) -> String {
    let principal = &context.origin.principal;
    format!("{}/{}", principal.kind, principal.id)
}

fn same_window(place: &str, window: &str) -> Result<(), Refusal> {
    if place == window { Ok(()) } else { Err(refuse(WINDOW_OTHER).with("window", place)) }
}

pub(super) fn wrong_state(state: &TicketState, expected: &str) -> Refusal {
    refuse(TICKET_STATE).with("state", state.name()).with("expected", expected)
}
