//! What RocksDB tells about itself beyond the totals of [`Engine::stats`](crate::engine::Engine::stats): figures by
//! family, the write-ahead log, and its own report. Neither keys nor values are in any of it.

use super::RocksEngine;
use crate::engine::Cf;
use rocksdb::properties;
use std::fmt::Write;

/// Levels a family can have (RocksDB's default).
const LEVELS: usize = 7;

impl RocksEngine {
    /// Figures by family: (family, figure, value).
    pub fn family_figures(&self) -> Vec<(&'static str, &'static str, u64)> {
        let shared = &*self.0;
        let mut out = Vec::new();
        for cf in Cf::ALL {
            let family = shared.family(cf);
            for (name, property) in [
                ("table_bytes", properties::TOTAL_SST_FILES_SIZE),
                ("live_bytes", properties::ESTIMATE_LIVE_DATA_SIZE),
                ("keys", properties::ESTIMATE_NUM_KEYS),
                ("memtable_bytes", properties::CUR_SIZE_ALL_MEM_TABLES),
                ("pending_compaction_bytes", properties::ESTIMATE_PENDING_COMPACTION_BYTES),
            ] {
                let value = shared.db.property_int_value_cf(family, property).ok().flatten();
                out.push((cf.name(), name, value.unwrap_or(0)));
            }
        }
        out
    }

    /// Tables by family and level: (family, level, files).
    pub fn level_files(&self) -> Vec<(&'static str, usize, u64)> {
        let shared = &*self.0;
        let mut out = Vec::new();
        for cf in Cf::ALL {
            for level in 0..LEVELS {
                let property = properties::num_files_at_level(level);
                let files = shared.db.property_int_value_cf(shared.family(cf), property).ok().flatten();
                out.push((cf.name(), level, files.unwrap_or(0)));
            }
        }
        out
    }

    /// Bytes of the write-ahead log's files: what a start has to read, bounded by `max_total_wal_bytes`.
    pub fn wal_bytes(&self) -> u64 {
        let Ok(entries) = std::fs::read_dir(self.0.db.path()) else { return 0 };
        entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"))
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| metadata.len())
            .sum()
    }

    /// RocksDB's own report by family, for engineers.
    pub fn report(&self) -> String {
        let shared = &*self.0;
        let mut text = String::new();
        for cf in Cf::ALL {
            let stats = shared.db.property_value_cf(shared.family(cf), properties::STATS).ok().flatten();
            let _ = writeln!(text, "== {}\n{}", cf.name(), stats.unwrap_or_default());
        }
        text
    }
}
