//! Edge. What an agent begins with: what it knew when it ended, and what is to come before it is ready.

use std::collections::BTreeMap;
use std::path::Path;

use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_model::names::Namespace;
use meshfed_runtime::clock;
use meshfed_runtime::readiness::Readiness;

use crate::core::run::Guards;
use crate::core::{Core, CoreSettings, kept};
use crate::enroll::AgentFile;
use crate::identity::Authority;
use crate::index::{Index, IndexSettings};
use crate::lookup;
use crate::view::persist::Loaded;

/// What was known when the agent ended.
pub(super) struct Known {
    /// The view, members and policies.
    pub(super) loaded: Loaded,
    /// The bundles.
    pub(super) bundles: BTreeMap<TrustDomain, Bundle>,
    /// Whether others are agents of the same cluster, and may have told its proxies more meanwhile.
    pub(super) shared: bool,
}

/// The core with what was known when the agent ended.
pub(super) fn core_of(agent: &AgentFile, namespace: Namespace, authority: Authority, known: Known) -> Core {
    let Known { loaded, bundles, shared } = known;
    let (now, wall) = (clock::instant(), clock::wall());
    let kept = loaded.is_some() && loaded.missing.is_empty();
    let mut index = Index::new(IndexSettings {
        cluster: agent.cluster.clone(),
        fleet: agent.fleet.clone(),
        trust_domain: agent.trust_domain.clone(),
        networks: agent.networks.clone(),
        regions: agent.regions.clone(),
        zones: agent.zones.clone(),
        gateway_cidrs: agent.gateway_cidrs.clone(),
    });
    // Nobody was told anything yet.
    let _dirty = index.set_root_namespace(namespace);
    let settings = CoreSettings {
        cluster: agent.cluster.clone(),
        trust_domain: agent.trust_domain.clone(),
        networks: agent.networks.clone(),
        locality: index.settings().default_locality(),
        agent_uid: rustix::process::getuid().as_raw(),
    };
    let view = loaded.view(agent.cluster.clone());
    let mut core = Core::new(settings, index, view, loaded.is_some(), authority);
    core.set_bundles(&bundles, now, wall);
    core.set_policies(loaded.policies, now, wall);
    core.set_shared_networks(loaded.shared_networks, now, wall);
    // The last: what was saved of a part is no word of the hub on it.
    core.miss(loaded.missing);
    // What one agent alone has kept is never older than what it has told. Others of the cluster hear more meanwhile.
    if shared || !kept {
        core.await_news(kept, shared);
    }
    core
}

/// What is to come before the agent is ready.
pub(super) fn guards_of(readiness: &Readiness, loaded: &Loaded) -> Guards {
    Guards {
        source: Some(readiness.guard("source: not scanned yet")),
        view: view_lack(loaded).map(|why| readiness.guard(why)),
    }
}

/// Why the view is not whole, for the pending guard.
fn view_lack(loaded: &Loaded) -> Option<String> {
    if !loaded.missing.is_empty() {
        let parts: Vec<String> = loaded.missing.iter().map(ToString::to_string).collect();
        let parts = parts.join(", ");
        return Some(format!(
            "view: {parts} in state/view cannot be read back, and the hub has not told it again yet; \
             running sidecars keep what they hold"
        ));
    }
    (!loaded.is_some()).then(|| "view: none is saved, and the hub has not spoken yet".to_owned())
}

/// Gives the core what was kept when the agent ended.
pub(super) fn restore(core: &mut Core, state: &Path, now: std::time::Instant) -> kept::ImportsFile {
    core.restore_proxies(kept::load(&state.join("proxies.json")), now);
    core.restore_resolved(lookup::load(&state.join("hosts.json")));
    let (imports, numbers) = kept::ImportsFile::open(state.join("imports.json"));
    core.restore_imports(numbers);
    imports
}
