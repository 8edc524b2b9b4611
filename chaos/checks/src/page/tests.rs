//! The page of made-up drills: whole, escaped, and frank about what broke.

use super::*;
use crate::{
    invariants::{Invariant, Verdict},
    report::{Mark, Timeline},
};

fn verdict(id: Invariant, held: bool, detail: &str) -> Verdict {
    Verdict { id, held, detail: detail.into() }
}

fn counted(rows: &[(&str, u64)]) -> BTreeMap<String, u64> {
    rows.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

/// Load at 50 ms a bucket with silence in `quiet`, and slow answers after it.
fn timeline(buckets: usize, quiet: std::ops::Range<usize>, marks: Vec<Mark>) -> Timeline {
    let acknowledged = (0..buckets).map(|at| {
        let busy = 40 + (at * 7 % 13) as u64;
        if quiet.contains(&at) { 0 } else { busy }
    });
    let latency_max_ms = (0..buckets).map(|at| match at {
        at if quiet.contains(&at) => 0.0,
        at if at == quiet.end => 50.0 * quiet.len() as f64,
        at => 6.0 + (at * 11 % 17) as f64,
    });
    Timeline {
        bucket_ms: 50,
        acknowledged: acknowledged.collect(),
        latency_max_ms: latency_max_ms.collect(),
        marks,
    }
}

fn mark(at_ms: u64, until_ms: Option<u64>, what: &str) -> Mark {
    Mark { at_ms, what: what.into(), until_ms }
}

fn held() -> DrillReport {
    DrillReport {
        name: "leader-lost".into(),
        faults: vec![1, 20],
        seed: 7_261_934,
        verdict: Outcome::Held,
        scenario:
            "Three nodes under load. The leader is killed at a random moment; it is started again 8 s later."
                .into(),
        expected: "Another node leads within 2 s. Nothing acknowledged is lost, nothing happens twice."
            .into(),
        acknowledged: 13_482,
        lost: 0,
        duplicated: 0,
        downtime_ms: Some(1_350),
        redundancy_ms: Some(9_240),
        errors: counted(&[("NO_LEADER", 212), ("OUTCOME_UNKNOWN", 31), ("unreachable", 64)]),
        injected: counted(&[("kill", 1)]),
        invariants: vec![
            verdict(Invariant::Acknowledged, true, "13 482 acknowledged writes read back from every node"),
            verdict(Invariant::Linearizable, true, "96 cases, 14 120 operations"),
            verdict(Invariant::OnceARequest, true, "31 unknown outcomes retried with the same request id"),
            verdict(Invariant::SameState, true, "chain and digest equal on 3 nodes at index 13 991"),
            verdict(Invariant::Progress, true, "writes again after 1.35 s; allowed 10 s"),
        ],
        figures: [("writes_per_s", 1_021.4), ("latency_p99_ms", 14.2), ("elections", 1.0)]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        timeline: timeline(
            264,
            80..107,
            vec![
                mark(4_010, Some(12_020), "node 2, the leader, is killed"),
                mark(5_240, None, "node 3 leads"),
                mark(12_020, None, "node 2 is started"),
                mark(13_100, None, "node 2 has caught up"),
            ],
        ),
        explanation: String::new(),
        took_ms: 31_870,
    }
}

fn broken() -> DrillReport {
    DrillReport {
        name: "power-loss".into(),
        faults: vec![4],
        seed: 42,
        verdict: Outcome::Broken,
        scenario: "All nodes lose what they have not synced, at once, under load; they come back after 3 s."
            .into(),
        expected: "Service resumes by itself; every acknowledged write is there.".into(),
        acknowledged: 5_210,
        lost: 37,
        duplicated: 1,
        downtime_ms: Some(6_450),
        redundancy_ms: None,
        errors: counted(&[("unreachable <tcp> & \"tls\"", 940)]),
        injected: counted(&[("power loss", 3)]),
        invariants: vec![
            verdict(Invariant::OneLeader, true, "terms 2, 3, 5"),
            verdict(
                Invariant::Acknowledged,
                false,
                "37 acknowledged writes are gone; the first: case 0198c0de-7f00 <add> request \"a'1\" & others",
            ),
        ],
        figures: [("recovery_ms", 2_980.0)].map(|(name, value)| (name.to_owned(), value)).into(),
        timeline: timeline(300, 120..250, vec![mark(6_000, Some(9_000), "<script>alert('power')</script>")]),
        explanation:
            "acknowledged-survives broke: the log of node 1 ends at index 4 801, 5 173 was acknowledged.\n\
                      This binary has the planted fault \"skip-fsync\"."
                .into(),
        took_ms: 38_400,
    }
}

fn skipped() -> DrillReport {
    DrillReport {
        name: "one-way-cut".into(),
        faults: vec![21],
        verdict: Outcome::Skipped,
        invariants: Vec::new(),
        timeline: Timeline::default(),
        explanation: "needs root: a network namespace cannot be made here".into(),
        acknowledged: 0,
        lost: 0,
        duplicated: 0,
        downtime_ms: None,
        redundancy_ms: None,
        took_ms: 12,
        ..held()
    }
}

fn simulated() -> SimSummary {
    SimSummary {
        seeds: 2_000,
        steps: 3_104_220,
        seeds_per_minute: 1_183.4,
        injected: counted(&[("crash", 8_211), ("message dropped", 181_020), ("torn write", 702)]),
        outcomes: counted(&[("done", 402_113), ("refused", 61_400), ("unknown", 20_031)]),
        failures: vec![SimFailure {
            seed: 1_729,
            check: Invariant::OneLeader.id().into(),
            detail: "term 9: nodes 1 & 3".into(),
        }],
    }
}

/// Tags nest and close, attributes are quoted, every `&` begins an entity: what an XML parser would refuse is told.
fn check_xml(text: &str) -> Result<usize, String> {
    let (mut open, mut elements) = (Vec::new(), 0);
    let mut rest = text.strip_prefix("<!DOCTYPE html>\n").ok_or("no document type")?;
    while let Some(at) = rest.find('<') {
        check_text(&rest[..at])?;
        let end = rest[at..].find('>').ok_or("a tag does not end")? + at;
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes nothing"));
            }
            continue;
        }
        elements += 1;
        let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(format!("<{tag}> is not a tag"));
        }
        let parts: Vec<&str> = attributes.split('"').collect();
        if parts.len().is_multiple_of(2) || !parts.last().is_some_and(|rest| rest.trim().is_empty()) {
            return Err(format!("quotes of <{tag}>"));
        }
        for pair in parts.chunks_exact(2) {
            if !pair[0].ends_with('=') {
                return Err(format!("attributes of <{tag}>"));
            }
            check_text(pair[1])?;
        }
        if !closed {
            open.push(name);
        }
    }
    check_text(rest)?;
    if open.is_empty() { Ok(elements) } else { Err(format!("{open:?} are not closed")) }
}

fn check_text(text: &str) -> Result<(), String> {
    for (at, _) in text.match_indices('&') {
        if !["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"].iter().any(|entity| text[at..].starts_with(entity)) {
            return Err(format!("a bare & in {text:?}"));
        }
    }
    if text.contains('>') { Err(format!("a bare > in {text:?}")) } else { Ok(()) }
}

#[test]
fn the_checker_sees_what_is_malformed() {
    let begin = "<!DOCTYPE html>\n";
    assert_eq!(check_xml(&format!("{begin}<a><b x=\"1\"/>t &amp; u</a>")), Ok(2));
    for bad in
        ["<a>", "<a></b>", "<a x=1></a>", "<a x=\"1></a>", "<a>&nbsp</a>", "</a>", "<a>x > y</a>", "<a"]
    {
        assert!(check_xml(&format!("{begin}{bad}")).is_err(), "{bad}");
    }
}

/// `OKNO_PAGE_SAMPLE` keeps the page, to look at it.
#[test]
fn the_page_is_whole_and_well_formed() {
    assert!(!STYLE.contains(['<', '&']), "a style is not escaped");
    let page = render("okno 0.1.0 · sample", &[held(), broken(), skipped()], Some(&simulated()));
    if let Some(path) = std::env::var_os("OKNO_PAGE_SAMPLE") {
        std::fs::write(path, &page).expect("written");
    }
    let elements = check_xml(&page).expect("well-formed");
    assert!(elements > 500, "{elements} elements");
    for address in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(address), "the page needs nothing beside itself, but has {address}");
    }
    let every = [held(), broken(), skipped()];
    for drill in &every {
        for text in [&drill.name, &drill.scenario, &drill.expected, &drill.explanation] {
            assert!(page.contains(&Escaped(text).to_string()), "{text}");
        }
        for verdict in &drill.invariants {
            for text in [verdict.id.title(), &verdict.detail] {
                assert!(page.contains(&Escaped(text).to_string()), "{text}");
            }
        }
    }
}

#[test]
fn texts_of_a_run_cannot_become_markup() {
    let mut drill = broken();
    let evil = "</title><img onerror='x' src=\"y\">&\u{0}\u{1b}";
    for text in [&mut drill.name, &mut drill.scenario, &mut drill.expected, &mut drill.explanation] {
        *text = evil.into();
    }
    drill.invariants[0].detail = evil.into();
    drill.errors = counted(&[(evil, 1)]);
    drill.injected = counted(&[(evil, 1)]);
    drill.figures = [(evil.to_owned(), f64::NAN)].into();
    drill.timeline.marks.push(mark(1, None, evil));
    let mut sim = simulated();
    sim.failures[0].check = evil.into();
    sim.failures[0].detail = evil.into();
    sim.outcomes = counted(&[(evil, 1)]);
    let page = render(evil, &[drill], Some(&sim));
    check_xml(&page).expect("well-formed");
    assert!(!page.contains("<img") && !page.contains("<script") && !page.contains(['\u{0}', '\u{1b}']));
    assert!(page.contains("&lt;img onerror=&#39;x&#39; src=&quot;y&quot;&gt;&amp;\u{fffd}"));
}

#[test]
fn what_broke_cannot_be_overlooked() {
    let good = render("", &[held(), skipped()], None);
    assert!(good.contains("<h1>Every invariant held</h1>") && !good.contains("does not hold"));
    assert!(good.contains("needs root: a network namespace cannot be made here"));
    let bad = render("", &[held(), broken(), skipped()], None);
    assert!(bad.contains("<h1>An invariant broke</h1>") && bad.contains("✗ broken"));
    assert!(bad.contains("<strong>does not hold</strong> <code>acknowledged-survives</code>"));
    assert!(bad.contains("<td class=\"n bad\">37</td>"), "what was lost stands in the summary");
    assert!(
        render("", &[], Some(&simulated())).contains("<h1>An invariant broke</h1>"),
        "a failing seed counts"
    );
    assert!(render("", &[skipped()], None).contains("<h1>Nothing was run</h1>"));
}

#[test]
fn timelines_of_any_shape_are_drawn() {
    let mut drill = held();
    let marks: Vec<Mark> = (0..500).map(|at| mark(at, Some(at / 2), "strobe")).collect();
    let shapes = [
        Timeline::default(),
        Timeline { bucket_ms: 0, acknowledged: vec![1, 2], ..Timeline::default() },
        Timeline { bucket_ms: 100, acknowledged: vec![0; 3], marks, ..Timeline::default() },
        Timeline {
            bucket_ms: 10,
            acknowledged: vec![u64::MAX / 4; 3],
            latency_max_ms: vec![f64::NAN, 1e9, -1.0],
            marks: Vec::new(),
        },
        timeline(100_000, 10..50_000, vec![mark(u64::MAX, Some(0), "behind the end")]),
    ];
    for shape in shapes {
        drill.timeline = shape;
        let page = render("", std::slice::from_ref(&drill), None);
        check_xml(&page).expect("well-formed");
        assert!(
            !page.contains("NaN") && !page.contains("inf\"") && page.len() < 512 * 1024,
            "{}",
            page.len()
        );
    }
}
