//! Pure. Host names of gateways (`contracts.md` 1.9): what they resolve to is told from outside, and the last good
//! addresses stay while they do not.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use meshfed_crds::bounds::check_address;
use meshfed_crds::{Code, Object, ObjectError};
use meshfed_model::names::NetworkName;
use meshfed_model::network::Cidr;

use super::{Dirty, Index, LocalGateway};

/// Addresses of one host name that are taken; load balancers have a few per zone.
pub const ADDRESSES_MAX: usize = 16;
/// The place of host names in a Service.
const FIELD: &str = "status.loadBalancer.ingress";

/// What is known of a host name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The last good addresses, sorted.
    addresses: Vec<IpAddr>,
    /// Why it does not resolve now.
    error: Option<String>,
}

impl Index {
    /// The host names that gateways declare.
    #[must_use]
    pub fn hosts(&self) -> BTreeSet<Arc<str>> {
        self.gateways.values().flat_map(|g| g.hosts.iter().cloned()).collect()
    }

    /// What a host name resolves to, or why it does not: then what it resolved to before stays.
    pub fn set_resolved(&mut self, host: &Arc<str>, found: Result<Vec<IpAddr>, String>) -> Dirty {
        let mut dirty = Dirty::default();
        let known = self.resolved.entry(Arc::clone(host)).or_default();
        let before = known.clone();
        match found {
            Ok(mut addresses) => {
                // Resolvers turn the order round.
                addresses.sort_unstable();
                addresses.dedup();
                addresses.truncate(ADDRESSES_MAX);
                *known = Resolved { addresses, error: None };
            }
            Err(error) => known.error = Some(error),
        }
        if *known == before {
            return dirty;
        }
        let using: Vec<_> =
            self.gateways.values().filter(|g| g.hosts.contains(host)).map(|g| g.service.clone()).collect();
        for service in using {
            self.refresh_gateway(&service, &mut dirty);
            self.check_service(&service, &mut dirty);
        }
        dirty
    }

    /// Forgets what nobody declares any more: no more is known than gateways declare.
    pub(super) fn forget_hosts(&mut self) {
        let used = self.hosts();
        self.resolved.retain(|host, _| used.contains(host));
    }

    fn ranges(&self, network: &NetworkName) -> Option<&BTreeSet<Cidr>> {
        if !self.settings.gateway_cidrs.is_empty() {
            return Some(&self.settings.gateway_cidrs);
        }
        self.settings.networks.iter().find(|n| n.name == *network).map(|n| &n.cidrs)
    }

    /// The addresses of a host that the cluster's token allows for gateways of a network.
    pub(super) fn addresses_of(&self, host: &str, network: &NetworkName) -> impl Iterator<Item = IpAddr> {
        let known = self.resolved.get(host).into_iter().flat_map(|r| r.addresses.iter().copied());
        let ranges = self.ranges(network);
        known.filter(move |a| ranges.is_some_and(|ranges| check_address(*a, ranges).is_ok()))
    }

    /// What is wrong with the host names of a gateway.
    pub(super) fn check_hosts(&self, object: &Object, gateway: &LocalGateway) -> Vec<ObjectError> {
        let mut errors = Vec::new();
        for host in &gateway.hosts {
            let Some(known) = self.resolved.get(host) else { continue };
            if let Some(error) = &known.error {
                let stays = if known.addresses.is_empty() { "" } else { "; what it resolved to before stays" };
                let message = format!("{host} does not resolve: {error}{stays}");
                let fault = object.fault(Code::DanglingReference, FIELD, message);
                errors.push(fault.remedy("mend the name or the resolver of the agent's host; it is tried again"));
            }
            let Some(ranges) = self.ranges(&gateway.network) else { continue };
            for refused in known.addresses.iter().filter_map(|a| check_address(*a, ranges).err()) {
                let fault = object.fault(Code::NotAllowed, FIELD, format!("{host}: {refused}"));
                errors.push(fault.remedy("name the range with --gateway-cidr (or --network) in a new token"));
            }
        }
        errors
    }
}
