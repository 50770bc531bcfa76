//! Pure. Failover policies: the most specific wins, and at one level the fleet's source over the API over the
//! cluster's own (`contracts.md` part 3).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_crds::{Body, Code, ExportPolicyObject, FailoverPolicyObject, Object, ObjectKey, PolicyTarget};
use meshfed_model::names::{ClusterName, ServiceName};
use meshfed_model::policy::{FailoverSpec, MIN_HEALTHY_PERCENT};
use meshfed_model::service::Preference;

use super::{Dirty, FleetPolicies, FleetSource, Index, PolicyChoice};

/// The source of a policy that is the service's own `trafficDistribution`.
pub const OF_SERVICE: &str = "service";
/// The name of the built-in policy.
const BUILTIN: &str = "default";

/// This cluster's policies for one target, the first of which holds.
type OwnPolicies = BTreeMap<ObjectKey, (Arc<Object>, Arc<FailoverSpec>)>;
/// The fleet's policies for one target, the first of which holds.
type FleetTarget = BTreeMap<(FleetSource, Arc<str>), Arc<FailoverSpec>>;

/// All policies that bind this cluster.
#[derive(Debug)]
pub(super) struct Policies {
    /// This cluster's own policies of both kinds, as they are written.
    pub(super) objects: BTreeMap<ObjectKey, Arc<Object>>,
    pub(super) own_exports: BTreeMap<ObjectKey, ExportPolicyObject>,
    pub(super) fleet_exports: Vec<ExportPolicyObject>,
    own: BTreeMap<PolicyTarget, OwnPolicies>,
    own_targets: BTreeMap<ObjectKey, PolicyTarget>,
    fleet: BTreeMap<PolicyTarget, FleetTarget>,
    builtin: Arc<FailoverSpec>,
    same_zone: Arc<FailoverSpec>,
    thresholds: Vec<u32>,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            own_exports: BTreeMap::new(),
            fleet_exports: Vec::new(),
            own: BTreeMap::new(),
            own_targets: BTreeMap::new(),
            fleet: BTreeMap::new(),
            builtin: Arc::default(),
            same_zone: Arc::new(FailoverSpec::prefer_same_zone()),
            thresholds: vec![MIN_HEALTHY_PERCENT],
        }
    }
}

impl Policies {
    /// Takes an own policy; tells which targets it touches.
    pub(super) fn put_own(
        &mut self,
        key: ObjectKey,
        object: &Arc<Object>,
        policy: &FailoverPolicyObject,
    ) -> BTreeSet<PolicyTarget> {
        let mut touched = self.remove_own(&key);
        touched.insert(policy.target.clone());
        let value = (Arc::clone(object), Arc::new(policy.spec.clone()));
        self.own.entry(policy.target.clone()).or_default().insert(key.clone(), value);
        self.own_targets.insert(key, policy.target.clone());
        touched
    }

    /// Drops an own policy; tells which targets it touches.
    pub(super) fn remove_own(&mut self, key: &ObjectKey) -> BTreeSet<PolicyTarget> {
        let Some(target) = self.own_targets.remove(key) else { return BTreeSet::new() };
        if let Some(same) = self.own.get_mut(&target) {
            same.remove(key);
            if same.is_empty() {
                self.own.remove(&target);
            }
        }
        BTreeSet::from([target])
    }

    /// A policy for the service or its namespace, else what the service itself asks for, else the default.
    pub(super) fn choose(
        &self,
        service: &ServiceName,
        cluster: &ClusterName,
        preference: Option<Preference>,
    ) -> PolicyChoice {
        let levels = [
            PolicyTarget::Service(service.clone()),
            PolicyTarget::Namespace(service.namespace.clone()),
            PolicyTarget::Default,
        ];
        for target in &levels {
            if let (PolicyTarget::Default, Some(preference)) = (target, preference) {
                let name = match preference {
                    Preference::SameZone => "PreferSameZone",
                    Preference::SameNode => "PreferSameNode",
                };
                let spec = Arc::clone(&self.same_zone);
                return PolicyChoice { name: name.to_owned(), source: OF_SERVICE.to_owned(), spec };
            }
            if let Some(((source, name), spec)) = self.fleet.get(target).and_then(BTreeMap::first_key_value) {
                let source = match source {
                    FleetSource::Fleet => "fleet",
                    FleetSource::Api => "api",
                };
                return PolicyChoice { name: name.to_string(), source: source.to_owned(), spec: Arc::clone(spec) };
            }
            if let Some((key, (_, spec))) = self.own.get(target).and_then(BTreeMap::first_key_value) {
                let (name, source) = (key.name.to_string(), format!("cluster:{cluster}"));
                return PolicyChoice { name, source, spec: Arc::clone(spec) };
            }
        }
        PolicyChoice { name: BUILTIN.to_owned(), source: "builtin".to_owned(), spec: Arc::clone(&self.builtin) }
    }

    /// The health percentages that a group's count must not be rounded over.
    pub(super) fn thresholds(&self) -> &[u32] {
        &self.thresholds
    }

    /// Computes the thresholds anew; tells whether they changed.
    fn refresh_thresholds(&mut self) -> bool {
        let own = self.own.values().flat_map(BTreeMap::values).map(|(_, spec)| spec);
        let specs = own.chain(self.fleet.values().flat_map(BTreeMap::values));
        let mut all: BTreeSet<u32> = specs.flat_map(|s| s.tiers.iter().map(|t| t.min_healthy_percent)).collect();
        all.insert(MIN_HEALTHY_PERCENT);
        let changed = !all.iter().eq(&self.thresholds);
        self.thresholds = all.into_iter().collect();
        changed
    }
}

impl Index {
    /// This cluster's own policies, as they are written.
    pub fn policy_objects(&self) -> impl Iterator<Item = &Object> {
        self.policies.objects.values().map(AsRef::as_ref)
    }

    /// Likewise, with the cluster's own settings.
    pub fn settings_objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.policies.objects.values().chain(self.mesh_object())
    }

    /// The fleet's policies, whole.
    pub fn set_fleet_policies(&mut self, policies: FleetPolicies) -> Dirty {
        let mut dirty = Dirty { mesh: self.set_fleet_settings(policies.settings), ..Dirty::default() };
        if policies.export != self.policies.fleet_exports {
            self.policies.fleet_exports = policies.export;
            self.export_policies_changed(&mut dirty);
        }
        let mut fleet: BTreeMap<PolicyTarget, FleetTarget> = BTreeMap::new();
        for (source, policy) in policies.failover {
            let name = (source, Arc::clone(&policy.name));
            fleet.entry(policy.target).or_default().insert(name, Arc::new(policy.spec));
        }
        if fleet != self.policies.fleet {
            self.policies.fleet = fleet;
            self.failover_changed(&BTreeSet::new(), &mut dirty);
        }
        dirty
    }

    /// After a change of failover policies; `touched` are the own policies' targets.
    pub(super) fn failover_changed(&mut self, touched: &BTreeSet<PolicyTarget>, dirty: &mut Dirty) {
        dirty.policies = true;
        if self.policies.refresh_thresholds() {
            dirty.services.extend(self.exports.keys().filter(|s| self.services.contains_key(*s)).cloned());
        }
        for target in touched {
            self.check_policies(target, dirty);
        }
        // What is gone has no errors any more.
        let gone: Vec<ObjectKey> = self
            .errors
            .keys()
            .filter(|k| k.kind == meshfed_crds::Kind::FailoverPolicy && !self.policies.own_targets.contains_key(*k))
            .cloned()
            .collect();
        for key in gone {
            self.set_errors(key, Vec::new(), dirty);
        }
    }

    /// Two policies of this cluster for one target: the first by name holds, the others are errors.
    fn check_policies(&mut self, target: &PolicyTarget, dirty: &mut Dirty) {
        let Some(same) = self.policies.own.get(target) else { return };
        let mut found = Vec::new();
        let winner = same.keys().next().map(ToString::to_string).unwrap_or_default();
        for (place, (key, (object, _))) in same.iter().enumerate() {
            let Body::FailoverPolicy(_) = &object.body else { continue };
            let conflict = (place > 0).then(|| {
                let message =
                    format!("{winner} is for the same target and comes first by name: this one has no effect");
                let error = object.fault(Code::Conflict, "spec.targetRef", message);
                error.remedy("leave one of them, or give one another target")
            });
            found.push((key.clone(), conflict.into_iter().collect::<Vec<_>>()));
        }
        for (key, errors) in found {
            self.set_errors(key, errors, dirty);
        }
    }
}
