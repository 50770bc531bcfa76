//! Pure. Keys and values of labels and annotations, as Kubernetes takes them, and whose keys they are.

/// Domains whose keys mean something to Kubernetes, to us or to what applies and deletes objects: no export writes them onto
/// objects of other clusters.
const RESERVED: &[&str] = &["kubernetes.io", "k8s.io", "meshfed.io", "istio.io", "helm.sh", "argoproj.io", "fluxcd.io"];
/// What Kubernetes recommends to everybody, but for [`OWNERS`].
const RECOMMENDED: &str = "app.kubernetes.io";
/// Whose an object is: what applies and prunes objects tells by these which are its own. Argo CD tracks an application's objects
/// by `instance` where it is told to track by label.
const OWNERS: [&str; 2] = ["app.kubernetes.io/managed-by", "app.kubernetes.io/instance"];

/// Whether Kubernetes takes it as the key of a label or annotation: `[PREFIX/]NAME`, the name at most 63 of letters,
/// digits, `-`, `_` and `.`, the prefix a DNS name.
#[must_use]
pub fn is_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let dns = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    prefix.is_none_or(|p| p.len() <= 253 && p.split('.').all(dns)) && !name.is_empty() && is_value(name)
}

/// Whether Kubernetes takes it as the value of a label.
#[must_use]
pub fn is_value(value: &str) -> bool {
    let end = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && end(bytes.first())
        && end(bytes.last())
}

/// Whether a key is somebody's own, which no export carries: in one of the domains that mean something to others.
#[must_use]
pub fn is_reserved(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let within = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    RESERVED.iter().any(|of| within(of)) && (domain != RECOMMENDED || OWNERS.contains(&key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations seen to fail: `&& end(bytes.last())` left out; `split('.').all(dns)` answered `true`.
    #[test]
    fn keys_and_values_are_those_of_kubernetes() {
        let long = "a".repeat(64);
        for (key, want) in [
            ("tier", true),
            ("a.b/C_d", true),
            ("A.b/c", false),
            ("/c", false),
            ("a/", false),
            ("a b", false),
            ("a/b/c", false),
            (long.as_str(), false),
        ] {
            assert_eq!(is_key(key), want, "{key}");
        }
        for (value, want) in [("", true), ("x", true), ("-x", false), ("x-", false), ("ä", false), (&long, false)] {
            assert_eq!(is_value(value), want, "{value}");
        }
    }

    /// Mutations seen to fail: `rest.ends_with('.')` answered `true`; `instance` left out of `OWNERS`.
    #[test]
    fn keys_of_others_are_reserved() {
        for (key, want) in [
            ("tier", false),
            ("example.com/tier", false),
            ("notkubernetes.io/x", false),
            ("kubernetes.io/service-name", true),
            ("multicluster.kubernetes.io/service-name", true),
            ("node.k8s.io/x", true),
            ("federation.meshfed.io/service-import", true),
            ("argocd.argoproj.io/tracking-id", true),
            ("app.kubernetes.io/name", false),
            ("app.kubernetes.io/managed-by", true),
            ("app.kubernetes.io/instance", true),
        ] {
            assert_eq!(is_reserved(key), want, "{key}");
        }
    }
}
