//! What queue systems tell each other (R-Q13): one form for both directions.

use super::{
    Converted,
    queue::{minutes_from, moment_from, purpose, purpose_from},
    timestamp,
};
use crate::failure::Failure;
use okno_domain::queue::{Destination, OutsideEvent, OutsideHappened};
use okno_proto::v1::{self, OutsideKind};

fn to_from(event: &v1::OutsideEvent) -> Converted<Destination> {
    match (event.to_window.as_str(), event.to_service.as_str()) {
        (window, "") if !window.is_empty() => Ok(Destination::Window(window.to_owned())),
        ("", service) if !service.is_empty() => Ok(Destination::Service(service.to_owned())),
        _ => Err(Failure::field(
            "event.to_window",
            "ожидается либо окно, либо услуга",
            "expected either to_window or to_service",
        )),
    }
}

pub fn event_from(event: Option<v1::OutsideEvent>) -> Converted<OutsideEvent> {
    let event = event.unwrap_or_default();
    let kind = match OutsideKind::try_from(event.kind) {
        Ok(OutsideKind::Unspecified) | Err(_) => {
            return Err(Failure::field(
                "event.kind",
                "ожидается вид события",
                "expected a kind of OutsideKind",
            ));
        }
        Ok(kind) => kind,
    };
    let window = event.window.clone();
    let happened = match kind {
        OutsideKind::Unspecified | OutsideKind::Registered => OutsideHappened::Registered {
            purpose: purpose_from(event.purpose)?,
            service: event.service.clone(),
            category: event.category.clone(),
        },
        OutsideKind::Called => OutsideHappened::Called { window },
        OutsideKind::CalledAgain => OutsideHappened::CalledAgain { window },
        OutsideKind::Begun => OutsideHappened::Begun { window },
        OutsideKind::PutOff => {
            OutsideHappened::PutOff { window, minutes: minutes_from("event.minutes", event.minutes)? }
        }
        OutsideKind::CameBack => OutsideHappened::CameBack,
        OutsideKind::Redirected => OutsideHappened::Redirected { window, to: to_from(&event)? },
        OutsideKind::Returned => OutsideHappened::Returned { window },
        OutsideKind::Finished => OutsideHappened::Finished { window },
        OutsideKind::DidNotCome => OutsideHappened::DidNotCome { window },
        OutsideKind::Left => OutsideHappened::Left,
    };
    Ok(OutsideEvent {
        system: event.system,
        id: event.id,
        ticket: event.ticket,
        at_ms: moment_from("event.at", event.at)?,
        happened,
    })
}

pub fn event(event: &OutsideEvent) -> v1::OutsideEvent {
    let mut told = v1::OutsideEvent {
        system: event.system.clone(),
        id: event.id.clone(),
        ticket: event.ticket.clone(),
        at: timestamp(event.at_ms),
        ..v1::OutsideEvent::default()
    };
    let (kind, window) = match &event.happened {
        OutsideHappened::Registered { purpose: why, service, category } => {
            told.purpose = purpose(*why).into();
            told.service.clone_from(service);
            told.category.clone_from(category);
            (OutsideKind::Registered, "")
        }
        OutsideHappened::Called { window } => (OutsideKind::Called, window.as_str()),
        OutsideHappened::CalledAgain { window } => (OutsideKind::CalledAgain, window.as_str()),
        OutsideHappened::Begun { window } => (OutsideKind::Begun, window.as_str()),
        OutsideHappened::PutOff { window, minutes } => {
            told.minutes = u32::from(*minutes);
            (OutsideKind::PutOff, window.as_str())
        }
        OutsideHappened::CameBack => (OutsideKind::CameBack, ""),
        OutsideHappened::Redirected { window, to } => {
            match to {
                Destination::Window(window) => told.to_window.clone_from(window),
                Destination::Service(service) => told.to_service.clone_from(service),
            }
            (OutsideKind::Redirected, window.as_str())
        }
        OutsideHappened::Returned { window } => (OutsideKind::Returned, window.as_str()),
        OutsideHappened::Finished { window } => (OutsideKind::Finished, window.as_str()),
        OutsideHappened::DidNotCome { window } => (OutsideKind::DidNotCome, window.as_str()),
        OutsideHappened::Left => (OutsideKind::Left, ""),
    };
    told.kind = kind.into();
    window.clone_into(&mut told.window);
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use okno_domain::queue::Purpose;

    #[test]
    fn what_is_told_is_taken_as_it_was_meant() {
        let window = || "5".to_owned();
        let all = [
            OutsideHappened::Registered {
                purpose: Purpose::AskStatus,
                service: "paper".into(),
                category: "veterans".into(),
            },
            OutsideHappened::Called { window: window() },
            OutsideHappened::CalledAgain { window: window() },
            OutsideHappened::Begun { window: window() },
            OutsideHappened::PutOff { window: window(), minutes: 7 },
            OutsideHappened::CameBack,
            OutsideHappened::Redirected { window: window(), to: Destination::Window("6".into()) },
            OutsideHappened::Redirected { window: window(), to: Destination::Service("paper".into()) },
            OutsideHappened::Returned { window: window() },
            OutsideHappened::Finished { window: window() },
            OutsideHappened::DidNotCome { window: window() },
            OutsideHappened::Left,
        ];
        for happened in all {
            let meant = OutsideEvent {
                system: "quee".into(),
                id: "1".into(),
                ticket: "A1".into(),
                at_ms: 1_772_420_400_123,
                happened,
            };
            assert_eq!(event_from(Some(event(&meant))), Ok(meant));
        }
    }

    #[test]
    fn what_says_nothing_is_refused_by_field() {
        let good = v1::OutsideEvent { at: timestamp(0), ..v1::OutsideEvent::default() };
        let refused = |event: v1::OutsideEvent| match event_from(Some(event)) {
            Err(Failure::Refused(refusal)) => refusal.details.into_keys().next().unwrap_or_default(),
            other => panic!("{other:?}"),
        };
        let of = |kind: OutsideKind| v1::OutsideEvent { kind: kind.into(), ..good.clone() };
        assert_eq!(refused(good.clone()), "event.kind");
        assert_eq!(refused(v1::OutsideEvent { kind: 99, ..good.clone() }), "event.kind");
        assert_eq!(refused(of(OutsideKind::Registered)), "purpose");
        assert_eq!(refused(of(OutsideKind::Redirected)), "event.to_window");
        assert_eq!(refused(v1::OutsideEvent { at: None, ..of(OutsideKind::Left) }), "event.at");
        let long = v1::OutsideEvent { minutes: 70_000, ..of(OutsideKind::PutOff) };
        assert_eq!(refused(long), "event.minutes");
    }
}
