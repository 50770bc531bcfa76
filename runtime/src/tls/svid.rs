//! Pure. Verification of X.509-SVIDs: chain and signatures by rustls-webpki, the identity from the same bytes.

use meshfed_model::identity::{SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::store::TrustSnapshot;
use crate::limits::LimitExceeded;

/// Most certificates in a peer's chain, the leaf included (CA5).
pub const CHAIN_CERTS_MAX: usize = 4;
/// Most bytes in a peer's chain (CA5).
pub const CHAIN_BYTES_MAX: usize = 32 * 1024;

/// What the peer does in the handshake; decides which extended key usage its SVID needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It listens: serverAuth.
    Server,
    /// It dials: clientAuth.
    Client,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// Why a peer's certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// Too many certificates or bytes.
    #[error("the peer's certificate chain is too large")]
    ChainLimit(#[source] LimitExceeded),
    /// Not a certificate, or one that two parsers read differently.
    #[error("the peer's certificate is malformed: {0}")]
    Malformed(&'static str),
    /// No URI SAN; DNS names, addresses and the common name do not count.
    #[error("the peer's certificate has no URI SAN; meshfed peers are known by SPIFFE ID only")]
    NoUriSan,
    /// Two URI SANs or more.
    #[error("the peer's certificate has {0} URI SANs, exactly one is allowed")]
    ManyUriSans(usize),
    /// The URI SAN is no SPIFFE ID of meshfed.
    #[error("the peer's URI SAN {0:?} is no SPIFFE ID of meshfed")]
    NotSpiffeId(String),
    /// A CA certificate, or one that may sign, is no SVID.
    #[error("the peer's certificate is a CA certificate, or one that may sign others, not an SVID")]
    CaLeaf,
    /// No key usage digitalSignature.
    #[error("the peer's certificate lacks key usage digitalSignature")]
    KeyUsage,
    /// The extended key usage does not allow the role.
    #[error("the certificate of {id} lacks the extended key usage for a TLS {role}")]
    ExtendedKeyUsage {
        /// Whom it names.
        id: SpiffeId,
        /// `client` or `server`.
        role: &'static str,
    },
    /// No bundle of that trust domain is held.
    #[error("unknown trust domain {} of {id}: no bundle of it is held here", id.trust_domain)]
    UnknownTrustDomain {
        /// Whom it names.
        id: SpiffeId,
    },
    /// All anchors held for the trust domain are outside their validity.
    #[error("no anchor of trust domain {trust_domain} is valid now; check the clock, or renew the bundle")]
    NoValidAnchor {
        /// The trust domain.
        trust_domain: TrustDomain,
    },
    /// The chain does not lead to an anchor of the trust domain that the SVID names.
    #[error("bad chain: the certificate of {id} is not signed by an anchor of trust domain {} ({reason})", id.trust_domain)]
    BadChain {
        /// Whom it names.
        id: SpiffeId,
        /// What rustls-webpki said.
        reason: String,
    },
    /// After its end.
    #[error("expired: the certificate of {id} ended {seconds} s ago")]
    Expired {
        /// Whom it names.
        id: SpiffeId,
        /// Seconds since its end.
        seconds: u64,
    },
    /// Before its begin.
    #[error("not yet valid: the certificate of {id} begins in {seconds} s; check the clocks")]
    NotYetValid {
        /// Whom it names.
        id: SpiffeId,
        /// Seconds until its begin.
        seconds: u64,
    },
    /// Genuine, and not expected here.
    #[error("not accepted by policy: {id} is genuine, and not among the identities expected here")]
    NotAccepted {
        /// Who it is.
        id: SpiffeId,
    },
    /// The server's anchor is not the pinned one (join).
    #[error("the server's trust anchor is not the one that the token pins")]
    WrongPin,
}

impl SvidError {
    /// Whether only the time is wrong: the peer's certificates are genuine, or as good as that.
    #[must_use]
    pub const fn is_of_the_clock(&self) -> bool {
        match self {
            Self::NoValidAnchor { .. } | Self::Expired { .. } | Self::NotYetValid { .. } => true,
            Self::ChainLimit(_)
            | Self::Malformed(_)
            | Self::NoUriSan
            | Self::ManyUriSans(_)
            | Self::NotSpiffeId(_)
            | Self::CaLeaf
            | Self::KeyUsage
            | Self::ExtendedKeyUsage { .. }
            | Self::UnknownTrustDomain { .. }
            | Self::BadChain { .. }
            | Self::NotAccepted { .. }
            | Self::WrongPin => false,
        }
    }
    /// A stable word for metric labels.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::ChainLimit(_) => "chain_limit",
            Self::Malformed(_) => "malformed",
            Self::NoUriSan => "no_uri_san",
            Self::ManyUriSans(_) => "many_uri_sans",
            Self::NotSpiffeId(_) => "not_spiffe_id",
            Self::CaLeaf => "ca_leaf",
            Self::KeyUsage => "key_usage",
            Self::ExtendedKeyUsage { .. } => "extended_key_usage",
            Self::UnknownTrustDomain { .. } => "unknown_trust_domain",
            Self::NoValidAnchor { .. } => "no_valid_anchor",
            Self::BadChain { .. } => "bad_chain",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::NotAccepted { .. } => "not_accepted",
            Self::WrongPin => "wrong_pin",
        }
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, SvidError> {
    let (rest, cert) = X509Certificate::from_der(der).map_err(|_asn1| SvidError::Malformed("not X.509 DER"))?;
    if rest.is_empty() { Ok(cert) } else { Err(SvidError::Malformed("bytes after the certificate")) }
}

/// The one URI SAN, on which x509-parser and rustls-webpki must agree byte by byte (CA4).
fn uri_san<'a>(parsed: &X509Certificate<'a>, checked: &EndEntityCert<'_>) -> Result<&'a str, SvidError> {
    let san = parsed.subject_alternative_name().map_err(|_duplicate| SvidError::Malformed("two SAN extensions"))?;
    let Some(san) = san else { return Err(SvidError::NoUriSan) };
    let mut uris = Vec::new();
    for name in &san.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(SvidError::Malformed("an unreadable SAN")),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::DNSName(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_) => {}
        }
    }
    if !checked.valid_uri_names().eq(uris.iter().copied()) {
        return Err(SvidError::Malformed("two parsers read its URI SANs differently"));
    }
    match uris.as_slice() {
        [] => Err(SvidError::NoUriSan),
        [one] => Ok(*one),
        many => Err(SvidError::ManyUriSans(many.len())),
    }
}

/// What a leaf claims.
struct Claim {
    id: SpiffeId,
    server_auth: bool,
    client_auth: bool,
}

/// The identity that a leaf claims: exactly one URI SAN that is a SPIFFE ID of meshfed, byte-exact; no CA; key usage
/// digitalSignature and no signing of certificates. Says nothing about who signed it.
///
/// # Errors
/// [`SvidError`].
pub fn peer_spiffe_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, SvidError> {
    claim(leaf).map(|c| c.id)
}

fn claim(leaf: &CertificateDer<'_>) -> Result<Claim, SvidError> {
    let checked = EndEntityCert::try_from(leaf).map_err(|_webpki| SvidError::Malformed("not a certificate for TLS"))?;
    let parsed = parse(leaf)?;
    let constraints = parsed.basic_constraints().map_err(|_duplicate| SvidError::Malformed("two basic constraints"))?;
    if constraints.is_some_and(|c| c.value.ca) {
        return Err(SvidError::CaLeaf);
    }
    let usage = parsed.key_usage().map_err(|_duplicate| SvidError::Malformed("two key usages"))?;
    match usage {
        Some(u) if u.value.key_cert_sign() || u.value.crl_sign() => return Err(SvidError::CaLeaf),
        Some(u) if u.value.digital_signature() => {}
        Some(_) | None => return Err(SvidError::KeyUsage),
    }
    let extended = parsed.extended_key_usage().map_err(|_duplicate| SvidError::Malformed("two extended key usages"))?;
    let allows = |f: fn(&ExtendedKeyUsage<'_>) -> bool| extended.as_ref().is_some_and(|e| f(e.value));
    let (server_auth, client_auth) = (allows(|e| e.server_auth), allows(|e| e.client_auth));
    let uri = uri_san(&parsed, &checked)?;
    let id = uri.parse().map_err(|_form| SvidError::NotSpiffeId(uri.chars().take(256).collect()))?;
    Ok(Claim { id, server_auth, client_auth })
}

/// The trust domain that a CA certificate is the anchor of: its one URI SAN is `spiffe://<trust domain>`, exactly.
///
/// # Errors
/// [`SvidError`].
pub fn anchor_trust_domain(anchor: &CertificateDer<'_>) -> Result<TrustDomain, SvidError> {
    let checked =
        EndEntityCert::try_from(anchor).map_err(|_webpki| SvidError::Malformed("not a certificate for TLS"))?;
    let parsed = parse(anchor)?;
    let uri = uri_san(&parsed, &checked)?;
    let refuse = || SvidError::NotSpiffeId(uri.chars().take(256).collect());
    let name = uri.strip_prefix("spiffe://").ok_or_else(refuse)?;
    TrustDomain::new(name).map_err(|_form| refuse())
}

/// Verifies a peer: limits, identity, chain and signatures against the anchors of its own trust domain, validity and
/// extended key usage. One immutable `trust` snapshot serves the whole verification.
///
/// # Errors
/// [`SvidError`]; policy is not asked here.
pub fn verify_svid(
    trust: &TrustSnapshot,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: Role,
    now: UnixTime,
) -> Result<SpiffeId, SvidError> {
    LimitExceeded::check("chain_certificates", 1 + intermediates.len(), CHAIN_CERTS_MAX)
        .map_err(SvidError::ChainLimit)?;
    let bytes = intermediates.iter().fold(leaf.len(), |n, c| n.saturating_add(c.len()));
    LimitExceeded::check("chain_bytes", bytes, CHAIN_BYTES_MAX).map_err(SvidError::ChainLimit)?;

    let Claim { id, server_auth, client_auth } = claim(leaf)?;
    let Some(held) = trust.anchors_of(&id.trust_domain) else {
        return Err(SvidError::UnknownTrustDomain { id });
    };
    // rustls-webpki takes an anchor as a name and a key: its validity is ours to check.
    let anchors: Vec<_> = held.iter().filter(|a| a.is_valid_at(now)).map(|a| a.trust_anchor.clone()).collect();
    if anchors.is_empty() {
        return Err(SvidError::NoValidAnchor { trust_domain: id.trust_domain });
    }
    let cert = EndEntityCert::try_from(leaf).map_err(|_webpki| SvidError::Malformed("not a certificate for TLS"))?;
    // rustls-webpki would ask intermediates for a required usage, too; they need none. So the leaf is asked here.
    let (usage, allowed) = match role {
        Role::Server => (KeyUsage::server_auth(), server_auth),
        Role::Client => (KeyUsage::client_auth(), client_auth),
    };
    let algorithms = super::provider().signature_verification_algorithms;
    match cert.verify_for_usage(algorithms.all, &anchors, intermediates, now, usage, None, None) {
        Ok(_path) if allowed => Ok(id),
        Ok(_path) => Err(SvidError::ExtendedKeyUsage { id, role: role.as_str() }),
        Err(e) => Err(refused(id, role, e)),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "webpki::Error is non_exhaustive and foreign")]
fn refused(id: SpiffeId, role: Role, error: webpki::Error) -> SvidError {
    match error {
        webpki::Error::CertExpired { time, not_after } => {
            SvidError::Expired { id, seconds: time.as_secs().saturating_sub(not_after.as_secs()) }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            SvidError::NotYetValid { id, seconds: not_before.as_secs().saturating_sub(time.as_secs()) }
        }
        webpki::Error::CaUsedAsEndEntity => SvidError::CaLeaf,
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => {
            SvidError::ExtendedKeyUsage { id, role: role.as_str() }
        }
        other => SvidError::BadChain { id, reason: format!("{other:?}") },
    }
}
