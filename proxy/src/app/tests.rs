use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use meshfed_api::proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::discovery::Kind;
use crate::discovery::tests::{Said, agent, free_port, gateway};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    proxy: ProxyArgs,
}

fn config(dir: &Path, more: &[&str]) -> Config {
    let socket = format!("unix:{}", dir.join("xds.sock").display());
    let run_dir = dir.join("run").display().to_string();
    let base = [
        "proxy",
        "--agent",
        &socket,
        "--workload",
        "meshfed-system/eastwest",
        "--mode",
        "gateway",
        "--workers",
        "2",
        "--run-dir",
    ];
    let flags = base.into_iter().chain([run_dir.as_str()]).chain(more.iter().copied());
    Config::new(&Cli::try_parse_from(flags).unwrap().proxy, 2).unwrap()
}

/// An agent that admits at once, with one gateway listener.
async fn admit(said: Said, port: u16) -> Said {
    let (mut hear, say) = said;
    let mut nonce = 0;
    let mut reply = async |kind: Kind, resources| {
        nonce += 1;
        let response = DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            resources,
            nonce: nonce.to_string(),
            ..Default::default()
        };
        say.send(Ok(response)).await.unwrap();
    };
    while let Some(request) = hear.recv().await {
        if !request.response_nonce.is_empty() {
            if request.type_url == Kind::Listener.type_url() {
                break;
            }
            continue;
        }
        if request.type_url == Kind::Cluster.type_url() {
            reply(Kind::Cluster, Vec::new()).await;
        } else if request.type_url == Kind::Listener.type_url() {
            reply(Kind::Listener, vec![gateway(port, &["b.local"], "1")]).await;
        }
    }
    (hear, say)
}

async fn addresses(dir: &Path, wanted: &str) -> BTreeMap<String, Vec<SocketAddr>> {
    let wait = async {
        loop {
            let text = tokio::fs::read_to_string(dir.join("run/addresses.json")).await.unwrap_or_default();
            let found: BTreeMap<String, Vec<SocketAddr>> = serde_json::from_str(&text).unwrap_or_default();
            if found.contains_key(wanted) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("addresses.json in time")
}

async fn get(at: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Mutation seen to fail: `ProcessSockets::new` also binds metrics; `self.guard.take()` left out.
#[tokio::test]
async fn before_admission_only_readiness_listens_and_after_it_everything() {
    meshfed_runtime::tls::install_provider();
    let dir = tempfile::tempdir().unwrap();
    let (_drain, watch) = drain::channel();
    let mut opened = agent(&dir.path().join("xds.sock"), watch);
    let flags = ["--ready-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let process = tasks::spawn("test", serve(config(dir.path(), &flags), None));
    let said = opened.recv().await.unwrap();
    let before = addresses(dir.path(), "ready").await;
    assert_eq!(before.keys().collect::<Vec<_>>(), ["ready"]);
    let (status, pending) = get(before["ready"][0], "/healthz/ready").await;
    assert_eq!((status, pending.as_str()), (503, "agent: no listeners yet\n"));
    let _stream = admit(said, free_port()).await;
    let after = addresses(dir.path(), "gateway").await;
    assert_eq!(after.keys().collect::<Vec<_>>(), ["admin", "gateway", "metrics", "ready"]);
    assert_eq!(get(after["ready"][0], "/healthz/ready").await.0, 200);
    assert_eq!(get(after["admin"][0], "/readyz").await.0, 200);
    let (_, metrics) = get(after["metrics"][0], "/metrics").await;
    assert!(metrics.contains("meshfed_gateway_connections_total{result=\"forwarded\",reason=\"\"} 0"), "{metrics}");
    assert_eq!(get(after["metrics"][0], "/debug/config").await.0, 404);
    assert!(get(after["admin"][0], "/debug/config").await.1.contains("meshfed-system/eastwest"));
    assert!(get(after["admin"][0], "/debug/state").await.1.contains("b.local"));
    assert!(TcpStream::connect(after["gateway"][0]).await.is_ok());
    assert!(!process.is_finished());
}

/// Mutation seen to fail: `problems.finish(())?` of `started` left out.
#[tokio::test]
async fn the_same_proxy_twice_exits_65_naming_flag_and_address() {
    meshfed_runtime::tls::install_provider();
    let dir = tempfile::tempdir().unwrap();
    let (_drain, watch) = drain::channel();
    let mut opened = agent(&dir.path().join("xds.sock"), watch);
    let port = free_port();
    let off = ["--ready-listen", "off", "--metrics-listen", "off", "--admin-listen", "off"];
    let first = tasks::spawn("test", serve(config(dir.path(), &off), None));
    let _one = admit(opened.recv().await.unwrap(), port).await;
    let second = tasks::spawn("test", serve(config(dir.path(), &off), None));
    let said = opened.recv().await.unwrap();
    let _two = tasks::spawn("test", admit(said, port));
    let problems = tokio::time::timeout(Duration::from_secs(10), second).await.unwrap().unwrap().unwrap_err();
    assert_eq!(problems.exit_code(), 65);
    let text = problems.to_string();
    assert!(text.contains("--gateway-listen") && text.contains(&format!("127.0.0.1:{port} is in use")), "{text}");
    assert!(!first.is_finished() && TcpStream::connect(("127.0.0.1", port)).await.is_ok(), "the first goes on");
    // A port of its own in use is the same.
    let busy = free_port();
    let holder = meshfed_runtime::listen::bind_tcp("--test", SocketAddr::from(([127, 0, 0, 1], busy))).unwrap();
    let ready = format!("127.0.0.1:{busy}");
    let problems = serve(config(dir.path(), &["--ready-listen", &ready]), None).await.unwrap_err();
    assert!(
        problems.to_string().starts_with(&format!("--ready-listen:0:0: error[MF0102]: {ready} is in use")),
        "{problems}"
    );
    drop(holder);
}
