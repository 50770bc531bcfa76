//! Edge. The saved view as one text of bytes, so that it can be kept in another place than the disk, and laid out again
//! where the disk is empty. What is laid out is checked as every saved view is, when it is opened.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use meshfed_runtime::files::{self, MODE_SECRET};

use super::Part;
use super::persist::{FILE_MAX, INTEREST, MISSING, ORDER, folded, records};
use crate::records::{RecordError, RecordFile, checksum, framed};

/// The first bytes; another number is another format.
const MAGIC: &[u8; 8] = b"MFVIEW1\n";
/// Bytes of the checksum after it.
const SUM: usize = 4;

/// By what a directory is known to be unchanged: names, lengths and times of its files.
pub type Signature = Vec<(String, u64, Option<SystemTime>)>;

/// Why bytes are no view.
#[derive(Debug, thiserror::Error)]
pub enum LayError {
    /// They are not what was packed.
    #[error("it is not what an agent has kept: {0}")]
    Damaged(&'static str),
    /// The directory.
    #[error("the view cannot be laid out")]
    Record(#[from] RecordError),
    /// The directory.
    #[error("the view cannot be laid out")]
    File(#[from] files::FileError),
}

/// Whether a file of the directory is part of what is kept.
fn is_kept(name: &str) -> bool {
    name == ORDER || name == INTEREST || Part::of_file(name).is_some()
}

fn listed(directory: &Path) -> Result<Vec<fs::DirEntry>, RecordError> {
    let failed = |source| RecordError::Io { action: "list", path: directory.to_owned(), source };
    match fs::read_dir(directory) {
        Ok(entries) => entries.collect::<Result<_, _>>().map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

/// What the saved view is known by; empty: there is none.
///
/// # Errors
/// [`RecordError`].
pub fn signature(directory: &Path) -> Result<Signature, RecordError> {
    let mut all = Signature::new();
    for entry in listed(directory)? {
        // One that is replaced this moment is another one the next time.
        let (name, Ok(of)) = (entry.file_name().to_string_lossy().into_owned(), entry.metadata()) else { continue };
        all.push((name, of.len(), of.modified().ok()));
    }
    all.sort();
    Ok(all)
}

/// The saved view; `None`: there is none, or a part of it is missing: then what was kept before is better.
///
/// # Errors
/// [`RecordError`].
pub fn pack(directory: &Path) -> Result<Option<Vec<u8>>, RecordError> {
    let mut names: Vec<String> =
        listed(directory)?.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    if names.iter().any(|name| name.ends_with(MISSING)) || !names.contains(&Part::Members.file()) {
        return Ok(None);
    }
    let mut body = Vec::new();
    for name in names.iter().filter(|name| is_kept(name)) {
        let path = directory.join(name);
        let bytes = match Part::of_file(name) {
            // What it has grown by is history, which nobody needs.
            Some(Part::Origin(origin)) => {
                let read = RecordFile::read(&path)?;
                let Some(change) = folded(&origin, &read.whole).filter(|_| read.damage.is_none()) else {
                    return Ok(None);
                };
                framed(records(&change).iter().map(Vec::as_slice))
            }
            Some(Part::Members | Part::Policies | Part::SharedNetworks) | None => {
                match files::read_limited(&path, FILE_MAX) {
                    Ok(bytes) => bytes,
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        put(&mut body, name.as_bytes());
        put(&mut body, &bytes);
    }
    Ok(Some([MAGIC.as_slice(), &checksum(&body).to_le_bytes(), &body].concat()))
}

fn put(body: &mut Vec<u8>, bytes: &[u8]) {
    // A file has at most 1 GiB.
    body.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    body.extend_from_slice(bytes);
}

/// Takes one text from the beginning.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (taken, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

/// Lays out in a directory what was packed.
///
/// # Errors
/// [`LayError`]; nothing was written where the bytes are damaged.
pub fn lay(packed: &[u8], directory: &Path) -> Result<(), LayError> {
    let body = packed.strip_prefix(MAGIC.as_slice()).and_then(|rest| rest.split_first_chunk::<SUM>());
    let (sum, mut rest) = body.ok_or(LayError::Damaged("it does not begin as a view"))?;
    if u32::from_le_bytes(*sum) != checksum(rest) {
        return Err(LayError::Damaged("its checksum is another"));
    }
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (name, bytes) = (take(&mut rest), take(&mut rest));
        let name = name.and_then(|name| std::str::from_utf8(name).ok()).filter(|name| is_kept(name));
        all.push(name.zip(bytes).ok_or(LayError::Damaged("it names a file that no view has"))?);
    }
    files::create_private_dir(directory)?;
    // The members last: without them there is no view.
    all.sort_by_key(|(name, _)| *name == Part::Members.file());
    for (name, bytes) in all {
        files::write_atomic(&directory.join(name), bytes, MODE_SECRET)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use meshfed_model::member::Members;

    use super::*;
    use crate::view::persist::ViewStore;

    /// What was packed is the view again in an empty directory; what is damaged writes nothing, and a view with a missing
    /// part is not packed.
    ///
    /// Mutations seen to fail: the checksum not compared; `MISSING` not asked for.
    #[test]
    fn what_was_packed_is_the_view_again() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        assert_eq!(pack(&from).unwrap(), None, "there is none");
        let (mut store, _empty) = ViewStore::open(&from).unwrap();
        let members: Members = crate::view::tests::members("10.1.0.0/16");
        store.save_members(&members).unwrap();
        store.append(&crate::view::tests::change_of_east()).unwrap();
        let packed = pack(&from).unwrap().unwrap();
        let mut damaged = packed.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(lay(&damaged, &to).is_err() && !to.exists());
        lay(&packed, &to).unwrap();
        let (_store, loaded) = ViewStore::open(&to).unwrap();
        assert_eq!((loaded.members, loaded.changes.len(), loaded.missing.len()), (members, 1, 0));
        assert_eq!(pack(&to).unwrap().as_ref(), Some(&packed), "again it is the same");
        fs::write(from.join("policies.missing"), b"").unwrap();
        assert_eq!(pack(&from).unwrap(), None, "one with a missing part is no better than what was kept before");
    }
}
