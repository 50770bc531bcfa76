//! Pure. Response heads, read as strictly as requests (L7-14).

use super::chars::{is_value, skip};
use super::head::{Scratch, Span, parse_fields, summarise};
use super::{Method, Reject, Version};

/// How the body of a response is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseBody {
    /// There is none; the length that an answer to GET would have (HEAD, 304), if it was told.
    None(Option<u64>),
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Until the connection ends.
    Close,
}

/// A response head; spans are of the buffer that it was parsed from.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The reason phrase.
    pub reason: Span,
    /// The version.
    pub version: Version,
    /// How the body is framed.
    pub body: ResponseBody,
    /// Whether the server keeps the connection after this exchange.
    pub persistent: bool,
    /// The length of the head in bytes.
    pub length: usize,
}

impl Response {
    /// Whether it is an interim response, after which the final one follows.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// Parses the complete head `buf[..length]` of the answer to a request with `method`, fields into `scratch`.
///
/// # Errors
/// [`Reject`], after which the connection must be closed and the answer not be forwarded.
pub fn parse_response(buf: &[u8], length: usize, method: Method, scratch: &mut Scratch) -> Result<Response, Reject> {
    let head = buf.get(..length).unwrap_or(buf);
    let version = match head.get(..9) {
        Some(b"HTTP/1.1 ") => Version::Http11,
        Some(b"HTTP/1.0 ") => Version::Http10,
        _ => return Err(Reject::StatusLine),
    };
    let code = head.get(9..12).unwrap_or_default();
    if code.len() != 3 || !code.iter().all(u8::is_ascii_digit) {
        return Err(Reject::StatusLine);
    }
    let status = code.iter().fold(0u16, |n, &d| n * 10 + u16::from(d - b'0'));
    // Some servers leave out the space before an empty reason.
    let reason_start = match head.get(12) {
        Some(b' ') => 13,
        Some(b'\r') => 12,
        _ => return Err(Reject::StatusLine),
    };
    let line_end = skip(head, reason_start, is_value);
    if head.get(line_end..line_end + 2) != Some(b"\r\n") {
        return Err(Reject::StatusLine);
    }
    // 101 would switch protocols, which no request that we send asks for.
    if status < 100 || status == 101 {
        return Err(Reject::Status);
    }
    parse_fields(head, line_end + 2, length.saturating_sub(2), scratch)?;
    let summary = summarise(head, scratch, version)?;
    let body = if status < 200 || status == 204 {
        ResponseBody::None(None)
    } else if method == Method::Head || status == 304 {
        ResponseBody::None(summary.length)
    } else if summary.chunked {
        ResponseBody::Chunked
    } else {
        summary.length.map_or(ResponseBody::Close, ResponseBody::Length)
    };
    let persistent = summary.persistent(version) && body != ResponseBody::Close;
    Ok(Response { status, reason: Span::new(reason_start, line_end), version, body, persistent, length })
}
