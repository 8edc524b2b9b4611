//! Statistics of a queue (R-Q11, R-P2, R-P3): kept as tickets reach their final state, in bounded parts.
//!
//! A ticket is counted once, on the day it was taken, in five tallies: of all, of the local hour in which it was
//! taken, of its service, and of the window and the officer that ended it. Days stay apart for [`DAYS_KEPT`], then
//! they become part of their month; months stay for [`MONTHS_KEPT`]. What is older is in the journal.
//!
//! Times are kept as counts in fixed buckets, so that tallies of any days add up exactly: averages are exact, a
//! percentile is the upper end of its bucket ([`upper_ms`]): right to 10 s below 10 minutes, to 30 s below an hour,
//! to 2 minutes below four hours.

use super::{Queue, types::Part};
use crate::{
    entity::Refusal,
    refusal::{FIELD_INVALID, PERIOD_UNAVAILABLE, refuse},
    time::{HOUR_MS, MINUTE_MS},
};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Days whose tallies stay apart: any month and what is left of the one before.
pub const DAYS_KEPT: i32 = 62;
/// Months whose tallies are kept: this year against the last.
pub const MONTHS_KEPT: i32 = 25;
/// Services, windows and officers that are told apart in one day, each; the rest is counted as [`OTHERS`].
pub const KEYS_PER_DAY_MAX: usize = 250;
/// Whom the bound above leaves over.
pub const OTHERS: &str = "…";
/// Tallies that one sweep folds: keeps its commit below 256 KiB.
pub const FOLD_PARTS_MAX: usize = 64;

/// Ends of the ranges of buckets, and how wide a bucket is there.
const RANGES: [(i64, i64); 3] = [(10 * MINUTE_MS, 10_000), (HOUR_MS, 30_000), (4 * HOUR_MS, 2 * MINUTE_MS)];

/// The bucket of a duration.
pub fn bucket(duration_ms: i64) -> u16 {
    let (mut from, mut first) = (0, 0_i64);
    for (end, width) in RANGES {
        if duration_ms < end {
            return u16::try_from(first + (duration_ms.max(0) - from) / width).unwrap_or(u16::MAX);
        }
        first += (end - from) / width;
        from = end;
    }
    // Four hours and more.
    u16::try_from(first).unwrap_or(u16::MAX)
}

/// The upper end of a bucket; of the last, where it begins.
pub fn upper_ms(bucket: u16) -> i64 {
    let mut left = i64::from(bucket);
    let mut from = 0;
    for (end, width) in RANGES {
        let buckets = (end - from) / width;
        if left < buckets {
            return from + (left + 1) * width;
        }
        left -= buckets;
        from = end;
    }
    from
}

/// How a duration is spread.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spread {
    pub count: u32,
    pub sum_ms: u64,
    /// Bucket → how many; buckets without any are left out.
    pub buckets: BTreeMap<u16, u32>,
}

impl Spread {
    fn add(&mut self, duration_ms: i64) {
        self.count += 1;
        self.sum_ms += u64::try_from(duration_ms).unwrap_or(0);
        *self.buckets.entry(bucket(duration_ms)).or_default() += 1;
    }

    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum_ms += other.sum_ms;
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
    }

    /// `None`: nothing was counted.
    pub fn average_ms(&self) -> Option<u64> {
        self.sum_ms.checked_div(u64::from(self.count))
    }

    /// The time within which `percent` of a hundred are; the upper end of the bucket.
    pub fn percentile_ms(&self, percent: u32) -> Option<i64> {
        let wanted = (u64::from(self.count) * u64::from(percent.min(100))).div_ceil(100).max(1);
        let mut seen = 0;
        self.buckets.iter().find_map(|(bucket, count)| {
            seen += u64::from(*count);
            (seen >= wanted).then(|| upper_ms(*bucket))
        })
    }
}

/// How a visit ended, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ending {
    Served,
    DidNotCome,
    /// The day was over before.
    Unserved,
    Left,
}

/// What is counted of a ticket that reached its final state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// On which it was taken.
    pub day: Date,
    /// Local hour of the taking.
    pub hour: i8,
    /// Empty: none was named.
    pub service: String,
    /// That ended it; empty: none.
    pub window: String,
    pub officer: String,
    pub ending: Ending,
    /// Until first called; `None`: never called.
    pub wait_ms: Option<i64>,
    /// In service, at all windows together.
    pub service_ms: Option<i64>,
    /// The wait was within the office's norm.
    pub in_norm: bool,
}

impl Counted {
    /// The names of the tallies it is counted in.
    pub(super) fn parts(&self) -> Vec<String> {
        let day = self.day;
        let mut parts = vec![format!("stats:d:{day}:all"), format!("stats:d:{day}:hour:{:02}", self.hour)];
        for (what, key) in [("service", &self.service), ("window", &self.window), ("officer", &self.officer)]
        {
            if !key.is_empty() {
                parts.push(format!("stats:d:{day}:{what}:{key}"));
            }
        }
        parts
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    pub visits: u32,
    pub served: u32,
    pub did_not_come: u32,
    pub unserved: u32,
    pub left: u32,
    /// Of those called.
    pub in_norm: u32,
    pub wait: Spread,
    pub service: Spread,
}

impl Tally {
    pub fn count(&mut self, counted: &Counted) {
        self.visits += 1;
        match counted.ending {
            Ending::Served => self.served += 1,
            Ending::DidNotCome => self.did_not_come += 1,
            Ending::Unserved => self.unserved += 1,
            Ending::Left => self.left += 1,
        }
        if let Some(wait_ms) = counted.wait_ms {
            self.wait.add(wait_ms);
            self.in_norm += u32::from(counted.in_norm);
        }
        if let Some(service_ms) = counted.service_ms {
            self.service.add(service_ms);
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.visits += other.visits;
        self.served += other.served;
        self.did_not_come += other.did_not_come;
        self.unserved += other.unserved;
        self.left += other.left;
        self.in_norm += other.in_norm;
        self.wait.merge(&other.wait);
        self.service.merge(&other.service);
    }

    /// Of those called, how many of ten thousand waited no longer than the norm.
    pub fn in_norm_per_10_000(&self) -> Option<u32> {
        let share = u64::from(self.in_norm) * 10_000;
        share.checked_div(u64::from(self.wait.count)).and_then(|share| u32::try_from(share).ok())
    }
}

/// The statistics of a period.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    pub all: Tally,
    pub hours: BTreeMap<i8, Tally>,
    pub services: BTreeMap<String, Tally>,
    pub windows: BTreeMap<String, Tally>,
    pub officers: BTreeMap<String, Tally>,
}

impl Statistics {
    /// `what`: the end of a tally's name, after its period.
    fn add(&mut self, what: &str, tally: &Tally) {
        let (dimension, key) = what.split_once(':').unwrap_or((what, ""));
        let of = match dimension {
            "hour" => self.hours.entry(key.parse().unwrap_or_default()).or_default(),
            "service" => self.services.entry(key.to_owned()).or_default(),
            "window" => self.windows.entry(key.to_owned()).or_default(),
            "officer" => self.officers.entry(key.to_owned()).or_default(),
            _ => &mut self.all,
        };
        of.merge(tally);
    }
}

/// `stats:d:2026-11-21:hour:10` → (`2026-11-21`, `hour:10`).
fn split(part: &str) -> Option<(&str, &str)> {
    part.strip_prefix("stats:d:").or_else(|| part.strip_prefix("stats:m:"))?.split_once(':')
}

/// The tally of the month that a day's becomes part of.
pub(super) fn month_part(day_part: &str) -> Option<String> {
    let (day, what) = day_part.strip_prefix("stats:d:")?.split_once(':')?;
    Some(format!("stats:m:{}:{what}", day.get(..day.len().checked_sub(3)?)?))
}

fn month_of(day: Date) -> String {
    let text = day.to_string();
    text[..text.len() - 3].to_owned()
}

/// The stretches `[from, to)` of names in which the tallies of a period stand: of its days, and of its months.
pub(super) fn stretches(from: Date, to: Date) -> [(String, String); 2] {
    [
        (format!("stats:d:{from}:"), format!("stats:d:{to};")),
        (format!("stats:m:{}:", month_of(from)), format!("stats:m:{};", month_of(to))),
    ]
}

impl Queue {
    /// The statistics of the days `from` to `to`, both included. A month whose days are no longer kept apart counts
    /// as a whole: a period that holds only a piece of it is refused.
    pub fn statistics(&self, from: Date, to: Date) -> Result<Statistics, Refusal> {
        if to < from {
            return Err(refuse(FIELD_INVALID).with("to", "not before from"));
        }
        let mut found = Statistics::default();
        let [days, months] = stretches(from, to);
        for (name, tally) in self.tallies.range(days.0..days.1) {
            if let Some((_, what)) = split(name) {
                found.add(what, tally);
            }
        }
        for (name, tally) in self.tallies.range(months.0..months.1) {
            let Some((month, what)) = split(name) else { continue };
            let begins = format!("{month}-01").parse::<Date>().ok();
            let whole = begins.is_some_and(|begins| begins >= from && begins.last_of_month() <= to);
            if !whole {
                return Err(refuse(PERIOD_UNAVAILABLE).with("month", month));
            }
            found.add(what, tally);
        }
        Ok(found)
    }

    /// One tally of a day, by the end of its name.
    pub(super) fn tally(&self, day: Date, what: &str) -> Option<&Tally> {
        self.tallies.get(&format!("stats:d:{day}:{what}")).map(Arc::as_ref)
    }

    pub(super) fn tally_part(&self, name: &str) -> Option<Part> {
        self.tallies.get(name).cloned().map(Part::Tally)
    }

    pub(super) fn count(&mut self, counted: &Counted) {
        for part in counted.parts() {
            Arc::make_mut(self.tallies.entry(part).or_default()).count(counted);
        }
    }

    pub(super) fn fold_tallies(&mut self, parts: &[String]) {
        for part in parts {
            if let (Some(month), Some(tally)) = (month_part(part), self.tallies.remove(part)) {
                Arc::make_mut(self.tallies.entry(month).or_default()).merge(&tally);
            }
        }
    }

    /// The key under which a service, window or officer is counted: its own while there is room.
    pub(super) fn counted_as(&self, day: Date, what: &str, key: &str) -> String {
        let name = format!("stats:d:{day}:{what}:{key}");
        if key.is_empty() || self.tallies.contains_key(&name) {
            return key.to_owned();
        }
        let (first, after) = (format!("stats:d:{day}:{what}:"), format!("stats:d:{day}:{what};"));
        let known = self.tallies.range(first..after).count();
        if known < KEYS_PER_DAY_MAX { key.to_owned() } else { OTHERS.to_owned() }
    }

    /// Tallies of days before `day`, some at a time.
    pub(super) fn tallies_to_fold(&self, before: Date) -> Vec<String> {
        let range = "stats:d:".to_owned()..format!("stats:d:{before}:");
        self.tallies.range(range).take(FOLD_PARTS_MAX).map(|(name, _)| name.clone()).collect()
    }

    /// Tallies of months before the one of `day`, some at a time.
    pub(super) fn tallies_to_clear(&self, before: Date) -> Vec<String> {
        let range = "stats:m:".to_owned()..format!("stats:m:{}:", month_of(before));
        self.tallies.range(range).take(FOLD_PARTS_MAX).map(|(name, _)| name.clone()).collect()
    }
}
