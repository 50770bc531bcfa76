//! Pure. Durations as people write them: `30s`, `15m`, `1h30m`.

use jiff::SignedDuration;

/// Not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no duration; write it like 30s, 15m or 1h30m")]
pub struct InvalidDuration(String);

/// Reads numbers with the units `h`, `m`, `s` and `ms`, each at most once and in this order.
///
/// # Errors
/// [`InvalidDuration`].
pub fn parse(text: &str) -> Result<SignedDuration, InvalidDuration> {
    let refuse = || InvalidDuration(text.chars().take(40).collect());
    let mut rest = text;
    let mut total = SignedDuration::ZERO;
    let mut last = u32::MAX;
    if rest.is_empty() {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(letters);
        let milliseconds: u32 = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return Err(refuse()),
        };
        if milliseconds >= last || digits > 9 {
            return Err(refuse());
        }
        let number: i64 = number.parse().map_err(|_number| refuse())?;
        let part = number.checked_mul(milliseconds.into()).ok_or_else(refuse)?;
        total = total.checked_add(SignedDuration::from_millis(part)).ok_or_else(refuse)?;
        last = milliseconds;
        rest = tail;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `milliseconds >= last` replaced by `>`.
    #[test]
    fn durations_are_read() {
        for (text, ms) in [("30s", 30_000), ("15m", 900_000), ("1h30m", 5_400_000), ("0s", 0), ("250ms", 250)] {
            assert_eq!(parse(text).unwrap(), SignedDuration::from_millis(ms), "{text}");
        }
        for bad in ["", "15", "m", "-1s", "1.5s", "1s1s", "1s1m", "1d", "1 s", "9999999999s", "１s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
