//! The report for people: one page that needs nothing beside itself, made of the same facts as the JSON.
//!
//! Style and drawings are inline, every text that comes from a run is escaped, and the page is well-formed XML, which
//! is what its test can check. A reader in a hurry sees the verdict, then one line a drill, then each drill by itself.

mod text;
mod timeline;

use crate::report::{DrillReport, Outcome};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Write};
use text::{Escaped, count, duration, figure};

const STYLE: &str = include_str!("page/style.css");
/// Failing seeds shown; a batch that fails more often is not read seed by seed.
const FAILURES_SHOWN: usize = 100;

/// What a batch of simulated runs came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SimSummary {
    /// Runs, and the steps of all of them.
    pub seeds: u64,
    pub steps: u64,
    pub seeds_per_minute: f64,
    /// Faults injected, by kind.
    pub injected: BTreeMap<String, u64>,
    /// Operations by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// In order of seeds; empty when every invariant held in every run.
    pub failures: Vec<SimFailure>,
}

/// A seed that failed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SimFailure {
    pub seed: u64,
    /// Id of the invariant, or what else the run failed for.
    pub check: String,
    pub detail: String,
}

/// The page of a set of drills, and of a batch of simulated runs if there was one. `about` is a line of the caller's:
/// version, machine, when.
pub fn render(about: &str, drills: &[DrillReport], sim: Option<&SimSummary>) -> String {
    let mut page = String::with_capacity(16 * 1024 * (drills.len() + 2));
    page.push_str("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>");
    page.push_str("<meta name=\"color-scheme\" content=\"light dark\"/><title>Okno: proof report</title>");
    // Not escaped: HTML takes it as it is, and it holds neither `<` nor `&`, as a test checks.
    let _ = write!(page, "<style>{STYLE}</style></head><body><main>");
    head(&mut page, about, drills, sim);
    if !drills.is_empty() {
        summary(&mut page, drills);
    }
    if let Some(sim) = sim {
        simulator(&mut page, sim);
    }
    for (at, drill) in drills.iter().enumerate() {
        article(&mut page, at, drill);
    }
    page.push_str(
        "<footer>Latencies and rates are what clients saw. Times count from the drill's start.</footer>",
    );
    page.push_str("</main></body></html>\n");
    page
}

/// Writing to a `String` cannot fail, so the results of `write!` are dropped throughout.
fn head(page: &mut String, about: &str, drills: &[DrillReport], sim: Option<&SimSummary>) {
    let of = |outcome| drills.iter().filter(|drill| drill.verdict == outcome).count() as u64;
    let (held, broken, skipped) = (of(Outcome::Held), of(Outcome::Broken), of(Outcome::Skipped));
    let failed_seeds = sim.map_or(0, |sim| sim.failures.len() as u64);
    let (class, verdict) = if broken + failed_seeds > 0 {
        ("broken", "An invariant broke")
    } else if held == 0 && sim.is_none_or(|sim| sim.seeds == 0) {
        ("skipped", "Nothing was run")
    } else {
        ("held", "Every invariant held")
    };
    let _ = write!(
        page,
        "<header class=\"{class}\"><p class=\"brand\">Okno</p><h1>{verdict}</h1><p class=\"about\">{}</p><dl class=\"tiles\">",
        Escaped(about)
    );
    if !drills.is_empty() {
        let sum = |of: fn(&DrillReport) -> u64| drills.iter().map(of).sum::<u64>();
        let lost = sum(|drill| drill.lost);
        let twice = sum(|drill| drill.duplicated);
        tile(page, "drills held", &count(held), "");
        tile(page, "broken", &count(broken), if broken > 0 { "bad" } else { "" });
        if skipped > 0 {
            tile(page, "skipped", &count(skipped), "");
        }
        tile(page, "writes acknowledged", &count(sum(|drill| drill.acknowledged)), "");
        tile(page, "lost", &count(lost), if lost > 0 { "bad" } else { "" });
        tile(page, "there twice", &count(twice), if twice > 0 { "bad" } else { "" });
        tile(page, "faults injected", &count(sum(|drill| drill.injected.values().sum())), "");
    }
    if let Some(sim) = sim {
        tile(page, "seeds simulated", &count(sim.seeds), "");
        tile(page, "seeds failed", &count(failed_seeds), if failed_seeds > 0 { "bad" } else { "" });
    }
    page.push_str("</dl></header>");
}

fn tile(page: &mut String, name: &str, value: &str, class: &str) {
    let _ = write!(page, "<div class=\"tile {class}\"><dt>{name}</dt><dd>{}</dd></div>", Escaped(value));
}

/// A verdict is told by a word and a sign, never by colour alone.
fn badge(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Held => "<span class=\"badge held\">✓ held</span>",
        Outcome::Broken => "<span class=\"badge broken\">✗ broken</span>",
        Outcome::Skipped => "<span class=\"badge skipped\">– skipped</span>",
    }
}

fn summary(page: &mut String, drills: &[DrillReport]) {
    page.push_str(
        "<section><h2>Drills</h2><div class=\"wide\"><table class=\"summary\"><thead><tr><th>Drill</th>\
         <th>Verdict</th><th class=\"n\">Acknowledged</th><th class=\"n\">Lost</th><th class=\"n\">Twice</th>\
         <th class=\"n\">Downtime</th><th class=\"n\">Redundant again</th><th class=\"n\">Invariants</th>\
         <th>Writes over time</th></tr></thead><tbody>",
    );
    for (at, drill) in drills.iter().enumerate() {
        let ran = drill.verdict != Outcome::Skipped;
        let number = |value: u64| if ran { count(value) } else { "–".to_owned() };
        let bad = |value: u64| if value > 0 { " bad" } else { "" };
        let held = drill.invariants.iter().filter(|verdict| verdict.held).count();
        let _ = write!(
            page,
            "<tr class=\"{}\"><td><a href=\"#drill-{at}\">{}</a></td><td>{}</td><td class=\"n\">{}</td>\
             <td class=\"n{}\">{}</td><td class=\"n{}\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n{}\">{held} of {}</td><td>{}</td></tr>",
            class(drill.verdict),
            Escaped(&drill.name),
            badge(drill.verdict),
            number(drill.acknowledged),
            bad(drill.lost),
            number(drill.lost),
            bad(drill.duplicated),
            number(drill.duplicated),
            millis(drill.downtime_ms),
            millis(drill.redundancy_ms),
            bad((drill.invariants.len() - held) as u64),
            drill.invariants.len(),
            timeline::spark(&drill.timeline),
        );
    }
    page.push_str(
        "</tbody></table></div><p class=\"note\">Downtime: the longest time without an acknowledged write around \
         the fault. Redundant again: from the fault until every node had caught up.</p></section>",
    );
}

fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Held => "held",
        Outcome::Broken => "broken",
        Outcome::Skipped => "skipped",
    }
}

fn millis(value: Option<u64>) -> String {
    value.map_or_else(|| "–".to_owned(), duration)
}

fn article(page: &mut String, at: usize, drill: &DrillReport) {
    let _ = write!(
        page,
        "<article id=\"drill-{at}\" class=\"{}\"><h2>{} {}</h2><p class=\"facts\">seed <code>{}</code>",
        class(drill.verdict),
        Escaped(&drill.name),
        badge(drill.verdict),
        drill.seed
    );
    if !drill.faults.is_empty() {
        let rows: Vec<String> = drill.faults.iter().map(u32::to_string).collect();
        let _ = write!(page, " · fault list {}", rows.join(", "));
    }
    let _ = write!(page, " · took {}</p>", duration(drill.took_ms));
    if !drill.explanation.is_empty() {
        let _ = write!(page, "<p class=\"why\">{}</p>", Escaped(&drill.explanation));
    }
    let _ = write!(
        page,
        "<div class=\"pair\"><div><h3>Scenario</h3><p>{}</p></div><div><h3>Expected</h3><p>{}</p></div></div>",
        Escaped(&drill.scenario),
        Escaped(&drill.expected)
    );
    if drill.verdict != Outcome::Skipped {
        page.push_str("<dl class=\"tiles\">");
        let bad = |value: u64| if value > 0 { "bad" } else { "" };
        tile(page, "acknowledged", &count(drill.acknowledged), "");
        tile(page, "lost", &count(drill.lost), bad(drill.lost));
        tile(page, "there twice", &count(drill.duplicated), bad(drill.duplicated));
        tile(page, "downtime", &millis(drill.downtime_ms), "");
        tile(page, "redundant again", &millis(drill.redundancy_ms), "");
        page.push_str("</dl>");
    }
    invariants(page, drill);
    timeline::draw(page, &drill.timeline);
    let tables = [
        ("Faults injected", rows_of(&drill.injected)),
        ("Errors clients saw", rows_of(&drill.errors)),
        ("Measured", drill.figures.iter().map(|(name, value)| figure(name, *value)).collect()),
    ];
    tables_of(page, &tables);
    page.push_str("</article>");
}

fn invariants(page: &mut String, drill: &DrillReport) {
    if drill.invariants.is_empty() {
        return;
    }
    page.push_str("<h3>Invariants</h3><ul class=\"checks\">");
    // What broke stands first.
    for held in [false, true] {
        for verdict in drill.invariants.iter().filter(|verdict| verdict.held == held) {
            let (class, sign) = if held { ("held", "✓") } else { ("broken", "✗") };
            let told = if held { "" } else { " <strong>does not hold</strong>" };
            let _ = write!(
                page,
                "<li class=\"{class}\"><span class=\"sign\">{sign}</span><div>{}{told} <code>{}</code>\
                 <p>{}</p></div></li>",
                Escaped(verdict.id.title()),
                verdict.id.id(),
                Escaped(&verdict.detail)
            );
        }
    }
    page.push_str("</ul>");
}

fn rows_of(counted: &BTreeMap<String, u64>) -> Vec<(String, String)> {
    counted.iter().map(|(name, value)| (name.clone(), count(*value))).collect()
}

/// Small tables side by side; empty ones are left out.
fn tables_of(page: &mut String, tables: &[(&str, Vec<(String, String)>)]) {
    page.push_str("<div class=\"tables\">");
    for (title, rows) in tables.iter().filter(|(_, rows)| !rows.is_empty()) {
        let _ = write!(page, "<table><caption>{title}</caption><tbody>");
        for (name, value) in rows {
            let _ =
                write!(page, "<tr><td>{}</td><td class=\"n\">{}</td></tr>", Escaped(name), Escaped(value));
        }
        page.push_str("</tbody></table>");
    }
    page.push_str("</div>");
}

fn simulator(page: &mut String, sim: &SimSummary) {
    let outcome = if sim.failures.is_empty() { Outcome::Held } else { Outcome::Broken };
    let _ = write!(
        page,
        "<section class=\"{}\"><h2>Simulator {}</h2><dl class=\"tiles\">",
        class(outcome),
        badge(outcome)
    );
    tile(page, "seeds", &count(sim.seeds), "");
    tile(page, "steps", &count(sim.steps), "");
    tile(page, "steps a seed", &count(sim.steps.checked_div(sim.seeds).unwrap_or(0)), "");
    tile(page, "seeds a minute", &text::decimal(sim.seeds_per_minute), "");
    let failed = sim.failures.len() as u64;
    tile(page, "seeds failed", &count(failed), if failed > 0 { "bad" } else { "" });
    page.push_str("</dl>");
    if !sim.failures.is_empty() {
        page.push_str(
            "<table class=\"failures\"><caption>Seeds that failed</caption><thead><tr><th class=\"n\">Seed</th>\
             <th>Check</th><th>What was seen</th></tr></thead><tbody>",
        );
        for failure in sim.failures.iter().take(FAILURES_SHOWN) {
            let _ = write!(
                page,
                "<tr><td class=\"n\"><code>{}</code></td><td>{}</td><td>{}</td></tr>",
                failure.seed,
                Escaped(&failure.check),
                Escaped(&failure.detail)
            );
        }
        page.push_str("</tbody></table>");
        if let Some(more) = sim.failures.len().checked_sub(FAILURES_SHOWN).filter(|more| *more > 0) {
            let _ = write!(page, "<p class=\"note\">{more} more are in the JSON.</p>");
        }
    }
    let tables =
        [("Faults injected", rows_of(&sim.injected)), ("Operations by outcome", rows_of(&sim.outcomes))];
    tables_of(page, &tables);
    page.push_str("</section>");
}

#[cfg(test)]
mod tests;
