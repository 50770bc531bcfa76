//! The router with a fake fleet: what all tests share.

mod door;
mod reading;
mod served;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use meshfed_api::http as shape;
use meshfed_api::http::ProblemKind;
use meshfed_ca::keys::sha256;
use meshfed_model::horizon::DropReason;
use meshfed_model::member as model;
use meshfed_model::names::{ClusterName, ServiceName};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::fleet::*;
use crate::operations::{Refused, WouldBe};

const ADMIN: &str = "the-administrator";

#[derive(Default)]
struct Fake {
    facts: BTreeMap<ClusterName, ClusterFacts>,
    services: Mutex<Vec<shape::Service>>,
    tokens: Mutex<Vec<shape::Token>>,
}

fn cluster_name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

fn service(name: &str) -> shape::Service {
    shape::Service {
        namespace: "shop".into(),
        name: name.into(),
        service_type: "ClusterSetIP".into(),
        hosts: vec![format!("{name}.shop.svc.clusterset.local")],
        ports: vec![],
        clusters: vec!["east".into()],
        endpoints: shape::Count { ready: 1, total: 1 },
        subsets: vec!["_".into()],
        conflict: None,
        exports: Some(vec![]),
        failover: shape::FailoverRef { policy: "default".into(), source: "builtin".into() },
        revision: String::new(),
    }
}

fn facts(serials: &[(&str, u64)], waiting_for: Vec<shape::Waiting>) -> ClusterFacts {
    ClusterFacts {
        connection: shape::Connection::Connected,
        freshness: shape::Freshness::Fresh,
        gateways: vec![],
        services: shape::ServiceCount { exported: 1, imported: 0 },
        endpoints: shape::Count { ready: 1, total: 1 },
        agents: vec![],
        source: shape::SourceState::default(),
        proxies: shape::Proxies { expected: 1, connected: 1, acked: 1 },
        bundle_serials: serials.iter().map(|(td, n)| (TrustDomain::new(td).unwrap(), *n)).collect(),
        bundle_proxies: BTreeMap::new(),
        waiting_for,
        last_seen_at: Some(Timestamp::UNIX_EPOCH),
    }
}

#[tonic::async_trait]
impl FleetRead for Fake {
    fn cluster(&self, name: &ClusterName) -> Option<ClusterFacts> {
        self.facts.get(name).cloned()
    }
    fn services(
        &self,
        wanted: &(dyn Fn(&ServiceName, &BTreeMap<String, String>) -> bool + Sync),
    ) -> Vec<shape::Service> {
        // What is called NAME bears the label `name: NAME`.
        let bears = |s: &shape::Service| BTreeMap::from([("name".to_owned(), s.name.clone())]);
        let all = self.services.lock().unwrap().clone();
        all.into_iter().filter(|s| wanted(&ServiceName::new(&s.namespace, &s.name).unwrap(), &bears(s))).collect()
    }
    fn service(&self, name: &ServiceName) -> Option<shape::Service> {
        self.services.lock().unwrap().iter().find(|s| s.name == name.name()).cloned()
    }
    fn not_exported(&self, _: &ServiceName, _: u16, _: &ClusterName) -> Vec<shape::Dropped> {
        let (cluster, network) = ("north".into(), "net-north".into());
        vec![shape::Dropped { cluster, network, ready: 2, reason: DropReason::NotExported }]
    }
    fn preview(&self, _: &ClusterName, _: &[shape::PlannedOffer]) -> MergePreview {
        MergePreview::default()
    }
    async fn endpoints(&self, query: EndpointsQuery) -> Result<shape::Endpoints, EndpointsError> {
        if query.from.as_str() == "west" {
            return Err(EndpointsError::AgentUnavailable { cluster: query.from, reason: "no session".into() });
        }
        let (cluster, network) = ("south".into(), "net-south".into());
        Ok(shape::Endpoints {
            service: query.service.to_string(),
            port: query.port,
            from: shape::EndpointsFrom {
                cluster: query.from.to_string(),
                network: "net-east".into(),
                locality: query.locality.unwrap_or_default(),
            },
            policy: "default".into(),
            revision: "agent's own".into(),
            items: vec![],
            dropped: vec![shape::Dropped { cluster, network, ready: 1, reason: DropReason::NoReachableGateway }],
        })
    }
}

#[tonic::async_trait]
impl Operations for Fake {
    async fn create_token(&self, request: shape::TokenRequest) -> Result<shape::TokenCreated, Refused> {
        let id = "abcdefghij".to_owned();
        let token = shape::Token {
            id: id.clone(),
            cluster: request.cluster.clone(),
            expires_at: "e".into(),
            state: shape::TokenState::Unused,
        };
        self.tokens.lock().unwrap().push(token);
        Ok(shape::TokenCreated {
            id,
            token: "mf1".into(),
            cluster: request.cluster,
            expires_at: "e".into(),
            command: vec![],
        })
    }
    async fn would_be_token(&self, request: &shape::TokenRequest) -> Result<WouldBe, Refused> {
        let wanted = crate::members::token::check(request)
            .map_err(|errors| Refused::new(ProblemKind::InvalidBody, "see errors").with(errors))?;
        Ok(WouldBe { cluster: wanted.grant.cluster.to_string(), expires_at: "e".into() })
    }
    async fn find_token(&self, id: &str) -> Result<Option<(u64, shape::Token)>, Refused> {
        Ok(self.tokens.lock().unwrap().iter().find(|t| t.id == id).map(|t| (5, t.clone())))
    }
    async fn list_tokens(&self) -> Result<(u64, Vec<shape::Token>), Refused> {
        Ok((7, self.tokens.lock().unwrap().clone()))
    }
    async fn revoke_token(&self, id: &str) -> Result<bool, Refused> {
        let mut tokens = self.tokens.lock().unwrap();
        let before = tokens.len();
        tokens.retain(|t| t.id != id);
        Ok(tokens.len() < before)
    }
    async fn plan(&self, token: &str, _: shape::PlanRequest, _: std::net::SocketAddr) -> Result<shape::Plan, Refused> {
        if token != "join-token" {
            return Err(Refused::new(ProblemKind::Unauthenticated, "join refused"));
        }
        Ok(shape::Plan {
            cluster: "east".into(),
            trust_domain: "east.mesh.example".into(),
            networks: vec![],
            gateway_cidrs: vec![],
            regions: vec![],
            zones: vec![],
            allowed: true,
            checks: vec![],
            merges: vec![],
            new_services: vec![],
        })
    }
}

fn member(name: &str, state: MemberState) -> (ClusterName, Member) {
    let member = model::Member {
        cluster: cluster_name(name),
        trust_domain: TrustDomain::new(format!("{name}.mesh.example")).unwrap(),
        labels: if name == "east" { [("env".to_owned(), "prod".to_owned())].into() } else { BTreeMap::new() },
        drained: false,
        leaving: false,
        networks: vec![],
        gateway_cidrs: BTreeSet::new(),
        regions: BTreeSet::from(["eu".to_owned()]),
    };
    let joined_at = Timestamp::UNIX_EPOCH;
    (cluster_name(name), Member { member, zones: BTreeSet::new(), state, joined_at, binding: 1 })
}

struct Room {
    router: Router,
    revisions: Arc<Revisions>,
    fake: Arc<Fake>,
    metrics: Metrics,
    token: watch::Sender<[u8; 32]>,
    _senders: (watch::Sender<Arc<Members>>, watch::Sender<Arc<Bundles>>),
}

fn room(fake: Fake, token_sha256: [u8; 32]) -> Room {
    let fake = Arc::new(fake);
    let revisions = Revisions::new(812, 1000);
    let live = [("east", MemberState::Active), ("old", MemberState::Evicted), ("west", MemberState::Active)];
    let mut members: BTreeMap<_, _> = live.map(|(n, s)| member(n, s)).into();
    for name in fake.facts.keys() {
        members.entry(name.clone()).or_insert_with(|| member(name.as_str(), MemberState::Active).1);
    }
    let members = Members { revision: 1, members };
    let east = TrustDomain::new("east.mesh.example").unwrap();
    let key = meshfed_ca::keys::SigningKey::generate().unwrap();
    let day = std::time::Duration::from_secs(24 * 3600);
    let anchor = meshfed_ca::anchor::self_signed(&key, &east, meshfed_runtime::clock::wall(), day * 365).unwrap();
    let bundle = meshfed_model::bundle::Bundle {
        trust_domain: east.clone(),
        serial: 4,
        anchors: vec![anchor.clone()],
        lineages: vec![],
    };
    let members = watch::Sender::new(Arc::new(members));
    let bundles = watch::Sender::new(Arc::new(Bundles { bundles: BTreeMap::from([(east, bundle)]) }));
    let token = watch::Sender::new(token_sha256);
    let metrics = Metrics::new();
    let api = Api {
        fleet: Arc::clone(&fake) as Arc<dyn FleetRead>,
        operations: Arc::clone(&fake) as Arc<dyn Operations>,
        admin_token_sha256: token.subscribe(),
        domain: TrustDomain::new("mesh.example").unwrap(),
        root: anchor,
        root_online: true,
        members: members.subscribe(),
        bundles: bundles.subscribe(),
        revisions: Arc::clone(&revisions),
        requests: requests(&metrics),
    };
    Room { router: router(api), revisions, fake, metrics, token, _senders: (members, bundles) }
}

fn plain() -> Room {
    let both = [("east", facts(&[], vec![])), ("west", facts(&[("east.mesh.example", 3)], vec![]))];
    let facts = both.map(|(n, f)| (cluster_name(n), f)).into();
    room(
        Fake { facts, services: Mutex::new(vec![service("a"), service("b"), service("c")]), ..Fake::default() },
        sha256(ADMIN.as_bytes()),
    )
}

struct Got {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().unwrap())
    }
    fn code(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }
}

async fn send(room: &Room, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Got {
    let mut request = Request::builder().method(method).uri(format!("/api/v1/{path}"));
    if !headers.iter().any(|(name, _)| *name == "authorization") {
        request = request.header("authorization", format!("Bearer {ADMIN}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = room.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
    Got { status: parts.status.as_u16(), headers: parts.headers, body }
}

async fn get(room: &Room, path: &str) -> Got {
    send(room, Method::GET, path, &[], "").await
}

const JSON: (&str, &str) = ("content-type", "application/json");
const TOKEN: &str = r#"{"cluster":"east","networks":[{"name":"net-east"}],"regions":["eu"]}"#;
