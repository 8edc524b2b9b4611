//! Scrubbing a target: every stored byte read again from time to time, so that damage to a copy is known before the copy
//! is needed.
//!
//! It needs no key: what is compared is each file as it lies there, against the sum that its manifest has of it; an
//! archived segment that is not encrypted carries its own. What only the key's holder can tell is
//! [`verify`](super::verify)'s.
//!
//! Nothing is locked: a backup may be taken and others pruned meanwhile. So a file counts as damaged only if, looked at
//! afterwards, a manifest still names it.

use super::{
    BackupError, Phase, Watch, archive, manifest, moment, now_ms,
    objects::{self, Course, Form, Stored},
    pace::Pace,
    target::{Folder, publish},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// What the last scrub left on the target: whoever is to do the next one reads it, whichever node that is.
const FILE: &str = "scrubbed.json";
/// Named of what is damaged; the rest is counted.
const NAMED_MAX: usize = 20;
/// After damage was found, the longest time until everything is read again.
const DAMAGED_AGAIN: Duration = Duration::from_secs(24 * 3_600);
/// A record larger than this was not written by a scrub.
const RECORD_BYTES_MAX: u64 = 64 * 1024;

/// What a scrub found, as it lies on the target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scrubbed {
    /// When it ended, milliseconds since the Unix epoch and in words.
    pub at_ms: i64,
    pub at: String,
    /// Files and bytes read.
    pub files: u64,
    pub bytes: u64,
    /// How many places are damaged, and what the first of them are.
    pub damaged: u64,
    pub named: Vec<String>,
    /// Where the first damaged files that backups share lie, from the cluster's folder on.
    #[serde(default)]
    pub places: Vec<PathBuf>,
}

/// What the last scrub found damaged and nobody has written anew since.
#[derive(Debug, Default)]
pub struct Damage {
    at_ms: i64,
    places: Vec<PathBuf>,
}

impl Damage {
    pub fn on(folder: &Folder) -> Self {
        let found = last(folder).unwrap_or_default();
        let places = found.places.iter().map(|place| folder.path().join(place)).collect();
        Self { at_ms: found.at_ms, places }
    }

    pub fn has(&self, place: &Path) -> bool {
        self.places.iter().any(|damaged| damaged == place) && {
            let written = place.metadata().and_then(|found| found.modified()).ok();
            let since = written.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
            since.is_none_or(|since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX) <= self.at_ms)
        }
    }
}

impl Scrubbed {
    /// One line for an alarm; `None` if all is whole.
    pub fn trouble(&self) -> Option<String> {
        let first = self.named.first()?;
        Some(format!("{} of {} files damaged, as {first}", self.damaged, self.files))
    }
}

/// The last scrub's record; `None` if there is none that can be read: then one is due.
pub fn last(folder: &Folder) -> Option<Scrubbed> {
    let path = folder.path().join(FILE);
    if path.metadata().ok()?.len() > RECORD_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Time until the next one is due.
pub fn due_in(last: Option<&Scrubbed>, every: Duration, now_ms: i64) -> Duration {
    let Some(last) = last else { return Duration::ZERO };
    // What is damaged is mended by the next backup, most likely: it is not to be told for a week.
    let every = if last.damaged > 0 { every.min(DAMAGED_AGAIN) } else { every };
    // A record from the future is a clock that was wrong: not waited for.
    let since = Duration::from_millis(u64::try_from(now_ms - last.at_ms).unwrap_or(u64::MAX));
    every.saturating_sub(since)
}

/// Files with the forms they may have.
type Files = BTreeMap<PathBuf, Vec<Form>>;

/// Every file that a manifest names; and the manifests that cannot be read.
fn named(folder: &Folder) -> Result<(Files, Vec<String>), BackupError> {
    let listed = manifest::list(folder)?;
    let stored = Stored::of(listed.iter().filter_map(|(_, manifest)| manifest.as_ref().ok()));
    let (mut files, mut unread) = (Files::new(), Vec::new());
    for (id, manifest) in &listed {
        match manifest {
            Ok(manifest) => {
                let by = &manifest.recipients_name;
                files.extend(manifest.files().map(|file| {
                    let place = objects::path(folder, by, manifest.sealed(), &file.sha256);
                    (place, stored.forms(by, &file.sha256).to_vec())
                }));
            }
            // Of a program newer than this one: not for it to judge.
            Err(BackupError::Newer { .. }) => {}
            // Pruned since it was listed.
            Err(_) if !folder.backups().join(id).exists() => {}
            Err(error) => unread.push(format!("backup {id}: {error}")),
        }
    }
    Ok((files, unread))
}

/// Reads everything at `rate` bytes a second (0: unbounded) and writes down what was found.
pub fn scrub(folder: &Folder, rate: u64, watch: &dyn Watch) -> Result<Scrubbed, BackupError> {
    let (files, mut damaged) = named(folder)?;
    let total = files.values().filter_map(|said| said.last()).map(|(size, _)| *size).sum();
    let mut course = Course { watch, pace: Pace::new(rate), phase: Phase::Read, done: 0, total };
    let (mut suspects, mut places) = (Vec::new(), Vec::new());
    let mut read = files.len() as u64;
    for (place, said) in &files {
        if let Err(detail) = objects::read_stored(place, &mut course)?.and_then(|found| {
            if said.contains(&found) { Ok(()) } else { Err("does not match its SHA-256 as stored".into()) }
        }) {
            suspects.push((place, format!("{}: {detail}", place.display())));
        }
    }
    for generation in archive::generations(folder)? {
        let (segments, found) = archive::scrub(folder, generation, &mut course)?;
        read += segments;
        damaged.extend(found);
    }
    if !suspects.is_empty() {
        let (still, _) = named(folder)?;
        for (place, detail) in suspects.into_iter().filter(|(place, _)| still.contains_key(*place)) {
            places.extend(place.strip_prefix(folder.path()).ok().map(Path::to_owned));
            damaged.push(detail);
        }
    }
    places.truncate(NAMED_MAX);
    let at_ms = now_ms();
    let scrubbed = Scrubbed {
        at_ms,
        at: moment(at_ms),
        files: read,
        bytes: course.done,
        damaged: damaged.len() as u64,
        named: damaged.into_iter().take(NAMED_MAX).collect(),
        places,
    };
    watch.step("scrubbed")?;
    let text = serde_json::to_vec_pretty(&scrubbed).expect("plain values have a JSON form");
    publish(&folder.path().join(format!(".{FILE}.new")), &folder.path().join(FILE), &text)?;
    Ok(scrubbed)
}
