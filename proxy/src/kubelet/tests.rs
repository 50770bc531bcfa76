use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use meshfed_runtime::{tasks, tls};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use super::*;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Answers each connection with this status, and tells the heads that it saw.
async fn http_app(status: &'static str, secured: bool) -> (u16, tokio::sync::mpsc::Receiver<String>) {
    let (listener, port) = listener().await;
    let (seen, heads) = tokio::sync::mpsc::channel(16);
    let key = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![key.cert.der().clone()], der).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tasks::spawn("application", async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            // What comes from the pod's own address is led back to the proxy, and clients come from 127.0.0.6.
            assert_eq!(peer.ip().to_string(), "127.0.0.1");
            let mut head = vec![0u8; 4096];
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let read = if secured {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let read = stream.read(&mut head).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                read
            } else {
                let mut stream = stream;
                let read = stream.read(&mut head).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                read
            };
            seen.send(String::from_utf8_lossy(&head[..read]).into_owned()).await.unwrap();
        }
    });
    (port, heads)
}

async fn asked(probes: &str, path: &str) -> StatusCode {
    let router = routes(Probes::read(probes).unwrap(), HOST);
    let request = Request::get(path).header("user-agent", "kube-probe/1.33").body(Body::empty()).unwrap();
    router.oneshot(request).await.unwrap().status()
}

/// What the kubelet would have asked is asked, with its headers, and success is what it would have called so.
///
/// Mutations seen to fail: the socket is not bound; 400 counts as success; the probe's own headers are left out;
/// `tls` is ignored.
#[tokio::test]
async fn http_and_https_probes_are_asked_as_the_kubelet_would() {
    tls::install_provider();
    let path = "/app-health/app/livez";
    for (status, secured, wanted) in [
        ("200 OK", false, StatusCode::OK),
        ("302 Found", false, StatusCode::OK),
        ("400 Bad Request", false, StatusCode::SERVICE_UNAVAILABLE),
        ("503 Later", false, StatusCode::SERVICE_UNAVAILABLE),
        ("200 OK", true, StatusCode::OK),
        ("500 No", true, StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let (port, mut heads) = http_app(status, secured).await;
        let probes = format!(
            r#"{{"app/livez":{{"httpGet":{{"path":"/live?x=1","port":{port},"tls":{secured},"httpHeaders":[{{"name":"Host","value":"b"}},{{"name":"X","value":"1"}}]}},"timeoutSeconds":5}}}}"#
        );
        assert_eq!(asked(&probes, path).await, wanted, "{status} {secured}");
        let head = heads.recv().await.unwrap();
        assert!(head.starts_with("GET /live?x=1 HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("\r\nuser-agent: kube-probe/1.33\r\n") && head.contains("\r\nHost: b\r\nX: 1\r\n"),
            "{head}"
        );
    }
}

/// Mutations seen to fail: NOT_SERVING counts as success; a probe that nobody wrote down is answered.
#[tokio::test]
async fn tcp_and_grpc_probes_are_asked_and_nothing_else() {
    let (open, port) = listener().await;
    let probes = format!(r#"{{"app/readyz":{{"tcpSocket":{{"port":{port}}}}}}}"#);
    assert_eq!(asked(&probes, "/app-health/app/readyz").await, StatusCode::OK);
    assert_eq!(asked(&probes, "/app-health/app/livez").await, StatusCode::NOT_FOUND);
    assert_eq!(asked(&probes, "/app-health/other/readyz").await, StatusCode::NOT_FOUND);
    drop(open);
    assert_eq!(asked(&probes, "/app-health/app/readyz").await, StatusCode::SERVICE_UNAVAILABLE);

    let (listener, port) = listener().await;
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("b", tonic_health::ServingStatus::Serving).await;
    reporter.set_service_status("down", tonic_health::ServingStatus::NotServing).await;
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tasks::spawn("application", async move {
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
    });
    for (service, wanted) in
        [("b", StatusCode::OK), ("down", StatusCode::SERVICE_UNAVAILABLE), ("none", StatusCode::SERVICE_UNAVAILABLE)]
    {
        let probes =
            format!(r#"{{"app/startupz":{{"grpc":{{"port":{port},"service":"{service}"}},"timeoutSeconds":5}}}}"#);
        assert_eq!(asked(&probes, "/app-health/app/startupz").await, wanted, "{service}");
    }
}

/// Mutation seen to fail: a probe with two questions takes the first.
#[test]
fn probes_are_of_the_form_that_injection_writes() {
    assert!(Probes::read("{}").is_ok());
    for wrong in [
        "",
        "[]",
        r#"{"a/livez":{}}"#,
        r#"{"a/livez":{"tcpSocket":{"port":1},"grpc":{"port":1}}}"#,
        r#"{"a/livez":{"tcpSocket":{"port":70000}}}"#,
        r#"{"a/livez":{"exec":{}}}"#,
    ] {
        assert!(Probes::read(wrong).is_err(), "{wrong}");
    }
}
