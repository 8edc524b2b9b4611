//! An office's journal as a drill reads it: every ticket's way from event to event, and what no way may hold.

use crate::harness::desk::Desk;
use crate::load::hall::{Name, name};
use okno_client::{CallError, v1 as proto};
use proto::OutsideKind as Kind;
use std::collections::BTreeMap;

/// One event of a ticket.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub ticket: Name,
    pub kind: Kind,
    pub window: String,
    /// By the office's queue, in milliseconds since 1970.
    pub at_ms: i64,
}

/// Everything that happened to an office's tickets, in its order.
#[derive(Debug, Default)]
pub struct Journal {
    pub events: Vec<Event>,
}

/// What must not be.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    pub twice: Vec<String>,
    pub numbers: Vec<String>,
}

/// Where a visitor is.
#[derive(Debug, Clone, PartialEq)]
enum At {
    Waiting,
    Called(String),
    Served(String),
    Gone,
}

/// Reads an office's journal to its end.
pub async fn read(auditor: &Desk, office: &str) -> Result<Journal, CallError> {
    let request = proto::WatchQueueRequest { office: office.into(), ..proto::WatchQueueRequest::default() };
    let mut stream = auditor.client.watch_queue(None, request).await?;
    let mut events = Vec::new();
    loop {
        let response = match stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Ok(Journal { events }),
            Err(status) => return Err(okno_client::read_error(&status)),
        };
        if let (Some(event), Some(ticket)) = (response.event, response.ticket) {
            let at = event.at.as_ref();
            events.push(Event {
                ticket: name(&ticket),
                kind: event.kind(),
                window: response.window,
                at_ms: at.map_or(0, |at| at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000),
            });
        }
    }
}

impl Journal {
    pub fn registered(&self) -> impl Iterator<Item = &Name> {
        self.events.iter().filter(|event| event.kind == Kind::Registered).map(|event| &event.ticket)
    }

    /// The first event of a kind about a ticket, with its place.
    pub fn first(&self, ticket: &Name, kind: Kind) -> Option<(usize, &Event)> {
        self.events.iter().enumerate().find(|(_, event)| event.ticket == *ticket && event.kind == kind)
    }

    /// Whom a window called next after a place in the journal, and to which.
    pub fn called_after(&self, place: usize) -> Option<&Event> {
        self.events.iter().skip(place + 1).find(|event| event.kind == Kind::Called)
    }

    /// Every ticket goes its one way, and a window has one visitor at a time.
    pub fn check(&self) -> Told {
        let mut told = Told::default();
        let mut at: BTreeMap<&Name, At> = BTreeMap::new();
        let mut windows: BTreeMap<&str, &Name> = BTreeMap::new();
        for event in &self.events {
            let (ticket, window) = (&event.ticket, event.window.as_str());
            if event.kind == Kind::Registered {
                if at.insert(ticket, At::Waiting).is_some() {
                    told.numbers.push(format!("{ticket:?} is registered twice"));
                }
                continue;
            }
            let before = at.get(ticket).cloned();
            let after = match (event.kind, &before) {
                (Kind::Called, Some(At::Waiting)) => Some(At::Called(window.to_owned())),
                (Kind::CalledAgain, Some(At::Called(own))) if own == window => Some(At::Called(own.clone())),
                (Kind::Begun, Some(At::Called(own))) if own == window => Some(At::Served(own.clone())),
                (Kind::Returned, Some(At::Called(_) | At::Served(_))) => Some(At::Waiting),
                (Kind::Finished, Some(At::Served(own))) if own == window => Some(At::Gone),
                _ => None,
            };
            let Some(after) = after else {
                told.twice
                    .push(format!("{ticket:?} was {before:?} when window {window:?} did {:?}", event.kind));
                continue;
            };
            match &after {
                At::Called(own) => {
                    if let Some(other) = windows.insert(window, ticket)
                        && other != ticket
                    {
                        told.twice.push(format!("window {own} called {ticket:?} and had {other:?}"));
                    }
                }
                At::Waiting | At::Gone => {
                    windows.retain(|_, standing| *standing != ticket);
                }
                At::Served(_) => {}
            }
            at.insert(ticket, after);
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(events: &[(&str, Kind, &str)]) -> Journal {
        let event = |(number, kind, window): &(&str, Kind, &str)| Event {
            ticket: ("2026-11-22".into(), (*number).into()),
            kind: *kind,
            window: (*window).into(),
            at_ms: 0,
        };
        Journal { events: events.iter().map(event).collect() }
    }

    const VISIT: [(&str, Kind, &str); 4] = [
        ("А001", Kind::Registered, ""),
        ("А001", Kind::Called, "1"),
        ("А001", Kind::Begun, "1"),
        ("А001", Kind::Finished, "1"),
    ];

    #[test]
    fn a_visit_goes_one_way_and_no_other() {
        assert_eq!(journal(&VISIT).check(), Told::default());
        let mut back = VISIT.to_vec();
        back.splice(2..2, [("А001", Kind::Returned, "1"), ("А001", Kind::Called, "1")]);
        assert_eq!(journal(&back).check(), Told::default());

        // Called by two windows, served again after the end, registered twice, two visitors at one window.
        for (place, event) in [
            (2, ("А001", Kind::Called, "2")),
            (4, ("А001", Kind::Called, "2")),
            (3, ("А001", Kind::Begun, "1")),
            (3, ("А001", Kind::Finished, "2")),
        ] {
            let mut bad = VISIT.to_vec();
            bad.insert(place, event);
            assert_eq!(journal(&bad).check().twice.len(), 1, "{event:?} at {place}");
        }
        let mut again = VISIT.to_vec();
        again.push(("А001", Kind::Registered, ""));
        assert_eq!(journal(&again).check().numbers.len(), 1);
        let mut two = VISIT.to_vec();
        two.splice(2..2, [("А002", Kind::Registered, ""), ("А002", Kind::Called, "1")]);
        assert_eq!(journal(&two).check().twice.len(), 1);
    }

    #[test]
    fn who_is_called_after_a_return_is_found() {
        let back = journal(&[
            ("А001", Kind::Registered, ""),
            ("А002", Kind::Registered, ""),
            ("А001", Kind::Called, "3"),
            ("А001", Kind::Returned, "3"),
            ("А002", Kind::Called, "1"),
        ]);
        let (place, _) =
            back.first(&("2026-11-22".into(), "А001".into()), Kind::Returned).expect("it returned");
        assert_eq!(back.called_after(place).map(|event| event.ticket.1.as_str()), Some("А002"));
    }
}
