//! Pure. What a cluster's token allows its objects to say: networks, addresses, regions, zones (`contracts.md` 1.3).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use meshfed_model::names::{Namespace, NetworkName};
use meshfed_model::network::{Cidr, Network, address_allowed};

use crate::error::{Code, ObjectError};
use crate::object::{Body, Object, ServiceObject, WorkloadObject};

/// The field that names the network of a gateway, or of a pod.
const NETWORK_LABEL: &str = "metadata.labels.topology.istio.io/network";
/// The name of a gateway's port.
pub const GATEWAY_PORT: &str = "tls";

/// The ranges and names of a cluster's token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Its networks; the first is the default.
    pub networks: Vec<Network>,
    /// Its regions.
    pub regions: Vec<String>,
    /// Its zones; none: any zone of its regions.
    pub zones: Vec<String>,
    /// Ranges of its gateways; empty: those of the network.
    pub gateway_cidrs: BTreeSet<Cidr>,
    /// The only namespace whose Services are gateways: that of the release, on Kubernetes, where whoever may write Services
    /// in some namespace would else have the traffic of all others led to himself. None: a directory, whose files are its
    /// operator's.
    pub gateways_in: Option<Namespace>,
}

/// Why an address may not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefused {
    /// It is of a class that must be named in a range to be allowed, or is never allowed.
    #[error("{address} is {class}")]
    Class {
        /// The address.
        address: IpAddr,
        /// Its class, in words.
        class: &'static str,
    },
    /// It lies in none of the ranges.
    #[error("{address} lies outside {}", ranges.join(", "))]
    Outside {
        /// The address.
        address: IpAddr,
        /// The ranges.
        ranges: Vec<String>,
    },
}

/// The class of an address that nobody may offer without a range that names it.
#[must_use]
pub fn special_class(address: IpAddr) -> Option<&'static str> {
    // What clouds answer their metadata service on.
    const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    let found = match address {
        IpAddr::V4(a) => [
            (a.is_unspecified(), "the unspecified address"),
            (a.is_loopback(), "a loopback address"),
            (a.octets() == [169, 254, 169, 254], "the metadata address of clouds"),
            (a.is_link_local(), "a link-local address"),
            (a.is_multicast(), "a multicast address"),
            (a.is_broadcast() || a.octets().first().is_some_and(|o| *o == 0 || *o >= 240), "a reserved address"),
            (false, ""),
        ],
        IpAddr::V6(a) => [
            (a.is_unspecified(), "the unspecified address"),
            (a.is_loopback(), "a loopback address"),
            (a == METADATA_V6, "the metadata address of clouds"),
            (a.is_unicast_link_local(), "a link-local address"),
            (a.is_multicast(), "a multicast address"),
            (a.to_ipv4_mapped().is_some(), "an IPv4 address dressed as IPv6"),
            (a.to_ipv4().is_some(), "an IPv4-compatible IPv6 address"),
        ],
    };
    found.into_iter().find(|(is, _)| *is).map(|(_, class)| class)
}

/// Whether an address may be used within the ranges; without ranges, whether it is none of the special ones.
///
/// # Errors
/// [`AddressRefused`].
pub fn check_address<'a>(
    address: IpAddr,
    ranges: impl IntoIterator<Item = &'a Cidr> + Clone,
) -> Result<(), AddressRefused> {
    let class = special_class(address);
    let mut named = ranges.clone().into_iter().peekable();
    match class {
        // A range that is named is allowed, but nothing makes these dialable.
        Some(class) if !address_allowed(address) || named.peek().is_none() => {
            Err(AddressRefused::Class { address, class })
        }
        _ if named.peek().is_none() || named.any(|c| c.contains(address)) => Ok(()),
        _ => {
            let ranges = ranges.into_iter().map(ToString::to_string).collect();
            Err(AddressRefused::Outside { address, ranges })
        }
    }
}

impl Bounds {
    /// Takes from a Service what makes it a gateway where it may be none, and says so; it stays a Service like any other.
    /// Before [`Self::check`]: what is no gateway is not judged as one.
    #[must_use]
    pub fn disown(&self, object: &mut Object) -> Option<ObjectError> {
        let namespace = self.gateways_in.as_ref()?;
        let Body::Service(service) = &object.body else { return None };
        if !is_gateway(service) || service.name.namespace == *namespace {
            return None;
        }
        let message = format!(
            "the Service has the label and the port tls of an east-west gateway, and is none: gateways are Services of \
             namespace {namespace} alone"
        );
        let remedy = format!("to have a gateway, make the Service in namespace {namespace}; else take the label away");
        let warning = object.fault(Code::NoGateway, NETWORK_LABEL, message).remedy(remedy);
        if let Body::Service(service) = &mut object.body {
            service.gateway_network = None;
            service.gateway_addresses.clear();
            service.load_balancer_hosts.clear();
        }
        Some(warning)
    }

    /// All that an object says and the token does not allow.
    #[must_use]
    pub fn check(&self, object: &Object) -> Vec<ObjectError> {
        match &object.body {
            Body::WorkloadEntry(workload) => self.check_workload(object, workload),
            Body::Service(service) if is_gateway(service) => self.check_gateway(object, service),
            Body::Service(_)
            | Body::Namespace(_)
            | Body::ServiceExport(_)
            | Body::ExportPolicy(_)
            | Body::FailoverPolicy(_)
            | Body::EndpointSlice(_)
            | Body::Node(_)
            | Body::PeerAuthentication(_)
            | Body::Mesh(_) => Vec::new(),
            Body::Pod(pod) => match self.network(pod.network.as_ref()) {
                Some(_) => Vec::new(),
                None => {
                    vec![self.network_error(object, NETWORK_LABEL, pod.network.as_ref())]
                }
            },
        }
    }

    /// What a cluster that has joined does to get what its token does not name: a member is bound by the token of its join.
    fn anew(&self, flags: &str) -> String {
        if self.gateways_in.is_some() {
            // A member of Kubernetes has no data directory that anybody could name.
            format!(
                "leave and join with another token: meshfed token create --cluster NAME … {flags} at the hub, then here \
                 meshfed leave --kube and meshfed join HUB --token-file FILE --kube"
            )
        } else {
            format!("join again: meshfed token create --replace … {flags}, then meshfed join --replace --ca-from E")
        }
    }

    fn network(&self, name: Option<&NetworkName>) -> Option<&Network> {
        match name {
            None => self.networks.first(),
            Some(name) => self.networks.iter().find(|n| n.name == *name),
        }
    }

    fn network_error(&self, object: &Object, field: &str, name: Option<&NetworkName>) -> ObjectError {
        let names: Vec<&str> = self.networks.iter().map(|n| n.name.as_str()).collect();
        let name = name.map_or("", NetworkName::as_str);
        object
            .fault(Code::NotAllowed, field, format!("the network '{name}' is not one of the cluster's token"))
            .remedy(format!("its networks: {}; for another one, {}", names.join(", "), self.anew("--network NET=CIDR")))
    }

    fn check_workload(&self, object: &Object, workload: &WorkloadObject) -> Vec<ObjectError> {
        let mut errors = Vec::new();
        match self.network(workload.network.as_ref()) {
            None => errors.push(self.network_error(object, "spec.network", workload.network.as_ref())),
            Some(network) => {
                for (i, address) in workload.addresses.iter().enumerate() {
                    let field =
                        if i == 0 { "spec.address" } else { "metadata.annotations.federation.meshfed.io/addresses" };
                    if let Err(refused) = check_address(*address, &network.cidrs) {
                        errors.push(self.address_error(object, field, &refused, "--network", network.name.as_str()));
                    }
                }
            }
        }
        if let Some(locality) = &workload.locality {
            let refuse = |what: &str, name: &str, allowed: &[String]| {
                object
                    .fault(
                        Code::NotAllowed,
                        "spec.locality",
                        format!("the {what} '{name}' is not one of the cluster's token"),
                    )
                    .remedy(format!(
                        "its {what}s: {}; for another one, {}",
                        if allowed.is_empty() { "<none>".to_owned() } else { allowed.join(", ") },
                        self.anew(&format!("--{what}"))
                    ))
            };
            if !self.regions.iter().any(|r| **r == *locality.region) {
                errors.push(refuse("region", &locality.region, &self.regions));
            } else if !self.zones.is_empty()
                && !locality.zone.is_empty()
                && !self.zones.iter().any(|z| **z == *locality.zone)
            {
                errors.push(refuse("zone", &locality.zone, &self.zones));
            }
        }
        errors
    }

    fn check_gateway(&self, object: &Object, service: &ServiceObject) -> Vec<ObjectError> {
        let network = service.gateway_network.as_ref();
        let Some(network) = self.network(network) else {
            return vec![self.network_error(object, NETWORK_LABEL, network)];
        };
        let (ranges, flag) = if self.gateway_cidrs.is_empty() {
            (&network.cidrs, NO_GATEWAY_RANGES)
        } else {
            (&self.gateway_cidrs, "--gateway-cidr")
        };
        let mut errors = Vec::new();
        for (field, address) in declared_gateway_ips(service) {
            if let Err(refused) = check_address(address, ranges) {
                errors.push(self.address_error(object, field, &refused, flag, network.name.as_str()));
            }
        }
        errors
    }

    fn address_error(
        &self,
        object: &Object,
        field: &str,
        refused: &AddressRefused,
        flag: &str,
        network: &str,
    ) -> ObjectError {
        let remedy = match flag {
            "--network" => {
                let more = self.anew(&format!("--network {network}=CIDR"));
                format!("use an address of the network '{network}'; for another range, {more}")
            }
            _ if flag == NO_GATEWAY_RANGES => {
                let more = self.anew("--gateway-cidr CIDR");
                format!(
                    "use an address of the network '{network}', which has no gateway ranges of its own; for some, {more}"
                )
            }
            _ => format!("use an address of the gateway ranges; for another one, {}", self.anew("--gateway-cidr CIDR")),
        };
        object.fault(Code::NotAllowed, field, format!("the address {refused}")).remedy(remedy)
    }
}

/// The ranges of a gateway are those of its network.
const NO_GATEWAY_RANGES: &str = "no --gateway-cidr";

/// Whether a service declares an east-west gateway: the network label, and a port `tls`.
#[must_use]
pub fn is_gateway(service: &ServiceObject) -> bool {
    service.gateway_network.is_some() && service.ports.iter().any(|p| p.port.name == GATEWAY_PORT)
}

/// The addresses of a gateway service, from the first place that has some, with the field they stand in.
fn declared_gateway_ips(service: &ServiceObject) -> Vec<(&'static str, IpAddr)> {
    if !service.gateway_addresses.is_empty() {
        let field = "metadata.annotations.federation.meshfed.io/gateway-addresses";
        service.gateway_addresses.iter().map(|a| (field, a.ip())).collect()
    } else if !service.external_ips.is_empty() {
        service.external_ips.iter().map(|a| ("spec.externalIPs", *a)).collect()
    } else {
        service.load_balancer_ips.iter().map(|a| ("status.loadBalancer.ingress", *a)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Scope;
    use crate::read::read_object;

    fn bounds(gateways_in: Option<&str>) -> Bounds {
        let network =
            |name: &str| Network { name: name.parse().unwrap(), cidrs: ["10.0.0.0/8".parse().unwrap()].into() };
        let gateways_in = gateways_in.map(|namespace| namespace.parse().unwrap());
        Bounds { networks: vec![network("net-east")], gateways_in, ..Bounds::default() }
    }

    fn service(
        namespace: &str,
        network: &str,
        addresses: &str,
        bounds: &Bounds,
    ) -> (Option<ServiceObject>, Vec<ObjectError>) {
        let object = serde_json::json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "gw", "namespace": namespace, "labels": {"topology.istio.io/network": network},
                "annotations": {"federation.meshfed.io/gateway-addresses": addresses}},
            "spec": {"selector": {"app": "gw"}, "ports": [{"name": "tls", "port": 15443}]}});
        let found = read_object(&"f".into(), object, Scope::Member, Some(bounds)).unwrap();
        let object = found.declared.into_values().next().and_then(|declared| declared.object);
        let service = object.and_then(|object| {
            let Body::Service(service) = &object.body else { return None };
            Some((**service).clone())
        });
        (service, found.errors)
    }

    /// On Kubernetes a gateway is a Service of the release's namespace: whoever may write Services elsewhere makes none, and
    /// hears so. His Service stays what it else is, also where a gateway of that kind would be refused.
    ///
    /// Mutations seen to fail: `service.name.namespace == *namespace` answered `true`; `disown` not asked by
    /// `read::object`.
    #[test]
    fn a_gateway_is_a_service_of_the_releases_namespace() {
        let on_kubernetes = bounds(Some("meshfed-system"));
        for (network, addresses) in [("net-east", "10.0.0.1:15443"), ("net-none", "1.2.3.4:15443")] {
            let (evil, errors) = service("evil", network, addresses, &on_kubernetes);
            let evil = evil.unwrap();
            assert!(!is_gateway(&evil) && evil.gateway_addresses.is_empty() && evil.ports.len() == 1);
            let [warning] = errors.as_slice() else { panic!("{errors:#?}") };
            assert_eq!((warning.code, warning.is_error()), (Code::NoGateway, false));
            assert!(warning.to_string().contains("make the Service in namespace meshfed-system"), "{warning}");
        }
        let (ours, errors) = service("meshfed-system", "net-east", "10.0.0.1:15443", &on_kubernetes);
        assert!(is_gateway(&ours.unwrap()) && errors.is_empty(), "{errors:#?}");
        let (anywhere, errors) = service("shop", "net-east", "10.0.0.1:15443", &bounds(None));
        assert!(is_gateway(&anywhere.unwrap()) && errors.is_empty(), "{errors:#?}");
    }

    /// What is to be done about an address that the token does not allow is told in the words of who has to do it.
    ///
    /// Mutation seen to fail: `anew` that knows data directories alone.
    #[test]
    fn a_remedy_is_one_that_its_reader_can_follow() {
        let remedy = |namespace: Option<&str>| {
            let (_, errors) = service("meshfed-system", "net-east", "1.2.3.4:15443", &bounds(namespace));
            errors.first().unwrap().remedy.clone().unwrap()
        };
        let (on_kubernetes, elsewhere) = (remedy(Some("meshfed-system")), remedy(None));
        assert!(on_kubernetes.contains("--gateway-cidr") && on_kubernetes.contains("leave --kube"), "{on_kubernetes}");
        assert!(!on_kubernetes.contains("--replace") && elsewhere.contains("--replace --ca-from E"), "{elsewhere}");
    }

    /// Mutation seen to fail: `|| named.peek().is_none()` left out of `check_address`.
    #[test]
    fn special_addresses_need_a_range() {
        for bad in [
            "127.0.0.1",
            "169.254.1.1",
            "169.254.169.254",
            "224.0.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "240.0.0.1",
            "0.1.2.3",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
        ] {
            assert!(check_address(bad.parse().unwrap(), &[]).is_err(), "{bad}");
        }
        for good in ["10.0.0.1", "192.168.1.1", "8.8.8.8", "fd00::1", "2001:db8::1"] {
            assert!(check_address(good.parse().unwrap(), &[]).is_ok(), "{good}");
        }
        let loopback: Cidr = "127.1.0.0/16".parse().unwrap();
        assert!(check_address("127.1.0.9".parse().unwrap(), &[loopback]).is_ok());
        let outside = check_address("127.2.0.9".parse().unwrap(), &[loopback]).unwrap_err();
        assert_eq!(outside.to_string(), "127.2.0.9 lies outside 127.1.0.0/16");
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(check_address("224.0.0.1".parse().unwrap(), &[all]).is_err());
        assert!(check_address("fd00::1".parse().unwrap(), &[all]).is_err());
    }
}
