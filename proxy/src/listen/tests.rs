use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshfed_model::names::WorkloadRef;
use meshfed_runtime::drain;
use meshfed_runtime::listen::{Addresses, bind_tcp};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::tls::{IdentityStore, TrustStore};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::*;
use crate::state::{
    Cell, Cluster, ClusterCell, Endpoint, EndpointCounters, EndpointSet, ListenerKind, SniRoute, SniTable, Transport,
};
use crate::telemetry::{AccessLogTarget, TelemetrySettings};

/// Workers with listeners, as the process has them.
pub(crate) struct Rig {
    pub(crate) listeners: Listeners,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) gateway: Arc<GatewayMetrics>,
    trigger: drain::Trigger,
}

/// How long the workers of a rig take their drain to be.
const DRAIN: Duration = Duration::from_secs(2);

impl Rig {
    pub(crate) fn new(limits: Limits) -> Self {
        meshfed_runtime::tls::install_provider();
        let metrics = Arc::new(Metrics::new());
        let gateway = Arc::new(GatewayMetrics::register(&metrics));
        let workload: WorkloadRef = "shop/a".parse().unwrap();
        let settings = TelemetrySettings { access_log: AccessLogTarget::Off, workload };
        let shared = Shared {
            state: StateHandle::new(Arc::new(IdentityStore::empty()), Arc::new(TrustStore::new())),
            telemetry: Telemetry::new(&metrics, settings).unwrap(),
            gateway: Arc::clone(&gateway),
            limits: Arc::new(limits),
            drain_timeout: DRAIN,
        };
        let (trigger, watch) = drain::channel();
        let (listeners, _ends) = Listeners::start(2, &shared, &watch).unwrap();
        Self { listeners, metrics, gateway, trigger }
    }
    pub(crate) fn addresses(&self, key: &'static str) -> Vec<SocketAddr> {
        let mut addresses = Addresses::new();
        self.listeners.addresses(&mut addresses);
        addresses.0.remove(key).unwrap_or_default()
    }
    pub(crate) async fn drained(self, deadline: Duration) -> bool {
        drop(self.listeners);
        self.trigger.drained(deadline).await
    }
}

/// A plaintext cluster of these addresses, all of one priority.
pub(crate) fn cluster(name: &str, addresses: &[SocketAddr]) -> Arc<ClusterCell> {
    let transport = Arc::new(Transport::Plaintext);
    let endpoint = |address: &SocketAddr| {
        Arc::new(Endpoint {
            address: *address,
            weight: 1,
            cluster: "east".into(),
            network: "net-east".into(),
            service: "shop/b".into(),
            locality: "".into(),
            via_gateway: false,
            transport: Arc::clone(&transport),
            counters: Arc::new(EndpointCounters::default()),
        })
    };
    let endpoints = EndpointSet::new(BTreeMap::from([(0, addresses.iter().map(endpoint).collect())]), addresses.len());
    let cell = Arc::new(Cell::new(name));
    cell.set(Some(Arc::new(Cluster {
        name: name.into(),
        host: "b.shop.svc.clusterset.local".into(),
        port: 8080,
        connect_timeout: Duration::from_secs(5),
        sticky: false,
        circuit_breakers: crate::state::CircuitBreakers::default(),
        source: Vec::new(),
        original_destination: false,
        transports: Arc::new([]),
        default_transport: Arc::clone(&transport),
        endpoints: Arc::new(endpoints),
        counters: Arc::default(),
    })));
    cell
}

/// A gateway listener for one name.
pub(crate) fn gateway(
    addresses: &[SocketAddr],
    sni: &str,
    to: &Arc<ClusterCell>,
) -> (Arc<ListenerCell>, Arc<Listener>) {
    let route = Arc::new(SniRoute::new(sni.into(), Arc::clone(to)));
    let table = SniTable { routes: [(sni.into(), route)].into_iter().collect() };
    let listener = Listener {
        name: "gateway|test".into(),
        addresses: addresses.to_vec(),
        bound: true,
        kind: ListenerKind::Gateway { sni: Arc::new(table) },
    };
    (Arc::new(Cell::new("gateway|test")), Arc::new(listener))
}

pub(crate) fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Waits for a condition that other threads bring about.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Mutation seen to fail: `if !errors.is_empty()` of `install` moved behind `cell.set`.
#[tokio::test]
async fn an_address_in_use_is_named_and_changes_nothing() {
    let mut rig = Rig::new(Limits::new(100));
    let to = cluster("b", &[]);
    let (cell, first) = gateway(&[any()], "b.local", &to);
    rig.listeners.install(&cell, &first).unwrap();
    let served = rig.addresses("gateway");
    let holder = bind_tcp("--test", any()).unwrap();
    let busy = holder.local_addr().unwrap();
    let (_, second) = gateway(&[any(), busy], "c.local", &to);
    let errors = rig.listeners.install(&cell, &second).unwrap_err();
    assert_eq!(errors.len(), 1);
    let text = meshfed_runtime::telemetry::chain(&errors[0]);
    assert!(text.contains(&busy.to_string()) && text.contains("--gateway-listen"), "{text}");
    assert_eq!(rig.addresses("gateway"), served);
    let held = cell.get().unwrap();
    assert!(Arc::ptr_eq(&held, &first), "the version before stays in use");
    assert!(TcpStream::connect(served[0]).await.is_ok());
}

/// Mutation seen to fail: `held.contains_key(a)` of `install` replaced by `false`.
#[tokio::test]
async fn addresses_that_stay_keep_their_sockets_and_others_are_given_up() {
    let mut rig = Rig::new(Limits::new(100));
    let to = cluster("b", &[]);
    let (cell, first) = gateway(&[any()], "b.local", &to);
    rig.listeners.install(&cell, &first).unwrap();
    let served = rig.addresses("gateway");
    let free = bind_tcp("--test", any()).unwrap().local_addr().unwrap();
    let (_, second) = gateway(&[any(), free], "b.local", &to);
    rig.listeners.install(&cell, &second).unwrap();
    let both = rig.addresses("gateway");
    assert!(both.contains(&served[0]) && both.contains(&free) && both.len() == 2, "{both:?}");
    let (_, third) = gateway(&[free], "b.local", &to);
    rig.listeners.install(&cell, &third).unwrap();
    assert_eq!(rig.addresses("gateway"), [free]);
    eventually("the old socket closes", || std::net::TcpStream::connect(served[0]).is_err()).await;
    assert!(TcpStream::connect(free).await.is_ok());
    rig.listeners.remove("gateway|test");
    eventually("the last socket closes", || std::net::TcpStream::connect(free).is_err()).await;
}

/// Mutation seen to fail: `if !worker.limits.enter()` replaced by `if false`.
#[tokio::test]
async fn too_many_connections_are_closed_at_once_and_counted() {
    let mut rig = Rig::new(Limits::new(1));
    let to = cluster("b", &[]);
    let (cell, listener) = gateway(&[any()], "b.local", &to);
    rig.listeners.install(&cell, &listener).unwrap();
    let address = rig.addresses("gateway")[0];
    let _first = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    let mut third = TcpStream::connect(address).await.unwrap();
    let (mut one, mut other) = ([0; 1], [0; 1]);
    // One of the two workers may take the second before the first: at least one of them is refused.
    let (a, b) = (second.read(&mut one), third.read(&mut other));
    let _closed =
        tokio::time::timeout(Duration::from_secs(3), futures::future::select(Box::pin(a), Box::pin(b))).await.unwrap();
    assert!(rig.gateway.total(crate::passthrough::Outcome::Limit) >= 1);
    assert!(rig.metrics.encode().contains("meshfed_gateway_connections_total{result=\"refused\",reason=\"limit\"}"));
}
