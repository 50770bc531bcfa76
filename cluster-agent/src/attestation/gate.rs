//! Edge. Before all services of the TCP port: who has shown no certificate is answered by the exchange of tokens alone.

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use meshfed_runtime::grpc::PeerInfo;
use tonic::Status;
use tonic::service::Routes;

/// The one method that answers a stranger.
const EXCHANGE: &str = "/meshfed.workload.v1.Attestation/Attest";

/// These routes, of which strangers reach the exchange alone.
#[must_use]
pub fn closed_to_strangers(routes: Routes) -> Routes {
    routes.into_axum_router().layer(from_fn(gate)).into()
}

async fn gate(request: Request, next: Next) -> Response {
    let known = request.extensions().get::<PeerInfo>().is_some_and(|peer| peer.id.is_some());
    if known || request.uri().path() == EXCHANGE {
        return next.run(request).await;
    }
    Status::unauthenticated("no certificate was presented; an SVID of this cluster is needed").into_http()
}
