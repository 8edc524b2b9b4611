//! `okno.v1.ClusterService`: for those who run the cluster (R-O1).

use super::{
    desk::{Desk, WriteRequest},
    members,
    transfers::Transfers,
    watch::stopping,
};
use crate::{
    convert::{actor, history::tell_own, required, timestamp},
    failure::{Failure, Language},
    front::CallContext,
};
use futures::Stream;
use okno_cluster::{
    ClusterStatus, MemberStatus, NodePhase, TransferError,
    api::{Proposer, Role},
};
use okno_domain::entity::RefusalClass;
use okno_proto::v1::{self, cluster_service_server::ClusterService, watch_notices_response::Update};
use okno_runtime::{query::OwnHistoryEntry, shard::check_request_id, sys::level_unsupported};
use okno_storage::{
    commit::{EntityKey, SystemOp},
    members::MemberChange,
};
use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

pub struct Clusters {
    desk: Arc<Desk>,
    transfers: Arc<Transfers>,
}

impl Clusters {
    pub fn new(desk: Arc<Desk>) -> Self {
        Self { desk, transfers: Arc::default() }
    }
}

/// Events of a page: unless asked for, and at most.
const EVENTS_PAGE: (u32, u32) = (50, 200);
/// Notices on their way to one reader.
const QUEUE_MAX: usize = 64;
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// A reader that takes nothing for this long is gone.
const SLOW_MAX: Duration = Duration::from_secs(30);

fn member(status: &ClusterStatus, member: &MemberStatus) -> v1::Member {
    v1::Member {
        node_id: member.id,
        address: member.address.clone(),
        connected: member.connected,
        match_index: member.match_index.unwrap_or_default(),
        clock_offset_ms: member.clock_offset_ms.unwrap_or_default(),
        leader: status.leader == Some(member.id),
        self_: member.id == status.node_id,
        feature_level: member.feature_level.unwrap_or_default(),
        learner: member.learner,
    }
}

fn status_response(status: &ClusterStatus, started_at: SystemTime) -> v1::GetStatusResponse {
    let (reason, remedy) = match &status.phase {
        NodePhase::Quarantined { reason, remedy } => (reason.clone(), remedy.clone()),
        NodePhase::Pinning { .. } => {
            status.phase.waits().map(|(why, remedy)| (why, remedy.to_owned())).unwrap_or_default()
        }
        NodePhase::Starting | NodePhase::Serving | NodePhase::Stopping => {
            (status.alarms.join("; "), String::new())
        }
    };
    let phase = match &status.phase {
        NodePhase::Starting => v1::NodePhase::Starting,
        NodePhase::Pinning { .. } => v1::NodePhase::Pinning,
        NodePhase::Serving => v1::NodePhase::Serving,
        NodePhase::Quarantined { .. } => v1::NodePhase::Quarantined,
        NodePhase::Stopping => v1::NodePhase::Stopping,
    };
    let role = match status.role {
        Role::Follower { .. } => v1::MemberRole::Follower,
        Role::Candidate => v1::MemberRole::Candidate,
        Role::Leader { .. } => v1::MemberRole::Leader,
    };
    v1::GetStatusResponse {
        node_id: status.node_id,
        cluster: status.cluster.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        phase: phase.into(),
        reason,
        remedy,
        term: status.term,
        leader: status.leader.unwrap_or_default(),
        role: role.into(),
        commit_index: status.commit,
        applied_index: status.applied,
        last_index: status.last_index,
        cluster_time: timestamp(status.time_ms),
        chain: hex::encode(status.chain),
        members: status.members.iter().map(|one| member(status, one)).collect(),
        level: status.level,
        started_at: Some(started_at.into()),
    }
}

fn entity_from(entity: Option<v1::EntityRef>) -> Result<(v1::EntityRef, EntityKey), Failure> {
    let entity = entity.unwrap_or_default();
    required("entity.kind", &entity.kind)?;
    required("entity.id", &entity.id)?;
    let key = EntityKey::parse(&format!("{}/{}", entity.kind, entity.id)).map_err(|_| {
        Failure::field("entity", "не имя объекта", "expected a kind and an id such as case and a UUID")
    })?;
    Ok((entity, key))
}

#[tonic::async_trait]
impl ClusterService for Clusters {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let handler = |desk: Arc<Desk>, _: CallContext, _| async move {
            Ok(status_response(&desk.cluster.status(), desk.started_at))
        };
        self.desk.handle(request, handler).await
    }

    async fn list_members(
        &self,
        request: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        let handler = |desk: Arc<Desk>, _: CallContext, _| async move {
            let status = desk.cluster.status();
            let members = status.members.iter().map(|one| member(&status, one)).collect();
            Ok(v1::ListMembersResponse { members, served_by: desk.node_id })
        };
        self.desk.handle(request, handler).await
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let transfers = Arc::clone(&self.transfers);
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::TransferLeaderRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            check_request_id(request.request_id).map_err(Failure::Refused)?;
            let to = Some(message.to).filter(|to| *to != 0);
            let leads = matches!(desk.cluster.role().role, Role::Leader { .. });
            let leader = match transfers.known(&request)? {
                Some(leader) => leader,
                // What was asked for is so: a retry of what another node carried out, as a rule.
                None if leads && to == Some(desk.node_id) => desk.node_id,
                None => {
                    let leader = desk.cluster.transfer_leader(to).await.map_err(transfer_failure)?;
                    transfers.carried_out(request, leader);
                    tracing::info!(leader, "leadership was handed over by an operator");
                    leader
                }
            };
            let term = desk.cluster.status().term;
            Ok(v1::TransferLeaderResponse { leader, term, served_by: desk.node_id })
        };
        self.desk.handle(request, handler).await
    }

    async fn add_member(
        &self,
        request: Request<v1::AddMemberRequest>,
    ) -> Result<Response<v1::AddMemberResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::AddMemberRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            check_request_id(request.request_id).map_err(Failure::Refused)?;
            let v1::AddMemberRequest { node_id, address, dry_run, .. } = message;
            required("address", &address)?;
            let change = MemberChange::AddLearner { node_id, peer_address: address, incarnation: None };
            let change = Some(members::change(&desk, &context, change, dry_run).await?);
            Ok(v1::AddMemberResponse { change })
        };
        self.desk.handle(request, handler).await
    }

    async fn promote_member(
        &self,
        request: Request<v1::PromoteMemberRequest>,
    ) -> Result<Response<v1::PromoteMemberResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::PromoteMemberRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            check_request_id(request.request_id).map_err(Failure::Refused)?;
            let change = MemberChange::Promote { node_id: message.node_id };
            let change = Some(members::change(&desk, &context, change, message.dry_run).await?);
            Ok(v1::PromoteMemberResponse { change })
        };
        self.desk.handle(request, handler).await
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::RemoveMemberRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            check_request_id(request.request_id).map_err(Failure::Refused)?;
            let change = MemberChange::Remove { node_id: message.node_id };
            let change = Some(members::change(&desk, &context, change, message.dry_run).await?);
            Ok(v1::RemoveMemberResponse { change })
        };
        self.desk.handle(request, handler).await
    }

    async fn show_entity(
        &self,
        request: Request<v1::ShowEntityRequest>,
    ) -> Result<Response<v1::ShowEntityResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ShowEntityRequest| async move {
            let (entity, key) = entity_from(message.entity)?;
            desk.read_point(&context, message.read.as_ref()).await?;
            desk.record_read(&context, key.as_str())?;
            let info = desk.query.entity_info(&key).map_err(|error| desk.unreadable(error))?;
            let parts =
                match desk.cluster.state().view().entity(&key).map_err(|error| desk.unreadable(error))? {
                    Some(stored) => stored
                        .parts
                        .iter()
                        .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
                        .collect(),
                    None => Vec::new(),
                };
            let (head, head_index) = info.head.unwrap_or_default();
            Ok(v1::ShowEntityResponse {
                meta: desk.read_meta_at(info.applied_index),
                entity: Some(entity),
                exists: info.head.is_some(),
                head_term: head.term,
                head_counter: head.counter,
                parts,
                quarantined: info.quarantine.is_some(),
                quarantine_reason: info.quarantine.unwrap_or_default(),
                quarantined_at: info.quarantined_ms.and_then(timestamp),
                parked_messages: u32::try_from(info.waiting.len()).unwrap_or(u32::MAX),
                state: format!(
                    "last commit at index {head_index}; {} bytes; {} timers",
                    info.bytes,
                    info.timers.len()
                ),
            })
        };
        self.desk.handle(request, handler).await
    }

    async fn release_entity(
        &self,
        request: Request<v1::ReleaseEntityRequest>,
    ) -> Result<Response<v1::ReleaseEntityResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::ReleaseEntityRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let (_, entity) = entity_from(message.entity)?;
            let meta = desk.system(&context, request, SystemOp::Release { entity }).await?;
            Ok(v1::ReleaseEntityResponse { meta })
        };
        self.desk.handle(request, handler).await
    }

    async fn place_marker(
        &self,
        request: Request<v1::PlaceMarkerRequest>,
    ) -> Result<Response<v1::PlaceMarkerResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::PlaceMarkerRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let meta = desk.system(&context, request, SystemOp::Marker).await?;
            let marker_index = meta.as_ref().map(|meta| meta.applied_index).unwrap_or_default();
            Ok(v1::PlaceMarkerResponse { meta, marker_index })
        };
        self.desk.handle(request, handler).await
    }

    async fn raise_level(
        &self,
        request: Request<v1::RaiseLevelRequest>,
    ) -> Result<Response<v1::RaiseLevelResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::RaiseLevelRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            check_request_id(request.request_id).map_err(Failure::Refused)?;
            // Only the leader is sure to hear every member, and it is the one who would write what they must read.
            if !matches!(desk.cluster.role().role, Role::Leader { .. }) {
                let pause = Duration::from_millis(200);
                return Err(Failure::not_applied("NOT_LEADER", pause, "only the leader raises the level"));
            }
            let (from, known) = (desk.cluster.level(), okno_cluster::level::known());
            let to = if message.to == 0 { known } else { message.to };
            let short = desk.cluster.below_level(to);
            if !short.is_empty() {
                let who = short.iter().map(|(node, level)| match level {
                    Some(level) if *level < to => format!("node {node}: level {level}"),
                    _ => format!("node {node}: not connected"),
                });
                let refusal = level_unsupported(to, &who.collect::<Vec<_>>().join(", "));
                return Err(Failure::Refused(refusal));
            }
            let status = desk.cluster.status();
            let members = status.members.iter().map(|member| v1::MemberLevel {
                node_id: member.id,
                level: member.feature_level.unwrap_or_default(),
                connected: member.connected,
            });
            let members = members.collect();
            let meta = if message.dry_run || to <= from {
                None
            } else {
                let meta = desk.system(&context, request, SystemOp::Level { level: to }).await?;
                tracing::info!(from, to, "the feature level was raised by an operator");
                meta
            };
            Ok(v1::RaiseLevelResponse { meta, from, to, members })
        };
        self.desk.handle(request, handler).await
    }

    async fn get_digests(
        &self,
        request: Request<v1::GetDigestsRequest>,
    ) -> Result<Response<v1::GetDigestsResponse>, Status> {
        let handler = |desk: Arc<Desk>, _: CallContext, _| async move {
            let members = desk.cluster.digest_report().into_iter().map(|member| {
                let (chain_index, chain) = member.chains.last().copied().unwrap_or_default();
                v1::MemberDigest {
                    node_id: member.node,
                    chain_index,
                    chain: if chain_index == 0 { String::new() } else { hex::encode(chain) },
                    marker_index: member.digest.map_or(0, |(index, _)| index),
                    digest: member.digest.map(|(_, digest)| hex::encode(digest)).unwrap_or_default(),
                }
            });
            Ok(v1::GetDigestsResponse { served_by: desk.node_id, members: members.collect() })
        };
        self.desk.handle(request, handler).await
    }

    async fn list_system_events(
        &self,
        request: Request<v1::ListSystemEventsRequest>,
    ) -> Result<Response<v1::ListSystemEventsResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListSystemEventsRequest| async move {
            let page = desk.page(&context, message.page_size, EVENTS_PAGE, b"", &message.page_token)?;
            let before = match page.after {
                None => u64::MAX,
                Some(position) => {
                    u64::from_be_bytes(position.try_into().map_err(|_| Failure::page_token_stale())?)
                }
            };
            desk.read_point(&context, message.read.as_ref()).await?;
            let meta = desk.read_meta();
            // One more than the page: whether there is another page.
            let mut found = desk.long_read(|| desk.query.own_history(before, page.size + 1))?;
            let more = found.len() > page.size;
            found.truncate(page.size);
            let next_page_token = match found.last() {
                Some(last) if more => desk.next_page(&context, b"", &last.index.to_be_bytes()),
                _ => String::new(),
            };
            let events = found.iter().flat_map(|entry| own_events(entry, context.language)).collect();
            Ok(v1::ListSystemEventsResponse { meta, events, next_page_token })
        };
        self.desk.handle(request, handler).await
    }

    type WatchNoticesStream = Pin<Box<dyn Stream<Item = Result<v1::WatchNoticesResponse, Status>> + Send>>;

    async fn watch_notices(
        &self,
        request: Request<v1::WatchNoticesRequest>,
    ) -> Result<Response<Self::WatchNoticesStream>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, _| async move {
            let permit = desk.watches.clone().try_acquire_owned();
            let permit =
                permit.map_err(|_| Failure::exhausted("WATCHES_FULL", "too many watches on this node"))?;
            let (down, received) = mpsc::channel(QUEUE_MAX);
            tokio::spawn(async move {
                let _permit = permit;
                if let Some(failure) = tell_notices(&desk, &down).await {
                    // It may be gone already.
                    let _ = down
                        .send_timeout(Err(failure.status(context.language)), Duration::from_secs(1))
                        .await;
                }
            });
            Ok(Box::pin(ReceiverStream::new(received)) as Self::WatchNoticesStream)
        };
        self.desk.handle(request, handler).await
    }
}

fn own_events(entry: &OwnHistoryEntry, language: Language) -> impl Iterator<Item = v1::JournalEvent> {
    (0_u32..).zip(&entry.events).map(move |(number, event)| {
        let told = tell_own(event, language);
        v1::JournalEvent {
            index: entry.index,
            number,
            time: timestamp(entry.time_ms),
            actor: actor(&entry.origin.principal, &entry.origin.workstation, ""),
            kind: told.kind.to_owned(),
            text: told.text,
            details: told.details,
        }
    })
}

/// Until the reader goes (`None`) or the node does.
async fn tell_notices(
    desk: &Desk,
    down: &mpsc::Sender<Result<v1::WatchNoticesResponse, Status>>,
) -> Option<Failure> {
    let response = |update| Ok(v1::WatchNoticesResponse { served_by: desk.node_id, update: Some(update) });
    let (mut pending, mut notices) = desk.notices.subscribe();
    loop {
        for notice in pending.drain(..) {
            down.send_timeout(response(Update::Notice(notice)), SLOW_MAX).await.ok()?;
        }
        tokio::select! {
            notice = notices.recv() => match notice {
                Ok(notice) => pending.push(notice),
                Err(RecvError::Lagged(_)) => (pending, notices) = desk.notices.subscribe(),
                Err(RecvError::Closed) => return Some(stopping()),
            },
            () = tokio::time::sleep(ALIVE_EVERY) => {
                down.send_timeout(response(Update::Alive(SystemTime::now().into())), SLOW_MAX).await.ok()?;
            }
            () = down.closed() => return None,
            () = desk.stop.cancelled() => return Some(stopping()),
        }
    }
}

fn transfer_failure(error: TransferError) -> Failure {
    let pause = Duration::from_millis(500);
    let refused = |reason| {
        let text = error.to_string();
        Failure::refused(
            RefusalClass::FailedPrecondition,
            reason,
            &format!("Передача не выполнена: {text}"),
            &text,
        )
    };
    match error {
        TransferError::NotLeader { .. } => Failure::not_applied("NOT_LEADER", pause, error.to_string()),
        TransferError::NoTarget => refused("TRANSFER_NO_TARGET"),
        TransferError::BadTarget => refused("TRANSFER_BAD_TARGET"),
        TransferError::Busy => Failure::not_applied("TRANSFER_BUSY", pause, error.to_string()),
        TransferError::TimedOut => Failure::not_applied("TRANSFER_TIMED_OUT", pause, error.to_string()),
        TransferError::Elsewhere { .. } => refused("TRANSFER_ELSEWHERE"),
        TransferError::Closed => Failure::not_applied("NODE_CLOSED", pause, error.to_string()),
    }
}
