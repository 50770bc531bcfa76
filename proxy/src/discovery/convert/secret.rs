//! Pure. `Secret` at the border.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as xds;
use meshfed_model::identity::TrustDomain;
use meshfed_runtime::tls::Identity;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{Bundles, Invalid, decode, invalid};

const SPIFFE_VALIDATOR: &str = "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// A secret's content.
#[derive(Debug)]
pub enum SecretSpec {
    /// Our certificate and key.
    Identity(Box<Identity>),
    /// Anchors by trust domain.
    Trust(Arc<Bundles>),
}

/// Converts a secret.
///
/// # Errors
/// [`Invalid`]; never with the key in it.
pub fn secret(message: &xds::Secret) -> Result<SecretSpec, Invalid> {
    match &message.r#type {
        Some(xds::secret::Type::TlsCertificate(pair)) => {
            let chain = certificates(pair.certificate_chain.as_ref(), "certificate_chain")?;
            let key = bytes(pair.private_key.as_ref(), "private_key")?;
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|_pem| Invalid { field: "private_key", why: "is no PEM key".to_owned() })?;
            let identity = Identity::new(chain, key)
                .map_err(|e| Invalid { field: "certificate_chain", why: meshfed_runtime::telemetry::chain(&e) })?;
            Ok(SecretSpec::Identity(Box::new(identity)))
        }
        Some(xds::secret::Type::ValidationContext(context)) => {
            let any = context.custom_validator_config.as_ref().and_then(|c| c.typed_config.as_ref());
            let config: xds::SpiffeCertValidatorConfig = decode(any, "custom_validator_config", SPIFFE_VALIDATOR)?;
            let mut bundles = Bundles::new();
            for domain in &config.trust_domains {
                let name = TrustDomain::new(&domain.name)
                    .map_err(|e| Invalid { field: "trust_domains.name", why: e.to_string() })?;
                let anchors = certificates(domain.trust_bundle.as_ref(), "trust_bundle")?;
                if bundles.insert(name, anchors).is_some() {
                    return invalid("trust_domains", format!("'{}' occurs twice", domain.name));
                }
            }
            Ok(SecretSpec::Trust(Arc::new(bundles)))
        }
        Some(xds::secret::Type::SessionTicketKeys(_) | xds::secret::Type::GenericSecret(_)) | None => {
            invalid("type", "only certificates and validation contexts are known here")
        }
    }
}

fn bytes<'a>(source: Option<&'a DataSource>, field: &'static str) -> Result<&'a [u8], Invalid> {
    match source.and_then(|s| s.specifier.as_ref()) {
        Some(Specifier::InlineBytes(b)) => Ok(b),
        Some(Specifier::InlineString(s)) => Ok(s.as_bytes()),
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) | None => invalid(field, "must be inline"),
    }
}

fn certificates(source: Option<&DataSource>, field: &'static str) -> Result<Vec<CertificateDer<'static>>, Invalid> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes(source, field)?).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => invalid(field, "holds no certificate"),
        Err(e) => invalid(field, format!("is no PEM: {e}")),
    }
}
