//! Handing leadership over, with a verified result: success means that the target was seen to lead.
//!
//! While a transfer is under way proposals are parked, at most for the time the settings say; then they are
//! refused as `Transferring`.

use super::{driver::Driver, event::Effects};
use crate::{api::NodeId, status::TransferError};

/// A transfer under way.
#[derive(Debug)]
pub struct Transfer {
    pub(super) ticket: u64,
    to: NodeId,
    deadline_ms: u64,
}

impl Driver {
    /// Raft takes no proposals now.
    pub(super) fn transferring(&self) -> bool {
        self.leading.is_some() && self.node.raft.lead_transferee.is_some()
    }

    pub(super) fn begin_transfer(&mut self, ticket: u64, to: Option<NodeId>, fx: &mut Effects) {
        match self.transfer_target(to) {
            Ok(to) => {
                let deadline_ms = self.now_ms + self.transfer_park_ms();
                self.transfer = Some(Transfer { ticket, to, deadline_ms });
                // What is queued goes first: it is parked otherwise for no reason.
                self.flush(fx);
                self.node.transfer_leader(to);
            }
            Err(why) => fx.transfers.push((ticket, Err(why))),
        }
    }

    fn transfer_target(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        if self.leading.is_none() {
            return Err(TransferError::NotLeader { leader: self.leader() });
        }
        if self.transfer.is_some() {
            return Err(TransferError::Busy);
        }
        if let Some(to) = to {
            let voter = to != self.id && self.table.voters().any(|id| id == to);
            return if voter { Ok(to) } else { Err(TransferError::BadTarget) };
        }
        // The member that lacks least, among those heard lately; the lowest id of equals. Raft forgets with every election
        // timeout who answered it: until the next answer it counts who was heard otherwise, if nobody else is left.
        let progress = self.node.raft.prs();
        self.table
            .voters()
            .filter(|id| *id != self.id)
            .filter_map(|id| progress.get(id).map(|p| (p.recent_active, p.matched, id)))
            .filter(|(answers, _, id)| *answers || self.known.heard.contains(id))
            .max_by_key(|(answers, matched, id)| (*answers, *matched, std::cmp::Reverse(*id)))
            .map(|(.., id)| id)
            .ok_or(TransferError::NoTarget)
    }

    pub(super) fn observe_transfer(&mut self, fx: &mut Effects) {
        let Some(transfer) = &self.transfer else { return };
        let result = match (self.leading, self.leader()) {
            // Raft gave up after an election timeout: leadership stays, parked proposals go on.
            (Some(_), _) if self.node.raft.lead_transferee.is_none() => Err(TransferError::TimedOut),
            (None, Some(leader)) if leader == transfer.to => Ok(leader),
            (None, Some(leader)) if leader != self.id => Err(TransferError::Elsewhere { leader }),
            _ => return,
        };
        fx.transfers.push((transfer.ticket, result));
        self.transfer = None;
    }

    pub(super) fn expire_transfer(&mut self, fx: &mut Effects) {
        let now = self.now_ms;
        let Some(transfer) = self.transfer.take_if(|t| now >= t.deadline_ms) else { return };
        if self.leading.is_some() {
            self.refuse_parked(fx);
            self.node.raft.abort_leader_transfer();
        }
        fx.transfers.push((transfer.ticket, Err(TransferError::TimedOut)));
    }
}
