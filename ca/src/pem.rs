//! Pure. PEM in and out, with limits.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// Most certificates in one PEM file.
pub const PEM_CERTS_MAX: usize = 64;
/// Most bytes of a private key's PEM.
pub const KEY_PEM_MAX: usize = 16 * 1024;
/// Most bytes of a PEM file with certificates.
pub const PEM_BYTES_MAX: usize = 256 * 1024;

/// Why certificates could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Not PEM, or its base64 is broken.
    #[error("not PEM with certificates (-----BEGIN CERTIFICATE-----)")]
    Form,
    /// No certificate in it.
    #[error("no certificate in it")]
    Empty,
    /// More than [`PEM_CERTS_MAX`] certificates or [`PEM_BYTES_MAX`] bytes.
    #[error("too large: at most {PEM_CERTS_MAX} certificates and {PEM_BYTES_MAX} bytes")]
    TooLarge,
}

/// All certificates of a PEM text, in its order; at least one.
///
/// # Errors
/// [`PemError`].
pub fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    if text.len() > PEM_BYTES_MAX {
        return Err(PemError::TooLarge);
    }
    let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(text.as_bytes())
        .take(PEM_CERTS_MAX + 1)
        .collect::<Result<_, _>>()
        .map_err(|_pem| PemError::Form)?;
    match found.len() {
        0 => Err(PemError::Empty),
        n if n > PEM_CERTS_MAX => Err(PemError::TooLarge),
        _ => Ok(found),
    }
}

/// The first PKCS#8 private key of a PEM text.
pub(crate) fn private_key(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    if text.len() > KEY_PEM_MAX {
        return None;
    }
    let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).ok()?;
    Some(Zeroizing::new(key.secret_pkcs8_der().to_vec()))
}

/// Certificates as PEM, one after the other.
#[must_use]
pub fn encode_certificates<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> String {
    certificates.into_iter().map(|der| encode("CERTIFICATE", der).to_string()).collect()
}

pub(crate) fn encode_private_key(pkcs8: &[u8]) -> Zeroizing<String> {
    encode("PRIVATE KEY", pkcs8)
}

fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    // Reserved as a whole, so that no copy of a key is left behind by growing.
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}
