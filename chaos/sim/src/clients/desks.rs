//! What those do who work at the windows of one office, all for the same few visitors: everything that `docs/queue.md` lets a
//! window do, two at once with the same ticket as often as not. Their history is judged for an order, as the officers' is.

use super::{fixtures, random::Random, workload::Workload};
use okno_checks::history::{Call, Destination, Phase, Purpose, TicketName};

/// Tickets that are worked on at once: few, so that windows meet.
const FEW: usize = 5;

pub fn workload(seed: u64, stream: u64) -> Workload {
    let mut random = Random::new(seed, stream);
    let hurry = random.within(1, 10);
    Workload {
        clients: fixtures::DESKS_CLIENTS,
        cases_max: 0,
        think_us: (1_000 * hurry, 15_000 * hurry),
        attempt_timeout_us: random.within(5, 30) * 100_000,
        deadline_us: random.within(3, 20) * 1_000_000,
        impatient: random.within(0, 4),
        replays: random.within(0, 6),
        wrong: 0,
        weights: [0; 7],
    }
}

/// What is asked next, given the tickets anybody has seen.
pub fn wish(tickets: &[(TicketName, Phase)], random: &mut Random) -> Call {
    let open = |(_, phase): &&(TicketName, Phase)| !matches!(phase, Phase::Finished(_));
    let live: Vec<&(TicketName, Phase)> = tickets.iter().filter(open).collect();
    let window = (*random.one_of(&fixtures::WINDOWS).unwrap_or(&"1")).to_owned();
    let draw = random.below(100);
    if draw < 5 {
        return Call::ReadQueue;
    }
    if draw < 12 {
        return of_window(window, random);
    }
    if live.len() < FEW && random.percent(35) || live.is_empty() {
        return take(random);
    }
    let held = live
        .iter()
        .find(|(_, phase)| matches!(phase, Phase::Called(at) | Phase::InService(at) if *at == window));
    match held {
        Some((ticket, phase)) if random.percent(75) => with_held(ticket.clone(), window, phase, random),
        _ => match random.one_of(&live) {
            Some((ticket, phase)) if random.percent(60) => with_any(ticket.clone(), window, phase, random),
            _ => Call::CallNext { window },
        },
    }
}

fn take(random: &mut Random) -> Call {
    let service = fixtures::SERVICES[random.index(2)].to_owned();
    let category = if random.percent(20) { fixtures::CATEGORY } else { "" };
    Call::TakeTicket { purpose: Purpose::Apply, service, category: category.to_owned() }
}

fn of_window(window: String, random: &mut Random) -> Call {
    match random.below(4) {
        0 => Call::CloseWindow { window },
        1 => Call::StartBreak { window, minutes: 1 },
        _ => Call::OpenWindow { window },
    }
}

/// The next thing with the visitor a window is believed to have.
fn with_held(ticket: TicketName, window: String, phase: &Phase, random: &mut Random) -> Call {
    let to = destination(random);
    match (phase, random.below(100)) {
        (Phase::InService(_), 0..=79) => Call::Finish { ticket, window, served: true },
        (Phase::InService(_), _) => Call::Redirect { ticket, window, to },
        (_, 0..=29) => Call::Begin { ticket, window },
        (_, 30..=44) => Call::PutOff { ticket, window, minutes: 1 },
        (_, 45..=54) => Call::CallAgain { ticket, window },
        (_, 55..=64) => Call::Finish { ticket, window, served: false },
        (_, 65..=79) => Call::Redirect { ticket, window, to },
        (_, 80..=94) => Call::ReturnToQueue { ticket, window },
        _ => Call::Leave { ticket },
    }
}

/// Something with a visitor whom another may have just now.
fn with_any(ticket: TicketName, window: String, phase: &Phase, random: &mut Random) -> Call {
    let other = (*random.one_of(&fixtures::WINDOWS).unwrap_or(&"1")).to_owned();
    match (phase, random.below(100)) {
        (Phase::Waiting | Phase::PutOff { .. }, 0..=44) => Call::CallNumber { ticket, window },
        (Phase::Waiting | Phase::PutOff { .. }, 45..=59) => Call::Bind { ticket, window: other },
        (Phase::Waiting | Phase::PutOff { .. }, 60..=69) => Call::Bind { ticket, window: String::new() },
        (Phase::Waiting | Phase::PutOff { .. }, 70..=74) => Call::Leave { ticket },
        (_, 0..=19) => Call::CallNumber { ticket, window },
        (_, 20..=39) => Call::Begin { ticket, window },
        (_, 40..=59) => Call::PutOff { ticket, window, minutes: 1 },
        (_, 60..=74) => Call::Redirect { ticket, window, to: destination(random) },
        (_, 75..=84) => Call::ReturnToQueue { ticket, window },
        _ => Call::Finish { ticket, window, served: random.percent(70) },
    }
}

fn destination(random: &mut Random) -> Destination {
    if random.percent(60) {
        Destination::Window((*random.one_of(&fixtures::WINDOWS).unwrap_or(&"1")).to_owned())
    } else {
        Destination::Service(fixtures::SERVICES[random.index(2)].to_owned())
    }
}
