//! Pure. Which object stands: the last good one of the first path that declares it (`contracts.md` 1.6).
//!
//! A file that does not parse keeps what it gave before, an invalid object keeps its own last good version, and the
//! rest applies. One call to [`LastGood::apply`] is one scan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_model::sorted::{SortedMap, SortedSet};

use crate::bounds::Bounds;
use crate::error::{Code, ObjectError};
use crate::intern::Interner;
use crate::object::{Object, ObjectKey, Scope};
use crate::read::{Declared, FileObjects, read_file, read_object};

/// What happened to one file.
#[derive(Debug, Clone)]
pub enum FileChange {
    /// It is there, with this content.
    Content {
        /// Its path below PATH, with `/` between.
        path: Arc<str>,
        /// What it holds.
        bytes: Vec<u8>,
    },
    /// It is one object, as an API server gave it.
    Object {
        /// `Kind/namespace/name`.
        path: Arc<str>,
        /// The object.
        object: serde_json::Value,
    },
    /// It is there, but cannot be read: its objects stay.
    Unreadable {
        /// Its path.
        path: Arc<str>,
        /// Why.
        error: ObjectError,
    },
    /// It is gone.
    Removed {
        /// Its path.
        path: Arc<str>,
    },
}

/// One change of the standing objects.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The object is new or another one. Where only its place in the file changed, `body` is equal to the earlier one.
    Put(Arc<Object>),
    /// It is gone.
    Removed(ObjectKey),
}

/// The changes of one scan, in the order of their keys.
pub type Changes = Vec<Change>;

#[derive(Debug, Default)]
struct FileState {
    declared: SortedMap<ObjectKey, Declared>,
    errors: Vec<ObjectError>,
}

/// The standing objects of a source.
#[derive(Debug)]
pub struct LastGood {
    scope: Scope,
    bounds: Option<Bounds>,
    files: BTreeMap<Arc<str>, FileState>,
    faulty: BTreeSet<Arc<str>>,
    standing: BTreeMap<ObjectKey, Arc<Object>>,
    declared_in: BTreeMap<ObjectKey, SortedSet<Arc<str>>>,
    contested: BTreeSet<ObjectKey>,
    walk_errors: Vec<ObjectError>,
    interner: Interner,
}

impl LastGood {
    /// Nothing stands yet. Without `bounds`, addresses and localities are not judged.
    #[must_use]
    pub fn new(scope: Scope, bounds: Option<Bounds>) -> Self {
        Self {
            scope,
            bounds,
            files: BTreeMap::new(),
            faulty: BTreeSet::new(),
            standing: BTreeMap::new(),
            declared_in: BTreeMap::new(),
            contested: BTreeSet::new(),
            walk_errors: Vec::new(),
            interner: Interner::default(),
        }
    }

    /// Takes up what a file gave before a restart. To be called before the first [`Self::apply`], whose scan then
    /// replaces or removes it. Objects that the token no longer allows are left out.
    pub fn restore(&mut self, path: &Arc<str>, objects: Vec<Object>) {
        let mut declared = BTreeMap::new();
        for mut object in objects {
            self.interner.object(&mut object);
            // Told when the object is read again.
            let _warning = self.bounds.as_ref().and_then(|b| b.disown(&mut object));
            if self.bounds.as_ref().is_some_and(|b| !b.check(&object).is_empty()) {
                continue;
            }
            let key = object.key();
            let place = object.origin.place;
            let object = Arc::new(object);
            self.standing.entry(key.clone()).or_insert_with(|| Arc::clone(&object));
            self.declared_in.entry(key.clone()).or_default().insert(Arc::clone(path));
            declared.insert(key, Declared { place, object: Some(object) });
        }
        self.files.entry(Arc::clone(path)).or_default().declared = declared.into();
    }

    /// Takes the changes of one scan. The result is empty when no object changed; errors may have.
    pub fn apply(&mut self, files: Vec<FileChange>) -> Changes {
        let mut touched = BTreeSet::new();
        for change in files {
            self.take(change, &mut touched);
        }
        touched.into_iter().filter_map(|key| self.settle(key)).collect()
    }

    /// The faults of the walk itself, say a PATH that is not there. Objects stay.
    pub fn set_walk_errors(&mut self, errors: Vec<ObjectError>) {
        self.walk_errors = errors;
    }

    /// The faults of the walk itself, as they were set.
    #[must_use]
    pub fn walk_errors(&self) -> &[ObjectError] {
        &self.walk_errors
    }

    /// The paths of all files that gave something or have a fault.
    pub fn files(&self) -> impl Iterator<Item = &Arc<str>> {
        self.files.keys()
    }

    /// How many objects stand.
    #[must_use]
    pub fn len(&self) -> usize {
        self.standing.len()
    }

    /// Whether nothing stands.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.standing.is_empty()
    }

    /// All standing objects, by key.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.standing.values()
    }

    /// What a file gives, to be kept over a restart: its own objects, and the last good version of those of its
    /// objects that are invalid now. `None`: there is no such file.
    #[must_use]
    pub fn given_by(&self, path: &str) -> Option<Vec<Arc<Object>>> {
        let state = self.files.get(path)?;
        let given = state.declared.iter().filter_map(|(key, declared)| match &declared.object {
            Some(object) => Some(Arc::clone(object)),
            None => self.standing.get(key).map(Arc::clone),
        });
        Some(given.collect())
    }

    /// All faults, by file and place; those of the walk first.
    #[must_use]
    pub fn errors(&self) -> Vec<ObjectError> {
        let mut errors = self.walk_errors.clone();
        for path in &self.faulty {
            errors.extend(self.files.get(path).into_iter().flat_map(|f| f.errors.iter().cloned()));
        }
        for key in &self.contested {
            errors.extend(self.contest(key));
        }
        errors.sort_by(|a, b| (&a.file, a.line, a.column, a.code).cmp(&(&b.file, b.line, b.column, b.code)));
        errors
    }

    /// The errors of all files that declare an object which an earlier path declares, too.
    fn contest(&self, key: &ObjectKey) -> Vec<ObjectError> {
        let Some(paths) = self.declared_in.get(key) else { return Vec::new() };
        let mut paths = paths.iter();
        let Some(winner) = paths.next() else { return Vec::new() };
        let place = |path: &Arc<str>| self.files.get(path).and_then(|f| f.declared.get(key)).map(|d| d.place);
        let Some(first) = place(winner) else { return Vec::new() };
        let error = |path: &Arc<str>| {
            let place = place(path)?;
            let message = format!("is in {path} and in {winner}:{}, which wins by its path", first.line);
            let error = ObjectError::new(Code::Duplicate, message).in_file(path).at(place).about(key);
            Some(error.remedy("leave one of them"))
        };
        paths.filter_map(error).collect()
    }

    fn take(&mut self, change: FileChange, touched: &mut BTreeSet<ObjectKey>) {
        match change {
            FileChange::Removed { path } => {
                if let Some(state) = self.files.remove(&path) {
                    self.redeclare(&path, &state.declared, &SortedMap::default(), touched);
                }
                self.faulty.remove(&path);
            }
            FileChange::Unreadable { path, error } => self.keep(path, error),
            FileChange::Content { path, bytes } => match read_file(&path, &bytes, self.scope, self.bounds.as_ref()) {
                Err(error) => self.keep(path, *error),
                Ok(found) => self.replace(path, found, touched),
            },
            FileChange::Object { path, object } => match read_object(&path, object, self.scope, self.bounds.as_ref()) {
                Err(error) => self.keep(path, *error),
                Ok(found) => self.replace(path, found, touched),
            },
        }
    }

    fn replace(&mut self, path: Arc<str>, mut found: FileObjects, touched: &mut BTreeSet<ObjectKey>) {
        for object in found.declared.values_mut().filter_map(|d| d.object.as_mut()) {
            // Just read: nobody else has it yet.
            if let Some(object) = Arc::get_mut(object) {
                self.interner.object(object);
            }
        }
        let before = self.files.remove(&path).unwrap_or_default();
        if found.nameless {
            // One of the nameless may be any of those that are not named now.
            for (key, declared) in before.declared.iter() {
                found.declared.entry(key.clone()).or_insert_with(|| declared.clone());
            }
        }
        let declared = SortedMap::from(found.declared);
        self.redeclare(&path, &before.declared, &declared, touched);
        self.mark_faulty(&path, &found.errors);
        self.files.insert(path, FileState { declared, errors: found.errors });
    }

    fn keep(&mut self, path: Arc<str>, error: ObjectError) {
        let errors = vec![error];
        self.mark_faulty(&path, &errors);
        self.files.entry(path).or_default().errors = errors;
    }

    fn mark_faulty(&mut self, path: &Arc<str>, errors: &[ObjectError]) {
        if errors.is_empty() {
            self.faulty.remove(path);
        } else {
            self.faulty.insert(Arc::clone(path));
        }
    }

    fn redeclare(
        &mut self,
        path: &Arc<str>,
        before: &SortedMap<ObjectKey, Declared>,
        after: &SortedMap<ObjectKey, Declared>,
        touched: &mut BTreeSet<ObjectKey>,
    ) {
        for (key, _) in before.iter().filter(|(key, _)| after.get(key).is_none()) {
            if let Some(paths) = self.declared_in.get_mut(key) {
                paths.remove(path);
                if paths.is_empty() {
                    self.declared_in.remove(key);
                }
            }
            touched.insert(key.clone());
        }
        for (key, declared) in after.iter() {
            let same = before.get(key).is_some_and(|b| b.object.is_some() && b.object == declared.object);
            if !same {
                self.declared_in.entry(key.clone()).or_default().insert(Arc::clone(path));
                touched.insert(key.clone());
            }
        }
    }

    /// Decides what stands for a key.
    fn settle(&mut self, key: ObjectKey) -> Option<Change> {
        let paths = self.declared_in.get(&key);
        if paths.is_some_and(|p| p.len() > 1) {
            self.contested.insert(key.clone());
        } else {
            self.contested.remove(&key);
        }
        let Some(winner) = paths.and_then(|p| p.first()) else {
            return self.standing.remove(&key).map(|_gone| Change::Removed(key));
        };
        // An invalid object leaves its last good version where it is.
        let object = self.files.get(winner)?.declared.get(&key)?.object.as_ref()?;
        if self.standing.get(&key).is_some_and(|s| s == object) {
            return None;
        }
        let object = Arc::clone(object);
        self.standing.insert(key, Arc::clone(&object));
        Some(Change::Put(object))
    }
}

#[cfg(test)]
mod tests;
