//! Pure. What all templates share: validity, serial numbers, names, and the check of what was issued.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use meshfed_model::identity::TrustDomain;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, Error as RcgenError, IsCa, Issuer, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::keys::SigningKey;

/// How far a certificate begins in the past, for clocks that are behind.
pub(crate) const BACKDATE: Duration = Duration::from_secs(120);

/// Why a certificate was not issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The issuer's certificate or the subject's key is not usable.
    #[error("{what} cannot be used: {reason}")]
    Input {
        /// `issuer certificate`, `subject key`, …
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The issuer is not valid now, so nothing that it signs could be.
    #[error("the issuer's certificate is not valid now; renew it, or check the clock")]
    IssuerExpired,
    /// The requested life is zero or over its cap.
    #[error("a life of {seconds} s is not allowed, at most {max} s")]
    Ttl {
        /// The request.
        seconds: u64,
        /// The cap.
        max: u64,
    },
    /// The signer failed.
    #[error("signing failed: {0}")]
    Signing(String),
    /// What came out is not what the template says; it is not released.
    #[error("the issued certificate does not match its template ({0}); it was not released")]
    Output(&'static str),
}

impl From<RcgenError> for IssueError {
    fn from(e: RcgenError) -> Self {
        Self::Signing(e.to_string())
    }
}

/// A certificate, parsed to its last byte.
pub(crate) fn parse<'a>(what: &'static str, der: &'a [u8]) -> Result<X509Certificate<'a>, IssueError> {
    let refuse = |reason: &str| IssueError::Input { what, reason: reason.to_owned() };
    let (rest, parsed) = X509Certificate::from_der(der).map_err(|_asn1| refuse("not X.509 DER"))?;
    if rest.is_empty() { Ok(parsed) } else { Err(refuse("bytes after the certificate")) }
}

/// Seconds since 1970 of a time; certificates have no smaller unit.
pub(crate) fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

pub(crate) fn time_of(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A serial number with 128 random bits; the byte 1 before them keeps it positive and of one length.
fn serial() -> Result<SerialNumber, IssueError> {
    let mut bytes = [0u8; 17];
    rand::fill(&mut bytes).map_err(|_unspecified| IssueError::Signing("no random numbers".to_owned()))?;
    bytes[0] = 1;
    Ok(SerialNumber::from_slice(&bytes))
}

/// The parameters that every template begins with: validity from `now − 2 min`, random serial, URI SAN, key identifiers.
pub(crate) fn params(
    uri: &str,
    subject: DistinguishedName,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.not_before = time_of(seconds(now - BACKDATE)).into();
    params.not_after = time_of(seconds(not_after)).into();
    params.serial_number = Some(serial()?);
    let uri = uri
        .try_into()
        .map_err(|_ascii: RcgenError| IssueError::Input { what: "URI SAN", reason: "not ASCII".to_owned() })?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.distinguished_name = subject;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The subject that an anchor and its lineage share.
pub(crate) fn domain_subject(trust_domain: &TrustDomain) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "meshfed");
    // Common names end at 64 characters (RFC 5280, ub-common-name); the URI SAN is what counts.
    let common: String = trust_domain.as_str().chars().take(64).collect();
    name.push(DnType::CommonName, common);
    name
}

/// An issuer from its certificate; its subject is taken over, whatever made it.
pub(crate) fn issuer<'k>(
    certificate: &[u8],
    key: &'k SigningKey,
) -> Result<Issuer<'static, &'k SigningKey>, IssueError> {
    let parsed = parse("issuer certificate", certificate)?;
    if parsed.tbs_certificate.subject_pki.raw != key.public_key_der() {
        return Err(IssueError::Input { what: "issuer certificate", reason: "it holds another key".to_owned() });
    }
    Issuer::from_ca_cert_der(&CertificateDer::from(certificate), key)
        .map_err(|e| IssueError::Input { what: "issuer certificate", reason: e.to_string() })
}

/// A foreign public key from its DER SubjectPublicKeyInfo.
pub(crate) fn subject_key(spki_der: &[u8]) -> Result<SubjectPublicKeyInfo, IssueError> {
    let key = SubjectPublicKeyInfo::from_der(spki_der)
        .map_err(|e| IssueError::Input { what: "subject key", reason: e.to_string() })?;
    if key.subject_public_key_info() != spki_der {
        return Err(IssueError::Input { what: "subject key", reason: "its encoding is not canonical".to_owned() });
    }
    Ok(key)
}
