//! Reads what `/metrics` shows, strictly: Prometheus text format 0.0.4. What the format does not allow, and what our
//! own rules do not (every family has HELP and TYPE, and stands in one piece), is an error with its line.

use std::collections::{BTreeMap, BTreeSet};

/// Name → value.
pub type Labels = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// All samples of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    pub name: String,
    pub kind: Kind,
    pub help: String,
    /// Sample name (with `_bucket`, `_sum`, `_count` for histograms), labels, value.
    pub samples: Vec<(String, Labels, f64)>,
}

/// What a node showed at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exposition {
    pub families: BTreeMap<String, Family>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ExpositionError {
    pub line: usize,
    pub problem: String,
}

impl Exposition {
    pub fn parse(text: &str) -> Result<Self, ExpositionError> {
        let mut parser = Parser { families: BTreeMap::new(), current: None, seen: BTreeSet::new() };
        for (number, line) in text.lines().enumerate() {
            parser.line(line).map_err(|problem| ExpositionError { line: number + 1, problem })?;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(ExpositionError {
                line: text.lines().count(),
                problem: "the last line has no end".into(),
            });
        }
        let mut families = parser.families;
        families.retain(|_, family| !family.samples.is_empty());
        Ok(Self { families })
    }

    /// Sum of a name's samples with these labels; `None` when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let family = self.family_of(name)?;
        let mut found = None;
        for (sample, has, value) in &family.samples {
            let fits =
                sample == name && labels.iter().all(|(k, v)| has.get(*k).is_some_and(|found| found == v));
            if fits {
                *found.get_or_insert(0.0) += value;
            }
        }
        found
    }

    /// Value of a name, over all its labels; 0 when it is not there.
    pub fn value(&self, name: &str) -> f64 {
        self.sum(name, &[]).unwrap_or_default()
    }

    /// Cumulative buckets of a histogram, upper bound → count, over the samples that `wanted` takes.
    pub fn buckets(&self, name: &str, wanted: impl Fn(&Labels) -> bool) -> Vec<(f64, f64)> {
        let sample_name = format!("{name}_bucket");
        let mut found: Vec<(f64, f64)> = Vec::new();
        let samples = self.families.get(name).map(|family| family.samples.as_slice()).unwrap_or_default();
        for (sample, labels, value) in samples.iter().filter(|(sample, ..)| *sample == sample_name) {
            let Some(bound) = labels.get("le").and_then(|text| number(text)) else { continue };
            debug_assert!(!sample.is_empty());
            if !wanted(labels) {
                continue;
            }
            match found.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += value,
                None => found.push((bound, *value)),
            }
        }
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        found
    }

    fn family_of(&self, sample: &str) -> Option<&Family> {
        self.families.get(sample).or_else(|| {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| sample.strip_suffix(end))?;
            self.families.get(base)
        })
    }
}

/// The value below which the share `quantile` of what was counted between two moments lies: linear within its bucket,
/// as Prometheus does it; the last bound but infinity when it lies beyond. `None`: nothing was counted.
pub fn quantile(before: &[(f64, f64)], after: &[(f64, f64)], quantile: f64) -> Option<f64> {
    let counted: Vec<(f64, f64)> = after
        .iter()
        .map(|(bound, count)| {
            let earlier = before.iter().find(|(known, _)| known == bound).map_or(0.0, |(_, count)| *count);
            // A node that was started again counts from nothing.
            (*bound, (count - earlier).max(0.0))
        })
        .collect();
    let total = counted.last()?.1;
    if total <= 0.0 {
        return None;
    }
    let wanted = quantile * total;
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in &counted {
        if *count >= wanted {
            if bound.is_infinite() || *count <= below {
                return Some(lower);
            }
            return Some(lower + (bound - lower) * (wanted - below) / (count - below));
        }
        (lower, below) = (*bound, *count);
    }
    Some(lower)
}

struct Parser {
    families: BTreeMap<String, Family>,
    /// Family whose lines are being read.
    current: Option<String>,
    /// Samples by name and labels: none may come twice.
    seen: BTreeSet<(String, Vec<(String, String)>)>,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("HELP without a text")?;
            if self.families.contains_key(name) {
                return Err(format!("{name} is described twice"));
            }
            check_name(name)?;
            let family = Family {
                name: name.to_owned(),
                kind: Kind::Gauge,
                help: help.to_owned(),
                samples: Vec::new(),
            };
            self.families.insert(name.to_owned(), family);
            self.current = None;
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("TYPE without a type")?;
            let family = self.families.get_mut(name).ok_or_else(|| format!("{name} has no HELP"))?;
            if !family.samples.is_empty() || self.current.as_deref() == Some(name) {
                return Err(format!("the type of {name} comes twice or after its samples"));
            }
            family.kind = match kind {
                "counter" => Kind::Counter,
                "gauge" => Kind::Gauge,
                "histogram" => Kind::Histogram,
                other => return Err(format!("unknown type {other:?}")),
            };
            self.current = Some(name.to_owned());
            return Ok(());
        }
        if line.starts_with('#') {
            return Ok(());
        }
        self.sample(line)
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let (name, labels, value) = parse_sample(line)?;
        let current = self.current.clone().ok_or_else(|| format!("{name} has no TYPE"))?;
        let family = self.families.get_mut(&current).ok_or("a type without a family")?;
        let fits = match family.kind {
            Kind::Histogram => name
                .strip_prefix(current.as_str())
                .is_some_and(|end| ["_bucket", "_sum", "_count"].contains(&end)),
            Kind::Counter | Kind::Gauge => name == current,
        };
        if !fits {
            return Err(format!("{name} stands among the samples of {current}"));
        }
        let id = (name.clone(), labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect());
        if !self.seen.insert(id) {
            return Err(format!("{name} comes twice with the same labels"));
        }
        family.samples.push((name, labels, value));
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if first && rest { Ok(()) } else { Err(format!("{name:?} is not a name")) }
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        other if other.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) => {
            other.parse().ok()
        }
        _ => None,
    }
}

fn parse_sample(line: &str) -> Result<(String, Labels, f64), String> {
    let end = line.find(['{', ' ']).ok_or("a sample without a value")?;
    let (name, mut rest) = line.split_at(end);
    check_name(name)?;
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
            check_name(label)?;
            let (value, after) = quoted(after)?;
            if labels.insert(label.to_owned(), value).is_some() {
                return Err(format!("label {label} comes twice"));
            }
            rest = after.strip_prefix(',').unwrap_or(after);
        }
    }
    let text = rest.strip_prefix(' ').ok_or("no blank before the value")?;
    let value = number(text).ok_or_else(|| format!("{text:?} is not a number"))?;
    Ok((name.to_owned(), labels, value))
}

/// A quoted value behind its opening quote, and what follows its closing one.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((place, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, &text[place + 1..])),
            '\\' => match letters.next() {
                Some((_, '\\')) => value.push('\\'),
                Some((_, '"')) => value.push('"'),
                Some((_, 'n')) => value.push('\n'),
                _ => return Err("an unknown escape".into()),
            },
            other => value.push(other),
        }
    }
    Err("a value without its closing quote".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_total Things\n# TYPE a_total counter\na_total{code=\"Ok\"} 3\na_total{code=\"x\\\"y\"} 4\n\
        # HELP h_seconds Time\n# TYPE h_seconds histogram\nh_seconds_bucket{le=\"1\"} 2\nh_seconds_bucket{le=\"+Inf\"} 3\nh_seconds_sum 4.5\nh_seconds_count 3\n";

    #[test]
    fn what_a_node_shows_is_read() {
        let found = Exposition::parse(GOOD).expect("good");
        assert_eq!(found.value("a_total"), 7.0);
        assert_eq!(found.sum("a_total", &[("code", "x\"y")]), Some(4.0));
        assert_eq!(found.sum("a_total", &[("code", "z")]), None);
        assert_eq!(found.value("h_seconds_count"), 3.0);
        assert_eq!(found.buckets("h_seconds", |_| true), [(1.0, 2.0), (f64::INFINITY, 3.0)]);
        assert_eq!(found.families["a_total"].help, "Things");
    }

    #[test]
    fn what_the_format_does_not_allow_is_refused() {
        for (bad, problem) in [
            ("a_total 1\n", "has no TYPE"),
            ("# TYPE a gauge\na 1\n", "has no HELP"),
            ("# HELP a x\n# TYPE a gauge\na 1\na 1\n", "twice"),
            ("# HELP a x\n# TYPE a gauge\nb 1\n", "stands among"),
            ("# HELP a x\n# TYPE a gauge\na{b=\"c} 1\n", "closing quote"),
            ("# HELP a x\n# TYPE a gauge\na one\n", "not a number"),
            ("# HELP a x\n# TYPE a gauge\na{1b=\"c\"} 1\n", "not a name"),
            ("# HELP a x\n# HELP a y\n", "described twice"),
            ("# HELP a x\n# TYPE a summary\n", "unknown type"),
            ("# HELP a x\n# TYPE a gauge\na 1", "no end"),
        ] {
            let error = Exposition::parse(bad).expect_err(bad).to_string();
            assert!(error.contains(problem), "{bad:?}: {error}");
        }
    }

    #[test]
    fn quantiles_are_of_what_was_counted_between() {
        let inf = f64::INFINITY;
        let before = [(1.0, 10.0), (2.0, 10.0), (inf, 10.0)];
        let after = [(1.0, 10.0), (2.0, 110.0), (inf, 110.0)];
        assert_eq!(quantile(&before, &after, 0.5), Some(1.5));
        assert_eq!(quantile(&after, &after, 0.5), None, "nothing happened");
        assert_eq!(quantile(&[], &[(1.0, 1.0), (inf, 100.0)], 0.99), Some(1.0), "beyond the last bound");
        assert_eq!(quantile(&after, &before, 0.5), None, "started again");
    }
}
