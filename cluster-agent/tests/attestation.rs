//! Who is served: by certificates on TCP, by peer credentials on the Unix socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, reason = "tests")]

mod ads_client;
mod topology;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use meshfed_ca::keys::SigningKey;
use meshfed_ca::{anchor, svid};
use meshfed_cluster_agent::xds::tcp_tls;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_runtime::tls::{self, ClientAuth, Identity, IdentityStore, TrustStore};
use meshfed_runtime::{clock, drain, grpc, tasks};
use rustls_pki_types::CertificateDer;
use tonic::Code;

const DAY: Duration = Duration::from_secs(86_400);

struct Ca {
    key: SigningKey,
    anchor: Vec<u8>,
}
impl Ca {
    fn new(domain: &str) -> Self {
        let key = SigningKey::generate().unwrap();
        Self { anchor: Self::anchor_for(&key, domain), key }
    }
    fn anchor_for(key: &SigningKey, domain: &str) -> Vec<u8> {
        anchor::self_signed(key, &TrustDomain::new(domain).unwrap(), clock::wall(), DAY).unwrap()
    }
    fn identity(&self, id: &str) -> Identity {
        self.identity_under(&self.anchor, id)
    }
    fn identity_under(&self, anchor: &[u8], id: &str) -> Identity {
        let id: SpiffeId = id.parse().unwrap();
        let key = SigningKey::generate().unwrap();
        let leaf = svid::issue(&self.key, anchor, &id, key.public_key_der(), Duration::from_secs(3600), clock::wall())
            .unwrap();
        Identity::new(vec![CertificateDer::from(leaf)], key.to_private_key_der()).unwrap()
    }
    /// With the cluster's real key, for a trust domain that is not its own.
    fn forged(&self, domain: &str, id: &str) -> Identity {
        self.identity_under(&Self::anchor_for(&self.key, domain), id)
    }
}

fn node(workload: &str) -> Node {
    use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
    let text = Value { kind: Some(Kind::StringValue(workload.to_owned())) };
    let ours = Value {
        kind: Some(Kind::StructValue(Struct { fields: [("workload".to_owned(), text)].into_iter().collect() })),
    };
    Node {
        id: "x".to_owned(),
        metadata: Some(Struct { fields: [("meshfed".to_owned(), ours)].into_iter().collect() }),
        ..Node::default()
    }
}

/// What a client of that identity gets: its listeners, or why not.
async fn ask_for(
    kind: &str,
    names: &[&str],
    target: &str,
    identity: Option<Identity>,
    trust: &Arc<TrustStore>,
    workload: &str,
) -> Result<usize, String> {
    let identity = identity.map(|i| Arc::new(IdentityStore::new(i)));
    let config = tls::client_config(identity, Arc::clone(trust), Arc::new(|_: &SpiffeId| true), &[b"h2"]).unwrap();
    let channel = grpc::connect(target, config).await.map_err(|e| format!("connect: {e}"))?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let request = DeltaDiscoveryRequest {
        node: Some(node(workload)),
        type_url: format!("type.googleapis.com/{kind}"),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let denied = |s: tonic::Status| format!("{:?}", s.code());
    let mut answers = client.delta_aggregated_resources(requests).await.map_err(denied)?.into_inner();
    match tokio::time::timeout(Duration::from_secs(5), answers.message()).await {
        Ok(Ok(Some(answer))) => Ok(answer.resources.len()),
        Ok(Ok(None)) => Err("end".to_owned()),
        Ok(Err(status)) => Err(denied(status)),
        Err(_elapsed) => Err("silence".to_owned()),
    }
}

async fn ask(
    target: &str,
    identity: Option<Identity>,
    trust: &Arc<TrustStore>,
    workload: &str,
) -> Result<usize, String> {
    ask_for("envoy.config.listener.v3.Listener", &[], target, identity, trust, workload).await
}

/// Mutation seen to fail: the policy of `tcp_tls` accepts every workload; `attest` accepts every SVID; `local` is
/// always true (a private key crosses TCP).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_tcp_only_an_svid_of_the_own_cluster_is_served() {
    tls::install_provider();
    let (fleet, west, east) = (Ca::new("mesh.example"), Ca::new("c1.mesh.example"), Ca::new("east.mesh.example"));
    let anchors: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>> =
        [("mesh.example", &fleet), ("c1.mesh.example", &west), ("east.mesh.example", &east)]
            .into_iter()
            .map(|(d, ca)| (TrustDomain::new(d).unwrap(), vec![CertificateDer::from(ca.anchor.clone())]))
            .collect();
    let trust = Arc::new(TrustStore::with(anchors).unwrap());

    let case = topology::cases().into_iter().find(|c| c.id == "generated/1-30").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (served, server) = topology::serve_also(&case, &directory.path().join("xds.sock")).await;
    let agent = Arc::new(IdentityStore::new(fleet.identity("spiffe://mesh.example/cluster/c1/agent/0")));
    let tls =
        tcp_tls(agent, Arc::clone(&trust), TrustDomain::new("c1.mesh.example").unwrap(), ClientAuth::Required).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let (trigger, watch) = drain::channel();
    tasks::spawn(
        "tcp",
        grpc::serve_tls(vec![listener], tls, server.routes(|r| r), watch, grpc::ServeOptions::default()),
    );

    let client = "spiffe://c1.mesh.example/ns/shop/sa/client";
    assert_eq!(ask(&target, Some(west.identity(client)), &trust, "shop/client").await, Ok(2));
    let secret = "envoy.extensions.transport_sockets.tls.v3.Secret";
    let mine = || Some(west.identity(client));
    assert_eq!(
        ask_for(secret, &["trust"], &target, mine(), &trust, "shop/client").await,
        Ok(0),
        "no bundles in this case"
    );
    assert_eq!(ask_for(secret, &["default"], &target, mine(), &trust, "shop/client").await, Ok(0), "no key over TCP");
    let denied = format!("{:?}", Code::PermissionDenied);
    for (claim, why) in [
        ("shop/b/b-0", "another workload"),
        ("shop/nobody", "a workload that does not exist"),
        ("other/client", "another namespace"),
    ] {
        assert_eq!(ask(&target, Some(west.identity(client)), &trust, claim).await, Err(denied.clone()), "{why}");
    }
    let refused = [
        ("no certificate", None),
        ("a workload of another cluster", Some(east.identity("spiffe://east.mesh.example/ns/shop/sa/client"))),
        ("the agent itself", Some(fleet.identity("spiffe://mesh.example/cluster/c1/agent/0"))),
        ("a federator", Some(fleet.identity("spiffe://mesh.example/federator/1"))),
        ("minted by east for us", Some(east.forged("c1.mesh.example", client))),
        (
            "minted by us for east",
            Some(west.forged("east.mesh.example", "spiffe://east.mesh.example/ns/shop/sa/client")),
        ),
        ("minted by us for the federator", Some(west.forged("mesh.example", "spiffe://mesh.example/federator/1"))),
    ];
    for (what, identity) in refused {
        let answer = ask(&target, identity, &trust, "shop/client").await;
        // In the handshake already, so not with a status of ours.
        assert!(
            answer.is_err() && ![Err("silence".to_owned()), Err(denied.clone())].contains(&answer),
            "{what}: {answer:?}"
        );
    }
    // Each server holds the other's watch.
    drop(server);
    tokio::join!(trigger.drained(Duration::from_secs(5)), served.end());
}

/// Mutation seen to fail: `FetchSecrets` does not fill in the type URL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_served_on_the_unix_socket() {
    use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
    use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
    let case = topology::cases().into_iter().find(|c| c.id == "generated/1-30").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("xds.sock");
    let served = topology::serve(&case, &socket).await;
    let mut client = SecretDiscoveryServiceClient::new(grpc::connect_unix(&socket).await.unwrap());
    let request = DiscoveryRequest {
        node: Some(node("shop/client")),
        resource_names: vec!["default".to_owned()],
        ..DiscoveryRequest::default()
    };
    let answer = client.fetch_secrets(request).await.unwrap().into_inner();
    assert_eq!(answer.resources.len(), 1);
    let unknown = DiscoveryRequest { node: Some(Node::default()), ..DiscoveryRequest::default() };
    assert_eq!(client.fetch_secrets(unknown).await.unwrap_err().code(), Code::InvalidArgument);
    served.end().await;
}
