//! Reason codes that arise in the node itself, and the kinds of notices: the published list is made from here.
//!
//! Those of the domain stand in `okno_domain::refusal`, those of the runtime in `okno_runtime::REASONS`. A code is
//! part of the public interface: stable, and never given another meaning.

use crate::observability::alarms::KINDS;

/// Code, gRPC code, meaning.
pub const REASONS: &[(&str, &str, &str)] = &[
    (
        "CERTIFICATE_WITHOUT_IDENTITY",
        "UNAUTHENTICATED",
        "the certificate names no identity `okno://<cluster>/<kind>/<id>`",
    ),
    ("CERTIFICATE_WRONG_CLUSTER", "UNAUTHENTICATED", "the certificate is of another cluster"),
    (
        "CERTIFICATE_WRONG_KIND",
        "PERMISSION_DENIED",
        "the certificate is of a kind this listener does not serve",
    ),
    (
        "DEADLINE_EXCEEDED",
        "DEADLINE_EXCEEDED",
        "the deadline passed before the outcome was known: retry with the same request id",
    ),
    ("INTERNAL", "INTERNAL", "a fault of the server"),
    (
        "LEASE_LOST",
        "UNAVAILABLE",
        "the workstation's lease ran out, or another stream of it holds the lease: attach again",
    ),
    ("MESSAGE_MALFORMED", "INVALID_ARGUMENT", "the message cannot be decoded"),
    ("MESSAGE_TOO_LARGE", "INVALID_ARGUMENT", "the message is larger than the node takes"),
    ("METHOD_NOT_ALLOWED", "PERMISSION_DENIED", "a certificate of this kind may not call the method"),
    ("METHOD_UNKNOWN", "PERMISSION_DENIED", "there is no such method here"),
    ("NODE_BEHIND", "UNAVAILABLE", "the node has not reached the resume token's index yet"),
    ("NODE_CLOSED", "UNAVAILABLE", "the node takes nothing at the moment: it is going down or in quarantine"),
    ("NODE_NOT_READY", "UNAVAILABLE", "the node has not joined the cluster yet"),
    (
        "NODE_QUARANTINED",
        "UNAVAILABLE",
        "the node closed itself because its data failed a check; call another",
    ),
    ("NODE_STOPPING", "UNAVAILABLE", "the node is going down: resume the stream on another"),
    ("NOT_LEADER", "UNAVAILABLE", "only the leader does this; the metadata `okno-leader` names it"),
    ("NO_LEADER", "UNAVAILABLE", "no leader is known at the moment"),
    ("OUTCOME_UNKNOWN", "ABORTED", "the call may have taken effect: retry with the same request id"),
    ("OVERLOADED", "RESOURCE_EXHAUSTED", "a bound is reached; retry later"),
    (
        "PAGE_TOKEN_STALE",
        "INVALID_ARGUMENT",
        "the page or resume token is foreign, damaged or of another filter",
    ),
    (
        "SECURITY_LOG_UNAVAILABLE",
        "UNAVAILABLE",
        "what must be recorded cannot be recorded, and so is not served",
    ),
    (
        "TRANSFER_BAD_TARGET",
        "FAILED_PRECONDITION",
        "leadership cannot go to this node: it is no other voting member",
    ),
    ("TRANSFER_BUSY", "UNAVAILABLE", "another hand-over is under way"),
    ("TRANSFER_ELSEWHERE", "FAILED_PRECONDITION", "another member than the one asked for took over"),
    ("TRANSFER_NO_TARGET", "FAILED_PRECONDITION", "no other member is near enough to take over"),
    ("TRANSFER_TIMED_OUT", "UNAVAILABLE", "the target did not take over in time"),
    ("WATCHES_FULL", "RESOURCE_EXHAUSTED", "the node has as many watch streams as it may"),
    (
        "WATCH_TOO_SLOW",
        "RESOURCE_EXHAUSTED",
        "nothing was taken from the stream for 30 s: resume with the last token",
    ),
    ("WORKSTATIONS_FULL", "RESOURCE_EXHAUSTED", "the node has as many attached workstations as it may"),
    ("WORKSTATION_FOREIGN", "PERMISSION_DENIED", "the certificate is another workstation's"),
];

/// Kinds of notices and what they tell.
pub const NOTICES: &[(&str, &str)] = &[
    ("ALARM_OVER", "an alarm that was told is over"),
    ("LEADER_CHANGED", "another node leads"),
    ("LEADER_KNOWN", "a leader is known again"),
    ("MEMBER_DOWN", "a node cannot be reached from the one that tells it; stands until it is back"),
    ("MEMBER_UP", "a node is back"),
    ("NODE_QUARANTINED", "the node that tells it closed itself because its data failed a check"),
    ("NODE_STOPPING", "the node that tells it is going down: attach to another"),
    ("NO_LEADER", "no leader is known, changes are not taken; stands until one is"),
    ("WORKSTATION_LOST", "a workstation's lease ran out"),
];

/// The lists as Markdown, for `docs/reasons.md`.
pub fn markdown() -> String {
    use std::fmt::Write;
    let mut text = String::from("| Reason | gRPC code | Meaning |\n|---|---|---|\n");
    for (code, status, meaning) in REASONS {
        let _ = writeln!(text, "| `{code}` | {status} | {meaning} |");
    }
    text.push_str("\n| Refused by the runtime | Meaning |\n|---|---|\n");
    for (code, meaning) in okno_runtime::REASONS {
        let _ = writeln!(text, "| `{code}` | {meaning} |");
    }
    text.push_str("\n| Notice | Tells |\n|---|---|\n");
    for (kind, meaning) in NOTICES {
        let _ = writeln!(text, "| `{kind}` | {meaning} |");
    }
    text.push_str(
        "\n| Alarm | Severity | Told to workstations | Runbook | For people |\n|---|---|---|---|---|\n",
    );
    for row in KINDS {
        let (kind, severity, runbook) = (row.kind, row.severity.name(), row.runbook);
        let told = if row.tell { "yes" } else { "" };
        let _ = writeln!(
            text,
            "| `{kind}` | {severity} | {told} | [{runbook}](runbooks/{runbook}.md) | {} |",
            row.text_ru
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, path::Path};

    /// Codes of the domain that reads use with the same meaning.
    const OF_THE_DOMAIN: &[&str] = &[
        "ACCESS_DENIED",
        "CALENDAR_YEAR_MISSING",
        "CASE_UNKNOWN",
        "DIRECTORY_ENTRY_UNKNOWN",
        "FIELD_INVALID",
        "OFFICE_FOREIGN",
        "PERSON_UNKNOWN",
        "SERVICE_UNKNOWN",
    ];

    /// Everything in quotes that looks like a code, in the files where failures are made.
    fn codes_in_sources() -> BTreeSet<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files: Vec<_> =
            ["front.rs", "failure.rs", "identity.rs"].iter().map(|file| root.join(file)).collect();
        for entry in std::fs::read_dir(root.join("services")).expect("listed") {
            files.push(entry.expect("an entry").path());
        }
        let mut found = BTreeSet::new();
        for file in files {
            let text = std::fs::read_to_string(&file).expect("read");
            let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            for quoted in text.split('"').skip(1).step_by(2) {
                let form_ok = quoted.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
                if form_ok && quoted.len() > 4 && quoted != "CARGO_PKG_VERSION" {
                    found.insert(quoted.to_owned());
                }
            }
        }
        found
    }

    #[test]
    fn lists_are_complete_and_ordered() {
        let listed: BTreeSet<String> = REASONS
            .iter()
            .map(|(code, ..)| *code)
            .chain(NOTICES.iter().map(|(kind, _)| *kind))
            .chain(OF_THE_DOMAIN.iter().copied())
            .map(str::to_owned)
            .collect();
        let known: BTreeSet<String> =
            listed.iter().filter(|code| *code != "OUTCOME_UNKNOWN").cloned().collect();
        assert_eq!(codes_in_sources(), known);
        assert!(REASONS.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order of codes");
        assert!(NOTICES.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order of kinds");
    }

    #[test]
    fn published_list_is_complete() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reasons.md");
        let text = std::fs::read_to_string(&page).expect("read");
        let (begin, end) = ("<!-- begin reasons of the node -->\n", "<!-- end reasons of the node -->\n");
        let (head, rest) = text.split_once(begin).expect("the page has the list's begin");
        let (body, tail) = rest.split_once(end).expect("the page has the list's end");
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            std::fs::write(&page, format!("{head}{begin}{}{end}{tail}", markdown())).expect("written");
        } else {
            assert_eq!(body, markdown(), "run with UPDATE_GOLDENFILES=1");
        }
    }
}
