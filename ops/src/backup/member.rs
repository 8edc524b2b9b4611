//! From a database to nodes of a new cluster: founding, pins and identity.
//!
//! Incarnations are derived from the new cluster's id, its members, and the exact data (index and hash chain), so that
//! machines that restore apart from each other come to the same pins if they restored the same, and refuse each other's
//! handshake if they did not.

use super::{
    BackupError,
    target::{put_in_place, sync_folder},
    verify::{no_genesis, small},
};
use okno_storage::{
    engine::Engine,
    identity::{FileIdentityMedium, Identity, IdentityRecord, Later, Member},
    recover::{self, PlannedMember, RecoverPlan},
    rocks::RocksEngine,
    state::{AppliedMark, StateStore},
};
use sha2::{Digest, Sha256};
use std::{path::Path, sync::Arc};
use uuid::Uuid;

/// The live directory's name, as `okno init` makes it.
const DATABASE: &str = "db";

/// One member of the cluster that is made, and whose data it gets.
#[derive(Debug, Clone)]
pub struct NewMember {
    pub cluster: Uuid,
    pub generation: u64,
    /// The cluster the data are of, and its generation.
    pub from: (Uuid, u64),
    /// h₀ of the hash chain, which goes on.
    pub genesis: [u8; 32],
    pub node_id: u64,
    /// All members, ordered by node id.
    pub members: Vec<Member>,
}

/// Makes the database one of the new cluster; returns the identity of the member named, as [`settle`] wants it.
pub fn rewrite(database: &Path, new: &NewMember) -> Result<IdentityRecord, BackupError> {
    let engine = RocksEngine::open(database, &small())?;
    let shared: Arc<dyn Engine> = Arc::new(engine.clone());
    let mark = StateStore::open(shared, no_genesis())?.mark().clone();
    let members = new
        .members
        .iter()
        .map(|m| PlannedMember {
            node_id: m.node_id,
            incarnation: incarnation(new, &mark, m.node_id),
            peer_address: m.peer_address.clone(),
        })
        .collect();
    let plan =
        RecoverPlan { cluster: new.cluster, generation: new.generation, members, node_id: new.node_id };
    let recovered = recover::convert(&engine, &plan, &before(new, &mark))?;
    engine.flush()?;
    sync_folder(database)?;
    Ok(recovered.identity)
}

/// What is known of the cluster the data are of: a backup holds nobody's identity.
fn before(new: &NewMember, mark: &AppliedMark) -> IdentityRecord {
    let (cluster, generation) = new.from;
    IdentityRecord {
        cluster,
        node_id: 0,
        incarnation: Uuid::nil(),
        members: Vec::new(),
        pins: Vec::new(),
        term: mark.term,
        vote: 0,
        synced_term: mark.term,
        synced_index: mark.index,
        live_directory: String::new(),
        sequence: 0,
        later: Later { generation, genesis: Some(new.genesis), ..Later::default() },
    }
}

fn incarnation(new: &NewMember, mark: &AppliedMark, node_id: u64) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"okno restored member");
    hash.update(new.cluster.as_bytes());
    hash.update(new.generation.to_be_bytes());
    hash.update(mark.index.to_be_bytes());
    hash.update(mark.chain);
    for member in &new.members {
        hash.update(member.node_id.to_be_bytes());
        hash.update((member.peer_address.len() as u64).to_be_bytes());
        hash.update(&member.peer_address);
    }
    hash.update(node_id.to_be_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// Moves a rewritten database to its place in a data directory, and last of all writes the identity that makes it a
/// node.
pub fn settle(
    directory: &Path,
    database: &Path,
    node_id: u64,
    first: &IdentityRecord,
) -> Result<(), BackupError> {
    put_in_place(database, &directory.join(DATABASE))?;
    let incarnation = first.pins.iter().find(|(id, _)| *id == node_id).map(|(_, i)| *i);
    let incarnation = incarnation
        .ok_or_else(|| BackupError::Refused(format!("node {node_id} is not among the members")))?;
    let record = IdentityRecord { node_id, incarnation, live_directory: DATABASE.into(), ..first.clone() };
    Identity::create(Box::new(FileIdentityMedium::new(directory.join("identity"))?), record)?;
    sync_folder(directory)
}
