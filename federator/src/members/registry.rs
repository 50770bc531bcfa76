//! Edge. The registry: what the store keeps of the fleet, and the watches by which the other rooms follow it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_model::names::ClusterName;
use meshfed_runtime::rate::{Limiter, Rate};
use meshfed_runtime::steady::SteadyClock;
use meshfed_runtime::{clock, files};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::challenge::Nonces;
use super::joining::check_secret;
use super::lanes::Lanes;
use super::record::{BundleRecord, MemberRecord, StoredState, TokenRecord, bundle_key, name_of, token_key};
use super::refusal::Refusal;
use super::token::{TokenRefusal, judge};
use super::upkeep;
use crate::fleet::{Bundles, Members, Revisions};
use crate::store::handle::{self, Handle};
use crate::store::{Key, Store, StoreError, Table, Transaction};
use crate::trust::{Trust, TrustError};

/// Attempts of one address (`contracts.md` 1.4).
const EACH: Rate = Rate { per_second: 1.0, burst: 20.0 };
/// Attempts of all together (JT9).
const ALL: Rate = Rate { per_second: 50.0, burst: 100.0 };
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
    /// Renewals, each cluster in its own lane.
    pub(super) renewals: Lanes,
    /// What is issued is issued by it.
    pub(super) clock: SteadyClock,
    /// Tokens in the store. A second federator would count for itself: the limit is against growth, not for a price.
    pub(super) tokens: AtomicUsize,
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
        let kept = upkeep::prune(store.as_ref(), clock::timestamp())?;
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
            renewals: Lanes::default(),
            clock: SteadyClock::start(kept.latest.map(Into::into)),
            tokens: AtomicUsize::new(kept.tokens),
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

    pub(super) async fn publish_later(&self) -> Result<(), StoreError> {
        let trust = Arc::clone(&self.trust);
        let (members, bundles) = self.store.run(move |store| read(store, &trust)).await?;
        self.tell(members, bundles);
        Ok(())
    }

    fn tell(&self, members: Members, bundles: Bundles) {
        // Two joins may read in one order and tell in the other: nobody is ever told an older state. A bundle that is
        // missing is withdrawn by a newer state only.
        let newer = members.revision > self.members.borrow().revision;
        self.bundles.send_if_modified(|held| {
            let grown =
                bundles.bundles.values().any(|b| held.bundles.get(&b.trust_domain).is_none_or(|h| h.serial < b.serial));
            let takes = newer || grown;
            if takes {
                *held = Arc::new(bundles);
            }
            takes
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
