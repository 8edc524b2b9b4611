//! The file of a module (R-I4): its channel's settings, and what it adds to services. Pure: text in, settings or problems
//! out. The format is described in `docs/channels.md`; an unknown key is an error.

use super::settings::{BreakerSettings, Inbound, Order, Rate, Retry, Settings, is_code};
use crate::catalogue::{
    Ask, AskOrder, AskRequest, Problem, Process, SourceFile, Text, Wait,
    files::{TextV1, line_of, syntax},
};
use serde::Deserialize;
use std::sync::Arc;

/// The only version of the file format so far; each file states it.
pub const FORMAT: u32 = 1;
/// Bytes of a file: comments included, several times what it can say.
pub const BYTES_MAX: usize = 256 * 1024;

/// A module, ready to install: `Configure` for the channel, `LoadProcesses` for the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Of its channel: `channel/<code>`.
    pub code: String,
    pub settings: Settings,
    /// Checked against the catalogue when they are loaded.
    pub processes: Vec<Arc<Process>>,
}

/// Reads and checks a module's file: all of it, or everything that is wrong.
pub fn read(file: &SourceFile) -> Result<Module, Vec<Problem>> {
    let problem = |key: &str, expected: String, found: String| Problem {
        file: file.path.clone(),
        line: line_of(&file.text, key),
        key: key.to_owned(),
        expected,
        found,
    };
    if file.text.len() > BYTES_MAX {
        return Err(vec![problem("", format!("at most {BYTES_MAX} bytes"), file.text.len().to_string())]);
    }
    let parsed: FileV1 = toml::from_str(&file.text).map_err(|error| vec![syntax(file, &error)])?;
    if parsed.format != FORMAT {
        return Err(vec![problem("format", FORMAT.to_string(), parsed.format.to_string())]);
    }
    let code = parsed.channel.code.clone();
    let mut problems = Vec::new();
    if !is_code(&code) {
        problems.push(problem(
            "channel.code",
            "a code of 1 to 64 of a-z, 0-9, '.', '-', '_'".to_owned(),
            code.clone(),
        ));
    }
    let settings = Settings::from(parsed.channel);
    for found in settings.problems() {
        problems.push(problem(&format!("channel.{}", found.key), found.expected, found.found));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let processes = parsed.process.into_iter().map(|process| {
        let asks = process.ask.into_iter().map(Into::into).collect();
        Arc::new(Process { module: code.clone(), service: process.service, asks, claimed: Vec::new() })
    });
    Ok(Module { processes: processes.collect(), code, settings })
}

/// The channel's part of a file as it would have to be written to give these settings.
pub fn write(code: &str, settings: &Settings) -> String {
    use std::fmt::Write;
    let text = |text: &str| toml::Value::from(text).to_string();
    let list = toml::Value::from(settings.connectors.clone());
    let Text { ru, en } = &settings.title;
    let mut out = format!(
        "format = {FORMAT}\n\n[channel]\ncode = {}\ntitle = {{ ru = {}, en = {} }}\nconnectors = {list}\norder = {}\n\
         parallel = {}\ndepth = {}\n",
        text(code),
        text(ru),
        text(en),
        text(settings.order.name()),
        settings.parallel,
        settings.depth,
    );
    // A string takes whatever is written to it.
    if let Some(expires_ms) = settings.expires_ms {
        let _ = writeln!(out, "expires_ms = {expires_ms}");
    }
    let _ = write!(out, "\n[channel.lease]\nack_ms = {}\nwork_ms = {}\n", settings.ack_ms, settings.work_ms);
    if let Some(Rate { messages, per_ms, burst }) = settings.rate {
        let _ = write!(out, "\n[channel.rate]\nmessages = {messages}\nper_ms = {per_ms}\nburst = {burst}\n");
    }
    let Retry { attempts, base_ms, max_ms } = settings.retry;
    let _ = write!(out, "\n[channel.retry]\nattempts = {attempts}\nbase_ms = {base_ms}\nmax_ms = {max_ms}\n");
    match settings.breaker {
        None => out.push_str("\n[channel.breaker]\nfailures = 0\n"),
        Some(BreakerSettings { failures, open_ms, open_max_ms, probes }) => {
            let _ = write!(
                out,
                "\n[channel.breaker]\nfailures = {failures}\nopen_ms = {open_ms}\nopen_max_ms = {open_max_ms}\n\
                 probes = {probes}\n"
            );
        }
    }
    let Inbound { depth, remember_days } = settings.inbound;
    let _ = write!(out, "\n[channel.inbound]\ndepth = {depth}\nremember_days = {remember_days}\n");
    out
}

// ---- the file format, version 1 ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileV1 {
    format: u32,
    channel: ChannelV1,
    #[serde(default)]
    process: Vec<ProcessV1>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelV1 {
    code: String,
    title: TextV1,
    connectors: Vec<String>,
    order: Option<OrderV1>,
    parallel: Option<u16>,
    depth: Option<u32>,
    expires_ms: Option<u32>,
    lease: Option<LeaseV1>,
    rate: Option<RateV1>,
    retry: Option<RetryV1>,
    breaker: Option<BreakerV1>,
    inbound: Option<InboundV1>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum OrderV1 {
    Free,
    Key,
    Strict,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseV1 {
    ack_ms: Option<u32>,
    work_ms: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateV1 {
    messages: u32,
    per_ms: u32,
    burst: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryV1 {
    attempts: Option<u32>,
    base_ms: Option<u32>,
    max_ms: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BreakerV1 {
    /// 0: there is no breaker.
    failures: Option<u32>,
    open_ms: Option<u32>,
    open_max_ms: Option<u32>,
    probes: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InboundV1 {
    depth: Option<u32>,
    remember_days: Option<u16>,
}

impl From<ChannelV1> for Settings {
    fn from(file: ChannelV1) -> Self {
        let usual = Self::default();
        let retry = file.retry.map_or(usual.retry, |retry| Retry {
            attempts: retry.attempts.unwrap_or(usual.retry.attempts),
            base_ms: retry.base_ms.unwrap_or(usual.retry.base_ms),
            max_ms: retry.max_ms.unwrap_or(usual.retry.max_ms),
        });
        let breaker = match (file.breaker, usual.breaker) {
            (Some(breaker), _) if breaker.failures == Some(0) => None,
            (Some(breaker), Some(usual)) => Some(BreakerSettings {
                failures: breaker.failures.unwrap_or(usual.failures),
                open_ms: breaker.open_ms.unwrap_or(usual.open_ms),
                open_max_ms: breaker.open_max_ms.unwrap_or(usual.open_max_ms),
                probes: breaker.probes.unwrap_or(usual.probes),
            }),
            (_, usual) => usual,
        };
        let inbound = file.inbound.map_or(usual.inbound, |inbound| Inbound {
            depth: inbound.depth.unwrap_or(usual.inbound.depth),
            remember_days: inbound.remember_days.unwrap_or(usual.inbound.remember_days),
        });
        Self {
            title: Text::from(file.title),
            connectors: file.connectors,
            order: match file.order {
                None | Some(OrderV1::Free) => Order::Free,
                Some(OrderV1::Key) => Order::Key,
                Some(OrderV1::Strict) => Order::Strict,
            },
            parallel: file.parallel.unwrap_or(usual.parallel),
            depth: file.depth.unwrap_or(usual.depth),
            ack_ms: file.lease.as_ref().and_then(|lease| lease.ack_ms).unwrap_or(usual.ack_ms),
            work_ms: file.lease.as_ref().and_then(|lease| lease.work_ms).unwrap_or(usual.work_ms),
            expires_ms: file.expires_ms,
            rate: file.rate.map(|rate| Rate {
                messages: rate.messages,
                per_ms: rate.per_ms,
                burst: rate.burst.unwrap_or(1),
            }),
            retry,
            breaker,
            inbound,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessV1 {
    service: String,
    ask: Vec<AskV1>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskV1 {
    code: String,
    title: TextV1,
    requests: Vec<RequestV1>,
    #[serde(default = "all")]
    wait: WaitV1,
    #[serde(default = "parallel")]
    order: AskOrderV1,
    #[serde(default = "yes")]
    blocking: bool,
    #[serde(default)]
    mandatory: bool,
    expires_ms: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestV1 {
    channel: String,
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum WaitV1 {
    All,
    Any,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum AskOrderV1 {
    Parallel,
    Sequential,
}

const fn all() -> WaitV1 {
    WaitV1::All
}

const fn parallel() -> AskOrderV1 {
    AskOrderV1::Parallel
}

const fn yes() -> bool {
    true
}

impl From<AskV1> for Ask {
    fn from(ask: AskV1) -> Self {
        Self {
            code: ask.code,
            title: Text::from(ask.title),
            requests: ask
                .requests
                .into_iter()
                .map(|request| AskRequest { channel: request.channel, kind: request.kind })
                .collect(),
            wait: match ask.wait {
                WaitV1::All => Wait::All,
                WaitV1::Any => Wait::Any,
            },
            order: match ask.order {
                AskOrderV1::Parallel => AskOrder::Parallel,
                AskOrderV1::Sequential => AskOrder::Sequential,
            },
            blocking: ask.blocking,
            mandatory: ask.mandatory,
            expires_ms: ask.expires_ms,
        }
    }
}
