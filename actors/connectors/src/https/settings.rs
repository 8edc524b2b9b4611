//! The file of an HTTPS connector: which cluster and channel it works for, and which service it asks.
//!
//! ```toml
//! [okno]                                  # as a context file of oknoctl
//! endpoints = ["node1.example:7400"]
//! cluster = "region"
//! ca = "ca.pem"                           # paths are relative to this file
//! cert = "egrn-1.pem"
//! key = "egrn-1.key"
//!
//! [connector]
//! channel = "egrn"
//! workers = 8                             # requests at once, 1 to 64
//!
//! [service]
//! url = "https://egrn.example/request"
//! ca = "egrn-ca.pem"                      # authority of the service's certificate
//! cert = "mfc.pem"                        # our certificate for it; left out: none is shown
//! key = "mfc.key"
//! connect_ms = 5000
//! answer_ms = 60000                       # from the request to the last byte of the answer
//! answer_bytes_max = 65536
//! content_type = "application/xml"
//! ```

use crate::{message::BODY_BYTES_MAX, runner::WORKERS_MAX};
use anyhow::{Context as _, Result, bail};
use http::Uri;
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Far above any real file; a wrong one named by mistake is not read whole.
const FILE_MAX: u64 = 64 * 1024;
/// The longest of its times: an hour.
const TIME_MAX_MS: u64 = 3_600_000;

/// Everything the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileV1 {
    okno: OknoV1,
    connector: ConnectorV1,
    service: ServiceV1,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OknoV1 {
    endpoints: Vec<String>,
    cluster: String,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectorV1 {
    channel: String,
    #[serde(default = "workers")]
    workers: usize,
    #[serde(default)]
    instance: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceV1 {
    url: String,
    ca: PathBuf,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    #[serde(default = "connect_ms")]
    connect_ms: u64,
    #[serde(default = "answer_ms")]
    answer_ms: u64,
    #[serde(default = "answer_bytes_max")]
    answer_bytes_max: usize,
    #[serde(default = "content_type")]
    content_type: String,
}

const fn workers() -> usize {
    8
}

const fn connect_ms() -> u64 {
    5_000
}

const fn answer_ms() -> u64 {
    60_000
}

const fn answer_bytes_max() -> usize {
    BODY_BYTES_MAX
}

fn content_type() -> String {
    "application/octet-stream".to_owned()
}

/// The service that is asked.
#[derive(Debug, Clone)]
pub struct Service {
    pub url: Uri,
    pub ca: PathBuf,
    /// Certificate and key.
    pub own: Option<(PathBuf, PathBuf)>,
    pub connect: Duration,
    pub answer: Duration,
    pub answer_bytes_max: usize,
    pub content_type: http::HeaderValue,
}

/// A whole connector.
#[derive(Debug)]
pub struct Settings {
    pub client: okno_client::Settings,
    pub channel: String,
    pub workers: usize,
    /// Of the process; `None`: one is made.
    pub instance: Option<String>,
    pub service: Service,
}

/// Reads and checks a file; says what is wrong and where.
pub fn load(path: &Path) -> Result<Settings> {
    let size = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
    if size > FILE_MAX {
        bail!("{}: {size} bytes: a connector's file has at most {FILE_MAX}", path.display());
    }
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parse(&text, path.parent().unwrap_or(Path::new(""))).with_context(|| path.display().to_string())
}

fn parse(text: &str, folder: &Path) -> Result<Settings> {
    let FileV1 { okno, connector, service } = toml::from_str(text)?;
    let here = |path: PathBuf| if path.is_relative() { folder.join(path) } else { path };
    let context = okno_client::Context {
        endpoints: okno.endpoints,
        cluster: okno.cluster,
        ca: Some(here(okno.ca)),
        cert: Some(here(okno.cert)),
        key: Some(here(okno.key)),
        ..okno_client::Context::default()
    };
    if !(1..=WORKERS_MAX).contains(&connector.workers) {
        bail!("connector.workers: expected 1 to {WORKERS_MAX}");
    }
    let url: Uri = service.url.parse().context("service.url")?;
    if url.scheme_str() != Some("https") || url.host().is_none() {
        bail!("service.url: expected https://host[:port]/path, found {}", service.url);
    }
    for (key, ms) in [("service.connect_ms", service.connect_ms), ("service.answer_ms", service.answer_ms)] {
        if !(1..=TIME_MAX_MS).contains(&ms) {
            bail!("{key}: expected 1 to {TIME_MAX_MS}");
        }
    }
    if !(1..=BODY_BYTES_MAX).contains(&service.answer_bytes_max) {
        bail!("service.answer_bytes_max: expected 1 to {BODY_BYTES_MAX}, what a channel takes");
    }
    let own = match (service.cert, service.key) {
        (Some(cert), Some(key)) => Some((here(cert), here(key))),
        (None, None) => None,
        _ => bail!("service.cert and service.key stand together"),
    };
    Ok(Settings {
        client: context.settings()?,
        channel: connector.channel,
        workers: connector.workers,
        instance: Some(connector.instance).filter(|instance| !instance.is_empty()),
        service: Service {
            url,
            ca: here(service.ca),
            own,
            connect: Duration::from_millis(service.connect_ms),
            answer: Duration::from_millis(service.answer_ms),
            answer_bytes_max: service.answer_bytes_max,
            content_type: service.content_type.parse().context("service.content_type")?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file of the module's page.
    fn documented() -> String {
        let source = include_str!("settings.rs");
        let (_, rest) = source.split_once("//! ```toml\n").expect("a file stands there");
        let (block, _) = rest.split_once("//! ```").expect("to its end");
        block.lines().map(|line| line.trim_start_matches("//!").trim_start().to_owned() + "\n").collect()
    }

    #[test]
    fn the_documented_file_is_good_and_paths_are_relative_to_it() {
        let settings = parse(&documented(), Path::new("/etc/okno")).expect("as documented");
        assert_eq!((settings.channel.as_str(), settings.workers), ("egrn", 8));
        assert_eq!(settings.service.ca, Path::new("/etc/okno/egrn-ca.pem"));
        assert_eq!(settings.client.tls.ca, Path::new("/etc/okno/ca.pem"));
        assert!(settings.service.own.is_some());
    }

    #[test]
    fn the_packaged_example_is_good_and_the_manual_page_has_its_keys() {
        let example = include_str!("../../../../ops/packaging/egrn.toml");
        let settings = parse(example, Path::new("/etc/okno")).expect("good");
        assert_eq!(settings.client.tls.key, Path::new("/etc/okno/tls/egrn-1.key"));
        let page = include_str!("../../../../ops/packaging/okno-https.1");
        let sections: toml::Table = example.parse().expect("TOML");
        for (section, keys) in sections {
            assert!(page.contains(&format!(".SS [{section}]")), "{section}");
            for key in keys.as_table().expect("a section").keys() {
                let mut tagged = page.lines().filter(|line| line.starts_with(".B"));
                let named = tagged.any(|line| line.split_whitespace().any(|word| word == key));
                assert!(named, "{section}.{key}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, expected) in [
            ("https://egrn.example/request", "http://egrn.example/", "service.url"),
            ("workers = 8", "workers = 65", "connector.workers"),
            ("connect_ms = 5000", "connect_ms = 0", "service.connect_ms"),
            ("answer_bytes_max = 65536", "answer_bytes_max = 65537", "service.answer_bytes_max"),
            ("key = \"mfc.key\"", "", "service.cert and service.key"),
            ("channel = \"egrn\"", "chanel = \"egrn\"", "chanel"),
        ] {
            let text = documented();
            assert!(text.contains(from), "{from}");
            let error = parse(&text.replace(from, to), Path::new("")).expect_err(from);
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }
}
