//! Edge. Walks PATH and tells which files came, changed or went. Decides nothing about objects.
//!
//! A file counts as changed when its content does: its stamp says whether to read it again, its hash whether it is
//! another. What cannot be read (a directory without permission, a PATH that is not there) is reported, and what was
//! known of it stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Code, ObjectError};
use crate::last_good::FileChange;
use crate::read::FILE_MAX;

/// The most files of a source.
pub const FILES_MAX: usize = 100_000;
/// The deepest directory below PATH.
pub const DIRECTORY_DEPTH_MAX: usize = 32;

/// What the file system says of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    inode: (u64, u64),
}

impl Stamp {
    /// Whether the file has no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.size == 0
    }
    /// Whether both are of the same file, and not of one that took the other's place.
    #[must_use]
    pub fn same_file(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            size: meta.size(),
            inode: (meta.dev(), meta.ino()),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    stamp: Option<Stamp>,
    hash: Option<u64>,
}

/// One look at the directory.
#[derive(Debug, Default)]
pub struct Walk {
    /// What changed since the last one, by path.
    pub changes: Vec<FileChange>,
    /// Files that look changed but are still waited for (see [`Walker::walk`]).
    pub unsettled: BTreeSet<Arc<str>>,
}

/// Remembers what was seen of a directory.
#[derive(Debug)]
pub struct Walker {
    root: PathBuf,
    known: BTreeMap<Arc<str>, Known>,
    errors: Vec<ObjectError>,
}

struct Seen {
    files: BTreeMap<Arc<str>, (PathBuf, Stamp)>,
    real: BTreeSet<(u64, u64)>,
    blocked: Vec<String>,
    errors: Vec<ObjectError>,
    root: PathBuf,
}

impl Walker {
    /// Begins with files that were known before a restart: those that are not found are reported as removed.
    #[must_use]
    pub fn new(root: PathBuf, known: impl IntoIterator<Item = Arc<str>>) -> Self {
        let known = known.into_iter().map(|path| (path, Known::default())).collect();
        Self { root, known, errors: Vec::new() }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The faults of the last full walk.
    #[must_use]
    pub fn errors(&self) -> &[ObjectError] {
        &self.errors
    }

    /// Whether a path below PATH (with `/` between) is one that a source reads.
    #[must_use]
    pub fn is_source_file(path: &str) -> bool {
        let hidden = path.split('/').any(|part| part.starts_with('.'));
        !hidden && [".yaml", ".yml", ".json"].iter().any(|end| path.ends_with(end))
    }

    /// Looks at everything. `wait` says of a changed file whether it is still being written: then it is not read yet.
    /// With `removals` false, files that are gone stay known for now (they are listed as unsettled).
    pub fn walk(&mut self, removals: bool, mut wait: impl FnMut(&Arc<str>, Stamp) -> bool) -> Walk {
        self.walk_knowing(removals, |path, stamp, _before| wait(path, stamp))
    }

    /// The same, where `wait` is also told what the file looked like when it was read.
    pub fn walk_knowing(
        &mut self,
        removals: bool,
        mut wait: impl FnMut(&Arc<str>, Stamp, Option<Stamp>) -> bool,
    ) -> Walk {
        let seen = self.look();
        let mut walk = Walk::default();
        self.errors = seen.errors;
        for (path, (real, stamp)) in &seen.files {
            let known = self.known.get(path).copied().unwrap_or_default();
            if known.stamp == Some(*stamp) {
                continue;
            }
            if wait(path, *stamp, known.stamp) {
                walk.unsettled.insert(Arc::clone(path));
            } else {
                // Written since the look: the next walk tells.
                walk.changes.extend(self.read(path, real, |now| now == stamp));
            }
        }
        let under_block = |path: &str| seen.blocked.iter().any(|b| b.is_empty() || path.starts_with(b.as_str()));
        let gone: Vec<Arc<str>> =
            self.known.keys().filter(|p| !seen.files.contains_key(*p) && !under_block(p)).map(Arc::clone).collect();
        for path in gone {
            if removals {
                self.known.remove(&path);
                walk.changes.push(FileChange::Removed { path });
            } else {
                walk.unsettled.insert(path);
            }
        }
        walk
    }

    /// Reads one file that was just written, without looking at the rest; nothing if it is not there. An empty one is
    /// left to the walk: most probably it is being written again.
    /// Only for a plain file in a directory that was walked before; links need the whole walk.
    pub fn read_one(&mut self, path: &Arc<str>) -> Option<FileChange> {
        let real = self.root.join(&**path);
        let meta = fs::symlink_metadata(&real).ok()?;
        // Not compared with the known stamp: two writes within one tick of the clock have the same.
        if !meta.is_file() {
            return None;
        }
        self.read(path, &real, |now| !now.is_empty())
    }

    /// Whether a file was seen by the last walk.
    #[must_use]
    pub fn knows(&self, path: &str) -> bool {
        self.known.contains_key(path)
    }

    /// Takes a file up, if `expected` says so of what it looked like while it was read.
    fn read(&mut self, path: &Arc<str>, real: &Path, expected: impl Fn(&Stamp) -> bool) -> Option<FileChange> {
        match read_limited(real) {
            // Gone between the look and the read: the next walk tells.
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                // Without stamp, so that it is tried again with every walk; one hash per message, so that it is told once.
                let message = format!("cannot be read: {e}");
                let hash = Some(hash_of(message.as_bytes()));
                let before = self.known.insert(Arc::clone(path), Known { stamp: None, hash }).unwrap_or_default();
                let error = ObjectError::new(Code::Unreadable, message).in_file(path);
                let error = error.remedy("let the agent's user read it; until then the file's last good objects stay");
                (before.hash != hash).then(|| FileChange::Unreadable { path: Arc::clone(path), error })
            }
            // It was written while it was read: whoever writes is heard of again, and the next walk looks again.
            Ok(None) => None,
            Ok(Some((_, stamp))) if !expected(&stamp) => None,
            Ok(Some((bytes, stamp))) => {
                let hash = Some(hash_of(&bytes));
                let before =
                    self.known.insert(Arc::clone(path), Known { stamp: Some(stamp), hash }).unwrap_or_default();
                (before.hash != hash).then(|| FileChange::Content { path: Arc::clone(path), bytes })
            }
        }
    }

    fn look(&self) -> Seen {
        let mut seen = Seen {
            files: BTreeMap::new(),
            real: BTreeSet::new(),
            blocked: Vec::new(),
            errors: Vec::new(),
            root: PathBuf::new(),
        };
        match fs::canonicalize(&self.root) {
            Ok(root) => {
                seen.root.clone_from(&root);
                seen.directory(&root, "", 0);
            }
            Err(e) => {
                let message = format!("{} cannot be read: {e}", self.root.display());
                let error = ObjectError::new(Code::Unreadable, message);
                seen.errors.push(error.remedy("make the directory; until then the last good objects stay"));
                seen.blocked.push(String::new());
            }
        }
        seen
    }
}

impl Seen {
    fn directory(&mut self, real: &Path, prefix: &str, depth: usize) {
        let entries = match fs::read_dir(real).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(e) => return self.blocked_directory(prefix, &format!("cannot be read: {e}")),
        };
        if depth >= DIRECTORY_DEPTH_MAX {
            return self.blocked_directory(prefix, &format!("is deeper than {DIRECTORY_DEPTH_MAX} directories"));
        }
        let mut names = Vec::with_capacity(entries.len());
        for entry in &entries {
            match entry.file_name().into_string() {
                Ok(name) => names.push(name),
                Err(name) => {
                    let message = format!("the name {} is not UTF-8; it is passed over", name.display());
                    self.errors.push(ObjectError::new(Code::Skipped, message).in_file(prefix));
                }
            }
        }
        names.sort();
        for name in names.iter().filter(|n| !n.starts_with('.')) {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
            self.entry(&real.join(name), &path, depth);
        }
    }

    fn blocked_directory(&mut self, prefix: &str, message: &str) {
        let error = ObjectError::new(Code::Unreadable, format!("the directory {message}"));
        self.errors.push(error.in_file(prefix).remedy("until it can be read its last good objects stay"));
        self.blocked.push(if prefix.is_empty() { String::new() } else { format!("{prefix}/") });
    }

    fn entry(&mut self, at: &Path, path: &str, depth: usize) {
        let linked = fs::symlink_metadata(at).is_ok_and(|m| m.is_symlink());
        // Follows links.
        let meta = match fs::metadata(at) {
            Ok(meta) => meta,
            Err(e) => {
                // Gone since the directory was read, unless a link leads nowhere or may not be followed: that is a
                // fault, and what the file gave before stays.
                if Walker::is_source_file(path) && (linked || e.kind() != io::ErrorKind::NotFound) {
                    let error = ObjectError::new(Code::Unreadable, format!("cannot be read: {e}")).in_file(path);
                    let error = error.remedy("correct or delete it; until then its last good objects stay");
                    self.errors.push(error);
                    self.blocked.push(path.to_owned());
                }
                return;
            }
        };
        if !meta.is_dir() && !Walker::is_source_file(path) {
            return;
        }
        let mut real = at.to_path_buf();
        if linked {
            match fs::canonicalize(at) {
                Ok(target) if target.starts_with(&self.root) => real = target,
                Ok(target) => {
                    let message = format!("is a link to {}, outside the source; it is passed over", target.display());
                    let error = ObjectError::new(Code::Skipped, message).in_file(path);
                    self.errors.push(error.remedy("put the file itself into the source"));
                    return;
                }
                Err(_) => return,
            }
        }
        if meta.is_dir() {
            // A directory that contains the link would be walked for ever.
            if !linked || !(at.starts_with(&real) || self.root.starts_with(&real)) {
                self.directory(&real, path, depth + 1);
            }
            return;
        }
        if !meta.is_file() {
            return;
        }
        let stamp = Stamp::of(&meta);
        if self.files.len() >= FILES_MAX {
            if self.files.len() == FILES_MAX && !self.errors.iter().any(|e| e.code == Code::TooLarge) {
                let message =
                    format!("the source has more than {FILES_MAX} files; this one and all after it are passed over");
                self.errors.push(ObjectError::new(Code::TooLarge, message).in_file(path));
                // What was passed over is not gone.
                self.blocked.push(String::new());
            }
            return;
        }
        // One file under two names is one file: the name that comes first.
        if self.real.insert(stamp.inode) || meta.nlink() > 1 && !linked {
            self.files.insert(path.into(), (real, stamp));
        }
    }
}

/// The content, and what the file looked like before and after it was read; `None` if that is not the same.
fn read_limited(path: &Path) -> io::Result<Option<(Vec<u8>, Stamp)>> {
    // What was a file a moment ago may be a pipe now, whose opening would wait for a writer for ever.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut file = fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let before = Stamp::of(&metadata);
    let mut bytes = Vec::new();
    // One byte more than allowed is enough for the reader to refuse the file by its size.
    let limit = u64::try_from(FILE_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.by_ref().take(limit).read_to_end(&mut bytes)?;
    let after = Stamp::of(&file.metadata()?);
    Ok((before == after).then_some((bytes, after)))
}

fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
