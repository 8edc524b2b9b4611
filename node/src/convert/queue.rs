//! Tickets, bookings and windows.

use super::{Converted, cases, date, timestamp};
use crate::failure::Failure;
use jiff::civil::Date;
use okno_domain::queue::{
    Booking, BookingRef, BookingState, Closing, Desk, DeskState, Destination, Purpose, Statistics, Tally,
    Ticket, TicketState, VisitOutcome,
};
use okno_proto::v1;
use prost_types::Timestamp;

pub fn purpose_from(value: i32) -> Converted<Purpose> {
    match v1::VisitPurpose::try_from(value) {
        Ok(v1::VisitPurpose::Apply) => Ok(Purpose::Apply),
        Ok(v1::VisitPurpose::AskStatus) => Ok(Purpose::AskStatus),
        Ok(v1::VisitPurpose::CollectResult) => Ok(Purpose::CollectResult),
        Ok(v1::VisitPurpose::Other) => Ok(Purpose::Other),
        Ok(v1::VisitPurpose::Unspecified) | Err(_) => {
            Err(Failure::field("purpose", "ожидается цель посещения", "expected a purpose of VisitPurpose"))
        }
    }
}

pub fn purpose(purpose: Purpose) -> v1::VisitPurpose {
    match purpose {
        Purpose::Apply => v1::VisitPurpose::Apply,
        Purpose::AskStatus => v1::VisitPurpose::AskStatus,
        Purpose::CollectResult => v1::VisitPurpose::CollectResult,
        Purpose::Other => v1::VisitPurpose::Other,
    }
}

/// Unspecified is served: what a visit ends with unless something else is said.
pub fn outcome_from(value: i32) -> Converted<VisitOutcome> {
    match v1::VisitOutcome::try_from(value) {
        Ok(v1::VisitOutcome::Served | v1::VisitOutcome::Unspecified) => Ok(VisitOutcome::Served),
        Ok(v1::VisitOutcome::NoShow) => Ok(VisitOutcome::NoShow),
        Err(_) => Err(Failure::field("outcome", "неизвестный исход", "expected an outcome of VisitOutcome")),
    }
}

/// A whole number of minutes; how many there may be is the queue's to say.
pub fn minutes_from(path: &str, minutes: u32) -> Converted<u16> {
    u16::try_from(minutes)
        .map_err(|_| Failure::field(path, "ожидается не более 65535", "expected at most 65535"))
}

/// A moment in milliseconds since the Unix epoch.
pub fn moment_from(path: &str, at: Option<Timestamp>) -> Converted<i64> {
    let expected = || Failure::field(path, "ожидается момент времени", "expected a moment");
    let at = at.ok_or_else(expected)?;
    let nanos = i64::from(at.nanos);
    if !(0..1_000_000_000).contains(&nanos) {
        return Err(expected());
    }
    at.seconds.checked_mul(1_000).and_then(|ms| ms.checked_add(nanos / 1_000_000)).ok_or_else(expected)
}

pub fn destination_from(to: Option<v1::redirect_ticket_request::To>) -> Converted<Destination> {
    use v1::redirect_ticket_request::To;
    match to {
        Some(To::ToWindow(window)) => Ok(Destination::Window(window)),
        Some(To::ToService(service)) => Ok(Destination::Service(service)),
        None => Err(Failure::field("to", "ожидается окно или услуга", "expected a window or a service")),
    }
}

pub fn booking_from(booking: Option<v1::BookingRef>) -> Converted<BookingRef> {
    let booking = booking.unwrap_or_default();
    super::required("booking.code", &booking.code)?;
    Ok(BookingRef { day: date("booking.day", &booking.day)?, code: booking.code })
}

pub fn state(state: &TicketState) -> v1::TicketState {
    match state {
        TicketState::Waiting => v1::TicketState::Waiting,
        TicketState::PutOff { .. } => v1::TicketState::PutOff,
        TicketState::Called { .. } => v1::TicketState::Called,
        TicketState::InService { .. } => v1::TicketState::InService,
        TicketState::Finished { .. } => v1::TicketState::Finished,
        TicketState::Closed { .. } => v1::TicketState::Closed,
    }
}

fn closing(state: &TicketState) -> v1::TicketClosing {
    match state {
        TicketState::Closed { why: Closing::DayOver, .. } => v1::TicketClosing::DayOver,
        TicketState::Closed { why: Closing::DayOverInService, .. } => v1::TicketClosing::DayOverInService,
        TicketState::Closed { why: Closing::Left, .. } => v1::TicketClosing::Left,
        TicketState::Waiting
        | TicketState::Called { .. }
        | TicketState::InService { .. }
        | TicketState::Finished { .. }
        | TicketState::PutOff { .. } => v1::TicketClosing::Unspecified,
    }
}

pub fn ticket(office: &str, ticket: &Ticket) -> v1::Ticket {
    let (called, begun, finished) = match &ticket.state {
        TicketState::Waiting | TicketState::PutOff { .. } => (None, None, None),
        TicketState::Closed { closed_ms, .. } => (None, None, Some(*closed_ms)),
        TicketState::Called { called_ms, .. } => (Some(*called_ms), None, None),
        TicketState::InService { called_ms, begun_ms, .. } => (Some(*called_ms), Some(*begun_ms), None),
        TicketState::Finished { called_ms, begun_ms, finished_ms, .. } => {
            (Some(*called_ms), *begun_ms, Some(*finished_ms))
        }
    };
    let back = match &ticket.state {
        TicketState::PutOff { until_ms } => Some(*until_ms),
        TicketState::Waiting
        | TicketState::Called { .. }
        | TicketState::InService { .. }
        | TicketState::Finished { .. }
        | TicketState::Closed { .. } => None,
    };
    let (outside_system, outside_number) = match &ticket.outside {
        Some(name) => (name.system.clone(), name.number.clone()),
        None => Default::default(),
    };
    v1::Ticket {
        office: office.to_owned(),
        day: ticket.ticket.day.to_string(),
        number: ticket.ticket.number.clone(),
        purpose: purpose(ticket.purpose).into(),
        service: ticket.service.clone(),
        category: ticket.category.clone(),
        state: state(&ticket.state).into(),
        window: ticket.state.window().unwrap_or_default().to_owned(),
        case_ids: ticket.cases.clone(),
        taken_at: timestamp(ticket.taken_ms),
        called_at: called.and_then(timestamp),
        begun_at: begun.and_then(timestamp),
        finished_at: finished.and_then(timestamp),
        priority: ticket.priority,
        group: ticket.group.to_string(),
        bound_window: ticket.bound.clone(),
        waits_from: timestamp(ticket.wait_from_ms),
        calls: u32::from(ticket.calls),
        put_offs: u32::from(ticket.put_offs),
        redirects: u32::from(ticket.redirects),
        first_called_at: ticket.called_first_ms.and_then(timestamp),
        back_at: back.and_then(timestamp),
        officer: ticket.officer.clone(),
        closing: closing(&ticket.state).into(),
        booking: ticket.booking.as_ref().map(booking_ref),
        outside_system,
        outside_number,
        revision: ticket.revision,
        taken_by: ticket.taken_by.clone(),
        served_before_ms: u64::try_from(ticket.served_before_ms).unwrap_or_default(),
    }
}

pub fn booking_ref(booking: &BookingRef) -> v1::BookingRef {
    v1::BookingRef { day: booking.day.to_string(), code: booking.code.clone() }
}

pub fn booking(office: &str, booking: &Booking) -> v1::Booking {
    let (state, ticket) = match &booking.state {
        BookingState::Booked => (v1::BookingState::Booked, None),
        BookingState::Cancelled { .. } => (v1::BookingState::Cancelled, None),
        BookingState::Came { ticket, .. } => (v1::BookingState::Came, Some(cases::ticket(ticket))),
        BookingState::Lapsed { .. } => (v1::BookingState::Lapsed, None),
    };
    v1::Booking {
        office: office.to_owned(),
        booking: Some(booking_ref(&booking.booking)),
        purpose: purpose(booking.purpose).into(),
        service: booking.service.clone(),
        category: booking.category.clone(),
        slot: timestamp(booking.slot_ms),
        kept_until: timestamp(booking.lapses_ms),
        reference: booking.reference.clone(),
        booked_at: timestamp(booking.booked_ms),
        state: state.into(),
        ticket,
    }
}

/// A window as it is on a day. One that was not opened that day is closed, whatever it was before; whether somebody
/// attends it knows no days.
pub fn desk(
    office: &str,
    window: &str,
    today: Date,
    desk: Option<&Desk>,
    at_window: Option<&Ticket>,
) -> v1::Desk {
    let mut shown = v1::Desk {
        window: window.to_owned(),
        state: v1::DeskState::Closed.into(),
        ticket: at_window.map(|held| ticket(office, held)),
        ..v1::Desk::default()
    };
    let Some(desk) = desk else { return shown };
    shown.attached = desk.leased;
    if let Some(unattended) = desk.unattended {
        shown.unattended = true;
        shown.unattended_since = timestamp(unattended.since_ms);
        shown.unattended_until = timestamp(unattended.until_ms);
    }
    if desk.day == today {
        let (state, break_until) = match desk.state {
            DeskState::Open => (v1::DeskState::Open, None),
            DeskState::Break { until_ms } => (v1::DeskState::Break, timestamp(until_ms)),
            DeskState::Closed => (v1::DeskState::Closed, None),
        };
        shown.state = state.into();
        shown.break_until = break_until;
        shown.changed_at = timestamp(desk.changed_ms);
        shown.officer.clone_from(&desk.officer);
    }
    shown
}

/// Of a hundred, for whom the second figure of a time is.
const PERCENTILE: u32 = 90;

fn tally(tally: &Tally) -> v1::QueueTally {
    let percentile = |ms: Option<i64>| ms.and_then(|ms| u64::try_from(ms).ok());
    v1::QueueTally {
        visits: tally.visits,
        served: tally.served,
        did_not_come: tally.did_not_come,
        unserved: tally.unserved,
        left: tally.left,
        called: tally.wait.count,
        in_norm: tally.in_norm,
        wait_average_ms: tally.wait.average_ms(),
        wait_p90_ms: percentile(tally.wait.percentile_ms(PERCENTILE)),
        service_average_ms: tally.service.average_ms(),
        service_p90_ms: percentile(tally.service.percentile_ms(PERCENTILE)),
    }
}

pub fn statistics(meta: Option<v1::ReadMeta>, statistics: &Statistics) -> v1::GetQueueStatisticsResponse {
    let by = |tallies: &std::collections::BTreeMap<String, Tally>| {
        tallies.iter().map(|(key, of)| (key.clone(), tally(of))).collect()
    };
    v1::GetQueueStatisticsResponse {
        meta,
        all: Some(tally(&statistics.all)),
        hours: statistics.hours.iter().map(|(hour, of)| (format!("{hour:02}"), tally(of))).collect(),
        services: by(&statistics.services),
        windows: by(&statistics.windows),
        officers: by(&statistics.officers),
    }
}
