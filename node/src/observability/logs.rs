//! Logs of the process: JSON in production, text on a terminal, always on standard error. The newest lines stay in
//! memory as well, for those who look for a fault, and what is logged can be changed while the node runs.

use crate::settings::{LogFormat, LogSection};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    fmt,
    io::IsTerminal,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Context, SubscriberExt},
    reload,
    util::SubscriberInitExt,
};

/// Lines kept in memory: hours of a calm node, minutes of one in trouble.
const RING_LINES_MAX: usize = 4_000;
/// And their bytes, whatever their number.
const RING_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A value in a line kept; what is longer is cut.
const VALUE_CHARS_MAX: usize = 1_000;
/// A filter that returns by itself does so within this.
pub const LASTS_MAX: Duration = Duration::from_secs(24 * 3_600);
/// A filter is a line of directives.
const FILTER_BYTES_MAX: usize = 4_096;

/// Changes the subscriber's filter; the error says why it could not.
type Apply = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// What is logged now. Invariant: `current` is what the subscriber was last given.
pub struct Logs {
    configured: String,
    apply: Apply,
    current: Mutex<Current>,
    pub ring: Arc<Ring>,
}

#[derive(Clone)]
struct Current {
    filter: String,
    until: Option<SystemTime>,
    /// Counts changes, so that only the last one returns by itself.
    change: u64,
}

/// What is logged, as told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub filter: String,
    pub configured: String,
    pub until: Option<SystemTime>,
}

/// Installs the subscriber; the error says what is wrong with the filter.
pub fn install(section: &LogSection) -> Result<Arc<Logs>, String> {
    let filter = EnvFilter::try_new(&section.filter).map_err(|error| format!("log.filter: {error}"))?;
    let colours = std::io::stderr().is_terminal();
    let (filter, handle) = reload::Layer::<EnvFilter, Registry>::new(filter);
    let output = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let output = match section.format {
        LogFormat::Json => {
            output.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
        }
        LogFormat::Text => output.with_target(true).boxed(),
    };
    let ring = Arc::new(Ring::default());
    tracing_subscriber::registry()
        .with(filter)
        .with(output)
        .with(Keep(ring.clone()))
        .try_init()
        .map_err(|error| error.to_string())?;
    let apply: Apply = Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()));
    Ok(Logs::new(section.filter.clone(), apply, ring))
}

impl Logs {
    fn new(configured: String, apply: Apply, ring: Arc<Ring>) -> Arc<Self> {
        let current = Current { filter: configured.clone(), until: None, change: 0 };
        Arc::new(Self { configured, apply, current: Mutex::new(current), ring })
    }

    pub fn filter(&self) -> Filter {
        let current = self.current.lock().clone();
        Filter { filter: current.filter, configured: self.configured.clone(), until: current.until }
    }

    /// Changes the filter, for a while if `lasts` says so; empty: what the settings say. The error says what is wrong
    /// with it. Call it within a tokio runtime.
    pub fn set(self: &Arc<Self>, filter: &str, lasts: Option<Duration>) -> Result<Filter, String> {
        if filter.len() > FILTER_BYTES_MAX {
            return Err(format!("longer than {FILTER_BYTES_MAX} bytes"));
        }
        let lasts = lasts.map(|lasts| lasts.min(LASTS_MAX));
        let change = {
            let mut current = self.current.lock();
            let filter = if filter.is_empty() { self.configured.as_str() } else { filter };
            let parsed = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
            (self.apply)(parsed)?;
            let until = lasts.map(|lasts| SystemTime::now() + lasts);
            *current = Current { filter: filter.to_owned(), until, change: current.change + 1 };
            current.change
        };
        if let Some(lasts) = lasts {
            let logs = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(lasts).await;
                logs.give_back(change);
            });
        }
        Ok(self.filter())
    }

    /// Returns to the settings, unless something else was set since.
    fn give_back(&self, change: u64) {
        let mut current = self.current.lock();
        if current.change != change {
            return;
        }
        let outcome = EnvFilter::try_new(&self.configured)
            .map_err(|error| error.to_string())
            .and_then(|filter| (self.apply)(filter));
        match outcome {
            Ok(()) => {
                *current =
                    Current { filter: self.configured.clone(), until: None, change: current.change + 1 };
            }
            Err(error) => tracing::error!(error, "the log filter of the settings cannot be given back"),
        }
    }
}

/// The newest lines, oldest first, as JSON. Bounded by lines and bytes.
#[derive(Default)]
pub struct Ring {
    lines: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<String>,
    bytes: usize,
}

impl Ring {
    fn push(&self, line: String) {
        let mut lines = self.lines.lock();
        lines.bytes += line.len();
        lines.kept.push_back(line);
        while lines.kept.len() > RING_LINES_MAX || lines.bytes > RING_BYTES_MAX {
            let Some(gone) = lines.kept.pop_front() else { return };
            lines.bytes -= gone.len();
        }
    }

    /// All lines kept.
    pub fn text(&self) -> String {
        let lines = self.lines.lock();
        let mut text = String::with_capacity(lines.bytes + lines.kept.len());
        for line in &lines.kept {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// Puts what passes the filter into the ring.
struct Keep(Arc<Ring>);

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        // What is asked for one by one (requests, messages) would push out what an engineer looks for.
        if *metadata.level() == Level::TRACE {
            return;
        }
        let mut fields = Fields(serde_json::Map::new());
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        fields.0.insert("time".into(), time.into());
        fields.0.insert("level".into(), metadata.level().as_str().into());
        fields.0.insert("target".into(), metadata.target().into());
        event.record(&mut fields);
        self.0.push(serde_json::Value::Object(fields.0).to_string());
    }
}

struct Fields(serde_json::Map<String, serde_json::Value>);

impl Fields {
    fn text(&mut self, field: &Field, value: &str) {
        let value: String = value.chars().take(VALUE_CHARS_MAX).collect();
        self.0.insert(field.name().into(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().into(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs() -> (Arc<Logs>, Arc<Mutex<Vec<String>>>) {
        let given: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = given.clone();
        let apply: Apply = Box::new(move |filter| {
            seen.lock().push(filter.to_string());
            Ok(())
        });
        (Logs::new("info".into(), apply, Arc::default()), given)
    }

    #[tokio::test]
    async fn a_filter_returns_by_itself_unless_another_was_set() {
        let (logs, given) = logs();
        logs.set("debug", Some(Duration::from_millis(20))).expect("good");
        assert!(logs.filter().until.is_some());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while logs.filter().filter != "info" {
            assert!(tokio::time::Instant::now() < deadline, "it did not return");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(logs.filter().until, None);
        logs.set("debug", Some(Duration::from_secs(3_600))).expect("good");
        let change = logs.current.lock().change;
        logs.set("warn", None).expect("good");
        // As the task does when its time has come.
        logs.give_back(change);
        assert_eq!(logs.filter().filter, "warn");
        logs.set("", None).expect("good");
        assert_eq!(logs.filter().filter, "info");
        assert_eq!(*given.lock(), ["debug", "info", "debug", "warn", "info"]);
    }

    #[tokio::test]
    async fn a_bad_filter_changes_nothing() {
        let (logs, given) = logs();
        assert!(logs.set("okno=nonsense=x", None).is_err());
        assert!(logs.set(&"x".repeat(FILTER_BYTES_MAX + 1), None).is_err());
        assert_eq!(logs.filter().filter, "info");
        assert!(given.lock().is_empty());
    }

    #[test]
    fn the_ring_keeps_the_newest_lines_within_its_bounds() {
        let ring = Arc::new(Ring::default());
        let subscriber = tracing_subscriber::registry().with(Keep(ring.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(index = 7_u64, entity = "case/1", "first");
            for n in 0..RING_LINES_MAX {
                tracing::debug!(n, "more");
            }
            tracing::trace!("not kept");
            tracing::warn!(detail = "x".repeat(VALUE_CHARS_MAX * 3), "last");
        });
        let text = ring.text();
        assert_eq!(text.lines().count(), RING_LINES_MAX);
        let last: serde_json::Value =
            serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
        assert_eq!((last["level"].as_str(), last["message"].as_str()), (Some("WARN"), Some("last")));
        assert_eq!(last["detail"].as_str().map(str::len), Some(VALUE_CHARS_MAX));
        for _ in 0..RING_LINES_MAX {
            ring.push("y".repeat(1_024));
        }
        assert!(ring.text().len() <= RING_BYTES_MAX + RING_LINES_MAX);
    }
}
