//! The outside queue system of a hall (R-Q13): it registers visitors of its own and tells what happens to them, mostly in
//! order; it tells things again, under other contents too, and before their time; and strangers speak for it, or it speaks to
//! an office that does not know it.

use super::Hall;
use crate::{
    clients::{caller::Asked, fixtures, places},
    port::Action,
};
use okno_domain::{
    entity::Principal,
    queue::{
        Command, Destination, OutsideEvent, OutsideHappened, Purpose, TicketState, outside::OutsideName,
    },
    registry::AnyCommand,
};

/// Visitors of one run: bounds what is remembered.
const VISITORS_MAX: u64 = 24;
const TOLD_MAX: usize = 24;

#[derive(Default)]
pub(super) struct Book {
    visitors: u64,
    events: u64,
    /// What was told, the oldest first: some of it is told again.
    told: Vec<OutsideEvent>,
}

impl Hall {
    /// The next thing that is told.
    pub(super) fn tell(&mut self, at: usize, now: u64, wall_ms: i64, out: &mut Vec<Action>) {
        let again = self.actors[at].caller.random.percent(20);
        let known = self.actors[at].caller.random.one_of(&self.outside.told).cloned();
        let mut event = match known.filter(|_| again) {
            Some(event) => event,
            None => self.new_event(at, wall_ms),
        };
        let random = &mut self.actors[at].caller.random;
        let (mut speaker, mut office) = (places::OUTSIDE.1, self.office);
        match random.below(40) {
            0 | 1 => speaker = places::STRANGER,
            2 | 3 => office = fixtures::OFFICES[random.index(fixtures::OFFICES.len())],
            4 => "another".clone_into(&mut event.system),
            // Told again, it is the same event whatever it says.
            5 | 6 if again => event.happened = OutsideHappened::Left,
            _ => {}
        }
        if !again {
            if self.outside.told.len() >= TOLD_MAX {
                self.outside.told.remove(0);
            }
            self.outside.told.push(event.clone());
        }
        let caller = &mut self.actors[at].caller;
        let principal = Principal { kind: "connector".into(), id: speaker.into() };
        let request = caller.request(wall_ms);
        let command = AnyCommand::Queue(Command::Outside(event));
        caller.call(Asked::new(principal, places::queue(office), command, request), now, out);
    }

    fn new_event(&mut self, at: usize, at_ms: i64) -> OutsideEvent {
        self.outside.events += 1;
        let random = &mut self.actors[at].caller.random;
        let more = self.outside.visitors < VISITORS_MAX && random.percent(30);
        let (ticket, happened) = if self.outside.visitors == 0 || more {
            self.outside.visitors += 1;
            let service = fixtures::SERVICES[random.index(2)].to_owned();
            let category = if random.percent(20) { fixtures::CATEGORY } else { "" };
            let happened = OutsideHappened::Registered {
                purpose: Purpose::Apply,
                service,
                category: category.to_owned(),
            };
            (format!("v{}", self.outside.visitors), happened)
        } else {
            let visitor = random.within(1, self.outside.visitors);
            let ticket = format!("v{visitor}");
            let happened = self.next_of(at, &ticket);
            (ticket, happened)
        };
        let id = format!("e{}", self.outside.events);
        OutsideEvent { system: places::OUTSIDE.0.to_owned(), id, ticket, at_ms, happened }
    }

    /// What comes next for a visitor, as far as is known where they are; sometimes something else.
    fn next_of(&mut self, at: usize, ticket: &str) -> OutsideHappened {
        let named = |name: &OutsideName| name.system == places::OUTSIDE.0 && name.number == ticket;
        let known = self.tickets.iter().rev().find(|known| known.outside.as_ref().is_some_and(named));
        let state = known.map(|known| known.state.clone());
        let random = &mut self.actors[at].caller.random;
        let some = places::WINDOWS[random.index(places::WINDOWS.len())].to_owned();
        let window = match state.as_ref().and_then(TicketState::occupies) {
            Some(window) if !random.percent(5) => window.to_owned(),
            _ => some.clone(),
        };
        let draw = random.below(100);
        let odd = random.percent(12);
        match state {
            Some(TicketState::Called { .. }) if !odd => match draw {
                0..=49 => OutsideHappened::Begun { window },
                50..=61 => OutsideHappened::PutOff { window, minutes: 1 },
                62..=71 => OutsideHappened::CalledAgain { window },
                72..=79 => OutsideHappened::DidNotCome { window },
                80..=87 => OutsideHappened::Redirected { window, to: Destination::Window(some) },
                88..=95 => OutsideHappened::Returned { window },
                _ => OutsideHappened::Left,
            },
            Some(TicketState::InService { .. }) if !odd => OutsideHappened::Finished { window },
            Some(TicketState::PutOff { .. }) if !odd => OutsideHappened::CameBack,
            _ => match draw {
                0..=69 => OutsideHappened::Called { window },
                70..=79 => OutsideHappened::Begun { window },
                80..=89 => OutsideHappened::Finished { window },
                90..=94 => OutsideHappened::CameBack,
                _ => OutsideHappened::Left,
            },
        }
    }
}
