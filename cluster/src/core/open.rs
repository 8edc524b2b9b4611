//! From a directory to a node that can run: opens log and state, joins what identity and database say, and judges whether
//! they belong together. Production and the simulator start by it.

use super::{
    driver::{Driver, RecoverError, Start, Timing, recover},
    log_view::Unreadable,
    pins, steps,
};
use crate::{
    api::NodeId,
    status::{REASON_REMOVED, REMEDY_NEW_ID, REMEDY_NEWER_PROGRAM, REMEDY_REBUILD},
};
use okno_storage::{
    engine::Engine,
    error::StorageError,
    identity::IdentityRecord,
    log::LogStore,
    members::Members as MemberTable,
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
    /// Who belongs to the cluster, as applied; before the founding commit as `okno init` was told.
    pub table: Arc<MemberTable>,
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
    let joined = record.later.joined;
    if !ascending || voters.contains(&record.node_id) == joined || voters.contains(&0) {
        return Err(OpenError::Identity(format!(
            "node {} must {}stand in its member list {voters:?}, ascending and without 0",
            record.node_id,
            if joined { "not " } else { "" }
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
    // A restored or recovered cluster goes on with the data, and the first commit, of another.
    if let Some((cluster, members)) = founding.filter(|_| record.later.genesis.is_none()) {
        let said = members.iter().map(|m| (m.node_id, m.incarnation));
        let pinned = !(joined && record.pins.is_empty());
        if cluster != record.cluster || pinned && !said.eq(record.pins.iter().copied()) {
            wrong = Some(
                "the data's first commit names another cluster or other members than `identity`".to_owned(),
            );
        }
    }
    let table = match state.members()? {
        none if none.current.is_empty() => pins::initial(record),
        table => table,
    };
    if table.is_removed(record.node_id) {
        return Ok(Opened::removed(log, state, founded));
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
                table: table.clone(),
                log: log.clone(),
                hard_state,
                conf_state,
                applied: state.mark().index,
                founded,
                pinned: !record.pins.is_empty() || joined,
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
    Ok(Opened { log, state, founded, table: Arc::new(table), unreadable, driver })
}

impl Opened {
    /// This node has applied its own removal.
    fn removed(log: LogStore, state: StateStore, founded: bool) -> Self {
        let wrong = Wrong { reason: REASON_REMOVED.into(), remedy: REMEDY_NEW_ID };
        let (table, unreadable) = (Arc::default(), Unreadable::default());
        Self { log, state, founded, table, unreadable, driver: Err(wrong) }
    }
}
