//! `okno verify`: an offline look at a stopped node's data. Reads everything, changes nothing.

use crate::{
    data::{DataDirectory, DataError},
    observability::{chain as chain_text, security},
};
use okno_storage::{
    chain_step,
    error::StorageError,
    log::LogStore,
    rocks::RocksOptions,
    state::{Genesis, StateStore},
};
use serde::Serialize;
use std::{path::Path, sync::Arc};

/// Journal rows read at a time: bounds memory.
const JOURNAL_ROWS: usize = 1_000;

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
}

/// Checks identity, contiguity of the log, the journal's hash chain and the security log's, and reads every row for
/// the digest.
pub fn verify(directory: &Path) -> Result<Report, DataError> {
    let data = DataDirectory::open(directory)?;
    let record = data.identity.record().clone();
    let engine = Arc::new(data.open_engine(&RocksOptions::default())?);
    let mut faults = Vec::new();
    // Opening checks that indexes are contiguous.
    let log = LogStore::open(engine.clone())?;
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
    let (mut chain, mut at) = (record.genesis_chain(), 0);
    loop {
        let rows = view.journal(at, JOURNAL_ROWS)?;
        let Some(end) = rows.last().map(|row| row.index) else { break };
        for row in &rows {
            if row.index != at + 1 {
                faults.push(format!("the journal goes from {at} to {}", row.index));
            }
            let computed =
                chain_step(&chain, row.index, row.term, row.outcome_code, &row.events_hash, &row.rest);
            if computed != row.chain {
                faults.push(format!("the hash chain breaks at {}", row.index));
            }
            (chain, at) = (row.chain, row.index);
        }
        // One fault explains all behind it.
        if !faults.is_empty() || end >= mark.index {
            break;
        }
    }
    if faults.is_empty() && (at, chain) != (mark.index, mark.chain) {
        faults.push(format!("the journal ends at {at}, but {} was applied", mark.index));
    }
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
    let digest = view.digest()?;
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
        journal_rows: at,
        chain: hex::encode(mark.chain),
        digest: hex::encode(digest),
        security_events,
        faults,
    })
}
