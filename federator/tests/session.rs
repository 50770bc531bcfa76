//! Sessions from outside, with the real registry: whose certificate opens one, whose does not any more, and who has a
//! gateway address.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use meshfed_api::proto::federation as pb;
use meshfed_api::proto::federation::enrollment_client::EnrollmentClient;
use meshfed_api::proto::federation::federation_client::FederationClient;
use meshfed_api::stream::{History, Scope};
use meshfed_ca::keys::SigningKey;
use meshfed_ca::token::Token;
use meshfed_ca::{anchor, csr};
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_model::locality::Locality;
use meshfed_model::offer::{GatewayKey, GatewayOffer, OfferKey, OfferValue};
use meshfed_runtime::pin::PinnedFleetVerifier;
use meshfed_runtime::tls::{self, Identity, IdentityStore, TrustStore};
use meshfed_runtime::{clock, grpc, tasks};
use pb::agent_message::Message as Say;
use pb::hub_message::Message as Hear;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

mod federator;

use federator::Hub;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Generous: test machines are busy.
const DEADLINE: Duration = Duration::from_secs(60);

struct Agent {
    key: SigningKey,
    joined: pb::JoinResponse,
}

/// A session: what is said goes in, what is heard comes out.
struct Session {
    say: tokio::sync::mpsc::Sender<pb::AgentMessage>,
    hear: Streaming<pb::HubMessage>,
}

async fn join(grpc: SocketAddr, cluster: &str, token: &Token, replace: bool) -> Agent {
    let (ca, key) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let domain = TrustDomain::new(format!("{cluster}.mesh.example")).unwrap();
    let request = pb::JoinRequest {
        token: Some(pb::TokenCredential { id: token.id().to_owned(), secret: token.secret_text().to_string() }),
        anchor: anchor::self_signed(&ca, &domain, clock::wall(), 365 * DAY).unwrap(),
        ca_request: csr::create(&ca).unwrap(),
        agent_request: csr::create(&key).unwrap(),
        replace,
    };
    let verifier = Arc::new(PinnedFleetVerifier::new(*token.pin()));
    let tls = tls::client_config_with(None, verifier, &[b"h2"]).unwrap();
    let mut client = EnrollmentClient::new(grpc::connect(&grpc.to_string(), tls).await.unwrap());
    Agent { key, joined: client.join(request).await.unwrap().into_inner() }
}

impl Agent {
    /// Opens a session, up to the welcome.
    async fn open(&self, grpc: SocketAddr) -> Result<Session, Status> {
        let fleet = self.joined.bundles.iter().find(|b| b.trust_domain == "mesh.example").unwrap();
        let anchors = vec![fleet.anchors[0].clone().into()];
        let trust = TrustStore::with([(TrustDomain::new("mesh.example").unwrap(), anchors)].into()).unwrap();
        let chain = vec![self.joined.agent_certificate.clone().into()];
        let identity = Identity::new(chain, self.key.to_private_key_der()).unwrap();
        let tls = tls::client_config(
            Some(Arc::new(IdentityStore::new(identity))),
            Arc::new(trust),
            Arc::new(|_: &SpiffeId| true),
            &[b"h2"],
        );
        let channel = grpc::connect(&grpc.to_string(), tls.unwrap()).await.unwrap();
        let (say, said) = tokio::sync::mpsc::channel(4);
        let hello = pb::Hello { protocol: 1, clock: clock::timestamp().to_string(), ..pb::Hello::default() };
        say.send(pb::AgentMessage { message: Some(Say::Hello(hello)) }).await.unwrap();
        let opened = FederationClient::new(channel).session(ReceiverStream::new(said)).await?;
        let mut session = Session { say, hear: opened.into_inner() };
        let first = session.next().await?;
        assert!(matches!(first, Some(Hear::Welcome(_))), "{first:?}");
        Ok(session)
    }
}

impl Session {
    /// Offers one gateway and nothing else; gives the codes of what was refused.
    async fn offer_gateway(&mut self, network: &str, address: &str) -> Vec<String> {
        let key = GatewayKey { network: network.parse().unwrap(), address: address.parse().unwrap(), port: 15443 };
        let value = GatewayOffer { locality: Locality::default(), ready: true };
        let mut offer = History::new(1);
        offer.replace_gateways([(OfferKey::Gateway(key), OfferValue::Gateway(value))].into());
        for part in offer.complete(Scope::Replica) {
            self.say.send(pb::AgentMessage { message: Some(Say::Offer((&part).into())) }).await.unwrap();
        }
        loop {
            if let Hear::OfferAck(ack) = self.next().await.unwrap().expect("the session goes on") {
                return ack.refused.into_iter().map(|r| r.code).collect();
            }
        }
    }
    async fn next(&mut self) -> Result<Option<Hear>, Status> {
        let next = tokio::time::timeout(DEADLINE, self.hear.message()).await.expect("the hub says something");
        Ok(next?.and_then(|m| m.message))
    }
    /// What is said until the end, and the end.
    async fn end(mut self) -> (bool, Status) {
        let mut fenced = false;
        loop {
            match self.next().await {
                Ok(Some(Hear::Fenced(_))) => fenced = true,
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a reason"),
                Err(status) => return (fenced, status),
            }
        }
    }
}

async fn token(hub: &Hub, more: &str) -> Token {
    hub.token("east", more).await
}

/// JT10, whole: real tokens, real store, real sockets. Mutations seen to fail: `StoredLeaves` answering true (the old
/// certificate opens a session again); `fence` left out of `State::withdraw` (the standing one goes on).
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_agent_loses_its_session_and_gets_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    let old = join(hub.grpc, "east", &token(&hub, "").await, false).await;
    let standing = old.open(hub.grpc).await.unwrap();
    let new = join(hub.grpc, "east", &token(&hub, r#","replace":true"#).await, true).await;
    let (fenced, status) = standing.end().await;
    assert!(fenced && status.code() == Code::Aborted, "{status:?}");
    let refused = old.open(hub.grpc).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(refused.message().contains("joined anew"), "{refused:?}");
    let session = new.open(hub.grpc).await.unwrap();
    assert!(old.open(hub.grpc).await.is_err(), "and it takes nobody's place");
    drop(session);
    hub.end().await;
}

/// What the federator of that directory counts.
async fn metrics(dir: &std::path::Path) -> String {
    let addresses: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("run/addresses.json")).unwrap()).unwrap();
    let tcp = tokio::net::TcpStream::connect(addresses["admin"][0].as_str().unwrap()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.unwrap();
    drop(tasks::spawn("connection", async move { drop(connection.await) }));
    let request = http::Request::get("/metrics").header("host", "localhost").body(Empty::<bytes::Bytes>::new());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Contracts 1.9 and INV-5: whoever offers another cluster's gateway address is refused, also when the hub has just
/// started and the owner is not back yet; the owner comes back to what is its own.
///
/// Mutations seen to fail: `keep_gateways` left out of `Hub::settle`; `inputs.claims.gateways()` replaced by none in
/// `Hub::new` (the attacker has the address, and the owner is refused).
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_address_stays_its_clusters_over_a_restart_of_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    let east = join(hub.grpc, "east", &hub.token("east", "").await, false).await;
    let west = join(hub.grpc, "west", &hub.token("west", "").await, false).await;
    assert!(east.open(hub.grpc).await.unwrap().offer_gateway("net-east", "127.1.0.1").await.is_empty());
    hub.end().await;

    let hub = Hub::start(dir.path());
    let mut attacker = west.open(hub.grpc).await.unwrap();
    assert_eq!(attacker.offer_gateway("net-west", "127.1.0.1").await, ["GatewayAddressTaken"]);
    let refused = r#"meshfed_offer_refused_total{cluster="west",code="GatewayAddressTaken"} 1"#;
    let counted = metrics(dir.path()).await;
    assert!(counted.lines().any(|line| line == refused), "{counted}");
    let gateways = async |cluster: &str| {
        let (status, body) = hub.api("GET", &format!("/api/v1/clusters/{cluster}"), "").await;
        assert_eq!(status, 200, "{body}");
        body["gateways"].as_array().unwrap().iter().map(|g| g["address"].clone()).collect::<Vec<_>>()
    };
    assert!(gateways("west").await.is_empty());
    let mut owner = east.open(hub.grpc).await.unwrap();
    assert!(owner.offer_gateway("net-east", "127.1.0.1").await.is_empty(), "the owner has what is its own");
    assert_eq!(gateways("east").await, ["127.1.0.1"]);
    assert_eq!(attacker.offer_gateway("net-west", "127.1.0.2").await, Vec::<String>::new(), "another one is free");
    hub.end().await;
}
