//! Edge. The sockets of captured DNS: a pair of them for each resolver of the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use meshfed_runtime::config::Problems;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::listen::{Addresses, ListenFlag, beside, bind_tcp};
use meshfed_runtime::tasks;

use crate::capture::resolvers::{self, ResolvConf};
use crate::capture::rules::DNS_PORT;
use crate::config::DnsConfig;
use crate::dns::{self, Stand};
use crate::state::StateHandle;

const FLAG: &str = "--dns-listen";

/// What is bound, and the domains that the host appends to names.
pub(super) struct Bound {
    stands: Vec<Stand>,
    search: Arc<[String]>,
}

/// Binds; nothing where DNS is not served.
pub(super) fn bind(config: &DnsConfig, addresses: &mut Addresses, problems: &mut Problems) -> Bound {
    let first = first_addresses(config, problems);
    if first.is_empty() {
        return Bound { stands: Vec::new(), search: Arc::default() };
    }
    let ResolvConf { resolvers, search } = match std::fs::read_to_string(&config.resolv_conf) {
        Ok(text) => resolvers::parse(&text),
        Err(error) => {
            tracing::warn!(file = %config.resolv_conf.display(), %error, "dns: no resolvers: only names of the clusterset are answered");
            ResolvConf::default()
        }
    };
    let each: Vec<Option<IpAddr>> =
        if resolvers.is_empty() { vec![None] } else { resolvers.into_iter().map(Some).collect() };
    let mut stands = Vec::new();
    for (resolver, offset) in each.into_iter().zip(0..) {
        let mut tcp: Vec<TcpListener> = Vec::new();
        for address in &first {
            let port = if address.port() == 0 { 0 } else { address.port().saturating_add(offset) };
            match bind_tcp(FLAG, SocketAddr::new(address.ip(), port)) {
                Ok(listener) => {
                    if let Err(error) = addresses.add("dns", &listener) {
                        tracing::warn!(%error, "a socket does not tell its address");
                    }
                    tcp.push(listener);
                }
                Err(error) => error.note(problems),
            }
        }
        let udp = beside(FLAG, &tcp, problems);
        stands.push(Stand { udp, tcp, resolver });
    }
    Bound { stands, search: search.into() }
}

fn first_addresses(config: &DnsConfig, problems: &mut Problems) -> Vec<SocketAddr> {
    if config.listen.is_empty() && config.by_default {
        // The rules lead there, and an answer from another address would be none.
        let all = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let has = |ip: &IpAddr| std::net::UdpSocket::bind((*ip, 0)).is_ok();
        return all.into_iter().filter(has).map(|ip| SocketAddr::new(ip, DNS_PORT)).collect();
    }
    let mut found = Vec::new();
    for flag in config.listen.iter().filter(|f| **f != ListenFlag::Off) {
        match flag.resolve() {
            Ok(addresses) => found.extend(addresses),
            Err(error) => {
                problems.environment(crate::config::CODE_FLAG, FLAG, format!("'{flag}' does not resolve ({error})"))
            }
        }
    }
    found
}

/// Serves what is bound.
pub(super) fn serve(bound: Bound, state: &Arc<StateHandle>, drain: &Watch) {
    for stand in bound.stands {
        let work = dns::serve(stand, Arc::clone(state), Arc::clone(&bound.search), drain.clone());
        // It ends with the drain.
        let _detached = tasks::spawn("dns", async move {
            if let Err(error) = work.await {
                tracing::error!(%error, "captured DNS cannot be served");
            }
        });
    }
}
