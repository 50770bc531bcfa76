//! Edge. Asks the application whether it is ready, and tells the agent: every second, two failures, one success.

mod verdict;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshfed_api::proto::workload::WorkloadReport;
use meshfed_api::proto::workload::workload_client::WorkloadClient;
use meshfed_runtime::drain::Watch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::config::AppProbe;
use crate::kubelet::{source, status};
use crate::state::{Cluster, StateHandle};
pub use verdict::Verdict;

/// Between two probes (`contracts.md` 1.8).
pub const INTERVAL: Duration = Duration::from_secs(1);
/// One probe must be answered within this.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of an answer that are looked at: the status line.
const ANSWER_MAX: usize = 4096;

/// What is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppState {
    /// Whether the application is ready.
    pub ready: bool,
    /// Why not.
    pub reason: String,
}

/// Probes until the drain begins, and then says that the workload goes.
pub async fn run(probe: AppProbe, state: Arc<StateHandle>, report: watch::Sender<AppState>, drain: Watch) {
    let mut verdict = Verdict::new();
    let mut every = tokio::time::interval(INTERVAL);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = drain.signaled() => break,
            _tick = every.tick() => {}
        }
        let result = match &probe {
            AppProbe::Off => Ok(()),
            AppProbe::Tcp => all_targets(&state).await,
            AppProbe::Http { address, authority, path } => http(*address, authority, path).await,
        };
        let ready = verdict.take(result.is_ok());
        let next = AppState { ready, reason: if ready { String::new() } else { result.err().unwrap_or_default() } };
        report.send_if_modified(|now| {
            // While it stays unready the first reason stands: a report per changed fact, not per probe.
            let changed = now.ready != next.ready || (!next.ready && now.reason.is_empty() && !next.reason.is_empty());
            if changed {
                match (&probe, next.ready) {
                    // Nobody asked an application: there may be none.
                    (AppProbe::Off, _) => {}
                    (_, true) => tracing::info!("the application is ready"),
                    (_, false) => tracing::info!(reason = %next.reason, "the application is not ready"),
                }
                *now = next;
            }
            changed
        });
    }
    report.send_replace(AppState { ready: false, reason: "the proxy drains".to_owned() });
}

/// A connect to each inbound target, which the agent configured from `--inbound`; where a port may be at several addresses,
/// to one of them. What is seen is known to the ports of raw TCP, too.
async fn all_targets(state: &StateHandle) -> Result<(), String> {
    let mut clusters = Vec::new();
    for (name, cell) in state.clusters().iter().filter(|(n, _)| n.starts_with("inbound|")) {
        let Some(cluster) = cell.get() else { return Err(format!("{name} is not known yet")) };
        clusters.push(cluster);
    }
    let one = async |cluster: &Cluster| {
        let mut failed = Ok(());
        for endpoint in cluster.endpoints.iter() {
            match connect(endpoint.address, &cluster.source).await {
                Ok(_stream) => {
                    cluster.counters.reach.find();
                    return Ok(());
                }
                Err(error) if failed.is_ok() => failed = Err(format!("{}: {error}", endpoint.address)),
                Err(_other) => {}
            }
        }
        if failed.is_err() {
            cluster.counters.reach.lose();
        }
        failed
    };
    // At the same time: one that does not answer must not hold up what is known of the others.
    let all = futures::future::join_all(clusters.iter().map(|cluster| one(cluster))).await;
    all.into_iter().collect()
}

/// Where connections to it have to come from `sources`, so has this one, and not from theirs.
async fn connect(address: SocketAddr, sources: &[IpAddr]) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if sources.iter().any(|s| s.is_ipv4() == address.is_ipv4()) {
        socket.bind(SocketAddr::new(source(address.ip()), 0))?;
    }
    tokio::time::timeout(TIMEOUT, socket.connect(address)).await?
}

/// `GET path`: a status from 200 to 399 is a success.
async fn http(address: SocketAddr, authority: &str, path: &str) -> Result<(), String> {
    let exchange = async {
        let mut stream = connect(address, &[]).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: meshfed-probe\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::with_capacity(512);
        while answer.len() < ANSWER_MAX && !answer.windows(2).any(|w| w == b"\r\n") {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        Ok::<Vec<u8>, std::io::Error>(answer)
    };
    let answer = match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(format!("{address}: {error}")),
        Err(_elapsed) => return Err(format!("{address}: no answer within {TIMEOUT:?}")),
    };
    match status(&answer) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("{address}{path} answers {status}")),
        None => Err(format!("{address} does not speak HTTP/1.1")),
    }
}

/// Tells the agent, over every connection to it and whenever something changes.
pub async fn report(
    workload: String,
    node_id: String,
    mut app: watch::Receiver<AppState>,
    mut channel: watch::Receiver<Option<Channel>>,
) {
    loop {
        let Ok(current) = channel.wait_for(Option::is_some).await.map(|c| c.clone()) else { return };
        let Some(current) = current else { continue };
        let (reports, queue) = mpsc::channel(4);
        let mut client = WorkloadClient::new(current);
        let first = to_report(&workload, &node_id, &app.borrow_and_update());
        if reports.try_send(first).is_err() {
            continue;
        }
        let talk = async {
            let mut answers = match client.report(ReceiverStream::new(queue)).await {
                Ok(answers) => answers.into_inner(),
                Err(status) => {
                    return tracing::warn!(code = ?status.code(), message = status.message(), "the agent takes no report");
                }
            };
            loop {
                tokio::select! {
                    changed = app.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        let next = to_report(&workload, &node_id, &app.borrow_and_update());
                        if reports.send(next).await.is_err() {
                            return;
                        }
                    }
                    answer = answers.message() => match answer {
                        Ok(Some(_taken)) => {}
                        Ok(None) | Err(_) => return,
                    },
                }
            }
        };
        talk.await;
        // The stream ended: with the agent, then the next channel is awaited; else it is tried again, not in a loop.
        tokio::select! {
            lost = channel.wait_for(Option::is_none) => if lost.is_err() { return },
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

fn to_report(workload: &str, node_id: &str, app: &AppState) -> WorkloadReport {
    WorkloadReport {
        workload: workload.to_owned(),
        node_id: node_id.to_owned(),
        app_ready: app.ready,
        reason: app.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that shuts out who keeps leaving without a word shuts out the probe, and nobody who comes from where captured
    /// clients come.
    ///
    /// Mutation seen to fail: the socket bound to what was found in `sources`.
    #[tokio::test]
    async fn a_probe_is_no_client_to_the_application() {
        let application = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = application.local_addr().unwrap();
        let captured = ["127.0.0.6".parse().unwrap(), "::1".parse().unwrap()];
        let (probe, accepted) = tokio::join!(connect(address, &captured), application.accept());
        assert_eq!((probe.is_ok(), accepted.unwrap().1.ip()), (true, address.ip()));
    }
}
