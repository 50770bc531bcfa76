//! Edge. DNS of the clusterset's services (KEP-1645, the multi-cluster DNS specification).

mod server;
mod zone;

pub use server::serve;
pub use zone::{Named, zone};
