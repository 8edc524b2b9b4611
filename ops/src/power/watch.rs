//! The policy: what supplies say and time go in, alarms and the decision to leave come out. No clock, no I/O.
//!
//! A machine has supplies, each worth so many of its power units, and needs so many of them. It *runs on battery* when those
//! on mains are worth less than it needs, and it *must leave* when those that can be relied on are.
//!
//! Invariants: alarms are a function of the state, and only their coming and going is told, so that a supply that
//! flaps makes one notice; the time on battery counts from the first loss of mains until mains has stood for
//! [`Rules::steady_ms`] without a break; the decision to leave is made once and not taken back.

use super::reading::{Doubt, Heard, Reading, Silence, Supply};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// A doubt stands this long after it was last seen: one that comes and goes is one alarm.
const DOUBT_STANDS_MS: u64 = 60_000;
/// Mains back and gone again so often within one time on battery is flapping.
const FLAPS: u32 = 3;

/// One supply of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// As NUT names it, `name@host:port`.
    pub name: String,
    /// How many power units of this machine hang on it.
    pub supplies: u32,
}

/// The policy's figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub node: u64,
    pub sources: Vec<Source>,
    /// Power units this machine cannot do without.
    pub needs: u32,
    /// Longest time on battery.
    pub battery_max_ms: u64,
    /// Battery time left, and charge, at which a supply counts as low.
    pub runtime_min_s: u32,
    pub charge_min: u8,
    /// How long low must be said before it is believed: figures jump when a supply changes over.
    pub confirm_ms: u64,
    /// Nothing heard for so long is communication lost.
    pub lost_after_ms: u64,
    /// Mains must stand so long before it is believed.
    pub steady_ms: u64,
}

/// A text for people at the windows and one for engineers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    pub russian: String,
    pub english: String,
}

impl Words {
    fn new(russian: impl Into<String>, english: impl Into<String>) -> Self {
        Self { russian: russian.into(), english: english.into() }
    }
}

/// Kinds of alarms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// This machine runs on battery.
    OnBattery,
    /// The decision to leave is made.
    PowerFailing,
    /// One supply of several runs on battery.
    UpsOnBattery,
    UpsLost,
    UpsUnreliable,
    /// The battery is low on mains, or wants to be replaced: the next cut will be short.
    UpsBatteryWeak,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::OnBattery => "ON_BATTERY",
            Self::PowerFailing => "BATTERY_LOW",
            Self::UpsOnBattery => "UPS_ON_BATTERY",
            Self::UpsLost => "UPS_UNREACHABLE",
            Self::UpsUnreliable => "UPS_UNRELIABLE",
            Self::UpsBatteryWeak => "UPS_BATTERY_WEAK",
        }
    }
}

/// Something that stands until it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub kind: Kind,
    /// Name of the supply, where it is one's.
    pub ups: Option<String>,
    pub words: Words,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Raise(Condition),
    /// The condition is over; its words say so.
    Clear(Condition),
    /// The point of no return: intake stops, work ends, the process leaves.
    Leave(Words),
}

/// What the metrics show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    pub sources: usize,
    pub on_battery: bool,
    pub on_battery_ms: u64,
    pub failing: bool,
    pub sources_on_battery: usize,
    pub sources_lost: usize,
    /// The least of all supplies that say.
    pub charge_min: Option<u8>,
    pub runtime_min_s: Option<u32>,
}

/// Why a supply cannot be relied on any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Critical {
    Forced,
    Low,
    Runtime(u32),
    Charge(u8),
    TooLong,
    LostOnBattery,
}

/// What is known of one supply.
#[derive(Debug, Default)]
struct State {
    /// It was heard, and said where power comes from, last at.
    heard_ms: Option<u64>,
    /// Asking failed since, and why.
    silence: Option<Silence>,
    /// Communication is heard again since; for the end of the alarm.
    heard_again_ms: Option<u64>,
    lost: bool,
    last: Option<Reading>,
    battery: Option<Battery>,
    low: Option<(u64, Critical)>,
    doubts: BTreeMap<Doubt, u64>,
    weak_seen_ms: Option<u64>,
}

#[derive(Debug)]
struct Battery {
    since_ms: u64,
    /// Mains is back since, and not yet believed.
    back_ms: Option<u64>,
    flaps: u32,
}

pub struct PowerWatch {
    rules: Rules,
    began_ms: u64,
    states: Vec<State>,
    standing: BTreeMap<(Kind, Option<usize>), Words>,
    on_battery_since: Option<u64>,
    leaving: Option<Words>,
}

impl PowerWatch {
    pub fn new(rules: Rules, now_ms: u64) -> Self {
        let states = rules.sources.iter().map(|_| State::default()).collect();
        Self {
            rules,
            began_ms: now_ms,
            states,
            standing: BTreeMap::new(),
            on_battery_since: None,
            leaving: None,
        }
    }

    /// A supply was asked, and this came of it.
    pub fn heard(&mut self, place: usize, heard: Heard, now_ms: u64) -> Vec<Action> {
        let rules = &self.rules;
        if let Some(state) = self.states.get_mut(place) {
            match heard {
                Heard::Reading(reading) => state.take(reading, rules, now_ms),
                Heard::Silence(silence) => {
                    state.silence = Some(silence);
                    state.heard_again_ms = None;
                }
            }
        }
        self.tick(now_ms)
    }

    /// Time goes on.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Action> {
        for state in &mut self.states {
            state.age(&self.rules, self.began_ms, now_ms);
        }
        let on_battery = self.worth(|state| state.battery.is_none()) < self.rules.needs;
        match (on_battery, self.on_battery_since) {
            (true, None) => {
                let began = self.states.iter().filter_map(|s| s.battery.as_ref()).map(|b| b.since_ms).max();
                self.on_battery_since = Some(began.unwrap_or(now_ms));
            }
            (false, Some(_)) => self.on_battery_since = None,
            _ => {}
        }
        let mut actions = Vec::new();
        if self.leaving.is_none()
            && self.worth(|s| s.critical(&self.rules, self.began_ms, now_ms).is_none()) < self.rules.needs
        {
            let words = self.why_leaving(now_ms);
            self.leaving = Some(words.clone());
            actions.push(Action::Leave(words));
        }
        // Alarms first: who is told that a node leaves should know why.
        let mut told = self.tell_changes();
        told.append(&mut actions);
        told
    }

    /// Why the node must not open its data now; `None`: it may start. `left_before`: this machine left for want of power and
    /// was not started anew since, so that mains must be seen first.
    pub fn start_blocked(&self, left_before: bool, now_ms: u64) -> Option<Words> {
        let rules = &self.rules;
        let good = |state: &State| {
            let last = state.last.as_ref();
            if last.is_some_and(|last| last.forced) {
                return false;
            }
            if left_before {
                let silent = state.silent(rules, self.began_ms, now_ms);
                return last.is_some_and(|last| last.supply == Supply::Mains)
                    && state.battery.is_none()
                    && !silent;
            }
            !(last.is_some_and(|last| last.supply == Supply::Battery) && state.low.is_some())
        };
        if self.worth(good) >= rules.needs {
            return None;
        }
        let (mut russian, mut english) =
            ("ожидание питания от сети".to_owned(), "waiting for mains".to_owned());
        for (source, state) in rules.sources.iter().zip(&self.states).filter(|(_, state)| !good(state)) {
            let said = state.said();
            let _ = write!(russian, "; {}: {said}", source.name);
            let _ = write!(english, "; {}: {said}", source.name);
        }
        Some(Words { russian, english })
    }

    /// Every supply was asked at least once.
    pub fn all_asked(&self) -> bool {
        self.states.iter().all(|state| state.last.is_some() || state.silence.is_some())
    }

    pub fn on_battery(&self) -> bool {
        self.on_battery_since.is_some()
    }

    pub fn figures(&self, now_ms: u64) -> Figures {
        let last = || self.states.iter().filter_map(|state| state.last.as_ref());
        Figures {
            sources: self.states.len(),
            on_battery: self.on_battery(),
            on_battery_ms: self.on_battery_since.map_or(0, |since| now_ms.saturating_sub(since)),
            failing: self.leaving.is_some(),
            sources_on_battery: self.states.iter().filter(|state| state.battery.is_some()).count(),
            sources_lost: self.states.iter().filter(|state| state.lost).count(),
            charge_min: last().filter_map(|reading| reading.charge).min(),
            runtime_min_s: last().filter_map(|reading| reading.runtime_s).min(),
        }
    }

    /// Power units of the supplies of which this holds.
    fn worth(&self, holds: impl Fn(&State) -> bool) -> u32 {
        let held = self.rules.sources.iter().zip(&self.states).filter(|(_, state)| holds(state));
        held.map(|(source, _)| source.supplies).fold(0, u32::saturating_add)
    }

    fn why_leaving(&self, now_ms: u64) -> Words {
        let (mut russian, mut english) = (String::new(), String::new());
        for (source, state) in self.rules.sources.iter().zip(&self.states) {
            let Some(why) = state.critical(&self.rules, self.began_ms, now_ms) else { continue };
            let (of_it, of_it_english) = self.words_of(why, state);
            let parted = if russian.is_empty() { "" } else { "; " };
            let _ = write!(russian, "{parted}{}: {of_it}", source.name);
            let _ = write!(english, "{parted}{}: {of_it_english}", source.name);
        }
        Words { russian, english }
    }

    fn words_of(&self, why: Critical, state: &State) -> (String, String) {
        match why {
            Critical::Forced => {
                ("объявлено принудительное отключение".into(), "forced shutdown is announced".into())
            }
            Critical::Low => ("батарея разряжена".into(), "the battery is low".into()),
            Critical::Runtime(left) => {
                (format!("батареи хватит на {left} с"), format!("the battery lasts for {left} s"))
            }
            Critical::Charge(left) => {
                (format!("заряд батареи {left} %"), format!("the battery's charge is {left} %"))
            }
            Critical::TooLong => {
                let seconds = self.rules.battery_max_ms / 1_000;
                (format!("от батареи уже {seconds} с"), format!("on battery for {seconds} s"))
            }
            Critical::LostOnBattery => {
                let said = state.said();
                (
                    format!("нет связи при работе от батареи ({said})"),
                    format!("communication lost while on battery ({said})"),
                )
            }
        }
    }

    /// Compares the alarms that should stand with those that do.
    fn tell_changes(&mut self) -> Vec<Action> {
        let now = self.conditions();
        let mut actions = Vec::new();
        let over: Vec<_> = self.standing.keys().filter(|key| !now.contains_key(*key)).copied().collect();
        for key in over {
            self.standing.remove(&key);
            let (kind, place) = key;
            actions.push(Action::Clear(self.condition(kind, place, self.words_of_end(kind, place))));
        }
        for (key, words) in now {
            if let std::collections::btree_map::Entry::Vacant(free) = self.standing.entry(key) {
                free.insert(words.clone());
                actions.push(Action::Raise(self.condition(key.0, key.1, words)));
            }
        }
        actions
    }

    fn condition(&self, kind: Kind, place: Option<usize>, words: Words) -> Condition {
        Condition { kind, ups: place.map(|place| self.rules.sources[place].name.clone()), words }
    }

    fn conditions(&self) -> BTreeMap<(Kind, Option<usize>), Words> {
        let mut found = BTreeMap::new();
        let node = self.rules.node;
        if self.on_battery() {
            let seconds = self.rules.battery_max_ms / 1_000;
            let (left_ru, left) = if seconds < 120 {
                (format!("{seconds} с"), format!("{seconds} s"))
            } else {
                (format!("{} мин", seconds / 60), format!("{} min", seconds / 60))
            };
            found.insert(
                (Kind::OnBattery, None),
                Words::new(
                    format!("Сервер {node} работает от батареи: сети нет. Завершайте начатое; не позже чем через {left_ru} он остановится"),
                    format!("node {node} runs on battery: mains is lost; it stops after at most {left}"),
                ),
            );
        }
        if let Some(why) = &self.leaving {
            found.insert(
                (Kind::PowerFailing, None),
                Words::new(
                    format!("Сервер {node} останавливается: питание заканчивается ({})", why.russian),
                    format!("node {node} leaves: its power is failing ({})", why.english),
                ),
            );
        }
        let several = self.states.len() > 1;
        for (place, (source, state)) in self.rules.sources.iter().zip(&self.states).enumerate() {
            let name = &source.name;
            let mut stands = |kind, russian: String, english: String| {
                found.insert((kind, Some(place)), Words { russian, english });
            };
            if several && state.battery.is_some() {
                stands(
                    Kind::UpsOnBattery,
                    format!("Сервер {node}: источник {name} работает от батареи"),
                    format!("node {node}: {name} runs on battery"),
                );
            }
            if state.lost {
                let said = state.said();
                stands(
                    Kind::UpsLost,
                    format!("Сервер {node}: нет связи с источником питания {name} ({said})"),
                    format!("node {node}: {name} is not heard ({said})"),
                );
            }
            if !state.doubts.is_empty() {
                let join = |words: fn(Doubt) -> &'static str| {
                    state.doubts.keys().map(|doubt| words(*doubt)).collect::<Vec<_>>().join("; ")
                };
                stands(
                    Kind::UpsUnreliable,
                    format!(
                        "Сервер {node}: источнику питания {name} нельзя верить: {}",
                        join(Doubt::russian)
                    ),
                    format!("node {node}: {name} cannot be believed: {}", join(Doubt::english)),
                );
            }
            if state.weak_seen_ms.is_some() {
                stands(
                    Kind::UpsBatteryWeak,
                    format!("Сервер {node}: батарея источника {name} разряжена или требует замены"),
                    format!("node {node}: the battery of {name} is low on mains or must be replaced"),
                );
            }
        }
        found
    }

    fn words_of_end(&self, kind: Kind, place: Option<usize>) -> Words {
        let node = self.rules.node;
        let name = place.map_or("", |place| self.rules.sources[place].name.as_str());
        match kind {
            Kind::OnBattery => Words::new(
                format!("Сервер {node} снова питается от сети"),
                format!("node {node} is on mains again"),
            ),
            // Never taken back; the node leaves.
            Kind::PowerFailing => Words::new("", ""),
            Kind::UpsOnBattery => Words::new(
                format!("Сервер {node}: источник {name} снова питается от сети"),
                format!("node {node}: {name} is on mains again"),
            ),
            Kind::UpsLost => Words::new(
                format!("Сервер {node}: связь с источником питания {name} восстановлена"),
                format!("node {node}: {name} is heard again"),
            ),
            Kind::UpsUnreliable => Words::new(
                format!("Сервер {node}: источник питания {name} снова сообщает правдоподобное"),
                format!("node {node}: what {name} says is plausible again"),
            ),
            Kind::UpsBatteryWeak => Words::new(
                format!("Сервер {node}: батарея источника {name} в порядке"),
                format!("node {node}: the battery of {name} is well"),
            ),
        }
    }
}

impl State {
    fn take(&mut self, reading: Reading, rules: &Rules, now_ms: u64) {
        for doubt in &reading.doubts {
            self.doubts.insert(*doubt, now_ms);
        }
        if reading.replace || (reading.low && reading.supply == Supply::Mains) {
            self.weak_seen_ms = Some(now_ms);
        }
        match reading.supply {
            Supply::Battery => {
                let battery =
                    self.battery.get_or_insert(Battery { since_ms: now_ms, back_ms: None, flaps: 0 });
                if battery.back_ms.take().is_some() {
                    battery.flaps += 1;
                    if battery.flaps >= FLAPS {
                        self.doubts.insert(Doubt::Flapping, now_ms);
                    }
                }
                let why = if reading.low {
                    Some(Critical::Low)
                } else if let Some(left) = reading.runtime_s.filter(|left| *left <= rules.runtime_min_s) {
                    Some(Critical::Runtime(left))
                } else {
                    reading.charge.filter(|left| *left <= rules.charge_min).map(Critical::Charge)
                };
                self.low = why.map(|why| (self.low.map_or(now_ms, |(since, _)| since), why));
            }
            Supply::Mains => {
                if let Some(battery) = &mut self.battery {
                    battery.back_ms.get_or_insert(now_ms);
                }
                self.low = None;
            }
            Supply::Unsaid => {}
        }
        if reading.supply == Supply::Unsaid {
            // It speaks and says nothing that helps: for the time of a loss this is silence. A forced shutdown is heard.
            self.silence = Some(Silence::Malformed("neither mains nor battery".into()));
            self.heard_again_ms = None;
        } else {
            self.heard_ms = Some(now_ms);
            self.silence = None;
            self.heard_again_ms.get_or_insert(now_ms);
        }
        self.last = Some(reading);
    }

    fn age(&mut self, rules: &Rules, began_ms: u64, now_ms: u64) {
        if self.silent(rules, began_ms, now_ms) {
            self.lost = true;
        } else if self.heard_again_ms.is_some_and(|at| now_ms.saturating_sub(at) >= rules.steady_ms) {
            self.lost = false;
        }
        let heard_ms = self.heard_ms.unwrap_or(0);
        let back_for_good = |battery: &Battery| {
            // What was not heard of does not count as mains.
            battery.back_ms.is_some_and(|back| heard_ms.saturating_sub(back) >= rules.steady_ms)
        };
        if self.battery.as_ref().is_some_and(back_for_good) {
            self.battery = None;
        }
        self.doubts.retain(|_, seen| now_ms.saturating_sub(*seen) < DOUBT_STANDS_MS);
        if self.weak_seen_ms.is_some_and(|seen| now_ms.saturating_sub(seen) >= DOUBT_STANDS_MS) {
            self.weak_seen_ms = None;
        }
    }

    fn silent(&self, rules: &Rules, began_ms: u64, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.heard_ms.unwrap_or(began_ms)) >= rules.lost_after_ms
    }

    fn critical(&self, rules: &Rules, began_ms: u64, now_ms: u64) -> Option<Critical> {
        if self.last.as_ref().is_some_and(|last| last.forced) {
            return Some(Critical::Forced);
        }
        let battery = self.battery.as_ref()?;
        if battery.back_ms.is_some() {
            return None;
        }
        if let Some((since, why)) = self.low
            && now_ms.saturating_sub(since) >= rules.confirm_ms
        {
            return Some(why);
        }
        if self.silent(rules, began_ms, now_ms) {
            return Some(Critical::LostOnBattery);
        }
        (now_ms.saturating_sub(battery.since_ms) >= rules.battery_max_ms).then_some(Critical::TooLong)
    }

    /// Its last word, for a line of text.
    fn said(&self) -> String {
        if let Some(silence) = &self.silence {
            return silence.to_string();
        }
        let Some(last) = &self.last else { return "not heard yet".into() };
        let mut words: BTreeSet<&str> = BTreeSet::new();
        words.insert(match last.supply {
            Supply::Mains => "mains",
            Supply::Battery => "on battery",
            Supply::Unsaid => "neither mains nor battery",
        });
        if last.low {
            words.insert("low");
        }
        if last.forced {
            words.insert("forced shutdown");
        }
        words.into_iter().collect::<Vec<_>>().join(", ")
    }
}
