//! Pure. Metadata of what is ours, and how it is told from what is not.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meshfed_model::names::ServiceName;

use crate::mirror::names::{FIELD_MANAGER, MANAGED_BY, MESHFED};

/// Whether an object carries our label.
#[must_use]
pub fn is_ours(meta: &ObjectMeta) -> bool {
    meta.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|by| by == MESHFED)
}

/// Metadata of an object in the namespace of `import`. Our label is added; `uid` holds the write to the object that was
/// seen.
pub(super) fn ours(
    import: &ServiceName,
    name: String,
    uid: Option<String>,
    mut labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
) -> ObjectMeta {
    labels.insert(MANAGED_BY.to_owned(), MESHFED.to_owned());
    ObjectMeta {
        name: Some(name),
        namespace: Some(import.namespace.to_string()),
        uid,
        labels: Some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        ..ObjectMeta::default()
    }
}

/// Which object it is, for a write of its status.
pub(super) fn identity(meta: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        ..ObjectMeta::default()
    }
}

/// Whether labels and annotations are as wanted: what others have added stays, what we wrote before and want no more
/// does not.
pub(super) fn same(seen: &ObjectMeta, wanted: &ObjectMeta) -> bool {
    holds(seen, seen.labels.as_ref(), wanted.labels.as_ref(), "f:labels")
        && holds(seen, seen.annotations.as_ref(), wanted.annotations.as_ref(), "f:annotations")
}

fn holds(
    meta: &ObjectMeta,
    seen: Option<&BTreeMap<String, String>>,
    wanted: Option<&BTreeMap<String, String>>,
    field: &str,
) -> bool {
    let (none, empty) = (BTreeMap::new(), BTreeMap::new());
    let (seen, wanted) = (seen.unwrap_or(&none), wanted.unwrap_or(&empty));
    wanted.iter().all(|(k, v)| seen.get(k) == Some(v)) && written(meta, field).iter().all(|k| wanted.contains_key(*k))
}

/// The keys of labels or annotations that we have applied (`metadata.managedFields`).
fn written<'a>(meta: &'a ObjectMeta, field: &str) -> BTreeSet<&'a str> {
    let managers = meta.managed_fields.iter().flatten();
    let ours = managers.filter(|m| m.manager.as_deref() == Some(FIELD_MANAGER) && m.subresource.is_none());
    let fields = ours.filter_map(|m| m.fields_v1.as_ref()?.0.get("f:metadata")?.get(field)?.as_object());
    fields.flat_map(|map| map.keys()).filter_map(|key| key.strip_prefix("f:")).collect()
}
