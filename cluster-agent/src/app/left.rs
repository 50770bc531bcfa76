//! Edge. A cluster that has left keeps its CA, and its pods go on inside it: their proxies renew their certificates here, as
//! before, by their tokens. Nothing else is served to them; what they were told stands.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_model::names::Namespace;
use meshfed_runtime::backoff::Backoff;
use meshfed_runtime::config::Problems;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::grpc::{self, ConnectionMetrics, Limits, ServeOptions};
use meshfed_runtime::listen::Addresses;
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::steady::SteadyClock;
use meshfed_runtime::tls::{ClientAuth, IdentityStore, TrustStore, anchor_trust_domain};
use meshfed_runtime::{clock, process};
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;

use super::{CONNECTIONS_MAX, chain};
use crate::attestation::{
    AGENT_ACCOUNT, ApiServer, AttestationMetrics, Attester, closed_to_strangers, exchange_alone, keep_identity,
};
use crate::config::{AgentArgs, xds_listeners};
use crate::core::run::{COMMANDS_MAX, Command};
use crate::identity::Authority;
use crate::membership::connect::Place;
use crate::membership::{Keeper, KeptCa};
use crate::xds::tcp_tls;

/// How often it is tried to listen where somebody else does.
const AGAIN: Duration = Duration::from_secs(5);
/// What proxies that ask for their configuration are told, and log once.
const LEFT: &str = "this cluster has left its fleet: its pods go on with what they were told, their certificates are renewed, and \
                    they hear of changes again once it has joined";

/// Serves renewals until the drain, if the cluster has left; one that never was a member, or is one, has nothing to serve here.
///
/// # Errors
/// Never.
pub(super) async fn serve(keeper: Keeper, args: AgentArgs, place: Place, drain: Watch) -> Result<(), Infallible> {
    tokio::select! {
        () = drain.signaled() => return Ok(()),
        served = until_drained(&keeper, &args, &place, &drain) => {
            if let Err(reason) = served {
                tracing::error!(reason, "pods of this cluster, which has left, cannot renew their certificates");
            }
        }
    }
    drain.signaled().await;
    Ok(())
}

async fn until_drained(keeper: &Keeper, args: &AgentArgs, place: &Place, drain: &Watch) -> Result<(), String> {
    let Some(KeptCa { key_pem, anchor }) = kept(keeper).await else { return Ok(()) };
    let certificate = CertificateDer::from(anchor.clone());
    let trust_domain = anchor_trust_domain(&certificate).map_err(|error| chain(&error))?;
    let authority = Authority::new(&key_pem, anchor, trust_domain.clone()).map_err(|error| chain(&error))?;
    let authority = authority.with_ttl(args.svid_ttl);
    let trust = TrustStore::with([(trust_domain.clone(), vec![certificate])].into()).map_err(|error| chain(&error))?;
    let namespace = Namespace::new(&*place.namespace).map_err(|error| error.to_string())?;
    let id = SpiffeId::workload(trust_domain.clone(), namespace, AGENT_ACCOUNT).map_err(|error| chain(&error))?;
    let listeners = listen(args).await;
    if listeners.is_empty() {
        return Ok(());
    }
    tracing::info!(%trust_domain, "this cluster has left its fleet; the certificates of its pods are renewed as before");
    let (commands, received) = mpsc::channel(COMMANDS_MAX);
    let identity = Arc::new(IdentityStore::empty());
    let port = Port { commands: commands.clone(), trust, trust_domain, listeners, identity: Arc::clone(&identity) };
    let own = keep_identity(commands, id, identity, drain.clone());
    let served = port.serve(place.client.clone(), args.drain_timeout, drain.clone());
    let ((), Ok(()), served) = tokio::join!(certify(received, authority), own, served);
    served
}

/// The CA of a cluster that has left; asked for until the API server answers.
async fn kept(keeper: &Keeper) -> Option<KeptCa> {
    let mut backoff = Backoff::new();
    loop {
        match keeper.left().await {
            Ok(kept) => return kept,
            Err(error) => tracing::debug!(error = %chain(&error), "whether this cluster has left is not known yet"),
        }
        tokio::time::sleep(backoff.failed(clock::instant())).await;
    }
}

async fn listen(args: &AgentArgs) -> Vec<TcpListener> {
    loop {
        let mut problems = Problems::new();
        let flags = xds_listeners(args, &mut problems);
        let mut addresses = Addresses::new();
        let bound = process::listen("MF0109", "--xds-listen", "xds", &flags, &mut addresses, &mut problems);
        match problems.finish(()) {
            Ok(()) => return bound,
            Err(problems) => tracing::warn!(%problems, "pods of a cluster that has left cannot renew yet"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Issues by the kept CA.
async fn certify(mut asked: mpsc::Receiver<Command>, authority: Authority) {
    let clock = SteadyClock::start(None);
    while let Some(command) = asked.recv().await {
        let Command::Certify { id, metadata, key, named, answer } = command else { continue };
        let issued = if named {
            Err("a cluster that has left knows its pods by the API server alone, which cannot be asked".to_owned())
        } else {
            let now = clock.now().map_err(|jump| jump.to_string());
            let issue = |now| authority.certify(&id, metadata.as_deref(), &key, now).map_err(|error| chain(&error));
            now.and_then(issue)
        };
        // An error: who asked went away.
        let _gone = answer.send(issued);
    }
}

/// The port of 15012, with the exchange of tokens alone.
struct Port {
    commands: mpsc::Sender<Command>,
    trust: TrustStore,
    trust_domain: TrustDomain,
    listeners: Vec<TcpListener>,
    identity: Arc<IdentityStore>,
}

impl Port {
    async fn serve(self, client: kube::Client, drain_deadline: Duration, drain: Watch) -> Result<(), String> {
        let Self { commands, trust, trust_domain, listeners, identity } = self;
        // The next life of this agent counts under these names.
        let metrics = Metrics::new();
        let attester =
            Attester::new(ApiServer::new(client), commands, trust_domain.clone(), AttestationMetrics::default());
        let routes = exchange_alone(tonic::service::Routes::new(attester.service()), LEFT);
        let routes = closed_to_strangers(routes);
        let options = ServeOptions {
            limits: Limits { connections: CONNECTIONS_MAX, drain_deadline, ..Limits::default() },
            metrics: ConnectionMetrics::register(&metrics, "meshfed_xds"),
        };
        let tls = tcp_tls(identity, Arc::new(trust), trust_domain, ClientAuth::Optional);
        let tls = tls.map_err(|error| chain(&error))?;
        grpc::serve_tls(listeners, tls, routes, drain, options).await.map_err(|error| chain(&error))
    }
}
