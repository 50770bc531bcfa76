//! Edge. The proxy's own ports: admin, metrics, readiness.

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use meshfed_runtime::admin::AdminServer;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::metrics::{CONTENT_TYPE, Metrics};
use meshfed_runtime::readiness::Readiness;
use meshfed_runtime::tasks;

use crate::kubelet::{self, Probes};
use crate::state::StateHandle;

mod needed;
mod show;

pub use needed::Needed;

/// What the ports show.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Guards of the start.
    pub readiness: Readiness,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// What discovery knows.
    pub state: Arc<StateHandle>,
    /// The flags as they were understood.
    pub config: serde_json::Value,
    /// What is asked for the kubelet, and where.
    pub kubelet: Option<(Probes, IpAddr)>,
    /// What a gateway on Kubernetes waits for.
    pub needed: Option<Needed>,
}

impl Admin {
    /// Serves the admin port until the drain.
    pub fn serve_admin(&self, sockets: Vec<TcpListener>, drain: Watch) {
        let state = Arc::clone(&self.state);
        let show = get(move || {
            let state = Arc::clone(&state);
            async move { axum::Json(show::state(&state)) }
        });
        let server = AdminServer::new(self.readiness.clone(), Arc::clone(&self.metrics))
            .config(self.config.clone())
            .route(Router::new().route("/debug/state", show));
        detach("admin", server.serve(sockets, drain));
    }
    /// Serves `/metrics` until the drain.
    pub fn serve_metrics(&self, sockets: Vec<TcpListener>, drain: &Watch) {
        let router = Router::new().route("/metrics", get(metrics)).with_state(Arc::clone(&self.metrics));
        serve("metrics", sockets, &router, drain);
    }
    /// Serves `GET /healthz/ready`, and the kubelet's probes of the application, until the drain.
    pub fn serve_ready(&self, sockets: Vec<TcpListener>, drain: &Watch) {
        serve("ready", sockets, &self.ready_routes(), drain);
    }

    fn ready_routes(&self) -> Router {
        let state = (self.readiness.clone(), self.needed.clone());
        let router = Router::new().route("/healthz/ready", get(ready)).with_state(state);
        match &self.kubelet {
            Some((probes, host)) => router.merge(kubelet::routes(probes.clone(), *host)),
            None => router,
        }
    }
}

async fn metrics(State(metrics): State<Arc<Metrics>>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.encode()).into_response()
}

async fn ready(State((readiness, needed)): State<(Readiness, Option<Needed>)>) -> Response {
    if let Some((ready, why)) = needed.as_ref().and_then(Needed::missing) {
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        return (status, why).into_response();
    }
    let pending = readiness.pending();
    if pending.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, pending.join("\n") + "\n").into_response()
}

fn serve(name: &'static str, sockets: Vec<TcpListener>, router: &Router, drain: &Watch) {
    for socket in sockets {
        let (router, drain) = (router.clone(), drain.clone());
        detach(name, async move {
            socket.set_nonblocking(true)?;
            let socket = tokio::net::TcpListener::from_std(socket)?;
            axum::serve(socket, router).with_graceful_shutdown(async move { drain.signaled().await }).await
        });
    }
}

/// A server ends with the drain, for which its watch makes the process wait; if it breaks before, traffic goes on.
fn detach(name: &'static str, server: impl Future<Output = std::io::Result<()>> + Send + 'static) {
    let _ends_with_the_drain = tasks::spawn(name, async move {
        if let Err(error) = server.await {
            tracing::error!(server = name, %error, "a port of the proxy itself is no longer served");
        }
    });
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use meshfed_runtime::tls::{IdentityStore, TrustStore};
    use tokio::sync::watch;
    use tower::ServiceExt as _;

    use super::*;

    /// Mutation seen to fail: `needed` is not looked at.
    #[tokio::test]
    async fn a_gateway_whose_cluster_has_not_joined_is_ready_and_then_waits_for_its_listeners() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("anchors.pem");
        let readiness = Readiness::new();
        let _pending = readiness.guard("agent: no listeners yet");
        let admin = Admin {
            readiness,
            metrics: Arc::new(Metrics::new()),
            state: StateHandle::new(Arc::new(IdentityStore::empty()), Arc::new(TrustStore::new())),
            config: serde_json::Value::Null,
            kubelet: None,
            needed: Some(Needed::new(file.clone(), watch::channel(false).1, watch::channel(false).1)),
        };
        let status = async || {
            let request = Request::get("/healthz/ready").body(Body::empty()).unwrap();
            admin.ready_routes().oneshot(request).await.unwrap().status()
        };
        assert_eq!(status().await, StatusCode::OK);
        std::fs::write(&file, "").unwrap();
        assert_eq!(status().await, StatusCode::SERVICE_UNAVAILABLE);
    }
}
