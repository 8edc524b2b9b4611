//! The TOML files people edit: read, checked and turned into a [`Load`]. Pure: texts in, records or problems out.
//!
//! Any file may hold `[[authority]]`, `[[service]]` and `[[calendar]]` tables; the split into files is for people.
//! An unknown key is an error: a misspelt `delivery` must not silently mean "no delivery". The format is described
//! in `ops/catalogue/README.md`.

use super::{
    check::{self, Problem, shown},
    entity::{Catalogue, Load},
    model::{
        Authority, Calendar, DayKind, DocumentForm, DocumentKind, DocumentNeed, Holiday, MovedDay,
        ReceiverKind, Service, Source, Storage, SuspensionReason, Term, Text,
    },
};
use jiff::civil::Date;
use serde::Deserialize;
use std::{ops::Range, sync::Arc};
use toml::de::{DeTable, DeValue};

/// The only version of the file format so far; each file states it.
pub const FORMAT: u32 = 1;
/// Files in one load. The shipped catalogue has about twenty.
pub const FILES_MAX: usize = 1_000;
/// Bytes of all files together: comments and indentation included, four times what a commit holds.
pub const BYTES_MAX: usize = 1 << 20;

/// A file as it came: its path is used in messages only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    pub path: String,
    pub text: String,
}

impl SourceFile {
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }
}

/// Reads and checks files that go on top of `present`: all records, or everything that is wrong.
pub fn read(files: &[SourceFile], present: &Catalogue) -> Result<Load, Vec<Problem>> {
    let whole = |expected: String, found: usize| {
        vec![Problem {
            file: String::new(),
            line: None,
            key: String::new(),
            expected,
            found: found.to_string(),
        }]
    };
    if files.len() > FILES_MAX {
        return Err(whole(format!("at most {FILES_MAX} files"), files.len()));
    }
    let bytes = files.iter().map(|file| file.text.len()).sum::<usize>();
    if bytes > BYTES_MAX {
        return Err(whole(format!("at most {BYTES_MAX} bytes in all files"), bytes));
    }
    let mut read = Read::default();
    for file in files {
        read.file(file);
    }
    read.finish(present)
}

/// Where a record of the load stands: which file, and its place in that file's list.
struct Place<'a> {
    file: &'a SourceFile,
    n: usize,
}

#[derive(Default)]
struct Read<'a> {
    load: Load,
    authorities: Vec<Place<'a>>,
    services: Vec<Place<'a>>,
    calendars: Vec<Place<'a>>,
    problems: Vec<Problem>,
}

impl<'a> Read<'a> {
    fn file(&mut self, file: &'a SourceFile) {
        let parsed: FileV1 = match toml::from_str(&file.text) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.problems.push(syntax(file, &error));
                return;
            }
        };
        if parsed.format != FORMAT {
            self.problem(file, "format", format!("{FORMAT}"), parsed.format.to_string());
            return;
        }
        for (n, authority) in parsed.authority.into_iter().enumerate() {
            self.authorities.push(Place { file, n });
            self.load.authorities.push(Arc::new(authority.into()));
        }
        for (n, service) in parsed.service.into_iter().enumerate() {
            self.services.push(Place { file, n });
            self.load.services.push(Arc::new(service.into()));
        }
        for (n, calendar) in parsed.calendar.into_iter().enumerate() {
            let stated = calendar.working_days;
            let calendar = Calendar::from(calendar);
            if let Some(stated) = stated {
                let key = format!("calendar[{n}].working_days");
                let (working, ..) = calendar.counts();
                if !calendar.region.is_empty() {
                    self.problem(
                        file,
                        &key,
                        "no such key in a region's calendar".to_owned(),
                        stated.to_string(),
                    );
                } else if working != stated {
                    self.problem(
                        file,
                        &key,
                        format!("{working}, as the days listed give"),
                        stated.to_string(),
                    );
                }
            }
            self.calendars.push(Place { file, n });
            self.load.calendars.push(Arc::new(calendar));
        }
    }

    fn problem(&mut self, file: &SourceFile, key: &str, expected: String, found: String) {
        let line = line_of(&file.text, key);
        self.problems.push(Problem { file: file.path.clone(), line, key: key.to_owned(), expected, found });
    }

    fn finish(mut self, present: &Catalogue) -> Result<Load, Vec<Problem>> {
        // The checks number records through the whole load; people count them within a file.
        for problem in check::load(&self.load, present) {
            match self.place(&problem.key) {
                Some((file, key)) => self.problem(file, &key, problem.expected, problem.found),
                None => self.problems.push(problem),
            }
        }
        if self.problems.is_empty() { Ok(self.load) } else { Err(self.problems) }
    }

    fn place(&self, key: &str) -> Option<(&'a SourceFile, String)> {
        let (kind, rest) = key.split_once('[')?;
        let (n, rest) = rest.split_once(']')?;
        let places = match kind {
            "authority" => &self.authorities,
            "service" => &self.services,
            "calendar" => &self.calendars,
            _ => return None,
        };
        let place = places.get(n.parse::<usize>().ok()?)?;
        Some((place.file, format!("{kind}[{}]{rest}", place.n)))
    }
}

pub(crate) fn syntax(file: &SourceFile, error: &toml::de::Error) -> Problem {
    let span = error.span();
    let found = span
        .as_ref()
        .and_then(|span| file.text.get(span.clone()))
        .map_or_else(|| "something else".to_owned(), shown);
    let line = span.as_ref().map(|span| line_at(&file.text, span.start));
    let key = span.and_then(|span| key_at(&file.text, span.start)).unwrap_or_default();
    Problem {
        file: file.path.clone(),
        line,
        key,
        expected: error.message().trim().replace('\n', "; "),
        found,
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}

/// The line of a key such as `service[0].execution.days`; of the nearest table around it if the key is not there.
pub(crate) fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut span: Option<Range<usize>> = None;
    let mut table: Option<&DeTable<'_>> = Some(document.get_ref());
    for step in key.split('.') {
        let (name, index) = match step.split_once('[') {
            Some((name, rest)) => (name, Some(rest.trim_end_matches(']').parse::<usize>().ok()?)),
            None => (step, None),
        };
        let Some((key, found)) = table.and_then(|table| table.iter().find(|(key, _)| key.get_ref() == name))
        else {
            break;
        };
        span = Some(key.span());
        let mut value = found.get_ref();
        if let Some(index) = index {
            let Some(item) = value.as_array().and_then(|array| array.get(index)) else { break };
            span = Some(item.span());
            value = item.get_ref();
        }
        table = value.as_table();
    }
    span.map(|span| line_at(text, span.start))
}

/// The key whose value stands around an offset, for errors that tell a place only.
fn key_at(text: &str, offset: usize) -> Option<String> {
    let document = DeTable::parse(text).ok()?;
    let mut path = String::new();
    let mut table = document.get_ref();
    loop {
        let around = |span: Range<usize>| span.start <= offset && offset <= span.end;
        let (key, value) = table.iter().find(|(key, value)| around(key.span()) || within(value, offset))?;
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key.get_ref());
        let mut inner = value.get_ref();
        if let DeValue::Array(array) = inner
            && let Some((n, item)) = array.iter().enumerate().find(|(_, item)| within(item, offset))
        {
            path.push_str(&format!("[{n}]"));
            inner = item.get_ref();
        }
        match inner {
            DeValue::Table(next)
                if next.iter().any(|(key, value)| around(key.span()) || within(value, offset)) =>
            {
                table = next
            }
            _ => return Some(path),
        }
    }
}

/// Is the offset in the value? A table's own span is its header only, so its entries are asked too.
fn within(value: &toml::Spanned<DeValue<'_>>, offset: usize) -> bool {
    let span = value.span();
    if span.start <= offset && offset <= span.end {
        return true;
    }
    match value.get_ref() {
        DeValue::Array(array) => array.iter().any(|item| within(item, offset)),
        DeValue::Table(table) => table.iter().any(|(key, value)| {
            let span = key.span();
            (span.start <= offset && offset <= span.end) || within(value, offset)
        }),
        _ => false,
    }
}

// ---- the file format, version 1 ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileV1 {
    format: u32,
    #[serde(default)]
    authority: Vec<AuthorityV1>,
    #[serde(default)]
    service: Vec<ServiceV1>,
    #[serde(default)]
    calendar: Vec<CalendarV1>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextV1 {
    pub ru: String,
    pub en: String,
}

impl From<TextV1> for Text {
    fn from(text: TextV1) -> Self {
        Text { ru: text.ru, en: text.en }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceV1 {
    act: String,
    #[serde(default)]
    clause: String,
    checked: DateV1,
    against: String,
    verified: bool,
}

impl From<SourceV1> for Source {
    fn from(source: SourceV1) -> Self {
        Source {
            act: source.act,
            clause: source.clause,
            checked: source.checked.0,
            against: source.against,
            verified: source.verified,
        }
    }
}

/// A bare TOML date: `2026-01-09`.
struct DateV1(Date);

impl<'de> Deserialize<'de> for DateV1 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let written = toml::value::Datetime::deserialize(deserializer)?;
        let (Some(date), None, None) = (written.date, written.time, written.offset) else {
            return Err(D::Error::custom("expected a date without a time, such as 2026-01-09"));
        };
        let fields = (i16::try_from(date.year), i8::try_from(date.month), i8::try_from(date.day));
        let (Ok(year), Ok(month), Ok(day)) = fields else {
            return Err(D::Error::custom("expected a date such as 2026-01-09"));
        };
        Date::new(year, month, day)
            .map(DateV1)
            .map_err(|_| D::Error::custom("expected a date such as 2026-01-09"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorityV1 {
    code: String,
    name: TextV1,
    short: TextV1,
}

impl From<AuthorityV1> for Authority {
    fn from(authority: AuthorityV1) -> Self {
        Authority { code: authority.code, name: authority.name.into(), short: authority.short.into() }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DayKindV1 {
    Working,
    Calendar,
}

impl DayKindV1 {
    fn term(self, days: u16) -> Term {
        let kind = match self {
            DayKindV1::Working => DayKind::Working,
            DayKindV1::Calendar => DayKind::Calendar,
        };
        Term { days, kind }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TermV1 {
    days: u16,
    kind: DayKindV1,
}

impl From<TermV1> for Term {
    fn from(term: TermV1) -> Self {
        term.kind.term(term.days)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourcedTermV1 {
    days: u16,
    kind: DayKindV1,
    source: SourceV1,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReceiverV1 {
    Person,
    NonCitizen,
    SoleTrader,
    LegalEntity,
    ForeignLegalEntity,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum NeedV1 {
    Required,
    WhenApplies,
    Interagency,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum FormV1 {
    Original,
    Copy,
    OriginalAndCopy,
    Any,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentV1 {
    code: String,
    name: TextV1,
    need: NeedV1,
    form: FormV1,
}

impl From<DocumentV1> for DocumentKind {
    fn from(document: DocumentV1) -> Self {
        DocumentKind {
            code: document.code,
            name: document.name.into(),
            need: match document.need {
                NeedV1::Required => DocumentNeed::Required,
                NeedV1::WhenApplies => DocumentNeed::WhenApplies,
                NeedV1::Interagency => DocumentNeed::Interagency,
            },
            form: match document.form {
                FormV1::Original => DocumentForm::Original,
                FormV1::Copy => DocumentForm::Copy,
                FormV1::OriginalAndCopy => DocumentForm::OriginalAndCopy,
                FormV1::Any => DocumentForm::Any,
            },
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SuspensionV1 {
    code: String,
    name: TextV1,
    longest: Option<TermV1>,
    source: SourceV1,
}

impl From<SuspensionV1> for SuspensionReason {
    fn from(reason: SuspensionV1) -> Self {
        SuspensionReason {
            code: reason.code,
            name: reason.name.into(),
            longest: reason.longest.map(Into::into),
            source: reason.source.into(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceV1 {
    code: String,
    name: TextV1,
    authority: String,
    group: String,
    #[serde(default = "yes")]
    active: bool,
    receivers: Vec<ReceiverV1>,
    #[serde(default = "yes")]
    representative: bool,
    execution: TermV1,
    source: SourceV1,
    delivery: SourcedTermV1,
    storage: Option<SourcedTermV1>,
    documents: Vec<DocumentV1>,
    documents_source: SourceV1,
    #[serde(default)]
    suspensions: Vec<SuspensionV1>,
}

fn yes() -> bool {
    true
}

impl From<ServiceV1> for Service {
    fn from(service: ServiceV1) -> Self {
        Service {
            code: service.code,
            name: service.name.into(),
            authority: service.authority,
            group: service.group,
            active: service.active,
            execution: service.execution.into(),
            delivery: service.delivery.kind.term(service.delivery.days),
            source: service.source.into(),
            delivery_source: service.delivery.source.into(),
            receivers: service.receivers.into_iter().map(Into::into).collect(),
            representative: service.representative,
            documents: service.documents.into_iter().map(Into::into).collect(),
            documents_source: service.documents_source.into(),
            suspensions: service.suspensions.into_iter().map(Into::into).collect(),
            storage: service.storage.map(|storage| Storage {
                term: storage.kind.term(storage.days),
                source: storage.source.into(),
            }),
        }
    }
}

impl From<ReceiverV1> for ReceiverKind {
    fn from(receiver: ReceiverV1) -> Self {
        match receiver {
            ReceiverV1::Person => ReceiverKind::Person,
            ReceiverV1::NonCitizen => ReceiverKind::NonCitizen,
            ReceiverV1::SoleTrader => ReceiverKind::SoleTrader,
            ReceiverV1::LegalEntity => ReceiverKind::LegalEntity,
            ReceiverV1::ForeignLegalEntity => ReceiverKind::ForeignLegalEntity,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HolidayV1 {
    date: DateV1,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MovedV1 {
    from: DateV1,
    to: DateV1,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CalendarV1 {
    year: i16,
    #[serde(default)]
    region: String,
    /// Working days of the year, as published: compared with what the days listed give.
    working_days: Option<u16>,
    provisional: Option<String>,
    source: SourceV1,
    #[serde(default)]
    holidays: Vec<HolidayV1>,
    #[serde(default)]
    moved: Vec<MovedV1>,
    #[serde(default)]
    short: Vec<DateV1>,
}

impl From<CalendarV1> for Calendar {
    fn from(calendar: CalendarV1) -> Self {
        Calendar {
            year: calendar.year,
            region: calendar.region,
            holidays: calendar
                .holidays
                .into_iter()
                .map(|h| Holiday { date: h.date.0, name: h.name })
                .collect(),
            moved: calendar.moved.into_iter().map(|m| MovedDay { from: m.from.0, to: m.to.0 }).collect(),
            short: calendar.short.into_iter().map(|day| day.0).collect(),
            source: calendar.source.into(),
            provisional: calendar.provisional,
        }
    }
}
