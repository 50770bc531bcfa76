//! Edge. A cluster on Kubernetes leaves its fleet: the hub is told while the agent still serves, and then the cluster shows
//! nothing of the fleet any more.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use super::chain;
use crate::downlink;
use crate::membership::Controller;

/// Time for one attempt.
const LEAVE: Duration = Duration::from_secs(10);
/// The pause between two of them.
const AGAIN: Duration = Duration::from_secs(5);

/// Leaves the fleet while the agent still serves. A federator that is away is waited for: the cluster is a member until it
/// knows. It is waited for no longer once a Membership asks to join: who joins anew does not come back to it.
pub(super) async fn leave(member: &Path, controller: &mut Controller) {
    let (tell, why) = watch::channel(None);
    let told = async {
        while let Err(error) = downlink::leave::leave(member, LEAVE).await {
            let why = chain(&error);
            tracing::warn!(error = why, "this cluster has not left yet; it is tried again");
            tell.send_replace(Some(why));
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! {
        () = told => {}
        why = controller.overtaken(why) => tracing::warn!(
            error = why,
            "this cluster joins by another Membership, and its former hub was not told that it left: there it stays \
             disconnected until it is evicted"
        ),
    }
}

/// What was begun is let end for a while when the agent is told to end: half a leave is one that the next agent goes on with,
/// and there may be none.
pub(super) async fn within<T>(
    work: impl Future<Output = T>,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> Option<T> {
    let patience = async {
        stop.await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = patience => None,
    }
}
