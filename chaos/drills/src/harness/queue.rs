//! What tests and drills of queues ask and set.

use crate::harness::cluster::Cluster;
use crate::harness::desk::Desk;
use crate::harness::{eventually, people};
use okno_client::v1 as proto;
use std::time::Duration;

/// The feature level of the whole queue.
const LEVEL: u32 = 3;
const LEVEL_WITHIN: Duration = Duration::from_secs(30);

/// Waits until a new cluster has reached the level of queues and channels by itself.
pub async fn levelled(cluster: &Cluster) {
    for node in cluster.ids() {
        eventually("the level of the whole queue", LEVEL_WITHIN, async || {
            let status = cluster.status(node).await.map_err(|error| error.to_string())?;
            if status.level >= LEVEL { Ok(()) } else { Err(format!("level {}", status.level)) }
        })
        .await;
    }
}

/// Waits for the level of the whole queue and gives the quiet office its settings.
pub async fn settle(cluster: &Cluster, change: impl FnOnce(&mut proto::QueueSettings)) {
    levelled(cluster).await;
    let mut settings =
        proto::QueueSettings { office: people::QUIET_OFFICE.into(), ..proto::QueueSettings::default() };
    change(&mut settings);
    let request = proto::PutQueueSettingsRequest { meta: None, settings: Some(settings) };
    cluster.admin().call(request).await.expect("the settings are good");
}

/// A window as it is.
pub async fn window(desk: &Desk, office: &str, window: &str) -> proto::Desk {
    let request = proto::ListDesksRequest { read: None, office: office.into(), window: window.into() };
    let mut desks = desk.call(request).await.expect("windows are listed").desks;
    assert_eq!(desks.len(), 1, "window {window} of {office}");
    desks.remove(0)
}
