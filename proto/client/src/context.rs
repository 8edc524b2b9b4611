//! The context file (`oknoctl.toml`): which cluster, by which nodes, with which certificates.
//!
//! ```toml
//! endpoints = ["node1.example:7400", "node2.example:7400", "node3.example:7400"]
//! cluster = "region-42"       # optional: nodes of another cluster are not talked to
//! ca = "clients-ca.pem"       # relative to this file
//! cert = "officer.pem"
//! key = "officer.key"
//! workstation = "ws-1"        # optional
//! deadline = "30s"            # optional
//!
//! [identity.operator]         # optional: a further identity, for calls that are made as such
//! cert = "officer.pem"
//! key = "officer.key"
//! ```

use crate::{client::Settings, connect::TlsFiles, error::SetupError};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// Far above any real context; a wrong file named by mistake is not read whole.
const FILE_MAX: u64 = 64 * 1024;
/// A region has three nodes, a test a few more.
const ENDPOINTS_MAX: usize = 16;

/// What a context file says; everything may also come from flags or the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Context {
    pub endpoints: Vec<String>,
    pub cluster: String,
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub workstation: String,
    #[serde(deserialize_with = "duration")]
    pub deadline: Option<Duration>,
    /// Further identities by name, usually their kind: one person may hold an administrator's certificate and an
    /// officer's, and no node lets the one do what is the other's.
    pub identity: BTreeMap<String, IdentityFiles>,
}

/// A further identity's certificate and key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text)
        .map(Some)
        .map_err(|_| serde::de::Error::custom(format!("{text:?} is no duration, expected e.g. \"30s\"")))
}

impl Context {
    /// Reads a context file; paths in it are relative to its folder. Errors name file, line and key.
    pub fn load(path: &Path) -> Result<Self, SetupError> {
        let fail = |cause: String| SetupError::File { path: path.to_owned(), cause };
        let size = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
        if size > FILE_MAX {
            return Err(fail(format!("{size} bytes: a context file has at most {FILE_MAX}")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        let mut context: Self =
            toml::from_str(&text).map_err(|error| fail(error.to_string().trim_end().to_owned()))?;
        for endpoint in &context.endpoints {
            parse_endpoint(endpoint).map_err(|error| fail(error.to_string()))?;
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let own = [&mut context.ca, &mut context.cert, &mut context.key].into_iter().flatten();
        let further = context.identity.values_mut().flat_map(|files| [&mut files.cert, &mut files.key]);
        for file in own.chain(further) {
            if file.is_relative() {
                *file = folder.join(&*file);
            }
        }
        Ok(context)
    }

    /// Makes a further identity of the file the one that calls are made with; false: there is none of this name.
    pub fn assume(&mut self, name: &str) -> bool {
        let Some(files) = self.identity.get(name).cloned() else { return false };
        self.cert = Some(files.cert);
        self.key = Some(files.key);
        true
    }

    /// Complete settings, or what is missing.
    pub fn settings(&self) -> Result<Settings, SetupError> {
        if self.endpoints.is_empty() {
            return Err(SetupError::Missing { key: "endpoints" });
        }
        if self.endpoints.len() > ENDPOINTS_MAX {
            return Err(SetupError::Value {
                key: "endpoints",
                found: format!("{} of them", self.endpoints.len()),
                expected: "at most 16",
            });
        }
        let endpoints = self.endpoints.iter().map(|e| parse_endpoint(e)).collect::<Result<Vec<_>, _>>()?;
        let path =
            |key: &'static str, path: &Option<PathBuf>| path.clone().ok_or(SetupError::Missing { key });
        let tls = TlsFiles {
            ca: path("ca", &self.ca)?,
            cert: path("cert", &self.cert)?,
            key: path("key", &self.key)?,
        };
        let mut settings = Settings::new(endpoints, tls);
        settings.cluster.clone_from(&self.cluster);
        settings.workstation.clone_from(&self.workstation);
        if let Some(deadline) = self.deadline {
            settings.deadline = deadline;
        }
        Ok(settings)
    }
}

/// `host:port`, also with `https://` before it.
pub fn parse_endpoint(text: &str) -> Result<String, SetupError> {
    let invalid = || SetupError::Value {
        key: "endpoints",
        found: text.to_owned(),
        expected: "host:port, e.g. \"node1.example:7400\"; there is no plain-text port",
    };
    let bare = text.trim().strip_prefix("https://").unwrap_or(text.trim()).trim_end_matches('/');
    let (host, port) = bare.rsplit_once(':').ok_or_else(invalid)?;
    let port: u16 = port.parse().map_err(|_| invalid())?;
    if host.is_empty() || port == 0 || host.contains('/') || host.contains(char::is_whitespace) {
        return Err(invalid());
    }
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Context, String> {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("oknoctl.toml");
        std::fs::write(&path, text).expect("written");
        Context::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("oknoctl.toml");
        std::fs::write(
            &path,
            "endpoints = [\"localhost:7400\", \"https://127.0.0.1:7401/\"]\nca = \"pki/ca.pem\"\ncert = \"/etc/okno/c.pem\"\nkey = \"k.pem\"\ndeadline = \"5s\"\n",
        )
        .expect("written");
        let context = Context::load(&path).expect("valid");
        assert_eq!(context.ca, Some(dir.path().join("pki/ca.pem")));
        assert_eq!(context.cert, Some(PathBuf::from("/etc/okno/c.pem")));
        let settings = context.settings().expect("complete");
        assert_eq!(settings.endpoints, ["localhost:7400", "127.0.0.1:7401"]);
        assert_eq!(settings.deadline, Duration::from_secs(5));
    }

    #[test]
    fn errors_name_line_and_key() {
        let unknown = load("endpoints = [\"a:1\"]\nendpoint = \"b:2\"\n").expect_err("unknown key");
        assert!(
            unknown.contains("line 2") && unknown.contains("`endpoint`") && unknown.contains("expected"),
            "{unknown}"
        );
        let kind = load("cluster = 7\n").expect_err("wrong type");
        assert!(kind.contains("line 1") && kind.contains("expected a string"), "{kind}");
        let syntax = load("ca = \n").expect_err("syntax");
        assert!(syntax.contains("line 1"), "{syntax}");
        let deadline = load("deadline = \"soon\"\n").expect_err("duration");
        assert!(deadline.contains("line 1") && deadline.contains("30s"), "{deadline}");
        let endpoint = load("endpoints = [\"http://a:1\"]\n").expect_err("plain text");
        assert!(endpoint.contains("http://a:1") && endpoint.contains("host:port"), "{endpoint}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = Context::default().settings().expect_err("empty").to_string();
        assert!(missing.contains("endpoints") && missing.contains("OKNOCTL_ENDPOINTS"), "{missing}");
        let context = Context { endpoints: vec!["a:1".to_owned()], ..Context::default() };
        assert!(context.settings().expect_err("no ca").to_string().starts_with("ca is missing"));
    }

    #[test]
    fn further_identities_are_assumed_by_name() {
        let mut context = load(
            "cert = \"/a.pem\"\nkey = \"/a.key\"\n[identity.operator]\ncert = \"/o.pem\"\nkey = \"/o.key\"\n",
        )
        .expect("a context");
        assert!(!context.assume("kiosk"));
        assert_eq!(context.cert.as_deref(), Some(Path::new("/a.pem")));
        assert!(context.assume("operator"));
        assert_eq!(context.cert.as_deref(), Some(Path::new("/o.pem")));
        assert_eq!(context.key.as_deref(), Some(Path::new("/o.key")));
        assert!(load("[identity.operator]\ncert = \"/o.pem\"\n").expect_err("no key").contains("key"));
    }
}
