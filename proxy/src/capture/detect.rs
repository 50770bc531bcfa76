//! Pure. What a client speaks, by its first bytes.

use crate::passthrough::hello::{Hello, HelloReader};

/// The longest method that a request may have to be told as one.
const METHOD_MAX: usize = 32;
/// The longest first line that is looked at.
pub(super) const LINE_MAX: usize = 16 * 1024;
/// The content type of TLS records that a ClientHello is in.
const HANDSHAKE: u8 = 22;
/// How the server names of mesh clients begin (`contracts.md` 1.8).
const MESH: &str = "outbound_";

/// Whether a connection is HTTP/1: `None` until that is certain. HTTP/2 begins with a line that says so and is none.
#[must_use]
pub(super) fn http1(bytes: &[u8]) -> Option<bool> {
    let method = bytes.iter().take(METHOD_MAX + 1).position(|b| !b.is_ascii_alphabetic() && *b != b'-');
    match method {
        // A request without a space after its method yet.
        None if bytes.len() <= METHOD_MAX => return None,
        None | Some(0) => return Some(false),
        Some(at) if bytes.get(at) != Some(&b' ') => return Some(false),
        Some(_) => {}
    }
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let line = bytes.get(..end).unwrap_or_default();
    let version = line.strip_suffix(b"\r").unwrap_or(line).rsplit(|b| *b == b' ').next();
    Some(version.is_some_and(|v| v.starts_with(b"HTTP/1.")))
}

/// What a connection to a workload begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    /// A ClientHello of a mesh client.
    Mesh,
    /// Any other TLS, whole or not: the application's own.
    Tls,
    /// Anything else.
    Plain,
    /// With its end: the client says nothing, and may still listen.
    End,
}

/// Follows the first bytes of a connection to a workload.
#[derive(Debug, Default)]
pub(super) struct Inbound(HelloReader);

impl Inbound {
    /// Takes all bytes that came so far; `None` until it is certain.
    pub(super) fn judge(&mut self, bytes: &[u8]) -> Option<Begins> {
        if bytes.first().is_some_and(|b| *b != HANDSHAKE) {
            return Some(Begins::Plain);
        }
        match self.0.read(bytes) {
            Ok(None) => None,
            Ok(Some(Hello::Named(name))) if name.starts_with(MESH) => Some(Begins::Mesh),
            // What cannot be read as a hello of ours is none: our clients' are well formed.
            Ok(Some(Hello::Named(_) | Hello::Nameless)) | Err(_) => Some(Begins::Tls),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations seen to fail: `starts_with(b"HTTP/")`; the method's length not limited; `None` for a line without end.
    #[test]
    fn http_1_is_told_by_its_first_line() {
        let cases: [(&[u8], Option<bool>); 14] = [
            (b"", None),
            (b"GE", None),
            (b"GET /", None),
            (b"GET / HTTP/1.1\r\n", Some(true)),
            (b"GET / HTTP/1.0\n", Some(true)),
            (b"M-SEARCH * HTTP/1.1\r\nx", Some(true)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(false)),
            (b"GET key\r\n", Some(false)),
            (b"GET\r\n", Some(false)),
            (b"\x16\x03\x01", Some(false)),
            (b"\r\n", Some(false)),
            (b"*1\r\n$4\r\nPING\r\n", Some(false)),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJ", Some(false)),
            (b" GET / HTTP/1.1\r\n", Some(false)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(http1(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    fn hello(name: &str) -> Vec<u8> {
        let roots = rustls::RootCertStore::empty();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut connection = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// Cut anywhere, a mesh hello is one, and is never taken for anything else before it is whole.
    ///
    /// Mutations seen to fail: `Ok(None) => Some(Begins::Tls)`; `name.contains(MESH)` turned round.
    #[test]
    fn mesh_clients_are_told_by_their_server_name() {
        let mesh = hello("outbound_.8080_._.b.shop.svc.clusterset.local");
        for cut in 0..mesh.len() {
            let mut inbound = Inbound::default();
            assert_eq!(inbound.judge(&mesh[..cut]), None, "{cut}");
            assert_eq!(inbound.judge(&mesh), Some(Begins::Mesh), "{cut}");
        }
        assert_eq!(Inbound::default().judge(&hello("b.shop.svc.clusterset.local")), Some(Begins::Tls));
        assert_eq!(Inbound::default().judge(&hello("192.0.2.1")), Some(Begins::Tls));
        assert_eq!(Inbound::default().judge(b"\x16\x03\x09"), Some(Begins::Tls));
        assert_eq!(Inbound::default().judge(b"GET / HTTP/1.1\r\n"), Some(Begins::Plain));
    }
}
