//! Pure. What the proxy listens on and what is done with connections.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::cell::Cell;
use super::cluster::ClusterCell;
use super::route::RouteCell;
use super::transport::ServerTls;

/// The place of the current version of a listener; its sockets outlive versions with the same addresses.
pub type ListenerCell = Cell<Listener>;

/// One version of a listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The xDS name, say `inbound|8080`.
    pub name: Arc<str>,
    /// Where it listens: port 0 takes any.
    pub addresses: Vec<SocketAddr>,
    /// Whether it has sockets. Without, its addresses are virtual ones: connections that were meant for them come by a
    /// listener that captures.
    pub bound: bool,
    /// What is done with its connections.
    pub kind: ListenerKind,
}

/// What is done with a listener's connections.
#[derive(Debug, Clone)]
pub enum ListenerKind {
    /// HTTP of the application, by authority (`outbound`).
    OutboundHttp {
        /// The route configuration.
        routes: Arc<RouteCell>,
    },
    /// Raw TCP of the application to one service (`outbound-tcp|LISTEN`).
    OutboundTcp {
        /// The service's cluster.
        cluster: Arc<ClusterCell>,
    },
    /// The application's connections to one service on a port that does not say what it speaks (`captured|…`).
    OutboundAny {
        /// The route configuration of what turns out to be HTTP/1.
        routes: Arc<RouteCell>,
        /// The service's cluster, for everything else.
        cluster: Arc<ClusterCell>,
        /// How long the client's first bytes are waited for; where the server speaks first there are none.
        patience: Duration,
    },
    /// Every captured connection of the application (`virtualOutbound`): where it was meant to go decides.
    CapturedOutbound {
        /// Where connections to addresses go that nobody in the mesh has.
        unknown: Arc<ClusterCell>,
    },
    /// Every captured connection to the application (`virtualInbound`): the port that it was meant for decides.
    CapturedInbound(Arc<CapturedInbound>),
    /// HTTP of peers over mTLS (`inbound|PORT`).
    InboundHttp {
        /// The workload's port.
        port: u16,
        /// How TLS is terminated.
        tls: ServerTls,
        /// The route configuration: 421 for other services' names, else the application.
        routes: Arc<RouteCell>,
        /// The hosts of the services that hold the workload and port.
        services: Arc<[Arc<str>]>,
    },
    /// Raw TCP of peers over mTLS (`inbound|PORT`).
    InboundTcp {
        /// The workload's port.
        port: u16,
        /// How TLS is terminated.
        tls: ServerTls,
        /// The application.
        cluster: Arc<ClusterCell>,
        /// The hosts of the services that hold the workload and port.
        services: Arc<[Arc<str>]>,
    },
    /// SNI passthrough (`gateway|ADDRESS:PORT`).
    Gateway {
        /// The server names that are forwarded.
        sni: Arc<SniTable>,
    },
}

impl ListenerKind {
    /// The key of `addresses.json`, and the flag that moves the listener.
    #[must_use]
    pub const fn group(&self) -> (&'static str, &'static str) {
        match self {
            Self::OutboundHttp { .. } | Self::OutboundAny { .. } | Self::CapturedOutbound { .. } => {
                ("outbound", "--outbound-listen")
            }
            Self::OutboundTcp { .. } => ("outbound", "--outbound"),
            Self::InboundHttp { .. } | Self::InboundTcp { .. } | Self::CapturedInbound(_) => {
                ("inbound", "--inbound-listen")
            }
            Self::Gateway { .. } => ("gateway", "--gateway-listen"),
        }
    }
    /// Whether only connections from this host are taken: anybody else could speak as the workload.
    #[must_use]
    pub const fn is_outbound(&self) -> bool {
        matches!(
            self,
            Self::OutboundHttp { .. }
                | Self::OutboundTcp { .. }
                | Self::OutboundAny { .. }
                | Self::CapturedOutbound { .. }
        )
    }
}

/// What is done with captured connections to a workload, by the port that they were meant for.
#[derive(Debug)]
pub struct CapturedInbound {
    /// Ports that the workload declares.
    pub ports: BTreeMap<u16, CapturedPort>,
    /// All others; `None`: refused.
    pub others: Option<CapturedPort>,
}

/// One port of a captured workload.
#[derive(Debug)]
pub struct CapturedPort {
    /// What a mesh peer is given to: [`ListenerKind::InboundHttp`] or [`ListenerKind::InboundTcp`].
    pub mesh: Arc<Listener>,
    /// What everybody else is given to; `None`: mTLS alone is taken (STRICT).
    pub plain: Option<Plain>,
    /// Where HTTP goes, if the port does not say what it speaks. What is no HTTP is bytes then, for mesh peers and others.
    pub unsaid: Option<Unsaid>,
    /// The hosts of the services that hold the workload and port.
    pub services: Arc<[Arc<str>]>,
}

/// A port that does not say what it speaks.
#[derive(Debug)]
pub struct Unsaid {
    /// The routes of what turns out to be HTTP/1.
    pub routes: Arc<RouteCell>,
    /// How long the client's first bytes are waited for before its application is dialled.
    pub patience: Duration,
}

/// Where what is no mTLS goes.
#[derive(Debug)]
pub struct Plain {
    /// The routes of HTTP; `None`: the port does not speak it.
    pub routes: Option<Arc<RouteCell>>,
    /// The application: for TCP, and for its own TLS.
    pub cluster: Arc<ClusterCell>,
}

/// The exact server names that a gateway forwards.
#[derive(Debug, Default)]
pub struct SniTable {
    /// Lower-case server name to its route.
    pub routes: HashMap<Box<str>, Arc<SniRoute>>,
}

/// One forwarded server name. It lives as long as the name is in the table, over versions of the table.
#[derive(Debug)]
pub struct SniRoute {
    /// The server name.
    pub sni: Arc<str>,
    /// Where its connections go.
    pub cluster: Arc<ClusterCell>,
    withdrawn: AtomicBool,
}

impl SniRoute {
    /// A route in use.
    #[must_use]
    pub const fn new(sni: Arc<str>, cluster: Arc<ClusterCell>) -> Self {
        Self { sni, cluster, withdrawn: AtomicBool::new(false) }
    }
    /// Tells the tunnels of this name that it is no longer exported.
    pub fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Relaxed);
    }
    /// Whether the name is no longer exported.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Relaxed)
    }
}

impl SniTable {
    /// The route of an exact, lower-case server name.
    #[must_use]
    pub fn find(&self, sni: &str) -> Option<&Arc<SniRoute>> {
        self.routes.get(sni)
    }
}
