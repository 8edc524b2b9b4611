//! Spans of calls reach a collector, one trace over both nodes that had a hand in a call; a collector that hangs costs spans
//! and nothing else.

use okno_tests::{cluster::Cluster, eventually, http};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const SOON: Duration = Duration::from_secs(30);
/// Far longer than a node gives a batch.
const PATIENCE_OF_NOBODY: Duration = Duration::from_secs(600);

/// A span as the collector got it.
#[derive(Debug, Clone)]
struct Seen {
    node: String,
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    attributes: BTreeMap<String, String>,
}

/// A collector that keeps what it gets, or takes it and never answers.
#[derive(Clone, Default)]
struct Collector {
    seen: Arc<Mutex<Vec<Seen>>>,
    hangs: bool,
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |of: &KeyValue| match of.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|of| (of.key.clone(), text(of))).collect()
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for from in request.into_inner().resource_spans {
            let node = texts(&from.resource.unwrap_or_default().attributes)
                .remove("service.instance.id")
                .unwrap_or_default();
            let spans = from.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.seen.lock().expect("never poisoned").extend(spans.map(|span| Seen {
                node: node.clone(),
                attributes: texts(&span.attributes),
                name: span.name,
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
            }));
        }
        if self.hangs {
            tokio::time::sleep(PATIENCE_OF_NOBODY).await;
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Serves on loopback as long as the test lasts; its address.
async fn serve(collector: Collector) -> String {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = format!("http://{}", socket.local_addr().expect("bound"));
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(socket)));
    address
}

async fn figure(cluster: &Cluster, node: u64, name: &str) -> f64 {
    let page = http::get(cluster.entry(node).health, "/metrics").await.expect("metrics");
    let line = page.lines().find(|line| line.starts_with(&format!("{name} ")));
    let value = line.and_then(|line| line.split_once(' ')).expect("the figure is there").1;
    value.trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_is_one_trace_over_both_nodes_and_a_collector_that_hangs_slows_nobody() {
    let (well, hanging) = (Collector::default(), Collector { hangs: true, ..Collector::default() });
    let (good, bad) = (serve(well.clone()).await, serve(hanging.clone()).await);
    let mut cluster = Cluster::prepare(3);
    cluster.set("tracing", "sample_ratio", 1.0);
    for node in cluster.ids() {
        cluster.set_of(node, "tracing", "otlp_endpoint", good.as_str());
    }
    cluster.start_all();
    cluster.wait_ready().await;
    cluster.fill().await;
    // A trace goes along with what is forwarded from the level on that all read it.
    for node in cluster.ids() {
        eventually("level 3", SOON, async || {
            let page = http::get(cluster.entry(node).health, "/metrics").await.map_err(|e| e.to_string())?;
            if page.contains("\nokno_cluster_feature_level 3\n") {
                Ok(())
            } else {
                Err("an older level".to_owned())
            }
        })
        .await;
    }
    let follower = cluster.follower().await;

    let officer = cluster.desk_at(follower, "operator", okno_tests::people::OFFICER);
    officer.open(1).await.expect("opened by way of a follower");
    let (received, forwarded) = eventually("both spans are at the collector", SOON, async || {
        let seen = well.seen.lock().expect("never poisoned").clone();
        let received = seen
            .iter()
            .find(|span| span.name == "okno.v1.CaseService/OpenCase" && span.node == follower.to_string())
            .ok_or("no span of the call")?;
        let forwarded = seen
            .iter()
            .find(|span| span.name == "okno.forwarded" && span.trace == received.trace)
            .ok_or("no span of the leader")?;
        Ok::<_, &str>((received.clone(), forwarded.clone()))
    })
    .await;
    assert_eq!(forwarded.parent, received.id, "the leader's span hangs on the follower's");
    assert_ne!(forwarded.node, follower.to_string(), "it was carried out by the leader");
    assert_eq!(received.attributes["rpc.grpc.status_code"], "0");
    assert_eq!(received.attributes["okno.caller.kind"], "operator");
    let told = format!("{:?}", well.seen.lock().expect("never poisoned"));
    assert!(!told.contains(okno_tests::people::OFFICER), "no ids of people");
    assert!(figure(&cluster, follower, "okno_traces_spans_sent_total").await > 0.0);

    // The same with a collector that hangs, on every node.
    for node in cluster.ids() {
        cluster.set_of(node, "tracing", "otlp_endpoint", bad.as_str());
        assert!(cluster.terminate(node).await.success());
        cluster.start_node(node);
        cluster.wait_ready().await;
    }
    let officer = cluster.officer();
    let began = Instant::now();
    let mut opened = 0_u32;
    while began.elapsed() < Duration::from_secs(8) {
        officer.open(100 + opened).await.expect("opened");
        opened += 1;
    }
    eprintln!(
        "{opened} cases one after another with a collector that hangs, {:?} each",
        began.elapsed() / opened
    );
    assert!(!hanging.seen.lock().expect("never poisoned").is_empty(), "it was asked");
    let mut failed = 0.0;
    for node in cluster.ids() {
        failed += figure(&cluster, node, "okno_traces_spans_failed_total").await;
    }
    assert!(failed > 0.0, "what it did not take is counted");
    cluster.assert_running();
    let asked = Instant::now();
    assert!(cluster.terminate(1).await.success(), "a node stops without its collector");
    eprintln!("a node stopped in {:?}", asked.elapsed());
}
