//! Pure. The borders of ServiceExport and ExportPolicy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_model::export::ClusterSelector;
use meshfed_model::names::ServiceName;

use super::common::Reader;
use crate::dangling::place_of_cluster;
use crate::error::Code;
use crate::object::{ExportObject, ExportPolicyObject, Labels, Scope, ServicePattern};
use crate::qualified::{is_key, is_reserved, is_value};
use crate::tree::Node;

/// The most services, clusters and labels that one policy names: no more fit into one message, and a policy that cannot
/// be sent would end every session.
const PATTERNS_MAX: usize = 256;
const PATTERN_FORM: &str = "lower-case letters, digits, '-' and '*', which stands for any run of characters";

pub(super) fn read_export(r: &mut Reader<'_>) -> Option<ExportObject> {
    let service = r.checked("metadata.name", ServiceName::new(&*r.key.namespace, &*r.key.name))?;
    if let Some(metadata) = r.get(&["metadata", "name"]) {
        r.mark("metadata.name", metadata);
    }
    let labels = exported(r, "exportedLabels", |value| {
        (!is_value(value)).then_some("is no value of a label: at most 63 letters, digits, '-', '_' and '.'")
    });
    let annotations = exported(r, "exportedAnnotations", |_| None);
    Some(ExportObject { service, labels, annotations })
}

/// What an import can carry of what an export adds. The rest is told of and left out: traffic is worth more than a label.
fn exported(r: &mut Reader<'_>, field: &str, wrong: impl Fn(&str) -> Option<&'static str>) -> Labels {
    let Some(map) = r.get(&["spec", field]) else { return Labels::default() };
    let mut taken = Vec::new();
    for entry in map.entries() {
        let Some(value) = entry.value.text() else { continue };
        let why = match &*entry.key {
            key if !is_key(key) => {
                Some("is no key that Kubernetes takes: [DOMAIN/]NAME, the name at most 63 characters")
            }
            key if is_reserved(key) => {
                Some("has a meaning of its own to Kubernetes, to meshfed or to deployment tools")
            }
            _ => wrong(value),
        };
        match why {
            None => taken.push((Arc::from(&*entry.key), Arc::from(value))),
            Some(why) => {
                let shown: String = entry.key.chars().take(80).collect();
                let remedy =
                    Some("imports are made without it; give it another name or value, or take it away".to_owned());
                r.find(Code::NotCopied, entry.place, &format!("spec.{field}.{shown}"), why.to_owned(), remedy);
            }
        }
    }
    taken.into_iter().collect()
}

pub(super) fn read_policy(r: &mut Reader<'_>) -> Option<ExportPolicyObject> {
    let mut services = Vec::new();
    match r.get(&["spec", "services"]) {
        None => r.missing("spec.services", "name the services, say [{namespace: shop, name: \"*\"}]"),
        Some(list) => {
            if list.is_empty_list() {
                r.bad(list, "spec.services", "names no service", "say [{namespace: shop, name: \"*\"}]");
            }
            limit(r, list, "spec.services");
            for (i, item) in list.items().iter().take(PATTERNS_MAX).enumerate() {
                let namespace = pattern(r, item, "namespace", &format!("spec.services[{i}].namespace"));
                let name = pattern(r, item, "name", &format!("spec.services[{i}].name"));
                if let Some(namespace) = &namespace
                    && r.scope == Scope::Member
                    && **namespace != *r.key.namespace
                {
                    let node = item.get("namespace").unwrap_or(item);
                    let message = format!("a policy of namespace {} speaks for that namespace only", r.key.namespace);
                    let remedy = Some("put it into the namespace of the services, or into the hub's".to_owned());
                    let field = format!("spec.services[{i}].namespace");
                    r.find(Code::NamespaceNotAllowed, node.place, &field, message, remedy);
                }
                services.extend(namespace.zip(name).map(|(namespace, name)| ServicePattern { namespace, name }));
            }
        }
    }
    let mut to = ClusterSelector { clusters: BTreeSet::new(), labels: BTreeMap::new() };
    match r.get(&["spec", "to"]) {
        None => r.missing("spec.to", "write to: {clusters: [NAME]} or {labels: {KEY: VALUE}}; to: {} is nobody"),
        Some(selector) => {
            if let Some(list) = selector.get("clusters") {
                limit(r, list, "spec.to.clusters");
                for (i, item) in list.items().iter().take(PATTERNS_MAX).enumerate() {
                    if let Some(name) = checked_pattern(r, item, &format!("spec.to.clusters[{i}]")) {
                        r.mark(place_of_cluster(&name), item);
                        to.clusters.insert(name);
                    }
                }
            }
            if let Some(labels) = selector.get("labels") {
                r.mark("spec.to.labels", labels);
                if labels.entries().len() > PATTERNS_MAX {
                    let message = format!("has more than {PATTERNS_MAX} labels");
                    r.find(Code::TooLarge, labels.place, "spec.to.labels", message, None);
                }
            }
            for entry in selector.get("labels").map(Node::entries).unwrap_or_default() {
                to.labels.extend(entry.value.text().map(|text| (entry.key.to_string(), text.to_owned())));
            }
        }
    }
    Some(ExportPolicyObject { namespace: Arc::clone(&r.key.namespace), name: Arc::clone(&r.key.name), services, to })
}

fn limit(r: &mut Reader<'_>, list: &Node, field: &str) {
    if list.items().len() > PATTERNS_MAX {
        r.find(Code::TooLarge, list.place, field, format!("has more than {PATTERNS_MAX} items"), None);
    }
}

fn pattern(r: &mut Reader<'_>, item: &Node, key: &str, field: &str) -> Option<String> {
    let Some(node) = item.get(key) else {
        r.bad(item, field, "is required", "\"*\" stands for all");
        return None;
    };
    r.mark(field.to_owned(), node);
    checked_pattern(r, node, field)
}

fn checked_pattern(r: &mut Reader<'_>, node: &Node, field: &str) -> Option<String> {
    r.parsed(node, field, PATTERN_FORM, |text| {
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'*');
        if !text.is_empty() && text.len() <= 63 && text.bytes().all(ok) {
            Ok(text.to_owned())
        } else {
            Err(format!("{:?} is no name or pattern", text.chars().take(80).collect::<String>()))
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::error::Code;
    use crate::object::{Body, Scope};
    use crate::read::read_object;

    /// What an import cannot carry, or what would mean something to others there, is left out with a word, and the export
    /// holds: it is taken with the rest.
    ///
    /// Mutations seen to fail: `is_reserved` not asked; `wrong` not asked; the finding left out.
    #[test]
    fn what_no_import_can_carry_is_told_and_the_rest_is_exported() {
        let object = serde_json::json!({
            "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
            "metadata": {"name": "b", "namespace": "shop"},
            "spec": {
                "exportedLabels": {"tier": "one", "k": "v".repeat(200), "k2": "spaces here", "bad key!!": "v",
                    "multicluster.kubernetes.io/service-name": "zz"},
                "exportedAnnotations": {"note": "any text at all", "federation.meshfed.io/service-import": "z"},
            },
        });
        let found = read_object(&"f".into(), object, Scope::Member, None).unwrap();
        let faults: Vec<_> = found.errors.iter().map(|e| (e.code, e.field.as_deref().unwrap_or_default())).collect();
        let mut wanted = [
            (Code::NotCopied, "spec.exportedAnnotations.federation.meshfed.io/service-import"),
            (Code::NotCopied, "spec.exportedLabels.bad key!!"),
            (Code::NotCopied, "spec.exportedLabels.k"),
            (Code::NotCopied, "spec.exportedLabels.k2"),
            (Code::NotCopied, "spec.exportedLabels.multicluster.kubernetes.io/service-name"),
        ];
        let mut told = faults.clone();
        told.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(told, wanted);
        assert!(found.errors.iter().all(|e| !e.is_error() && e.remedy.is_some()));
        let object = found.declared.into_values().next().unwrap().object.unwrap();
        let Body::ServiceExport(export) = &object.body else { panic!() };
        let keys = |labels: &crate::object::Labels| labels.iter().map(|(k, _)| k.to_string()).collect::<Vec<_>>();
        assert_eq!(
            (keys(&export.labels), keys(&export.annotations)),
            (vec!["tier".to_owned()], vec!["note".to_owned()])
        );
    }

    /// A name that no Service can have is told of with the namespace: it is one object's fault.
    ///
    /// Mutation seen to fail: the namespace left out of `identity`.
    #[test]
    fn a_name_that_no_service_can_have_is_told_with_its_namespace() {
        let object = serde_json::json!({"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
            "metadata": {"name": "a.b.c", "namespace": "bad"}});
        let found = read_object(&"f".into(), object, Scope::Member, None).unwrap();
        let [fault] = found.errors.as_slice() else { panic!("{found:?}") };
        assert_eq!((fault.namespace.as_deref(), fault.name.as_deref()), (Some("bad"), Some("a.b.c")));
    }
}
