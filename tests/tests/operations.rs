//! Seeing a cluster as operators do: figures, health, alarms, what is logged, and a support bundle that tells nothing
//! about people.

use okno_client::v1 as proto;
use okno_ops::exposition::{Exposition, Kind};
use okno_tests::{
    cluster::{Cluster, bare, binary},
    eventually, http, people,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

/// Who was not heard for 10 s counts as unheard.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

/// Runs `oknoctl` as the administrator of this cluster.
fn oknoctl(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut command = bare(&binary().with_file_name("oknoctl"));
    command.arg("--config").arg(&cluster.file.context).args(arguments);
    command.output().expect("oknoctl runs")
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Somebody who exists nowhere, and can be looked for.
fn recognisable() -> proto::Applicant {
    let mut person = people::person(4_242);
    person.name = Some(proto::PersonName {
        last_name: "Узнаваемский".into(),
        first_name: "Выдуман".into(),
        middle_name: "Нигдеевич".into(),
    });
    person.contact = Some(proto::Contact { phone: "+79005550123".into(), ..proto::Contact::default() });
    proto::Applicant { kind: Some(proto::applicant::Kind::Person(person)) }
}

fn request() -> proto::OpenCaseRequest {
    proto::OpenCaseRequest {
        office: people::QUIET_OFFICE.into(),
        service: people::SERVICE.into(),
        applicants: vec![recognisable()],
        ..proto::OpenCaseRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_shows_exactly_what_is_described() {
    let cluster = Cluster::start(3).await;
    cluster.officer().open(1).await.expect("a case");
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md"))
        .expect("docs/metrics.md");
    let published: BTreeMap<&str, &str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|rest| {
            let (name, rest) = rest.split_once("` | ")?;
            Some((name, rest.split(' ').next()?))
        })
        .collect();
    let mut shown: BTreeSet<String> = BTreeSet::new();
    let mut wrong: BTreeSet<String> = BTreeSet::new();
    for node in cluster.ids() {
        let answer = http::get(cluster.entry(node).health, "/metrics").await.expect("figures");
        let (_, text) = answer.split_once("\r\n\r\n").expect("a body");
        let found = Exposition::parse(text).unwrap_or_else(|error| panic!("node {node}: {error}"));
        for (name, family) in &found.families {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            if published.get(name.as_str()).copied() != Some(kind) {
                wrong.insert(format!("{name} {kind}"));
                continue;
            }
            assert!(
                family.help.len() > 3 && !family.help.contains("Not described"),
                "{name}: {}",
                family.help
            );
            // Values of labels are words of the program or small numbers, and there are few of them.
            assert!(family.samples.len() <= 2_500, "{name} has {} samples", family.samples.len());
            for (_, labels, _) in &family.samples {
                for (label, value) in labels {
                    let ids = label != "le" && value.len() >= 32 && !value.starts_with("/");
                    assert!(value.is_ascii() && !ids, "{name}{{{label}=\"{value}\"}} looks like an id");
                }
            }
        }
        shown.extend(found.families.into_keys());
    }
    assert!(wrong.is_empty(), "docs/metrics.md says otherwise of {wrong:#?}");
    // What every node has, whatever it is configured for.
    for area in
        ["okno_cluster_", "okno_runtime_", "okno_storage_rocksdb_", "okno_queue_", "okno_call", "process_"]
    {
        for name in published.keys().filter(|name| name.starts_with(area)) {
            assert!(shown.contains(*name), "{name} is described and no node shows it");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_alarms_and_top_tell_of_a_lost_node() {
    let mut cluster = Cluster::start(3).await;
    let whole = oknoctl(&cluster, &["health", "-o", "json"]);
    assert_done(&whole);
    assert_eq!(json(&whole)["healthy"], true);
    let checks = &json(&whole)["nodes"][0]["health"]["ready_checks"];
    assert!(
        checks.as_array().is_some_and(|checks| checks.iter().any(|check| check["name"] == "leader")),
        "{checks}"
    );

    let top = oknoctl(&cluster, &["top", "--once", "--every", "300ms", "-o", "json"]);
    assert_done(&top);
    let view = json(&top);
    assert_eq!(view["nodes"].as_array().map(Vec::len), Some(3), "{view}");
    assert!(view["leader"].as_u64().is_some_and(|leader| leader > 0), "{view}");
    assert!(
        view["nodes"].as_array().expect("rows").iter().all(|row| row["memory_bytes"].is_number()),
        "{view}"
    );

    let lost = cluster.follower().await;
    cluster.kill(lost);
    let sick = oknoctl(&cluster, &["health"]);
    assert_eq!(sick.status.code(), Some(1), "{}", String::from_utf8_lossy(&sick.stdout));
    let () = eventually("both survivors tell of it", SEEN_WITHIN, async || {
        let asked = Instant::now();
        let list = json(&oknoctl(&cluster, &["alarm", "list", "-o", "json"]));
        let alarms = list["alarms"].as_array().cloned().unwrap_or_default();
        let of =
            |alarm: &serde_json::Value| alarm["kind"] == "MEMBER_DOWN" && alarm["runbook"] == "member-down";
        let tellers = alarms.iter().filter(|alarm| of(alarm)).count();
        let unheard = list["unheard"].as_array().is_some_and(|nodes| nodes.iter().any(|node| *node == lost));
        (tellers == 2 && unheard).then_some(()).ok_or_else(|| format!("after {:?}: {list}", asked.elapsed()))
    })
    .await;
    cluster.start_node(lost);
    cluster.wait_ready().await;
    let () = eventually("it clears by itself", SEEN_WITHIN, async || {
        let list = json(&oknoctl(&cluster, &["alarm", "list", "-o", "json"]));
        let standing =
            list["alarms"].as_array().is_some_and(|alarms| alarms.iter().any(|a| a["kind"] == "MEMBER_DOWN"));
        (!standing).then_some(()).ok_or_else(|| list.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_logged_can_be_changed_for_a_while_by_an_administrator() {
    let cluster = Cluster::start(3).await;
    let filter_of = |output: &Output| json(output)["nodes"][0]["log"]["filter"].as_str().map(str::to_owned);
    let before = filter_of(&oknoctl(&cluster, &["log-level", "get", "-o", "json"]));
    let set =
        oknoctl(&cluster, &["log-level", "set", "info,okno::request=debug", "--for", "1h", "-o", "json"]);
    assert_done(&set);
    assert_eq!(filter_of(&set).as_deref(), Some("info,okno::request=debug"));
    cluster.officer().open(7).await.expect("a case");
    let logged =
        |cluster: &Cluster| cluster.ids().into_iter().any(|node| cluster.log(node).contains("okno::request"));
    let () = eventually("requests are logged now", SEEN_WITHIN, async || {
        logged(&cluster).then_some(()).ok_or("nothing was logged")
    })
    .await;
    assert_done(&oknoctl(&cluster, &["log-level", "set", "info,okno::request=debug", "--for", "1s"]));
    let () = eventually("it returns by itself", SEEN_WITHIN, async || {
        let now = filter_of(&oknoctl(&cluster, &["log-level", "get", "-o", "json"]));
        if now == before { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;

    let bad = oknoctl(&cluster, &["log-level", "set", "okno=shouting=x"]);
    assert_eq!(bad.status.code(), Some(1), "{}", String::from_utf8_lossy(&bad.stderr));
    // An officer may not, and both are in the security log.
    let denied = cluster.officer().call(proto::SetLogFilterRequest::default()).await.expect_err("denied");
    assert_eq!(denied.reason(), "METHOD_NOT_ALLOWED");
    let () = eventually("both are recorded", SEEN_WITHIN, async || {
        let texts: String = cluster
            .ids()
            .into_iter()
            .map(|node| {
                std::fs::read_to_string(cluster.entry(node).data.join("security.log")).unwrap_or_default()
            })
            .collect();
        let both = texts.contains("log filter info,okno::request=debug") && texts.contains("SetLogFilter");
        both.then_some(()).ok_or("not recorded yet")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_support_bundle_tells_nothing_about_people() {
    let cluster = Cluster::start(3).await;
    // Everything that is logged at all is logged now.
    assert_done(&oknoctl(&cluster, &["log-level", "set", "debug"]));
    let officer = cluster.officer();
    let opened = officer.call(request()).await.expect("a case");
    officer.add(&opened.case_id, "45 00 123456").await.expect("a document");
    // A refusal and a read show their arguments where they show any.
    let mut wrong = request();
    if let Some(proto::applicant::Kind::Person(person)) = &mut wrong.applicants[0].kind {
        person.snils = "999-004-242 00".into();
    }
    officer.call(wrong).await.expect_err("check digits are wrong");
    let admin = cluster.admin();
    admin.case(&opened.case_id).await.expect("read");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bundle.tar.gz");
    let path = file.to_str().expect("UTF-8");
    assert_done(&oknoctl(&cluster, &["support-bundle", "--file", path]));
    assert_eq!(
        oknoctl(&cluster, &["support-bundle", "--file", path]).status.code(),
        Some(2),
        "never overwritten"
    );

    let packed = std::fs::File::open(&file).expect("written");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed));
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a path").display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("whole");
        files.insert(name, String::from_utf8_lossy(&bytes).into_owned());
    }
    for node in 1..=3 {
        for part in [
            "status.json",
            "health.json",
            "digests.json",
            "about.txt",
            "settings.toml",
            "metrics.txt",
            "log.jsonl",
            "rocksdb.txt",
            "threads.txt",
            "process.txt",
        ] {
            let text = files.get(&format!("okno-support/node-{node}/{part}"));
            assert!(text.is_some_and(|text| !text.is_empty()), "node {node}: {part} of {:?}", files.keys());
        }
    }
    assert!(files["okno-support/README.txt"].contains("What it does not contain"));
    assert!(files.values().any(|text| text.contains("rocksdb")), "there is something in it");
    let snils = people::snils(4_242);
    let digits: String = snils.chars().filter(char::is_ascii_digit).collect();
    for personal in [
        "Узнаваемский",
        "Выдуман",
        "Нигдеевич",
        "79005550123",
        "9005550123",
        "45 00 123456",
        "999-004-242",
        &snils,
        &digits,
        "PRIVATE KEY",
    ] {
        for (name, text) in &files {
            assert!(!text.contains(personal), "{name} has {personal}");
        }
    }
}
