//! Pure. The borders of PeerAuthentication and Mesh.

use std::sync::Arc;

use meshfed_model::names::{Namespace, check_label};
use meshfed_model::sni::CLUSTERSET_DOMAIN;

use super::common::Reader;
use crate::error::Code;
use crate::object::{MeshObject, MtlsMode, OutboundPolicy, PeerAuthenticationObject, Scope};
use crate::tree::Node;

/// The name of a member's own settings.
pub(super) const LOCAL: &str = "local";
/// The name of the fleet's settings.
pub(super) const DEFAULT: &str = "default";
/// The longest domain that leaves room for a service, a namespace and a port in a server name.
const DOMAIN_MAX: usize = 128;

pub(super) fn read_peer_authentication(r: &mut Reader<'_>) -> Option<PeerAuthenticationObject> {
    let namespace = r.checked("metadata.namespace", Namespace::new(&*r.key.namespace))?;
    let selector = r.get(&["spec", "selector"]);
    if let Some(node) = selector {
        let message = "a selector has no effect in this version, so the whole object is without effect";
        let remedy = "for the mode to hold, leave the selector away: it then holds for all workloads of the namespace";
        r.find(Code::NoEffectYet, node.place, "spec.selector", message.to_owned(), Some(remedy.to_owned()));
    }
    if let Some(node) = r.get(&["spec", "portLevelMtls"]) {
        let message = "a mode per port has no effect in this version: spec.mtls holds for all ports";
        let remedy = "set in spec.mtls what is to hold for all ports";
        r.find(Code::NoEffectYet, node.place, "spec.portLevelMtls", message.to_owned(), Some(remedy.to_owned()));
    }
    let mode = match r.get(&["spec", "mtls", "mode"]).and_then(Node::text) {
        Some("STRICT") => Some(MtlsMode::Strict),
        Some("PERMISSIVE") => Some(MtlsMode::Permissive),
        Some("DISABLE") => Some(MtlsMode::Disable),
        Some(_) | None => None,
    };
    if let Some(node) = r.get(&["metadata", "name"]) {
        r.mark("metadata.name", node);
    }
    let created = r.get(&["metadata", "creationTimestamp"]).and_then(Node::text).unwrap_or_default();
    Some(PeerAuthenticationObject {
        namespace,
        name: Arc::clone(&r.key.name),
        created: created.into(),
        mode,
        selects: selector.is_some(),
    })
}

pub(super) fn read_mesh(r: &mut Reader<'_>) -> Option<MeshObject> {
    let wanted = match r.scope {
        Scope::Cluster | Scope::Member => LOCAL,
        Scope::Fleet | Scope::Hub => DEFAULT,
    };
    if *r.key.name != *wanted {
        let node = r.get(&["metadata", "name"]).unwrap_or(r.object);
        let whose = if wanted == LOCAL { "a member's" } else { "the fleet's" };
        let message = format!("{whose} settings are in Mesh/{wanted}");
        r.find(Code::WrongSource, node.place, "metadata.name", message, Some(format!("name it {wanted}")));
        return None;
    }
    let outbound = match r.get(&["spec", "outboundTrafficPolicy"]).and_then(Node::text) {
        Some("REGISTRY_ONLY") => Some(OutboundPolicy::RegistryOnly),
        Some("ALLOW_ANY") => Some(OutboundPolicy::AllowAny),
        Some(_) | None => None,
    };
    let clusterset_domain = r.get(&["spec", "clustersetDomain"]).and_then(|node| {
        r.parsed(node, "spec.clustersetDomain", "write a DNS name, say clusterset.local", |text| {
            text.split('.').try_for_each(|part| check_label("domain", part)).map_err(|e| e.to_string())?;
            if text.len() > DOMAIN_MAX {
                return Err(format!("has {} characters, at most {DOMAIN_MAX} are taken", text.len()));
            }
            Ok(Arc::from(text))
        })
    });
    if clusterset_domain.as_deref().is_some_and(|domain| domain != CLUSTERSET_DOMAIN)
        && let Some(node) = r.get(&["spec", "clustersetDomain"])
    {
        let message =
            format!("imports are called {CLUSTERSET_DOMAIN} in this version; another domain is kept, and passed on");
        r.find(Code::NoEffectYet, node.place, "spec.clustersetDomain", message, None);
    }
    Some(MeshObject { name: Arc::clone(&r.key.name), outbound, clusterset_domain })
}
