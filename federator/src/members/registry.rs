//! Edge. The registry: what the store keeps of the fleet, and the watches by which the other rooms follow it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_model::names::ClusterName;
use meshfed_runtime::{clock, files};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::challenge::Nonces;
use super::issued;
use super::limit::{Limiter, Rate};
use super::record::{
    AuditRecord, BundleRecord, Fate, MemberRecord, StoredState, TokenRecord, Use, audit_key, bundle_key, member_key,
    name_of, token_key,
};
use super::refusal::Refusal;
use super::token::{JoinerKeys, Standing, TokenRefusal, judge};
use crate::fleet::{Bundles, Members, Revisions};
use crate::store::handle::{self, Handle};
use crate::store::{Key, Store, StoreError, Table, Transaction};
use crate::trust::{Trust, TrustError};

/// Attempts of one address (`contracts.md` 1.4).
const EACH: Rate = Rate { per_second: 1.0, burst: 20.0 };
/// Attempts of all together (JT9).
const ALL: Rate = Rate { per_second: 50.0, burst: 100.0 };
/// How often a transaction that another one overtook is decided anew.
const ATTEMPTS: usize = 5;
/// Revisions that are reserved ahead.
const REVISIONS_BLOCK: u64 = 1 << 20;
/// The file that says that this directory had a registry.
const NODE_FILE: &str = "node-id";

/// Why the registry could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No fleet is named, and none is known.
    #[error("this data directory has no fleet yet; name it with --fleet, say --fleet mesh.example")]
    NoFleet,
    /// Another fleet.
    #[error(
        "this data directory belongs to fleet {known}, not to {named}; leave --fleet out, or name another --data-dir"
    )]
    OtherFleet {
        /// In the registry.
        known: TrustDomain,
        /// On the command line.
        named: TrustDomain,
    },
    /// The registry is empty, but was not.
    #[error(
        "the registry is empty, but {NODE_FILE} says that it was not; restore it from a backup, or remove the whole data directory to begin a new fleet"
    )]
    Lost,
    /// The store failed.
    #[error("the registry cannot be read")]
    Store(#[from] StoreError),
    /// Trust failed.
    #[error("the fleet's trust cannot be opened")]
    Trust(#[from] TrustError),
    /// A file failed.
    #[error("a file of the registry cannot be used")]
    File(#[from] files::FileError),
}

#[derive(Debug, Serialize, Deserialize)]
struct FleetRecord {
    fleet: TrustDomain,
    federator: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct RevisionsRecord {
    ceiling: u64,
}

/// The registry.
pub struct Registry {
    pub(super) store: Handle,
    pub(super) trust: Arc<Trust>,
    pub(super) federators: Vec<String>,
    members: watch::Sender<Arc<Members>>,
    bundles: watch::Sender<Arc<Bundles>>,
    revisions: Arc<Revisions>,
    limiter: Mutex<Limiter>,
    pub(super) nonces: Mutex<Nonces>,
}

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
    /// Opens the registry of a data directory; makes the fleet when it is new.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn open(
        data_dir: &Path,
        store: Arc<dyn Store>,
        named: Option<TrustDomain>,
        root_key: Option<&Path>,
        federators: Vec<String>,
    ) -> Result<Self, RegistryError> {
        let key = Key::name("fleet");
        let known: Option<(FleetRecord, u64)> = handle::get(store.as_ref(), Table::Meta, &key)?;
        let node = data_dir.join(NODE_FILE);
        let (record, new) = match (known, named) {
            (Some((known, _)), Some(named)) if known.fleet != named => {
                return Err(RegistryError::OtherFleet { known: known.fleet, named });
            }
            (Some((known, _)), _) => (known, false),
            (None, _) if node.exists() => return Err(RegistryError::Lost),
            (None, None) => return Err(RegistryError::NoFleet),
            (None, Some(fleet)) => (FleetRecord { fleet, federator: 1 }, true),
        };
        let trust = Trust::open(data_dir, record.fleet.clone(), record.federator, new, root_key, clock::wall())?;
        if new {
            store.commit(&Transaction::new().create(Table::Meta, key, handle::bytes(Table::Meta, &record)?))?;
            files::write_atomic(&node, format!("{}\n", record.federator).as_bytes(), files::MODE_SECRET)?;
        }
        issued::prune(store.as_ref(), clock::timestamp())?;
        let revisions = Revisions::new(0, 0);
        let registry = Self {
            store: Handle::new(store),
            trust: Arc::new(trust),
            federators,
            members: watch::Sender::new(Arc::default()),
            bundles: watch::Sender::new(Arc::default()),
            revisions,
            limiter: Mutex::new(Limiter::new(EACH, ALL)),
            nonces: Mutex::default(),
        };
        let registry = Self { revisions: registry.reserve_first()?, ..registry };
        registry.publish()?;
        Ok(registry)
    }

    /// Takes the block of revisions after the last one.
    fn reserve_first(&self) -> Result<Arc<Revisions>, StoreError> {
        let store = self.store.blocking();
        let key = Key::name("revisions");
        let known: Option<(RevisionsRecord, u64)> = handle::get(store, Table::Meta, &key)?;
        let current = known.as_ref().map_or(0, |(r, _)| r.ceiling);
        let record = RevisionsRecord { ceiling: current + REVISIONS_BLOCK };
        let bytes = handle::bytes(Table::Meta, &record)?;
        store.commit(&Transaction::new().replace(Table::Meta, key, known.map(|(_, r)| r), bytes))?;
        Ok(Revisions::new(current, record.ceiling))
    }

    /// Reserves more revisions while fewer than half a block are left.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn reserve(&self) -> Result<(), StoreError> {
        if self.revisions.left() > REVISIONS_BLOCK / 2 {
            return Ok(());
        }
        let ceiling = self.revisions.ceiling() + REVISIONS_BLOCK;
        let bytes = handle::bytes(Table::Meta, &RevisionsRecord { ceiling })?;
        self.store.commit(Transaction::new().put(Table::Meta, Key::name("revisions"), bytes)).await?;
        self.revisions.raise(ceiling);
        Ok(())
    }

    /// The fleet's trust.
    #[must_use]
    pub const fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }
    /// The store.
    #[must_use]
    pub const fn store(&self) -> &Handle {
        &self.store
    }
    /// The revisions that the HTTP API shows.
    #[must_use]
    pub const fn revisions(&self) -> &Arc<Revisions> {
        &self.revisions
    }
    /// `HOST:PORT` of every federator.
    #[must_use]
    pub fn federators(&self) -> &[String] {
        &self.federators
    }
    /// Members, whole, whenever one changes.
    #[must_use]
    pub fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.subscribe()
    }
    /// Bundles, whole, whenever one changes.
    #[must_use]
    pub fn bundles(&self) -> watch::Receiver<Arc<Bundles>> {
        self.bundles.subscribe()
    }

    /// Whether an address may try now.
    pub(super) fn admits(&self, address: std::net::IpAddr) -> bool {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner).allows(address, clock::instant())
    }

    /// Whoever plans with a valid token does not use up its attempts to join.
    pub(super) fn gives_back(&self, address: std::net::IpAddr) {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner).give_back(address);
    }

    /// Reads members and bundles and tells those who follow.
    fn publish(&self) -> Result<(), StoreError> {
        let (members, bundles) = read(self.store.blocking(), &self.trust)?;
        self.tell(members, bundles);
        Ok(())
    }

    async fn publish_later(&self) -> Result<(), StoreError> {
        let trust = Arc::clone(&self.trust);
        let (members, bundles) = self.store.run(move |store| read(store, &trust)).await?;
        self.tell(members, bundles);
        Ok(())
    }

    fn tell(&self, members: Members, bundles: Bundles) {
        // Two joins may read in one order and tell in the other: nobody is ever told an older state.
        self.bundles.send_if_modified(|held| {
            let grown =
                bundles.bundles.values().any(|b| held.bundles.get(&b.trust_domain).is_none_or(|h| h.serial < b.serial));
            if grown {
                *held = Arc::new(bundles);
            }
            grown
        });
        self.members.send_if_modified(|held| {
            let newer = members.revision > held.revision;
            if newer {
                *held = Arc::new(members);
            }
            newer
        });
        self.revisions.bump();
    }

    /// The token, when it may be used now.
    ///
    /// # Errors
    /// [`Refusal::Token`] with the reason for the log.
    pub(super) async fn valid_token(&self, id: &str, secret_sha256: &[u8; 32]) -> Result<TokenRecord, Refusal> {
        let token: Option<(TokenRecord, u64)> = self.store.get(Table::Tokens, token_key(id)).await?;
        let (token, _) = token.ok_or(Refusal::Token(TokenRefusal::Unknown))?;
        check_secret(&token, secret_sha256)?;
        judge(&token, None, clock::timestamp()).map_err(Refusal::Token)?;
        Ok(token)
    }

    /// A join that its plan would block is refused, too, and leaves the token unused. Only who holds the token's secret
    /// hears of other clusters' networks.
    async fn check_networks(&self, joining: &Joining) -> Result<(), Refusal> {
        let found: Option<(TokenRecord, u64)> = self.store.get(Table::Tokens, token_key(&joining.id)).await?;
        let Some((token, _)) = found.filter(|(t, _)| t.fate == Fate::Unused) else { return Ok(()) };
        if check_secret(&token, &joining.secret_sha256).is_err() {
            return Ok(());
        }
        let members = Arc::clone(&self.members.borrow());
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
            let now = clock::timestamp();
            let wall = clock::wall();
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
fn check_secret(token: &TokenRecord, secret_sha256: &[u8; 32]) -> Result<(), Refusal> {
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
    wall: std::time::SystemTime,
) -> Result<Bound, Refusal> {
    let token: Option<(TokenRecord, u64)> = handle::get(store, Table::Tokens, &token_key(&joining.id))?;
    let (mut token, token_revision) = token.ok_or(Refusal::Token(TokenRefusal::Unknown))?;
    check_secret(&token, &joining.secret_sha256)?;
    match judge(&token, Some(&joining.keys), now).map_err(Refusal::Token)? {
        Standing::Repeat(used) => {
            let (lineage, agent_certificate) = (used.lineage.clone(), used.agent_certificate.clone());
            return Ok(Bound { token, lineage, agent_certificate });
        }
        Standing::Fresh => {}
    }
    let cluster = token.grant.cluster.clone();
    let member: Option<(MemberRecord, u64)> = handle::get(store, Table::Members, &member_key(&cluster))?;
    let live = member.as_ref().is_some_and(|(m, _)| m.state == StoredState::Active);
    // Made by this very token since it was read above: what became of the token is to be asked again (JT5).
    if live && member.as_ref().is_some_and(|(m, _)| m.token == token.id) {
        return Err(Refusal::Store(StoreError::Conflict { table: Table::Members, key: member_key(&cluster) }));
    }
    if live && !(joining.replace && token.grant.replace) {
        return Err(Refusal::Exists { cluster: cluster.to_string() });
    }
    if !trust.root_online() {
        return Err(Refusal::RootOffline);
    }
    let trust_domain = domain_of(trust.fleet(), &cluster)?;
    // The anchor itself says which trust domain the root certifies: it must be that of the token's cluster.
    meshfed_ca::anchor::verify(&joining.anchor, &trust_domain, wall)
        .map_err(|error| Refusal::Invalid { field: "anchor", reason: error.to_string() })?;
    let lineage = trust.certify(&joining.anchor, wall)?;
    let id = SpiffeId::agent(trust.fleet().clone(), cluster.clone(), 0);
    let agent_certificate = trust.issue_agent(&id, &joining.agent_spki, wall)?;
    let binding = member.as_ref().map_or(0, |(m, _)| m.binding) + 1;
    let record = MemberRecord {
        grant: token.grant.clone(),
        state: StoredState::Active,
        joined_at: now,
        binding,
        ca_spki: joining.ca_spki.clone(),
        token: token.id.clone(),
    };
    let held: Option<(BundleRecord, u64)> = handle::get(store, Table::Bundles, &bundle_key(&trust_domain))?;
    let bundle = BundleRecord {
        serial: held.as_ref().map_or(0, |(b, _)| b.serial) + 1,
        anchors: vec![joining.anchor.clone()],
        lineages: vec![lineage.clone()],
    };
    token.fate = Fate::Used(Box::new(Use {
        at: now,
        agent_key_sha256: joining.keys.agent_key_sha256.to_vec(),
        anchor_sha256: joining.keys.anchor_sha256.to_vec(),
        lineage: lineage.clone(),
        agent_certificate: agent_certificate.clone(),
    }));
    let audit = AuditRecord {
        at: now,
        actor: format!("token:{}", token.id),
        kind: "TokenUsed".to_owned(),
        cluster: cluster.clone(),
        detail: format!("cluster {cluster} joined, binding {binding}"),
    };
    let revision_of = |found: Option<u64>| found;
    let transaction = Transaction::new()
        .replace(Table::Tokens, token_key(&token.id), Some(token_revision), handle::bytes(Table::Tokens, &token)?)
        .replace(
            Table::Members,
            member_key(&cluster),
            revision_of(member.map(|(_, r)| r)),
            handle::bytes(Table::Members, &record)?,
        )
        .replace(
            Table::Bundles,
            bundle_key(&trust_domain),
            revision_of(held.map(|(_, r)| r)),
            handle::bytes(Table::Bundles, &bundle)?,
        )
        .put(Table::Audit, audit_key(now, &token.id), handle::bytes(Table::Audit, &audit)?);
    let transaction = issued::record(transaction, &lineage, &cluster, binding)?;
    store.commit(&issued::record(transaction, &agent_certificate, &cluster, binding)?)?;
    Ok(Bound { token, lineage, agent_certificate })
}

/// The trust domain of a cluster.
pub(super) fn domain_of(fleet: &TrustDomain, cluster: &ClusterName) -> Result<TrustDomain, Refusal> {
    fleet.of_cluster(cluster).map_err(|error| Refusal::Invalid { field: "cluster", reason: error.to_string() })
}

/// Members and the bundles of live ones, the fleet's own included.
fn read(store: &dyn Store, trust: &Trust) -> Result<(Members, Bundles), StoreError> {
    let mut members = Members::default();
    let mut bundles = BTreeMap::from([(trust.fleet().clone(), trust.bundle())]);
    for (key, record, revision) in handle::scan::<MemberRecord>(store, Table::Members)? {
        let damaged = |reason: &str| StoreError::Record { table: Table::Members, reason: reason.to_owned() };
        let name = name_of(&key).ok_or_else(|| damaged("its key is no name"))?;
        let cluster = ClusterName::new(name).map_err(|e| damaged(&e.to_string()))?;
        let trust_domain = trust.fleet().of_cluster(&cluster).map_err(|e| damaged(&e.to_string()))?;
        if record.state == StoredState::Active
            && let Some((bundle, _)) = handle::get::<BundleRecord>(store, Table::Bundles, &bundle_key(&trust_domain))?
        {
            let bundle: Bundle = bundle.bundle(trust_domain.clone());
            bundles.insert(trust_domain.clone(), bundle);
        }
        members.revision = members.revision.max(revision);
        members.members.insert(cluster, record.member(trust_domain));
    }
    Ok((members, Bundles { bundles }))
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
