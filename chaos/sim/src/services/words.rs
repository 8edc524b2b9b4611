//! What channels and halls hold, in the judges' words.

use crate::clients::translate;
use okno_checks::{
    exchange::{self, Asked},
    hall,
};
use okno_domain::{
    case::ExchangeState,
    channel::{self, MessageState},
    queue::{self, BookingState, TicketState},
};

pub(super) fn token(token: channel::Token) -> exchange::Token {
    (token.generation, token.term, token.sequence)
}

pub(super) fn said(verdict: &channel::Verdict) -> exchange::Verdict {
    let said = match &verdict.said {
        channel::Said::Complete { body, .. } => {
            exchange::Said::Complete(body.as_ref().map(|body| body.sha256()))
        }
        channel::Said::Reject { body, .. } => exchange::Said::Reject(body.as_ref().map(|body| body.sha256())),
        channel::Said::Fail { body, .. } => exchange::Said::Fail(body.as_ref().map(|body| body.sha256())),
        channel::Said::Progress { .. } => exchange::Said::Progress,
        channel::Said::Ask { requests } => exchange::Said::Ask(requests.iter().map(wanted).collect()),
    };
    exchange::Verdict { id: verdict.id.clone(), token: token(verdict.token), said }
}

pub(super) fn wanted(request: &channel::SubAsk) -> exchange::Wanted {
    exchange::Wanted {
        channel: request.channel.clone(),
        body: request.body.sha256(),
        expires_ms: request.expires_ms.map(i64::from),
    }
}

pub(super) fn sub(own: &channel::SubRequest) -> exchange::Sub {
    let answer = own.answer.as_ref();
    exchange::Sub {
        id: own.id.clone(),
        channel: own.channel.clone(),
        body: own.body.sha256,
        answer: answer
            .map(|told| (told.outcome.name().to_owned(), told.body.as_ref().map(|body| body.sha256))),
    }
}

pub(super) fn message(own: &channel::Outgoing) -> exchange::Message {
    exchange::Message {
        id: own.id.clone(),
        sequence: own.sequence,
        body: own.body.sha256,
        depth: own.depth.into(),
        expires_ms: own.expires_ms,
        subs: own.subs.iter().map(sub).collect(),
        stand: match &own.state {
            MessageState::Ready => exchange::Stand::Ready,
            MessageState::Delayed { .. } => exchange::Stand::Delayed,
            MessageState::Out { token: of, connector, .. } => {
                exchange::Stand::Out { token: token(*of), connector: connector.clone() }
            }
            MessageState::Asking => exchange::Stand::Asking,
            MessageState::Dead { .. } => exchange::Stand::Dead,
        },
    }
}

pub(super) const fn channel_move(what: channel::Move) -> exchange::Move {
    match what {
        channel::Move::Accepted => exchange::Move::Accepted,
        channel::Move::HandedOut => exchange::Move::HandedOut,
        channel::Move::Failed => exchange::Move::Failed,
        channel::Move::Unheard => exchange::Move::Unheard,
        channel::Move::Buried => exchange::Move::Buried,
        channel::Move::Progressed => exchange::Move::Progressed,
        channel::Move::Asked => exchange::Move::Asked,
        channel::Move::SubAnswered => exchange::Move::SubAnswered,
        channel::Move::Withdrawn => exchange::Move::Withdrawn,
    }
}

pub(super) fn asked(state: &ExchangeState) -> Asked {
    match state {
        ExchangeState::Planned => Asked::Planned,
        ExchangeState::Sent { .. } => Asked::Sent,
        ExchangeState::Closed { outcome, .. } => Asked::Closed(outcome.name().to_owned()),
    }
}

pub(super) fn ticket(own: &queue::Ticket) -> hall::Ticket {
    hall::Ticket {
        name: translate::ticket_name(&own.ticket),
        group: own.group,
        since_ms: own.wait_from_ms,
        bound: own.bound.clone(),
        at_head: own.at_head,
        revision: own.revision,
        outside: own.outside.as_ref().map(|own| (own.system.clone(), own.number.clone())),
        stand: match &own.state {
            TicketState::Waiting => hall::Stand::Waiting,
            TicketState::Called { window, .. } => hall::Stand::Called(window.clone()),
            TicketState::InService { window, .. } => hall::Stand::InService(window.clone()),
            TicketState::PutOff { until_ms } => hall::Stand::PutOff { until_ms: *until_ms },
            TicketState::Finished { .. } | TicketState::Closed { .. } => hall::Stand::Ended,
        },
    }
}

pub(super) const fn hall_move(what: queue::Move) -> hall::Move {
    match what {
        queue::Move::Taken => hall::Move::Taken,
        queue::Move::Called => hall::Move::Called,
        queue::Move::CalledAgain => hall::Move::CalledAgain,
        queue::Move::Begun => hall::Move::Begun,
        queue::Move::PutOff => hall::Move::PutOff,
        queue::Move::CameBack => hall::Move::CameBack,
        queue::Move::Redirected => hall::Move::Redirected,
        queue::Move::Bound => hall::Move::Bound,
        queue::Move::Returned => hall::Move::Returned,
        queue::Move::ReturnedToHead => hall::Move::ReturnedToHead,
        queue::Move::Finished => hall::Move::Finished,
        queue::Move::DidNotCome => hall::Move::DidNotCome,
        queue::Move::Left => hall::Move::Left,
        queue::Move::DayOver => hall::Move::DayOver,
        queue::Move::CaseLinked => hall::Move::CaseLinked,
    }
}

pub(super) fn window(desk: &queue::Desk) -> hall::Window {
    hall::Window {
        number: desk.window.clone(),
        unattended: desk.unattended.map(|left| hall::Unattended { until_ms: left.until_ms, over: left.over }),
        leased: desk.leased,
    }
}

pub(super) fn slot(booking: &queue::Booking) -> hall::Slot {
    hall::Slot {
        booking: format!("{}:{}", booking.booking.day, booking.booking.code),
        service: booking.service.clone(),
        slot_ms: booking.slot_ms,
        stand: match &booking.state {
            BookingState::Booked => hall::SlotStand::Booked,
            BookingState::Cancelled { .. } => hall::SlotStand::Cancelled,
            BookingState::Came { ticket, .. } => hall::SlotStand::Came(translate::ticket_name(ticket)),
            BookingState::Lapsed { .. } => hall::SlotStand::Lapsed,
        },
    }
}
