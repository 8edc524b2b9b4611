//! Figures of the parts, as samples: what `/metrics` asks for at each scrape.

use super::{metrics::Sample, population::Population};
use okno_cluster::{ClusterHandle, NodePhase, api::Role};
use okno_runtime::timers::{LATE_MS, Lateness};
use okno_storage::rocks::RocksEngine;
use std::time::Instant;

/// Phases a node can be in, by their names.
const PHASES: [&str; 5] = ["starting", "pinning", "serving", "quarantined", "stopping"];

/// The cluster as this node sees it.
pub fn cluster(cluster: &ClusterHandle) -> Vec<Sample> {
    let status = cluster.status();
    let own = status.node_id;
    let leads = matches!(status.role, Role::Leader { ready: true });
    let known = matches!(status.role, Role::Leader { .. } | Role::Follower { leader: Some(_) });
    let mut out = vec![
        Sample::plain("okno_cluster_term", status.term as f64),
        Sample::plain("okno_cluster_commit_index", status.commit as f64),
        Sample::plain("okno_cluster_applied_index", status.applied as f64),
        Sample::plain("okno_cluster_last_index", status.last_index as f64),
        Sample::plain("okno_cluster_leader", f64::from(u8::from(leads))),
        Sample::plain("okno_cluster_leader_known", f64::from(u8::from(known))),
        Sample::plain("okno_cluster_members", status.members.len() as f64),
        Sample::plain("okno_cluster_feature_level", f64::from(status.level)),
        Sample::plain("okno_cluster_time_seconds", status.time_ms as f64 / 1e3),
    ];
    let phase = phase_name(&status.phase);
    for name in PHASES {
        let value = f64::from(u8::from(name == phase));
        out.push(Sample::labelled("okno_cluster_phase", format!("phase=\"{name}\""), value));
    }
    for member in status.members.iter().filter(|member| member.id != own) {
        let label = format!("member=\"{}\"", member.id);
        let connected = f64::from(u8::from(member.connected));
        out.push(Sample::labelled("okno_cluster_member_connected", label.clone(), connected));
        if let Some(offset) = member.clock_offset_ms {
            let name = "okno_cluster_member_clock_offset_seconds";
            out.push(Sample::labelled(name, label, offset as f64 / 1e3));
        }
    }
    let (classes, seconds) = cluster.append_times();
    let name = "okno_cluster_raft_append_seconds";
    let count = classes.last().map_or(0, |(_, count)| *count);
    for (bound, up_to) in classes {
        let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
        out.push(Sample::labelled(format!("{name}_bucket"), format!("le=\"{bound}\""), up_to as f64));
    }
    out.push(Sample::plain(format!("{name}_sum"), seconds));
    out.push(Sample::plain(format!("{name}_count"), count as f64));
    out
}

fn phase_name(phase: &NodePhase) -> &'static str {
    match phase {
        NodePhase::Starting => "starting",
        NodePhase::Pinning { .. } => "pinning",
        NodePhase::Serving => "serving",
        NodePhase::Quarantined { .. } => "quarantined",
        NodePhase::Stopping => "stopping",
    }
}

/// The database by family and level; the totals are a source of their own.
pub fn storage(engine: &RocksEngine) -> Vec<Sample> {
    let mut out = vec![Sample::plain("okno_storage_rocksdb_wal_bytes", engine.wal_bytes() as f64)];
    for (family, what, value) in engine.family_figures() {
        let name = match what {
            "table_bytes" => "okno_storage_rocksdb_table_bytes",
            "live_bytes" => "okno_storage_rocksdb_live_bytes",
            "keys" => "okno_storage_rocksdb_keys",
            // Their sums are shown.
            _ => continue,
        };
        out.push(Sample::labelled(name, format!("family=\"{family}\""), value as f64));
    }
    for (family, level, files) in engine.level_files() {
        let labels = format!("family=\"{family}\",level=\"{level}\"");
        out.push(Sample::labelled("okno_storage_rocksdb_table_files", labels, files as f64));
    }
    out
}

/// How late timers fired, as a histogram.
pub fn lateness(late: &Lateness) -> Vec<Sample> {
    let mut out = Vec::new();
    let mut count = 0;
    for (place, here) in late.counts.iter().enumerate() {
        count += here;
        let bound = LATE_MS.get(place).map_or_else(|| "+Inf".to_owned(), |ms| (*ms as f64 / 1e3).to_string());
        let bound = format!("le=\"{bound}\"");
        out.push(Sample::labelled("okno_runtime_timers_late_seconds_bucket", bound, count as f64));
    }
    out.push(Sample::plain("okno_runtime_timers_late_seconds_sum", late.sum_ms as f64 / 1e3));
    out.push(Sample::plain("okno_runtime_timers_late_seconds_count", count as f64));
    out
}

/// What was counted last in the rows.
pub fn population(found: &Population) -> Vec<Sample> {
    let mut out = vec![
        Sample::plain("okno_entities_quarantined", found.quarantined as f64),
        Sample::plain("okno_dead_letters", found.dead_letters as f64),
        Sample::plain("okno_queue_oldest_waiting_seconds", found.oldest_waiting_ms as f64 / 1e3),
    ];
    for (state, count) in &found.tickets {
        let labels = format!("state=\"{state}\"");
        out.push(Sample::labelled("okno_queue_tickets", labels, *count as f64));
    }
    for (state, count) in &found.windows {
        let labels = format!("state=\"{state}\"");
        out.push(Sample::labelled("okno_queue_windows", labels, *count as f64));
    }
    out
}

/// The program and how long it runs.
pub fn program(started: Instant) -> Vec<Sample> {
    vec![
        Sample::labelled("okno_build_info", format!("version=\"{}\"", env!("CARGO_PKG_VERSION")), 1.0),
        Sample::plain("okno_uptime_seconds", started.elapsed().as_secs_f64()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_cumulative() {
        let mut late = Lateness::default();
        late.counts[0] = 2;
        late.counts[4] = 1;
        late.counts[LATE_MS.len()] = 1;
        late.sum_ms = 90_000_000;
        let samples = lateness(&late);
        let value = |labels: &str| samples.iter().find(|one| one.labels == labels).expect("a bucket").value;
        assert_eq!((value("le=\"0.05\""), value("le=\"1\""), value("le=\"+Inf\"")), (2.0, 3.0, 4.0));
        assert_eq!(samples.last().map(|one| one.value), Some(4.0));
    }
}
