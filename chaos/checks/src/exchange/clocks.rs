//! The clocks of deliveries, judged when a leader says that one has run out: a delivery has its whole time to be
//! acknowledged and then to be worked on, and its whole work time anew under a new leader. Only the way that is known to be lost,
//! or a connector that has said goodbye, ends it sooner (`docs/channels.md`).
//!
//! Every leader goes by what it heard itself. One that was paused or cut off and deposed has heard nothing of late, and may
//! say so; but what it says must end no delivery, and that is judged when a lapse commits.

use super::{Exchange, Token};
use crate::invariants::Invariant;
use std::collections::{BTreeMap, BTreeSet};

/// A clock may run fast by a fifth, and shows whole milliseconds.
const FAST: (u64, u64) = (5, 6);
const SLACK_US: u64 = 5_000;

/// Why a clock ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nobody acknowledged it.
    Unheard,
    /// It was not settled in time.
    Overdue,
    /// Its connector has said goodbye.
    Gone,
}

#[derive(Debug, Default)]
struct Delivery {
    handed_us: u64,
    /// What the leader of each term heard of it.
    heard: BTreeMap<u64, Heard>,
    /// The way to its connector is lost; it has said goodbye.
    lost: bool,
    gone: bool,
}

/// When a leader heard that a delivery arrived, and last of a report on it.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    working_us: Option<u64>,
    progressed_us: Option<u64>,
}

/// Times are those of the whole run, microseconds.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    now_us: u64,
    ack_us: u64,
    work_us: u64,
    /// Since when somebody has led in a term.
    leaders: BTreeMap<u64, u64>,
    out: BTreeMap<(String, Token), Delivery>,
    /// What leaders said has run out, by their terms.
    said: BTreeSet<(u64, String, Token)>,
}

impl Clocks {
    /// Has the leader of this term said that this one has run out?
    pub fn said(&self, term: u64, id: &str, token: Token) -> bool {
        self.said.contains(&(term, id.to_owned(), token))
    }

    pub fn handed(&mut self, id: &str, token: Token) {
        let delivery = Delivery { handed_us: self.now_us, ..Delivery::default() };
        self.out.insert((id.to_owned(), token), delivery);
    }

    /// May this clock have run out now, on the leader of this term?
    fn may_lapse(&self, term: u64, id: &str, token: Token, why: Why) -> bool {
        let Some(delivery) = self.out.get(&(id.to_owned(), token)) else { return false };
        let over =
            |since_us: u64, span_us: u64| self.now_us + SLACK_US >= since_us + span_us * FAST.0 / FAST.1;
        let (_, handed_in, _) = token;
        let heard = delivery.heard.get(&term).copied().unwrap_or_default();
        // A new leader takes everything for acknowledged when it begins.
        let begun = if handed_in == term { heard.working_us } else { self.leaders.get(&term).copied() };
        let working = begun.max(heard.progressed_us);
        match why {
            Why::Unheard => {
                let waited = delivery.lost || delivery.gone || over(delivery.handed_us, self.ack_us);
                handed_in == term && heard.working_us.is_none() && waited
            }
            Why::Overdue => working.is_some_and(|since| over(since, self.work_us)),
            Why::Gone => delivery.gone && working.is_some(),
        }
    }
}

impl Exchange {
    /// How long deliveries have to be acknowledged, and to be worked on.
    pub fn with_leases(ack_ms: u64, work_ms: u64) -> Self {
        let clocks = Clocks { ack_us: ack_ms * 1_000, work_us: work_ms * 1_000, ..Clocks::default() };
        Self { clocks, ..Self::default() }
    }

    /// What comes next happens then.
    pub fn now(&mut self, now_us: u64) {
        self.clocks.now_us = now_us;
    }

    /// Somebody leads in this term.
    pub fn leads(&mut self, term: u64) {
        let now_us = self.clocks.now_us;
        self.clocks.leaders.entry(term).or_insert(now_us);
    }

    /// The leader of this term has heard that a delivery arrived.
    pub fn acknowledged(&mut self, term: u64, id: &str, token: Token) {
        let now_us = self.clocks.now_us;
        if let Some(delivery) = self.clocks.out.get_mut(&(id.to_owned(), token)) {
            let heard = delivery.heard.entry(term).or_default();
            if heard.working_us.is_none() {
                self.facts.acknowledged += 1;
                heard.working_us = Some(now_us);
            }
        }
    }

    /// The leader of this term has heard of a report on a delivery, which may have applied elsewhere before. Who reports has
    /// it: an acknowledgement that comes after is no news.
    pub fn reported(&mut self, term: u64, id: &str, token: Token) {
        let now_us = self.clocks.now_us;
        if let Some(delivery) = self.clocks.out.get_mut(&(id.to_owned(), token)) {
            let heard = delivery.heard.entry(term).or_default();
            heard.working_us.get_or_insert(now_us);
            heard.progressed_us = Some(now_us);
        }
    }

    /// The way to whoever has a delivery is lost; `gone`: they have said goodbye.
    pub fn given_back(&mut self, id: &str, token: Token, gone: bool) {
        self.facts.given_back += 1;
        if let Some(delivery) = self.clocks.out.get_mut(&(id.to_owned(), token)) {
            delivery.lost = true;
            delivery.gone |= gone;
        }
    }

    /// The leader of this term says that the clock of a delivery has run out.
    pub fn lapses(&mut self, term: u64, id: &str, token: Token, why: Why) {
        match why {
            Why::Unheard => self.facts.unheard += 1,
            Why::Overdue => self.facts.overdue += 1,
            Why::Gone => self.facts.gone += 1,
        }
        self.clocks.said.insert((term, id.to_owned(), token));
        self.facts.overdue_anew += u64::from(why == Why::Overdue && token.1 != term);
        if !self.clocks.may_lapse(term, id, token, why) {
            let led = self.clocks.leaders.get(&term);
            let delivery = self.clocks.out.get(&(id.to_owned(), token));
            let text = format!(
                "{id} with {token:?} lapses as {why:?} at {} in term {term}, led since {led:?}: {delivery:?}",
                self.clocks.now_us
            );
            self.breaches.add(Invariant::LeaseKept, text);
        }
    }
}
