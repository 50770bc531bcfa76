//! Both ends of the session over real sockets with real certificates: what is sent, what is not, and what survives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use meshfed_api::proto::federation as wire;
use meshfed_api::proto::federation::enrollment_server::{Enrollment, EnrollmentServer};
use meshfed_ca::keys::SigningKey;
use meshfed_ca::{anchor, csr, keys, lineage, pem, root, svid};
use meshfed_cluster_agent::downlink::session::{Link, LinkConfig};
use meshfed_cluster_agent::downlink::{CoreCommand, EndpointsAnswer, renew};
use meshfed_cluster_agent::enroll::AgentFile;
use meshfed_cluster_agent::uplink::{Resources, UplinkHandle};
use meshfed_cluster_agent::view::View;
use meshfed_federator::fleet::{
    self, Bundles, ClaimError, Claims, EndpointsError, EndpointsQuery, FleetRead, Inputs, Members, Revisions,
};
use meshfed_federator::session::Hub;
use meshfed_model::bundle::Bundle;
use meshfed_model::export::ExportTo;
use meshfed_model::identity::{Principal, SpiffeId, TrustDomain};
use meshfed_model::locality::Locality;
use meshfed_model::member::Member;
use meshfed_model::names::{ClusterName, Namespace, NetworkName, ServiceName, SubsetName};
use meshfed_model::network::Network;
use meshfed_model::offer::{GroupKey, GroupOffer, OfferKey, OfferValue, ServiceOffer};
use meshfed_model::policy::FleetPolicies;
use meshfed_model::service::{ServicePort, ServiceType};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::tls::{ClientAuth, Identity, IdentityStore, TrustStore, server_config};
use meshfed_runtime::{clock, drain, grpc, tasks};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

const DAY: Duration = Duration::from_secs(86_400);
const SERVICES: usize = 1000;

/// Waits for a condition; the deadline is generous because test machines are busy.
async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = clock::instant() + Duration::from_secs(60);
    while !met() {
        assert!(clock::instant() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Authority {
    key: SigningKey,
    anchor: Vec<u8>,
    lineage: Vec<u8>,
}

struct Fleet {
    domain: TrustDomain,
    root: Vec<u8>,
    own: Authority,
    clusters: BTreeMap<ClusterName, Authority>,
}

fn authority(domain: &TrustDomain, root_key: &SigningKey, root: &[u8], now: SystemTime) -> Authority {
    let key = SigningKey::generate().unwrap();
    let anchor = anchor::self_signed(&key, domain, now, 30 * DAY).unwrap();
    let lineage = lineage::issue(root_key, root, &anchor, now).unwrap();
    Authority { key, anchor, lineage }
}

impl Fleet {
    fn new(names: &[&str]) -> Self {
        // Ten days old, so that certificates of last week can be made.
        let now = clock::wall() - 10 * DAY;
        let domain = TrustDomain::new("mesh.example").unwrap();
        let root_key = SigningKey::generate().unwrap();
        let root = root::create(&root_key, &domain, now, 60 * DAY).unwrap();
        let own = authority(&domain, &root_key, &root, now);
        let clusters = names.iter().map(|name| {
            let name = ClusterName::new(name).unwrap();
            let authority = authority(&domain.of_cluster(&name).unwrap(), &root_key, &root, now);
            (name, authority)
        });
        Self { root: root.clone(), own, clusters: clusters.collect(), domain }
    }

    /// A certificate of the fleet's own domain, with its key.
    fn issue(&self, id: &SpiffeId) -> (SigningKey, Vec<u8>) {
        self.issue_at(id, clock::wall())
    }
    fn issue_at(&self, id: &SpiffeId, now: SystemTime) -> (SigningKey, Vec<u8>) {
        let key = SigningKey::generate().unwrap();
        let ttl = Duration::from_secs(3600);
        let leaf = svid::issue(&self.own.key, &self.own.anchor, id, key.public_key_der(), ttl, now).unwrap();
        (key, leaf)
    }

    fn bundles(&self) -> Bundles {
        let bundle = |domain: TrustDomain, a: &Authority| {
            let bundle = Bundle {
                trust_domain: domain.clone(),
                serial: 1,
                anchors: vec![a.anchor.clone()],
                lineages: vec![a.lineage.clone()],
            };
            (domain, bundle)
        };
        let clusters = self.clusters.iter().map(|(name, a)| bundle(self.domain.of_cluster(name).unwrap(), a));
        Bundles { bundles: clusters.chain([bundle(self.domain.clone(), &self.own)]).collect() }
    }

    fn members(&self) -> Members {
        let member = |name: &ClusterName| fleet::Member {
            member: Member {
                cluster: name.clone(),
                trust_domain: self.domain.of_cluster(name).unwrap(),
                labels: BTreeMap::new(),
                drained: false,
                networks: vec![network(name)],
                gateway_cidrs: BTreeSet::new(),
                regions: BTreeSet::from(["eu".to_owned()]),
            },
            zones: BTreeSet::new(),
            state: fleet::MemberState::Active,
            joined_at: clock::timestamp(),
            binding: 1,
        };
        Members { revision: 1, members: self.clusters.keys().map(|n| (n.clone(), member(n))).collect() }
    }

    /// What join leaves in a data directory.
    fn join(&self, data_dir: &Path, name: &str, federator: SocketAddr) {
        self.join_at(data_dir, name, federator, clock::wall());
    }
    /// The same, at another time.
    fn join_at(&self, data_dir: &Path, name: &str, federator: SocketAddr, now: SystemTime) {
        let name = ClusterName::new(name).unwrap();
        for directory in ["identity", "ca", "bundles", "state"] {
            std::fs::create_dir_all(data_dir.join(directory)).unwrap();
        }
        let own = &self.clusters[&name];
        let (key, leaf) = self.issue_at(&SpiffeId::agent(self.domain.clone(), name.clone(), 0), now);
        let write = |file: &str, text: &str| std::fs::write(data_dir.join(file), text).unwrap();
        write("identity/key.pem", &key.to_pkcs8_pem());
        write("identity/cert.pem", &pem::encode_certificates([leaf.as_slice()]));
        write("ca/key.pem", &own.key.to_pkcs8_pem());
        write("ca/root.pem", &pem::encode_certificates([self.root.as_slice()]));
        let fleet_anchor = pem::encode_certificates([self.own.anchor.as_slice()]);
        write(&format!("bundles/{}.pem", self.domain), &fleet_anchor);
        let file = AgentFile {
            cluster: name.clone(),
            trust_domain: self.domain.of_cluster(&name).unwrap(),
            fleet: self.domain.clone(),
            federators: vec![federator.to_string()],
            networks: vec![network(&name)],
            gateway_cidrs: BTreeSet::new(),
            regions: vec!["eu".to_owned()],
            zones: vec![],
            token_id: "aaaaaaaaaa".to_owned(),
        };
        file.write(data_dir).unwrap();
    }
}

fn network(cluster: &ClusterName) -> Network {
    Network { name: NetworkName::new(format!("net-{cluster}")).unwrap(), cidrs: BTreeSet::new() }
}

#[derive(Default)]
struct MemoryClaims(Mutex<BTreeMap<(ServiceName, ClusterName), u64>>);

#[tonic::async_trait]
impl Claims for MemoryClaims {
    fn all(&self) -> BTreeMap<(ServiceName, ClusterName), u64> {
        self.0.lock().unwrap().clone()
    }
    async fn change(
        &self,
        cluster: &ClusterName,
        added: Vec<ServiceName>,
        removed: Vec<ServiceName>,
    ) -> Result<BTreeMap<ServiceName, u64>, ClaimError> {
        let mut claims = self.0.lock().unwrap();
        for service in removed {
            claims.remove(&(service, cluster.clone()));
        }
        let next = claims.len() as u64 + 1;
        Ok(added.into_iter().map(|s| (s.clone(), *claims.entry((s, cluster.clone())).or_insert(next))).collect())
    }
}

/// The half of enrollment that renewals need.
struct Desk(Arc<Fleet>);

#[tonic::async_trait]
impl Enrollment for Desk {
    async fn plan(&self, _request: Request<wire::PlanRequest>) -> Result<Response<wire::PlanResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
    async fn join(&self, _request: Request<wire::JoinRequest>) -> Result<Response<wire::JoinResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
    async fn challenge(
        &self,
        _request: Request<wire::ChallengeRequest>,
    ) -> Result<Response<wire::ChallengeResponse>, Status> {
        Ok(Response::new(wire::ChallengeResponse { nonce: vec![7; 32] }))
    }
    async fn renew(&self, request: Request<wire::RenewRequest>) -> Result<Response<wire::RenewResponse>, Status> {
        let peer = grpc::PeerInfo::of(&request).id;
        let request = request.into_inner();
        let cluster = ClusterName::new(&request.cluster).unwrap();
        let id = match peer {
            Some(id) => id,
            None => {
                let signed = [b"meshfed renew v1\0".as_slice(), &[7; 32], &request.agent_request].concat();
                let spki = self.0.clusters[&cluster].key.public_key_der();
                if !keys::verify_signature(spki, &signed, &request.signature) {
                    return Err(Status::permission_denied("the proof does not hold"));
                }
                SpiffeId::agent(self.0.domain.clone(), cluster, request.replica)
            }
        };
        let key = csr::verify(&request.agent_request).unwrap();
        let own = &self.0.own;
        let ttl = Duration::from_secs(3600);
        let leaf = svid::issue(&own.key, &own.anchor, &id, key.spki_der(), ttl, clock::wall()).unwrap();
        Ok(Response::new(wire::RenewResponse { agent_certificate: leaf, federators: vec![] }))
    }
}

/// Held, so that the hub's inputs stay open.
type InputSenders = (watch::Sender<Arc<Members>>, watch::Sender<Arc<Bundles>>, watch::Sender<Arc<FleetPolicies>>);

/// A hub on a socket.
struct Server {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    trigger: drain::Trigger,
    address: SocketAddr,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    _inputs: InputSenders,
}

impl Server {
    fn start(fleet: &Arc<Fleet>, address: SocketAddr, claims: &Arc<MemoryClaims>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let id = SpiffeId::federator(fleet.domain.clone(), 1);
        let (key, leaf) = fleet.issue(&id);
        let identity = Identity::new(vec![CertificateDer::from(leaf)], key.to_private_key_der()).unwrap();
        let anchors = vec![CertificateDer::from(fleet.own.anchor.clone())];
        let trust = Arc::new(TrustStore::with(BTreeMap::from([(fleet.domain.clone(), anchors)])).unwrap());
        let policy = |id: &SpiffeId| matches!(id.principal, Principal::Agent { .. });
        let identity = Arc::new(IdentityStore::new(identity));
        let tls = server_config(identity, trust, Arc::new(policy), ClientAuth::Optional, &[b"h2"]).unwrap();
        let (trigger, watch) = drain::channel();
        let metrics = Arc::new(Metrics::new());
        let (members, members_seen) = watch::channel(Arc::new(fleet.members()));
        let (bundles, bundles_seen) = watch::channel(Arc::new(fleet.bundles()));
        let (policies, policies_seen) = watch::channel(Arc::new(FleetPolicies::default()));
        let hub = Hub::new(Inputs {
            fleet: fleet.domain.clone(),
            federator: id,
            federators: vec![address.to_string()],
            members: members_seen,
            bundles: bundles_seen,
            policies: policies_seen,
            claims: Arc::<MemoryClaims>::clone(claims),
            revisions: Revisions::new(1, 1_000_000),
            metrics: Arc::clone(&metrics),
            drain: watch.clone(),
        });
        let desk = EnrollmentServer::new(Desk(Arc::clone(fleet)));
        let routes = tonic::service::Routes::new(hub.service()).add_service(desk);
        let serve = grpc::serve_tls(vec![listener], tls, routes, watch, grpc::ServeOptions::default());
        let run = Arc::clone(&hub).run();
        let tasks = vec![
            tasks::spawn("serve", async move { serve.await.unwrap() }),
            tasks::spawn("hub", async move {
                // The end of its inputs is the end of a failed test, which has said why.
                let _ended = run.await;
            }),
        ];
        Self { hub, metrics, trigger, address, tasks, _inputs: (members, bundles, policies) }
    }

    async fn stop(self) -> SocketAddr {
        self.trigger.start();
        for task in self.tasks {
            task.await.unwrap();
        }
        self.address
    }

    /// The sum of a counter over the label sets that contain all of `labels`.
    fn count(&self, name: &str, labels: &[&str]) -> u64 {
        let text = self.metrics.encode();
        let lines = text.lines().filter(|l| l.starts_with(&format!("{name}_total")));
        let wanted = lines.filter(|l| labels.iter().all(|label| l.contains(label)));
        wanted.filter_map(|l| l.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }
    fn bytes(&self, cluster: &str, direction: &str) -> u64 {
        let labels = [format!("cluster=\"{cluster}\""), format!("direction=\"{direction}\"")];
        self.count("meshfed_session_bytes", &[&labels[0], &labels[1]])
    }
    fn waiting(&self, cluster: &str) -> Vec<String> {
        let facts = self.hub.cluster(&ClusterName::new(cluster).unwrap());
        facts.map_or_else(|| vec!["unknown".to_owned()], |f| f.waiting_for.into_iter().map(|w| w.reason).collect())
    }
}

/// An agent's session with a core that only keeps the view.
struct Agent {
    uplink: UplinkHandle,
    view: Arc<Mutex<View>>,
    bundles: Arc<Mutex<usize>>,
    loaded: usize,
    trigger: drain::Trigger,
    link: tokio::task::JoinHandle<()>,
    core: tokio::task::JoinHandle<()>,
    metrics: Arc<Metrics>,
}

impl Agent {
    fn start(data_dir: &Path) -> Self {
        let file = AgentFile::read(data_dir).unwrap();
        let own = file.cluster.clone();
        let config = LinkConfig {
            data_dir: data_dir.to_owned(),
            file,
            replica: 0,
            identity: Arc::new(IdentityStore::new(renew::load(data_dir).unwrap())),
            trust: Arc::new(TrustStore::new()),
        };
        let metrics = Arc::new(Metrics::new());
        let (link, opened) = Link::open(config, &metrics).unwrap();
        let (trigger, watch) = drain::channel();
        let view = opened.loaded.view(own);
        let loaded = view.services().count();
        let view = Arc::new(Mutex::new(view));
        let bundles = Arc::new(Mutex::new(opened.bundles.len()));
        let core = core(opened.commands, opened.uplink.clone(), Arc::clone(&view), Arc::clone(&bundles));
        Self {
            uplink: opened.uplink,
            view,
            bundles,
            loaded,
            trigger,
            link: tasks::spawn("link", async move { link.run(watch).await.unwrap() }),
            core: tasks::spawn("core", core),
            metrics,
        }
    }

    async fn stop(self) {
        self.trigger.start();
        self.link.await.unwrap();
        self.core.await.unwrap();
    }

    /// kill -9, as far as a process can do that to itself.
    async fn kill(self) {
        self.link.abort();
        let _aborted = self.link.await;
        self.core.await.unwrap();
    }

    fn services(&self) -> usize {
        self.view.lock().unwrap().services().count()
    }
    fn ready(&self, n: usize) -> Option<u32> {
        let view = self.view.lock().unwrap();
        let (_, service) = view.service(&name(n)).next()?;
        service.groups.values().next().map(|g| g.ready)
    }
    fn offer(&self, n: usize, ready: u32) {
        self.uplink.offer_service(name(n), service(n, ready));
    }
    fn everything(&self, services: usize) {
        (0..services).for_each(|n| self.offer(n, 1));
        self.uplink.offer_gateways(Resources::new());
        self.uplink.offer_complete();
        self.uplink.interest(BTreeSet::from([Namespace::new("shop").unwrap()]));
        self.uplink.report(wire::StatusReport { source_revision: 1, ..wire::StatusReport::default() });
    }
    fn complete_views(&self) -> u64 {
        self.counter("meshfed_view_complete_total")
    }
    fn counter(&self, name: &str) -> u64 {
        let text = self.metrics.encode();
        let line = text.lines().find(|l| l.starts_with(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

async fn core(
    mut commands: tokio::sync::mpsc::Receiver<CoreCommand>,
    uplink: UplinkHandle,
    view: Arc<Mutex<View>>,
    bundles: Arc<Mutex<usize>>,
) {
    while let Some(command) = commands.recv().await {
        let mut view = view.lock().unwrap();
        match command {
            CoreCommand::View(change) => {
                let origin = change.origin.clone();
                view.apply(change).unwrap();
                uplink.ack(&view, &origin);
            }
            CoreCommand::OriginGone(origin) => drop(view.remove_origin(&origin)),
            CoreCommand::Members(members) => drop(view.set_members(members)),
            CoreCommand::Bundles(all) => *bundles.lock().unwrap() = all.len(),
            CoreCommand::Endpoints { query, answer } => {
                let detail = format!("no service {}/{}", query.namespace, query.name);
                answer.send(EndpointsAnswer::Problem { status: 404, detail }).unwrap();
            }
            CoreCommand::Policies(_) | CoreCommand::SharedNetworks(_) | CoreCommand::Session { .. } => {}
        }
    }
}

fn name(n: usize) -> ServiceName {
    ServiceName::new("shop", format!("s{n}")).unwrap()
}

fn service(n: usize, ready: u32) -> Resources {
    let port = ServicePort { name: "http".to_owned(), port: 8080, protocol: "TCP".to_owned(), app_protocol: None };
    let offer = ServiceOffer {
        service_type: ServiceType::ClusterSetIP,
        ports: vec![port],
        export_to: ExportTo::Everyone,
        identities: BTreeSet::from(["spiffe://east.mesh.example/ns/shop/sa/b".parse().unwrap()]),
    };
    let group = GroupKey {
        service: name(n),
        port: 8080,
        subset: SubsetName::all(),
        network: NetworkName::new("net-east").unwrap(),
        locality: Locality::new("eu", "eu-1"),
    };
    let count = GroupOffer { ready, total: 9, weight: u64::from(ready) };
    BTreeMap::from([
        (OfferKey::Service(name(n)), OfferValue::Service(offer)),
        (OfferKey::Group(group), OfferValue::Group(count)),
    ])
}

struct World {
    fleet: Arc<Fleet>,
    claims: Arc<MemoryClaims>,
    server: Server,
    dir: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        meshfed_runtime::tls::install_provider();
        let fleet = Arc::new(Fleet::new(&["east", "west"]));
        let claims = Arc::new(MemoryClaims::default());
        let server = Server::start(&fleet, "127.0.0.1:0".parse().unwrap(), &claims);
        let dir = tempfile::tempdir().unwrap();
        for cluster in ["east", "west"] {
            fleet.join(&dir.path().join(cluster), cluster, server.address);
        }
        Self { fleet, claims, server, dir }
    }
    fn agent(&self, cluster: &str) -> Agent {
        Agent::start(&self.dir.path().join(cluster))
    }
    async fn quiet(&self) {
        until("nothing is waited for", || ["east", "west"].iter().all(|c| self.server.waiting(c).is_empty())).await;
    }
}

/// Mutations seen to fail: `History::complete` in the place of `since_considered` in `fanout::changes`; the ledger's
/// `since(Version::default())` in `converse::news`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_among_a_thousand_services_sends_only_that() {
    let world = World::start();
    let (east, west) = (world.agent("east"), world.agent("west"));
    east.everything(SERVICES);
    west.everything(0);
    until("west sees all", || west.services() == SERVICES).await;
    world.quiet().await;
    until("bundles", || *west.bundles.lock().unwrap() == 3).await;
    assert!(world.server.bytes("west", "out") > 60_000, "the first view was sent");

    let before = (world.server.bytes("east", "in"), world.server.bytes("west", "out"));
    east.offer(500, 7);
    until("west sees the change", || west.ready(500) == Some(7)).await;
    let sent = (world.server.bytes("east", "in") - before.0, world.server.bytes("west", "out") - before.1);
    eprintln!("bytes of one change: east to hub {}, hub to west {}", sent.0, sent.1);
    assert!(sent.0 < 400 && sent.1 < 400, "{sent:?}");
    assert_eq!(world.server.count("meshfed_offer_complete", &["east"]), 1);

    // A question goes to the agent and back.
    let ask = |from: &str| EndpointsQuery {
        from: ClusterName::new(from).unwrap(),
        service: name(1),
        port: 8080,
        client: None,
        locality: None,
    };
    let refused = world.server.hub.endpoints(ask("west")).await.unwrap_err();
    assert_eq!(refused, EndpointsError::Refused { status: 404, detail: "no service shop/s1".to_owned() });
    let away = world.server.hub.endpoints(ask("south")).await.unwrap_err();
    assert!(matches!(away, EndpointsError::AgentUnavailable { .. }), "{away}");
    east.stop().await;
    west.stop().await;
}

/// Mutations seen to fail: `Hello.view` left empty (everything is sent again); the journal not read (a new epoch, and
/// a complete offer).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_of_either_agent_sends_only_what_changed() {
    let world = World::start();
    let (east, west) = (world.agent("east"), world.agent("west"));
    east.everything(SERVICES);
    west.everything(0);
    until("west sees all", || west.services() == SERVICES).await;
    world.quiet().await;

    west.kill().await;
    east.offer(3, 5);
    until("the change is at the hub", || {
        let service = FleetRead::service(&*world.server.hub, &name(3)).unwrap();
        service.exports.unwrap()[0].groups[0].ready == 5
    })
    .await;
    let before = world.server.bytes("west", "out");
    let west = world.agent("west");
    assert_eq!(west.loaded, SERVICES, "it serves before it has a session");
    west.everything(0);
    until("west has caught up", || west.ready(3) == Some(5)).await;
    world.quiet().await;
    let sent = world.server.bytes("west", "out") - before;
    eprintln!("bytes of west's reconnect with one change: {sent}");
    assert!(sent < 4096, "{sent}");
    assert_eq!((west.complete_views(), west.services()), (0, SERVICES));

    // The other end: killed, started again, same offer but for one service.
    east.kill().await;
    let before = world.server.bytes("east", "in");
    let east = world.agent("east");
    east.everything(SERVICES - 1);
    until("the last service is withdrawn", || west.services() == SERVICES - 1).await;
    until("s3 is as before", || west.ready(3) == Some(1)).await;
    world.quiet().await;
    let sent = world.server.bytes("east", "in") - before;
    eprintln!("bytes of east's restart: {sent}");
    assert!(sent < 4096, "{sent}");
    assert_eq!(world.server.count("meshfed_offer_complete", &["east"]), 1);
    east.stop().await;
    west.stop().await;
}

/// Mutations seen to fail: the importer's cursor not taken from its hello (a whole view again); `OriginGone` for an
/// origin that has not offered yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_restarts_takes_the_offer_and_resumes_the_views() {
    let mut world = World::start();
    let (east, west) = (world.agent("east"), world.agent("west"));
    east.everything(SERVICES);
    west.everything(0);
    until("west sees all", || west.services() == SERVICES).await;
    world.quiet().await;
    let views = west.complete_views();

    let first_seen = |server: &Server| {
        FleetRead::service(&*server.hub, &name(1)).unwrap().exports.unwrap()[0].first_seen_revision.clone()
    };
    let claim = first_seen(&world.server);
    let address = world.server.stop().await;
    east.offer(7, 6);
    assert_eq!(west.services(), SERVICES, "nothing is lost with the hub");
    world.server = Server::start(&world.fleet, address, &world.claims);
    until("west hears of the change", || west.ready(7) == Some(6)).await;
    world.quiet().await;
    let sent = world.server.bytes("west", "out");
    eprintln!("bytes to west after the hub's restart: {sent}");
    assert!(sent < 4096, "{sent}");
    assert_eq!((west.services(), west.complete_views()), (SERVICES, views));
    // It is counted after it is taken.
    until("the whole offer is counted", || world.server.count("meshfed_offer_complete", &["east"]) == 1).await;
    assert_eq!(first_seen(&world.server), claim, "claims are durable");
    east.stop().await;
    west.stop().await;
}

/// Mutation seen to fail: `old.outbox.fence` left out of `State::open`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_session_of_a_replica_fences_the_older() {
    let world = World::start();
    let west = world.agent("west");
    west.everything(0);
    until("west is there", || world.server.waiting("west").is_empty()).await;
    let copy = world.dir.path().join("copy");
    world.fleet.join(&copy, "west", world.server.address);
    let double = Agent::start(&copy);
    until("the older session is fenced", || world.server.count("meshfed_session_refused", &["west", "fenced"]) >= 1)
        .await;
    double.stop().await;
    until("the first one is back", || world.server.waiting("west").is_empty()).await;
    west.stop().await;
}

/// Mutations seen to fail: `challenged` false in `dial` (an expired identity stays away); `renew_in` as a day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_is_renewed_while_it_is_used_and_after_it_has_expired() {
    let world = World::start();
    // East is past half of its life, west was switched off for a week.
    let (east, west) = (world.dir.path().join("east"), world.dir.path().join("west"));
    world.fleet.join_at(&east, "east", world.server.address, clock::wall() - Duration::from_secs(2400));
    world.fleet.join_at(&west, "west", world.server.address, clock::wall() - 7 * DAY);
    let certificate = |dir: &Path| std::fs::read_to_string(dir.join("identity/cert.pem")).unwrap();
    let before = (certificate(&east), certificate(&west));
    let (east, west) = (Agent::start(&east), Agent::start(&west));
    east.everything(3);
    west.everything(0);
    until("west is there", || west.services() == 3).await;
    until("east has renewed", || east.counter("meshfed_identity_renewals_total") == 1).await;
    until("east goes on over a new stream", || world.server.count("meshfed_session_refused", &["east", "fenced"]) == 1)
        .await;
    east.offer(1, 8);
    until("the change comes", || west.ready(1) == Some(8)).await;
    world.quiet().await;
    let dir = world.dir.path();
    let after = (certificate(&dir.join("east")), certificate(&dir.join("west")));
    assert!(before.0 != after.0 && before.1 != after.1);
    assert!(renew::load(&dir.join("west")).is_ok(), "key and certificate fit");
    assert_eq!(world.server.count("meshfed_offer_complete", &["east"]), 1, "nothing is sent twice");
    east.stop().await;
    west.stop().await;
}
