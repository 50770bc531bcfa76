//! Rows of the published MCS conformance suite as far as they are decided here, and the rules of KEP-1645 beside them.
//! The same against a real API server: `e2e/tests/kubernetes_mcs.rs`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServicePort as PortOfService;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meshfed_model::import::Import;
use meshfed_model::names::ClusterName;
use meshfed_model::offer::{Exported, ServiceOffer};
use meshfed_model::service::{InternalTrafficPolicy, ServicePort, ServiceTraits, ServiceType, SessionAffinity};

use super::*;
use crate::mirror::facts::{Backend, ExportFacts, ExportState};
use crate::mirror::names::{
    DERIVED_SERVICE, HEADLESS, MANAGED_BY, MESHFED, SERVICE_NAME, SLICE_MANAGED_BY, SLICE_MANAGER, SOURCE_CLUSTER,
    derived_service,
};
use crate::mirror::objects::ServiceImportSpec;

mod ports;

fn name() -> ServiceName {
    ServiceName::new("shop", "b").unwrap()
}
fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}
fn port(name: &str, number: u16, protocol: &str) -> ServicePort {
    ServicePort { name: name.to_owned(), port: number, protocol: protocol.to_owned(), app_protocol: None }
}
fn offer() -> ServiceOffer {
    let traits = ServiceTraits { ip_families: vec![IpFamily::IPv4], ..ServiceTraits::default() };
    ServiceOffer { ports: vec![port("tcp", 42, "TCP"), port("udp", 42, "UDP")], traits, ..ServiceOffer::default() }
}

/// What is said when these clusters export the name, the oldest first.
fn exported(exports: &[(&str, ServiceOffer)]) -> Facts {
    let names: Vec<ClusterName> = exports.iter().map(|(c, _)| cluster(c)).collect();
    let offers: Vec<(&ClusterName, &ServiceOffer)> = names.iter().zip(exports.iter().map(|(_, o)| o)).collect();
    Facts { import: Import::merge(&offers), ..Facts::default() }
}
fn own(state: ExportState) -> Option<ExportFacts> {
    Some(ExportFacts { workloads: 2, ..ExportFacts::only(state) })
}

/// An API server, as far as this needs one.
#[derive(Default)]
struct Server {
    seen: Seen,
    obstacle: Option<Obstacle>,
    unsupported: BTreeSet<IpFamily>,
    seconds: i64,
    allocated: u8,
}

impl Server {
    fn with_export() -> Self {
        let mut export = ServiceExport::default();
        export.metadata.name = Some("b".to_owned());
        export.metadata.namespace = Some("shop".to_owned());
        export.metadata.generation = Some(3);
        Self { seen: Seen { export: Some(export), ..Seen::default() }, ..Self::default() }
    }
    fn context(&self) -> Context {
        Context {
            now: Time(Timestamp::from_second(self.seconds).unwrap()),
            obstacle: self.obstacle.clone(),
            unsupported: self.unsupported.clone(),
            address_taken: false,
        }
    }
    fn plan(&self, facts: &Facts) -> Vec<Write> {
        plan(&name(), facts, &self.seen, &self.context())
    }
    /// Writes until there is nothing to write; gives what was written.
    fn settle(&mut self, facts: &Facts) -> Vec<Write> {
        let mut all = Vec::new();
        for _ in 0..5 {
            self.seconds += 1;
            let writes = self.plan(facts);
            if writes.iter().all(|w| matches!(w, Write::Warn(_))) {
                return all;
            }
            for write in writes {
                self.take(write.clone());
                all.push(write);
            }
        }
        panic!("it writes without end: {:?}", self.plan(facts));
    }
    fn take(&mut self, write: Write) {
        match write {
            Write::Service { mut object, .. } => {
                if let Some(spec) = object.spec.as_mut().filter(|s| s.cluster_ips.is_none()) {
                    let families = spec.ip_families.clone().unwrap_or_else(|| vec!["IPv4".to_owned()]);
                    self.allocated += 1;
                    let n = self.allocated;
                    let ip = |f: &String| if f == "IPv4" { format!("10.96.0.{n}") } else { format!("fd00::{n:x}") };
                    spec.cluster_ips = Some(families.iter().map(ip).collect());
                }
                self.seen.service = Some(*object);
            }
            Write::Import { mut object, .. } => {
                let before = self.seen.import.as_ref().and_then(|i| i.metadata.generation).unwrap_or_default();
                object.metadata.generation = Some(before + 1);
                object.metadata.uid = Some("uid".to_owned());
                object.status = self.seen.import.as_ref().and_then(|i| i.status.clone());
                self.seen.import = Some(*object);
            }
            Write::Slice { object, .. } => {
                let name = object.metadata.name.clone().unwrap();
                self.seen.slices.insert(name, *object);
            }
            Write::ImportStatus(object) => self.seen.import.as_mut().unwrap().status = object.status,
            Write::ExportStatus(object) => self.seen.export.as_mut().unwrap().status = object.status,
            Write::Delete { kind, name, .. } => match kind {
                Deleted::Service => self.seen.service = None,
                Deleted::Import => self.seen.import = None,
                Deleted::Slice => drop(self.seen.slices.remove(&name)),
            },
            Write::Warn(_) => {}
        }
    }
    fn spec(&self) -> &ServiceImportSpec {
        &self.seen.import.as_ref().unwrap().spec
    }
    fn ready(&self) -> (String, String) {
        let status = self.seen.import.as_ref().unwrap().status.as_ref().unwrap();
        let ready = &status.conditions[0];
        (ready.status.clone(), ready.reason.clone())
    }
    /// `TYPE=STATUS/REASON` of the export.
    fn conditions(&self) -> Vec<String> {
        let status = self.seen.export.as_ref().unwrap().status.as_ref().unwrap();
        status.conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect()
    }
    fn message(&self, r#type: &str) -> String {
        let status = self.seen.export.as_ref().unwrap().status.as_ref().unwrap();
        status.conditions.iter().find(|c| c.type_ == r#type).unwrap().message.clone()
    }
    fn clusters(&self) -> Vec<&str> {
        let status = self.seen.import.as_ref().unwrap().status.as_ref().unwrap();
        status.clusters.iter().map(|c| c.cluster.as_str()).collect()
    }
}

/// Conformance 2 and 3: "A ServiceImport should only exist as long as there's at least one exporting cluster";
/// "Exporting a ClusterIP service should create a ServiceImport of type ClusterSetIP in the service's namespace in each
/// cluster. Unexporting should delete the ServiceImport".
///
/// Mutations seen to fail: `import::remove` giving nothing; `service::remove` left out of `plan`.
#[test]
fn an_import_is_there_for_as_long_as_one_cluster_exports() {
    let mut server = Server::with_export();
    let both = exported(&[("west", offer()), ("east", offer())]);
    server.settle(&Facts { export: own(ExportState::Offered), ..both });
    assert_eq!(server.spec().r#type, "ClusterSetIP");
    assert_eq!(server.ready(), ("True".to_owned(), "Ready".to_owned()));
    assert_eq!(server.clusters(), ["east", "west"]);
    assert_eq!(server.conditions(), ["Valid=True/Valid", "Ready=True/Exported", "Conflict=False/NoConflicts"]);
    let derived = server.seen.service.clone().unwrap().metadata.name;
    assert_eq!(derived, Some(derived_service(&name())));
    let import = server.seen.import.as_ref().unwrap();
    assert_eq!(import.metadata.annotations.as_ref().unwrap().get(DERIVED_SERVICE), derived.as_ref());
    server.settle(&exported(&[("east", offer())]));
    assert_eq!(server.clusters(), ["east"]);
    server.settle(&Facts::default());
    assert!(server.seen.import.is_none() && server.seen.service.is_none() && server.seen.slices.is_empty());
}

/// Conformance 4, 5, 6 and 8: session affinity with its config, internalTrafficPolicy, trafficDistribution and ports of
/// the import are those of the exported service; the derived Service has none of the first three: the proxies apply them.
///
/// Mutations seen to fail: `traffic_distribution`, affinity, internal policy or ports left out of `import::wanted`.
#[test]
fn an_import_has_the_traits_and_ports_of_the_exported_service() {
    let mut export = offer();
    export.traits.session_affinity = SessionAffinity::ClientIP { timeout_seconds: 10 };
    export.traits.internal_traffic_policy = InternalTrafficPolicy::Local;
    export.traits.traffic_distribution = Some("PreferClose".to_owned());
    export.ports.push(port("sctp", 43, "SCTP"));
    let mut server = Server::default();
    server.settle(&exported(&[("east", export)]));
    let spec = serde_json::to_value(server.spec()).unwrap();
    let expected = serde_json::json!({
        "type": "ClusterSetIP", "ips": ["10.96.0.1"], "ipFamilies": ["IPv4"],
        "ports": [
            {"name": "tcp", "port": 42, "protocol": "TCP"},
            {"name": "udp", "port": 42, "protocol": "UDP"},
            {"name": "sctp", "port": 43, "protocol": "SCTP"},
        ],
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}},
        "internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose",
    });
    assert_eq!(spec, expected);
    let derived = server.seen.service.clone().unwrap().spec.unwrap();
    assert_eq!((derived.session_affinity.as_deref(), derived.traffic_distribution), (Some("None"), None));
    assert_eq!((derived.internal_traffic_policy.as_deref(), derived.selector), (Some("Cluster"), None));
    assert_eq!(derived.ports.unwrap().len(), 3);
}

/// Conformance 7: "An IP should be allocated for a ClusterSetIP ServiceImport for each IP family": as many addresses as
/// families, in the same order, of the families that this cluster has. None of them: `IPFamilyNotSupported`.
///
/// Mutations seen to fail: `filter` left out of `families`; the guard of `service::plan` left out.
#[test]
fn an_address_for_each_family_that_the_cluster_has() {
    let mut both = offer();
    both.traits.ip_families = vec![IpFamily::IPv6, IpFamily::IPv4];
    let mut server = Server::default();
    server.settle(&exported(&[("east", both.clone())]));
    assert_eq!(
        (&server.spec().ips, &server.spec().ip_families),
        (&vec!["fd00::1".into(), "10.96.0.1".into()], &vec!["IPv6".into(), "IPv4".into()])
    );
    let policy = server.seen.service.clone().unwrap().spec.unwrap().ip_family_policy;
    assert_eq!(policy.as_deref(), Some("PreferDualStack"));
    let mut server = Server { unsupported: BTreeSet::from([IpFamily::IPv6]), ..Server::default() };
    server.settle(&exported(&[("east", both)]));
    assert_eq!(
        (&server.spec().ips, &server.spec().ip_families),
        (&vec!["10.96.0.1".to_owned()], &vec!["IPv4".to_owned()])
    );
    let mut six = offer();
    six.traits.ip_families = vec![IpFamily::IPv6];
    let mut server = Server { unsupported: BTreeSet::from([IpFamily::IPv6]), ..Server::default() };
    server.settle(&exported(&[("east", six)]));
    assert_eq!(server.ready(), ("False".to_owned(), "IPFamilyNotSupported".to_owned()));
    assert!(server.seen.service.is_none() && server.spec().ips.is_empty());
}

/// Conformance 11 and 12: a headless service gives an import of type Headless, which has no address. When the oldest
/// export is another one, the type is, too (14).
///
/// Mutations seen to fail: the first `if` of `service::plan` left out.
#[test]
fn a_headless_import_has_no_address() {
    let headless = ServiceOffer { service_type: ServiceType::Headless, ..offer() };
    let mut server = Server::default();
    server.settle(&exported(&[("east", headless.clone())]));
    assert_eq!((server.spec().r#type.as_str(), server.spec().ips.len()), ("Headless", 0));
    assert_eq!(server.ready(), ("True".to_owned(), "Ready".to_owned()));
    assert!(server.seen.service.is_none());
    server.settle(&exported(&[("west", offer()), ("east", headless.clone())]));
    assert_eq!((server.spec().r#type.as_str(), server.spec().ips.len()), ("ClusterSetIP", 1));
    server.settle(&exported(&[("east", headless)]));
    assert_eq!((server.spec().r#type.as_str(), server.spec().ips.len()), ("Headless", 0));
    assert!(server.seen.service.is_none());
}

/// Conformance 13: "Exporting an ExternalName service should set ServiceExport Valid condition to False"; and the other
/// things that become of an export.
///
/// Mutations seen to fail: the reason of `NoService` is that of `External`; `plain` not counted.
#[test]
fn what_became_of_an_export_is_told_by_its_conditions() {
    for (state, want) in [
        (ExportState::External, ["Valid=False/InvalidServiceType", "Ready=False/Failed"]),
        (ExportState::NoService, ["Valid=False/NoService", "Ready=False/Pending"]),
        (ExportState::Refused("too long; shorten it".to_owned()), ["Valid=True/Valid", "Ready=False/Failed"]),
        (ExportState::Offered, ["Valid=True/Valid", "Ready=True/Exported"]),
    ] {
        let mut server = Server::with_export();
        server.settle(&Facts { export: own(state), ..Facts::default() });
        assert_eq!(server.conditions()[..2], want);
        assert!(server.seen.import.is_none());
    }
    let mut server = Server::with_export();
    let mut facts = Facts { export: own(ExportState::Offered), ..exported(&[("east", offer())]) };
    facts.export.as_mut().unwrap().plain = 1;
    server.settle(&facts);
    let message = "exported; 1 of 2 workloads behind the Service has no sidecar and are not offered";
    assert_eq!(server.message("Ready"), message.replace("and are", "and is"));
    let generation = server.seen.export.clone().unwrap().status.unwrap().conditions[0].observed_generation;
    assert_eq!(generation, Some(3));
}

/// Conformance 9, 10, 14 and 27: a conflict is on the export of every cluster, with its reasons and the winner. When it
/// is over, the import stays as it was, and only conditions that say something else have a new time.
///
/// Mutations seen to fail: `since` of `condition` always `None`; `conflict.reasons()` replaced by the first.
#[test]
fn a_conflict_is_on_every_export_and_its_end_leaves_the_import_alone() {
    let mut other = offer();
    other.ports.pop();
    other.exported.labels = [("tier".to_owned(), "x".to_owned())].into();
    let mut server = Server::with_export();
    let facts = |second: &ServiceOffer| {
        let both = exported(&[("west", offer()), ("east", second.clone())]);
        Facts { export: own(ExportState::Offered), ..both }
    };
    server.settle(&facts(&other));
    assert_eq!(server.conditions()[2], "Conflict=True/PortConflict,LabelsConflict");
    assert!(server.message("Conflict").contains("cluster 'west' exported it first and wins"));
    let times = |server: &Server| -> Vec<_> {
        let conditions = server.seen.export.clone().unwrap().status.unwrap().conditions;
        conditions.into_iter().map(|c| c.last_transition_time.0.as_second()).collect()
    };
    let before = times(&server);
    let writes = server.settle(&facts(&offer()));
    let alone = |w: &Write| matches!(w, Write::ExportStatus(_) | Write::Slice { .. });
    assert!(writes.iter().all(alone), "{writes:?}");
    assert_eq!(server.conditions()[2], "Conflict=False/NoConflicts");
    let after = times(&server);
    assert_eq!(before[..2], after[..2]);
    assert!(before[2] < after[2]);
}

/// Conformance 21: "Exporting a service should create an MCS EndpointSlice in the service's namespace in each cluster
/// with the required MCS labels. Unexporting should delete the EndpointSlice": one for each exporting cluster and family.
///
/// Mutations seen to fail: `HEADLESS` with another value; `take(ENDPOINTS_MAX)` left out; `!ready` not sorted by.
#[test]
fn there_is_a_slice_for_each_exporting_cluster() {
    let mut facts = exported(&[("west", offer()), ("east", offer())]);
    let backend = |n: u32, ready| Backend {
        address: std::net::Ipv4Addr::from(0x0a00_0000 + n).into(),
        port: 42,
        target: 4242,
        ready,
    };
    let many = (0..1500).map(|n| backend(n, n >= 1000)).collect();
    let gateway = Backend { address: "fd00::1".parse().unwrap(), port: 42, target: 15443, ready: true };
    facts.backends = [(cluster("west"), many), (cluster("east"), vec![gateway])].into();
    let mut server = Server::default();
    server.settle(&facts);
    let derived = derived_service(&name());
    let names: Vec<String> = server.seen.slices.keys().cloned().collect();
    assert_eq!(names, ["east-ipv4", "east-ipv6", "west-ipv4"].map(|end| format!("{derived}-{end}")));
    let west = &server.seen.slices[&names[2]];
    let labels = [
        (HEADLESS, ""),
        (MANAGED_BY, MESHFED),
        (SERVICE_NAME, "b"),
        (SLICE_MANAGED_BY, SLICE_MANAGER),
        (SOURCE_CLUSTER, "west"),
    ];
    assert_eq!(west.metadata.labels, Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()));
    assert_eq!((west.address_type.as_str(), west.endpoints.len()), ("IPv4", 1000));
    let ready = west.endpoints.iter().filter(|e| e.conditions.as_ref().unwrap().ready == Some(true)).count();
    assert_eq!(ready, 500, "those that are ready come first");
    let ports = |slice: &EndpointSlice| slice.ports.iter().flatten().map(|p| p.port).collect::<Vec<_>>();
    assert_eq!(ports(west), [Some(4242), Some(42)], "TCP as it is dialled, UDP as it is");
    assert_eq!(ports(&server.seen.slices[&names[1]]), [Some(15443), Some(42)]);
    assert!(server.seen.slices[&names[0]].endpoints.is_empty());
    facts.import = exported(&[("west", offer())]).import;
    server.settle(&facts);
    assert_eq!(server.seen.slices.len(), 1);
}

/// Conformance 26: "Only labels and annotations specified as exported in the ServiceExport should be propagated to the
/// ServiceImport"; what Kubernetes would not take, and what is ours, is nobody else's to say.
///
/// Mutations seen to fail: `may_be(k) && is_value(v)` answered `true`; `written` of `meta` answering nothing. Not
/// tried yet: `is_reserved` not asked.
#[test]
fn only_exported_labels_and_annotations_are_on_the_import() {
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let with = |labels: &[(&str, &str)]| {
        let annotations = pairs(&[("note", "a b"), ("", "x"), (DERIVED_SERVICE, "other")]);
        exported(&[("east", ServiceOffer { exported: Exported { labels: pairs(labels), annotations }, ..offer() })])
    };
    let mut server = Server::default();
    let others = ("kubernetes.io/service-name", "b");
    server.settle(&with(&[("tier", "x"), ("bad key", "x"), ("bad", "-"), (MANAGED_BY, "me"), others]));
    let meta = server.seen.import.clone().unwrap().metadata;
    assert_eq!(meta.labels, Some(pairs(&[("tier", "x"), (MANAGED_BY, MESHFED)])));
    assert_eq!(meta.annotations, Some(pairs(&[("note", "a b"), (DERIVED_SERVICE, &derived_service(&name()))])));
    // What somebody else has added stays; what we wrote and is exported no more is taken away.
    let import = server.seen.import.as_mut().unwrap();
    import.metadata.labels.as_mut().unwrap().insert("theirs".to_owned(), "x".to_owned());
    import.metadata.managed_fields = Some(vec![
        serde_json::from_value(serde_json::json!({
            "manager": "meshfed-agent", "operation": "Apply",
            "fieldsV1": {"f:metadata": {"f:labels": {"f:tier": {}, format!("f:{MANAGED_BY}"): {}}}},
        }))
        .unwrap(),
    ]);
    assert_eq!(server.plan(&with(&[("tier", "x")])), []);
    let writes = server.plan(&with(&[]));
    assert!(matches!(&writes[..], [Write::Import { new: false, .. }]), "{writes:?}");
}

/// An import keeps its addresses for as long as it lives: a derived Service that was deleted is made again with them.
///
/// Mutation seen to fail: `held` of `service::wanted` empty where there is no Service.
#[test]
fn a_deleted_service_is_made_again_with_the_same_address() {
    let mut server = Server::default();
    let facts = exported(&[("east", offer())]);
    server.settle(&facts);
    let before = server.spec().ips.clone();
    server.seen.service = None;
    let writes = server.settle(&facts);
    assert!(matches!(&writes[0], Write::Service { new: true, .. }), "{writes:?}");
    assert_eq!(server.spec().ips, before);
    assert_eq!(server.allocated, 1);
    server.seen.import = None;
    server.settle(&facts);
    assert_eq!(server.spec().ips, before);
}

/// Drift is repaired; what is written is the derived Service's alone.
///
/// Mutations seen to fail: any one comparison left out of `service::is_as_wanted`.
#[test]
fn a_derived_service_that_was_changed_is_repaired() {
    let facts = exported(&[("east", offer())]);
    let mut fresh = Server::default();
    fresh.settle(&facts);
    type Change = fn(&mut Service);
    let changes: [Change; 9] = [
        |s| s.spec.as_mut().unwrap().type_ = Some("NodePort".to_owned()),
        |s| s.metadata.labels = None,
        |s| s.spec.as_mut().unwrap().selector = Some([("app".to_owned(), "b".to_owned())].into()),
        |s| s.spec.as_mut().unwrap().external_ips = Some(vec!["192.0.2.1".to_owned()]),
        |s| s.spec.as_mut().unwrap().traffic_distribution = Some("PreferClose".to_owned()),
        |s| s.spec.as_mut().unwrap().session_affinity = Some("ClientIP".to_owned()),
        |s| {
            s.spec.as_mut().unwrap().ports.as_mut().unwrap().push(PortOfService { port: 1, ..PortOfService::default() })
        },
        |s| s.spec.as_mut().unwrap().internal_traffic_policy = Some("Local".to_owned()),
        |s| s.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].target_port = Some(IntOrString::Int(7)),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut seen = fresh.seen.clone();
        change(seen.service.as_mut().unwrap());
        let server = Server { seen, seconds: 99, ..Server::default() };
        let writes = server.plan(&facts);
        assert!(matches!(&writes[..], [Write::Service { new: false, .. }]), "{at}: {writes:?}");
    }
}

/// What is not ours is never written, and the status says what stands in the way.
///
/// Mutations seen to fail: `filter(|_| !foreign)` left out of `plan`; the obstacle not looked at by `ready`.
#[test]
fn what_is_not_ours_is_left_alone() {
    let facts = Facts { export: own(ExportState::Offered), ..exported(&[("east", offer())]) };
    let mut server = Server::with_export();
    let metadata = ObjectMeta { name: Some("b".into()), namespace: Some("shop".into()), ..ObjectMeta::default() };
    let foreign = ServiceImport { metadata, ..ServiceImport::default() };
    server.seen.import = Some(foreign.clone());
    let writes = server.settle(&facts);
    let touched =
        writes.iter().any(|w| matches!(w, Write::Import { .. } | Write::ImportStatus(_) | Write::Service { .. }));
    assert!(!touched, "{writes:?}");
    assert!(server.message("Ready").contains("is not ours"), "{}", server.message("Ready"));
    server.settle(&Facts::default());
    assert_eq!(server.seen.import, Some(foreign));
    let mut server = Server::default();
    server.settle(&facts);
    server.obstacle = Some(Obstacle { reason: "NameTaken", message: "delete it".to_owned() });
    server.settle(&facts);
    assert_eq!(server.ready(), ("False".to_owned(), "NameTaken".to_owned()));
}

/// What is there and cannot be exported is told as such: nobody is told to create a Service that he has, and what is left
/// out of an export is named in a condition of it.
///
/// Mutations seen to fail: `InvalidService` told as `NoService`; `remarks` left out of `Valid`; `unreachable` left out of
/// `exported`.
#[test]
fn an_export_says_what_of_it_is_not_taken() {
    let mut server = Server::with_export();
    let said = |server: &mut Server, facts: ExportFacts| -> Vec<(String, String, String)> {
        server.settle(&Facts { export: Some(facts), ..exported(&[("east", offer())]) });
        let status = server.seen.export.clone().unwrap().status.unwrap();
        status.conditions.into_iter().map(|c| (c.type_, c.reason, c.message)).collect()
    };
    let refused =
        said(&mut server, ExportFacts::only(ExportState::InvalidService("has more than 256 ports".to_owned())));
    assert!(refused[0].1 == "InvalidService" && refused[0].2.contains("more than 256 ports"), "{refused:?}");
    assert!(!refused[0].2.contains("create"), "{refused:?}");
    let remarks = vec!["spec.exportedLabels.k: is no value of a label".to_owned()];
    let unreachable = Some("gateway meshfed-system/gw is not offered".to_owned());
    let good = said(&mut server, ExportFacts { remarks, unreachable, ..ExportFacts::only(ExportState::Offered) });
    assert!(good[0].1 == "Valid" && good[0].2.ends_with("exportedLabels.k: is no value of a label"), "{good:?}");
    assert!(good[1].1 == "Exported" && good[1].2.contains("no other network reaches it: gateway"), "{good:?}");
}

/// A name that no Service can have is told once.
///
/// Mutation seen to fail: `same` answered `false`.
#[test]
fn an_export_whose_name_no_service_can_have_is_told_so() {
    let mut export = Server::with_export().seen.export.unwrap();
    export.metadata.name = Some("a.b.c".to_owned());
    let at = |second| Time(Timestamp::from_second(second).unwrap());
    let told = misnamed(&export, &at(1)).unwrap();
    export.status = told.status;
    let conditions = &export.status.as_ref().unwrap().conditions;
    assert_eq!((conditions[0].reason.as_str(), conditions[0].status.as_str()), ("InvalidName", "False"));
    assert!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "False"), "{conditions:?}");
    assert_eq!(misnamed(&export, &at(2)), None);
}

/// An export that is being deleted says so once; one that is simply gone is not written to.
///
/// Mutations seen to fail: `deletion_timestamp.is_some()` answered `true`; the message of `ending` that of `misnamed`.
#[test]
fn an_export_that_is_being_deleted_says_so() {
    let mut server = Server::with_export();
    server.settle(&Facts { export: own(ExportState::Offered), ..exported(&[("east", offer())]) });
    assert_eq!(server.plan(&exported(&[("east", offer())])), [], "its watch has not told yet that it is gone");
    let ends = Time(Timestamp::from_second(9).unwrap());
    server.seen.export.as_mut().unwrap().metadata.deletion_timestamp = Some(ends);
    server.settle(&exported(&[("west", offer())]));
    let wanted = ["Valid=False/Terminating", "Ready=False/Terminating", "Conflict=False/NoConflicts"];
    assert_eq!(server.conditions(), wanted);
    assert!(server.message("Ready").contains("metadata.finalizers"), "{}", server.message("Ready"));
}

/// What stands in the way of a slice is told on a headless import, too, and one that lacks an address says that first.
///
/// Mutation seen to fail: a headless import answered before the obstacle in `ready`.
#[test]
fn an_obstacle_is_told_on_every_import() {
    let way = Obstacle { reason: "NameTaken", message: "EndpointSlice shop/x is not ours".to_owned() };
    let headless = ServiceOffer { service_type: ServiceType::Headless, ..offer() };
    let mut server = Server { obstacle: Some(way), ..Server::default() };
    server.settle(&exported(&[("east", headless.clone())]));
    assert_eq!(server.ready(), ("False".to_owned(), "NameTaken".to_owned()));
    server.obstacle = None;
    server.settle(&exported(&[("east", headless)]));
    assert_eq!(server.ready(), ("True".to_owned(), "Ready".to_owned()));
}

/// A slice of ours that somebody has put behind a Service of Kubernetes is taken away and made anew: its label is no field of
/// ours, and kube-proxy would send that Service's clients to where the import leads.
///
/// Mutation seen to fail: `is_behind_a_service` answered `false`.
#[test]
fn a_slice_that_was_put_behind_a_service_is_made_anew() {
    let mut server = Server::default();
    let facts = exported(&[("east", offer())]);
    server.settle(&facts);
    let (name, slice) = server.seen.slices.first_key_value().map(|(k, v)| (k.clone(), v.clone())).unwrap();
    let labels = server.seen.slices.get_mut(&name).unwrap().metadata.labels.as_mut().unwrap();
    labels.insert("kubernetes.io/service-name".to_owned(), "b".to_owned());
    let writes = server.settle(&facts);
    assert!(matches!(&writes[0], Write::Delete { kind: Deleted::Slice, .. }), "{writes:?}");
    assert!(matches!(&writes[1], Write::Slice { new: true, .. }), "{writes:?}");
    assert_eq!(server.seen.slices[&name].metadata.labels, slice.metadata.labels);
}
