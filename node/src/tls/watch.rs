//! Notices changed certificate files: file system events make it quick, a periodic look makes it certain (network
//! file systems and container mounts tell nothing).

use super::side::Side;
use notify::{RecursiveMode, Watcher};
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// How long files must be quiet: certificate and key are rarely renamed into place together.
const QUIET: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// Reloads `sides` when their files change, when `now` is notified, and every 20 s, until `stop`.
pub async fn watch(sides: Vec<Arc<Side>>, now: Arc<Notify>, stop: CancellationToken) {
    // One slot: any number of events means one reload.
    let (told, mut events) = mpsc::channel::<()>(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = told.try_send(());
        }
    })
    .inspect_err(|error| tracing::warn!(%error, "no file events: certificates are looked at every 20 s"))
    .ok();
    // Directories, because a file that is replaced by a rename is another file.
    let files: Vec<_> = sides.iter().flat_map(|side| side.files()).collect();
    let directories: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
    for directory in directories {
        if let Some(watcher) = &mut watcher
            && let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive)
        {
            tracing::warn!(directory = %directory.display(), %error, "no file events for this directory");
        }
    }
    let events_possible = watcher.is_some();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
            () = now.notified() => {}
            event = events.recv(), if events_possible => {
                if event.is_none() { return }
                tokio::time::sleep(QUIET).await;
                while events.try_recv().is_ok() {}
            }
        }
        let sides = sides.clone();
        let reloaded =
            tokio::task::spawn_blocking(move || sides.iter().for_each(|side| drop(side.reload()))).await;
        if let Err(error) = reloaded {
            tracing::error!(%error, "reloading certificates failed");
        }
    }
}
