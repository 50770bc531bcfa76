use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use envoy_types::pb::google::protobuf as pb;
use futures::Stream;
use meshfed_api::proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use meshfed_api::proto::envoy::service::discovery::v3::{
    Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use meshfed_runtime::drain;
use meshfed_runtime::listen::bind_tcp;
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::state::RouteAction;

pub(crate) type Said = (mpsc::Receiver<DeltaDiscoveryRequest>, mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>);

/// An agent whose streams the test speaks itself.
struct Agent {
    streams: mpsc::Sender<Said>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Agent {
    type StreamAggregatedResourcesStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;
    type DeltaAggregatedResourcesStream =
        tokio_stream::wrappers::ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }
    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut requests = request.into_inner();
        let (heard, hear) = mpsc::channel(100);
        let (say, said) = mpsc::channel(100);
        let _for_the_test = meshfed_runtime::tasks::spawn("requests", async move {
            while let Ok(Some(request)) = requests.message().await {
                if heard.send(request).await.is_err() {
                    return;
                }
            }
        });
        self.streams.send((hear, say)).await.unwrap();
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(said)))
    }
}

pub(crate) fn agent(path: &Path, watch: Watch) -> mpsc::Receiver<Said> {
    let (streams, opened) = mpsc::channel(4);
    let socket = meshfed_runtime::grpc::bind_unix("--run-dir", path).unwrap();
    let routes = tonic::service::Routes::new(AggregatedDiscoveryServiceServer::new(Agent { streams }));
    let _for_the_test = meshfed_runtime::tasks::spawn(
        "agent",
        meshfed_runtime::grpc::serve_unix(socket, routes, watch, Default::default()),
    );
    opened
}

/// What became of listeners; binds really, so that an address in use is one.
#[derive(Default)]
struct TestSockets {
    log: Arc<Mutex<Vec<String>>>,
    bound: Vec<(Arc<str>, std::net::TcpListener)>,
}

impl Sockets for TestSockets {
    #[expect(clippy::unwrap_in_result, reason = "a poisoned lock fails the test")]
    fn install(&mut self, cell: &Arc<ListenerCell>, listener: &Arc<Listener>) -> Result<(), Vec<BindError>> {
        for address in &listener.addresses {
            let held = |(_, s): &(Arc<str>, std::net::TcpListener)| s.local_addr().is_ok_and(|a| a == *address);
            if !self.bound.iter().any(held) {
                let socket = bind_tcp("--outbound-listen", *address).map_err(|e| vec![e])?;
                self.bound.push((Arc::clone(&listener.name), socket));
            }
        }
        cell.set(Some(Arc::clone(listener)));
        self.log.lock().unwrap().push(format!("install {}", listener.name));
        Ok(())
    }
    fn remove(&mut self, name: &str) {
        self.bound.retain(|(n, _)| n.as_ref() != name);
        self.log.lock().unwrap().push(format!("remove {name}"));
    }
    #[expect(clippy::unwrap_in_result, reason = "a poisoned lock fails the test")]
    fn started(&mut self, bind: &[IpAddr], failed: Problems) -> Result<(), Problems> {
        self.log.lock().unwrap().push(format!("started {bind:?}"));
        failed.finish(())
    }
    fn changed(&mut self) {}
}

fn address(ip: &str, port: u32) -> Option<core::Address> {
    Some(core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    })
}

fn resource(kind: Kind, name: &str, version: &str, body: &impl Message) -> Resource {
    let any = Any { type_url: kind.type_url().to_owned(), value: body.encode_to_vec().into() };
    Resource { name: name.to_owned(), version: version.to_owned(), resource: Some(any), ..Default::default() }
}

fn cluster(name: &str, version: &str, seconds: i64) -> Resource {
    let body = cds::Cluster {
        name: name.to_owned(),
        connect_timeout: Some(pb::Duration { seconds, nanos: 0 }),
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(cds::cluster::DiscoveryType::Eds as i32)),
        ..Default::default()
    };
    resource(Kind::Cluster, name, version, &body)
}

fn broken_cluster(name: &str) -> Resource {
    let body = cds::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(
            cds::cluster::DiscoveryType::StrictDns as i32,
        )),
        ..Default::default()
    };
    resource(Kind::Cluster, name, "bad", &body)
}

fn assignment(name: &str, version: &str, port: u32) -> Resource {
    let endpoint = eds::LbEndpoint {
        host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(eds::Endpoint {
            address: address("127.0.0.1", port),
            ..Default::default()
        })),
        ..Default::default()
    };
    let locality = eds::LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() };
    let body =
        eds::ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: vec![locality], ..Default::default() };
    resource(Kind::Endpoint, name, version, &body)
}

fn any<M: Message>(name: &str, body: &M) -> pb::Any {
    pb::Any { type_url: format!("type.googleapis.com/{name}"), value: body.encode_to_vec() }
}

fn chain(config: pb::Any, names: &[&str]) -> lds::FilterChain {
    lds::FilterChain {
        filters: vec![lds::Filter {
            config_type: Some(lds::filter::ConfigType::TypedConfig(config)),
            ..Default::default()
        }],
        filter_chain_match: (!names.is_empty()).then(|| lds::FilterChainMatch {
            server_names: names.iter().map(|n| (*n).to_owned()).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn outbound(port: u16, version: &str) -> Resource {
    use hcm::http_connection_manager::RouteSpecifier;
    let rds = hcm::Rds { route_config_name: "15001".to_owned(), ..Default::default() };
    let manager = hcm::HttpConnectionManager { route_specifier: Some(RouteSpecifier::Rds(rds)), ..Default::default() };
    let config = any("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", &manager);
    let body = lds::Listener {
        name: "outbound".to_owned(),
        address: address("127.0.0.1", u32::from(port)),
        filter_chains: vec![chain(config, &[])],
        ..Default::default()
    };
    resource(Kind::Listener, "outbound", version, &body)
}

pub(crate) fn gateway(port: u16, names: &[&str], version: &str) -> Resource {
    let to = |name: &&str| {
        let proxy = tcp_proxy::TcpProxy {
            cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster((*name).to_owned())),
            ..Default::default()
        };
        chain(any("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", &proxy), &[name])
    };
    let body = lds::Listener {
        name: "gateway|x".to_owned(),
        address: address("127.0.0.1", u32::from(port)),
        filter_chains: names.iter().map(to).collect(),
        ..Default::default()
    };
    resource(Kind::Listener, "gateway|x", version, &body)
}

fn routes(hosts: &[&str], version: &str) -> Resource {
    let host = |name: &&str| rds::VirtualHost {
        name: (*name).to_owned(),
        domains: vec![(*name).to_owned()],
        routes: vec![rds::Route {
            r#match: Some(rds::RouteMatch {
                path_specifier: Some(rds::route_match::PathSpecifier::Prefix("/".to_owned())),
                ..Default::default()
            }),
            action: Some(rds::route::Action::Route(rds::RouteAction {
                cluster_specifier: Some(rds::route_action::ClusterSpecifier::Cluster("one".to_owned())),
                ..Default::default()
            })),
            ..Default::default()
        }],
        ..Default::default()
    };
    let body = rds::RouteConfiguration {
        name: "15001".to_owned(),
        virtual_hosts: hosts.iter().map(host).collect(),
        ..Default::default()
    };
    resource(Kind::Route, "15001", version, &body)
}

/// The proxy under test and the agent's end of its stream.
struct Rig {
    state: Arc<StateHandle>,
    log: Arc<Mutex<Vec<String>>>,
    opened: mpsc::Receiver<Said>,
    hear: mpsc::Receiver<DeltaDiscoveryRequest>,
    say: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    seen: Vec<DeltaDiscoveryRequest>,
    nonce: u32,
    result: tokio::task::JoinHandle<Result<(), Problems>>,
    _drains: (drain::Trigger, drain::Trigger),
    _dir: tempfile::TempDir,
}

fn discovery(socket: PathBuf) -> (Discovery, Arc<StateHandle>) {
    let (identity, trust) = (Arc::new(IdentityStore::empty()), Arc::new(TrustStore::new()));
    let state = StateHandle::new(Arc::clone(&identity), Arc::clone(&trust));
    let config = DiscoveryConfig {
        captures: false,
        agent: super::Agent::Unix(socket),
        node: Node { id: "sidecar~x".to_owned(), ..Default::default() },
        inbound_listen: Vec::new(),
        inbound: BTreeSet::new(),
    };
    let (discovery, _channel) = Discovery::new(config, &state, identity, trust, &Metrics::new());
    (discovery, state)
}

impl Rig {
    async fn start() -> Self {
        meshfed_runtime::tls::install_provider();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("xds.sock");
        let (agent_drain, agent_watch) = drain::channel();
        let (proxy_drain, proxy_watch) = drain::channel();
        let mut opened = agent(&path, agent_watch);
        let (discovery, state) = discovery(path);
        let mut sockets = TestSockets::default();
        let log = Arc::clone(&sockets.log);
        let result =
            meshfed_runtime::tasks::spawn("discovery", async move { discovery.run(&mut sockets, proxy_watch).await });
        let (hear, say) = opened.recv().await.unwrap();
        Self {
            state,
            log,
            opened,
            hear,
            say,
            seen: Vec::new(),
            nonce: 0,
            result,
            _drains: (agent_drain, proxy_drain),
            _dir: dir,
        }
    }
    async fn send(&mut self, kind: Kind, resources: Vec<Resource>, removed: &[&str]) -> String {
        self.nonce += 1;
        let response = DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            resources,
            removed_resources: removed.iter().map(|n| (*n).to_owned()).collect(),
            nonce: self.nonce.to_string(),
            ..Default::default()
        };
        self.say.send(Ok(response)).await.unwrap();
        self.nonce.to_string()
    }
    /// The next request that fits; others are kept.
    async fn hear(&mut self, what: &str, fits: impl Fn(&DeltaDiscoveryRequest) -> bool) -> DeltaDiscoveryRequest {
        if let Some(at) = self.seen.iter().position(&fits) {
            return self.seen.remove(at);
        }
        let wait = async {
            loop {
                let request = self.hear.recv().await.expect("the stream ended");
                if fits(&request) {
                    return request;
                }
                self.seen.push(request);
            }
        };
        match tokio::time::timeout(Duration::from_secs(10), wait).await {
            Ok(request) => request,
            Err(_) => panic!("never heard: {what}; heard {:?}", self.seen),
        }
    }
    /// The agent ends the stream; the proxy comes again.
    async fn reconnect(&mut self) {
        self.say = mpsc::channel(1).0;
        self.hear = mpsc::channel(1).1;
        let said = tokio::time::timeout(Duration::from_secs(10), self.opened.recv()).await.unwrap().unwrap();
        (self.hear, self.say) = said;
        self.seen.clear();
    }
    async fn subscription(&mut self, kind: Kind, name: &str) -> DeltaDiscoveryRequest {
        self.hear(&format!("subscription to {name}"), |r| {
            r.type_url == kind.type_url()
                && r.response_nonce.is_empty()
                && r.resource_names_subscribe.iter().any(|n| n == name)
        })
        .await
    }
    async fn wildcard(&mut self, kind: Kind) -> DeltaDiscoveryRequest {
        self.hear("wildcard", |r| {
            r.type_url == kind.type_url() && r.response_nonce.is_empty() && r.resource_names_subscribe.is_empty()
        })
        .await
    }
    async fn answer(&mut self, nonce: &str) -> Option<String> {
        self.hear("answer", |r| r.response_nonce == nonce).await.error_detail.map(|e| e.message)
    }
    /// Until the outbound listener stands, with cluster `one` at port 1.
    async fn up(port: u16) -> Self {
        let mut rig = Self::start().await;
        let first = rig.wildcard(Kind::Cluster).await;
        assert_eq!(first.node.map(|n| n.id).as_deref(), Some("sidecar~x"), "the first request carries the node");
        let nonce = rig.send(Kind::Cluster, vec![cluster("one", "1", 5)], &[]).await;
        assert_eq!(rig.answer(&nonce).await, None);
        rig.subscription(Kind::Endpoint, "one").await;
        let nonce = rig.send(Kind::Endpoint, vec![assignment("one", "1", 1)], &[]).await;
        assert_eq!(rig.answer(&nonce).await, None);
        rig.wildcard(Kind::Listener).await;
        let lds = rig.send(Kind::Listener, vec![outbound(port, "1")], &[]).await;
        rig.subscription(Kind::Route, "15001").await;
        assert!(rig.log.lock().unwrap().is_empty(), "a listener without routes listens");
        rig.send(Kind::Route, vec![routes(&["a.local:80"], "1")], &[]).await;
        assert_eq!(rig.answer(&lds).await, None);
        rig
    }
    fn endpoints(&self, name: &str) -> Vec<u16> {
        let clusters = self.state.clusters();
        clusters
            .get(name)
            .and_then(|c| c.get())
            .map(|c| c.endpoints.iter().map(|e| e.address.port()).collect())
            .unwrap_or_default()
    }
    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

pub(crate) fn free_port() -> u16 {
    bind_tcp("--test", SocketAddr::from(([127, 0, 0, 1], 0))).unwrap().local_addr().unwrap().port()
}

/// Why there is no agent is logged once for as long as there is none, also where reasons take turns, and again the next time.
///
/// Mutations seen to fail: `contains` that looks at the last reason alone; `lost.len() >= REASONS_MAX` answered `false`.
#[test]
fn a_reason_is_told_once_for_as_long_as_there_is_no_agent() {
    let (mut discovery, _state) = discovery("xds.sock".into());
    let told = |discovery: &mut Discovery, reason: &str| discovery.lose(reason.to_owned(), Duration::ZERO);
    let turns = ["refused", "has left", "refused", "has left"].map(|reason| told(&mut discovery, reason));
    assert_eq!(turns, [true, true, false, false]);
    let news = (0..40).filter(|n| told(&mut discovery, &n.to_string())).count();
    assert_eq!(news, REASONS_MAX - 2);
    discovery.regained();
    assert!(told(&mut discovery, "has left"));
}

/// Mutation seen to fail: `missing` returns `None` always.
#[tokio::test]
async fn listeners_listen_and_are_acknowledged_when_everything_is_here() {
    let rig = Rig::up(free_port()).await;
    assert_eq!(rig.log(), ["install outbound", "started [127.0.0.1]"]);
    let table = rig.state.routes().get("15001").unwrap().get().unwrap();
    let Some(RouteAction::Cluster(cell, _)) = table.find("a.local:80") else { panic!("{table:?}") };
    assert_eq!(cell.get().unwrap().endpoints.total, 1, "the route leads to the cluster's cell");
}

/// Mutation seen to fail: `self.versions…insert` of `apply` moved in front of `match`.
#[tokio::test]
async fn a_bad_resource_is_refused_by_name_and_the_last_good_one_stays() {
    let mut rig = Rig::up(free_port()).await;
    let nonce = rig.send(Kind::Cluster, vec![broken_cluster("one"), cluster("two", "1", 5)], &[]).await;
    let refusal = rig.answer(&nonce).await.unwrap();
    assert!(refusal.contains("one") && refusal.contains("EDS, STATIC"), "{refusal}");
    rig.subscription(Kind::Endpoint, "two").await;
    let nonce = rig.send(Kind::Endpoint, vec![assignment("two", "1", 2)], &[]).await;
    rig.answer(&nonce).await;
    assert_eq!((rig.endpoints("one"), rig.endpoints("two")), (vec![1], vec![2]));
    // The agent comes again: it is told what is held, which is not what was refused.
    rig.reconnect().await;
    let again = rig.wildcard(Kind::Cluster).await;
    assert_eq!(again.initial_resource_versions.get("one").map(String::as_str), Some("1"));
    assert_eq!(again.initial_resource_versions.len(), 2);
    let again = rig.subscription(Kind::Endpoint, "two").await;
    assert_eq!(again.initial_resource_versions.len(), 2);
    let again = rig.wildcard(Kind::Listener).await;
    assert_eq!(again.initial_resource_versions.get("outbound").map(String::as_str), Some("1"));
    assert_eq!(rig.endpoints("one"), [1], "losing the agent changes nothing");
    assert!(!rig.log().iter().any(|l| l.starts_with("remove")));
}

/// Mutation seen to fail: `this.held.failed(…)` left out (then the version counts as held).
#[tokio::test]
async fn a_later_listener_whose_address_is_in_use_is_refused_and_the_rest_stays() {
    let mut rig = Rig::up(free_port()).await;
    let busy = bind_tcp("--test", SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let port = busy.local_addr().unwrap().port();
    let nonce = rig.send(Kind::Listener, vec![gateway(port, &["x.local"], "1")], &[]).await;
    let refusal = rig.answer(&nonce).await.unwrap();
    assert!(
        refusal.contains("gateway|x") && refusal.contains(&port.to_string()) && refusal.contains("in use"),
        "{refusal}"
    );
    assert_eq!(rig.state.listeners().keys().map(|n| n.to_string()).collect::<Vec<_>>(), ["outbound"]);
    rig.reconnect().await;
    let again = rig.wildcard(Kind::Listener).await;
    assert_eq!(
        again.initial_resource_versions.keys().collect::<Vec<_>>(),
        ["outbound"],
        "what was refused is not held"
    );
    drop(busy);
    let nonce = rig.send(Kind::Listener, vec![gateway(port, &["x.local"], "1")], &[]).await;
    assert_eq!(rig.answer(&nonce).await, None);
    assert_eq!(rig.state.listeners().len(), 2);
}

/// Mutation seen to fail: `if this.started { Ok(()) }` replaced by `if true { Ok(()) }`; `&& this.held.has_listeners()`
/// of `settle` left out.
#[tokio::test]
async fn at_the_start_an_address_in_use_ends_the_process_naming_flag_and_address() {
    let busy = bind_tcp("--test", SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let port = busy.local_addr().unwrap().port();
    let mut rig = Rig::start().await;
    rig.send(Kind::Cluster, vec![], &[]).await;
    rig.wildcard(Kind::Listener).await;
    let nothing = rig.send(Kind::Listener, vec![], &[]).await;
    assert_eq!(rig.answer(&nothing).await, None);
    rig.send(Kind::Listener, vec![outbound(port, "1")], &[]).await;
    rig.subscription(Kind::Route, "15001").await;
    rig.send(Kind::Route, vec![routes(&[], "1")], &[]).await;
    let problems = tokio::time::timeout(Duration::from_secs(10), rig.result).await.unwrap().unwrap().unwrap_err();
    assert_eq!(problems.exit_code(), 65);
    let text = problems.to_string();
    assert!(text.starts_with("--outbound-listen:") && text.contains(&format!("127.0.0.1:{port}")), "{text}");
}

/// Mutation seen to fail: `route.withdraw()` left out.
#[tokio::test]
async fn a_name_that_is_no_longer_exported_is_withdrawn_and_others_keep_their_route() {
    let mut rig = Rig::up(free_port()).await;
    let port = free_port();
    let nonce = rig.send(Kind::Listener, vec![gateway(port, &["x.local", "y.local"], "1")], &[]).await;
    assert_eq!(rig.answer(&nonce).await, None);
    let table = |rig: &Rig| {
        let listener = rig.state.listeners().get("gateway|x").unwrap().get().unwrap();
        let crate::state::ListenerKind::Gateway { sni } = &listener.kind else { panic!() };
        Arc::clone(sni)
    };
    let before = table(&rig);
    let nonce = rig.send(Kind::Listener, vec![gateway(port, &["y.local"], "2")], &[]).await;
    assert_eq!(rig.answer(&nonce).await, None);
    let after = table(&rig);
    assert!(after.find("x.local").is_none());
    assert!(before.find("x.local").unwrap().is_withdrawn());
    assert!(Arc::ptr_eq(before.find("y.local").unwrap(), after.find("y.local").unwrap()));
    assert!(!after.find("y.local").unwrap().is_withdrawn());
}

/// One endpoint change touches one cell and asks nothing of anybody.
///
/// Mutation seen to fail: `refers` of `follow` always true is not seen here; `maps_changed` set by every cluster is.
#[tokio::test]
async fn one_endpoint_change_swaps_one_cell() {
    let mut rig = Rig::up(free_port()).await;
    let many: Vec<Resource> = (0..200).map(|i| cluster(&format!("c{i}"), "1", 5)).collect();
    let nonce = rig.send(Kind::Cluster, many, &[]).await;
    rig.answer(&nonce).await;
    let all: Vec<Resource> = (0..200).map(|i| assignment(&format!("c{i}"), "1", 10 + i)).collect();
    let nonce = rig.send(Kind::Endpoint, all, &[]).await;
    rig.answer(&nonce).await;
    let clusters = rig.state.clusters();
    let versions = |clusters: &std::collections::BTreeMap<Arc<str>, Arc<crate::state::ClusterCell>>| {
        clusters.iter().filter_map(|(n, c)| Some((Arc::clone(n), c.get()?))).collect::<Vec<_>>()
    };
    let before = versions(&clusters);
    assert_eq!(before.len(), 201);
    let nonce = rig.send(Kind::Endpoint, vec![assignment("c7", "2", 999)], &[]).await;
    rig.answer(&nonce).await;
    assert!(Arc::ptr_eq(&clusters, &rig.state.clusters()), "the map of cells is the same");
    let after = versions(&clusters);
    let changed: BTreeSet<&str> =
        before.iter().zip(&after).filter(|(a, b)| !Arc::ptr_eq(&a.1, &b.1)).map(|(a, _)| a.0.as_ref()).collect();
    assert_eq!(changed, BTreeSet::from(["c7"]));
    assert_eq!(rig.endpoints("c7"), [999]);
    let nonce = rig.send(Kind::Cluster, vec![], &["c7"]).await;
    rig.answer(&nonce).await;
    let gone = rig.hear("unsubscription", |r| r.resource_names_unsubscribe.iter().any(|n| n == "c7")).await;
    assert_eq!(gone.resource_names_subscribe.len(), 0);
    assert!(before.iter().any(|(n, _)| n.as_ref() == "c7") && rig.endpoints("c7").is_empty());
}
