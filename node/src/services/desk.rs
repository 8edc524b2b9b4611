//! What all services share: the way of a write, the way of a read, and how failures become answers.

use super::notices::Notices;
use crate::{
    failure::Failure,
    front::CallContext,
    observability::security::{Event, EventKind, SecurityLog},
    services::{board::Boards, hand_out::Traffic, workstations::Leases},
    token::Tokens,
};
use okno_cluster::{
    ClusterHandle, REMEDY_REBUILD,
    api::{Proposer, ReadError, Role},
};
use okno_domain::{
    entity::{EntityRef, Principal},
    level,
    registry::{AnyCommand, AnyReply},
};
use okno_proto::v1;
use okno_runtime::{
    call::{Call, CallResult, Cause, SystemCall, SystemResult},
    gateway::Gateway,
    query::Query,
};
use okno_storage::{commit::SystemOp, error::StorageError};
use prost::Message;
use sha2::{Digest, Sha256};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

/// How long a read with a resume token waits for this node to catch up (rule 16).
const RESUME_WAIT_MAX: Duration = Duration::from_secs(5);

/// Everything a service needs.
pub struct Desk {
    pub node_id: u64,
    pub started_at: SystemTime,
    pub tokens: Tokens,
    pub cluster: Arc<ClusterHandle>,
    pub gateway: Gateway,
    pub query: Query,
    pub security: SecurityLog,
    pub record_reads: bool,
    pub notices: Arc<Notices>,
    pub leases: Leases,
    /// Channels' messages on their way through this node.
    pub traffic: Arc<Traffic>,
    /// Halls whose board somebody watches.
    pub boards: Boards,
    /// One permit per watch stream.
    pub watches: Arc<Semaphore>,
    /// Streams end when the node stops.
    pub stop: CancellationToken,
}

/// The identity of a mutating call, checked.
pub struct WriteRequest {
    pub principal: Principal,
    pub request_id: Uuid,
    pub attempt: u32,
    pub workstation: String,
    pub hash: [u8; 32],
}

impl WriteRequest {
    #[cfg(test)]
    pub fn made_up(principal: Principal, request_id: Uuid, hash: [u8; 32]) -> Self {
        Self { principal, request_id, attempt: 1, workstation: String::new(), hash }
    }

    /// Takes `meta` apart; `body` is the message without it, which the hash covers together with the method.
    pub fn of(
        context: &CallContext,
        meta: Option<v1::RequestMeta>,
        body: &impl Message,
    ) -> Result<Self, Failure> {
        Self::of_method(context, context.rule.method, meta, body)
    }

    /// The same for what is said on a stream and is a request of another method.
    pub fn of_method(
        context: &CallContext,
        method: &str,
        meta: Option<v1::RequestMeta>,
        body: &impl Message,
    ) -> Result<Self, Failure> {
        let expected = || {
            Failure::field(
                "meta.request_id",
                "ожидается UUID версии 7, один на все попытки вызова",
                "expected a UUID of version 7, the same for all attempts of a call",
            )
        };
        let meta = meta.ok_or_else(expected)?;
        let request_id = Uuid::try_parse(&meta.request_id).map_err(|_| expected())?;
        if meta.workstation.len() > 64 {
            return Err(Failure::field(
                "meta.workstation",
                "не длиннее 64 знаков",
                "expected at most 64 bytes",
            ));
        }
        let mut hash = Sha256::new();
        hash.update(method.as_bytes());
        hash.update([0]);
        hash.update(meta.workstation.as_bytes());
        hash.update([0]);
        hash.update(body.encode_to_vec());
        let caller = context.caller();
        Ok(Self {
            principal: Principal { kind: caller.kind.name().to_owned(), id: caller.id.to_string() },
            request_id,
            attempt: meta.attempt.max(1),
            workstation: meta.workstation,
            hash: hash.finalize().into(),
        })
    }
}

impl Desk {
    /// Runs a handler and gives its failure the caller's language.
    pub async fn handle<M, R, F, Fut>(
        self: &Arc<Self>,
        request: Request<M>,
        handler: F,
    ) -> Result<Response<R>, Status>
    where
        F: FnOnce(Arc<Self>, CallContext, M) -> Fut,
        Fut: Future<Output = Result<R, Failure>>,
    {
        let (_, mut extensions, message) = request.into_parts();
        let Some(context) = extensions.remove::<CallContext>() else {
            return Err(Status::internal("the call did not pass the front"));
        };
        let (language, rule) = (context.language, context.rule);
        match handler(self.clone(), context, message).await {
            Ok(answer) => Ok(Response::new(answer)),
            Err(failure) => {
                tracing::debug!(
                    target: "okno::request",
                    method = rule.method,
                    class = failure.class(),
                    reason = failure.reason(),
                    "no result"
                );
                Err(failure.status(language))
            }
        }
    }

    /// A command to an entity, to its outcome (rule 1).
    pub async fn command(
        &self,
        context: &CallContext,
        request: WriteRequest,
        target: EntityRef,
        command: AnyCommand,
    ) -> Result<(AnyReply, Option<v1::WriteMeta>), Failure> {
        let request_id = request.request_id;
        // Whoever leads may run the program before this one, and could not read it (rule 9).
        self.needs_level(context, level::of(&command)).await?;
        let call = Call {
            principal: request.principal,
            workstation: request.workstation,
            request_id,
            attempt: request.attempt,
            hash: request.hash,
            target,
            command,
            deadline: context.deadline,
            trace: context.trace(),
        };
        let result = self.gateway.call(call).await;
        tracing::debug!(
            target: "okno::request",
            method = context.rule.method,
            principal = %context.caller().principal,
            request = %request_id,
            trace = ?context.traceparent,
            result = ?std::mem::discriminant(&result),
            "write"
        );
        match result {
            CallResult::Done { reply, index } => Ok((reply, self.write_meta(index))),
            CallResult::Refused(refusal) => Err(Failure::Refused(refusal)),
            CallResult::NotApplied { reason, retry_after_ms } => Err(not_applied(reason, retry_after_ms)),
            CallResult::Unknown { reason } => Err(unknown(context, request_id, reason)),
        }
    }

    /// An administrator's command to one of the cluster's own entities.
    pub async fn system(
        &self,
        context: &CallContext,
        request: WriteRequest,
        op: SystemOp,
    ) -> Result<Option<v1::WriteMeta>, Failure> {
        let request_id = request.request_id;
        let call = SystemCall {
            principal: request.principal,
            workstation: request.workstation,
            request_id,
            attempt: request.attempt,
            hash: request.hash,
            op,
            deadline: context.deadline,
            trace: context.trace(),
        };
        match self.gateway.system(call).await {
            SystemResult::Done { index } => Ok(self.write_meta(index)),
            SystemResult::Refused(refusal) => Err(Failure::Refused(refusal)),
            SystemResult::NotApplied { reason, retry_after_ms } => Err(not_applied(reason, retry_after_ms)),
            SystemResult::Unknown { reason } => Err(unknown(context, request_id, reason)),
        }
    }

    pub fn write_meta(&self, index: u64) -> Option<v1::WriteMeta> {
        Some(v1::WriteMeta {
            applied_index: index,
            served_by: self.node_id,
            leader: self.leader().unwrap_or_default(),
            resume_token: self.tokens.resume(index),
        })
    }

    /// The node that leads, as far as this one knows.
    pub fn leader(&self) -> Option<u64> {
        match self.cluster.role().role {
            Role::Leader { .. } => Some(self.node_id),
            Role::Follower { leader } => leader,
            Role::Candidate => None,
        }
    }

    /// Makes this node's store fresh enough for the read (rule 16); what is read afterwards is at least as new.
    pub async fn read_point(
        &self,
        context: &CallContext,
        options: Option<&v1::ReadOptions>,
    ) -> Result<(), Failure> {
        let consistency = options.map_or(0, |options| options.consistency);
        let local = match v1::Consistency::try_from(consistency) {
            Ok(v1::Consistency::Unspecified | v1::Consistency::Linearizable) => false,
            Ok(v1::Consistency::Local) => true,
            Err(_) => {
                return Err(Failure::field(
                    "read.consistency",
                    "ожидается LINEARIZABLE или LOCAL",
                    "expected CONSISTENCY_LINEARIZABLE or CONSISTENCY_LOCAL",
                ));
            }
        };
        if let Some(token) =
            options.map(|options| options.resume_token.as_str()).filter(|token| !token.is_empty())
        {
            let index = self.tokens.open_resume(token).map_err(|_| Failure::page_token_stale())?;
            self.wait_applied(context, index).await?;
        }
        if !local {
            self.cluster.read_index(context.deadline).await.map_err(read_failure)?;
        }
        Ok(())
    }

    /// Refuses what the cluster's level does not allow. A node that lags, or has joined a moment ago, may not have heard of a
    /// raised one, and levels never fall: it allows at once, and refuses only what it has confirmed (rule 2).
    pub async fn needs_level(&self, context: &CallContext, needed: u32) -> Result<(), Failure> {
        if self.cluster.level() >= needed {
            return Ok(());
        }
        self.cluster.read_index(context.deadline).await.map_err(read_failure)?;
        let level = self.cluster.level();
        if level >= needed { Ok(()) } else { Err(Failure::Refused(level::low(level, needed))) }
    }

    async fn wait_applied(&self, context: &CallContext, index: u64) -> Result<(), Failure> {
        if self.cluster.applied_index() >= index {
            return Ok(());
        }
        let deadline = context.deadline.min(Instant::now() + RESUME_WAIT_MAX);
        match self.cluster.wait_applied(index, deadline).await {
            Ok(_) => Ok(()),
            Err(ReadError::TimedOut) => Err(Failure::not_applied(
                "NODE_BEHIND",
                Duration::from_millis(500),
                format!("node {} has not reached index {index} yet", self.node_id),
            )),
            Err(error) => Err(read_failure(error)),
        }
    }

    /// A store that cannot be read: the log learns what. Rot closes the node (rule 12), and the caller goes to another;
    /// anything else may be a fault of the program, which would close one node after the other as callers try them.
    pub fn unreadable(&self, error: StorageError) -> Failure {
        let text = crate::observability::chain(&error);
        tracing::error!(error = text, "reading the store failed");
        if error.is_rot() {
            self.cluster.quarantine(&format!("rows cannot be read: {text}"), REMEDY_REBUILD);
            return Failure::not_applied("NODE_QUARANTINED", Duration::from_secs(1), text);
        }
        Failure::Internal { detail: "the store cannot be read".into() }
    }

    /// A read that takes more than a moment: the network thread's other work goes on meanwhile, heartbeats above all.
    pub fn long_read<T>(&self, read: impl FnOnce() -> Result<T, StorageError>) -> Result<T, Failure> {
        tokio::task::block_in_place(read).map_err(|error| self.unreadable(error))
    }

    /// Call it before reading: the answer is at least as new as it says.
    pub fn read_meta(&self) -> Option<v1::ReadMeta> {
        self.read_meta_at(self.cluster.applied_index())
    }

    /// The same for an answer read at a known index.
    pub fn read_meta_at(&self, applied_index: u64) -> Option<v1::ReadMeta> {
        Some(v1::ReadMeta {
            served_by: self.node_id,
            applied_index,
            resume_token: self.tokens.resume(applied_index),
        })
    }

    /// Records a read of personal data before it is answered, and refuses it when that is not possible (design §8).
    pub fn record_read(&self, context: &CallContext, subject: &str) -> Result<(), Failure> {
        debug_assert!(
            context.rule.personal,
            "{} is not marked as reading personal data",
            context.rule.method
        );
        if !self.record_reads {
            return Ok(());
        }
        self.record(context, EventKind::PersonalRead, subject).map_err(|()| {
            Failure::not_applied(
                "SECURITY_LOG_UNAVAILABLE",
                Duration::from_secs(1),
                "the read cannot be recorded",
            )
        })
    }

    /// Records a denial that the front could not know of.
    pub fn record_denial(&self, context: &CallContext, reason: &str) {
        // The denial stands whether or not it could be recorded.
        let _ = self.record(context, EventKind::Denied, reason);
    }

    /// Records that somebody changes how this node is run, before it is done.
    pub fn record_operated(&self, context: &CallContext, subject: &str) -> Result<(), Failure> {
        self.record(context, EventKind::Operated, subject).map_err(|()| {
            Failure::not_applied(
                "SECURITY_LOG_UNAVAILABLE",
                Duration::from_secs(1),
                "the change cannot be recorded",
            )
        })
    }

    fn record(&self, context: &CallContext, kind: EventKind, subject: &str) -> Result<(), ()> {
        let event = Event {
            kind,
            principal: context.caller().principal.to_string(),
            remote: context.connection.remote.to_string(),
            method: context.rule.method.to_owned(),
            subject: subject.to_owned(),
        };
        self.security.record(event).map_err(|_| ())
    }
}

fn not_applied(reason: String, retry_after_ms: u64) -> Failure {
    Failure::NotApplied {
        exhausted: Cause::code_is_exhaustion(&reason),
        reason,
        retry_after: Duration::from_millis(retry_after_ms),
        detail: String::new(),
    }
}

fn unknown(context: &CallContext, request_id: Uuid, reason: String) -> Failure {
    // Rare, and what an operator will ask about: always in the log.
    tracing::info!(
        target: "okno::request",
        method = context.rule.method,
        request = %request_id,
        trace = ?context.traceparent,
        reason,
        "the outcome of a call is unknown"
    );
    Failure::Unknown { reason }
}

fn read_failure(error: ReadError) -> Failure {
    let pause = Duration::from_millis(200);
    match error {
        ReadError::TimedOut | ReadError::NotLeader => {
            Failure::not_applied("NO_LEADER", pause, error.to_string())
        }
        ReadError::Overloaded => Failure::exhausted("OVERLOADED", error.to_string()),
        ReadError::Closed => Failure::not_applied("NODE_CLOSED", Duration::from_secs(1), error.to_string()),
    }
}

/// A reply of another kind than its command: a fault of the program.
pub fn wrong_reply() -> Failure {
    Failure::Internal { detail: "unexpected kind of reply".into() }
}
