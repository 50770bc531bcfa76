//! Edge. Resolves the host names of gateways, again and again, and keeps what they resolved to over a restart.
//!
//! Load balancers change their addresses behind a name. A name that does not resolve keeps its last good addresses: that
//! decision is the index's; here nothing is decided.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use meshfed_runtime::{clock, files, tasks};
use tokio::sync::{mpsc, watch};

use crate::index::HOST_ADDRESSES_MAX;

/// When a name is resolved again.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    /// After a success. The resolver tells no time to live; load balancers use 60 s.
    pub refresh: Duration,
    /// After a failure.
    pub retry: Duration,
}

impl Default for Pauses {
    /// 30 s and 5 s.
    fn default() -> Self {
        Self { refresh: Duration::from_secs(30), retry: Duration::from_secs(5) }
    }
}

/// How long one lookup may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lookups at once.
const AT_ONCE: usize = 8;
/// Names that are resolved; more are left alone, and logged.
const HOSTS_MAX: usize = 256;
/// Answers that wait for the core.
pub const LOOKUPS_MAX: usize = 16;
/// The largest file of last good addresses: [`HOSTS_MAX`] names of 253 characters with 16 addresses each.
const FILE_MAX: usize = 1 << 20;

/// The outcome of one lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The name.
    pub host: Arc<str>,
    /// Its addresses, at least one; or why there are none.
    pub found: Result<Vec<IpAddr>, String>,
}

/// Where names are looked up: the host's resolver, or a test's.
pub trait Resolver: Send + Sync + 'static {
    /// All addresses of a name.
    fn resolve(&self, host: &str) -> impl Future<Output = std::io::Result<Vec<IpAddr>>> + Send;
}

/// The resolver of the agent's host.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Resolver for System {
    async fn resolve(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// The addresses that names resolved to when the agent ended. A file that is damaged or not there says nothing.
#[must_use]
pub fn load(path: &Path) -> BTreeMap<Arc<str>, Vec<IpAddr>> {
    let Ok(bytes) = files::read_limited(path, FILE_MAX) else { return BTreeMap::new() };
    let hosts: BTreeMap<String, Vec<IpAddr>> = serde_json::from_slice(&bytes).unwrap_or_default();
    hosts.into_iter().map(|(host, addresses)| (host.into(), addresses)).collect()
}

/// Keeps all names of `hosts` resolved, and tells `answers`, until nobody names or listens any more.
///
/// # Errors
/// Never: names that do not resolve, and a file that cannot be written, are told and tried again.
pub async fn run(
    path: PathBuf,
    resolver: impl Resolver,
    pauses: Pauses,
    mut hosts: watch::Receiver<BTreeSet<Arc<str>>>,
    answers: mpsc::Sender<Lookup>,
) -> Result<(), std::convert::Infallible> {
    let mut due: BTreeMap<Arc<str>, Instant> = BTreeMap::new();
    let mut good = load(&path);
    loop {
        let next = due.values().min().copied();
        let timer = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = hosts.changed() => {
                if changed.is_err() {
                    break;
                }
                follow(&hosts.borrow_and_update(), &mut due);
            }
            () = timer => {}
        }
        let now = clock::instant();
        let wanted: Vec<Arc<str>> =
            due.iter().filter(|(_, at)| **at <= now).map(|(host, _)| Arc::clone(host)).collect();
        let mut found = futures::stream::iter(wanted).map(|host| look_up(&resolver, host)).buffer_unordered(AT_ONCE);
        let mut changed = false;
        while let Some(lookup) = found.next().await {
            let pause = if lookup.found.is_ok() { pauses.refresh } else { pauses.retry };
            due.insert(Arc::clone(&lookup.host), clock::instant() + pause);
            if let Ok(addresses) = &lookup.found {
                changed |= good.insert(Arc::clone(&lookup.host), addresses.clone()).as_ref() != Some(addresses);
            }
            if answers.send(lookup).await.is_err() {
                break;
            }
        }
        let count = good.len();
        good.retain(|host, _| due.contains_key(host));
        if changed || good.len() != count {
            save(&path, &good).await;
        }
    }
    // The core has ended: the drain.
    std::future::pending().await
}

fn follow(hosts: &BTreeSet<Arc<str>>, due: &mut BTreeMap<Arc<str>, Instant>) {
    if hosts.len() > HOSTS_MAX {
        tracing::warn!(hosts = hosts.len(), HOSTS_MAX, "more host names of gateways than are resolved");
    }
    let hosts: BTreeSet<&Arc<str>> = hosts.iter().take(HOSTS_MAX).collect();
    due.retain(|host, _| hosts.contains(host));
    for host in hosts {
        due.entry(Arc::clone(host)).or_insert_with(clock::instant);
    }
}

async fn look_up(resolver: &impl Resolver, host: Arc<str>) -> Lookup {
    let found = match tokio::time::timeout(PATIENCE, resolver.resolve(&host)).await {
        Ok(Ok(addresses)) if addresses.is_empty() => Err("it has no address".to_owned()),
        Ok(Ok(mut addresses)) => {
            addresses.sort_unstable();
            addresses.dedup();
            addresses.truncate(HOST_ADDRESSES_MAX);
            Ok(addresses)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("no answer within {PATIENCE:?}")),
    };
    Lookup { host, found }
}

async fn save(path: &Path, good: &BTreeMap<Arc<str>, Vec<IpAddr>>) {
    let hosts: BTreeMap<String, Vec<IpAddr>> = good.iter().map(|(host, a)| (host.to_string(), a.clone())).collect();
    let path = path.to_owned();
    let written = tasks::spawn_blocking("hosts-file", move || {
        let bytes = serde_json::to_vec(&hosts).unwrap_or_default();
        files::write_atomic(&path, &bytes, files::MODE_SECRET).map_err(|e| e.to_string())
    });
    if let Err(error) = written.await.unwrap_or_else(|panicked| Err(panicked.to_string())) {
        tracing::warn!(error, "the addresses of gateways' host names cannot be kept");
    }
}

#[cfg(test)]
mod tests;
