//! Rolling upgrade and downgrade under load, with two programs of which only the newer one reads what it writes once the
//! feature level is raised: clients notice nothing, and the older program then refuses and says why.
//!
//! The newer program is `okno-faulty`, told to act as the release after this one (`OKNO_NEXT_RELEASE`). The data of a release
//! before this one are those that storage keeps for good (`storage/tests/releases/`).

use okno_client::v1 as proto;
use okno_tests::{
    cluster::{Cluster, binary},
    eventually,
    load::Load,
    plan::{Launch, Plan},
};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

const WRITERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);

fn put(cluster: &mut Cluster, node: u64, program: &Path, next: bool) {
    let launch = if next { Launch::default().env("OKNO_NEXT_RELEASE", "1") } else { Launch::default() };
    cluster.set_binary(program);
    cluster.set_launch(node, launch);
    cluster.start_node(node);
}

/// Every node gets the program, one after the other; returns the longest pause between two acknowledged writes.
async fn roll(cluster: &mut Cluster, load: &Load, program: &Path, next: bool) -> Duration {
    let mut longest = Duration::ZERO;
    for node in cluster.ids() {
        let began = Instant::now();
        let status = cluster.terminate(node).await;
        assert!(status.success(), "SIGTERM is a clean end: node {node} ended with {status}");
        put(cluster, node, program, next);
        longest = longest.max(load.first_write_after(began, PATIENCE).await);
        cluster.wait_ready().await;
        load.progress(50).await;
    }
    longest
}

/// What each member is known to understand, once all have said it.
async fn known(cluster: &Cluster) -> Vec<u32> {
    eventually("every member has said what it understands", PATIENCE, async || {
        let status = cluster.status(1).await.map_err(|error| error.to_string())?;
        let levels: Vec<u32> = status.members.iter().map(|member| member.feature_level).collect();
        if levels.iter().all(|level| *level > 0) { Ok(levels) } else { Err(format!("{levels:?}")) }
    })
    .await
}

fn raise(to: u32, dry_run: bool) -> proto::RaiseLevelRequest {
    proto::RaiseLevelRequest { meta: None, to, dry_run }
}

#[tokio::test]
async fn a_newer_program_comes_goes_back_and_stays() {
    let (older, newer) = (binary(), okno_tests::faulty());
    let mut cluster = Cluster::start(3).await;
    let admin = cluster.admin();
    // A new cluster is at its release's level by itself.
    let level = eventually("the new cluster has reached its level", PATIENCE, async || {
        let status = admin.status().await.map_err(|error| error.to_string())?;
        let known = status.members.iter().map(|member| member.feature_level).max().unwrap_or_default();
        if known > 0 && status.level == known {
            Ok(known)
        } else {
            Err(format!("level {} of {known}", status.level))
        }
    })
    .await;
    let refused = admin.once(raise(level + 1, false)).await;
    let refused = match refused {
        // Whoever was asked may not lead; the client finds the leader.
        Err(error) if error.reason() == "NOT_LEADER" => admin.call(raise(level + 1, false)).await,
        other => other,
    };
    assert_eq!(refused.expect_err("nobody knows that level").reason(), "FEATURE_LEVEL_UNSUPPORTED");

    let load = Load::start(&cluster, WRITERS);
    load.progress(100).await;
    let up = roll(&mut cluster, &load, &newer, true).await;
    assert_eq!(known(&cluster).await, [level + 1; 3]);
    let down = roll(&mut cluster, &load, &older, false).await;
    assert_eq!(known(&cluster).await, [level; 3]);
    roll(&mut cluster, &load, &newer, true).await;
    println!("longest wait for a write: {up:?} upgrading, {down:?} downgrading");

    let dry = admin.call(raise(0, true)).await.expect("a dry run");
    assert_eq!((dry.from, dry.to, dry.meta), (level, level + 1, None));
    let raised = admin.call(raise(0, false)).await.expect("every member knows it");
    assert_eq!((raised.from, raised.to), (level, level + 1));
    load.progress(100).await;
    for node in cluster.ids() {
        eventually("the level is raised everywhere", PATIENCE, async || {
            let status = cluster.status(node).await.map_err(|error| error.to_string())?;
            if status.level == level + 1 { Ok(()) } else { Err(format!("level {}", status.level)) }
        })
        .await;
    }

    // What is written now the older program cannot read: it closes itself, says what is needed, and remembers nothing.
    let node = cluster.follower().await;
    cluster.terminate(node).await;
    put(&mut cluster, node, &older, false);
    let status = eventually("the older program has closed itself", PATIENCE, async || {
        let status = cluster.status(node).await.map_err(|error| error.to_string())?;
        if status.phase() == proto::NodePhase::Quarantined { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    let expected = format!("install a version that knows level {}", level + 1);
    assert!(status.reason.contains(&expected), "{status:?}");
    load.progress(50).await;
    cluster.terminate(node).await;
    put(&mut cluster, node, &newer, true);
    cluster.wait_ready().await;
    load.progress(50).await;

    let ledger = load.finish().await;
    assert!(ledger.faults.is_empty(), "the client library hides all of it: {:?}", ledger.faults);
    cluster.wait_applied(node, ledger.index_highest).await;
    ledger.assert_on(&cluster, &cluster.ids()).await;
    cluster.assert_alike().await;
}

/// As it stands in the identity that release 0.1.0 left.
const CLUSTER_OF_0_1: &str = "a6ea21ac-3e25-4f7d-8cbe-e45c461929d3";

/// The level stays what the data's release wrote until somebody raises it; below it everything newer is refused under one
/// reason, reads included: who follows a newer leader must not be told what the older ones cannot know.
#[tokio::test]
async fn data_of_release_0_1_keep_their_level_until_it_is_raised() {
    let mut cluster = Cluster::prepare_as(&Plan::of(1));
    let data = cluster.entry(1).data.clone();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../storage/tests/releases/0.1.0");
    fs::remove_dir_all(&data).expect("what was prepared goes");
    for below in ["", "db"] {
        fs::create_dir(data.join(below)).expect("a folder");
        for entry in fs::read_dir(kept.join(below)).expect("a committed directory") {
            let entry = entry.expect("listed");
            if entry.file_type().expect("known").is_file() {
                fs::copy(entry.path(), data.join(below).join(entry.file_name())).expect("copied");
            }
        }
    }
    cluster.set_of(1, "cluster", "id", CLUSTER_OF_0_1);
    cluster.start_all();
    cluster.wait_ready().await;
    let admin = cluster.admin();
    assert_eq!(admin.status().await.expect("it serves").level, 1);

    let (office, day) = ("tikhaya".to_owned(), "2026-11-23".to_owned());
    let tickets = proto::ListTicketsRequest { office: office.clone(), ..Default::default() };
    let desks = proto::ListDesksRequest { office: office.clone(), ..Default::default() };
    let bookings = proto::ListBookingsRequest { office: office.clone(), ..Default::default() };
    let slots = proto::ListSlotsRequest { office: office.clone(), day: day.clone(), ..Default::default() };
    let statistics =
        proto::GetQueueStatisticsRequest { office, from: day.clone(), to: day, ..Default::default() };
    let add = proto::AddMemberRequest {
        node_id: 2,
        address: "127.0.0.1:9".into(),
        dry_run: true,
        ..Default::default()
    };
    let refused = [
        admin.call(desks.clone()).await.err(),
        admin.call(bookings.clone()).await.err(),
        admin.call(slots.clone()).await.err(),
        admin.call(statistics.clone()).await.err(),
        admin.call(proto::ListChannelsRequest::default()).await.err(),
        admin.call(add.clone()).await.err(),
    ];
    let reasons = refused.map(|error| error.map(|error| error.reason().to_owned()));
    assert_eq!(reasons, [const { Some("FEATURE_LEVEL_LOW") }; 6].map(|reason| reason.map(str::to_owned)));
    admin.call(tickets.clone()).await.expect("release 0.1 had tickets");

    let raised = admin.call(raise(0, false)).await.expect("the only member knows it");
    assert_eq!(raised.from, 1);
    admin.call(tickets).await.expect("as before");
    admin.call(desks).await.expect("windows");
    admin.call(bookings).await.expect("bookings");
    admin.call(slots).await.expect("slots");
    admin.call(statistics).await.expect("statistics");
    admin.call(proto::ListChannelsRequest::default()).await.expect("channels");
    admin.call(add).await.expect("a plan");
    assert!(cluster.terminate(1).await.success());
    cluster.assert_verified(1);
}
