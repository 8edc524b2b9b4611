//! Reading settings from their sources, and errors that say where to look.
//!
//! Each source is checked alone before they are merged, so that an error can name its place; the merged table
//! then only has to pass the checks between keys. (The `config` crate merges first and forgets lines.)

use super::Settings;
use std::{
    fmt,
    path::{Path, PathBuf},
};
use toml::{Table, Value};

/// `OKNO_NODE__DATA_DIR=/data` sets `node.data_dir`; two underscores part the levels.
pub const ENV_PREFIX: &str = "OKNO_";
/// Variables of the prefix that are no settings.
const ENV_RESERVED: &[&str] = &["OKNO_CONFIG", "OKNO_BIN"];
/// What the build with planted faults is told besides (`okno-faulty`).
const ENV_FAULTS: &[&str] =
    if cfg!(feature = "test-faults") { &["OKNO_MUTANT", "OKNO_NEXT_RELEASE"] } else { &[] };

/// One `key = value` from outside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    pub place: Place,
    /// Dotted path.
    pub key: String,
    pub value: String,
}

/// Where a setting stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    File {
        path: PathBuf,
        line: Option<usize>,
    },
    Variable(String),
    Flag(String),
    /// Nowhere: a default, or a required key that is missing.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Default => f.write_str("settings"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{path}: cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// `detail` says what was expected.
    #[error("{place}: {key}: {detail}")]
    Invalid { place: Place, key: String, detail: String },
}

impl Override {
    /// `key=value` of a `--set` flag.
    pub fn from_flag(text: &str) -> Result<Self, SettingsError> {
        let place = Place::Flag(format!("--set {text}"));
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok(Self { place, key: key.trim().to_owned(), value: value.to_owned() })
            }
            _ => Err(SettingsError::Invalid {
                place,
                key: "--set".into(),
                detail: "expected key=value".into(),
            }),
        }
    }

    /// The settings among environment variables, in order of their names.
    pub fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Vec<Self> {
        let mut found: Vec<Self> = variables
            .filter(|(name, _)| name.starts_with(ENV_PREFIX))
            .filter(|(name, _)| !ENV_RESERVED.iter().chain(ENV_FAULTS).any(|known| known == name))
            .map(|(name, value)| {
                let key = name[ENV_PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
                Self { place: Place::Variable(name), key, value }
            })
            .collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found
    }

    /// The value as TOML if it reads as such, else as text: `7`, `true`, `["a"]`, `/var/lib/okno`.
    fn table(&self) -> Table {
        let parsed = toml::from_str::<Table>(&format!("v = {}", self.value))
            .ok()
            .and_then(|mut table| table.remove("v"));
        let mut value = parsed.unwrap_or_else(|| Value::String(self.value.clone()));
        for level in self.key.rsplit('.') {
            value = Value::Table(Table::from_iter([(level.to_owned(), value)]));
        }
        match value {
            Value::Table(table) => table,
            _ => Table::new(),
        }
    }
}

/// Loads the file at `path` (if any) under `overrides`, which are given in ascending precedence.
pub fn load(path: Option<&Path>, overrides: &[Override]) -> Result<Settings, SettingsError> {
    let text = match path {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|source| SettingsError::Read { path: path.to_owned(), source })?,
        None => String::new(),
    };
    load_text(path.unwrap_or(Path::new("settings")), &text, overrides)
}

fn load_text(path: &Path, text: &str, overrides: &[Override]) -> Result<Settings, SettingsError> {
    let file_error = |error: &toml::de::Error| {
        let line = error.span().map(|span| line_of(text, span.start));
        let key = error.span().and_then(|span| key_at(text, span.start)).unwrap_or_else(|| "(file)".into());
        SettingsError::Invalid {
            place: Place::File { path: path.to_owned(), line },
            key,
            detail: error.message().trim().replace('\n', ", "),
        }
    };
    toml::from_str::<Settings>(text).map_err(|error| file_error(&error))?;
    let mut merged: Table = toml::from_str(text).map_err(|error| file_error(&error))?;
    for one in overrides {
        let table = one.table();
        Settings::deserialize_table(table.clone()).map_err(|error| SettingsError::Invalid {
            place: one.place.clone(),
            key: one.key.clone(),
            detail: error.message().trim().replace('\n', ", "),
        })?;
        merge(&mut merged, table);
    }
    let settings = Settings::deserialize_table(merged).map_err(|error| SettingsError::Invalid {
        place: Place::Default,
        key: "(merged)".into(),
        detail: error.message().to_owned(),
    })?;
    check(&settings).map_err(|(key, detail)| SettingsError::Invalid {
        place: place_of(path, text, overrides, key),
        key: key.to_owned(),
        detail,
    })?;
    Ok(settings)
}

impl Settings {
    fn deserialize_table(table: Table) -> Result<Self, toml::de::Error> {
        Value::Table(table).try_into()
    }
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Checks between keys and ranges: the first broken one, with what was expected.
fn check(settings: &Settings) -> Result<(), (&'static str, String)> {
    let fail = |key: &'static str, detail: &str| Err((key, detail.to_owned()));
    if let Err(detail) = crate::identity::check_cluster_name(&settings.cluster.name) {
        return Err(("cluster.name", detail));
    }
    if settings.cluster.id.is_none() {
        return fail("cluster.id", "required: the id given to `okno init`, a UUID");
    }
    if settings.cluster.client_addresses.keys().any(|id| id.parse::<u64>().is_err()) {
        return fail("cluster.client_addresses", "expected node ids as keys, such as 1 = \"host:7400\"");
    }
    if settings.node.id == 0 {
        return fail("node.id", "required: this node's id, a number from 1");
    }
    if !(1..=64).contains(&settings.node.worker_threads) {
        return fail("node.worker_threads", "expected 1 to 64");
    }
    for (tls, ca, certificate, key) in [
        (&settings.clients.tls, "clients.tls.ca", "clients.tls.certificate", "clients.tls.key"),
        (&settings.peers.tls, "peers.tls.ca", "peers.tls.certificate", "peers.tls.key"),
    ] {
        for (path, name) in [(&tls.ca, ca), (&tls.certificate, certificate), (&tls.key, key)] {
            if path.as_os_str().is_empty() {
                return fail(name, "required: path of a PEM file; there is no listener without TLS");
            }
        }
    }
    let raft = &settings.raft;
    if raft.tick.is_zero() || raft.heartbeat < raft.tick {
        return fail("raft.heartbeat", "expected at least raft.tick, which is more than zero");
    }
    if raft.election_min < raft.heartbeat * 3 {
        return fail("raft.election_min", "expected at least three heartbeats");
    }
    if raft.keep_log_entries == 0 {
        return fail("raft.keep_log_entries", "expected at least 1");
    }
    if raft.snapshot_bytes_per_second != 0 && raft.snapshot_bytes_per_second < 1 << 16 {
        return fail("raft.snapshot_bytes_per_second", "expected 0 or at least 65536");
    }
    if raft.election_max <= raft.election_min {
        return fail("raft.election_max", "expected more than raft.election_min");
    }
    if settings.actors.shards > 256 {
        return fail("actors.shards", "expected at most 256");
    }
    if settings.actors.threads > 64 {
        return fail("actors.threads", "expected at most 64");
    }
    if settings.actors.resident_max == 0 {
        return fail("actors.resident_max", "expected at least 1");
    }
    if settings.actors.marker_every < std::time::Duration::from_secs(60) {
        return fail("actors.marker_every", "expected at least 1m: every member reads all its rows at each");
    }
    if settings.clients.handshakes_max == 0 || settings.clients.connections_max == 0 {
        return fail("clients.connections_max", "expected connections_max and handshakes_max of at least 1");
    }
    let message = settings.clients.message_size_max.as_u64();
    if !(64 * 1024..=16 * 1024 * 1024).contains(&message) {
        return fail("clients.message_size_max", "expected 64KiB to 16MiB");
    }
    let disk = &settings.disk;
    for (threshold, key) in
        [(disk.warn, "disk.warn"), (disk.stop_new, "disk.stop_new"), (disk.stop, "disk.stop")]
    {
        if !(0.0..=90.0).contains(&threshold.percent) {
            return fail(key, "expected percent of 0 to 90");
        }
    }
    let below = |low: super::ThresholdSection, high: super::ThresholdSection| {
        low.percent <= high.percent && low.bytes <= high.bytes
    };
    if !below(disk.stop_new, disk.warn) {
        return fail("disk.stop_new", "expected at most disk.warn, in percent and in bytes");
    }
    if !below(disk.stop, disk.stop_new) {
        return fail("disk.stop", "expected at most disk.stop_new, in percent and in bytes");
    }
    if settings.scrub.rate.as_u64() < 64 * 1024 {
        return fail("scrub.rate", "expected at least 64KiB, a second");
    }
    if settings.scrub.interval < std::time::Duration::from_secs(1) {
        return fail("scrub.interval", "expected at least 1s");
    }
    if settings.clients.workstation_lease < std::time::Duration::from_secs(1) {
        return fail("clients.workstation_lease", "expected at least 1s");
    }
    // A window must be known to be unattended within 30 s (R-R1); what is left is the leader's.
    if settings.clients.workstation_lease > std::time::Duration::from_secs(25) {
        return fail("clients.workstation_lease", "expected at most 25s");
    }
    crate::keepers::backups::check(&settings.backup)?;
    check_tracing(&settings.tracing)?;
    super::channels::check(&settings.channels, &settings.connectors)?;
    check_power(&settings.power)
}

fn check_tracing(tracing: &super::TracingSection) -> Result<(), (&'static str, String)> {
    if !(0.0..=1.0).contains(&tracing.sample_ratio) {
        return Err(("tracing.sample_ratio", "expected a part from 0 to 1".into()));
    }
    let endpoint = &tracing.otlp_endpoint;
    if !endpoint.is_empty()
        && !endpoint.parse::<http::Uri>().is_ok_and(|uri| uri.scheme_str() == Some("http"))
    {
        return Err(("tracing.otlp_endpoint", format!("expected http://host:port, found {endpoint}")));
    }
    Ok(())
}

fn check_power(power: &super::PowerSection) -> Result<(), (&'static str, String)> {
    let fail = |key: &'static str, detail: &str| Err((key, detail.to_owned()));
    let ms = std::time::Duration::from_millis;
    if !(ms(100)..=ms(60_000)).contains(&power.poll_every) {
        return fail("power.poll_every", "expected 100ms to 1m");
    }
    if power.lost_after < power.poll_every * 2 {
        return fail("power.lost_after", "expected at least two power.poll_every");
    }
    if power.battery_max.is_zero() {
        return fail("power.battery_max", "expected more than 0s");
    }
    if power.charge_min > 90 {
        return fail("power.charge_min", "expected 0 to 90 (percent)");
    }
    if power.finish_within > ms(60_000) {
        return fail("power.finish_within", "expected at most 1m: the battery is nearly empty");
    }
    if power.shutdown_command.first().is_some_and(|program| !program.starts_with('/')) {
        return fail("power.shutdown_command", "expected a program by its full path");
    }
    if power.ups.len() > crate::keepers::power::SUPPLIES_MAX {
        return fail("power.ups", "expected at most 16 supplies");
    }
    let mut worth = 0_u32;
    for (place, ups) in power.ups.iter().enumerate() {
        if let Err(detail) = ups.name.parse::<okno_ops::power::UpsAddress>() {
            return Err(("power.ups", detail));
        }
        if power.ups[..place].iter().any(|before| before.name == ups.name) {
            return Err(("power.ups", format!("{} stands twice", ups.name)));
        }
        if !(1..=64).contains(&ups.supplies) {
            return Err(("power.ups", format!("{}: supplies: expected 1 to 64", ups.name)));
        }
        if ups.user.is_empty() != ups.password_file.is_none() {
            return Err(("power.ups", format!("{}: user and password_file stand together", ups.name)));
        }
        worth += ups.supplies;
    }
    if !power.ups.is_empty() && !(1..=worth).contains(&power.needs) {
        return Err(("power.needs", format!("expected 1 to {worth}, what the supplies give together")));
    }
    Ok(())
}

/// The place that gave `key` its value: the last override that names it, else its line in the file.
fn place_of(path: &Path, text: &str, overrides: &[Override], key: &str) -> Place {
    if let Some(found) = overrides.iter().rev().find(|one| one.key == key) {
        return found.place.clone();
    }
    match line_of_key(text, key) {
        Some(line) => Place::File { path: path.to_owned(), line: Some(line) },
        None => Place::Default,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// Line of a dotted key.
fn line_of_key(text: &str, key: &str) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut line = None;
    for level in key.split('.') {
        let (name, value) = table.iter().find(|(name, _)| name.get_ref().as_ref() == level)?;
        line = Some(line_of(text, name.span().start));
        match value.get_ref().as_table() {
            Some(inner) => table = inner,
            None => break,
        }
    }
    line
}

/// The dotted key whose name or value stands at `offset`.
fn key_at(text: &str, offset: usize) -> Option<String> {
    fn walk(table: &toml::de::DeTable<'_>, offset: usize, path: &str) -> Option<String> {
        for (name, value) in table {
            let here = if path.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{path}.{}", name.get_ref())
            };
            if let Some(found) = value.get_ref().as_table().and_then(|inner| walk(inner, offset, &here)) {
                return Some(found);
            }
            if name.span().contains(&offset) || value.span().contains(&offset) {
                return Some(here);
            }
        }
        None
    }
    match toml::de::DeTable::parse(text) {
        Ok(document) => walk(document.get_ref(), offset, ""),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[cluster]
name = "kuzbass"
id = "0190b5f0-0000-7000-8000-000000000001"
[node]
id = 1
data_dir = "/tmp/okno"
[clients]
listen = "127.0.0.1:7400"
[clients.tls]
ca = "ca.pem"
certificate = "c.pem"
key = "k.pem"
[peers.tls]
ca = "pca.pem"
certificate = "pc.pem"
key = "pk.pem"
"#;

    fn check(text: &str, overrides: &[Override], expected: &str) {
        let error =
            load_text(Path::new("okno.toml"), text, overrides).expect_err("must be refused").to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }

    fn flag(text: &str) -> Override {
        Override::from_flag(text).expect("a well-formed flag")
    }

    #[test]
    fn good_file_loads_and_prints_itself() {
        let settings = load_text(Path::new("okno.toml"), GOOD, &[]).expect("good");
        assert_eq!(settings.node.id, 1);
        assert_eq!(settings.clients.message_size_max, bytesize::ByteSize::mib(1));
        let again = load_text(Path::new("x"), &settings.to_toml(), &[]).expect("what is printed loads");
        assert_eq!(settings, again);
    }

    #[test]
    fn errors_name_line_key_and_what_was_expected() {
        check(
            &GOOD.replace("id = 1", "id = \"one\""),
            &[],
            "okno.toml:6: node.id: invalid type: string \"one\", expected u64",
        );
        check(
            &GOOD.replace("data_dir", "datadir"),
            &[],
            "okno.toml:7: node.datadir: unknown field `datadir`, expected one of",
        );
        check(
            &GOOD.replace("127.0.0.1:7400", "localhost"),
            &[],
            "okno.toml:9: clients.listen: expected address:port such as 0.0.0.0:7400, found \"localhost\"",
        );
        check(&GOOD.replace("id = 1", "id = 0"), &[], "okno.toml:6: node.id: required");
        check(&GOOD.replace("id = 1", "id = = 1"), &[], "okno.toml:6:");
        check(&GOOD.replace("name = \"kuzbass\"", ""), &[], "cluster.name");
        check(
            &format!("{GOOD}\n[raft]\nelection_min = \"10ms\"\n"),
            &[],
            "okno.toml:20: raft.election_min: expected at least",
        );
        check(&GOOD.replace("key = \"pk.pem\"", ""), &[], "peers.tls.key: required");
        for (line, expected) in [
            ("every = \"25h\"", "okno.toml:20: backup.every: expected 5s to 23h"),
            ("archive_every = \"1m\"", "okno.toml:20: backup.archive_every: expected 100ms to 8s"),
            (
                "recipients = [\"ssh-rsa\"]",
                "okno.toml:20: backup.recipients: \"ssh-rsa\" is not an age recipient",
            ),
            ("target = \"backups\"", "okno.toml:20: backup.target: expected an absolute path"),
            ("rate = \"1KiB\"", "okno.toml:20: backup.rate: expected 0"),
            ("keep = 3", "okno.toml:20: backup.keep: unknown field `keep`"),
        ] {
            check(&format!("{GOOD}\n[backup]\n{line}\n"), &[], expected);
        }
    }

    #[test]
    fn tracing_is_off_unless_asked_for_and_checked() {
        let with = |text: &str| format!("{GOOD}\n[tracing]\n{text}\n");
        let good = load_text(Path::new("okno.toml"), &with("sample_ratio = 1.0"), &[]).expect("good");
        assert_eq!(good.tracing.otlp_endpoint, "");
        let endpoint = with("otlp_endpoint = \"http://127.0.0.1:4317\"");
        let good = load_text(Path::new("okno.toml"), &endpoint, &[]).expect("good");
        assert_eq!(load_text(Path::new("x"), &good.to_toml(), &[]).expect("what is printed loads"), good);
        for (line, expected) in [
            ("sample_ratio = 1.5", "okno.toml:20: tracing.sample_ratio: expected a part from 0 to 1"),
            ("otlp_endpoint = \"collector:4317\"", "okno.toml:20: tracing.otlp_endpoint: expected http://"),
            (
                "otlp_endpoint = \"https://collector:4317\"",
                "okno.toml:20: tracing.otlp_endpoint: expected http://",
            ),
            ("endpoint = \"http://collector\"", "okno.toml:20: tracing.endpoint: unknown field"),
        ] {
            check(&with(line), &[], expected);
        }
    }

    #[test]
    fn power_is_checked() {
        let with = |text: &str| format!("{GOOD}\n[power]\n{text}\n");
        let ups = "[[power.ups]]\nname = \"a@localhost\"";
        let good = load_text(Path::new("okno.toml"), &with(ups), &[]).expect("good");
        assert_eq!((good.power.ups.len(), good.power.needs), (1, 1));
        assert_eq!(load_text(Path::new("x"), &good.to_toml(), &[]).expect("what is printed loads"), good);
        check(
            &with("needs = 2\n[[power.ups]]\nname = \"a@h\""),
            &[],
            "okno.toml:20: power.needs: expected 1 to 1",
        );
        check(&with("[[power.ups]]\nname = \"a\""), &[], "power.ups: expected name@host");
        check(&with("[[power.ups]]\nname = \"a@h\"\nuser = \"u\""), &[], "stand together");
        check(&with(&format!("{ups}\n{ups}")), &[], "stands twice");
        check(&with("[[power.ups]]\nname = \"a@h\"\nsupplys = 1"), &[], "unknown field `supplys`");
        check(&with("lost_after = \"1s\""), &[], "power.lost_after: expected at least");
        check(&with("shutdown_command = [\"poweroff\"]"), &[], "power.shutdown_command: expected a program");
    }

    #[test]
    fn flag_beats_environment_beats_file() {
        let environment = Override::from_environment(
            [("OKNO_NODE__ID", "2"), ("OKNO_NODE__WORKER_THREADS", "3"), ("OKNO_CONFIG", "x"), ("PATH", "y")]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        assert_eq!(environment.len(), 2);
        let mut overrides = environment;
        overrides.push(flag("node.id=3"));
        overrides.push(flag("clients.tls.revocation_lists=[\"a.crl\"]"));
        let settings = load_text(Path::new("okno.toml"), GOOD, &overrides).expect("good");
        assert_eq!((settings.node.id, settings.node.worker_threads), (3, 3));
        assert_eq!(settings.clients.tls.revocation_lists, [PathBuf::from("a.crl")]);
    }

    #[test]
    fn overrides_are_named_in_errors() {
        check(GOOD, &[flag("node.id=x")], "flag --set node.id=x: node.id: invalid type");
        check(GOOD, &[flag("nodes.id=1")], "unknown field `nodes`");
        let variable = Override {
            place: Place::Variable("OKNO_ACTORS__SHARDS".into()),
            key: "actors.shards".into(),
            value: "300".into(),
        };
        check(
            GOOD,
            &[variable],
            "environment variable OKNO_ACTORS__SHARDS: actors.shards: expected at most 256",
        );
        assert!(Override::from_flag("nonsense").is_err());
    }
}
