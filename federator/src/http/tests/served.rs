//! Over real TLS sockets.

use std::net::SocketAddr;
use std::time::Duration;

use meshfed_runtime::grpc::{ConnectionMetrics, CutLabel};
use meshfed_runtime::{drain, tasks, tls};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::*;

async fn connect(address: SocketAddr, ca: &[u8], alpn: &[u8], name: &str) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(ca.to_vec())).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
    stream
}

async fn call(address: SocketAddr, ca: &[u8], alpn: &[u8], name: &str, token: &str) -> (StatusCode, bool) {
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
        tasks::spawn("test-client", connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tasks::spawn("test-client", connection);
        sender.send_request(request).await.unwrap()
    };
    (response.status(), response.headers().contains_key("server"))
}

/// Mutation seen to fail: `graceful_shutdown` left out of `connection`.
#[tokio::test(flavor = "multi_thread")]
async fn https_with_the_credentials_of_the_data_directory() {
    tls::install_provider();
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let address = listener.local_addr().unwrap();
    let credentials = ensure(dir.path(), &[address], &["hub.example".into()]).unwrap();
    let token = std::fs::read_to_string(dir.path().join("admin.token")).unwrap();
    let room = room(Fake::default(), credentials.token_sha256());
    let (trigger, watch) = drain::channel();
    let tls = watch::Sender::new(credentials.server_config());
    let server = serve(vec![listener], tls.subscribe(), room.router.clone(), watch, ConnectionMetrics::default());
    let server = tasks::spawn("test-server", server);
    let ca = credentials.ca().as_ref();
    for (alpn, name) in
        [(&b"http/1.1"[..], "127.0.0.2"), (b"h2", "hub.example"), (b"h2", "localhost"), (b"http/1.1", "127.0.0.1")]
    {
        assert_eq!(call(address, ca, alpn, name, &token).await, (StatusCode::OK, false), "{name}");
    }
    assert_eq!(call(address, ca, b"h2", "::1", "wrong").await.0, StatusCode::UNAUTHORIZED);
    // Connections that never finish a handshake, and plain HTTP, disturb nobody.
    let idle = TcpStream::connect(address).await.unwrap();
    assert_eq!(call(address, ca, b"http/1.1", "127.0.0.2", &token).await.0, StatusCode::OK);
    let held = connect(address, ca, b"http/1.1", "127.0.0.2").await;
    let held2 = connect(address, ca, b"h2", "127.0.0.2").await;
    assert!(trigger.drained(Duration::from_secs(3)).await, "idle connections do not hold up the drain");
    server.await.unwrap().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err());
    drop((idle, held, held2));
}

/// Floods and silence on the API's own port; an honest client does not notice.
///
/// Mutation seen to fail: `Guarded` left out of `connection`.
#[tokio::test(flavor = "multi_thread")]
async fn floods_end_their_own_connection() {
    tls::install_provider();
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let credentials = ensure(dir.path(), &[address], &[]).unwrap();
    let token = std::fs::read_to_string(dir.path().join("admin.token")).unwrap();
    let room = room(Fake::default(), credentials.token_sha256());
    let (trigger, watch) = drain::channel();
    let (tls, metrics) = (watch::Sender::new(credentials.server_config()), ConnectionMetrics::default());
    let server = serve(vec![listener], tls.subscribe(), room.router.clone(), watch, metrics.clone());
    let server = tasks::spawn("test-server", server);
    let ca = credentials.ca().as_ref();
    let cut = |reason| metrics.cut.get_or_create(&CutLabel { reason }).get();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    for (frame, reason) in [(&settings[..], "control_flood"), (&ping, "control_flood")] {
        let before = cut(reason);
        let mut flood = connect(address, ca, b"h2", "localhost").await;
        flood.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat()).await.unwrap();
        let _closed_early = flood.write_all(&frame.repeat(5000)).await;
        let mut answers = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), flood.read_to_end(&mut answers)).await;
        let _reset_or_end = read.expect("the connection ends");
        assert!(answers.len() < 200 * 17, "{} bytes of answers", answers.len());
        assert_eq!(cut(reason), before + 1);
    }
    assert_eq!(call(address, ca, b"h2", "localhost", &token).await.0, StatusCode::OK);
    assert!(trigger.drained(Duration::from_secs(5)).await);
    server.await.unwrap().unwrap();
    assert_eq!(metrics.open.get(), 0);
}
