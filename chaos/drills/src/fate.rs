//! What became of a node that was given bad data or a bad disk: it must end or close itself, or be right.

use crate::bench::Bench;
use crate::harness::POLL;
use okno_client::v1 as proto;
use std::fmt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Characters of a log line that are worth quoting.
const LINE_MAX: usize = 240;

#[derive(Debug, Clone)]
pub enum Fate {
    /// The process ended by itself; with the last line of its log that speaks of an error.
    Ended { status: ExitStatus, said: String },
    /// Raft and clients are closed, health and administration open.
    Quarantined {
        reason: String,
        remedy: String,
        /// It took entries from the others before it noticed.
        took_part: bool,
    },
    /// It serves and has caught up with the others.
    Serves,
    /// None of these by the time stated.
    Undecided { seen: String },
}

impl Fate {
    /// It stopped rather than serve what may be wrong, and said why.
    pub fn stopped(&self) -> bool {
        match self {
            Self::Ended { status, said } => !status.success() && !said.is_empty(),
            Self::Quarantined { reason, remedy, .. } => !reason.is_empty() && !remedy.is_empty(),
            Self::Serves | Self::Undecided { .. } => false,
        }
    }

    /// It stopped, or it serves; what it serves is for the final checks to judge.
    pub fn is_safe(&self) -> bool {
        self.stopped() || matches!(self, Self::Serves)
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { status, said } => write!(f, "ended ({status}): {said}"),
            Self::Quarantined { reason, remedy, took_part } => {
                let late = if *took_part { ", having taken part" } else { "" };
                write!(f, "is quarantined{late}: {reason}; {remedy}")
            }
            Self::Serves => f.write_str("serves and has caught up"),
            Self::Undecided { seen } => write!(f, "neither stopped nor caught up: {seen}"),
        }
    }
}

/// Looks after one node from before its start, or from before its fault.
#[derive(Debug)]
pub struct Look {
    node: u64,
    /// What its log said before is not about this.
    log_bytes: usize,
    /// The others had committed so much: to have caught up with it is to have caught up.
    aim: u64,
}

impl Look {
    pub async fn begin(bench: &mut Bench, node: u64) -> Self {
        let log_bytes = bench.cluster().log(node).len();
        let others: Vec<u64> = bench.cluster().running().into_iter().filter(|other| *other != node).collect();
        let mut aim = 0;
        for other in others {
            if let Ok(status) = bench.cluster().status(other).await {
                aim = aim.max(status.commit_index);
            }
        }
        assert!(aim > 0, "no other node says how far it is");
        Self { node, log_bytes, aim }
    }

    /// Waits until it is known what becomes of a node that starts.
    pub async fn fate(&self, bench: &mut Bench, within: Duration) -> Fate {
        self.fate_when(bench, within, true).await
    }

    /// As [`Look::fate`], of a node that serves already and must not go on: that it serves is no fate.
    pub async fn fate_of_serving(&self, bench: &mut Bench, within: Duration) -> Fate {
        self.fate_when(bench, within, false).await
    }

    async fn fate_when(&self, bench: &mut Bench, within: Duration, serving_counts: bool) -> Fate {
        let until = Instant::now() + within;
        let mut seen = String::from("it never answered");
        loop {
            if let Some(status) = bench.cluster().ended(self.node, Duration::ZERO).await {
                return Fate::Ended { status, said: last_error(&self.log(bench)) };
            }
            if let Ok(status) = bench.cluster().status(self.node).await {
                if status.phase() == proto::NodePhase::Quarantined {
                    let took_part = status.last_index >= self.aim;
                    return Fate::Quarantined { reason: status.reason, remedy: status.remedy, took_part };
                }
                let serves = status.phase() == proto::NodePhase::Serving && status.applied_index >= self.aim;
                if serving_counts && serves {
                    return Fate::Serves;
                }
                seen = format!("{:?}, applied {} of {}", status.phase(), status.applied_index, self.aim);
            }
            if Instant::now() > until {
                return Fate::Undecided { seen };
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What the node wrote since the look began.
    pub fn log(&self, bench: &mut Bench) -> String {
        let log = bench.cluster().log(self.node);
        log.get(self.log_bytes..).unwrap_or_default().to_owned()
    }
}

/// The last line that says what went wrong.
fn last_error(log: &str) -> String {
    let plain = |line: &str| {
        // Terminal colours are for terminals.
        let mut text = String::new();
        let mut escaped = false;
        for character in line.chars() {
            match character {
                '\u{1b}' => escaped = true,
                'm' if escaped => escaped = false,
                _ if escaped => {}
                _ => text.push(character),
            }
        }
        text.trim().chars().take(LINE_MAX).collect::<String>()
    };
    let lines: Vec<String> = log.lines().map(plain).filter(|line| !line.is_empty()).collect();
    let tells = |line: &&String| line.contains("ERROR") || line.to_lowercase().contains("error");
    lines.iter().rev().find(tells).or(lines.last()).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn only_an_end_with_a_reason_is_a_stop() {
        let ended = |code: i32, said: &str| Fate::Ended {
            status: ExitStatus::from_raw(code << 8),
            said: said.into(),
        };
        assert!(ended(74, "ERROR the process ends").stopped());
        assert!(!ended(0, "ERROR the process ends").stopped(), "success is no stop");
        assert!(!ended(74, "").stopped(), "nobody would know why");
        assert!(!Fate::Serves.stopped() && Fate::Serves.is_safe());
        assert!(!Fate::Undecided { seen: String::new() }.is_safe());
    }

    #[test]
    fn quotes_the_last_error() {
        let log = "INFO start\n\u{1b}[31mERROR\u{1b}[0m the disk is gone\nINFO bye\n";
        assert_eq!(last_error(log), "ERROR the disk is gone");
        assert_eq!(last_error("one\ntwo\n"), "two");
        assert_eq!(last_error(""), "");
    }
}
