//! `oknoctl health`: the named checks of every endpoint, and an exit code for scripts.

use super::{
    Failure, Session, every,
    output::{self, Format, table},
};
use okno_client::v1::{GetHealthRequest, GetHealthResponse, HealthCheck};
use serde_json::json;

pub async fn run(session: &Session) -> Result<(), Failure> {
    let said = every::ask(session, GetHealthRequest {}).await;
    let mut sick = Vec::new();
    let mut rows = Vec::new();
    let mut nodes = Vec::new();
    for one in &said {
        match &one.answer {
            Ok(health) => {
                if !(health.live && health.ready) {
                    sick.push(one.endpoint.clone());
                }
                rows.push(row(&one.endpoint, health));
                nodes.push(json!({"endpoint": one.endpoint, "health": output::to_json(health)}));
            }
            Err(error) => {
                sick.push(one.endpoint.clone());
                let reason = format!("{}: {}", error.reason(), error.problem().message);
                rows.push([one.endpoint.clone(), String::new(), "no".into(), "no".into(), reason]);
                let mut node = output::error_json(error);
                node["endpoint"] = json!(one.endpoint);
                nodes.push(node);
            }
        }
    }
    match session.format {
        Format::Json => output::line(&format!("{:#}", json!({"healthy": sick.is_empty(), "nodes": nodes}))),
        Format::Table => output::line(&table(["ENDPOINT", "NODE", "LIVE", "READY", "FAILING"], rows)),
    }
    if sick.is_empty() { Ok(()) } else { Err(Failure::Broken(format!("not healthy: {}", sick.join(", ")))) }
}

fn row(endpoint: &str, health: &GetHealthResponse) -> [String; 5] {
    let yes = |holds: bool| if holds { "yes" } else { "no" }.to_owned();
    let failing = |checks: &[HealthCheck]| {
        let failed = checks.iter().filter(|check| !check.ok);
        failed.map(|check| format!("{}: {}", check.name, check.reason)).collect::<Vec<_>>()
    };
    let mut reasons = failing(&health.live_checks);
    reasons.extend(failing(&health.ready_checks));
    [
        endpoint.to_owned(),
        health.served_by.to_string(),
        yes(health.live),
        yes(health.ready),
        reasons.join("; "),
    ]
}
