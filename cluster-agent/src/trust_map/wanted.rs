//! Pure. Which namespaces are to have the anchors: those whose pods are injected, as the API server says, and nobody else.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;

use crate::inject::{InjectConfig, LABEL, NamespaceFacts, STATUS, selected};

/// What the API server has told of namespaces and pods.
#[derive(Debug)]
pub(super) struct Wanted {
    release: String,
    /// Namespaces whose pods are injected because of the namespace, by name, each with its uid. The release's is one.
    selected: BTreeMap<String, String>,
    /// Pods that are injected because of their own label, by namespace.
    pods: BTreeMap<String, BTreeSet<String>>,
    /// What a list of those pods has named so far.
    listed: Option<BTreeMap<String, BTreeSet<String>>>,
    /// Namespaces that had it, and are wanted no more: pods that run there may still read it.
    parting: BTreeSet<String>,
    /// Namespaces of which nothing is known but that they are not wanted: they may have it from a time before this agent.
    unasked: BTreeSet<String>,
    /// Namespaces that need not be asked any more: what becomes of them since is seen.
    asked: BTreeSet<String>,
}

impl Wanted {
    pub(super) const fn new(release: String) -> Self {
        Self {
            release,
            selected: BTreeMap::new(),
            pods: BTreeMap::new(),
            listed: None,
            parting: BTreeSet::new(),
            unasked: BTreeSet::new(),
            asked: BTreeSet::new(),
        }
    }

    /// Takes a namespace as it is now; gives it, with its uid, where it is to have the anchors.
    pub(super) fn namespace(
        &mut self,
        namespace: &PartialObjectMeta<Namespace>,
        config: Option<&InjectConfig>,
    ) -> Option<(String, String)> {
        let meta = &namespace.metadata;
        let (name, uid) = (meta.name.clone()?, meta.uid.clone()?);
        let injection = meta.labels.as_ref().and_then(|l| l.get(LABEL)).cloned();
        let facts = NamespaceFacts { name: name.clone(), injection, enforce: None };
        let is_selected = name == self.release || config.is_some_and(|config| selected(&facts, config));
        if meta.deletion_timestamp.is_some() {
            self.forget(&name);
            self.unasked.remove(&name);
            self.asked.remove(&name);
            return None;
        }
        if self.asked.insert(name.clone()) && !is_selected {
            self.unasked.insert(name.clone());
        }
        if !is_selected {
            let was = self.selected.remove(&name).is_some();
            self.part(&name, was);
            return None;
        }
        self.parting.remove(&name);
        self.selected.insert(name.clone(), uid.clone());
        Some((name, uid))
    }

    /// Takes what is told of pods with a label of their own; gives the namespace that is to have the anchors since.
    pub(super) fn pod(&mut self, event: Event<PartialObjectMeta<Pod>>) -> Option<String> {
        match event {
            Event::Init => self.listed = Some(BTreeMap::new()),
            Event::InitApply(pod) => {
                let (namespace, name) = place(&pod)?;
                self.listed.get_or_insert_default().entry(namespace.clone()).or_default().insert(name.clone());
                return self.put(namespace, name);
            }
            Event::InitDone => {
                let before = std::mem::replace(&mut self.pods, self.listed.take().unwrap_or_default());
                for namespace in before.keys().filter(|namespace| !self.pods.contains_key(*namespace)) {
                    if !self.selected.contains_key(namespace) {
                        self.parting.insert(namespace.clone());
                    }
                }
            }
            Event::Apply(pod) => {
                let (namespace, name) = place(&pod)?;
                return self.put(namespace, name);
            }
            Event::Delete(pod) => {
                let (namespace, name) = place(&pod)?;
                let pods = self.pods.get_mut(&namespace)?;
                let was = pods.remove(&name);
                if pods.is_empty() {
                    self.pods.remove(&namespace);
                    self.part(&namespace, was);
                }
            }
        }
        None
    }

    fn put(&mut self, namespace: String, name: String) -> Option<String> {
        let is_new = !self.is_wanted(&namespace);
        self.pods.entry(namespace.clone()).or_default().insert(name);
        self.parting.remove(&namespace);
        is_new.then_some(namespace)
    }

    fn part(&mut self, namespace: &str, was_wanted: bool) {
        if was_wanted && !self.is_wanted(namespace) {
            self.parting.insert(namespace.to_owned());
        }
    }

    fn is_wanted(&self, namespace: &str) -> bool {
        self.selected.contains_key(namespace) || self.pods.contains_key(namespace)
    }

    /// All that are to have the anchors, each with its uid; empty: nobody has told it.
    pub(super) fn all(&self) -> Vec<(String, String)> {
        let by_pods = self.pods.keys().filter(|namespace| !self.selected.contains_key(*namespace));
        let by_pods = by_pods.map(|namespace| (namespace.clone(), String::new()));
        self.selected.iter().map(|(name, uid)| (name.clone(), uid.clone())).chain(by_pods).collect()
    }

    /// Those that had it and are wanted no more.
    pub(super) fn parting(&self) -> Vec<String> {
        self.parting.iter().cloned().collect()
    }

    /// A namespace that is to be asked whether it has the anchors from a time before; given once.
    pub(super) fn ask(&mut self) -> Option<String> {
        while let Some(namespace) = self.unasked.pop_first() {
            if !self.is_wanted(&namespace) {
                return Some(namespace);
            }
        }
        None
    }

    /// Whether a namespace is to be asked.
    pub(super) fn asks(&self) -> bool {
        !self.unasked.is_empty()
    }

    /// A namespace has not answered: it is asked again.
    pub(super) fn ask_again(&mut self, namespace: String) {
        self.unasked.insert(namespace);
    }

    /// A namespace has them from a time before.
    pub(super) fn has(&mut self, namespace: &str) {
        self.part(namespace, true);
    }

    /// A namespace is gone, or has given the anchors back.
    pub(super) fn forget(&mut self, namespace: &str) {
        self.selected.remove(namespace);
        self.parting.remove(namespace);
        self.pods.remove(namespace);
    }
}

fn place(pod: &PartialObjectMeta<Pod>) -> Option<(String, String)> {
    // One that is admitted by its own label has been injected, or was made before there was a webhook: it says which.
    let is_injected = is_injected(pod);
    let place = (pod.metadata.namespace.clone()?, pod.metadata.name.clone()?);
    is_injected.then_some(place)
}

/// Whether it was injected.
pub(super) fn is_injected(pod: &PartialObjectMeta<Pod>) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(STATUS))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn namespace(name: &str, label: Option<&str>) -> PartialObjectMeta<Namespace> {
        let labels = label.map(|value| [(LABEL.to_owned(), value.to_owned())].into());
        let metadata =
            ObjectMeta { name: Some(name.to_owned()), uid: Some(format!("u-{name}")), labels, ..ObjectMeta::default() };
        PartialObjectMeta { metadata, ..PartialObjectMeta::default() }
    }
    fn pod(namespace: &str, name: &str, injected: bool) -> PartialObjectMeta<Pod> {
        let annotations = injected.then(|| [(STATUS.to_owned(), "{}".to_owned())].into());
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            annotations,
            ..ObjectMeta::default()
        };
        PartialObjectMeta { metadata, ..PartialObjectMeta::default() }
    }
    fn names(wanted: &Wanted) -> Vec<String> {
        wanted.all().into_iter().map(|(name, _)| name).collect()
    }

    /// A namespace has the anchors by its label or by an injected pod that is there, and parts from them when it has
    /// neither; one that ends is nobody's to part from.
    ///
    /// Mutations seen to fail: `place` that takes every pod; `part` that does nothing; `parting` not emptied by `put`.
    #[test]
    fn the_anchors_are_where_pods_are_injected_and_nowhere_else() {
        let config: InjectConfig =
            serde_json::from_str(r#"{"releaseNamespace": "meshfed-system", "image": "x"}"#).unwrap();
        let mut wanted = Wanted::new("meshfed-system".to_owned());
        assert!(wanted.namespace(&namespace("meshfed-system", None), Some(&config)).is_some());
        assert_eq!(wanted.namespace(&namespace("plain", None), Some(&config)), None);
        assert_eq!(wanted.ask(), Some("plain".to_owned()));
        assert!(wanted.namespace(&namespace("web", Some("enabled")), Some(&config)).is_some());
        assert_eq!(wanted.pod(Event::Apply(pod("plain", "forged", false))), None, "it has no sidecar");
        assert_eq!(wanted.pod(Event::Apply(pod("plain", "a", true))), Some("plain".to_owned()));
        assert_eq!(wanted.pod(Event::Apply(pod("plain", "b", true))), None, "once");
        assert_eq!(names(&wanted), ["meshfed-system", "web", "plain"]);
        assert_eq!(wanted.namespace(&namespace("web", None), Some(&config)), None);
        assert_eq!(wanted.parting(), ["web"]);
        assert_eq!(wanted.pod(Event::Delete(pod("plain", "a", true))), None);
        assert_eq!(wanted.parting(), ["web"]);
        assert_eq!(wanted.pod(Event::Delete(pod("plain", "b", true))), None);
        assert_eq!(
            (wanted.parting(), names(&wanted)),
            (vec!["plain".into(), "web".into()], vec!["meshfed-system".into()])
        );
        assert_eq!(wanted.pod(Event::Apply(pod("plain", "c", true))), Some("plain".to_owned()));
        assert_eq!(wanted.parting(), ["web"], "it is wanted again");
        // A list that does not name it says that it is gone.
        assert_eq!(wanted.pod(Event::Init), None);
        assert_eq!(names(&wanted), ["meshfed-system", "plain"]);
        assert_eq!(wanted.pod(Event::InitDone), None);
        assert_eq!(wanted.parting(), ["plain", "web"]);
        assert_eq!(wanted.ask(), None, "it was asked, or was wanted when it was first seen");
        let mut ends = namespace("plain", None);
        ends.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(wanted.namespace(&ends, Some(&config)), None);
        assert_eq!(wanted.parting(), ["web"]);
    }
    /// A namespace that is not wanted when it is first seen is asked once whether it has the anchors from a time when no agent
    /// ran, and gives them back if it has.
    ///
    /// Mutations seen to fail: `asked.insert` answered `true`; `is_wanted` not asked in `ask`; `has` that does nothing.
    #[test]
    fn a_namespace_is_asked_once_for_what_it_had_before() {
        let config: InjectConfig =
            serde_json::from_str(r#"{"releaseNamespace": "meshfed-system", "image": "x"}"#).unwrap();
        let mut wanted = Wanted::new("meshfed-system".to_owned());
        for (name, label) in [("a", None), ("b", None), ("c", None), ("web", Some("enabled"))] {
            wanted.namespace(&namespace(name, label), Some(&config));
        }
        wanted.pod(Event::Apply(pod("b", "p", true)));
        assert_eq!((wanted.ask(), wanted.ask(), wanted.ask()), (Some("a".into()), Some("c".into()), None));
        wanted.ask_again("c".to_owned());
        assert!(wanted.asks());
        wanted.has("a");
        assert_eq!(wanted.parting(), ["a"]);
        wanted.namespace(&namespace("a", Some("more")), Some(&config));
        assert_eq!((wanted.ask(), wanted.ask()), (Some("c".to_owned()), None), "what becomes of it since is seen");
    }
}
