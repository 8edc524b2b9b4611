//! The life of a connector: attach, serve, attach again somewhere else; end without losing what it has.

use crate::{
    book::Book,
    message::{Handler, Verdict},
    session::{self, Ended, Job},
};
use okno_client::{Class, Client};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Between two attempts to attach: doubled each time, with some chance, so that many do not come at once.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Workers of one process: what one stream may have under way.
pub const WORKERS_MAX: usize = 64;
/// Finished jobs on their way to the session: one for each worker, and some that were told to stop.
const FINISHED_MAX: usize = 2 * WORKERS_MAX;

/// What a connector is told.
#[derive(Debug, Clone)]
pub struct Setup {
    pub channel: String,
    /// Of this process; two processes must not share one.
    pub instance: String,
    /// Name and version, for people.
    pub software: String,
    /// Messages worked on at once, 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// How long handlers may take to end once the connector is told to.
    pub drain: Duration,
}

impl Setup {
    pub fn new(channel: impl Into<String>, software: impl Into<String>) -> Self {
        Self {
            channel: channel.into(),
            instance: instance(),
            software: software.into(),
            workers: 8,
            drain: Duration::from_secs(4),
        }
    }
}

/// A name nobody else has: the host's with the process id.
fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.chars().filter(|letter| letter.is_ascii_alphanumeric()).take(40).collect();
    format!("{host}-{}", std::process::id())
}

/// A job's end: message id, token, verdict.
pub(crate) struct Finished {
    pub id: String,
    pub token: String,
    pub verdict: Verdict,
}

/// What outlives the streams of one connector.
pub(crate) struct Life<H> {
    pub client: Client,
    pub setup: Setup,
    pub handler: Arc<H>,
    pub book: Book<Job>,
    pub finished: mpsc::Sender<Finished>,
    pub received: mpsc::Receiver<Finished>,
    pub stop: CancellationToken,
}

/// Works until `stop`, then settles what it has and returns. Nothing that the cluster says ends a connector: a channel may
/// be installed, or its settings name it, while it waits.
pub async fn run<H: Handler>(client: Client, setup: Setup, handler: H, stop: CancellationToken) {
    let (finished, received) = mpsc::channel(FINISHED_MAX);
    let workers = setup.workers.clamp(1, WORKERS_MAX);
    let mut life = Life {
        client,
        book: Book::new(workers),
        setup,
        handler: Arc::new(handler),
        finished,
        received,
        stop: stop.clone(),
    };
    let mut pause = PAUSE_MIN;
    loop {
        // Told to end with something left to say: one more stream says it.
        if stop.is_cancelled() && life.book.is_idle() {
            return;
        }
        let ended = session::serve(&mut life).await;
        match ended {
            Ended::Drained => return,
            Ended::Broken { served, reason } => {
                tracing::info!(channel = life.setup.channel, reason, "the stream ended");
                if served {
                    pause = PAUSE_MIN;
                }
            }
            Ended::Refused(error) => {
                // Loud, for only people can mend it; and patient.
                tracing::warn!(channel = life.setup.channel, %error, "the cluster does not take this connector");
                if error.class() == Class::Refused {
                    pause = PAUSE_MAX;
                }
            }
        }
        if stop.is_cancelled() {
            // Nobody takes the rest: what is out comes back by its lease.
            life.abandon();
            return;
        }
        let (waited, chance) = (pause, chance());
        pause = (pause * 2).min(PAUSE_MAX);
        tokio::select! {
            () = stop.cancelled() => {}
            () = life.rest(waited.mul_f64(0.5 + chance / 2.0)) => {}
        }
    }
}

/// Between 0 and 1, for spreading.
fn chance() -> f64 {
    let bytes = okno_client::new_request_id().into_bytes();
    f64::from(bytes[15]) / 255.0
}

impl<H: Handler> Life<H> {
    /// Waits; handlers go on meanwhile, and what they say is kept.
    async fn rest(&mut self, pause: Duration) {
        let until = tokio::time::Instant::now() + pause;
        while let Ok(Some(finished)) = tokio::time::timeout_at(until, self.received.recv()).await {
            self.note(finished);
        }
    }

    /// Keeps what a handler has said.
    pub fn note(&mut self, Finished { id, token, verdict }: Finished) {
        if !self.book.finished(&id, &token, verdict) {
            tracing::debug!(message = id, "a verdict came too late");
        }
    }

    fn abandon(&mut self) {
        for (_, job) in self.book.jobs() {
            job.task.stop();
        }
    }
}
