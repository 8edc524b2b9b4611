//! The report of a drill: the same facts as JSON for machines and as a page for people.

use crate::invariants::Verdict as Held;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every invariant held and everything configured happened.
    Held,
    /// An invariant broke, or the drill could not do what it is for.
    Broken,
    /// Not run: what it needs is not here; the report says what.
    Skipped,
}

/// What one drill did and measured. Times are milliseconds of the drill's one monotonic clock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DrillReport {
    pub name: String,
    /// Rows of the fault list.
    pub faults: Vec<u32>,
    pub seed: u64,
    pub verdict: Outcome,
    pub scenario: String,
    pub expected: String,
    /// Writes acknowledged to clients; of these lost or there twice.
    pub acknowledged: u64,
    pub lost: u64,
    pub duplicated: u64,
    /// The longest time without an acknowledged write around the fault.
    pub downtime_ms: Option<u64>,
    /// From the fault until every node had caught up again.
    pub redundancy_ms: Option<u64>,
    /// Errors clients saw, by reason code.
    pub errors: BTreeMap<String, u64>,
    /// Faults injected, by kind.
    pub injected: BTreeMap<String, u64>,
    pub invariants: Vec<Held>,
    /// Anything else measured: name → figure with its unit in the name.
    pub figures: BTreeMap<String, f64>,
    pub timeline: Timeline,
    /// Why it broke or was skipped.
    pub explanation: String,
    pub took_ms: u64,
}

impl DrillReport {
    /// Of a drill that has done nothing yet, and is broken until it shows otherwise.
    pub fn begin(name: &str, faults: &[u32], seed: u64, scenario: String, expected: &str) -> Self {
        Self {
            name: name.to_owned(),
            faults: faults.to_vec(),
            seed,
            verdict: Outcome::Broken,
            scenario,
            expected: expected.to_owned(),
            acknowledged: 0,
            lost: 0,
            duplicated: 0,
            downtime_ms: None,
            redundancy_ms: None,
            errors: BTreeMap::new(),
            injected: BTreeMap::new(),
            invariants: Vec::new(),
            figures: BTreeMap::new(),
            timeline: Timeline::default(),
            explanation: String::new(),
            took_ms: 0,
        }
    }
}

/// What the page draws.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Timeline {
    pub bucket_ms: u64,
    /// Per bucket: acknowledged writes, and the longest of their latencies.
    pub acknowledged: Vec<u64>,
    pub latency_max_ms: Vec<f64>,
    pub marks: Vec<Mark>,
}

/// A fault, or its end, or what the cluster did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mark {
    pub at_ms: u64,
    pub what: String,
    /// Faults that last: when they ended.
    pub until_ms: Option<u64>,
}
