//! `measure-channel [MESSAGES]`: how many messages a second one channel moves with eight connectors, twice. One JSON object.
//!
//! - `backlog`: cases ask while the channel is paused, so that the backlog stands; then it is opened. Timed is from opening it
//!   to the last verdict that counted (`completed`) and to the last answer seen in its case (`answered`).
//! - `flow`: end to end. Connectors are at work when the cases begin to ask; timed is from the first request to the last answer
//!   seen in its case.
//!
//! Cases are opened and accepted beforehand. They ask for 16 messages a call, 128 a case; a connector is a loop that takes up to
//! 64 messages and settles them in the call that takes the next. It settles at once, so that it acknowledges nothing apart.
//! Eight cases at a time are read every tenth of a second meanwhile: that is the step of `answered`.
//!
//! That every message was answered once is checked, not assumed: no verdict counted twice, every request of every case is
//! `answered` with the body that was given for its message id, and the channel counts as many ends as there were messages.

use futures::StreamExt;
use okno_client::v1 as proto;
use okno_tests::{
    cluster::Cluster,
    desk::{self, Desk},
    eventually, people,
    pki::{self, Leaf},
    queue,
};
use proto::advance_case_request::Step;
use serde_json::{Value, json};
use std::{
    cell::Cell,
    collections::BTreeSet,
    fmt::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

const CHANNEL: &str = "measured";
const CONNECTORS: usize = 8;
/// Requests of one ask, and asks of one case: together as many requests as a case may have.
const REQUESTS: usize = 16;
const ASKS: usize = 4;
/// Bytes of a request's body, and of its answer.
const BODY: usize = 1_024;
/// Cases that ask at a time.
const ASKING: usize = 32;
/// Messages of one call: as many as it may take.
const A_CALL: usize = 64;
/// Cases that are looked at at a time, so that those at the end are not seen late one after the other.
const LOOKING: usize = 8;
/// Between two looks at a case.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Far beyond what it should take.
const WITHIN: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let messages = match std::env::args().nth(1).map_or(Ok(10_000), |text| text.parse::<usize>()) {
        Ok(messages) => messages,
        Err(error) => {
            eprintln!("measure-channel: {error}\nusage: measure-channel [MESSAGES]");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!("{:#}", runtime.block_on(measure(messages)));
    ExitCode::SUCCESS
}

fn module() -> String {
    let connectors: Vec<String> = (0..CONNECTORS).map(|n| format!("\"c-{n}\"")).collect();
    let mut text = format!(
        "format = 1\n[channel]\ncode = \"{CHANNEL}\"\ntitle = {{ ru = \"Замер\", en = \"Measured\" }}\nconnectors = [{}]\n\
         parallel = 1024\ndepth = 100000\n[[process]]\nservice = \"{}\"\n",
        connectors.join(", "),
        people::SERVICE
    );
    let requests = vec![format!("{{ channel = \"{CHANNEL}\", kind = \"k\" }}"); REQUESTS].join(", ");
    for n in 0..ASKS {
        // A string takes whatever is written to it.
        let _ = write!(
            text,
            "[[process.ask]]\ncode = \"ask-{n}\"\ntitle = {{ ru = \"Р\", en = \"R\" }}\nrequests = [{requests}]\n\
             blocking = false\n"
        );
    }
    text
}

async fn measure(messages: usize) -> Value {
    let cluster = Cluster::start(3).await;
    queue::levelled(&cluster).await;
    let admin = cluster.admin();
    let install =
        proto::InstallModuleRequest { path: "measured.toml".into(), text: module(), ..Default::default() };
    admin.call(install).await.expect("the module is installed");
    let workers: Vec<Desk> = (0..CONNECTORS)
        .map(|n| {
            let uri = format!("okno://{}/connector/c-{n}", cluster.file.cluster);
            let leaf = Leaf::client(&uri, pki::fresh_serial());
            let pair = cluster.authority("clients").issue(cluster.scratch(), &format!("c-{n}"), &leaf);
            cluster.desk_with(&pair)
        })
        .collect();
    let count = u32::try_from(messages.div_ceil(REQUESTS * ASKS)).expect("a small number");
    let backlog = backlog(&cluster, &workers, &accepted(&cluster, 0..count).await).await;
    let flow = flow(&cluster, &workers, &accepted(&cluster, count..2 * count).await).await;
    json!({
        "measurement": "channel",
        "messages": count as usize * REQUESTS * ASKS,
        "connectors": CONNECTORS,
        "body_bytes": BODY,
        "backlog": backlog,
        "flow": flow,
    })
}

/// Cases that may ask.
async fn accepted(cluster: &Cluster, visitors: std::ops::Range<u32>) -> Vec<String> {
    let officer = cluster.officer();
    let opened = futures::stream::iter(visitors).map(async |visitor| {
        let case = officer.open(visitor).await.expect("a case");
        for (number, kind) in (1..).zip(["application", "passport", "title"]) {
            let mut document = desk::document(&case, &format!("д-{number}"));
            document.kind = kind.into();
            officer.call(document).await.expect("a document");
        }
        officer.step(&case, Step::Accept(proto::AcceptStep {})).await.expect("accepted");
        case
    });
    opened.buffer_unordered(ASKING).collect().await
}

async fn backlog(cluster: &Cluster, workers: &[Desk], cases: &[String]) -> Value {
    let admin = cluster.admin();
    let pause = proto::PauseChannelRequest { channel: CHANNEL.into(), ..Default::default() };
    admin.call(pause).await.expect("paused");
    let before = figures(cluster, |f| f.live == 0).await;
    let expected = cases.len() * REQUESTS * ASKS;
    let begun = Instant::now();
    ask_all(cluster, cases).await;
    figures(cluster, |f| usize::try_from(f.live).is_ok_and(|live| live == expected)).await;
    let asked = begun.elapsed();

    let begun = Instant::now();
    let resume = proto::ResumeChannelRequest { channel: CHANNEL.into(), ..Default::default() };
    admin.call(resume).await.expect("resumed");
    let (worked, answered) = carried(cluster, workers, cases, async || {}).await;
    let mut told = outcome(cluster, &before, &worked, expected).await;
    told["asked_per_second"] = rate(expected, asked);
    told["completed_per_second"] = rate(expected, worked.last.expect("something was done") - begun);
    told["answered_per_second"] = rate(expected, answered - begun);
    told
}

async fn flow(cluster: &Cluster, workers: &[Desk], cases: &[String]) -> Value {
    let before = figures(cluster, |f| f.live == 0).await;
    let begun = Cell::new(Instant::now());
    let ask = async || {
        begun.set(Instant::now());
        ask_all(cluster, cases).await;
    };
    let (worked, answered) = carried(cluster, workers, cases, ask).await;
    let expected = cases.len() * REQUESTS * ASKS;
    let mut told = outcome(cluster, &before, &worked, expected).await;
    told["answered_per_second"] = rate(expected, answered - begun.get());
    told
}

/// Lets the connectors work beside something else until every request is answered; when the last answer was seen.
async fn carried(
    cluster: &Cluster,
    workers: &[Desk],
    cases: &[String],
    beside: impl AsyncFnOnce(),
) -> (Worked, Instant) {
    let (officer, over) = (cluster.officer(), Cell::new(false));
    let working = futures::future::join_all(workers.iter().map(|desk| work(desk, &over)));
    let watching = async {
        let looks = futures::stream::iter(cases)
            .for_each_concurrent(LOOKING, async |case| drop(all_answered(&officer, case).await));
        tokio::join!(beside(), looks);
        over.set(true);
        Instant::now()
    };
    let (worked, answered) = tokio::join!(working, watching);
    for case in cases {
        check_answers(&officer, case).await;
    }
    let mut all = Worked::default();
    for one in worked {
        all.calls += one.calls;
        all.last = all.last.max(one.last);
        for id in one.completed {
            assert!(all.completed.insert(id.clone()), "two verdicts on {id} counted");
        }
    }
    (all, answered)
}

/// What the channel says of it, once what is checked holds.
async fn outcome(
    cluster: &Cluster,
    before: &proto::ChannelFigures,
    worked: &Worked,
    expected: usize,
) -> Value {
    assert_eq!(worked.completed.len(), expected, "verdicts that counted");
    let after = figures(cluster, |f| f.live == 0).await;
    assert_eq!(
        (after.ended_total - before.ended_total, after.dead),
        (expected as u64, 0),
        "ends, dead letters"
    );
    json!({
        "calls": worked.calls,
        "handed_out": after.handed_total - before.handed_total,
        "failed": after.failed_total - before.failed_total,
        "not_acknowledged": after.unheard_total - before.unheard_total,
        "answered_once": expected,
    })
}

fn rate(messages: usize, time: Duration) -> Value {
    json!((messages as f64 / time.as_secs_f64()).round())
}

async fn ask_all(cluster: &Cluster, cases: &[String]) {
    let officer = cluster.officer();
    futures::stream::iter(cases)
        .for_each_concurrent(ASKING, async |case| {
            for n in 0..ASKS {
                let body = || proto::AskBody {
                    subject: "с".into(),
                    key: String::new(),
                    body: vec![b'q'; BODY].into(),
                };
                let request = proto::AskChannelsRequest {
                    case_id: case.clone(),
                    code: format!("ask-{n}"),
                    bodies: (0..REQUESTS).map(|_| body()).collect(),
                    ..Default::default()
                };
                officer.call(request).await.expect("asked");
            }
        })
        .await;
}

/// The answer to a message, which no other message has.
fn answer_to(message_id: &str) -> Vec<u8> {
    let mut body = message_id.as_bytes().to_vec();
    body.resize(BODY, b'.');
    body
}

/// Waits until all that a case asks for is answered.
async fn all_answered(officer: &Desk, case: &str) -> Vec<proto::CaseExchange> {
    let until = Instant::now() + WITHIN;
    loop {
        let request = proto::ListExchangesRequest { case_id: case.into(), read: None };
        let exchanges = officer.call(request).await.expect("its exchanges").exchanges;
        let answered = exchanges.iter().filter(|exchange| exchange.state == "answered").count();
        if answered == REQUESTS * ASKS {
            return exchanges;
        }
        assert!(Instant::now() < until, "{case}: {answered} answers within {WITHIN:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Every request of a case is there once, and its first and its last have their own answers.
async fn check_answers(officer: &Desk, case: &str) {
    let exchanges = all_answered(officer, case).await;
    let ids: BTreeSet<&str> = exchanges.iter().map(|exchange| exchange.message_id.as_str()).collect();
    assert_eq!((ids.len(), exchanges.len()), (REQUESTS * ASKS, REQUESTS * ASKS), "{case}: each once");
    for exchange in exchanges.iter().take(1).chain(exchanges.last()) {
        let request = proto::GetMessageBodyRequest {
            case_id: case.into(),
            body: exchange.received.clone(),
            read: None,
        };
        let read = officer.call(request).await.expect("the answer is kept");
        assert_eq!(read.body, answer_to(&exchange.message_id), "{}: its own answer", exchange.message_id);
    }
}

/// What one connector, or all of them, did.
#[derive(Default)]
struct Worked {
    calls: u64,
    /// When the last verdict counted.
    last: Option<Instant>,
    /// Messages whose verdict counted.
    completed: BTreeSet<String>,
}

/// Takes and completes until it is over.
async fn work(desk: &Desk, over: &Cell<bool>) -> Worked {
    let mut worked = Worked::default();
    let mut held = Vec::new();
    while !over.get() || !held.is_empty() {
        worked.calls += 1;
        if held.is_empty() {
            let pull = proto::PullMessagesRequest {
                channel: CHANNEL.into(),
                instance: "m".into(),
                messages: A_CALL as u32,
                wait_ms: 500,
                ..Default::default()
            };
            held = desk.call(pull).await.expect("a pull").deliveries;
            continue;
        }
        let said: Vec<proto::Delivery> = held.drain(..held.len().min(A_CALL)).collect();
        let verdicts = said.iter().map(|delivery| proto::Verdict {
            message_id: delivery.message_id.clone(),
            token: delivery.token.clone(),
            said: Some(proto::verdict::Said::Complete(proto::CompleteMessage {
                summary: String::new(),
                body: Some(answer_to(&delivery.message_id).into()),
            })),
        });
        let settle = proto::SettleMessagesRequest {
            channel: CHANNEL.into(),
            instance: "m".into(),
            verdicts: verdicts.collect(),
            take_messages: A_CALL as u32,
            ..Default::default()
        };
        let settled = desk.call(settle).await.expect("settled");
        for result in &settled.results {
            match result.reason.as_str() {
                "" => {
                    worked.last = Some(Instant::now());
                    let id = result.message_id.clone();
                    assert!(worked.completed.insert(id), "two verdicts on {} counted", result.message_id);
                }
                // Said again in the next call.
                "CALL_FULL" => {
                    held.extend(said.iter().filter(|one| one.message_id == result.message_id).cloned());
                }
                // Handed out anew, to whoever has it now; the channel's figures tell how often.
                "DELIVERY_LOST" | "LEASE_FOREIGN" | "MESSAGE_UNKNOWN" => {}
                other => panic!("{}: {other}", result.message_id),
            }
        }
        held.extend(settled.deliveries);
    }
    worked
}

async fn figures(cluster: &Cluster, holds: impl Fn(&proto::ChannelFigures) -> bool) -> proto::ChannelFigures {
    let admin = cluster.admin();
    eventually("the channel is so far", WITHIN, async || {
        let request = proto::ShowChannelRequest { channel: CHANNEL.into(), read: None };
        let shown = admin.call(request).await.map_err(|error| error.to_string())?;
        let figures = shown.figures.ok_or("no figures")?;
        if holds(&figures) { Ok(figures) } else { Err(format!("{figures:?}")) }
    })
    .await
}
