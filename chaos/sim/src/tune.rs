//! What differs between runs beside their faults: size, bounds, speed. Drawn from the seed.

use crate::{config::Config, core::stream};
use okno_runtime::ShardSettings;
use rand::Rng;

/// Proposals in flight that a node with small bounds admits: few enough that a burst of clients meets the bound.
const SMALL_IN_FLIGHT: usize = 6;
/// What one turn of a shard may hand in at most: its callers and all that courier and scanner have under way.
pub const TURN_MAX: usize = 8_192 + 512;

#[derive(Debug, Clone)]
pub struct Tune {
    pub nodes: usize,
    pub clients: usize,
    pub shards: u16,
    pub shard: ShardSettings,
    /// Proposals in flight on one node, and open reads.
    pub in_flight_max: usize,
    pub reads_max: usize,
    /// The usual time of an append, microseconds.
    pub append_us: (u64, u64),
    /// The usual time of a slice.
    pub apply_us: (u64, u64),
    /// The usual time of a decision.
    pub decide_us: (u64, u64),
    /// Activations are told later than they are made.
    pub late_loads: bool,
    /// Slices are sometimes shorter than what waits.
    pub short_slices: bool,
    pub marker_every_ms: i64,
    /// The cluster is made in the run: nothing is pinned, founded or furnished.
    pub from_nothing: bool,
}

impl Tune {
    pub fn draw(config: &Config) -> Self {
        let mut rng = stream(config.seed, 5);
        let nodes = match rng.gen_range(0..20) {
            0..=1 => 1,
            2..=4 => 5,
            _ => 3,
        };
        let clients = rng.gen_range(4..=9);
        let small = rng.gen_bool(0.15);
        let eager = rng.gen_bool(0.3);
        let shard = ShardSettings {
            entity_calls_max: if small { 3 } else { 64 },
            entity_completions_max: if small { 2 } else { 64 },
            calls_max: if small { 5 } else { 8_192 },
            resident_max: if eager { 2 } else { 1_000 },
            idle_ms: if eager { 200 } else { 300_000 },
            ..ShardSettings::default()
        };
        let append_us = match rng.gen_range(0..4) {
            0 => (80, 400),
            1 => (200, 1_500),
            2 => (500, 5_000),
            _ => (2_000, 15_000),
        };
        let apply_us = if rng.gen_bool(0.8) { (20, 300) } else { (500, 8_000) };
        let decide_us = if rng.gen_bool(0.7) { (5, 60) } else { (100, 3_000) };
        let shards = rng.gen_range(1..=3);
        let (late_loads, short_slices) = (rng.gen_bool(0.3), rng.gen_bool(0.3));
        let marker_every_ms = if rng.gen_bool(0.2) { 3_000 } else { 24 * 3_600_000 };
        let from_nothing = rng.gen_bool(1.0 / 32.0);
        Self {
            nodes: config.nodes.unwrap_or(nodes).max(1),
            clients: config.clients.unwrap_or(clients),
            shards,
            shard,
            in_flight_max: if small { SMALL_IN_FLIGHT } else { okno_cluster::settings::IN_FLIGHT_MAX },
            reads_max: if small { SMALL_IN_FLIGHT } else { okno_cluster::settings::READS_MAX },
            append_us,
            apply_us,
            decide_us,
            late_loads,
            short_slices,
            marker_every_ms,
            from_nothing,
        }
    }

    /// A quiet world, as images are made in.
    pub fn plain(nodes: usize) -> Self {
        Self {
            nodes,
            clients: 0,
            shards: 1,
            shard: ShardSettings::default(),
            in_flight_max: okno_cluster::settings::IN_FLIGHT_MAX,
            reads_max: okno_cluster::settings::READS_MAX,
            append_us: (200, 400),
            apply_us: (20, 40),
            decide_us: (5, 10),
            late_loads: false,
            short_slices: false,
            marker_every_ms: 24 * 3_600_000,
            from_nothing: true,
        }
    }
}
