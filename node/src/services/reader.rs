//! Whoever reads a stream that is told from the journal ([`super::watch`], [`super::queue_stream`]): what is on its way to it,
//! when it was last told anything, and why its stream ends.

use super::{
    desk::Desk,
    watch::{SLOW_MAX, stopping},
};
use crate::failure::{Failure, Language};
use futures::{Stream, StreamExt};
use okno_storage::state::AppliedSlice;
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        broadcast::{self, error::RecvError},
        mpsc, oneshot,
    },
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Responses on their way to one reader: a batch of the journal's, then reading waits for the reader.
const QUEUE_MAX: usize = 64;
/// Gathers what applies meanwhile into one look at the journal.
const GATHER: Duration = Duration::from_millis(10);
/// Progress is told when nothing else was for so long, so that resume tokens stay fresh: also while much happens that
/// does not concern the reader.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

pub struct Reader<R> {
    responses: mpsc::Sender<R>,
    told_at: Instant,
    _permit: OwnedSemaphorePermit,
}

/// What a teller waited for.
pub enum News {
    /// Something has applied.
    Applied,
    /// Nothing was told for long: it is time for progress.
    Quiet,
}

/// Tells by `run`, which ends with why the stream has to end, or with nothing when its reader is gone or knows all.
pub fn stream<R, F>(
    permit: OwnedSemaphorePermit,
    language: Language,
    run: impl FnOnce(Reader<R>) -> F,
) -> Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>
where
    R: Send + 'static,
    F: Future<Output = Option<Failure>> + Send + 'static,
{
    let (responses, received) = mpsc::channel(QUEUE_MAX);
    let (ended, end) = oneshot::channel();
    let told = run(Reader { responses, told_at: Instant::now(), _permit: permit });
    tokio::spawn(async move {
        let failure = told.await;
        // The reader may be gone.
        let _ = ended.send(failure);
    });
    // The reason of the end comes after everything that was queued.
    let end = futures::stream::once(end).filter_map(move |end| async move {
        end.ok().flatten().map(|failure: Failure| Err(failure.status(language)))
    });
    Box::pin(ReceiverStream::new(received).map(Ok).chain(end))
}

impl<R> Reader<R> {
    /// `Err`: the stream ends, with the reason for one that took nothing for long.
    pub async fn send(&mut self, response: R) -> Result<(), Option<Failure>> {
        self.told_at = Instant::now();
        match self.responses.send_timeout(response, SLOW_MAX).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Some(Failure::exhausted(
                "WATCH_TOO_SLOW",
                "nothing was taken for 30 s: resume with the last resume token",
            ))),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(None),
        }
    }

    /// Waits until there may be something to tell.
    pub async fn news(
        &self,
        desk: &Desk,
        slices: &mut broadcast::Receiver<Arc<AppliedSlice>>,
    ) -> Result<News, Option<Failure>> {
        tokio::select! {
            slice = slices.recv() => match slice {
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    tokio::time::sleep(GATHER).await;
                    *slices = slices.resubscribe();
                    Ok(News::Applied)
                }
                Err(RecvError::Closed) => Err(Some(stopping())),
            },
            () = tokio::time::sleep_until(self.told_at + PROGRESS_EVERY) => Ok(News::Quiet),
            () = self.responses.closed() => Err(None),
            () = desk.stop.cancelled() => Err(Some(stopping())),
        }
    }
}
