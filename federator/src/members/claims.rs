//! Edge. First-seen export claims in the store: who exported a name first wins conflicts, also after a restart (D7).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use meshfed_model::names::{ClusterName, ServiceName};
use serde::{Deserialize, Serialize};

use crate::fleet::{ClaimError, Claims, Revisions};
use crate::store::handle::{self, Handle};
use crate::store::{Key, StoreError, Table, Transaction};

/// Claims written in one transaction.
const BATCH: usize = 500;

#[derive(Debug, Serialize, Deserialize)]
struct ClaimRecord {
    revision: u64,
}

type Held = BTreeMap<(ServiceName, ClusterName), u64>;

/// The claims.
pub struct StoredClaims {
    store: Handle,
    revisions: Arc<Revisions>,
    held: Mutex<Held>,
}

fn key(service: &ServiceName, cluster: &ClusterName) -> Key {
    Key::new(&[service.namespace.as_str().as_bytes(), service.name().as_bytes(), cluster.as_str().as_bytes()])
}

impl StoredClaims {
    /// Reads all claims.
    ///
    /// # Errors
    /// Those of the store.
    pub fn open(store: Handle, revisions: Arc<Revisions>) -> Result<Self, StoreError> {
        let mut held = Held::new();
        for (key, record, _) in handle::scan::<ClaimRecord>(store.blocking(), Table::Claims)? {
            let damaged = || StoreError::Record { table: Table::Claims, reason: "its key is no claim".to_owned() };
            let parts = key.parts().ok_or_else(damaged)?;
            let [namespace, name, cluster] = parts.as_slice() else { return Err(damaged()) };
            let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).map_err(|_utf8| damaged());
            let service = ServiceName::new(text(namespace)?, text(name)?).map_err(|_name| damaged())?;
            let cluster = ClusterName::new(text(cluster)?).map_err(|_name| damaged())?;
            held.insert((service, cluster), record.revision);
        }
        Ok(Self { store, revisions, held: Mutex::new(held) })
    }
}

#[tonic::async_trait]
impl Claims for StoredClaims {
    fn all(&self) -> Held {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn change(
        &self,
        cluster: &ClusterName,
        added: Vec<ServiceName>,
        removed: Vec<ServiceName>,
    ) -> Result<BTreeMap<ServiceName, u64>, ClaimError> {
        let failed = |error: StoreError| ClaimError { reason: meshfed_runtime::telemetry::chain(&error) };
        let mut given = BTreeMap::new();
        let mut new = Vec::new();
        {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            for service in added {
                match held.get(&(service.clone(), cluster.clone())) {
                    Some(revision) => {
                        given.insert(service, *revision);
                    }
                    None => new.push(service),
                }
            }
        }
        let revision = self.revisions.bump();
        let mut writes: Vec<(ServiceName, bool)> = new.into_iter().map(|s| (s, true)).collect();
        writes.extend(removed.into_iter().map(|s| (s, false)));
        for batch in writes.chunks(BATCH) {
            let mut transaction = Transaction::new();
            for (service, put) in batch {
                let key = key(service, cluster);
                transaction = if *put {
                    let bytes = handle::bytes(Table::Claims, &ClaimRecord { revision }).map_err(failed)?;
                    transaction.put(Table::Claims, key, bytes)
                } else {
                    transaction.delete(Table::Claims, key)
                };
            }
            self.store.commit(transaction).await.map_err(failed)?;
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            for (service, put) in batch {
                let claim = (service.clone(), cluster.clone());
                if *put {
                    held.insert(claim, revision);
                    given.insert(service.clone(), revision);
                } else {
                    held.remove(&claim);
                }
            }
        }
        Ok(given)
    }
}
