//! Between the wire (`okno.v1`) and the domain. Conversions from the wire name the field that is wrong and what
//! was expected; conversions to the wire cannot fail.

pub mod cases;
pub mod catalogue;
pub mod channels;
pub mod directory;
pub mod history;
pub mod outside;
pub mod people;
pub mod queue;
pub mod queue_settings;

use crate::failure::Failure;
use jiff::civil::Date;
use okno_domain::{
    catalogue::{DayKind, Term},
    entity::Principal,
};
use okno_proto::v1;
use prost_types::Timestamp;

pub type Converted<T> = Result<T, Failure>;

/// Milliseconds since the Unix epoch as a timestamp.
pub fn timestamp(ms: i64) -> Option<Timestamp> {
    let nanos = i32::try_from(ms.rem_euclid(1_000)).unwrap_or_default() * 1_000_000;
    Some(Timestamp { seconds: ms.div_euclid(1_000), nanos })
}

/// A civil date; empty is none.
pub fn date_opt(path: &str, text: &str) -> Converted<Option<Date>> {
    if text.is_empty() { Ok(None) } else { date(path, text).map(Some) }
}

pub fn date(path: &str, text: &str) -> Converted<Date> {
    // Strictly the extended form: jiff alone would also take a date with a time.
    let form_ok = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let parsed = if form_ok { text.parse().ok() } else { None };
    parsed.ok_or_else(|| {
        Failure::field(path, "ожидается дата вида 2026-11-21", "expected a date such as 2026-11-21")
    })
}

pub fn date_text(date: Option<Date>) -> String {
    date.map(|date| date.to_string()).unwrap_or_default()
}

/// A required text.
pub fn required<'a>(path: &str, text: &'a str) -> Converted<&'a str> {
    if text.trim().is_empty() {
        return Err(Failure::field(path, "обязательное поле", "required"));
    }
    Ok(text)
}

pub fn actor(principal: &Principal, workstation: &str, window: &str) -> Option<v1::Actor> {
    Some(v1::Actor {
        kind: principal.kind.clone(),
        id: principal.id.clone(),
        workstation: workstation.to_owned(),
        window: window.to_owned(),
    })
}

/// `<kind>/<id>` of a commit's origin.
pub fn actor_of_text(principal: &str, workstation: &str) -> Option<v1::Actor> {
    let (kind, id) = principal.split_once('/').unwrap_or((principal, ""));
    Some(v1::Actor {
        kind: kind.to_owned(),
        id: id.to_owned(),
        workstation: workstation.to_owned(),
        window: String::new(),
    })
}

pub fn term_from(path: &str, term: &v1::Term) -> Converted<Term> {
    let kind = match v1::DayKind::try_from(term.kind) {
        Ok(v1::DayKind::Working) => DayKind::Working,
        Ok(v1::DayKind::Calendar) => DayKind::Calendar,
        Ok(v1::DayKind::Unspecified) | Err(_) => {
            return Err(Failure::field(
                &format!("{path}.kind"),
                "ожидается DAY_KIND_WORKING или DAY_KIND_CALENDAR",
                "expected DAY_KIND_WORKING or DAY_KIND_CALENDAR",
            ));
        }
    };
    let days = u16::try_from(term.days).map_err(|_| {
        Failure::field(&format!("{path}.days"), "ожидается не более 65535", "expected at most 65535")
    })?;
    Ok(Term { days, kind })
}

pub fn term(term: &Term) -> v1::Term {
    let kind = match term.kind {
        DayKind::Working => v1::DayKind::Working,
        DayKind::Calendar => v1::DayKind::Calendar,
    };
    v1::Term { days: u32::from(term.days), kind: kind.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_strict() {
        assert!(date("d", "2026-11-21").is_ok());
        for text in ["2026-02-30", "21.11.2026", "2026-11-21T10:00", "20261121", "2026-1-1", "", "вчера"]
        {
            assert!(date("d", text).is_err(), "{text}");
        }
        assert_eq!(date_opt("d", ""), Ok(None));
    }

    #[test]
    fn timestamps_before_the_epoch_count_backwards() {
        assert_eq!(timestamp(1_500), Some(Timestamp { seconds: 1, nanos: 500_000_000 }));
        assert_eq!(timestamp(-500), Some(Timestamp { seconds: -1, nanos: 500_000_000 }));
    }
}
