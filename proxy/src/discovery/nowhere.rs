//! Pure. What the command line asks for and the agent's configuration lacks: it would be silent until somebody connects.

use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Says what leads nowhere, with what to do: ports of `--inbound` that are not among the workload's `ports`, and listeners
/// of `--outbound` whose cluster is not `known`.
pub(super) fn nowhere<'a>(
    inbound: &BTreeSet<u16>,
    ports: &BTreeSet<u16>,
    outbound: impl Iterator<Item = (SocketAddr, &'a str)>,
    known: impl Fn(&str) -> bool,
) -> BTreeSet<String> {
    let named: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let has = match named.as_slice() {
        [] => "no port that a Service holds".to_owned(),
        [port] => format!("port {port}"),
        many => format!("the ports {}", many.join(", ")),
    };
    let unserved = inbound.difference(ports).map(|port| {
        format!(
            "--inbound {port}: the workload has {has}, so nothing comes in here; give one that it has, or add this one to \
             its WorkloadEntry and Service"
        )
    });
    let unknown = outbound.filter(|(_, cluster)| !known(cluster)).map(|(listen, cluster)| {
        let mut parts = cluster.split('|').skip(1);
        let (port, host) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or(cluster));
        format!(
            "--outbound {listen}: no service {host} with port {port} is known here, so nobody is reached; is the name \
             right, and is it exported to this cluster?"
        )
    });
    unserved.chain(unknown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations seen to fail: `unserved` left out; `known` not asked.
    #[test]
    fn a_port_that_the_workload_lacks_and_a_service_that_nobody_has_are_told() {
        let known = "outbound|5432||db.shop.svc.clusterset.local";
        let unknown = "outbound|5432||nope.shop.svc.clusterset.local";
        let told = |inbound: &[u16], ports: &[u16], cluster: &str| -> Vec<String> {
            let outbound = std::iter::once(("127.0.0.1:9000".parse().unwrap(), cluster));
            let of = |ports: &[u16]| ports.iter().copied().collect();
            nowhere(&of(inbound), &of(ports), outbound, |name| name == known).into_iter().collect()
        };
        assert_eq!(told(&[8080], &[8080, 9090], known), Vec::<String>::new());
        let told_of = |inbound: &[u16], ports: &[u16], cluster: &str, words: &str| {
            let lines = told(inbound, ports, cluster);
            assert!(lines.len() == 1 && lines[0].starts_with(words), "{lines:?}");
        };
        told_of(&[8080, 9999], &[8080], known, "--inbound 9999: the workload has port 8080, so nothing comes in here");
        told_of(&[9999], &[1, 2], known, "--inbound 9999: the workload has the ports 1, 2, so");
        told_of(&[9999], &[], known, "--inbound 9999: the workload has no port that a Service holds");
        let words = "--outbound 127.0.0.1:9000: no service nope.shop.svc.clusterset.local with port 5432 is known here";
        told_of(&[], &[], unknown, words);
    }
}
