//! A channel, cases that ask it, and connectors that speak the wire themselves: for tests and drills.

use crate::harness::cluster::{Cluster, Pair};
use crate::harness::desk::{self, Desk};
use crate::harness::pki::{self, Leaf};
use crate::harness::{eventually, people};
use okno_client::{CallError, v1 as proto};
use proto::advance_case_request::Step;
use proto::attach_connector_request::Message as Up;
use proto::attach_connector_response::Message as Down;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

pub const SOON: Duration = Duration::from_secs(30);
pub const CHANNEL: &str = "egrn";
/// The connectors that its settings name.
pub const CONNECTORS: [&str; 2] = ["egrn-1", "egrn-2"];
/// What nodes are told of heartbeats on streams of connectors: short, so that tests and drills are.
pub const HEARTBEAT_MS: u32 = 1_000;
/// Kinds of documents without which a case of [`people::SERVICE`] is not accepted.
const DOCUMENTS: [&str; 3] = ["application", "passport", "title"];

/// What of the channel's settings a test chooses.
pub struct Policy {
    pub ack_ms: u32,
    pub work_ms: u32,
    pub attempts: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { ack_ms: 10_000, work_ms: 60_000, attempts: 8 }
    }
}

pub fn module(policy: &Policy) -> String {
    let Policy { ack_ms, work_ms, attempts } = policy;
    format!(
        r#"format = 1
[channel]
code = "{CHANNEL}"
title = {{ ru = "ЕГРН", en = "Land register" }}
connectors = ["egrn-1", "egrn-2"]
[channel.lease]
ack_ms = {ack_ms}
work_ms = {work_ms}
[channel.retry]
attempts = {attempts}
base_ms = 20
max_ms = 50
[channel.breaker]
failures = 0
[[process]]
service = "{service}"
[[process.ask]]
code = "extract"
title = {{ ru = "Выписка", en = "Extract" }}
requests = [{{ channel = "{CHANNEL}", kind = "extract" }}]
[[process.ask]]
code = "side"
title = {{ ru = "Справка", en = "Note" }}
requests = [{{ channel = "{CHANNEL}", kind = "note" }}]
blocking = false
"#,
        service = people::SERVICE,
    )
}

pub fn install(text: &str) -> proto::InstallModuleRequest {
    proto::InstallModuleRequest { meta: None, path: "egrn.toml".into(), text: text.into(), dry_run: false }
}

/// A certificate of kind connector.
pub fn certificate(cluster: &Cluster, id: &str) -> Pair {
    let uri = format!("okno://{}/connector/{id}", cluster.file.cluster);
    let leaf = Leaf::client(&uri, pki::fresh_serial());
    cluster.authority("clients").issue(cluster.scratch(), &format!("connector-{id}"), &leaf)
}

/// The calls of a connector, to any node.
pub fn connector(cluster: &Cluster, id: &str) -> Desk {
    cluster.desk_with(&certificate(cluster, id))
}

/// As [`connector`], to one node only.
pub fn connector_at(cluster: &Cluster, node: u64, id: &str) -> Desk {
    Desk::connect(&cluster.file, &certificate(cluster, id), std::iter::once(cluster.entry(node)))
}

// ---- What cases ask ----

pub fn ask(case: &str, code: &str, body: &[u8]) -> proto::AskChannelsRequest {
    proto::AskChannelsRequest {
        meta: None,
        case_id: case.into(),
        code: code.into(),
        bodies: vec![proto::AskBody {
            subject: "Выписка".into(),
            key: String::new(),
            body: body.to_vec().into(),
        }],
    }
}

/// An accepted case.
pub async fn accepted_case(officer: &Desk, visitor: u32) -> Result<String, CallError> {
    let case = officer.open(visitor).await?;
    for (number, kind) in (1..).zip(DOCUMENTS) {
        let mut document = desk::document(&case, &format!("д-{number}"));
        document.kind = kind.into();
        officer.call(document).await?;
    }
    officer.step(&case, Step::Accept(proto::AcceptStep {})).await?;
    Ok(case)
}

/// What a case sends: it says whose it is.
pub fn body_of(case: &str) -> Vec<u8> {
    format!("запрос по делу {case}").into_bytes()
}

/// An accepted case that has asked, with a body of its own.
pub async fn case_that_asks(
    officer: &Desk,
    visitor: u32,
    code: &str,
) -> Result<(String, Vec<u8>), CallError> {
    let case = accepted_case(officer, visitor).await?;
    let body = body_of(&case);
    officer.call(ask(&case, code, &body)).await?;
    Ok((case, body))
}

pub async fn exchanges(officer: &Desk, case: &str) -> Result<proto::ListExchangesResponse, CallError> {
    officer.call(proto::ListExchangesRequest { case_id: case.into(), read: None }).await
}

pub async fn figures(admin: &Desk) -> Result<proto::ChannelFigures, CallError> {
    let request = proto::ShowChannelRequest { channel: CHANNEL.into(), read: None };
    Ok(admin.call(request).await?.figures.expect("a channel has figures"))
}

/// The good answer: what was sent, turned round.
pub use crate::programs::connector::turned_round as answer_to;

// ---- A connector that speaks the wire itself ----

pub struct Raw {
    pub up: mpsc::Sender<proto::AttachConnectorRequest>,
    pub down: tonic::Streaming<proto::AttachConnectorResponse>,
}

impl Raw {
    /// Attaches to whichever node the desk calls, and gives credit.
    pub async fn attach(desk: &Desk, instance: &str, credit: u32) -> Self {
        Self::try_attach(desk, instance, credit).await.expect("attached")
    }

    pub async fn try_attach(desk: &Desk, instance: &str, credit: u32) -> Result<Self, CallError> {
        Self::try_hello(desk, instance, credit, None).await
    }

    /// Attaches, and says what it has of before.
    pub async fn try_resume(
        desk: &Desk,
        instance: &str,
        credit: u32,
        has: &[&proto::Delivery],
    ) -> Result<Self, CallError> {
        let deliveries = has.iter().map(|delivery| name(delivery)).collect();
        Self::try_hello(desk, instance, credit, Some(proto::DeliveriesHeld { deliveries })).await
    }

    async fn try_hello(
        desk: &Desk,
        instance: &str,
        credit: u32,
        holds: Option<proto::DeliveriesHeld>,
    ) -> Result<Self, CallError> {
        let (up, outbound) = mpsc::channel(64);
        let hello = proto::ConnectorHello {
            channel: CHANNEL.into(),
            instance: instance.into(),
            software: "raw".into(),
            holds,
        };
        up.send(request(Up::Hello(hello))).await.expect("room");
        let down = desk.client.attach_connector(None, ReceiverStream::new(outbound)).await?;
        let mut raw = Self { up, down };
        match raw.next().await {
            Some(Down::Welcome(welcome)) => assert_eq!(welcome.heartbeat_interval_ms, HEARTBEAT_MS),
            other => panic!("no welcome: {other:?}"),
        }
        if credit > 0 {
            raw.say(Up::Credit(proto::ConnectorCredit { messages: credit, bytes: 0 })).await;
        }
        Ok(raw)
    }

    pub async fn say(&self, message: Up) {
        self.up.send(request(message)).await.expect("the stream is open");
    }

    /// The next message down; `None`: the stream ended. Heartbeats are sent meanwhile.
    pub async fn next(&mut self) -> Option<Down> {
        let mut beat = tokio::time::interval(Duration::from_millis(200));
        let until = tokio::time::Instant::now() + SOON;
        loop {
            tokio::select! {
                message = self.down.message() => {
                    return message.ok().flatten().map(|response| response.message.expect("a message"));
                }
                _ = beat.tick() => {
                    // A stream that has ended says so by its other half.
                    let _ended = self.up.try_send(request(Up::Heartbeat(proto::ConnectorHeartbeat { sequence: 1 })));
                }
                () = tokio::time::sleep_until(until) => panic!("nothing came within {SOON:?}"),
            }
        }
    }

    pub async fn delivery(&mut self) -> proto::Delivery {
        loop {
            match self.next().await.expect("the stream goes on") {
                Down::Delivery(delivery) => return delivery,
                Down::Heartbeat(_) | Down::State(_) => {}
                other => panic!("expected a delivery: {other:?}"),
            }
        }
    }

    pub async fn end_of_delivery(&mut self) -> proto::DeliveryEnd {
        loop {
            match self.next().await.expect("the stream goes on") {
                Down::End(end) => return end,
                Down::Heartbeat(_) | Down::State(_) => {}
                other => panic!("expected the end of a delivery: {other:?}"),
            }
        }
    }

    /// Why the stream ended.
    pub async fn end(mut self) -> tonic::Status {
        loop {
            match tokio::time::timeout(SOON, self.down.message()).await.expect("it ends in time") {
                Ok(Some(_)) => {}
                Ok(None) => return tonic::Status::ok("ended"),
                Err(status) => return status,
            }
        }
    }
}

pub fn request(message: Up) -> proto::AttachConnectorRequest {
    proto::AttachConnectorRequest { message: Some(message) }
}

pub fn name(delivery: &proto::Delivery) -> proto::DeliveryName {
    proto::DeliveryName { message_id: delivery.message_id.clone(), token: delivery.token.clone() }
}

pub fn acknowledge(delivery: &proto::Delivery) -> proto::AcknowledgeMessagesRequest {
    proto::AcknowledgeMessagesRequest { channel: CHANNEL.into(), deliveries: vec![name(delivery)] }
}

pub fn complete(delivery: &proto::Delivery, body: &[u8]) -> proto::Verdict {
    proto::Verdict {
        message_id: delivery.message_id.clone(),
        token: delivery.token.clone(),
        said: Some(proto::verdict::Said::Complete(proto::CompleteMessage {
            summary: "готово".into(),
            body: Some(body.to_vec().into()),
        })),
    }
}

pub fn settle(verdicts: Vec<proto::Verdict>) -> proto::SettleMessagesRequest {
    proto::SettleMessagesRequest {
        channel: CHANNEL.into(),
        instance: "raw".into(),
        verdicts,
        ..proto::SettleMessagesRequest::default()
    }
}

pub fn pull(messages: u32, wait_ms: u32) -> proto::PullMessagesRequest {
    proto::PullMessagesRequest {
        channel: CHANNEL.into(),
        instance: "raw".into(),
        messages,
        wait_ms,
        ..proto::PullMessagesRequest::default()
    }
}

/// The first message a puller gets.
pub async fn pulled(desk: &Desk) -> proto::Delivery {
    // A pull waits no longer than one attempt of a call lasts.
    eventually("a message is pulled", SOON, async || {
        let answer = desk.call(pull(1, 20_000)).await.expect("a pull");
        answer.deliveries.into_iter().next().ok_or(answer.state)
    })
    .await
}

/// Says a verdict of so many bytes past the client library, which would not send it; how it was refused.
pub async fn say_too_much(
    cluster: &Cluster,
    pair: &Pair,
    delivery: &proto::Delivery,
    bytes: usize,
) -> tonic::Status {
    let channel = desk::channel(&cluster.file, pair, &cluster.file.nodes[0]);
    let mut client =
        proto::connectors_client::ConnectorsClient::new(channel).max_encoding_message_size(2 * bytes);
    let mut request = settle(vec![complete(delivery, &vec![b'x'; bytes])]);
    request.meta = desk::meta(okno_client::new_request_id(), 1);
    client.settle_messages(request).await.expect_err("refused")
}

/// The reason of the status a stream ended with.
pub fn reason(status: &tonic::Status) -> String {
    okno_client::read_error(status).reason().to_owned()
}
