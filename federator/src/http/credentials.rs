//! Edge. Credentials of the HTTP API: the administrator's token, the API's own CA and its server certificate.
//!
//! Made once and never overwritten; only the server certificate and the `server` of `admin.yaml` follow each start.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use meshfed_ca::keys::{KeyError, SigningKey, sha256};
use meshfed_ca::pem;
use meshfed_runtime::files::{self, FileError, MODE_PUBLIC};
use meshfed_runtime::{clock, tls};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, DnsName};
use zeroize::Zeroizing;

/// The administrator's token.
pub(super) const ADMIN_TOKEN: &str = "admin.token";
/// The API's CA certificate.
pub(super) const CA: &str = "api-ca.pem";
/// Its key.
pub(super) const CA_KEY: &str = "api-ca-key.pem";
/// The largest credential file read, in bytes.
const FILE_MAX: usize = 64 << 10;
/// Life of the API's CA.
const CA_TTL: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Life of the server certificate, made anew at every start: the most that browsers take from a CA of one's own.
const SERVER_TTL: Duration = Duration::from_secs(820 * 24 * 3600);
/// Certificates begin in the past, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(120);
/// Characters of a token: 32 bytes as base64url.
const TOKEN_LEN: usize = 43;
/// Where `admin.yaml` points while the HTTP API is off.
const SERVER_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15680);

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read or written.
    #[error("a credential file cannot be used")]
    File(#[from] FileError),
    /// A file holds something else.
    #[error("{} {what}; make new credentials with: meshfed credential reset --data-dir DIR", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Not the data directory of a federator.
    #[error("{} is not the data directory of a federator: it holds neither admin.token nor registry.redb", .0.display())]
    NoFederator(PathBuf),
    /// The data directory cannot be locked.
    #[error("the data directory cannot be locked")]
    Lock(#[source] std::io::Error),
    /// A name that no certificate can have.
    #[error("--http-san '{0}' is neither a DNS name nor an IP address")]
    Name(String),
    /// No random numbers were to be had.
    #[error("the operating system gave no random numbers")]
    Randomness,
    /// A key cannot be made.
    #[error("a key could not be made")]
    Key(#[from] KeyError),
    /// A certificate cannot be made.
    #[error("a certificate could not be made")]
    Certificate(#[from] rcgen::Error),
    /// rustls does not take our own certificate.
    #[error("the server certificate cannot be used")]
    Tls(#[from] rustls::Error),
}

/// What the HTTP API runs with.
#[derive(Clone)]
pub struct Credentials {
    token_sha256: [u8; 32],
    ca: CertificateDer<'static>,
    server_config: Arc<ServerConfig>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// SHA-256 of the administrator's token.
    #[must_use]
    pub const fn token_sha256(&self) -> [u8; 32] {
        self.token_sha256
    }
    /// The API's CA certificate.
    #[must_use]
    pub const fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }
    /// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server_config)
    }
}

/// Makes what is missing of the credentials in `data_dir`; `listen` are the addresses in use, none when the API is off.
///
/// # Errors
/// [`CredentialError`]; nothing that exists was changed.
pub fn ensure(data_dir: &Path, listen: &[SocketAddr], sans: &[String]) -> Result<Credentials, CredentialError> {
    let _locked = lock(data_dir)?;
    complete(data_dir, listen, sans)
}

/// Keeps a reset and a start apart, until it is dropped.
pub(super) fn lock(data_dir: &Path) -> Result<std::fs::File, CredentialError> {
    let directory = std::fs::File::open(data_dir).map_err(CredentialError::Lock)?;
    directory.lock().map_err(CredentialError::Lock)?;
    Ok(directory)
}

/// [`ensure`] by the holder of the [`lock`].
pub(super) fn complete(
    data_dir: &Path,
    listen: &[SocketAddr],
    sans: &[String],
) -> Result<Credentials, CredentialError> {
    let names = names(listen, sans)?;
    let token = token(&data_dir.join(ADMIN_TOKEN))?;
    let (key, ca) = authority(data_dir)?;
    let ca_pem = pem::encode_certificates([ca.as_ref()]);
    admin_file(&data_dir.join("admin.yaml"), listen, sans, &ca_pem, &token)?;
    let server_config = server_config(&key, &ca, names)?;
    Ok(Credentials { token_sha256: sha256(token.as_bytes()), ca, server_config })
}

fn read(path: &Path) -> Result<Option<Zeroizing<String>>, CredentialError> {
    match files::read_text(path, FILE_MAX) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn token(path: &Path) -> Result<Zeroizing<String>, CredentialError> {
    if let Some(text) = read(path)? {
        let token = Zeroizing::new(text.trim().to_owned());
        let ok = token.len() == TOKEN_LEN && URL_SAFE_NO_PAD.decode(token.as_bytes()).is_ok();
        let damaged = || CredentialError::Damaged { path: path.to_owned(), what: "holds no token" };
        return if ok { Ok(token) } else { Err(damaged()) };
    }
    write_token(path)
}

/// A new token.
pub(super) fn write_token(path: &Path) -> Result<Zeroizing<String>, CredentialError> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    rand::fill(bytes.as_mut_slice()).map_err(|_unspecified| CredentialError::Randomness)?;
    let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()));
    // No newline: `$(cat …)` does not care, a program that reads the file would.
    files::write_secret(path, token.as_bytes())?;
    Ok(token)
}

/// The key comes first, so that a crash in between leaves a key that its certificate can still be made of.
fn authority(data_dir: &Path) -> Result<(SigningKey, CertificateDer<'static>), CredentialError> {
    let (key_path, ca_path) = (data_dir.join(CA_KEY), data_dir.join(CA));
    let damaged = |path: &Path, what| CredentialError::Damaged { path: path.to_owned(), what };
    let (key, ca) = (read(&key_path)?, read(&ca_path)?);
    let key = match key {
        Some(text) => SigningKey::from_pkcs8_pem(&text)
            .map_err(|_not_a_key| damaged(&key_path, "holds no P-256 key in PKCS#8"))?,
        None if ca.is_some() => return Err(damaged(&key_path, "is missing, and only it can sign for api-ca.pem")),
        None => {
            let key = SigningKey::generate()?;
            files::write_secret(&key_path, key.to_pkcs8_pem().as_bytes())?;
            key
        }
    };
    if let Some(text) = ca {
        let found = pem::certificates(&text).map_err(|_not_pem| damaged(&ca_path, "holds no certificate"))?;
        let ca = found.into_iter().next().ok_or_else(|| damaged(&ca_path, "holds no certificate"))?;
        return if is_of(&ca, &key) { Ok((key, ca)) } else { Err(damaged(&ca_path, "is of another key")) };
    }
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "meshfed");
    subject.push(DnType::CommonName, "meshfed API CA");
    let mut params = params(subject, CA_TTL)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = params.self_signed(&key)?.der().clone();
    files::write_atomic(&ca_path, pem::encode_certificates([ca.as_ref()]).as_bytes(), MODE_PUBLIC)?;
    Ok((key, ca))
}

fn is_of(certificate: &CertificateDer<'_>, key: &SigningKey) -> bool {
    use x509_parser::prelude::FromDer as _;
    x509_parser::prelude::X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.is_ca() && parsed.public_key().raw == key.public_key_der())
}

fn params(subject: DistinguishedName, ttl: Duration) -> Result<CertificateParams, CredentialError> {
    let mut serial = [0u8; 17];
    rand::fill(&mut serial).map_err(|_unspecified| CredentialError::Randomness)?;
    serial[0] = 1;
    let now = clock::wall();
    let mut params = CertificateParams::default();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + ttl).into();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = subject;
    Ok(params)
}

/// A name of the server certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Address(IpAddr),
    Dns(String),
}

/// Loopback always, the addresses in use, and what the operator names.
fn names(listen: &[SocketAddr], sans: &[String]) -> Result<BTreeSet<Name>, CredentialError> {
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let mut names: BTreeSet<Name> = loopback.into_iter().map(Name::Address).collect();
    names.insert(Name::Dns("localhost".to_owned()));
    names.extend(listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).map(Name::Address));
    for san in sans {
        names.insert(name(san).ok_or_else(|| CredentialError::Name(san.clone()))?);
    }
    Ok(names)
}

fn name(san: &str) -> Option<Name> {
    if let Ok(ip) = san.parse::<IpAddr>() {
        return Some(Name::Address(ip));
    }
    let host = san.strip_prefix("*.").unwrap_or(san);
    DnsName::try_from(host).is_ok().then(|| Name::Dns(san.to_ascii_lowercase()))
}

/// Whether a certificate can have that name: a DNS name, with `*.` in front or not, or an IP address.
#[must_use]
pub fn is_san(san: &str) -> bool {
    name(san).is_some()
}

fn server_config(
    ca_key: &SigningKey,
    ca: &CertificateDer<'static>,
    names: BTreeSet<Name>,
) -> Result<Arc<ServerConfig>, CredentialError> {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "meshfed");
    subject.push(DnType::CommonName, "meshfed API");
    let mut params = params(subject, SERVER_TTL)?;
    for name in names {
        params.subject_alt_names.push(match name {
            Name::Address(ip) => SanType::IpAddress(ip),
            Name::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = SigningKey::generate()?;
    let issuer = Issuer::from_ca_cert_der(ca, ca_key)?;
    let certificate = params.signed_by(&key, &issuer)?.der().clone();
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate, ca.clone()], key.to_private_key_der())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Self-contained: what it holds is made of the other files, so it is written anew whenever it differs from them.
fn admin_file(
    path: &Path,
    listen: &[SocketAddr],
    sans: &[String],
    ca_pem: &str,
    token: &str,
) -> Result<(), CredentialError> {
    let held = read(path)?;
    let held = held.as_ref().map(|text| text.as_str());
    let server = server(held.and_then(server_of), listen, sans);
    let mut text = Zeroizing::new(String::with_capacity(4096));
    let written = write!(
        text,
        "server: \"{server}\"\ncertificateAuthorityData: \"{}\"\ntoken: \"{token}\"\n",
        STANDARD.encode(ca_pem)
    );
    // Writing into a String cannot fail.
    debug_assert!(written.is_ok());
    if held != Some(text.as_str()) {
        files::write_secret(path, text.as_bytes())?;
    }
    Ok(())
}

fn server_of(text: &str) -> Option<&str> {
    let line = text.lines().find_map(|line| line.strip_prefix("server:"))?;
    Some(line.trim().trim_matches(['"', '\'']))
}

fn url(host: &str, port: u16) -> String {
    if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") }
}

/// An address that a client on this machine can dial.
fn dialled(address: &SocketAddr) -> IpAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    }
}

/// The host that an operator chose stays as long as it is one of ours; the port is the one in use.
fn server(held: Option<&str>, listen: &[SocketAddr], sans: &[String]) -> String {
    let host = held.and_then(|held| held.strip_prefix("https://")).map(|rest| {
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    });
    let Some(first) = listen.first() else {
        return held.map_or_else(|| url(&SERVER_DEFAULT.ip().to_string(), SERVER_DEFAULT.port()), str::to_owned);
    };
    if let Some(host) = host {
        if let Some(same) = listen.iter().find(|a| dialled(a).to_string() == host) {
            return url(host, same.port());
        }
        if host == "localhost" && first.ip().is_loopback() || sans.iter().any(|san| san == host) {
            return url(host, first.port());
        }
    }
    url(&dialled(first).to_string(), first.port())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn text(dir: &Path, name: &str) -> String {
        std::fs::read_to_string(dir.join(name)).unwrap()
    }

    /// Mutation seen to fail: `token` writing although the file is there.
    #[test]
    fn a_second_start_keeps_all_but_the_port() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["admin.token", "api-ca.pem", "api-ca-key.pem"];
        let first = ensure(dir.path(), &["127.0.0.1:4001".parse().unwrap()], &[]).unwrap();
        let before = names.map(|n| text(dir.path(), n));
        let yaml = text(dir.path(), "admin.yaml");
        assert!(yaml.starts_with("server: \"https://127.0.0.1:4001\"\n"), "{yaml}");
        assert!(yaml.contains(&format!("token: \"{}\"", before[0])));
        assert!(yaml.contains(&STANDARD.encode(&before[1])));
        assert_eq!(first.token_sha256(), sha256(before[0].as_bytes()));
        let second = ensure(dir.path(), &["127.0.0.1:4002".parse().unwrap()], &[]).unwrap();
        assert_eq!(names.map(|n| text(dir.path(), n)), before);
        assert_eq!(text(dir.path(), "admin.yaml"), yaml.replace(":4001", ":4002"));
        assert_eq!((first.token_sha256(), first.ca()), (second.token_sha256(), second.ca()));
        for (name, mode) in
            [("admin.token", 0o600), ("api-ca-key.pem", 0o600), ("admin.yaml", 0o600), ("api-ca.pem", 0o644)]
        {
            assert_eq!(std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777, mode, "{name}");
        }
    }

    /// Mutation seen to fail: `is_of` content with any CA.
    #[test]
    fn damaged_files_are_named_and_stay() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        ensure(dir.path(), &[], &[]).unwrap();
        ensure(other.path(), &[], &[]).unwrap();
        assert!(text(dir.path(), "admin.yaml").contains("https://127.0.0.1:15680"));
        std::fs::copy(other.path().join("api-ca.pem"), dir.path().join("api-ca.pem")).unwrap();
        let error = ensure(dir.path(), &[], &[]).unwrap_err().to_string();
        assert!(error.contains("api-ca.pem") && error.contains("another key"), "{error}");
        std::fs::remove_file(dir.path().join("api-ca-key.pem")).unwrap();
        assert!(ensure(dir.path(), &[], &[]).is_err());
        assert!(!dir.path().join("api-ca-key.pem").exists());
        std::fs::write(other.path().join("admin.token"), "short").unwrap();
        assert!(matches!(ensure(other.path(), &[], &[]), Err(CredentialError::Damaged { .. })));
        assert!(matches!(ensure(other.path(), &[], &["no name".into()]), Err(CredentialError::Name(_))));
    }

    /// Mutation seen to fail: the named host dropped.
    #[test]
    fn the_server_is_where_a_client_finds_it() {
        let at = |a: &[&str]| a.iter().map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let hub = ["hub.example".to_owned()];
        for (held, listen, expected) in [
            (None, at(&["0.0.0.0:1"]), "https://127.0.0.1:1"),
            (None, at(&["[::]:1"]), "https://[::1]:1"),
            (Some("https://hub.example:9"), at(&["0.0.0.0:1"]), "https://hub.example:1"),
            (Some("https://old.example:9"), at(&["0.0.0.0:1"]), "https://127.0.0.1:1"),
            (Some("https://10.0.0.2:9"), at(&["127.0.0.1:1", "10.0.0.2:2"]), "https://10.0.0.2:2"),
            (Some("https://[::1]:9"), at(&["127.0.0.1:1", "[::1]:2"]), "https://[::1]:2"),
            (Some("https://hub.example:9"), vec![], "https://hub.example:9"),
        ] {
            assert_eq!(server(held, &listen, &hub), expected);
        }
    }
}
