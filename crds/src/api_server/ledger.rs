//! Pure. Which objects there are, and whose status is to be looked at next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kube::api::DynamicObject;
use kube::runtime::watcher::Event;

use super::reduce::is_read;

/// An object among those that are watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// The number of its kind.
    pub(super) kind: usize,
    /// Its namespace, if its kind has any.
    pub(super) namespace: Option<String>,
    /// Its name.
    pub(super) name: String,
}

impl Key {
    fn of(kind: usize, object: &DynamicObject) -> Self {
        let name = object.metadata.name.clone().unwrap_or_default();
        Self { kind, namespace: object.metadata.namespace.clone(), name }
    }
}

/// Objects by key, and those that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    objects: BTreeMap<Key, DynamicObject>,
    /// Names of lists that are being read, by kind.
    listed: BTreeMap<usize, BTreeSet<Key>>,
    waiting: VecDeque<Key>,
    waits: BTreeSet<Key>,
    /// Those whose write is on its way; true: look at it again afterwards.
    writing: BTreeMap<Key, bool>,
}

impl Ledger {
    /// Takes an event of a kind.
    pub(super) fn take(&mut self, kind: usize, event: Event<DynamicObject>) {
        match event {
            Event::Init => {
                self.listed.insert(kind, BTreeSet::new());
            }
            Event::InitApply(object) => {
                let key = Key::of(kind, &object);
                self.listed.entry(kind).or_default().insert(key.clone());
                // A list is what there is, also where the server has gone back.
                if !self.writing.contains_key(&key) {
                    self.objects.remove(&key);
                }
                self.put(kind, object);
            }
            Event::InitDone => {
                // Only a whole list says that something is gone.
                let listed = self.listed.remove(&kind).unwrap_or_default();
                self.objects.retain(|key, _| key.kind != kind || listed.contains(key));
            }
            Event::Apply(object) => self.put(kind, object),
            Event::Delete(object) => {
                self.objects.remove(&Key::of(kind, &object));
            }
        }
    }

    fn put(&mut self, kind: usize, mut object: DynamicObject) {
        // Nobody reads who wrote what, and it is most of an object; nor what tools of others have noted.
        object.metadata.managed_fields = None;
        object.metadata.annotations.iter_mut().for_each(|all| all.retain(|key, _| is_read(key)));
        let key = Key::of(kind, &object);
        // The watch may be behind what a write was answered: judged by what stood before, it would be written once more.
        if self.objects.get(&key).is_none_or(|known| !is_newer(known, &object)) {
            self.objects.insert(key.clone(), object);
            self.wait(key);
        }
    }

    fn wait(&mut self, key: Key) {
        if let Some(again) = self.writing.get_mut(&key) {
            *again = true;
        } else if self.waits.insert(key.clone()) {
            self.waiting.push_back(key);
        }
    }

    /// All are to be looked at once more.
    pub(super) fn all_again(&mut self) {
        let all: Vec<Key> = self.objects.keys().cloned().collect();
        all.into_iter().for_each(|key| self.wait(key));
    }

    /// Whether something waits.
    pub(super) fn has_next(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next one that waits and is still there.
    pub(super) fn next(&mut self) -> Option<(Key, &DynamicObject)> {
        loop {
            let key = self.waiting.pop_front()?;
            self.waits.remove(&key);
            if self.objects.contains_key(&key) {
                let object = self.objects.get(&key)?;
                return Some((key, object));
            }
        }
    }

    /// Its status is on its way.
    pub(super) fn writing(&mut self, key: &Key) {
        self.writing.insert(key.clone(), false);
    }

    /// Its status was written: what the API server answered stands unless the watch was faster.
    pub(super) fn written(&mut self, key: &Key, object: Option<DynamicObject>) {
        let again = self.writing.remove(key).unwrap_or_default();
        if let (Some(known), Some(mut object)) = (self.objects.get_mut(key), object)
            && !is_newer(known, &object)
        {
            object.metadata.managed_fields = None;
            *known = object;
        }
        if again {
            self.wait(key.clone());
        }
    }

    /// Its status was not written.
    pub(super) fn failed(&mut self, key: &Key) {
        self.writing.remove(key);
        self.wait(key.clone());
    }
}

/// Whether one state of an object is later than the other. Versions of one object are whole numbers that grow (KEP-5504).
fn is_newer(one: &DynamicObject, other: &DynamicObject) -> bool {
    let version = |object: &DynamicObject| object.metadata.resource_version.as_deref()?.parse::<u128>().ok();
    one.metadata.uid == other.metadata.uid && version(one).zip(version(other)).is_some_and(|(one, other)| one > other)
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;

    use super::*;

    fn named(name: &str) -> DynamicObject {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        DynamicObject { types: None, metadata, data: serde_json::Value::Null }
    }
    fn next(ledger: &mut Ledger) -> Option<String> {
        ledger.next().map(|(key, _)| key.name)
    }

    /// Each waits once, in the order in which it came; a list that breaks off takes nothing away; what changes during its
    /// write is looked at again, and what failed, too.
    ///
    /// Mutations seen to fail: `InitDone` that keeps all; `waits` not asked; `again` not set in `wait`.
    #[test]
    fn each_object_has_its_turn() {
        let mut ledger = Ledger::default();
        ledger.take(0, Event::Apply(named("b")));
        ledger.take(0, Event::Apply(named("a")));
        ledger.take(0, Event::Apply(named("b")));
        assert_eq!(
            (next(&mut ledger), next(&mut ledger), next(&mut ledger)),
            (Some("b".into()), Some("a".into()), None)
        );
        ledger.take(0, Event::Init);
        ledger.take(0, Event::Init);
        ledger.take(0, Event::InitApply(named("c")));
        ledger.all_again();
        assert_eq!((next(&mut ledger), next(&mut ledger)), (Some("c".into()), Some("a".into())));
        ledger.take(0, Event::InitDone);
        ledger.all_again();
        let (key, _) = ledger.next().unwrap();
        assert_eq!((key.name.as_str(), ledger.has_next()), ("c", false));
        ledger.writing(&key);
        ledger.take(0, Event::Apply(named("c")));
        assert!(!ledger.has_next(), "one write of an object at a time");
        ledger.written(&key, Some(named("c")));
        let (key, _) = ledger.next().unwrap();
        ledger.writing(&key);
        ledger.failed(&key);
        assert_eq!(next(&mut ledger), Some("c".into()));
        ledger.all_again();
        ledger.take(0, Event::Delete(named("c")));
        assert_eq!(next(&mut ledger), None);
    }

    /// What a write was answered is what the next look begins with, whatever came while it was on its way, and a watch that
    /// is behind does not take it back; a list does.
    ///
    /// Mutations seen to fail: `written` that drops the answer where it is to look again; `is_newer` false.
    #[test]
    fn a_watch_that_is_behind_takes_nothing_back() {
        let at = |version: &str| {
            let mut object = named("a");
            object.metadata.resource_version = Some(version.to_owned());
            object
        };
        let version = |ledger: &mut Ledger| {
            let (_, object) = ledger.next()?;
            object.metadata.resource_version.clone()
        };
        let mut ledger = Ledger::default();
        ledger.take(0, Event::Apply(at("9")));
        let (key, _) = ledger.next().unwrap();
        ledger.writing(&key);
        ledger.all_again();
        ledger.written(&key, Some(at("11")));
        assert_eq!(version(&mut ledger).as_deref(), Some("11"));
        ledger.take(0, Event::Apply(at("9")));
        assert_eq!(version(&mut ledger), None, "nothing new");
        ledger.take(0, Event::Apply(at("12")));
        assert_eq!(version(&mut ledger).as_deref(), Some("12"));
        ledger.take(0, Event::Init);
        ledger.take(0, Event::InitApply(at("3")));
        assert_eq!(version(&mut ledger).as_deref(), Some("3"));
    }
}
