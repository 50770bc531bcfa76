//! Pure. The status report.

use std::collections::BTreeSet;

use meshfed_api::proto::federation as wire;
use meshfed_crds::ObjectError;

use crate::core::Core;
use crate::index::WorkloadKey;

/// Rows that the hub is told of each kind; more would not be read by people.
const ROWS_MAX: usize = 100;

/// The part of a report that costs a walk over all workloads and exported services, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct Rows(Option<wire::StatusReport>);

impl Rows {
    /// Whether nothing was collected yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

fn pending(kind: &str, name: impl Into<String>, reason: impl Into<String>) -> wire::Pending {
    wire::Pending { kind: kind.to_owned(), name: name.into(), reason: reason.into() }
}

fn error(error: &ObjectError) -> wire::SourceError {
    // The JSON form is the contract; the wire carries the same fields.
    let json = serde_json::to_value(error).unwrap_or_default();
    let text = |key: &str| json.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let number = |key: &str| {
        json.get(key).and_then(serde_json::Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or_default()
    };
    wire::SourceError {
        code: text("code"),
        file: text("file"),
        line: number("line"),
        column: number("column"),
        kind: text("kind"),
        namespace: text("namespace"),
        name: text("name"),
        field: text("field"),
        message: text("message"),
        remedy: text("remedy"),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Collects the rows.
#[must_use]
pub fn rows(core: &Core) -> Rows {
    let (index, source) = (core.index(), core.source());
    let mut report = wire::StatusReport::default();
    let mut waiting = Vec::new();
    if source.version.revision == 0 {
        waiting.push(pending("source", core.settings().cluster.as_str(), "the source was not scanned yet"));
    }
    for gateway in index.gateways() {
        for address in gateway.addresses.iter().filter(|a| !a.ready) {
            let reason = "no workload behind it is ready";
            waiting.push(pending("gateway", format!("{} {}", gateway.service, address.address), reason));
        }
    }
    for gateway in index.gateways().filter(|gateway| gateway.addresses.is_empty()) {
        waiting.push(pending("gateway", gateway.service.to_string(), "no address of it is known"));
    }
    for (gateway, why) in core.refused_gateways() {
        waiting.push(pending("gateway", gateway.to_string(), why));
    }
    let (mut ready, mut total) = (0_usize, 0_usize);
    for service in index.services().filter(|s| s.export_to.is_some()) {
        for port in service.ports.iter().filter(|p| p.is_served()) {
            let of_port = || service.endpoints.values().flatten().filter(|e| e.port == port.port);
            let (listed, usable) = (of_port().count(), of_port().filter(|e| e.ready).count());
            if usable == 0 {
                let reason =
                    if listed == 0 { index.why_no_endpoint(service) } else { "no endpoint is ready".to_owned() };
                waiting.push(pending("port", format!("{}:{}", service.name, port.port), reason));
            }
            total += of_port().filter(|e| e.mtls).count();
            ready += of_port().filter(|e| e.mtls && e.ready).count();
        }
    }
    let mut expected = 0_usize;
    // The pods of a gateway have no sidecar, and are proxies themselves.
    let gateways: BTreeSet<&WorkloadKey> = index.gateways().flat_map(|gateway| gateway.workloads.keys()).collect();
    for workload in index.workloads().filter(|w| w.sidecar || gateways.contains(&w.key)) {
        expected += 1;
        if let Some(reason) = core.proxy_lack(&workload.key) {
            waiting.push(pending("proxy", workload.key.to_string(), reason));
        }
    }
    waiting.truncate(ROWS_MAX);
    report.proxies_expected = count(expected);
    report.waiting_for = waiting;
    report.source_epoch = source.version.epoch;
    report.source_revision = source.version.revision;
    report.source_objects = count(source.objects);
    report.source_errors = core.faults().take(ROWS_MAX).map(error).collect();
    report.endpoints_ready = count(ready);
    report.endpoints_total = count(total);
    Rows(Some(report))
}

/// The report of now: what costs nothing is counted anew.
#[must_use]
pub fn report(core: &Core, rows: &Rows) -> wire::StatusReport {
    let mut report = rows.0.clone().unwrap_or_default();
    let (connected, acked) = core.proxy_counts();
    report.proxies_connected = count(connected);
    report.proxies_acked = count(acked);
    report.imported_services = count(core.view().service_count());
    if acked < connected {
        let room = ROWS_MAX.saturating_sub(report.waiting_for.len()).max(1);
        let behind = core.proxies_behind().take(room);
        report.waiting_for.extend(behind.map(|(key, why)| pending("proxy", key.to_string(), why)));
    }
    report.bundle_acks = core
        .bundle_serials()
        .iter()
        .map(|(domain, serial)| wire::BundleAck {
            trust_domain: domain.to_string(),
            serial: *serial,
            proxies_acked: count(acked),
            proxies_total: count(connected),
        })
        .collect();
    report
}
