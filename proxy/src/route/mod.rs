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
