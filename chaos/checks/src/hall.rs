//! What must hold of an office's queue whatever happens, judged from what happened to it, commit by commit: nobody is
//! lost, nobody is served twice, numbers and slots are given once, nobody waits beyond the fairness bound, who was put
//! off comes back, and windows that nobody attends are left and taken up again (`docs/queue.md`). Outside queue systems are
//! judged in [`outside`].
//!
//! The words are the checkers' own, as in [`crate::history`]; the simulator translates. The judge keeps its own picture of
//! every ticket from what it was told and never looks at the product's, except in the end, to compare the two.

pub mod outside;

use crate::{
    breaches::{Breach, Breaches},
    history::{Day, TicketName},
    invariants::Invariant,
};
use std::collections::{BTreeMap, BTreeSet};

/// A timer may be late by so much: between two pieces of work of one timer there is a second, and replicated time
/// follows with the commits.
const SLACK_MS: i64 = 5_000;

/// What governs the office.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Nobody is called before somebody who came earlier by more than this.
    pub fairness_ms: i64,
    /// Letters of groups each window serves; empty: all.
    pub windows: BTreeMap<String, Vec<char>>,
    /// Outside queue systems, and who speaks for each.
    pub outside: BTreeMap<String, BTreeSet<String>>,
}

/// Where a ticket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    Waiting,
    Called(String),
    InService(String),
    PutOff { until_ms: i64 },
    Ended,
}

/// A ticket as it is after something happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub name: TicketName,
    /// Letter of the group whose windows serve it.
    pub group: char,
    /// From when on the visitor waits.
    pub since_ms: i64,
    /// Only this window calls it; empty: any.
    pub bound: String,
    pub at_head: bool,
    pub revision: u32,
    pub stand: Stand,
    /// System and name there of one that an outside system registered.
    pub outside: Option<outside::Outside>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    Taken,
    Called,
    CalledAgain,
    Begun,
    PutOff,
    CameBack,
    Redirected,
    Bound,
    Returned,
    ReturnedToHead,
    Finished,
    DidNotCome,
    Left,
    DayOver,
    CaseLinked,
}

/// Nobody is at a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unattended {
    /// Until then whoever was called stays.
    pub until_ms: i64,
    /// That time is over.
    pub over: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub number: String,
    pub unattended: Option<Unattended>,
    /// Its workstation held a lease when it was last heard of.
    pub leased: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotStand {
    Booked,
    Cancelled,
    Came(TicketName),
    Lapsed,
}

/// An appointment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub booking: String,
    pub service: String,
    pub slot_ms: i64,
    pub stand: SlotStand,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    Moved {
        ticket: Ticket,
        what: Move,
        /// It was called by its number, out of turn.
        by_number: bool,
    },
    /// Tickets of past days went to the archive.
    Swept(Vec<TicketName>),
    Window(Window),
    Slot(Slot),
    /// Bookings of past days went.
    SlotsForgotten(Vec<String>),
}

/// What one node's store held in the end.
#[derive(Debug, Clone, Default)]
pub struct Held {
    pub node: u64,
    pub tickets: Vec<Ticket>,
    /// Those who wait on the queue's day, in the order of calling.
    pub order: Vec<TicketName>,
    pub day: Day,
    pub windows: Vec<Window>,
}

/// Facts that were judged, for reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    pub taken: u64,
    pub called: u64,
    pub served: u64,
    pub came_back: u64,
    pub to_head: u64,
    pub unattended: u64,
    pub slots: u64,
    pub told: u64,
    /// Events of outside systems that were taken, and that they were told.
    pub outside: u64,
    pub told_outside: u64,
    /// Tellings that were refused because nobody named who told.
    pub foreign: u64,
}

impl Facts {
    pub fn add(&mut self, other: &Self) {
        self.taken += other.taken;
        self.called += other.called;
        self.served += other.served;
        self.came_back += other.came_back;
        self.to_head += other.to_head;
        self.unattended += other.unattended;
        self.slots += other.slots;
        self.told += other.told;
        self.outside += other.outside;
        self.told_outside += other.told_outside;
        self.foreign += other.foreign;
    }
}

/// The judge of one office.
#[derive(Debug, Default)]
pub struct Hall {
    rules: Rules,
    tickets: BTreeMap<TicketName, Ticket>,
    archived: BTreeMap<TicketName, u32>,
    last: BTreeMap<(Day, char), u32>,
    day: Day,
    windows: BTreeMap<String, Window>,
    slots: BTreeMap<String, Slot>,
    outside: outside::Book,
    facts: Facts,
    breaches: Breaches,
}

impl Hall {
    pub fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// What broke since the last time it was asked.
    pub fn take_breaches(&mut self) -> Vec<Breach> {
        self.breaches.take()
    }

    /// Something was committed at this replicated time.
    pub fn happened(&mut self, time_ms: i64, what: Happened) {
        match what {
            Happened::Moved { ticket, what, by_number } => self.moved(time_ms, ticket, what, by_number),
            Happened::Swept(names) => {
                for name in names {
                    self.swept(&name);
                }
            }
            Happened::Window(window) => self.window(window),
            Happened::Slot(slot) => self.slot(slot),
            Happened::SlotsForgotten(names) => {
                for name in names {
                    self.slots.remove(&name);
                }
            }
        }
    }

    fn swept(&mut self, name: &TicketName) {
        match self.tickets.remove(name) {
            Some(ticket) => {
                if ticket.stand != Stand::Ended {
                    let text = format!("{} left as {:?}, without a final state", show(name), ticket.stand);
                    self.breaches.add(Invariant::TicketKept, text);
                }
                self.archived.insert(name.clone(), ticket.revision);
            }
            None => {
                self.breaches.add(Invariant::TicketKept, format!("{} left and was not there", show(name)))
            }
        }
    }

    fn moved(&mut self, time_ms: i64, ticket: Ticket, what: Move, by_number: bool) {
        let name = ticket.name.clone();
        if what == Move::Taken {
            return self.taken(ticket);
        }
        let Some(before) = self.tickets.get(&name).cloned() else {
            let text = format!("{what:?} happened to {}, which is not there", show(&name));
            return self.breaches.add(Invariant::TicketKept, text);
        };
        if ticket.revision != before.revision + 1 {
            let text = format!(
                "{what:?} of {} made revision {} of {}",
                show(&name),
                ticket.revision,
                before.revision
            );
            self.breaches.add(Invariant::TicketKept, text);
        }
        if !follows(&before.stand, what, &ticket.stand) {
            let text = format!("{what:?} took {} from {:?} to {:?}", show(&name), before.stand, ticket.stand);
            self.breaches.add(Invariant::TicketOnce, text);
        }
        match (what, &before.stand) {
            (Move::Called, _) => self.called(&before, &ticket, by_number),
            (Move::Finished, _) => self.facts.served += 1,
            (Move::CameBack, Stand::PutOff { until_ms }) => {
                self.facts.came_back += 1;
                if time_ms < *until_ms {
                    let early = until_ms - time_ms;
                    self.breaches
                        .add(Invariant::DeferredBack, format!("{} came back {early} ms early", show(&name)));
                }
            }
            (Move::ReturnedToHead, Stand::Called(window)) => {
                self.goes_to_head(time_ms, &ticket, &window.clone());
            }
            _ => {}
        }
        self.tickets.insert(name, ticket);
    }

    fn taken(&mut self, ticket: Ticket) {
        self.facts.taken += 1;
        let name = ticket.name.clone();
        if self.tickets.contains_key(&name) || self.archived.contains_key(&name) {
            self.breaches.add(Invariant::NumbersUnique, format!("{} was given out twice", show(&name)));
        }
        if name.day < self.day {
            self.breaches
                .add(Invariant::NumbersUnique, format!("{} is of a day before {}", show(&name), self.day));
        }
        self.named_outside(&ticket);
        self.day = self.day.max(name.day);
        let mut letters = name.number.chars();
        let letter = letters.next().unwrap_or('?');
        let number: u32 = letters.as_str().parse().unwrap_or(0);
        let last = self.last.entry((name.day, letter)).or_default();
        let expected = *last + 1;
        *last = number.max(*last);
        if number != expected {
            self.breaches.add(
                Invariant::NumbersUnique,
                format!("{} follows {letter}{:03}", show(&name), expected - 1),
            );
        }
        if ticket.stand != Stand::Waiting || ticket.revision != 1 {
            let text = format!("{} begins as {:?}, {}", show(&name), ticket.stand, ticket.revision);
            self.breaches.add(Invariant::TicketKept, text);
        }
        self.tickets.insert(name, ticket);
    }

    /// A visitor goes to a window: is it free and attended, and is nobody passed over?
    fn called(&mut self, before: &Ticket, after: &Ticket, by_number: bool) {
        self.facts.called += 1;
        let Stand::Called(window) = &after.stand else { return };
        let name = &after.name;
        let others = || self.tickets.values().filter(|other| other.name.day == name.day);
        let held = others().find(|other| {
            other.name != *name
                && matches!(&other.stand, Stand::Called(at) | Stand::InService(at) if at == window)
        });
        let mut broken = Vec::new();
        if let Some(held) = held {
            let text = format!("window {window} calls {} and has {}", show(name), show(&held.name));
            broken.push((Invariant::TicketOnce, text));
        }
        if self.windows.get(window).is_some_and(|known| known.unattended.is_some()) {
            let text = format!("{} is called to window {window}, where nobody is", show(name));
            broken.push((Invariant::WindowAttended, text));
        }
        if !by_number {
            let serves = |group: char| match self.rules.windows.get(window) {
                Some(letters) => letters.is_empty() || letters.contains(&group),
                None => false,
            };
            // Who is bound to another window is that one's, or, when nobody works there, anybody's: either may be.
            let could_be = |other: &&Ticket| {
                other.name != *name
                    && other.stand == Stand::Waiting
                    && (other.bound == *window || other.bound.is_empty() && serves(other.group))
            };
            for passed in others().filter(could_be) {
                if passed.at_head && !before.at_head {
                    let text =
                        format!("{} is called before {}, who is at the head", show(name), show(&passed.name));
                    broken.push((Invariant::WindowAttended, text));
                }
                let later_ms = before.since_ms - passed.since_ms;
                if !before.at_head && later_ms > self.rules.fairness_ms {
                    let text = format!(
                        "{} is called to window {window} before {}, who came {later_ms} ms earlier; the bound is {} ms",
                        show(name),
                        show(&passed.name),
                        self.rules.fairness_ms
                    );
                    broken.push((Invariant::FairTurn, text));
                }
            }
        }
        for (id, text) in broken {
            self.breaches.add(id, text);
        }
    }

    fn goes_to_head(&mut self, time_ms: i64, ticket: &Ticket, window: &str) {
        self.facts.to_head += 1;
        let left = self.windows.get(window).and_then(|known| known.unattended);
        let due = left.is_some_and(|left| left.over && time_ms >= left.until_ms);
        if !due || !ticket.at_head {
            let text = format!(
                "{} returns from window {window} ({left:?}) at {time_ms}, at the head: {}",
                show(&ticket.name),
                ticket.at_head
            );
            self.breaches.add(Invariant::WindowAttended, text);
        }
    }

    fn window(&mut self, window: Window) {
        let known = self.windows.get(&window.number).and_then(|known| known.unattended);
        self.facts.unattended += u64::from(known.is_none() && window.unattended.is_some());
        if let (Some(before), Some(now)) = (known, window.unattended)
            && now.until_ms != before.until_ms
        {
            let text = format!("the grace time of window {} began anew", window.number);
            self.breaches.add(Invariant::WindowAttended, text);
        }
        self.windows.insert(window.number.clone(), window);
    }

    fn slot(&mut self, slot: Slot) {
        let known = self.slots.get(&slot.booking).map(|known| known.stand.clone());
        let fine = match (&known, &slot.stand) {
            (None, SlotStand::Booked) => {
                self.facts.slots += 1;
                let taken = self.slots.values().find(|other| {
                    other.stand != SlotStand::Cancelled
                        && (other.slot_ms, &other.service) == (slot.slot_ms, &slot.service)
                });
                taken.is_none()
            }
            (Some(SlotStand::Booked), SlotStand::Cancelled | SlotStand::Lapsed) => true,
            (Some(SlotStand::Booked | SlotStand::Lapsed), SlotStand::Came(ticket)) => {
                self.tickets.contains_key(ticket)
            }
            _ => false,
        };
        if !fine {
            let text = format!(
                "booking {} of {} at {} went from {known:?} to {:?}",
                slot.booking, slot.service, slot.slot_ms, slot.stand
            );
            self.breaches.add(Invariant::SlotOnce, text);
        }
        self.slots.insert(slot.booking.clone(), slot);
    }

    /// Somebody was told of a ticket as it was after so many changes.
    pub fn told(&mut self, name: &TicketName, revision: u32) {
        self.facts.told += 1;
        let known = self.tickets.get(name).map(|ticket| ticket.revision);
        let known = known.or_else(|| self.archived.get(name).copied());
        if known.is_none_or(|known| known < revision) {
            let text =
                format!("{} was told with revision {revision}, and is there with {known:?}", show(name));
            self.breaches.add(Invariant::TicketKept, text);
        }
    }

    /// No grace time of a window runs any more.
    pub fn graces_over(&self) -> bool {
        self.windows.values().all(|window| window.unattended.is_none_or(|left| left.over))
    }

    /// A window as it was last heard of.
    pub fn window_now(&self, number: &str) -> Option<&Window> {
        self.windows.get(number)
    }

    /// What a node's store holds when everything has come to rest at this replicated time.
    pub fn held(&mut self, held: &Held, time_ms: i64) {
        let node = held.node;
        let mut broken = Vec::new();
        let found: BTreeMap<_, _> = held.tickets.iter().map(|ticket| (&ticket.name, ticket)).collect();
        for (name, own) in &self.tickets {
            if found.get(name) != Some(&own) {
                let text =
                    format!("node {node}: {} should be {own:?} and is {:?}", show(name), found.get(name));
                broken.push((Invariant::TicketKept, text));
            }
            if let Stand::PutOff { until_ms } = own.stand
                && until_ms + SLACK_MS <= time_ms
            {
                let text =
                    format!("{} was put off until {until_ms} and is not back at {time_ms}", show(name));
                broken.push((Invariant::DeferredBack, text));
            }
        }
        for name in found.keys().filter(|name| !self.tickets.contains_key(**name)) {
            broken.push((Invariant::TicketKept, format!("node {node}: {} is there unasked", show(name))));
        }
        let waiting: BTreeSet<_> = self
            .tickets
            .values()
            .filter(|ticket| ticket.stand == Stand::Waiting && ticket.name.day == held.day)
            .map(|ticket| &ticket.name)
            .collect();
        if held.order.len() != waiting.len() || !held.order.iter().all(|name| waiting.contains(name)) {
            let text = format!("node {node}: {} would be called, {} wait", held.order.len(), waiting.len());
            broken.push((Invariant::TicketKept, text));
        }
        for window in &held.windows {
            if self.windows.get(&window.number) != Some(window) {
                let text = format!("node {node}: window {} is not as it was last changed", window.number);
                broken.push((Invariant::WindowAttended, text));
            }
            if let Some(left) = window.unattended
                && !left.over
                && left.until_ms + SLACK_MS <= time_ms
            {
                let text = format!("the grace time of window {} is over and nothing followed", window.number);
                broken.push((Invariant::WindowAttended, text));
            }
        }
        for (id, text) in broken {
            self.breaches.add(id, text);
        }
    }
}

fn show(name: &TicketName) -> String {
    format!("{} of {}", name.number, name.day)
}

/// May this come of that?
fn follows(before: &Stand, what: Move, after: &Stand) -> bool {
    use Stand::{Called, Ended, InService, PutOff, Waiting};
    match (what, before, after) {
        (Move::Called, Waiting | PutOff { .. }, Called(_))
        | (Move::PutOff, Called(_), PutOff { .. })
        | (Move::CameBack, PutOff { .. }, Waiting)
        | (Move::Redirected, Called(_) | InService(_), Waiting)
        | (Move::Returned | Move::ReturnedToHead, Called(_), Waiting)
        | (Move::Finished, InService(_), Ended)
        | (Move::DidNotCome, Called(_), Ended)
        | (Move::Left, Waiting | PutOff { .. } | Called(_), Ended)
        | (Move::DayOver, Waiting | PutOff { .. } | Called(_) | InService(_), Ended) => true,
        (Move::Begun, Called(at), InService(window)) => at == window,
        (Move::CalledAgain, Called(_), _)
        | (Move::Bound, Waiting | PutOff { .. }, _)
        | (Move::CaseLinked, _, _) => before == after,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
