//! Pure. The ServiceImport.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ClientIPConfig, SessionAffinityConfig};
use meshfed_crds::qualified::{is_key, is_reserved, is_value};
use meshfed_model::import::Import;
use meshfed_model::names::ServiceName;
use meshfed_model::service::{InternalTrafficPolicy, IpFamily, ServiceType, SessionAffinity};

use super::service::{cluster_ips, family_name};
use super::{Context, Deleted, Said, Seen, Write, condition, lacks_family, meta};
use crate::mirror::names::{DERIVED_SERVICE, derived_service};
use crate::mirror::objects::{ClusterStatus, ImportedPort, ServiceImport, ServiceImportSpec, ServiceImportStatus};

pub(super) fn plan(name: &ServiceName, import: &Import, seen: &Seen, context: &Context) -> Vec<Write> {
    let object = wanted(name, import, seen);
    let Some(there) = &seen.import else {
        return vec![Write::Import { object: Box::new(object), new: true }];
    };
    if there.spec != object.spec || !meta::same(&there.metadata, &object.metadata) {
        return vec![Write::Import { object: Box::new(object), new: false }];
    }
    let status = status(there, import, seen, context);
    if there.status.as_ref() == Some(&status) {
        return Vec::new();
    }
    let metadata = meta::identity(&there.metadata);
    let object = ServiceImport { metadata, status: Some(status), ..ServiceImport::default() };
    vec![Write::ImportStatus(Box::new(object))]
}

/// Takes ours away; what somebody else wrote is theirs.
pub(super) fn remove(seen: &Seen) -> Vec<Write> {
    let delete = |import: &ServiceImport| Write::Delete {
        kind: Deleted::Import,
        name: import.metadata.name.clone().unwrap_or_default(),
        uid: import.metadata.uid.clone(),
    };
    seen.import.iter().filter(|i| meta::is_ours(&i.metadata)).map(delete).collect()
}

fn wanted(name: &ServiceName, import: &Import, seen: &Seen) -> ServiceImport {
    let headless = import.service_type == ServiceType::Headless;
    let ips: Vec<String> = if headless {
        Vec::new()
    } else {
        match &seen.service {
            Some(service) => cluster_ips(service).iter().map(ToString::to_string).collect(),
            // Its Service is about to be made again, with the same addresses.
            None => seen.import.iter().flat_map(|i| i.spec.ips.clone()).collect(),
        }
    };
    let family = |ip: &String| ip.parse().ok().map(|ip| family_name(&IpFamily::of(ip)));
    let affinity = match import.traits.session_affinity {
        SessionAffinity::None => None,
        SessionAffinity::ClientIP { timeout_seconds } => i32::try_from(timeout_seconds).ok(),
    };
    let config = |timeout| SessionAffinityConfig { client_ip: Some(ClientIPConfig { timeout_seconds: Some(timeout) }) };
    let port = |p: &meshfed_model::import::ImportPort| ImportedPort {
        name: p.port.name.clone(),
        protocol: p.port.protocol.clone(),
        app_protocol: p.port.app_protocol.clone(),
        port: p.port.port.into(),
    };
    let spec = ServiceImportSpec {
        ports: import.ports.iter().map(port).collect(),
        r#type: if headless { "Headless" } else { "ClusterSetIP" }.to_owned(),
        session_affinity: if affinity.is_some() { "ClientIP" } else { "None" }.to_owned(),
        session_affinity_config: affinity.map(config),
        ip_families: ips.iter().filter_map(family).collect(),
        ips,
        internal_traffic_policy: Some(
            match import.traits.internal_traffic_policy {
                InternalTrafficPolicy::Cluster => "Cluster",
                InternalTrafficPolicy::Local => "Local",
            }
            .to_owned(),
        ),
        traffic_distribution: import.traits.traffic_distribution.clone(),
    };
    // What Kubernetes would refuse is left out, and what means something to it: the word of another cluster's user must
    // neither keep the import away nor make it another's. His own agent has told him (`read/export`).
    let may_be = |key: &str| is_key(key) && !is_reserved(key);
    let labels = import.exported.labels.iter().filter(|(k, v)| may_be(k) && is_value(v));
    let annotations = import.exported.annotations.iter().filter(|(k, _)| may_be(k));
    let mut annotations: BTreeMap<String, String> = annotations.map(|(k, v)| (k.clone(), v.clone())).collect();
    if !headless {
        annotations.insert(DERIVED_SERVICE.to_owned(), derived_service(name));
    }
    let labels = labels.map(|(k, v)| (k.clone(), v.clone())).collect();
    let uid = seen.import.as_ref().and_then(|i| i.metadata.uid.clone());
    ServiceImport { metadata: meta::ours(name, name.name().to_owned(), uid, labels, annotations), spec, status: None }
}

fn status(there: &ServiceImport, import: &Import, seen: &Seen, context: &Context) -> ServiceImportStatus {
    let mut clusters: Vec<ClusterStatus> =
        import.clusters.iter().map(|c| ClusterStatus { cluster: c.to_string() }).collect();
    clusters.sort_by(|a, b| a.cluster.cmp(&b.cluster));
    let before = there.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let said = ready(there, import, seen, context);
    let ready = condition(before, &context.now, there.metadata.generation, said);
    ServiceImportStatus { clusters, conditions: vec![ready] }
}

fn ready(there: &ServiceImport, import: &Import, seen: &Seen, context: &Context) -> Said {
    let said = |status, reason: &'static str, message: String| ("Ready", status, Cow::Borrowed(reason), message);
    if lacks_family(import, seen, context) {
        let wanted: Vec<String> = import.traits.ip_families.iter().map(family_name).collect();
        let message = format!(
            "the oldest export has addresses of {} only, and this cluster has none of them for Services; it is asked again \
             within the hour",
            wanted.join(" and ")
        );
        return said(false, "IPFamilyNotSupported", message);
    }
    if let Some(obstacle) = &context.obstacle {
        return said(false, obstacle.reason, obstacle.message.clone());
    }
    if import.service_type == ServiceType::Headless {
        return said(true, "Ready", format!("exported by {}", names(import)));
    }
    if there.spec.ips.is_empty() || seen.service.is_none() {
        return said(false, "Pending", "its Service has no address yet".to_owned());
    }
    said(true, "Ready", format!("exported by {}", names(import)))
}

/// How many clusters a message names.
const NAMED_MAX: usize = 10;

fn names(import: &Import) -> String {
    let named: Vec<&str> = import.clusters.iter().take(NAMED_MAX).map(|c| c.as_str()).collect();
    let more = import.clusters.len().saturating_sub(NAMED_MAX);
    if more > 0 { format!("{} and {more} more", named.join(", ")) } else { named.join(", ") }
}
