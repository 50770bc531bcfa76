use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::hello::{NAME, client};
use crate::listen::Limits;
use crate::listen::tests::{Rig, any, cluster, eventually, gateway};
use crate::passthrough::Outcome;

/// The alert `unrecognized_name`, as it stands on the wire.
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 0x70];

/// A TLS server that gives back what it gets.
async fn echo() -> SocketAddr {
    meshfed_runtime::tls::install_provider();
    let pair = rcgen::generate_simple_self_signed(vec!["b.local".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _for_the_test = meshfed_runtime::tasks::spawn("echo", async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            let _for_the_test = meshfed_runtime::tasks::spawn("echo connection", async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let (mut read, mut write) = tokio::io::split(tls);
                let _ended = tokio::io::copy(&mut read, &mut write).await;
                let _ended = write.shutdown().await;
            });
        }
    });
    address
}

fn rig(upstreams: &[SocketAddr]) -> (Rig, SocketAddr) {
    let mut rig = Rig::new(Limits::new(1000));
    let (cell, listener) = gateway(&[any()], NAME, &cluster(NAME, upstreams));
    rig.listeners.install(&cell, &listener).unwrap();
    let address = rig.addresses("gateway")[0];
    (rig, address)
}

async fn connect(
    gateway: SocketAddr,
    name: &str,
    post_quantum: bool,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(gateway).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(client(post_quantum))).connect(name, tcp).await
}

/// Mutation seen to fail: `self.held.extend_from_slice(rest)` left out.
#[tokio::test]
async fn ten_megabytes_pass_byte_exact_both_ways() {
    let (rig, address) = rig(&[echo().await]);
    for post_quantum in [false, true] {
        let tls = connect(address, NAME, post_quantum).await.unwrap();
        let sent: Vec<u8> = (0..10_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let (mut read, mut write) = tokio::io::split(tls);
        let expected = sent.clone();
        let writing = meshfed_runtime::tasks::spawn("writer", async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        writing.await.unwrap();
        assert!(got == expected, "{} bytes came back", got.len());
    }
    assert_eq!(rig.gateway.total(Outcome::Forwarded), 2);
    let text = rig.metrics.encode();
    assert!(text.contains("meshfed_gateway_connections_total{result=\"forwarded\",reason=\"\"} 2"), "{text}");
    assert!(rig.drained(Duration::from_secs(5)).await, "the workers end when their tunnels have");
}

/// Mutation seen to fail: `alert::UNRECOGNIZED_NAME` replaced by `alert::DECODE_ERROR` for unknown names.
#[tokio::test]
async fn an_unknown_or_absent_name_gets_alert_112_and_is_never_dialled() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (rig, address) = rig(&[upstream.local_addr().unwrap()]);
    for (name, outcome) in
        [("outbound_.8080_._.nope.shop.svc.clusterset.local", Outcome::UnknownSni), ("127.0.0.1", Outcome::NoSni)]
    {
        let error = connect(address, name, false).await.unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{name}: {error}");
        assert_eq!(rig.gateway.total(outcome), 1);
        // The bytes themselves, by a client that dribbles: one byte per segment, then silence.
        let mut hello = Vec::new();
        let server = ServerName::try_from(name.to_owned()).unwrap();
        rustls::ClientConnection::new(Arc::new(client(true)), server).unwrap().write_tls(&mut hello).unwrap();
        let mut raw = TcpStream::connect(address).await.unwrap();
        raw.set_nodelay(true).unwrap();
        for byte in hello {
            raw.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut got = Vec::new();
        raw.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, UNRECOGNIZED_NAME);
        assert_eq!(rig.gateway.total(outcome), 2);
    }
    let dialled = tokio::time::timeout(Duration::from_millis(50), upstream.accept()).await;
    assert!(dialled.is_err(), "somebody was dialled");
}

/// Mutation seen to fail: `self.metrics.count(Outcome::BadHello)` left out for refused hellos.
#[tokio::test]
async fn garbage_is_closed_and_counted() {
    let (rig, address) = rig(&[echo().await]);
    for (i, garbage) in
        [&b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"[..], b"\x80\x2e\x01\x03\x01\x00", b"\x16\x03\x01\x40\x01\x01"]
            .iter()
            .enumerate()
    {
        let mut raw = TcpStream::connect(address).await.unwrap();
        raw.write_all(garbage).await.unwrap();
        let mut got = Vec::new();
        let _reset_or_end = raw.read_to_end(&mut got).await;
        assert!(got.len() <= 7, "{got:?}");
        eventually("counted", || rig.gateway.total(Outcome::BadHello) == i as u64 + 1).await;
    }
    assert!(connect(address, NAME, false).await.is_ok(), "others are served on");
}

/// Mutation seen to fail: `tried.push(endpoint.address)` of `dial` followed by `break`; `Outcome::Unreachable` not counted.
#[tokio::test]
async fn a_failed_connect_tries_another_endpoint() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (rig, address) = rig(&[dead, echo().await]);
    for _ in 0..20 {
        connect(address, NAME, false).await.unwrap();
    }
    assert_eq!(rig.gateway.total(Outcome::Forwarded), 20);
    let mut nobody = Rig::new(Limits::new(10));
    let (cell, listener) = gateway(&[any()], NAME, &cluster(NAME, &[dead]));
    nobody.listeners.install(&cell, &listener).unwrap();
    assert!(connect(nobody.addresses("gateway")[0], NAME, false).await.is_err());
    assert!(nobody.metrics.encode().contains("meshfed_gateway_upstream_failures_total{reason=\"connect\"} 1"));
    let refused = "meshfed_gateway_connections_total{result=\"refused\",reason=\"unreachable\"} 1";
    assert!(nobody.metrics.encode().contains(refused), "a refusal in no series");
}

/// A kept connection on which nothing is asked ends in the drain, and before its end; nobody waits for the timeout.
///
/// Mutation seen to fail: `sweep_draining` not called.
#[tokio::test]
async fn a_kept_connection_that_is_quiet_does_not_hold_up_a_drain() {
    let (rig, address) = rig(&[echo().await]);
    let mut tls = connect(address, NAME, false).await.unwrap();
    tls.write_all(b"hi").await.unwrap();
    tls.read_exact(&mut [0; 2]).await.unwrap();
    assert!(rig.drained(Duration::from_secs(60)).await);
    let ended = tls.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::UnexpectedEof, "an end without reset: {ended}");
}
