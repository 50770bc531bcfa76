//! The request path over real sockets on loopback: a core on a thread of its own, scripted backends, blocking clients.

mod again;
mod evicted;
mod mutual;
mod plain;
mod refusals;
mod slow;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::{drain, tasks};

use super::Core;
use crate::state::{
    CircuitBreakers, Cluster, ClusterCell, ClusterCounters, Endpoint, EndpointCounters, EndpointSet, Listener,
    ListenerKind, RetryLimit, RouteAction, RouteCell, RoutePolicy, RouteTable, StateHandle, Transport,
};
use crate::telemetry::{AccessLogTarget, Telemetry, TelemetrySettings};

const PATIENCE: Duration = Duration::from_secs(20);

/// A worker with one listener, as `listen` makes it.
struct Proxy {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    telemetry: Arc<Telemetry>,
    stop: Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

impl Proxy {
    fn start(kind: ListenerKind, state: Arc<StateHandle>, access_log: AccessLogTarget) -> Self {
        let metrics = Arc::new(Metrics::new());
        let settings = TelemetrySettings { access_log, workload: "shop/a".parse().unwrap() };
        let telemetry = Telemetry::new(&metrics, settings).unwrap();
        let of_core = Arc::clone(&telemetry);
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let listener = Arc::new(Listener { name: "test".into(), addresses: vec![address], bound: true, kind });
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let (trigger, watch) = drain::channel();
                let core = Core::new(state, of_core, watch);
                let socket = tokio::net::TcpListener::from_std(socket).unwrap();
                let serving = Arc::clone(&listener);
                let accept = tasks::spawn_local("accept", async move {
                    loop {
                        let (tcp, peer) = socket.accept().await.unwrap();
                        let (core, listener) = (core.clone(), Arc::clone(&serving));
                        tasks::spawn_local("connection", async move {
                            match &listener.kind {
                                ListenerKind::InboundHttp { .. } => {
                                    crate::inbound::serve(core, tcp, peer, listener).await;
                                }
                                ListenerKind::OutboundHttp { .. }
                                | ListenerKind::OutboundTcp { .. }
                                | ListenerKind::OutboundAny { .. }
                                | ListenerKind::CapturedOutbound { .. }
                                | ListenerKind::CapturedInbound(_)
                                | ListenerKind::InboundTcp { .. }
                                | ListenerKind::Gateway { .. } => {
                                    crate::outbound::serve(core, tcp, peer, listener).await
                                }
                            }
                        });
                    }
                });
                let _any = tasks::spawn_blocking("stop", move || stopped.recv()).await;
                let drained = trigger.drained(Duration::from_secs(5)).await;
                accept.abort();
                drained
            })
        });
        Self { address, metrics, telemetry, stop, thread }
    }
    fn outbound(routes: &[(&str, RouteAction)]) -> Self {
        Self::start(ListenerKind::OutboundHttp { routes: table(routes, None) }, state(), AccessLogTarget::Off)
    }
    /// Waits until the core has looked at its bundles again, and everybody whom that woke has run.
    fn until_trust_is_seen(&self) {
        let before = self.telemetry.trust_looks();
        until("the core looks at its bundles", || self.telemetry.trust_looks() >= before + 2);
    }
    fn client(&self) -> Client {
        Client(connect(self.address))
    }
    /// The line of `istio_requests_total` once it counts `n` requests: the answer may be faster than its account.
    fn counted(&self, n: usize) -> String {
        let end = format!(" {n}");
        let line = || {
            let text = self.metrics.encode();
            text.lines().find(|l| l.starts_with("istio_requests_total{") && l.ends_with(&end)).map(str::to_owned)
        };
        until("requests are counted", || line().is_some());
        line().unwrap()
    }
}

fn state() -> Arc<StateHandle> {
    Arc::new(StateHandle::default())
}

fn table(routes: &[(&str, RouteAction)], fallback: Option<RouteAction>) -> Arc<RouteCell> {
    let hosts: HashMap<Box<str>, RouteAction> = routes.iter().map(|(h, a)| ((*h).into(), a.clone())).collect();
    let cell = RouteCell::new("15001");
    cell.set(Some(Arc::new(RouteTable { ignore_port: fallback.is_some(), hosts, fallback })));
    Arc::new(cell)
}

fn endpoint(address: SocketAddr, transport: Transport) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        address,
        weight: 1,
        cluster: "east".into(),
        network: "net-east".into(),
        service: "shop/b".into(),
        locality: "eu/eu-1".into(),
        via_gateway: false,
        transport: Arc::new(transport),
        counters: Arc::new(EndpointCounters::default()),
    })
}

fn cluster_with(priorities: BTreeMap<u32, Vec<Arc<Endpoint>>>) -> Cluster {
    let total = priorities.values().map(Vec::len).sum();
    Cluster {
        name: "outbound|8080||b.shop.svc.clusterset.local".into(),
        host: "b.shop.svc.clusterset.local".into(),
        port: 8080,
        connect_timeout: Duration::from_secs(5),
        sticky: false,
        circuit_breakers: CircuitBreakers::default(),
        source: Vec::new(),
        original_destination: false,
        transports: Vec::new().into(),
        default_transport: Arc::new(Transport::Plaintext),
        endpoints: Arc::new(EndpointSet::new(priorities, total)),
        counters: Arc::new(ClusterCounters::default()),
    }
}

fn cell_of(cluster: Option<Cluster>) -> Arc<ClusterCell> {
    let cell = ClusterCell::new("outbound|8080||b.shop.svc.clusterset.local");
    cell.set(cluster.map(Arc::new));
    Arc::new(cell)
}

/// A route `b` to plaintext endpoints.
fn to(addresses: &[SocketAddr]) -> RouteAction {
    let endpoints = addresses.iter().map(|a| endpoint(*a, Transport::Plaintext)).collect();
    RouteAction::Cluster(cell_of(Some(cluster_with(BTreeMap::from([(0, endpoints)])))), RoutePolicy::default())
}

/// A server that does with each connection what `script` says, on a thread of its own.
struct Backend {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Backend {
    fn start(script: impl Fn(&mut Client, usize) + Send + Sync + 'static) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (counter, script) = (Arc::clone(&connections), Arc::new(script));
        std::thread::spawn(move || {
            for tcp in socket.incoming() {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let script = Arc::clone(&script);
                let tcp = tcp.unwrap();
                tcp.set_read_timeout(Some(PATIENCE)).unwrap();
                std::thread::spawn(move || script(&mut Client(tcp), number));
            }
        });
        Self { address, connections }
    }
    /// Answers each request with what `answer` makes of its head and body.
    fn answering(answer: impl Fn(&str, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start(move |c, _| {
            while let Some((head, body)) = c.read_message() {
                if c.0.write_all(&answer(&head, &body)).is_err() {
                    break;
                }
            }
        })
    }
    /// Says `ok` to everything.
    fn ok() -> Self {
        Self::answering(|_, _| b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec())
    }
    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

/// A blocking HTTP connection that knows just enough framing.
struct Client(TcpStream);

impl Client {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }
    fn byte(&mut self) -> Option<u8> {
        let mut b = [0u8; 1];
        match self.0.read(&mut b) {
            Ok(1) => Some(b[0]),
            _ => None,
        }
    }
    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.byte()?);
        }
        Some(String::from_utf8(line).unwrap())
    }
    fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push_str(&self.line()?);
        }
        Some(head)
    }
    fn exactly(&mut self, n: usize) -> Vec<u8> {
        let mut body = vec![0; n];
        self.0.read_exact(&mut body).unwrap();
        body
    }
    fn body(&mut self, head: &str) -> Option<Vec<u8>> {
        let lower = head.to_ascii_lowercase();
        if lower.contains("transfer-encoding: chunked") {
            let mut body = Vec::new();
            loop {
                let line = self.line()?;
                let n = usize::from_str_radix(line.trim_end(), 16).unwrap();
                body.extend(self.exactly(n));
                assert_eq!(self.exactly(2), b"\r\n");
                if n == 0 {
                    return Some(body);
                }
            }
        }
        let n = lower.split("content-length: ").nth(1).map_or(0, |t| t.lines().next().unwrap().parse().unwrap());
        Some(self.exactly(n))
    }
    /// The next message with a body that its head frames.
    fn read_message(&mut self) -> Option<(String, Vec<u8>)> {
        let head = self.head()?;
        let body = self.body(&head)?;
        Some((head, body))
    }
    fn get(&mut self, path: &str) -> (String, Vec<u8>) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: b\r\n\r\n"));
        self.read_message().expect("an answer")
    }
    /// Everything until the end of the connection.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        if let Err(error) = self.0.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the connection did not end");
        }
        rest
    }
}

/// One request on a connection of its own, and everything that comes back.
fn once(proxy: &Proxy, request: impl AsRef<[u8]>) -> String {
    let mut client = proxy.client();
    client.send(request);
    let _closed_already = client.0.shutdown(std::net::Shutdown::Write);
    String::from_utf8_lossy(&client.rest()).into_owned()
}

/// Waits until `condition` holds.
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = meshfed_runtime::clock::instant() + PATIENCE;
    while !condition() {
        assert!(meshfed_runtime::clock::instant() < deadline, "{what}");
        std::thread::yield_now();
    }
}
