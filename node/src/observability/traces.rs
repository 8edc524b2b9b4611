//! Spans of calls for a collector of traces (OpenTelemetry, OTLP over gRPC): one where a call comes in, and one on the leader
//! when it was forwarded, both under the caller's `traceparent` if it sent one.
//!
//! A collector that is down or slow costs spans and nothing else: a span that ends goes into a bounded queue or is dropped
//! and counted, one task sends batches, each within [`EXPORT_WITHIN`], and no call ever waits for it.
//!
//! A span tells the method, how the call ended, the kind of its caller and the node. No id of a person, a case or a request:
//! what is in a trace has left the cluster.

use crate::settings::TracingSection;
use anyhow::{Context as _, Result};
use http::HeaderValue;
use opentelemetry::{
    Context, KeyValue,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
        TraceState, TracerProvider as _,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Spans that wait to be sent: some seconds of a busy node at full sampling, a few megabytes.
const QUEUE_MAX: usize = 8_192;
/// Spans sent together.
const BATCH_MAX: usize = 512;
/// A batch that is not full leaves after this.
const BATCH_EVERY: Duration = Duration::from_secs(1);
/// A collector that takes longer gets the next batch instead.
const EXPORT_WITHIN: Duration = Duration::from_secs(3);
/// What the last batch may take when the node stops.
const FINISH_WITHIN: Duration = Duration::from_secs(1);
/// Longest `traceparent` that is looked at; the form we know has 55 characters.
pub const TRACEPARENT_MAX: usize = 128;

/// Figures for metrics.
#[derive(Debug, Default)]
pub struct Figures {
    sent: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl Figures {
    pub fn list(&self) -> Vec<(&'static str, f64)> {
        let of = |counter: &AtomicU64| counter.load(Relaxed) as f64;
        vec![
            ("spans_sent_total", of(&self.sent)),
            ("spans_dropped_total", of(&self.dropped)),
            ("spans_failed_total", of(&self.failed)),
        ]
    }
}

/// Where ended spans go: the queue, or nowhere.
#[derive(Debug)]
struct Queue {
    send: mpsc::Sender<SpanData>,
    figures: Arc<Figures>,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.send.try_send(span).is_err() {
            self.figures.dropped.fetch_add(1, Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

struct On {
    tracer: SdkTracer,
    // Spans hold it weakly.
    _provider: SdkTracerProvider,
    stop: CancellationToken,
    task: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

/// Makes spans. Off, it makes none, and the caller's trace context goes on as it came.
#[derive(Default)]
pub struct Traces {
    on: Option<On>,
    figures: Arc<Figures>,
}

impl Traces {
    /// Must be called within a tokio runtime.
    pub fn start(settings: &TracingSection, cluster: &str, node: u64) -> Result<Self> {
        let endpoint = &settings.otlp_endpoint;
        if endpoint.is_empty() {
            return Ok(Self::default());
        }
        let mut exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_WITHIN)
            .build()
            .with_context(|| format!("tracing.otlp_endpoint {endpoint}"))?;
        let attributes = [
            KeyValue::new("service.name", "okno"),
            KeyValue::new("service.namespace", cluster.to_owned()),
            KeyValue::new("service.instance.id", node.to_string()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ];
        let resource = Resource::builder_empty().with_attributes(attributes).build();
        exporter.set_resource(&resource);
        let figures = Arc::new(Figures::default());
        let (send, queue) = mpsc::channel(QUEUE_MAX);
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Queue { send, figures: figures.clone() })
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        let stop = CancellationToken::new();
        let task = tokio::spawn(export(queue, exporter, figures.clone(), stop.clone()));
        let tracer = provider.tracer("okno");
        let on = On { tracer, _provider: provider, stop, task: parking_lot::Mutex::new(Some(task)) };
        Ok(Self { on: Some(on), figures })
    }

    pub fn figures(&self) -> Arc<Figures> {
        self.figures.clone()
    }

    /// A call came in.
    pub fn call(
        &self,
        method: &'static str,
        caller: &'static str,
        parent: Option<&HeaderValue>,
    ) -> Option<CallSpan> {
        let on = self.on.as_ref()?;
        let (service, name) = method.trim_start_matches('/').split_once('/').unwrap_or(("", method));
        let attributes = [
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", service),
            KeyValue::new("rpc.method", name),
            KeyValue::new("okno.caller.kind", caller),
        ];
        let builder = SpanBuilder::from_name(method.trim_start_matches('/'))
            .with_kind(SpanKind::Server)
            .with_attributes(attributes);
        let parent = parent.and_then(|value| value.to_str().ok()).unwrap_or_default();
        Some(CallSpan(builder.start_with_context(&on.tracer, &context_of(parent))))
    }

    /// The leader carries out what another node received. Without a trace there is nothing to add to.
    pub fn forwarded(&self, from: u64, parent: &str) -> Option<CallSpan> {
        let on = self.on.as_ref()?;
        remote(parent)?;
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        let builder = SpanBuilder::from_name("okno.forwarded")
            .with_kind(SpanKind::Server)
            .with_attributes([KeyValue::new("okno.from.node", from)]);
        Some(CallSpan(builder.start_with_context(&on.tracer, &context_of(parent))))
    }

    /// Sends what waits, within a bound.
    pub async fn finish(&self) {
        let Some(on) = &self.on else { return };
        on.stop.cancel();
        let task = on.task.lock().take();
        if let Some(task) = task
            && tokio::time::timeout(FINISH_WITHIN, task).await.is_err()
        {
            tracing::debug!("the last spans were not taken in time");
        }
    }
}

/// The span of a call under way; dropped, it ends as cancelled.
pub struct CallSpan(Span);

impl CallSpan {
    /// For what follows from the call.
    pub fn traceparent(&self) -> String {
        let context = self.0.span_context();
        let flags = context.trace_flags().to_u8();
        format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id())
    }

    /// How the call ended, as a gRPC code.
    pub fn end(mut self, code: u8) {
        self.0.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(code)));
        // What the server is to blame for: unknown, deadline, unimplemented, internal, unavailable, data loss.
        if matches!(code, 2 | 4 | 12 | 13 | 14 | 15) {
            self.0.set_status(Status::error(""));
        }
        self.0.end();
    }

    /// The leader has answered.
    pub fn done(mut self) {
        self.0.end();
    }
}

/// Reads a W3C trace context; a form that is not ours is no context.
fn remote(traceparent: &str) -> Option<SpanContext> {
    if traceparent.len() > TRACEPARENT_MAX {
        return None;
    }
    let mut fields = traceparent.split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let hexadecimal = |text: &str, length| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    if !hexadecimal(version, 2) || version == "ff" || (version == "00" && fields.next().is_some()) {
        return None;
    }
    if !hexadecimal(trace, 32) || !hexadecimal(span, 16) || !hexadecimal(flags, 2) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        flags,
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

fn context_of(traceparent: &str) -> Context {
    match remote(traceparent) {
        Some(parent) => Context::new().with_remote_span_context(parent),
        None => Context::new(),
    }
}

/// Sends batches until the node stops. What cannot be sent is given up: the next batch is newer.
async fn export(
    mut queue: mpsc::Receiver<SpanData>,
    exporter: SpanExporter,
    figures: Arc<Figures>,
    stop: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut well = true;
    loop {
        let until = tokio::time::Instant::now() + BATCH_EVERY;
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            tokio::select! {
                biased;
                took = queue.recv_many(&mut batch, room) => if took == 0 { break },
                () = tokio::time::sleep_until(until) => break,
                () = stop.cancelled() => break,
            }
        }
        if !batch.is_empty() {
            let count = batch.len() as u64;
            let sent = tokio::time::timeout(EXPORT_WITHIN, exporter.export(std::mem::take(&mut batch))).await;
            let fault = match sent {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {EXPORT_WITHIN:?}")),
            };
            let counter = if fault.is_none() { &figures.sent } else { &figures.failed };
            counter.fetch_add(count, Relaxed);
            // Once, not with every batch.
            match &fault {
                Some(reason) if well => tracing::warn!(reason, "the collector of traces does not take spans"),
                None if !well => tracing::info!("the collector of traces takes spans again"),
                _ => {}
            }
            well = fault.is_none();
        }
        // A node that stops gives what waits one more chance, not a collector that hangs.
        if queue.is_empty() && (stop.is_cancelled() || queue.is_closed()) || stop.is_cancelled() && !well {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn settings(endpoint: &str) -> TracingSection {
        TracingSection { otlp_endpoint: endpoint.to_owned(), sample_ratio: 1.0 }
    }

    #[test]
    fn only_whole_trace_contexts_are_taken() {
        assert!(remote(PARENT).is_some_and(|context| context.is_sampled()));
        assert!(remote(&PARENT.replace("-01", "-00")).is_some_and(|context| !context.is_sampled()));
        let later = format!("{}-more", PARENT.replacen("00", "cc", 1));
        assert!(remote(&later).is_some(), "a later version may say more");
        for bad in [
            "".to_owned(),
            "00".to_owned(),
            PARENT.replacen("00", "ff", 1),
            PARENT.replace("4bf9", "4BF9"),
            PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            PARENT.replace("00f067aa0ba902b7", "0000000000000000"),
            PARENT.replace("4bf9", "4bf"),
            format!("{PARENT}-more"),
            PARENT.replace("4bf9", "\u{44f}\u{44f}"),
            "0".repeat(TRACEPARENT_MAX + 1),
        ] {
            assert!(remote(&bad).is_none(), "{bad}");
        }
    }

    #[tokio::test]
    async fn off_it_makes_nothing_and_on_it_goes_on_with_the_callers_trace() {
        let off = Traces::start(&TracingSection::default(), "region", 1).expect("off");
        assert!(off.call("/okno.v1.CaseService/GetCase", "operator", None).is_none());
        // Nobody listens there.
        let on = Traces::start(&settings("http://127.0.0.1:9"), "region", 1).expect("on");
        let parent = HeaderValue::from_static(PARENT);
        let span = on.call("/okno.v1.CaseService/GetCase", "operator", Some(&parent)).expect("a span");
        let own = span.traceparent();
        assert!(own.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && own.ends_with("-01"), "{own}");
        assert_ne!(own, PARENT, "the span's own id");
        let follows = on.forwarded(2, &own).expect("a span");
        assert_eq!(follows.traceparent()[..35], own[..35]);
        assert!(on.forwarded(2, "nonsense").is_none());
        follows.done();
        span.end(0);
        on.finish().await;
        assert_eq!(on.figures.failed.load(Relaxed), 2, "nobody took them, and that is all");
    }

    /// A collector that takes connections and never answers: calls go on at their speed, memory is bounded, and what does
    /// not fit is counted.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_collector_that_hangs_slows_nobody() {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let endpoint = format!("http://{}", socket.local_addr().expect("bound"));
        let hang = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((connection, _)) = socket.accept().await {
                held.push(connection);
            }
        });
        let on = Traces::start(&settings(&endpoint), "region", 1).expect("on");
        let calls = 3 * QUEUE_MAX;
        let began = Instant::now();
        for _ in 0..calls {
            on.call("/okno.v1.CaseService/GetCase", "operator", None).expect("a span").end(0);
        }
        let took = began.elapsed();
        eprintln!("{calls} spans in {took:?}, {:?} each", took / u32::try_from(calls).expect("few"));
        let of = |counter: &AtomicU64| usize::try_from(counter.load(Relaxed)).expect("few");
        let dropped = of(&on.figures.dropped);
        assert!(
            dropped >= calls - QUEUE_MAX - 4 * BATCH_MAX,
            "{dropped} were dropped: the queue has a bound"
        );
        on.finish().await;
        assert!(
            of(&on.figures.sent) == 0 && began.elapsed() < took + EXPORT_WITHIN * 2,
            "the end waits for nobody"
        );
        hang.abort();
    }
}
