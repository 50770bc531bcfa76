//! Pure. Finds things by a label pair of their namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_crds::Labels;
use meshfed_model::names::Namespace;

type Pairs<T> = BTreeMap<Arc<str>, BTreeMap<Arc<str>, BTreeSet<T>>>;

/// What has each label pair, by namespace, key and value.
#[derive(Debug)]
pub(super) struct PairIndex<T>(BTreeMap<Namespace, Pairs<T>>);

impl<T> Default for PairIndex<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord + Clone> PairIndex<T> {
    pub(super) fn insert(&mut self, namespace: &Namespace, key: &Arc<str>, value: &Arc<str>, item: &T) {
        let pairs = self.0.entry(namespace.clone()).or_default();
        pairs.entry(Arc::clone(key)).or_default().entry(Arc::clone(value)).or_default().insert(item.clone());
    }

    pub(super) fn remove(&mut self, namespace: &Namespace, key: &str, value: &str, item: &T) {
        let Some(pairs) = self.0.get_mut(namespace) else { return };
        let Some(values) = pairs.get_mut(key) else { return };
        let Some(items) = values.get_mut(value) else { return };
        items.remove(item);
        if items.is_empty() {
            values.remove(value);
            if values.is_empty() {
                pairs.remove(key);
                if pairs.is_empty() {
                    self.0.remove(namespace);
                }
            }
        }
    }

    pub(super) fn with(&self, namespace: &Namespace, key: &str, value: &str) -> Option<&BTreeSet<T>> {
        self.0.get(namespace)?.get(key)?.get(value)
    }

    /// What has the rarest pair of `labels`: everything that has all of them is among it.
    pub(super) fn with_rarest(&self, namespace: &Namespace, labels: &Labels) -> Option<&BTreeSet<T>> {
        let mut rarest: Option<&BTreeSet<T>> = None;
        for (key, value) in labels.iter() {
            let items = self.with(namespace, key, value)?;
            if rarest.is_none_or(|r| items.len() < r.len()) {
                rarest = Some(items);
            }
        }
        rarest
    }
}
