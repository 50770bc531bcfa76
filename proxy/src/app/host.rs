//! Edge. The addresses that this host owns.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most addresses that are told.
const ADDRESSES_MAX: usize = 200;

/// The host's own addresses, as far as the kernel's tables can be read; those of the loopback interface are left out,
/// since every host has them.
#[must_use]
pub(super) fn addresses() -> Vec<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut found = parse(&read("/proc/net/fib_trie"), &read("/proc/net/if_inet6"));
    found.truncate(ADDRESSES_MAX);
    found
}

/// `fib_trie` has a line with the address and below it one that says `/32 host LOCAL`; `if_inet6` has 32 hex digits first.
fn parse(fib_trie: &str, if_inet6: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in fib_trie.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last.map(IpAddr::V4));
        }
    }
    for line in if_inet6.lines() {
        let digits = line.split_whitespace().next().unwrap_or_default();
        if let Ok(bits) = u128::from_str_radix(digits, 16) {
            found.push(IpAddr::V6(Ipv6Addr::from_bits(bits)));
        }
    }
    found.retain(|a| !a.is_loopback());
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `line == "/32 host LOCAL"` replaced by `line.starts_with("/32")`.
    #[test]
    fn own_addresses_are_those_that_the_kernel_calls_local() {
        let fib = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        let v6 = "00000000000000000000000000000001 01 80 10 80 lo\nfd000000000000000000000000000005 02 40 00 80 eth0\n";
        let expected: Vec<IpAddr> = vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(parse(fib, v6), expected);
    }
}
