//! Edge. Certificates that were issued: no serial number twice, and no renewal by an agent whose cluster has been
//! bound anew since (JT10).

use jiff::Timestamp;
use meshfed_ca::keys::sha256;
use meshfed_model::names::ClusterName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::record::{IssuedRecord, leaf_key, serial_key};
use crate::store::handle::{self, Handle};
use crate::store::{Store, StoreError, TRANSACTION_MAX, Table, Transaction};

fn parsed(der: &[u8]) -> Result<(Vec<u8>, Timestamp), StoreError> {
    let unreadable = || StoreError::Record { table: Table::Serials, reason: "no certificate".to_owned() };
    let (_, parsed) = X509Certificate::from_der(der).map_err(|_asn1| unreadable())?;
    let end = Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|_range| unreadable())?;
    Ok((parsed.raw_serial().to_vec(), end))
}

/// Adds the record of a certificate to the transaction that gives it out: a serial number that was given before is a
/// conflict, and the certificate is made anew.
///
/// # Errors
/// [`StoreError::Record`] when it is no certificate.
pub fn record(
    transaction: Transaction,
    certificate: &[u8],
    cluster: &ClusterName,
    binding: u64,
) -> Result<Transaction, StoreError> {
    let (serial, not_after) = parsed(certificate)?;
    let bytes = handle::bytes(Table::Serials, &IssuedRecord { cluster: cluster.clone(), binding, not_after })?;
    Ok(transaction.create(Table::Serials, serial_key(&serial), bytes.clone()).put(
        Table::Serials,
        leaf_key(&sha256(certificate)),
        bytes,
    ))
}

/// Whether the certificate with that hash was given out under that binding of the cluster.
///
/// # Errors
/// Those of the store.
pub async fn is_of(
    store: &Handle,
    leaf_sha256: &[u8; 32],
    cluster: &ClusterName,
    binding: u64,
) -> Result<bool, StoreError> {
    let found: Option<(IssuedRecord, u64)> = store.get(Table::Serials, leaf_key(leaf_sha256)).await?;
    Ok(found.is_some_and(|(issued, _)| issued.cluster == *cluster && issued.binding == binding))
}

/// Forgets certificates that have ended.
///
/// # Errors
/// Those of the store.
pub fn prune(store: &dyn Store, now: Timestamp) -> Result<usize, StoreError> {
    let all = handle::scan::<IssuedRecord>(store, Table::Serials)?;
    let ended: Vec<_> = all.into_iter().filter(|(_, issued, _)| issued.not_after < now).collect();
    for part in ended.chunks(TRANSACTION_MAX) {
        let mut transaction = Transaction::new();
        for (key, _, _) in part {
            transaction = transaction.delete(Table::Serials, key.clone());
        }
        store.commit(&transaction)?;
    }
    Ok(ended.len())
}
