//! Edge. Files of records that survive `kill -9`: what is appended is in the page cache before anybody hears of it.
//!
//! A record is a length, a checksum and bytes. A torn tail (the process died inside a write) is cut off when the file
//! is opened. Only [`RecordFile::rewrite`] and [`RecordFile::sync`] wait for the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use meshfed_api::proto::federation as wire;
use meshfed_api::stream::Delta;
use meshfed_runtime::files::{self, FileError, MODE_SECRET};
use prost::Message as _;

use super::ledger::Ledger;

/// The first bytes of every record file; another number is another format.
const MAGIC: &[u8; 8] = b"MFREC01\n";
/// Bytes before each record: length and checksum.
const PREFIX: usize = 8;
/// The largest file that is read, in bytes: 10,000 services of 100 endpoints, four times.
const FILE_MAX: usize = 1 << 30;
/// A file smaller than this is not rewritten, in bytes.
const REWRITE_FLOOR: u64 = 1 << 20;
/// A file is rewritten when it has grown to so many times its size after the last rewrite, so that each byte is
/// written at most about 1.3 times.
const REWRITE_FACTOR: u64 = 4;

/// Why a journal cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
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
    #[error("the journal cannot be used")]
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

/// The whole records of a file, and how many bytes they take.
fn split(bytes: &[u8]) -> (Vec<Vec<u8>>, usize) {
    let mut records = Vec::new();
    let Some(mut rest) = bytes.strip_prefix(MAGIC.as_slice()) else { return (records, 0) };
    let number = |b: &[u8]| b.first_chunk::<4>().map(|b| u32::from_le_bytes(*b));
    while let (Some(length), Some(sum)) = (number(rest), rest.get(4..).and_then(number)) {
        let end = PREFIX.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let Some(record) = rest.get(PREFIX..end).filter(|r| checksum(r) == sum) else { break };
        records.push(record.to_vec());
        rest = rest.get(end..).unwrap_or_default();
    }
    (records, bytes.len() - rest.len())
}

impl RecordFile {
    /// The whole records of a file; none where there is no file.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn read(path: &Path) -> Result<Vec<Vec<u8>>, JournalError> {
        match files::read_limited(path, FILE_MAX) {
            Ok(bytes) => {
                let (records, whole) = split(&bytes);
                if whole < bytes.len() {
                    let lost = bytes.len() - whole;
                    tracing::warn!(path = %path.display(), lost, "a torn tail was cut off");
                }
                Ok(records)
            }
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces a file by these records, durably, and goes on appending to it.
    ///
    /// # Errors
    /// [`JournalError`]; the old file stays.
    pub fn rewrite<'a>(path: &Path, records: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, JournalError> {
        let mut bytes = MAGIC.to_vec();
        for record in records {
            frame(&mut bytes, record);
        }
        files::write_atomic(path, &bytes, MODE_SECRET)?;
        let file = OpenOptions::new().append(true).mode(MODE_SECRET).open(path).map_err(|source| JournalError::Io {
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
    /// [`JournalError`]. A part of the write may stand; the next start cuts it off.
    pub fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8]>) -> Result<(), JournalError> {
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
    /// [`JournalError`].
    pub fn sync(&self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(|source| self.failed("fsync", source))
    }

    /// Whether it is time for a rewrite.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.bytes > REWRITE_FLOOR && self.bytes > self.bytes_rewritten.saturating_mul(REWRITE_FACTOR)
    }

    fn failed(&self, action: &'static str, source: io::Error) -> JournalError {
        JournalError::Io { action, path: self.path.clone(), source }
    }
}

/// Kinds of records in the offer journal: their first byte.
mod kind {
    /// The boot id under which what follows was written.
    pub(super) const BOOT: u8 = 1;
    /// A delta.
    pub(super) const DELTA: u8 = 2;
    /// All before is on the disk: the process ended in order.
    pub(super) const CLEAN: u8 = 3;
}

/// The journal of the offer, `state/offer.journal`, and the durable epoch beside it, `state/epoch`.
#[derive(Debug)]
pub struct OfferJournal {
    directory: PathBuf,
    boot: String,
    file: RecordFile,
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(body.len() + 1);
    record.push(kind);
    record.extend_from_slice(body);
    record
}

fn delta_records(deltas: &[Delta]) -> Vec<Vec<u8>> {
    let parts = deltas.iter().flat_map(|d| d.clone().parts());
    parts.map(|d| record(kind::DELTA, &wire::Delta::from(&d).encode_to_vec())).collect()
}

/// What a journal says, if it can be proved that nothing after it was sent.
fn proven(records: &[Vec<u8>], boot: &str) -> Option<Ledger> {
    let (first, rest) = records.split_first()?;
    let same_boot = !boot.is_empty() && first.strip_prefix(&[kind::BOOT]) == Some(boot.as_bytes());
    let clean = rest.last().is_some_and(|r| r.as_slice() == [kind::CLEAN]);
    if !same_boot && !clean {
        return None;
    }
    let deltas = rest.iter().filter_map(|r| r.strip_prefix(&[kind::DELTA]));
    let deltas: Result<Vec<Delta>, _> = deltas
        .map(|bytes| wire::Delta::decode(bytes).map_err(|e| e.to_string())?.try_into().map_err(|e| format!("{e}")))
        .collect();
    match deltas.and_then(|d| Ledger::replay(d).map_err(|e| e.to_string())) {
        Ok(ledger) if ledger.version().epoch > 0 => Some(ledger),
        Ok(_) => None,
        Err(reason) => {
            tracing::warn!(reason, "the offer journal cannot be replayed; a new epoch begins");
            None
        }
    }
}

impl OfferJournal {
    /// Opens the journal. Where it cannot prove that it holds all that was ever sent, a new epoch begins: above every
    /// earlier one of this directory, and not below `now_seconds` (Unix time), so that it is above those of a
    /// directory that was lost, too.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(directory: &Path, boot: &str, now_seconds: u64) -> Result<(Self, Ledger), JournalError> {
        files::create_private_dir(directory)?;
        let path = directory.join("offer.journal");
        let ledger = match proven(&RecordFile::read(&path)?, boot) {
            Some(ledger) => ledger,
            None => Ledger::new(next_epoch(directory, now_seconds)?),
        };
        let file = Self::write(&path, boot, &ledger.snapshot())?;
        Ok((Self { directory: directory.to_owned(), boot: boot.to_owned(), file }, ledger))
    }

    fn write(path: &Path, boot: &str, snapshot: &[Delta]) -> Result<RecordFile, JournalError> {
        let mut records = vec![record(kind::BOOT, boot.as_bytes())];
        records.extend(delta_records(snapshot));
        RecordFile::rewrite(path, records.iter().map(Vec::as_slice))
    }

    /// Appends changes: before they are sent.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn append(&mut self, changes: &[Delta]) -> Result<(), JournalError> {
        let records = delta_records(changes);
        self.file.append(records.iter().map(Vec::as_slice))
    }

    /// Whether it is time for [`Self::rewrite`].
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.file.is_long()
    }

    /// Replaces the file by what the offer is now.
    ///
    /// # Errors
    /// [`JournalError`]; the old file stays.
    pub fn rewrite(&mut self, snapshot: &[Delta]) -> Result<(), JournalError> {
        self.file = Self::write(&self.directory.join("offer.journal"), &self.boot, snapshot)?;
        Ok(())
    }

    /// A new epoch, durable before it is used; above `above`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn next_epoch(&self, above: u64) -> Result<u64, JournalError> {
        next_epoch(&self.directory, above.saturating_add(1))
    }

    /// Marks that all is on the disk: the next boot continues the numbering.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn close(mut self) -> Result<(), JournalError> {
        self.file.sync()?;
        self.file.append([[kind::CLEAN].as_slice()])?;
        self.file.sync()
    }
}

fn next_epoch(directory: &Path, at_least: u64) -> Result<u64, JournalError> {
    let path = directory.join("epoch");
    let last = match files::read_text(&path, 64) {
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(error) if error.is_not_found() => 0,
        Err(error) => return Err(error.into()),
    };
    let epoch = at_least.max(u64::saturating_add(last, 1));
    files::write_atomic(&path, format!("{epoch}\n").as_bytes(), MODE_SECRET)?;
    Ok(epoch)
}

/// The id of this boot of the machine; empty where the kernel does not tell it.
#[must_use]
pub fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}
