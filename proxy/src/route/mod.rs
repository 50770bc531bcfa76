//! Pure. From the authority of a request to what is done with it.

use crate::state::{RouteAction, RouteTable};

/// The action for `authority` (`host[:port]`, checked by the codec), or `None` when no service has that name.
///
/// Names are compared in lower case and without one trailing dot; the port counts unless the table says otherwise. `key`
/// is working space.
pub fn find<'a>(table: &'a RouteTable, authority: &[u8], key: &mut String) -> Option<&'a RouteAction> {
    key.clear();
    let (host, port) = split_port(authority);
    key.extend(host.strip_suffix(b".").unwrap_or(host).iter().map(|b| char::from(b.to_ascii_lowercase())));
    if !table.ignore_port && !port.is_empty() {
        key.push(':');
        key.extend(port.iter().map(|&b| char::from(b)));
    }
    table.find(key)
}

/// Ports that an answer names.
const PORTS_NAMED: usize = 8;

/// The ports under which the table knows the host of `authority`, the lowest first; a host without port is port 80. Looks
/// at all names, for an answer that says what is wrong.
pub fn ports_of(table: &RouteTable, authority: &[u8]) -> Vec<u16> {
    let (host, _) = split_port(authority);
    let host = String::from_utf8_lossy(host.strip_suffix(b".").unwrap_or(host)).to_ascii_lowercase();
    let port = |known: &str| match known.strip_prefix(&host)? {
        "" => Some(80),
        port => port.strip_prefix(':')?.parse().ok(),
    };
    let mut ports: Vec<u16> = table.hosts.keys().filter_map(|known| port(known)).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Why an authority goes nowhere, where its host is known with `ports`.
pub fn unknown(shown: &str, ports: &[u16]) -> String {
    let named: Vec<String> = ports.iter().take(PORTS_NAMED).map(ToString::to_string).collect();
    let more = if ports.len() > PORTS_NAMED { ", …" } else { "" };
    match named.as_slice() {
        [] => format!("meshfed knows no service '{shown}' here; is it exported to this cluster?"),
        [port] => format!("meshfed knows the service of '{shown}', but not this port: it has port {port}"),
        many => {
            format!(
                "meshfed knows the service of '{shown}', but not this port: it has the ports {}{more}",
                many.join(", ")
            )
        }
    }
}

/// Host and port (empty when there is none) of `host[:port]` or `[v6][:port]`.
#[must_use]
pub fn split_port(authority: &[u8]) -> (&[u8], &[u8]) {
    let after_bracket = authority.iter().position(|&b| b == b']').unwrap_or(0);
    match authority.iter().skip(after_bracket).position(|&b| b == b':') {
        Some(n) => {
            let (host, port) = authority.split_at(after_bracket + n);
            (host, port.get(1..).unwrap_or_default())
        }
        None => (authority, &[]),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Mutation seen to fail: `ports_of` gives nothing; the host is not made lower case.
    #[test]
    fn a_wrong_port_of_a_known_host_names_those_there_are() {
        let names = ["b.shop.x:8080", "b.shop.x:9090", "c.shop.x:81", "b.shop.x.y:82", "d.shop.x"];
        let table = RouteTable {
            ignore_port: false,
            hosts: names.iter().map(|name| ((*name).into(), RouteAction::Respond(200))).collect(),
            fallback: None,
        };
        let why = |authority: &str| unknown(authority, &ports_of(&table, authority.as_bytes()));
        let known = |shown: &str| format!("meshfed knows the service of '{shown}', but not this port: it has ");
        assert_eq!(why("B.shop.x.:81"), known("B.shop.x.:81") + "the ports 8080, 9090");
        assert_eq!(why("c.shop.x"), known("c.shop.x") + "port 81");
        assert_eq!(why("d.shop.x:81"), known("d.shop.x:81") + "port 80");
        assert_eq!(why("shop.x:81"), "meshfed knows no service 'shop.x:81' here; is it exported to this cluster?");
        assert!(unknown("b", &(1..20).collect::<Vec<_>>()).ends_with("1, 2, 3, 4, 5, 6, 7, 8, …"));
    }

    /// Mutation seen to fail: `strip_suffix(b".")` left out.
    #[test]
    fn names_are_compared_without_case_and_trailing_dot() {
        let mut table = RouteTable {
            ignore_port: false,
            hosts: HashMap::from([
                ("b.shop.svc.clusterset.local:8080".into(), RouteAction::Respond(200)),
                ("b.shop.svc.clusterset.local".into(), RouteAction::Respond(201)),
                ("[::1]:80".into(), RouteAction::Respond(202)),
            ]),
            fallback: None,
        };
        let mut key = String::new();
        let mut status = |table: &RouteTable, authority: &str| match find(table, authority.as_bytes(), &mut key) {
            Some(RouteAction::Respond(status)) => Some(*status),
            _ => None,
        };
        assert_eq!(status(&table, "B.shop.svc.clusterset.local.:8080"), Some(200));
        assert_eq!(status(&table, "b.shop.svc.clusterset.local:"), Some(201));
        assert_eq!(status(&table, "b.shop.svc.clusterset.local:8081"), None);
        assert_eq!(status(&table, "b.shop.svc.clusterset.local..:8080"), None);
        assert_eq!(status(&table, "[::1]:80"), Some(202));
        assert_eq!(status(&table, ""), None);
        table.ignore_port = true;
        assert_eq!(status(&table, "b.shop.svc.clusterset.local:9"), Some(201));
    }
}
