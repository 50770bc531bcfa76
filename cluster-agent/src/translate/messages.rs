//! Pure. Small Envoy messages that several resources hold.

use std::net::{IpAddr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, TransportSocket, address,
    config_source::ConfigSourceSpecifier, socket_address::PortSpecifier, transport_socket,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, TlsParameters,
    common_tls_context::ValidationContextType, tls_parameters::TlsProtocol,
};
use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};

/// The secret that holds the proxy's own certificate and key.
pub(super) const SECRET_DEFAULT: &str = "default";
/// The secret that holds all bundles.
pub(super) const SECRET_TRUST: &str = "trust";

/// `type.googleapis.com/<name>` around an encoded message.
pub(super) fn any(name: &str, message: &impl prost::Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

pub(super) const fn uint32(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) const fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

/// "Ask for it on this stream."
pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

pub(super) fn socket(address: IpAddr, port: u16) -> SocketAddress {
    SocketAddress {
        address: address.to_string(),
        port_specifier: Some(PortSpecifier::PortValue(u32::from(port))),
        ..SocketAddress::default()
    }
}

pub(super) fn address(at: SocketAddr) -> Address {
    Address { address: Some(address::Address::SocketAddress(socket(at.ip(), at.port()))) }
}

pub(super) fn sds(name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.to_owned(), sds_config: Some(ads()) }
}

/// Our own certificate, ALPN `http/1.1` on HTTP ports, and how the peer is verified.
pub(super) fn common_tls(http: bool, validation: ValidationContextType) -> CommonTlsContext {
    CommonTlsContext {
        // The mesh speaks TLS 1.3 alone; Envoy's default for clients ends at 1.2.
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..TlsParameters::default()
        }),
        tls_certificate_sds_secret_configs: vec![sds(SECRET_DEFAULT)],
        alpn_protocols: if http { vec!["http/1.1".to_owned()] } else { Vec::new() },
        validation_context_type: Some(validation),
        ..CommonTlsContext::default()
    }
}

/// A transport socket of an encoded context.
pub(super) fn transport_socket(name: &str, message_name: &str, message: &impl prost::Message) -> TransportSocket {
    TransportSocket {
        name: name.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(message_name, message))),
    }
}

/// A validation context that only matches URI names.
pub(super) type Validation = CertificateValidationContext;
