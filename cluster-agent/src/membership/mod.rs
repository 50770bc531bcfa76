//! Edge. This cluster's membership on Kubernetes (`contracts-kubernetes.md` 5.1, 5.3).
//!
//! ```text
//! Membership (object) ─→ controller ─→ enroll ─→ E (directory) ⇄ keeper ⇄ Secret meshfed-identity
//!        ▲                   │                          └─ state/view ⇄ views ⇄ Secrets meshfed-view-0..7
//!        └── conditions ◀────┘ facts of the running agent
//! ```
//! `identity` (pure) says how a data directory lies in a Secret, `damage` (pure) what of it cannot be used, `why` (pure)
//! what to do about it and about a join that failed, `judge` (pure) what the object's status says and which of several
//! objects counts, `shelf` (pure) how a view lies in several Secrets; `keeper`, `views`, `token`, `controller` and `connect`
//! talk, and `elsewhere` to those who made a Membership in another namespace.

pub mod connect;
mod controller;
mod damage;
pub mod elsewhere;
mod identity;
mod judge;
mod keeper;
mod shelf;
mod token;
mod views;
mod why;

pub use controller::{Attended, Controller, Settings};
pub use damage::KeptCa;
pub use identity::OtherCa;
pub use judge::Facts;
pub use keeper::{Keeper, KeeperError};

/// The Secret of the member, made by the chart.
const IDENTITY_SECRET: &str = "meshfed-identity";
/// Who events are from.
const CONTROLLER: &str = "federation.meshfed.io/agent";
/// The field manager of what the agent writes.
pub const FIELD_MANAGER: &str = "meshfed-agent";
/// The annotation of a Membership by which whoever has put another token into the Secret says so, as the token's id: the agent
/// tries it at once, where it would else find it some seconds later.
pub const TOKEN_ID: &str = "federation.meshfed.io/token-id";
