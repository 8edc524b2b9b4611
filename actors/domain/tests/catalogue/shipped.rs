//! The data in `ops/catalogue`: it loads, it fits, and its calendars are those published.

use crate::support::{date, shipped, shipped_load};
use okno_domain::catalogue::{Calendar, DocumentNeed, ReceiverKind};
use std::collections::BTreeSet;

/// Half of what one commit (256 KiB) holds: room for a region to add as much again in one load.
const LOAD_BYTES_MAX: usize = 128 << 10;

#[test]
fn it_loads_whole_and_fits_one_commit() {
    let load = shipped_load();
    assert!(load.services.len() >= 12, "{} services", load.services.len());
    let bytes = bincode::serialize(&load).expect("encodable").len();
    assert!(bytes < LOAD_BYTES_MAX, "{bytes} bytes");
}

#[test]
fn every_statement_names_act_date_and_comparison() {
    let catalogue = shipped();
    for service in catalogue.services() {
        let mut sources = vec![&service.source, &service.delivery_source, &service.documents_source];
        sources.extend(service.suspensions.iter().map(|reason| &reason.source));
        sources.extend(service.storage.iter().map(|storage| &storage.source));
        for source in sources {
            assert!(!source.act.is_empty() && !source.against.is_empty(), "{}", service.code);
            assert!(source.checked >= date("2026-11-21"), "{}", service.code);
            assert!(
                !source.verified || !source.clause.is_empty(),
                "{}: verified without a clause",
                service.code
            );
        }
        assert!(service.active, "{}", service.code);
        assert!(
            service.documents.iter().any(|document| document.need == DocumentNeed::Required),
            "{}",
            service.code
        );
    }
}

#[test]
fn the_terms_that_could_be_verified_are_these() {
    let catalogue = shipped();
    let verified: Vec<_> = catalogue
        .services()
        .filter(|service| service.term_verified())
        .map(|service| service.code.as_str())
        .collect();
    assert_eq!(
        verified,
        [
            "fns.inn",
            "mvd.no-criminal-record",
            "sfr.birth-grant",
            "sfr.maternity-capital",
            "sfr.unified-benefit"
        ]
    );
}

#[test]
fn it_serves_every_kind_of_applicant() {
    let catalogue = shipped();
    for kind in ReceiverKind::ALL {
        assert!(catalogue.services().any(|service| service.receives(kind)), "{}", kind.name());
    }
    let groups: BTreeSet<_> = catalogue.services().map(|service| service.group.as_str()).collect();
    assert!(groups.len() > 3, "{groups:?}");
}

#[test]
fn documents_missing_are_those_required_and_absent() {
    let catalogue = shipped();
    let service = catalogue.service("mvd.no-criminal-record").expect("shipped");
    let missing =
        |present: &[&str]| service.missing_documents(present).map(|d| d.code.clone()).collect::<Vec<_>>();
    assert_eq!(missing(&[]), ["application", "passport"]);
    assert_eq!(missing(&["passport", "power-of-attorney"]), ["application"]);
    assert!(missing(&["application", "passport"]).is_empty());
    let rights = catalogue.service("rosreestr.rights").expect("shipped");
    assert_eq!(rights.interagency_documents().map(|d| d.code.as_str()).collect::<Vec<_>>(), ["fee"]);
}

/// The figures of a five-day week of 40 hours as published, and as `holidays` 0.109 (PyPI) and `holidays-ru` 0.2.2
/// (crates.io) give them: working days, short days, days off, hours.
#[test]
fn calendars_have_the_published_counts() {
    let catalogue = shipped();
    let figures = |year| {
        let calendar = catalogue.calendar(year, "").expect("shipped");
        assert_eq!(calendar.provisional, None);
        assert!(calendar.source.verified);
        let (working, short, off) = calendar.counts();
        (working, short, off, calendar.hours_of_40())
    };
    assert_eq!(figures(2025), (247, 4, 118, 1972));
    assert_eq!(figures(2026), (247, 4, 118, 1972));
    assert_eq!(figures(2027), (247, 4, 118, 1972));
    assert_eq!(catalogue.calendars().count(), 3);
}

/// Days off that fall on Monday to Friday, and the weekend days that work, as `holidays-ru` 0.2.2 lists them.
#[test]
fn calendars_agree_day_by_day_with_another_collection() {
    let catalogue = shipped();
    let weekend = |day: jiff::civil::Date| day.weekday().to_monday_one_offset() > 5;
    let told = |calendar: &Calendar| {
        let mut day = date(&format!("{}-01-01", calendar.year));
        let (mut off, mut works) = (Vec::new(), Vec::new());
        while day.year() == calendar.year {
            let working = catalogue.is_working_day(day, "").expect("shipped");
            let text = day.strftime("%m-%d").to_string();
            match (weekend(day), working) {
                (false, false) => off.push(text),
                (true, true) => works.push(text),
                _ => {}
            }
            day = day.tomorrow().expect("in range");
        }
        (off.join(" "), works.join(" "))
    };
    let year = |year| told(catalogue.calendar(year, "").expect("shipped"));
    let both = |off: &str, works: &str| (off.to_owned(), works.to_owned());
    assert_eq!(
        year(2025),
        both(
            "01-01 01-02 01-03 01-06 01-07 01-08 05-01 05-02 05-08 05-09 06-12 06-13 11-03 11-04 12-31",
            "11-01"
        )
    );
    assert_eq!(
        year(2026),
        both("01-01 01-02 01-05 01-06 01-07 01-08 01-09 02-23 03-09 05-01 05-11 06-12 11-04 12-31", "")
    );
    assert_eq!(
        year(2027),
        both(
            "01-01 01-04 01-05 01-06 01-07 01-08 02-22 02-23 03-08 05-03 05-10 06-14 11-04 11-05 12-31",
            "02-20"
        )
    );
}
