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

/// What an address that others can reach says in the place of a page that shows what this process holds.
const ON_LOOPBACK: &str = "pages of /debug are shown where --admin-listen is a loopback address, and nowhere else\n";

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
            let elsewhere = get(|| async { (StatusCode::NOT_FOUND, ON_LOOPBACK) });
            return router.route("/debug/{*page}", elsewhere);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, drain, listen, tasks};
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
        let mut s = tokio::net::TcpStream::connect(addr).await.unwrap();
        s.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        s.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// Mutations seen to fail: `loopback` always true (pages of the role are then shown to everybody); `ON_LOOPBACK` in the answer as
    /// an empty text.
    #[tokio::test]
    async fn readiness_names_what_is_pending_and_strangers_see_three_pages() {
        let (readiness, metrics) = (Readiness::new(), Arc::new(Metrics::new()));
        metrics.counter("meshfed_test", "A test").inc();
        let guards = [readiness.guard("store"), readiness.guard("grpc listener")];
        let extra = Router::new().route("/debug/source", axum::routing::get(|| async { "source" }));
        let admin =
            AdminServer::new(readiness, metrics).route(extra).config(serde_json::json!({"fleet": "mesh.example"}));
        let loopback = listen::bind_tcp("--admin-listen", "127.0.0.1:0".parse().unwrap()).unwrap();
        let wildcard = listen::bind_tcp("--admin-listen", "0.0.0.0:0".parse().unwrap()).unwrap();
        let near = loopback.local_addr().unwrap();
        let far: SocketAddr = format!("127.0.0.1:{}", wildcard.local_addr().unwrap().port()).parse().unwrap();
        let (trigger, watch) = drain::channel();
        let begun = clock::instant();
        let task = tasks::spawn("admin", admin.serve(vec![loopback, wildcard], watch));
        assert_eq!(get(near, "/readyz").await, (503, "grpc listener\nstore\n".to_owned()));
        drop(guards);
        for addr in [near, far] {
            assert_eq!(get(addr, "/readyz").await, (200, "ok\n".to_owned()));
            assert_eq!(get(addr, "/livez").await.0, 200);
            assert!(get(addr, "/metrics").await.1.contains("meshfed_test_total 1"));
        }
        assert_eq!(get(near, "/debug/source").await, (200, "source".to_owned()));
        assert!(get(near, "/debug/config").await.1.contains("mesh.example"));
        for page in ["/debug/source", "/debug/config"] {
            assert_eq!(get(far, page).await, (404, ON_LOOPBACK.to_owned()));
        }
        assert_eq!(get(near, "/debug/else").await.0, 404);
        assert!(trigger.drained(std::time::Duration::from_secs(20)).await, "{:?}", begun.elapsed());
        task.await.unwrap().unwrap();
    }
}
