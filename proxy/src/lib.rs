//! The data plane: sidecar and east-west gateway.
//!
//! It speaks to its agent (xDS), to peers and to its application, to nobody else, and decides nothing about the mesh:
//! what it serves is the last good [`state::Snapshot`], and losing the agent changes nothing for what is routed already.
//!
//! ```text
//! agent ─ADS─► discovery ─► state ◄── read by everything below
//! client ─► listen ─► outbound ─► route ─► balance ─► pool ─► tls ─► peer or gateway
//! peer   ─► listen ─► inbound ─► (tls) ─► route ─► forward ─► application
//! peer   ─► listen ─► passthrough ─► balance ─► endpoint      (SNI, never terminated)
//! either ─► listen ─► tcp ─► balance ─► tls                   (raw TCP)
//! ```
//!
//! What the rooms of the request path offer to `listen`, `tcp` and `passthrough`:
//! ```text
//! telemetry::Telemetry::new(&Metrics, TelemetrySettings { access_log: bool, workload: WorkloadRef }) -> Arc<Telemetry>
//! forward::Core::new(Arc<state::StateHandle>, Arc<Telemetry>, drain::Watch) -> Rc<Core>      // one per worker thread: pool, random
//! outbound::serve(Rc<Core>, TcpStream, peer: SocketAddr, Arc<state::Listener>)               // async, ends with the connection
//! inbound::serve(Rc<Core>, TcpStream, peer: SocketAddr, Arc<state::Listener>)
//! balance::pick(&EndpointSet, &mut fastrand::Rng, tried: &[SocketAddr]) -> Option<Arc<Endpoint>>
//! balance::of_client(client: IpAddr, &[Arc<Endpoint>], usable) -> Option<usize>
//! tls::connect(TcpStream, &state::TlsTransport) -> Result<tokio_rustls::client::TlsStream<TcpStream>, TlsError>
//! tls::accept(TcpStream, &state::ServerTls) -> Result<(tokio_rustls::server::TlsStream<TcpStream>, SpiffeId), TlsError>
//! ```

pub mod attest;
pub mod config;
pub mod discovery;
pub mod state;

pub mod listen;

pub mod balance;
pub mod codec;
pub mod outbound;
pub mod pool;
pub mod route;
pub mod tls;

pub mod forward;
pub mod inbound;

pub mod passthrough;
pub mod tcp;

pub mod capture;
pub mod dns;

pub mod admin;
pub mod app;
pub mod kubelet;
pub mod probe;
pub mod telemetry;

pub use app::{configure, run};
pub use config::ProxyArgs;
