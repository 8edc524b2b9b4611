//! What a caller learns when a call does not succeed (rule 1), and how a gRPC status is read as that.

use crate::calls::Effect;
use std::{collections::BTreeMap, error::Error as StdError, fmt, path::PathBuf, time::Duration};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

/// The client could not be set up; nothing was called.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: String },
    #[error("{key}: {found:?} is not valid: expected {expected}")]
    Value { key: &'static str, found: String, expected: &'static str },
    #[error("{key} is missing: give --{key}, set OKNOCTL_{env}, or name a context file with --config", env = key.to_uppercase().replace('-', "_"))]
    Missing { key: &'static str },
    #[error("TLS: {0}")]
    Tls(String),
}

/// The three classes of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A rule said no; retrying does not help.
    Refused,
    /// Nothing happened and nothing will: a new call is safe.
    NotApplied,
    /// It may or may not take effect: only a retry with the same request id is safe.
    Unknown,
}

impl Class {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::NotApplied => "not applied",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a call did not succeed.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Stable reason code; `GRPC_…` or `UNREACHABLE` where no node of the cluster gave one.
    pub reason: String,
    pub code: Code,
    /// For people, in the language asked for.
    pub message: String,
    /// Facts about the refusal.
    pub details: BTreeMap<String, String>,
    /// Field and what was expected there.
    pub violations: Vec<(String, String)>,
    /// How long the cluster asks to wait.
    pub retry_after: Option<Duration>,
    /// Of the call; present when it mutates.
    pub request_id: Option<Uuid>,
    /// Attempts made.
    pub attempts: u32,
}

impl Problem {
    pub(crate) fn local(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            code,
            message: message.into(),
            details: BTreeMap::new(),
            violations: Vec::new(),
            retry_after: None,
            request_id: None,
            attempts: 0,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        for (field, expected) in &self.violations {
            write!(f, "; {field}: {expected}")?;
        }
        Ok(())
    }
}

/// A call that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    #[error("refused: {0}")]
    Refused(Box<Problem>),
    #[error("not applied: {0}")]
    NotApplied(Box<Problem>),
    #[error("outcome unknown: {0}")]
    Unknown(Box<Problem>),
}

impl CallError {
    pub(crate) fn new(class: Class, problem: Problem) -> Self {
        let problem = Box::new(problem);
        match class {
            Class::Refused => Self::Refused(problem),
            Class::NotApplied => Self::NotApplied(problem),
            Class::Unknown => Self::Unknown(problem),
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Self::Refused(_) => Class::Refused,
            Self::NotApplied(_) => Class::NotApplied,
            Self::Unknown(_) => Class::Unknown,
        }
    }

    pub fn problem(&self) -> &Problem {
        match self {
            Self::Refused(problem) | Self::NotApplied(problem) | Self::Unknown(problem) => problem,
        }
    }

    pub fn reason(&self) -> &str {
        &self.problem().reason
    }
}

/// One attempt's status, read.
#[derive(Debug)]
pub struct Reading {
    pub class: Class,
    pub problem: Problem,
    /// A node of the cluster said so (`ErrorInfo` with our domain), not the layers between.
    pub authentic: bool,
    /// The request never left: no connection.
    pub unreachable: bool,
    /// The node serves nobody now; another may.
    pub closed: bool,
}

/// What a node answers that serves nobody, whatever the others do.
const CLOSED: [&str; 3] = ["NODE_CLOSED", "NODE_NOT_READY", "NODE_QUARANTINED"];

/// Reads the status of one attempt.
///
/// Only the cluster itself can promise that nothing happened: a bare UNAVAILABLE may come from a connection that
/// broke after the request had left, so for a mutating call it means unknown. A failed connect is the exception.
pub fn classify(status: &Status, effect: Effect) -> Reading {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == okno_proto::metadata::ERROR_DOMAIN);
    let authentic = info.is_some();
    let unreachable = !authentic && is_connect_error(status);
    let code = status.code();
    let class = if authentic {
        match code {
            Code::Unavailable | Code::ResourceExhausted => Class::NotApplied,
            Code::Aborted | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => {
                Class::Unknown
            }
            _ => Class::Refused,
        }
    } else if unreachable {
        Class::NotApplied
    } else {
        match code {
            // Answered before a handler saw the call.
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented => Class::Refused,
            _ => Class::Unknown,
        }
    };
    // A read has no effect that could be unknown.
    let class = if class == Class::Unknown && effect == Effect::Reads { Class::NotApplied } else { class };
    let reason = match info {
        Some(info) => info.reason.clone(),
        None if unreachable => "UNREACHABLE".to_owned(),
        None => format!("GRPC_{}", code_name(code)),
    };
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.iter().map(|v| (v.field.clone(), v.description.clone())).collect())
        .unwrap_or_default();
    // The cluster's text for people stands in LocalizedMessage when it differs from the status's own.
    let message =
        details.localized_message().map_or_else(|| status.message().to_owned(), |text| text.message.clone());
    let problem = Problem {
        reason,
        code,
        message,
        details: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
        violations,
        retry_after: details.retry_info().and_then(|info| info.retry_delay),
        request_id: None,
        attempts: 0,
    };
    let closed = authentic && class == Class::NotApplied && CLOSED.contains(&problem.reason.as_str());
    Reading { class, problem, authentic, unreachable, closed }
}

fn is_connect_error(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
