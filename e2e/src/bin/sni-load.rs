//! Edge. Load for the SNI passthrough benchmark: each connection is new, with a client certificate, our SNI and one
//! request. Prints `{"connections": N, "errors": N}`.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark tool"
)]

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshfed_e2e::tls::{anyone, mint};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

fn flag(name: &str) -> String {
    let mut args = std::env::args().skip_while(|a| a != name);
    args.nth(1).unwrap_or_else(|| panic!("{name} is missing"))
}

async fn once(target: SocketAddr, tls: &TlsConnector, name: &ServerName<'static>, host: &str) -> std::io::Result<()> {
    let tcp = TcpStream::connect(target).await?;
    tcp.set_nodelay(true)?;
    let mut stream = tls.connect(name.clone(), tcp).await?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = [0_u8; 1024];
    let read = stream.read(&mut answer).await?;
    if !answer.get(..read).unwrap_or_default().starts_with(b"HTTP/1.1 200") {
        return Err(std::io::Error::other("no 200"));
    }
    Ok(())
}

fn main() {
    meshfed_runtime::tls::install_provider();
    let target: SocketAddr = flag("--target").parse().expect("--target HOST:PORT");
    let sni = flag("--sni");
    let host = sni.rsplit("_.").next().unwrap_or_default().to_owned();
    let (chain, key) = mint(std::path::Path::new(&flag("--ca-dir")), &flag("--id"));
    let config = anyone(Some((chain, key)), &[b"http/1.1"]);
    let name = ServerName::try_from(sni).expect("--sni NAME");
    let tls = TlsConnector::from(Arc::new(config));
    let conns: usize = flag("--conns").parse().expect("--conns N");
    let end = Instant::now() + Duration::from_secs(flag("--secs").parse().expect("--secs N"));
    let (done, errors) = (Rc::new(Cell::new(0_u64)), Rc::new(Cell::new(0_u64)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(tokio::task::LocalSet::new().run_until(async {
        let workers: Vec<_> = (0..conns)
            .map(|_| {
                let (tls, name, host) = (tls.clone(), name.clone(), host.clone());
                let (done, errors) = (Rc::clone(&done), Rc::clone(&errors));
                tokio::task::spawn_local(async move {
                    while Instant::now() < end {
                        match once(target, &tls, &name, &host).await {
                            Ok(()) => done.set(done.get() + 1),
                            Err(_counted) => errors.set(errors.get() + 1),
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.expect("a worker");
        }
    }));
    println!("{{\"connections\": {}, \"errors\": {}}}", done.get(), errors.get());
}
