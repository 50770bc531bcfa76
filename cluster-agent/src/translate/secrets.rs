//! Pure. SDS: a proxy's own certificate, and the bundles it verifies peers by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain as WireDomain;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
};
use meshfed_model::identity::TrustDomain;

use super::messages::{SECRET_DEFAULT, SECRET_TRUST, any};
use super::names::inbound;
use super::resource::{Kind, Resource};

/// Anchors by trust domain, as PEM.
pub type Bundles = BTreeMap<TrustDomain, String>;

fn inline(bytes: &[u8]) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes.to_vec())), ..DataSource::default() })
}

/// `default`: the proxy's certificate chain and key, as PEM.
#[must_use]
pub fn default(chain: &str, key: &str) -> Arc<Resource> {
    let certificate = TlsCertificate {
        certificate_chain: inline(chain.as_bytes()),
        private_key: inline(key.as_bytes()),
        ..TlsCertificate::default()
    };
    let message = Secret { name: SECRET_DEFAULT.to_owned(), r#type: Some(secret::Type::TlsCertificate(certificate)) };
    Resource::encode(Kind::Secret, SECRET_DEFAULT, &message)
}

/// `trust`: every bundle that is held, each for its own trust domain only.
#[must_use]
pub fn trust(bundles: &Bundles) -> Arc<Resource> {
    validation(SECRET_TRUST, bundles.iter())
}

/// `inbound|<port>`: only the bundles of those who may call this port.
#[must_use]
pub fn inbound_trust(port: u16, bundles: &Bundles, allowed: &BTreeSet<TrustDomain>) -> Arc<Resource> {
    validation(&inbound(port), bundles.iter().filter(|(domain, _)| allowed.contains(*domain)))
}

fn validation<'a>(name: &str, bundles: impl Iterator<Item = (&'a TrustDomain, &'a String)>) -> Arc<Resource> {
    let trust_domains = bundles
        .map(|(domain, pem)| WireDomain {
            name: domain.to_string(),
            trust_bundle: inline(pem.as_bytes()),
            ..WireDomain::default()
        })
        .collect();
    let config = SpiffeCertValidatorConfig { trust_domains, ..SpiffeCertValidatorConfig::default() };
    let context = CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: "envoy.tls.cert_validator.spiffe".to_owned(),
            typed_config: Some(any("envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig", &config)),
        }),
        ..CertificateValidationContext::default()
    };
    let message = Secret { name: name.to_owned(), r#type: Some(secret::Type::ValidationContext(context)) };
    Resource::encode(Kind::Secret, name, &message)
}
