//! A node that answers by script, behind real mutual TLS, with a wire that can be cut. Used by the tests of the client
//! and of `oknoctl`, each of which uses a part of it.
#![allow(dead_code)]

use okno_client::{Client, Settings, TlsFiles};
use okno_proto::{
    metadata,
    v1::{self, case_service_server::CaseService, cluster_service_server::ClusterService},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::PrivateKeyDer;
use std::{
    collections::VecDeque,
    future::pending,
    io,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub const CLUSTER: &str = "sample";

/// One development authority with the client's certificate.
pub struct Pki {
    pub dir: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Sample authority");
        let key = KeyPair::generate().expect("key");
        let ca = CertifiedIssuer::self_signed(params, key).expect("self-signed");
        let pki = Self { dir, ca };
        std::fs::write(pki.path("ca.pem"), pki.ca.pem()).expect("written");
        let (cert, key) =
            pki.issue(vec![SanType::URI(format!("okno://{CLUSTER}/operator/p1").try_into().expect("URI"))]);
        std::fs::write(pki.path("cert.pem"), cert.pem()).expect("written");
        std::fs::write(pki.path("key.pem"), key.serialize_pem()).expect("written");
        pki
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub fn files(&self) -> TlsFiles {
        TlsFiles { ca: self.path("ca.pem"), cert: self.path("cert.pem"), key: self.path("key.pem") }
    }

    fn issue(&self, names: Vec<SanType>) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let key = KeyPair::generate().expect("key");
        let cert = params.signed_by(&key, &self.ca).expect("signed");
        (cert, key)
    }

    fn server(&self, node: u64) -> ServerConfig {
        let (cert, key) = self.issue(vec![
            SanType::IpAddress([127, 0, 0, 1].into()),
            SanType::URI(format!("okno://{CLUSTER}/peer/{node}").try_into().expect("URI")),
        ]);
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).expect("authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .expect("verifier");
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

/// How the node answers one call.
pub enum Step {
    Done,
    Fail(Status),
    /// Never answers.
    Hang,
    /// Takes the call in and cuts every connection.
    Cut,
}

/// A call as the node saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub request_id: String,
    pub attempt: u32,
    pub resume_token: String,
}

struct State {
    node: u64,
    leader: u64,
    script: Mutex<VecDeque<Step>>,
    seen: Mutex<Vec<Seen>>,
    cut: tokio::sync::Notify,
}

/// A node; it and its connections end when this is dropped.
pub struct Node {
    pub address: String,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

impl Node {
    /// Answers by the script, then succeeds for ever.
    pub async fn start(pki: &Pki, node: u64, leader: u64, script: Vec<Step>) -> Self {
        let state = Arc::new(State {
            node,
            leader,
            script: Mutex::new(script.into()),
            seen: Mutex::new(Vec::new()),
            cut: tokio::sync::Notify::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("address").to_string();
        let acceptor = TlsAcceptor::from(Arc::new(pki.server(node)));
        let (sender, incoming) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        let accepting = Arc::clone(&state);
        tasks.spawn(async move {
            loop {
                let Ok((tcp, _)) = listener.accept().await else { return };
                let (acceptor, sender, state) = (acceptor.clone(), sender.clone(), Arc::clone(&accepting));
                tokio::spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        // A test that has ended listens no more.
                        let _ = sender.send(Ok::<_, io::Error>(Wire::new(tls, state))).await;
                    }
                });
            }
        });
        let router = tonic::transport::Server::builder()
            .add_service(v1::case_service_server::CaseServiceServer::new(Fake(Arc::clone(&state))))
            .add_service(v1::cluster_service_server::ClusterServiceServer::new(Fake(Arc::clone(&state))));
        tasks.spawn(async move {
            router.serve_with_incoming(ReceiverStream::new(incoming)).await.expect("serves until dropped");
        });
        Self { address, state, _tasks: tasks }
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.state.cut.notify_waiters();
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("no panic holds it").clone()
    }
}

/// An address where nothing listens.
pub async fn dead_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    listener.local_addr().expect("address").to_string()
}

pub fn client(pki: &Pki, nodes: &[&str]) -> Client {
    client_with(pki, nodes, |_| ())
}

pub fn client_with(pki: &Pki, nodes: &[&str], change: impl FnOnce(&mut Settings)) -> Client {
    let mut settings = Settings::new(nodes.iter().map(|n| (*n).to_owned()).collect(), pki.files());
    settings.cluster = CLUSTER.to_owned();
    // How often a call is tried is counted: no attempt ends by its time, unless a test wants it to.
    settings.deadline = Duration::from_secs(30);
    settings.attempt_timeout = Duration::from_secs(10);
    change(&mut settings);
    Client::new(settings).expect("settings are complete")
}

pub fn break_key(dir: &Path) {
    std::fs::write(dir.join("key.pem"), "half a k").expect("written");
}

/// A status as the cluster makes it.
pub fn status(code: Code, reason: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, metadata::ERROR_DOMAIN, [("step".to_owned(), "accept".to_owned())]);
    if code == Code::InvalidArgument {
        details.add_bad_request_violation("sheets", "1 to 10000");
    }
    Status::with_error_details(code, "текст", details)
}

/// As [`status`], of a node that asks for patience.
pub fn later(reason: &str, pause: Duration) -> Status {
    patient(Code::Unavailable, reason, pause)
}

/// As [`later`], of an outcome that is not known.
#[allow(dead_code, reason = "not every binary that has this module asks so")]
pub fn again(reason: &str, pause: Duration) -> Status {
    patient(Code::Aborted, reason, pause)
}

fn patient(code: Code, reason: &str, pause: Duration) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, metadata::ERROR_DOMAIN, [("node".to_owned(), "1".to_owned())]);
    details.set_retry_info(Some(pause));
    Status::with_error_details(code, "текст", details)
}

/// What a node answers to a request id older than it remembers.
pub fn expired() -> Status {
    let mut details = ErrorDetails::new();
    let cause = [("cause".to_owned(), "REQUEST_ID_EXPIRED".to_owned())];
    details.set_error_info(metadata::OUTCOME_UNKNOWN, metadata::ERROR_DOMAIN, cause);
    Status::with_error_details(Code::Aborted, "текст", details)
}

struct Fake(Arc<State>);

impl Fake {
    async fn answer<R>(&self, meta: Option<v1::RequestMeta>, response: R) -> Result<Response<R>, Status> {
        let meta = meta.unwrap_or_default();
        self.0.seen.lock().expect("no panic holds it").push(Seen {
            request_id: meta.request_id,
            attempt: meta.attempt,
            resume_token: String::new(),
        });
        let step = self.0.script.lock().expect("no panic holds it").pop_front().unwrap_or(Step::Done);
        let mark = |metadata: &mut tonic::metadata::MetadataMap| {
            metadata.insert(metadata::SERVED_BY, self.0.node.into());
            metadata.insert(metadata::LEADER, self.0.leader.into());
        };
        match step {
            Step::Done => {
                let mut response = Response::new(response);
                mark(response.metadata_mut());
                Ok(response)
            }
            Step::Fail(mut status) => {
                mark(status.metadata_mut());
                Err(status)
            }
            Step::Hang => pending().await,
            Step::Cut => {
                self.0.cut.notify_waiters();
                pending().await
            }
        }
    }
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not part of the test"))
}

type BoxStream<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl CaseService for Fake {
    async fn open_case(
        &self,
        request: Request<v1::OpenCaseRequest>,
    ) -> Result<Response<v1::OpenCaseResponse>, Status> {
        let response = v1::OpenCaseResponse { case_id: "c".to_owned(), ..Default::default() };
        self.answer(request.into_inner().meta, response).await
    }
    async fn add_document(
        &self,
        request: Request<v1::AddDocumentRequest>,
    ) -> Result<Response<v1::AddDocumentResponse>, Status> {
        self.answer(request.into_inner().meta, v1::AddDocumentResponse { meta: None, document_number: 1 })
            .await
    }
    async fn remove_document(
        &self,
        _: Request<v1::RemoveDocumentRequest>,
    ) -> Result<Response<v1::RemoveDocumentResponse>, Status> {
        unused()
    }
    async fn advance_case(
        &self,
        _: Request<v1::AdvanceCaseRequest>,
    ) -> Result<Response<v1::AdvanceCaseResponse>, Status> {
        unused()
    }
    async fn take_over_case(
        &self,
        _: Request<v1::TakeOverCaseRequest>,
    ) -> Result<Response<v1::TakeOverCaseResponse>, Status> {
        unused()
    }
    async fn get_case(
        &self,
        _: Request<v1::GetCaseRequest>,
    ) -> Result<Response<v1::GetCaseResponse>, Status> {
        self.answer(None, v1::GetCaseResponse::default()).await
    }
    async fn list_cases(
        &self,
        _: Request<v1::ListCasesRequest>,
    ) -> Result<Response<v1::ListCasesResponse>, Status> {
        unused()
    }
    async fn get_case_history(
        &self,
        _: Request<v1::GetCaseHistoryRequest>,
    ) -> Result<Response<v1::GetCaseHistoryResponse>, Status> {
        unused()
    }
    type WatchCasesStream = BoxStream<v1::WatchCasesResponse>;
    /// Two changes named after the node and what was resumed from, then whatever the script says.
    async fn watch_cases(
        &self,
        request: Request<v1::WatchCasesRequest>,
    ) -> Result<Response<Self::WatchCasesStream>, Status> {
        let resume_token = request.into_inner().resume_token;
        self.0.seen.lock().expect("no panic holds it").push(Seen {
            request_id: String::new(),
            attempt: 0,
            resume_token: resume_token.clone(),
        });
        let node = self.0.node;
        let changes = (1..=2).map(move |n| {
            Ok(v1::WatchCasesResponse {
                resume_token: format!("{resume_token}/{node}.{n}"),
                served_by: node,
                change: Some(v1::watch_cases_response::Change::Progress(v1::WatchProgress {
                    applied_index: n,
                })),
            })
        });
        let step = self.0.script.lock().expect("no panic holds it").pop_front().unwrap_or(Step::Done);
        let end = futures::stream::once(async move {
            match step {
                Step::Fail(status) => Err(status),
                Step::Done | Step::Hang | Step::Cut => pending().await,
            }
        });
        Ok(Response::new(Box::pin(futures::StreamExt::chain(futures::stream::iter(changes), end))))
    }
}

#[tonic::async_trait]
impl ClusterService for Fake {
    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(v1::GetStatusResponse {
            node_id: self.0.node,
            leader: self.0.leader,
            role: if self.0.node == self.0.leader {
                v1::MemberRole::Leader.into()
            } else {
                v1::MemberRole::Follower.into()
            },
            term: 1,
            ..Default::default()
        }))
    }
    async fn list_members(
        &self,
        _: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        unused()
    }
    async fn transfer_leader(
        &self,
        _: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        unused()
    }
    async fn add_member(
        &self,
        _: Request<v1::AddMemberRequest>,
    ) -> Result<Response<v1::AddMemberResponse>, Status> {
        unused()
    }
    async fn promote_member(
        &self,
        _: Request<v1::PromoteMemberRequest>,
    ) -> Result<Response<v1::PromoteMemberResponse>, Status> {
        unused()
    }
    async fn remove_member(
        &self,
        _: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        unused()
    }
    async fn show_entity(
        &self,
        _: Request<v1::ShowEntityRequest>,
    ) -> Result<Response<v1::ShowEntityResponse>, Status> {
        unused()
    }
    async fn release_entity(
        &self,
        _: Request<v1::ReleaseEntityRequest>,
    ) -> Result<Response<v1::ReleaseEntityResponse>, Status> {
        unused()
    }
    async fn raise_level(
        &self,
        _: Request<v1::RaiseLevelRequest>,
    ) -> Result<Response<v1::RaiseLevelResponse>, Status> {
        unused()
    }
    async fn place_marker(
        &self,
        _: Request<v1::PlaceMarkerRequest>,
    ) -> Result<Response<v1::PlaceMarkerResponse>, Status> {
        unused()
    }
    async fn get_digests(
        &self,
        _: Request<v1::GetDigestsRequest>,
    ) -> Result<Response<v1::GetDigestsResponse>, Status> {
        unused()
    }
    async fn list_system_events(
        &self,
        _: Request<v1::ListSystemEventsRequest>,
    ) -> Result<Response<v1::ListSystemEventsResponse>, Status> {
        unused()
    }
    type WatchNoticesStream = BoxStream<v1::WatchNoticesResponse>;
    async fn watch_notices(
        &self,
        _: Request<v1::WatchNoticesRequest>,
    ) -> Result<Response<Self::WatchNoticesStream>, Status> {
        unused()
    }
}

/// A TLS connection that ends abruptly when the node says so.
struct Wire {
    tls: TlsStream<TcpStream>,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_cut: bool,
}

impl Wire {
    fn new(tls: TlsStream<TcpStream>, state: Arc<State>) -> Self {
        let mut cut = Box::pin(async move { state.cut.notified().await });
        // Registered from the beginning: `notify_waiters` reaches only those who already wait.
        let registered = futures::FutureExt::now_or_never(&mut cut).is_some();
        Self { tls, cut, is_cut: registered }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.is_cut && self.cut.as_mut().poll(context).is_ready() {
            self.is_cut = true;
        }
        if self.is_cut { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl tonic::transport::server::Connected for Wire {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.tls).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
