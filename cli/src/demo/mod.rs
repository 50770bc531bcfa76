//! Edge. A small fleet on this machine: three clusters, their gateways and sidecars, and the sample application
//! **reactor** (a in west → b in east → c in south). Every part is a process of its own, of this same binary.

mod fleet;
mod processes;
mod steps;
mod tour;

use std::path::PathBuf;

use meshfed_runtime::listen::ListenFlag;

pub use steps::check;
pub use tour::tour;

/// What the command line chose.
pub struct Options {
    /// Where the files go; a temporary directory when none is named.
    pub dir: Option<PathBuf>,
    /// Where the sample application answers.
    pub listen: ListenFlag,
}
