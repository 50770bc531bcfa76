//! Edge. What the HTTP API reads of sessions and catalog, and the questions it puts to agents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use meshfed_api::border::{Refusal, Subject};
use meshfed_api::http;
use meshfed_api::proto::federation as wire;
use meshfed_model::export::ExportTo;
use meshfed_model::horizon::DropReason;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_model::import::{Import, ImportPort};
use meshfed_model::names::{ClusterName, ServiceName, SubsetName};
use meshfed_model::offer::{OfferKey, ServiceOffer};
use meshfed_model::policy::{FleetPolicies, PolicySource, PolicyTarget};
use meshfed_model::service::{ServicePort, ServiceType};
use meshfed_model::sni::CLUSTERSET_DOMAIN;
use meshfed_model::version::Version;
use tokio::sync::oneshot;

use super::hub::Hub;
use super::state::{FLIPS_MAX, FLIPS_WINDOW, HOLD, Session, State};
use crate::fleet::{ClusterFacts, EndpointsError, EndpointsQuery, FleetRead, MergePreview};
use crate::plan::Filter;

/// Time for an agent's answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

#[tonic::async_trait]
impl FleetRead for Hub {
    fn cluster(&self, name: &ClusterName) -> Option<ClusterFacts> {
        let now = super::hub::now().instant;
        self.with(|state| cluster_facts(state, name, now, &self.inputs.fleet))
    }

    fn services(
        &self,
        wanted: &(dyn Fn(&ServiceName, &BTreeMap<String, String>) -> bool + Sync),
    ) -> Vec<http::Service> {
        self.with(|state| {
            let catalog = state.catalog();
            let merged = catalog.exporters().filter_map(|(name, _)| Some((name, catalog.merged(name)?)));
            let chosen = merged.filter(|(name, merged)| wanted(name, &merged.exported.labels));
            chosen.filter_map(|(name, _)| service(state, name, false)).collect()
        })
    }

    fn service(&self, name: &ServiceName) -> Option<http::Service> {
        self.with(|state| service(state, name, true))
    }

    fn not_exported(&self, name: &ServiceName, port: u16, to: &ClusterName) -> Vec<http::Dropped> {
        self.with(|state| not_exported(state, name, port, to))
    }

    fn preview(&self, cluster: &ClusterName, offers: &[http::PlannedOffer]) -> MergePreview {
        self.with(|state| preview(state, cluster, offers))
    }

    async fn endpoints(&self, query: EndpointsQuery) -> Result<http::Endpoints, EndpointsError> {
        let cluster = query.from.clone();
        let away =
            |reason: &str| EndpointsError::AgentUnavailable { cluster: cluster.clone(), reason: reason.to_owned() };
        let (sender, receiver) = oneshot::channel();
        let asked = self.change(|state| {
            let key = state.ask(query)?;
            self.questions.lock().unwrap_or_else(PoisonError::into_inner).insert(key, sender);
            Some(key)
        });
        let key = asked.ok_or_else(|| away("it has no session, or too many questions wait"))?;
        let answer = tokio::time::timeout(ANSWER_DEADLINE, receiver).await;
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_session_ended)) => return Err(away("its session ended")),
            Err(_elapsed) => return Err(away("no answer within 5 s")),
        };
        judge_answer(&answer).map_err(|problem| problem.unwrap_or_else(|| away("its answer cannot be read")))
    }
}

/// The body of an answer; `Err(None)`: it cannot be read.
fn judge_answer(answer: &wire::EndpointsAnswer) -> Result<http::Endpoints, Option<EndpointsError>> {
    match answer.status {
        0 => serde_json::from_slice(&answer.body).map_err(|_unreadable| None),
        status => {
            let status = u16::try_from(status).ok().filter(|s| (400..600).contains(s)).unwrap_or(400);
            let detail = answer.detail.chars().take(1000).collect();
            Err(Some(EndpointsError::Refused { status, detail }))
        }
    }
}

fn cluster_facts(state: &State, name: &ClusterName, now: Instant, fleet: &TrustDomain) -> Option<ClusterFacts> {
    let known = state.known(name)?;
    let sessions: Vec<&Session> = state.sessions_of(name).collect();
    let report = state.report_of(name).unwrap_or_default();
    let catalog = state.catalog();
    let gateways = catalog.gateways_of(name).map(|(key, offer)| http::Gateway {
        network: key.network.to_string(),
        address: key.address.to_string(),
        port: key.port,
        ready: offer.ready,
    });
    let exported = u32::try_from(catalog.exports_of(name).count()).unwrap_or(u32::MAX);
    let mut source = report.source.clone();
    source.errors.extend(alarms(state, name));
    source.errors.extend(catalog.refused(name).map(refusal));
    Some(ClusterFacts {
        connection: if sessions.is_empty() { http::Connection::Disconnected } else { http::Connection::Connected },
        freshness: state.freshness(name, now),
        gateways: gateways.collect(),
        services: http::ServiceCount { exported, imported: report.imported },
        endpoints: report.endpoints,
        agents: sessions
            .iter()
            .map(|s| http::Agent {
                id: SpiffeId::agent(fleet.clone(), s.cluster.clone(), s.replica).to_string(),
                instance: (!s.instance.is_empty()).then(|| s.instance.clone()),
                epoch: s.epoch.map(|epoch| epoch.to_string()),
                version: s.version.clone(),
                uplink: s.offers,
                clock_skew: format!("{}ms", s.clock_skew_ms),
            })
            .collect(),
        source,
        proxies: report.proxies,
        bundle_serials: held_by_all(&sessions),
        bundle_proxies: report.bundle_proxies,
        waiting_for: waiting_for(state, name, &sessions),
        last_seen_at: known.last_seen,
    })
}

/// The serials of the bundles that every agent of a cluster holds.
fn held_by_all(sessions: &[&Session]) -> BTreeMap<TrustDomain, u64> {
    let Some((first, others)) = sessions.split_first() else { return BTreeMap::new() };
    let of = |(trust_domain, serial): (&TrustDomain, &u64)| {
        let lowest = others.iter().map(|s| s.bundles.get(trust_domain).copied()).min().flatten();
        let serial = if others.is_empty() { Some(*serial) } else { lowest.map(|low| low.min(*serial)) };
        serial.map(|serial| (trust_domain.clone(), serial))
    };
    first.bundles.iter().filter_map(of).collect()
}

/// What is wrong with the sessions of a cluster, among the source's errors: there an operator looks.
fn alarms(state: &State, name: &ClusterName) -> Vec<http::SourceError> {
    let alarm = |code: &str, message: String, remedy: &str| http::SourceError {
        code: code.to_owned(),
        kind: "Cluster".to_owned(),
        name: name.to_string(),
        message,
        remedy: remedy.to_owned(),
        ..http::SourceError::default()
    };
    let mut alarms = Vec::new();
    if state.is_flipping(name) {
        let message = format!(
            "an agent's session changed more than {FLIPS_MAX} times within {} s; the last good offer stays",
            FLIPS_WINDOW.as_secs()
        );
        let remedy = "look for a second agent that runs from a copy of the data directory, or for one that restarts";
        alarms.push(alarm("SessionFlips", message, remedy));
    }
    if let Some(loss) = state.catalog().held_back(name) {
        let message = format!(
            "a full sync does not name {} of {} endpoints; they stay for {} s unless the next full sync says the same",
            loss.lost,
            loss.of,
            HOLD.as_secs()
        );
        alarms.push(alarm("ResyncHeld", message, "nothing, if they were removed; else look at the agent's source"));
    }
    alarms
}

/// A refused resource among the source's errors: there an operator looks.
fn refusal(refused: &Refusal) -> http::SourceError {
    let (kind, namespace, name) = match &refused.subject {
        Subject::Key(OfferKey::Service(s)) => ("Service", s.namespace.to_string(), s.name().to_owned()),
        Subject::Key(OfferKey::Group(g)) => ("Service", g.service.namespace.to_string(), g.service.name().to_owned()),
        Subject::Key(OfferKey::Endpoint(e)) => {
            ("WorkloadEntry", e.service.namespace.to_string(), e.address.to_string())
        }
        Subject::Key(OfferKey::Gateway(g)) => ("Service", String::new(), format!("{}:{}", g.address, g.port)),
        Subject::Said { kind, namespace, name } => {
            let kind = if kind == "Endpoint" { "WorkloadEntry" } else { "Service" };
            (kind, namespace.clone(), name.clone())
        }
    };
    http::SourceError {
        code: refused.code.clone(),
        kind: kind.to_owned(),
        namespace,
        name,
        message: format!("{}: {}", refused.class.as_str(), refused.message),
        ..http::SourceError::default()
    }
}

/// What keeps a cluster from being ready (`contracts.md` 1.14).
pub(super) fn waiting_for(state: &State, name: &ClusterName, sessions: &[&Session]) -> Vec<http::Waiting> {
    let wait = |kind: &str, name_: &str, reason: String| http::Waiting {
        cluster: name.to_string(),
        kind: kind.to_owned(),
        name: name_.to_owned(),
        reason,
    };
    if sessions.is_empty() {
        return vec![wait("session", name.as_str(), "the agent has no session".to_owned())];
    }
    let mut waiting = Vec::new();
    if !sessions.iter().any(|session| session.uplink) {
        let reason = "no agent of the cluster holds its Lease; one of them takes it within 15 s".to_owned();
        waiting.push(wait("session", name.as_str(), reason));
    }
    let report = state.report_of(name);
    let report = report.as_ref();
    let held = state.catalog().history(name).map(meshfed_api::stream::History::version).unwrap_or_default();
    let covered = report.and_then(|r| r.offer);
    match covered {
        None => waiting.push(wait("source", name.as_str(), "no complete scan of the source is offered yet".to_owned())),
        Some(covered) if covered.epoch != held.epoch || covered > held || !state.catalog().is_complete(name) => {
            let reason = format!("the offer {covered} that covers the source is not taken yet, {held} is held");
            waiting.push(wait("source", name.as_str(), reason));
        }
        Some(_) => {}
    }
    // One agent that is behind serves what is old.
    let unsettled: BTreeMap<ClusterName, Version> = sessions.iter().flat_map(|s| state.unsettled(s)).collect();
    for (origin, version) in unsettled {
        let reason = format!("the agent has not acknowledged offer {version} of {origin}");
        waiting.push(wait("session", origin.as_str(), reason));
    }
    // An agent that refuses a bundle says so itself, with what to do.
    let told =
        |of: &str| report.is_some_and(|r| r.waiting_for.iter().any(|(kind, what, _)| kind == "session" && what == of));
    let behind: BTreeMap<&TrustDomain, u64> = sessions.iter().flat_map(|s| state.bundles_behind(s)).collect();
    for (trust_domain, serial) in behind.into_iter().filter(|(of, _)| !told(of.as_str())) {
        let reason = format!("the agent has not acknowledged bundle {serial} of {trust_domain}; its log says why");
        waiting.push(wait("session", trust_domain.as_str(), reason));
    }
    let Some(report) = report else { return waiting };
    waiting.extend(report.waiting_for.iter().map(|(kind, what, reason)| wait(kind, what, reason.clone())));
    let http::Proxies { expected, connected, acked } = report.proxies;
    let named = report.waiting_for.iter().any(|(kind, ..)| kind == "proxy");
    if !named && (connected < expected || acked < connected) {
        let reason = format!("{connected} of {expected} proxies are connected, {acked} have acknowledged the view");
        waiting.push(wait("proxy", "", reason));
    }
    waiting
}

fn type_name(service_type: ServiceType) -> &'static str {
    match service_type {
        ServiceType::ClusterSetIP => "ClusterSetIP",
        ServiceType::Headless => "Headless",
    }
}

fn service(state: &State, name: &ServiceName, with_exports: bool) -> Option<http::Service> {
    let catalog = state.catalog();
    let merged = catalog.merged(name)?;
    let clusters: BTreeSet<ClusterName> = catalog.by_seniority(name).into_iter().collect();
    let mut endpoints = http::Count::default();
    let mut subsets = BTreeSet::from([SubsetName::ALL.to_owned()]);
    for cluster in &clusters {
        let (ready, total) = catalog.endpoints(cluster, name);
        endpoints.ready += ready;
        endpoints.total += total;
        subsets.extend(catalog.groups(cluster, name).map(|(key, _)| key.subset.to_string()));
    }
    let exports = with_exports.then(|| clusters.iter().filter_map(|c| export(state, c, name)).collect());
    Some(http::Service {
        namespace: name.namespace.to_string(),
        name: name.name().to_owned(),
        service_type: type_name(merged.service_type).to_owned(),
        hosts: vec![name.host(CLUSTERSET_DOMAIN)],
        ports: ports(&merged),
        clusters: clusters.iter().map(ToString::to_string).collect(),
        endpoints,
        subsets: subsets.into_iter().collect(),
        conflict: merged.conflict.as_ref().map(|conflict| http::Conflict {
            winner: conflict.winner.to_string(),
            fields: conflict.fields.iter().map(|(field, _)| field.as_str().to_owned()).collect(),
            message: conflict.message(),
        }),
        exports,
        failover: failover(state.policies(), name),
        revision: String::new(),
    })
}

fn ports(merged: &Import) -> Vec<http::Port> {
    let port = |p: &ImportPort| http::Port {
        name: p.port.name.clone(),
        port: p.port.port,
        protocol: p.port.protocol.clone(),
        app_protocol: p.port.shown_app_protocol().to_owned(),
        clusters: p.clusters.iter().map(ToString::to_string).collect(),
    };
    merged.ports.iter().map(port).collect()
}

fn export(state: &State, cluster: &ClusterName, name: &ServiceName) -> Option<http::Export> {
    let catalog = state.catalog();
    let offer = catalog.offer(cluster, name)?;
    let group = |(key, value): (&meshfed_model::offer::GroupKey, &meshfed_model::offer::GroupOffer)| http::Group {
        port: key.port,
        subset: key.subset.to_string(),
        network: key.network.to_string(),
        locality: key.locality.to_string(),
        ready: value.ready,
        total: value.total,
        weight: value.weight,
    };
    Some(http::Export {
        cluster: cluster.to_string(),
        first_seen_revision: catalog.first_seen(name, cluster).unwrap_or_default().to_string(),
        export_to: export_to(&offer.export_to),
        identities: offer.identities.iter().map(ToString::to_string).collect(),
        groups: catalog.groups(cluster, name).map(group).collect(),
    })
}

fn export_to(to: &ExportTo) -> Vec<String> {
    match to {
        ExportTo::Everyone => vec!["*".to_owned()],
        ExportTo::Selected(selectors) => {
            let mut all = BTreeSet::new();
            for selector in selectors {
                all.extend(selector.clusters.iter().cloned());
                if !selector.labels.is_empty() {
                    let labels: Vec<String> = selector.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    all.insert(labels.join(","));
                }
            }
            all.into_iter().collect()
        }
    }
}

/// The most specific policy of the fleet: service, namespace, default; at one level the fleet source over the API.
fn failover(policies: &FleetPolicies, name: &ServiceName) -> http::FailoverRef {
    let rank = |target: &PolicyTarget| match target {
        PolicyTarget::Service(s) if s == name => Some(0),
        PolicyTarget::Namespace(n) if *n == name.namespace => Some(1),
        PolicyTarget::Default => Some(2),
        PolicyTarget::Service(_) | PolicyTarget::Namespace(_) => None,
    };
    let best = policies.failover.iter().filter_map(|p| Some(((rank(&p.target)?, p.source != PolicySource::Fleet), p)));
    match best.min_by_key(|(rank, _)| *rank).map(|(_, policy)| policy) {
        None => http::FailoverRef { policy: "default".to_owned(), source: "builtin".to_owned() },
        Some(policy) => http::FailoverRef {
            policy: match &policy.target {
                PolicyTarget::Default => "default".to_owned(),
                PolicyTarget::Namespace(n) => n.to_string(),
                PolicyTarget::Service(s) => s.to_string(),
            },
            source: match policy.source {
                PolicySource::Fleet => "fleet".to_owned(),
                PolicySource::Api => "api".to_owned(),
            },
        },
    }
}

fn not_exported(state: &State, name: &ServiceName, port: u16, to: &ClusterName) -> Vec<http::Dropped> {
    let catalog = state.catalog();
    let exports = std::sync::Arc::new(state.policies().export.clone());
    let filter = Filter::new(state.live(), to, BTreeSet::new(), exports);
    let mut rows = Vec::new();
    for cluster in catalog.by_seniority(name).into_iter().filter(|c| c != to) {
        let Some(offer) = catalog.offer(&cluster, name) else { continue };
        if filter.as_ref().is_some_and(|f| f.is_exported(name, &offer.export_to)) {
            continue;
        }
        rows.extend(catalog.ready_by_network(&cluster, name, port).into_iter().map(|facts| http::Dropped {
            cluster: cluster.to_string(),
            network: facts.network.to_string(),
            ready: facts.ready,
            reason: DropReason::NotExported,
        }));
    }
    rows.sort();
    rows
}

fn preview(state: &State, cluster: &ClusterName, offers: &[http::PlannedOffer]) -> MergePreview {
    let catalog = state.catalog();
    let mut preview = MergePreview::default();
    for offer in offers {
        let Ok(name) = ServiceName::new(&offer.namespace, &offer.name) else { continue };
        let with: Vec<ClusterName> = catalog.by_seniority(&name).into_iter().filter(|c| c != cluster).collect();
        if with.is_empty() {
            preview.new_services.push(name.to_string());
            continue;
        }
        let planned = planned(offer);
        let mut all: Vec<(&ClusterName, &ServiceOffer)> =
            with.iter().filter_map(|c| Some((c, catalog.offer(c, &name)?))).collect();
        all.push((cluster, &planned));
        let conflict = Import::merge(&all).and_then(|import| import.conflict).map(|conflict| conflict.message());
        let names: BTreeMap<String, ()> = with.iter().map(|c| (c.to_string(), ())).collect();
        preview.merges.push(http::PlanMerge { service: name.to_string(), with: names.into_keys().collect(), conflict });
    }
    preview
}

fn planned(offer: &http::PlannedOffer) -> ServiceOffer {
    ServiceOffer {
        service_type: match offer.service_type.as_deref() {
            Some("Headless") => ServiceType::Headless,
            Some(_) | None => ServiceType::ClusterSetIP,
        },
        ports: offer
            .ports
            .iter()
            .map(|p| ServicePort {
                name: p.name.clone(),
                port: p.port,
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                app_protocol: p.app_protocol.clone(),
            })
            .collect(),
        export_to: ExportTo::Everyone,
        ..ServiceOffer::default()
    }
}
