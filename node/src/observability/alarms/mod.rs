//! Standing alarms: conditions an operator must see until they are gone. Each clears by itself when its cause is
//! gone; nothing is acknowledged by hand.
//!
//! What kinds there are, and who learns of each, stands in [`kinds`]. An alarm goes to `/metrics`, to the other
//! members, and, if its kind says so, to every attached workstation.

pub mod kinds;

pub use kinds::{KINDS, Kind, Severity};

use parking_lot::Mutex;
use std::{borrow::Cow, collections::BTreeMap, time::SystemTime};

/// Reasons are a line or two; what is longer is cut, because alarms travel with every gossip.
const REASON_CHARS_MAX: usize = 500;
/// Kinds that stand at a time. [`KINDS`] has fewer; the bound is for kinds that are made up.
const STANDING_MAX: usize = 64;

/// A condition that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Stable name in capitals; one alarm of a kind stands at a time.
    pub kind: Cow<'static, str>,
    pub severity: Severity,
    /// For engineers, with the figures.
    pub reason: String,
    /// For people at the windows and for operators.
    pub text_ru: String,
}

impl Alarm {
    /// An alarm with its kind's severity and Russian text; of a kind that is not in the table, a warning.
    pub fn new(kind: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
        let (kind, reason) = (kind.into(), reason.into());
        let (severity, text_ru) = match kinds::find(&kind) {
            Some(known) => (known.severity, known.text_ru.to_owned()),
            None => (Severity::Warning, reason.clone()),
        };
        Self { kind, severity, reason, text_ru }
    }

    /// With a Russian text of its own.
    #[must_use]
    pub fn russian(mut self, text: impl Into<String>) -> Self {
        self.text_ru = text.into();
        self
    }
}

impl<K: Into<Cow<'static, str>>, R: Into<String>> From<(K, R)> for Alarm {
    fn from((kind, reason): (K, R)) -> Self {
        Self::new(kind, reason)
    }
}

/// An alarm with the time it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub alarm: Alarm,
    pub since: SystemTime,
}

/// The alarms of this node. Invariants: one per kind, at most [`STANDING_MAX`]; `since` is when the kind began to
/// stand, whatever its reason became meanwhile.
#[derive(Debug, Default)]
pub struct Alarms {
    standing: Mutex<BTreeMap<Cow<'static, str>, Standing>>,
}

impl Alarms {
    /// The condition holds; raising what stands already brings its words up to date.
    pub fn raise(&self, alarm: impl Into<Alarm>) {
        let mut alarm: Alarm = alarm.into();
        cut(&mut alarm.reason);
        cut(&mut alarm.text_ru);
        let mut standing = self.standing.lock();
        if let Some(before) = standing.get_mut(&alarm.kind) {
            before.alarm = alarm;
            return;
        }
        tracing::warn!(alarm = %alarm.kind, severity = alarm.severity.name(), reason = alarm.reason, "alarm");
        if standing.len() < STANDING_MAX {
            standing.insert(alarm.kind.clone(), Standing { alarm, since: SystemTime::now() });
        }
    }

    /// The condition holds no more.
    pub fn clear(&self, kind: &str) {
        if self.standing.lock().remove(kind).is_some() {
            tracing::info!(alarm = kind, "alarm over");
        }
    }

    /// Raises or clears, by whether there is a reason.
    pub fn set(&self, kind: &'static str, reason: Option<String>) {
        match reason {
            Some(reason) => self.raise((kind, reason)),
            None => self.clear(kind),
        }
    }

    /// What stands, by kind.
    pub fn list(&self) -> Vec<Standing> {
        self.standing.lock().values().cloned().collect()
    }
}

fn cut(text: &mut String) {
    if let Some((place, _)) = text.char_indices().nth(REASON_CHARS_MAX) {
        text.truncate(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alarm_of_a_kind_stands_from_its_beginning() {
        let alarms = Alarms::default();
        alarms.raise((kinds::DISK_FULL, "3 % free"));
        let first = alarms.list();
        alarms.raise((kinds::DISK_FULL, "2 % free"));
        alarms.raise(Alarm::new("MADE_UP", "x".repeat(2_000)).russian("ы".repeat(2_000)));
        let now = alarms.list();
        assert_eq!(now.len(), 2);
        assert_eq!((now[0].alarm.reason.as_str(), now[0].since), ("2 % free", first[0].since));
        assert_eq!(now[0].alarm.severity, Severity::Alarm);
        assert_eq!(now[1].alarm.reason.chars().count(), REASON_CHARS_MAX);
        assert_eq!(now[1].alarm.text_ru.chars().count(), REASON_CHARS_MAX);
        alarms.set(kinds::DISK_FULL, None);
        alarms.clear("MADE_UP");
        assert!(alarms.list().is_empty());
    }

    #[test]
    fn made_up_kinds_are_bounded() {
        let alarms = Alarms::default();
        for n in 0..STANDING_MAX * 2 {
            alarms.raise((format!("KIND_{n}"), "x"));
        }
        assert_eq!(alarms.list().len(), STANDING_MAX);
    }
}
