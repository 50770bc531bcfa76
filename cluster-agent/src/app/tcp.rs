//! Edge. Where xDS is served: the socket, and the TCP port, with certificates alone, or, on Kubernetes, with the exchange of tokens before it.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_model::names::Namespace;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::grpc::{self, ConnectionMetrics, Limits, ServeOptions};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::tasks::TaskGroup;
use meshfed_runtime::tls::{ClientAuth, IdentityStore, TrustStore};
use tokio::sync::mpsc;
use tonic_health::server::HealthReporter;

use crate::attestation::{AGENT_ACCOUNT, ApiServer, AttestationMetrics, Attester, closed_to_strangers, keep_identity};
use crate::core::run::Command;
use crate::xds::{XdsMetrics, XdsServer, tcp_tls};

/// What the port is served with.
pub(super) struct Port {
    /// The agent's identity in the fleet's trust domain: shown without Kubernetes.
    pub(super) identity: Arc<IdentityStore>,
    /// By which peers are verified.
    pub(super) trust: Arc<TrustStore>,
    /// The cluster's own.
    pub(super) trust_domain: TrustDomain,
    /// The socket.
    pub(super) unix: UnixListener,
    /// Where the port listens.
    pub(super) listeners: Vec<TcpListener>,
    /// After the drain began, connections are cut when this has passed.
    pub(super) drain_deadline: Duration,
}

impl Port {
    /// Serves socket and port until the drain; gives what tells their health.
    pub(super) fn serve(
        self,
        tasks: &mut TaskGroup,
        kubernetes: Option<(Namespace, kube::Client)>,
        commands: &mpsc::Sender<Command>,
        metrics: &Metrics,
        watch: &Watch,
    ) -> HealthReporter {
        let Self { identity, trust, trust_domain, unix, listeners, drain_deadline } = self;
        let xds = XdsServer::new(commands.clone(), trust_domain.clone(), watch.clone(), XdsMetrics::register(metrics));
        let (reporter, health) = tonic_health::server::health_reporter();
        let routes = xds.routes(|routes| routes.add_service(health));
        let options = ServeOptions {
            limits: Limits { connections: super::CONNECTIONS_MAX, drain_deadline, ..Limits::default() },
            metrics: ConnectionMetrics::register(metrics, "meshfed_xds"),
        };
        tasks.spawn("xds-unix", grpc::serve_unix(unix, routes.clone(), watch.clone(), options.clone()));
        if listeners.is_empty() {
            return reporter;
        }
        let (identity, routes, client_auth) = match kubernetes {
            None => (identity, routes, ClientAuth::Required),
            Some((namespace, client)) => {
                let own = Arc::new(IdentityStore::empty());
                match SpiffeId::workload(trust_domain.clone(), namespace, AGENT_ACCOUNT) {
                    Ok(id) => tasks
                        .spawn("xds-identity", keep_identity(commands.clone(), id, Arc::clone(&own), watch.clone())),
                    Err(error) => tasks.spawn("xds-identity", async move { Err::<(), _>(error) }),
                }
                let attester = Attester::new(
                    ApiServer::new(client),
                    commands.clone(),
                    trust_domain.clone(),
                    AttestationMetrics::register(metrics),
                );
                let routes = closed_to_strangers(routes.add_service(attester.service()));
                (own, routes, ClientAuth::Optional)
            }
        };
        match tcp_tls(identity, trust, trust_domain, client_auth) {
            Ok(tls) => tasks.spawn("xds-tcp", grpc::serve_tls(listeners, tls, routes, watch.clone(), options)),
            Err(error) => tasks.spawn("xds-tcp", async move { Err::<(), _>(error) }),
        }
        reporter
    }
}
