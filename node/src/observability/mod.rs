//! What an operator sees of a node: logs, metrics, health, alarms, and the log of security events.

pub mod alarms;
pub mod channels;
pub mod described;
pub mod figures;
pub mod http;
pub mod logs;
pub mod metrics;
pub mod panics;
pub mod population;
pub mod security;
pub mod support;
pub mod traces;

use std::error::Error;

/// An error with its causes, for logs: `Display` of our errors never repeats its source.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
