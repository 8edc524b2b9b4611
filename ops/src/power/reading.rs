//! What one supply says at one moment. Supplies lie: what contradicts itself or cannot be is named as a doubt, and the
//! reading keeps what is safe to believe.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A battery that lasts longer than a day is a figure nobody measured.
const RUNTIME_MAX_S: f64 = 86_400.0;
/// "Low" at or above this charge contradicts itself.
const FULL_PERCENT: u8 = 95;

/// Where the load's power comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    Mains,
    Battery,
    /// It did not say; what was known stands.
    Unsaid,
}

/// What cannot be believed of a reading, and what is believed instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    BothLines,
    NoLine,
    Charge,
    Runtime,
    LowWhenFull,
    /// Found by the watch: mains came and went several times.
    Flapping,
}

impl Doubt {
    pub fn english(self) -> &'static str {
        match self {
            Self::BothLines => "it says mains and battery at once; battery is believed",
            Self::NoLine => "it says neither mains nor battery; what it said last is believed",
            Self::Charge => "its charge is no percentage; it is left out of account",
            Self::Runtime => "its remaining time cannot be; it is left out of account",
            Self::LowWhenFull => "it says that a full battery is low; low is believed while on battery",
            Self::Flapping => "mains comes and goes; the time on battery is counted from the first loss",
        }
    }

    pub fn russian(self) -> &'static str {
        match self {
            Self::BothLines => "сообщает сразу и сеть, и батарею; принято: батарея",
            Self::NoLine => "не сообщает ни сети, ни батареи; принято последнее известное",
            Self::Charge => "сообщает невозможный заряд; заряд не учитывается",
            Self::Runtime => "сообщает невозможное оставшееся время; время не учитывается",
            Self::LowWhenFull => {
                "сообщает, что полная батарея разряжена; при работе от батареи это принимается"
            }
            Self::Flapping => "сеть пропадает и появляется; время от батареи считается с первого пропадания",
        }
    }
}

/// A supply's word. `charge` and `runtime_s` only where they can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub supply: Supply,
    pub low: bool,
    /// Forced shutdown: the one who commands the supply is about to cut the load.
    pub forced: bool,
    /// The battery should be replaced.
    pub replace: bool,
    pub charge: Option<u8>,
    pub runtime_s: Option<u32>,
    pub doubts: BTreeSet<Doubt>,
}

impl Reading {
    /// From the variables of `upsd`. Unknown words of the status are other matters (`BOOST`, `CHRG`, `TEST`).
    pub fn of(variables: &BTreeMap<String, String>) -> Self {
        let status = variables.get("ups.status").map_or("", String::as_str);
        let says = |word: &str| status.split_ascii_whitespace().any(|one| one == word);
        let mut doubts = BTreeSet::new();
        let supply = match (says("OL"), says("OB")) {
            (true, true) => {
                doubts.insert(Doubt::BothLines);
                Supply::Battery
            }
            (false, true) => Supply::Battery,
            (true, false) => Supply::Mains,
            (false, false) => {
                doubts.insert(Doubt::NoLine);
                Supply::Unsaid
            }
        };
        let mut figure = |name: &str, max: f64, doubt| {
            let text = variables.get(name)?;
            match text.trim().parse::<f64>() {
                Ok(value) if (0.0..=max).contains(&value) => Some(value),
                _ => {
                    doubts.insert(doubt);
                    None
                }
            }
        };
        // In range, so the casts lose fractions only.
        let charge = figure("battery.charge", 100.0, Doubt::Charge).map(|percent| percent as u8);
        let runtime_s = figure("battery.runtime", RUNTIME_MAX_S, Doubt::Runtime).map(|s| s as u32);
        let low = says("LB");
        if low && charge.is_some_and(|charge| charge >= FULL_PERCENT) {
            doubts.insert(Doubt::LowWhenFull);
        }
        Self { supply, low, forced: says("FSD"), replace: says("RB"), charge, runtime_s, doubts }
    }
}

/// Why nothing was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// No connection, or it broke.
    Unreachable(String),
    /// `upsd` answers and has heard nothing of its driver for too long.
    Stale,
    /// `upsd` answers and its driver is gone.
    DriverGone,
    /// `upsd` has no supply of this name.
    Unknown,
    /// The user or password is refused.
    Denied,
    /// `upsd` answers what is not its protocol.
    Malformed(String),
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(detail) => write!(f, "upsd cannot be reached: {detail}"),
            Self::Stale => f.write_str("its data are stale: the driver does not hear it"),
            Self::DriverGone => f.write_str("its driver is not connected to upsd"),
            Self::Unknown => f.write_str("upsd knows no supply of this name"),
            Self::Denied => f.write_str("upsd refuses the user or the password"),
            Self::Malformed(detail) => write!(f, "upsd answers nonsense: {detail}"),
        }
    }
}

/// What came of asking once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Reading(Reading),
    Silence(Silence),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(pairs: &[(&str, &str)]) -> Reading {
        Reading::of(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn plain_words_are_taken_as_they_are() {
        let plain =
            reading(&[("ups.status", "OL CHRG"), ("battery.charge", "87.5"), ("battery.runtime", "1800")]);
        assert_eq!(plain.supply, Supply::Mains);
        assert_eq!((plain.charge, plain.runtime_s), (Some(87), Some(1_800)));
        assert!(!plain.low && !plain.forced && plain.doubts.is_empty());
        let last = reading(&[("ups.status", "FSD OB LB")]);
        assert_eq!(last.supply, Supply::Battery);
        assert!(last.low && last.forced && last.doubts.is_empty());
    }

    #[test]
    fn nonsense_is_named_and_left_out() {
        let both = reading(&[("ups.status", "OL OB"), ("battery.charge", "-3"), ("battery.runtime", "NaN")]);
        assert_eq!(both.supply, Supply::Battery);
        assert_eq!((both.charge, both.runtime_s), (None, None));
        assert_eq!(both.doubts, BTreeSet::from([Doubt::BothLines, Doubt::Charge, Doubt::Runtime]));
        assert_eq!(reading(&[]).supply, Supply::Unsaid);
        assert_eq!(reading(&[("ups.status", "WAIT")]).doubts, BTreeSet::from([Doubt::NoLine]));
        // A word inside another is not that word.
        assert_eq!(reading(&[("ups.status", "OLD BOB")]).supply, Supply::Unsaid);
        let full = reading(&[("ups.status", "OB LB"), ("battery.charge", "100")]);
        assert!(full.low && full.doubts.contains(&Doubt::LowWhenFull));
        let huge =
            reading(&[("ups.status", "OL"), ("battery.runtime", "4294967295"), ("battery.charge", "400")]);
        assert_eq!(huge.doubts, BTreeSet::from([Doubt::Charge, Doubt::Runtime]));
    }
}
