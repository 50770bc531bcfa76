//! Edge. The statuses of the fleet's objects on the hub's API server: policies of the hub's namespace, `Mesh/default` and
//! trust domains (`contracts-kubernetes.md` 5.2).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{ApiResource, DynamicObject};
use meshfed_ca::{anchor, pem};
use meshfed_crds::api_server::statuses::{self, Judge, Means, Watched, read};
use meshfed_crds::api_server::{ConnectError, connect};
use meshfed_crds::custom::{Force, TrustDomain as TrustDomainKind, Verdict};
use meshfed_crds::{Code, Kind, Object, ObjectError, ObjectKey, Scope};
use meshfed_model::identity::TrustDomain;
use meshfed_runtime::clock;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::rate::{Bucket, Rate};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use super::Place;
use crate::fleet::{FleetNames, Revisions};

/// Writes per second, and at once.
const WRITES: Rate = Rate { per_second: 50.0, burst: 20.0 };
/// How often names are looked at again, if the fleet has changed.
const PERIOD: Duration = Duration::from_secs(1);
/// Who writes what the hub writes.
const FIELD_MANAGER: &str = "meshfed-federator";
/// The kinds that sources read, too; trust domains come after them.
const KINDS: [Kind; 3] = [Kind::ExportPolicy, Kind::FailoverPolicy, Kind::Mesh];

/// What stands of the fleet's objects.
pub type Standing = BTreeMap<ObjectKey, Arc<Object>>;

/// What the hub knows of its objects.
pub struct Hub {
    /// What stands.
    pub standing: watch::Receiver<Arc<Standing>>,
    /// Who knows which names there are.
    pub names: Arc<dyn FleetNames>,
    /// Grows with whatever may make a name known.
    pub revisions: Arc<Revisions>,
}

/// Keeps statuses until the drain; there are none where objects are files.
///
/// # Errors
/// There is no way to the API server.
pub async fn keep(place: Place, hub: Hub, drain: Watch) -> Result<(), ConnectError> {
    let Place::ApiServer { kubeconfig, context, namespace } = place else {
        drain.signaled().await;
        return Ok(());
    };
    let client = connect(kubeconfig.as_deref(), context.as_deref()).await?;
    let mut watched: Vec<Watched> = KINDS.iter().map(|kind| Watched::of(*kind, of(*kind, &namespace))).collect();
    watched.push(Watched { resource: ApiResource::erase::<TrustDomainKind>(&()), namespace: None });
    let mut bucket = Bucket::default();
    let means = Means {
        client,
        manager: FIELD_MANAGER,
        now: clock::timestamp,
        permit: Box::new(move || bucket.take(WRITES, clock::instant())),
        leads: Box::new(|| true),
        tell: |text| tracing::warn!("{text}"),
    };
    let mut looks = tokio::time::interval(PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let judge = OfHub { hub, looks, looked_at: 0 };
    tokio::select! {
        () = statuses::run(watched, judge, means) => {}
        () = drain.signaled() => {}
    }
    Ok(())
}

fn of(kind: Kind, namespace: &str) -> Option<&str> {
    (!kind.is_cluster_scoped()).then_some(namespace)
}

struct OfHub {
    hub: Hub,
    looks: Interval,
    looked_at: u64,
}

impl Judge for OfHub {
    fn judge(&self, kind: usize, object: &DynamicObject) -> Option<Verdict> {
        let Some(kind) = KINDS.get(kind) else { return Some(of_trust_domain(object)) };
        let standing = self.hub.standing.borrow().get(&statuses::key(*kind, object)).cloned();
        let (object, faults) = read(*kind, object.clone(), Scope::Hub)?;
        let force = statuses::force(object.as_deref(), standing.as_deref());
        let Some(object) = object else { return Some(Verdict { faults, force, ..Verdict::unknown() }) };
        let dangling = Some(self.hub.names.unknown_names(&[&object]));
        Some(Verdict { faults, force, dangling, not_served: None })
    }

    async fn news(&mut self) {
        loop {
            tokio::select! {
                changed = self.hub.standing.changed() => match changed {
                    Ok(()) => return,
                    // The source has ended, and so does the hub.
                    Err(_ended) => std::future::pending().await,
                },
                _ = self.looks.tick() => {
                    let now = self.hub.revisions.current();
                    if std::mem::replace(&mut self.looked_at, now) != now {
                        return;
                    }
                }
            }
        }
    }
}

/// A trust domain is kept and not served; what could never be is told already.
fn of_trust_domain(object: &DynamicObject) -> Verdict {
    let mut faults = Vec::new();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    if let Err(error) = TrustDomain::new(name) {
        let fault = ObjectError::new(Code::InvalidValue, error.to_string()).field("metadata.name");
        faults.push(fault.remedy("name it as the trust domain, say partner.example"));
    }
    let anchors = object.data.pointer("/spec/anchors").and_then(serde_json::Value::as_array);
    for (i, anchor) in anchors.into_iter().flatten().enumerate() {
        let read = pem::certificates(anchor.as_str().unwrap_or_default());
        let why = match &read {
            Err(error) => Some(error.to_string()),
            Ok(all) if all.iter().any(|der| anchor::validity(der).is_none()) => Some("is no certificate".to_owned()),
            Ok(_) => None,
        };
        if let Some(why) = why {
            let fault = ObjectError::new(Code::InvalidValue, why).field(format!("spec.anchors[{i}]"));
            faults.push(fault.remedy("write the anchor's certificate as PEM, from -----BEGIN CERTIFICATE----- on"));
        }
    }
    Verdict {
        faults,
        force: Force::Nothing,
        dangling: Some(Vec::new()),
        not_served: Some(
            "it is kept; trust domains that belong to no member are not served in this version, so nobody is trusted by it"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use meshfed_crds::custom::{PolicyStatus, policy_status};
    use serde_json::json;

    use super::*;

    fn reasons(name: &str, anchors: &[&str]) -> Vec<String> {
        let mut object = DynamicObject::new(name, &ApiResource::erase::<TrustDomainKind>(&()));
        object.data = json!({"spec": {"anchors": anchors}});
        let status = policy_status(&PolicyStatus::default(), 1, &of_trust_domain(&object), jiff::Timestamp::UNIX_EPOCH);
        status.conditions.iter().map(|c| format!("{} {:?} {}", c.type_, c.status, c.reason)).collect()
    }

    /// A trust domain is accepted and told as not served; one that could never be is refused.
    ///
    /// Mutations seen to fail: `not_served: None`; `validity` not asked; the name not looked at.
    #[test]
    fn a_trust_domain_is_kept_and_not_served() {
        let key = rcgen::KeyPair::generate().unwrap();
        let good = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        let kept = reasons("partner.example", &[&good]);
        assert!(kept.contains(&"Accepted True Accepted".to_owned()), "{kept:?}");
        assert!(kept.contains(&"Ready False NotInThisVersion".to_owned()), "{kept:?}");
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (name, anchors) in
            [("partner.example", vec!["x"]), ("partner.example", vec![no_certificate]), ("Partner_", vec![&good])]
        {
            let refused = reasons(name, &anchors);
            assert!(refused.contains(&"Accepted False Invalid".to_owned()), "{name}: {refused:?}");
        }
    }
}
