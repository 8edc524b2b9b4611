//! An outside queue system at an office (R-Q13): what it tells takes effect once and only by whom the office named, and
//! what it is told is enough to know where every visitor is (`docs/queue.md`).

use super::{Hall, Stand, Ticket, show};
use crate::{
    history::{Day, TicketName},
    invariants::Invariant,
};
use std::collections::{BTreeMap, BTreeSet};

/// A system and a name there: of an event, or of a ticket.
pub type Outside = (String, String);

/// What an outside system tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telling {
    /// Who speaks for it.
    pub by: String,
    pub event: Outside,
    /// The ticket's name there.
    pub ticket: String,
}

/// An event that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub day: Day,
    pub event: Outside,
    pub ticket: Option<TicketName>,
}

/// What an outside system is told of one of our tickets, as far as it tells where the visitor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// `office:day:number:revision`.
    pub id: String,
    pub ticket: TicketName,
    pub stand: Stand,
}

#[derive(Debug, Default)]
pub(super) struct Book {
    /// Events that were taken: on which days, for it is known on the next one only, and which ticket they are of.
    taken: BTreeMap<Outside, Vec<(Day, Option<TicketName>)>>,
    /// Tickets of outside systems by day and name there.
    tickets: BTreeMap<(Day, Outside), TicketName>,
    /// Ids of what was told, in order, and where the other side believes everybody to be.
    told: Vec<String>,
    ids: BTreeSet<String>,
    believed: BTreeMap<TicketName, Stand>,
}

impl Hall {
    /// Who may speak for which system is in the rules: may they?
    fn may_tell(&self, telling: &Telling) -> bool {
        self.rules.outside.get(&telling.event.0).is_some_and(|connectors| connectors.contains(&telling.by))
    }

    /// A commit of the office's queue that an outside system's event led to, or none did, with the events it took.
    pub fn told_by_outside(&mut self, telling: Option<&Telling>, taken: &[Taken]) {
        match (telling, taken) {
            (None, []) => {}
            (Some(telling), [one]) if one.event == telling.event => self.took(telling, one),
            _ => {
                let text = format!("{telling:?} led to {taken:?}");
                self.breaches.add(Invariant::OutsideOnce, text);
            }
        }
    }

    fn took(&mut self, telling: &Telling, taken: &Taken) {
        if !self.may_tell(telling) {
            let text =
                format!("{} may not speak for {}, and {telling:?} was taken", telling.by, telling.event.0);
            self.breaches.add(Invariant::Refused, text);
        }
        self.facts.outside += 1;
        let name = (telling.event.0.clone(), telling.ticket.clone());
        let known = taken.ticket.as_ref().and_then(|ticket| self.tickets.get(ticket));
        if known.and_then(|ticket| ticket.outside.as_ref()) != Some(&name) {
            let text = format!("{telling:?} was taken for {:?}", taken.ticket);
            self.breaches.add(Invariant::OutsideOnce, text);
        }
        let own = self.outside.taken.entry(taken.event.clone()).or_default();
        let before = own.last().map(|(day, _)| *day);
        own.push((taken.day, taken.ticket.clone()));
        if let Some(day) = before
            && days(taken.day) - days(day) <= 1
        {
            let text = format!("{:?} was taken on {day} and again on {}", taken.event, taken.day);
            self.breaches.add(Invariant::OutsideOnce, text);
        }
    }

    /// A ticket of an outside system: one of its name a day.
    pub(super) fn named_outside(&mut self, ticket: &Ticket) {
        let Some(outside) = ticket.outside.clone() else { return };
        let key = (ticket.name.day, outside);
        if let Some(other) = self.outside.tickets.insert(key, ticket.name.clone()) {
            let text = format!("{:?} is {} and {}", ticket.outside, show(&other), show(&ticket.name));
            self.breaches.add(Invariant::OutsideOnce, text);
        }
    }

    /// An outside system was told that its event was taken, now or before.
    pub fn answered_outside(&mut self, telling: &Telling, ticket: Option<&TicketName>) {
        let known = self.outside.taken.get(&telling.event);
        // Of an event that was told once more days later, either answer may come last.
        let of_one = |(_, own): &(Day, Option<TicketName>)| ticket.is_none() || own.as_ref() == ticket;
        let fine = known.is_some_and(|taken| taken.iter().any(of_one));
        if !fine || !self.may_tell(telling) {
            let text = format!("{telling:?} was told {ticket:?}, and is {known:?}");
            self.breaches.add(Invariant::OutsideOnce, text);
        }
    }

    /// An outside system is told.
    pub fn tells_outside(&mut self, told: Told) {
        self.facts.told_outside += 1;
        if !self.outside.ids.insert(told.id.clone()) {
            self.breaches.add(Invariant::OutsideOnce, format!("{} was told twice", told.id));
        }
        self.outside.told.push(told.id);
        self.outside.believed.insert(told.ticket, told.stand);
    }

    /// What a node's journal would tell an outside system when everything has come to rest, from its beginning.
    pub fn exported(&mut self, node: u64, ids: &[String]) {
        if ids != self.outside.told {
            let (found, told) = (ids.len(), self.outside.told.len());
            let text =
                format!("node {node} would tell {found} events otherwise than the {told} that were told");
            self.breaches.add(Invariant::OutsideOnce, text);
        }
        let believes = |ticket: &Ticket| match (self.outside.believed.get(&ticket.name), &ticket.stand) {
            (Some(Stand::PutOff { .. }), Stand::PutOff { .. }) => true,
            (believed, stand) => believed == Some(stand),
        };
        let wrong = self.tickets.values().find(|ticket| !believes(ticket));
        if let Some(wrong) = wrong {
            let believed = self.outside.believed.get(&wrong.name);
            let text = format!("{wrong:?} is believed to be {believed:?} by who was told all");
            self.breaches.add(Invariant::OutsideOnce, text);
        }
    }
}

/// Days since a fixed one.
const fn days(day: Day) -> i64 {
    let (year, month, of_month) = ((day / 10_000) as i64, (day / 100 % 100) as i64, (day % 100) as i64);
    // Years begin with March, so that the odd day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + of_month
}
