//! Streams of connectors: messages go down as far as credit goes, verdicts and acknowledgements come up, heartbeats go both
//! ways.
//!
//! Invariants:
//! - at most [`UNDER_WAY_MAX`] deliveries are under way on a stream, credit included, so that it buffers a bounded number of
//!   bodies however slowly its client takes them;
//! - a client that takes nothing, or of which nothing is heard, for three heartbeats is lost: what it did not acknowledge
//!   is handed out again at once, what it did stays its own until its time;
//! - after its goodbye a stream takes no more and ends when nothing is left on it.

use super::{
    desk::{Desk, WriteRequest},
    hand_out::{HandedOut, Place, now_ms},
    watch::stopping,
};
use crate::{
    convert::channels::{self as wire, WITHDRAWN},
    failure::{Failure, Language},
    front::CallContext,
};
use futures::{Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use okno_domain::{
    channel::{Lapse, MessageState, Outgoing, Take, Token},
    refusal::{DELIVERY_LOST, MESSAGE_UNKNOWN},
};
use okno_proto::v1::{
    self, attach_connector_request::Message as Up, attach_connector_response::Message as Down,
};
use okno_runtime::channels::Delivered;
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Deliveries and credit of one stream together: with the largest bodies 4 MiB.
const UNDER_WAY_MAX: u32 = 64;
/// Responses on their way: every delivery once, and some beside.
const QUEUE_MAX: usize = UNDER_WAY_MAX as usize + 16;
/// Verdicts and acknowledgements of one stream under way; more wait in the connection.
const ACTIONS_MAX: usize = 8;
/// How long hello may take.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// How often a stream looks at what became of its deliveries.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two tellings of why nothing comes.
const STATE_EVERY: Duration = Duration::from_secs(1);
/// A hand-out that failed for a reason that may pass is tried again after this.
const TAKE_AGAIN: Duration = Duration::from_millis(300);

/// How long a hand-out that was under way when its stream ended is waited for.
const RETURN_WITHIN: Duration = Duration::from_secs(12);

pub type DownStream = Pin<Box<dyn Stream<Item = Result<v1::AttachConnectorResponse, Status>> + Send>>;

/// Begins a stream; the first message must be hello.
pub async fn attach(
    desk: Arc<Desk>,
    context: CallContext,
    mut up: Streaming<v1::AttachConnectorRequest>,
) -> Result<DownStream, Failure> {
    desk.channels_allowed(&context).await?;
    let connector = context.caller().id.to_string();
    let own = desk.traffic.attach_of(&connector)?;
    let permit = desk.traffic.streams.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Failure::exhausted("CONNECTORS_FULL", "too many attached connectors"))?;
    let hello = hello_of(&mut up).await?;
    wire::channel_ref(&hello.channel)?;
    let instance = wire::instance_from(&hello.instance)?;
    // A channel that was installed just now may not have applied here.
    desk.read_point(&context, None).await?;
    let head = desk
        .own_channel(&hello.channel, &connector)
        .inspect_err(|failure| desk.record_denial(&context, failure.reason()))?;
    if let Some(holds) = hello.holds {
        let holds = wire::delivered_from(holds.deliveries)?;
        desk.resume(&connector, &hello.channel, &instance, holds).await;
    }
    let place =
        desk.traffic.attach(&hello.channel, &connector, &instance, &wire::software_from(&hello.software));
    let (down, received) = mpsc::channel(QUEUE_MAX);
    let session = Session {
        patience: desk.traffic.heartbeat * 3,
        language: context.language,
        context,
        connector,
        channel: hello.channel,
        instance,
        place,
        down,
        credit: Arc::default(),
        credit_bytes: Arc::default(),
        held: BTreeMap::new(),
        goodbye: false,
        said: None,
        desk,
        _permits: (permit, own),
    };
    let welcome = Down::Welcome(v1::ConnectorWelcome {
        heartbeat_interval_ms: u32::try_from(session.desk.traffic.heartbeat.as_millis()).unwrap_or(u32::MAX),
        acknowledge_within_ms: head.settings.ack_ms,
        work_within_ms: head.settings.work_ms,
        served_by: session.desk.node_id,
        leader: session.desk.leader().unwrap_or_default(),
    });
    tokio::spawn(session.run(up, welcome));
    Ok(Box::pin(ReceiverStream::new(received)))
}

async fn hello_of(up: &mut Streaming<v1::AttachConnectorRequest>) -> Result<v1::ConnectorHello, Failure> {
    match tokio::time::timeout(HELLO_WITHIN, up.message()).await {
        Ok(Ok(Some(v1::AttachConnectorRequest { message: Some(Up::Hello(hello)) }))) => Ok(hello),
        _ => Err(Failure::field(
            "hello",
            "ожидается первым сообщением",
            "expected as the first message, within 5 s",
        )),
    }
}

/// A delivery that went down and is not known to be over.
struct Held {
    message: Arc<Outgoing>,
    token: Token,
    acknowledged: bool,
    told_withdrawn: bool,
}

/// A settling call under way.
struct Settling {
    /// The message of its verdict, if it has one alone.
    alone: Option<String>,
    /// Ids of verdicts that end a delivery.
    ending: Vec<String>,
    /// How much was to be taken.
    wanted: u32,
}

/// What was asked for on account of the stream's messages.
enum Done {
    Acknowledged(Vec<Delivered>, Result<Vec<String>, Failure>),
    Settled(Settling, Result<(HandedOut, Option<v1::WriteMeta>), Failure>),
}

/// Why a stream ends.
enum End {
    /// The client is gone, or said all.
    Quiet,
    Told(Failure),
}

struct Session {
    desk: Arc<Desk>,
    context: CallContext,
    language: Language,
    connector: String,
    channel: String,
    instance: String,
    place: Place,
    down: mpsc::Sender<Result<v1::AttachConnectorResponse, Status>>,
    /// How long silence is borne, and how long one response may wait to be taken.
    patience: Duration,
    /// Messages that may come, and bytes a hand-out; read when the turn to ask has come.
    credit: Arc<AtomicU32>,
    credit_bytes: Arc<AtomicU32>,
    /// By message id.
    held: BTreeMap<String, Held>,
    goodbye: bool,
    /// The last state that was told.
    said: Option<v1::ChannelState>,
    /// Of the node, and of the certificate.
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

type Taking = BoxFuture<'static, Result<Option<HandedOut>, Failure>>;
type Action = BoxFuture<'static, Done>;

impl Session {
    async fn run(mut self, up: Streaming<v1::AttachConnectorRequest>, welcome: Down) {
        let mut taking = None;
        let end = match self.send(welcome).await {
            Ok(()) => self.serve(up, &mut taking).await,
            Err(end) => end,
        };
        // Nothing is asked for any more; what is being handed out at this moment goes back as soon as it is known.
        self.credit.store(0, Ordering::Relaxed);
        if let Some(taking) = taking {
            tokio::spawn(return_taken(
                self.desk.clone(),
                self.connector.clone(),
                self.channel.clone(),
                taking,
            ));
        }
        // Before the stream's end is told: whoever attaches again finds its place free.
        let left: Vec<Delivered> = self
            .held
            .values()
            .filter(|held| self.goodbye || !held.acknowledged)
            .map(|held| Delivered { id: held.message.id.clone(), token: held.token })
            .collect();
        if let End::Told(failure) = &end {
            let status = Err(failure.status(self.language));
            // It may be gone already.
            let _gone = self.down.send_timeout(status, Duration::from_secs(1)).await;
        }
        self.desk.give_back(&self.connector, &self.channel, left, self.goodbye).await;
    }

    async fn serve(
        &mut self,
        mut up: Streaming<v1::AttachConnectorRequest>,
        taking: &mut Option<Taking>,
    ) -> End {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut actions: FuturesUnordered<Action> = FuturesUnordered::new();
        let mut heard = Instant::now();
        let mut told_state = Instant::now();
        loop {
            if taking.is_none() && !self.goodbye && self.room() > 0 {
                *taking = Some(self.begin_taking());
            }
            let replaced = self.place.replaced.clone();
            let stop = self.desk.stop.clone();
            let turn = tokio::select! {
                () = replaced.cancelled() => return End::Told(replaced_by_newer()),
                () = stop.cancelled() => return End::Told(stopping()),
                message = up.message(), if actions.len() < ACTIONS_MAX => {
                    let Some(message) = message.ok().flatten().and_then(|request| request.message) else {
                        return End::Quiet;
                    };
                    heard = Instant::now();
                    self.place.shown.heard_ms.store(now_ms(), Ordering::Relaxed);
                    self.on_message(message, &mut actions).await
                }
                taken = taken_of(taking) => {
                    *taking = None;
                    self.on_taken(taken).await
                }
                Some(done) = actions.next() => self.on_done(done).await,
                _ = look.tick() => {
                    if actions.len() >= ACTIONS_MAX {
                        // It is not the client that is silent: nothing is read of it.
                        heard = Instant::now();
                    }
                    if heard.elapsed() > self.patience {
                        return End::Told(silent());
                    }
                    let tell = told_state.elapsed() >= STATE_EVERY;
                    if tell {
                        told_state = Instant::now();
                    }
                    self.look(tell).await
                }
            };
            if let Err(end) = turn {
                return end;
            }
            self.show();
            if self.goodbye && self.held.is_empty() && actions.is_empty() {
                return End::Quiet;
            }
        }
    }

    /// Messages that may come now.
    fn room(&self) -> u32 {
        let under_way = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        self.credit.load(Ordering::Relaxed).min(UNDER_WAY_MAX.saturating_sub(under_way))
    }

    fn begin_taking(&self) -> Taking {
        let (desk, connector, channel) = (self.desk.clone(), self.connector.clone(), self.channel.clone());
        let instance = self.instance.clone();
        let (credit, bytes) = (self.credit.clone(), self.credit_bytes.clone());
        let most = UNDER_WAY_MAX.saturating_sub(u32::try_from(self.held.len()).unwrap_or(u32::MAX));
        Box::pin(async move {
            let want = || Take {
                messages: u16::try_from(credit.load(Ordering::Relaxed).min(most)).unwrap_or(u16::MAX),
                bytes: bytes.load(Ordering::Relaxed),
            };
            match desk.take((&connector, &instance), &channel, want, (None, None)).await {
                // A leader that changes, a bound that is reached: the stream is none the worse for it.
                Err(Failure::NotApplied { .. } | Failure::Unknown { .. }) => {
                    tokio::time::sleep(TAKE_AGAIN).await;
                    Ok(None)
                }
                other => other,
            }
        })
    }

    async fn on_taken(&mut self, taken: Result<Option<HandedOut>, Failure>) -> Result<(), End> {
        match taken {
            Ok(Some(handed)) => {
                let count = u32::try_from(handed.exchanged.handed.len()).unwrap_or(u32::MAX);
                self.spend(count);
                self.deliver(&handed).await
            }
            Ok(None) => Ok(()),
            Err(failure) => Err(End::Told(failure)),
        }
    }

    fn spend(&self, count: u32) {
        // Only this task changes it.
        self.credit.store(self.credit.load(Ordering::Relaxed).saturating_sub(count), Ordering::Relaxed);
    }

    /// More may come, as much as fits beside what is under way.
    fn give_credit(&self, messages: u32) {
        let most = UNDER_WAY_MAX.saturating_sub(u32::try_from(self.held.len()).unwrap_or(u32::MAX));
        let credit = self.credit.load(Ordering::Relaxed).saturating_add(messages).min(most);
        self.credit.store(credit, Ordering::Relaxed);
    }

    async fn deliver(&mut self, handed: &HandedOut) -> Result<(), End> {
        let found = self.desk.deliveries(&self.connector, &self.channel, handed).await;
        let mut deliveries = Vec::new();
        for (message, token, delivery) in found.map_err(End::Told)? {
            let held = Held { message, token, acknowledged: false, told_withdrawn: false };
            self.held.insert(held.message.id.clone(), held);
            deliveries.push(delivery);
        }
        // All of them are held first: if the client takes no more, what did not leave is given back with the rest.
        for delivery in deliveries {
            self.send(Down::Delivery(delivery)).await?;
        }
        Ok(())
    }

    async fn on_message(&mut self, message: Up, actions: &mut FuturesUnordered<Action>) -> Result<(), End> {
        match message {
            Up::Hello(_) => {
                let again = Failure::field("hello", "только первым сообщением", "expected once, first");
                return Err(End::Told(again));
            }
            Up::Credit(credit) => {
                let bytes = if credit.bytes == 0 { wire::TAKE_BYTES_MAX } else { credit.bytes };
                self.credit_bytes.store(bytes.min(wire::TAKE_BYTES_MAX), Ordering::Relaxed);
                if !self.goodbye {
                    self.give_credit(credit.messages);
                }
            }
            Up::Heartbeat(beat) => self.send(Down::Heartbeat(beat)).await?,
            Up::Acknowledgement(names) => {
                let deliveries = wire::delivered_from(names.deliveries).map_err(End::Told)?;
                let (desk, connector, channel) =
                    (self.desk.clone(), self.connector.clone(), self.channel.clone());
                actions.push(Box::pin(async move {
                    let heard = desk.acknowledge(&connector, &channel, deliveries.clone()).await;
                    Done::Acknowledged(deliveries, heard)
                }));
            }
            Up::Settle(settle) => actions.push(self.settle(settle).map_err(End::Told)?),
            Up::Goodbye(_) => {
                self.goodbye = true;
                self.credit.store(0, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn settle(&self, mut message: v1::SettleMessagesRequest) -> Result<Action, Failure> {
        if message.channel != self.channel {
            return Err(Failure::field(
                "settle.channel",
                "ожидается канал этого потока",
                "expected the channel of this stream",
            ));
        }
        let meta = message.meta.take();
        let mut request = WriteRequest::of_method(&self.context, SETTLE, meta, &message)?;
        request.workstation.clone_from(&self.instance);
        let mut take = wire::take_from(message.take_messages, message.take_bytes)?;
        let wanted = u32::from(take.messages);
        let ending = message.verdicts.iter().filter(|verdict| ends(verdict));
        let ending: Vec<String> = ending.map(|verdict| verdict.message_id.clone()).collect();
        let alone = match message.verdicts.as_slice() {
            [verdict] => Some(verdict.message_id.clone()),
            _ => None,
        };
        // Those that end make room for what is taken in the same commit.
        let gone = ending.iter().filter(|id| self.held.contains_key(*id)).count();
        // A connector may name one message twice.
        let staying = self.held.len().saturating_sub(gone);
        let spoken_for =
            u32::try_from(staying).unwrap_or(u32::MAX).saturating_add(self.credit.load(Ordering::Relaxed));
        let most = UNDER_WAY_MAX.saturating_sub(spoken_for);
        take.messages = take.messages.min(u16::try_from(most).unwrap_or(u16::MAX));
        if self.goodbye {
            take.messages = 0;
        }
        let verdicts = wire::verdicts_from(message.verdicts)?;
        let (desk, context, channel) = (self.desk.clone(), self.context.clone(), self.channel.clone());
        Ok(Box::pin(async move {
            // The stream's own deadline passed when it began.
            let context = CallContext { deadline: Instant::now() + SETTLE_WITHIN, ..context };
            let settled = desk.exchange(&context, request, &channel, (verdicts, take)).await;
            Done::Settled(Settling { alone, ending, wanted }, settled)
        }))
    }

    async fn on_done(&mut self, done: Done) -> Result<(), End> {
        match done {
            Done::Acknowledged(deliveries, Ok(reasons)) => {
                for (delivered, reason) in deliveries.into_iter().zip(reasons) {
                    let held = self.held.get_mut(&delivered.id).filter(|held| held.token == delivered.token);
                    match (held, reason.as_str()) {
                        (Some(held), "") => held.acknowledged = true,
                        (None, "") => {}
                        _ => {
                            self.held.remove(&delivered.id);
                            self.send(ended(&delivered.id, delivered.token, &reason)).await?;
                        }
                    }
                }
                Ok(())
            }
            // Nobody keeps leases at the moment; a new leader grants a full one.
            Done::Acknowledged(_, Err(_)) => Ok(()),
            Done::Settled(Settling { ending, wanted, .. }, Ok((handed, meta))) => {
                let results = handed.exchanged.results.clone();
                for result in &results {
                    let gone = [DELIVERY_LOST.code, MESSAGE_UNKNOWN.code].contains(&result.reason.as_str());
                    if gone || (result.reason.is_empty() && ending.contains(&result.id)) {
                        self.held.remove(&result.id);
                    }
                }
                self.deliver(&handed).await?;
                let short = wanted.saturating_sub(u32::try_from(handed.exchanged.handed.len()).unwrap_or(0));
                if !self.goodbye {
                    self.give_credit(short);
                }
                self.send(Down::Settled(v1::SettleMessagesResponse {
                    results: results.into_iter().map(wire::result).collect(),
                    deliveries: Vec::new(),
                    state: None,
                    meta,
                }))
                .await
            }
            Done::Settled(
                Settling { alone: Some(message_id), wanted, .. },
                Err(Failure::Refused(refusal)),
            ) => {
                // One verdict that does not count, a report as well as any: nothing worse than one of several that does not.
                if [DELIVERY_LOST.code, MESSAGE_UNKNOWN.code].contains(&refusal.reason.as_str()) {
                    self.held.remove(&message_id);
                }
                if !self.goodbye {
                    self.give_credit(wanted);
                }
                let result = v1::VerdictResult { message_id, reason: refusal.reason, withdrawn: false };
                let settled = v1::SettleMessagesResponse { results: vec![result], ..Default::default() };
                self.send(Down::Settled(settled)).await
            }
            // Refused as a whole, the stream ends with the reason, and nothing of it counts. Otherwise whoever settles says
            // it again under the same id, on a stream that is told it must.
            Done::Settled(_, Err(failure)) => Err(End::Told(failure)),
        }
    }

    /// What became of the deliveries elsewhere, and why nothing comes.
    async fn look(&mut self, tell_state: bool) -> Result<(), End> {
        let view = self.desk.query.snapshot().map_err(|error| End::Told(self.desk.unreadable(error)))?;
        let mut over = Vec::new();
        for held in self.held.values_mut() {
            let now = view
                .channel_message(&self.channel, held.message.sequence)
                .map_err(|error| End::Told(self.desk.unreadable(error)))?;
            let Some(now) = now else {
                // Answered; by this connector, for nobody else had its token.
                over.push((held.message.id.clone(), held.token, None));
                continue;
            };
            let still = matches!(now.state, MessageState::Out { token, .. } if token == held.token);
            if !still {
                over.push((held.message.id.clone(), held.token, Some(reason_of(&now, held))));
            } else if now.withdrawn && !held.told_withdrawn {
                held.told_withdrawn = true;
                over.push((held.message.id.clone(), held.token, Some(WITHDRAWN)));
            }
        }
        drop(view);
        for (id, token, reason) in over {
            if reason != Some(WITHDRAWN) {
                self.held.remove(&id);
            }
            if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
                self.send(ended(&id, token, reason)).await?;
            }
        }
        if tell_state && self.room() > 0 {
            let head = self.desk.own_channel(&self.channel, &self.connector).map_err(End::Told)?;
            let state = wire::state(&head, None);
            if self.said.as_ref() != Some(&state) {
                self.said = Some(state);
                self.send(Down::State(state)).await?;
            }
        }
        Ok(())
    }

    /// For those who look at the channel from outside.
    fn show(&self) {
        let count = |acknowledged: bool| {
            let held = self.held.values().filter(|held| held.acknowledged == acknowledged).count();
            u32::try_from(held).unwrap_or(u32::MAX)
        };
        self.place.shown.unacknowledged.store(count(false), Ordering::Relaxed);
        self.place.shown.working.store(count(true), Ordering::Relaxed);
    }

    /// Fails when the client is gone or takes nothing.
    async fn send(&self, message: Down) -> Result<(), End> {
        let response = Ok(v1::AttachConnectorResponse { message: Some(message) });
        self.down.send_timeout(response, self.patience).await.map_err(|_| End::Quiet)
    }
}

/// The method whose request a settling message is: said here or there, it is the same request.
const SETTLE: &str = "/okno.v1.Connectors/SettleMessages";
/// How long verdicts on a stream may take: longer than electing a new leader.
const SETTLE_WITHIN: Duration = Duration::from_secs(15);

/// What was begun comes to its end; without anything begun, never.
async fn taken_of(taking: &mut Option<Taking>) -> Result<Option<HandedOut>, Failure> {
    match taking {
        Some(taking) => taking.await,
        None => std::future::pending().await,
    }
}

/// What was handed out to a stream that is gone lapses now, not when nobody has acknowledged it for its time. Bounded: a
/// hand-out that waits for its turn finds that nothing is wanted, and one under way has a deadline.
async fn return_taken(desk: Arc<Desk>, connector: String, channel: String, taking: Taking) {
    let Ok(Ok(Some(handed))) = tokio::time::timeout(RETURN_WITHIN, taking).await else { return };
    let of = |message: &Arc<Outgoing>| match message.state {
        MessageState::Out { token, .. } => Some(Delivered { id: message.id.clone(), token }),
        _ => None,
    };
    let deliveries = handed.exchanged.handed.iter().filter_map(of).collect();
    desk.give_back(&connector, &channel, deliveries, false).await;
}

/// Does the verdict end the delivery, if it counts?
fn ends(verdict: &v1::Verdict) -> bool {
    !matches!(verdict.said, Some(v1::verdict::Said::Progress(_)) | None)
}

/// Why a delivery counts no longer, as its message tells; empty: its own connector has said so.
fn reason_of(now: &Outgoing, held: &Held) -> &'static str {
    let lapses = [Lapse::Unheard, Lapse::Overdue, Lapse::Gone].map(Lapse::name);
    if now.unheard > held.message.unheard {
        return Lapse::Unheard.name();
    }
    if now.attempts > held.message.attempts
        && let Some(lapse) = lapses.into_iter().find(|lapse| now.failure == *lapse)
    {
        return lapse;
    }
    ""
}

fn ended(id: &str, token: Token, reason: &str) -> Down {
    Down::End(v1::DeliveryEnd {
        message_id: id.to_owned(),
        token: token.to_string(),
        reason: reason.to_owned(),
    })
}

fn replaced_by_newer() -> Failure {
    Failure::not_applied(
        "CONNECTOR_REPLACED",
        Duration::from_secs(5),
        "another stream of this instance has taken the place",
    )
}

fn silent() -> Failure {
    Failure::not_applied(
        "CONNECTOR_SILENT",
        Duration::from_millis(100),
        "nothing was heard for three heartbeats: attach again",
    )
}
