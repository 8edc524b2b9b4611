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
    Quarantined { reason: String, remedy: String },
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
            Self::Quarantined { reason, remedy } => !reason.is_empty() && !remedy.is_empty(),
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
            Self::Quarantined { reason, remedy } => write!(f, "is quarantined: {reason}; {remedy}"),
            Self::Serves => f.write_str("serves and has caught up"),
            Self::Undecided { seen } => write!(f, "neither stopped nor caught up: {seen}"),
        }
    }
}

/// Waits until it is known what becomes of a running node. A leader elsewhere is needed to tell "caught up".
pub async fn of(bench: &mut Bench, node: u64, within: Duration) -> Fate {
    of_when(bench, node, within, true).await
}

/// As [`of`], of a node that serves already and must not go on: serving is no fate.
pub async fn of_serving(bench: &mut Bench, node: u64, within: Duration) -> Fate {
    of_when(bench, node, within, false).await
}

async fn of_when(bench: &mut Bench, node: u64, within: Duration, serving_counts: bool) -> Fate {
    let until = Instant::now() + within;
    let others: Vec<u64> = bench.cluster().running().into_iter().filter(|other| *other != node).collect();
    // What the others had committed: to have caught up with that is to have caught up.
    let mut aim = u64::MAX;
    for other in &others {
        if let Ok(status) = bench.cluster().status(*other).await
            && status.role() == proto::MemberRole::Leader
        {
            aim = status.commit_index;
        }
    }
    let mut seen = String::from("it never answered");
    loop {
        if let Some(status) = bench.cluster().ended(node, Duration::ZERO).await {
            return Fate::Ended { status, said: last_error(&bench.cluster().log(node)) };
        }
        if let Ok(status) = bench.cluster().status(node).await {
            if status.phase() == proto::NodePhase::Quarantined {
                return Fate::Quarantined { reason: status.reason, remedy: status.remedy };
            }
            let serves = status.phase() == proto::NodePhase::Serving && status.applied_index >= aim;
            if serving_counts && serves {
                return Fate::Serves;
            }
            seen = format!("{:?}, applied {} of {aim}", status.phase(), status.applied_index);
        }
        if Instant::now() > until {
            return Fate::Undecided { seen };
        }
        tokio::time::sleep(POLL).await;
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
