//! Edge. What changes while a process runs: the anchors of all trust domains, and its own identity. Readers take an
//! immutable snapshot; a handshake sees one generation from begin to end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use meshfed_model::identity::{SpiffeId, TrustDomain};
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::svid::{SvidError, peer_spiffe_id};

/// A certificate that cannot be a trust anchor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("anchor {index} of trust domain {trust_domain} cannot be used: {reason}")]
pub struct InvalidAnchor {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Its place in the bundle, from 0.
    pub index: usize,
    /// What is wrong.
    pub reason: &'static str,
}

/// One anchor, parsed once.
#[derive(Debug, Clone)]
pub(super) struct Anchor {
    pub(super) trust_anchor: TrustAnchor<'static>,
    not_before: i64,
    not_after: i64,
}

impl Anchor {
    fn parse(der: &CertificateDer<'_>) -> Result<Self, &'static str> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_asn1| "not X.509 DER")?;
        if !rest.is_empty() {
            return Err("bytes after the certificate");
        }
        if !parsed.is_ca() {
            return Err("not a CA certificate");
        }
        let trust_anchor = webpki::anchor_from_trusted_cert(der).map_err(|_webpki| "not usable for TLS")?.to_owned();
        let validity = parsed.validity();
        Ok(Self {
            trust_anchor,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }
    pub(super) fn is_valid_at(&self, now: UnixTime) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.not_before <= now && now <= self.not_after
    }
}

/// One generation of trust: immutable.
#[derive(Debug, Clone, Default)]
pub struct TrustSnapshot {
    generation: u64,
    der: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
    anchors: BTreeMap<TrustDomain, Vec<Anchor>>,
}

impl TrustSnapshot {
    fn new(generation: u64, der: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>) -> Result<Self, InvalidAnchor> {
        let mut anchors = BTreeMap::new();
        for (trust_domain, list) in &der {
            let mut parsed = Vec::with_capacity(list.len());
            for (index, cert) in list.iter().enumerate() {
                let invalid = |reason| InvalidAnchor { trust_domain: trust_domain.clone(), index, reason };
                parsed.push(Anchor::parse(cert).map_err(invalid)?);
            }
            anchors.insert(trust_domain.clone(), parsed);
        }
        Ok(Self { generation, der, anchors })
    }
    /// Counts the changes, from 0 for the empty store.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }
    /// The trust domains held, in order, with their anchors as DER.
    #[must_use]
    pub fn bundles(&self) -> &BTreeMap<TrustDomain, Vec<CertificateDer<'static>>> {
        &self.der
    }
    pub(super) fn anchors_of(&self, trust_domain: &TrustDomain) -> Option<&[Anchor]> {
        self.anchors.get(trust_domain).map(Vec::as_slice)
    }
}

/// The anchors of every trust domain that is trusted, replaced as a whole.
#[derive(Debug, Default)]
pub struct TrustStore(ArcSwap<TrustSnapshot>);

impl TrustStore {
    /// Trusts nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// With first content.
    ///
    /// # Errors
    /// [`InvalidAnchor`].
    pub fn with(map: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>) -> Result<Self, InvalidAnchor> {
        let store = Self::new();
        store.replace(map)?;
        Ok(store)
    }
    /// The anchors of one trust domain.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<Vec<CertificateDer<'static>>> {
        self.0.load().der.get(trust_domain).cloned()
    }
    /// The whole present generation.
    #[must_use]
    pub fn snapshot(&self) -> Arc<TrustSnapshot> {
        self.0.load_full()
    }
    /// Replaces everything and returns the new generation; the same content keeps the generation.
    ///
    /// # Errors
    /// [`InvalidAnchor`]; the old content stays.
    pub fn replace(&self, map: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>) -> Result<u64, InvalidAnchor> {
        let new = TrustSnapshot::new(0, map)?;
        let mut generation = 0;
        self.0.rcu(|old| {
            if old.der == new.der {
                generation = old.generation;
                return Arc::clone(old);
            }
            generation = old.generation + 1;
            Arc::new(TrustSnapshot { generation, ..new.clone() })
        });
        Ok(generation)
    }
    /// Counts the changes, from 0 for the empty store.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.load().generation
    }
}

/// Why a chain and a key cannot be an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no certificate.
    #[error("the certificate chain is empty")]
    Empty,
    /// The leaf is no SVID.
    #[error("the certificate is no SVID")]
    Svid(#[source] SvidError),
    /// The key is not usable, or does not belong to the leaf.
    #[error("the private key is not usable with the certificate")]
    Key(#[source] rustls::Error),
}

/// An SVID with its key, and further certificates to send (port 15600 sends the fleet's anchor).
pub struct Identity {
    /// The leaf's SPIFFE ID.
    pub id: SpiffeId,
    /// The end of the leaf's validity.
    pub not_after: SystemTime,
    /// The begin of the leaf's validity.
    pub not_before: SystemTime,
    certified: Arc<CertifiedKey>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

impl Identity {
    /// Checks that the leaf is an SVID and that the key is the leaf's.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(IdentityError::Empty)?;
        let id = peer_spiffe_id(leaf).map_err(IdentityError::Svid)?;
        let (_rest, parsed) = X509Certificate::from_der(leaf)
            .map_err(|_asn1| IdentityError::Svid(SvidError::Malformed("not X.509 DER")))?;
        let (begin, end) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let signing = super::provider().key_provider.load_private_key(key).map_err(IdentityError::Key)?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(IdentityError::Key)?;
        Ok(Self { id, not_after: time(end), not_before: time(begin), certified: Arc::new(certified) })
    }
    /// The chain that is sent, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }
    /// When it should be renewed: at half of its life.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life / 2
    }
    /// What rustls signs with.
    #[must_use]
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

/// The identity of this process, replaced while it runs; connections that stand keep theirs.
#[derive(Debug, Default)]
pub struct IdentityStore(ArcSwapOption<Identity>);

impl IdentityStore {
    /// Without an identity: servers refuse handshakes, clients send no certificate.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }
    /// With a first identity.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self(ArcSwapOption::from_pointee(identity))
    }
    /// New handshakes use this one.
    pub fn replace(&self, identity: Identity) {
        self.0.store(Some(Arc::new(identity)));
    }
    /// The present identity.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Identity>> {
        self.0.load_full()
    }
    /// The present SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> Option<SpiffeId> {
        self.0.load().as_ref().map(|i| i.id.clone())
    }
}

impl ResolvesServerCert for IdentityStore {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|i| i.certified())
    }
}

impl ResolvesClientCert for IdentityStore {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|i| i.certified())
    }
    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}
