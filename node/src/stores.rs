//! What a node stands on: data directory, identity, database, and the cluster part that runs on them.
//!
//! Whole data start a member. Data that are wrong start the same node closed, on an empty stand-in (rule 12, see
//! [`crate::quarantine`]): every surface that tells why works as ever, and the data stay as they were found.

use crate::{
    data::{DataDirectory, DataError, Lock},
    quarantine,
    settings::Settings,
    wiring,
};
use anyhow::{Context, Result};
use okno_cluster::{
    Cluster, ClusterHandle, ClusterParts, PeerConnector, PeerService, ProcessExit, Quarantine,
};
use okno_storage::{
    identity::IdentityRecord,
    snapshot::{Home, RocksHome},
};
use std::sync::Arc;

/// The data directory, locked; opened far enough to know whose it is.
pub enum Claim {
    Readable(Box<DataDirectory>),
    /// `identity` is there and says nothing.
    Unreadable(Lock, Quarantine),
}

/// A running cluster part.
pub struct Started {
    pub cluster: Arc<ClusterHandle>,
    pub peer_service: PeerService,
    /// Where the database lives; a copy from another member may take its place. `None`: the node is quarantined and runs
    /// on a stand-in.
    pub home: Option<Arc<RocksHome>>,
    /// What `identity` said at the start; `None` when quarantined.
    pub record: Option<IdentityRecord>,
    /// Held while the node runs.
    pub lock: Lock,
}

impl Claim {
    /// Refuses a directory that is nobody's, another's or in use.
    pub fn take(settings: &Settings) -> Result<Self, DataError> {
        let path = &settings.node.data_dir;
        match DataDirectory::open(path) {
            Ok(data) => {
                data.check(settings)?;
                Ok(Self::Readable(Box::new(data)))
            }
            Err(error) => match quarantine::of_data(&error) {
                Some(why) => Ok(Self::Unreadable(Lock::take(path)?, why)),
                None => Err(error),
            },
        }
    }

    /// Opens the database and starts the cluster part on it, or closed on a stand-in.
    pub async fn start(self, settings: &Settings, connector: Arc<dyn PeerConnector>) -> Result<Started> {
        let path = &settings.node.data_dir;
        let (record, lock, why) = match self {
            Self::Unreadable(lock, why) => (None, lock, why),
            Self::Readable(data) => {
                let record = data.identity.record().clone();
                tracing::info!(
                    cluster = %record.cluster, node = record.node_id, incarnation = %record.incarnation, "starting"
                );
                let before = quarantine::remembered(path)
                    .with_context(|| format!("{}: reading {}", path.display(), quarantine::FILE))?;
                match before {
                    Some(before) => (Some(record), data.into_parts().1, before.into()),
                    None => match start_whole(*data, settings, connector.clone()).await? {
                        Ok(started) => return Ok(started),
                        Err((lock, why)) => (Some(record), lock, why),
                    },
                }
            }
        };
        if let Err(error) = quarantine::remember(path, &why) {
            tracing::error!(%error, "the quarantine is not remembered across a restart");
        }
        let (engine, identity) = quarantine::stand_in(record, settings)?;
        let parts = ClusterParts { engine, identity, home: None, connector, fatal: Arc::new(ProcessExit) };
        let (cluster, peer_service) =
            Cluster::start_quarantined(wiring::cluster_settings(settings), parts, why).await?;
        Ok(Started { cluster, peer_service, home: None, record: None, lock })
    }
}

/// The inner error: the data are wrong. The outer one: the process ends.
async fn start_whole(
    data: DataDirectory,
    settings: &Settings,
    connector: Arc<dyn PeerConnector>,
) -> Result<Result<Started, (Lock, Quarantine)>> {
    let options = wiring::rocks_options(settings);
    let path = settings.node.data_dir.clone();
    let (data, home) = tokio::task::spawn_blocking(move || {
        let home = data.open_engine(&options).and_then(|engine| Ok(RocksHome::new(path, engine, &options)?));
        (data, home)
    })
    .await
    .context("opening the database")?;
    let (identity, lock) = data.into_parts();
    let record = Some(identity.record().clone());
    let home = match home {
        Ok(home) => Arc::new(home),
        Err(error) => match quarantine::of_data(&error) {
            Some(why) => return Ok(Err((lock, why))),
            None => return Err(error.into()),
        },
    };
    let parts = ClusterParts {
        engine: home.engine(),
        identity,
        home: Some(home.clone()),
        connector,
        fatal: Arc::new(ProcessExit),
    };
    match Cluster::start(wiring::cluster_settings(settings), parts).await {
        Ok((cluster, peer_service)) => {
            Ok(Ok(Started { cluster, peer_service, home: Some(home), record, lock }))
        }
        Err(error) => match quarantine::of_cluster(&error) {
            Some(why) => Ok(Err((lock, why))),
            None => Err(error.into()),
        },
    }
}
