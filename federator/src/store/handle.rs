//! Edge. A store for async code: every call runs off the runtime's threads.

use std::sync::Arc;

use meshfed_runtime::tasks;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Key, Store, StoreError, Table, Transaction, record};

/// A shared store.
#[derive(Clone)]
pub struct Handle(Arc<dyn Store>);

impl Handle {
    /// Shares a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }
    /// The blocking store itself.
    #[must_use]
    pub fn blocking(&self) -> &dyn Store {
        self.0.as_ref()
    }
    /// Runs several calls in one go off the runtime.
    ///
    /// # Errors
    /// Those of `work`; [`StoreError::Engine`] when it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(&self.0);
        tasks::spawn_blocking("store", move || work(store.as_ref()))
            .await
            .unwrap_or_else(|e| Err(StoreError::Engine { action: "finish", source: Box::new(e) }))
    }
    /// [`Store::commit`].
    ///
    /// # Errors
    /// Those of [`Store::commit`].
    pub async fn commit(&self, transaction: Transaction) -> Result<u64, StoreError> {
        self.run(move |s| s.commit(&transaction)).await
    }
    /// A record and its revision.
    ///
    /// # Errors
    /// Those of [`get`].
    pub async fn get<T: DeserializeOwned + Send + 'static>(
        &self,
        table: Table,
        key: Key,
    ) -> Result<Option<(T, u64)>, StoreError> {
        self.run(move |s| get(s, table, &key)).await
    }
    /// All records of a table with their keys and revisions.
    ///
    /// # Errors
    /// Those of [`scan`].
    pub async fn scan<T: DeserializeOwned + Send + 'static>(
        &self,
        table: Table,
    ) -> Result<Vec<(Key, T, u64)>, StoreError> {
        self.run(move |s| scan(s, table)).await
    }
}

/// A record and its revision.
///
/// # Errors
/// [`StoreError::Record`] when it cannot be read, and those of the store.
pub fn get<T: DeserializeOwned>(store: &dyn Store, table: Table, key: &Key) -> Result<Option<(T, u64)>, StoreError> {
    let Some(value) = store.get(table, key)? else { return Ok(None) };
    Ok(Some((record::decode(table, &value.bytes)?, value.revision)))
}

/// All records of a table with their keys and revisions.
///
/// # Errors
/// [`StoreError::Record`] when one cannot be read, and those of the store.
pub fn scan<T: DeserializeOwned>(store: &dyn Store, table: Table) -> Result<Vec<(Key, T, u64)>, StoreError> {
    store
        .scan(table)?
        .into_iter()
        .map(|(key, value)| Ok((key, record::decode(table, &value.bytes)?, value.revision)))
        .collect()
}

/// The bytes of a record.
///
/// # Errors
/// Those of [`record::encode`].
pub fn bytes<T: Serialize>(table: Table, value: &T) -> Result<Vec<u8>, StoreError> {
    record::encode(table, value)
}
