use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::DynamicObject;
use kube::core::Status;
use serde_json::json;

use super::*;
use crate::last_good::{Change, LastGood};
use crate::object::Body;

fn object(value: serde_json::Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

fn service(namespace: &str, name: &str, port: u16) -> DynamicObject {
    object(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "uid": "u", "resourceVersion": "7", "generation": 1,
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x".repeat(1 << 20)},
            "managedFields": [{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {}}}]},
        "spec": {"ports": [{"port": port, "protocol": "TCP", "targetPort": port, "aLaterField": 1}],
            "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "type": "ClusterIP", "aLaterField": {}},
        "status": {"loadBalancer": {}}
    }))
}

struct World {
    kinds: Kinds,
    last_good: LastGood,
    now: Instant,
}

impl World {
    fn new(selection: Selection, kinds: &[Kind]) -> Self {
        let last_good = LastGood::new(selection.scope, None);
        // A moment far enough from the beginning of time.
        let now = std::sync::LazyLock::force(&NOW).to_owned();
        Self { kinds: Kinds::new(selection, kinds.to_vec(), []), last_good, now }
    }
    /// What each change is, in order.
    fn take(&mut self, kind: Kind, steps: impl IntoIterator<Item = Step>) -> Vec<String> {
        let mut files = Vec::new();
        for step in steps {
            self.kinds.take(kind, step, self.now, &mut files);
        }
        self.last_good.apply(files).iter().map(shown).collect()
    }
}

#[allow(clippy::disallowed_methods, reason = "a moment to count from")]
static NOW: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

fn shown(change: &Change) -> String {
    match change {
        Change::Put(object) => {
            let Body::Service(s) = &object.body else { return object.key().to_string() };
            format!("{}={}", object.key(), s.ports[0].port.port)
        }
        Change::Removed(key) => format!("-{key}"),
    }
}

fn member() -> Selection {
    Selection { scope: Scope::Member, fleet_namespace: Some("meshfed-hub".into()) }
}

fn api(code: u16, reason: &str) -> kube::Error {
    kube::Error::Api(Status::failure("no", reason).with_code(code).boxed())
}

/// What a complete list does not have is gone, and nothing else, however often a list begins and fails.
///
/// Mutation seen to fail: `watched.known = listed` left out.
#[test]
fn only_what_a_complete_list_lacks_is_gone() {
    let mut w = World::new(member(), &[Kind::Service]);
    let listed =
        |port| [Step::Begin, Step::Listed(service("shop", "a", port)), Step::Listed(service("shop", "b", port))];
    assert_eq!(w.take(Kind::Service, listed(1)), ["Service shop/a=1", "Service shop/b=1"]);
    assert!(!w.kinds.is_settled(w.now));
    w.take(Kind::Service, [Step::Complete]);
    assert!(w.kinds.is_settled(w.now) && w.last_good.errors().is_empty(), "{:?}", w.last_good.errors());
    // A list that breaks off after its first page, and one that begins again.
    let expired = || Step::Failed(watcher::Error::InitialListFailed(api(410, "Expired")));
    assert_eq!(
        w.take(Kind::Service, [Step::Begin, Step::Listed(service("shop", "b", 2)), expired()]),
        ["Service shop/b=2"]
    );
    assert_eq!(w.take(Kind::Service, [Step::Begin, expired(), Step::Begin]), Vec::<String>::new());
    // The same again is no change; what is not there is gone.
    assert_eq!(
        w.take(
            Kind::Service,
            [Step::Listed(service("shop", "b", 2)), Step::Listed(service("shop", "c", 3)), Step::Complete]
        ),
        ["-Service shop/a", "Service shop/c=3"]
    );
    assert_eq!(
        w.take(Kind::Service, [Step::Gone(service("shop", "c", 3)), Step::Gone(service("x", "y", 1))]),
        ["-Service shop/c"]
    );
    let (_, watched) = w.kinds.iter().next().unwrap();
    assert_eq!((watched.counts().objects, watched.counts().lists, watched.counts().errors), (1, 2, 2));
}

/// An export that is being deleted and held by a finalizer is gone, also where it is found so; a Service is not before it is
/// gone.
///
/// Mutations seen to fail: `is_ending` that looks at the kind alone; `Put` of one that ends taken as it is; `Listed`
/// likewise.
#[test]
fn an_export_that_is_being_deleted_is_gone() {
    let ending = |kind: Kind, ends: bool| {
        let mut metadata = json!({"name": "a", "namespace": "shop", "finalizers": ["example.org/hold"]});
        if ends {
            metadata["deletionTimestamp"] = json!("2026-11-29T10:00:00Z");
        }
        let spec = json!({"ports": [{"port": 1}]});
        let spec = if kind == Kind::Service { spec } else { json!({}) };
        object(json!({"apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": metadata, "spec": spec}))
    };
    let (export, service) = (Kind::ServiceExport, Kind::Service);
    let mut w = World::new(member(), &[service, export]);
    for kind in [service, export] {
        w.take(kind, [Step::Begin, Step::Listed(ending(kind, false)), Step::Complete]);
    }
    let gone = ["-ServiceExport shop/a"];
    assert_eq!(w.take(export, [Step::Put(ending(export, true)), Step::Put(ending(export, true))]), gone);
    assert_eq!(w.take(export, [Step::Put(ending(export, false))]).len(), 1);
    assert_eq!(w.take(export, [Step::Begin, Step::Listed(ending(export, true)), Step::Complete]), gone);
    let all = [Step::Put(ending(service, true)), Step::Begin, Step::Listed(ending(service, true)), Step::Complete];
    assert_eq!(w.take(service, all), Vec::<String>::new());
}

/// What was known before a restart stands until the first complete list.
///
/// Mutation seen to fail: `watched.known.insert(path)` left out of `Kinds::new`.
#[test]
fn what_was_deleted_while_nobody_watched_is_gone_with_the_first_list() {
    let mut w = World::new(member(), &[Kind::Service]);
    w.kinds = Kinds::new(member(), [Kind::Service], [Arc::from("Service/shop/old"), Arc::from("Pod/shop/x")]);
    let mut files = Vec::new();
    w.kinds.take(Kind::Service, Step::Begin, w.now, &mut files);
    assert!(files.is_empty());
    w.kinds.take(Kind::Service, Step::Complete, w.now, &mut files);
    assert!(matches!(&files[..], [FileChange::Removed { path }] if &**path == "Service/shop/old"), "{files:?}");
}

/// A kind without definition is waited for by nobody, one without permission is for as long as an API server may take that
/// has just started and forbids everything; both are told of until they are there.
///
/// Mutations seen to fail: `Lack::Forbidden` settles at once, or never; `first` is the last time; `watched.fault = None`
/// left out of `take`.
#[test]
fn a_missing_kind_holds_nobody_up() {
    let mut w = World::new(member(), &[Kind::Service, Kind::ExportPolicy, Kind::Mesh]);
    w.take(Kind::Service, [Step::Begin, Step::Complete]);
    let refused = watcher::Error::InitialListFailed(kube::Error::LinesCodecMaxLineLengthExceeded);
    w.take(Kind::Mesh, [Step::Failed(refused)]);
    w.take(Kind::ExportPolicy, [Step::Failed(watcher::Error::InitialListFailed(api(404, "NotFound")))]);
    assert!(!w.kinds.is_settled(w.now), "an API server that does not answer may still have the kind");
    let forbidden = || Step::Failed(watcher::Error::InitialListFailed(api(403, "Forbidden")));
    w.take(Kind::Mesh, [forbidden()]);
    assert!(!w.kinds.is_settled(w.now), "it may not have read its roles yet");
    assert!(w.kinds.iter().all(|(_, watched)| watched.is_answered()), "who asks once has an answer");
    w.now += FORBIDDEN_FOR / 2;
    w.take(Kind::Mesh, [forbidden()]);
    w.now += FORBIDDEN_FOR / 2;
    assert!(w.kinds.is_settled(w.now));
    let faults: Vec<String> = w.kinds.faults(w.now).iter().map(ToString::to_string).collect();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(
        faults[0].contains("no kind ExportPolicy (federation.meshfed.io/v1alpha1)")
            && faults[0].contains("meshfed-crds")
    );
    assert!(faults[1].contains("Mesh") && faults[1].contains("permissions of the chart"), "{faults:?}");
    w.take(Kind::ExportPolicy, [Step::Begin]);
    assert_eq!((w.kinds.faults(w.now).len(), w.kinds.is_settled(w.now)), (2, true), "another try is no answer");
    w.take(Kind::ExportPolicy, [Step::Complete]);
    assert_eq!(w.kinds.faults(w.now).len(), 1);
}

/// Mutation seen to fail: `expired` answered `false`.
#[test]
fn a_watch_that_failed_once_is_told_of_for_a_while() {
    let mut w = World::new(member(), &[Kind::Service]);
    w.take(Kind::Service, [Step::Begin, Step::Complete]);
    w.take(Kind::Service, [Step::Failed(watcher::Error::WatchStartFailed(api(503, "ServiceUnavailable")))]);
    assert_eq!(w.kinds.faults(w.now).len(), 1);
    assert!(w.kinds.faults(w.now + TOLD_FOR).is_empty(), "nobody says that a watch goes on");
    assert!(w.kinds.is_settled(w.now));
    w.now += Duration::from_secs(1);
    assert_eq!(w.kinds.iter().next().unwrap().1.counts().errors, 1);
}

/// Mutation seen to fail: `is_fleets` answered `false`.
#[test]
fn the_fleets_policies_are_not_a_members() {
    let policy = |namespace: &str| {
        object(json!({"apiVersion": "federation.meshfed.io/v1alpha1", "kind": "ExportPolicy",
            "metadata": {"name": "p", "namespace": namespace},
            "spec": {"services": [{"namespace": namespace, "name": "*"}], "to": {}}, "status": {"conditions": []}}))
    };
    let mut w = World::new(member(), &[Kind::ExportPolicy]);
    let steps = [Step::Begin, Step::Listed(policy("meshfed-hub")), Step::Listed(policy("shop")), Step::Complete];
    assert_eq!(w.take(Kind::ExportPolicy, steps), ["ExportPolicy shop/p"]);
    assert_eq!(w.take(Kind::ExportPolicy, [Step::Put(policy("meshfed-hub"))]), Vec::<String>::new());
    assert!(w.last_good.errors().is_empty(), "{:?}", w.last_good.errors());
}

/// Poison: what the schema of a server lets through. Each is refused by name or taken, and its neighbour stands.
///
/// Mutation seen to fail: `keep` left out of `reduce`.
#[test]
fn poison_harms_nobody_else() {
    let mut w = World::new(member(), &[Kind::Service, Kind::Pod, Kind::ServiceExport]);
    let pod = |value: serde_json::Value| object(value);
    let nulls = pod(json!({"metadata": {"name": "nulls", "namespace": "shop", "labels": null, "annotations": null},
        "spec": {"nodeName": null, "containers": null}, "status": null}));
    let odd = pod(
        json!({"metadata": {"name": "odd", "namespace": "shop"}, "spec": {"restartPolicy": "NoSuchPolicy", "schedulerName": 7},
        "status": {"phase": "Unheard", "conditions": [{"type": "Ready", "status": "Perhaps"}]}}),
    );
    let long = "a".repeat(253);
    let limit = pod(json!({"metadata": {"name": long, "namespace": "a".repeat(63)}, "spec": {}}));
    let over = pod(json!({"metadata": {"name": "a".repeat(254), "namespace": "shop"}, "spec": {}}));
    let dressed = pod(
        json!({"metadata": {"name": "quoted", "namespace": "shop", "labels": {"x": "\u{7f}\u{1f600}\u{2028}- a: &b *c"}}, "spec": {}}),
    );
    let mut deep = json!(1);
    for _ in 0..80 {
        deep = json!([deep]);
    }
    let nested = object(json!({"metadata": {"name": "deep", "namespace": "shop"}, "spec": {"exportedLabels": deep}}));
    let large = object(json!({"metadata": {"name": "large", "namespace": "shop"},
        "spec": {"exportedAnnotations": {"a": "x".repeat(1 << 20)}}}));
    w.take(
        Kind::Pod,
        [
            Step::Begin,
            Step::Listed(nulls),
            Step::Listed(odd),
            Step::Listed(limit),
            Step::Listed(over),
            Step::Listed(dressed),
            Step::Complete,
        ],
    );
    w.take(Kind::ServiceExport, [Step::Begin, Step::Listed(nested), Step::Listed(large), Step::Complete]);
    assert_eq!(
        w.take(Kind::Service, [Step::Begin, Step::Listed(service("shop", "b", 1)), Step::Complete]),
        ["Service shop/b=1"]
    );
    let faults: Vec<(Code, String)> = w
        .last_good
        .errors()
        .into_iter()
        .map(|e| (e.code, e.file.unwrap_or_default().chars().take(30).collect()))
        .collect();
    assert_eq!(
        faults,
        [
            (Code::InvalidValue, "Pod/shop/aaaaaaaaaaaaaaaaaaaaa".to_owned()),
            (Code::TooLarge, "ServiceExport/shop/deep".to_owned()),
            (Code::TooLarge, "ServiceExport/shop/large".to_owned()),
        ]
    );
    assert_eq!(w.last_good.len(), 5);
    let quoted = w.last_good.objects().find(|o| &*o.key().name == "quoted").unwrap();
    let Body::Pod(quoted) = &quoted.body else { panic!() };
    assert_eq!(quoted.labels.get("x").unwrap(), "\u{7f}\u{1f600}\u{2028}- a: &b *c");
    // An object that becomes invalid keeps its last good version; its fault names it, without a line.
    let broken = object(json!({"metadata": {"name": "b", "namespace": "shop"}, "spec": {"ports": [{"port": 70000}]}}));
    assert_eq!(w.take(Kind::Service, [Step::Put(broken)]), Vec::<String>::new());
    let fault = w.last_good.errors().into_iter().find(|e| e.kind.as_deref() == Some("Service")).unwrap();
    assert_eq!((fault.namespace.as_deref(), fault.name.as_deref(), fault.line), (Some("shop"), Some("b"), None));
    assert!(
        fault.to_string().starts_with("Service/shop/b: error[MF2004]: Service shop/b: spec.ports[0].port"),
        "{fault}"
    );
}
