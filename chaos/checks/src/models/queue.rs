//! The model of an office's queue: who waits, who is at which window, and which number comes next.
//!
//! A visitor is called by since when they wait; priority is a head start of the office's fairness bound and no more, so
//! that whoever came earlier than that goes first (R-Q12). Times are taken from what was seen of a ticket, by anybody; of
//! one that nobody ever saw either order is possible.
//!
//! The office's date is not seen, only bounded: an operation may meet the queue's own day or a later one that was
//! possible by then. Once a day may be over, its end may have closed its tickets, and a sweep removed them.

use super::{Op, works_in};
use crate::{
    history::{
        Call, Day, Office, Outcome, Phase, Purpose, QueueSeen, Reply, Seen, Setting, TicketName, TicketSeen,
    },
    linear::Model,
};
use std::{collections::BTreeMap, ops::RangeInclusive};

/// Numbers of one letter and day.
const NUMBERS_MAX: u16 = 999;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State<'a> {
    /// Of the latest ticket; 0: none yet.
    day: Day,
    /// The last number of each letter on that day.
    last: Vec<(char, u16)>,
    /// In the order they were taken.
    tickets: Vec<Ticket<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ticket<'a> {
    day: Day,
    letter: char,
    number: u16,
    priority: bool,
    place: Place<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place<'a> {
    Waiting,
    Called(&'a str),
    InService(&'a str),
    Finished(&'a str),
}

/// The model of one office's queue.
pub struct QueueModel<'a> {
    setting: &'a Setting,
    code: &'a str,
    office: Option<&'a Office>,
    /// Dates that were possible or have been seen, in order: clocks that are behind the fastest may show others than
    /// the setting names.
    days: Vec<Day>,
    /// What is known of when tickets were taken.
    waits: BTreeMap<&'a TicketName, Wait>,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    since_ms: i64,
    before_all: bool,
}

enum Decision<'a> {
    Refused(&'static str),
    Done(State<'a>, Seeing<'a>),
}

/// What a reply must show.
enum Seeing<'a> {
    /// With how many may wait before it.
    Taken(Ticket<'a>, RangeInclusive<u32>),
    Ticket(Ticket<'a>),
}

impl<'a> QueueModel<'a> {
    /// `seen`: everything that was seen of this queue.
    pub fn new(setting: &'a Setting, office: &'a str, seen: impl Iterator<Item = &'a Outcome>) -> Self {
        let mut days: Vec<Day> = setting.days.iter().map(|(_, day)| *day).collect();
        let mut waits = BTreeMap::new();
        for outcome in seen {
            days.extend(day_of(outcome));
            for ticket in tickets_of(outcome).iter().filter(|ticket| ticket.since_ms != 0) {
                let wait = Wait { since_ms: ticket.since_ms, before_all: ticket.before_all };
                waits.insert(&ticket.name, wait);
            }
        }
        days.sort_unstable();
        days.dedup();
        Self { setting, code: office, office: setting.offices.get(office), days, waits }
    }

    fn wait(&self, ticket: &Ticket<'_>) -> Option<Wait> {
        let name = TicketName { day: ticket.day, number: format!("{}{:03}", ticket.letter, ticket.number) };
        self.waits.get(&name).copied()
    }

    /// Is a ticket with priority called before one without that was taken earlier? `None`: it is not known.
    fn overtakes(&self, later: &Ticket<'_>, earlier: &Ticket<'_>, office: &Office) -> Option<bool> {
        let later = self.wait(later)?;
        if later.before_all {
            return Some(true);
        }
        Some(later.since_ms - office.fairness_ms < self.wait(earlier)?.since_ms)
    }

    fn take(
        &self,
        state: &State<'a>,
        day: Day,
        letter: char,
        priority: bool,
        office: &Office,
    ) -> Decision<'a> {
        let mut next = state.clone();
        if day != state.day {
            next.day = day;
            next.last.clear();
        }
        let place = match next.last.iter().position(|(known, _)| *known == letter) {
            Some(place) => place,
            None => {
                next.last.push((letter, 0));
                next.last.sort_unstable();
                next.last.iter().position(|(known, _)| *known == letter).unwrap_or(0)
            }
        };
        if next.last[place].1 >= NUMBERS_MAX {
            return Decision::Refused("TICKETS_EXHAUSTED");
        }
        next.last[place].1 += 1;
        let ticket = Ticket { day, letter, number: next.last[place].1, priority, place: Place::Waiting };
        let waiting =
            || state.tickets.iter().filter(|other| other.day == day && other.place == Place::Waiting);
        let (mut least, mut most) = (0, 0);
        for other in waiting() {
            let overtaken = if priority && !other.priority {
                self.overtakes(&ticket, other, office)
            } else {
                Some(false)
            };
            least += u32::from(overtaken == Some(false));
            most += u32::from(overtaken != Some(true));
        }
        next.tickets.push(ticket);
        Decision::Done(next, Seeing::Taken(ticket, least..=most))
    }

    fn call_next(
        &self,
        state: &State<'a>,
        day: Day,
        window: &'a str,
        letters: &[char],
        office: &Office,
    ) -> Vec<Decision<'a>> {
        let of_day = || state.tickets.iter().filter(|ticket| ticket.day == day);
        let held = |ticket: &Ticket<'_>| match ticket.place {
            Place::Called(at) | Place::InService(at) => at == window,
            Place::Waiting | Place::Finished(_) => false,
        };
        if of_day().any(held) {
            return vec![Decision::Refused("WINDOW_BUSY")];
        }
        let serves = |letter: char| letters.is_empty() || letters.contains(&letter);
        let mut waiting = of_day()
            .enumerate()
            .filter(|(_, ticket)| ticket.place == Place::Waiting && serves(ticket.letter));
        // Tickets stand in the order they were taken, and go by it among those with priority and among those without.
        let with = waiting.clone().find(|(_, ticket)| ticket.priority);
        let without = waiting.find(|(_, ticket)| !ticket.priority);
        let first = match (with, without) {
            (None, None) => return vec![Decision::Refused("QUEUE_EMPTY")],
            (Some((_, one)), None) | (None, Some((_, one))) => vec![one],
            (Some((place, one)), Some((other_place, _))) if place < other_place => vec![one],
            (Some((_, later)), Some((_, earlier))) => match self.overtakes(later, earlier, office) {
                Some(true) => vec![later],
                Some(false) => vec![earlier],
                None => vec![later, earlier],
            },
        };
        first.into_iter().map(|first| moved(state, *first, Place::Called(window))).collect()
    }

    /// The dates an operation may have met: the queue's own, and later ones.
    fn days(&self, state: &State<'a>, latest: Day) -> Vec<Day> {
        let own = (state.day != 0).then_some(state.day);
        let later = self.days.iter().copied().filter(|day| *day > state.day && *day <= latest);
        own.into_iter().chain(later).collect()
    }

    fn decide(&self, state: &State<'a>, op: &Op<'a>) -> Vec<Decision<'a>> {
        let refused = |reason| vec![Decision::Refused(reason)];
        if !works_in(self.setting, op.client, self.code) {
            return refused("OFFICE_FOREIGN");
        }
        let Some(office) = self.office else { return refused("OFFICE_UNKNOWN") };
        match op.call {
            Call::TakeTicket { purpose, service, category } => {
                let letter = match self.letter(*purpose, service) {
                    Ok(letter) => letter,
                    Err(reason) => return refused(reason),
                };
                let priority = !category.is_empty();
                if priority && !office.categories.contains(category) {
                    return refused("CATEGORY_UNKNOWN");
                }
                let days = self.days(state, op.latest_day);
                days.into_iter().map(|day| self.take(state, day, letter, priority, office)).collect()
            }
            Call::CallNext { window } => {
                let Some(letters) = office.windows.get(window) else { return refused("WINDOW_UNKNOWN") };
                let days = self.days(state, op.latest_day);
                if days.is_empty() {
                    return refused("QUEUE_EMPTY");
                }
                days.into_iter().flat_map(|day| self.call_next(state, day, window, letters, office)).collect()
            }
            Call::Begin { ticket, window } => {
                if !office.windows.contains_key(window) {
                    return refused("WINDOW_UNKNOWN");
                }
                self.with_ticket(state, ticket, op.latest_day, |known| {
                    // Only on the day it was taken.
                    let mut decisions = Vec::new();
                    if known.day != state.day || op.latest_day > known.day {
                        decisions.push(Decision::Refused("TICKET_STATE"));
                    }
                    if known.day == state.day {
                        decisions.push(match known.place {
                            Place::Called(at) if at == window => moved(state, known, Place::InService(at)),
                            Place::Called(_) => Decision::Refused("WINDOW_OTHER"),
                            _ => Decision::Refused("TICKET_STATE"),
                        });
                    }
                    decisions
                })
            }
            Call::Finish { ticket, window, served } => {
                if !office.windows.contains_key(window) {
                    return refused("WINDOW_UNKNOWN");
                }
                self.with_ticket(state, ticket, op.latest_day, |known| {
                    vec![match (known.place, served) {
                        (Place::InService(at), true) | (Place::Called(at), false) => {
                            if at == window {
                                moved(state, known, Place::Finished(at))
                            } else {
                                Decision::Refused("WINDOW_OTHER")
                            }
                        }
                        _ => Decision::Refused("TICKET_STATE"),
                    }]
                })
            }
            // Calls of cases, and calls that must not come this far.
            _ => Vec::new(),
        }
    }

    fn letter(&self, purpose: Purpose, service: &str) -> Result<char, &'static str> {
        let own = match purpose {
            Purpose::Apply => 'У',
            Purpose::AskStatus => 'С',
            Purpose::CollectResult => 'Р',
            Purpose::Other => 'П',
        };
        if service.is_empty() {
            return Ok(own);
        }
        let known = self.setting.services.get(service).ok_or("SERVICE_UNKNOWN")?;
        match purpose {
            Purpose::Apply if !known.active => Err("SERVICE_INACTIVE"),
            Purpose::Apply => Ok(known.letter),
            _ => Ok(own),
        }
    }

    fn with_ticket(
        &self,
        state: &State<'a>,
        name: &TicketName,
        latest: Day,
        decide: impl FnOnce(Ticket<'a>) -> Vec<Decision<'a>>,
    ) -> Vec<Decision<'a>> {
        let Some(known) = state.tickets.iter().copied().find(|ticket| ticket.is(name)) else {
            return vec![Decision::Refused("TICKET_UNKNOWN")];
        };
        let mut decisions = decide(known);
        // The day may have turned: its end closed what was open, and then the sweep came.
        if latest > known.day {
            decisions.push(Decision::Refused("TICKET_STATE"));
            decisions.push(Decision::Refused("TICKET_UNKNOWN"));
        }
        decisions
    }

    fn shows(&self, state: &State<'a>, seen: &Seen) -> bool {
        match seen {
            Seen::Absent => state.day == 0,
            Seen::Queue(QueueSeen { day, tickets, .. }) => {
                let of_day = state.tickets.iter().filter(|ticket| ticket.day == state.day).count();
                // A sweep after midnight removes them all, if no ticket of the new day was taken yet.
                let all = tickets.len() == of_day || (tickets.is_empty() && self.later_than(state.day));
                *day == state.day
                    && all
                    && tickets.windows(2).all(|pair| pair[0].name < pair[1].name)
                    && tickets.iter().all(|seen| {
                        state
                            .tickets
                            .iter()
                            .find(|ticket| ticket.is(&seen.name))
                            .is_some_and(|own| own.shows(seen) || self.closed_by_its_day(own, seen))
                    })
            }
            Seen::Case(_) => false,
        }
    }

    /// The day's end gives a ticket that is still open its final state.
    fn closed_by_its_day(&self, own: &Ticket<'_>, seen: &TicketSeen) -> bool {
        let open = !matches!(own.place, Place::Finished(_));
        let closed = matches!(&seen.phase, Phase::Finished(window) if window.is_empty());
        open && closed && seen.priority == own.priority && self.later_than(own.day)
    }

    fn later_than(&self, day: Day) -> bool {
        self.days.last().is_some_and(|last| *last > day)
    }
}

/// The date an answer shows.
fn day_of(outcome: &Outcome) -> Option<Day> {
    let Outcome::Done { reply, .. } = outcome else { return None };
    match reply {
        Reply::TicketTaken { ticket, .. } | Reply::Ticket(ticket) => Some(ticket.name.day),
        Reply::Read(Seen::Queue(queue)) => Some(queue.day),
        _ => None,
    }
}

/// The tickets an answer shows.
fn tickets_of(outcome: &Outcome) -> &[TicketSeen] {
    let Outcome::Done { reply, .. } = outcome else { return &[] };
    match reply {
        Reply::TicketTaken { ticket, .. } | Reply::Ticket(ticket) => std::slice::from_ref(ticket),
        Reply::Read(Seen::Queue(queue)) => &queue.tickets,
        _ => &[],
    }
}

impl Ticket<'_> {
    fn is(&self, name: &TicketName) -> bool {
        let mut letters = name.number.chars();
        name.day == self.day
            && letters.next() == Some(self.letter)
            && letters.as_str().len() == 3
            && letters.as_str().parse() == Ok(self.number)
    }

    fn shows(&self, seen: &TicketSeen) -> bool {
        let place = match &seen.phase {
            Phase::Waiting => Place::Waiting,
            Phase::Called(window) => Place::Called(window),
            Phase::InService(window) => Place::InService(window),
            Phase::Finished(window) => Place::Finished(window),
        };
        self.is(&seen.name) && seen.priority == self.priority && place == self.place
    }
}

fn moved<'a>(state: &State<'a>, ticket: Ticket<'a>, place: Place<'a>) -> Decision<'a> {
    let mut next = state.clone();
    let after = Ticket { place, ..ticket };
    for own in &mut next.tickets {
        if *own == ticket {
            *own = after;
        }
    }
    Decision::Done(next, Seeing::Ticket(after))
}

impl<'a> Model for QueueModel<'a> {
    type State = State<'a>;
    type Op = Op<'a>;

    fn initial(&self) -> State<'a> {
        State { day: 0, last: Vec::new(), tickets: Vec::new() }
    }

    fn step(&self, state: &State<'a>, op: &Op<'a>, next: &mut Vec<State<'a>>) {
        if let (Call::ReadQueue, Some(Outcome::Done { reply: Reply::Read(seen), .. })) = (op.call, op.seen) {
            if self.shows(state, seen) {
                next.push(state.clone());
            }
            return;
        }
        let before = next.len();
        for decision in self.decide(state, op) {
            let after = match (decision, op.seen) {
                (Decision::Done(state, _), None) => state,
                (Decision::Done(state, seeing), Some(Outcome::Done { reply, .. })) if seeing.is(reply) => {
                    state
                }
                (Decision::Refused(reason), Some(Outcome::Refused(seen))) if reason == seen => state.clone(),
                // Without an outcome a refusal is as if it never happened.
                _ => continue,
            };
            if !next[before..].contains(&after) {
                next.push(after);
            }
        }
    }

    fn reads(&self, op: &Op<'a>) -> bool {
        op.reads()
    }

    fn show_op(&self, op: &Op<'a>) -> String {
        op.show()
    }

    fn show_state(&self, state: &State<'a>) -> String {
        format!("{state:?}")
    }
}

impl Seeing<'_> {
    fn is(&self, reply: &Reply) -> bool {
        match (self, reply) {
            (Self::Taken(own, before), Reply::TicketTaken { ticket, ahead }) => {
                own.shows(ticket) && before.contains(ahead)
            }
            (Self::Ticket(own), Reply::Ticket(ticket)) => own.shows(ticket),
            _ => false,
        }
    }
}
