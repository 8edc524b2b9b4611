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
    commit::{
        Body, Commit, CommitId, EntityKey, Origin as CommitOrigin, Record, RememberedReply, SystemOp, Value,
    },
    error::StorageError,
    level,
    state::{StateView, StoredEntity},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

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

/// How a node is supplied; one that is not named in a [`PowerNote`] is on mains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PowerState {
    OnBattery,
    /// The battery is low, or cannot be relied on: the node has left or is about to.
    Failing,
}

/// What the journal keeps of the whole cluster's power: written when it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerNote {
    /// Nodes that are not on mains; all others are.
    pub short: BTreeMap<u64, PowerState>,
    pub russian: String,
    pub english: String,
}

impl PowerNote {
    /// The operation that writes it. `None`: larger than any commit.
    pub fn op(&self) -> Option<SystemOp> {
        codec::encode(What::PowerNote, self).map(|record| SystemOp::Note { record })
    }
}

/// The entity that notes on power belong to. Notes on anything else would have one of their own.
pub const POWER_ENTITY: &str = "sys/power";

/// Entities whose events the journal keeps for people.
pub const WITH_EVENTS: [&str; 4] = [QUARANTINE_ENTITY, BURY_ENTITY, LEVEL_ENTITY, POWER_ENTITY];
const BURY_ENTITY: &str = "sys/bury";
const LEVEL_ENTITY: &str = "sys/level";

const FOUNDING: &str = "sys/founding";

/// Name of the entity an operation belongs to.
pub fn entity_of(op: &SystemOp) -> &'static str {
    match op {
        SystemOp::Found { .. } => FOUNDING,
        SystemOp::Quarantine { .. } | SystemOp::Release { .. } => QUARANTINE_ENTITY,
        SystemOp::PurgeRequests { .. } => "sys/purge",
        SystemOp::BuryMessage { .. } => BURY_ENTITY,
        SystemOp::Marker => "sys/marker",
        SystemOp::Level { .. } => LEVEL_ENTITY,
        SystemOp::Time => "sys/time",
        SystemOp::Note { .. } => POWER_ENTITY,
    }
}

/// Replicated time of the last marker, or of the founding if there was none; `None`: not founded.
pub fn marked_ms(view: &StateView) -> Result<Option<i64>, StorageError> {
    for name in [entity_of(&SystemOp::Marker), FOUNDING] {
        let key = EntityKey::parse(name).expect("names of system entities are well-formed");
        if let Some(last) = view.last_of(&key)? {
            return Ok(Some(last.time_ms));
        }
    }
    Ok(None)
}

/// Whoever parks for a quarantined entity watches this one.
pub const QUARANTINE_ENTITY: &str = "sys/quarantine";

/// The storage key of [`entity_of`].
pub fn key_of(op: &SystemOp) -> EntityKey {
    EntityKey::parse(entity_of(op)).expect("names of system entities are well-formed")
}

/// The journal's record of an operation, if it has one. `None`: it is larger than a commit.
fn event_of(op: &SystemOp) -> Option<Option<Record>> {
    let event = match op {
        SystemOp::Quarantine { entity, reason } => {
            SysEvent::Quarantined { entity: entity.to_string(), reason: reason.clone() }
        }
        SystemOp::Release { entity } => SysEvent::Released { entity: entity.to_string() },
        SystemOp::BuryMessage { message, reason } => SysEvent::MessageBuried {
            source: message.source.to_string(),
            target: message.target.to_string(),
            reason: reason.clone(),
        },
        SystemOp::Level { level } => SysEvent::LevelRaised { level: *level },
        SystemOp::Note { record } => return Some(Some(record.clone())),
        SystemOp::Found { .. } | SystemOp::PurgeRequests { .. } | SystemOp::Marker | SystemOp::Time => {
            return Some(None);
        }
    };
    codec::encode(What::SystemEvent, &event).map(Some)
}

/// A journal record of the cluster's own, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnEvent {
    System(SysEvent),
    Power(PowerNote),
}

impl OwnEvent {
    pub fn decode(record: &Record) -> Result<Self, CodecError> {
        if record.tag.kind == What::PowerNote.number() {
            codec::decode(What::PowerNote, record).map(Self::Power)
        } else {
            codec::decode(What::SystemEvent, record).map(Self::System)
        }
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

/// Quarantined entities that a cell remembers, the same number as apply's cache: each waits for an operator, so beyond it
/// something else is wrong, and a release is then carried out without asking whether there is anything to release.
pub const QUARANTINES_MAX: usize = 65_536;

/// The cell of one system entity. Invariants as of [`crate::cell::Cell`]; of the one that keeps quarantines
/// `quarantines` is, like a cell's state, what is applied and what this activation proposed.
pub struct SysCell {
    key: EntityKey,
    term: u64,
    root: SysRoot,
    head: CommitId,
    last_ms: i64,
    seq: u64,
    /// `None`: too many to be known, or not this entity's business.
    quarantines: Option<BTreeSet<EntityKey>>,
}

/// What a system entity's cell starts from.
pub struct SysStart {
    pub key: EntityKey,
    pub term: u64,
    pub stored: Option<StoredEntity>,
    pub floor_ms: i64,
    /// Of the entity that keeps quarantines: those applied, unless they are too many.
    pub quarantines: Option<BTreeSet<EntityKey>>,
}

impl SysStart {
    pub fn read(view: &StateView, key: EntityKey, term: u64) -> Result<Self, StorageError> {
        let mut quarantines = None;
        if key.as_str() == QUARANTINE_ENTITY {
            let known = view.quarantines(QUARANTINES_MAX + 1)?;
            if known.len() <= QUARANTINES_MAX {
                quarantines = Some(known.into_iter().map(|(entity, _)| entity).collect());
            }
        }
        let (stored, floor_ms) = (view.entity(&key)?, view.mark()?.time_ms);
        Ok(Self { key, term, stored, floor_ms, quarantines })
    }
}

impl SysCell {
    pub fn load(start: SysStart) -> Result<Self, CodecError> {
        let SysStart { key, term, stored, floor_ms, quarantines } = start;
        let (root, head) = match stored {
            // The founding entity's root, if it has one, is the cluster's own and of no concern here.
            Some(stored) => (codec::decode(What::SystemRoot, &stored.root)?, stored.head),
            None => (SysRoot::default(), CommitId::NONE),
        };
        Ok(Self { key, term, root, head, last_ms: floor_ms, seq: 0, quarantines })
    }

    /// Why the operation cannot be done as things stand.
    fn hindrance(&self, op: &SystemOp, at_level: u32) -> Option<Refusal> {
        match op {
            SystemOp::Note { .. } if at_level < level::NOTES => {
                Some(okno_domain::level::low(at_level, level::NOTES))
            }
            SystemOp::Release { entity } => {
                let known = self.quarantines.as_ref()?;
                (!known.contains(entity)).then(|| not_quarantined(entity))
            }
            SystemOp::Level { level } if *level > level::known() => {
                Some(level_unsupported(*level, "the leader"))
            }
            _ => None,
        }
    }

    /// The commit of an operation, or, without one, of nothing but a reply to be remembered.
    fn propose(
        &mut self,
        work: &SystemWork,
        op: Option<&SystemOp>,
        reply: Option<Record>,
        stamp_ms: i64,
        env: &CellEnv,
    ) -> Option<CellOutput> {
        let time_ms = stamp_ms.max(self.last_ms);
        let id = CommitId { term: self.term, counter: env.counter.next() };
        let mut events = Vec::new();
        let mut root = None;
        if let Some(op) = op
            && let Some(event) = event_of(op)?
        {
            events.push(event);
            let next = SysRoot { events: self.root.events + 1 };
            root =
                Some(Value { tag: What::SystemRoot.tag(), body: Body::Inline(codec::encode_body(&next)?) });
        }
        let moved = !events.is_empty();
        let commit = Commit {
            origin: Some(CommitOrigin {
                principal: principal_text(&work.origin),
                workstation: work.origin.workstation.clone(),
                request: work.request.clone(),
            }),
            events,
            root,
            replies: work
                .request
                .iter()
                .zip(&reply)
                .map(|(request, reply)| RememberedReply { request: request.clone(), reply: reply.clone() })
                .collect(),
            system: op.cloned(),
            ..Commit::bare(self.key.clone(), id, self.head, time_ms)
        };
        let data = commit.encode_at(env.worlds.level()).ok()?;
        if moved {
            self.root.events += 1;
            self.head = id;
        }
        match (op, &mut self.quarantines) {
            (Some(SystemOp::Quarantine { entity, .. }), Some(known)) => {
                known.insert(entity.clone());
            }
            (Some(SystemOp::Release { entity }), Some(known)) => {
                known.remove(entity);
            }
            _ => {}
        }
        self.last_ms = time_ms;
        self.seq += 1;
        Some(CellOutput::Proposed { seq: self.seq, data, reply })
    }

    /// What one operation comes to. `None`: it does not fit a commit.
    fn step(&mut self, work: &SystemWork, input: &CellInput, env: &CellEnv) -> Option<CellOutput> {
        if let Some(refusal) = self.hindrance(&work.op, env.worlds.level()) {
            if !input.commit_refusal {
                return Some(CellOutput::Refused {
                    refusal,
                    decided_on: self.seq,
                    at_once: false,
                    spoiled: false,
                });
            }
            let reply = codec::encode(What::Refusal, &refusal)?;
            return self.propose(work, None, Some(reply), input.stamp_ms, env);
        }
        let reply = match &work.request {
            Some(_) => Some(codec::encode(What::SystemReply, &())?),
            None => None,
        };
        self.propose(work, Some(&work.op), reply, input.stamp_ms, env)
    }
}

fn not_quarantined(entity: &EntityKey) -> Refusal {
    with_detail(
        refusal(
            RefusalClass::FailedPrecondition,
            "ENTITY_NOT_QUARANTINED",
            "Объект не закрыт: открывать нечего",
            "The entity is not quarantined: there is nothing to release",
        ),
        "entity",
        entity.to_string(),
    )
}

/// Somebody is not known to understand a feature level; `who` names them.
pub fn level_unsupported(level: u32, who: &str) -> Refusal {
    let refusal = refusal(
        RefusalClass::FailedPrecondition,
        "FEATURE_LEVEL_UNSUPPORTED",
        &format!("Уровень {level} знают не все узлы: сначала обновите программу на каждом ({who})"),
        &format!(
            "Not every member is known to understand level {level}: install the newer program first on {who}"
        ),
    );
    with_detail(with_detail(refusal, "level", level.to_string()), "members", who)
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
        self.step(work, input, env).unwrap_or_else(|| CellOutput::Failed {
            reason: "a system operation is larger than a commit".into(),
        })
    }
}
