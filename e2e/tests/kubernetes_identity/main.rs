//! Identities by service-account tokens, against real API servers (`contracts-kubernetes.md` 5.4).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::sync::Arc;
use std::time::Duration;

use meshfed_api::proto::workload::attestation_client::AttestationClient;
use meshfed_api::proto::workload::{AttestRequest, WorkloadReport, workload_client::WorkloadClient};
use meshfed_ca::keys::SigningKey;
use meshfed_ca::{csr, pem};
use meshfed_e2e::fleet::application;
use meshfed_e2e::http;
use meshfed_e2e::kube::ApiServer;
use meshfed_e2e::objects::{self, Workload};
use meshfed_e2e::wait::until;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_runtime::grpc;
use meshfed_runtime::tls::{self, TrustStore, peer_spiffe_id};
use rustls_pki_types::CertificateDer;
use tonic::Code;
use tonic::transport::Channel;
use world::{World, bound_token, expired, pod};

const SOON: Duration = Duration::from_secs(30);
const AGENT: &str = "spiffe://east.mesh.example/ns/meshfed-system/sa/meshfed-agent";

/// A connection without a certificate, to an agent of exactly this identity.
async fn stranger(world: &World, agent: &'static str) -> Result<Channel, String> {
    let anchors = pem::certificates(&std::fs::read_to_string(world.anchors()).unwrap()).unwrap();
    let domain = TrustDomain::new("east.mesh.example").unwrap();
    let trust = Arc::new(TrustStore::with([(domain, anchors)].into()).unwrap());
    let policy = move |id: &SpiffeId| id.to_string() == agent;
    let config = tls::client_config(None, trust, Arc::new(policy), &[b"h2"]).unwrap();
    grpc::connect(&world.target(), config).await.map_err(|e| e.to_string())
}

/// The identity that a token gives, or code and words of the refusal.
async fn ask(channel: &Channel, token: &str) -> Result<String, (Code, String)> {
    let key = SigningKey::generate().unwrap();
    let request = AttestRequest { token: token.to_owned(), request: csr::create(&key).unwrap() };
    let answer = AttestationClient::new(channel.clone()).attest(request).await;
    let certificate = answer.map_err(|s| (s.code(), s.message().to_owned()))?.into_inner().certificate;
    Ok(peer_spiffe_id(&CertificateDer::from(certificate)).unwrap().to_string())
}

/// A pod is what the API server says, and what is not a pod of this cluster is nobody: another audience, an expired token,
/// another cluster's, one that is bound to no pod, a changed one, a pod that is gone although its token passes still, and
/// another pod of its name.
///
/// Mutation seen to fail: `review::bearer` takes an unbound token as that of a pod without a name. What `check_pod`
/// compares is seen by `attestation::tests`, with an API server that forgets nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_makes_its_bearer_the_pod_that_it_is_bound_to_and_nothing_else() {
    tls::install_provider();
    let world = World::start();
    let channel = stranger(&world, AGENT).await.unwrap();
    let good = bound_token(&world.api, "a", "a-1", "meshfed");
    assert_eq!(ask(&channel, &good).await.unwrap(), "spiffe://east.mesh.example/ns/shop/sa/a");

    let other = ApiServer::start();
    other.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}");
    other.apply(&pod("a-1", "a"));
    // Another service account's name in the claims, the old signature behind it.
    let (head, signature) = good.rsplit_once('.').unwrap();
    let forged = format!("{}.{signature}", &head[..head.len() - 4]);
    let cases = [
        ("wrong audience", bound_token(&world.api, "a", "a-1", "vault"), "audience"),
        (
            "the API server's own audience",
            bound_token(&world.api, "a", "a-1", "https://kubernetes.default.svc.cluster.local"),
            "audience",
        ),
        ("expired", expired(&world.api, &good), "expired"),
        ("another cluster's", bound_token(&other, "a", "a-1", "meshfed"), "does not accept the token"),
        ("bound to no pod", world.api.token("shop", "a", Some("meshfed")), "bound to no pod"),
        ("changed", forged, "does not accept the token"),
        ("no token", "shop/a".to_owned(), "no service-account token"),
    ];
    for (what, token, word) in cases {
        let (code, text) = ask(&channel, &token).await.expect_err(what);
        assert_eq!(code, Code::PermissionDenied, "{what}: {text}");
        assert!(text.contains(word), "{what}: {text}");
    }

    // The API server itself remembers for ten seconds that the token was good; on a slow machine it has forgotten.
    let words = |text: &str, ours: &str| text.contains(ours) || text.contains("has been invalidated");
    let _known = ask(&channel, &good).await.unwrap();
    let _deleted = world.api.ok(&["-n", "shop", "delete", "pod", "a-1", "--grace-period=0", "--force"]);
    let (code, text) = ask(&channel, &good).await.expect_err("a deleted pod");
    assert_eq!(code, Code::PermissionDenied);
    assert!(words(&text, "does not exist any more"), "{text}");
    world.api.apply(&pod("a-1", "a"));
    let (code, text) = ask(&channel, &good).await.expect_err("another pod of that name");
    assert_eq!(code, Code::PermissionDenied);
    assert!(words(&text, "is another one now"), "{text}");
    let new = bound_token(&world.api, "a", "a-1", "meshfed");
    assert_eq!(ask(&channel, &new).await.unwrap(), "spiffe://east.mesh.example/ns/shop/sa/a");
}

/// Who shows no certificate reaches the exchange alone, and the port shows the agent's identity in the cluster's own
/// trust domain.
///
/// Mutations seen to fail: `closed_to_strangers` left out in `app/tcp.rs` (the health service answers); the port shows
/// the agent's fleet identity.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_reach_the_exchange_alone() {
    tls::install_provider();
    let world = World::start();
    let channel = stranger(&world, AGENT).await.unwrap();
    let elsewhere = stranger(&world, "spiffe://east.mesh.example/ns/shop/sa/meshfed-agent").await;
    assert!(elsewhere.is_err(), "an agent of another namespace is another one");
    let report = tonic::Request::new(tokio_stream_once(WorkloadReport::default()));
    let refused = WorkloadClient::new(channel.clone()).report(report).await.err().map(|s| s.code());
    assert_eq!(refused, Some(Code::Unauthenticated));
    let mut any = tonic::client::Grpc::new(channel.clone());
    for path in [
        "/grpc.health.v1.Health/Check",
        "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
        "/x.Y/Z",
    ] {
        any.ready().await.unwrap();
        let codec = tonic_codec();
        let path = path.parse().unwrap();
        let answer = any.unary(tonic::Request::new(AttestRequest::default()), path, codec).await;
        let code = answer.err().map(|s| s.code());
        assert_eq!(code, Some(Code::Unauthenticated));
    }
}

fn tokio_stream_once<T: Send + 'static>(message: T) -> impl tonic::codegen::tokio_stream::Stream<Item = T> + Send {
    tonic::codegen::tokio_stream::iter([message])
}

fn tonic_codec() -> tonic_prost::ProstCodec<AttestRequest, AttestRequest> {
    tonic_prost::ProstCodec::default()
}

/// A proxy over TCP becomes the pod's and is ready, renews its certificates, goes on renewing while the API server is
/// away, and with tokens again after it; a new pod waits meanwhile.
///
/// Mutation seen to fail: `identity` in `attestation/mod.rs` gives nothing to a peer with a certificate when the API
/// server is away.
#[test]
fn a_proxy_gets_its_identity_by_its_token_and_keeps_it() {
    let mut world = World::start();
    let bind = world.range.host(10);
    let token = bound_token(&world.api, "a", "a-1", "meshfed");
    let (mut proxy, _file) = world.proxy("a", "shop/a/a-1", &token, bind);
    until("the proxy is ready", SOON, || {
        proxy.assert_alive();
        let answer = http::get((bind, 15021).into(), "/healthz/ready")?;
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    });
    let issued = world.attested("issued");
    until("it renews with its token", SOON, || {
        let now = world.attested("issued");
        if now >= issued + 2.0 { Ok(()) } else { Err(format!("{now} issued")) }
    });
    world.api.kill();
    until("it renews without the API server", SOON, || {
        let kept = world.attested("kept");
        if kept >= 2.0 { Ok(()) } else { Err(format!("{kept} kept; {}", proxy.tail())) }
    });
    let (newcomer, _file) = world.proxy("late", "shop/a/a-1", &token, world.range.host(20));
    until("who has no certificate waits", SOON, || {
        let log = newcomer.log();
        if log.contains("new pods wait") { Ok(()) } else { Err(log) }
    });
    drop(newcomer);
    world.api.start_again();
    let issued = world.attested("issued");
    until("and with its token again", SOON, || {
        let now = world.attested("issued");
        if now > issued { Ok(()) } else { Err(format!("{now} issued")) }
    });
    proxy.assert_alive();
}

/// A cluster that was joined anew has another CA: its running proxies ask for certificates of it at once, long before theirs
/// end, and are served again. They go on meanwhile with what they hold.
///
/// Mutations seen to fail: `is_outdated` always false; `shown` without `is_issued_by` in `ask`.
#[test]
fn a_proxy_follows_its_cluster_to_another_ca() {
    let mut world = World::start_with(ApiServer::start(), &["--svid-ttl", "1h"], "");
    let bind = world.range.host(10);
    let token = bound_token(&world.api, "a", "a-1", "meshfed");
    let (mut proxy, _file) = world.proxy("a", "shop/a/a-1", &token, bind);
    let ready = |what: &str| {
        until(what, SOON, || {
            let answer = http::get((bind, 15021).into(), "/healthz/ready")?;
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        });
    };
    ready("the proxy is ready");
    let connected = || http::metric((bind, 15020).into(), "meshfed_discovery_connected", &[]);
    let anchor = |dir: &str| std::fs::read(world.fleet.path(dir).join("ca/anchor.pem")).unwrap();
    let first = anchor("east");
    world.join_anew();
    let anchor = |dir: &str| std::fs::read(world.fleet.path(dir).join("ca/anchor.pem")).unwrap();
    assert_ne!(anchor("east"), first);
    until("it has a certificate of the other CA", SOON, || match world.attested("issued") {
        0.0 => Err(proxy.tail()),
        _ => Ok(()),
    });
    until("it follows the agent again", SOON, || match connected() {
        Ok(1.0) => Ok(()),
        other => Err(format!("{other:?} {}", proxy.tail())),
    });
    proxy.assert_alive();
    ready("it was served on");
    let asked = world.attested("issued");
    assert_eq!(asked, 1.0, "once: who holds the right one asks no more");
}

/// Claims count for nothing: a pod that says that it is another's service account gets its own identity and no
/// configuration of the other; and a proxy takes no agent that its trust does not know.
///
/// `attest` of `identity/attest.rs` that accepts every SVID is not seen, nor is `plausible` that does: each refuses what
/// the other lets through. Mutation seen to fail: both at once.
#[test]
fn a_pod_that_claims_anothers_account_is_refused() {
    let world = World::start();
    world.api.apply(&pod("thief-1", "thief"));
    let token = bound_token(&world.api, "thief", "thief-1", "meshfed");
    let (thief, _file) = world.proxy("thief", "shop/a/a-1", &token, world.range.host(30));
    until("the refusal is logged", SOON, || {
        let log = thief.log();
        if log.contains("PermissionDenied") && log.contains("this pod is not what --workload says") {
            return Ok(());
        }
        Err(log)
    });
    assert!(http::get((world.range.host(30), 15021).into(), "/healthz/ready").is_ok_and(|a| a.status == 503));
}

/// A pod with these labels that a controller owns.
fn owned_pod(name: &str, account: &str, labels: &str, kind: &str, owner: &str) -> String {
    let owner = format!("[{{apiVersion: apps/v1, kind: {kind}, name: {owner}, uid: \"7\", controller: true}}]");
    let metadata = format!("{{name: {name}, namespace: shop, labels: {{{labels}}}, ownerReferences: {owner}}}");
    pod(name, account).replace(
        &format!("kind: Pod\nmetadata: {{name: {name}, namespace: shop}}"),
        &format!("kind: Pod\nmetadata: {metadata}"),
    )
}

/// Both ends of a request count both pods as one of the Deployment or StatefulSet that made it, with its labels, as its
/// certificate says; who relabels a running pod sees that with its next certificate, which here lasts ten seconds.
///
/// Mutations seen to fail: `attestation/mod.rs` issues without `metadata`; `Party::of` without it; `owner::workload` takes
/// the ReplicaSet's name.
#[test]
fn metrics_call_a_pod_by_its_owner_and_its_labels() {
    let world = World::start();
    let (a, b, app) = (world.range.host(10), world.range.host(11), (world.range.host(11), 18080).into());
    let in_b = "app: b, app.kubernetes.io/name: books, app.kubernetes.io/version: r7";
    world.api.apply(&owned_pod("a-1", "a", "app: a, version: v1, pod-template-hash: 5d9", "ReplicaSet", "front-5d9"));
    world.api.apply(&owned_pod("b-1", "b", in_b, "StatefulSet", "shelf"));
    let workload = objects::workload(&Workload {
        name: "b-1",
        namespace: "shop",
        app: "b",
        service_account: "b",
        addresses: &[b],
        port: ("http", 8080),
        network: "net-east",
        locality: "eu/eu-1",
        annotations: &[],
    });
    let service = objects::service("shop", "b", "http", 8080) + &workload;
    std::fs::write(world.fleet.path("source/b.yaml"), service).unwrap();
    let _app = application(&world.fleet, None, "east", "b", app);
    let inbound = format!("8080={app}");
    let token = |account, pod| bound_token(&world.api, account, pod, "meshfed");
    let (_a, _file) = world.proxy("a", "shop/a/a-1", &token("a", "a-1"), a);
    let (_b, _file) = world.proxy_with("b", "shop/b/b-1", &token("b", "b-1"), b, &["--inbound", &inbound]);
    let ask = || {
        let answer = http::via((a, 15001).into(), "http://b.shop.svc.cluster.local:8080/")?;
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    };
    until("b answers a", SOON, ask);
    let of_b = [
        "destination_workload=\"shelf\"",
        "destination_workload_namespace=\"shop\"",
        "destination_canonical_service=\"books\"",
        "destination_canonical_revision=\"r7\"",
        "destination_app=\"b\"",
        "destination_version=\"unknown\"",
        "destination_principal=\"spiffe://east.mesh.example/ns/shop/sa/b\"",
    ];
    let of_a = |version: &str| {
        let version = [format!("source_version=\"{version}\""), format!("source_canonical_revision=\"{version}\"")];
        let fixed = ["source_workload=\"front\"", "source_canonical_service=\"a\"", "source_app=\"a\""];
        fixed.map(str::to_owned).into_iter().chain(version).collect::<Vec<_>>()
    };
    let seen = |version: &str| {
        ask()?;
        for (at, reporter) in [(a, "reporter=\"source\""), (b, "reporter=\"destination\"")] {
            let of_a = of_a(version);
            let labels: Vec<&str> = of_b.into_iter().chain([reporter]).chain(of_a.iter().map(String::as_str)).collect();
            if http::metric((at, 15020).into(), "istio_requests_total", &labels)? < 1.0 {
                return Err(http::get((at, 15020).into(), "/metrics")?.body);
            }
        }
        Ok(())
    };
    until("both ends name both", SOON, || seen("v1"));
    let _labelled = world.api.ok(&["-n", "shop", "label", "pod", "a-1", "version=v2", "--overwrite"]);
    until("both see another version", SOON, || seen("v2"));
}
