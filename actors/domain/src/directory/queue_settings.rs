//! What governs an office's queue: groups and letters, priority and fairness, booking, hours, breaks, times.
//!
//! An office without settings of its own has [`QueueSettings::default`]; every default has its reason beside it.

use super::types::PER_OFFICE_MAX;
use crate::{
    entity::Refusal,
    queue::outside::SYSTEM_MAX,
    refusal::{FIELD_INVALID, refuse},
    time::{MINUTE_MS, local_hour_ms, plus_days},
    validators::{expect_code, expect_len, expect_one_letter},
};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, ops::RangeInclusive};

/// Services with slots of their own, and services of one group.
pub const SERVICES_MAX: usize = 500;
/// Outside queue systems of one office, and connectors that speak for one of them.
pub const OUTSIDE_SYSTEMS_MAX: usize = 8;
pub const OUTSIDE_CONNECTORS_MAX: usize = 8;
/// Days on which an office is closed though the week says it is open.
pub const CLOSED_DAYS_MAX: usize = 64;
/// Minutes of a day.
const DAY_MINUTES: u16 = 24 * 60;
/// What the numbers may be.
const FAIRNESS_MINUTES: RangeInclusive<u16> = 0..=240;
const NORM_MINUTES: RangeInclusive<u16> = 1..=240;
const CALLS: RangeInclusive<u8> = 1..=10;
const PUT_OFF_MINUTES: RangeInclusive<u16> = 1..=240;
const PUT_OFFS: RangeInclusive<u8> = 0..=20;
const GRACE_SECONDS: RangeInclusive<u32> = 0..=3_600;
const BREAK_MINUTES: RangeInclusive<u16> = 1..=480;
const CLOSE_AFTER_MINUTES: RangeInclusive<u16> = 0..=480;
const KIOSK_PAUSE_SECONDS: RangeInclusive<u16> = 0..=60;
const STEP_MINUTES: RangeInclusive<u16> = 1..=480;
const HORIZON_DAYS: RangeInclusive<u16> = 1..=365;
const EARLY_MINUTES: RangeInclusive<u16> = 0..=480;
const LATE_MINUTES: RangeInclusive<u16> = 0..=240;
const WEIGHT: RangeInclusive<u8> = 1..=100;

/// Services whose tickets carry one letter and wait together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServiceGroup {
    pub letter: String,
    pub name: String,
    /// Codes of services; others keep the letter of the catalogue.
    pub services: Vec<String>,
}

/// Citizens called with a head start (R-Q12).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PriorityCategory {
    pub code: String,
    /// Percent of the fairness bound that the head start is, 1 to 100.
    pub weight: u8,
}

/// When an office is open on a weekday.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DayHours {
    /// 1 is Monday, 7 is Sunday.
    pub weekday: u8,
    /// Minutes from local midnight.
    pub opens_minute: u16,
    pub closes_minute: u16,
}

/// Slots of one service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServiceSlots {
    pub service: String,
    pub step_minutes: u16,
}

/// An outside queue system that may act in the office's queue (R-Q13), and who speaks for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OutsideSystem {
    pub system: String,
    /// Ids of connectors.
    pub connectors: Vec<String>,
}

/// Appointments. One visitor a slot: a slot is a service and a moment on its grid, which begins when the office opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookingSettings {
    pub enabled: bool,
    /// Of services that are not listed.
    pub step_minutes: u16,
    pub services: Vec<ServiceSlots>,
    /// How far ahead one can book.
    pub horizon_days: u16,
    /// How long before the slot a visitor may check in.
    pub early_minutes: u16,
    /// How long after the slot's beginning it is kept for its visitor.
    pub late_minutes: u16,
    /// Who comes later than that gets an ordinary ticket; otherwise is refused.
    pub late_joins_queue: bool,
    /// Head start of a visitor with a booking, as a category's weight; 0: none.
    pub weight: u8,
    /// How long before the slot one can still cancel.
    pub cancel_minutes: u16,
}

impl Default for BookingSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            // The norm of waiting; a visit takes about as long.
            step_minutes: 15,
            services: Vec::new(),
            // Two weeks: longer horizons are seen to raise the share of those who do not come.
            horizon_days: 14,
            early_minutes: 30,
            late_minutes: 10,
            // Nobody is sent home who has come.
            late_joins_queue: true,
            // Some regions promise a booked visitor five minutes.
            weight: 100,
            cancel_minutes: 0,
        }
    }
}

/// All of it. In the directory under `queue-settings:<office>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSettings {
    pub office: String,
    pub groups: Vec<ServiceGroup>,
    /// Besides those the office itself names, which have the weight 100.
    pub categories: Vec<PriorityCategory>,
    /// Nobody is called before a visitor who came so much earlier, whatever the weights (ADR 0013).
    pub fairness_minutes: u16,
    /// What waiting is measured against.
    pub norm_minutes: u16,
    /// Calls before a visitor may be marked as not come.
    pub calls_before_no_show: u8,
    pub put_off_minutes_max: u16,
    /// Times one visitor may be put off.
    pub put_offs_max: u8,
    /// How long a called visitor stands before a window that nobody attends, before going back to the head.
    pub unattended_grace_seconds: u32,
    pub break_minutes_max: u16,
    /// Weekdays that are not listed are closed; none listed: open at any time.
    pub hours: Vec<DayHours>,
    pub closed_days: Vec<Date>,
    /// How long after closing time what is left is closed.
    pub close_after_minutes: u16,
    pub booking: BookingSettings,
    /// Windows that are free are given their next visitor without asking (by load).
    pub auto_call: bool,
    /// A kiosk that asks for the same ticket again within this time is refused; 0: never.
    pub kiosk_pause_seconds: u16,
    /// None: nobody outside acts in the queue.
    pub outside: Vec<OutsideSystem>,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            office: String::new(),
            groups: Vec::new(),
            categories: Vec::new(),
            // Twice the norm: out of turn in an office that keeps the norm, and a limit in one that does not.
            fairness_minutes: 30,
            // Decree 601, rules 1376.
            norm_minutes: 15,
            // As it was before there were settings; an office with a display that blinks says 3.
            calls_before_no_show: 1,
            put_off_minutes_max: 60,
            put_offs_max: 3,
            unattended_grace_seconds: 60,
            break_minutes_max: 60,
            hours: Vec::new(),
            closed_days: Vec::new(),
            close_after_minutes: 120,
            booking: BookingSettings::default(),
            auto_call: false,
            // The request id already tells a repetition from a second visitor.
            kiosk_pause_seconds: 0,
            // Who may call visitors is for the office to say.
            outside: Vec::new(),
        }
    }
}

/// When an office is open on a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    Closed,
    /// From and to, in milliseconds since the epoch.
    Hours {
        opens_ms: i64,
        closes_ms: i64,
    },
}

impl QueueSettings {
    /// When the office is open on a local date.
    pub fn opening(&self, day: Date, offset_minutes: i32) -> Opening {
        if self.closed_days.contains(&day) {
            return Opening::Closed;
        }
        let midnight_ms = local_hour_ms(day, 0, offset_minutes);
        if self.hours.is_empty() {
            let closes_ms = local_hour_ms(plus_days(day, 1), 0, offset_minutes);
            return Opening::Hours { opens_ms: midnight_ms, closes_ms };
        }
        let weekday = day.weekday().to_monday_one_offset();
        let hours = self.hours.iter().find(|hours| i16::from(hours.weekday) == i16::from(weekday));
        hours.map_or(Opening::Closed, |hours| Opening::Hours {
            opens_ms: midnight_ms + i64::from(hours.opens_minute) * MINUTE_MS,
            closes_ms: midnight_ms + i64::from(hours.closes_minute) * MINUTE_MS,
        })
    }

    /// When what is left of a day gets its final state: some time after closing, midnight at the latest.
    pub fn day_ends_ms(&self, day: Date, offset_minutes: i32) -> i64 {
        let midnight_ms = local_hour_ms(plus_days(day, 1), 0, offset_minutes);
        match self.opening(day, offset_minutes) {
            Opening::Closed => midnight_ms,
            Opening::Hours { closes_ms, .. } => {
                midnight_ms.min(closes_ms + i64::from(self.close_after_minutes) * MINUTE_MS)
            }
        }
    }

    /// The head start that a weight gives.
    pub fn head_start_ms(&self, weight: u8) -> i64 {
        i64::from(self.fairness_minutes) * MINUTE_MS * i64::from(weight.min(100)) / 100
    }

    /// The letter of a service's group, where the office has one of its own.
    pub fn letter(&self, service: &str) -> Option<char> {
        let group = self.groups.iter().find(|group| group.services.iter().any(|known| known == service))?;
        group.letter.chars().next()
    }

    /// A connector speaks for an outside queue system here.
    pub fn may_tell(&self, system: &str, connector: &str) -> bool {
        let mut systems = self.outside.iter().filter(|outside| outside.system == system);
        systems.any(|outside| outside.connectors.iter().any(|known| known == connector))
    }

    /// Minutes between two slots of a service.
    pub fn step_minutes(&self, service: &str) -> u16 {
        let own = self.booking.services.iter().find(|slots| slots.service == service);
        own.map_or(self.booking.step_minutes, |slots| slots.step_minutes)
    }
}

pub(super) fn check(settings: &QueueSettings) -> Result<(), Refusal> {
    let at_most = |field: &str, have: usize, max: usize| {
        if have > max {
            Err(refuse(FIELD_INVALID).with(field, format!("at most {max} entries")))
        } else {
            Ok(())
        }
    };
    at_most("settings.groups", settings.groups.len(), PER_OFFICE_MAX)?;
    let mut letters = BTreeSet::new();
    let mut services = BTreeSet::new();
    for group in &settings.groups {
        expect_one_letter("settings.groups.letter", &group.letter)?;
        expect_len("settings.groups.name", &group.name, 300)?;
        at_most("settings.groups.services", group.services.len(), SERVICES_MAX)?;
        once("settings.groups.letter", letters.insert(&group.letter))?;
        for service in &group.services {
            expect_code("settings.groups.services", service, 64)?;
            once("settings.groups.services", services.insert(service))?;
        }
    }
    at_most("settings.categories", settings.categories.len(), PER_OFFICE_MAX)?;
    let mut categories = BTreeSet::new();
    for category in &settings.categories {
        if category.code.trim().is_empty() {
            return Err(refuse(FIELD_INVALID).with("settings.categories.code", "not empty"));
        }
        expect_len("settings.categories.code", &category.code, 64)?;
        once("settings.categories.code", categories.insert(&category.code))?;
        within("settings.categories.weight", category.weight, &WEIGHT)?;
    }
    within("settings.fairness_minutes", settings.fairness_minutes, &FAIRNESS_MINUTES)?;
    within("settings.norm_minutes", settings.norm_minutes, &NORM_MINUTES)?;
    within("settings.calls_before_no_show", settings.calls_before_no_show, &CALLS)?;
    within("settings.put_off_minutes_max", settings.put_off_minutes_max, &PUT_OFF_MINUTES)?;
    within("settings.put_offs_max", settings.put_offs_max, &PUT_OFFS)?;
    within("settings.unattended_grace_seconds", settings.unattended_grace_seconds, &GRACE_SECONDS)?;
    within("settings.break_minutes_max", settings.break_minutes_max, &BREAK_MINUTES)?;
    within("settings.close_after_minutes", settings.close_after_minutes, &CLOSE_AFTER_MINUTES)?;
    within("settings.kiosk_pause_seconds", settings.kiosk_pause_seconds, &KIOSK_PAUSE_SECONDS)?;
    at_most("settings.hours", settings.hours.len(), 7)?;
    let mut weekdays = BTreeSet::new();
    for hours in &settings.hours {
        within("settings.hours.weekday", hours.weekday, &(1..=7))?;
        once("settings.hours.weekday", weekdays.insert(hours.weekday))?;
        if hours.opens_minute >= hours.closes_minute || hours.closes_minute > DAY_MINUTES {
            return Err(
                refuse(FIELD_INVALID).with("settings.hours", "opens before it closes, within the day")
            );
        }
    }
    at_most("settings.closed_days", settings.closed_days.len(), CLOSED_DAYS_MAX)?;
    at_most("settings.outside", settings.outside.len(), OUTSIDE_SYSTEMS_MAX)?;
    let mut systems = BTreeSet::new();
    for outside in &settings.outside {
        expect_code("settings.outside.system", &outside.system, SYSTEM_MAX)?;
        once("settings.outside.system", systems.insert(&outside.system))?;
        at_most("settings.outside.connectors", outside.connectors.len(), OUTSIDE_CONNECTORS_MAX)?;
        let mut connectors = BTreeSet::new();
        for connector in &outside.connectors {
            expect_code("settings.outside.connectors", connector, 64)?;
            once("settings.outside.connectors", connectors.insert(connector))?;
        }
    }
    booking(&settings.booking, at_most)
}

fn booking(
    booking: &BookingSettings,
    at_most: impl Fn(&str, usize, usize) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    within("settings.booking.step_minutes", booking.step_minutes, &STEP_MINUTES)?;
    at_most("settings.booking.services", booking.services.len(), SERVICES_MAX)?;
    let mut services = BTreeSet::new();
    for slots in &booking.services {
        expect_code("settings.booking.services", &slots.service, 64)?;
        once("settings.booking.services", services.insert(&slots.service))?;
        within("settings.booking.services.step_minutes", slots.step_minutes, &STEP_MINUTES)?;
    }
    within("settings.booking.horizon_days", booking.horizon_days, &HORIZON_DAYS)?;
    within("settings.booking.early_minutes", booking.early_minutes, &EARLY_MINUTES)?;
    within("settings.booking.late_minutes", booking.late_minutes, &LATE_MINUTES)?;
    within("settings.booking.weight", booking.weight, &(0..=100))?;
    within("settings.booking.cancel_minutes", booking.cancel_minutes, &(0..=u16::MAX))
}

fn within<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: T,
    range: &RangeInclusive<T>,
) -> Result<(), Refusal> {
    if range.contains(&value) {
        Ok(())
    } else {
        Err(refuse(FIELD_INVALID).with(field, format!("{} to {}", range.start(), range.end())))
    }
}

fn once(field: &str, new: bool) -> Result<(), Refusal> {
    if new { Ok(()) } else { Err(refuse(FIELD_INVALID).with(field, "each once")) }
}
