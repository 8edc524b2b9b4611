//! Where the files of a copy come in: a directory, or its likeness in memory.

use crate::error::StorageError;
use bytes::Bytes;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Files by plain name. What was appended may be lost in a crash, from its end, until it is synced.
pub trait Place: Send {
    /// Names of all files, ascending.
    fn list(&self) -> Result<Vec<String>, StorageError>;
    /// `None`: there is no such file.
    fn size(&self, name: &str) -> Result<Option<u64>, StorageError>;
    /// Up to `max` bytes from `offset`; empty at the end.
    fn read(&self, name: &str, offset: u64, max: usize) -> Result<Bytes, StorageError>;
    /// Appends, making the file if it is not there; a file made last stays open for the next piece.
    fn append(&mut self, name: &str, data: &[u8]) -> Result<(), StorageError>;
    /// No fault if it is not there.
    fn remove(&mut self, name: &str) -> Result<(), StorageError>;
    /// On return the file and its name are on stable storage.
    fn sync(&mut self, name: &str) -> Result<(), StorageError>;
}

/// A directory, made when it is needed.
pub struct DirectoryPlace {
    path: PathBuf,
    /// The file appended to last.
    open: Option<(String, File)>,
}

pub(crate) fn io_error(path: &Path) -> impl Fn(io::Error) -> StorageError + '_ {
    move |source| StorageError::Io { path: path.to_owned(), source }
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), StorageError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(io_error(path))
}

/// The names in a directory that is there.
pub(crate) fn names(path: &Path) -> Result<Vec<String>, StorageError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(io_error(path))? {
        // One that is no text is none of ours, and no manifest names it.
        if let Ok(name) = entry.map_err(io_error(path))?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

pub(crate) fn remove_directory(path: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(path)(e)),
        _ => Ok(()),
    }
}

impl DirectoryPlace {
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let path = path.into();
        fs::create_dir_all(&path).map_err(io_error(&path))?;
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_directory(parent)?;
        }
        Ok(Self { path, open: None })
    }
}

impl Place for DirectoryPlace {
    fn list(&self) -> Result<Vec<String>, StorageError> {
        names(&self.path)
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StorageError> {
        let path = self.path.join(name);
        match fs::metadata(&path) {
            Ok(found) => Ok(Some(found.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error(&path)(e)),
        }
    }

    fn read(&self, name: &str, offset: u64, max: usize) -> Result<Bytes, StorageError> {
        read_at(&self.path.join(name), offset, max)
    }

    fn append(&mut self, name: &str, data: &[u8]) -> Result<(), StorageError> {
        use std::io::Write as _;
        let path = self.path.join(name);
        if self.open.as_ref().is_none_or(|(open, _)| open != name) {
            let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io_error(&path))?;
            self.open = Some((name.to_owned(), file));
        }
        match &mut self.open {
            Some((_, file)) => file.write_all(data).map_err(io_error(&path)),
            None => Ok(()),
        }
    }

    fn remove(&mut self, name: &str) -> Result<(), StorageError> {
        self.open = None;
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => remove_directory(&path),
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(&path)(e)),
            _ => Ok(()),
        }
    }

    fn sync(&mut self, name: &str) -> Result<(), StorageError> {
        self.open = None;
        let path = self.path.join(name);
        File::open(&path).and_then(|file| file.sync_all()).map_err(io_error(&path))?;
        sync_directory(&self.path)
    }
}

pub(crate) fn read_at(path: &Path, offset: u64, max: usize) -> Result<Bytes, StorageError> {
    let file = File::open(path).map_err(io_error(path))?;
    let mut bytes = vec![0; max];
    let mut filled = 0;
    while filled < max {
        match file.read_at(&mut bytes[filled..], offset + filled as u64).map_err(io_error(path))? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}
