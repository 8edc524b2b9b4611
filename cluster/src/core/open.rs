//! From a directory to a node that can run: opens log and state, joins what identity and database say, and judges whether
//! they belong together. Production and the simulator start by it.

use super::{
    driver::{Driver, RecoverError, Start, Timing, recover},
    log_view::Unreadable,
    steps,
};
use crate::{
    api::NodeId,
    status::{REMEDY_NEWER_PROGRAM, REMEDY_REBUILD},
};
use okno_storage::{
    engine::Engine,
    error::StorageError,
    identity::IdentityRecord,
    log::LogStore,
    state::{Genesis, StateStore},
};
use prost_raft::Message as _;
use raft::eraftpb::ConfState;
use std::sync::Arc;

/// Why nothing could be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("identity: {0}")]
    Identity(String),
    #[error("raft: {0}")]
    Raft(String),
}

/// Stores that do not belong together: the node must not run (rule 12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub reason: String,
    pub remedy: &'static str,
}

/// Stores opened and checked, nothing running yet.
pub struct Opened {
    pub log: LogStore,
    pub state: StateStore,
    pub founded: bool,
    /// Set when raft panics because it could not read the log.
    pub unreadable: Unreadable,
    pub driver: Result<Driver, Wrong>,
}

/// `boot` is never the same twice for one node.
pub fn open(
    engine: &Arc<dyn Engine>,
    record: &IdentityRecord,
    timing: Timing,
    boot: u64,
    logger: &slog::Logger,
) -> Result<Opened, OpenError> {
    let voters: Vec<NodeId> = record.members.iter().map(|m| m.node_id).collect();
    let ascending = voters.windows(2).all(|w| w[0] < w[1]);
    if !ascending || !voters.contains(&record.node_id) || voters.contains(&0) {
        return Err(OpenError::Identity(format!(
            "node {} must stand in its member list {voters:?}, ascending and without 0",
            record.node_id
        )));
    }
    let log = LogStore::open(engine.clone())?;
    let conf_state = ConfState { voters: voters.clone(), ..ConfState::default() };
    let genesis = Genesis { chain: record.genesis_chain(), conf_state: conf_state.encode_to_vec().into() };
    let state = StateStore::open(engine.clone(), genesis)?;
    let founding = state.reader().view().founding()?;
    let founded = founding.is_some();
    let synced = (record.synced_term, record.synced_index);
    let recovered = recover((record.term, record.vote), log.hard_state()?, state.mark().commit, &log, synced);
    let mut wrong = None;
    if let Some((cluster, members)) = founding {
        let said = members.iter().map(|m| (m.node_id, m.incarnation));
        if cluster != record.cluster || !said.eq(record.pins.iter().copied()) {
            wrong = Some(
                "the data's first commit names another cluster or other members than `identity`".to_owned(),
            );
        }
    }
    let above = steps::level_above(&state.reader());
    let mut newer = above.is_some();
    if newer {
        wrong = above;
    }
    let hard_state = match recovered {
        Ok(hard_state) => Some(hard_state),
        Err(RecoverError::Storage(error @ (StorageError::Io { .. } | StorageError::Engine(_)))) => {
            return Err(error.into());
        }
        Err(error) => {
            newer |= matches!(error, RecoverError::Storage(StorageError::Newer { .. }));
            wrong.get_or_insert(error.to_string());
            None
        }
    };
    let unreadable = Unreadable::default();
    let driver = match (hard_state, wrong) {
        (Some(hard_state), None) => {
            let conf_state = ConfState::decode(&state.mark().conf_state[..])
                .map_err(|e| OpenError::Raft(format!("configuration state: {e}")))?;
            let start = Start {
                id: record.node_id,
                members: voters,
                log: log.clone(),
                hard_state,
                conf_state,
                applied: state.mark().index,
                founded,
                pinned: !record.pins.is_empty(),
                synced,
                boot,
                unreadable: unreadable.clone(),
            };
            Ok(Driver::new(start, timing, logger).map_err(|e| OpenError::Raft(e.to_string()))?)
        }
        (_, wrong) => Err(Wrong {
            reason: wrong.unwrap_or_else(|| "the stores do not belong together".to_owned()),
            remedy: if newer { REMEDY_NEWER_PROGRAM } else { REMEDY_REBUILD },
        }),
    };
    Ok(Opened { log, state, founded, unreadable, driver })
}
