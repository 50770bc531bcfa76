//! Edge. The admin port: `/livez`, `/readyz`, `/metrics`, and on loopback only `/debug/config` and the role's own pages.

use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::drain::Watch;
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::readiness::Readiness;

/// The admin server of a daemon.
#[derive(Debug, Clone)]
pub struct AdminServer {
    shared: Shared,
    config: Arc<serde_json::Value>,
    extra: Router,
}

#[derive(Debug, Clone)]
struct Shared {
    readiness: Readiness,
    metrics: Arc<Metrics>,
}

impl AdminServer {
    /// With the three pages that every listener has.
    #[must_use]
    pub fn new(readiness: Readiness, metrics: Arc<Metrics>) -> Self {
        Self { shared: Shared { readiness, metrics }, config: Arc::new(serde_json::Value::Null), extra: Router::new() }
    }
    /// Adds pages that only loopback listeners show.
    #[must_use]
    pub fn route(mut self, extra: Router) -> Self {
        self.extra = self.extra.merge(extra);
        self
    }
    /// What `/debug/config` shows: the effective configuration, without secrets.
    #[must_use]
    pub fn config(mut self, config: serde_json::Value) -> Self {
        self.config = Arc::new(config);
        self
    }

    fn router(&self, loopback: bool) -> Router {
        let router = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self.shared.clone());
        if !loopback {
            return router;
        }
        let config = Arc::clone(&self.config);
        let show = get(move || async move { axum::Json(config.as_ref().clone()) });
        router.route("/debug/config", show).merge(self.extra.clone())
    }

    /// Serves all listeners until the drain.
    ///
    /// # Errors
    /// When a listener cannot be used; a failed accept is not an error.
    pub async fn serve(self, listeners: Vec<TcpListener>, drain: Watch) -> std::io::Result<()> {
        let served = listeners.into_iter().map(|listener| {
            let this = self.clone();
            let drain = drain.clone();
            async move {
                listener.set_nonblocking(true)?;
                let loopback = listener.local_addr()?.ip().is_loopback();
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let stop = async move { drain.signaled().await };
                axum::serve(listener, this.router(loopback)).with_graceful_shutdown(stop).await
            }
        });
        futures::future::try_join_all(served).await.map(|_all| ())
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let pending = shared.readiness.pending();
    if pending.is_empty() {
        return "ok\n".into_response();
    }
    let mut body = pending.join("\n");
    body.push('\n');
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], shared.metrics.encode()).into_response()
}
