//! What a node starts from: term and vote as `identity` and the database say them, and a log that reaches as far as it
//! must.

use okno_storage::{
    error::StorageError,
    log::{HardState, LogStore},
};

/// Joins what `identity` and the database say about term and vote, and checks the log against the synced mark.
pub fn recover(
    identity: (u64, u64),
    database: HardState,
    applied_commit: u64,
    log: &LogStore,
    synced: (u64, u64),
) -> Result<HardState, RecoverError> {
    let (term, vote) = identity;
    if term == database.term && vote != database.vote && vote != 0 && database.vote != 0 {
        return Err(RecoverError::TwoVotes { term, identity: vote, database: database.vote });
    }
    let (term, vote) = match term.cmp(&database.term) {
        std::cmp::Ordering::Greater => (term, vote),
        std::cmp::Ordering::Less => (database.term, database.vote),
        std::cmp::Ordering::Equal => (term, vote.max(database.vote)),
    };
    let last_index = log.last_index();
    let last_term = log.term(last_index)?.unwrap_or(0);
    if (last_term, last_index) < synced {
        return Err(RecoverError::Storage(StorageError::LogLost {
            found_term: last_term,
            found_index: last_index,
            expected_term: synced.0,
            expected_index: synced.1,
        }));
    }
    let commit = database.commit.max(applied_commit);
    if commit > last_index {
        return Err(RecoverError::CommitBeyondLog { commit, last_index });
    }
    Ok(HardState { term: term.max(last_term), vote: if last_term > term { 0 } else { vote }, commit })
}

#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("term {term} has two votes: identity says node {identity}, the database node {database}")]
    TwoVotes { term: u64, identity: u64, database: u64 },
    #[error("entry {commit} was committed, but the log ends at {last_index}")]
    CommitBeyondLog { commit: u64, last_index: u64 },
    #[error(transparent)]
    Storage(#[from] StorageError),
}
