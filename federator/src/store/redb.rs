//! Edge. The embedded store: redb with bytes only, one table of it per [`Table`], an fsync per commit.
//!
//! A value on disk is its revision (8 bytes, big endian) and what was put. The revision of the last transaction is
//! written with each, so it never goes back. redb 4.6 checks the whole file when it opens it: a damaged one is an
//! error, never an empty registry.

use std::path::Path;

use meshfed_runtime::files;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
};
use tokio::sync::watch;

use super::{Condition, Key, Store, StoreError, Table, Transaction, Value, Write};

type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// The store's own table: the last revision.
const OWN: Bytes = TableDefinition::new("store");
const REVISION: &[u8] = b"revision";
/// Cache for pages: registries of 1,000 clusters are a few MiB.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error("another federator runs with this data directory; stop it first, or name another --data-dir")]
    InUse,
    /// Not readable.
    #[error("the registry cannot be opened; restore it from a backup, it is never created anew over a damaged one")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its directory or mode cannot be made.
    #[error("the registry cannot be created")]
    File(#[source] files::FileError),
}

/// The embedded store.
#[derive(Debug)]
pub struct RedbStore {
    database: Database,
    /// `Immediate`, but for the test that shows that the suite notices its absence.
    durability: Durability,
    /// Dropped after the database: fields go in the order they are declared in.
    gone: watch::Sender<()>,
}

/// The end of a [`RedbStore`]: its file is unlocked, another process can open it.
#[derive(Debug, Clone)]
pub struct Closed(watch::Receiver<()>);

impl Closed {
    /// Waits for it.
    pub async fn wait(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

fn definition(table: Table) -> Bytes {
    TableDefinition::new(table.as_str())
}

fn engine<E: Into<redb::Error>>(action: &'static str) -> impl FnOnce(E) -> StoreError {
    move |e| StoreError::Engine { action, source: Box::new(e.into()) }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

impl RedbStore {
    /// Opens or creates the file, mode 0600.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let new = !path.exists();
        if new {
            // Created by us for its mode; redb takes an empty file as a new registry.
            files::write_secret(path, b"").map_err(OpenError::File)?;
        }
        Self::prepare(builder().create(path), Durability::Immediate)
    }
    /// Opens or creates a registry in any storage.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn with_backend(backend: impl StorageBackend) -> Result<Self, OpenError> {
        Self::prepare(builder().create_with_backend(backend), Durability::Immediate)
    }
    /// As [`with_backend`](Self::with_backend), without any fsync: for the test of the suite itself.
    #[cfg(test)]
    pub(crate) fn without_fsync(backend: impl StorageBackend) -> Result<Self, OpenError> {
        Self::prepare(builder().create_with_backend(backend), Durability::None)
    }

    fn prepare(opened: Result<Database, DatabaseError>, durability: Durability) -> Result<Self, OpenError> {
        let database = opened.map_err(|e| {
            if matches!(e, DatabaseError::DatabaseAlreadyOpen) {
                OpenError::InUse
            } else {
                OpenError::Damaged(Box::new(e))
            }
        })?;
        let store = Self { database, durability, gone: watch::Sender::new(()) };
        store.create_tables().map_err(|e| OpenError::Damaged(Box::new(e)))?;
        Ok(store)
    }

    /// Tells when the store was dropped.
    pub fn closed(&self) -> Closed {
        Closed(self.gone.subscribe())
    }

    /// Reading a table that was never made is an error in redb: make them all, once.
    fn create_tables(&self) -> Result<(), StoreError> {
        let read = self.database.begin_read().map_err(engine("read"))?;
        let missing =
            read.open_table(OWN).is_err() || Table::ALL.iter().any(|t| read.open_table(definition(*t)).is_err());
        if !missing {
            return Ok(());
        }
        drop(read);
        let write = self.database.begin_write().map_err(engine("begin"))?;
        write.open_table(OWN).map_err(engine("open a table"))?;
        for table in Table::ALL {
            write.open_table(definition(table)).map_err(engine("open a table"))?;
        }
        write.commit().map_err(engine("commit"))
    }
}

fn split(table: Table, stored: &[u8]) -> Result<Value, StoreError> {
    let (revision, bytes) = stored
        .split_first_chunk::<8>()
        .ok_or_else(|| StoreError::Record { table, reason: "it has no revision".to_owned() })?;
    Ok(Value { bytes: bytes.to_vec(), revision: u64::from_be_bytes(*revision) })
}

fn revision_in(own: &impl ReadableTable<&'static [u8], &'static [u8]>) -> Result<u64, StoreError> {
    let Some(value) = own.get(REVISION).map_err(engine("read"))? else { return Ok(0) };
    let bytes: [u8; 8] = value.value().try_into().map_err(|_length| StoreError::Record {
        table: Table::Meta,
        reason: "the store's revision is no number".to_owned(),
    })?;
    Ok(u64::from_be_bytes(bytes))
}

fn check(transaction: &redb::WriteTransaction, condition: &Condition) -> Result<(), StoreError> {
    let (table, key, wanted) = match condition {
        Condition::Absent(t, k) => (*t, k, None),
        Condition::At(t, k, r) => (*t, k, Some(*r)),
    };
    let open = transaction.open_table(definition(table)).map_err(engine("open a table"))?;
    let found = open.get(key.as_bytes()).map_err(engine("read"))?;
    let found = found.map(|v| split(table, v.value())).transpose()?.map(|v| v.revision);
    if found == wanted { Ok(()) } else { Err(StoreError::Conflict { table, key: key.clone() }) }
}

fn apply(transaction: &redb::WriteTransaction, write: &Write, revision: u64) -> Result<(), StoreError> {
    match write {
        Write::Put(table, key, value) => {
            let mut open = transaction.open_table(definition(*table)).map_err(engine("open a table"))?;
            let stored = [revision.to_be_bytes().as_slice(), value].concat();
            open.insert(key.as_bytes(), stored.as_slice()).map_err(engine("write"))?;
        }
        Write::Delete(table, key) => {
            let mut open = transaction.open_table(definition(*table)).map_err(engine("open a table"))?;
            open.remove(key.as_bytes()).map_err(engine("write"))?;
        }
    }
    Ok(())
}

impl Store for RedbStore {
    fn get(&self, table: Table, key: &Key) -> Result<Option<Value>, StoreError> {
        let read = self.database.begin_read().map_err(engine("read"))?;
        let open = read.open_table(definition(table)).map_err(engine("open a table"))?;
        let found = open.get(key.as_bytes()).map_err(engine("read"))?;
        found.map(|v| split(table, v.value())).transpose()
    }
    fn scan(&self, table: Table) -> Result<Vec<(Key, Value)>, StoreError> {
        let read = self.database.begin_read().map_err(engine("read"))?;
        let open = read.open_table(definition(table)).map_err(engine("open a table"))?;
        open.iter()
            .map_err(engine("read"))?
            .map(|row| {
                let (key, value) = row.map_err(engine("read"))?;
                Ok((Key::from_bytes(key.value().to_vec()), split(table, value.value())?))
            })
            .collect()
    }
    fn commit(&self, transaction: &Transaction) -> Result<u64, StoreError> {
        transaction.check_limits()?;
        // Writers wait for each other here; dropping the transaction undoes it.
        let mut write = self.database.begin_write().map_err(engine("begin"))?;
        write.set_durability(self.durability).map_err(engine("begin"))?;
        for condition in &transaction.conditions {
            check(&write, condition)?;
        }
        let revision = {
            let mut own = write.open_table(OWN).map_err(engine("open a table"))?;
            let revision = revision_in(&own)? + 1;
            own.insert(REVISION, revision.to_be_bytes().as_slice()).map_err(engine("write"))?;
            revision
        };
        for one in &transaction.writes {
            apply(&write, one, revision)?;
        }
        write.commit().map_err(engine("commit"))?;
        Ok(revision)
    }
    fn revision(&self) -> Result<u64, StoreError> {
        let read = self.database.begin_read().map_err(engine("read"))?;
        revision_in(&read.open_table(OWN).map_err(engine("open a table"))?)
    }
}
