//! Pure. Policies: the fleet's as the hub sends them, and what a gateway makes of the one that holds for a service.

use std::borrow::Cow;

use meshfed_crds::{ExportPolicyObject, FailoverPolicyObject, PolicyTarget, ServicePattern};
use meshfed_model::policy::{
    self, FailoverSpec, MIN_HEALTHY_ENDPOINTS, MIN_HEALTHY_PERCENT, PolicySource, Relative, SelectItem, Selector, Tier,
};

use crate::index::{FleetPolicies, FleetSource};

pub(super) fn of_fleet(policies: policy::FleetPolicies) -> FleetPolicies {
    let failover = policies.failover.into_iter().map(|p| {
        let source = match p.source {
            PolicySource::Fleet => FleetSource::Fleet,
            PolicySource::Api => FleetSource::Api,
        };
        let (namespace, name, target) = match p.target {
            policy::PolicyTarget::Default => ("".into(), "default".into(), PolicyTarget::Default),
            policy::PolicyTarget::Namespace(ns) => {
                (ns.as_str().into(), ns.as_str().into(), PolicyTarget::Namespace(ns))
            }
            policy::PolicyTarget::Service(s) => {
                (s.namespace.as_str().into(), s.name().into(), PolicyTarget::Service(s))
            }
        };
        (source, FailoverPolicyObject { namespace, name, target, spec: p.spec })
    });
    let export = policies.export.into_iter().enumerate().map(|(n, p)| ExportPolicyObject {
        namespace: "".into(),
        name: n.to_string().into(),
        services: p.services.into_iter().map(|s| ServicePattern { namespace: s.namespace, name: s.name }).collect(),
        to: p.to,
    });
    FleetPolicies {
        revision: policies.revision,
        failover: failover.collect(),
        export: export.collect(),
        settings: policies.settings,
    }
}

/// How a gateway chooses among the endpoints behind it: as the service's policy says, seen from the gateway. Whoever
/// comes has chosen this cluster already, so endpoints that no tier selects come last and are not left out.
pub(super) fn behind_gateway(policy: &FailoverSpec) -> Cow<'_, FailoverSpec> {
    let any = Selector::Relative(Relative::Any);
    if policy.tiers.iter().any(|tier| tier.select.iter().any(|item| item.selector == any)) {
        return Cow::Borrowed(policy);
    }
    let mut all = policy.clone();
    let select = vec![SelectItem { selector: any, weight: None }];
    all.tiers.push(Tier {
        name: String::new(),
        select,
        min_healthy_percent: MIN_HEALTHY_PERCENT,
        min_healthy_endpoints: MIN_HEALTHY_ENDPOINTS,
    });
    Cow::Owned(all)
}
