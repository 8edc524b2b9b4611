//! Appointments (R-Q1): slots, booking, cancelling, checking in, and those who are late or do not come.
//!
//! A slot is a service and a moment of its grid, which begins when the office opens; one visitor a slot. A booking is
//! named by the day of its slot and six digits, which the visitor types at the kiosk. Who has not come some minutes
//! after the slot's beginning loses it; where the office wants it, they still get an ordinary ticket that day.

use super::{
    Due, Event, Purpose, Queue, Reply, TicketRef, day,
    draft::{At, Draft},
    tickets::Visitor,
};
use crate::{
    directory::Opening,
    entity::{Decision, Principal, Refusal},
    refusal::{
        BOOKING_EARLY, BOOKING_LATE, BOOKING_OFF, BOOKING_STATE, BOOKING_UNKNOWN, BOOKINGS_LIMIT,
        OFFICE_CLOSED, SLOT_PAST, SLOT_TAKEN, SLOT_TOO_FAR, SLOT_UNKNOWN, refuse,
    },
    time::{MINUTE_MS, local_date, plus_days},
    validators::expect_len,
};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Bookings of one office that are kept, over its whole horizon: 14 days of 1,000 and some; bounds memory.
pub const BOOKINGS_MAX: usize = 20_000;
/// Characters of a reference.
const REFERENCE_MAX: usize = 64;
/// Names that are tried until one is free.
const CODES_TRIED_MAX: u32 = 64;
/// What six digits can say.
const CODES: u32 = 1_000_000;

/// Names a booking within its office's queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BookingRef {
    /// The office's local date of the slot.
    pub day: Date,
    /// Six digits: "052916".
    pub code: String,
}

impl BookingRef {
    pub fn part_name(&self) -> String {
        format!("booking:{}:{}", self.day, self.code)
    }

    /// `2026-11-21:052916`.
    pub fn parse(text: &str) -> Option<Self> {
        let (day, code) = text.split_once(':')?;
        Some(Self { day: day.parse().ok()?, code: code.to_owned() })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BookingState {
    Booked,
    Cancelled {
        at_ms: i64,
    },
    Came {
        at_ms: i64,
        ticket: TicketRef,
        /// After the slot was lost: with an ordinary ticket.
        late: bool,
    },
    /// Did not come in time.
    Lapsed {
        at_ms: i64,
    },
}

impl BookingState {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Booked => "booked",
            Self::Cancelled { .. } => "cancelled",
            Self::Came { .. } => "came",
            Self::Lapsed { .. } => "lapsed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booking {
    pub booking: BookingRef,
    pub purpose: Purpose,
    /// Empty: none was named.
    pub service: String,
    pub category: String,
    pub slot_ms: i64,
    /// Until then the slot is kept.
    pub lapses_ms: i64,
    pub reference: String,
    pub booked_ms: i64,
    pub booked_by: Principal,
    pub state: BookingState,
}

impl Queue {
    pub fn booking(&self, booking: &BookingRef) -> Option<&Booking> {
        self.bookings.get(booking).map(Arc::as_ref)
    }

    /// By day and code.
    pub fn bookings(&self) -> impl Iterator<Item = &Booking> {
        self.bookings.values().map(Arc::as_ref)
    }

    /// Is the slot of a service at a moment taken?
    pub fn slot_taken(&self, service: &str, slot_ms: i64) -> bool {
        self.slots.contains_key(&(slot_ms, service.to_owned()))
    }

    pub(super) fn put_booking(&mut self, booking: Arc<Booking>) {
        self.take_booking_out(&booking.booking);
        let slot = (booking.slot_ms, booking.service.clone());
        match booking.state {
            BookingState::Booked => {
                self.dues.insert((booking.lapses_ms, Due::Slot(booking.booking.clone())));
                self.slots.insert(slot, booking.booking.clone());
            }
            BookingState::Came { .. } | BookingState::Lapsed { .. } => {
                self.slots.insert(slot, booking.booking.clone());
            }
            BookingState::Cancelled { .. } => {}
        }
        self.bookings.insert(booking.booking.clone(), booking);
    }

    pub(super) fn take_booking_out(&mut self, name: &BookingRef) {
        let Some(old) = self.bookings.remove(name) else { return };
        self.dues.remove(&(old.lapses_ms, Due::Slot(name.clone())));
        let slot = (old.slot_ms, old.service.clone());
        // The slot of one who cancelled may be another's.
        if self.slots.get(&slot) == Some(name) {
            self.slots.remove(&slot);
        }
    }

    pub(super) fn book(
        &self,
        purpose: Purpose,
        service: &str,
        category: &str,
        slot_ms: i64,
        reference: &str,
        at: &At<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let settings = &at.settings.booking;
        if !settings.enabled {
            return Err(refuse(BOOKING_OFF));
        }
        self.group(purpose, service, at)?;
        self.weight(category, at)?;
        expect_len("reference", reference, REFERENCE_MAX)?;
        let day = self.slot(service, slot_ms, at)?;
        if self.slot_taken(service, slot_ms) {
            return Err(refuse(SLOT_TAKEN).with("slot_ms", slot_ms.to_string()));
        }
        // What was cancelled uses nothing up: the oldest makes room.
        let full = self.bookings.len() >= BOOKINGS_MAX;
        let oldest = full.then(|| self.oldest_cancelled()).flatten();
        if full && oldest.is_none() {
            return Err(refuse(BOOKINGS_LIMIT).with("bookings", format!("at most {BOOKINGS_MAX}")));
        }
        let booking = Arc::new(Booking {
            booking: self.free_name(day, at)?,
            purpose,
            service: service.to_owned(),
            category: category.to_owned(),
            slot_ms,
            lapses_ms: slot_ms + i64::from(settings.late_minutes) * MINUTE_MS,
            reference: reference.to_owned(),
            booked_ms: at.now_ms,
            booked_by: at.context.origin.principal.clone(),
            state: BookingState::Booked,
        });
        let mut draft = self.draft(at);
        draft.due(booking.lapses_ms);
        if let Some(oldest) = oldest {
            draft.events.push(Event::Cleared { parts: vec![oldest.part_name()] });
        }
        draft.events.push(Event::BookingChanged(Arc::clone(&booking)));
        self.keep_sweep(&mut draft);
        Ok(draft.done(Reply::Booking(booking)))
    }

    fn oldest_cancelled(&self) -> Option<&BookingRef> {
        let cancelled = self.bookings.values().filter_map(|booking| match booking.state {
            BookingState::Cancelled { at_ms } => Some((at_ms, &booking.booking)),
            BookingState::Booked | BookingState::Came { .. } | BookingState::Lapsed { .. } => None,
        });
        cancelled.min().map(|(_, name)| name)
    }

    /// Refuses a moment at which the service has no slot that can still be booked; else its local date.
    fn slot(&self, service: &str, slot_ms: i64, at: &At<'_>) -> Result<Date, Refusal> {
        if slot_ms <= at.now_ms {
            return Err(refuse(SLOT_PAST).with("slot_ms", slot_ms.to_string()));
        }
        let day = local_date(slot_ms, at.offset_minutes);
        let horizon = at.settings.booking.horizon_days;
        if day > plus_days(at.day, i32::from(horizon)) {
            return Err(refuse(SLOT_TOO_FAR).with("horizon_days", horizon.to_string()));
        }
        let closed = || refuse(OFFICE_CLOSED).with("day", day.to_string());
        if self.ends.contains_key(&day) {
            return Err(closed());
        }
        let Opening::Hours { opens_ms, closes_ms } = at.settings.opening(day, at.offset_minutes) else {
            return Err(closed());
        };
        let step = at.settings.step_minutes(service);
        let step_ms = i64::from(step) * MINUTE_MS;
        if slot_ms < opens_ms || slot_ms >= closes_ms {
            return Err(closed());
        }
        if (slot_ms - opens_ms) % step_ms != 0 || slot_ms + step_ms > closes_ms {
            return Err(refuse(SLOT_UNKNOWN).with("step_minutes", step.to_string()));
        }
        Ok(day)
    }

    /// The slots of a service on a day that can be booked now, for those who choose one.
    pub fn free_slots(&self, service: &str, day: Date, context: &crate::entity::Context<'_>) -> Vec<i64> {
        let Ok(at) = self.at(context) else { return Vec::new() };
        let settings = at.settings;
        let Opening::Hours { opens_ms, closes_ms } = settings.opening(day, at.offset_minutes) else {
            return Vec::new();
        };
        let step_ms = i64::from(settings.step_minutes(service)) * MINUTE_MS;
        let steps = (closes_ms - opens_ms).max(0) / step_ms.max(1);
        (0..steps)
            .map(|step| opens_ms + step * step_ms)
            .filter(|slot_ms| settings.booking.enabled && self.slot(service, *slot_ms, &at).is_ok())
            .filter(|slot_ms| !self.slot_taken(service, *slot_ms))
            .collect()
    }

    /// Six digits that no other booking of the day has; they follow from the request.
    fn free_name(&self, day: Date, at: &At<'_>) -> Result<BookingRef, Refusal> {
        (0..CODES_TRIED_MAX)
            .map(|n| {
                let [a, b, c, d, ..] = *at.context.fresh_id(n).as_bytes();
                let code = u32::from_be_bytes([a, b, c, d]) % CODES;
                BookingRef { day, code: format!("{code:06}") }
            })
            .find(|name| !self.bookings.contains_key(name))
            .ok_or_else(|| refuse(BOOKINGS_LIMIT).with("day", day.to_string()))
    }

    pub(super) fn cancel_booking(&self, name: &BookingRef, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        let booking = self.known_booking(name)?;
        if booking.state != BookingState::Booked {
            return Err(wrong_state(booking));
        }
        let latest_ms = booking.slot_ms - i64::from(at.settings.booking.cancel_minutes) * MINUTE_MS;
        if at.now_ms > latest_ms {
            return Err(refuse(BOOKING_LATE).with("until_ms", latest_ms.to_string()));
        }
        let mut cancelled = booking.clone();
        cancelled.state = BookingState::Cancelled { at_ms: at.now_ms };
        let cancelled = Arc::new(cancelled);
        let mut draft = self.draft(at);
        draft.events.push(Event::BookingChanged(Arc::clone(&cancelled)));
        Ok(draft.done(Reply::Booking(cancelled)))
    }

    pub(super) fn check_in(&self, name: &BookingRef, at: &At<'_>) -> Result<Decision<Self>, Refusal> {
        let booking = self.known_booking(name)?;
        let settings = &at.settings.booking;
        match booking.state {
            BookingState::Booked | BookingState::Lapsed { .. } => {}
            BookingState::Cancelled { .. } | BookingState::Came { .. } => return Err(wrong_state(booking)),
        }
        let from_ms = booking.slot_ms - i64::from(settings.early_minutes) * MINUTE_MS;
        if at.now_ms < from_ms {
            return Err(refuse(BOOKING_EARLY).with("from_ms", from_ms.to_string()));
        }
        // The timer may be a moment behind.
        let late = at.now_ms > booking.lapses_ms || booking.state != BookingState::Booked;
        if name.day != at.day || (late && !settings.late_joins_queue) {
            return Err(refuse(BOOKING_LATE).with("until_ms", booking.lapses_ms.to_string()));
        }
        let visitor = Visitor {
            purpose: booking.purpose,
            service: &booking.service,
            category: &booking.category,
            weight: if late { 0 } else { settings.weight },
            // Who comes early waits from the slot on.
            wait_from_ms: if late { at.now_ms } else { booking.slot_ms.max(at.now_ms) },
            booking: Some(name.clone()),
            outside: None,
        };
        let mut draft = self.draft(at);
        let ticket = self.register(&visitor, &mut draft)?;
        let mut came = booking.clone();
        came.state = BookingState::Came { at_ms: at.now_ms, ticket: ticket.ticket.clone(), late };
        draft.events.push(Event::BookingChanged(Arc::new(came)));
        Ok(self.given(ticket, draft))
    }

    /// Nobody came for a slot.
    pub(super) fn lapse(&self, name: &BookingRef, draft: &mut Draft<'_>) {
        let Some(booking) = self.booking(name) else { return };
        let mut lapsed = booking.clone();
        lapsed.state = BookingState::Lapsed { at_ms: draft.at.now_ms };
        draft.events.push(Event::BookingChanged(Arc::new(lapsed)));
    }

    fn known_booking(&self, name: &BookingRef) -> Result<&Booking, Refusal> {
        let unknown = || refuse(BOOKING_UNKNOWN).with("booking", format!("{} {}", name.day, name.code));
        self.booking(name).ok_or_else(unknown)
    }

    /// The nightly sweep is set as long as there is anything.
    pub(super) fn keep_sweep(&self, draft: &mut Draft<'_>) {
        if self.is_bare() {
            let due_ms = day::next_sweep_ms(draft.at);
            draft.set_timer(day::SWEEP_TIMER, due_ms);
        }
    }
}

fn wrong_state(booking: &Booking) -> Refusal {
    refuse(BOOKING_STATE).with("state", booking.state.name())
}
