//! Pure. Kubernetes quantities, as far as two can be compared (`resource.Quantity`: a number and a suffix).

/// The suffixes and what they multiply by.
const SUFFIXES: [(&str, f64); 16] = [
    ("", 1.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
];

/// The value of a quantity that is not negative; none for what is none.
pub(super) fn value(text: &str) -> Option<f64> {
    if text.len() > 64 {
        return None;
    }
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = text.split_at_checked(digits)?;
    if !number.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let factor = match SUFFIXES.iter().find(|(s, _)| *s == suffix) {
        Some((_, factor)) => *factor,
        // 1e3, 12E6: an exponent instead of a suffix.
        None => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            10f64.powi(exponent.clamp(-30, 30))
        }
    };
    Some(number * factor)
}
