//! `oknoctl log-level`: what nodes log, changed while they run.

use super::{
    Failure, Session, every,
    output::{self, Format, moment, table},
};
use clap::Subcommand;
use okno_client::v1::{GetLogFilterRequest, SetLogFilterRequest};
use serde_json::json;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum LogLevelCommand {
    /// What every node logs now
    Get,
    /// Change it on every node, or on that of --node
    Set {
        /// Directives such as info,okno_cluster=debug
        filter: String,
        /// Return to the settings by itself after this long, e.g. 10m
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        lasts: Option<Duration>,
    },
    /// Return to what the settings say
    Reset,
}

pub async fn run(session: &Session, command: LogLevelCommand) -> Result<(), Failure> {
    let set = |filter: String, lasts: Option<Duration>| {
        let lasts = lasts.map(|lasts| lasts.try_into()).transpose();
        lasts
            .map(|lasts| SetLogFilterRequest { filter, lasts })
            .map_err(|_| Failure::Usage("--for: too long".into()))
    };
    let request = match command {
        LogLevelCommand::Get => None,
        LogLevelCommand::Set { filter, lasts } => Some(set(filter, lasts)?),
        LogLevelCommand::Reset => Some(set(String::new(), None)?),
    };
    let mut first_error = None;
    if let Some(request) = request {
        for said in every::ask(session, request).await {
            if let Err(error) = said.answer {
                eprintln!("{}: {}", said.endpoint, output::error_text(&error));
                first_error = first_error.or(Some(error));
            }
        }
    }
    let mut rows = Vec::new();
    let mut nodes = Vec::new();
    for said in every::ask(session, GetLogFilterRequest {}).await {
        match said.answer {
            Ok(answer) => {
                rows.push([
                    said.endpoint.clone(),
                    answer.served_by.to_string(),
                    answer.filter.clone(),
                    moment(answer.until.as_ref()),
                ]);
                nodes.push(json!({"endpoint": said.endpoint, "log": output::to_json(&answer)}));
            }
            Err(error) => {
                rows.push([said.endpoint, String::new(), error.reason().to_owned(), String::new()]);
                first_error = first_error.or(Some(error));
            }
        }
    }
    match session.format {
        Format::Json => output::line(&format!("{:#}", json!({"nodes": nodes}))),
        Format::Table => output::line(&table(["ENDPOINT", "NODE", "FILTER", "UNTIL"], rows)),
    }
    first_error.map_or(Ok(()), |error| Err(error.into()))
}
