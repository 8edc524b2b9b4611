//! Moments and local dates. Time comes in as milliseconds since the Unix epoch (rule 7); an office's local date
//! follows from its fixed offset to UTC (Russia has had no summer time since 2014, so no time zone rules).

use jiff::{
    Timestamp,
    civil::Date,
    tz::{Offset, TimeZone},
};

/// Milliseconds in a minute.
pub const MINUTE_MS: i64 = 60_000;
/// Milliseconds in an hour.
pub const HOUR_MS: i64 = 60 * MINUTE_MS;
/// Milliseconds in a day.
pub const DAY_MS: i64 = 24 * HOUR_MS;
/// Offsets to UTC that an office may have, in minutes: UTC+2 (Kaliningrad) to UTC+12 (Kamchatka) are in use;
/// the bounds are those of civil time zones, so that a test region elsewhere can be set up.
pub const OFFSET_MINUTES: std::ops::RangeInclusive<i32> = -12 * 60..=14 * 60;

/// The date on the wall of an office at a moment. Moments outside of what a calendar can hold become the
/// calendar's ends: time is stamped by the leader and cannot be there.
pub fn local_date(at_ms: i64, offset_minutes: i32) -> Date {
    let shifted = at_ms.saturating_add(i64::from(offset_minutes) * MINUTE_MS);
    Timestamp::from_millisecond(shifted).map_or(if at_ms < 0 { Date::MIN } else { Date::MAX }, |moment| {
        moment.to_zoned(TimeZone::fixed(Offset::UTC)).date()
    })
}

/// The moment of a local date and hour at an office.
pub fn local_hour_ms(date: Date, hour: i8, offset_minutes: i32) -> i64 {
    let midnight_utc_ms = TimeZone::fixed(Offset::UTC)
        .to_timestamp(date.at(0, 0, 0, 0))
        .map_or(i64::MAX / 2, Timestamp::as_millisecond);
    midnight_utc_ms + i64::from(hour) * HOUR_MS - i64::from(offset_minutes) * MINUTE_MS
}

/// A date some days later or earlier; saturates at the calendar's ends.
pub fn plus_days(date: Date, days: i32) -> Date {
    date.saturating_add(jiff::Span::new().days(days))
}

/// When one calendar year from a moment is over: its date in the office's time, the same date next year (the last of
/// February where there is none), and that day to its end (Civil Code 192 and 194).
pub fn year_over_ms(at_ms: i64, offset_minutes: i32) -> i64 {
    let last = local_date(at_ms, offset_minutes).saturating_add(jiff::Span::new().years(1));
    local_hour_ms(plus_days(last, 1), 0, offset_minutes)
}
