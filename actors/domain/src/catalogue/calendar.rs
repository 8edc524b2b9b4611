//! Working-day arithmetic on the loaded production calendars.
//!
//! - A term in days starts the day after the event (Civil Code 191).
//! - A last day that is no working day moves to the next working day (Civil Code 193).
//! - A year without a calendar is refused, never guessed; a region that has calendars of its own needs one for
//!   each year, too.
//! - What rests on a provisional calendar says so.

use super::{
    CALENDAR_YEAR_MISSING, DATE_OUT_OF_RANGE,
    entity::Catalogue,
    model::{Calendar, CalendarKey, DayKind, Service, Term},
};
use crate::{entity::Refusal, refusal::refuse};
use jiff::civil::{Date, Weekday};
use serde::{Deserialize, Serialize};

/// The longest term that is computed, in days: three years. No service has a longer one; it bounds the walk.
pub const TERM_DAYS_MAX: u16 = 1_096;

/// The longest run of days off that is walked over before the data is called wrong.
const DAYS_OFF_RUN_MAX: u16 = 366;

/// Why a day could not be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    #[error("no production calendar for {}", key(.year, .region))]
    YearMissing { year: i16, region: String },
    #[error("date out of range near {near}")]
    OutOfRange { near: Date },
}

fn key(year: &i16, region: &str) -> String {
    CalendarKey { region: region.to_owned(), year: *year }.to_string()
}

impl From<CatalogueError> for Refusal {
    fn from(error: CatalogueError) -> Self {
        match error {
            CatalogueError::YearMissing { year, region } => {
                let of_ru =
                    if region.is_empty() { String::new() } else { format!(" региона {region}") };
                let of_en = if region.is_empty() { String::new() } else { format!(" of region {region}") };
                let mut refusal = refuse(CALENDAR_YEAR_MISSING).with("year", year.to_string());
                refusal.text_ru = format!(
                    "Не загружен производственный календарь{of_ru} на {year} год: срок не может быть вычислен"
                );
                refusal.text_en = format!(
                    "No production calendar{of_en} is loaded for {year}: the deadline cannot be computed"
                );
                if region.is_empty() { refusal } else { refusal.with("region", region) }
            }
            CatalogueError::OutOfRange { near } => refuse(DATE_OUT_OF_RANGE).with("near", near.to_string()),
        }
    }
}

/// A computed last day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    pub date: Date,
    /// The marks of the provisional calendars it rests on, or `None`.
    pub provisional: Option<String>,
}

/// The two last days of a service: the authority's, and the applicant's at the office.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDeadlines {
    /// Execution by the authority.
    pub execution: Deadline,
    /// The result is in the office: execution, then delivery.
    pub ready: Deadline,
}

/// What a day is, by the weekday and one calendar alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DayType {
    Working,
    /// Works an hour less.
    Short,
    Off,
}

impl Calendar {
    /// What this calendar makes of a day of its year; a regional one says only what it adds.
    fn says(&self, date: Date) -> Option<DayType> {
        if self.holidays.iter().any(|holiday| holiday.date == date)
            || self.moved.iter().any(|moved| moved.to == date)
        {
            Some(DayType::Off)
        } else if self.short.contains(&date) {
            Some(DayType::Short)
        } else if self.moved.iter().any(|moved| moved.from == date) {
            Some(DayType::Working)
        } else {
            None
        }
    }

    /// Counts for a year: (working days, of them short ones, days off). Used to compare with the published figures.
    pub fn counts(&self) -> (u16, u16, u16) {
        let (mut working, mut short, mut off) = (0, 0, 0);
        let mut day = Date::new(self.year, 1, 1).ok();
        while let Some(date) = day.filter(|date| date.year() == self.year) {
            match self.says(date).unwrap_or_else(|| by_weekday(date)) {
                DayType::Working => working += 1,
                DayType::Short => {
                    working += 1;
                    short += 1;
                }
                DayType::Off => off += 1,
            }
            day = date.tomorrow().ok();
        }
        (working, short, off)
    }

    /// Hours of a year by a 40-hour week: eight a day, one less on short days.
    pub fn hours_of_40(&self) -> u32 {
        let (working, short, _) = self.counts();
        u32::from(working) * 8 - u32::from(short)
    }
}

fn by_weekday(date: Date) -> DayType {
    match date.weekday() {
        Weekday::Saturday | Weekday::Sunday => DayType::Off,
        _ => DayType::Working,
    }
}

/// Gathers the marks of provisional calendars met on the way.
#[derive(Default)]
struct Marks(Vec<String>);

impl Marks {
    fn meet(&mut self, calendar: &Calendar) {
        if let Some(reason) = &calendar.provisional
            && !self.0.contains(reason)
        {
            self.0.push(reason.clone());
        }
    }

    fn into_mark(self) -> Option<String> {
        if self.0.is_empty() { None } else { Some(self.0.join("; ")) }
    }
}

fn tomorrow(date: Date) -> Result<Date, CatalogueError> {
    date.tomorrow().map_err(|_| CatalogueError::OutOfRange { near: date })
}

impl Catalogue {
    /// What the day is in the region (empty: nowhere in particular). A regional calendar goes before the country's.
    pub fn day_type(&self, date: Date, region: &str) -> Result<DayType, CatalogueError> {
        self.day_marked(date, region, &mut Marks::default())
    }

    pub fn is_working_day(&self, date: Date, region: &str) -> Result<bool, CatalogueError> {
        Ok(self.day_type(date, region)? != DayType::Off)
    }

    /// The last day of a term that begins with an event on `start`.
    pub fn deadline(&self, term: &Term, start: Date, region: &str) -> Result<Deadline, CatalogueError> {
        let mut marks = Marks::default();
        let date = self.term_end(term, start, region, &mut marks)?;
        Ok(Deadline { date, provisional: marks.into_mark() })
    }

    /// `date` itself if it is a working day, else the next one (Civil Code 193).
    pub fn next_working_day(&self, date: Date, region: &str) -> Result<Deadline, CatalogueError> {
        let mut marks = Marks::default();
        let date = self.roll(date, region, &mut marks)?;
        Ok(Deadline { date, provisional: marks.into_mark() })
    }

    /// Both deadlines of a service accepted on `start`.
    pub fn service_deadlines(
        &self,
        service: &Service,
        start: Date,
        region: &str,
    ) -> Result<ServiceDeadlines, CatalogueError> {
        let execution = self.deadline(&service.execution, start, region)?;
        self.with_delivery(service, execution, region)
    }

    /// Until when a suspension that began on `start` may last; `None`: the act gives no number.
    pub fn suspension_end(
        &self,
        service: &Service,
        reason: &str,
        start: Date,
        region: &str,
    ) -> Result<Option<Deadline>, CatalogueError> {
        match service.suspension(reason).and_then(|reason| reason.longest) {
            None => Ok(None),
            Some(term) => self.deadline(&term, start, region).map(Some),
        }
    }

    /// The deadlines after a suspension: the days of execution that were left on `suspended` run on from `resumed`.
    /// A term that was already over stays as it was.
    pub fn resumed_deadlines(
        &self,
        service: &Service,
        before: &ServiceDeadlines,
        suspended: Date,
        resumed: Date,
        region: &str,
    ) -> Result<ServiceDeadlines, CatalogueError> {
        if suspended > before.execution.date || resumed <= suspended {
            return Ok(before.clone());
        }
        let left = self.days_between(service.execution.kind, suspended, before.execution.date, region)?;
        let execution = self.deadline(&Term { days: left, kind: service.execution.kind }, resumed, region)?;
        self.with_delivery(service, execution, region)
    }

    /// Days of a kind after `from`, up to and with `to`; zero if `to` is not later.
    pub fn days_between(
        &self,
        kind: DayKind,
        from: Date,
        to: Date,
        region: &str,
    ) -> Result<u16, CatalogueError> {
        let mut count = 0_u16;
        let mut date = from;
        while date < to {
            date = tomorrow(date)?;
            let counts = kind == DayKind::Calendar || self.is_working_day(date, region)?;
            count = count.checked_add(u16::from(counts)).ok_or(CatalogueError::OutOfRange { near: date })?;
        }
        Ok(count)
    }

    fn with_delivery(
        &self,
        service: &Service,
        execution: Deadline,
        region: &str,
    ) -> Result<ServiceDeadlines, CatalogueError> {
        let mut ready = if service.delivery.days == 0 {
            execution.clone()
        } else {
            self.deadline(&service.delivery, execution.date, region)?
        };
        if let Some(mark) = &execution.provisional {
            ready.provisional = Some(match ready.provisional.take() {
                Some(own) if own != *mark => format!("{mark}; {own}"),
                _ => mark.clone(),
            });
        }
        Ok(ServiceDeadlines { execution, ready })
    }

    fn term_end(
        &self,
        term: &Term,
        start: Date,
        region: &str,
        marks: &mut Marks,
    ) -> Result<Date, CatalogueError> {
        if term.days > TERM_DAYS_MAX {
            return Err(CatalogueError::OutOfRange { near: start });
        }
        let mut date = start;
        match term.kind {
            DayKind::Calendar => {
                for _ in 0..term.days {
                    date = tomorrow(date)?;
                }
            }
            DayKind::Working => {
                for _ in 0..term.days {
                    date = self.roll(tomorrow(date)?, region, marks)?;
                }
            }
        }
        self.roll(date, region, marks)
    }

    fn roll(&self, from: Date, region: &str, marks: &mut Marks) -> Result<Date, CatalogueError> {
        let mut date = from;
        for _ in 0..DAYS_OFF_RUN_MAX {
            if self.day_marked(date, region, marks)? != DayType::Off {
                return Ok(date);
            }
            date = tomorrow(date)?;
        }
        Err(CatalogueError::OutOfRange { near: from })
    }

    fn day_marked(&self, date: Date, region: &str, marks: &mut Marks) -> Result<DayType, CatalogueError> {
        let year = date.year();
        let country =
            self.calendar(year, "").ok_or(CatalogueError::YearMissing { year, region: String::new() })?;
        marks.meet(country);
        let regional = match self.calendar(year, region) {
            Some(calendar) => Some(calendar),
            None if self.has_calendars_of(region) => {
                return Err(CatalogueError::YearMissing { year, region: region.to_owned() });
            }
            None => None,
        };
        let own = regional.and_then(|calendar| {
            marks.meet(calendar);
            calendar.says(date)
        });
        Ok(own.or_else(|| country.says(date)).unwrap_or_else(|| by_weekday(date)))
    }
}
