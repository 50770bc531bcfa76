//! Pure. Header fields that only a mesh proxy may write (L7-11), in what is carried as bytes.
//!
//! Servers of HTTP/1 differ in what they take for a request, and no first line tells all that some server reads fields after.
//! A field is told more surely: it stands at the beginning of a line, and a colon follows its name. HTTP/2 packs its fields,
//! and is not looked into.

use crate::codec::is_mesh_identity;

/// More of a name than is ever compared.
const NAME_MAX: usize = 24;

/// Where in a line the bytes have come to.
#[derive(Debug, Clone, Copy)]
enum At {
    /// At its beginning, blanks left out.
    Begin,
    /// In its first word, of which so much is held.
    Name([u8; NAME_MAX], usize),
    /// Behind a first word that is such a name.
    Named,
    /// Behind anything else.
    Rest,
}

/// Follows the bytes of a client, however they are cut up.
#[derive(Debug)]
pub(super) struct Fields(At);

impl Fields {
    pub(super) const fn new() -> Self {
        Self(At::Begin)
    }
    /// Takes the next bytes; whether a field that only a proxy may write has come.
    pub(super) fn has_come(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((&byte, rest)) = bytes.split_first() {
            if matches!(self.0, At::Rest) {
                let Some(end) = bytes.iter().position(|b| ends_line(*b)) else { return false };
                bytes = bytes.get(end + 1..).unwrap_or_default();
                self.0 = At::Begin;
                continue;
            }
            self.0 = match (self.0, byte) {
                (At::Named, b':') => return true,
                (_, byte) if ends_line(byte) => At::Begin,
                (At::Begin, b' ' | b'\t') => At::Begin,
                (At::Begin, byte) if is_of_name(byte) => after(&[], byte),
                (At::Name(name, len), byte) if is_of_name(byte) => after(name.get(..len).unwrap_or(&name), byte),
                (At::Name(name, len), b' ' | b'\t' | b':' | 0xa0)
                    if is_mesh_identity(name.get(..len).unwrap_or(&name)) =>
                {
                    if byte == b':' {
                        return true;
                    }
                    At::Named
                }
                (At::Named, b' ' | b'\t' | 0xa0) => At::Named,
                (At::Begin | At::Name(..) | At::Named | At::Rest, _) => At::Rest,
            };
            bytes = rest;
        }
        false
    }
}

/// A name with one byte more. What is longer than all names and begins like none stays so.
fn after(name: &[u8], byte: u8) -> At {
    let mut held = [0; NAME_MAX];
    for (to, from) in held.iter_mut().zip(name.iter().chain([&byte])) {
        *to = *from;
    }
    At::Name(held, (name.len() + 1).min(NAME_MAX))
}

/// What some server takes for the end of a line.
const fn ends_line(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r' | 0 | 0x0b | 0x0c | 0x1c..=0x1f | 0x85)
}

const fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut anywhere, and whatever was said before; a word within a line is none, nor is one that no colon follows.
    ///
    /// Mutations seen to fail: `At::Rest` of the last arm as `At::Begin`; names held to one byte less than `NAME_MAX`;
    /// `ends_line` knows `\n` alone.
    #[test]
    fn a_field_is_told_however_it_is_said() {
        let cases: [(&[u8], bool); 22] = [
            (b"POST /a\r\nHost: a\r\nX-Forwarded-Client-Cert: URI=x\r\n\r\n", true),
            (b"PRI * HTTP/2.0\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nx-forwarded-client-cert:x\r\n", true),
            (b"\x16GET / HTTP/1.1\nX_FORWARDED-CLIENT_CERT : x\n", true),
            (b"G@T /\rx-forwarded-client-cert:x\r", true),
            (b"GET /\x0b \tx-forwarded-client-cert:x", true),
            (b"x-forwarded-client-cert: x", true),
            (b"\r\nx-meshfed-src: x\r\n", true),
            (b"\r\nX_Envoy_a-name-that-is-longer-than-all-that-is-held: x\r\n", true),
            (b"", false),
            (b"\r\nx-forwarded-client-cert\r\n: x", false),
            (b"\r\nx-forwarded-client-cert2: x\r\n", false),
            (b"\r\nx-forwarded-client-cer: x\r\n", false),
            (b"\r\nx-forwarded-client-cert is what a proxy writes\r\n", false),
            (b"\r\na x-forwarded-client-cert: x\r\n", false),
            (b"\r\nx-forwarded-for: x\r\n", false),
            (b"{\"x-forwarded-client-cert\": \"x\"}", false),
            (b"{\r\n  \"x-forwarded-client-cert\": \"x\"\r\n}", false),
            (b"\r\nx-meshfed: x\r\n", false),
            (b"\r\nthe-first-word-is-longer-than-all-that-is-held-and-is-none: x\r\n", false),
            (b"*1\r\n$4\r\nPING\r\n", false),
            (b"\x00\x00\x17\x01\x04x-forwarded-client-cert\x05:", false),
            (b"97 <34>1 2026-11-29 a: x", false),
        ];
        for (bytes, expected) in cases {
            let text = String::from_utf8_lossy(bytes);
            for cut in 0..=bytes.len() {
                let mut fields = Fields::new();
                let found = fields.has_come(&bytes[..cut]) || fields.has_come(&bytes[cut..]);
                assert_eq!(found, expected, "{cut} of {text}");
            }
            let mut fields = Fields::new();
            assert_eq!(bytes.chunks(1).any(|one| fields.has_come(one)), expected, "{text}");
        }
    }
}
