//! Pure. Whose the spec of a Cluster is, by what the API server keeps of its writers (server-side apply).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt as _;
use meshfed_crds::custom::{Cluster, ClusterSpec};

/// Who writes what the hub writes.
pub(super) const FIELD_MANAGER: &str = "meshfed-federator";

/// How a writer writes that owns what it has applied, and lets go of what it leaves out.
const APPLY: &str = "Apply";

/// Whether a writer has a part of the spec.
fn has_spec(entry: &ManagedFieldsEntry) -> bool {
    let spec = entry.fields_v1.as_ref().and_then(|fields| fields.0.get("f:spec"));
    entry.subresource.as_deref().unwrap_or_default().is_empty() && spec.is_some()
}

fn is_hubs(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(FIELD_MANAGER)
}

/// Whether the hub made the spec and nobody has applied one since. Of what is not known to be ours, nothing is written.
pub(super) fn is_ours(cluster: &Cluster) -> bool {
    let mut writers = cluster.managed_fields().iter().filter(|entry| has_spec(entry)).peekable();
    writers.peek().is_some() && writers.all(is_hubs)
}

/// What the hub has to do about the spec of a Cluster.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Says to the API server that the hub applies what it has created, so that it can let go of it later.
    Claim(Vec<ManagedFieldsEntry>),
    /// Applies this: the spec is the hub's, and the member is bound to something else now.
    Apply(ClusterSpec),
    /// Applies nothing at all: a user has applied a spec, and what the hub alone had of it goes.
    LetGo,
}

/// The next step; `wanted` is what the member is bound to, if it is one.
pub(super) fn step(cluster: &Cluster, wanted: Option<ClusterSpec>) -> Option<Step> {
    let all = cluster.managed_fields();
    let of_hub = |entry: &ManagedFieldsEntry| has_spec(entry) && is_hubs(entry);
    let created = |entry: &ManagedFieldsEntry| of_hub(entry) && entry.operation.as_deref() != Some(APPLY);
    if all.iter().any(created) {
        let claimed = |entry: &ManagedFieldsEntry| match created(entry) {
            true => ManagedFieldsEntry { operation: Some(APPLY.to_owned()), ..entry.clone() },
            false => entry.clone(),
        };
        return Some(Step::Claim(all.iter().map(claimed).collect()));
    }
    if !is_ours(cluster) {
        return all.iter().any(of_hub).then_some(Step::LetGo);
    }
    wanted.filter(|wanted| *wanted != cluster.spec).map(Step::Apply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1;

    fn by(writers: &[(&str, &str, Option<&str>)]) -> Cluster {
        let mut cluster = Cluster::new("east", ClusterSpec::default());
        let entry = |(manager, field, subresource): &(&str, &str, Option<&str>)| ManagedFieldsEntry {
            manager: Some((*manager).to_owned()),
            operation: Some("Apply".to_owned()),
            fields_v1: Some(FieldsV1(serde_json::json!({*field: {}}))),
            subresource: subresource.map(str::to_owned),
            ..ManagedFieldsEntry::default()
        };
        cluster.metadata.managed_fields = Some(writers.iter().map(entry).collect());
        cluster
    }

    /// What a user applies is the user's, also where it says the same; labels and statuses of others are no spec.
    ///
    /// Mutations seen to fail: `any` for `all` in `is_ours`; subresources not asked in `has_spec`.
    #[test]
    fn whoever_applies_a_spec_has_it() {
        let ours = (FIELD_MANAGER, "f:spec", None);
        let status = ("somebody", "f:spec", Some("status"));
        for (cluster, is) in [
            (by(&[]), false),
            (by(&[ours]), true),
            (by(&[ours, ("argocd-controller", "f:metadata", None), status]), true),
            (by(&[ours, ("kubectl", "f:spec", None)]), false),
            (by(&[("kubectl", "f:spec", None), (FIELD_MANAGER, "f:status", Some("status"))]), false),
        ] {
            assert_eq!(is_ours(&cluster), is, "{:?}", cluster.metadata.managed_fields);
        }
    }

    /// What was created is claimed, what is the hub's follows the member, and what a user has applied is let go.
    ///
    /// Mutations seen to fail: `any(created)` never; `!is_ours` negated.
    #[test]
    fn the_hub_lets_go_of_what_a_user_applies() {
        let ours = (FIELD_MANAGER, "f:spec", None);
        let user = ("kubectl", "f:spec", None);
        let wanted = ClusterSpec { regions: vec!["eu".to_owned()], ..ClusterSpec::default() };
        assert_eq!(step(&by(&[ours]), Some(ClusterSpec::default())), None);
        assert_eq!(step(&by(&[ours]), Some(wanted.clone())), Some(Step::Apply(wanted.clone())));
        assert_eq!(step(&by(&[ours, user]), Some(wanted.clone())), Some(Step::LetGo));
        assert_eq!(step(&by(&[user]), Some(wanted.clone())), None);
        let mut created = by(&[ours, user]);
        let entries = created.metadata.managed_fields.clone().unwrap();
        created.metadata.managed_fields.as_mut().unwrap()[0].operation = Some("Update".to_owned());
        assert_eq!(step(&created, Some(wanted)), Some(Step::Claim(entries)));
    }
}
