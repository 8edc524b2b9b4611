//! Style as a test: file headers, file size, who may import whom, and an ARCHITECTURE.md that names what is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// No file grows past this many lines; when it wants to, it holds two things.
const FILE_LINES_MAX: usize = 700;

/// Crate → the workspace crates its `[dependencies]` may name (design §7). Dev-dependencies are free, except that
/// the pure domain stays pure in its tests too.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("okno-proto", &[]),
    ("okno-client", &["okno-proto"]),
    ("okno-domain", &[]),
    ("okno-storage", &[]),
    ("okno-cluster", &["okno-storage", "okno-proto"]),
    ("okno-runtime", &["okno-domain", "okno-storage", "okno-cluster"]),
    ("okno-connectors", &["okno-proto", "okno-client"]),
    ("okno-ops", &["okno-storage", "okno-cluster", "okno-proto", "okno-client"]),
    (
        "okno-node",
        &[
            "okno-proto",
            "okno-client",
            "okno-connectors",
            "okno-domain",
            "okno-runtime",
            "okno-cluster",
            "okno-storage",
            "okno-ops",
        ],
    ),
    ("okno-checks", &[]),
    ("okno-sim", &["okno-domain", "okno-storage", "okno-cluster", "okno-runtime", "okno-checks"]),
    ("okno-drills", &["okno-proto", "okno-client", "okno-connectors", "okno-checks"]),
    ("okno-chaos", &["okno-checks", "okno-sim", "okno-drills"]),
    ("okno-tests", &["okno-proto", "okno-client", "okno-drills"]),
];

/// Crates that must stay free of I/O, clocks and the network: what they may not depend on, by name.
const PURE: &[(&str, &[&str])] = &[(
    "okno-domain",
    &["tokio", "tonic", "rocksdb", "raft", "actix", "rand", "reqwest", "hyper", "tracing", "prometheus"],
)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

fn sources() -> Vec<PathBuf> {
    let skipped = ["target", ".git", "dev", "node_modules"];
    let mut files: Vec<PathBuf> = walkdir::WalkDir::new(root())
        .into_iter()
        .filter_entry(|entry| {
            entry.depth() != 1 || !skipped.contains(&entry.file_name().to_string_lossy().as_ref())
        })
        .map(|entry| entry.expect("the tree can be read"))
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.into_path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.sort();
    assert!(files.len() > 30, "the walk found only {} sources", files.len());
    files
}

fn manifests() -> BTreeMap<String, (PathBuf, toml::Table)> {
    let workspace: toml::Table =
        toml::from_str(&fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml"))
            .expect("valid TOML");
    let members = workspace["workspace"]["members"].as_array().expect("members");
    members
        .iter()
        .map(|member| {
            let folder = root().join(member.as_str().expect("a path"));
            let manifest: toml::Table =
                toml::from_str(&fs::read_to_string(folder.join("Cargo.toml")).expect("manifest"))
                    .expect("valid TOML");
            let name = manifest["package"]["name"].as_str().expect("a name").to_owned();
            (name, (folder, manifest))
        })
        .collect()
}

fn dependencies(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    manifest
        .get(section)
        .and_then(toml::Value::as_table)
        .map(|table| table.keys().cloned().collect())
        .unwrap_or_default()
}

#[test]
fn every_source_says_what_it_is_for() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|path| !fs::read_to_string(path).expect("a source").trim_start().starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "these files do not open with `//!`: {silent:#?}");
}

#[test]
fn no_source_holds_two_things() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|path| (fs::read_to_string(&path).expect("a source").lines().count(), path))
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .collect();
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines: {long:#?}");
}

#[test]
fn crates_import_only_whom_they_may() {
    let manifests = manifests();
    let rules: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let known: BTreeSet<_> = manifests.keys().map(String::as_str).collect();
    assert_eq!(known, rules.keys().copied().collect(), "the rule table and the workspace differ");
    for (name, (_, manifest)) in &manifests {
        let allowed = rules[name.as_str()];
        for dependency in dependencies(manifest, "dependencies").iter().filter(|d| d.starts_with("okno-")) {
            assert!(allowed.contains(&dependency.as_str()), "{name} may not import {dependency} (design §7)");
        }
    }
    for (name, banned) in PURE {
        let manifest = &manifests[*name].1;
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for dependency in dependencies(manifest, section) {
                let impure = banned.contains(&dependency.as_str()) || dependency.starts_with("okno-");
                assert!(!impure, "{name} must stay pure, but its {section} name {dependency}");
            }
        }
    }
}

#[test]
fn every_crate_obeys_the_workspace_lints() {
    for (name, (_, manifest)) in manifests() {
        let obeys =
            manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        assert_eq!(obeys, Some(true), "{name} does not say `[lints] workspace = true`");
    }
}

#[test]
fn the_architecture_page_names_what_is_there() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for (name, (folder, _)) in manifests() {
        let folder = folder.strip_prefix(root()).expect("inside").display().to_string();
        assert!(page.contains(&format!("`{folder}/`")), "ARCHITECTURE.md does not name `{folder}/` ({name})");
        assert!(page.contains(&format!("`{name}`")), "ARCHITECTURE.md does not name `{name}`");
    }
    // Every path it names in backticks exists: a map must not name dead rooms.
    for (number, line) in page.lines().enumerate() {
        for path in line.split('`').skip(1).step_by(2) {
            let names_a_file = path.contains('/')
                && !path.contains([' ', '<', '*', '{', ':', '‖', '(', '…'])
                && !path.starts_with('/')
                && (path.ends_with(".rs")
                    || path.ends_with(".proto")
                    || path.ends_with(".md")
                    || path.ends_with('/'));
            assert!(
                !names_a_file || root().join(path).exists(),
                "ARCHITECTURE.md:{}: `{path}` does not exist",
                number + 1
            );
        }
    }
}

#[test]
fn tests_are_neither_ignored_nor_retried() {
    // The attribute is spelled in two pieces so that this file does not find itself.
    let ignored = concat!("#[ign", "ore");
    for path in sources() {
        let text = fs::read_to_string(&path).expect("a source");
        assert!(!text.contains(ignored), "{} has an ignored test", path.display());
    }
}
