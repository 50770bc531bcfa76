//! What the components of meshfed say to each other: protocol buffers, HTTP API types, and the border to `model`.

/// Generated from `proto/`.
#[allow(
    missing_docs,
    unreachable_pub,
    unnameable_types,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::unused_async,
    clippy::use_self,
    clippy::wildcard_enum_match_arm,
    reason = "generated code"
)]
pub mod proto {
    /// Agents and the hub.
    pub mod federation {
        tonic::include_proto!("meshfed.federation.v1");
    }
    /// The bundled proxy and its agent, beside ADS.
    pub mod workload {
        tonic::include_proto!("meshfed.workload.v1");
    }
    /// The SPIFFE Workload API; its proto has no package.
    pub mod spiffe {
        tonic::include_proto!("_");
    }
    /// Envoy's, under the module paths that the generated code expects.
    pub mod envoy {
        pub mod service {
            pub mod discovery {
                pub mod v3 {
                    tonic::include_proto!("envoy.service.discovery.v3");
                }
            }
            pub mod secret {
                pub mod v3 {
                    tonic::include_proto!("envoy.service.secret.v3");
                }
            }
        }
    }
}

pub mod border;
pub mod stream;

pub mod http;
pub mod xds;
