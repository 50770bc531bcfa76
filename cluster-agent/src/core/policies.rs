//! Pure. The fleet's policies as the hub sends them, as the index reads them.

use meshfed_crds::{ExportPolicyObject, FailoverPolicyObject, PolicyTarget, ServicePattern};
use meshfed_model::policy::{self, PolicySource};

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
    FleetPolicies { revision: policies.revision, failover: failover.collect(), export: export.collect() }
}
