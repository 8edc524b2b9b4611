//! `okno.v1.BackupService`: backups taken and listed through a running node (R-R6).

use super::desk::Desk;
use crate::{convert::timestamp, failure::Failure, front::CallContext, keepers::backups::Backups};
use futures::Stream;
use okno_domain::entity::RefusalClass;
use okno_ops::backup::{BackupError, Phase, Watch, manifest::Manifest, retention::State};
use okno_proto::v1::{self, backup_service_server::BackupService, create_backup_response::Update};
use parking_lot::Mutex;
use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Progress on its way to the caller; what a slow one does not take is left out.
const QUEUE_MAX: usize = 16;
/// Between two reports of progress.
/// What is said of a backup of which the last scrub found files damaged.
const DAMAGED: &str = "DAMAGED: files do not match their SHA-256; the next backup writes what it shares anew";
const TELL_EVERY: Duration = Duration::from_millis(250);

pub struct BackupCalls {
    pub desk: Arc<Desk>,
    /// `None`: no target is set.
    pub backups: Option<Arc<Backups>>,
}

fn message(manifest: &Manifest, state: State) -> v1::Backup {
    v1::Backup {
        id: manifest.id.clone(),
        cluster: manifest.cluster.to_string(),
        generation: manifest.generation,
        node_id: manifest.node,
        created: timestamp(manifest.created_ms),
        index: manifest.index,
        term: manifest.term,
        cluster_time: timestamp(manifest.time_ms),
        chain: manifest.chain.clone(),
        digest: manifest.digest.clone(),
        bytes: manifest.bytes(),
        new_bytes: manifest.new_bytes,
        files: u32::try_from(manifest.files().count()).unwrap_or(u32::MAX),
        encrypted: manifest.sealed(),
        complete: state == State::Complete,
        problem: if state == State::Damaged { DAMAGED.to_owned() } else { String::new() },
        seconds: manifest.seconds,
    }
}

fn failure(error: &BackupError) -> Failure {
    let text = error.to_string();
    let pause = Duration::from_secs(5);
    match error {
        BackupError::Busy { .. } => Failure::not_applied("BACKUP_BUSY", pause, text),
        BackupError::Stopped => Failure::not_applied("NODE_CLOSED", pause, text),
        BackupError::Refused(_) => {
            let russian = format!("Резервная копия не сделана: {text}");
            Failure::refused(RefusalClass::FailedPrecondition, "BACKUP_REFUSED", &russian, &text)
        }
        BackupError::Io { .. }
        | BackupError::Damaged { .. }
        | BackupError::Newer { .. }
        | BackupError::Storage(_) => Failure::not_applied("BACKUP_FAILED", pause, text),
    }
}

/// Passes progress on, now and then.
struct Telling {
    served_by: u64,
    down: mpsc::Sender<Result<v1::CreateBackupResponse, Status>>,
    told: Mutex<Option<(Phase, Instant)>>,
}

impl Watch for Telling {
    fn progress(&self, phase: Phase, done: u64, total: u64) {
        let mut told = self.told.lock();
        if told.is_some_and(|(before, at)| before == phase && at.elapsed() < TELL_EVERY) {
            return;
        }
        *told = Some((phase, Instant::now()));
        let progress = v1::BackupProgress { phase: phase.name().to_owned(), done, total };
        let response =
            v1::CreateBackupResponse { served_by: self.served_by, update: Some(Update::Progress(progress)) };
        // Full or gone: the next one tells the same and more.
        let _ = self.down.try_send(Ok(response));
    }
}

impl BackupCalls {
    fn keeper(&self) -> Result<Arc<Backups>, Failure> {
        self.backups.clone().ok_or_else(|| {
            Failure::refused(
                RefusalClass::FailedPrecondition,
                "BACKUP_NO_TARGET",
                "На этом сервере не задано место для резервных копий (backup.target)",
                "this node has no backup target (backup.target in its settings)",
            )
        })
    }
}

#[tonic::async_trait]
impl BackupService for BackupCalls {
    type CreateBackupStream = Pin<Box<dyn Stream<Item = Result<v1::CreateBackupResponse, Status>> + Send>>;

    async fn create_backup(
        &self,
        request: Request<v1::CreateBackupRequest>,
    ) -> Result<Response<Self::CreateBackupStream>, Status> {
        let keeper = self.keeper();
        let handler = |desk: Arc<Desk>, context: CallContext, _| async move {
            let keeper = keeper?;
            let (down, received) = mpsc::channel(QUEUE_MAX);
            let telling = Telling { served_by: desk.node_id, down: down.clone(), told: Mutex::default() };
            let language = context.language;
            let served_by = desk.node_id;
            // A thread of its own: it blocks, it comes last at disk and processor, and it outlives the call.
            let thread = std::thread::Builder::new().name("backup-call".into()).spawn(move || {
                okno_ops::backup::pace::be_humble();
                let last = match keeper.create(&telling) {
                    Ok(manifest) => {
                        let update = Some(Update::Backup(message(&manifest, State::Complete)));
                        Ok(v1::CreateBackupResponse { served_by, update })
                    }
                    Err(error) => Err(failure(&error).status(language)),
                };
                // The caller may have gone.
                let _ = down.blocking_send(last);
            });
            match thread {
                Ok(_) => Ok(Box::pin(ReceiverStream::new(received)) as Self::CreateBackupStream),
                Err(error) => Err(Failure::exhausted("BACKUP_BUSY", error.to_string())),
            }
        };
        self.desk.handle(request, handler).await
    }

    async fn list_backups(
        &self,
        request: Request<v1::ListBackupsRequest>,
    ) -> Result<Response<v1::ListBackupsResponse>, Status> {
        let keeper = self.keeper();
        let handler = |desk: Arc<Desk>, _: CallContext, _| async move {
            let keeper = keeper?;
            let target = keeper.target().display().to_string();
            let listed = tokio::task::spawn_blocking(move || keeper.list())
                .await
                .map_err(|error| Failure::Internal { detail: error.to_string() })?
                .map_err(|error| failure(&error))?;
            let backups = listed.into_iter().map(|(id, told)| match told {
                Ok((manifest, state)) => message(&manifest, state),
                Err(error) => v1::Backup { id, problem: error.to_string(), ..v1::Backup::default() },
            });
            Ok(v1::ListBackupsResponse { served_by: desk.node_id, target, backups: backups.collect() })
        };
        self.desk.handle(request, handler).await
    }
}
