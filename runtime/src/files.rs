//! Edge. Files of a data directory: modes of `contracts.md` 1.2, and writes that are whole or not there.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::limits::LimitExceeded;

/// Mode of a data directory: others may pass through to the sockets, not list.
pub const MODE_DATA_DIR: u32 = 0o711;
/// Mode of `run/` inside it.
pub const MODE_RUN_DIR: u32 = 0o755;
/// Mode of every other directory.
pub const MODE_PRIVATE_DIR: u32 = 0o700;
/// Mode of secrets.
pub const MODE_SECRET: u32 = 0o600;
/// Mode of sockets; attestation decides who may speak.
pub const MODE_SOCKET: u32 = 0o666;
/// Mode of files that anybody may read.
pub const MODE_PUBLIC: u32 = 0o644;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file is larger than its kind may be.
    #[error("{} is too large", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// By how much.
        #[source]
        source: LimitExceeded,
    },
}

impl FileError {
    /// Whether the file or directory does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::TooLarge { .. } => false,
        }
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError::Io { action, path: path.to_owned(), source }
}

/// Creates one directory with exactly `mode`, whatever the umask; an existing directory keeps its mode.
/// Missing parents are created with the umask's default.
///
/// # Errors
/// [`FileError::Io`].
pub fn create_dir(path: &Path, mode: u32) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(failed("create", parent))?;
    }
    match fs::DirBuilder::new().mode(MODE_PRIVATE_DIR).create(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", path)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(failed("create", path)(e)),
    }
}

/// Creates a data directory (0711) and its `run/` (0755).
///
/// # Errors
/// [`FileError::Io`].
pub fn create_data_dir(path: &Path) -> Result<(), FileError> {
    create_dir(path, MODE_DATA_DIR)?;
    create_dir(&path.join("run"), MODE_RUN_DIR)
}

/// Creates a private directory (0700), such as `identity/` in a data directory.
///
/// # Errors
/// [`FileError::Io`].
pub fn create_private_dir(path: &Path) -> Result<(), FileError> {
    create_dir(path, MODE_PRIVATE_DIR)
}

/// Holds `path` for this process alone, until the file is dropped or the process ends, however it ends.
/// `None`: another process holds it.
///
/// # Errors
/// [`FileError::Io`].
pub fn lock(path: &Path) -> Result<Option<fs::File>, FileError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(MODE_SECRET);
    let file = options.open(path).map_err(failed("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(source)) => Err(failed("lock", path)(source)),
    }
}

/// Replaces `path` by `bytes` with `mode`: temporary file, fsync, rename, fsync of the directory.
/// After a crash the file has its old or its new content, never a part.
///
/// # Errors
/// [`FileError::Io`]; the old content stays.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let tmp = temporary(path);
    write_then_rename(&tmp, path, bytes, mode, true)?;
    sync_dir(dir)
}

/// The same for what is of use only while the machine runs, or is found damaged when it is read: nothing waits for the
/// disk. The file is whole or not there after the death of the process, not after that of the machine.
///
/// # Errors
/// [`FileError::Io`]; the old content stays.
pub fn write_volatile(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    write_then_rename(&temporary(path), path, bytes, mode, false)
}

/// The leading dot keeps it out of the directory source; the random part keeps two writers apart.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{:016x}.tmp", fastrand::u64(..)))
}

fn write_then_rename(tmp: &Path, path: &Path, bytes: &[u8], mode: u32, durable: bool) -> Result<(), FileError> {
    let result = try_write_then_rename(tmp, path, bytes, mode, durable);
    if result.is_err() {
        // Best effort: the error of the write is the one worth reporting.
        let _removed = fs::remove_file(tmp);
    }
    result
}

fn try_write_then_rename(tmp: &Path, path: &Path, bytes: &[u8], mode: u32, durable: bool) -> Result<(), FileError> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE_SECRET)
        .open(tmp)
        .map_err(failed("create", tmp))?;
    file.write_all(bytes).map_err(failed("write", tmp))?;
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", tmp))?;
    if durable {
        file.sync_all().map_err(failed("fsync", tmp))?;
    }
    fs::rename(tmp, path).map_err(failed("replace", path))
}

/// Makes creations, renames and removals in `dir` durable.
///
/// # Errors
/// [`FileError::Io`].
pub fn sync_dir(dir: &Path) -> Result<(), FileError> {
    fs::File::open(dir).and_then(|d| d.sync_all()).map_err(failed("fsync", dir))
}

/// [`write_atomic`] with mode 0600.
///
/// # Errors
/// [`FileError::Io`].
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_atomic(path, bytes, MODE_SECRET)
}

/// Reads at most `max` bytes; `-` is standard input.
///
/// # Errors
/// [`FileError::TooLarge`] when there is more, [`FileError::Io`] otherwise.
pub fn read_limited(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    if path == Path::new("-") {
        return read_from(io::stdin().lock(), path, max);
    }
    read_from(fs::File::open(path).map_err(failed("open", path))?, path, max)
}

fn read_from(source: impl io::Read, path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    source.take(max as u64 + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    LimitExceeded::check("file_bytes", bytes.len(), max)
        .map_err(|source| FileError::TooLarge { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// [`read_limited`] as UTF-8; a file that is not UTF-8 is an [`FileError::Io`] of kind `InvalidData`.
///
/// # Errors
/// As [`read_limited`].
pub fn read_text(path: &Path, max: usize) -> Result<String, FileError> {
    String::from_utf8(read_limited(path, max)?)
        .map_err(|e| failed("read as UTF-8", path)(io::Error::new(io::ErrorKind::InvalidData, e)))
}

/// Files that go when this is dropped: sockets, which outlive their listener.
#[derive(Debug)]
pub struct RemoveOnDrop(pub Vec<PathBuf>);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        for path in &self.0 {
            // Best effort: whoever binds there next removes what nobody listens on.
            let _left = remove(path);
        }
    }
}

/// Removes a file; a missing one is no error. Returns whether it was there.
///
/// # Errors
/// [`FileError::Io`].
pub fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed("remove", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// Mutation seen to fail: `try_lock` replaced by `try_lock_shared`.
    #[test]
    fn a_lock_is_held_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = lock(&path).unwrap();
        assert!(held.is_some());
        assert!(lock(&path).unwrap().is_none());
        drop(held);
        assert!(lock(&path).unwrap().is_some());
        assert!(lock(&dir.path().join("no/lock")).unwrap_err().is_not_found());
    }

    /// Mutation seen to fail: `MODE_DATA_DIR` as 0o755; `set_permissions` left out of `write_then_rename`.
    #[test]
    fn modes_are_those_of_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("deep/E");
        create_data_dir(&data).unwrap();
        create_private_dir(&data.join("identity")).unwrap();
        write_secret(&data.join("identity/key.pem"), b"k").unwrap();
        write_atomic(&data.join("run/addresses.json"), b"{}", MODE_PUBLIC).unwrap();
        assert_eq!(mode(&data), 0o711);
        assert_eq!(mode(&data.join("run")), 0o755);
        assert_eq!(mode(&data.join("identity")), 0o700);
        assert_eq!(mode(&data.join("identity/key.pem")), 0o600);
        assert_eq!(mode(&data.join("run/addresses.json")), 0o644);
        create_data_dir(&data).unwrap();
    }

    /// Mutation seen to fail: `take(max)` instead of `take(max + 1)`.
    #[test]
    fn a_file_over_its_limit_is_refused_and_a_write_leaves_no_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomic(&path, &[0; 10], MODE_SECRET).unwrap();
        write_atomic(&path, &[1; 10], MODE_SECRET).unwrap();
        assert_eq!(read_limited(&path, 10).unwrap(), [1; 10]);
        assert!(matches!(read_limited(&path, 9), Err(FileError::TooLarge { .. })));
        assert!(write_atomic(&dir.path().join("no/such/dir"), b"", MODE_SECRET).is_err());
        fs::create_dir(dir.path().join("d")).unwrap();
        assert!(write_atomic(&dir.path().join("d"), b"x", MODE_SECRET).is_err(), "a directory is not replaced");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "no temporary file stays: {left:?}");
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
    }
}
