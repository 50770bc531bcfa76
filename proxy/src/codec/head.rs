//! Pure. What requests and responses share: header fields as spans of the read buffer.

use super::chars::{is_token, is_value, skip, trim};
use super::{Body, FIELD_MAX, FIELDS_MAX, HEAD_MAX, NOMINATED_MAX, Reject, Version};

/// A range of the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    #[expect(clippy::cast_possible_truncation, reason = "heads are at most HEAD_MAX bytes")]
    pub(super) const fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }
    /// The bytes of the span.
    #[must_use]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
    /// Whether it has no byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// What a header field means to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Passed on.
    Other,
    /// `Host`.
    Host,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Connection`.
    Connection,
    /// `Keep-Alive`, `Proxy-Connection`, `TE`, `Trailer`, `Upgrade`: for the next hop only.
    HopByHop,
    /// `Content_Length`, `Transfer_Encoding`: no framing to us, but to whoever reads `_` or `.` as `-`.
    FramingTwin,
    /// `Expect`.
    Expect,
    /// `x-forwarded-client-cert`, `x-meshfed-*`, `x-envoy-*`: said by a mesh proxy only.
    MeshIdentity,
    /// Other `x-forwarded-*`: believed from mesh peers only.
    Forwarded,
}

/// One header field.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The name.
    pub name: Span,
    /// The value without spaces around it.
    pub value: Span,
    /// One past the line's CRLF.
    pub end: u32,
    /// What it means.
    pub kind: Kind,
}

/// The header fields of the head parsed last; reused from message to message.
#[derive(Debug, Default)]
pub struct Scratch {
    /// All fields in order.
    pub fields: Vec<Field>,
    /// Names that `Connection` nominates, well-known ones left out.
    pub nominated: Vec<Span>,
}

impl Scratch {
    /// The value of the first field of that name.
    #[must_use]
    pub fn value_of<'a>(&self, buf: &'a [u8], name: &str) -> Option<&'a [u8]> {
        let wanted = self.fields.iter().find(|f| f.name.of(buf).eq_ignore_ascii_case(name.as_bytes()));
        wanted.map(|f| f.value.of(buf))
    }
    /// Whether `Connection` names this field as one for the next hop only.
    pub(super) fn is_nominated(&self, buf: &[u8], field: &Field) -> bool {
        self.nominated.iter().any(|n| n.of(buf).eq_ignore_ascii_case(field.name.of(buf)))
    }
}

fn classify(name: &[u8]) -> Kind {
    let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
    let reads_as = |known: &[u8]| name.len() == known.len() && name.iter().zip(known).all(same);
    match name.first().map_or(0, u8::to_ascii_lowercase) {
        b'h' if is(b"host") => Kind::Host,
        b'c' if is(b"content-length") => Kind::ContentLength,
        b'c' if is(b"connection") => Kind::Connection,
        b't' if is(b"transfer-encoding") => Kind::TransferEncoding,
        b'c' if reads_as(b"content-length") => Kind::FramingTwin,
        b't' if reads_as(b"transfer-encoding") => Kind::FramingTwin,
        b't' if is(b"te") || is(b"trailer") => Kind::HopByHop,
        b'k' if reads_as(b"keep-alive") => Kind::HopByHop,
        b'p' if reads_as(b"proxy-connection") => Kind::HopByHop,
        b'u' if is(b"upgrade") => Kind::HopByHop,
        b'e' if is(b"expect") => Kind::Expect,
        b'x' => mesh_or_forwarded(name),
        _ => Kind::Other,
    }
}

/// Names with `_`, `.`, `+` or whatever is neither letter nor digit for `-` are the same name: CGI, WSGI, PHP and their kin
/// hand all of them to the application as one, so `X.Forwarded_Client-Cert` would stand for the header that only a handshake
/// may make (L7-11), and `Content_Length` for a length that we did not count (L7-1).
fn same((a, b): (&u8, &u8)) -> bool {
    a.eq_ignore_ascii_case(b) || (*b == b'-' && !a.is_ascii_alphanumeric())
}

/// Names of fields that only a mesh proxy may write ([`Kind::MeshIdentity`]); one that ends in `-` begins such names.
pub(crate) const MESH_IDENTITY: [&[u8]; 3] = [b"x-meshfed-", b"x-envoy-", b"x-forwarded-client-cert"];

fn mesh_or_forwarded(name: &[u8]) -> Kind {
    let starts = |prefix: &[u8]| name.len() >= prefix.len() && name.iter().zip(prefix).all(same);
    let is_one = |known: &&[u8]| starts(known) && (known.ends_with(b"-") || name.len() == known.len());
    if MESH_IDENTITY.iter().any(is_one) {
        Kind::MeshIdentity
    } else if starts(b"x-forwarded-") {
        Kind::Forwarded
    } else {
        Kind::Other
    }
}

/// Looks for the end of a head in `buf`, of which the first `*scanned` bytes were seen before.
///
/// Returns the length of the head, its empty line included, or `None` when more bytes are needed. Lines that end with a
/// bare LF are refused at once, so such a peer gets its answer without waiting.
///
/// # Errors
/// [`Reject::BareLineFeed`], [`Reject::HeadTooLong`].
pub fn find_head_end(buf: &[u8], scanned: &mut usize) -> Result<Option<usize>, Reject> {
    let mut at = *scanned;
    while let Some(n) = buf.get(at..).and_then(|rest| rest.iter().position(|&b| b == b'\n')) {
        let line_feed = at + n;
        if line_feed == 0 || buf.get(line_feed - 1) != Some(&b'\r') {
            return Err(Reject::BareLineFeed);
        }
        at = line_feed + 1;
        if line_feed == 1 || buf.get(line_feed - 2) == Some(&b'\n') {
            *scanned = 0;
            return if at > HEAD_MAX { Err(Reject::HeadTooLong) } else { Ok(Some(at)) };
        }
    }
    if buf.len() > HEAD_MAX {
        return Err(Reject::HeadTooLong);
    }
    *scanned = buf.len();
    Ok(None)
}

/// Parses the field lines `buf[at..end]`, where `end` is the start of the head's empty line.
pub(super) fn parse_fields(buf: &[u8], mut at: usize, end: usize, scratch: &mut Scratch) -> Result<(), Reject> {
    scratch.fields.clear();
    scratch.nominated.clear();
    while at < end {
        if scratch.fields.len() == FIELDS_MAX {
            return Err(Reject::TooManyFields);
        }
        let name_end = skip(buf, at, is_token);
        if name_end == at || buf.get(name_end) != Some(&b':') {
            return Err(match buf.get(at) {
                Some(b' ' | b'\t') => Reject::Folded,
                _ => Reject::FieldName,
            });
        }
        let value_end = skip(buf, name_end + 1, is_value);
        if buf.get(value_end..value_end + 2) != Some(b"\r\n") {
            return Err(Reject::ControlByte);
        }
        if value_end - at > FIELD_MAX {
            return Err(Reject::FieldTooLong);
        }
        let raw = buf.get(name_end + 1..value_end).unwrap_or_default();
        let lead = raw.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let value_start = name_end + 1 + lead;
        let value = Span::new(value_start, value_start + trim(raw).len());
        let name = Span::new(at, name_end);
        at = value_end + 2;
        let end = Span::new(at, at).end;
        scratch.fields.push(Field { name, value, end, kind: classify(name.of(buf)) });
    }
    Ok(())
}

/// What the fields say about the connection and the body.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) host: Option<Span>,
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) expect_continue: bool,
    /// Whether a field looks like framing to others.
    pub(super) framing_twin: bool,
}

impl Summary {
    /// Whether the sender keeps the connection after this message.
    pub(super) const fn persistent(&self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }
    /// How a request's body is framed.
    pub(super) const fn body(&self) -> Body {
        match (self.chunked, self.length) {
            (true, _) => Body::Chunked,
            (false, Some(n)) => Body::Length(n),
            (false, None) => Body::None,
        }
    }
}

/// Folds the fields of a head, refusing every ambiguity (L7-1).
pub(super) fn summarise(buf: &[u8], scratch: &mut Scratch, version: Version) -> Result<Summary, Reject> {
    let mut out = Summary::default();
    for i in 0..scratch.fields.len() {
        let Some(field) = scratch.fields.get(i).copied() else { break };
        let value = field.value.of(buf);
        match field.kind {
            Kind::Host => {
                if out.host.replace(field.value).is_some() {
                    return Err(Reject::HostRepeated);
                }
            }
            Kind::ContentLength => {
                if out.length.replace(content_length(value)?).is_some() {
                    return Err(Reject::ContentLengthRepeated);
                }
            }
            Kind::TransferEncoding => {
                if out.chunked || version == Version::Http10 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Reject::TransferEncoding);
                }
                out.chunked = true;
            }
            Kind::Connection => connection(buf, field.value, scratch, &mut out)?,
            Kind::Expect => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Reject::Expect);
                }
                out.expect_continue = version == Version::Http11;
            }
            Kind::FramingTwin => out.framing_twin = true,
            Kind::Other | Kind::HopByHop | Kind::MeshIdentity | Kind::Forwarded => {}
        }
    }
    if out.chunked && out.length.is_some() { Err(Reject::LengthAndChunked) } else { Ok(out) }
}

fn content_length(value: &[u8]) -> Result<u64, Reject> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Reject::ContentLength);
    }
    // Nineteen digits fit into 64 bits.
    Ok(value.iter().fold(0u64, |n, &d| n * 10 + u64::from(d - b'0')))
}

fn connection(buf: &[u8], value: Span, scratch: &mut Scratch, out: &mut Summary) -> Result<(), Reject> {
    let mut at = value.start as usize;
    for part in value.of(buf).split(|&b| b == b',') {
        let lead = part.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let token = trim(part);
        if !token.iter().all(|&b| is_token(b)) {
            return Err(Reject::Connection);
        }
        if token.eq_ignore_ascii_case(b"close") {
            out.close = true;
        } else if token.eq_ignore_ascii_case(b"keep-alive") {
            out.keep_alive = true;
        } else if !token.is_empty() {
            if scratch.nominated.len() == NOMINATED_MAX {
                return Err(Reject::Connection);
            }
            scratch.nominated.push(Span::new(at + lead, at + lead + token.len()));
        }
        at += part.len() + 1;
    }
    Ok(())
}
