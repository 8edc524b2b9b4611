//! Who is let in, and who no longer: certificates of the wrong authority, kind or cluster, revoked ones, and the
//! rotation of all of them under load (R-S1, R-S4).

use okno_client::{CallError, v1 as proto};
use okno_tests::cluster::{Cluster, Pair};
use okno_tests::desk::{self, Desk};
use okno_tests::load::Load;
use okno_tests::pki::{Authority, Leaf, tomorrow};
use okno_tests::{eventually, people};
use std::time::Duration;

/// A changed file is taken over within this: it is watched, and looked at now and then besides.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(30);
const OFFICER_URI: &str = "okno://dev/operator/lipova";

/// Nothing of a caller like this gets in: neither a read nor a write, by any node.
async fn assert_refused(cluster: &Cluster, pair: &Pair, reason: Option<&str>) {
    for node in cluster.ids() {
        let desk = Desk::connect(&cluster.file, pair, [cluster.entry(node)].into_iter());
        let read =
            desk.once(proto::ListServicesRequest::default()).await.expect_err("a read must not get in");
        let write =
            desk.once(desk::open(people::QUIET_OFFICE, 1)).await.expect_err("a write must not get in");
        for error in [read, write] {
            match reason {
                // Turned away by name.
                Some(reason) => {
                    assert_eq!(error.reason(), reason, "{error}");
                    assert!(matches!(error, CallError::Refused(_)), "{error}");
                }
                // Turned away during the handshake: no node of the cluster ever answered.
                None => assert!(
                    ["UNREACHABLE", "GRPC_UNAVAILABLE", "GRPC_UNKNOWN", "GRPC_CANCELLED", "GRPC_INTERNAL"]
                        .contains(&error.reason()),
                    "{error}"
                ),
            }
        }
    }
}

#[tokio::test]
async fn only_certificates_of_this_cluster_and_of_the_right_kind_get_in() {
    let cluster = Cluster::start(3).await;
    let folder = cluster.scratch();
    let clients = cluster.authority("clients");
    let peers = cluster.authority("peers");

    // The very identity of an officer, but signed by somebody else, or by the nodes' own authority.
    let stranger = Authority::stranger("clients").issue(folder, "stranger", &Leaf::client(OFFICER_URI, 1));
    assert_refused(&cluster, &stranger, None).await;
    let of_peers = peers.issue(folder, "of-peers", &Leaf::client(OFFICER_URI, 2));
    assert_refused(&cluster, &of_peers, None).await;

    // The right authority, and the wrong cluster, kind or form.
    let other_cluster = clients.issue(folder, "other", &Leaf::client("okno://prod/operator/lipova", 3));
    assert_refused(&cluster, &other_cluster, Some("CERTIFICATE_WRONG_CLUSTER")).await;
    let peer = clients.issue(folder, "peer", &Leaf::client("okno://dev/peer/1", 4));
    assert_refused(&cluster, &peer, Some("CERTIFICATE_WRONG_KIND")).await;
    let nobody = clients.issue(folder, "nobody", &Leaf::client("https://example.com/operator/lipova", 5));
    assert_refused(&cluster, &nobody, Some("CERTIFICATE_WITHOUT_IDENTITY")).await;

    // One that is over. And a node's server certificate, which is no client's.
    let mut over = Leaf::client(OFFICER_URI, 6);
    over.not_after = std::time::SystemTime::now() - Duration::from_secs(60);
    assert_refused(&cluster, &clients.issue(folder, "over", &over), None).await;
    let server = clients.issue(folder, "server", &Leaf::server(OFFICER_URI, 7));
    assert_refused(&cluster, &server, None).await;

    // A person whom the directory does not know gets in, and may do nothing.
    let unknown = clients.issue(folder, "unknown", &Leaf::client("okno://dev/operator/nobody", 8));
    let error = cluster.desk_with(&unknown).open(1).await.unwrap_err();
    assert_eq!((error.reason(), error.problem().code), ("PERSON_UNKNOWN", tonic::Code::PermissionDenied));

    // The right kind for one call is the wrong one for another.
    let error = cluster.officer().call(proto::TransferLeaderRequest::default()).await.unwrap_err();
    assert_eq!(error.problem().code, tonic::Code::PermissionDenied);
    let error = cluster.desk("auditor", "revizor").open(1).await.unwrap_err();
    assert_eq!(error.problem().code, tonic::Code::PermissionDenied);

    // And one that is as it must be does get in.
    let fine = clients.issue(folder, "fine", &Leaf::client(OFFICER_URI, 9));
    cluster.desk_with(&fine).open(1).await.unwrap();
}

#[tokio::test]
async fn the_port_for_nodes_is_for_nodes() {
    let cluster = Cluster::start(1).await;
    let folder = cluster.scratch();
    let call = async |pair: &Pair| {
        let mut files = desk::tls(&cluster.file, pair);
        files.ca.clone_from(&cluster.file.authorities["peers"].certificate);
        let channel = desk::channel_to(&cluster.file, files, cluster.entry(1).peers);
        let mut bare = proto::case_service_client::CaseServiceClient::new(channel);
        let request = proto::ListCasesRequest::default();
        bare.list_cases(request).await.expect_err("a client's call must not get in by the nodes' door").code()
    };
    // An administrator's certificate is of the wrong authority here: the handshake fails, and with it the connection.
    let code = call(cluster.identity("admin", "dev")).await;
    assert!(
        [tonic::Code::Unavailable, tonic::Code::Cancelled, tonic::Code::Unknown].contains(&code),
        "{code:?}"
    );
    // A client's identity signed by the nodes' authority, and a node's own certificate: neither calls clients' methods.
    let peers = cluster.authority("peers");
    let posing = peers.issue(folder, "posing", &Leaf::peer("okno://dev/admin/dev", 20));
    let node = peers.issue(folder, "node", &Leaf::peer("okno://dev/peer/1", 21));
    for pair in [&posing, &node] {
        let code = call(pair).await;
        assert!(
            [tonic::Code::PermissionDenied, tonic::Code::Unauthenticated, tonic::Code::Unimplemented]
                .contains(&code),
            "{code:?}"
        );
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_shut_out_under_load() {
    let cluster = Cluster::start(3).await;
    let clients = cluster.authority("clients");
    let list = cluster.file.authorities["clients"].revocation_list.clone();
    let stolen = clients.issue(cluster.scratch(), "stolen", &Leaf::client(OFFICER_URI, 4_711));
    let thief = cluster.desk_with(&stolen);
    let case = thief.open(1).await.unwrap();

    let load = Load::start(&cluster, 4);
    load.progress(50).await;
    clients.revoke(&list, &[4_711], tomorrow());
    // The connection that is open already is closed; no new one comes about, at any node.
    eventually("the revoked certificate is shut out", TAKEN_OVER_WITHIN, async || {
        for node in cluster.ids() {
            let own = Desk::connect(&cluster.file, &stolen, [cluster.entry(node)].into_iter());
            if own.once(proto::ListServicesRequest::default()).await.is_ok() {
                return Err(format!("node {node} lets it in"));
            }
        }
        match thief.once(desk::document(&case, "после отзыва")).await {
            Ok(_) => Err("the old connection still works".to_owned()),
            Err(_) => Ok(()),
        }
    })
    .await;
    assert_refused(&cluster, &stolen, None).await;
    let documents = cluster.officer().case(&case).await.unwrap().documents.len();

    // Everybody else works on, and nothing more of the thief's arrives.
    load.progress(50).await;
    let ledger = load.finish().await;
    ledger.assert_on(&cluster, &cluster.ids()).await;
    assert_eq!(cluster.officer().case(&case).await.unwrap().documents.len(), documents);
}

#[tokio::test]
async fn certificates_of_nodes_and_clients_are_rotated_under_load() {
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.authority("clients");
    let peers = cluster.authority("peers");
    let load = Load::start(&cluster, 8);
    load.progress(100).await;

    // Every node's certificates for clients and for nodes, and every writer's own: all renewed while they work.
    let mut serial = 10_000;
    let mut next = || {
        serial += 1;
        serial
    };
    for node in cluster.ids() {
        let uri = format!("okno://dev/peer/{node}");
        let entry = cluster.entry(node).clone();
        clients.issue_into(&entry.server, &Leaf::server(&uri, next()));
        peers.issue_into(&entry.peer, &Leaf::peer(&uri, next()));
    }
    for n in 0..8 {
        let id = people::writer(n);
        let uri = format!("okno://dev/operator/{id}");
        clients.issue_into(cluster.identity("operator", &id), &Leaf::client(&uri, next()));
    }
    load.progress(100).await;
    // The nodes present the new certificates to whoever connects.
    for node in cluster.ids() {
        let address = cluster.entry(node).clients;
        let expected = std::fs::read_to_string(&cluster.entry(node).server.certificate).unwrap();
        eventually(&format!("node {node} presents its new certificate"), TAKEN_OVER_WITHIN, async || {
            let presented =
                okno_tests::pki::presented(&cluster.file, cluster.identity("admin", "dev"), address).await?;
            if presented == okno_tests::pki::der(&expected) { Ok(()) } else { Err("the old one".to_owned()) }
        })
        .await;
    }

    // With everything renewed, a node that is lost finds its way back in by its new certificate.
    let leader = cluster.leader().await;
    cluster.kill(leader);
    load.progress(50).await;
    cluster.start_node(leader);
    cluster.wait_ready().await;
    load.progress(50).await;
    let ledger = load.finish().await;
    ledger.assert_on(&cluster, &cluster.ids()).await;
    cluster.assert_alike().await;
}

#[tokio::test]
async fn a_damaged_certificate_file_keeps_the_old_one_in_force() {
    let cluster = Cluster::start(1).await;
    let entry = cluster.entry(1).clone();
    std::fs::write(&entry.server.certificate, "not a certificate").unwrap();
    let list = &cluster.file.authorities["clients"].revocation_list;
    let good = std::fs::read(list).unwrap();
    std::fs::write(list, &good[..good.len() / 2]).unwrap();
    // The node says so where an operator looks, and goes on serving everybody it served.
    eventually("the alarm stands", TAKEN_OVER_WITHIN, async || {
        let log = cluster.log(1);
        if log.contains("the old ones stay in force") { Ok(()) } else { Err(()) }
    })
    .await;
    cluster.officer().open(1).await.unwrap();
}
