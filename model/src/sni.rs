//! Pure. The server name that a mesh client sends: `outbound_.<port>_.<subset>_.<service>.<namespace>.svc.<domain>`.

use crate::names::{ServiceName, SubsetName};

/// What every SNI of a mesh client begins with.
pub const MESH_SNI_PREFIX: &str = "outbound_";
/// The longest server name (RFC 1035), in characters.
pub const SNI_MAX: usize = 253;
/// The domain of services that several clusters may offer (MCS).
pub const CLUSTERSET_DOMAIN: &str = "clusterset.local";
/// The domain of the own cluster's services.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// The SNI (and gateway cluster name) of a service port and subset under a domain.
#[must_use]
pub fn sni(service: &ServiceName, port: u16, subset: &SubsetName, domain: &str) -> String {
    format!("{MESH_SNI_PREFIX}.{port}_.{}_.{}", subset.as_wire(), service.host(domain))
}

/// The xDS name of the outbound cluster: `outbound|<port>|<subset>|<host>`.
#[must_use]
pub fn outbound_cluster(service: &ServiceName, port: u16, subset: &SubsetName, domain: &str) -> String {
    format!("outbound|{port}|{}|{}", subset.as_wire(), service.host(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `subset.as_wire()` replaced by `subset.as_str()`.
    #[test]
    fn the_subset_of_all_is_empty() {
        let b = ServiceName::new("shop", "b").unwrap();
        assert_eq!(
            sni(&b, 8080, &SubsetName::all(), CLUSTERSET_DOMAIN),
            "outbound_.8080_._.b.shop.svc.clusterset.local"
        );
        assert_eq!(
            outbound_cluster(&b, 8080, &SubsetName::all(), CLUSTER_DOMAIN),
            "outbound|8080||b.shop.svc.cluster.local"
        );
        assert_eq!(
            outbound_cluster(&b, 8080, &SubsetName::new("v1").unwrap(), CLUSTER_DOMAIN),
            "outbound|8080|v1|b.shop.svc.cluster.local"
        );
    }
}
