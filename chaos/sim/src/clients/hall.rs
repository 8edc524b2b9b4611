//! The people and machines of one hall: a kiosk, windows with their workstations, a reception that books, a head, and an
//! outside queue system that registers visitors of its own ([`outside`]). They
//! do what `docs/queue.md` lets them do, in an order that makes some sense, and sometimes what makes none; the workstations
//! die and come back.
//!
//! What comes of it is judged from what is committed (`crate::services`), and from what they are told.
//!
//! Invariants:
//! - a workstation that is dead says nothing and calls nothing; what it had under way is gone with it;
//! - once the run winds down nothing new is asked for; workstations that live go on saying so.

mod outside;

use super::{
    caller::{Asked, Caller, Ending},
    fixtures, places,
    random::Random,
};
use crate::port::{Action, Event, NodeId, SAID, Word};
use okno_domain::{
    entity::Principal,
    queue::{self, BookingRef, Command, Destination, Purpose, TicketRef, TicketState, VisitOutcome},
    registry::{AnyCommand, AnyReply},
    time::{MINUTE_MS, local_hour_ms},
};
use std::collections::VecDeque;
use uuid::Uuid;

/// Tickets that are remembered: the oldest are forgotten.
const TICKETS_MAX: usize = 48;
const BOOKINGS_MAX: usize = 12;
const REPEATS_MAX: usize = 8;
/// A workstation says so often that it is there.
const WORD_US: u64 = 300_000;
/// How long one that died stays away.
const AWAY_US: (u64, u64) = (1_500_000, 9_000_000);
/// How far all clocks move on when time goes by.
const PASS_MS: (u64, u64) = (8_000, 50_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Kiosk,
    Window(usize),
    Reception,
    Head,
    /// Speaks for an outside queue system.
    Outside,
}

/// A window's workstation.
#[derive(Debug)]
struct Station {
    /// `Some`: dead since then, and until then.
    away: Option<(u64, u64)>,
    /// Whether it lives or not has been so since then.
    since: u64,
    next_word: u64,
    node: NodeId,
}

struct Actor {
    role: Role,
    caller: Caller,
    rest_until: u64,
    station: Option<Station>,
    /// Calls that ended, for asking again.
    repeats: VecDeque<Asked>,
}

#[derive(Debug, Clone)]
struct Known {
    ticket: TicketRef,
    state: TicketState,
    outside: Option<queue::OutsideName>,
}

/// A workstation as the world looks at it: its window, whether it lives, and since when that is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StationSeen {
    pub window: &'static str,
    pub lives: bool,
    pub since_us: u64,
}

/// See the module.
pub struct Hall {
    pub office: &'static str,
    nodes: Vec<NodeId>,
    actors: Vec<Actor>,
    tickets: Vec<Known>,
    bookings: Vec<BookingRef>,
    outside: outside::Book,
    think_us: (u64, u64),
    /// Chance in percent that time goes by with a kiosk's call.
    passes: u64,
    /// The head ends the day when the run winds down.
    closes_day: bool,
    winding_down: bool,
}

impl Hall {
    pub fn new(seed: u64, nodes: &[NodeId], stream: u64) -> Self {
        let mut random = Random::new(seed, stream);
        let office = places::HALLS[random.index(places::HALLS.len())];
        let windows = 2 + random.index(2);
        let roles = [Role::Kiosk, Role::Reception, Role::Head].into_iter();
        let actors = roles
            .chain((0..windows).map(Role::Window))
            .chain([Role::Outside])
            .zip(1..)
            .map(|(role, own)| {
                let caller = Caller::new(seed, stream + own, nodes);
                let station = matches!(role, Role::Window(_)).then(|| Station {
                    away: None,
                    since: 0,
                    next_word: 0,
                    node: caller.node(0),
                });
                Actor { role, caller, rest_until: 0, station, repeats: VecDeque::new() }
            })
            .collect();
        let hurry = random.within(2, 12);
        Self {
            office,
            nodes: nodes.to_vec(),
            actors,
            tickets: Vec::new(),
            bookings: Vec::new(),
            outside: outside::Book::default(),
            think_us: (1_000 * hurry, 10_000 * hurry),
            passes: random.within(3, 15),
            closes_day: random.percent(40),
            winding_down: false,
        }
    }

    pub fn count(&self) -> usize {
        self.actors.len()
    }

    /// The workstations, as they are now.
    pub fn stations(&self) -> impl Iterator<Item = StationSeen> {
        self.actors.iter().filter_map(|actor| {
            let Role::Window(at) = actor.role else { return None };
            let station = actor.station.as_ref()?;
            let window = places::WINDOWS[at];
            Some(StationSeen { window, lives: station.away.is_none(), since_us: station.since })
        })
    }

    pub fn wind_down(&mut self) {
        self.winding_down = true;
    }

    /// Nothing is under way.
    pub fn idle(&self) -> bool {
        self.winding_down && self.actors.iter().all(|actor| actor.caller.is_free()) && !self.closes_day
    }

    pub fn on(&mut self, at: usize, event: Event, now: u64, wall_ms: i64, out: &mut Vec<Action>) {
        if self.is_away(at, now) {
            return;
        }
        if matches!(event, Event::Broken { attempt: SAID, .. }) {
            // Its stream ended: it attaches elsewhere, at once.
            let Actor { station, caller, .. } = &mut self.actors[at];
            if let (Some(station), Some(node)) = (station, caller.random.one_of(&self.nodes)) {
                (station.node, station.next_word) = (*node, 0);
            }
        }
        self.say_so(at, now, out);
        if let Some((asked, ending)) = self.actors[at].caller.on(event, now, out) {
            self.ended(at, asked, ending, now, out);
        }
        let actor = &self.actors[at];
        if actor.caller.is_free() && now >= actor.rest_until {
            self.act(at, now, wall_ms, out);
        }
    }

    /// Is the workstation dead? One whose time has come lives again, at whatever node it finds; in the end none does.
    fn is_away(&mut self, at: usize, now: u64) -> bool {
        let winding_down = self.winding_down;
        let Actor { station, caller, .. } = &mut self.actors[at];
        let Some(station) = station else { return false };
        match station.away {
            Some((_, until)) if now < until || winding_down => true,
            Some(_) => {
                let node = caller.node(now);
                *station = Station { away: None, since: now, next_word: 0, node };
                false
            }
            None => false,
        }
    }

    fn say_so(&mut self, at: usize, now: u64, out: &mut Vec<Action>) {
        let office = self.office;
        let Actor { station, caller, role, .. } = &mut self.actors[at];
        let (Some(station), Role::Window(window)) = (station, *role) else { return };
        if now < station.next_word {
            return;
        }
        // Its stream goes to another node when that one is gone; now and then without a reason.
        if caller.random.percent(10) {
            station.node = caller.node(now);
        }
        let workstation = places::workstation(office, places::WINDOWS[window]).id;
        out.push(Action::Tell { node: station.node, word: Word::Here { workstation } });
        station.next_word = now + WORD_US;
        out.push(Action::Wake { at_us: station.next_word });
    }

    fn ended(&mut self, at: usize, asked: Asked, ending: Ending, now: u64, out: &mut Vec<Action>) {
        if let Ending::Done { reply: AnyReply::Queue(reply), .. } = &ending {
            self.learn(reply);
        }
        let actor = &mut self.actors[at];
        if actor.repeats.len() >= REPEATS_MAX {
            actor.repeats.pop_front();
        }
        if !matches!(ending, Ending::NotApplied) {
            actor.repeats.push_back(asked);
        }
        let pause = actor.caller.random.within(self.think_us.0, self.think_us.1);
        actor.rest_until = now + pause;
        out.push(Action::Wake { at_us: actor.rest_until });
    }

    fn learn(&mut self, reply: &queue::Reply) {
        if let queue::Reply::Booking(booking) = reply
            && !self.bookings.contains(&booking.booking)
        {
            if self.bookings.len() >= BOOKINGS_MAX {
                self.bookings.remove(0);
            }
            self.bookings.push(booking.booking.clone());
        }
        let Some(ticket) = reply.ticket() else { return };
        let state = ticket.state.clone();
        match self.tickets.iter_mut().find(|known| known.ticket == ticket.ticket) {
            Some(known) => known.state = state,
            None => {
                if self.tickets.len() >= TICKETS_MAX {
                    self.tickets.remove(0);
                }
                let outside = ticket.outside.clone();
                self.tickets.push(Known { ticket: ticket.ticket.clone(), state, outside });
            }
        }
    }

    /// The actor is free: what does it do next?
    fn act(&mut self, at: usize, now: u64, wall_ms: i64, out: &mut Vec<Action>) {
        let role = self.actors[at].role;
        if self.winding_down {
            if role == Role::Head && std::mem::take(&mut self.closes_day) {
                let principal = Principal { kind: "operator".into(), id: places::HEAD.into() };
                self.call(at, principal, Command::CloseDay, now, wall_ms, out);
            }
            return;
        }
        if let Role::Window(window) = role {
            // Oftener with a visitor who is called: they are to go back to the queue.
            let called = |known: &&Known| matches!(&known.state, TicketState::Called { window: at, .. } if at == places::WINDOWS[window]);
            let chance = if self.tickets.iter().any(|known| called(&known)) { 8 } else { 2 };
            if self.actors[at].caller.random.percent(chance) {
                return self.die(at, now, out);
            }
        }
        if self.actors[at].caller.random.percent(6)
            && let Some(asked) = self.actors[at].repeats.pop_front()
        {
            return self.actors[at].caller.call(asked, now, out);
        }
        if role == Role::Kiosk && self.actors[at].caller.random.percent(self.passes) {
            let ms = self.actors[at].caller.random.within(PASS_MS.0, PASS_MS.1);
            out.push(Action::Pass { ms: i64::try_from(ms).unwrap_or(0) });
        }
        let (principal, command) = match role {
            Role::Kiosk => (places::kiosk(self.office), self.take(at)),
            Role::Window(window) => self.at_window(at, places::WINDOWS[window]),
            Role::Reception => self.reception(at, wall_ms),
            Role::Head => self.head(at),
            Role::Outside => return self.tell(at, now, wall_ms, out),
        };
        self.call(at, principal, command, now, wall_ms, out);
    }

    fn call(
        &mut self,
        at: usize,
        principal: Principal,
        command: Command,
        now: u64,
        wall_ms: i64,
        out: &mut Vec<Action>,
    ) {
        let caller = &mut self.actors[at].caller;
        let request: Uuid = caller.request(wall_ms);
        let target = places::queue(self.office);
        caller.call(Asked::new(principal, target, AnyCommand::Queue(command), request), now, out);
    }

    /// The workstation dies. It comes back, but in the end some stay away.
    fn die(&mut self, at: usize, now: u64, out: &mut Vec<Action>) {
        let actor = &mut self.actors[at];
        actor.caller.die();
        let until = now + actor.caller.random.within(AWAY_US.0, AWAY_US.1);
        actor.rest_until = until;
        if let Some(station) = &mut actor.station {
            (station.away, station.since) = (Some((now, until)), now);
        }
        out.push(Action::Wake { at_us: until });
    }

    fn take(&mut self, at: usize) -> Command {
        let random = &mut self.actors[at].caller.random;
        let (purpose, service) = match random.below(12) {
            0 => (Purpose::AskStatus, ""),
            1 => (Purpose::CollectResult, fixtures::SERVICES[0]),
            2 => (Purpose::Apply, fixtures::CLOSED_SERVICE),
            other => (Purpose::Apply, fixtures::SERVICES[usize::from(other % 3 == 0)]),
        };
        let category = match random.below(10) {
            0 => "nobodys",
            1..=3 => fixtures::CATEGORY,
            4 => places::LESSER_CATEGORY,
            _ => "",
        };
        Command::TakeTicket { purpose, service: service.into(), category: category.into() }
    }

    /// What a window does: mostly the next thing with the visitor it has, sometimes anything with anybody.
    fn at_window(&mut self, at: usize, window: &'static str) -> (Principal, Command) {
        let held = self.tickets.iter().find(|known| known.state.occupies() == Some(window)).cloned();
        let random = &mut self.actors[at].caller.random;
        let some = random.one_of(&self.tickets).map(|known| known.ticket.clone());
        let waiting: Vec<_> =
            self.tickets.iter().filter(|known| known.state == TicketState::Waiting).collect();
        let waiting = random.one_of(&waiting).map(|known| known.ticket.clone());
        let other = places::WINDOWS[random.index(places::WINDOWS.len())].to_owned();
        let own = window.to_owned();
        let principal = match random.percent(85) {
            true => places::workstation(self.office, window),
            false => Principal { kind: "operator".into(), id: places::ASKERS[0].into() },
        };
        let to = match random.percent(50) {
            true => Destination::Window(other.clone()),
            false => Destination::Service(fixtures::SERVICES[random.index(2)].to_owned()),
        };
        let minutes = u16::try_from(random.within(1, 2)).unwrap_or(1);
        let odd = random.percent(8);
        let draw = random.below(100);
        let command = match held {
            Some(Known { ticket, state: TicketState::Called { .. }, .. }) if !odd => match draw {
                0..=49 => Command::Begin { ticket, window: own },
                50..=64 => Command::PutOff { ticket, window: own, minutes },
                65..=72 => Command::CallAgain { ticket, window: own },
                73..=80 => Command::Finish { ticket, window: own, outcome: VisitOutcome::NoShow },
                81..=87 => Command::Redirect { ticket, window: own, to },
                88..=94 => Command::ReturnToQueue { ticket, window: own },
                _ => Command::Leave { ticket },
            },
            Some(Known { ticket, .. }) if !odd => match draw {
                0..=84 => Command::Finish { ticket, window: own, outcome: VisitOutcome::Served },
                _ => Command::Redirect { ticket, window: own, to },
            },
            _ => match (draw, waiting, some) {
                (0..=5, _, _) => Command::OpenWindow { window: own },
                (6..=8, _, _) => Command::CloseWindow { window: own },
                (9..=11, _, _) => Command::StartBreak { window: own, minutes: 1 },
                (12..=19, Some(ticket), _) => Command::CallNumber { ticket, window: own },
                (20..=25, Some(ticket), _) => {
                    Command::Bind { ticket, window: if draw == 20 { String::new() } else { other } }
                }
                (26..=28, _, Some(ticket)) => Command::CallNumber { ticket, window: own },
                (29..=30, _, Some(ticket)) => Command::Begin { ticket, window: own },
                (31..=32, _, Some(ticket)) => {
                    Command::Finish { ticket, window: own, outcome: VisitOutcome::Served }
                }
                (33, _, Some(ticket)) => Command::Leave { ticket },
                _ => Command::CallNext { window: own },
            },
        };
        (principal, command)
    }

    fn reception(&mut self, at: usize, wall_ms: i64) -> (Principal, Command) {
        let random = &mut self.actors[at].caller.random;
        let booking = random.one_of(&self.bookings).cloned();
        let portal = Principal { kind: "portal".into(), id: "portal".into() };
        let service = fixtures::SERVICES[random.index(2)].to_owned();
        let category = if random.percent(20) { fixtures::CATEGORY } else { "" };
        match (random.below(10), booking) {
            (0..=3, Some(booking)) => (places::kiosk(self.office), Command::CheckIn { booking }),
            (4, Some(booking)) => (portal, Command::CancelBooking { booking }),
            _ => {
                // On the grid of minutes, mostly; a few are past, a few lie between two.
                let day = okno_domain::time::local_date(wall_ms, fixtures::OFFSET_MINUTES);
                let opens_ms = local_hour_ms(day, 0, fixtures::OFFSET_MINUTES);
                let since = (wall_ms - opens_ms) / MINUTE_MS;
                let ahead = i64::try_from(random.below(6)).unwrap_or(0);
                let off = i64::from(random.percent(4)) * 1_500;
                let slot_ms = opens_ms + (since + ahead) * MINUTE_MS + off;
                let command = Command::Book {
                    purpose: Purpose::Apply,
                    service,
                    category: category.to_owned(),
                    slot_ms,
                    reference: String::new(),
                };
                (portal, command)
            }
        }
    }

    /// The head looks after the windows: opens what somebody closed, binds nobody any more.
    fn head(&mut self, at: usize) -> (Principal, Command) {
        let random = &mut self.actors[at].caller.random;
        let window = places::WINDOWS[random.index(places::WINDOWS.len())].to_owned();
        let principal = Principal { kind: "operator".into(), id: places::HEAD.into() };
        let bound = random.one_of(&self.tickets).filter(|known| known.state == TicketState::Waiting).cloned();
        let command = match bound.filter(|_| random.percent(40)) {
            Some(known) => Command::Bind { ticket: known.ticket, window: String::new() },
            None => Command::OpenWindow { window },
        };
        (principal, command)
    }
}
