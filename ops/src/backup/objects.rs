//! Files named by their content: what a backup has in common with an earlier one lies on the target once.
//!
//! RocksDB's tables never change, so a backup of a grown database adds the new ones only. A file that is there already
//! is read again before a new backup rests on it: damage is found, and mended, while the node still has the original.

use super::{
    BackupError, Phase, Watch,
    crypt::{Identities, Recipients},
    manifest::{self, FileEntry, Manifest},
    pace::Pace,
    target::{Folder, Held, make_folder, put_in_place},
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Read and written at a time.
pub const PIECE: usize = 256 * 1024;
/// Written between two syncs: a medium that is slow, or shared, has no more than this to take at once.
const SYNC_EVERY: usize = 4 * 1024 * 1024;

/// A file that is synced as it grows.
struct Steady {
    file: File,
    loose: usize,
}

impl Write for Steady {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.loose += written;
        if self.loose >= SYNC_EVERY {
            self.file.sync_data()?;
            self.loose = 0;
        }
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Hashes and counts what passes through to `into`.
pub struct Counting<W> {
    pub into: W,
    pub hash: Sha256,
    pub bytes: u64,
}

impl<W: Write> Counting<W> {
    pub fn new(into: W) -> Self {
        Self { into, hash: Sha256::new(), bytes: 0 }
    }
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.into.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

/// Hashes and counts what is read from `from`.
struct CountingReader<'a, R> {
    from: R,
    hash: &'a mut Sha256,
    bytes: &'a mut u64,
}

impl<R: Read> Read for CountingReader<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.hash.update(&into[..read]);
        *self.bytes += read as u64;
        Ok(read)
    }
}

pub fn sum(hash: Sha256) -> String {
    hex::encode(hash.finalize())
}

/// Where an object lies.
pub fn path(folder: &Folder, recipients: &str, sealed: bool, sha256: &str) -> PathBuf {
    let name = if sealed { format!("{sha256}.age") } else { sha256.to_owned() };
    folder.objects().join(recipients).join(&sha256[..2]).join(name)
}

/// How far a pass over many files has come.
pub struct Course<'a> {
    pub watch: &'a dyn Watch,
    pub pace: Pace,
    pub phase: Phase,
    pub done: u64,
    pub total: u64,
}

impl Course<'_> {
    pub fn moved(&mut self, bytes: usize) {
        self.done += bytes as u64;
        self.watch.progress(self.phase, self.done, self.total);
        self.pace.moved(bytes);
    }
}

/// Why a copy ended early; errors of the two sides are told apart.
enum Cut {
    Watch(BackupError),
    Read(io::Error),
    Write(io::Error),
}

impl Cut {
    fn told(self, from: &Path, into: &Path) -> BackupError {
        match self {
            Self::Watch(error) => error,
            Self::Read(source) => BackupError::Io { path: from.to_owned(), source },
            Self::Write(source) => BackupError::Io { path: into.to_owned(), source },
        }
    }
}

/// Copies all of `from` to `into`.
fn copy(mut from: impl Read, mut into: impl Write, course: &mut Course<'_>) -> Result<(), Cut> {
    let mut piece = vec![0; PIECE];
    loop {
        course.watch.step("piece").map_err(Cut::Watch)?;
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Cut::Read(error)),
        };
        into.write_all(&piece[..read]).map_err(Cut::Write)?;
        course.moved(read);
    }
}

/// Size and sum of a file as it lies on the target.
pub type Form = (u64, String);

/// How files lie on a target, as its manifests have it: every form that was written for a content and a set of
/// recipients, oldest first. A file that was found damaged was written anew, and sealed it has another sum then: backups
/// from before share it all the same.
#[derive(Default)]
pub struct Stored(BTreeMap<(String, String), Vec<Form>>);

impl Stored {
    /// `manifests` oldest first.
    pub fn of<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> Self {
        let mut stored = Self::default();
        for manifest in manifests {
            for file in manifest.files() {
                stored.note(&manifest.recipients_name, file);
            }
        }
        stored
    }

    /// The file's form is the newest of its content.
    pub fn note(&mut self, recipients: &str, file: &FileEntry) {
        let of = self.0.entry((recipients.to_owned(), file.sha256.clone())).or_default();
        let form = (file.stored_size, file.stored_sha256.clone());
        of.retain(|other| *other != form);
        of.push(form);
    }

    /// Of all readable manifests of a folder.
    pub fn on(folder: &Folder) -> Result<Self, BackupError> {
        Ok(Self::of(&manifest::readable(folder)?))
    }

    pub fn forms(&self, recipients: &str, sha256: &str) -> &[Form] {
        self.0.get(&(recipients.to_owned(), sha256.to_owned())).map_or(&[], Vec::as_slice)
    }
}

/// Puts a file where backups share it, unless it is there and whole. Returns its entry and whether it was new.
pub fn store(
    folder: &Folder,
    held: &mut Held,
    recipients: &Recipients,
    stored: &Stored,
    file: (&str, &Path),
    course: &mut Course<'_>,
) -> Result<(FileEntry, bool), BackupError> {
    let (name, source) = file;
    course.watch.step("file")?;
    let mut hash = Counting::new(io::sink());
    let opened = File::open(source).map_err(BackupError::io(source))?;
    copy(opened, &mut hash, course).map_err(|cut| cut.told(source, source))?;
    let (size, sha256) = (hash.bytes, sum(hash.hash));
    let place = path(folder, &recipients.name(), !recipients.is_empty(), &sha256);
    if let Some((stored_size, stored_sha256)) = stored.forms(&recipients.name(), &sha256).last()
        && is_whole(&place, *stored_size, stored_sha256, course)?
    {
        let (stored_size, stored_sha256) = (*stored_size, stored_sha256.clone());
        return Ok((FileEntry { name: name.to_owned(), size, sha256, stored_size, stored_sha256 }, false));
    }
    let temporary = held.temporary();
    let io = BackupError::io(&temporary);
    let file = File::create(&temporary).map_err(&io)?;
    let mut seal = recipients.seal(Counting::new(Steady { file, loose: 0 })).map_err(&io)?;
    let mut again = (Sha256::new(), 0);
    let opened = File::open(source).map_err(BackupError::io(source))?;
    let reader = CountingReader { from: opened, hash: &mut again.0, bytes: &mut again.1 };
    copy(reader, &mut seal, course).map_err(|cut| cut.told(source, &temporary))?;
    let stored = seal.finish().map_err(&io)?;
    stored.into.file.sync_all().map_err(&io)?;
    if sum(again.0) != sha256 {
        return Err(BackupError::damaged(source.display().to_string(), "reads differently each time"));
    }
    course.watch.step("object written")?;
    make_folder(place.parent().unwrap_or(folder.path()))?;
    put_in_place(&temporary, &place)?;
    course.watch.step("object in place")?;
    let (stored_size, stored_sha256) = (stored.bytes, sum(stored.hash));
    Ok((FileEntry { name: name.to_owned(), size, sha256, stored_size, stored_sha256 }, true))
}

/// Reads what is stored. Damage is an answer; a medium that cannot be read is an error.
fn is_whole(place: &Path, size: u64, sha256: &str, course: &mut Course<'_>) -> Result<bool, BackupError> {
    let file = match File::open(place) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(BackupError::Io { path: place.to_owned(), source }),
    };
    if file.metadata().map_err(BackupError::io(place))?.len() != size {
        return Ok(false);
    }
    let mut hash = Counting::new(io::sink());
    course.total += size;
    copy(file, &mut hash, course).map_err(|cut| cut.told(place, place))?;
    let whole = sum(hash.hash) == sha256;
    if !whole {
        tracing::warn!(object = %place.display(), "a file of an earlier backup is damaged; it is written anew");
    }
    Ok(whole)
}

/// Reads a file as it lies there: its size and sum, or that it is missing. A medium that cannot be read is damage of this
/// file only if the error says so; else of the pass.
pub fn read_stored(
    place: &Path,
    course: &mut Course<'_>,
) -> Result<Result<(u64, String), String>, BackupError> {
    course.watch.step("stored")?;
    let file = match File::open(place) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err("is missing".into())),
        Err(source) => return Err(BackupError::Io { path: place.to_owned(), source }),
    };
    let mut hash = Counting::new(io::sink());
    match copy(file, &mut hash, course) {
        Ok(()) => Ok(Ok((hash.bytes, sum(hash.hash)))),
        // A sector that cannot be read any more: this file, and the rest is still worth reading.
        Err(Cut::Read(error)) if error.raw_os_error() == Some(libc::EIO) => {
            Ok(Err(format!("cannot be read: {error}")))
        }
        Err(cut) => Err(cut.told(place, place)),
    }
}

/// Reads an object, checks every byte of it as stored and as it was, and writes its content to `into` (a sink, when
/// only checking).
pub fn fetch(
    folder: &Folder,
    sealed: Option<&Identities>,
    recipients: &str,
    entry: &FileEntry,
    stored: &Stored,
    into: Option<&Path>,
    course: &mut Course<'_>,
) -> Result<(), BackupError> {
    course.watch.step("fetch")?;
    let place = path(folder, recipients, sealed.is_some(), &entry.sha256);
    let named = format!("{} ({})", place.display(), entry.name);
    let damaged = |detail: String| BackupError::damaged(named.clone(), detail);
    let file = match File::open(&place) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("is missing".into())),
        Err(source) => return Err(BackupError::Io { path: place, source }),
    };
    let size = file.metadata().map_err(BackupError::io(&place))?.len();
    let forms = stored.forms(recipients, &entry.sha256);
    if size != entry.stored_size && !forms.iter().any(|(other, _)| size == *other) {
        return Err(damaged(format!("has {size} bytes, {} were written", entry.stored_size)));
    }
    let (mut read, mut read_bytes) = (Sha256::new(), 0);
    let mut content = Counting::new(match into {
        Some(path) => Box::new(File::create_new(path).map_err(BackupError::io(path))?) as Box<dyn Write>,
        None => Box::new(io::sink()),
    });
    let target = into.unwrap_or(&place);
    {
        let mut raw = CountingReader { from: file, hash: &mut read, bytes: &mut read_bytes };
        let copied = match sealed {
            None => copy(&mut raw, &mut content, course),
            Some(identities) => copy(identities.open(&named, true, &mut raw)?, &mut content, course),
        };
        match copied {
            // A cipher that does not open says so as an error of reading.
            Err(Cut::Read(error)) if sealed.is_some() && error.raw_os_error().is_none() => {
                return Err(damaged(format!("cannot be decrypted: {error}")));
            }
            other => other.map_err(|cut| cut.told(&place, target))?,
        }
        // What stands behind the end of the cipher text is hashed as well.
        io::copy(&mut raw, &mut io::sink()).map_err(BackupError::io(&place))?;
    }
    let form = (size, sum(read));
    if form.1 != entry.stored_sha256 && !forms.contains(&form) {
        return Err(damaged("does not match its SHA-256 as stored".into()));
    }
    if content.bytes != entry.size || sum(content.hash) != entry.sha256 {
        return Err(damaged("does not match its SHA-256".into()));
    }
    Ok(())
}
