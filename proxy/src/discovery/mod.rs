//! Edge. The proxy as an xDS client: one delta ADS stream to its agent, over and over, and the last good state between.
//!
//! Clusters come first, then their endpoints and secrets, then listeners with their routes: so nothing listens before it
//! can serve. After a reconnect only what changed is sent, since the agent is told what is held.

mod build;
pub mod convert;
mod held;
mod listeners;
mod metrics;
mod nowhere;
mod sni;
mod stream;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meshfed_api::proto::envoy::service::discovery::v3::Node;
pub use meshfed_api::xds::Kind;
use meshfed_runtime::backoff::Backoff;
use meshfed_runtime::clock;
use meshfed_runtime::config::Problems;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::listen::BindError;
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::tls::{IdentityStore, TrustStore};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::attest::Attested;
use crate::state::{Listener, ListenerCell, StateHandle};
pub use held::{Applied, Held, IDENTITY_SECRET, ListenerChange, TRUST_SECRET};
use metrics::DiscoveryMetrics;

/// First ceiling of the pause between two attempts to reach the agent.
const RETRY_BASE: Duration = Duration::from_millis(100);
/// Longest pause. The agent is on this host, or in this cluster, and serves its own proxies only; of WorkloadEntries the
/// workloads count as not ready until their proxies are back: so this is far below what would be polite to a far server.
const RETRY_CAP: Duration = Duration::from_secs(1);
/// Different reasons of one absence of the agent that are logged.
const REASONS_MAX: usize = 16;

/// What follows the listeners: the sockets of the process.
pub trait Sockets {
    /// Listens with this version of a listener, or goes on with other content at the same addresses. On an error what
    /// listened before still does.
    ///
    /// # Errors
    /// Everything that could not be bound.
    fn install(&mut self, cell: &Arc<ListenerCell>, listener: &Arc<Listener>) -> Result<(), Vec<BindError>>;
    /// Stops listening.
    fn remove(&mut self, name: &str);
    /// The first listeners stand, or `failed` says which could not be bound: called once, with the workload's bind
    /// addresses. What else is to be bound is tried in any case, so that all is told at once.
    ///
    /// # Errors
    /// What keeps the process from starting; `failed` is part of it.
    fn started(&mut self, bind: &[IpAddr], failed: Problems) -> Result<(), Problems>;
    /// Something was installed or removed.
    fn changed(&mut self);
}

/// How the agent is reached.
#[derive(Debug, Clone)]
pub enum Agent {
    /// On its socket; it sends us our identity.
    Unix(PathBuf),
    /// Over TCP, with an identity that is attested before.
    Tcp(Attested),
}

impl std::fmt::Display for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(attested) => write!(f, "{}", attested.target()),
        }
    }
}

impl Agent {
    async fn connect(&mut self) -> Result<Channel, String> {
        match self {
            Self::Unix(path) => meshfed_runtime::grpc::connect_unix(path)
                .await
                .map_err(|error| format!("{error}; is the agent running, and is this its run/xds.sock?")),
            Self::Tcp(attested) => attested.connect().await,
        }
    }
}

/// What discovery needs to know.
#[derive(Debug, Clone)]
pub struct DiscoveryConfig {
    /// The agent.
    pub agent: Agent,
    /// Who we say we are.
    pub node: Node,
    /// Replaces the addresses of inbound listeners.
    pub inbound_listen: Vec<SocketAddr>,
    /// Whether connections are captured.
    pub captures: bool,
    /// The workload's ports that the application takes.
    pub inbound: BTreeSet<u16>,
}

/// The client.
#[derive(Debug)]
pub struct Discovery {
    config: DiscoveryConfig,
    held: Held,
    metrics: DiscoveryMetrics,
    started: bool,
    /// Why there is no agent, as the log was told since there was one; empty while there is one.
    lost: BTreeSet<String>,
    /// What leads nowhere, as the log was told.
    told: BTreeSet<String>,
    channel: watch::Sender<Option<Channel>>,
    /// Whether the cluster has left its fleet, as its agent said last.
    left: watch::Sender<bool>,
}

impl Discovery {
    /// A client that holds nothing yet, and the channel to the agent as others may use it.
    #[must_use]
    pub fn new(
        config: DiscoveryConfig,
        state: &Arc<StateHandle>,
        identity: Arc<IdentityStore>,
        trust: Arc<TrustStore>,
        metrics: &Metrics,
    ) -> (Self, watch::Receiver<Option<Channel>>) {
        let held =
            Held::new(Arc::clone(state), identity, trust, config.inbound_listen.clone()).capturing(config.captures);
        let held = match config.agent {
            Agent::Unix(_) => held,
            Agent::Tcp(_) => held.with_own_identity(),
        };
        let (channel, seen) = watch::channel(None);
        (
            Self {
                config,
                held,
                metrics: DiscoveryMetrics::register(metrics),
                started: false,
                lost: BTreeSet::new(),
                told: BTreeSet::new(),
                channel,
                left: watch::channel(false).0,
            },
            seen,
        )
    }

    /// Tells there whether the cluster has left its fleet.
    #[must_use]
    pub fn telling(self, left: watch::Sender<bool>) -> Self {
        Self { left, ..self }
    }

    /// Follows the agent until the drain begins. Losing the agent changes nothing but this.
    ///
    /// # Errors
    /// The first listeners could not be bound.
    pub async fn run<S: Sockets>(mut self, sockets: &mut S, drain: Watch) -> Result<(), Problems> {
        let mut backoff = Backoff::with(RETRY_BASE, RETRY_CAP, fastrand::u64(..));
        loop {
            let ended = tokio::select! {
                biased;
                () = drain.signaled() => return Ok(()),
                ended = self.once(sockets, &mut backoff) => ended?,
            };
            self.metrics.connected.set(0);
            self.channel.send_replace(None);
            let pause = backoff.failed(clock::instant());
            self.lose(ended, pause);
            tokio::select! {
                () = drain.signaled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Logs why there is no agent. A reason that was told since there was one would, again and again, bury everything else in
    /// the log, also where two of them take turns, as those of several agents do. Whether it was told as news.
    fn lose(&mut self, reason: String, pause: Duration) -> bool {
        let pause_milliseconds = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        if self.lost.contains(&reason) || self.lost.len() >= REASONS_MAX {
            tracing::debug!(%reason, pause_milliseconds, "discovery: still no agent");
            return false;
        }
        let agent = &self.config.agent;
        if self.started {
            tracing::warn!(%agent, %reason, "discovery: agent lost; what is known stays, and it is tried again");
        } else {
            tracing::warn!(%agent, %reason, "discovery: no agent yet; nothing is served until there is one, and it is tried again");
        }
        self.lost.insert(reason)
    }

    /// One connection; says why it ended.
    async fn once<S: Sockets>(&mut self, sockets: &mut S, backoff: &mut Backoff) -> Result<String, Problems> {
        let channel = match self.config.agent.connect().await {
            Ok(channel) => channel,
            Err(reason) => return Ok(reason),
        };
        backoff.connected(clock::instant());
        stream::follow(self, channel, sockets).await
    }
}

#[cfg(test)]
pub(crate) mod tests;
