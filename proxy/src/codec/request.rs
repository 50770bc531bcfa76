//! Pure. Request heads.

use super::chars::{is_host, is_target, is_token, skip};
use super::head::{Scratch, Span, parse_fields, summarise};
use super::path::{Canonical, canonical};
use super::{Body, Reject, TARGET_MAX, Version};

/// The method, as far as a proxy cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET, OPTIONS, TRACE, PUT, DELETE: may be sent again when nobody answered.
    Idempotent,
    /// HEAD: the same, and its answer has no body.
    Head,
    /// CONNECT.
    Connect,
    /// POST, PATCH and all others.
    Other,
}

impl Method {
    fn of(name: &[u8]) -> Self {
        match name {
            b"GET" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE" => Self::Idempotent,
            b"HEAD" => Self::Head,
            b"CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
    /// Whether doing it twice is the same as doing it once (RFC 9110 9.2.2).
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        matches!(self, Self::Idempotent | Self::Head)
    }
}

/// A request head; spans are of the buffer that it was parsed from.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The method as sent.
    pub method_name: Span,
    /// `path?query`, or `*`, as sent; see [`Self::path_override`].
    pub path: Span,
    /// The canonical `path?query` where the one sent is not.
    pub path_override: Option<Vec<u8>>,
    /// Whether the target was absolute: then [`Self::authority`] replaces Host.
    pub absolute: bool,
    /// `host[:port]` of the absolute target or of Host; empty when there is none (HTTP/1.0) or Host is empty.
    pub authority: Span,
    /// The version.
    pub version: Version,
    /// How the body is framed.
    pub body: Body,
    /// Whether the client keeps the connection after this exchange.
    pub persistent: bool,
    /// Whether the client waits for `100 Continue`.
    pub expect_continue: bool,
    /// The length of the head in bytes.
    pub length: usize,
}

impl Request {
    /// `path?query` in canonical form.
    #[must_use]
    pub fn canonical_path<'a>(&'a self, buf: &'a [u8]) -> &'a [u8] {
        self.path_override.as_deref().unwrap_or_else(|| self.path.of(buf))
    }
}

/// Parses the complete head `buf[..length]` (as [`super::find_head_end`] found it), fields into `scratch`.
///
/// # Errors
/// [`Reject`], after which the connection must be closed.
pub fn parse_request(buf: &[u8], length: usize, scratch: &mut Scratch) -> Result<Request, Reject> {
    let head = buf.get(..length).unwrap_or(buf);
    let method_end = skip(head, 0, is_token);
    if method_end == 0 || method_end > 32 || head.get(method_end) != Some(&b' ') {
        return Err(Reject::RequestLine);
    }
    let target_start = method_end + 1;
    let target_end = skip(head, target_start, is_target);
    if target_end - target_start > TARGET_MAX {
        return Err(Reject::TargetTooLong);
    }
    match head.get(target_end) {
        Some(b' ') if target_end > target_start => {}
        Some(b'#') => return Err(Reject::Path),
        _ => return Err(Reject::RequestLine),
    }
    let line_end = target_end + 9;
    let version = match head.get(target_end + 1..line_end) {
        Some(b"HTTP/1.1") => Version::Http11,
        Some(b"HTTP/1.0") => Version::Http10,
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Reject::Version);
        }
        _ => return Err(Reject::RequestLine),
    };
    if head.get(line_end..line_end + 2) != Some(b"\r\n") {
        return Err(Reject::RequestLine);
    }
    let method_name = Span::new(0, method_end);
    let method = Method::of(method_name.of(head));
    if method == Method::Connect {
        return Err(Reject::Connect);
    }
    parse_fields(head, line_end + 2, length.saturating_sub(2), scratch)?;
    let summary = summarise(head, scratch, version)?;
    if summary.framing_twin {
        // The application may stand behind a server that hands both spellings to it as one.
        return Err(Reject::FramingTwin);
    }
    let host = match summary.host {
        Some(host) => host,
        None if version == Version::Http11 => return Err(Reject::HostMissing),
        None => Span::default(),
    };
    check_authority(host.of(head), true)?;
    let target = target(head, Span::new(target_start, target_end), host)?;
    Ok(Request {
        method,
        method_name,
        path: target.path,
        path_override: target.path_override,
        absolute: target.absolute,
        authority: target.authority,
        version,
        body: summary.body(),
        persistent: summary.persistent(version),
        expect_continue: summary.expect_continue,
        length,
    })
}

struct Target {
    path: Span,
    path_override: Option<Vec<u8>>,
    absolute: bool,
    authority: Span,
}

fn target(head: &[u8], span: Span, host: Span) -> Result<Target, Reject> {
    let bytes = span.of(head);
    if bytes == b"*" {
        // Only OPTIONS may ask about the server as a whole (RFC 9112 3.2.4).
        return if head.starts_with(b"OPTIONS ") {
            Ok(Target { path: span, path_override: None, absolute: false, authority: host })
        } else {
            Err(Reject::Target)
        };
    }
    if bytes.first() == Some(&b'/') {
        let path_override = override_of(bytes)?;
        return Ok(Target { path: span, path_override, absolute: false, authority: host });
    }
    let scheme = bytes.iter().position(|&b| b == b':').ok_or(Reject::Target)?;
    let (name, rest) = bytes.split_at(scheme);
    if !rest.starts_with(b"://") {
        return Err(Reject::Target);
    }
    if !name.eq_ignore_ascii_case(b"http") {
        return Err(Reject::Scheme);
    }
    let start = span.start as usize + scheme + 3;
    let rest = head.get(start..span.end as usize).unwrap_or_default();
    let authority_end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    check_authority(authority, false)?;
    let path_override = if path.first() == Some(&b'/') {
        override_of(path)?
    } else {
        // An empty path is "/" (RFC 9112 3.2.1).
        Some([b"/", path].concat())
    };
    Ok(Target {
        path: Span::new(start + authority_end, span.end as usize),
        path_override,
        absolute: true,
        authority: Span::new(start, start + authority_end),
    })
}

fn override_of(path: &[u8]) -> Result<Option<Vec<u8>>, Reject> {
    Ok(match canonical(path)? {
        Canonical::Same => None,
        Canonical::Changed(path) => Some(path),
    })
}

/// Checks `NAME[:PORT]`, `IPv4[:PORT]` or `[IPv6][:PORT]` (L7-10: no userinfo, no list).
fn check_authority(authority: &[u8], may_be_empty: bool) -> Result<(), Reject> {
    if authority.is_empty() {
        return if may_be_empty { Ok(()) } else { Err(Reject::Host) };
    }
    let host_end = if authority.first() == Some(&b'[') {
        let end = authority.iter().position(|&b| b == b']').ok_or(Reject::Host)?;
        let inner = authority.get(1..end).and_then(|a| std::str::from_utf8(a).ok()).ok_or(Reject::Host)?;
        let _address: std::net::Ipv6Addr = inner.parse().map_err(|_not_an_address| Reject::Host)?;
        end + 1
    } else {
        skip(authority, 0, is_host)
    };
    match authority.get(host_end..) {
        _ if host_end == 0 || host_end > 255 => Err(Reject::Host),
        None | Some([]) => Ok(()),
        Some([b':', port @ ..]) if port.len() <= 5 && port.iter().all(u8::is_ascii_digit) => {
            let number = port.iter().fold(0u32, |n, &d| n * 10 + u32::from(d - b'0'));
            if number > 65_535 || (number == 0 && !port.is_empty()) { Err(Reject::Host) } else { Ok(()) }
        }
        Some(_) => Err(Reject::Host),
    }
}

/// What the access log says about a request.
#[derive(Debug, Clone, Copy)]
pub struct LogContext<'a> {
    /// The method.
    pub method: &'a [u8],
    /// `host[:port]`.
    pub authority: &'a [u8],
    /// `path?query` in canonical form.
    pub path: &'a [u8],
}

impl<'a> LogContext<'a> {
    /// The parts of a request.
    #[must_use]
    pub fn of(buf: &'a [u8], request: &'a Request) -> Self {
        Self {
            method: request.method_name.of(buf),
            authority: request.authority.of(buf),
            path: request.canonical_path(buf),
        }
    }
}
