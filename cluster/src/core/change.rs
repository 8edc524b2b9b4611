//! Changing the members: one change at a time, proposed by the leader, in force once apply has reached its entry
//! (design §5, rules 11 and 14).
//!
//! Invariants
//! - A change is proposed only while none is unapplied: raft-rs would make an empty entry of it without a word (trap 7).
//!   So the table here is the one the change will be judged by when it is applied, and it is not refused then.
//! - What is proposed leaves a quorum of voters that were heard lately and lack few entries (`Timing::caught_up`).
//! - `table` and raft's own configuration change together, in [`Driver::configure`].
//! - A node applies its own removal, and closes, only once others are known to know that it is committed: a leader, if it
//!   was told by a majority of those who stay, anybody else, if it was told by a leader. Until then its vote may be what
//!   the others need to find it out (thesis 4.2.2 has who is taken out go on with elections for a like reason).

use super::{driver::Driver, event::Effects};
use crate::{
    api::NodeId,
    settings::MEMBERS_LEVEL,
    status::{ChangeError, Changed, MemberPlan, QuorumPlan},
};
use bytes::Bytes;
use okno_storage::{
    members::{MemberChange, MemberRefusal, MemberRole, Members as MemberTable},
    planted::{self, Mutant},
};
use prost_raft::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use uuid::Uuid;

/// A change whose outcome is not known by then is answered so.
pub const CHANGE_WITHIN_MS: u64 = 10_000;

/// A leader that is younger, and has no answer yet from a member that is heard, does not know how far that one is.
const ANSWERS_WITHIN_MS: u64 = 2_000;

/// What the shell knows of other nodes, told to the driver whenever it has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Replicated feature level (rule 9).
    pub level: u32,
    /// Highest level each node's program knows, of those that said hello.
    pub levels: BTreeMap<NodeId, u32>,
    /// Members heard within 2 s.
    pub heard: BTreeSet<NodeId>,
    /// Nodes that may speak: they shook hands, and are not removed.
    pub admitted: BTreeSet<NodeId>,
    /// Nodes that may not, members or not: they speak for data that are gone.
    pub barred: BTreeSet<NodeId>,
    /// Incarnations, as pinned here.
    pub incarnations: BTreeMap<NodeId, Uuid>,
}

/// A change on its way.
#[derive(Debug)]
pub struct Changing {
    /// `None`: nobody asked, the leader promotes a learner by itself.
    ticket: Option<u64>,
    plan: MemberPlan,
    index: u64,
    term: u64,
    deadline_ms: u64,
}

/// A configuration entry that apply has reached.
#[derive(Debug, Clone)]
pub struct Reaching {
    pub index: u64,
    pub term: u64,
    pub change: ConfChangeV2,
    /// The table after it.
    pub table: Arc<MemberTable>,
}

/// What a configuration entry led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    pub index: u64,
    /// Raft's encoded ConfState.
    pub conf_state: Bytes,
    pub table: Arc<MemberTable>,
}

/// The change of a configuration entry's data: raft's part and ours. Unknown bytes are an error (rule 9).
pub fn decode(data: &[u8]) -> Result<(ConfChangeV2, MemberChange), String> {
    // Raft's bytes carry no version; ours within them do.
    let change = ConfChangeV2::decode(data).map_err(|e| e.to_string())?;
    let ours = MemberChange::decode(&change.context).map_err(|e| e.to_string())?;
    if change != conf_change(&ours)? {
        return Err("raft's part of a change of members is not what ours says".into());
    }
    Ok((change, ours))
}

fn conf_change(change: &MemberChange) -> Result<ConfChangeV2, String> {
    let mut single = ConfChangeSingle { node_id: change.node_id(), ..ConfChangeSingle::default() };
    single.set_change_type(match change {
        MemberChange::AddLearner { .. } => ConfChangeType::AddLearnerNode,
        MemberChange::Promote { .. } => ConfChangeType::AddNode,
        MemberChange::Remove { .. } => ConfChangeType::RemoveNode,
    });
    let context = change.encode().map_err(|e| e.to_string())?.to_vec();
    Ok(ConfChangeV2 { changes: vec![single], context, ..ConfChangeV2::default() })
}

impl Driver {
    pub(super) fn change(&mut self, ticket: u64, change: &MemberChange, dry_run: bool, fx: &mut Effects) {
        let change = &self.named(change.clone());
        // What is queued goes first: who is caught up is judged by the log that the change will stand in.
        self.flush(fx);
        match self.plan(change) {
            Ok(plan) if dry_run => fx.changes.push((ticket, Ok(Changed { index: None, plan }))),
            Ok(plan) => self.propose_change(Some(ticket), change, plan, fx),
            Err(why) => fx.changes.push((ticket, Err(why))),
        }
    }

    /// Who is added is named with its incarnation, if it was met: then all members know it, also those that meet this id for
    /// the first time when its data are gone.
    fn named(&self, mut change: MemberChange) -> MemberChange {
        if let MemberChange::AddLearner { node_id, incarnation: incarnation @ None, .. } = &mut change {
            *incarnation = self.known.incarnations.get(node_id).copied();
        }
        change
    }

    /// What the change would lead to, or why it is refused.
    fn plan(&self, change: &MemberChange) -> Result<MemberPlan, ChangeError> {
        let other = self.leader().filter(|l| *l != self.id);
        let (_, first) = self.leading.ok_or(ChangeError::NotLeader { leader: other })?;
        if !self.is_founded() || self.applied() < first {
            return Err(ChangeError::NotReady);
        }
        if self.transferring() {
            return Err(ChangeError::Transferring);
        }
        if self.known.level < MEMBERS_LEVEL {
            return Err(ChangeError::LevelLow { level: self.known.level, needs: MEMBERS_LEVEL });
        }
        if self.is_changing() {
            return Err(ChangeError::InFlight);
        }
        let node = change.node_id();
        self.table.check(change).map_err(|why| match why {
            MemberRefusal::LastVoter(_) => {
                let before = self.quorum(&self.table);
                ChangeError::QuorumWouldBeLost(Box::new(MemberPlan { after: QuorumPlan::default(), before }))
            }
            why => ChangeError::Refused(why),
        })?;
        let after = self.table.with(change, 0).map_err(ChangeError::Refused)?;
        let plan = MemberPlan { before: self.quorum(&self.table), after: self.quorum(&after) };
        match change {
            MemberChange::AddLearner { .. } => return Ok(plan),
            MemberChange::Remove { .. } if node == self.id => return Err(ChangeError::Leads),
            MemberChange::Remove { .. }
                if self.table.get(node).is_some_and(|m| m.role == MemberRole::Learner) =>
            {
                return Ok(plan);
            }
            MemberChange::Remove { .. } => {}
            MemberChange::Promote { .. } => {
                let (level, needs) = (self.known.levels.get(&node).copied(), self.known.level);
                if level.is_none_or(|level| level < needs) {
                    return Err(ChangeError::LevelUnsupported { node, level, needs });
                }
                let behind = self.behind(node);
                if !self.is_able(node) && !planted::is(Mutant::PromoteTooEarly) {
                    return Err(self.unless_unknown(&[node], ChangeError::LearnerBehind { node, behind }));
                }
            }
        }
        if plan.after.able < plan.after.quorum && !planted::is(Mutant::PromoteTooEarly) {
            let voters = plan.after.voters.clone();
            return Err(self.unless_unknown(&voters, ChangeError::QuorumWouldBeLost(Box::new(plan))));
        }
        Ok(plan)
    }

    fn quorum(&self, table: &MemberTable) -> QuorumPlan {
        let voters: Vec<NodeId> = table.voters().collect();
        QuorumPlan {
            quorum: voters.len() / 2 + 1,
            able: voters.iter().filter(|id| self.is_able(**id)).count(),
            learners: table.learners().collect(),
            voters,
        }
    }

    /// Entries this member is known to lack.
    fn behind(&self, node: NodeId) -> u64 {
        let last = self.node.raft.raft_log.last_index();
        last - self.node.raft.prs().get(node).map_or(0, |p| p.matched.min(last))
    }

    /// Heard, and not asked long enough ago to have answered how far it is.
    fn is_unknown(&self, node: NodeId) -> bool {
        let answered = || self.node.raft.prs().get(node).is_some_and(|p| p.matched > 0);
        self.now_ms < self.led_since_ms + ANSWERS_WITHIN_MS && self.known.heard.contains(&node) && !answered()
    }

    /// The refusal, or that it is too early for one: how far one of these is may be heard in a moment.
    fn unless_unknown(&self, nodes: &[NodeId], why: ChangeError) -> ChangeError {
        if nodes.iter().any(|node| self.is_unknown(*node)) { ChangeError::NotReady } else { why }
    }

    /// Heard lately and caught up: it can carry a quorum at once.
    fn is_able(&self, node: NodeId) -> bool {
        node == self.id || self.known.heard.contains(&node) && self.behind(node) <= self.caught_up()
    }

    fn propose_change(
        &mut self,
        ticket: Option<u64>,
        change: &MemberChange,
        plan: MemberPlan,
        fx: &mut Effects,
    ) {
        let proposed = match conf_change(change) {
            Ok(change) => {
                let mut entry = Entry { data: change.encode_to_vec(), ..Entry::default() };
                entry.set_entry_type(EntryType::EntryConfChangeV2);
                self.append(vec![entry]).map_err(|_| ChangeError::Transferring)
            }
            // Only an address beyond every bound comes here, and the table refuses it before.
            Err(_) => Err(ChangeError::Refused(MemberRefusal::Address)),
        };
        match proposed {
            Ok(index) => {
                debug_assert!(self.node.raft.has_pending_conf(), "raft took it for a change of members");
                let (term, deadline_ms) = (self.term(), self.now_ms + CHANGE_WITHIN_MS);
                self.changing = Some(Changing { ticket, plan, index, term, deadline_ms });
            }
            Err(why) => fx.changes.extend(ticket.map(|ticket| (ticket, Err(why)))),
        }
        self.after_raft(fx);
    }

    /// With every tick: a learner that has caught up becomes a voter.
    pub(super) fn promote(&mut self, fx: &mut Effects) {
        if self.leading.is_none() || self.changing.is_some() {
            return;
        }
        let learners: Vec<NodeId> = self.table.learners().collect();
        if !learners.is_empty() {
            // As in `change`.
            self.flush(fx);
        }
        for node_id in learners {
            let change = MemberChange::Promote { node_id };
            if let Ok(plan) = self.plan(&change) {
                return self.propose_change(None, &change, plan, fx);
            }
        }
    }

    /// Apply has reached a configuration entry and waits: from here on raft counts by the new configuration.
    pub(super) fn configure(&mut self, entry: Reaching, fx: &mut Effects) {
        let Reaching { index, term, ref change, ref table } = entry;
        // A copy has taken the place of this entry, or is about to: raft counts by the copy's configuration, and apply, which
        // is told of the copy, waits for nothing any more.
        if index <= self.applied() || self.node.raft.raft_log.unstable_snapshot().is_some() {
            return;
        }
        if table.is_removed(self.id) && !self.others_know(index, table) {
            self.leaving = Some(entry);
            return;
        }
        match self.node.apply_conf_change(change) {
            Ok(conf_state) => {
                self.configured = (index, term);
                self.table = table.clone();
                let conf_state = conf_state.encode_to_vec().into();
                fx.configured = Some(Configured { index, conf_state, table: table.clone() });
            }
            // The table took it, raft does not: they have come apart.
            Err(error) => {
                let why = super::event::Quarantine {
                    reason: format!("entry {index} changes the members, and raft refuses it: {error}"),
                    remedy: crate::status::REMEDY_REBUILD.into(),
                };
                self.quarantine(why, fx);
            }
        }
    }

    /// Has somebody heard meanwhile that this node is out?
    pub(super) fn leave_if_known(&mut self, fx: &mut Effects) {
        if let Some(entry) = self.leaving.take() {
            self.configure(entry, fx);
        }
    }

    /// Those who stay can find out without this node that `index` is committed.
    fn others_know(&self, index: u64, table: &MemberTable) -> bool {
        if self.leading.is_none() {
            return self.told_commit >= index;
        }
        let progress = self.node.raft.prs();
        let knows = |id: &NodeId| progress.get(*id).is_some_and(|p| p.committed_index >= index);
        let (know, all) =
            table.voters().fold((0, 0), |(know, all), id| (know + usize::from(knows(&id)), all + 1));
        know > all / 2
    }

    /// Apply has come to `applied`: was it the change under way?
    pub(super) fn settle_change(&mut self, fx: &mut Effects) {
        let applied = self.applied();
        let Some(change) = self.changing.take_if(|c| c.index <= applied) else { return };
        let Some(ticket) = change.ticket else { return };
        let result = if self.configured == (change.index, change.term) {
            Ok(Changed { index: Some(change.index), plan: change.plan })
        } else if self.applied_by_snapshot(change.index) {
            Err(ChangeError::OutcomeUnknown)
        } else {
            Err(ChangeError::NotApplied)
        };
        fx.changes.push((ticket, result));
    }

    pub(super) fn expire_change(&mut self, fx: &mut Effects) {
        let log = &self.node.raft.raft_log;
        let cut_off = |c: &mut Changing| log.term(c.index).ok() != Some(c.term);
        if let Some(change) = self.changing.take_if(cut_off) {
            // Another leader's entries took its place here, and may end before it; another node may still hold it.
            fx.changes.extend(change.ticket.map(|ticket| (ticket, Err(ChangeError::OutcomeUnknown))));
            return;
        }
        let now = self.now_ms;
        // While it stands in the log it will be applied or replaced: it goes on, and nothing else is proposed before;
        // only who asked is told.
        let Some(change) = self.changing.as_mut().filter(|c| now >= c.deadline_ms) else { return };
        if let Some(ticket) = change.ticket.take() {
            fx.changes.push((ticket, Err(ChangeError::OutcomeUnknown)));
        }
    }

    pub(super) fn close_change(&mut self, fx: &mut Effects) {
        if let Some(ticket) = self.changing.take().and_then(|c| c.ticket) {
            fx.changes.push((ticket, Err(ChangeError::OutcomeUnknown)));
        }
    }

    /// Who belongs to the cluster, as far as this node has applied.
    pub fn table(&self) -> &MemberTable {
        &self.table
    }
}
