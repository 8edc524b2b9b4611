//! What the gateway is asked and what it answers: the three endings of rule 1 in types.

use okno_domain::{
    entity::{EntityRef, Principal, Refusal, RefusalClass},
    registry::{AnyCommand, AnyReply},
};
use okno_storage::commit::{COMMIT_BYTES_MAX, Record, SystemOp};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Instant};
use uuid::Uuid;

/// A command to an entity, its caller established by the certificate (rule 17).
#[derive(Debug, Clone)]
pub struct Call {
    pub principal: Principal,
    /// Workstation id, or empty.
    pub workstation: String,
    /// UUIDv7; with the principal it names the request for 7 days (rule 6).
    pub request_id: Uuid,
    /// 1 for the first attempt of the caller; larger when an earlier attempt may still be on its way (rule 2).
    pub attempt: u32,
    /// Over method and canonical body.
    pub hash: [u8; 32],
    pub target: EntityRef,
    pub command: AnyCommand,
    pub deadline: Instant,
    /// Trace context, passed through to logs; empty if none.
    pub trace: String,
}

/// A command to one of the cluster's own entities, for administrators (release, marker, level).
#[derive(Debug, Clone)]
pub struct SystemCall {
    pub principal: Principal,
    pub workstation: String,
    pub request_id: Uuid,
    pub attempt: u32,
    pub hash: [u8; 32],
    pub op: SystemOp,
    pub deadline: Instant,
    pub trace: String,
}

/// How a call ended (rule 1).
#[derive(Debug, Clone, PartialEq)]
pub enum CallResult {
    /// Committed and applied at `index`, now or when the request was first made.
    Done { reply: AnyReply, index: u64 },
    /// A rule said no; nothing changed.
    Refused(Refusal),
    /// Nothing happened and nothing will: safe to retry.
    NotApplied { reason: String, retry_after_ms: u64 },
    /// Retry with the same request id.
    Unknown { reason: String },
}

/// How a [`SystemCall`] ended.
#[derive(Debug, Clone, PartialEq)]
pub enum SystemResult {
    Done { index: u64 },
    Refused(Refusal),
    NotApplied { reason: String, retry_after_ms: u64 },
    Unknown { reason: String },
}

/// Why nothing happened. `code` is what callers see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// No leader, or leadership ended before the command was proposed.
    NoLeader,
    /// The shard or the raft thread is full.
    Overloaded,
    /// The entity has as many commands under way as it may.
    EntityBusy,
    /// The entity panicked; it is rebuilt from storage (rule 13).
    EntityFailed,
    /// The entity was rebuilt again and again while the command waited.
    EntityRebuilding,
    /// The clock stepped and no majority of members agrees (rule 7).
    ClockStep,
    /// Replicated time is behind the clocks, as after a long stop; a time commit is on its way (rule 7).
    TimeBehind,
    /// The entity a message would go to has too many waiting (rule 4).
    TargetBacklog,
    /// The caller's deadline passed while the command waited for its turn.
    DeadlinePassed,
    /// The node is going down or closed.
    Closed,
    /// A disk fills up: nothing new is begun, or nothing is written at all (rule 10).
    DiskFull,
    /// The leader is about to go down for want of power: nothing new is begun on it.
    PowerFailing,
}

impl Cause {
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoLeader => "NO_LEADER",
            Self::Overloaded => "OVERLOADED",
            Self::EntityBusy => "ENTITY_BUSY",
            Self::EntityFailed => "ENTITY_FAILED",
            Self::EntityRebuilding => "ENTITY_REBUILDING",
            Self::ClockStep => "CLOCK_STEP",
            Self::TimeBehind => "CLUSTER_TIME_BEHIND",
            Self::TargetBacklog => "TARGET_BACKLOG",
            Self::DeadlinePassed => "DEADLINE_PASSED",
            Self::Closed => "NODE_CLOSED",
            Self::DiskFull => "DISK_FULL",
            Self::PowerFailing => "POWER_FAILING",
        }
    }

    /// True for a bound that was reached (RESOURCE_EXHAUSTED rather than UNAVAILABLE, design §8).
    pub const fn is_exhaustion(self) -> bool {
        matches!(self, Self::Overloaded | Self::EntityBusy | Self::TargetBacklog | Self::DiskFull)
    }

    /// When a retry is worth its while.
    pub const fn retry_after_ms(self) -> u64 {
        match self {
            Self::NoLeader | Self::TimeBehind => 200,
            Self::Overloaded => 100,
            Self::EntityBusy | Self::EntityRebuilding => 50,
            Self::EntityFailed => 1_000,
            Self::ClockStep | Self::TargetBacklog | Self::Closed | Self::PowerFailing => 1_000,
            Self::DeadlinePassed => 100,
            Self::DiskFull => 2_000,
        }
    }

    /// True for the codes of [`Cause::is_exhaustion`], by code.
    pub fn code_is_exhaustion(code: &str) -> bool {
        [Self::Overloaded, Self::EntityBusy, Self::TargetBacklog, Self::DiskFull]
            .iter()
            .any(|cause| cause.code() == code)
    }
}

/// How a piece of work ended inside the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Done {
        /// A reply or a remembered refusal; absent when nobody asked (messages, timers).
        reply: Option<Record>,
        index: u64,
    },
    Refused(Refusal),
    NotApplied(Cause),
    /// May or may not take effect; the text says why nobody knows.
    Unknown(String),
    /// The entity is quarantined, for this reason.
    Quarantined(String),
    /// The message was consumed or the timer fired or replaced before.
    Gone,
}

/// The longest a caller's text can usefully be shown back.
pub(crate) fn refusal(class: RefusalClass, reason: &str, ru: &str, en: &str) -> Refusal {
    Refusal { class, reason: reason.into(), text_ru: ru.into(), text_en: en.into(), details: BTreeMap::new() }
}

pub(crate) fn with_detail(mut refusal: Refusal, key: &str, value: impl Into<String>) -> Refusal {
    refusal.details.insert(key.into(), value.into());
    refusal
}

/// The refusal of what no commit can hold.
pub(crate) fn too_large() -> Refusal {
    with_detail(
        refusal(
            RefusalClass::InvalidArgument,
            "COMMIT_TOO_LARGE",
            "Изменение слишком велико для одной записи",
            "The change is larger than one commit may be",
        ),
        "limit_bytes",
        COMMIT_BYTES_MAX.to_string(),
    )
}

/// Reason codes this crate refuses with, with their meaning, for `docs/reasons.md`.
pub const REASONS: &[(&str, &str)] = &[
    ("REQUEST_ID_REUSED", "the request id was used before with another method or body"),
    ("REQUEST_ID_MALFORMED", "the request id is not a UUID of version 7"),
    ("REQUEST_ID_AHEAD", "the request id lies more than 5 minutes ahead of the cluster's time"),
    ("CALLER_NAME_TOO_LONG", "the name of the principal or of the workstation is longer than 256 bytes"),
    ("ENTITY_ID_MALFORMED", "the id of the entity has characters or a length an id cannot have"),
    ("COMMAND_KIND_MISMATCH", "the command is for another kind of entity than the one it was sent to"),
    ("COMMIT_TOO_LARGE", "the change would be larger than one commit may be (256 KiB)"),
    ("MESSAGE_TARGET_MALFORMED", "the change would send a message to something that cannot be an entity"),
    ("MESSAGE_HOPS_EXCEEDED", "too many messages led to this one"),
    ("MESSAGE_UNREADABLE", "a message between entities cannot be read by this version"),
    ("ENTITY_QUARANTINED", "the entity failed repeatedly and is closed until an administrator releases it"),
    ("ENTITY_NOT_QUARANTINED", "the entity is not quarantined: there is nothing to release"),
    (
        "FEATURE_LEVEL_UNSUPPORTED",
        "a node's program is not known to understand this feature level: install the newer program on each first. \
         Where the programs do and the cluster's level is behind, it is FEATURE_LEVEL_LOW",
    ),
    (
        "DISK_FULL",
        "disks fill up: new work is not begun, or nothing is written, until there is room; retry later (RESOURCE_EXHAUSTED)",
    ),
    ("SYSTEM_OPERATION_DENIED", "only an administrator may do this"),
];

pub(crate) fn quarantined(reason: &str) -> Refusal {
    with_detail(
        refusal(
            RefusalClass::FailedPrecondition,
            "ENTITY_QUARANTINED",
            "Объект закрыт после повторных сбоев до вмешательства администратора",
            "The entity failed repeatedly and is closed until an administrator releases it",
        ),
        "quarantine",
        reason,
    )
}

/// The id was used for something else.
pub fn reused() -> Refusal {
    refusal(
        RefusalClass::InvalidArgument,
        "REQUEST_ID_REUSED",
        "Идентификатор запроса уже использован с другим содержанием",
        "The request id was used before with another content",
    )
}
