//! A piece of work for an entity, whoever it comes from.

use okno_domain::{
    entity::{EntityRef, Origin},
    intake::{self, Class},
    registry::{AnyCommand, Kind},
};
use okno_storage::commit::{EntityKey, EntityKeyError, Message, RequestRef, SystemOp, TimerKey};

/// What an entity is asked to do. Immutable, shared by the shard that waits for it and the actor that decides.
#[derive(Debug, Clone)]
pub enum Work {
    Call(CallWork),
    System(SystemWork),
    /// Delivered by the courier.
    Message(Message),
    /// Due according to the scanner.
    Timer(TimerKey),
}

#[derive(Debug, Clone)]
pub struct CallWork {
    pub entity: EntityKey,
    pub origin: Origin,
    pub request: RequestRef,
    pub command: AnyCommand,
    /// On the runtime's monotonic clock, milliseconds: work that waited longer is not begun.
    pub expires_ms: u64,
}

#[derive(Debug, Clone)]
pub struct SystemWork {
    pub entity: EntityKey,
    pub op: SystemOp,
    pub origin: Origin,
    /// Absent for what the cluster does by itself.
    pub request: Option<RequestRef>,
    pub expires_ms: u64,
}

impl Work {
    pub fn entity(&self) -> &EntityKey {
        match self {
            Self::Call(call) => &call.entity,
            Self::System(system) => &system.entity,
            Self::Message(message) => &message.key.target,
            Self::Timer(timer) => &timer.entity,
        }
    }

    pub fn request(&self) -> Option<&RequestRef> {
        match self {
            Self::Call(call) => Some(&call.request),
            Self::System(system) => system.request.as_ref(),
            Self::Message(_) | Self::Timer(_) => None,
        }
    }

    /// The monotonic time after which it is not begun any more.
    pub fn expires_ms(&self) -> Option<u64> {
        match self {
            Self::Call(call) => Some(call.expires_ms),
            Self::System(system) => Some(system.expires_ms),
            Self::Message(_) | Self::Timer(_) => None,
        }
    }

    /// What a caller's work does to the amount there is; `None` for what the cluster does by itself. What an
    /// administrator asks of the cluster is small and may be what helps.
    pub fn class(&self) -> Option<Class> {
        match self {
            Self::Call(call) => Some(intake::class(&call.command)),
            Self::System(system) => system.request.is_some().then_some(Class::Completion),
            Self::Message(_) | Self::Timer(_) => None,
        }
    }

    /// True for work that completes what was begun earlier and is admitted when new work no longer is (rule 10).
    pub fn is_completion(&self) -> bool {
        match self {
            Self::Message(message) => message.answers.is_some(),
            Self::System(system) => system.request.is_none(),
            Self::Call(_) | Self::Timer(_) => false,
        }
    }
}

/// The storage key of a domain entity.
pub fn entity_key(entity: &EntityRef) -> Result<EntityKey, EntityKeyError> {
    let mut text = String::with_capacity(entity.kind.name().len() + 1 + entity.id.len());
    text.push_str(entity.kind.name());
    text.push('/');
    text.push_str(&entity.id);
    EntityKey::parse(&text)
}

/// The domain entity of a storage key; `None` for `sys/…` and kinds this binary does not know.
pub fn entity_ref(key: &EntityKey) -> Option<EntityRef> {
    Some(EntityRef { kind: Kind::parse(key.kind())?, id: key.id().to_owned() })
}

/// Which shard owns an entity: FNV-1a, the same in every process so that logs of nodes can be compared.
pub fn shard_of(key: &EntityKey, shards: u16) -> u16 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in key.as_str().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // The high half is better mixed than the low one.
    ((hash >> 32) % u64::from(shards.max(1))) as u16
}
