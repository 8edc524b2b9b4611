//! Working-day arithmetic on the shipped calendars.

use crate::support::{date, shipped, shipped_load, shipped_with};
use jiff::{ToSpan, civil::Date};
use okno_domain::{
    catalogue::{Catalogue, CatalogueError, DayKind, DayType, Term},
    entity::Refusal,
};
use proptest::prelude::*;
use std::sync::{Arc, LazyLock};

static SHIPPED: LazyLock<Catalogue> = LazyLock::new(shipped);

fn last_day(term: Term, start: &str) -> String {
    SHIPPED.deadline(&term, date(start), "").expect("a year with a calendar").date.to_string()
}

#[test]
fn a_term_starts_the_day_after_the_event() {
    // Thursday 12 March 2026.
    assert_eq!(last_day(Term::working(1), "2026-03-12"), "2026-03-13");
    assert_eq!(last_day(Term::calendar(1), "2026-03-12"), "2026-03-13");
    // An event on a Saturday: Monday is the first working day.
    assert_eq!(last_day(Term::working(1), "2026-03-14"), "2026-03-16");
}

#[test]
fn a_last_day_off_moves_to_the_next_working_day() {
    // 10 May 2026 is a Sunday, 11 May off for Victory Day on a Saturday.
    assert_eq!(last_day(Term::calendar(30), "2026-04-10"), "2026-05-12");
    // Days off inside a calendar term count.
    assert_eq!(last_day(Term::calendar(30), "2026-04-12"), "2026-05-12");
    // New Year: the 9th is off by decree, the 10th and 11th are a weekend.
    assert_eq!(last_day(Term::calendar(10), "2025-12-27"), "2026-01-12");
}

#[test]
fn a_term_of_no_days_ends_the_same_day() {
    assert_eq!(last_day(Term::working(0), "2026-03-12"), "2026-03-12");
    assert_eq!(last_day(Term::calendar(0), "2026-03-14"), "2026-03-16");
}

#[test]
fn a_working_term_crosses_the_year_end() {
    // 2026-12-31 is off by decree, 1 to 8 January 2027 are holidays, 9 and 10 a weekend.
    assert_eq!(last_day(Term::working(3), "2026-12-25"), "2026-12-30");
    assert_eq!(last_day(Term::working(4), "2026-12-25"), "2027-01-11");
    // 2025-12-31 is off, the holidays last until 11 January 2026.
    assert_eq!(last_day(Term::working(1), "2025-12-30"), "2026-01-12");
}

#[test]
fn moved_days_count_as_the_decrees_say() {
    // Saturday 1 November 2025 works for Monday the 3rd; the 4th is a holiday.
    assert_eq!(last_day(Term::working(1), "2025-10-31"), "2025-11-01");
    assert_eq!(last_day(Term::working(2), "2025-10-31"), "2025-11-05");
    assert_eq!(SHIPPED.day_type(date("2025-11-01"), ""), Ok(DayType::Short));
    // Saturday 20 February 2027 works for Monday the 22nd; the 23rd is a holiday.
    assert_eq!(last_day(Term::working(2), "2027-02-19"), "2027-02-24");
    // A holiday on a weekend, moved elsewhere, stays a holiday.
    assert_eq!(SHIPPED.day_type(date("2026-01-03"), ""), Ok(DayType::Off));
    assert_eq!(SHIPPED.day_type(date("2026-12-31"), ""), Ok(DayType::Off));
}

#[test]
fn a_missing_year_is_refused_not_guessed() {
    let missing = |year, region: &str| Err(CatalogueError::YearMissing { year, region: region.to_owned() });
    assert_eq!(
        SHIPPED.deadline(&Term::working(1), date("2027-12-29"), "").map(|d| d.date),
        Ok(date("2027-12-30"))
    );
    assert_eq!(SHIPPED.deadline(&Term::working(2), date("2027-12-29"), ""), missing(2028, ""));
    // The last day itself lies in a year with a calendar, but is off and would have to move.
    assert_eq!(SHIPPED.deadline(&Term::calendar(2), date("2027-12-29"), ""), missing(2028, ""));
    assert_eq!(SHIPPED.deadline(&Term::working(1), date("2024-06-03"), ""), missing(2024, ""));
    assert_eq!(
        Catalogue::default().is_working_day(date("2026-03-12"), ""),
        Err(CatalogueError::YearMissing { year: 2026, region: String::new() })
    );

    let refusal = Refusal::from(CatalogueError::YearMissing { year: 2028, region: String::new() });
    assert_eq!(refusal.reason, "CALENDAR_YEAR_MISSING");
    assert_eq!(refusal.details.get("year").map(String::as_str), Some("2028"));
    assert!(refusal.text_ru.contains("2028"), "{}", refusal.text_ru);
}

#[test]
fn terms_are_bounded() {
    let term = Term::calendar(u16::MAX);
    assert_eq!(
        SHIPPED.deadline(&term, date("2025-01-01"), ""),
        Err(CatalogueError::OutOfRange { near: date("2025-01-01") })
    );
    assert!(matches!(
        SHIPPED.deadline(&Term::calendar(1), Date::MAX, ""),
        Err(CatalogueError::OutOfRange { .. })
    ));
}

const PROVISIONAL_2028: &str = r#"
format = 1
[[calendar]]
year = 2028
provisional = "постановление о переносе выходных дней на 2028 год не издано"
source = { act = "Трудовой кодекс Российской Федерации", clause = "статья 112", checked = 2026-11-21, against = "проба", verified = true }
holidays = [
    { date = 2028-01-01, name = "Новый год" }, { date = 2028-01-02, name = "Новый год" },
    { date = 2028-01-03, name = "Новый год" }, { date = 2028-01-04, name = "Новый год" },
    { date = 2028-01-05, name = "Новый год" }, { date = 2028-01-06, name = "Новый год" },
    { date = 2028-01-07, name = "Рождество" }, { date = 2028-01-08, name = "Новый год" },
]
"#;

#[test]
fn a_deadline_carries_the_mark_of_a_provisional_calendar() {
    let catalogue = shipped_with(&[PROVISIONAL_2028]);
    let within = catalogue.deadline(&Term::working(1), date("2027-12-29"), "").expect("loaded");
    assert_eq!((within.date, within.provisional), (date("2027-12-30"), None));
    let across = catalogue.deadline(&Term::working(2), date("2027-12-29"), "").expect("loaded");
    assert_eq!(across.date, date("2028-01-10"));
    let mark = "постановление о переносе выходных дней на 2028 год не издано";
    assert_eq!(across.provisional.as_deref(), Some(mark));
    // Both deadlines of a service: delivery within the provisional year marks the second only.
    let service = catalogue.service("rosreestr.rights").expect("shipped");
    let deadlines = catalogue.service_deadlines(service, date("2027-12-21"), "").expect("loaded");
    assert_eq!((deadlines.execution.date, deadlines.execution.provisional), (date("2027-12-30"), None));
    assert_eq!(
        (deadlines.ready.date, deadlines.ready.provisional.as_deref()),
        (date("2028-01-11"), Some(mark))
    );
    // A provisional execution marks the delivery, too.
    let later = catalogue.service_deadlines(service, date("2027-12-29"), "").expect("loaded");
    assert_eq!(
        (later.execution.provisional.as_deref(), later.ready.provisional.as_deref()),
        (Some(mark), Some(mark))
    );
}

#[test]
fn a_provisional_execution_marks_a_final_delivery() {
    let mut load = shipped_load();
    let mark = "проба";
    for calendar in load.calendars.iter_mut().filter(|calendar| calendar.year == 2026) {
        Arc::make_mut(calendar).provisional = Some(mark.to_owned());
    }
    let catalogue = Catalogue::of(&load).expect("checked");
    let mut service = catalogue.service("rosreestr.rights").expect("shipped").clone();
    // Only the last day of a calendar term is looked up: here one of 2027, whose calendar is final.
    service.delivery = Term::calendar(30);
    let deadlines = catalogue.service_deadlines(&service, date("2026-12-01"), "").expect("loaded");
    assert_eq!((deadlines.execution.date, deadlines.ready.date), (date("2026-12-10"), date("2027-01-11")));
    assert_eq!(deadlines.ready.provisional.as_deref(), Some(mark));
}

const REGION_16: &str = r#"
format = 1
[[calendar]]
year = 2026
region = "16"
source = { act = "Закон региона", checked = 2026-11-21, against = "проба", verified = false }
holidays = [{ date = 2026-08-31, name = "Проба" }, { date = 2026-04-30, name = "Проба" }]
"#;

#[test]
fn a_region_adds_its_own_holidays() {
    let catalogue = shipped_with(&[REGION_16]);
    let last = |region| {
        catalogue.deadline(&Term::working(1), date("2026-08-28"), region).map(|deadline| deadline.date)
    };
    assert_eq!(last("16"), Ok(date("2026-09-01")));
    assert_eq!(last("77"), Ok(date("2026-08-31")));
    assert_eq!(last(""), Ok(date("2026-08-31")));
    // The region goes before the country, for which 30 April is a short day.
    assert_eq!(catalogue.day_type(date("2026-04-30"), "16"), Ok(DayType::Off));
    assert_eq!(catalogue.day_type(date("2026-04-30"), ""), Ok(DayType::Short));
    // What the region does not change is as in the country.
    assert_eq!(catalogue.day_type(date("2026-05-11"), "16"), Ok(DayType::Off));
    // A region with calendars of its own needs one for every year.
    let missing = CatalogueError::YearMissing { year: 2027, region: "16".to_owned() };
    assert_eq!(catalogue.deadline(&Term::working(1), date("2027-03-01"), "16"), Err(missing));
    assert!(catalogue.deadline(&Term::working(1), date("2027-03-01"), "77").is_ok());
}

#[test]
fn a_suspension_stops_the_term() {
    let catalogue = &*SHIPPED;
    let service = catalogue.service("rosreestr.rights").expect("shipped");
    assert_eq!((service.execution, service.delivery), (Term::working(7), Term::working(2)));
    // Monday 2 March 2026: execution by Thursday 12 (the 9th is off), the result back by Monday 16.
    let before = catalogue.service_deadlines(service, date("2026-03-02"), "").expect("loaded");
    assert_eq!((before.execution.date, before.ready.date), (date("2026-03-12"), date("2026-03-16")));
    // Suspended on the 4th, five days are left; resumed on Friday 20.
    let after = catalogue
        .resumed_deadlines(service, &before, date("2026-03-04"), date("2026-03-20"), "")
        .expect("loaded");
    assert_eq!((after.execution.date, after.ready.date), (date("2026-03-27"), date("2026-03-31")));
    // Resumed the same day: nothing changes. A term already over stays over.
    let same = catalogue.resumed_deadlines(service, &before, date("2026-03-04"), date("2026-03-04"), "");
    assert_eq!(same.as_ref(), Ok(&before));
    let over = catalogue.resumed_deadlines(service, &before, date("2026-03-13"), date("2026-04-01"), "");
    assert_eq!(over.as_ref(), Ok(&before));
}

#[test]
fn a_suspension_has_its_own_days() {
    let catalogue = &*SHIPPED;
    let passport = catalogue.service("mvd.passport").expect("shipped");
    let end = catalogue.suspension_end(passport, "personal-visit", date("2026-04-10"), "").expect("loaded");
    assert_eq!(end.map(|deadline| deadline.date), Some(date("2026-05-12")));
    let rights = catalogue.service("rosreestr.rights").expect("shipped");
    assert_eq!(catalogue.suspension_end(rights, "registrar", date("2026-04-10"), ""), Ok(None));
    assert_eq!(catalogue.suspension_end(rights, "no-such", date("2026-04-10"), ""), Ok(None));
}

#[test]
fn next_working_day_is_the_day_itself_or_later() {
    let next = |text| SHIPPED.next_working_day(date(text), "").expect("loaded").date.to_string();
    assert_eq!(next("2026-03-12"), "2026-03-12");
    assert_eq!(next("2026-01-01"), "2026-01-12");
    assert_eq!(next("2025-05-01"), "2025-05-05");
}

fn starts() -> impl Strategy<Value = Date> {
    // Up to 120 working days from the last start still end in 2027.
    (0..880_i64).prop_map(|days| date("2025-01-01").checked_add(days.days()).expect("a date of 2025 to 2027"))
}

fn terms() -> impl Strategy<Value = Term> {
    (0..120_u16, prop::bool::ANY)
        .prop_map(|(days, working)| if working { Term::working(days) } else { Term::calendar(days) })
}

proptest! {
    #[test]
    fn a_deadline_is_never_a_day_off(start in starts(), term in terms()) {
        let deadline = SHIPPED.deadline(&term, start, "").expect("loaded");
        prop_assert_eq!(SHIPPED.is_working_day(deadline.date, ""), Ok(true));
        prop_assert!(deadline.date >= start);
        prop_assert_eq!(deadline.provisional, None);
    }

    #[test]
    fn a_later_start_never_ends_sooner(start in starts(), term in terms()) {
        let sooner = SHIPPED.deadline(&term, start, "").expect("loaded").date;
        let later = SHIPPED.deadline(&term, start.tomorrow().expect("in range"), "").expect("loaded").date;
        prop_assert!(sooner <= later);
    }

    #[test]
    fn a_longer_term_ends_later(start in starts(), days in 1..119_u16) {
        let last = |days| SHIPPED.deadline(&Term::working(days), start, "").expect("loaded").date;
        prop_assert!(last(days) < last(days + 1));
    }

    #[test]
    fn working_terms_add_up(start in starts(), first in 1..60_u16, second in 0..60_u16) {
        let half = SHIPPED.deadline(&Term::working(first), start, "").expect("loaded").date;
        let whole = SHIPPED.deadline(&Term::working(second), half, "").expect("loaded").date;
        prop_assert_eq!(whole, SHIPPED.deadline(&Term::working(first + second), start, "").expect("loaded").date);
    }

    /// Counting back finds the days of the term: for working days exactly, for calendar days up to the last move.
    #[test]
    fn the_days_between_are_the_days_of_the_term(start in starts(), term in terms().prop_filter("a day", |t| t.days > 0)) {
        let last = SHIPPED.deadline(&term, start, "").expect("loaded").date;
        let between = SHIPPED.days_between(term.kind, start, last, "").expect("loaded");
        match term.kind {
            DayKind::Working => prop_assert_eq!(between, term.days),
            DayKind::Calendar => {
                prop_assert!(between >= term.days);
                let due = start.checked_add(i64::from(term.days).days()).expect("in range");
                prop_assert_eq!(SHIPPED.next_working_day(due, "").expect("loaded").date, last);
            }
        }
    }

    #[test]
    fn a_suspension_never_shortens(start in starts(), from in 0..20_i64, length in 0..40_i64) {
        let service = SHIPPED.service("rosreestr.rights").expect("shipped");
        let before = SHIPPED.service_deadlines(service, start, "").expect("loaded");
        let suspended = start.checked_add(from.days()).expect("in range");
        let resumed = suspended.checked_add(length.days()).expect("in range");
        let after = SHIPPED.resumed_deadlines(service, &before, suspended, resumed, "").expect("loaded");
        prop_assert!(after.execution.date >= before.execution.date);
        prop_assert!(after.ready.date >= before.ready.date);
    }
}
