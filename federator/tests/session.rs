//! Sessions from outside, with the real registry: whose certificate opens one, and whose does not any more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshfed_api::proto::federation as pb;
use meshfed_api::proto::federation::enrollment_client::EnrollmentClient;
use meshfed_api::proto::federation::federation_client::FederationClient;
use meshfed_ca::keys::SigningKey;
use meshfed_ca::token::Token;
use meshfed_ca::{anchor, csr};
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_runtime::pin::PinnedFleetVerifier;
use meshfed_runtime::tls::{self, Identity, IdentityStore, TrustStore};
use meshfed_runtime::{clock, grpc};
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
    _say: tokio::sync::mpsc::Sender<pb::AgentMessage>,
    hear: Streaming<pb::HubMessage>,
}

async fn join(grpc: SocketAddr, token: &Token, replace: bool) -> Agent {
    let (ca, key) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let domain = TrustDomain::new("east.mesh.example").unwrap();
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
        let mut session = Session { _say: say, hear: opened.into_inner() };
        let first = session.next().await?;
        assert!(matches!(first, Some(Hear::Welcome(_))), "{first:?}");
        Ok(session)
    }
}

impl Session {
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
    let old = join(hub.grpc, &token(&hub, "").await, false).await;
    let standing = old.open(hub.grpc).await.unwrap();
    let new = join(hub.grpc, &token(&hub, r#","replace":true"#).await, true).await;
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
