//! `oknoctl channel …`

use super::{
    Failure, Session,
    output::{self, facts, moment, plain, table},
};
use bytes::Bytes;
use clap::{Args, Subcommand};
use okno_client::v1::{
    AssignLetterRequest, AttachedConnector, ChannelFigures, DiscardDeadLettersRequest, DrainChannelRequest,
    DropLetterRequest, FailedAttempt, GetChannelBodyRequest, GetChannelBodyResponse, InstallModuleRequest,
    ListChannelsRequest, ListDeadLettersRequest, ListDeadLettersResponse, ListParkedLettersRequest,
    ListParkedLettersResponse, PauseChannelRequest, RedriveDeadLettersRequest, ResumeChannelRequest,
    ShowChannelRequest, get_channel_body_request::Whose,
};
use sha2::{Digest as _, Sha256};
use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

/// A backlog has at most 100,000 messages.
const PAGE: u32 = 1_000;
/// What one call moves.
const MOVED_MAX: u32 = 64;
/// The largest file of a module.
const FILE_MAX: u64 = 256 * 1024;

#[derive(Debug, Subcommand)]
pub enum ChannelCommand {
    /// All channels with their figures
    List,
    /// One channel: figures, settings, attached connectors
    Show { channel: String },
    /// Install a module or change its settings, from its file
    Install {
        file: PathBuf,
        /// Check the file against the cluster and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Hand nothing out any more; requests are taken, what is out may be settled
    Pause {
        channel: String,
        /// For people, at most 300 characters
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Open it again and close its breaker
    Resume { channel: String },
    /// Take no new requests, hand out the rest
    Drain {
        channel: String,
        /// For people, at most 300 characters
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Messages given up after their attempts, with the reason of each
    DeadLetters { channel: String },
    /// Send dead letters to the end of the backlog with fresh attempts
    Redrive(DeadArgs),
    /// Give dead letters up for good: whoever asked is told
    Discard {
        #[command(flatten)]
        which: DeadArgs,
        /// Read by whoever asked
        #[arg(long)]
        reason: String,
    },
    /// Letters from outside that wait for a person
    Parked { channel: String },
    /// What a letter says that no case has, to place it; the reading is recorded
    Letter {
        channel: String,
        /// Number of the letter, as parked shows it
        letter: u64,
        /// Write the bytes as they came into this new file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// What came with a failed attempt of a message; the reading is recorded
    Attempt {
        channel: String,
        /// Id of the message, as dead-letters shows it
        message: String,
        /// Number of the body, as dead-letters shows it
        body: u64,
        /// Write the bytes as they came into this new file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// A parked letter belongs to this case
    Assign {
        channel: String,
        /// Number of the letter
        letter: u64,
        case: String,
    },
    /// A parked letter belongs to nobody
    Drop {
        channel: String,
        /// Number of the letter
        letter: u64,
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Args)]
pub struct DeadArgs {
    channel: String,
    /// Ids of messages, as dead-letters shows them
    #[arg(required_unless_present = "oldest", conflicts_with = "oldest", num_args = 0..=64)]
    messages: Vec<String>,
    /// So many of the oldest, at most 64
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOVED_MAX)))]
    oldest: Option<u32>,
}

pub async fn run(session: &Session, command: ChannelCommand) -> Result<(), Failure> {
    match command {
        ChannelCommand::List => {
            let response = session.call(ListChannelsRequest { read: session.read() }).await?;
            output::print(session.format, &response, |r| list(&r.channels));
        }
        ChannelCommand::Show { channel } => {
            let request = ShowChannelRequest { channel, read: session.read() };
            let response = session.call(request).await?;
            output::print(session.format, &response, |r| {
                let figures = r.figures.as_ref().map(shown).unwrap_or_default();
                let attached = if r.connectors.is_empty() {
                    "no connector is attached".to_owned()
                } else {
                    connectors(&r.connectors)
                };
                format!("{figures}\n\n{attached}\n\n{}", r.settings)
            });
        }
        ChannelCommand::Install { file, dry_run } => {
            let usage = |cause: String| Failure::Usage(format!("{}: {cause}", file.display()));
            let size = std::fs::metadata(&file).map_err(|error| usage(error.to_string()))?.len();
            if size > FILE_MAX {
                return Err(usage(format!("{size} bytes: a module's file has at most {FILE_MAX}")));
            }
            let text = std::fs::read_to_string(&file).map_err(|error| usage(error.to_string()))?;
            let path = file.display().to_string();
            let request = InstallModuleRequest { meta: session.meta(), path, text, dry_run };
            let response = session.call(request).await?;
            output::print(session.format, &response, |r| {
                if dry_run {
                    return format!(
                        "{} can be installed; its settings are of version {} now",
                        r.channel, r.version
                    );
                }
                format!(
                    "{}: settings of version {}; {} processes put, {} were there already",
                    r.channel, r.version, r.processes_changed, r.processes_unchanged
                )
            });
        }
        ChannelCommand::Pause { channel, reason } => {
            let request = PauseChannelRequest { meta: session.meta(), channel, reason };
            let response = session.call(request).await?;
            output::print(session.format, &response, |r| r.figures.as_ref().map(shown).unwrap_or_default());
        }
        ChannelCommand::Resume { channel } => {
            let response = session.call(ResumeChannelRequest { meta: session.meta(), channel }).await?;
            output::print(session.format, &response, |r| r.figures.as_ref().map(shown).unwrap_or_default());
        }
        ChannelCommand::Drain { channel, reason } => {
            let request = DrainChannelRequest { meta: session.meta(), channel, reason };
            let response = session.call(request).await?;
            output::print(session.format, &response, |r| {
                format!("{}\n{} messages are left", r.figures.as_ref().map(shown).unwrap_or_default(), r.left)
            });
        }
        ChannelCommand::DeadLetters { channel } => {
            let (page_size, page_token) = (PAGE, String::new());
            let request = ListDeadLettersRequest { channel, page_size, page_token, read: session.read() };
            let response = every_page!(session, request, letters);
            output::print(session.format, &response, dead_table);
        }
        ChannelCommand::Redrive(DeadArgs { channel, messages, oldest }) => {
            let request = RedriveDeadLettersRequest {
                meta: session.meta(),
                channel,
                message_ids: messages,
                oldest: oldest.unwrap_or_default(),
            };
            let response = session.call(request).await?;
            output::print(session.format, &response, |r| {
                format!("{} dead letters wait again; {} are left", r.moved, r.left)
            });
        }
        ChannelCommand::Discard { which: DeadArgs { channel, messages, oldest }, reason } => {
            let request = DiscardDeadLettersRequest {
                meta: session.meta(),
                channel,
                message_ids: messages,
                oldest: oldest.unwrap_or_default(),
                reason,
            };
            let response = session.call(request).await?;
            output::print(session.format, &response, |r| {
                format!("{} dead letters were given up; {} are left", r.moved, r.left)
            });
        }
        ChannelCommand::Parked { channel } => {
            let (page_size, page_token) = (PAGE, String::new());
            let request = ListParkedLettersRequest { channel, page_size, page_token, read: session.read() };
            let response = every_page!(session, request, letters);
            output::print(session.format, &response, parked_table);
        }
        ChannelCommand::Letter { channel, letter, out } => {
            let whose = Whose::Letter(letter);
            read_body(session, channel, whose, out).await?;
        }
        ChannelCommand::Attempt { channel, message, body, out } => {
            let whose = Whose::Attempt(FailedAttempt { message_id: message, body });
            read_body(session, channel, whose, out).await?;
        }
        ChannelCommand::Assign { channel, letter, case } => {
            let request =
                AssignLetterRequest { meta: session.meta(), channel, number: letter, case_id: case };
            let response = session.call(request).await?;
            output::print(session.format, &response, |_| "the letter is on its way to the case".to_owned());
        }
        ChannelCommand::Drop { channel, letter, reason } => {
            let request = DropLetterRequest { meta: session.meta(), channel, number: letter, reason };
            let response = session.call(request).await?;
            output::print(session.format, &response, |_| "the letter is nobody's".to_owned());
        }
    }
    Ok(())
}

/// Shows a body, or saves it. It is proven here once more: the node that answers is one of several.
async fn read_body(
    session: &Session,
    channel: String,
    whose: Whose,
    out: Option<PathBuf>,
) -> Result<(), Failure> {
    let request = GetChannelBodyRequest { channel, whose: Some(whose), read: session.read() };
    let response = session.call(request).await?;
    if Sha256::digest(&response.body)[..] != response.sha256[..] {
        return Err(Failure::Broken("the bytes are not those of their SHA-256".to_owned()));
    }
    let Some(path) = out else {
        output::print(session.format, &response, body_text);
        return Ok(());
    };
    // For its owner only: there are people in it.
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(&response.body).and_then(|()| file.sync_all()));
    written.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    let told = format!(
        "{}: {} bytes, SHA-256 {}",
        path.display(),
        response.body.len(),
        hex::encode(&response.sha256)
    );
    output::print(session.format, &GetChannelBodyResponse { body: Bytes::new(), ..response }, |_| told);
    Ok(())
}

/// As text, where a terminal can take it: control characters steer it.
fn body_text(response: &GetChannelBodyResponse) -> String {
    let head =
        facts([("bytes", response.body.len().to_string()), ("SHA-256", hex::encode(&response.sha256))]);
    let steers = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\r' | '\t');
    match std::str::from_utf8(&response.body) {
        Ok(text) if !text.contains(steers) => format!("{head}\n\n{text}"),
        _ => format!("{head}\n\nThis is no plain text: save it with --out FILE."),
    }
}

fn list(channels: &[ChannelFigures]) -> String {
    let rows = channels.iter().map(|c| {
        [
            c.channel.clone(),
            plain(c.mode().as_str_name(), "CHANNEL_MODE_"),
            plain(c.breaker().as_str_name(), "BREAKER_STATE_"),
            c.live.to_string(),
            c.out.to_string(),
            c.asking.to_string(),
            c.dead.to_string(),
            c.parked.to_string(),
            moment(c.oldest.as_ref()),
            c.title.clone(),
        ]
    });
    table(
        ["CHANNEL", "MODE", "BREAKER", "WAITING", "OUT", "ASKING", "DEAD", "PARKED", "OLDEST", "TITLE"],
        rows,
    )
}

fn shown(c: &ChannelFigures) -> String {
    facts([
        ("channel", format!("{} {}", c.channel, c.title)),
        ("mode", plain(c.mode().as_str_name(), "CHANNEL_MODE_")),
        ("reason", c.mode_reason.clone()),
        ("since", moment(c.mode_since.as_ref())),
        ("breaker", plain(c.breaker().as_str_name(), "BREAKER_STATE_")),
        ("open until", moment(c.breaker_until.as_ref())),
        ("messages", c.live.to_string()),
        ("out", c.out.to_string()),
        ("asking others", c.asking.to_string()),
        ("dead", c.dead.to_string()),
        ("oldest", moment(c.oldest.as_ref())),
        ("letters", format!("{}, of them {} parked", c.letters, c.parked)),
        ("handed out", c.handed_total.to_string()),
        ("failed", c.failed_total.to_string()),
        ("not acknowledged", c.unheard_total.to_string()),
        ("overdue", c.overdue_total.to_string()),
        ("connector gone", c.gone_total.to_string()),
        ("ended", c.ended_total.to_string()),
        ("settings version", c.version.to_string()),
    ])
}

fn connectors(connectors: &[AttachedConnector]) -> String {
    let rows = connectors.iter().map(|c| {
        [
            c.connector.clone(),
            c.instance.clone(),
            c.node_id.to_string(),
            moment(c.heard_at.as_ref()),
            c.unacknowledged.to_string(),
            c.working.to_string(),
            c.software.clone(),
        ]
    });
    table(["CONNECTOR", "INSTANCE", "NODE", "HEARD", "UNACKNOWLEDGED", "WORKING", "SOFTWARE"], rows)
}

fn dead_table(response: &ListDeadLettersResponse) -> String {
    let rows = response.letters.iter().map(|l| {
        [
            l.message_id.clone(),
            l.kind.clone(),
            l.attempts.to_string(),
            moment(l.accepted_at.as_ref()),
            moment(l.buried_at.as_ref()),
            moment(l.expires_at.as_ref()),
            l.received.iter().map(|body| body.number.to_string()).collect::<Vec<_>>().join(","),
            l.reason.clone(),
        ]
    });
    table(["MESSAGE", "KIND", "ATTEMPTS", "ACCEPTED", "BURIED", "EXPIRES", "RECEIVED", "REASON"], rows)
}

fn parked_table(response: &ListParkedLettersResponse) -> String {
    let rows = response.letters.iter().map(|l| {
        [
            l.number.to_string(),
            l.outside_id.clone(),
            l.about.clone(),
            l.kind.clone(),
            l.subject.clone(),
            moment(l.received_at.as_ref()),
            l.reason.clone(),
        ]
    });
    table(["LETTER", "OUTSIDE ID", "ABOUT", "KIND", "SUBJECT", "RECEIVED", "REASON"], rows)
}
