//! Edge. The kubelet's probes of the application (`contracts-kubernetes.md` 5.4): the kubelet has no identity of the mesh, so it
//! asks the proxy, which asks the application as the kubelet would have, at the pod's address. Only what injection has
//! written down is asked.

mod answer;
mod ask;
mod spec;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::sync::Semaphore;

pub(crate) use answer::status;
pub(crate) use ask::source;
pub use spec::{InvalidProbes, Probes};

/// Questions to the application at the same time: anybody who reaches the port may ask.
const ASKING_MAX: usize = 32;

/// What is asked, and where.
#[derive(Debug)]
struct Asker {
    probes: Probes,
    host: IpAddr,
    turns: Semaphore,
}

/// The routes, for the readiness port.
pub fn routes(probes: Probes, host: IpAddr) -> Router {
    let asker = Arc::new(Asker { probes, host, turns: Semaphore::new(ASKING_MAX) });
    Router::new().route("/app-health/{container}/{kind}", get(answer)).with_state(asker)
}

async fn answer(
    State(asker): State<Arc<Asker>>,
    Path((container, kind)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let Some(probe) = asker.probes.get(&container, &kind) else {
        let text = format!("injection knows no probe '{kind}' of container '{container}'\n");
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let Ok(_turn) = asker.turns.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many probes at the same time\n").into_response();
    };
    let agent = headers.get("user-agent").and_then(|v| v.to_str().ok()).unwrap_or("kube-probe/meshfed");
    match tokio::time::timeout(probe.timeout, ask::ask(&probe.question, asker.host, agent)).await {
        Ok(Ok(())) => "ok\n".into_response(),
        Ok(Err(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
        Err(_elapsed) => {
            let text = format!("the application did not answer within {} s\n", probe.timeout.as_secs());
            (StatusCode::GATEWAY_TIMEOUT, text).into_response()
        }
    }
}
