//! Pure. From configured to usable: transports with their TLS, and clusters with their endpoints.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use meshfed_runtime::tls::{IdentityStore, TrustStore};

use super::convert::{Assignment, ClusterSpec, EndpointSource, EndpointSpec, TransportSpec};
use crate::state::{
    Cluster, ClusterCounters, Endpoint, EndpointCounters, EndpointSet, TlsTransport, Transport, TransportMatch,
    name_parts,
};

/// The transports of a cluster, built once and kept while their configuration stays.
#[derive(Debug, Clone)]
pub(super) struct Transports {
    matches: Arc<[TransportMatch]>,
    default: Arc<Transport>,
}

pub(super) fn transports(
    spec: &ClusterSpec,
    identity: &Arc<IdentityStore>,
    trust: impl Fn(&str) -> Option<Arc<TrustStore>>,
) -> Result<Transports, rustls::Error> {
    let one = |t: &TransportSpec| -> Result<Arc<Transport>, rustls::Error> {
        Ok(Arc::new(match t {
            TransportSpec::Plaintext => Transport::Plaintext,
            TransportSpec::Tls { sni, alpn, identities, trust: secret, .. } => Transport::Tls(TlsTransport::new(
                sni.clone(),
                alpn.clone(),
                Arc::new(identities.clone()),
                Arc::clone(identity),
                // A store that is empty trusts nobody.
                trust(secret).unwrap_or_default(),
            )?),
        }))
    };
    let mut matches = Vec::with_capacity(spec.matches.len());
    for (name, wanted, transport) in &spec.matches {
        matches.push(TransportMatch {
            name: name.as_str().into(),
            matches: wanted.clone(),
            transport: one(transport)?,
        });
    }
    Ok(Transports { matches: matches.into(), default: one(&spec.default_transport)? })
}

pub(super) fn cluster(
    name: &Arc<str>,
    spec: &ClusterSpec,
    built: &Transports,
    assignment: &Assignment,
    old: Option<&Cluster>,
    counters: Arc<ClusterCounters>,
) -> Cluster {
    let (port, host) = name_parts(name);
    let mut cluster = Cluster {
        name: Arc::clone(name),
        host: old.map_or_else(|| host.into(), |o| Arc::clone(&o.host)),
        port,
        connect_timeout: spec.connect_timeout,
        sticky: spec.sticky,
        circuit_breakers: spec.circuit_breakers,
        source: spec.source.clone(),
        original_destination: spec.endpoints == EndpointSource::OriginalDestination,
        transports: Arc::clone(&built.matches),
        default_transport: Arc::clone(&built.default),
        endpoints: Arc::default(),
        counters,
    };
    cluster.endpoints = Arc::new(endpoints(&cluster, assignment, old));
    cluster
}

/// The endpoint set of an assignment. What did not change of an endpoint stays the same object.
fn endpoints(cluster: &Cluster, assignment: &Assignment, old: Option<&Cluster>) -> EndpointSet {
    let known: HashMap<SocketAddr, &Arc<Endpoint>> =
        old.into_iter().flat_map(|c| c.endpoints.iter()).map(|e| (e.address, e)).collect();
    let mut names = Names(HashMap::new());
    let mut priorities: BTreeMap<u32, Vec<Arc<Endpoint>>> = BTreeMap::new();
    for spec in assignment.endpoints.iter().filter(|e| e.usable) {
        let transport = cluster.transport_for(&spec.matches);
        let before = known.get(&spec.address).copied();
        let endpoint = match before.filter(|e| unchanged(e, spec, transport)) {
            Some(same) => Arc::clone(same),
            None => Arc::new(Endpoint {
                address: spec.address,
                weight: spec.weight,
                cluster: names.get(&spec.cluster),
                network: names.get(&spec.network),
                service: names.get(&spec.service),
                locality: names.get(&spec.locality),
                via_gateway: spec.via_gateway,
                transport: Arc::clone(transport),
                counters: before.map_or_else(|| Arc::new(EndpointCounters::default()), |e| Arc::clone(&e.counters)),
            }),
        };
        priorities.entry(spec.priority).or_default().push(endpoint);
    }
    EndpointSet::new(priorities, assignment.endpoints.len())
}

fn unchanged(e: &Endpoint, spec: &EndpointSpec, transport: &Arc<Transport>) -> bool {
    e.weight == spec.weight
        && e.via_gateway == spec.via_gateway
        && Arc::ptr_eq(&e.transport, transport)
        && e.cluster.as_ref() == spec.cluster
        && e.network.as_ref() == spec.network
        && e.service.as_ref() == spec.service
        && e.locality.as_ref() == spec.locality
}

/// One copy of each name within an assignment: endpoints repeat them.
struct Names<'a>(HashMap<&'a str, Arc<str>>);

impl<'a> Names<'a> {
    fn get(&mut self, name: &'a str) -> Arc<str> {
        Arc::clone(self.0.entry(name).or_insert_with(|| name.into()))
    }
}
