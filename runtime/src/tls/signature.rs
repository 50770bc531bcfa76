//! Pure. Signatures over certificates, outside of a handshake.

use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::provider;

/// Whether the key of certificate `issuer` made the signature of certificate `cert`. Names and validity do not count.
#[must_use]
pub fn is_signed_by(cert: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let (Ok(issuer), Ok((rest, parsed))) = (EndEntityCert::try_from(issuer), X509Certificate::from_der(cert)) else {
        return false;
    };
    rest.is_empty()
        && provider().signature_verification_algorithms.all.iter().any(|algorithm| {
            issuer.verify_signature(*algorithm, parsed.tbs_certificate.as_ref(), &parsed.signature_value.data).is_ok()
        })
}

/// Whether a certificate is signed by its own key.
#[must_use]
pub fn is_self_signed(cert: &CertificateDer<'_>) -> bool {
    is_signed_by(cert, cert)
}
