//! Logs of the process: JSON in production, text on a terminal, always on standard error.

use crate::settings::{LogFormat, LogSection};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Installs the subscriber; the error says what is wrong with the filter.
pub fn install(section: &LogSection) -> Result<(), String> {
    let filter = EnvFilter::try_new(&section.filter).map_err(|error| format!("log.filter: {error}"))?;
    let colours = std::io::stderr().is_terminal();
    let output = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let output = match section.format {
        LogFormat::Json => {
            output.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
        }
        LogFormat::Text => output.with_target(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(output).try_init().map_err(|error| error.to_string())
}
