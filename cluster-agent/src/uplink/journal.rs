//! Edge. The journal of the offer: what was sent is on the disk before it is sent.

use std::fs;
use std::path::{Path, PathBuf};

use meshfed_api::proto::federation as wire;
use meshfed_api::stream::Delta;
use meshfed_runtime::files::{self, MODE_SECRET};
use prost::Message as _;

use super::ledger::Ledger;
use crate::records::{Damage, RecordError, RecordFile, Records, set_aside, unreadable};

/// Bytes of the file of the last epoch.
const EPOCH_FILE_MAX: usize = 64;
/// An epoch above this was never begun: they start at Unix time in seconds, and grow by one.
const EPOCH_MAX: u64 = 1 << 48;

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
fn proven(records: &Records, boot: &str) -> Option<Ledger> {
    // What is before damage is not all that was sent.
    let (first, rest) = records.whole.split_first().filter(|_| records.damage.is_none())?;
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
    /// [`RecordError`].
    pub fn open(directory: &Path, boot: &str, now_seconds: u64) -> Result<(Self, Ledger), RecordError> {
        files::create_private_dir(directory)?;
        let path = directory.join("offer.journal");
        let records = RecordFile::read(&path)?;
        let ledger = match proven(&records, boot) {
            Some(ledger) => ledger,
            None => Ledger::new(next_epoch(directory, now_seconds.max(above(&records)))?),
        };
        if let Some(damage) = &records.damage {
            let (kept, epoch) = (set_aside(&path)?, ledger.version().epoch);
            let (path, kept) = (path.display(), kept.display());
            tracing::error!(%path, %damage, %kept, epoch, "the offer journal is damaged, and a new epoch begins; nothing is to be done");
        }
        let file = Self::write(&path, boot, &ledger.snapshot())?;
        Ok((Self { directory: directory.to_owned(), boot: boot.to_owned(), file }, ledger))
    }

    fn write(path: &Path, boot: &str, snapshot: &[Delta]) -> Result<RecordFile, RecordError> {
        let mut records = vec![record(kind::BOOT, boot.as_bytes())];
        records.extend(delta_records(snapshot));
        RecordFile::rewrite(path, records.iter().map(Vec::as_slice))
    }

    /// Appends changes: before they are sent.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn append(&mut self, changes: &[Delta]) -> Result<(), RecordError> {
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
    /// [`RecordError`]; the old file stays.
    pub fn rewrite(&mut self, snapshot: &[Delta]) -> Result<(), RecordError> {
        self.file = Self::write(&self.directory.join("offer.journal"), &self.boot, snapshot)?;
        Ok(())
    }

    /// A new epoch, durable before it is used; above `above`.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn next_epoch(&self, above: u64) -> Result<u64, RecordError> {
        next_epoch(&self.directory, above.saturating_add(1))
    }

    /// Marks that all is on the disk: the next boot continues the numbering.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn close(mut self) -> Result<(), RecordError> {
        self.file.sync()?;
        self.file.append([[kind::CLEAN].as_slice()])?;
        self.file.sync()
    }
}

/// The first epoch that no record of a journal can have been written under.
fn above(records: &Records) -> u64 {
    let deltas = records.whole.iter().filter_map(|r| r.strip_prefix(&[kind::DELTA]));
    let epochs = deltas.filter_map(|bytes| wire::Delta::decode(bytes).ok()?.version.map(|v| v.epoch));
    epochs.max().unwrap_or(0).saturating_add(1)
}

/// The last epoch that was begun here. A file that names none is set aside: the numbering then begins as if the
/// directory were new, at Unix time and above the journal, and the hub says if it holds a later offer.
fn last_epoch(path: &Path) -> Result<u64, RecordError> {
    let damage = match files::read_limited(path, EPOCH_FILE_MAX) {
        Ok(bytes) => match String::from_utf8_lossy(&bytes).trim().parse::<u64>() {
            Ok(epoch) if epoch <= EPOCH_MAX => return Ok(epoch),
            Ok(epoch) => Damage::Unreadable(format!("{epoch} is no epoch of this agent; the largest is {EPOCH_MAX}")),
            Err(error) => Damage::Unreadable(format!("it holds no epoch: {error}")),
        },
        Err(error) if error.is_not_found() => return Ok(0),
        Err(error) => unreadable(error)?,
    };
    let kept = set_aside(path)?;
    let (path, kept) = (path.display(), kept.display());
    tracing::error!(%path, %damage, %kept, "the file of the last epoch is damaged; a later one begins, nothing is to be done");
    Ok(0)
}

fn next_epoch(directory: &Path, at_least: u64) -> Result<u64, RecordError> {
    let path = directory.join("epoch");
    let epoch = at_least.max(u64::saturating_add(last_epoch(&path)?, 1));
    files::write_atomic(&path, format!("{epoch}\n").as_bytes(), MODE_SECRET)?;
    Ok(epoch)
}

/// The id of this boot of the machine; empty where the kernel does not tell it.
#[must_use]
pub fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}
