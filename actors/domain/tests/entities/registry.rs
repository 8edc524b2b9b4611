//! What is stable: numbers of kinds, tables and states, ids, the transition table, and the published lists.

use okno_domain::{
    case::{
        State, StepKind,
        life::{allowed, leads_to, table_markdown},
    },
    catalogue,
    entity::{Entity, Principal},
    ids, people,
    refusal::{self, Reason},
    registry::Kind,
    rows::{self, Table},
    time, with_kind,
};
use std::{collections::BTreeSet, fs, path::Path};
use uuid::Uuid;

#[test]
fn numbers_and_names_are_stable() {
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| (kind.number(), kind.name())).collect();
    assert_eq!(kinds, [(1, "case"), (2, "queue"), (3, "catalogue"), (4, "directory"), (5, "channel")]);
    for kind in Kind::ALL {
        assert_eq!(Kind::parse(kind.name()), Some(*kind));
        assert_eq!(Kind::from_number(kind.number()), Some(*kind));
        assert_eq!(with_kind!(*kind, E => E::KIND), *kind);
    }
    assert_eq!((Kind::parse("sys"), Kind::from_number(0)), (None, None));
    let tables: Vec<_> = Table::ALL.iter().map(|table| table.number()).collect();
    assert_eq!(tables, [1, 2, 3, 4, 32, 33, 34]);
    let states: Vec<_> =
        State::ALL.iter().map(|state| (state.number(), State::parse(state.name()))).collect();
    assert_eq!(states, (1..).zip(State::ALL).map(|(n, state)| (n, Some(state))).collect::<Vec<_>>());
}

#[test]
fn ids_follow_from_the_request_alone() {
    let request = Uuid::from_u128(7);
    assert_eq!(ids::derived(request, 0), ids::derived(request, 0));
    assert_ne!(ids::derived(request, 0), ids::derived(request, 1));
    let principal = |kind: &str, id: &str| Principal { kind: kind.into(), id: id.into() };
    let id = ids::case_id(&principal("operator", "anna"), request);
    assert_eq!(id, "1dda53ae-6c04-8f6c-90f3-706c968e1c59", "an id once given stays");
    assert_ne!(id, ids::case_id(&principal("operator", "boris"), request));
    // Kind and id do not run into each other.
    assert_ne!(ids::case_id(&principal("a", "bc"), request), ids::case_id(&principal("ab", "c"), request));
}

#[test]
fn keys_order_like_their_values() {
    let date = |text: &str| text.parse().unwrap();
    let days = ["2025-12-31", "2026-01-01", "2026-01-02", "2026-02-01"]
        .map(|day| rows::case_by_deadline(date(day), "b").key);
    assert!(days.is_sorted());
    assert!(
        rows::case_by_deadline_from(date("2026-01-01")) < days[1]
            && rows::case_by_deadline_from(date("2026-01-02")) > days[1]
    );
    assert_eq!(rows::case_by_deadline_office(&days[0]), Some("b"));
    assert_eq!(rows::case_by_deadline_office(&days[0][..4]), None);
    let moments = [i64::MIN, -1, 0, 1, i64::MAX].map(|at| rows::case_by_office("a", at).key);
    assert!(moments.is_sorted());
    assert!(moments[0].starts_with(&rows::case_by_office_prefix("a")));
    assert!(!rows::case_by_office("ab", 0).key.starts_with(&rows::case_by_office_prefix("a")));
    let ready = rows::case_by_state(State::ReadyForIssue, "a", 0).key;
    assert!(ready.starts_with(&rows::case_by_state_prefix(State::ReadyForIssue, None)));
    assert!(ready.starts_with(&rows::case_by_state_prefix(State::ReadyForIssue, Some("a"))));
    assert!(!ready.starts_with(&rows::case_by_state_prefix(State::Issued, None)));
    let entries = [(1, 9), (2, 0), (2, 1)].map(|(at, number)| rows::channel_dead(at, number).key);
    assert!(entries.is_sorted());
    assert_eq!(rows::channel_entry(&entries[0]), Some(9));
    assert_eq!(rows::channel_entry(b"short"), None);
    assert!([1, 2, 255, 256].map(|number| rows::body(number).key).is_sorted());
    let one = people::applicant_key("112-233-445 95").unwrap();
    assert_eq!(Some(one), people::applicant_key("11223344595"), "separators do not count");
    assert_ne!(Some(one), people::applicant_key("11223344594"));
}

#[test]
fn local_dates_turn_at_local_midnight() {
    let midnight = time::local_hour_ms("2026-03-02".parse().unwrap(), 0, 420);
    assert_eq!(time::local_date(midnight, 420).to_string(), "2026-03-02");
    assert_eq!(time::local_date(midnight - 1, 420).to_string(), "2026-03-01");
    assert_eq!(time::local_date(midnight, 0).to_string(), "2026-03-01");
    assert_eq!(time::local_date(i64::MAX, 420), jiff::civil::Date::MAX);
    // A calendar year ends with the same date next year, or the last of February (R-I2).
    for (from, over) in
        [("2026-03-02", "2027-03-03"), ("2028-02-29", "2029-03-01"), ("2027-12-31", "2029-01-01")]
    {
        let noon = time::local_hour_ms(from.parse().unwrap(), 12, 420);
        assert_eq!(time::year_over_ms(noon, 420), time::local_hour_ms(over.parse().unwrap(), 0, 420));
    }
}

/// From every state but the last there is a way on, and every state can be reached.
#[test]
fn no_state_is_a_trap() {
    let mut reached = BTreeSet::from([State::Draft]);
    loop {
        let next: BTreeSet<_> = reached
            .iter()
            .flat_map(|from| StepKind::ALL.into_iter().flat_map(move |step| leads_to(*from, step)))
            .copied()
            .collect();
        if next.is_subset(&reached) {
            break;
        }
        reached.extend(next);
    }
    assert_eq!(reached, State::ALL.into_iter().collect());
    for state in State::ALL {
        assert_eq!(allowed(state).count() == 0, state == State::Archived, "{state:?}");
    }
    assert_eq!(allowed(State::Unopened).count(), 0);
}

#[test]
fn reasons_are_named_once() {
    let all: Vec<Reason> = refusal::ALL.iter().chain(catalogue::REASONS).copied().collect();
    let codes: BTreeSet<_> = all.iter().map(|reason| reason.code).collect();
    assert_eq!(codes.len(), all.len());
    for reason in all {
        assert!(reason.code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{}", reason.code);
        assert!(
            !reason.text_en.is_empty() && reason.text_ru.chars().any(|letter| ('а'..='я').contains(&letter))
        );
    }
}

/// The published pages hold what the code says; `UPDATE_GOLDENFILES=1` writes them anew.
#[test]
fn published_lists_are_complete() {
    published("docs/reasons.md", "reasons of the domain", &refusal::markdown());
    published("docs/case-states.md", "transition table", &table_markdown());
}

fn published(page: &str, what: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(page);
    let (begin, end) = (format!("<!-- begin {what} -->\n"), format!("<!-- end {what} -->\n"));
    let old = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{page}: {error}"));
    let (head, rest) = old.split_once(&begin).unwrap_or_else(|| panic!("{page} has no line {begin}"));
    let (body, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("{page} has no line {end}"));
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        fs::write(&path, format!("{head}{begin}{text}{end}{tail}"))
            .unwrap_or_else(|error| panic!("{page}: {error}"));
    } else {
        assert_eq!(body, text, "{page} does not say what the code says; run with UPDATE_GOLDENFILES=1");
    }
}
