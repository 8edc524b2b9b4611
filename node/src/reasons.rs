//! Reason codes that arise in the node itself, and the kinds of notices: the published list is made from here.
//!
//! Those of the domain stand in `okno_domain::refusal`, those of the runtime in `okno_runtime::REASONS`. A code is
//! part of the public interface: stable, and never given another meaning.

use crate::observability::alarms::KINDS;

/// Code, gRPC code, meaning.
pub const REASONS: &[(&str, &str, &str)] = &[
    ("BACKUP_BUSY", "UNAVAILABLE", "another backup, a verification or a restore uses the target"),
    ("BACKUP_FAILED", "UNAVAILABLE", "the backup failed; those before it are as they were"),
    ("BACKUP_NO_TARGET", "FAILED_PRECONDITION", "the node has no backup target in its settings"),
    (
        "BACKUP_REFUSED",
        "FAILED_PRECONDITION",
        "the target cannot be used: not prepared, not mounted, of a newer format, or on the medium of the data",
    ),
    ("BODY_FORGOTTEN", "NOT_FOUND", "the message is kept no longer: its year is over"),
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
        "CONNECTORS_FULL",
        "RESOURCE_EXHAUSTED",
        "the node has as many attached connectors as it may, or this certificate has",
    ),
    ("CONNECTOR_FLOODS", "RESOURCE_EXHAUSTED", "the connector has as many calls under way as it may"),
    (
        "CONNECTOR_LOOPS",
        "RESOURCE_EXHAUSTED",
        "the connector attaches again and again: wait ten seconds before the next time",
    ),
    (
        "CONNECTOR_REPLACED",
        "UNAVAILABLE",
        "another stream of this instance took the place: two processes must not share an instance",
    ),
    (
        "CONNECTOR_SILENT",
        "UNAVAILABLE",
        "nothing was heard of the connector for three heartbeats: attach again",
    ),
    (
        "DEADLINE_EXCEEDED",
        "DEADLINE_EXCEEDED",
        "the deadline passed before the outcome was known: retry with the same request id",
    ),
    ("INTERNAL", "INTERNAL", "a fault of the server"),
    ("LEARNER_BEHIND", "FAILED_PRECONDITION", "the learner has not caught up, or was not heard within 2 s"),
    (
        "LEASE_LOST",
        "UNAVAILABLE",
        "the workstation's lease ran out, or another stream of it holds the lease: attach again",
    ),
    ("MEMBERS_FULL", "FAILED_PRECONDITION", "the cluster has as many members as it may"),
    ("MEMBER_ADDRESS_TAKEN", "FAILED_PRECONDITION", "another member is reached at this address"),
    ("MEMBER_ALREADY", "FAILED_PRECONDITION", "the node is a member already, at another address"),
    ("MEMBER_CHANGE_IN_FLIGHT", "UNAVAILABLE", "another change of members is under way"),
    ("MEMBER_CHANGE_LATER", "UNAVAILABLE", "leadership is changing hands; the members were not changed"),
    ("MEMBER_ID_USED", "FAILED_PRECONDITION", "a node id dies with its data: take one that was never used"),
    ("MEMBER_INVALID", "FAILED_PRECONDITION", "node ids begin at 1, and a member has an address"),
    ("MEMBER_UNKNOWN", "FAILED_PRECONDITION", "the node is not a member"),
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
        "POWER_FAILING",
        "UNAVAILABLE",
        "the node leaves for want of power and begins nothing new; another may take it",
    ),
    (
        "QUORUM_WOULD_BE_LOST",
        "FAILED_PRECONDITION",
        "too few members that are connected and have caught up would remain to decide anything",
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
        "OFFICE_UNKNOWN",
        "PERSON_UNKNOWN",
        "SERVICE_UNKNOWN",
    ];

    /// Everything in quotes that looks like a code, in the files where failures are made.
    fn codes_in_sources() -> BTreeSet<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files: Vec<_> =
            ["front.rs", "failure.rs", "identity.rs"].iter().map(|file| root.join(file)).collect();
        for folder in ["keepers", "services"] {
            for entry in std::fs::read_dir(root.join(folder)).expect("listed") {
                files.push(entry.expect("an entry").path());
            }
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
        assert_eq!(codes_in_sources(), listed);
        assert!(REASONS.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order of codes");
        assert!(NOTICES.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order of kinds");
    }

    #[test]
    fn published_list_is_complete() {
        crate::published::check("reasons.md", "reasons of the node", &markdown());
    }
}
