//! Pure. What a client speaks, by its first bytes.

use super::fields::Fields;
use crate::passthrough::hello::{Hello, HelloReader};

/// The longest first line that is looked at.
pub(super) const LINE_MAX: usize = 16 * 1024;
/// The content type of TLS records that a ClientHello is in.
const HANDSHAKE: u8 = 22;
/// How the server names of mesh clients begin (`contracts.md` 1.8).
const MESH: &str = "outbound_";
/// The line that HTTP/2 begins with (RFC 9113, 3.4).
const HTTP_2: &[u8] = b"PRI * HTTP/2.0";

/// Whether a connection is HTTP/1: `None` until that is certain. HTTP/2 begins with a line that says so and is none.
///
/// What most servers take for a request is one: empty lines and blanks before it, blanks of all kinds between its words. Who
/// serves requests refuses what is none (RFC 9112, 3). What only some server takes for one is carried as bytes, in which
/// [`Fields`] are looked for.
#[must_use]
pub(super) fn http1(bytes: &[u8]) -> Option<bool> {
    // So long a first line has no server: what frames itself by lengths says no line at all (RFC 6587, 3.4.1).
    let unclear = || (bytes.len() >= LINE_MAX).then_some(false);
    let Some(begun) = bytes.iter().position(|b| !is_blank(*b) && *b != b'\n') else { return unclear() };
    let rest = bytes.get(begun..).unwrap_or_default();
    let Some(after_method) = rest.iter().position(|b| !is_token(*b)) else { return unclear() };
    if after_method == 0 || !rest.get(after_method).is_some_and(|b| is_blank(*b)) {
        return Some(false);
    }
    let Some(end) = rest.iter().position(|b| *b == b'\n') else { return unclear() };
    let line = rest.get(..end).unwrap_or_default();
    if line.strip_suffix(b"\r").unwrap_or(line) == HTTP_2 {
        return Some(false);
    }
    let mut words = line.split(|b| is_blank(*b)).filter(|word| !word.is_empty());
    let (method, target, last) = (words.next(), words.next(), words.next());
    let version = last.or(target).and_then(|word| word.get(..5));
    // HTTP/0.9 has no version, and no fields; some servers read them all the same.
    let is_old = last.is_none() && method == Some(b"GET") && target.is_some_and(|t| t.starts_with(b"/"));
    let is_new = words.next().is_none() && version.is_some_and(|v| v.eq_ignore_ascii_case(b"HTTP/"));
    Some(is_old || is_new)
}

/// Whether a method may hold it (`token` of RFC 9110, 5.6.2).
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// Whether servers take it for a blank between the words of a line: those of RFC 9112, 3, and what Unicode adds to them.
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r' | 0x1c..=0x1f | 0x85 | 0xa0)
}

/// What a connection to a workload begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    /// A ClientHello of a mesh client.
    Mesh,
    /// Any other TLS, whole or not: the application's own.
    Tls,
    /// HTTP/1, where it is looked for.
    Http,
    /// Anything else.
    Plain,
    /// With its end: the client says nothing, and may still listen.
    End,
}

/// Follows the first bytes of a connection to a workload.
#[derive(Debug)]
pub(super) struct Inbound {
    /// `None` within TLS.
    hello: Option<HelloReader>,
    /// Whether HTTP is looked for.
    http: bool,
    /// What was told to the server before it was certain.
    told: Fields,
}

impl Inbound {
    /// On the wire. `http`: the port does not say what it speaks.
    pub(super) fn outside(http: bool) -> Self {
        Self { hello: Some(HelloReader::default()), http, told: Fields::new() }
    }
    /// Within the TLS of a mesh client, on a port that does not say what it speaks.
    pub(super) const fn within() -> Self {
        Self { hello: None, http: true, told: Fields::new() }
    }
    /// Whether these bytes, the next ones, may be told to the server before it is certain.
    pub(super) fn may_tell(&mut self, bytes: &[u8]) -> bool {
        !self.http || !self.told.has_come(bytes)
    }
    /// What is looked for in all that comes after what was told; `None`: the port says what it speaks.
    pub(super) fn into_fields(self) -> Option<Fields> {
        self.http.then_some(self.told)
    }
    /// Takes all bytes that came so far; `None` until it is certain.
    pub(super) fn judge(&mut self, bytes: &[u8]) -> Option<Begins> {
        match (bytes.first(), &mut self.hello) {
            (None, _) => None,
            (Some(&HANDSHAKE), Some(reader)) => match reader.read(bytes) {
                Ok(None) => None,
                Ok(Some(Hello::Named(name))) if name.starts_with(MESH) => Some(Begins::Mesh),
                // What cannot be read as a hello of ours is none: our clients' are well formed.
                Ok(Some(Hello::Named(_) | Hello::Nameless)) | Err(_) => Some(Begins::Tls),
            },
            (Some(_), _) if !self.http => Some(Begins::Plain),
            (Some(_), _) => http1(bytes).map(|is_http| if is_http { Begins::Http } else { Begins::Plain }),
        }
    }
    /// What it is where no more will come; `None`: a hello that ended in the middle.
    pub(super) fn judge_whole(&mut self, bytes: &[u8]) -> Option<Begins> {
        match self.judge(bytes) {
            Some(begins) => Some(begins),
            None if bytes.is_empty() => Some(Begins::End),
            None => (!self.is_hello(bytes)).then_some(Begins::Plain),
        }
    }
    /// Whether these bytes begin like a hello that may be a mesh client's: then nobody else sees them.
    pub(super) fn is_hello(&self, bytes: &[u8]) -> bool {
        self.hello.is_some() && bytes.first() == Some(&HANDSHAKE)
    }
    /// Whether a mesh client may still come.
    pub(super) const fn awaits_mesh(&self) -> bool {
        self.hello.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations seen to fail: the line `strip_suffix(b"\r").unwrap_or(line) == HTTP_2` left out; `is_token` knows letters
    /// alone; `is_blank` is `byte == b' '`; `*b != b'\n'` of `begun` left out; `is_old` is false.
    #[test]
    fn http_1_is_told_by_its_first_line() {
        let cases: [(&[u8], Option<bool>); 30] = [
            (b"", None),
            (b"GE", None),
            (b"GET /", None),
            (b"GET / HTTP/1.1\r", None),
            (b"GET / HTTP/1.1\r\n", Some(true)),
            (b"GET / HTTP/1.0\n", Some(true)),
            (b"M-SEARCH * HTTP/1.1\r\nx", Some(true)),
            (b"GET2 / HTTP/1.1\r\n", Some(true)),
            // What a lenient server takes, and ours refuses.
            (b"\r\n", None),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", Some(true)),
            (b" GET / HTTP/1.1\r\n", Some(true)),
            (b"GET\t/\x0bHTTP/1.1 \r\n", Some(true)),
            (b"GET / http/1.1\n", Some(true)),
            (b"GET / HTTP/3.0\r\n", Some(true)),
            (b"GET /\r\n", Some(true)),
            (b"GET HTTP/1.1\r\n", Some(true)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(false)),
            (b"PRI  * HTTP/2.0\r\n", Some(true)),
            (b"GET key\r\n", Some(false)),
            (b"POST /\r\n", Some(false)),
            (b"<190>Nov 29 east nginx: GET / HTTP/1.1\n", Some(false)),
            (b"GET\r\n", Some(false)),
            (b"get /key\r\n", Some(false)),
            (b"\x16\x03\x01", Some(false)),
            (b"\x00\x00\x00\x10", Some(false)),
            (b"*1\r\n$4\r\nPING\r\n", Some(false)),
            (b"EHLO mail.example\r\n", Some(false)),
            (b"OPTIONS rtsp://192.0.2.1/ RTSP/1.0\r\n", Some(false)),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Some(false)),
            (b"{\"jsonrpc\": \"2.0\"}\n", Some(false)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(http1(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    /// It ends, and what has no line is none.
    ///
    /// Mutation seen to fail: `unclear` is always `None`.
    #[test]
    fn what_does_not_become_a_request_within_a_long_line_is_none() {
        for begin in [&b"GET /"[..], b"A", b"\r\n"] {
            let mut bytes = begin.repeat(LINE_MAX / begin.len() + 1);
            if begin.starts_with(b"GET") {
                bytes = [begin, &b"a".repeat(LINE_MAX)].concat();
            }
            assert_eq!(http1(&bytes[..LINE_MAX - 1]), None);
            assert_eq!(http1(&bytes[..LINE_MAX]), Some(false));
        }
    }

    /// Mutations seen to fail: `(Some(_), _) if !self.http` left out; `judge_whole` always says `Plain`.
    #[test]
    fn http_is_told_where_it_is_looked_for() {
        let request = b"GET / HTTP/1.1\r\n";
        assert_eq!(Inbound::outside(false).judge(b"G"), Some(Begins::Plain));
        for mut looking in [Inbound::outside(true), Inbound::within()] {
            assert_eq!(looking.judge(b""), None);
            assert_eq!(looking.judge(b"G"), None);
            assert_eq!(looking.judge_whole(b"G"), Some(Begins::Plain), "no more comes");
            assert_eq!(looking.judge_whole(b""), Some(Begins::End));
            assert_eq!(looking.judge(request), Some(Begins::Http));
            assert_eq!(looking.judge(b"220 ready\r\n"), Some(Begins::Plain));
        }
        assert_eq!(Inbound::outside(true).judge_whole(b"\x16\x03"), None, "a hello that ended is nobody's");
        assert_eq!(Inbound::within().judge(b"\x16\x03"), Some(Begins::Plain), "TLS within TLS is bytes");
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
    /// Mutations seen to fail: `Ok(None) => Some(Begins::Tls)`; `name.starts_with(MESH)` turned round.
    #[test]
    fn mesh_clients_are_told_by_their_server_name() {
        let mesh = hello("outbound_.8080_._.b.shop.svc.clusterset.local");
        for cut in 0..mesh.len() {
            let mut inbound = Inbound::outside(false);
            assert_eq!(inbound.judge(&mesh[..cut]), None, "{cut}");
            assert_eq!(inbound.judge(&mesh), Some(Begins::Mesh), "{cut}");
        }
        assert_eq!(Inbound::outside(false).judge(&hello("b.shop.svc.clusterset.local")), Some(Begins::Tls));
        assert_eq!(Inbound::outside(false).judge(&hello("192.0.2.1")), Some(Begins::Tls));
        assert_eq!(Inbound::outside(false).judge(b"\x16\x03\x09"), Some(Begins::Tls));
    }
}
