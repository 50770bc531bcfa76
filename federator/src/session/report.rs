//! Pure. What an agent reports of its cluster.

use std::collections::BTreeMap;

use meshfed_api::http;
use meshfed_api::proto::federation as wire;
use meshfed_model::identity::TrustDomain;
use meshfed_model::version::Version;

/// Things one cluster waits for that are kept by name; the rest is counted.
pub(super) const WAITING_MAX: usize = 256;
/// Source errors of one cluster that are kept; the rest is counted.
pub(super) const ERRORS_MAX: usize = 256;
/// The longest text of a report, in bytes.
const TEXT_MAX: usize = 2048;

/// The latest status of one cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Its proxies.
    pub proxies: http::Proxies,
    /// What it waits for: kind, name, reason.
    pub waiting_for: Vec<(String, String, String)>,
    /// Its source.
    pub source: http::SourceState,
    /// Services it imports.
    pub imported: u32,
    /// Ready and listed endpoints of its exported services.
    pub endpoints: http::Count,
    /// Its proxies that hold each bundle.
    pub bundle_proxies: BTreeMap<TrustDomain, http::ProxyAcks>,
    /// The offer that covers the source's revision; none while no complete scan is offered.
    pub offer: Option<Version>,
}

impl Report {
    /// Adds what another agent of the cluster reports, which does not offer: proxies are connected to one of them, so what
    /// one of them waits for counts only where the other does, too.
    pub(super) fn join(&mut self, other: &Self) {
        self.proxies.connected = self.proxies.connected.saturating_add(other.proxies.connected);
        self.proxies.acked = self.proxies.acked.saturating_add(other.proxies.acked);
        for (trust_domain, counts) in &other.bundle_proxies {
            let sum = self.bundle_proxies.entry(trust_domain.clone()).or_default();
            sum.acked = sum.acked.saturating_add(counts.acked);
            sum.total = sum.total.saturating_add(counts.total);
        }
        let either = |kind: &str| matches!(kind, "proxy" | "port" | "gateway");
        let named = |all: &[(String, String, String)], (kind, name, _): &(String, String, String)| {
            all.iter().any(|(k, n, _)| k == kind && n == name)
        };
        let mut waiting = std::mem::take(&mut self.waiting_for);
        waiting.retain(|one| !either(&one.0) || named(&other.waiting_for, one));
        let more = other.waiting_for.iter().filter(|one| !either(&one.0) && !named(&waiting, one)).cloned();
        let more: Vec<_> = more.take(WAITING_MAX.saturating_sub(waiting.len())).collect();
        waiting.extend(more);
        self.waiting_for = waiting;
    }
}

fn text(text: String) -> String {
    if text.len() <= TEXT_MAX {
        return text;
    }
    text.chars().take(TEXT_MAX / 4).chain("…".chars()).collect()
}

impl From<wire::StatusReport> for Report {
    /// Nothing in a report decides anything, so it is cut to size rather than refused.
    fn from(r: wire::StatusReport) -> Self {
        let waiting = r.waiting_for.into_iter().take(WAITING_MAX);
        let errors = r.source_errors.into_iter().take(ERRORS_MAX);
        let acks = r.bundle_acks.into_iter().take(meshfed_api::border::MEMBERS_MAX);
        Self {
            proxies: http::Proxies {
                expected: r.proxies_expected,
                connected: r.proxies_connected,
                acked: r.proxies_acked,
            },
            waiting_for: waiting.map(|p| (text(p.kind), text(p.name), text(p.reason))).collect(),
            source: http::SourceState {
                epoch: r.source_epoch.to_string(),
                revision: r.source_revision.to_string(),
                objects: r.source_objects,
                errors: errors.map(source_error).collect(),
            },
            imported: r.imported_services,
            endpoints: http::Count { ready: r.endpoints_ready.into(), total: r.endpoints_total.into() },
            bundle_proxies: acks
                .filter_map(|a| {
                    let counts = http::ProxyAcks { acked: a.proxies_acked, total: a.proxies_total };
                    Some((TrustDomain::new(a.trust_domain).ok()?, counts))
                })
                .collect(),
            offer: r.offer.map(Version::from),
        }
    }
}

fn source_error(e: wire::SourceError) -> http::SourceError {
    http::SourceError {
        code: text(e.code),
        file: text(e.file),
        line: e.line,
        column: e.column,
        kind: text(e.kind),
        namespace: text(e.namespace),
        name: text(e.name),
        field: text(e.field),
        message: text(e.message),
        remedy: text(e.remedy),
    }
}
