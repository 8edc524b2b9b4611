//! The gateway without its network: what a call becomes, what travels between two gateways, when a call is tried again and
//! what the caller is told. Pure; the gateway and the simulator carry it out.

use crate::{
    call::{self, Answer, CallResult, Cause},
    codec::{self, CodecError, What},
    shard::{REQUEST_ID_EXPIRED, check_request_id},
    sys,
    work::{CallWork, SystemWork, Work, entity_key},
};
use bytes::Bytes;
use okno_domain::{
    entity::{Entity, EntityRef, Origin, Principal, Refusal, RefusalClass},
    registry::{AnyCommand, AnyReply, Kind, Registered},
    with_kind,
};
use okno_storage::commit::{EntityKey, PRINCIPAL_BYTES_MAX, Record, RequestKey, RequestRef, SystemOp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How long a call waits for a leader before it is answered `NO_LEADER`: longer than an election at the default timings
/// with a lost round, shorter than people's patience.
pub const LEADER_WAIT_MS: u64 = 4_000;
/// Pause before the same leader is asked again.
const PAUSE_MS: u64 = 20;
/// Longest pause between attempts.
const PAUSE_MAX_MS: u64 = 200;
/// The longest time a forwarded call may claim to have left.
const LEFT_MAX_MS: u64 = 600_000;

/// One call over as many attempts as are safe (rule 1): what is known not to have been applied is tried again with the same
/// attempt number; after an unknown outcome the next attempt has a larger one, and a later "not applied" stays unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    /// The number the next attempt carries.
    pub attempt: u32,
    unknown: Option<String>,
    leaderless_since: Option<u64>,
    pause_ms: u64,
}

/// What follows from an attempt's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The call ends so.
    End(Answer),
    /// Try again after this pause, or as soon as the role changes.
    Again { pause_ms: u64 },
}

impl Course {
    pub fn new(first_attempt: u32) -> Self {
        Self { attempt: first_attempt.max(1), unknown: None, leaderless_since: None, pause_ms: PAUSE_MS }
    }

    /// An attempt ended; `now` is monotonic, milliseconds.
    pub fn took(&mut self, answer: Answer, now: u64) -> Step {
        match answer {
            Answer::NotApplied(Cause::NoLeader) => {
                let since = *self.leaderless_since.get_or_insert(now);
                if now.saturating_sub(since) >= LEADER_WAIT_MS {
                    return Step::End(self.end(Answer::NotApplied(Cause::NoLeader)));
                }
            }
            Answer::NotApplied(Cause::EntityRebuilding | Cause::TimeBehind) => self.leaderless_since = None,
            // No later attempt can learn more.
            Answer::Unknown(reason) if reason == REQUEST_ID_EXPIRED => {
                return Step::End(Answer::Unknown(reason));
            }
            Answer::Unknown(reason) => {
                self.leaderless_since = None;
                // The next attempt may meet this one on its way (rule 2).
                self.attempt = self.attempt.saturating_add(1);
                self.unknown = Some(reason);
            }
            other => return Step::End(self.end(other)),
        }
        let pause_ms = self.pause_ms;
        self.pause_ms = (pause_ms * 2).min(PAUSE_MAX_MS);
        Step::Again { pause_ms }
    }

    /// The call's deadline has passed before another attempt began.
    pub fn expired(&self) -> Answer {
        self.end(Answer::NotApplied(Cause::DeadlinePassed))
    }

    fn end(&self, answer: Answer) -> Answer {
        match (&self.unknown, answer) {
            (Some(reason), Answer::NotApplied(_)) => Answer::Unknown(reason.clone()),
            (_, answer) => answer,
        }
    }
}

/// A call between two gateways, as sent.
#[derive(Serialize)]
struct WireOut<'a> {
    principal: &'a Principal,
    workstation: &'a str,
    request_id: Uuid,
    hash: &'a [u8; 32],
    attempt: u32,
    left_ms: u64,
    target: WireTarget<'a>,
}

#[derive(Serialize)]
enum WireTarget<'a> {
    Entity { key: &'a EntityKey, command: &'a AnyCommand },
    System { op: &'a SystemOp },
}

/// A call between two gateways, as received. Field for field what [`WireOut`] is.
#[derive(Deserialize)]
pub struct WireIn {
    principal: Principal,
    workstation: String,
    request_id: Uuid,
    hash: [u8; 32],
    pub attempt: u32,
    left_ms: u64,
    target: WireInTarget,
}

#[derive(Deserialize)]
enum WireInTarget {
    Entity { key: EntityKey, command: AnyCommand },
    System { op: SystemOp },
}

/// Encodes what one gateway sends to another. `None`: too large to carry, or nothing that is forwarded.
pub fn encode(work: &Work, attempt: u32, left_ms: u64) -> Option<Bytes> {
    let (origin, target) = match work {
        Work::Call(call) => (&call.origin, WireTarget::Entity { key: &call.entity, command: &call.command }),
        Work::System(system) => (&system.origin, WireTarget::System { op: &system.op }),
        Work::Message(_) | Work::Timer(_) => return None,
    };
    let request = work.request()?;
    codec::encode_wire(&WireOut {
        principal: &origin.principal,
        workstation: &origin.workstation,
        request_id: request.key.id,
        hash: &request.hash,
        attempt,
        left_ms,
        target,
    })
}

impl WireIn {
    pub fn decode(payload: &[u8]) -> Result<Self, CodecError> {
        codec::decode_wire(payload)
    }

    /// How long the sender waits.
    pub fn left_ms(&self) -> u64 {
        self.left_ms.min(LEFT_MAX_MS)
    }

    /// The work it asks for, to be begun by `expires_ms`.
    pub fn into_work(self, expires_ms: u64) -> Result<Work, Box<Refusal>> {
        let origin = Origin { principal: self.principal, workstation: self.workstation };
        let request = request(&origin, self.request_id, self.hash)?;
        Ok(match self.target {
            WireInTarget::Entity { key, command } => {
                Work::Call(CallWork { entity: key, origin, request, command, expires_ms })
            }
            WireInTarget::System { op } => {
                let entity = sys::key_of(&op);
                Work::System(SystemWork { entity, op, origin, request: Some(request), expires_ms })
            }
        })
    }
}

/// A caller's command as work.
pub fn call_work(
    origin: Origin,
    (request_id, hash): (Uuid, [u8; 32]),
    target: &EntityRef,
    command: AnyCommand,
    expires_ms: u64,
) -> Result<Work, Box<Refusal>> {
    let entity = entity_key(target).map_err(|_| {
        Box::new(call::with_detail(
            call::refusal(
                RefusalClass::InvalidArgument,
                "ENTITY_ID_MALFORMED",
                "Идентификатор объекта указан неверно",
                "The id of the entity is malformed",
            ),
            "id",
            target.id.chars().take(128).collect::<String>(),
        ))
    })?;
    let request = request(&origin, request_id, hash)?;
    Ok(Work::Call(CallWork { entity, origin, request, command, expires_ms }))
}

/// What a call too large to be carried is told.
pub fn too_large() -> Answer {
    Answer::Refused(call::too_large())
}

/// The request's name; checks what needs no state.
pub fn request(origin: &Origin, id: Uuid, hash: [u8; 32]) -> Result<RequestRef, Box<Refusal>> {
    check_request_id(id).map_err(Box::new)?;
    let principal = crate::cell::principal_text(origin);
    if principal.len() > PRINCIPAL_BYTES_MAX || origin.workstation.len() > PRINCIPAL_BYTES_MAX {
        return Err(Box::new(call::refusal(
            RefusalClass::InvalidArgument,
            "CALLER_NAME_TOO_LONG",
            "Имя вызывающего или рабочего места слишком длинное",
            "The name of the caller or of the workstation is too long",
        )));
    }
    Ok(RequestRef { key: RequestKey { id, principal }, hash })
}

/// `Some` if the remembered reply is a refusal.
pub fn refusal_in(record: &Record) -> Option<Result<Refusal, String>> {
    (record.tag.kind == What::Refusal.number())
        .then(|| codec::decode(What::Refusal, record).map_err(|error| format!("REPLY_UNREADABLE: {error}")))
}

/// What the caller is told.
pub fn result(kind: Kind, answer: Answer) -> CallResult {
    match answer {
        Answer::Done { reply: Some(record), index } => match refusal_in(&record) {
            Some(Ok(refusal)) => CallResult::Refused(refusal),
            Some(Err(reason)) => CallResult::Unknown { reason },
            None => match reply(kind, &record) {
                Ok(reply) => CallResult::Done { reply, index },
                Err(error) => CallResult::Unknown { reason: format!("REPLY_UNREADABLE: {error}") },
            },
        },
        Answer::Refused(refusal) => CallResult::Refused(refusal),
        Answer::Quarantined(reason) => CallResult::Refused(call::quarantined(&reason)),
        Answer::NotApplied(cause) => {
            CallResult::NotApplied { reason: cause.code().into(), retry_after_ms: cause.retry_after_ms() }
        }
        Answer::Unknown(reason) => CallResult::Unknown { reason },
        // A call has a reply and consumes nothing.
        Answer::Done { reply: None, .. } | Answer::Gone => {
            CallResult::Unknown { reason: "OUTCOME_LOST".into() }
        }
    }
}

fn reply(kind: Kind, record: &Record) -> Result<AnyReply, CodecError> {
    with_kind!(kind, E => {
        codec::decode::<<E as Entity>::Reply>(What::Reply(kind), record).map(<E as Registered>::reply_into)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_attempt_raises_the_number_and_colours_what_follows() {
        let mut course = Course::new(1);
        assert_eq!(course.took(Answer::NotApplied(Cause::NoLeader), 10), Step::Again { pause_ms: 20 });
        assert_eq!(course.attempt, 1, "what did not happen is asked again under the same number");
        assert_eq!(course.took(Answer::Unknown("LEADERSHIP_LOST".into()), 20), Step::Again { pause_ms: 40 });
        assert_eq!(course.attempt, 2);
        let end = course.took(Answer::NotApplied(Cause::Overloaded), 30);
        assert_eq!(end, Step::End(Answer::Unknown("LEADERSHIP_LOST".into())));
        assert_eq!(course.expired(), Answer::Unknown("LEADERSHIP_LOST".into()));
    }

    #[test]
    fn nobody_waits_for_a_leader_for_ever() {
        let mut course = Course::new(0);
        let no_leader = || Answer::NotApplied(Cause::NoLeader);
        assert!(matches!(course.took(no_leader(), 1_000), Step::Again { .. }));
        assert!(matches!(course.took(no_leader(), 4_999), Step::Again { .. }));
        assert_eq!(course.took(no_leader(), 5_000), Step::End(no_leader()));
        assert_eq!(course.took(Answer::Unknown(REQUEST_ID_EXPIRED.into()), 5_001), {
            Step::End(Answer::Unknown(REQUEST_ID_EXPIRED.into()))
        });
    }
}
