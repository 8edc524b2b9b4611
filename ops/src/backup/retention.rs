//! What is kept and what may go: the newest backup of each of the last days, weeks and months that have one, the newest
//! one always, and everything those need.

use super::{
    BackupError, Phase, Watch, archive,
    manifest::{self, FileEntry, Manifest},
    objects::{self, Stored},
    scrub::Damage,
    target::{Folder, Held, names, remove},
};
use jiff::{Timestamp, tz::TimeZone};
use std::collections::{BTreeMap, BTreeSet};

/// How many of each are kept. Days, weeks and months are those of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones, however close together.
    pub last: usize,
    pub daily: usize,
    pub weekly: usize,
    pub monthly: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self { last: 2, daily: 7, weekly: 5, monthly: 12 }
    }
}

/// The day, week or month that a date lies in, told apart from every other.
type PeriodOf = fn(jiff::civil::Date) -> (i16, i16);

/// The ids to keep of (id, time), whatever their order.
pub fn keep(backups: &[(String, i64)], policy: &Policy) -> BTreeSet<String> {
    let mut newest_first: Vec<&(String, i64)> = backups.iter().collect();
    newest_first.sort_by(|a, b| (b.1, &b.0).cmp(&(a.1, &a.0)));
    let mut kept: BTreeSet<String> =
        newest_first.iter().take(policy.last.max(1)).map(|(id, _)| id.clone()).collect();
    let day = |ms: i64| {
        let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
        time.to_zoned(TimeZone::UTC).date()
    };
    let periods: [(usize, PeriodOf); 3] = [
        (policy.daily, |date| (date.year(), date.day_of_year())),
        (policy.weekly, |date| (date.iso_week_date().year(), date.iso_week_date().week().into())),
        (policy.monthly, |date| (date.year(), date.month().into())),
    ];
    for (count, period) in periods {
        let mut seen = BTreeSet::new();
        for (id, time) in &newest_first {
            if seen.len() < count && seen.insert(period(day(*time))) {
                kept.insert(id.clone());
            }
        }
    }
    kept
}

/// What a pruning removed, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub backups: Vec<String>,
    pub objects: u64,
    pub segments: u64,
    pub bytes: u64,
    /// Files were left although nothing known needs them, because this backup cannot be read and may.
    pub held_by: Option<String>,
}

/// What can be told of a backup without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All its files lie there in a right size. (Whether their bytes are right is [`super::verify`]'s to say.)
    Complete,
    FilesMissing,
    /// The last scrub found files of it damaged.
    Damaged,
}

impl State {
    /// In a list, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::FilesMissing => "FILES MISSING",
            Self::Damaged => "DAMAGED",
        }
    }
}

pub fn state(folder: &Folder, manifest: &Manifest, stored: &Stored, damage: &Damage) -> State {
    let place = |sha256: &str| objects::path(folder, &manifest.recipients_name, manifest.sealed(), sha256);
    let is_there = |file: &FileEntry| {
        let forms = stored.forms(&manifest.recipients_name, &file.sha256);
        let right = |size| size == file.stored_size || forms.iter().any(|(other, _)| size == *other);
        place(&file.sha256).metadata().is_ok_and(|m| right(m.len()))
    };
    if !manifest.files().all(is_there) {
        State::FilesMissing
    } else if manifest.files().any(|file| damage.has(&place(&file.sha256))) {
        State::Damaged
    } else {
        State::Complete
    }
}

/// Removes backups the policy does not keep, then files and archive segments that no backup left needs. Only usable
/// backups count for the policy, so that the newest usable one stays whatever lies beside it.
pub fn prune(
    folder: &Folder,
    _held: &Held,
    policy: &Policy,
    dry_run: bool,
    watch: &dyn Watch,
) -> Result<Pruned, BackupError> {
    let listed = manifest::list(folder)?;
    let stored = Stored::of(listed.iter().filter_map(|(_, manifest)| manifest.as_ref().ok()));
    let (mut pruned, damage) = (Pruned::default(), Damage::on(folder));
    let usable: Vec<(String, i64)> = listed
        .iter()
        .filter_map(|(id, manifest)| Some((id, manifest.as_ref().ok()?)))
        .filter(|(_, manifest)| state(folder, manifest, &stored, &damage) == State::Complete)
        .map(|(id, manifest)| (id.clone(), manifest.created_ms))
        .collect();
    let kept = keep(&usable, policy);
    let mut needed = Vec::new();
    for (id, manifest) in &listed {
        match manifest {
            Ok(_) if usable.iter().any(|(usable, _)| usable == id) && !kept.contains(id) => {
                watch.step("backup removed")?;
                if !dry_run {
                    remove_backup(folder, id)?;
                }
                pruned.backups.push(id.clone());
            }
            Ok(manifest) => needed.push(manifest),
            Err(_) => pruned.held_by = Some(id.clone()),
        }
    }
    if pruned.held_by.is_none() {
        remove_objects(folder, &needed, dry_run, &mut pruned, watch)?;
        remove_segments(folder, &needed, dry_run, &mut pruned, watch)?;
    }
    Ok(pruned)
}

/// The manifest goes first: what is left of a backup without one is no backup, and removed with the next pruning's
/// files.
fn remove_backup(folder: &Folder, id: &str) -> Result<(), BackupError> {
    let gone = folder.tmp().join(format!("backup-removed-{id}"));
    remove(&gone)?;
    super::target::put_in_place(&folder.backups().join(id), &gone)?;
    super::target::sync_folder(&folder.backups())?;
    remove(&gone)
}

fn remove_objects(
    folder: &Folder,
    needed: &[&Manifest],
    dry_run: bool,
    pruned: &mut Pruned,
    watch: &dyn Watch,
) -> Result<(), BackupError> {
    let needed: BTreeSet<std::path::PathBuf> = needed
        .iter()
        .flat_map(|m| m.files().map(|f| objects::path(folder, &m.recipients_name, m.sealed(), &f.sha256)))
        .collect();
    for recipients in names(&folder.objects())? {
        let recipients = folder.objects().join(recipients);
        for shelf in names(&recipients)? {
            let shelf = recipients.join(shelf);
            for name in names(&shelf)? {
                let path = shelf.join(name);
                if needed.contains(&path) {
                    continue;
                }
                watch.step("object removed")?;
                pruned.bytes += path.metadata().map(|m| m.len()).unwrap_or_default();
                pruned.objects += 1;
                watch.progress(Phase::Prune, pruned.objects, 0);
                if !dry_run {
                    remove(&path)?;
                }
            }
        }
    }
    Ok(())
}

/// Segments that end before the oldest backup left of their generation lead nowhere.
fn remove_segments(
    folder: &Folder,
    needed: &[&Manifest],
    dry_run: bool,
    pruned: &mut Pruned,
    watch: &dyn Watch,
) -> Result<(), BackupError> {
    let mut oldest: BTreeMap<u64, u64> = BTreeMap::new();
    for manifest in needed {
        let index = oldest.entry(manifest.generation).or_insert(manifest.index);
        *index = manifest.index.min(*index);
    }
    for generation in archive::generations(folder)? {
        // A generation without a backup has nothing to begin from; it is kept only while it may be the newest.
        let Some(oldest) = oldest.get(&generation) else { continue };
        let path = folder.archive(generation);
        for name in archive::segments(folder, generation)?.iter().filter(|name| name.to <= *oldest) {
            watch.step("segment removed")?;
            let path = path.join(name.text());
            pruned.bytes += path.metadata().map(|m| m.len()).unwrap_or_default();
            pruned.segments += 1;
            if !dry_run {
                remove(&path)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn daily(days: i64) -> Vec<(String, i64)> {
        (0..days).map(|day| (format!("b{day:04}"), day * DAY + 3_600_000)).collect()
    }

    #[test]
    fn days_weeks_and_months_are_kept() {
        let backups = daily(400);
        let kept = keep(&backups, &Policy { last: 1, daily: 7, weekly: 4, monthly: 12 });
        for day in 393..400 {
            assert!(kept.contains(&format!("b{day:04}")), "day {day}");
        }
        assert!((7 + 2..=7 + 4 + 12).contains(&kept.len()), "{kept:?}");
        assert!(keep(&backups, &Policy { last: 1, daily: 0, weekly: 0, monthly: 13 }).len() == 13);
    }

    #[test]
    fn the_newest_stays_whatever_the_policy() {
        let none = Policy { last: 0, daily: 0, weekly: 0, monthly: 0 };
        assert_eq!(keep(&daily(3), &none), BTreeSet::from(["b0002".to_owned()]));
        assert!(keep(&[], &none).is_empty());
    }

    #[test]
    fn several_a_day_count_once() {
        let backups: Vec<(String, i64)> = (0..48).map(|n| (format!("b{n:02}"), n * DAY / 24)).collect();
        let kept = keep(&backups, &Policy { last: 1, daily: 7, weekly: 0, monthly: 0 });
        assert_eq!(kept, BTreeSet::from(["b23".to_owned(), "b47".to_owned()]));
    }
}
