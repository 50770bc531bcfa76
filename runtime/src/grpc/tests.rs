//! Handshakes over real sockets: who gets in, who does not and why, drain, limits, garbage, Unix credentials.

mod floods;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshfed_model::identity::SpiffeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tower::{Service as _, ServiceExt as _};

use super::*;
use crate::tasks::spawn;
use crate::tls::tests::{Forge, trust};
use crate::tls::{self, ClientAuth, IdentityStore, PeerPolicy, TrustStore};
use crate::{drain, listen};

const WAIT: Duration = Duration::from_secs(20);

/// Answers with what it knows of the peer, and streams until the drain on `/stream`.
fn routes(drain: drain::Watch) -> tonic::service::Routes {
    use axum::extract::Extension;
    let who = |Extension(peer): Extension<PeerInfo>| async move {
        let id = peer.id.map_or_else(|| "nobody".to_owned(), |i| i.to_string());
        format!("{id} uid={:?} leaf={}", peer.uds_cred.map(|c| c.uid), peer.leaf_sha256.is_some())
    };
    let hold = move || async move {
        drain.signaled().await;
        "drained"
    };
    let router = axum::Router::new()
        .route("/who", axum::routing::post(who))
        .route("/hold", axum::routing::post(hold))
        .route("/forever", axum::routing::post(std::future::pending::<String>))
        .route("/endless", axum::routing::post(endless))
        .route("/trickle", axum::routing::post(trickle))
        .route("/flood", axum::routing::post(|| async { vec![0u8; 32 << 20] }));
    router.into()
}

/// Kilobytes, as long as somebody takes them.
async fn endless() -> axum::body::Body {
    use futures::StreamExt as _;
    axum::body::Body::from_stream(futures::stream::repeat(vec![0u8; 1024]).map(Ok::<_, std::convert::Infallible>))
}

/// One part, and then nothing for a long time.
async fn trickle() -> axum::body::Body {
    use futures::StreamExt as _;
    let first = futures::stream::iter([Ok::<_, std::convert::Infallible>("first")]);
    axum::body::Body::from_stream(first.chain(futures::stream::pending()))
}

struct Server {
    addr: SocketAddr,
    trigger: drain::Trigger,
    task: tokio::task::JoinHandle<Result<(), ServeError>>,
    metrics: ConnectionMetrics,
}

fn server(
    identity: Arc<IdentityStore>,
    trust: Arc<TrustStore>,
    policy: Arc<dyn PeerPolicy>,
    auth: ClientAuth,
    limits: Limits,
) -> Server {
    let listener = listen::bind_tcp("--grpc-listen", "127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    let (trigger, watch) = drain::channel();
    let config = tls::server_config(identity, trust, policy, auth, &[b"h2"]).unwrap();
    let options = ServeOptions { limits, ..ServeOptions::default() };
    let metrics = options.metrics.clone();
    let task = spawn("server", serve_tls(vec![listener], config, routes(watch.clone()), watch, options));
    Server { addr, trigger, task, metrics }
}

impl Server {
    fn refused(&self, reason: &'static str) -> u64 {
        self.metrics.refused.get_or_create(&RefusedLabel { reason }).get()
    }
    fn displaced(&self, holder: &'static str) -> u64 {
        self.metrics.displaced.get_or_create(&DisplacedLabel { holder }).get()
    }
    async fn stop(self) {
        assert!(self.trigger.drained(WAIT).await);
        tokio::time::timeout(WAIT, self.task).await.unwrap().unwrap().unwrap();
    }
}

fn anybody() -> Arc<dyn PeerPolicy> {
    Arc::new(|_: &SpiffeId| true)
}

async fn call(channel: &mut Channel, path: &str) -> Result<String, String> {
    let request = http::Request::post(format!("http://x{path}")).body(tonic::body::Body::empty()).unwrap();
    let ready = channel.ready().await.map_err(|e| crate::telemetry::chain(&e))?;
    let response = ready.call(request).await.map_err(|e| crate::telemetry::chain(&e))?;
    let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), 4096).await;
    Ok(String::from_utf8(body.map_err(|e| e.to_string())?.to_vec()).unwrap())
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + WAIT;
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const FEDERATOR: &str = "spiffe://mesh.example/federator/1";
const AGENT: &str = "spiffe://mesh.example/cluster/east/agent/0";

/// Mutation seen to fail: `with_no_client_auth` for `Optional`; the policy not asked in `SpiffeVerifier::verify`.
#[tokio::test]
async fn the_peer_is_who_its_certificate_says() {
    let (fleet, rogue) = (Forge::new("mesh.example"), Forge::new("mesh.example"));
    let store = trust(&[&fleet]);
    let policy: Arc<dyn PeerPolicy> = Arc::new(|id: &SpiffeId| !id.to_string().contains("banned"));
    let s = server(fleet.identity(FEDERATOR), Arc::clone(&store), policy, ClientAuth::Optional, Limits::default());
    let target = s.addr.to_string();
    let client = |identity, trust: &Arc<TrustStore>, policy| {
        tls::client_config(identity, Arc::clone(trust), policy, &[b"h2"]).unwrap()
    };

    let mut known = connect(&target, client(Some(fleet.identity(AGENT)), &store, anybody())).await.unwrap();
    assert_eq!(call(&mut known, "/who").await.unwrap(), format!("{AGENT} uid=None leaf=true"));
    let mut nobody = connect(&format!("https://{target}"), client(None, &store, anybody())).await.unwrap();
    assert_eq!(call(&mut nobody, "/who").await.unwrap(), "nobody uid=None leaf=false");

    // The client refuses: another anchor, another identity than expected, an unknown domain.
    let refused = connect(&target, client(None, &trust(&[&rogue]), anybody())).await.unwrap_err();
    assert_eq!(refused.refusal().unwrap().as_str(), "bad_chain", "{refused}");
    let nobody_else: Arc<dyn PeerPolicy> =
        Arc::new(|id: &SpiffeId| id.to_string() == "spiffe://mesh.example/federator/2");
    let refused = connect(&target, client(None, &store, nobody_else)).await.unwrap_err();
    assert!(refused.to_string().contains("not accepted by policy: spiffe://mesh.example/federator/1"), "{refused}");
    let refused = connect(&target, client(None, &Arc::new(TrustStore::new()), anybody())).await.unwrap_err();
    assert!(refused.to_string().contains("unknown trust domain mesh.example"), "{refused}");

    // The server refuses: a stranger's certificate, and a genuine one that the policy does not want.
    // In TLS 1.3 the client is through before it is judged, so it may only learn with the first call.
    for (identity, reason) in [
        (rogue.identity(AGENT), "bad_chain"),
        (fleet.identity("spiffe://mesh.example/cluster/banned/agent/0"), "not_accepted"),
    ] {
        let outcome = match connect(&target, client(Some(identity), &store, anybody())).await {
            Ok(mut channel) => call(&mut channel, "/who").await,
            Err(e) => Err(e.to_string()),
        };
        assert!(outcome.is_err(), "{outcome:?}");
        until(reason, || s.refused(reason) >= 1).await;
    }
    drop((known, nobody));
    s.stop().await;
}

/// Mutation seen to fail: `client_auth_mandatory` always false.
#[tokio::test]
async fn required_means_required() {
    let fleet = Forge::new("mesh.example");
    let store = trust(&[&fleet]);
    let s = server(fleet.identity(FEDERATOR), Arc::clone(&store), anybody(), ClientAuth::Required, Limits::default());
    let tls = tls::client_config(None, store, anybody(), &[b"h2"]).unwrap();
    let outcome = match connect(&s.addr.to_string(), tls).await {
        Ok(mut channel) => call(&mut channel, "/who").await,
        Err(e) => Err(e.to_string()),
    };
    assert!(outcome.is_err());
    until("handshake", || s.refused("handshake") >= 1).await;
    s.stop().await;
}

/// Mutation seen to fail: the handshake awaited in the accept loop (silence then blocks everybody else);
/// no handshake deadline; `cut.cancelled()` not waited for in `handshake`.
#[tokio::test]
async fn garbage_and_silence_harm_nobody() {
    let fleet = Forge::new("mesh.example");
    let store = trust(&[&fleet]);
    let limits = Limits { strangers: 8, handshake_deadline: Duration::from_millis(1500), ..Limits::default() };
    let s = server(fleet.identity(FEDERATOR), Arc::clone(&store), anybody(), ClientAuth::Optional, limits);
    let mut silent = Vec::new();
    for _ in 0..7 {
        silent.push(TcpStream::connect(s.addr).await.unwrap());
    }
    // The eighth place is taken by an honest client, and the ninth gets that of the first.
    let tls = tls::client_config(None, Arc::clone(&store), anybody(), &[b"h2"]).unwrap();
    let mut honest = connect(&s.addr.to_string(), Arc::clone(&tls)).await.unwrap();
    assert!(call(&mut honest, "/who").await.is_ok());
    let _ninth = TcpStream::connect(s.addr).await.unwrap();
    until("a place is given up", || s.displaced("stranger") == 1).await;
    let closed = tokio::time::timeout(WAIT, silent[0].read(&mut [0; 1])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)) && s.refused("handshake_timeout") == 0);
    until("handshake_timeout", || s.refused("handshake_timeout") == 7).await;
    assert!(matches!(tokio::time::timeout(WAIT, silent[1].read(&mut [0; 1])).await.unwrap(), Ok(0) | Err(_)));
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", &[0u8; 4096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let mut peer = TcpStream::connect(s.addr).await.unwrap();
        peer.write_all(garbage).await.unwrap();
        peer.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _reset_or_alert = tokio::time::timeout(WAIT, peer.read_to_end(&mut rest)).await.unwrap();
    }
    until("handshake", || s.refused("handshake") >= 4).await;
    assert!(call(&mut honest, "/who").await.is_ok());
    assert_eq!(s.metrics.open.get(), 1);
    drop(honest);
    s.stop().await;
}

/// Mutation seen to fail: `serve_with_incoming` without the shutdown signal; `cut.cancel()` left out.
#[tokio::test]
async fn drain_finishes_what_has_begun_and_cuts_the_rest() {
    let fleet = Forge::new("mesh.example");
    let store = trust(&[&fleet]);
    let limits = Limits { drain_deadline: Duration::from_millis(800), ..Limits::default() };
    let s = server(fleet.identity(FEDERATOR), Arc::clone(&store), anybody(), ClientAuth::Optional, limits);
    let tls = tls::client_config(None, store, anybody(), &[b"h2"]).unwrap();
    let hold = |path: &'static str| {
        let (target, tls) = (s.addr.to_string(), Arc::clone(&tls));
        spawn("caller", async move {
            let mut channel = connect(&target, tls).await.unwrap();
            call(&mut channel, path).await
        })
    };
    let (ends, never) = (hold("/hold"), hold("/forever"));
    let open = s.metrics.open.clone();
    until("both connected", || open.get() == 2).await;
    let target = s.addr;
    s.stop().await;
    assert_eq!(tokio::time::timeout(WAIT, ends).await.unwrap().unwrap().unwrap(), "drained");
    assert!(tokio::time::timeout(WAIT, never).await.unwrap().unwrap().is_err());
    assert_eq!(open.get(), 0);
    assert!(TcpStream::connect(target).await.is_err(), "the listener is closed");
    let refused = connect(&target.to_string(), tls).await.unwrap_err().to_string();
    assert!(refused.to_lowercase().contains("refused"), "the cause is told: {refused}");
    assert!(matches!(connect("nonsense", tls_none()).await, Err(ConnectError::Target { .. })));
}

fn tls_none() -> Arc<rustls::ClientConfig> {
    tls::client_config(None, Arc::new(TrustStore::new()), anybody(), &[b"h2"]).unwrap()
}

/// Mutation seen to fail: `peer_cred` not put into `PeerInfo`; the mode of the socket not set; a stale file not removed.
#[tokio::test]
async fn a_unix_peer_is_known_by_its_credentials() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("xds.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a stale socket file");
    let listener = bind_unix("--run-dir", &path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    assert!(matches!(bind_unix("--run-dir", &path), Err(UnixBindError::InUse { .. })));
    let long = dir.path().join("x".repeat(120));
    let refused = bind_unix("--run-dir", &long).unwrap_err().to_string();
    assert!(refused.contains("--run-dir") && refused.contains("107"), "{refused}");

    let (trigger, watch) = drain::channel();
    let task = spawn("server", serve_unix(listener, routes(watch.clone()), watch, ServeOptions::default()));
    let mut channel = connect_unix(&path).await.unwrap();
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(call(&mut channel, "/who").await.unwrap(), format!("nobody uid=Some({uid}) leaf=false"));
    assert!(trigger.drained(WAIT).await);
    task.await.unwrap().unwrap();
    assert!(connect_unix(&dir.path().join("none")).await.is_err());
}

/// A resumed session would skip verification: none is ever offered (CA7).
/// Mutation seen to fail: `send_tls13_tickets` left at its default together with a client that resumes.
#[tokio::test]
async fn no_session_is_resumed_and_new_trust_counts_at_once() {
    let fleet = Forge::new("mesh.example");
    let server_trust = trust(&[&fleet]);
    let s = server(
        fleet.identity(FEDERATOR),
        Arc::clone(&server_trust),
        anybody(),
        ClientAuth::Required,
        Limits::default(),
    );
    // A client that would resume if it could.
    let mut tls = tls::client_config(Some(fleet.identity(AGENT)), trust(&[&fleet]), anybody(), &[b"h2"]).unwrap();
    Arc::get_mut(&mut tls).unwrap().resumption = rustls::client::Resumption::in_memory_sessions(8);
    let mut first = connect(&s.addr.to_string(), Arc::clone(&tls)).await.unwrap();
    assert!(call(&mut first, "/who").await.is_ok());
    server_trust.replace([].into()).unwrap();
    let outcome = match connect(&s.addr.to_string(), tls).await {
        Ok(mut channel) => call(&mut channel, "/who").await,
        Err(e) => Err(e.to_string()),
    };
    assert!(outcome.is_err(), "{outcome:?}");
    until("unknown_trust_domain", || s.refused("unknown_trust_domain") >= 1).await;
    drop(first);
    s.stop().await;
}
