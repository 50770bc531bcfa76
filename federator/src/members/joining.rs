//! Edge. A join: one transaction that consumes the token and binds the cluster (JT2).

use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_runtime::clock;

use super::issued;
use super::record::{
    AuditRecord, BundleRecord, Fate, MemberRecord, StoredState, TokenRecord, Use, audit_key, bundle_key, member_key,
    token_key,
};
use super::refusal::Refusal;
use super::registry::{Registry, domain_of};
use super::token::{JoinerKeys, Standing, TokenRefusal, judge};
use crate::store::handle;
use crate::store::{Store, StoreError, Table, Transaction};
use crate::trust::Trust;

/// How often a transaction that another one overtook is decided anew.
const ATTEMPTS: usize = 5;

/// What a join was given.
pub struct Bound {
    /// The token that was used.
    pub token: TokenRecord,
    /// The lineage certificate, DER.
    pub lineage: Vec<u8>,
    /// The agent's certificate, DER.
    pub agent_certificate: Vec<u8>,
}

/// A join, checked but for its token.
pub struct Joining {
    /// The token's id.
    pub id: String,
    /// SHA-256 of its secret.
    pub secret_sha256: [u8; 32],
    /// The keys.
    pub keys: JoinerKeys,
    /// The anchor, DER.
    pub anchor: Vec<u8>,
    /// The CA key's SubjectPublicKeyInfo.
    pub ca_spki: Vec<u8>,
    /// The agent key's SubjectPublicKeyInfo.
    pub agent_spki: Vec<u8>,
    /// Whether the operator wants to take a live cluster's place.
    pub replace: bool,
}

impl Registry {
    /// A join that its plan would block is refused, too, and leaves the token unused. Only who holds the token's secret
    /// hears of other clusters' networks.
    async fn check_networks(&self, joining: &Joining) -> Result<(), Refusal> {
        let found: Option<(TokenRecord, u64)> = self.store.get(Table::Tokens, token_key(&joining.id)).await?;
        let Some((token, _)) = found.filter(|(t, _)| t.fate == Fate::Unused) else { return Ok(()) };
        if check_secret(&token, &joining.secret_sha256).is_err() {
            return Ok(());
        }
        let members = Arc::clone(&self.members().borrow());
        super::plan::clash(&token.grant, &members).map_or(Ok(()), |clash| Err(Refusal::Clash { clash }))
    }

    /// Consumes the token and binds the cluster, in one transaction; durable when it returns.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was changed then.
    pub async fn join(&self, joining: Joining) -> Result<Bound, Refusal> {
        self.check_networks(&joining).await?;
        let joining = Arc::new(joining);
        let trust = Arc::clone(&self.trust);
        for _ in 0..ATTEMPTS {
            let (this, trust) = (Arc::clone(&joining), Arc::clone(&trust));
            let wall = self.clock.now()?;
            let now = clock::to_timestamp(wall);
            let done = self.store.run(move |store| Ok(bind(store, &trust, &this, now, wall))).await?;
            match done {
                Err(Refusal::Store(StoreError::Conflict { .. })) => {}
                Err(refusal) => return Err(refusal),
                Ok(bound) => {
                    self.publish_later().await?;
                    return Ok(bound);
                }
            }
        }
        Err(Refusal::Limited)
    }
}

/// Compares in constant time.
pub(super) fn check_secret(token: &TokenRecord, secret_sha256: &[u8; 32]) -> Result<(), Refusal> {
    let stored: [u8; 32] =
        token.secret_sha256.as_slice().try_into().map_err(|_length| Refusal::Token(TokenRefusal::WrongSecret))?;
    if meshfed_ca::token::same_hash(&stored, secret_sha256) {
        return Ok(());
    }
    Err(Refusal::Token(TokenRefusal::WrongSecret))
}

/// Reads, decides and commits one join.
fn bind(
    store: &dyn Store,
    trust: &Trust,
    joining: &Joining,
    now: Timestamp,
    wall: SystemTime,
) -> Result<Bound, Refusal> {
    let token: Option<(TokenRecord, u64)> = handle::get(store, Table::Tokens, &token_key(&joining.id))?;
    let (token, token_revision) = token.ok_or(Refusal::Token(TokenRefusal::Unknown))?;
    check_secret(&token, &joining.secret_sha256)?;
    match judge(&token, Some(&joining.keys), now).map_err(Refusal::Token)? {
        Standing::Repeat(used) => {
            let (lineage, agent_certificate) = (used.lineage.clone(), used.agent_certificate.clone());
            return Ok(Bound { token, lineage, agent_certificate });
        }
        Standing::Fresh => {}
    }
    let member = place(store, joining, &token)?;
    if !trust.root_online() {
        return Err(Refusal::RootOffline);
    }
    let cluster = &token.grant.cluster;
    let trust_domain = domain_of(trust.fleet(), cluster)?;
    // The anchor itself says which trust domain the root certifies: it must be that of the token's cluster.
    meshfed_ca::anchor::verify(&joining.anchor, &trust_domain, wall)
        .map_err(|error| Refusal::Invalid { field: "anchor", reason: error.to_string() })?;
    let lineage = trust.certify(&joining.anchor, wall)?;
    let id = SpiffeId::agent(trust.fleet().clone(), cluster.clone(), 0);
    let agent_certificate = trust.issue_agent(&id, &joining.agent_spki, wall)?;
    let binding = member.as_ref().map_or(0, |(m, _)| m.binding) + 1;
    let bound = Bound { token, lineage, agent_certificate };
    let held = handle::get(store, Table::Bundles, &bundle_key(&trust_domain))?;
    let read = Read { token: token_revision, member: member.map(|(_, revision)| revision), bundle: held };
    store.commit(&written(joining, &bound, &read, &trust_domain, binding, now)?)?;
    Ok(bound)
}

/// The member of that name before the join; refuses where its place is not free for this joiner.
fn place(store: &dyn Store, joining: &Joining, token: &TokenRecord) -> Result<Option<(MemberRecord, u64)>, Refusal> {
    let cluster = &token.grant.cluster;
    let member: Option<(MemberRecord, u64)> = handle::get(store, Table::Members, &member_key(cluster))?;
    let live = member.as_ref().is_some_and(|(m, _)| m.state == StoredState::Active);
    // Made by this very token since it was read above: what became of the token is to be asked again (JT5).
    if live && member.as_ref().is_some_and(|(m, _)| m.token == token.id) {
        return Err(Refusal::Store(StoreError::Conflict { table: Table::Members, key: member_key(cluster) }));
    }
    if live && !(joining.replace && token.grant.replace) {
        return Err(Refusal::Exists { cluster: cluster.to_string() });
    }
    // One key under two names: whoever holds it could speak for both.
    let others = handle::scan::<MemberRecord>(store, Table::Members)?;
    if others
        .iter()
        .any(|(_, m, _)| m.state == StoredState::Active && m.grant.cluster != *cluster && m.ca_spki == joining.ca_spki)
    {
        let reason = "another cluster of the fleet has this CA key; join with a data directory of its own".to_owned();
        return Err(Refusal::Invalid { field: "ca_request", reason });
    }
    Ok(member)
}

/// What the decision was made on.
struct Read {
    token: u64,
    member: Option<u64>,
    bundle: Option<(BundleRecord, u64)>,
}

/// The transaction of a join.
fn written(
    joining: &Joining,
    bound: &Bound,
    read: &Read,
    trust_domain: &TrustDomain,
    binding: u64,
    now: Timestamp,
) -> Result<Transaction, StoreError> {
    let (grant, token_id) = (&bound.token.grant, &bound.token.id);
    let cluster = &grant.cluster;
    let member = MemberRecord {
        grant: grant.clone(),
        state: StoredState::Active,
        drained: false,
        joined_at: now,
        binding,
        ca_spki: joining.ca_spki.clone(),
        token: token_id.clone(),
    };
    let bundle = BundleRecord {
        serial: read.bundle.as_ref().map_or(0, |(b, _)| b.serial) + 1,
        anchors: vec![joining.anchor.clone()],
        lineages: vec![bound.lineage.clone()],
    };
    let fate = Fate::Used(Box::new(Use {
        at: now,
        agent_key_sha256: joining.keys.agent_key_sha256.to_vec(),
        anchor_sha256: joining.keys.anchor_sha256.to_vec(),
        lineage: bound.lineage.clone(),
        agent_certificate: bound.agent_certificate.clone(),
    }));
    let token = TokenRecord { fate, ..bound.token.clone() };
    let audit = AuditRecord {
        at: now,
        actor: format!("token:{token_id}"),
        kind: "TokenUsed".to_owned(),
        cluster: cluster.clone(),
        detail: format!("cluster {cluster} joined, binding {binding}"),
    };
    let (tokens, members, bundles) = (Table::Tokens, Table::Members, Table::Bundles);
    let bundle_revision = read.bundle.as_ref().map(|(_, revision)| *revision);
    let transaction = Transaction::new()
        .replace(tokens, token_key(token_id), Some(read.token), handle::bytes(tokens, &token)?)
        .replace(members, member_key(cluster), read.member, handle::bytes(members, &member)?)
        .replace(bundles, bundle_key(trust_domain), bundle_revision, handle::bytes(bundles, &bundle)?)
        .put(Table::Audit, audit_key(now, token_id), handle::bytes(Table::Audit, &audit)?);
    let transaction = issued::record(transaction, &bound.lineage, cluster, binding)?;
    issued::record(transaction, &bound.agent_certificate, cluster, binding)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use tempfile::tempdir;

    use super::*;
    use crate::store::memory::MemoryStore;

    /// Two joins with one token: the second read it unused, and the member that it made a moment later.
    ///
    /// Mutation seen to fail: the check for "this very token" left out of `bind`: the loser hears that the cluster is a
    /// member already, which no holder of a used token is told.
    #[test]
    fn who_loses_a_race_for_a_token_hears_of_the_token_only() {
        let (dir, now) = (tempdir().unwrap(), Timestamp::UNIX_EPOCH);
        let fleet: TrustDomain = "mesh.example".parse().unwrap();
        let trust = Trust::open(dir.path(), fleet, 1, true, None, clock::wall()).unwrap();
        let request = r#"{"cluster":"east","networks":[{"name":"net-east"}],"regions":["eu"],"zones":[]}"#;
        let grant = super::super::token::check(&serde_json::from_str(request).unwrap()).unwrap().grant;
        let token = TokenRecord {
            id: "abcdefghij".into(),
            secret_sha256: vec![1; 32],
            grant: grant.clone(),
            created_at: now,
            expires_at: now + SignedDuration::from_secs(900),
            shown_revision: 1,
            fate: Fate::Unused,
        };
        let joined_with = |token_id: &str| {
            let member = MemberRecord {
                grant: grant.clone(),
                state: StoredState::Active,
                drained: false,
                joined_at: now,
                binding: 1,
                ca_spki: vec![],
                token: token_id.into(),
            };
            let store = MemoryStore::new();
            let put = |t: Transaction, table, key, bytes| t.replace(table, key, None, bytes);
            let t = put(
                Transaction::new(),
                Table::Tokens,
                token_key(&token.id),
                handle::bytes(Table::Tokens, &token).unwrap(),
            );
            let bytes = handle::bytes(Table::Members, &member).unwrap();
            store.commit(&put(t, Table::Members, member_key(&grant.cluster), bytes)).unwrap();
            let joining = Joining {
                id: token.id.clone(),
                secret_sha256: [1; 32],
                keys: JoinerKeys { agent_key_sha256: [2; 32], anchor_sha256: [3; 32] },
                anchor: vec![],
                ca_spki: vec![],
                agent_spki: vec![],
                replace: false,
            };
            bind(&store, &trust, &joining, now, clock::wall()).err()
        };
        let lost = joined_with(&token.id);
        assert!(matches!(lost, Some(Refusal::Store(StoreError::Conflict { .. }))), "{lost:?}");
        assert!(matches!(joined_with("another000"), Some(Refusal::Exists { .. })));
    }
}
