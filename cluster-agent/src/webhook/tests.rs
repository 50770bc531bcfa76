use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Extension, Router};
use meshfed_runtime::places::Bounds;
use meshfed_runtime::tasks::AbortOnDrop;
use meshfed_runtime::{drain, tasks, tls};
use rustls::ClientConfig;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::certificate::{make, merged};
use super::review::{Answer, Question};
use super::serve::{QUESTIONS_KIB, Room, serve};
use super::{PATH, Webhook, WebhookMetrics};
use crate::inject::InjectConfig;
use crate::trust_map::TrustMap;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// Several agents share a `caBundle`: each finds its own CA in it, whatever the order, expired ones and strangers go, and
/// it does not grow with rotations.
///
/// Mutations seen to fail: `merged` keeps what has expired; it keeps all; it begins with nothing.
#[test]
fn a_bundle_holds_the_cas_of_all_agents_and_does_not_grow() {
    let ttl = Duration::from_secs(100);
    let ca = |now| make(&["a.b.svc".to_owned()], &[], now, ttl).unwrap().ca;
    let (one, two) = (ca(at(0)), ca(at(10)));
    let both = merged(&merged("", &one, at(0)), &two, at(10));
    assert_eq!(both, merged(&merged("junk", &two, at(10)), &one, at(10)));
    assert_eq!(merged(&both, &one, at(10)), both, "nothing to patch");
    let held = |bundle: &str| meshfed_ca::pem::certificates(bundle).unwrap_or_default();
    assert_eq!(held(&both).len(), 2);
    let later = ca(at(105));
    let after = merged(&both, &later, at(105));
    assert_eq!(held(&after).len(), 2, "the first has expired");
    let mut bundle = String::new();
    for n in 0..20 {
        bundle = merged(&bundle, &ca(at(n)), at(n));
    }
    assert_eq!(held(&bundle).len(), 8);
}

/// Mutation seen to fail: `sub_resource` not looked at.
#[test]
fn only_new_pods_are_asked_about() {
    let question = |kind: &str, operation: &str, sub: &str| {
        let body = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u", "kind": { "group": "", "version": "v1", "kind": kind }, "operation": operation,
                "subResource": sub, "namespace": "shop", "object": {},
            },
        });
        Question::read(&serde_json::to_vec(&body).unwrap()).unwrap().is_new_pod()
    };
    assert!(question("Pod", "CREATE", ""));
    assert!(!question("Pod", "CREATE", "ephemeralcontainers"));
    assert!(!question("Pod", "UPDATE", ""));
    assert!(!question("Service", "CREATE", ""));
    assert!(Question::read(br#"{"apiVersion":"admission.k8s.io/v1beta1","request":{"uid":"u","kind":{"group":"","kind":"Pod"},"operation":"CREATE"}}"#).is_err());
    assert!(Question::read(b"{").is_err());
    let answer = Answer::Deny(422, "why".to_owned()).write("u", &[]);
    assert_eq!(answer["response"]["allowed"], json!(false));
    assert_eq!(answer["response"]["status"]["message"], json!("meshfed: why"));
    let warned = Answer::Patch("[]".to_owned()).write("u", &["a slip".to_owned()]);
    assert_eq!((&warned["response"]["patch"], &warned["response"]["warnings"]), (&json!("W10="), &json!(["a slip"])));
    assert_eq!(answer["response"].get("warnings"), None);
}

/// A server of `router` on a loopback address, and a client that trusts it.
fn serving(router: Router, bounds: Bounds) -> (SocketAddr, tokio_rustls::TlsConnector, (drain::Trigger, AbortOnDrop)) {
    tls::install_provider();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let wall = meshfed_runtime::clock::wall();
    let pair = make(&["localhost".to_owned()], &[address.ip()], wall, Duration::from_secs(3600)).unwrap();
    let server = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(pair.chain, pair.key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pair.ca.into()).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let (trigger, drain) = drain::channel();
    let task = tasks::spawn("webhook", serve(vec![listener], Arc::new(server), router, bounds, drain));
    (address, Arc::new(client).into(), (trigger, AbortOnDrop::new(&task)))
}

async fn from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// Every pod reaches the port. One that takes all the connections that it can, and says nothing on them, takes them from
/// itself: the API server is answered all the same.
///
/// Mutations seen to fail: `take` of the places answered by waiting for a free one.
#[tokio::test]
async fn who_takes_many_connections_keeps_nobody_out() {
    let router = Router::new().route(PATH, post(async || "answered"));
    let (address, connector, _server) = serving(router, Bounds { all: 4, each: 2 });
    let long = Duration::from_secs(20);
    let name = rustls_pki_types::ServerName::IpAddress(address.ip().into());
    // After a handshake, for which there is less time, a connection may say nothing for a minute.
    let taken = async {
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(connector.connect(name.clone(), from([127, 0, 0, 9], address).await).await.unwrap());
        }
        held
    };
    let mut held = tokio::time::timeout(long, taken).await.expect("its own ones make room");
    let asked = async {
        let mut stream = connector.connect(name.clone(), from([127, 0, 0, 1], address).await).await.unwrap();
        let head = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(long, asked).await.expect("an answer");
    assert!(answer.ends_with("answered"), "{answer}");
    // Of the stranger's six the last two stand; the others were closed.
    let closed = async {
        for stream in &mut held[..4] {
            assert!(matches!(stream.read_u8().await, Err(_closed)));
        }
    };
    tokio::time::timeout(long, closed).await.expect("the oldest ones are closed");
}

/// A webhook that has not joined, and whose API server is nowhere.
fn webhook() -> Arc<Webhook> {
    tls::install_provider();
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = kube::Client::try_from(config).unwrap();
    let (_anchors, seen) = watch::channel(None);
    Arc::new(Webhook {
        config: Arc::new(InjectConfig::new("meshfed-system".parse().unwrap(), "image".to_owned())),
        trust: TrustMap::new(client.clone(), seen),
        client,
        turns: Semaphore::new(1),
        deadline: Duration::from_millis(50),
        metrics: WebhookMetrics::default(),
    })
}

async fn status_of(room: &Room, body: Body) -> StatusCode {
    super::answer(State(webhook()), Extension(room.clone()), body).await.status()
}

/// A question that does not come to its end has the time of an answer and no more, one that is too long is refused before
/// it is read, and what a connection holds here is bounded: beyond it questions wait.
///
/// Mutations seen to fail: the time not set for `take` (the test does not end); `length > most` answered `false`.
#[tokio::test]
async fn a_question_has_an_end_and_a_size() {
    let room = Room::default();
    let endless = || Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    assert_eq!(status_of(&room, endless()).await, StatusCode::REQUEST_TIMEOUT);
    let long = vec![b' '; QUESTIONS_KIB * 1024 + 1];
    assert_eq!(status_of(&room, Body::from(long)).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(status_of(&room, Body::from("{")).await, StatusCode::BAD_REQUEST);
    assert_eq!(room.0.available_permits(), QUESTIONS_KIB, "what was refused holds nothing");
    let all = u32::try_from(QUESTIONS_KIB).unwrap();
    let held = Arc::clone(&room.0).acquire_many_owned(all).await.unwrap();
    assert_eq!(status_of(&room, Body::from("{")).await, StatusCode::REQUEST_TIMEOUT, "there is no room");
    drop(held);
    assert_eq!(status_of(&room, Body::from("{")).await, StatusCode::BAD_REQUEST);
}
