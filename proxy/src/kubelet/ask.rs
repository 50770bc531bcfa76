//! Edge. One question to the application.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use meshfed_runtime::tls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::answer::status;
use super::spec::{HttpGet, Question};

/// Bytes of an answer that are read: the status line lies in them.
const ANSWER_MAX: usize = 1024;
/// Largest gRPC answer.
const GRPC_MAX: usize = 4096;

/// Asks; why it is no success otherwise. The caller sets the time.
pub(super) async fn ask(question: &Question, host: IpAddr, user_agent: &str) -> Result<(), String> {
    match question {
        Question::Tcp(port) => connect((host, *port).into()).await.map(drop),
        Question::Http(http) => {
            let address = (host, http.port).into();
            let stream = connect(address).await?;
            if http.tls {
                get(secured(stream, host).await?, http, address, user_agent).await
            } else {
                get(stream, http, address, user_agent).await
            }
        }
        Question::Grpc(port, service) => health((host, *port).into(), service).await,
    }
}

/// The source of a question. What the proxy sends from the pod's own address to that same address is led back to the proxy by
/// the pod's rules, and an application under STRICT would never be asked; and it is not that of captured inbound connections:
/// a server that shuts out who keeps leaving without a word (MySQL and MariaDB by `max_connect_errors`) would shut out all.
pub(crate) const fn source(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let connecting = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(source(address.ip()), 0))?;
        socket.connect(address).await
    };
    connecting.await.map_err(|e: std::io::Error| format!("{address}: {e}"))
}

/// What cannot stand in a request's head.
fn is_plain(text: &str) -> bool {
    !text.bytes().any(|b| b.is_ascii_control())
}

fn head(http: &HttpGet, address: SocketAddr, user_agent: &str) -> Result<String, String> {
    let given = |name: &str| http.http_headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    let plain = is_plain(&http.path) && !http.path.contains(' ');
    if !plain || http.http_headers.iter().any(|h| !is_plain(&h.name) || !is_plain(&h.value)) {
        return Err("the probe's path or headers hold control characters".to_owned());
    }
    let slash = if http.path.starts_with('/') { "" } else { "/" };
    let mut head = format!("GET {slash}{} HTTP/1.1\r\nconnection: close\r\n", http.path);
    for (name, value) in [("host", address.to_string().as_str()), ("user-agent", user_agent), ("accept", "*/*")] {
        if !given(name) && is_plain(value) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for header in &http.http_headers {
        head.push_str(&format!("{}: {}\r\n", header.name, header.value));
    }
    head.push_str("\r\n");
    Ok(head)
}

async fn get(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    http: &HttpGet,
    address: SocketAddr,
    user_agent: &str,
) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{address}: {e}");
    let head = head(http, address, user_agent)?;
    stream.write_all(head.as_bytes()).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut answer = Vec::with_capacity(ANSWER_MAX);
    while answer.len() < ANSWER_MAX && !answer.windows(2).any(|w| w == b"\r\n") {
        if stream.read_buf(&mut answer).await.map_err(failed)? == 0 {
            break;
        }
    }
    match status(&answer) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("the application answers {status}")),
        None => Err(format!("{address} does not speak HTTP/1.1")),
    }
}

async fn health(address: SocketAddr, service: &str) -> Result<(), String> {
    let failed = |e: tonic::transport::Error| format!("{address}: {}", meshfed_runtime::telemetry::chain(&e));
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).map_err(failed)?;
    let channel = endpoint.local_address(Some(source(address.ip()))).connect().await.map_err(failed)?;
    let mut client = HealthClient::new(channel).max_decoding_message_size(GRPC_MAX);
    let answer = client.check(HealthCheckRequest { service: service.to_owned() }).await;
    let answer = answer.map_err(|s| format!("{address}: {:?}: {}", s.code(), s.message()))?.into_inner();
    match answer.status() {
        ServingStatus::Serving => Ok(()),
        other @ (ServingStatus::Unknown | ServingStatus::NotServing | ServingStatus::ServiceUnknown) => {
            Err(format!("the application says {}", other.as_str_name()))
        }
    }
}

async fn secured(stream: TcpStream, host: IpAddr) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = tls::provider();
    let verifier = Arc::new(Unverified(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::IpAddress(host.into()), stream).await.map_err(|e| format!("TLS: {e}"))
}

/// Takes every certificate, as the kubelet does: nothing is sent but the probe, and an answer is believed only as far as
/// the container itself is.
#[derive(Debug)]
struct Unverified(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
