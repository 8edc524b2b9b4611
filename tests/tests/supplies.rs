//! Power: what a supply says reaches people, and a node whose battery will not last leaves cleanly and comes back by
//! itself (R-R3, R-R4). Needs Debian's nut-server. And systemd: readiness, and a watchdog fed by the node's progress.

use okno_client::v1 as proto;
use okno_drills::harness::ups::{HeldThread, Supplies};
use okno_tests::cluster::Cluster;
use okno_tests::plan::Launch;
use okno_tests::station::Station;
use okno_tests::{eventually, http, people};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);
/// A node that was told to leave ends what was begun, hands over, drains and flushes.
const LEAVES_WITHIN: Duration = Duration::from_secs(60);

async fn ready(cluster: &Cluster, node: u64) -> String {
    http::get(cluster.entry(node).health, "/readyz?verbose").await.unwrap_or_default()
}

#[tokio::test]
async fn a_mains_loss_is_told_everywhere_and_a_low_battery_ends_the_node_cleanly() {
    let supplies = Supplies::start(&["u1"]).await;
    let mut cluster = Cluster::prepare(3);
    for (key, value) in [("steady", "3s"), ("confirm", "1s"), ("finish_within", "10s")] {
        cluster.set_of(1, "power", key, value);
    }
    let mark = cluster.scratch().join("switched-off");
    let mark_text = mark.to_str().expect("temporary folders have plain names");
    cluster.set_of(
        1,
        "power",
        "shutdown_command",
        toml::Value::Array(vec!["/bin/touch".into(), mark_text.into()]),
    );
    supplies.feed(&cluster, 1, &["u1"]);
    cluster.start_all();
    cluster.wait_ready().await;
    cluster.fill().await;
    let case = cluster.officer().open(1).await.expect("opened");

    // Mains is lost at node 1: a workstation at node 2 hears of it, in Russian.
    let mut station = Station::attach(&cluster, 2, "ws-tikhaya-3").await;
    let lost = Instant::now();
    supplies.say("u1", "OB DISCHRG", 97, 1_700);
    let notice = station.notice("ON_BATTERY", SOON).await;
    eprintln!("mains lost to the notice at a workstation of another node: {:?}", lost.elapsed());
    assert!(notice.text_ru.contains("батаре"), "{}", notice.text_ru);
    assert!(ready(&cluster, 1).await.contains("ON_BATTERY"));
    let metrics = http::get(cluster.entry(1).health, "/metrics").await.expect("metrics");
    assert!(metrics.contains("okno_power_on_battery 1"), "the metrics say so");

    // Mains is back: all clear.
    supplies.say("u1", "OL CHRG", 95, 1_700);
    station.notice("ALARM_OVER", SOON).await;

    // The battery is low: nothing new is begun, what was begun is completed, and the process leaves.
    supplies.say("u1", "OB LB", 7, 60);
    let officer = cluster.desk_at(1, "operator", people::OFFICER);
    let reason = eventually("intake stops", SOON, async || {
        match officer.once(okno_tests::desk::open(people::QUIET_OFFICE, 2)).await {
            Ok(_) => Err("a case was opened".to_owned()),
            Err(error) if error.reason() == "POWER_FAILING" => Ok(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    assert!(!reason.is_empty());
    officer.add(&case, "passport").await.expect("what was begun is completed");
    let status = cluster.ended(1, LEAVES_WITHIN).await.expect("the node leaves");
    assert!(status.success(), "it left with {status}");
    assert!(mark.exists(), "the machine is switched off after everything is on the disk");
    cluster.assert_verified(1);
    cluster.officer().open(3).await.expect("the others serve on");

    // Started again while mains is away it waits with its data closed; when mains is back it starts by itself.
    cluster.start_node(1);
    eventually("the start waits", SOON, async || {
        if cluster.log(1).contains("the start waits") { Ok(()) } else { Err("not yet") }
    })
    .await;
    assert_eq!(ready(&cluster, 1).await, "", "nothing is served meanwhile");
    supplies.say("u1", "OL CHRG", 15, 200);
    eventually("the node serves again", SOON * 2, async || {
        let said = ready(&cluster, 1).await;
        if said.contains("[+] phase ok") { Ok(()) } else { Err(said) }
    })
    .await;
    cluster.assert_running();

    // The replicated journal has it all, in order, for whoever asks later; the leader wrote it, whichever node that was.
    let admin = cluster.desk_at(2, "admin", "dev");
    let told = eventually("the journal has mains back", SOON, async || {
        let events = admin.client.call(proto::ListSystemEventsRequest::default()).await;
        let events = events.map_err(|error| error.to_string())?.response.events;
        let power: Vec<proto::JournalEvent> =
            events.into_iter().rev().filter(|event| event.kind == "power").collect();
        match power.last() {
            Some(last) if last.details.is_empty() && power.len() >= 4 => Ok(power),
            _ => Err(format!("{power:?}")),
        }
    })
    .await;
    let state = |event: &proto::JournalEvent| {
        let of = |name: &str| event.details.get(name).map(String::as_str).unwrap_or_default().to_owned();
        (of("on_battery"), of("failing"))
    };
    let states: Vec<(String, String)> = told.iter().map(state).collect();
    let (on, failing, mains) = (("1".into(), "".into()), ("".into(), "1".into()), ("".into(), "".into()));
    assert_eq!(states[..2], [on, mains.clone()], "{told:?}");
    assert!(states[2..].contains(&failing), "{told:?}");
    assert_eq!(states.last(), Some(&mains));
    assert!(told.iter().all(|event| event.actor.as_ref().is_some_and(|actor| actor.kind == "node")));
    assert!(told[0].text.starts_with("power: node 1: on battery"), "{}", told[0].text);
}

/// What a node tells systemd, with the time it was heard.
struct Listener {
    socket: UnixDatagram,
}

impl Listener {
    /// The next message that holds this line, or `None` after a while.
    async fn hear(&self, line: &str, within: Duration) -> Option<Instant> {
        let until = Instant::now() + within;
        while Instant::now() < until {
            let mut bytes = [0; 4096];
            match self.socket.recv(&mut bytes) {
                Ok(read) => {
                    let text = String::from_utf8_lossy(&bytes[..read]);
                    if text.lines().any(|said| said.starts_with(line)) {
                        return Some(Instant::now());
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(okno_tests::POLL).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        None
    }

    /// Forgets what was said so far.
    fn forget(&self) {
        let mut bytes = [0; 4096];
        while self.socket.recv(&mut bytes).is_ok() {}
    }
}

#[tokio::test]
async fn systemd_hears_that_the_node_is_ready_and_nothing_when_raft_stands_still() {
    let mut cluster = Cluster::prepare(1);
    let path = cluster.scratch().join("notify");
    let socket = UnixDatagram::bind(&path).expect("our own folder");
    socket.set_nonblocking(true).expect("a socket of ours");
    let listener = Listener { socket };
    let launch = Launch::by(["sh", "-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"])
        .env("NOTIFY_SOCKET", path.as_os_str())
        .env("WATCHDOG_USEC", "4000000");
    cluster.set_launch(1, launch);
    cluster.start_all();
    listener.hear("EXTEND_TIMEOUT_USEC=", SOON).await.expect("a start asks for patience");
    listener.hear("READY=1", SOON * 2).await.expect("READY comes");
    cluster.wait_ready().await;
    listener.hear("STATUS=serving", SOON).await.expect("a line for systemctl status");
    for _ in 0..3 {
        listener.hear("WATCHDOG=1", SOON).await.expect("the watchdog is fed");
    }

    // The raft thread stands still, the rest of the process runs.
    let held = HeldThread::hold(cluster.pid(1).expect("it runs"), "okno-raft").await;
    listener.hear("STATUS=standing still: the raft thread", SOON).await.expect("it is said");
    listener.forget();
    let fed = listener.hear("WATCHDOG=1", Duration::from_secs(6)).await;
    assert!(fed.is_none(), "a node whose raft thread stands still feeds the watchdog");
    let live = http::get(cluster.entry(1).health, "/livez").await.expect("the network threads turn");
    assert!(live.starts_with("HTTP/1.1 200"), "a stall of seconds is forgiven: {live}");

    // It goes on, and so does the feed.
    drop(held);
    listener.hear("WATCHDOG=1", SOON).await.expect("fed again");
    let status = cluster.terminate(1).await;
    assert!(status.success(), "{status}");
    listener.hear("STOPPING=1", Duration::from_secs(2)).await.expect("the end is said");
}
