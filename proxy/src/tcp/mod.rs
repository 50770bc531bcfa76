//! Edge. Raw TCP: of the application to one service (`--outbound`), and of peers to the application.

mod metered;

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use meshfed_runtime::tls::peer_described;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::forward::{Core, Guest, Standing, copy_bidirectional, holds};
use crate::inbound::service;
use crate::outbound::is_this_host;
use crate::pool::{ConnectError, connect};
use crate::state::{Cluster, ClusterCell, Endpoint, Listener, ListenerKind};
use crate::telemetry::{Flag, Parties, Party, Reporter, Security};
use crate::tls::{self, Stream};
use metered::Metered;

/// Endpoints that are tried for one connection.
const ATTEMPTS_MAX: usize = 3;
/// How often a connection asks whether its peer's trust domain is still accepted: an evicted one has 5 s (INV-12).
const TRUST_TICK: Duration = Duration::from_secs(1);
/// How long it stays when only its port accepts it no longer: with the tick below the 30 s that SN12 allows.
const WITHDRAWN_GRACE: Duration = Duration::from_secs(20);

/// Serves a connection of the application to its end. Others than this host are closed and counted.
pub async fn serve_outbound(core: Rc<Core>, client: TcpStream, peer: SocketAddr, listener: Arc<Listener>) {
    let (ListenerKind::OutboundTcp { cluster } | ListenerKind::OutboundAny { cluster, .. }) = &listener.kind else {
        return;
    };
    relay(core, client, peer, cluster, None).await;
}

/// The same to a cluster; `meant` is the address that the application dialled, where the connection was captured.
pub async fn relay(
    core: Rc<Core>,
    mut client: TcpStream,
    peer: SocketAddr,
    cluster: &ClusterCell,
    meant: Option<SocketAddr>,
) {
    if !is_this_host(peer.ip(), &client) {
        core.telemetry.denied("outbound", "foreign_host");
        return;
    }
    let mut parties = Parties {
        reporter: Reporter::Source,
        source: core.own_party(),
        destination: Party::default(),
        service: "".into(),
        protocol: "tcp",
        security: Security::Unknown,
    };
    let (endpoint, cluster, mut upstream) = match reach(&core, cluster, peer.ip(), meant).await {
        Ok(reached) => reached,
        Err(flag) => {
            tracing::info!(cluster = %cluster.name(), %peer, flag = flag.as_str(), "no endpoint could be reached");
            return count(&core, parties, flag);
        }
    };
    parties.service = Arc::clone(&cluster.host);
    parties.destination = upstream.peer().as_ref().map_or_else(
        || Party { cluster: Arc::clone(&endpoint.cluster), ..Party::default() },
        |id| Party::of(id, upstream.described()),
    );
    parties.security = Security::of(upstream.is_tls());
    let domain = upstream.peer().map(|id| id.trust_domain);
    let standing = || match (&domain, core.state.trust()) {
        (Some(domain), Some(all)) if !holds(all, domain) => Standing::Evicted,
        (Some(_) | None, Some(_) | None) => Standing::Trusted,
    };
    carry(&core, parties, &mut client, &mut upstream, standing).await;
}

/// A verified peer on a port of the workload that takes bytes.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// How it stands.
    pub(crate) guest: Guest,
    parties: Parties,
}

impl Admitted {
    fn standing(&self, core: &Core) -> Standing {
        self.guest.standing(core.state.trust())
    }
    /// Does `work` as long as the peer is trusted; `None`: it is not any more.
    pub(crate) async fn while_trusted<T>(&self, core: &Core, work: impl Future<Output = T>) -> Option<T> {
        let done = while_trusted(work, || self.standing(core), TRUST_TICK, WITHDRAWN_GRACE).await;
        if done.is_none() {
            ended_by_trust(core, "inbound");
        }
        done
    }
    /// Connects to its application; a failure is counted.
    pub(crate) async fn reach(
        &self,
        core: &Core,
        listener: &Listener,
        peer: IpAddr,
        meant: Option<SocketAddr>,
    ) -> Option<Stream> {
        let ListenerKind::InboundTcp { cluster, .. } = &listener.kind else { return None };
        match reach(core, cluster, peer, meant).await {
            Ok((_endpoint, _cluster, upstream)) => Some(upstream),
            Err(flag) => {
                tracing::info!(listener = %listener.name, flag = flag.as_str(), "the application could not be reached");
                if let Some(cluster) = cluster.get().filter(|c| !c.original_destination) {
                    cluster.counters.reach.lose();
                }
                count(core, self.parties.clone(), flag);
                None
            }
        }
    }
    /// Copies in both directions to the end, as long as the peer is trusted.
    pub(crate) async fn carry<C>(self, core: &Core, client: &mut C, upstream: &mut Stream)
    where
        C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let Self { guest, parties } = self;
        carry(core, parties, client, upstream, || guest.standing(core.state.trust())).await;
    }
}

/// Serves a connection of a peer to its end: mTLS outside, plaintext to the application.
///
/// `meant` is the address that the peer dialled, where the connection was captured.
pub async fn serve_inbound(
    core: Rc<Core>,
    client: TcpStream,
    peer: SocketAddr,
    listener: Arc<Listener>,
    meant: Option<SocketAddr>,
) {
    let Some((mut client, admitted)) = admit(&core, client, peer, &listener).await else { return };
    if let Some(mut upstream) = admitted.reach(&core, &listener, peer.ip(), meant).await {
        admitted.carry(&core, &mut client, &mut upstream).await;
    }
}

/// Takes the mTLS of a peer. While the application cannot be connected to, the handshake is not answered: to the peer's
/// proxy that is a failed connect, and it goes elsewhere.
pub(crate) async fn admit(
    core: &Core,
    client: TcpStream,
    peer: SocketAddr,
    listener: &Listener,
) -> Option<(TlsStream<TcpStream>, Admitted)> {
    let ListenerKind::InboundTcp { tls: terminated, cluster, services, .. } = &listener.kind else { return None };
    if !is_reachable(core, cluster, peer.ip()).await {
        tracing::debug!(%peer, listener = %listener.name, "the application cannot be reached: handshake not answered");
        let parties = Parties {
            reporter: Reporter::Destination,
            source: Party::default(),
            destination: core.own_party(),
            service: service(services, None),
            protocol: "tcp",
            security: Security::Unknown,
        };
        count(core, parties, Flag::UpstreamConnectionFailure);
        return None;
    }
    let (client, id) = match tls::accept(client, terminated).await {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::debug!(%peer, listener = %listener.name, error = %meshfed_runtime::telemetry::chain(&error), "peer refused");
            core.telemetry.handshake_failed("inbound", error.as_str());
            return None;
        }
    };
    let parties = Parties {
        reporter: Reporter::Destination,
        source: Party::of(&id, peer_described(client.get_ref().1)),
        destination: core.own_party(),
        service: service(services, client.get_ref().1.server_name()),
        protocol: "tcp",
        security: Security::MutualTls,
    };
    Some((client, Admitted { guest: Guest::new(id, Arc::clone(&terminated.trust)), parties }))
}

/// Whether the application can be connected to, as far as is known. Only when it could not be the last time, it is tried,
/// by one at a time: who has shown no identity yet is never the reason for a connection to an application that is well.
async fn is_reachable(core: &Core, cell: &ClusterCell, peer: IpAddr) -> bool {
    let Some(cluster) = cell.get().filter(|cluster| cluster.counters.reach.is_lost()) else { return true };
    let known = &cluster.counters.reach;
    let Some(_asking) = known.ask() else { return false };
    let answers = reach(core, cell, peer, None).await.is_ok();
    if answers {
        known.find();
    }
    answers
}

/// Connects to an endpoint, to another one where that fails. A gateway stands for many: where its handshake fails and there
/// is no other address, it is asked again. `client`: who stays on one endpoint, where the cluster says so. `meant`: where a captured connection was to go.
///
/// # Errors
/// The flag of the access log.
pub(crate) async fn reach(
    core: &Core,
    cell: &ClusterCell,
    client: IpAddr,
    meant: Option<SocketAddr>,
) -> Result<(Arc<Endpoint>, Arc<Cluster>, Stream), Flag> {
    if let Some(meant) = meant {
        let Some(cluster) = cell.get() else { return Err(Flag::NoRoute) };
        let listed = cluster.endpoints.iter().find(|e| e.address == meant).map(Arc::clone);
        let endpoint =
            listed.or_else(|| cluster.original_destination.then(|| Arc::new(Endpoint::unlisted(&cluster, meant))));
        if let Some(endpoint) = endpoint {
            return match connect(&cluster, &endpoint, cluster.connect_timeout).await {
                Ok(stream) => Ok((endpoint, cluster, stream)),
                Err(error) => {
                    tracing::debug!(cluster = %cluster.name, error = %meshfed_runtime::telemetry::chain(&error), "the address cannot be connected to");
                    Err(Flag::UpstreamConnectionFailure)
                }
            };
        }
    }
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut attempts = 0;
    while attempts < ATTEMPTS_MAX {
        let Some(cluster) = cell.get() else { return Err(Flag::NoRoute) };
        let Some(endpoint) = core.pick(&cluster, client, &tried) else { break };
        attempts += 1;
        match connect(&cluster, &endpoint, cluster.connect_timeout).await {
            Ok(stream) => return Ok((endpoint, cluster, stream)),
            Err(error) => {
                tracing::debug!(cluster = %cluster.name, error = %meshfed_runtime::telemetry::chain(&error), "endpoint cannot be connected to");
                core.mark_failing(&endpoint);
                tried.push(endpoint.address);
                let behind = endpoint.via_gateway && matches!(error, ConnectError::Tls { .. });
                if behind && cluster.endpoints.iter().all(|e| tried.contains(&e.address)) {
                    tried.pop();
                }
            }
        }
    }
    Err(if attempts == 0 { Flag::NoHealthyUpstream } else { Flag::UpstreamConnectionFailure })
}

/// Copies in both directions to the end, as long as the peer is trusted.
pub(crate) async fn carry<C>(
    core: &Core,
    parties: Parties,
    client: &mut C,
    upstream: &mut Stream,
    standing: impl Fn() -> Standing,
) where
    C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let listener = if parties.reporter == Reporter::Source { "outbound" } else { "inbound" };
    let cell = core.telemetry.tcp(&Arc::new(parties), Flag::None);
    cell.opened();
    let mut client = Metered::new(client, &cell);
    match while_trusted(copy_bidirectional(&mut client, upstream), standing, TRUST_TICK, WITHDRAWN_GRACE).await {
        Some(Ok(_bytes)) => {}
        Some(Err(error)) => tracing::debug!(%error, "raw TCP ended by an error"),
        None => ended_by_trust(core, listener),
    }
    cell.closed();
}

fn ended_by_trust(core: &Core, listener: &'static str) {
    core.telemetry.denied(listener, "trust_withdrawn");
    tracing::info!(listener, "raw TCP ended: the peer's trust domain is not accepted here any more");
}

/// Runs `work` to its end, or (`None`) until the peer, looked at each `tick`, was evicted, or was not let in again within
/// `grace`.
async fn while_trusted<T>(
    work: impl Future<Output = T>,
    standing: impl Fn() -> Standing,
    tick: Duration,
    grace: Duration,
) -> Option<T> {
    let mut work = pin!(work);
    let mut withdrawn: Option<Duration> = None;
    loop {
        if let Ok(done) = timeout(tick, work.as_mut()).await {
            return Some(done);
        }
        withdrawn = match standing() {
            Standing::Trusted => None,
            Standing::Withdrawn => Some(withdrawn.map_or(Duration::ZERO, |for_now| for_now + tick)),
            Standing::Evicted => return None,
        };
        if withdrawn.is_some_and(|for_now| for_now >= grace) {
            return None;
        }
    }
}

/// Counts a connection that led nowhere.
pub(crate) fn count(core: &Core, parties: Parties, flag: Flag) {
    let cell = core.telemetry.tcp(&Arc::new(parties), flag);
    cell.opened();
    cell.closed();
}

#[cfg(test)]
mod tests;
