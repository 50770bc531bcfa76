//! Pure. The nftables rules that lead a workload's connections to its proxy, as one transaction.
//!
//! One `inet` table for both families. What is not named here goes its way as before: the proxy's own connections (by
//! uid), loopback, UDP other than DNS, and what is excluded. Rules stay when the proxy ends, so then connections are
//! refused and nothing goes past it in plaintext.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use meshfed_model::network::Cidr;

/// The table. It is ours alone: `init` replaces it and `clean` removes it, and nothing else is touched.
pub const TABLE: &str = "meshfed";
/// The uid that the proxy has unless `--proxy-uid` says otherwise.
pub const PROXY_UID: u32 = 1337;
/// Where captured connections of the application are taken.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where captured connections to the application are taken.
pub const INBOUND_PORT: u16 = 15006;
/// Where captured DNS queries to the first resolver are taken; those to the next one a port higher.
pub const DNS_PORT: u16 = 15053;
/// The conntrack zone of the proxy's own questions.
const OWN_ZONE: u16 = 15053;
/// Metrics and readiness of the proxy, which whoever can reach the workload may ask.
const ALWAYS_OPEN: [u16; 2] = [15020, 15021];

/// What is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureOptions {
    /// The uid whose connections are the proxy's own.
    pub proxy_uid: u32,
    /// Where outbound connections are led.
    pub outbound_port: u16,
    /// Where inbound connections are led.
    pub inbound_port: u16,
    /// Where DNS queries are led; `None`: they are not captured.
    pub dns_port: Option<u16>,
    /// The resolvers whose port 53 is captured, in the order of `resolv.conf`.
    pub resolvers: Vec<IpAddr>,
    /// Ports of the workload that are not captured.
    pub exclude_inbound_ports: BTreeSet<u16>,
    /// Ports elsewhere to which connections are not captured.
    pub exclude_outbound_ports: BTreeSet<u16>,
    /// Addresses to which connections are not captured.
    pub exclude_outbound_cidrs: BTreeSet<Cidr>,
}

impl CaptureOptions {
    /// The resolvers whose port 53 is captured, and where their queries go.
    fn dns(&self) -> impl Iterator<Item = (&IpAddr, u16)> {
        self.dns_port.into_iter().flat_map(|first| self.resolvers.iter().zip(first..))
    }
}

impl std::fmt::Display for CaptureOptions {
    /// What the rules do, in a line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "inbound TCP goes to port {}, outbound TCP to port {}", self.inbound_port, self.outbound_port)?;
        for (resolver, port) in self.dns() {
            write!(f, ", DNS of {resolver} to port {port}")?;
        }
        let open: BTreeSet<u16> = ALWAYS_OPEN.into_iter().chain(self.exclude_inbound_ports.iter().copied()).collect();
        write!(f, "; left alone: uid {}, inbound ports {}", self.proxy_uid, ports(&open))?;
        if !self.exclude_outbound_ports.is_empty() {
            write!(f, ", outbound ports {}", ports(&self.exclude_outbound_ports))?;
        }
        if !self.exclude_outbound_cidrs.is_empty() {
            let cidrs: Vec<String> = self.exclude_outbound_cidrs.iter().map(ToString::to_string).collect();
            write!(f, ", connections to {}", cidrs.join(", "))?;
        }
        Ok(())
    }
}

/// The transaction that puts the rules in force, whatever of the table is there already.
#[must_use]
pub fn install(options: &CaptureOptions) -> String {
    let mut text = remove();
    let mut line = |line: std::fmt::Arguments<'_>| {
        // A String takes everything.
        let _infallible = writeln!(text, "{line}");
    };
    let inbound = options.inbound_port;
    let open: BTreeSet<u16> =
        ALWAYS_OPEN.into_iter().chain([inbound]).chain(options.exclude_inbound_ports.iter().copied()).collect();
    let open = ports(&open);
    line(format_args!("table inet {TABLE} {{"));
    line(format_args!("\tchain inbound {{"));
    line(format_args!("\t\ttype nat hook prerouting priority -100; policy accept;"));
    line(format_args!("\t\tiifname \"lo\" return"));
    line(format_args!("\t\tfib daddr type != local return"));
    line(format_args!("\t\ttcp dport {{ {open} }} return"));
    line(format_args!("\t\tmeta l4proto tcp redirect to :{inbound}"));
    line(format_args!("\t}}"));
    // The proxy's own: only its connections to its own workload, as any peer makes them, go in by the front door. Those
    // that it hands to the application come from a loopback address.
    line(format_args!("\tchain own {{"));
    line(format_args!("\t\toifname != \"lo\" return"));
    for field in ["saddr", "daddr"] {
        line(format_args!("\t\tip {field} 127.0.0.0/8 return"));
        line(format_args!("\t\tip6 {field} ::1 return"));
    }
    line(format_args!("\t\ttcp dport {{ {open} }} return"));
    line(format_args!("\t\tmeta l4proto tcp redirect to :{inbound}"));
    line(format_args!("\t}}"));
    if options.dns_port.is_some() {
        // Where datagrams between two sockets go is decided once and remembered. The application soon has a port from
        // which the proxy has asked: what is remembered of the proxy is kept apart, or the question would go past it.
        line(format_args!("\tchain apart {{"));
        line(format_args!("\t\ttype filter hook output priority -300; policy accept;"));
        line(format_args!("\t\tmeta skuid {} udp dport 53 ct original zone set {OWN_ZONE}", options.proxy_uid));
        line(format_args!("\t}}"));
    }
    line(format_args!("\tchain outbound {{"));
    line(format_args!("\t\ttype nat hook output priority -100; policy accept;"));
    line(format_args!("\t\tmeta skuid {} goto own", options.proxy_uid));
    for (resolver, port) in options.dns() {
        let family = family(*resolver);
        for protocol in ["udp", "tcp"] {
            line(format_args!("\t\t{family} daddr {resolver} {protocol} dport 53 redirect to :{port}"));
        }
    }
    line(format_args!("\t\toifname \"lo\" return"));
    if !options.exclude_outbound_ports.is_empty() {
        line(format_args!("\t\ttcp dport {{ {} }} return", ports(&options.exclude_outbound_ports)));
    }
    // A rule each: overlapping ranges are an error in one set.
    for cidr in &options.exclude_outbound_cidrs {
        let family = if cidr.to_string().contains(':') { "ip6" } else { "ip" };
        line(format_args!("\t\t{family} daddr {cidr} return"));
    }
    line(format_args!("\t\tmeta l4proto tcp redirect to :{}", options.outbound_port));
    line(format_args!("\t}}"));
    line(format_args!("}}"));
    text
}

/// The transaction that takes all rules away. A table that is not there would be an error, so it is made first.
#[must_use]
pub fn remove() -> String {
    format!("table inet {TABLE} {{\n}}\ndelete table inet {TABLE}\n")
}

const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

fn ports(ports: &BTreeSet<u16>) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> CaptureOptions {
        CaptureOptions {
            proxy_uid: PROXY_UID,
            outbound_port: OUTBOUND_PORT,
            inbound_port: INBOUND_PORT,
            dns_port: Some(DNS_PORT),
            resolvers: Vec::new(),
            exclude_inbound_ports: BTreeSet::new(),
            exclude_outbound_ports: BTreeSet::new(),
            exclude_outbound_cidrs: BTreeSet::new(),
        }
    }

    /// Mutations seen to fail: the line of `oifname "lo" return` left out; resolvers zipped with one port for all.
    #[test]
    fn the_rules_are_as_documented() {
        let all = CaptureOptions {
            resolvers: vec!["10.96.0.10".parse().unwrap(), "fd00::a".parse().unwrap()],
            exclude_inbound_ports: [9090, 22].into(),
            exclude_outbound_ports: [5432].into(),
            exclude_outbound_cidrs: ["192.0.2.0/24", "2001:db8::/32"].map(|c| c.parse().unwrap()).into(),
            ..options()
        };
        let expected = "table inet meshfed {
}
delete table inet meshfed
table inet meshfed {
\tchain inbound {
\t\ttype nat hook prerouting priority -100; policy accept;
\t\tiifname \"lo\" return
\t\tfib daddr type != local return
\t\ttcp dport { 22, 9090, 15006, 15020, 15021 } return
\t\tmeta l4proto tcp redirect to :15006
\t}
\tchain own {
\t\toifname != \"lo\" return
\t\tip saddr 127.0.0.0/8 return
\t\tip6 saddr ::1 return
\t\tip daddr 127.0.0.0/8 return
\t\tip6 daddr ::1 return
\t\ttcp dport { 22, 9090, 15006, 15020, 15021 } return
\t\tmeta l4proto tcp redirect to :15006
\t}
\tchain apart {
\t\ttype filter hook output priority -300; policy accept;
\t\tmeta skuid 1337 udp dport 53 ct original zone set 15053
\t}
\tchain outbound {
\t\ttype nat hook output priority -100; policy accept;
\t\tmeta skuid 1337 goto own
\t\tip daddr 10.96.0.10 udp dport 53 redirect to :15053
\t\tip daddr 10.96.0.10 tcp dport 53 redirect to :15053
\t\tip6 daddr fd00::a udp dport 53 redirect to :15054
\t\tip6 daddr fd00::a tcp dport 53 redirect to :15054
\t\toifname \"lo\" return
\t\ttcp dport { 5432 } return
\t\tip daddr 192.0.2.0/24 return
\t\tip6 daddr 2001:db8::/32 return
\t\tmeta l4proto tcp redirect to :15001
\t}
}
";
        assert_eq!(install(&all), expected);
    }

    /// Mutation seen to fail: `dns_port` not looked at.
    #[test]
    fn without_dns_no_resolver_is_named() {
        let resolvers = vec!["10.96.0.10".parse().unwrap()];
        let without = CaptureOptions { dns_port: None, resolvers: resolvers.clone(), ..options() };
        assert!(!install(&without).contains("10.96.0.10") && !install(&without).contains("zone"));
        assert!(install(&CaptureOptions { resolvers, ..options() }).contains("10.96.0.10"));
    }
}
