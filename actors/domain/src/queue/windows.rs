//! Windows: opening, closing, breaks; workstations that are lost (R-R1); calls by load (R-C13).
//!
//! A window that nobody opened or closed today is opened by its first call. A lost workstation does not close its
//! window: attendance is kept apart, so that everything is as it was when it returns.

use super::{
    Due, Event, Move, Moved, Queue, Reply, TicketState,
    draft::{At, Draft},
};
use crate::{
    directory::Window,
    entity::{Decision, Entity, EventMeta, Refusal},
    refusal::{
        ATTENDANCE_STALE, FIELD_INVALID, WINDOW_BUSY, WINDOW_CLOSED, WINDOW_ON_BREAK, WINDOW_UNATTENDED,
        refuse,
    },
    time::MINUTE_MS,
};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Visitors called by load in one commit: the next command calls the next ones.
const CALLS_BY_LOAD_MAX: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeskState {
    Open,
    /// Over by itself: the next call ends it.
    Break {
        until_ms: i64,
    },
    Closed,
}

/// Nobody is at the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unattended {
    pub since_ms: i64,
    /// Until then a called visitor keeps standing there.
    pub until_ms: i64,
    /// The grace time is over, and whoever was called has gone back to the queue.
    pub over: bool,
}

/// A window's day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desk {
    pub window: String,
    /// On which it was last opened, closed or called from; another day is as good as none.
    pub day: Date,
    pub state: DeskState,
    pub changed_ms: i64,
    /// Who works there; empty: not known.
    pub officer: String,
    pub unattended: Option<Unattended>,
    /// Its workstation held a lease when it was last heard of. Who holds one now is in the memory of whoever rules; one
    /// who rules anew learns here whom to listen for.
    pub leased: bool,
}

impl Desk {
    pub fn part_name(&self) -> String {
        format!("window:{}", self.window)
    }

    /// What lists call its state.
    pub const fn name(&self) -> &'static str {
        match (self.unattended, self.state) {
            (Some(_), _) => "unattended",
            (None, DeskState::Open) => "open",
            (None, DeskState::Break { .. }) => "break",
            (None, DeskState::Closed) => "closed",
        }
    }
}

impl Queue {
    pub(super) fn put_desk(&mut self, desk: Arc<Desk>) {
        let grace = |desk: &Desk| {
            let waits = desk.unattended.filter(|unattended| !unattended.over)?;
            Some((waits.until_ms, Due::Grace(desk.window.clone())))
        };
        if let Some(due) = self.desks.get(&desk.window).and_then(|old| grace(old)) {
            self.dues.remove(&due);
        }
        self.dues.extend(grace(&desk));
        self.desks.insert(desk.window.clone(), desk);
    }

    /// The window's record of the day, if there is one.
    fn desk_of(&self, window: &str, day: Date) -> Option<&Desk> {
        self.desk(window).filter(|desk| desk.day == day)
    }

    /// Somebody works at the window today, or will be back soon: who is bound to it waits for it.
    pub(super) fn works(&self, window: &str, day: Date) -> bool {
        self.desk_of(window, day).is_some_and(|desk| {
            desk.state != DeskState::Closed && desk.unattended.is_none_or(|unattended| !unattended.over)
        })
    }

    /// Refuses a window to which nobody can be sent.
    pub(super) fn not_closed(&self, window: &str, at: &At<'_>) -> Result<(), Refusal> {
        self.known_window(window, at)?;
        match self.desk_of(window, at.day) {
            Some(Desk { state: DeskState::Closed, .. }) => Err(refuse(WINDOW_CLOSED).with("window", window)),
            _ => Ok(()),
        }
    }

    /// Who works at a window: the operator who calls, else whoever opened it.
    pub(super) fn officer_at(&self, window: &str, at: &At<'_>) -> String {
        let principal = &at.context.origin.principal;
        match principal.kind.as_str() {
            "operator" => principal.id.clone(),
            _ => self.desk_of(window, at.day).map_or_else(String::new, |desk| desk.officer.clone()),
        }
    }

    /// The window can call: it is known, free, open and attended. One that was not opened today is opened, and one
    /// whose break is over goes on.
    pub(super) fn ready<'a>(&self, window: &str, draft: &mut Draft<'a>) -> Result<&'a Window, Refusal> {
        let at = draft.at;
        let place = self.known_window(window, at)?;
        self.free(window, at)?;
        if !at.whole {
            return Ok(place);
        }
        let desk = self.desk(window);
        if desk.is_some_and(|desk| desk.unattended.is_some()) {
            return Err(refuse(WINDOW_UNATTENDED).with("window", window));
        }
        let officer = self.officer_at(window, at);
        match desk.filter(|desk| desk.day == at.day) {
            Some(Desk { state: DeskState::Closed, .. }) => {
                return Err(refuse(WINDOW_CLOSED).with("window", window));
            }
            Some(Desk { state: DeskState::Break { until_ms }, .. }) if *until_ms > at.now_ms => {
                return Err(refuse(WINDOW_ON_BREAK).with("until_ms", until_ms.to_string()));
            }
            Some(desk) if desk.state == DeskState::Open && desk.officer == officer => {}
            Some(_) | None => {
                let opened = Arc::new(self.desk_in(window, DeskState::Open, at));
                draft.events.push(Event::WindowChanged(opened));
            }
        }
        Ok(place)
    }

    /// Refuses a window that holds a ticket.
    fn free(&self, window: &str, at: &At<'_>) -> Result<(), Refusal> {
        self.held_by(window, at.day).map_or(Ok(()), |held| {
            Err(refuse(WINDOW_BUSY)
                .with("ticket", held.ticket.number.clone())
                .with("state", held.state.name()))
        })
    }

    /// The window in another state; attendance stays what it was.
    fn desk_in(&self, window: &str, state: DeskState, at: &At<'_>) -> Desk {
        Desk {
            window: window.to_owned(),
            day: at.day,
            state,
            changed_ms: at.now_ms,
            officer: self.officer_at(window, at),
            unattended: self.desk(window).and_then(|desk| desk.unattended),
            leased: self.desk(window).is_some_and(|desk| desk.leased),
        }
    }

    fn set_desk(&self, desk: Desk, at: &At<'_>) -> Decision<Self> {
        let mut draft = self.draft(at);
        match self.desks.get(&desk.window) {
            // Said again: nothing changes, and since when stays what it was.
            Some(known) if Desk { changed_ms: known.changed_ms, ..desk.clone() } == **known => {
                draft.done(Reply::Window(Arc::clone(known)))
            }
            _ => {
                let desk = Arc::new(desk);
                draft.events.push(Event::WindowChanged(Arc::clone(&desk)));
                draft.done(Reply::Window(desk))
            }
        }
    }

    pub(super) fn open_window(&self, window: &str, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        self.known_window(window, at)?;
        // Somebody stands there and says so. A workstation that was taken out of the directory never will.
        let desk = Desk { unattended: None, ..self.desk_in(window, DeskState::Open, at) };
        Ok(self.set_desk(desk, at))
    }

    pub(super) fn close_window(&self, window: &str, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        self.known_window(window, at)?;
        self.free(window, at)?;
        Ok(self.set_desk(self.desk_in(window, DeskState::Closed, at), at))
    }

    pub(super) fn start_break(
        &self,
        window: &str,
        minutes: u16,
        at: &At<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        self.known_window(window, at)?;
        let longest = at.settings.break_minutes_max;
        if !(1..=longest).contains(&minutes) {
            return Err(refuse(FIELD_INVALID).with("minutes", format!("1 to {longest}")));
        }
        self.free(window, at)?;
        self.not_closed(window, at)?;
        let until_ms = at.now_ms + i64::from(minutes) * MINUTE_MS;
        Ok(self.set_desk(self.desk_in(window, DeskState::Break { until_ms }, at), at))
    }

    /// The window's workstation is lost. Whoever it has called stays there for the grace time and then goes back to
    /// the head; whoever is being served stays. Said again, nothing happens: the grace time runs from the first.
    pub(super) fn unattended(&self, window: &str, term: u64, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        self.known_window(window, at)?;
        of_this_term(term, at)?;
        let mut draft = self.draft(at);
        let mut desk = self.desk_or_new(window, at);
        let leased = std::mem::take(&mut desk.leased);
        let receives = desk.day == at.day && desk.state != DeskState::Closed;
        let lost = desk.unattended.is_none() && (receives || self.held_by(window, at.day).is_some());
        if !lost && !leased {
            return Ok(draft.done(Reply::Window(Arc::new(desk))));
        }
        if lost {
            let grace_ms = i64::from(at.settings.unattended_grace_seconds) * 1_000;
            let until_ms = at.now_ms + grace_ms;
            desk.unattended = Some(Unattended { since_ms: at.now_ms, until_ms, over: false });
            draft.due(until_ms);
        }
        let desk = Arc::new(desk);
        draft.events.push(Event::WindowChanged(Arc::clone(&desk)));
        Ok(draft.done(Reply::Window(desk)))
    }

    /// The window's workstation is there, or back: within the grace time its visitor is still there, after it the window
    /// is free.
    pub(super) fn attended(&self, window: &str, term: u64, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        self.known_window(window, at)?;
        of_this_term(term, at)?;
        let mut draft = self.draft(at);
        let mut desk = self.desk_or_new(window, at);
        let missed = desk.unattended.take().is_some();
        if missed || !std::mem::replace(&mut desk.leased, true) {
            desk.leased = true;
            draft.events.push(Event::WindowChanged(Arc::new(desk.clone())));
        }
        Ok(draft.done(Reply::Window(Arc::new(desk))))
    }

    fn desk_or_new(&self, window: &str, at: &At<'_>) -> Desk {
        // A window of release 0.2 that holds a ticket has no record yet: it works. Any other was not opened today, and
        // is as if it had been closed the day before: the first call opens it.
        let works = self.held_by(window, at.day).is_some();
        let yesterday = || at.day.yesterday().unwrap_or(at.day);
        self.desk(window).cloned().unwrap_or_else(|| Desk {
            window: window.to_owned(),
            day: if works { at.day } else { yesterday() },
            state: if works { DeskState::Open } else { DeskState::Closed },
            changed_ms: at.now_ms,
            officer: String::new(),
            unattended: None,
            leased: false,
        })
    }

    /// The grace time of a window is over.
    pub(super) fn grace_over(&self, window: &str, draft: &mut Draft<'_>) {
        let Some(desk) = self.desk(window) else { return };
        let mut desk = desk.clone();
        if let Some(unattended) = &mut desk.unattended {
            unattended.over = true;
        }
        draft.events.push(Event::WindowChanged(Arc::new(desk)));
        let held = self.held_by(window, draft.at.day);
        if let Some(held) = held.filter(|held| matches!(held.state, TicketState::Called { .. })) {
            let mut ticket = held.clone();
            ticket.state = TicketState::Waiting;
            ticket.at_head = true;
            ticket.calls = 0;
            // Bound to a window that nobody attends: any window that serves the group may call.
            draft.moved(ticket, Move::ReturnedToHead, window);
        }
    }

    /// Where the office wants it, free windows are given their next visitor in the same commit: the window that has
    /// served the fewest today first.
    pub(super) fn with_calls_by_load(&self, mut decision: Decision<Self>, at: &At<'_>) -> Decision<Self> {
        if !at.whole || !at.settings.auto_call || !self.may_call_by_load(&decision.events, at) {
            return decision;
        }
        let meta = EventMeta { time_ms: at.now_ms, origin: at.context.origin.clone() };
        let mut next = self.clone();
        for event in &decision.events {
            next.evolve(event, &meta);
        }
        for _ in 0..CALLS_BY_LOAD_MAX {
            let Some(events) = next.call_by_load(at) else { break };
            for event in &events {
                next.evolve(event, &meta);
            }
            decision.events.extend(events);
        }
        decision
    }

    /// Somebody may wait and some window may be free, now or after these events. Most commands of a busy hall end here,
    /// before the queue is copied to see what they lead to.
    fn may_call_by_load(&self, events: &[Event], at: &At<'_>) -> bool {
        let moved = |event: &Event, that: fn(&Moved) -> bool| match event {
            Event::Moved(moved) => that(moved),
            _ => false,
        };
        let waits = |moved: &Moved| moved.ticket.state == TicketState::Waiting;
        let leaves = |moved: &Moved| !moved.window.is_empty() && moved.ticket.state.occupies().is_none();
        let desk_changed = |event: &Event| matches!(event, Event::WindowChanged(_));
        let waiting = !self.waiting.is_empty() || events.iter().any(|event| moved(event, waits));
        let free = || {
            self.desks.values().any(|desk| self.is_free(desk, at))
                || events.iter().any(|event| desk_changed(event) || moved(event, leaves))
        };
        !events.is_empty() && waiting && free()
    }

    /// The window waits for a visitor. A break that is over ends by itself.
    fn is_free(&self, desk: &Desk, at: &At<'_>) -> bool {
        let receives = match desk.state {
            DeskState::Open => true,
            DeskState::Break { until_ms } => until_ms <= at.now_ms,
            DeskState::Closed => false,
        };
        receives
            && desk.day == at.day
            && desk.unattended.is_none()
            && self.held_by(&desk.window, at.day).is_none()
    }

    fn call_by_load(&self, at: &At<'_>) -> Option<Vec<Event>> {
        let visits = |desk: &Desk| {
            self.tally(at.day, &format!("window:{}", desk.window)).map_or(0, |tally| tally.visits)
        };
        let mut free: Vec<_> = self
            .desks
            .values()
            .filter(|desk| self.is_free(desk, at))
            .map(|desk| (visits(desk), desk))
            .collect();
        free.sort_by_key(|(visits, desk)| (*visits, desk.changed_ms, desk.window.clone()));
        free.into_iter().find_map(|(_, desk)| {
            let place = self.known_window(&desk.window, at).ok()?;
            let ticket = self.next_for(place, at.day)?.clone();
            let mut draft = self.draft(at);
            let mut called = ticket;
            called.state = TicketState::Called { window: desk.window.clone(), called_ms: at.now_ms };
            called.calls = 1;
            called.at_head = false;
            called.called_first_ms.get_or_insert(at.now_ms);
            called.officer.clone_from(&desk.officer);
            if desk.state != DeskState::Open {
                let goes_on = Desk { state: DeskState::Open, changed_ms: at.now_ms, ..(**desk).clone() };
                draft.events.push(Event::WindowChanged(Arc::new(goes_on)));
            }
            draft.moved(called, Move::Called, &desk.window);
            Some(draft.events)
        })
    }
}

/// Refuses what a keeper says that is not the deciding leader's own: one who was paused and deposed meanwhile has heard
/// of nobody for long, and what it takes for lost the new leader's keeper knows to be there.
fn of_this_term(term: u64, at: &At<'_>) -> Result<(), Refusal> {
    let own = at.context.fence.term;
    if term == own {
        return Ok(());
    }
    Err(refuse(ATTENDANCE_STALE).with("term", term.to_string()).with("expected", own.to_string()))
}
