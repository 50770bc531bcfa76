//! Pure. The objects that the API server holds, by the name that they belong to.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use meshfed_model::names::ServiceName;

use super::names::{IMPORT_NAME, MANAGED_BY, SERVICE_NAME, import_of};
use super::objects::{ServiceExport, ServiceImport};

/// The name that an object belongs to.
pub(super) trait Owned: Resource + Clone {
    /// `None`: to none.
    fn owner(&self) -> Option<ServiceName>;
}

fn named(object: &impl Resource, name: Option<&String>) -> Option<ServiceName> {
    ServiceName::new(object.meta().namespace.as_deref()?, name?).ok()
}

impl Owned for ServiceImport {
    fn owner(&self) -> Option<ServiceName> {
        named(self, self.metadata.name.as_ref())
    }
}
impl Owned for ServiceExport {
    fn owner(&self) -> Option<ServiceName> {
        named(self, self.metadata.name.as_ref())
    }
}
impl Owned for Service {
    fn owner(&self) -> Option<ServiceName> {
        let meta = &self.metadata;
        let word = |map: &Option<BTreeMap<String, String>>, key| map.as_ref().and_then(|m| m.get(key)).cloned();
        let (label, annotation) = (word(&meta.labels, MANAGED_BY), word(&meta.annotations, IMPORT_NAME));
        let object = (meta.namespace.as_deref()?, meta.name.as_deref()?);
        import_of(object, label.as_deref(), annotation.as_deref())
    }
}
impl Owned for EndpointSlice {
    fn owner(&self) -> Option<ServiceName> {
        named(self, self.metadata.labels.as_ref()?.get(SERVICE_NAME))
    }
}

type Key = (String, String);

fn key(object: &impl Resource) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// The objects of one kind, as a watch tells them.
#[derive(Debug)]
pub(super) struct Objects<K> {
    by_owner: BTreeMap<ServiceName, BTreeMap<String, K>>,
    owners: BTreeMap<Key, ServiceName>,
    /// What a list that has begun named so far.
    listed: Option<BTreeSet<Key>>,
    /// Objects that are being written, and whether the watch has told something of them meanwhile.
    writing: BTreeMap<Key, bool>,
    whole: bool,
}

impl<K> Default for Objects<K> {
    fn default() -> Self {
        Self {
            by_owner: BTreeMap::new(),
            owners: BTreeMap::new(),
            listed: None,
            writing: BTreeMap::new(),
            whole: false,
        }
    }
}

impl<K: Owned> Objects<K> {
    /// A list begins. Until it ends, nothing is taken for gone.
    pub(super) fn begin(&mut self) {
        self.listed = Some(BTreeSet::new());
    }
    /// A list has ended; gives the names of which objects are gone that it did not name.
    pub(super) fn end(&mut self) -> BTreeSet<ServiceName> {
        self.whole = true;
        let Some(listed) = self.listed.take() else { return BTreeSet::new() };
        let gone: Vec<Key> = self.owners.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        gone.iter().filter_map(|key| self.lose(key)).collect()
    }
    /// An object is there, or is another; gives the names that it belongs and belonged to.
    pub(super) fn put(&mut self, object: K) -> BTreeSet<ServiceName> {
        self.heard(&key(&object));
        self.hold(object)
    }
    fn hold(&mut self, object: K) -> BTreeSet<ServiceName> {
        let key = key(&object);
        if let Some(listed) = &mut self.listed {
            listed.insert(key.clone());
        }
        let owner = object.owner();
        let mut touched = BTreeSet::new();
        if self.owners.get(&key) != owner.as_ref() {
            touched.extend(self.forget(&key));
        }
        if let Some(owner) = owner {
            self.by_owner.entry(owner.clone()).or_default().insert(key.1.clone(), object);
            self.owners.insert(key, owner.clone());
            touched.insert(owner);
        }
        touched
    }
    /// An object is gone.
    pub(super) fn remove(&mut self, object: &K) -> Option<ServiceName> {
        self.lose(&key(object))
    }
    fn lose(&mut self, key: &Key) -> Option<ServiceName> {
        self.heard(key);
        self.forget(key)
    }
    fn heard(&mut self, key: &Key) {
        if let Some(heard) = self.writing.get_mut(key) {
            *heard = true;
        }
    }
    /// A write of an object begins.
    pub(super) fn writing(&mut self, owner: &ServiceName, name: &str) {
        self.writing.insert((owner.namespace.to_string(), name.to_owned()), false);
    }
    /// The write has ended, and has left this object, or none.
    ///
    /// Where the watch told something of the object since the write began, it is believed: what it said may be newer than
    /// the answer, and if it is not, the event of the write is to come. An answer that was held over a deletion that came
    /// after it would stay for ever.
    pub(super) fn written(&mut self, owner: &ServiceName, name: &str, left: Option<K>) {
        let key = (owner.namespace.to_string(), name.to_owned());
        if self.writing.remove(&key) != Some(false) {
            return;
        }
        match left {
            Some(object) => drop(self.hold(object)),
            None => drop(self.forget(&key)),
        }
    }
    /// The write has ended and left what was there.
    pub(super) fn unwritten(&mut self, owner: &ServiceName, name: &str) {
        self.writing.remove(&(owner.namespace.to_string(), name.to_owned()));
    }
    fn forget(&mut self, key: &Key) -> Option<ServiceName> {
        let owner = self.owners.remove(key)?;
        if let Some(objects) = self.by_owner.get_mut(&owner) {
            objects.remove(&key.1);
            if objects.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
        Some(owner)
    }

    /// Whether all was listed once.
    pub(super) const fn is_whole(&self) -> bool {
        self.whole
    }
    /// The names that objects belong to.
    pub(super) fn owners(&self) -> impl Iterator<Item = &ServiceName> {
        self.by_owner.keys()
    }
    /// The objects of one name, by their own names.
    pub(super) fn of(&self, owner: &ServiceName) -> BTreeMap<String, K> {
        self.by_owner.get(owner).cloned().unwrap_or_default()
    }
    /// One object of a name.
    pub(super) fn one(&self, owner: &ServiceName, name: &str) -> Option<&K> {
        self.by_owner.get(owner)?.get(name)
    }
    /// All objects with the name that they belong to.
    pub(super) fn all(&self) -> impl Iterator<Item = (&ServiceName, &K)> {
        self.by_owner.iter().flat_map(|(owner, objects)| objects.values().map(move |object| (owner, object)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(name: &str, owner: &str) -> EndpointSlice {
        let mut slice = EndpointSlice::default();
        slice.metadata.namespace = Some("shop".to_owned());
        slice.metadata.name = Some(name.to_owned());
        slice.metadata.labels = Some([(SERVICE_NAME.to_owned(), owner.to_owned())].into());
        slice
    }
    fn names(names: &[&str]) -> BTreeSet<ServiceName> {
        names.iter().map(|name| ServiceName::new("shop", *name).unwrap()).collect()
    }

    /// A watch that is begun anew takes nothing away that it names, and nothing at all before its list has ended.
    ///
    /// Mutations seen to fail: `end` that forgets nothing; `begin` that clears; `forget` left out of `put`.
    #[test]
    fn a_new_list_takes_away_only_what_it_does_not_name() {
        let mut objects = Objects::default();
        assert_eq!(objects.put(slice("x", "a")), names(&["a"]));
        assert_eq!(objects.put(slice("y", "b")), names(&["b"]));
        assert!(!objects.is_whole());
        objects.begin();
        assert_eq!(objects.owners().count(), 2, "a list that has begun takes nothing away");
        assert_eq!(objects.put(slice("y", "b")), names(&["b"]));
        assert_eq!(objects.end(), names(&["a"]));
        assert_eq!(objects.owners().cloned().collect::<BTreeSet<_>>(), names(&["b"]));
        assert!(objects.is_whole());
        assert_eq!(objects.put(slice("y", "c")), names(&["b", "c"]), "it belongs to another name now");
        assert_eq!(objects.of(&ServiceName::new("shop", "b").unwrap()).len(), 0);
        assert_eq!(objects.remove(&slice("y", "c")), Some(ServiceName::new("shop", "c").unwrap()));
        assert_eq!(objects.owners().count(), 0);
    }

    /// The answer to a write is taken up at once, unless the watch has told of the object since the write began.
    ///
    /// Mutations seen to fail: `heard` that does nothing; `written` that never holds; `writing` not emptied by `written`.
    #[test]
    fn a_watch_is_believed_before_the_answer_to_a_write() {
        let owner = ServiceName::new("shop", "a").unwrap();
        let mut objects = Objects::default();
        objects.writing(&owner, "x");
        objects.written(&owner, "x", Some(slice("x", "a")));
        assert!(objects.one(&owner, "x").is_some(), "the watch has not told of it yet");
        objects.writing(&owner, "x");
        let _touched = objects.remove(&slice("x", "a"));
        objects.written(&owner, "x", Some(slice("x", "a")));
        assert!(objects.one(&owner, "x").is_none(), "somebody deleted it while the answer was under way");
        objects.writing(&owner, "x");
        let _touched = objects.put(slice("x", "a"));
        objects.written(&owner, "x", None);
        assert!(objects.one(&owner, "x").is_some(), "somebody made it again while the answer was under way");
        objects.writing(&owner, "x");
        objects.written(&owner, "x", None);
        assert!(objects.one(&owner, "x").is_none());
        objects.writing(&owner, "y");
        objects.unwritten(&owner, "y");
        assert!(objects.writing.is_empty());
    }
}
