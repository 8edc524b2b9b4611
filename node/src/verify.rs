//! `okno verify`: an offline look at a stopped node's data. Reads everything, changes nothing.

use crate::{
    data::{DataDirectory, DataError},
    observability::{chain as chain_text, security},
    quarantine::{self, Remembered},
};
use okno_storage::{
    chain_step,
    engine::Engine,
    error::StorageError,
    identity::FIRST_GENERATION,
    log::LogStore,
    memory::MemoryEngine,
    rocks::{LogTail, RocksEngine, RocksOptions},
    state::{AppliedMark, Genesis, StateStore, StateView},
};
use serde::Serialize;
use std::{path::Path, sync::Arc};

/// Journal rows read at a time: bounds memory.
const JOURNAL_ROWS: usize = 1_000;

/// The write-ahead log ends in a record that is no record. Recovery goes up to there and cannot tell which it was.
const TORN: &str = "the write-ahead log ends in a record that is incomplete or damaged, and nothing behind it is read: \
     after a power cut that is a write that was never acknowledged; otherwise it is rot, and up to 100 ms of \
     acknowledged writes may be missing here without any other trace";

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    pub cluster: uuid::Uuid,
    pub node_id: u64,
    pub incarnation: uuid::Uuid,
    pub log_first: u64,
    pub log_last: u64,
    pub applied: u64,
    pub journal_rows: u64,
    /// Hash chain at `applied`, hexadecimal.
    pub chain: String,
    /// Of all rows outside the log, hexadecimal; equal on members that have applied the same.
    pub digest: String,
    /// Events in the security log.
    pub security_events: u64,
    /// What is wrong; empty when all is well.
    pub faults: Vec<String>,
    /// What may be wrong or may be the trace of a power cut.
    pub doubts: Vec<String>,
}

/// The database for looking at, and how its write-ahead log ends. One that was never opened is empty.
fn open(data: &DataDirectory) -> Result<(Arc<dyn Engine>, LogTail), DataError> {
    let (path, made) = data.database()?;
    if !made {
        return Ok((Arc::new(MemoryEngine::new()), LogTail::Whole));
    }
    let options = RocksOptions::default();
    let engine = RocksEngine::open_read_only(&path, &options)?;
    Ok((Arc::new(engine), RocksEngine::log_tail(&path, &options)?))
}

/// Damage is what is looked for; anything else ends the look.
fn fault(error: StorageError) -> Result<String, DataError> {
    match error {
        StorageError::Corrupt { .. } | StorageError::Newer { .. } | StorageError::LogLost { .. } => {
            Ok(error.to_string())
        }
        other => Err(other.into()),
    }
}

/// Checks identity, every entry of the log, the journal's hash chain and the security log's, and reads every row for the
/// digest.
pub fn verify(directory: &Path) -> Result<Report, DataError> {
    let data = DataDirectory::open(directory)?;
    let record = data.identity.record().clone();
    let mut faults = Vec::new();
    if let Some(Remembered { reason, since, .. }) = quarantine::remembered(directory)
        .map_err(|source| DataError::Io { path: directory.join(quarantine::FILE), source })?
    {
        faults.push(format!("quarantined since {since}: {reason}"));
    }
    let (engine, log_tail) = open(&data)?;
    let log = LogStore::open(engine.clone())?;
    // Opening looked at the tail alone.
    if let Err(error) = log.verify() {
        faults.push(fault(error)?);
    }
    let last = log.last_index();
    let last_term = log.term(last)?.unwrap_or_default();
    if (last_term, last) < (record.synced_term, record.synced_index) {
        let lost = StorageError::LogLost {
            found_term: last_term,
            found_index: last,
            expected_term: record.synced_term,
            expected_index: record.synced_index,
        };
        faults.push(lost.to_string());
    }
    // The configuration matters only where nothing was ever applied.
    let genesis = Genesis { chain: record.genesis_chain(), conf_state: bytes::Bytes::new() };
    let state = StateStore::open(engine, genesis)?;
    let mark = state.mark().clone();
    if mark.index > last {
        faults.push(format!("applied index {} is beyond the log's end {last}", mark.index));
    }
    let view = state.reader().view();
    // Who joins a cluster that was made of another one's data is told by its copy what the chain began with.
    let later = &record.later;
    let elsewhere = later.joined && later.generation > FIRST_GENERATION && later.genesis.is_none();
    let genesis = (!elsewhere).then(|| record.genesis_chain());
    let journal_rows = journal(&view, genesis, &mark, &mut faults)?;
    match view.founding()? {
        Some((cluster, _)) if cluster != record.cluster => {
            faults.push(format!(
                "the database was founded by cluster {cluster}, identity says {}",
                record.cluster
            ));
        }
        Some(_) => {}
        None if mark.index > 1 => faults.push("there is no founding commit".into()),
        None => {}
    }
    let digest = match view.digest() {
        Ok(digest) => hex::encode(digest),
        Err(error) => {
            faults.push(fault(error)?);
            String::new()
        }
    };
    let security_events = match security::verify(directory) {
        Ok(head) => head.sequence,
        Err(error) => {
            faults.push(format!("security log: {}", chain_text(&error)));
            0
        }
    };
    Ok(Report {
        cluster: record.cluster,
        node_id: record.node_id,
        incarnation: record.incarnation,
        log_first: log.first_index(),
        log_last: last,
        applied: mark.index,
        journal_rows,
        chain: hex::encode(mark.chain),
        digest,
        security_events,
        faults,
        doubts: match log_tail {
            LogTail::Whole => Vec::new(),
            LogTail::Damaged(detail) => vec![format!("{TORN} ({detail})")],
        },
    })
}

/// Follows the hash chain to the applied mark; returns how far it goes. The first fault explains all behind it. Without
/// `genesis` the first row's own hash is taken as it stands.
fn journal(
    view: &StateView,
    genesis: Option<[u8; 32]>,
    mark: &AppliedMark,
    faults: &mut Vec<String>,
) -> Result<u64, DataError> {
    let (mut chain, mut at) = (genesis.unwrap_or_default(), 0);
    loop {
        let rows = match view.journal(at, JOURNAL_ROWS) {
            Ok(rows) => rows,
            Err(error) => {
                faults.push(format!("the journal behind {at}: {}", fault(error)?));
                return Ok(at);
            }
        };
        for row in &rows {
            if row.index != at + 1 {
                faults.push(format!("the journal goes from {at} to {}", row.index));
                return Ok(at);
            }
            let computed =
                chain_step(&chain, row.index, row.term, row.outcome_code, &row.events_hash, &row.rest);
            if computed != row.chain && !(at == 0 && genesis.is_none()) {
                faults.push(format!("the hash chain breaks at {}", row.index));
                return Ok(at);
            }
            (chain, at) = (row.chain, row.index);
        }
        if rows.is_empty() || at >= mark.index {
            break;
        }
    }
    if (at, chain) != (mark.index, mark.chain) {
        faults.push(format!("the journal ends at {at}, but {} was applied", mark.index));
    }
    Ok(at)
}
