//! Edge. A store in memory: the model that the conformance suite also runs against. It decides nothing but what
//! [`Store`] says, and forgets all at its end.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Condition, Key, Store, StoreError, Table, Transaction, Value, Write};

#[derive(Debug, Default)]
struct State {
    revision: u64,
    values: BTreeMap<(Table, Key), Value>,
}

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<State>);

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store for MemoryStore {
    fn get(&self, table: Table, key: &Key) -> Result<Option<Value>, StoreError> {
        Ok(self.with(|s| s.values.get(&(table, key.clone())).cloned()))
    }
    fn scan(&self, table: Table) -> Result<Vec<(Key, Value)>, StoreError> {
        Ok(self.with(|s| {
            s.values.iter().filter(|((t, _), _)| *t == table).map(|((_, k), v)| (k.clone(), v.clone())).collect()
        }))
    }
    fn commit(&self, transaction: &Transaction) -> Result<u64, StoreError> {
        transaction.check_limits()?;
        self.with(|s| {
            for condition in &transaction.conditions {
                let (holds, table, key) = match condition {
                    Condition::Absent(t, k) => (!s.values.contains_key(&(*t, k.clone())), t, k),
                    Condition::At(t, k, r) => (s.values.get(&(*t, k.clone())).is_some_and(|v| v.revision == *r), t, k),
                };
                if !holds {
                    return Err(StoreError::Conflict { table: *table, key: key.clone() });
                }
            }
            s.revision += 1;
            let revision = s.revision;
            for write in &transaction.writes {
                match write {
                    Write::Put(t, k, v) => {
                        s.values.insert((*t, k.clone()), Value { bytes: v.clone(), revision });
                    }
                    Write::Delete(t, k) => {
                        s.values.remove(&(*t, k.clone()));
                    }
                }
            }
            Ok(revision)
        })
    }
    fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.with(|s| s.revision))
    }
}
