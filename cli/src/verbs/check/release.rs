//! Edge. The checks of what a release is made of besides its Deployments: names, addresses, and who leads.

use std::time::Duration;

use futures::future::join_all;
use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::ListParams;
use meshfed_cluster_agent::membership::connect::Place;
use meshfed_runtime::clock;

use super::{Found, id};
use crate::exit::Failure;
use crate::place::refused;
use crate::verbs::dns;

/// ConfigMaps that CoreDNS reads: what most installations have, and what some let their users write.
const CORE_DNS: [&str; 2] = ["coredns", "coredns-custom"];
/// Where they are.
const SYSTEM: &str = "kube-system";
/// Addresses of gateways, `IP:PORT` and `,` between.
const ADDRESSES: &str = "federation.meshfed.io/gateway-addresses";
/// The Lease of the agents of a release.
const LEASE: &str = "meshfed-agent";
/// How long ago it may have been renewed by the clock of this machine, which may be as far away as `MF0013` lets it: agents
/// renew it every two seconds.
const RENEWED_MAX: SignedDuration = SignedDuration::from_secs(125);
/// Whether a namespace's pods are injected.
const INJECTION: &str = "federation.meshfed.io/injection";
/// Namespaces that are named.
const NAMESPACES_MAX: u32 = 100;
/// Addresses that are dialled.
const ADDRESSES_MAX: usize = 64;
/// How long an address may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Whether the cluster's own DNS hands imported names to the agent. It is what pods without a sidecar resolve by; those
/// with one do without. None: there is no agent to hand them to.
pub(super) async fn cluster_dns(place: &Place, namespace: &str) -> Result<Option<Found>, Failure> {
    let services: Api<Service> = Api::namespaced(place.client.clone(), namespace);
    let agent = services.get_opt("meshfed-agent").await.map_err(|error| refused(place, &error))?;
    let Some(agent) = agent else { return Ok(None) };
    let addresses = dns::cluster_ips(&agent);
    let wanted = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let remedy = format!(
        "add what 'meshfed dns corefile -n {namespace}' prints to the Corefile; pods with a sidecar do without it"
    );
    let maps: Api<ConfigMap> = Api::namespaced(place.client.clone(), SYSTEM);
    let mut texts = Vec::new();
    for name in CORE_DNS {
        match maps.get_opt(name).await {
            Ok(map) => texts.extend(map.and_then(|map| map.data).into_iter().flat_map(|data| data.into_values())),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                let message = format!("not looked at: ConfigMap {name} of {SYSTEM} may not be read by whom we are");
                return Ok(Some(Found::warn(id::DNS, message, format!("allow it, or leave out {}", id::DNS.0))));
            }
            Err(error) => return Err(refused(place, &error)),
        }
    }
    let domain = dns::DOMAIN;
    if texts.is_empty() {
        let message = format!("{SYSTEM} has no ConfigMap coredns, so its DNS is not known");
        let remedy = format!("see to it that it forwards {domain} to {wanted}; pods with a sidecar do without it");
        return Ok(Some(Found::warn(id::DNS, message, remedy)));
    }
    let targets: Vec<String> = texts.iter().filter_map(|text| dns::forwards(text, domain)).flatten().collect();
    let is_ours = |target: &String| {
        let target = target.trim_start_matches("dns://");
        let host = target.strip_suffix(":53").unwrap_or(target).trim_matches(['[', ']']);
        host.parse().is_ok_and(|ip| addresses.contains(&ip))
    };
    let blocks: usize = texts.iter().map(|text| dns::blocks(text, domain)).sum();
    let replace = format!(
        "put what 'meshfed dns corefile -n {namespace}' prints in the place of every server block of {domain} in the \
         Corefile: with two of them CoreDNS does not start"
    );
    Ok(Some(if blocks > 1 {
        let message = format!("CoreDNS has {blocks} server blocks of {domain}, and does not start again with them");
        Found::fail(id::DNS, message, replace)
    } else if targets.iter().any(is_ours) {
        Found::pass(id::DNS, format!("CoreDNS forwards {domain} to the agent at {wanted}"))
    } else if targets.is_empty() {
        Found::warn(id::DNS, format!("CoreDNS does not know {domain}"), remedy)
    } else {
        let message = format!("CoreDNS forwards {domain} to {}, and the agent is at {wanted}", targets.join(" "));
        Found::warn(id::DNS, message, replace)
    }))
}

/// Whether a namespace's label for injection has a value that means nothing: no webhook is asked about its pods, which
/// start without a sidecar. None: namespaces may not be listed by whom we are.
pub(super) async fn injection_labels(place: &Place) -> Result<Option<Found>, Failure> {
    let namespaces: Api<Namespace> = Api::all(place.client.clone());
    let odd = format!("{INJECTION},{INJECTION} notin (enabled,disabled)");
    let listed = match namespaces.list(&ListParams::default().labels(&odd).limit(NAMESPACES_MAX)).await {
        Ok(list) => list.items,
        Err(kube::Error::Api(status)) if status.code == 403 => return Ok(None),
        Err(error) => return Err(refused(place, &error)),
    };
    let said = |n: &Namespace| {
        let value = n.metadata.labels.as_ref()?.get(INJECTION)?;
        Some(format!("{} ({value})", n.metadata.name.as_deref().unwrap_or_default()))
    };
    let odd: Vec<String> = listed.iter().filter_map(said).collect();
    Ok(Some(if odd.is_empty() {
        Found::pass(id::LABELS, format!("every label {INJECTION} of a namespace is enabled or disabled"))
    } else {
        let message = format!(
            "pods start without a sidecar, for {INJECTION} is neither enabled nor disabled: {}",
            odd.join(", ")
        );
        Found::fail(id::LABELS, message, format!("kubectl label --overwrite namespace NAME {INJECTION}=enabled"))
    }))
}

/// Whether the addresses at which other clusters are told to find this one's gateways accept connections.
/// `joined`: whether gateways have anything to listen for.
pub(super) async fn gateway_addresses(place: &Place, namespace: &str, joined: bool) -> Result<Found, Failure> {
    const SET: &str = "set gateway.addresses of helm/meshfed-cluster to addresses that other clusters reach";
    let services: Api<Service> = Api::namespaced(place.client.clone(), namespace);
    let gateway = services.get_opt("meshfed-eastwest").await.map_err(|error| refused(place, &error))?;
    let addresses = gateway.as_ref().map(announced).unwrap_or_default();
    if addresses.is_empty() {
        let message = "Service meshfed-eastwest has no address outside of the cluster: nothing is offered to others";
        return Ok(Found::fail(id::ADDRESSES, message, format!("{SET}, or wait for its load balancer")));
    }
    let dialled = join_all(addresses.iter().take(ADDRESSES_MAX).map(|address| async move {
        match tokio::time::timeout(CONNECT, tokio::net::TcpStream::connect(address.as_str())).await {
            Ok(Ok(_connection)) => None,
            Ok(Err(error)) => Some(format!("{address}: {error}")),
            Err(_late) => Some(format!("{address}: no answer within {CONNECT:?}")),
        }
    }));
    let lost: Vec<String> = dialled.await.into_iter().flatten().collect();
    Ok(if lost.is_empty() {
        Found::pass(id::ADDRESSES, format!("gateways accept connections from here at {}", addresses.join(", ")))
    } else {
        let message = format!("gateways do not accept connections from here: {}", lost.join("; "));
        let skip = id::ADDRESSES.0;
        let remedy = match joined {
            true => format!(
                "wait some seconds after a join; else {SET}, open the port, or leave this out where we cannot reach them: --skip \
                 {skip}"
            ),
            false => format!("mend {} first: gateways listen once the cluster has joined", id::MEMBERSHIP.0),
        };
        Found::fail(id::ADDRESSES, message, remedy)
    })
}

/// Where others are told to find gateways: the first that there is of annotation, external IPs and load balancer
/// (`contracts.md` 1.9).
fn announced(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    let port = spec.and_then(|s| s.ports.as_ref()?.iter().find(|p| p.name.as_deref() == Some("tls"))).map(|p| p.port);
    let at = |host: &String| {
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        Some(format!("{host}:{}", port?))
    };
    if let Some(list) = service.metadata.annotations.as_ref().and_then(|a| a.get(ADDRESSES)) {
        return list.split(',').map(|address| address.trim().to_owned()).filter(|a| !a.is_empty()).collect();
    }
    if let Some(external) = spec.and_then(|s| s.external_ips.as_ref()).filter(|ips| !ips.is_empty()) {
        return external.iter().filter_map(at).collect();
    }
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    let ingress = balancer.into_iter().flatten();
    ingress.filter_map(|i| i.ip.as_ref().or(i.hostname.as_ref())).filter_map(at).collect()
}

/// Whether an agent stands behind what Membership says: its conditions stay as the last agent left them. `None`: there is
/// no Lease, or it may not be read by whom we are.
pub(super) async fn agent_lease(place: &Place, namespace: &str) -> Result<Option<Found>, Failure> {
    let leases: Api<Lease> = Api::namespaced(place.client.clone(), namespace);
    let lease = match leases.get_opt(LEASE).await {
        Ok(lease) => lease,
        Err(kube::Error::Api(status)) if status.code == 403 => return Ok(None),
        Err(error) => return Err(refused(place, &error)),
    };
    let Some(spec) = lease.and_then(|lease| lease.spec) else { return Ok(None) };
    let held = spec.holder_identity.filter(|holder| !holder.is_empty());
    let age = spec.renew_time.map(|MicroTime(at)| clock::timestamp().duration_since(at));
    let since = age.map_or_else(String::new, |age| format!(", for {} s", age.as_secs().max(0)));
    Ok(Some(match (held, age) {
        (Some(holder), Some(age)) if age <= RENEWED_MAX => {
            Found::pass(id::LEASE, format!("Lease {LEASE} is renewed by {holder}"))
        }
        (holder, _) => {
            let who = holder.map_or_else(|| "is held by nobody".to_owned(), |h| format!("is not renewed by {h}"));
            let message = format!(
                "Lease {LEASE} {who}{since}: no agent leads, and what Membership says is the last word of one that is gone"
            );
            let remedy = format!(
                "kubectl -n {namespace} logs deploy/meshfed-agent; where the release is gone for good, \
                 kubectl -n {namespace} delete membership --all"
            );
            Found::fail(id::LEASE, message, remedy)
        }
    }))
}
