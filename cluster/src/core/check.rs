//! What an inbound raft message must satisfy before raft-rs sees it: invalid input makes raft-rs panic (trap 8),
//! so what a correct peer never sends is dropped here, and what proves that data were lost quarantines.

use super::event::Quarantine;
use crate::{api::NodeId, settings::FRAME_RECEIVE_MAX};
use okno_storage::commit::COMMIT_BYTES_MAX;
use raft::eraftpb::{EntryType, Message, MessageType};

/// Longest context of a read or a vote.
const CONTEXT_BYTES_MAX: usize = 64;

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Step,
    Drop(&'static str),
    Quarantine(Quarantine),
}

/// What the check needs to know of this node.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub own: NodeId,
    pub term: u64,
    pub last_index: u64,
    pub leads: bool,
    /// The sender is a member, or shook hands and is not removed: this node may not know yet of those added last.
    pub admitted: bool,
    /// Apply is so far behind that nothing more is taken in (rule 11).
    pub backlog: bool,
}

pub fn check(from: NodeId, m: &Message, facts: Facts) -> Verdict {
    use Verdict::{Drop, Step};
    if m.from != from || m.to != facts.own || from == facts.own {
        return Drop("sender or receiver is not the link's");
    }
    if !facts.admitted {
        return Drop("sender is not a member");
    }
    let Some(kind) = MessageType::from_i32(m.msg_type) else {
        return Drop("unknown kind");
    };
    if m.request_snapshot != 0 || m.snapshot.as_ref().is_some_and(|s| !s.is_empty()) {
        return Drop("snapshots do not travel in messages");
    }
    if kind != MessageType::MsgAppend && m.entries.len() > 1 {
        return Drop("entries where none belong");
    }
    if m.context.len() > CONTEXT_BYTES_MAX {
        return Drop("context too long");
    }
    // The term is followed by at most one election a tick; far beyond it is no honest term, and adding to it
    // must not overflow.
    if m.term > u64::MAX / 2 || m.index > u64::MAX / 2 || m.commit > u64::MAX / 2 {
        return Drop("number out of range");
    }
    // raft-rs takes a message without a term for one of its own and skips its checks; only reads travel so.
    if m.term == 0 && kind != MessageType::MsgReadIndex {
        return Drop("without a term");
    }
    match kind {
        MessageType::MsgAppend => {
            if facts.backlog {
                return Drop("apply is behind");
            }
            let mut size = 0usize;
            for (entry, index) in m.entries.iter().zip(m.index + 1..) {
                if entry.index != index || entry.term > m.term || entry.term < m.log_term {
                    return Drop("entries are not contiguous");
                }
                if EntryType::from_i32(entry.entry_type).is_none() {
                    return Drop("entry of an unknown type");
                }
                if entry.data.len() > 2 * COMMIT_BYTES_MAX {
                    return Drop("entry too large");
                }
                size += entry.data.len();
            }
            if size > FRAME_RECEIVE_MAX {
                return Drop("entries too large");
            }
            Step
        }
        MessageType::MsgHeartbeat => {
            // A leader never tells a follower a commit beyond what the follower has confirmed: if our log is
            // shorter, it lost entries that were synced. raft-rs would panic.
            if m.term >= facts.term && m.commit > facts.last_index {
                return Verdict::Quarantine(Quarantine {
                    reason: format!(
                        "the leader (node {from}) knows entry {} to be on this node's disk, but its log ends at {}",
                        m.commit, facts.last_index
                    ),
                    remedy: "this node's log lost synced entries: remove its data and add it as a new member"
                        .into(),
                });
            }
            Step
        }
        MessageType::MsgAppendResponse => {
            if facts.leads && m.term == facts.term && !m.reject && m.index > facts.last_index {
                return Drop("confirms entries that were never sent");
            }
            Step
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => {
            if m.entries.len() != 1
                || m.entries[0].data.is_empty()
                || m.entries[0].data.len() > CONTEXT_BYTES_MAX
            {
                return Drop("read without a context");
            }
            Step
        }
        MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow => Step,
        // Proposals are never forwarded by raft (trap 3), transfers are asked of the leader by its own operator,
        // snapshots travel as files; the rest are local.
        MessageType::MsgPropose
        | MessageType::MsgTransferLeader
        | MessageType::MsgSnapshot
        | MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => Drop("kind does not travel"),
    }
}
