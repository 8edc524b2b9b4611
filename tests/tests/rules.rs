//! Alert rules, dashboards and runbooks hold together: promtool accepts and tries the rules, every figure they name
//! exists, every alert was tried and has its page, and every command that a page names is one.

use clap::{Parser, error::ErrorKind};
use okno_ops::cli::Cli;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(root().join("ops/prometheus")).output();
    let output =
        output.expect("promtool is there: Debian's package prometheus has it (make setup installs it)");
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}: {told}");
}

#[test]
fn rules_are_well_formed() {
    promtool(&["check", "rules", "rules.yml"]);
}

#[test]
fn every_rule_fires_on_its_trouble_and_on_nothing_else() {
    promtool(&["test", "rules", "rules_test.yml"]);
}

/// Values behind `key` at the beginning of lines.
fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        line.trim_start().trim_start_matches("- ").strip_prefix(key).map(|value| value.trim())
    })
}

#[test]
fn every_alert_was_tried_and_has_its_page() {
    let (rules, tried) = (read("ops/prometheus/rules.yml"), read("ops/prometheus/rules_test.yml"));
    let alerts: Vec<&str> = values(&rules, "alert:").collect();
    assert!(alerts.len() > 20, "only {} alerts were found", alerts.len());
    for alert in &alerts {
        assert!(tried.contains(&format!("alertname=\"{alert}\"")), "{alert} is tried nowhere");
    }
    let pages: Vec<&str> = values(&rules, "runbook_url:").collect();
    assert_eq!(pages.len(), alerts.len(), "every alert has a runbook");
    for page in pages {
        let path =
            page.strip_prefix("file:///usr/share/doc/okno/").expect("a page that the package installs");
        let text = read(&format!("docs/{path}"));
        for part in ["## Meaning", "## Impact", "## How to look", "## What to do", "## How it was tried"] {
            assert!(text.contains(part), "{path} has no {part}");
        }
    }
    for severity in rules.lines().filter_map(|line| line.trim().strip_prefix("labels: {severity: ")) {
        assert!(["warning}", "critical}"].contains(&severity), "{severity}");
    }
}

#[test]
fn every_alarm_of_a_node_has_its_page() {
    let reasons = read("docs/reasons.md");
    let links: BTreeSet<&str> = reasons
        .split("](runbooks/")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(page, _)| page))
        .collect();
    assert!(links.len() > 5, "{links:?}");
    for page in links {
        assert!(root().join("docs/runbooks").join(page).is_file(), "docs/runbooks/{page} is missing");
    }
}

/// Names of families in a text of queries.
fn families(text: &str) -> BTreeSet<String> {
    let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.split(|letter: char| !word(letter))
        .filter(|name| name.starts_with("okno_") || name.starts_with("process_"))
        .map(|name| {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            base.filter(|base| base.ends_with("_seconds")).unwrap_or(name).to_owned()
        })
        .collect()
}

/// Families in the published list, which a running node is held against.
fn published() -> BTreeSet<String> {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|rest| rest.split_once('`').map(|(name, _)| name.to_owned())).collect()
}

#[test]
fn rules_and_dashboards_name_figures_that_exist() {
    let published = published();
    assert!(published.len() > 80, "only {} families were found", published.len());
    let mut texts = vec![("rules.yml".to_owned(), read("ops/prometheus/rules.yml"))];
    for entry in fs::read_dir(root().join("ops/grafana")).expect("dashboards") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(&path).expect("read");
            let board: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let mut queries = String::new();
            for panel in board["panels"].as_array().expect("panels") {
                assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
                for target in panel["targets"].as_array().into_iter().flatten() {
                    queries.push_str(target["expr"].as_str().expect("a query"));
                    queries.push('\n');
                }
            }
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            assert!(!families(&queries).is_empty(), "{name} shows nothing");
            texts.push((name, queries));
        }
    }
    assert!(texts.len() >= 4, "rules and three dashboards");
    for (name, text) in texts {
        for family in families(&text) {
            // A pattern over the two listeners.
            if family == "okno_" {
                continue;
            }
            assert!(published.contains(&family), "{name} names {family}, which no node shows");
        }
    }
}

/// The pages that people read while they work on a cluster.
fn pages() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md")];
    for entry in walkdir::WalkDir::new(root().join("docs")).sort_by_file_name() {
        let path = entry.expect("readable").into_path();
        // Decisions tell what was, not what to type.
        if path.extension().is_some_and(|extension| extension == "md")
            && !path.starts_with(root().join("docs/adr"))
        {
            found.push(path);
        }
    }
    found
}

/// A command as a page shows it, and whether the page means it to be typed as it stands.
#[derive(Debug)]
struct Shown {
    text: String,
    whole: bool,
}

/// Lines of code blocks and spans of text that begin with `name`.
fn commands(page: &str, name: &str) -> Vec<Shown> {
    let begins =
        |text: &str| text == name || text.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '));
    let (mut found, mut fenced, mut open) = (Vec::new(), false, String::new());
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            // Ends of lines that go on, and what stands before the command itself.
            open.push_str(line.trim());
            if let Some(rest) = open.strip_suffix('\\') {
                open = rest.to_owned();
                continue;
            }
            let whole = std::mem::take(&mut open);
            for part in whole.split(['|', ';']).flat_map(|part| part.split("&&")) {
                let typed = part.trim().trim_start_matches("$ ").trim_start_matches("sudo ");
                if begins(typed) {
                    found.push(Shown { text: typed.to_owned(), whole: true });
                }
            }
        } else {
            for span in line.split('`').skip(1).step_by(2).filter(|span| begins(span)) {
                found.push(Shown { text: span.to_owned(), whole: false });
            }
        }
    }
    found
}

/// Words of a line as a shell parts them: quotes hold together, a comment or a redirection ends it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    for letter in line.chars() {
        match (quote, letter) {
            (Some(end), letter) if letter == end => quote = None,
            (None, '"' | '\'') => (quote, begun) = (Some(letter), true),
            (None, '#' | '>') if !begun => break,
            (None, letter) if letter.is_whitespace() => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            (_, letter) => {
                word.push(letter);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// Why a command is none of `oknoctl`'s. In running text arguments may be left out, and words in capitals stand for them.
fn wrong(shown: &Shown) -> Option<String> {
    let placeholder = |word: &str| word.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_');
    let example = |word: String| match word.as_str() {
        "" => word,
        "CLUSTER" => "0198c0de-0000-7000-8000-000000000001".to_owned(),
        "<cluster" | "id>" => word,
        text if placeholder(text) => "1".to_owned(),
        _ => word,
    };
    // `<cluster id>` is one argument.
    let line = shown.text.replace("<cluster id>", "CLUSTER").replace(" …", "");
    match Cli::try_parse_from(words(&line).into_iter().map(example)) {
        Ok(_) => None,
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => None,
            ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                if !shown.whole =>
            {
                None
            }
            _ => Some(error.to_string()),
        },
    }
}

#[test]
fn every_command_that_a_page_names_is_one() {
    let (mut seen, mut faults) = (0, Vec::new());
    for path in pages() {
        let text = fs::read_to_string(&path).expect("readable");
        for shown in commands(&text, "oknoctl") {
            seen += 1;
            if let Some(why) = wrong(&shown) {
                faults.push(format!("{}: {}\n{why}", path.display(), shown.text));
            }
        }
    }
    assert!(seen > 40, "only {seen} commands were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn commands_are_found_and_wrong_ones_are_told() {
    let page = "Say `oknoctl backup create`, or `oknoctl entity show`.\n```sh\n$ sudo oknoctl top --every 2s # look\n\
                oknoctl case history \\\n  ID | less\noknoctl transfer-leader --too 2 > /dev/null\n\
                oknoctl entity show\n```\nNot `oknoctl-like` nor `okno`.\n";
    let found = commands(page, "oknoctl");
    let texts: Vec<&str> = found.iter().map(|shown| shown.text.as_str()).collect();
    let expected = [
        "oknoctl backup create",
        "oknoctl entity show",
        "oknoctl top --every 2s # look",
        "oknoctl case history ID",
        "oknoctl transfer-leader --too 2 > /dev/null",
        "oknoctl entity show",
    ];
    assert_eq!(texts, expected);
    assert_eq!(words("a 'b c' \"d\" # e"), ["a", "b c", "d"]);
    let told: Vec<bool> = found.iter().map(|shown| wrong(shown).is_some()).collect();
    assert!(told[0], "no such command");
    assert!(!told[1], "arguments may be left out in running text");
    assert_eq!((told[3], told[4], told[5]), (false, true, true));
}
