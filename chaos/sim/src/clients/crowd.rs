//! All clients of a run: the officers, whose histories are checked for an order, and in some runs a hall, channels with
//! their connectors, and officers who race for the visitors of one office.

use super::{Population, exchange::Exchange, hall::Hall, random::Random};
use crate::port::{Action, Clients, Event, NodeId};

/// Streams of randomness: far from those of the officers, which are numbered from 0.
const DRAW: u64 = 1 << 40;
const HALL: u64 = 2 << 40;
const EXCHANGE: u64 = 3 << 40;
const DESKS: u64 = 4 << 40;
/// Chance in percent that a run has a hall; channels.
const HALLS: u64 = 30;
const EXCHANGES: u64 = 30;
/// Chance in percent that there are those who race.
const DESKS_TOO: u64 = 25;

pub struct Crowd {
    pub officers: Population,
    pub hall: Option<Hall>,
    pub exchange: Option<Exchange>,
    pub desks: Option<Population>,
}

impl Crowd {
    /// What else a run has follows from its seed alone, and changes nothing about its officers.
    pub fn draw(seed: u64, nodes: &[NodeId], officers: Population) -> Self {
        let mut random = Random::new(seed, DRAW);
        let (hall, exchange) = (random.percent(HALLS), random.percent(EXCHANGES));
        let desks = random.percent(DESKS_TOO);
        Self {
            officers,
            hall: hall.then(|| Hall::new(seed, nodes, HALL)),
            exchange: exchange.then(|| Exchange::new(seed, nodes, EXCHANGE)),
            desks: desks.then(|| Population::of_desks(seed, nodes, DESKS)),
        }
    }

    pub fn only(officers: Population) -> Self {
        Self { officers, hall: None, exchange: None, desks: None }
    }

    fn halls(&self) -> usize {
        self.hall.as_ref().map_or(0, Hall::count)
    }

    fn exchanges(&self) -> usize {
        self.exchange.as_ref().map_or(0, Exchange::count)
    }
}

impl Clients for Crowd {
    fn count(&self) -> usize {
        let desks = self.desks.as_ref().map_or(0, Population::count);
        self.officers.count() + self.halls() + self.exchanges() + desks
    }

    fn on(&mut self, client: usize, event: Event, now_us: u64, wall_ms: i64, out: &mut Vec<Action>) {
        let Some(other) = client.checked_sub(self.officers.count()) else {
            return self.officers.on(client, event, now_us, wall_ms, out);
        };
        let (halls, exchanges) = (self.halls(), self.exchanges());
        match (&mut self.hall, &mut self.exchange, &mut self.desks) {
            (Some(hall), _, _) if other < halls => hall.on(other, event, now_us, wall_ms, out),
            (_, Some(exchange), _) if other < halls + exchanges => {
                exchange.on(other - halls, event, now_us, wall_ms, out);
            }
            (_, _, Some(desks)) => desks.on(other - halls - exchanges, event, now_us, wall_ms, out),
            _ => {}
        }
    }

    fn wind_down(&mut self) {
        self.officers.wind_down();
        if let Some(hall) = &mut self.hall {
            hall.wind_down();
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.wind_down();
        }
        if let Some(desks) = &mut self.desks {
            desks.wind_down();
        }
    }

    fn idle(&self) -> bool {
        self.officers.idle()
            && self.hall.as_ref().is_none_or(Hall::idle)
            && self.exchange.as_ref().is_none_or(Exchange::idle)
            && self.desks.as_ref().is_none_or(Population::idle)
    }
}
