//! What the benchmark prints. The JSON form is a contract: scripts compare runs by it.

use serde::{Deserialize, Serialize};

/// All runs of one benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The build profile of this binary: numbers of a debug build mean nothing.
    pub profile: String,
    pub tls: String,
    pub runs: Vec<Run>,
}

/// One operation with one number of clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    pub op: String,
    pub clients: u32,
    pub seconds: u32,
    pub ops_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub errors: Errors,
}

/// Operations that did not succeed, by class (rule 1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Errors {
    pub refused: u64,
    pub not_applied: u64,
    pub unknown: u64,
}

impl Report {
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings have a JSON form")
    }

    pub fn to_table(&self) -> String {
        let mut text = format!("profile {}, {}\n", self.profile, self.tls);
        text.push_str(&format!(
            "{:<6} {:>8} {:>8} {:>12} {:>10} {:>10} {:>10} {:>24}\n",
            "OP", "CLIENTS", "SECONDS", "OPS/S", "P50 MS", "P99 MS", "P99.9 MS", "REFUSED/NOT APPL./UNKN."
        ));
        for run in &self.runs {
            let errors = format!("{}/{}/{}", run.errors.refused, run.errors.not_applied, run.errors.unknown);
            text.push_str(&format!(
                "{:<6} {:>8} {:>8} {:>12.1} {:>10.3} {:>10.3} {:>10.3} {:>24}\n",
                run.op, run.clients, run.seconds, run.ops_per_s, run.p50_ms, run.p99_ms, run.p999_ms, errors
            ));
        }
        text.truncate(text.trim_end().len());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_exactly_the_agreed_shape() {
        let report = Report {
            profile: "release".to_owned(),
            tls: "mutual TLS 1.3".to_owned(),
            runs: vec![Run {
                op: "write".to_owned(),
                clients: 16,
                seconds: 10,
                ops_per_s: 3500.5,
                p50_ms: 4.1,
                p99_ms: 9.25,
                p999_ms: 12.0,
                errors: Errors { refused: 0, not_applied: 2, unknown: 1 },
            }],
        };
        let value: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
        assert_eq!(
            value,
            serde_json::json!({
                "profile": "release",
                "tls": "mutual TLS 1.3",
                "runs": [{
                    "op": "write", "clients": 16, "seconds": 10, "ops_per_s": 3500.5,
                    "p50_ms": 4.1, "p99_ms": 9.25, "p999_ms": 12.0,
                    "errors": {"refused": 0, "not_applied": 2, "unknown": 1}
                }]
            })
        );
        assert!(report.to_table().contains("3500.5"));
    }
}
