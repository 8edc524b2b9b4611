//! Nodes are lost and come back under load; nothing acknowledged is lost or doubled (R-R1, R-R2, R-R3, R-O3).

use okno_client::{CallError, CaseWatch, v1 as proto};
use okno_tests::cluster::Cluster;
use okno_tests::desk;
use okno_tests::load::Load;
use okno_tests::people;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The product's aim is 1.5 s in the median and 3 s at worst (the failover measurement shows that); a test on a
/// machine that does other things as well asks for less.
const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_leader_is_killed_under_writers_and_comes_back() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, 16);
    load.progress(300).await;

    let leader = cluster.leader().await;
    let killed = Instant::now();
    cluster.kill(leader);
    let gap = load.first_write_after(killed, NEXT_WRITE_WITHIN).await;
    println!("the next write was acknowledged {gap:?} after the leader was killed");
    load.progress(300).await;

    cluster.start_node(leader);
    cluster.wait_ready().await;
    load.progress(300).await;
    let ledger = load.finish().await;
    assert!(ledger.documents() > 800);
    ledger.assert_on(&cluster, &cluster.ids()).await;
    cluster.assert_alike().await;
}

#[tokio::test]
async fn all_nodes_are_killed_at_once_and_restarted() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, 8);
    load.progress(300).await;
    cluster.kill_all();
    // What they left on their disks is whole by itself.
    for node in cluster.ids() {
        cluster.assert_verified(node);
    }
    cluster.start_all();
    cluster.wait_ready().await;
    load.progress(100).await;
    let ledger = load.finish().await;
    ledger.assert_on(&cluster, &cluster.ids()).await;
    cluster.assert_alike().await;
    for node in cluster.ids() {
        assert!(cluster.terminate(node).await.success());
        cluster.assert_verified(node);
    }
}

#[tokio::test]
async fn a_follower_is_away_and_catches_up() {
    let mut cluster = Cluster::prepare(3);
    // A leader that waits for its disk is silent: only who is away may have had a reason to stand for election.
    cluster.set("raft", "election_min", "3s");
    cluster.set("raft", "election_max", "6s");
    cluster.start_all();
    cluster.wait_ready().await;
    cluster.fill().await;
    let load = Load::start(&cluster, 8);
    load.progress(100).await;
    let follower = cluster.follower().await;
    let (_, term) = cluster.wait_ready().await;
    cluster.kill(follower);
    load.progress(500).await;
    cluster.start_node(follower);
    cluster.wait_ready().await;
    load.progress(100).await;
    let ledger = load.finish().await;
    ledger.assert_on(&cluster, &cluster.ids()).await;
    cluster.assert_alike().await;
    // Pre-vote: neither its absence nor its return disturbed the leader.
    for node in cluster.ids() {
        assert_eq!(cluster.status(node).await.unwrap().term, term, "node {node}");
    }
}

#[tokio::test]
async fn a_leader_asked_to_stop_hands_over_first() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, 8);
    load.progress(200).await;
    let leader = cluster.leader().await;
    let asked = Instant::now();
    let status = cluster.terminate(leader).await;
    assert!(status.success(), "SIGTERM is a clean end: {status}");
    load.first_write_after(asked, NEXT_WRITE_WITHIN).await;
    load.progress(100).await;
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    cluster.start_node(leader);
    cluster.wait_ready().await;
    let ledger = load.finish().await;
    ledger.assert_on(&cluster, &cluster.ids()).await;
    cluster.assert_alike().await;
}

#[tokio::test]
async fn a_leader_that_stands_still_is_replaced_and_serves_nothing_stale() {
    let mut cluster = Cluster::start(3).await;
    let officer = cluster.officer();
    let case = officer.open(1).await.unwrap();
    officer.add(&case, "до остановки").await.unwrap();
    let leader = cluster.leader().await;

    cluster.pause(leader);
    officer.add(&case, "без него").await.unwrap();
    cluster.resume(leader);
    // The moment it runs again it may still believe that it leads. A linearizable read there sees the write.
    let own = cluster.desk_at(leader, "operator", people::OFFICER);
    let read = own.case(&case).await.unwrap();
    let references: Vec<&str> = read.documents.iter().map(|document| document.reference.as_str()).collect();
    assert_eq!(references, ["до остановки", "без него"]);
    cluster.wait_ready().await;
    cluster.assert_alike().await;
}

#[tokio::test]
async fn a_repeated_request_is_answered_alike_across_a_failover() {
    let mut cluster = Cluster::start(3).await;
    let officer = cluster.officer();

    let open_id = uuid::Uuid::now_v7();
    let mut open = desk::open(people::QUIET_OFFICE, 1);
    open.meta = desk::meta(open_id, 1);
    let opened = officer.call(open.clone()).await.unwrap();
    let case = opened.case_id.clone();
    let add_id = uuid::Uuid::now_v7();
    let mut add = desk::document(&case, "один раз");
    add.meta = desk::meta(add_id, 1);
    let added = officer.call(add.clone()).await.unwrap();

    let leader = cluster.leader().await;
    cluster.kill(leader);

    // The same ids again, after the leader that made the answers is gone.
    open.meta = desk::meta(open_id, 2);
    let again = officer.call(open.clone()).await.unwrap();
    assert_eq!(again.case_id, case);
    assert_eq!(index(again.meta.as_ref()), index(opened.meta.as_ref()), "the remembered commit's index");
    add.meta = desk::meta(add_id, 2);
    let again = officer.call(add.clone()).await.unwrap();
    assert_eq!(again.document_number, added.document_number);
    assert_eq!(officer.case(&case).await.unwrap().documents.len(), 1);

    // The same id with another payload is refused, by the new leader and by the old one when it is back.
    let mut other = desk::document(&case, "другое");
    other.meta = desk::meta(add_id, 1);
    assert_reused(officer.call(other.clone()).await.unwrap_err());
    let mut other_method = desk::open(people::QUIET_OFFICE, 2);
    other_method.meta = desk::meta(add_id, 1);
    assert_reused(officer.call(other_method).await.unwrap_err());
    cluster.start_node(leader);
    cluster.wait_ready().await;
    cluster.admin().call(proto::TransferLeaderRequest { meta: None, to: leader }).await.unwrap();
    let again = officer.call(add).await.unwrap();
    assert_eq!(again.document_number, added.document_number);
    assert_reused(officer.call(other).await.unwrap_err());

    // Another caller's id is another request, even when the ids are the same.
    let mut stranger = desk::open(people::BUSY_OFFICE, 3);
    stranger.meta = desk::meta(open_id, 1);
    let theirs = cluster.desk("operator", &people::writer(0)).call(stranger).await.unwrap();
    assert_ne!(theirs.case_id, case);
    assert_eq!(officer.case(&case).await.unwrap().documents.len(), 1);
    cluster.assert_alike().await;
}

fn index(meta: Option<&proto::WriteMeta>) -> u64 {
    meta.expect("a write says where it took effect").applied_index
}

fn assert_reused(error: CallError) {
    assert!(matches!(error, CallError::Refused(_)), "{error}");
    assert_eq!(error.reason(), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_watch_goes_on_behind_its_last_change_across_a_leader_change() {
    let mut cluster = Cluster::start(3).await;
    let request = proto::WatchCasesRequest {
        office: people::BUSY_OFFICE.into(),
        ..proto::WatchCasesRequest::default()
    };
    let mut watch = CaseWatch::new(cluster.desk("auditor", "revizor").client, request);
    watch.next().await.unwrap();

    let watching = tokio::spawn(async move {
        // (case, index, number) → how often it came.
        let mut seen: BTreeMap<(String, u64, u32), u32> = BTreeMap::new();
        let mut order: BTreeMap<String, Vec<(u64, u32)>> = BTreeMap::new();
        let mut documents = 0_usize;
        loop {
            let update = watch.next().await.expect("the watch is taken up again");
            let Some(proto::watch_cases_response::Change::Changed(changed)) = update.change else { continue };
            let event = changed.event.expect("a change has an event");
            if event.details.get("reference").is_some_and(|reference| reference == "the end") {
                return (seen, order, documents);
            }
            let times = seen.entry((changed.case_id.clone(), event.index, event.number)).or_default();
            *times += 1;
            if *times == 1 {
                order.entry(changed.case_id).or_default().push((event.index, event.number));
                documents += usize::from(event.kind.contains("document"));
            }
        }
    });
    let load = Load::start(&cluster, 4);
    load.progress(100).await;
    let leader = cluster.leader().await;
    cluster.kill(leader);
    load.progress(100).await;
    cluster.start_node(leader);
    cluster.wait_ready().await;
    let ledger = load.finish().await;

    // The last change of all, by which the watcher knows that nothing more comes.
    let writer = cluster.desk("operator", &people::writer(0));
    let last = writer.call(desk::open(people::BUSY_OFFICE, 900_001)).await.unwrap();
    writer.add(&last.case_id, "the end").await.unwrap();
    let (_, order, documents) =
        tokio::time::timeout(Duration::from_secs(60), watching).await.expect("the end arrives").unwrap();

    // Nothing acknowledged was missed, and each case's changes came in their order.
    for case in ledger.cases.keys() {
        assert!(order.contains_key(case), "case {case} was never told of");
    }
    assert_eq!(documents, ledger.documents());
    for (case, changes) in order {
        assert!(changes.is_sorted(), "case {case}: {changes:?}");
    }
}
