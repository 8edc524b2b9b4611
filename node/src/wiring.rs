//! The small adapters by which the parts meet: none of them knows another (design §1).

use crate::{
    keepers::attendance::Attendance, observability::traces::Traces, services::members, settings::Settings,
    tls::PeerDialer,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use okno_cluster::{
    ClusterHandle, ClusterSettings, ConnectError, ForwardError, ForwardHandler, NodeId, PeerConnector,
    REMEDY_REBUILD, shell::fatal::EXIT_PANIC,
};
use okno_runtime::{
    End, Forwarder, RuntimeFigures, RuntimeSettings,
    codec::{WIRE_FORM_ATTENDANCE, WIRE_FORM_MEMBERS, trace_of},
    intake::Intake,
};
use okno_storage::rocks::RocksOptions;
use std::{sync::Arc, time::Instant};

/// Outbound connections of the transport.
pub struct Connector(pub PeerDialer);

impl PeerConnector for Connector {
    fn connect<'a>(
        &'a self,
        node: NodeId,
        address: &'a str,
    ) -> BoxFuture<'a, Result<tonic::transport::Channel, ConnectError>> {
        Box::pin(async move {
            let channel = self.0.channel(node, address).await;
            channel.map_err(|error| ConnectError(crate::observability::chain(&error)))
        })
    }
}

/// Calls that belong to the leader, on the streams between peers.
pub struct Forwarding(pub Arc<ClusterHandle>);

impl Forwarder for Forwarding {
    fn forward(
        &self,
        to: NodeId,
        payload: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, ForwardError>> {
        let cluster = self.0.clone();
        Box::pin(async move { cluster.forward(to, payload, deadline).await })
    }
}

/// Calls that other nodes forward to this one, each a span under its caller's trace; what they tell of workstations, and
/// changes of members that they were asked for.
pub struct Forwarded {
    pub cluster: Arc<ClusterHandle>,
    pub handler: Arc<dyn ForwardHandler>,
    pub attendance: Arc<Attendance>,
    pub traces: Arc<Traces>,
}

impl ForwardHandler for Forwarded {
    fn handle(&self, from: NodeId, payload: Bytes) -> BoxFuture<'static, Bytes> {
        if let Some(told) = payload.strip_prefix(&[WIRE_FORM_ATTENDANCE]) {
            self.attendance.hear(from, told);
            return Box::pin(std::future::ready(Bytes::new()));
        }
        if payload.starts_with(&[WIRE_FORM_MEMBERS]) {
            let cluster = self.cluster.clone();
            return Box::pin(async move { members::carry_out_for(&cluster, from, &payload[1..]).await });
        }
        let span = trace_of(&payload).and_then(|trace| self.traces.forwarded(from, trace));
        let answer = self.handler.handle(from, payload);
        match span {
            None => answer,
            Some(span) => Box::pin(async move {
                let answer = answer.await;
                span.done();
                answer
            }),
        }
    }
}

pub fn cluster_settings(settings: &Settings) -> ClusterSettings {
    // Election timeouts of clusters that share machines should not march in step.
    let seed = settings.cluster.id.map_or(0, |id| id.as_u64_pair().1);
    ClusterSettings {
        tick: settings.raft.tick,
        heartbeat: settings.raft.heartbeat,
        election_min: settings.raft.election_min,
        election_max: settings.raft.election_max,
        keep_log_for: settings.raft.keep_log_for,
        keep_log_bytes: settings.raft.keep_log_bytes,
        keep_log_entries: settings.raft.keep_log_entries,
        snapshot_bytes_per_second: settings.raft.snapshot_bytes_per_second,
        seed,
        certificate_cluster: Some(settings.cluster.name.clone()),
        ..ClusterSettings::default()
    }
}

pub fn runtime_settings(
    settings: &Settings,
    cluster: &Arc<ClusterHandle>,
    intake: Arc<Intake>,
) -> RuntimeSettings {
    let closed = cluster.clone();
    let fatal = Arc::new(move |end: End| match end {
        End::Rot(reason) => closed.quarantine(&reason, REMEDY_REBUILD),
        End::Failed(reason) => {
            tracing::error!(reason, "the process ends");
            std::process::exit(EXIT_PANIC);
        }
    });
    let mut runtime = RuntimeSettings::new(settings.node.id, fatal);
    let owned = cluster.clone();
    runtime.generation = Arc::new(move || owned.origin().0);
    let actors = &settings.actors;
    if actors.threads > 0 {
        runtime.arbiters = actors.threads;
        runtime.shards = u16::try_from(actors.threads).unwrap_or(u16::MAX);
    }
    if actors.shards > 0 {
        runtime.shards = actors.shards;
    }
    runtime.shard.intake = intake;
    runtime.shard.resident_max = actors.resident_max;
    runtime.marker_every_ms = i64::try_from(actors.marker_every.as_millis()).unwrap_or(i64::MAX);
    runtime.shard.idle_ms = u64::try_from(actors.idle_timeout.as_millis()).unwrap_or(u64::MAX);
    runtime
}

pub fn rocks_options(settings: &Settings) -> RocksOptions {
    let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    RocksOptions {
        block_cache_bytes: bytes(settings.storage.block_cache),
        write_buffer_bytes: bytes(settings.storage.write_buffers),
        background_jobs: i32::from(settings.storage.background_jobs.max(1)),
        ..RocksOptions::default()
    }
}

/// The runtime's figures as metrics.
pub fn runtime_figures(figures: &RuntimeFigures) -> Vec<(&'static str, f64)> {
    let mut found = vec![
        ("calls_local_total", figures.gateway.local as f64),
        ("calls_forwarded_total", figures.gateway.forwarded as f64),
        ("calls_received_total", figures.gateway.received as f64),
        ("calls_done_total", figures.gateway.done as f64),
        ("calls_refused_total", figures.gateway.refused as f64),
        ("calls_not_applied_total", figures.gateway.not_applied as f64),
        ("calls_unknown_total", figures.gateway.unknown as f64),
        ("call_retries_total", figures.gateway.retries as f64),
        ("courier_in_flight", figures.courier.in_flight as f64),
        ("courier_parked", figures.courier.parked as f64),
        ("courier_delivered_total", figures.courier.delivered as f64),
        ("courier_failed_total", figures.courier.failed as f64),
        ("courier_buried_total", figures.courier.buried as f64),
        ("timers_in_flight", figures.timers.in_flight as f64),
        ("timers_parked", figures.timers.parked as f64),
        ("timers_fired_total", figures.timers.fired as f64),
        ("timers_overdue_ms", figures.timers.overdue_ms as f64),
        ("message_targets", figures.message_depths.0 as f64),
        ("message_depth_max", f64::from(figures.message_depths.1)),
    ];
    let sum = |of: fn(&okno_runtime::shard::ShardFigures) -> f64| figures.shards.iter().map(of).sum::<f64>();
    found.extend([
        ("entities_resident", sum(|shard| shard.residents as f64)),
        ("callers_waiting", sum(|shard| shard.callers as f64)),
        ("activations_total", sum(|shard| shard.activations as f64)),
        ("passivations_total", sum(|shard| shard.passivations as f64)),
        ("rebuilds_total", sum(|shard| shard.rebuilds as f64)),
        ("panics_total", sum(|shard| shard.panics as f64)),
        ("proposals_total", sum(|shard| shard.proposals as f64)),
        ("refusals_total", sum(|shard| shard.refusals as f64)),
        ("remembered_total", sum(|shard| shard.remembered as f64)),
    ]);
    found
}
