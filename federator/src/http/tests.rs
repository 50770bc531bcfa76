//! The router with a fake fleet, and once over a real TLS socket.

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
    fn services(&self) -> Vec<shape::Service> {
        self.services.lock().unwrap().clone()
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
        labels: BTreeMap::new(),
        drained: false,
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
    let metrics = Metrics::new();
    let api = Api {
        fleet: Arc::clone(&fake) as Arc<dyn FleetRead>,
        operations: Arc::clone(&fake) as Arc<dyn Operations>,
        admin_token_sha256: token_sha256,
        domain: TrustDomain::new("mesh.example").unwrap(),
        root: anchor,
        root_online: true,
        members: members.subscribe(),
        bundles: bundles.subscribe(),
        revisions: Arc::clone(&revisions),
        requests: requests(&metrics),
    };
    Room { router: router(api), revisions, fake, metrics, _senders: (members, bundles) }
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

/// Mutation seen to fail: the second `authorization` header not looked for.
#[tokio::test]
async fn nobody_without_the_token() {
    let room = plain();
    for bearer in ["", "Bearer", "Bearer ", "Bearer wrong", "Basic the-administrator", "the-administrator"] {
        for path in ["status", "clusters", "tokens", "no/such/path", "openapi.json", "joins%2Fplan"] {
            let got = send(&room, Method::GET, path, &[("authorization", bearer)], "").await;
            assert_eq!(got.code(), (401, "MF1401"), "{bearer} {path}");
            assert!(got.header("www-authenticate").unwrap().starts_with("Bearer"));
            assert_eq!(got.header("content-type"), Some("application/problem+json"));
        }
    }
    let twice = [("authorization", "Bearer the-administrator"), ("authorization", "Bearer x")];
    assert_eq!(send(&room, Method::GET, "status", &twice, "").await.status, 401);
    assert_eq!(
        send(&room, Method::GET, "status", &[("authorization", "bearer the-administrator")], "").await.status,
        200
    );
}

/// Mutation seen to fail: `method_not_allowed_fallback` left out.
#[tokio::test]
async fn problems_are_of_one_form() {
    let room = plain();
    let got = get(&room, "clusters/esat").await;
    assert_eq!(
        got.body,
        json!({"type":"https://meshfed.io/problems/unknown-cluster","title":"Unknown cluster","status":404,
               "detail":"no cluster 'esat' in this fleet","instance":"/api/v1/clusters/esat","code":"MF1404","errors":[]})
    );
    assert_eq!((got.header("server"), got.header("cache-control")), (None, Some("no-store")));
    let got = get(&room, "clusters?colour=red").await;
    assert_eq!(got.code(), (400, "MF1410"));
    assert_eq!(got.body["errors"][0]["field"], "colour");
    for (path, code) in [
        ("nothing", (404, "MF1440")),
        ("services/shop/zzz", (404, "MF1444")),
        ("clusters/%FF", (400, "MF1400")),
        ("status?x=1", (400, "MF1410")),
        ("clusters/east?limit=1", (400, "MF1410")),
        ("trust?a", (400, "MF1410")),
        ("clusters?limit=0", (400, "MF1420")),
        ("clusters?limit=501", (400, "MF1420")),
        ("clusters?limit=1&limit=1", (400, "MF1420")),
        ("clusters?continue=%zz", (400, "MF1420")),
        ("clusters?continue=AAAA", (400, "MF1420")),
    ] {
        assert_eq!(get(&room, path).await.code(), code, "{path}");
    }
    let got = send(&room, Method::DELETE, "tokens", &[], "").await;
    assert_eq!(got.code(), (405, "MF1405"));
    assert!(got.header("allow").unwrap().contains("POST"));
    for (method, path) in [
        ("GET", "failover"),
        ("PUT", "failover"),
        ("GET", "services/shop/b/failover"),
        ("POST", "failover/simulate"),
        ("GET", "overrides"),
        ("POST", "overrides"),
        ("DELETE", "overrides/1"),
        ("GET", "explain?client=a&host=b"),
        ("GET", "events"),
        ("GET", "topology"),
        ("POST", "clusters/east/drain"),
        ("POST", "clusters/east/undrain"),
        ("DELETE", "clusters/east"),
        ("GET", "openapi.json"),
    ] {
        let got = send(&room, method.parse().unwrap(), path, &[], "").await;
        assert_eq!(got.code(), (501, "MF1501"), "{method} {path}");
    }
    let metrics = room.metrics.encode();
    assert!(metrics.contains("meshfed_http_requests_total{code=\"501\"} 14"), "{metrics}");
}

/// Mutation seen to fail: `acked_serial` as the maximum.
#[tokio::test]
async fn status_clusters_and_trust() {
    let room = plain();
    let status = get(&room, "status").await;
    assert_eq!(status.body["ready"], true);
    assert_eq!(status.body["clusters"].as_array().unwrap().len(), 2);
    let all = get(&room, "clusters").await.body;
    assert_eq!((&all["revision"], &all["continue"]), (&json!("812"), &Value::Null));
    let states: Vec<_> =
        all["items"].as_array().unwrap().iter().map(|c| (c["name"].clone(), c["state"].clone())).collect();
    assert_eq!(
        states,
        [(json!("east"), json!("active")), (json!("old"), json!("evicted")), (json!("west"), json!("active"))]
    );
    let east = get(&room, "clusters/east").await;
    assert_eq!(east.header("etag"), Some("\"812\""));
    let keys: Vec<_> = east.body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "name",
            "trustDomain",
            "state",
            "connection",
            "freshness",
            "regions",
            "zones",
            "networks",
            "gateways",
            "services",
            "endpoints",
            "agents",
            "source",
            "bundle",
            "overrides",
            "joinedAt",
            "lastSeenAt",
            "revision"
        ]
    );
    assert_eq!(east.body["bundle"], json!({"serial":4,"ackedSerial":3}));
    let trust = get(&room, "trust").await.body;
    assert_eq!(trust["bundles"][0]["owner"], "east");
    assert_eq!(trust["bundles"][0]["acks"], json!([{"cluster":"west","serial":3,"proxies":{"acked":0,"total":0}}]));
    assert_eq!(trust["bundles"][0]["anchors"][0]["spkiSha256"].as_str().unwrap().len(), 64);
    assert_eq!(trust["root"]["online"], true);

    let three = [("east", 9), ("west", 3), ("north", 5)];
    let three = three.map(|(n, serial)| (cluster_name(n), facts(&[("east.mesh.example", serial)], vec![])));
    let three = self::room(Fake { facts: three.into(), ..Fake::default() }, sha256(ADMIN.as_bytes()));
    assert_eq!(get(&three, "clusters/east").await.body["bundle"], json!({"serial":4,"ackedSerial":3}));

    let waiting = self::room(
        Fake { facts: [(cluster_name("east"), facts(&[], vec![]))].into(), ..Fake::default() },
        sha256(ADMIN.as_bytes()),
    );
    let status = get(&waiting, "status").await.body;
    assert_eq!((&status["ready"], &status["waitingFor"][0]["kind"]), (&json!(false), &json!("session")));
    assert_eq!(get(&waiting, "clusters/west").await.body["state"], "joining");
}

/// Mutation seen to fail: `find` without the revision.
#[tokio::test]
async fn pages_show_one_revision_or_are_gone() {
    let room = plain();
    let first = get(&room, "services?limit=2").await;
    assert_eq!(first.body["items"].as_array().unwrap().len(), 2);
    assert!(first.body["items"][0].get("exports").is_none());
    let next = first.body["continue"].as_str().unwrap().to_owned();
    room.revisions.bump();
    room.fake.services.lock().unwrap().clear();
    let second = get(&room, &format!("services?limit=2&continue={next}")).await.body;
    assert_eq!((&second["revision"], &second["items"][0]["name"]), (&json!("812"), &json!("c")));
    assert_eq!(second["continue"], Value::Null);
    assert_eq!(get(&room, "services").await.body, json!({"revision":"813","items":[],"continue":null}));
    assert_eq!(get(&room, &format!("clusters?continue={next}")).await.status, 400);
    for n in 0..16 {
        room.revisions.bump();
        *room.fake.services.lock().unwrap() = vec![service("a"), service("b")];
        assert_eq!(get(&room, "services?limit=1").await.status, 200, "{n}");
    }
    assert_eq!(get(&room, &format!("services?continue={next}")).await.code(), (410, "MF1411"));
}

/// Mutation seen to fail: `names` comparing without the quotes.
#[tokio::test]
async fn what_the_caller_holds_is_not_sent_again() {
    let room = plain();
    for path in ["services", "services/shop/b", "clusters", "status", "trust"] {
        let got = send(&room, Method::GET, path, &[("if-none-match", "\"1\", W/\"812\"")], "").await;
        assert_eq!((got.status, got.body.clone(), got.header("etag")), (304, Value::Null, Some("\"812\"")), "{path}");
        assert_eq!(send(&room, Method::GET, path, &[("if-none-match", "812")], "").await.status, 200, "{path}");
    }
    room.revisions.bump();
    assert_eq!(send(&room, Method::GET, "services", &[("if-none-match", "\"812\"")], "").await.status, 200);
    let mut quiet = facts(&[], vec![]);
    quiet.freshness = shape::Freshness::Stale;
    let stale = [(cluster_name("east"), quiet)].into();
    let room = self::room(Fake { facts: stale, ..Fake::default() }, sha256(ADMIN.as_bytes()));
    assert_eq!(send(&room, Method::GET, "clusters/east", &[("if-none-match", "\"812\"")], "").await.status, 200);
}

/// Mutation seen to fail: the hub's rows not added.
#[tokio::test]
async fn endpoints_come_from_the_agent() {
    let room = plain();
    let got = get(&room, "services/shop/b/endpoints?from=east&port=8080&locality=us%2Fus-1").await;
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(got.body["revision"], "812");
    assert_eq!(got.body["from"]["locality"], "us/us-1");
    let reasons: Vec<_> = got.body["dropped"].as_array().unwrap().iter().map(|d| d["reason"].clone()).collect();
    assert_eq!(reasons, ["NotExported", "NoReachableGateway"]);
    for (query, code) in [
        ("from=west&port=8080", (504, "MF1504")),
        ("from=old&port=8080", (404, "MF1404")),
        ("from=nowhere&port=8080", (404, "MF1404")),
        ("port=8080", (400, "MF1420")),
        ("from=east", (400, "MF1420")),
        ("from=east&port=0", (400, "MF1420")),
        ("from=east&port=65536", (400, "MF1420")),
        ("from=East&port=1", (400, "MF1420")),
        ("from=east&port=1&client=", (400, "MF1420")),
        ("from=east&port=1&to=x", (400, "MF1410")),
    ] {
        assert_eq!(get(&room, &format!("services/shop/b/endpoints?{query}")).await.code(), code, "{query}");
    }
    assert!(
        get(&room, "services/shop/b/endpoints?from=west&port=1").await.body["type"]
            .as_str()
            .unwrap()
            .ends_with("/AgentUnavailable")
    );
}

/// Mutation seen to fail: `If-Match` compared only in dry runs.
#[tokio::test]
async fn tokens_are_made_listed_and_revoked() {
    let room = plain();
    let dry = send(&room, Method::POST, "tokens?dryRun=true", &[JSON], TOKEN).await;
    assert_eq!((dry.status, dry.header("x-meshfed-dry-run")), (200, Some("true")));
    assert_eq!((&dry.body["token"], &dry.body["cluster"]), (&Value::Null, &json!("east")));
    assert!(room.fake.tokens.lock().unwrap().is_empty());
    let bad = send(&room, Method::POST, "tokens?dryRun=true", &[JSON], &TOKEN.replace("\"east\"", "\"East\"")).await;
    assert_eq!((bad.code(), &bad.body["errors"][0]["field"]), ((400, "MF1430"), &json!("cluster")));
    assert_eq!(send(&room, Method::POST, "tokens?dryRun=yes", &[JSON], TOKEN).await.status, 400);
    let made = send(&room, Method::POST, "tokens", &[JSON], TOKEN).await;
    assert_eq!((made.status, made.header("location")), (201, Some("/api/v1/tokens/abcdefghij")));
    let all = get(&room, "tokens").await.body;
    assert_eq!(all["items"], json!([{"id":"abcdefghij","cluster":"east","expiresAt":"e","state":"unused"}]));
    let revoke = |headers: &'static [(&str, &str)], path: &'static str| send(&room, Method::DELETE, path, headers, "");
    assert_eq!(revoke(&[], "tokens/abcdefghij").await.code(), (428, "MF1428"));
    assert_eq!(revoke(&[("if-match", "\"6\"")], "tokens/abcdefghij").await.code(), (412, "MF1412"));
    assert_eq!(revoke(&[("if-match", "*")], "tokens/klmnopqrst").await.code(), (404, "MF1454"));
    assert_eq!(revoke(&[("if-match", "*")], "tokens/not-an-id").await.code(), (404, "MF1454"));
    assert_eq!(revoke(&[("if-match", "*")], "tokens/abcdefghij?dryRun=true").await.status, 204);
    assert_eq!(room.fake.tokens.lock().unwrap().len(), 1);
    assert_eq!(revoke(&[("if-match", "\"7\"")], "tokens/abcdefghij").await.status, 204);
    assert!(room.fake.tokens.lock().unwrap().is_empty());

    let long = format!("{{\"cluster\":\"{}\"}}", "a".repeat(1 << 20));
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    for (body, media, code) in [
        (TOKEN, "text/plain", (415, "MF1415")),
        ("", "application/json", (400, "MF1430")),
        ("{\"cluster\":\"east\",\"cluster\":\"east\"}", "application/json", (400, "MF1430")),
        ("{\"colour\":1}", "application/json; charset=utf-8", (400, "MF1430")),
        (long.as_str(), "application/json", (413, "MF1413")),
        (deep.as_str(), "application/json", (400, "MF1430")),
    ] {
        let got = send(&room, Method::POST, "tokens", &[("content-type", media)], body).await;
        assert_eq!(got.code(), code, "{media} {}", body.chars().take(40).collect::<String>());
        if body == deep {
            assert!(got.body["detail"].as_str().unwrap().contains("65 levels"));
        }
    }
}

/// Mutation seen to fail: a join token taken for the administrator's.
#[tokio::test]
async fn a_plan_needs_a_join_token() {
    let room = plain();
    let body = r#"{"protocol":1,"version":"0.1.0","clock":"2026-01-01T00:00:00Z","offers":[]}"#;
    let plan = |bearer: &'static str| {
        let room = &room;
        async move { send(room, Method::POST, "joins/plan", &[("authorization", bearer), JSON], body).await }
    };
    assert_eq!(plan("Bearer join-token").await.status, 200);
    assert_eq!(plan("Bearer the-administrator").await.code(), (401, "MF1401"));
    assert_eq!(plan("").await.code(), (401, "MF1401"));
    assert_eq!(send(&room, Method::GET, "status", &[("authorization", "Bearer join-token")], "").await.status, 401);
}

/// Mutation seen to fail: one limiter for the administrator and strangers.
#[tokio::test]
async fn too_many_requests_are_told_when_to_come_back() {
    let room = plain();
    let mut refused = 0;
    for _ in 0..300 {
        let got = send(&room, Method::GET, "status", &[("authorization", "Bearer x")], "").await;
        if got.status == 429 {
            assert_eq!((got.code(), got.header("retry-after")), ((429, "MF1429"), Some("1")));
            refused += 1;
        }
    }
    assert!(refused > 100, "{refused}");
    assert_eq!(get(&room, "status").await.status, 200, "strangers do not use up what the administrator may ask");
    let mut statuses = BTreeSet::new();
    for _ in 0..300 {
        statuses.insert(get(&room, "status").await.status);
    }
    assert_eq!(statuses, BTreeSet::from([200, 429]));
}

async fn connect(
    address: std::net::SocketAddr,
    ca: &[u8],
    alpn: &[u8],
    name: &str,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from(ca.to_vec())).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(meshfed_runtime::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
    stream
}

async fn call(address: std::net::SocketAddr, ca: &[u8], alpn: &[u8], name: &str, token: &str) -> (StatusCode, bool) {
    let stream = connect(address, ca, alpn, name).await;
    let io = hyper_util::rt::TokioIo::new(stream);
    let request = Request::get(format!("https://{address}/api/v1/clusters"))
        .header("host", address.to_string())
        .header("authorization", format!("Bearer {token}"))
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = if alpn == b"h2" {
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        meshfed_runtime::tasks::spawn("test-client", connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        meshfed_runtime::tasks::spawn("test-client", connection);
        sender.send_request(request).await.unwrap()
    };
    (response.status(), response.headers().contains_key("server"))
}

/// Mutation seen to fail: `graceful_shutdown` left out of `connection`.
#[tokio::test(flavor = "multi_thread")]
async fn https_with_the_credentials_of_the_data_directory() {
    meshfed_runtime::tls::install_provider();
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let address = listener.local_addr().unwrap();
    let credentials = ensure(dir.path(), &[address], &["hub.example".into()]).unwrap();
    let token = std::fs::read_to_string(dir.path().join("admin.token")).unwrap();
    let room = room(Fake::default(), credentials.token_sha256());
    let (trigger, watch) = meshfed_runtime::drain::channel();
    let server = serve(vec![listener], credentials.server_config(), room.router.clone(), watch);
    let server = meshfed_runtime::tasks::spawn("test-server", server);
    let ca = credentials.ca().as_ref();
    for (alpn, name) in
        [(&b"http/1.1"[..], "127.0.0.2"), (b"h2", "hub.example"), (b"h2", "localhost"), (b"http/1.1", "127.0.0.1")]
    {
        assert_eq!(call(address, ca, alpn, name, &token).await, (StatusCode::OK, false), "{name}");
    }
    assert_eq!(call(address, ca, b"h2", "::1", "wrong").await.0, StatusCode::UNAUTHORIZED);
    // Connections that never finish a handshake, and plain HTTP, disturb nobody.
    let idle = tokio::net::TcpStream::connect(address).await.unwrap();
    assert_eq!(call(address, ca, b"http/1.1", "127.0.0.2", &token).await.0, StatusCode::OK);
    let held = connect(address, ca, b"http/1.1", "127.0.0.2").await;
    let held2 = connect(address, ca, b"h2", "127.0.0.2").await;
    assert!(trigger.drained(std::time::Duration::from_secs(3)).await, "idle connections do not hold up the drain");
    server.await.unwrap().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err());
    drop((idle, held, held2));
}
