//! `okno dev --once` as a developer runs it: it tells the story, finds everything, and leaves nothing behind.

use okno_tests::cluster::{binary, okno};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn the_story_ends_well_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("cluster");
    let output = okno(&["dev", "--once", "--seed", "7", "--dir", dir.to_str().unwrap()]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    // The leader was killed, work went on, and every node was read.
    for text in [
        "убит (SIGKILL)",
        "следующая запись подтверждена через",
        "догнал остальных",
        "ничего дважды",
        "в архиве",
    ] {
        assert!(out.contains(text), "{text:?} was not told:\n{out}");
    }
    // No process of it runs any more.
    let file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("dev.json")).unwrap()).unwrap();
    assert_eq!(file["pid"], serde_json::Value::Null);
    for node in file["nodes"].as_array().unwrap() {
        assert_eq!(node["pid"], serde_json::Value::Null, "{node}");
        let address: std::net::SocketAddr = node["clients"].as_str().unwrap().parse().unwrap();
        assert!(std::net::TcpStream::connect(address).is_err(), "something still listens at {address}");
    }
}

#[test]
fn a_killed_dev_takes_its_nodes_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("cluster");
    let mut dev = Command::new(binary())
        .args(["dev", "--dir", dir.to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pids = wait_for(Duration::from_secs(60), || {
        let text = std::fs::read(dir.join("dev.json")).ok()?;
        let file: serde_json::Value = serde_json::from_slice(&text).ok()?;
        let nodes = file["nodes"].as_array()?;
        nodes.iter().map(|node| node["pid"].as_u64()).collect::<Option<Vec<u64>>>()
    });
    assert_eq!(pids.len(), 3);
    dev.kill().unwrap();
    dev.wait().unwrap();
    for pid in pids {
        wait_for(Duration::from_secs(10), || (!runs(pid)).then_some(()));
    }
}

/// Is there a process of ours with this id? A zombie waits for its reaper and runs no more.
fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    stat.contains("(okno") && state.is_some_and(|state| state != 'Z')
}

fn wait_for<T>(within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "not within {within:?}");
        std::thread::sleep(okno_tests::POLL);
    }
}
