//! Edge. Before all services of the TCP port: who has shown no certificate is answered by the exchange of tokens alone.

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use meshfed_runtime::grpc::{LEFT, MEMBERSHIP, PeerInfo};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::Routes;
use tonic::{Code, Status};

/// The one method that answers a stranger.
const EXCHANGE: &str = "/meshfed.workload.v1.Attestation/Attest";

/// These routes, of which strangers reach the exchange alone.
#[must_use]
pub fn closed_to_strangers(routes: Routes) -> Routes {
    routes.into_axum_router().layer(from_fn(gate)).into()
}

/// These routes, of which everybody reaches the exchange alone; whoever asks for anything else is told `why`.
#[must_use]
pub fn exchange_alone(routes: Routes, why: &'static str) -> Routes {
    let answer = move |request: Request, next: Next| async move {
        if request.uri().path() == EXCHANGE { next.run(request).await } else { has_left(why).into_http() }
    };
    routes.into_axum_router().layer(from_fn(answer)).into()
}

/// Words for people, and a mark for gateways: one that holds nothing yet is ready all the same, as before a join.
fn has_left(why: &'static str) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(MEMBERSHIP, MetadataValue::from_static(LEFT));
    Status::with_metadata(Code::Unavailable, why, metadata)
}

async fn gate(request: Request, next: Next) -> Response {
    let known = request.extensions().get::<PeerInfo>().is_some_and(|peer| peer.id.is_some());
    if known || request.uri().path() == EXCHANGE {
        return next.run(request).await;
    }
    Status::unauthenticated("no certificate was presented; an SVID of this cluster is needed").into_http()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::*;

    /// Who asks for something else than a certificate is told why there is nothing, and not that nobody knows the method.
    ///
    /// Mutation seen to fail: the layer of `exchange_alone` left out.
    #[tokio::test]
    async fn what_is_not_served_now_says_why() {
        let of = async |path: &str| {
            let routes = exchange_alone(Routes::default(), "this cluster has left");
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let answer = routes.prepare().into_axum_router().oneshot(request).await.unwrap();
            let status = Status::from_header_map(answer.headers()).unwrap();
            let says_left = status.metadata().get(MEMBERSHIP).is_some_and(|said| said == LEFT);
            (status.code(), status.message().to_owned(), says_left)
        };
        let (code, message, says_left) =
            of("/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources").await;
        assert_eq!((code, message.as_str(), says_left), (Code::Unavailable, "this cluster has left", true));
        assert_eq!(of(EXCHANGE).await.0, Code::Unimplemented, "it goes on to the routes, which are none here");
    }
}
