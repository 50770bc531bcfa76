//! Pure. A named place for the current version of one resource.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

/// The current version of a named resource, or nothing while it is not known. Readers never wait.
pub struct Cell<T> {
    name: Arc<str>,
    current: ArcSwapOption<T>,
}

impl<T> Cell<T> {
    /// An empty cell.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), current: ArcSwapOption::empty() }
    }
    /// The resource's xDS name.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }
    /// The current version for a short use: cheap, touches no counter that cores share. Do not hold it across `await`.
    #[must_use]
    pub fn load(&self) -> Guard<Option<Arc<T>>> {
        self.current.load()
    }
    /// The current version to keep.
    #[must_use]
    pub fn get(&self) -> Option<Arc<T>> {
        self.current.load_full()
    }
    /// Replaces the current version; `None` when the resource is gone.
    pub fn set(&self, value: Option<Arc<T>>) {
        self.current.store(value);
    }
}

impl<T> fmt::Debug for Cell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cell").field("name", &self.name).field("known", &self.current.load().is_some()).finish()
    }
}
