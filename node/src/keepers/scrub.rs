//! Reads the whole store again and again at a low rate, to find rot before somebody needs what is rotten
//! (`okno_storage::scrub`).
//!
//! Rot closes the node (rule 12), for it is this copy's own and the others are sound. Rows without their owner are only
//! told: every member would have them. A disk that fails to read ends the process, here as anywhere.

use crate::{
    observability::alarms::{Alarms, kinds},
    settings::ScrubSection,
};
use okno_cluster::{
    ClusterHandle, ProcessExit, REMEDY_REBUILD,
    shell::fatal::{EXIT_IO, Fatal},
};
use okno_storage::{
    error::StorageError,
    scrub::{Pass, Seen},
    snapshot::{Home, RocksHome},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio_util::sync::CancellationToken;

/// Read in one go: some milliseconds of a disk and of a processor, and a bound on what a step holds in memory.
const STEP_BYTES: u64 = 256 * 1024;
/// Rest after each step, in times that it took, whatever the rate allows: where rows are small, what costs is the processor, which
/// those who serve need.
const RESTS: u32 = 9;
/// Orphans named in the alarm; the log has more.
const ORPHANS_NAMED: usize = 3;

/// Figures for metrics.
#[derive(Debug, Default)]
pub struct Figures {
    rows: AtomicU64,
    bytes: AtomicU64,
    passes: AtomicU64,
    orphans: AtomicU64,
    damaged: AtomicU64,
    /// Seconds since the epoch.
    ended: AtomicU64,
}

impl Figures {
    pub fn list(&self) -> Vec<(&'static str, f64)> {
        let of = |figure: &AtomicU64| figure.load(Relaxed) as f64;
        vec![
            ("rows_total", of(&self.rows)),
            ("bytes_total", of(&self.bytes)),
            ("passes_total", of(&self.passes)),
            ("orphans", of(&self.orphans)),
            ("damage_total", of(&self.damaged)),
            ("last_pass_timestamp_seconds", of(&self.ended)),
        ]
    }
}

/// What the keeper works with.
pub struct Parts {
    pub cluster: Arc<ClusterHandle>,
    pub alarms: Arc<Alarms>,
    pub home: Arc<RocksHome>,
    pub settings: ScrubSection,
    pub figures: Arc<Figures>,
    pub stop: CancellationToken,
}

/// Runs until the node stops, or until damage was found.
pub async fn keep(parts: Parts) {
    let mut pause = parts.settings.first_after;
    loop {
        tokio::select! {
            () = parts.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let began = Instant::now();
        match parts.pass().await {
            Ok(Some(seen)) => parts.passed(&seen, began.elapsed()),
            Ok(None) => return,
            Err(error) => return parts.damaged(&error),
        }
        pause = parts.settings.interval.saturating_sub(began.elapsed());
    }
}

impl Parts {
    /// One pass at the rate of the settings. `None`: the node stops.
    async fn pass(&self) -> Result<Option<Seen>, StorageError> {
        let rate = self.settings.rate.as_u64().max(1);
        let mut pass = Pass::default();
        loop {
            let began = Instant::now();
            let (engine, before) = (self.home.engine(), pass.seen().clone());
            let budget = usize::try_from(STEP_BYTES.min(rate)).unwrap_or(usize::MAX);
            let step = tokio::task::spawn_blocking(move || {
                let step = pass.step(&*engine.view(), budget);
                (pass, step)
            });
            // A panic there is a fault of the program, which a restart meets again no sooner than this node's next.
            let Ok((after, step)) = step.await else { return Ok(None) };
            pass = after;
            let bytes = pass.seen().bytes - before.bytes;
            self.figures.rows.fetch_add(pass.seen().rows - before.rows, Relaxed);
            self.figures.bytes.fetch_add(bytes, Relaxed);
            if step? {
                return Ok(Some(pass.seen().clone()));
            }
            let (took, due) = (began.elapsed(), Duration::from_secs_f64(bytes as f64 / rate as f64));
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(due.saturating_sub(took).max(took * RESTS)) => {}
            }
        }
    }

    fn passed(&self, seen: &Seen, took: Duration) {
        let Seen { rows, bytes, orphans, orphans_told } = seen;
        self.figures.passes.fetch_add(1, Relaxed);
        self.figures.orphans.store(*orphans, Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.figures.ended.store(now.as_secs(), Relaxed);
        tracing::info!(rows, bytes, orphans, ?took, "the store was read through");
        for orphan in orphans_told {
            tracing::error!(orphan, "a row without its owner");
        }
        let named = &orphans_told[..orphans_told.len().min(ORPHANS_NAMED)];
        let reason = || format!("{orphans} rows without their owner: {}", named.join("; "));
        self.alarms.set(kinds::SCRUB_DAMAGE, (*orphans > 0).then(reason));
    }

    fn damaged(&self, error: &StorageError) {
        if matches!(error, StorageError::Io { .. } | StorageError::Engine(_)) {
            return ProcessExit.exit(EXIT_IO, &format!("scrub: {error}"));
        }
        self.figures.damaged.fetch_add(1, Relaxed);
        let text = format!("reading the store through found damage: {error}");
        self.alarms.raise((kinds::SCRUB_DAMAGE, text.clone()));
        self.cluster.quarantine(&text, REMEDY_REBUILD);
    }
}
