//! What RocksDB's background threads may take from those who serve.
//!
//! Members write alike, so their compactions come at the same moments; on a machine that is short of processors they held up
//! every write for a second and more. Flushes keep their place: writes wait for them.

use std::path::Path;

/// Names of RocksDB's compaction threads begin so.
const COMPACTIONS: &str = "rocksdb:low";
/// A tenth of the share of a thread that serves. The last place, 19, would let a machine that is at its limit put
/// compactions off until writes are stopped for them.
const NICE: libc::c_int = 10;

/// Makes this process's compaction threads stand back; returns how many do. Best effort: where the kernel refuses they go on as
/// they were. Linux keeps a nice value for each thread.
pub fn stand_back() -> usize {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let compacts = |task: &Path| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with(COMPACTIONS))
    };
    let threads = tasks.flatten().map(|task| task.path()).filter(|task| compacts(task));
    threads.filter(|task| lower(task)).count()
}

#[allow(unsafe_code)]
fn lower(task: &Path) -> bool {
    let id = task.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<libc::id_t>().ok());
    // SAFETY: plain numbers; no memory is touched.
    id.is_some_and(|id| unsafe { libc::setpriority(libc::PRIO_PROCESS, id, NICE) } == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rocks::{RocksEngine, RocksOptions};

    #[test]
    fn compactions_of_an_open_database_stand_back_and_flushes_do_not() {
        let root = tempfile::tempdir().expect("directory");
        let engine = RocksEngine::open(root.path().join("db"), &RocksOptions::default()).expect("opened");
        let nice_of = |pool: &str| -> Vec<String> {
            let tasks =
                std::fs::read_dir("/proc/self/task").expect("Linux").flatten().map(|task| task.path());
            let of_pool = tasks.filter(|task| {
                std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with(pool))
            });
            of_pool
                .map(|task| {
                    let stat = std::fs::read_to_string(task.join("stat")).expect("a thread that lives");
                    // proc(5): nice is field 19; the name in brackets is field 2.
                    let behind = stat.rsplit_once(')').expect("a name").1;
                    behind.split_whitespace().nth(16).expect("a field").to_owned()
                })
                .collect()
        };
        let (compactions, flushes) = (nice_of(COMPACTIONS), nice_of("rocksdb:high"));
        assert!(!compactions.is_empty() && compactions.iter().all(|nice| *nice == "10"), "{compactions:?}");
        assert!(!flushes.is_empty() && flushes.iter().all(|nice| *nice != "10"), "{flushes:?}");
        drop(engine);
    }
}
