//! The shipped files, and short ways to make dates and catalogues.

use jiff::civil::Date;
use okno_domain::catalogue::{Catalogue, Load, Problem, SourceFile, files};
use std::{fs, path::PathBuf};

pub fn date(text: &str) -> Date {
    text.parse().expect("a date in a test")
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../ops/catalogue")
}

/// Every shipped file, in the order of the paths.
pub fn shipped_files() -> Vec<SourceFile> {
    let mut files = Vec::new();
    for part in ["calendars", "services"] {
        for entry in fs::read_dir(folder().join(part)).expect("the shipped catalogue") {
            let path = entry.expect("an entry of the shipped catalogue").path();
            let name = path.file_name().expect("a file name").to_string_lossy().into_owned();
            files.push(SourceFile::new(
                format!("{part}/{name}"),
                fs::read_to_string(&path).expect("a shipped file"),
            ));
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

pub fn shipped_load() -> Load {
    match files::read(&shipped_files(), &Catalogue::default()) {
        Ok(load) => load,
        Err(problems) => panic!("the shipped catalogue has errors:\n{}", told(&problems)),
    }
}

pub fn shipped() -> Catalogue {
    Catalogue::of(&shipped_load()).expect("a load that was checked")
}

/// The shipped catalogue with more files on top.
pub fn shipped_with(more: &[&str]) -> Catalogue {
    let mut all = shipped_files();
    all.extend(more.iter().enumerate().map(|(n, text)| SourceFile::new(format!("more{n}.toml"), *text)));
    match files::read(&all, &Catalogue::default()) {
        Ok(load) => Catalogue::of(&load).expect("a load that was checked"),
        Err(problems) => panic!("errors:\n{}", told(&problems)),
    }
}

pub fn told(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}
