//! Pure. The borders of ServiceExport and ExportPolicy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_model::export::ClusterSelector;
use meshfed_model::names::ServiceName;

use super::common::Reader;
use crate::dangling::place_of_cluster;
use crate::error::Code;
use crate::object::{ExportObject, ExportPolicyObject, Scope, ServicePattern};
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
    Some(ExportObject {
        service,
        labels: r.labels(&["spec", "exportedLabels"]),
        annotations: r.labels(&["spec", "exportedAnnotations"]),
    })
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
            if let Some(labels) = selector.get("labels").filter(|labels| labels.entries().len() > PATTERNS_MAX) {
                let message = format!("has more than {PATTERNS_MAX} labels");
                r.find(Code::TooLarge, labels.place, "spec.to.labels", message, None);
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
