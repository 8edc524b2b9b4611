//! `okno.v1.OperationsService`: seeing how a node does (R-O1). Nothing here needs a leader or whole data.

use super::desk::Desk;
use crate::{
    failure::Failure,
    front::CallContext,
    observability::{
        alarms::{Severity, kinds},
        http::{Checks, Ops},
        support,
    },
};
use futures::{Stream, stream};
use okno_cluster::MemberAlarms;
use okno_proto::v1::{self, operations_service_server::OperationsService};
use okno_storage::snapshot::RocksHome;
use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tonic::{Request, Response, Status};

/// Pieces of a part on the wire: well below a message's bound.
const PIECE_BYTES: usize = 256 * 1024;
/// A member that was not heard for this long may have any alarm: gossip comes every heartbeat.
const HEARD_MS_MAX: u64 = 10_000;

pub struct Operations {
    desk: Arc<Desk>,
    ops: Arc<Ops>,
    /// `None`: the node is quarantined and has no database open.
    home: Option<Arc<RocksHome>>,
    /// One support bundle at a time: it reads files and walks the database's figures.
    gathering: Arc<tokio::sync::Semaphore>,
}

impl Operations {
    pub fn new(desk: Arc<Desk>, ops: Arc<Ops>, home: Option<Arc<RocksHome>>) -> Self {
        Self { desk, ops, home, gathering: Arc::new(tokio::sync::Semaphore::new(1)) }
    }
}

/// The alarms of all members heard of, and who was not.
fn alarms_response(own: u64, members: &[u64], heard: &[MemberAlarms]) -> v1::ListAlarmsResponse {
    let mut response = v1::ListAlarmsResponse { served_by: own, ..v1::ListAlarmsResponse::default() };
    for member in heard {
        for alarm in &member.alarms {
            let severity = match Severity::of_number(alarm.severity) {
                Severity::Warning => v1::Severity::Warning,
                Severity::Alarm => v1::Severity::Alarm,
            };
            let since =
                SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(alarm.since_ms).unwrap_or(0));
            response.alarms.push(v1::Alarm {
                node_id: member.node,
                kind: alarm.kind.clone(),
                severity: severity.into(),
                since: Some(since.into()),
                text_ru: alarm.text_ru.clone(),
                reason: alarm.text_en.clone(),
                runbook: kinds::find(&alarm.kind).map_or_else(String::new, |row| row.runbook.to_owned()),
            });
        }
    }
    response.alarms.sort_by(|a, b| (a.node_id, &a.kind).cmp(&(b.node_id, &b.kind)));
    let fresh = |id: &u64| heard.iter().any(|one| one.node == *id && one.heard_ms_ago <= HEARD_MS_MAX);
    response.unheard = members.iter().copied().filter(|id| *id != own && !fresh(id)).collect();
    response
}

fn checks(checks: &Checks) -> Vec<v1::HealthCheck> {
    let results = checks.run().into_iter();
    results
        .map(|(name, result)| v1::HealthCheck {
            name: name.to_owned(),
            ok: result.is_ok(),
            reason: result.err().unwrap_or_default(),
        })
        .collect()
}

/// A part in pieces; an empty one is told, too.
fn pieces(part: &'static str, data: Vec<u8>) -> Vec<v1::GetSupportDataResponse> {
    if data.is_empty() {
        return vec![v1::GetSupportDataResponse { part: part.to_owned(), data: bytes::Bytes::new() }];
    }
    let data = bytes::Bytes::from(data);
    (0..data.len())
        .step_by(PIECE_BYTES)
        .map(|from| v1::GetSupportDataResponse {
            part: part.to_owned(),
            data: data.slice(from..(from + PIECE_BYTES).min(data.len())),
        })
        .collect()
}

#[tonic::async_trait]
impl OperationsService for Operations {
    async fn list_alarms(
        &self,
        request: Request<v1::ListAlarmsRequest>,
    ) -> Result<Response<v1::ListAlarmsResponse>, Status> {
        let handler = |desk: Arc<Desk>, _: CallContext, _| async move {
            let members: Vec<u64> = desk.cluster.status().members.iter().map(|one| one.id).collect();
            Ok(alarms_response(desk.node_id, &members, &desk.cluster.alarms()))
        };
        self.desk.handle(request, handler).await
    }

    async fn get_health(
        &self,
        request: Request<v1::GetHealthRequest>,
    ) -> Result<Response<v1::GetHealthResponse>, Status> {
        let ops = self.ops.clone();
        let handler = |desk: Arc<Desk>, _: CallContext, _| async move {
            let (live_checks, ready_checks) = (checks(&ops.live), checks(&ops.ready));
            Ok(v1::GetHealthResponse {
                served_by: desk.node_id,
                live: live_checks.iter().all(|check| check.ok),
                ready: ready_checks.iter().all(|check| check.ok),
                live_checks,
                ready_checks,
            })
        };
        self.desk.handle(request, handler).await
    }

    async fn get_metrics(
        &self,
        request: Request<v1::GetMetricsRequest>,
    ) -> Result<Response<v1::GetMetricsResponse>, Status> {
        let ops = self.ops.clone();
        let handler = |desk: Arc<Desk>, _: CallContext, _| async move {
            let text = tokio::task::spawn_blocking(move || ops.page()).await.map_err(|_| failed())?;
            Ok(v1::GetMetricsResponse { served_by: desk.node_id, text })
        };
        self.desk.handle(request, handler).await
    }

    async fn get_log_filter(
        &self,
        request: Request<v1::GetLogFilterRequest>,
    ) -> Result<Response<v1::GetLogFilterResponse>, Status> {
        let ops = self.ops.clone();
        let handler = |desk: Arc<Desk>, _: CallContext, _| async move {
            let found = ops.logs.filter();
            Ok(v1::GetLogFilterResponse {
                served_by: desk.node_id,
                filter: found.filter,
                configured: found.configured,
                until: found.until.map(Into::into),
            })
        };
        self.desk.handle(request, handler).await
    }

    async fn set_log_filter(
        &self,
        request: Request<v1::SetLogFilterRequest>,
    ) -> Result<Response<v1::SetLogFilterResponse>, Status> {
        let ops = self.ops.clone();
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::SetLogFilterRequest| async move {
            let lasts = message.lasts.map(Duration::try_from).transpose().map_err(|_| {
                Failure::field("lasts", "ожидается время больше нуля", "expected a time above zero")
            })?;
            desk.record_operated(&context, &format!("log filter {:.200}", message.filter))?;
            let found = ops.logs.set(&message.filter, lasts).map_err(|detail| {
                Failure::field("filter", "не директивы журнала", &format!("not a log filter: {detail}"))
            })?;
            tracing::info!(filter = found.filter, principal = %context.caller().principal, "log filter changed");
            Ok(v1::SetLogFilterResponse {
                served_by: desk.node_id,
                filter: found.filter,
                until: found.until.map(Into::into),
            })
        };
        self.desk.handle(request, handler).await
    }

    type GetSupportDataStream =
        Pin<Box<dyn Stream<Item = Result<v1::GetSupportDataResponse, Status>> + Send>>;

    async fn get_support_data(
        &self,
        request: Request<v1::GetSupportDataRequest>,
    ) -> Result<Response<Self::GetSupportDataStream>, Status> {
        let (ops, home, gathering) = (self.ops.clone(), self.home.clone(), self.gathering.clone());
        let handler = |desk: Arc<Desk>, context: CallContext, _| async move {
            let _one = gathering.try_acquire_owned().map_err(|_| {
                Failure::exhausted("OVERLOADED", "support data are being gathered for somebody else")
            })?;
            desk.record_operated(&context, "support data")?;
            let parts = tokio::task::spawn_blocking(move || {
                support::parts(&ops, home.map(|home| home.live()).as_ref())
            });
            let parts = parts.await.map_err(|_| failed())?;
            let all: Vec<_> = parts.into_iter().flat_map(|(part, data)| pieces(part, data)).map(Ok).collect();
            Ok(Box::pin(stream::iter(all)) as Self::GetSupportDataStream)
        };
        self.desk.handle(request, handler).await
    }
}

/// What was to be gathered panicked; the log has it.
fn failed() -> Failure {
    Failure::Internal { detail: "gathering failed".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use okno_cluster::MemberAlarm;

    #[test]
    fn alarms_of_all_members_and_who_was_not_heard() {
        let alarm = |kind: &str| MemberAlarm {
            kind: kind.into(),
            severity: 3,
            since_ms: 1_000,
            text_ru: "т".into(),
            text_en: "t".into(),
        };
        let heard = [
            MemberAlarms { node: 2, heard_ms_ago: HEARD_MS_MAX + 1, alarms: vec![alarm("MADE_UP")] },
            MemberAlarms { node: 1, heard_ms_ago: 0, alarms: vec![alarm("DISK_FULL")] },
        ];
        let found = alarms_response(1, &[1, 2, 3], &heard);
        let kinds: Vec<_> = found.alarms.iter().map(|one| (one.node_id, one.kind.as_str())).collect();
        assert_eq!(kinds, [(1, "DISK_FULL"), (2, "MADE_UP")]);
        assert_eq!((found.alarms[0].runbook.as_str(), found.alarms[1].runbook.as_str()), ("disk-space", ""));
        assert_eq!(found.unheard, [2, 3]);
    }

    #[test]
    fn parts_come_in_pieces_and_whole() {
        let data: Vec<u8> = (0..PIECE_BYTES * 2 + 7).map(|n| (n % 251) as u8).collect();
        let found = pieces("log.jsonl", data.clone());
        assert_eq!(found.len(), 3);
        assert_eq!(found.iter().flat_map(|piece| piece.data.to_vec()).collect::<Vec<_>>(), data);
        assert_eq!(pieces("empty", Vec::new()).len(), 1);
    }
}
