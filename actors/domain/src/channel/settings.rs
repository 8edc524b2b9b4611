//! The settings of a channel: who may work for it, and by which policies (R-I1, R-I4). Loaded from its module's file,
//! checked as a whole, versioned.

use crate::{
    catalogue::{Problem, Text},
    entity::Refusal,
    refusal::{CHANNEL_SETTINGS_INVALID, refuse},
    time::DAY_MS,
};
use serde::{Deserialize, Serialize};

/// Connectors that may work for one channel: certificates, not processes.
pub const CONNECTORS_MAX: usize = 32;
/// Messages out at once: what one connector can work on, times the connectors.
pub const PARALLEL_MAX: u16 = 1_024;
/// Messages of a channel, dead letters included. Each takes some 500 bytes of the leader's memory; bodies take none.
pub const DEPTH_MAX: u32 = 100_000;
/// Letters of a channel, remembered ones included: see [`Inbound`].
pub const LETTERS_MAX: u32 = 100_000;
/// The longest of all times in settings but days: a week.
pub const SPAN_MAX_MS: u32 = 7 * DAY_MS as u32;
/// The shortest lease: a network and a garbage collector must fit in.
pub const LEASE_MIN_MS: u32 = 1_000;
/// Failed attempts before a message is buried.
pub const ATTEMPTS_MAX: u32 = 1_000;
/// The longest time ids of letters are remembered, days.
pub const REMEMBER_DAYS_MAX: u16 = 400;

/// In which order messages leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Order {
    /// As they came, as many at once as may be.
    #[default]
    Free,
    /// As `Free`, but of those with the same key one at a time, in the order they came.
    Key,
    /// One at a time; a message that is tried again holds up all behind it.
    Strict,
}

impl Order {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Key => "key",
            Self::Strict => "strict",
        }
    }
}

/// At most `messages` in `per_ms`, evenly spread, up to `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    pub messages: u32,
    pub per_ms: u32,
    pub burst: u32,
}

/// How often and when a failed message is tried again: `base_ms`, doubled each time up to `max_ms`, the upper half of it
/// by chance; never before the connector asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// After so many failed attempts it is a dead letter.
    pub attempts: u32,
    pub base_ms: u32,
    pub max_ms: u32,
}

/// When nothing is handed out because the other side is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open, doubled with each probe that fails, up to `open_max_ms`.
    pub open_ms: u32,
    pub open_max_ms: u32,
    /// Messages out at once to try whether the other side is back.
    pub probes: u16,
}

/// What is kept of letters from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    /// Letters that wait, are parked, or whose ids are remembered. When they are so many a new one is refused: an id is
    /// never forgotten before its time.
    pub depth: u32,
    /// An outside id that comes again within so many days is known.
    pub remember_days: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub title: Text,
    /// Ids of the connectors' certificates (`okno://<cluster>/connector/<id>`).
    pub connectors: Vec<String>,
    pub order: Order,
    /// Messages out at once.
    pub parallel: u16,
    pub depth: u32,
    /// A delivery must be acknowledged within this time.
    pub ack_ms: u32,
    /// An acknowledged message must be settled, or reported on, within this time.
    pub work_ms: u32,
    /// For requests that name no time of their own; `None`: they wait for ever.
    pub expires_ms: Option<u32>,
    pub rate: Option<Rate>,
    pub retry: Retry,
    pub breaker: Option<BreakerSettings>,
    pub inbound: Inbound,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            title: Text::default(),
            connectors: Vec::new(),
            order: Order::Free,
            // Eight connectors with as many messages each.
            parallel: 64,
            depth: 10_000,
            ack_ms: 5_000,
            work_ms: 300_000,
            expires_ms: None,
            rate: None,
            retry: Retry { attempts: 8, base_ms: 1_000, max_ms: 600_000 },
            breaker: Some(BreakerSettings { failures: 5, open_ms: 10_000, open_max_ms: 300_000, probes: 1 }),
            inbound: Inbound { depth: 20_000, remember_days: 30 },
        }
    }
}

impl Settings {
    /// How many may be out at once, whatever else holds.
    pub fn slots(&self) -> usize {
        if self.order == Order::Strict { 1 } else { usize::from(self.parallel) }
    }

    /// Everything that is wrong with them; keys as in the file.
    pub fn problems(&self) -> Vec<Problem> {
        let mut find = Finder::default();
        for (key, text) in [("title.ru", &self.title.ru), ("title.en", &self.title.en)] {
            let length = text.chars().count();
            find.must(
                !text.trim().is_empty()
                    && length <= crate::catalogue::check::TEXT_MAX
                    && !text.chars().any(char::is_control),
                key,
                "a line of text",
                text,
            );
        }
        find.must(
            (1..=CONNECTORS_MAX).contains(&self.connectors.len()),
            "connectors",
            &format!("1 to {CONNECTORS_MAX} ids"),
            self.connectors.len(),
        );
        for (n, id) in self.connectors.iter().enumerate() {
            find.must(
                is_code(id) && !self.connectors[..n].contains(id),
                &format!("connectors[{n}]"),
                "a code named once",
                id,
            );
        }
        find.within("parallel", u32::from(self.parallel), 1, u32::from(PARALLEL_MAX));
        find.within("depth", self.depth, 1, DEPTH_MAX);
        find.within("lease.ack_ms", self.ack_ms, LEASE_MIN_MS, 60_000);
        find.within("lease.work_ms", self.work_ms, LEASE_MIN_MS, SPAN_MAX_MS);
        if let Some(expires_ms) = self.expires_ms {
            find.within("expires_ms", expires_ms, 1_000, u32::MAX);
        }
        if let Some(rate) = &self.rate {
            find.within("rate.messages", rate.messages, 1, 1_000_000);
            find.within("rate.per_ms", rate.per_ms, 1, SPAN_MAX_MS);
            find.within("rate.burst", rate.burst, 1, 100_000);
        }
        find.within("retry.attempts", self.retry.attempts, 1, ATTEMPTS_MAX);
        find.within("retry.base_ms", self.retry.base_ms, 10, SPAN_MAX_MS);
        find.within("retry.max_ms", self.retry.max_ms, self.retry.base_ms, SPAN_MAX_MS);
        if let Some(breaker) = &self.breaker {
            find.within("breaker.failures", breaker.failures, 1, 10_000);
            find.within("breaker.open_ms", breaker.open_ms, 100, SPAN_MAX_MS);
            find.within("breaker.open_max_ms", breaker.open_max_ms, breaker.open_ms, SPAN_MAX_MS);
            find.within("breaker.probes", u32::from(breaker.probes), 1, u32::from(PARALLEL_MAX));
        }
        find.within("inbound.depth", self.inbound.depth, 1, LETTERS_MAX);
        find.within(
            "inbound.remember_days",
            u32::from(self.inbound.remember_days),
            1,
            u32::from(REMEMBER_DAYS_MAX),
        );
        find.0
    }
}

/// The refusal that names each problem.
pub fn refusal(problems: &[Problem]) -> Refusal {
    let mut refusal = refuse(CHANNEL_SETTINGS_INVALID);
    for problem in problems.iter().take(crate::catalogue::check::PROBLEMS_MAX) {
        let told = format!("expected {}, found {}", problem.expected, problem.found);
        refusal.details.entry(problem.place()).or_insert(told);
    }
    refusal
}

/// Is it a code: 1 to 64 of a-z, 0-9, '.', '-', '_'?
pub fn is_code(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && text.len() <= crate::exchange::CODE_MAX && text.chars().all(legal)
}

#[derive(Default)]
struct Finder(Vec<Problem>);

impl Finder {
    fn must(&mut self, holds: bool, key: &str, expected: &str, found: impl std::fmt::Display) {
        if !holds {
            self.0.push(Problem {
                file: String::new(),
                line: None,
                key: key.to_owned(),
                expected: expected.to_owned(),
                found: found.to_string().chars().take(60).collect(),
            });
        }
    }

    fn within(&mut self, key: &str, found: u32, min: u32, max: u32) {
        self.must((min..=max).contains(&found), key, &format!("{min} to {max}"), found);
    }
}
