//! Pure. The resolvers of a `resolv.conf` (resolv.conf(5)), and the domains that it appends to names.

use std::net::IpAddr;

/// Resolvers that the system's own library asks; it does not look at others.
pub const RESOLVERS_MAX: usize = 3;
/// Search domains that are looked at.
const DOMAINS_MAX: usize = 32;

/// What of a `resolv.conf` matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The addresses of `nameserver`, in order, without the zone of a link-local one; none twice.
    pub resolvers: Vec<IpAddr>,
    /// The domains of the last `search` or `domain`, in lower case, without trailing dot.
    pub search: Vec<String>,
}

/// Reads a `resolv.conf`. What is not understood is passed over, as the system's library does.
#[must_use]
pub fn parse(text: &str) -> ResolvConf {
    let mut found = ResolvConf::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let address = words.next().and_then(|w| w.split('%').next()).and_then(|w| w.parse::<IpAddr>().ok());
                if let Some(address) = address.filter(|a| !found.resolvers.contains(a))
                    && found.resolvers.len() < RESOLVERS_MAX
                {
                    found.resolvers.push(address);
                }
            }
            Some("search" | "domain") => {
                let domain = |w: &str| w.trim_end_matches('.').to_ascii_lowercase();
                found.search = words.map(domain).filter(|d| !d.is_empty()).take(DOMAINS_MAX).collect();
            }
            Some(_) | None => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations seen to fail: the zone is not cut off; the first `search` counts.
    #[test]
    fn what_the_library_reads_is_read() {
        let text = "# comment\nsearch old.example\nnameserver 10.96.0.10\nnameserver fe80::1%eth0\n; no\nnameserver x\n\
                    nameserver 10.96.0.10\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n\
                    search shop.svc.cluster.local SVC.cluster.local.\noptions ndots:5\n";
        assert_eq!(
            parse(text),
            ResolvConf {
                resolvers: ["10.96.0.10", "fe80::1", "192.0.2.1"].map(|a| a.parse().unwrap()).into(),
                search: ["shop.svc.cluster.local", "svc.cluster.local"].map(str::to_owned).into(),
            }
        );
        assert_eq!(parse(""), ResolvConf::default());
    }
}
