//! Edge. Raw TCP: of the application to one service (`--outbound`), and of peers to the application.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::forward::{Core, copy_bidirectional};
use crate::inbound::still_trusted;
use crate::outbound::is_this_host;
use crate::pool::connect;
use crate::state::{Cluster, ClusterCell, Endpoint, Listener, ListenerKind};
use crate::telemetry::{Flag, Parties, Party, Reporter};
use crate::tls::{self, Stream};

/// Endpoints that are tried for one connection.
const ATTEMPTS_MAX: usize = 3;
/// How often a connection of a peer asks whether its trust domain is still accepted.
const TRUST_TICK: Duration = Duration::from_secs(5);
/// How long it stays when it is not: with the tick below the 30 s that SN12 allows.
const WITHDRAWN_GRACE: Duration = Duration::from_secs(20);

/// Serves a connection of the application to its end. Others than this host are closed and counted.
pub async fn serve_outbound(core: Rc<Core>, mut client: TcpStream, peer: SocketAddr, listener: Arc<Listener>) {
    let ListenerKind::OutboundTcp { cluster } = &listener.kind else { return };
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
        mutual_tls: false,
    };
    let (endpoint, cluster, mut upstream) = match reach(&core, cluster).await {
        Ok(reached) => reached,
        Err(flag) => {
            tracing::info!(cluster = %cluster.name(), %peer, flag = flag.as_str(), "no endpoint could be reached");
            return count(&core, parties, flag, 0, 0);
        }
    };
    parties.service = Arc::clone(&cluster.host);
    parties.destination = upstream
        .peer()
        .as_ref()
        .map_or_else(|| Party { cluster: Arc::clone(&endpoint.cluster), ..Party::default() }, Party::of);
    parties.mutual_tls = upstream.is_tls();
    carry(&core, parties, &mut client, &mut upstream, || true).await;
}

/// Serves a connection of a peer to its end: mTLS outside, plaintext to the application.
pub async fn serve_inbound(core: Rc<Core>, client: TcpStream, peer: SocketAddr, listener: Arc<Listener>) {
    let ListenerKind::InboundTcp { tls: terminated, cluster, .. } = &listener.kind else { return };
    let (mut client, id) = match tls::accept(client, terminated).await {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::debug!(%peer, listener = %listener.name, error = %meshfed_runtime::telemetry::chain(&error), "peer refused");
            core.telemetry.handshake_failed("inbound", error.as_str());
            return;
        }
    };
    let trusted = still_trusted(Arc::clone(&terminated.trust), id.clone());
    let parties = Parties {
        reporter: Reporter::Destination,
        source: Party::of(&id),
        destination: core.own_party(),
        service: "".into(),
        protocol: "tcp",
        mutual_tls: true,
    };
    match reach(&core, cluster).await {
        Ok((_endpoint, _cluster, mut upstream)) => carry(&core, parties, &mut client, &mut upstream, trusted).await,
        Err(flag) => {
            tracing::info!(listener = %listener.name, flag = flag.as_str(), "the application could not be reached");
            count(&core, parties, flag, 0, 0);
        }
    }
}

/// Connects to an endpoint, to another one where that fails.
async fn reach(core: &Core, cell: &ClusterCell) -> Result<(Arc<Endpoint>, Arc<Cluster>, Stream), Flag> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    while tried.len() < ATTEMPTS_MAX {
        let Some(cluster) = cell.get() else { return Err(Flag::NoRoute) };
        let Some(endpoint) = core.pick(&cluster.endpoints, &tried) else { break };
        match connect(&cluster, &endpoint, cluster.connect_timeout).await {
            Ok(stream) => return Ok((endpoint, cluster, stream)),
            Err(error) => {
                tracing::debug!(cluster = %cluster.name, error = %meshfed_runtime::telemetry::chain(&error), "endpoint cannot be connected to");
                core.mark_failing(&endpoint);
                tried.push(endpoint.address);
            }
        }
    }
    Err(if tried.is_empty() { Flag::NoHealthyUpstream } else { Flag::UpstreamConnectionFailure })
}

async fn carry<C>(
    core: &Core,
    parties: Parties,
    client: &mut C,
    upstream: &mut Stream,
    still_trusted: impl Fn() -> bool,
) where
    C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let cell = core.telemetry.tcp(&Arc::new(parties), Flag::None);
    cell.opened();
    match while_trusted(copy_bidirectional(client, upstream), still_trusted, TRUST_TICK, WITHDRAWN_GRACE).await {
        Some(Ok((received, sent))) => cell.bytes(sent, received),
        Some(Err(error)) => tracing::debug!(%error, "raw TCP ended by an error"),
        None => tracing::info!("raw TCP ended: the peer's trust domain is not accepted here any more"),
    }
    cell.closed();
}

/// Runs `work` to its end, or (`None`) until `grace` after `still_trusted`, asked each `tick`, said no.
async fn while_trusted<T>(
    work: impl Future<Output = T>,
    still_trusted: impl Fn() -> bool,
    tick: Duration,
    grace: Duration,
) -> Option<T> {
    let mut work = pin!(work);
    loop {
        if let Ok(done) = timeout(tick, work.as_mut()).await {
            return Some(done);
        }
        if still_trusted() {
            continue;
        }
        if let Ok(done) = timeout(grace, work.as_mut()).await {
            return Some(done);
        }
        // A name that was away for less than that is none that was taken away.
        if !still_trusted() {
            return None;
        }
    }
}

fn count(core: &Core, parties: Parties, flag: Flag, sent: u64, received: u64) {
    let cell = core.telemetry.tcp(&Arc::new(parties), flag);
    cell.opened();
    cell.bytes(sent, received);
    cell.closed();
}

#[cfg(test)]
mod tests;
