//! All clients of a run: the officers, whose histories are checked for an order, and in some runs a hall, channels with
//! their connectors, or both.

use super::{Population, exchange::Exchange, hall::Hall, random::Random};
use crate::port::{Action, Clients, Event, NodeId};

/// Streams of randomness: far from those of the officers, which are numbered from 0.
const DRAW: u64 = 1 << 40;
const HALL: u64 = 2 << 40;
const EXCHANGE: u64 = 3 << 40;
/// Chance in percent that a run has a hall; channels.
const HALLS: u64 = 30;
const EXCHANGES: u64 = 30;

pub struct Crowd {
    pub officers: Population,
    pub hall: Option<Hall>,
    pub exchange: Option<Exchange>,
}

impl Crowd {
    /// What else a run has follows from its seed alone, and changes nothing about its officers.
    pub fn draw(seed: u64, nodes: &[NodeId], officers: Population) -> Self {
        let mut random = Random::new(seed, DRAW);
        let (hall, exchange) = (random.percent(HALLS), random.percent(EXCHANGES));
        Self {
            officers,
            hall: hall.then(|| Hall::new(seed, nodes, HALL)),
            exchange: exchange.then(|| Exchange::new(seed, nodes, EXCHANGE)),
        }
    }

    pub fn only(officers: Population) -> Self {
        Self { officers, hall: None, exchange: None }
    }

    fn halls(&self) -> usize {
        self.hall.as_ref().map_or(0, Hall::count)
    }
}

impl Clients for Crowd {
    fn count(&self) -> usize {
        self.officers.count() + self.halls() + self.exchange.as_ref().map_or(0, Exchange::count)
    }

    fn on(&mut self, client: usize, event: Event, now_us: u64, wall_ms: i64, out: &mut Vec<Action>) {
        let Some(other) = client.checked_sub(self.officers.count()) else {
            return self.officers.on(client, event, now_us, wall_ms, out);
        };
        let halls = self.halls();
        match (&mut self.hall, &mut self.exchange) {
            (Some(hall), _) if other < halls => hall.on(other, event, now_us, wall_ms, out),
            (_, Some(exchange)) => exchange.on(other - halls, event, now_us, wall_ms, out),
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
    }

    fn idle(&self) -> bool {
        self.officers.idle()
            && self.hall.as_ref().is_none_or(Hall::idle)
            && self.exchange.as_ref().is_none_or(Exchange::idle)
    }
}
