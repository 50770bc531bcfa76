//! Edge. A cluster leaves its fleet by its own wish (`contracts.md` 1.4): nothing is sent to it any more, what was sent
//! is let end, and then it is no member.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meshfed_api::proto::federation as wire;
use meshfed_api::proto::federation::enrollment_client::EnrollmentClient;
use meshfed_ca::pem;
use meshfed_runtime::files::{self, FileError};
use meshfed_runtime::tls::{IdentityStore, InvalidAnchor, TrustStore};
use meshfed_runtime::{clock, telemetry};

use super::bundles::CLI;
use super::renew::{self, RenewError};
use super::session::{LinkConfig, dial};
use crate::enroll::{AgentFile, AgentFileError};
use crate::lease::Role;

/// The largest bundle that is read, in bytes.
const BUNDLE_MAX: usize = 256 << 10;
/// How long requests that are on their way are let end. Other clusters hear of the drain within milliseconds, and longer
/// exchanges are the gateway's to drain.
const DRAIN: Duration = Duration::from_secs(5);
/// The pause between two attempts to reach a federator.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a cluster has not left.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    /// There is no member here.
    #[error(transparent)]
    NoMember(#[from] AgentFileError),
    /// A file of the member.
    #[error("the data directory cannot be used")]
    File(#[from] FileError),
    /// Its identity.
    #[error("the agent's identity cannot be used")]
    Identity(#[from] RenewError),
    /// The fleet's bundle.
    #[error("{0} cannot be used: {1}; bring it back from a backup, or have the cluster evicted at the hub")]
    Bundle(String, String),
    /// No federator in time.
    #[error("no federator was reached within {0:?}: {1}; the cluster is a member still: try again")]
    Unreachable(Duration, String),
    /// It refused.
    #[error("the federator refused: {0}")]
    Refused(String),
}

/// Leaves; again it changes nothing. `timeout` is for all of it.
///
/// # Errors
/// [`LeaveError`]; what was done stays done, and a repetition goes on from there.
pub async fn leave(data_dir: &Path, timeout: Duration) -> Result<AgentFile, LeaveError> {
    let file = AgentFile::read(data_dir)?;
    let config = LinkConfig {
        data_dir: data_dir.to_owned(),
        identity: Arc::new(IdentityStore::new(renew::load(data_dir)?)),
        trust: Arc::new(fleet_trust(data_dir, &file)?),
        replica: 0,
        instance: String::new(),
        role: tokio::sync::watch::channel(Role::Alone).1,
        latest: tokio::sync::watch::Sender::default(),
        cli: CLI.to_owned(),
        file: file.clone(),
    };
    let deadline = clock::instant() + timeout;
    let mut client = reach(&config, timeout, deadline).await?;
    let refused = |status: tonic::Status| LeaveError::Refused(status.message().to_owned());
    client.leave(wire::LeaveRequest { drain: true }).await.map_err(refused)?;
    // Half of a short timeout is left for the second step.
    tokio::time::sleep(DRAIN.min(timeout / 2)).await;
    client.leave(wire::LeaveRequest { drain: false }).await.map_err(refused)?;
    Ok(file)
}

async fn reach(
    config: &LinkConfig,
    timeout: Duration,
    deadline: std::time::Instant,
) -> Result<EnrollmentClient<tonic::transport::Channel>, LeaveError> {
    let mut last = String::new();
    for first in 0.. {
        match tokio::time::timeout_at(deadline.into(), dial(config.clone(), first)).await {
            Ok(Ok(channel)) => return Ok(EnrollmentClient::new(channel)),
            Ok(Err(undialled)) => last = undialled.reasons,
            Err(_elapsed) => break,
        }
        if clock::instant() + PAUSE >= deadline {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(LeaveError::Unreachable(timeout, last))
}

/// The fleet's own anchor, which alone says who is a federator.
fn fleet_trust(data_dir: &Path, file: &AgentFile) -> Result<TrustStore, LeaveError> {
    let path = data_dir.join(format!("bundles/{}.pem", file.fleet));
    let text = files::read_text(&path, BUNDLE_MAX)?;
    let wrong = |why: String| LeaveError::Bundle(path.display().to_string(), why);
    let anchors = pem::certificates(&text).map_err(|error| wrong(telemetry::chain(&error)))?;
    TrustStore::with([(file.fleet.clone(), anchors)].into())
        .map_err(|error: InvalidAnchor| wrong(telemetry::chain(&error)))
}
