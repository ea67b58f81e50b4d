//! Files of the data directory, written whole or not at all.
//!
//! A reader sees the old content or the new, never half of one: bytes go to a
//! sibling, are flushed to the disk, and the sibling takes the name.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// The controller's own user: mode 0600, for keys and tokens.
    Owner,
    /// Everybody: mode 0644.
    All,
}

impl Readers {
    fn mode(self) -> u32 {
        match self {
            Readers::Owner => 0o600,
            Readers::All => 0o644,
        }
    }
}

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}", .path.display())]
pub struct FileError {
    /// `read`, `write` or `create`.
    pub verb: &'static str,
    /// Which file or directory.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Replaces a file's content in one step.
///
/// # Errors
/// The directory is missing, full or not writable.
pub fn write_whole(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), FileError> {
    write_and_rename(path, bytes, readers).map_err(|source| FileError {
        verb: "write",
        path: path.to_owned(),
        source,
    })
}

fn write_and_rename(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let sibling = path.with_file_name(name);
    // A sibling left by a crash may have other rights; `mode` applies to new files alone.
    match std::fs::remove_file(&sibling) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(readers.mode());
    let mut file = options.open(&sibling)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&sibling, path)?;
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

/// Reads a text file; `None` when there is none.
///
/// # Errors
/// It exists and cannot be read, or is not UTF-8.
pub fn read_if_there(path: &Path) -> Result<Option<String>, FileError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError {
            verb: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Makes a directory and those above it, if they are not there.
///
/// # Errors
/// It cannot be made.
pub fn create_directory(path: &Path) -> Result<(), FileError> {
    std::fs::create_dir_all(path).map_err(|source| FileError {
        verb: "create",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_the_owners_alone_even_over_a_leftover() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(directory.path().join("key.new"), "left by a crash").unwrap();
        std::fs::write(&path, "old").unwrap();
        write_whole(&path, b"new", Readers::Owner).unwrap();
        assert_eq!(read_if_there(&path).unwrap().as_deref(), Some("new"));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!directory.path().join("key.new").exists());
    }

    #[test]
    fn errors_name_the_file() {
        let error = write_whole(Path::new("/nonexistent/f"), b"", Readers::All).unwrap_err();
        assert_eq!(error.to_string(), "cannot write /nonexistent/f");
    }
}
