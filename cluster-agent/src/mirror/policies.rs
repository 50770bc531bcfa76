//! Edge. The statuses of a member's own policies and of its `Mesh/local` (`contracts-kubernetes.md` 5.2). Those of the hub's
//! namespace are the hub's, and `Mesh/default` is.

use std::sync::Arc;

use kube::Client;
use kube::api::DynamicObject;
use meshfed_crds::api_server::statuses::{self, Judge, Means, Watched, force, key, read};
use meshfed_crds::custom::Verdict;
use meshfed_crds::{Code, Kind, ObjectError, ObjectKey, Scope};
use meshfed_runtime::clock;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::rate::{Bucket, Rate};
use tokio::sync::watch;

use super::facts::PolicyFacts;
use super::names::FIELD_MANAGER;

/// Writes per second, and at once.
const WRITES: Rate = Rate { per_second: 50.0, burst: 20.0 };
/// The kinds whose statuses are written.
const KINDS: [Kind; 3] = [Kind::ExportPolicy, Kind::FailoverPolicy, Kind::Mesh];

/// Keeps statuses until the drain; before the first facts they say that nothing is known yet.
///
/// # Errors
/// None: the API server may be away for as long as it likes.
pub async fn keep(
    client: Client,
    fleet_namespace: String,
    facts: watch::Receiver<Option<Arc<PolicyFacts>>>,
    leads: watch::Receiver<bool>,
    drain: Watch,
) -> Result<(), std::convert::Infallible> {
    let mut bucket = Bucket::default();
    let means = Means {
        client,
        manager: FIELD_MANAGER,
        now: clock::timestamp,
        permit: Box::new(move || bucket.take(WRITES, clock::instant())),
        leads: Box::new(move || *leads.borrow()),
        tell: |text| tracing::warn!("{text}"),
    };
    let watched = KINDS.iter().map(|kind| Watched::of(*kind, None)).collect();
    tokio::select! {
        () = statuses::run(watched, OfMember { fleet_namespace, facts }, means) => {}
        () = drain.signaled() => {}
    }
    Ok(())
}

struct OfMember {
    fleet_namespace: String,
    facts: watch::Receiver<Option<Arc<PolicyFacts>>>,
}

impl Judge for OfMember {
    fn judge(&self, kind: usize, object: &DynamicObject) -> Option<Verdict> {
        let kind = *KINDS.get(kind)?;
        if !kind.is_cluster_scoped() && object.metadata.namespace.as_deref() == Some(&self.fleet_namespace) {
            return None;
        }
        let key = key(kind, object);
        let (read, mut faults) = read(kind, object.clone(), Scope::Member)?;
        let Some(facts) = self.facts.borrow().clone() else {
            return Some(Verdict { faults, force: force(read.as_deref(), None), ..Verdict::unknown() });
        };
        let of_it = facts.faults.iter().filter(|fault| is_about(fault, &key));
        let (dangling, between): (Vec<_>, Vec<_>) = of_it.cloned().partition(|fault| fault.code == Code::UnknownName);
        faults.extend(between);
        let force = force(read.as_deref(), facts.standing.get(&key).map(AsRef::as_ref));
        Some(Verdict { faults, force, dangling: facts.knows_names.then_some(dangling), not_served: None })
    }

    async fn news(&mut self) {
        if self.facts.changed().await.is_err() {
            // The core has ended, and so does the agent.
            std::future::pending().await
        }
    }
}

fn is_about(fault: &ObjectError, key: &ObjectKey) -> bool {
    let namespace = fault.namespace.as_deref().unwrap_or_default();
    fault.kind.as_deref() == Some(key.kind.as_str())
        && fault.name.as_deref() == Some(&*key.name)
        && *namespace == *key.namespace
}

#[cfg(test)]
mod tests {
    use meshfed_crds::custom::Force;
    use serde_json::json;

    use super::*;

    fn policy(namespace: &str, target: serde_json::Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "federation.meshfed.io/v1alpha1", "kind": "FailoverPolicy",
            "metadata": {"name": "p", "namespace": namespace},
            "spec": {"targetRef": target, "tiers": [{"select": [{"relative": "any"}]}]},
        }))
        .unwrap()
    }

    /// A policy is judged by what is in force, speaks for its namespace only, and is not ours where it is the fleet's;
    /// faults of others are not its.
    ///
    /// Mutations seen to fail: the namespace not compared in `judge`; `is_about` without the name;
    /// `Scope::Hub` given to `read`.
    #[test]
    fn a_members_policy_speaks_for_its_namespace() {
        let judge = |facts: Option<PolicyFacts>| OfMember {
            fleet_namespace: "meshfed-hub".to_owned(),
            facts: watch::channel(facts.map(Arc::new)).1,
        };
        let good = policy("shop", json!({"kind": "Service", "name": "b"}));
        assert!(judge(None).judge(1, &policy("meshfed-hub", json!({"kind": "Service", "name": "b"}))).is_none());
        let early = judge(None).judge(1, &good).unwrap();
        assert_eq!((early.force, early.dangling), (Force::Pending, None));
        let (object, _) = read(Kind::FailoverPolicy, good.clone(), Scope::Member).unwrap();
        let about = |name: &str, code| {
            let mut fault = ObjectError::new(code, "x").about(&key(Kind::FailoverPolicy, &good));
            fault.name = Some(name.to_owned());
            fault
        };
        let facts = PolicyFacts {
            standing: [(key(Kind::FailoverPolicy, &good), object.unwrap())].into(),
            faults: vec![about("p", Code::UnknownName), about("q", Code::Conflict)],
            knows_names: true,
        };
        let known = judge(Some(facts.clone())).judge(1, &good).unwrap();
        assert_eq!((known.force, known.faults.len(), known.dangling.unwrap().len()), (Force::InForce, 0, 1));
        let elsewhere = policy("shop", json!({"kind": "Service", "name": "b", "namespace": "bank"}));
        let refused = judge(Some(facts)).judge(1, &elsewhere).unwrap();
        assert_eq!((refused.force, refused.faults[0].code), (Force::Earlier, Code::NamespaceNotAllowed));
        let default: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "federation.meshfed.io/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"}, "spec": {},
        }))
        .unwrap();
        assert!(judge(None).judge(2, &default).is_none());
    }
}
