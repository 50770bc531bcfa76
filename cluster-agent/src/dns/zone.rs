//! Pure. What the imports are called.

use std::net::IpAddr;

use meshfed_model::names::ServiceName;
use meshfed_model::service::ServicePort;
use meshfed_model::sni::CLUSTERSET_DOMAIN;
use meshfed_runtime::dns::{Record, Zone};

/// The version of the schema of the names (`dns-version`).
const SCHEMA: &str = "1.0.0";

/// One import: its name, its virtual addresses, its ports.
#[derive(Debug, Clone)]
pub struct Named<'a> {
    /// Its name.
    pub service: &'a ServiceName,
    /// Its addresses; none: it has a name all the same.
    pub addresses: Vec<IpAddr>,
    /// Its ports, UDP and SCTP among them.
    pub ports: Vec<&'a ServicePort>,
}

/// All names. `whole`: what is not among the imports is none.
#[must_use]
pub fn zone<'a>(imports: impl Iterator<Item = Named<'a>>, whole: bool) -> Zone {
    let mut zone = Zone::new(CLUSTERSET_DOMAIN, whole);
    zone.add(&format!("dns-version.{CLUSTERSET_DOMAIN}"), Record::Text(SCHEMA.to_owned()));
    for import in imports {
        let host = import.service.host(CLUSTERSET_DOMAIN);
        zone.name(&host);
        for address in import.addresses {
            zone.add(&host, Record::Address(address));
        }
        for port in import.ports.into_iter().filter(|p| !p.name.is_empty()) {
            let service = Record::Service(port.port, host.clone());
            zone.add(&format!("_{}._{}.{host}", port.name, port.protocol.to_ascii_lowercase()), service.clone());
            zone.add(&host, service);
        }
    }
    zone
}

#[cfg(test)]
mod tests {
    use meshfed_runtime::dns::{Found, Kind};

    use super::*;

    fn port(name: &str, port: u16, protocol: &str) -> ServicePort {
        ServicePort { name: name.to_owned(), port, protocol: protocol.to_owned(), app_protocol: None }
    }

    /// Mutations seen to fail: unnamed ports are named; the record at the service's own name left out.
    #[test]
    fn names_are_those_of_the_specification() {
        let (b, c) = ("shop/b".parse().unwrap(), "shop/c".parse().unwrap());
        let ports = [port("http", 80, "TCP"), port("dns", 53, "UDP"), port("dns-tcp", 53, "TCP"), port("", 9, "TCP")];
        let addresses: Vec<IpAddr> = vec!["240.240.0.1".parse().unwrap(), "fd6d::1".parse().unwrap()];
        let named = [
            Named { service: &b, addresses: addresses.clone(), ports: ports.iter().collect() },
            Named { service: &c, addresses: Vec::new(), ports: Vec::new() },
        ];
        let zone = zone(named.into_iter(), true);
        let host = "b.shop.svc.clusterset.local";
        let service = |port| Record::Service(port, host.to_owned());
        let found = |name: &str, kind| zone.find(name, kind);
        assert_eq!(found(host, Kind::A), Found::Records(vec![Record::Address(addresses[0])]));
        assert_eq!(found(host, Kind::Aaaa), Found::Records(vec![Record::Address(addresses[1])]));
        // One port under two protocols is one answer.
        assert_eq!(found(host, Kind::Srv), Found::Records(vec![service(80), service(53)]));
        assert_eq!(found(&format!("_http._tcp.{host}"), Kind::Srv), Found::Records(vec![service(80)]));
        assert_eq!(found(&format!("_dns._udp.{host}"), Kind::Srv), Found::Records(vec![service(53)]));
        assert_eq!(found(&format!("_http._udp.{host}"), Kind::Srv), Found::NoName);
        assert_eq!(found(&format!("_http._tcp.{host}"), Kind::A), Found::NoData);
        assert_eq!(found(&format!("east.{host}"), Kind::A), Found::NoName);
        assert_eq!(found("c.shop.svc.clusterset.local", Kind::A), Found::NoData);
        assert_eq!(found("x.shop.svc.clusterset.local", Kind::A), Found::NoName);
        let version = Found::Records(vec![Record::Text("1.0.0".to_owned())]);
        assert_eq!(found("dns-version.clusterset.local", Kind::Txt), version);
    }
}
