//! Edge. The TCP port of xDS: with certificates alone, or, on Kubernetes, with the exchange of tokens before it.

use std::net::TcpListener;
use std::sync::Arc;

use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_model::names::Namespace;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::grpc::{self, ServeOptions};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::tasks::TaskGroup;
use meshfed_runtime::tls::{ClientAuth, IdentityStore, TrustStore};
use tokio::sync::mpsc;
use tonic::service::Routes;

use crate::attestation::{AGENT_ACCOUNT, ApiServer, AttestationMetrics, Attester, closed_to_strangers, keep_identity};
use crate::core::run::Command;
use crate::xds::tcp_tls;

/// What the port is served with.
pub(super) struct Port {
    /// The agent's identity in the fleet's trust domain: shown without Kubernetes.
    pub(super) identity: Arc<IdentityStore>,
    /// By which peers are verified.
    pub(super) trust: Arc<TrustStore>,
    /// The cluster's own.
    pub(super) trust_domain: TrustDomain,
    /// Limits and counters.
    pub(super) options: ServeOptions,
    /// Where it listens.
    pub(super) listeners: Vec<TcpListener>,
    /// What is served to who has shown a certificate.
    pub(super) routes: Routes,
}

impl Port {
    /// Serves until the drain.
    pub(super) fn serve(
        self,
        tasks: &mut TaskGroup,
        kubernetes: Option<(Namespace, kube::Client)>,
        commands: &mpsc::Sender<Command>,
        metrics: &Metrics,
        watch: &Watch,
    ) {
        let Self { identity, trust, trust_domain, options, listeners, routes } = self;
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
    }
}
