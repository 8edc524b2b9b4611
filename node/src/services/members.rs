//! Changing the members, as `okno.v1.ClusterService` offers it: one step at a time, by the leader, answered when it is in
//! force. What is so already succeeds, so that a repeated call, and one whose outcome was unknown, come to the same end.

use super::desk::Desk;
use crate::failure::Failure;
use okno_cluster::{ChangeError, Changed, QuorumPlan, api::Proposer};
use okno_domain::entity::RefusalClass;
use okno_proto::v1;
use okno_storage::members::{MemberChange, MemberRefusal, MemberRole};
use std::time::Duration;

/// When a caller should ask again whose change could not be taken now.
const PAUSE: Duration = Duration::from_millis(500);

/// Carries out one step, or says what it would lead to.
pub async fn change(desk: &Desk, change: MemberChange, dry_run: bool) -> Result<v1::MemberChange, Failure> {
    // Only a leader's own view is new enough to say so; others send the caller there.
    if desk.cluster.role().leading_term().is_some() && so_already(desk, &change) {
        return Ok(v1::MemberChange {
            before: Some(present(desk)),
            after: Some(present(desk)),
            index: 0,
            already: true,
            served_by: desk.node_id,
        });
    }
    let Changed { index, plan } =
        desk.cluster.change_members(change.clone(), dry_run).await.map_err(failure)?;
    if index.is_some() {
        tracing::info!(?change, "the members were changed by an administrator");
    }
    Ok(v1::MemberChange {
        before: Some(quorum(&plan.before)),
        after: Some(quorum(&plan.after)),
        index: index.unwrap_or_default(),
        already: false,
        served_by: desk.node_id,
    })
}

/// Is what is asked for so, as far as this node has applied?
fn so_already(desk: &Desk, change: &MemberChange) -> bool {
    let table = desk.cluster.members();
    match change {
        MemberChange::AddLearner { node_id, peer_address, .. } => {
            table.get(*node_id).is_some_and(|m| m.peer_address == *peer_address)
        }
        MemberChange::Promote { node_id } => table.get(*node_id).is_some_and(|m| m.role == MemberRole::Voter),
        MemberChange::Remove { node_id } => table.is_removed(*node_id),
    }
}

fn present(desk: &Desk) -> v1::Quorum {
    let table = desk.cluster.members();
    let voters: Vec<u64> = table.voters().collect();
    v1::Quorum { votes: number(voters.len() / 2 + 1), voters, learners: table.learners().collect(), able: 0 }
}

fn quorum(plan: &QuorumPlan) -> v1::Quorum {
    v1::Quorum {
        voters: plan.voters.clone(),
        learners: plan.learners.clone(),
        votes: number(plan.quorum),
        able: number(plan.able),
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn failure(error: ChangeError) -> Failure {
    let text = error.to_string();
    let refused = |reason, ru: &str| {
        Failure::refused(RefusalClass::FailedPrecondition, reason, &format!("{ru}: {text}"), &text)
    };
    match &error {
        ChangeError::NotLeader { .. } | ChangeError::Leads => Failure::not_applied("NOT_LEADER", PAUSE, text),
        ChangeError::NotReady | ChangeError::Transferring | ChangeError::NotApplied => {
            Failure::not_applied("MEMBER_CHANGE_LATER", PAUSE, text)
        }
        ChangeError::InFlight => Failure::not_applied("MEMBER_CHANGE_IN_FLIGHT", PAUSE, text),
        ChangeError::Closed => Failure::not_applied("NODE_CLOSED", PAUSE, text),
        ChangeError::OutcomeUnknown => Failure::Unknown { reason: "OUTCOME_UNKNOWN".into() },
        ChangeError::QuorumWouldBeLost(_) => {
            refused("QUORUM_WOULD_BE_LOST", "Без этого узла кластер потеряет кворум")
        }
        ChangeError::LearnerBehind { .. } => refused("LEARNER_BEHIND", "Узел ещё не догнал кластер"),
        ChangeError::LevelTooLow { .. } => {
            refused("FEATURE_LEVEL_TOO_LOW", "Уровень возможностей слишком низок")
        }
        ChangeError::Refused(why) => match why {
            MemberRefusal::IdUsed(_) => refused("MEMBER_ID_USED", "Номер узла уже использован"),
            MemberRefusal::Already(_) | MemberRefusal::Voter(_) => {
                refused("MEMBER_ALREADY", "Узел уже состоит в кластере")
            }
            MemberRefusal::Unknown(_) => refused("MEMBER_UNKNOWN", "Узел не состоит в кластере"),
            MemberRefusal::LastVoter(_) => {
                refused("QUORUM_WOULD_BE_LOST", "Без этого узла кластер потеряет кворум")
            }
            MemberRefusal::AddressTaken(_) => refused("MEMBER_ADDRESS_TAKEN", "Адрес занят другим узлом"),
            MemberRefusal::IdZero | MemberRefusal::Address => {
                refused("MEMBER_INVALID", "Узел указан неверно")
            }
            MemberRefusal::Full => refused("MEMBERS_FULL", "В кластере больше нет места"),
        },
    }
}
