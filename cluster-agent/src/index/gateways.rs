//! Pure. East-west gateways: their addresses, whose they are, and whether they may be offered (`contracts.md` 1.9).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshfed_crds::bounds::GATEWAY_PORT;
use meshfed_crds::{Body, Code, Object, ObjectError, ServiceObject};
use meshfed_model::names::ServiceName;

use super::{Dirty, GatewayAddress, GatewayListen, Index, LocalGateway, Workload, WorkloadKey};

/// The addresses that all gateways of a cluster have together: each is in what every other cluster's clients are told of
/// every service.
pub const ADDRESSES_MAX: usize = 64;

impl Index {
    /// How many addresses of a gateway are offered: those before it, by name, come first.
    pub(super) fn gateway_room(&self, name: &ServiceName) -> usize {
        let before: usize = self.gateways.range(..name.clone()).map(|(_, gateway)| gateway.addresses.len()).sum();
        ADDRESSES_MAX.saturating_sub(before)
    }

    fn declared_addresses(&self) -> usize {
        self.gateways.values().map(|gateway| gateway.addresses.len()).sum()
    }

    /// The fault of a gateway whose addresses are not all offered.
    pub(super) fn check_room(&self, object: &Object, gateway: &LocalGateway) -> Option<ObjectError> {
        let (all, room) = (gateway.addresses.len(), self.gateway_room(&gateway.service));
        let left_out = all.checked_sub(room).filter(|more| *more > 0)?;
        let message = format!(
            "the gateways of this cluster declare more than {ADDRESSES_MAX} addresses: {left_out} of the {all} of this \
             one are not offered"
        );
        let field = "metadata.annotations.federation.meshfed.io/gateway-addresses";
        let fault = object.fault(Code::TooLarge, field, message);
        Some(fault.remedy("declare fewer addresses, or take a gateway away"))
    }

    /// The fault of a gateway with an address that one before it, by name, declares, too.
    pub(super) fn check_shared_addresses(&self, object: &Object, gateway: &LocalGateway) -> Option<ObjectError> {
        let before =
            self.gateways.range(..gateway.service.clone()).filter(|(_, other)| other.network == gateway.network);
        let mut twice = before.flat_map(|(name, other)| other.addresses.iter().map(move |a| (name, a.address)));
        let (other, address) = twice.find(|(_, address)| gateway.addresses.iter().any(|a| a.address == *address))?;
        let field = "metadata.annotations.federation.meshfed.io/gateway-addresses";
        let message = format!("the address {address} is also that of gateway {other}; it is ready where either is");
        Some(object.fault(Code::Conflict, field, message).remedy("give each gateway addresses of its own"))
    }

    /// Computes a gateway anew, after a change of its service or of a workload behind it.
    pub(super) fn refresh_gateway(&mut self, name: &ServiceName, dirty: &mut Dirty) {
        let new = self.gateway_of(name);
        let old = self.gateways.get(name);
        let hosts = |gateway: Option<&LocalGateway>| gateway.map(|g| g.hosts.clone()).unwrap_or_default();
        let (changed, other_hosts) = (new.as_ref() != old, hosts(new.as_ref()) != hosts(old));
        let before = self.declared_addresses();
        match new {
            Some(gateway) => self.gateways.insert(name.clone(), gateway),
            None => self.gateways.remove(name),
        };
        dirty.gateways |= changed;
        if other_hosts {
            dirty.hosts = true;
            self.forget_hosts();
        }
        // What is said of one depends on the others: on their number, and on addresses that two have.
        let others = self.gateways.len() > usize::from(self.gateways.contains_key(name));
        if changed && (others || before.max(self.declared_addresses()) > ADDRESSES_MAX) {
            for gateway in self.gateways.keys().cloned().collect::<Vec<_>>() {
                self.check_service(&gateway, dirty);
            }
        }
    }

    fn gateway_of(&self, name: &ServiceName) -> Option<LocalGateway> {
        let service = self.services.get(name).filter(|s| s.gateway)?;
        let Body::Service(object) = &self.service_objects.get(name)?.body else { return None };
        let port = service.ports.iter().find(|p| p.name == GATEWAY_PORT)?.port;
        let on = |endpoints: &[super::Endpoint]| endpoints.iter().find(|e| e.port == port).map(|e| e.target_port);
        let workloads: BTreeMap<WorkloadKey, u16> =
            service.endpoints.iter().filter_map(|(key, all)| Some((key.clone(), on(all)?))).collect();
        let network = object.gateway_network.clone()?;
        let (mut addresses, hosts) = declared(object, port);
        for address in hosts.iter().flat_map(|host| self.addresses_of(host, &network)) {
            let address = SocketAddr::new(address, port);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Some(LocalGateway {
            service: name.clone(),
            network,
            port,
            addresses: addresses.into_iter().map(|a| self.gateway_address(a, &workloads)).collect(),
            hosts,
            workloads,
        })
    }

    fn gateway_address(&self, address: SocketAddr, behind: &BTreeMap<WorkloadKey, u16>) -> GatewayAddress {
        let workloads = || behind.keys().filter_map(|key| self.workload_by_key(key));
        let mut owners = workloads().filter(|w| w.addresses.contains(&address.ip()));
        let owner = match (owners.next(), owners.next()) {
            (Some(one), None) => Some(one),
            (None | Some(_), _) => None,
        };
        let locality = owner.or_else(|| workloads().min_by(|a, b| a.key.cmp(&b.key))).map(|w| w.locality.clone());
        GatewayAddress {
            address,
            owner: owner.map(|w| w.key.clone()),
            locality: locality.unwrap_or_else(|| self.settings.default_locality()),
            ready: owner.map_or_else(|| workloads().any(Workload::ready), Workload::ready),
        }
    }

    /// Where a gateway's proxy listens; `None`: it is behind no gateway service.
    #[must_use]
    pub fn gateway_listen(&self, key: &WorkloadKey) -> Option<GatewayListen> {
        let workload = self.workloads.get(key)?;
        let mut listen: Option<GatewayListen> = None;
        for gateway in workload.services.iter().filter_map(|name| self.gateways.get(name)) {
            let Some(port) = gateway.workloads.get(key) else { continue };
            let listen = listen.get_or_insert_with(|| GatewayListen { port: *port, ..GatewayListen::default() });
            for declared in &gateway.addresses {
                let ip = declared.address.ip();
                let others = || gateway.workloads.keys().filter(|other| *other != key);
                let taken = |ip: IpAddr| {
                    others().filter_map(|other| self.workloads.get(other)).any(|other| other.addresses.contains(&ip))
                };
                if workload.addresses.contains(&ip) {
                    listen.own.push(declared.address);
                } else if !taken(ip) {
                    listen.shared.push(declared.address);
                }
            }
        }
        listen
    }
}

/// The declared addresses, and host names that stand for more: of the first place that has some, each without port with
/// the port `tls`.
fn declared(object: &ServiceObject, port: u16) -> (Vec<SocketAddr>, Vec<Arc<str>>) {
    let at_port = |ips: &[IpAddr]| ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect::<Vec<_>>();
    if !object.gateway_addresses.is_empty() {
        (object.gateway_addresses.clone(), Vec::new())
    } else if !object.external_ips.is_empty() {
        (at_port(&object.external_ips), Vec::new())
    } else {
        (at_port(&object.load_balancer_ips), object.load_balancer_hosts.clone())
    }
}

#[cfg(test)]
mod tests {
    use meshfed_model::offer::OfferValue;

    use crate::index::tests::Setup;

    /// An address that two gateways declare is ready where either is, whatever their names, and the second says so.
    ///
    /// Mutations seen to fail: `gateway_offers` that keeps the first; `check_shared_addresses` left out of `check_service`.
    #[test]
    fn an_address_that_two_gateways_declare_is_ready_where_either_is() {
        let gateway = |name: &str, app: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: meshfed-system\n  labels: \
                 {{topology.istio.io/network: net-east}}\n  annotations: {{federation.meshfed.io/gateway-addresses: \
                 \"10.0.0.1:15443\"}}\nspec: {{selector: {{app: {app}}}, ports: [{{name: tls, port: 15443}}]}}\n"
            )
        };
        let workload = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata:\n  name: w\n  namespace: \
             meshfed-system\n  annotations: {federation.meshfed.io/sidecar: none}\nspec: {address: 10.0.0.9, serviceAccount: \
             w, labels: {app: gw}, ports: {tls: 15443}}\n";
        let ready = |s: &Setup| {
            let offers = s.index.gateway_offers();
            offers.values().map(|v| matches!(v, OfferValue::Gateway(g) if g.ready)).collect::<Vec<_>>()
        };
        let mut s = Setup::new();
        s.write("real.yaml", &gateway("real", "gw"));
        s.write("w.yaml", workload);
        assert_eq!((ready(&s), s.codes().len()), (vec![true], 0));
        s.write("aa.yaml", &gateway("aa", "nobody"));
        assert_eq!(ready(&s), [true]);
        let said: Vec<String> = s.index.errors().map(ToString::to_string).collect();
        assert!(said.len() == 1 && said[0].contains("also that of gateway meshfed-system/aa"), "{said:?}");
        s.remove("aa.yaml");
        assert_eq!((ready(&s), s.codes().len()), (vec![true], 0));
    }

    /// A cluster offers so many addresses and no more, whoever declares them; the gateway that is left out says so, and is
    /// offered once there is room.
    ///
    /// Mutations seen to fail: `take(index.gateway_room(…))` left out of `gateway_offers`; the loop over all gateways left
    /// out of `refresh_gateway`.
    #[test]
    fn the_addresses_of_all_gateways_have_a_limit() {
        let gateway = |name: &str, network: u8, count: u8| {
            let all: Vec<String> = (1..=count).map(|n| format!("10.0.{network}.{n}:15443")).collect();
            format!(
                "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: meshfed-system\n  labels: \
                 {{topology.istio.io/network: net-east}}\n  annotations: {{federation.meshfed.io/gateway-addresses: \
                 \"{}\"}}\nspec: {{selector: {{app: gw}}, ports: [{{name: tls, port: 15443}}]}}\n",
                all.join(",")
            )
        };
        let mut s = Setup::new();
        s.write("b.yaml", &gateway("b", 1, 40));
        s.write("c.yaml", &gateway("c", 2, 10));
        assert_eq!((s.index.gateway_offers().len(), s.codes().len()), (50, 0));
        s.write("a.yaml", &gateway("a", 3, 60));
        assert_eq!(s.index.gateway_offers().len(), super::ADDRESSES_MAX);
        let said: Vec<String> = s.index.errors().map(ToString::to_string).collect();
        assert!(said.len() == 2 && said[0].contains("36 of the 40") && said[1].contains("10 of the 10"), "{said:?}");
        s.remove("a.yaml");
        assert_eq!((s.index.gateway_offers().len(), s.codes().len()), (50, 0));
    }
}
