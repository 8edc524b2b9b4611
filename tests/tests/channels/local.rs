//! A connector that a node starts and looks after: `okno-https` before a TLS service of its own (R-I4).

use crate::support::{CHANNEL, Policy, SOON, World, answer_to};
use okno_tests::{
    cluster::{Cluster, sibling},
    eventually,
    pki::{Authority, Leaf},
    process::{child_of, signal_child},
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{net::Ipv4Addr, path::Path, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// A service that answers every request with its body turned round, to callers with a certificate of this authority.
async fn service(authority: &Path, certificate: &Path, key: &Path) -> u16 {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).expect("PEM")).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).expect("PEM").collect();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.expect("a verifier"))
        .with_single_cert(chain.expect("certificates"), PrivateKeyDer::from_pem_file(key).expect("a key"))
        .expect("a server");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(answer(acceptor.clone(), tcp));
        }
    });
    port
}

async fn answer(acceptor: TlsAcceptor, tcp: TcpStream) -> Option<()> {
    let mut stream = acceptor.accept(tcp).await.ok()?;
    let mut seen = Vec::new();
    let end = loop {
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        stream.read_buf(&mut seen).await.ok().filter(|read| *read > 0)?;
    };
    let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
    let length: usize =
        head.lines().find_map(|line| line.strip_prefix("content-length: "))?.trim().parse().ok()?;
    while seen.len() < end + length {
        stream.read_buf(&mut seen).await.ok().filter(|read| *read > 0)?;
    }
    let body = answer_to(&seen[end..]);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(&body).await.ok()?;
    stream.shutdown().await.ok()
}

/// Writes the connector's file and names it in a node's settings.
async fn prepare(cluster: &Cluster, node: u64) {
    let folder = cluster.scratch();
    let uri = format!("okno://{}/connector/egrn-1", cluster.file.cluster);
    let own = cluster.authority("clients").issue(folder, "local", &Leaf::client(&uri, 71));
    // The service is somebody else's: another authority, which signed a certificate for us.
    let realm = &cluster.file.authorities["peers"];
    let outside = Authority::open(realm);
    let server = outside.issue(folder, "service", &Leaf::server("https://egrn.test/", 72));
    let ours = outside.issue(folder, "for-service", &Leaf::client("https://mfc.test/", 73));
    let port = service(&realm.certificate, &server.certificate, &server.key).await;
    let shown = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
    let endpoints: Vec<String> = cluster.file.nodes.iter().map(|node| node.clients.to_string()).collect();
    let text = format!(
        "[okno]\nendpoints = {}\ncluster = \"{}\"\nca = {}\ncert = {}\nkey = {}\n\
         [connector]\nchannel = \"{CHANNEL}\"\nworkers = 4\n\
         [service]\nurl = \"https://127.0.0.1:{port}/egrn\"\nca = {}\ncert = {}\nkey = {}\nanswer_ms = 5000\n",
        toml::Value::from(endpoints),
        cluster.file.cluster,
        shown(&cluster.file.authorities["clients"].certificate),
        shown(&own.certificate),
        shown(&own.key),
        shown(&realm.certificate),
        shown(&ours.certificate),
        shown(&ours.key),
    );
    let file = folder.join("https.toml");
    std::fs::write(&file, text).expect("written");
    let program = sibling("okno-https").display().to_string();
    let command = vec![program, "--config".to_owned(), file.display().to_string()];
    cluster.add_connector(node, "egrn", command);
}

/// The connector that a process started.
fn connector_of(parent: u32) -> Option<u32> {
    child_of(parent, "okno-https")
}

fn lives(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z")))
}

#[tokio::test]
async fn a_local_connector_is_kept_running_and_ends_with_its_node() {
    let node = 1;
    let mut world = World::start_with(&Policy::default(), async |cluster| prepare(cluster, node).await).await;
    let (case, sent) = world.case_that_asks("extract").await;
    let exchange = world.ended(&case, "answered").await;
    let read = okno_client::v1::GetMessageBodyRequest { case_id: case, body: exchange.received, read: None };
    assert_eq!(
        world.officer.call(read).await.unwrap().body,
        answer_to(&sent),
        "through the service and back"
    );

    // Killed: the node starts it again.
    let parent = world.cluster.pid(node).expect("it runs");
    let first = connector_of(parent).expect("a connector");
    signal_child(first, libc::SIGKILL);
    let (case, _) = world.case_that_asks("extract").await;
    world.ended(&case, "answered").await;
    let second = connector_of(parent).expect("another one");
    assert_ne!(first, second);

    // Paused: its stream falls silent and is ended; when it goes on, so does the work.
    signal_child(second, libc::SIGSTOP);
    let (case, _) = world.case_that_asks("extract").await;
    eventually("the silent stream is ended", SOON, async || {
        let attached = world.show().await.connectors;
        if attached.is_empty() { Ok(()) } else { Err(attached) }
    })
    .await;
    signal_child(second, libc::SIGCONT);
    world.ended(&case, "answered").await;
    assert_eq!(world.figures().await.ended_total, 3);

    // The node goes, and the connector with it: killed, or told to.
    let last = connector_of(parent).expect("it runs");
    world.cluster.kill(node);
    let gone = async |process: u32| {
        eventually(
            "the connector is gone",
            SOON,
            async || if lives(process) { Err(process) } else { Ok(()) },
        )
        .await;
    };
    gone(last).await;
    world.cluster.start_node(node);
    world.cluster.wait_ready().await;
    let parent = world.cluster.pid(node).expect("it runs");
    let fresh =
        eventually("it is started with the node", SOON, async || connector_of(parent).ok_or("none")).await;
    assert!(world.cluster.terminate(node).await.success());
    gone(fresh).await;
}
