//! Cells of the cluster's own entities (`sys/…`): founding aside, everything that belongs to no case, queue or
//! directory — quarantine and release, dead letters, purges, markers, level, time.
//!
//! What people did or must be able to look up later has an event and so a place in the journal's history of its
//! entity; what only keeps the cluster going (time, purge, marker) has none.

use crate::{
    call::{refusal, with_detail},
    cell::{AnyCell, CellEnv, CellInput, CellOutput, principal_text},
    codec::{self, CodecError, What},
    work::{SystemWork, Work},
};
use okno_domain::entity::{Refusal, RefusalClass};
use okno_storage::{
    commit::{Body, Commit, CommitId, EntityKey, Origin as CommitOrigin, RememberedReply, SystemOp, Value},
    state::StoredEntity,
};
use serde::{Deserialize, Serialize};

/// State of a system entity: how much it has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysRoot {
    pub events: u64,
}

/// What the journal keeps of a system operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SysEvent {
    Quarantined { entity: String, reason: String },
    Released { entity: String },
    MessageBuried { source: String, target: String, reason: String },
    LevelRaised { level: u32 },
}

/// Name of the entity an operation belongs to.
pub fn entity_of(op: &SystemOp) -> &'static str {
    match op {
        SystemOp::Found { .. } => "sys/founding",
        SystemOp::Quarantine { .. } | SystemOp::Release { .. } => QUARANTINE_ENTITY,
        SystemOp::PurgeRequests { .. } => "sys/purge",
        SystemOp::BuryMessage { .. } => "sys/bury",
        SystemOp::Marker => "sys/marker",
        SystemOp::Level { .. } => "sys/level",
        SystemOp::Time => "sys/time",
    }
}

/// Whoever parks for a quarantined entity watches this one.
pub const QUARANTINE_ENTITY: &str = "sys/quarantine";

/// The storage key of [`entity_of`].
pub fn key_of(op: &SystemOp) -> EntityKey {
    EntityKey::parse(entity_of(op)).expect("names of system entities are well-formed")
}

fn event_of(op: &SystemOp) -> Option<SysEvent> {
    match op {
        SystemOp::Quarantine { entity, reason } => {
            Some(SysEvent::Quarantined { entity: entity.to_string(), reason: reason.clone() })
        }
        SystemOp::Release { entity } => Some(SysEvent::Released { entity: entity.to_string() }),
        SystemOp::BuryMessage { message, reason } => Some(SysEvent::MessageBuried {
            source: message.source.to_string(),
            target: message.target.to_string(),
            reason: reason.clone(),
        }),
        SystemOp::Level { level } => Some(SysEvent::LevelRaised { level: *level }),
        SystemOp::Found { .. } | SystemOp::PurgeRequests { .. } | SystemOp::Marker | SystemOp::Time => None,
    }
}

/// Who may ask for which operation from outside. The cluster itself (`node`) may ask for any but founding,
/// which the raft core proposes (rule 14).
fn authorise(work: &SystemWork) -> Result<(), Refusal> {
    let by_admin = matches!(work.op, SystemOp::Release { .. } | SystemOp::Marker | SystemOp::Level { .. });
    let allowed = match work.origin.principal.kind.as_str() {
        "node" => !matches!(work.op, SystemOp::Found { .. }),
        "admin" => by_admin,
        _ => false,
    };
    if allowed {
        return Ok(());
    }
    Err(with_detail(
        refusal(
            RefusalClass::PermissionDenied,
            "SYSTEM_OPERATION_DENIED",
            "Это действие разрешено только администратору",
            "Only an administrator may do this",
        ),
        "operation",
        entity_of(&work.op),
    ))
}

/// The cell of one system entity. Invariants as of [`crate::cell::Cell`].
pub struct SysCell {
    key: EntityKey,
    term: u64,
    root: SysRoot,
    head: CommitId,
    last_ms: i64,
    seq: u64,
}

impl SysCell {
    pub fn load(
        key: EntityKey,
        term: u64,
        stored: Option<&StoredEntity>,
        floor_ms: i64,
    ) -> Result<Self, CodecError> {
        let (root, head) = match stored {
            // The founding entity's root, if it has one, is the cluster's own and of no concern here.
            Some(stored) => (codec::decode(What::SystemRoot, &stored.root)?, stored.head),
            None => (SysRoot::default(), CommitId::NONE),
        };
        Ok(Self { key, term, root, head, last_ms: floor_ms, seq: 0 })
    }

    fn propose(&mut self, work: &SystemWork, stamp_ms: i64, env: &CellEnv) -> Option<CellOutput> {
        let time_ms = stamp_ms.max(self.last_ms);
        let id = CommitId { term: self.term, counter: env.counter.next() };
        let reply = match &work.request {
            Some(_) => Some(codec::encode(What::SystemReply, &())?),
            None => None,
        };
        let mut events = Vec::new();
        let mut root = None;
        if let Some(event) = event_of(&work.op) {
            events.push(codec::encode(What::SystemEvent, &event)?);
            let next = SysRoot { events: self.root.events + 1 };
            root =
                Some(Value { tag: What::SystemRoot.tag(), body: Body::Inline(codec::encode_body(&next)?) });
        }
        let moved = !events.is_empty();
        let commit = Commit {
            entity: self.key.clone(),
            term: self.term,
            id,
            base: self.head,
            time_ms,
            origin: Some(CommitOrigin {
                principal: principal_text(&work.origin),
                workstation: work.origin.workstation.clone(),
                request: work.request.clone(),
            }),
            events,
            root,
            parts: Vec::new(),
            rows: Vec::new(),
            sent: Vec::new(),
            consumed: Vec::new(),
            timers: Vec::new(),
            replies: work
                .request
                .iter()
                .zip(&reply)
                .map(|(request, reply)| RememberedReply { request: request.clone(), reply: reply.clone() })
                .collect(),
            system: Some(work.op.clone()),
        };
        let data = commit.encode().ok()?;
        if moved {
            self.root.events += 1;
            self.head = id;
        }
        self.last_ms = time_ms;
        self.seq += 1;
        Some(CellOutput::Proposed { seq: self.seq, data, reply })
    }
}

impl AnyCell for SysCell {
    fn handle(&mut self, input: &CellInput, env: &CellEnv) -> CellOutput {
        let Work::System(work) = &*input.work else {
            return CellOutput::Failed { reason: "a system entity takes system operations only".into() };
        };
        // Authorisation here reads nothing but the caller's identity, so a refusal may leave at once.
        if let Err(refusal) = authorise(work) {
            return CellOutput::Refused { refusal, decided_on: 0, at_once: true, spoiled: false };
        }
        self.propose(work, input.stamp_ms, env).unwrap_or_else(|| CellOutput::Failed {
            reason: "a system operation is larger than a commit".into(),
        })
    }
}
