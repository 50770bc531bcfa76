//! An agent's core as a case describes the world around it, served on a Unix socket.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use meshfed_api::stream::{Delta, Upsert};
use meshfed_cluster_agent::core::run::{Actor, COMMANDS_MAX, CoreMetrics, Guards, Inputs};
use meshfed_cluster_agent::core::{Core, CoreSettings};
use meshfed_cluster_agent::identity::Authority;
use meshfed_cluster_agent::index::{Index, IndexSettings, WorkloadKey, WorkloadState};
use meshfed_cluster_agent::lookup::Lookup;
use meshfed_cluster_agent::source::SourceUpdate;
use meshfed_cluster_agent::uplink::UplinkHandle;
use meshfed_cluster_agent::view::{View, ViewChange};
use meshfed_cluster_agent::xds::{XdsMetrics, XdsServer};
use meshfed_crds::{FileChange, LastGood, Scope};
use meshfed_model::export::ExportTo;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_model::member::{Member, Members};
use meshfed_model::names::{ClusterName, Namespace, NetworkName, ServiceName, SubsetName};
use meshfed_model::network::Network;
use meshfed_model::offer::{
    EndpointKey, EndpointOffer, GatewayKey, GatewayOffer, GroupKey, GroupOffer, OfferKey, OfferValue, ServiceOffer,
};
use meshfed_model::service::{ServicePort, ServiceType};
use meshfed_model::version::Version;
use meshfed_runtime::clock;
use meshfed_runtime::drain;
use meshfed_runtime::grpc::{ServeOptions, bind_unix, serve_unix};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::readiness::Readiness;
use meshfed_runtime::tasks;
use tokio::sync::mpsc;

use super::ads_client::Handed;

#[derive(Clone)]
pub(crate) struct Endpoint {
    cluster: String,
    network: String,
    locality: String,
    address: std::net::SocketAddr,
    weight: u32,
    ready: bool,
    mtls: bool,
}

pub(crate) struct Case {
    pub(crate) id: String,
    client: Vec<String>,
    tiers: Option<serde_json::Value>,
    drained: BTreeSet<String>,
    hidden: BTreeSet<String>,
    gateways: Vec<(String, String, std::net::SocketAddr)>,
    endpoints: Vec<Endpoint>,
    pub(crate) items: Vec<Handed>,
}

fn strings(case: &serde_json::Value, key: &str) -> Vec<Vec<String>> {
    let list = case[key].as_array().cloned().unwrap_or_default();
    list.iter().map(|v| v.as_str().unwrap().split(' ').map(str::to_owned).collect()).collect()
}

/// The repository's own form, see `model/tests/vectors/README.md`.
pub(crate) fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/vectors/split-horizon.json");
    let all: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    all.iter().map(case).collect()
}

fn case(v: &serde_json::Value) -> Case {
    let share = |text: &str| match text.split_once('/') {
        Some((n, d)) => n.parse::<f64>().unwrap() / d.parse::<f64>().unwrap(),
        None => text.parse().unwrap(),
    };
    Case {
        id: v["id"].as_str().unwrap().to_owned(),
        client: v["client"].as_str().unwrap().split(' ').map(str::to_owned).collect(),
        tiers: v.get("tiers").cloned(),
        drained: strings(v, "drained").concat().into_iter().collect(),
        hidden: strings(v, "hidden").concat().into_iter().collect(),
        gateways: strings(v, "gateways").iter().map(|g| (g[0].clone(), g[1].clone(), g[2].parse().unwrap())).collect(),
        endpoints: strings(v, "endpoints")
            .iter()
            .map(|e| Endpoint {
                cluster: e[0].clone(),
                network: e[1].clone(),
                locality: e[2].clone(),
                address: e[3].parse().unwrap(),
                weight: e[4].parse().unwrap(),
                ready: e[5] == "ready",
                mtls: e[6] == "mtls",
            })
            .collect(),
        items: strings(v, "items")
            .iter()
            .map(|i| Handed {
                address: i[0].parse::<std::net::SocketAddr>().unwrap().to_string(),
                via: i[1].clone(),
                tier: i[2].parse().unwrap(),
                share: share(&i[3]),
            })
            .collect(),
    }
}

impl Case {
    fn own(&self) -> &str {
        &self.client[0]
    }
    fn own_endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(|e| e.cluster == self.own())
    }
    /// Whether objects can say it: a workload without sidecar is always ready.
    pub(crate) fn is_possible(&self) -> bool {
        self.own_endpoints().all(|e| e.mtls || e.ready)
    }
    /// The networks of the client's cluster, its client's first.
    fn own_networks(&self) -> Vec<String> {
        let mut all = vec![self.client[1].clone()];
        let more = self.own_endpoints().map(|e| &e.network);
        for network in more.chain(self.gateways.iter().filter(|g| g.0 == self.own()).map(|g| &g.1)) {
            if !all.contains(network) {
                all.push(network.clone());
            }
        }
        all
    }
    /// The objects of the client's cluster.
    fn yaml(&self) -> String {
        let mut y = String::new();
        let entry = |y: &mut String,
                     name: &str,
                     addresses: &[String],
                     app: &str,
                     network: &str,
                     locality: &str,
                     port: (&str, u16),
                     weight: u32,
                     plain: bool| {
            write!(
                y,
                "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata:\n  name: {name}\n  namespace: shop\n  annotations:\n    x: y\n"
            )
            .unwrap();
            if plain {
                y.push_str("    federation.meshfed.io/sidecar: \"none\"\n");
            }
            if addresses.len() > 1 {
                writeln!(y, "    federation.meshfed.io/addresses: \"{}\"", addresses[1..].join(",")).unwrap();
            }
            writeln!(
                y,
                "spec: {{address: \"{}\", ports: {{{}: {}}}, labels: {{app: {app}}}, serviceAccount: {app}, network: {network}, locality: {locality}, weight: {weight}}}",
                addresses[0], port.0, port.1
            )
            .unwrap();
        };
        y.push_str("apiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: shop}\nspec: {selector: {app: b}, ports: [{name: http, port: 8080, targetPort: http}]}\n");
        if self.own_endpoints().next().is_some() {
            y.push_str("---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: b, namespace: shop}\n");
        }
        for (n, e) in self.own_endpoints().enumerate() {
            entry(
                &mut y,
                &format!("b-{n}"),
                &[e.address.ip().to_string()],
                "b",
                &e.network,
                &e.locality,
                ("http", e.address.port()),
                e.weight,
                !e.mtls,
            );
        }
        let families: Vec<String> = self.client[3]
            .split(',')
            .map(|f| if f == "v4" { "192.0.2.77".to_owned() } else { "2001:db8:77::77".to_owned() })
            .collect();
        entry(&mut y, "client", &families, "client", &self.client[1], &self.client[2], ("http", 8080), 1, false);
        let mut gateways: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (_, network, address) in self.gateways.iter().filter(|g| g.0 == self.own()) {
            gateways.entry(network).or_default().push(address.to_string());
        }
        for (network, addresses) in gateways {
            // The port of the addresses is written in the annotation.
            write!(
                y,
                "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: gw-{network}\n  namespace: shop\n  labels: {{topology.istio.io/network: {network}}}\n  annotations: {{federation.meshfed.io/gateway-addresses: \"{}\"}}\nspec: {{selector: {{app: gw-{network}}}, ports: [{{name: tls, port: 15443}}]}}\n",
                addresses.join(",")
            )
            .unwrap();
            entry(
                &mut y,
                &format!("gw-{network}"),
                &["192.0.2.99".to_owned()],
                &format!("gw-{network}"),
                network,
                &self.client[2],
                ("tls", 15443),
                1,
                false,
            );
        }
        if let Some(tiers) = &self.tiers {
            let policy = serde_json::json!({
                "apiVersion": "federation.meshfed.io/v1alpha1", "kind": "FailoverPolicy",
                "metadata": {"name": "b", "namespace": "shop"},
                "spec": {"targetRef": {"kind": "Service", "name": "b"}, "tiers": tiers},
            });
            writeln!(y, "---\n{policy}").unwrap();
        }
        y
    }
    fn members(&self) -> Members {
        let mut networks: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        networks.entry(self.own().to_owned()).or_default().extend(self.own_networks());
        for e in &self.endpoints {
            networks.entry(e.cluster.clone()).or_default().insert(e.network.clone());
        }
        for (cluster, network, _) in &self.gateways {
            networks.entry(cluster.clone()).or_default().insert(network.clone());
        }
        let regions: BTreeSet<String> = self
            .endpoints
            .iter()
            .map(|e| e.locality.split('/').next().unwrap().to_owned())
            .chain(["eu".to_owned()])
            .collect();
        let member = |(cluster, networks): (String, BTreeSet<String>)| {
            let name = ClusterName::new(&cluster).unwrap();
            let member = Member {
                cluster: name.clone(),
                trust_domain: domain(&cluster),
                labels: BTreeMap::new(),
                drained: self.drained.contains(&cluster),
                leaving: false,
                networks: networks.iter().map(|n| network(n)).collect(),
                gateway_cidrs: BTreeSet::new(),
                regions: regions.clone(),
            };
            (name, member)
        };
        Members { revision: 1, members: networks.into_iter().map(member).collect() }
    }
    /// What the hub would send of every other cluster: single endpoints on own networks, groups of all others.
    fn view(&self) -> View {
        let mut view = View::new(ClusterName::new(self.own()).unwrap());
        view.set_members(self.members());
        let own: Vec<String> = self.own_networks();
        let clusters: BTreeSet<&String> =
            self.gateways.iter().map(|g| &g.0).chain(self.endpoints.iter().map(|e| &e.cluster)).collect();
        for cluster in clusters.into_iter().filter(|c| *c != self.own()) {
            let mut resources = self.gateways_of(cluster);
            if !self.hidden.contains(cluster) {
                resources.extend(self.service_of(cluster, &own));
            }
            let upserts = resources.into_iter().map(|(key, value)| Upsert { key, revision: 1, value });
            let delta =
                Delta { version: Version::new(1, 1), complete: true, upserts: upserts.collect(), ..Delta::default() };
            let change = ViewChange { origin: ClusterName::new(cluster).unwrap(), delta, filter: 0 };
            view.apply(change).unwrap();
        }
        view
    }
    fn gateways_of(&self, cluster: &str) -> BTreeMap<OfferKey, OfferValue> {
        let of = self.gateways.iter().filter(|g| g.0 == cluster);
        of.map(|(_, network, at)| {
            let key = GatewayKey { network: NetworkName::new(network).unwrap(), address: at.ip(), port: at.port() };
            let offer = GatewayOffer { locality: self.client[2].parse().unwrap(), ready: true };
            (OfferKey::Gateway(key), OfferValue::Gateway(offer))
        })
        .collect()
    }
    fn service_of(&self, cluster: &str, own: &[String]) -> BTreeMap<OfferKey, OfferValue> {
        let service = ServiceName::new("shop", "b").unwrap();
        let identity: SpiffeId = format!("spiffe://{cluster}.mesh.example/ns/shop/sa/b").parse().unwrap();
        let offer = ServiceOffer {
            service_type: ServiceType::ClusterSetIP,
            ports: vec![ServicePort {
                name: "http".to_owned(),
                port: 8080,
                protocol: "TCP".to_owned(),
                app_protocol: None,
            }],
            export_to: ExportTo::Everyone,
            identities: BTreeSet::from([identity.clone()]),
            ..ServiceOffer::default()
        };
        let mut all = BTreeMap::from([(OfferKey::Service(service.clone()), OfferValue::Service(offer))]);
        for (n, e) in self.endpoints.iter().enumerate().filter(|(_, e)| e.cluster == cluster && e.mtls) {
            let network = NetworkName::new(&e.network).unwrap();
            let locality: meshfed_model::locality::Locality = e.locality.parse().unwrap();
            let subset = SubsetName::all();
            if own.contains(&e.network) {
                let key = EndpointKey {
                    service: service.clone(),
                    port: 8080,
                    subset,
                    network,
                    address: e.address.ip(),
                    target_port: e.address.port(),
                };
                let offer = EndpointOffer {
                    locality,
                    weight: e.weight,
                    ready: e.ready,
                    draining: false,
                    identity: identity.clone(),
                    workload: format!("b-{n}"),
                };
                all.insert(OfferKey::Endpoint(key), OfferValue::Endpoint(offer));
                continue;
            }
            let key = OfferKey::Group(GroupKey { service: service.clone(), port: 8080, subset, network, locality });
            let group = all.entry(key).or_insert_with(|| OfferValue::Group(GroupOffer::default()));
            let OfferValue::Group(group) = group else { panic!("a group") };
            group.total += 1;
            if e.ready {
                group.ready += 1;
                group.weight += u64::from(e.weight);
            }
        }
        all
    }
}

fn domain(cluster: &str) -> TrustDomain {
    TrustDomain::new(format!("{cluster}.mesh.example")).unwrap()
}

fn network(name: &str) -> Network {
    Network {
        name: NetworkName::new(name).unwrap(),
        cidrs: ["0.0.0.0/0", "::/0"].iter().map(|c| c.parse().unwrap()).collect(),
    }
}

/// A served case.
pub(crate) struct Served {
    trigger: drain::Trigger,
    _inputs:
        (mpsc::Sender<meshfed_cluster_agent::downlink::CoreCommand>, mpsc::Sender<SourceUpdate>, mpsc::Sender<Lookup>),
}

impl Served {
    pub(crate) async fn end(self) {
        self.trigger.drained(std::time::Duration::from_secs(10)).await;
    }
}

pub(crate) fn authority(cluster: &str) -> Authority {
    use meshfed_ca::{anchor, keys::SigningKey};
    let key = SigningKey::generate().unwrap();
    let anchor =
        anchor::self_signed(&key, &domain(cluster), clock::wall(), std::time::Duration::from_secs(86400)).unwrap();
    Authority::new(&key.to_pkcs8_pem(), anchor.to_vec(), domain(cluster)).unwrap()
}

pub(crate) async fn serve(case: &Case, socket: &Path) -> Served {
    serve_also(case, socket).await.0
}

/// Also hands out the server, for other ports.
#[allow(clippy::unused_async, reason = "spawns tasks")]
pub(crate) async fn serve_also(case: &Case, socket: &Path) -> (Served, XdsServer) {
    let own = ClusterName::new(case.own()).unwrap();
    let networks: Vec<Network> = case.own_networks().iter().map(|n| network(n)).collect();
    let mut index = Index::new(IndexSettings {
        cluster: own.clone(),
        fleet: TrustDomain::new("mesh.example").unwrap(),
        trust_domain: domain(case.own()),
        networks: networks.clone(),
        regions: vec!["eu".to_owned()],
        zones: Vec::new(),
        gateway_cidrs: BTreeSet::new(),
    });
    // Proxies say that their applications are ready; here we say it for them.
    for (n, e) in case.own_endpoints().enumerate() {
        set_ready(&mut index, &format!("b-{n}"), e.ready);
    }
    for (_, network, _) in case.gateways.iter().filter(|g| g.0 == case.own()) {
        set_ready(&mut index, &format!("gw-{network}"), true);
    }
    let mut source = LastGood::new(Scope::Cluster, None);
    let changes = source.apply(vec![FileChange::Content { path: "case.yaml".into(), bytes: case.yaml().into_bytes() }]);
    let faults: Vec<String> =
        source.errors().iter().map(|e| e.to_string()).filter(|e| !e.contains("warning")).collect();
    assert!(faults.is_empty(), "{}: {faults:?}\n{}", case.id, case.yaml());
    let settings = CoreSettings {
        cluster: own,
        trust_domain: domain(case.own()),
        networks,
        locality: meshfed_model::locality::Locality::new("eu", ""),
        agent_uid: rustix::process::getuid().as_raw(),
    };
    let mut core = Core::new(settings, index, case.view(), true, authority(case.own()));
    let objects = changes.len();
    let update = SourceUpdate { version: Version::new(1, 1), changes, objects, errors: Arc::from([]) };
    core.apply_source(update, clock::instant(), clock::wall());

    let metrics = Metrics::new();
    let (trigger, watch) = drain::channel();
    let (commands, received) = mpsc::channel(COMMANDS_MAX);
    let (downlink, from_hub) = mpsc::channel(1);
    let (updates, scanned) = mpsc::channel(1);
    let (imports, _none) =
        meshfed_cluster_agent::core::kept::ImportsFile::open(std::env::temp_dir().join("no-such-folder/imports.json"));
    let actor = Actor::new(
        core,
        UplinkHandle::new(),
        CoreMetrics::register(&metrics),
        Readiness::new(),
        Guards::default(),
        imports,
    );
    let (lookups, resolved) = mpsc::channel(1);
    let inputs = Inputs { commands: received, downlink: from_hub, source: scanned, lookups: resolved };
    tasks::spawn("core", actor.run(inputs, watch.clone()));
    let server = XdsServer::new(commands, domain(case.own()), watch.clone(), XdsMetrics::register(&metrics));
    let listener = bind_unix("--run-dir", socket).unwrap();
    tasks::spawn("xds", serve_unix(listener, server.routes(|r| r), watch, ServeOptions::default()));
    (Served { trigger, _inputs: (downlink, updates, lookups) }, server)
}

fn set_ready(index: &mut Index, name: &str, ready: bool) {
    let key = WorkloadKey { namespace: Namespace::new("shop").unwrap(), name: name.into() };
    index.set_workload_state(&key, WorkloadState { connected: ready, app_ready: ready });
}
