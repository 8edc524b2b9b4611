//! Settings of channels' traffic through this node, and of the connectors it starts and looks after.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// Streams of connectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelsSection {
    /// Pause between two heartbeats of a stream; three missed ones end it.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Streams of connectors at a time.
    pub streams_max: usize,
}

impl Default for ChannelsSection {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(5), streams_max: 256 }
    }
}

/// A connector that runs beside this node: started with it, restarted when it ends, ended with it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectorSection {
    /// The program by its full path, and its arguments; run as the node's user, its output goes to the node's log.
    pub command: Vec<String>,
}

/// Connectors of one machine: each is a process.
const CONNECTORS_MAX: usize = 64;

/// What is wrong with them, the first of it.
pub fn check(
    channels: &ChannelsSection,
    connectors: &BTreeMap<String, ConnectorSection>,
) -> Result<(), (&'static str, String)> {
    if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&channels.heartbeat) {
        return Err(("channels.heartbeat", "expected 100ms to 1m".into()));
    }
    if !(1..=okno_runtime::channels::presence::SESSIONS_MAX).contains(&channels.streams_max) {
        let most = okno_runtime::channels::presence::SESSIONS_MAX;
        return Err(("channels.streams_max", format!("expected 1 to {most}")));
    }
    if connectors.len() > CONNECTORS_MAX {
        return Err(("connectors", format!("expected at most {CONNECTORS_MAX}")));
    }
    for (name, connector) in connectors {
        let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            return Err((
                "connectors",
                format!("{name:?}: expected a name of 1 to 64 of a-z, 0-9, '.', '-', '_'"),
            ));
        }
        if !connector.command.first().is_some_and(|program| program.starts_with('/')) {
            return Err(("connectors", format!("{name}: command: expected a program by its full path")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let connector = |command: &[&str]| ConnectorSection {
            command: command.iter().map(|part| (*part).to_owned()).collect(),
        };
        let of = |name: &str, command: &[&str]| BTreeMap::from([(name.to_owned(), connector(command))]);
        let usual = ChannelsSection::default();
        assert_eq!(check(&usual, &of("egrn", &["/usr/bin/okno-https", "egrn.toml"])), Ok(()));
        for (name, command) in
            [("egrn", &[][..]), ("egrn", &["okno-https"]), ("", &["/bin/a"]), ("a b", &["/bin/a"])]
        {
            assert_eq!(check(&usual, &of(name, command)).expect_err("wrong").0, "connectors");
        }
        let none = BTreeMap::new();
        let beats = ChannelsSection { heartbeat: Duration::from_millis(1), ..usual.clone() };
        assert_eq!(check(&beats, &none).expect_err("wrong").0, "channels.heartbeat");
        let streams = ChannelsSection { streams_max: 0, ..usual };
        assert_eq!(check(&streams, &none).expect_err("wrong").0, "channels.streams_max");
    }
}
