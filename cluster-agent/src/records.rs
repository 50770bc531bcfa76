//! Edge. Files of records that survive `kill -9`: what is appended is in the page cache before anybody hears of it.
//!
//! A record is a length, a checksum and bytes. A torn tail (the process died inside a write, or the machine before the
//! disk had it) is cut off when the file is opened: what is before it stood, and nobody relied on what was after it.
//! Damage is another thing: whole records follow it, so what is before it is older than what once stood, by nobody
//! knows how much. Such a file is read by nobody and set aside. Only [`RecordFile::rewrite`] and [`RecordFile::sync`]
//! wait for the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use meshfed_runtime::files::{self, FileError, MODE_SECRET};

/// The first bytes of every record file; another number is another format.
const MAGIC: &[u8; 8] = b"MFREC01\n";
/// Bytes before each record: length and checksum.
const PREFIX: usize = 8;
/// The largest file that is read, in bytes: 10,000 services of 100 endpoints, four times.
const FILE_MAX: usize = 1 << 30;
/// The longest record that is looked for after damage, in bytes: a part of a change is smaller.
const SEARCHED_MAX: usize = 16 << 20;
/// Bytes whose checksums are tried when a whole record is looked for after damage.
const SEARCH_BYTES: usize = 1 << 30;
/// A file smaller than this is not rewritten, in bytes.
const REWRITE_FLOOR: u64 = 1 << 20;
/// A file is rewritten when it has grown to so many times its size after the last rewrite, so that each byte is
/// written at most about 1.3 times.
const REWRITE_FACTOR: u64 = 4;

/// Why a file of the agent's state cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file cannot be read or replaced.
    #[error("a file of the agent's state cannot be used")]
    File(#[from] FileError),
}

/// CRC-32 (IEEE 802.3), bit by bit over a table of 16: records are small, and a dependency for this is not.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0u32; 16];
        let mut i = 0u32;
        while i < 16 {
            let mut c = i;
            let mut k = 0;
            while k < 4 {
                c = if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 };
                k += 1;
            }
            table[i as usize] = c;
            i += 1;
        }
        table
    };
    let step = |c: u32| TABLE.get((c & 0xf) as usize).copied().unwrap_or_default() ^ (c >> 4);
    !bytes.iter().fold(u32::MAX, |c, b| step(step(c ^ u32::from(*b))))
}

/// A file of records.
#[derive(Debug)]
pub struct RecordFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_rewritten: u64,
}

fn frame(out: &mut Vec<u8>, record: &[u8]) {
    let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(record).to_le_bytes());
    out.extend_from_slice(record);
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// The whole records, in order; none where there is no file.
    pub whole: Vec<Vec<u8>>,
    /// The file is damaged, and `whole` is only what is before the damage.
    pub damage: Option<Damage>,
}

/// Why a file is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Bytes that are no record, with whole records after them.
    #[error("damaged at byte {at}; whole records follow at byte {next}")]
    Middle {
        /// Where the damage begins.
        at: usize,
        /// Where the next whole record begins.
        next: usize,
    },
    /// The first bytes are not those of a record file.
    #[error("it does not begin as a file of records")]
    Beginning,
    /// It cannot be read at all.
    #[error("{0}")]
    Unreadable(String),
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk::<4>().map(|b| u32::from_le_bytes(*b))
}

/// The record that begins here, and where it ends; `None` where none does.
fn record_at(bytes: &[u8], longest: usize) -> Option<(&[u8], usize)> {
    let (length, sum) = (number(bytes)?, number(bytes.get(4..)?)?);
    // No record is empty: eight zero bytes look like one, and are what a file system leaves where a write never came.
    let length = usize::try_from(length).ok().filter(|l| (1..=longest).contains(l))?;
    let end = PREFIX.checked_add(length)?;
    let record = bytes.get(PREFIX..end).filter(|r| checksum(r) == sum)?;
    Some((record, end))
}

/// The first whole record after damage.
fn next_record(bytes: &[u8], after: usize) -> Option<usize> {
    let mut budget = SEARCH_BYTES;
    for at in after.saturating_add(1)..bytes.len() {
        let rest = bytes.get(at..)?;
        let length = number(rest).and_then(|l| usize::try_from(l).ok()).unwrap_or(0);
        if length == 0 || length > SEARCHED_MAX || length > rest.len().saturating_sub(PREFIX) {
            continue;
        }
        // Bytes that look like lengths by chance cost a checksum each; a file full of them is damaged, whatever follows.
        let Some(left) = budget.checked_sub(length) else { return Some(at) };
        budget = left;
        if record_at(rest, SEARCHED_MAX).is_some() {
            return Some(at);
        }
    }
    None
}

fn split(bytes: &[u8]) -> Records {
    let mut records = Records::default();
    let Some(mut rest) = bytes.strip_prefix(MAGIC.as_slice()) else {
        records.damage = Some(Damage::Beginning);
        return records;
    };
    while let Some((record, end)) = record_at(rest, usize::MAX) {
        records.whole.push(record.to_vec());
        rest = rest.get(end..).unwrap_or_default();
    }
    let at = bytes.len() - rest.len();
    records.damage = next_record(bytes, at).map(|next| Damage::Middle { at, next });
    if records.damage.is_none() && !rest.is_empty() {
        tracing::warn!(lost = rest.len(), "a torn tail was cut off");
    }
    records
}

/// Whether what could not be read is a damaged file: one on a bad sector, one that has grown without reason, a
/// directory in its place.
///
/// # Errors
/// The error, where it is another: of permissions, say, which are to be mended.
pub fn unreadable(error: FileError) -> Result<Damage, RecordError> {
    let damaged = match &error {
        FileError::TooLarge { .. } => true,
        FileError::Io { source, .. } => {
            let bad_sector = source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
            bad_sector || matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::IsADirectory)
        }
    };
    if damaged { Ok(Damage::Unreadable(meshfed_runtime::telemetry::chain_of(&error))) } else { Err(error.into()) }
}

/// Gives a file that is not what was written another name, and says which: it is kept for whoever wants to know.
///
/// # Errors
/// [`RecordError`] when it cannot be renamed.
pub fn set_aside(path: &Path) -> Result<PathBuf, RecordError> {
    let named = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{n}"));
        PathBuf::from(name)
    };
    // Damage is rare, so a name is soon free.
    let free = (1..=u32::MAX).map(named).find(|p| fs::symlink_metadata(p).is_err()).unwrap_or_else(|| named(0));
    fs::rename(path, &free).map_err(|source| RecordError::Io {
        action: "set aside the damaged",
        path: path.to_owned(),
        source,
    })?;
    Ok(free)
}

/// The bytes of a file that holds these records.
pub fn framed<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for record in records {
        frame(&mut bytes, record);
    }
    bytes
}

impl RecordFile {
    /// What a file holds.
    ///
    /// # Errors
    /// [`RecordError`] where it is not the file that is at fault, but whoever may read it.
    pub fn read(path: &Path) -> Result<Records, RecordError> {
        match files::read_limited(path, FILE_MAX) {
            Ok(bytes) => Ok(split(&bytes)),
            Err(error) if error.is_not_found() => Ok(Records::default()),
            Err(error) => Ok(Records { whole: Vec::new(), damage: Some(unreadable(error)?) }),
        }
    }

    /// Replaces a file by these records, durably, and goes on appending to it.
    ///
    /// # Errors
    /// [`RecordError`]; the old file stays.
    pub fn rewrite<'a>(path: &Path, records: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, RecordError> {
        let bytes = framed(records);
        files::write_atomic(path, &bytes, MODE_SECRET)?;
        let file = OpenOptions::new().append(true).mode(MODE_SECRET).open(path).map_err(|source| RecordError::Io {
            action: "open",
            path: path.to_owned(),
            source,
        })?;
        let size = bytes.len() as u64;
        Ok(Self { path: path.to_owned(), file, bytes: size, bytes_rewritten: size })
    }

    /// Appends records with one write.
    ///
    /// # Errors
    /// [`RecordError`]. A part of the write may stand; the next start cuts it off.
    pub fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8]>) -> Result<(), RecordError> {
        let mut bytes = Vec::new();
        for record in records {
            frame(&mut bytes, record);
        }
        self.bytes += bytes.len() as u64;
        self.file.write_all(&bytes).map_err(|source| self.failed("append to", source))
    }

    /// Waits until all is on the disk.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn sync(&self) -> Result<(), RecordError> {
        self.file.sync_data().map_err(|source| self.failed("fsync", source))
    }

    /// Whether it is time for a rewrite.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.bytes > REWRITE_FLOOR && self.bytes > self.bytes_rewritten.saturating_mul(REWRITE_FACTOR)
    }

    fn failed(&self, action: &'static str, source: io::Error) -> RecordError {
        RecordError::Io { action, path: self.path.clone(), source }
    }
}
