//! `/metrics`, `/livez` and `/readyz` on a port of their own, plain HTTP: figures and the state of named checks.
//!
//! Live: the process does its work; if not, systemd should start it again. Ready: clients may be sent here. With
//! `?verbose` every check is listed with its reason.

use super::{
    alarms::{Alarms, KINDS, Standing},
    logs::Logs,
    metrics::Metrics,
};
use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{fmt::Write, sync::Arc, time::Instant};

/// Whether something holds, or why not.
pub type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Named checks, in order.
#[derive(Default)]
pub struct Checks(Vec<(&'static str, Check)>);

impl Checks {
    pub fn add(&mut self, name: &'static str, check: Check) {
        self.0.push((name, check));
    }

    /// Names and results.
    pub fn run(&self) -> Vec<(&'static str, Result<(), String>)> {
        self.0.iter().map(|(name, check)| (*name, check())).collect()
    }

    pub fn pass(&self) -> bool {
        self.0.iter().all(|(_, check)| check().is_ok())
    }
}

/// What the port shows, and the service of the same purpose.
pub struct Ops {
    pub node_id: u64,
    pub started: Instant,
    pub metrics: Metrics,
    pub live: Checks,
    pub ready: Checks,
    pub alarms: Arc<Alarms>,
    pub logs: Arc<Logs>,
    /// The effective settings, as a file.
    pub settings: String,
}

impl Ops {
    /// The page of figures.
    pub fn page(&self) -> String {
        let mut text = self.metrics.render();
        let standing = self.alarms.list();
        // Every kind, so that an alert sees the end of an alarm as well; kinds that are made up are not labels.
        text.push_str(
            "# HELP okno_alarm Whether an alarm of this kind stands on this node\n# TYPE okno_alarm gauge\n",
        );
        for row in KINDS {
            let stands = u8::from(standing.iter().any(|one| one.alarm.kind == row.kind));
            let (kind, severity) = (row.kind, row.severity.name());
            let _ = writeln!(text, "okno_alarm{{kind=\"{kind}\",severity=\"{severity}\"}} {stands}");
        }
        text
    }
}

pub fn router(ops: Arc<Ops>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(ops)
}

async fn metrics(State(ops): State<Arc<Ops>>) -> Response {
    // Asks the database and walks a directory: not on a network thread.
    match tokio::task::spawn_blocking(move || ops.page()).await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn live(State(ops): State<Arc<Ops>>, RawQuery(query): RawQuery) -> Response {
    report(&ops.live, &ops.alarms, query.as_deref())
}

async fn ready(State(ops): State<Arc<Ops>>, RawQuery(query): RawQuery) -> Response {
    report(&ops.ready, &ops.alarms, query.as_deref())
}

/// `ok`, or the checks that fail; with `verbose` all of them, and standing alarms.
fn report(checks: &Checks, alarms: &Alarms, query: Option<&str>) -> Response {
    let verbose = query
        .is_some_and(|query| query.split('&').any(|item| item == "verbose" || item.starts_with("verbose=")));
    let results = checks.run();
    let failed = results.iter().filter(|(_, result)| result.is_err()).count();
    let mut text = String::new();
    for (name, result) in &results {
        match result {
            Ok(()) if verbose => writeln!(text, "[+] {name} ok").unwrap_or_default(),
            Ok(()) => {}
            Err(reason) => writeln!(text, "[-] {name} failed: {reason}").unwrap_or_default(),
        }
    }
    if verbose {
        for Standing { alarm, .. } in alarms.list() {
            let _ = writeln!(text, "[!] alarm {}: {}", alarm.kind, alarm.reason);
        }
    }
    if failed == 0 {
        text.push_str("ok\n");
        (StatusCode::OK, text).into_response()
    } else {
        let _ = writeln!(text, "{failed} of {} checks failed", results.len());
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(response: Response) -> (StatusCode, String) {
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, String::from_utf8(bytes.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn checks_are_named_with_their_reasons() {
        let alarms = Alarms::default();
        alarms.raise(("TLS_CLIENTS_FILES", "bad file"));
        let mut checks = Checks::default();
        checks.add("phase", Box::new(|| Ok(())));
        assert_eq!(text(report(&checks, &alarms, None)).await, (StatusCode::OK, "ok\n".into()));
        let (_, verbose) = text(report(&checks, &alarms, Some("verbose"))).await;
        assert_eq!(verbose, "[+] phase ok\n[!] alarm TLS_CLIENTS_FILES: bad file\nok\n");
        checks.add("leader", Box::new(|| Err("none is known".into())));
        let (status, failing) = text(report(&checks, &alarms, None)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(failing, "[-] leader failed: none is known\n1 of 2 checks failed\n");
    }
}
