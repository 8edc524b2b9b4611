//! The client and its retry driver.
//!
//! Invariants of one call: every attempt carries the same request id; the attempt number grows with each attempt that ended
//! unknown, and only with those (rule 2: nothing of one that was not applied is on its way, so that the next is as good as the
//! first and a refusal of it is final without a commit); once an attempt ended unknown, "not applied" is reported as unknown
//! (rule 1); the deadline bounds everything, waiting included.

use crate::{
    calls::{Call, Effect, Hints},
    connect::{Connector, TlsFiles},
    error::{CallError, Class, Problem, Reading, SetupError, classify},
};
use backon::{BackoffBuilder, ExponentialBuilder};
use http::{Uri, uri::PathAndQuery};
use okno_proto::{
    metadata,
    v1::{
        AttachConnectorRequest, AttachConnectorResponse, AttachRequest, AttachResponse, CreateBackupRequest,
        CreateBackupResponse, GetStatusRequest, GetSupportDataRequest, GetSupportDataResponse,
        WatchNoticesRequest, WatchNoticesResponse, WatchQueueRequest, WatchQueueResponse,
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tonic::{Code, Request, Status, Streaming, client::Grpc, metadata::MetadataMap, transport::Channel};
use tonic_prost::ProstCodec;
use uuid::Uuid;

/// The most the cluster takes in one message (design §8).
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// The most this side takes: a page of large cases is far below.
const MAX_RESPONSE: usize = 16 * 1024 * 1024;
/// With the back-off's ceiling this is above what any sensible deadline allows; it stops a loop of instant failures.
pub const MAX_ATTEMPTS: u32 = 200;
/// First and longest pause between attempts: a new leader is there within about a second.
const BACKOFF_FIRST: Duration = Duration::from_millis(25);
const BACKOFF_LONGEST: Duration = Duration::from_millis(400);
/// A server's hint beyond this is cut: hints are for pacing, not for parking a caller.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);
/// How long an endpoint that failed is passed over while others are there.
const DOWN_FOR: Duration = Duration::from_secs(1);
/// The server answers a deadline itself; only a dead one is cut off from here, this much later.
const DEADLINE_GRACE: Duration = Duration::from_millis(150);
/// A silent connection is found dead within interval + timeout.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Cause of an unknown outcome that no retry clears up (rule 6).
const REQUEST_ID_EXPIRED: &str = "REQUEST_ID_EXPIRED";

/// Which node calls go to first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Route {
    /// One endpoint after the other, staying with one while it answers.
    #[default]
    Spread,
    /// The leader as last heard of: saves a hop. [`Client::find_leader`] finds it at the start.
    Leader,
}

/// How a client is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// host:port, at least one.
    pub endpoints: Vec<String>,
    pub tls: TlsFiles,
    /// Name of the cluster; empty: not checked.
    pub cluster: String,
    /// Recorded with every change; may be empty.
    pub workstation: String,
    /// Of a whole call with its retries.
    pub deadline: Duration,
    /// Of one attempt: longer than electing a new leader takes.
    pub attempt_timeout: Duration,
    pub route: Route,
    /// Index of the endpoint to begin with; clients of one process spread by it.
    pub start: usize,
    /// `accept-language` of texts for people; `None`: Russian.
    pub language: Option<String>,
}

impl Settings {
    pub fn new(endpoints: Vec<String>, tls: TlsFiles) -> Self {
        Self {
            endpoints,
            tls,
            cluster: String::new(),
            workstation: String::new(),
            deadline: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(3),
            route: Route::Spread,
            start: 0,
            language: None,
        }
    }
}

/// Exceptions for one call.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallOptions {
    pub deadline: Option<Duration>,
    /// Only this endpoint (by index): for reads from a named node's own store.
    pub endpoint: Option<usize>,
    /// One attempt and no more.
    pub once: bool,
}

/// A call that succeeded.
#[derive(Debug, Clone)]
pub struct Answer<R> {
    pub response: R,
    /// Attempts made, 1 at the least.
    pub attempts: u32,
    /// Index of the endpoint that answered.
    pub endpoint: usize,
}

struct Endpoint {
    address: String,
    origin: Uri,
    channel: Channel,
    /// Node that answers there, as learned; 0: not yet.
    node: AtomicU64,
    /// Milliseconds since the client began until which it is passed over.
    down_until: AtomicU64,
}

struct Inner {
    settings: Settings,
    endpoints: Vec<Endpoint>,
    /// Where calls go now.
    current: AtomicUsize,
    /// Node that leads, as last heard; 0: unknown.
    leader: AtomicU64,
    began: Instant,
}

/// A connection to each endpoint, opened when needed. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

impl Client {
    /// Checks endpoints and certificates; connects to nothing yet. Call it within a tokio runtime.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        if settings.endpoints.is_empty() {
            return Err(SetupError::Missing { key: "endpoints" });
        }
        let files = Arc::new(settings.tls.clone());
        let endpoints = settings
            .endpoints
            .iter()
            .map(|address| {
                let connector = Connector::new(address, Arc::clone(&files), &settings.cluster)?;
                let uri = |scheme: &str| {
                    Uri::try_from(format!("{scheme}://{address}")).map_err(|_| SetupError::Value {
                        key: "endpoints",
                        found: address.clone(),
                        expected: "host:port",
                    })
                };
                // TLS is the connector's: with the scheme https tonic would want to add its own.
                let channel = tonic::transport::Endpoint::from(uri("http")?)
                    .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                    .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                    .keep_alive_while_idle(true)
                    .connect_with_connector_lazy(connector);
                Ok(Endpoint {
                    address: address.clone(),
                    origin: uri("https")?,
                    channel,
                    node: AtomicU64::new(0),
                    down_until: AtomicU64::new(0),
                })
            })
            .collect::<Result<Vec<_>, SetupError>>()?;
        let current = AtomicUsize::new(settings.start % endpoints.len());
        Ok(Self {
            inner: Arc::new(Inner {
                settings,
                endpoints,
                current,
                leader: AtomicU64::new(0),
                began: Instant::now(),
            }),
        })
    }

    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Addresses in the order of their indexes.
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &str> {
        self.inner.endpoints.iter().map(|endpoint| endpoint.address.as_str())
    }

    /// The endpoint of a node, once it has answered there.
    pub fn endpoint_of(&self, node: u64) -> Option<usize> {
        (node != 0)
            .then(|| self.inner.endpoints.iter().position(|e| e.node.load(Ordering::Relaxed) == node))
            .flatten()
    }

    /// The node that leads, as last heard.
    pub fn leader(&self) -> Option<u64> {
        Some(self.inner.leader.load(Ordering::Relaxed)).filter(|leader| *leader != 0)
    }

    /// Asks every endpoint who it is and who leads; the leader's endpoint, if it is among them.
    pub async fn find_leader(&self) -> Option<usize> {
        let answers = (0..self.inner.endpoints.len()).map(|endpoint| {
            let options = CallOptions { endpoint: Some(endpoint), once: true, ..CallOptions::default() };
            self.call_with(GetStatusRequest {}, options)
        });
        // An endpoint that does not answer leads nothing now. Who leads in the highest term does: a node that has
        // fallen behind may still name the one before.
        let latest = futures::future::join_all(answers)
            .await
            .into_iter()
            .flatten()
            .map(|answer| (answer.response.term, answer.response.leader))
            .filter(|(_, leader)| *leader != 0)
            .max();
        if let Some((_, leader)) = latest {
            self.inner.leader.store(leader, Ordering::Relaxed);
        }
        self.endpoint_of(self.leader()?)
    }

    /// Makes a call, with retries until it succeeds, is refused, or its deadline passes.
    pub async fn call<C: Call>(&self, request: C) -> Result<Answer<C::Response>, CallError> {
        self.call_with(request, CallOptions::default()).await
    }

    /// As [`Client::call`], with exceptions. A request that brings an id and an attempt number above 1 continues an
    /// earlier call whose outcome is unknown.
    pub async fn call_with<C: Call>(
        &self,
        mut request: C,
        options: CallOptions,
    ) -> Result<Answer<C::Response>, CallError> {
        let mut first_attempt = 1;
        if let Some(meta) = request.request_meta() {
            if meta.request_id.is_empty() {
                meta.request_id = crate::new_request_id().to_string();
            }
            if meta.workstation.is_empty() {
                meta.workstation.clone_from(&self.inner.settings.workstation);
            }
            first_attempt = meta.attempt.max(1);
        }
        if request.encoded_len() > MAX_MESSAGE {
            let text = format!("{} bytes; at most {MAX_MESSAGE} go into one message", request.encoded_len());
            return Err(CallError::new(
                Class::Refused,
                Problem::local(Code::OutOfRange, "MESSAGE_TOO_LARGE", text),
            ));
        }
        let mut course = Course::new(first_attempt > 1);
        let deadline = Instant::now() + options.deadline.unwrap_or(self.inner.settings.deadline);
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(BACKOFF_FIRST)
            .with_max_delay(BACKOFF_LONGEST)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times()
            .build();
        let mut away_in_a_row = 0;
        let mut followed_hint = false;
        while course.attempts < MAX_ATTEMPTS {
            let timeout =
                deadline.saturating_duration_since(Instant::now()).min(self.inner.settings.attempt_timeout);
            if timeout.is_zero() {
                break;
            }
            let index = options.endpoint.unwrap_or_else(|| self.pick());
            if let Some(meta) = request.request_meta() {
                meta.attempt = first_attempt + course.unknown;
            }
            course.attempts += 1;
            let status = match self.attempt(index, &request, timeout).await {
                Ok(response) => return Ok(Answer { response, attempts: course.attempts, endpoint: index }),
                Err(status) => status,
            };
            self.learn(index, status.metadata(), Hints::default());
            let reading = classify(&status, C::EFFECT);
            tracing::debug!(
                method = C::PATH,
                endpoint = index,
                attempt = course.attempts,
                class = reading.class.name(),
                reason = reading.problem.reason,
                "attempt failed"
            );
            let away = reading.unreachable || reading.closed;
            if away || !reading.authentic {
                self.mark_down(index);
            } else if reading.class != Class::Refused && reading.problem.code != Code::ResourceExhausted {
                // A node that cannot reach the leader answers too; another one may. Overload is the cluster's.
                self.leave(index);
            }
            away_in_a_row = if away { away_in_a_row + 1 } else { 0 };
            let retry_after = reading.problem.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
            // Another endpoint may be up; the one that leads is worth going to at once, the first time.
            let others_left = away_in_a_row > 0 && away_in_a_row < self.inner.endpoints.len();
            let hinted = options.endpoint.is_none()
                && !followed_hint
                && self
                    .leader()
                    .and_then(|l| self.endpoint_of(l))
                    .is_some_and(|l| l != index && !self.is_down(l));
            if course.settle(reading) || options.once {
                break;
            }
            if hinted && self.route_to_leader() {
                followed_hint = true;
            } else if !others_left || options.endpoint.is_some() {
                let pause = pauses.next().unwrap_or(BACKOFF_LONGEST).max(retry_after);
                if pause >= deadline.saturating_duration_since(Instant::now()) {
                    break;
                }
                tokio::time::sleep(pause).await;
            }
        }
        let id = request.request_meta().and_then(|meta| Uuid::parse_str(&meta.request_id).ok());
        Err(course.into_error(id))
    }

    async fn attempt<C: Call>(
        &self,
        index: usize,
        request: &C,
        timeout: Duration,
    ) -> Result<C::Response, Status> {
        let endpoint = &self.inner.endpoints[index];
        let mut message = Request::new(request.clone());
        message.set_timeout(timeout);
        self.decorate(message.metadata_mut());
        let mut grpc = self.grpc(endpoint);
        let call = async {
            grpc.ready().await.map_err(|error| not_sent(&error.to_string()))?;
            grpc.unary(message, PathAndQuery::from_static(C::PATH), ProstCodec::<C, C::Response>::default())
                .await
        };
        let response = tokio::time::timeout(timeout + DEADLINE_GRACE, call)
            .await
            .map_err(|_| Status::deadline_exceeded("the node did not answer in time"))??;
        self.learn(index, response.metadata(), C::hints(response.get_ref()));
        Ok(response.into_inner())
    }

    fn grpc(&self, endpoint: &Endpoint) -> Grpc<Channel> {
        Grpc::with_origin(endpoint.channel.clone(), endpoint.origin.clone())
            .max_decoding_message_size(MAX_RESPONSE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    fn decorate(&self, metadata: &mut MetadataMap) {
        if let Some(language) = self.inner.settings.language.as_deref().and_then(|l| l.parse().ok()) {
            metadata.insert("accept-language", language);
        }
    }

    /// Opens a server stream at one endpoint; no retries. Returns the endpoint's index with it.
    pub(crate) async fn server_stream<Q, R>(
        &self,
        endpoint: Option<usize>,
        path: &'static str,
        request: Q,
    ) -> Result<(usize, Streaming<R>), (usize, Status)>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let index = endpoint.unwrap_or_else(|| self.pick());
        let mut message = Request::new(request);
        self.decorate(message.metadata_mut());
        let mut grpc = self.grpc(&self.inner.endpoints[index]);
        let call = async {
            grpc.ready().await.map_err(|error| not_sent(&error.to_string()))?;
            grpc.server_streaming(message, PathAndQuery::from_static(path), ProstCodec::<Q, R>::default())
                .await
        };
        match tokio::time::timeout(self.inner.settings.attempt_timeout, call).await {
            Ok(Ok(response)) => {
                self.learn(index, response.metadata(), Hints::default());
                Ok((index, response.into_inner()))
            }
            Ok(Err(status)) => {
                self.fail_over(index, &status);
                Err((index, status))
            }
            Err(_) => {
                self.mark_down(index);
                Err((index, Status::deadline_exceeded("the node did not answer in time")))
            }
        }
    }

    /// Follows cluster notices of one node (or of whichever answers).
    pub async fn watch_notices(
        &self,
        endpoint: Option<usize>,
    ) -> Result<Streaming<WatchNoticesResponse>, CallError> {
        self.server_stream(endpoint, "/okno.v1.ClusterService/WatchNotices", WatchNoticesRequest {})
            .await
            .map(|(_, stream)| stream)
            .map_err(|(_, status)| read_error(&status))
    }

    /// What happened to an office's tickets, in the form of the universal interface (R-Q13): an export of what there is, or
    /// as it happens. Taken up again with the last resume token.
    pub async fn watch_queue(
        &self,
        endpoint: Option<usize>,
        request: WatchQueueRequest,
    ) -> Result<Streaming<WatchQueueResponse>, CallError> {
        self.server_stream(endpoint, "/okno.v1.QueueService/WatchQueue", request)
            .await
            .map(|(_, stream)| stream)
            .map_err(|(_, status)| read_error(&status))
    }

    /// What a node gives to those who look for a fault, part by part.
    pub async fn support_data(
        &self,
        endpoint: usize,
    ) -> Result<Streaming<GetSupportDataResponse>, CallError> {
        let path = "/okno.v1.OperationsService/GetSupportData";
        self.server_stream(Some(endpoint), path, GetSupportDataRequest {})
            .await
            .map(|(_, stream)| stream)
            .map_err(|(_, status)| read_error(&status))
    }

    /// Has one node (or whichever answers) take a backup: progress, then the backup. It is not ended by hanging up.
    pub async fn create_backup(
        &self,
        endpoint: Option<usize>,
    ) -> Result<Streaming<CreateBackupResponse>, CallError> {
        self.server_stream(endpoint, "/okno.v1.BackupService/CreateBackup", CreateBackupRequest {})
            .await
            .map(|(_, stream)| stream)
            .map_err(|(_, status)| read_error(&status))
    }

    /// Attaches a workstation to one node (or to whichever answers): heartbeats go up, leases and notices come down.
    pub async fn attach<S>(
        &self,
        endpoint: Option<usize>,
        outbound: S,
    ) -> Result<Streaming<AttachResponse>, CallError>
    where
        S: futures::Stream<Item = AttachRequest> + Send + 'static,
    {
        self.both_ways(endpoint, "/okno.v1.WorkstationService/Attach", outbound).await
    }

    /// Attaches a connector to one node (or to whichever answers): messages come down, verdicts go up.
    pub async fn attach_connector<S>(
        &self,
        endpoint: Option<usize>,
        outbound: S,
    ) -> Result<Streaming<AttachConnectorResponse>, CallError>
    where
        S: futures::Stream<Item = AttachConnectorRequest> + Send + 'static,
    {
        self.both_ways(endpoint, "/okno.v1.Connectors/AttachConnector", outbound).await
    }

    /// Opens a stream that goes both ways.
    async fn both_ways<U, D, S>(
        &self,
        endpoint: Option<usize>,
        path: &'static str,
        outbound: S,
    ) -> Result<Streaming<D>, CallError>
    where
        U: prost::Message + 'static,
        D: prost::Message + Default + 'static,
        S: futures::Stream<Item = U> + Send + 'static,
    {
        let index = endpoint.unwrap_or_else(|| self.pick());
        let mut message = Request::new(outbound);
        self.decorate(message.metadata_mut());
        let mut grpc = self.grpc(&self.inner.endpoints[index]);
        let path = PathAndQuery::from_static(path);
        let call = async {
            grpc.ready().await.map_err(|error| not_sent(&error.to_string()))?;
            grpc.streaming(message, path, ProstCodec::<U, D>::default()).await
        };
        let result = tokio::time::timeout(self.inner.settings.attempt_timeout, call)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the node did not answer in time")));
        match result {
            Ok(response) => {
                self.learn(index, response.metadata(), Hints::default());
                Ok(response.into_inner())
            }
            Err(status) => {
                self.fail_over(index, &status);
                Err(read_error(&status))
            }
        }
    }

    /// Turns away from an endpoint whose stream failed or went silent.
    pub(crate) fn fail_over(&self, index: usize, status: &Status) {
        self.learn(index, status.metadata(), Hints::default());
        let reading = classify(status, Effect::Reads);
        if reading.authentic { self.leave(index) } else { self.mark_down(index) }
    }

    fn pick(&self) -> usize {
        let inner = &*self.inner;
        if inner.settings.route == Route::Leader
            && let Some(index) = self.leader().and_then(|leader| self.endpoint_of(leader))
            && !self.is_down(index)
        {
            return index;
        }
        let current = inner.current.load(Ordering::Relaxed);
        let count = inner.endpoints.len();
        (0..count).map(|step| (current + step) % count).find(|index| !self.is_down(*index)).unwrap_or(current)
    }

    fn route_to_leader(&self) -> bool {
        match self.leader().and_then(|leader| self.endpoint_of(leader)) {
            Some(index) => {
                self.inner.current.store(index, Ordering::Relaxed);
                true
            }
            None => false,
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.inner.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_down(&self, index: usize) -> bool {
        self.inner.endpoints[index].down_until.load(Ordering::Relaxed) > self.now_ms()
    }

    fn mark_down(&self, index: usize) {
        let until = self.now_ms() + u64::try_from(DOWN_FOR.as_millis()).unwrap_or(u64::MAX);
        self.inner.endpoints[index].down_until.store(until, Ordering::Relaxed);
        self.leave(index);
    }

    /// Later calls begin with the next endpoint; a race between two callers moves on once.
    fn leave(&self, index: usize) {
        let next = (index + 1) % self.inner.endpoints.len();
        let _ = self.inner.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn learn(&self, index: usize, metadata: &MetadataMap, hints: Hints) {
        let number =
            |name: &str| metadata.get(name).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
        let node = number(metadata::SERVED_BY).unwrap_or(hints.served_by);
        if node != 0 {
            self.inner.endpoints[index].node.store(node, Ordering::Relaxed);
        }
        let leader = number(metadata::LEADER).unwrap_or(hints.leader);
        if leader != 0 {
            self.inner.leader.store(leader, Ordering::Relaxed);
        }
    }
}

/// What a call has come to so far (rule 1).
struct Course {
    attempts: u32,
    /// Those that ended unknown.
    unknown: u32,
    /// The first attempt that ended unknown.
    doubt: Option<Problem>,
    /// An earlier call with this id ended unknown: its outcome is in doubt from the beginning.
    doubtful: bool,
    last: Option<(Class, Problem)>,
}

impl Course {
    fn new(doubtful: bool) -> Self {
        Self { attempts: 0, unknown: 0, doubt: None, doubtful, last: None }
    }

    /// Takes in the reading of an attempt; true: the call is over.
    fn settle(&mut self, reading: Reading) -> bool {
        let Reading { class, problem, authentic, .. } = reading;
        match class {
            Class::Refused => {
                let in_doubt = self.doubtful || self.doubt.is_some();
                // A refusal settles what an earlier attempt left open only if the cluster made it knowing the
                // request id; a denial at the door may come before that is looked up.
                let settles =
                    authentic && !matches!(problem.code, Code::PermissionDenied | Code::Unauthenticated);
                let class = if in_doubt && !settles { Class::Unknown } else { Class::Refused };
                if class == Class::Refused {
                    self.doubt = None;
                    self.doubtful = false;
                }
                self.last = Some((class, problem));
                true
            }
            Class::NotApplied => {
                self.last = Some((class, problem));
                false
            }
            Class::Unknown => {
                // Out of the window of remembered ids: the cluster will never know, however often it is asked.
                let for_ever =
                    authentic && problem.details.get("cause").is_some_and(|c| c == REQUEST_ID_EXPIRED);
                self.doubt.get_or_insert_with(|| problem.clone());
                self.unknown += 1;
                self.last = Some((class, problem));
                for_ever
            }
        }
    }

    fn into_error(self, request_id: Option<Uuid>) -> CallError {
        let in_doubt = self.doubtful || self.doubt.is_some();
        let (class, last) = self.last.unwrap_or_else(|| {
            (
                Class::NotApplied,
                Problem::local(
                    Code::DeadlineExceeded,
                    "DEADLINE_EXCEEDED",
                    "the deadline had passed before the call",
                ),
            )
        });
        let class = if in_doubt && class == Class::NotApplied { Class::Unknown } else { class };
        let mut problem = match (class, self.doubt) {
            (Class::Unknown, Some(doubt)) => doubt,
            _ => last,
        };
        problem.request_id = request_id;
        problem.attempts = self.attempts;
        CallError::new(class, problem)
    }
}

/// The request did not leave this process.
fn not_sent(message: &str) -> Status {
    let mut status = Status::unavailable(message);
    status.set_source(Arc::new(tonic::ConnectError(message.into())));
    status
}

pub fn read_error(status: &Status) -> CallError {
    let reading = classify(status, Effect::Reads);
    CallError::new(reading.class, reading.problem)
}
