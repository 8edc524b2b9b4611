//! Changing the members, as `okno.v1.ClusterService` offers it: one step at a time, by the leader, answered when it is in
//! force. What is so already succeeds, so that a repeated call, and one whose outcome was unknown, come to the same end.
//!
//! Any node may be asked: one that follows has its leader do it, in the name of whoever asked, and tells what came of it. The
//! leader looks at the caller's kind once more (rule 17) and never sends a change on.

use super::desk::Desk;
use crate::{failure::Failure, front::CallContext, identity::Kind};
use bytes::Bytes;
use okno_cluster::{
    ChangeError, Changed, ClusterHandle, ForwardError, NodeId, QuorumPlan,
    api::{Proposer, Role},
};
use okno_domain::{
    entity::{Principal, Refusal, RefusalClass},
    level,
};
use okno_proto::v1;
use okno_runtime::{
    codec::{self, WIRE_FORM_MEMBERS},
    sys::level_unsupported,
};
use okno_storage::{
    level::MEMBER_CALLS,
    members::{MemberChange, MemberRefusal, MemberRole},
};
use prost::Message;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// When a caller should ask again whose change could not be taken now.
const PAUSE: Duration = Duration::from_millis(500);

/// What a node asks of its leader.
#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    by: Principal,
    step: Step,
    dry_run: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum Step {
    Add { node_id: u64, address: String },
    Promote { node_id: u64 },
    Remove { node_id: u64 },
}

/// What its leader says.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    /// Encoded `okno.v1.MemberChange`.
    Changed(Vec<u8>),
    Refused(Refusal),
    NotApplied {
        reason: String,
        detail: String,
    },
    Unknown {
        reason: String,
    },
}

/// Carries out one step, or says what it would lead to; here, or where the leader is.
pub async fn change(
    desk: &Desk,
    context: &CallContext,
    change: MemberChange,
    dry_run: bool,
) -> Result<v1::MemberChange, Failure> {
    let caller = context.caller();
    let by = Principal { kind: caller.kind.name().to_owned(), id: caller.id.to_string() };
    match desk.cluster.role().role {
        Role::Follower { leader: Some(leader) } if desk.cluster.level() >= MEMBER_CALLS => {
            let ask = Ask { by, step: step(change), dry_run };
            let payload = encode(&ask)?;
            match desk.cluster.forward(leader, payload, context.deadline).await {
                Ok(told) => read(&told),
                Err(ForwardError::NotSent) => {
                    Err(Failure::not_applied("NO_LEADER", PAUSE, format!("node {leader} cannot be reached")))
                }
                Err(ForwardError::Unknown) => Err(Failure::Unknown { reason: "OUTCOME_UNKNOWN".into() }),
            }
        }
        _ => carry_out(&desk.cluster, &by, change, dry_run).await,
    }
}

/// Carries out what another node was asked for. The payload is behind its form.
pub async fn carry_out_for(cluster: &ClusterHandle, from: NodeId, payload: &[u8]) -> Bytes {
    let outcome = match codec::decode_wire::<Ask>(payload) {
        Ok(Ask { by, .. }) if by.kind != Kind::Admin.name() => Err(Failure::Refused(denied())),
        Ok(Ask { by, step, dry_run }) => carry_out(cluster, &by, of_step(step), dry_run).await,
        Err(error) => {
            tracing::warn!(from, %error, "a change of members that a node was asked for cannot be read");
            Err(Failure::not_applied("NODE_CLOSED", PAUSE, "the leader cannot read the change"))
        }
    };
    // An answer is far smaller than the bound; a node that cannot read this says unknown.
    codec::encode_wire(&tell(outcome)).unwrap_or_default()
}

fn encode(ask: &Ask) -> Result<Bytes, Failure> {
    let body = codec::encode_wire(ask);
    let body = body.ok_or_else(|| Failure::field("address", "слишком длинный", "it is too long"))?;
    Ok([&[WIRE_FORM_MEMBERS], body.as_ref()].concat().into())
}

fn tell(outcome: Result<v1::MemberChange, Failure>) -> Told {
    match outcome {
        Ok(changed) => Told::Changed(changed.encode_to_vec()),
        Err(Failure::Refused(refusal)) => Told::Refused(refusal),
        Err(Failure::NotApplied { reason, detail, .. }) => Told::NotApplied { reason, detail },
        Err(other) => Told::Unknown { reason: other.reason().to_owned() },
    }
}

fn read(told: &[u8]) -> Result<v1::MemberChange, Failure> {
    let unknown = || Failure::Unknown { reason: "OUTCOME_UNKNOWN".into() };
    match codec::decode_wire::<Told>(told).map_err(|_| unknown())? {
        Told::Changed(changed) => v1::MemberChange::decode(&*changed).map_err(|_| unknown()),
        Told::Refused(refusal) => Err(Failure::Refused(refusal)),
        Told::NotApplied { reason, detail } => Err(Failure::not_applied(&reason, PAUSE, detail)),
        Told::Unknown { reason } => Err(Failure::Unknown { reason }),
    }
}

fn step(change: MemberChange) -> Step {
    match change {
        // The leader knows who has joined: the incarnation is never a caller's to say.
        MemberChange::AddLearner { node_id, peer_address, .. } => {
            Step::Add { node_id, address: peer_address }
        }
        MemberChange::Promote { node_id } => Step::Promote { node_id },
        MemberChange::Remove { node_id } => Step::Remove { node_id },
    }
}

fn of_step(step: Step) -> MemberChange {
    match step {
        Step::Add { node_id, address } => {
            MemberChange::AddLearner { node_id, peer_address: address, incarnation: None }
        }
        Step::Promote { node_id } => MemberChange::Promote { node_id },
        Step::Remove { node_id } => MemberChange::Remove { node_id },
    }
}

fn denied() -> Refusal {
    Refusal {
        class: RefusalClass::PermissionDenied,
        reason: "METHOD_NOT_ALLOWED".into(),
        text_ru: "Состав кластера меняет только администратор".into(),
        text_en: "only an administrator changes the members".into(),
        details: Default::default(),
    }
}

async fn carry_out(
    cluster: &ClusterHandle,
    by: &Principal,
    change: MemberChange,
    dry_run: bool,
) -> Result<v1::MemberChange, Failure> {
    let served_by = cluster.status().node_id;
    // Only a leader's own view is new enough to say so.
    if cluster.role().leading_term().is_some() && so_already(cluster, &change) {
        return Ok(v1::MemberChange {
            before: Some(present(cluster)),
            after: Some(present(cluster)),
            index: 0,
            already: true,
            served_by,
        });
    }
    let Changed { index, plan } = cluster.change_members(change.clone(), dry_run).await.map_err(failure)?;
    if index.is_some() {
        tracing::info!(?change, by = by.id, "the members were changed by an administrator");
    }
    Ok(v1::MemberChange {
        before: Some(quorum(&plan.before)),
        after: Some(quorum(&plan.after)),
        index: index.unwrap_or_default(),
        already: false,
        served_by,
    })
}

/// Is what is asked for so, as far as this node has applied?
fn so_already(cluster: &ClusterHandle, change: &MemberChange) -> bool {
    let table = cluster.members();
    match change {
        MemberChange::AddLearner { node_id, peer_address, .. } => {
            table.get(*node_id).is_some_and(|m| m.peer_address == *peer_address)
        }
        MemberChange::Promote { node_id } => table.get(*node_id).is_some_and(|m| m.role == MemberRole::Voter),
        MemberChange::Remove { node_id } => table.is_removed(*node_id),
    }
}

fn present(cluster: &ClusterHandle) -> v1::Quorum {
    let table = cluster.members();
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
        ChangeError::LevelLow { level, needs } => Failure::Refused(level::low(*level, *needs)),
        ChangeError::LevelUnsupported { node, level, needs } => {
            let who = match level {
                Some(level) => format!("node {node}: level {level}"),
                None => format!("node {node}: not connected"),
            };
            Failure::Refused(level_unsupported(*needs, &who))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_a_change_is_told_on_as_it_was() {
        let changed = v1::MemberChange { index: 7, served_by: 2, ..v1::MemberChange::default() };
        let outcomes = [
            Ok(changed),
            Err(failure(ChangeError::LearnerBehind { node: 4, behind: 2_000 })),
            Err(failure(ChangeError::LevelLow { level: 1, needs: 2 })),
            Err(failure(ChangeError::LevelUnsupported { node: 4, level: Some(1), needs: 2 })),
            Err(failure(ChangeError::NotLeader { leader: None })),
            Err(failure(ChangeError::InFlight)),
            Err(failure(ChangeError::OutcomeUnknown)),
        ];
        for outcome in outcomes {
            let told = codec::encode_wire(&tell(outcome.clone())).expect("small");
            assert_eq!(read(&told), outcome);
        }
        let unknown = Err(Failure::Unknown { reason: "OUTCOME_UNKNOWN".into() });
        assert_eq!(read(b""), unknown);
        assert_eq!(read(&[9, 9]), unknown);
    }

    #[test]
    fn every_step_is_asked_for_as_it_was() {
        for change in [
            MemberChange::AddLearner { node_id: 4, peer_address: "node4:7401".into(), incarnation: None },
            MemberChange::Promote { node_id: 4 },
            MemberChange::Remove { node_id: 3 },
        ] {
            let by = Principal { kind: "admin".into(), id: "root".into() };
            let payload = encode(&Ask { by, step: step(change.clone()), dry_run: true }).expect("small");
            let rest = payload.strip_prefix(&[WIRE_FORM_MEMBERS]).expect("its form");
            let ask = codec::decode_wire::<Ask>(rest).expect("as it was encoded");
            assert!(ask.dry_run && ask.by.id == "root");
            assert_eq!(of_step(ask.step), change);
        }
    }
}
