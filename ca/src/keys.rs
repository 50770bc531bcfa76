//! Pure. Signing keys: ECDSA P-256, PKCS#8 on disk, zeroized in memory.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::pem;
pub use crate::pem::KEY_PEM_MAX;

/// Why a key could not be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The crypto library failed to make one.
    #[error("a key could not be generated")]
    Generate,
    /// The PEM holds no PKCS#8 private key.
    #[error(
        "not a PKCS#8 private key in PEM form (-----BEGIN PRIVATE KEY-----); convert with: openssl pkcs8 -topk8 -nocrypt"
    )]
    Pem,
    /// Not a P-256 key.
    #[error("not an ECDSA P-256 private key; meshfed's own keys are P-256")]
    NotP256,
}

/// A P-256 key that can sign.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    spki: Vec<u8>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError::Generate`].
    pub fn generate() -> Result<Self, KeyError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_unspecified| KeyError::Generate)?;
        Self::from_pkcs8_der(document.as_ref())
    }
    /// From PKCS#8 DER.
    ///
    /// # Errors
    /// [`KeyError::NotP256`].
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, KeyError> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map_err(|_rejected| KeyError::NotP256)?;
        let spki = pair.public_key().as_der().map_err(|_unspecified| KeyError::NotP256)?.as_ref().to_vec();
        Ok(Self { pair, pkcs8: Zeroizing::new(der.to_vec()), spki })
    }
    /// From PKCS#8 PEM.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pkcs8_pem(text: &str) -> Result<Self, KeyError> {
        let der = pem::private_key(text).ok_or(KeyError::Pem)?;
        Self::from_pkcs8_der(&der)
    }
    /// As PKCS#8 PEM, for a file of mode 0600.
    #[must_use]
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        pem::encode_private_key(&self.pkcs8)
    }
    /// For a TLS identity.
    #[must_use]
    pub fn to_private_key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }
    /// The DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn public_key_der(&self) -> &[u8] {
        &self.spki
    }
    /// SHA-256 of [`Self::public_key_der`]: what a join token pins.
    #[must_use]
    pub fn spki_sha256(&self) -> [u8; 32] {
        sha256(&self.spki)
    }
    /// An ASN.1 ECDSA signature with SHA-256, for proofs of possession.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when the crypto library fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_unspecified| KeyError::Generate)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// Whether `signature` over `message` was made by the P-256 key of this SubjectPublicKeyInfo ([`SigningKey::sign`]).
#[must_use]
pub fn verify_signature(spki_der: &[u8], message: &[u8], signature: &[u8]) -> bool {
    use x509_parser::prelude::FromDer as _;
    let Ok((rest, spki)) = x509_parser::x509::SubjectPublicKeyInfo::from_der(spki_der) else { return false };
    rest.is_empty()
        && crate::algorithm::is_p256(&spki)
        && webpki::aws_lc_rs::ECDSA_P256_SHA256
            .verify_signature(&spki.subject_public_key.data, message, signature)
            .is_ok()
}

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

impl PublicKeyData for SigningKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for SigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Self::sign(self, message).map_err(|_generate| rcgen::Error::RingUnspecified)
    }
}
