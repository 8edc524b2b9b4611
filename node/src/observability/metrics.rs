//! Figures for Prometheus. Labels are methods, codes and names fixed in the program; never an entity or a person.
//!
//! Two ways in: families registered with the `prometheus` library, and sources, which are asked at each scrape. What a
//! family is called, is and means stands in [`super::described`]; a test holds a running node's page against it.

use super::described::{self, Kind};
use crate::access::RULES;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder,
};
use std::{borrow::Cow, collections::BTreeMap, fmt::Write, sync::Arc, time::Duration};

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

/// One sample with its full name.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// As shown; a histogram's ends in `_bucket`, `_sum` or `_count`.
    pub name: Cow<'static, str>,
    /// Inside the braces, e.g. `family="log",level="0"`; values come from the program's text and the member list.
    pub labels: String,
    pub value: f64,
}

impl Sample {
    pub fn plain(name: impl Into<Cow<'static, str>>, value: f64) -> Self {
        Self { name: name.into(), labels: String::new(), value }
    }

    pub fn labelled(name: impl Into<Cow<'static, str>>, labels: String, value: f64) -> Self {
        Self { name: name.into(), labels, value }
    }
}

/// Where figures of the other crates come from: called at each scrape.
pub type Source = Box<dyn Fn() -> Vec<(&'static str, f64)> + Send + Sync>;
/// The same with full names and labels.
pub type SampleSource = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

/// Everything `/metrics` shows.
pub struct Metrics {
    pub registry: Registry,
    sources: Vec<SampleSource>,
}

impl Metrics {
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self { registry, sources: Vec::new() })
    }

    /// Adds a source whose figures appear as `okno_<prefix>_<name>`, unless [`described::RENAMED`] knows better.
    pub fn add(&mut self, prefix: &'static str, source: Source) {
        self.add_samples(Box::new(move || {
            source().into_iter().filter_map(|(name, value)| described::sample(prefix, name, value)).collect()
        }));
    }

    pub fn add_samples(&mut self, source: SampleSource) {
        self.sources.push(source);
    }

    pub fn render(&self) -> String {
        let mut bytes = Vec::new();
        // Encoding into memory fails only for malformed families, which registering would have refused.
        let mut text = match TextEncoder::new().encode(&self.registry.gather(), &mut bytes) {
            Ok(()) => String::from_utf8(bytes).unwrap_or_default(),
            Err(error) => format!("# {error}\n"),
        };
        // A family stands in one piece, whichever sources its samples come from.
        let mut families: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for sample in self.sources.iter().flat_map(|source| source()) {
            families.entry(described::family_of(&sample.name).to_owned()).or_default().push(sample);
        }
        for (family, samples) in families {
            let (kind, help) = described::find(&family).map_or_else(
                || (Kind::guess(&family), described::UNDESCRIBED),
                |known| (known.kind, known.help),
            );
            let _ = writeln!(text, "# HELP {family} {help}\n# TYPE {family} {}", kind.name());
            for Sample { name, labels, value } in samples {
                let _ = if labels.is_empty() {
                    writeln!(text, "{name} {value}")
                } else {
                    writeln!(text, "{name}{{{labels}}} {value}")
                };
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use okno_ops::exposition::Exposition;

    #[test]
    fn calls_and_sources_are_shown() {
        let mut metrics = Metrics::new().expect("registry");
        let figures = MethodFigures::register(&metrics.registry).expect("registered");
        metrics
            .add("cluster", Box::new(|| vec![("raft_fsyncs_total", 3.0), ("raft_entries_per_fsync", 1.5)]));
        metrics.add("storage", Box::new(|| vec![("rocksdb_writes", 7.0), ("rocksdb_l0_files_log", 1.0)]));
        metrics.add("runtime", Box::new(|| vec![("timers_overdue_ms", 1_500.0)]));
        metrics.add_samples(Box::new(|| {
            vec![Sample::labelled(
                "okno_storage_rocksdb_table_files",
                "family=\"log\",level=\"0\"".into(),
                2.0,
            )]
        }));
        let place = crate::access::find("/okno.v1.CaseService/AddDocument").expect("a method");
        figures.observe(place, 0, Duration::from_millis(1));
        figures.observe(place, 99, Duration::from_millis(1));
        let text = metrics.render();
        for expected in [
            "okno_calls_total{code=\"Ok\",method=\"/okno.v1.CaseService/AddDocument\"} 1",
            "okno_call_seconds_count{method=\"/okno.v1.CaseService/AddDocument\"} 2",
            "# TYPE okno_cluster_raft_fsyncs_total counter\nokno_cluster_raft_fsyncs_total 3",
            "# TYPE okno_cluster_raft_entries_per_fsync gauge\nokno_cluster_raft_entries_per_fsync 1.5",
            "okno_storage_rocksdb_writes_total 7",
            "okno_runtime_timers_overdue_seconds 1.5",
            "okno_storage_rocksdb_table_files{family=\"log\",level=\"0\"} 2",
        ] {
            assert!(text.contains(expected), "{expected} is missing:\n{text}");
        }
        assert!(!text.contains("l0_files"), "told by level instead");
        let parsed = Exposition::parse(&text).expect("well-formed");
        for (name, family) in &parsed.families {
            if name.starts_with("okno_") {
                assert_ne!(family.help, described::UNDESCRIBED, "{name}");
            }
        }
    }
}
