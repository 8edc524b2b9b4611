//! Whom to talk to and as whom: flags, environment, context file, in this order of precedence.

use super::Failure;
use clap::Args;
use okno_client::{Client, Context, Settings, v1};
use std::{path::PathBuf, time::Duration};
use uuid::Uuid;

/// Options every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// Context file with endpoints and certificates (oknoctl.toml)
    #[arg(long, global = true, env = "OKNOCTL_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Nodes to call, host:port, separated by commas
    #[arg(long, global = true, env = "OKNOCTL_ENDPOINTS", value_delimiter = ',', value_name = "HOST:PORT")]
    pub endpoints: Vec<String>,
    /// Name of the cluster; nodes of another one are not talked to
    #[arg(long, global = true, env = "OKNOCTL_CLUSTER")]
    pub cluster: Option<String>,
    /// Authority of the nodes' certificates, PEM
    #[arg(long, global = true, env = "OKNOCTL_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Own certificate, PEM
    #[arg(long, global = true, env = "OKNOCTL_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Key of the own certificate, PEM
    #[arg(long, global = true, env = "OKNOCTL_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Identity of the context file to call as; by default `operator` for cases, the queue and the benchmark, where the
    /// file has one, and the file's own certificate otherwise
    #[arg(long = "as", global = true, env = "OKNOCTL_AS", value_name = "NAME")]
    pub identity: Option<String>,
    /// Workstation recorded with every change
    #[arg(long, global = true, env = "OKNOCTL_WORKSTATION", value_name = "ID")]
    pub workstation: Option<String>,
    /// How long a call may take with all its retries, e.g. 30s
    #[arg(long, global = true, env = "OKNOCTL_DEADLINE", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,
    /// Language of texts from the cluster: ru or en
    #[arg(long, global = true, env = "OKNOCTL_LANG", value_name = "LANG")]
    pub lang: Option<String>,
    /// Request id of an earlier try whose outcome is unknown (UUIDv7)
    #[arg(long, global = true, value_name = "UUID")]
    pub request_id: Option<Uuid>,
    /// Number of this attempt of --request-id
    #[arg(long, global = true, requires = "request_id", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: u32,
    /// Read what a node has in its own store, even without a leader
    #[arg(long, global = true)]
    pub local: bool,
    /// Call this node only (by id)
    #[arg(long, global = true, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub node: Option<u64>,
}

impl Connection {
    /// Complete settings, or what is missing or wrong. `usual` is the identity such calls are usually made with.
    pub fn settings(&self, usual: Option<&str>) -> Result<Settings, Failure> {
        let mut context = match &self.config {
            Some(path) => Context::load(path)?,
            None => Context::default(),
        };
        match (&self.identity, usual) {
            (Some(name), _) if !context.assume(name) => {
                return Err(Failure::Usage(format!(
                    "--as {name}: the context file has no [identity.{name}]"
                )));
            }
            (None, Some(name)) => {
                context.assume(name);
            }
            _ => {}
        }
        if !self.endpoints.is_empty() {
            context.endpoints.clone_from(&self.endpoints);
        }
        for (flag, place) in
            [(&self.cluster, &mut context.cluster), (&self.workstation, &mut context.workstation)]
        {
            if let Some(value) = flag {
                place.clone_from(value);
            }
        }
        for (flag, place) in
            [(&self.ca, &mut context.ca), (&self.cert, &mut context.cert), (&self.key, &mut context.key)]
        {
            if flag.is_some() {
                place.clone_from(flag);
            }
        }
        context.deadline = self.deadline.or(context.deadline);
        let mut settings = context.settings()?;
        settings.language.clone_from(&self.lang);
        Ok(settings)
    }

    pub fn client(&self, usual: Option<&str>) -> Result<Client, Failure> {
        Ok(Client::new(self.settings(usual)?)?)
    }

    /// Identity of a mutating call; an empty id is made by the client.
    pub fn meta(&self) -> Option<v1::RequestMeta> {
        Some(v1::RequestMeta {
            request_id: self.request_id.map(|id| id.to_string()).unwrap_or_default(),
            attempt: self.attempt,
            workstation: String::new(),
        })
    }

    pub fn read(&self) -> Option<v1::ReadOptions> {
        let consistency = if self.local { v1::Consistency::Local } else { v1::Consistency::Linearizable };
        Some(v1::ReadOptions { consistency: consistency.into(), resume_token: String::new() })
    }
}
