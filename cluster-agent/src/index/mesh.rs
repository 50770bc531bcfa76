//! Pure. Whether plaintext is taken, and what captured workloads may reach besides the mesh.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshfed_crds::{Body, Code, MeshObject, MtlsMode, Object, ObjectKey, OutboundPolicy};
use meshfed_model::names::Namespace;
use meshfed_model::policy::FleetSettings;

use super::{Dirty, Index};

/// Those of a namespace without selector, the oldest first; of two of one age the first by name.
type OfNamespace = BTreeMap<(Arc<str>, Arc<str>), (Arc<Object>, Option<MtlsMode>)>;

/// PeerAuthentications and the mesh's settings.
#[derive(Debug, Default)]
pub(super) struct MeshSettings {
    root: Option<Namespace>,
    modes: BTreeMap<Namespace, OfNamespace>,
    local: Option<Arc<Object>>,
    fleet: FleetSettings,
}

impl Index {
    /// The namespace whose PeerAuthentication holds for the whole mesh: the agent's own.
    pub fn set_root_namespace(&mut self, namespace: Namespace) -> Dirty {
        let changed = self.mesh.root.as_ref() != Some(&namespace);
        self.mesh.root = Some(namespace);
        Dirty { mesh: changed, ..Dirty::default() }
    }

    /// Whether workloads of a namespace take plaintext: what its PeerAuthentication says, else that of the mesh. None:
    /// nobody says, and the default of the way they run holds (`contracts-kubernetes.md` 5.4).
    #[must_use]
    pub fn mtls_mode(&self, namespace: &Namespace) -> Option<MtlsMode> {
        let of = |namespace: &Namespace| {
            let (_, (_, mode)) = self.mesh.modes.get(namespace)?.first_key_value()?;
            *mode
        };
        of(namespace).or_else(|| of(self.mesh.root.as_ref()?))
    }

    /// What captured workloads may reach besides the mesh.
    #[must_use]
    pub fn outbound_policy(&self) -> OutboundPolicy {
        self.outbound_said().map_or_else(OutboundPolicy::default, |(policy, _)| policy)
    }

    /// What is said of it, and by whom; none: nothing is.
    #[must_use]
    pub fn outbound_said(&self) -> Option<(OutboundPolicy, &'static str)> {
        let own = self.local().and_then(|mesh| mesh.outbound).map(|policy| (policy, "Mesh/local"));
        own.or_else(|| self.mesh.fleet.outbound.map(|policy| (policy, "Mesh/default")))
    }

    fn local(&self) -> Option<&MeshObject> {
        match self.mesh.local.as_ref().map(|o| &o.body) {
            Some(Body::Mesh(mesh)) => Some(mesh),
            Some(_) | None => None,
        }
    }

    /// Takes the fleet's settings; whether what holds may be another now.
    pub(super) fn set_fleet_settings(&mut self, settings: FleetSettings) -> bool {
        let changed = self.mesh.fleet != settings;
        self.mesh.fleet = settings;
        changed
    }

    /// The domain of imported services, where the settings name one.
    #[must_use]
    pub fn clusterset_domain(&self) -> Option<&str> {
        let own = self.local().and_then(|mesh| mesh.clusterset_domain.as_deref());
        own.or(self.mesh.fleet.clusterset_domain.as_deref())
    }

    pub(super) fn mesh_object(&self) -> Option<&Arc<Object>> {
        self.mesh.local.as_ref()
    }

    pub(super) fn put_mesh(&mut self, object: &Arc<Object>, dirty: &mut Dirty) {
        let before = self.mesh.local.replace(Arc::clone(object));
        dirty.mesh |= before.is_none_or(|before| before.body != object.body);
    }

    pub(super) fn remove_mesh(&mut self, dirty: &mut Dirty) {
        dirty.mesh |= self.mesh.local.take().is_some();
    }

    pub(super) fn put_peer_authentication(&mut self, object: &Arc<Object>, dirty: &mut Dirty) {
        let Body::PeerAuthentication(new) = &object.body else { return };
        let namespace = new.namespace.clone();
        self.drop_peer_authentication(&namespace, &new.name);
        if !new.selects {
            let age = (Arc::clone(&new.created), Arc::clone(&new.name));
            self.mesh.modes.entry(namespace.clone()).or_default().insert(age, (Arc::clone(object), new.mode));
        }
        self.set_errors(object.key(), Vec::new(), dirty);
        self.check_peer_authentications(&namespace, dirty);
        dirty.mesh = true;
    }

    pub(super) fn remove_peer_authentication(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        let Ok(namespace) = Namespace::new(&*key.namespace) else { return };
        self.drop_peer_authentication(&namespace, &key.name);
        self.set_errors(key.clone(), Vec::new(), dirty);
        self.check_peer_authentications(&namespace, dirty);
        dirty.mesh = true;
    }

    fn drop_peer_authentication(&mut self, namespace: &Namespace, name: &str) {
        if let Some(all) = self.mesh.modes.get_mut(namespace) {
            all.retain(|(_, other), _| **other != *name);
            if all.is_empty() {
                self.mesh.modes.remove(namespace);
            }
        }
    }

    /// Of two for one namespace the older holds; the others are errors.
    fn check_peer_authentications(&mut self, namespace: &Namespace, dirty: &mut Dirty) {
        let Some(all) = self.mesh.modes.get(namespace) else { return };
        let mut found = Vec::new();
        let winner = all.keys().next().map(|(_, name)| name.to_string()).unwrap_or_default();
        for (place, (object, _)) in all.values().enumerate() {
            let conflict = (place > 0).then(|| {
                let message = format!("PeerAuthentication {winner} is for the whole namespace, too, and is older");
                let error = object.fault(Code::Conflict, "metadata.name", message);
                error.remedy("leave one of them without selector in a namespace")
            });
            found.push((object.key(), conflict.into_iter().collect::<Vec<_>>()));
        }
        for (key, errors) in found {
            self.set_errors(key, errors, dirty);
        }
    }
}
