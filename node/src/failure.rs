//! How a call that brought no result is told: gRPC status with `ErrorInfo` of domain `okno` (design §8).
//!
//! Three classes, never mixed (rule 1): *refused* by a rule, *not applied* (safe to retry, with `RetryInfo`), and
//! *unknown* (retry with the same request id). Texts are Russian first, English on request.

use okno_domain::entity::{Refusal, RefusalClass};
use okno_proto::metadata::{ERROR_DOMAIN, OUTCOME_UNKNOWN};
use std::{collections::HashMap, time::Duration};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// Language of texts for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    #[default]
    Russian,
    English,
}

impl Language {
    /// From `accept-language`: English when it is wanted before Russian, else Russian.
    pub fn of_header(value: Option<&[u8]>) -> Self {
        let Some(value) = value else { return Self::Russian };
        for language in value.split(|byte| *byte == b',') {
            let language = language.trim_ascii_start();
            if language.len() >= 2 {
                match language[..2].to_ascii_lowercase().as_slice() {
                    b"en" => return Self::English,
                    b"ru" => return Self::Russian,
                    _ => {}
                }
            }
        }
        Self::Russian
    }

    fn tag(self) -> &'static str {
        match self {
            Self::Russian => "ru",
            Self::English => "en",
        }
    }

    pub fn pick<'a>(self, russian: &'a str, english: &'a str) -> &'a str {
        match self {
            Self::Russian => russian,
            Self::English => english,
        }
    }
}

/// Why a call brought no result.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// A rule said no.
    Refused(Refusal),
    /// Nothing happened; retry after the pause.
    NotApplied { reason: String, exhausted: bool, retry_after: Duration, detail: String },
    /// It may have happened.
    Unknown { reason: String },
    /// The caller has no valid identity.
    Unauthenticated { reason: &'static str, detail: String },
    /// The deadline passed before an outcome was known.
    DeadlineExceeded,
    /// A fault of ours; nothing is said about whether it took effect unless the call only reads.
    Internal { detail: String },
}

impl Failure {
    pub fn not_applied(reason: &str, retry_after: Duration, detail: impl Into<String>) -> Self {
        Self::NotApplied { reason: reason.into(), exhausted: false, retry_after, detail: detail.into() }
    }

    /// A bound is reached (rule 10).
    pub fn exhausted(reason: &str, detail: impl Into<String>) -> Self {
        Self::NotApplied {
            reason: reason.into(),
            exhausted: true,
            retry_after: Duration::from_millis(200),
            detail: detail.into(),
        }
    }

    /// A malformed field: `expected` says what should have stood there.
    pub fn field(path: &str, russian: &str, english: &str) -> Self {
        let mut details = std::collections::BTreeMap::new();
        details.insert(path.to_owned(), english.to_owned());
        Self::Refused(Refusal {
            class: RefusalClass::InvalidArgument,
            reason: "FIELD_INVALID".into(),
            text_ru: format!("{path}: {russian}"),
            text_en: format!("{path}: {english}"),
            details,
        })
    }

    pub fn refused(class: RefusalClass, reason: &str, russian: &str, english: &str) -> Self {
        Self::Refused(Refusal {
            class,
            reason: reason.into(),
            text_ru: russian.into(),
            text_en: english.into(),
            details: std::collections::BTreeMap::new(),
        })
    }

    pub fn not_found(what_ru: &str, what_en: &str, reason: &str) -> Self {
        Self::refused(RefusalClass::NotFound, reason, what_ru, what_en)
    }

    pub fn page_token_stale() -> Self {
        Self::refused(
            RefusalClass::InvalidArgument,
            "PAGE_TOKEN_STALE",
            "Метка страницы не подходит к этому запросу: начните список сначала",
            "the token does not fit this request: start again without it",
        )
    }

    /// For metrics and logs.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Refused(_) | Self::Unauthenticated { .. } => "refused",
            Self::NotApplied { .. } => "not_applied",
            Self::Unknown { .. } | Self::DeadlineExceeded => "unknown",
            Self::Internal { .. } => "internal",
        }
    }

    pub fn reason(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.reason,
            Self::NotApplied { reason, .. } | Self::Unknown { reason } => reason,
            Self::Unauthenticated { reason, .. } => reason,
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Internal { .. } => "INTERNAL",
        }
    }

    /// The status a client sees.
    pub fn status(&self, language: Language) -> Status {
        let mut details = ErrorDetails::new();
        let (code, message) = match self {
            Self::Refused(refusal) => {
                let code = match refusal.class {
                    RefusalClass::InvalidArgument => Code::InvalidArgument,
                    RefusalClass::NotFound => Code::NotFound,
                    RefusalClass::FailedPrecondition => Code::FailedPrecondition,
                    RefusalClass::PermissionDenied => Code::PermissionDenied,
                };
                let facts: HashMap<String, String> = refusal.details.clone().into_iter().collect();
                details.set_error_info(&refusal.reason, ERROR_DOMAIN, facts);
                if refusal.class == RefusalClass::InvalidArgument && !refusal.details.is_empty() {
                    details.set_bad_request(
                        refusal
                            .details
                            .iter()
                            .map(|(field, expected)| FieldViolation::new(field, expected))
                            .collect::<Vec<_>>(),
                    );
                }
                (code, language.pick(&refusal.text_ru, &refusal.text_en).to_owned())
            }
            Self::NotApplied { reason, exhausted, retry_after, detail } => {
                details.set_error_info(reason, ERROR_DOMAIN, HashMap::new());
                details.set_retry_info(Some(*retry_after));
                let code = if *exhausted { Code::ResourceExhausted } else { Code::Unavailable };
                let text = language
                    .pick("Запрос не выполнен, его можно безопасно повторить", "not applied, safe to retry");
                (code, if detail.is_empty() { text.to_owned() } else { format!("{text}: {detail}") })
            }
            Self::Unknown { reason } => {
                let facts = HashMap::from([("cause".to_owned(), reason.clone())]);
                details.set_error_info(OUTCOME_UNKNOWN, ERROR_DOMAIN, facts);
                let text = language.pick(
                    "Исход неизвестен: повторите запрос с тем же идентификатором",
                    "the outcome is unknown: retry with the same request id",
                );
                (Code::Aborted, text.to_owned())
            }
            Self::Unauthenticated { reason, detail } => {
                details.set_error_info(*reason, ERROR_DOMAIN, HashMap::new());
                let text = language.pick("Сертификат не принят", "the certificate is not accepted");
                (Code::Unauthenticated, format!("{text}: {detail}"))
            }
            Self::DeadlineExceeded => {
                details.set_error_info("DEADLINE_EXCEEDED", ERROR_DOMAIN, HashMap::new());
                let text = language.pick(
                    "Срок запроса истёк, исход неизвестен: повторите с тем же идентификатором",
                    "the deadline passed, the outcome is unknown: retry with the same request id",
                );
                (Code::DeadlineExceeded, text.to_owned())
            }
            Self::Internal { detail } => {
                details.set_error_info("INTERNAL", ERROR_DOMAIN, HashMap::new());
                let text = language.pick("Внутренняя ошибка сервера", "internal error");
                (Code::Internal, format!("{text}: {detail}"))
            }
        };
        // The library's text is the message again, with its language named, as clients expect it.
        details.set_localized_message(language.tag(), message.clone());
        Status::with_error_details(code, message, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn language_is_russian_unless_english_is_asked_for() {
        for (header, expected) in [
            (None, Language::Russian),
            (Some(""), Language::Russian),
            (Some("en"), Language::English),
            (Some("en-US,ru;q=0.5"), Language::English),
            (Some("ru, en"), Language::Russian),
            (Some("de, en;q=0.8"), Language::English),
            (Some("de"), Language::Russian),
        ] {
            assert_eq!(Language::of_header(header.map(str::as_bytes)), expected, "{header:?}");
        }
    }

    #[test]
    fn classes_keep_their_codes_and_details() {
        let check = |failure: Failure, code: Code, reason: &str, retry: bool| {
            let status = failure.status(Language::English);
            assert_eq!(status.code(), code);
            let details = status.get_error_details();
            let info = details.error_info().expect("error info");
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "okno"));
            assert_eq!(details.retry_info().is_some(), retry);
        };
        let pause = Duration::from_millis(100);
        check(Failure::field("snils", "…", "11 digits"), Code::InvalidArgument, "FIELD_INVALID", false);
        check(Failure::page_token_stale(), Code::InvalidArgument, "PAGE_TOKEN_STALE", false);
        check(Failure::not_applied("NO_LEADER", pause, ""), Code::Unavailable, "NO_LEADER", true);
        check(Failure::exhausted("SHARD_FULL", ""), Code::ResourceExhausted, "SHARD_FULL", true);
        check(Failure::Unknown { reason: "LEADERSHIP_LOST".into() }, Code::Aborted, "OUTCOME_UNKNOWN", false);
        check(Failure::DeadlineExceeded, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", false);
    }

    #[test]
    fn field_violations_name_the_field() {
        let status = Failure::field("applicants[0].snils", "ожидается 11 цифр", "expected 11 digits")
            .status(Language::Russian);
        let details = status.get_error_details();
        let violation = &details.bad_request().expect("bad request").field_violations[0];
        assert_eq!(
            (violation.field.as_str(), violation.description.as_str()),
            ("applicants[0].snils", "expected 11 digits")
        );
        assert_eq!(status.message(), "applicants[0].snils: ожидается 11 цифр");
    }
}
