//! Figures for Prometheus. Labels are methods, codes and names fixed in the program; never an entity or a person.

use crate::access::RULES;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder,
};
use std::{fmt::Write, sync::Arc, time::Duration};

/// Highest gRPC code.
const CODES: usize = 17;

/// Per method: how long, and how it ended. Handles are resolved once, so that a call costs two atomics.
#[derive(Clone)]
pub struct MethodFigures {
    methods: Arc<Vec<(Histogram, [IntCounter; CODES])>>,
}

impl MethodFigures {
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        // From a commit on a fast disk to a failover.
        let buckets = vec![
            0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0,
        ];
        let seconds = HistogramVec::new(
            HistogramOpts::new("okno_call_seconds", "Time from a call's arrival to its response")
                .buckets(buckets),
            &["method"],
        )?;
        let ended = IntCounterVec::new(
            Opts::new("okno_calls_total", "Calls by method and gRPC code"),
            &["method", "code"],
        )?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(ended.clone()))?;
        let methods = RULES.iter().map(|rule| {
            let codes = std::array::from_fn(|code| {
                let code = tonic::Code::from_i32(i32::try_from(code).unwrap_or_default());
                ended.with_label_values(&[rule.method, &format!("{code:?}")])
            });
            (seconds.with_label_values(&[rule.method]), codes)
        });
        Ok(Self { methods: Arc::new(methods.collect()) })
    }

    /// `place` as of [`crate::access::find`].
    pub fn observe(&self, place: usize, code: u8, elapsed: Duration) {
        let (seconds, codes) = &self.methods[place];
        seconds.observe(elapsed.as_secs_f64());
        codes[usize::from(code).min(CODES - 1)].inc();
    }
}

/// Where figures of the other crates come from: called at each scrape.
pub type Source = Box<dyn Fn() -> Vec<(&'static str, f64)> + Send + Sync>;

/// Everything `/metrics` shows.
pub struct Metrics {
    pub registry: Registry,
    sources: Vec<(&'static str, Source)>,
}

impl Metrics {
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self { registry, sources: Vec::new() })
    }

    /// Adds a source whose figures appear as `okno_<prefix>_<name>`; names ending in `_total` are counters.
    pub fn add(&mut self, prefix: &'static str, source: Source) {
        self.sources.push((prefix, source));
    }

    pub fn render(&self) -> String {
        let mut bytes = Vec::new();
        // Encoding into memory fails only for malformed families, which registering would have refused.
        let mut text = match TextEncoder::new().encode(&self.registry.gather(), &mut bytes) {
            Ok(()) => String::from_utf8(bytes).unwrap_or_default(),
            Err(error) => format!("# {error}\n"),
        };
        for (prefix, source) in &self.sources {
            for (name, value) in source() {
                let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
                let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
                let _ = writeln!(text, "# TYPE okno_{prefix}_{name} {kind}\nokno_{prefix}_{name} {value}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_sources_are_shown() {
        let mut metrics = Metrics::new().expect("registry");
        let figures = MethodFigures::register(&metrics.registry).expect("registered");
        metrics.add("cluster", Box::new(|| vec![("fsyncs_total", 3.0), ("commits_per-fsync", 1.5)]));
        let place = crate::access::find("/okno.v1.CaseService/AddDocument").expect("a method");
        figures.observe(place, 0, Duration::from_millis(1));
        figures.observe(place, 99, Duration::from_millis(1));
        let text = metrics.render();
        for expected in [
            "okno_calls_total{code=\"Ok\",method=\"/okno.v1.CaseService/AddDocument\"} 1",
            "okno_call_seconds_count{method=\"/okno.v1.CaseService/AddDocument\"} 2",
            "# TYPE okno_cluster_fsyncs_total counter\nokno_cluster_fsyncs_total 3",
            "# TYPE okno_cluster_commits_per_fsync gauge\nokno_cluster_commits_per_fsync 1.5",
        ] {
            assert!(text.contains(expected), "{expected} is missing");
        }
    }
}
