//! A channel and its connector (R-I1, R-I2, R-I4), told while it happens: a case asks, the connector that a node looks after
//! fails once, the channel hands the request out again, and the answer comes back to the case, byte for byte.

use super::cluster::DevCluster;
use super::desk::Desk;
use super::fixtures;
use super::ledger::Ledger;
use super::prepare::{DevFile, NodeEntry};
use super::terminal::{Terminal, decimal};
use anyhow::{Context, Result, bail};
use okno_client::v1 as proto;
use okno_connectors::{Handler, Message, Setup, Verdict, Work};
use proto::advance_case_request::Step;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The channel, and the connector whose certificate a development cluster has.
pub const CHANNEL: &str = "smev";
const CONNECTOR: &str = "smev";
const ASK: &str = "register-extract";
const REQUEST: &str = "<Запрос><Предмет>сведения из реестра</Предмет></Запрос>";
const ANSWER: &str = "<Ответ><Сведения>подтверждены</Сведения></Ответ>";
/// What the connector says of its first try.
const FAILURE: &str = "сервис ведомства не отвечает";
/// An acknowledgement, a failure, the channel's pause, and the answer; a connector that was refused waits up to 10 s.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// The module's file: the channel's settings, and what cases of a service may ask it.
fn module(service: &str) -> String {
    format!(
        r#"format = 1

[channel]
code = "{CHANNEL}"
title = {{ ru = "Межведомственный обмен", en = "Interagency exchange" }}
connectors = ["{CONNECTOR}"]

[channel.retry]
attempts = 5
base_ms = 1000
max_ms = 5000

[[process]]
service = "{service}"

[[process.ask]]
code = "{ASK}"
title = {{ ru = "Сведения из реестра", en = "Register extract" }}
requests = [{{ channel = "{CHANNEL}", kind = "extract" }}]
"#
    )
}

/// Installs the module.
pub async fn install(admin: &Desk, service: &str, terminal: &Terminal) -> Result<()> {
    let version = admin.install_module("smev.toml", module(service)).await.context("installing a module")?;
    terminal.say(&format!("Установлен модуль обмена: канал {CHANNEL}, версия настроек {version}"));
    Ok(())
}

/// The node that looks after the story's connector.
fn host(file: &DevFile) -> Result<&NodeEntry> {
    file.nodes.first().context("a cluster has nodes")
}

/// Names the connector in its node's settings, with this program's file as it is now.
pub fn name_connector(file: &DevFile) -> Result<()> {
    let node = host(file)?;
    let text = std::fs::read_to_string(&node.settings)
        .with_context(|| format!("reading {}", node.settings.display()))?;
    let program = std::env::current_exe().context("finding this program's own file")?;
    let named = named_in(&text, &program, &file.directory)?;
    if named != text {
        std::fs::write(&node.settings, named)
            .with_context(|| format!("writing {}", node.settings.display()))?;
    }
    Ok(())
}

fn named_in(text: &str, program: &Path, directory: &Path) -> Result<String> {
    let mut table: toml::Table = text.parse().context("reading a node's settings")?;
    let command = [
        program.display().to_string(),
        "dev".to_owned(),
        "--connector".to_owned(),
        "--dir".to_owned(),
        directory.display().to_string(),
    ];
    let section = toml::Table::from_iter([("command".to_owned(), toml::Value::from(command.to_vec()))]);
    let all = table.entry("connectors").or_insert_with(|| toml::Table::new().into());
    let all = all.as_table_mut().context("the connectors of a node's settings are a table")?;
    if all.get(CONNECTOR).and_then(toml::Value::as_table) == Some(&section) {
        return Ok(text.to_owned());
    }
    all.insert(CONNECTOR.to_owned(), section.into());
    let heading: String =
        text.lines().take_while(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    Ok(heading + &toml::to_string(&table).context("writing a node's settings")?)
}

/// The connector itself: what `okno dev --connector` is, started by a node. Works until SIGTERM.
pub async fn work(directory: &Path) -> Result<()> {
    let file = DevFile::read(directory)?;
    let client = Desk::anywhere(&file, "connector", CONNECTOR)?.into_client();
    let stop = CancellationToken::new();
    let told = stop.clone();
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::spawn(async move {
        terminate.recv().await;
        told.cancel();
    });
    okno_connectors::run(client, Setup::new(CHANNEL, "okno dev"), Moody, stop).await;
    Ok(())
}

/// Fails at the first try of every message.
struct Moody;

impl Handler for Moody {
    async fn handle(&self, message: Message, _work: Work) -> Verdict {
        if message.failed_attempts == 0 {
            return Verdict::fail(FAILURE);
        }
        Verdict::complete("сведения подтверждены", ANSWER.as_bytes().to_vec())
    }
}

pub struct Channel<'a> {
    pub terminal: &'a Terminal,
    pub officer: &'a Desk,
    pub ledger: &'a Ledger,
    pub service: &'a proto::Service,
    /// Tells this run's references from those of earlier runs in the same directory.
    pub run: &'a str,
}

impl Channel<'_> {
    pub async fn tell(&self, cluster: &DevCluster) -> Result<()> {
        let say = |text: String| self.terminal.say(&text);
        let before = cluster.admin().channel(CHANNEL).await.context("reading the channel")?;
        let case = self.accepted_case().await?;
        let asked = Instant::now();
        self.officer
            .ask(self.ledger, &case, ASK, "Сведения из реестра", REQUEST.as_bytes())
            .await
            .context("asking the channel")?;
        let host = host(&cluster.file)?.id;
        say(format!("Дело {case} спрашивает по каналу {CHANNEL}; коннектор при узле {host} берёт запрос"));
        let failed = self
            .until("the connector's failure", || async {
                let now = cluster.admin().channel(CHANNEL).await.context("reading the channel")?;
                Ok((now.failed_total > before.failed_total).then_some(now))
            })
            .await?;
        say(format!("С первого раза не вышло: {FAILURE}; канал повторит запрос сам"));
        let exchange = self.until("the channel's answer", || self.answer(&case)).await?;
        let now = cluster.admin().channel(CHANNEL).await.context("reading the channel")?;
        let (handed, ended) = (now.handed_total - before.handed_total, now.ended_total - before.ended_total);
        if handed < 2 || ended != 1 {
            bail!(
                "a request that failed once was handed out {handed} times and ended {ended} times: {failed:?}"
            );
        }
        let seconds = decimal(asked.elapsed().as_secs_f64(), 1);
        say(format!("Ответ пришёл в дело через {seconds} с, попыток: {handed}"));
        let hash = self.prove(&case, &exchange).await?;
        say(format!("Запрос и ответ хранятся байт в байт, SHA-256 ответа {hash}…"));
        self.enter(&case).await
    }

    /// A case whose documents are accepted: before that nobody may be asked.
    async fn accepted_case(&self) -> Result<String> {
        let (office, service) = (fixtures::STORY_OFFICE, &self.service.code);
        let case = self
            .officer
            .open_case(self.ledger, office, service, fixtures::visitor(), None)
            .await
            .context("opening a case")?;
        let documents = self.service.documents.iter();
        let required = documents.filter(|document| document.need() == proto::DocumentNeed::Required);
        let mut kinds: Vec<&str> = required.map(|document| document.code.as_str()).collect();
        if kinds.is_empty() {
            kinds.push("other");
        }
        for (number, kind) in kinds.iter().enumerate() {
            let reference = format!("{}-channel-{number}", self.run);
            self.officer
                .add_document(self.ledger, &case, kind, &reference)
                .await
                .context("adding a document")?;
        }
        self.officer
            .advance(self.ledger, &case, Step::Accept(proto::AcceptStep {}))
            .await
            .context("accepting the documents")?;
        Ok(case)
    }

    /// The case's one exchange, once it is answered.
    async fn answer(&self, case: &str) -> Result<Option<proto::CaseExchange>> {
        let mut exchanges = self.officer.exchanges(case).await.context("reading the case's exchanges")?;
        if exchanges.len() != 1 {
            bail!("case {case} asked once and has {exchanges:?}");
        }
        let exchange = exchanges.swap_remove(0);
        match exchange.state.as_str() {
            "answered" => Ok(Some(exchange)),
            "sent" => Ok(None),
            other => bail!("the request of case {case} ended as {other}: {}", exchange.reason),
        }
    }

    /// Reads both bodies back; returns the beginning of the answer's hash.
    async fn prove(&self, case: &str, exchange: &proto::CaseExchange) -> Result<String> {
        let mut hash = String::new();
        for (reference, expected) in [(&exchange.sent, REQUEST), (&exchange.received, ANSWER)] {
            let reference = reference.clone().context("a request that was answered has both bodies")?;
            let told = reference.sha256.clone();
            let body = self.officer.message_body(case, reference).await.context("reading a body")?;
            if body != expected.as_bytes() || Sha256::digest(&body)[..] != told[..] {
                bail!("a body of case {case} is not what was sent: {} bytes", body.len());
            }
            hash = hex::encode(told);
        }
        Ok(hash.get(..16).unwrap_or(&hash).to_owned())
    }

    /// What the channel did to the case was shown to its officer, and is to be found in the end like everything else.
    async fn enter(&self, case: &str) -> Result<()> {
        let read = self.officer.get_case(case).await.context("reading the case")?;
        if read.state() != proto::CaseState::Accepted {
            bail!("case {case} has its answer and is {:?}", read.state());
        }
        for record in &read.steps {
            self.ledger.step_taken(case, record.number, &record.step);
        }
        Ok(())
    }

    /// Asks until it is there.
    async fn until<T, F>(&self, what: &str, mut ask: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        let until = Instant::now() + ANSWERED_WITHIN;
        loop {
            if let Some(found) = ask().await? {
                return Ok(found);
            }
            if Instant::now() >= until {
                bail!("{what} did not come within {ANSWERED_WITHIN:?}");
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connector_is_named_once_and_the_rest_stays() {
        let text = "# A node.\n[node]\nid = 1\n";
        let named = named_in(text, Path::new("/usr/bin/okno"), Path::new("/tmp/a")).unwrap();
        assert!(named.starts_with("# A node.\n"), "{named}");
        let table: toml::Table = named.parse().unwrap();
        assert_eq!(table["node"]["id"].as_integer(), Some(1));
        let command = table["connectors"][CONNECTOR]["command"].as_array().unwrap();
        assert_eq!(command.len(), 5);
        assert_eq!(command[0].as_str(), Some("/usr/bin/okno"));
        assert_eq!(named_in(&named, Path::new("/usr/bin/okno"), Path::new("/tmp/a")).unwrap(), named);
        // The program was moved: a node must not look for it where it was.
        let moved = named_in(&named, Path::new("/opt/okno"), Path::new("/tmp/a")).unwrap();
        assert!(moved.contains("/opt/okno") && !moved.contains("/usr/bin/okno"), "{moved}");
    }

    #[test]
    fn the_module_is_one_the_product_takes() {
        let file = okno_domain::catalogue::SourceFile::new("smev.toml", module("rosreestr.rights"));
        let read = okno_domain::channel::files::read(&file);
        assert!(read.is_ok(), "{read:?}");
    }
}
