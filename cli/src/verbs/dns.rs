//! Edge. `meshfed dns corefile`: what a cluster's own DNS needs, so that pods without a sidecar resolve imported names.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use kube::Api;

use crate::exit::{Failure, Outcome};
use crate::output::print;
use crate::place::{PlaceArgs, refused};

/// The agent's Service, as the chart names it; its port 53 is DNS.
const AGENT: &str = "meshfed-agent";
/// The domain of imported names.
pub const DOMAIN: &str = "clusterset.local";

/// Arguments of `meshfed dns`.
#[derive(clap::Args)]
pub struct DnsArgs {
    #[command(subcommand)]
    verb: DnsVerb,
}

#[derive(clap::Subcommand)]
enum DnsVerb {
    /// Print the server block for CoreDNS that hands imported names to this cluster's agent
    Corefile(CorefileArgs),
}

/// Arguments of `meshfed dns corefile`.
#[derive(clap::Args)]
#[command(after_help = "Example:
  meshfed dns corefile --context east
  kubectl -n kube-system edit configmap coredns
  meshfed check --context east                     # MF0006 passes

Add the block to the Corefile, in the place of one for the same domain: with two of them
CoreDNS does not start. It reloads by itself.")]
struct CorefileArgs {
    /// An address of the agent's DNS; none is asked of the API server then [default: those of Service meshfed-agent]
    #[arg(long, value_name = "IP")]
    address: Vec<IpAddr>,
    /// The domain of imported names
    #[arg(long, value_name = "DOMAIN", default_value = DOMAIN)]
    domain: String,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Prints.
pub async fn run(args: DnsArgs) -> Outcome {
    let DnsVerb::Corefile(args) = args.verb;
    let domain = args.domain.trim_end_matches('.').to_ascii_lowercase();
    let label = |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if domain.len() > 253 || !domain.split('.').all(label) {
        return Err(Failure::usage(format!("--domain '{}' is no DNS name", args.domain)));
    }
    let addresses = if args.address.is_empty() { asked(args.place).await? } else { args.address };
    print(&stanza(&domain, &addresses));
    Ok(0)
}

/// The addresses of the agent's Service.
async fn asked(place: PlaceArgs) -> Result<Vec<IpAddr>, Failure> {
    let place = place.connect().await?;
    let namespace = &place.namespace;
    let services: Api<Service> = Api::namespaced(place.client.clone(), namespace);
    let service = services.get_opt(AGENT).await.map_err(|error| refused(&place, &error))?;
    let addresses = service.as_ref().map(cluster_ips).unwrap_or_default();
    if addresses.is_empty() {
        return Err(Failure::bad_input(format!(
            "namespace {namespace} has no Service {AGENT} with a ClusterIP; install helm/meshfed-cluster, name its \
             namespace with --namespace, or the address with --address"
        )));
    }
    Ok(addresses)
}

/// The ClusterIPs of a Service, of both families where it has both.
pub fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let spec = service.spec.as_ref();
    let all = spec.and_then(|s| s.cluster_ips.clone()).unwrap_or_default();
    all.iter().filter_map(|ip| ip.parse().ok()).collect()
}

/// A server block of a Corefile (the format: coredns.io, "Corefile explained"). No `cache`: answers live for 5 s, and one
/// that is kept is one that is late.
fn stanza(domain: &str, addresses: &[IpAddr]) -> String {
    let to: Vec<String> = addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        })
        .collect();
    format!(
        "{domain}:53 {{
    errors
    forward . {}
}}
",
        to.join(" ")
    )
}

/// To whom a Corefile hands a domain: the targets of `forward` in its server block, or of a `forward DOMAIN` of another
/// block. None: to nobody.
pub fn forwards(corefile: &str, domain: &str) -> Option<Vec<String>> {
    let mut depth = 0_usize;
    let mut is_block = false;
    let mut targets: Option<Vec<String>> = None;
    for line in corefile.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let opens = words.last() == Some(&"{");
        if depth == 0 && opens {
            is_block = words.iter().flat_map(|word| word.split(',')).any(|zone| is_zone(zone, domain));
        } else if depth == 1
            && let ["forward", from, to @ ..] = &words[..]
            && ((is_block && *from == ".") || is_zone(from, domain))
        {
            targets.get_or_insert_default().extend(to.iter().filter(|to| **to != "{").map(|to| (*to).to_owned()));
        }
        if opens {
            depth += 1;
        } else if words.first() == Some(&"}") {
            depth = depth.saturating_sub(1);
        }
    }
    targets
}

/// How many server blocks a Corefile has for a domain. CoreDNS starts with one at most.
pub fn blocks(corefile: &str, domain: &str) -> usize {
    let mut depth = 0_usize;
    let mut found = 0;
    for line in corefile.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.last() == Some(&"{") {
            let is_ours = words.iter().flat_map(|word| word.split(',')).any(|zone| is_zone(zone, domain));
            found += usize::from(depth == 0 && is_ours);
            depth += 1;
        } else if words.first() == Some(&"}") {
            depth = depth.saturating_sub(1);
        }
    }
    found
}

/// Whether a zone of a Corefile, which may have a scheme and a port, is this domain.
fn is_zone(zone: &str, domain: &str) -> bool {
    let zone = zone.split_once("://").map_or(zone, |(_scheme, zone)| zone);
    let zone = zone.split(':').next().unwrap_or_default();
    zone.trim_end_matches('.').eq_ignore_ascii_case(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(corefile: &str) -> Option<Vec<String>> {
        forwards(corefile, DOMAIN)
    }

    /// What is printed is found again, also among what a cluster has already.
    ///
    /// Mutations seen to fail: `depth == 1` written `depth == 2`; `is_block` not asked; `blocks` counts any block.
    #[test]
    fn what_is_printed_is_found_in_a_corefile() {
        let ours = stanza(DOMAIN, &["10.96.0.53".parse().unwrap(), "fd00::53".parse().unwrap()]);
        let theirs = ".:53 {\n    errors\n    kubernetes cluster.local {\n        ttl 5\n    }\n    forward . /etc/resolv.conf {\n       max_concurrent 1000\n    }\n    reload\n}\n";
        assert_eq!(to(theirs), None);
        for both in [format!("{theirs}{ours}"), format!("{ours}{theirs}")] {
            assert_eq!(to(&both), Some(vec!["10.96.0.53".to_owned(), "[fd00::53]".to_owned()]), "{both}");
        }
        assert_eq!([theirs, &ours, &format!("{ours}{theirs}{ours}")].map(|text| blocks(text, DOMAIN)), [0, 1, 2]);
        for line in ours.lines().filter(|line| line.contains(DOMAIN) || line.contains("forward")) {
            assert_eq!(to(&format!("{theirs}{}", ours.replace(line, &format!("# {line}")))), None, "without {line}");
        }
    }

    /// Other ways to say the same.
    ///
    /// Mutation seen to fail: `is_zone(from, domain)` not asked.
    #[test]
    fn a_domain_is_forwarded_in_more_ways_than_one() {
        for corefile in [
            "dns://clusterset.local.:53, other.example {\n forward . 10.0.0.1\n}",
            "a.example clusterset.local {\n forward . 10.0.0.1 {\n  prefer_udp\n }\n}",
            ".:53 {\n forward clusterset.local. 10.0.0.1\n forward . 8.8.8.8\n}",
        ] {
            assert_eq!(to(corefile), Some(vec!["10.0.0.1".to_owned()]), "{corefile}");
        }
        for corefile in ["", "}}}", "{", "not-clusterset.local {\n forward . 10.0.0.1\n}"] {
            assert_eq!(to(corefile), None, "{corefile}");
        }
    }
}
