//! The model of an office's queue: who waits, who is at which window, which windows are open, and which number comes next.
//!
//! A visitor is called by since when they wait; priority is a head start of the office's fairness bound and no more, so
//! that whoever came earlier than that goes first (R-Q12). Times are taken from what was seen of a ticket, by anybody; of
//! one that nobody ever saw either order is possible.
//!
//! The office's date is not seen, only bounded: an operation may meet the queue's own day or a later one that was
//! possible by then. Once a day may be over, its end may have closed its tickets, and a sweep removed them. Nor is the time:
//! who was put off may be back, and a break be over, once a clock may have shown so, and not before.

use super::{Op, works_in};
use crate::{
    history::{
        Call, Day, Destination, Office, Outcome, Phase, Purpose, QueueSeen, Reply, Seen, Setting, TicketName,
        TicketSeen, WindowStand,
    },
    linear::Model,
};
use stand::{call, changed, receives};
use std::{collections::BTreeMap, ops::RangeInclusive};

mod stand;

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
    /// Those that were ever opened, closed or called from, by number.
    windows: Vec<Window<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Window<'a> {
    number: &'a str,
    /// Another day it is as if nothing had been said of it.
    day: Day,
    stand: WindowStand,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ticket<'a> {
    day: Day,
    letter: char,
    number: u16,
    priority: bool,
    /// Letter of the windows that serve it.
    group: char,
    /// Only this window calls it; empty: any.
    bound: &'a str,
    /// To the window that has it or had it last.
    calls: u8,
    put_offs: u8,
    redirects: u8,
    place: Place<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place<'a> {
    Waiting,
    Called(&'a str),
    InService(&'a str),
    Finished(&'a str),
    /// Until then; 0: nobody learned until when.
    PutOff(i64),
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
    Window(Window<'a>),
}

impl<'a> QueueModel<'a> {
    /// `seen`: everything that was seen of this queue.
    pub fn new(setting: &'a Setting, office: &'a str, seen: impl Iterator<Item = &'a Outcome>) -> Self {
        let mut days: Vec<Day> = setting.days.iter().map(|(_, day)| *day).collect();
        let mut waits = BTreeMap::new();
        for outcome in seen {
            days.extend(days_of(outcome));
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
        latest_ms: i64,
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
        let ticket = Ticket {
            day,
            letter,
            number: next.last[place].1,
            priority,
            group: letter,
            bound: "",
            calls: 0,
            put_offs: 0,
            redirects: 0,
            place: Place::Waiting,
        };
        let (mut least, mut most) = (0, 0);
        for other in state.tickets.iter().filter(|other| other.day == day) {
            let back = match other.place {
                Place::Waiting => Some(true),
                Place::PutOff(until_ms) if until_ms <= latest_ms => None,
                _ => Some(false),
            };
            let overtaken = if priority && !other.priority {
                self.overtakes(&ticket, other, office)
            } else {
                Some(false)
            };
            least += u32::from(back == Some(true) && overtaken == Some(false));
            most += u32::from(back != Some(false) && overtaken != Some(true));
        }
        next.tickets.push(ticket);
        Decision::Done(next, Seeing::Taken(ticket, least..=most))
    }

    /// Is `one` called before `other`? They stand in the order they were taken, and go by it among those with priority and
    /// among those without. `None`: it is not known.
    fn goes_before(
        &self,
        one: (usize, &Ticket<'_>),
        other: (usize, &Ticket<'_>),
        office: &Office,
    ) -> Option<bool> {
        let ((place, one), (other_place, other)) = (one, other);
        match (one.priority, other.priority) {
            (true, false) if place > other_place => self.overtakes(one, other, office),
            (false, true) if place < other_place => {
                self.overtakes(other, one, office).map(|overtakes| !overtakes)
            }
            _ => Some(place < other_place),
        }
    }

    /// Whom a window that is free and open calls.
    fn call_next(
        &self,
        state: &State<'a>,
        day: Day,
        window: &'a str,
        latest_ms: i64,
        office: &Office,
    ) -> Vec<Decision<'a>> {
        let letters = office.windows.get(window).map_or(&[][..], Vec::as_slice);
        let serves = |letter: char| letters.is_empty() || letters.contains(&letter);
        let calls = |ticket: &Ticket<'_>| {
            let free = ticket.bound.is_empty() || !state.works(ticket.bound, day);
            ticket.day == day && (ticket.bound == window || serves(ticket.group) && free)
        };
        // Those who wait; those who were put off may be back.
        let eligible: Vec<(usize, &Ticket<'a>, bool)> = state
            .tickets
            .iter()
            .enumerate()
            .filter(|(_, ticket)| calls(ticket))
            .filter_map(|(place, ticket)| match ticket.place {
                Place::Waiting => Some((place, ticket, true)),
                Place::PutOff(until_ms) if until_ms <= latest_ms => Some((place, ticket, false)),
                _ => None,
            })
            .collect();
        let mut all: Vec<Decision<'a>> = eligible
            .iter()
            .filter(|(place, ticket, _)| {
                let passed = |(other_place, other, waits): &(usize, &Ticket<'a>, bool)| {
                    let before = || self.goes_before((*other_place, other), (*place, ticket), office);
                    *waits && other_place != place && before() == Some(true)
                };
                !eligible.iter().any(passed)
            })
            .map(|(_, ticket, _)| call(state, **ticket, window, day))
            .collect();
        if !eligible.iter().any(|(_, _, waits)| *waits) {
            all.push(Decision::Refused("QUEUE_EMPTY"));
        }
        all
    }

    /// Can the window call on this day? What it is refused with, and whether it may not be.
    fn ready(state: &State<'_>, window: &str, day: Day, latest_ms: i64) -> (Option<&'static str>, bool) {
        if state.held_by(window, day) {
            return (Some("WINDOW_BUSY"), false);
        }
        match state.stand(window, day) {
            Some(WindowStand::Closed) => (Some("WINDOW_CLOSED"), false),
            Some(WindowStand::Break { until_ms }) => (Some("WINDOW_ON_BREAK"), until_ms <= latest_ms),
            Some(WindowStand::Open) | None => (None, true),
        }
    }

    /// What comes of a call from a window that is known, on every day it may be.
    fn calls(
        &self,
        state: &State<'a>,
        op: &Op<'a>,
        window: &'a str,
        then: impl Fn(Day) -> Vec<Decision<'a>>,
    ) -> Vec<Decision<'a>> {
        let mut all = Vec::new();
        for day in self.days(state, op.latest_day) {
            let (refused, may) = Self::ready(state, window, day, op.latest_ms);
            all.extend(refused.map(Decision::Refused));
            if may {
                all.extend(then(day));
            }
        }
        all
    }

    fn call_number(
        &self,
        state: &State<'a>,
        op: &Op<'a>,
        name: &TicketName,
        window: &'a str,
    ) -> Vec<Decision<'a>> {
        self.calls(state, op, window, |day| {
            self.with_ticket(state, name, op.latest_day, |known| {
                let elsewhere =
                    !known.bound.is_empty() && known.bound != window && state.works(known.bound, day);
                vec![match known.place {
                    _ if known.day != day => Decision::Refused("TICKET_STATE"),
                    Place::Waiting | Place::PutOff(_) if elsewhere => Decision::Refused("TICKET_BOUND"),
                    Place::Waiting | Place::PutOff(_) => call(state, known, window, day),
                    Place::Called(_) | Place::InService(_) => Decision::Refused("WINDOW_OTHER"),
                    Place::Finished(_) => Decision::Refused("TICKET_STATE"),
                }]
            })
        })
    }

    /// What is done with a ticket of the day. One of a past day is refused, and a later day may have come.
    fn of_today(
        &self,
        state: &State<'a>,
        op: &Op<'a>,
        name: &TicketName,
        decide: impl Fn(Ticket<'a>) -> Decision<'a>,
    ) -> Vec<Decision<'a>> {
        self.with_ticket(state, name, op.latest_day, |known| {
            let mut decisions = Vec::new();
            if known.day != state.day || op.latest_day > known.day {
                decisions.push(Decision::Refused("TICKET_STATE"));
            }
            if known.day == state.day {
                decisions.push(decide(known));
            }
            decisions
        })
    }

    /// As above, with a ticket that the window has called and not begun to serve.
    fn called_at(
        &self,
        state: &State<'a>,
        op: &Op<'a>,
        (name, window): (&TicketName, &str),
        decide: impl Fn(Ticket<'a>) -> Decision<'a>,
    ) -> Vec<Decision<'a>> {
        self.of_today(state, op, name, |known| match known.place {
            Place::Called(at) if at == window => decide(known),
            Place::Called(_) => Decision::Refused("WINDOW_OTHER"),
            _ => Decision::Refused("TICKET_STATE"),
        })
    }

    fn redirect(
        &self,
        state: &State<'a>,
        known: Ticket<'a>,
        window: &str,
        to: &'a Destination,
        office: &Office,
    ) -> Decision<'a> {
        match known.place {
            Place::Called(at) | Place::InService(at) if at == window => {}
            Place::Called(_) | Place::InService(_) => return Decision::Refused("WINDOW_OTHER"),
            _ => return Decision::Refused("TICKET_STATE"),
        }
        if known.redirects >= Office::REDIRECTS_MAX {
            return Decision::Refused("TICKET_LIMIT");
        }
        let (group, bound) = match to {
            Destination::Window(other) if other == window => return Decision::Refused("FIELD_INVALID"),
            Destination::Window(other) => match receives(state, other, known.day, office) {
                Ok(()) => (known.group, other.as_str()),
                Err(reason) => return Decision::Refused(reason),
            },
            Destination::Service(service) => match self.letter(Purpose::Apply, service) {
                Ok(letter) => (letter, ""),
                Err(reason) => return Decision::Refused(reason),
            },
        };
        let redirects = known.redirects + 1;
        changed(state, known, Ticket { group, bound, redirects, calls: 0, place: Place::Waiting, ..known })
    }

    /// A window is opened, closed or left for a break, on every day it may be.
    fn window(
        &self,
        state: &State<'a>,
        op: &Op<'a>,
        window: &'a str,
        decide: impl Fn(Day) -> Result<WindowStand, &'static str>,
    ) -> Vec<Decision<'a>> {
        let on = |day| match decide(day) {
            Ok(stand) => {
                let mut next = state.clone();
                let after = next.put(Window { number: window, day, stand });
                Decision::Done(next, Seeing::Window(after))
            }
            Err(reason) => Decision::Refused(reason),
        };
        self.days(state, op.latest_day).into_iter().map(on).collect()
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
                days.into_iter()
                    .map(|day| self.take(state, day, letter, priority, op.latest_ms, office))
                    .collect()
            }
            Call::CallNext { window } if self.days(state, op.latest_day).is_empty() => {
                refused(if office.windows.contains_key(window) { "QUEUE_EMPTY" } else { "WINDOW_UNKNOWN" })
            }
            Call::CallNext { window }
            | Call::CallNumber { window, .. }
            | Call::CallAgain { window, .. }
            | Call::Begin { window, .. }
            | Call::Finish { window, .. }
            | Call::PutOff { window, .. }
            | Call::Redirect { window, .. }
            | Call::ReturnToQueue { window, .. }
            | Call::OpenWindow { window }
            | Call::CloseWindow { window }
            | Call::StartBreak { window, .. }
                if !office.windows.contains_key(window) =>
            {
                refused("WINDOW_UNKNOWN")
            }
            Call::CallNext { window } => {
                self.calls(state, op, window, |day| self.call_next(state, day, window, op.latest_ms, office))
            }
            Call::CallNumber { ticket, window } => self.call_number(state, op, ticket, window),
            Call::CallAgain { ticket, window } => {
                self.called_at(state, op, (ticket, window), |known| match known.calls {
                    calls if calls >= Office::CALLS_MAX => Decision::Refused("TICKET_LIMIT"),
                    calls => changed(state, known, Ticket { calls: calls + 1, ..known }),
                })
            }
            Call::Begin { ticket, window } => self.called_at(state, op, (ticket, window), |known| {
                changed(state, known, Ticket { place: Place::InService(window), ..known })
            }),
            Call::PutOff { ticket, window, .. } => {
                // Until when is seen, or known to nobody.
                let until_ms = match op.seen {
                    Some(Outcome::Done { reply: Reply::Ticket(seen), .. }) => match seen.phase {
                        Phase::PutOff { until_ms } => until_ms,
                        _ => 0,
                    },
                    _ => 0,
                };
                self.called_at(state, op, (ticket, window), |known| match known.put_offs {
                    put_offs if put_offs >= Office::PUT_OFFS_MAX => Decision::Refused("TICKET_LIMIT"),
                    put_offs => {
                        let (calls, put_offs, place) = (0, put_offs + 1, Place::PutOff(until_ms));
                        changed(state, known, Ticket { calls, put_offs, place, ..known })
                    }
                })
            }
            Call::ReturnToQueue { ticket, window } => self.called_at(state, op, (ticket, window), |known| {
                changed(state, known, Ticket { calls: 0, place: Place::Waiting, ..known })
            }),
            Call::Redirect { ticket, window, to } => {
                self.of_today(state, op, ticket, |known| self.redirect(state, known, window, to, office))
            }
            Call::Bind { ticket, window } => self.of_today(state, op, ticket, |known| match known.place {
                Place::Waiting | Place::PutOff(_) if window.is_empty() => {
                    changed(state, known, Ticket { bound: "", ..known })
                }
                Place::Waiting | Place::PutOff(_) => match receives(state, window, known.day, office) {
                    Ok(()) => changed(state, known, Ticket { bound: window, ..known }),
                    Err(reason) => Decision::Refused(reason),
                },
                _ => Decision::Refused("TICKET_STATE"),
            }),
            Call::Leave { ticket } => self.with_ticket(state, ticket, op.latest_day, |known| {
                vec![match known.place {
                    Place::Waiting | Place::PutOff(_) | Place::Called(_) => {
                        changed(state, known, Ticket { place: Place::Finished(""), ..known })
                    }
                    Place::InService(_) | Place::Finished(_) => Decision::Refused("TICKET_STATE"),
                }]
            }),
            Call::Finish { ticket, window, served } => {
                self.with_ticket(state, ticket, op.latest_day, |known| {
                    vec![match (known.place, served) {
                        (Place::InService(at), true) | (Place::Called(at), false) => {
                            if at != window {
                                Decision::Refused("WINDOW_OTHER")
                            } else if !served && known.calls < office.calls_before_no_show {
                                Decision::Refused("CALLS_TOO_FEW")
                            } else {
                                changed(state, known, Ticket { place: Place::Finished(at), ..known })
                            }
                        }
                        _ => Decision::Refused("TICKET_STATE"),
                    }]
                })
            }
            Call::OpenWindow { window } => self.window(state, op, window, |_| Ok(WindowStand::Open)),
            Call::CloseWindow { window } => self.window(state, op, window, |day| {
                if state.held_by(window, day) { Err("WINDOW_BUSY") } else { Ok(WindowStand::Closed) }
            }),
            Call::StartBreak { window, .. } => {
                let until_ms = match op.seen {
                    Some(Outcome::Done { reply: Reply::Window(seen), .. }) => match seen.stand {
                        WindowStand::Break { until_ms } => until_ms,
                        _ => 0,
                    },
                    _ => 0,
                };
                self.window(state, op, window, |day| {
                    if state.held_by(window, day) {
                        return Err("WINDOW_BUSY");
                    }
                    receives(state, window, day, office).map(|()| WindowStand::Break { until_ms })
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
            Seen::Queue(QueueSeen { day, tickets, windows, .. }) => {
                let of_day = state.tickets.iter().filter(|ticket| ticket.day == state.day).count();
                // A sweep after midnight removes them all, if no ticket of the new day was taken yet.
                let all = tickets.len() == of_day || (tickets.is_empty() && self.later_than(state.day));
                let shown = windows.as_ref().is_none_or(|windows| {
                    windows.len() == state.windows.len()
                        && state.windows.iter().all(|own| windows.iter().any(|seen| own.shows(seen)))
                });
                *day == state.day
                    && all
                    && shown
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

/// The dates an answer shows.
fn days_of(outcome: &Outcome) -> Vec<Day> {
    let Outcome::Done { reply, .. } = outcome else { return Vec::new() };
    match reply {
        Reply::TicketTaken { ticket, .. } | Reply::Ticket(ticket) => vec![ticket.name.day],
        // A window is opened on a day that nobody has taken a ticket of yet.
        Reply::Window(window) => vec![window.day],
        Reply::Read(Seen::Queue(queue)) => {
            let windows = queue.windows.iter().flatten().map(|window| window.day);
            windows.chain((queue.day != 0).then_some(queue.day)).collect()
        }
        _ => Vec::new(),
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

impl<'a> Model for QueueModel<'a> {
    type State = State<'a>;
    type Op = Op<'a>;

    fn initial(&self) -> State<'a> {
        State { day: 0, last: Vec::new(), tickets: Vec::new(), windows: Vec::new() }
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
            (Self::Window(own), Reply::Window(window)) => own.shows(window),
            _ => false,
        }
    }
}
