//! Pure. Services, and the endpoints that the workloads they select are to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use meshfed_api::border::{EXPORTED_BYTES, EXPORTED_MAX, IDENTITIES_MAX, SELECTORS_MAX};
use meshfed_crds::{Code, Kind, Labels, Object, ObjectError, ServiceObject, TargetPort, bounds};
use meshfed_model::export::ExportTo;
use meshfed_model::names::{ServiceName, SubsetName};
use meshfed_model::offer::Exported;
use meshfed_model::service::ServicePort;
use meshfed_model::sni::{CLUSTERSET_DOMAIN, SNI_MAX, sni};

use super::slices::{Listed, ServiceSlices};
use super::{Dirty, Endpoint, Index, IndexSettings, LocalService, Workload, WorkloadKey, object_key};

/// How many workloads a message names.
const NAMED_MAX: usize = 3;

impl LocalService {
    fn new(object: &ServiceObject) -> Self {
        Self {
            name: object.name.clone(),
            service_type: object.service_type,
            addresses: object.cluster_ips.clone(),
            ports: object.ports.iter().map(|p| p.port.clone()).collect(),
            traits: object.traits.clone(),
            external: object.external,
            export_to: None,
            exported: Exported::default(),
            endpoints: BTreeMap::new(),
            gateway: bounds::is_gateway(object),
            identities: BTreeMap::new(),
            selector: object.selector.clone(),
            targets: object.ports.iter().map(|p| p.target.clone()).collect(),
            dangling: BTreeSet::new(),
        }
    }

    /// The number that a port of the service has on a workload: the workload's port of the target's name, else its
    /// port of the service port's name, else the number.
    fn target_on(&self, index: usize, workload: &Workload) -> Option<u16> {
        let port = self.ports.get(index)?;
        let by_name = if port.name.is_empty() { None } else { workload.ports.get(&port.name) };
        match self.targets.get(index)? {
            TargetPort::Name(name) => workload.ports.get(name).or(by_name),
            TargetPort::Number(number) => Some(by_name.unwrap_or(*number)),
            TargetPort::Same => Some(by_name.unwrap_or(port.port)),
        }
    }

    /// Whether its identities are more than one offer may name.
    pub(super) fn has_too_many_identities(&self) -> bool {
        self.identities.len() > IDENTITIES_MAX
    }

    /// Makes the endpoints of one workload what it is now. Tells whether they changed, and whether the set of missing
    /// targets did.
    pub(super) fn set_workload(
        &mut self,
        key: &WorkloadKey,
        behind: &Behind<'_>,
        settings: &IndexSettings,
    ) -> (bool, bool) {
        let mut new = Vec::new();
        let mut dangling = false;
        for index in 0..self.ports.len() {
            if !self.ports.get(index).is_some_and(ServicePort::is_served) {
                continue;
            }
            let target = match behind {
                Behind::Selected(workload) => Some(self.target_on(index, workload)),
                Behind::Nothing | Behind::Listed(..) => None,
            };
            let missing = (index, key.clone());
            dangling |=
                if target == Some(None) { self.dangling.insert(missing) } else { self.dangling.remove(&missing) };
            let Some(port) = self.ports.get(index) else { continue };
            new.extend(match behind {
                Behind::Selected(workload) => {
                    target.flatten().map(|number| endpoint(port.port, number, &workload.addresses, workload))
                }
                Behind::Listed(listed, workload) => endpoint_listed(port, listed, *workload, settings),
                Behind::Nothing => None,
            });
        }
        let old = self.endpoints.get(key);
        if old.map_or(new.is_empty(), |old| **old == *new) {
            return (false, dangling);
        }
        if let Some(gone) = self.endpoints.remove(key)
            && let Some(identity) = gone.first().filter(|e| e.mtls).and_then(|e| e.identity.as_ref())
            && let Some(count) = self.identities.get_mut(identity)
        {
            *count -= 1;
            if *count == 0 {
                self.identities.remove(identity);
            }
        }
        if let Some(first) = new.first() {
            if let Some(identity) = first.identity.as_ref().filter(|_| first.mtls) {
                *self.identities.entry(identity.clone()).or_default() += 1;
            }
            self.endpoints.insert(key.clone(), new.into());
        }
        (true, dangling)
    }
}

/// What makes a workload an endpoint of a service.
#[derive(Debug)]
pub(super) enum Behind<'a> {
    /// Nothing does.
    Nothing,
    /// The selector.
    Selected(&'a Workload),
    /// The slices, and the workload if one is known.
    Listed(&'a [Listed], Option<&'a Workload>),
}

impl<'a> Behind<'a> {
    /// The one rule by which no endpoint counts twice: where slices list a workload, they say what it is. What they do not
    /// list is selected, but no pod where the service has slices at all.
    pub(super) fn of(
        service: &LocalService,
        key: &WorkloadKey,
        workload: Option<&'a Workload>,
        slices: Option<&'a ServiceSlices>,
    ) -> Self {
        if let Some(listed) = slices.and_then(|s| s.of(key)) {
            return Self::Listed(listed, workload);
        }
        let selects = |w: &Workload| match &w.pod {
            Some(pod) => slices.is_none() && !pod.terminating && !w.addresses.is_empty(),
            None => true,
        };
        match workload.filter(|w| w.labels.selected_by(&service.selector) && selects(w)) {
            Some(workload) => Self::Selected(workload),
            None => Self::Nothing,
        }
    }
}

fn endpoint(port: u16, target_port: u16, addresses: &[IpAddr], workload: &Workload) -> Endpoint {
    Endpoint {
        port,
        target_port,
        addresses: addresses.into(),
        network: workload.network.clone(),
        locality: workload.locality.clone(),
        weight: workload.weight,
        ready: workload.ready(),
        mtls: workload.sidecar,
        offered: workload.sidecar && !workload.outside,
        identity: Some(workload.identity.clone()),
    }
}

/// A port of a workload as its slices list it. An endpoint that ends is not listed any more, unless the slice says that
/// it is ready all the same.
fn endpoint_listed(
    port: &ServicePort,
    listed: &[Listed],
    workload: Option<&Workload>,
    settings: &IndexSettings,
) -> Option<Endpoint> {
    let (mut number, mut ready, mut pod) = (None, false, false);
    let is_spared = workload.and_then(|w| w.pod.as_ref()).is_some_and(|p| p.spared && !p.terminating);
    let mut addresses = Vec::new();
    for (ports, endpoint) in listed.iter().filter_map(Listed::get) {
        let here = ports.get(&port.name);
        // The slices of both families give one number; where they do not, the first by name holds.
        if here.is_none() || number.is_some_and(|n| Some(n) != here) || (endpoint.terminating && !endpoint.ready) {
            continue;
        }
        number = here;
        ready |= endpoint.ready || is_spared;
        pod |= endpoint.pod.is_some();
        // Whose address it is not cannot speak for the workload.
        let its = |a: &IpAddr| workload.is_none_or(|w| w.addresses.contains(a));
        for address in endpoint.addresses.iter().filter(|a| its(a)) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
    }
    let number = number.filter(|_| !addresses.is_empty())?;
    if let Some(workload) = workload {
        // A slice does not know a WorkloadEntry's proxy.
        let ready = ready && (workload.pod.is_some() || workload.ready());
        return Some(Endpoint { ready, ..endpoint(port.port, number, &addresses, workload) });
    }
    // Nobody dials a pod before it is known whether it speaks mTLS.
    let network = settings.networks.first().filter(|_| !pod)?;
    Some(Endpoint {
        port: port.port,
        target_port: number,
        addresses: addresses.into(),
        network: network.name.clone(),
        locality: settings.default_locality(),
        weight: 1,
        ready,
        mtls: false,
        offered: false,
        identity: None,
    })
}

impl Index {
    pub(super) fn put_service(&mut self, object: &Arc<Object>, new: &ServiceObject, dirty: &mut Dirty) {
        let name = &new.name;
        let before = self.service_objects.insert(name.clone(), Arc::clone(object));
        let same = before.as_ref().is_some_and(|b| b.body == object.body);
        if !same {
            self.rebuild_service(new, dirty);
        }
        self.check_service(name, dirty);
        if before.is_none() {
            // An export may have waited for it.
            self.check_export(name, dirty);
        }
    }

    fn rebuild_service(&mut self, object: &ServiceObject, dirty: &mut Dirty) {
        let name = &object.name;
        let mut service = LocalService::new(object);
        (service.export_to, service.exported) = (self.export_to(name), self.exported(name));
        let slices = self.slices.of(name);
        let listed = slices.into_iter().flat_map(ServiceSlices::keys);
        let selected: BTreeSet<WorkloadKey> =
            self.selected_by(name, &service.selector).into_iter().chain(listed.cloned()).collect();
        for key in &selected {
            let behind = Behind::of(&service, key, self.workload_by_key(key), slices);
            service.set_workload(key, &behind, &self.settings);
        }
        let old = self.services.get(name);
        if let Some(old) = old {
            self.unanchor(&old.selector.clone(), name);
        }
        // Those that are listed are behind it as long as they are.
        let was_behind: BTreeSet<WorkloadKey> =
            self.services.get(name).map(|old| self.selected_by(name, &old.selector)).unwrap_or_default();
        for key in was_behind.symmetric_difference(&selected) {
            let Some(workload) = self.workloads.get_mut(key) else { continue };
            if selected.contains(key) {
                workload.services.insert(name.clone());
            } else {
                workload.services.remove(name);
            }
            dirty.workloads.insert(key.clone());
        }
        if let Some((key, value)) = service.selector.iter().next() {
            self.selectors.insert(&name.namespace, key, value, name);
        }
        let was_gateway = self.services.insert(name.clone(), service).is_some_and(|old| old.gateway);
        dirty.services.insert(name.clone());
        if was_gateway || bounds::is_gateway(object) {
            self.refresh_gateway(name, dirty);
        }
    }

    pub(super) fn remove_service(&mut self, name: &ServiceName, dirty: &mut Dirty) {
        self.service_objects.remove(name);
        let Some(old) = self.services.remove(name) else { return };
        self.unanchor(&old.selector, name);
        let listed = |key: &WorkloadKey| self.slices.of(name).is_some_and(|s| s.of(key).is_some());
        let (stay, go): (Vec<_>, Vec<_>) = self.selected_by(name, &old.selector).into_iter().partition(listed);
        for key in &go {
            if let Some(workload) = self.workloads.get_mut(key) {
                workload.services.remove(name);
            }
        }
        dirty.workloads.extend(go.into_iter().chain(stay));
        dirty.workloads.extend(old.endpoints.keys().cloned());
        dirty.services.insert(name.clone());
        self.set_errors(object_key(Kind::Service, name), Vec::new(), dirty);
        self.refresh_gateway(name, dirty);
        self.check_export(name, dirty);
    }

    /// Why no port of a service has an endpoint, or one of them has none, with what to do.
    pub(crate) fn why_no_endpoint(&self, service: &LocalService) -> String {
        let pairs: Vec<String> = service.selector.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        let (selector, namespace) = (pairs.join(", "), &service.name.namespace);
        if pairs.is_empty() {
            return "it has no selector, so it selects no WorkloadEntry".to_owned();
        }
        if self.selected_by(&service.name, &service.selector).is_empty() {
            return format!(
                "its selector {{{selector}}} selects no WorkloadEntry; give one of namespace {namespace} these labels"
            );
        }
        format!("no WorkloadEntry that its selector {{{selector}}} selects has this port")
    }

    /// Services are found by the first pair of their selector.
    fn unanchor(&mut self, selector: &Labels, name: &ServiceName) {
        if let Some((key, value)) = selector.iter().next() {
            self.selectors.remove(&name.namespace, key, value, name);
        }
    }

    /// The workloads that a service's selector selects.
    pub(super) fn selected_by_service(&self, name: &ServiceName) -> BTreeSet<WorkloadKey> {
        self.services.get(name).map(|service| self.selected_by(name, &service.selector)).unwrap_or_default()
    }

    fn selected_by(&self, name: &ServiceName, selector: &Labels) -> BTreeSet<WorkloadKey> {
        let candidates = self.labels.with_rarest(&name.namespace, selector).into_iter().flatten();
        let selected =
            candidates.filter(|key| self.workloads.get(*key).is_some_and(|w| w.labels.selected_by(selector)));
        selected.cloned().collect()
    }

    /// Finds what is wrong with a service in the company of the other objects.
    pub(super) fn check_service(&mut self, name: &ServiceName, dirty: &mut Dirty) {
        let Some((object, service)) = self.service_objects.get(name).zip(self.services.get(name)) else { return };
        let mut errors: Vec<ObjectError> = Vec::new();
        for (index, target) in service.targets.iter().enumerate() {
            let TargetPort::Name(target) = target else { continue };
            let missing = service.dangling.iter().filter(|(i, _)| *i == index).map(|(_, key)| &*key.name);
            let missing: Vec<&str> = missing.collect();
            if missing.is_empty() {
                continue;
            }
            let named = missing.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
            let more = missing.len().saturating_sub(NAMED_MAX);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let message =
                format!("no port '{target}' on WorkloadEntry {named}{more}: they are no endpoints of this port");
            let error = object.fault(Code::DanglingReference, &format!("spec.ports[{index}].targetPort"), message);
            errors.push(
                error.remedy(format!("add '{target}' to the spec.ports of the WorkloadEntry, or name another port")),
            );
        }
        if let Some(gateway) = self.gateways.get(name).filter(|_| service.gateway) {
            errors.extend(self.check_hosts(object, gateway));
            errors.extend(self.check_room(object, gateway));
            errors.extend(self.check_shared_addresses(object, gateway));
        }
        if service.gateway && self.gateways.get(name).is_some_and(|g| g.addresses.is_empty() && g.hosts.is_empty()) {
            let field = "metadata.annotations.federation.meshfed.io/gateway-addresses";
            let error = object.fault(Code::InvalidValue, field, "the gateway declares no address");
            errors.push(
                error.remedy(
                    "name its addresses in the annotation, in spec.externalIPs or in the load balancer's status",
                ),
            );
        }
        if self.exports.contains_key(name) {
            for (index, port) in service.ports.iter().enumerate().filter(|(_, port)| !port.is_served()) {
                let message =
                    format!("{} is not served in this version; the port is there and has no endpoints", port.protocol);
                errors.push(object.fault(Code::NoEffectYet, &format!("spec.ports[{index}].protocol"), message));
            }
        }
        if self.exports.contains_key(name)
            && let Some(why) = unofferable(service)
        {
            let message = format!("{}: the service is not exported", why.message);
            errors.push(object.fault(why.code, why.field, message).remedy(why.remedy));
        }
        self.set_errors(object_key(Kind::Service, name), errors, dirty);
    }
}

/// More than a server name has beside the names of service and namespace.
const SNI_AROUND: usize = 64;

/// Why a service cannot be exported at all.
pub(super) struct Unofferable {
    code: Code,
    field: &'static str,
    pub(super) message: String,
    pub(super) remedy: &'static str,
}

/// Finds what no hub would take of a service: one such resource would end the cluster's session, again and again.
pub(super) fn unofferable(service: &LocalService) -> Option<Unofferable> {
    let long = |port: u16| sni(&service.name, port, &SubsetName::all(), CLUSTERSET_DOMAIN).len() > SNI_MAX;
    // Asked at each change of an endpoint: most names are too short for it to be worth writing them.
    let is_short = service.name.name().len() + service.name.namespace.as_str().len() + SNI_AROUND <= SNI_MAX;
    if let Some(port) = service.ports.iter().map(|p| p.port).find(|port| !is_short && long(*port)) {
        let message = format!("the server name of port {port} passes {SNI_MAX} characters");
        return Some(Unofferable {
            code: Code::TooLarge,
            field: "metadata.name",
            message,
            remedy: "give it a shorter name",
        });
    }
    if service.has_too_many_identities() {
        return Some(Unofferable {
            code: Code::TooLarge,
            field: "spec.selector",
            message: format!("the workloads behind it have more than {IDENTITIES_MAX} service accounts"),
            remedy: "let them share service accounts, or split the service",
        });
    }
    if service.external {
        let message = "it is of type ExternalName, which stands for a name and has no endpoints".to_owned();
        return Some(Unofferable {
            code: Code::InvalidValue,
            field: "spec.type",
            message,
            remedy: "export a Service of another type, or take the ServiceExport away",
        });
    }
    let (pairs, bytes) = service.exported.size();
    if pairs > EXPORTED_MAX || bytes > EXPORTED_BYTES {
        return Some(Unofferable {
            code: Code::TooLarge,
            field: "metadata.name",
            message: format!(
                "its export adds {pairs} labels and annotations of {bytes} bytes, at most {EXPORTED_MAX} of \
                 {EXPORTED_BYTES} bytes are allowed"
            ),
            remedy: "export fewer or shorter ones",
        });
    }
    if let Some(ExportTo::Selected(selectors)) = &service.export_to
        && (selectors.len() > SELECTORS_MAX
            || selectors.iter().any(|s| s.clusters.len().max(s.labels.len()) > SELECTORS_MAX))
    {
        return Some(Unofferable {
            code: Code::TooLarge,
            field: "metadata.name",
            message: format!("more than {SELECTORS_MAX} ExportPolicies, or names or labels of one, say where it goes"),
            remedy: "name clusters with '*', or by a label",
        });
    }
    None
}
