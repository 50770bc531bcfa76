//! Pure. Heads written anew: only end-to-end fields are copied, framing is our own.

use super::head::{Field, Kind, Scratch};
use super::{Body, Request, Response, ResponseBody, Version};

/// What ends a chunked body; its trailers are always empty.
pub const CHUNK_END: &[u8] = b"0\r\n\r\n";

/// What is changed in a head besides framing.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadEdit<'a> {
    /// Leaves out `x-forwarded-client-cert`, `x-meshfed-*` and `x-envoy-*`.
    pub strip_identity: bool,
    /// Leaves out the other `x-forwarded-*`.
    pub strip_forwarded: bool,
    /// Complete header lines to add, each with its CRLF.
    pub add: &'a [u8],
}

/// Writes the decimal digits of `n`.
fn decimal(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Copies the fields that `keep` says, neighbours in one piece.
fn copy_fields(out: &mut Vec<u8>, buf: &[u8], scratch: &Scratch, keep: impl Fn(&Field) -> bool) {
    let mut run: Option<(u32, u32)> = None;
    for field in &scratch.fields {
        let wanted = keep(field) && (scratch.nominated.is_empty() || !scratch.is_nominated(buf, field));
        run = match (run, wanted) {
            (Some((start, _)), true) => Some((start, field.end)),
            (None, true) => Some((field.name.start, field.end)),
            (Some((start, end)), false) => {
                out.extend_from_slice(buf.get(start as usize..end as usize).unwrap_or_default());
                None
            }
            (None, false) => None,
        };
    }
    if let Some((start, end)) = run {
        out.extend_from_slice(buf.get(start as usize..end as usize).unwrap_or_default());
    }
}

/// Writes the head of the request that goes upstream: origin form, HTTP/1.1.
pub fn request_head(out: &mut Vec<u8>, buf: &[u8], request: &Request, scratch: &Scratch, edit: HeadEdit<'_>) {
    out.extend_from_slice(request.method_name.of(buf));
    out.push(b' ');
    out.extend_from_slice(request.canonical_path(buf));
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(request.authority.of(buf));
    out.extend_from_slice(b"\r\n");
    copy_fields(out, buf, scratch, |field| match field.kind {
        Kind::Other => true,
        Kind::Expect => request.expect_continue,
        Kind::MeshIdentity => !edit.strip_identity,
        Kind::Forwarded => !edit.strip_forwarded,
        Kind::Host
        | Kind::ContentLength
        | Kind::TransferEncoding
        | Kind::FramingTwin
        | Kind::Connection
        | Kind::HopByHop => false,
    });
    out.extend_from_slice(edit.add);
    match request.body {
        Body::None => {}
        Body::Length(n) => {
            out.extend_from_slice(b"content-length: ");
            decimal(out, n);
            out.extend_from_slice(b"\r\n");
        }
        Body::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// How the client is told about the connection.
fn connection(out: &mut Vec<u8>, client: Version, keep: bool) {
    match (client, keep) {
        (Version::Http11, true) => {}
        (Version::Http10, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (_, false) => out.extend_from_slice(b"connection: close\r\n"),
    }
}

/// Writes the head of a response for a client of version `client`; `keep` says whether the connection stays.
///
/// A body without a length becomes chunks for HTTP/1.1; for HTTP/1.0 it ends with the connection, so `keep` must be
/// false there.
pub fn response_head(
    out: &mut Vec<u8>,
    buf: &[u8],
    response: &Response,
    scratch: &Scratch,
    client: Version,
    keep: bool,
    edit: HeadEdit<'_>,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(out, u64::from(response.status));
    out.push(b' ');
    out.extend_from_slice(response.reason.of(buf));
    out.extend_from_slice(b"\r\n");
    copy_fields(out, buf, scratch, |field| match field.kind {
        Kind::Other | Kind::Host | Kind::Expect | Kind::Forwarded => true,
        Kind::MeshIdentity => !edit.strip_identity,
        Kind::ContentLength | Kind::TransferEncoding | Kind::FramingTwin | Kind::Connection | Kind::HopByHop => false,
    });
    out.extend_from_slice(edit.add);
    match response.body {
        ResponseBody::None(None) => {}
        ResponseBody::None(Some(n)) | ResponseBody::Length(n) => {
            out.extend_from_slice(b"content-length: ");
            decimal(out, n);
            out.extend_from_slice(b"\r\n");
        }
        ResponseBody::Chunked | ResponseBody::Close if client == Version::Http11 => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        ResponseBody::Chunked | ResponseBody::Close => {}
    }
    if !response.is_interim() {
        connection(out, client, keep);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the size line of a chunk of `length` bytes (not 0).
pub fn chunk_head(out: &mut Vec<u8>, length: usize) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0u8; 16];
    let mut at = digits.len();
    let mut n = length;
    loop {
        at -= 1;
        digits[at] = HEX[n & 15];
        n >>= 4;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}
