//! A federator in this process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use clap::Parser as _;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use meshfed_ca::token::Token;
use meshfed_federator::config::Config;
use meshfed_federator::{Federator, FederatorArgs};
use meshfed_runtime::{tasks, tls};
use rustls_pki_types::pem::PemObject as _;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: FederatorArgs,
}

pub(crate) fn build(dir: &Path, more: &[&str]) -> Result<Federator, meshfed_runtime::config::Problems> {
    tls::install_provider();
    let base = ["federator", "--data-dir", dir.to_str().unwrap(), "--grpc-listen", "127.0.0.1:0"];
    let ports = ["--http-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let args = base.iter().chain(&ports).chain(more);
    Federator::build(Config::load(Cli::parse_from(args).args)?)
}

pub(crate) struct Hub {
    pub(crate) grpc: SocketAddr,
    http: SocketAddr,
    dir: std::path::PathBuf,
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Hub {
    pub(crate) fn start(dir: &Path) -> Self {
        let federator = build(dir, &["--fleet", "mesh.example"]).unwrap();
        let at = |key: &str| federator.addresses().0[key][0];
        let (grpc, http) = (at("grpc"), at("http"));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let task = tasks::spawn("federator", async move {
            federator.run(async move { drop(stopped.await) }).await.unwrap();
        });
        Self { grpc, http, dir: dir.to_owned(), stop, task }
    }

    pub(crate) async fn end(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }

    /// One call of the HTTP API: status and body.
    pub(crate) async fn api(&self, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let mut roots = rustls::RootCertStore::empty();
        let ca = std::fs::read(self.dir.join("api-ca.pem")).unwrap();
        roots.add(rustls_pki_types::CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let tcp = tokio::net::TcpStream::connect(self.http).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        drop(tasks::spawn("connection", async move { drop(connection.await) }));
        let token = std::fs::read_to_string(self.dir.join("admin.token")).unwrap();
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {}", token.trim()))
            .header("content-type", "application/json")
            .header("if-match", "*")
            .body(Full::new(bytes::Bytes::from(body.to_owned())))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    pub(crate) async fn token(&self, cluster: &str, more: &str) -> Token {
        let body = format!(
            r#"{{"cluster":"{cluster}","networks":[{{"name":"net-{cluster}","cidrs":["127.1.0.0/16"]}}],"regions":["eu"]{more}}}"#
        );
        let (status, created) = self.api("POST", "/api/v1/tokens", &body).await;
        assert_eq!(status, 201, "{created}");
        created["token"].as_str().unwrap().parse().unwrap()
    }
}
