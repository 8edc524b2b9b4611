//! The catalogue: services with their terms and document lists, the authorities that render them, and the
//! production calendars deadlines are computed with (R-C2). One entity, `catalogue/region`, loaded from files,
//! checked as a whole and versioned: a case records the version its deadline was computed with.
//!
//! - [`model`]: what it holds · [`process`]: what modules add to services · [`calendar`]: working-day arithmetic
//! - [`check`]: what a load must satisfy
//! - [`files`]: the TOML files people edit · [`entity`]: commands, events and the fold

pub mod calendar;
pub mod check;
pub mod entity;
pub mod files;
pub mod model;
pub mod process;

use crate::{entity::RefusalClass, refusal::Reason};

pub use calendar::{CatalogueError, DayType, Deadline, ServiceDeadlines};
pub use check::Problem;
pub use entity::{Catalogue, Command, Event, Load, Part, Reply, Root};
pub use files::SourceFile;
pub use model::{
    Authority, Calendar, CalendarKey, DayKind, DocumentForm, DocumentKind, DocumentNeed, Holiday, MovedDay,
    ReceiverKind, Service, Source, Storage, SuspensionReason, Term, Text,
};
pub use process::{Ask, AskOrder, AskRequest, IN_TURN_MAX, Process, Wait};

/// Id of the one catalogue entity.
pub const ENTITY_ID: &str = "region";

/// No production calendar is loaded for a year a deadline needs; a missing year is never guessed.
pub const CALENDAR_YEAR_MISSING: Reason = Reason {
    code: "CALENDAR_YEAR_MISSING",
    class: RefusalClass::FailedPrecondition,
    text_ru: "Не загружен производственный календарь: срок не может быть вычислен",
    text_en: "No production calendar is loaded for a year the deadline needs",
};
/// The date lies outside what can be computed.
pub const DATE_OUT_OF_RANGE: Reason = Reason {
    code: "DATE_OUT_OF_RANGE",
    class: RefusalClass::FailedPrecondition,
    text_ru: "Дата выходит за допустимые пределы",
    text_en: "The date is out of range",
};
/// A load has errors and was refused as a whole; the details name each file, line and key with what was expected.
pub const CATALOGUE_INVALID: Reason = Reason {
    code: "CATALOGUE_INVALID",
    class: RefusalClass::InvalidArgument,
    text_ru: "Каталог не загружен: в нём есть ошибки",
    text_en: "The catalogue was not loaded: it has errors; details name each place and what was expected",
};
/// A load named nothing.
pub const CATALOGUE_EMPTY_LOAD: Reason = Reason {
    code: "CATALOGUE_EMPTY_LOAD",
    class: RefusalClass::InvalidArgument,
    text_ru: "В загрузке нет ни одной услуги, органа или календаря",
    text_en: "The load has no service, authority or calendar",
};

/// Every reason of this module, for `docs/reasons.md`.
pub const REASONS: &[Reason] =
    &[CALENDAR_YEAR_MISSING, DATE_OUT_OF_RANGE, CATALOGUE_INVALID, CATALOGUE_EMPTY_LOAD];
