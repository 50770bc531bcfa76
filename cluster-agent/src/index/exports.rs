//! Pure. Which services are exported, and to whom: the union of all policies that match, everyone where none does.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshfed_crds::{Body, Code, ExportPolicyObject, Kind, Labels, Object};
use meshfed_model::export::ExportTo;
use meshfed_model::names::ServiceName;
use meshfed_model::offer::Exported;

use super::{Dirty, Index, object_key};

impl Index {
    pub(super) fn put_export(&mut self, object: &Arc<Object>, service: &ServiceName, dirty: &mut Dirty) {
        let before = self.exports.insert(service.clone(), Arc::clone(object));
        if before.is_none_or(|before| before.body != object.body) {
            dirty.exports.insert(service.clone());
        }
        self.refresh_export(service, dirty);
        self.check_export(service, dirty);
        self.check_service(service, dirty);
    }

    pub(super) fn remove_export(&mut self, service: &ServiceName, dirty: &mut Dirty) {
        self.exports.remove(service);
        dirty.exports.insert(service.clone());
        self.refresh_export(service, dirty);
        self.set_errors(object_key(Kind::ServiceExport, service), Vec::new(), dirty);
        self.check_service(service, dirty);
    }

    /// After a change of any export policy. Costs the exports; policies change seldom.
    pub(super) fn export_policies_changed(&mut self, dirty: &mut Dirty) {
        for service in self.exports.keys().cloned().collect::<Vec<_>>() {
            self.refresh_export(&service, dirty);
        }
    }

    fn refresh_export(&mut self, name: &ServiceName, dirty: &mut Dirty) {
        let (export_to, exported) = (self.export_to(name), self.exported(name));
        if let Some(service) = self.services.get_mut(name)
            && (&service.export_to, &service.exported) != (&export_to, &exported)
        {
            (service.export_to, service.exported) = (export_to, exported);
            dirty.services.insert(name.clone());
            self.check_service(name, dirty);
        }
    }

    /// To whom a service goes; `None`: it is not exported.
    pub(super) fn export_to(&self, service: &ServiceName) -> Option<ExportTo> {
        self.exports.get(service)?;
        let all = self.policies.own_exports.values().chain(&self.policies.fleet_exports);
        let means = |policy: &&ExportPolicyObject| policy.services.iter().any(|pattern| pattern.matches(service));
        let selectors: Vec<_> = all.filter(means).map(|policy| policy.to.clone()).collect();
        if selectors.is_empty() {
            return Some(ExportTo::Everyone);
        }
        Some(ExportTo::Selected(selectors.into_iter().collect::<BTreeSet<_>>()))
    }

    /// What the export of a service adds to its import.
    pub(super) fn exported(&self, service: &ServiceName) -> Exported {
        let Some(Body::ServiceExport(export)) = self.exports.get(service).map(|object| &object.body) else {
            return Exported::default();
        };
        let pairs = |labels: &Labels| labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Exported { labels: pairs(&export.labels), annotations: pairs(&export.annotations) }
    }

    /// An export of a service that is not there is an error until it is.
    pub(super) fn check_export(&mut self, name: &ServiceName, dirty: &mut Dirty) {
        let Some(object) = self.exports.get(name) else { return };
        let errors = if self.services.contains_key(name) {
            Vec::new()
        } else {
            let message = format!("exports Service {name}, which is not there");
            let error = object.fault(Code::DanglingReference, "metadata.name", message);
            vec![error.remedy("add the Service, or correct name and namespace of the export")]
        };
        self.set_errors(object_key(Kind::ServiceExport, name), errors, dirty);
    }
}
