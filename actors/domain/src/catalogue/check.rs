//! What a load must satisfy, record by record and as a whole. All problems are found, not just the first, so that
//! whoever edits the files mends them in one go; the whole load is refused when there is one.

use super::{
    CATALOGUE_INVALID,
    calendar::TERM_DAYS_MAX,
    entity::{Catalogue, Load},
    model::{Authority, Calendar, Service, Source, Term, Text},
    process::{ASKS_MAX, AskOrder, IN_TURN_MAX, Process, REQUESTS_MAX, Wait},
};
use crate::{entity::Refusal, refusal::refuse};
use jiff::civil::{Date, Weekday, date};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// Problems told at once; more are counted only. A page of errors is what a person reads in one go.
pub const PROBLEMS_MAX: usize = 50;
/// Longest name, act or clause, in characters: they stand on receipts and boards.
pub const TEXT_MAX: usize = 400;
/// Longest code of anything, in bytes: codes are keys of parts and rows.
pub const CODE_MAX: usize = 64;
/// Documents, suspension reasons, holidays or moves in one record: several times the longest known list.
pub const LIST_MAX: usize = 100;
/// Records of one kind in a load. A commit's 256 KiB holds fewer; this bounds the check itself.
pub const RECORDS_MAX: usize = 1_000;
/// The years a calendar can be made for: from the present Labour Code to what a date can hold sensibly.
pub const YEARS: std::ops::RangeInclusive<i16> = 2002..=2100;

/// One thing wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, or empty when the record came without one.
    pub file: String,
    /// Line in the file, from 1, where it can be told.
    pub line: Option<usize>,
    /// The key, e.g. `service[0].execution.days`.
    pub key: String,
    pub expected: String,
    pub found: String,
}

impl Problem {
    /// `file:line key`, as much of it as is known.
    pub fn place(&self) -> String {
        let mut place = self.file.clone();
        if let Some(line) = self.line {
            place.push_str(&format!(":{line}"));
        }
        if !place.is_empty() && !self.key.is_empty() {
            place.push(' ');
        }
        place.push_str(&self.key);
        place
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.place(), self.expected, self.found)
    }
}

/// The refusal of a load, naming each problem.
pub fn refusal(problems: &[Problem]) -> Refusal {
    let mut refusal = refuse(CATALOGUE_INVALID);
    for problem in problems.iter().take(PROBLEMS_MAX) {
        let told = format!("expected {}, found {}", problem.expected, problem.found);
        refusal.details.entry(problem.place()).or_insert(told);
    }
    if let Some(first) = problems.first() {
        let (count, place) = (problems.len(), first.place());
        refusal.text_ru = format!("Каталог не загружен, ошибок: {count}. Первая — {place}");
        refusal.text_en = format!("The catalogue was not loaded, errors: {count}. The first: {first}");
    }
    refusal
}

/// Collects problems under a key prefix.
#[derive(Default)]
struct Finder {
    prefix: String,
    problems: Vec<Problem>,
}

impl Finder {
    fn at(&mut self, key: &str, expected: impl Into<String>, found: impl fmt::Display) {
        let key = match (self.prefix.as_str(), key) {
            (prefix, "") => prefix.to_owned(),
            ("", key) => key.to_owned(),
            (prefix, key) => format!("{prefix}.{key}"),
        };
        self.problems.push(Problem {
            file: String::new(),
            line: None,
            key,
            expected: expected.into(),
            found: found.to_string(),
        });
    }

    fn under(&mut self, prefix: String, run: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.prefix, prefix);
        if !outer.is_empty() {
            self.prefix = format!("{outer}.{}", self.prefix);
        }
        run(self);
        self.prefix = outer;
    }

    fn text(&mut self, key: &str, text: &str) {
        let length = text.chars().count();
        if text.trim().is_empty() || length > TEXT_MAX || text.chars().any(char::is_control) {
            self.at(
                key,
                format!("a text of 1 to {TEXT_MAX} characters without control characters"),
                shown(text),
            );
        }
    }

    fn texts(&mut self, key: &str, text: &Text) {
        self.text(&format!("{key}.ru"), &text.ru);
        self.text(&format!("{key}.en"), &text.en);
    }

    fn code(&mut self, key: &str, code: &str) {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        if code.is_empty() || code.len() > CODE_MAX || !code.chars().all(legal) {
            self.at(key, format!("a code of 1 to {CODE_MAX} of a-z, 0-9, '.', '-', '_'"), shown(code));
        }
    }

    fn list(&mut self, key: &str, length: usize) {
        if length > LIST_MAX {
            self.at(key, format!("at most {LIST_MAX} entries"), length);
        }
    }

    fn term(&mut self, key: &str, term: &Term) {
        if term.days > TERM_DAYS_MAX {
            self.at(&format!("{key}.days"), format!("0 to {TERM_DAYS_MAX}"), term.days);
        }
    }

    fn source(&mut self, key: &str, source: &Source) {
        self.text(&format!("{key}.act"), &source.act);
        if source.verified || !source.clause.is_empty() {
            self.text(&format!("{key}.clause"), &source.clause);
        }
        self.text(&format!("{key}.against"), &source.against);
        if !(date(2020, 1, 1)..=date(2100, 12, 31)).contains(&source.checked) {
            self.at(&format!("{key}.checked"), "a date from 2020 to 2100", source.checked);
        }
    }

    fn unique<'a>(&mut self, what: &str, codes: impl Iterator<Item = (String, &'a str)>) {
        let mut seen = BTreeSet::new();
        for (key, code) in codes {
            if !seen.insert(code) {
                self.at(&key, format!("a {what} named once"), shown(code));
            }
        }
    }
}

/// A found value, quoted and cut for a message.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    let cut: String = text.chars().take(SHOWN_MAX).collect();
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

/// All problems of a load that would be put on what is there.
pub fn load(load: &Load, present: &Catalogue) -> Vec<Problem> {
    let mut find = Finder::default();
    for (kind, count) in [
        ("authority", load.authorities.len()),
        ("service", load.services.len()),
        ("calendar", load.calendars.len()),
    ] {
        if count > RECORDS_MAX {
            find.at(kind, format!("at most {RECORDS_MAX} records in one load"), count);
        }
    }
    if !find.problems.is_empty() {
        return find.problems;
    }
    for (n, authority) in load.authorities.iter().enumerate() {
        find.under(format!("authority[{n}]"), |find| check_authority(find, authority));
    }
    for (n, service) in load.services.iter().enumerate() {
        find.under(format!("service[{n}]"), |find| {
            check_service(find, service);
            let known = load.authorities.iter().any(|authority| authority.code == service.authority)
                || present.authority(&service.authority).is_some();
            if !known {
                find.at(
                    "authority",
                    "the code of an authority of this load or of the catalogue",
                    shown(&service.authority),
                );
            }
        });
    }
    for (n, calendar) in load.calendars.iter().enumerate() {
        find.under(format!("calendar[{n}]"), |find| {
            check_calendar(find, calendar);
            let country = calendar.region.is_empty()
                || load.calendars.iter().any(|other| other.region.is_empty() && other.year == calendar.year)
                || present.calendar(calendar.year, "").is_some();
            if !country {
                find.at("year", "a year the whole country has a calendar for", calendar.year);
            }
        });
    }
    let name = |kind: &str, n: usize| format!("{kind}[{n}].code");
    find.unique(
        "authority",
        load.authorities.iter().enumerate().map(|(n, a)| (name("authority", n), a.code.as_str())),
    );
    find.unique(
        "service",
        load.services.iter().enumerate().map(|(n, s)| (name("service", n), s.code.as_str())),
    );
    let mut keys = BTreeSet::new();
    for (n, calendar) in load.calendars.iter().enumerate() {
        if !keys.insert(calendar.key()) {
            find.at(&format!("calendar[{n}].year"), "one calendar for a year and region", calendar.key());
        }
    }
    find.problems
}

fn check_authority(find: &mut Finder, authority: &Authority) {
    find.code("code", &authority.code);
    find.texts("name", &authority.name);
    find.texts("short", &authority.short);
}

fn check_service(find: &mut Finder, service: &Service) {
    find.code("code", &service.code);
    find.texts("name", &service.name);
    find.code("authority", &service.authority);
    let mut letters = service.group.chars();
    if !matches!((letters.next(), letters.next()), (Some('А'..='Я'), None)) {
        find.at("group", "one upper-case Russian letter", shown(&service.group));
    }
    find.term("execution", &service.execution);
    find.term("delivery", &service.delivery);
    find.source("source", &service.source);
    find.source("delivery.source", &service.delivery_source);
    if service.receivers.is_empty() {
        find.at("receivers", "at least one kind of applicant", "none");
    }
    let distinct: BTreeSet<_> = service.receivers.iter().collect();
    if distinct.len() != service.receivers.len() {
        find.at("receivers", "each kind of applicant once", "one twice");
    }
    find.list("documents", service.documents.len());
    find.list("suspensions", service.suspensions.len());
    if service.documents.is_empty() {
        find.at("documents", "at least one document", "none");
    }
    for (n, document) in service.documents.iter().enumerate() {
        find.code(&format!("documents[{n}].code"), &document.code);
        find.texts(&format!("documents[{n}].name"), &document.name);
    }
    find.source("documents_source", &service.documents_source);
    for (n, reason) in service.suspensions.iter().enumerate() {
        find.code(&format!("suspensions[{n}].code"), &reason.code);
        find.texts(&format!("suspensions[{n}].name"), &reason.name);
        if let Some(longest) = &reason.longest {
            find.term(&format!("suspensions[{n}].longest"), longest);
            if longest.days == 0 {
                find.at(&format!("suspensions[{n}].longest.days"), "at least 1, or no `longest`", 0);
            }
        }
        find.source(&format!("suspensions[{n}].source"), &reason.source);
    }
    let documents = service.documents.iter().enumerate();
    find.unique("document", documents.map(|(n, d)| (format!("documents[{n}].code"), d.code.as_str())));
    let reasons = service.suspensions.iter().enumerate();
    find.unique(
        "suspension reason",
        reasons.map(|(n, r)| (format!("suspensions[{n}].code"), r.code.as_str())),
    );
    if let Some(storage) = &service.storage {
        find.term("storage", &storage.term);
        if storage.term.days == 0 {
            find.at("storage.days", "at least 1, or no `storage`", 0);
        }
        find.source("storage.source", &storage.source);
    }
}

/// Longest time an answer may be waited for, milliseconds: the longest term of a service.
const ASK_EXPIRES_MAX_MS: i64 = TERM_DAYS_MAX as i64 * crate::time::DAY_MS;

/// All problems of processes that would be put on what is there.
pub fn processes(processes: &[Arc<Process>], present: &Catalogue) -> Vec<Problem> {
    let mut find = Finder::default();
    if processes.len() > RECORDS_MAX {
        find.at("process", format!("at most {RECORDS_MAX} records in one load"), processes.len());
        return find.problems;
    }
    let mut seen = BTreeSet::new();
    for (n, process) in processes.iter().enumerate() {
        find.under(format!("process[{n}]"), |find| {
            check_process(find, process);
            if present.service(&process.service).is_none() {
                find.at("service", "the code of a service of the catalogue", shown(&process.service));
            }
            if !seen.insert((&process.service, &process.module)) {
                find.at("service", "one process for a service", shown(&process.service));
            }
            // Of another module: those of this one are replaced.
            let loaded = |module: &str| {
                processes.iter().any(|other| other.service == process.service && other.module == module)
            };
            let elsewhere: BTreeSet<&str> = present
                .processes_of(&process.service)
                .filter(|other| !loaded(&other.module))
                .chain(
                    processes
                        .iter()
                        .map(Arc::as_ref)
                        .filter(|other| other.service == process.service && other.module != process.module),
                )
                .flat_map(|other| other.asks.iter().chain(&other.claimed).map(|ask| ask.code.as_str()))
                .collect();
            for (m, ask) in process.asks.iter().enumerate() {
                if elsewhere.contains(ask.code.as_str()) {
                    find.at(&format!("asks[{m}].code"), "a code no other module uses", shown(&ask.code));
                }
            }
        });
    }
    find.problems
}

fn check_process(find: &mut Finder, process: &Process) {
    find.code("module", &process.module);
    if process.asks.len() > ASKS_MAX {
        find.at("asks", format!("at most {ASKS_MAX} entries"), process.asks.len());
    }
    for (n, ask) in process.asks.iter().enumerate() {
        find.under(format!("asks[{n}]"), |find| {
            find.code("code", &ask.code);
            find.texts("title", &ask.title);
            if ask.requests.is_empty() || ask.requests.len() > REQUESTS_MAX {
                find.at("requests", format!("1 to {REQUESTS_MAX} requests"), ask.requests.len());
            } else if (ask.order, ask.wait) == (AskOrder::Sequential, Wait::Any)
                && ask.requests.len() > IN_TURN_MAX
            {
                let expected = format!("1 to {IN_TURN_MAX} requests where one after the other waits for any");
                find.at("requests", expected, ask.requests.len());
            }
            for (m, request) in ask.requests.iter().enumerate() {
                find.code(&format!("requests[{m}].channel"), &request.channel);
                find.code(&format!("requests[{m}].kind"), &request.kind);
            }
            if let Some(expires_ms) = ask.expires_ms
                && !(1_000..=ASK_EXPIRES_MAX_MS).contains(&expires_ms)
            {
                find.at("expires_ms", format!("1000 to {ASK_EXPIRES_MAX_MS}"), expires_ms);
            }
        });
    }
    let codes = process.asks.iter().enumerate();
    find.unique("ask", codes.map(|(n, ask)| (format!("asks[{n}].code"), ask.code.as_str())));
}

fn weekend(date: Date) -> bool {
    matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday)
}

fn check_calendar(find: &mut Finder, calendar: &Calendar) {
    if !YEARS.contains(&calendar.year) {
        find.at("year", format!("a year from {} to {}", YEARS.start(), YEARS.end()), calendar.year);
        return;
    }
    if !calendar.region.is_empty() {
        find.code("region", &calendar.region);
    }
    find.list("holidays", calendar.holidays.len());
    find.list("moved", calendar.moved.len());
    find.list("short", calendar.short.len());
    find.source("source", &calendar.source);
    if let Some(reason) = &calendar.provisional {
        find.text("provisional", reason);
    }
    let in_year = |date: Date| date.year() == calendar.year;
    let mut holidays = BTreeSet::new();
    for (n, holiday) in calendar.holidays.iter().enumerate() {
        let key = format!("holidays[{n}].date");
        if !in_year(holiday.date) {
            find.at(&key, format!("a date of {}", calendar.year), holiday.date);
        }
        if !holidays.insert(holiday.date) {
            find.at(&key, "a holiday named once", holiday.date);
        }
        find.text(&format!("holidays[{n}].name"), &holiday.name);
    }
    let (mut from_days, mut to_days) = (BTreeSet::new(), BTreeSet::new());
    for (n, moved) in calendar.moved.iter().enumerate() {
        let (from, to) = (format!("moved[{n}].from"), format!("moved[{n}].to"));
        if !in_year(moved.from) || !weekend(moved.from) {
            find.at(&from, format!("a Saturday or Sunday of {}", calendar.year), moved.from);
        }
        if !from_days.insert(moved.from) {
            find.at(&from, "a day off moved once", moved.from);
        }
        if !in_year(moved.to) || weekend(moved.to) || holidays.contains(&moved.to) {
            find.at(&to, format!("a day of {} that would work otherwise", calendar.year), moved.to);
        }
        if !to_days.insert(moved.to) {
            find.at(&to, "a day made off once", moved.to);
        }
    }
    let mut short = BTreeSet::new();
    for (n, &day) in calendar.short.iter().enumerate() {
        let off =
            holidays.contains(&day) || to_days.contains(&day) || (weekend(day) && !from_days.contains(&day));
        if !in_year(day) || off || !short.insert(day) {
            find.at(&format!("short[{n}]"), format!("a working day of {}, named once", calendar.year), day);
        }
    }
}
