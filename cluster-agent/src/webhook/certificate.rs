//! Pure. The webhook's certificates: a CA that lives in this process and for a day, what it certifies, and the `caBundle`
//! that several agents share, each adding its own.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meshfed_ca::pem::{certificates, encode_certificates};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How much earlier than now a certificate begins: clocks differ.
const BACKDATE: Duration = Duration::from_secs(300);
/// Most certificates of a `caBundle`: one per agent and rotation, the newest stay.
const BUNDLE_MAX: usize = 8;
/// Name of our CAs.
const NAME: &str = "meshfed-webhook";

/// A CA's certificate, and a server's by it.
#[derive(Debug)]
pub(super) struct Pair {
    /// The CA, DER.
    pub(super) ca: Vec<u8>,
    /// The chain to show.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub(super) key: PrivateKeyDer<'static>,
}

fn params(names: Vec<SanType>, now: SystemTime, ttl: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, NAME);
    params.subject_alt_names = names;
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + ttl).into();
    params
}

/// Makes a pair for these names.
pub(super) fn make(dns: &[String], addresses: &[IpAddr], now: SystemTime, ttl: Duration) -> Result<Pair, rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = params(Vec::new(), now, ttl);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_certificate = ca.self_signed(&ca_key)?;
    let mut names = Vec::with_capacity(dns.len() + addresses.len());
    for name in dns {
        names.push(SanType::DnsName(name.clone().try_into()?));
    }
    names.extend(addresses.iter().copied().map(SanType::IpAddress));
    let key = KeyPair::generate()?;
    let mut leaf = params(names, now, ttl);
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &Issuer::from_params(&ca, &ca_key))?;
    Ok(Pair {
        ca: ca_certificate.der().to_vec(),
        chain: vec![leaf.der().clone()],
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
    })
}

/// The begin of a certificate's life; none where it is over, or where it is not one of ours.
fn begin_of(der: &[u8], now: SystemTime) -> Option<i64> {
    let (_rest, parsed) = X509Certificate::from_der(der).ok()?;
    let is_ours = parsed.subject().iter_common_name().any(|n| n.as_str() == Ok(NAME));
    let now = i64::try_from(now.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    (is_ours && parsed.is_ca() && parsed.validity().not_after.timestamp() > now)
        .then(|| parsed.validity().not_before.timestamp())
}

/// The `caBundle` with this CA in it: others that are valid still stay, what has expired goes.
pub(super) fn merged(bundle: &str, ca: &[u8], now: SystemTime) -> String {
    // What is no PEM was not written by an agent.
    let held = certificates(bundle).unwrap_or_default();
    let mut others: Vec<(i64, Vec<u8>)> = held
        .iter()
        .filter(|c| c.as_ref() != ca)
        .filter_map(|c| Some((begin_of(c, now)?, c.as_ref().to_vec())))
        .collect();
    others.sort();
    others.reverse();
    others.truncate(BUNDLE_MAX - 1);
    // By their bytes: agents that add at the same time come to the same order.
    let mut all: Vec<Vec<u8>> = others.into_iter().map(|(_, der)| der).chain([ca.to_vec()]).collect();
    all.sort();
    all.dedup();
    encode_certificates(all.iter().map(Vec::as_slice))
}
