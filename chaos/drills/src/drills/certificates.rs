//! Who is let in, and who no longer: bad certificates, revoked ones, rotation under load, stale revocation lists.

use crate::bench::Bench;
use crate::drill::Drill;
use crate::drills::process::{NEXT_WRITE_WITHIN, REDUNDANT_WITHIN, SOME_WRITES};
use crate::harness::cluster::Pair;
use crate::harness::desk::{self, Desk};
use crate::harness::pki::{self, Authority, Leaf, tomorrow};
use crate::harness::plan::Plan;
use crate::harness::{eventually, people};
use okno_checks::invariants::Invariant;
use okno_client::v1 as proto;
use std::time::{Duration, Instant, SystemTime};

/// A changed file is taken over within this: it is watched, and looked at now and then besides.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(30);
const OFFICER_URI: &str = "okno://dev/operator/lipova";
const HOUR: Duration = Duration::from_secs(3_600);

pub const BAD_CERTIFICATES: Drill = Drill {
    name: "bad-certificates",
    faults: &[39],
    needs: &[],
    scenario: "Callers present certificates that are over, not valid yet, of another authority, of the nodes' authority, of \
               another cluster, of a wrong kind, without an identity, and one that is revoked while it is in use.",
    expected: "None gets in, neither to read nor to write, at no node; the revoked one is shut out of its open connection \
               too; everybody else works on.",
    run: |bench| Box::pin(bad_certificates(bench)),
};

/// Whether any node lets a caller read or write.
async fn let_in(bench: &mut Bench, pair: &Pair) -> Vec<u64> {
    let mut open = Vec::new();
    for node in bench.cluster().running() {
        let cluster = bench.cluster();
        let own = Desk::connect(&cluster.file, pair, [cluster.entry(node)].into_iter());
        let read = own.once(proto::ListServicesRequest::default()).await;
        let write = own.once(desk::open(people::QUIET_OFFICE, 1)).await;
        if read.is_ok() || write.is_ok() {
            open.push(node);
        }
    }
    open
}

async fn bad_certificates(bench: &mut Bench) {
    bench.injected("bad-certificate", 0);
    bench.injected("revocation", 0);
    bench.start(Plan::default()).await;
    let folder = bench.scratch().to_owned();
    let clients = bench.cluster().authority("clients");
    let peers = bench.cluster().authority("peers");
    let now = SystemTime::now();
    let fault = bench.fault("callers with bad certificates");
    let mut over = Leaf::client(OFFICER_URI, 6);
    over.not_after = now - Duration::from_secs(60);
    let mut future = Leaf::client(OFFICER_URI, 7);
    future.not_before = now + HOUR;
    let bad = [
        (
            "of an unknown authority",
            Authority::stranger("clients").issue(&folder, "stranger", &Leaf::client(OFFICER_URI, 1)),
        ),
        ("of the nodes' authority", peers.issue(&folder, "of-peers", &Leaf::client(OFFICER_URI, 2))),
        (
            "of another cluster",
            clients.issue(&folder, "other", &Leaf::client("okno://prod/operator/lipova", 3)),
        ),
        ("of a wrong kind", clients.issue(&folder, "peer", &Leaf::client("okno://dev/peer/1", 4))),
        (
            "without an identity",
            clients.issue(&folder, "nobody", &Leaf::client("https://example.com/lipova", 5)),
        ),
        ("that is over", clients.issue(&folder, "over", &over)),
        ("that is not valid yet", clients.issue(&folder, "future", &future)),
        ("of a server", clients.issue(&folder, "server", &Leaf::server(OFFICER_URI, 8))),
    ];
    for (what, pair) in &bad {
        let open = let_in(bench, pair).await;
        bench.injected("bad-certificate", 1);
        bench.check(Invariant::Refused, open.is_empty(), format!("a certificate {what}: let in by {open:?}"));
    }
    bench.over(fault);

    let list = bench.cluster().file.authorities["clients"].revocation_list.clone();
    let stolen = clients.issue(&folder, "stolen", &Leaf::client(OFFICER_URI, 4_711));
    let thief = bench.cluster().desk_with(&stolen);
    let case = thief.open(1).await.expect("the certificate is still good");
    let fault = bench.fault("a certificate in use is revoked");
    clients.revoke(&list, &[4_711], tomorrow());
    bench.injected("revocation", 1);
    eventually("the revoked certificate is shut out", TAKEN_OVER_WITHIN, async || {
        let open = let_in(bench, &stolen).await;
        let old = thief.once(desk::document(&case, "after")).await;
        if open.is_empty() && old.is_err() { Ok(()) } else { Err(format!("let in by {open:?}; {old:?}")) }
    })
    .await;
    bench.over(fault);
    let took = fault.began.elapsed();
    bench.figure("revoked_after_ms", took.as_secs_f64() * 1e3);
    bench.check(Invariant::Refused, true, "a revoked certificate was shut out of new and open connections");
    bench.served_since(Instant::now(), NEXT_WRITE_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

pub const CERTIFICATES_ROTATED: Drill = Drill {
    name: "certificates-rotated",
    faults: &[39],
    needs: &[],
    scenario: "All certificates of nodes and of the people at work are renewed while they work; then the leader is killed and \
               comes back by its new one. Before that, a renewal with a damaged file.",
    expected: "A damaged file changes nothing; the new certificates are presented within seconds; nobody is interrupted.",
    run: |bench| Box::pin(certificates_rotated(bench)),
};

async fn certificates_rotated(bench: &mut Bench) {
    bench.injected("damaged-certificate", 0);
    bench.injected("rotation", 0);
    bench.start(Plan::default()).await;
    let clients = bench.cluster().authority("clients");
    let peers = bench.cluster().authority("peers");
    let nodes = bench.cluster().ids();

    let first = bench.cluster().entry(nodes[0]).clone();
    let good = std::fs::read(&first.server.certificate).expect("the certificate is there");
    let fault = bench.fault("a damaged certificate file");
    std::fs::write(&first.server.certificate, &good[..good.len() / 2]).expect("the file can be written");
    eventually("the node says that the old one stays in force", TAKEN_OVER_WITHIN, async || {
        let log = bench.cluster().log(nodes[0]);
        if log.contains("the old ones stay in force") { Ok(()) } else { Err("nothing said") }
    })
    .await;
    bench.injected("damaged-certificate", 1);
    bench.over(fault);

    let fault = bench.fault("all certificates are renewed");
    for node in &nodes {
        let uri = format!("okno://dev/peer/{node}");
        let entry = bench.cluster().entry(*node).clone();
        clients.issue_into(&entry.server, &Leaf::server(&uri, pki::fresh_serial()));
        peers.issue_into(&entry.peer, &Leaf::peer(&uri, pki::fresh_serial()));
        bench.injected("rotation", 2);
    }
    for n in 0..people::WRITERS_MAX {
        let id = people::writer(n);
        let uri = format!("okno://dev/operator/{id}");
        clients
            .issue_into(bench.cluster().identity("operator", &id), &Leaf::client(&uri, pki::fresh_serial()));
        bench.injected("rotation", 1);
    }
    for node in &nodes {
        let entry = bench.cluster().entry(*node).clone();
        let expected = std::fs::read_to_string(&entry.server.certificate).expect("the certificate is there");
        eventually("the new certificate is presented", TAKEN_OVER_WITHIN, async || {
            let cluster = bench.cluster();
            let caller = cluster.identity("admin", "dev");
            let presented = pki::presented(&cluster.file, caller, entry.clients).await?;
            if presented == pki::der(&expected) { Ok(()) } else { Err("the old one".to_owned()) }
        })
        .await;
    }
    bench.over(fault);
    let took = fault.began.elapsed();
    bench.figure("taken_over_after_ms", took.as_secs_f64() * 1e3);
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;

    let leader = bench.cluster().leader().await;
    let fault = bench.fault(format!("node {leader}, the leader, is killed"));
    bench.cluster().kill(leader);
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    bench.cluster().start_node(leader);
    bench.over(fault);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

pub const STALE_LIST: Drill = Drill {
    name: "stale-revocation-list",
    faults: &[40],
    needs: &[],
    scenario: "The clients' revocation list is replaced by half a file, then by a current list that passes its next update a \
               few seconds later, then by a current one.",
    expected: "Half a file changes nothing. Once the list is stale nobody new is let in, since nobody can tell who is \
               revoked; who is connected works on. With the current list everybody is let in again by itself.",
    run: |bench| Box::pin(stale_list(bench)),
};

/// Lists are written for so long.
const CURRENT_FOR: Duration = Duration::from_secs(6);

async fn stale_list(bench: &mut Bench) {
    bench.injected("damaged-list", 0);
    bench.injected("stale-list", 0);
    bench.start(Plan::default()).await;
    let clients = bench.cluster().authority("clients");
    let list = bench.cluster().file.authorities["clients"].revocation_list.clone();
    let good = bench.cluster().identity("operator", people::OFFICER).clone();
    let nodes = bench.cluster().ids();

    let current = std::fs::read(&list).expect("the list is there");
    let fault = bench.fault("half a revocation list");
    std::fs::write(&list, &current[..current.len() / 2]).expect("the list can be written");
    eventually("every node says that the old one stays in force", TAKEN_OVER_WITHIN, async || {
        let told = |node: &u64| bench.cluster().log(*node).contains("the old ones stay in force");
        if nodes.clone().iter().all(told) { Ok(()) } else { Err("not all") }
    })
    .await;
    bench.injected("damaged-list", 1);
    let open = let_in(bench, &good).await;
    bench.check(
        Invariant::Progress,
        open == nodes,
        format!("with half a list good callers are let in by {open:?}"),
    );
    bench.over(fault);

    let fault = bench.fault("a list that becomes stale");
    clients.revoke(&list, &[], SystemTime::now() + CURRENT_FOR);
    eventually("nobody new is let in", TAKEN_OVER_WITHIN, async || {
        let open = let_in(bench, &good).await;
        if open.is_empty() { Ok(()) } else { Err(open) }
    })
    .await;
    bench.injected("stale-list", 1);
    bench.check(Invariant::Refused, true, "with a stale list no node let anybody new in");
    let connected = bench.acknowledged();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let written = bench.acknowledged() - connected;
    bench.figure("writes_of_the_connected_in_a_second", written as f64);

    clients.revoke(&list, &[], tomorrow());
    let healed = Instant::now();
    eventually("good callers are let in again", TAKEN_OVER_WITHIN, async || {
        let open = let_in(bench, &good).await;
        if open == nodes { Ok(()) } else { Err(open) }
    })
    .await;
    bench.over(fault);
    bench.figure("let_in_again_after_ms", healed.elapsed().as_secs_f64() * 1e3);
    bench.served_since(Instant::now(), NEXT_WRITE_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}
