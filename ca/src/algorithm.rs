//! Pure. The kinds of keys and signatures that are taken, by their object identifiers (RFC 5480, RFC 5758, RFC 8410).

use rustls_pki_types::SignatureVerificationAlgorithm;
use webpki::aws_lc_rs::{ECDSA_P256_SHA256, ECDSA_P384_SHA384, ED25519};
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

const OID_EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const OID_P256: &str = "1.2.840.10045.3.1.7";
const OID_P384: &str = "1.3.132.0.34";
const OID_ED25519: &str = "1.3.101.112";
const OID_ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";
const OID_ECDSA_SHA384: &str = "1.2.840.10045.4.3.3";

fn oid_of(algorithm: &AlgorithmIdentifier<'_>) -> String {
    algorithm.algorithm.to_id_string()
}

fn curve_of(spki: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    let parameters = spki.algorithm.parameters.as_ref()?;
    parameters.as_oid().ok().map(|o| o.to_id_string())
}

/// Whether it is an ECDSA key on P-256.
pub(crate) fn is_p256(spki: &SubjectPublicKeyInfo<'_>) -> bool {
    oid_of(&spki.algorithm) == OID_EC_PUBLIC_KEY && curve_of(spki).as_deref() == Some(OID_P256)
}

/// The algorithm of a key and of a signature by it; none: one that is not taken.
pub(crate) fn algorithm(
    spki: &SubjectPublicKeyInfo<'_>,
    signature: &AlgorithmIdentifier<'_>,
) -> Option<&'static dyn SignatureVerificationAlgorithm> {
    let (key, signature) = (oid_of(&spki.algorithm), oid_of(signature));
    let curve = curve_of(spki);
    match (key.as_str(), curve.as_deref(), signature.as_str()) {
        (OID_EC_PUBLIC_KEY, Some(OID_P256), OID_ECDSA_SHA256) => Some(ECDSA_P256_SHA256),
        (OID_EC_PUBLIC_KEY, Some(OID_P384), OID_ECDSA_SHA384) => Some(ECDSA_P384_SHA384),
        (OID_ED25519, None, OID_ED25519) => Some(ED25519),
        _ => None,
    }
}

/// Whether it is an Ed25519 key.
pub(crate) fn is_ed25519(spki: &SubjectPublicKeyInfo<'_>) -> bool {
    oid_of(&spki.algorithm) == OID_ED25519
}
