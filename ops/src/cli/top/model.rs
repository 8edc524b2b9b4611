//! What `top` shows, from what nodes said at two moments: pure, so that it is tested without a cluster.

use crate::exposition::{self, Exposition, Labels};
use okno_client::{
    Effect, PATHS,
    v1::{Alarm, GetHealthResponse, GetStatusResponse, MemberRole, NodePhase},
};
use serde::Serialize;

/// What one endpoint said at one moment.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub status: Option<GetStatusResponse>,
    pub health: Option<GetHealthResponse>,
    pub figures: Option<Exposition>,
    /// Why it did not answer.
    pub error: String,
}

/// All endpoints at one moment.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// Seconds on a clock that never jumps.
    pub at: f64,
    pub said: Vec<Said>,
    pub alarms: Vec<Alarm>,
}

/// A row of the view: one endpoint. `None`: not known, or not there (a node without a UPS).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NodeRow {
    pub endpoint: String,
    pub node_id: u64,
    pub version: String,
    pub phase: String,
    pub role: String,
    pub ready: Option<bool>,
    pub applied_index: u64,
    /// Entries behind the furthest node.
    pub lag: Option<u64>,
    /// Changes acknowledged here per second.
    pub writes_per_second: Option<f64>,
    pub reads_per_second: Option<f64>,
    /// Of changes, over the last interval.
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// Time of one fsync of the log, on average.
    pub fsync_ms: Option<f64>,
    pub proposals_in_flight: Option<f64>,
    pub entities_resident: Option<f64>,
    pub callers_waiting: Option<f64>,
    pub messages_waiting: Option<f64>,
    pub timers_overdue_seconds: Option<f64>,
    pub workstations: Option<f64>,
    pub memory_bytes: Option<f64>,
    pub cpu_cores: Option<f64>,
    pub disk_free_bytes: Option<f64>,
    pub backup_age_seconds: Option<f64>,
    pub ups_charge_ratio: Option<f64>,
    pub on_battery: Option<bool>,
    /// Why nothing is known.
    pub error: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AlarmRow {
    pub node_id: u64,
    pub kind: String,
    pub severity: String,
    pub reason: String,
}

/// The whole view.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct View {
    pub cluster: String,
    pub leader: u64,
    pub term: u64,
    pub level: u32,
    pub writes_per_second: f64,
    pub nodes: Vec<NodeRow>,
    pub alarms: Vec<AlarmRow>,
}

impl View {
    /// The view at `after`; what is counted is counted since `before`.
    pub fn between(endpoints: &[String], before: &Moment, after: &Moment) -> Self {
        let elapsed = (after.at - before.at).max(0.001);
        let furthest =
            after.said.iter().filter_map(|said| said.status.as_ref()).map(|s| s.applied_index).max();
        let mut view = Self::default();
        for (place, endpoint) in endpoints.iter().enumerate() {
            let (Some(now), then) = (after.said.get(place), before.said.get(place)) else { continue };
            let mut row =
                NodeRow { endpoint: endpoint.clone(), error: now.error.clone(), ..NodeRow::default() };
            if let Some(status) = &now.status {
                row.state(status, furthest);
                if status.term >= view.term {
                    view.term = status.term;
                    if status.leader != 0 {
                        view.leader = status.leader;
                    }
                    view.level = status.level;
                    view.cluster.clone_from(&status.cluster);
                }
            }
            row.ready = now.health.as_ref().map(|health| health.ready);
            if let Some(figures) = &now.figures {
                row.standing(figures);
                if let Some(earlier) = then.and_then(|then| then.figures.as_ref()) {
                    row.moving(earlier, figures, elapsed);
                }
            }
            view.writes_per_second += row.writes_per_second.unwrap_or_default();
            view.nodes.push(row);
        }
        view.alarms = after
            .alarms
            .iter()
            .map(|alarm| AlarmRow {
                node_id: alarm.node_id,
                kind: alarm.kind.clone(),
                severity: super::super::output::plain(alarm.severity().as_str_name(), "SEVERITY_"),
                reason: alarm.reason.clone(),
            })
            .collect();
        view
    }
}

impl NodeRow {
    fn state(&mut self, status: &GetStatusResponse, furthest: Option<u64>) {
        self.node_id = status.node_id;
        self.version.clone_from(&status.version);
        self.phase = super::super::output::plain(status.phase().as_str_name(), "NODE_PHASE_");
        self.role = super::super::output::plain(status.role().as_str_name(), "MEMBER_ROLE_");
        if status.phase() == NodePhase::Serving && status.role() == MemberRole::Unspecified {
            self.role.clear();
        }
        self.applied_index = status.applied_index;
        self.lag = furthest.map(|furthest| furthest.saturating_sub(status.applied_index));
        self.error.clone_from(&status.reason);
    }

    /// Figures of the moment.
    fn standing(&mut self, figures: &Exposition) {
        let get = |name: &str| figures.sum(name, &[]);
        self.proposals_in_flight = get("okno_cluster_proposals_in_flight");
        self.entities_resident = get("okno_runtime_entities_resident");
        self.callers_waiting = get("okno_runtime_callers_waiting");
        self.messages_waiting = get("okno_runtime_courier_in_flight")
            .map(|flying| flying + get("okno_runtime_courier_parked").unwrap_or_default());
        self.timers_overdue_seconds = get("okno_runtime_timers_overdue_seconds");
        self.workstations = get("okno_workstations_attached");
        self.memory_bytes = get("process_resident_memory_bytes");
        self.disk_free_bytes = get("okno_disk_free_bytes");
        self.backup_age_seconds = get("okno_backup_age_seconds");
        self.ups_charge_ratio = get("okno_power_battery_charge_ratio");
        self.on_battery = get("okno_power_on_battery").map(|on| on > 0.0);
    }

    /// Figures of what happened in between.
    fn moving(&mut self, before: &Exposition, after: &Exposition, elapsed: f64) {
        let rate = |name: &str| {
            let now = after.sum(name, &[])?;
            Some((now - before.value(name)).max(0.0) / elapsed)
        };
        self.writes_per_second = rate("okno_runtime_calls_done_total");
        self.cpu_cores = rate("process_cpu_seconds_total");
        let calls = |moment: &Exposition| {
            moment.families.get("okno_calls_total").map_or(0.0, |family| {
                let reads = family.samples.iter().filter(|(_, labels, _)| of_effect(labels, Effect::Reads));
                reads.map(|(.., value)| value).sum()
            })
        };
        self.reads_per_second = Some((calls(after) - calls(before)).max(0.0) / elapsed);
        let writes = |moment: &Exposition| {
            moment.buckets("okno_call_seconds", |labels| of_effect(labels, Effect::Mutates))
        };
        let (earlier, later) = (writes(before), writes(after));
        self.p50_ms = exposition::quantile(&earlier, &later, 0.5).map(|seconds| seconds * 1e3);
        self.p99_ms = exposition::quantile(&earlier, &later, 0.99).map(|seconds| seconds * 1e3);
        let grown = |name: &str| (after.value(name) - before.value(name)).max(0.0);
        let fsyncs = grown("okno_cluster_raft_fsyncs_total");
        self.fsync_ms =
            (fsyncs > 0.0).then(|| grown("okno_cluster_raft_persist_seconds_total") * 1e3 / fsyncs);
    }
}

/// Whether a sample is of a method that people's work consists of, with this effect.
fn of_effect(labels: &Labels, effect: Effect) -> bool {
    // What `top` itself asks is no load.
    let work = |method: &&String| {
        !method.starts_with("/okno.v1.OperationsService/") && !method.starts_with("/okno.v1.ClusterService/")
    };
    labels
        .get("method")
        .filter(work)
        .is_some_and(|method| PATHS.iter().any(|(path, found)| path == method && *found == effect))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(done: u64, fast: u64, all: u64) -> Exposition {
        let method = "method=\"/okno.v1.CaseService/AddDocument\"";
        Exposition::parse(&format!(
            "# HELP okno_runtime_calls_done_total x\n# TYPE okno_runtime_calls_done_total counter\n\
             okno_runtime_calls_done_total {done}\n\
             # HELP okno_call_seconds x\n# TYPE okno_call_seconds histogram\n\
             okno_call_seconds_bucket{{{method},le=\"0.01\"}} {fast}\n\
             okno_call_seconds_bucket{{{method},le=\"0.02\"}} {all}\n\
             okno_call_seconds_bucket{{{method},le=\"+Inf\"}} {all}\n\
             okno_call_seconds_bucket{{method=\"/okno.v1.OperationsService/GetMetrics\",le=\"+Inf\"}} 1000\n\
             # HELP okno_power_on_battery x\n# TYPE okno_power_on_battery gauge\nokno_power_on_battery 1\n"
        ))
        .expect("good")
    }

    fn status(node_id: u64, applied_index: u64, leader: u64) -> GetStatusResponse {
        GetStatusResponse {
            node_id,
            applied_index,
            leader,
            term: 3,
            phase: NodePhase::Serving.into(),
            role: if leader == node_id { MemberRole::Leader } else { MemberRole::Follower }.into(),
            ..GetStatusResponse::default()
        }
    }

    #[test]
    fn rates_and_percentiles_are_of_the_interval() {
        let endpoints = ["a:1".to_owned(), "b:1".to_owned(), "c:1".to_owned()];
        let said = |node, applied, figures| Said {
            status: Some(status(node, applied, 1)),
            figures: Some(figures),
            ..Said::default()
        };
        let silent = Said { error: "refused".into(), ..Said::default() };
        let before = Moment {
            at: 10.0,
            said: vec![
                said(1, 100, figures(1_000, 900, 1_000)),
                said(2, 90, figures(0, 0, 0)),
                silent.clone(),
            ],
            alarms: Vec::new(),
        };
        let after = Moment {
            at: 12.0,
            said: vec![said(1, 300, figures(1_200, 900, 1_100)), said(2, 290, figures(0, 0, 0)), silent],
            alarms: vec![Alarm { node_id: 2, kind: "DISK_LOW".into(), ..Alarm::default() }],
        };
        let view = View::between(&endpoints, &before, &after);
        assert_eq!((view.leader, view.term, view.writes_per_second), (1, 3, 100.0));
        let first = &view.nodes[0];
        assert_eq!((first.role.as_str(), first.lag, first.on_battery), ("leader", Some(0), Some(true)));
        let p99 = first.p99_ms.expect("calls were made");
        assert!((19.8..=20.0).contains(&p99), "{p99}");
        assert_eq!((view.nodes[1].lag, view.nodes[1].p99_ms), (Some(10), None));
        assert_eq!((view.nodes[2].error.as_str(), view.nodes[2].lag), ("refused", None));
        assert_eq!(view.alarms[0].kind, "DISK_LOW");
    }

    #[test]
    fn a_node_that_was_started_again_counts_from_nothing() {
        let endpoints = ["a:1".to_owned()];
        let moment = |at, figures| Moment {
            at,
            said: vec![Said { status: Some(status(1, 1, 1)), figures: Some(figures), ..Said::default() }],
            alarms: Vec::new(),
        };
        let view = View::between(
            &endpoints,
            &moment(1.0, figures(500, 500, 500)),
            &moment(2.0, figures(10, 10, 10)),
        );
        assert_eq!(view.nodes[0].writes_per_second, Some(0.0));
    }
}
