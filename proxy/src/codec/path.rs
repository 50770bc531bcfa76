//! Pure. The canonical form of a path (L7-9): what is matched is what is forwarded.

use super::Reject;

/// What canonicalisation found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Canonical {
    /// The path is canonical as it is.
    Same,
    /// It is this.
    Changed(Vec<u8>),
}

/// Canonicalises `path?query` (it begins with `/`): unreserved escapes decoded, other escapes in upper case, slashes
/// merged, dot segments resolved. The query is left alone.
pub(super) fn canonical(target: &[u8]) -> Result<Canonical, Reject> {
    let path_end = target.iter().position(|&b| b == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(path_end);
    if !path.iter().any(|b| matches!(b, b'%' | b'\\')) && !has_odd_segment(path) {
        return Ok(Canonical::Same);
    }
    let mut out = resolve(&unescape(path)?);
    if out == path {
        return Ok(Canonical::Same);
    }
    out.extend_from_slice(query);
    Ok(Canonical::Changed(out))
}

/// Whether a segment is empty or begins with a dot (a cheap test that may err on the safe side).
fn has_odd_segment(path: &[u8]) -> bool {
    path.windows(2).any(|w| matches!(w, [b'/', b'/' | b'.']))
}

fn unescape(path: &[u8]) -> Result<Vec<u8>, Reject> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.iter();
    while let Some(&b) = rest.next() {
        match b {
            b'\\' => return Err(Reject::Path),
            b'%' => {
                let digit = |d: Option<&u8>| d.and_then(|&d| char::from(d).to_digit(16));
                let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
                    return Err(Reject::Path);
                };
                let byte = u8::try_from(high * 16 + low).unwrap_or(0);
                match byte {
                    0 | b'/' | b'\\' => return Err(Reject::Path),
                    b'-' | b'.' | b'_' | b'~' => out.push(byte),
                    _ if byte.is_ascii_alphanumeric() => out.push(byte),
                    _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                }
            }
            _ => out.push(b),
        }
    }
    Ok(out)
}

fn resolve(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut directory = true;
    for segment in path.split(|&b| b == b'/').skip(1) {
        directory = true;
        match segment {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            _ => {
                segments.push(segment);
                directory = false;
            }
        }
    }
    let mut out = Vec::with_capacity(path.len() + 1);
    for segment in &segments {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if directory {
        out.push(b'/');
    }
    out
}
