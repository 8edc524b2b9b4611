//! `oknoctl support-bundle`: what engineers need to look for a fault, from every node that answers, in one file.

use super::{Failure, Session, alarms, every, output};
use clap::Args;
use flate2::{Compression, write::GzEncoder};
use okno_client::v1::{GetDigestsRequest, GetHealthRequest, GetStatusRequest};
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// A node's parts together; its log lines are at most 2 MiB, the rest is figures.
const NODE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A node that says nothing for this long is left out, with a note.
const SILENCE_MAX: Duration = Duration::from_secs(20);

const README: &str = "\
What this is
  State of an Okno cluster for those who look for a fault, gathered by `oknoctl support-bundle`.

What it contains
  alarms.json             standing alarms of all nodes
  <node>/status.json      phase, role, indexes, members as the node sees them
  <node>/health.json      named checks with reasons
  <node>/digests.json     hash chain and row digests as the node has heard them
  <node>/about.txt        version, build, machine, uptime
  <node>/settings.toml    effective settings; settings hold no secrets, and values named like one are replaced
  <node>/metrics.txt      figures as Prometheus reads them
  <node>/log.jsonl        the newest log lines of the node's memory
  <node>/rocksdb.txt      figures of the database: levels, stalls, compaction; no keys, no values
  <node>/threads.txt      names, states and CPU time of threads
  <node>/process.txt      memory, descriptors, limits
  errors.txt              what could not be gathered, and why

What it does not contain
  Cases, applicants, documents, tickets, requests or replies, nor any key or value of the database.
  The security log, the journal, certificates, keys, passwords.
  Personal data in log lines: nodes do not write them there, and both the node and this command replace Cyrillic
  words, numbers of 9 digits and more, and mail addresses in every text of the log before it is packed. Names of
  workstations and officers' ids may stand in it. Look at log.jsonl before you hand it on all the same.
";

#[derive(Debug, Args)]
pub struct SupportArgs {
    /// File to write; must not exist
    #[arg(short, long, value_name = "FILE.tar.gz")]
    file: PathBuf,
}

/// Files of the bundle by their paths.
#[derive(Debug, Default)]
struct Bundle {
    files: BTreeMap<String, Vec<u8>>,
    errors: String,
}

pub async fn run(session: &Session, args: SupportArgs) -> Result<(), Failure> {
    let mut bundle = Bundle::default();
    bundle.files.insert("README.txt".into(), README.as_bytes().to_vec());
    match alarms::gather(session).await {
        Ok(found) => bundle.add("alarms.json", &output::to_json(&found)),
        Err(error) => bundle.failed("alarms", &error.text(output::Format::Table)),
    }
    let mut answered = 0;
    for said in every::ask(session, GetStatusRequest {}).await {
        match said.answer {
            Ok(status) => {
                answered += 1;
                let folder = format!("node-{}", status.node_id);
                bundle.add(&format!("{folder}/status.json"), &output::to_json(&status));
                bundle.node(session, said.index, &folder).await;
            }
            Err(error) => bundle.failed(&said.endpoint, &output::error_text(&error)),
        }
    }
    if answered == 0 {
        return Err(Failure::Broken(format!("no endpoint answers:\n{}", bundle.errors.trim_end())));
    }
    for said in every::ask(session, GetHealthRequest {}).await {
        if let Ok(health) = said.answer {
            let place = format!("node-{}/health.json", health.served_by);
            bundle.add(&place, &output::to_json(&health));
        }
    }
    for said in every::ask(session, GetDigestsRequest {}).await {
        if let Ok(digests) = said.answer {
            let place = format!("node-{}/digests.json", digests.served_by);
            bundle.add(&place, &output::to_json(&digests));
        }
    }
    let path = args.file.display().to_string();
    let count = bundle.files.len();
    let errors = bundle.errors.clone();
    let bytes = bundle.pack().map_err(|error| Failure::Broken(format!("packing: {error}")))?;
    // For its owner only: what is in it is for engineers.
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&args.file)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
    written.map_err(|error| Failure::Usage(format!("{path}: {error}")))?;
    output::line(&format!("{path}: {count} files from {answered} nodes, {} KiB", bytes.len() / 1024));
    if !errors.is_empty() {
        eprintln!("left out:\n{}", errors.trim_end());
    }
    Ok(())
}

impl Bundle {
    fn add(&mut self, path: &str, value: &serde_json::Value) {
        self.files.insert(path.to_owned(), format!("{value:#}\n").into_bytes());
    }

    fn failed(&mut self, what: &str, why: &str) {
        self.errors.push_str(&format!("{what}: {}\n", why.replace('\n', " ")));
    }

    /// The node's own parts.
    async fn node(&mut self, session: &Session, endpoint: usize, folder: &str) {
        let mut stream = match session.client.support_data(endpoint).await {
            Ok(stream) => stream,
            Err(error) => return self.failed(folder, &output::error_text(&error)),
        };
        let mut total = 0;
        loop {
            match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
                Ok(Ok(Some(piece))) => {
                    total += piece.data.len();
                    if total > NODE_BYTES_MAX {
                        return self.failed(folder, "more than a node may tell: the rest is left out");
                    }
                    let Some(name) = file_name(&piece.part) else {
                        return self.failed(folder, "a part with a name that is none");
                    };
                    self.files.entry(format!("{folder}/{name}")).or_default().extend_from_slice(&piece.data);
                }
                Ok(Ok(None)) => return,
                Ok(Err(status)) => return self.failed(folder, status.message()),
                Err(_) => return self.failed(folder, "fell silent"),
            }
        }
    }

    /// As a compressed archive. Logs pass the same sieve as on the node, which may be of another version.
    fn pack(mut self) -> std::io::Result<Vec<u8>> {
        if !self.errors.is_empty() {
            self.files.insert("errors.txt".into(), crate::redact::text(&self.errors).into_bytes());
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        for (path, bytes) in self.files {
            let bytes = if path.ends_with("/log.jsonl") { crate::redact::log_lines(&bytes) } else { bytes };
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(now);
            archive.append_data(&mut header, format!("okno-support/{path}"), bytes.as_slice())?;
        }
        archive.into_inner()?.finish()
    }
}

/// A plain file name: what a node says must not become a path of its choosing.
fn file_name(part: &str) -> Option<&str> {
    let plain = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    (plain && !part.is_empty() && !part.starts_with('.') && part.len() <= 64).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    #[test]
    fn logs_are_sieved_again_before_they_are_packed() {
        let mut bundle = Bundle::default();
        bundle.files.insert(
            "node-1/log.jsonl".into(),
            "{\"message\":\"opened for Примеров Пётр\",\"index\":1234567890}\nnot json +79000001234\n".into(),
        );
        bundle.failed("node-2", "broke\nat Примеров");
        let packed = bundle.pack().expect("packed");
        let mut archive = tar::Archive::new(GzDecoder::new(packed.as_slice()));
        let mut found = BTreeMap::new();
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            found.insert(path, text);
        }
        assert_eq!(
            found["okno-support/node-1/log.jsonl"],
            "{\"index\":1234567890,\"message\":\"opened for [word]\"}\nnot json [number]\n"
        );
        assert_eq!(found["okno-support/errors.txt"], "node-2: broke at [word]\n");
    }

    #[test]
    fn a_node_cannot_choose_a_path() {
        assert_eq!(file_name("metrics.txt"), Some("metrics.txt"));
        for bad in ["", ".", "../x", "a/b", ".hidden", "a\\b", &"x".repeat(65)] {
            assert_eq!(file_name(bad), None, "{bad}");
        }
    }
}
