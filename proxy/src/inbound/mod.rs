//! Edge. HTTP of peers on its way in (port P of the workload): mTLS always, identity headers from the handshake only.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use meshfed_model::identity::SpiffeId;
use meshfed_runtime::tls::TrustStore;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::forward::{Core, Side, serve as serve_http};
use crate::state::{Listener, ListenerKind};
use crate::telemetry::{Parties, Party, Reporter};
use crate::tls::{self, Stream};

/// Serves a connection of a peer to its end.
pub async fn serve(core: Rc<Core>, tcp: TcpStream, peer: SocketAddr, listener: Arc<Listener>) {
    let ListenerKind::InboundHttp { tls: terminated, routes, .. } = &listener.kind else { return };
    let (stream, id) = match tls::accept(tcp, terminated).await {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::debug!(%peer, listener = %listener.name, error = %meshfed_runtime::telemetry::chain_of(&error), "peer refused");
            core.telemetry.handshake_failed("inbound", error.as_str());
            return;
        }
    };
    let own = core.own_party();
    let add = forwarded_client_cert(&own.principal, &id, &stream);
    let parties = Parties {
        reporter: Reporter::Destination,
        source: Party::of(&id),
        destination: own,
        service: "".into(),
        protocol: "http",
        mutual_tls: true,
    };
    let side = Side {
        reporter: Reporter::Destination,
        routes: Arc::clone(routes),
        client: peer,
        strip_forwarded: false,
        add,
        series: core.series(parties),
        still_trusted: Some(still_trusted(Arc::clone(&terminated.trust), id)),
    };
    serve_http(core, Stream::Server(Box::new(stream)), side).await;
}

/// Asks whether the peer's trust domain is still accepted on this port, when the port's bundles changed.
pub(crate) fn still_trusted(trust: Arc<TrustStore>, id: SpiffeId) -> Box<dyn Fn() -> bool> {
    let generation = std::cell::Cell::new(trust.generation());
    Box::new(move || {
        let now = trust.generation();
        if now == generation.get() {
            return true;
        }
        let trusted = trust.get(&id.trust_domain).is_some_and(|anchors| !anchors.is_empty());
        if trusted {
            generation.set(now);
        }
        trusted
    })
}

/// `x-forwarded-client-cert` in Envoy's form, as a complete header line. SPIFFE IDs hold no character to escape.
fn forwarded_client_cert(own: &str, id: &SpiffeId, stream: &TlsStream<TcpStream>) -> Vec<u8> {
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let hash: String =
        leaf.map(|der| digest(&SHA256, der).as_ref().iter().map(|b| format!("{b:02x}")).collect()).unwrap_or_default();
    format!("x-forwarded-client-cert: By={own};Hash={hash};URI={id}\r\n").into_bytes()
}
