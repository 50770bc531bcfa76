//! Edge. What keeps the registry from growing and its clock watched: old tokens, old deeds and ended certificates go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::steady::ClockJump;
use meshfed_runtime::{clock, drain};

use super::issued;
use super::record::{AuditRecord, Fate, TokenRecord};
use super::registry::Registry;
use crate::store::{Key, Store, StoreError, TRANSACTION_MAX, Table, Transaction, handle};

/// How long a token is listed after its end (used, revoked or expired). A use is repeated for five minutes only (JT3),
/// and an unknown token is refused like a used one.
const TOKEN_KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How long a deed is kept.
const AUDIT_KEPT: SignedDuration = SignedDuration::from_hours(90 * 24);
/// The most deeds that are kept; the oldest go first. At some 300 bytes each, 30 MB.
const AUDIT_MAX: usize = 100_000;
/// How often revisions and the clock are looked at.
const EVERY: Duration = Duration::from_secs(5);
/// How often what is old goes.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// What is left after pruning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Tokens.
    pub tokens: usize,
    /// When the latest deed was done.
    pub latest: Option<Timestamp>,
}

/// When a token came to its end, if it has.
fn end_of(token: &TokenRecord, now: Timestamp) -> Option<Timestamp> {
    match &token.fate {
        Fate::Revoked { at } => Some(*at),
        Fate::Used(used) => Some(used.at),
        Fate::Unused => (token.expires_at <= now).then_some(token.expires_at),
    }
}

fn delete(store: &dyn Store, table: Table, keys: &[Key]) -> Result<(), StoreError> {
    for part in keys.chunks(TRANSACTION_MAX) {
        store.commit(&part.iter().fold(Transaction::new(), |t, key| t.delete(table, key.clone())))?;
    }
    Ok(())
}

/// Forgets certificates and tokens that ended long ago, and deeds that are old or too many.
///
/// # Errors
/// Those of the store.
pub fn prune(store: &dyn Store, now: Timestamp) -> Result<Kept, StoreError> {
    prune_to(store, now, AUDIT_MAX)
}

fn prune_to(store: &dyn Store, now: Timestamp, audit_max: usize) -> Result<Kept, StoreError> {
    issued::prune(store, now)?;
    let is_old = |at: Timestamp, kept: SignedDuration| now.duration_since(at) > kept;
    let tokens = handle::scan::<TokenRecord>(store, Table::Tokens)?;
    let all = tokens.len();
    let ended: Vec<Key> = tokens
        .into_iter()
        .filter(|(_, token, _)| end_of(token, now).is_some_and(|at| is_old(at, TOKEN_KEPT)))
        .map(|(key, _, _)| key)
        .collect();
    delete(store, Table::Tokens, &ended)?;
    // In the order of their time, which their keys begin with.
    let deeds = handle::scan::<AuditRecord>(store, Table::Audit)?;
    let latest = deeds.iter().map(|(_, deed, _)| deed.at).max();
    let too_many = deeds.len().saturating_sub(audit_max);
    let old: Vec<Key> = deeds
        .into_iter()
        .enumerate()
        .filter(|(place, (_, deed, _))| *place < too_many || is_old(deed.at, AUDIT_KEPT))
        .map(|(_, (key, _, _))| key)
        .collect();
    delete(store, Table::Audit, &old)?;
    if !ended.is_empty() || !old.is_empty() {
        tracing::info!(tokens = ended.len(), deeds = old.len(), "what is old was forgotten");
    }
    Ok(Kept { tokens: all - ended.len(), latest })
}

/// Keeps revisions reserved, the registry small and the clock watched, until the drain.
///
/// # Errors
/// Those of the store.
pub async fn run(registry: Arc<Registry>, metrics: Arc<Metrics>, drain: drain::Watch) -> Result<(), StoreError> {
    let jumped = metrics.gauge(
        "meshfed_clock_jump_seconds",
        "How far the wall clock is from where it should be, behind as negative; nothing is issued while it is not 0",
    );
    let (mut pruned, mut told) = (clock::instant(), None);
    loop {
        let found = registry.clock.now().err();
        if found.is_some() != told.is_some() {
            tell(found);
        }
        told = found;
        jumped.set(found.map_or(0, seconds));
        tokio::select! {
            () = tokio::time::sleep(EVERY) => registry.reserve().await?,
            () = drain.signaled() => return Ok(()),
        }
        // A clock that jumped would make everything old.
        if told.is_none() && clock::instant().duration_since(pruned) >= PRUNE_EVERY {
            pruned = clock::instant();
            let kept = registry.store().run(|store| prune(store, clock::timestamp())).await?;
            registry.tokens.store(kept.tokens, Ordering::Release);
        }
    }
}

fn seconds(jump: ClockJump) -> i64 {
    let by = i64::try_from(jump.by.as_secs()).unwrap_or(i64::MAX);
    if jump.ahead { by } else { -by }
}

fn tell(jump: Option<ClockJump>) {
    match jump {
        Some(jump) => tracing::error!("{jump}"),
        None => tracing::info!("the wall clock is where it should be again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::record::{audit_key, token_key};
    use crate::members::token::check;
    use crate::store::memory::MemoryStore;

    fn put<T: serde::Serialize>(store: &MemoryStore, table: Table, key: Key, value: &T) {
        store.commit(&Transaction::new().put(table, key, handle::bytes(table, value).unwrap())).unwrap();
    }

    /// Mutation seen to fail: `end_of` giving `expires_at` of a token that has not expired; `too_many` left out;
    /// `AUDIT_KEPT` not looked at.
    #[test]
    fn what_is_old_goes_and_the_rest_stays() {
        let store = MemoryStore::new();
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 1000);
        let days = |n: i64| now - SignedDuration::from_hours(24 * n);
        let request = r#"{"cluster":"east","networks":[{"name":"net-east"}],"regions":["eu"],"zones":[]}"#;
        let grant = check(&serde_json::from_str(request).unwrap()).unwrap().grant;
        let token = |id: &str, expires_at, fate| {
            let record = TokenRecord {
                id: id.into(),
                secret_sha256: vec![1; 32],
                grant: grant.clone(),
                created_at: days(100),
                expires_at,
                shown_revision: 1,
                fate,
            };
            put(&store, Table::Tokens, token_key(id), &record);
        };
        token("tokenfresh", now + SignedDuration::from_mins(5), Fate::Unused);
        token("tokenended", days(6), Fate::Unused);
        token("tokenolder", days(8), Fate::Unused);
        token("tokenback1", days(9), Fate::Revoked { at: days(3) });
        token("tokenback2", days(9), Fate::Revoked { at: days(8) });
        let deed = |at: Timestamp, unique: &str| {
            let (actor, kind, cluster) = ("admin".to_owned(), "TokenCreated".to_owned(), grant.cluster.clone());
            let record = AuditRecord { at, actor, kind, cluster, detail: String::new() };
            put(&store, Table::Audit, audit_key(at, unique), &record);
        };
        deed(days(91), "a");
        deed(days(89), "b");
        deed(days(1), "c");
        assert_eq!(prune(&store, now).unwrap(), Kept { tokens: 3, latest: Some(days(1)) });
        let ids: Vec<String> =
            handle::scan::<TokenRecord>(&store, Table::Tokens).unwrap().into_iter().map(|(_, t, _)| t.id).collect();
        assert_eq!(ids, ["tokenback1", "tokenended", "tokenfresh"]);
        assert_eq!(store.scan(Table::Audit).unwrap().len(), 2);
        for n in 0..10 {
            deed(now, &n.to_string());
        }
        prune_to(&store, now, 10).unwrap();
        let left = handle::scan::<AuditRecord>(&store, Table::Audit).unwrap();
        assert_eq!((left.len(), left[0].1.at), (10, now), "the oldest went");
    }
}
