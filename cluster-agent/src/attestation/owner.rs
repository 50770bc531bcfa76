//! Pure. What metrics call a pod, by what the API server says of it: its labels, and the controller that owns it. The
//! rules are Istio's: a pod counts as one of the Deployment or CronJob that people know, not of what that makes.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use meshfed_model::metadata::WorkloadMetadata;

/// What the controller of Deployments appends to a ReplicaSet's name.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// What the controller of Argo Rollouts appends.
const ROLLOUT_HASH: &str = "rollouts-pod-template-hash";
/// Digits that the controller of CronJobs appends to a Job's name: the scheduled time, in minutes (in seconds, before
/// Kubernetes 1.21).
const SCHEDULE_DIGITS: std::ops::RangeInclusive<usize> = 8..=10;

/// What metrics call this pod.
#[must_use]
pub(super) fn metadata(pod: &Pod) -> WorkloadMetadata {
    let meta = &pod.metadata;
    let name = workload(meta).or(meta.name.as_deref()).unwrap_or_default();
    WorkloadMetadata::of(name, |key| label(meta, key))
}

fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// The name of what a user made that this pod comes of; none of a pod that has no controller.
fn workload(meta: &ObjectMeta) -> Option<&str> {
    let owner: &OwnerReference = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let without_hash = |key| owner.name.strip_suffix(label(meta, key)?)?.strip_suffix('-');
    let made_by = match owner.kind.as_str() {
        "ReplicaSet" => without_hash(TEMPLATE_HASH).or_else(|| without_hash(ROLLOUT_HASH)),
        "Job" => owner.name.rsplit_once('-').filter(|(_, time)| is_time(time)).map(|(name, _)| name),
        "ReplicationController" => label(meta, "deploymentconfig"),
        _ => None,
    };
    Some(made_by.filter(|name| !name.is_empty()).unwrap_or(&owner.name))
}

fn is_time(text: &str) -> bool {
    SCHEDULE_DIGITS.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(kind: &str, owner: &str, labels: serde_json::Value) -> String {
        let owner = serde_json::json!([
            { "apiVersion": "v1", "kind": "Node", "name": "no-controller", "uid": "1" },
            { "apiVersion": "x/v1", "kind": kind, "name": owner, "uid": "2", "controller": true },
        ]);
        let pod = serde_json::json!({ "metadata": { "name": "p-1", "labels": labels, "ownerReferences": owner } });
        metadata(&serde_json::from_value(pod).unwrap()).workload.to_string()
    }

    /// Mutations seen to fail: `controller` is not asked; the hash is not taken off; a Job's last part is taken off
    /// whatever it is; a pod without a controller has no name.
    #[test]
    fn a_pod_counts_as_what_people_made() {
        let none = serde_json::json!({});
        let hash = serde_json::json!({ "pod-template-hash": "7d9f" });
        assert_eq!(name("ReplicaSet", "b-7d9f", hash.clone()), "b");
        assert_eq!(name("ReplicaSet", "b-7d9f", none.clone()), "b-7d9f", "a ReplicaSet that a user made");
        assert_eq!(name("ReplicaSet", "-7d9f", hash.clone()), "-7d9f");
        assert_eq!(name("ReplicaSet", "b-7d9f", serde_json::json!({ "rollouts-pod-template-hash": "7d9f" })), "b");
        assert_eq!(name("StatefulSet", "db-7d9f", hash), "db-7d9f");
        assert_eq!(name("DaemonSet", "agent", none.clone()), "agent");
        assert_eq!(name("Job", "nightly-29012345", none.clone()), "nightly");
        assert_eq!(name("Job", "migrate-2", none.clone()), "migrate-2");
        assert_eq!(name("Job", "migrate-schema1", none), "migrate-schema1");
        let config = serde_json::json!({ "deploymentconfig": "b" });
        assert_eq!(name("ReplicationController", "b-3", config), "b");
        let alone = serde_json::json!({ "metadata": { "name": "p-1", "labels": { "app": "b", "version": "v2" } } });
        let alone = metadata(&serde_json::from_value(alone).unwrap());
        assert_eq!(alone.to_string(), "p-1;b;v2;b;v2");
        assert_eq!(metadata(&Pod::default()), WorkloadMetadata::of("", |_| None), "nothing is known of it");
    }
}
