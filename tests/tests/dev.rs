//! `okno dev --once` as a developer runs it: it tells the story, finds everything, and leaves nothing behind.

use okno_tests::cluster::{alone, bare, binary, okno};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn the_story_ends_well_and_leaves_nothing_behind() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("cluster");
    let output = okno(&["dev", "--once", "--seed", "7", "--dir", dir.to_str().unwrap()]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    // The leader was killed, work went on, a workstation died, and every node was read.
    for text in [
        "убит (SIGKILL)",
        "следующая запись подтверждена через",
        "догнал остальных",
        "ничего дважды",
        "в архиве",
        "Табло: ",
        "за ним никого нет",
        "снова принимает",
        "спрашивает по каналу",
        "С первого раза не вышло",
        "попыток: 2",
        "хранятся байт в байт",
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

    // The same directory again: the nodes come back with what they had, and the story is told once more.
    let output = okno(&["dev", "--once", "--dir", dir.to_str().unwrap()]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
}

#[test]
fn a_cluster_that_stays_up_is_spoken_to_with_its_context_and_ends_with_ctrl_c() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("cluster");
    let log = directory.path().join("out.txt");
    let mut dev = bare(&binary())
        .args(["dev", "--dir", dir.to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&log).unwrap())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let told = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_for(Duration::from_secs(120), || told().contains("Кластер работает").then_some(()));
    let context = dir.join("oknoctl.toml");
    let oknoctl = |arguments: &[&str]| {
        let output = bare(&binary().with_file_name("oknoctl"))
            .args(["--config", context.to_str().unwrap(), "-o", "json"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str::<serde_json::Value>(&text)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    };
    // As an administrator and as an officer, with one file and nothing else said.
    oknoctl(&["status"]);
    oknoctl(&["member", "list"]);
    oknoctl(&["catalogue", "show"]);
    let listed = oknoctl(&["case", "list", "--office", "tikhaya"]);
    let case = listed["cases"][0]["case_id"].as_str().expect("the story's case").to_owned();
    let shown = oknoctl(&["case", "show", &case]);
    assert!(shown.to_string().contains("ARCHIVED"), "{shown}");
    oknoctl(&["queue", "ticket", "--office", "tikhaya", "--purpose", "apply"]);
    oknoctl(&["transfer-leader"]);

    okno_tests::cluster::signal_process(&dev, libc::SIGINT);
    let status = wait_for(Duration::from_secs(60), || dev.try_wait().unwrap());
    assert!(status.success(), "{status}: {}", told());
    let file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("dev.json")).unwrap()).unwrap();
    assert_eq!(file["pid"], serde_json::Value::Null);
}

#[test]
fn a_killed_dev_takes_its_nodes_with_it() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("cluster");
    let mut dev = bare(&binary())
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
