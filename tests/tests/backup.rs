//! Backups of a living cluster, and the way back after all of it was lost (R-R6, R-R7).

use okno_client::{CallOptions, v1 as proto};
use okno_tests::{cluster::Cluster, desk, eventually, load::Load, people};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use uuid::Uuid;

/// A pair made for tests, known to everybody.
const SECRET: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
const PUBLIC: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
/// What is promised is 10 s; a test beside others asks for less.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(40);

async fn oknoctl(cluster: &Cluster, arguments: &[&str]) -> Result<Value, String> {
    okno_tests::members::oknoctl(cluster, arguments).await.result()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// A cluster whose nodes share a target, encrypted for the operator.
struct Room {
    cluster: Cluster,
    target: PathBuf,
    secret: PathBuf,
}

impl Room {
    async fn start() -> Self {
        let mut cluster = Cluster::prepare(3);
        let (target, secret) = (cluster.scratch().join("target"), cluster.scratch().join("operator.key"));
        fs::write(&secret, SECRET).expect("written");
        cluster.set("backup", "target", text(&target));
        cluster.set("backup", "recipients", vec![PUBLIC]);
        // A temporary folder is on the medium of the data.
        cluster.set("backup", "same_medium", true);
        // A log so short that it is cut long before the first backup is there: the archive must go on from it all the same.
        cluster.set("raft", "keep_log_entries", 100);
        // The programs are in it, some 150 MB: nothing of this is about the pace.
        cluster.set("backup", "rate", "0B");
        oknoctl(&cluster, &["backup", "init", "--target", text(&target)]).await.expect("prepared");
        cluster.start_all();
        cluster.wait_ready().await;
        cluster.fill().await;
        Self { cluster, target, secret }
    }

    /// Waits until the log is archived up to `index`.
    async fn archived(&self, index: u64) {
        eventually(&format!("the log archived up to {index}"), ARCHIVED_WITHIN, async || {
            let listed = oknoctl(&self.cluster, &["backup", "list", "--target", text(&self.target)]).await?;
            let reached = listed["backups"].as_array().and_then(|all| all.last()?["archived_to"].as_u64());
            if reached >= Some(index) { Ok(()) } else { Err(format!("{reached:?}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn all_machines_are_lost_and_a_chosen_moment_comes_back() {
    let mut room = Room::start().await;
    let officer = room.cluster.officer();
    let load = Load::start(&room.cluster, 8);
    load.progress(300).await;
    let made = oknoctl(&room.cluster, &["backup", "now"]).await.expect("taken under load");
    let backup = made["backup"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(made["backup"]["encrypted"], true);
    load.progress(300).await;
    // A call whose answer the cluster remembers, in the archive only.
    let id = okno_client::new_request_id();
    let open = |number| {
        let mut request = desk::open(people::QUIET_OFFICE, number);
        request.meta =
            Some(proto::RequestMeta { request_id: id.to_string(), attempt: 1, workstation: String::new() });
        request
    };
    let first = officer.client.call(open(1)).await.expect("opened").response;
    let ledger = load.finish().await;
    let placed = room.cluster.admin().call(proto::PlaceMarkerRequest { meta: None }).await.expect("placed");
    let moment = placed.marker_index;
    let digest = eventually("the digest at the chosen moment", ARCHIVED_WITHIN, async || {
        let digests =
            room.cluster.admin().call(proto::GetDigestsRequest {}).await.map_err(|e| e.to_string())?;
        let found = digests.members.into_iter().find(|m| m.marker_index == moment).map(|m| m.digest);
        found.ok_or("none yet".to_owned())
    })
    .await;
    // Behind the moment: this must not come back.
    let later = officer.open(2).await.expect("opened");
    let leader = room.cluster.leader().await;
    let end = room.cluster.status(leader).await.expect("answers").applied_index;
    room.archived(end).await;

    room.cluster.kill_all();
    for node in room.cluster.ids() {
        fs::remove_dir_all(&room.cluster.entry(node).data).expect("lost");
    }
    let (target, secret) = (text(&room.target).to_owned(), text(&room.secret).to_owned());
    let unread = oknoctl(&room.cluster, &["backup", "verify", "--target", &target]).await;
    assert!(unread.expect_err("sealed").contains("--identity"));
    let verify = ["backup", "verify", "--target", &target, "--identity", &secret, &backup];
    let verified = oknoctl(&room.cluster, &verify).await.expect("whole");
    assert!(verified["archived_to"].as_u64() >= Some(end), "{verified}");

    let cluster_id = Uuid::new_v4().to_string();
    let members: Vec<String> =
        room.cluster.file.nodes.iter().map(|node| format!("{}={}", node.id, node.peers)).collect();
    let (until, members) = (moment.to_string(), members.join(","));
    let to: Vec<String> = room
        .cluster
        .file
        .nodes
        .iter()
        .flat_map(|node| ["--to".to_owned(), format!("{}={}", node.id, text(&node.data))])
        .collect();
    let mut restore = vec!["restore", "--from", &target, "--identity", &secret, "--until", &until];
    restore.extend(["--members", &members, "--new-cluster", &cluster_id]);
    restore.extend(to.iter().map(String::as_str));
    let restored = oknoctl(&room.cluster, &restore).await.expect("restored");
    assert_eq!(restored["index"], moment);
    assert_eq!(restored["digest"], digest.as_str(), "what comes back is what was there");
    let again = oknoctl(&room.cluster, &restore).await.expect_err("a node lives there now");
    assert!(again.contains("is not empty"), "{again}");
    for node in room.cluster.ids() {
        room.cluster.assert_verified(node);
    }

    room.cluster.set("cluster", "id", cluster_id.as_str());
    room.cluster.start_all();
    room.cluster.wait_ready().await;
    ledger.assert_on(&room.cluster, &room.cluster.ids()).await;
    let officer = room.cluster.officer();
    assert!(officer.case(&later).await.is_err(), "what came behind the moment is not there");
    // The same request is answered as before, and once.
    let options = CallOptions::default();
    let repeated = officer.client.call_with(open(1), options).await.expect("remembered").response;
    assert_eq!(repeated.case_id, first.case_id);
    // Clients go on.
    let load = Load::start(&room.cluster, 4);
    load.progress(100).await;
    let more = load.finish().await;
    more.assert_on(&room.cluster, &room.cluster.ids()).await;
    room.cluster.assert_alike().await;
}

#[tokio::test]
async fn a_follower_backs_up_by_itself_and_another_goes_on_with_the_archive() {
    let mut room = Room::start().await;
    // Due at once: there is none.
    let made_by = eventually("a backup nobody asked for", ARCHIVED_WITHIN, async || {
        let listed = oknoctl(&room.cluster, &["backup", "list"]).await?;
        listed["backups"][0]["node_id"].as_u64().ok_or("none yet".to_owned())
    })
    .await;
    let leader = room.cluster.leader().await;
    println!("node {made_by} backed up, node {leader} leads");
    let officer = room.cluster.officer();
    let case = officer.open(1).await.expect("opened");
    officer.add(&case, "before").await.expect("added");
    let applied = room.cluster.status(leader).await.expect("answers").applied_index;
    room.archived(applied).await;
    // Whoever archives: two of three go on, and the archive with them.
    for node in room.cluster.ids() {
        room.cluster.kill(node);
        officer.add(&case, &format!("while node {node} is away")).await.expect("added");
        let leader = room.cluster.leader().await;
        let applied = room.cluster.status(leader).await.expect("answers").applied_index;
        room.archived(applied).await;
        room.cluster.start_node(node);
        room.cluster.wait_ready().await;
    }
    let backups = oknoctl(&room.cluster, &["backup", "list"]).await.expect("listed");
    assert_eq!(backups["backups"].as_array().map(Vec::len), Some(1), "nobody made a second one: {backups}");
    let verify = ["backup", "verify", "--target", text(&room.target), "--identity", text(&room.secret)];
    oknoctl(&room.cluster, &verify).await.expect("whole, without a gap");
}
