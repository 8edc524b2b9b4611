//! The catalogue: services with their terms and document lists, the authorities that render them, and the
//! production calendars deadlines are computed with (R-C2). One entity, `catalogue/region`, loaded from files,
//! checked as a whole and versioned: a case records the version its deadline was computed with.
//!
//! - [`model`]: what it holds · [`calendar`]: working-day arithmetic · [`check`]: what a load must satisfy
//! - [`files`]: the TOML files people edit · [`entity`]: commands, events and the fold

pub mod calendar;
pub mod check;
pub mod entity;
pub mod files;
pub mod model;

pub use calendar::{CatalogueError, Deadline, ServiceDeadlines};
pub use check::Problem;
pub use entity::{Catalogue, Command, Event, Load, Part, Reply, Root};
pub use files::SourceFile;
pub use model::{
    Authority, Calendar, CalendarKey, DayKind, DocumentForm, DocumentKind, DocumentNeed, Holiday, MovedDay, ReceiverKind,
    Service, Source, Storage, SuspensionReason, Term, Text,
};

/// Id of the one catalogue entity.
pub const ENTITY_ID: &str = "region";

/// Reason codes of this module with their meaning, for `docs/reasons.md`.
pub const REASONS: &[(&str, &str)] = &[
    ("CALENDAR_YEAR_MISSING", "no production calendar is loaded for a year the deadline needs; a missing year is never guessed"),
    ("DATE_OUT_OF_RANGE", "the date lies outside the years the calendars can describe"),
    ("CATALOGUE_INVALID", "a catalogue load has errors and was refused as a whole; the details name each file, key and what was expected"),
    ("CATALOGUE_EMPTY_LOAD", "a catalogue load named no service, authority or calendar"),
    ("CATALOGUE_MESSAGE_UNEXPECTED", "the catalogue takes no messages from other entities"),
    ("CATALOGUE_TIMER_UNKNOWN", "the catalogue has no timers"),
    ("CATALOGUE_PERMISSION", "only an administrator may load the catalogue"),
];
