//! Pure. Character classes of RFC 9110 and RFC 9112 as tables.

const TOKEN: u8 = 1;
const VALUE: u8 = 2;
const TARGET: u8 = 4;
const HOST: u8 = 8;

const TABLE: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut i = 0usize;
    while i < 256 {
        let b = i as u8;
        let alnum = b.is_ascii_alphanumeric();
        let mut class = 0;
        if alnum
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            )
        {
            class |= TOKEN;
        }
        if b == b'\t' || (b >= 0x20 && b != 0x7f) {
            class |= VALUE;
        }
        if b > 0x20 && b < 0x7f && b != b'#' {
            class |= TARGET;
        }
        if alnum || matches!(b, b'-' | b'.' | b'_') {
            class |= HOST;
        }
        table[i] = class;
        i += 1;
    }
    table
};

/// A character of a token: method and field names.
pub(super) const fn is_token(b: u8) -> bool {
    TABLE[b as usize] & TOKEN != 0
}
/// A character of a field value; CR, LF, NUL and other controls are none.
pub(super) const fn is_value(b: u8) -> bool {
    TABLE[b as usize] & VALUE != 0
}
/// A character of a request target: visible ASCII without `#`.
pub(super) const fn is_target(b: u8) -> bool {
    TABLE[b as usize] & TARGET != 0
}
/// A character of a host name or IPv4 address.
pub(super) const fn is_host(b: u8) -> bool {
    TABLE[b as usize] & HOST != 0
}
/// The position of the first byte of another class, at or after `at`.
pub(super) fn skip(buf: &[u8], at: usize, class: fn(u8) -> bool) -> usize {
    buf.get(at..).map_or(at, |rest| rest.iter().position(|&b| !class(b)).map_or(buf.len(), |n| at + n))
}
/// `value` without spaces and tabs around it.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
