//! Edge. What one endpoint change costs in an agent, with few and with many services: allocations, bytes allocated,
//! and bytes sent up to the hub and down to a sidecar that subscribes to every service. Prints a Markdown table.
//! The change is a new weight in one WorkloadEntry's file; reading and parsing that file counts.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark tool"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use meshfed_api::stream::History;
use meshfed_ca::{anchor, keys::SigningKey};
use meshfed_cluster_agent::core::command::{Effects, Outbound};
use meshfed_cluster_agent::core::{Core, CoreSettings};
use meshfed_cluster_agent::identity::{Authority, Peer};
use meshfed_cluster_agent::index::{Index, IndexSettings, WorkloadKey, WorkloadState};
use meshfed_cluster_agent::source::SourceUpdate;
use meshfed_cluster_agent::translate::Kind;
use meshfed_cluster_agent::translate::node::Node;
use meshfed_cluster_agent::view::View;
use meshfed_cluster_agent::xds::stream::{Protocol, Request};
use meshfed_crds::{FileChange, LastGood, Scope};
use meshfed_model::identity::TrustDomain;
use meshfed_model::locality::Locality;
use meshfed_model::names::{ClusterName, Namespace, NetworkName};
use meshfed_model::network::Network;
use meshfed_model::version::Version;
use prost::Message as _;
use prost_types::{Struct, Value, value};

/// Endpoints of each service.
const ENDPOINTS: usize = 100;
/// Changes that are measured; the median is printed.
const ROUNDS: usize = 21;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static ALLOCATED: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call is passed on to the system allocator as it is; only counters are added.
#[expect(unsafe_code, reason = "a counting allocator is the measure")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        ALLOCATED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn entry(service: usize, endpoint: usize, weight: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: s{service}-{endpoint}, namespace: shop}}
spec: {{address: 10.{}.{}.{}, ports: {{http: 8080}}, labels: {{app: s{service}}}, serviceAccount: s{service}, network: net, locality: eu/eu-1, weight: {weight}}}
---
",
        service / 200,
        service % 200,
        endpoint + 1
    )
}

fn file(path: String, text: String) -> FileChange {
    FileChange::Content { path: path.into(), bytes: text.into_bytes() }
}

struct World {
    source: LastGood,
    core: Core,
    history: History,
    revision: u64,
    sent_down: u64,
    sent_up: u64,
}

fn text(value: &str) -> Value {
    Value { kind: Some(value::Kind::StringValue(value.to_owned())) }
}

fn node() -> Node {
    let ours = Struct { fields: BTreeMap::from([("workload".to_owned(), text("shop/client"))]) };
    let ours = Value { kind: Some(value::Kind::StructValue(ours)) };
    let metadata = Struct { fields: BTreeMap::from([("meshfed".to_owned(), ours)]) };
    Node::parse("sidecar~10.250.0.1~client.shop~shop.svc.cluster.local", "meshfed", Some(&metadata)).expect("a node")
}

impl World {
    fn new(services: usize) -> Self {
        let own = ClusterName::new("east").expect("a name");
        let domain = TrustDomain::new("east.mesh.example").expect("a domain");
        let networks = vec![Network {
            name: NetworkName::new("net").expect("a name"),
            cidrs: BTreeSet::from(["10.0.0.0/8".parse().expect("a range")]),
        }];
        let key = SigningKey::generate().expect("a key");
        let now = SystemTime::now();
        let anchor = anchor::self_signed(&key, &domain, now, Duration::from_secs(86_400)).expect("an anchor");
        let authority = Authority::new(&key.to_pkcs8_pem(), anchor.to_vec(), domain.clone()).expect("an authority");
        let mut index = Index::new(IndexSettings {
            cluster: own.clone(),
            fleet: TrustDomain::new("mesh.example").expect("a domain"),
            trust_domain: domain.clone(),
            networks: networks.clone(),
            regions: vec!["eu".to_owned()],
            zones: vec!["eu-1".to_owned()],
            gateway_cidrs: BTreeSet::new(),
        });
        for service in 0..services {
            for endpoint in 0..ENDPOINTS {
                let name = format!("s{service}-{endpoint}");
                let key = WorkloadKey { namespace: Namespace::new("shop").expect("a name"), name: name.into() };
                let _nothing_yet = index.set_workload_state(&key, WorkloadState { connected: true, app_ready: true });
            }
        }
        let settings = CoreSettings {
            cluster: own.clone(),
            trust_domain: domain,
            networks,
            locality: Locality::new("eu", "eu-1"),
            agent_uid: rustix::process::getuid().as_raw(),
        };
        let core = Core::new(settings, index, View::new(own), true, authority);
        let source = LastGood::new(Scope::Cluster, None);
        let mut world = Self { source, core, history: History::new(1), revision: 0, sent_down: 0, sent_up: 0 };
        let mut files = vec![file("client.yaml".to_owned(), client())];
        for service in 0..services {
            let mut text = meshfed_e2e::objects::service("shop", &format!("s{service}"), "http", 8080);
            text.push_str(&meshfed_e2e::objects::export("shop", &format!("s{service}")));
            files.push(file(format!("s{service}.yaml"), text));
            files.extend((0..ENDPOINTS).map(|e| file(format!("s{service}-{e}.yaml"), entry(service, e, 1))));
        }
        world.change(files);
        world.subscribe(services);
        world
    }

    fn subscribe(&mut self, services: usize) {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let uid = rustix::process::getuid().as_raw();
        self.core.open(1, Peer::Unix { uid }, node(), Protocol::Delta, false);
        self.core.request(1, Kind::Cluster, Request::default(), now, wall);
        let names = |domain: &str| {
            (0..services).map(move |s| format!("outbound|8080||s{s}.shop.svc.{domain}")).collect::<Vec<_>>()
        };
        let subscribe = [names("cluster.local"), names("clusterset.local")].concat();
        self.core.request(1, Kind::Endpoint, Request { subscribe, ..Request::default() }, now, wall);
        self.take();
    }

    fn change(&mut self, files: Vec<FileChange>) {
        let changes = self.source.apply(files);
        self.revision += 1;
        let version = Version::new(1, self.revision);
        let update = SourceUpdate { version, changes, objects: self.source.len(), errors: Arc::from([]) };
        self.core.apply_source(update, Instant::now(), SystemTime::now());
        self.take();
    }

    /// Takes what is to be sent, counts its bytes and acknowledges it, until nothing is left: a first answer comes in
    /// several parts.
    fn take(&mut self) {
        while self.take_once() {}
    }

    fn take_once(&mut self) -> bool {
        let Effects { outbound, offers, .. } = self.core.take_effects();
        let mut nonces = Vec::new();
        for (_, outbound) in outbound {
            match outbound {
                Outbound::Response(response) => {
                    self.sent_down += response.resources.iter().map(|r| r.body.len() as u64).sum::<u64>();
                    nonces.push((response.kind, response.nonce));
                }
                Outbound::End(end) => panic!("the stream ended: {end:?}"),
            }
        }
        for (service, resources) in offers {
            if let Some(delta) = self.history.replace_service(&service, resources) {
                let message: meshfed_api::proto::federation::Delta = (&delta).into();
                self.sent_up += message.encoded_len() as u64;
            }
        }
        let any = !nonces.is_empty();
        for (kind, nonce) in nonces {
            self.core.request(1, kind, Request { nonce, ..Request::default() }, Instant::now(), SystemTime::now());
        }
        any
    }
}

fn client() -> String {
    "apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: client, namespace: shop}
spec: {address: 10.250.0.1, ports: {http: 8080}, labels: {app: client}, serviceAccount: client, network: net, locality: eu/eu-1}
"
    .to_owned()
}

fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn main() {
    meshfed_runtime::tls::install_provider();
    let mut out = String::from(
        "| services | endpoints each | allocations | bytes allocated | bytes up to the hub | bytes down to one sidecar |\n|---|---|---|---|---|---|\n",
    );
    for services in [10, 1000] {
        let mut world = World::new(services);
        let (mut allocations, mut allocated, mut up, mut down) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let weight = 2 + u32::try_from(round).expect("small");
            let files = vec![file("s3-7.yaml".to_owned(), entry(3, 7, weight))];
            let before = (
                ALLOCATIONS.load(Ordering::Relaxed),
                ALLOCATED.load(Ordering::Relaxed),
                world.sent_up,
                world.sent_down,
            );
            world.change(files);
            allocations.push(ALLOCATIONS.load(Ordering::Relaxed) - before.0);
            allocated.push(ALLOCATED.load(Ordering::Relaxed) - before.1);
            up.push(world.sent_up - before.2);
            down.push(world.sent_down - before.3);
        }
        assert!(median(&mut down) > 0, "the sidecar was sent nothing");
        let _infallible = writeln!(
            out,
            "| {services} | {ENDPOINTS} | {} | {} | {} | {} |",
            median(&mut allocations),
            median(&mut allocated),
            median(&mut up),
            median(&mut down)
        );
    }
    println!("{out}\nMedians of {ROUNDS} changes. The sidecar subscribes to all services under both domains.");
}
