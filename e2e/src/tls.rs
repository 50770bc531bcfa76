//! Edge. TLS from outside: hellos for any name, and clients with certificates that we mint.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// How long one exchange may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Takes any server certificate: the test judges what the server does, not who it is.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
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
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ED25519]
    }
}

/// A client certificate.
pub type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A client that takes any server, with a certificate or none.
///
/// # Panics
/// When the certificate and its key do not fit.
#[must_use]
pub fn anyone(certificate: Option<ClientCertificate>, alpn: &[&[u8]]) -> ClientConfig {
    let builder = ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(Anyone));
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("a client certificate"),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config
}

fn server_name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).expect("a server name")
}

/// A certificate for any URIs, signed with the CA key in a data directory's `ca/`, as an intruder on that cluster's
/// node would make it: with another library than the product's own issuing code.
///
/// # Panics
/// When the directory holds no CA.
#[must_use]
pub fn mint_uris(ca_dir: &Path, uris: &[&str]) -> ClientCertificate {
    let read = |name: &str| std::fs::read_to_string(ca_dir.join(name)).expect("a member's ca directory");
    let ca_key = KeyPair::from_pem(&read("key.pem")).expect("ca/key.pem");
    let issuer = Issuer::from_ca_cert_pem(&read("anchor.pem"), ca_key).expect("ca/anchor.pem");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("an ASCII URI"))).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    // The fleets of these tests live for minutes; the machine's clock decides.
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2096, 1, 1);
    let leaf = params.signed_by(&key, &issuer).expect("a signature");
    (vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

/// As [`mint_uris`], for one identity.
#[must_use]
pub fn mint(ca_dir: &Path, id: &str) -> ClientCertificate {
    mint_uris(ca_dir, &[id])
}

/// A TLS server that answers every request with 200; it ends when it is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    tried: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Handshakes that were begun.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.tried.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Serves with a certificate; asks for no client certificate.
///
/// # Panics
/// When the address is in use, or certificate and key do not fit.
#[must_use]
pub fn serve(address: SocketAddr, (chain, key): ClientCertificate) -> Server {
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a server certificate");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let listener = crate::wait::until("the address is free", DEADLINE, || std::net::TcpListener::bind(address));
    listener.set_nonblocking(true).expect("a listener");
    let (stop, tried) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&tried));
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            let Ok((stream, _peer)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            counted.fetch_add(1, Ordering::Relaxed);
            let _refused = answer(stream, Arc::clone(&config));
        }
    });
    Server { stop, tried, thread: Some(thread) }
}

fn answer(mut stream: TcpStream, config: Arc<rustls::ServerConfig>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut connection = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    let mut request = [0_u8; 4096];
    let _head = tls.read(&mut request)?;
    tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")?;
    tls.flush()
}

/// What a server answers to a hello for `name`: the alert's description, if it is an alert.
///
/// # Errors
/// What the socket says.
#[expect(clippy::unwrap_in_result, reason = "only the socket may fail; the rest is the harness's own")]
pub fn alert(address: SocketAddr, name: &str) -> std::io::Result<Option<u8>> {
    let mut connection = ClientConnection::new(Arc::new(anyone(None, &[])), server_name(name)).expect("a client");
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    connection.write_tls(&mut stream)?;
    let mut head = [0_u8; 7];
    stream.read_exact(&mut head)?;
    Ok((head[0] == 21).then_some(head[6]))
}

/// One HTTP request over TLS with a client certificate; what came back, or why nothing did.
///
/// # Errors
/// The TLS error or what the socket says.
pub fn request(
    address: SocketAddr,
    name: &str,
    certificate: Option<ClientCertificate>,
    host: &str,
) -> Result<String, String> {
    let mut connection = ClientConnection::new(Arc::new(anyone(certificate, &[b"http/1.1"])), server_name(name))
        .map_err(|e| e.to_string())?;
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(DEADLINE)).map_err(|e| e.to_string())?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    tls.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
        .map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    match tls.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if !answer.is_empty() && error.kind() == std::io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error.to_string()),
    }
    if answer.is_empty() {
        return Err("closed without an answer".to_owned());
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
