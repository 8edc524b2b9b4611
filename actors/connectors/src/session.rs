//! One stream of a connector: messages come as credit goes, handlers run, verdicts are gathered and said.

use crate::{
    book::{Book, Taken},
    message::{Handler, Message, Verdict, Work},
    runner::{Finished, Life},
};
use futures::FutureExt;
use okno_client::{CallError, Class, read_error, v1};
use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    time::{Instant as Moment, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use v1::{attach_connector_request::Message as Up, attach_connector_response::Message as Down};

/// Requests on their way up: what one turn says, several times over.
const UP_MAX: usize = 256;
/// How long the node may take to welcome.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
/// Verdicts and acknowledgements are gathered for so long: less than a commit takes.
const GATHER: Duration = Duration::from_millis(3);
/// Reports by the SDK itself that keep a long job its own; the channel takes 32, the handler's included.
const REPORTS_MAX: u32 = 24;
/// Reports of one handler that wait to be said.
const PROGRESS_MAX: usize = 8;
/// How long the last verdicts may take once all handlers have ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a stream ended.
pub(crate) enum Ended {
    /// All is said, as it was told to.
    Drained,
    /// The way to the node is lost, or the node ended it; `served`: it had been welcomed.
    Broken { served: bool, reason: String },
    /// It was not even begun.
    Refused(CallError),
}

/// A handler at work.
pub(crate) struct Job {
    cancelled: CancellationToken,
    progress: mpsc::Receiver<String>,
    /// When the cluster was last told that it goes on.
    told: Instant,
}

impl Job {
    pub fn stop(&self) {
        self.cancelled.cancel();
    }
}

/// Serves one stream to its end.
pub(crate) async fn serve<H: Handler>(life: &mut Life<H>) -> Ended {
    let (up, outbound) = mpsc::channel(UP_MAX);
    let held = life.book.held();
    let hello = v1::ConnectorHello {
        channel: life.setup.channel.clone(),
        instance: life.setup.instance.clone(),
        software: life.setup.software.clone(),
        // With more than it may name it says nothing: what it does not have comes back when its time is up.
        holds: (held.len() <= NAMED_MAX).then_some(v1::DeliveriesHeld { deliveries: held }),
    };
    let broken = |served: bool, reason: &str| Ended::Broken { served, reason: reason.to_owned() };
    if up.try_send(request(Up::Hello(hello))).is_err() {
        return broken(false, "no room for the first message");
    }
    let mut down = match life.client.attach_connector(None, ReceiverStream::new(outbound)).await {
        Ok(down) => down,
        Err(error) => return Ended::Refused(error),
    };
    let welcome = match timeout(WELCOME_WITHIN, down.message()).await {
        Ok(Ok(Some(v1::AttachConnectorResponse { message: Some(Down::Welcome(welcome)) }))) => welcome,
        Ok(Err(status)) => return Ended::Refused(read_error(&status)),
        _ => return broken(false, "no welcome"),
    };
    let heartbeat = Duration::from_millis(welcome.heartbeat_interval_ms.max(10).into());
    let mut session = Session {
        work_within: Duration::from_millis(welcome.work_within_ms.max(100).into()),
        heartbeat,
        up,
        heard: Instant::now(),
        beats: 0,
        acknowledged: Vec::new(),
        gather_until: None,
        leaving: None,
    };
    session.serve(life, &mut down).await
}

struct Session {
    heartbeat: Duration,
    work_within: Duration,
    up: mpsc::Sender<v1::AttachConnectorRequest>,
    heard: Instant,
    beats: u64,
    /// Deliveries whose receipt is to be said.
    acknowledged: Vec<v1::DeliveryName>,
    /// When what was gathered leaves.
    gather_until: Option<Moment>,
    /// Told to end: handlers may take until then, and what is left after that is given back.
    leaving: Option<Moment>,
}

fn request(message: Up) -> v1::AttachConnectorRequest {
    v1::AttachConnectorRequest { message: Some(message) }
}

/// The stream cannot go on.
struct Gone(String);

impl Session {
    async fn serve<H: Handler>(
        &mut self,
        life: &mut Life<H>,
        down: &mut Streaming<v1::AttachConnectorResponse>,
    ) -> Ended {
        match self.begin(life) {
            Ok(()) => {}
            Err(Gone(reason)) => return Ended::Broken { served: true, reason },
        }
        let mut beat = tokio::time::interval(self.heartbeat);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.leaving.is_some() && life.book.is_idle() {
                return Ended::Drained;
            }
            let (stop, is_leaving) = (life.stop.clone(), self.leaving.is_some());
            let (gathered, leave) = (self.gather_until, self.leaving);
            let turn = tokio::select! {
                message = down.message() => match message {
                    Ok(Some(response)) => {
                        self.heard = Instant::now();
                        response.message.map_or(Ok(()), |message| self.on_message(life, message))
                    }
                    Ok(None) if self.leaving.is_some() => return self.left(life),
                    Ok(None) => Err(Gone("the node closed the stream".into())),
                    Err(status) => {
                        let error = read_error(&status);
                        // What was said was refused as a whole, and would be each time: the channel decides anew.
                        if error.class() == Class::Refused && life.book.is_settling() {
                            let dropped = life.book.refused();
                            tracing::warn!(dropped, %error, "verdicts were refused and are given up");
                        }
                        Err(Gone(error.to_string()))
                    }
                },
                Some(finished) = life.received.recv() => {
                    life.note(finished);
                    self.gather();
                    Ok(())
                }
                () = at(gathered) => self.flush(life),
                _ = beat.tick() => self.on_beat(life),
                () = stop.cancelled(), if !is_leaving => self.leave(life),
                () = at(leave) => {
                    if !self.let_go(life) {
                        return Ended::Broken { served: true, reason: "the last verdicts were not taken".into() };
                    }
                    self.flush(life)
                }
            };
            if let Err(Gone(reason)) = turn {
                return Ended::Broken { served: true, reason };
            }
        }
    }

    /// What is left from the stream before is said first; what is worked on stays ours.
    fn begin<H>(&mut self, life: &mut Life<H>) -> Result<(), Gone> {
        if let Some(again) = life.book.settle_again() {
            self.send(Up::Settle(again))?;
        }
        for (id, job) in life.book.jobs() {
            if !job.heard {
                let name = v1::DeliveryName { message_id: id.clone(), token: job.token.clone() };
                self.acknowledged.push(name);
            }
        }
        let free = life.book.free().saturating_sub(life.book.asked_for());
        if free > 0 && !life.stop.is_cancelled() {
            self.give_credit(free)?;
        }
        self.flush(life)
    }

    fn give_credit(&self, messages: usize) -> Result<(), Gone> {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        self.send(Up::Credit(v1::ConnectorCredit { messages, bytes: 0 }))
    }

    fn on_message<H: Handler>(&mut self, life: &mut Life<H>, message: Down) -> Result<(), Gone> {
        match message {
            Down::Delivery(delivery) => self.take(life, delivery),
            Down::Settled(settled) => {
                for (id, reason) in life.book.settled(&settled.results) {
                    tracing::info!(message = id, reason, "a verdict does not count");
                }
                if life.book.has_unsaid() {
                    self.gather();
                }
                Ok(())
            }
            Down::End(end) => {
                tracing::info!(message = end.message_id, reason = end.reason, "a delivery counts no longer");
                if end.reason == WITHDRAWN {
                    return self.give_up(life, end);
                }
                match life.book.lost(&end.message_id, &end.token) {
                    Some(job) => {
                        job.stop();
                        // Its worker is free, and no verdict will say so.
                        if self.leaving.is_none() { self.give_credit(1) } else { Ok(()) }
                    }
                    None => Ok(()),
                }
            }
            Down::State(state) => {
                tracing::debug!(?state, "why nothing comes");
                Ok(())
            }
            Down::Welcome(_) | Down::Heartbeat(_) => Ok(()),
        }
    }

    /// Whoever asked needs the message no longer, but it is ours until we say so: its handler is stopped, and it is given
    /// back at once rather than when its time is up.
    fn give_up<H: Handler>(&mut self, life: &mut Life<H>, end: v1::DeliveryEnd) -> Result<(), Gone> {
        let job = life.book.jobs().find(|(id, job)| **id == end.message_id && job.token == end.token);
        if let Some((_, job)) = job {
            job.task.stop();
            let verdict = Verdict::fail("whoever asked needs it no longer");
            life.note(Finished { id: end.message_id, token: end.token, verdict });
            self.gather();
        }
        Ok(())
    }

    fn take<H: Handler>(&mut self, life: &mut Life<H>, delivery: v1::Delivery) -> Result<(), Gone> {
        let (id, token) = (delivery.message_id.clone(), delivery.token.clone());
        let name = v1::DeliveryName { message_id: id.clone(), token: token.clone() };
        match life.book.take(&id, &token) {
            Taken::NoRoom => {
                // Not acknowledged: it goes to somebody else.
                tracing::warn!(message = id, "more messages came than there are workers");
                return Ok(());
            }
            Taken::Known => {}
            Taken::Begin { stop } => {
                if let Some(older) = stop {
                    older.stop();
                }
                let job = begin_job(life, delivery);
                life.book.began(id, token, job);
            }
        }
        self.acknowledged.push(name);
        self.gather();
        Ok(())
    }

    fn gather(&mut self) {
        self.gather_until.get_or_insert_with(|| Moment::now() + GATHER);
    }

    /// Says what was gathered.
    fn flush<H>(&mut self, life: &mut Life<H>) -> Result<(), Gone> {
        self.gather_until = None;
        let frame = v1::SettleMessagesRequest {
            meta: Some(v1::RequestMeta {
                request_id: okno_client::new_request_id().to_string(),
                attempt: 1,
                workstation: String::new(),
            }),
            channel: life.setup.channel.clone(),
            instance: life.setup.instance.clone(),
            ..Default::default()
        };
        if let Some(settle) = life.book.settle(frame, self.leaving.is_none()) {
            // What is settled need not be acknowledged.
            self.acknowledged.retain(|name| !settle.verdicts.iter().any(|v| v.message_id == name.message_id));
            self.send(Up::Settle(settle))?;
        }
        if !self.acknowledged.is_empty() {
            let count = self.acknowledged.len().min(NAMED_MAX);
            let deliveries: Vec<v1::DeliveryName> = self.acknowledged.drain(..count).collect();
            for (id, job) in life.book.jobs() {
                job.heard |= deliveries.iter().any(|name| name.message_id == *id && name.token == job.token);
            }
            self.send(Up::Acknowledgement(v1::ConnectorAcknowledgement { deliveries }))?;
        }
        if !self.acknowledged.is_empty() {
            self.gather();
        }
        Ok(())
    }

    /// A heartbeat, reports of those who work long, and whether the node is still there.
    fn on_beat<H>(&mut self, life: &mut Life<H>) -> Result<(), Gone> {
        if self.heard.elapsed() > self.heartbeat * 3 {
            return Err(Gone("nothing was heard of the node for three heartbeats".into()));
        }
        self.beats += 1;
        self.send(Up::Heartbeat(v1::ConnectorHeartbeat { sequence: self.beats }))?;
        self.report(&mut life.book);
        if life.book.has_unsaid() && !life.book.is_settling() {
            self.gather();
        }
        Ok(())
    }

    fn report(&self, book: &mut Book<Job>) {
        let mut reports = Vec::new();
        for (id, job) in book.jobs() {
            let mut said = None;
            while let Ok(text) = job.task.progress.try_recv() {
                said = Some(text);
            }
            let due = job.task.told.elapsed() > self.work_within / 3 && job.reports < REPORTS_MAX;
            if let Some(text) = said.or_else(|| due.then(String::new)) {
                job.task.told = Instant::now();
                reports.push((id.clone(), text));
            }
        }
        for (id, text) in reports {
            book.report(&id, text);
        }
    }

    /// Told to end: no more messages, and handlers have some time.
    fn leave<H>(&mut self, life: &mut Life<H>) -> Result<(), Gone> {
        self.leaving = Some(Moment::now() + life.setup.drain);
        tracing::info!(channel = life.setup.channel, "the connector ends: what it has is settled first");
        self.send(Up::Goodbye(v1::ConnectorGoodbye {}))
    }

    /// The time of handlers is over; false: it was before. Nothing is said of what they have: the other side did not fail,
    /// and the node gives back at once what a stream still has when it ends after its goodbye.
    fn let_go<H: Handler>(&mut self, life: &mut Life<H>) -> bool {
        let left: Vec<(String, String)> = life
            .book
            .jobs()
            .map(|(id, job)| {
                job.task.stop();
                (id.clone(), job.token.clone())
            })
            .collect();
        if left.is_empty() {
            return false;
        }
        for (id, token) in left {
            tracing::info!(message = id, "given back: the connector was told to end");
            let _stopped = life.book.lost(&id, &token);
        }
        self.leaving = Some(Moment::now() + LAST_WORDS);
        true
    }

    /// The node has ended the stream after our goodbye.
    fn left<H>(&self, life: &Life<H>) -> Ended {
        if life.book.is_idle() {
            return Ended::Drained;
        }
        Ended::Broken { served: true, reason: "the node closed the stream before all was said".into() }
    }

    fn send(&self, message: Up) -> Result<(), Gone> {
        // Full: the node takes nothing, and the stream is as good as lost.
        self.up.try_send(request(message)).map_err(|_| Gone("the node takes nothing".into()))
    }
}

/// Why a delivery is to be given up although it still counts.
const WITHDRAWN: &str = "WITHDRAWN";
/// Deliveries that one message names.
const NAMED_MAX: usize = 64;

/// Never, where there is no moment.
async fn at(moment: Option<Moment>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Starts a handler. It says its verdict, or is dropped when the message is no longer its own.
fn begin_job<H: Handler>(life: &Life<H>, delivery: v1::Delivery) -> Job {
    let (progress, reports) = mpsc::channel(PROGRESS_MAX);
    let cancelled = CancellationToken::new();
    let (id, token) = (delivery.message_id.clone(), delivery.token.clone());
    let (handler, finished) = (life.handler.clone(), life.finished.clone());
    let work = Work { progress, cancelled: cancelled.clone() };
    let stopped = cancelled.clone();
    tokio::spawn(async move {
        let job = AssertUnwindSafe(handler.handle(Message::of(delivery), work)).catch_unwind();
        let verdict = tokio::select! {
            () = stopped.cancelled() => return,
            verdict = job => verdict.unwrap_or_else(|_| Verdict::fail("the connector failed")),
        };
        // The receiver lives as long as the connector.
        let _closed = finished.send(Finished { id, token, verdict }).await;
    });
    Job { cancelled, progress: reports, told: Instant::now() }
}
