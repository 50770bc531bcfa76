//! Pure. Who is asking over the Workload API, what each user was answered last, and the certificates behind it.
//!
//! A certificate is held once per identity, whoever asks and how often: a client that reconnects gets the one that is
//! there, so asking costs no signature.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshfed_model::bundle::Bundle;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use crate::core::store::StreamId;
use crate::identity::{AuthorityError, Entitled, Issued};

/// Most identities in one answer: about 1.3 KiB each, far below the 4 MiB that clients take.
pub const SVIDS_MAX: usize = 64;
/// Pause before a certificate that could not be issued is tried again.
const ISSUE_PAUSE: Duration = Duration::from_secs(5);

/// One identity's certificate with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Svid {
    /// Who it is.
    pub id: SpiffeId,
    /// `NAMESPACE/SERVICE_ACCOUNT`, which no other identity of the cluster has.
    pub hint: Arc<str>,
    /// The chain, concatenated DER, the leaf first.
    pub certificates: Vec<u8>,
    /// The key, PKCS#8 DER.
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The anchors of every trust domain that is held, concatenated DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleSet {
    /// The cluster's own trust domain.
    pub trust_domain: TrustDomain,
    /// Its anchors.
    pub own: Vec<u8>,
    /// Those of the others.
    pub federated: BTreeMap<TrustDomain, Vec<u8>>,
}

impl BundleSet {
    /// What is held, with the cluster's own anchor where the hub has said nothing of it yet.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, anchor: &[u8], held: &BTreeMap<TrustDomain, Bundle>) -> Self {
        let der = |bundle: &Bundle| bundle.anchors.concat();
        let own = held.get(&trust_domain).map_or_else(|| anchor.to_vec(), der);
        let others = held.iter().filter(|(domain, _)| **domain != trust_domain);
        let federated = others.map(|(domain, bundle)| (domain.clone(), der(bundle))).collect();
        Self { trust_domain, own, federated }
    }
}

/// All that a user is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// At least one, the default first.
    pub svids: Vec<Arc<Svid>>,
    /// Whom to trust.
    pub bundles: Arc<BundleSet>,
    /// Whether identities beyond [`SVIDS_MAX`] were left out.
    pub cut: bool,
}

/// What a stream is told. All but an answer end it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Everything, whole.
    Answer(Arc<Answer>),
    /// The user is no workload, or none any more.
    Denied(String),
    /// Nothing can be said yet; asking again later helps.
    Unavailable(String),
}

/// A certificate with the time of its renewal.
#[derive(Debug)]
struct Held {
    svid: Arc<Svid>,
    renew_at: Instant,
    /// When it is no certificate any more.
    over_at: Instant,
}

/// A user with its streams.
#[derive(Debug, Default)]
struct Holder {
    streams: BTreeSet<StreamId>,
    /// Streams that were told nothing yet.
    fresh: BTreeSet<StreamId>,
    last: Option<Arc<Answer>>,
}

/// Everybody who asks.
#[derive(Debug)]
pub struct Holders {
    bundles: Arc<BundleSet>,
    svids: BTreeMap<SpiffeId, Held>,
    holders: BTreeMap<u32, Holder>,
    users: BTreeMap<StreamId, u32>,
    /// Users whose answer may be another one now.
    stale: BTreeSet<u32>,
    /// Users whose answer lacks an identity that could not be issued, with the time of the next attempt.
    lacking: BTreeMap<u32, Instant>,
    words: Vec<(StreamId, Word)>,
}

impl Holders {
    /// Nobody yet.
    #[must_use]
    pub fn new(bundles: BundleSet) -> Self {
        Self {
            bundles: Arc::new(bundles),
            svids: BTreeMap::new(),
            holders: BTreeMap::new(),
            users: BTreeMap::new(),
            stale: BTreeSet::new(),
            lacking: BTreeMap::new(),
            words: Vec::new(),
        }
    }

    /// A stream of a user; it is told as soon as [`Self::tell`] is called for the user.
    pub fn open(&mut self, id: StreamId, uid: u32) {
        let holder = self.holders.entry(uid).or_default();
        holder.streams.insert(id);
        holder.fresh.insert(id);
        self.users.insert(id, uid);
        self.stale.insert(uid);
    }

    /// A stream is gone.
    pub fn closed(&mut self, id: StreamId) {
        let Some(uid) = self.users.remove(&id) else { return };
        let Some(holder) = self.holders.get_mut(&uid) else { return };
        holder.streams.remove(&id);
        holder.fresh.remove(&id);
        if holder.streams.is_empty() {
            self.holders.remove(&uid);
            self.stale.remove(&uid);
            self.lacking.remove(&uid);
        }
    }

    /// The bundles that are held now.
    pub fn set_bundles(&mut self, bundles: BundleSet) {
        if *self.bundles == bundles {
            return;
        }
        self.bundles = Arc::new(bundles);
        self.owners_changed();
    }

    /// Another user may be another workload now.
    pub fn owners_changed(&mut self) {
        self.stale.extend(self.holders.keys());
    }

    /// The users whose answer is to be made again.
    pub fn take_stale(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.stale)
    }

    /// When [`Self::renew`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.svids.values().map(|held| held.renew_at).chain(self.lacking.values().copied()).min()
    }

    /// Forgets certificates that are due and that nobody holds, and has the users of the others told again.
    pub fn renew(&mut self, now: Instant) {
        self.stale.extend(self.lacking.iter().filter(|(_, at)| **at <= now).map(|(uid, _)| *uid));
        let due = |held: &Held| held.renew_at <= now;
        if !self.svids.values().any(due) {
            return;
        }
        let mut held: BTreeSet<SpiffeId> = BTreeSet::new();
        for (uid, holder) in &self.holders {
            let ids = || holder.last.iter().flat_map(|a| &a.svids).map(|svid| &svid.id);
            if ids().any(|id| self.svids.get(id).is_some_and(due)) {
                self.stale.insert(*uid);
            }
            held.extend(ids().cloned());
        }
        self.svids.retain(|id, svid| !due(svid) || held.contains(id));
    }

    /// Tells a user what it is: its new streams always, the others when that changed. `issue` makes a certificate;
    /// one that cannot be renewed stays until it can, or until it is over.
    pub fn tell(
        &mut self,
        uid: u32,
        entitled: Entitled,
        denied: impl FnOnce() -> String,
        mut issue: impl FnMut(&SpiffeId) -> Result<Issued, AuthorityError>,
        renew_after: Duration,
        now: Instant,
    ) {
        if entitled.identities.is_empty() {
            return self.end(uid, &Word::Denied(denied()));
        }
        let wanted = entitled.identities.len();
        let mut svids = Vec::with_capacity(wanted);
        for (hint, id) in entitled.identities {
            if let Some(svid) = self.svid(hint, id, &mut issue, renew_after, now) {
                svids.push(svid);
            }
        }
        self.lacking.remove(&uid);
        if svids.is_empty() {
            return self
                .end(uid, &Word::Unavailable("no certificate could be issued; the agent's log says why".to_owned()));
        }
        let answer = Answer { svids, bundles: Arc::clone(&self.bundles), cut: entitled.more };
        let Some(holder) = self.holders.get_mut(&uid) else { return };
        if answer.svids.len() < wanted {
            self.lacking.insert(uid, now + ISSUE_PAUSE);
        }
        let fresh = std::mem::take(&mut holder.fresh);
        let (answer, told) = match holder.last.take() {
            Some(last) if *last == answer => (last, fresh),
            Some(_) | None => {
                if answer.cut {
                    tracing::warn!(
                        uid,
                        "more than {SVIDS_MAX} identities belong to this user, the others are left out; \
                         annotate workloads with a federation.meshfed.io/unix-uid of their own"
                    );
                }
                (Arc::new(answer), holder.streams.clone())
            }
        };
        holder.last = Some(Arc::clone(&answer));
        self.words.extend(told.into_iter().map(|id| (id, Word::Answer(Arc::clone(&answer)))));
    }

    /// Ends all streams of a user.
    pub fn end(&mut self, uid: u32, word: &Word) {
        let Some(holder) = self.holders.remove(&uid) else { return };
        self.stale.remove(&uid);
        self.lacking.remove(&uid);
        for id in holder.streams {
            self.users.remove(&id);
            self.words.push((id, word.clone()));
        }
    }

    /// What streams are to be told.
    pub fn take_words(&mut self) -> Vec<(StreamId, Word)> {
        std::mem::take(&mut self.words)
    }

    fn svid(
        &mut self,
        hint: Arc<str>,
        id: SpiffeId,
        issue: &mut impl FnMut(&SpiffeId) -> Result<Issued, AuthorityError>,
        renew_after: Duration,
        now: Instant,
    ) -> Option<Arc<Svid>> {
        if let Some(held) = self.svids.get(&id).filter(|held| held.renew_at > now) {
            return Some(Arc::clone(&held.svid));
        }
        match issue(&id) {
            Ok(issued) => {
                let certificates = issued.certificate().to_vec();
                let svid = Arc::new(Svid { id: id.clone(), hint, certificates, key: issued.key_der() });
                let held =
                    Held { svid: Arc::clone(&svid), renew_at: now + renew_after, over_at: now + 2 * renew_after };
                self.svids.insert(id, held);
                Some(svid)
            }
            Err(error) => {
                let error = crate::config::chain(&error);
                tracing::error!(%id, error, "a certificate could not be issued; trying again");
                let held = self.svids.get_mut(&id)?;
                held.renew_at = now + ISSUE_PAUSE;
                (held.over_at > now).then(|| Arc::clone(&held.svid))
            }
        }
    }
}
