//! Pure. Names and labels of the objects that are written (contracts, Kubernetes part, 5.5).

use data_encoding::BASE32HEX_NOPAD;
use meshfed_model::names::{ClusterName, ServiceName};
use meshfed_model::service::IpFamily;

/// Who reports events.
pub const CONTROLLER: &str = "federation.meshfed.io/agent";
/// The field manager of all writes.
pub const FIELD_MANAGER: &str = "meshfed-agent";
/// Whose object it is.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`]: ours.
pub const MESHFED: &str = "meshfed";
/// The service that a slice belongs to (MCS API).
pub const SERVICE_NAME: &str = "multicluster.kubernetes.io/service-name";
/// The cluster that the endpoints of a slice are of (MCS API).
pub const SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";
/// The Service that carries the addresses of an import.
pub const DERIVED_SERVICE: &str = "multicluster.kubernetes.io/derived-service";
/// The import that a derived Service belongs to, which its hashed name does not tell.
pub const IMPORT_NAME: &str = "federation.meshfed.io/service-import";
/// Who writes a slice (Kubernetes).
pub const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The value of [`SLICE_MANAGED_BY`].
pub const SLICE_MANAGER: &str = "meshfed.io";
/// Keeps kube-proxy away from a slice.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// Characters of the hash in a derived name: 100 bits, so that no two names of a cluster share one by chance; an object
/// that is there under the name and belongs to another import is never overwritten.
const HASH_CHARACTERS: usize = 20;

fn hash(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let mut encoded = BASE32HEX_NOPAD.encode(digest.as_ref());
    encoded.make_ascii_lowercase();
    encoded.truncate(HASH_CHARACTERS);
    encoded
}

/// The Service that carries the addresses of an import.
#[must_use]
pub fn derived_service(import: &ServiceName) -> String {
    format!("meshfed-{}", hash(&format!("{}/{}", import.namespace, import.name())))
}

/// The import that a Service of this namespace and name carries the addresses of, by its label and annotation; none: it is
/// no derived Service, whatever else it says. This is the only rule: what it names is written and repaired, is never a
/// source and cannot be exported, and everything else is somebody's own and is left to them.
#[must_use]
pub fn import_of(
    (namespace, name): (&str, &str),
    managed_by: Option<&str>,
    annotation: Option<&str>,
) -> Option<ServiceName> {
    let import = ServiceName::new(namespace, annotation.filter(|_| managed_by == Some(MESHFED))?).ok()?;
    (derived_service(&import) == name).then_some(import)
}

/// The slice of one import, source cluster and family.
#[must_use]
pub fn slice(import: &ServiceName, cluster: &ClusterName, family: IpFamily) -> String {
    let family = match family {
        IpFamily::IPv4 => "ipv4",
        IpFamily::IPv6 => "ipv6",
    };
    format!("{}-{cluster}-{family}", derived_service(import))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(namespace: &str, name: &str) -> ServiceName {
        ServiceName::new(namespace, name).unwrap()
    }

    /// The hash was computed with another program: `printf %s shop/b | openssl dgst -sha256 -binary | basenc
    /// --base32hex | tr A-Z a-z | cut -c 1-20`.
    ///
    /// Mutations seen to fail: `HASH_CHARACTERS` of 6; `/` left out of what is hashed.
    #[test]
    fn a_derived_name_follows_from_namespace_and_name() {
        assert_eq!(derived_service(&name("shop", "b")), "meshfed-fpb10cdl9jeo0624lg99");
        assert_ne!(derived_service(&name("shop", "b")), derived_service(&name("sho", "pb")));
        let cluster = ClusterName::new("c".repeat(63)).unwrap();
        let long = slice(&name("shop", "b"), &cluster, IpFamily::IPv4);
        assert!(long.len() <= 253 && long.ends_with("-ipv4"), "{long}");
        assert_ne!(long, slice(&name("shop", "b"), &cluster, IpFamily::IPv6));
    }

    /// One word that is missing or another, and it is somebody's own.
    ///
    /// Mutations seen to fail: the name not compared; the label not looked at.
    #[test]
    fn a_derived_service_has_label_annotation_and_name() {
        let of = |name, label, annotation| import_of(("shop", name), label, annotation);
        let (ours, b) = ("meshfed-fpb10cdl9jeo0624lg99", Some("b"));
        assert_eq!(of(ours, Some(MESHFED), b), Some(name("shop", "b")));
        for (at, label, annotation) in [
            (ours, None, b),
            (ours, Some("Helm"), b),
            (ours, Some(MESHFED), None),
            (ours, Some(MESHFED), Some("c")),
            (ours, Some(MESHFED), Some("")),
            ("bank", Some(MESHFED), b),
            ("meshfed-fpb10cdl9jeo0624lg98", Some(MESHFED), b),
        ] {
            assert_eq!(of(at, label, annotation), None, "{at} {label:?} {annotation:?}");
        }
        assert_eq!(import_of(("bank", ours), Some(MESHFED), b), None, "of another namespace");
    }

    /// No two of 200,000 names share one (CR9).
    ///
    /// Mutation seen to fail: `HASH_CHARACTERS` of 6.
    #[test]
    fn derived_names_do_not_collide() {
        let all = (0..200_000).map(|n| derived_service(&name("shop", &format!("s{n}"))));
        assert_eq!(all.collect::<std::collections::BTreeSet<_>>().len(), 200_000);
    }
}
