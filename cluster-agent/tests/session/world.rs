//! Edge. A hub and agents with a real session between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};

use meshfed_api::proto::federation as wire;
use meshfed_api::proto::federation::enrollment_server::EnrollmentServer;
use meshfed_cluster_agent::downlink::bundles::CLI;
use meshfed_cluster_agent::downlink::session::{Link, LinkConfig};
use meshfed_cluster_agent::downlink::{CoreCommand, EndpointsAnswer, renew};
use meshfed_cluster_agent::enroll::AgentFile;
use meshfed_cluster_agent::lease::Role;
use meshfed_cluster_agent::uplink::{Resources, UplinkHandle};
use meshfed_cluster_agent::view::View;
use meshfed_federator::fleet::{FleetRead, Inputs, Revisions};
use meshfed_federator::session::Hub;
use meshfed_model::export::ExportTo;
use meshfed_model::identity::{Principal, SpiffeId};
use meshfed_model::locality::Locality;
use meshfed_model::names::{ClusterName, Namespace, NetworkName, ServiceName, SubsetName};
use meshfed_model::offer::{GroupKey, GroupOffer, OfferKey, OfferValue, ServiceOffer};
use meshfed_model::policy::FleetPolicies;
use meshfed_model::service::{ServicePort, ServiceType};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::tls::{ClientAuth, Identity, IdentityStore, TrustStore, server_config};
use meshfed_runtime::{drain, grpc, tasks};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::authorities::*;

/// A hub on a socket.
pub(super) struct Server {
    pub(super) hub: Arc<Hub>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) trigger: drain::Trigger,
    pub(super) address: SocketAddr,
    pub(super) tasks: Vec<tokio::task::JoinHandle<()>>,
    pub(super) inputs: InputSenders,
}

impl Server {
    pub(super) fn start(fleet: &Arc<Fleet>, address: SocketAddr, claims: &Arc<MemoryClaims>) -> Self {
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
            issued: Arc::new(Leaves(Arc::clone(fleet))),
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
        Self { hub, metrics, trigger, address, tasks, inputs: (members, bundles, policies) }
    }

    pub(super) async fn stop(self) -> SocketAddr {
        self.trigger.start();
        for task in self.tasks {
            task.await.unwrap();
        }
        self.address
    }

    /// The sum of a counter over the label sets that contain all of `labels`.
    pub(super) fn count(&self, name: &str, labels: &[&str]) -> u64 {
        let text = self.metrics.encode();
        let lines = text.lines().filter(|l| l.starts_with(&format!("{name}_total")));
        let wanted = lines.filter(|l| labels.iter().all(|label| l.contains(label)));
        wanted.filter_map(|l| l.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }
    pub(super) fn bytes(&self, cluster: &str, direction: &str) -> u64 {
        let labels = [format!("cluster=\"{cluster}\""), format!("direction=\"{direction}\"")];
        self.count("meshfed_session_bytes", &[&labels[0], &labels[1]])
    }
    pub(super) fn waiting(&self, cluster: &str) -> Vec<String> {
        let facts = self.hub.cluster(&ClusterName::new(cluster).unwrap());
        facts.map_or_else(|| vec!["unknown".to_owned()], |f| f.waiting_for.into_iter().map(|w| w.reason).collect())
    }
}

/// An agent's session with a core that only keeps the view.
pub(super) struct Agent {
    pub(super) uplink: UplinkHandle,
    pub(super) view: Arc<Mutex<View>>,
    pub(super) bundles: Arc<Mutex<usize>>,
    pub(super) loaded: usize,
    pub(super) trigger: drain::Trigger,
    pub(super) link: tokio::task::JoinHandle<()>,
    pub(super) core: tokio::task::JoinHandle<()>,
    pub(super) metrics: Arc<Metrics>,
}

impl Agent {
    pub(super) fn start(data_dir: &Path) -> Self {
        Self::start_as(data_dir, "", watch::channel(Role::Alone).1)
    }

    /// One of several of its cluster.
    pub(super) fn start_as(data_dir: &Path, instance: &str, role: watch::Receiver<Role>) -> Self {
        let file = AgentFile::read(data_dir).unwrap();
        let own = file.cluster.clone();
        let config = LinkConfig {
            data_dir: data_dir.to_owned(),
            file,
            replica: 0,
            instance: instance.to_owned(),
            role,
            latest: watch::Sender::default(),
            identity: Arc::new(IdentityStore::new(renew::load(data_dir).unwrap())),
            trust: Arc::new(TrustStore::new()),
            cli: CLI.to_owned(),
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

    pub(super) async fn stop(self) {
        self.trigger.start();
        self.link.await.unwrap();
        self.core.await.unwrap();
    }

    /// kill -9, as far as a process can do that to itself.
    pub(super) async fn kill(self) {
        self.link.abort();
        let _aborted = self.link.await;
        self.core.await.unwrap();
    }

    pub(super) fn services(&self) -> usize {
        self.view.lock().unwrap().services().count()
    }
    pub(super) fn ready(&self, n: usize) -> Option<u32> {
        let view = self.view.lock().unwrap();
        let (_, service) = view.service(&name(n)).next()?;
        service.groups.values().next().map(|g| g.ready)
    }
    pub(super) fn offer(&self, n: usize, ready: u32) {
        self.uplink.offer_service(name(n), service(n, ready));
    }
    pub(super) fn everything(&self, services: usize) {
        (0..services).for_each(|n| self.offer(n, 1));
        self.uplink.offer_gateways(Resources::new());
        self.uplink.offer_complete();
        self.uplink.interest(BTreeSet::from([Namespace::new("shop").unwrap()]));
        self.uplink.report(wire::StatusReport { source_revision: 1, ..wire::StatusReport::default() });
    }
    pub(super) fn complete_views(&self) -> u64 {
        self.counter("meshfed_view_complete_total")
    }
    /// A counter with a label value.
    pub(super) fn counted(&self, name: &str, label: &str) -> u64 {
        let text = self.metrics.encode();
        let lines = text.lines().filter(|l| l.starts_with(&format!("{name}_total")) && l.contains(label));
        lines.filter_map(|l| l.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }
    pub(super) fn counter(&self, name: &str) -> u64 {
        let text = self.metrics.encode();
        let line = text.lines().find(|l| l.starts_with(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

pub(super) async fn core(
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
            CoreCommand::Policies(_)
            | CoreCommand::Order(_)
            | CoreCommand::SharedNetworks(_)
            | CoreCommand::CaughtUp
            | CoreCommand::Session { .. } => {}
        }
    }
}

pub(super) fn name(n: usize) -> ServiceName {
    ServiceName::new("shop", format!("s{n}")).unwrap()
}

pub(super) fn service(n: usize, ready: u32) -> Resources {
    let port = ServicePort { name: "http".to_owned(), port: 8080, protocol: "TCP".to_owned(), app_protocol: None };
    let offer = ServiceOffer {
        service_type: ServiceType::ClusterSetIP,
        ports: vec![port],
        export_to: ExportTo::Everyone,
        identities: BTreeSet::from(["spiffe://east.mesh.example/ns/shop/sa/b".parse().unwrap()]),
        ..ServiceOffer::default()
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

pub(super) struct World {
    pub(super) fleet: Arc<Fleet>,
    pub(super) claims: Arc<MemoryClaims>,
    pub(super) server: Server,
    pub(super) dir: tempfile::TempDir,
}

impl World {
    pub(super) fn start() -> Self {
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
    pub(super) fn agent(&self, cluster: &str) -> Agent {
        Agent::start(&self.dir.path().join(cluster))
    }
    pub(super) async fn quiet(&self) {
        until("nothing is waited for", || ["east", "west"].iter().all(|c| self.server.waiting(c).is_empty())).await;
    }
}
