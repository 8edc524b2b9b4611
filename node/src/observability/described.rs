//! Every family of figures: its name by Prometheus' conventions, what it is, and what it means. `docs/metrics.md` is
//! made from here; alert rules and dashboards may name nothing else.

use super::metrics::Sample;
use std::{borrow::Cow, fmt::Write};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    pub fn guess(family: &str) -> Self {
        if family.ends_with("_total") { Self::Counter } else { Self::Gauge }
    }
}

/// A row of the table.
#[derive(Debug)]
pub struct Described {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

/// HELP of what stands in no table; a test finds it.
pub const UNDESCRIBED: &str = "Not described yet";

/// Names of sources that are not shown as they are: (derived name, shown name and factor; `None`: not shown, because
/// another family tells more).
pub const RENAMED: &[(&str, Option<(&str, f64)>)] = &[
    ("okno_storage_rocksdb_writes", Some(("okno_storage_rocksdb_writes_total", 1.0))),
    ("okno_storage_rocksdb_syncs", Some(("okno_storage_rocksdb_syncs_total", 1.0))),
    ("okno_storage_rocksdb_written_bytes", Some(("okno_storage_rocksdb_written_bytes_total", 1.0))),
    (
        "okno_storage_rocksdb_delayed_write_rate",
        Some(("okno_storage_rocksdb_delayed_write_bytes_per_second", 1.0)),
    ),
    ("okno_storage_rocksdb_background_errors", Some(("okno_storage_rocksdb_background_errors_total", 1.0))),
    ("okno_power_battery_charge_percent", Some(("okno_power_battery_charge_ratio", 0.01))),
    ("okno_runtime_timers_overdue_ms", Some(("okno_runtime_timers_overdue_seconds", 0.001))),
    (
        "okno_clients_certificate_ends_seconds",
        Some(("okno_clients_certificate_expiry_timestamp_seconds", 1.0)),
    ),
    ("okno_peers_certificate_ends_seconds", Some(("okno_peers_certificate_expiry_timestamp_seconds", 1.0))),
];
/// Figures by level tell these, too.
const NOT_SHOWN: &str = "okno_storage_rocksdb_l0_files_";

macro_rules! described {
    ($($kind:ident $name:literal $help:literal;)*) => {
        pub const DESCRIBED: &[Described] = &[$(Described { name: $name, kind: Kind::$kind, help: $help }),*];
    };
}

described! {
    Gauge "okno_alarm" "Whether an alarm of this kind stands on this node";
    Gauge "okno_archive_index" "Last log entry that is archived at the backup target";
    Gauge "okno_archive_lag_seconds" "Age of the oldest applied entry that is not archived yet";
    Gauge "okno_archive_writes" "1 where this node archives the log";
    Gauge "okno_attendance_untold" "Workstations lost or back of which the leader has yet to tell their queues";
    Gauge "okno_attendance_workstations" "Workstations at windows that the leader hears of; 0 elsewhere";
    Gauge "okno_backup_age_seconds" "Time since the moment the newest whole backup shows; absent before the first";
    Gauge "okno_backup_bytes" "Size of the newest backup";
    Gauge "okno_backup_damaged_files" "Files of the target that the last reading of all of them found damaged; absent before the first";
    Counter "okno_backup_failed_total" "Backups of this node that failed";
    Gauge "okno_backup_last_duration_seconds" "How long the newest backup took";
    Gauge "okno_backup_new_bytes" "What of the newest backup had to be copied";
    Gauge "okno_backup_scrub_age_seconds" "Time since all files of the target were last read again; absent before the first";
    Counter "okno_backup_taken_total" "Backups this node completed";
    Counter "okno_board_cut_total" "Boards cut because they took nothing for 30 s";
    Counter "okno_board_entries_coalesced_total" "Changes of which a board was told only what came of them";
    Counter "okno_board_entries_total" "Entries sent to boards";
    Counter "okno_board_frames_total" "Frames sent to boards, signs of life among them";
    Gauge "okno_board_halls" "Offices whose board is watched on this node";
    Gauge "okno_board_streams" "Boards that this node serves";
    Gauge "okno_build_info" "1; the version is a label";
    Histogram "okno_call_seconds" "Time from a call's arrival to its response";
    Counter "okno_calls_total" "Calls by method and gRPC code";
    Gauge "okno_channel_breaker" "State of a channel's circuit breaker: 0 closed, 1 half open, 2 open";
    Counter "okno_channel_ended_total" "Messages of a channel that were answered or given up";
    Counter "okno_channel_failed_total" "Attempts of a channel's messages that failed";
    Counter "okno_channel_handed_out_total" "Deliveries of a channel's messages to connectors";
    Counter "okno_channel_lapsed_total" "Deliveries of a channel whose time ran out, by reason: unheard, overdue, gone";
    Gauge "okno_channel_leases" "Deliveries whose clock this node keeps, by phase; on the leader";
    Gauge "okno_channel_letters_parked" "Letters of a channel that wait for a person";
    Gauge "okno_channel_messages" "Messages of a channel, by state";
    Gauge "okno_channel_oldest_seconds" "Age of a channel's oldest message that is not dead; 0: there is none";
    Gauge "okno_channel_paused" "1 while a channel is paused or drained";
    Gauge "okno_channel_streams" "Streams of connectors that this node serves, by channel";
    Gauge "okno_clients_certificate_expiry_timestamp_seconds" "When our certificate for clients ends, Unix time";
    Gauge "okno_clients_connections" "Connections of clients now";
    Counter "okno_clients_connections_total" "Connections of clients taken";
    Counter "okno_clients_connections_turned_away_total" "Connections of clients closed because a bound was reached";
    Counter "okno_clients_handshakes_failed_total" "TLS handshakes with clients that failed";
    Gauge "okno_cluster_applied_index" "Last log entry applied to state";
    Counter "okno_cluster_apply_entries_total" "Log entries applied";
    Counter "okno_cluster_apply_seconds_total" "Time the apply thread spent applying";
    Counter "okno_cluster_apply_slices_total" "Write batches of the apply thread";
    Gauge "okno_cluster_commit_index" "Last log entry known to be committed";
    Gauge "okno_cluster_feature_level" "Replicated feature level";
    Counter "okno_cluster_forwards_received_total" "Calls taken over from other members";
    Counter "okno_cluster_forwards_sent_total" "Calls sent to the leader";
    Gauge "okno_cluster_last_index" "Last entry of this node's log";
    Gauge "okno_cluster_leader" "1 where this node leads and is ready, else 0";
    Gauge "okno_cluster_leader_known" "1 where this node leads or knows who does, else 0";
    Counter "okno_cluster_markers_passed_over_total" "Markers at which no digest was made, because the last was still being made";
    Gauge "okno_cluster_member_clock_offset_seconds" "A member's clock minus this node's";
    Gauge "okno_cluster_member_connected" "1 while this node's stream to the member is up";
    Gauge "okno_cluster_members" "Members of the cluster";
    Counter "okno_cluster_peer_frames_total" "Frames sent to members";
    Counter "okno_cluster_peer_messages_dropped_total" "Messages to members dropped at a bound";
    Counter "okno_cluster_peer_messages_total" "Messages sent to members";
    Gauge "okno_cluster_phase" "1 for the phase the node is in";
    Gauge "okno_cluster_proposals_in_flight" "Proposals on their way to an outcome";
    Gauge "okno_cluster_proposals_in_flight_bytes" "Their size";
    Histogram "okno_cluster_raft_append_seconds" "How long writes of the log took, synced";
    Counter "okno_cluster_raft_disk_full_messages_total" "Entries from the leader not taken in because the disk is full";
    Counter "okno_cluster_raft_elections_total" "Elections this node began";
    Gauge "okno_cluster_raft_entries_per_fsync" "Entries per fsync since the start: how well writes share syncs";
    Counter "okno_cluster_raft_entries_total" "Entries written to this node's log";
    Counter "okno_cluster_raft_fsyncs_total" "Fsyncs of this node's log";
    Gauge "okno_cluster_raft_log_first_index" "First entry that this node's log still has";
    Counter "okno_cluster_raft_messages_dropped_total" "Raft messages dropped, at a bound or behind it";
    Counter "okno_cluster_raft_messages_refused_total" "Raft messages refused by their checks";
    Counter "okno_cluster_raft_persist_seconds_total" "Time spent writing and syncing the log";
    Counter "okno_cluster_raft_proposals_total" "Proposals made to raft";
    Counter "okno_cluster_raft_reads_total" "Linearizable reads confirmed or tried";
    Counter "okno_cluster_raft_slow_appends_total" "Writes of the log that took longer than disk_slow";
    Counter "okno_cluster_raft_turns_total" "Turns of the raft thread";
    Gauge "okno_cluster_reads_in_flight" "Reads that wait for confirmation";
    Counter "okno_cluster_snapshots_failed_total" "Copies of this node's database that did not come to be installed";
    Counter "okno_cluster_snapshots_installed_total" "Copies of another member's database that this node installed";
    Counter "okno_cluster_snapshots_sent_total" "Copies of this node's database that were sent and installed";
    Counter "okno_cluster_snapshots_taken_total" "Copies of its database that this node took for others";
    Gauge "okno_cluster_term" "Raft term";
    Gauge "okno_cluster_time_seconds" "Replicated time, Unix time";
    Gauge "okno_connector_running" "1 while the process of a connector beside this node runs";
    Counter "okno_connector_starts_total" "Starts of a connector beside this node, those included that failed";
    Gauge "okno_dead_letters" "Messages between entities that were given up, at most 1000 counted";
    Gauge "okno_disk_free_bytes" "Free bytes of the file system of the data directory";
    Gauge "okno_disk_level" "0 enough room, 1 little, 2 no new work, 3 no writing";
    Gauge "okno_disk_reserve_bytes" "Bytes set aside, so that the last steps have room";
    Gauge "okno_disk_size_bytes" "Size of the file system of the data directory";
    Gauge "okno_disk_slow" "1 while the disk answers slowly";
    Gauge "okno_entities_quarantined" "Entities closed after repeated failures, at most 1000 counted";
    Gauge "okno_peers_certificate_expiry_timestamp_seconds" "When our certificate for members ends, Unix time";
    Gauge "okno_peers_connections" "Connections of members now";
    Counter "okno_peers_connections_total" "Connections of members taken";
    Counter "okno_peers_connections_turned_away_total" "Connections of members closed because a bound was reached";
    Counter "okno_peers_handshakes_failed_total" "TLS handshakes with members that failed";
    Gauge "okno_power_battery_charge_ratio" "Charge of the weakest battery, 0 to 1";
    Gauge "okno_power_battery_runtime_seconds" "How long the weakest battery lasts";
    Gauge "okno_power_failing" "1 while the node stops or has stopped intake for want of power";
    Gauge "okno_power_on_battery" "1 while the node runs on battery";
    Gauge "okno_power_on_battery_seconds" "How long it has";
    Gauge "okno_power_supplies" "Power supplies watched";
    Gauge "okno_power_supplies_lost" "Of them, those that do not answer";
    Gauge "okno_power_supplies_on_battery" "Of them, those on battery";
    Gauge "okno_queue_oldest_waiting_seconds" "How long the visitor who waits longest has waited, over all offices";
    Gauge "okno_queue_tickets" "Tickets of the last day of every office, by state";
    Gauge "okno_queue_windows" "Windows that are open, on a break or unattended, over all offices";
    Counter "okno_runtime_activations_total" "Entities brought into memory";
    Counter "okno_runtime_call_retries_total" "Calls tried again inside the node";
    Gauge "okno_runtime_callers_waiting" "Calls waiting for their outcome";
    Counter "okno_runtime_calls_done_total" "Changes acknowledged to callers of this node";
    Counter "okno_runtime_calls_forwarded_total" "Changes sent on to the leader";
    Counter "okno_runtime_calls_local_total" "Changes handed to entities of this node";
    Counter "okno_runtime_calls_not_applied_total" "Changes that did not happen and may be retried";
    Counter "okno_runtime_calls_received_total" "Changes taken over from other members";
    Counter "okno_runtime_calls_refused_total" "Changes refused by a rule";
    Counter "okno_runtime_calls_unknown_total" "Changes whose outcome nobody knew";
    Counter "okno_runtime_courier_buried_total" "Messages moved to the dead letters";
    Counter "okno_runtime_courier_delivered_total" "Messages between entities delivered";
    Counter "okno_runtime_courier_failed_total" "Deliveries of messages that failed and are tried again";
    Gauge "okno_runtime_courier_in_flight" "Messages being delivered";
    Gauge "okno_runtime_courier_parked" "Messages that wait for the end of a quarantine";
    Gauge "okno_runtime_entities_resident" "Entities in memory";
    Gauge "okno_runtime_message_depth_max" "Messages waiting for the entity with the most";
    Gauge "okno_runtime_message_targets" "Entities with messages waiting";
    Counter "okno_runtime_panics_total" "Panics of entities, caught";
    Counter "okno_runtime_passivations_total" "Entities that left memory because nobody asked for them";
    Counter "okno_runtime_proposals_total" "Commits proposed by entities";
    Counter "okno_runtime_rebuilds_total" "Entities rebuilt from storage";
    Counter "okno_runtime_refusals_total" "Commands entities refused";
    Counter "okno_runtime_remembered_total" "Requests answered from memory of an earlier attempt";
    Counter "okno_runtime_timers_fired_total" "Timers fired";
    Gauge "okno_runtime_timers_in_flight" "Timers being fired";
    Histogram "okno_runtime_timers_late_seconds" "How long after their time timers fired";
    Gauge "okno_runtime_timers_overdue_seconds" "How long the oldest timer being fired is overdue";
    Gauge "okno_runtime_timers_parked" "Timers that wait for the end of a quarantine";
    Counter "okno_scrub_bytes_total" "Bytes read by the scrubber";
    Counter "okno_scrub_damage_total" "Damage the scrubber found";
    Gauge "okno_scrub_last_pass_timestamp_seconds" "When the last whole pass ended, Unix time";
    Gauge "okno_scrub_orphans" "Index rows without their row, as last found";
    Counter "okno_scrub_passes_total" "Whole passes of the scrubber";
    Counter "okno_scrub_rows_total" "Rows read by the scrubber";
    Counter "okno_security_events_dropped_total" "Security events that found no room";
    Counter "okno_security_events_total" "Security events recorded";
    Gauge "okno_security_log_failed" "1 once the security log cannot be written";
    Counter "okno_storage_rocksdb_background_errors_total" "Errors of flushes and compactions";
    Gauge "okno_storage_rocksdb_block_cache_bytes" "Memory of the block cache";
    Gauge "okno_storage_rocksdb_delayed_write_bytes_per_second" "The rate writes are slowed down to; 0: they are not";
    Gauge "okno_storage_rocksdb_keys" "Keys by family, estimated";
    Gauge "okno_storage_rocksdb_live_bytes" "Bytes of live data by family, estimated";
    Gauge "okno_storage_rocksdb_memtable_bytes" "Memory of what is not in tables yet";
    Gauge "okno_storage_rocksdb_pending_compaction_bytes" "Bytes that wait to be compacted";
    Counter "okno_storage_rocksdb_syncs_total" "Syncs of the write-ahead log";
    Gauge "okno_storage_rocksdb_table_bytes" "Bytes of tables by family";
    Gauge "okno_storage_rocksdb_table_files" "Tables by family and level";
    Gauge "okno_storage_rocksdb_wal_bytes" "Bytes of the write-ahead log's files";
    Gauge "okno_storage_rocksdb_write_stopped" "1 while writes are stopped until compaction catches up";
    Counter "okno_storage_rocksdb_writes_total" "Write batches";
    Counter "okno_storage_rocksdb_written_bytes_total" "Bytes of write batches";
    Counter "okno_traces_spans_dropped_total" "Spans that found no room in the queue";
    Counter "okno_traces_spans_failed_total" "Spans that the collector of traces did not take";
    Counter "okno_traces_spans_sent_total" "Spans that the collector of traces took";
    Gauge "okno_uptime_seconds" "Time since the node was started";
    Gauge "okno_workstations_attached" "Workstations attached to this node";
}

/// What the `prometheus` library's process collector shows.
pub const OF_THE_PROCESS: &[&str] = &[
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
];

pub fn find(family: &str) -> Option<&'static Described> {
    DESCRIBED.iter().find(|row| row.name == family)
}

/// The family a sample belongs to.
pub fn family_of(sample: &str) -> &str {
    ["_bucket", "_sum", "_count"]
        .iter()
        .filter_map(|end| sample.strip_suffix(end))
        .find(|base| find(base).is_some_and(|row| row.kind == Kind::Histogram))
        .unwrap_or(sample)
}

/// A source's figure as it is shown.
pub fn sample(prefix: &str, name: &str, value: f64) -> Option<Sample> {
    let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
    let derived = format!("okno_{prefix}_{name}");
    if derived.starts_with(NOT_SHOWN) {
        return None;
    }
    match RENAMED.iter().find(|(from, _)| *from == derived) {
        Some((_, Some((to, factor)))) => Some(Sample::plain(Cow::Borrowed(*to), value * factor)),
        Some((_, None)) => None,
        None => Some(Sample::plain(derived, value)),
    }
}

/// The list as Markdown, for `docs/metrics.md`.
pub fn markdown() -> String {
    let mut text = String::from("| Family | Type | Means |\n|---|---|---|\n");
    for row in DESCRIBED {
        let _ = writeln!(text, "| `{}` | {} | {} |", row.name, row.kind.name(), row.help);
    }
    for name in OF_THE_PROCESS {
        let _ = writeln!(
            text,
            "| `{name}` | {} | of the process, as every exporter has it |",
            Kind::guess(name).name()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        for pair in DESCRIBED.windows(2) {
            assert!(pair[0].name < pair[1].name, "{} and {}: in order, once", pair[0].name, pair[1].name);
        }
        for row in DESCRIBED {
            let plain = row
                .name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit());
            assert!(plain && row.name.starts_with("okno_"), "{}", row.name);
            assert_eq!(row.kind == Kind::Counter, row.name.ends_with("_total"), "{}", row.name);
            for unit in ["_ms", "_us", "_millis", "_kb", "_mb", "_minutes", "_hours", "_percent"] {
                assert!(!row.name.ends_with(unit), "{}: base units only", row.name);
            }
            assert!(!row.help.is_empty() && !row.help.ends_with('.'), "{}", row.name);
        }
        for (_, shown) in RENAMED {
            if let Some((to, _)) = shown {
                assert!(find(to).is_some(), "{to}");
            }
        }
    }

    #[test]
    fn published_list_is_complete() {
        crate::published::check("metrics.md", "families", &markdown());
    }
}
