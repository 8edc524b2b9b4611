//! Who belongs to the cluster: the replicated table of members, and what changes it (rule 14).
//!
//! A change of members is a configuration entry of raft whose context is a framed [`MemberChange`]. When apply reaches
//! it, [`crate::state::StateStore::set_configuration`] writes table and raft's configuration state in one batch. The
//! table is replicated and in the digest; without a row of its own it is what the founding commit says.
//!
//! Invariants of [`Members`]: `current` and `removed` ascend by node id and share none; an id once removed stays so for
//! ever.

use crate::{
    codec::{self, corrupt, kind},
    commit::MemberRecord,
    error::StorageError,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const VERSION: u16 = 1;
/// Members a cluster may have, learners included: raft's messages grow with each, and the table is one row.
pub const MEMBERS_MAX: usize = 31;
/// Length of a peer address, bytes: a host name of 253, a colon and a port.
pub const PEER_ADDRESS_BYTES_MAX: usize = 260;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    Voter,
    /// Receives the log and does not vote; promoted when it has caught up.
    Learner,
}

/// One member as of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberEntry {
    pub node_id: u64,
    pub peer_address: String,
    /// The founders' by the founding commit; of those that joined later only if it was known when they were added: each
    /// member pins it at the first handshake.
    pub incarnation: Option<Uuid>,
    pub role: MemberRole,
    /// Log index of the entry that added it; 0 for a founder.
    pub added_index: u64,
}

/// The context of a configuration entry: one change at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    AddLearner { node_id: u64, peer_address: String, incarnation: Option<Uuid> },
    Promote { node_id: u64 },
    Remove { node_id: u64 },
}

/// Why a change cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemberRefusal {
    #[error("node ids begin at 1")]
    IdZero,
    #[error("node id {0} was a member before: an id dies with its data, take a new one")]
    IdUsed(u64),
    #[error("node {0} is a member already")]
    Already(u64),
    #[error("node {0} is not a member")]
    Unknown(u64),
    #[error("node {0} is a voter already")]
    Voter(u64),
    #[error("node {0} is the last voter")]
    LastVoter(u64),
    #[error("the address is another member's, node {0}")]
    AddressTaken(u64),
    #[error("the address is empty or longer than {PEER_ADDRESS_BYTES_MAX} bytes")]
    Address,
    #[error("there are {MEMBERS_MAX} members, as many as can be")]
    Full,
}

/// The table of members.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    pub current: Vec<MemberEntry>,
    /// Ids that were members once and never will be again.
    pub removed: Vec<u64>,
    /// Log index of the last change; 0 as founded.
    pub changed_index: u64,
}

impl MemberChange {
    pub fn node_id(&self) -> u64 {
        match self {
            Self::AddLearner { node_id, .. } | Self::Promote { node_id } | Self::Remove { node_id } => {
                *node_id
            }
        }
    }

    /// The context of the configuration entry. A new encoding of level 2: propose it from that level on (rule 9).
    pub fn encode(&self) -> Result<Bytes, StorageError> {
        let v1 = match self {
            Self::AddLearner { node_id, peer_address, incarnation } => {
                ChangeV1::AddLearner(*node_id, peer_address, incarnation.map(Uuid::into_bytes))
            }
            Self::Promote { node_id } => ChangeV1::Promote(*node_id),
            Self::Remove { node_id } => ChangeV1::Remove(*node_id),
        };
        codec::frame_own(kind::MEMBER_CHANGE, VERSION, &v1).map(Bytes::from)
    }

    pub fn decode(context: &[u8]) -> Result<Self, StorageError> {
        const WHAT: &str = "member change";
        let (_version, payload) = codec::unframe_own(WHAT, context, kind::MEMBER_CHANGE, VERSION)?;
        Ok(match codec::decode(WHAT, payload)? {
            ChangeV1::AddLearner(node_id, address, incarnation) => Self::AddLearner {
                node_id,
                peer_address: address.to_owned(),
                incarnation: incarnation.map(Uuid::from_bytes),
            },
            ChangeV1::Promote(node_id) => Self::Promote { node_id },
            ChangeV1::Remove(node_id) => Self::Remove { node_id },
        })
    }
}

impl Members {
    /// As the founding commit says: all of them voters.
    pub fn founded(members: &[MemberRecord]) -> Self {
        let mut current: Vec<MemberEntry> = members
            .iter()
            .map(|m| MemberEntry {
                node_id: m.node_id,
                peer_address: m.peer_address.clone(),
                incarnation: Some(m.incarnation),
                role: MemberRole::Voter,
                added_index: 0,
            })
            .collect();
        current.sort_by_key(|m| m.node_id);
        Self { current, removed: Vec::new(), changed_index: 0 }
    }

    pub fn get(&self, node_id: u64) -> Option<&MemberEntry> {
        self.current.binary_search_by_key(&node_id, |m| m.node_id).ok().map(|at| &self.current[at])
    }

    pub fn is_removed(&self, node_id: u64) -> bool {
        self.removed.binary_search(&node_id).is_ok()
    }

    pub fn voters(&self) -> impl Iterator<Item = u64> + '_ {
        self.current.iter().filter(|m| m.role == MemberRole::Voter).map(|m| m.node_id)
    }

    pub fn learners(&self) -> impl Iterator<Item = u64> + '_ {
        self.current.iter().filter(|m| m.role == MemberRole::Learner).map(|m| m.node_id)
    }

    /// May this change follow? Depends on the table alone, so that it is judged alike before it is proposed and when it
    /// is applied. Whether a quorum remains that is alive is for the leader to say.
    pub fn check(&self, change: &MemberChange) -> Result<(), MemberRefusal> {
        let node_id = change.node_id();
        if self.is_removed(node_id) {
            return Err(MemberRefusal::IdUsed(node_id));
        }
        let member = self.get(node_id);
        match (change, member) {
            (MemberChange::AddLearner { .. }, _) if node_id == 0 => Err(MemberRefusal::IdZero),
            (MemberChange::AddLearner { .. }, Some(_)) => Err(MemberRefusal::Already(node_id)),
            (MemberChange::AddLearner { peer_address, .. }, None) => {
                if peer_address.is_empty() || peer_address.len() > PEER_ADDRESS_BYTES_MAX {
                    return Err(MemberRefusal::Address);
                }
                if let Some(other) = self.current.iter().find(|m| m.peer_address == *peer_address) {
                    return Err(MemberRefusal::AddressTaken(other.node_id));
                }
                if self.current.len() >= MEMBERS_MAX {
                    return Err(MemberRefusal::Full);
                }
                Ok(())
            }
            (_, None) => Err(MemberRefusal::Unknown(node_id)),
            (MemberChange::Promote { .. }, Some(m)) if m.role == MemberRole::Voter => {
                Err(MemberRefusal::Voter(node_id))
            }
            (MemberChange::Remove { .. }, Some(m))
                if m.role == MemberRole::Voter && self.voters().count() == 1 =>
            {
                Err(MemberRefusal::LastVoter(node_id))
            }
            (MemberChange::Promote { .. } | MemberChange::Remove { .. }, Some(_)) => Ok(()),
        }
    }

    /// The table after the change, which stands at `index` in the log.
    pub fn with(&self, change: &MemberChange, index: u64) -> Result<Self, MemberRefusal> {
        self.check(change)?;
        let mut next = Self { changed_index: index, ..self.clone() };
        match change {
            MemberChange::AddLearner { node_id, peer_address, incarnation } => {
                next.current.push(MemberEntry {
                    node_id: *node_id,
                    peer_address: peer_address.clone(),
                    incarnation: *incarnation,
                    role: MemberRole::Learner,
                    added_index: index,
                })
            }
            MemberChange::Promote { node_id } => {
                for member in next.current.iter_mut().filter(|m| m.node_id == *node_id) {
                    member.role = MemberRole::Voter;
                }
            }
            MemberChange::Remove { node_id } => {
                next.current.retain(|m| m.node_id != *node_id);
                next.removed.push(*node_id);
            }
        }
        next.current.sort_by_key(|m| m.node_id);
        next.removed.sort_unstable();
        Ok(next)
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, StorageError> {
        let current = self
            .current
            .iter()
            .map(|m| MemberV1 {
                node_id: m.node_id,
                peer_address: &m.peer_address,
                incarnation: m.incarnation.map(Uuid::into_bytes),
                learner: m.role == MemberRole::Learner,
                added_index: m.added_index,
            })
            .collect();
        let v1 = MembersV1 { current, removed: self.removed.clone(), changed_index: self.changed_index };
        codec::frame_own(kind::MEMBERS, VERSION, &v1)
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, StorageError> {
        const WHAT: &str = "members";
        let (_version, payload) = codec::unframe_own(WHAT, row, kind::MEMBERS, VERSION)?;
        let v1: MembersV1<'_> = codec::decode(WHAT, payload)?;
        let ascending = v1.current.windows(2).all(|w| w[0].node_id < w[1].node_id)
            && v1.removed.windows(2).all(|w| w[0] < w[1]);
        if !ascending {
            return Err(corrupt(WHAT, "node ids do not ascend"));
        }
        let current = v1
            .current
            .iter()
            .map(|m| MemberEntry {
                node_id: m.node_id,
                peer_address: m.peer_address.to_owned(),
                incarnation: m.incarnation.map(Uuid::from_bytes),
                role: if m.learner { MemberRole::Learner } else { MemberRole::Voter },
                added_index: m.added_index,
            })
            .collect();
        Ok(Self { current, removed: v1.removed, changed_index: v1.changed_index })
    }
}

/// [`MemberChange`] as version 1 writes it. Frozen.
#[derive(Serialize, Deserialize)]
enum ChangeV1<'a> {
    AddLearner(u64, &'a str, Option<[u8; 16]>),
    Promote(u64),
    Remove(u64),
}

/// [`MemberEntry`] as version 1 writes it. Frozen.
#[derive(Serialize, Deserialize)]
struct MemberV1<'a> {
    node_id: u64,
    peer_address: &'a str,
    incarnation: Option<[u8; 16]>,
    learner: bool,
    added_index: u64,
}

/// [`Members`] as version 1 writes it. Frozen.
#[derive(Serialize, Deserialize)]
struct MembersV1<'a> {
    #[serde(borrow)]
    current: Vec<MemberV1<'a>>,
    removed: Vec<u64>,
    changed_index: u64,
}
