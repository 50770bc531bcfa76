//! Cases, their two written forms, and their judge.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use meshfed_model::horizon::{
    Candidates, Client, EndpointCandidate, Families, GatewayCandidate, GroupCandidate, Via, assign,
};
use meshfed_model::locality::Locality;
use meshfed_model::names::ClusterName;
use meshfed_model::policy::{FailoverSpec, Tier};
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) via: Via,
    pub(crate) tier: u32,
    /// `N/D`, or `N`.
    pub(crate) share: String,
}

/// (cluster, network, reason) → ready.
pub(crate) type Dropped = BTreeMap<(String, String, String), u32>;

pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) client: Client,
    pub(crate) spec: FailoverSpec,
    pub(crate) candidates: Candidates,
    pub(crate) items: BTreeMap<(IpAddr, u16), Expected>,
    pub(crate) dropped: Dropped,
}

fn fraction(text: &str) -> Result<f64, String> {
    let (numer, denom) = text.split_once('/').unwrap_or((text, "1"));
    let number = |s: &str| s.parse::<f64>().map_err(|e| format!("share '{text}': {e}"));
    Ok(number(numer)? / number(denom)?)
}

impl Case {
    /// Address, port, via and tier exactly; the share within 1e-6 of the weights after priorities; dropped exactly.
    pub(crate) fn judge(&self) -> Result<(), String> {
        let got = assign(&self.client, &self.spec, &self.candidates);
        let top: u64 = got.items.iter().filter(|i| i.priority == 0).map(|i| u64::from(i.weight)).sum();
        let mut seen = BTreeSet::new();
        for item in &got.items {
            let at = (item.address, item.port);
            let Some(want) = self.items.get(&at) else {
                return Err(format!("{}:{} is handed out and must not be", item.address, item.port));
            };
            if !seen.insert(at) {
                return Err(format!("{}:{} is handed out twice", item.address, item.port));
            }
            if (item.via, item.tier) != (want.via, want.tier) {
                return Err(format!("{}:{} is {:?} in tier {}, want {want:?}", at.0, at.1, item.via, item.tier));
            }
            let share = if item.priority == 0 { f64::from(item.weight) / u64_as_f64(top) } else { 0.0 };
            if (share - fraction(&want.share)?).abs() > 1e-6 {
                return Err(format!("{}:{} has share {share}, want {}", at.0, at.1, want.share));
            }
        }
        if let Some(missing) = self.items.keys().find(|k| !seen.contains(k)) {
            return Err(format!("{}:{} is not handed out", missing.0, missing.1));
        }
        let mut dropped = Dropped::new();
        for d in &got.dropped {
            let key = (d.cluster.to_string(), d.network.to_string(), format!("{:?}", d.reason));
            if dropped.insert(key.clone(), d.ready).is_some() {
                return Err(format!("{key:?} is dropped twice"));
            }
        }
        if dropped == self.dropped { Ok(()) } else { Err(format!("dropped {dropped:?}, want {:?}", self.dropped)) }
    }

    /// The candidates as an agent has them: endpoints of other networks folded into groups. What never becomes part
    /// of a group (no sidecar) stays as it is.
    pub(crate) fn grouped(&self) -> Candidates {
        let mut candidates = self.candidates.clone();
        let (far, near): (Vec<_>, Vec<_>) =
            candidates.endpoints.into_iter().partition(|e| e.network != self.client.network && e.mtls);
        candidates.endpoints = near;
        let mut groups: BTreeMap<_, GroupCandidate> = BTreeMap::new();
        for e in far {
            let empty = GroupCandidate {
                cluster: e.cluster.clone(),
                network: e.network.clone(),
                locality: e.locality.clone(),
                ready: 0,
                total: 0,
                weight: 0,
            };
            let group = groups.entry((e.cluster, e.network, e.locality)).or_insert(empty);
            group.total += 1;
            group.ready += u32::from(e.ready);
            group.weight += if e.ready { u64::from(e.weight) } else { 0 };
        }
        candidates.groups = groups.into_values().collect();
        candidates
    }
}

#[allow(clippy::cast_precision_loss, reason = "sums fit u32")]
fn u64_as_f64(n: u64) -> f64 {
    n as f64
}

fn text<T: std::str::FromStr<Err: std::fmt::Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|e| format!("'{value}': {e}"))
}

fn spec(tiers: Option<Vec<Tier>>) -> FailoverSpec {
    match tiers {
        None => FailoverSpec::default(),
        Some(tiers) => FailoverSpec { tiers, ..FailoverSpec::default() },
    }
}

fn via(word: &str) -> Result<Via, String> {
    match word {
        "direct" => Ok(Via::Direct),
        "gateway" => Ok(Via::Gateway),
        _ => Err(format!("via '{word}'")),
    }
}

// ---- our own form ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnCase {
    id: String,
    client: String,
    tiers: Option<Vec<Tier>>,
    #[serde(default)]
    drained: BTreeSet<ClusterName>,
    #[serde(default)]
    hidden: BTreeSet<ClusterName>,
    gateways: Vec<String>,
    endpoints: Vec<String>,
    items: Vec<String>,
    dropped: Vec<String>,
}

fn words<const N: usize>(line: &str) -> Result<[&str; N], String> {
    let words: Vec<&str> = line.split(' ').collect();
    words.try_into().map_err(|_words| format!("'{line}' has not {N} places"))
}

/// Reads `tests/vectors/split-horizon.json`.
pub(crate) fn own(json: &str) -> Result<Vec<Case>, String> {
    let cases: Vec<OwnCase> = serde_json::from_str(json).map_err(|e| e.to_string())?;
    cases.into_iter().map(OwnCase::read).collect()
}

impl OwnCase {
    fn read(self) -> Result<Case, String> {
        let [cluster, network, locality, families] = words(&self.client)?;
        let client = Client {
            cluster: text(cluster)?,
            network: text(network)?,
            locality: text(locality)?,
            families: Families { v4: families.contains("v4"), v6: families.contains("v6") },
        };
        let gateway = |line: &String| {
            let [cluster, network, at] = words(line)?;
            let at: SocketAddr = text(at)?;
            let (cluster, network) = (text(cluster)?, text(network)?);
            Ok(GatewayCandidate { cluster, network, address: at.ip(), port: at.port(), locality: Locality::default() })
        };
        let endpoint = |line: &String| {
            let [cluster, network, locality, at, weight, ready, mtls] = words(line)?;
            let at: SocketAddr = text(at)?;
            Ok(EndpointCandidate {
                cluster: text(cluster)?,
                network: text(network)?,
                locality: text(locality)?,
                address: at.ip(),
                port: at.port(),
                weight: text(weight)?,
                ready: ready == "ready",
                mtls: mtls == "mtls",
            })
        };
        let item = |line: &String| {
            let [at, way, tier, share] = words(line)?;
            let at: SocketAddr = text(at)?;
            Ok(((at.ip(), at.port()), Expected { via: via(way)?, tier: text(tier)?, share: share.to_owned() }))
        };
        let dropped = |line: &String| {
            let [cluster, network, reason, ready] = words(line)?;
            Ok(((cluster.to_owned(), network.to_owned(), reason.to_owned()), text(ready)?))
        };
        let candidates = Candidates {
            endpoints: self.endpoints.iter().map(endpoint).collect::<Result<_, String>>()?,
            groups: Vec::new(),
            gateways: self.gateways.iter().map(gateway).collect::<Result<_, String>>()?,
            drained: self.drained,
            not_exported: self.hidden,
        };
        Ok(Case {
            id: self.id,
            client,
            spec: spec(self.tiers),
            candidates,
            items: self.items.iter().map(item).collect::<Result<_, String>>()?,
            dropped: self.dropped.iter().map(dropped).collect::<Result<_, String>>()?,
        })
    }
}

// ---- the shared form ----

#[derive(Deserialize)]
struct SharedFile {
    cases: Vec<serde_json::Value>,
}
#[derive(Deserialize)]
struct SharedPolicy {
    tiers: Vec<Tier>,
}
#[derive(Deserialize)]
struct SharedClient {
    cluster: ClusterName,
    network: String,
    locality: Locality,
    families: Vec<u8>,
}
#[derive(Deserialize)]
struct SharedGateway {
    cluster: ClusterName,
    network: String,
    address: IpAddr,
    port: u16,
    #[serde(default)]
    locality: Locality,
}
#[derive(Deserialize)]
struct SharedEndpoint {
    cluster: ClusterName,
    network: String,
    locality: Locality,
    address: IpAddr,
    port: u16,
    weight: u32,
    ready: bool,
    mtls: bool,
}
#[derive(Deserialize)]
struct SharedItem {
    address: IpAddr,
    port: u16,
    via: String,
    tier: u32,
    share: String,
}
#[derive(Deserialize)]
struct SharedDropped {
    cluster: String,
    network: String,
    reason: String,
    ready: u32,
}
#[derive(Deserialize)]
struct SharedExpect {
    items: Vec<SharedItem>,
    dropped: Vec<SharedDropped>,
}
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SharedCase {
    id: String,
    client: SharedClient,
    policy: Option<SharedPolicy>,
    #[serde(default)]
    drained: BTreeSet<ClusterName>,
    #[serde(default)]
    not_exported_to: BTreeMap<ClusterName, BTreeSet<ClusterName>>,
    gateways: Vec<SharedGateway>,
    endpoints: Vec<SharedEndpoint>,
    expect: SharedExpect,
}

/// A case by its id, or why it cannot be read.
pub(crate) type Read = (String, Result<Case, String>);

/// Reads the form of the shared `split-horizon.json`.
pub(crate) fn shared(json: &str) -> Result<Vec<Read>, String> {
    let file: SharedFile = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let read = |(at, value): (usize, serde_json::Value)| {
        let id = value.get("id").and_then(|i| i.as_str()).map_or_else(|| format!("cases[{at}]"), str::to_owned);
        let case = serde_json::from_value::<SharedCase>(value).map_err(|e| e.to_string()).and_then(SharedCase::read);
        (id, case)
    };
    Ok(file.cases.into_iter().enumerate().map(read).collect())
}

impl SharedCase {
    fn read(self) -> Result<Case, String> {
        let client = Client {
            cluster: self.client.cluster,
            network: text(&self.client.network)?,
            locality: self.client.locality,
            families: Families { v4: self.client.families.contains(&4), v6: self.client.families.contains(&6) },
        };
        let hidden = self.not_exported_to.into_iter().filter(|(_, to)| to.contains(&client.cluster));
        let gateways = self.gateways.into_iter().map(|g| {
            let SharedGateway { cluster, network, address, port, locality } = g;
            Ok(GatewayCandidate { cluster, network: text(&network)?, address, port, locality })
        });
        let endpoints = self.endpoints.into_iter().map(|e| {
            let SharedEndpoint { cluster, network, locality, address, port, weight, ready, mtls } = e;
            Ok(EndpointCandidate { cluster, network: text(&network)?, locality, address, port, weight, ready, mtls })
        });
        let candidates = Candidates {
            endpoints: endpoints.collect::<Result<_, String>>()?,
            groups: Vec::new(),
            gateways: gateways.collect::<Result<_, String>>()?,
            drained: self.drained,
            not_exported: hidden.map(|(c, _)| c).collect(),
        };
        let items = self
            .expect
            .items
            .into_iter()
            .map(|i| Ok(((i.address, i.port), Expected { via: via(&i.via)?, tier: i.tier, share: i.share })));
        let dropped = self.expect.dropped.into_iter().map(|d| ((d.cluster, d.network, d.reason), d.ready));
        Ok(Case {
            id: self.id,
            client,
            spec: spec(self.policy.map(|p| p.tiers)),
            candidates,
            items: items.collect::<Result<_, String>>()?,
            dropped: dropped.collect(),
        })
    }
}
