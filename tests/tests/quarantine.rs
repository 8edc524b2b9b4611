//! Damaged data (rule 12): the node comes up closed and says why and what to do, the others serve on, and a node once
//! found wrong stays closed even when what was seen is not seen any more.

use okno_client::v1 as proto;
use okno_tests::{
    cluster::Cluster,
    desk::{self, Desk},
    eventually, people,
};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn copy(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.expect("the test's own files");
        let target = to.join(entry.path().strip_prefix(from).expect("the test's own files"));
        if entry.file_type().is_dir() {
            fs::create_dir_all(target).expect("the test's own files");
        } else {
            fs::copy(entry.path(), target).expect("the test's own files");
        }
    }
}

/// Status code and body of a plain GET.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the port of health is open");
    stream.set_read_timeout(Some(PATIENCE)).expect("the test's own files");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
        .expect("the test's own files");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the test's own files");
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (code, answer.split_once("\r\n\r\n").expect("a body").1.to_owned())
}

/// The files of the database whose names begin and end so.
fn files(data: &Path, prefix: &str, suffix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(data.join("db"))
        .expect("the test's own files")
        .map(|entry| entry.expect("the test's own files").path())
        .filter(|path| {
            let name = path.file_name().expect("the test's own files").to_string_lossy().into_owned();
            name.starts_with(prefix) && name.ends_with(suffix)
        })
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no file {prefix}*{suffix}");
    found
}

/// Flips a byte in the middle.
fn rot(path: &Path) {
    let mut bytes = fs::read(path).expect("the test's own files");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(path, bytes).expect("the test's own files");
}

/// Waits until the node stands closed; checks every surface that must tell, and that nothing else answers.
async fn closed(cluster: &Cluster, node: u64, case: &str) -> proto::GetStatusResponse {
    let status = eventually("the node is closed", PATIENCE, async || {
        let status = cluster.status(node).await.map_err(|error| error.to_string())?;
        if status.phase() == proto::NodePhase::Quarantined {
            Ok(status)
        } else {
            Err(format!("{:?}", status.phase()))
        }
    })
    .await;
    assert!(!status.reason.is_empty() && !status.remedy.is_empty(), "{status:?}");
    assert_eq!(status.node_id, node);
    let health = cluster.entry(node).health;
    assert_eq!(get(health, "/livez").0, 200, "a restart would mend nothing");
    let (code, told) = get(health, "/readyz");
    assert_eq!(code, 503);
    assert!(told.contains(&status.reason) && told.contains(&status.remedy), "{told}");
    let there = Desk::connect(
        &cluster.file,
        cluster.identity("operator", people::OFFICER),
        [cluster.entry(node)].into_iter(),
    );
    let read = proto::GetCaseRequest { read: desk::local(), case_id: case.to_owned() };
    assert_eq!(there.once(read).await.expect_err("refused").reason(), "NODE_QUARANTINED");
    assert_eq!(
        there.once(desk::document(case, "нет")).await.expect_err("refused").reason(),
        "NODE_QUARANTINED"
    );
    status
}

#[tokio::test]
async fn damaged_data_close_the_node_and_say_so() {
    let mut cluster = Cluster::start(3).await;
    let officer = cluster.officer();
    let case = officer.open(1).await.expect("the test's own files");
    for n in 0..20 {
        officer.add(&case, &format!("прежде-{n}")).await.expect("the test's own files");
    }
    let node = cluster.follower().await;
    cluster.terminate(node).await;
    let data = cluster.entry(node).data.clone();
    let whole = cluster.scratch().join("whole");
    fs::rename(&data, &whole).expect("the test's own files");

    type Damage = fn(&Path);
    let damages: [(&str, Damage); 7] = [
        ("identity overwritten", |data| {
            fs::write(data.join("identity"), vec![0xA5; 16_384]).expect("the test's own files")
        }),
        ("CURRENT removed", |data| fs::remove_file(data.join("db/CURRENT")).expect("the test's own files")),
        ("CURRENT overwritten", |data| {
            fs::write(data.join("db/CURRENT"), "nonsense").expect("the test's own files")
        }),
        ("manifest removed", |data| {
            fs::remove_file(&files(data, "MANIFEST-", "")[0]).expect("the test's own files")
        }),
        ("manifest rotten", |data| rot(&files(data, "MANIFEST-", "")[0])),
        ("table removed", |data| fs::remove_file(&files(data, "", ".sst")[0]).expect("the test's own files")),
        ("tables rotten", |data| files(data, "", ".sst").iter().for_each(|path| rot(path))),
    ];
    for (n, (name, damage)) in damages.into_iter().enumerate() {
        println!("{name}");
        copy(&whole, &data);
        damage(&data);
        cluster.start_node(node);
        let status = closed(&cluster, node, &case).await;
        println!("  {} / {}", status.reason, status.remedy);
        // Nobody needs it.
        officer.add(&case, &format!("без него-{n}")).await.expect("the test's own files");
        // A second start tells the same, and how long it has been so.
        cluster.terminate(node).await;
        assert!(data.join("quarantine.json").exists(), "{name}");
        cluster.start_node(node);
        let again = closed(&cluster, node, &case).await;
        assert!(again.reason.contains("since") || again.reason == status.reason, "{}", again.reason);
        cluster.terminate(node).await;
        fs::remove_dir_all(&data).expect("the test's own files");
    }

    // What was seen once counts, though the data look whole now; the database that is not there is another matter.
    copy(&whole, &data);
    let seen =
        r#"{"reason": "row digest differs", "remedy": "add it anew", "since": "2026-01-01T00:00:00Z"}"#;
    fs::write(data.join("quarantine.json"), seen).expect("the test's own files");
    cluster.start_node(node);
    let status = closed(&cluster, node, &case).await;
    assert_eq!(status.reason, "row digest differs (since 2026-01-01T00:00:00Z)");
    assert_eq!(status.remedy, "add it anew");
    cluster.terminate(node).await;
    let verified =
        okno_tests::cluster::okno(&["verify", "--dir", data.to_str().expect("the test's own files")]);
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    assert!(String::from_utf8_lossy(&verified.stderr).contains("row digest differs"), "{verified:?}");
    fs::remove_file(data.join("quarantine.json")).expect("the test's own files");

    fs::rename(data.join("db"), cluster.scratch().join("unmounted")).expect("the test's own files");
    cluster.start_node(node);
    let status = closed(&cluster, node, &case).await;
    assert!(status.remedy.starts_with("mount"), "{status:?}");
    cluster.terminate(node).await;
    fs::rename(cluster.scratch().join("unmounted"), data.join("db")).expect("the test's own files");
    cluster.start_node(node);
    cluster.wait_ready().await;
    officer.add(&case, "снова вместе").await.expect("the test's own files");
    cluster.assert_alike().await;
}

/// `okno verify` sees rot wherever a checksum stands, changes nothing, and says so of the log's tail where it can only
/// doubt: recovery takes a damaged tail for the end.
#[tokio::test]
async fn verify_finds_rot_and_changes_nothing() {
    let mut cluster = Cluster::start(1).await;
    let officer = cluster.officer();
    let case = officer.open(1).await.expect("the test's own files");
    for n in 0..50 {
        officer.add(&case, &format!("лист-{n}")).await.expect("the test's own files");
    }
    // Killed, so that the write-ahead log holds everything; longer after the last write than identity lags behind.
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.kill(1);
    let data = cluster.entry(1).data.clone();
    let whole = cluster.scratch().join("whole");
    copy(&data, &whole);
    let verify = |data: &Path| {
        let output =
            okno_tests::cluster::okno(&["verify", "--dir", data.to_str().expect("the test's own files")]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), report, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, report, told) = verify(&data);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(
        (
            report["faults"].as_array().expect("the test's own files").len(),
            report["doubts"].as_array().expect("the test's own files").len()
        ),
        (0, 0)
    );
    // Nothing was changed: the same look gives the same, and recovery has not rewritten the log.
    assert_eq!(verify(&data).1, report);
    let log = files(&data, "", ".log").pop().expect("the test's own files");
    assert_eq!(
        fs::read(&log).expect("the test's own files"),
        fs::read(whole.join("db").join(log.file_name().expect("the test's own files")))
            .expect("the test's own files")
    );

    // In the middle of the log: what was synced is gone, and identity knows.
    rot(&log);
    let (code, report, told) = verify(&data);
    assert_eq!(code, Some(1), "{report}");
    assert!(
        told.contains("was synced") && report["doubts"].as_array().expect("the test's own files").len() == 1,
        "{told} {report}"
    );

    // In its last record: identity may or may not know, the doubt is told in any case.
    fs::copy(whole.join("db").join(log.file_name().expect("the test's own files")), &log)
        .expect("the test's own files");
    let mut bytes = fs::read(&log).expect("the test's own files");
    let last = bytes.iter().rposition(|byte| *byte != 0).expect("the test's own files");
    bytes[last] ^= 0x55;
    fs::write(&log, bytes).expect("the test's own files");
    let (code, report, told) = verify(&data);
    println!("a flipped byte in the last record: exit {code:?}, {told}");
    assert!(!report["doubts"].as_array().expect("the test's own files").is_empty(), "{report}");
}
