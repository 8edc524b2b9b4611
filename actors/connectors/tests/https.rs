//! The HTTPS connector against a TLS server that drops, delays, repeats and lies.

use okno_connectors::{
    Handler, Message, Verdict, Work,
    https::{HttpsConnector, settings},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// An authority and what it has signed, as files.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let pem = parameters.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    fn issue(&self, folder: &Path, stem: &str, usage: ExtendedKeyUsagePurpose) {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, stem);
        parameters.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        parameters.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(folder.join(format!("{stem}.pem")), certificate.pem()).expect("written");
        std::fs::write(folder.join(format!("{stem}.key")), key.serialize_pem()).expect("written");
    }
}

/// What the server does with one connection.
#[derive(Debug, Clone)]
enum Manner {
    /// Sends exactly this after the request and closes.
    Say(String),
    /// The same, some bytes at a time with pauses between.
    Drip(String, Duration),
    /// Takes the request and says nothing.
    Hang,
    /// Closes as soon as the connection is there.
    Drop,
    /// Begins an answer and cuts the connection without the end that TLS has.
    Cut(String),
}

/// A separate server; tells what it was asked.
struct Server {
    port: u16,
    asked: mpsc::UnboundedReceiver<(String, Vec<u8>)>,
    connections: Arc<AtomicUsize>,
}

async fn read_request(stream: &mut TlsStream<tokio::net::TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut seen = Vec::new();
    loop {
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |text| text.trim().parse().expect("a length"));
            while seen.len() < end + 4 + length {
                stream.read_buf(&mut seen).await.ok().filter(|read| *read > 0)?;
            }
            return Some((head, seen[end + 4..].to_vec()));
        }
        stream.read_buf(&mut seen).await.ok().filter(|read| *read > 0)?;
    }
}

impl Server {
    async fn start(folder: &Path, clients: &Authority, manner: Manner) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(clients.pem.as_bytes()).expect("PEM"))
            .expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .expect("a verifier");
        let chain = CertificateDer::pem_file_iter(folder.join("server.pem")).expect("PEM");
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .expect("a server");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (tell, asked) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(acceptor.clone(), tcp, manner.clone(), tell.clone()));
            }
        });
        Self { port, asked, connections }
    }
}

async fn serve(
    acceptor: TlsAcceptor,
    tcp: tokio::net::TcpStream,
    manner: Manner,
    tell: mpsc::UnboundedSender<(String, Vec<u8>)>,
) {
    if matches!(manner, Manner::Drop) {
        return;
    }
    // A client we do not know: it learns so by the handshake.
    let Ok(mut stream) = acceptor.accept(tcp).await else { return };
    let Some(request) = read_request(&mut stream).await else { return };
    let _ended = tell.send(request);
    match manner {
        Manner::Say(text) => {
            let _gone = stream.write_all(text.as_bytes()).await;
            let _gone = stream.shutdown().await;
        }
        Manner::Drip(text, pause) => {
            for piece in text.as_bytes().chunks(8) {
                if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
        }
        Manner::Hang => std::future::pending().await,
        Manner::Cut(text) => {
            let _gone = stream.write_all(text.as_bytes()).await;
            let _gone = stream.flush().await;
        }
        Manner::Drop => {}
    }
}

/// A folder with certificates, and the connector's file for a server.
struct Bench {
    folder: tempfile::TempDir,
    service: Authority,
    ours: Authority,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (service, ours) = (Authority::new("service"), Authority::new("ours"));
        let path = folder.path();
        std::fs::write(path.join("service-ca.pem"), &service.pem).expect("written");
        std::fs::write(path.join("ours-ca.pem"), &ours.pem).expect("written");
        service.issue(path, "server", ExtendedKeyUsagePurpose::ServerAuth);
        ours.issue(path, "client", ExtendedKeyUsagePurpose::ClientAuth);
        Self { folder, service, ours }
    }

    fn connector(&self, port: u16, (answer_ms, answer_bytes_max): (u64, usize)) -> HttpsConnector {
        let text = format!(
            "[okno]\nendpoints = [\"127.0.0.1:1\"]\ncluster = \"t\"\nca = \"ours-ca.pem\"\ncert = \"client.pem\"\n\
             key = \"client.key\"\n[connector]\nchannel = \"egrn\"\n[service]\nurl = \"https://127.0.0.1:{port}/ask?v=1\"\n\
             ca = \"service-ca.pem\"\ncert = \"client.pem\"\nkey = \"client.key\"\nconnect_ms = 2000\n\
             answer_ms = {answer_ms}\nanswer_bytes_max = {answer_bytes_max}\ncontent_type = \"application/xml\"\n"
        );
        let file = self.folder.path().join("connector.toml");
        std::fs::write(&file, text).expect("written");
        let settings = settings::load(&file).expect("a good file");
        HttpsConnector::new(settings.service).expect("good certificates")
    }

    async fn server(&self, manner: Manner) -> Server {
        Server::start(self.folder.path(), &self.ours, manner).await
    }
}

fn message() -> Message {
    Message {
        id: "case-1.2".into(),
        kind: "extract".into(),
        key: "42:01".into(),
        subject: "Выписка".into(),
        body: "<запрос/>".as_bytes().into(),
        case: "case-1".into(),
        delivery: 3,
        failed_attempts: 2,
        answers: Vec::new(),
    }
}

async fn ask(connector: &HttpsConnector) -> Verdict {
    connector.handle(message(), Work::detached()).await
}

fn answer(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// The reason of a failure.
fn failed(verdict: &Verdict) -> &str {
    let Verdict::Fail { reason, .. } = verdict else { panic!("expected a failure: {verdict:?}") };
    reason
}

const USUAL: (u64, usize) = (5_000, 65_536);

#[tokio::test]
async fn a_message_is_one_request_and_its_answer_comes_as_it_was_given() {
    let bench = Bench::new();
    let body = "ответ\r\n\r\nHTTP/1.1 200 OK";
    let said = answer("200 OK\r\nIdempotency-Key: case-1.2", body);
    let mut server = bench.server(Manner::Say(said)).await;
    let connector = bench.connector(server.port, USUAL);
    assert_eq!(
        ask(&connector).await,
        Verdict::complete(format!("HTTP 200, {} bytes", body.len()), body.as_bytes().to_vec())
    );
    let (head, sent) = server.asked.recv().await.expect("it was asked");
    assert_eq!(sent, "<запрос/>".as_bytes());
    for line in [
        "post /ask?v=1 http/1.1",
        "idempotency-key: case-1.2",
        "okno-kind: extract",
        "okno-key: 42:01",
        "okno-delivery: 3",
        "content-type: application/xml",
    ] {
        assert!(head.lines().any(|own| own == line), "{line}\n{head}");
    }
    assert!(server.asked.try_recv().is_err(), "once");
}

#[tokio::test]
async fn a_server_that_drops_or_breaks_off_is_a_failure() {
    let bench = Bench::new();
    let whole = answer("200 OK", "0123456789");
    let cases = [
        (Manner::Drop, "TLS"),
        (Manner::Say(String::new()), "broke off"),
        // Ten bytes were promised.
        (Manner::Say(whole[..whole.len() - 4].to_owned()), "broke off"),
        // An answer to the end of the connection, whose end TLS did not confirm.
        (Manner::Cut("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n0123".to_owned()), "broke off"),
        (Manner::Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n01".to_owned()), "broke off"),
    ];
    for (manner, expected) in cases {
        let server = bench.server(manner.clone()).await;
        let verdict = ask(&bench.connector(server.port, USUAL)).await;
        assert!(failed(&verdict).contains(expected), "{manner:?}: {verdict:?}");
    }
    // Nobody listens there.
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = closed.local_addr().expect("bound").port();
    drop(closed);
    assert!(failed(&ask(&bench.connector(port, USUAL)).await).contains("no connection"));
}

#[tokio::test]
async fn a_server_that_delays_is_given_up_in_time() {
    let bench = Bench::new();
    let slow = answer("200 OK", &"x".repeat(4_000));
    for manner in [Manner::Hang, Manner::Drip(slow, Duration::from_millis(50))] {
        let server = bench.server(manner).await;
        let began = Instant::now();
        let verdict = ask(&bench.connector(server.port, (400, 65_536))).await;
        assert!(failed(&verdict).contains("no answer within"), "{verdict:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    // One that is merely slow is waited for.
    let server = bench.server(Manner::Drip(answer("200 OK", "late"), Duration::from_millis(20))).await;
    assert!(matches!(ask(&bench.connector(server.port, USUAL)).await, Verdict::Complete { .. }));
}

#[tokio::test]
async fn a_server_that_repeats_itself_answers_once() {
    let bench = Bench::new();
    let first = answer("200 OK", "first");
    let server = bench.server(Manner::Say(format!("{first}{}", answer("200 OK", "second")))).await;
    let connector = bench.connector(server.port, USUAL);
    for _ in 0..3 {
        // What is left over on a connection is nobody's answer: each request has its own.
        let verdict = ask(&connector).await;
        let Verdict::Complete { body: Some(body), .. } = &verdict else { panic!("{verdict:?}") };
        assert_eq!(body.as_ref(), b"first");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_server_that_lies_is_not_believed() {
    let bench = Bench::new();
    let flood = "x".repeat(2_000_000);
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let cases = [
        (answer("200 OK\r\nIdempotency-Key: case-1.3", "another's"), "another message"),
        (answer("200 OK", &"x".repeat(101)), "more than 100 bytes"),
        // A length that promises little, and a flood without any.
        (format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{flood}"), "more than 100 bytes"),
        ("GIF89a this is no HTTP at all\r\n\r\n".to_owned(), "broke off"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n12345".to_owned(), "broke off"),
        (format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 1\r\n\r\nx"), "broke off"),
    ];
    for (said, expected) in cases {
        let server = bench.server(Manner::Say(said.clone())).await;
        let verdict = ask(&bench.connector(server.port, (5_000, 100))).await;
        let shown: String = said.chars().take(80).collect();
        assert!(failed(&verdict).contains(expected), "{shown}: {verdict:?}");
    }
    // It wants us to come later, and it wants something else.
    let server = bench.server(Manner::Say(answer("503 Busy\r\nRetry-After: 30", "<h1>busy</h1>"))).await;
    let verdict = ask(&bench.connector(server.port, USUAL)).await;
    assert!(
        matches!(&verdict, Verdict::Fail { retry_after: Some(after), body: Some(body), .. }
            if after.as_secs() == 30 && body == "<h1>busy</h1>"),
        "{verdict:?}"
    );
    let server = bench.server(Manner::Say(answer("422 No", "why not"))).await;
    let verdict = ask(&bench.connector(server.port, USUAL)).await;
    assert_eq!(
        verdict,
        Verdict::Reject { reason: "HTTP 422, 7 bytes".into(), body: Some(b"why not".as_slice().into()) }
    );
}

#[tokio::test]
async fn certificates_are_checked_on_both_sides() {
    let bench = Bench::new();
    let path = bench.folder.path();
    // Ours is of an authority the service does not know.
    Authority::new("nobody").issue(path, "client", ExtendedKeyUsagePurpose::ClientAuth);
    let mut server = bench.server(Manner::Say(answer("200 OK", "x"))).await;
    let verdict = ask(&bench.connector(server.port, USUAL)).await;
    failed(&verdict);
    assert!(server.asked.try_recv().is_err(), "nothing was sent to it");
    // Theirs is of an authority we do not know, under the name of the one we do.
    bench.ours.issue(path, "client", ExtendedKeyUsagePurpose::ClientAuth);
    Authority::new("service").issue(path, "server", ExtendedKeyUsagePurpose::ServerAuth);
    let mut server = bench.server(Manner::Say(answer("200 OK", "x"))).await;
    let verdict = ask(&bench.connector(server.port, USUAL)).await;
    assert!(failed(&verdict).starts_with("TLS"), "{verdict:?}");
    assert!(server.asked.try_recv().is_err(), "nothing was sent to it");
    // And all is well again with the right one.
    bench.service.issue(path, "server", ExtendedKeyUsagePurpose::ServerAuth);
    let server = bench.server(Manner::Say(answer("200 OK", "x"))).await;
    assert!(matches!(ask(&bench.connector(server.port, USUAL)).await, Verdict::Complete { .. }));
}
