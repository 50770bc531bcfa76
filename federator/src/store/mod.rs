//! Pure. The durable registry: transactions of conditions and writes over versioned bytes (D7).
//!
//! A [`Store`] is linearizable, and what [`Store::commit`] has returned survives `kill -9` and loss of power.
//! [`conformance`] is the suite that every implementation must pass; [`memory`] is its model, [`redb`] the embedded
//! engine. Values are what rooms make of bytes: [`record`] adds the version in front.

pub mod conformance;
pub mod handle;
pub mod memory;
pub mod record;
pub mod redb;

use std::fmt;

pub use handle::Handle;

/// The longest value, in bytes: a bundle of 16 certificates of 4 KiB with their lineages, twice over.
pub const VALUE_MAX: usize = 256 * 1024;
/// The most conditions and writes of one transaction; a first offer claims up to 10,000 services in parts.
pub const TRANSACTION_MAX: usize = 4096;

/// The tables. Their numbers are on disk: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Facts about the store itself and the fleet.
    Meta,
    /// Join tokens.
    Tokens,
    /// Clusters.
    Members,
    /// Trust bundles.
    Bundles,
    /// First-seen export claims.
    Claims,
    /// Serial numbers of issued certificates.
    Serials,
    /// Who did what.
    Audit,
    /// Which cluster has which gateway address.
    Gateways,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 8] = [
        Self::Meta,
        Self::Tokens,
        Self::Members,
        Self::Bundles,
        Self::Claims,
        Self::Serials,
        Self::Audit,
        Self::Gateways,
    ];
    /// The stable name on disk.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Tokens => "tokens",
            Self::Members => "members",
            Self::Bundles => "bundles",
            Self::Claims => "claims",
            Self::Serials => "serials",
            Self::Audit => "audit",
            Self::Gateways => "gateways",
        }
    }
}

/// A key: parts, each preceded by its length, so that no two lists of parts give the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

impl Key {
    /// The key of these parts. A part over 64 KiB is cut: names are far shorter.
    #[must_use]
    pub fn new(parts: &[&[u8]]) -> Self {
        let mut bytes = Vec::with_capacity(parts.iter().map(|p| p.len() + 2).sum());
        for part in parts {
            let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend(part.iter().take(usize::from(length)));
        }
        Self(bytes)
    }
    /// The key of one name.
    #[must_use]
    pub fn name(name: &str) -> Self {
        Self::new(&[name.as_bytes()])
    }
    /// The bytes on disk.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    /// The key with these bytes on disk.
    #[must_use]
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
    /// The parts; None when the bytes are no key.
    #[must_use]
    pub fn parts(&self) -> Option<Vec<&[u8]>> {
        let mut rest = self.0.as_slice();
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let (length, tail) = rest.split_first_chunk::<2>()?;
            let (part, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            parts.push(part);
            rest = tail;
        }
        Some(parts)
    }
}

/// A value with the revision of its last write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// What was put.
    pub bytes: Vec<u8>,
    /// The revision of the transaction that put it.
    pub revision: u64,
}

/// What must hold for a transaction to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key has no value.
    Absent(Table, Key),
    /// The key's value is of this revision.
    At(Table, Key, u64),
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a value.
    Put(Table, Key, Vec<u8>),
    /// Removes a value; a missing one is no error.
    Delete(Table, Key),
}

/// Conditions and writes that are applied wholly or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Applied in order.
    pub writes: Vec<Write>,
}

impl Transaction {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// The key must be absent, and is set.
    #[must_use]
    pub fn create(mut self, table: Table, key: Key, value: Vec<u8>) -> Self {
        self.conditions.push(Condition::Absent(table, key.clone()));
        self.writes.push(Write::Put(table, key, value));
        self
    }
    /// The key must be at `revision` (None: absent), and is set.
    #[must_use]
    pub fn replace(mut self, table: Table, key: Key, revision: Option<u64>, value: Vec<u8>) -> Self {
        self.conditions.push(match revision {
            Some(r) => Condition::At(table, key.clone(), r),
            None => Condition::Absent(table, key.clone()),
        });
        self.writes.push(Write::Put(table, key, value));
        self
    }
    /// The key is set, whatever it was.
    #[must_use]
    pub fn put(mut self, table: Table, key: Key, value: Vec<u8>) -> Self {
        self.writes.push(Write::Put(table, key, value));
        self
    }
    /// The key is removed, whatever it was.
    #[must_use]
    pub fn delete(mut self, table: Table, key: Key) -> Self {
        self.writes.push(Write::Delete(table, key));
        self
    }
    /// Refuses what is over the limits.
    ///
    /// # Errors
    /// [`StoreError::Limit`].
    pub fn check_limits(&self) -> Result<(), StoreError> {
        let limit = |kind, actual, limit| {
            if actual > limit { Err(StoreError::Limit { kind, limit, actual }) } else { Ok(()) }
        };
        limit("store_transaction", self.conditions.len() + self.writes.len(), TRANSACTION_MAX)?;
        self.writes.iter().try_for_each(|w| match w {
            Write::Put(_, _, v) => limit("store_value", v.len(), VALUE_MAX),
            Write::Delete(..) => Ok(()),
        })
    }
}

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A condition does not hold: read again and decide anew.
    #[error("another change of '{table}' came first")]
    Conflict {
        /// The table of the condition.
        table: Table,
        /// The key of the condition.
        key: Key,
    },
    /// Over a limit.
    #[error("{kind}: {actual} is over the limit of {limit}")]
    Limit {
        /// What is limited.
        kind: &'static str,
        /// The limit.
        limit: usize,
        /// What was asked.
        actual: usize,
    },
    /// A record cannot be read: written by a newer version, or damaged.
    #[error("a record of '{table}' cannot be read: {reason}")]
    Record {
        /// Its table.
        table: Table,
        /// Why.
        reason: String,
    },
    /// The engine failed.
    #[error("the store failed to {action}")]
    Engine {
        /// What was tried.
        action: &'static str,
        /// What the engine said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A linearizable, durable map of tables. Calls block: use a [`Handle`] from async code.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    fn get(&self, table: Table, key: &Key) -> Result<Option<Value>, StoreError>;
    /// All values of a table at one moment, by the bytes of their keys.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    fn scan(&self, table: Table) -> Result<Vec<(Key, Value)>, StoreError>;
    /// Applies a transaction if its conditions hold, and returns its revision once it is durable. Every applied
    /// transaction takes the next revision, also over restarts.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a condition does not hold, [`StoreError::Limit`]; nothing was written then.
    /// [`StoreError::Engine`]: it is not known whether it was applied.
    fn commit(&self, transaction: &Transaction) -> Result<u64, StoreError>;
    /// The revision of the last applied transaction; 0 in a new store.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    fn revision(&self) -> Result<u64, StoreError>;
}

#[cfg(test)]
mod tests;
