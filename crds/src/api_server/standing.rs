//! Pure. The objects of one kind as a watch tells them: only a whole list says that something is gone.

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt as _};

/// Objects by name: of a kind without namespaces, or of one namespace.
#[derive(Debug)]
pub struct Standing<K> {
    objects: BTreeMap<String, K>,
    /// A list that is being read.
    listed: Option<BTreeMap<String, K>>,
    whole: bool,
}

impl<K> Default for Standing<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listed: None, whole: false }
    }
}

impl<K: Resource> Standing<K> {
    /// Takes an event; whether what stands may be another now.
    pub fn take(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Init => {
                self.listed = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                self.listed.get_or_insert_default().insert(object.name_any(), object);
                false
            }
            Event::InitDone => {
                self.objects = self.listed.take().unwrap_or_default();
                self.whole = true;
                true
            }
            Event::Apply(object) => {
                self.put(object);
                true
            }
            Event::Delete(object) => self.objects.remove(&object.name_any()).is_some(),
        }
    }
    /// What a write has answered: the watch tells the same a little later.
    pub fn put(&mut self, object: K) {
        self.objects.insert(object.name_any(), object);
    }
    /// Whether a list has been complete once: before, a name that is missing says nothing.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.whole
    }
    /// One of them.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&K> {
        self.objects.get(name)
    }
    /// All, by name.
    pub fn values(&self) -> impl Iterator<Item = &K> {
        self.objects.values()
    }
    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.objects.keys()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Namespace;
    use kube::api::ObjectMeta;

    use super::*;

    fn named(name: &str) -> Namespace {
        Namespace {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            ..Namespace::default()
        }
    }

    /// A list that breaks off takes nothing away, and one that is whole takes away what it does not name.
    ///
    /// Mutation seen to fail: `Init` that empties what stands.
    #[test]
    fn only_a_whole_list_says_that_something_is_gone() {
        let mut standing = Standing::default();
        let names = |s: &Standing<Namespace>| s.names().cloned().collect::<Vec<_>>();
        assert!(standing.take(Event::Apply(named("a"))) && !standing.is_whole());
        assert!(!standing.take(Event::Init) && !standing.take(Event::InitApply(named("b"))));
        assert_eq!(names(&standing), ["a"]);
        // It broke off, and begins again.
        assert!(!standing.take(Event::Init) && !standing.take(Event::InitApply(named("c"))));
        assert!(standing.take(Event::InitDone) && standing.is_whole());
        assert_eq!(names(&standing), ["c"]);
        assert!(standing.take(Event::Delete(named("c"))) && !standing.take(Event::Delete(named("c"))));
        assert_eq!(names(&standing), Vec::<String>::new());
    }
}
