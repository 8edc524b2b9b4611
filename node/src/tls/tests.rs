//! Both sides against each other over loopback: who is let in, what a reload changes, who is thrown out.

use super::{ListenerBounds, ListenerFigures, PeerDialer, Reload, Side, TlsIo, accept, testing::Authority};
use crate::{identity::IdentityError, observability::alarms::Alarms, settings::TlsSection};
use futures::{Stream, StreamExt};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use std::{net::SocketAddr, path::Path, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_secs(3_600);

type Incoming = Pin<Box<dyn Stream<Item = std::io::Result<TlsIo>> + Send>>;

/// A listening side.
struct Server {
    side: Arc<Side>,
    alarms: Arc<Alarms>,
    address: SocketAddr,
    incoming: Incoming,
    figures: Arc<ListenerFigures>,
    _stop: tokio_util::sync::DropGuard,
}

async fn server(section: &TlsSection, bounds: ListenerBounds) -> Server {
    let alarms = Arc::new(Alarms::default());
    let side = Side::load("clients", "kuzbass", section.clone(), alarms.clone()).expect("loaded");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let (stop, figures) = (CancellationToken::new(), Arc::new(ListenerFigures::default()));
    let incoming = Box::pin(accept(listener, side.clone(), bounds, figures.clone(), stop.clone()));
    Server { side, alarms, address, incoming, figures, _stop: stop.drop_guard() }
}

const BOUNDS: ListenerBounds =
    ListenerBounds { connections_max: 8, handshakes_max: 2, handshake_timeout: Duration::from_secs(30) };

/// Connects as a client with a certificate of its own; an error may come with the first read, as TLS 1.3 has it.
async fn connect(address: SocketAddr, section: &TlsSection) -> std::io::Result<TlsStream<TcpStream>> {
    // The client's own view of the server is not what is tested: whoever the authority vouches for will do.
    let material = super::Material::load(section).expect("loaded");
    let provider = super::material::provider();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_auth_cert(material.chain(), material.key())
        .expect("a certificate");
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 must not be spoken".into()))
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        super::material::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The client is refused: the handshake or the first read fails.
async fn refused(address: SocketAddr, section: &TlsSection) -> bool {
    match connect(address, section).await {
        Err(_) => true,
        Ok(mut stream) => {
            let read = tokio::time::timeout(Duration::from_secs(5), stream.read_u8()).await;
            read.expect("the server says something").is_err()
        }
    }
}

/// The next accepted connection; one must come.
async fn accepted(server: &mut Server) -> TlsIo {
    let next = tokio::time::timeout(Duration::from_secs(5), server.incoming.next()).await;
    next.expect("in time").expect("open").expect("a connection")
}

fn copy(from: &TlsSection, to: &TlsSection) {
    for (from, to) in [(&from.certificate, &to.certificate), (&from.key, &to.key)] {
        std::fs::copy(from, to).expect("copied");
    }
}

#[tokio::test]
async fn only_this_authoritys_certificates_come_in_and_identities_are_read() {
    let directory = tempfile::tempdir().expect("directory");
    let (ours, theirs) =
        (Authority::new(directory.path(), "ours"), Authority::new(directory.path(), "theirs"));
    let mut server = server(&ours.issue("server", &["okno://kuzbass/peer/1"], 1).section, BOUNDS).await;

    let operator = ours.issue("operator", &["okno://kuzbass/operator/petrova"], 2);
    let _stream = connect(server.address, &operator.section).await.expect("let in");
    let io = accepted(&mut server).await;
    let info = tonic::transport::server::Connected::connect_info(&io);
    assert_eq!(
        info.caller.as_ref().map(|caller| caller.principal.to_string()),
        Ok("operator/petrova".to_owned())
    );

    // The authority vouches, but for somebody of another cluster: calls on it are refused, with that reason.
    let foreign = ours.issue("foreign", &["okno://altai/operator/petrova"], 3);
    let _stream = connect(server.address, &foreign.section).await.expect("the handshake passes");
    let io = accepted(&mut server).await;
    let info = tonic::transport::server::Connected::connect_info(&io);
    assert!(matches!(info.caller, Err(IdentityError::WrongCluster { .. })), "{:?}", info.caller);

    let stranger = theirs.issue("operator", &["okno://kuzbass/operator/petrova"], 2);
    assert!(refused(server.address, &stranger.section).await, "another authority's certificate");
    let mut nobody = operator.section.clone();
    nobody.certificate.clone_from(&stranger.section.certificate);
    assert!(
        super::Material::load(&nobody).is_err(),
        "a key of another certificate is found when files are read"
    );
}

#[tokio::test]
async fn without_a_certificate_or_with_tls12_nobody_comes_in() {
    let directory = tempfile::tempdir().expect("directory");
    let ours = Authority::new(directory.path(), "ours");
    let server = server(&ours.issue("server", &["okno://kuzbass/peer/1"], 1).section, BOUNDS).await;
    let provider = super::material::provider();
    let try_with = |config: ClientConfig| async move {
        let tcp = TcpStream::connect(server.address).await.expect("tcp");
        let name = ServerName::try_from("localhost").expect("a name");
        match TlsConnector::from(Arc::new(config)).connect(name, tcp).await {
            Err(_) => false,
            Ok(mut stream) => stream.read_u8().await.is_ok(),
        }
    };
    let anonymous = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    assert!(!try_with(anonymous).await, "no certificate");
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    assert!(!try_with(old).await, "TLS 1.2");
}

#[tokio::test]
async fn a_reload_revokes_open_connections_and_bad_files_change_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let ours = Authority::new(directory.path(), "ours");
    let mut section = ours.issue("server", &["okno://kuzbass/peer/1"], 1).section;
    section.revocation_lists = vec![ours.revoke(&[], HOUR, 24 * HOUR)];
    let mut server = server(&section, BOUNDS).await;
    let (kept, revoked) = (
        ours.issue("kept", &["okno://kuzbass/operator/kept"], 2),
        ours.issue("revoked", &["okno://kuzbass/operator/revoked"], 3),
    );
    let mut streams = Vec::new();
    for leaf in [&kept, &revoked] {
        let client = connect(server.address, &leaf.section).await.expect("let in");
        streams.push((client, accepted(&mut server).await));
    }
    assert_eq!(server.side.connections.count(), 2);
    assert_eq!(server.side.reload(), Reload::Unchanged);

    // What is read while the list is taken over ends; the other connection goes on.
    let (mut revoked_client, mut revoked_io) = streams.pop().expect("two");
    let (mut kept_client, mut kept_io) = streams.pop().expect("two");
    let reading = tokio::spawn(async move { revoked_io.read_u8().await.map_err(|error| error.kind()) });
    tokio::task::yield_now().await;
    ours.revoke(&[revoked.serial], Duration::ZERO, 24 * HOUR);
    assert_eq!(server.side.reload(), Reload::Replaced { closed: 1 });
    let ended =
        tokio::time::timeout(Duration::from_secs(5), reading).await.expect("woken").expect("no panic");
    assert_eq!(ended, Err(std::io::ErrorKind::ConnectionAborted));
    assert!(revoked_client.read_u8().await.is_err(), "the client sees the end");
    kept_client.write_u8(7).await.expect("written");
    kept_client.flush().await.expect("flushed");
    assert_eq!(kept_io.read_u8().await.expect("read"), 7);
    assert!(refused(server.address, &revoked.section).await, "a revoked certificate does not come back");

    // An older list would bring it back; a broken file would lock everybody out. Neither is taken over.
    let alarm = "TLS_CLIENTS_FILES";
    ours.revoke(&[], 2 * HOUR, 24 * HOUR);
    assert!(matches!(server.side.reload(), Reload::Refused { reason } if reason.contains("older")));
    assert!(server.alarms.list().iter().any(|standing| standing.alarm.kind == alarm));
    std::fs::write(&section.certificate, "rubbish").expect("written");
    ours.revoke(&[revoked.serial], Duration::ZERO, 24 * HOUR);
    assert!(matches!(server.side.reload(), Reload::Refused { .. }));
    connect(server.address, &kept.section).await.expect("the old files are in force");

    // Good files end the alarm.
    copy(&ours.issue("next", &["okno://kuzbass/peer/1"], 9).section, &section);
    assert!(matches!(server.side.reload(), Reload::Replaced { .. }));
    assert!(server.alarms.list().is_empty(), "{:?}", server.alarms.list());
}

#[tokio::test]
async fn an_expired_list_lets_nobody_in_and_raises_an_alarm() {
    let directory = tempfile::tempdir().expect("directory");
    let ours = Authority::new(directory.path(), "ours");
    let mut section = ours.issue("server", &["okno://kuzbass/peer/1"], 1).section;
    section.revocation_lists = vec![ours.revoke(&[], 2 * HOUR, HOUR)];
    let server = server(&section, BOUNDS).await;
    assert!(
        server.alarms.list().iter().any(|standing| standing.alarm.kind == "TLS_CLIENTS_REVOCATION_LISTS")
    );
    let good = ours.issue("good", &["okno://kuzbass/operator/good"], 2);
    assert!(refused(server.address, &good.section).await);
}

#[test]
fn a_list_of_whose_time_little_is_left_raises_a_warning() {
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    let directory = tempfile::tempdir().expect("directory");
    let ours = Authority::new(directory.path(), "ours");
    let mut section = ours.issue("server", &["okno://kuzbass/peer/1"], 1).section;
    let mut warned = |age: Duration, valid: Duration| {
        section.revocation_lists = vec![ours.revoke(&[], age, valid)];
        let alarms = Arc::new(Alarms::default());
        Side::load("peers", "kuzbass", section.clone(), alarms.clone()).expect("loaded");
        alarms.list().iter().any(|standing| standing.alarm.kind == "TLS_PEERS_REVOCATION_ENDS")
    };
    assert!(!warned(2 * HOUR, 4 * HOUR), "half of its time is left");
    assert!(warned(Duration::from_secs(3_700 * 3), 4 * HOUR), "less than a quarter is");
    assert!(!warned(100 * DAY, 108 * DAY), "more than a week is");
    assert!(warned(102 * DAY, 108 * DAY));
    assert!(!warned(2 * HOUR, HOUR), "it has ended: that is another alarm");
}

#[tokio::test]
async fn silent_clients_and_too_many_connections_are_turned_away() {
    let directory = tempfile::tempdir().expect("directory");
    let ours = Authority::new(directory.path(), "ours");
    let bounds = ListenerBounds { connections_max: 2, ..BOUNDS };
    let mut server = server(&ours.issue("server", &["okno://kuzbass/peer/1"], 1).section, bounds).await;
    let operator = ours.issue("operator", &["okno://kuzbass/operator/one"], 2);
    // Two that say nothing hold both handshakes, until a newer one comes.
    let silent =
        (TcpStream::connect(server.address).await.expect("tcp"), TcpStream::connect(server.address).await);
    let _stream = connect(server.address, &operator.section).await.expect("let in");
    let first = accepted(&mut server).await;
    assert!(server.figures.handshakes_failed.load(std::sync::atomic::Ordering::Relaxed) >= 1);
    drop(silent);
    let _other = connect(server.address, &operator.section).await.expect("let in");
    let second = accepted(&mut server).await;
    assert!(refused(server.address, &operator.section).await, "a third is one too many");
    drop((first, second));
    connect(server.address, &operator.section).await.expect("room again");
}

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_out() {
    let directory = tempfile::tempdir().expect("directory");
    let ours = Authority::new(directory.path(), "ours");
    // None of them times out while this test runs.
    let bounds =
        ListenerBounds { connections_max: 2, handshake_timeout: Duration::from_secs(3_600), ..BOUNDS };
    let mut server = server(&ours.issue("server", &["okno://kuzbass/peer/1"], 1).section, bounds).await;
    let operator = ours.issue("operator", &["okno://kuzbass/operator/one"], 2);
    let mut silent = Vec::new();
    for _ in 0..bounds.handshakes_max * 2 {
        silent.push(TcpStream::connect(server.address).await.expect("tcp"));
    }
    let _stream = connect(server.address, &operator.section).await.expect("an honest client comes in");
    accepted(&mut server).await;
}

#[tokio::test]
async fn peers_are_dialled_by_identity() {
    let directory = tempfile::tempdir().expect("directory");
    let peers = Authority::new(directory.path(), "peers");
    let (one, two) = (
        peers.issue("one", &["okno://kuzbass/peer/1"], 1),
        peers.issue("two", &["okno://kuzbass/peer/2"], 2),
    );
    let mut server = server(&two.section, BOUNDS).await;
    let address = server.address.to_string();
    let dialer = |section: &TlsSection| {
        let side = Side::load("peers", "kuzbass", section.clone(), Arc::default()).expect("loaded");
        PeerDialer::new(side)
    };
    let _stream = dialer(&one.section).dial(2, &address).await.expect("the node asked for");
    let io = accepted(&mut server).await;
    let info = tonic::transport::server::Connected::connect_info(&io);
    assert_eq!(info.caller.as_ref().map(|caller| caller.node_id()), Ok(Some(1)));
    let error = dialer(&one.section).dial(3, &address).await.expect_err("another node answered").to_string();
    assert!(error.contains("expected peer 3"), "{error}");
    let mut revoking = one.section.clone();
    revoking.revocation_lists = vec![peers.revoke(&[two.serial], Duration::ZERO, HOUR)];
    assert!(dialer(&revoking).dial(2, &address).await.is_err(), "a revoked node");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().expect("directory");
    let ours = Authority::new(directory.path(), "ours");
    let good = ours.issue("good", &["okno://kuzbass/peer/1"], 1).section;
    let check = |change: fn(&mut TlsSection, &Path), file: &str| {
        let mut section = good.clone();
        change(&mut section, directory.path());
        match super::Material::load(&section) {
            Err(error) => assert!(error.to_string().contains(file), "{error}"),
            Ok(_) => panic!("{file} was taken"),
        }
    };
    std::fs::write(directory.path().join("empty.pem"), "").expect("written");
    check(|section, path| section.ca = path.join("absent.pem"), "absent.pem: cannot be read");
    check(|section, path| section.ca = path.join("empty.pem"), "empty.pem: holds no certificate");
    check(|section, path| section.key = path.join("empty.pem"), "empty.pem: not a PEM key");
    check(
        |section, path| section.revocation_lists = vec![path.join("empty.pem")],
        "empty.pem: holds no revocation list",
    );
}
