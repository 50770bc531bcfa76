//! Pure. Header fields that only a mesh proxy may write (L7-11), in what is carried as bytes.
//!
//! Servers of HTTP/1 differ in what they take for a request, and no first line tells all that some server reads fields after.
//! A field is told more surely: it stands at the beginning of a line, and a colon follows its name. They differ in lines and
//! names, too: a control character ends a line for one, is a blank for the next and nothing for a third. So all readings are
//! followed at once. HTTP/2 packs its fields, and is not looked into.

use crate::codec::MESH_IDENTITY;

/// How far a line, as some server reads it, has come in one name: bit `i` says that it has `i` of its bytes. The two bits
/// behind all of them say that the colon may follow: within what a name that was only begun goes on with, and behind it.
#[derive(Debug, Clone, Copy, Default)]
struct Reading(u32);

/// Follows the bytes of a client, however they are cut up.
#[derive(Debug)]
pub(super) struct Fields([Reading; MESH_IDENTITY.len()]);

impl Fields {
    pub(super) const fn new() -> Self {
        Self([Reading(BEGIN); MESH_IDENTITY.len()])
    }
    /// Takes the next bytes; whether a field that only a proxy may write has come.
    pub(super) fn has_come(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            if self.0.iter().all(|reading| reading.0 == 0) {
                let Some(end) = bytes.iter().position(|b| ends_line(*b)) else { return false };
                bytes = bytes.get(end..).unwrap_or_default();
            }
            let Some((&byte, rest)) = bytes.split_first() else { return false };
            for (reading, name) in self.0.iter_mut().zip(MESH_IDENTITY) {
                if reading.takes(name, byte) {
                    return true;
                }
            }
            bytes = rest;
        }
    }
}

/// Nothing of a name yet.
const BEGIN: u32 = 1;

impl Reading {
    /// Goes on with one byte; whether it ends the name of a field.
    fn takes(&mut self, name: &[u8], byte: u8) -> bool {
        let mut next = if ends_line(byte) { BEGIN } else { 0 };
        // The end of a line for everybody.
        if byte == b'\n' {
            self.0 = next;
            return false;
        }
        let (is_nothing, is_blank) = (is_nothing(byte), is_blank(byte));
        for (i, wanted) in name.iter().enumerate().filter(|(i, _)| self.0 & (1 << i) != 0) {
            let fits = match wanted {
                b'-' => !byte.is_ascii_alphanumeric() && byte != b':',
                letter => byte.eq_ignore_ascii_case(letter),
            };
            next |= u32::from(fits) << (i + 1);
            next |= u32::from(if i == 0 { is_blank } else { is_nothing }) << i;
        }
        let (within, behind) = (1 << name.len(), 1 << (name.len() + 1));
        if self.0 & (within | behind) != 0 && byte == b':' {
            return true;
        }
        // A name that is whole goes on with nothing; one that was begun, with what names and their blanks are made of.
        let goes_on =
            name.ends_with(b"-") && (byte == b' ' || byte == b'\t' || byte == b'\r' || byte.is_ascii_graphic());
        if self.0 & within != 0 && goes_on {
            next |= within;
        }
        if self.0 & (within | behind) != 0 && is_blank {
            next |= behind;
        }
        self.0 = next;
        false
    }
}

/// What some server takes for the end of a line.
const fn ends_line(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r' | 0 | 0x0b | 0x0c | 0x1c..=0x1f | 0x85)
}

/// What some server takes for a blank, before a name or behind it.
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0xa0) || ends_line(byte)
}

/// What some server leaves out of a name.
const fn is_nothing(byte: u8) -> bool {
    !matches!(byte, b' '..=b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut anywhere, and whatever was said before; a word within a line is none, nor is one that no colon follows.
    ///
    /// Mutations seen to fail: `ends_line` knows `\n` alone; `is_nothing` answered `false`; `is_blank` the blank alone;
    /// `is_nothing` for `i == 0`, too; `-` that fits itself and `_` alone; `within` that does not go on; `behind` left out;
    /// `byte == b'\r'` left out of `goes_on`.
    #[test]
    fn a_field_is_told_however_it_is_said() {
        let cases: [(&[u8], bool); 38] = [
            (b"POST /a\r\nHost: a\r\nX-Forwarded-Client-Cert: URI=x\r\n\r\n", true),
            (b"PRI * HTTP/2.0\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nx-forwarded-client-cert:x\r\n", true),
            (b"\x16GET / HTTP/1.1\nX_FORWARDED-CLIENT_CERT : x\n", true),
            (b"G@T /\rx-forwarded-client-cert:x\r", true),
            (b"GET /\x0b \tx-forwarded-client-cert:x", true),
            (b"x-forwarded-client-cert: x", true),
            (b"\r\nx-meshfed-src: x\r\n", true),
            (b"\r\nX_Envoy_a-name-that-is-longer-than-all-that-is-held: x\r\n", true),
            // CherryPy's server strips blanks, and what counts as such, from names.
            (b"G@T /admin HTTP/1.1\r\nX-Forwarded-Client-Cert\x0b: x\r\n", true),
            (b"G\rET / HTTP/1.0\r\nX-Forwarded-Client-Cert\x0c : x\r\n", true),
            // BusyBox drops CR wherever it stands, and CGI has one sign for all that is neither letter nor digit.
            (b"\nX-For\rwarded-Client-Cert: x", true),
            (b"\nX.Forwarded[Client+Cert: x", true),
            (b"\nX-Forwarded-Client-Cert\xa0: x", true),
            (b"\nX\x01-Forwarded-Client-Cert: x", true),
            (b"\nX-Env\roy-a: x", true),
            (b"\nX-Envoy-a\rb: x", true),
            (b"\nX-Envoy-a\x0b\xa0: x", true),
            // PHP takes names with blanks.
            (b"POST /admin\nX Forwarded Client Cert: x\n", true),
            (b"POST /admin\nX Envoy a b: x\n", true),
            (b"", false),
            (b"\nX-Forwarded--Client-Cert: x", false),
            (b"\nX-Forw arded-Client-Cert: x", false),
            // A message of binary fields: a name, the length of its value, and the value.
            (b"\x0bx-envoy-abc\x0412:30", false),
            (b"\x1cx-envoy-peer-metadata-id\x00\x0312:30", false),
            (b"\nx-envoy-a\n: x", false),
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
