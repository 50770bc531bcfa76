//! Edge. First-seen claims in the store (D7): who exported a name first wins conflicts, and who offered a gateway
//! address first has it, also after a restart.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use meshfed_model::names::{ClusterName, ServiceName};
use serde::{Deserialize, Serialize};

use crate::fleet::{ClaimError, Claims, GatewayAddress, Revisions};
use crate::store::handle::{self, Handle};
use crate::store::{Key, StoreError, Table, Transaction};

/// Claims written in one transaction.
const BATCH: usize = 500;

#[derive(Debug, Serialize, Deserialize)]
struct ClaimRecord {
    revision: u64,
}

/// Who has a gateway address, and since when.
#[derive(Debug, Serialize, Deserialize)]
struct GatewayRecord {
    cluster: ClusterName,
    revision: u64,
}

type Held = BTreeMap<(ServiceName, ClusterName), u64>;

/// The claims.
pub struct StoredClaims {
    store: Handle,
    revisions: Arc<Revisions>,
    held: Mutex<Held>,
    gateways: Mutex<BTreeMap<GatewayAddress, ClusterName>>,
}

fn key(service: &ServiceName, cluster: &ClusterName) -> Key {
    Key::new(&[service.namespace.as_str().as_bytes(), service.name().as_bytes(), cluster.as_str().as_bytes()])
}

fn gateway_key((address, port): &GatewayAddress) -> Key {
    Key::new(&[address.to_string().as_bytes(), &port.to_be_bytes()])
}

fn gateway_of(key: &Key) -> Option<GatewayAddress> {
    let parts = key.parts()?;
    let [address, port] = parts.as_slice() else { return None };
    let address: IpAddr = std::str::from_utf8(address).ok()?.parse().ok()?;
    Some((address, u16::from_be_bytes((*port).try_into().ok()?)))
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
        let mut gateways = BTreeMap::new();
        for (key, record, _) in handle::scan::<GatewayRecord>(store.blocking(), Table::Gateways)? {
            let damaged = || StoreError::Record { table: Table::Gateways, reason: "its key is no address".to_owned() };
            gateways.insert(gateway_of(&key).ok_or_else(damaged)?, record.cluster);
        }
        Ok(Self { store, revisions, held: Mutex::new(held), gateways: Mutex::new(gateways) })
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

    fn gateways(&self) -> BTreeMap<GatewayAddress, ClusterName> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn keep_gateways(&self, owners: BTreeMap<GatewayAddress, ClusterName>) -> Result<(), ClaimError> {
        let failed = |error: StoreError| ClaimError { reason: meshfed_runtime::telemetry::chain(&error) };
        let changes = changes(&self.gateways(), &owners);
        if changes.is_empty() {
            return Ok(());
        }
        let revision = self.revisions.bump();
        for batch in changes.chunks(BATCH) {
            let mut transaction = Transaction::new();
            for (at, owner) in batch {
                transaction = match owner {
                    Some(cluster) => {
                        let record = GatewayRecord { cluster: cluster.clone(), revision };
                        let bytes = handle::bytes(Table::Gateways, &record).map_err(failed)?;
                        transaction.put(Table::Gateways, gateway_key(at), bytes)
                    }
                    None => transaction.delete(Table::Gateways, gateway_key(at)),
                };
            }
            self.store.commit(transaction).await.map_err(failed)?;
            let mut held = self.gateways.lock().unwrap_or_else(PoisonError::into_inner);
            for (at, owner) in batch {
                match owner {
                    Some(cluster) => held.insert(*at, cluster.clone()),
                    None => held.remove(at),
                };
            }
        }
        Ok(())
    }
}

/// What has to be written for these to be the owners; `None`: nobody.
fn changes(
    held: &BTreeMap<GatewayAddress, ClusterName>,
    owners: &BTreeMap<GatewayAddress, ClusterName>,
) -> Vec<(GatewayAddress, Option<ClusterName>)> {
    let gone = held.keys().filter(|at| !owners.contains_key(*at)).map(|at| (*at, None));
    let new = owners.iter().filter(|(at, owner)| held.get(*at) != Some(*owner));
    gone.chain(new.map(|(at, owner)| (*at, Some(owner.clone())))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redb::RedbStore;

    /// On disk, opened again: what is kept is there, what was given up is not.
    ///
    /// Mutations seen to fail: `gone` left out of `changes`; `keep_gateways` without the commit.
    #[tokio::test]
    async fn gateway_addresses_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let store = RedbStore::open(&dir.path().join("registry.redb")).unwrap();
            StoredClaims::open(Handle::new(Arc::new(store)), Revisions::new(0, 1000)).unwrap()
        };
        let owner = |at: &str, cluster: &str| {
            let at: std::net::SocketAddr = at.parse().unwrap();
            ((at.ip(), at.port()), ClusterName::new(cluster).unwrap())
        };
        let all = BTreeMap::from([
            owner("10.0.0.1:15443", "east"),
            owner("10.0.0.1:15444", "west"),
            owner("[fd00::1]:15443", "east"),
        ]);
        open().keep_gateways(all.clone()).await.unwrap();
        assert_eq!(open().gateways(), all);
        let fewer = BTreeMap::from([owner("10.0.0.1:15443", "west"), owner("[fd00::1]:15443", "east")]);
        open().keep_gateways(fewer.clone()).await.unwrap();
        assert_eq!(open().gateways(), fewer);
        let many = (0..2000u16).map(|n| owner(&format!("10.1.0.1:{}", n + 1), "east")).collect();
        let claims = open();
        claims.keep_gateways(many).await.unwrap();
        assert_eq!((claims.gateways().len(), claims.revisions.current()), (2000, 1), "in parts, at one revision");
        drop(claims);
        assert_eq!(open().gateways().len(), 2000);
    }
}
